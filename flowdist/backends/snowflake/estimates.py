"""What a run on Snowflake is likely to take, and what to be warned of before Snowflake has it:
pure. What only the account can tell is asked in `flowdist.backends.snowflake.checks`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from flowdist.backends.snowflake.capacity import MOST_MOUNTS, demand, lacking, per_node
from flowdist.backends.snowflake.plans import Spcs, SpcsQueue, SpcsTasks
from flowdist.backends.snowflake.spec import MOUNT_MEMORY
from flowdist.cost import Cost, Estimate, node_seconds
from flowdist.resources import format_memory, format_time
from flowdist.snowflake.families import FAMILIES, Family
from flowdist.snowflake.names import Place
from flowdist.summary import LEAST_WORKER_MEMORY, counted

if TYPE_CHECKING:
    from flowdist.summary import PlanSummary

__all__ = ["cautions", "containers", "cost", "estimate", "traces"]

# Services, jobs that have ended among them, that an account may have.
MOST_SERVICES = 5_000
# For so many days it knows of jobs that have ended.
KEPT_DAYS = 30
_SECONDS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600}
# Jobs that a graph of at most 1,000 tasks has room for beside its helpers, and the longest that a
# task may take, in seconds.
JOBS_IN_A_GRAPH = 900
LONGEST_TASK = 7 * 86_400
# A node lives about a month, and is replaced in a window for maintenance before.
LONGEST_JOB = 6 * 86_400
# SQL statements of a run whatever its size, of each task, and of each chunk of a queue.
STATEMENTS, OF_A_TASK, OF_A_CHUNK = 15, 2, 2

# What is written down of a launch besides what it has started.
_NOT_MADE = ("time", "host", "error", "run", "pool")

_SECRET = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY")


def containers(plan: Spcs, summary: PlanSummary) -> int:
    """How many containers run at once, where there is room; none of its own where workers of a
    persistent pool do the work.
    """
    if isinstance(plan, SpcsQueue) and plan.pool is not None:
        return 0
    return summary.jobs


def estimate(
    plan: Spcs,
    summary: PlanSummary,
    *,
    family: Family | None = None,
    most_nodes: int | None = None,
) -> Estimate | None:
    """What the jobs of the rows are likely to take; None where workers that run anyway do them.

    `family` is what the nodes of the pool are, where that is known; `most_nodes` is how many it may
    have.
    """
    count = containers(plan, summary)
    if not count:
        return None
    share = per_node(plan, family or plan.family)
    wanted = -(-count // (share or 1))
    nodes = min(wanted, most_nodes) if most_nodes else wanted
    limit = plan.resources.time
    if limit is None and isinstance(plan, SpcsQueue):
        limit = plan.time_budget
    taken = None if limit is None else wanted * limit / 3600
    return Estimate(
        containers=count,
        per_node=share,
        nodes=nodes,
        waves=-(-wanted // nodes),
        node_hours=taken,
        credits=None if taken is None or plan.price is None else round(taken * plan.price, 6),
        statements=_statements(plan, summary),
    )


def _statements(plan: Spcs, summary: PlanSummary) -> int:
    if isinstance(plan, SpcsTasks):
        return STATEMENTS + OF_A_TASK * summary.jobs
    if isinstance(plan, SpcsQueue):
        return STATEMENTS + OF_A_CHUNK * summary.chunks
    return STATEMENTS


def cost(plan: Spcs, lives: Iterable[tuple[float, float]]) -> Cost:
    """What containers that lived from one moment to another have taken of nodes."""
    taken = node_seconds(lives, per_node(plan, plan.family) or 1)
    return Cost(taken, None if plan.price is None else round(taken / 3600 * plan.price, 9))


def traces(plan: Spcs, run_id: str, launches: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Where a run is to be seen on Snowflake, and what to look for."""
    found = {
        "pool": plan.compute_pool,
        "nodes": _named(plan),
        "image": plan.image,
        "stage": f"{Place.parse(plan.stage) / 'runs' / run_id}",
        "connection": plan.connection or "the default one",
        "warehouse": plan.warehouse or "",
        "marked by": f"COMMENT = 'flowdist {run_id}'",
    }
    for number, launch in enumerate(launches, start=1):
        made = {key: _names(value) for key, value in launch.items() if key not in _NOT_MADE}
        said = "\n".join(f"{key} {names}" for key, names in made.items() if names)
        found[f"launch {number}"] = str(launch.get("error") or said)
    return {what: value for what, value in found.items() if value}


