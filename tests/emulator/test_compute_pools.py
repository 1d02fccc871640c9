"""Compute pools: nodes that start, room on them, growing, shrinking, suspending; in no time."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_runtime import Lab, spec

from flowdist.emulator.account import Settings
from flowdist.emulator.errors import SqlError

SHOWN = """
name state min_nodes max_nodes instance_family num_services num_jobs auto_suspend_secs auto_resume
active_nodes idle_nodes target_nodes created_on resumed_on updated_on owner comment is_exclusive
application placement_group backup_instance_families
"""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """For statements that are refused."""
    return Lab(tmp_path_factory.mktemp("lab"))


def pool(lab: Lab) -> tuple[str, int, int, int]:
    """State, active, idle and target nodes."""
    row = lab.one("SHOW COMPUTE POOLS LIKE 'p'")
    return row["state"], *(int(row[f"{kind}_nodes"]) for kind in ("active", "idle", "target"))


def test_show_has_the_documented_columns(lab: Lab) -> None:
    shown = list(lab.one("SHOW COMPUTE POOLS"))
    assert shown == SHOWN.split()
    described = list(lab.one("DESC COMPUTE POOL p"))
    assert described[: shown.index("placement_group")] == shown[: shown.index("placement_group")]
    assert described[-4:] == ["budget", "error_code", "status_message", "placement_group"]
    (node,) = lab.sql("SHOW NODES IN COMPUTE POOL p")
    assert (node["instance_family"], node["vcpu"], node["memory_gib"]) == ("CPU_X64_S", 3, 13)
    families = {row["name"]: row for row in lab.sql("SHOW COMPUTE POOL INSTANCE FAMILIES")}
    assert families["CPU_X64_S"]["current_node_usage"] == 1
    assert families["GPU_NV_M"]["gpu_count"] == 4


def test_nodes_take_their_time_to_start(tmp_path: Path) -> None:
    lab = Lab(tmp_path, Settings(node_start=120))
    assert pool(lab) == ("STARTING", 0, 0, 1)
    lab.job()
    lab.tick(60)
    assert lab.containers()[0]["message"] == "Compute pool node(s) are being provisioned"
    assert lab.one("DESC COMPUTE POOL p")["status_message"].startswith("Compute pool is starting")
    lab.tick(60)
    assert pool(lab) == ("ACTIVE", 1, 0, 1)
    assert lab.status() == "RUNNING"


def test_instances_are_packed_and_wait_where_the_pool_is_full(lab: Lab) -> None:
    lab.job(more="ASYNC=TRUE REPLICAS=5", cpu=1.5)
    lab.tick()
    assert pool(lab) == ("ACTIVE", 2, 0, 2)
    waiting = lab.containers()[4]
    assert (waiting["status"], waiting["instance_status"]) == ("PENDING", "PENDING")
    assert waiting["message"] == "Unschedulable due to insufficient cpu resources"
    described = lab.one("DESC COMPUTE POOL p")
    assert described["error_code"] == "392508"
    assert "maximum node limit" in described["status_message"]
    lab.runtime.exit(lab.runtime.running()[0].directory, 0)
    lab.tick()
    lab.tick()
    assert lab.containers()[4]["status"] == "READY"


def test_what_is_lacking_is_named(lab: Lab) -> None:
    lab.job(more="ASYNC=TRUE REPLICAS=3", memory="10Gi")
    lab.tick()
    message = lab.containers()[2]["message"]
    assert message == "Unschedulable due to insufficient memory resources"


def test_an_instance_that_never_fits_fails_the_statement(lab: Lab) -> None:
    with pytest.raises(SqlError, match="more than a node"):
        lab.job(cpu=4)
    with pytest.raises(SqlError, match="more than a node"):
        lab.sql(f"CREATE SERVICE s IN COMPUTE POOL p {spec(memory='14Gi')}")
    assert lab.sql("SHOW SERVICES") == []


def test_gpus_are_requested_of_nodes_that_have_some(lab: Lab) -> None:
    one = spec().replace('"requests": {}', '"requests": {GPU}, "limits": {GPU}')
    one = one.replace("{GPU}", '{"nvidia.com/gpu": 1}')
    with pytest.raises(SqlError, match="0 GPU"):
        lab.sql(f"EXECUTE JOB SERVICE IN COMPUTE POOL p NAME=j ASYNC=TRUE {one}")
    lab.sql("CREATE COMPUTE POOL g MIN_NODES=1 MAX_NODES=1 INSTANCE_FAMILY=GPU_NV_S")
    for name in ("j", "k"):
        lab.sql(f"EXECUTE JOB SERVICE IN COMPUTE POOL g NAME={name} ASYNC=TRUE {one}")
    lab.tick()
    assert lab.containers("j")[0]["status"] == "READY"
    message = lab.containers("k")[0]["message"]
    assert message == "Unschedulable due to insufficient gpu resources"


def test_a_pool_grows_and_shrinks(lab: Lab) -> None:
    lab.job(more="ASYNC=TRUE REPLICAS=2", cpu=2)
    lab.tick()
    assert pool(lab) == ("ACTIVE", 2, 0, 2)
    for launch in lab.runtime.running():
        lab.runtime.exit(launch.directory, 0)
    lab.tick()
    assert pool(lab) == ("IDLE", 0, 2, 2)
    lab.tick(30)
    assert pool(lab)[3] == 2
    lab.tick(60)
    assert pool(lab) == ("IDLE", 0, 1, 1)


def test_a_pool_suspends_itself_and_is_resumed_by_a_job(lab: Lab) -> None:
    lab.sql("ALTER COMPUTE POOL p SET AUTO_SUSPEND_SECS = 600")
    lab.tick(590)
    assert pool(lab)[0] == "IDLE"
    lab.tick(20)
    assert pool(lab) == ("SUSPENDED", 0, 0, 0)
    assert lab.sql("SHOW NODES IN COMPUTE POOL p") == []
    lab.job()
    lab.tick()
    assert (pool(lab)[0], lab.status()) == ("ACTIVE", "RUNNING")


def test_a_suspended_pool_that_does_not_resume_fails_the_statement(lab: Lab) -> None:
    lab.sql("ALTER COMPUTE POOL p SET AUTO_RESUME = FALSE")
    lab.sql("ALTER COMPUTE POOL p SUSPEND")
    with pytest.raises(SqlError, match="AUTO_RESUME is FALSE"):
        lab.job()
    lab.sql("ALTER COMPUTE POOL p RESUME")
    lab.job()
    lab.tick()
    assert lab.status() == "RUNNING"


def test_suspending_stops_services_and_lets_jobs_end(lab: Lab) -> None:
    lab.sql(f"CREATE SERVICE s IN COMPUTE POOL p {spec()}")
    lab.job()
    lab.tick()
    lab.sql("ALTER COMPUTE POOL p SUSPEND")
    lab.tick()
    lab.tick()
    assert (lab.status("s"), lab.status("j"), pool(lab)[0]) == ("SUSPENDED", "RUNNING", "STOPPING")
    lab.runtime.exit(lab.runtime.running()[0].directory, 0)
    lab.tick()
    lab.tick()
    assert (lab.status("j"), pool(lab)[0]) == ("DONE", "SUSPENDED")


def test_stop_all_drops_services_and_cancels_jobs(lab: Lab) -> None:
    lab.sql(f"CREATE SERVICE s IN COMPUTE POOL p {spec()}")
    lab.job()
    lab.tick()
    with pytest.raises(SqlError, match="services are running"):
        lab.sql("DROP COMPUTE POOL p")
    lab.sql("ALTER COMPUTE POOL p STOP ALL")
    lab.tick()
    lab.tick()
    assert [row["name"] for row in lab.sql("SHOW SERVICES")] == ["J"]
    assert lab.status() == "CANCELLED"
    assert lab.one("DROP COMPUTE POOL p") == {"status": "P successfully dropped."}


def test_fewer_nodes_end_the_jobs_on_them(lab: Lab) -> None:
    lab.job(more="ASYNC=TRUE REPLICAS=2", cpu=2)
    lab.tick()
    lab.sql("ALTER COMPUTE POOL p SET MAX_NODES = 1")
    lab.tick()
    statuses = [row["status"] for row in lab.sql("SHOW SERVICE INSTANCES IN SERVICE j")]
    assert sorted(statuses) == ["FAILED", "READY"]
    assert lab.status() == "FAILED"


@pytest.mark.parametrize(
    ("text", "errno"),
    [
        ("CREATE COMPUTE POOL q MIN_NODES=0 MAX_NODES=1 INSTANCE_FAMILY=CPU_X64_S", 1008),
        ("CREATE COMPUTE POOL q MIN_NODES=2 MAX_NODES=1 INSTANCE_FAMILY=CPU_X64_S", 1008),
        ("CREATE COMPUTE POOL q MIN_NODES=1 MAX_NODES=11 INSTANCE_FAMILY=GPU_NV_M", 1008),
        ("CREATE COMPUTE POOL q MIN_NODES=1 MAX_NODES=1", 2029),
        ("CREATE COMPUTE POOL q MIN_NODES=1 MAX_NODES=1 INSTANCE_FAMILY=NONE", 1008),
        ("CREATE COMPUTE POOL p MIN_NODES=1 MAX_NODES=1 INSTANCE_FAMILY=CPU_X64_S", 2002),
        ("ALTER COMPUTE POOL p SET INSTANCE_FAMILY = CPU_X64_M", 2),
        ("ALTER COMPUTE POOL p SET SIZE = 3", 1420),
        ("DESCRIBE COMPUTE POOL q", 2003),
        ("DROP COMPUTE POOL q", 2003),
    ],
)
def test_what_makes_no_sense_is_refused(unchanged: Lab, text: str, errno: int) -> None:
    with pytest.raises(SqlError) as error:
        unchanged.sql(text)
    assert error.value.errno == errno


def test_the_family_changes_while_the_pool_is_suspended(lab: Lab) -> None:
    lab.sql("ALTER COMPUTE POOL p SUSPEND")
    lab.tick()
    lab.sql("ALTER COMPUTE POOL p SET INSTANCE_FAMILY = CPU_X64_M COMMENT = 'larger'")
    lab.sql("ALTER COMPUTE POOL p RESUME")
    lab.tick()
    assert lab.one("SHOW NODES IN COMPUTE POOL p")["vcpu"] == 6
    assert lab.one("SHOW COMPUTE POOLS")["comment"] == "larger"


def test_a_role_needs_usage_to_run_and_monitor_to_look(lab: Lab) -> None:
    lab.account.catalog.create("role", ("OTHER",), owner="USERADMIN")
    lab.session.role = "OTHER"
    assert lab.sql("SHOW COMPUTE POOLS") == []
    with pytest.raises(SqlError) as error:
        lab.sql("DESCRIBE COMPUTE POOL p")
    assert error.value.errno == 2003
    with pytest.raises(SqlError) as error:
        lab.sql("CREATE COMPUTE POOL q MIN_NODES=1 MAX_NODES=1 INSTANCE_FAMILY=CPU_X64_S")
    assert error.value.errno == 3001
