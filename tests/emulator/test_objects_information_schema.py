"""INFORMATION_SCHEMA, SHOW OBJECTS, and grants on tables."""

from __future__ import annotations

import pytest
from asking import As

from flowdist.emulator.account import Account


@pytest.fixture
def ask(account: Account) -> As:
    made = As(account)
    made(
        "CREATE TABLE plain "
        "(id INTEGER NOT NULL, note VARCHAR(10) COMMENT 'what', at TIMESTAMP_LTZ)"
    )
    made("CREATE HYBRID TABLE fast (id INTEGER PRIMARY KEY, n NUMBER(10,2) AUTOINCREMENT)")
    made("CREATE VIEW seen AS SELECT id FROM plain")
    made("INSERT INTO plain (id) VALUES (1), (2)")
    return made


def test_tables(ask: As) -> None:
    rows = ask(
        "SELECT table_name, table_type, row_count, is_hybrid, is_transient FROM "
        "INFORMATION_SCHEMA.TABLES WHERE table_schema = 'PUBLIC' ORDER BY table_name"
    )
    assert [tuple(row.values()) for row in rows] == [
        ("FAST", "BASE TABLE", 0, "YES", "NO"),
        ("PLAIN", "BASE TABLE", 2, "NO", "NO"),
        ("SEEN", "VIEW", None, "NO", None),
    ]
    own = ask("SELECT count(*) AS n FROM information_schema.tables WHERE table_name = 'TABLES'")
    assert own[0]["N"] == 1


def test_columns(ask: As) -> None:
    rows = ask(
        "SELECT column_name, data_type, is_nullable, character_maximum_length, numeric_precision, "
        "numeric_scale, datetime_precision, comment FROM INFORMATION_SCHEMA.COLUMNS "
        "WHERE table_name = 'PLAIN' ORDER BY ordinal_position"
    )
    assert [tuple(row.values()) for row in rows] == [
        ("ID", "NUMBER", "NO", None, 38, 0, None, None),
        ("NOTE", "TEXT", "YES", 10, None, None, None, "what"),
        ("AT", "TIMESTAMP_LTZ", "YES", None, None, None, 9, None),
    ]
    (row,) = ask(
        "SELECT is_identity, identity_start, identity_increment, identity_ordered FROM "
        "INFORMATION_SCHEMA.COLUMNS WHERE table_name = 'FAST' AND column_name = 'N'"
    )
    assert tuple(row.values()) == ("YES", "1", "1", "NO")


def test_a_view_is_of_the_database_that_is_named(ask: As) -> None:
    ask("CREATE DATABASE lab")
    ask("CREATE TABLE here (i INTEGER)")
    query = "SELECT table_name FROM {}INFORMATION_SCHEMA.TABLES WHERE table_schema = 'PUBLIC'"
    assert [r["TABLE_NAME"] for r in ask(query.format(""))] == ["HERE"]
    assert "PLAIN" in {r["TABLE_NAME"] for r in ask(query.format("flowdist."))}
    databases = ask("SELECT database_name FROM INFORMATION_SCHEMA.DATABASES ORDER BY 1")
    assert [r["DATABASE_NAME"] for r in databases] == ["FLOWDIST", "LAB", "SNOWFLAKE"]
    schemata = ask("SELECT schema_name FROM flowdist.INFORMATION_SCHEMA.SCHEMATA ORDER BY 1")
    assert [r["SCHEMA_NAME"] for r in schemata] == ["INFORMATION_SCHEMA", "PUBLIC"]


def test_keys_sequences_views_and_stages(ask: As) -> None:
    ask("CREATE SEQUENCE counter START 5 INCREMENT 2")
    ask("CREATE STAGE files COMMENT = 'of all'")
    keys = ask(
        "SELECT table_name, constraint_type, enforced FROM INFORMATION_SCHEMA.TABLE_CONSTRAINTS"
    )
    assert [tuple(r.values()) for r in keys] == [("FAST", "PRIMARY KEY", "YES")]
    sequences = ask(
        "SELECT sequence_name, start_value, increment FROM INFORMATION_SCHEMA.SEQUENCES"
    )
    assert [tuple(r.values()) for r in sequences] == [("COUNTER", "5", "2")]
    views = ask(
        "SELECT table_name FROM INFORMATION_SCHEMA.VIEWS WHERE table_schema <> 'INFORMATION_SCHEMA'"
    )
    assert [r["TABLE_NAME"] for r in views] == ["SEEN"]
    stages = ask("SELECT stage_name, stage_type, comment FROM INFORMATION_SCHEMA.STAGES")
    assert [tuple(r.values()) for r in stages] == [("FILES", "Internal Named", "of all")]


def test_roles(ask: As) -> None:
    enabled = ask("SELECT role_name FROM INFORMATION_SCHEMA.ENABLED_ROLES ORDER BY 1")
    assert [r["ROLE_NAME"] for r in enabled] == ["FLOWDIST_ROLE", "PUBLIC"]
    applicable = ask(
        "SELECT grantee, role_name FROM INFORMATION_SCHEMA.APPLICABLE_ROLES "
        "WHERE grantee = 'FLOWDIST' ORDER BY 2"
    )
    assert [r["ROLE_NAME"] for r in applicable] == ["ACCOUNTADMIN", "FLOWDIST_ROLE"]


