"""Work in the background goes on after failures, and says each of them once."""

from __future__ import annotations

import itertools
import logging
import sqlite3
from pathlib import Path

import pytest
from fake_runtime import Lab

from flowdist.clock import ManualClock
from flowdist.emulator.background import FIRST, LONGEST, Rounds
from flowdist.emulator.compute.containers import ContainerState
from flowdist.emulator.errors import SqlError


def test_a_failure_that_comes_again_is_said_once_and_tried_ever_more_seldom(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    clock = ManualClock(0.0)
    rounds = Rounds("the work", clock.time)
    tries: list[float] = []

    def fail() -> None:
        tries.append(clock.time())
        raise ValueError(len(tries))  # another text each time

    for _ in range(10_000):
        rounds.run(fail)
        clock.advance(FIRST / 4)
    pauses = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert pauses[:3] == pytest.approx([FIRST, 2 * FIRST, 4 * FIRST], abs=FIRST / 2)
    assert pauses[-1] == pytest.approx(LONGEST, abs=FIRST)
    assert [record.exc_info is not None for record in caplog.records] == [True]
    clock.advance(LONGEST)
    assert rounds.run(lambda: None)
    assert caplog.messages[-1] == f"the work works again, after {len(tries)} failures"


def test_what_could_not_be_written_is_written_later(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    store = lab.account.compute.store
    store._file.execute("PRAGMA query_only = ON")  # as a full disk would refuse it
    with pytest.raises(SqlError, match="readonly"):
        lab.job()
    assert lab.sql("SHOW SERVICES") == []
    store._file.execute("PRAGMA query_only = OFF")
    lab.job()
    store._file.execute("PRAGMA query_only = ON")
    with pytest.raises(sqlite3.OperationalError):
        lab.tick()
    store._file.execute("PRAGMA query_only = OFF")
    lab.tick()
    lab.restart()
    assert lab.status() == "RUNNING"


def test_another_failure_is_said_too(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock(0.0)
    rounds = Rounds("the work", clock.time)
    rounds.run(lambda: 1 // 0)
    clock.advance(LONGEST)
    rounds.run(lambda: int("x"))
    assert len(caplog.records) == 2


def test_a_container_that_cannot_be_looked_at_does_not_hold_up_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lab = Lab(tmp_path)
    lab.job(more="ASYNC=TRUE REPLICAS=2")
    lab.tick()
    odd, other = (launch.directory for launch in lab.runtime.launches)
    state = lab.runtime.state

    def broken(directory: Path) -> ContainerState | None:
        if directory == odd:
            raise OSError("the disk is odd")
        return state(directory)

    monkeypatch.setattr(lab.runtime, "state", broken)
    lab.runtime.exit(other, 0)
    for _ in range(3):
        lab.tick()
    assert [row["status"] for row in lab.containers()] == ["READY", "DONE"]
    assert len([r for r in caplog.records if r.exc_info]) == 1
    monkeypatch.undo()
    lab.runtime.exit(odd, 0)
    lab.tick()
    assert lab.status() == "DONE"
