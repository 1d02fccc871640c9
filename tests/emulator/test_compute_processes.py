"""Services whose containers are processes of this machine, from the statement to the log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fuse_fixture import fuse as fuse

from flowdist.emulator.account import Account
from flowdist.emulator.compute import logs, observed
from flowdist.emulator.compute.processes import isolation
from flowdist.emulator.errors import SqlError
from flowdist.emulator.names import FullName
from flowdist.emulator.statements import SCALARS, TABLES, Context

REPOSITORY = FullName("FLOWDIST", "PUBLIC", "REPO")


class Place:
    """An account in a directory, driven in the background by a server or by none."""

    def __init__(self, directory: Path) -> None:
        self.account = Account(directory)
        self.account.url = "http://127.0.0.1:1"
        self.session = self.account.open_session(
            "FLOWDIST", "FLOWDIST_ROLE", database="FLOWDIST", schema="PUBLIC"
        )
        if self.account.catalog.find("image repository", REPOSITORY) is None:
            self.account.catalog.create("image repository", REPOSITORY, owner="FLOWDIST_ROLE")
            self.account.images.push("/flowdist/public/repo/sh:1", entrypoint=["sh", "-c"])
            self.sql("CREATE COMPUTE POOL p MIN_NODES=1 MAX_NODES=4 INSTANCE_FAMILY=CPU_X64_M")

    def end(self) -> None:
        for launch in (self.account.directory / "services").glob("*/*/*/launch.json"):
            self.account.compute.runtime.forget(launch.parent)
        self.account.close()

    def sql(self, text: str) -> list[dict[str, Any]]:
        result = self.account.execute(self.session, text)
        return [
            dict(zip([c.name for c in result.columns], row, strict=True)) for row in result.rows()
        ]

    def context(self) -> Context:
        query, _ = self.account.query(self.session, "SELECT")
        return Context(self.account, self.session, query)

    def job(self, script: str, more: str = "", **container: Any) -> str:
        made = {"name": "main", "image": "/flowdist/public/repo/sh:1", "args": [script]}
        spec = json.dumps({"spec": {"containers": [made | container]}})
        text = f"EXECUTE JOB SERVICE IN COMPUTE POOL p NAME=j {more} FROM SPECIFICATION $${spec}$$"
        return str(self.sql(text)[0]["status"])

    def log(self, *more: Any) -> str:
        return str(SCALARS["SYSTEM$GET_SERVICE_LOGS"](self.context(), "j", "0", "main", *more))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "account")
    made.account.compute.start()
    yield made
    made.end()


def test_a_container_finds_its_environment_and_its_token(place: Place) -> None:
    place.job("env; echo TOKEN $(wc -c < /snowflake/session/token)", "REPLICAS=2", env={"A": "1 2"})
    log = place.log().splitlines()
    for line in (
        "A=1 2",
        "SNOWFLAKE_ACCOUNT=EMULATOR",
        "SNOWFLAKE_HOST=127.0.0.1",
        "SNOWFLAKE_PORT=1",
        "SNOWFLAKE_PROTOCOL=http",
        "SNOWFLAKE_DATABASE=FLOWDIST",
        "SNOWFLAKE_SCHEMA=PUBLIC",
        "SNOWFLAKE_SERVICE_NAME=J",
        "SNOWFLAKE_JOBS_COUNT=2",
        "SNOWFLAKE_JOB_INDEX=0",
        "SNOWFLAKE_RUNNING_INSIDE_SPCS=true",
    ):
        assert line in log
    assert not any(line.startswith("SNOWFLAKE_WAREHOUSE") for line in log)
    assert int(log[-1].split()[1]) > 20


def test_the_token_may_be_elsewhere_with_a_connection_that_points_to_it(place: Place) -> None:
    place.job(
        "stat -c %a /app/s/token; cat $SNOWFLAKE_HOME/connections.toml; ls /snowflake/session",
        sessionTokenConfig={"path": "/app/s", "permission": "0600", "mountConnectionConfig": True},
    )
    log = place.log().splitlines()
    assert log[0] == "600"
    assert 'token_file_path = "/app/s/token"' in log
    assert log[-1] == "spcs_token"


def test_a_container_may_go_without_a_token(place: Place) -> None:
    place.job("ls /snowflake/session", mountSessionToken=False)
    assert place.log() == "spcs_token"


def test_the_log_is_cut_and_the_event_table_has_all_of_it(place: Place) -> None:
    record = json.dumps({"body": "structured", "severity_text": "WARN", "attributes": {"k": 1}})
    place.job(f"echo one; echo two >&2; sleep 0.05; echo '{record}'")
    assert place.log(1) == record
    rows = TABLES["!SPCS_GET_LOGS"](place.context(), "j").rows()
    assert {(row[3], row[4]) for row in rows} == {
        ("one", '{"log.iostream": "stdout"}'),
        ("two", '{"log.iostream": "stderr"}'),
        ("structured", '{"log.iostream": "stdout", "k": 1}'),
    }
    place.sql("DROP SERVICE j")
    events = TABLES["SNOWFLAKE.TELEMETRY.EVENTS"](place.context()).rows()
    logged = {
        json.loads(row[11]): (json.loads(row[5])["snow.service.name"], json.loads(row[9]))
        for row in events
        if row[8] == "LOG"
    }
    assert logged["one"] == ("J", {"severity_text": "INFO"})
    assert logged["structured"][1] == {"severity_number": 13, "severity_text": "WARN"}


def test_a_long_log_is_read_as_far_back_as_it_is_asked_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.job("seq -f 'line %.0f' 5000; sleep 0.2; echo end")
    seen: list[logs.Line] = []
    made = logs._line

    def counted(*parts: Any) -> logs.Line:
        seen.append(made(*parts))
        return seen[-1]

    monkeypatch.setattr(logs, "_line", counted)
    place.log(1)
    ended = datetime.fromtimestamp(seen[0].time - 0.05, UTC)
    rows = TABLES["!SPCS_GET_LOGS"](place.context(), "j", start_time=ended).rows()
    assert [row[3] for row in rows] == ["end"]
    TABLES["!SPCS_GET_EVENTS"](place.context(), "j")
    assert len(seen) < 10
    events = TABLES["SNOWFLAKE.TELEMETRY.EVENTS"](place.context()).rows()
    texts = [json.loads(row[11]) for row in events if row[8] == "LOG"]
    assert texts == [*(f"line {i}" for i in range(1, 5_001)), "end"]


def test_of_many_lines_the_event_table_has_the_newest(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observed, "MOST_BYTES", 3 * observed.ENTRY_BYTES + 20)
    place.job("seq -f 'line %.0f' 100; sleep 0.05; echo one; sleep 0.05; echo two")
    place.sql("DROP SERVICE j")
    place.job("sleep 0.05; echo three")
    events = TABLES["SNOWFLAKE.TELEMETRY.EVENTS"](place.context()).rows()
    texts = [json.loads(row[11]) for row in events if row[8] == "LOG"]
    assert texts == ["one", "two", "three"]
    rows = TABLES["!SPCS_GET_LOGS"](place.context(), "j").rows()
    assert [row[3] for row in rows] == ["three"]


@pytest.mark.skipif(bool(isolation()), reason="containers have no file system of their own here")
def test_a_volume_of_memory_has_the_size_of_the_specification(place: Place) -> None:
    spec = """$$
