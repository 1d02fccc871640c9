"""What becomes of a launch on Snowflake, whatever dies, is late, is refused or is not there any
more. `spcs_jobs` stands for all three plans: what is theirs alone has tests of its own.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cloud import Cloud

import flowdist
from flowdist import Run, artifact, flow, param_grid, submission
from flowdist.backends.base import Handle, JobState
from flowdist.backends.snowflake import backend as module
from flowdist.backends.snowflake.backend import SnowflakeBackend
from flowdist.backends.snowflake.jobs import JobServices
from flowdist.backends.snowflake.remote import Remote, Seen
from flowdist.backends.snowflake.watch import FIRST_PAUSE, Watch, late, note_states, told
from flowdist.clock import ManualClock
from flowdist.errors import BackendError, RunIncomplete
from flowdist.flow import Flow
from flowdist.retry import retry_oom
from flowdist.snowflake.connection import SnowflakeError
from flowdist.store import JobAttempt, RunFiles

PATIENCE = 90.0


class Died(BaseException):
    """The driver's process ends here."""


def square(x: int, pause: float = 0.0) -> dict[str, int]:
    time.sleep(pause)
    return {"y": x * x}


@pytest.fixture
def make(cloud: Cloud, tmp_path: Path) -> Callable[..., Flow]:
    """A flow of a few rows in one container, each of which takes `pause` seconds."""

    def made(
        stage: Callable[..., Any] = square, *, rows: int = 4, pause: float = 0.0, **plan: Any
    ) -> Flow:
        return (
            flow(param_grid(x=range(rows)), const={"pause": pause})
            .stage("sq", stage)
            .distribute(cloud.plan("spcs-jobs", tmp_path, **{"target_jobs": 1, **plan}))
        )

    return made


def only_run(root: Path) -> Run:
    """The run that somebody has submitted there, who could not say which it is."""
    (run,) = flowdist.runs(root)
    return run


