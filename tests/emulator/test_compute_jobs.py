"""Jobs: EXECUTE JOB SERVICE in its forms, how jobs end, and what is seen of them."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from fake_runtime import Lab, spec

from flowdist.emulator.errors import SqlError

RETENTION = 30 * 86400


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """For statements that are refused."""
    return Lab(tmp_path_factory.mktemp("lab"))


def end(lab: Lab, code: int = 0, reason: str = "") -> None:
    """All running containers exit."""
    for launch in lab.runtime.running():
        lab.runtime.exit(launch.directory, code, reason)
    lab.tick()
    lab.tick()


def test_a_synchronous_job_answers_when_it_is_done(lab: Lab) -> None:
    answer = lab.job("ok", "")
    assert answer == "Job J completed successfully with status: DONE."
    assert lab.status() == "DONE"


def test_an_asynchronous_job_answers_at_once(lab: Lab) -> None:
    assert lab.job() == "Started Snowpark Container Services Job 'J'."
    assert lab.status() == "PENDING"
    lab.tick()
    assert lab.status() == "RUNNING"
    end(lab)
    assert lab.status() == "DONE"
    described = lab.one("DESCRIBE SERVICE j")
    assert (described["is_job"], described["is_async_job"]) == ("true", "true")


def test_a_synchronous_job_that_fails_is_an_error_with_the_exit_code(lab: Lab) -> None:
    with pytest.raises(SqlError) as error:
        lab.job("bad", "")
    assert "Job J failed with status: FAILED" in error.value.message
    assert "exited with code 3" in error.value.message
    assert "check container logs" in error.value.message
    (row,) = lab.containers()
    assert (row["status"], row["last_exit_code"], row["restart_count"]) == ("FAILED", 3, 0)


@pytest.mark.parametrize(
    "text",
    [
        "EXECUTE JOB SERVICE IN COMPUTE POOL p NAME=j ASYNC=TRUE COMMENT='c' {spec}",
        "EXECUTE JOB SERVICE IN COMPUTE POOL p {spec} NAME=flowdist.public.j ASYNC=TRUE",
        "execute job service in compute pool p {spec} async=true name=j comment='c'",
    ],
)
def test_the_specification_may_come_first_or_last(lab: Lab, text: str) -> None:
    assert lab.sql(text.replace("{spec}", spec("ok")))[0]["status"].endswith("Job 'J'.")


def test_a_job_without_a_name_gets_one_from_its_query(lab: Lab) -> None:
    answer = lab.one(f"EXECUTE JOB SERVICE IN COMPUTE POOL p {spec('ok')}")["status"]
    name = answer.split()[1]
    assert name.startswith("JOB_")
    assert name[4:].replace("_", "-").lower() in lab.session.query_ids


def test_a_specification_from_a_template(lab: Lab) -> None:
    lab.sql(
        "EXECUTE JOB SERVICE IN COMPUTE POOL p NAME=j FROM SPECIFICATION_TEMPLATE $$\n"
        "spec:\n  containers:\n  - name: {{ name | default('main') }}\n    image: {{ Image }}\n$$"
        """ USING (Image => ' "/flowdist/public/repo/ok:1" ')"""
    )
    assert lab.containers()[0]["container_name"] == "main"
    with pytest.raises(SqlError, match="no value is given for the variable 'x'"):
        lab.sql(
            "EXECUTE JOB SERVICE IN COMPUTE POOL p FROM SPECIFICATION_TEMPLATE '{{ x }}' "
            "USING (y => 1)"
        )


@pytest.mark.parametrize("word", ["SPECIFICATION_FILE", "SPEC"])
def test_a_specification_from_a_file_on_a_stage(lab: Lab, tmp_path: Path, word: str) -> None:
    lab.sql("CREATE STAGE specs")
    stage, _ = lab.account.files.locate("@specs", lab.session)
    upload = tmp_path / "upload"
    upload.write_text(spec("ok").split("$$")[1])
    lab.account.files.place(stage, upload, "jobs/a.yaml")
    start = "EXECUTE JOB SERVICE IN COMPUTE POOL p NAME=j FROM @specs"
    assert lab.one(f"{start} {word}='jobs/a.yaml'")["status"].endswith("DONE.")
    with pytest.raises(SqlError, match="was not found in stage"):
        lab.sql(f"{start}/jobs {word}='b.yaml'")


def test_replicas_know_their_number(lab: Lab) -> None:
    lab.job(more="ASYNC=TRUE REPLICAS=3")
    lab.tick()
    environments = [launch.env for launch in lab.runtime.launches]
    assert [env["SNOWFLAKE_JOB_INDEX"] for env in environments] == ["0", "1", "2"]
    assert {env["SNOWFLAKE_JOBS_COUNT"] for env in environments} == {"3"}
    rows = lab.sql("SHOW SERVICE INSTANCES IN SERVICE IDENTIFIER(?)", "flowdist.public.j")
    assert [row["instance_id"] for row in rows] == ["0", "1", "2"]
    assert len({row["ip_address"] for row in rows}) == 3


def test_without_replicas_there_is_no_index(lab: Lab) -> None:
    lab.job()
    lab.tick()
    assert "SNOWFLAKE_JOB_INDEX" not in lab.runtime.launches[0].env


def test_one_failed_replica_makes_the_job_fail_and_the_others_go_on(lab: Lab) -> None:
    lab.job(more="ASYNC=TRUE REPLICAS=2")
    lab.tick()
    lab.runtime.exit(lab.runtime.launches[1].directory, 1)
    lab.tick()
    assert lab.status() == "FAILED"
    assert [row["status"] for row in lab.containers()] == ["READY", "FAILED"]
    end(lab)
    assert [row["status"] for row in lab.containers()] == ["DONE", "FAILED"]
    assert len(lab.runtime.launches) == 2


def test_a_container_that_takes_too_much_memory_says_so(lab: Lab) -> None:
    lab.job()
    lab.tick()
    end(lab, 137, "OOMKilled")
    assert lab.containers()[0]["message"] == "Container was OOMKilled due to resource usage"


def test_a_name_is_taken_until_the_job_is_dropped(lab: Lab) -> None:
    lab.job("ok", "")
    with pytest.raises(SqlError) as error:
        lab.job("ok", "")
    assert error.value.errno == 2002
    assert lab.one("DROP SERVICE j")["status"] == "J successfully dropped."
    lab.job("ok", "")
    lab.clock.advance(RETENTION + 1)
    lab.tick()
    assert lab.sql("SHOW SERVICES") == []
    assert list((lab.account.directory / "services").iterdir()) == []


@pytest.mark.parametrize("name", ['"j"', "j$x", "j_", f"j{'x' * 63}", '"a b"'])
def test_names_are_unquoted_identifiers_that_dns_takes(unchanged: Lab, name: str) -> None:
    with pytest.raises(SqlError):
        unchanged.sql(f"EXECUTE JOB SERVICE IN COMPUTE POOL p NAME={name} {spec()}")


def test_cancelling_keeps_the_job_and_ends_its_containers(lab: Lab) -> None:
    lab.runtime.obeys = 5.0
    lab.job(more="ASYNC=TRUE REPLICAS=2")
    lab.tick()
    assert "cancelled" in lab.call("!SPCS_CANCEL_JOB", "j")
    assert lab.status() == "CANCELLING"
    lab.tick()
    assert lab.sql("SHOW SERVICE INSTANCES IN SERVICE j")[0]["status"] == "TERMINATING"
    lab.tick(5)
    lab.tick()
    assert lab.status() == "CANCELLED"
    assert lab.containers()[0]["last_exit_code"] == 143
    assert "already" in lab.call("SYSTEM$CANCEL_JOB", "j")


def test_an_aborted_statement_cancels_its_job(lab: Lab) -> None:
    query, _ = lab.account.query(
        lab.session, f"EXECUTE JOB SERVICE IN COMPUTE POOL p NAME=j {spec()}"
    )
    lab.account.compute.start()
    running = threading.Thread(target=lab.account.run, args=(lab.session, query))
    running.start()
    while not lab.runtime.running():
        lab.account.compute.wake()
    lab.account.queries.abort(query)
    running.join(10)
    assert query.error is not None
    assert query.error.errno == 604
    assert "CANCELLED" in lab.call("!SPCS_WAIT_FOR", "j", "CANCELLED", 60)
    lab.account.compute.close()
    assert lab.runtime.stops


def test_a_statement_that_takes_too_long_cancels_its_job(lab: Lab) -> None:
    lab.session.parameters["STATEMENT_TIMEOUT_IN_SECONDS"] = 60
    with pytest.raises(SqlError) as error:
        lab.job("wait", "")
    assert (error.value.errno, error.value.sqlstate) == (630, "57014")
    end(lab)
    assert lab.status() == "CANCELLED"


def test_dropping_gives_thirty_seconds_and_frees_the_name_at_once(lab: Lab) -> None:
    lab.runtime.obeys = None
    lab.job()
    lab.tick()
    lab.sql("DROP SERVICE j")
    lab.tick()
    lab.job()
    lab.tick(29)
    assert len(lab.runtime.running()) == 2
    lab.tick(1)
    assert len(lab.runtime.running()) == 1


def test_jobs_can_not_be_altered(lab: Lab) -> None:
    lab.job("ok", "")
    with pytest.raises(SqlError, match="cannot be altered"):
        lab.sql("ALTER SERVICE j SUSPEND")


def test_events_come_in_the_documented_order(lab: Lab) -> None:
    lab.job("ok", "")
    events = lab.table("!SPCS_GET_EVENTS", "j")
    seen = [
        (row["EVENT_NAME"].split(".")[0], *json.loads(row["EVENT_DETAILS"]).values())
        for row in reversed(events)
    ]
    assert seen == [
        ("CONTAINER", "Waiting to start", "PENDING"),
        ("SERVICE", "Job is pending", "PENDING"),
        ("SERVICE_INSTANCE", "Job instance is pending", "PENDING"),
        ("CONTAINER", "Running", "READY"),
        ("SERVICE", "Job is running", "RUNNING"),
        ("SERVICE_INSTANCE", "Job instance is running", "READY"),
        ("CONTAINER", "Completed successfully", "DONE"),
        ("SERVICE", "Job is completed", "DONE"),
        ("SERVICE_INSTANCE", "Job instance has completed", "SUCCEEDED"),
    ]


def test_waiting_for_a_status(lab: Lab) -> None:
    lab.job()
    assert "RUNNING" in lab.call("!SPCS_WAIT_FOR", "j", "running", 5)
    with pytest.raises(SqlError, match=r"did not reach .* Current status: RUNNING"):
        lab.call("!SPCS_WAIT_FOR", "j", "DONE", 5)
    end(lab, 1)
    with pytest.raises(SqlError, match=r"can not reach .* Current status: FAILED"):
        lab.call("!SPCS_WAIT_FOR", "j", "DONE", 5)


def test_the_history_keeps_what_was_dropped(lab: Lab) -> None:
    with pytest.raises(SqlError):
        lab.job("bad", "REPLICAS=2")
    lab.sql("DROP SERVICE j")
    lab.restart()
    (job,) = lab.table("SNOWFLAKE.SPCS.GET_JOB_HISTORY")
    assert (job["NAME"], job["STATUS"], job["MESSAGE"]) == ("J", "FAILED", "Job failed.")
    assert job["DELETED_TIME"] is not None
    assert json.loads(job["PARAMETERS"]) == {"ASYNC": False, "REPLICAS": 2}
    statuses = json.loads(job["INSTANCE_STATUSES"])
    assert (statuses["totalInstances"], statuses["failedInstances"]) == (2, 2)
    assert statuses["instances"][1]["containers"][0]["lastExitCode"] == 3
    lab.session.role = "ACCOUNTADMIN"
    assert lab.table("SNOWFLAKE.SPCS.GET_JOB_HISTORY") == []


def test_logs_that_are_not_there_yet(lab: Lab) -> None:
    lab.sql("ALTER COMPUTE POOL p SUSPEND")
    lab.account.compute.pause("P")
    lab.job()
    with pytest.raises(SqlError, match="Container Status: PENDING"):
        lab.call("SYSTEM$GET_SERVICE_LOGS", "j", "0", "main")
    with pytest.raises(SqlError, match="was not found in service J"):
        lab.call("SYSTEM$GET_SERVICE_LOGS", "j", 7, "main")


def test_who_may_run_a_job(lab: Lab) -> None:
    lab.account.catalog.create("role", ("OTHER",), owner="USERADMIN")
    lab.session.role = "OTHER"
    with pytest.raises(SqlError) as error:
        lab.job()
    assert error.value.errno in (2003, 3001)
    lab.session.role = "FLOWDIST_ROLE"
    lab.job("ok", "")
    lab.session.role = "OTHER"
    with pytest.raises(SqlError) as error:
        lab.sql("DESCRIBE SERVICE flowdist.public.j")
    assert error.value.errno == 2003


def test_an_image_that_nobody_pushed(lab: Lab) -> None:
    with pytest.raises(SqlError):
        lab.job("missing")


def test_an_image_is_for_the_processors_of_the_pool(lab: Lab) -> None:
    lab.account.images.push(
        "/flowdist/public/repo/arm:1", entrypoint=["exit", "0"], architecture="arm64"
    )
    with pytest.raises(SqlError, match=r"linux/arm64; nodes of CPU_X64_S need linux/amd64"):
        lab.job("arm", "")
    lab.sql("CREATE COMPUTE POOL q MIN_NODES=1 MAX_NODES=1 INSTANCE_FAMILY=GEN_ARM_G1_2")
    on_arm = "EXECUTE JOB SERVICE IN COMPUTE POOL q NAME=j "
    with pytest.raises(SqlError, match=r"linux/amd64; nodes of GEN_ARM_G1_2 need linux/arm64"):
        lab.sql(on_arm + spec("ok"))
    assert lab.sql("SHOW SERVICES") == []
    assert lab.one(on_arm + spec("arm"))["status"].endswith("DONE.")


@pytest.mark.parametrize(
    "text",
    [
        "EXECUTE JOB SERVICE IN COMPUTE POOL p NAME=j",
        "EXECUTE JOB SERVICE NAME=j {spec}",
        "EXECUTE JOB SERVICE IN COMPUTE POOL p NAME=j NAME=k {spec}",
        "EXECUTE JOB SERVICE IN COMPUTE POOL p MIN_INSTANCES=1 {spec}",
        "EXECUTE JOB SERVICE IN COMPUTE POOL p REPLICAS=0 {spec}",
        "EXECUTE JOB SERVICE IN COMPUTE POOL p WITH TAG (a='b') {spec}",
        "EXECUTE JOB SERVICE IN COMPUTE POOL p FROM SPECIFICATION_TEMPLATE 'x'",
    ],
)
def test_statements_that_are_refused(unchanged: Lab, text: str) -> None:
    with pytest.raises(SqlError):
        unchanged.sql(text.replace("{spec}", spec("ok")))
    assert unchanged.sql("SHOW SERVICES") == []
