"""One job: rows taken from a source of work, given to a pool, results committed as parts.

`run_job` is the loop that every backend's jobs run, on a laptop, a node or in a container. It stops
early, with what is done committed, when it is told to (a signal, a stop request, too many failures)
and when its time is over; when the time left is too short for another row, it begins none.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pyarrow as pa

from flowdist.clock import Clock, SystemClock
from flowdist.parts import FAILED, SKIPPED, PartWriter
from flowdist.settings import host
from flowdist.store import JobAttempt, RunFiles
from flowdist.workers.outputs import Cause
from flowdist.workers.pool import Event, Interrupted, Lost, Results, Task
from flowdist.workers.source import Source, Span

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger("flowdist.job")

# Heartbeats come often in the first seconds, when somebody watches, then less: a twentieth of a
# job's age.
FIRST_BEAT, LONGEST_BEAT = 0.25, 5.0
# Who has nothing to run asks whether all is done after a tenth of the time since then: the run ends
# when the last job has seen so, and those that wait for hours ask seldom.
WAIT_SHARE, FIRST_WAIT, LONGEST_WAIT = 1 / 10, 0.02, 0.5
# A task is sized to take about this long: long enough to hide its hand-over, short enough to share
# out evenly.
TASK_SECONDS = 0.25
# Estimates from few rows may be far off, so that tasks grow by at most this factor at a time.
TASK_GROWTH = 64
TASK_ROWS = 1 << 16
# A row is begun before a time limit where nine of ten of late would have come to their end. By the
# slowest of all, one row of an hour would end a job an hour early; by the mean, half of what is
# begun would be for nothing.
LIKELY = 0.9
RECENT_TASKS = 256

# Why a job ended early: its time limit is near, a signal or a stop request, too many failed rows,
# a later launch that has taken over, rows that a reduce waits for and that have no result, the time
# budget of the launch is spent, another run needs its worker more; empty while it runs and where it
# came to its end.
Ending = Literal["", "time", "told", "failures", "superseded", "rows", "budget", "left"]


class Workers(Protocol):
    """What the loop needs of a pool; tests drive it with one that starts no process."""

    @property
    def width(self) -> int: ...
    @property
    def idle(self) -> int: ...
    def give(self, task: Task) -> None: ...
    def poll(self, timeout: float) -> list[Event]: ...
    def rebalance(self) -> list[Event]: ...
    def interrupt(self) -> list[Event]: ...
    def running(self) -> Iterable[tuple[int, str, float]]: ...
    def memory(self) -> int: ...


@dataclass(frozen=True)
class Limits:
    """What ends a job early, apart from signals.

    Attributes:
        max_failures: stop the run when this many rows of it have failed.
        deadline: unix seconds at which the job's time is over; None where it has no limit.
        spare: seconds before the deadline that are kept for committing: rows that run then are
            ended. No row is begun that is not likely to end before.
        whole_chunks: hand out chunks whole, as tasks of a fresh process each.
        enough: says why no row is to be begun any more, once that is so; what runs then is run to
            its end. Asked all the time.
    """

    max_failures: int | None = None
    deadline: float | None = None
    spare: float = 10.0
    whole_chunks: bool = False
    enough: Callable[[], tuple[Ending, str] | None] = lambda: None


@dataclass
class Tally:
    """Rows of a job by outcome, in this attempt."""

    ok: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    lost_workers: int = 0

    @property
    def done(self) -> int:
        return self.ok + self.failed + self.skipped


@dataclass(frozen=True)
class Outcome:
    """How a job ended: at its end, or stopped early: the reason, for people and as a word."""

    tally: Tally
    stopped: str = ""
    ending: Ending = ""


@dataclass
class _Sizer:
    """How many rows the next task should have, from how long rows took lately."""

    mean: float | None = None
    last: int = 0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_TASKS))
    # Seconds that a row is likely to need; None: to be computed.
    _likely: float | None = 0.0

    def saw(self, rows: int, seconds: float) -> None:
        mean = seconds / rows
        self.recent.append(mean)
        self._likely = None
        # Recent rows weigh more: durations drift along a grid.
        self.mean = mean if self.mean is None else 0.7 * self.mean + 0.3 * mean

    def next(self, waiting: int, width: int) -> int:
        if self.mean is None:
            return 1
        wanted = TASK_SECONDS / max(self.mean, 1e-9)
        shared = math.ceil(waiting / (2 * width))
        self.last = int(max(1, min(wanted, shared, TASK_ROWS, max(self.last, 1) * TASK_GROWTH)))
        return self.last

    def likely(self, rows: int = 1) -> float:
        """Seconds in which a task of so many rows is likely to end; 0 where nothing is known."""
        if self._likely is None:
            self._likely = sorted(self.recent)[math.ceil(LIKELY * len(self.recent)) - 1]
        return self._likely + (rows - 1) * (self.mean or 0.0)


@dataclass
class _Work:
    """Spans that wait, the ones with a history first."""

    again: deque[Task] = field(default_factory=deque)
    spans: deque[Span] = field(default_factory=deque)
    # How many rows these are: after a resume there may be a span for every other row.
    rows: int = 0

    def add(self, spans: Sequence[Span]) -> None:
        self.spans.extend(spans)
        self.rows += sum(s.stop - s.first for s in spans)

    def give_back(self, task: Task, *, next_: bool = False) -> None:
        """A task that was not run; `next_` where it goes before all others."""
        if next_:
            self.again.appendleft(task)
        else:
            self.again.append(task)
        self.rows += task.stop - task.first

    def take(self, size: int, whole_chunks: bool) -> Task:
        task = self._next(size, whole_chunks)
        self.rows -= task.stop - task.first
        return task

    def _next(self, size: int, whole_chunks: bool) -> Task:
        if self.again:
            task = self.again.popleft()
            if whole_chunks or task.stop - task.first <= size:
                return task
            self.again.appendleft(Task(task.first + size, task.stop))
            return Task(task.first, task.first + size, task.prior)
        span = self.spans[0]
        stop = span.stop if whole_chunks else min(span.stop, span.first + size)
        if stop == span.stop:
            self.spans.popleft()
        else:
            self.spans[0] = Span(stop, span.stop)
        return Task(span.first, stop)

    def drop(self, span: Span) -> None:
        """Forget what waits of a span that somebody else runs now."""
        self.again = deque(
            Task(left.first, left.stop, task.prior if left.first == task.first else ())
            for task in self.again
            for left in Span(task.first, task.stop).without(span)
        )
        self.spans = deque(left for s in self.spans for left in s.without(span))
        self.rows = sum(t.stop - t.first for t in self.again)
        self.rows += sum(s.stop - s.first for s in self.spans)

    def take_spans(self) -> list[Span]:
        """Everything that waits and has no history."""
        waiting, self.spans = list(self.spans), deque()
        self.rows -= sum(s.stop - s.first for s in waiting)
        return waiting

    def clear(self) -> list[Span]:
        """Everything that waits, which is forgotten."""
        waiting = [*(Span(t.first, t.stop) for t in self.again), *self.take_spans()]
        self.again, self.rows = deque(), 0
        return waiting


class Job:
    """The state of a running job; `run` is its loop."""

    def __init__(
        self,
        files: RunFiles,
        who: JobAttempt,
        source: Source,
        pool: Workers,
        *,
        table: str = "rows",
        before: Tally | None = None,
        limits: Limits | None = None,
        failures_elsewhere: Callable[[], int] | None = None,
        stopping: Callable[[], str] = lambda: "",
        clock: Clock | None = None,
    ) -> None:
        self._files = files
        self._who = who
        self._source = source
        self._pool = pool
        self._limits = limits or Limits()
        self._failures_elsewhere = failures_elsewhere or (lambda: 0)
        self._failed_elsewhere = 0
        self._stopping = stopping
        self._clock = clock or SystemClock()
        self._table = table
        self._parts = PartWriter(files, who, table, self._clock.monotonic())
        self._tally = before or Tally()
        # Rows that earlier starts of the job have done.
        self._before = self._tally.done
        self._sizer = _Sizer()
        self._work = _Work()
        self._outstanding = 0
        # Spans whose claim somebody else has taken over: results of theirs that still come are
        # dropped.
        self._lost: list[Span] = []
        self._started = self._clock.time()
        self._last_beat = -math.inf
        # When the last row ended that ran here.
        self._last_row = self._clock.monotonic()
        self._most_memory = 0
        self._reason = ""
        self._ending: Ending = ""
        # Whether rows are still begun; if not, why where it is not for want of time, and how many
        # that were there were not.
        self._giving = True
        self._enough: tuple[Ending, str] | None = None
        self._left_out = 0

    def run(self) -> Outcome:
        """Run until the source is empty or something says stop; everything done is committed."""
        self._beat("running")
        try:
            self._loop()
        finally:
            # Also where workers cannot load the flow: what is done is kept.
            try:
                self._commit(self._clock.monotonic())
            finally:
                self._source.close()
        self._beat("stopped" if self._reason else "done")
        return Outcome(self._tally, self._reason, self._ending)

    # -- steps ------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while True:
            self._look_for_stop()
            if self._reason:
                self._take_back()
                return
            if self._giving:
                self._enough = self._limits.enough()
                if self._enough is not None or self._room() < self._sizer.likely():
                    self._give_no_more()
            self._hand_out()
            if self._work.rows and self._source.overdue:
                self._work.add(self._source.release(self._work.take_spans()))
            if self._outstanding == 0 and not self._work.rows:
                # A queue knows a claim to be done only once its rows are on disk.
                self._commit(self._clock.monotonic())
                if self._source.exhausted and not self._left_out:
                    return
                if not self._giving:
                    self._end(*(self._enough or ("time", self._about_time())))
                    return
            events = self._pool.poll(self._patience())
            if self._pool.idle and not self._work.rows:
                events += self._pool.rebalance()
            for event in events:
                self._note(event)
            now = self._clock.monotonic()
            if self._parts.due(now):
                self._commit(now)
            if now - self._last_beat >= self._beat_pause():
                self._beat("running")

    def _hand_out(self) -> None:
        while self._giving and self._pool.idle:
            if not self._work.rows:
                spans = self._source.take(self._pool.idle, self._room())
                if not spans:
                    return
                self._work.add(spans)
                for span in spans:
                    self._lost = [left for lost in self._lost for left in lost.without(span)]
            size = self._sizer.next(self._work.rows, self._pool.width)
            task = self._work.take(size, self._limits.whole_chunks)
            if self._sizer.likely(task.stop - task.first) > self._room():
                self._work.give_back(task, next_=True)
                self._give_no_more()
                return
            self._pool.give(task)
            self._outstanding += task.stop - task.first

    def _give_no_more(self) -> None:
        """Begin no more rows: what is claimed and not begun goes to others at once."""
        self._giving = False
        self._left_out = self._work.rows
        # Of a claim that was run in part, others shall find that part.
        self._commit(self._clock.monotonic())
        self._source.release(self._work.clear())

    def _note(self, event: Event) -> None:
        if isinstance(event, Results):
            self._outstanding -= event.count
            if event.failed and self._ended_from_outside():
                self._note_but_failed(event)
                return
            self._tally.failed += event.failed
            self._tally.skipped += event.skipped
            self._tally.ok += event.count - event.failed - event.skipped
            self._tally.seconds += event.seconds
            self._sizer.saw(event.count, event.seconds)
            self._record(event.first, event.count, event.seconds, event.batches)
        elif isinstance(event, Interrupted):
            self._outstanding -= event.stop - event.first
            self._work.give_back(Task(event.first, event.stop, event.prior))
        elif isinstance(event, Lost):
            self._outstanding -= 1
            self._tally.lost_workers += 1
            again = Task(event.position, event.position + 1, event.causes)
            self._work.give_back(again, next_=True)
            last: Cause = event.causes[-1]
            logger.warning(
                "stage '%s' of position %d: %s", last.stage, event.position, last.message
            )
        if not self._giving and self._work.rows:
            # What comes back when no row is begun any more.
            self._left_out += self._work.rows
            self._source.release(self._work.clear())

    def _record(
        self, first: int, count: int, seconds: float, batches: Sequence[pa.RecordBatch]
    ) -> None:
        self._last_row = self._clock.monotonic()
        self._parts.add(first, batches)
        for span in self._lost:
            if span.first < first + count and first < span.stop:
                self._parts.drop(span.first, span.stop)
        self._source.ran(first, count, seconds)

    def _ended_from_outside(self) -> bool:
        """Whether rows may fail only because the job is being ended: a scheduler signals all
        processes of a job at once, programs that rows have started included.
        """
        return self._ending in ("told", "superseded") or bool(self._stopping())

    def _note_but_failed(self, event: Results) -> None:
        """Keep the rows that have not failed; the others have no result and run again."""
        position, seconds = event.first, event.seconds / event.count
        for batch in event.batches:
            status = batch.column("_status").to_numpy()
            for first, stop in _runs(status != FAILED):
                kept = batch.slice(first, stop - first)
                skipped = int(np.count_nonzero(status[first:stop] == SKIPPED))
                self._tally.skipped += skipped
                self._tally.ok += stop - first - skipped
                self._tally.seconds += seconds * (stop - first)
                self._record(position + first, stop - first, seconds * (stop - first), [kept])
            position += batch.num_rows

    def _take_back(self) -> None:
        for event in self._pool.interrupt():
            self._note(event)

    def _commit(self, now: float) -> None:
        if self._parts.pending:
            for span in self._source.lost_spans():
                self._parts.drop(span.first, span.stop)
                self._work.drop(span)
                self._lost.append(span)
            self._parts.commit(now)
        self._source.committed()

    def _look_for_stop(self) -> None:
        """Find a reason to end early."""
        told, most = self._stopping(), self._limits.max_failures
        failed = self._tally.failed + self._failed_elsewhere
        if told:
            self._end("told", told)
        elif most is not None and self._tally.failed and failed >= most and not self._reason:
            reason = f"{failed} failed, and the plan stops a run at {most} failed"
            self._files.request_stop(self._who.attempt, reason, self._clock.time())
            self._end("failures", reason)
        elif self._room() < 0:
            self._end("time", self._about_time())

    def _end(self, ending: Ending, reason: str) -> None:
        """End early, for the first reason there is."""
        if not self._reason:
            self._ending, self._reason = ending, reason

    def _room(self) -> float:
        """Seconds in which rows may still run."""
        if self._limits.deadline is None:
            return math.inf
        return self._limits.deadline - self._limits.spare - self._clock.time()

    def _about_time(self) -> str:
        room, row = self._room(), self._sizer.likely()
        said = f"the job's time limit is {max(room + self._limits.spare, 0):.0f} s away"
        return f"{said}, and a row takes up to {row:.0f} s" if 0 <= room < row else said

    def _patience(self) -> float:
        """How long to wait for events: until the next beat, or sooner where a deadline is near."""
        wait = self._beat_pause()
        wait = min(wait, max(0.01, self._room()))
        if self._outstanding:
            return min(wait, 0.2)  # timeouts and dead workers are looked for between polls
        waited = self._clock.monotonic() - self._last_row
        return min(wait, max(FIRST_WAIT, min(waited * WAIT_SHARE, LONGEST_WAIT)))

    def _beat_pause(self) -> float:
        age = self._clock.time() - self._started
        return min(max(FIRST_BEAT, age / 20), LONGEST_BEAT)

    def _beat(self, state: str) -> None:
        self._last_beat = self._clock.monotonic()
        self._source.renew()
        if state == "running":
            self._most_memory = max(self._most_memory, self._pool.memory())
        if self._limits.max_failures is not None and self._tally.failed:
            # Only then it matters, and asking may mean reading a file of every other job.
            self._failed_elsewhere = self._failures_elsewhere()
        if state == "running" and not self._reason:
            request = self._files.read_json(self._files.stop(self._who.attempt))
            if request is not None:
                self._end("told", str(request.get("reason", "stop requested")))
            elif self._files.superseded(self._who.attempt):
                # Its launcher was killed, and what it leaves undone has been started anew.
                self._end("superseded", "a later launch has taken over")
        said = {
            "time": self._clock.time(),
            "started": self._started,
            "state": state,
            "reason": self._reason,
            "ending": self._ending,
            "table": self._table,
            "host": host(),
            "pid": os.getpid(),
            "rows": self._source.total,
            "before": self._before,
            "ok": self._tally.ok,
            "failed": self._tally.failed,
            "skipped": self._tally.skipped,
            "seconds": round(self._tally.seconds, 3),
            "lost_workers": self._tally.lost_workers,
            "parts": self._parts.count,
            "memory": self._most_memory,
            "time_left": self._time_left(),
            "running": self._running(),
        }
        try:
            self._files.put_beat(self._who, said)
        except OSError as error:
            # Nothing depends on it; where the disk is full, the next commit says so.
            logger.warning("no heartbeat: %s", error)

    def _time_left(self) -> float | None:
        deadline = self._limits.deadline
        return None if deadline is None else round(deadline - self._clock.time(), 1)

    def _running(self) -> list[dict[str, Any]]:
        now = time.monotonic()
        return [
            {"position": position, "stage": stage, "seconds": round(max(0.0, now - started), 1)}
            for position, stage, started in self._pool.running()
        ]


def _runs(kept: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """First and stop (exclusive) of every run of True.

    >>> list(_runs(np.array([True, True, False, True])))
    [(0, 2), (3, 4)]
    """
    edges = np.flatnonzero(np.diff(kept, prepend=False, append=False))
    yield from map(tuple, edges.reshape(-1, 2).tolist())
