"""DML: what is locked before, what is noted after, and how it waits and tries again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from flowdist.emulator.errors import SqlError, unsupported
from flowdist.emulator.result import Kind, Result
from flowdist.emulator.sql.connection import Connection
from flowdist.emulator.sql.failures import from_duckdb, is_conflict, is_duplicate
from flowdist.emulator.sql.locks import Key, Owner, inserting
from flowdist.emulator.sql.running import counts
from flowdist.emulator.sql.tables import TableInfo
from flowdist.emulator.sql.transaction import Transaction, Written
from flowdist.emulator.sql.translate import Plan

if TYPE_CHECKING:
    from flowdist.emulator.sql.engine import Engine
    from flowdist.emulator.statements import Context

__all__ = ["Writer", "execute"]

TRIES = 1000
"""How often a statement starts again because DuckDB has found a conflict."""


def execute(connection: Connection, plan: Plan, values: list[Any]) -> Result:
    """Run DML, as it stands."""
    if plan.overwrite:
        assert plan.target is not None
        connection.cursor.execute(f"DELETE FROM {plan.target.physical}")
    joined = _joined(connection, plan, values)
    if plan.kind is Kind.MERGE:
        rows, _ = connection.fetch(f"{plan.sql} RETURNING merge_action", values)
        return merged(plan, rows)
    return _counted(plan.kind, connection.count(plan.sql, values), joined)


def _joined(connection: Connection, plan: Plan, values: list[Any]) -> tuple[int, int] | None:
    """How many rows an UPDATE with sources changes, and how many of them several rows of the
    sources match; SqlError where that is so of a row that a MERGE updates.
    """
    if not plan.joined:
        return None
    rows = connection.cursor.execute(
        plan.joined, values[: plan.joined_parameters] or None
    ).fetchall()
    if plan.kind is Kind.UPDATE:
        return rows[0]
    if rows[0][0]:
        raise SqlError(100090, "42P18", "Duplicate row detected during DML action")
    return None


def _counted(kind: Kind, number: int, joined: tuple[int, int] | None = None) -> Result:
    if kind is Kind.UPDATE:
        return counts(kind, joined or (number, 0))
    return counts(kind, (number,))


def merged(plan: Plan, rows: pa.Table) -> Result:
    """What a MERGE answers, by what it has done to each row."""
    actions = rows.column(0).to_pylist()
    words = {"INSERT": "inserted", "UPDATE": "updated", "DELETE": "deleted"}
    names = [f"number of rows {words[action]}" for action in plan.actions]
    return counts(Kind.MERGE, [actions.count(action) for action in plan.actions], names)


class Writer:
    """One run of one statement of DML."""

    def __init__(
        self,
        engine: Engine,
        context: Context,
        connection: Connection,
        plan: Plan,
        values: list[Any],
    ) -> None:
        assert plan.target is not None
        self.engine = engine
        self.locks = engine.locks
        self.context = context
        self.connection = connection
        self.plan = plan
        self.values = values
        self.table: TableInfo = plan.target
        self.transaction: Transaction | None = connection.transaction
        self.owner: Owner = self.transaction or Owner()

    def write(self) -> Result:
        """Run the statement; what it answers."""
        if self.table.hybrid:
            return self._hybrid()
        if self.plan.kind is Kind.INSERT and not self.plan.overwrite:
            return self._inserted()
        return self._locked()

    # -- standard tables

    def _locked(self) -> Result:
        seconds = float(self.context.session.parameter("LOCK_TIMEOUT"))
        check, abort_idle = self.context.query.check, self.engine.abort_idle
        if not self.table.temporary:
            self.locks.lock_table(self.table.locked, self.owner, seconds, check, abort_idle)
        return self._standard()

    def _inserted(self) -> Result:
        if not self.table.temporary:
            self.locks.hold(self.table.locked, [inserting(self.owner)], self.owner)
        return self._standard()

    def _standard(self) -> Result:
        if self.transaction is not None:
            return self._remembered(self.transaction)
        try:
            return self._alone()
        finally:
            self.locks.release(self.owner)

    def _remembered(self, transaction: Transaction) -> Result:
        """Run as part of a transaction, and note the rows."""
        self._fresh(transaction)
        with self._undone(transaction):
            removed = self._removed()
            rows, result = self._returning()
            if self.plan.kind is Kind.UPDATE and removed is not None:
                rows = self._changed(rows, removed)
        gone = None if removed is None else _ordered(self.table, removed)
        transaction.entries.append(Written(self.table, self._kept(rows), gone))
        return result

    def _removed(self) -> pa.Table | None:
        """The rows that are about to be changed or to go; those that an overwrite replaces go."""
        if self.plan.overwrite:
            rows, _ = self.connection.fetch(f"DELETE FROM {self.table.physical} RETURNING *")
            return rows
        return self._affected() if self.plan.affected else None

    def _changed(self, rows: pa.Table, removed: pa.Table) -> pa.Table:
        """What an UPDATE has made of the `removed` rows; DuckDB returns a row once for each row of
        the sources that matches it.
        """
        if rows.num_rows == removed.num_rows:
            return rows
        ids = removed.column("$id").to_pylist()
        sql = f"SELECT * FROM {self.table.physical} WHERE rowid IN (SELECT unnest(?))"
        return self.connection.fetch(sql, [ids])[0]

    # -- statements that are transactions of their own

    def _alone(self) -> Result:
        """Run and commit; again, where DuckDB finds that another was faster."""
        for _ in range(TRIES):
            self.context.query.check()
            try:
                return self._committed()
            except duckdb.TransactionException as error:
                if not is_conflict(error):
                    raise
        raise from_duckdb(duckdb.TransactionException("conflict"))

    def _committed(self) -> Result:
        request = "" if self.table.temporary else self.context.query.request_id
        several = bool(request or self.plan.overwrite or self.plan.joined)
        cursor = self.connection.cursor
        if several:
            cursor.execute("BEGIN")
        try:
            result = execute(self.connection, self.plan, self.values)
            if request:
                self.engine.write_request(cursor, request, result)
            if several:
                cursor.execute("COMMIT")
        except BaseException:
            if several:
                with contextlib.suppress(duckdb.Error):
                    cursor.execute("ROLLBACK")
            raise
        self.engine.committed()
        return result

    # -- transactions

    def _fresh(self, transaction: Transaction) -> None:
        """A snapshot that has all that is committed."""
        if transaction.snapshot != self.engine.commits:
            with self.locks.writing:
                transaction.renew(self.connection.cursor, self.engine.commits)

    @contextlib.contextmanager
    def _undone(self, transaction: Transaction) -> Iterator[None]:
        """A statement that fails leaves the transaction as it was."""
        try:
            yield
        except duckdb.Error:
            with self.locks.writing:
                transaction.renew(self.connection.cursor, self.engine.commits)
            raise

    # -- hybrid tables

    def _hybrid(self) -> Result:
        if self.plan.overwrite:
            raise unsupported("INSERT OVERWRITE into a hybrid table")
        seconds = float(self.context.session.parameter("HYBRID_TABLE_LOCK_TIMEOUT"))
        deadline = self.engine.clock.monotonic() + seconds
        check = self.context.query.check
        while True:
            check()
            with self.locks.writing:
                outcome = self._attempt()
            if isinstance(outcome, Result):
                return outcome
            self.engine.abort_idle(outcome)
            self.locks.wait_for(outcome, self.owner, deadline, seconds, self.table.locked, check)

    def _attempt(self) -> Result | set[Owner]:
        """Run the statement, or say who is in its way. Nobody else writes meanwhile."""
        if self.transaction is not None:
            self._fresh(self.transaction)
        contended = self.locks.contended(self.table.locked, self.owner)
        if contended and self.plan.affected:
            blockers = self.locks.holders(self.table.locked, self._own_keys(), self.owner)
            if blockers:
                return blockers
        try:
            if self.transaction is not None:
                return self._noted(self.transaction)
            if contended and (self.plan.changes_key or not self.plan.affected):
                return self._compared()
            return self._committed()
        except duckdb.Error as error:
            if self.transaction is not None:
                self.transaction.renew(self.connection.cursor, self.engine.commits)
            blockers = self._in_the_way(error) if contended else set()
            if not blockers:
                raise
            return blockers

    def _affected(self) -> pa.Table:
        """What `Plan.affected` gives."""
        values = self.values[: self.plan.affected_parameters]
        rows, _ = self.connection.fetch(self.plan.affected, values)
        return rows

    def _own_keys(self) -> list[Key]:
        """The rows that an UPDATE or DELETE would change, as locks name them."""
        rows = self._affected()
        return [("", key) for key in _tuples(rows.select(list(self.table.primary_key)))]

    def _in_the_way(self, error: duckdb.Error) -> set[Owner]:
        """Who has caused an error of DuckDB's: another transaction that is still open."""
        if is_conflict(error):
            return self.locks.holders(self.table.locked, None, self.owner)
        if not is_duplicate(error):
            return set()
        return self.locks.holders_of(
            self.table.locked, lambda key: self._quoted(key, str(error)), self.owner
        )

    def _quoted(self, key: Key, text: str) -> bool:
        """Whether DuckDB's error is about a key: it quotes the values, after the names of their
        columns or without.
        """
        name, values = key
        words = [_printed(value) for value in values]
        if None in words:
            return True  # not known, so better to wait
        columns = self._constraint(name)
        named = ", ".join(f"{c}: {w}" for c, w in zip(columns, words, strict=True))
        return f'"{named}"' in text or f'"{", ".join(map(str, words))}"' in text

    def _constraint(self, name: str) -> tuple[str, ...]:
        """The columns of a unique constraint, or of the primary key where the name is empty."""
        if not name:
            return self.table.primary_key
        return next(c.columns for c in self.table.constraints if c.name == name)

    def _compared(self) -> Result | set[Owner]:
        """Run and commit, unless rows turn out to be another's."""
        cursor = self.connection.cursor
        cursor.execute("BEGIN")
        try:
            rows, result = self._returning()
            blockers = self.locks.holders(self.table.locked, self._keys(rows), self.owner)
            if blockers:
                cursor.execute("ROLLBACK")
                return blockers
            request = self.context.query.request_id
            if request:
                self.engine.write_request(cursor, request, result)
            cursor.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(duckdb.Error):
                cursor.execute("ROLLBACK")
            raise
        self.engine.committed()
        return result

    def _noted(self, transaction: Transaction) -> Result | set[Owner]:
        """Run as part of a transaction: lock the rows, and note them."""
        old = None
        if self.plan.changes_key:
            old = self._affected()
        rows, result = self._returning()
        keys = self._keys(rows) + (self._keys(old) if old is not None else [])
        blockers = self.locks.holders(self.table.locked, keys, self.owner)
        if blockers:
            transaction.renew(self.connection.cursor, self.engine.commits)
            return blockers
        self.locks.hold(self.table.locked, keys, self.owner)
        removed = rows.select(list(self.table.primary_key))
        if old is not None:
            removed = pa.concat_tables([removed, old.select(removed.column_names)])
        transaction.entries.append(Written(self.table, self._kept(rows), removed))
        return result

    def _kept(self, rows: pa.Table) -> pa.Table | None:
        """Those of the rows that have changed which are there afterwards."""
        if self.plan.kind is Kind.DELETE:
            return None
        if self.plan.kind is Kind.MERGE:
            deleted = pc.equal(rows.column("merge_action"), "DELETE")
            rows = rows.filter(pc.invert(deleted))
        return _ordered(self.table, rows)

    def _returning(self) -> tuple[pa.Table, Result]:
        """Run, and get the rows that have changed."""
        plan = self.plan
        joined = _joined(self.connection, plan, self.values)
        if plan.kind is Kind.MERGE:
            rows, _ = self.connection.fetch(f"{plan.sql} RETURNING merge_action, *", self.values)
            return rows, merged(plan, rows)
        star = f"{plan.alias}.*" if plan.alias else "*"
        rows, _ = self.connection.fetch(f"{plan.sql} RETURNING {star}", self.values)
        return rows, _counted(plan.kind, rows.num_rows, joined)

    def _keys(self, rows: pa.Table) -> list[Key]:
        """Rows as locks name them: by primary key, and by each unique constraint."""
        found: list[Key] = [("", key) for key in _tuples(rows.select(list(self.table.primary_key)))]
        for constraint in self.table.constraints:
            if constraint.kind == "UNIQUE":
                keys = _tuples(rows.select(list(constraint.columns)))
                found += [(constraint.name, key) for key in keys if None not in key]
        return found


def _tuples(rows: pa.Table) -> list[tuple[Any, ...]]:
    columns = [column.to_pylist() for column in rows.columns]
    return list(zip(*columns, strict=True))


def _printed(value: Any) -> str | None:
    """A value of a key as DuckDB prints it in an error; None where that is not known."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime) and value.tzinfo is None:
        text = value.isoformat(sep=" ")
        return text.rstrip("0") if value.microsecond else text
    if isinstance(value, str | int | Decimal) or type(value) is date:
        return str(value)
    return None


def _ordered(table: TableInfo, rows: pa.Table) -> pa.Table:
    return rows.select([column.name for column in table.columns])
