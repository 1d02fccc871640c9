"""A specification on a certain machine: resources that were left out, and how it is shown.

Snowflake derives what is missing. A request that is not given is the limit that was given, or half
a vCPU or half a GiB if that is more; a limit that is not given is what a node has, and one above it
is cut to it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowdist.emulator.compute.amounts import cores, memory_bytes
from flowdist.emulator.compute.families import GIB, Family

if TYPE_CHECKING:
    from flowdist.emulator.compute.spec import Resources, Specification

__all__ = ["Demand", "Limits", "demand", "digest", "limits", "shown"]

LEAST_CPU, LEAST_MEMORY = 0.5, GIB // 2
"""What is requested where neither a request nor a limit says more; in vCPUs and bytes."""
SIDECAR_CPU, SIDECAR_MEMORY = 0.0, GIB // 2
"""What the component that provides a stage volume requests where the volume does not say."""


@dataclass(frozen=True)
class Demand:
    """What an instance takes of a node: vCPUs, bytes, GPUs and stage mounts."""

    cpu: float
    memory: int
    gpu: int
    mounts: int = 0


@dataclass(frozen=True)
class Limits:
    """What a container may use at the most."""

    cpu: float
    memory: int


def limits(resources: Resources, family: Family) -> Limits:
    """The limits of a container on a node of a family."""
    given = resources.limits
    return Limits(
        min(cores(given.cpu), family.vcpu) if given.cpu else family.vcpu,
        min(memory_bytes(given.memory), family.memory) if given.memory else family.memory,
    )


def demand(specification: Specification, family: Family) -> Demand:
    """What one instance requests: its containers, and what provides its stage volumes."""
    cpu, memory, gpu, mounts = 0.0, 0, 0, 0
    for container in specification.spec.containers:
        asked, most = container.resources.requests, limits(container.resources, family)
        given = container.resources.limits
        cpu += cores(asked.cpu) if asked.cpu else max(LEAST_CPU, most.cpu if given.cpu else 0)
        memory += (
            memory_bytes(asked.memory)
            if asked.memory
            else max(LEAST_MEMORY, most.memory if given.memory else 0)
        )
        gpu += asked.gpu or 0
    for volume in specification.spec.volumes:
        mounts += volume.stage is not None
        if volume.stage_config is not None:
            asked = volume.stage_config.resources.requests
            cpu += cores(asked.cpu) if asked.cpu else SIDECAR_CPU
            memory += memory_bytes(asked.memory) if asked.memory else SIDECAR_MEMORY
    return Demand(round(cpu, 3), memory, gpu, mounts)


def shown(
    specification: Specification, family: Family, images: Mapping[str, tuple[str, str]]
) -> str:
    """The specification as DESCRIBE SERVICE shows it to its owner: YAML with every string in
    quotes, full image names, their digests, and the resources filled in.

    `images` gives, by image as written, its full name and its digest (``sha256:...``).
    """
    data = specification.plain()
    for container, model in zip(
        data["spec"]["containers"], specification.spec.containers, strict=True
    ):
        url, sha = images[model.image]
        container["image"], container["sha256"] = url, f"@{sha}"
        container["resources"] = _resources(model.resources, family)
    return "---\n" + "\n".join(_lines(_ordered(data), 0)) + "\n"


def digest(text: str) -> str:
    """What `spec_digest` is: SHA-256 of the specification as it is shown."""
    return hashlib.sha256(text.encode()).hexdigest()


_FIRST = ("name", "image", "sha256", "command", "args", "env", "readinessProbe", "livenessProbe")


def _ordered(value: Any) -> Any:
    """Containers with their keys as Snowflake shows them; the order of others is kept."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda k: _FIRST.index(k) if k in _FIRST else len(_FIRST))
        return {key: _ordered(value[key]) for key in (keys if "image" in value else value)}
    return [_ordered(one) for one in value] if isinstance(value, list) else value


def _resources(resources: Resources, family: Family) -> dict[str, dict[str, Any]]:
    most, given, asked = limits(resources, family), resources.limits, resources.requests
    found: dict[str, dict[str, Any]] = {
        "limits": {"memory": _gib(most.memory), "cpu": _number(most.cpu)},
        "requests": {
            "memory": asked.memory or _gib(max(LEAST_MEMORY, most.memory if given.memory else 0)),
            "cpu": asked.cpu or _number(max(LEAST_CPU, most.cpu if given.cpu else 0)),
        },
    }
    if given.memory and memory_bytes(given.memory) <= family.memory:
        found["limits"]["memory"] = given.memory
        if not asked.memory and memory_bytes(given.memory) >= LEAST_MEMORY:
            found["requests"]["memory"] = given.memory
    if given.cpu and cores(given.cpu) <= family.vcpu:
        found["limits"]["cpu"] = given.cpu
    for part in found.values():
        if asked.gpu:
            part["nvidia.com/gpu"] = asked.gpu
    return found


def _gib(size: int) -> str:
    return f"{_number(size / GIB)}Gi"


def _number(value: float) -> str:
    return f"{value:g}"


def _lines(value: dict[str, Any] | list[Any], indent: int) -> list[str]:
    """A mapping or list as lines of YAML; lists are not indented below their key."""
    margin = "  " * indent
    found = []
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, dict) and inner:
                found += [f"{margin}{key}:", *_lines(inner, indent + 1)]
            elif isinstance(inner, list) and inner:
                found += [f"{margin}{key}:", *_lines(inner, indent)]
            else:
                found.append(f"{margin}{key}: {json.dumps(inner, ensure_ascii=False)}")
        return found
    for inner in value:
        if isinstance(inner, dict | list) and inner:
            first, *rest = _lines(inner, indent + 1)
            found += [f"{margin}- {first.lstrip()}", *rest]
        else:
            found.append(f"{margin}- {json.dumps(inner, ensure_ascii=False)}")
    return found
