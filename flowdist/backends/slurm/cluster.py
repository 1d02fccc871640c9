"""What SLURM tells of a cluster: its settings, partitions and limits, read from the text of
`scontrol`, `sinfo` and `sacctmgr`.

Pure: who calls the commands is `flowdist.backends.slurm.client`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class NodeType:
    """Nodes of a partition that are alike.

    Attributes:
        nodes: how many there are.
        usable: how many of them can take jobs now or later (not down, not drained).
        cores: CPUs of each, as SLURM counts them.
        memory: of each, in bytes; 0 where SLURM does not know.
        gpus: of each.
        features: what `--constraint` can name.
    """

    nodes: int
    usable: int
    cores: int
    memory: int
    gpus: int
    features: tuple[str, ...] = ()


@dataclass(frozen=True)
class Partition:
    """A partition; a limit that it does not set is None, a list that allows everybody is empty.

    Attributes:
        default: whether jobs go there that name none.
        state: SLURM's word; jobs are taken where it is `"UP"`.
        max_time, default_time: seconds.
        nodes: how many it has.
        max_nodes: of one job.
        qos: the QOS whose limits hold for every job in it, or "".
        types: its nodes, alike ones together, the most frequent first.
    """

    name: str
    default: bool = False
    state: str = "UP"
    max_time: float | None = None
    default_time: float | None = None
    nodes: int = 0
    max_nodes: int | None = None
    allowed_accounts: tuple[str, ...] = ()
    denied_accounts: tuple[str, ...] = ()
    allowed_qos: tuple[str, ...] = ()
    denied_qos: tuple[str, ...] = ()
    qos: str = ""
    hidden: bool = False
    exclusive: bool = False
    types: tuple[NodeType, ...] = ()

    @property
    def up(self) -> bool:
        return self.state == "UP"

    @property
    def cores(self) -> int:
        """CPUs of its largest node; 0 where SLURM told of none."""
        return max((kind.cores for kind in self.types), default=0)

    @property
    def memory(self) -> int:
        """Memory of its largest node in bytes; 0 where SLURM told of none."""
        return max((kind.memory for kind in self.types), default=0)

    @property
    def gpus(self) -> int:
        """GPUs of the node that has most."""
        return max((kind.gpus for kind in self.types), default=0)


@dataclass(frozen=True)
class Limits:
    """How many jobs and tasks SLURM takes; None, or no entry, where that is not known or not set.

    Attributes:
        array_size: MaxArraySize: the index of a task is at most one less.
        job_count: MaxJobCount: tasks of all users that the controller can hold.
        running: what bounds the jobs that run at once, by SLURM's reason codes.
        submitted: what bounds the jobs that are queued or running, in the same way.

    >>> limits = Limits(running={"QOSMaxJobsPerUserLimit": 50, "AssocMaxJobsLimit": 80})
    >>> limits.max_jobs, limits.max_submit
    (50, None)
    """

    array_size: int | None = None
    job_count: int | None = None
    running: Mapping[str, int] = field(default_factory=dict)
    submitted: Mapping[str, int] = field(default_factory=dict)

    @property
    def max_jobs(self) -> int | None:
        """How many jobs may run at once: the smallest of all."""
        return min(self.running.values(), default=None)

    @property
    def max_submit(self) -> int | None:
        """How many jobs, each task of an array counted, may be queued or running."""
        return min(self.submitted.values(), default=None)

    def of(self, reason: str) -> int | None:
        """The number behind a reason code."""
        return self.running.get(reason, self.submitted.get(reason))


def parse_config(text: str) -> dict[str, str]:
    """`scontrol show config` as names and values.

    >>> parse_config("Configuration data as of ...\\nMaxArraySize            = 1001\\n")
    {'MaxArraySize': '1001'}
    """
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def parse_partitions(partitions: str, nodes: str) -> list[Partition]:
    """Partitions from `scontrol show partition -o` and `sinfo -h -e -o`.

    `sinfo` is asked for `NODES_FORMAT`.
    """
    types = _node_types(nodes)
    found = []
    for line in partitions.splitlines():
        values = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if "PartitionName" in values:
            found.append(_partition(values, types.get(values["PartitionName"], ())))
    return found


def _partition(values: Mapping[str, str], types: tuple[NodeType, ...]) -> Partition:
    return Partition(
        name=values["PartitionName"],
        default=values.get("Default") == "YES",
        state=values.get("State", "UP"),
        max_time=seconds(values.get("MaxTime", "")),
        default_time=seconds(values.get("DefaultTime", "")),
        nodes=number(values.get("TotalNodes", "")) or 0,
        max_nodes=number(values.get("MaxNodes", "")),
        allowed_accounts=_names(values.get("AllowAccounts", "")),
        denied_accounts=_names(values.get("DenyAccounts", "")),
        allowed_qos=_names(values.get("AllowQos", "")),
        denied_qos=_names(values.get("DenyQos", "")),
        qos="" if values.get("QoS", "N/A") == "N/A" else values["QoS"],
        hidden=values.get("Hidden") == "YES",
        exclusive=values.get("OverSubscribe", "") == "EXCLUSIVE",
        types=types,
    )


# partition, nodes, CPUs, memory in MB, GRES, state, features: one line for each kind and state
NODES_FORMAT = "%R|%D|%c|%m|%G|%T|%f"
_GONE = ("down", "drain", "fail", "unknown", "error", "future", "inval")


def _node_types(text: str) -> dict[str, tuple[NodeType, ...]]:
    counts: dict[tuple[str, int, int, int, tuple[str, ...]], list[int]] = {}
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) != 7:
            continue
        name, nodes, cores, memory, gres, state, features = parts
        key = (
            name,
            number(cores.rstrip("+")) or 0,
            (number(memory.rstrip("+")) or 0) * MEGABYTE,
            gpus(gres),
            _names(features),
        )
        count = counts.setdefault(key, [0, 0])
        count[0] += int(nodes)
        count[1] += 0 if state.startswith(_GONE) else int(nodes)
    types: dict[str, list[NodeType]] = {}
    for (name, cpus, size, cards, tags), (there, usable) in counts.items():
        types.setdefault(name, []).append(NodeType(there, usable, cpus, size, cards, tags))
    return {
        name: tuple(sorted(kinds, key=lambda kind: (-kind.nodes, -kind.cores)))
        for name, kinds in types.items()
    }


def gpus(gres: str) -> int:
    """How many GPUs a GRES text names.

    >>> gpus("gpu:a100:4(S:0-1),gpu:v100:2,nvme:1"), gpus("gpu"), gpus("(null)")
    (6, 1, 0)
    """
    total = 0
    for item in re.sub(r"\([^)]*\)", "", gres).split(","):
        words = item.split(":")
        if words[0] == "gpu":
            total += int(words[-1]) if words[-1].isdigit() else 1
    return total


def parse_limits(
    config: Mapping[str, str],
    associations: str,
    qualities: str,
    *,
    account: str | None,
    qos: str | None,
) -> Limits:
    """Limits from the configuration, and from `sacctmgr show` in the formats `ASSOCIATIONS` and
    `QUALITIES`; texts may be empty where accounting does not answer.

    Without `account` the user's default account counts, without `qos` the default QOS of it.
    """
    running: dict[str, int] = {}
    submitted: dict[str, int] = {}
    lines = [
        dict(zip(ASSOCIATIONS, _cells(line), strict=False)) for line in associations.split("\n")
    ]
    wanted = account or next((line["DefaultAccount"] for line in lines if "User" in line), "")
    for line in lines:
        if "User" not in line or line.get("Account") != wanted or line.get("Partition"):
            continue
        _note(running, "AssocMaxJobsLimit", line.get("MaxJobs"))
        _note(running, "AssocGrpJobsLimit", line.get("GrpJobs"))
        _note(submitted, "AssocMaxSubmitJobLimit", line.get("MaxSubmit"))
        _note(submitted, "AssocGrpSubmitJobsLimit", line.get("GrpSubmit"))
        qos = qos or line.get("DefaultQOS") or line.get("QOS", "").partition(",")[0]
    for text in qualities.splitlines():
        line = dict(zip(QUALITIES, _cells(text), strict=False))
        if line.get("Name") != qos:
            continue
        _note(running, "QOSMaxJobsPerUserLimit", line.get("MaxJobsPU"))
        _note(running, "MaxJobsPerAccount", line.get("MaxJobsPA"))
        _note(running, "QOSGrpJobsLimit", line.get("GrpJobs"))
        _note(submitted, "QOSMaxSubmitJobPerUserLimit", line.get("MaxSubmitPU"))
        _note(submitted, "MaxSubmitJobsPerAccount", line.get("MaxSubmitPA"))
        _note(submitted, "QOSGrpSubmitJobsLimit", line.get("GrpSubmit"))
    return Limits(
        array_size=number(config.get("MaxArraySize", "")),
        job_count=number(config.get("MaxJobCount", "")),
        running=running,
        submitted=submitted,
    )


# Fields of `sacctmgr show user withassoc` and `sacctmgr show qos`.
ASSOCIATIONS = (
    "User",
    "DefaultAccount",
    "Account",
    "Partition",
    "QOS",
    "DefaultQOS",
    "MaxJobs",
    "MaxSubmit",
    "GrpJobs",
    "GrpSubmit",
)
QUALITIES = (
    "Name",
    "MaxJobsPU",
    "MaxSubmitPU",
    "MaxJobsPA",
    "MaxSubmitPA",
    "GrpJobs",
    "GrpSubmit",
)


def _cells(line: str) -> Iterable[str]:
    return line.split("|") if "|" in line else ()


def _note(limits: dict[str, int], reason: str, value: str | None) -> None:
    found = number(value or "")
    if found is not None:
        limits[reason] = min(found, limits.get(reason, found))


def number(text: str) -> int | None:
    """A whole number, None for what SLURM writes where there is none.

    >>> number("1001"), number("UNLIMITED"), number("")
    (1001, None, None)
    """
    return int(text) if text.isdigit() else None


def seconds(text: str) -> float | None:
    """A span as SLURM writes it, in seconds; None for UNLIMITED, NONE, INVALID and the like.

    >>> seconds("1-12:00:00"), seconds("02:30:00"), seconds("30:00"), seconds("UNLIMITED")
    (129600.0, 9000.0, 1800.0, None)
    """
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)(?:\.\d+)?", text)
    if match is None:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + rest)


def _names(text: str) -> tuple[str, ...]:
    if text in ("", "ALL", "N/A", "(null)", "NONE"):
        return ()
    return tuple(text.split(","))
