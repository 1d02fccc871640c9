"""The loop of a job, on a clock that stands still and a pool without processes."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import FakePool, chunks_of, write_run

import flowdist.workers.source
from flowdist.clock import ManualClock
from flowdist.parts import STATUS, read_part
from flowdist.results import read_results
from flowdist.store import JobAttempt, RunFiles
from flowdist.workers.job import (
    TASK_GROWTH,
    TASK_ROWS,
    TASK_SECONDS,
    WAIT_SHARE,
    Ending,
    Job,
    Limits,
    Outcome,
    _Work,
)
from flowdist.workers.outputs import Cause
from flowdist.workers.pool import Task
from flowdist.workers.queue import Counts, DirectoryQueue
from flowdist.workers.source import IDLE_LEASES, QueueSource, Source, Span, StaticSource

WHO = JobAttempt(0, 1)
LEASE = 30.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def files(tmp_path: Path) -> RunFiles:
    return write_run(tmp_path)


def static(*spans: tuple[int, int]) -> StaticSource:
    return StaticSource([Span(*span) for span in spans])


def run(files: RunFiles, source: Source, pool: FakePool, **how: Any) -> Outcome:
    return Job(files, WHO, source, pool, clock=pool.clock, **how).run()


def ok_rows(files: RunFiles, rows: int) -> list[int]:
    """The rows with an ok result, each of which is checked to be that row's own."""
    table = read_results(files, rows)
    found = [r for r in table.to_pylist() if STATUS[r["_status"]] == "ok"]
    assert all(r["sq.value"] == r["_row"] ** 2 for r in found)
    return [r["_row"] for r in found]


def beat_of(files: RunFiles) -> dict[str, Any]:
    return dict(files.beats())[WHO]


# To the end --------------------------------------------------------------------------------------


def test_every_row_is_run_once_and_committed(files: RunFiles, clock: ManualClock) -> None:
    pool = FakePool(clock)

    outcome = run(files, static((0, 7), (9, 12)), pool)

    assert sorted(pool.ran) == [*range(7), *range(9, 12)]
    assert ok_rows(files, 12) == sorted(pool.ran)
    assert (outcome.stopped, outcome.tally.ok) == ("", 10)


def test_a_job_without_work_ends_at_once_and_leaves_no_part(
    files: RunFiles, clock: ManualClock
) -> None:
    outcome = run(files, static(), FakePool(clock))

    assert outcome.tally.done == 0
    assert files.parts() == []
    assert beat_of(files)["state"] == "done"


def test_failed_rows_are_committed_and_the_others_go_on(
    files: RunFiles, clock: ManualClock
) -> None:
    outcome = run(files, static((0, 6)), FakePool(clock, failing={1, 4}))

    assert ok_rows(files, 6) == [0, 2, 3, 5]
    assert read_results(files, 6).column("_status").to_pylist() == [0, 1, 0, 0, 1, 0]
    assert (outcome.tally.ok, outcome.tally.failed) == (4, 2)


# How many rows a task has ------------------------------------------------------------------------


def test_tasks_begin_with_one_row_and_grow_to_take_their_time(
    files: RunFiles, clock: ManualClock
) -> None:
    pool = FakePool(clock, width=1, seconds=0.001)

    run(files, static((0, 5000)), pool)

    assert pool.sizes[0] == 1
    assert max(pool.sizes) == pytest.approx(TASK_SECONDS / pool.seconds, abs=1)


def test_tasks_grow_step_by_step_since_an_estimate_from_few_rows_may_be_far_off(
    files: RunFiles, clock: ManualClock
) -> None:
    pool = FakePool(clock, width=1, seconds=1e-9)

    run(files, static((0, 4 * TASK_ROWS)), pool)

    assert all(b <= a * TASK_GROWTH for a, b in itertools.pairwise(pool.sizes))
    assert max(pool.sizes) == TASK_ROWS


def test_slow_rows_are_given_one_by_one(files: RunFiles, clock: ManualClock) -> None:
    pool = FakePool(clock, seconds=60.0)

    run(files, static((0, 20)), pool)

    assert set(pool.sizes) == {1}


