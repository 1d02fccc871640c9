"""A launch as it is on Snowflake: whose connection, which stage, what its objects are called."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, cast

from flowdist.backends.base import Handle, JobState, Remark
from flowdist.backends.snowflake.plans import Spcs
from flowdist.backends.snowflake.spec import execute_job, object_name, specification
from flowdist.plan import Plan
from flowdist.resources import Resources
from flowdist.snowflake.connection import Client, SnowflakeError
from flowdist.snowflake.families import Family, family_named
from flowdist.snowflake.names import Name, Place, literal
from flowdist.snowflake.stage import Mirror, StageFolder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowdist.store import RunFiles

__all__ = ["NOT_STARTED", "RUNS_FOLDER", "Dispatch", "Remote", "Seen", "runs_place"]

RUNS_FOLDER = "runs"
"""The folder of a plan's stage that runs are in."""


@dataclass(frozen=True)
class Seen:
    """What Snowflake says of one job."""

    state: JobState
    message: str = ""
    exit_code: int | None = None
    # The job service that ran it and the instance there, for its log.
    service: str = ""
    instance: int = 0
    # Whether a last heartbeat is to be waited for where it is done.
    beats: bool = True


NOT_STARTED = Seen(JobState.CANCELLED, "was not started, as jobs of the rows have not succeeded")
"""A reduce whose rows are not all there."""


@dataclass
class Remote:
    """One launch of a run on Snowflake."""

    handle: Handle
    client: Client

    @property
    def files(self) -> RunFiles:
        return self.handle.files

    @property
    def attempt(self) -> int:
        return self.handle.attempt

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return self.files.manifest()

    @property
    def run_id(self) -> str:
        return str(self.manifest["id"])

    @cached_property
    def intent(self) -> dict[str, Any]:
        return self.files.read_json(self.files.intent(self.attempt)) or {}

    @property
    def row_jobs(self) -> list[int]:
        """The jobs of the rows in this launch, in the order of replicas."""
        return [int(job) for job in self.intent.get("jobs", ())]

    @property
    def reduce_jobs(self) -> list[int]:
        return [job for job in self.handle.jobs if job not in set(self.row_jobs)]

    @property
    def stopped(self) -> bool:
        """Whether the launch was asked to end."""
        return self.files.read_json(self.files.stop(self.attempt)) is not None

    @property
    def started(self) -> Mapping[str, Any]:
        return self.handle.started or {}

    @cached_property
    def plan(self) -> Spcs:
        return cast(Spcs, Plan.from_json(self.manifest["plan"]))

    # -- places and names

    @cached_property
    def runs(self) -> Place:
        """The folder of all runs on the stage: as it was when the run was submitted, whatever
        database the session of somebody else has.
        """
        known = self.files.read_json(self.files.REMOTE)
        return Place.parse(known["runs"]) if known else runs_place(self.plan, self.client)

    @cached_property
    def mirror(self) -> Mirror:
        """The run's directory here and there."""
        return Mirror(self.files, StageFolder(self.client, self.runs / self.run_id))

    def name(self, suffix: str = "") -> Name:
        """Of an object made for this launch, in the schema of the stage."""
        return self.runs.stage.beside(object_name(self.run_id, self.attempt, suffix))

    @property
    def comment(self) -> str:
        """What tells the objects of a run from others: every one of them has it."""
        return f"flowdist {self.run_id}"

    # -- what containers get

    @cached_property
    def family(self) -> Family | None:
        """What the nodes of the pool are."""
        if self.plan.family is not None:
            return self.plan.family
        pool = Name.parse(self.plan.compute_pool).last
        found = self.client.rows(f"SHOW COMPUTE POOLS LIKE {literal(pool)}")
        named = next((str(row["instance_family"]) for row in found if row["name"] == pool), "")
        return family_named(named)

    def spec(self, *args: str) -> dict[str, Any]:
        """The specification of a container that works on this launch."""
        scale = (self.intent.get("scale") or {}).get(self.manifest["phases"][0]["table"])
        resources: Resources = self.plan.resources.scale(**scale) if scale else self.plan.resources
        return specification(
            self.plan,
            ["container", *args],
            runs=self.runs,
            family=self.family,
            resources=resources,
        )

    def reduces_statement(self) -> str:
        """What runs the reduces of this launch as a job service of their own; its name is taken by
        whoever runs it first.
        """
        from flowdist.backends.snowflake.spec import RUNS

        spec = self.spec("reduces", RUNS, self.run_id, str(self.attempt))
        return execute_job(self.plan, spec, name=self.name("reduces"), comment=self.comment)


class Dispatch(Protocol):
    """How the jobs of a launch are started and asked about; one class for each kind of plan."""

    def starts_reduces(self, remote: Remote) -> bool:
        """Whether the job of the rows that ends last has to start the reduces."""

    def start(self, remote: Remote) -> dict[str, Any]:
        """Start the jobs; what to write down of it. What has been started is left alone."""

    def find(self, remote: Remote) -> dict[str, Any] | None:
        """What a process that died has started before it could write it down, by its name."""

    def ask(self, remote: Remote, known: Mapping[int, JobState]) -> dict[int, Seen]:
        """What Snowflake says of the jobs, by one statement; jobs it says nothing of are left out.
        `known` is what was seen of them before.
        """

    def late(self, remote: Remote) -> Sequence[str]:
        """What else of the results of a launch whose jobs have ended is not seen here yet, in
        words, besides what heartbeats tell.
        """

    def cancel(self, remote: Remote) -> None:
        """End what runs."""

    def ended(self, remote: Remote) -> None:
        """The launch has ended: remove what would otherwise start again, or cost."""

    def remove(self, remote: Remote) -> None:
        """Remove everything that was made for the launch, whatever state it is in."""

    def remarks(self, remote: Remote, states: Mapping[int, JobState]) -> Sequence[Remark]:
        """What there is to say of jobs that wait or have ended badly."""


def runs_place(plan: Spcs, client: Client) -> Place:
    """The folder of runs on the plan's stage, with its full name."""
    place = client.full_place(Place.parse(plan.stage))
    if len(place.stage.parts) < 3:
        raise SnowflakeError(
            f"stage={plan.stage!r} has no database or schema, and neither has the session; write "
            "database.schema.stage"
        )
    return place / RUNS_FOLDER
