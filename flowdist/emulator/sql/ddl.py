"""Changing what tables, views and sequences there are.

Each change is one DuckDB transaction on the session's connection, which writes the object's row of
the internal table too; the index in memory follows once that has committed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import duckdb

from flowdist.emulator.errors import SqlError, compilation_error, overtaken, unsupported
from flowdist.emulator.names import FullName, quoted
from flowdist.emulator.sql import definitions
from flowdist.emulator.sql.connection import Connection, atomically
from flowdist.emulator.sql.evaluation import Evaluation
from flowdist.emulator.sql.failures import from_duckdb
from flowdist.emulator.sql.locks import Owner
from flowdist.emulator.sql.scopes import Output
from flowdist.emulator.sql.tables import ColumnInfo, TableInfo, schema_of
from flowdist.emulator.sql.translate import (
    Plan,
    insert_query,
    query_outputs,
    translate_expression,
)
from flowdist.emulator.types import TEXT, DataType

if TYPE_CHECKING:
    from flowdist.emulator.sql.engine import Engine
    from flowdist.emulator.statements import Context

__all__ = [
    "adding",
    "alter_table",
    "check_default",
    "create_sequence",
    "create_table",
    "create_view",
    "drop_table",
    "rename_table",
    "truncate",
]


@contextlib.contextmanager
def _changing(context: Context, own: bool = False) -> Iterator[tuple[Engine, Connection]]:
    """Nobody else changes what tables there are; on the session's `own` connection where temporary
    tables are concerned.
    """
    engine = context.account.engine
    with engine.connected(context.session, own) as connection, engine.changing:
        try:
            yield engine, connection
        except duckdb.Error as error:
            raise from_duckdb(error) from None


@contextlib.contextmanager
def _owning(context: Context, info: TableInfo) -> Iterator[tuple[Engine, Connection]]:
    """As `_changing`, with an object that no open transaction has written, and none can write
    meanwhile; SqlError where the lock timeout is over before that is so.
    """
    engine, owner, check = context.account.engine, Owner(), context.query.check
    locks, shared = engine.locks, info.kind == "TABLE" and not info.temporary
    name = "HYBRID_TABLE_LOCK_TIMEOUT" if info.hybrid else "LOCK_TIMEOUT"
    seconds = float(context.session.parameter(name))
    deadline = context.account.clock.monotonic() + seconds
    try:
        if shared and not info.hybrid:
            locks.lock_table(info.locked, owner, seconds, check, engine.abort_idle)
        while True:
            with _changing(context, own=not shared) as found, locks.writing:
                _current(*found, info)
                blockers = locks.holders(info.locked, None, owner) if shared else set()
                if not blockers:
                    yield found
                    return
            engine.abort_idle(blockers)
            locks.wait_for(blockers, owner, deadline, seconds, info.locked, check)
    finally:
        locks.release(owner)


def _current(engine: Engine, connection: Connection, info: TableInfo) -> None:
    """An object has to be what the statement has read of it."""
    found = connection.temporary.get(info.name) if info.temporary else None
    if (found or engine.index.find(info.name, info.kind)) is not info:
        raise overtaken(info.name)


def _free_or(
    engine: Engine, connection: Connection, info: TableInfo, old: TableInfo | None
) -> None:
    """The name of a new object has to be free, or that of the `old` one it replaces."""
    if old is not None:
        _current(engine, connection, old)
    elif not info.temporary:
        engine.index.check_free(info)


def _evaluation(context: Context, connection: Connection, binds: Sequence[Any]) -> Evaluation:
    connection.set_zone(str(context.session.parameter("TIMEZONE")))
    return Evaluation(context.account.engine, context, connection, binds)


# -- tables


def create_table(
    context: Context,
    info: TableInfo,
    old: TableInfo | None,
    query: str = "",
    binds: Sequence[Any] = (),
) -> TableInfo:
    """Make a table, in place of an old one and filled by a query where these are given."""
    alone = _changing(context, info.temporary) if old is None else _owning(context, old)
    with alone as (engine, connection):
        evaluation = _evaluation(context, connection, binds)
        if query and not info.columns:
            info = replace(
                info, columns=_columns_of(query_outputs(query, evaluation.environment()))
            )
        if info.hybrid:
            definitions.check_hybrid(info)
        if not info.columns:
            raise compilation_error("Missing column specification")
        plan = insert_query(query, info, evaluation.environment()) if query else None
        _free_or(engine, connection, info, old)
        cursor = connection.cursor
        made = info

        def make() -> None:
            if old is not None:
                _remove(engine, connection, old)
            if not made.temporary:
                _schema(cursor, made.name)
            for statement in definitions.duck_table(made):
                cursor.execute(statement)
            if plan is not None:
                _fill(context, connection, plan, evaluation)
            if not made.temporary:
                engine.index.write(cursor, made)

        atomically(cursor, make)
        if old is not None:
            _forget(engine, connection, old)
        _take(engine, connection, info)
        engine.committed()
        return info


def _fill(context: Context, connection: Connection, plan: Plan, evaluation: Evaluation) -> None:
    from flowdist.emulator.sql.running import Runner

    runner = Runner(context.account.engine, context, connection)
    with runner.prepared(plan):
        connection.cursor.execute(plan.sql, evaluation.values(plan.parameters) or None)


def _columns_of(outputs: Sequence[Output]) -> tuple[ColumnInfo, ...]:
    names = [output.name for output in outputs]
    for name in names:
        if names.count(name) > 1:
            raise SqlError(2025, "42S21", f"SQL compilation error:\nduplicate column name '{name}'")
    return tuple(ColumnInfo(o.name, _whole(o.type), o.nullable) for o in outputs)


def _whole(data_type: DataType | None) -> DataType:
    """The type of a column made by a query: text where none was inferred."""
    return TEXT if data_type is None else data_type


def _schema(cursor: duckdb.DuckDBPyConnection, name: FullName) -> None:
    cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema_of(name.database, name.schema))}")


def _take(engine: Engine, connection: Connection, info: TableInfo) -> None:
    if info.temporary:
        connection.temporary[info.name] = info
        connection.temporary_version += 1
    else:
        engine.index.put(info)


def _forget(engine: Engine, connection: Connection, info: TableInfo) -> None:
    if info.temporary:
        connection.temporary.pop(info.name, None)
        connection.temporary_version += 1
    else:
        engine.index.remove(info)


def _remove(engine: Engine, connection: Connection, info: TableInfo) -> None:
    cursor = connection.cursor
    if info.kind == "TABLE":
        cursor.execute(f"DROP TABLE IF EXISTS {info.physical}")
        for column in info.columns:
            if column.sequence:
                cursor.execute(f'DROP SEQUENCE IF EXISTS "$emulator".{column.sequence}')
    elif info.kind == "SEQUENCE":
        cursor.execute(f"DROP SEQUENCE IF EXISTS {info.physical}")
    if not info.temporary:
        engine.index.erase(cursor, info)


def drop_table(context: Context, info: TableInfo) -> None:
    """Drop a table, view or sequence."""
    with _owning(context, info) as (engine, connection):
        atomically(connection.cursor, lambda: _remove(engine, connection, info))
        _forget(engine, connection, info)
        engine.committed()


def truncate(context: Context, info: TableInfo) -> None:
    """Remove all rows of a table."""
    with _owning(context, info) as (engine, connection):
        statement = f"DELETE FROM {info.physical}"
        atomically(connection.cursor, lambda: _run(connection.cursor, [statement]))
        engine.committed()


def _run(cursor: duckdb.DuckDBPyConnection, statements: Sequence[str]) -> None:
    for statement in statements:
        cursor.execute(statement)


def alter_table(
    context: Context, old: TableInfo, new: TableInfo, statements: Sequence[str]
) -> None:
    """Make a table what `new` says, by these statements of DuckDB."""
    with _owning(context, old) as (engine, connection):
        cursor = connection.cursor

        def change() -> None:
            _run(cursor, statements)
            if not new.temporary:
                engine.index.write(cursor, new)

        atomically(cursor, change)
        _forget(engine, connection, old)
        _take(engine, connection, new)
        engine.committed()


def rename_table(context: Context, info: TableInfo, name: FullName) -> None:
    """Give a table another name; one in another schema gets a new DuckDB table."""
    new = replace(info, name=name)
    if info.temporary:
        raise unsupported("RENAME of a temporary table")
    with _owning(context, info) as (engine, connection):
        engine.index.check_free(new)
        cursor = connection.cursor

        def move() -> None:
            _schema(cursor, name)
            if info.kind == "TABLE":
                _move(cursor, info, new)
            engine.index.write(cursor, new)

        atomically(cursor, move)
        engine.index.remove(info)
        engine.index.put(new)
        engine.committed()


def _move(cursor: duckdb.DuckDBPyConnection, info: TableInfo, new: TableInfo) -> None:
    same = (info.name.database, info.name.schema) == (new.name.database, new.name.schema)
    if same:
        cursor.execute(f"ALTER TABLE {info.physical} RENAME TO {quoted(new.name.name)}")
        return
    for statement in definitions.duck_table(new):
        if statement.startswith("CREATE TABLE"):
            cursor.execute(statement)
    cursor.execute(f"INSERT INTO {new.physical} SELECT * FROM {info.physical}")
    cursor.execute(f"DROP TABLE {info.physical}")


def adding(context: Context, info: TableInfo, column: ColumnInfo) -> list[str]:
    """The statements that add a column; the rows that there are get its default."""
    head = f"ALTER TABLE {info.physical}"
    added = f"{head} ADD COLUMN {definitions.duck_column(replace(column, nullable=True))}"
    changed = f"{head} ALTER COLUMN {quoted(column.name)}"
    made = [added]
    if column.default is not None:
        # Not by an UPDATE, after which DuckDB refuses NOT NULL. Later rows get it by translation.
        with _changing(context) as (_, connection):
            literal = _literal(connection, _evaluation(context, connection, ()), column)
        made = [f"{added} DEFAULT {literal}", f"{changed} DROP DEFAULT"]
    if not column.nullable:
        made.append(f"{changed} SET NOT NULL")
    return made


def _literal(connection: Connection, evaluation: Evaluation, column: ColumnInfo) -> str:
    """The value of a default, the same when DuckDB's log is read once more."""
    sql, parameters = translate_expression(
        str(column.default), evaluation.environment(), column.type
    )
    value = connection.value(f"SELECT CAST(({sql}) AS VARCHAR)", evaluation.values(parameters))
    return "NULL" if value is None else "'" + str(value).replace("'", "''") + "'"


