"""Long-running services: instances, restarts, suspension, upgrades, volumes, faults, recovery."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from fake_runtime import Lab, spec

from flowdist.emulator.account import Settings
from flowdist.emulator.errors import SqlError
from flowdist.emulator.names import FullName

NAME = FullName("FLOWDIST", "PUBLIC", "S")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def create(lab: Lab, more: str = "", image: str = "wait") -> None:
    lab.sql(f"CREATE SERVICE s IN COMPUTE POOL p {spec(image)} {more}")
    lab.tick()


def test_a_service_runs_until_it_is_dropped(lab: Lab) -> None:
    create(lab, "MIN_INSTANCES=2 MAX_INSTANCES=3 COMMENT='web'")
    row = lab.one("SHOW SERVICES EXCLUDE JOBS")
    assert (row["status"], row["comment"]) == ("RUNNING", "web")
    assert [int(row[f"{kind}_instances"]) for kind in ("current", "target", "min", "max")] == [
        2,
        2,
        2,
        3,
    ]
    assert "is_job" not in row
    assert lab.sql("SHOW JOB SERVICES") == []
    lab.sql("DROP SERVICE s")
    lab.tick()
    lab.tick()
    assert lab.runtime.running() == []


def test_describe_has_the_documented_columns_and_hides_the_specification(lab: Lab) -> None:
    create(lab)
    row = lab.one("DESCRIBE SERVICE s")
    assert row["spec"].startswith("---\nspec:\n  containers:")
    assert row["dns_name"].startswith("s.")
    assert row["dns_name"].endswith(lab.call("SYSTEM$GET_SERVICE_DNS_DOMAIN", "PUBLIC"))
    lab.account.catalog.create("role", ("OTHER",), owner="USERADMIN")
    for grant in ("USAGE ON DATABASE flowdist", "USAGE ON SCHEMA public", "MONITOR ON SERVICE s"):
        lab.sql(f"GRANT {grant} TO ROLE other")
    lab.session.role = "OTHER"
    assert set(row) - set(lab.one("DESCRIBE SERVICE s")) == {"spec"}
    with pytest.raises(SqlError) as error:
        lab.sql("DROP SERVICE s")
    assert error.value.errno == 3001


def test_a_container_that_exits_is_started_again_with_back_off(lab: Lab) -> None:
    create(lab)
    for restarts, wait in ((1, 0), (2, 10), (3, 20)):
        lab.runtime.exit(lab.runtime.running()[0].directory, 1)
        lab.tick()
        assert lab.status("s") == "FAILED"
        lab.tick(wait)
        (row,) = lab.containers("s")
        assert (row["restart_count"], row["status"], row["last_exit_code"]) == (
            restarts,
            "READY",
            1,
        )
    assert len({launch.directory for launch in lab.runtime.launches}) == 4


def test_suspending_and_resuming(lab: Lab) -> None:
    create(lab)
    lab.sql("ALTER SERVICE s SUSPEND")
    lab.tick()
    assert lab.status("s") == "SUSPENDING"
    lab.tick()
    row = lab.one("DESCRIBE SERVICE s")
    assert (row["status"], row["current_instances"]) == ("SUSPENDED", 0)
    assert row["suspended_on"] is not None
    (container,) = lab.containers("s")
    assert container["instance_id"] is None
    lab.sql("ALTER SERVICE s RESUME")
    lab.tick()
    assert lab.status("s") == "RUNNING"


def test_a_new_specification_replaces_instances_from_the_last_to_the_first(lab: Lab) -> None:
    create(lab, "MIN_INSTANCES=2")
    old = lab.one("DESCRIBE SERVICE s")["spec_digest"]
    lab.account.images.push("/flowdist/public/repo/wait:1", entrypoint=["wait", "more"])
    lab.sql(f"ALTER SERVICE s {spec()}")
    lab.tick()
    statuses = [row["status"] for row in lab.sql("SHOW SERVICE INSTANCES IN SERVICE s")]
    assert statuses == ["READY", "TERMINATING"]
    assert lab.one("DESCRIBE SERVICE s")["is_upgrading"] == "true"
    for _ in range(5):
        lab.tick()
    described = lab.one("DESCRIBE SERVICE s")
    assert described["is_upgrading"] == "false"
    digests = {row["spec_digest"] for row in lab.sql("SHOW SERVICE INSTANCES IN SERVICE s")}
    assert digests == {described["spec_digest"]} != {old}
    assert [launch.command for launch in lab.runtime.running()] == [("wait", "more")] * 2


def test_properties_are_set_and_unset(lab: Lab) -> None:
    create(lab)
    lab.sql("ALTER SERVICE s SET MIN_INSTANCES=3 MAX_INSTANCES=4 COMMENT='x'")
    lab.tick()
    assert len(lab.runtime.running()) == 3
    lab.sql("ALTER SERVICE s UNSET COMMENT")
    lab.sql("ALTER SERVICE s SET MIN_INSTANCES=1")
    lab.tick()
    lab.tick()
    assert len(lab.runtime.running()) == 1
    assert lab.one("DESCRIBE SERVICE s")["comment"] is None
    for text in ("MIN_INSTANCES=9 MAX_INSTANCES=2", "AUTO_SUSPEND_SECS=10", "SIZE=1"):
        with pytest.raises(SqlError):
            lab.sql(f"ALTER SERVICE s SET {text}")


def test_endpoints_and_roles_are_those_of_the_specification(lab: Lab) -> None:
    text = """$$
