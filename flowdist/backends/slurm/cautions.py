"""What to be warned of about a SLURM plan over a grid, before SLURM has seen it: pure.

What only the cluster can tell (limits, partitions, accounts) is asked in
`flowdist.backends.slurm.checks`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from flowdist.backends.slurm.plans import Slurm, SlurmAllocation, SlurmQueue
from flowdist.summary import counted

if TYPE_CHECKING:
    from flowdist.summary import PlanSummary

__all__ = ["cautions"]

# From here on the starts themselves are felt: each costs the scheduler and a node about a second,
# and many sites let a user have no more jobs than this.
MANY_SHORT_JOBS = 1_000

_SECRET = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY")


def cautions(plan: Slurm, summary: PlanSummary) -> Iterator[str]:
    """Sentences that each say what is wrong and what to do about it."""
    if summary.jobs:
        yield from _empty_nodes(plan, summary)
        yield from _many_short_jobs(plan, summary)
        yield from _no_throttle(plan, summary)
    yield from _cores(plan, summary.workers)
    yield from _nodes(plan)
    yield from _shared_gpus(plan, summary.workers)
    yield from _secrets(plan)


def _empty_nodes(plan: Slurm, summary: PlanSummary) -> Iterator[str]:
    """Fewer jobs than nodes, because there are no more chunks."""
    if not isinstance(plan, (SlurmAllocation, SlurmQueue)) or summary.jobs >= plan.nodes:
        return
    if summary.jobs == summary.chunks:
        smaller = "cut smaller chunks with rows_per_chunk, or " if plan.by else ""
        yield (
            f"{counted(summary.chunks, 'chunk')} make {counted(summary.jobs, 'job')}, so "
            f"{plan.nodes - summary.jobs:,} of {plan.nodes:,} nodes would have nothing to do; "
            f"{smaller}set nodes={summary.jobs}."
        )
    else:
        said = (
            f"target_jobs={plan.target_jobs}"
            if plan.target_jobs
            else (f"chunks_per_job={plan.chunks_per_job}")
        )
        yield (
            f"{said} makes {counted(summary.jobs, 'job')} for {plan.nodes:,} nodes, and a job is "
            f"on one node; leave it out, or set nodes={summary.jobs}."
        )


def _many_short_jobs(plan: Slurm, summary: PlanSummary) -> Iterator[str]:
    each = summary.largest_job
    if summary.jobs >= MANY_SHORT_JOBS and plan.dispatch == "static" and each <= summary.workers:
        yield (
            f"{summary.jobs:,} jobs of at most {counted(each, 'row')}: starting one takes about a "
            "second, and sites limit how many a user may have. Where rows are short, pack them: "
            f"target_jobs={MANY_SHORT_JOBS // 10} shares the same rows out."
        )


def _no_throttle(plan: Slurm, summary: PlanSummary) -> Iterator[str]:
    if plan.jobs_at_once is not None and plan.jobs_at_once > summary.jobs:
        yield (
            f"jobs_at_once={plan.jobs_at_once} has no effect: there "
            f"{'is' if summary.jobs == 1 else 'are'} {counted(summary.jobs, 'job')}."
        )


def _cores(plan: Slurm, workers: int) -> Iterator[str]:
    cores, cpus = plan.cores_per_node, plan.cpus_per_worker
    if cores is None:
        return
    if workers * cpus > cores:
        each = f" of {cpus} cores" if cpus > 1 else ""
        yield (
            f"{counted(workers, 'worker')}{each} want {counted(workers * cpus, 'core')} and a job "
            f"has cores_per_node={cores}, so they will take turns. Set workers={cores // cpus}."
        )
    elif plan.workers is None and plan.within != "sequential" and cores % cpus:
        yield (
            f"cores_per_node={cores} is {workers} x {cpus} cpus and {cores % cpus} left over in "
            f"each job. Set cores_per_node={workers * cpus}, or other cpus."
        )
    elif plan.within == "sequential" and cores > cpus:
        yield (
            f"within='sequential' runs one row at a time on cores_per_node={cores} cores. Set "
            f"cpus={cores} if a row uses them all, else leave cores_per_node out."
        )


def _nodes(plan: Slurm) -> Iterator[str]:
    if plan.job_nodes > 1 and plan.ntasks is None:
        yield (
            f"nodes={plan.nodes} is for each job, whose workers all run on its first node; the "
            "others are for what a function starts with srun or mpirun. To spread rows over nodes, "
            f"use slurm_allocation(nodes={plan.nodes}, cores_per_node=...)."
        )


def _shared_gpus(plan: Slurm, workers: int) -> Iterator[str]:
    gpus = plan.resources.gpus
    if gpus and workers > gpus and not plan.sized_at_start:
        yield (
            f"{counted(workers, 'worker')} share {counted(gpus, 'gpu')} in each job. Set "
            f"workers={gpus} if a row needs one for itself."
        )


def _secrets(plan: Slurm) -> Iterator[str]:
    for name in plan.environment:
        if _SECRET.search(name.upper()):
            yield (
                f"environment: {name} looks like a secret, and would be written to the run and to "
                "the batch script. Leave it out and set it in the shell that submits: sbatch "
                "passes its environment on."
            )
