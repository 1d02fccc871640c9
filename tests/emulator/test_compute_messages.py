"""What statements about pools and jobs answer, and how they are refused, as a user reads it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from emulator_server import Server
from fake_runtime import Lab, spec

from flowdist.emulator.errors import SqlError

JOB = "EXECUTE JOB SERVICE IN COMPUTE POOL p NAME=j ASYNC=TRUE "


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """For statements that change nothing."""
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def refusal(act: Callable[..., Any], *arguments: Any) -> SqlError:
    """The error that something has to end with."""
    with pytest.raises(SqlError) as error:
        act(*arguments)
    return error.value


def test_the_status_of_a_pool_is_json(shared: Lab) -> None:
    status = json.loads(shared.call("SYSTEM$GET_COMPUTE_POOL_STATUS", "p"))
    assert status == {"status": "IDLE", "message": ""}
    assert refusal(shared.call, "SYSTEM$GET_COMPUTE_POOL_STATUS", "nowhere").errno == 2003


def test_what_is_too_large_for_a_node_is_told_with_what_was_requested(shared: Lab) -> None:
    message = refusal(shared.sql, JOB + spec(memory="20Gi", cpu=2)).message
    assert "requests 2 vCPU, 20 GiB of memory, 0 GPU, more than a node" in message
    assert "has: 3 vCPU, 13 GiB of memory, 0 GPU." in message


def test_a_job_may_be_cancelled_twice_and_its_container_does_not_look_crashed(lab: Lab) -> None:
    lab.runtime.obeys = 5.0
    lab.job()
    lab.tick()
    first = lab.call("!SPCS_CANCEL_JOB", "j")
    assert lab.call("!SPCS_CANCEL_JOB", "j") == first
    lab.tick()
    lab.tick(5)
    (container,) = lab.containers()
    assert (lab.status(), container["last_exit_code"]) == ("CANCELLED", 143)
    assert container["message"] == "Stopped since the job was cancelled"
    assert "already in a terminal state: CANCELLED" in lab.call("!SPCS_CANCEL_JOB", "j")


@pytest.mark.parametrize(
    ("verb", "text"),
    [
        ("DESCRIBE", "DESC SERVICE j"),
        ("SHOW", "SHOW SERVICE CONTAINERS IN SERVICE j"),
        ("EXECUTE JOB SERVICE", JOB + spec()),
        ("EXECUTE JOB SERVICE", JOB + "FROM @specs SPECIFICATION_FILE='a.yaml'"),
        ("CALL", "CALL SYSTEM$GET_SERVICE_LOGS('j', 0, 'main')"),
        ("SELECT", "SELECT SYSTEM$GET_SERVICE_LOGS('j', 0, 'main')"),
    ],
)
def test_without_a_schema_the_error_names_the_statement(shared: Lab, verb: str, text: str) -> None:
    session = shared.account.open_session("FLOWDIST", "FLOWDIST_ROLE", database="FLOWDIST")
    assert session.schema is None
    error = refusal(shared.account.execute, session, text, ())
    assert error.message.startswith(f"Cannot perform {verb}. This session does not have a current")


def test_snowflake_sets_its_own_variables(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    env = {"SNOWFLAKE_HOST": "x", "SNOWFLAKE_JOB_INDEX": "7", "MINE": "y"}
    with caplog.at_level(logging.WARNING):
        lab.sql(JOB + spec().replace('"image"', f'"env": {json.dumps(env)}, "image"'))
        lab.tick()
    found = lab.runtime.launches[0].env
    assert [found[name] for name in env] == ["127.0.0.1", "7", "y"]
    assert "its own value for SNOWFLAKE_HOST" in caplog.text
    assert "JOB_INDEX" not in caplog.text


def test_pools_jobs_and_tasks_may_be_commented_on(lab: Lab) -> None:
    lab.job()
    lab.sql("CREATE TASK t SCHEDULE='1 HOUR' AS SELECT 1")
    for what in ("COMPUTE POOL p", "SERVICE j", "TASK t"):
        lab.sql(f"COMMENT ON {what} IS 'seen'")
        assert lab.one(f"DESCRIBE {what}")["comment"] == "seen"


@pytest.mark.parametrize("kind", ["TASK t", "COMPUTE POOL p"])
def test_parameters_of_objects_that_have_none_here_are_refused(shared: Lab, kind: str) -> None:
    error = refusal(shared.sql, f"SHOW PARAMETERS IN {kind}")
    assert (error.errno, error.sqlstate) == (2, "0A000")
    assert "not supported by the emulator" in error.message


def test_errors_of_statements_reach_the_client_with_their_query(server: Server) -> None:
    import snowflake.connector

    cursor = server.connect().cursor()
    cursor.execute("CREATE COMPUTE POOL p MIN_NODES=1 MAX_NODES=1 INSTANCE_FAMILY=CPU_X64_XS")
    for errno, sqlstate, text in (
        (391403, "42601", "CREATE HYBRID TABLE h (n INT)"),
        (395018, "22023", f"{JOB} FROM SPECIFICATION 'a: 1'"),
    ):
        with pytest.raises(snowflake.connector.errors.ProgrammingError) as failed:
            cursor.execute(text)
        assert (failed.value.errno, failed.value.sqlstate) == (errno, sqlstate)
        assert failed.value.sfqid == cursor.sfqid
        assert server.account.queries.find(failed.value.sfqid) is not None
