"""Signing in, tokens and their renewal, and what of a session outlives the server."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import snowflake.connector
from emulator_server import Server, served
from snowflake.connector.errors import DatabaseError, ProgrammingError

from flowdist.clock import ManualClock
from flowdist.emulator.account import Account
from flowdist.emulator.errors import SqlError


def one(connection: Any, sql: str) -> Any:
    return connection.cursor().execute(sql).fetchone()[0]


# -- signing in


def test_a_session_begins_where_the_connection_says(server: Server) -> None:
    connection = server.connect(schema="information_schema", role="accountadmin")

    assert connection.database == "FLOWDIST"
    assert connection.schema == "INFORMATION_SCHEMA"
    assert connection.warehouse == "FLOWDIST_WH"
    assert connection.role == "ACCOUNTADMIN"


def test_a_session_begins_with_the_users_defaults(server: Server) -> None:
    connection = server.connect(database=None, schema=None, warehouse=None, role=None)

    assert one(connection, "SELECT CURRENT_SCHEMA()") == "PUBLIC"
    assert one(connection, "SELECT CURRENT_WAREHOUSE()") == "FLOWDIST_WH"
    assert one(connection, "SELECT CURRENT_ROLE()") == "FLOWDIST_ROLE"


def test_what_is_not_there_is_not_current(server: Server) -> None:
    connection = server.connect(database="nowhere")

    assert one(connection, "SELECT CURRENT_DATABASE()") is None


@pytest.mark.parametrize(
    ("changes", "errno"),
    [
        ({"password": "wrong"}, 390100),
        ({"user": "nobody"}, 390100),
        ({"role": "nobodys"}, 390189),
        ({"authenticator": "oauth", "token": "invented", "password": None}, 390303),
    ],
)
def test_who_may_not_sign_in_is_told_why(
    server: Server, changes: dict[str, Any], errno: int
) -> None:
    with pytest.raises(DatabaseError) as failed:
        server.connect(**changes)

    assert failed.value.errno == errno


def test_session_parameters_are_set_from_the_start(server: Server) -> None:
    connection = server.connect(
        session_parameters={"QUERY_TAG": "from the start", "TIMEZONE": "Asia/Tokyo"}
    )

    assert one(connection, "SHOW PARAMETERS LIKE 'QUERY_TAG'") == "QUERY_TAG"
    (session,) = server.account.sessions.values()
    assert session.parameter("QUERY_TAG") == "from the start"
    assert session.parameter("TIMEZONE") == "Asia/Tokyo"


def test_secondary_roles_are_those_of_the_connection(server: Server) -> None:
    server.connect(secondary_roles="all")

    (session,) = server.account.sessions.values()
    assert session.secondary_roles == "ALL"


def test_an_access_token_signs_in_instead_of_a_password(server: Server) -> None:
    cursor = server.connect().cursor()
    name, token = cursor.execute(
        "ALTER USER ADD PROGRAMMATIC ACCESS TOKEN mine ROLE_RESTRICTION = 'ACCOUNTADMIN'"
    ).fetchone()

    by_token = server.connect(
        authenticator="PROGRAMMATIC_ACCESS_TOKEN", token=token, password=None, role=None
    )
    as_password = server.connect(password=token, role=None)

    assert name == "MINE"
    assert by_token.role == "ACCOUNTADMIN"
    assert as_password.role == "ACCOUNTADMIN"
    with pytest.raises(DatabaseError):  # a token for one role is good for no other
        server.connect(password=token, role="FLOWDIST_ROLE")
    cursor.execute("ALTER USER flowdist REMOVE PAT mine")
    with pytest.raises(DatabaseError):
        server.connect(password=token)


def test_a_container_signs_in_with_the_token_in_its_file(server: Server, tmp_path: Path) -> None:
    tokens = server.account.tokens
    file = tmp_path / "token"
    file.write_text(
        tokens.issue_service("FLOWDIST.PUBLIC.WORK", "FLOWDIST_ROLE", "FLOWDIST", "PUBLIC")
    )

    connection = server.connect(
        user=None, password=None, role=None, authenticator="oauth", token_file_path=str(file)
    )

    assert one(connection, "SELECT CURRENT_USER()") == "WORK"
    assert one(connection, "SELECT CURRENT_ROLE()") == "FLOWDIST_ROLE"
    (session,) = server.account.sessions.values()
    assert session.service == "FLOWDIST.PUBLIC.WORK"
    with pytest.raises(DatabaseError):  # only the role of its owner
        server.connect(authenticator="oauth", token=file.read_text(), role="ACCOUNTADMIN")


def test_the_tokens_of_a_container_end_with_its_service(server: Server) -> None:
    tokens = server.account.tokens
    token = tokens.issue_service("FLOWDIST.PUBLIC.WORK", "FLOWDIST_ROLE")
    tokens.revoke_service("FLOWDIST.PUBLIC.WORK")

    with pytest.raises(DatabaseError) as failed:
        server.connect(user=None, password=None, authenticator="oauth", token=token)

    assert failed.value.errno == 390303


# -- tokens


def test_an_expired_token_is_renewed_without_the_user_noticing(server: Server) -> None:
    connection = server.connect()
    session = one(connection, "SELECT CURRENT_SESSION()")

    assert server.account.tokens.expire("session") == 1

    assert one(connection, "SELECT CURRENT_SESSION()") == session


def test_asking_about_a_query_renews_the_token_too(server: Server) -> None:
    cursor = server.connect().cursor()
    cursor.execute_async("SELECT 1")

    server.account.tokens.expire("session")
    cursor.get_results_from_sfqid(cursor.sfqid)

    assert cursor.fetchall() == [(1,)]


def test_without_a_master_token_the_user_has_to_sign_in_again(server: Server) -> None:
    connection = server.connect()
    server.account.tokens.expire("session")
    server.account.tokens.expire("master")

    with pytest.raises(DatabaseError):
        one(connection, "SELECT 1")


def test_the_session_of_a_closed_connection_is_gone(server: Server) -> None:
    connection = server.connect()
    connection.close()

    assert server.account.sessions == {}


def test_tokens_expire_by_the_clock(tmp_path: Path) -> None:
    clock = ManualClock(start=1_700_000_000.0)
    account = Account(tmp_path / "account", clock=clock)
    tokens = account.tokens
    session = account.open_session("FLOWDIST", "FLOWDIST_ROLE")
    pair = tokens.issue(session)
    container = tokens.issue_service("FLOWDIST.PUBLIC.WORK", "FLOWDIST_ROLE")

    clock.advance(pair.validity - 1)
    assert tokens.session_of(pair.session_token) is session
    assert tokens.login_of(container).service == "FLOWDIST.PUBLIC.WORK"
    clock.advance(1)
    assert errno_of(tokens.session_of, pair.session_token) == 390112
    assert errno_of(tokens.login_of, container) == 390318

    _, fresh = tokens.renew(pair.master_token)
    assert tokens.session_of(fresh.session_token) is session
    clock.advance(pair.master_validity)
    assert errno_of(tokens.renew, pair.master_token) == 390114
    assert errno_of(tokens.renew, fresh.session_token) == 390115
    assert errno_of(tokens.session_of, "invented") == 390104
    account.close()


def test_a_session_that_nobody_renews_is_closed(tmp_path: Path) -> None:
    clock = ManualClock(start=1_700_000_000.0)
    account = Account(tmp_path / "account", clock=clock)
    left = account.open_session("FLOWDIST", "FLOWDIST_ROLE")
    account.tokens.issue(left)

    clock.advance(3 * 86400)
    account.tokens.issue(account.open_session("FLOWDIST", "FLOWDIST_ROLE"))

    assert left.id not in account.sessions
    account.close()


def errno_of(function: Callable[..., Any], *arguments: Any) -> int:
    with pytest.raises(SqlError) as failed:
        function(*arguments)
    return failed.value.errno


# -- another server in the same directory


def test_sessions_go_on_after_the_server_was_killed(tmp_path: Path) -> None:
    account = Account(tmp_path / "account")
    server, end = served(account)
    connection = snowflake.connector.connect(**server.parameters())
    cursor = connection.cursor()
    cursor.execute("ALTER SESSION SET QUERY_TAG = 'kept'")
    cursor.execute("SET number = 7")
    cursor.execute("USE SCHEMA information_schema")
    end()
    account.close()

    account = Account(tmp_path / "account")
    _, end = served(account, port=server.port)
    (session,) = account.sessions.values()
    found = cursor.execute("SELECT $number, CURRENT_SCHEMA()").fetchone()
    connection.close()
    end()
    account.close()

    assert found == (7, "INFORMATION_SCHEMA")
    assert session.parameter("QUERY_TAG") == "kept"


def test_a_transaction_that_the_server_took_with_it_cannot_go_on(tmp_path: Path) -> None:
    account = Account(tmp_path / "account")
    server, end = served(account)
    connection = snowflake.connector.connect(**server.parameters())
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE t (n INT)")
    cursor.execute("BEGIN")
    cursor.execute("INSERT INTO t VALUES (1)")
    end()
    account.close()

    account = Account(tmp_path / "account")
    _, end = served(account, port=server.port)
    with pytest.raises(ProgrammingError) as failed:
        cursor.execute("INSERT INTO t VALUES (2)")
    rows = cursor.execute("SELECT n FROM t").fetchall()
    connection.close()
    end()
    account.close()

    assert failed.value.sqlstate == "40000"
    assert rows == []


@pytest.mark.parametrize(
    "value",
    [
        "'2024-02-03 04:05:06.5 +05:30'::TIMESTAMP_TZ",
        "'2024-02-03 04:05:06 +00:00'::TIMESTAMP_TZ",
        "'2024-02-03 04:05:06.5'::TIMESTAMP_NTZ",
        "'2024-02-03'::DATE",
        "'04:05:06'::TIME",
        "TO_BINARY('ab01')",
        "1.50",
        "PARSE_JSON('[1]')",
        "NULL",
    ],
)
def test_a_variable_of_any_type_outlives_the_server(tmp_path: Path, value: str) -> None:
    answers = []
    account = Account(tmp_path / "account")
    session = account.open_session("FLOWDIST", "FLOWDIST_ROLE", warehouse="FLOWDIST_WH")
    account.tokens.issue(session)
    (expected,) = account.execute(session, f"SELECT {value}").rows()
    account.execute(session, f"SET x = (SELECT {value})")
    for _ in range(2):
        account.tokens.save(session)
        answers += account.execute(session, "SELECT $x").rows()
        account.close()
        account = Account(tmp_path / "account")
        session = account.sessions[session.id]
    account.close()

    assert answers == [expected] * 2


def test_a_session_that_cannot_be_read_is_no_more(tmp_path: Path) -> None:
    account = Account(tmp_path / "account")
    lost, kept = (account.open_session("FLOWDIST", "FLOWDIST_ROLE") for _ in range(2))
    pair = account.tokens.issue(lost)
    account.tokens.issue(kept)
    account.close()
    with closing(sqlite3.connect(tmp_path / "account" / "tokens.sqlite")) as file, file:
        file.execute("UPDATE sessions SET json = '{}' WHERE id = ?", (lost.id,))

    account = Account(tmp_path / "account")
    assert list(account.sessions) == [kept.id]
    assert errno_of(account.tokens.session_of, pair.session_token) == 390111
    account.close()
