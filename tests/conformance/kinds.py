"""The kinds of plan that must pass the conformance suite, and how to get at their processes.

A new backend adds one entry to `KINDS`; every test of this folder then runs on it too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil

from flowdist import Plan, Run, local, slurm


@dataclass(frozen=True)
class Kind:
    """One kind of plan: how to make one, and which processes run its jobs now."""

    name: str
    plan: Callable[..., Plan]
    job_processes: Callable[[Run], list[psutil.Process]]
    # How often processes are killed at random; fewer where a round takes longer.
    rounds: int = 20
    # Whether it needs the SLURM cluster.
    cluster: bool = False

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


def slurm_plan(**options: Any) -> Plan:
    """Two jobs, unless `options` say how many."""
    counted = {"target_jobs", "chunks_per_job"} & set(options)
    jobs = {} if counted else {"target_jobs": 2}
    return slurm(**{"workers": 2, "memory": "600MB", "time": "10min", **jobs, **options})


def slurm_jobs(run: Run) -> list[psutil.Process]:
    """The processes of the run's tasks: all nodes of the cluster are this machine."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "flowdist.backends.slurm.task" in words and str(run.directory) in words:
            found.append(process)
    return found


KINDS = [
    Kind("local", local_plan, local_jobs),
    Kind("slurm", slurm_plan, slurm_jobs, rounds=12, cluster=True),
]
