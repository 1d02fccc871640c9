"""How jobs and runs are said to be: from heartbeats and living processes, and from parts at the
end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import beat, results, write_part, write_run

from flowdist.backends import local
from flowdist.backends.base import Backend, Handle, JobState, backend_named
from flowdist.backends.local import END_SECONDS, SILENCE_SECONDS, START_SECONDS, LocalBackend
from flowdist.clock import ManualClock
from flowdist.errors import BackendError
from flowdist.parts import FAILED, SKIPPED
from flowdist.settings import host
from flowdist.status import Status, read_status
from flowdist.store import JobAttempt, RunFiles

LIVE = [JobState.UNKNOWN, JobState.PENDING, JobState.RUNNING]
ENDS = [state for state in JobState if state not in LIVE]

# The order of job states -------------------------------------------------------------------------


@pytest.mark.parametrize("state", ENDS)
@pytest.mark.parametrize("late", JobState)
def test_a_job_that_has_ended_stays_as_it_ended(state: JobState, late: JobState) -> None:
    assert state.after(late) is state


@pytest.mark.parametrize(
    ("before", "polled", "then"),
    [
        (JobState.UNKNOWN, JobState.PENDING, JobState.PENDING),
        (JobState.PENDING, JobState.RUNNING, JobState.RUNNING),
        (JobState.RUNNING, JobState.PENDING, JobState.RUNNING),
        (JobState.RUNNING, JobState.UNKNOWN, JobState.RUNNING),
        (JobState.PENDING, JobState.UNKNOWN, JobState.PENDING),
        (JobState.RUNNING, JobState.LOST, JobState.LOST),
        (JobState.PENDING, JobState.DONE, JobState.DONE),
    ],
)
def test_a_late_poll_never_moves_a_job_backwards(
    before: JobState, polled: JobState, then: JobState
) -> None:
    assert before.after(polled) is then


@pytest.mark.parametrize("state", JobState)
def test_only_what_is_no_longer_live_has_ended(state: JobState) -> None:
    assert state.ended == (state not in LIVE)


# The local backend -------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> RunFiles:
    """A run of ten rows in two jobs, never launched."""
    return write_run(tmp_path / "run", rows=10, jobs=2)


def me() -> dict[str, Any]:
    """What the launched process writes down, as if this one were it."""
    process = psutil.Process()
    return {"time": 1000.0, "host": host(), "pid": os.getpid(), "command": process.cmdline()}


def gone() -> dict[str, Any]:
    """A process whose id somebody else has now."""
    return {**me(), "command": ["something", "else"]}


def elsewhere() -> dict[str, Any]:
    return {**me(), "host": "another machine"}


def poll(
    files: RunFiles, started: Mapping[str, Any] | None, *, now: float = 1000.0
) -> dict[int, JobState]:
    backend = LocalBackend(ManualClock(start=now))
    return backend.poll(Handle(files, 1, [0, 1], started))


def test_who_has_said_the_last_word_is_waited_for_before_a_run_is_removed(
    files: RunFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    living = [True, True, False]
    monkeypatch.setattr(local, "_launcher_lives", lambda handle: living.pop(0))
    clock = ManualClock()
    backend, handle = LocalBackend(clock), Handle(files, 1, [0, 1], me())

    backend.delete(handle)

    assert living == []
    monkeypatch.setattr(local, "_launcher_lives", lambda handle: True)
    begun = clock.monotonic()
    backend.delete(handle)  # not for ever
    assert clock.monotonic() - begun == pytest.approx(END_SECONDS, abs=0.1)


def put_beats(files: RunFiles, *beats: Mapping[str, Any]) -> None:
    for job, content in enumerate(beats):
        files.put_beat(JobAttempt(job, 1), dict(content))


def test_jobs_without_a_beat_are_pending_while_their_process_lives(files: RunFiles) -> None:
    assert poll(files, me()) == {0: JobState.PENDING, 1: JobState.PENDING}


def test_a_job_with_a_beat_is_running_while_its_process_lives(files: RunFiles) -> None:
    put_beats(files, beat("running"))

    assert poll(files, me()) == {0: JobState.RUNNING, 1: JobState.PENDING}


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("done", JobState.DONE),
        ("failed", JobState.FAILED),
        ("stopped", JobState.CANCELLED),
    ],
)
@pytest.mark.parametrize("process", [me, gone, elsewhere])
def test_a_job_is_as_its_last_beat_says(
    files: RunFiles, said: str, state: JobState, process: Any
) -> None:
    put_beats(files, beat(said))

    assert poll(files, process())[0] is state


def test_jobs_whose_process_is_gone_without_a_last_word_are_lost(files: RunFiles) -> None:
    put_beats(files, beat("running", pid=2**22 + 1))

    assert poll(files, gone()) == {0: JobState.LOST, 1: JobState.LOST}


def test_the_last_word_of_a_process_that_ends_just_now_counts(
    files: RunFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(pid: int, command: list[str] | None) -> bool:
        put_beats(files, beat("done"))
        return False

    put_beats(files, beat("running"))
    monkeypatch.setattr(local, "_lives", end)  # it says so, and is gone when we look for it

    assert poll(files, me())[0] is JobState.DONE


def test_beats_of_an_earlier_launch_say_nothing(files: RunFiles) -> None:
    files.put_beat(JobAttempt(0, 1), beat("done"))

    states = LocalBackend(ManualClock()).poll(Handle(files, 2, [0], me()))

    assert states == {0: JobState.PENDING}


@pytest.fixture
def job_process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like one of ours, and waits."""
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", "flowdist.workers"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    yield process
    process.communicate()


