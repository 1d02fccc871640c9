"""Databases, schemas and warehouses, and USE."""

from __future__ import annotations

import pytest
from asking import As

from flowdist.emulator.account import Account


@pytest.fixture
def ask(account: Account) -> As:
    return As(account)


def test_a_database_brings_public_and_becomes_the_sessions(ask: As) -> None:
    assert (
        ask.status("CREATE DATABASE lab COMMENT = 'mine'") == "Database LAB successfully created."
    )
    assert (ask.session.database, ask.session.schema) == ("LAB", "PUBLIC")
    names = [r["name"] for r in ask("SHOW SCHEMAS")]
    assert names == ["INFORMATION_SCHEMA", "PUBLIC"]
    assert [r["name"] for r in ask("DESCRIBE DATABASE lab")] == names


def test_create_says_what_was_there(ask: As) -> None:
    ask("CREATE SCHEMA s")
    again = ask.error("CREATE SCHEMA s")
    assert (again.errno, again.sqlstate) == (2002, "42710")
    assert ask.status("CREATE SCHEMA IF NOT EXISTS s") == "S already exists, statement succeeded."
    assert ask.status("CREATE OR REPLACE SCHEMA s") == "Schema S successfully created."
    assert ask.error("CREATE SCHEMA nowhere.s").errno == 2003


def test_drop_takes_all_that_is_inside(account: Account, ask: As) -> None:
    ask("CREATE DATABASE lab")
    ask("CREATE SCHEMA s")
    ask("CREATE NETWORK RULE out TYPE=HOST_PORT MODE=EGRESS VALUE_LIST=('example.com')")
    assert ask.status("DROP DATABASE lab") == "LAB successfully dropped."
    assert list(account.catalog.inside("LAB")) == []
    assert (ask.session.database, ask.session.schema) == (None, None)
    assert ask.error("DROP DATABASE lab").errno == 2003
    assert ask.status("DROP DATABASE IF EXISTS lab") == (
        "Drop statement executed successfully (LAB already dropped)."
    )


def test_a_session_without_a_database_says_so(ask: As) -> None:
    ask.session.database = ask.session.schema = None
    assert ask.error("CREATE SCHEMA s").errno == 90105


def test_quoted_names_keep_their_case(ask: As) -> None:
    ask('CREATE SCHEMA "my schema"')
    assert ask.session.schema == "my schema"
    assert ask.status('DROP SCHEMA "my schema"') == '"my schema" successfully dropped.'


def test_use(ask: As) -> None:
    ask("CREATE DATABASE lab")
    ask("CREATE SCHEMA s")
    ask("USE flowdist")
    assert (ask.session.database, ask.session.schema) == ("FLOWDIST", "PUBLIC")
    ask("USE lab.s")
    assert (ask.session.database, ask.session.schema) == ("LAB", "S")
    ask("USE SCHEMA public")
    assert ask.session.schema == "PUBLIC"
    ask("USE WAREHOUSE IDENTIFIER('flowdist_wh')")
    for missing in ("USE DATABASE no", "USE SCHEMA no", "USE WAREHOUSE no", "USE lab.no"):
        assert ask.error(missing).errno == 2043


def test_an_empty_schema_can_be_renamed(ask: As) -> None:
    ask("CREATE SCHEMA old")
    ask("ALTER SCHEMA old RENAME TO new")
    assert ask.session.schema == "NEW"
    ask("CREATE NETWORK RULE out TYPE=HOST_PORT MODE=EGRESS VALUE_LIST=('example.com')")
    refused = ask.error("ALTER SCHEMA new RENAME TO newer")
    assert "not supported by the emulator" in refused.message


