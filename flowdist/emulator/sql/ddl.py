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

from flowdist.emulator.errors import SqlError, compilation_error, unsupported
from flowdist.emulator.names import FullName, quoted
from flowdist.emulator.sql import definitions
from flowdist.emulator.sql.connection import Connection
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

TRIES = 20
"""How often a change is tried that meets one of another session."""


@contextlib.contextmanager
def _changing(context: Context) -> Iterator[tuple[Engine, Connection]]:
    engine = context.account.engine
    connection = engine.connection(context.session)
    with connection.lock, engine.changing:
        try:
            yield engine, connection
        except duckdb.Error as error:
            raise from_duckdb(error) from None


@contextlib.contextmanager
def _transaction(cursor: duckdb.DuckDBPyConnection) -> Iterator[None]:
    cursor.execute("BEGIN")
    try:
        yield
        cursor.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(duckdb.Error):
            cursor.execute("ROLLBACK")
        raise


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
    with _changing(context) as (engine, connection):
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
        cursor = connection.cursor
        for number in range(TRIES):
            try:
                with _transaction(cursor):
                    if old is not None:
                        _remove(engine, connection, old)
                    if not info.temporary:
                        _schema(cursor, info.name)
                    for statement in definitions.duck_table(info):
                        cursor.execute(statement)
                    if plan is not None:
                        _fill(context, connection, plan, evaluation)
                    if not info.temporary:
                        engine.index.write(cursor, info)
                break
            except duckdb.TransactionException:
                if number == TRIES - 1:
                    raise
        if old is not None:
            _forget(engine, connection, old)
        _take(engine, connection, info)
        engine.committed({info.name})
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
    with _changing(context) as (engine, connection):
        with _transaction(connection.cursor):
            _remove(engine, connection, info)
        _forget(engine, connection, info)
        engine.committed({info.name})


def truncate(context: Context, info: TableInfo) -> None:
    """Remove all rows of a table, once those are done that change it."""
    locks, owner = context.account.engine.locks, Owner()
    name = "HYBRID_TABLE_LOCK_TIMEOUT" if info.hybrid else "LOCK_TIMEOUT"
    seconds = float(context.session.parameter(name))
    check = context.query.check
    if not info.temporary and not info.hybrid:
        locks.lock_table(info.name, owner, seconds, check)
    deadline = context.account.clock.monotonic() + seconds
    try:
        while True:
            with _changing(context) as (engine, connection), locks.writing:
                blockers = locks.holders(info.name, None, owner)
                if not blockers:
                    connection.cursor.execute(f"DELETE FROM {info.physical}")
                    engine.committed({info.name})
                    return
            locks.wait_for(blockers, owner, deadline, seconds, info.name, check)
    finally:
        locks.release(owner)


def alter_table(
    context: Context, old: TableInfo, new: TableInfo, statements: Sequence[str]
) -> None:
    """Make a table what `new` says, by these statements of DuckDB."""
    with _changing(context) as (engine, connection):
        with _transaction(connection.cursor):
            for statement in statements:
                connection.cursor.execute(statement)
            if not new.temporary:
                engine.index.write(connection.cursor, new)
        _forget(engine, connection, old)
        _take(engine, connection, new)
        engine.committed({new.name})


def rename_table(context: Context, info: TableInfo, name: FullName) -> None:
    """Give a table another name; one in another schema gets a new DuckDB table."""
    new = replace(info, name=name)
    with _changing(context) as (engine, connection):
        if info.temporary:
            raise unsupported("RENAME of a temporary table")
        engine.index.check_free(new)
        cursor = connection.cursor
        with _transaction(cursor):
            _schema(cursor, name)
            if info.kind == "TABLE":
                _move(cursor, info, new)
            engine.index.write(cursor, new)
        engine.index.remove(info)
        engine.index.put(new)
        engine.committed({info.name, name})


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
    plain = replace(column, nullable=True)
    made = [f"{head} ADD COLUMN {definitions.duck_column(plain)}"]
    with _changing(context) as (_, connection):
        evaluation = _evaluation(context, connection, ())
        if column.default is not None:
            made.append(
                f"UPDATE {info.physical} SET {quoted(column.name)} = "
                f"{_literal(connection, evaluation, column)}"
            )
    if not column.nullable:
        made.append(f"{head} ALTER COLUMN {quoted(column.name)} SET NOT NULL")
    return made


def _literal(connection: Connection, evaluation: Evaluation, column: ColumnInfo) -> str:
    """A default with its values put in."""
    sql, parameters = translate_expression(
        str(column.default), evaluation.environment(), column.type
    )
    if not parameters:
        return sql
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
        with _transaction(connection.cursor):
            if old is not None:
                engine.index.erase(connection.cursor, old)
            engine.index.write(connection.cursor, info)
        if old is not None:
            engine.index.remove(old)
        engine.index.put(info)


def create_sequence(context: Context, info: TableInfo, old: TableInfo | None) -> None:
    """Make a sequence."""
    with _changing(context) as (engine, connection):
        cursor = connection.cursor
        with _transaction(cursor):
            if old is not None:
                _remove(engine, connection, old)
            _schema(cursor, info.name)
            limits = definitions.bounds(info.start, info.increment)
            cursor.execute(
                f"CREATE SEQUENCE {info.physical} START {info.start} "
                f"INCREMENT {info.increment} {limits}"
            )
            engine.index.write(cursor, info)
        if old is not None:
            engine.index.remove(old)
        engine.index.put(info)
