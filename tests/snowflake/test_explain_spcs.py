"""Explain on Snowflake: what jobs wait for, what became of them, what they have cost."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cloud import Cloud, set_up

from flowdist import Run, flow, param_grid
from flowdist.backends.base import JobState
from flowdist.backends.snowflake.account import pool_of
from flowdist.backends.snowflake.plans import Spcs, spcs_jobs
from flowdist.backends.snowflake.remote import Seen
from flowdist.backends.snowflake.services import ending_words
from flowdist.backends.snowflake.waiting import ended_remarks, pool_remark, wait_remarks
from flowdist.emulator import Emulator
from flowdist.errors import RunIncomplete
from flowdist.explain import Explanation, Fact
from flowdist.report import build_report, write_report


def submitted(plan: Spcs, work: Callable[[int], object], rows: int = 2) -> Run:
    return flow(param_grid(x=range(rows))).stage("work", work).distribute(plan).submit()


def until(run: Run, kind: str, seconds: float = 30.0) -> tuple[Explanation, Fact]:
    """Explain again and again, until it has a fact of that kind."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = run.explain()
        for fact in found.facts:
            if fact.kind == kind:
                return found, fact
        time.sleep(0.3)
    raise AssertionError(f"no {kind} in {seconds} s: {found}")


def long(x: int) -> int:
    sys.stdout.write("a line of the log\n")
    sys.stdout.flush()
    time.sleep(60)
    return x


def greedy(x: int) -> int:
    return len(b"x" * 900_000_000) * bool(time.sleep(20))


# -- waiting


def test_a_full_pool_is_named_with_the_way_to_make_it_larger(cloud: Cloud, tmp_path: Path) -> None:
    # Each wants a node for itself, and there are two.
    run = submitted(cloud.plan("spcs-jobs", tmp_path, workers=5, target_jobs=3), long, rows=3)
    try:
        found, fact = until(run, "pool full")
    finally:
        run.cancel()
        run.delete()

    assert "compute pool CELLS is full, with 1 job service on 2 nodes" in fact.text
    assert fact.data["max_nodes"] == 2
    assert "SET MAX_NODES" in " ".join(one.text for one in found.advice)


def test_nodes_that_start_and_a_pool_that_is_suspended(tmp_path: Path) -> None:
    with Emulator(node_start=120.0, grace=1.0) as emulator:
        cloud = set_up(emulator, nodes=1)
        run = submitted(cloud.plan("spcs-jobs", tmp_path, target_jobs=1), long)
        starting = run.explain()
        with emulator.connect(role="ACCOUNTADMIN") as connection:
            for sql in ("SET AUTO_RESUME = FALSE", "SUSPEND"):
                connection.cursor().execute(f"ALTER COMPUTE POOL cells {sql}")
        suspended, fact = until(run, "pool suspended")
        run.cancel()

    assert starting.summary == (
        "It has not begun: 1 job waits: nodes of compute pool CELLS are starting, which takes some "
        "minutes."
    )
    assert "does not resume by itself" in fact.text
    assert suspended.advice[0].text == "ALTER COMPUTE POOL CELLS RESUME"


def test_why_jobs_wait_takes_few_statements(cloud: Cloud, tmp_path: Path) -> None:
    plan, client = cloud.plan("spcs-jobs", tmp_path), cloud.client()

    found = wait_remarks(client, plan, 2)  # type: ignore[arg-type]

    assert [one.kind for one in found] == ["pool"]
    assert client.statements <= 2
    assert wait_remarks(client, plan, 0) == []  # type: ignore[arg-type]


def test_a_role_that_may_not_look_closely_still_hears_of_the_pool(
    cloud: Cloud, tmp_path: Path
) -> None:
    with cloud.emulator.connect(role="ACCOUNTADMIN") as connection:
        for sql in (
            "CREATE ROLE onlooker",
            "GRANT ROLE onlooker TO USER FLOWDIST",
            "GRANT USAGE ON COMPUTE POOL cells TO ROLE onlooker",
        ):
            connection.cursor().execute(sql)
    plan, client = cloud.plan("spcs-jobs", tmp_path), cloud.client()
    client.run("USE ROLE onlooker")

    assert "compute pool CELLS" in wait_remarks(client, plan, 1)[0].text  # type: ignore[arg-type]
    client.run("USE ROLE PUBLIC")
    assert "this role sees none" in wait_remarks(client, plan, 1)[0].text  # type: ignore[arg-type]
    client.close()