def test_the_last_tasks_are_small_so_that_workers_end_together(
    files: RunFiles, clock: ManualClock
) -> None:
    pool = FakePool(clock, width=4, seconds=0.01)

    run(files, static((0, 300)), pool)

    tail = pool.sizes[pool.sizes.index(max(pool.sizes)) :]
    assert tail == sorted(tail, reverse=True)
    assert tail[-1] == 1


def test_a_task_never_reaches_over_a_gap(files: RunFiles, clock: ManualClock) -> None:
    pool = FakePool(clock, seconds=1e-6)

    run(files, static((0, 1), (10, 50), (60, 61)), pool)

    assert sorted(pool.ran) == [0, *range(10, 50), 60]


def test_whole_chunks_are_given_whole(files: RunFiles, clock: ManualClock) -> None:
    pool = FakePool(clock)
    source = StaticSource(chunks_of(10, size=4).spans(0, 3, whole=True))

    run(files, source, pool, limits=Limits(whole_chunks=True))

    assert [(t.first, t.stop) for t in pool.given] == [(0, 4), (4, 8), (8, 10)]


def test_rows_that_wait_behind_a_running_one_go_to_idle_workers(
    files: RunFiles, clock: ManualClock
) -> None:
    pool = FakePool(clock, width=2, shares=True)
    source = StaticSource(chunks_of(8, size=8).spans(0, 1, whole=True))

    run(files, source, pool, limits=Limits(whole_chunks=True))

    assert sorted(pool.ran) == list(range(8))
    assert len(pool.given) > 1


# Rows that were lost -----------------------------------------------------------------------------


def test_a_lost_row_is_run_again_and_the_others_of_its_task_once(
    files: RunFiles, clock: ManualClock
) -> None:
    pool = FakePool(clock, width=1, seconds=0.01, dying={50: 1})

    outcome = run(files, static((0, 100)), pool)

    assert sorted(pool.ran) == list(range(100))
    assert ok_rows(files, 100) == list(range(100))
    assert outcome.tally.lost_workers == 1


def test_a_lost_row_comes_first_and_brings_its_causes(files: RunFiles, clock: ManualClock) -> None:
    pool = FakePool(clock, width=1, dying={2: 2})

    run(files, static((0, 6)), pool)

    assert [t.first for t in pool.given] == [0, 1, 2, 2, 2, 3, 4, 5]
    causes = [[c.attempt for c in t.prior] for t in pool.given if t.first == 2]
    assert causes == [[], [1], [1, 2]]


def test_rows_that_were_only_in_the_same_task_bear_no_blame(
    files: RunFiles, clock: ManualClock
) -> None:
    pool = FakePool(clock, width=1, seconds=0.01, dying={50: 1})

    run(files, static((0, 100)), pool)

    blamed = [(t.first, t.stop) for t in pool.given if t.prior]
    assert blamed == [(50, 51)]


# Commits -----------------------------------------------------------------------------------------


def test_results_are_committed_when_it_is_time_and_not_before(
    files: RunFiles, clock: ManualClock
) -> None:
    pool = FakePool(clock, width=1)
    seen: dict[str, Sequence[str]] = {}
    pool.at(4.5, lambda: seen.update(before=files.parts()))
    pool.at(5.5, lambda: seen.update(after=files.parts()))

    run(files, static((0, 8)), pool)

    assert seen["before"] == []
    assert len(seen["after"]) == 1
    assert len(files.parts()) == 2


def test_a_long_job_leaves_few_parts(files: RunFiles, clock: ManualClock) -> None:
    run(files, static((0, 200)), FakePool(clock, width=1, seconds=10.0))

    assert len(files.parts()) < 60


# Early ends --------------------------------------------------------------------------------------


def test_too_many_failures_stop_the_run(files: RunFiles, clock: ManualClock) -> None:
    pool = FakePool(clock, width=1, failing={2, 5, 8, 9})

    outcome = run(files, static((0, 20)), pool, limits=Limits(max_failures=3))

    assert outcome.stopped == "3 failed, and the plan stops a run at 3 failed"
    assert pool.ran == list(range(9))
    assert ok_rows(files, 20) == [0, 1, 3, 4, 6, 7]


