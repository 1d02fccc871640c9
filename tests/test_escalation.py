"""What is started with more after jobs have ended for want of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support import beat, error_json, results, write_part, write_run

from flowdist.backends.base import Handle, JobState
from flowdist.errors import ResourceError, UsageError
from flowdist.escalation import escalate
from flowdist.flow import Program, flow
from flowdist.grid import param_grid
from flowdist.parts import FAILED, OK
from flowdist.retry import Failure, Policy, grows, retry, retry_oom, retry_timeout
from flowdist.store import JobAttempt, RunFiles

GIB = 1 << 30
OOM, TIMEOUT, DONE = JobState.OUT_OF_MEMORY, JobState.TIMEOUT, JobState.DONE


# The policies ------------------------------------------------------------------------------------


def failure(
    kind: Any = "memory", attempt: int = 1, type_: str = "OutOfMemory", **asked: float
) -> Failure:
    return Failure(kind, type_, "", None, "sq", 0, attempt, 0.0, asked)


def scale(policy: Policy, of: Failure) -> dict[str, float] | None:
    decision = policy(of)
    return None if decision is None else dict(decision.scale)


def test_a_job_without_memory_gets_more_of_it_and_one_without_time_more_of_that() -> None:
    policy = retry_oom(memory=1.5) | retry_timeout(time=3)

    assert scale(policy, failure("memory")) == {"memory": 1.5}
    assert scale(policy, failure("time")) == {"time": 3}
    assert scale(policy, failure("error", type_="ValueError")) is None


def test_a_row_that_raised_memory_error_counts_as_out_of_memory() -> None:
    assert scale(retry_oom(), failure("error", type_="MemoryError")) == {"memory": 2}


def test_no_more_than_the_most_is_asked_for_and_nothing_once_it_is_reached() -> None:
    policy = retry_oom(memory=2, max="12G")

    assert scale(policy, failure(memory=4 * GIB)) == {"memory": 2}
    assert scale(policy, failure(memory=8 * GIB)) == {"memory": 1.5}
    assert scale(policy, failure(memory=12 * GIB)) is None


def test_a_process_that_is_killed_for_its_memory_has_crashed_too() -> None:
    assert retry(1, on="crash")(failure("memory")) is not None
    assert retry(1, on="crash")(failure("time")) is None


def test_a_request_grows_only_so_often() -> None:
    assert scale(retry_oom(times=2), failure(attempt=2, memory=GIB)) is not None
    assert scale(retry_oom(times=2), failure(attempt=3, memory=GIB)) is None


def test_tries_at_a_row_in_the_same_job_do_not_count_as_growing() -> None:
    policy = retry(3) | retry_oom(times=1)

    assert scale(policy, failure("error", attempt=4, type_="MemoryError")) == {"memory": 2}


def test_what_the_plan_does_not_ask_for_cannot_grow(tmp_path: Path) -> None:
    handle = launched(tmp_path)
    manifest = handle.files.manifest()
    del manifest["phases"][0]["plan"]["resources"]["memory"]
    handle.files.path(RunFiles.RUN).unlink()
    handle.files.put_json(RunFiles.RUN, manifest)

    assert not escalate(handle, program(retry_oom()), {0: OOM, 1: DONE}).asked


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: retry_oom(memory=1), UsageError, r"retry_oom: memory=1 is not a factor above 1"),
        (lambda: retry_timeout(time=True), UsageError, r"retry_timeout: time=True"),
        (lambda: retry_oom(times=-1), UsageError, r"times=-1 is not a count"),
        (lambda: retry_oom(max="256"), ResourceError, r"retry_oom: max: '256' has no unit"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(make: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        make()


def test_it_is_known_which_policies_ask_for_more() -> None:
    assert grows(retry(2) & (retry(1) | retry_timeout())) == {"time"}
    assert grows(retry(2, scale={"memory": 2})) == {"memory"}
    assert not grows(retry(2) | retry(1, on="crash"))


# What is started next ----------------------------------------------------------------------------


def program(policy: Policy | None) -> Program:
    return flow(param_grid(x=range(4))).stage("sq", lambda x: x * x, retry=policy).program


def launched(directory: Path, **intent: Any) -> Handle:
    """A run of four rows in two jobs, launched once; each job asks for 1 GiB and an hour."""
    files = write_run(directory, rows=4, jobs=2)
    manifest = files.manifest()
    manifest["phases"][0]["plan"] = {"resources": {"memory": GIB, "time": 3600}}
    files.path(files.RUN).unlink()
    files.put_json(files.RUN, manifest)
    files.put_json(files.intent(1), {"time": 0.0, "jobs": [0, 1], **intent})
    return Handle(files, 1, [0, 1])


def test_where_no_policy_asks_nothing_is_started(tmp_path: Path) -> None:
    found = escalate(launched(tmp_path), program(retry(3)), {0: DONE, 1: OOM})

    assert not found.asked
    assert found.scale == {}


def test_the_jobs_of_a_phase_are_given_more_once_however_many_ran_short(tmp_path: Path) -> None:
    found = escalate(launched(tmp_path), program(retry_oom(memory=3)), {0: OOM, 1: OOM})

    assert found.asked
    assert found.scale == {"rows": {"memory": 3}}
    assert found.times == {"rows": {"memory": 1}}


def test_memory_and_time_grow_apart_and_on_top_of_what_they_have_grown(tmp_path: Path) -> None:
    handle = launched(tmp_path, scale={"rows": {"memory": 4.0}}, grown={"rows": {"memory": 2}})
    policy = retry_oom(memory=2) | retry_timeout(time=1.5)

    found = escalate(handle, program(policy), {0: OOM, 1: TIMEOUT})

    assert found.scale == {"rows": {"memory": 8.0, "time": 1.5}}
    assert found.times == {"rows": {"memory": 3, "time": 1}}


def test_what_jobs_had_grown_to_counts_against_the_most(tmp_path: Path) -> None:
    handle = launched(tmp_path, scale={"rows": {"memory": 4.0}}, grown={"rows": {"memory": 2}})

    assert not escalate(handle, program(retry_oom(max="4G")), {0: OOM, 1: DONE}).asked


def test_the_stage_that_was_at_work_is_asked(tmp_path: Path) -> None:
    handle = launched(tmp_path)
    manifest = handle.files.manifest()
    manifest["phases"][0]["stages"] = ["a", "b"]
    handle.files.path(RunFiles.RUN).unlink()
    handle.files.put_json(RunFiles.RUN, manifest)
    running = beat(running=[{"position": 0, "stage": "b", "seconds": 1.0}])
    handle.files.put_beat(JobAttempt(1, 1), running)
    two = (
        flow(param_grid(x=range(4)))
        .stage("a", lambda x: x, retry=retry_oom(memory=16))
        .stage("b", lambda x: x, retry=retry_oom(memory=2))
    )

    assert escalate(handle, two.program, {0: DONE, 1: OOM}).scale == {"rows": {"memory": 2}}


def test_rows_that_raised_for_want_of_memory_are_tried_again_in_larger_jobs(
    tmp_path: Path,
) -> None:
    handle = launched(tmp_path)
    wanting = json.dumps({"scale": {"memory": 2.0}, **json.loads(error_json(kind="MemoryError"))})
    batch = results([0, 1, 2, 3], status=[OK, FAILED, FAILED, OK])
    errors = pa.array([None, wanting, error_json(), None], pa.string())
    index = batch.schema.get_field_index("_error")
    write_part(handle.files, batch.set_column(index, "_error", errors))

    found = escalate(handle, program(retry_oom()), {0: DONE, 1: DONE})

    assert found.redo.tolist() == [1]
    assert found.scale == {"rows": {"memory": 2}}
