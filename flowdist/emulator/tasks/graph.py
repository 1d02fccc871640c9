"""The rules of task graphs, on names alone: what follows what, and what a graph may look like.

Limits and rules are those of CREATE TASK; the words of the refusals are Snowflake's where they are
known. A graph is seen as the tasks of one schema, since all of its tasks live in one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

from flowdist.emulator.errors import SqlError
from flowdist.emulator.names import FullName

__all__ = [
    "MOST_CHILDREN",
    "MOST_PREDECESSORS",
    "MOST_TASKS",
    "Node",
    "Nodes",
    "check",
    "not_suspended",
    "one_root",
    "task_error",
]

MOST_TASKS = 1000
MOST_CHILDREN = 100
MOST_PREDECESSORS = 100


class Node(NamedTuple):
    """What a task says about others; ``finalizes`` is the root whose finalizer it is."""

    predecessors: tuple[str, ...] = ()
    finalizes: str | None = None

    @property
    def root(self) -> bool:
        """Whether it stands alone or begins a graph."""
        return not self.predecessors and self.finalizes is None


class Nodes(dict[str, Node]):
    """The tasks of a schema by name. What is derived from them is kept: change a copy instead.

    >>> tasks = Nodes({"A": Node(), "B": Node(("A",)), "F": Node((), "A")})
    >>> tasks.children, tasks.finalizers, tasks.roots("B"), tasks.roots("F")
    ({'A': ['B']}, {'A': 'F'}, ['A'], ['A'])
    """

    @cached_property
    def children(self) -> dict[str, list[str]]:
        """For each task that has some, those that come directly after it, finalizers aside."""
        found: dict[str, list[str]] = {}
        for name, node in self.items():
            for predecessor in node.predecessors:
                found.setdefault(predecessor, []).append(name)
        return found

    @cached_property
    def finalizers(self) -> dict[str, str]:
        """The finalizer of each root that has one."""
        return {node.finalizes: name for name, node in self.items() if node.finalizes is not None}

    @cached_property
    def _roots(self) -> dict[str, frozenset[str]]:
        return {}

    def roots(self, name: str) -> list[str]:
        """The roots of the graphs that a task belongs to, in order; a root is its own. There must
        be no cycle above it.
        """
        waiting = [name]
        while waiting:
            one = waiting[-1]
            node = self[one]
            above = list(node.predecessors) or ([node.finalizes] if node.finalizes else [])
            unknown = [other for other in above if other in self and other not in self._roots]
            if unknown:
                waiting += unknown
                continue
            known = [self._roots[other] for other in above if other in self]
            self._roots[one] = frozenset[str]().union(*known) if known else frozenset({one})
            waiting.pop()
        return sorted(self._roots[name])

    def members(self, first: str) -> list[str]:
        """A task and all that comes after it, nearer ones first; last the finalizer."""
        found = {first: None}
        waiting = deque([first])
        while waiting:
            for child in self.children.get(waiting.popleft(), ()):
                if child not in found:
                    found[child] = None
                    waiting.append(child)
        last = self.finalizers.get(first)
        return [*found, *([last] if last is not None else ())]

    def ancestors(self, name: str) -> set[str]:
        """All that a task comes after; itself only if it is in a cycle."""
        found: set[str] = set()
        waiting = list(self[name].predecessors)
        while waiting:
            one = waiting.pop()
            if one not in found and one in self:
                found.add(one)
                waiting += self[one].predecessors
        return found


def task_error(message: str, errno: int = 91400) -> SqlError:
    """A definition that Snowflake refuses. The number is that of a task with both a schedule and
    a predecessor; what it is for the other rules is not known.
    """
    return SqlError(errno, "22000", message)


def not_suspended(root: FullName) -> SqlError:
    """Nothing in a graph may change while its root is started."""
    return task_error(
        f"Unable to update graph with root task {root} since that root task is not suspended.",
        91421,
    )


def check(nodes: Nodes, name: str, place: FullName) -> None:
    """Refuse what a task of that name, already among `nodes`, may not be.

    `place` is the full name of the task, for the messages.
    """
    node = nodes[name]
    _check_finalizer(nodes, name, place)
    if name in node.predecessors:
        raise task_error(f"Task {name} cannot use itself as its predecessor.")
    if len(node.predecessors) > MOST_PREDECESSORS:
        raise task_error(f"Task {place} cannot have more than {MOST_PREDECESSORS} predecessors.")
    for predecessor in node.predecessors:
        if nodes[predecessor].finalizes is not None:
            raise task_error(
                f"Task {_beside(place, predecessor)} cannot have children as a finalizer task."
            )
        if len(nodes.children[predecessor]) > MOST_CHILDREN:
            raise task_error(
                f"Task {_beside(place, predecessor)} cannot have more than {MOST_CHILDREN} "
                "child tasks."
            )
    if name in nodes.ancestors(name):
        raise task_error(f"Task {place} cannot come after itself: the predecessors form a cycle.")
    for root in nodes.roots(name):
        if len(nodes.members(root)) > MOST_TASKS:
            raise task_error(
                f"The graph with root task {_beside(place, root)} cannot have more than "
                f"{MOST_TASKS} tasks."
            )


def _check_finalizer(nodes: Nodes, name: str, place: FullName) -> None:
    root = nodes[name].finalizes
    if root is None:
        return
    if nodes[name].predecessors:
        raise task_error(f"Task {place} cannot have predecessors as a finalizer task.")
    if root == name:
        raise task_error(f"Task {name} cannot finalize itself.")
    if not nodes[root].root:
        raise task_error(f"Task {place} cannot finalize a non-root task {_beside(place, root)}.")
    if name in nodes.children or name in nodes.finalizers:
        raise task_error(f"Task {place} cannot have children as a finalizer task.")
    if any(node.finalizes == root for other, node in nodes.items() if other != name):
        raise task_error(f"Finalize target {root} already have finalizer.")


def one_root(nodes: Nodes, names: Iterable[str], place: FullName) -> None:
    """Refuse to start a graph in which a task hangs from more than one root."""
    for name in names:
        roots = nodes.roots(name)
        if len(roots) > 1:
            shown = ", ".join(str(_beside(place, root)) for root in roots)
            raise task_error(
                f"Task {_beside(place, name)} belongs to more than one graph: a task graph has "
                f"exactly one root task, and these are roots: {shown}."
            )


def _beside(place: FullName, name: str) -> FullName:
    return FullName(place.database, place.schema, name)
