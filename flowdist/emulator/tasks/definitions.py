"""Tasks as the catalog keeps them, and the graphs that they form.

The ``data`` of a task: `id`, `state` ("started" or "suspended"), `definition`, `condition`,
`predecessors` (names), `finalizes` (a name), `warehouse`, `schedule`, `config`, `overlap`,
`timeout_ms`, `suspend_after`, `retries`, `parameters` (of the session it runs in), `options` (kept
to be shown), `committed_on`, `suspended_on`, `suspended_reason`; for roots also `version`,
`modified` (since that version), `base` (from when its interval counts), `failures` (in a row).
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from flowdist.emulator.catalog import Object
from flowdist.emulator.names import FullName
from flowdist.emulator.tasks import graph
from flowdist.emulator.tasks.graph import Node, Nodes
from flowdist.emulator.tasks.runs import Member, Version

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["DEFAULTS", "Definitions", "is_root", "new_data"]

DEFAULTS: dict[str, Any] = {
    "condition": None,
    "predecessors": [],
    "finalizes": None,
    "warehouse": None,
    "schedule": None,
    "config": None,
    "overlap": "NO_OVERLAP",
    "timeout_ms": None,
    "suspend_after": None,
    "retries": None,
    "parameters": {},
    "options": {},
}
"""What a statement may set, as it is where nothing is set."""

STATEMENT_FAILURES = 10
"""Failed runs in a row after which a root is suspended, where nothing is said."""


def is_root(task: Object) -> bool:
    """Whether a task stands alone or begins a graph."""
    return not task.data["predecessors"] and task.data["finalizes"] is None


class Definitions:
    """What the statements on tasks have in common; callers hold the catalog's lock."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._nodes: dict[tuple[str, str], tuple[tuple[int, int], Nodes]] = {}
        self._relinked = 0

    def nodes(self, database: str, schema: str) -> Nodes:
        """The tasks of a schema as nodes of graphs."""
        stamp = (self._account.catalog.version, self._relinked)
        known = self._nodes.get((database, schema))
        if known is None or known[0] != stamp:
            made = Nodes(
                (task.name, Node(tuple(task.data["predecessors"]), task.data["finalizes"]))
                for task in self._account.catalog.all("task", database, schema)
            )
            known = self._nodes[database, schema] = stamp, made
        return known[1]

    def update(self, task: Object, *, comment: str | None = None, **data: Any) -> None:
        """Change a task; what it is linked to is read anew."""
        self._account.catalog.update(task, comment=comment, **data)
        if "predecessors" in data or "finalizes" in data:
            self._relinked += 1

    def task(self, beside: Object, name: str) -> Object:
        """The task of that name in the same schema."""
        return self._account.catalog.require("task", FullName(beside.database, beside.schema, name))

    def find_by_id(self, identity: str) -> Object | None:
        """The task that has this id, unless it was dropped or replaced."""
        tasks = self._account.catalog.all("task")
        return next((task for task in tasks if task.data["id"] == identity), None)

    def roots(self, task: Object) -> list[Object]:
        """The roots of the graphs that a task belongs to; of a root, itself."""
        if is_root(task):
            return [task]
        nodes = self.nodes(task.database, task.schema)
        return [self.task(task, name) for name in nodes.roots(task.name)]

    def members(self, task: Object) -> list[Object]:
        """A task and all that comes after it, nearer ones first, last the finalizer."""
        nodes = self.nodes(task.database, task.schema)
        return [self.task(task, name) for name in nodes.members(task.name)]

    def require_suspended(self, *tasks: Object) -> None:
        """Refuse to change what belongs to a graph whose root is started."""
        for task in tasks:
            for root in self.roots(task):
                if root.data["state"] == "started":
                    raise graph.not_suspended(root.full_name)

    def mark(self, *tasks: Object) -> None:
        """Note that graphs were modified, so that their next run has a new version."""
        for task in tasks:
            for root in self.roots(task):
                if not root.data["modified"]:
                    self._account.catalog.update(root, modified=True)

    def suspend(self, task: Object, reason: str) -> None:
        """Suspend a task for one of the reasons that SHOW TASKS has."""
        now = self._account.clock.time()
        self._account.catalog.update(
            task, state="suspended", suspended_on=now, suspended_reason=reason
        )

    def commit(self, root: Object) -> Version:
        """The version of a graph to run: a new one if it was modified since the last."""
        data = root.data
        known = self._account.tasks.store.version(data["id"], data["version"])
        if known is not None and not data["modified"]:
            return known
        members = self.members(root)
        nodes = self.nodes(root.database, root.schema)
        graph.one_root(nodes, [m.name for m in members], root.full_name)
        finalizer = nodes.finalizers.get(root.name)
        made = Version(
            root_id=data["id"],
            number=data["version"] + 1,
            root=root.name,
            database=root.database,
            schema=root.schema,
            owner=root.owner,
            config=data["config"],
            retries=data["retries"] or 0,
            suspend_after=_or(data["suspend_after"], STATEMENT_FAILURES),
            finalizer=finalizer,
            members={m.name: _member(m) for m in members},
        )
        self._account.tasks.store.keep_version(made)
        now = self._account.clock.time()
        self._account.catalog.update(root, version=made.number, modified=False, committed_on=now)
        for member in members[1:]:
            self._account.catalog.update(member, committed_on=now)
        return made

    def sever(self, task: Object) -> None:
        """Cut what hangs from a task that goes: its children and its finalizer."""
        for other in self._account.catalog.all("task", task.database, task.schema):
            self._unlink(other, task)

    def part(self, tasks: list[Object]) -> None:
        """Cut the links of tasks that have changed hands to those of another owner."""
        for task in tasks:
            for other in self._account.catalog.all("task", task.database, task.schema):
                if other.owner != task.owner:
                    self._unlink(other, task)
                    self._unlink(task, other)
        if tasks:
            self._account.tasks.changed.set()

    def _unlink(self, task: Object, other: Object) -> None:
        """Let a task no more come after another, nor be its finalizer."""
        predecessors = task.data["predecessors"]
        if other.name in predecessors:
            left = [name for name in predecessors if name != other.name]
            self.update(task, predecessors=left, modified=True)
            if not left:
                self.suspend(task, "CHILD_BECAME_ROOT")
        elif task.data["finalizes"] == other.name:
            self.update(task, finalizes=None, modified=True)
            self.suspend(task, "FINALIZER_BECAME_ROOT")


def new_data() -> dict[str, Any]:
    """What a task has that no statement sets, as it begins."""
    return {
        "id": str(uuid.uuid4()),
        "state": "suspended",
        "committed_on": None,
        "suspended_on": None,
        "suspended_reason": None,
        "version": 0,
        "modified": True,
        "base": 0.0,
        "failures": 0,
    }


def _member(task: Object) -> Member:
    data = task.data
    timeout = data["timeout_ms"]
    return Member(
        name=task.name,
        definition=data["definition"],
        condition=data["condition"],
        predecessors=tuple(data["predecessors"]),
        started=data["state"] == "started",
        warehouse=data["warehouse"],
        parameters=data["parameters"],
        timeout=None if timeout is None else (timeout or 604_800_000) / 1000,
    )


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
