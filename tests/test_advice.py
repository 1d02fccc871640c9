"""What to ask for next time: from figures to sentences, with the margins that are in them."""

from __future__ import annotations

import pytest

from flowdist.advice import phase_usages, round_memory, round_time, suggest
from flowdist.backends.slurm.plans import slurm
from flowdist.plan import Plan, local
from flowdist.resources import parse_memory
from flowdist.usage import JobUsage

GB = 1024**3
HOUR = 3600


def used(job: int = 0, state: str = "done", **known: object) -> JobUsage:
    """A job of half an hour, about which the rest is as given."""
    return JobUsage(job, 1, state, "n1", **{"seconds": 1800.0, **known})  # type: ignore[arg-type]


def only(usages: list[JobUsage], plan: Plan | None = None) -> str:
    (sentence,) = suggest(usages, plan or slurm(workers=4))
    return sentence


# Memory ------------------------------------------------------------------------------------------


def test_memory_that_was_hardly_used_is_asked_for_with_half_of_it_added() -> None:
    jobs = [
        used(n, memory_asked=8 * GB, memory_used=size * GB // 10) for n, size in ((0, 5), (1, 11))
    ]

    assert only(jobs) == (
        "memory='1.75GB' would do: the fullest job used 1.1 GiB of 8 GiB (half of it is added)"
    )


def test_memory_that_was_used_well_is_left_alone() -> None:
    assert suggest([used(memory_asked=8 * GB, memory_used=5 * GB)], slurm()) == []


def test_little_memory_is_left_alone() -> None:
    assert suggest([used(memory_asked=GB, memory_used=GB // 50)], slurm()) == []


def test_memory_that_was_nearly_all_used_is_not_safe() -> None:
    sentence = only([used(memory_asked=8 * GB, memory_used=int(7.8 * GB))])

    assert sentence == "memory='10GB' is safer: the fullest job used 7.8 GiB of 8 GiB"


def test_jobs_that_ran_out_of_memory_get_twice_as_much() -> None:
    jobs = [used(0, "out of memory", memory_asked=8 * GB), used(1, memory_asked=8 * GB)]

    assert only(jobs) == "memory='16GB' or fewer workers: 1 job ran out of 8 GiB"


def test_where_more_memory_has_helped_that_is_what_to_ask_for() -> None:
    jobs = [
        used(0, "out of memory", memory_asked=8 * GB, memory_used=8 * GB),
        used(0, memory_asked=12 * GB, memory_used=9 * GB),
    ]

    assert only(jobs).startswith("memory='12GB'")


def test_memory_that_nobody_asked_for_is_not_judged() -> None:
    assert suggest([used(memory_used=GB)], slurm()) == []


# Time --------------------------------------------------------------------------------------------


def test_time_that_was_hardly_used_is_asked_for_with_half_of_it_added() -> None:
    assert only([used(time_asked=8 * HOUR)]) == (
        "time='45min' would do, and shorter jobs start sooner: the longest took 30 min of 8 h "
        "(half of it is added)"
    )


def test_jobs_that_were_cut_off_get_twice_the_time() -> None:
    jobs = [
        used(0, "timeout", time_asked=2 * HOUR, seconds=2.0 * HOUR),
        used(1, time_asked=2 * HOUR),
    ]

    assert only(jobs) == "time='4h', or resubmit=True: 1 job came to the end of 2 h"


def test_where_jobs_go_on_by_themselves_their_time_is_left_alone() -> None:
    jobs = [used(0, "timeout", time_asked=2 * HOUR), used(1, time_asked=8 * HOUR)]

    assert suggest(jobs, slurm(resubmit=True)) == []


def test_the_time_of_jobs_that_were_ended_says_nothing() -> None:
    assert suggest([used(0, "cancelled", time_asked=8 * HOUR)], slurm()) == []


# Cores -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "change"),
    [
        (slurm(workers=8), "workers=3"),
        (slurm(cores_per_node=8), "cores_per_node=3"),
        (slurm(workers=2, cpus=4), "cpus=2"),
    ],
)
def test_idle_cores_are_told_by_what_the_plan_has_said(plan: Plan, change: str) -> None:
    sentence = only([used(cpus_asked=8, cpu_seconds=1800 * 2.0)], plan)

    assert sentence.startswith(f"{change} would do: jobs kept 2.0 of 8 cores busy")


def test_busy_cores_are_left_alone() -> None:
    assert suggest([used(cpus_asked=8, cpu_seconds=1800 * 7.0)], slurm(workers=8)) == []


def test_the_cores_of_jobs_that_are_mostly_start_are_not_judged() -> None:
    assert suggest([used(cpus_asked=8, cpu_seconds=1.0, seconds=5.0)], slurm(workers=8)) == []


def test_a_job_that_takes_whole_nodes_is_not_told_to_take_fewer_cores() -> None:
    assert suggest([used(cpus_asked=64, cpu_seconds=1800.0)], slurm(exclusive=True)) == []


# Short jobs --------------------------------------------------------------------------------------


def test_short_jobs_are_packed() -> None:
    jobs = [used(n, seconds=6.0) for n in range(100)]

    assert only(jobs).startswith("target_jobs=10 packs the same rows into fewer jobs: 100 jobs")


def test_short_jobs_of_this_machine_cost_nothing_to_start() -> None:
    assert suggest([used(n, seconds=6.0) for n in range(100)], local(workers=1)) == []


# Numbers that people write -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 300 * 1024**2, GB - 1, GB, GB + 1, 77 * GB])
def test_rounded_memory_is_enough_and_not_much_more(size: int) -> None:
    assert size <= round_memory(size) <= max(1.26 * size, 256 * 1024**2)


@pytest.mark.parametrize("seconds", [1, 299, 301, 3601, 86_401, 10**6])
def test_rounded_time_is_enough(seconds: int) -> None:
    assert seconds <= round_time(seconds) <= max(2 * seconds, 300)


def test_what_is_suggested_can_be_typed() -> None:
    sentence = only([used(memory_asked=64 * GB, memory_used=3 * GB)])

    assert parse_memory(sentence.split("'")[1]) == 5 * GB


# Phases ------------------------------------------------------------------------------------------


def test_each_phase_is_told_apart() -> None:
    plan = slurm(workers=4).to_json()
    manifest = {
        "phases": [
            {"table": "rows.1", "stages": ["clean", "fit"], "first_job": 0, "jobs": 2},
            {"table": "rows.2", "stages": ["train"], "first_job": 2, "jobs": 2},
            {"table": "total", "stages": ["total"], "first_job": 4, "jobs": 1, "by": []},
        ]
    }
    for phase in manifest["phases"]:
        phase["plan"] = plan

    found = phase_usages(manifest, [used(0), used(1), used(3), used(4)])

    assert [(one.name, [job.job for job in one.jobs]) for one in found] == [
        ("clean, fit", [0, 1]),
        ("train", [3]),
        ("reduce total", [4]),
    ]
