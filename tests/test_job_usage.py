"""What jobs used: from their heartbeats, with what a scheduler knows, over many of them."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import pytest

from flowdist import flow, local, param_grid
from flowdist.backends.base import Handle
from flowdist.errors import BackendError
from flowdist.run import Run
from flowdist.usage import JobUsage, measures, merge, run_usage

known = JobUsage(0, 1, "done", "n1", cpus_asked=2, memory_used=10, seconds=60.0)
said = replace(known, memory_used=30, cpus_asked=4, source="heartbeats")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Four rows in two jobs, and a reduce."""
    work = flow(param_grid(x=range(4))).stage("sq", lambda x: x * x).reduce("n", lambda sq: len(sq))
    root = str(tmp_path_factory.mktemp("runs"))
    plan = local(root=root, target_jobs=2, workers=2, cpus=3, memory="1GB", time="1h")
    return work.distribute(plan).submit().wait()


def test_heartbeats_tell_of_every_job(run: Run) -> None:
    found = run_usage(run)

    assert [(one.job, one.attempt, one.state) for one in found] == [
        (0, 1, "done"),
        (1, 1, "done"),
        (2, 1, "done"),
    ]
    assert {one.source for one in found} == {"heartbeats"}


def test_what_jobs_asked_for_is_the_plans(run: Run) -> None:
    one = run_usage(run)[0]

    assert (one.cpus_asked, one.memory_asked, one.time_asked) == (6, 1024**3, 3600)


class Accounting:
    """A backend that keeps accounts, or says that it cannot."""

    def __init__(self, answer: list[JobUsage] | BackendError) -> None:
        self.answer = answer

    def usage(self, handle: Handle) -> list[JobUsage]:
        if isinstance(self.answer, BackendError):
            raise self.answer
        return self.answer


def with_accounts(
    run: Run, monkeypatch: pytest.MonkeyPatch, answer: list[JobUsage] | BackendError
) -> list[JobUsage]:
    module = importlib.import_module("flowdist.run")
    monkeypatch.setattr(module, "backend_named", lambda kind: Accounting(answer))
    return run_usage(Run(run.files))


def test_a_scheduler_that_keeps_accounts_is_asked(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = with_accounts(run, monkeypatch, [replace(known, cpu_seconds=42.0)])

    assert (found[0].source, found[0].cpu_seconds) == ("scheduler", 42.0)


def test_where_accounting_is_off_heartbeats_will_do(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = with_accounts(run, monkeypatch, BackendError("accounting is off"))

    assert {one.source for one in found} == {"heartbeats"}


def test_jobs_that_the_scheduler_has_forgotten_are_told_by_heartbeats(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = with_accounts(run, monkeypatch, [known])

    assert [one.source for one in found] == ["scheduler", "heartbeats", "heartbeats"]


def test_the_fuller_memory_counts_as_schedulers_look_seldom() -> None:
    assert merge([known], [said])[0].memory_used == 30
    assert merge([known], [replace(said, memory_used=5)])[0].memory_used == 10


def test_a_job_that_stopped_before_its_time_limit_has_come_to_it() -> None:
    (one,) = merge([known], [replace(said, state="timeout")])

    assert one.state == "timeout"


def test_how_a_scheduler_ended_a_job_is_its_own_to_say() -> None:
    (one,) = merge([replace(known, state="out of memory")], [replace(said, state="running")])

    assert one.state == "out of memory"


def test_a_heartbeat_is_of_the_last_start() -> None:
    first, second = merge([known, replace(known, start=1)], [said])

    assert (first.memory_used, second.memory_used) == (10, 30)


def test_cores_weigh_as_long_as_their_jobs_ran() -> None:
    short = replace(known, cpus_asked=4, cpu_seconds=4.0, seconds=1.0)
    long = replace(known, cpus_asked=4, cpu_seconds=99.0, seconds=99.0)

    (cores, *_) = measures([short, long])

    assert cores.used == (1.0, 2.5, 4.0)
    assert cores.share == pytest.approx(103 / 400)


def test_requests_that_differ_are_a_range() -> None:
    jobs = [replace(known, memory_asked=100), replace(known, memory_asked=300)]

    memory = next(one for one in measures(jobs) if one.name == "memory")

    assert memory.asked == (100, 300)
    assert memory.share == pytest.approx(20 / 400)


def test_a_job_that_has_not_begun_has_no_shares(tmp_path: Path) -> None:
    waiting = JobUsage(0, 1, "pending", "", cpus_asked=2)

    assert waiting.cores_share is None
    assert measures([waiting]) == []
