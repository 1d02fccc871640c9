"""What a run of a task graph consists of, as plain data.

A graph runs as it was when its root was resumed or executed: all of it is in a :class:`Version`,
which does not change when the tasks do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from flowdist.emulator.names import FullName
from flowdist.emulator.queries import Query

__all__ = ["DEFAULT_TIMEOUT", "GraphRun", "Member", "Run", "State", "Version"]

DEFAULT_TIMEOUT = 3600.0
"""Seconds that the run of one task may take where nothing else is said."""


class State(StrEnum):
    """As TASK_HISTORY has them."""

    SCHEDULED = "SCHEDULED"
    EXECUTING = "EXECUTING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    FAILED_AND_AUTO_SUSPENDED = "FAILED_AND_AUTO_SUSPENDED"
    CANCELLED = "CANCELLED"
    SKIPPED = "SKIPPED"


@dataclass(frozen=True)
class Member:
    """A task of a version of a graph. ``timeout`` is its own, in seconds, if it has one."""

    name: str
    definition: str
    condition: str | None
    predecessors: tuple[str, ...]
    started: bool
    warehouse: str | None
    parameters: dict[str, Any]
    timeout: float | None


@dataclass(frozen=True)
class Version:
    """A graph as it was at a moment; ``root_id`` is the id that SHOW TASKS gives for its root.

    ``suspend_after`` and ``retries`` are numbers of failed runs and of further attempts.
    """

    root_id: str
    number: int
    root: str
    database: str
    schema: str
    owner: str
    config: str | None
    retries: int
    suspend_after: int
    finalizer: str | None
    members: dict[str, Member]
    """By name, the finalizer among them."""

    @property
    def place(self) -> FullName:
        """The full name of the root."""
        return FullName(self.database, self.schema, self.root)

    @property
    def children(self) -> dict[str, list[str]]:
        """Which tasks come directly after each; without the finalizer."""
        found: dict[str, list[str]] = {name: [] for name in self.members}
        for member in self.members.values():
            for predecessor in member.predecessors:
                found[predecessor].append(member.name)
        return found


@dataclass
class Run:
    """One run of one task. Times are Unix time in seconds."""

    id: int
    task: str
    scheduled: float
    state: State = State.EXECUTING
    query: Query | None = None
    query_id: str | None = None
    started: float | None = None
    completed: float | None = None
    error_code: int | None = None
    error: str | None = None
    returned: str | None = None
    job: int | None = None
    deadline: float | None = None
    timed_out: float | None = None
    """The time limit in seconds that the run has exceeded."""
    cancelled: bool = False
    lost: bool = False
    """The server ended while the run went on: a failure that is not the task's own."""


@dataclass
class GraphRun:
    """One attempt to run a graph.

    ``run_group`` is common to all attempts; ``original`` is when the first of them was scheduled.
    ``carried`` are the states of tasks that an earlier attempt has settled.
    """

    id: int
    run_group: str
    attempt: int
    version: Version
    config: str | None
    scheduled_from: str
    scheduled: float
    original: float
    last_group: str | None = None
    last_scheduled: float | None = None
    started: float | None = None
    state: State = State.EXECUTING
    completed: float | None = None
    carried: dict[str, State] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    returned: dict[str, str] = field(default_factory=dict)
    """Return values by task, of this attempt and those before."""
    missing: dict[str, int] = field(default_factory=dict)
    """How many predecessors of a task are not settled yet."""
    blocked: set[str] = field(default_factory=set)
    """Tasks that will not run, since a predecessor did not succeed."""
    children: dict[str, list[str]] = field(default_factory=dict)
    executing: int = 0
    finalizing: bool = False

    @property
    def run_id(self) -> int:
        """RUN_ID of the history: when the first attempt was scheduled, in milliseconds."""
        return round(self.original * 1000)
