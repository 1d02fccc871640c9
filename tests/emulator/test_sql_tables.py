"""Tables, views and sequences: making, changing, showing and describing them; DML on them."""

from __future__ import annotations

from typing import Any

import pytest

from flowdist.emulator.account import Account
from flowdist.emulator.errors import SqlError
from flowdist.emulator.result import Kind, Result
from flowdist.emulator.session import Session


@pytest.fixture
def session(account: Account) -> Session:
    return account.open_session(
        "FLOWDIST", "ACCOUNTADMIN", database="FLOWDIST", schema="PUBLIC", warehouse="FLOWDIST_WH"
    )


@pytest.fixture
def run(account: Account, session: Session) -> Any:
    return lambda sql, *binds: account.execute(session, sql, binds).rows()


def records(result: Result) -> list[dict[str, Any]]:
    names = [column.name for column in result.columns]
    return [dict(zip(names, row, strict=True)) for row in result.rows()]


def test_dml_says_how_many_rows_it_has_changed(account: Account, session: Session) -> None:
    account.execute(session, "CREATE TABLE t (a INT, b INT)")
    for sql, kind, names, numbers in (
        ("INSERT INTO t VALUES (1, 1), (2, 2)", Kind.INSERT, ["inserted"], (2,)),
        ("UPDATE t SET b = 5 WHERE a = 1", Kind.UPDATE, ["updated", "updated"], (1, 0)),
        (
            (
                "MERGE INTO t USING (SELECT 2 AS a UNION ALL SELECT 9) s ON t.a = s.a "
                "WHEN MATCHED THEN UPDATE SET b = 7 WHEN NOT MATCHED THEN INSERT (a) VALUES (s.a)"
            ),
            Kind.MERGE,
            ["inserted", "updated"],
            (1, 1),
        ),
        ("DELETE FROM t USING (SELECT 9 AS x) s WHERE t.a = s.x", Kind.DELETE, ["deleted"], (1,)),
        ("INSERT OVERWRITE INTO t SELECT 3, 3", Kind.INSERT, ["inserted"], (1,)),
    ):
        result = account.execute(session, sql)
        assert result.kind is kind
        assert [column.name.split()[-1] for column in result.columns] == names
        assert result.rows() == [numbers]
    assert account.execute(session, "SELECT * FROM t").rows() == [(3, 3)]


def test_update_from_another_table(run: Any) -> None:
    run("CREATE TABLE t (a INT, b INT)")
    run("INSERT INTO t VALUES (1, 0), (2, 0)")
    run("UPDATE t x SET b = s.v + x.a FROM (SELECT 1 AS k, 10 AS v) s WHERE x.a = s.k")
    assert run("SELECT b FROM t ORDER BY a") == [(11,), (0,)]


@pytest.mark.parametrize("kind", ["TABLE", "HYBRID TABLE"])
def test_several_source_rows_for_one_target_row(run: Any, kind: str) -> None:
    run(f"CREATE {kind} t2 (id INT PRIMARY KEY, v INT)")
    run("INSERT INTO t2 VALUES (1, 1), (2, 2)")
    source = "(SELECT column1 AS id, column2 AS v FROM VALUES (1, 5), (1, 6), (2, 7)) AS s"
    assert run(f"UPDATE t2 SET v = s.v FROM {source} WHERE t2.id = s.id") == [(2, 1)]
    merge = f"MERGE INTO t2 USING {source} ON t2.id = s.id WHEN NOT MATCHED THEN INSERT VALUES"
    merge = f"{merge} (s.id, ?) WHEN MATCHED AND s.v"
    for whens in (
        "> 0 THEN UPDATE SET v = ?",
        "= 5 THEN UPDATE SET v = ? WHEN MATCHED THEN DELETE",
    ):
        with pytest.raises(SqlError) as error:
            run(f"{merge} {whens}", 0, 10)
        assert (error.value.errno, error.value.sqlstate) == (100090, "42P18")
    assert run(f"{merge} >= ? THEN UPDATE SET v = ?", 0, 6, 10) == [(0, 2)]
    assert run(f"{merge} = 5 THEN DELETE", 0) == [(0, 1)]
    assert run("SELECT id, v FROM t2") == [(2, 10)]


def test_defaults_are_put_in(run: Any) -> None:
    run("CREATE SEQUENCE seq START 5 INCREMENT 5")
    run(
        "CREATE TABLE t (id INT AUTOINCREMENT START 10 INCREMENT 2, a VARCHAR DEFAULT 'x', "
        "b INT DEFAULT 1 + 1, c TIMESTAMP_NTZ DEFAULT CURRENT_TIMESTAMP(), "
        "d VARCHAR DEFAULT UUID_STRING(), e INT DEFAULT seq.NEXTVAL)"
    )
    run("INSERT INTO t (a) VALUES ('y'), (DEFAULT)")
    run("INSERT INTO t (a) SELECT 'z'")
    assert run("SELECT id, a, b, e FROM t ORDER BY id") == [
        (10, "y", 2, 5),
        (12, "x", 2, 10),
        (14, "z", 2, 15),
    ]
    assert run("SELECT COUNT(DISTINCT d), COUNT(c) FROM t") == [(3, 3)]


