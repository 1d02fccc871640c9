"""Explicit transactions: READ COMMITTED over DuckDB's snapshots.

A transaction that has written nothing has no DuckDB transaction: each statement sees what is
committed when it begins. With the first write a DuckDB transaction begins, whose snapshot would
hide what others commit from then on. So all that is written is also noted, as rows, and before a
statement that comes after another's commit the DuckDB transaction is rolled back and made anew with
the same rows on top of what is committed by then. The locks of `locks.py`, which stay, keep others
off these rows meanwhile. A failed statement is undone the same way.

Rows that are gone from a hybrid table are known by their keys, those of a standard table by all
that is in them: of equal rows it does not matter which ones go. No statement ever runs again, since
that would also change rows that others have added after it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from flowdist.emulator.names import quoted
from flowdist.emulator.sql.locks import Owner
from flowdist.emulator.sql.tables import TableInfo

__all__ = ["Transaction", "Written"]

_ids = itertools.count(1)


@dataclass(frozen=True)
class Written:
    """Rows that a transaction has put into a table, in place of those in ``removed``: the keys of a
    hybrid table's, or whole rows.
    """

    table: TableInfo
    rows: pa.Table | None = None
    removed: pa.Table | None = None

    def apply(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Do it again."""
        name = self.table.physical
        if self.removed is not None and self.removed.num_rows:
            keys = ", ".join(quoted(c) for c in self.removed.column_names)
            found = f'({keys}) IN (SELECT ({keys}) FROM "$rows")'
            if not self.table.hybrid:
                found = _EQUAL.format(table=name)
            _with_rows(cursor, self.removed, f"DELETE FROM {name} WHERE {found}")
        if self.rows is not None and self.rows.num_rows:
            _with_rows(cursor, self.rows, f'INSERT INTO {name} SELECT * FROM "$rows"')


_EQUAL = """rowid IN (
  SELECT id FROM (
    SELECT "$old".rowid AS id, gone.n, row_number() OVER (PARTITION BY gone.kind) AS number
    FROM {table} AS "$old" JOIN (
      SELECT "$rows" AS content, count(*) AS n, row_number() OVER () AS kind
      FROM "$rows" GROUP BY 1
    ) AS gone ON "$old" IS NOT DISTINCT FROM gone.content
  ) WHERE number <= n
)"""
"""As many rows of a table as there are of each content."""


def _with_rows(cursor: duckdb.DuckDBPyConnection, rows: pa.Table, sql: str) -> None:
    cursor.register("$rows", rows)
    try:
        cursor.execute(sql)
    finally:
        # Refused after an error; the next to come are put in their place.
        with contextlib.suppress(duckdb.TransactionException):
            cursor.unregister("$rows")


@dataclass(eq=False)
class Transaction(Owner):
    """One explicit transaction. ``started`` is Unix time in seconds.

    ``implicit`` are those that a statement has begun because AUTOCOMMIT is off. ``snapshot`` is the
    number of commits when the DuckDB transaction began, None where there is none.
    """

    started: float
    there: Callable[[TableInfo], bool]
    """Whether a table has not been dropped."""
    implicit: bool = False
    name: str = ""
    id: int = field(default_factory=lambda: next(_ids))
    snapshot: int | None = None
    touched: float = 0.0
    """When its last statement ended, on the monotonic clock."""
    entries: list[Written] = field(default_factory=list)

    @property
    def hybrid(self) -> bool:
        """Whether it has written a hybrid table."""
        return any(entry.table.hybrid for entry in self.entries)

    @property
    def written(self) -> list[TableInfo]:
        """The tables of its entries."""
        return [entry.table for entry in self.entries]

    def renew(self, cursor: duckdb.DuckDBPyConnection, commits: int) -> None:
        """A new DuckDB transaction on what is committed now, with all that is written on top."""
        self.snapshot, begun = commits, self.snapshot is not None
        while True:
            if begun:
                cursor.execute("ROLLBACK")
            cursor.execute("BEGIN")
            begun = True
            # A table may be gone with its schema, and another have its name.
            self.entries = [entry for entry in self.entries if self.there(entry.table)]
            try:
                for entry in self.entries:
                    entry.apply(cursor)
            except duckdb.CatalogException:
                if all(self.there(entry.table) for entry in self.entries):
                    raise
            else:
                return
