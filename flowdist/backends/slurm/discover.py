"""Profiles from the partitions of a cluster: one for each, as text for a file of profiles.

Pure: the partitions come from `flowdist.backends.slurm.client`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flowdist.backends.slurm.cluster import NodeType, Partition
from flowdist.profiles.files import Profile, table
from flowdist.resources import format_memory, format_time, parse_memory
from flowdist.summary import counted

__all__ = ["Discovered", "discover"]

MIB = 1024**2


@dataclass(frozen=True)
class Discovered:
    """The profile of one partition.

    Attributes:
        name: of the profile.
        fields: what `flowdist.profiles.add_profile` takes.
        comment: what else is known of the partition, line by line.
    """

    name: str
    fields: dict[str, Any]
    comment: tuple[str, ...]

    def toml(self) -> str:
        """The profile as TOML, with its comment."""
        said = "".join(f"# {line}\n" for line in self.comment)
        return said + table(Profile.of(self.name, self.name, self.fields)) + "\n"


def discover(partitions: Sequence[Partition], taken: Collection[str] = ()) -> list[Discovered]:
    """A profile for each partition, those where jobs go by default first.

    A job of the profile takes a node of the kind that the partition has most of: all its cores and
    memory, and its gpus, with a worker for each gpu; and the longest time that the partition
    allows. `taken` are names that no profile gets, such as those of built-in ones.

    >>> node = NodeType(nodes=4, usable=3, cores=16, memory=64 * 1024**3, gpus=0)
    >>> batch = Partition("batch", max_time=86400.0, nodes=4, types=(node,))
    >>> print(discover([batch])[0].toml())
    # 4 nodes: 4 of 16 cores, 64 GiB (3 usable now)
    # a job runs 1 d at most
    [profiles.batch]
    description = "partition batch: 4 nodes of 16 cores, 64 GiB"
    kind = "slurm"
    partition = "batch"
    cores_per_node = 16
    resources.memory = "64 GiB"
    resources.time = "1 d"
    <BLANKLINE>
    """
    found: list[Discovered] = []
    for partition in sorted(partitions, key=lambda p: not p.default):
        name = _name(partition.name, {*taken, *(one.name for one in found)})
        found.append(Discovered(name, _fields(partition), tuple(_comment(partition))))
    return found


def _name(partition: str, taken: Collection[str]) -> str:
    """A name that profiles may have, after the partition's."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", partition).strip("-")
    name = plain if plain[:1].isalpha() else f"slurm-{plain}"
    if name in taken:
        name = f"slurm-{plain}"
    number, base = 1, name
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name


def _fields(partition: Partition) -> dict[str, Any]:
    usual = partition.types[0] if partition.types else None
    fields: dict[str, Any] = {
        "description": _description(partition, usual),
        "kind": "slurm",
        "partition": partition.name,
    }
    if partition.exclusive:
        fields["exclusive"] = True
    if usual is not None and usual.cores:
        fields["cores_per_node"] = usual.cores
        if usual.gpus and usual.cores >= usual.gpus:
            fields["cpus"] = usual.cores // usual.gpus
    if usual is not None and usual.memory:
        fields["memory"] = _memory(usual.memory)
    if usual is not None and usual.gpus:
        fields["gpus"] = usual.gpus
    if partition.max_time:
        fields["time"] = format_time(int(partition.max_time))
    return fields


def _memory(size: int) -> str:
    """Memory in a unit that does not round it up to more than a node has."""
    text = format_memory(size)
    return text if parse_memory(text) == size else f"{size // MIB} MiB"


def _description(partition: Partition, usual: NodeType | None) -> str:
    said = f"partition {partition.name}: {counted(partition.nodes, 'node')}"
    if usual is None:
        return said
    cards = f", {counted(usual.gpus, 'gpu')}" if usual.gpus else ""
    return f"{said} of {counted(usual.cores, 'core')}, {format_memory(usual.memory)}{cards}"


def _comment(partition: Partition) -> Iterator[str]:
    kinds = "; ".join(_kind(kind) for kind in partition.types)
    yield f"{counted(partition.nodes, 'node')}{': ' if kinds else ''}{kinds}"
    longest = format_time(int(partition.max_time)) if partition.max_time else ""
    usual = format_time(int(partition.default_time)) if partition.default_time else ""
    said = f"a job runs {longest} at most" if longest else "a job may run as long as it likes"
    yield f"{said}, and {usual} where nothing is said" if usual and usual != longest else said
    if partition.max_nodes is not None:
        yield f"a job has at most {counted(partition.max_nodes, 'node')}"
    for what, names in (
        ("only for accounts", partition.allowed_accounts),
        ("not for accounts", partition.denied_accounts),
        ("only with QOS", partition.allowed_qos),
        ("not with QOS", partition.denied_qos),
    ):
        if names:
            yield f"{what} {', '.join(names)}"
    if partition.default:
        yield "jobs that name no partition go here"
    if partition.exclusive:
        yield "jobs get whole nodes"
    if not partition.up:
        yield f"it takes no jobs now: it is {partition.state}"


def _kind(kind: NodeType) -> str:
    cards = f" and {counted(kind.gpus, 'gpu')}" if kind.gpus else ""
    features = f", features {', '.join(kind.features)}" if kind.features else ""
    gone = f" ({kind.usable} usable now)" if kind.usable < kind.nodes else ""
    size = format_memory(kind.memory) if kind.memory else "unknown memory"
    return f"{kind.nodes:,} of {counted(kind.cores, 'core')}, {size}{cards}{features}{gone}"
