"""Types: what a column holds comes back as it was put in, NULLs too, in the types of the seam."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal

import pyarrow as pa
import pytest

from flowdist.emulator.account import Account
from flowdist.emulator.session import Session
from flowdist.emulator.types import arrow_type

COLUMNS = {
    "n": "NUMBER(38, 0)",
    "d": "NUMBER(10, 2)",
    "i": "INT",
    "f": "FLOAT",
    "s": "VARCHAR",
    "c": "VARCHAR(3)",
    "b": "BOOLEAN",
    "dt": "DATE",
    "tm": "TIME",
    "ntz": "TIMESTAMP_NTZ",
    "ltz": "TIMESTAMP_LTZ",
    "tz": "TIMESTAMP_TZ",
    "bin": "BINARY",
    "v": "VARIANT",
    "o": "OBJECT",
    "a": "ARRAY",
}


@pytest.fixture
def session(account: Account) -> Session:
    made = account.open_session(
        "FLOWDIST", "ACCOUNTADMIN", database="FLOWDIST", schema="PUBLIC", warehouse="FLOWDIST_WH"
    )
    columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    account.execute(made, f"CREATE TABLE t ({columns})")
    return made


def test_values_and_nulls_come_back(account: Account, session: Session) -> None:
    moment = datetime(2020, 7, 1, 12, 30, 15, 250000)
    binds = [
        10**38 - 1,
        Decimal("1.25"),
        -7,
        0.1,
        "äß'\"",
        "abc",
        True,
        date(1969, 12, 31),
        time(23, 59, 59, 999999),
        moment,
        moment.replace(tzinfo=UTC),
        moment.replace(tzinfo=timezone(timedelta(hours=2))),
        b"\x00\xff",
    ]
    marks = ", ".join("?" * len(binds))
    account.execute(
        session,
        f"INSERT INTO t SELECT {marks}, PARSE_JSON('1'), OBJECT_CONSTRUCT('k', 'v'), "
        "ARRAY_CONSTRUCT(1)",
        binds,
    )
    account.execute(session, f"INSERT INTO t ({', '.join(COLUMNS)}) VALUES ({'NULL, ' * 15}NULL)")
    result = account.execute(session, "SELECT * FROM t ORDER BY n")
    first, second = result.rows()
    assert first == (
        *binds[:10],
        moment.replace(tzinfo=UTC),
        {"t": moment.replace(tzinfo=UTC) - timedelta(hours=2), "o": 120},
        b"\x00\xff",
        "1",
        '{"k":"v"}',
        "[1]",
    )
    assert second == (None,) * len(COLUMNS)
    for column, array in zip(result.columns, result.table.columns, strict=True):
        integers = column.type.name == "FIXED" and not column.type.scale
        assert array.type == arrow_type(column.type) or (integers and array.type == pa.int64())


def test_columns_have_the_types_they_were_given(account: Account, session: Session) -> None:
    result = account.execute(session, "SELECT n, d, c, tz, o, a, v:x, COUNT(*) FROM t GROUP BY ALL")
    assert [str(column.type) for column in result.columns] == [
        "NUMBER(38,0)",
        "NUMBER(10,2)",
        "VARCHAR(3)",
        "TIMESTAMP_TZ(9)",
        "OBJECT",
        "ARRAY",
        "VARIANT",
        "NUMBER(18,0)",
    ]


def test_an_empty_result_has_types_too(account: Account, session: Session) -> None:
    result = account.execute(session, "SELECT * FROM t WHERE FALSE")
    assert [column.type.name for column in result.columns][:5] == [
        "FIXED",
        "FIXED",
        "FIXED",
        "REAL",
        "TEXT",
    ]


def test_the_time_zone_of_the_session_counts(account: Account, session: Session) -> None:
    account.execute(session, "INSERT INTO t (ltz) VALUES ('2020-01-01 00:00:00 +0000')")
    for zone, shown in (
        ("UTC", "2020-01-01 00:00:00.000 +0000"),
        ("Asia/Kolkata", "2020-01-01 05:30:00.000 +0530"),
        ("America/Los_Angeles", "2019-12-31 16:00:00.000 -0800"),
    ):
        session.parameters["TIMEZONE"] = zone
        rows = account.execute(
            session, "SELECT ltz::VARCHAR, ltz, ltz::TIMESTAMP_NTZ FROM t"
        ).rows()
        ((text, instant, local),) = rows
        assert text == shown
        assert instant == datetime(2020, 1, 1, tzinfo=UTC)
        assert local == datetime.fromisoformat(shown[:19])
    session.parameters["TIMEZONE"] = "UTC"
    account.execute(session, "UPDATE t SET tz = ltz, ntz = ltz")
    ((zoned, plain),) = account.execute(session, "SELECT tz, ntz FROM t").rows()
    assert zoned == {"t": datetime(2020, 1, 1, tzinfo=UTC), "o": 0}
    assert plain == datetime(2020, 1, 1)


def test_timestamp_is_what_the_session_maps_it_to(account: Account, session: Session) -> None:
    session.parameters["TIMESTAMP_TYPE_MAPPING"] = "TIMESTAMP_TZ"
    account.execute(session, "CREATE TABLE u (x TIMESTAMP)")
    (column,) = account.execute(session, "SELECT x FROM u").columns
    assert column.type.name == "TIMESTAMP_TZ"
    ((value,),) = account.execute(session, "SELECT '2020-01-01 00:00:00 +0100'::TIMESTAMP").rows()
    assert value["o"] == 60


def test_what_a_transaction_has_written_keeps_its_types(account: Account, session: Session) -> None:
    account.execute(
        session,
        "CREATE HYBRID TABLE h (id INT PRIMARY KEY, tz TIMESTAMP_TZ, ltz TIMESTAMP_LTZ, v VARIANT)",
    )
    other = account.open_session(
        "FLOWDIST", "ACCOUNTADMIN", database="FLOWDIST", schema="PUBLIC", warehouse="FLOWDIST_WH"
    )
    account.execute(session, "BEGIN")
    account.execute(
        session,
        "INSERT INTO h SELECT 1, '2020-01-01 00:00:00 +0100', '2020-01-01 00:00:00 +0100', "
        "PARSE_JSON('{\"a\":1}')",
    )
    account.execute(other, "INSERT INTO h (id) VALUES (2)")
    rows = account.execute(session, "SELECT tz, ltz, v:a::INT FROM h WHERE id = 1").rows()
    instant = datetime(2019, 12, 31, 23, tzinfo=UTC)
    assert rows == [({"t": instant, "o": 60}, instant, 1)]
    account.execute(session, "COMMIT")
    assert account.execute(other, "SELECT COUNT(*) FROM h").rows() == [(2,)]
