"""Expressions and functions: what Snowflake makes of them, and their types."""

from __future__ import annotations

from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import pytest

from flowdist.emulator.account import Account
from flowdist.emulator.errors import SqlError
from flowdist.emulator.session import Session

NTZ = "'2020-03-04 05:06:07.089'::TIMESTAMP_NTZ"
TZ = "'2024-07-01 02:00:00 +0300'::TIMESTAMP_TZ"
EXPRESSIONS: list[tuple[str, Any]] = [
    # arithmetic: the scale of a quotient is Snowflake's
    ("1 + 1", 2),
    ("1 / 3", Decimal("0.333333")),
    ("10 / 4", Decimal("2.5")),
    ("7 % 3", 1),
    ("99999999999999999999999999999999999999::NUMBER(38, 0)", Decimal("9" * 38)),
    ("1.50 * 2", Decimal("3")),
    ("'2' + 1", Decimal("3")),
    ("1e2", 100.0),
    ("-5", -5),
    ("ROUND(2.345, 2)", Decimal("2.35")),
    ("FLOOR(-1.5)", Decimal("-2")),
    ("TRUNC(1.987, 1)", Decimal("1.9")),
    # times with a zone, in all the ways it is written
    *(
        (
            f"'2024-01-02 03:04:05{zone}'::TIMESTAMP_TZ = '2024-01-02 01:04:05 Z'::TIMESTAMP_TZ",
            True,
        )
        for zone in ("+02:00", " +02:00", " +0200", "+0200", " +02")
    ),
    ("TO_VARCHAR('2024-01-02 03:04:05 +02:00'::TIMESTAMP_TZ)", "2024-01-02 03:04:05.000 +0200"),
    # patterns
    ("'abc' LIKE ANY ('x%', '%c')", True),
    ("'abc' NOT LIKE ANY ('x%', 'y%')", True),
    ("'abc' LIKE ALL ('a%', '%c')", True),
    ("'abc' LIKE ALL ('a%', '%d')", False),
    ("'ABC' ILIKE ANY ('a%')", True),
    ("'a%c' LIKE ANY ('x', 'a!%c') ESCAPE '!'", True),
    ("SYSTEM$WAIT(1, 'MILLISECONDS')", "waited 1 milliseconds"),
    # conditionals
    ("IFF(1 > 2, 'a', 'b')", "b"),
    ("NVL(NULL, 5)", 5),
    ("COALESCE(NULL, NULL, 'x')", "x"),
    ("NVL2(NULL, 1, 2)", 2),
    ("NULLIF(1, 1)", None),
    ("ZEROIFNULL(NULL)", 0),
    ("DECODE(2, 1, 'one', 2, 'two', 'many')", "two"),
    ("CASE WHEN 1 = 2 THEN 1 ELSE 2 END", 2),
    ("GREATEST(1, 5, 3)", 5),
    ("GREATEST(1, NULL)", None),
    ("EQUAL_NULL(NULL, NULL)", True),
    ("1 IS DISTINCT FROM NULL", True),
    ("'5' = 5", True),
    ("'05' = 5", True),
    ("DIV0(1, 0)", 0),
    # text
    ("'a' || 1 || TRUE", "a1true"),
    ("CONCAT('a', 2)", "a2"),
    ("SPLIT_PART('a,b,c', ',', 2)", "b"),
    ("SPLIT_PART('a,b,c', ',', -1)", "c"),
    ("SUBSTR('snow', 2, 2)", "no"),
    ("LEFT('snow', 2)", "sn"),
    ("CHARINDEX('o', 'snow')", 3),
    ("POSITION('o' IN 'snow')", 3),
    ("REPLACE('aba', 'a', 'x')", "xbx"),
    ("LPAD('5', 3, '0')", "005"),
    ("TRIM('  a ')", "a"),
    ("UPPER('a') || LOWER('B')", "Ab"),
    ("LENGTH(12345)", 5),
    ("CONTAINS('snow', 'no')", True),
    ("STARTSWITH('snow', 'sn')", True),
    ("'snow' LIKE 's%'", True),
    ("'snow' NOT LIKE 's%'", False),
    ("'SNOW' ILIKE 's%'", True),
    ("'a_b' LIKE 'a^_b' ESCAPE '^'", True),
    ("'snow' RLIKE 's.*'", True),
    ("REGEXP_LIKE('snow', 'no')", False),
    ("REGEXP_REPLACE('a1b2', '[0-9]')", "ab"),
    ("REGEXP_SUBSTR('a12b', '[0-9]+')", "12"),
    ("REGEXP_COUNT('a1b2', '[0-9]')", 2),
    ("LENGTH(UUID_STRING())", 36),
    ("LENGTH(RANDSTR(7, RANDOM()))", 7),
    ("MD5('a')", "0cc175b9c0f1b6a831c399e269772661"),
    ("$$it's$$", "it's"),
    (r"'it''s \'so\''", "it's 'so'"),
    ("'{x}'", "{x}"),
    # casts
    ("'12'::INT", 12),
    ("12.5::INT", 13),
    ("TRY_CAST('x' AS INT)", None),
    ("TRY_TO_NUMBER('x')", None),
    ("TO_NUMBER('12.345', 10, 2)", Decimal("12.35")),
    ("TO_BOOLEAN('yes')", True),
    ("1::BOOLEAN", True),
    ("TRUE::INT", 1),
    ("1.0::FLOAT::VARCHAR", "1"),
    ("1.50::VARCHAR", "1.50"),
    ("TRUE::VARCHAR", "true"),
    ("'abcdef'::VARCHAR(3)", "abc"),
    ("TO_BINARY('6162')", b"ab"),
    ("TO_BINARY('6162')::VARCHAR", "6162"),
    # moments
    (NTZ, datetime(2020, 3, 4, 5, 6, 7, 89000)),
    (f"{NTZ}::VARCHAR", "2020-03-04 05:06:07.089"),
    (f"{NTZ}::DATE", date(2020, 3, 4)),
    (f"{NTZ}::TIME", time(5, 6, 7, 89000)),
    ("'2020-03-04'::DATE + 1", date(2020, 3, 5)),
    ("'2020-03-04'::DATE - '2020-03-01'::DATE", 3),
    ("DATEADD(DAY, 1, '2020-02-28'::DATE)", date(2020, 2, 29)),
    ("DATEADD('month', 1, '2020-01-31'::DATE)", date(2020, 2, 29)),
    ("DATEADD(hour, 1, '2020-01-01'::DATE)", datetime(2020, 1, 1, 1)),
    (f"DATEADD('minute', -6, {NTZ})", datetime(2020, 3, 4, 5, 0, 7, 89000)),
    (f"TIMESTAMPADD(SECOND, -7, {NTZ})", datetime(2020, 3, 4, 5, 6, 0, 89000)),
    ("DATEDIFF('day', '2020-01-01', '2020-03-01')", 60),
    ("DATEDIFF(year, '2019-12-31'::DATE, '2020-01-01'::DATE)", 1),
    ("DATEDIFF(week, '2024-01-05', '2024-01-08')", 1),
    ("DATEDIFF(week, '2024-01-08'::DATE, '2024-01-14'::DATE)", 0),
    ("DATEDIFF('week', '2024-01-31 12:00'::TIMESTAMP_NTZ, '2024-01-01'::TIMESTAMP_NTZ)", -4),
    (f"DATEDIFF(week, {TZ}, '2024-06-30 23:59:00 Z'::TIMESTAMP_TZ)", 0),
    ("TIMESTAMPDIFF(SECOND, '2020-01-01 00:00:00', '2020-01-01 00:01:00')", 60),
    (f"DATE_TRUNC('hour', {NTZ})", datetime(2020, 3, 4, 5)),
    (f"DATE_PART(epoch_second, {NTZ})", 1583298367),
    (f"YEAR({NTZ}) * 100 + MONTH({NTZ})", 202003),
    (f"EXTRACT(day FROM {NTZ})", 4),
    (f"TO_VARCHAR({NTZ}, 'YYYY-MM-DD\"T\"HH24:MI:SS.FF3')", "2020-03-04T05:06:07.089"),
    (f"TO_CHAR({NTZ}, 'DD MON YY')", "04 Mar 20"),
    ("TO_TIMESTAMP_NTZ('04/03/2020', 'DD/MM/YYYY')", datetime(2020, 3, 4)),
    ("TO_TIMESTAMP(1583298367)", datetime(2020, 3, 4, 5, 6, 7)),
    ("TO_TIMESTAMP_LTZ(1583298367) = '2020-03-04 05:06:07 Z'::TIMESTAMP_LTZ", True),
    ("TO_TIMESTAMP_TZ(1583298367) = '2020-03-04 05:06:07 Z'::TIMESTAMP_LTZ", True),
    ("TO_TIMESTAMP_NTZ(1583298367089, 3)", datetime(2020, 3, 4, 5, 6, 7, 89000)),
    ("'1583298367'::TIMESTAMP_NTZ", datetime(2020, 3, 4, 5, 6, 7)),
    ("TO_DATE('2020-03-04')", date(2020, 3, 4)),
    ("LAST_DAY('2020-02-03'::DATE)", date(2020, 2, 29)),
    ("'2020-01-01'::DATE + INTERVAL '1 day'", datetime(2020, 1, 2)),
    ("CURRENT_TIMESTAMP() = CURRENT_TIMESTAMP", True),
    ("SYSDATE()::DATE = CONVERT_TIMEZONE('UTC', CURRENT_TIMESTAMP())::DATE", True),
    ("'2020-07-01 12:00:00 +0200'::TIMESTAMP_TZ::VARCHAR", "2020-07-01 12:00:00.000 +0200"),
    (
        "'2020-07-01 12:00:00 +0200'::TIMESTAMP_TZ::TIMESTAMP_LTZ::VARCHAR",
        "2020-07-01 03:00:00.000 -0700",
    ),
    ("'2020-07-01 12:00:00 +0200'::TIMESTAMP_TZ = '2020-07-01 10:00:00Z'::TIMESTAMP_LTZ", True),
    (
        "'2020-07-01 12:00:00'::TIMESTAMP_NTZ::TIMESTAMP_LTZ::VARCHAR",
        "2020-07-01 12:00:00.000 -0700",
    ),
    (
        "CONVERT_TIMEZONE('America/Los_Angeles', 'UTC', '2020-07-01 12:00:00'::TIMESTAMP_NTZ)",
        datetime(2020, 7, 1, 19),
    ),
    # a TIMESTAMP_TZ is what its own clock shows
    (f"{TZ}::TIMESTAMP_NTZ", datetime(2024, 7, 1, 2)),
    (f"TO_TIMESTAMP_NTZ({TZ})", datetime(2024, 7, 1, 2)),
    (f"{TZ}::DATE", date(2024, 7, 1)),
    (f"{TZ}::TIME", time(2)),
    (f"HOUR({TZ})", 2),
    (f"EXTRACT(day FROM {TZ})", 1),
    (f"DATE_PART(epoch_second, {TZ})", 1719788400),
    (f"DATE_TRUNC('day', {TZ})::VARCHAR", "2024-07-01 00:00:00.000 +0300"),
    (f"DATEADD(hour, 1, {TZ})::VARCHAR", "2024-07-01 03:00:00.000 +0300"),
    (f"({TZ} + INTERVAL '1 day')::VARCHAR", "2024-07-02 02:00:00.000 +0300"),
    (f"DATEDIFF(minute, {TZ}, '2024-06-30 23:01:00 Z'::TIMESTAMP_TZ)", 1),
    (f"TO_VARCHAR({TZ})", "2024-07-01 02:00:00.000 +0300"),
    (f"{TZ} || ''", "2024-07-01 02:00:00.000 +0300"),
    *(
        (f"TO_VARCHAR({text})", "2024-07-01 03:00:00.000 -0700")
        for text in (
            "'2024-07-01 12:00:00 +02:00'::TIMESTAMP_LTZ",
            "TO_TIMESTAMP_LTZ('2024-07-01 12:00:00 +02:00')",
        )
    ),
    # formats with a zone
    (f"TO_VARCHAR({TZ}, 'HH24:MI:SS.FF3 TZHTZM')", "02:00:00.000 +0300"),
    (f"TO_VARCHAR({TZ}, 'HH24 TZH:TZM')", "02 +03:00"),
    (f"TO_VARCHAR({TZ}, 'TZM/TZH')", "00/+03"),
    (
        "TO_TIMESTAMP_TZ('01/07/2024 12:00 -0330', 'DD/MM/YYYY HH24:MI TZHTZM')::VARCHAR",
        "2024-07-01 12:00:00.000 -0330",
    ),
    ("TO_VARCHAR('2024-07-01'::TIMESTAMP_LTZ, 'YY TZHTZM')", "24 -0700"),
    ("TO_VARCHAR('10:20:30'::TIME, 'HH12:MI AM')", "10:20 AM"),
    ("'10:20:30'::TIME::VARCHAR", "10:20:30"),
    # binary, numbers, types
    ("X'fF00'", b"\xff\x00"),
    ("2147483647 + 1", 2147483648),
    ("99999999999 * 99999999999", 9999999999800000000001),
    ("DIV0(1, 0)::VARCHAR", "0.000000"),
    ("DIV0(1, 3)", Decimal("0.333333")),
    ("DIV0NULL(1, NULL)", 0),
    ("CURRENT_TRANSACTION()", None),
    ("SYSTEM$TYPEOF(12.5)", "NUMBER(3,1)[SB2]"),
    ("SYSTEM$TYPEOF(CURRENT_DATE())", "DATE[SB4]"),
    # semi-structured
    ("OBJECT_AGG('k', 1)", '{"k":1}'),
    ("OBJECT_AGG('k', NULL)", "{}"),
    ('PARSE_JSON(\'{"a": [1, {"b": "x"}]}\'):a[1].b::STRING', "x"),
    ("PARSE_JSON('{\"a\": 1}'):a", "1"),
    ("PARSE_JSON('{\"a\": 1}')['a'] + 1", 2),
    ("PARSE_JSON('{\"a\": \"x\"}'):a = 'x'", True),
    ("PARSE_JSON('[1, 2]')[1]::INT", 2),
    ("PARSE_JSON('{\"a\": null}'):a IS NULL", False),
    ("IS_NULL_VALUE(PARSE_JSON('{\"a\": null}'):a)", True),
    ("PARSE_JSON('{\"a\": null}'):a::STRING", None),
    ("PARSE_JSON('{\"a\": 1}'):b", None),
    ("GET_PATH(PARSE_JSON('{\"a\": {\"b\": 5}}'), 'a.b')", "5"),
    ("OBJECT_CONSTRUCT('a', 1, 'b', NULL)", '{"a":1}'),
    ("ARRAY_CONSTRUCT(1, 'x', NULL)", '[1,"x",null]'),
    ("ARRAY_SIZE(ARRAY_CONSTRUCT(1, 2))", 2),
    ("TO_JSON(OBJECT_CONSTRUCT('a', ARRAY_CONSTRUCT(1)))", '{"a":[1]}'),
    ("TYPEOF(PARSE_JSON('1'))", "INTEGER"),
    ("TRY_PARSE_JSON('{')", None),
    ("ARRAY_CONTAINS('x'::VARIANT, ARRAY_CONSTRUCT('x'))", True),
    ("{'a': 1}", '{"a":1}'),
    ("[1, 2]", "[1,2]"),
]
QUERIES: list[tuple[str, list[tuple[Any, ...]]]] = [
    ("SELECT $1, $2 FROM VALUES (1, 'a'), (2, 'b') ORDER BY 1", [(1, "a"), (2, "b")]),
    ("SELECT column2 FROM (VALUES (1, 'a')) ", [("a",)]),
    ("SELECT SEQ4() FROM TABLE(GENERATOR(ROWCOUNT => 3)) ORDER BY 1", [(0,), (1,), (2,)]),
    ("SELECT MAX(SEQ4()) FROM TABLE(GENERATOR(ROWCOUNT => 3))", [(2,)]),
    (
        (
            "SELECT f.index, f.value::INT FROM TABLE(FLATTEN(INPUT => PARSE_JSON('[5, 6]'))) f "
            "ORDER BY 1"
        ),
        [(0, 5), (1, 6)],
    ),
    (
        (
            'SELECT t.id, f.key, f.value::STRING FROM (SELECT 1 AS id, PARSE_JSON(\'{"a":"x"}\') '
            "AS v) t, LATERAL FLATTEN(INPUT => t.v) f"
        ),
        [(1, "a", "x")],
    ),
    (
        (
            "SELECT column1 FROM VALUES (1), (2), (3) "
            "QUALIFY ROW_NUMBER() OVER (ORDER BY column1 DESC) = 1"
        ),
        [(3,)],
    ),
    (
        "SELECT LISTAGG(column1, ',') WITHIN GROUP (ORDER BY column1 DESC) FROM VALUES (1), (2)",
        [("2,1",)],
    ),
    (
        "SELECT ARRAY_AGG(column1) WITHIN GROUP (ORDER BY column1) FROM VALUES (2), (1), (NULL)",
        [("[1,2]",)],
    ),
    ("SELECT AVG(column1), SUM(column1) FROM VALUES (1), (2)", [(Decimal("1.5"), 3)]),
    (
        "SELECT COUNT(*), COUNT(DISTINCT column1), COUNT_IF(column1 = 1) FROM VALUES (1), (1), (2)",
        [(3, 2, 2)],
    ),
    (
        "SELECT LAG(column1) OVER (ORDER BY column1) FROM VALUES (1), (2) ORDER BY 1 NULLS FIRST",
        [(None,), (1,)],
    ),
    ("SELECT column1 FROM VALUES (1), (NULL) ORDER BY column1 DESC", [(None,), (1,)]),
    ("SELECT column1 FROM VALUES (1), (NULL) ORDER BY column1", [(1,), (None,)]),
    ("WITH x AS (SELECT 1 AS a), y(b) AS (SELECT a + 1 FROM x) SELECT a, b FROM x, y", [(1, 2)]),
    (
        (
            "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 3) "
            "SELECT SUM(n) FROM r"
        ),
        [(6,)],
    ),
    ("SELECT 1 UNION SELECT 1 UNION ALL SELECT 2 ORDER BY 1", [(1,), (2,)]),
    ("SELECT 1 MINUS SELECT 1", []),
    ("SELECT TOP 1 column1 FROM VALUES (1), (2) ORDER BY 1", [(1,)]),
    ("SELECT column1 FROM VALUES (1), (2) ORDER BY 1 LIMIT 1 OFFSET 1", [(2,)]),
    ("SELECT a.x, b.x FROM (SELECT 1 AS x) a JOIN (SELECT 1 AS x) b ON a.x = b.x", [(1, 1)]),
    ("SELECT * FROM (SELECT 1 AS x) a JOIN (SELECT 1 AS x, 2 AS y) b USING (x)", [(1, 2)]),
    (
        "SELECT x FROM (SELECT 1 AS x) a LEFT JOIN (SELECT 2 AS y) b ON a.x = b.y WHERE y IS NULL",
        [(1,)],
    ),
    ("SELECT * EXCLUDE b FROM (SELECT 1 AS a, 2 AS b)", [(1,)]),
    ("SELECT 1 AS a, a + 1 AS b", [(1, 2)]),
    (
        "SELECT OBJECT_CONSTRUCT(*):B::STRING FROM (SELECT 1 AS a, 'x' AS b, NULL AS c)",
        [("x",)],
    ),
    ("SELECT (SELECT MAX(column1) FROM VALUES (1), (2))", [(2,)]),
    ("SELECT 1 WHERE EXISTS (SELECT 1) AND 1 IN (SELECT 1) AND 2 NOT IN (1, 3)", [(1,)]),
    ("SELECT column1 FROM VALUES (1), (2) WHERE column1 NOT IN (SELECT 1)", [(2,)]),
    ("SELECT column1, COUNT(*) FROM VALUES ('a'), ('a') GROUP BY ALL", [("a", 2)]),
    ("SELECT s.value FROM TABLE(SPLIT_TO_TABLE('a.b', '.')) s ORDER BY s.index", [("a",), ("b",)]),
    ("SELECT OBJECT_AGG(column1, column2) FROM VALUES ('b', 1), ('a', 2)", [('{"a":2,"b":1}',)]),
    (
        (
            "SELECT RATIO_TO_REPORT(column1) OVER (PARTITION BY column2) "
            "FROM VALUES (1, 1), (3, 1), (0, 2) ORDER BY 1"
        ),
        [(Decimal("0.25"),), (Decimal("0.75"),), (None,)],
    ),
    ("CALL CURRENT_DATABASE()", [("FLOWDIST",)]),
]


