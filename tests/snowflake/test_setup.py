"""Setting an account up, as whom it may be, again and again, and undoing it."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from flowdist import flow, param_grid, register_connection, spcs_jobs, spcs_queue, spcs_tasks
from flowdist.backends.snowflake.setup import Setup, Step, set_up, tear_down
from flowdist.backends.snowflake.setup_config import read_config
from flowdist.backends.snowflake.setup_plan import script
from flowdist.cli import cli
from flowdist.emulator import Emulator
from flowdist.errors import UsageError
from flowdist.plan import profile
from flowdist.snowflake.connection import (
    Client,
    SnowflakeError,
    client_for,
    connection_name,
)


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(grace=1.0) as emulator, emulator.connect(role="ACCOUNTADMIN") as connection:
        connection.cursor().execute(
            "CREATE COMPUTE POOL shared MIN_NODES = 1 MAX_NODES = 1 INSTANCE_FAMILY = CPU_X64_XS"
        )
        yield emulator


@pytest.fixture(scope="module")
def admin(emulator: Emulator) -> Iterator[Client]:
    client = client_for(connection_name(emulator.connection_parameters(role="ACCOUNTADMIN")))
    yield client
    client.close()


def client_as(emulator: Emulator, role: str) -> Client:
    given = emulator.connection_parameters(role=role, database=None, schema=None, warehouse=None)
    return client_for(connection_name({k: v for k, v in given.items() if v is not None}))


def states(steps: list[Step]) -> set[str]:
    return {step.state for step in steps}


def left(steps: list[Step]) -> list[str]:
    return [step.sql for step in steps if not step.ok]


def some_role(admin: Client, name: str, *grants: str) -> None:
    """A role of the emulator's user, with a few privileges."""
    admin.run(f"CREATE ROLE {name}")
    admin.run(f"GRANT ROLE {name} TO USER FLOWDIST")
    for grant in grants:
        admin.run(f"GRANT {grant} TO ROLE {name}")


def test_a_fresh_account_is_set_up_and_the_role_needs_nothing_more(
    emulator: Emulator, admin: Client
) -> None:
    setup = Setup(
        compute_pool="fresh_pool", instance_family="cpu_x64_s", database="fresh", schema="lab",
        warehouse="fresh_wh", role="fresh_role", user="flowdist", schemas=("data",),
    )  # fmt: skip

    steps = set_up(admin, setup)

    assert left(steps) == []
    made = {f"{step.kind} {step.name}" for step in steps if step.state == "created"}
    assert made == {
        "role FRESH_ROLE", "database FRESH", "schema FRESH.LAB", "schema FRESH.DATA",
        "warehouse FRESH_WH", "stage FRESH.LAB.RUNS", "table FRESH.LAB.FLOWDIST_QUEUE",
        "table FRESH.LAB.FLOWDIST_TASK_STATS", "image repository FRESH.LAB.IMAGES",
        "compute pool FRESH_POOL",
    }  # fmt: skip
    mine = client_as(emulator, "FRESH_ROLE")
    assert states(set_up(mine, replace(setup, role=None, user=None))) == {"there"}
    stage = mine.rows("SHOW STAGES IN SCHEMA fresh.lab")[0]
    assert (stage["type"], stage["directory_enabled"]) == ("INTERNAL NO CSE", "Y")
    mine.close()


def test_doing_it_again_makes_nothing_anew_and_keeps_the_rows_of_tables(admin: Client) -> None:
    setup = Setup(compute_pool="shared", database="twice", role="twice_role")
    set_up(admin, setup)
    admin.run(
        "INSERT INTO twice.public.flowdist_task_stats (run_id, name) VALUES (?, ?)", ("r", "t")
    )
    before = admin.rows("SHOW TABLES IN SCHEMA twice.public")

    steps = set_up(admin, setup)

    assert states(steps) == {"there"}
    after = admin.rows("SHOW TABLES IN SCHEMA twice.public")
    assert [row["created_on"] for row in after] == [row["created_on"] for row in before]
    assert admin.value("SELECT COUNT(*) FROM twice.public.flowdist_task_stats") == 1


def test_the_script_run_by_hand_leaves_nothing_to_do(admin: Client) -> None:
    setup = Setup(
        compute_pool="script_pool", instance_family="CPU_X64_XS", database="script",
        role="script_role", user="FLOWDIST", warehouse="script_wh",
    )  # fmt: skip
    text = "\n".join(line for line in script(setup).splitlines() if not line.startswith("--"))

    for statement in filter(None, (part.strip() for part in text.split(";"))):
        admin.run(statement)

    assert states(set_up(admin, setup)) == {"there"}
    # A pool that it is only told to use may be that of another set-up.
    told = replace(setup, instance_family=None)
    steps = {step.kind: step for step in tear_down(admin, told)}
    assert (steps["compute pool"].state, steps["database"].state) == ("kept", "dropped")
    assert steps["compute pool"].note == "with --instance-family it is dropped too"
    assert "dropped" in states(tear_down(admin, setup))
    assert admin.rows("SHOW DATABASES LIKE 'script'") == []
    assert admin.rows("SHOW COMPUTE POOLS LIKE 'script_pool'") == []


