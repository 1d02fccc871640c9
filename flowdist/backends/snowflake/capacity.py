"""How much of a node a container takes, and how many find room on one: pure.

Both follow from the specification that is sent, so that what is said of it is true of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from flowdist.backends.snowflake.plans import Spcs
from flowdist.backends.snowflake.spec import MIB, MOUNT_MEMORY, specification
from flowdist.resources import format_memory
from flowdist.snowflake.families import GIB, Family
from flowdist.snowflake.names import Name, Place

__all__ = ["MOST_MOUNTS", "Demand", "demand", "lacking", "per_node"]

# Mounted stages on one node; each container of a run mounts one.
MOST_MOUNTS = 8
# What Snowflake takes for a container that asks for nothing.
LEAST_CPU, LEAST_MEMORY = 0.5, GIB // 2
# A specification names a stage; which one makes no difference here.
_ANY = Place(Name(("DATABASE_", "SCHEMA_", "STAGE_")))


@dataclass(frozen=True)
class Demand:
    """What a container asks of a node, with what mounts the stage: vCPUs, bytes, GPUs."""

    cpu: float
    memory: int
    gpus: int = 0


def demand(plan: Spcs, family: Family | None) -> Demand:
    """What one container of `plan` asks for on nodes of `family`, or of the one that the plan
    names.

    >>> from flowdist.backends.snowflake.plans import spcs_jobs
    >>> from flowdist.snowflake.families import family_named
    >>> plan = spcs_jobs(compute_pool="p", image="/d/s/r/i:1", stage="d.s.runs", workers=2)
    >>> demand(plan, family_named("CPU_X64_M"))
    Demand(cpu=2.0, memory=1073741824, gpus=0)
    """
    spec = specification(plan, [], runs=_ANY, family=plan.family or family)
    asked = spec["spec"]["containers"][0].get("resources", {}).get("requests", {})
    memory = int(asked["memory"].removesuffix("Mi")) * MIB if "memory" in asked else LEAST_MEMORY
    return Demand(
        float(asked.get("cpu", LEAST_CPU)),
        memory + MOUNT_MEMORY,
        int(asked.get("nvidia.com/gpu", 0)),
    )


def per_node(plan: Spcs, family: Family | None) -> int | None:
    """How many containers of `plan` a node has room for; 0 where it has none for a single one,
    None where it is not known what a node has.
    """
    if family is None:
        return None
    asked = demand(plan, family)
    found = min(
        MOST_MOUNTS,
        int(family.vcpu / asked.cpu + 1e-9),
        family.memory // asked.memory,
    )
    return min(found, family.gpu_count // asked.gpus) if asked.gpus else found


def lacking(plan: Spcs, family: Family) -> str:
    """Why no node of `family` can ever run a container of `plan`; empty where one can."""
    asked, node = demand(plan, family), f"a node of {family.name}"
    if asked.memory > family.memory:
        return (
            f"{format_memory(asked.memory - MOUNT_MEMORY)} of memory, and "
            f"{format_memory(MOUNT_MEMORY)} for what mounts the stage, are more than the "
            f"{family.memory_gib} GiB of {node}"
        )
    if asked.cpu > family.vcpu:
        return f"{asked.cpu:g} cores are more than the {family.vcpu} of {node}"
    if asked.gpus > family.gpu_count:
        return f"gpus={asked.gpus}, and {node} has {family.gpu_count or 'none'}"
    return ""
