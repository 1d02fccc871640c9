"""Runs: one submission of a flow each, found again from any process.

A `Run` holds no state of its own that matters: everything is read from the run's directory, so the
process that submitted may die at any moment and another can go on where it was.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from flowdist.backends.base import Backend, Handle, JobState, Remark, backend_named
from flowdist.clock import Clock, SystemClock
from flowdist.errors import (
    BackendError,
    RowsFailed,
    RunError,
    RunIncomplete,
    RunNotFound,
    WaitTimeout,
    nearest,
)
from flowdist.parts import FAILED, MISSING
from flowdist.phases import is_template, job_count, jobs_of, reduce_phases
from flowdist.settings import default_root
from flowdist.status import Status, Throughput, read_status
from flowdist.store import RUN_ID, RunFiles
from flowdist.submission import plan_flow, relaunch, submit_flow

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from flowdist.explain import Explanation
    from flowdist.flow import Flow, RowErrors
    from flowdist.results import As

__all__ = ["Run", "attach", "plan_flow", "runs", "submit"]

# Polling starts fast, for runs that are over at once, and slows down for those that take a night.
FIRST_POLL, LONGEST_POLL, POLL_GROWTH = 0.02, 2.0, 1.05
# A process that was asked to end commits what it has within this time.
CANCEL_SECONDS = 60.0


def submit(flow: Flow, *, name: str | None = None) -> Run:
    """Start a flow; see `flowdist.flow.Flow.submit`."""
    return Run(submit_flow(flow, name))


def attach(run_id: str | Path, root: str | Path | None = None, *, connection: Any = None) -> Run:
    """The run of that id, submitted by whatever process, on `root` (default: where runs go by
    default).

    `run_id` may also be the path of the run's directory; or, for a run on Snowflake that another
    machine has submitted, its place on the stage, ``@db.schema.stage/runs/ID``. Then `connection`
    is what plans take, and what is there is mirrored in `root`.

    Raises:
        RunNotFound: there is none, naming the nearest ids.

    >>> from flowdist import attach, flow, param_grid
    >>> run = flow(param_grid(x=[1, 2])).stage("sq", lambda x: x * x).submit()
    >>> attach(run.id).wait().collect()["sq.value"].tolist()
    [1, 4]
    """
    text = str(run_id)
    if text.startswith("@"):
        from flowdist.backends.snowflake.attach import attach_run

        return Run(attach_run(text, connection=connection, root=_root(root)))
    if "/" in text and (Path(text) / RunFiles.RUN).is_file():
        return Run(RunFiles.at(Path(text).absolute()))
    base = _root(root)
    if RUN_ID.fullmatch(text) and (base / text / RunFiles.RUN).is_file():
        return Run(RunFiles.at(base / text))
    known = [d.name for d in _run_directories(base)]
    raise RunNotFound(
        f"there is no run '{text}' in {base}{nearest(text, known)} "
        f"({len(known)} run{'' if len(known) == 1 else 's'} there; "
        "another place is given as root=, --root or FLOWDIST_ROOT)"
    )


def runs(root: str | Path | None = None, *, connection: Any = None) -> list[Run]:
    """All runs in `root` (default: where runs go by default), the latest first.

    `root` may be a stage, ``@db.schema.stage``: then all runs there are mirrored where runs go by
    default, over the `connection` that is given.

    >>> from flowdist import runs
    >>> isinstance(runs(), list)
    True
    """
    if str(root).startswith("@"):
        from flowdist.backends.snowflake.attach import attach_runs

        directories = [f.directory for f in attach_runs(str(root), connection=connection)]
    else:
        directories = _run_directories(_root(root))
    found = []
    for directory in directories:
        with contextlib.suppress(RunError):
            run = Run(RunFiles.at(directory))
            # What was fed to a run is part of that one.
            found += [] if "fed" in run.manifest else [run]
    return sorted(found, key=lambda run: -float(run.manifest["created"]))


class Run:
    """One submission of a flow.

    Attributes:
        id: names the run everywhere; `attach` finds it by this.
        name: the flow's, or the one given to `submit`.
        directory: where it lives.
        manifest: what was submitted: plan, layout, stages, versions, who and when.
    """

    def __init__(self, files: RunFiles, clock: Clock | None = None) -> None:
        self.files = files
        self.manifest = files.manifest()
        self.id: str = self.manifest["id"]
        self.name: str = self.manifest["name"]
        self._clock = clock or SystemClock()
        self._states: tuple[int, dict[int, JobState]] = (0, {})
        self._fed: dict[str, Run] = {}

    @property
    def directory(self) -> Path:
        return self.files.directory

    @property
    def rows(self) -> int:
        """How many rows the grid has."""
        return int(self.manifest["layout"]["rows"])

    @cached_property
    def backend(self) -> Backend:
        """What its jobs run on; kept, since it knows when it asked the scheduler last."""
        return backend_named(self.manifest["plan"]["kind"])

    # -- watching ------------------------------------------------------------------------------

    def status(self) -> Status:
        """How the run is now, with all that was fed to it."""
        own, fed = self._own_status(), self.feeds()
        if not fed:
            return own
        from flowdist.feeds import combined

        return combined(own, [one.status() for one in fed])

    def throughput(self) -> Throughput:
        """How fast rows are run: per minute, and how long the rest takes at that pace.

        >>> from flowdist import flow, param_grid
        >>> run = flow(param_grid(x=[1, 2])).stage("sq", lambda x: x * x).submit().wait()
        >>> run.throughput().rows_left
        0
        """
        status = self.status()
        beats = [b for run in (self, *self.feeds()) for b in run._handle().beats.values()]
        return Throughput.of(status, beats)

    def _own_status(self) -> Status:
        while True:
            handle = self._handle()
            known = self._states[1] if self._states[0] == handle.attempt else {}
            status, states = read_status(
                self.manifest, handle, self.backend, now=self._clock.time(), known=known
            )
            self._states = (handle.attempt, states)
            # While that was looked at, another launch may have been started.
            if not status.ended or max(self.files.attempts(), default=0) <= handle.attempt:
                return status

    def wait(self, timeout: float | None = None) -> Self:
        """Block until nothing of the run is running any more, and return the run.

        It returns for a run that was stopped or lost too: `status` tells, `collect` raises.

        Raises:
            WaitTimeout: `timeout` seconds have passed; the run goes on.
        """
        for _ in self._statuses(timeout):
            pass
        return self

    def watch(self, timeout: float | None = None, *, cancel_on_interrupt: bool = False) -> Self:
        """`wait` with a progress bar (in a log: a line now and then).

        Ctrl-C ends only the watching, unless `cancel_on_interrupt`: then it ends the run, which
        keeps what is finished and can be resumed.
        """
        from flowdist.progress import progress

        with progress(self) as show:
            try:
                for status in self._statuses(timeout):
                    show(status)
            except KeyboardInterrupt:
                if cancel_on_interrupt:
                    self.cancel()
                    show(self.status())
                raise
        return self

    def _statuses(self, timeout: float | None) -> Iterator[Status]:
        deadline = None if timeout is None else self._clock.monotonic() + timeout
        pause = FIRST_POLL
        while True:
            status = self.status()
            yield status
            if status.ended:
                return
            if status.state == "scheduled" and timeout is None:
                raise RunError(
                    f"run {self.id} runs {status.reason}, and does not end by "
                    "itself; run.firings() are the runs that it has started, run.cancel() ends it"
                )
            if deadline is not None and self._clock.monotonic() >= deadline:
                raise WaitTimeout(
                    f"run {self.id} has not ended after {timeout:g} s ({status.done:,} of "
                    f"{status.rows:,} "
                    "rows); it goes on"
                )
            left = LONGEST_POLL if deadline is None else deadline - self._clock.monotonic()
            self._clock.sleep(max(0.0, min(pause, left)))
            pause = min(pause * POLL_GROWTH, LONGEST_POLL)

    def firings(self) -> list[Run]:
        """The runs that the schedule of this one has started so far, the first one first.

        Each is a run like any other: it has a status, is collected, cancelled, resumed, deleted.

        Raises:
            RunError: it has no schedule.
        """
        if not is_template(self.manifest):
            raise RunError(f"run {self.id} has no schedule; spcs_tasks(schedule=...) gives one")
        found = self.backend.firings(self._handle())
        return [Run(RunFiles.at(directory), self._clock) for directory in found]

    def explain(self) -> Explanation:
        """Why the run is not done: what it waits for, and what to do about it."""
        from flowdist.explain import explain

        return explain(self)

    def remarks(self) -> list[Remark]:
        """What the scheduler says of jobs that wait, or have ended badly: for `explain`."""
        self.status()
        return self.backend.remarks(self._handle(), self._states[1])

    def last_log(self) -> Path | None:
        """The log of the first job that has ended badly, where there is one."""
        bad = (JobState.FAILED, JobState.OUT_OF_MEMORY, JobState.LOST, JobState.TIMEOUT)
        known = sorted(self._states[1].items())
        jobs = [job for job, state in known if state in bad and job < self._jobs()]
        handle = self._handle()
        paths = self.backend.logs(handle, jobs[0] if jobs else None)
        return next((path for path in paths if path.is_file()), None)

    def logs(self, job: int | None = None, *, follow: bool = False) -> Iterator[str]:
        """Lines of the output of one job, or of all, launch after launch; `follow` goes on until
        the run has ended.

        Raises:
            RunError: there is no such job.
        """
        from flowdist.logs import tail

        self._check_there()
        if job is not None and job not in range(self._jobs()):
            raise RunError(f"run {self.id} has jobs 0 to {self._jobs() - 1}, not {job}")

        def paths() -> list[Path]:
            launches = (self._handle(attempt) for attempt in self.files.attempts())
            found = [path for handle in launches for path in self.backend.logs(handle, job)]
            return list(dict.fromkeys(found))

        return tail(
            paths,
            (lambda: self.status().ended) if follow else None,
            self._clock,
        )

    # -- results -------------------------------------------------------------------------------

    def collect(
        self,
        as_: As = "pandas",
        errors: RowErrors = "raise",
        partial: bool = False,
        *,
        clashes: Literal["raise", "text"] = "raise",
    ) -> pd.DataFrame | Any:
        """The table: one row per grid row, the grid's columns, then "stage.field"; waits for the
        run to end.

        Args:
            as_: the kind of table: "pandas", "polars" or "arrow".
            errors: "raise" where rows failed; "keep" them, with the columns ``_status`` (ok,
                failed, skipped, missing), ``_error``, ``_attempts`` and ``_seconds``; or "drop"
                failed rows, and with `partial` those that are missing.
            partial: take what is there now, without waiting, rows without a result being "missing".
            clashes: "text" turns an undeclared field whose types clash into text instead of
                raising.

        Raises:
            RowsFailed: rows failed and ``errors="raise"``.
            RunIncomplete: rows have no result although the run has ended, and `partial` is False.
            TypeClash: undeclared outputs have types that no column holds together.
        """
        from flowdist.feeds import collect_all, home_of
        from flowdist.results import shown_record, to_frame

        self._check(as_, errors)
        if partial:
            self._fetch()
        else:
            self._wait_for_end()
        table = collect_all(self.files, clashes=clashes)
        table = self._without_failures(table, "rows", errors, partial=partial)
        return to_frame(shown_record(table, keep=errors == "keep"), as_, str(home_of(self.files)))

    def table(
        self, stage: str, as_: As = "pandas", errors: RowErrors = "raise"
    ) -> pd.DataFrame | Any:
        """The table of one stage; waits for the run to end.

        For a reduce: one row per group. For a stage that returned tables: their rows, long, with
        the grid's columns repeated; for a reduce that did, with the group's. Otherwise: the grid's
        columns and the stage's fields. ``"stage.field"`` names one nested field of a stage that has
        several. `as_` and `errors` are those of `collect`.

        Raises:
            RunError: there is no such stage, or it has no such nested field.
            RowsFailed: rows (or groups, for a reduce) failed and ``errors="raise"``.
            RunIncomplete: the run has ended without a result for some of them.
        """
        from flowdist.feeds import collect_all, home_of
        from flowdist.results import KEPT, flatten_nested, shown_record, to_frame
        from flowdist.workers.groups import reduce_table, stage_columns

        self._check(as_, errors)
        name, _, field = stage.partition(".")
        known = [s["name"] for s in self.manifest["stages"]]
        if name not in known:
            raise RunError(
                f"run {self.id} has no stage '{name}'{nearest(name, known)} "
                f"(there are: {', '.join(known)})"
            )
        self._wait_for_end()
        phase = next((p for p in reduce_phases(self.manifest) if p["table"] == name), None)
        if phase is not None:
            groups = reduce_table(self.files, phase, record=True)
            groups = self._without_failures(groups, f"groups of reduce '{name}'", errors)
            groups = shown_record(groups, keep=errors == "keep")
            # Named after its stage, as the nested tables of rows are.
            fixed = {*phase["by"], *KEPT}
            names = [n if n in fixed else f"{name}.{n}" for n in groups.column_names]
            if column := self._nested(groups.rename_columns(names), name, field):
                groups = flatten_nested(groups.rename_columns(names), column, phase["by"])
            return to_frame(groups, as_, str(self.directory))
        table = self._without_failures(collect_all(self.files), "rows", errors)
        table = shown_record(table, keep=errors == "keep")
        if column := self._nested(table, name, field):
            table = flatten_nested(table, column, self.manifest["columns"])
        else:
            table = stage_columns(table, name)
        return to_frame(table, as_, str(home_of(self.files)))

    def errors(self, *, retried: bool = False) -> pd.DataFrame:
        """The failed rows so far, with `retried` also those that went well at a later attempt.

        Columns: row, the parameters, stage, type, message, kind, attempts, causes, traceback. For a
        group of a reduce that failed, row is the number of the group.
        """
        import pandas as pd

        from flowdist.feeds import collect_all
        from flowdist.results import ERROR_COLUMNS, error_names, error_rows
        from flowdist.workers.groups import reduce_table

        self._check_there()
        self._fetch()
        table = collect_all(self.files, clashes="text")
        found = error_rows(table, retried=retried)
        for phase in reduce_phases(self.manifest):
            found += error_rows(reduce_table(self.files, phase, record=True), retried=retried)
        columns = ["row", *error_names(self.manifest["columns"]), *ERROR_COLUMNS[1:]]
        # A group has no value for columns that it is not made by: those of rows stay as they are.
        gaps = [name for name in columns if any(name not in one for one in found)]
        data = {name: [one.get(name) for one in found] for name in columns}
        return pd.DataFrame(
            {n: pd.Series(v, dtype=object if n in gaps else None) for n, v in data.items()},
            columns=columns,
        )

    def report(self, path: str | Path) -> Path:
        """Write a page about the run, one HTML file that needs nothing else; returns its path."""
        from flowdist.report import write_report

        return write_report(self, Path(path))

    # -- changing ------------------------------------------------------------------------------

    def cancel(self) -> Self:
        """End the run; finished rows are kept and it can be resumed. Returns when its processes
        have ended.

        Raises:
            BackendError: they did not end in time.
        """
        self._ask_to_end()
        self._fetch()
        for fed in self.feeds():
            fed._ask_to_end()
        try:
            return self.wait(CANCEL_SECONDS)
        except WaitTimeout:
            raise BackendError(
                f"run {self.id} was asked to end {CANCEL_SECONDS:.0f} s ago and has not; see "
                f"flowdist logs {self.id}"
            ) from None

    def resume(self, *, failed: bool = False) -> Self:
        """Start what is missing, and with `failed` also the rows that failed. Does nothing where
        nothing is.

        Raises:
            RunError: the run has not ended.
        """
        from flowdist.escalation import escalate
        from flowdist.payload import load_program
        from flowdist.states import row_states

        status = self.status()
        if not status.ended:
            raise RunError(
                f"run {self.id} is {status.state} ({status.done:,} of {status.rows:,} rows); "
                "cancel it before resuming, or wait"
            )
        self._fetch()
        fed = self.feeds()
        status = self._own_status() if fed else status
        for one in fed:
            one.resume(failed=failed)
        handle, escalation = self._handle(), None
        if self.manifest["escalates"]:
            escalation = escalate(handle, load_program(self.files), self._states[1])
        states = row_states(self.files, self.rows)
        todo = (states == MISSING).any() or (failed and (states == FAILED).any())
        todo = todo or bool(escalation is not None and len(escalation.redo))
        if not todo and status.state == "done" and not (failed and self._failed_groups()):
            return self
        relaunch(
            self.files, self.manifest, after=status.attempt, failed=failed, escalation=escalation
        )
        return self

    def delete(self) -> None:
        """Remove the run and everything in it.

        Raises:
            RunError: it has not ended.
        """
        status = self.status()
        if not status.ended:
            raise RunError(f"run {self.id} is {status.state}; cancel it before deleting it")
        self._fetch()
        for fed in self.feeds():
            fed.delete()
        for attempt in self.files.attempts():
            self.backend.delete(self._handle(attempt))
        self.files.store.delete()

    def feed(self, rows: Any, priority: int = 0) -> Run:
        """Add rows while the workers of the run are at it; returns the run of these rows, which is
        part of this one: its status, tables and errors are in this one's, behind the rows that
        there are.

        Only for `spcs_queue`. `rows` is what a grid can be made of, with the columns of the run's
        grid; those of higher `priority` (default 0) are run first. Seeds count on from the rows
        that there are.

        Raises:
            RunError: the run takes no more rows: its plan has no such queue, or its workers have
                ended.
            GridError: the rows do not fit the columns of the grid.
        """
        from flowdist.feeds import feed

        return Run(feed(self, self._handle(), rows, priority), self._clock)

    def feeds(self) -> list[Run]:
        """The rows that were fed to this run, each time as a run of their own, in order."""
        if not self.files.path("feeds").is_dir():
            return []
        from flowdist.feeds import fed_files

        for files in fed_files(self.files):
            if files.directory.name not in self._fed:
                self._fed[files.directory.name] = Run(files, self._clock)
        return list(self._fed.values())

    # -- private -------------------------------------------------------------------------------

    def _ask_to_end(self) -> None:
        handle = self._handle()
        if self._own_status().ended:
            return
        self.backend.cancel(handle)
        # What looks after a launch may have begun the next one meanwhile.
        while (later := self._handle()).attempt > handle.attempt:
            handle = later
            self.backend.cancel(handle)

    def _fetch(self) -> None:
        """Bring what jobs have written so far."""
        self.backend.fetch(self._handle())
        for fed in self.feeds():
            fed.backend.fetch(fed._handle())

    def __repr__(self) -> str:
        return f"Run({self.id!r}, {self.rows:,} rows, {self.directory})"

    def _handle(self, attempt: int | None = None) -> Handle:
        """A launch (default: the latest); number 0 where the run was written and never launched."""
        self._check_there()
        if attempt is None:
            attempt = max(self.files.attempts(), default=0)
        intent = self.files.read_json(self.files.intent(attempt)) or {}
        jobs = intent.get("jobs", list(range(self.manifest["layout"]["jobs"])))
        started = self.files.read_json(self.files.launch(attempt))
        return Handle(self.files, attempt, jobs_of(self.manifest, jobs), started)

    def _jobs(self) -> int:
        return job_count(self.manifest)

    def _failed_groups(self) -> bool:
        from flowdist.states import row_states

        return any(
            (row_states(self.files, phase["groups"], phase["table"]) == FAILED).any()
            for phase in reduce_phases(self.manifest)
        )

    def _check_there(self) -> None:
        """Raise where the run's directory has been removed since this object was made."""
        if not self.files.path(RunFiles.RUN).is_file():
            raise RunNotFound(f"run {self.id} is not in {self.directory.parent}: it was deleted")

    def _wait_for_end(self) -> None:
        """`wait`, without counting the rows of a run that has ended: whoever calls reads them."""
        handle = self._handle()
        ended = all(state.ended for state in self.backend.poll(handle).values())
        for fed in self.feeds():
            fed._wait_for_end()
        if not ended or max(self.files.attempts(), default=0) > handle.attempt:
            self.wait()

    def _check(self, as_: str, errors: str) -> None:
        self._check_there()
        if as_ not in ("pandas", "polars", "arrow"):
            raise RunError(f"as_={as_!r}; expected 'pandas', 'polars' or 'arrow'")
        if errors not in ("raise", "keep", "drop"):
            raise RunError(f"errors={errors!r}; expected 'raise', 'keep' or 'drop'")

    def _without_failures(
        self, table: pa.Table, what: str, errors: RowErrors, *, partial: bool = False
    ) -> pa.Table:
        """The table as `errors` says; raises where rows failed or are missing and it says so."""
        import pyarrow as pa

        status = table.column("_status").to_numpy()
        failed, missing = int((status == FAILED).sum()), int((status == MISSING).sum())
        if missing and not partial:
            now = self.status()
            known = f" ({now.reason})" if now.reason else ""
            if failed:
                first = self._failed(table, failed, what).splitlines()[0]
                known += f". {first}\nIn all"
            else:
                known += " and"
            raise RunIncomplete(
                f"run {self.id} is {now.state}{known} {missing:,} of {len(status):,} {what} have "
                "no result; run.resume() starts them, collect(partial=True) takes what is there"
            )
        if failed and errors == "raise":
            raise RowsFailed(self._failed(table, failed, what))
        if errors == "drop" and failed + missing:
            table = table.filter(pa.array((status != FAILED) & (status != MISSING)))
        return table

    def _nested(self, table: pa.Table, stage: str, field: str) -> str | None:
        """The column of nested tables that is meant; None where the stage's table is not one."""
        from flowdist.results import is_nested

        own = [c for c in table.schema if c.name.startswith(f"{stage}.")]
        tables = [c.name for c in own if is_nested(c.type)]
        column = f"{stage}.{field or 'table'}"
        if column in tables:
            return column
        if not field:
            return None
        fields = [name.removeprefix(f"{stage}.") for name in tables]
        raise RunError(
            f"stage '{stage}' of run {self.id} has no nested table '{field}'"
            f"{nearest(field, fields)} (there are: {', '.join(fields) or 'none'})"
        )

    def _failed(self, table: pa.Table, failed: int, what: str) -> str:
        from flowdist.results import error_rows, failure_line

        first = error_rows(table)[0]
        unit = f"row {first['row']}"
        if what != "rows":
            by = [name for name in table.column_names if name in self.manifest["columns"]]
            group = ", ".join(f"{name}={first[name]!r}" for name in by if name in first)
            unit = f"group {group or first['row']}"
        return (
            f"{failed:,} of {table.num_rows:,} {what} failed; the first, {unit}: "
            f"{failure_line(first['stage'], first['type'], first['message'])}\n"
            "run.errors() lists them all; errors='keep' or errors='drop' takes the others; "
            "run.resume(failed=True) tries them again"
        )


def _root(given: str | Path | None) -> Path:
    """Where runs are on this machine."""
    return Path(given).expanduser().absolute() if given is not None else default_root()


def _run_directories(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    # os.path says no to what is not ours to look into, where a Path would raise.
    return [d for d in sorted(root.iterdir()) if os.path.isfile(d / RunFiles.RUN)]