@pytest.fixture
def elsewhere() -> Iterator[None]:
    """What is submitted has been by a process that is gone."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submission, "os", SimpleNamespace(getpid=lambda: ended.pid))
        yield


def y(run: Run) -> list[int]:
    found: list[int] = run.collect()["sq.y"].tolist()
    return found


# The driver dies, or is refused ------------------------------------------------------------------


def test_a_driver_that_dies_before_the_start_leaves_a_run_that_can_be_resumed(
    make: Callable[..., Flow], elsewhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(JobServices, "start", _raises(Died()))
        patch.setattr(SnowflakeBackend, "_undo", lambda *_: None)
        with pytest.raises(Died):
            make().submit()

    run = only_run(tmp_path)

    assert run.status().state == "lost"
    assert "never started" in run.status().reason
    assert y(run.resume().wait(PATIENCE)) == [0, 1, 4, 9]


def test_a_driver_that_dies_after_the_start_leaves_a_run_that_is_found(
    make: Callable[..., Flow], elsewhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(SnowflakeBackend, "_record", _raises(Died()))
        with pytest.raises(Died):
            make().submit()

    run = only_run(tmp_path)

    assert y(run.wait(PATIENCE)) == [0, 1, 4, 9]
    assert run.files.attempts() == [1]
    assert run.files.read_json(run.files.launch(1)) is not None


def test_a_driver_that_is_still_at_it_is_waited_for(
    make: Callable[..., Flow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(JobServices, "start", _raises(Died()))
        patch.setattr(SnowflakeBackend, "_undo", lambda *_: None)
        with pytest.raises(Died):
            make().submit()
    clock = ManualClock(time.time())
    run = Run(only_run(tmp_path).files, clock)
    run.backend = SnowflakeBackend(clock)

    assert run.status().state == "pending"
    clock.advance(module.START_SECONDS + 60)

    assert run.status().state == "lost"


def test_what_snowflake_refuses_to_start_is_said_and_can_be_resumed(
    cloud: Cloud, make: Callable[..., Flow], tmp_path: Path
) -> None:
    refusal = cloud.emulator.faults.fail_statement(
        "EXECUTE JOB SERVICE", errno=3001, message="Insufficient privileges"
    )
    with refusal, pytest.raises(BackendError, match=r"(?s)was not started: .*Insufficient.*resume"):
        make().submit()

    run = only_run(tmp_path)
    assert run.status().state == "failed"
    assert "Insufficient privileges" in run.status().reason
    assert y(run.resume().wait(PATIENCE)) == [0, 1, 4, 9]


def test_what_was_not_put_on_the_stage_is_put_there_by_resume(
    cloud: Cloud, make: Callable[..., Flow], tmp_path: Path
) -> None:
    refusal = cloud.emulator.faults.fail_statement("PUT ", errno=3001, message="not now")
    with refusal, pytest.raises(BackendError, match="not now"):
        make().submit()

    assert y(only_run(tmp_path).resume().wait(PATIENCE)) == [0, 1, 4, 9]


def test_a_start_that_is_not_answered_may_have_been_one(
    make: Callable[..., Flow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = SnowflakeError("no answer", 250001)

    def start(self: JobServices, remote: Remote) -> dict[str, Any]:
        real(self, remote)
        raise gone

    real = JobServices.start
    with monkeypatch.context() as patch:
        patch.setattr(JobServices, "start", start)
        patch.setattr(JobServices, "remove", _raises(gone))
        with pytest.raises(BackendError, match="no answer"):
            make().submit()

    run = only_run(tmp_path)
    assert y(run.wait(PATIENCE)) == [0, 1, 4, 9]
    assert run.files.attempts() == [1]


def _raises(error: BaseException) -> Callable[..., Any]:
    def raises(*_: object, **__: object) -> Any:
        raise error

    return raises


# Asking ------------------------------------------------------------------------------------------


def test_no_answer_says_nothing_of_the_jobs(
    make: Callable[..., Flow], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, missed = JobServices.ask, []

    def ask(self: JobServices, *args: Any) -> dict[int, Seen]:
        if len(missed) < 3:
            missed.append(args)
            raise SnowflakeError("no answer", 290503)
        return real(self, *args)

    monkeypatch.setattr(JobServices, "ask", ask)
    run = make().submit()
    states = set()
    while not (status := run.status()).ended:
        states.add(status.state)
        time.sleep(0.05)

    assert len(missed) == 3
    assert (status.state, states) == ("done", {"pending", "running"} & states)
    assert y(run) == [0, 1, 4, 9]


def test_a_poll_is_one_statement_and_the_end_a_few(make: Callable[..., Flow]) -> None:
    run = make(pause=0.5, rows=8).submit()
    looks, real = [], SnowflakeBackend._look

    def look(self: SnowflakeBackend, *args: Any) -> None:
        before = _statements(self)
        real(self, *args)
        looks.append(_statements(self) - before)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SnowflakeBackend, "_look", look)
        run.wait(PATIENCE)
        collected = len(looks)
        run.collect()

    *polls, last = looks
    assert len(polls) > 3
    assert sum(polls) <= len(polls) + 1  # the first asks how the jobs are, and how far
    assert last <= 6
    assert len(looks) == collected  # nothing more is asked of a run that has ended


def _statements(backend: SnowflakeBackend) -> int:
    return sum(client.statements for client in backend._clients.values())


def test_who_looks_for_the_first_time_sees_how_far_a_run_is(make: Callable[..., Flow]) -> None:
    run = make(pause=0.3, rows=30).submit()
    while not 3 < run.status().done < 25:
        time.sleep(0.1)

    status = flowdist.attach(run.id, run.directory.parent).status()
    table = flowdist.attach(run.id, run.directory.parent).collect(errors="keep", partial=True)

    assert status.state == "running"
    assert status.done > 0
    assert set(table["_status"]) <= {"ok", "missing"}
    run.cancel()


def test_a_run_has_not_ended_before_its_parts_are_seen(
    cloud: Cloud, make: Callable[..., Flow]
) -> None:
    run = make().submit()
    with cloud.emulator.faults.hide(f"@flowdist.public.runs/runs/{run.id}/parts/*"):
        _await(lambda: run.files.path(run.files.beat(JobAttempt(0, 1))).is_file(), run)
        _await(lambda: run.backend._watch.ended_since is not None, run)  # type: ignore[attr-defined]
        time.sleep(1.0)
        assert run.status().state == "running"

    assert y(run.wait(PATIENCE)) == [0, 1, 4, 9]


def test_parts_that_are_never_seen_are_not_waited_for_forever(
    cloud: Cloud, make: Callable[..., Flow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LATE_SECONDS", 1.0)
    run = make().submit()
    with cloud.emulator.faults.hide(f"@flowdist.public.runs/runs/{run.id}/parts/*"):
        run.wait(PATIENCE)
        with pytest.raises(RunIncomplete, match="4 of 4 rows have no result"):
            run.collect()

    assert y(run.resume().wait(PATIENCE)) == [0, 1, 4, 9]


def _await(happens: Callable[[], bool], run: Run) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < deadline
        run.status()
        time.sleep(0.05)


# Jobs that end badly -----------------------------------------------------------------------------


def test_a_killed_container_is_said_with_its_exit_code_also_later_and_offline(
    cloud: Cloud, make: Callable[..., Flow]
) -> None:
    def shouting(x: int, pause: float) -> int:
        print(f"row {x} begins", flush=True)  # noqa: T201
        time.sleep(60)
        return x

    run = make(shouting).submit()
    _await(lambda: any("row 0 begins" in line for line in run.logs()), run)
    cloud.emulator.faults.kill_container(_service(run))

    status = run.wait(PATIENCE).status()
    assert status.state == "failed"
    assert "killed (exit code 137)" in status.reason
    cloud.client().run(f"DROP SERVICE {_service(run)}")
    again = flowdist.attach(run.id, run.directory.parent)
    assert again.status().reason == status.reason
    assert again.backend._clients == {}  # type: ignore[attr-defined]
    assert "row 0 begins" in list(again.logs())


def test_a_service_that_somebody_has_dropped_is_lost_and_resumed(
    cloud: Cloud, make: Callable[..., Flow]
) -> None:
    # One that has begun would say that it was told to end.
    with cloud.emulator.faults.pause("cells"):
        run = make(pause=1.0).submit()
        cloud.client().run(f"DROP SERVICE {_service(run)}")

    status = run.wait(PATIENCE).status()

    assert status.state == "lost"
    assert "is gone: dropped" in status.reason
    assert y(run.resume().wait(PATIENCE)) == [0, 1, 4, 9]


def test_a_service_that_is_dropped_at_work_has_committed_what_was_done(
    cloud: Cloud, make: Callable[..., Flow]
) -> None:
    run = make(pause=2.0).submit()
    deadline = time.monotonic() + PATIENCE
    while run.status().done < 1:
        assert time.monotonic() < deadline, "no row has ended"
        time.sleep(0.1)
    cloud.client().run(f"DROP SERVICE {_service(run)}")

    status = run.wait(PATIENCE).status()

    assert status.state == "stopped"
    assert "SIGTERM" in status.reason
    assert 1 <= status.ok < 4
    assert y(run.resume().wait(PATIENCE)) == [0, 1, 4, 9]


def test_reduces_wait_for_all_rows_and_run_once_they_are_there(
    cloud: Cloud, make: Callable[..., Flow]
) -> None:
    run = make(pause=1.0).reduce("total", lambda sq: int(sq["y"].sum())).submit()
    _await(lambda: run.status().state == "running", run)
    cloud.emulator.faults.kill_container(_service(run))

    status = run.wait(PATIENCE).status()
    assert status.state == "failed"
    assert "job 1" not in status.reason  # of the reduce nothing bad is to be said

    assert run.resume().wait(PATIENCE).table("total")["value"].tolist() == [14]


def test_a_container_without_enough_memory_gets_more_when_resumed(
    make: Callable[..., Flow],
) -> None:
    def greedy(x: int, pause: float) -> dict[str, int]:
        block = bytearray(500 << 20)
        time.sleep(2.0)
        return {"y": len(block) * 0 + x * x}

    run = (
        make(rows=1, memory="400MB", within="sequential")
        .stage("more", greedy, retry=retry_oom(memory=4))
        .submit()
        .wait(PATIENCE)
    )
    assert "out of memory" in run.status().reason
    assert run.status().jobs == {"out of memory": 1}

    run.resume().wait(PATIENCE)

    assert run.status().state == "done"
    assert run.files.read_json(run.files.intent(2))["scale"] == {"rows": {"memory": 4.0}}  # type: ignore[index]


def test_failures_are_counted_over_all_containers(make: Callable[..., Flow]) -> None:
    def bad(x: int, pause: float) -> int:
        time.sleep(0.2)
        raise ValueError("no")

    run = make(bad, rows=200, target_jobs=2, max_failures=6).submit().wait(PATIENCE)

    status = run.status()
    assert status.state == "stopped"
    assert "the plan stops a run at 6 failed" in status.reason
    assert 6 <= status.failed < 60
    assert len(run.errors()) == status.failed


def _service(run: Run) -> str:
    started = run.files.read_json(run.files.launch(1))
    assert started is not None
    return str(started["service"])


# Logs and artifacts ------------------------------------------------------------------------------


def test_logs_are_followed_line_by_line(make: Callable[..., Flow]) -> None:
    def talking(x: int, pause: float) -> int:
        print(f"row {x} begins", flush=True)  # noqa: T201
        time.sleep(0.5)
        return x

    run = make(talking, rows=8, within="sequential").submit()
    began, seen = time.monotonic(), dict[str, float]()
    for line in run.logs(follow=True):
        if "begins" in line:
            assert line not in seen
            seen[line] = time.monotonic() - began

    assert list(seen) == [f"row {x} begins" for x in range(8)]
    assert max(seen.values()) - min(seen.values()) > 1.0  # while it ran


def test_the_log_of_a_job_that_went_well_is_there_for_who_asks(make: Callable[..., Flow]) -> None:
    def talking(x: int, pause: float) -> int:
        print(f"row {x} begins", flush=True)  # noqa: T201
        return x

    run = make(talking).submit().wait(PATIENCE)
    assert run.files.store.list("logs") == []

    assert "row 3 begins" in list(flowdist.attach(run.id, run.directory.parent).logs(0))


def test_an_artifact_is_fetched_when_it_is_loaded(make: Callable[..., Flow]) -> None:
    def model(y: int) -> dict[str, bytes]:
        return {"model": bytes([y]) * 400_000}

    run = make().stage("fit", model, returns={"model": artifact}).submit().wait(PATIENCE)
    models = run.collect()["fit.model"].tolist()
    assert run.files.store.list("artifacts/fit") == []

    assert models[3].load() == b"\t" * 400_000

    assert len(run.files.store.list("artifacts/fit")) == 4  # others come with it
    assert models[2].load() == b"\x04" * 400_000


# What is known of a launch -----------------------------------------------------------------------


@pytest.fixture
def watched(tmp_path: Path) -> tuple[Handle, Watch]:
    """A launch of two jobs of which Snowflake says that they are done."""
    done = {job: Seen(JobState.DONE) for job in (0, 1)}
    return Handle(RunFiles.at(tmp_path), 1, [0, 1]), Watch(1, seen=done)


def test_a_state_that_was_told_is_not_taken_back(watched: tuple[Handle, Watch]) -> None:
    handle, watch = watched
    watch.seen[1] = Seen(JobState.RUNNING)
    note_states(handle, watch)
    assert told(handle, watch) == {0: JobState.DONE, 1: JobState.RUNNING}

    watch.seen[1] = Seen(JobState.DONE)
    note_states(handle, watch)
    assert told(handle, watch) == {0: JobState.DONE, 1: JobState.RUNNING}  # not all is here

    watch.settled = True
    assert told(handle, watch) == {0: JobState.DONE, 1: JobState.DONE}


def test_what_is_late_is_known_by_heartbeats_and_exit_codes(
    watched: tuple[Handle, Watch],
) -> None:
    handle, watch = watched
    handle.files.put_beat(JobAttempt(0, 1), {"state": "running", "parts": 0})
    # A worker of a pool, beyond the jobs of the plan.
    handle.files.put_beat(JobAttempt(7, 1), {"state": "done", "parts": 2})
    handle.files.store.replace("parts/00007-1-0000.arrow", b"")

    assert late(handle, watch) == [
        "beats/00000-1.json",
        "beats/00001-1.json",
        "parts/00007-1-0001.arrow",
    ]


def test_snowflake_is_asked_soon_where_a_worker_has_found_that_nothing_is_left(
    watched: tuple[Handle, Watch],
) -> None:
    handle, watch = watched
    watch.seen = {job: Seen(JobState.RUNNING) for job in (0, 1)}
    watch.pause = 15.0
    handle.files.put_beat(JobAttempt(7, 1), {"state": "running", "parts": 2})
    note_states(replace(handle), watch)
    assert watch.pause == 15.0

    handle.files.put_beat(JobAttempt(7, 1), {"state": "done", "parts": 2})
    note_states(replace(handle), watch)
    assert watch.pause == FIRST_PAUSE

    watch.pause = 15.0
    note_states(replace(handle), watch)
    assert watch.pause == 15.0  # once, whatever comes after