def test_too_many_failures_stop_the_other_jobs_too(files: RunFiles, clock: ManualClock) -> None:
    run(files, static((0, 9)), FakePool(clock, failing={0}), limits=Limits(max_failures=1))

    request = files.read_json(files.stop(WHO.attempt))
    assert request is not None
    assert request["reason"] == "1 failed, and the plan stops a run at 1 failed"


def test_failures_of_other_jobs_count(files: RunFiles, clock: ManualClock) -> None:
    outcome = run(
        files,
        static((0, 20)),
        FakePool(clock, width=1, failing={4}),
        limits=Limits(max_failures=3),
        failures_elsewhere=lambda: 2,
    )

    assert outcome.tally.done == 5
    assert outcome.stopped.startswith("3 failed")


def test_a_job_without_failures_does_not_ask_for_those_of_others(
    files: RunFiles, clock: ManualClock
) -> None:
    # Asking is reading a file of every job: in a run of many jobs that would be jobs times jobs.
    asked: list[None] = []

    def ask() -> int:
        asked.append(None)
        return 0

    run(
        files,
        static((0, 10)),
        FakePool(clock),
        limits=Limits(max_failures=1),
        failures_elsewhere=ask,
    )

    assert asked == []


def test_fewer_failures_than_the_limit_do_not_stop(files: RunFiles, clock: ManualClock) -> None:
    pool = FakePool(clock, failing={2, 5})

    outcome = run(files, static((0, 20)), pool, limits=Limits(max_failures=3))

    assert (outcome.stopped, outcome.tally.done) == ("", 20)


def test_a_stop_request_in_the_run_ends_the_job_with_what_is_done_committed(
    files: RunFiles, clock: ManualClock
) -> None:
    pool = FakePool(clock, width=1)
    pool.at(3.5, lambda: files.request_stop(1, "cancelled", 3.5))

    outcome = run(files, static((0, 100)), pool)

    assert outcome.stopped == "cancelled"
    assert pool.interrupted
    assert 3 <= outcome.tally.ok < 10
    assert ok_rows(files, 100) == pool.ran
    assert (beat_of(files)["state"], beat_of(files)["reason"]) == ("stopped", "cancelled")


def test_a_job_whose_launch_was_given_up_and_replaced_ends(
    files: RunFiles, clock: ManualClock
) -> None:
    pool = FakePool(clock)
    pool.at(5.0, lambda: files.put_json(files.intent(2), {"time": 5.0, "jobs": [0]}))

    outcome = run(files, static((0, 100)), pool)

    assert outcome.stopped == "a later launch has taken over"
    assert 0 < len(ok_rows(files, 100)) < 100


def test_a_stop_request_for_another_launch_means_nothing(
    files: RunFiles, clock: ManualClock
) -> None:
    files.request_stop(7, "cancelled", 0.0)

    assert run(files, static((0, 5)), FakePool(clock)).stopped == ""


def test_a_job_that_was_told_to_stop_before_it_began_runs_nothing(
    files: RunFiles, clock: ManualClock
) -> None:
    files.request_stop(1, "cancelled", 0.0)
    pool = FakePool(clock)

    assert run(files, static((0, 5)), pool).stopped == "cancelled"
    assert pool.given == []


def test_a_signal_ends_the_job_at_once(files: RunFiles, clock: ManualClock) -> None:
    pool = FakePool(clock, width=1)
    told: list[str] = []
    pool.at(2.5, lambda: told.append("stopped by SIGTERM"))

    outcome = run(files, static((0, 100)), pool, stopping=lambda: told[0] if told else "")

    assert outcome.stopped == "stopped by SIGTERM"
    assert ok_rows(files, 100) == pool.ran
    assert len(pool.ran) == 2


def test_the_time_limit_ends_the_job_while_there_is_time_to_commit(
    files: RunFiles, clock: ManualClock
) -> None:
    pool = FakePool(clock, width=1)

    outcome = run(files, static((0, 100)), pool, limits=Limits(deadline=20.0, spare=5.0))

    assert outcome.stopped.startswith("the job's time limit is")
    assert 15.0 <= clock.time() < 16.0
    assert ok_rows(files, 100) == pool.ran == list(range(15))


