"""What a client does with a server that has canned answers; run under each connector.

``python wire_scenarios.py '[{...connection parameters...}]'`` prints one JSON object: what each
scenario has seen, by name.
"""

from __future__ import annotations

import datetime
import decimal
import json
import sys
import warnings
from typing import Any

import snowflake.connector


def fetched_all(connection: Any) -> Any:
    cursor = connection.cursor().execute("select values_and_nulls")
    return [[repr(plain(value)) for value in row] for row in cursor.fetchall()]


def fetched_as_json(connection: Any) -> Any:
    cursor = connection.cursor().execute(
        "select values_and_nulls",
        _statement_params={"PYTHON_CONNECTOR_QUERY_RESULT_FORMAT": "JSON"},
    )
    return [[repr(plain(value)) for value in row] for row in cursor.fetchall()]


def frames(connection: Any) -> Any:
    cursor = connection.cursor()
    frame = cursor.execute("select values_and_nulls").fetch_pandas_all()
    nulls = cursor.execute("select only_nulls").fetch_pandas_all()
    empty = cursor.execute("select no_values").fetch_pandas_all()
    return {
        "first": {name: repr(plain(frame[name][0])) for name in frame},
        "nulls": {name: [bool(x) for x in frame[name].isna()] for name in frame},
        "only_nulls": bool(nulls.isna().all(axis=None)),
        "empty": [len(empty), list(empty.columns)],
    }


def arrow(connection: Any) -> Any:
    cursor = connection.cursor()
    table = cursor.execute("select values_and_nulls").fetch_arrow_all()
    batches = list(cursor.execute("select values_and_nulls").fetch_arrow_batches())
    return {
        "null_counts": [column.null_count for column in table.columns],
        "rows": [table.num_rows, sum(batch.num_rows for batch in batches)],
    }


def large(connection: Any) -> Any:
    cursor = connection.cursor()
    rows = cursor.execute("select many 70000").fetchall()
    frame = cursor.execute("select many 70000").fetch_pandas_all()
    cursor.execute(
        "select many 70000",
        _statement_params={"PYTHON_CONNECTOR_QUERY_RESULT_FORMAT": "JSON"},
    )
    texts = cursor.fetchall()
    return {
        "numbers": [row[0] for row in rows] == list(range(70000)),
        "frame": [len(frame), int(frame["I"].sum()), str(frame["I"].dtype)],
        "json": texts == rows,
    }


def described(connection: Any) -> Any:
    cursor = connection.cursor()
    columns = cursor.describe("select values_and_nulls")
    return [[c.name, c.type_code, c.precision, c.scale, c.is_nullable] for c in columns]


def counts(connection: Any) -> Any:
    cursor = connection.cursor()
    inserted = cursor.execute("insert into t values (1)").rowcount
    done = cursor.execute("done").rowcount
    selected = cursor.execute("select values_and_nulls").rowcount
    return {"inserted": inserted, "done": done, "selected": selected}


def errors(connection: Any) -> Any:
    found = {}
    for text in ("missing nothing", "defect", "this is 'not closed", ""):
        try:
            connection.cursor().execute(text or ";")
        except snowflake.connector.errors.ProgrammingError as error:
            found[text] = [error.errno, error.sqlstate, bool(error.sfqid)]
    return found


def several_statements(connection: Any) -> Any:
    cursor = connection.cursor()
    cursor.execute("select bound; select count; done", num_statements=3)
    found = [cursor.fetchall()]
    while cursor.nextset():
        found.append(cursor.fetchall())
    try:
        connection.cursor().execute("select bound; select bound")
    except snowflake.connector.errors.ProgrammingError as error:
        return {"rows": found, "unasked": [error.errno, error.sqlstate]}
    return None


def in_background(connection: Any) -> Any:
    cursor = connection.cursor()
    cursor.execute_async("select wait 0.2")
    query = cursor.sfqid
    while connection.is_still_running(connection.get_query_status(query)):
        pass
    status = connection.get_query_status(query)
    failed = connection.cursor()
    failed.execute_async("missing nothing")
    try:
        while True:
            connection.get_query_status_throw_if_error(failed.sfqid)
    except snowflake.connector.errors.ProgrammingError as error:
        return {"status": status.name, "error": error.errno}


def longer_than_a_request(connection: Any) -> Any:
    return connection.cursor().execute("select wait 0.5").fetchall()


VALUES: list[Any] = [
    1,
    -(10**20),
    decimal.Decimal("1.25"),
    0.1,
    "it's",
    "",
    True,
    None,
    b"\x00\xff",
    datetime.date(1969, 12, 31),
    datetime.time(1, 2, 3, 4),
    datetime.datetime(2024, 2, 29, 1, 2, 3, 456789),
    ("TIMESTAMP_LTZ", datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC)),
]


def bound(connection: Any) -> Any:
    rows = connection.cursor().execute("select bound ", VALUES).fetchall()
    return [row[0] for row in rows]


def plain(value: Any) -> Any:
    """A value that looks the same whatever library made it."""
    if isinstance(value, bytearray):
        return bytes(value)
    if isinstance(value, datetime.datetime):
        moment = value.to_pydatetime() if hasattr(value, "to_pydatetime") else value
        return moment.isoformat()
    return value.item() if hasattr(value, "item") else value


SCENARIOS = (
    fetched_all,
    fetched_as_json,
    frames,
    arrow,
    large,
    described,
    counts,
    errors,
    several_statements,
    in_background,
    longer_than_a_request,
)


def main() -> None:
    warnings.simplefilter("ignore")
    (parameters,) = json.loads(sys.argv[1])
    found: dict[str, Any] = {"version": snowflake.connector.__version__}
    with snowflake.connector.connect(**parameters) as connection:
        for scenario in SCENARIOS:
            found[scenario.__name__] = scenario(connection)
    snowflake.connector.paramstyle = "qmark"
    with snowflake.connector.connect(**parameters) as connection:
        found["bound"] = bound(connection)
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
