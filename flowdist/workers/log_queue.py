"""A queue in a table to which rows are only added, where there are no hybrid tables.

Updates of a standard table are made one after another, and fail where more than twenty wait; rows
that are added are in nobody's way. So the table is a log of events, and what has become of a chunk
follows from all of its events. Only the driver deletes: `LogQueue.withdraw` and `remove`.

Who wants a ticket adds a CLAIM with a token that is higher than all it knows, and then looks at the
ticket's claims. It has the ticket where nobody else claims it: no other claim has this token or a
higher one, and the highest of the others is over, or its worker's lease is. Else it adds WITHDRAW,
and the claim counts for nothing. Two that claim at once may both withdraw, and try elsewhere, each
in an order of its own. They never both have the ticket: a statement sees all that was committed
before it began, and each looks after its own claim was committed, so the one whose claim came later
sees the other's. An account may show a commit to other sessions a moment late
(READ_CONSISTENCY_MODE); then both may think they have it, and the first by name is taken to have it
by all who look later, the other itself included.

The holder of a ticket is the claim with the highest token that was not withdrawn, until it is over:
RELEASE (given back, begun), RETURN (not begun). A lease is a worker's: the latest of what its CLAIM
and RENEW events say. What once was held is overruled by what was claimed after it, whatever becomes
of that; who learns so adds RELEASE, so that no claim is held by somebody who does not know of it.
DONE and DEAD end a ticket for good; a DONE is only added by who holds the ticket.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowdist.workers.claiming import Look, TableQueue, Ticket, Waiting, batches, cut
from flowdist.workers.queue import Claim, Counts

if TYPE_CHECKING:
    from flowdist.snowflake.client import Client
    from flowdist.snowflake.names import Name

__all__ = ["LogQueue"]


@dataclass(frozen=True)
class Entry:
    """A claim in the log, or (token 0, no worker) that a ticket was put."""

    first: int
    chunks: int = 1
    priority: int = 0
    token: int = 0
    worker: str = ""
    # The lease of its worker is valid.
    alive: bool = False
    withdrawn: bool = False
    # Given back: nobody has begun with it, or somebody has.
    returned: bool = False
    released: bool = False
    # It may be claimed only later.
    waits: bool = False
    # The ticket is done or was given up.
    ended: bool = False

    @property
    def over(self) -> bool:
        return self.returned or self.released


@dataclass(frozen=True)
class Standing:
    """What has become of a ticket, by its entries."""

    entries: Sequence[Entry]

    @property
    def holder(self) -> Entry | None:
        """The claim that counts, be its lease valid or not; None where the ticket is nobody's."""
        claims = [e for e in self.entries if e.token and not e.withdrawn]
        if not claims:
            return None
        # The first by name where two hold the same token, neither of which has seen the other.
        best = min(claims, key=lambda e: (-e.token, e.over, e.worker))
        return None if best.over else best

    @property
    def held(self) -> bool:
        """Whether it has a holder with a valid lease."""
        return self.holder is not None and self.holder.alive

    @property
    def ended(self) -> bool:
        return any(e.ended for e in self.entries)

    @property
    def free(self) -> bool:
        """Whether it may be claimed now."""
        return not (self.held or self.ended or any(e.waits for e in self.entries))

    @property
    def ticket(self) -> Ticket:
        """As claimers see it."""
        first = self.entries[0].first
        return Ticket(
            first,
            first + max(e.chunks for e in self.entries),
            max(e.token for e in self.entries),
            self._attempts,
            max(e.priority for e in self.entries),
        )

    @property
    def _attempts(self) -> int:
        """How often it was begun; all that led up to being given back counts as one, for who could
        give it back was not killed by it.
        """
        attempts = 0
        for entry in sorted((e for e in self.entries if e.token), key=lambda e: e.token):
            if not (entry.withdrawn or entry.returned):
                attempts = 1 if entry.released else attempts + 1
        return attempts

    def held_by(self, worker: str, token: int) -> bool:
        """Whether a claim that had the ticket has it still, or has ended it."""
        if any(e.ended and (e.worker, e.token) == (worker, token) for e in self.entries):
            return True
        holder = None if self.ended else self.holder
        return holder is not None and (holder.worker, holder.token) == (worker, token)

    def won_by(self, worker: str, token: int) -> bool:
        """Whether a claim that was just added has the ticket."""
        others = Standing([e for e in self.entries if e.worker != worker])
        highest = max((e.token for e in others.entries if not e.withdrawn), default=0)
        return highest < token and not others.held and not self.ended


