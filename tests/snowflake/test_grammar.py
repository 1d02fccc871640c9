"""Every statement that is sent has the form that the documentation gives it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cloud import Cloud
from grammar import check, kinds, sent, undocumented

from flowdist import flow, param_grid
from flowdist.backends.snowflake.setup_plan import Setup, script

# What each plan cannot do without: that its statements were met at all.
EXPECTED = {
    "spcs-jobs": {"EXECUTE JOB SERVICE", "PUT", "GET", "LIST", "REMOVE", "SHOW SERVICE",
                  "DROP SERVICE"},
    "spcs-tasks": {"BLOCK", "EXECUTE TASK", "QUERY"},
    "spcs-queue": {"CREATE HYBRID TABLE", "EXECUTE JOB SERVICE", "QUERY"},
}  # fmt: skip


@pytest.mark.parametrize("kind", EXPECTED)
def test_every_statement_of_a_run_conforms_to_the_documentation(
    cloud: Cloud, tmp_path: Path, kind: str
) -> None:
    run = (
        flow(param_grid(x=range(4)))
        .stage("sq", lambda x: {"y": x * x})
        .reduce("total", lambda sq: int(sq["y"].sum()))
        .distribute(cloud.plan(kind, tmp_path))
        .submit()
        .wait(60)
    )
    run.explain()
    run.collect()
    run.delete()

    statements = sent(cloud.client())

    assert undocumented(statements) == {}
    assert kinds(statements) >= EXPECTED[kind]


def test_the_script_of_a_set_up_conforms() -> None:
    setup = Setup(
        compute_pool="p", database="d", instance_family="CPU_X64_S", role="r", user="u",
        warehouse="w", queue='"My Queue"',
    )  # fmt: skip
    text = "\n".join(line for line in script(setup).splitlines() if not line.startswith("--"))
    statements = [part.strip() for part in text.split(";") if part.strip()]

    assert undocumented(statements) == {}
    others = [t.instead for t in setup.things if t.instead] + [t.show for t in setup.things]
    assert [check(sql) for sql in [*others, *(t.drop for t in setup.things)]] == [""] * (
        len(others) + len(setup.things)
    )


def job(more: str = "", *, container: str = "", volumes: str = "") -> str:
    """The statement of a job, with clauses before its specification."""
    inside = f'{{"name": "main", "image": "/d/s/r/i:1"{container}}}'
    spec = f'$${{"spec": {{"containers": [{inside}]{volumes}}}}}$$'
    return f"EXECUTE JOB SERVICE IN COMPUTE POOL p {more}FROM SPECIFICATION {spec}"


SERVICE = job("MIN_INSTANCES = 1 ").replace("EXECUTE JOB SERVICE", "CREATE SERVICE s")
HISTORY = "SELECT * FROM TABLE(INFORMATION_SCHEMA.TASK_HISTORY(ROOT_TASK_NAME => 'r'))"


def test_the_statement_of_a_job_conforms() -> None:
    assert check(job("NAME = d.s.n ASYNC = TRUE REPLICAS = 2 ")) == ""


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        # What doSnowflake sends:
        (SERVICE, "comes `MIN_INSTANCES"),
        (job("QUERY_WAREHOUSE = "), "comes `"),
        (HISTORY, "no argument ROOT_TASK_NAME"),
        (job(volumes=', "volumes": [{"name": "v", "source": "@d.s.st"}]'), "stageConfig"),
        (job(container=', "resources": {"limits": {"memory": "4"}}'), "no unit"),
        ("ALTER COMPUTE POOL p RESUME IF SUSPENDED", "comes `IF SUSPENDED"),
        # What is easily written:
        (f"{job()} NAME = n", "comes `NAME"),
        (job(container=', "limits": {}'), "containers has no limits"),
        (f"CREATE TASK t AS {job('ASYNC = TRUE ')}", "ASYNC"),
        ("CREATE TASK t AFTER r USER_TASK_TIMEOUT_MS = 5 AS SELECT 1", "comes `"),
        ("SHOW TASKS IN SCHEMA d.s LIKE 'x'", "comes `LIKE"),
        ("CREATE HYBRID TABLE t (a VARCHAR, INDEX i (a))", "primary key"),
        ("CREATE TABLE t (a VARCHAR, INDEX i (a))", "only hybrid"),
        ("PUT file:///a @s", "comes `"),
        ("GRANT READ ACCESS ON STAGE s TO ROLE r", "no privilege"),
        ('DROP SERVICE "my service"', "no name for a service"),
        ("SELECT SYSTEM$GUESS('x')", "no function"),
        ("SELECT a FROM", "not to be read"),
        ("VACUUM t", "no grammar"),
        ("EXECUTE IMMEDIATE $$BEGIN SELECT 1; EXECUTE TASK; END$$", "in the block"),
    ],
)
def test_what_the_documentation_does_not_have_is_noticed(sql: str, said: str) -> None:
    assert said in check(sql)