def _names(made: object) -> str:
    """The names of what was started: one, or those of several."""
    if isinstance(made, list):
        return ", ".join(str(one["name"]) for one in made if isinstance(one, dict))
    return made if isinstance(made, str) else ""


def cautions(plan: Spcs, summary: PlanSummary) -> Iterator[str]:
    """Sentences that each say what is wrong and what to do about it."""
    if summary.jobs:
        yield from _too_many(plan, summary)
        yield from _idle_replicas(plan, summary)
        yield from _firings(plan, summary)
    yield from _too_long(plan)
    yield from _nodes(plan)
    yield from _family(plan)
    yield from _little_memory(plan, summary.workers)
    yield from _price(plan)
    yield from _secrets(plan)


def _too_many(plan: Spcs, summary: PlanSummary) -> Iterator[str]:
    """More of something than an account, or a graph, may have."""
    jobs = summary.jobs
    tasks = isinstance(plan, SpcsTasks)
    if tasks and jobs > MOST_SERVICES:
        yield (
            f"{jobs:,} jobs are a job service each, and an account has at most {MOST_SERVICES:,} "
            f"services, those that have ended included. Set target_jobs={JOBS_IN_A_GRAPH}."
        )
    elif tasks and jobs > JOBS_IN_A_GRAPH:
        yield (
            f"{jobs:,} jobs make {counted(-(-jobs // JOBS_IN_A_GRAPH), 'task graph')}, as one has "
            f"at most 1,000 tasks; target_jobs={JOBS_IN_A_GRAPH} makes one."
        )
    found = estimate(plan, summary)
    limit = None if plan.family is None else plan.family.node_limit
    if found is not None and limit is not None and found.nodes > limit:
        share = found.per_node or 1
        yield (
            f"{counted(found.containers, 'container')} want {counted(found.nodes, 'node')} of "
            f"{_named(plan)}, and an account may have {limit:,}: they run in "
            f"{-(-found.nodes // limit):,} waves. target_jobs={limit * share} makes one."
        )


def _firings(plan: Spcs, summary: PlanSummary) -> Iterator[str]:
    """Job services that a schedule leaves, faster than Snowflake forgets them."""
    if not isinstance(plan, SpcsTasks) or plan.schedule is None:
        return
    left = summary.jobs * firings_in(plan.schedule, KEPT_DAYS)
    if left > MOST_SERVICES:
        yield (
            f"schedule={plan.schedule!r} leaves {counted(summary.jobs, 'job service')} at each "
            f"firing, about {left:,} in {KEPT_DAYS} days, which is how long Snowflake keeps them; "
            f"an account has at most {MOST_SERVICES:,}. Have flowdist delete remove each firing "
            "once it is collected, or let it have fewer jobs."
        )


def firings_in(schedule: str, days: int) -> int:
    """About how often a schedule fires in so many days, a cron expression being taken for one of
    every day; 0 where it is not understood.

    >>> firings_in("90 MINUTES", 30), firings_in("USING CRON */20 6-9,22 * * 1 UTC", 30)
    (480, 450)
    """
    words = schedule.upper().split()
    with contextlib.suppress(ValueError, KeyError, IndexError, ZeroDivisionError):
        if words[:2] == ["USING", "CRON"]:
            return _times(words[2], 60) * _times(words[3], 24) * days
        return days * 86_400 // (int(words[0]) * _SECONDS[words[1].rstrip("S")])
    return 0