spec:
  containers:
  - name: main
    image: /flowdist/public/repo/sh:1
    args: ["df -B1 --output=size /dev/shm; until cat /shared/x; do sleep 0.01; done 2>&-"]
    volumeMounts: [{name: own, mountPath: /dev/shm}, {name: both, mountPath: /shared}]
  - name: other
    image: /flowdist/public/repo/sh:1
    args: ["echo shared > /shared/.x; mv /shared/.x /shared/x"]
    volumeMounts: [{name: both, mountPath: /shared}]
  volumes: [{name: own, source: memory, size: 2Mi}, {name: both, source: memory, size: 1Mi}]
$$"""
    place.sql(f"EXECUTE JOB SERVICE IN COMPUTE POOL p NAME=j FROM SPECIFICATION {spec}")
    assert place.log().split()[-2:] == ["2097152", "shared"]


def test_a_directory_of_a_stage_that_has_no_files_yet_is_mounted_and_written_to(
    place: Place, fuse: None
) -> None:
    spec = """$$
spec:
  containers:
  - name: main
    image: /flowdist/public/repo/sh:1
    args: ["ls -A /in | wc -l; mkdir /in/deep && echo made > /in/deep/f && cat /in/deep/f"]
    volumeMounts: [{name: v, mountPath: /in}]
  volumes: [{name: v, source: stage, stageConfig: {name: "@st/in/new"}}]
