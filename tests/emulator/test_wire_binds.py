"""Bound values: how they are read, and one statement for many rows."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from flowdist.emulator.account import Account
from flowdist.emulator.bulk import Rows, over_rows
from flowdist.emulator.errors import SqlError
from flowdist.emulator.server.binds import read_binds

EAST = timezone(timedelta(minutes=90))


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("FIXED", "12345678901234567890123", 12345678901234567890123),
        ("FIXED", "-1.50", Decimal("-1.50")),
        ("REAL", "1e-300", 1e-300),
        ("TEXT", "", ""),
        ("BOOLEAN", "true", True),
        ("BOOLEAN", "0", False),
        ("BINARY", "00FF", b"\x00\xff"),
        ("DATE", "-86400000", date(1969, 12, 31)),
        ("DATE", "1709164800000", date(2024, 2, 29)),
        ("TIME", "3723000004000", time(1, 2, 3, 4)),
        ("TIMESTAMP_NTZ", "-500000000", datetime(1969, 12, 31, 23, 59, 59, 500000)),
        ("TIMESTAMP_LTZ", "0", datetime(1970, 1, 1, tzinfo=UTC)),
        ("TIMESTAMP_TZ", "0 1530", datetime(1970, 1, 1, 1, 30, tzinfo=EAST)),
        ("TIMESTAMP_NTZ", "2024-02-29 01:02:03", datetime(2024, 2, 29, 1, 2, 3)),
        ("ANY", None, None),
    ],
)
def test_values_are_read_by_their_types(kind: str, text: str | None, value: Any) -> None:
    found = read_binds({"1": {"type": kind, "value": text}})

    assert found == [value]
    assert type(found[0]) is type(value)


def test_a_value_that_is_none_of_its_type_is_refused() -> None:
    with pytest.raises(SqlError) as failed:
        read_binds({"1": {"type": "REAL", "value": "one"}})

    assert failed.value.sqlstate == "22018"


def test_arrays_become_rows() -> None:
    found = read_binds(
        {"1": {"type": "FIXED", "value": ["1", "2"]}, "2": {"type": "TEXT", "value": "same"}}
    )

    assert isinstance(found, Rows)
    assert found == [(1, "same"), (2, "same")]


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES (?, DEFAULT)",
        "INSERT INTO t VALUES (?), (?)",
        "INSERT INTO t SELECT ?",
        "UPDATE t SET n = ?",
    ],
)
def test_only_an_insert_of_one_row_of_values_is_rewritten(sql: str) -> None:
    assert over_rows(sql) is None


@pytest.fixture
def session(account: Account) -> Any:
    made = account.open_session(
        "FLOWDIST",
        "FLOWDIST_ROLE",
        database="FLOWDIST",
        schema="PUBLIC",
        warehouse="FLOWDIST_WH",
    )
    account.execute(
        made,
        "CREATE TABLE t (n INT NOT NULL, x NUMBER(10, 2), s STRING, b BINARY, d DATE, "
        "at TIMESTAMP_NTZ, zoned TIMESTAMP_TZ, made TIMESTAMP_LTZ DEFAULT CURRENT_TIMESTAMP())",
    )
    return made


def test_many_rows_are_inserted_by_one_statement(account: Account, session: Any) -> None:
    moment = datetime(2024, 2, 29, 1, 2, 3, 456789)
    rows = Rows(
        [
            (
                1,
                Decimal("1.25"),
                "one",
                b"\x01",
                date(2024, 2, 29),
                moment,
                moment.replace(tzinfo=EAST),
            ),
            (2, None, None, None, None, None, None),
        ]
    )

    inserted = account.execute(
        session,
        "INSERT INTO t (n, x, s, b, d, at, zoned) VALUES (?, ?, UPPER(?), ?, ?, ?, ?)",
        rows,
    )

    assert inserted.rows() == [(2,)]
    first, second = account.execute(session, "SELECT * EXCLUDE (made) FROM t ORDER BY n").rows()
    assert first[:3] == (1, Decimal("1.25"), "ONE")
    assert first[3:6] == (b"\x01", date(2024, 2, 29), moment)
    assert first[6]["o"] == 90
    assert second[1:] == (None,) * 6
    made = account.execute(session, "SELECT COUNT(made) FROM t").rows()
    assert made == [(2,)]


def test_all_rows_or_none_are_inserted(account: Account, session: Any) -> None:
    for sql in ("INSERT INTO t (n) VALUES (?)", "INSERT INTO t (n, x) VALUES (?, DEFAULT)"):
        with pytest.raises(SqlError):
            account.execute(session, sql, Rows([(1,), (None,)]))

    assert account.execute(session, "SELECT COUNT(*) FROM t").rows() == [(0,)]


def test_other_statements_run_once_for_each_row(account: Account, session: Any) -> None:
    account.execute(session, "INSERT INTO t (n) VALUES (?)", Rows([(1,), (2,), (3,)]))

    updated = account.execute(session, "UPDATE t SET s = ? WHERE n > ?", Rows([("a", 0), ("b", 2)]))

    assert updated.rows()[0][0] == 4
    found = account.execute(session, "SELECT s FROM t ORDER BY n").rows()
    assert found == [("a",), ("a",), ("b",)]


def test_several_statements_share_the_bound_values(account: Account, session: Any) -> None:
    query, _ = account.query(session, "INSERT INTO t (n, s) VALUES (?, ?); SELECT ? + 1")
    account.run(session, query, [1, "one", 41], count=2)

    assert query.error is None
    (_, last) = query.outcome.children  # type: ignore[union-attr]
    found = account.queries.find(last)
    assert found is not None
    assert found.outcome.rows() == [(42,)]  # type: ignore[union-attr]
