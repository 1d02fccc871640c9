"""Where a job's work comes from: chunks assigned at submit, or chunks claimed from a queue.

A source gives spans of positions and is told what was committed. Rows that an earlier attempt has
committed are left out here, so that nothing downstream knows of resuming. How much is claimed at a
time follows from how long rows have taken.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from flowdist.clock import Clock, SystemClock
from flowdist.workers.queue import Claim, Queue

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A claim is worth fifty times what a ticket of it costs, be that a millisecond on a local disk or a
# tenth of a second on a busy network filesystem. No more: what one job has claimed and not begun,
# others may have to wait for. What a ticket costs, not the claim, where larger claims cost more.
CLAIM_SHARE, SHORTEST_CLAIM, LONGEST_CLAIM = 1 / 50, 0.1, 60.0
# The median of so many claims: on a busy machine, any one may be interrupted for long.
RECENT_CLAIMS = 9
# What is not begun of a claim after so many times what it was worth is given back: rows have turned
# slower, and others may wait for work. After each time the patience doubles.
OVERDUE = 2.0
# Durations of about the last so many tasks count.
RECENT_TASKS = 64
# Who finds nothing to claim looks again after a pause: short at first, since a run's last seconds
# are full of claims that are given back or end, then longer. A look takes at most about a twentieth
# of the time, so its cost times 20 is the shortest pause; the longest is for leases to be seen.
FIRST_PAUSE, USUAL_PAUSE, LONGEST_PAUSE, LOOK_SHARE = 0.05, 1.0, 15.0, 1 / 20
# A job that has nothing leaves after so many leases: what is undone is then held by others that
# live, since the claims of the dead have come to whoever looked.
IDLE_LEASES = 2


@dataclass(frozen=True)
class Span:
    """Positions `first` to `stop` (exclusive)."""

    first: int
    stop: int

    def without(self, other: Span) -> list[Span]:
        """What is left of it.

        >>> Span(0, 10).without(Span(3, 5))
        [Span(first=0, stop=3), Span(first=5, stop=10)]
        """
        before = Span(self.first, min(self.stop, other.first))
        after = Span(max(self.first, other.stop), self.stop)
        return [span for span in (before, after) if span.first < span.stop]


class Source(Protocol):
    """What a job asks for work."""

    @property
    def total(self) -> int:
        """Rows given so far, or in all where that is known."""

    @property
    def exhausted(self) -> bool:
        """Whether no more work can come."""

    def take(self, idle: int = 1, left: float = math.inf) -> Sequence[Span]:
        """More work for `idle` workers in a job that goes on for `left` seconds; empty where there
        is none now.
        """

    def ran(self, first: int, count: int, seconds: float) -> None:
        """`count` positions from `first` on have been run; they took a worker `seconds`."""

    def committed(self) -> None:
        """Everything that has been run is on disk."""

    @property
    def overdue(self) -> bool:
        """Whether what was given takes much longer than was thought, so that what is not begun had
        better be released.
        """

    def release(self, spans: Sequence[Span]) -> list[Span]:
        """Let others have what of these positions, given and not begun, they can; returns the rest,
        of claims that have been begun.
        """

    def lost_spans(self) -> list[Span]:
        """Positions whose claim somebody else has taken over since the last call; they are let
        go.
        """

    def renew(self) -> None:
        """Keep what is claimed."""

    def close(self) -> None:
        """Give back what is claimed and not done."""


class Chunks:
    """The chunks of a run as arrays: chunk i holds positions `first[i]` to `stop[i]`."""

    def __init__(
        self, first: NDArray[np.int64], stop: NDArray[np.int64], done: NDArray[np.bool_] | None
    ) -> None:
        self._first = first
        self._stop = stop
        self._done = done

    @property
    def rows_per_chunk(self) -> float:
        """What is left to run of a chunk, on the average."""
        if not len(self._first):
            return 0.0
        rows = int(self._stop[-1] - self._first[0])
        done = 0 if self._done is None else int(np.count_nonzero(self._done))
        return (rows - done) / len(self._first)

    def but(self, done: NDArray[np.bool_]) -> Chunks:
        """The same chunks where more positions have a result, shape (rows,)."""
        return Chunks(self._first, self._stop, done if self._done is None else self._done | done)

    def spans(self, first_chunk: int, stop_chunk: int, *, whole: bool) -> list[Span]:
        """What is left to run of consecutive chunks; runs of rows are joined unless `whole`."""
        found: list[Span] = []
        ranges: Iterable[tuple[int, int]]
        if whole:
            ranges = [
                (int(self._first[i]), int(self._stop[i])) for i in range(first_chunk, stop_chunk)
            ]
        elif first_chunk < stop_chunk:
            ranges = [(int(self._first[first_chunk]), int(self._stop[stop_chunk - 1]))]
        else:
            ranges = []
        for first, stop in ranges:
            found += self._undone(first, stop)
        return found

    def _undone(self, first: int, stop: int) -> list[Span]:
        if self._done is None:
            return [Span(first, stop)] if first < stop else []
        todo = np.flatnonzero(~self._done[first:stop]) + first
        if not len(todo):
            return []
        breaks = np.flatnonzero(np.diff(todo) > 1)
        starts = todo[np.concatenate(([0], breaks + 1))]
        ends = todo[np.concatenate((breaks, [len(todo) - 1]))] + 1
        return [Span(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]


class StaticSource:
    """All chunks of one job, given at once."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = list(spans)
        self.total = sum(s.stop - s.first for s in spans)

    @property
    def exhausted(self) -> bool:
        return not self._spans

    def take(self, idle: int = 1, left: float = math.inf) -> Sequence[Span]:
        spans, self._spans = self._spans, []
        return spans

    def ran(self, first: int, count: int, seconds: float) -> None:
        """Nobody else could run them, so nothing is to be told."""

    def committed(self) -> None:
        """Nobody asks."""

    @property
    def overdue(self) -> bool:
        return False

    def release(self, spans: Sequence[Span]) -> list[Span]:
        """Nobody else can have them."""
        return list(spans)

    def lost_spans(self) -> list[Span]:
        return []

    def renew(self) -> None:
        """There is no lease."""

    def close(self) -> None:
        """Nothing is held."""


