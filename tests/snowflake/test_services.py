"""Job services as the driver sees them: containers by instance, and the end of what they said."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from cloud import IMAGE, Cloud

from flowdist.backends.base import JobState
from flowdist.backends.snowflake import services
from flowdist.backends.snowflake.history import _container
from flowdist.backends.snowflake.queues import ensure_queue
from flowdist.backends.snowflake.services import containers, drop_service, run_job, service_log
from flowdist.snowflake.connection import Client, SnowflakeError
from flowdist.snowflake.names import Name, json_block

TALKER = Name.parse("flowdist.public.talker")


class Answers:
    """A client that is answered with the same rows, or the same refusal, each time."""

    def __init__(self, rows: list[dict[str, Any]] | None = None, error: Exception | None = None):
        self._rows, self._error = rows or [], error
        self.sent: list[str] = []

    def rows(self, sql: str, binds: Any = (), **more: Any) -> list[dict[str, Any]]:
        self.sent.append(sql)
        if self._error is not None and sql.startswith("CREATE"):
            raise self._error
        return self._rows

    run = rows


def test_what_snowflake_adds_to_an_instance_is_not_taken_for_it() -> None:
    row = {"service_status": "RUNNING", "instance_id": "0", "last_exit_code": 137}
    shown = [
        row | {"container_name": "main", "status": "FAILED", "message": "killed"},
        row | {"container_name": "stage-mount-v2-sidecar-runs", "status": "READY"},
    ]

    seen = containers(Answers(shown), TALKER)  # type: ignore[arg-type]

    assert {n: (one.state, one.exit_code) for n, one in seen.items()} == {0: (JobState.FAILED, 137)}


def test_nor_in_the_history_of_jobs() -> None:
    said = (
        '{"instances": [{"instanceId": "0", "containers": ['
        '{"containerName": "stage-mount-v2-sidecar-runs", "status": "READY"}, '
        '{"containerName": "main", "status": "FAILED", "lastExitCode": 3}]}]}'
    )
    row = {
        "job_name": "J", "job_database": "D", "job_schema": "S", "job_status": "RUNNING",
        "job_message": "", "instance_statuses": said,
    }  # fmt: skip

    seen = _container(row)

    assert seen is not None
    assert (seen.state, seen.exit_code) == (JobState.FAILED, 3)


def test_of_a_log_that_only_the_event_table_has_the_end_is_shown(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, talk = cloud.client(), "for n in range(20): print('line', n)"
    main = {"name": "main", "image": IMAGE, "command": [sys.executable, "-c", talk]}
    spec = json_block({"spec": {"containers": [main]}})
    run_job(client, f"EXECUTE JOB SERVICE IN COMPUTE POOL cells NAME = {TALKER.sql} "
                    f"FROM SPECIFICATION {spec}")  # fmt: skip

    def gone(self: Client, sql: str, binds: Any = ()) -> str:
        raise SnowflakeError("the node is gone")

    monkeypatch.setattr(services, "LOG_LINES", 5)
    with monkeypatch.context() as patch:
        patch.setattr(Client, "value", gone)
        log = service_log(client, TALKER.sql, 0)
    drop_service(client, TALKER)

    assert log.splitlines() == [f"line {n}" for n in range(15, 20)]


def test_an_answer_that_does_not_come_makes_no_other_kind_of_queue() -> None:
    nobody = SnowflakeError("no answer", passing=True)
    client = Answers(error=nobody)

    def missing(client: Any, table: Name) -> Any:
        raise SnowflakeError("not there", 2003)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowdist.backends.snowflake.queues.kind_of", missing)
        with pytest.raises(SnowflakeError, match="no answer"):
            ensure_queue(client, TALKER)  # type: ignore[arg-type]

    assert [sql.split()[1] for sql in client.sent] == ["HYBRID"]