def _times(field: str, whole: int) -> int:
    """How many values a field of a cron expression has."""
    count = 0
    for part in field.split(","):
        values, _, step = part.partition("/")
        first, _, last = values.partition("-")
        span = whole if first == "*" else int(last or first) - int(first) + 1
        count += -(-span // int(step or 1))
    return count


def _idle_replicas(plan: Spcs, summary: PlanSummary) -> Iterator[str]:
    if isinstance(plan, SpcsQueue) and plan.pool is None and plan.replicas > summary.chunks:
        yield (
            f"replicas={plan.replicas} for {counted(summary.chunks, 'chunk')}: "
            f"{plan.replicas - summary.chunks:,} of them have nothing to do. Cut smaller chunks "
            f"with rows_per_chunk, or set replicas={summary.chunks}."
        )


def _too_long(plan: Spcs) -> Iterator[str]:
    time = plan.resources.time
    if time is None:
        return
    if isinstance(plan, SpcsTasks) and time > LONGEST_TASK:
        yield (
            f"time={format_time(time)!r}: a task ends after {format_time(LONGEST_TASK)}, whatever "
            "it is given. Cut smaller jobs, or use spcs_jobs or spcs_queue."
        )
    elif time > LONGEST_JOB:
        yield (
            f"time={format_time(time)!r}: nodes are replaced in a weekly window for maintenance, "
            "and what runs on them ends. Cut smaller jobs; resume starts what is missing."
        )


def _nodes(plan: Spcs) -> Iterator[str]:
    share, family = plan.containers_per_node, plan.family
    if share is not None and share > MOST_MOUNTS:
        yield (
            f"containers_per_node={share}: a node mounts at most {MOST_MOUNTS} stages, and each "
            f"container mounts one. Set containers_per_node={MOST_MOUNTS}."
        )
    if family is not None and (why := lacking(plan, family)):
        yield f"No container can ever start: {why}. Ask for less, or for larger nodes."
    elif family is not None and share is not None and (per_node(plan, family) or 0) < share:
        fitting = per_node(plan, family)
        yield (
            f"containers_per_node={share}, and a node of {_named(plan)} has room for {fitting} of "
            f"what each asks for. Set containers_per_node={fitting}, or ask for less."
        )


def _family(plan: Spcs) -> Iterator[str]:
    family = plan.family
    if plan.instance_family is not None and family is None:
        yield (
            f"instance_family={plan.instance_family!r} is none that flowdist knows (such as "
            f"{', '.join(list(FAMILIES)[:4])}): what its nodes have is found out when jobs start."
        )
    if family is None:
        return
    if family.arm:
        yield (
            f"Nodes of {_named(plan)} are arm64, so that they need an image built for linux/arm64."
        )
    if family.gpu_count and not plan.resources.gpus:
        yield (
            f"Nodes of {_named(plan)} have {counted(family.gpu_count, 'GPU')}, and a container "
            "sees none that it does not ask for. Set gpus=, or take a family without GPUs."
        )


def _little_memory(plan: Spcs, workers: int) -> Iterator[str]:
    """Containers that share a node so that their workers get too little of it."""
    if plan.family is None or plan.containers_per_node is None or plan.resources.memory:
        return
    memory = demand(plan, plan.family).memory - MOUNT_MEMORY
    if 0 < memory < workers * LEAST_WORKER_MEMORY:
        yield (
            f"containers_per_node={plan.containers_per_node} leaves each container "
            f"{format_memory(memory)} for {counted(workers, 'worker')}; Python with pandas wants "
            f"{format_memory(LEAST_WORKER_MEMORY)}. Lower it, or set workers."
        )


def _price(plan: Spcs) -> Iterator[str]:
    budget = plan.time_budget if isinstance(plan, SpcsQueue) else None
    if plan.price is not None and plan.resources.time is None and budget is None:
        yield (
            f"price={plan.price:g} says what an hour of a node costs, and nothing how long jobs "
            "take at the most: with time= there is an estimate."
        )


def _secrets(plan: Spcs) -> Iterator[str]:
    for name in plan.environment:
        if _SECRET.search(name.upper()):
            yield (
                f"environment: {name} looks like a secret, and would be written to the run, to "
                "specifications and to the history of queries. Keep it in a secret of Snowflake: "
                f"secrets={{{name!r}: 'database.schema.secret'}}."
            )


def _named(plan: Spcs) -> str:
    return (plan.instance_family or "").upper()