class _Held:
    """A claim, and which of its rows are not run yet."""

    def __init__(self, claim: Claim, spans: list[Span]) -> None:
        self.claim = claim
        self.spans = spans
        self._first = spans[0].first
        self._todo = np.zeros(spans[-1].stop - self._first, np.bool_)
        for span in spans:
            self._rows(span)[:] = True
        self.left = self._rows_at_first = int(np.count_nonzero(self._todo))

    @property
    def begun(self) -> bool:
        return self.left < self._rows_at_first

    def _rows(self, span: Span) -> NDArray[np.bool_]:
        return self._todo[max(0, span.first - self._first) : max(0, span.stop - self._first)]

    def ran(self, span: Span) -> None:
        self.left -= self.left_of(span)
        self._rows(span)[:] = False

    def left_of(self, span: Span) -> int:
        """How many of the rows that are left are in `span`."""
        return int(np.count_nonzero(self._rows(span)))

    def covers(self, position: int) -> bool:
        return any(s.first <= position < s.stop for s in self.spans)


@dataclass
class _Pace:
    """Seconds that a row takes, from the tasks of late."""

    rows: float = 0
    seconds: float = 0.0
    tasks: float = 0

    def saw(self, rows: int, seconds: float) -> None:
        if self.tasks >= RECENT_TASKS:
            self.rows, self.seconds, self.tasks = self.rows / 2, self.seconds / 2, self.tasks / 2
        self.rows += rows
        self.seconds += seconds
        self.tasks += 1

    @property
    def mean(self) -> float | None:
        return self.seconds / self.rows if self.rows else None


