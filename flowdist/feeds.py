"""Feeding a run: rows that are added while its workers run.

Rows that are fed are a run of their own beside the one they are fed to: the same program, the same
plan, the same workers. The run that was fed has a record of each, ``feeds/<number>.json``, and
answers for all of them: status, tables, errors, cancel, resume, delete.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from flowdist.errors import GridError, RunError
from flowdist.grid import Grid
from flowdist.layout import make_layout
from flowdist.parts import RECORD
from flowdist.phases import reduce_phases
from flowdist.plan import Plan
from flowdist.results import Clashes, collect_rows, united
from flowdist.settings import host, user
from flowdist.status import Status
from flowdist.store import DirectoryStore, RunFiles
from flowdist.submission import launch, write_layout

if TYPE_CHECKING:
    from flowdist.backends.base import Handle
    from flowdist.backends.snowflake.backend import SnowflakeBackend
    from flowdist.run import Run

__all__ = ["collect_all", "combined", "fed_files", "feed", "home_of"]

# Which state says most of several runs that have ended.
_WORST = ("failed", "lost", "stopped", "done")


def feed(run: Run, handle: Handle, rows: Any, priority: int = 0) -> RunFiles:
    """Add rows to a run, of which `handle` is the latest launch; see `flowdist.run.Run.feed`."""
    plan = Plan.from_json(run.manifest["plan"])
    _check(run, plan, handle)
    table = _same_columns(Grid.of(rows).table, run)
    record = _place(run, handle, table.num_rows)
    started, intent = handle.started or {}, run.files.read_json(run.files.intent(handle.attempt))
    fed = {
        "to": run.id,
        "priority": int(priority),
        "pool": started["pool"],
        "service": started["service"],
        "since": (intent or record)["time"],
    }
    more = {"fed": fed, "first_row": record["first_row"]}
    files = _write(run, record["id"], table, plan, more)
    launch(files, files.manifest())
    return files


def _place(run: Run, handle: Handle, rows: int) -> dict[str, Any]:
    """Take the next rows of the run for these, of which nobody else who feeds it has any, here or
    on another machine; the record of that.
    """
    backend, files = cast("SnowflakeBackend", run.backend), run.files
    while True:
        known = [f"feeds/{name}" for name in files.store.list("feeds")]
        number = 1 + max((int(Path(name).stem) for name in known), default=0)
        record = {
            "id": f"{run.id}.{number}-{secrets.token_hex(2)}",
            "time": time.time(),
            "rows": rows,
            "first_row": run.rows + sum(_rows(files, name) for name in known),
        }
        name = f"feeds/{number:04d}.json"
        with contextlib.suppress(FileExistsError):
            files.put_json(name, record)
            # What others have fed meanwhile is here after each try, one after the other.
            if backend.share(handle, name):
                return record


def _rows(files: RunFiles, name: str) -> int:
    """How many rows a record is of, which another process may be writing just now.

    Raises:
        RunError: it does not get complete.
    """
    for _ in range(100):
        if (record := files.read_json(name)) is not None:
            return int(record["rows"])
        time.sleep(0.02)
    raise RunError(
        f"{files.path(name)} is not whole: who fed these rows was killed before they were there; "
        "remove that file, and feed again"
    )


def _check(run: Run, plan: Plan, handle: Handle) -> None:
    if not plan.takes_feeds:
        raise RunError(
            f"run {run.id} takes no more rows: feed() puts them into the queue of spcs_queue, and "
            f"the plan is {plan.kind.replace('-', '_')}; submit them as a flow of their own"
        )
    if "fed" in run.manifest:
        raise RunError(f"run {run.id} was fed to run {run.manifest['fed']['to']}: feed that one")
    if reduce_phases(run.manifest):
        raise RunError(
            f"run {run.id} takes no more rows: its reduces are over all of them; submit the rows "
            "as a flow of their own"
        )
    if handle.started is None or handle.started["error"]:
        raise RunError(f"run {run.id} has no workers yet: feed it once it has been started")
    status = run.status()
    if status.ended and not getattr(plan, "pool", None):
        raise RunError(
            f"run {run.id} is {status.state}, and its workers have ended; submit the rows as a "
            "flow of their own"
        )


def _same_columns(table: pa.Table, run: Run) -> pa.Table:
    """The rows with the columns of the run's grid, in its order and of its types."""
    from flowdist.results import read_grid_table

    grid = read_grid_table(run.files)
    if not table.num_rows:
        raise GridError("there are no rows to feed")
    if set(table.column_names) != set(grid.column_names):
        missing = [n for n in grid.column_names if n not in table.column_names]
        more = [n for n in table.column_names if n not in grid.column_names]
        said = [f"{', '.join(missing)} missing"] if missing else []
        said += [f"{', '.join(more)} unknown"] if more else []
        raise GridError(
            f"rows for run {run.id} have other columns than its grid: {'; '.join(said)}"
        )
    table = table.select(grid.column_names)
    for field in grid.schema:
        try:
            table.column(field.name).cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise GridError(
                f"column '{field.name}' of run {run.id} has the type {field.type}, which the rows "
                f"do not fit: {error}"
            ) from None
    return table.cast(grid.schema)


