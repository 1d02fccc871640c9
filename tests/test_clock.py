"""Time as a parameter."""

from __future__ import annotations

import time

import pytest

from flowdist.clock import Clock, ManualClock, SystemClock


def wait_until(clock: Clock, moment: float) -> None:
    """What code that polls looks like."""
    while clock.time() < moment:
        clock.sleep(30)


def test_a_day_of_polling_takes_no_time() -> None:
    clock = ManualClock(start=1_000.0)

    wait_until(clock, 1_000.0 + 86_400)

    assert clock.slept == [30] * 2_880
    assert clock.time() == 87_400


def test_advance_moves_the_clock_without_counting_as_sleep() -> None:
    clock = ManualClock()

    clock.advance(2.5)

    assert (clock.time(), clock.monotonic(), clock.slept) == (2.5, 2.5, [])


@pytest.mark.parametrize("move", [ManualClock.advance, ManualClock.sleep])
def test_a_manual_clock_does_not_go_back(move: object) -> None:
    clock = ManualClock(start=10)

    with pytest.raises(ValueError, match="does not go back"):
        move(clock, -1)  # type: ignore[operator]

    assert clock.time() == 10
    assert clock.slept == []


def test_the_system_clock_is_the_systems() -> None:
    clock = SystemClock()

    before, unix = clock.monotonic(), time.time()
    clock.sleep(0)

    assert clock.monotonic() >= before
    assert abs(clock.time() - unix) < 3600
