"""How claimers go through a queue in a table, and who holds what by a log: without a table."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from flowdist.workers.claiming import MOST_TICKETS, Run, Ticket, cut, in_order
from flowdist.workers.log_queue import Entry, Standing, standings

# Cutting and order -------------------------------------------------------------------------------


@given(st.integers(0, 50), st.integers(0, 10**7))
def test_tickets_cover_all_chunks_and_are_not_too_many(first: int, chunks: int) -> None:
    tickets, size = cut(first, first + chunks)

    assert tickets <= MOST_TICKETS
    assert tickets * size - size < chunks <= tickets * size or chunks == tickets == 0


tickets = st.lists(
    st.builds(Ticket, st.integers(0, 60), st.just(0), priority=st.integers(0, 2)),
    unique_by=lambda t: t.first,
).map(lambda found: [replace(t, stop=t.first + 1) for t in found])


@given(tickets, st.one_of(st.none(), st.floats(0, 1)), st.randoms(use_true_random=False))
def test_only_tickets_of_the_highest_priority_are_gone_through_each_once(
    free: list[Ticket], begin: float | None, choose: random.Random
) -> None:
    order = in_order(free, begin, choose)

    best = [t for t in free if t.priority == max(t.priority for t in free)]
    assert len(order) == len(set(order))
    assert set(order) <= set(best)
    assert bool(order) == bool(free)
    assert begin is None or set(order) == set(best)


def in_a_row(*firsts: int) -> list[Ticket]:
    return [Ticket(first, first + 1) for first in firsts]


def test_a_claimer_begins_in_its_place_and_goes_round() -> None:
    order = in_order(in_a_row(*range(8)), 0.5, random.Random(1))

    assert [t.first for t in order] == [4, 5, 6, 7, 0, 1, 2, 3]


def test_later_it_goes_through_the_far_half_of_what_others_are_at_work_on() -> None:
    order = in_order(in_a_row(*range(8)), None, random.Random(1))

    assert [t.first for t in order] == [4, 5, 6, 7]


def test_large_pieces_are_likely_early() -> None:
    free = in_a_row(0, *range(10, 40))
    early = [in_order(free, None, random.Random(n))[0].first >= 10 for n in range(100)]

    assert sum(early) > 85


@given(tickets, st.lists(st.integers(0, 2)))
def test_runs_have_the_tickets_that_they_are_made_of(free: list[Ticket], marks: list[int]) -> None:
    several = [replace(t, token=mark) for t, mark in zip(free, marks, strict=False)]
    runs = Run.of(several)

    covered = [(chunk, run.token) for run in runs for chunk in range(run.first, run.last + 1)]
    assert sorted(covered) == sorted((t.first, t.token) for t in several)


# The log -----------------------------------------------------------------------------------------


@dataclass
class Log:
    """Events as the table keeps them, and the time for leases."""

    lease: float = 10.0
    now: float = 0.0
    entries: dict[tuple[int, int, str], Entry] = field(default_factory=dict)
    leases: dict[str, float] = field(default_factory=dict)

    def put(self, tickets: int) -> None:
        for first in range(tickets):
            self.entries[first, 0, ""] = Entry(first)

    def claim(self, ticket: int, token: int, worker: str) -> None:
        self.entries.setdefault((ticket, token, worker), Entry(ticket, 1, 0, token, worker))
        self.renew(worker)

    def renew(self, worker: str) -> None:
        self.leases[worker] = self.now + self.lease

    def add(self, what: str, ticket: int, token: int, worker: str) -> None:
        key = ticket, token, worker
        self.entries[key] = replace(self.entries[key], **{what: True})

    def read(self) -> dict[int, Standing]:
        told = (
            replace(e, alive=self.leases.get(e.worker, -1.0) >= self.now)
            for e in self.entries.values()
        )
        return {t.entries[0].first: t for t in standings(told)}


@dataclass
class Worker:
    """One that claims from a log, a step at a time."""

    name: str
    log: Log
    choose: random.Random
    # What it has looked at and is about to claim, what it has claimed and not looked at since.
    wanted: tuple[int, int] | None = None
    claimed: tuple[int, int] | None = None
    lost: tuple[int, int] | None = None
    # What it holds, and until when that is sure.
    holds: dict[tuple[int, int], float] = field(default_factory=dict)
    sent: float = -1.0

    def step(self) -> None:
        if self.lost:
            self.log.add("withdrawn", *self.lost, self.name)
            self.lost = None
        elif self.claimed:
            ticket, token = self.claimed
            won = self.log.read()[ticket].won_by(self.name, token)
            self.holds |= {self.claimed: self.sent + self.log.lease} if won else {}
            self.lost, self.claimed = (None if won else self.claimed), None
        elif self.wanted:
            self.log.claim(*self.wanted, self.name)
            self.sent = self.log.now
            self.claimed, self.wanted = self.wanted, None
        else:
            mine = {ticket for ticket, _ in self.holds}
            free = [t.ticket for n, t in self.log.read().items() if t.free and n not in mine]
            if free:
                ticket = self.choose.choice(free)
                self.wanted = ticket.first, ticket.token + 1

    def end(self, what: str) -> int | None:
        """Say that a ticket is done, or give it back; which was done by that."""
        if not self.holds:
            return None
        ticket, token = self.choose.choice(sorted(self.holds))
        del self.holds[ticket, token]
        kept = self.log.read()[ticket].held_by(self.name, token)
        self.log.add(what if kept else "released", ticket, token, self.name)
        return ticket if kept and what == "ended" else None

    def renew(self) -> None:
        self.log.renew(self.name)
        found = self.log.read()
        for ticket, token in sorted(self.holds):
            if found[ticket].held_by(self.name, token):
                self.holds[ticket, token] = self.log.now + self.log.lease
            else:
                del self.holds[ticket, token]
                self.log.add("released", ticket, token, self.name)


def never_two(workers: Iterable[Worker], now: float) -> None:
    """Nobody is sure to hold what another is sure to hold."""
    held = Counter(t for w in workers for (t, _), until in w.holds.items() if until >= now)
    assert max(held.values(), default=0) <= 1, held


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), st.integers(2, 4), st.integers(0, 2**32))
def test_no_two_hold_a_ticket_whatever_the_order_of_their_steps(
    count: int, most: int, seed: int
) -> None:
    choose, log = random.Random(seed), Log()
    log.put(count)
    done: Counter[int] = Counter()
    workers: list[Worker] = []
    born = 0
    for _turn in range(3000):
        if all(t.ended for t in log.read().values()):
            break
        while len(workers) < most:
            workers.append(Worker(f"w{born}", log, choose))
            born += 1
        worker = choose.choice(workers)
        what = choose.choices(
            ["step", "ended", "released", "returned", "renew", "die", "wait"],
            [20, 3, 1, 1, 3, 1 if born < 30 else 0, 2],
        )[0]
        if what == "step":
            worker.step()
        elif what == "renew":
            worker.renew()
        elif what == "die":
            workers.remove(worker)
        elif what == "wait":
            log.now += 4.0
        else:
            done.update({worker.end(what)} - {None})
        never_two(workers, log.now)

    assert done == Counter(range(count))


def test_of_two_that_did_not_see_each_other_all_take_the_first_by_name_for_the_holder() -> None:
    ann, bob = (Entry(0, token=1, worker=name, alive=True) for name in ("ann", "bob"))
    ticket = Standing([Entry(0), bob, ann])

    assert ticket.held_by("ann", 1)
    assert not ticket.held_by("bob", 1)
    assert not ticket.won_by("cat", 2)


def test_who_has_looked_long_ago_does_not_get_what_was_held_since() -> None:
    put, between = Entry(0), Entry(0, token=2, worker="bob", released=True)
    late = Entry(0, token=1, worker="ann", alive=True)

    assert not Standing([put, between, late]).won_by("ann", 1)
    assert Standing([put, between, replace(late, token=3)]).won_by("ann", 3)