def standings(entries: Iterable[Entry]) -> list[Standing]:
    """Entries by ticket."""
    found: defaultdict[int, list[Entry]] = defaultdict(list)
    for entry in entries:
        found[entry.first].append(entry)
    return [Standing(several) for several in found.values()]


# -- what the log says, in SQL


def _is(event: str) -> str:
    return f"MAX(IFF(EVENT = '{event}', 1, 0))"


def _claims(table: str, which: str) -> str:
    """A row for each claim on a ticket, and one for that it was put. `which` says the events."""
    return (
        "SELECT JOB_ID, CHUNK_ID, COALESCE(TOKEN, 0) AS MARK, COALESCE(WORKER_ID, '') AS WORKER, "
        "MAX(STAGE_PATH) AS PATH, MAX(CHUNKS) AS EXTENT, MAX(PRIORITY) AS WEIGHT, "
        f"MAX(NOT_BEFORE) AS MOMENT, {_is('WITHDRAW')} AS WITHDRAWN, {_is('RETURN')} AS RETURNED, "
        f"{_is('RELEASE')} AS RELEASED, {_is('DONE')} AS DONE, {_is('DEAD')} AS DEAD "
        f"FROM {table} WHERE {which} AND CHUNK_ID IS NOT NULL "
        "GROUP BY JOB_ID, CHUNK_ID, COALESCE(TOKEN, 0), COALESCE(WORKER_ID, '')"
    )


def _told(table: str, claims: str, job: str) -> str:
    """Rows of `_claims` with whether their workers' leases are valid. `job` is the condition for
    all events of a job, or of a pool.
    """
    return (
        "SELECT C.*, IFF(C.MOMENT > SYSDATE(), 1, 0) AS WAITS, "
        "IFF(L.UNTIL >= SYSDATE(), 1, 0) AS ALIVE "
        f"FROM ({claims}) AS C LEFT JOIN ("
        f"SELECT WORKER_ID, MAX(LEASE_UNTIL) AS UNTIL FROM {table} "
        f"WHERE {job} AND LEASE_UNTIL IS NOT NULL GROUP BY WORKER_ID) AS L "
        "ON L.WORKER_ID = C.WORKER"
    )


_UNDONE = "QUALIFY MAX(C.DONE + C.DEAD) OVER (PARTITION BY C.JOB_ID, C.CHUNK_ID) = 0"


def _entry(row: dict[str, Any]) -> Entry:
    return Entry(
        int(row["chunk_id"]),
        int(row["extent"] or 1),
        int(row["weight"] or 0),
        int(row["mark"]),
        str(row["worker"]),
        bool(row["alive"]),
        bool(row["withdrawn"]),
        bool(row["returned"]),
        bool(row["released"]),
        bool(row["waits"]),
        bool(row["done"] or row["dead"]),
    )


