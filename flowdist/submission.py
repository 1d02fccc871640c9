"""Turning a flow into a run on disk, and starting it.

Order matters: everything a worker reads is written first, the manifest last, then the intent of the
launch, and only then is anything started. A submission that dies half-way leaves either nothing
that counts as a run, or a run that `attach` finds and `resume` can start.
"""

from __future__ import annotations

import functools
import os
import re
import secrets
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from flowdist.backends.base import Handle, backend_named
from flowdist.errors import PreflightError, RunError
from flowdist.layout import Layout, group_rows, make_layout
from flowdist.parts import FAILED, MISSING
from flowdist.payload import describe, dump_program
from flowdist.phases import ROWS, jobs_of, row_phases
from flowdist.plan import PLANS, Plan, PlanSummary, local, plan_of, summarize
from flowdist.preflight import Prepared, prepare
from flowdist.resources import Resources
from flowdist.retry import grows
from flowdist.settings import default_root, host, user
from flowdist.states import count_states, row_states
from flowdist.store import DirectoryStore, RunFiles
from flowdist.tables import in_layout_order, map_table, write_table
from flowdist.workers.queue import LEASE_SECONDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowdist.escalation import Escalation
    from flowdist.flow import Flow, Stage

FORMAT = 1


def plan_flow(flow: Flow) -> PlanSummary:
    """The layout of a flow under its plan (`local()` where it has none), without running anything.

    Raises:
        PlanError: the plan does not fit the grid.
    """
    plan = effective_plan(flow)
    layout = make_layout(plan, flow.grid.table, plan.worker_count())
    return summarize(
        plan,
        layout,
        stages=[s.name for s in flow.stages],
        grid=flow.grid.table,
        phases=phase_plans(flow),
    )


def effective_plan(flow: Flow) -> Plan:
    """The flow's plan with what its rows need filled in where the plan leaves it open.

    A stage asks for one row, a plan for a job: as many rows' memory and gpus as it has workers.
    Time is left alone, for a job's time is not a row's. Where stages that need different things run
    as different jobs, it is the plan of the first of them.
    """
    plan = flow.distribution if flow.distribution is not None else local()
    if plan.phased:
        plan.check_stages([stage.name for stage in flow.stages])
        return stage_groups(flow)[0][1]
    needs = [r for r in (flow.resources, *flow.stage_resources.values()) if r is not None]
    if not needs:
        return plan
    row = Resources.envelope(needs)
    plan = plan_of(plan, resources=Resources(cpus=row.cpus).merge(plan.resources))
    workers = plan.worker_count()
    job = Resources(
        memory=row.memory * workers if row.memory else None,
        gpus=row.gpus * workers if row.gpus else None,
    )
    return plan_of(plan, resources=job.merge(plan.resources))


def stage_groups(flow: Flow) -> list[tuple[list[Stage], Plan]]:
    """The stages of rows that run together, in order, each group with the plan of its jobs.

    One group, unless the plan runs stages that need different things as different jobs.
    """
    rows = [stage for stage in flow.stages if not stage.is_reduce]
    plan = flow.distribution
    if plan is None or not plan.phased:
        return [(rows, effective_plan(flow))]
    groups: list[tuple[list[Stage], Plan]] = []
    for stage in rows:
        own = _stage_plan(flow, plan, stage)
        if groups and groups[-1][1] == own:
            groups[-1][0].append(stage)
        else:
            groups.append(([stage], own))
    return groups or [([], plan)]


def phase_plans(flow: Flow) -> list[tuple[list[str], Plan]]:
    """The stages of each phase, those of rows and the reduces, with the plan of its jobs."""
    found = [([stage.name for stage in stages], plan) for stages, plan in stage_groups(flow)]
    plan = found[0][1]
    for stage in (s for s in flow.stages if s.is_reduce):
        own = plan
        if plan.phased:
            own = _stage_plan(flow, flow.distribution, stage)
            groups = max(1, _group_count(flow, stage))
            # It has no use for more workers than groups.
            own = own.shrunk(groups) if groups < own.worker_count() else own
        found.append(([stage.name], own))
    return found


def _group_count(flow: Flow, stage: Stage) -> int:
    if stage.by:
        return group_rows(flow.grid.table, stage.by)[1]
    return min(1, len(flow.grid))


def _stage_plan(flow: Flow, plan: Plan | None, stage: Stage) -> Plan:
    """The plan of the jobs that run one stage."""
    needs = [r for r in (flow.resources, flow.stage_resources.get(stage.name)) if r is not None]
    assert plan is not None
    return plan.for_stage(stage.name, functools.reduce(Resources.merge, needs) if needs else None)


