"""Which instance goes to which node: pure functions over what nodes have left.

Instances are packed: the fullest node that has room takes the next one. Of stage mounts a node
should have eight at the most, as documented; the emulator prefers nodes below that and does not
insist, since the limit is stated for certain for the deprecated kind of stage volume only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flowdist.emulator.compute.families import Family
from flowdist.emulator.compute.resolved import Demand

__all__ = ["MOST_MOUNTS", "Room", "choose", "fits_at_all", "lacking", "nodes_needed"]

MOST_MOUNTS = 8
SLACK = 1e-9
"""Sums of fractions of vCPUs are not exact."""


@dataclass
class Room:
    """What is left of a node."""

    node: str
    cpu: float
    memory: int
    gpu: int
    mounts: int = 0
    """How many stage mounts it has."""
    instances: int = 0

    @classmethod
    def of(cls, node: str, family: Family) -> Room:
        """All of a node."""
        return cls(node, family.vcpu, family.memory, family.gpu_count)

    def fits(self, asked: Demand) -> bool:
        """Whether an instance has room."""
        return (
            asked.cpu <= self.cpu + SLACK and asked.memory <= self.memory and asked.gpu <= self.gpu
        )

    def take(self, asked: Demand) -> None:
        """Put an instance there."""
        self.cpu -= asked.cpu
        self.memory -= asked.memory
        self.gpu -= asked.gpu
        self.mounts += asked.mounts
        self.instances += 1


def choose(rooms: Iterable[Room], asked: Demand) -> Room | None:
    """The node for an instance: of those with room, the one with the least left."""
    fitting = [room for room in rooms if room.fits(asked)]
    return min(
        fitting,
        key=lambda room: (room.mounts + asked.mounts > MOST_MOUNTS, room.cpu, room.memory),
        default=None,
    )


def fits_at_all(asked: Demand, family: Family) -> bool:
    """Whether an empty node has room for one instance."""
    return Room.of("", family).fits(asked)


def lacking(rooms: Sequence[Room], asked: Demand) -> str:
    """The resources because of which no node takes an instance: "memory", "cpu" or "gpu"; empty
    where each alone would do.
    """
    if rooms and all(asked.gpu > room.gpu for room in rooms):
        return "gpu"
    if rooms and all(asked.memory > room.memory for room in rooms):
        return "memory"
    if rooms and all(asked.cpu > room.cpu + SLACK for room in rooms):
        return "cpu"
    return ""


def nodes_needed(
    waiting: Iterable[Demand], starting: Iterable[Room], family: Family, most: int
) -> int:
    """How many nodes to add, `most` at the most, so that all have room that wait; `starting` are
    the nodes that come anyway.
    """
    rooms = list(starting)
    added = 0
    for asked in waiting:
        room = choose(rooms, asked)
        if room is None and added < most and fits_at_all(asked, family):
            room = Room.of(f"new {added}", family)
            rooms.append(room)
            added += 1
        if room is not None:
            room.take(asked)
    return added