class LogQueue(TableQueue):
    """A queue as a log of events, see `log_queue_table`."""

    # Claims are not compared with what was put meanwhile.
    look_lasts = 10.0

    def __init__(self, client: Client, table: Name, job_id: str, **options: Any) -> None:
        super().__init__(client, table, job_id, **options)
        # Claims of which it is not known whether they count, since there was no answer.
        self._unsure: list[Claim] = []
        # The tickets of the last look.
        self._seen: dict[int, Standing] = {}

    @classmethod
    def waiting(cls, client: Client, table: Name, pool: str) -> list[Waiting]:
        claims = _claims(table.sql, "POOL = ?")
        rows = client.rows(f"{_told(table.sql, claims, 'POOL = ?')} {_UNDONE}", (pool, pool))
        found = []
        for job in sorted({str(row["job_id"]) for row in rows}):
            its = [row for row in rows if row["job_id"] == job]
            tickets = standings(map(_entry, its))
            free = [t.ticket for t in tickets if t.free]
            held = [t for t in tickets if t.held]
            found.append(
                Waiting(
                    job,
                    next(str(row["path"]) for row in its if row["path"] is not None),
                    sum(t.stop - t.first for t in free),
                    sum(t.ticket.stop - t.ticket.first for t in held),
                    len({t.holder.worker for t in held if t.holder is not None}),
                    max((t.priority for t in free), default=0),
                )
            )
        return found

    def put(
        self, first: int, stop: int, *, claimers: int = 1, priority: int = 0, delay: float = 0.0
    ) -> None:
        tickets, size = cut(first, stop)
        if not tickets:
            return
        self._over = False
        late = round(delay * 1000)
        self._client.run(
            f"INSERT INTO {self._table} (JOB_ID, POOL, EVENT, CHUNK_ID, CHUNKS, STAGE_PATH, "
            "PRIORITY, NOT_BEFORE, CREATED_AT) "
            "SELECT ?, ?, 'PUT', CHUNK_ID, LEAST(?, ? - CHUNK_ID), ?, ?, "
            "IFF(? > 0, DATEADD('millisecond', ?, SYSDATE()), NULL), SYSDATE() FROM ("
            "SELECT ? + ? * (ROW_NUMBER() OVER (ORDER BY SEQ4()) - 1) AS CHUNK_ID "
            f"FROM TABLE(GENERATOR(ROWCOUNT => {tickets}))) "
            f"WHERE CHUNK_ID NOT IN (SELECT CHUNK_ID FROM {self._table} "
            "WHERE JOB_ID = ? AND EVENT = 'PUT')",
            (
                self._job, self._pool, size, stop, self._path, priority, late, late, first, size,
                self._job,
            ),
        )  # fmt: skip

    def _add(self, event: str, claims: Sequence[Claim]) -> None:
        """Add an event for each of one worker's claims."""
        lease = "DATEADD('millisecond', ?, SYSDATE())" if event == "CLAIM" else "NULL"
        for some in batches(claims):
            binds: list[Any] = [self._job, self._pool, event, some[0].worker]
            binds += [self._milliseconds] if event == "CLAIM" else []
            for claim in some:
                binds += [claim.first, claim.chunks, claim.token]
            self._client.run(
                f"INSERT INTO {self._table} (JOB_ID, POOL, EVENT, WORKER_ID, LEASE_UNTIL, "
                f"CREATED_AT, CHUNK_ID, CHUNKS, TOKEN) SELECT ?, ?, ?, ?, {lease}, SYSDATE(), "
                f"COLUMN1, COLUMN2, COLUMN3 FROM VALUES {', '.join(['(?, ?, ?)'] * len(some))}",
                binds,
            )

    def _standings(self, claims: Sequence[Claim]) -> dict[int, Standing]:
        """What has become of the tickets of claims, by their first chunk."""
        found: dict[int, Standing] = {}
        for some in batches(claims):
            which = f"JOB_ID = ? AND CHUNK_ID IN ({', '.join('?' * len(some))})"
            rows = self._client.rows(
                _told(self._table, _claims(self._table, which), "JOB_ID = ?"),
                [self._job, *(claim.first for claim in some), self._job],
            )
            found |= {t.entries[0].first: t for t in standings(map(_entry, rows))}
        return found

    # -- claiming

    def _undone(self) -> Look:
        claims = _claims(self._table, "JOB_ID = ?")
        rows = self._client.rows(
            f"{_told(self._table, claims, 'JOB_ID = ?')} {_UNDONE}", (self._job, self._job)
        )
        tickets = standings(map(_entry, rows))
        self._seen = {t.entries[0].first: t for t in tickets}
        return Look(
            [t.ticket for t in tickets if t.free],
            len(tickets),
            {t.holder.worker for t in tickets if t.held and t.holder is not None},
        )

    def _take(self, worker: str, tickets: list[Ticket]) -> list[Ticket]:
        self._withdraw()
        claims = [Claim(0, t.first, t.token + 1, t.first, t.stop, worker) for t in tickets]
        self._unsure = claims
        self._add("CLAIM", claims)
        found = self._standings(claims)
        won = [c.first in found and found[c.first].won_by(worker, c.token) for c in claims]
        self._unsure = [claim for claim, mine in zip(claims, won, strict=True) if not mine]
        self._withdraw()
        return [ticket for ticket, mine in zip(tickets, won, strict=True) if mine]

    def _withdraw(self) -> None:
        if self._unsure:
            self._add("WITHDRAW", self._unsure)
            self._unsure = []

    def _bury(self, tickets: list[Ticket]) -> None:
        binds: list[Any] = [self._job, self._pool]
        for t in tickets:
            last = max(self._seen[t.first].entries, key=lambda e: (not e.withdrawn, e.token))
            said = f"given up: begun {t.attempts} times and never ended, the last time by "
            binds += [t.first, t.stop - t.first, t.token, said + last.worker]
        self._client.run(
            f"INSERT INTO {self._table} (JOB_ID, POOL, EVENT, CREATED_AT, CHUNK_ID, CHUNKS, TOKEN, "
            "ERROR_MSG) SELECT ?, ?, 'DEAD', SYSDATE(), COLUMN1, COLUMN2, COLUMN3, COLUMN4 "
            f"FROM VALUES {', '.join(['(?, ?, ?, ?)'] * len(tickets))}",
            binds,
        )

    # -- holding

    def _extend(self, worker: str, claims: list[Claim]) -> bool:
        self._withdraw()
        self._client.run(
            f"INSERT INTO {self._table} (JOB_ID, POOL, EVENT, WORKER_ID, LEASE_UNTIL, CREATED_AT) "
            "SELECT ?, ?, 'RENEW', ?, DATEADD('millisecond', ?, SYSDATE()), SYSDATE()",
            (self._job, self._pool, worker, self._milliseconds),
        )
        # In time: nobody can have been faster.
        now = self._clock.monotonic()
        return all(self._held[claim] > now for claim in claims)

    def _kept(self, claims: list[Claim]) -> set[Claim]:
        found = self._standings(claims)
        kept = {c for c in claims if c.first in found and found[c.first].held_by(c.worker, c.token)}
        gone = [claim for claim in claims if claim not in kept]
        if gone:
            self._add("RELEASE", gone)
        return kept

    # -- ends

    def complete(self, claims: Sequence[Claim]) -> list[Claim]:
        gone = self.lost(claims)
        kept = [claim for claim in claims if claim not in gone]
        if kept:
            self._add("DONE", kept)
            self._forget(kept)
        return kept

    def fail(self, claims: Sequence[Claim], *, begun: bool = True) -> None:
        if claims:
            self._add("RELEASE" if begun and self._most > 1 else "RETURN", claims)
            self._forget(claims)

    def counts(self) -> Counts:
        # The claim that counts has the highest token. The last bit says whether it is not over.
        claim = "IFF(MARK = 0 OR RETURNED = 1 OR RELEASED = 1, 0, 1) + 2 * MARK"
        tickets = (
            "SELECT CHUNK_ID, MAX(EXTENT) AS SIZE_OF, CASE WHEN MAX(DONE) = 1 THEN 'DONE' "
            "WHEN MAX(DEAD) = 1 THEN 'DEAD' "
            f"WHEN MOD(MAX(IFF(WITHDRAWN = 1, 0, {claim})), 2) = 1 THEN 'RUNNING' "
            f"ELSE 'PENDING' END AS STATUS FROM ({_claims(self._table, 'JOB_ID = ?')}) "
            "GROUP BY CHUNK_ID"
        )
        return self._counted(
            self._client.rows(
                f"SELECT STATUS, SUM(SIZE_OF) AS TOTAL FROM ({tickets}) GROUP BY STATUS",
                (self._job,),
            )
        )

    def _buried(self) -> list[dict[str, Any]]:
        return self._client.rows(
            "SELECT CHUNK_ID, MAX(CHUNKS) AS EXTENT, MAX(ERROR_MSG) AS SAID "
            f"FROM {self._table} WHERE JOB_ID = ? AND EVENT IN ('DONE', 'DEAD') GROUP BY CHUNK_ID "
            "HAVING MIN(EVENT) = MAX(EVENT) AND MAX(ERROR_MSG) IS NOT NULL ORDER BY CHUNK_ID",
            (self._job,),
        )

    def withdraw(self) -> None:
        self._client.run(
            f"DELETE FROM {self._table} WHERE JOB_ID = ? AND CHUNK_ID NOT IN (SELECT CHUNK_ID "
            f"FROM {self._table} WHERE JOB_ID = ? AND EVENT IN ('DONE', 'DEAD'))",
            (self._job, self._job),
        )
