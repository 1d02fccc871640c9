"""What a container is asked for: the specification of a job or a service, and the statement that
runs it. Pure: nothing here talks to Snowflake.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from flowdist.backends.snowflake.plans import Spcs
from flowdist.resources import Resources
from flowdist.snowflake.families import Family
from flowdist.snowflake.images import WORKER_UID
from flowdist.snowflake.names import Name, Place, json_block, literal

__all__ = ["CONTAINER", "RUNS", "execute_job", "object_name", "specification"]

CONTAINER = "main"
RUNS = "/flowdist/runs"
"""Where a container finds the folder of runs."""

MIB = 1 << 20
# Snowflake runs a container of its own beside each that mounts a stage, which takes this of a node.
MOUNT_MEMORY = 512 * MIB


def specification(
    plan: Spcs,
    args: Sequence[str],
    *,
    runs: Place,
    family: Family | None = None,
    resources: Resources | None = None,
) -> dict[str, Any]:
    """The specification of a container that runs ``python -m flowdist.workers ARGS``.

    `runs` is the folder of runs on the stage; `family` what the nodes of the pool are, where that
    is known; `resources` those of one job, where they are not the plan's.
    """
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": plan.image,
        "args": list(args),
        "env": _variables(plan),
        "volumeMounts": [{"name": "runs", "mountPath": RUNS}],
    }
    asked = _resources(plan, family or plan.family, resources or plan.resources)
    if asked:
        container["resources"] = asked
    if plan.secrets:
        container["secrets"] = [
            _secret(name, secret, runs) for name, secret in plan.secrets.items()
        ]
    volume = {
        "name": "runs",
        "source": "stage",
        # A mounted stage is root's unless it is said otherwise, and worker images run as another.
        "uid": WORKER_UID,
        "gid": WORKER_UID,
        "stageConfig": {"name": runs.path},
    }
    return {"spec": {"containers": [container], "volumes": [volume]}}


def _variables(plan: Spcs) -> dict[str, str]:
    warehouse = {"SNOWFLAKE_WAREHOUSE": plan.warehouse} if plan.warehouse else {}
    # The connector would ask the cloud's metadata service where it is, which no container reaches.
    quiet = {"AWS_EC2_METADATA_DISABLED": "true", "PYTHONUNBUFFERED": "1"}
    return {**quiet, **warehouse, **plan.environment}


def _secret(variable: str, given: str, runs: Place) -> dict[str, Any]:
    """A name without database or schema is one in the schema of the stage."""
    name, _, key = given.partition(":")
    return {
        "snowflakeSecret": {"objectName": Name.parse(name).within(*runs.stage.parts[:2]).sql},
        "envVarName": variable,
        "secretKeyRef": key or "secret_string",
    }


def _resources(plan: Spcs, family: Family | None, asked: Resources) -> dict[str, Any]:
    """Requests and limits: a container's part of a node, or what the plan asks for."""
    cpu: float | None = None
    memory = asked.memory or None
    if plan.workers is not None or plan.within == "sequential":
        cpu = plan.worker_count() * plan.cpus_per_worker
    if family is not None:
        share = plan.containers_per_node or 1
        cpu = cpu or family.vcpu / share
        if memory is None and (plan.containers_per_node or plan.workers is None):
            memory = family.memory // share - MOUNT_MEMORY
    found: dict[str, dict[str, Any]] = {"requests": {}, "limits": {}}
    for kind in found.values():
        if cpu is not None:
            # Rounded up, the shares of a node would be more than the node.
            kind["cpu"] = f"{math.floor(cpu * 1000) / 1000:.3f}".rstrip("0").rstrip(".")
        if memory is not None:
            kind["memory"] = f"{memory // MIB}Mi"
        if asked.gpus:
            kind["nvidia.com/gpu"] = asked.gpus
    return found if found["requests"] else {}


def execute_job(
    plan: Spcs,
    spec: Mapping[str, Any],
    *,
    name: Name | None = None,
    comment: str = "",
    replicas: int | None = None,
    asynchronous: bool = True,
) -> str:
    """The statement that runs a job service."""
    said = [f"EXECUTE JOB SERVICE IN COMPUTE POOL {Name.parse(plan.compute_pool).sql}"]
    if name is not None:
        said.append(f"NAME = {name.sql}")
    if asynchronous:
        said.append("ASYNC = TRUE")
    if replicas is not None:
        said.append(f"REPLICAS = {replicas}")
    if plan.warehouse:
        said.append(f"QUERY_WAREHOUSE = {Name.parse(plan.warehouse).sql}")
    if comment:
        said.append(f"COMMENT = {literal(comment)}")
    if plan.external_access:
        said.append(f"EXTERNAL_ACCESS_INTEGRATIONS = ({', '.join(plan.external_access)})")
    return " ".join([*said, f"FROM SPECIFICATION {json_block(spec)}"])


def object_name(run_id: str, attempt: int, suffix: str = "") -> str:
    """The name of what is made for one launch of a run: plain letters, and no longer than what a
    name in DNS may be, for services have one.

    >>> object_name("flights-1125-101500-ab12", 1, "rows")
    'FD_FLIGHTS_1125_101500_AB12_1_ROWS'
    """
    slug = re.sub(r"[^A-Za-z0-9]+", "_", run_id).strip("_").upper()
    end = "_".join(str(part).upper() for part in (attempt, suffix) if part != "")
    longest = 63 - len("FD__") - len(end)
    if len(slug) > longest:
        digest = hashlib.sha256(run_id.encode()).hexdigest()[:8].upper()
        slug = f"{slug[: longest - 9]}_{digest}"
    return f"FD_{slug}_{end}"
