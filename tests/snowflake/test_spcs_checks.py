"""Preflight on Snowflake: each thing that is missing is found, with the statement that mends it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cloud import IMAGE, Cloud
from grammar import check as conforms

import flowdist
from flowdist import Plan, flow, param_grid
from flowdist.backends.snowflake import checks
from flowdist.backends.snowflake.pools import resume_pool, start_pool
from flowdist.errors import BackendError, PreflightError
from flowdist.preflight import Check
from flowdist.run import plan_flow
from flowdist.snowflake.connection import Client, SnowflakeError, client_for, connection_name

NEWCOMER = "NEWCOMER"


def asked(
    plan: Plan, *, brief: bool = False, rows: int = 4, client: Client | None = None
) -> list[Check]:
    summary = plan_flow(flow(param_grid(x=range(rows))).stage("f", lambda x: x).distribute(plan))
    client = client or client_for(plan.connection)  # type: ignore[attr-defined]
    try:
        return checks.check(plan, summary, lambda: client, brief=brief)  # type: ignore[arg-type]
    finally:
        client.close()


def errors(found: Sequence[Check]) -> list[Check]:
    return [one for one in found if one.severity == "error"]


def named(found: Sequence[Check], name: str) -> Check:
    """The gravest finding of that name."""
    order = ("error", "warning", "info")
    return min((one for one in found if one.name == name), key=lambda c: order.index(c.severity))


def as_admin(cloud: Cloud, *statements: str) -> None:
    with cloud.emulator.connect(role="ACCOUNTADMIN") as connection:
        for sql in statements:
            connection.cursor().execute(sql)


@pytest.fixture(scope="module")
def newcomer(cloud: Cloud) -> dict[str, Any]:
    """A connection with a role that has nothing."""
    as_admin(
        cloud,
        f"CREATE ROLE IF NOT EXISTS {NEWCOMER}",
        f"GRANT ROLE {NEWCOMER} TO USER FLOWDIST",
    )
    return {**cloud.connection, "role": NEWCOMER}


@pytest.fixture
def suspended(cloud: Cloud) -> Iterator[str]:
    as_admin(
        cloud,
        "CREATE COMPUTE POOL IF NOT EXISTS asleep MIN_NODES = 1 MAX_NODES = 1 "
        "INSTANCE_FAMILY = CPU_X64_XS INITIALLY_SUSPENDED = TRUE AUTO_RESUME = FALSE",
        "GRANT USAGE ON COMPUTE POOL asleep TO ROLE FLOWDIST_ROLE",
    )
    yield "asleep"
    as_admin(cloud, "DROP COMPUTE POOL asleep")


# -- all is well


@pytest.mark.parametrize("kind", ["spcs-jobs", "spcs-tasks", "spcs-queue"])
def test_nothing_is_wrong_and_nothing_is_left_behind(
    cloud: Cloud, tmp_path: Path, kind: str
) -> None:
    found = asked(cloud.plan(kind, tmp_path))

    assert errors(found) == []
    assert named(found, "pool").what.startswith("2 ") or kind == "spcs-queue"
    assert cloud.client().rows("LIST @flowdist.public.runs") == []


def test_it_asks_little(cloud: Cloud, tmp_path: Path) -> None:
    plan, counts = cloud.plan("spcs-jobs", tmp_path), []
    for brief in (True, False):
        client = cloud.client()
        assert errors(asked(plan, brief=brief, client=client)) == []
        counts.append(client.statements)

    # Every submit pays for the first.
    assert counts[0] <= 3
    assert counts[1] <= 12


def test_what_it_asks_has_the_form_of_the_documentation(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, asks = [], Client.rows

    def rows(self: Client, sql: str, binds: Sequence[Any] = (), **more: Any) -> Any:
        sent.append(sql)
        return asks(self, sql, binds, **more)

    monkeypatch.setattr(Client, "rows", rows)
    client = cloud.client()
    client.run("USE SECONDARY ROLES ALL")
    options = {"secrets": {"A": "word"}, "external_access": "pypi", "warehouse": "FLOWDIST_WH"}
    for kind in ("spcs-tasks", "spcs-queue"):
        asked(cloud.plan(kind, tmp_path, **options), client=client)

    assert {sql: wrong for sql in sent if (wrong := conforms(sql))} == {}
    assert conforms("USE SECONDARY ROLES ALL") == ""
    assert len(sent) > 20


def test_a_submit_that_cannot_work_starts_nothing(cloud: Cloud, tmp_path: Path) -> None:
    plan = cloud.plan("spcs-jobs", tmp_path, compute_pool="cels")

    with pytest.raises(PreflightError, match=r"pool CELS does not exist.*did you mean 'CELLS'"):
        flow(param_grid(x=[1])).stage("f", lambda x: x).distribute(plan).submit()

    assert list(tmp_path.iterdir()) == []


def test_a_connection_that_breaks_on_the_way_is_said_beside_what_was_found(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, asks = cloud.client(), Client.rows

    def rows(self: Client, sql: str, binds: Sequence[Any] = (), **more: Any) -> Any:
        if sql.startswith("SHOW IMAGES"):
            raise SnowflakeError("Snowflake: no answer", 250001)
        return asks(self, sql, binds, **more)

    monkeypatch.setattr(Client, "rows", rows)
    plan = cloud.plan("spcs-jobs", tmp_path, compute_pool="cels")

    for brief in (True, False):
        found = asked(plan, brief=brief, client=client)

        assert [one.name for one in errors(found)] == ["pool", "connection"]
        assert "no answer" in named(found, "connection").what


# -- connection and role


def test_a_connection_that_lets_nobody_in_is_one_finding(cloud: Cloud, tmp_path: Path) -> None:
    wrong = {**cloud.connection, "password": "not-this-one"}

    found = asked(cloud.plan("spcs-jobs", tmp_path, connection=wrong))

    assert [one.name for one in found] == ["connection"]
    assert "not-this-one" not in str(found)
    assert found[0].remedy


def test_a_role_that_has_nothing_is_told_what_to_ask_for(
    cloud: Cloud, tmp_path: Path, newcomer: dict[str, Any]
) -> None:
    plan = cloud.plan("spcs-tasks", tmp_path, connection=newcomer)

    found = errors(asked(plan))
    said = " ".join(one.remedy for one in found)

    assert {one.name for one in found} >= {"pool", "image", "schema", "stage", "tasks"}
    assert all("does not exist, or role NEWCOMER" in one.what or "lacks" in one.what
               for one in found if one.name not in ("warehouse",))  # fmt: skip
    for grant in (
        "GRANT USAGE, MONITOR ON COMPUTE POOL CELLS TO ROLE NEWCOMER",
        "GRANT USAGE ON SCHEMA FLOWDIST.PUBLIC TO ROLE NEWCOMER",
        "GRANT CREATE SERVICE, CREATE TASK, CREATE TABLE ON SCHEMA FLOWDIST.PUBLIC",
        "GRANT READ ON IMAGE REPOSITORY FLOWDIST.PUBLIC.IMAGES TO ROLE NEWCOMER",
        "GRANT READ, WRITE ON STAGE FLOWDIST.PUBLIC.RUNS TO ROLE NEWCOMER",
        "GRANT EXECUTE TASK ON ACCOUNT TO ROLE NEWCOMER",
        "GRANT EXECUTE MANAGED TASK ON ACCOUNT TO ROLE NEWCOMER",
    ):
        assert grant in said


def test_the_grants_that_it_names_mend_it(cloud: Cloud, tmp_path: Path) -> None:
    as_admin(
        cloud,
        "CREATE ROLE learner",
        "GRANT ROLE learner TO USER FLOWDIST",
        "GRANT USAGE ON WAREHOUSE FLOWDIST_WH TO ROLE learner",
    )
    plan = cloud.plan("spcs-tasks", tmp_path, connection={**cloud.connection, "role": "LEARNER"})

    for _ in range(4):
        found = errors(asked(plan))
        # What can be granted is; the rest of a remedy are other ways.
        steps = [s.strip() for one in found for s in one.remedy.split(";")]
        as_admin(cloud, *(step.removeprefix("or ") for step in steps if "GRANT " in step))
        if not found:
            break

    assert found == []
    run = flow(param_grid(x=[1, 2])).stage("f", lambda x: {"y": x})
    jobs = cloud.plan("spcs-jobs", tmp_path, connection={**cloud.connection, "role": "LEARNER"},
                      target_jobs=1)  # fmt: skip
    started = run.distribute(jobs).submit().wait(60)
    assert started.collect()["f.y"].tolist() == [1, 2]
    started.delete()


def test_what_only_a_secondary_role_may_does_not_count(
    cloud: Cloud, tmp_path: Path, newcomer: dict[str, Any]
) -> None:
    client = client_for(connection_name(newcomer))
    client.run("USE SECONDARY ROLES ALL")
    plan = cloud.plan("spcs-jobs", tmp_path, connection=newcomer)
    summary = plan_flow(flow(param_grid(x=[1])).stage("f", lambda x: x).distribute(plan))

    found = checks.check(plan, summary, lambda: client)  # type: ignore[arg-type]

    assert "jobs run as role NEWCOMER alone" in named(found, "role").what
    assert "CREATE SERVICE" in named(found, "schema").remedy
    # The session is as it was.
    assert '"value":"ALL"' in client.value("SELECT CURRENT_SECONDARY_ROLES()")
    client.close()


def test_roles_for_which_no_containers_run(cloud: Cloud, tmp_path: Path) -> None:
    plan = cloud.plan(
        "spcs-jobs", tmp_path, connection={**cloud.connection, "role": "ACCOUNTADMIN"}
    )

    assert "no containers for role ACCOUNTADMIN" in named(asked(plan, brief=True), "role").what


# -- pool


def test_a_suspended_pool_that_does_not_resume(
    cloud: Cloud, tmp_path: Path, suspended: str
) -> None:
    found = asked(cloud.plan("spcs-jobs", tmp_path, compute_pool=suspended), brief=True)

    assert "AUTO_RESUME is off" in named(found, "pool").what
    assert named(found, "pool").remedy.startswith("ALTER COMPUTE POOL ASLEEP RESUME")


def test_more_containers_than_a_pool_has_room_for(cloud: Cloud, tmp_path: Path) -> None:
    jobs = cloud.plan("spcs-jobs", tmp_path, target_jobs=20, workers=4)
    warm = cloud.plan("spcs-queue", tmp_path, replicas=20, workers=4, pre_warm=True)

    found = named(asked(jobs, rows=20, brief=True), "pool")

    assert found.severity == "warning"
    assert "20 containers want 20 nodes" in found.what
    assert "they run in 10 waves" in found.what
    assert "SET MAX_NODES = 20" in found.remedy
    assert "has room for 2" in errors(asked(warm, rows=20, brief=True))[0].what


def test_what_no_node_of_the_pool_can_ever_run(cloud: Cloud, tmp_path: Path) -> None:
    large = cloud.plan("spcs-jobs", tmp_path, memory="64GiB")
    other = cloud.plan("spcs-jobs", tmp_path, instance_family="CPU_X64_S", workers=1)

    assert (
        "can ever start on compute pool CELLS: 64 GiB" in errors(asked(large, brief=True))[0].what
    )
    assert (
        "nodes of compute pool CELLS are CPU_X64_M" in named(asked(other, brief=True), "pool").what
    )


def test_a_plan_for_a_persistent_pool_asks_for_that_alone(cloud: Cloud, tmp_path: Path) -> None:
    plan = cloud.plan("spcs-queue", tmp_path, pool="warm")
    before = asked(plan, brief=True)
    client = cloud.client()
    start_pool(client, plan)  # type: ignore[arg-type]
    try:
        there, elsewhere = asked(plan), asked(cloud.plan("spcs-queue", tmp_path, pool="warm",
                                                         queue="another"))  # fmt: skip
    finally:
        client.run("DROP SERVICE flowdist.public.warm")

    assert "there is no pool FLOWDIST.PUBLIC.WARM, or this role may not see it" in before[0].what
    assert errors(there) == []
    assert "works for queue" in named(elsewhere, "workers").what


def test_a_pool_that_is_suspended_is_started_by_those_who_may(
    cloud: Cloud, tmp_path: Path, newcomer: dict[str, Any]
) -> None:
    plan = cloud.plan("spcs-queue", tmp_path, pool="asleep")
    client = cloud.client()
    name = start_pool(client, plan)  # type: ignore[arg-type]
    theirs = client_for(connection_name(newcomer))
    grant = f"GRANT OPERATE ON SERVICE {name.sql} TO ROLE"
    try:
        client.run(f"ALTER SERVICE {name.sql} SUSPEND")
        as_admin(
            cloud,
            f"GRANT USAGE ON DATABASE flowdist TO ROLE {NEWCOMER}",
            f"GRANT USAGE ON SCHEMA flowdist.public TO ROLE {NEWCOMER}",
            f"GRANT MONITOR ON SERVICE {name.sql} TO ROLE {NEWCOMER}",
        )
        found = asked(cloud.plan("spcs-queue", tmp_path, pool="asleep", connection=newcomer))
        with pytest.raises(BackendError, match=grant):
            resume_pool(theirs, name)
        as_admin(cloud, f"{grant} {NEWCOMER}")

        assert named(found, "workers").severity == "warning"
        assert named(found, "workers").remedy == f"{grant} {NEWCOMER}"
        assert resume_pool(theirs, name)
        assert not resume_pool(theirs, name.beside("NOWHERE"))
    finally:
        client.run(f"DROP SERVICE {name.sql}")


# -- image


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("/flowdist/public/images/flowdist:2", "it has tags: 1"),
        ("/flowdist/public/images/flowdst:1", "did you mean 'flowdist'"),
        ("/flowdist/public/imags/flowdist:1", "FLOWDIST.PUBLIC.IMAGS does not exist, or role"),
    ],
)
def test_an_image_that_is_not_there(cloud: Cloud, tmp_path: Path, image: str, said: str) -> None:
    found = asked(cloud.plan("spcs-jobs", tmp_path, image=image), brief=True)

    assert said in named(found, "image").what
    assert "flowdist image push" in named(found, "image").remedy


def test_the_tag_of_an_image_tells_its_python(cloud: Cloud, tmp_path: Path) -> None:
    version = flowdist.__version__.replace("+", "_").replace("-", "_")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    for tag in (f"{version}-py2.7-00000000", f"{version}-py{here}-00000000"):
        path = f"/flowdist/public/images/tagged:{tag}"
        cloud.emulator.push_image(path, entrypoint=["/bin/true"])

    old, same = (
        asked(cloud.plan("spcs-jobs", tmp_path,
                         image=f"/flowdist/public/images/tagged:{version}-py{v}-00000000"),
              brief=True)
        for v in ("2.7", here)
    )  # fmt: skip

    assert f"Python 2.7 in the image, {here} here" in named(old, "python").what
    assert same == []
    assert "not known" in named(asked(cloud.plan("spcs-jobs", tmp_path)), "python").what


# -- stage, warehouse, queue, secrets, outside


def test_a_stage_that_may_be_read_but_not_written(cloud: Cloud, tmp_path: Path) -> None:
    as_admin(
        cloud,
        "CREATE ROLE reader",
        "GRANT ROLE reader TO USER FLOWDIST",
        "GRANT USAGE ON DATABASE FLOWDIST TO ROLE reader",
        "GRANT USAGE ON SCHEMA FLOWDIST.PUBLIC TO ROLE reader",
        "GRANT READ ON STAGE FLOWDIST.PUBLIC.RUNS TO ROLE reader",
    )
    plan = cloud.plan("spcs-jobs", tmp_path, connection={**cloud.connection, "role": "READER"})

    found = named(asked(plan), "stage")

    assert "role READER cannot write and read there" in found.what
    assert "GRANT READ, WRITE ON STAGE FLOWDIST.PUBLIC.RUNS TO ROLE READER" in found.remedy


def test_stages_that_are_not_there_or_cannot_be_mounted(cloud: Cloud, tmp_path: Path) -> None:
    full = cloud.client()
    full.run("CREATE STAGE IF NOT EXISTS old_one")
    full.run('CREATE SCHEMA IF NOT EXISTS "small"')
    full.run('CREATE STAGE IF NOT EXISTS "small".runs')

    missing = asked(cloud.plan("spcs-jobs", tmp_path, stage="flowdist.public.nowhere"))
    old = asked(cloud.plan("spcs-jobs", tmp_path, stage="old_one"))
    quoted = asked(cloud.plan("spcs-jobs", tmp_path, stage='flowdist."small".runs'), brief=True)

    assert "FLOWDIST.PUBLIC.NOWHERE does not exist, or role" in named(missing, "stage").what
    assert "CREATE STAGE FLOWDIST.PUBLIC.NOWHERE" in named(missing, "stage").remedy
    assert "SNOWFLAKE_FULL" in named(old, "stage").what
    assert errors(old) == []
    assert 'schema "small"' in named(quoted, "stage").what


def test_warehouses(cloud: Cloud, tmp_path: Path) -> None:
    cloud.client().run(
        "CREATE WAREHOUSE IF NOT EXISTS tired INITIALLY_SUSPENDED = TRUE AUTO_RESUME = FALSE"
    )
    none = {**cloud.connection, "warehouse": None}

    missing = asked(cloud.plan("spcs-queue", tmp_path, warehouse="nowhere"))
    tired = asked(cloud.plan("spcs-queue", tmp_path, warehouse="tired"))
    unnamed = asked(cloud.plan("spcs-queue", tmp_path, warehouse=None), brief=True)

    assert "WAREHOUSE NOWHERE does not exist, or role" in named(missing, "warehouse").what
    assert "GRANT USAGE ON WAREHOUSE NOWHERE" in named(missing, "warehouse").remedy
    assert named(tired, "warehouse").remedy.startswith("ALTER WAREHOUSE TIRED RESUME")
    assert "give warehouse=" in named(unnamed, "warehouse").remedy
    assert errors(asked(cloud.plan("spcs-jobs", tmp_path, connection=none))) == []


def test_a_queue_without_hybrid_tables_is_said(cloud: Cloud, tmp_path: Path) -> None:
    from flowdist.snowflake.names import Name
    from flowdist.snowflake.tables import hybrid_queue_table, log_queue_table

    client = cloud.client()
    client.run(log_queue_table(Name.parse("flowdist.public.log_queue")))
    client.run(hybrid_queue_table(Name.parse("flowdist.public.hybrid_queue")))

    log = asked(cloud.plan("spcs-queue", tmp_path, queue="log_queue"))
    hybrid = asked(cloud.plan("spcs-queue", tmp_path, queue="hybrid_queue"))

    assert "FLOWDIST.PUBLIC.LOG_QUEUE is a standard table" in named(log, "queue").what
    assert [one for one in hybrid if one.name == "queue"] == []


def test_a_queue_that_others_have_made(
    cloud: Cloud, tmp_path: Path, newcomer: dict[str, Any]
) -> None:
    from flowdist.snowflake.names import Name
    from flowdist.snowflake.tables import hybrid_queue_table

    cloud.client().run(hybrid_queue_table(Name.parse("flowdist.public.theirs")))
    as_admin(
        cloud,
        f"GRANT USAGE ON DATABASE FLOWDIST TO ROLE {NEWCOMER}",
        f"GRANT USAGE ON SCHEMA FLOWDIST.PUBLIC TO ROLE {NEWCOMER}",
        f"GRANT SELECT ON TABLE FLOWDIST.PUBLIC.THEIRS TO ROLE {NEWCOMER}",
    )

    found = asked(cloud.plan("spcs-queue", tmp_path, queue="theirs", connection=newcomer))
    absent = asked(cloud.plan("spcs-queue", tmp_path, queue="not_yet", connection=newcomer))
    as_admin(cloud, f"GRANT CREATE TABLE ON SCHEMA FLOWDIST.PUBLIC TO ROLE {NEWCOMER}")
    log = asked(cloud.plan("spcs-queue", tmp_path, queue="not_yet", connection=newcomer))

    assert named(found, "queue").remedy == (
        f"GRANT INSERT, UPDATE, DELETE ON TABLE FLOWDIST.PUBLIC.THEIRS TO ROLE {NEWCOMER}"
    )
    assert "GRANT CREATE HYBRID TABLE ON SCHEMA FLOWDIST.PUBLIC" in named(absent, "queue").remedy
    assert named(absent, "queue").severity == "error"
    assert named(log, "queue").severity == "warning"
    assert "will be a standard table" in named(log, "queue").what


def test_secrets_and_integrations(cloud: Cloud, tmp_path: Path) -> None:
    client = cloud.client()
    client.run("CREATE SECRET IF NOT EXISTS word TYPE = GENERIC_STRING SECRET_STRING = 'xyz'")
    client.run("CREATE SECRET IF NOT EXISTS pair TYPE = PASSWORD USERNAME = 'u' PASSWORD = 'xyz'")
    plan = cloud.plan(
        "spcs-jobs",
        tmp_path,
        secrets={"A": "word", "B": "pair", "C": "nowhere", "D": "pair:password"},
        external_access="pypi",
    )

    found = asked(plan)
    secrets = [one for one in found if one.name == "secrets"]

    assert "SECRET FLOWDIST.PUBLIC.NOWHERE does not exist, or role" in secrets[0].what
    assert "GRANT READ ON SECRET FLOWDIST.PUBLIC.NOWHERE" in secrets[0].remedy
    assert "PAIR is of type PASSWORD and has no secret_string" in secrets[1].what
    assert len(secrets) == 2
    assert "INTEGRATION PYPI does not exist, or role" in named(found, "external access").what
    assert "xyz" not in str(found)


def test_a_statement_that_fails_is_a_finding(cloud: Cloud, tmp_path: Path) -> None:
    plan = cloud.plan("spcs-jobs", tmp_path)

    with cloud.emulator.faults.fail_statement("SHOW COMPUTE POOLS", errno=100, message="no"):
        found = asked(plan, brief=True)

    assert "could not be looked at" in named(found, "snowflake").what
    assert plan.image == IMAGE  # type: ignore[attr-defined]