@pytest.fixture
def session(account: Account) -> Session:
    return account.open_session(
        "FLOWDIST", "ACCOUNTADMIN", database="FLOWDIST", schema="PUBLIC", warehouse="FLOWDIST_WH"
    )


def test_expressions(account: Account, session: Session) -> None:
    found = []
    for text, _ in EXPRESSIONS:
        try:
            ((value,),) = account.execute(session, f"SELECT {text}").rows()
        except SqlError as error:
            value = error.message
        found.append((text, value))
    assert [pair for pair in zip(EXPRESSIONS, found, strict=True) if pair[0] != pair[1]] == []


def test_queries(account: Account, session: Session) -> None:
    found = [(sql, account.execute(session, sql).rows()) for sql, _ in QUERIES]
    assert [pair for pair in zip(QUERIES, found, strict=True) if pair[0] != pair[1]] == []


def test_names_of_columns_are_their_text(account: Account, session: Session) -> None:
    result = account.execute(
        session,
        'SELECT 1+1, count(*), current_role(), x.a, a AS "b", a b FROM (SELECT 1 a) x GROUP BY 4',
    )
    assert [column.name for column in result.columns] == [
        "1+1",
        "COUNT(*)",
        "CURRENT_ROLE()",
        "A",
        "b",
        "B",
    ]