def test_each_missing_privilege_comes_with_the_grant_that_mends_it(
    emulator: Emulator, admin: Client
) -> None:
    some_role(admin, "poor")
    mine = client_as(emulator, "POOR")
    setup = Setup(compute_pool="shared", database="poors")

    first = set_up(mine, setup)

    assert "GRANT CREATE DATABASE ON ACCOUNT TO ROLE POOR" in left(first)
    assert "GRANT USAGE, MONITOR ON COMPUTE POOL SHARED TO ROLE POOR" in left(first)
    assert "GRANT EXECUTE TASK, EXECUTE MANAGED TASK ON ACCOUNT TO ROLE POOR" in left(first)
    steps = first
    for _ in range(3):
        for sql in filter(None, left(steps)):
            # What is not there yet cannot be granted on; the next round says so again.
            with contextlib.suppress(SnowflakeError):
                admin.run(sql)
        steps = set_up(mine, setup)
    assert left(steps) == []
    assert [step.state for step in steps if step.name == "SHARED"] == ["there", "there"]
    tear_down(mine, setup)
    mine.close()


def test_what_is_there_and_not_to_be_seen_is_not_taken_for_made(
    emulator: Emulator, admin: Client
) -> None:
    some_role(admin, "blind", "CREATE DATABASE ON ACCOUNT", "CREATE COMPUTE POOL ON ACCOUNT")
    admin.run("CREATE DATABASE hidden_away")
    mine = client_as(emulator, "BLIND")

    steps = set_up(mine, Setup(compute_pool="shared", database="hidden_away"))

    (database,) = [step for step in steps if step.kind == "database"]
    assert database.state == "missing"
    assert database.sql == "GRANT USAGE ON DATABASE HIDDEN_AWAY TO ROLE BLIND"
    mine.close()


def test_dropping_leaves_what_was_found_and_takes_back_what_was_granted(admin: Client) -> None:
    some_role(admin, "found_role", "USAGE ON COMPUTE POOL shared")
    admin.run("CREATE DATABASE found")
    admin.run("CREATE TABLE found.public.mine (n INT)")
    setup = Setup(compute_pool="shared", database="found", role="found_role")
    set_up(admin, setup)
    privileges = "SHOW GRANTS TO ROLE found_role"
    assert len(admin.rows(privileges)) > 1
    # Who has a role that was there is not for set-up to say.
    members = [row["grantee_name"] for row in admin.rows("SHOW GRANTS OF ROLE found_role")]
    assert members == ["FLOWDIST"]

    steps = tear_down(admin, setup)

    kept = {step.name for step in steps if step.state == "kept"}
    assert kept == {"FOUND", "FOUND.PUBLIC", "FOUND_ROLE", "SHARED"}
    assert [row["name"] for row in admin.rows("SHOW TABLES IN DATABASE found")] == ["MINE"]
    assert [(row["privilege"], row["name"]) for row in admin.rows(privileges)] == [
        ("USAGE", "SHARED")
    ]
    assert "dropped" not in states(tear_down(admin, setup))


def test_a_schema_that_others_have_put_something_into_is_not_dropped(admin: Client) -> None:
    setup = Setup(compute_pool="shared", database="crowded", schema="lab", role="crowd_role")
    set_up(admin, setup)
    admin.run("CREATE TABLE crowded.lab.precious (n INT)")

    steps = {f"{step.kind} {step.name}": step for step in tear_down(admin, setup)}

    for kept in (steps["schema CROWDED.LAB"], steps["database CROWDED"]):
        assert kept.state == "kept"
        assert "LAB.PRECIOUS" in kept.note
    assert steps["stage CROWDED.LAB.RUNS"].state == "dropped"


def test_records_on_the_stage_take_back_nothing_that_a_set_up_would_not_grant(
    emulator: Emulator, admin: Client, tmp_path: Path
) -> None:
    some_role(admin, "careful_role", "OPERATE ON COMPUTE POOL shared", "CREATE ROLE ON ACCOUNT")
    setup = Setup(compute_pool="shared", database="careful", role="careful_role")
    set_up(admin, setup)
    forged = {
        "role": "CAREFUL_ROLE",
        "granted": {"COMPUTE POOL SHARED": ["OPERATE"], "ACCOUNT": ["CREATE ROLE"],
                    "ACCOUNT; DROP DATABASE FLOWDIST --": ["EXECUTE TASK"]},
    }  # fmt: skip
    (tmp_path / "forged.json").write_text(json.dumps(forged))
    admin.run(f"PUT 'file://{tmp_path}/forged.json' @careful.public.runs/setup AUTO_COMPRESS=FALSE")

    tear_down(admin, setup)

    left_over = {row["privilege"] for row in admin.rows("SHOW GRANTS TO ROLE careful_role")}
    assert left_over == {"OPERATE", "CREATE ROLE"}
    assert admin.rows("SHOW DATABASES LIKE 'flowdist'") != []


