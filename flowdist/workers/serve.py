"""What a container of `spcs_queue` runs: claim chunks, run them, look for more.

``python -m flowdist.workers container queue RUNS POOL TABLE [IDLE]``. A pool is what workers take
their work from: a persistent one that several runs and users share, or that of one launch, whose
name is the launch's own; runs that are fed to that launch are in its pool too. A worker takes the
launch that its share is smallest of, works for it until nothing is left or another needs it more,
and then looks again. The workers of a launch end when nothing of their pool is left; those of a
persistent pool that have found nothing for IDLE seconds suspend the service.

Which launch to take is decided in `flowdist.workers.fair`, what waits is asked of the queue
(`flowdist.workers.claiming`); rows are run by `flowdist.workers.supervise`, as in every job.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowdist.clock import Clock, SystemClock
from flowdist.errors import RunError
from flowdist.snowflake.connection import Client, SnowflakeError
from flowdist.snowflake.names import Name
from flowdist.store import LATE_SECONDS, VISITORS, JobAttempt, RunFiles
from flowdist.workers.__main__ import THREAD_VARIABLES, importing, threads_of
from flowdist.workers.container import job_of_replica, local_view, session
from flowdist.workers.fair import Offer, Stay, leave_for, pick

if TYPE_CHECKING:
    from flowdist.workers.claiming import TableQueue, Waiting
    from flowdist.workers.job import Ending
    from flowdist.workers.supervise import StopFlag

__all__ = ["Server", "launch_of", "serve"]

logger = logging.getLogger("flowdist.serve")

# Who has nothing looks again after so long, at first and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 3.0
# Workers that were started before their chunks were put into the queue wait for them so long.
WARM_SECONDS = 1800.0
# A queue that does not answer is asked for so long.
PATIENCE = 600.0
# A run whose files cannot be seen yet is left alone for so long.
UNSEEN_SECONDS = 60.0
# Which replica of a job service this is, and of how many.
_REPLICA = ("JOB_INDEX", "JOBS_COUNT")
# How many threads this process lets numerical libraries have.
_THREADS = "FLOWDIST_THREADS"
# The exit code of a process that was told to end.
TERMINATED = 143


def serve(runs: Path, pool: str, table: str, idle: str = "0") -> int:
    """Work for a pool until there is nothing to do; the exit code is 0 then, 3 where the launch
    that the workers were started for cannot be run here.
    """
    if _THREADS not in os.environ:
        # Before the connector, which may bring numpy: what most runs want. A process that has begun
        # anew has what the run wants that it did so for.
        own = RunFiles.at(runs / launch_of(pool)[0]) if "/" in pool else None
        manifest = None if own is None else own.read_json(own.RUN)
        fit_threads(1 if manifest is None else threads_of(manifest["phases"][0]))
    with importing():
        from flowdist.workers.supervise import StopFlag, log_to_stderr
    log_to_stderr()
    client = session({"pool": pool})
    try:
        return Server(runs, pool, Name.parse(table), client, StopFlag(), idle=float(idle)).run()
    finally:
        client.close()


def launch_of(job_id: str) -> tuple[str, int]:
    """The run and the number of the launch that a JOB_ID of the queue stands for.

    >>> launch_of("fit-1125-101500-ab12/2")
    ('fit-1125-101500-ab12', 2)
    """
    run, _, attempt = job_id.rpartition("/")
    return run, int(attempt)


@dataclass
class _Known:
    """What does not change of a launch: whose it is, how many threads numerical libraries may have
    in it, and when it begins no more rows.
    """

    user: str
    threads: int
    until: float | None
    files: RunFiles
    attempt: int


class Server:
    """A worker of a pool.

    Args:
        runs: the folder of runs, a mounted stage.
        pool: what chunks are claimed of.
        table: the queue.
        client: for the queue.
        stop: set where the process is told to end.
        idle: a persistent pool whose worker has found nothing for so many seconds is suspended; 0:
            never.
    """

    def __init__(
        self,
        runs: Path,
        pool: str,
        table: Name,
        client: Client,
        stop: StopFlag,
        *,
        idle: float = 0.0,
        clock: Clock | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._runs = runs
        self._pool = pool
        self._table = table
        self._client = client
        self._stop = stop
        self._idle = idle
        self._clock = clock or SystemClock()
        self._environ = os.environ if environ is None else environ
        self._chance = random.Random()
        self._kind: type[TableQueue] | None = None
        self._known: dict[str, _Known] = {}
        # Launches that are over for this worker, and those whose files were not seen: until when.
        self._over: set[str] = set()
        self._unseen: dict[str, float] = {}
        # Whether something waits that cannot be seen yet, and whether others are at work.
        self._hidden = self._others = False
        # Where it was last, if it left there for another.
        self._left = ""
        self._started = self._busy = self._clock.monotonic()
        self._pause = FIRST_PAUSE

    @property
    def _own(self) -> str:
        """The launch that these workers were started for; empty for a persistent pool."""
        return self._pool if "/" in self._pool else ""

    def run(self) -> int:
        """Work; returns the exit code."""
        with self._stop.on_signals():
            while not self._stop.reason:
                try:
                    offers = self._offers()
                except SnowflakeError as error:
                    if not error.passing or self._idle_for > PATIENCE:
                        raise
                    logger.warning("the queue does not answer: %s", error)
                    self._wait()
                    continue
                chosen = pick(offers, self._chance, but=self._left)
                if chosen is not None:
                    code = self._visit(chosen.job_id)
                    if code is not None:
                        return code
                elif self._nothing_left(offers):
                    return 0
                else:
                    self._wait()
        return TERMINATED

    # -- what there is to do

    def _offers(self) -> list[Offer]:
        """What can be worked for, of launches that this worker can see."""
        self._hidden = False
        waiting = self._queues.waiting(self._client, self._table, self._pool)
        self._others = any(work.workers for work in waiting)
        found = (self._offer(work) for work in waiting)
        return [offer for offer in found if offer is not None]

    def _offer(self, work: Waiting) -> Offer | None:
        if work.job_id in self._over:
            return None
        known = self._knows(work.job_id)
        if known is None:
            self._hidden = True
            return None
        spent = known.until is not None and self._clock.time() >= known.until
        stopped = known.files.read_json(known.files.stop(known.attempt)) is not None
        if spent or stopped or known.files.superseded(known.attempt):
            self._over.add(work.job_id)
            return None
        return Offer(work.job_id, known.user, work.priority, work.waiting, work.workers)

    def _knows(self, job_id: str) -> _Known | None:
        """What is known of a launch; None where its files cannot be seen here (yet)."""
        if job_id not in self._known and self._unseen.get(job_id, 0.0) <= self._clock.monotonic():
            run, attempt = launch_of(job_id)
            files = RunFiles.at(self._runs / run)
            manifest = files.read_json(files.RUN)
            intent = files.read_json(files.intent(attempt))
            if manifest is None or intent is None:
                self._unseen[job_id] = self._clock.monotonic() + LONGEST_PAUSE
                return None
            from flowdist.workers.supervise import begin_until

            until = begin_until(manifest, attempt, intent)
            threads = threads_of(manifest["phases"][0])
            self._known[job_id] = _Known(str(manifest["user"]), threads, until, files, attempt)
        return self._known.get(job_id)

    def _nothing_left(self, offers: list[Offer]) -> bool:
        """Whether to end: nothing of the pool is left, or nothing has come for so long that what is
        left is done by others; a persistent pool is suspended first.
        """
        if self._hidden and self._idle_for < LATE_SECONDS:
            return False
        if not self._own:
            long = self._idle and self._idle_for >= self._idle
            # Others may be at the last rows of what this one is done with.
            if long and not offers and not self._others:
                self._suspend()
            return False
        if not offers:
            begun = bool(self._over) or self._put()
            return begun or self._clock.monotonic() - self._started >= WARM_SECONDS
        # While others hold chunks, their leases may yet expire and the chunks come here.
        return self._idle_for >= max(self._idle, 2 * self._lease)

    @property
    def _idle_for(self) -> float:
        """For how many seconds there was nothing to do."""
        return self._clock.monotonic() - self._busy

    @property
    def _lease(self) -> float:
        known = self._knows(self._own)
        plan = {} if known is None else known.files.manifest()["plan"]
        return float(plan.get("lease", 60))

    def _put(self) -> bool:
        """Whether the chunks of the launch have been put into the queue."""
        run, _ = launch_of(self._own)
        manifest = RunFiles.at(self._runs / run).read_json(RunFiles.RUN)
        if manifest is None:
            return False
        return self._queue(self._own, manifest["plan"]).counts().total > 0

    def _suspend(self) -> None:
        """Suspend the pool that this worker is of, until somebody puts chunks into it."""
        logger.info("nothing to do for %.0f s: the pool is suspended", self._idle)
        with contextlib.suppress(SnowflakeError):
            self._client.run(f"ALTER SERVICE {Name.parse(self._pool).sql} SUSPEND")
        self._busy = self._clock.monotonic()

    def _wait(self) -> None:
        self._clock.sleep(self._pause * self._chance.uniform(0.75, 1.25))
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    # -- doing it

    def _visit(self, job_id: str) -> int | None:
        """Work for a launch; an exit code where this process is to end with it."""
        run, attempt = launch_of(job_id)
        self._fit_threads(self._known[job_id].threads)
        came = self._clock.monotonic()
        try:
            with local_view(self._runs / run, attempt) as directory:
                code = self._run(RunFiles.at(directory), job_id, attempt, came)
        except RunError as error:
            if job_id == self._own:
                raise
            logger.warning("%s", error)
            self._unseen[job_id] = self._clock.monotonic() + UNSEEN_SECONDS
            self._known.pop(job_id, None)
            return None
        self._busy = self._clock.monotonic()
        if self._busy - came < FIRST_PAUSE:
            self._wait()
        else:
            self._pause = FIRST_PAUSE
        from flowdist.workers.supervise import TIME_IS_UP

        if self._stop.reason:
            return TERMINATED
        if code == TIME_IS_UP:
            return 0 if self._own else None
        if code:
            self._over.add(job_id)
        return code if code == 3 and job_id == self._own else None

    def _run(self, files: RunFiles, job_id: str, attempt: int, came: float) -> int:
        from flowdist.workers.supervise import job_main

        queue = self._queue(job_id, files.manifest()["plan"])
        job = self._number(files, job_id, attempt)
        logger.info("job %d of %s", job, job_id)
        self._left = ""
        code = job_main(
            files.directory,
            attempt,
            job,
            # A job of a launch has its time from the start of its container on.
            began=self._began() if self._own else None,
            queue=queue,
            enough=self._leaving(job_id, queue, came),
            stop=self._stop,
        )
        if code == 0 and not self._left:
            self._follow(files, attempt, queue)
        return code

    def _began(self) -> float:
        return self._clock.time() - (self._clock.monotonic() - self._started)

    @property
    def _queues(self) -> type[TableQueue]:
        """What kind of queue the table is."""
        if self._kind is None:
            from flowdist.workers.table_queue import kind_of

            self._kind = kind_of(self._client, self._table)
        return self._kind

    def _queue(self, job_id: str, plan: Mapping[str, Any]) -> TableQueue:
        index, count = (int(self._environ.get(f"SNOWFLAKE_{name}", 0)) for name in _REPLICA)
        return self._queues(
            self._client,
            self._table,
            job_id,
            pool=self._pool,
            lease=float(plan["lease"]),
            max_attempts=int(plan["max_attempts"]),
            clock=self._clock,
            start=index / count if count else None,
        )

    def _number(self, files: RunFiles, job_id: str, attempt: int) -> int:
        """The number under which this worker works for a launch: that of its replica, where it is
        the first to; else one that nobody has had.
        """
        if job_id == self._own:
            job = job_of_replica(files.directory, attempt, self._environ)
            if not files.path(files.beat(JobAttempt(job, attempt))).exists():
                return job
        return VISITORS + secrets.randbelow(9 * VISITORS)

    def _leaving(
        self, job_id: str, queue: TableQueue, came: float
    ) -> Callable[[], tuple[Ending, str] | None]:
        """Says when another launch needs this worker more."""
        stay = Stay(came)

        def enough() -> tuple[Ending, str] | None:
            if not stay.due(self._clock.monotonic(), queue.begun):
                return None
            offers: list[Offer] = []
            with contextlib.suppress(SnowflakeError):
                offers = self._offers()
            stay.asked(self._clock.monotonic(), sum(offer.workers for offer in offers))
            there = leave_for(offers, job_id, self._chance)
            if not there:
                return None
            self._left = job_id
            return "left", f"{there} needs the worker more"

        return enough

    def _follow(self, files: RunFiles, attempt: int, queue: TableQueue) -> None:
        """Start the reduces of a launch whose rows are all done; the name of their job service is
        taken by the first to do so.
        """
        said = files.read_json(files.follow(attempt))
        if said is None or not queue.finished() or queue.counts().dead:
            return
        try:
            self._client.run(said["statement"])
            logger.info("all chunks are done: the reduces were started")
        except SnowflakeError as error:
            if not error.exists:
                # Whoever looks at the run starts them.
                logger.warning("the reduces were not started: %s", error)

    def _fit_threads(self, threads: int) -> None:
        """Let numerical libraries have so many threads. They read that once: for a launch that
        wants another number this process begins anew.
        """
        if not fit_threads(threads):
            self._client.close()
            command = ["container", "queue", str(self._runs), self._pool, self._table.sql]
            again = [sys.executable, "-m", "flowdist.workers", *command, f"{self._idle:g}"]
            os.execv(sys.executable, again)


def fit_threads(threads: int) -> bool:
    """Let numerical libraries have so many threads, unless the user has said how many; False where
    it is too late for that in this process.
    """
    before, wanted = os.environ.get(_THREADS), str(threads)
    if before == wanted:
        return True
    for name in THREAD_VARIABLES:
        if os.environ.get(name) in (None, before):
            os.environ[name] = wanted
    os.environ[_THREADS] = wanted
    return before is None and "numpy" not in sys.modules
