"""Preflight on Snowflake, the compute pool: whether it is there, takes jobs, and has room for
them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from flowdist.backends.snowflake.account import Account, Need, Pool, error
from flowdist.backends.snowflake.capacity import lacking, per_node
from flowdist.backends.snowflake.estimates import containers, estimate
from flowdist.backends.snowflake.plans import Spcs, SpcsQueue
from flowdist.errors import nearest
from flowdist.preflight.check import Check
from flowdist.snowflake.names import Name, quote
from flowdist.summary import counted

if TYPE_CHECKING:
    from flowdist.plan import PlanSummary

__all__ = ["pool_findings"]

# Pools that Snowflake keeps for notebooks, model serving and the like.
_SYSTEM_POOL = re.compile(r"SYSTEM_COMPUTE_POOL_\w+")


def pool_findings(plan: Spcs, summary: PlanSummary, account: Account) -> Iterator[Check]:
    """What stands between the containers of `plan` and its pool, and what they may wait for."""
    name, known = Name.parse(plan.compute_pool, most=1).last, account.pools()
    pool, shown = known.get(name), quote(name)
    if pool is None:
        need = Need("USAGE, MONITOR", "COMPUTE POOL", Name((name,)), "", "pool")
        there = f" (it sees: {', '.join(known)})" if known else ""
        yield error(
            "pool",
            f"compute pool {shown} does not exist, or role {account.role} has no privilege on it"
            f"{nearest(name, known)}{there}",
            f"{need.grant(account.role)}; or CREATE COMPUTE POOL {shown} MIN_NODES = 1 "
            "MAX_NODES = ... INSTANCE_FAMILY = ...",
        )
        return
    yield from _state(pool)
    yield from _fits(plan, pool)
    yield from _room(plan, summary, pool)


def _state(pool: Pool) -> Iterator[Check]:
    shown = quote(pool.name)
    if pool.application:
        yield error(
            "pool", f"compute pool {shown} is for application {pool.application} alone",
            "choose another with compute_pool=",
        )  # fmt: skip
    elif _SYSTEM_POOL.fullmatch(pool.name):
        yield Check(
            "pool", "warning",
            f"{shown} is Snowflake's own pool, for notebooks, model serving and ML jobs: it may "
            "refuse others", "make a pool of your own: CREATE COMPUTE POOL",
        )  # fmt: skip
    if pool.suspended and not pool.auto_resume:
        yield error(
            "pool",
            f"compute pool {shown} is {pool.state.lower()}, and AUTO_RESUME is off",
            f"ALTER COMPUTE POOL {shown} RESUME; or ALTER COMPUTE POOL {shown} SET "
            "AUTO_RESUME = TRUE",
        )
    elif pool.suspended:
        yield Check(
            "pool", "info",
            f"compute pool {shown} is {pool.state.lower()}: its nodes start first, which takes "
            "some minutes", "",
        )  # fmt: skip


def _fits(plan: Spcs, pool: Pool) -> Iterator[Check]:
    """Whether a node of the pool can run a container at all, and is what the plan takes it for."""
    shown = quote(pool.name)
    if pool.family is None:
        yield Check(
            "pool", "info",
            f"nodes of compute pool {shown} are {pool.family_name}, which flowdist does not know",
        )  # fmt: skip
        return
    if why := lacking(plan, pool.family):
        yield error(
            "pool",
            f"no container can ever start on compute pool {shown}: {why}",
            "ask for less (memory, workers, gpus), or choose a pool with larger nodes",
        )
    elif plan.family is not None and plan.family.name != pool.family.name:
        yield Check(
            "pool", "warning",
            f"instance_family={plan.instance_family!r}, and nodes of compute pool {shown} are "
            f"{pool.family_name}", f"set instance_family={pool.family_name!r}",
        )  # fmt: skip
    if pool.family.arm and (plan.family is None or not plan.family.arm):
        yield Check(
            "image", "warning",
            f"nodes of compute pool {shown} ({pool.family_name}) are arm64",
            "they need an image built for linux/arm64",
        )  # fmt: skip


def _room(plan: Spcs, summary: PlanSummary, pool: Pool) -> Iterator[Check]:
    """Whether all containers find room at once."""
    count, share = containers(plan, summary), per_node(plan, pool.family)
    wanted = -(-count // (share or 1))
    if not wanted or (share == 0 and pool.family is not None):
        return
    shown, nodes = quote(pool.name), counted(wanted, "node")
    what = f"{counted(count, 'container')} want {nodes}"
    most, setting = pool.max_nodes * (share or 1), "target_jobs"
    if isinstance(plan, SpcsQueue):
        setting = "replicas"
    if wanted > pool.max_nodes:
        taken = estimate(plan, summary, family=pool.family, most_nodes=pool.max_nodes)
        waves = f"they run in {taken.waves:,} waves" if taken is not None else ""
        yield Check(
            "pool", "warning",
            f"{what}, and compute pool {shown} may have {pool.max_nodes:,}: {waves}",
            f"ALTER COMPUTE POOL {shown} SET MAX_NODES = {wanted}; or {setting}={most}, which run "
            "at once",
        )  # fmt: skip
        if isinstance(plan, SpcsQueue) and plan.pre_warm:
            yield error(
                "pool",
                f"pre_warm waits until {counted(count, 'worker container')} are ready, and compute "
                f"pool {shown} has room for {most:,}",
                f"set replicas={most}, or leave pre_warm out",
            )
        return
    free = pool.max_nodes - pool.active
    if pool.active and free < wanted:
        yield Check(
            "pool", "info",
            f"{what}; compute pool {shown} has {pool.held} on {pool.active:,} of at most "
            f"{counted(pool.max_nodes, 'node')}, so that some may wait",
        )  # fmt: skip
        return
    yield Check(
        "pool", "info",
        f"{what}; compute pool {shown} is {pool.state.lower()}, {pool.family_name}, with "
        f"{pool.active + pool.idle:,} of at most {counted(pool.max_nodes, 'node')}",
    )  # fmt: skip
