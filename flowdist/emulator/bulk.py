"""One statement for many rows, as executemany sends it.

An INSERT of VALUES becomes one INSERT of a SELECT over the bound rows, which is as fast as any
other; another statement runs once for each row, in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa

from flowdist.emulator.result import Column, Result, Transfer
from flowdist.emulator.sql.lexer import Lexeme, Token, tokens
from flowdist.emulator.statements import Context, table
from flowdist.emulator.types import BOOLEAN, LTZ, REAL, TEXT, DataType, arrow_type

__all__ = ["Rows", "divided", "over_rows", "run_rows"]

SOURCE = "SNOWFLAKE.LOCAL.BOUND_ROWS"
"""The table function that gives the rows that are bound to the running query."""

Run = Callable[[Context, str, Sequence[Any]], "Result | Transfer"]


class Rows(list[tuple[Any, ...]]):
    """The values of one row after another."""


def run_rows(context: Context, sql: str, rows: Rows, run: Run) -> Result | Transfer:
    """Run a statement for all rows by `run`, which runs one; the counts of rows are added up."""
    made = over_rows(sql)
    if made is not None:
        context.query.bound = _bound(rows)
        try:
            return run(context, made, ())
        finally:
            context.query.bound = None
    engine, request_id = context.account.engine, context.query.request_id
    done = engine.outcome_of_request(request_id)
    if done is not None:
        return done
    with engine.transaction(context.session) as own:
        results = [run(context, sql, row) for row in rows]
        total = _added([r for r in results if isinstance(r, Result)])
        if own and request_id:
            engine.note_request(context.session, request_id, total)
    return total


def over_rows(sql: str) -> str | None:
    """An INSERT of one row of VALUES as one of a SELECT over the bound rows; None for the rest.

    >>> over_rows("INSERT INTO t (a, b) VALUES (?, TO_DATE(?))")
    'INSERT INTO t (a, b) SELECT "1", TO_DATE("2") FROM TABLE(SNOWFLAKE.LOCAL.BOUND_ROWS())'
    """
    found = tokens(sql)
    while found and found[-1].text == ";":
        found.pop()
    at = next((i for i, token in enumerate(found) if token.word == "VALUES"), None)
    if not found or found[0].word != "INSERT" or at is None:
        return None
    inner = _parenthesised(found[at + 1 :])
    if inner is None or any(token.word == "DEFAULT" for token in inner):
        return None
    if any(token.kind is Lexeme.BIND for token in found[:at]):
        return None
    head = sql[: found[at].start]
    return f"{head}SELECT {_columns(sql, inner)} FROM TABLE({SOURCE}())"


def divided(sql: str, binds: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """The values for the ``?`` of a statement, and those that are left for the ones after it.

    >>> divided("SELECT ?, ?", [1, 2, 3])
    ([1, 2], [3])
    """
    count = sum(t.text == "?" for t in tokens(sql)) if binds else 0
    return binds[:count], binds[count:]


def _parenthesised(found: list[Token]) -> list[Token] | None:
    """What is in the one pair of parentheses that all of the tokens are."""
    depth = 0
    for i, token in enumerate(found):
        depth += (token.text == "(") - (token.text == ")")
        if depth == 0:
            return found[1:-1] if i == len(found) - 1 and i > 1 else None
    return None


def _columns(sql: str, inner: list[Token]) -> str:
    pieces, at, count = [], inner[0].start, 0
    for token in inner:
        if token.kind is Lexeme.BIND:
            count += token.text == "?"
            number = count if token.text == "?" else int(token.text[1:])
            pieces += [sql[at : token.start], f'"{number}"']
            at = token.end
    return "".join([*pieces, sql[at : inner[-1].end]])


@table(SOURCE)
def bound_rows(context: Context) -> Result:
    """The rows that are bound to the running query."""
    return context.query.bound or Result((), pa.table({}))


def _bound(rows: Rows) -> Result:
    columns, arrays = [], []
    for i, values in enumerate(zip(*rows, strict=True)):
        kind, stored = _typed(values)
        columns.append(Column(str(i + 1), kind))
        arrays.append(pa.array(stored, arrow_type(kind)))
    return Result(tuple(columns), pa.table(arrays, names=[c.name for c in columns]))


def _typed(values: Sequence[Any]) -> tuple[DataType, list[Any]]:
    """The type of a column of bound values, and the values as Arrow takes them."""
    there = [v for v in values if v is not None]
    kinds = {_kind(v) for v in there}
    if kinds == {"FIXED"}:
        return _fixed(there, values)
    if kinds == {"ZONED"} or kinds == {"ZONED", "UTC"}:
        return DataType("TIMESTAMP_TZ", 0, 9), [None if v is None else _zoned(v) for v in values]
    if len(kinds) == 1:
        kind = _TYPES[kinds.pop()]
        return kind, list(values)
    return TEXT, [None if v is None else str(v) for v in values]


_TYPES = {
    "TEXT": TEXT,
    "REAL": REAL,
    "BOOLEAN": BOOLEAN,
    "BINARY": DataType("BINARY", length=8_388_608),
    "DATE": DataType("DATE"),
    "TIME": DataType("TIME", 0, 9),
    "NAIVE": DataType("TIMESTAMP_NTZ", 0, 9),
    "UTC": LTZ,
}


def _kind(value: Any) -> str:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            return "NAIVE"
        return "UTC" if value.tzinfo is UTC else "ZONED"
    for known, name in (
        (str, "TEXT"),
        (bool, "BOOLEAN"),
        ((int, Decimal), "FIXED"),
        (float, "REAL"),
        (bytes, "BINARY"),
        (date, "DATE"),
        (time, "TIME"),
    ):
        if isinstance(value, known):
            return name
    return "TEXT"


def _zoned(value: datetime) -> dict[str, Any]:
    offset = value.utcoffset()
    return {"t": value, "o": int(offset.total_seconds() // 60) if offset else 0}


def _fixed(there: list[Any], values: Sequence[Any]) -> tuple[DataType, list[Any]]:
    numbers = [Decimal(v) for v in there]
    scale = max(_scale(n) for n in numbers)
    digits = max(n.adjusted() for n in numbers) + 1
    if scale + max(digits, 0) > 38:  # no NUMBER holds all of them
        return TEXT, [None if v is None else str(v) for v in values]
    return DataType("FIXED", 38, scale), [None if v is None else Decimal(v) for v in values]


def _scale(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _added(results: list[Result]) -> Result:
    """One result with the counts of all."""
    first = results[0]
    if first.table.num_rows != 1:
        return results[-1]
    sums = [
        pa.array([_sum(r.table.column(i)[0].as_py() for r in results)], column.type)
        for i, column in enumerate(first.table.columns)
    ]
    return Result(first.columns, pa.table(sums, names=first.table.column_names), first.kind)


def _sum(values: Iterable[Any]) -> Any:
    found = list(values)
    return found[-1] if isinstance(found[-1], str) else sum(found)