def submit_flow(flow: Flow, name: str | None = None) -> RunFiles:
    """Write the run and start its first launch.

    Raises:
        PreflightError: a check found an error; nothing was written and nothing was started.
        BackendError: the backend refused; the run is on disk and can be resumed.
    """
    prepared = prepare(flow, brief=True)
    if prepared.errors:
        said = (f"{c.what}\n  -> {c.remedy}" if c.remedy else c.what for c in prepared.errors)
        raise PreflightError("\n".join(said), prepared.checks)
    files = write_run(flow, name or flow.name, prepared)
    launch(files, files.manifest())
    return files


def write_run(flow: Flow, name: str, prepared: Prepared | None = None) -> RunFiles:
    """Write everything but a launch; the manifest comes last and makes it a run.

    `prepared` is what preflight has made of the flow already.
    """
    plan = effective_plan(flow)
    grid = flow.grid.table
    if prepared is not None and prepared.summary is not None:
        layout = prepared.summary.layout
    else:
        layout = make_layout(plan, grid, plan.worker_count())
    root = Path(plan.root).expanduser().absolute() if plan.root else default_root()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    run_id, files = _new_directory(root, name)
    payload = prepared.payload if prepared is not None else None
    payload = payload or dump_program(flow.program)
    files.store.put(files.FLOW, payload)
    write_layout(files, grid, layout)
    files.put_json(
        files.RUN,
        {
            "format": FORMAT,
            "id": run_id,
            "name": name,
            "created": time.time(),
            "user": user(),
            "host": host(),
            "source": _revision(),
            "payload": describe(payload),
            "plan": plan.to_json(),
            "failure_limit": plan.failure_limit,
            "jobs_at_once": plan.jobs_running(layout.jobs),
            "lease": LEASE_SECONDS,
            "escalates": any(grows(stage.retry) for stage in flow.program.row_stages),
            "layout": {
                "rows": layout.rows,
                "groups": layout.groups,
                "chunks": layout.chunks,
                "jobs": layout.jobs,
            },
            "columns": list(grid.column_names),
            "stages": [_describe_stage(s) for s in flow.stages],
            "phases": _phases(flow, layout),
        },
    )
    return files


def write_layout(files: RunFiles, grid: pa.Table, layout: Layout) -> None:
    """Write the rows, and how they are cut into chunks."""
    write_table(files.path(files.GRID), _in_layout_order(grid, layout))
    write_table(files.path(files.CHUNKS), _chunk_table(layout))


def launch(
    files: RunFiles,
    manifest: dict[str, Any],
    *,
    after: int = 0,
    jobs: list[int] | None = None,
    before: dict[str, int] | None = None,
    failed: bool = False,
    escalation: Escalation | None = None,
) -> Handle:
    """Start a new launch: `jobs` of the layout (default: all), then every reduce.

    `after` is the number of the launch that was seen to have ended. Creating the intent of the next
    is what decides between two processes that resume at once. `failed` tries failed rows again,
    `escalation` says which jobs get more than the plan asks for.

    Raises:
        RunError: somebody else is starting the same launch.
        BackendError: the backend refused.
    """
    attempt = after + 1
    wanted = list(range(manifest["layout"]["jobs"])) if jobs is None else jobs
    intent = {
        "time": time.time(),
        "host": host(),
        "pid": os.getpid(),
        "jobs": wanted,
        "before": before or {},
        "failed": failed,
        "scale": escalation.scale if escalation is not None else {},
        "grown": escalation.times if escalation is not None else {},
    }
    try:
        files.put_json(files.intent(attempt), intent)
    except FileExistsError:
        raise RunError(
            f"run {manifest['id']}: launch {attempt} is being started by somebody else just now; "
            "look at its status before resuming again"
        ) from None
    if attempt > 1:
        redo = escalation.redo if escalation is not None else None
        _write_done(files, manifest, attempt, failed=failed, redo=redo)
    elsewhere = PLANS[manifest["plan"]["kind"]].queues_elsewhere
    if manifest["plan"]["dispatch"] == "queue" and wanted and not elsewhere:
        from flowdist.workers.supervise import queue_of

        for phase in row_phases(manifest):
            queue = queue_of(files, manifest, attempt, phase)
            queue.put(0, manifest["layout"]["chunks"], claimers=len(wanted))
    handle = Handle(files, attempt, jobs_of(manifest, wanted))
    backend = backend_named(manifest["plan"]["kind"])
    try:
        return backend.launch(handle)
    finally:
        backend.close()


def relaunch(
    files: RunFiles,
    manifest: dict[str, Any],
    *,
    after: int,
    failed: bool = False,
    escalation: Escalation | None = None,
) -> Handle:
    """Start what launch number `after`, which has ended, has left.

    Raises:
        RunError, BackendError: as for `launch`.
    """
    states = row_states(files, manifest["layout"]["rows"])
    todo = states == MISSING
    if failed:
        todo |= states == FAILED
    if escalation is not None:
        todo[escalation.redo] = True
    kept = count_states(np.where(todo, MISSING, states).astype(np.int8))
    return launch(
        files,
        manifest,
        after=after,
        jobs=_jobs_with(files, manifest, todo),
        before={"ok": kept.ok, "skipped": kept.skipped, "failed": kept.failed},
        failed=failed,
        escalation=escalation,
    )


