"""What SLURM's commands are asked, what is made of the answers, and what happens without any."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from fake_fixture import NAME, FakeSlurm, client, replace, script

from flowdist.backends.base import JobState
from flowdist.backends.slurm.states import job_state
from flowdist.errors import BackendError

NO_CONTACT = "Unable to contact slurm controller (connect failure)"


# Asking ----------------------------------------------------------------------------------------


def test_the_queue_and_accounting_tell_of_every_task(fake: FakeSlurm) -> None:
    began = time.time()
    number = client().submit(script('test "$SLURM_ARRAY_TASK_ID" != 2'), name=NAME)
    fake.wait_for(number, "COMPLETED", "FAILED")

    queued = client().queue(NAME)
    accounted = client().accounting(NAME, began)

    done, failed = JobState.DONE, JobState.FAILED
    expected = {0: done, 1: done, 2: failed, 3: done}
    assert {r.task: job_state(r) for r in queued} == expected
    assert {r.task: job_state(r) for r in accounted} == expected
    assert {r.array for r in (*queued, *accounted)} == {number}
    assert next(r for r in accounted if r.task == 2).exit_code == 1


def test_tasks_that_wait_together_have_their_reason(fake: FakeSlurm) -> None:
    number = client().submit(script("sleep 60", array="0-9%2"), name=NAME)
    fake.wait(lambda: list(fake.states(number).values()).count("RUNNING") == 2)

    records = {record.task: record for record in client().queue(NAME)}

    assert sorted(records, key=str) == list(range(10))
    assert {records[task].reason for task in range(2, 10)} == {"JobArrayTaskLimit"}


@pytest.mark.parametrize("state", ["OUT_OF_MEMORY", "TIMEOUT"])
def test_what_slurm_ended_says_why(fake: FakeSlurm, state: str) -> None:
    began = time.time()
    number = client().submit(script("sleep 60", array="0"), name=NAME)
    fake.wait_for(number, "RUNNING")
    fake.kill(number, 0, state)
    fake.wait_for(number, state)

    (record,) = client().accounting(NAME, began)

    assert record.state == state


def test_memory_that_ran_out_is_found_on_the_line_of_the_step(fake: FakeSlurm) -> None:
    began = time.time()
    number = client().submit(script("sleep 60", array="0"), name=NAME)
    fake.wait_for(number, "RUNNING")
    fake.kill(number, 0, "FAILED", step="OUT_OF_MEMORY")
    fake.wait_for(number, "FAILED")

    (record,) = client().accounting(NAME, began)

    assert record.state == "OUT_OF_MEMORY"


def test_memory_that_ran_out_is_seen_by_what_the_step_used(fake: FakeSlurm) -> None:
    began = time.time()
    number = client().submit(script("sleep 60", array="0", mem="300M"), name=NAME)
    fake.wait_for(number, "RUNNING")
    fake.kill(number, 0, "FAILED", step="CANCELLED by 0", memory="422996K")
    fake.wait_for(number, "FAILED")

    (record,) = client().accounting(NAME, began)

    assert record.state == "OUT_OF_MEMORY"


@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED"])
def test_a_task_that_lost_its_node_starts_again(fake: FakeSlurm, state: str) -> None:
    number = client().submit(script('test -n "$SLURM_RESTART_COUNT" || sleep 60'), name=NAME)
    fake.wait(lambda: fake.states(number)[0] == "RUNNING")
    fake.kill(number, 0, state)
    fake.wait(lambda: fake.states(number)[0] == "COMPLETED")

    assert fake.task(number, 0)["restarts"] == 1


@pytest.mark.parametrize(
    ("accounting", "words"),
    [("off", "accounting storage is disabled"), ("down", "Connection refused")],
)
def test_accounting_that_does_not_answer_is_an_error(
    fake: FakeSlurm, accounting: str, words: str
) -> None:
    fake.set(accounting=accounting)

    with pytest.raises(BackendError, match=words):
        client().accounting(NAME, time.time())


def test_an_answer_of_nothing_with_a_complaint_is_an_error(fake: FakeSlurm) -> None:
    replace(
        fake,
        "sacct",
        "echo 'sacct: error: Problem talking to the database: Connection refused' >&2",
    )

    with pytest.raises(BackendError, match="Problem talking to the database"):
        client().accounting(NAME, time.time())


def test_no_jobs_are_no_records(fake: FakeSlurm) -> None:
    assert (client().queue(NAME), client().accounting(NAME, time.time())) == ([], [])


def test_a_command_that_hangs_is_an_error(fake: FakeSlurm) -> None:
    fake.hang("squeue")

    with pytest.raises(BackendError, match="squeue did not answer within"):
        client(timeout=0.5).queue(NAME)


def test_nothing_of_a_command_that_hung_is_left(fake: FakeSlurm) -> None:
    replace(fake, "squeue", f"sleep 600 & echo $! > {fake.directory}/child; wait")

    with pytest.raises(BackendError, match="did not answer"):
        client(timeout=1.0).queue(NAME)

    child = int((fake.directory / "child").read_text())
    fake.wait(lambda: not Path(f"/proc/{child}").exists() or zombie(child))


def zombie(process: int) -> bool:
    return "\nState:\tZ" in Path(f"/proc/{process}/status").read_text()


def test_a_machine_without_slurm_is_told_apart(
    fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(fake.directory))

    with pytest.raises(BackendError, match=r"sbatch cannot be called on .*PATH"):
        client().submit(script(), name=NAME)


def test_ten_thousand_tasks_are_one_question(fake: FakeSlurm) -> None:
    number = fake.add(
        NAME, done=range(5000), running=range(5000, 6000), pending=range(6000, 10_000)
    )

    records = client().queue(NAME)

    assert fake.calls() == 1
    assert len(records) == 10_000
    assert {record.array for record in records} == {number}


# Finding ---------------------------------------------------------------------------------------


def test_arrays_are_found_in_the_order_in_which_they_were_submitted(fake: FakeSlurm) -> None:
    began = time.time()
    ids = [client().submit(script(array=None), name=NAME) for _ in range(3)]
    client().submit(script(name="other"), name="other")

    assert client().find(NAME, began) == ids


def test_what_slurm_refused_is_not_found(fake: FakeSlurm) -> None:
    began = time.time()
    with pytest.raises(BackendError, match="Requested node configuration is not available"):
        client().submit(script(cpus_per_task="64"), name=NAME)

    assert client().queue(NAME)[0].refused
    assert client().accounting(NAME, began)[0].refused
    assert client().find(NAME, began) == []


@pytest.mark.parametrize("fault", ["queue", "accounting"])
def test_one_answer_is_enough_to_find_an_array(fake: FakeSlurm, fault: str) -> None:
    began = time.time()
    number = client().submit(script(), name=NAME)
    fake.wait_for(number, "COMPLETED")
    if fault == "queue":
        fake.fail("squeue", f"slurm_load_jobs error: {NO_CONTACT}")
    else:
        fake.set(accounting="off")

    assert client().find(NAME, began) == [number]


def test_without_any_answer_nothing_is_known_of_an_array(fake: FakeSlurm) -> None:
    fake.fail("squeue", f"slurm_load_jobs error: {NO_CONTACT}")
    fake.set(accounting="down")

    with pytest.raises(BackendError, match=r"squeue failed.*sacct failed"):
        client().find(NAME, time.time())


# Ending and beginning again --------------------------------------------------------------------


def test_cancelled_arrays_end_whether_they_run_or_wait(fake: FakeSlurm) -> None:
    number = client().submit(script("sleep 60", array="0-9"), name=NAME)
    fake.wait(lambda: "RUNNING" in fake.states(number).values())

    client().cancel([number])

    fake.wait_for(number, "CANCELLED")


def test_what_ignores_sigterm_is_killed(fake: FakeSlurm) -> None:
    number = client().submit(script("trap '' TERM; sleep 60", array="0"), name=NAME)
    fake.wait_for(number, "RUNNING")

    client().cancel([number])

    fake.wait_for(number, "CANCELLED")
    assert fake.task(number, 0)["signal"] == signal.SIGKILL


def test_arrays_that_have_ended_can_be_cancelled(fake: FakeSlurm) -> None:
    number = client().submit(script(), name=NAME)
    fake.wait_for(number, "COMPLETED")

    client().cancel([number, 99])

    assert set(fake.states(number).values()) == {"COMPLETED"}


def test_cancelling_nothing_asks_nothing(fake: FakeSlurm) -> None:
    client().cancel([])

    assert fake.calls() == 0


def test_cancelling_is_tried_again(fake: FakeSlurm) -> None:
    number = client().submit(script("sleep 60"), name=NAME)
    fake.fail("scancel", f"scancel: error: {NO_CONTACT}", times=2)

    client().cancel([number])

    fake.wait_for(number, "CANCELLED")


def test_a_requeued_task_starts_again(fake: FakeSlurm) -> None:
    number = client().submit(script('test -n "$SLURM_RESTART_COUNT" || sleep 60'), name=NAME)
    fake.wait_for(number, "RUNNING")

    client().requeue(f"{number}_1")

    fake.wait(lambda: fake.states(number)[1] == "COMPLETED")
    assert fake.task(number, 1)["restarts"] == 1


def test_a_task_that_waits_already_needs_no_requeue(fake: FakeSlurm) -> None:
    fake.hold("Priority")
    number = client().submit(script(), name=NAME)

    client().requeue(f"{number}_1")

    assert fake.task(number, 1)["restarts"] == 0


def test_a_task_that_may_not_be_requeued_says_so(fake: FakeSlurm) -> None:
    text = script("sleep 60").replace("#!/bin/sh", "#!/bin/sh\n#SBATCH --no-requeue")
    number = client().submit(text, name=NAME)
    fake.wait_for(number, "RUNNING")

    with pytest.raises(BackendError, match="Requested operation is presently disabled"):
        client().requeue(f"{number}_1")


# What a job gets -------------------------------------------------------------------------------


def test_jobs_get_the_environment_of_the_submitter_and_nothing_of_its_own_job(
    fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("SLURM_MEM_PER_CPU", "SLURM_CPUS_PER_TASK", "SRUN_CPUS_PER_TASK"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("MINE", "kept")
    monkeypatch.delenv("LC_ALL", raising=False)
    text = script("env", array="5", output=str(tmp_path / "%A-%a.log"))

    number = client().submit(text, name=NAME)
    fake.wait_for(number, "COMPLETED")

    lines = (tmp_path / f"{number}-5.log").read_text().splitlines()
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    assert (found["MINE"], found["SLURM_ARRAY_TASK_ID"]) == ("kept", "5")
    assert not {"SLURM_MEM_PER_CPU", "SLURM_CPUS_PER_TASK", "SRUN_CPUS_PER_TASK"} & set(found)
    assert not {"LC_ALL", "SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN"} & set(found)


def test_variables_of_sbatch_do_not_override_the_script(
    fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "elsewhere")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")
    monkeypatch.setenv("SBATCH_ACCOUNT", "lab")
    number = client().submit(script(partition="debug", time="0:05:00"), name=NAME)

    given = fake.array(number)["environment"]
    assert {name for name in given if name.startswith("SBATCH_")} == {"SBATCH_ACCOUNT"}


def test_testing_a_script_starts_nothing(fake: FakeSlurm) -> None:
    said = client().test_only(script())

    assert said.startswith("Job ")
    assert "to start at" in said
    assert fake.arrays() == []


def test_testing_a_script_that_is_refused_tells_why(fake: FakeSlurm) -> None:
    with pytest.raises(BackendError, match="Invalid qos specification"):
        client().test_only(script(qos="nope"))


# The cluster -----------------------------------------------------------------------------------


def test_the_configuration_is_asked_for_once(fake: FakeSlurm) -> None:
    slurm = client()

    assert slurm.config()["MaxArraySize"] == slurm.config()["MaxArraySize"] == "1001"
    assert fake.calls("scontrol") == 1


def test_partitions_come_with_their_nodes(fake: FakeSlurm) -> None:
    debug, small, gpu = client().partitions()

    assert (debug.name, debug.default, debug.nodes, debug.cores) == ("debug", True, 4, 4)
    assert (small.max_time, gpu.max_time) == (300.0, None)


def test_limits_are_those_of_the_user(fake: FakeSlurm) -> None:
    fake.set(limits={"QOSMaxJobsPerUserLimit": 3, "AssocMaxSubmitJobLimit": 8})

    limits = client().limits(None, None)

    assert (limits.array_size, limits.max_jobs, limits.max_submit) == (1001, 3, 8)


def test_limits_without_accounting_are_those_of_the_configuration(fake: FakeSlurm) -> None:
    fake.set(accounting="off")

    limits = client().limits("lab", "normal")

    assert (limits.array_size, limits.max_jobs, limits.max_submit) == (1001, None, None)


# Dependencies, which the fake keeps as SLURM does -----------------------------------------------


def test_each_task_of_an_aftercorr_array_waits_for_its_own(fake: FakeSlurm) -> None:
    go = fake.directory / "go"
    wait = f'test "$SLURM_ARRAY_TASK_ID" = 0 || until test -e {go}; do sleep 0.02; done'
    first = client().submit(script(wait, array="0-1"), name=NAME)
    text = script(array="0-1", dependency=f"aftercorr:{first}")
    second = client().submit(text, name=NAME, known=[first])

    fake.wait(lambda: fake.states(second)[0] == "COMPLETED")
    assert fake.states(second)[1] == "PENDING"

    go.touch()
    fake.wait_for(second, "COMPLETED")


def test_a_dependency_that_never_comes_true_ends_the_array(fake: FakeSlurm) -> None:
    first = client().submit(script("false"), name=NAME)
    text = script(dependency=f"afterok:{first}", kill_on_invalid_dep="yes")
    second = client().submit(text, name=NAME, known=[first])

    fake.wait_for(second, "CANCELLED")
    (record,) = [record for record in client().queue(NAME) if record.array == second]
    assert (record.task, record.reason) == (None, "DependencyNeverSatisfied")
