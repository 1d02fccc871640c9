"""Turning a flow into a run on disk, and starting it.

Order matters: everything a worker reads is written first, the manifest last, then the intent of the
launch, and only then is anything started. A submission that dies half-way leaves either nothing
that counts as a run, or a run that `attach` finds and `resume` can start.
"""

from __future__ import annotations

import re
import secrets
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from flowdist.backends.base import Handle, backend_named
from flowdist.errors import PreflightError, RunError
from flowdist.layout import Layout, group_rows, make_layout
from flowdist.payload import describe, dump_program
from flowdist.plan import Plan, PlanSummary, local, plan_of, summarize
from flowdist.preflight import Prepared, prepare
from flowdist.resources import Resources
from flowdist.settings import default_root, host, user
from flowdist.store import DirectoryStore, RunFiles
from flowdist.tables import write_table
from flowdist.workers.queue import LEASE_SECONDS

if TYPE_CHECKING:
    from flowdist.flow import Flow

FORMAT = 1


def plan_flow(flow: Flow) -> PlanSummary:
    """The layout of a flow under its plan (`local()` where it has none), without running anything.

    Raises:
        PlanError: the plan does not fit the grid.
    """
    plan = effective_plan(flow)
    layout = make_layout(plan, flow.grid.table, plan.worker_count())
    return summarize(plan, layout, stages=[s.name for s in flow.stages], grid=flow.grid.table)


def effective_plan(flow: Flow) -> Plan:
    """The flow's plan with what its rows need filled in where the plan leaves it open.

    A stage asks for one row, a plan for a job: as many rows' memory and gpus as it has workers.
    Time is left alone, for a job's time is not a row's.
    """
    plan = flow.distribution if flow.distribution is not None else local()
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


def submit_flow(flow: Flow, name: str | None = None) -> RunFiles:
    """Write the run and start its first launch.

    Raises:
        PreflightError: a check found an error; nothing was written and nothing was started.
        BackendError: the backend refused; the run is on disk and can be resumed.
    """
    prepared = prepare(flow)
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
    workers = plan.worker_count()
    if prepared is not None and prepared.summary is not None:
        layout = prepared.summary.layout
    else:
        layout = make_layout(plan, grid, workers)
    root = Path(plan.root).expanduser().absolute() if plan.root else default_root()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    run_id, files = _new_directory(root, name)
    payload = prepared.payload if prepared is not None else None
    payload = payload or dump_program(flow.program)
    files.store.put(files.FLOW, payload)
    write_table(files.path(files.GRID), _in_layout_order(grid, layout))
    write_table(files.path(files.CHUNKS), _chunk_table(layout))
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
            "workers": workers,
            "threads_per_worker": plan.threads(),
            "failure_limit": plan.failure_limit,
            "jobs_at_once": plan.jobs_running(layout.jobs),
            "lease": LEASE_SECONDS,
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


def launch(
    files: RunFiles,
    manifest: dict[str, Any],
    *,
    after: int = 0,
    jobs: list[int] | None = None,
    before: dict[str, int] | None = None,
    failed: bool = False,
) -> Handle:
    """Start a new launch: `jobs` of the rows (default: all), then every reduce.

    `after` is the number of the launch that was seen to have ended. Creating the intent of the next
    is what decides between two processes that resume at once.

    Raises:
        RunError: somebody else is starting the same launch.
        BackendError: the backend refused.
    """
    attempt = after + 1
    wanted = list(range(manifest["layout"]["jobs"])) if jobs is None else jobs
    intent = {
        "time": time.time(),
        "host": host(),
        "jobs": wanted,
        "before": before or {},
        "failed": failed,
    }
    try:
        files.put_json(files.intent(attempt), intent)
    except FileExistsError:
        raise RunError(
            f"run {manifest['id']}: launch {attempt} is being started by somebody else just now; "
            "look at its status before resuming again"
        ) from None
    if manifest["plan"]["dispatch"] == "queue" and wanted:
        from flowdist.workers.supervise import queue_of

        claimers = manifest["layout"]["jobs"] * manifest["workers"]
        queue_of(files, manifest, attempt).put(0, manifest["layout"]["chunks"], claimers=claimers)
    handle = Handle(files, attempt, [*wanted, *reduce_jobs(manifest)])
    return backend_named(manifest["plan"]["kind"]).launch(handle)


def reduce_jobs(manifest: dict[str, Any]) -> list[int]:
    """The numbers of the jobs that run reduces."""
    return [int(phase["first_job"]) for phase in manifest["phases"][1:]]


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
    """The rows, then each reduce: which stages run, and as which jobs."""
    rows = [s for s in flow.stages if not s.is_reduce]
    phases: list[dict[str, Any]] = [
        {
            "table": "rows",
            "stages": [s.name for s in rows],
            "timeouts": [s.timeout for s in rows],
            "first_job": 0,
            "jobs": layout.jobs,
        }
    ]
    reduces = [s for s in flow.stages if s.is_reduce]
    for number, stage in enumerate(reduces):
        by = stage.by or ()
        groups = group_rows(flow.grid.table, by)[1] if by else min(1, layout.rows)
        phases.append(
            {
                "table": stage.name,
                "stages": [stage.name],
                "timeouts": [stage.timeout],
                "first_job": layout.jobs + number,
                "jobs": 1,
                "by": list(by),
                "reads": [s.name for s in reduces if s.name in stage.uses],
                "groups": groups,
            }
        )
    return phases


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
