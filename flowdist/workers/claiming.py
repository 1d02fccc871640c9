"""How a worker claims from a queue in a table of Snowflake, whichever kind of table that is.

A ticket is a row that says which chunks wait. `TableQueue` looks what is free, goes through that in
an order of its own, so that claimers seldom meet, and knows what it holds and until when nobody can
have taken it over: what is surely so is not asked. How a table is read and written is left to
`flowdist.workers.table_queue` (a hybrid table) and `flowdist.workers.log_queue` (any table).

A chunk that kills whatever runs it is found by counting: it is begun at most `max_attempts` times.
Since all that was claimed beside it is lost with it each time, a ticket gets its last chance with a
worker that holds nothing else.

All times in tables are the server's, in UTC (``SYSDATE()``), whatever a client's clock or the time
zone of a session says.
"""

from __future__ import annotations

import logging
import math
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from flowdist.clock import Clock, SystemClock
from flowdist.snowflake.client import SnowflakeError
from flowdist.workers.queue import Claim, Counts

if TYPE_CHECKING:
    from flowdist.snowflake.client import Client
    from flowdist.snowflake.names import Name

logger = logging.getLogger("flowdist.queue")

# A ticket is one chunk, but for more chunks than this: then it is several. A look may read a row
# for each ticket, and a hybrid table that of ten thousand in a few tenths of a second.
MOST_TICKETS = 10_000
# Of so many tickets one statement may tell: as much as can be bound to it at ease.
MOST_AT_ONCE = 500
# So often a claim looks anew at what is free, where others were faster each time.
MOST_LOOKS = 3
# Leases are renewed once this part of them is over. Nobody can have taken over what was renewed
# less than the second part ago, by a clock that goes up to a tenth wrong.
RENEW_AFTER, SURE = 0.25, 0.9


@dataclass(frozen=True)
class Ticket:
    """Chunks `first` to `stop` (exclusive) that are free: claimed `token` times so far, begun
    `attempts` times.
    """

    first: int
    stop: int
    token: int = 0
    attempts: int = 0
    priority: int = 0


@dataclass(frozen=True)
class Look:
    """What there is of a job: tickets that are free, how many have not ended (the free ones are
    among them), and who holds some of those.
    """

    free: list[Ticket]
    undone: int
    holders: set[str]


@dataclass(frozen=True)
class Waiting:
    """A job that has not ended: chunks that can be claimed, that are claimed; workers with a lease
    that is valid; the highest priority of what can be claimed.
    """

    job_id: str
    stage_path: str
    waiting: int
    claimed: int
    workers: int
    priority: int


