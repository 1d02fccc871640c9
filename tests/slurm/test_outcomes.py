"""How jobs are said to be, from their heartbeats and from SLURM, and what became of them."""

from __future__ import annotations

from typing import Any

import pytest
from support import beat

from flowdist.backends.base import JobState
from flowdist.backends.slurm.cluster import Limits
from flowdist.backends.slurm.outcomes import advice, ending, from_beat, remarks, state_of
from flowdist.backends.slurm.states import Record


def state(beat_: Any = None, record: str | None = None, **known: bool) -> JobState:
    said = {"submitted": True, "answered": True, "known": True, **known}
    found = None if record is None else Record(7, 0, record)
    return state_of(from_beat(beat_), beat_, found, **said)


RUNS, DONE, FAILED = beat(), beat("done"), beat("failed")
OUT_OF_TIME, TOLD = beat("stopped", ending="time"), beat("stopped", ending="told")


@pytest.mark.parametrize(
    ("beat_", "record", "expected"),
    [
        (None, "PENDING", JobState.PENDING),
        (None, "RUNNING", JobState.RUNNING),
        (RUNS, "PENDING", JobState.RUNNING),  # it has begun since SLURM was asked
        (RUNS, "NODE_FAIL", JobState.NODE_FAIL),
        (RUNS, "OUT_OF_MEMORY", JobState.OUT_OF_MEMORY),
        (RUNS, "TIMEOUT", JobState.TIMEOUT),
        (RUNS, "PREEMPTED", JobState.PREEMPTED),
        (None, "COMPLETED", JobState.DONE),
        (None, "FAILED", JobState.FAILED),
        (DONE, "RUNNING", JobState.DONE),
        (DONE, None, JobState.DONE),
        (FAILED, "FAILED", JobState.FAILED),
        (OUT_OF_TIME, "FAILED", JobState.TIMEOUT),
        (OUT_OF_TIME, "PENDING", JobState.PENDING),  # it has requeued itself
        (TOLD, "FAILED", JobState.CANCELLED),
        (TOLD, "CANCELLED", JobState.CANCELLED),
        (RUNS, None, JobState.LOST),
        (None, None, JobState.LOST),
    ],
)
def test_a_job_is_what_its_heartbeat_settles_and_else_what_slurm_says(
    beat_: Any, record: str | None, expected: JobState
) -> None:
    assert state(beat_, record) is expected


@pytest.mark.parametrize("beat_", [None, OUT_OF_TIME, TOLD])
def test_no_answer_is_never_an_end(beat_: Any) -> None:
    assert state(beat_, answered=False) is JobState.UNKNOWN


def test_a_job_that_is_heard_of_runs_whether_slurm_answers_or_not() -> None:
    assert state(RUNS, answered=False) is JobState.RUNNING


def test_a_job_that_slurm_need_not_know_yet_is_pending() -> None:
    assert state(known=False) is JobState.PENDING


def test_a_job_that_was_never_submitted_is_lost() -> None:
    assert state(submitted=False) is JobState.LOST


# What became of a launch -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "records", "expected"),
    [
        ({0: JobState.TIMEOUT}, {}, ("stopped", "1 job came to the time limit (job 0)")),
        (
            {0: JobState.DONE, 1: JobState.NODE_FAIL},
            {1: Record(7, 1, "NODE_FAIL", nodes="n3")},
            ("lost", "1 job lost the node (job 1 on n3)"),
        ),
        (
            {0: JobState.FAILED, 1: JobState.PREEMPTED},
            {0: Record(7, 0, "FAILED", nodes="n1", exit_code=7)},
            (
                "failed",
                (
                    "1 job failed (job 0 on n1 with exit code 7); "
                    "1 job had to make room for others (job 1)"
                ),
            ),
        ),
        (
            dict.fromkeys(range(5), JobState.OUT_OF_MEMORY),
            {},
            ("failed", "5 jobs ran out of memory (job 0, job 1, job 2 and 2 more)"),
        ),
        (
            {3: JobState.CANCELLED},
            {3: Record(7, 3, "CANCELLED", reason="Dependency")},
            (
                "stopped",
                "1 job was dropped, as a job that it follows had not succeeded (job 3)",
            ),
        ),
    ],
)
def test_a_launch_that_ended_says_of_what_and_where(
    states: dict[int, JobState], records: dict[int, Record], expected: tuple[str, str]
) -> None:
    assert ending(states, {}, records) == expected


@pytest.mark.parametrize(
    "state",
    [JobState.OUT_OF_MEMORY, JobState.TIMEOUT, JobState.PREEMPTED, JobState.NODE_FAIL],
)
def test_what_resuming_alone_does_not_mend_comes_with_advice(state: JobState) -> None:
    (remark,) = advice({0: state, 1: JobState.DONE})

    assert remark.text == f"1 of 2 jobs: {state.value}"
    assert remark.advice


# What a launch waits for -------------------------------------------------------------------------


def array(number: int, count: int, limit: int | None = None) -> dict[str, Any]:
    return {"id": number, "count": count, "limit": limit}


def test_jobs_that_wait_are_counted_by_reason_and_explained() -> None:
    queued = [
        *(Record(7, task, "RUNNING") for task in range(2)),
        Record(7, None, "PENDING", reason="JobArrayTaskLimit"),
        Record(8, 0, "PENDING", reason="QOSMaxJobsPerUserLimit"),
    ]
    limits = Limits(running={"QOSMaxJobsPerUserLimit": 2})

    found = remarks(queued, [array(7, 10, limit=2), array(8, 1)], limits, waited=840.0)

    assert [remark.text for remark in found] == [
        (
            "8 jobs pending for 14 min: 2 tasks of the array may run at once "
            "(JobArrayTaskLimit: jobs_at_once); 2 are running"
        ),
        (
            "1 job pending for 14 min: you may run 2 jobs at once under this QOS "
            "(QOSMaxJobsPerUserLimit); 2 are running"
        ),
    ]
    assert found[0].data == {"jobs": 8, "reason": "JobArrayTaskLimit", "seconds": 840.0}


def test_a_job_that_can_never_start_comes_with_what_to_do() -> None:
    queued = [Record(7, None, "PENDING", reason="PartitionTimeLimit")]

    (remark,) = remarks(queued, [array(7, 1)], Limits(), waited=60.0)

    assert remark.kind == "never starts"
    assert remark.advice


def test_jobs_of_others_are_not_spoken_of() -> None:
    assert remarks([Record(9, 0, "PENDING")], [array(7, 1)], Limits(), waited=1.0) == []
