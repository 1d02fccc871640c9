"""Running the jobs of a launch: one of them, or all of them on this machine, phase after phase.

This process never runs user code. On SIGTERM or SIGINT it ends its workers, commits finished rows,
and leaves the run to be resumed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pyarrow as pa

from flowdist.lean import defer_pandas
from flowdist.machine import cores_available
from flowdist.parts import FAILED, MISSING, OK, SKIPPED
from flowdist.phases import (
    Phase,
    earlier,
    is_reduce,
    job_in,
    phase_of,
    reduce_phases,
    row_phases,
)
from flowdist.settings import host
from flowdist.states import count_states, row_states
from flowdist.store import JobAttempt, RunFiles, await_parts
from flowdist.tables import in_layout_order, map_table
from flowdist.workers.carry import index_carried
from flowdist.workers.job import Ending, Job, Limits, Outcome, Tally
from flowdist.workers.pool import Pool
from flowdist.workers.process import WorkerSetup
from flowdist.workers.queue import DirectoryQueue, Queue
from flowdist.workers.source import Chunks, QueueSource, Source, StaticSource

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger("flowdist.launch")

# In the name of what a launch itself has to say; no job has this number.
NO_JOB = 10**9
# The exit code of a job that has work left and no time: who started it may start it again.
TIME_IS_UP = 75
# Those of jobs that have ended early, but for 1.
_EXIT_CODES = {"time": TIME_IS_UP, "budget": 0, "left": 0}


class Stopped(Exception):
    """The launch ends early; the reason is its message, `ending` the kind of reason (see
    `flowdist.workers.job.Outcome`).
    """

    def __init__(self, reason: str, ending: str = "told") -> None:
        super().__init__(reason)
        self.ending = ending


@dataclass
class StopFlag:
    """Set by the first SIGTERM or SIGINT."""

    reason: str = ""

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            self.reason = self.reason or f"stopped by {signal.Signals(number).name}"

        before = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass
class Launch:
    """What the processes of one launch share: the manifest, the intent, and what was done
    before.
    """

    files: RunFiles
    attempt: int
    stop: StopFlag
    # Whether the scheduler starts this job again: it goes on with what its parts do not have.
    again: bool = False
    # When the scheduler began to count the job's time (unix seconds); None: when its pool is made.
    began: float | None = None
    # Where chunks are claimed from; None: from the run's directory.
    queue: Queue | None = None
    # Says when the job shall begin no more rows, and why (see `flowdist.workers.job.Limits`).
    enough: Callable[[], tuple[Ending, str] | None] = lambda: None
    manifest: dict[str, Any] = field(init=False)
    intent: dict[str, Any] = field(init=False)
    # Of the job that runs now: what its workers are, what it has, and when its time is over (unix
    # seconds).
    within: str = field(init=False, default="processes")
    resources: dict[str, float] = field(init=False, default_factory=dict)
    deadline: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.manifest = self.files.manifest()
        self.intent = self.files.read_json(self.files.intent(self.attempt)) or {}

    @property
    def plan(self) -> dict[str, Any]:
        found: dict[str, Any] = self.manifest["plan"]
        return found

    def chunks(self, phase: Phase, job: int) -> tuple[Chunks, pa.Table]:
        """The chunks of a phase of rows with what is not to be run of them, and the table of chunks
        itself.
        """
        table = map_table(self.files.path(self.files.CHUNKS))
        done = self.done(phase, job)
        if done is not None:
            done = in_layout_order(self.files, done)
        first, stop = table.column("first").to_numpy(), table.column("stop").to_numpy()
        return Chunks(first, stop, done), table

    def done(self, phase: Phase, job: int) -> NDArray[np.bool_] | None:
        """Which rows of a phase are not to be run, shape (rows,); None where all are."""
        done = self._left_out(phase, job)
        if self.again:
            ended = self._ended(phase, self._parts(phase["table"], job, phase))
            done = ended if done is None else done | ended
        return done

    def done_now(self, phase: Phase) -> NDArray[np.bool_]:
        """Which rows of a phase this launch has done by now, in the order of the layout."""
        return in_layout_order(self.files, self._ended(phase, None))

    def _ended(self, phase: Phase, names: Sequence[str] | None) -> NDArray[np.bool_]:
        """Which rows of a phase have a result in parts of this launch, shape (rows,)."""
        names = self.files.parts() if names is None else names
        own = [n for n in names if JobAttempt.of(n).attempt == self.attempt]
        rows = int(self.manifest["layout"]["rows"])
        ended: NDArray[np.bool_] = row_states(self.files, rows, phase["table"], own) != MISSING
        return ended

    def _left_out(self, phase: Phase, job: int) -> NDArray[np.bool_] | None:
        """Which rows of a phase were done before this launch, or are not ready for the phase."""
        done: NDArray[np.bool_] | None = None
        if self.attempt > 1:
            table = map_table(self.files.path(self.files.done(self.attempt)))
            done = table.column(phase["table"]).to_numpy().copy()
        before = earlier(self.manifest, phase)
        if before:
            states = self._states(before[-1]["table"], job, phase)
            ready = (states == OK) | (states == SKIPPED)
            done = ~ready if done is None else done | ~ready
        return done

    def _states(self, table: str, job: int, phase: Phase) -> NDArray[np.int8]:
        """The states of rows in one phase; with static dispatch of those of one job only."""
        rows = int(self.manifest["layout"]["rows"])
        return row_states(self.files, rows, table, self._parts(table, job, phase))

    def _parts(self, table: str, job: int, phase: Phase) -> list[str] | None:
        """The parts that can hold what a job needs of a phase's table; None: any."""
        if self.plan["dispatch"] == "queue":
            return None
        of = next(p for p in row_phases(self.manifest) if p["table"] == table)
        return self.files.parts_of(job_in(of, phase, job), self.attempt)

    def jobs_before(self, phase: Phase, job: int) -> list[int] | None:
        """The jobs whose parts a job reads; None: any."""
        if is_reduce(phase) or self.plan["dispatch"] == "queue":
            return None
        return [job_in(p, phase, job) for p in earlier(self.manifest, phase)]

    def carried(self, phase: Phase, job: int, scratch: Path) -> None:
        """Prepare what earlier phases have returned for the workers of this one."""
        before = earlier(self.manifest, phase)
        if before:
            found = [self._parts(p["table"], job, phase) for p in before]
            names = self.files.parts() if None in found else [n for f in found for n in f or ()]
            index_carried(self.files, self.manifest, phase, names, scratch)

    def groups_done(self, table: str, groups: int) -> NDArray[np.bool_] | None:
        """Which groups of a reduce have a result already, shape (groups,); None where none has."""
        if self.attempt == 1 and not self.again:
            return None
        redo = (MISSING, FAILED) if self.intent.get("failed") else (MISSING,)
        return ~np.isin(row_states(self.files, groups, table), redo)

    def pool(self, phase: Phase) -> Pool:
        """Workers for a phase, as many and of the kind that its plan says; the time of a job begins
        now.
        """
        self.resources, self.within = self._resources(phase), str(phase["plan"]["within"])
        limit = self.resources.get("time")
        began = time.time() if self.began is None else self.began
        self.deadline = None if limit is None else began + limit
        workers = worker_count(phase)
        modes = {"sequential": (1, 1), "threads": (1, workers)}
        processes, lanes = modes.get(self.within, (workers, 1))
        setup = WorkerSetup(
            directory=str(self.files.directory),
            table=phase["table"],
            attempt=self.attempt,
            deadline=self.deadline,
        )
        return Pool(
            setup,
            processes=processes,
            lanes=lanes,
            fresh=self.within == "subprocess",
            stages=phase["stages"],
            timeouts=phase["timeouts"],
        )

    def _resources(self, phase: Phase) -> dict[str, float]:
        """What a job of the phase has: what its plan asks for, as often as this launch says."""
        scale = self.intent.get("scale", {}).get(phase["table"], {})
        asked = phase["plan"]["resources"]
        return {name: value * scale.get(name, 1) for name, value in asked.items()}

    @property
    def limits(self) -> Limits:
        return Limits(
            max_failures=self.manifest["failure_limit"],
            deadline=self.deadline,
            spare=min(Limits.spare, self.resources.get("time", 0) / 10),
            whole_chunks=self.within == "subprocess",
            enough=self._enough,
        )

    def _enough(self) -> tuple[Ending, str] | None:
        """Why no row is to be begun any more: the time budget of the launch is spent, or whoever
        runs the job says so.
        """
        until = begin_until(self.manifest, self.attempt, self.intent)
        if until is not None and time.time() >= until:
            from flowdist.resources import format_time  # brings pydantic, of no use in most jobs

            budget = format_time(int(self.plan["time_budget"]))
            return "budget", f"the time budget of {budget} is spent"
        return self.enough()

    def failures_but(self, who: JobAttempt) -> Callable[[], int]:
        """Counts the failed rows of this launch's other jobs."""

        def count() -> int:
            beats = self.files.beats(self.attempt)
            return sum(int(beat["failed"]) for other, beat in beats if other != who)

        return count

    def run(self, job: int, source: Source, pool: Pool, phase: Phase) -> Outcome:
        """Run one job to its end. Raises `Stopped` where it ended early."""
        who = JobAttempt(job, self.attempt)
        outcome = Job(
            self.files,
            who,
            source,
            pool,
            table=phase["table"],
            before=self._before(who, phase),
            limits=replace(self.limits, enough=lambda: None) if is_reduce(phase) else self.limits,
            failures_elsewhere=self.failures_but(who),
            stopping=lambda: self.stop.reason,
        ).run()
        if outcome.stopped:
            raise Stopped(outcome.stopped, outcome.ending)
        return outcome

    def _before(self, who: JobAttempt, phase: Phase) -> Tally:
        """What earlier starts of the same job have done in this launch."""
        if not self.again or is_reduce(phase):
            return Tally()
        rows = int(self.manifest["layout"]["rows"])
        own = [n for n in self.files.parts_of(who.job, who.attempt) if f"{who}-" in n]
        counts = count_states(row_states(self.files, rows, phase["table"], own))
        return Tally(counts.ok, counts.failed, counts.skipped)

    def source(
        self, job: int, chunks: Chunks, table: pa.Table, phase: Phase, width: int = 1
    ) -> Source:
        """Where a job of the rows gets its work."""
        whole, number = self.limits.whole_chunks, job - int(phase["first_job"])
        if self.plan["dispatch"] == "queue":
            queue = self.queue or queue_of(
                self.files, self.manifest, self.attempt, phase, place=number
            )
            # A name that no other start of this job has, on whatever host with whatever pid.
            worker = f"{host()}-{job}-{uuid.uuid4().hex[:8]}"
            queue.renew(worker)
            return QueueSource(
                queue,
                chunks,
                worker,
                whole=whole,
                width=width,
                done_now=lambda: self.done_now(phase),
            )
        # Chunks of a job are consecutive.
        jobs = table.column("job").to_numpy()
        first, stop = np.searchsorted(jobs, [number, number + 1]).tolist()
        return StaticSource(chunks.spans(first, stop, whole=whole))


