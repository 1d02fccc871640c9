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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pyarrow as pa

from flowdist.parts import FAILED, MISSING
from flowdist.results import row_states
from flowdist.settings import host
from flowdist.store import JobAttempt, RunFiles
from flowdist.tables import in_layout_order, map_table
from flowdist.workers.groups import prepare
from flowdist.workers.job import Job, Limits, Outcome
from flowdist.workers.pool import Pool
from flowdist.workers.process import WorkerSetup
from flowdist.workers.queue import DirectoryQueue
from flowdist.workers.source import Chunks, QueueSource, Source, StaticSource

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger("flowdist.launch")

# In the name of what a launch itself has to say; no job has this number.
NO_JOB = 10**9


class Stopped(Exception):
    """The launch ends early; the reason is its message."""


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
    manifest: dict[str, Any] = field(init=False)
    intent: dict[str, Any] = field(init=False)
    # When the time of the job that runs now is over (unix seconds).
    deadline: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.manifest = self.files.manifest()
        self.intent = self.files.read_json(self.files.intent(self.attempt)) or {}

    @property
    def plan(self) -> dict[str, Any]:
        found: dict[str, Any] = self.manifest["plan"]
        return found

    @property
    def time_limit(self) -> float | None:
        """Seconds that the plan gives a job."""
        found: float | None = self.plan["resources"].get("time")
        return found

    def chunks(self) -> tuple[Chunks, pa.Table]:
        """The chunks with what is done of them, and the table of chunks itself."""
        table = map_table(self.files.path(self.files.CHUNKS))
        done = self.done("rows", self.manifest["layout"]["rows"])
        if done is not None:
            done = in_layout_order(self.files, done)
        first, stop = table.column("first").to_numpy(), table.column("stop").to_numpy()
        return Chunks(first, stop, done), table

    def done(self, table: str, rows: int) -> NDArray[np.bool_] | None:
        """Which rows of a table earlier launches have done, shape (rows,); None on the first."""
        if self.attempt == 1:
            return None
        redo = (MISSING, FAILED) if self.intent.get("failed") else (MISSING,)
        return ~np.isin(row_states(self.files, rows, table), redo)

    def pool(self, phase: dict[str, Any]) -> Pool:
        """Workers for a phase, as many and of the kind that the plan says; the time of a job begins
        now.
        """
        self.deadline = None if self.time_limit is None else time.time() + self.time_limit
        workers, within = int(self.manifest["workers"]), self.plan["within"]
        processes, lanes = {"sequential": (1, 1), "threads": (1, workers)}.get(within, (workers, 1))
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
            fresh=within == "subprocess",
            stages=phase["stages"],
            timeouts=phase["timeouts"],
        )

    @property
    def limits(self) -> Limits:
        return Limits(
            max_failures=self.manifest["failure_limit"],
            deadline=self.deadline,
            spare=min(Limits.spare, self.plan["resources"].get("time", 0) / 10),
            whole_chunks=self.plan["within"] == "subprocess",
        )

    def failures_but(self, who: JobAttempt) -> Callable[[], int]:
        """Counts the failed rows of this launch's other jobs."""

        def count() -> int:
            beats = self.files.beats(self.attempt)
            return sum(int(beat["failed"]) for other, beat in beats if other != who)

        return count

    def run(self, job: int, source: Source, pool: Pool, phase: dict[str, Any]) -> Outcome:
        """Run one job to its end. Raises `Stopped` where the run is to stop."""
        who = JobAttempt(job, self.attempt)
        outcome = Job(
            self.files,
            who,
            source,
            pool,
            table=phase["table"],
            limits=self.limits,
            failures_elsewhere=self.failures_but(who),
            stopping=lambda: self.stop.reason,
        ).run()
        if outcome.stopped:
            raise Stopped(outcome.stopped)
        return outcome

    def source(self, job: int, chunks: Chunks, table: pa.Table) -> Source:
        """Where a job of the rows gets its work."""
        whole = self.limits.whole_chunks
        if self.plan["dispatch"] == "queue":
            queue = queue_of(self.files, self.manifest, self.attempt)
            # A name that no other start of this job has, on whatever host with whatever pid.
            worker = f"{host()}-{job}-{uuid.uuid4().hex[:8]}"
            queue.renew(worker)
            return QueueSource(queue, chunks, worker, whole=whole)
        # Chunks of a job are consecutive.
        first, stop = np.searchsorted(table.column("job").to_numpy(), [job, job + 1]).tolist()
        return StaticSource(chunks.spans(first, stop, whole=whole))