def test_standard_tables_do_not_enforce_keys(run: Any) -> None:
    run("CREATE TABLE t (a INT PRIMARY KEY, b INT UNIQUE)")
    run("INSERT INTO t VALUES (1, 1), (1, 1)")
    assert run("SELECT COUNT(*) FROM t") == [(2,)]
    with pytest.raises(SqlError) as error:
        run("INSERT INTO t VALUES (NULL, 1)")
    assert error.value.errno == 100072


def test_hybrid_tables_enforce_keys(run: Any) -> None:
    run("CREATE HYBRID TABLE t (a INT, b VARCHAR, c INT UNIQUE, PRIMARY KEY (a, b), INDEX i (c))")
    run("INSERT INTO t VALUES (1, 'x', 1)")
    for row in ("(1, 'x', 2)", "(2, 'x', 1)"):
        with pytest.raises(SqlError) as error:
            run(f"INSERT INTO t VALUES {row}")
        assert error.value.errno == 200001
    run("UPDATE t SET a = 5 WHERE a = 1")
    run("INSERT INTO t VALUES (1, 'x', 2)")
    assert run("SELECT a FROM t ORDER BY a") == [(1,), (5,)]


def test_show_and_describe(account: Account, session: Session, run: Any) -> None:
    run("CREATE TABLE s (a INT NOT NULL COMMENT 'first', b VARCHAR(5) DEFAULT 'x') COMMENT = 'c'")
    run("CREATE HYBRID TABLE h (id INT PRIMARY KEY, v VARCHAR, INDEX by_v (v) INCLUDE (id))")
    run("CREATE VIEW w (x) AS SELECT a FROM s")
    tables = records(account.execute(session, "SHOW TABLES"))
    assert [(t["name"], t["kind"], t["is_hybrid"], t["rows"]) for t in tables] == [
        ("H", "TABLE", "Y", 0),
        ("S", "TABLE", "N", 0),
    ]
    (hybrid,) = records(account.execute(session, "SHOW HYBRID TABLES LIKE 'h%' IN SCHEMA public"))
    assert (hybrid["name"], hybrid["owner"]) == ("H", "ACCOUNTADMIN")
    (view,) = records(account.execute(session, "SHOW VIEWS"))
    assert (view["name"], view["text"]) == ("W", "CREATE VIEW w (x) AS SELECT a FROM s")
    columns = records(account.execute(session, "DESC TABLE s"))
    assert [(c["name"], c["type"], c["null?"], c["default"], c["comment"]) for c in columns] == [
        ("A", "NUMBER(38,0)", "N", None, "first"),
        ("B", "VARCHAR(5)", "Y", "'x'", None),
    ]
    assert [c["name"] for c in records(account.execute(session, "DESCRIBE VIEW w"))] == ["X"]
    (key,) = records(account.execute(session, "SHOW PRIMARY KEYS IN TABLE h"))
    assert (key["column_name"], key["key_sequence"]) == ("ID", 1)
    indexes = records(account.execute(session, "SHOW INDEXES IN TABLE h"))
    assert [(i["name"], i["is_unique"], i["columns"], i["included_columns"]) for i in indexes] == [
        ("SYS_INDEX_H_PRIMARY", "Y", "[ID]", "[]"),
        ("BY_V", "N", "[V]", "[ID]"),
    ]
    run("DROP INDEX h.by_v")
    assert len(run("SHOW INDEXES IN TABLE h")) == 1


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("VARCHAR(4) NOT NULL DEFAULT 'it''s'", "'it''s'"),
        ("INT NOT NULL DEFAULT 3", "3"),
        ("NUMBER(5, 2) DEFAULT 1.5", "1.5"),
        ("BINARY NOT NULL DEFAULT TO_BINARY('0A27')", "TO_BINARY('0A27')"),
        (
            "TIMESTAMP_TZ NOT NULL DEFAULT '2024-01-01 00:00:00 +01:00'::TIMESTAMP_TZ",
            "'2024-01-01 00:00:00 +01:00'::TIMESTAMP_TZ",
        ),
        ("TIMESTAMP_LTZ NOT NULL DEFAULT CURRENT_TIMESTAMP()", None),
    ],
)
@pytest.mark.parametrize("kind", ["TABLE", "HYBRID TABLE"])
def test_a_column_is_added_with_a_value_for_the_rows_that_there_are(
    run: Any, kind: str, column: str, value: str | None
) -> None:
    run(f"CREATE {kind} t (a INT PRIMARY KEY)")
    run("INSERT INTO t VALUES (1), (2)")
    run(f"ALTER TABLE t ADD COLUMN b {column}")
    run("INSERT INTO t (a) VALUES (3)")
    equal = f"b = {value}" if value else "b > DATEADD(hour, -1, CURRENT_TIMESTAMP())"
    assert run(f"SELECT a FROM t WHERE {equal} ORDER BY a") == [(1,), (2,), (3,)]
    if "NOT NULL" in column:
        with pytest.raises(SqlError, match="non-nullable"):
            run("INSERT INTO t VALUES (4, NULL)")