class QueueSource:
    """Chunks claimed from a queue; a claim is completed once its rows are on disk.

    Args:
        queue: where the chunks wait.
        chunks: what is left of them.
        worker: a name that no other start of any job has.
        whole: give chunks whole, each for one worker.
        width: how many workers the job has.
        done_now: which positions have a result by now, shape (rows,); asked when a claim is taken
            over from a job that may have done part of it. None where that cannot be known.
        clock: for pauses.
    """

    def __init__(
        self,
        queue: Queue,
        chunks: Chunks,
        worker: str,
        *,
        whole: bool,
        width: int = 1,
        done_now: Callable[[], NDArray[np.bool_]] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._queue = queue
        self._chunks = chunks
        self._worker = worker
        self._whole = whole
        self._width = width
        self._done_now = done_now
        self._clock = clock or SystemClock()
        self._random = random.Random(worker)
        self._held: list[_Held] = []
        self._pace = _Pace()
        self._rows_per_chunk = chunks.rows_per_chunk
        self._idle_since = self._look_at = self._clock.monotonic()
        # Seconds that claims of late took, for each of their tickets where it is these that cost.
        self._costs: deque[float] = deque(maxlen=RECENT_CLAIMS)
        self._pause = FIRST_PAUSE
        # When what was claimed last should be done, and how patiently that is seen.
        self._due = math.inf
        self._patience = OVERDUE
        # Whether claims were completed since this job last looked whether all are.
        self._completed = True
        self.total = 0

    @property
    def exhausted(self) -> bool:
        if self._held:
            return False
        look, self._completed = self._completed, False
        if self._queue.finished(look=look):
            return True
        # While others hold claims, their leases may yet expire and their chunks come here.
        idle = self._clock.monotonic() - self._idle_since
        return idle >= IDLE_LEASES * self._queue.lease

    def take(self, idle: int = 1, left: float = math.inf) -> Sequence[Span]:
        begun = self._clock.monotonic()
        if begun < self._look_at:
            return []
        found: list[Span] = []
        tickets = 0
        while not found and (claims := self._queue.claim(self._worker, *self._sizes(idle, left))):
            tickets += len(claims)
            if self._done_now is not None and not all(claim.fresh for claim in claims):
                # Only now: once the claim is ours, who had it commits no more of it.
                self._chunks = self._chunks.but(self._done_now())
            found = self._hold(claims)
            found = found if self._whole else _joined(found)
        now = self._clock.monotonic()
        if found:
            self._costs.append((now - begun) / (tickets if self._queue.by_ticket else 1))
            self._idle_since, self._pause = now, FIRST_PAUSE
            self._due = now + self._patience * max(self._worth(), self._expected(found))
        else:
            self._back_off(now, cost=now - begun)
        return found

    def _sizes(self, idle: int, left: float) -> tuple[int, int]:
        """How many chunks to claim at least and at most."""
        rows = max(self._rows_per_chunk, 1e-9)
        least = idle if self._whole else max(1, math.ceil(idle / max(rows, 1.0)))
        if not self._pace.mean:
            return least, least
        per_second = self._width / (self._pace.mean * rows)
        fits = max(1.0, left * per_second)
        most = min(max(least, self._worth() * per_second), fits, 1e9)
        return min(least, int(most)), int(most)

    def _worth(self) -> float:
        """Seconds of the whole job that a claim should be worth."""
        cost = statistics.median_low(self._costs) if self._costs else 0.0
        return min(max(cost / CLAIM_SHARE, SHORTEST_CLAIM), LONGEST_CLAIM)

    def _expected(self, spans: Sequence[Span]) -> float:
        """Seconds these positions should take the job; tickets may be worth more than asked."""
        return sum(s.stop - s.first for s in spans) * (self._pace.mean or 0.0) / self._width

    def _back_off(self, now: float, cost: float) -> None:
        longest = min(LONGEST_PAUSE, self._queue.lease / 2)
        pause = max(self._pause, cost / LOOK_SHARE)
        # Jobs that wait for the same thing shall not all look at the same instant.
        self._look_at = now + min(longest, pause) * self._random.uniform(1.0, 1.3)
        self._pause = min(2 * self._pause, USUAL_PAUSE)

    def _hold(self, claims: Sequence[Claim]) -> list[Span]:
        """What is to run of claims; those of which nothing is left are completed at once."""
        found: list[Span] = []
        nothing: list[Claim] = []
        for claim in claims:
            spans = self._chunks.spans(claim.first, claim.stop, whole=self._whole)
            if spans:
                self._held.append(_Held(claim, spans))
                self.total += self._held[-1].left
                found += spans
            else:
                nothing.append(claim)
        self._complete(nothing)
        return found

    def ran(self, first: int, count: int, seconds: float) -> None:
        self._pace.saw(count, seconds)
        for held in self._held:
            held.ran(Span(first, first + count))

    def committed(self) -> None:
        self._complete([held.claim for held in self._held if held.left <= 0])
        self._held = [held for held in self._held if held.left > 0]

    def _complete(self, claims: Sequence[Claim]) -> None:
        if claims:
            self._queue.complete(claims)
            self._completed = True

    def _give_back(self, several: Sequence[_Held]) -> None:
        for begun in (True, False):
            if claims := [held.claim for held in several if held.begun == begun]:
                self._queue.fail(claims, begun=begun)

    @property
    def overdue(self) -> bool:
        return self._clock.monotonic() > self._due

    def release(self, spans: Sequence[Span]) -> list[Span]:
        if self.overdue:
            # What was known of durations no longer holds.
            self._pace, self._patience = _Pace(), 2 * self._patience
        self._due = math.inf
        kept = list(spans)
        # Of the others some is being run.
        free = [h for h in self._held if h.left and sum(map(h.left_of, spans)) >= h.left]
        self._give_back(free)
        self._held = [held for held in self._held if held not in free]
        for held in free:
            self.total -= held.left
            mine = Span(held.spans[0].first, held.spans[-1].stop)
            kept = [left for span in kept for left in span.without(mine)]
        return kept

    def lost_spans(self) -> list[Span]:
        claims = self._queue.lost([held.claim for held in self._held]) if self._held else []
        lost = [held for held in self._held if held.claim in claims]
        self._held = [held for held in self._held if held not in lost]
        # A claim that came back here, under a higher token, is not lost.
        return [
            span
            for held in lost
            for span in held.spans
            if not any(other.covers(span.first) for other in self._held)
        ]

    def renew(self) -> None:
        self._queue.renew(self._worker)

    def close(self) -> None:
        self._give_back(self._held)
        self._held = []
        self._queue.leave(self._worker)


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Spans that adjoin as one, so that tasks need not end where tickets do."""
    found: list[Span] = []
    for span in spans:
        if found and found[-1].stop == span.first:
            found[-1] = Span(found[-1].first, span.stop)
        else:
            found.append(span)
    return found
