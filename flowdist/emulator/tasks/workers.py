"""Threads for the bodies of tasks: as many as are needed at once, up to a bound.

The threads are daemons, unlike those of `concurrent.futures`: a body that waits for a job must not
keep the server from ending, since the job outlives it and is found again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

__all__ = ["Workers"]

IDLE = 5.0
"""Seconds that a thread waits for more before it ends."""

_log = logging.getLogger(__name__)


class Workers:
    """Runs callables in the order in which they came."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._work: deque[Callable[[], None]] = deque()
        self._ready = threading.Condition()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def submit(self, work: Callable[[], None]) -> None:
        """Run it as soon as a thread is free; nothing happens any more after :meth:`close`."""
        with self._ready:
            if self._closed:
                return
            self._work.append(work)
            if self._idle >= len(self._work):
                self._ready.notify()
            elif self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._serve, name="task body", daemon=True).start()

    def close(self) -> None:
        """Begin nothing more."""
        with self._ready:
            self._closed = True
            self._work.clear()
            self._ready.notify_all()

    def _serve(self) -> None:
        while True:
            with self._ready:
                self._idle += 1
                self._ready.wait_for(lambda: self._work or self._closed, IDLE)
                self._idle -= 1
                if not self._work:
                    self._threads -= 1
                    return
                work = self._work.popleft()
            try:
                work()
            except Exception:
                if not self._closed:  # after that, whatever it needs may be gone
                    _log.exception("the body of a task has ended with a defect")