def worker_count(phase: Phase) -> int:
    """How many workers a job of the phase has; where its plan leaves that to the machine, as many
    as the job's cores allow.
    """
    if phase["workers"] is not None:
        return int(phase["workers"])
    return max(1, cores_available() // int(phase["plan"]["resources"].get("cpus", 1)))


def begin_until(
    manifest: Mapping[str, Any], attempt: int, intent: Mapping[str, Any]
) -> float | None:
    """When the time budget of a launch is spent (unix seconds); None where it has none. What is fed
    to a run has no longer than that.
    """
    budget = manifest["plan"].get("time_budget")
    fed = manifest.get("fed") if attempt == 1 else None
    since = fed["since"] if fed else intent.get("time")
    return None if budget is None or since is None else float(since) + budget


def queue_of(
    files: RunFiles, manifest: Mapping[str, Any], attempt: int, phase: Phase, place: int = 0
) -> DirectoryQueue:
    """The queue of one phase of one launch: a new launch never meets the claims of an older one."""
    folder = f"queue/{attempt:04d}/{phase['table']}"
    return DirectoryQueue(files.store, folder, lease=float(manifest["lease"]), place=place)


def job_main(
    directory: Path,
    attempt: int,
    job: int,
    *,
    again: bool = False,
    began: float | None = None,
    queue: Queue | None = None,
    enough: Callable[[], tuple[Ending, str] | None] = lambda: None,
    stop: StopFlag | None = None,
) -> int:
    """Run one job, of the rows or a reduce: what a scheduler's task calls.

    Args:
        again: the scheduler has started the job before, in this launch.
        began: when the scheduler began to count the job's time (unix seconds).
        queue: where its chunks are claimed from; the job is then one of the rows, whatever its
            number. None: as the plan says.
        enough: says when it shall begin no more rows, and why.
        stop: set from outside where the job shall end.

    Returns:
        0 where the job has done its part, `TIME_IS_UP` where its time limit came first, 1 where it
        was stopped, 3 where it failed.
    """
    files, stop = RunFiles.at(directory), stop or StopFlag()
    log_to_stderr()
    defer_pandas()
    with stop.on_signals():
        try:
            launch = Launch(files, attempt, stop, again, began, queue, enough)
            manifest = launch.manifest
            phase = phase_of(manifest, job) if queue is None else row_phases(manifest)[0]
            # What other machines have written may be seen here a while later.
            wanted = launch.jobs_before(phase, job)
            if phase["first_job"] and (late := await_parts(files, attempt, jobs=wanted)):
                logger.warning("not seen yet, and not waited for any longer: %s", ", ".join(late))
            if is_reduce(phase):
                _run_reduce(launch, phase)
            else:
                _run_job(launch, phase, [job])
        except Stopped as why:
            logger.info("job %d: %s", job, why)
            return _EXIT_CODES.get(why.ending, 1)
        except Exception as error:
            _record_failure(files, JobAttempt(job, attempt), error)
            return 3
    return 0


def launch_main(directory: Path, attempt: int) -> int:
    """Run all jobs of a launch on this machine: rows first, then each reduce."""
    files, stop = RunFiles.at(directory), StopFlag()
    log_to_stderr()
    defer_pandas()
    me = psutil.Process()
    if max(files.attempts(), default=attempt) > attempt:
        logger.error("launch %d is not run: a later one exists", attempt)
        return 1
    files.put_json(
        files.launch(attempt),
        {"time": time.time(), "host": host(), "pid": me.pid, "command": me.cmdline()},
    )
    with stop.on_signals():
        try:
            launch = Launch(files, attempt, stop)
            for phase in row_phases(launch.manifest):
                _run_rows(launch, phase)
            for phase in reduce_phases(launch.manifest):
                _run_reduce(launch, phase)
        except Stopped as why:
            logger.info("launch %d: %s", attempt, why)
            files.request_stop(attempt, str(why), time.time())
            return 1
        except Exception as error:
            _record_failure(files, JobAttempt(NO_JOB, attempt), error)
            return 3
    return 0


def _run_rows(launch: Launch, phase: Phase) -> None:
    """Run the launch's jobs of a phase of rows on this machine."""
    jobs = [int(phase["first_job"]) + int(job) for job in launch.intent.get("jobs", [])]
    at_once = min(int(launch.manifest["jobs_at_once"]), len(jobs))
    if at_once > 1:
        _run_job_processes(launch, jobs, at_once)
        return
    # One pool serves all jobs, unless each has a time limit of its own, which workers know of.
    timed = "time" in phase["plan"]["resources"]
    for together in [[job] for job in jobs] if timed else [jobs]:
        _run_job(launch, phase, together)


def _run_job(launch: Launch, phase: Phase, jobs: Sequence[int]) -> None:
    """Run jobs of a phase of rows in this process, one after another, in one pool."""
    if not jobs:
        return
    chunks, table = launch.chunks(phase, jobs[0])
    with contextlib.closing(launch.pool(phase)) as pool:
        launch.carried(phase, jobs[0], pool.scratch)
        for job in jobs:
            launch.run(job, launch.source(job, chunks, table, phase, pool.width), pool, phase)


def _run_job_processes(launch: Launch, jobs: list[int], at_once: int) -> None:
    """Run each job in a process of its own, `at_once` of them at a time."""
    waiting, running = list(jobs), dict[int, subprocess.Popen[bytes]]()
    failed: list[int] = []
    try:
        while waiting or running:
            while waiting and len(running) < at_once and not launch.stop.reason:
                job = waiting.pop(0)
                running[job] = _start_job(launch, job)
            if launch.stop.reason:
                break
            time.sleep(0.05)
            ended = [job for job, process in running.items() if process.poll() is not None]
            cut_off = [job for job in ended if running.pop(job).returncode != 0]
            failed += cut_off
            if cut_off and launch.files.read_json(launch.files.stop(launch.attempt)) is not None:
                waiting.clear()  # jobs that run see it themselves
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
    if launch.stop.reason:
        raise Stopped(launch.stop.reason)
    request = launch.files.read_json(launch.files.stop(launch.attempt))
    if request is not None:
        raise Stopped(str(request["reason"]))
    states = row_states(launch.files, launch.manifest["layout"]["rows"])
    missing = int((states == MISSING).sum())
    spent = launch.limits.enough()
    if missing and spent is not None:
        ending, reason = spent
        raise Stopped(reason, ending)
    if missing:
        raise Stopped(
            f"{missing} rows have no result: jobs {failed or jobs} ended before they were done"
        )


def _start_job(launch: Launch, job: int) -> subprocess.Popen[bytes]:
    log = launch.files.path(launch.files.log(JobAttempt(job, launch.attempt)))
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = [sys.executable, "-m", "flowdist.workers", "job"]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*command, str(launch.files.directory), str(launch.attempt), str(job)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


def _run_reduce(launch: Launch, phase: Phase) -> None:
    """Run a reduce over the groups that have no result, or none of the rows as they are now."""
    rows = launch.manifest["layout"]["rows"]
    missing = int((row_states(launch.files, rows) == MISSING).sum())
    if missing:
        why = f"{missing:,} rows have no result, which reduce '{phase['table']}' waits for"
        who = JobAttempt(int(phase["first_job"]), launch.attempt)
        _say(launch.files, who, "stopped", why, table=phase["table"], ending="rows")
        raise Stopped(why, "rows")
    from flowdist.workers.groups import prepare

    with contextlib.closing(launch.pool(phase)) as pool:
        groups = prepare(launch.files, rows, tuple(phase["by"]), pool.scratch)
        done = launch.groups_done(phase["table"], groups)
        spans = Chunks(np.arange(groups), np.arange(groups) + 1, done).spans(0, groups, whole=False)
        launch.run(int(phase["first_job"]), StaticSource(spans), pool, phase)


def _record_failure(files: RunFiles, who: JobAttempt, error: Exception) -> None:
    """Say in the run why a job could not go on, beside what it had done."""
    logger.error("%s", "".join(traceback.format_exception(error)))
    _say(files, who, "failed", f"{type(error).__name__}: {error}")


def _say(files: RunFiles, who: JobAttempt, state: str, reason: str, **more: str) -> None:
    """Let the heartbeat of a job that is not at work be its last word."""
    nothing = {"rows": 0, "ok": 0, "failed": 0, "skipped": 0}
    beat = files.read_json(files.beat(who)) or nothing
    said = {"time": time.time(), "state": state, "reason": reason, "host": host(), **more}
    files.put_beat(who, {**beat, **said, "pid": os.getpid()})


def log_to_stderr() -> None:
    """Let what a job has to say go where its output goes."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr
    )
    # Where a job speaks with Snowflake: not each of its requests.
    logging.getLogger("snowflake").setLevel(logging.WARNING)
