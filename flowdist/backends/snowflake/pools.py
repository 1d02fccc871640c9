"""Persistent pools: workers that stay, for several runs and users.

A pool is a service in the schema of the stage whose instances claim chunks from the queue there.
What they do is in `flowdist.workers.serve`; plans name a pool as ``spcs_queue(pool=...)``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flowdist.backends.snowflake.plans import SpcsQueue
from flowdist.backends.snowflake.queues import ensure_queue, queue_kind, queue_table
from flowdist.backends.snowflake.remote import runs_place
from flowdist.backends.snowflake.services import container_rows, drop_service
from flowdist.backends.snowflake.spec import RUNS, specification
from flowdist.errors import BackendError, UsageError
from flowdist.settings import user
from flowdist.snowflake.connection import Client, SnowflakeError
from flowdist.snowflake.families import Family, family_named
from flowdist.snowflake.names import Name, Place, json_block, literal
from flowdist.workers.claiming import Waiting

__all__ = [
    "IDLE_SECONDS",
    "PoolStatus",
    "check_pool",
    "create_pool",
    "pool_name",
    "pool_status",
    "resume_pool",
    "scale_pool",
    "start_pool",
    "stop_pool",
]

# A pool whose workers have found nothing for so long is suspended, and resumed by the next run.
IDLE_SECONDS = 600
_ALIVE = ("PENDING", "READY", "TERMINATING")


@dataclass(frozen=True)
class PoolStatus:
    """A pool at one moment.

    Attributes:
        name: of the service.
        state: of the service, in Snowflake's words.
        stage, queue: where runs and chunks of it are.
        wanted: how many instances there shall be.
        instances: how many there are in which state.
        work: launches that have chunks in it.
    """

    name: str
    state: str
    stage: str
    queue: str
    wanted: int
    instances: dict[str, int] = field(default_factory=dict)
    work: list[Waiting] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {**asdict(self), "work": [asdict(one) for one in self.work]}


# -- names


def pool_name(pool: str, stage: Name) -> Name:
    """The full name of a pool; it is in the schema of the stage where it does not say."""
    return Name.parse(pool, "pool").within(*stage.parts[:2])


# -- starting, scaling, ending


def start_pool(client: Client, plan: SpcsQueue, *, idle: int = IDLE_SECONDS) -> Name:
    """Start the pool that `plan` names with its ``replicas``; returns its full name.

    Raises:
        UsageError: the plan names no pool, or there is one of that name.
        SnowflakeError: Snowflake refuses.
    """
    if not plan.pool:
        raise UsageError("the plan names no pool: give it pool='NAME'")
    runs = runs_place(plan, client)
    name, table = pool_name(plan.pool, runs.stage), queue_table(plan.queue, runs)
    ensure_queue(client, table)
    statement = create_pool(plan, name, table, runs, idle=idle, family=_family(client, plan))
    try:
        client.run(statement, again=False)
    except SnowflakeError as error:
        if not error.exists:
            raise
        raise UsageError(
            f"there is a service {name} already; flowdist pool scale changes how many workers it "
            "has, flowdist pool stop ends it"
        ) from None
    return name


def create_pool(
    plan: SpcsQueue,
    name: Name,
    table: Name,
    runs: Place,
    *,
    idle: int = IDLE_SECONDS,
    family: Family | None = None,
) -> str:
    """The statement that starts a pool."""
    args = ["container", "queue", RUNS, name.sql, table.sql, str(idle)]
    spec = specification(plan, args, runs=runs, family=family)
    label = {"app": "flowdist", "stage": runs.path, "queue": table.sql, "user": user()}
    said = [
        f"CREATE SERVICE {name.sql} IN COMPUTE POOL {Name.parse(plan.compute_pool).sql}",
        f"FROM SPECIFICATION {json_block(spec)}",
    ]
    if plan.external_access:
        said.append(f"EXTERNAL_ACCESS_INTEGRATIONS = ({', '.join(plan.external_access)})")
    said.append(f"MIN_INSTANCES = {plan.replicas} MAX_INSTANCES = {plan.replicas}")
    if plan.warehouse:
        said.append(f"QUERY_WAREHOUSE = {Name.parse(plan.warehouse).sql}")
    return " ".join([*said, f"COMMENT = {literal(json.dumps(label))}"])


def scale_pool(client: Client, name: Name, instances: int) -> None:
    """Let a pool have so many workers."""
    client.run(
        f"ALTER SERVICE {name.sql} SET MIN_INSTANCES = {instances} MAX_INSTANCES = {instances}"
    )


def stop_pool(client: Client, name: Name) -> None:
    """End a pool; what its workers have not committed, other workers run."""
    drop_service(client, name)


def resume_pool(client: Client, name: Name) -> bool:
    """Start a pool that is suspended; False where there is none.

    Raises:
        BackendError: it is suspended, and this role may not start it.
    """
    try:
        client.run(f"ALTER SERVICE {name.sql} RESUME")
    except SnowflakeError as error:
        if error.passing:
            raise
        row = None if error.missing else _service(client, name)
        if row is not None and str(row["status"]).upper().startswith("SUSPEND"):
            raise BackendError(
                f"pool {name} is suspended, and this role may not start it; GRANT OPERATE ON "
                f"SERVICE {name.sql} TO ROLE ... by its owner lets it ({error.said})"
            ) from None
        return row is not None
    return True


# -- asking


def check_pool(client: Client, name: Name, runs: Place, table: Name) -> None:
    """Whether a pool takes chunks of that queue, and sees runs in that place.

    Raises:
        BackendError: there is no such pool, or it works elsewhere.
    """
    row = _service(client, name)
    if row is None:
        raise BackendError(
            f"there is no pool {name}, or this role may not see it; flowdist pool start "
            f"{name.last} ... starts one"
        )
    label = _label(row)
    for what, wanted in (("stage", runs.path), ("queue", table.sql)):
        if label.get(what) != wanted:
            raise BackendError(
                f"pool {name} works for {what} {label.get(what, 'unknown')}, and the plan names "
                f"{wanted}"
            )


def pool_status(client: Client, name: Name) -> PoolStatus:
    """How a pool is, by four statements.

    Raises:
        BackendError: there is no such pool.
    """
    row = _service(client, name)
    if row is None:
        raise BackendError(f"there is no pool {name}, or this role may not see it")
    label = _label(row)
    containers = container_rows(client, name) or []
    states = Counter(str(c["status"]).lower() for c in containers if c.get("instance_id"))
    work: list[Waiting] = []
    if "queue" in label:
        table = Name.parse(str(label["queue"]))
        work = queue_kind(client, table).waiting(client, table, name.sql)
    return PoolStatus(
        name=name.sql,
        state=str(row["status"]),
        stage=str(label.get("stage", "")),
        queue=str(label.get("queue", "")),
        wanted=int(row.get("target_instances") or row.get("min_instances") or 0),
        instances=dict(states),
        work=work,
    )


def _service(client: Client, name: Name) -> Mapping[str, Any] | None:
    try:
        found = client.rows(f"DESCRIBE SERVICE {name.sql}")
    except SnowflakeError as error:
        if not error.missing:
            raise
        return None
    return found[0] if found else None


def _label(row: Mapping[str, Any]) -> dict[str, Any]:
    """What `create_pool` has written about a pool."""
    try:
        found = json.loads(str(row.get("comment") or ""))
    except ValueError:
        return {}
    return found if isinstance(found, dict) and found.get("app") == "flowdist" else {}


def _family(client: Client, plan: SpcsQueue) -> Family | None:
    """What the nodes of the plan's pool are."""
    if plan.family is not None:
        return plan.family
    pool = Name.parse(plan.compute_pool).last
    for row in client.rows(f"SHOW COMPUTE POOLS LIKE {literal(pool)}"):
        if row["name"] == pool:
            return family_named(str(row["instance_family"]))
    return None
