"""Plans: where and how a flow runs.

A plan is a frozen, validated description: which backend (``kind``), how rows become chunks and
jobs, how many workers a job has, and what a job may use. It starts nothing. The arithmetic over a
grid is in :mod:`flowdist.layout`, what the two amount to for a reader in :mod:`flowdist.summary`.
Every other kind of plan lives with its backend, which enters the class in :data:`PLANS`.
"""

from __future__ import annotations

import importlib
import operator
import os
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal, Self, TypedDict, Unpack

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from flowdist.cost import Cost, Estimate
from flowdist.errors import FlowdistError, PlanError, nearest
from flowdist.machine import cores_available
from flowdist.resources import (
    Resources,
    format_memory,
    format_time,
    parse_memory,
    parse_time,
)
from flowdist.summary import PlanSummary, summarize

__all__ = [
    "PLANS",
    "Local",
    "Plan",
    "PlanOptions",
    "PlanSummary",
    "local",
    "plan_of",
    "profile",
    "summarize",
]

Within = Literal["processes", "sequential", "threads", "subprocess"]
Dispatch = Literal["static", "queue"]

# One and many of what a worker is.
_WORKERS: Mapping[str, tuple[str, str]] = {
    "processes": ("process", "processes"),
    "threads": ("thread", "threads"),
    "subprocess": ("subprocess", "subprocesses"),
    "sequential": ("one row at a time", "one row at a time"),
}


def _count(value: object) -> int:
    text = isinstance(value, str) and value.strip().isdecimal()  # from the environment
    try:
        number = int(str(value)) if text else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ValueError("a whole number of 1 or more, or None")
    return number


def _columns(value: object) -> tuple[str, ...]:
    names = () if value is None else (value,) if isinstance(value, str) else value
    columns = tuple(names) if isinstance(names, Iterable) else (names,)
    named = all(isinstance(name, str) and name for name in columns)
    if named and len(set(columns)) == len(columns):
        return columns
    raise ValueError("a column name, a list of different column names, or None")


def _path(value: object) -> str:
    if isinstance(value, (str, os.PathLike)) and (path := os.fspath(value)):
        return str(path)
    raise ValueError("a path, or None")


def _seconds(value: object) -> int:
    try:
        return parse_time(value)  # type: ignore[arg-type]
    except FlowdistError as error:
        raise ValueError(str(error)) from None


Count = Annotated[int, BeforeValidator(_count)]
Seconds = Annotated[int, BeforeValidator(_seconds)]
Columns = Annotated[tuple[str, ...], BeforeValidator(_columns)]
PathText = Annotated[str, BeforeValidator(_path)]


class PlanOptions(TypedDict, total=False):
    """The keywords that every plan's constructor takes; :class:`Plan` says what they mean."""

    by: str | Sequence[str] | None
    rows_per_chunk: int | None
    chunks_per_job: int | None
    target_jobs: int | None
    workers: int | None
    within: Within
    dispatch: Dispatch
    resources: Resources
    cpus: int | None
    memory: str | int | None
    time: str | int | timedelta | None
    gpus: int | None
    root: str | os.PathLike[str] | None
    threads_per_worker: int | None
    fail_fast: bool
    max_failures: int | None
    time_budget: str | int | timedelta | None


