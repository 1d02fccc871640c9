"""SLURM's lists of jobs as records, its states as ours, its reasons in words."""

from __future__ import annotations

import re
import time

import pytest

from flowdist.backends.base import JobState
from flowdist.backends.slurm.cluster import (
    Limits,
    gpus,
    parse_config,
    parse_limits,
    parse_partitions,
    seconds,
)
from flowdist.backends.slurm.states import (
    Record,
    explain_reason,
    job_state,
    never_starts,
    parse_accounting,
    parse_queue,
    plain_reason,
)

# What accounting says --------------------------------------------------------------------------

# As SLURM 22.05 wrote it: two tasks that ended, one that runs, one cancelled.
ACCOUNTING = """\
10_0|COMPLETED|0:0|n1|None|1795223729|1795223731|500M|
10_0.batch|COMPLETED|0:0|n1||1795223729|1795223731||40988K
10_1|FAILED|3:0|n1|None|1795223729|1795223731|500M|
10_1.batch|FAILED|3:0|n1||1795223729|1795223731||40988K
10_2|RUNNING|0:0|n2|JobArrayTaskLimit|1795223731|Unknown|500M|
10_3|CANCELLED by 0|0:15|n1|JobArrayTaskLimit|1795223733|1795223734|500M|
"""


def test_each_task_is_one_record_without_its_steps() -> None:
    assert parse_accounting(ACCOUNTING) == [
        Record(10, 0, "COMPLETED", "", "n1", 0, 0, 1795223729.0, 1795223731.0),
        Record(10, 1, "FAILED", "", "n1", 3, 0, 1795223729.0, 1795223731.0),
        Record(10, 2, "RUNNING", "JobArrayTaskLimit", "n2", 0, 0, 1795223731.0, None),
        Record(10, 3, "CANCELLED", "JobArrayTaskLimit", "n1", 0, 15, 1795223733.0, 1795223734.0),
    ]


def only(text: str) -> Record:
    (record,) = parse_accounting(text)
    return record


def test_memory_that_ran_out_in_a_step_is_the_end_of_the_task() -> None:
    lines = "7_4|FAILED|0:125|n1|None||||\n7_4.batch|OUT_OF_MEMORY|0:125|n1|||||\n"

    assert job_state(only(lines)) is JobState.OUT_OF_MEMORY


@pytest.mark.parametrize("step", ["batch", "0"])
def test_a_task_that_ended_well_is_not_out_of_memory_because_a_step_was(step: str) -> None:
    lines = f"7_4|COMPLETED|0:0|n1|None||||\n7_4.{step}|OUT_OF_MEMORY|0:125|n1|||||\n"

    assert job_state(only(lines)) is JobState.DONE


def test_the_extern_step_says_nothing_of_the_task() -> None:
    lines = "7_4|FAILED|1:0|n1|None||||\n7_4.extern|OUT_OF_MEMORY|0:125|n1|||||\n"

    assert job_state(only(lines)) is JobState.FAILED


def test_a_step_that_was_killed_above_its_memory_ran_out_of_it() -> None:
    lines = "7_4|FAILED|0:9|n1|None|5|9|300M|\n7_4.batch|CANCELLED by 0|0:9|n1||5|9||422996K\n"

    assert job_state(only(lines)) is JobState.OUT_OF_MEMORY


@pytest.mark.parametrize(("asked", "used"), [("500M", "422996K"), ("", "422996K"), ("300M", "")])
def test_a_step_that_was_killed_within_its_memory_did_not(asked: str, used: str) -> None:
    lines = f"7_4|FAILED|0:9|n1|None|5|9|{asked}|\n7_4.batch|CANCELLED|0:9|n1||5|9||{used}\n"

    assert job_state(only(lines)) is JobState.FAILED


def test_a_task_whose_end_is_not_written_down_is_still_completing() -> None:
    assert job_state(only("7_4|FAILED|0:0|n1|None|1795223729|Unknown|500M|")) is JobState.RUNNING


def test_what_slurm_did_not_take_is_told_from_what_failed() -> None:
    refused = only("329_[0]|FAILED|1:0|None assigned|None|None|1795223729|9G|")
    failed = only("330_0|FAILED|1:0|n1|None|1795223729|1795223731|500M|")

    assert (refused.refused, failed.refused) == (True, False)