spec:
  containers: [{name: main, image: /flowdist/public/repo/wait:1}]
  endpoints:
  - {name: web, port: 8000, public: true}
  - {name: ray, portRange: 32768-60999, protocol: TCP}
serviceRoles:
- {name: reader, endpoints: [web]}
$$"""
    lab.sql(f"CREATE SERVICE s IN COMPUTE POOL p FROM SPECIFICATION {text}")
    web, ray = lab.sql("SHOW ENDPOINTS IN SERVICE s")
    assert (web["port"], web["protocol"], web["is_public"]) == (8000, "HTTP", "true")
    assert (ray["port"], ray["port_range"], ray["ingress_url"]) == (None, "32768-60999", None)
    roles = [row["name"] for row in lab.sql("SHOW ROLES IN SERVICE s")]
    assert roles == ["ALL_ENDPOINTS_USAGE", "READER"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"snapshotOnDelete": True}, "blockConfig.snapshotOnDelete: true of volume data"),
        (
            {"initialContents": {"fromSnapshot": "s"}},
            "blockConfig.initialContents.fromSnapshot of volume data",
        ),
        ({"snapshotOnDelete": False, "iops": 3000}, None),
    ],
)
def test_snapshots_of_block_volumes_are_refused(
    lab: Lab, more: dict[str, object], words: str | None
) -> None:
    volume = {"name": "data", "source": "block", "size": "1Gi", "blockConfig": more}
    container = {"name": "main", "image": "/flowdist/public/repo/wait:1"}
    text = json.dumps({"spec": {"containers": [container], "volumes": [volume]}})
    create = f"CREATE SERVICE s IN COMPUTE POOL p FROM SPECIFICATION $${text}$$"
    if words is None:
        lab.sql(create)
        return
    with pytest.raises(SqlError, match=f"not supported by the emulator: {words}"):
        lab.sql(create)


def test_policies_that_scale_a_service_are_refused(lab: Lab) -> None:
    text = """$$
spec:
  containers: [{name: main, image: "/flowdist/public/repo/wait:1"}]
  resourceManagement: {autoScalingPolicies: {}}
$$"""
    with pytest.raises(SqlError, match=r"not supported by the emulator: .*autoScaling"):
        lab.sql(f"CREATE SERVICE s IN COMPUTE POOL p FROM SPECIFICATION {text}")


def test_block_volumes_make_a_drop_ask_for_force(lab: Lab) -> None:
    text = """$$
spec:
  containers:
  - name: main
    image: /flowdist/public/repo/wait:1
    volumeMounts: [{name: data, mountPath: /data}, {name: scratch, mountPath: /scratch}]
  volumes: [{name: data, source: block, size: 1Gi}, {name: scratch, source: local}]