def test_comment_and_days(ask: As) -> None:
    ask("ALTER SCHEMA public SET COMMENT = 'here' DATA_RETENTION_TIME_IN_DAYS = 7")
    shown = ask("SHOW SCHEMAS LIKE 'public'")[0]
    assert (shown["comment"], shown["retention_time"]) == ("here", "7")
    assert ask("SHOW PARAMETERS IN SCHEMA public")[0]["value"] == "7"
    ask("ALTER SCHEMA public UNSET COMMENT")
    ask("COMMENT ON DATABASE flowdist IS 'all of it'")
    assert ask("SHOW DATABASES LIKE 'flowdist'")[0]["comment"] == "all of it"


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE DATABASE lab CLONE flowdist",
        "CREATE DATABASE lab FROM SHARE a.b",
        "CREATE SCHEMA s WITH MANAGED ACCESS",
        "DROP SCHEMA public RESTRICT",
        "UNDROP DATABASE lab",
        "ALTER DATABASE flowdist SWAP WITH lab",
    ],
)
def test_what_is_not_there_is_refused_with_its_words(ask: As, statement: str) -> None:
    refused = ask.error(statement)
    assert refused.message.startswith("not supported by the emulator: ")
    assert refused.message.split()[-1].lower() in statement.lower()


def test_show_schemas_of_other_scopes(ask: As) -> None:
    ask("CREATE DATABASE lab")
    names = {(r["database_name"], r["name"]) for r in ask("SHOW SCHEMAS IN ACCOUNT")}
    assert {("LAB", "PUBLIC"), ("FLOWDIST", "PUBLIC"), ("SNOWFLAKE", "SPCS")} <= names
    assert {r["database_name"] for r in ask("SHOW SCHEMAS IN flowdist")} == {"FLOWDIST"}
    assert [r["name"] for r in ask("SHOW TERSE DATABASES LIKE 'l%'")] == ["LAB"]
    assert [r["name"] for r in ask("SHOW DATABASES STARTS WITH 'F' LIMIT 1")] == ["FLOWDIST"]


def test_warehouses(ask: As) -> None:
    ask("CREATE WAREHOUSE wh WITH WAREHOUSE_SIZE = 'X-Large' AUTO_SUSPEND = NULL")
    assert ask.session.warehouse == "WH"
    shown = ask("SHOW WAREHOUSES LIKE 'wh'")[0]
    assert (shown["size"], shown["state"], shown["auto_suspend"]) == ("X-Large", "STARTED", None)
    ask("ALTER WAREHOUSE wh SET WAREHOUSE_SIZE = SMALL, COMMENT = 'less'")
    ask("ALTER WAREHOUSE SUSPEND")
    shown = ask("SHOW WAREHOUSES LIKE 'wh'")[0]
    assert (shown["size"], shown["state"], shown["comment"]) == ("Small", "SUSPENDED", "less")
    assert ask.error("ALTER WAREHOUSE wh SUSPEND").errno == 90064
    ask("ALTER WAREHOUSE wh RESUME IF SUSPENDED")
    ask("ALTER WAREHOUSE wh RESUME IF SUSPENDED")
    assert ask.error("ALTER WAREHOUSE wh RESUME").errno == 90063
    assert ask.columns("DESCRIBE WAREHOUSE wh") == ["created_on", "name", "kind"]
    ask("DROP WAREHOUSE wh")
    assert ask.session.warehouse is None


@pytest.mark.parametrize(
    ("statement", "errno"),
    [
        ("CREATE WAREHOUSE w WAREHOUSE_SIZE = HUGE", 1008),
        ("CREATE WAREHOUSE w AUTO_SUSPEND = -1", 1008),
        ("CREATE WAREHOUSE w SPEED = 3", 1003),
        ("ALTER WAREHOUSE flowdist_wh SET SPEED = 3", 1420),
        ("CREATE WAREHOUSE w RESOURCE_MONITOR = m", 2),
        ("CREATE WAREHOUSE flowdist_wh", 2002),
    ],
)
def test_warehouses_that_are_refused(ask: As, statement: str, errno: int) -> None:
    assert ask.error(statement).errno == errno
