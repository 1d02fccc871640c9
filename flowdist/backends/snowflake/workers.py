"""`spcs_queue`: chunks in a table, and workers that claim them.

The workers are replicas of one job service, which end when nothing is left; or those of a pool that
`flowdist pool start` has started; or, for rows that were fed to a run, the workers of that run.
What workers do is in `flowdist.workers.serve`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from flowdist.backends.base import JobState, Remark
from flowdist.backends.snowflake.plans import SpcsQueue
from flowdist.backends.snowflake.pools import check_pool, pool_name, resume_pool
from flowdist.backends.snowflake.queues import ensure_queue, queue_kind, queue_table
from flowdist.backends.snowflake.remote import NOT_STARTED, Remote, Seen
from flowdist.backends.snowflake.services import (
    ask_reduces,
    cancel_job,
    containers,
    drop_service,
    ending_words,
    run_job,
    service_exists,
    waiting_remarks,
)
from flowdist.backends.snowflake.spec import RUNS, execute_job
from flowdist.clock import Clock, SystemClock
from flowdist.errors import BackendError
from flowdist.parts import MISSING
from flowdist.snowflake.connection import Client, SnowflakeError
from flowdist.snowflake.names import Name
from flowdist.states import row_states
from flowdist.store import VISITORS
from flowdist.summary import counted
from flowdist.tables import in_layout_order, map_table
from flowdist.workers.claiming import TableQueue, Waiting
from flowdist.workers.supervise import begin_until

if TYPE_CHECKING:
    from numpy.typing import NDArray


__all__ = [
    "Crew",
    "QueueWorkers",
    "chunks_left",
    "crew_of",
    "job_id",
    "rows_late",
]

logger = logging.getLogger("flowdist.snowflake")

# All replicas are ready within this time, or the pool has no room for them.
WARM_SECONDS = 900.0
# Workers that have nothing left to do end within this time.
END_SECONDS = 20.0
FIRST_PAUSE, LONGEST_PAUSE = 0.3, 5.0
# Clocks of this machine and of workers are at most so far apart, in seconds.
CLOCKS_DIFFER = 10.0
# What a resume leaves is put into the queue in at most so many statements; more would be slower
# than to let workers find out that there is nothing left of some chunks.
MOST_PUTS = 20
# What ends the work of one who came from a pool for all.
_FINAL = {
    "failures": JobState.CANCELLED,
    "superseded": JobState.CANCELLED,
    "budget": JobState.DONE,
}


@dataclass(frozen=True)
class Crew:
    """Who works for a launch.

    Attributes:
        pool: what its chunks are in.
        service: what the workers are instances of.
        shared: whether they work for others too, and are not the launch's own.
        lasting: whether they are a pool that stays when nothing is left.
    """

    pool: str
    service: Name
    shared: bool = False
    lasting: bool = False


def job_id(remote: Remote) -> str:
    """The JOB_ID of a launch in the queue: one that resumes a run has another."""
    return f"{remote.run_id}/{remote.attempt}"


def crew_of(remote: Remote) -> Crew:
    """Who works for a launch."""
    plan = cast(SpcsQueue, remote.plan)
    if plan.pool:
        service = pool_name(plan.pool, remote.runs.stage)
        return Crew(service.sql, service, shared=True, lasting=True)
    fed = remote.manifest.get("fed")
    if fed and remote.attempt == 1:
        return Crew(str(fed["pool"]), Name.parse(str(fed["service"])), shared=True)
    return Crew(job_id(remote), remote.name("workers"))


class QueueWorkers:
    """Puts chunks into the queue, and starts who claims them."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    def starts_reduces(self, remote: Remote) -> bool:
        return True

    # -- starting

    def start(self, remote: Remote) -> dict[str, Any]:
        if not remote.row_jobs:
            run_job(remote.client, remote.reduces_statement())
            return self._started(remote)
        crew, plan = crew_of(remote), cast(SpcsQueue, remote.plan)
        if crew.lasting:
            check_pool(remote.client, crew.service, remote.runs, _table(remote))
        ensure_queue(remote.client, _table(remote))
        if crew.shared:
            self._put(remote)
            if crew.lasting:
                resume_pool(remote.client, crew.service)
        elif plan.pre_warm:
            self._start_workers(remote)
            self._await_ready(remote, crew)
            self._put(remote)
        else:
            self._put(remote)
            self._start_workers(remote)
        return self._started(remote)

    def find(self, remote: Remote) -> dict[str, Any] | None:
        if not remote.row_jobs:
            return self._started(remote) if self._reduces_exist(remote) else None
        crew = crew_of(remote)
        if crew.shared:
            with contextlib.suppress(SnowflakeError):
                if _queue(remote).counts().total:
                    return self._started(remote)
            return None
        if not service_exists(remote.client, crew.service):
            return None
        # They may have been started before there was anything to do for them.
        self._put(remote)
        return self._started(remote)

    def _reduces_exist(self, remote: Remote) -> bool:
        return service_exists(remote.client, remote.name("reduces"))

    def _started(self, remote: Remote) -> dict[str, Any]:
        crew = crew_of(remote)
        return {
            "service": crew.service.sql,
            "pool": crew.pool,
            "queue": _table(remote).sql,
            "reduces": remote.name("reduces").sql,
        }

    def _start_workers(self, remote: Remote) -> None:
        plan = cast(SpcsQueue, remote.plan)
        pool, table = crew_of(remote).pool, _table(remote).sql
        spec = remote.spec("queue", RUNS, pool, table, str(plan.idle))
        run_job(remote.client, execute_job(
            plan,
            spec,
            name=remote.name("workers"),
            comment=remote.comment,
            replicas=len(remote.row_jobs),
        ))  # fmt: skip

    def _await_ready(self, remote: Remote, crew: Crew) -> None:
        """Wait until all workers are ready.

        Raises:
            BackendError: one has ended, or not all are in time.
        """
        wanted, pause = len(remote.row_jobs), FIRST_PAUSE
        deadline = self._clock.monotonic() + WARM_SECONDS
        while True:
            seen = containers(remote.client, crew.service)
            bad = [s for s in seen.values() if s.state.ended]
            if bad:
                raise BackendError(f"pre_warm: a worker has ended: {ending_words(bad[0])}")
            ready = sum(s.state is JobState.RUNNING for s in seen.values())
            if ready == wanted:
                return
            if self._clock.monotonic() >= deadline:
                waits = next((s.message for s in seen.values() if s.state is JobState.PENDING), "")
                raise BackendError(
                    f"pre_warm: {ready} of {wanted} workers are ready after {WARM_SECONDS:.0f} s "
                    f"({waits or 'the others were not seen'}); let compute pool "
                    f"{remote.plan.compute_pool} have more nodes, or ask for fewer replicas"
                )
            self._clock.sleep(pause)
            pause = min(1.5 * pause, LONGEST_PAUSE)

    def _put(self, remote: Remote) -> None:
        """Put what is left of the rows into the queue; what is there already stays as it is."""
        queue, fed = _queue(remote), remote.manifest.get("fed") or {}
        for first, stop in chunks_left(remote):
            queue.put(
                first,
                stop,
                claimers=len(remote.row_jobs),
                priority=int(fed.get("priority", 0)),
            )

    # -- asking

    def ask(self, remote: Remote, known: Mapping[int, JobState]) -> dict[int, Seen]:
        rows = [known.get(job, JobState.UNKNOWN) for job in remote.row_jobs]
        if all(state.ended for state in rows):
            return self._ask_reduces(remote, rows)
        crew = crew_of(remote)
        if not crew.shared and JobState.RUNNING not in rows:
            seen = self._replicas(remote, crew)
            if any(not s.state.ended for s in seen.values()):
                return seen
        waiting = _waiting(remote, crew)
        if waiting is None and _queue(remote).counts().over:
            service = "" if crew.shared else crew.service.sql
            return {
                job: Seen(JobState.DONE, "", None, service, place, beats=False)
                for place, job in enumerate(remote.row_jobs)
            }
        if waiting is not None and waiting.workers:
            running = Seen(JobState.RUNNING)
            return dict.fromkeys(remote.row_jobs, running) if crew.shared else {}
        return self._shared(remote, crew, rows) if crew.shared else self._own(remote, crew)

    def _replicas(self, remote: Remote, crew: Crew) -> dict[int, Seen]:
        seen = containers(remote.client, crew.service)
        return {job: seen[i] for i, job in enumerate(remote.row_jobs) if i in seen}

    def _own(self, remote: Remote, crew: Crew) -> dict[int, Seen]:
        """How the workers are that have chunks left and hold none."""
        seen = self._replicas(remote, crew)
        gone = Seen(JobState.LOST, f"its workers, job service {crew.service.sql}, are gone")
        return {job: seen.get(job, gone) for job in remote.row_jobs}

    def _shared(self, remote: Remote, crew: Crew, known: Sequence[JobState]) -> dict[int, Seen]:
        """How chunks are that nobody holds of those who work for others too."""
        if JobState.RUNNING not in known:
            # Nobody asks for heartbeats then, and they may say why it cannot run.
            remote.mirror.refresh_beats()
        alive = [s for s in containers(remote.client, crew.service).values() if not s.state.ended]
        ended = self._given_back(remote, len(alive))
        if ended is not None:
            return dict.fromkeys(remote.row_jobs, ended)
        if alive:
            # They work for others just now, or have not started yet.
            begun = JobState.RUNNING in known
            state = JobState.RUNNING if begun else JobState.PENDING
            return dict.fromkeys(remote.row_jobs, Seen(state, alive[0].message))
        if crew.lasting:
            return dict.fromkeys(remote.row_jobs, _resumed(remote.client, crew.service))
        return dict.fromkeys(remote.row_jobs, self._replaced(remote))

    def _replaced(self, remote: Remote) -> Seen:
        """Those that rows were fed to have ended meanwhile: the rows get workers of their own."""
        own = containers(remote.client, remote.name("workers"))
        if not own:
            try:
                self._start_workers(remote)
            except SnowflakeError as error:
                if error.passing:
                    raise
                return Seen(JobState.LOST, str(error))
            return Seen(JobState.PENDING, "its workers start")
        # One that is alive, or else one that has ended badly.
        order = sorted(own.values(), key=lambda s: (s.state.ended, s.state is JobState.DONE))
        return order[0]

    def _given_back(self, remote: Remote, alive: int) -> Seen | None:
        """How a launch has ended for workers that live on, of which there are `alive`; None where
        it has not. Nobody holds a chunk of it.
        """
        plan = remote.plan
        if remote.stopped:
            return Seen(JobState.CANCELLED)
        now, beats = self._clock.time(), replace(remote.handle).beats
        silent = 2.0 * cast(SpcsQueue, plan).lease
        last = [
            beat for job, beat in beats.items()
            # Who was killed has said that it runs, and nothing since.
            if job >= VISITORS and (beat["state"] != "running" or now - beat["time"] < silent)
        ]  # fmt: skip
        if any(beat["state"] == "running" for beat in last):
            return None
        if any(beat.get("ending") == "told" for beat in last):
            # By whoever has cancelled the run from elsewhere, or alone, as its container was ended.
            remote.mirror.pull("launches")
            if remote.stopped:
                return Seen(JobState.CANCELLED)
        failed = [str(beat["reason"]) for beat in last if beat["state"] == "failed"]
        if len(failed) >= max(1, alive):
            return Seen(JobState.FAILED, failed[0])
        states = (_FINAL.get(str(b.get("ending", ""))) for b in last)
        ended = next((Seen(state, beats=False) for state in states if state is not None), None)
        until = begin_until(remote.manifest, remote.attempt, remote.intent)
        if ended is None and until is not None and now >= until + CLOCKS_DIFFER:
            return Seen(JobState.TIMEOUT, "the time budget was spent before a worker came")
        return ended

    def _ask_reduces(self, remote: Remote, rows: Sequence[JobState]) -> dict[int, Seen]:
        if not remote.reduce_jobs:
            return {}
        if remote.row_jobs:
            counts = _queue(remote).counts()
            if not counts.over or counts.dead:
                return dict.fromkeys(remote.reduce_jobs, NOT_STARTED)
        return ask_reduces(remote)

    def late(self, remote: Remote) -> Sequence[str]:
        return rows_late(remote)

    def remarks(self, remote: Remote, states: Mapping[int, JobState]) -> Sequence[Remark]:
        if not remote.row_jobs:
            return waiting_remarks(remote, states)
        counts = _queue(remote).counts()
        data = {n: getattr(counts, n) for n in ("waiting", "claimed", "done", "dead")}
        said = ", ".join(f"{count:,} {name}" for name, count in data.items() if count)
        depth = Remark("queue", f"chunks in the queue: {said or 'none'}", data)
        crew = crew_of(remote)
        seen = {} if crew.shared else containers(remote.client, crew.service)
        jobs = {job: seen[i] for i, job in enumerate(remote.row_jobs) if i in seen}
        return [*waiting_remarks(remote, states, jobs), depth]

    # -- ending

    def cancel(self, remote: Remote) -> None:
        crew = crew_of(remote)
        if not crew.shared:
            cancel_job(remote.client, crew.service)
        elif not crew.lasting:
            cancel_job(remote.client, remote.name("workers"))
        cancel_job(remote.client, remote.name("reduces"))

    def ended(self, remote: Remote) -> None:
        """What nobody has done is not to be claimed any more, and workers that have not started
        need not.
        """
        if not remote.row_jobs:
            return
        crew = crew_of(remote)
        with contextlib.suppress(SnowflakeError):
            _queue(remote).withdraw()
            if crew.lasting or _work_of(remote, crew):
                return
            seen = containers(remote.client, crew.service).values()
            if any(one.state is JobState.PENDING for one in seen):
                cancel_job(remote.client, crew.service)

    def remove(self, remote: Remote) -> None:
        if remote.started:
            self._await_end(remote)
        for suffix in ("workers", "reduces"):
            drop_service(remote.client, remote.name(suffix))
        try:
            _queue(remote).remove()
        except SnowflakeError as error:
            if not error.missing:
                raise

    def _await_end(self, remote: Remote) -> None:
        """Wait a moment for workers that have seen that nothing is left: each writes a last
        heartbeat, which would stay behind.
        """
        deadline, pause = self._clock.monotonic() + END_SECONDS, FIRST_PAUSE
        while self._clock.monotonic() < deadline:
            seen = containers(remote.client, remote.name("workers"))
            if all(s.state.ended for s in seen.values()):
                return
            self._clock.sleep(pause)
            pause = min(1.5 * pause, LONGEST_PAUSE)