def queue_of(files: RunFiles, manifest: dict[str, Any], attempt: int) -> DirectoryQueue:
    """The queue of one launch: a new launch never meets the claims of an older one."""
    return DirectoryQueue(files.store, f"queue/{attempt:04d}", lease=float(manifest["lease"]))


def job_main(directory: Path, attempt: int, job: int) -> int:
    """Run one job, of the rows or a reduce: what a scheduler's task calls."""
    files, stop = RunFiles.at(directory), StopFlag()
    _log()
    with stop.on_signals():
        try:
            launch = Launch(files, attempt, stop)
            rows, *reduces = launch.manifest["phases"]
            phase = next((p for p in reduces if p["first_job"] == job), rows)
            if phase is not rows:
                _run_reduce(launch, phase)
            else:
                chunks, table = launch.chunks()
                with contextlib.closing(launch.pool(rows)) as pool:
                    launch.run(job, launch.source(job, chunks, table), pool, rows)
        except Stopped as why:
            logger.info("job %d: %s", job, why)
            return 1
        except Exception as error:
            _record_failure(files, JobAttempt(job, attempt), error)
            return 3
    return 0


def launch_main(directory: Path, attempt: int) -> int:
    """Run all jobs of a launch on this machine: rows first, then each reduce."""
    files, stop = RunFiles.at(directory), StopFlag()
    _log()
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
            _run_rows(launch)
            for phase in launch.manifest["phases"][1:]:
                _run_reduce(launch, phase)
        except Stopped as why:
            logger.info("launch %d: %s", attempt, why)
            files.request_stop(attempt, str(why), time.time())
            return 1
        except Exception as error:
            _record_failure(files, JobAttempt(NO_JOB, attempt), error)
            return 3
    return 0


def _run_rows(launch: Launch) -> None:
    phase = launch.manifest["phases"][0]
    jobs: list[int] = launch.intent.get("jobs", [])
    at_once = min(int(launch.manifest["jobs_at_once"]), len(jobs))
    if at_once > 1:
        _run_job_processes(launch, jobs, at_once)
        return
    chunks, table = launch.chunks()
    # One pool serves all jobs, unless each has a time limit of its own, which workers know of.
    for together in [jobs] if launch.time_limit is None else [[job] for job in jobs]:
        with contextlib.closing(launch.pool(phase)) as pool:
            for job in together:
                launch.run(job, launch.source(job, chunks, table), pool, phase)


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


def _run_reduce(launch: Launch, phase: dict[str, Any]) -> None:
    """Run a reduce over the groups that have no result, or none of the rows as they are now."""
    with contextlib.closing(launch.pool(phase)) as pool:
        rows = launch.manifest["layout"]["rows"]
        groups = prepare(launch.files, rows, tuple(phase["by"]), pool.scratch)
        done = launch.done(phase["table"], groups)
        spans = Chunks(np.arange(groups), np.arange(groups) + 1, done).spans(0, groups, whole=False)
        launch.run(int(phase["first_job"]), StaticSource(spans), pool, phase)


def _record_failure(files: RunFiles, who: JobAttempt, error: Exception) -> None:
    """Say in the run why a job could not go on, beside what it had done."""
    logger.error("%s", "".join(traceback.format_exception(error)))
    nothing = {"rows": 0, "ok": 0, "failed": 0, "skipped": 0}
    beat = files.read_json(files.beat(who)) or nothing
    reason = f"{type(error).__name__}: {error}"
    said = {"time": time.time(), "state": "failed", "reason": reason, "host": host()}
    files.put_beat(who, {**beat, **said, "pid": os.getpid()})


def _log() -> None:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr
    )