def check_default(context: Context, text: str) -> None:
    """SqlError where a default makes no sense."""
    with _changing(context) as (_, connection):
        translate_expression(text, _evaluation(context, connection, ()).environment())


# -- views and sequences


def create_view(
    context: Context,
    info: TableInfo,
    names: Sequence[tuple[str, str]],
    old: TableInfo | None,
) -> None:
    """Make a view; `names` are names and comments of its columns, where they are given."""
    with _changing(context) as (engine, connection):
        environment = _evaluation(context, connection, ()).environment()
        columns = _columns_of(query_outputs(info.query, environment))
        if names:
            if len(names) != len(columns):
                raise compilation_error(
                    f"Invalid column definition list: expected {len(columns)}, got {len(names)}"
                )
            columns = tuple(
                replace(column, name=name, comment=comment)
                for column, (name, comment) in zip(columns, names, strict=True)
            )
        info = replace(info, columns=columns)
        cursor, view = connection.cursor, info
        _free_or(engine, connection, info, old)

        def make() -> None:
            if old is not None:
                engine.index.erase(cursor, old)
            engine.index.write(cursor, view)

        atomically(cursor, make)
        if old is not None:
            engine.index.remove(old)
        engine.index.put(info)


def create_sequence(context: Context, info: TableInfo, old: TableInfo | None) -> None:
    """Make a sequence."""
    with _changing(context) as (engine, connection):
        cursor = connection.cursor
        _free_or(engine, connection, info, old)

        def make() -> None:
            if old is not None:
                _remove(engine, connection, old)
            _schema(cursor, info.name)
            limits = definitions.bounds(info.start, info.increment)
            cursor.execute(
                f"CREATE SEQUENCE {info.physical} START {info.start} "
                f"INCREMENT {info.increment} {limits}"
            )
            engine.index.write(cursor, info)

        atomically(cursor, make)
        if old is not None:
            engine.index.remove(old)
        engine.index.put(info)
