"""Parameters, variables, and what functions say of the session."""

from __future__ import annotations

import json

import pytest
from asking import As

from flowdist.emulator.account import Account
from flowdist.emulator.queries import Query
from flowdist.emulator.statements import SCALARS, Context


@pytest.fixture
def ask(account: Account) -> As:
    return As(account)


def call(ask: As, name: str, *arguments: object) -> object:
    query, _ = ask.account.query(ask.session, f"SELECT {name}()")
    return SCALARS[name](Context(ask.account, ask.session, query), *arguments)


def shown(ask: As, name: str, scope: str = "") -> tuple[str, str]:
    (row,) = ask(f"SHOW PARAMETERS LIKE '{name}' {scope}")
    return row["value"], row["level"]


def test_set_and_unset(ask: As) -> None:
    assert shown(ask, "QUERY_TAG") == ("", "")
    ask("ALTER SESSION SET QUERY_TAG = 'fit' TIMEZONE = 'Europe/Zurich', AUTOCOMMIT = FALSE")
    assert shown(ask, "QUERY_TAG") == ("fit", "SESSION")
    assert ask.session.parameter("AUTOCOMMIT") is False
    ask("ALTER SESSION UNSET QUERY_TAG, TIMEZONE")
    assert shown(ask, "TIMEZONE") == ("America/Los_Angeles", "")


@pytest.mark.parametrize(
    ("setting", "errno", "words"),
    [
        ("SPEED = 3", 1420, "invalid property 'SPEED' for 'SESSION'"),
        ("AUTOCOMMIT = 'maybe'", 1008, "invalid value [maybe] for parameter 'AUTOCOMMIT'"),
        ("LOCK_TIMEOUT = 'long'", 1008, "'LOCK_TIMEOUT'"),
        ("STATEMENT_TIMEOUT_IN_SECONDS = 604801", 1008, "[604801]"),
        ("TIMEZONE = 'Mars/Olympus'", 1008, "'TIMEZONE'"),
        (f"QUERY_TAG = '{'x' * 2001}'", 1008, "'QUERY_TAG'"),
        # It would change answers, and nothing here does it.
        ("WEEK_START = 1", 2, "not supported by the emulator: WEEK_START = 1"),
        ("TRANSACTION_ABORT_ON_ERROR = TRUE", 2, "TRANSACTION_ABORT_ON_ERROR = true"),
        ("ABORT_DETACHED_QUERY = TRUE", 2, "ABORT_DETACHED_QUERY = true"),
    ],
)
def test_settings_that_are_refused(ask: As, setting: str, errno: int, words: str) -> None:
    refused = ask.error(f"ALTER SESSION SET {setting}")
    assert refused.errno == errno
    assert words in refused.message


def test_a_refused_setting_changes_nothing(ask: As) -> None:
    ask.error("ALTER SESSION SET QUERY_TAG = 'x' SPEED = 3")
    assert shown(ask, "QUERY_TAG") == ("", "")


def test_account_and_user_set_what_sessions_begin_with(account: Account, ask: As) -> None:
    admin = As(account, "ACCOUNTADMIN")
    admin("ALTER ACCOUNT SET TIMEZONE = 'UTC' LOCK_TIMEOUT = 60")
    admin("ALTER USER flowdist SET LOCK_TIMEOUT = 30")
    later = As(account)
    assert shown(later, "TIMEZONE") == ("UTC", "ACCOUNT")
    assert shown(later, "LOCK_TIMEOUT") == ("30", "USER")
    assert shown(later, "LOCK_TIMEOUT", "IN ACCOUNT") == ("60", "ACCOUNT")
    later("ALTER SESSION SET TIMEZONE = 'Asia/Tokyo'")
    assert shown(later, "TIMEZONE") == ("Asia/Tokyo", "SESSION")
    later("ALTER SESSION UNSET TIMEZONE")
    assert later.session.parameter("TIMEZONE") == "UTC"
    assert ask.error("ALTER ACCOUNT SET TIMEZONE = 'UTC'").errno == 3001


def test_the_event_table_is_a_parameter_of_the_account(ask: As) -> None:
    assert shown(ask, "event_table", "IN ACCOUNT")[0] == "SNOWFLAKE.TELEMETRY.EVENTS"
    assert ask("SHOW PARAMETERS LIKE 'event_table'") == []


def test_variables(ask: As) -> None:
    ask("SET n = 1")
    ask("SET Name = 'a b'")
    ask("SET flag = TRUE")
    assert ask.session.variables == {"N": 1, "NAME": "a b", "FLAG": True}
    rows = ask("SHOW VARIABLES LIKE 'n%'")
    assert [(r["name"], r["value"], r["type"]) for r in rows] == [
        ("N", "1", "fixed"),
        ("NAME", "a b", "text"),
    ]
    ask("UNSET n")
    ask("UNSET (name, flag)")
    assert ask("SHOW VARIABLES") == []