$$"""
    lab.sql(f"CREATE SERVICE s IN COMPUTE POOL p FROM SPECIFICATION {text}")
    lab.tick()
    data, scratch = (
        next(b.source for b in lab.runtime.launches[0].binds if b.target == target)
        for target in ("/data", "/scratch")
    )
    (data / "kept").touch()
    (scratch / "lost").touch()
    lab.sql("ALTER SERVICE s SUSPEND")
    lab.tick()
    lab.tick()
    lab.sql("ALTER SERVICE s RESUME")
    lab.tick()
    assert [path.name for path in data.iterdir()] == ["kept"]
    assert list(scratch.iterdir()) == []
    with pytest.raises(SqlError, match="FORCE"):
        lab.sql("DROP SERVICE s")
    lab.sql("DROP SERVICE s FORCE")
    lab.tick()
    lab.tick()
    assert not data.exists()


def test_dropping_the_schema_drops_its_services(lab: Lab) -> None:
    create(lab)
    lab.account.compute.drop_schema("FLOWDIST", "PUBLIC")
    lab.tick()
    lab.tick()
    assert lab.sql("SHOW SERVICES IN ACCOUNT") == []
    assert lab.runtime.running() == []


def test_status_as_json_and_waiting_for_services(lab: Lab) -> None:
    create(lab)
    (row,) = json.loads(lab.call("SYSTEM$GET_SERVICE_STATUS", "s"))
    assert {key: row[key] for key in ("status", "message", "containerName", "instanceId")} == {
        "status": "READY",
        "message": "Running",
        "containerName": "main",
        "instanceId": "0",
    }
    assert lab.call("SYSTEM$WAIT_FOR_SERVICES", 5, "s") == "OK"
    lab.sql("ALTER SERVICE s SUSPEND")
    with pytest.raises(SqlError, match="Timed out"):
        lab.call("SYSTEM$WAIT_FOR_SERVICES", 5, "s")


def test_the_token_is_written_anew_every_few_minutes(lab: Lab) -> None:
    create(lab)
    home = next(b.source for b in lab.runtime.launches[0].binds if b.target == "/snowflake/session")
    first = (home / "token").read_text()
    lab.tick(200)
    assert (home / "token").read_text() == first
    lab.tick(200)
    second = (home / "token").read_text()
    assert second != first
    lab.sql("DROP SERVICE s")
    lab.tick()
    lab.tick()
    assert not home.exists()


def test_the_token_of_a_new_job_outlives_a_dropped_one_of_the_same_name(lab: Lab) -> None:
    lab.runtime.obeys = 4.0
    lab.job()
    lab.tick()
    lab.sql("DROP SERVICE j")
    lab.job()
    lab.tick()
    homes = (lab.directory / "services").glob("*/0/_session/main/token")
    old, new = [(home / "token").read_text() for home in sorted(homes)]
    lab.tick(5.0)
    assert lab.account.tokens.login_of(new).user == "J"
    with pytest.raises(SqlError, match="Invalid OAuth access token"):
        lab.account.tokens.login_of(old)


def test_a_container_is_ready_when_its_probe_is_answered(lab: Lab) -> None:
    answers = [503, 503, 200]

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        probe = {"port": server.server_port, "path": "/health"}
        container = {"name": "main", "image": "/flowdist/public/repo/wait:1"}
        made = {"spec": {"containers": [container | {"readinessProbe": probe}]}}
        lab.sql(f"CREATE SERVICE s IN COMPUTE POOL p FROM SPECIFICATION $${json.dumps(made)}$$")
        lab.tick()
        (row,) = lab.containers("s")
        assert row["status"] == "PENDING"
        assert row["message"].startswith("Readiness probe is failing at path: /health, port:")
        while lab.status("s") != "RUNNING":
            lab.tick(1)
        assert answers == [200]
        server.shutdown()


# -- faults


def test_a_killed_container_counts_as_failed(lab: Lab) -> None:
    create(lab)
    lab.account.compute.kill_container(NAME)
    lab.tick()
    lab.tick()
    (row,) = lab.containers("s")
    assert (row["status"], row["last_exit_code"], row["restart_count"]) == ("READY", 137, 1)


def test_a_node_that_breaks_down_fails_jobs_and_moves_services(lab: Lab) -> None:
    create(lab)
    lab.job()
    lab.tick()
    lab.account.compute.kill_node("P", 0)
    assert lab.status("j") == "FAILED"
    lab.tick()
    assert lab.status("s") == "RUNNING"
    (node,) = lab.sql("SHOW NODES IN COMPUTE POOL p")
    assert node["node_id"].endswith("-02")
    assert len(lab.runtime.running()) == 1


def test_nothing_starts_on_a_paused_pool(lab: Lab) -> None:
    lab.account.compute.pause("P")
    lab.job()
    lab.tick(60)
    assert lab.status() == "PENDING"
    lab.account.compute.unpause("P")
    lab.tick()
    assert lab.status() == "RUNNING"


# -- recovery


def test_a_new_server_goes_on_where_the_old_one_was_killed(lab: Lab) -> None:
    create(lab)
    lab.job(more="ASYNC=TRUE REPLICAS=2")
    lab.tick()
    first, second = (launch for launch in lab.runtime.running() if "J" in launch.name)
    lab.runtime.exit(first.directory, 0)
    lab.restart()
    lab.tick()
    assert [row["status"] for row in lab.containers()] == ["DONE", "READY"]
    assert lab.status("s") == "RUNNING"
    assert len(lab.runtime.launches) == 3
    lab.runtime.exit(second.directory, 4)
    lab.restart()
    lab.tick()
    assert lab.status() == "FAILED"
    assert lab.containers()[1]["last_exit_code"] == 4


def test_a_container_is_not_started_twice_by_two_servers(lab: Lab) -> None:
    lab.job()
    store = lab.account.compute.store
    store.flush, kept = lambda: None, store.flush  # type: ignore[method-assign]
    lab.tick()
    store.flush = kept  # type: ignore[method-assign]
    assert len(lab.runtime.launches) == 1
    lab.restart()  # that it was started is written nowhere but in its directory
    lab.tick()
    assert len(lab.runtime.launches) == 1
    assert lab.status() == "RUNNING"


def test_a_drop_goes_on_after_a_restart(tmp_path: Path) -> None:
    lab = Lab(tmp_path, Settings(grace=5))
    lab.runtime.obeys = None
    create(lab)
    lab.sql("DROP SERVICE s")
    lab.restart()
    lab.tick()
    assert lab.sql("SHOW SERVICES") == []
    lab.tick(5)
    assert lab.runtime.running() == []