def test_a_long_row_does_not_keep_the_job_over_its_time_limit(
    files: RunFiles, clock: ManualClock
) -> None:
    pool = FakePool(clock, width=1, seconds=1000.0)

    run(files, static((0, 3)), pool, limits=Limits(deadline=20.0, spare=5.0))

    assert clock.time() < 20.0
    assert pool.interrupted


def test_a_row_that_is_not_likely_to_end_in_time_is_not_begun(
    files: RunFiles, clock: ManualClock
) -> None:
    pool = FakePool(clock, width=1, seconds=6.0)

    outcome = run(files, static((0, 100)), pool, limits=Limits(deadline=20.0, spare=5.0))

    assert not pool.interrupted
    assert ok_rows(files, 100) == pool.ran == [0, 1]
    assert (outcome.ending, clock.time()) == ("time", 12.0)
    assert outcome.stopped == "the job's time limit is 8 s away, and a row takes up to 6 s"


def test_rows_that_are_being_run_may_end_when_no_more_are_begun(
    files: RunFiles, clock: ManualClock
) -> None:
    pool = FakePool(clock, width=2, seconds=6.0)
    pool.at(3.0, lambda: setattr(pool, "seconds", 9.0))  # for what is begun from then on

    outcome = run(files, static((0, 100)), pool, limits=Limits(deadline=25.0, spare=5.0))

    assert not pool.interrupted
    assert ok_rows(files, 100) == [0, 1, 2, 3]
    assert outcome.ending == "time"


def test_once_it_is_enough_no_row_is_begun_and_what_runs_comes_to_its_end(
    files: RunFiles, clock: ManualClock
) -> None:
    pool = FakePool(clock, width=2, seconds=10.0)
    until = clock.time() + 25

    def enough() -> tuple[Ending, str] | None:
        return ("budget", "that was all the time") if clock.time() >= until else None

    outcome = run(files, static((0, 12)), pool, limits=Limits(enough=enough))

    assert sorted(pool.ran) == list(range(6))
    assert ok_rows(files, 12) == list(range(6))
    assert (outcome.stopped, outcome.ending) == ("that was all the time", "budget")


def test_a_job_that_is_through_when_it_is_enough_is_done(
    files: RunFiles, clock: ManualClock
) -> None:
    pool = FakePool(clock, width=2, seconds=10.0)
    began = clock.time()

    def enough() -> tuple[Ending, str] | None:
        return ("left", "needed elsewhere") if clock.time() > began else None

    outcome = run(files, static((0, 2)), pool, limits=Limits(enough=enough))

    assert (outcome.stopped, beat_of(files)["state"]) == ("", "done")


def test_a_job_that_has_begun_its_last_row_in_time_is_done(
    files: RunFiles, clock: ManualClock
) -> None:
    outcome = run(
        files,
        static((0, 2)),
        FakePool(clock, width=1, seconds=6.0),
        limits=Limits(deadline=20.0, spare=5.0),
    )

    assert (outcome.stopped, outcome.ending, outcome.tally.ok) == ("", "", 2)


def test_one_slow_row_does_not_end_a_job_early(files: RunFiles, clock: ManualClock) -> None:
    pool = FakePool(clock, width=1, seconds=1.0)
    pool.slow = {5: 20.0}

    run(files, static((0, 100)), pool, limits=Limits(deadline=60.0, spare=5.0))

    assert clock.time() >= 54.0


def test_a_whole_chunk_that_is_not_likely_to_end_in_time_is_not_begun(
    files: RunFiles, clock: ManualClock
) -> None:
    pool = FakePool(clock, width=1, seconds=1.0)
    source = StaticSource(chunks_of(40, size=10).spans(0, 4, whole=True))

    outcome = run(files, source, pool, limits=Limits(None, 30.0, 5.0, whole_chunks=True))

    assert not pool.interrupted
    assert len(pool.ran) == 20
    assert outcome.ending == "time"


@pytest.mark.parametrize(
    ("how", "ending"),
    [
        ({}, ""),
        ({"limits": Limits(deadline=5.0, spare=1.0)}, "time"),
        ({"stopping": lambda: "stopped by SIGTERM"}, "told"),
        ({"limits": Limits(max_failures=1)}, "failures"),
    ],
)
def test_how_a_job_ended_is_told_in_a_word(
    files: RunFiles, clock: ManualClock, how: dict[str, Any], ending: str
) -> None:
    outcome = run(files, static((0, 10)), FakePool(clock, failing={0}), **how)

    assert outcome.ending == ending
    assert beat_of(files)["ending"] == ending


