"""One job: rows taken from a source of work, given to a pool, results committed as parts.

`run_job` is the loop that every backend's jobs run, on a laptop, a node or in a container. It stops
early, with what is done committed, when it is told to (a signal, a stop request, too many failures)
and when the time left is too short for another row.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flowdist.clock import Clock, SystemClock
from flowdist.parts import PartWriter
from flowdist.settings import host
from flowdist.store import JobAttempt, RunFiles
from flowdist.workers.outputs import Cause
from flowdist.workers.pool import Event, Interrupted, Lost, Results, Task
from flowdist.workers.source import Source, Span

logger = logging.getLogger("flowdist.job")

# Heartbeats come often in the first seconds, when somebody watches, then less: a twentieth of a
# job's age.
FIRST_BEAT, LONGEST_BEAT = 0.25, 5.0
# A task is sized to take about this long: long enough to hide its hand-over, short enough to share
# out evenly.
TASK_SECONDS = 0.25
# Estimates from few rows may be far off, so that tasks grow by at most this factor at a time.
TASK_GROWTH = 64
TASK_ROWS = 1 << 16


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
        spare: seconds before the deadline that are kept for committing.
        whole_chunks: hand out chunks whole, as tasks of a fresh process each.
    """

    max_failures: int | None = None
    deadline: float | None = None
    spare: float = 10.0
    whole_chunks: bool = False


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
    """How a job ended: ``done``, or ``stopped`` with the reason."""

    tally: Tally
    stopped: str = ""


@dataclass
class _Sizer:
    """How many rows the next task should have, from how long rows took lately."""

    mean: float | None = None
    last: int = 0

    def saw(self, rows: int, seconds: float) -> None:
        mean = seconds / rows
        # Recent rows weigh more: durations drift along a grid.
        self.mean = mean if self.mean is None else 0.7 * self.mean + 0.3 * mean

    def next(self, waiting: int, width: int) -> int:
        if self.mean is None:
            return 1
        wanted = TASK_SECONDS / max(self.mean, 1e-9)
        shared = math.ceil(waiting / (2 * width))
        self.last = int(max(1, min(wanted, shared, TASK_ROWS, max(self.last, 1) * TASK_GROWTH)))
        return self.last


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
        self.again = deque(t for t in self.again if not span.first <= t.first < span.stop)
        self.spans = deque(s for s in self.spans if not span.first <= s.first < span.stop)
        self.rows = sum(t.stop - t.first for t in self.again)
        self.rows += sum(s.stop - s.first for s in self.spans)


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
        self._tally = Tally()
        self._sizer = _Sizer()
        self._work = _Work()
        self._outstanding = 0
        # Spans whose claim somebody else has taken over: results of theirs that still come are
        # dropped.
        self._lost: list[Span] = []
        self._started = self._clock.time()
        self._last_beat = -math.inf
        self._most_memory = 0
        self._reason = ""

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
        return Outcome(self._tally, self._reason)

    # -- steps ------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while True:
            self._reason = self._reason or self._why_stop()
            if self._reason:
                self._take_back()
                return
            self._hand_out()
            if self._outstanding == 0 and not self._work.rows:
                # A queue knows a claim to be done only once its rows are on disk.
                self._commit(self._clock.monotonic())
                if self._source.exhausted:
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
        while self._pool.idle:
            if not self._work.rows:
                spans = self._source.take()
                if not spans:
                    return
                self._work.add(spans)
                self._lost = [span for span in self._lost if span not in spans]
            size = self._sizer.next(self._work.rows, self._pool.width)
            task = self._work.take(size, self._limits.whole_chunks)
            self._pool.give(task)
            self._outstanding += task.stop - task.first

    def _note(self, event: Event) -> None:
        if isinstance(event, Results):
            self._outstanding -= event.count
            self._tally.failed += event.failed
            self._tally.skipped += event.skipped
            self._tally.ok += event.count - event.failed - event.skipped
            self._tally.seconds += event.seconds
            self._sizer.saw(event.count, event.seconds)
            if not any(span.first <= event.first < span.stop for span in self._lost):
                self._parts.add(event.first, event.batches)
            self._source.ran(event.first, event.count)
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

    def _why_stop(self) -> str:
        """The reason to end early; empty where there is none."""
        told = self._stopping()
        if told:
            return told
        most = self._limits.max_failures
        if most is not None and self._tally.failed:
            failed = self._tally.failed + self._failed_elsewhere
            if failed >= most:
                reason = f"{failed} failed, and the plan stops a run at {most} failed"
                self._files.request_stop(self._who.attempt, reason, self._clock.time())
                return reason
        if self._limits.deadline is not None:
            left = self._limits.deadline - self._clock.time()
            if left < self._limits.spare:
                return f"the job's time limit is {max(left, 0):.0f} s away"
        return ""

    def _patience(self) -> float:
        """How long to wait for events: until the next beat, or sooner where a deadline is near."""
        wait = self._beat_pause()
        if self._limits.deadline is not None:
            left = self._limits.deadline - self._limits.spare - self._clock.time()
            wait = min(wait, max(0.01, left))
        # Timeouts and dead workers are looked for between polls.
        return min(wait, 0.2 if self._outstanding else 0.5)

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
                self._reason = str(request.get("reason", "stop requested"))
            elif self._files.superseded(self._who.attempt):
                # Its launcher was killed, and what it leaves undone has been started anew.
                self._reason = "a later launch has taken over"
        said = {
            "time": self._clock.time(),
            "started": self._started,
            "state": state,
            "reason": self._reason,
            "table": self._table,
            "host": host(),
            "pid": os.getpid(),
            "rows": self._source.total,
            "ok": self._tally.ok,
            "failed": self._tally.failed,
            "skipped": self._tally.skipped,
            "seconds": round(self._tally.seconds, 3),
            "lost_workers": self._tally.lost_workers,
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
