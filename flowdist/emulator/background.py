"""Work that goes on by itself, in a thread that nobody waits for and that must outlive defects."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from traceback import extract_tb

__all__ = ["Rounds"]

FIRST, LONGEST = 0.1, 30.0
"""Seconds until a round that has failed is tried again: at first, and at the most."""

_log = logging.getLogger(__name__)


class Rounds:
    """The rounds of one kind of work. What fails is tried again, ever more seldom, and is logged
    with its traceback when it begins to fail, not once in every round.

    >>> Rounds("the work").run(lambda: None)
    True
    """

    def __init__(self, what: str, now: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._now = now
        self._failed = 0
        self._not_before = 0.0
        self._known: tuple[type[Exception], tuple[str, int | None]] | None = None

    def run(self, work: Callable[[], object]) -> bool:
        """One round, unless it is too soon after one that has failed; whether it went well."""
        if self._failed and self._now() < self._not_before:
            return False
        try:
            work()
        except Exception as error:
            last = extract_tb(error.__traceback__)[-1]
            # Not by its text, in which there may be something else each time.
            found = type(error), (last.filename, last.lineno)
            if found != self._known:
                _log.exception("%s fails; it is tried again", self._what)
            self._known = found
            self._not_before = self._now() + min(FIRST * 2.0 ** min(self._failed, 20), LONGEST)
            self._failed += 1
            return False
        if self._failed:
            _log.info("%s works again, after %d failures", self._what, self._failed)
            self._known, self._failed = None, 0
        return True