@pytest.mark.parametrize(
    ("event", "ending"),
    [
        (lambda files: files.request_stop(1, "cancelled", 1.0), "told"),
        (lambda files: files.put_json(files.intent(2), {}), "superseded"),
    ],
)
def test_a_request_and_a_later_launch_are_told_apart(
    files: RunFiles, clock: ManualClock, event: Any, ending: str
) -> None:
    pool = FakePool(clock)
    pool.at(1.0, lambda: event(files))

    assert run(files, static((0, 100)), pool).ending == ending


# When all processes of a job are signalled at once ------------------------------------------------


def told_at(pool: FakePool, moment: float) -> Callable[[], str]:
    """What `stopping` says: SIGTERM from `moment` on."""
    told: list[str] = []
    pool.at(moment, lambda: told.append("stopped by SIGTERM"))
    return lambda: told[0] if told else ""


def test_rows_that_fail_when_the_job_is_told_to_stop_have_no_result(
    files: RunFiles, clock: ManualClock
) -> None:
    # The second task is rows 1 to 64, of which some fail because of the signal.
    pool = FakePool(clock, width=1, seconds=0.001, failing={0, 5, 6, 9})

    outcome = run(files, static((0, 1000)), pool, stopping=told_at(pool, 0.05))

    states = read_results(files, 65).column("_status").to_pylist()
    assert [STATUS[states[row]] for row in (0, 5, 6, 9)] == ["failed"] + 3 * ["missing"]
    assert ok_rows(files, 65) == [r for r in range(65) if r not in (0, 5, 6, 9)]
    assert (outcome.tally.ok, outcome.tally.failed) == (61, 1)


def test_a_row_whose_worker_dies_when_the_job_is_told_to_stop_has_no_result(
    files: RunFiles, clock: ManualClock
) -> None:
    pool = FakePool(clock, width=1, dying={2: 1})

    outcome = run(files, static((0, 10)), pool, stopping=told_at(pool, 2.5))

    assert ok_rows(files, 10) == [0, 1]
    assert read_results(files, 10).column("_status").to_pylist()[2] == STATUS.index("missing")
    assert outcome.tally.failed == 0


def test_failures_that_come_of_being_stopped_are_no_reason_to_stop_others(
    files: RunFiles, clock: ManualClock
) -> None:
    pool = FakePool(clock, width=1, failing={2})
    told = told_at(pool, 2.5)

    outcome = run(files, static((0, 10)), pool, stopping=told, limits=Limits(max_failures=1))

    assert outcome.ending == "told"
    assert files.read_json(files.stop(1)) is None


def test_claims_with_rows_that_failed_of_being_stopped_are_given_back(
    files: RunFiles, clock: ManualClock
) -> None:
    queue_at(files, clock).put(0, 4)
    pool = FakePool(clock, width=1, failing={1})

    run(files, queue_source(files, clock, 4), pool, stopping=told_at(pool, 1.5))

    assert queue_at(files, clock).counts() == Counts(waiting=3, claimed=0, done=1)


# Heartbeats --------------------------------------------------------------------------------------


def test_a_beat_tells_how_far_the_job_is(files: RunFiles, clock: ManualClock) -> None:
    pool = FakePool(clock, width=1, failing={1})
    beats: list[dict[str, Any]] = []
    pool.at(4.9, lambda: beats.append(beat_of(files)))

    run(files, static((0, 10)), pool, limits=Limits(deadline=100.0))

    (middle,) = beats
    assert {k: middle[k] for k in ("state", "table", "rows", "ok", "failed", "memory")} == {
        "state": "running",
        "table": "rows",
        "rows": 10,
        "ok": 3,
        "failed": 1,
        "memory": 4096,
    }
    assert [w["position"] for w in middle["running"]] == [4]
    assert 95.0 <= middle["time_left"] <= 96.5