def test_a_column_without_a_value_cannot_be_added_to_rows_that_need_one(run: Any) -> None:
    run("CREATE TABLE t (a INT)")
    run("INSERT INTO t VALUES (1)")
    with pytest.raises(SqlError, match="non-nullable"):
        run("ALTER TABLE t ADD COLUMN b INT NOT NULL")
    assert run("SELECT * FROM t") == [(1,)]


def test_tables_are_altered(run: Any) -> None:
    run("CREATE TABLE t (a INT)")
    run("INSERT INTO t VALUES (1)")
    run("ALTER TABLE t ADD COLUMN b VARCHAR DEFAULT 'x', c TIMESTAMP_TZ")
    run("ALTER TABLE t RENAME COLUMN a TO id")
    run("ALTER TABLE t DROP COLUMN c")
    run("ALTER TABLE t ADD COLUMN IF NOT EXISTS b INT")
    run("ALTER TABLE t SET COMMENT = 'new'")
    run("ALTER TABLE t RENAME TO u")
    assert run("SELECT id, b FROM u") == [(1, "x")]
    run("CREATE SCHEMA other")
    run("ALTER TABLE public.u RENAME TO other.u")
    assert run("SELECT * FROM flowdist.other.u") == [(1, "x")]
    with pytest.raises(SqlError):
        run("SELECT * FROM public.u")


def test_tables_are_replaced_copied_and_dropped(run: Any) -> None:
    run("CREATE TABLE t AS SELECT 1 AS a, 'x' AS b")
    run("CREATE OR REPLACE TABLE t (z INT) AS SELECT a + 1 FROM (SELECT 1 AS a)")
    assert run("SELECT z FROM t") == [(2,)]
    run("CREATE TABLE u LIKE t")
    assert run("SELECT COUNT(*) FROM u") == [(0,)]
    assert run("CREATE TABLE IF NOT EXISTS u (a INT)") == [
        ("U already exists, statement succeeded.",)
    ]
    run("TRUNCATE TABLE t")
    assert run("SELECT COUNT(*) FROM t") == [(0,)]
    assert run("DROP TABLE t") == [("T successfully dropped.",)]
    assert run("DROP TABLE IF EXISTS t") == [
        ("Drop statement executed successfully (T already dropped).",)
    ]


def test_temporary_tables_are_their_sessions_own(account: Account, run: Any) -> None:
    run("CREATE TABLE t (a INT)")
    run("CREATE TEMPORARY TABLE t (b INT)")
    run("INSERT INTO t VALUES (5)")
    other = account.open_session(
        "FLOWDIST", "ACCOUNTADMIN", database="FLOWDIST", schema="PUBLIC", warehouse="FLOWDIST_WH"
    )
    assert run("SELECT b FROM t") == [(5,)]
    assert account.execute(other, "SELECT a FROM t").rows() == []
    run("DROP TABLE t")
    assert run("SELECT a FROM t") == []


def test_views_keep_their_meaning(run: Any) -> None:
    run("CREATE TABLE t (a INT)")
    run("CREATE VIEW v AS SELECT a, CURRENT_ROLE() AS r FROM t WHERE a > 1")
    run("INSERT INTO t VALUES (1), (2)")
    run("CREATE SCHEMA elsewhere")
    assert run("SELECT x.a, x.r FROM public.v x") == [(2, "ACCOUNTADMIN")]
    run("CREATE OR REPLACE VIEW public.v AS SELECT 1 AS one")
    assert run("SELECT * FROM public.v") == [(1,)]
    run("DROP VIEW public.v")


def test_sequences_count(run: Any) -> None:
    run("CREATE SEQUENCE s START 10 INCREMENT -5")
    assert run("SELECT s.NEXTVAL, public.s.NEXTVAL") == [(10, 5)]
    assert run("SHOW SEQUENCES")[0][3:5] == (0, -5)
    run("DROP SEQUENCE s")


def test_a_role_needs_privileges_on_tables(account: Account, run: Any) -> None:
    run("CREATE TABLE t (a INT)")
    run("CREATE ROLE reader")
    run("GRANT ROLE reader TO USER FLOWDIST")
    run("GRANT USAGE ON DATABASE flowdist TO ROLE reader")
    run("GRANT USAGE ON SCHEMA flowdist.public TO ROLE reader")
    run("GRANT USAGE ON WAREHOUSE flowdist_wh TO ROLE reader")
    other = account.open_session(
        "FLOWDIST", "READER", database="FLOWDIST", schema="PUBLIC", warehouse="FLOWDIST_WH"
    )
    with pytest.raises(SqlError) as error:
        account.execute(other, "SELECT * FROM t")
    assert error.value.errno == 2003
    run("GRANT SELECT ON TABLE t TO ROLE reader")
    assert account.execute(other, "SELECT * FROM t").rows() == []
    with pytest.raises(SqlError) as error:
        account.execute(other, "INSERT INTO t VALUES (1)")
    assert error.value.errno == 3001
