"""Queues of chunks that jobs claim from, with leases and fencing.

`Queue` is the seam; `DirectoryQueue` implements it in a directory that all jobs see, with nothing
but exclusive file creation: no server, no socket, no lock, no rename.

Chunks are claimed in tickets, small ranges of consecutive chunks that follow from arithmetic alone,
so that a queue has some `TICKETS` files for each claiming process, however many chunks. How many
tickets a claim takes is up to the claimer. Every claimer begins in a region of its own, where it
meets nobody; who is through with it looks once what is left, and goes on in the middle of what
another has not come to yet. So claims seldom collide, and folders are listed a few times per
claimer, not per claim.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from flowdist.clock import Clock, SystemClock
from flowdist.store import Store

LEASE_SECONDS = 30.0
# Tickets for each claiming process: a ticket is then a sixty-fourth of what a claimer would have on
# the average, and so is what is lost at the end of a run where one waits for another.
TICKETS = 64
# So often a claim looks again at what is left, where all it saw was gone when it came there. Not
# until it gets something: a network filesystem may show a folder as it was a minute ago.
MOST_LOOKS = 3
# What the lease of a worker says that has left.
LEFT = "left"
# What is said of a claim that is given back with which nobody has begun.
FRESH = "fresh"


@dataclass(frozen=True)
class Claim:
    """The right to run chunks `first` to `stop` (exclusive), until somebody holds a higher
    `token`. `fresh` where nobody has begun with them.
    """

    put: int
    ticket: int
    token: int
    first: int
    stop: int
    worker: str
    fresh: bool = field(default=True, compare=False)

    @property
    def chunks(self) -> int:
        return self.stop - self.first


@dataclass(frozen=True)
class Counts:
    """Chunks of a queue by state; `dead` are those that were given up."""

    waiting: int
    claimed: int
    done: int
    dead: int = 0

    @property
    def total(self) -> int:
        """All chunks that were put into the queue."""
        return self.waiting + self.claimed + self.done + self.dead

    @property
    def over(self) -> bool:
        """Whether all that were put into it, and there are some, are done or given up."""
        return self.total > 0 and not self.waiting and not self.claimed


class Queue(Protocol):
    """Where chunks wait. Every method may be called from any process; none blocks."""

    @property
    def lease(self) -> float:
        """Seconds without a renewal after which claims are taken over."""

    @property
    def by_ticket(self) -> bool:
        """Whether a claim takes the longer the more it brings; else it takes about the same."""

    def put(self, first: int, stop: int, *, claimers: int = 1, priority: int = 0) -> None:
        """Add the chunks `first` to `stop` (exclusive) for about `claimers` claiming processes."""

    def claim(self, worker: str, least: int = 1, most: int = 1) -> list[Claim]:
        """Claims on `least` chunks where there are so many, and on up to `most` where that is a
        fair share of what is left; of the highest priority first. Where nothing waits, what others
        gave back or hold with an expired lease. A claim may bring some chunks more than asked for.
        """

    def renew(self, worker: str) -> None:
        """Extend the lease on everything that `worker` holds."""

    def leave(self, worker: str) -> None:
        """Note that `worker` holds nothing and will not come back."""

    # What follows takes several claims, of one worker, so that it may be one look or statement.

    def lost(self, claims: Sequence[Claim]) -> list[Claim]:
        """Those that somebody else has taken over."""

    def complete(self, claims: Sequence[Claim]) -> list[Claim]:
        """Record that all chunks of these claims are done; returns those of which that counts. Of
        one that was taken over it does not, and nothing changes.
        """

    def fail(self, claims: Sequence[Claim], *, begun: bool = True) -> None:
        """Give claims back at once, for others to take; `begun` where some of each may be done."""

    def finished(self, *, look: bool = True) -> bool:
        """Whether all chunks are done or given up; without `look`, only whether somebody has seen
        so, which is cheap to ask.
        """

    def counts(self) -> Counts:
        """How many chunks there are of each state."""


@dataclass(frozen=True)
class Tickets:
    """How the chunks `first` to `stop` (exclusive) are cut for `claimers` claiming processes.

    >>> cut = Tickets(0, 1000, claimers=2)
    >>> len(cut), cut.chunks(0), cut.chunks(127)
    (128, (0, 7), (992, 1000))
    >>> cut.region(0), cut.region(1)
    (range(0, 64), range(64, 128))
    >>> len(Tickets(0, 10, claimers=2))
    10
    """

    first: int
    stop: int
    claimers: int

    def __len__(self) -> int:
        return min(self.stop - self.first, TICKETS * self.claimers)

    def chunks(self, ticket: int) -> tuple[int, int]:
        """First and stop (exclusive) chunk of a ticket; sizes differ by at most one."""
        n = self.stop - self.first
        return self.first + ticket * n // len(self), self.first + (ticket + 1) * n // len(self)

    def region(self, place: int) -> range:
        """The tickets that a claimer begins with."""
        place %= self.claimers
        n = len(self)
        return range(place * n // self.claimers, (place + 1) * n // self.claimers)

    def pieces(self, claimed: set[int]) -> list[range]:
        """Runs of tickets that are not claimed, none over the border of a region."""
        found: list[range] = []
        for place in range(self.claimers):
            region, first = self.region(place), None
            for ticket in region:
                if ticket in claimed:
                    found += [range(first, ticket)] if first is not None else []
                    first = None
                elif first is None:
                    first = ticket
            found += [range(first, region.stop)] if first is not None else []
        return found


@dataclass
class _Put:
    number: int
    priority: int
    tickets: Tickets
    # Where this process claims from, the last first; what others have claimed since shows then.
    pieces: list[range] = field(default_factory=list)
    # Nothing of it is left that nobody has ever claimed.
    empty: bool = False


class DirectoryQueue:
    """A queue in a folder of a store.

    Files, each created once and exclusively: ``puts/<n>.json`` (priority, chunks and claimers),
    ``claims/<put>-<ticket>-<token>`` (the claimer's name), ``released/...`` and ``done/...`` alike,
    and ``finished/<n>`` where everything in the first n puts is done. ``leases/<worker>`` is a
    counter that its worker replaces: a lease has expired when an observer's own clock has seen the
    counter stand still for `lease` seconds: clocks of different machines are never compared.

    Args:
        store: where the folder is.
        folder: its name in the store.
        lease: seconds.
        clock: for leases.
        place: which of the claimers this process is, 0 to claimers - 1: the region it begins with.
    """

    by_ticket = True

    def __init__(
        self,
        store: Store,
        folder: str = "queue",
        *,
        lease: float = LEASE_SECONDS,
        clock: Clock | None = None,
        place: int = 0,
    ) -> None:
        self._store = store
        self._folder = folder
        self._lease = lease
        self._clock = clock or SystemClock()
        self._place = place
        self._random = random.Random(place)
        self._puts: list[_Put] = []
        self._renewals: dict[str, int] = {}
        # worker -> the last counter seen, and when this process first saw it
        self._seen: dict[str, tuple[str, float]] = {}
        # claim -> its holder: never changes once it is written
        self._holders: dict[str, str] = {}

    @property
    def lease(self) -> float:
        return self._lease

    def put(self, first: int, stop: int, *, claimers: int = 1, priority: int = 0) -> None:
        body = {"priority": priority, "first": first, "stop": stop, "claimers": max(1, claimers)}
        number = len(self._list("puts"))
        while not self._create(f"puts/{number:06d}.json", json.dumps(body)):
            number += 1

    def claim(self, worker: str, least: int = 1, most: int = 1) -> list[Claim]:
        self._load_puts()
        if worker not in self._renewals:
            self.renew(worker)  # who has no lease could not lose it
        found: list[Claim] = []
        for put in sorted(self._puts, key=lambda p: (-p.priority, p.number)):
            self._claim_fresh(put, worker, least, most, found)
        return found or self._take_over(worker, least, most)

    def renew(self, worker: str) -> None:
        self._renewals[worker] = self._renewals.get(worker, 0) + 1
        self._write_lease(worker, str(self._renewals[worker]))

    def leave(self, worker: str) -> None:
        self._write_lease(worker, LEFT)

    def lost(self, claims: Sequence[Claim]) -> list[Claim]:
        return [claim for claim in claims if self._taken_over(claim)]

    def _taken_over(self, claim: Claim) -> bool:
        return self._read(f"claims/{_name(claim.put, claim.ticket, claim.token + 1)}") is not None

    def complete(self, claims: Sequence[Claim]) -> list[Claim]:
        return [
            claim
            for claim in claims
            if not self._taken_over(claim)
            and self._create(f"done/{claim.put:06d}-{claim.ticket:06d}", claim.worker)
        ]

    def fail(self, claims: Sequence[Claim], *, begun: bool = True) -> None:
        for claim in claims:
            name = _name(claim.put, claim.ticket, claim.token)
            self._create(f"released/{name}", FRESH if claim.fresh and not begun else claim.worker)

    def finished(self, *, look: bool = True) -> bool:
        self._load_puts()
        if self._read(self._mark()) is not None:
            return True
        if not look or len(self._list("done")) < self._all_tickets():
            return False
        self._create(self._mark(), "")
        return True

    def counts(self) -> Counts:
        self._load_puts()
        done = self._done()
        highest = self._highest_tokens()
        released = set(self._list("released"))
        # What was given back waits again, until somebody claims it with a higher token.
        claimed = {key for key, token in highest.items() if _name(*key, token) not in released}
        n_all = sum(put.tickets.stop - put.tickets.first for put in self._puts)
        n_done, n_claimed = self._chunks_in(done), self._chunks_in(claimed - done)
        return Counts(n_all - n_done - n_claimed, n_claimed, n_done)

    # -- what nobody has claimed ---------------------------------------------------------------

    def _claim_fresh(
        self, put: _Put, worker: str, least: int, most: int, found: list[Claim]
    ) -> None:
        """Add to `found` what a put still has of what the claim is to bring."""
        chunks = sum(claim.chunks for claim in found)
        looks = 0
        while chunks < least and not put.empty:
            if not put.pieces:
                looks += 1
                if looks > MOST_LOOKS:
                    return
                self._look_for_pieces(put)
                continue
            piece = put.pieces.pop()
            # Half of what seems left here, so that claims shrink as the work does (guided
            # self-scheduling: Polychronopoulos and Kuck, 1987).
            share = -(-len(piece) // 2)
            for number, ticket in enumerate(piece):
                if chunks >= least and (number >= share or chunks >= most):
                    put.pieces.append(piece[number:])
                    break
                claimed = self._take(put, ticket, 1, worker)
                if claimed is None:
                    break  # somebody is at work here
                found.append(claimed)
                chunks, looks = chunks + claimed.chunks, 0

    def _look_for_pieces(self, put: _Put) -> None:
        """What nobody has claimed, in the order to go through it: large pieces are likely early,
        and each process has an order of its own, so that those who look at the same time seldom
        meet.
        """
        claimed = {ticket for number, ticket in self._highest_tokens() if number == put.number}
        pieces = put.tickets.pieces(claimed)
        put.empty = not pieces
        # A weighted shuffle: Efraimidis and Spirakis, 2006.
        pieces.sort(key=lambda piece: self._random.random() ** (1 / len(piece)))
        # Who has begun a region goes through it from its first ticket: the far half is left alone
        # for longest.
        whole = len(put.tickets) / put.tickets.claimers
        put.pieces = [p if len(p) >= whole else p[len(p) // 2 :] for p in pieces]

    # -- what somebody else had ----------------------------------------------------------------

    def _take_over(self, worker: str, least: int, most: int) -> list[Claim]:
        """Claims whose holder released them, or has not been heard of for a lease."""
        done, highest = self._done(), self._highest_tokens()
        released = set(self._list("released"))
        undone = [(put, t, token) for (put, t), token in highest.items() if (put, t) not in done]
        if not undone and len(done) == self._all_tickets():
            self._create(self._mark(), "")
        silent = self._silent_workers() if undone else set()
        free = [
            key
            for key in undone
            if key[0] < len(self._puts)
            and (_name(*key) in released or (silent and self._is_left(_name(*key), worker, silent)))
        ]
        self._random.shuffle(free)
        found: list[Claim] = []
        chunks, share = 0, -(-len(free) // 2)
        for put, ticket, token in free:
            if chunks >= least and (len(found) >= share or chunks >= most):
                break
            claimed = self._take(self._puts[put], ticket, token + 1, worker)
            if claimed is not None:
                before = self._read(f"released/{_name(put, ticket, token)}")
                found.append(replace(claimed, fresh=before == FRESH))
                chunks += claimed.chunks
        return found

    def _silent_workers(self) -> set[str]:
        """Those whose lease has expired, but for who has left and holds nothing."""
        return {
            worker
            for worker in self._list("leases")
            if self._expired(worker, self._read(f"leases/{worker}") or "")
        }

    def _is_left(self, name: str, worker: str, silent: set[str]) -> bool:
        """Whether the holder of a claim is silent, or died before it could write its name."""
        holder = self._holders.get(name) or self._read(f"claims/{name}")
        if not holder:
            return self._expired(name, "")
        self._holders[name] = holder
        # Its own claims a worker knows of, however long it was since it renewed them.
        return holder != worker and holder in silent

    def _expired(self, who: str, counter: str) -> bool:
        now = self._clock.monotonic()
        last, since = self._seen.get(who, (None, now))
        if counter != last:
            self._seen[who] = (counter, now)
            return False
        return counter != LEFT and now - since >= self._lease

    # -- files ---------------------------------------------------------------------------------

    def _take(self, put: _Put, ticket: int, token: int, worker: str) -> Claim | None:
        if not self._create(f"claims/{_name(put.number, ticket, token)}", worker):
            return None
        return Claim(put.number, ticket, token, *put.tickets.chunks(ticket), worker)

    def _load_puts(self) -> None:
        """Read the puts that are new; their numbers have no gaps, so nothing is listed."""
        while (text := self._read(f"puts/{len(self._puts):06d}.json")) is not None:
            try:
                body = json.loads(text)
            except ValueError:
                return  # still being written
            tickets = Tickets(int(body["first"]), int(body["stop"]), int(body["claimers"]))
            put = _Put(len(self._puts), int(body["priority"]), tickets)
            put.pieces = [region] if (region := tickets.region(self._place)) else []
            self._puts.append(put)

    def _mark(self) -> str:
        """The file that says that everything in the puts known here is done."""
        return f"finished/{len(self._puts):06d}"

    def _all_tickets(self) -> int:
        return sum(len(put.tickets) for put in self._puts)

    def _chunks_in(self, tickets: Iterable[tuple[int, int]]) -> int:
        found = (self._puts[put].tickets.chunks(t) for put, t in tickets if put < len(self._puts))
        return sum(stop - first for first, stop in found)

    def _done(self) -> set[tuple[int, int]]:
        return {(int(put), int(t)) for put, t in (n.split("-") for n in self._list("done"))}

    def _highest_tokens(self) -> dict[tuple[int, int], int]:
        """The last claim on every ticket, by put and ticket."""
        highest: dict[tuple[int, int], int] = {}
        for name in self._list("claims"):
            put, ticket, token = map(int, name.split("-"))
            highest[put, ticket] = max(token, highest.get((put, ticket), 0))
        return highest

    def _write_lease(self, worker: str, text: str) -> None:
        self._store.replace(f"{self._folder}/leases/{worker}", text.encode())

    def _list(self, folder: str) -> list[str]:
        # A network filesystem may leave files of its own in a directory.
        names = self._store.list(f"{self._folder}/{folder}")
        return [name for name in names if not name.startswith(".")]

    def _read(self, name: str) -> str | None:
        try:
            return self._store.get(f"{self._folder}/{name}").decode()
        except FileNotFoundError:
            return None

    def _create(self, name: str, text: str) -> bool:
        try:
            self._store.put(f"{self._folder}/{name}", text.encode())
        except FileExistsError:
            return False
        return True


def _name(put: int, ticket: int, token: int) -> str:
    return f"{put:06d}-{ticket:06d}-{token:04d}"