def test_a_beat_tells_how_many_parts_there_are(files: RunFiles, clock: ManualClock) -> None:
    run(files, static((0, 40)), FakePool(clock, width=1))

    assert beat_of(files)["parts"] == len(files.parts()) > 1


def test_a_beat_that_cannot_be_written_ends_no_job(
    files: RunFiles, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(who: JobAttempt, value: dict[str, Any]) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "put_beat", full)

    run(files, static((0, 10)), FakePool(clock))

    assert ok_rows(files, 10) == list(range(10))


def test_the_last_beat_tells_how_the_job_ended(files: RunFiles, clock: ManualClock) -> None:
    run(files, static((0, 10)), FakePool(clock, failing={1}))

    last = beat_of(files)
    assert (last["state"], last["ok"], last["failed"], last["running"]) == ("done", 9, 1, [])


def test_beats_come_while_a_long_row_runs(files: RunFiles, clock: ManualClock) -> None:
    pool = FakePool(clock, width=1, seconds=1000.0)
    times: list[float] = []
    for moment in range(100, 1000, 100):
        pool.at(float(moment), lambda: times.append(clock.time() - beat_of(files)["time"]))

    run(files, static((0, 1)), pool)

    assert len(times) == 9
    assert max(times) < LEASE / 2


# From a queue ------------------------------------------------------------------------------------


def queue_at(files: RunFiles, clock: ManualClock) -> DirectoryQueue:
    return DirectoryQueue(files.store, lease=LEASE, clock=clock)


def queue_source(
    files: RunFiles, clock: ManualClock, rows: int, done: Sequence[int] = (), width: int = 1
) -> QueueSource:
    queue, chunks = queue_at(files, clock), chunks_of(rows, done=done)
    return QueueSource(queue, chunks, "ann", whole=False, width=width, clock=clock)


def test_a_queue_is_drained_to_its_end(files: RunFiles, clock: ManualClock) -> None:
    queue_at(files, clock).put(0, 30, claimers=2)
    pool = FakePool(clock)

    run(files, queue_source(files, clock, 30), pool)

    assert sorted(pool.ran) == list(range(30))
    assert ok_rows(files, 30) == list(range(30))
    assert queue_at(files, clock).counts() == Counts(waiting=0, claimed=0, done=30)


def test_rows_done_by_an_earlier_launch_are_passed_over(
    files: RunFiles, clock: ManualClock
) -> None:
    queue_at(files, clock).put(0, 30)
    pool = FakePool(clock)

    run(files, queue_source(files, clock, 30, done=range(28)), pool)

    assert sorted(pool.ran) == [28, 29]
    assert queue_at(files, clock).counts().done == 30


def test_a_claim_is_completed_only_after_its_rows_are_on_disk(
    files: RunFiles, clock: ManualClock
) -> None:
    queue_at(files, clock).put(0, 2)
    pool = FakePool(clock, width=1)
    seen: list[tuple[int, int]] = []

    def look() -> None:
        seen.append((queue_at(files, clock).counts().done, len(files.parts())))

    pool.at(1.5, look)
    run(files, queue_source(files, clock, 2), pool)

    assert seen == [(0, 0)]