def _resumed(client: Client, pool: Name) -> Seen:
    """A pool without workers, which is started where it is suspended."""
    try:
        there = resume_pool(client, pool)
    except SnowflakeError:
        raise
    except BackendError as refused:
        return Seen(JobState.LOST, str(refused))
    if not there:
        return Seen(JobState.LOST, f"pool {pool.sql} is gone")
    return Seen(JobState.PENDING, f"pool {pool.sql} is starting")


# -- the queue


def _table(remote: Remote) -> Name:
    return queue_table(cast(SpcsQueue, remote.plan).queue, remote.runs)


def _queue(remote: Remote) -> TableQueue:
    """The queue of a launch."""
    plan = cast(SpcsQueue, remote.plan)
    return queue_kind(remote.client, _table(remote))(
        remote.client,
        _table(remote),
        job_id(remote),
        pool=crew_of(remote).pool,
        stage_path=(remote.runs / remote.run_id).path,
        lease=float(plan.lease),
        max_attempts=plan.max_attempts,
    )


def _waiting(remote: Remote, crew: Crew) -> Waiting | None:
    """What waits of a launch; None where nothing does."""
    found = _work_of(remote, crew)
    return next((one for one in found if one.job_id == job_id(remote)), None)


def _work_of(remote: Remote, crew: Crew) -> list[Waiting]:
    """Everything that waits for the workers of a launch."""
    kind = queue_kind(remote.client, _table(remote))
    return kind.waiting(remote.client, _table(remote), crew.pool)


