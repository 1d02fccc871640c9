"""Time as a parameter.

Whatever polls, waits, leases or backs off takes a :class:`Clock`, so that its tests run in no time
at all and so that one place decides what "now" is. What to wait for, and how long, is decided by
the callers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """The three things that waiting code needs of time."""

    def time(self) -> float:
        """Seconds since the Unix epoch: for stamps that another machine compares."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed moment, never backwards: for durations within one process."""
        ...

    def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""
        ...


@dataclass(frozen=True)
class SystemClock:
    """The machine's clock.

    >>> clock = SystemClock()
    >>> before = clock.monotonic()
    >>> clock.sleep(0)
    >>> clock.monotonic() >= before
    True
    """

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class ManualClock:
    """A clock that moves only when it is told to; sleeping takes no real time.

    ``start`` is the Unix time at which it begins. ``slept`` lists every sleep, in seconds, in
    order.

    >>> clock = ManualClock(start=100.0)
    >>> clock.sleep(5)
    >>> clock.advance(0.5)
    >>> clock.time(), clock.monotonic(), clock.slept
    (105.5, 105.5, [5])
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self.slept: list[float] = []

    def time(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        """Move on by ``seconds`` at once, and note it in ``slept``; ValueError where negative."""
        self.advance(seconds)
        self.slept.append(seconds)

    def advance(self, seconds: float) -> None:
        """Move on by ``seconds`` that something else took; ValueError where negative."""
        if seconds < 0:
            raise ValueError(f"a clock does not go back: {seconds} s")
        self._now += seconds

    def __repr__(self) -> str:
        return f"ManualClock(start={self._now})"
