"""The seam between a run and what starts its jobs.

A backend starts jobs, says how they are, ends them, and finds their logs. It does not know what a
row is. Others can add one without touching this package: a class with these methods, named by an
entry point of the group ``flowdist.backends``, and a plan class entered in `flowdist.plan.PLANS`
under the same name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from flowdist.errors import BackendError, nearest

if TYPE_CHECKING:
    from flowdist.plan import Plan, PlanSummary
    from flowdist.preflight import Check
    from flowdist.store import RunFiles


GROUP = "flowdist.backends"


class JobState(Enum):
    """How a job is. Values are for people and JSON; `rank` gives the order."""

    UNKNOWN = "unknown"
    """The scheduler did not answer. Never taken for an end."""
    PENDING = "pending"
    """Submitted, not started."""
    RUNNING = "running"
    """Started, and heard of."""
    DONE = "done"
    """Ended by itself, with everything it was given committed."""
    FAILED = "failed"
    """Ended by an error of its own: the flow could not be loaded, the disk was full."""
    TIMEOUT = "timeout"
    """Ended at its time limit."""
    OUT_OF_MEMORY = "out of memory"
    """Ended for using more memory than it asked for."""
    PREEMPTED = "preempted"
    """Ended to make room for others."""
    NODE_FAIL = "node failed"
    """Its machine went away."""
    CANCELLED = "cancelled"
    """Ended because somebody asked for it."""
    LOST = "lost"
    """Ended without a word: its process is gone and left no result."""

    @property
    def ended(self) -> bool:
        return self not in (JobState.UNKNOWN, JobState.PENDING, JobState.RUNNING)

    @property
    def rank(self) -> int:
        return {JobState.UNKNOWN: 0, JobState.PENDING: 1, JobState.RUNNING: 2}.get(self, 3)

    def after(self, polled: JobState) -> JobState:
        """The state to believe once `polled` was seen: a late poll never moves a job backwards.

        >>> JobState.DONE.after(JobState.RUNNING), JobState.PENDING.after(JobState.UNKNOWN)
        (<JobState.DONE: 'done'>, <JobState.PENDING: 'pending'>)
        """
        return polled if polled.rank > self.rank else self


@dataclass(frozen=True)
class Handle:
    """One launch of a run's jobs, as its backend knows it.

    Attributes:
        files: the run's.
        attempt: the number of the launch.
        jobs: the numbers of the jobs it starts.
        started: what the backend recorded when it started them (process or scheduler ids); None
            where it has not, or died before it could.
    """

    files: RunFiles
    attempt: int
    jobs: Sequence[int]
    started: Mapping[str, Any] | None = field(default=None)

    @cached_property
    def beats(self) -> dict[int, dict[str, Any]]:
        """The heartbeats of the launch by job, read once: a handle is of one moment."""
        return {who.job: beat for who, beat in self.files.beats(self.attempt)}


@dataclass(frozen=True)
class Remark:
    """One thing that a backend knows about jobs: `kind` and `data` for programs, `text` for
    people, `advice` where something can be done about it.
    """

    kind: str
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)
    advice: str = ""


class Backend(Protocol):
    """What starts jobs. Methods raise `BackendError` with the scheduler's own words where it
    refuses.
    """

    def check(self, plan: Plan, summary: PlanSummary, *, brief: bool = False) -> list[Check]:
        """Preflight: what would keep this plan from running here, or surprise its user; `brief`
        leaves out what takes long and keeps nothing from running.
        """

    def launch(self, handle: Handle) -> Handle:
        """Start the jobs; returns at once. The intent is on disk already."""

    def poll(self, handle: Handle) -> dict[int, JobState]:
        """The state of every job, with at most one question to the scheduler."""

    def ending(
        self, handle: Handle, states: Mapping[int, JobState]
    ) -> tuple[Literal["stopped", "failed", "lost"], str]:
        """What became of a launch that has ended with work left, in a sentence without its full
        stop; an empty one where the jobs themselves have said why.
        """

    def remarks(self, handle: Handle, states: Mapping[int, JobState]) -> list[Remark]:
        """What the scheduler has to say about jobs that wait or have ended badly, for explain."""

    def fetch(self, handle: Handle, artifact: str | None = None) -> None:
        """Bring what jobs have written so far into the run's directory, where it is not there by
        itself; or one artifact, by its name there.
        """

    def firings(self, handle: Handle) -> list[Path]:
        """The directories of the runs that the schedule of this one has started, oldest first."""

    def cancel(self, handle: Handle) -> None:
        """Ask all jobs to end; they commit what they have."""

    def logs(self, handle: Handle, job: int | None) -> list[Path]:
        """Where the output of one job, or of all, is."""

    def delete(self, handle: Handle) -> None:
        """Remove what a launch that has ended has left elsewhere than in the run's directory."""

    def close(self) -> None:
        """Free what the backend holds; running jobs are not touched."""


# The backends of this package; others are found by entry point.
_OWN = {
    "local": "flowdist.backends.local:LocalBackend",
    "slurm": "flowdist.backends.slurm.backend:SlurmBackend",
    "spcs": "flowdist.backends.snowflake.backend:SnowflakeBackend",
}


def backend_named(kind: str) -> Backend:
    """The backend for a kind of plan.

    Raises:
        BackendError: nothing installed provides it.
    """
    made: Backend = _backend_class(kind)()
    return made


@cache
def _backend_class(kind: str) -> type[Backend]:
    entries = {name: EntryPoint(name, place, GROUP) for name, place in _OWN.items()}
    if kind not in entries:
        entries |= {entry.name: entry for entry in entry_points(group=GROUP)}
    entry = entries.get(kind) or entries.get(kind.partition("-")[0])
    if entry is None:
        raise BackendError(
            f"no backend is installed for plans of kind '{kind}'{nearest(kind, entries)} "
            f"(there are: {', '.join(sorted(entries))})"
        )
    found: type[Backend] = entry.load()
    return found