class Plan(BaseModel):
    """What all plans have in common; people make one with a constructor such as :func:`local`.

    Fields:
        by: columns whose values make a group; a chunk never spans two groups.
        rows_per_chunk: at most this many rows in a chunk. None: a whole group, or one row where
            ``by`` is empty.
        chunks_per_job: this many chunks in each job.
        target_jobs: this many jobs, whose chunk counts differ by at most one. Not together with
            ``chunks_per_job``.
        workers: how many run at once in a job. None: as many as its cores allow at ``cpus`` each.
        within: what a worker is: a process of a pool ("processes") or a thread ("threads"), which
            share the rows of the job; a fresh process for each chunk ("subprocess"); or one
            process that runs one row after another ("sequential").
        dispatch: "static" assigns chunks to jobs at submit; with "queue" workers claim chunks when
            they are ready.
        resources: ``cpus`` of one worker; ``memory`` (bytes), ``time`` (seconds) and ``gpus`` of
            one job. The constructor also takes the four directly; they win over ``resources``.
        root: the directory of runs. None: $FLOWDIST_ROOT, or ./.flowdist/runs.
        threads_per_worker: BLAS and OpenMP threads of a worker. None: the job's cores shared out
            among its workers.
        fail_fast: stop the run at the first failed row.
        max_failures: stop the run once this many rows have failed; what is in work meanwhile may
            add to them.
        time_budget: so long after its launch no row of the run is begun any more, as in "30min";
            what is in work then is run to its end.

    Raises:
        PlanError: naming the field, the value and what is allowed.
        ResourceError: the same for a resource.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    here: ClassVar[bool] = False
    """Whether jobs run on the machine that submits, so that its cores and memory count."""

    phased: ClassVar[bool] = False
    """Whether stages with needs of their own, and reduces, get jobs of their own."""

    knows_jobs: ClassVar[bool] = False
    """Whether :meth:`default_jobs` is asked also where each group could have a job."""

    takes_feeds: ClassVar[bool] = False
    """Whether rows can be added to a run while its workers run."""

    queues_elsewhere: ClassVar[bool] = False
    """Whether chunks wait where the backend keeps them, and not in the run's directory."""

    kind: str
    by: Columns = ()
    rows_per_chunk: Count | None = None
    chunks_per_job: Count | None = None
    target_jobs: Count | None = None
    workers: Count | None = None
    within: Within = "processes"
    dispatch: Dispatch = "static"
    resources: Resources = Resources()
    root: PathText | None = None
    threads_per_worker: Count | None = None
    fail_fast: bool = False
    max_failures: Count | None = None
    time_budget: Seconds | None = None

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            kind = type(self).model_fields["kind"].default
            name = _constructor(kind) if isinstance(kind, str) else "plan"
            known = [*_own_fields(type(self)), *Resources.model_fields]
            problems = (f"{name}: {_sentence(problem, known)}" for problem in error.errors())
            raise PlanError("\n".join(problems)) from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise PlanError(
            f"{_constructor(self.kind)}: a plan does not change; make another, as in "
            f"flow.distribute(plan, {name}={value!r})"
        )

    @model_validator(mode="before")
    @classmethod
    def _gather_resources(cls, fields: dict[str, Any]) -> dict[str, Any]:
        direct = {name: fields[name] for name in Resources.model_fields if name in fields}
        given = {} if fields.get("resources") is None else fields["resources"]
        if not isinstance(given, (Resources, Mapping)):
            return fields  # for the field's own check to refuse
        asked = given.asked if isinstance(given, Resources) else given
        rest = {name: value for name, value in fields.items() if name not in direct}
        return {**rest, "resources": Resources(**{**asked, **direct})}

    @model_validator(mode="after")
    def _one_job_count(self) -> Self:
        if self.chunks_per_job is not None and self.target_jobs is not None:
            raise PlanError(
                f"{_constructor(self.kind)}: chunks_per_job={self.chunks_per_job} and "
                f"target_jobs={self.target_jobs} both say how many jobs there are; "
                "give one of them and leave the other None"
            )
        return self

    # What a kind of plan may know better ---------------------------------------------------------

    def default_jobs(self, rows: int, workers: int) -> tuple[int, str]:
        """How many jobs where the plan does not say, and the sentence that tells the user why.

        Asked where there is no ``by``, for a queue, in which no chunk belongs to a job, and where
        the plan ``knows_jobs``.

        >>> local().default_jobs(rows=1000, workers=2)
        (1, 'one job: this machine runs all rows in one pool')
        """
        return 1, "one job: neither chunks_per_job nor target_jobs is given"

    def jobs_running(self, jobs: int) -> int:
        """How many of ``jobs`` run at the same time, as far as the plan decides that.

        >>> local().jobs_running(8), local(jobs_at_once=4).jobs_running(8)
        (1, 4)
        """
        return jobs

    def job_cores(self, cores: int | None = None) -> int:
        """How many of ``cores`` (None: those this process may use) one job has; at least 1.

        >>> local(jobs_at_once=4).job_cores(16)
        4
        """
        return cores or cores_available()

    def for_stage(self, name: str, needs: Resources | None = None) -> Plan:
        """The plan of the jobs that run one stage, of which a row needs ``needs``."""
        return self

    def shrunk(self, workers: int) -> Plan:
        """The plan for jobs that have a use for only so many workers.

        >>> local(workers=8).shrunk(2)
        local(workers=2)
        """
        return plan_of(self, workers=workers)

    def cores_held(self, workers: int) -> int:
        """Cores that one job with so many workers takes up while it runs.

        >>> local(cpus=2).cores_held(workers=4)
        8
        """
        return workers * self.cpus_per_worker

    @property
    def sized_at_start(self) -> bool:
        """Whether only a job's start tells how many cores, and so workers, it has."""
        return False

    def workers_note(self, workers: int) -> str:
        """How the number of workers of a job came about; empty where there is nothing to tell."""
        return ""

    def request(self) -> str:
        """What one job asks its scheduler for, in words; empty where there is none."""
        return ""

    def check_stages(self, stages: Sequence[str]) -> None:
        """Refuse what the plan says of stages that the flow, with ``stages``, does not have."""

    def cautions(self, summary: PlanSummary) -> Iterable[str]:
        """What only this kind of plan has to warn of, over the grid that ``summary`` is about."""
        return ()

    def estimate(self, summary: PlanSummary) -> Estimate | None:
        """What the jobs are likely to take, where compute is paid for; None elsewhere."""
        return None

    def cost(self, lives: Iterable[tuple[float, float]]) -> Cost | None:
        """What jobs have taken that lived from one moment to another, in seconds, where compute is
        paid for; None elsewhere.
        """
        return None

    def traces(self, run_id: str, launches: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        """Where a run is to be seen in the world of its backend, by what it is, for its report;
        ``launches`` is what the backend has written down of each.
        """
        return {}

    # What follows from the fields ----------------------------------------------------------------

    def worker_count(self, cores: int | None = None) -> int:
        """How many workers a job has, by :meth:`job_cores` where the plan leaves it open.

        >>> local(workers=3).worker_count(), local(cpus=4).worker_count(cores=16)
        (3, 4)
        """
        if self.within == "sequential":
            return 1
        if self.workers is not None:
            return self.workers
        return max(1, self.job_cores(cores) // self.cpus_per_worker)

    @property
    def cpus_per_worker(self) -> int:
        """Cores that one worker, and so one row at a time, is meant to keep busy."""
        return self.resources.cpus or 1

    @property
    def failure_limit(self) -> int | None:
        """How many failed rows stop the run; None: however many fail, the others run.

        >>> local(fail_fast=True).failure_limit, local().failure_limit
        (1, None)
        """
        return 1 if self.fail_fast else self.max_failures

    def threads(self, cores: int | None = None) -> int:
        """How many BLAS and OpenMP threads each worker may use: a fair share of the job's cores.

        >>> local(workers=4).threads(cores=16), local(threads_per_worker=1).threads(cores=16)
        (4, 1)
        """
        share = max(1, self.job_cores(cores) // self.worker_count(cores))
        return self.threads_per_worker or share

    def describe(self, workers: int | None = None) -> str:
        """The plan in a few words; ``workers`` fills in the count where the plan leaves it open.

        >>> local(workers=2, by="tailnum").describe()
        'local, 2 processes, by tailnum'
        """
        count = workers or self.workers
        said = [self.kind, _WORKERS[self.within][count != 1]]
        if count and self.within != "sequential":
            said[1] = f"{count} {said[1]}"
        if self.dispatch == "queue":
            said.append("from a queue")
        if self.by:
            said.append(f"by {', '.join(self.by)}")
        return ", ".join(said)

    def to_json(self) -> dict[str, Any]:
        """The plan as a dict that JSON holds; what is None is left out.

        >>> local(by="subject", memory="8GB").to_json()["resources"]
        {'memory': 8589934592}
        """
        # With the defaults: a later version may choose others, and a run keeps the plan it has.
        return self.model_dump(mode="json", exclude_none=True)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Plan:
        """The plan that :meth:`to_json` wrote, of whatever kind it is.

        Raises:
            PlanError: no such kind, or a field that does not fit it.

        >>> Plan.from_json({"kind": "local", "by": ["subject"], "resources": {"memory": "8GB"}})
        local(by='subject', memory='8 GiB')
        """
        return _build(dict(data))

    def __repr_name__(self) -> str:
        return _constructor(self.kind)

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        """The arguments that make this plan, for ``repr`` and for rich."""
        for name in _own_fields(type(self)):
            value = getattr(self, name)
            if name == "resources":
                yield from ((n, _readable(n, v)) for n, v in self.resources.asked.items())
            elif value != type(self).model_fields[name].default:
                one_column = name == "by" and len(value) == 1
                yield name, value[0] if one_column else _shown(value)

    def __str__(self) -> str:
        return repr(self)


class LocalOptions(PlanOptions, total=False):
    """The keywords of :func:`local`."""

    jobs_at_once: int | None


class Local(Plan):
    """Jobs on this machine, made by :func:`local`.

    ``jobs_at_once``: how many run side by side. None: one, or all of them where they share a queue.
    """

    here: ClassVar[bool] = True

    kind: Literal["local"] = "local"
    jobs_at_once: Count | None = None

    def default_jobs(self, rows: int, workers: int) -> tuple[int, str]:
        if self.jobs_at_once and self.jobs_at_once > 1:
            return self.jobs_at_once, f"{self.jobs_at_once} jobs: as many as jobs_at_once lets run"
        return 1, "one job: this machine runs all rows in one pool"

    def jobs_running(self, jobs: int) -> int:
        return min(jobs, self.jobs_at_once or (jobs if self.dispatch == "queue" else 1))

    def job_cores(self, cores: int | None = None) -> int:
        side_by_side = self.jobs_running(self.target_jobs or self.jobs_at_once or 1)
        return max(1, super().job_cores(cores) // side_by_side)


class _Kinds(MutableMapping[str, type[Plan]]):
    """Classes of plans by kind; one that lives with its backend is imported when asked for."""

    def __init__(self, homes: Mapping[str, type[Plan] | str]) -> None:
        self._homes = dict(homes)

    def __getitem__(self, kind: str) -> type[Plan]:
        home = self._homes[kind]
        if isinstance(home, str):
            module, _, name = home.partition(":")
            home = self._homes[kind] = getattr(importlib.import_module(module), name)
        return home

    def __contains__(self, kind: object) -> bool:
        return kind in self._homes

    def __setitem__(self, kind: str, plan: type[Plan]) -> None:
        self._homes[kind] = plan

    def __delitem__(self, kind: str) -> None:
        del self._homes[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)


_SLURM = "flowdist.backends.slurm.plans"
_SPCS = "flowdist.backends.snowflake.plans"

PLANS: MutableMapping[str, type[Plan]] = _Kinds(
    {
        "local": Local,
        "slurm": f"{_SLURM}:Slurm",
        "slurm-queue": f"{_SLURM}:SlurmQueue",
        "slurm-allocation": f"{_SLURM}:SlurmAllocation",
        "spcs-tasks": f"{_SPCS}:SpcsTasks",
        "spcs-jobs": f"{_SPCS}:SpcsJobs",
        "spcs-queue": f"{_SPCS}:SpcsQueue",
    }
)
"""The kinds of plan by name; a backend's package adds its own."""


def local(**options: Unpack[LocalOptions]) -> Local:
    """Run on this machine; a submitted run goes on when the Python process ends.

    Takes every field of :class:`Plan`, the resources ``cpus``, ``memory``, ``time`` and ``gpus``
    directly, and ``jobs_at_once``: how many jobs run side by side. None: one, or all of them with
    ``dispatch="queue"``.

    Raises:
        PlanError, ResourceError: naming the field, the value and what is allowed.

    >>> local(by="subject", workers=2, memory="8GB")
    local(by='subject', workers=2, memory='8 GiB')
    >>> local(worker=2)
    Traceback (most recent call last):
    flowdist.errors.PlanError: local: there is no field 'worker'; did you mean 'workers'?
    """
    fields: dict[str, Any] = {**options}
    return Local(**fields)


def profile(name: str, **overrides: Any) -> Plan:
    """The plan that a named profile describes, with ``overrides`` in place of its fields.

    Raises:
        ProfileError: no such profile, or its file cannot be read.
        PlanError, ResourceError: its fields, or the overrides, make no plan.

    >>> profile("small", by="subject").describe()
    'local, one row at a time, by subject'
    """
    from flowdist.profiles import resolve

    try:
        return _build(dict(resolve(name, overrides).fields))
    except PlanError as error:
        raise PlanError(f"profile '{name}': {error}") from None


def plan_of(plan: Plan | str, **overrides: Any) -> Plan:
    """A plan from a plan or the name of a profile, with ``overrides`` in place of its fields.

    >>> plan_of(local(by="subject"), workers=2)
    local(by='subject', workers=2)
    """
    if isinstance(plan, str):
        return profile(plan, **overrides)
    if not isinstance(plan, Plan):
        raise PlanError(
            f"{plan!r} is not a plan; "
            "give what a constructor such as local() returns, or the name of a profile"
        )
    return type(plan)(**{**dict(plan), **overrides}) if overrides else plan


def _build(fields: dict[str, Any]) -> Plan:
    kind = fields.get("kind", "local")
    if kind not in PLANS:
        help_ = nearest(str(kind), PLANS) or f"; the kinds are {', '.join(PLANS)}"
        raise PlanError(f"there is no plan of kind {kind!r}{help_}")
    return PLANS[kind](**fields)


# What others call it, and what is no matter of a plan.
_ELSEWHERE: Mapping[str, str] = {
    "mem": "memory",
    "mem_gb": "memory, as in memory='8GB'",
    "timeout_min": "time, as in time='90min'",
    "walltime": "time",
    "cpus_per_task": "cpus, of one worker, or cores_per_node, of one job",
    "cores": "cpus, of one worker, or cores_per_node, of one job",
    "processes": "workers",
    "tasks_per_node": "workers",
    "gpus_per_node": "gpus",
    "queue": "partition",
    "project": "account",
    "slurm_partition": "partition",
    "slurm_account": "account",
    "retry": "the flow's or a stage's: flow(..., retry=...)",
    "timeout": "a stage's: .stage(..., timeout=...); a job's is time",
}

# Pydantic's kinds of error, for which its own words would not say what to give instead.
_GIVE: Mapping[str, str] = {
    "bool_parsing": "True or False",
    "bool_type": "True or False",
    "model_type": "Resources(...) or a dict of cpus, memory, time, gpus",
    "string_type": "a string",
}


def _sentence(problem: Any, known: Sequence[str]) -> str:
    """One sentence for one of pydantic's errors: the field, the value, what is allowed."""
    field, value = ".".join(map(str, problem["loc"][:1])), problem["input"]
    context = problem.get("ctx", {})
    if problem["type"] == "extra_forbidden" and field in _ELSEWHERE:
        return f"there is no field '{field}'; here it is {_ELSEWHERE[field]}"
    if problem["type"] == "extra_forbidden":
        help_ = nearest(field, known) or f"; the fields are {', '.join(known)}"
        return f"there is no field '{field}'{help_}"
    if problem["type"] == "missing":
        return f"{field} is missing"
    if problem["type"] == "literal_error":
        return f"{field}={value!r} is not allowed; give {context['expected']}"
    give = str(context["error"]) if "error" in context else _GIVE.get(problem["type"])
    return f"{field}={value!r} is not allowed; " + (f"give {give}" if give else problem["msg"])


def _own_fields(plan: type[Plan]) -> list[str]:
    return [name for name in plan.model_fields if name != "kind"]


def _constructor(kind: str) -> str:
    return str(kind).replace("-", "_")


def _shown(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _readable(resource: str, value: int) -> str | int:
    """A resource as people write it, unless that would round it."""
    if resource == "memory" and value and parse_memory(text := format_memory(value)) == value:
        return text
    return format_time(value) if resource == "time" else value