def test_show_objects(ask: As) -> None:
    shown = ask("SHOW OBJECTS")
    assert [(r["name"], r["kind"], r["rows"], r["is_hybrid"]) for r in shown] == [
        ("FAST", "TABLE", 0, "Y"),
        ("PLAIN", "TABLE", 2, "N"),
        ("SEEN", "VIEW", None, "N"),
    ]
    assert [r["name"] for r in ask("SHOW TERSE OBJECTS LIKE 's%' IN DATABASE flowdist")] == ["SEEN"]
    assert [r["kind"] for r in ask("DESCRIBE SCHEMA public")] == ["TABLE", "TABLE", "VIEW"]


def test_tables_are_granted_and_given(account: Account, ask: As) -> None:
    admin = As(account, "ACCOUNTADMIN")
    admin("CREATE ROLE reader")
    ask("GRANT USAGE ON DATABASE flowdist TO ROLE reader")
    ask("GRANT USAGE ON SCHEMA public TO ROLE reader")
    reader = As(account, "READER", user="NOBODY")
    assert reader("SHOW OBJECTS") == []
    ask("GRANT SELECT ON ALL TABLES IN SCHEMA public TO ROLE reader")
    assert [r["name"] for r in reader("SHOW OBJECTS")] == ["FAST", "PLAIN"]
    admin("GRANT SELECT, INSERT ON FUTURE TABLES IN SCHEMA flowdist.public TO ROLE reader")
    ask("CREATE TABLE later (i INTEGER)")
    granted = {(r["privilege"], r["name"]) for r in admin("SHOW GRANTS TO ROLE reader")}
    assert ("INSERT", "FLOWDIST.PUBLIC.LATER") in granted
    assert ("INSERT", "FLOWDIST.PUBLIC.PLAIN") not in granted
    ask("GRANT OWNERSHIP ON TABLE plain TO ROLE reader COPY CURRENT GRANTS")
    (info,) = [t for t in account.engine.tables() if t.name.name == "PLAIN"]
    assert info.owner == "READER"


def test_a_table_is_required(account: Account, ask: As) -> None:
    admin = As(account, "ACCOUNTADMIN")
    admin("CREATE ROLE reader")
    reader = As(account, "READER", user="NOBODY")
    (info,) = [t for t in account.engine.tables() if t.name.name == "PLAIN"]
    with pytest.raises(Exception, match=r"Object 'FLOWDIST\.PUBLIC\.PLAIN' does not exist"):
        account.access.require_table(reader.session, "SELECT", info)
    ask("GRANT USAGE ON DATABASE flowdist TO ROLE reader")
    ask("GRANT USAGE ON SCHEMA public TO ROLE reader")
    ask("GRANT SELECT ON TABLE plain TO ROLE reader")
    account.access.require_table(reader.session, "SELECT", info)
    with pytest.raises(Exception, match="Insufficient privileges to operate on table 'PLAIN'"):
        account.access.require_table(reader.session, "INSERT", info)


def test_a_dropped_schema_takes_its_tables(account: Account, ask: As) -> None:
    ask("CREATE SCHEMA brief")
    ask("CREATE TABLE gone (i INTEGER)")
    assert "not supported" in ask.error("ALTER SCHEMA brief RENAME TO other").message
    ask("DROP SCHEMA brief")
    assert account.engine.tables("FLOWDIST", "BRIEF") == []
    ask("CREATE SCHEMA brief")
    assert ask("SHOW OBJECTS") == []


def test_tables_are_read_with_a_warehouse_only(ask: As) -> None:
    ask.session.warehouse = None
    assert ask("SELECT 1 AS one") == [{"ONE": 1}]
    assert [r["name"] for r in ask("SHOW OBJECTS LIKE 'p%'")] == ["PLAIN"]
    for statement in ("SELECT * FROM plain", "DELETE FROM plain"):
        refused = ask.error(statement)
        assert (refused.errno, refused.sqlstate) == (606, "57P03")
    ask("USE WAREHOUSE flowdist_wh")
    ask("DELETE FROM plain")


def test_privileges_of_statements(account: Account, ask: As) -> None:
    admin = As(account, "ACCOUNTADMIN")
    admin("CREATE ROLE reader")
    for grant in ("DATABASE flowdist", "SCHEMA public", "WAREHOUSE flowdist_wh"):
        ask(f"GRANT USAGE ON {grant} TO ROLE reader")
    reader = As(account, "READER", user="NOBODY")
    hidden = reader.error("SELECT * FROM plain")
    assert (hidden.errno, hidden.sqlstate) == (2003, "42S02")
    ask("GRANT SELECT ON TABLE plain TO ROLE reader")
    assert len(reader("SELECT id FROM plain")) == 2
    assert reader.error("INSERT INTO plain (id) VALUES (3)").errno == 3001
    assert reader.error("CREATE TABLE other (i INTEGER)").errno == 3001
