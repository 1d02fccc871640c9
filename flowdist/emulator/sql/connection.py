"""A session's side of the engine: its DuckDB connection, time zone and temporary tables."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from flowdist.emulator.names import FullName
from flowdist.emulator.sql.tables import TableInfo
from flowdist.emulator.sql.transaction import Transaction

__all__ = ["Connection", "atomically"]

TRIES = 20
"""How often a change is tried that meets one of another session."""

# Arrow from a cursor copies what a relation would not; a relation would plan each query twice.
warnings.filterwarnings("ignore", message="Arrow output on a DB-API result")


def atomically(cursor: duckdb.DuckDBPyConnection, work: Callable[[], None]) -> None:
    """Do all of `work` or nothing; again, where it meets a change of another session's."""
    for left in reversed(range(TRIES)):
        cursor.execute("BEGIN")
        try:
            work()
            cursor.execute("COMMIT")
            return
        except BaseException as error:
            with contextlib.suppress(duckdb.Error):
                cursor.execute("ROLLBACK")
            if not left or not isinstance(error, duckdb.TransactionException):
                raise


class Connection:
    """One session's; ``lock`` is held while a statement runs on it.

    ``transaction`` is the explicit one, if one is open; ``aborted`` whether one was that the
    session does not know of yet.
    """

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self.cursor = cursor
        self.lock = threading.RLock()
        self.temporary: dict[FullName, TableInfo] = {}
        self.temporary_version = 0
        self.transaction: Transaction | None = None
        self.aborted = False
        self._zone: str | None = None

    def set_zone(self, zone: str) -> None:
        """Use a session's time zone."""
        if zone != self._zone:
            self.cursor.execute("SET TimeZone = ?", [zone])
            self._zone = zone

    def fetch(self, sql: str, values: Sequence[Any] = ()) -> tuple[pa.Table, list[str]]:
        """The rows of a query, and the DuckDB types of its columns."""
        found = self.cursor.execute(sql, list(values) or None)
        types = [str(column[1]) for column in found.description or []]
        return found.to_arrow_table(), types

    def count(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Run DML; how many rows it has changed."""
        rows = self.cursor.execute(sql, list(values) or None).fetchall()
        return int(rows[0][0]) if rows else 0

    def value(self, sql: str, values: Sequence[Any] = ()) -> Any:
        """The one value that a query gives."""
        rows = self.cursor.execute(sql, list(values) or None).fetchall()
        return rows[0][0] if rows else None

    def close(self) -> None:
        """Let go of the DuckDB connection; what is open is rolled back."""
        self.cursor.close()