def test_a_job_process_that_outlives_its_launcher_is_still_running(
    files: RunFiles, job_process: subprocess.Popen[bytes]
) -> None:
    put_beats(files, beat("running", pid=job_process.pid))

    assert poll(files, gone())[0] is JobState.RUNNING


def test_a_process_that_took_over_the_id_of_a_job_is_not_taken_for_it(files: RunFiles) -> None:
    put_beats(files, beat("running", pid=os.getpid()))  # alive, and not one of ours

    assert poll(files, gone())[0] is JobState.LOST


def test_a_launch_that_has_just_been_intended_is_unknown(files: RunFiles) -> None:
    files.put_json(files.intent(1), {"time": 1000.0})

    soon = poll(files, None, now=1000.0 + START_SECONDS / 2)
    late = poll(files, None, now=1000.0 + START_SECONDS)

    assert set(soon.values()) == {JobState.UNKNOWN}
    assert set(late.values()) == {JobState.LOST}


def test_a_launch_that_never_was_is_lost_though_clocks_were_set_back(files: RunFiles) -> None:
    files.put_json(files.intent(1), {"time": 90_000.0})

    assert set(poll(files, None, now=1000.0).values()) == {JobState.LOST}


def test_a_process_that_does_not_say_that_it_started_will_not_start_later(
    files: RunFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.put_json(files.intent(1), {"time": 0.0})
    monkeypatch.setattr(local, "START_SECONDS", 0.0)

    with pytest.raises(BackendError, match="said nothing for 0 s"):
        LocalBackend().launch(Handle(files, 1, [0]))

    directory = str(files.directory)
    commands = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    assert not any(directory in command for command in commands)


def test_a_process_of_another_machine_is_judged_by_its_beats(files: RunFiles) -> None:
    put_beats(files, beat("running", time=5000.0))

    fresh = poll(files, elsewhere(), now=5000.0 + SILENCE_SECONDS / 2)
    silent = poll(files, elsewhere(), now=5000.0 + SILENCE_SECONDS)

    assert fresh == {0: JobState.RUNNING, 1: JobState.UNKNOWN}
    assert silent == {0: JobState.LOST, 1: JobState.LOST}


def test_logs_are_those_of_the_launch_and_its_jobs(files: RunFiles) -> None:
    for name in ("logs/launch-1.log", "logs/00000-1.log", "logs/launch-2.log"):
        files.store.put(name, b"")
    backend, handle = LocalBackend(), Handle(files, 1, [0, 1], None)

    assert [path.name for path in backend.logs(handle, None)] == ["launch-1.log", "00000-1.log"]
    assert [path.name for path in backend.logs(handle, 0)] == ["00000-1.log"]
    assert [path.name for path in backend.logs(handle, 1)] == ["launch-1.log"]


def test_cancelling_asks_the_jobs_to_stop_and_ends_no_foreign_process(files: RunFiles) -> None:
    LocalBackend(ManualClock()).cancel(Handle(files, 1, [0], gone()))

    request = files.read_json(files.stop(1))
    assert request is not None
    assert request["reason"] == "cancelled"


def test_a_plan_that_nobody_provides_a_backend_for_is_named() -> None:
    with pytest.raises(BackendError, match="no backend is installed for plans of kind 'pbs'"):
        backend_named("pbs")


# The status of a run -----------------------------------------------------------------------------


@dataclass
class Told(LocalBackend):
    """A backend that says of every job what it is told to say."""

    states: Mapping[int, JobState]

    def poll(self, handle: Handle) -> dict[int, JobState]:
        return dict(self.states)


def status(
    files: RunFiles,
    *states: JobState,
    started: Mapping[str, Any] | None = None,
    now: float = 1010.0,
) -> Status:
    backend: Backend = Told(dict(enumerate(states)))
    handle = Handle(files, 1, range(len(states)), started)
    return read_status(files.manifest(), handle, backend, now=now)[0]


def finish(files: RunFiles, rows: int = 10, **how: Any) -> None:
    write_part(files, results(range(rows), sq__value=range(rows), **how))


DONE, RUNNING, PENDING = JobState.DONE, JobState.RUNNING, JobState.PENDING
LOST, UNKNOWN = JobState.LOST, JobState.UNKNOWN


def test_a_run_none_of_whose_jobs_has_started_is_pending(files: RunFiles) -> None:
    found = status(files, PENDING, PENDING)

    assert (found.state, found.ended, found.waiting) == ("pending", False, 10)


def test_a_run_that_does_not_answer_has_not_ended(files: RunFiles) -> None:
    assert status(files, UNKNOWN, UNKNOWN).state == "pending"
    assert status(files, DONE, UNKNOWN).state == "running"


def test_a_running_run_is_counted_from_its_beats(files: RunFiles) -> None:
    working = [{"position": 4, "stage": "sq", "seconds": 1.0}]
    put_beats(
        files,
        beat(ok=3, failed=1, memory=100, running=working),
        beat(ok=1, skipped=2, memory=50),
    )

    found = status(files, RUNNING, RUNNING)

    assert (found.state, found.ok, found.failed, found.skipped) == ("running", 4, 1, 2)
    assert (found.running, found.waiting, found.memory) == (1, 2, 150)
    assert found.working_on == working
    assert found.jobs == {"running": 2}


def test_rows_of_earlier_launches_count(files: RunFiles) -> None:
    files.put_json(files.intent(1), {"before": {"ok": 5, "failed": 1, "skipped": 0}})
    put_beats(files, beat(ok=2))

    found = status(files, RUNNING)

    assert (found.ok, found.failed, found.waiting) == (7, 1, 2)


def test_the_pace_is_that_of_the_jobs_at_work(files: RunFiles) -> None:
    put_beats(files, beat(started=1000.0, ok=2), beat(started=1005.0, ok=2))

    found = status(files, RUNNING, RUNNING, now=1010.0)

    assert found.rate == pytest.approx(0.4)
    assert found.seconds_left == pytest.approx(6 / 0.4)


def test_before_the_first_row_there_is_no_pace(files: RunFiles) -> None:
    put_beats(files, beat())

    found = status(files, RUNNING)

    assert (found.rate, found.seconds_left) == (None, None)


def test_a_job_that_failed_before_it_began_does_not_hide_the_others(files: RunFiles) -> None:
    failed = {"time": 1001.0, "state": "failed", "reason": "PayloadError: no", "rows": 0}
    put_beats(files, {**failed, "ok": 0, "failed": 0, "skipped": 0}, beat(ok=4))

    found = status(files, JobState.FAILED, RUNNING, now=1010.0)

    assert (found.state, found.ok) == ("running", 4)
    assert found.rate == pytest.approx(0.4)


def test_beats_of_a_reduce_are_not_rows(files: RunFiles) -> None:
    put_beats(files, beat("done", ok=10), beat("running", table="total", ok=3))

    assert status(files, DONE, RUNNING).ok == 10


def test_a_run_is_done_when_every_row_has_ended_in_whatever_way(files: RunFiles) -> None:
    finish(files, 4)
    write_part(files, results(range(4, 7), status=FAILED), seq=1)
    write_part(files, results(range(7, 10), status=SKIPPED), seq=2)
    put_beats(files, beat("done"), beat("done"))

    found = status(files, DONE, DONE)

    assert (found.state, found.reason, found.ended) == ("done", "", True)
    assert (found.ok, found.failed, found.skipped, found.waiting) == (4, 3, 3, 0)


def test_an_ended_run_is_counted_from_its_parts_whatever_the_beats_say(files: RunFiles) -> None:
    finish(files)
    put_beats(files, beat("done", ok=10_000))

    assert status(files, DONE, DONE).ok == 10


def test_a_run_whose_process_died_after_the_last_row_is_done(files: RunFiles) -> None:
    finish(files)
    put_beats(files, beat("running"), beat("running"))

    assert status(files, LOST, LOST).state == "done"


def test_a_run_that_was_cancelled_is_stopped(files: RunFiles) -> None:
    finish(files, 4)
    files.request_stop(1, "cancelled", 1005.0)
    put_beats(files, beat("stopped", reason="cancelled"))

    found = status(files, JobState.CANCELLED, LOST, started=gone())

    assert (found.state, found.reason) == ("stopped", "cancelled; 6 rows have no result")
    assert (found.ok, found.waiting) == (4, 6)


def test_a_run_that_ended_itself_early_is_stopped(files: RunFiles) -> None:
    put_beats(files, beat("stopped", reason="the job's time limit is 5 s away"))

    found = status(files, JobState.CANCELLED, LOST, started=gone())

    assert found.state == "stopped"
    assert found.reason == "the job's time limit is 5 s away; 10 rows have no result"


def test_a_run_whose_job_could_not_go_on_has_failed_with_its_reason(files: RunFiles) -> None:
    files.put_beat(JobAttempt(99999, 1), beat("failed", reason="OSError: disk full"))

    found = status(files, LOST, LOST, started=gone())

    assert (found.state, found.reason) == ("failed", "OSError: disk full")


def test_a_run_whose_process_is_gone_without_a_word_is_lost(files: RunFiles) -> None:
    put_beats(files, beat("running"))

    found = status(files, LOST, LOST, started={**gone(), "host": "node7"})

    assert found.state == "lost"
    assert found.reason == "its process on node7 is gone without a word; 10 rows have no result"


def test_a_run_whose_process_never_started_is_lost(files: RunFiles) -> None:
    found = status(files, LOST, LOST)

    assert (found.state, found.reason) == (
        "lost",
        "its process never started; 10 rows have no result",
    )


def test_a_run_is_not_done_before_its_reduces_are(tmp_path: Path) -> None:
    files = write_run(tmp_path, rows=10, jobs=1, reduces={"total": 2})
    finish(files)
    write_part(files, results([0], total__sum=[1]), job=1, table="total")

    before = status(files, DONE, LOST, started=gone())
    write_part(files, results([1], total__sum=[1]), job=1, attempt=2, table="total")

    assert (before.state, before.ok) == ("lost", 10)
    assert before.reason.endswith("reduce total has not run")
    assert status(files, DONE, LOST, started=gone()).state == "done"


def test_states_seen_before_are_not_taken_back(files: RunFiles) -> None:
    finish(files)
    known = {0: DONE, 1: DONE}
    handle = Handle(files, 1, [0, 1])

    found, states = read_status(
        files.manifest(), handle, Told({0: RUNNING, 1: UNKNOWN}), now=0.0, known=known
    )

    assert states == known
    assert found.state == "done"


def test_a_status_is_json_and_one_line(files: RunFiles) -> None:
    finish(files, 4)
    found = status(files, LOST)

    assert json.loads(json.dumps(found.to_dict()))["waiting"] == 6
    assert str(found) == (
        "demo-1: lost: its process never started; 6 rows have no result; 4 of 10 rows "
        "(4 ok, 0 failed, 0 skipped)"
    )


def test_what_earlier_starts_of_a_job_have_done_does_not_count_as_its_pace(tmp_path: Path) -> None:
    class Runs(LocalBackend):
        def poll(self, handle: Handle) -> dict[int, JobState]:
            return {0: JobState.RUNNING}

    files = write_run(tmp_path / "run", rows=100)
    files.put_beat(JobAttempt(0, 1), beat(ok=60, before=50))

    status, _ = read_status(files.manifest(), Handle(files, 1, [0]), Runs(), now=1010.0)

    assert status.rate == pytest.approx(1.0)
