"""The plans for Snowflake's container services: where jobs run, how they are dispatched, and what
a container gets.

A plan starts nothing. What a container is asked for is written in
`flowdist.backends.snowflake.spec`; whether the account admits it is asked in
`flowdist.backends.snowflake.checks`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, Unpack

from pydantic import BeforeValidator, Field, model_validator

from flowdist.errors import FlowdistError, PlanError
from flowdist.plan import Count, Plan, PlanOptions, Seconds
from flowdist.snowflake.connection import connection_name
from flowdist.snowflake.families import Family, family_named
from flowdist.snowflake.names import Name, Place
from flowdist.summary import counted

if TYPE_CHECKING:
    from flowdist.cost import Cost, Estimate
    from flowdist.summary import PlanSummary

__all__ = ["Spcs", "SpcsJobs", "SpcsQueue", "SpcsTasks", "spcs_jobs", "spcs_queue", "spcs_tasks"]

# A container takes half a minute to two to start, so that a plan which does not say how many jobs
# it wants gets few.
USUAL_JOBS = 10

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IMAGE = re.compile(r"[\w.:-]*(/[\w.-]+)+(:[\w.-]+|@sha256:[0-9a-f]{64})?")


def _checked(parse: Any, what: str) -> Any:
    """A validator that has `parse` refuse, and keeps what the user wrote."""

    def check(value: object) -> str:
        if not isinstance(value, str) or not value:
            raise ValueError(what)
        try:
            parse(value)
        except FlowdistError as error:
            raise ValueError(f"{what} ({error})") from None
        return value

    return BeforeValidator(check)


def _image(value: object) -> str:
    if isinstance(value, str) and _IMAGE.fullmatch(value):
        return value
    raise ValueError("the path of an image, as in /db/schema/repository/image:tag")


def _table_of(check_value: Any, what: str) -> Any:
    def check(value: object) -> dict[str, Any]:
        given = {} if value is None else value
        if not isinstance(given, Mapping):
            raise ValueError(what)
        for name, content in given.items():
            if not (isinstance(name, str) and _VARIABLE.fullmatch(name) and check_value(content)):
                raise ValueError(f"{what}; not {name!r}: {content!r}")
        return {name: str(content) for name, content in given.items()}

    return BeforeValidator(check)


def _is_secret(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(Name.parse(value.partition(":")[0]))
    except FlowdistError:
        return False


def _names(value: object) -> tuple[str, ...]:
    given = () if value is None else (value,) if isinstance(value, str) else value
    try:
        return tuple(Name.parse(name).sql for name in given)  # type: ignore[attr-defined]
    except (FlowdistError, TypeError):
        raise ValueError("a name, or a list of names") from None


SqlName = Annotated[str, _checked(Name.parse, "a name, as in database.schema.name")]
StagePath = Annotated[str, _checked(Place.parse, "a stage, as in database.schema.stage/folder")]
Image = Annotated[str, BeforeValidator(_image)]
Variables = Annotated[
    dict[str, str],
    _table_of(lambda v: isinstance(v, (str, int, float)), "a dict of variables"),
]
Secrets = Annotated[
    dict[str, str],
    _table_of(_is_secret, "a dict of variables, each with the name of a secret, as in "
              "{'API_KEY': 'db.schema.secret'} or 'db.schema.secret:password'"),
]  # fmt: skip
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Connection = Annotated[str | None, BeforeValidator(connection_name)]


class SpcsOptions(PlanOptions, total=False):
    """The keywords that all constructors for Snowflake take; :class:`Spcs` says what they mean."""

    connection: Any
    warehouse: str | None
    instance_family: str | None
    containers_per_node: int | None
    environment: Mapping[str, str | int | float] | None
    secrets: Mapping[str, str] | None
    external_access: str | Sequence[str] | None
    price: float | None


class Spcs(Plan):
    """Jobs run in containers of a compute pool; what the three plans have in common.

    Of the resources, ``cpus`` are those of one worker; ``memory`` and ``gpus`` those of one
    container, ``time`` that of one job.

    Fields besides those of :class:`flowdist.plan.Plan`:
        compute_pool: the pool whose nodes run the containers.
        image: the path of the image, as in ``/db/schema/repository/image:tag``.
        stage: where runs live, as in ``db.schema.stage`` or ``db.schema.stage/folder``. Its schema
            is where jobs, tasks and tables are made.
        connection: the name of a connection in connections.toml, or of one that
            `flowdist.register_connection` was given; keywords for ``snowflake.connector.connect``;
            or an open connection. None: the default one, or what SNOWFLAKE_ACCOUNT and others say.
        warehouse: for the SQL of containers and, with ``spcs_tasks``, of tasks.
        instance_family: the machines of the pool, as in "CPU_X64_M": how many workers a container
            has follows from it. None: a container finds out at its start.
        containers_per_node: how many share a node, each with its part of cores and memory. None:
            one, unless ``memory`` or ``workers`` ask for less.
        environment: variables of the containers.
        secrets: variables that get a secret, as in ``{"API_KEY": "db.schema.secret"}``; of one with
            a user name and a password, ``"db.schema.secret:password"``.
        external_access: names of external access integrations.
        price: credits for an hour of a node, for estimates.
    """

    kind: Literal["spcs-tasks", "spcs-jobs", "spcs-queue"]
    compute_pool: SqlName
    image: Image
    stage: StagePath
    connection: Connection = None
    warehouse: SqlName | None = None
    instance_family: str | None = None
    containers_per_node: Count | None = None
    environment: Variables = Field(default={})
    secrets: Secrets = Field(default={})
    external_access: Names = ()
    price: Annotated[float, Field(ge=0)] | None = None

    knows_jobs: ClassVar[bool] = True

    @model_validator(mode="after")
    def _fits_its_family(self) -> Self:
        family, name = self.family, self.kind.replace("-", "_")
        if self.containers_per_node and self.instance_family is None:
            raise PlanError(
                f"{name}: containers_per_node={self.containers_per_node} shares out a node, and "
                "instance_family, which says what a node has, is missing"
            )
        if family is None:
            return self
        per_node = self.containers_per_node or 1
        if self.workers and self.workers * self.cpus_per_worker > family.vcpu:
            raise PlanError(
                f"{name}: {counted(self.workers, 'worker')} with cpus={self.cpus_per_worker} are "
                f"more than the {counted(family.vcpu, 'core')} of a node of {family.name}"
            )
        memory = self.resources.memory
        if memory and memory * per_node > family.memory:
            raise PlanError(
                f"{name}: memory={memory / 2**30:.1f} GiB for each of {per_node} containers is "
                f"more than the {family.memory_gib} GiB of a node of {family.name}"
            )
        if (self.resources.gpus or 0) * per_node > family.gpu_count:
            raise PlanError(
                f"{name}: gpus={self.resources.gpus}, and a node of {family.name} has "
                f"{family.gpu_count or 'none'}"
            )
        return self

    @property
    def family(self) -> Family | None:
        """What a node of the pool is; None where the plan does not say, or it is not known."""
        return None if self.instance_family is None else family_named(self.instance_family)

    @property
    def sized_at_start(self) -> bool:
        """Whether only a container's start tells how many cores, and so workers, it has."""
        return self.workers is None and self.family is None and self.within != "sequential"

    def job_cores(self, cores: int | None = None) -> int:
        """The cores of one container; those given where its start decides.

        >>> plan = spcs_jobs(compute_pool="p", image="/d/s/r/i:1", stage="d.s.runs",
        ...                  instance_family="CPU_X64_L", containers_per_node=4)
        >>> plan.job_cores(), plan.worker_count()
        (7, 7)
        """
        if self.family is not None:
            return max(1, self.family.vcpu // (self.containers_per_node or 1))
        if self.workers is not None:
            return self.workers * self.cpus_per_worker
        return super().job_cores(cores)

    def default_jobs(self, rows: int, workers: int) -> tuple[int, str]:
        """Few: each costs the start of a container."""
        jobs = max(1, min(USUAL_JOBS, -(-rows // workers)))
        return jobs, (
            f"{counted(jobs, 'job')}: each costs the start of a container; "
            "target_jobs sets another number"
        )

    def describe(self, workers: int | None = None) -> str:
        said = super().describe(None if self.sized_at_start else workers)
        return f"{said}, pool {self.compute_pool}"

    def workers_note(self, workers: int) -> str:
        if self.within == "sequential" or self.workers is not None:
            return ""
        if self.family is None:
            return "cores of the container / cpus, found out when a job starts"
        share = f" / {self.containers_per_node} containers" if self.containers_per_node else ""
        return f"{self.family.vcpu} cores of {self.family.name}{share}"

    def request(self) -> str:
        """What one job asks for, in words."""
        said = [f"pool {self.compute_pool}"]
        if self.instance_family:
            said.append(self.instance_family.upper())
        asked = self.resources.asked
        if asked:
            said.append(str(self.resources))
        return ", ".join(said)

    def cautions(self, summary: PlanSummary) -> Iterator[str]:
        """What one would want to know before Snowflake has it."""
        from flowdist.backends.snowflake.estimates import cautions

        return cautions(self, summary)

    def estimate(self, summary: PlanSummary) -> Estimate | None:
        """Nodes, hours of nodes, credits."""
        from flowdist.backends.snowflake.estimates import estimate

        return estimate(self, summary)

    def cost(self, lives: Iterable[tuple[float, float]]) -> Cost | None:
        """Hours of nodes so far, and credits where there is a price."""
        from flowdist.backends.snowflake.estimates import cost

        return cost(self, lives)

    def traces(self, run_id: str, launches: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        """The pool, the image, the folder on the stage, what was started there."""
        from flowdist.backends.snowflake.estimates import traces

        return traces(self, run_id, launches)

    def __hash__(self) -> int:
        return hash((type(self), json.dumps(self.to_json(), sort_keys=True)))


class SpcsTasks(Spcs):
    """A Task graph with a task for each job; made by :func:`spcs_tasks`.

    ``retries``: how often Snowflake runs the failed tasks of a graph again. ``schedule``: when the
    graph runs, "USING CRON 0 3 * * * UTC" or "60 MINUTES"; the flow goes on without a driver, and
    each firing is a run of its own (`Run.firings`). None: once, now.
    """

    kind: Literal["spcs-tasks"] = "spcs-tasks"
    dispatch: Literal["static"] = "static"
    retries: Annotated[int, Field(ge=0, le=30)] = 0
    schedule: str | None = None

    def cautions(self, summary: PlanSummary) -> Iterator[str]:
        from flowdist.backends.snowflake.graph import MOST_JOBS

        if self.schedule is not None and summary.layout.jobs > MOST_JOBS:
            raise PlanError(
                f"spcs_tasks: schedule={self.schedule!r} is for one graph, of at most {MOST_JOBS} "
                f"jobs, and there are {summary.layout.jobs:,}; target_jobs={MOST_JOBS} packs them"
            )
        return super().cautions(summary)


class SpcsJobs(Spcs):
    """One job service with a replica for each job; made by :func:`spcs_jobs`."""

    kind: Literal["spcs-jobs"] = "spcs-jobs"
    dispatch: Literal["static"] = "static"


class SpcsQueue(Spcs):
    """Workers that claim chunks from a table; made by :func:`spcs_queue`.

    ``queue``: the table, in the schema of the stage. ``replicas``: how many containers, where no
    ``pool`` of workers is named that `flowdist pool start` has started. ``pre_warm``: put chunks
    into the queue only when all workers are ready. ``lease``: a worker that is silent for so long
    loses what it has claimed.
    ``max_attempts``: a chunk that was begun so often and never ended is given up. ``idle``: a
    worker that finds nothing for so long ends.
    """

    kind: Literal["spcs-queue"] = "spcs-queue"
    dispatch: Literal["queue"] = "queue"
    queue: SqlName = "FLOWDIST_QUEUE"
    replicas: Count = 4
    pool: SqlName | None = None
    pre_warm: bool = False
    lease: Seconds = 60
    max_attempts: Count = 3
    idle: Seconds = 60

    queues_elsewhere: ClassVar[bool] = True
    takes_feeds: ClassVar[bool] = True

    def default_jobs(self, rows: int, workers: int) -> tuple[int, str]:
        """A job for each replica; of a pool nobody knows how many workers will come."""
        if self.pool is not None:
            return 1, f"one job, for all workers of pool {self.pool}"
        return self.replicas, f"{counted(self.replicas, 'job')}: one for each replica"


class SpcsTasksOptions(SpcsOptions, total=False):
    """The keywords of :func:`spcs_tasks` besides the required ones."""

    retries: int
    schedule: str | None


class SpcsQueueOptions(SpcsOptions, total=False):
    """The keywords of :func:`spcs_queue` besides the required ones."""

    queue: str
    replicas: int
    pool: str | None
    pre_warm: bool
    lease: str | int | timedelta
    max_attempts: int
    idle: str | int | timedelta


def spcs_tasks(
    *, compute_pool: str, image: str, stage: str, **options: Unpack[SpcsTasksOptions]
) -> SpcsTasks:
    """Run on Snowflake as a Task graph: a task for each job, which runs it in a container.

    Task history is the audit trail. Without ``warehouse`` tasks are serverless. Takes every field
    of :class:`flowdist.plan.Plan`, :class:`Spcs` and :class:`SpcsTasks`.

    Raises:
        PlanError, ResourceError: naming the field, the value and what is allowed.

    >>> spcs_tasks(compute_pool="fits", image="/d/s/r/fit:1", stage="d.s.runs", target_jobs=4)
    spcs_tasks(target_jobs=4, compute_pool='fits', image='/d/s/r/fit:1', stage='d.s.runs')
    """
    fields: dict[str, Any] = {**options}
    return SpcsTasks(compute_pool=compute_pool, image=image, stage=stage, **fields)


def spcs_jobs(
    *, compute_pool: str, image: str, stage: str, **options: Unpack[SpcsOptions]
) -> SpcsJobs:
    """Run on Snowflake as one job service with a replica for each job: no tasks, no table.

    Takes every field of :class:`flowdist.plan.Plan` and :class:`Spcs`.

    Raises:
        PlanError, ResourceError: naming the field, the value and what is allowed.

    >>> spcs_jobs(compute_pool="fits", image="/d/s/r/fit:1", stage="d.s.runs").kind
    'spcs-jobs'
    """
    fields: dict[str, Any] = {**options}
    return SpcsJobs(compute_pool=compute_pool, image=image, stage=stage, **fields)


def spcs_queue(
    *, compute_pool: str, image: str, stage: str, **options: Unpack[SpcsQueueOptions]
) -> SpcsQueue:
    """Run on Snowflake in workers that claim chunks from a hybrid table.

    Uneven rows even out, and work can be added while workers run (`Run.feed`). Takes every field of
    :class:`flowdist.plan.Plan`, :class:`Spcs` and :class:`SpcsQueue`.

    Raises:
        PlanError, ResourceError: naming the field, the value and what is allowed.

    >>> plan = spcs_queue(compute_pool="fits", image="/d/s/r/fit:1", stage="d.s.runs",
    ...                   time_budget="30min")
    >>> plan.time_budget, plan.replicas
    (1800, 4)
    """
    fields: dict[str, Any] = {**options}
    return SpcsQueue(compute_pool=compute_pool, image=image, stage=stage, **fields)