def test_a_claim_whose_rows_could_not_be_written_is_given_back(
    files: RunFiles, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    queue_at(files, clock).put(0, 4)
    source = queue_source(files, clock, 4)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run(files, source, FakePool(clock))

    assert files.parts() == []
    assert queue_at(files, clock).counts() == Counts(waiting=4, claimed=0, done=0)


def test_a_job_waits_for_what_others_hold_and_ends_when_they_are_done(
    files: RunFiles, clock: ManualClock
) -> None:
    other = queue_at(files, clock)
    other.put(0, 4)
    held = other.claim("bob")
    pool = FakePool(clock)
    for moment in range(20):
        pool.at(float(moment), lambda: other.renew("bob"))

    def end() -> None:
        other.complete(held)
        assert other.finished()

    pool.at(20.0, end)

    run(files, queue_source(files, clock, 4), pool)

    assert sorted(pool.ran) == [1, 2, 3]
    assert 20.0 <= clock.time() < 21.0


def test_a_job_that_has_not_waited_long_sees_soon_that_others_are_done(
    files: RunFiles, clock: ManualClock
) -> None:
    other = queue_at(files, clock)
    other.put(0, 4)
    held = other.claim("bob")
    pool = FakePool(clock, width=3)

    def end() -> None:
        other.complete(held)
        assert other.finished()

    pool.at(1.8, end)  # soon after the last row here

    run(files, queue_source(files, clock, 4), pool)

    assert sorted(pool.ran) == [1, 2, 3]
    assert 1.8 <= clock.time() <= 1.8 + 1.0 * WAIT_SHARE


def test_a_job_leaves_what_others_go_on_with(files: RunFiles, clock: ManualClock) -> None:
    other = queue_at(files, clock)
    other.put(0, 4)
    other.claim("bob")
    pool = FakePool(clock)
    for moment in range(1000):
        pool.at(float(moment), lambda: other.renew("bob"))

    outcome = run(files, queue_source(files, clock, 4), pool)

    assert outcome.stopped == ""
    assert beat_of(files)["state"] == "done"
    assert IDLE_LEASES * LEASE <= clock.time() < (IDLE_LEASES + 1) * LEASE
    assert queue_at(files, clock).counts() == Counts(waiting=0, claimed=1, done=3)


def test_a_job_takes_over_what_a_dead_worker_held(files: RunFiles, clock: ManualClock) -> None:
    dead = queue_at(files, clock)
    dead.put(0, 4)
    dead.claim("bob")

    run(files, queue_source(files, clock, 4), FakePool(clock))

    assert ok_rows(files, 4) == [0, 1, 2, 3]
    assert queue_at(files, clock).counts().done == 4


def take_over(files: RunFiles) -> None:
    """Bob, whose clock runs ahead, takes everything that ann holds, and does the rest too."""
    ahead = ManualClock()
    bob = queue_at(files, ahead)
    claims = bob.claim("bob", 10_000)
    assert bob.claim("bob") == []  # sees how ann is
    ahead.advance(LEASE)
    for claim in [*claims, *bob.claim("bob", 10_000)]:
        assert bob.complete([claim])


def test_rows_of_a_claim_that_was_taken_over_are_dropped(
    files: RunFiles, clock: ManualClock
) -> None:
    queue_at(files, clock).put(0, 8)
    pool = FakePool(clock, width=1)
    pool.at(2.5, lambda: take_over(files))
    pool.at(20.0, lambda: files.request_stop(1, "cancelled", 20.0))

    run(files, queue_source(files, clock, 8), pool)

    assert pool.ran[:3] == [0, 1, 2]
    assert ok_rows(files, 8) == []


def test_waiting_rows_of_a_claim_that_was_taken_over_are_not_run(
    files: RunFiles, clock: ManualClock
) -> None:
    queue_at(files, clock).put(0, 1280)  # twenty rows in a ticket
    pool = FakePool(clock, width=1)
    pool.at(2.5, lambda: take_over(files))

    run(files, queue_source(files, clock, 1280), pool)

    # It learns of it when it commits, after five seconds.
    assert pool.ran == [0, 1, 2, 3, 4]


class Losing(StaticSource):
    """A source that loses a span to somebody else before the first commit."""

    def __init__(self, span: Span, lost: Span) -> None:
        super().__init__([span])
        self.lost = [lost]

    def lost_spans(self) -> list[Span]:
        lost, self.lost = self.lost, []
        return lost


def test_rows_beside_those_of_a_lost_claim_are_kept(files: RunFiles, clock: ManualClock) -> None:
    # At the first commit, after five seconds, one worker is in the middle of a task.
    pool = FakePool(clock, width=2, seconds=0.1, slow={0: 0.15})

    run(files, Losing(Span(0, 150), Span(90, 121)), pool)

    assert 90 < max(row for row in pool.ran if row < 121) < 110
    assert ok_rows(files, 150) == [*range(90), *range(121, 150)]


def test_a_stopped_job_gives_its_claims_back_at_once(files: RunFiles, clock: ManualClock) -> None:
    queue_at(files, clock).put(0, 8)
    pool = FakePool(clock, width=1)
    pool.at(1.5, lambda: files.request_stop(1, "cancelled", 1.5))

    run(files, queue_source(files, clock, 8), pool)

    other = queue_at(files, ManualClock())
    claimed = [c for _ in range(2) for c in other.claim("bob", 100)]
    assert ok_rows(files, 8) == [0]
    assert sorted(p for c in claimed for p in range(c.first, c.stop)) == [1, 2, 3, 4, 5, 6, 7]


def test_parts_of_a_job_hold_no_row_twice(files: RunFiles, clock: ManualClock) -> None:
    queue_at(files, clock).put(0, 40, claimers=2)
    pool = FakePool(clock, width=3, dying={3: 1, 17: 2, 39: 1})

    run(files, queue_source(files, clock, 40), pool)

    tables = [read_part(files.path(name)) for name in files.parts()]
    rows = [row for t in tables if t is not None for row in t.column("_row").to_pylist()]
    assert sorted(rows) == list(range(40))


@pytest.fixture
def large_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims as large as where claiming is slow."""
    monkeypatch.setattr(flowdist.workers.source, "SHORTEST_CLAIM", 2.0)


@pytest.mark.usefixtures("large_claims")
def test_what_is_claimed_and_not_begun_goes_to_others_before_a_time_limit(
    files: RunFiles, clock: ManualClock
) -> None:
    # Rows are fast at first, so that many are claimed, and then too slow for the time that is left.
    queue_at(files, clock).put(0, 64)
    pool = FakePool(clock, width=2, seconds=0.25, slow={9: 2.2})
    pool.at(0.8, lambda: setattr(pool, "seconds", 1.5))
    seen: list[Counts] = []
    for moment in (2.4, 3.15):
        pool.at(moment, lambda: seen.append(queue_at(files, clock).counts()))

    outcome = run(
        files,
        queue_source(files, clock, 64, width=2),
        pool,
        limits=Limits(deadline=7.5, spare=3.0),
    )

    before, after = seen
    assert before.claimed > 10
    assert after == Counts(waiting=53, claimed=2, done=9)  # rows 9 and 10 are being run
    assert ok_rows(files, 64) == list(range(11))
    assert queue_at(files, clock).counts() == Counts(waiting=53, claimed=0, done=11)
    assert outcome.ending == "time"


@pytest.mark.usefixtures("large_claims")
def test_what_is_claimed_goes_to_others_when_rows_turn_slow(
    files: RunFiles, clock: ManualClock
) -> None:
    queue_at(files, clock).put(0, 64)
    pool = FakePool(clock, width=2, seconds=0.25)
    pool.at(0.8, lambda: setattr(pool, "seconds", 50.0))
    seen: list[Counts] = []
    for moment in (2.0, 20.0):
        pool.at(moment, lambda: seen.append(queue_at(files, clock).counts()))
    pool.at(40.0, lambda: files.request_stop(1, "cancelled", 40.0))

    run(files, queue_source(files, clock, 64, width=2), pool)

    before, after = seen
    assert before.claimed > 10
    assert after == Counts(waiting=54, claimed=2, done=8)


def test_rows_with_a_history_stay_when_what_was_claimed_goes_to_others() -> None:
    work, cause = _Work(), Cause("crash", "WorkerDied", "ended by SIGKILL", "sq", 1)
    work.give_back(Task(3, 4, (cause,)))
    work.add([Span(5, 9)])

    assert work.take_spans() == [Span(5, 9)]
    assert work.rows == 1
    assert work.take(1, whole_chunks=False) == Task(3, 4, (cause,))


def test_jobs_with_a_time_limit_share_a_queue_to_its_end(
    files: RunFiles, clock: ManualClock
) -> None:
    queue_at(files, clock).put(0, 60)

    for _ in range(3):
        source = QueueSource(
            queue_at(files, clock),
            chunks_of(60),
            f"start-{clock.time()}",
            whole=False,
            clock=clock,
            width=2,
            done_now=lambda: np.isin(np.arange(60), ok_rows(files, 60)),
        )
        limits = Limits(deadline=clock.time() + 25.0, spare=2.0)
        run(files, source, FakePool(clock, width=2, seconds=2.0), limits=limits)

    tables = [read_part(files.path(name)) for name in files.parts()]
    rows = [row for t in tables if t is not None for row in t.column("_row").to_pylist()]
    assert sorted(rows) == list(range(60))
    assert queue_at(files, clock).finished()
