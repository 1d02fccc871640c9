"""Sources of work: what a job is given, and what becomes of claims."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import MemoryStore, chunks_of

from flowdist.clock import ManualClock
from flowdist.workers.queue import Counts, DirectoryQueue
from flowdist.workers.source import (
    CLAIM_SHARE,
    IDLE_LEASES,
    LONGEST_PAUSE,
    LOOK_SHARE,
    OVERDUE,
    SHORTEST_CLAIM,
    USUAL_PAUSE,
    QueueSource,
    Source,
    Span,
    StaticSource,
)

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


spans = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda t: Span(t[0], t[0] + t[1]))


@given(spans, spans)
def test_a_span_without_another_has_the_positions_that_are_only_in_the_first(
    one: Span, other: Span
) -> None:
    left = one.without(other)

    assert set(positions(left)) == set(positions([one])) - set(positions([other]))
    assert all(span.first < span.stop for span in left)


@pytest.mark.parametrize(("done", "expected"), [(None, 2.0), ([0, 1, 2, 3], 1.0)])
def test_rows_in_a_chunk_are_counted_by_what_is_left_of_them(
    done: list[int] | None, expected: float
) -> None:
    assert chunks_of(8, size=2, done=done).rows_per_chunk == expected


def test_chunks_of_which_more_is_done_forget_nothing_that_was_done() -> None:
    chunks = chunks_of(6, size=3, done=[0]).but(np.arange(6) >= 4)

    assert chunks.spans(0, 2, whole=False) == [Span(1, 4)]


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

    def __init__(
        self, clock: ManualClock, rows: int, done: list[int] | None = None, claimers: int = 1
    ) -> None:
        self.store, self.clock, self.rows, self.done = MemoryStore(), clock, rows, done
        self.queue().put(0, rows, claimers=claimers)

    def queue(self, place: int = 0) -> DirectoryQueue:
        return DirectoryQueue(self.store, lease=LEASE, clock=self.clock, place=place)

    def source(self, worker: str, *, place: int = 0, **how: Any) -> QueueSource:
        chunks = chunks_of(self.rows, done=self.done)
        how = {"whole": False, "clock": self.clock, **how}
        return QueueSource(self.queue(place), chunks, worker, **how)

    def take_over(self, worker: QueueSource) -> list[Span]:
        """Let `worker` have what others hold and do not renew."""
        worker.take()
        self.clock.advance(LEASE)
        worker.renew()
        return list(worker.take(self.rows))


@pytest.fixture
def workers(clock: ManualClock) -> Workers:
    """Four rows, each a ticket."""
    return Workers(clock, 4)


def commit(source: Source, *spans: Span, each: float = 1.0) -> None:
    for span in spans:
        source.ran(span.first, span.stop - span.first, each * (span.stop - span.first))
    source.committed()


def drain(source: Source) -> list[int]:
    found: list[int] = []
    while spans := source.take():
        found += positions(spans)
        commit(source, *spans)
    return found


def test_a_claim_is_done_when_all_its_rows_are_on_disk(clock: ManualClock) -> None:
    workers = Workers(clock, 128)  # two rows in a ticket
    source = workers.source("ann")
    source.take()

    commit(source, Span(0, 1))
    half = workers.queue().counts()
    commit(source, Span(1, 2))

    assert half == Counts(waiting=126, claimed=2, done=0)
    assert workers.queue().counts() == Counts(waiting=126, claimed=0, done=2)


def test_tickets_that_adjoin_are_given_as_one_span(workers: Workers) -> None:
    source = workers.source("ann")

    assert list(source.take(3)) == [Span(0, 3)]
    assert source.total == 3


def test_rows_of_several_tickets_that_ran_together_complete_each(workers: Workers) -> None:
    source = workers.source("ann")
    source.take(4)

    commit(source, Span(0, 3))

    assert workers.queue().counts() == Counts(waiting=0, claimed=1, done=3)


def test_rows_that_are_told_of_twice_count_once(clock: ManualClock) -> None:
    workers = Workers(clock, 128)
    source = workers.source("ann")
    source.take()

    commit(source, Span(0, 1), Span(0, 1))

    assert workers.queue().counts().done == 0


def test_a_source_is_exhausted_when_everything_is_done_by_whomever(workers: Workers) -> None:
    ann, bob = workers.source("ann"), workers.source("bob")
    held = ann.take()
    drain(bob)

    waiting = bob.exhausted
    commit(ann, *held)

    assert waiting is False  # ann may die, and then her rows come to bob
    assert ann.exhausted
    assert bob.exhausted


def test_two_sources_share_everything_out(workers: Workers) -> None:
    ann, bob = workers.source("ann"), workers.source("bob")

    assert sorted(positions(ann.take()) + drain(bob) + drain(ann)) == [0, 1, 2, 3]


def test_closing_gives_back_what_is_not_done(workers: Workers) -> None:
    ann, bob = workers.source("ann"), workers.source("bob")
    ann.take(2)

    ann.close()

    assert sorted(drain(bob)) == [0, 1, 2, 3]


def test_tickets_whose_rows_all_have_a_result_are_done_on_the_way(clock: ManualClock) -> None:
    source = Workers(clock, 4, done=[0, 1, 2]).source("ann")

    assert list(source.take()) == [Span(3, 4)]


def test_a_source_with_nothing_left_to_run_is_exhausted_at_once(clock: ManualClock) -> None:
    source = Workers(clock, 4, done=[0, 1, 2, 3]).source("ann")

    assert list(source.take()) == []
    assert source.exhausted


# How much is claimed -----------------------------------------------------------------------------


def claimed(source: QueueSource, idle: int = 1, left: float = math.inf) -> int:
    """Rows that one claim brings."""
    return len(positions(source.take(idle, left)))


def test_before_anything_has_run_no_more_is_claimed_than_keeps_all_busy(
    clock: ManualClock,
) -> None:
    source = Workers(clock, 1000).source("ann", width=50)

    assert 50 <= claimed(source, idle=50) < 50 + 16  # tickets of 15 or 16 rows


@pytest.mark.parametrize("width", [1, 4])
def test_a_claim_is_worth_little_time_of_all_workers_where_claiming_costs_nothing(
    clock: ManualClock, width: int
) -> None:
    workers = Workers(clock, 64_000)  # 1000 rows in a ticket
    source = workers.source("ann", width=width)
    commit(source, *source.take(), each=2e-5)

    rows = claimed(source)

    assert rows == pytest.approx(SHORTEST_CLAIM * width / 2e-5, abs=1000)


class Costly(DirectoryQueue):
    """A queue in which each ticket of a claim takes the next of `costs` seconds, or the last."""

    def __init__(self, workers: Workers, *costs: float) -> None:
        super().__init__(workers.store, lease=LEASE, clock=workers.clock)
        self.clock, self.costs = workers.clock, list(costs)

    def claim(self, worker: str, least: int = 1, most: int = 1) -> list[Any]:
        claims = super().claim(worker, least, most)
        cost = self.costs.pop(0) if len(self.costs) > 1 else self.costs[0]
        self.clock.advance(cost * len(claims))
        return claims


def costly(clock: ManualClock, *costs: float) -> QueueSource:
    """A source that has run rows of 0.1 ms, a thousand in a ticket."""
    workers = Workers(clock, 64_000)
    queue = Costly(workers, *costs)
    source = QueueSource(queue, chunks_of(64_000), "ann", whole=False, clock=clock)
    commit(source, *source.take(), each=1e-4)
    return source


@pytest.mark.parametrize("cost", [0.01, 0.02, 0.04])
def test_a_claim_is_worth_many_times_what_a_ticket_costs(clock: ManualClock, cost: float) -> None:
    source = costly(clock, cost)

    assert claimed(source) == pytest.approx(cost / CLAIM_SHARE / 1e-4, abs=1000)


class Flat(Costly):
    """A queue in which a claim takes 20 ms whatever it brings."""

    by_ticket = False

    def claim(self, worker: str, least: int = 1, most: int = 1) -> list[Any]:
        self.clock.advance(0.02)
        return DirectoryQueue.claim(self, worker, least, most)


def test_a_claim_is_worth_many_times_what_it_costs_where_it_costs_the_same_always(
    clock: ManualClock,
) -> None:
    workers = Workers(clock, 64_000)
    source = QueueSource(Flat(workers), chunks_of(64_000), "ann", whole=False, clock=clock)
    commit(source, *source.take(), each=1e-4)

    assert [claimed(source) for _ in range(3)] == pytest.approx([10_000] * 3, abs=1000)


def test_claims_do_not_grow_because_large_ones_cost_more(clock: ManualClock) -> None:
    source = costly(clock, 0.02)

    assert [claimed(source) for _ in range(3)] == pytest.approx([10_000] * 3, abs=1000)


def test_a_claim_that_was_interrupted_for_long_does_not_make_the_next_large(
    clock: ManualClock,
) -> None:
    source = costly(clock, 0.002, 10.0, 0.002)
    before = claimed(source)

    assert (before, claimed(source)) == pytest.approx((1000, 1000))


def test_slow_rows_are_claimed_one_by_one(clock: ManualClock) -> None:
    source = Workers(clock, 64).source("ann", width=4)
    commit(source, *source.take(4), each=600.0)

    assert claimed(source) == 1


def test_no_more_is_claimed_than_can_be_done_in_the_time_left(clock: ManualClock) -> None:
    source = Workers(clock, 640).source("ann", width=4)  # 10 rows in a ticket
    commit(source, *source.take(4), each=0.01)

    assert claimed(source, idle=4, left=0.05) == 20


def test_a_claim_in_the_last_moment_is_of_one_ticket(clock: ManualClock) -> None:
    source = Workers(clock, 64).source("ann", width=40)
    commit(source, *source.take(4), each=10.0)

    assert claimed(source, idle=40, left=0.0) == 1


def test_the_last_claims_are_small_however_short_the_rows(clock: ManualClock) -> None:
    source = Workers(clock, 64).source("ann")
    commit(source, *source.take(), each=1e-6)

    sizes = []
    while rows := claimed(source):
        sizes.append(rows)

    assert sum(sizes) == 63
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1


def test_durations_of_late_count_more_than_old_ones(clock: ManualClock) -> None:
    source = Workers(clock, 64_000).source("ann")
    spans = source.take(20_000)
    for row in positions(spans)[:1000]:
        source.ran(row, 1, 1e-8)
    for row in positions(spans)[1000:2000]:
        source.ran(row, 1, 5e-5)

    assert claimed(source) == pytest.approx(SHORTEST_CLAIM / 5e-5, abs=1000)


def test_what_takes_much_longer_than_it_was_worth_had_better_be_released(
    clock: ManualClock,
) -> None:
    workers = Workers(clock, 64)
    source = workers.source("ann")
    commit(source, *source.take(), each=0.01)
    (span,) = source.take()
    early = source.overdue
    clock.advance(OVERDUE * SHORTEST_CLAIM + 0.01)

    late = source.overdue
    kept = source.release([Span(span.first + 1, span.stop)])

    assert (early, late, kept) == (False, True, [])
    assert workers.queue().counts() == Counts(waiting=62, claimed=1, done=1)
    assert not source.overdue
    assert claimed(source) == 1  # until it is known anew how long rows take


def test_a_claim_is_given_the_time_that_its_rows_should_take(clock: ManualClock) -> None:
    source = Workers(clock, 64_000).source("ann", width=2)  # 1000 rows in a ticket
    commit(source, *source.take(), each=0.01)
    source.take()
    late = []
    for _ in range(2):
        clock.advance(0.9 * OVERDUE * 5.0)
        late.append(source.overdue)

    assert late == [False, True]


def test_positions_of_a_claim_that_was_begun_are_kept(clock: ManualClock) -> None:
    workers = Workers(clock, 128)  # two rows in a ticket
    ann = workers.source("ann")
    ann.take(4)

    kept = ann.release([Span(1, 4)])

    assert kept == [Span(1, 2)]
    assert workers.queue().counts().claimed == 2


def test_patience_grows_with_each_time_that_rows_turn_slow(clock: ManualClock) -> None:
    source = Workers(clock, 64).source("ann")
    source.take()
    clock.advance(1.5 * OVERDUE * SHORTEST_CLAIM)
    before = source.overdue
    source.release([])
    source.take()
    clock.advance(1.5 * OVERDUE * SHORTEST_CLAIM)

    assert (before, source.overdue) == (True, False)


def makespan(durations: list[float], jobs: int, width: int) -> tuple[float, float]:
    """When the last row ends, and how long workers were idle while rows had still to begin,
    where `jobs` jobs of `width` workers share rows of such `durations` (seconds), on a clock that
    they all have.
    """
    clock = ManualClock()
    rows = len(durations)
    workers = Workers(clock, rows, claimers=jobs)
    sources = [workers.source(f"job-{j}", place=j, width=width) for j in range(jobs)]
    waiting: list[list[int]] = [[] for _ in sources]
    # When a worker is free again: time, a number that decides ties, its job, the row that it ran.
    events: list[tuple[float, int, int, int]] = [
        (0.0, n, n % jobs, -1) for n in range(jobs * width)
    ]
    ended, ran = 0, []  # from when to when a row ran
    for number in itertools.count(len(events)):
        time, _, job, row = heapq.heappop(events)
        clock.advance(max(0.0, time - clock.time()))
        for source, its in zip(sources, waiting, strict=True):
            source.renew()
            if its and source.overdue:
                its[:] = positions(source.release([Span(p, p + 1) for p in its]))
        if row >= 0:
            commit(sources[job], Span(row, row + 1), each=durations[row])
            ended += 1
        if ended == rows:
            last = max(begun for begun, _ in ran)
            busy = sum(min(end, last) - begun for begun, end in ran)
            return time, jobs * width * last - busy
        if not waiting[job]:
            waiting[job] = positions(sources[job].take())
        row = waiting[job].pop(0) if waiting[job] else -1
        free = time + (durations[row] if row >= 0 else 0.2)
        ran += [(time, free)] if row >= 0 else []
        heapq.heappush(events, (free, number, job, row))
    raise AssertionError


@pytest.mark.parametrize("order", ["as they come", "fast ones first", "slow ones first"])
def test_rows_of_very_different_durations_are_shared_out_evenly(order: str) -> None:
    choose = random.Random(5)
    durations = [0.05 * 100 ** choose.random() for _ in range(400)]  # up to a hundred times
    if order != "as they come":
        durations.sort(reverse=order == "slow ones first")

    ended, idle = makespan(durations, jobs=4, width=4)

    # No dispatcher that does not know durations can promise less than this (Graham, 1966), but for
    # the time it takes to notice that rows have turned slow.
    assert ended <= sum(durations) / 16 + max(durations) + OVERDUE * SHORTEST_CLAIM
    assert ended <= 1.15 * sum(durations) / 16
    # Hardly a row waits in one job while a worker of another has none: the second row of a ticket,
    # at most.
    assert idle <= 0.03 * sum(durations)


# Who waits ---------------------------------------------------------------------------------------


class Counted(DirectoryQueue):
    """A queue in which a claim takes `cost` seconds, and is noted."""

    cost = 0.0

    def __init__(self, store: MemoryStore, clock: ManualClock) -> None:
        super().__init__(store, lease=LEASE, clock=clock)
        self.clock = clock
        self.looks: list[float] = []

    def claim(self, worker: str, least: int = 1, most: int = 1) -> list[Any]:
        self.looks.append(self.clock.time())
        self.clock.advance(self.cost)
        return super().claim(worker, least, most)


def waiting(workers: Workers, worker: str, cost: float, seconds: float) -> list[float]:
    """When a source that gets nothing has looked, asked every 10 ms for `seconds`."""
    queue = Counted(workers.store, workers.clock)
    queue.cost = cost
    source = QueueSource(queue, chunks_of(4), worker, whole=False, clock=workers.clock)
    holder = workers.source("holder")
    holder.take(4)
    until = workers.clock.time() + seconds
    while workers.clock.time() < until:
        holder.renew()
        assert not source.take()
        workers.clock.advance(0.01)
    return queue.looks


def test_who_waits_looks_often_at_first_then_about_every_second(workers: Workers) -> None:
    looks = waiting(workers, "ann", cost=0.0, seconds=30.0)

    assert sum(look < 1.0 for look in looks) >= 3
    assert 1.0 <= np.diff(looks)[-10:].mean() <= 1.3 * USUAL_PAUSE + 0.01


@pytest.mark.parametrize("cost", [0.1, 0.5])
def test_looking_takes_little_of_the_time_where_a_look_is_slow(
    workers: Workers, cost: float
) -> None:
    looks = waiting(workers, "ann", cost=cost, seconds=100.0)

    assert len(looks) * cost <= LOOK_SHARE * 100.0 + cost


def test_leases_are_looked_at_however_slow_that_is(workers: Workers) -> None:
    looks = waiting(workers, "ann", cost=8.0, seconds=400.0)

    assert np.diff(looks).max() <= 8.0 + 1.3 * LONGEST_PAUSE + 0.02


def test_those_who_wait_do_not_look_all_at_once(clock: ManualClock) -> None:
    times = []
    for name in ("ann", "bob", "cat"):
        clock = ManualClock()
        times.append(tuple(waiting(Workers(clock, 4), name, cost=0.0, seconds=10.0)))

    assert len(set(times)) == 3


def test_who_finds_nothing_for_two_leases_leaves_the_rest_to_those_who_hold_it(
    workers: Workers,
) -> None:
    ann, bob = workers.source("ann"), workers.source("bob")
    ann.take(4)
    bob.take()
    left = []
    for _ in range(2 * IDLE_LEASES + 1):
        left.append((ann.exhausted, bob.exhausted))
        workers.clock.advance(LEASE / 2)
        ann.renew()
        bob.renew()
        assert not bob.take()

    assert left == [(False, False)] * (2 * IDLE_LEASES) + [(False, True)]


def test_who_got_something_does_not_leave_for_having_waited_before(workers: Workers) -> None:
    ann, bob = workers.source("ann"), workers.source("bob")
    ann.take(4)
    for _ in range(3):
        bob.take()
        workers.clock.advance(LEASE / 2)
        ann.renew()
        bob.renew()
    ann.release([Span(3, 4)])
    spans = bob.take()
    commit(bob, *spans)
    workers.clock.advance(LEASE)

    assert spans == [Span(3, 4)]
    assert not bob.exhausted


# Claims that change hands ------------------------------------------------------------------------


def test_what_was_taken_over_is_told_once_and_let_go(workers: Workers) -> None:
    ann, bob = workers.source("ann"), workers.source("bob")
    ann.take(2)
    drain(bob)
    workers.take_over(bob)

    assert sorted(positions(ann.lost_spans())) == [0, 1]
    assert ann.lost_spans() == []


def test_rows_committed_under_a_lost_claim_do_not_complete_it(workers: Workers) -> None:
    ann, bob = workers.source("ann"), workers.source("bob")
    ann.take(2)
    drain(bob)
    workers.take_over(bob)

    commit(ann, Span(0, 2))

    assert workers.queue().counts() == Counts(waiting=0, claimed=2, done=2)


def test_what_a_source_lost_and_claimed_again_is_not_lost(workers: Workers) -> None:
    ann, bob = workers.source("ann"), workers.source("bob")
    ann.take(2)
    drain(bob)
    workers.take_over(bob)
    bob.close()

    again = ann.take(2)

    assert sorted(positions(again)) == [0, 1]
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


class Asked:
    """Which of `rows` rows are `done` now, and how often that was asked."""

    def __init__(self, *done: int, rows: int = 8) -> None:
        self.done, self.rows, self.times = list(done), rows, 0

    def __call__(self) -> np.ndarray[Any, Any]:
        self.times += 1
        return np.isin(np.arange(self.rows), self.done)


def test_rows_that_the_dead_have_committed_are_not_run_again(clock: ManualClock) -> None:
    workers, asked = Workers(clock, 8), Asked(0, 2)
    ann, bob = workers.source("ann"), workers.source("bob", done_now=asked)
    ann.take(4)
    drain(bob)

    taken = workers.take_over(bob)

    assert sorted(positions(taken)) == [1, 3]
    commit(bob, *taken)
    assert bob.exhausted  # what the dead had done is recorded as done too


def test_rows_that_were_committed_before_claims_were_given_back_are_not_run_again(
    clock: ManualClock,
) -> None:
    workers, asked = Workers(clock, 128), Asked(0, rows=128)  # two rows in a ticket
    ann, bob = workers.source("ann"), workers.source("bob", done_now=asked)
    ann.take()
    commit(ann, Span(0, 1))

    ann.close()

    assert sorted(drain(bob)) == list(range(1, 128))
    assert asked.times == 1


def test_nobody_asks_what_is_done_of_claims_that_were_not_begun(clock: ManualClock) -> None:
    workers, asked = Workers(clock, 8), Asked()
    ann, bob = workers.source("ann"), workers.source("bob", done_now=asked)
    ann.take(4)
    ann.close()

    assert sorted(drain(bob)) == list(range(8))
    assert asked.times == 0


def test_nobody_asks_what_is_done_while_claims_are_fresh(clock: ManualClock) -> None:
    asked = Asked()

    drain(Workers(clock, 8).source("ann", done_now=asked))

    assert asked.times == 0


def test_claims_of_which_nothing_was_begun_can_be_released(workers: Workers) -> None:
    ann, bob = workers.source("ann"), workers.source("bob")
    ann.take(4)

    ann.release([Span(1, 3)])

    assert workers.queue().counts() == Counts(waiting=2, claimed=2, done=0)
    assert sorted(positions(bob.take(4))) == [1, 2]
    assert ann.total == 2


def test_a_claim_that_is_being_run_is_not_released(clock: ManualClock) -> None:
    workers = Workers(clock, 128)  # two rows in a ticket
    ann = workers.source("ann")
    ann.take()

    ann.release([Span(1, 2)])

    assert workers.queue().counts().claimed == 2