PLAN = spcs_jobs(compute_pool="fits", image="/d/s/r/fit:1", stage="d.s.runs", workers=4)
FULL = {
    "name": "FITS", "state": "ACTIVE", "instance_family": "CPU_X64_M", "min_nodes": 1,
    "max_nodes": 3, "active_nodes": 2, "idle_nodes": 0, "target_nodes": 2, "num_jobs": 2,
    "auto_resume": "true",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "kind", "said"),
    [
        ({"active_nodes": 3}, "pool full", "is full, with 2 job services on 3 nodes"),
        ({"state": "RESIZING", "target_nodes": 3}, "pool growing", "1 more node of compute pool"),
        ({"state": "SUSPENDED", "active_nodes": 0}, "pool starting", "are starting"),
        ({"state": "SUSPENDED", "auto_resume": "false"}, "pool suspended", "by itself"),
        ({"instance_family": "CPU_X64_S"}, "never starts", "4 cores are more than the 3 of"),
        ({}, "pool", "about to start them"),
    ],
)
def test_what_is_said_of_a_pool(changed: dict[str, object], kind: str, said: str) -> None:
    found = pool_remark(PLAN, pool_of({**FULL, **changed}), 2)

    assert found.kind == kind
    assert said in found.text


def test_an_image_that_cannot_be_pulled_comes_first(cloud: Cloud, tmp_path: Path) -> None:
    seen = [Seen(JobState.PENDING, "Failed to pull image")]

    found = wait_remarks(cloud.client(), cloud.plan("spcs-jobs", tmp_path), 1, seen)  # type: ignore[arg-type]

    assert [one.kind for one in found] == ["image"]
    assert "Failed to pull image" in found[0].text


# -- the end


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (Seen(JobState.FAILED, "", 137), "killed (exit code 137)"),
        (Seen(JobState.FAILED, "", 143), "told to end (exit code 143)"),
        (Seen(JobState.FAILED, "check container logs", 1), "check container logs, exit code 1"),
        (Seen(JobState.OUT_OF_MEMORY, "OOMKilled", 137), "out of memory (OOMKilled)"),
    ],
)
def test_exit_codes_in_words(seen: Seen, said: str) -> None:
    assert said in ending_words(seen)


def test_a_killed_container_says_how_it_ended_and_what_it_cost(
    cloud: Cloud, tmp_path: Path
) -> None:
    plan = cloud.plan("spcs-jobs", tmp_path, target_jobs=1, price=2.0)
    run = submitted(plan, long)  # type: ignore[arg-type]
    until(run, "running row")
    service = cloud.client().rows("SHOW SERVICES IN SCHEMA flowdist.public")[0]["name"]

    cloud.emulator.faults.kill_container(f"flowdist.public.{service}")
    found = run.wait(30).explain()

    assert found.state == "failed"
    assert "job 0: killed (exit code 137)" in found.summary
    assert "the log of job 0 ends with: a line of the log" in found.summary
    cost = next(fact for fact in found.facts if fact.kind == "cost")
    assert cost.data["node_seconds"] > 0
    assert cost.data["credits"] == pytest.approx(cost.data["node_seconds"] / 1800, abs=1e-8)
    run.delete()


def test_a_container_that_runs_out_of_memory(cloud: Cloud, tmp_path: Path) -> None:
    plan = cloud.plan("spcs-jobs", tmp_path, target_jobs=1, memory="500MiB", within="sequential")
    run = submitted(plan, greedy, rows=1).wait(40)  # type: ignore[arg-type]
    found = run.explain()
    with pytest.raises(RunIncomplete, match="job 0: out of memory"):
        run.collect()
    run.delete()

    assert "job 0: out of memory" in found.summary
    assert any("memory=" in one.text for one in found.advice)


def test_advice_follows_how_jobs_ended() -> None:
    states = {0: JobState.OUT_OF_MEMORY, 1: JobState.DONE, 2: JobState.OUT_OF_MEMORY}

    found = list(ended_remarks(states))

    assert [one.text for one in found] == ["2 of 3 jobs: out of memory"]
    assert "memory=" in found[0].advice


# -- the report


def test_the_report_says_where_it_ran_and_what_it_took(cloud: Cloud, tmp_path: Path) -> None:
    plan = cloud.plan("spcs-jobs", tmp_path, target_jobs=1, price=2.0)
    run = submitted(plan, lambda x: {"y": x}).wait(60)  # type: ignore[arg-type]

    report = build_report(run)
    page = write_report(run, tmp_path / "page.html").read_text(encoding="utf-8")

    assert report.cost is not None
    assert report.cost.credits
    assert report.traces["stage"] == f"@FLOWDIST.PUBLIC.RUNS/runs/{run.id}"
    assert report.traces["pool"] == "cells"
    assert report.traces["launch 1"].startswith("service FLOWDIST.PUBLIC.FD_")
    assert "Where it ran" in page
    assert f"runs/{run.id}" in page
    assert set(report.to_dict()["cost"]) == {"node_seconds", "credits"}
    run.delete()