def chunks_left(remote: Remote) -> list[tuple[int, int]]:
    """Ranges of chunks, first and stop (exclusive), that have rows left to run."""
    chunks = int(remote.manifest["layout"]["chunks"])
    if remote.attempt == 1:
        return [(0, chunks)]
    files = remote.files
    done = map_table(files.path(files.done(remote.attempt)))
    todo = ~np.logical_and.reduce([column.to_numpy() for column in done.columns])
    first = map_table(files.path(files.CHUNKS)).column("first").to_numpy()
    left = np.add.reduceat(in_layout_order(files, todo).astype(np.int64), first) > 0
    return list(_ranges(left))


def _ranges(left: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Runs of True, those with the smallest gaps between them as one, until they are few.

    >>> list(_ranges(np.array([True, True, False, True])))
    [(0, 2), (3, 4)]
    """
    edges = np.flatnonzero(np.diff(left, prepend=False, append=False)).reshape(-1, 2)
    if not len(edges):
        return
    gaps = edges[1:, 0] - edges[:-1, 1]
    kept = np.sort(np.argsort(-gaps, kind="stable")[: MOST_PUTS - 1])
    starts = [int(edges[0, 0]), *(int(edges[i + 1, 0]) for i in kept)]
    stops = [*(int(edges[i, 1]) for i in kept), int(edges[-1, 1])]
    yield from zip(starts, stops, strict=True)


def rows_late(remote: Remote) -> list[str]:
    """What rows of chunks that are done are not seen here yet, in words. Chunks that were given up
    are written down on the way.
    """
    if not remote.row_jobs:
        return []
    files, queue = remote.files, _queue(remote)
    counts = queue.counts()
    dead = queue.dead() if counts.dead else []
    chunks = map_table(files.path(files.CHUNKS))
    first, stop = chunks.column("first").to_numpy(), chunks.column("stop").to_numpy()
    if dead:
        _note_given_up(remote, dead)
    if not counts.over:
        return []
    states = row_states(files, int(remote.manifest["layout"]["rows"]))
    missing = in_layout_order(files, states == MISSING)
    for first_chunk, stop_chunk, _ in dead:
        missing[int(first[first_chunk]) : int(stop[stop_chunk - 1])] = False
    left = int(np.count_nonzero(missing))
    return [f"{left:,} rows that the queue says are done"] if left else []


def _note_given_up(remote: Remote, dead: Sequence[tuple[int, int, str]]) -> None:
    """Write down which chunks nobody tries again in this launch."""
    files = remote.files
    chunks = sum(stop - first for first, stop, _ in dead)
    said = [f"chunk {first}: {why}" for first, _, why in dead[:3]]
    more = f"; and {len(dead) - 3:,} more" if len(dead) > 3 else ""
    reason = f"{counted(chunks, 'chunk')} given up ({'; '.join(said)}{more})"
    value = {"reason": reason, "chunks": [list(one) for one in dead]}
    name = files.given_up(remote.attempt)
    with contextlib.suppress(FileExistsError):
        files.put_json(name, value)
        with contextlib.suppress(BackendError):
            remote.mirror.push([name])
