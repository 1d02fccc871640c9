"""From the lines of sacct: what each start of each job asked for and used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from flowdist.backends.base import Handle
from flowdist.backends.slurm.usage import FIELDS, parse_usage, usage
from flowdist.store import RunFiles
from flowdist.usage import JobUsage

MB = 1024**2


def line(job: str, state: str = "COMPLETED", **known: str) -> dict[str, str]:
    """One line of sacct; fields that are not given are as on the line of a job."""
    values = {
        "ElapsedRaw": "60",
        "TotalCPU": "01:30.500",
        "AllocCPUS": "2",
        "ReqMem": "300M",
        "AllocTRES": "billing=2,cpu=2,mem=300M,node=1",
        "AllocNodes": "1",
        "TimelimitRaw": "2",
        "NodeList": "n1",
    }
    return {**dict.fromkeys(FIELDS, ""), **values, "JobID": job, "State": state, **known}


def step(job: str, state: str = "COMPLETED", memory: str = "76886016") -> dict[str, str]:
    """The line of a step, which alone knows of memory."""
    return {**dict.fromkeys(FIELDS, ""), "JobID": job, "State": state, "MaxRSS": memory}


def parsed(*lines: dict[str, str], base: int = 0) -> list[JobUsage]:
    return parse_usage(lines, {7: (1, base)})


def test_a_task_has_what_it_asked_for_and_what_its_steps_used() -> None:
    (one,) = parsed(line("7_3"), step("7_3.batch"), step("7_3.0", memory="80000000"))

    assert one == JobUsage(
        job=3,
        attempt=1,
        state="done",
        node="n1",
        cpus_asked=2,
        cpu_seconds=90.5,
        memory_asked=300 * MB,
        memory_used=80_000_000,
        time_asked=120,
        seconds=60.0,
    )


def test_tasks_of_later_arrays_are_later_jobs() -> None:
    (one,) = parsed(line("7_3"), base=22)

    assert one.job == 25


def test_a_job_that_is_no_array_is_the_first_of_its_base() -> None:
    (one,) = parsed(line("7"), step("7.batch"), base=40)

    assert (one.job, one.memory_used) == (40, 76886016)


def test_each_start_of_a_requeued_task_is_told_apart() -> None:
    first, second = parsed(
        line("7_0", "REQUEUED", ElapsedRaw="10"),
        step("7_0.batch", "CANCELLED", memory="100"),
        line("7_1"),
        line("7_0", ElapsedRaw="20"),
        step("7_0.batch", memory="200"),
    )[::2]

    assert [(one.state, one.start, one.seconds, one.memory_used) for one in (first, second)] == [
        ("requeued", 0, 10.0, 100),
        ("done", 1, 20.0, 200),
    ]


@pytest.mark.parametrize("state", ["FAILED", "OUT_OF_MEMORY", "CANCELLED by 0"])
def test_a_step_that_ran_out_of_memory_says_so_for_the_job(state: str) -> None:
    (one,) = parsed(line("7_0", state), step("7_0.batch", "OUT_OF_MEMORY"))

    assert one.state == "out of memory"


def test_a_task_that_was_told_off_by_its_time_limit_has_timed_out() -> None:
    (one,) = parsed(line("7_0", "TIMEOUT"), step("7_0.batch", "CANCELLED"))

    assert one.state == "timeout"


def test_tasks_that_never_began_are_left_out() -> None:
    waiting = line("7_[1-3]", "PENDING", ElapsedRaw="0", NodeList="None assigned")
    cancelled = line("7_4", "CANCELLED", ElapsedRaw="0", NodeList="None assigned")

    assert parsed(waiting, cancelled) == []


def test_jobs_of_somebody_elses_arrays_are_left_out() -> None:
    assert parsed(line("8_0"), step("8_0.batch")) == []


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        ({"AllocTRES": "cpu=4,mem=8G,node=2", "AllocNodes": "2"}, 4096 * MB),
        ({"AllocTRES": "cpu=2,node=1", "ReqMem": "2Gc"}, 4096 * MB),
        ({"AllocTRES": "cpu=2,node=1", "ReqMem": "2Gn"}, 2048 * MB),
        ({"AllocTRES": "", "ReqMem": "0"}, None),
        ({"AllocTRES": "", "ReqMem": "?"}, None),
    ],
)
def test_memory_is_that_of_one_node(known: dict[str, str], asked: int | None) -> None:
    (one,) = parsed(line("7_0", **known))

    assert one.memory_asked == asked


def test_a_job_without_a_time_limit_asked_for_none() -> None:
    (one,) = parsed(line("7_0", TimelimitRaw="UNLIMITED"))

    assert one.time_asked is None


def test_memory_that_was_never_looked_at_is_unknown() -> None:
    (one,) = parsed(line("7_0"), step("7_0.batch", memory="0"), step("7_0.extern", memory=""))

    assert one.memory_used is None


class Accounting:
    """Answers as sacct does, and notes what it was asked."""

    def __init__(self, *lines: dict[str, str]) -> None:
        self.lines = list(lines)
        self.asked: list[tuple[str, float]] = []

    def usage(self, name: str, since: float, fields: Sequence[str]) -> list[dict[str, str]]:
        self.asked.append((name, since))
        return self.lines


def handle(directory: Path, *launches: dict[str, object]) -> Handle:
    files = RunFiles.at(directory)
    files.put_json(files.RUN, {"id": "demo-1", "created": 1000.0})
    for number, launch in enumerate(launches, 1):
        files.put_json(files.intent(number), {})
        files.put_json(files.launch(number), launch)
    return Handle(files, len(launches), [0])


def test_all_launches_of_a_run_are_one_question(tmp_path: Path) -> None:
    run = handle(
        tmp_path,
        {"arrays": [{"id": 7, "base": 0}, {"id": 8, "base": 11}]},
        {"arrays": [{"id": 9, "base": 0}]},
    )
    accounting = Accounting(line("7_2"), line("8_2"), line("9_2"))

    found = usage(run, accounting)

    assert [(one.job, one.attempt) for one in found] == [(2, 1), (13, 1), (2, 2)]
    assert accounting.asked == [("demo-1", 1000.0)]


def test_a_run_that_slurm_never_had_asks_nothing(tmp_path: Path) -> None:
    accounting = Accounting(line("7_0"))

    assert usage(handle(tmp_path, {"arrays": []}), accounting) == []
    assert accounting.asked == []
