"""Persistent pools: workers that stay, for several runs and users."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from cloud import Cloud
from test_workers import slow, wait_for, wait_until_at_work

from flowdist import Flow, Run, flow, param_grid
from flowdist.backends.base import Handle, JobState
from flowdist.backends.snowflake.pools import pool_status, scale_pool, start_pool, stop_pool
from flowdist.backends.snowflake.remote import Remote, Seen
from flowdist.backends.snowflake.workers import QueueWorkers
from flowdist.cli import cli
from flowdist.clock import ManualClock
from flowdist.errors import PreflightError, UsageError
from flowdist.snowflake.names import Name
from flowdist.store import VISITORS, JobAttempt
from flowdist.submission import launch, write_run
from flowdist.workers.claiming import Waiting
from flowdist.workers.fair import Offer, leave_for, pick
from flowdist.workers.serve import Server
from flowdist.workers.supervise import StopFlag


@pytest.fixture(scope="module")
def pool(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Name]:
    """A pool of two workers."""
    plan = cloud.plan("spcs-queue", tmp_path_factory.mktemp("pool"), pool="fits")
    client = cloud.client()
    name = start_pool(client, plan, idle=0)
    yield name
    stop_pool(client, name)


def test_a_pool_outlives_its_runs_and_starts_the_next_at_once(
    cloud: Cloud, tmp_path: Path, pool: Name
) -> None:
    plan = cloud.plan("spcs-queue", tmp_path, pool="fits")
    build = flow(param_grid(x=range(12))).stage("sq", lambda x: x * x).distribute(plan)
    cold = build.submit().wait(90)
    begun = time.monotonic()
    warm = build.submit().wait(90)
    seconds = time.monotonic() - begun

    for run in (cold, warm):
        assert run.status().state == "done"
        assert run.collect()["sq.value"].tolist() == [x * x for x in range(12)]
        run.delete()
    client = cloud.client()
    assert [row["name"] for row in client.rows("SHOW SERVICES IN ACCOUNT")] == ["FITS"]
    status = pool_status(client, pool)
    assert (status.state, status.instances, status.work) == ("RUNNING", {"ready": 2}, [])
    assert seconds < 20


def test_two_runs_share_a_pool(cloud: Cloud, tmp_path: Path, pool: Name) -> None:
    plan = cloud.plan("spcs-queue", tmp_path, pool="fits")

    def build(rows: int) -> Flow:
        grid = param_grid(x=range(rows))
        return flow(grid, const={"seconds": 0.5}).stage("sq", slow).distribute(plan)

    first = build(100).submit("first")
    wait_until_at_work(cloud, first)
    second = build(6).submit("second").wait(90)

    # The one that came later has not waited for the other's end.
    assert not first.status().ended
    for run, rows in ((first, 100), (second, 6)):
        assert run.wait(90).collect()["sq.y"].tolist() == [x * x for x in range(rows)]
        run.delete()


def test_runs_of_a_pool_have_the_threads_that_each_asks_for(
    cloud: Cloud, tmp_path: Path, pool: Name
) -> None:
    def threads(cpus: int) -> set[str]:
        plan = cloud.plan("spcs-queue", tmp_path, pool="fits", cpus=cpus)
        build = flow(param_grid(x=range(4))).stage("of", lambda x: os.environ["OMP_NUM_THREADS"])
        run = build.distribute(plan).submit().wait(60)
        assert run.status().state == "done"
        return set(run.collect()["of.value"])

    assert [threads(2), threads(1), threads(3)] == [{"2"}, {"1"}, {"3"}]


def test_a_run_that_cannot_be_loaded_fails_and_the_pool_goes_on(
    cloud: Cloud, tmp_path: Path, pool: Name
) -> None:
    plan = cloud.plan("spcs-queue", tmp_path, pool="fits")
    grid = param_grid(x=range(4))
    files = write_run(flow(grid).stage("sq", lambda x: x).distribute(plan), "bad")
    files.store.replace(files.FLOW, b"damaged")
    launch(files, files.manifest())

    status = Run(files).wait(60).status()

    assert status.state == "failed"
    assert "flow.pkl" in status.reason
    good = flow(grid).stage("sq", lambda x: x).distribute(plan).submit().wait(60)
    assert good.status().state == "done"


def test_cancel_ends_a_run_and_not_the_pool(cloud: Cloud, tmp_path: Path, pool: Name) -> None:
    plan = cloud.plan("spcs-queue", tmp_path, pool="fits")
    run = flow(param_grid(x=range(200)), const={"seconds": 0.3}).stage("sq", slow).distribute(plan)
    started = run.submit()
    wait_for(lambda: started.status().done > 0)

    status = started.cancel().status()

    assert status.state == "stopped"
    assert 0 < status.ok < 200
    client = cloud.client()
    assert pool_status(client, pool).state == "RUNNING"
    assert pool_status(client, pool).work == []
    started.delete()


def test_a_killed_worker_does_not_keep_a_run_from_its_end(
    cloud: Cloud, tmp_path: Path, pool: Name
) -> None:
    plan = cloud.plan("spcs-queue", tmp_path, pool="fits", lease=3, time_budget=10)
    build = flow(param_grid(x=range(200)), const={"seconds": 0.3}).stage("sq", slow)
    run = build.distribute(plan).submit()
    wait_for(lambda: run.status().done > 0)

    cloud.emulator.faults.kill_container(pool.sql, instance=0)
    status = run.wait(60).status()

    assert status.state == "stopped"
    assert status.reason.startswith("the time budget of 10 s is spent")
    assert cloud.client().rows("SELECT * FROM flowdist_queue WHERE STATUS <> 'DONE'") == []
    run.delete()


def test_workers_that_are_told_to_end_are_not_the_end_of_a_run(
    cloud: Cloud, tmp_path: Path
) -> None:
    client, plan = cloud.client(), cloud.plan("spcs-queue", tmp_path, pool="lone", replicas=1)
    name = start_pool(client, plan, idle=0)
    build = flow(param_grid(x=range(30)), const={"seconds": 0.2}).stage("sq", slow)
    run = build.distribute(plan).submit()
    wait_for(lambda: run.status().done > 0)

    # As for the maintenance of a node: its only worker gives back what it holds.
    client.run(f"ALTER SERVICE {name.sql} SUSPEND")
    wait_for(lambda: not pool_status(client, name).instances)
    assert not run.status().ended
    status = run.wait(90).status()

    assert (status.state, status.ok) == ("done", 30)
    stop_pool(client, name)


def test_one_worker_that_fails_does_not_keep_others_from_a_run(
    cloud: Cloud, tmp_path: Path
) -> None:
    plan = cloud.plan("spcs-queue", tmp_path, pool="fits")
    build = flow(param_grid(x=range(4))).stage("sq", lambda x: x).distribute(plan)
    files = write_run(build, "unlucky")
    for n in range(2):
        said = {"state": "failed", "reason": f"no disk {n}", "time": time.time()}
        files.put_beat(JobAttempt(VISITORS + n, 1), said)
    remote = Remote(Handle(files, 1, [0]), cloud.client())

    seen = [QueueWorkers()._given_back(remote, alive) for alive in (3, 2, 0)]

    failed = Seen(JobState.FAILED, "no disk 0")
    assert seen == [None, failed, failed]


def test_who_is_idle_suspends_no_pool_in_which_others_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, stop, sent = ManualClock(), StopFlag(), list[str]()
    client = SimpleNamespace(run=sent.append)
    table = Name.parse("flowdist.public.flowdist_queue")
    server = Server(tmp_path, "P", table, client, stop, idle=10, clock=clock)  # type: ignore[arg-type]
    held = [Waiting("late/1", "", waiting=0, claimed=1, workers=1, priority=0)]
    # Its time budget is spent, and another worker is at its last row.
    server._over.add("late/1")
    server._kind = SimpleNamespace(waiting=lambda *where: list(held))  # type: ignore[assignment]

    def rest(seconds: float) -> None:
        clock.advance(seconds)
        if clock.monotonic() > 60:
            held.clear()
        stop.reason = "enough" if sent or clock.monotonic() > 200 else ""

    monkeypatch.setattr(clock, "sleep", rest)
    server.run()

    assert sent == ["ALTER SERVICE P SUSPEND"]
    assert clock.monotonic() > 60


def test_an_idle_pool_is_suspended_and_the_next_run_resumes_it(
    cloud: Cloud, tmp_path: Path
) -> None:
    client, plan = cloud.client(), cloud.plan("spcs-queue", tmp_path, pool="rare", replicas=1)
    name = start_pool(client, plan, idle=1)
    wait_for(lambda: pool_status(client, name).state == "SUSPENDED")

    run = flow(param_grid(x=range(4))).stage("sq", lambda x: x).distribute(plan).submit().wait(90)

    assert run.collect()["sq.value"].tolist() == [0, 1, 2, 3]
    stop_pool(client, name)
    with pytest.raises(PreflightError, match=r"there is no pool FLOWDIST.PUBLIC.RARE"):
        flow(param_grid(x=range(4))).stage("sq", lambda x: x).distribute(plan).submit()


def test_a_pool_is_for_one_stage_and_one_queue(cloud: Cloud, tmp_path: Path, pool: Name) -> None:
    plan = cloud.plan("spcs-queue", tmp_path, pool="fits", queue="another")
    build = flow(param_grid(x=range(4))).stage("sq", lambda x: x).distribute(plan)

    with pytest.raises(PreflightError, match=r"works for queue FLOWDIST.PUBLIC.FLOWDIST_QUEUE"):
        build.submit()
    with pytest.raises(UsageError, match=r"there is a service FLOWDIST.PUBLIC.FITS already"):
        start_pool(cloud.client(), cloud.plan("spcs-queue", tmp_path, pool="fits"))


def test_the_command_shows_and_scales(
    cloud: Cloud, tmp_path: Path, pool: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowdist.snowflake.connection import register_connection

    register_connection("cloud", **cloud.connection)
    place = ["--connection", "cloud", "--stage", "flowdist.public.runs"]

    def run(*words: str) -> dict[str, object]:
        result = CliRunner().invoke(cli, ["pool", *words, *place, "--json"])
        assert result.exit_code == 0, result.output
        found: dict[str, object] = json.loads(result.stdout)
        return found

    wait_for(lambda: run("status", "fits")["instances"] == {"ready": 2})
    assert run("scale", "fits", "1") == {"name": pool.sql, "replicas": 1}
    assert run("status", "fits")["wanted"] == 1
    scale_pool(cloud.client(), pool, 2)
    image = ["--compute-pool", "cells", "--image", "/flowdist/public/images/flowdist:1"]
    assert run("start", "more", *image, "--replicas", "1")["name"] == "FLOWDIST.PUBLIC.MORE"
    assert run("stop", "more")["stopped"] is True
    shown = CliRunner().invoke(cli, ["pool", "status", "fits", *place])
    assert "2 wanted" in shown.output
    assert "@FLOWDIST.PUBLIC.RUNS/runs" in shown.output


# -- who works for whom: pure


def test_users_share_evenly_whatever_they_have_in_the_pool() -> None:
    offers = [Offer(f"a{i}/1", "ann", 0, 100, 2) for i in range(5)] + [
        Offer("b/1", "bob", 0, 100, 0)
    ]
    chance = random.Random(0)

    assert getattr(pick(offers, chance), "job_id", "") == "b/1"
    # Ten workers of one, none of the other: five go, by chance.
    gone = sum(leave_for(offers, f"a{i}/1", chance) == "b/1" for _ in range(100) for i in range(5))
    assert gone > 400


def test_nobody_leaves_what_is_urgent_or_goes_in_circles() -> None:
    chance = random.Random(0)
    urgent = [Offer("a/1", "ann", 5, 3, 4), Offer("b/1", "ann", 0, 100, 0)]
    assert leave_for(urgent, "a/1", chance) == ""
    assert leave_for(urgent, "b/1", chance) == "a/1"
    even = [Offer("a/1", "ann", 0, 9, 3), Offer("b/1", "ann", 0, 9, 2)]
    assert leave_for(even, "a/1", chance) == ""
    done = [Offer("a/1", "ann", 0, 9, 3), Offer("b/1", "ann", 0, 0, 1)]
    assert leave_for(done, "a/1", chance) == ""
    assert pick([Offer("a/1", "ann", 0, 0, 1)], chance) is None
