"""What a statement would answer is said without running it."""

from __future__ import annotations

import pytest
from asking import As
from emulator_server import Server

from flowdist.emulator.account import Account


def described(server: Server, sql: str) -> list[tuple[str, int]]:
    """Names and type codes of the columns that a statement would answer."""
    return [(c.name, c.type_code) for c in server.connect().cursor().describe(sql)]


def test_describing_a_function_that_changes_something_does_not_call_it(server: Server) -> None:
    run = As(server.account)
    run("CREATE TASK t SCHEDULE = '60 MINUTES' AS SELECT 1")
    run("CREATE SEQUENCE s")

    described(server, "SELECT SYSTEM$TASK_DEPENDENTS_ENABLE('t')")
    described(server, "SELECT s.NEXTVAL")

    assert [row["state"] for row in run("SHOW TASKS")] == ["suspended"]
    assert run("SELECT s.NEXTVAL AS n") == [{"N": 1}]


def test_describing_a_function_that_waits_does_not_wait(server: Server) -> None:
    wait = "SELECT SYSTEM$WAIT(3600) AS waited, CURRENT_DATABASE() AS place"
    assert described(server, wait) == [("WAITED", 2), ("PLACE", 2)]


@pytest.mark.parametrize(
    "sql", ["SELECT SYSTEM$WAIT(0) AS a", "SELECT 1 AS a, 'x' AS b, CURRENT_USER() AS c"]
)
def test_what_is_described_is_what_is_answered(server: Server, sql: str) -> None:
    cursor = server.connect().cursor()
    cursor.execute(sql)
    assert described(server, sql) == [(c.name, c.type_code) for c in cursor.description]


def test_a_function_is_called_with_its_own_number_of_arguments(account: Account) -> None:
    assert As(account).error("SELECT SYSTEM$WAIT()").errno == 938
