"""Writing results into a table of Snowflake.

Rows are bound, a few thousand values a statement, in one transaction: all of them are there or
none. They carry the id of their run, and writing a run's rows again replaces them, so that it may
be repeated when nobody knows whether it went well.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from flowdist.artifacts import ARTIFACT_TYPE
from flowdist.errors import UsageError
from flowdist.snowflake.client import TRIES, Client, SnowflakeError
from flowdist.snowflake.names import Name, quote

__all__ = ["RUN", "create_table", "save_table"]

RUN = "RUN_ID"
"""The column that says which run a row is from."""
# Of one statement. Snowflake takes 16,384 rows of VALUES; a request should stay below 1 MB or so.
MOST_ROWS, MOST_VALUES = 10_000, 20_000


def save_table(client: Client, name: Name, table: pa.Table, run_id: str) -> None:
    """Write the rows of a run into a table, which is made where it is not there.

    Raises:
        UsageError: two columns differ in case only.
        SnowflakeError: the table is another one, or it may not be written.
    """
    statements = list(_inserts(name, table, run_id))
    client.run(create_table(name, table.schema))
    for attempt in range(1, TRIES + 1):
        try:
            # Each sent once: after a lost connection the transaction is gone, and all begins anew.
            client.run("BEGIN", again=False)
            client.run(f"DELETE FROM {name.sql} WHERE {RUN} = ?", [run_id], again=False)
            for sql, values in statements:
                client.run(sql, values, again=False)
            client.run("COMMIT", again=False)
        except SnowflakeError as error:
            with contextlib.suppress(SnowflakeError):
                client.run("ROLLBACK")
            if not error.passing or attempt == TRIES:
                raise
        else:
            return


def create_table(name: Name, schema: pa.Schema) -> str:
    """The statement that makes a table for rows of this schema.

    >>> create_table(Name.parse("d.s.t"), pa.schema([("n", pa.int64()), ("who", pa.string())]))
    'CREATE TABLE IF NOT EXISTS D.S.T (RUN_ID VARCHAR NOT NULL, N NUMBER(38, 0), WHO VARCHAR)'
    """
    columns = [f"{RUN} VARCHAR NOT NULL"]
    columns += [f"{column} {_type(field.type)}" for column, field in _columns(schema)]
    return f"CREATE TABLE IF NOT EXISTS {name.sql} ({', '.join(columns)})"


def _columns(schema: pa.Schema) -> list[tuple[str, pa.Field]]:
    """Each field with the name of its column in SQL: in upper case, where it is a plain name."""
    named: dict[str, pa.Field] = {}
    for field in schema:
        plain = field.name.isidentifier() and field.name.isascii()
        column = quote(field.name.upper() if plain else field.name)
        if column in named or column == RUN:
            other = f"'{named[column].name}'" if column in named else f"the column {RUN}"
            raise UsageError(
                f"'{field.name}' and {other} would be the same column in Snowflake; rename it"
            )
        named[column] = field
    return list(named.items())


def _type(t: pa.DataType) -> str:
    types = pa.types
    if types.is_integer(t):
        return "NUMBER(38, 0)"
    if types.is_floating(t):
        return "FLOAT"
    if types.is_decimal(t):
        return f"NUMBER({min(t.precision, 38)}, {t.scale})"
    if types.is_timestamp(t):
        return "TIMESTAMP_TZ" if t.tz else "TIMESTAMP_NTZ"
    if types.is_nested(t):
        return "VARIANT"
    simple = (
        (types.is_boolean, "BOOLEAN"),
        (types.is_date, "DATE"),
        (types.is_time, "TIME"),
        (types.is_binary, "BINARY"),
    )
    return next((name for is_it, name in simple if is_it(t)), "VARCHAR")


def _inserts(name: Name, table: pa.Table, run_id: str) -> Iterator[tuple[str, list[Any]]]:
    """The statements that insert the rows, with what they bind."""
    columns = _columns(table.schema)
    names = ", ".join([RUN, *(column for column, _ in columns)])
    nested = [pa.types.is_nested(field.type) for _, field in columns]
    taken = [
        f"PARSE_JSON(column{number})" if is_nested else f"column{number}"
        for number, is_nested in enumerate([False, *nested], 1)
    ]
    step = max(1, min(MOST_ROWS, MOST_VALUES // (len(columns) + 1)))
    one = f"({', '.join('?' * (len(columns) + 1))})"
    for first in range(0, table.num_rows, step):
        part = table.slice(first, step)
        rows = zip(*(_values(column) for column in part.columns), strict=True)
        bound = [value for row in rows for value in (run_id, *row)]
        source = ", ".join([one] * part.num_rows)
        sql = f"INSERT INTO {name.sql} ({names}) SELECT {', '.join(taken)} FROM VALUES {source}"
        yield sql, bound


def _values(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column as they are bound: nested ones as JSON, an artifact as what it is
    without its content, and as text what has no type in Snowflake.
    """
    t = column.type
    if pa.types.is_timestamp(t):
        # Nanoseconds would come as pandas' own objects, which the connector does not bind.
        column = column.cast(pa.timestamp("us", t.tz), safe=False)
    values: list[Any] = column.to_pylist()
    if t.equals(ARTIFACT_TYPE):
        values = [v and {k: v[k] for k in v if k != "data"} for v in values]
    if _type(t) == "TIMESTAMP_TZ":
        # Said, or the connector takes its time in UTC for one without a zone.
        return [None if value is None else ("TIMESTAMP_TZ", value) for value in values]
    if pa.types.is_nested(t):
        return [None if value is None else _json(value) for value in values]
    if _type(t) == "VARCHAR":
        return [None if value is None else str(value) for value in values]
    return values


def _json(value: Any) -> str:
    return json.dumps(_plain(value), default=str)


def _plain(value: Any) -> Any:
    """What JSON holds: no NaN, and bytes as base64."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value
