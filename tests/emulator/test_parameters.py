"""What is set for a statement, by a warehouse or for a table holds, or is refused."""

from __future__ import annotations

from typing import Any

import pytest
from asking import As
from emulator_server import Server
from snowflake.connector.errors import Error

from flowdist.emulator.account import Account


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"TIMEZONE": "UTC"}, "TIMEZONE = UTC for one statement; ALTER SESSION sets it"),
        ({"LOCK_TIMEOUT": 1}, "LOCK_TIMEOUT = 1 for one statement"),
        ({"SPEED": 3}, "SPEED = 3 for one statement"),
    ],
)
def test_a_parameter_that_a_statement_cannot_have_is_refused(
    server: Server, parameters: dict[str, Any], words: str
) -> None:
    with pytest.raises(Error, match=f"not supported by the emulator: {words}"):
        server.connect().cursor().execute("SELECT 1", _statement_params=parameters)


def test_a_parameter_that_changes_nothing_is_accepted(server: Server) -> None:
    cursor = server.connect().cursor()
    cursor.execute("ALTER SESSION SET TIMEZONE = 'UTC'")
    parameters = {"TIMEZONE": "UTC", "LOCK_TIMEOUT": 43200, "USE_CACHED_RESULT": False}
    assert cursor.execute("SELECT 1", _statement_params=parameters).fetchall() == [(1,)]


@pytest.mark.parametrize(("session", "warehouse"), [(0, 1), (1, 0), (1, 3600), (3600, 1)])
def test_the_smaller_time_out_of_session_and_warehouse_holds(
    server: Server, session: int, warehouse: int
) -> None:
    cursor = server.connect().cursor()
    cursor.execute(f"CREATE WAREHOUSE wh STATEMENT_TIMEOUT_IN_SECONDS = {warehouse}")
    cursor.execute(f"ALTER SESSION SET STATEMENT_TIMEOUT_IN_SECONDS = {session}")
    with pytest.raises(Error, match=r"warehouse timeout of 1 second\(s\)"):
        cursor.execute("SELECT SYSTEM$WAIT(60)")


@pytest.mark.parametrize(
    ("option", "default"),
    [
        ("DATA_RETENTION_TIME_IN_DAYS = 30", "DATA_RETENTION_TIME_IN_DAYS = 1"),
        ("MAX_DATA_EXTENSION_TIME_IN_DAYS = 7", "MAX_DATA_EXTENSION_TIME_IN_DAYS = 14"),
        ("CHANGE_TRACKING = TRUE", "CHANGE_TRACKING = FALSE"),
        ("ENABLE_SCHEMA_EVOLUTION = TRUE", "ENABLE_SCHEMA_EVOLUTION = FALSE"),
    ],
)
def test_an_option_of_a_table_that_has_no_effect_is_refused(
    one_account: Account, option: str, default: str
) -> None:
    run = As(one_account)
    run(f"CREATE OR REPLACE TABLE t (a INT) {default}")
    run(f"ALTER TABLE t SET {default}")
    for sql in (f"CREATE TABLE u (a INT) {option}", f"ALTER TABLE t SET {option}"):
        assert run.error(sql).message == f"not supported by the emulator: {option}"
