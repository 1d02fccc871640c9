"""Queues of chunks that workers claim from, with leases and fencing.

`Queue` is the seam; `DirectoryQueue` implements it in a directory that all workers see, with
nothing but exclusive file creation: no server, no socket, no lock, no rename.

Chunks are claimed in tickets of consecutive chunks whose sizes are fixed when they are put: each
round of tickets hands out half of what is left (factoring; Hummel, Schonberg and Flynn, 1992), so
that early claims are large, late ones are single chunks, and a queue of n chunks for p claimers
needs about p * log2(n / p) files, not n.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol

from flowdist.clock import Clock, SystemClock
from flowdist.store import Store

LEASE_SECONDS = 30.0


@dataclass(frozen=True)
class Claim:
    """The right to run chunks `first` to `stop` (exclusive), until somebody holds a higher
    `token`.
    """

    put: int
    ticket: int
    token: int
    first: int
    stop: int
    worker: str

    @property
    def chunks(self) -> int:
        return self.stop - self.first


@dataclass(frozen=True)
class Counts:
    """Chunks of a queue by state."""

    waiting: int
    claimed: int
    done: int


class Queue(Protocol):
    """Where chunks wait. Every method may be called from any process; none blocks."""

    def put(self, first: int, stop: int, *, claimers: int = 1, priority: int = 0) -> None:
        """Add the chunks `first` to `stop` (exclusive) for about `claimers` claiming processes."""

    def claim(self, worker: str, n: int = 1) -> list[Claim]:
        """Up to `n` tickets, of the highest priority first; expired leases are taken over."""

    def renew(self, worker: str) -> None:
        """Extend the lease on everything that `worker` holds."""

    def holds(self, claim: Claim) -> bool:
        """Whether nobody has taken the claim over."""

    def complete(self, claim: Claim) -> bool:
        """Record that all chunks of a claim are done; False, and nothing changes, where it was
        taken over.
        """

    def fail(self, claim: Claim) -> None:
        """Give a claim back at once, for others to take."""

    def counts(self) -> Counts:
        """How many chunks wait, are claimed, are done."""


def tickets(first: int, stop: int, claimers: int) -> list[tuple[int, int]]:
    """Consecutive ranges that cover [first, stop): sizes halve each round of `claimers` tickets.

    >>> [b - a for a, b in tickets(0, 20, 2)]
    [5, 5, 3, 3, 1, 1, 1, 1]
    """
    found: list[tuple[int, int]] = []
    while first < stop:
        size = max(1, -(-(stop - first) // (2 * claimers)))
        for _ in range(claimers):
            if first < stop:
                found.append((first, min(first + size, stop)))
                first += size
    return found


@dataclass
class _Put:
    number: int
    priority: int
    tickets: list[tuple[int, int]]
    # The first ticket that this process has not seen claimed.
    cursor: int = 0


class DirectoryQueue:
    """A queue in a folder of a store.

    Files, each created once and exclusively: ``puts/<n>.json`` (priority and tickets),
    ``claims/<put>-<ticket>-<token>`` (the claimer's name), ``released/...`` and ``done/...`` alike.
    ``leases/<worker>`` is a counter that its worker replaces: a lease has expired when an
    observer's own clock has seen the counter stand still for `lease` seconds, so that clocks of
    different machines are never compared.
    """

    def __init__(
        self,
        store: Store,
        folder: str = "queue",
        *,
        lease: float = LEASE_SECONDS,
        clock: Clock | None = None,
    ) -> None:
        self._store = store
        self._folder = folder
        self._lease = lease
        self._clock = clock or SystemClock()
        self._puts: dict[int, _Put] = {}
        self._renewals = 0
        # worker -> the last counter seen, and when this process first saw it
        self._seen: dict[str, tuple[str, float]] = {}

    def put(self, first: int, stop: int, *, claimers: int = 1, priority: int = 0) -> None:
        body = {"priority": priority, "tickets": tickets(first, stop, max(1, claimers))}
        number = len(self._list("puts"))
        while not self._create(f"puts/{number:06d}.json", json.dumps(body)):
            number += 1

    def claim(self, worker: str, n: int = 1) -> list[Claim]:
        self._load_puts()
        found: list[Claim] = []
        for put in self._by_priority():
            while len(found) < n and put.cursor < len(put.tickets):
                ticket, put.cursor = put.cursor, put.cursor + 1
                claimed = self._take(put, ticket, 1, worker)
                if claimed is not None:
                    found.append(claimed)
        return found or self._take_over(worker, n)

    def renew(self, worker: str) -> None:
        self._renewals += 1
        self._store.replace(f"{self._folder}/leases/{worker}", str(self._renewals).encode())

    def holds(self, claim: Claim) -> bool:
        later = self._read(f"claims/{_name(claim.put, claim.ticket, claim.token + 1)}")
        return later is None

    def complete(self, claim: Claim) -> bool:
        if not self.holds(claim):
            return False
        return self._create(f"done/{claim.put:06d}-{claim.ticket:06d}", claim.worker)

    def fail(self, claim: Claim) -> None:
        self._create(f"released/{_name(claim.put, claim.ticket, claim.token)}", claim.worker)

    def counts(self) -> Counts:
        self._load_puts()
        done = self._done()
        highest = self._highest_tokens()
        released = set(self._list("released"))
        # What was given back waits again, until somebody claims it with a higher token.
        claimed = {key for key, token in highest.items() if _name(*key, token) not in released}
        sizes = {
            (put.number, t): stop - first
            for put in self._puts.values()
            for t, (first, stop) in enumerate(put.tickets)
        }
        n_done = sum(sizes.get(key, 0) for key in done)
        n_claimed = sum(sizes.get(key, 0) for key in claimed - done)
        return Counts(sum(sizes.values()) - n_done - n_claimed, n_claimed, n_done)

    # -- private -------------------------------------------------------------------------------

    def _take_over(self, worker: str, n: int) -> list[Claim]:
        """Claims whose holder released them, or has not been heard of for a lease."""
        done = self._done()
        highest = self._highest_tokens()
        released = set(self._list("released"))
        found: list[Claim] = []
        for (put_number, ticket), token in sorted(highest.items()):
            if len(found) >= n or (put_number, ticket) in done or put_number not in self._puts:
                continue
            name = _name(put_number, ticket, token)
            holder = self._read(f"claims/{name}") or name
            # Its own claims a worker knows of, however long it was since it renewed them.
            if name in released or (holder != worker and self._expired(holder)):
                claimed = self._take(self._puts[put_number], ticket, token + 1, worker)
                if claimed is not None:
                    found.append(claimed)
        return found

    def _expired(self, worker: str) -> bool:
        counter = self._read(f"leases/{worker}") or ""
        now = self._clock.monotonic()
        last, since = self._seen.get(worker, (None, now))
        if counter != last:
            self._seen[worker] = (counter, now)
            return False
        return now - since >= self._lease

    def _take(self, put: _Put, ticket: int, token: int, worker: str) -> Claim | None:
        if not self._create(f"claims/{_name(put.number, ticket, token)}", worker):
            return None
        return Claim(put.number, ticket, token, *put.tickets[ticket], worker)

    def _by_priority(self) -> list[_Put]:
        return sorted(self._puts.values(), key=lambda p: (-p.priority, p.number))

    def _load_puts(self) -> None:
        for name in self._list("puts"):
            number = int(name.removesuffix(".json"))
            if number in self._puts:
                continue
            try:
                body = json.loads(self._read(f"puts/{name}") or "")
            except ValueError:
                continue  # still being written
            ranges = [(int(first), int(stop)) for first, stop in body["tickets"]]
            found = self._puts[number] = _Put(number, int(body["priority"]), ranges)
            # Who comes late starts behind what was claimed before, not at the first ticket.
            claimed = [ticket for put, ticket in self._highest_tokens() if put == number]
            found.cursor = max(claimed, default=-1) + 1

    def _done(self) -> set[tuple[int, int]]:
        return {(int(put), int(t)) for put, t in (n.split("-") for n in self._list("done"))}

    def _highest_tokens(self) -> dict[tuple[int, int], int]:
        """The last claim on every ticket, by put and ticket."""
        highest: dict[tuple[int, int], int] = {}
        for name in self._list("claims"):
            put, ticket, token = map(int, name.split("-"))
            highest[put, ticket] = max(token, highest.get((put, ticket), 0))
        return highest

    def _list(self, folder: str) -> list[str]:
        return self._store.list(f"{self._folder}/{folder}")

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
