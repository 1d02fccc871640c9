"""Where a job's work comes from: chunks assigned at submit, or chunks claimed from a queue.

A source gives spans of positions and is told what was committed. Rows that an earlier attempt has
committed are left out here, so that nothing downstream knows of resuming.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from flowdist.workers.queue import Claim, Queue

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Span:
    """Positions `first` to `stop` (exclusive)."""

    first: int
    stop: int


class Source(Protocol):
    """What a job asks for work."""

    @property
    def total(self) -> int:
        """Rows given so far, or in all where that is known."""

    @property
    def exhausted(self) -> bool:
        """Whether no more work can come."""

    def take(self) -> Sequence[Span]:
        """More work; empty where there is none now."""

    def ran(self, first: int, count: int) -> None:
        """`count` positions from `first` on have been run."""

    def committed(self) -> None:
        """Everything that has been run is on disk."""

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

    def take(self) -> Sequence[Span]:
        spans, self._spans = self._spans, []
        return spans

    def ran(self, first: int, count: int) -> None:
        """Nobody else could run them, so nothing is to be told."""

    def committed(self) -> None:
        """Nobody asks."""

    def lost_spans(self) -> list[Span]:
        return []

    def renew(self) -> None:
        """There is no lease."""

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class _Held:
    claim: Claim
    spans: list[Span]
    left: int = field(default=0)

    def covers(self, position: int) -> bool:
        return any(s.first <= position < s.stop for s in self.spans)


class QueueSource:
    """Chunks claimed from a queue, a ticket at a time; a claim is completed once its rows are on
    disk.
    """

    def __init__(self, queue: Queue, chunks: Chunks, worker: str, *, whole: bool) -> None:
        self._queue = queue
        self._chunks = chunks
        self._worker = worker
        self._whole = whole
        self._held: list[_Held] = []
        self.total = 0

    @property
    def exhausted(self) -> bool:
        # While others hold claims, their leases may yet expire and their chunks come here.
        return not self._held and self._all_done()

    def take(self) -> Sequence[Span]:
        while claims := self._queue.claim(self._worker):
            found = [span for claim in claims for span in self._hold(claim)]
            if found:
                return found
        return []

    def _hold(self, claim: Claim) -> list[Span]:
        """What is to run of a claim; one of which nothing is left is completed at once."""
        spans = self._chunks.spans(claim.first, claim.stop, whole=self._whole)
        left = sum(s.stop - s.first for s in spans)
        if left:
            self._held.append(_Held(claim, spans, left))
            self.total += left
        else:
            self._queue.complete(claim)
        return spans

    def ran(self, first: int, count: int) -> None:
        for held in self._held:
            if held.covers(first):
                held.left -= count

    def committed(self) -> None:
        for held in [h for h in self._held if h.left <= 0]:
            self._queue.complete(held.claim)
            self._held.remove(held)

    def lost_spans(self) -> list[Span]:
        lost = [h for h in self._held if not self._queue.holds(h.claim)]
        self._held = [h for h in self._held if h not in lost]
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
        for held in self._held:
            self._queue.fail(held.claim)
        self._held = []

    def _all_done(self) -> bool:
        counts = self._queue.counts()
        return counts.waiting == 0 and counts.claimed == 0
