"""Running a plan: queries and DML, in transactions or each in its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from flowdist.emulator.errors import SqlError
from flowdist.emulator.result import Column, Kind, Result
from flowdist.emulator.sql import datatypes
from flowdist.emulator.sql.connection import Connection
from flowdist.emulator.sql.evaluation import Evaluation
from flowdist.emulator.sql.scopes import Output
from flowdist.emulator.sql.transaction import Transaction
from flowdist.emulator.sql.translate import Plan
from flowdist.emulator.types import FIXED, DataType, arrow_type

if TYPE_CHECKING:
    from flowdist.emulator.sql.engine import Engine
    from flowdist.emulator.statements import Context

__all__ = ["COUNTS", "Runner", "counts", "registered", "result_of"]

COUNTS = {
    Kind.INSERT: ("number of rows inserted",),
    Kind.UPDATE: ("number of rows updated", "number of multi-joined rows updated"),
    Kind.DELETE: ("number of rows deleted",),
}


def counts(kind: Kind, numbers: Sequence[int], names: Sequence[str] = ()) -> Result:
    """What DML answers: a row of numbers of rows."""
    names = names or COUNTS[kind]
    columns = tuple(Column(name, FIXED, nullable=False) for name in names)
    arrays = [pa.array([number], pa.int64()) for number in numbers]
    return Result(columns, pa.table(arrays, names=list(names)), kind)


def result_of(table: pa.Table, types: list[str], outputs: tuple[Output, ...]) -> Result:
    """Rows of DuckDB as a result with Snowflake's types."""
    columns, arrays = [], []
    known = list(outputs) if len(outputs) == table.num_columns else [None] * table.num_columns
    for i, (field, output) in enumerate(zip(table.schema, known, strict=True)):
        found = datatypes.from_arrow(field.type, types[i], output.type if output else None)
        name = output.name if output else field.name
        columns.append(Column(name, found, output.nullable if output else True))
        arrays.append(_as(_in_range(table.column(i), found), found))
    names = [str(i) for i in range(len(columns))]
    return Result(tuple(columns), pa.Table.from_arrays(arrays, names=names))


def _as(array: pa.ChunkedArray, data_type: DataType) -> pa.ChunkedArray:
    wanted = arrow_type(data_type)
    if array.type == wanted:
        return array
    if data_type.name == "FIXED" and pa.types.is_integer(array.type):
        return array.cast(pa.int64())
    if data_type.name == "TIMESTAMP_TZ":
        return _zoned(array, wanted)
    return array.cast(wanted)


def _in_range(array: pa.ChunkedArray, data_type: DataType) -> pa.ChunkedArray:
    """The same; SqlError where a number has more digits than there may be, which DuckDB lets
    pass.
    """
    if pa.types.is_decimal(array.type):
        try:
            array.validate(full=True)
        except pa.ArrowInvalid:
            raise SqlError(
                100046, "22003", f"Number out of representable range: type {data_type}"
            ) from None
    return array


def _zoned(array: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    """The same instants, whatever zone the session has."""
    chunks = []
    for chunk in array.chunks:
        parts = [chunk.field(0).cast(wanted[0].type), chunk.field(1).cast(wanted[1].type)]
        mask = chunk.is_null()
        chunks.append(pa.StructArray.from_arrays(parts, fields=list(wanted), mask=mask))
    return pa.chunked_array(chunks, wanted)


@dataclass
class Runner:
    """Runs plans on a session's connection."""

    engine: Engine
    context: Context
    connection: Connection

    def run(self, plan: Plan, evaluation: Evaluation) -> Result:
        """Run a plan; what it answers."""
        self.context.query.check()
        values = evaluation.values(plan.parameters)
        with self.prepared(plan):
            if plan.kind is Kind.SELECT:
                return self._select(plan, values)
            return self._change(plan, values)

    @contextlib.contextmanager
    def prepared(self, plan: Plan) -> Iterator[None]:
        """What a plan needs around its run."""
        with self._interruptible(), registered(self.connection.cursor, plan):
            yield

    # -- what can end a statement

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Aborting the query, or its timeout, interrupts DuckDB."""
        query = self.context.query
        running = threading.Lock()
        over = False
        timed_out = False

        def interrupt() -> None:
            with running:
                if not over:
                    self.connection.cursor.interrupt()

        def expire() -> None:
            nonlocal timed_out
            timed_out = True
            interrupt()

        seconds = int(self.context.session.parameter("STATEMENT_TIMEOUT_IN_SECONDS"))
        timer = threading.Timer(seconds, expire) if 0 < seconds < 86400 else None
        query.on_stop.append(interrupt)
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            yield
        except duckdb.InterruptException:
            if timed_out:
                raise SqlError(
                    630,
                    "57014",
                    f"Statement reached its statement or warehouse timeout of {seconds} second(s) "
                    "and was canceled.",
                ) from None
            raise
        finally:
            with running:
                over = True
            query.on_stop.remove(interrupt)
            if timer is not None:
                timer.cancel()

    # -- queries

    def _select(self, plan: Plan, values: list[Any]) -> Result:
        transaction = self.connection.transaction
        if transaction is None or transaction.snapshot is None:
            return result_of(*self.connection.fetch(plan.sql, values), plan.outputs)
        if transaction.snapshot != self.engine.commits:
            self._renew(transaction)
        try:
            return result_of(*self.connection.fetch(plan.sql, values), plan.outputs)
        except duckdb.CatalogException:  # a table that is younger than the snapshot
            self._renew(transaction)
            return result_of(*self.connection.fetch(plan.sql, values), plan.outputs)
        except duckdb.Error:
            self._renew(transaction)
            raise

    def _renew(self, transaction: Transaction) -> None:
        with self.engine.locks.writing:
            transaction.renew(self.connection.cursor, self.engine.commits)

    # -- DML

    def _change(self, plan: Plan, values: list[Any]) -> Result:
        assert plan.target is not None
        session = self.context.session
        if self.connection.transaction is None and not session.parameter("AUTOCOMMIT"):
            self.engine.begin(session, implicit=True)
        from flowdist.emulator.sql.writing import Writer

        return Writer(self.engine, self.context, self.connection, plan, values).write()


@contextlib.contextmanager
def registered(cursor: duckdb.DuckDBPyConnection, plan: Plan) -> Iterator[None]:
    """The results of a plan's table functions, as tables."""
    for name, result in plan.registered:
        names = [column.name for column in result.columns]
        cursor.register(name, result.table.rename_columns(_distinct(names)))
    try:
        yield
    finally:
        for name, _ in plan.registered:
            cursor.unregister(name)


def _distinct(names: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    made = []
    for name in names:
        count = seen[name] = seen.get(name, -1) + 1
        made.append(f"{name}_{count}" if count else name)
    return made