def test_a_variable_with_a_time_zone_is_shown_with_it(ask: As) -> None:
    ask("SET seen = (SELECT '2024-01-01 10:00:00 +02:00'::TIMESTAMP_TZ)")

    (row,) = ask("SHOW VARIABLES LIKE 'seen'")

    assert (row["value"], row["type"]) == ("2024-01-01 10:00:00+02:00", "timestamp_tz")
    assert ask("SELECT GETVARIABLE('SEEN') AS v") == [{"V": row["value"]}]


def test_variables_from_expressions(ask: As) -> None:
    ask("SET (a, b) = (1 + 1, 'x' || 'y')")
    assert (ask.session.variables["A"], ask.session.variables["B"]) == (2, "xy")
    ask("SET c = (SELECT $a * 10)")
    assert ask.session.variables["C"] == 20
    assert ask.error("SET (a, b) = (1)").errno == 1003
    assert "too long" in ask.error(f"SET long = '{'x' * 16385}'").message


def test_functions_say_where_the_session_is(account: Account, ask: As) -> None:
    expected = {
        "CURRENT_ACCOUNT": "EMULATOR",
        "CURRENT_USER": "FLOWDIST",
        "CURRENT_ROLE": "FLOWDIST_ROLE",
        "CURRENT_ROLE_TYPE": "ROLE",
        "CURRENT_DATABASE": "FLOWDIST",
        "CURRENT_SCHEMA": "PUBLIC",
        "CURRENT_WAREHOUSE": "FLOWDIST_WH",
        "CURRENT_SESSION": str(ask.session.id),
        "CURRENT_SCHEMAS": '["FLOWDIST.PUBLIC"]',
    }
    assert {name: call(ask, name) for name in expected} == expected
    assert json.loads(str(call(ask, "CURRENT_AVAILABLE_ROLES"))) == [
        "ACCOUNTADMIN",
        "FLOWDIST_ROLE",
        "PUBLIC",
        "SECURITYADMIN",
        "SYSADMIN",
        "USERADMIN",
    ]
    assert call(ask, "IS_ROLE_IN_SESSION", "PUBLIC") is True
    assert call(ask, "IS_ROLE_IN_SESSION", "ACCOUNTADMIN") is False
    ask("USE SECONDARY ROLES ALL")
    assert call(ask, "IS_ROLE_IN_SESSION", "ACCOUNTADMIN") is True
    assert json.loads(str(call(ask, "CURRENT_SECONDARY_ROLES"))) == {
        "roles": "ACCOUNTADMIN",
        "value": "ALL",
    }


def test_what_is_gone_is_not_current(ask: As) -> None:
    other = As(ask.account)
    ask("CREATE DATABASE lab")
    other("USE DATABASE lab")
    ask("DROP DATABASE lab")
    assert call(other, "CURRENT_DATABASE") is None
    assert call(other, "CURRENT_SCHEMA") is None


def test_the_ids_of_earlier_queries(ask: As) -> None:
    ask("USE ROLE flowdist_role")
    ask("USE SCHEMA public")
    first, second = ask.session.query_ids
    assert call(ask, "LAST_QUERY_ID") == call(ask, "LAST_QUERY_ID", -1) == second
    assert call(ask, "LAST_QUERY_ID", -2) == call(ask, "LAST_QUERY_ID", 1) == first
    assert call(ask, "LAST_QUERY_ID", -3) is None


def test_queries_and_sessions_are_ended_by_their_user(account: Account, ask: As) -> None:
    running, _ = account.query(ask.session, "SELECT SYSTEM$WAIT(100)")
    other = As(account, "ACCOUNTADMIN")
    stranger = As(account, "PUBLIC", user="NOBODY")
    with pytest.raises(Exception, match="not found"):
        call(stranger, "SYSTEM$CANCEL_QUERY", running.id)
    assert call(other, "SYSTEM$CANCEL_QUERY", running.id) == f"query [{running.id}] terminated."
    assert running.stop.is_set()
    assert call(other, "SYSTEM$ABORT_SESSION", ask.session.id) == (
        f"session [{ask.session.id}] terminated."
    )
    assert ask.session.id not in account.sessions


def test_all_queries_of_a_session_are_ended(account: Account, ask: As) -> None:
    running: list[Query] = [account.query(ask.session, "SELECT 1")[0] for _ in range(2)]
    assert call(As(account), "SYSTEM$CANCEL_ALL_QUERIES", ask.session.id) == "2 queries cancelled."
    assert all(q.stop.is_set() for q in running)
