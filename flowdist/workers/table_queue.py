"""A queue in a hybrid table of Snowflake, whose rows are locked one by one and claimed by updates.

A claim is a compare-and-swap: ``UPDATE ... WHERE`` the row is free and has the token that was seen
before, which sets the token one higher. Hybrid tables lock rows and read what is committed: of two
that update the same row the second waits, then looks at the row again and leaves it alone. Were it
otherwise, the row would be the one's who wrote it last, and the other's claim would count for
nothing: everything that follows is fenced by the row, the token and the worker.

Where there are no hybrid tables, a queue is a log (`flowdist.workers.log_queue`); `open_queue` sees
which of the two a table is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from flowdist.snowflake.client import NOT_FOUND, SnowflakeError
from flowdist.snowflake.names import literal, quote
from flowdist.workers.claiming import Look, Run, TableQueue, Ticket, Waiting, batches, cut
from flowdist.workers.log_queue import LogQueue
from flowdist.workers.queue import Claim, Counts

if TYPE_CHECKING:
    from flowdist.snowflake.client import Client
    from flowdist.snowflake.names import Name

__all__ = ["HybridQueue", "kind_of", "open_queue"]

# The number of the error where a row with the same key is there.
DUPLICATE_KEY = 200001

_READY = "(NOT_BEFORE IS NULL OR NOT_BEFORE <= SYSDATE())"
_FREE = f"(STATUS = 'PENDING' AND {_READY} OR STATUS = 'RUNNING' AND LEASE_UNTIL < SYSDATE())"
_LEASE = "DATEADD('millisecond', ?, SYSDATE())"


def kind_of(client: Client, table: Name) -> type[TableQueue]:
    """Which kind of queue a table is, by one statement.

    Raises:
        SnowflakeError: there is no such table, or this role may not know of it.
    """
    schema = ".".join(map(quote, table.parts[:-1]))
    shown = client.rows(f"SHOW TABLES LIKE {literal(table.last)} IN SCHEMA {schema}")
    # LIKE knows wildcards, and no case.
    found = [row for row in shown if row["name"] == table.last]
    if not found:
        raise SnowflakeError(
            f"there is no queue table {table.sql}, or this role may not use it; "
            "`flowdist setup snowflake` makes it",
            NOT_FOUND,
        )
    return HybridQueue if found[0].get("is_hybrid") == "Y" else LogQueue


def open_queue(client: Client, table: Name, job_id: str, **options: Any) -> TableQueue:
    """The queue of a job in a table, whichever kind of table that is.

    Args:
        table: full name.
        options: as `TableQueue` takes them.

    Raises:
        SnowflakeError: there is no such table, or this role may not know of it.
    """
    return kind_of(client, table)(client, table, job_id, **options)


class HybridQueue(TableQueue):
    """A queue in a hybrid table: a row for each ticket, see `hybrid_queue_table`."""

    @classmethod
    def waiting(cls, client: Client, table: Name, pool: str) -> list[Waiting]:
        rows = client.rows(
            "SELECT JOB_ID, STAGE_PATH, SUM(IFF(FREE, CHUNKS, 0)) AS WAITING, "
            "SUM(IFF(HOLDER IS NULL, 0, CHUNKS)) AS CLAIMED, COUNT(DISTINCT HOLDER) AS WORKERS, "
            "MAX(IFF(FREE, PRIORITY, NULL)) AS HIGHEST FROM (SELECT JOB_ID, STAGE_PATH, CHUNKS, "
            f"PRIORITY, {_FREE} AS FREE, IFF(STATUS = 'RUNNING' AND NOT {_FREE}, WORKER_ID, NULL) "
            f"AS HOLDER FROM {table.sql} WHERE POOL = ? AND STATUS IN ('PENDING', 'RUNNING')) "
            "GROUP BY JOB_ID, STAGE_PATH ORDER BY JOB_ID",
            (pool,),
        )
        return [
            Waiting(
                str(row["job_id"]),
                str(row["stage_path"]),
                int(row["waiting"]),
                int(row["claimed"]),
                int(row["workers"]),
                int(row["highest"] or 0),
            )
            for row in rows
        ]

    def put(
        self, first: int, stop: int, *, claimers: int = 1, priority: int = 0, delay: float = 0.0
    ) -> None:
        tickets, size = cut(first, stop)
        if not tickets:
            return
        self._over = False
        sql = (
            f"INSERT INTO {self._table} (QUEUE_ID, JOB_ID, POOL, CHUNK_ID, CHUNKS, STAGE_PATH, "
            "PRIORITY, NOT_BEFORE, CREATED_AT) "
            "SELECT QUEUE_ID, ?, ?, CHUNK_ID, LEAST(?, ? - CHUNK_ID), ?, ?, "
            f"IFF(? > 0, {_LEASE}, NULL), SYSDATE() FROM ("
            "SELECT CHUNK_ID, ? || LPAD(TO_VARCHAR(CHUNK_ID), 12, '0') AS QUEUE_ID FROM ("
            "SELECT ? + ? * (ROW_NUMBER() OVER (ORDER BY SEQ4()) - 1) AS CHUNK_ID "
            f"FROM TABLE(GENERATOR(ROWCOUNT => {tickets})))) "
            f"WHERE QUEUE_ID NOT IN (SELECT QUEUE_ID FROM {self._table} WHERE JOB_ID = ?)"
        )
        late = round(delay * 1000)
        binds = (
            self._job, self._pool, size, stop, self._path, priority, late, late,
            f"{self._job}/", first, size, self._job,
        )  # fmt: skip
        try:
            self._client.run(sql, binds)
        except SnowflakeError as error:
            if error.errno != DUPLICATE_KEY:
                raise
            # Somebody has put the same at the same moment; now that is seen.
            self._client.run(sql, binds)

    def _key(self, first: int) -> str:
        """The key of the row that begins with a chunk; keys are in the order of chunks."""
        return f"{self._job}/{first:012d}"

    def _rows(self, runs: Iterable[Run]) -> tuple[str, list[Any]]:
        """The condition for the rows of runs, and what to bind to it."""
        binds: list[Any] = [self._job]
        conditions = []
        for run in runs:
            conditions.append("TOKEN = ? AND QUEUE_ID BETWEEN ? AND ?")
            binds += [run.token, self._key(run.first), self._key(run.last)]
        return f"JOB_ID = ? AND ({' OR '.join(conditions)})", binds

    def _update(self, change: str, values: Sequence[Any], claims: Sequence[Claim]) -> int:
        """Change the rows of one worker's claims that are still held; how many those are."""
        changed = 0
        for some in batches(claims):
            rows, binds = self._rows(Run.of(some))
            changed += self._client.run(
                f"UPDATE {self._table} SET {change} "
                f"WHERE WORKER_ID = ? AND STATUS = 'RUNNING' AND {rows}",
                [*values, some[0].worker, *binds],
            )
        return changed

    def _in_state(self, state: str, claims: Sequence[Claim]) -> set[Claim]:
        """Those of one worker's claims whose rows are in a state, and nobody else's since."""
        keys = set()
        for some in batches(claims):
            rows, binds = self._rows(Run.of(some))
            found = self._client.rows(
                f"SELECT CHUNK_ID, TOKEN FROM {self._table} "
                f"WHERE WORKER_ID = ? AND STATUS = ? AND {rows}",
                [some[0].worker, state, *binds],
            )
            keys |= {(int(row["chunk_id"]), int(row["token"])) for row in found}
        return {claim for claim in claims if (claim.first, claim.token) in keys}

    # -- claiming

    def _undone(self) -> Look:
        rows = self._client.rows(
            "SELECT CHUNK_ID, CHUNKS, PRIORITY, TOKEN, ATTEMPTS, "
            f"{_FREE} AS FREE, IFF(STATUS = 'RUNNING', WORKER_ID, NULL) AS WORKER "
            f"FROM {self._table} WHERE JOB_ID = ? AND STATUS IN ('PENDING', 'RUNNING')",
            (self._job,),
        )
        free = [
            Ticket(first, first + int(r["chunks"]), int(r["token"]), int(r["attempts"]),
                   int(r["priority"]))
            for r in rows if r["free"] for first in [int(r["chunk_id"])]
        ]  # fmt: skip
        return Look(free, len(rows), {r["worker"] for r in rows if r["worker"] and not r["free"]})

    def _take(self, worker: str, tickets: list[Ticket]) -> list[Ticket]:
        rows, binds = self._rows(Run.of(tickets))
        # Not where something of a higher priority was put since the look.
        changed = self._client.run(
            f"UPDATE {self._table} SET STATUS = 'RUNNING', WORKER_ID = ?, TOKEN = TOKEN + 1, "
            f"ATTEMPTS = ATTEMPTS + 1, CLAIMED_AT = SYSDATE(), LEASE_UNTIL = {_LEASE} "
            f"WHERE {rows} AND {_FREE} AND NOT EXISTS (SELECT 1 FROM {self._table} "
            f"WHERE JOB_ID = ? AND STATUS = 'PENDING' AND PRIORITY > ? AND ATTEMPTS = 0 "
            f"AND {_READY})",
            [worker, self._milliseconds, *binds, self._job, tickets[0].priority],
        )
        if changed == len(tickets):
            return tickets
        # Others were faster, or this is the second time that it was sent.
        claims = {t: Claim(0, t.first, t.token + 1, t.first, t.stop, worker) for t in tickets}
        mine = self._in_state("RUNNING", list(claims.values()))
        return [ticket for ticket, claim in claims.items() if claim in mine]

    def _bury(self, tickets: list[Ticket]) -> None:
        rows, binds = self._rows(Run.of(tickets))
        self._client.run(
            f"UPDATE {self._table} SET STATUS = 'DEAD', COMPLETED_AT = SYSDATE(), "
            "LEASE_UNTIL = NULL, ERROR_MSG = 'given up: begun ' || ATTEMPTS || ' times and never "
            "ended, the last time by ' || COALESCE(WORKER_ID, 'nobody') "
            f"WHERE ATTEMPTS >= ? AND {_FREE} AND {rows}",
            [self._most, *binds],
        )

    # -- holding

    def _extend(self, worker: str, claims: list[Claim]) -> bool:
        changed = self._update(f"LEASE_UNTIL = {_LEASE}", [self._milliseconds], claims)
        return changed == len(claims)

    def _kept(self, claims: list[Claim]) -> set[Claim]:
        return self._in_state("RUNNING", claims)

    # -- ends

    def complete(self, claims: Sequence[Claim]) -> list[Claim]:
        if not claims:
            return []
        done = "STATUS = 'DONE', COMPLETED_AT = SYSDATE(), LEASE_UNTIL = NULL"
        changed = self._update(done, [], claims)
        self._forget(claims)
        if changed == len(claims):
            return list(claims)
        counted = self._in_state("DONE", claims)
        return [claim for claim in claims if claim in counted]

    def fail(self, claims: Sequence[Claim], *, begun: bool = True) -> None:
        if not claims:
            return
        # Who could give it back was not killed by it: what was done of it counts as one attempt.
        attempts = "LEAST(ATTEMPTS, 1)" if begun and self._most > 1 else "ATTEMPTS - 1"
        change = f"STATUS = 'PENDING', LEASE_UNTIL = NULL, ATTEMPTS = {attempts}"
        self._update(change, [], claims)
        self._forget(claims)

    def counts(self) -> Counts:
        return self._counted(
            self._client.rows(
                f"SELECT STATUS, SUM(CHUNKS) AS TOTAL FROM {self._table} WHERE JOB_ID = ? "
                "GROUP BY STATUS",
                (self._job,),
            )
        )

    def _buried(self) -> list[dict[str, Any]]:
        return self._client.rows(
            f"SELECT CHUNK_ID, CHUNKS AS EXTENT, ERROR_MSG AS SAID FROM {self._table} "
            "WHERE JOB_ID = ? AND STATUS = 'DEAD' ORDER BY CHUNK_ID",
            (self._job,),
        )

    def withdraw(self) -> None:
        self._client.run(
            f"DELETE FROM {self._table} WHERE JOB_ID = ? AND STATUS IN ('PENDING', 'RUNNING')",
            (self._job,),
        )
