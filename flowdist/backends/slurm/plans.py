"""The plans for SLURM: what one job asks for, how many jobs there are, and what to be warned of.

A plan starts nothing. Its batch script is written in `flowdist.backends.slurm.script`; whether the
cluster at hand admits it is asked in `flowdist.backends.slurm.checks`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, Unpack

from pydantic import Field, field_validator, model_validator

from flowdist.backends.slurm.options import (
    Environment,
    Extra,
    Lines,
    Mail,
    Program,
    SlurmJobOptions,
    SlurmOptions,
    Word,
    Words,
)
from flowdist.errors import PlanError, ResourceError, nearest
from flowdist.plan import Count, Plan
from flowdist.resources import Resources, parse_time
from flowdist.summary import counted

if TYPE_CHECKING:
    from flowdist.summary import PlanSummary

__all__ = ["Slurm", "SlurmAllocation", "SlurmQueue", "slurm", "slurm_allocation", "slurm_queue"]

# What a plan without target_jobs makes at most: enough to fill the share of a cluster that one user
# gets, and far below the 1,001 tasks that SLURM's default MaxArraySize allows.
MOST_JOBS = 100

# No job runs in less; an int is bytes here, and megabytes to sbatch.
LEAST_MEMORY = 1 << 20

# The keeper reads which rows have ended, and calls sbatch. Its time is between these.
KEEPER_MEMORY, KEEPER_SECONDS = 1 << 30, (300, 1800)

# How rows are laid out and when a run ends has one answer for all stages.
_FOR_ALL_STAGES = frozenset({
    "kind", "by", "rows_per_chunk", "chunks_per_job", "target_jobs", "dispatch", "root",
    "fail_fast", "max_failures", "stages",
})  # fmt: skip

_NAMED = ("partition", "account", "qos", "reservation", "constraint", "gres")


class Slurm(Plan):
    """Jobs are tasks of SLURM's job arrays; made by :func:`slurm`.

    Of the resources, ``cpus`` are those of one worker; ``memory``, ``time`` and ``gpus`` those of
    one job, memory and gpus on each of its nodes.

    Fields besides those of :class:`flowdist.plan.Plan`:
        cores_per_node: cores that one job asks for. None: workers x cpus.
        jobs_at_once: how many jobs run at the same time (the ``%N`` of arrays). None: as many as
            SLURM lets.
        partition, account, qos, constraint, reservation, gres: as sbatch takes them.
        nodes: nodes of one job, for functions that call srun or mpirun themselves; workers run on
            the first.
        ntasks: tasks of one job, for the same functions; each has the job's cores.
        exclusive: take whole nodes. With neither ``workers`` nor ``cores_per_node``, a job finds
            out at its start how many workers its node's cores allow.
        mail_type, mail_user: when SLURM writes, and to whom.
        environment: variables, exported before everything else.
        modules: loaded with ``module load``, one after another; a job whose module is missing ends.
        setup: lines of shell that run then, before Python starts.
        python: the interpreter on the nodes. None: the one that submits.
        extra: any other option of sbatch, as in ``{"nice": 100, "overcommit": True}``.
        requeue: let SLURM start a job again after a node failed or a preemption.
        resubmit: at its time limit a job requeues itself while it has work left.
        stages: fields that differ for a stage, as in
            ``{"train": {"partition": "gpu", "gpus": 1}}``.
    """

    phased: ClassVar[bool] = True
    _for_all_stages: ClassVar[frozenset[str]] = _FOR_ALL_STAGES

    kind: Literal["slurm", "slurm-queue", "slurm-allocation"] = "slurm"
    cores_per_node: Count | None = None
    jobs_at_once: Count | None = None
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    reservation: Word | None = None
    gres: Word | None = None
    nodes: Count | None = None
    ntasks: Count | None = None
    exclusive: bool = False
    mail_type: Mail | None = None
    mail_user: Word | None = None
    setup: Lines = ()
    modules: Words = ()
    environment: Environment = Field(default={})
    python: Program | None = None
    extra: Extra = Field(default={})
    requeue: bool = True
    resubmit: bool = False
    stages: dict[str, dict[str, Any]] = Field(default={})

    @field_validator("stages", mode="before")
    @classmethod
    def _tables(cls, stages: object) -> dict[str, dict[str, Any]]:
        tables = {} if stages is None else stages
        if not isinstance(tables, Mapping) or not all(
            isinstance(name, str) and isinstance(table, Mapping) for name, table in tables.items()
        ):
            raise ValueError("a dict of stages, each with a dict of fields")
        return {name: {k: _plain(v) for k, v in table.items()} for name, table in tables.items()}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        name = self.kind.replace("-", "_")
        cpus = self.cpus_per_worker
        if self.cores_per_node is not None and cpus > self.cores_per_node:
            raise PlanError(
                f"{name}: cpus={cpus} of one worker are more than cores_per_node="
                f"{self.cores_per_node} of its job; lower cpus or raise cores_per_node"
            )
        asked = self.resources.memory
        if asked and asked < LEAST_MEMORY:
            raise PlanError(
                f"{name}: memory={asked} is {asked} bytes for a job; write megabytes as "
                f"'{asked}M' and gigabytes as '{asked}G'"
            )
        if self.resubmit and not self.requeue:
            raise PlanError(
                f"{name}: resubmit=True needs requeue=True, as a job that SLURM may not requeue "
                "cannot requeue itself"
            )
        for stage in self.stages:
            self._check_stage(name, stage)
        return self

    def _check_stage(self, name: str, stage: str) -> None:
        allowed = [field for field in type(self).model_fields if field not in self._for_all_stages]
        allowed += Resources.model_fields
        for field in self.stages[stage]:
            if field not in allowed:
                known = field in type(self).model_fields
                why = "is one for all stages" if known else "does not exist"
                raise PlanError(
                    f"{name}: stages[{stage!r}]: the field {field!r} {why}"
                    f"{'' if known else nearest(field, allowed)}; a stage may have its own "
                    f"{', '.join(allowed)}"
                )
        try:
            self.for_stage(stage, None)
        except PlanError as error:
            raise PlanError(f"{name}: stages[{stage!r}]: {_after(name, error)}") from None
        except ResourceError as error:
            raise ResourceError(f"{name}: stages[{stage!r}]: {error}") from None

    # What one job asks for -----------------------------------------------------------------------

    @property
    def sized_at_start(self) -> bool:
        """Whether only a job's start tells how many cores, and so workers, it has.

        >>> slurm(exclusive=True).sized_at_start, slurm(exclusive=True, workers=8).sized_at_start
        (True, False)
        """
        return (
            self.exclusive
            and self.workers is None
            and self.cores_per_node is None
            and self.within != "sequential"
        )

    @property
    def job_nodes(self) -> int:
        """Nodes of one job."""
        return self.nodes or 1

    def job_cpus(self) -> int:
        """What ``--cpus-per-task`` gets: the cores that the workers of one job share.

        >>> slurm(workers=4, cpus=2).job_cpus(), slurm(cores_per_node=16, cpus=2).job_cpus()
        (8, 16)
        """
        if self.cores_per_node is not None:
            return self.cores_per_node
        workers = 1 if self.within == "sequential" else self.workers or 1
        return workers * self.cpus_per_worker

    def job_cores(self, cores: int | None = None) -> int:
        """The cores of one job, whatever machine asks; those given where its start decides."""
        return super().job_cores(cores) if self.sized_at_start else self.job_cpus()

    def cores_held(self, workers: int) -> int:
        return self.job_cpus() * (self.ntasks or self.job_nodes)

    def for_stage(self, name: str, needs: Resources | None = None) -> Slurm:
        """The plan for the jobs of one stage.

        What ``stages`` says of it wins over ``needs``, those of the stage itself, and they win over
        the plan. Needs are of one row: ``cpus`` become those of a worker, ``memory`` and ``gpus``
        are multiplied by the workers of a job; ``time`` is that of a job.

        >>> plan = slurm(workers=4, memory="8GB", stages={"train": {"gpus": 1, "workers": 1}})
        >>> plan.for_stage("train")
        slurm(workers=1, memory='8 GiB', gpus=1)
        >>> plan.for_stage("fit", Resources(cpus=2, memory="4GB")).job_cpus()
        8
        """
        own = self.stages.get(name, {})
        asked = {} if needs is None else needs.asked
        # Without the memory and gpus of a row, as their sum depends on how many workers there are.
        single = {key: value for key, value in asked.items() if key in ("cpus", "time")}
        plan = self._with({**single, **own})
        # All of the node's memory, where its cores decide how many workers share it.
        workers = 0 if plan.sized_at_start else plan.worker_count()
        total = {"memory": workers, "gpus": workers or 1}
        total = {
            key: asked[key] * times
            for key, times in total.items()
            if key in asked and key not in _resources(own)
        }
        return plan._with(total) if total else plan

    def shrunk(self, workers: int) -> Slurm:
        """The plan for jobs that have a use for only so many workers, and cores for no more.

        >>> slurm_allocation(nodes=10, cores_per_node=196, time="2h").shrunk(3)
        slurm(workers=3, time='2 h')
        """
        fields = {name: getattr(self, name) for name in Slurm.model_fields if name != "kind"}
        nodes = self.nodes if type(self) is Slurm else None
        changed = {"cores_per_node": None, "nodes": nodes, "workers": workers}
        return Slurm(**{**fields, **changed})

    def for_keeper(self) -> Slurm:
        """The plan of the small job that looks after a launch when its jobs have ended.

        >>> slurm_allocation(nodes=10, cores_per_node=196, memory="64G", time="2h").for_keeper()
        slurm(workers=1, memory='1 GiB', time='30 min')
        """
        small = self.shrunk(1)
        memory = self.resources.memory and min(self.resources.memory, KEEPER_MEMORY)
        # No more than jobs ask for: where they run, nothing longer may be allowed.
        shortest, longest = KEEPER_SECONDS
        time = self.resources.time and min(max(self.resources.time, shortest), longest)
        asked = Resources(memory=memory, time=time)
        nothing = dict.fromkeys(("gres", "ntasks", "nodes", "mail_type", "mail_user"))
        fields = {**dict(small), "resources": asked, "exclusive": False, **nothing}
        return Slurm(**{k: v for k, v in fields.items() if k != "kind"})

    def _with(self, changes: Mapping[str, Any]) -> Self:
        """This plan without ``stages``, changed; tables gain entries, resources and the rest are
        replaced."""
        fields = {**dict(self), "stages": {}}
        for key, value in changes.items():
            if key == "resources":
                continue
            both = isinstance(value, Mapping) and isinstance(fields.get(key), Mapping)
            fields[key] = {**fields[key], **value} if both else value
        fields["resources"] = {**self.resources.asked, **_resources(changes)}
        for key in Resources.model_fields:
            fields.pop(key, None)
        return type(self)(**fields)

    # How many jobs -------------------------------------------------------------------------------

    def default_jobs(self, rows: int, workers: int) -> tuple[int, str]:
        """As many as ``jobs_at_once`` lets run, else a row for each worker, at most 100.

        >>> slurm().default_jobs(rows=24, workers=4)
        (6, '6 jobs: a row for each of 4 workers in each')
        """
        if self.jobs_at_once is not None:
            return self.jobs_at_once, f"{self.jobs_at_once} jobs: as many as jobs_at_once lets run"
        jobs = max(1, -(-rows // workers))
        if jobs > MOST_JOBS:
            return MOST_JOBS, (
                f"{MOST_JOBS} jobs share the rows: each job costs a start of its own; "
                "target_jobs sets another number"
            )
        each = "in each" if workers == 1 else f"for each of {workers} workers in each"
        return jobs, f"{counted(jobs, 'job')}: a row {each}"

    def jobs_running(self, jobs: int) -> int:
        """How many of ``jobs`` run at the same time, as far as the plan decides that.

        >>> slurm(jobs_at_once=4).jobs_running(10), slurm().jobs_running(10)
        (4, 10)
        """
        return min(jobs, self.jobs_at_once or jobs)

    def throttle(self, jobs: int) -> int | None:
        """The ``%N`` that an array of ``jobs`` needs; None where it needs none.

        >>> slurm(jobs_at_once=4).throttle(10), slurm(jobs_at_once=4).throttle(3)
        (4, None)
        """
        running = self.jobs_running(jobs)
        return running if running < jobs else None

    # What is shown -------------------------------------------------------------------------------

    def describe(self, workers: int | None = None) -> str:
        said = [super().describe(None if self.sized_at_start else workers)]
        if self.partition:
            said.append(f"partition {self.partition}")
        return ", ".join(said)

    def workers_note(self, workers: int) -> str:
        """How the number of workers of a job came about.

        >>> slurm(cores_per_node=196, cpus=8).workers_note(24)
        'cores_per_node 196 / cpus 8'
        """
        if self.within == "sequential" or self.workers is not None:
            return ""
        cpus = self.cpus_per_worker
        if self.sized_at_start:
            return f"cores of the node / cpus {cpus}, found out when a job starts"
        if self.cores_per_node is None:
            return "neither workers nor cores_per_node says otherwise"
        return f"cores_per_node {self.cores_per_node} / cpus {cpus}"

    def request(self) -> str:
        """What one job asks SLURM for, in words.

        >>> slurm(workers=4, memory="8GB", time="2h", partition="batch").request()
        'partition batch, 4 cores, 8 GiB, 2 h'
        """
        said = [f"{name} {value}" for name in _NAMED if (value := getattr(self, name))]
        if self.exclusive:
            said.append("whole nodes")
        if self.job_nodes > 1:
            said.append(f"{self.job_nodes} nodes")
        if self.ntasks:
            said.append(f"{counted(self.ntasks, 'task')} of")
        if not self.sized_at_start:
            said.append(counted(self.job_cpus(), "core"))
        asked = Resources(**{k: v for k, v in self.resources.asked.items() if k != "cpus"})
        if asked.asked:
            said.append(str(asked))
        return ", ".join(said).replace(" of, ", " of ")

    def check_stages(self, stages: Sequence[str]) -> None:
        for name in self.stages:
            if name not in stages:
                raise PlanError(
                    f"{self.kind.replace('-', '_')}: stages has fields for {name!r}, and the flow "
                    f"has no such stage{nearest(name, stages)}; its stages are {', '.join(stages)}"
                )

    def cautions(self, summary: PlanSummary) -> Iterator[str]:
        """What one would want to know about this plan over a grid before SLURM has it."""
        from flowdist.backends.slurm.cautions import cautions

        return cautions(self, summary)

    def __hash__(self) -> int:
        return hash((type(self), json.dumps(self.to_json(), sort_keys=True)))


class SlurmQueue(Slurm):
    """Jobs that pull chunks from one queue; made by :func:`slurm_queue`.

    ``nodes``: how many jobs, each on one node.
    """

    _for_all_stages: ClassVar[frozenset[str]] = _FOR_ALL_STAGES | {"nodes"}

    kind: Literal["slurm-queue"] = "slurm-queue"
    dispatch: Literal["queue"] = "queue"
    nodes: Count

    @property
    def job_nodes(self) -> int:
        return 1

    def default_jobs(self, rows: int, workers: int) -> tuple[int, str]:
        """A job on each node.

        >>> slurm_queue(nodes=10, cores_per_node=16).default_jobs(rows=1000, workers=16)
        (10, '10 jobs: one on each of 10 nodes')
        """
        return (
            self.nodes,
            f"{counted(self.nodes, 'job')}: one on each of {counted(self.nodes, 'node')}",
        )


class SlurmAllocation(Slurm):
    """N nodes of M cores, filled; made by :func:`slurm_allocation`.

    ``nodes`` x ``oversubscribe`` jobs, each on one node with ``cores_per_node`` cores, of which
    ``nodes`` run at the same time: a job that ends early makes room for one that waits.
    """

    knows_jobs: ClassVar[bool] = True
    _for_all_stages: ClassVar[frozenset[str]] = _FOR_ALL_STAGES | {"nodes", "oversubscribe"}

    kind: Literal["slurm-allocation"] = "slurm-allocation"
    nodes: Count
    cores_per_node: Count
    oversubscribe: Count = 1

    @property
    def job_nodes(self) -> int:
        return 1

    def default_jobs(self, rows: int, workers: int) -> tuple[int, str]:
        """Nodes x oversubscribe.

        >>> slurm_allocation(nodes=10, cores_per_node=196, oversubscribe=2).default_jobs(10**6, 196)
        (20, '20 jobs: 10 nodes x oversubscribe 2')
        """
        jobs = self.nodes * self.oversubscribe
        if self.oversubscribe == 1:
            return jobs, f"{counted(jobs, 'job')}: one on each of {counted(self.nodes, 'node')}"
        return (
            jobs,
            f"{jobs} jobs: {counted(self.nodes, 'node')} x oversubscribe {self.oversubscribe}",
        )

    def jobs_running(self, jobs: int) -> int:
        """As many as there are nodes, or as ``jobs_at_once`` lets.

        >>> slurm_allocation(nodes=10, cores_per_node=196, oversubscribe=2).jobs_running(20)
        10
        """
        return min(jobs, self.jobs_at_once or self.nodes)


def slurm(**options: Unpack[SlurmJobOptions]) -> Slurm:
    """Run on SLURM: each job is a task of a job array and has its chunks assigned at submit.

    Takes every field of :class:`flowdist.plan.Plan` and of :class:`Slurm`. Without ``by`` and
    without ``chunks_per_job`` or ``target_jobs``, a job has one row for each of its workers, and
    there are at most 100 jobs.

    Raises:
        PlanError, ResourceError: naming the field, the value and what is allowed.

    >>> slurm(by="subject", workers=8, memory="16GB", time="2h", partition="batch")
    slurm(by='subject', workers=8, memory='16 GiB', time='2 h', partition='batch')
    >>> slurm(extra={"mem": "4G"})
    Traceback (most recent call last):
    flowdist.errors.PlanError: slurm: extra={'mem': '4G'} is not allowed; give options other than
    'mem': use memory (of one job)
    """
    fields: dict[str, Any] = {**options}
    return Slurm(**fields)


def slurm_queue(
    *, nodes: int, cores_per_node: int | None = None, **options: Unpack[SlurmOptions]
) -> SlurmQueue:
    """Run on SLURM, in ``nodes`` jobs whose workers pull chunks from one queue.

    Uneven rows even out, a job that starts late or dies early takes part less, and none begins a
    chunk that its time limit would cut off. ``cores_per_node`` are the cores of each job; None:
    workers x cpus. The other options are those of :func:`slurm`.

    Raises:
        PlanError, ResourceError: naming the field, the value and what is allowed.

    >>> slurm_queue(nodes=4, cores_per_node=16, time="1h").describe(16)
    'slurm-queue, 16 processes, from a queue'
    """
    fields: dict[str, Any] = {"nodes": nodes, "cores_per_node": cores_per_node, **options}
    return SlurmQueue(**fields)


def slurm_allocation(
    *,
    nodes: int,
    cores_per_node: int,
    oversubscribe: int = 1,
    **options: Unpack[SlurmOptions],
) -> SlurmAllocation:
    """Fill ``nodes`` nodes of ``cores_per_node`` cores each; the rest is derived.

    There are nodes x oversubscribe jobs (``target_jobs`` sets another number), each on one node;
    as many run at a time as there are nodes. A job has cores_per_node / cpus workers. With
    ``oversubscribe`` above 1, jobs wait for those that end early, which evens uneven jobs out; with
    ``dispatch="queue"`` workers pull chunks instead. The other options are those of :func:`slurm`.

    Raises:
        PlanError, ResourceError: naming the field, the value and what is allowed.

    >>> plan = slurm_allocation(nodes=10, cores_per_node=196, oversubscribe=2, time="2h")
    >>> plan.worker_count(), plan.job_cpus(), plan.request()
    (196, 196, '196 cores, 2 h')
    """
    fields: dict[str, Any] = {
        "nodes": nodes,
        "cores_per_node": cores_per_node,
        "oversubscribe": oversubscribe,
        **options,
    }
    return SlurmAllocation(**fields)


def _resources(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The resources among fields, however they were given."""
    given = fields.get("resources") or {}
    whole = given.asked if isinstance(given, Resources) else given
    return {**whole, **{k: v for k, v in fields.items() if k in Resources.model_fields}}


def _plain(value: Any) -> Any:
    """A value as JSON would hold it, where it is one that a field may have."""
    if isinstance(value, Resources):
        return value.asked
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, timedelta):
        return parse_time(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def _after(name: str, error: PlanError) -> str:
    return str(error).removeprefix(f"{name}: ")