def test_where_hybrid_tables_are_refused_the_queue_is_a_standard_table(
    emulator: Emulator, admin: Client
) -> None:
    setup = Setup(compute_pool="shared", database="gcp", role="gcp_role")
    refusal = {"errno": 2, "sqlstate": "0A000", "message": "Unsupported feature 'HYBRID TABLE'."}

    with emulator.faults.fail_statement("CREATE HYBRID TABLE", **refusal):
        steps = set_up(admin, setup)

    (queue,) = [step for step in steps if (step.kind, step.name) == (
        "table", "GCP.PUBLIC.FLOWDIST_QUEUE")]  # fmt: skip
    assert queue.state == "created"
    assert "Unsupported feature 'HYBRID TABLE'" in queue.note
    tables = {row["name"]: row["is_hybrid"] for row in admin.rows("SHOW TABLES IN DATABASE gcp")}
    assert tables["FLOWDIST_QUEUE"] == "N"
    assert states(set_up(admin, setup)) == {"there"}


def test_another_table_of_that_name_is_not_taken_for_the_queue(admin: Client) -> None:
    admin.run("CREATE DATABASE seeds")
    admin.run("CREATE HYBRID TABLE seeds.public.q (QUEUE_ID VARCHAR PRIMARY KEY, STATUS VARCHAR)")

    steps = set_up(admin, Setup(compute_pool="shared", database="seeds", queue="q", role="s_role"))

    (queue,) = [step for step in steps if step.name == "SEEDS.PUBLIC.Q" and step.kind == "table"]
    assert queue.state == "unsuitable"
    assert "no column" in queue.note


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"role": "accountadmin"}, "runs no containers"),
        ({"database": '"my db"'}, "needs quotes"),
        ({"stage": "a.b.c.d"}, "is not a name"),
        ({"nodes": 0}, "at least one"),
        ({"instance_family": "CPU; DROP"}, "SHOW COMPUTE POOL INSTANCE FAMILIES"),
    ],
)
def test_a_set_up_that_cannot_be_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Setup(compute_pool="p", **fields)


def test_accountadmin_alone_is_no_role_for_flows(admin: Client) -> None:
    with pytest.raises(UsageError, match="ACCOUNTADMIN"):
        set_up(admin, Setup(compute_pool="shared", database="nobodys"))
    assert admin.rows("SHOW DATABASES LIKE 'nobodys'") == []


@pytest.fixture(scope="module")
def granted(emulator: Emulator, admin: Client) -> dict[str, Any]:
    """What plans need for a role that has nothing but what set-up has granted."""
    setup = Setup(
        compute_pool="granted_pool", instance_family="CPU_X64_S", nodes=2, database="granted",
        warehouse="granted_wh", role="granted_role", user="flowdist",
    )  # fmt: skip
    assert left(set_up(admin, setup)) == []
    image = "/granted/public/images/flowdist:1"
    emulator.push_image(image, entrypoint=[sys.executable, "-m", "flowdist.workers"])
    return {
        "compute_pool": "granted_pool",
        "image": image,
        "stage": "granted.public.runs",
        "warehouse": "granted_wh",
        "connection": emulator.connection_parameters(
            role="GRANTED_ROLE", database="GRANTED", warehouse="GRANTED_WH"
        ),
    }


@pytest.mark.parametrize(
    ("constructor", "options"),
    [(spcs_jobs, {"target_jobs": 1}), (spcs_tasks, {"target_jobs": 1}),
     (spcs_queue, {"replicas": 1})],
)  # fmt: skip
def test_flows_run_with_nothing_but_what_was_granted(
    granted: dict[str, Any], tmp_path: Path, constructor: Any, options: dict[str, Any]
) -> None:
    plan = constructor(**granted, **options, root=tmp_path, workers=1)

    run = (
        flow(param_grid(x=range(2)))
        .stage("sq", lambda x: {"y": x * x})
        .reduce("total", lambda sq: int(sq["y"].sum()))
        .distribute(plan)
        .submit()
        .wait(60)
    )

    assert run.status().state == "done"
    assert run.table("total")["value"].tolist() == [1]
    run.delete()


# -- files -----------------------------------------------------------------------------------------