class TableQueue(ABC):
    """A queue in a table; an object for each thread.

    A queue into which nothing was put yet is not finished: chunks may come later, or be seen later.

    Args:
        client: of the account.
        table: full name.
        job_id: whose chunks these are.
        pool: which workers they are for.
        stage_path: where their run is.
        lease: seconds.
        max_attempts: how often a chunk is begun before it is given up.
        clock: for what need not be asked.
        start: where in the queue this claimer begins, 0 to 1; by chance where it is not said.
    """

    by_ticket = False
    look_lasts = math.inf
    """After so many seconds it may be that something of a higher priority waits, unseen."""

    def __init__(
        self,
        client: Client,
        table: Name,
        job_id: str,
        *,
        pool: str = "",
        stage_path: str = "",
        lease: float = 60.0,
        max_attempts: int = 3,
        clock: Clock | None = None,
        start: float | None = None,
    ) -> None:
        self._client = client
        self._table = table.sql
        self._job = job_id
        self._pool = pool
        self._path = stage_path
        self._lease = lease
        self._most = max_attempts
        self.begun: float | None = None
        """When this claimer first asked for chunks, by the monotonic clock."""
        self._clock = clock or SystemClock()
        self._random = random.Random()
        self._start: float | None = self._random.random() if start is None else start
        self._milliseconds = round(lease * 1000)
        # What to claim next, as the last look has shown it, and among how many that is shared out.
        self._ahead: deque[Ticket] = deque()
        self._left, self._claimers = 0, 1
        self._looked = -math.inf
        # claim -> until when it is surely held, by the monotonic clock
        self._held: dict[Claim, float] = {}
        self._renewed = -math.inf
        self._alone: Claim | None = None
        # Whether the last look has shown that everything has ended.
        self._over = False

    @classmethod
    @abstractmethod
    def waiting(cls, client: Client, table: Name, pool: str) -> list[Waiting]:
        """The jobs of a pool that have not ended, by one statement."""

    @property
    def lease(self) -> float:
        return self._lease

    # -- claiming

    def claim(self, worker: str, least: int = 1, most: int = 1) -> list[Claim]:
        if self._alone is not None:
            return []
        for _ in range(MOST_LOOKS):
            if not self._ahead or self._clock.monotonic() > self._looked + self.look_lasts:
                self._look(worker)
            if not self._ahead:
                return []
            wanted = self._choose(least, most)
            if not wanted:
                continue
            claims = self._claimed(worker, wanted)
            if len(claims) < len(wanted):
                self._ahead.clear()  # others are at work here
            if claims:
                return claims
        return []

    def _claimed(self, worker: str, wanted: list[Ticket]) -> list[Claim]:
        sent = self._clock.monotonic()
        got = self._take(worker, sorted(wanted, key=lambda t: t.first))
        claims = [
            Claim(0, t.first, t.token + 1, t.first, t.stop, worker, fresh=not t.attempts)
            for t in got
        ]
        self._held |= dict.fromkeys(claims, sent + SURE * self._lease)
        if claims and self._is_last_chance(got[0]):
            self._alone = claims[0]
        return claims

    def _look(self, worker: str) -> None:
        """See what is free, and settle in which order to go through it."""
        self._looked = self._clock.monotonic()
        if self.begun is None:
            self.begun = self._looked
        found = self._undone()
        self._over = not found.undone and self.counts().over
        # Its own claims a worker knows of, however long it was since it renewed them.
        mine = {claim.first for claim in self._held}
        free = [t for t in found.free if t.first not in mine]
        doomed = [t for t in free if t.attempts >= self._most]
        if doomed:
            self._bury(doomed[:MOST_AT_ONCE])
        free = [
            t
            for t in free
            if t.attempts < self._most and not (self._held and self._is_last_chance(t))
        ]
        others = found.holders - {worker}
        free = in_order(free, self._start if others else self._start or 0.0, self._random)
        self._start = None
        self._ahead, self._left, self._claimers = deque(free), len(free), 1 + len(others)

    def _choose(self, least: int, most: int) -> list[Ticket]:
        """What to claim of what is ahead; nothing of it any more where that is to be looked at
        anew.
        """
        # Half of what would be this worker's on the average, so that claims shrink as the work does
        # (guided self-scheduling: Polychronopoulos and Kuck, 1987).
        share = math.ceil(self._left / (2 * self._claimers))
        wanted: list[Ticket] = []
        chunks = 0
        while self._ahead and len(wanted) < MOST_AT_ONCE:
            ticket = self._ahead[0]
            enough = chunks >= most or len(wanted) >= share or ticket.attempts > 0
            if chunks >= least and enough:
                break
            last = self._is_last_chance(ticket)
            if last and wanted:
                break
            self._ahead.popleft()
            if last and self._held:
                continue
            wanted.append(ticket)
            chunks += ticket.stop - ticket.first
            if last:
                break
        self._left -= len(wanted)
        return wanted

    def _is_last_chance(self, ticket: Ticket) -> bool:
        return 0 < ticket.attempts == self._most - 1

    # -- holding

    def renew(self, worker: str) -> None:
        now = self._clock.monotonic()
        mine = [claim for claim in self._held if claim.worker == worker]
        until = now + (SURE - RENEW_AFTER) * self._lease
        if not mine or min(self._held[claim] for claim in mine) > until:
            return
        try:
            kept = self._extend(worker, mine)
        except SnowflakeError as error:
            # What this has cost is told by `lost`.
            logger.warning("leases were not renewed: %s", error)
            return
        self._renewed = now
        self._held |= dict.fromkeys(mine, now + SURE * self._lease if kept else -math.inf)

    def leave(self, worker: str) -> None:
        self._forget([claim for claim in self._held if claim.worker == worker])

    def lost(self, claims: Sequence[Claim]) -> list[Claim]:
        now = self._clock.monotonic()
        unsure = [claim for claim in claims if self._held.get(claim, -math.inf) <= now]
        if not unsure:
            return []
        kept = self._kept(unsure)
        self._held |= dict.fromkeys(kept & self._held.keys(), self._renewed + SURE * self._lease)
        gone = [claim for claim in unsure if claim not in kept]
        self._forget(gone)
        return gone

    def _forget(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            self._held.pop(claim, None)
            if claim == self._alone:
                self._alone = None

    # -- ends

    def finished(self, *, look: bool = True) -> bool:
        if look:
            self._over = self.counts().over
        return self._over

    def _counted(self, rows: Iterable[dict[str, Any]]) -> Counts:
        """From rows of a state and how many chunks it has."""
        chunks = {str(row["status"]): int(row["total"]) for row in rows}
        return Counts(*(chunks.get(s, 0) for s in ("PENDING", "RUNNING", "DONE", "DEAD")))

    # -- what depends on the table

    @abstractmethod
    def put(
        self, first: int, stop: int, *, claimers: int = 1, priority: int = 0, delay: float = 0.0
    ) -> None:
        """Add chunks, to be claimed in `delay` seconds at the earliest. One statement however many
        there are; to say it again adds nothing.
        """

    @abstractmethod
    def complete(self, claims: Sequence[Claim]) -> list[Claim]: ...

    @abstractmethod
    def fail(self, claims: Sequence[Claim], *, begun: bool = True) -> None: ...

    @abstractmethod
    def counts(self) -> Counts: ...

    def dead(self) -> list[tuple[int, int, str]]:
        """Chunks that were given up: first, stop (exclusive), and why."""
        return [
            (first, first + int(row["extent"]), str(row["said"]))
            for row in self._buried()
            for first in [int(row["chunk_id"])]
        ]

    @abstractmethod
    def withdraw(self) -> None:
        """Let nobody claim what is left: delete what has not ended."""

    def remove(self) -> None:
        """Delete everything of the job."""
        self._client.run(f"DELETE FROM {self._table} WHERE JOB_ID = ?", (self._job,))

    @abstractmethod
    def _buried(self) -> list[dict[str, Any]]:
        """Tickets that were given up: CHUNK_ID, EXTENT (how many chunks) and SAID (why)."""

    @abstractmethod
    def _undone(self) -> Look:
        """What of the job has not ended."""

    @abstractmethod
    def _take(self, worker: str, tickets: list[Ticket]) -> list[Ticket]:
        """Claim tickets, which are in order; those that were got."""

    @abstractmethod
    def _extend(self, worker: str, claims: list[Claim]) -> bool:
        """Renew leases; False where some of the claims are held no more, or that is not known."""

    @abstractmethod
    def _kept(self, claims: list[Claim]) -> set[Claim]:
        """Which claims nobody has taken over."""

    @abstractmethod
    def _bury(self, tickets: list[Ticket]) -> None:
        """Give tickets up that have been begun too often."""


def cut(first: int, stop: int) -> tuple[int, int]:
    """How many tickets there are for these chunks, and how many chunks in each but the last.

    >>> cut(0, 12), cut(0, 25_000)
    ((12, 1), (8334, 3))
    """
    size = max(1, math.ceil((stop - first) / MOST_TICKETS))
    return math.ceil((stop - first) / size), size


def batches(claims: Sequence[Claim]) -> Iterator[Sequence[Claim]]:
    """As many at a time as a statement may tell of."""
    for start in range(0, len(claims), MOST_AT_ONCE):
        yield claims[start : start + MOST_AT_ONCE]


def in_order(tickets: Iterable[Ticket], begin: float | None, choose: random.Random) -> list[Ticket]:
    """The tickets of the highest priority, in the order in which a claimer goes through them.

    At first that is from the place `begin` (0 to 1) on and round. Later some of it is being gone
    through by others, each from the first ticket of a piece on: then it is the far half of each
    piece, which is left alone for longest, and large pieces are likely early.
    """
    free = sorted(tickets, key=lambda t: (-t.priority, t.first))
    free = [t for t in free if t.priority == free[0].priority]
    if begin is not None:
        place = int(begin * len(free)) % max(1, len(free))
        return free[place:] + free[:place]
    pieces: list[list[Ticket]] = []
    for ticket in free:
        if pieces and pieces[-1][-1].stop == ticket.first:
            pieces[-1].append(ticket)
        else:
            pieces.append([ticket])
    # A weighted shuffle: Efraimidis and Spirakis, 2006.
    pieces.sort(key=lambda piece: choose.random() ** (1 / len(piece)), reverse=True)
    return [ticket for piece in pieces for ticket in piece[len(piece) // 2 :]]


@dataclass(frozen=True)
class Run:
    """Tickets that adjoin and have the same token: the first chunk of the first and of the last."""

    first: int
    last: int
    token: int

    @classmethod
    def of(cls, tickets: Iterable[Ticket | Claim]) -> list[Self]:
        """Tickets as runs, in order.

        >>> Run.of([Ticket(0, 2), Ticket(2, 4), Ticket(6, 8)])
        [Run(first=0, last=2, token=0), Run(first=6, last=6, token=0)]
        """
        runs: list[Self] = []
        stop = -1
        for ticket in sorted(tickets, key=lambda t: t.first):
            if runs and stop == ticket.first and runs[-1].token == ticket.token:
                runs[-1] = cls(runs[-1].first, ticket.first, ticket.token)
            else:
                runs.append(cls(ticket.first, ticket.first, ticket.token))
            stop = ticket.stop
        return runs