def test_a_job_that_is_no_array_has_no_task() -> None:
    assert (
        only("12|COMPLETED|0:0|n1|None||||").task,
        only("12|COMPLETED|0:0|n1|None||||").name,
    ) == (
        None,
        "12",
    )


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        ("[5-9%2]", [5, 6, 7, 8, 9]),
        ("[5]", [5]),
        ("[0-3,7,12-18:3%50]", [0, 1, 2, 3, 7, 12, 15, 18]),
        ("[0-2,4,6,8,...", [None]),  # cut short: whatever has no line of its own
    ],
)
def test_tasks_that_are_still_together_have_a_record_each(
    tasks: str, expected: list[int | None]
) -> None:
    records = parse_accounting(f"123_{tasks}|PENDING|0:0|None assigned|None|Unknown|Unknown|500M|")

    assert [(r.array, r.task, r.state) for r in records] == [
        (123, task, "PENDING") for task in expected
    ]


def test_two_lines_of_tasks_together_say_which_tasks_they_mean() -> None:
    records = parse_accounting(
        "5_[0-1]|CANCELLED by 0|0:0|None assigned|None||||\n5_[2,4%1]|PENDING|0:0||None||||\n"
    )

    assert {(r.task, r.state) for r in records} == {
        (0, "CANCELLED"),
        (1, "CANCELLED"),
        (2, "PENDING"),
        (4, "PENDING"),
    }


def test_components_of_a_heterogeneous_job_are_one_record_that_of_the_first() -> None:
    lines = "".join(
        f"{name}|RUNNING|0:0|{node}|None||||\n"
        for name, node in (("123+0", "n1"), ("123+0.batch", "n1"), ("123+1", "n2"))
    )

    assert [(r.array, r.task, r.nodes) for r in parse_accounting(lines)] == [(123, None, "n1")]


def test_times_are_read_however_slurm_writes_them() -> None:
    local = only("1|COMPLETED|0:0|n1|None|2026-11-20T12:00:00|1||")
    number = only(f"1|COMPLETED|0:0|n1|None|{int(local.started or 0)}|0||")

    assert local.started == time.mktime(time.strptime("2026-11-20 12", "%Y-%m-%d %H"))
    assert (number.started, number.ended) == (local.started, None)


def test_lines_that_are_no_jobs_are_passed_over() -> None:
    assert parse_accounting("CLUSTER: lab\n\nsacct: warning|something\n") == []
    assert parse_queue("CLUSTER: lab\nx|RUNNING|n1|N/A|N/A|None\n") == []


# What the queue says ---------------------------------------------------------------------------


def test_the_queue_has_tasks_and_the_rest_of_their_array() -> None:
    records = parse_queue(
        "10_[9,11%3]|PENDING||N/A|N/A|JobArrayTaskLimit\n"
        "10_6|RUNNING|n1|2026-11-21T01:15:33|2026-11-21T02:15:33|None\n"
    )

    assert [(r.task, r.state, r.reason, r.nodes) for r in records] == [
        (6, "RUNNING", "", "n1"),
        (9, "PENDING", "JobArrayTaskLimit", ""),
        (11, "PENDING", "JobArrayTaskLimit", ""),
    ]


def test_a_reason_may_have_words_and_commas() -> None:
    (record,) = parse_queue(
        "4|PENDING||N/A|N/A|ReqNodeNotAvail, UnavailableNodes:n[1-2]\n",
    )

    assert record.reason == "ReqNodeNotAvail, UnavailableNodes:n[1-2]"


# States ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("PENDING", JobState.PENDING),
        ("CONFIGURING", JobState.PENDING),
        ("REQUEUED", JobState.PENDING),
        ("SUSPENDED", JobState.RUNNING),
        ("COMPLETING", JobState.RUNNING),
        ("COMPLETED", JobState.DONE),
        ("FAILED", JobState.FAILED),
        ("TIMEOUT", JobState.TIMEOUT),
        ("DEADLINE", JobState.TIMEOUT),
        ("OUT_OF_MEMORY", JobState.OUT_OF_MEMORY),
        ("PREEMPTED", JobState.PREEMPTED),
        ("NODE_FAIL", JobState.NODE_FAIL),
        ("BOOT_FAIL", JobState.NODE_FAIL),
        ("CANCELLED", JobState.CANCELLED),
        ("A_STATE_OF_NEXT_YEAR", JobState.UNKNOWN),
    ],
)
def test_each_of_slurms_states_is_one_of_ours(word: str, state: JobState) -> None:
    assert job_state(Record(1, 0, word)) is state


# Reasons ---------------------------------------------------------------------------------------

