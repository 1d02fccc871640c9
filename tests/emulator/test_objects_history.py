"""QUERY_HISTORY: what is remembered of statements, who sees it, and how long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from asking import As

from flowdist.clock import ManualClock
from flowdist.emulator import history, queries
from flowdist.emulator.account import Account
from flowdist.emulator.statements import TABLES, Context

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def read(ask: As, name: str = "QUERY_HISTORY", **named: Any) -> list[dict[str, Any]]:
    query, _ = ask.account.query(ask.session, "SELECT * FROM TABLE(QUERY_HISTORY())")
    context = Context(ask.account, ask.session, query)
    answer = TABLES[f"INFORMATION_SCHEMA.{name}"](context, **named)
    ask.account.queries.finish(query, None, None)
    names = [c.name for c in answer.columns]
    return [dict(zip(names, row, strict=True)) for row in answer.rows()]


@pytest.fixture
def ask(account: Account) -> As:
    return As(account)


def test_a_statement_is_remembered_with_its_circumstances(ask: As) -> None:
    ask("ALTER SESSION SET QUERY_TAG = 'nightly'")
    ask.error("DROP SCHEMA nowhere")
    row = next(r for r in read(ask) if r["QUERY_TEXT"] == "DROP SCHEMA nowhere")
    assert row["QUERY_TAG"] == "nightly"
    assert row["QUERY_TYPE"] == "DROP_SCHEMA"
    assert row["EXECUTION_STATUS"] == "FAILED_WITH_ERROR"
    assert row["ERROR_CODE"] == 2003
    assert "does not exist or not authorized" in row["ERROR_MESSAGE"]
    assert (row["USER_NAME"], row["USER_TYPE"]) == ("FLOWDIST", "PERSON")
    assert (row["DATABASE_NAME"], row["WAREHOUSE_SIZE"]) == ("FLOWDIST", "X-Small")
    assert row["START_TIME"] <= row["END_TIME"]


def test_a_running_statement_is_there_and_has_no_end(ask: As) -> None:
    row = read(ask)[0]
    assert row["EXECUTION_STATUS"] == "RUNNING"
    assert row["END_TIME"] == datetime.fromtimestamp(0, UTC)
    ended = {"end_time_range_end": datetime.now(UTC) + timedelta(hours=1)}
    assert "RUNNING" not in {r["EXECUTION_STATUS"] for r in read(ask, **ended)}


def test_a_service_is_a_user_of_its_own(account: Account, ask: As) -> None:
    service = As(account, user="MY_JOB", service="FLOWDIST.PUBLIC.MY_JOB")
    service("USE SCHEMA public")
    (row,) = read(ask, "QUERY_HISTORY_BY_USER", user_name="my_job")
    assert row["USER_TYPE"] == "SNOWFLAKE_SERVICE"
    assert (row["USER_DATABASE_NAME"], row["USER_SCHEMA_NAME"]) == ("FLOWDIST", "PUBLIC")


def test_by_session_and_newest_first(account: Account, ask: As) -> None:
    other = As(account)
    other("USE SCHEMA public")
    other("USE ROLE public")
    texts = [
        r["QUERY_TEXT"] for r in read(ask, "QUERY_HISTORY_BY_SESSION", session_id=other.session.id)
    ]
    assert texts == ["USE ROLE public", "USE SCHEMA public"]
    assert len(read(ask, result_limit=1)) == 1
    with pytest.raises(Exception, match="RESULT_LIMIT"):
        read(ask, result_limit=10_001)


def test_others_see_it_by_way_of_the_warehouse_only(account: Account, ask: As) -> None:
    ask("USE SCHEMA public")
    admin = As(account, "ACCOUNTADMIN")
    admin("CREATE ROLE watcher")
    watcher = As(account, "WATCHER", user="SOMEBODY", warehouse=None)
    assert {r["USER_NAME"] for r in read(watcher)} == {"SOMEBODY"}
    ask("GRANT MONITOR ON WAREHOUSE flowdist_wh TO ROLE watcher")
    assert {r["USER_NAME"] for r in read(watcher)} == {"SOMEBODY", "FLOWDIST"}


def test_history_outlives_the_process_and_seven_days_are_told(tmp_path: Path) -> None:
    clock = ManualClock(start=NOW.timestamp())
    first = Account(tmp_path, clock=clock)
    As(first)("USE SCHEMA public")
    first.close()
    clock.advance(3600)
    again = Account(tmp_path, clock=clock)
    ask = As(again)
    assert "USE SCHEMA public" in [r["QUERY_TEXT"] for r in read(ask)]
    clock.advance(8 * 86_400)
    assert "USE SCHEMA public" not in [r["QUERY_TEXT"] for r in read(ask)]
    with pytest.raises(Exception, match="7 days"):
        read(ask, end_time_range_start=NOW)
    again.close()


def test_the_file_is_bounded(ask: As, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT", 5)
    for _ in range(10):
        ask("USE SCHEMA public")
    assert len(ask.account.history.ended()) == 5


def test_ended_statements_are_forgotten_while_an_older_one_runs(
    account: Account, ask: As, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, _ = account.query(ask.session, "SELECT 1")
    monkeypatch.setattr(queries, "KEPT", 5)
    for _ in range(10):
        ask("USE SCHEMA public")
    kept = account.queries.all()
    assert (len(kept), kept[0]) == (5, running)
    account.queries.finish(running, None, None)
    ask("USE SCHEMA public")
    assert account.queries.find(running.id) is running  # it has ended last


def test_account_usage_is_for_those_with_imported_privileges(account: Account, ask: As) -> None:
    view = TABLES["SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY"]
    query, _ = account.query(ask.session, "SELECT 1")
    with pytest.raises(Exception, match="does not exist or not authorized"):
        view(Context(account, ask.session, query))
    As(account, "ACCOUNTADMIN")(
        "GRANT IMPORTED PRIVILEGES ON DATABASE snowflake TO ROLE flowdist_role"
    )
    shown = view(Context(account, ask.session, query))
    assert [c.name for c in shown.columns][:3] == ["QUERY_ID", "QUERY_TEXT", "DATABASE_ID"]
    at = [c.name for c in shown.columns].index("EXECUTION_STATUS")
    assert {row[at] for row in shown.rows()} == {"SUCCESS"}