def _jobs_with(files: RunFiles, manifest: dict[str, Any], todo: NDArray[np.bool_]) -> list[int]:
    """The jobs of the layout that have at least one of the rows `todo` (a mask in grid order)."""
    chunks = map_table(files.path(files.CHUNKS))
    first = chunks.column("first").to_numpy()
    if not len(first) or not todo.any():
        return []
    # Groups of rows: one chunk each.
    left = np.add.reduceat(in_layout_order(files, todo).astype(np.int64), first) > 0
    if manifest["plan"]["dispatch"] == "queue":
        # Any job can take any chunk, and none has a use for more than there are.
        return list(range(min(manifest["layout"]["jobs"], int(left.sum()))))
    return [int(job) for job in np.unique(chunks.column("job").to_numpy()[left])]


def _write_done(
    files: RunFiles,
    manifest: dict[str, Any],
    attempt: int,
    *,
    failed: bool,
    redo: NDArray[np.int64] | None,
) -> None:
    """Write down which rows a launch leaves out, so that its jobs need not read all parts."""
    again = np.full(manifest["layout"]["rows"], failed)
    if redo is not None:
        again[redo] = True
    done = {}
    for phase in row_phases(manifest):
        states = row_states(files, len(again), phase["table"])
        done[phase["table"]] = (states != MISSING) & ~((states == FAILED) & again)
    write_table(files.path(files.done(attempt)), pa.table(done))


def _new_directory(root: Path, name: str) -> tuple[str, RunFiles]:
    """A directory of its own for the run: ``<name>-<month day>-<time>-<four letters>``."""
    safe = re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")[:40] or "run"
    while True:
        run_id = f"{safe}-{time.strftime('%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        try:
            (root / run_id).mkdir(mode=0o700)
        except FileExistsError:
            continue
        return run_id, RunFiles(DirectoryStore(root / run_id))


def _phases(flow: Flow, layout: Layout) -> list[dict[str, Any]]:
    """The stages of rows that run together, then each reduce: what runs, and as which jobs."""
    stages = {stage.name: stage for stage in flow.stages}
    reduces = [s for s in flow.stages if s.is_reduce]
    plans = phase_plans(flow)
    of_rows = len(plans) - len(reduces)
    phases: list[dict[str, Any]] = []
    for number, (names, plan) in enumerate(plans):
        own = [stages[name] for name in names]
        if number < of_rows:
            table = ROWS if of_rows == 1 else f"{ROWS}.{number + 1}"
            first_job = number * layout.jobs
            phases.append(_phase(table, own, plan, first_job=first_job, jobs=layout.jobs))
            continue
        first_job = of_rows * layout.jobs + number - of_rows
        phases.append(
            {
                **_phase(names[0], own, plan, first_job=first_job, jobs=1),
                "by": list(own[0].by or ()),
                "reads": [s.name for s in reduces if s.name in own[0].uses],
                "groups": _group_count(flow, own[0]),
            }
        )
    return phases


def _phase(
    table: str, stages: Sequence[Stage], plan: Plan, *, first_job: int, jobs: int
) -> dict[str, Any]:
    return {
        "table": table,
        "stages": [s.name for s in stages],
        "timeouts": [s.timeout for s in stages],
        "first_job": first_job,
        "jobs": jobs,
        # Sized at the start of the job where None: as many as the cores that it gets allow.
        "workers": None if plan.sized_at_start else plan.worker_count(),
        "threads": None if plan.sized_at_start else plan.threads(),
        "plan": plan.to_json(),
    }


def _describe_stage(stage: Any) -> dict[str, Any]:
    return {
        "name": stage.name,
        "reduce": stage.is_reduce,
        "needs": list(stage.uses),
        "returns": None if stage.returns is None else stage.returns.to_json(),
        "timeout": stage.timeout,
        "retry": None if stage.retry is None else repr(stage.retry),
    }


def _in_layout_order(grid: pa.Table, layout: Layout) -> pa.Table:
    if layout.order is None:
        return grid
    return grid.take(pa.array(layout.order)).append_column("_row", pa.array(layout.order))


def _chunk_table(layout: Layout) -> pa.Table:
    return pa.table(
        {
            "job": layout.chunk_job.astype(np.int32),
            "first": layout.chunk_first,
            "stop": layout.chunk_stop,
            "group": layout.chunk_group,
        }
    )


def _revision() -> str | None:
    """The source revision of the working directory, where git knows one."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=2, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
