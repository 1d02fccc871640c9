"""Readiness and liveness probes: HTTP GETs to containers, made beside everything else."""

from __future__ import annotations

import http.client
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowdist.emulator.compute.spec import Probe

__all__ = ["Prober"]

TIMEOUT_SECONDS = 1.0
"""How long a container may take to answer; Snowflake does not say how long."""


@dataclass
class _Course:
    """What the probes of one container have found."""

    due: float
    answer: Future[bool] | None = None
    failures: int = 0
    ready: bool = False


class Prober:
    """Probes as many containers as there are, a few at a time."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._courses: dict[tuple[str, str], _Course] = {}

    def close(self) -> None:
        """Make no more requests."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def look(
        self, key: str, kind: str, probe: Probe, host: str, now: float, period: float
    ) -> _Course:
        """How a container stands with a probe, which is made anew when it is due."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(4, thread_name_prefix="probe")
            course = self._courses.setdefault((key, kind), _Course(due=now))
            if course.answer is not None and course.answer.done():
                course.ready = course.answer.result()
                course.failures = 0 if course.ready else course.failures + 1
                course.answer = None
            if course.answer is None and now >= course.due:
                course.due = now + (probe.period_seconds or period)
                course.answer = self._pool.submit(_answers, host, probe.port, probe.path)
            return course

    def forget(self, key: str) -> None:
        """Forget a container that has ended."""
        with self._lock:
            for kind in ("readiness", "liveness"):
                self._courses.pop((key, kind), None)


def _answers(host: str, port: int, path: str) -> bool:
    """Whether a GET is answered with 200."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
