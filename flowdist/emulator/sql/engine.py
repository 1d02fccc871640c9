"""Rows: Snowflake's SQL on DuckDB.

One DuckDB file holds the tables of all databases; a table ``DB.SCHEMA.T`` is the DuckDB table
``"DB.SCHEMA"."T"``. Every session has a DuckDB connection of its own. A statement is translated
(`translate.py`), which is remembered, gets its values, and runs (`running.py`).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from sqlglot import exp

from flowdist.clock import Clock
from flowdist.emulator.catalog import Catalog
from flowdist.emulator.errors import SqlError
from flowdist.emulator.names import FullName, quoted
from flowdist.emulator.result import Kind, Result
from flowdist.emulator.session import Session
from flowdist.emulator.sql.connection import Connection, atomically
from flowdist.emulator.sql.dialect import parse
from flowdist.emulator.sql.evaluation import Evaluation
from flowdist.emulator.sql.failures import from_duckdb, transaction_aborted
from flowdist.emulator.sql.literals import taken_out
from flowdist.emulator.sql.locks import Locks, Owner
from flowdist.emulator.sql.macros import MACROS
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.sql.rewrite import pipeline, rewrite
from flowdist.emulator.sql.running import Runner, counts
from flowdist.emulator.sql.tables import REQUESTS, TableIndex, TableInfo, schema_of
from flowdist.emulator.sql.transaction import Transaction
from flowdist.emulator.sql.translate import Plan, translate

if TYPE_CHECKING:
    from flowdist.emulator.statements import Context

__all__ = ["Engine", "TableInfo"]

_PRIVILEGES = {
    Kind.INSERT: ("INSERT",),
    Kind.UPDATE: ("UPDATE",),
    Kind.DELETE: ("DELETE",),
    Kind.MERGE: (),
}
"""What DML needs on its target; of a MERGE it depends on its clauses, see `Plan.actions`."""
_OUTDATED = (duckdb.CatalogException, duckdb.BinderException, duckdb.TransactionException)
"""How a plan fails whose tables another statement has changed or dropped since it was made."""
REQUESTS_KEPT = 6 * 3600.0
"""How long it is remembered what a request has done, in seconds."""
IDLE = 300.0
"""How long a transaction may do nothing that has written hybrid tables, or that others wait for, in
seconds.
"""
REMEMBERED = 2000
"""How many translations are kept."""


class Engine:
    """One DuckDB file with the tables of all databases; every method may be called from any
    thread.
    """

    def __init__(self, path: Path, catalog: Catalog, clock: Clock) -> None:
        self.catalog = catalog
        self.clock = clock
        self.index = TableIndex()
        self.locks = Locks(clock)
        self.commits = 0
        """How many transactions have committed: a snapshot with an earlier number is stale."""
        self.changing = threading.RLock()
        """Held while tables come, change or go."""
        self._lock = threading.Lock()
        self._database = duckdb.connect(str(path))
        self._connections: dict[int, Connection] = {}
        self._spare_ids = itertools.count(-1, -1)
        self._plans: OrderedDict[Any, Plan] = OrderedDict()
        with self._database.cursor() as cursor:
            cursor.execute("SET old_implicit_casting = true")
            cursor.execute("SET threads = 1")  # statements are small, and sessions many
            cursor.execute("SET fsync_mode = 'NONE'")  # a killed process loses nothing by that
            cursor.execute("BEGIN")
            self.index.load(cursor)
            for macro in MACROS:
                cursor.execute(macro)
            old = clock.time() - REQUESTS_KEPT
            cursor.execute(f"DELETE FROM {REQUESTS} WHERE received < ?", [old])
            cursor.execute("COMMIT")
            found = cursor.execute(f"SELECT request, outcome FROM {REQUESTS}").fetchall()
        self._requests = dict(found)

    # -- sessions

    def connection(self, session: Session) -> Connection:
        """The session's connection, made when it is first needed."""
        with self._lock:
            found = self._connections.get(session.id)
            if found is None:
                found = Connection(self._database.cursor())
                self._connections[session.id] = found
            return found

    @contextlib.contextmanager
    def connected(self, session: Session, own: bool = False) -> Iterator[Connection]:
        """The session's connection, for one statement at a time.

        Where a statement runs on it already, outside of a transaction, one that needs nothing of
        the session's `own` (a transaction, temporary tables) gets a connection for itself: so
        statements that a session has sent without waiting run side by side.
        """
        connection = self.connection(session)
        if not connection.lock.acquire(blocking=False):
            if (
                not own
                and connection.transaction is None
                and not connection.temporary
                and session.parameter("AUTOCOMMIT")
            ):
                with self._spare() as spare:
                    yield spare
                return
            connection.lock.acquire()
        try:
            if connection.transaction is not None and connection.transaction.hybrid:
                self._abort_if_idle(connection)
            yield connection
        finally:
            if connection.transaction is not None:
                connection.transaction.touched = self.clock.monotonic()
            connection.lock.release()

    @contextlib.contextmanager
    def _spare(self) -> Iterator[Connection]:
        with self._lock:
            made = Connection(self._database.cursor())
            number = next(self._spare_ids)
            self._connections[number] = made
        try:
            yield made
        finally:
            with self._lock:
                self._connections.pop(number, None)
            made.close()

    def forget(self, session: Session) -> None:
        """Roll back a session's transaction and drop its temporary tables."""
        with self._lock:
            found = self._connections.pop(session.id, None)
        if found is None:
            return
        with found.lock:
            transaction, found.transaction = found.transaction, None
            found.close()
        if transaction is not None:
            self.locks.release(transaction)

    def close(self) -> None:
        """Roll back what is open and close the file."""
        with self._lock:
            for connection in self._connections.values():
                with contextlib.suppress(duckdb.Error):
                    connection.close()
            self._connections.clear()
            with contextlib.suppress(duckdb.Error):
                self._database.execute("CHECKPOINT")
            self._database.close()

    # -- statements

    def outcome_of_request(self, request_id: str) -> Result | None:
        """What DML answered that the same request brought before the server was started; it is not
        to run again.
        """
        text = self._requests.get(request_id)
        if text is None:
            return None
        kind, names, numbers = json.loads(text)
        return counts(Kind(kind), numbers, names)

    def note_request(self, session: Session, request_id: str, result: Result) -> None:
        """Note what the open transaction, which is about to be committed, answers to a request:
        so it does not run again.
        """
        with self.connected(session, own=True) as connection:
            if connection.transaction is not None and connection.transaction.entries:
                self.write_request(connection.cursor, request_id, result)

    def write_request(
        self, cursor: duckdb.DuckDBPyConnection, request_id: str, result: Result
    ) -> None:
        """Note what a request has done, in the DuckDB transaction that does it."""
        numbers = [int(value) for value in result.rows()[0]]
        self._note(cursor, request_id, result.kind, [c.name for c in result.columns], numbers)

    def _note(
        self,
        cursor: duckdb.DuckDBPyConnection,
        request_id: str,
        kind: Kind,
        names: list[str],
        numbers: list[int],
    ) -> None:
        text = json.dumps([int(kind), names, numbers])
        cursor.execute(
            f"INSERT INTO {REQUESTS} VALUES (?, ?, ?)", [request_id, self.clock.time(), text]
        )

    def run(self, context: Context, sql: str, binds: Sequence[Any] = ()) -> Result:
        """Run one statement of SQL in the session of a context; SqlError where it fails."""
        if "->>" in sql:
            return self._pipeline(context, pipeline(sql), binds)
        with self.connected(context.session) as connection:
            return self._run(context, connection, sql, binds, None)

    def _run(
        self,
        context: Context,
        connection: Connection,
        sql: str,
        binds: Sequence[Any],
        piped: list[Result] | None,
    ) -> Result:
        if connection.aborted:
            connection.aborted = False
            raise transaction_aborted()
        connection.set_zone(str(context.session.parameter("TIMEZONE")))
        while True:
            version = self.index.version
            try:
                evaluation, plan = self._prepared(context, connection, sql, binds, piped)
                self._authorize(context, plan)
                if plan.target is not None:
                    done = self.outcome_of_request(context.query.request_id)
                    if done is not None:
                        return done
                return Runner(self, context, connection).run(plan, evaluation)
            except duckdb.Error as error:
                if version == self.index.version or not isinstance(error, _OUTDATED):
                    raise from_duckdb(error) from None

    def _prepared(
        self,
        context: Context,
        connection: Connection,
        sql: str,
        binds: Sequence[Any],
        piped: list[Result] | None,
    ) -> tuple[Evaluation, Plan]:
        """A statement's plan, of the text without its literals where that makes sense."""
        general = taken_out(sql) if not binds else None
        if general is not None:
            with contextlib.suppress(SqlError):  # the error is to be that of the text as it is
                evaluation = Evaluation(self, context, connection, general[1], piped)
                return evaluation, self._plan(evaluation, general[0])
        evaluation = Evaluation(self, context, connection, binds, piped)
        return evaluation, self._plan(evaluation, sql)

    def _plan(self, evaluation: Evaluation, sql: str) -> Plan:
        env = evaluation.environment()
        key = (
            sql,
            env.database,
            env.schema,
            env.mapping,
            env.formats,
            env.bind_types,
            self.index.version,
            evaluation.connection.temporary_version and id(evaluation.connection),
            evaluation.connection.temporary_version,
        )
        with self._lock:
            found = self._plans.get(key)
            if found is not None:
                self._plans.move_to_end(key)
                return found
        try:
            plan = translate(sql, env)
        except RecursionError:
            raise SqlError(
                1002, "42601", "SQL compilation error:\nthe statement is nested too deeply"
            ) from None
        if plan.cacheable:
            with self._lock:
                self._plans[key] = plan
                if len(self._plans) > REMEMBERED:
                    self._plans.popitem(last=False)
        return plan

    def _authorize(self, context: Context, plan: Plan) -> None:
        """SqlError where the session may not do that with these tables."""
        access, session = context.account.access, context.session
        if plan.reads or plan.target is not None:
            access.require_compute(session)
        for info in plan.reads:
            access.require_table(session, "SELECT", info)
        if plan.target is not None:
            for privilege in plan.actions or _PRIVILEGES[plan.kind]:
                access.require_table(session, privilege, plan.target)

    def _pipeline(self, context: Context, parts: list[str], binds: Sequence[Any]) -> Result:
        """``a ->> b``: each statement may read those before it as $1, $2 ... from the nearest."""
        from flowdist.emulator.statements import find_statement

        results: list[Result] = []
        for part in parts:
            parse_ = Parser(part, binds)
            handler = find_statement(parse_)
            if handler is not None:
                found = handler(context, parse_)
                if not isinstance(found, Result):
                    raise SqlError(2, "0A000", f"not supported by the emulator: {part}")
            else:
                with self.connected(context.session) as connection:
                    found = self._run(context, connection, part, binds, results)
            results.insert(0, found)
        return results[0]

    # -- transactions

    def begin(self, session: Session, name: str = "", implicit: bool = False) -> None:
        """Begin a transaction, unless one is open."""
        with self.connected(session, own=True) as connection:
            connection.aborted = False
            if connection.transaction is None:
                connection.transaction = Transaction(self.clock.time(), self.exists, implicit, name)

    def commit(self, session: Session, request_id: str = "") -> None:
        """Make what the open transaction has written permanent, if one is open; SqlError where it
        was aborted. The request that asks for it, where one is named, is noted with it: so it is
        known whether it has committed (`did`), should the server end before it answers.
        """
        connection = self.connection(session)
        if connection.transaction is None and not connection.aborted:
            return  # not to wait for statements that run outside of a transaction
        with self.connected(session, own=True) as connection:
            if connection.aborted:
                connection.aborted = False
                raise transaction_aborted()
            self._end(connection, "COMMIT", request_id)

    def did(self, request_id: str) -> bool:
        """Whether it is known from before the server was started what a request has done."""
        return request_id in self._requests

    def rollback(self, session: Session) -> None:
        """Undo what the open transaction has written, if one is open."""
        with self.connected(session, own=True) as connection:
            connection.aborted = False
            self._end(connection, "ROLLBACK")

    def _end(self, connection: Connection, word: str, request_id: str = "") -> None:
        transaction, connection.transaction = connection.transaction, None
        if transaction is None:
            return
        try:
            if transaction.snapshot is not None:
                with self.locks.writing:
                    if word == "COMMIT" and not all(map(self.exists, transaction.written)):
                        transaction.renew(connection.cursor, self.commits)
                    if request_id and transaction.entries:
                        self._note(connection.cursor, request_id, Kind.TCL, [], [])
                    connection.cursor.execute(word)
                    if word == "COMMIT":
                        self.committed()
        except duckdb.Error as error:
            raise from_duckdb(error) from None
        finally:
            self.locks.release(transaction)

    def abort_idle(self, owners: set[Owner]) -> None:
        """Abort those of the transactions, for which others wait, whose sessions have done nothing
        for too long: their clients may be gone.
        """
        with self._lock:
            found = [c for c in self._connections.values() if c.transaction in owners]
        for connection in found:
            if connection.lock.acquire(blocking=False):  # else it is doing something
                try:
                    self._abort_if_idle(connection)
                finally:
                    connection.lock.release()

    def _abort_if_idle(self, connection: Connection) -> None:
        transaction = connection.transaction
        if transaction is None:
            return
        if self.clock.monotonic() - transaction.touched >= IDLE:
            connection.aborted = True
            self._end(connection, "ROLLBACK")

    def committed(self) -> None:
        """Note that tables have changed."""
        with self._lock:
            self.commits += 1

    def open_transactions(self) -> list[tuple[int, Transaction]]:
        """The explicit transactions, each with the id of its session."""
        with self._lock:
            found = [(i, c.transaction) for i, c in self._connections.items()]
        return [(i, transaction) for i, transaction in found if transaction is not None]

    def in_transaction(self, session: Session) -> bool:
        """Whether a transaction is open."""
        return self.connection(session).transaction is not None

    @contextlib.contextmanager
    def transaction(self, session: Session) -> Iterator[bool]:
        """All statements inside take effect together or not at all; part of the open transaction
        where there is one. Gives whether it is a transaction of its own.
        """
        if self.in_transaction(session):
            yield False
            return
        self.begin(session)
        try:
            yield True
        except BaseException:
            self.rollback(session)
            raise
        self.commit(session)

    # -- tables

    def find(self, session: Session, name: FullName, *kinds: str) -> TableInfo | None:
        """A table or view as a session sees it, or an object of `kinds`."""
        found = self.connection(session).temporary.get(name)
        if found is not None and (not kinds or found.kind in kinds):
            return found
        return self.index.find(name, *kinds)

    def exists(self, info: TableInfo) -> bool:
        """Whether a table has not been dropped; one that was altered is the same."""
        found = self.index.find(info.name, info.kind)
        return info.temporary or (found is not None and found.id == info.id)

    def tables(self, database: str | None = None, schema: str | None = None) -> list[TableInfo]:
        """All tables, views and sequences but temporary ones, by name."""
        return [
            info
            for info in self.index.all()
            if database in (None, info.name.database) and schema in (None, info.name.schema)
        ]

    def count(self, info: TableInfo) -> int:
        """How many rows a table has, as far as they are committed."""
        with self._database.cursor() as cursor:
            try:
                rows = cursor.execute(f"SELECT count(*) FROM {info.physical}").fetchall()
            except duckdb.Error:
                return 0
        return int(rows[0][0])

    def next_value(self, info: TableInfo) -> int:
        """What a sequence will give next."""
        with self._database.cursor() as cursor:
            rows = cursor.execute(
                "SELECT last_value FROM duckdb_sequences() "
                "WHERE schema_name = ? AND sequence_name = ?",
                [schema_of(info.name.database, info.name.schema), info.name.name],
            ).fetchall()
        last = rows[0][0] if rows else None
        return info.start if last is None else int(last) + info.increment

    def give(self, name: FullName, kind: str, owner: str) -> None:
        """Make another role the owner of a table, view or sequence."""
        with self.changing, self._database.cursor() as cursor:
            info = self.index.find(name, kind)
            if info is not None:
                changed = replace(info, owner=owner)
                self.index.write(cursor, changed)
                self.index.put(changed)

    def drop_schema(self, database: str, schema: str) -> None:
        """Drop all tables, views and sequences of a schema. It does not wait for transactions that
        have written them: what these have written is gone with the tables.
        """
        with self.changing, self.locks.writing, self._database.cursor() as cursor:
            gone = list(self.index.inside(database, schema))

            def drop() -> None:
                for info in gone:
                    self.index.erase(cursor, info)
                    for column in info.columns:
                        if column.sequence:
                            cursor.execute(f'DROP SEQUENCE "$emulator".{column.sequence}')
                cursor.execute(
                    f"DROP SCHEMA IF EXISTS {quoted(schema_of(database, schema))} CASCADE"
                )

            try:
                atomically(cursor, drop)
            except duckdb.Error as error:
                raise from_duckdb(error) from None
            for info in gone:
                self.index.remove(info)
            self.committed()

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection of its own, to be closed by who asked for it."""
        return self._database.cursor()

    def view_query(self, info: TableInfo) -> exp.Expr:
        """The tree of a view's query."""
        return parse(rewrite(info.query).sql)
