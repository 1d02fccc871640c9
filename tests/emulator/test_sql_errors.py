"""Errors have Snowflake's numbers, SQLSTATEs and words."""

from __future__ import annotations

import pytest

from flowdist.emulator.account import Account
from flowdist.emulator.errors import SqlError
from flowdist.emulator.session import Session

ERRORS = [
    ("SELEC 1", 1003, "42000", "syntax error line 1 at position"),
    ("SELECT a FROM", 1003, "42000", "syntax error"),
    ("SELECT nope FROM t", 904, "42000", "invalid identifier 'NOPE'"),
    ("SELECT t.nope FROM t", 904, "42000", "invalid identifier 'T.NOPE'"),
    ("INSERT INTO t (nope) VALUES (1)", 904, "42000", "invalid identifier 'NOPE'"),
    ("UPDATE t SET nope = 1", 904, "42000", "invalid identifier 'NOPE'"),
    ("SELECT * FROM nope", 2003, "42S02", "Object 'NOPE' does not exist or not authorized."),
    ("INSERT INTO nope VALUES (1)", 2003, "42S02", "does not exist"),
    ("SELECT * FROM nope.public.t", 2003, "42S02", "does not exist"),
    ("DROP TABLE nope", 2003, "02000", "does not exist"),
    ("CREATE TABLE t (a INT)", 2002, "42710", "already exists"),
    ("SELECT TO_NUMBER('abc')", 100038, "22018", "Numeric value 'abc' is not recognized"),
    ("SELECT 'abc'::INT", 100038, "22018", "Numeric value 'abc' is not recognized"),
    ("SELECT 'x'::TIMESTAMP", 100035, "22007", "Timestamp 'x' is not recognized"),
    ("SELECT 'x'::DATE", 100040, "22007", "Date 'x' is not recognized"),
    ("SELECT 'x'::BOOLEAN", 100037, "22018", "Boolean value 'x' is not recognized"),
    ("SELECT 99999999999999999999999999999999999999 + 1", 100046, "22003", "Number out of repres"),
    ("SELECT 99999999999999999999999999999999999999 * 9", 100046, "22003", "Number out of repres"),
    ("SELECT X'F'", 2140, "42601", "invalid binary literal"),
    ("SELECT TO_VARCHAR(CURRENT_DATE, 'FF4')", 2, "0A000", "FF4 in the format"),
    (
        "SELECT GET_DDL('TABLE', 'T')",
        2,
        "0A000",
        "supported by the emulator: GET_DDL('TABLE', 'T')",
    ),
    ("SELECT SYSTEM$PIPE_STATUS('x')", 2, "0A000", "SYSTEM$PIPE_STATUS('x')"),
    ("SELECT 1 / 0", 100051, "22012", "Division by zero"),
    ("SELECT MOD(1, 0)", 100051, "22012", "Division by zero"),
    ("SELECT PARSE_JSON('{')", 100069, "22P02", "Error parsing JSON"),
    ("INSERT INTO t (id) VALUES (NULL)", 100072, "22000", "NULL result in a non-nullable column"),
    ("INSERT INTO t (id, a) VALUES (1, 'abcdef')", 100078, "22000", "String 'abcdef' is too long"),
    ("UPDATE t SET a = 'abcdef'", 100078, "22000", "String 'abcdef' is too long"),
    ("INSERT INTO t (id, a) VALUES (1)", 2020, "21S01", "expecting 2 but got 1"),
    ("INSERT INTO h VALUES (1, 1)", 200001, "22000", "A primary key already exists."),
    ("SELECT id FROM t x, t y", 2028, "42601", "ambiguous column name 'ID'"),
    ("SELECT 1 UNION SELECT 1, 2", 1789, "42601", "invalid number of result columns"),
    ("SELECT NO_SUCH_FUNCTION(1)", 2140, "42601", "Unknown function NO_SUCH_FUNCTION"),
    ("SELECT * FROM TABLE(NO_SUCH(1))", 2141, "42601", "Unknown user-defined table function"),
    ("SELECT a, COUNT(*) FROM t", 979, "42601", "is not a valid group by expression"),
    ("SELECT ?", 2049, "42601", "not set"),
    ("SELECT DATEADD('fortnight', 1, CURRENT_DATE)", 1007, "22023", "date/time component"),
    ("CREATE HYBRID TABLE n (a INT)", 391403, "42601", "primary key"),
    ("CREATE TABLE n (a INT, a INT)", 2025, "42S21", "duplicate column name 'A'"),
    ("ALTER TABLE t ADD COLUMN a INT", 1430, "42601", "already exists"),
    ("SELECT SYSTEM$WAIT()", 938, "22023", "not enough arguments for function [SYSTEM$WAIT()]"),
    ("SELECT SYSTEM$WAIT(1, 'SECONDS', 3)", 939, "22023", "expected 2, got 3"),
    ("SELECT SYSTEM$WAIT(1, 'FORTNIGHTS')", 1044, "42P13", "Invalid argument"),
    (
        "SELECT * FROM TABLE(INFORMATION_SCHEMA.TASK_HISTORY(TASK => 'x'))",
        2140,
        "42601",
        "invalid argument for function TASK_HISTORY: TASK",
    ),
    ("SELECT $nope", 2211, "02000", "Session variable '$NOPE' does not exist"),
]
REFUSED = [
    "EXPLAIN SELECT 1",
    "SELECT * FROM t AT(OFFSET => -60)",
    "SELECT * FROM t SAMPLE (10)",
    "SELECT * FROM t PIVOT(MAX(a) FOR id IN (1, 2))",
    "SELECT * FROM t FOR UPDATE",
    "SELECT * FROM t MATCH_RECOGNIZE (PATTERN (a) DEFINE a AS id > 1)",
    "CREATE TABLE n CLONE t",
    "CREATE STREAM n ON TABLE t",
    "CREATE PROCEDURE p() RETURNS INT LANGUAGE SQL AS 'RETURN 1'",
    "CREATE TABLE n (a GEOGRAPHY)",
    "CREATE TABLE n (a INT) CLUSTER BY (a)",
    "CREATE TABLE n (a VARCHAR COLLATE 'en')",
    "ALTER TABLE t CLUSTER BY (a)",
    'CREATE TABLE "t" (a INT)',
    "SELECT TIME_SLICE(CURRENT_DATE, 1, 'DAY')",
    "SELECT * FROM TABLE(FLATTEN(INPUT => PARSE_JSON('[1]'), RECURSIVE => TRUE))",
    "SELECT * FROM TABLE(INFORMATION_SCHEMA.COPY_HISTORY(TABLE_NAME => 't'))",
]


