"""The kinds of plan that must pass the conformance suite, and how to get at their processes.

A new backend adds one entry to `KINDS`; every test of this folder then runs on it too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil

from flowdist import Plan, Run, local


@dataclass(frozen=True)
class Kind:
    """One kind of plan: how to make one, and which processes run its jobs now."""

    name: str
    plan: Callable[..., Plan]
    job_processes: Callable[[Run], list[psutil.Process]]

    def workers(self, run: Run) -> list[psutil.Process]:
        """The worker processes of all jobs that run now."""
        found: list[psutil.Process] = []
        for job in self.job_processes(run):
            try:
                found += [p for p in job.children() if p.status() != psutil.STATUS_ZOMBIE]
            except psutil.NoSuchProcess:
                continue
        return found


def local_plan(**options: Any) -> Plan:
    return local(**{"workers": 2, **options})


def local_jobs(run: Run) -> list[psutil.Process]:
    """The process of the latest launch, which runs all jobs."""
    attempt = run.files.attempts()[-1]
    started = run.files.read_json(run.files.launch(attempt))
    try:
        return [psutil.Process(started["pid"])] if started else []
    except psutil.NoSuchProcess:
        return []


KINDS = [Kind("local", local_plan, local_jobs)]
