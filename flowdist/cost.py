"""What compute that is paid for by the hour is likely to take, and what it has taken: pure.

A plan says what its jobs are (`Plan.estimate`, `Plan.cost`); here are the figures and their words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Cost", "Estimate", "hours", "node_seconds"]


@dataclass(frozen=True)
class Estimate:
    """What the jobs of a plan are likely to take.

    Attributes:
        containers: how many run at once, where there is room for them.
        per_node: how many share a node; None where it is not known what a node has.
        nodes: how many nodes they fill.
        waves: how often these nodes are filled, one after the other.
        node_hours: hours of nodes at the most; None where jobs have no time limit.
        credits: what these hours cost; None where the plan gives no price.
        statements: SQL statements from submit to the last result, those that ask how it goes aside.
    """

    containers: int
    per_node: int | None
    nodes: int
    waves: int = 1
    node_hours: float | None = None
    credits: float | None = None
    statements: int = 0

    @property
    def text(self) -> str:
        """Everything but the numbers of nodes and statements, in a few words.

        >>> Estimate(10, per_node=4, nodes=3, node_hours=6.0, credits=18.0).text
        '10 containers, 4 on a node; at most 6 node-hours, 18 credits'
        """
        said = [_many(self.containers, "container")]
        if self.per_node is None and self.containers > 1:
            said[0] = f"at most: {said[0]}, which share nodes where these have room"
        elif (self.per_node or 1) > 1:
            said[0] += f", {self.per_node} on a node"
        if self.waves > 1:
            said.append(f"{self.waves} waves, one after another")
        if self.node_hours is not None:
            price = "" if self.credits is None else f", {_number(self.credits)} credits"
            said.append(f"at most {hours(self.node_hours)}{price}")
        return "; ".join(said)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Cost:
    """What jobs have taken so far: seconds of nodes, and the credits that these cost."""

    node_seconds: float
    credits: float | None = None

    @property
    def text(self) -> str:
        """In words.

        >>> Cost(1800.0, 1.5).text
        '0.5 node-hours, 1.5 credits'
        """
        price = "" if self.credits is None else f", {_credits(self.credits)} credits"
        return f"{hours(self.node_seconds / 3600)}{price}"

    @property
    def figure(self) -> tuple[str, str]:
        """The most telling number, and what it counts.

        >>> Cost(1800.0, 1.5).figure, Cost(36.0).figure
        (('1.5', 'credits'), ('36', 'node-seconds'))
        """
        if self.credits is not None:
            return _credits(self.credits), "credits"
        number, _, unit = hours(self.node_seconds / 3600).partition(" ")
        return number, unit

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self)


def node_seconds(lives: Iterable[tuple[float, float]], per_node: int) -> float:
    """Seconds of nodes that containers have taken which lived from one moment to another, where
    `per_node` of them share a node.

    >>> node_seconds([(0.0, 10.0), (0.0, 10.0), (5.0, 20.0)], per_node=2)
    25.0
    """
    moments = sorted(
        moment for start, end in lives if end > start for moment in ((start, 1), (end, -1))
    )
    total, alive, before = 0.0, 0, 0.0
    for time, change in moments:
        total += (time - before) * -(-alive // per_node)
        alive, before = alive + change, time
    return total


def hours(value: float) -> str:
    """Hours of nodes for people; where they are few, minutes or seconds.

    >>> hours(0.0123), hours(0.6), hours(1.0), hours(1234.5)
    ('44.3 node-seconds', '0.6 node-hours', '1 node-hour', '1,234 node-hours')
    """
    for unit, size in (("hour", 1.0), ("minute", 60.0), ("second", 3600.0)):
        shown = _number(value * size)
        if value * size >= (0.5 if unit == "hour" else 2.0) or unit == "second":
            break
    return f"{shown} node-{unit}{'' if shown == '1' else 's'}"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2g}" if value < 10 else f"{value:.3g}"


def _credits(value: float) -> str:
    return "under 0.01" if 0 < value < 0.01 else _number(value)


def _many(count: int, thing: str) -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"