@pytest.fixture
def session(account: Account) -> Session:
    made = account.open_session(
        "FLOWDIST", "ACCOUNTADMIN", database="FLOWDIST", schema="PUBLIC", warehouse="FLOWDIST_WH"
    )
    for sql in (
        "CREATE TABLE t (id INT NOT NULL, a VARCHAR(5))",
        "INSERT INTO t VALUES (1, 'a')",
        "CREATE HYBRID TABLE h (id INT PRIMARY KEY, a INT)",
        "INSERT INTO h VALUES (1, 1)",
    ):
        account.execute(made, sql)
    return made


def test_each_error_is_snowflakes(account: Account, session: Session) -> None:
    found = []
    for sql, *_ in ERRORS:
        with pytest.raises(SqlError) as error:
            account.execute(session, sql)
        found.append((sql, error.value.errno, error.value.sqlstate, error.value.message))
    differing = [
        (expected, was)
        for expected, was in zip(ERRORS, found, strict=True)
        if expected[1:3] != was[1:3] or expected[3] not in was[3]
    ]
    assert not differing


def test_what_is_not_supported_is_refused_with_its_text(account: Account, session: Session) -> None:
    for sql in REFUSED:
        with pytest.raises(SqlError) as error:
            account.execute(session, sql)
        assert error.value.message.startswith("not supported by the emulator"), sql


def test_a_session_without_a_database_says_so(account: Account) -> None:
    session = account.open_session("FLOWDIST", "ACCOUNTADMIN", warehouse="FLOWDIST_WH")
    with pytest.raises(SqlError) as error:
        account.execute(session, "SELECT * FROM t")
    assert error.value.errno == 90105


def test_a_running_statement_is_interrupted(account: Account, session: Session) -> None:
    session.parameters["STATEMENT_TIMEOUT_IN_SECONDS"] = 1
    numbers = "TABLE(GENERATOR(ROWCOUNT => 1000000000))"
    with pytest.raises(SqlError) as error:
        account.execute(session, f"SELECT COUNT(DISTINCT HASH(SEQ4())) FROM {numbers}")
    assert (error.value.errno, error.value.sqlstate) == (630, "57014")
    assert account.execute(session, "SELECT 1").rows() == [(1,)]