# All reasons of SLURM 22.05 by which a job waits, and those of jobs that ended.
COMMON = """
AccountNotAllowed AccountingPolicy AssocGrpBB AssocGrpBilling AssocGrpBillingMinutes
AssocGrpCPUMinutesLimit AssocGrpCPURunMinutesLimit AssocGrpCpuLimit AssocGrpEnergy AssocGrpGRES
AssocGrpGRESMinutes AssocGrpGRESRunMinutes AssocGrpJobsLimit AssocGrpLicense AssocGrpMemLimit
AssocGrpMemMinutes AssocGrpMemRunMinutes AssocGrpNodeLimit AssocGrpNodeMinutes
AssocGrpSubmitJobsLimit AssocGrpWallLimit AssocMaxBillingPerJob AssocMaxCpuMinutesPerJobLimit
AssocMaxCpuPerJobLimit AssocMaxCpuPerNode AssocMaxGRESPerJob AssocMaxJobsLimit AssocMaxMemPerJob
AssocMaxMemPerNode AssocMaxNodePerJobLimit AssocMaxSubmitJobLimit AssocMaxWallDurationPerJobLimit
AssociationJobLimit AssociationResourceLimit AssociationTimeLimit BadConstraints BeginTime
BurstBufferOperation BurstBufferResources BurstBufferStageIn Cleaning DeadLine Dependency
DependencyNeverSatisfied FedJobLock FrontEndDown InactiveLimit InvalidAccount InvalidQOS
JobArrayTaskLimit JobHeldAdmin JobHeldUser JobHoldMaxRequeue JobLaunchFailure Licenses
MaxBillingPerAccount MaxCpuPerAccount MaxGRESPerAccount MaxJobsPerAccount MaxMemPerLimit
MaxMemoryPerAccount MaxNodePerAccount MaxSubmitJobsPerAccount NodeDown NonZeroExitCode OutOfMemory
PartitionConfig PartitionDown PartitionInactive PartitionNodeLimit PartitionTimeLimit PowerNotAvail
PowerReserved Priority Prolog QOSGrpBilling QOSGrpCPUMinutesLimit QOSGrpCPURunMinutesLimit
QOSGrpCpuLimit QOSGrpGRES QOSGrpGRESMinutes QOSGrpJobsLimit QOSGrpMemLimit QOSGrpMemoryMinutes
QOSGrpNodeLimit QOSGrpSubmitJobsLimit QOSGrpWallLimit QOSJobLimit QOSMaxCpuMinutesPerJobLimit
QOSMaxCpuPerJobLimit QOSMaxCpuPerNode QOSMaxCpuPerUserLimit QOSMaxGRESPerJob QOSMaxGRESPerNode
QOSMaxGRESPerUser QOSMaxJobsPerUserLimit QOSMaxMemoryPerJob QOSMaxMemoryPerNode QOSMaxMemoryPerUser
QOSMaxNodePerJobLimit QOSMaxNodePerUserLimit QOSMaxSubmitJobPerUserLimit
QOSMaxWallDurationPerJobLimit QOSMinCpuNotSatisfied QOSMinGRES QOSMinMemory QOSMinNode
QOSNotAllowed QOSResourceLimit QOSTimeLimit QOSUsageThreshold RaisedSignal ReqNodeNotAvail
Reservation ReservationDeleted Resources SchedDefer SystemFailure TimeLimit
"""


@pytest.mark.parametrize("reason", COMMON.split())
def test_every_common_reason_has_words_of_its_own(reason: str) -> None:
    text = plain_reason(reason)

    assert text
    assert reason not in text
    assert re.match(r"[a-z]", text)


def test_a_new_reason_is_handed_on() -> None:
    assert plain_reason("SomethingNew") == "SLURM says 'SomethingNew'"


def test_no_reason_is_no_words() -> None:
    assert (plain_reason(""), plain_reason("None"), explain_reason("")) == ("", "", "")


def test_nodes_that_are_not_available_are_named() -> None:
    text = plain_reason("ReqNodeNotAvail, UnavailableNodes:n[3-4]")

    assert text.endswith("not available: n[3-4]")


def test_the_reason_that_is_a_sentence_is_understood() -> None:
    sentence = (
        "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority "
        "partitions"
    )

    assert "down, drained, or reserved" in plain_reason(sentence)


def test_a_limit_is_told_with_its_number_and_how_many_run() -> None:
    limits = Limits(running={"QOSMaxJobsPerUserLimit": 50})

    assert (
        explain_reason("QOSMaxJobsPerUserLimit", limits=limits, running=1)
        == "you may run 50 jobs at once under this QOS (QOSMaxJobsPerUserLimit); 1 is running"
    )


def test_a_limit_whose_number_is_not_known_is_told_without() -> None:
    assert (
        explain_reason("AssocMaxJobsLimit", limits=Limits())
        == "you may run only so many jobs at once with this account (AssocMaxJobsLimit)"
    )


