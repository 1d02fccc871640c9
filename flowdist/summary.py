"""What a plan amounts to over a grid: the counts, and what one would want to know before it runs.

Everything is computed from a plan and its layout; checks that need the stages, the store or the
scheduler are preflight's.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flowdist.machine import cores_available, memory_available
from flowdist.resources import format_memory

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Group

    from flowdist.cost import Estimate
    from flowdist.layout import Ints, Layout
    from flowdist.plan import Plan

__all__ = ["PlanSummary", "counted", "summarize"]

# A Python process that has imported numpy, pandas and pyarrow holds about half of this before it
# reads any data.
LEAST_WORKER_MEMORY = 256 * 1024**2

# What SLURM keeps at one time by default (MaxJobCount).
MANY_JOBS = 10_000

# Wide enough for the sentences, narrow enough for a log.
TEXT_WIDTH = 100


@dataclass(frozen=True, repr=False, eq=False)
class PlanSummary:
    """A plan over a grid, in numbers; prints as a table in a terminal, a notebook and a log.

    >>> import pyarrow as pa
    >>> from flowdist.layout import make_layout
    >>> from flowdist.plan import local
    >>> grid = pa.table({"subject": ["s01", "s02", "s03"] * 8})
    >>> plan = local(by="subject", target_jobs=1, workers=2)
    >>> summary = summarize(plan, make_layout(plan, grid, workers=2), stages=["fit"], cores=2)
    >>> summary.rows, summary.groups, summary.chunks, summary.jobs, summary.largest_job
    (24, 3, 3, 1, 24)
    >>> summary.warnings
    []
    """

    plan: Plan
    layout: Layout
    stages: list[str]
    workers: int
    """How many workers each job has."""
    cores_used: int
    """Cores kept busy while the fullest jobs run."""
    cores_asked: int
    """Cores that the plan's workers are given in the same time."""
    cores: int | None
    """Cores of this machine, where the jobs run on it."""
    phases: list[tuple[list[str], Plan]] = field(default_factory=list)
    """Stages that run in jobs of their own, in order, with the plan of those; empty where all
    stages share their jobs."""
    warnings: list[str] = field(default_factory=list)
    """Sentences that each say what is wrong and what to do about it."""

    @property
    def rows(self) -> int:
        """How many rows the grid has."""
        return self.layout.rows

    @property
    def groups(self) -> int:
        """How many groups; one where the plan has no ``by``."""
        return self.layout.groups

    @property
    def chunks(self) -> int:
        """How many chunks."""
        return self.layout.chunks

    @property
    def jobs(self) -> int:
        """How many jobs."""
        return self.layout.jobs

    @property
    def smallest_job(self) -> int:
        """Rows in the smallest job; 0 where there is none."""
        return int(self.layout.job_rows.min()) if self.jobs else 0

    @property
    def largest_job(self) -> int:
        """Rows in the largest job; 0 where there is none."""
        return int(self.layout.job_rows.max()) if self.jobs else 0

    @property
    def estimate(self) -> Estimate | None:
        """What the jobs are likely to take, where compute is paid for."""
        return self.plan.estimate(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything that is printed, and the plan, as a dict that JSON holds."""
        estimate = self.estimate
        return {
            "plan": self.plan.to_json(),
            "stages": self.stages,
            "rows": self.rows,
            "groups": self.groups,
            "chunks": self.chunks,
            "jobs": self.jobs,
            "smallest_job": self.smallest_job,
            "largest_job": self.largest_job,
            "workers": None if self.plan.sized_at_start else self.workers,
            "cores_used": None if self.plan.sized_at_start else self.cores_used,
            "cores_asked": None if self.plan.sized_at_start else self.cores_asked,
            "note": self.layout.note,
            "request": self.plan.request(),
            "phases": [
                {"stages": names, "workers": _workers(plan), "request": plan.request()}
                for names, plan in self.phases
            ],
            "estimate": None if estimate is None else estimate.to_dict(),
            "warnings": self.warnings,
        }

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, header_style="dim", padding=(0, 3, 0, 0))
        table.add_column("")
        for heading in ("", "fewest rows", "most rows"):
            table.add_column(heading, justify="right")
        table.add_column("", style="dim")
        for name, *numbers, remark in self._lines():
            table.add_row(
                Text(name), *(f"{n:,}" if n is not None else "" for n in numbers), Text(remark)
            )
        title = Text.assemble(("Plan: ", "bold"), self.plan.describe(self.workers))
        parts: list[Any] = [title, "", Padding(table, (0, 0, 0, 2), expand=False)]
        for warning in self.warnings:
            mark = Table.grid(padding=(0, 1, 0, 0))
            mark.add_row(Text("warning:", style="yellow"), Text(warning))
            parts += ["", mark]
        return Group(*parts)

    def __str__(self) -> str:
        from rich.console import Console

        page = io.StringIO()
        Console(file=page, width=TEXT_WIDTH, color_system=None, force_jupyter=False).print(self)
        return "\n".join(line.rstrip() for line in page.getvalue().splitlines())

    __repr__ = __str__

    def _lines(self) -> Iterator[tuple[str, int | None, int | None, int | None, str]]:
        """The lines of the table: name, count, fewest and most rows in one of them, remark."""
        plan, layout = self.plan, self.layout
        yield "rows", self.rows, None, None, ""
        if plan.by:
            yield "groups", self.groups, *_extent(layout.group_sizes), f"by {', '.join(plan.by)}"
        whole = "one group each" if plan.by else "one row each"
        cut = (
            f"at most {counted(plan.rows_per_chunk, 'row')} each" if plan.rows_per_chunk else whole
        )
        yield "chunks", self.chunks, *_extent(layout.chunk_rows), cut
        # In a queue a job has no rows of its own.
        job_rows = _extent(layout.job_rows) if plan.dispatch == "static" else (None, None)
        yield "jobs", self.jobs, *job_rows, self._jobs_remark()
        sized = not plan.sized_at_start
        yield "workers", self.workers if sized else None, None, None, self._workers_remark()
        if sized:
            yield "cores", self.cores_used, None, None, self._cores_remark()
        if not self.phases and (request := plan.request()):
            yield "each job", None, None, None, f"asks for {request}"
        if (estimate := self.estimate) is not None:
            yield "nodes", estimate.nodes, None, None, estimate.text
            asked = "of SQL, about; those that ask how it goes come on top"
            yield "statements", estimate.statements, None, None, asked
        if self.stages:
            yield "stages", len(self.stages), None, None, ", ".join(self.stages)
        for number, (names, own) in enumerate(self.phases, start=1):
            count = _workers(own)
            workers = f"{counted(count, 'worker')}; " if count else ""
            asked = f"{', '.join(names)}: {workers}each job asks for {own.request()}"
            yield f"  phase {number}", None, None, None, asked

    def _jobs_remark(self) -> str:
        said = [self.layout.note] if self.layout.note else []
        if said and self.plan.default_jobs(self.rows, self.workers)[0] > self.jobs:
            said.append(f"there are only {counted(self.chunks, 'chunk')}")
        running = self.plan.jobs_running(self.jobs)
        takes_turns = running < self.jobs or (self.plan.here and not said)
        if self.jobs > 1 and takes_turns:
            said.append("one after another" if running == 1 else f"{running:,} at a time")
        return "; ".join(said)

    def _workers_remark(self) -> str:
        note = self.plan.workers_note(self.workers)
        return ("in each job" if self.jobs > 1 else "in the job") + (f": {note}" if note else "")

    def _cores_remark(self) -> str:
        said = f"used of {self.cores_asked:,} asked for"
        if self.cores is not None:
            return f"{said}; this machine has {self.cores:,}"
        running = self.plan.jobs_running(self.jobs)
        held = self.plan.cores_held(self.workers)
        return f"{said}: {counted(running, 'job')} at a time x {counted(held, 'core')}"


def summarize(
    plan: Plan,
    layout: Layout,
    *,
    stages: Sequence[str] = (),
    memory_per_row: int | None = None,
    cores: int | None = None,
    memory: int | None = None,
    grid: pa.Table | None = None,
    phases: Sequence[tuple[Sequence[str], Plan]] = (),
) -> PlanSummary:
    """What ``plan`` amounts to over the grid that ``layout`` was made from.

    Args:
        plan: the plan.
        layout: what :func:`flowdist.layout.make_layout` made of it.
        stages: the names of the flow's stages.
        memory_per_row: bytes that one row needs while it runs, where that is known.
        cores: cores of the machine. None: those this process may use.
        memory: bytes of memory of the machine. None: what is available now.
        grid: the grid, so that a group that is too large is called by its values.
        phases: the names of stages that run together, with the plan of their jobs; ``plan`` is that
            of the first.
    """
    workers = plan.worker_count(cores)
    running = plan.jobs_running(layout.jobs)
    if plan.dispatch == "queue":
        busy = min(running * workers, int(_tasks(plan, layout).sum()))
    else:
        fullest = sorted(_tasks(plan, layout).tolist(), reverse=True)[:running]
        busy = sum(min(workers, tasks) for tasks in fullest)
    summary = PlanSummary(
        plan=plan,
        layout=layout,
        stages=list(stages),
        workers=workers,
        cores_used=busy * plan.cpus_per_worker,
        cores_asked=running * plan.cores_held(workers),
        cores=(cores or cores_available()) if plan.here else None,
        phases=[(list(n), own) for n, own in phases] if plan.phased and len(phases) > 1 else [],
    )
    machine_memory = (memory or memory_available()) if plan.here else None
    warnings = [
        *_idle_workers(summary),
        *_few_chunks(summary),
        *_too_few_cores(summary),
        *_large_group(summary, grid),
        *_small_memory(summary),
        *_too_little_memory(summary, memory_per_row, machine_memory),
        *_many_jobs(summary),
        *plan.cautions(summary),
    ]
    return replace(summary, warnings=warnings)


def _workers(plan: Plan) -> int | None:
    """How many workers a job has; None where only its start tells."""
    return None if plan.sized_at_start else plan.worker_count()


def _tasks(plan: Plan, layout: Layout) -> Ints:
    """How many workers of each job could be busy at once: a fresh process takes a whole chunk, the
    workers of a pool share out the rows."""
    return layout.job_chunks if plan.within == "subprocess" else layout.job_rows


def _idle_workers(summary: PlanSummary) -> Iterator[str]:
    plan, layout, workers = summary.plan, summary.layout, summary.workers
    if plan.within == "sequential" and (plan.workers or 1) > 1:
        yield f"workers={plan.workers} has no effect: within='sequential' runs one row at a time."
    if not layout.jobs or plan.sized_at_start:
        return
    tasks = _tasks(plan, layout)
    if plan.dispatch == "queue":
        most = -(-int(tasks.sum()) // plan.jobs_running(layout.jobs))
    else:
        most = int(tasks.max())
    if most >= workers:
        return
    if plan.chunks_per_job is not None and layout.jobs > 1:
        advice = f"Raise chunks_per_job, or set workers={most}."
    elif layout.jobs > 1:
        running = plan.jobs_running(layout.jobs)
        target = running if plan.here else max(1, int(tasks.sum()) // workers)
        advice = f"Set target_jobs={target} or workers={most}."
    elif plan.within == "subprocess" and layout.chunks < layout.rows:
        advice = f"Cut smaller chunks with rows_per_chunk, or set workers={most}."
    elif plan.workers is not None:
        advice = f"Set workers={most}."
    else:
        return  # fewer rows than cores, and nobody asked for more workers than that
    thing = "chunk" if plan.within == "subprocess" else "row"
    yield (
        f"A job has {counted(workers, 'worker')} but at most {counted(most, thing)}: "
        f"{workers - most:,} of them will be idle. {advice}"
    )


def _few_chunks(summary: PlanSummary) -> Iterator[str]:
    """Jobs that take turns on this machine, each with fewer chunks than workers."""
    plan, layout = summary.plan, summary.layout
    running = plan.jobs_running(layout.jobs)
    if not plan.here or plan.dispatch == "queue" or layout.jobs <= running:
        return
    most = int(layout.job_chunks.max())
    if most < summary.workers <= int(_tasks(plan, layout).max()):
        pools = "one pool" if running == 1 else f"{running:,} pools"
        yield (
            f"{layout.jobs:,} jobs take turns with {counted(summary.workers, 'worker')} but at "
            f"most {counted(most, 'chunk')} each, and each waits for the last row of the one "
            f"before. Set target_jobs={running} to run all rows in {pools}."
        )


def _too_few_cores(summary: PlanSummary) -> Iterator[str]:
    plan, cores = summary.plan, summary.cores
    if cores is None or summary.cores_asked <= cores:
        return
    running = plan.jobs_running(summary.jobs)
    fitting = cores // (running * plan.cpus_per_worker)
    jobs = f"{running:,} jobs at once with " if running > 1 else ""
    one = running == 1 and summary.workers == 1
    verb, they = (
        ("wants", "its threads will take turns") if one else ("want", "they will take turns")
    )
    each = f" of {plan.cpus_per_worker} cores" if plan.cpus_per_worker > 1 else ""
    advice = f"Set workers={fitting}" if fitting else "Run fewer jobs at once, or lower cpus"
    yield (
        f"{jobs}{counted(summary.workers, 'worker')}{each} {verb} "
        f"{counted(summary.cores_asked, 'core')} and this machine has {cores:,}, so {they}. "
        f"{advice}."
    )


def _large_group(summary: PlanSummary, grid: pa.Table | None) -> Iterator[str]:
    plan, layout = summary.plan, summary.layout
    alone = plan.within == "subprocess"
    if not plan.by or not layout.rows or not (alone or layout.jobs > 1):
        return  # the workers of a single pool share the rows of any group
    largest = int(layout.chunk_rows.argmax())
    rows = int(layout.chunk_rows[largest])
    if rows * 2 <= layout.rows:
        return
    if grid is None:
        which = f"Group number {int(layout.chunk_group[largest]):,}"
    else:
        row = int(layout.row_numbers(largest)[0])
        which = f"The group {', '.join(f'{name}={grid[name][row].as_py()!r}' for name in plan.by)}"
    yield (
        f"{which} holds {rows:,} of {counted(layout.rows, 'row')}, and a single "
        f"{'worker' if alone else 'job'} runs them. "
        "Split it with rows_per_chunk, or group by more columns."
    )


def _small_memory(summary: PlanSummary) -> Iterator[str]:
    asked, workers = summary.plan.resources.memory, summary.workers
    if summary.plan.sized_at_start:
        return
    if asked and asked < workers * LEAST_WORKER_MEMORY:
        yield (
            f"memory={format_memory(asked)!r} leaves each of {counted(workers, 'worker')} "
            f"{format_memory(asked // workers)}; Python with pandas wants "
            f"{format_memory(LEAST_WORKER_MEMORY)}. Raise memory or lower workers."
        )


def _too_little_memory(
    summary: PlanSummary, per_row: int | None, machine: int | None
) -> Iterator[str]:
    asked, running = summary.plan.resources.memory, summary.plan.jobs_running(summary.jobs)
    if asked and machine and running * asked > machine:
        each = f" for each of {running:,} jobs at once" if running > 1 else ""
        yield (
            f"memory={format_memory(asked)!r}{each} is more than the {format_memory(machine)} that "
            "this machine has available. Lower memory, or run where there is more."
        )
    if summary.plan.sized_at_start:
        return
    for limit, jobs_sharing, said in (
        (asked, 1, "a job may use"),
        (machine, running, "this machine has available"),
    ):
        workers = summary.workers * jobs_sharing
        if limit and per_row and per_row * workers > limit:
            fitting = limit // (per_row * jobs_sharing)
            advice = f"Set workers={fitting}" if fitting else "Run where there is more"
            yield (
                f"{counted(workers, 'worker')} at {format_memory(per_row)} a row need "
                f"{format_memory(per_row * workers)}, more than the {format_memory(limit)} that "
                f"{said}. {advice}."
            )


def _many_jobs(summary: PlanSummary) -> Iterator[str]:
    if summary.jobs > MANY_JOBS:
        yield (
            f"{summary.jobs:,} jobs are more than most schedulers take, and each costs a start. "
            f"Set target_jobs={MANY_JOBS // 10} to pack the same chunks into fewer."
        )


def _extent(sizes: Any) -> tuple[int | None, int | None]:
    return (int(sizes.min()), int(sizes.max())) if len(sizes) else (None, None)


def counted(count: int, thing: str) -> str:
    """A number with the noun it counts.

    >>> counted(1, "job"), counted(1200, "row")
    ('1 job', '1,200 rows')
    """
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"
