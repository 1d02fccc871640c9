"""The kinds of plan that must pass the conformance suite, and how to get at their processes.

A new backend adds one entry to `KINDS`; every test of this folder then runs on it too.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psutil

from flowdist import Plan, Run, local, slurm

WITHIN = ("sequential", "threads", "processes", "subprocess")
CHUNKING: Sequence[Mapping[str, object]] = (
    {"rows_per_chunk": 16},
    {"by": "group", "target_jobs": 2},
    {"by": "group", "rows_per_chunk": 5, "chunks_per_job": 4},
)
EVERYTHING = [
    {"within": within, "dispatch": dispatch, **chunking}
    for within, dispatch, chunking in itertools.product(WITHIN[:-1], ("static", "queue"), CHUNKING)
]
# A process for each chunk takes its time.
EVERYTHING += [
    {"within": "subprocess", "dispatch": "static", **CHUNKING[0]},
    {"within": "subprocess", "dispatch": "queue", **CHUNKING[1]},
]
# Each of what there is once: where jobs are tasks or containers, each of them costs a second.
SELECTION = [
    {"within": within, **chunking}
    for within, chunking in zip(WITHIN, itertools.cycle(CHUNKING), strict=False)
]
QUEUED: Mapping[str, object] = {"within": "processes", "dispatch": "queue", **CHUNKING[0]}


@dataclass(frozen=True)
class Kind:
    """One kind of plan: how to make one, and which processes run its jobs now."""

    name: str
    plan: Callable[..., Plan]
    job_processes: Callable[[Run], list[psutil.Process]]
    # How often processes are killed at random; fewer where a round takes longer.
    rounds: int = 30
    # What the same table is made by.
    plans: Sequence[Mapping[str, object]] = field(default_factory=lambda: EVERYTHING)
    # Where a row that takes too long is ended: how workers do that is the same in every container.
    within: Sequence[str] = WITHIN
    # Among which a round chooses.
    dispatches: Sequence[str] = ("static", "static", "queue")
    # How long a row takes, in seconds: long enough that a driver sees a run on its way.
    pause: float = 0.001
    # How much longer than on this machine it takes until something happens that can be disturbed.
    delay: float = 1.0
    # What it runs on, besides this machine: a fixture.
    needs: str = ""

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


EMULATOR = "FLOWDIST_CONFORMANCE"
"""The variable that says, to submitters in other processes too, where the emulator is."""


def spcs_plan(kind: str, **options: Any) -> Plan:
    """Two jobs, unless `options` say how many, on the emulator of these tests."""
    # Here, since submitters of other kinds of plan have no use for all that this brings.
    from cloud import plan_on

    from flowdist.emulator import Emulator

    connection = Emulator.attach(os.environ[EMULATOR]).connection_parameters()
    return plan_on(connection, kind, **{"workers": 2, **options})


def spcs_jobs(run: Run) -> list[psutil.Process]:
    """The processes of the run's containers."""
    from cloud import containers_of

    return containers_of(run.id)


def spcs(
    name: str,
    plans: Sequence[Mapping[str, object]],
    dispatch: str = "static",
    **options: Any,
) -> Kind:
    return Kind(
        name,
        partial(spcs_plan, name, **options),
        spcs_jobs,
        rounds=1,  # there are others in tests/snowflake
        plans=plans,
        within=("processes",),
        dispatches=(dispatch,),
        pause=0.01,
        delay=5.0,
        needs="emulator",
    )


KINDS = [
    Kind("local", local_plan, local_jobs),
    # There are others in tests/slurm.
    Kind("slurm", slurm_plan, slurm_jobs, rounds=2, plans=[*SELECTION, QUEUED], needs="lab"),
    spcs("spcs-jobs", SELECTION[:2]),
    spcs("spcs-tasks", SELECTION[2:3]),
    # What a worker that was killed has claimed is others' after its lease.
    spcs("spcs-queue", SELECTION[1:2], "queue", lease="10s"),
]
