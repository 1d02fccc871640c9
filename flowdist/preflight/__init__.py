"""Preflight: what would keep a flow from running, said before anything is written or started.

Here the flow, its plan and layout and this machine are looked at; `backend` asks the backend,
`captures` looks at what is pickled, `returned` at the source of the stages, `trial` runs a row. The
answer is a list of `Check`s. Showing them is left to the command line, refusing to start to
`flowdist.submission`, which goes on with what `prepare` had to compute anyway.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flowdist.errors import FlowdistError, PlanError, nearest
from flowdist.machine import memory_available
from flowdist.preflight.backend import ask_backend
from flowdist.preflight.captures import pickle_flow
from flowdist.preflight.check import Check, Severity
from flowdist.preflight.returned import not_returned
from flowdist.preflight.trial import file_count, outcome, run_row
from flowdist.resources import Resources, format_memory
from flowdist.retry import grows
from flowdist.settings import default_root

if TYPE_CHECKING:
    from flowdist.flow import Flow
    from flowdist.plan import Plan, PlanSummary

__all__ = ["Check", "Machine", "Prepared", "preflight", "prepare"]

# Less than this is gone before the first results are written; more fills up while a run goes on.
LEAST_DISK, LOW_DISK = 10 * 1024**2, 1024**3


@dataclass(frozen=True)
class Machine:
    """What preflight asks the machine it runs on; a test gives answers of its own."""

    free_disk: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
    """Bytes free where an existing path lies."""
    memory: Callable[[], int] = memory_available
    """Bytes of memory that are available."""


@dataclass(frozen=True)
class Prepared:
    """The findings, and what was computed to find them; None where an error stood in the way."""

    checks: list[Check]
    """Every finding, errors first."""
    summary: PlanSummary | None = None
    """The layout, and what the plan amounts to over it; `summary.plan` is the effective plan."""
    payload: bytes | None = None
    """The pickled program."""

    @property
    def errors(self) -> list[Check]:
        """The findings that keep the flow from running."""
        return [c for c in self.checks if c.severity == "error"]


def preflight(flow: Flow, *, try_row: int | None = None, probe: bool = False) -> list[Check]:
    """Everything that would keep `flow` from running or surprise its user, errors first.

    Nothing is raised, written or started; with `try_row` that row runs in this process, with
    `probe` a tiny job looks from where the flow's jobs would run.

    >>> from flowdist import flow, local, param_grid
    >>> from flowdist.preflight import preflight
    >>> f = flow(param_grid(x=[1, 2])).distribute(local(by="y"))
    >>> for check in preflight(f):
    ...     print(f"{check.severity}: {check.what} -> {check.remedy}")
    error: the flow has no stage -> add one: flow.stage('fit', fit)
    error: by='y': the grid has no such column -> group by one of: x
    """
    return prepare(flow, try_row=try_row, probe=probe).checks


def prepare(
    flow: Flow,
    *,
    try_row: int | None = None,
    probe: bool = False,
    brief: bool = False,
    machine: Machine | None = None,
) -> Prepared:
    """`preflight`, with what a submission can go on with instead of computing it again. `brief`
    leaves out what takes long and keeps nothing from running.
    """
    machine = machine or Machine()
    checks = [*_grid(flow), *_stages(flow)]
    tried = run_row(flow, try_row) if try_row is not None and len(flow.grid) else None
    row_memory = _row_memory(flow)
    if row_memory is None and tried is not None and tried.error is None:
        row_memory = tried.memory
    summary, found = _plan(flow, row_memory, machine)
    checks += found
    if summary is not None and summary.rows:
        checks += ask_backend(flow, summary, probe=probe, brief=brief)
        checks += _growing(flow)
    payload, found = pickle_flow(flow)
    checks += found
    if summary is not None:
        written = len(payload or b"") + int(flow.grid.table.nbytes)
        checks += _root(summary.plan, written, machine)
    checks += not_returned(flow.stages)
    if tried is not None:
        checks += outcome(tried, summary)
    checks += file_count(flow, tried)
    order: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2}
    return Prepared(sorted(checks, key=lambda c: order[c.severity]), summary, payload)


def _grid(flow: Flow) -> Iterator[Check]:
    if not len(flow.grid):
        columns = ", ".join(flow.grid.names) or "none"
        yield Check(
            "grid",
            "error",
            f"the grid has no rows (columns: {columns})",
            "give every column at least one value; see whether where= or a filter drops all rows",
        )


def _stages(flow: Flow) -> Iterator[Check]:
    if not flow.stages:
        yield Check("stages", "error", "the flow has no stage", "add one: flow.stage('fit', fit)")


def _plan(
    flow: Flow, row_memory: int | None, machine: Machine
) -> tuple[PlanSummary | None, list[Check]]:
    """The plan over the grid, and what it has to say about that."""
    from flowdist.layout import make_layout
    from flowdist.plan import summarize
    from flowdist.submission import effective_plan, phase_plans

    try:
        plan = effective_plan(flow)
    except FlowdistError as error:
        return None, [Check("plan", "error", str(error))]
    missing = [c for c in plan.by if c not in flow.grid.names]
    if missing:
        return None, [_no_such_column(column, flow.grid.names) for column in missing]
    try:
        layout = make_layout(plan, flow.grid.table, plan.worker_count())
    except PlanError as error:
        return None, [Check("plan", "error", str(error))]
    # What rows need is not what the user lets a job have: each is held against the machine.
    asked = flow.distribution.resources.memory if flow.distribution is not None else None
    known = {**plan.resources.asked, "memory": asked}
    summary = summarize(
        plan.model_copy(update={"resources": Resources(**known)}),
        layout,
        stages=[s.name for s in flow.stages],
        grid=flow.grid.table,
        memory_per_row=row_memory,
        memory=machine.memory() if plan.here else None,
        phases=phase_plans(flow),
    )
    checks = [Check("plan", "warning", sentence) for sentence in summary.warnings]
    return replace(summary, plan=plan), checks


def _growing(flow: Flow) -> Iterator[Check]:
    """Retry policies that ask for more of what jobs do not ask for, or cannot get."""
    from flowdist.submission import phase_plans

    wanted = {stage.name: grows(stage.retry) for stage in flow.program.row_stages}
    for names, plan in phase_plans(flow):
        for name in (n for n in names if wanted.get(n)):
            absent = sorted(wanted[name] - set(plan.resources.asked))
            if not plan.phased:
                what = f"stage '{name}': its retry policy asks for larger jobs, and here are none"
                yield Check("retry", "warning", what, "what fails for want of memory stays failed")
            elif absent:
                what = f"stage '{name}': its retry policy multiplies {' and '.join(absent)}, "
                what += "and its jobs do not say how much they ask for"
                yield Check("retry", "warning", what, f"give the plan {'= and '.join(absent)}=")


def _no_such_column(column: str, names: Sequence[str]) -> Check:
    return Check(
        "plan",
        "error",
        f"by={column!r}: the grid has no such column{nearest(column, names)}",
        f"group by one of: {', '.join(names)}",
    )


def _row_memory(flow: Flow) -> int | None:
    """Bytes that a row is said to need; 0 is all of a node's, which cannot be multiplied."""
    said = [r.memory for r in (flow.resources, *flow.stage_resources.values()) if r is not None]
    return max((m for m in said if m), default=None)


def _root(plan: Plan, written: int, machine: Machine) -> Iterator[Check]:
    """Whether runs can be kept where the plan wants them; `written` bytes are needed at once."""
    root = Path(plan.root).expanduser().absolute() if plan.root else default_root()
    other = "make it writable, or choose another with root= or $FLOWDIST_ROOT"
    there = next(p for p in (root, *root.parents) if os.path.exists(p))
    if not there.is_dir():
        yield Check(
            "root",
            "error",
            f"root {root}: {there} is not a directory",
            "choose another with root= or $FLOWDIST_ROOT",
        )
        return
    if not os.access(there, os.W_OK | os.X_OK):
        yield Check("root", "error", f"root {root}: {there} is not writable", other)
        return
    free = machine.free_disk(there)
    if free >= LOW_DISK + written:
        return
    severity: Severity = "error" if free < max(LEAST_DISK, written) else "warning"
    left = format_memory(free) if free else "nothing"
    yield Check(
        "root",
        severity,
        f"root {root}: {left} is free there, and the run begins with {format_memory(written or 1)}",
        "free some (flowdist runs; flowdist.attach(id).delete()), or choose another with root=",
    )
