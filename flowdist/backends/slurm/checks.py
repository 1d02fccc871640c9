"""Preflight on SLURM: whether the cluster takes what a plan asks for, and where that would start.

Everything is asked through `SlurmClient`, so every question is bounded; what does not answer is a
finding. What of a cluster admits a request is computed from its description; the last word is that
of ``sbatch --test-only``, which is given the script of the real jobs.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from flowdist.backends.slurm.client import SlurmError
from flowdist.backends.slurm.cluster import Limits, NodeType, Partition, gpus
from flowdist.backends.slurm.places import Places, environment_checks, quota_checks, root_checks
from flowdist.backends.slurm.script import index_ranges, sbatch_script
from flowdist.errors import BackendError, nearest
from flowdist.preflight.check import Check, Severity
from flowdist.resources import format_memory, format_time
from flowdist.settings import default_root, host, user

if TYPE_CHECKING:
    from flowdist.backends.slurm.plans import Slurm
    from flowdist.plan import PlanSummary

__all__ = ["Cluster", "check", "partition_findings"]

# From this share of what the controller holds for all users on, one run crowds out the others.
MANY_OF_ALL = 0.5


class Cluster(Protocol):
    """What is asked of SLURM; `SlurmClient` answers."""

    def partitions(self) -> list[Partition]: ...
    def limits(
        self, account: str | None, qos: str | None, *, accounting: bool = True
    ) -> Limits: ...
    def test_only(self, script: str) -> str: ...
    def choices(self) -> tuple[list[str], list[str]]: ...
    def hosts(self) -> set[str]: ...


def check(
    plan: Slurm,
    summary: PlanSummary,
    client: Cluster,
    places: Places | None = None,
    *,
    brief: bool = False,
) -> list[Check]:
    """What would keep the jobs of `plan` from running on this cluster, or surprise its user.

    Starts nothing and raises nothing that SLURM says. Where that is `brief`, accounting is not
    asked for limits: jobs above them only wait, and the answer takes most of the time.
    """
    places = places or Places()
    if places.which("sbatch") is None:
        return [
            *_places(plan, summary, places),
            _error(
                "slurm",
                "there is no sbatch on this machine's PATH",
                "submit from a login node of the cluster, or run here with local()",
            ),
        ]
    try:
        partitions = client.partitions()
    except BackendError as error:
        return [*_places(plan, summary, places), _silent(error)]
    checks = [*_places(plan, summary, places)]
    if any(one.name in ("root", "python") for one in checks) and _only_here(client):
        checks = [one for one in checks if one.name not in ("root", "python")]
    checks += _request(plan, partitions)
    try:
        limits = client.limits(plan.account, plan.qos, accounting=not brief)
        checks += limit_findings(summary.jobs, limits)
    except BackendError as error:
        said = f"the limits on your jobs are not known: {error}"
        checks.append(Check("limits", "info", said))
    if not any(one.severity == "error" for one in checks):
        checks += _tested(plan, summary.jobs, client)
    return checks


def _places(plan: Slurm, summary: PlanSummary, places: Places) -> Iterator[Check]:
    root = Path(plan.root).expanduser().absolute() if plan.root else default_root()
    yield from root_checks(root, places)
    yield from environment_checks(plan.python, sys.prefix, places)
    # For each job some parts, a heartbeat and a log.
    yield from quota_checks(root, user(), places, files=10 + 4 * summary.jobs)


def _only_here(client: Cluster) -> bool:
    """Whether all nodes are this machine, so that they see what it sees."""
    with suppress(BackendError):
        return client.hosts() == {host()}
    return False


# -- partitions ----------------------------------------------------------------------------------


def _request(plan: Slurm, partitions: Sequence[Partition]) -> list[Check]:
    """Whether a partition that the plan allows admits its jobs."""
    known = {one.name: one for one in partitions}
    shown = ", ".join(one.name for one in partitions if not one.hidden) or "none"
    if plan.partition is None:
        chosen = [one for one in partitions if one.default]
        if not chosen:
            what = "the cluster has no default partition, and the plan names none"
            return [_error("partition", what, f"give partition=, one of {shown}")]
    else:
        names = plan.partition.split(",")
        missing = [name for name in names if name not in known]
        if missing:
            return [
                _error(
                    "partition",
                    f"partition={plan.partition!r}: the cluster has no partition "
                    f"'{name}'{nearest(name, known)}",
                    f"give one of {shown}",
                )
                for name in missing
            ]
        chosen = [known[name] for name in names]
    found = [list(partition_findings(plan, one, partitions)) for one in chosen]
    # SLURM takes the first of several partitions in which the job can run.
    return min(found, key=lambda checks: sum(one.severity == "error" for one in checks))


def partition_findings(
    plan: Slurm, partition: Partition, others: Sequence[Partition] = ()
) -> Iterator[Check]:
    """What stands between the jobs of `plan` and one partition; `others` could be used instead."""
    yield from _state(partition)
    yield from _allowed(plan, partition)
    yield from _time(plan, partition, others)
    yield from _nodes(plan, partition)
    yield from _size(plan, partition, others)


def _state(partition: Partition) -> Iterator[Check]:
    where = f"partition '{partition.name}'"
    if partition.state in ("DRAIN", "INACTIVE"):
        what = f"{where} is {partition.state} and takes no jobs"
        yield _error("partition", what, "choose another with partition=, or wait")
    elif not partition.up:
        what = f"{where} is {partition.state}: it takes jobs and starts none"
        yield Check("partition", "warning", what, "jobs wait until it is up again")
    elif partition.types and not any(kind.usable for kind in partition.types):
        what = f"{where}: all of its {partition.nodes:,} nodes are down or drained"
        yield Check("partition", "warning", what, "jobs wait until a node is back")


def _allowed(plan: Slurm, partition: Partition) -> Iterator[Check]:
    for name, value, allowed, denied in (
        ("account", plan.account, partition.allowed_accounts, partition.denied_accounts),
        ("qos", plan.qos, partition.allowed_qos, partition.denied_qos),
    ):
        if value is None:
            continue
        where = f"partition '{partition.name}'"
        if allowed and value not in allowed:
            what = f"{name}={value!r}: {where} does not take it{nearest(value, allowed)}"
            yield _error(name, what, f"it takes {', '.join(allowed)}")
        elif value in denied:
            what = f"{name}={value!r}: {where} refuses it"
            yield _error(name, what, f"choose another {name}= or partition=")


def _time(plan: Slurm, partition: Partition, others: Sequence[Partition]) -> Iterator[Check]:
    asked, limit, default = plan.resources.time, partition.max_time, partition.default_time
    where = f"partition '{partition.name}'"
    if asked is not None and limit is not None and asked > limit:
        longer = [p for p in others if p.up and (p.max_time is None or p.max_time >= asked)]
        remedy = f"lower time=, which can go with resubmit=True{_instead(longer)}"
        what = f"time='{format_time(asked)}' is more than {where} allows"
        # Some QOS may overrule the limit of a partition.
        severity: Severity = "error" if plan.qos is None else "warning"
        yield Check("time", severity, f"{what}: {format_time(int(limit))}", remedy)
    elif asked is None and (given := default or limit) is not None:
        kind = "default" if default is not None else "limit"
        yield Check(
            "time",
            "info",
            f"the plan gives no time: jobs get the {kind} of {where}, {format_time(int(given))}",
            "a time= near what jobs need lets them start sooner",
        )


def _nodes(plan: Slurm, partition: Partition) -> Iterator[Check]:
    where = f"partition '{partition.name}'"
    if partition.max_nodes is not None and plan.job_nodes > partition.max_nodes:
        what = f"nodes={plan.nodes} for one job: {where} allows {partition.max_nodes:,}"
        yield _error("nodes", what, "lower nodes=, or choose another partition=")
    elif plan.job_nodes > partition.nodes > 0:
        what = f"nodes={plan.nodes} for one job: {where} has {partition.nodes:,}"
        yield _error("nodes", what, "lower nodes=, or choose another partition=")


# -- the size of nodes ---------------------------------------------------------------------------


def _size(plan: Slurm, partition: Partition, others: Sequence[Partition]) -> Iterator[Check]:
    """Whether a node is large enough for what a job asks of one."""
    if not partition.types:
        return
    cores, memory, cards = _asked(plan)
    tagged = [kind for kind in partition.types if _tagged(plan, kind)]
    if not tagged:
        yield from _no_feature(plan, partition)
        return
    where = f"partition '{partition.name}'"
    larger = [p for p in others if p.up and any(_fits(kind, plan) for kind in p.types)]
    found = False
    for name, asked, most, form in (
        ("cores", cores, max(kind.cores for kind in tagged), partial(_many, thing="core")),
        ("gpus", cards, max(kind.gpus for kind in tagged), partial(_many, thing="gpu")),
        ("memory", memory, max(kind.memory for kind in tagged), format_memory),
    ):
        if asked > most and (most or name != "memory"):  # SLURM may not know of memory
            found = True
            has = f"no node of {where} has more than {form(most)}" if most else f"{where} has none"
            what = f"a job asks for {form(asked)}, and {has}"
            yield _error(name, what, _LOWER[name] + _instead(larger))
    fitting = [kind for kind in tagged if _fits(kind, plan)]
    if not found and not fitting:
        what = f"no node of {where} has all of what a job asks for: {plan.request()}"
        yield _error("nodes", what, "ask for less of one" + _instead(larger))
    elif fitting and not any(kind.usable for kind in fitting) and any(
        kind.usable for kind in partition.types
    ):  # fmt: skip
        count = sum(kind.nodes for kind in fitting)
        what = f"the {count:,} nodes of {where} that are large enough are all down or drained"
        yield Check("nodes", "warning", what, "jobs wait until one is back, or ask for less")


def _asked(plan: Slurm) -> tuple[int, int, int]:
    """Cores, bytes and gpus that a job asks of one node."""
    tasks = -(-plan.ntasks // plan.job_nodes) if plan.ntasks and plan.nodes else 1
    cores = 1 if plan.sized_at_start else plan.job_cpus() * tasks
    cards = gpus(plan.gres) if plan.gres else plan.resources.gpus or 0
    return cores, plan.resources.memory or 0, cards


def _fits(kind: NodeType, plan: Slurm) -> bool:
    cores, memory, cards = _asked(plan)
    enough = kind.cores >= cores and kind.gpus >= cards
    return enough and (not kind.memory or kind.memory >= memory) and _tagged(plan, kind)


def _tagged(plan: Slurm, kind: NodeType) -> bool:
    """Whether a node has the feature that the plan asks for; only plain names are judged."""
    wanted = plan.constraint
    return wanted is None or not re.fullmatch(r"[\w.-]+", wanted) or wanted in kind.features


def _no_feature(plan: Slurm, partition: Partition) -> Iterator[Check]:
    features = sorted({name for kind in partition.types for name in kind.features})
    yield _error(
        "constraint",
        f"constraint={plan.constraint!r}: no node of partition '{partition.name}' has that "
        f"feature{nearest(str(plan.constraint), features)}",
        f"its nodes have {', '.join(features) or 'none'}",
    )


_LOWER = {
    "cores": "lower workers=, cpus= or cores_per_node=",
    "gpus": "lower gpus= or gres=",
    "memory": "lower memory=, with fewer workers= if each needs its share",
}


def _instead(partitions: Sequence[Partition]) -> str:
    names = [one.name for one in partitions if not one.hidden]
    return f"; partition= {' or '.join(names)} would do" if names else ""


# -- limits --------------------------------------------------------------------------------------


def limit_findings(jobs: int, limits: Limits) -> Iterator[Check]:
    """What limits on jobs mean for a run of so many.

    That arrays have a largest size is none: they are split.
    """
    pack = "packs the same rows into fewer jobs"
    submit = limits.max_submit
    if submit is not None and jobs > submit:
        reason = next(name for name, value in limits.submitted.items() if value == submit)
        what = f"{jobs:,} jobs are more than the {submit:,} that you may have queued ({reason})"
        what += "; they are submitted in turns, each when the one before has ended"
        # A small job looks after each turn, and is one of them.
        remedy = f"target_jobs={max(1, submit - 1)} or less {pack}, all in one turn"
        yield Check("limits", "warning", what, remedy)
    held = limits.job_count
    if held is not None and jobs > held:
        what = f"{jobs:,} jobs are more than this SLURM holds of all users ({held:,}, MaxJobCount)"
        yield _error("limits", what, f"target_jobs={max(1, held // 10)} {pack}")
    elif held is not None and jobs > MANY_OF_ALL * held:
        what = f"{jobs:,} jobs are most of what this SLURM holds of all users ({held:,})"
        yield Check("limits", "warning", what, f"target_jobs={max(1, held // 10)} {pack}")
    running = limits.max_jobs
    if running is not None and jobs > running:
        reason = next(name for name, value in limits.running.items() if value == running)
        what = f"{running:,} of {jobs:,} jobs may run at once ({reason}); the others wait"
        yield Check("limits", "info", what)


# -- the word of SLURM ---------------------------------------------------------------------------


def _tested(plan: Slurm, jobs: int, client: Cluster) -> Iterator[Check]:
    """What ``sbatch --test-only`` says of the first array of the run."""
    python = plan.python or sys.executable
    script = sbatch_script(
        plan,
        name="flowdist-preflight",
        command=[python, "-m", "flowdist.backends.slurm.task"],
        output="/dev/null",
        # Its length is no matter to when the first task starts.
        array=index_ranges(range(min(jobs, 2))),
    )
    try:
        said = client.test_only(script)
    except BackendError as error:
        yield _silent(error) if _passing(error) else _refused(plan, error, client)
        return
    yield Check("sbatch", "info", f"SLURM takes the request ({plan.request()}){_start(said)}")


def _passing(error: BackendError) -> bool:
    return isinstance(error, SlurmError) and error.passing


def _silent(error: BackendError) -> Check:
    """SLURM gave no answer; a controller that restarts is back soon, and submitting waits."""
    what = f"SLURM does not answer: {error}"
    if _passing(error):
        return Check("slurm", "warning", what, "submitting keeps trying for two minutes")
    return _error("slurm", what, "see whether this machine can reach the cluster: scontrol ping")


def _refused(plan: Slurm, error: BackendError, client: Cluster) -> Check:
    """SLURM's refusal, with the names that it would take where it refuses a name."""
    said = str(error).removeprefix("sbatch failed: ").removeprefix("allocation failure: ")
    what = f"SLURM refuses the request ({plan.request()}): {said}"
    wrong = next((name for name in ("account", "qos") if f"invalid {name}" in said.lower()), None)
    if wrong is not None:
        with suppress(BackendError):
            accounts, qualities = client.choices()
            known = accounts if wrong == "account" else qualities
            given = getattr(plan, wrong) or ""
            yours = f"you may use {wrong}= {', '.join(known) or 'none'}"
            return _error("sbatch", f"{what}{nearest(given, known)}", yours)
    return _error("sbatch", what, "see partition=, account=, qos= and what a job asks for")


_ESTIMATE = re.compile(r"to start at (\S+).*? on (?:nodes?) (\S+)")


def _start(said: str, now: float | None = None) -> str:
    """When and where the first job would start, from the sentence of ``sbatch --test-only``.

    >>> line = "sbatch: Job 9 to start at 2026-11-21T14:05:00 using 2 processors on nodes n1 in p"
    >>> _start(line, now=time.mktime((2026, 11, 21, 14, 0, 0, 0, 0, -1)))
    ' and would start at 14:05 on n1'
    """
    found = _ESTIMATE.search(said)
    if found is None:
        return ""
    try:
        when = (
            time.localtime(int(found[1]))
            if found[1].isdecimal()
            else time.strptime(found[1], "%Y-%m-%dT%H:%M:%S")
        )
    except ValueError:
        return ""
    today = time.localtime(time.time() if now is None else now)
    same_day = (when.tm_year, when.tm_yday) == (today.tm_year, today.tm_yday)
    clock = time.strftime("%H:%M" if same_day else "%a %d %b %H:%M", when)
    return f" and would start at {clock} on {found[2]}"


def _many(count: int, thing: str) -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def _error(name: str, what: str, remedy: str) -> Check:
    return Check(name, "error", what, remedy)