LAB = """
context:
  warehouse: LAB_WH
parallel_lab:
  database: LAB
  schemas: {source_data: DATA, config: CONFIG, models: MODELS}
  compute_pool: shared
  image_uri: "lab.models.images/fits:latest"
  dosnowflake_stage_name: DOSNOWFLAKE_STAGE
  queue_table: DOSNOWFLAKE_QUEUE
  instance_family: CPU_X64_L
  containers_per_node: 2
  demo_queue_n_workers: 4
  demo_forecast_n_skus: 2000
  clean_room: true
  colour: red
"""


def test_the_configuration_of_the_lab_is_read_as_it_is(admin: Client, tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text(LAB)

    fields, remarks = read_config(tmp_path / "lab.yaml")

    setup = Setup(**fields, role="lab_role")
    assert left(set_up(admin, setup)) == []
    assert {row["name"] for row in admin.rows("SHOW SCHEMAS IN DATABASE lab")} >= {
        "DATA", "CONFIG", "MODELS"
    }  # fmt: skip
    assert setup.plan() == {
        "kind": "spcs-queue",
        "compute_pool": "SHARED",
        "image": "/lab/models/images/fits:latest",
        "stage": "LAB.MODELS.DOSNOWFLAKE_STAGE",
        "warehouse": "LAB_WH",
        "queue": "LAB.CONFIG.DOSNOWFLAKE_QUEUE",
        "instance_family": "CPU_X64_L",
        "containers_per_node": 2,
        "replicas": 4,
    }
    assert len(remarks) == 2
    assert "'colour' means nothing" in remarks[0]
    assert "demo_forecast_n_skus, clean_room" in remarks[1]


def test_toml_with_our_own_names(tmp_path: Path) -> None:
    path = tmp_path / "setup.toml"
    path.write_text('[setup]\ncompute_pool = "p"\nhybrid = false\nnodes = 3\n')

    assert read_config(path) == ({"compute_pool": "p", "hybrid": False, "nodes": 3}, [])


@pytest.mark.parametrize(
    ("text", "said"),
    [("nodes: many", "is no number"), ("- a", "no table"), ("a: [", "no YAML"),
     ("database: 5", "is no text"), ("hybrid: maybe", "neither true nor false")],
)  # fmt: skip
def test_a_file_that_says_something_else_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "setup.yaml"
    path.write_text(text)

    with pytest.raises(UsageError, match=said):
        read_config(path)


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def command(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    register_connection("admin", emulator.connection_parameters(role="ACCOUNTADMIN"))
    register_connection("mine", emulator.connection_parameters())
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["setup", "snowflake", *arguments])

    return run


def test_the_command_makes_a_profile_and_undoes_all(command: Any) -> None:
    options = ("--connection", "admin", "--compute-pool", "shared", "--database", "cmd",
               "--role", "cmd_role")  # fmt: skip

    made = command(*options, "--write-profile", "cloud")

    assert made.exit_code == 0, made.output
    assert "image repository   CMD.PUBLIC.IMAGES" in made.output
    assert "stage='CMD.PUBLIC.RUNS'" in made.output
    plan = profile("cloud")
    assert (plan.kind, plan.to_json()["stage"]) == ("spcs-queue", "CMD.PUBLIC.RUNS")
    again = json.loads(command(*options, "--json").stdout)
    assert again["ok"]
    assert {step["state"] for step in again["steps"]} == {"there"}
    asked = CliRunner().invoke(cli, ["setup", "snowflake", *options, "--drop"], input="n\n")
    assert asked.exit_code == 1
    dropped = json.loads(command(*options, "--drop", "--yes", "--json").stdout)
    assert "database" in {step["kind"] for step in dropped["steps"] if step["state"] == "dropped"}


def test_the_command_says_what_an_administrator_has_to_run(command: Any) -> None:
    refused = command("--connection", "mine", "--compute-pool", "shared", "--json")

    assert refused.exit_code == 3
    answer = json.loads(refused.stdout)
    assert not answer["ok"]
    assert "GRANT USAGE, MONITOR ON COMPUTE POOL SHARED TO ROLE FLOWDIST_ROLE" in {
        step["sql"] for step in answer["steps"]
    }


def test_print_connects_to_nothing(command: Any) -> None:
    printed = command("--connection", "nowhere", "--compute-pool", "p", "--role", "r", "--print")

    assert printed.exit_code == 0, printed.output
    assert "GRANT USAGE, MONITOR ON COMPUTE POOL P TO ROLE R;" in printed.stdout
    without = command("--compute-pool", "p", "--print")
    assert without.exit_code == 2
    assert "--role" in without.output


def test_a_pool_has_to_be_named(command: Any) -> None:
    assert "--compute-pool NAME" in command().output
