"""The loop of a job, on a clock that stands still and a pool without processes."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support import FakePool, chunks_of, write_run

from flowdist.clock import ManualClock
from flowdist.parts import STATUS, read_part
from flowdist.results import read_results
from flowdist.store import JobAttempt, RunFiles
from flowdist.workers.job import TASK_GROWTH, TASK_ROWS, TASK_SECONDS, Job, Limits, Outcome
from flowdist.workers.queue import Counts, DirectoryQueue
from flowdist.workers.source import QueueSource, Source, Span, StaticSource

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
    files: RunFiles, clock: ManualClock, rows: int, done: Sequence[int] = ()
) -> QueueSource:
    source = QueueSource(queue_at(files, clock), chunks_of(rows, done=done), "ann", whole=False)
    source.renew()
    return source


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
    (held,) = other.claim("bob")
    pool = FakePool(clock)
    for moment in range(20):
        pool.at(float(moment), lambda: other.renew("bob"))
    pool.at(20.0, lambda: other.complete(held))

    run(files, queue_source(files, clock, 4), pool)

    assert sorted(pool.ran) == [2, 3]
    assert 20.0 <= clock.time() < LEASE


def test_a_job_takes_over_what_a_dead_worker_held(files: RunFiles, clock: ManualClock) -> None:
    dead = queue_at(files, clock)
    dead.put(0, 4)
    dead.claim("bob")

    run(files, queue_source(files, clock, 4), FakePool(clock))

    assert ok_rows(files, 4) == [0, 1, 2, 3]
    assert queue_at(files, clock).counts().done == 4


def take_over(files: RunFiles) -> None:
    """Bob, whose clock runs ahead, takes everything that ann holds."""
    ahead = ManualClock()
    bob = queue_at(files, ahead)
    bob.renew("bob")
    while bob.claim("bob"):
        pass
    ahead.advance(LEASE)
    bob.renew("bob")
    for claim in bob.claim("bob", 100):
        bob.complete(claim)


def test_rows_of_a_claim_that_was_taken_over_are_dropped(
    files: RunFiles, clock: ManualClock
) -> None:
    queue_at(files, clock).put(0, 8)  # tickets of 4, 2, 1, 1
    pool = FakePool(clock, width=1)
    pool.at(2.5, lambda: take_over(files))
    pool.at(20.0, lambda: files.request_stop(1, "cancelled", 20.0))

    run(files, queue_source(files, clock, 8), pool)

    assert pool.ran[:3] == [0, 1, 2]
    assert ok_rows(files, 8) == []


def test_waiting_rows_of_a_claim_that_was_taken_over_are_not_run(
    files: RunFiles, clock: ManualClock
) -> None:
    queue_at(files, clock).put(0, 80)  # the first ticket has 40
    pool = FakePool(clock, width=1)
    pool.at(2.5, lambda: take_over(files))
    pool.at(60.0, lambda: files.request_stop(1, "cancelled", 60.0))

    run(files, queue_source(files, clock, 80), pool)

    assert len(pool.ran) > 10  # other tickets
    assert not set(pool.ran) & set(range(10, 40))


def test_a_stopped_job_gives_its_claims_back_at_once(files: RunFiles, clock: ManualClock) -> None:
    queue_at(files, clock).put(0, 8)
    pool = FakePool(clock, width=1)
    pool.at(1.5, lambda: files.request_stop(1, "cancelled", 1.5))

    run(files, queue_source(files, clock, 8), pool)

    other = queue_at(files, ManualClock())
    claimed = [c for _ in range(4) for c in other.claim("bob")]
    assert sorted(p for c in claimed for p in range(c.first, c.stop)) == list(range(8))


def test_parts_of_a_job_hold_no_row_twice(files: RunFiles, clock: ManualClock) -> None:
    queue_at(files, clock).put(0, 40, claimers=2)
    pool = FakePool(clock, width=3, dying={3: 1, 17: 2, 39: 1})

    run(files, queue_source(files, clock, 40), pool)

    tables = [read_part(files.path(name)) for name in files.parts()]
    rows = [row for t in tables if t is not None for row in t.column("_row").to_pylist()]
    assert sorted(rows) == list(range(40))