def test_the_session_says_in_which_format_moments_become_text(
    account: Account, session: Session
) -> None:
    values = f"SELECT '2020-03-04'::DATE::VARCHAR, {TZ}::VARCHAR, TO_VARCHAR({NTZ})"
    before = account.execute(session, values).rows()
    account.execute(
        session,
        "ALTER SESSION SET DATE_OUTPUT_FORMAT = 'DD/MM/YYYY' "
        "TIMESTAMP_OUTPUT_FORMAT = 'HH24:MI TZH:TZM' TIMESTAMP_NTZ_OUTPUT_FORMAT = 'AUTO'",
    )
    ((*changed, plain),) = account.execute(session, values).rows()
    assert (changed, plain) == (["04/03/2020", "02:00 +03:00"], before[0][2])
    account.execute(session, "ALTER SESSION UNSET DATE_OUTPUT_FORMAT, TIMESTAMP_OUTPUT_FORMAT")
    assert account.execute(session, values).rows() == before


def test_the_time_of_a_statement_is_one(account: Account, session: Session) -> None:
    sql = "SELECT COUNT(DISTINCT CURRENT_TIMESTAMP()) FROM TABLE(GENERATOR(ROWCOUNT => 1000))"
    assert account.execute(session, sql).rows() == [(1,)]