@pytest.mark.parametrize(
    ("reason", "answer"),
    [
        ("JobHeldUser", True),
        ("QOSMaxWallDurationPerJobLimit", True),
        ("DependencyNeverSatisfied", True),
        ("Priority", False),
        ("JobArrayTaskLimit", False),
        ("QOSMaxJobsPerUserLimit", False),
        ("ReqNodeNotAvail, UnavailableNodes:n1", False),
    ],
)
def test_a_reason_may_mean_that_a_job_never_starts(reason: str, answer: bool) -> None:
    assert never_starts(reason) is answer


# The cluster -----------------------------------------------------------------------------------

PARTITIONS = """\
PartitionName=debug AllowGroups=ALL AllowAccounts=lab,phys AllowQos=ALL Default=YES QoS=N/A \
DefaultTime=01:00:00 Hidden=NO MaxNodes=UNLIMITED MaxTime=1-00:00:00 OverSubscribe=NO State=UP \
TotalCPUs=16 TotalNodes=4
PartitionName=gpu AllowAccounts=ALL DenyQos=short Default=NO QoS=part-gpu DefaultTime=NONE \
Hidden=YES MaxNodes=1 MaxTime=UNLIMITED OverSubscribe=EXCLUSIVE State=DOWN TotalNodes=1
"""
NODES = """\
debug|2|4|4000|(null)|idle|old
debug|1|8|16000|gpu:a100:2(S:0-1)|mixed|new,fast
debug|1|8|16000|gpu:a100:2(S:0-1)|down*|new,fast
gpu|1|8+|16000+|gpu:a100:2|idle|(null)
"""


def test_partitions_have_their_limits_and_their_nodes() -> None:
    debug, gpu = parse_partitions(PARTITIONS, NODES)

    assert (debug.name, debug.default, debug.up, debug.max_time) == ("debug", True, True, 86400.0)
    assert (debug.allowed_accounts, debug.allowed_qos) == (("lab", "phys"), ())
    assert (debug.nodes, debug.cores, debug.gpus) == (4, 8, 2)
    assert debug.memory == 16000 * 1024**2
    assert (gpu.max_time, gpu.default_time, gpu.max_nodes) == (None, None, 1)
    assert (gpu.up, gpu.hidden, gpu.exclusive, gpu.qos) == (False, True, True, "part-gpu")
    assert gpu.denied_qos == ("short",)


def test_nodes_that_are_down_are_there_and_not_usable() -> None:
    debug, _ = parse_partitions(PARTITIONS, NODES)

    assert [(t.nodes, t.usable, t.cores, t.features) for t in debug.types] == [
        (2, 1, 8, ("new", "fast")),
        (2, 2, 4, ("old",)),
    ]


@pytest.mark.parametrize(
    ("text", "count"), [("gpu:2", 2), ("gpu", 1), ("(null)", 0), ("craynetwork:4,gpu:h100:8", 8)]
)
def test_gpus_are_counted_in_gres(text: str, count: int) -> None:
    assert gpus(text) == count


@pytest.mark.parametrize("text", ["UNLIMITED", "NONE", "INVALID", "", "Partition_Limit"])
def test_what_is_no_time_is_no_limit(text: str) -> None:
    assert seconds(text) is None


def test_configuration_values_may_hold_equals_signs() -> None:
    text = "SchedulerParameters     = bf_interval=1,defer\nMaxArraySize            = 1001\n"

    assert parse_config(text) == {
        "SchedulerParameters": "bf_interval=1,defer",
        "MaxArraySize": "1001",
    }


ASSOCIATIONS = """\
ada|phys|phys||normal,short|normal|20|100||
ada|phys|chem||normal||5|||
ada|phys|phys|gpu|normal||1|1||
"""
QUALITIES = "normal|50|||||\nshort|2|8||||4\n"


def limits(account: str | None = None, qos: str | None = None) -> Limits:
    config = {"MaxArraySize": "1001", "MaxJobCount": "10000"}
    return parse_limits(config, ASSOCIATIONS, QUALITIES, account=account, qos=qos)


def test_without_names_the_default_account_and_its_qos_count() -> None:
    found = limits()

    assert (found.array_size, found.job_count) == (1001, 10000)
    assert found.running == {"AssocMaxJobsLimit": 20, "QOSMaxJobsPerUserLimit": 50}
    assert (found.max_jobs, found.max_submit) == (20, 100)


def test_the_limits_are_those_of_the_account_and_qos_that_are_named() -> None:
    found = limits("chem", "short")

    assert found.running == {"AssocMaxJobsLimit": 5, "QOSMaxJobsPerUserLimit": 2}
    assert found.submitted == {"QOSMaxSubmitJobPerUserLimit": 8, "QOSGrpSubmitJobsLimit": 4}


def test_limits_are_unknown_where_accounting_says_nothing() -> None:
    found = parse_limits({}, "", "", account=None, qos=None)

    assert (found.array_size, found.max_jobs, found.max_submit) == (None, None, None)