def _write(run: Run, run_id: str, table: pa.Table, plan: Plan, more: dict[str, Any]) -> RunFiles:
    """Write a run of these rows beside the one that they are fed to."""
    layout = make_layout(plan, table, plan.worker_count())
    directory = run.directory.parent / run_id
    directory.mkdir(mode=0o700)
    files = RunFiles(DirectoryStore(directory))
    files.store.put(files.FLOW, run.files.store.get(files.FLOW))
    write_layout(files, table, layout)
    (phase,) = run.manifest["phases"]
    files.put_json(
        files.RUN,
        {
            **run.manifest,
            "id": run_id,
            "created": time.time(),
            "user": user(),
            "host": host(),
            "jobs_at_once": plan.jobs_running(layout.jobs),
            "layout": {
                "rows": layout.rows,
                "groups": layout.groups,
                "chunks": layout.chunks,
                "jobs": layout.jobs,
            },
            "phases": [{**phase, "jobs": layout.jobs}],
            **more,
        },
    )
    return files


# Looking at what was fed -------------------------------------------------------------------------


def _records(files: RunFiles) -> list[dict[str, Any]]:
    """What was fed to a run, in order."""
    found = (files.read_json(f"feeds/{name}") for name in files.store.list("feeds"))
    return [one for one in found if one is not None]


def fed_files(files: RunFiles) -> list[RunFiles]:
    """The runs that were fed to a run, in order; of one on a stage those are brought here that are
    not.
    """
    found = []
    for record in _records(files):
        there = RunFiles.at(files.directory.parent / record["id"])
        if not there.path(there.RUN).is_file():
            remote = files.read_json(files.REMOTE)
            if remote is None:
                continue  # its driver died before it was written
            from flowdist.backends.snowflake.attach import attach_run
            from flowdist.errors import RunNotFound

            try:
                attach_run(
                    f"{remote['runs']}/{record['id']}",
                    connection=remote["connection"],
                    root=files.directory.parent,
                )
            except RunNotFound:
                continue
        found.append(there)
    return found


def home_of(files: RunFiles) -> Path:
    """Where the artifacts of a run are: those of rows that were fed lie with the others."""
    fed = files.manifest().get("fed")
    return files.directory.parent / fed["to"] if fed else files.directory


def combined(own: Status, fed: Sequence[Status]) -> Status:
    """The status of a run with all that was fed to it."""
    every = [own, *fed]
    live = [one for one in every if not one.ended]
    if live:
        state = "running" if any(one.state == "running" for one in live) else live[0].state
        reason = ""
    else:
        worst = min(every, key=lambda one: _WORST.index(one.state))
        state, reason = worst.state, worst.reason
    rates = [one.rate for one in live if one.rate is not None]
    rate = sum(rates) if rates else None
    left = sum(one.rows - one.done for one in every)
    jobs: Counter[str] = Counter()
    for one in every:
        jobs.update(one.jobs)
    return Status(
        id=own.id,
        name=own.name,
        state=state,
        reason=reason,
        rows=sum(one.rows for one in every),
        ok=sum(one.ok for one in every),
        failed=sum(one.failed for one in every),
        skipped=sum(one.skipped for one in every),
        running=sum(one.running for one in every),
        jobs=dict(jobs),
        attempt=own.attempt,
        created=own.created,
        groups_failed=own.groups_failed,
        rate=rate,
        seconds_left=left / rate if rate else None,
        memory=sum(one.memory for one in every),
        working_on=[work for one in every for work in one.working_on],
    )


def collect_all(run: RunFiles, *, clashes: Clashes = "raise") -> pa.Table:
    """The rows of a run as `flowdist.results.collect_rows` gives them, then what was fed to it, in
    order, with one type for each column.

    Raises:
        TypeClash: as for one run.
    """
    tables = []
    for files in [run, *fed_files(run)]:
        manifest = files.manifest()
        table = collect_rows(files, int(manifest["layout"]["rows"]), clashes=clashes)
        if first := int(manifest.get("first_row", 0)):
            place = table.schema.get_field_index("_row")
            numbers = pc.add(table.column("_row"), first)
            table = table.set_column(place, "_row", numbers)
        tables.append(table)
    if len(tables) == 1:
        return tables[0]
    joined = pa.concat_tables(united(tables, clashes))
    record = [name for name in joined.column_names if name in RECORD]
    names = [name for name in tables[0].column_names if name not in RECORD]
    names += [n for n in joined.column_names if n not in {*names, *record}]
    return joined.select([*names, "_row", *(n for n in record if n != "_row")])