def test_binds_variables_and_names_in_text(account: Account, session: Session) -> None:
    account.execute(session, "CREATE TABLE t (a INT, b VARCHAR)")
    account.execute(session, "INSERT INTO t VALUES (?, ?)", [1, "x"])
    account.execute(session, "INSERT INTO IDENTIFIER(?) VALUES (2, NULL)", ["t"])
    account.execute(session, "SET name = 'public.t'")
    sql = "SELECT a, IDENTIFIER('b') FROM IDENTIFIER($name) WHERE a < ? OR b IS NULL ORDER BY a"
    assert account.execute(session, sql, [2]).rows() == [(1, "x"), (2, None)]


def test_results_are_read_again(account: Account, session: Session) -> None:
    account.execute(session, "SELECT 1 AS a UNION ALL SELECT 2")
    assert account.execute(
        session, "SELECT SUM(a) FROM TABLE(RESULT_SCAN(LAST_QUERY_ID()))"
    ).rows() == [(3,)]
    account.execute(session, "CREATE TABLE t (a INT)")
    account.execute(session, "CREATE TABLE u (a INT)")
    piped = 'SHOW TABLES ->> SELECT "name" FROM $1 WHERE "name" LIKE \'U%\''
    assert account.execute(session, piped).rows() == [("U",)]
