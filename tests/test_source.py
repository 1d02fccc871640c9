"""Sources of work: what a job is given, and what becomes of claims."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import chunks_of

from flowdist.clock import ManualClock
from flowdist.store import DirectoryStore
from flowdist.workers.queue import Counts, DirectoryQueue
from flowdist.workers.source import QueueSource, Source, Span, StaticSource

LEASE = 30.0


def positions(spans: object) -> list[int]:
    return [p for span in spans for p in range(span.first, span.stop)]  # type: ignore[attr-defined]


# Chunks ------------------------------------------------------------------------------------------


def test_consecutive_chunks_are_one_span() -> None:
    assert chunks_of(10, size=2).spans(1, 4, whole=False) == [Span(2, 8)]


def test_whole_chunks_stay_apart() -> None:
    assert chunks_of(5, size=2).spans(0, 3, whole=True) == [Span(0, 2), Span(2, 4), Span(4, 5)]


@pytest.mark.parametrize("whole", [False, True])
def test_no_chunks_are_no_spans(whole: bool) -> None:
    assert chunks_of(5).spans(3, 3, whole=whole) == []


def test_rows_with_a_result_are_left_out() -> None:
    chunks = chunks_of(8, size=4, done=[0, 1, 3, 6])

    assert chunks.spans(0, 2, whole=False) == [Span(2, 3), Span(4, 6), Span(7, 8)]


def test_a_whole_chunk_is_given_without_its_rows_that_have_a_result() -> None:
    chunks = chunks_of(8, size=4, done=[0, 1, 2, 3, 5])

    assert chunks.spans(0, 2, whole=True) == [Span(4, 5), Span(6, 8)]


@given(
    st.integers(0, 60).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.integers(0, max(0, n - 1))))
    ),
    st.integers(1, 9),
    st.booleans(),
)
def test_what_is_left_and_what_is_done_make_the_whole(
    rows: tuple[int, set[int]], size: int, whole: bool
) -> None:
    n, done = rows
    chunks = chunks_of(n, size, done=sorted(done))

    spans = chunks.spans(0, -(-n // size), whole=whole)

    assert positions(spans) == [p for p in range(n) if p not in done]


# Static ------------------------------------------------------------------------------------------


def test_a_static_source_gives_everything_once() -> None:
    source = StaticSource([Span(0, 3), Span(5, 6)])

    first, second = source.take(), source.take()

    assert (positions(first), list(second)) == ([0, 1, 2, 5], [])
    assert source.exhausted
    assert source.total == 4


def test_a_static_source_never_loses_what_it_gave() -> None:
    source = StaticSource([Span(0, 3)])
    source.take()

    source.renew()

    assert source.lost_spans() == []


# Queue -------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class Workers:
    """Sources of several workers of one queue of `rows` chunks of one row each."""

    def __init__(self, folder: Path, clock: ManualClock, rows: int, done: list[int]) -> None:
        self.store, self.clock, self.rows, self.done = DirectoryStore(folder), clock, rows, done
        self.queue().put(0, rows)

    def queue(self) -> DirectoryQueue:
        return DirectoryQueue(self.store, lease=LEASE, clock=self.clock)

    def source(self, worker: str) -> QueueSource:
        source = QueueSource(
            self.queue(), chunks_of(self.rows, done=self.done), worker, whole=False
        )
        source.renew()
        return source

    def take_over(self, worker: QueueSource) -> list[Span]:
        """Let `worker` have what others hold and do not renew."""
        worker.take()
        self.clock.advance(LEASE)
        worker.renew()
        return list(worker.take())


@pytest.fixture
def workers(tmp_path: Path, clock: ManualClock) -> Workers:
    """Four rows: tickets of 2, 1 and 1."""
    return Workers(tmp_path, clock, 4, done=[])


def commit(source: Source, *spans: Span) -> None:
    for span in spans:
        source.ran(span.first, span.stop - span.first)
    source.committed()


def drain(source: Source) -> list[int]:
    found: list[int] = []
    while spans := source.take():
        found += positions(spans)
        commit(source, *spans)
    return found


def test_a_queue_source_gives_a_ticket_at_a_time(workers: Workers) -> None:
    source = workers.source("ann")

    assert [list(source.take()) for _ in range(4)] == [[Span(0, 2)], [Span(2, 3)], [Span(3, 4)], []]
    assert source.total == 4


def test_a_claim_is_done_when_all_its_rows_are_on_disk(workers: Workers) -> None:
    source = workers.source("ann")
    source.take()

    commit(source, Span(0, 1))
    half = workers.queue().counts()
    commit(source, Span(1, 2))

    assert half == Counts(waiting=2, claimed=2, done=0)
    assert workers.queue().counts() == Counts(waiting=2, claimed=0, done=2)


def test_a_source_is_exhausted_when_everything_is_done_by_whomever(workers: Workers) -> None:
    ann, bob = workers.source("ann"), workers.source("bob")
    held = ann.take()
    drain(bob)

    waiting = bob.exhausted
    commit(ann, *held)

    assert waiting is False  # ann may die, and then her rows come to bob
    assert bob.exhausted
    assert ann.exhausted


def test_two_sources_share_everything_out(workers: Workers) -> None:
    ann, bob = workers.source("ann"), workers.source("bob")

    assert sorted(positions(ann.take()) + drain(bob) + drain(ann)) == [0, 1, 2, 3]


def test_closing_gives_back_what_is_not_done(workers: Workers) -> None:
    ann, bob = workers.source("ann"), workers.source("bob")
    ann.take()

    ann.close()

    assert sorted(drain(bob)) == [0, 1, 2, 3]


def test_tickets_whose_rows_all_have_a_result_are_done_on_the_way(
    tmp_path: Path, clock: ManualClock
) -> None:
    source = Workers(tmp_path, clock, 4, done=[0, 1, 2]).source("ann")

    assert list(source.take()) == [Span(3, 4)]


def test_a_source_with_nothing_left_to_run_is_exhausted_at_once(
    tmp_path: Path, clock: ManualClock
) -> None:
    source = Workers(tmp_path, clock, 4, done=[0, 1, 2, 3]).source("ann")

    assert list(source.take()) == []
    assert source.exhausted


def test_what_was_taken_over_is_told_once_and_let_go(workers: Workers) -> None:
    ann, bob = workers.source("ann"), workers.source("bob")
    ann.take()
    drain(bob)
    workers.take_over(bob)

    assert ann.lost_spans() == [Span(0, 2)]
    assert ann.lost_spans() == []


def test_rows_committed_under_a_lost_claim_do_not_complete_it(workers: Workers) -> None:
    ann, bob = workers.source("ann"), workers.source("bob")
    ann.take()
    drain(bob)
    workers.take_over(bob)

    commit(ann, Span(0, 2))

    assert workers.queue().counts() == Counts(waiting=0, claimed=2, done=2)


def test_what_a_source_lost_and_claimed_again_is_not_lost(workers: Workers) -> None:
    ann, bob = workers.source("ann"), workers.source("bob")
    ann.take()
    drain(bob)
    workers.take_over(bob)
    bob.close()

    again = ann.take()

    assert again == [Span(0, 2)]
    assert ann.lost_spans() == []
    commit(ann, Span(0, 2))
    assert workers.queue().counts() == Counts(waiting=0, claimed=0, done=4)


def test_renewing_keeps_claims(workers: Workers, clock: ManualClock) -> None:
    ann, bob = workers.source("ann"), workers.source("bob")
    ann.take()
    drain(bob)

    for _ in range(10):
        clock.advance(0.9 * LEASE)
        ann.renew()
        assert list(bob.take()) == []

    assert ann.lost_spans() == []