$$"""
    place.sql("CREATE STAGE st")
    place.sql(f"EXECUTE JOB SERVICE IN COMPUTE POOL p NAME=j FROM SPECIFICATION {spec}")
    assert place.log().split() == ["0", "made"]
    assert [row["name"] for row in place.sql("LIST @st")] == ["st/in/new/deep/f"]


def test_a_failure_carries_the_exit_code(place: Place) -> None:
    with pytest.raises(SqlError, match="exited with code 7"):
        place.job("exit 7")
    place.sql("DROP SERVICE j")
    with pytest.raises(SqlError, match="while starting container"):
        place.job("", command=["/no/such/command"], args=[])


def test_containers_of_an_instance_share_its_volumes(place: Place) -> None:
    spec = """$$
spec:
  containers:
  - name: writer
    image: /flowdist/public/repo/sh:1
    args: ["echo hello > /a/.f && mv /a/.f /a/f"]
    volumeMounts: [{name: v, mountPath: /a}]
  - name: main
    image: /flowdist/public/repo/sh:1
    args: ["until test -e /b/f; do sleep 0.01; done; cat /b/f"]
    volumeMounts: [{name: v, mountPath: /b}]
  volumes: [{name: v, source: local}]
$$"""
    place.sql(f"EXECUTE JOB SERVICE IN COMPUTE POOL p NAME=j FROM SPECIFICATION {spec}")
    assert place.log() == "hello"


def test_the_log_of_the_run_before(place: Place) -> None:
    spec = """$$
spec:
  containers:
  - name: main
    image: /flowdist/public/repo/sh:1
    args: ["if mkdir /v/first 2>&-; then echo first; exit 1; fi; echo second; sleep 60"]
    volumeMounts: [{name: v, mountPath: /v}]
  volumes: [{name: v, source: local}]
$$"""
    place.sql(f"CREATE SERVICE j IN COMPUTE POOL p FROM SPECIFICATION {spec}")
    context = place.context()

    def restarted() -> bool:
        (row,) = place.sql("SHOW SERVICE CONTAINERS IN SERVICE j")
        return bool(row["restart_count"] == 1 and row["status"] == "READY")

    assert place.account.compute.wait(restarted, context.query, 20)
    assert place.account.compute.wait(lambda: place.log() == "second", context.query, 20)
    assert place.log(10, True) == "first"


def test_cancelling_asks_the_process_to_end(place: Place) -> None:
    place.job("trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.01; done", "ASYNC=TRUE")
    context = place.context()
    SCALARS["!SPCS_WAIT_FOR"](context, "j", "RUNNING", 20)
    place.account.compute.wait(lambda: "up" in place.log(), context.query, 20)
    SCALARS["!SPCS_CANCEL_JOB"](context, "j")
    SCALARS["!SPCS_WAIT_FOR"](context, "j", "CANCELLED", 20)
    (row,) = place.sql("SHOW SERVICE CONTAINERS IN SERVICE j")
    assert row["last_exit_code"] == 9
    assert place.log().splitlines() == ["up", "bye"]


def test_processes_outlive_a_server_that_is_killed(tmp_path: Path) -> None:
    old = Place(tmp_path / "account")
    spec = """$$
spec:
  containers:
  - name: main
    image: /flowdist/public/repo/sh:1
    args: ["until test -e /v/go; do sleep 0.01; done; exit 5"]
    volumeMounts: [{name: v, mountPath: /v}]
  volumes: [{name: v, source: local}]
$$"""
    old.sql(f"EXECUTE JOB SERVICE IN COMPUTE POOL p NAME=j ASYNC=TRUE FROM SPECIFICATION {spec}")
    old.account.compute.tick()  # what began here goes on, with nobody to close anything
    new = Place(tmp_path / "account")
    new.account.compute.start()
    context = new.context()
    SCALARS["!SPCS_WAIT_FOR"](context, "j", "RUNNING", 20)
    (volume,) = tmp_path.glob("account/services/*/0/_volumes/v")
    (volume / "go").touch()
    with pytest.raises(SqlError, match="FAILED"):
        SCALARS["!SPCS_WAIT_FOR"](context, "j", "DONE", 20)
    (row,) = new.sql("SHOW SERVICE CONTAINERS IN SERVICE j")
    assert (row["last_exit_code"], row["restart_count"]) == (5, 0)
    new.end()
