"""What this machine, or the part of it that a process may use, has: cores and memory.

It is asked in job processes too, and imports little.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

from flowdist.errors import ResourceError

__all__ = ["Cgroup", "cores_available", "memory_available"]


@dataclass(frozen=True)
class Cgroup:
    """Where Linux tells a process the limits of its control group: version 1, 2 or both."""

    mount: Path = Path("/sys/fs/cgroup")
    membership: Path = Path("/proc/self/cgroup")

    def cpu_limit(self) -> float:
        """Cores that the CPU quota allows; inf where there is none."""
        texts = [_read(d / "cpu.max") for d in self._directories("")]
        texts += [
            f"{_read(d / 'cpu.cfs_quota_us')} {_read(d / 'cpu.cfs_period_us')}"
            for d in self._directories("cpu")
        ]
        return min((_quota(text) for text in texts), default=math.inf)

    def memory_limit(self) -> float:
        """Bytes of memory allowed; inf where there is no limit."""
        texts = [_read(d / "memory.max") for d in self._directories("")]
        texts += [_read(d / "memory.limit_in_bytes") for d in self._directories("memory")]
        return min((_number(text) for text in texts), default=math.inf)

    def out_of_memory_kills(self) -> int:
        """How many processes of the group were killed for its memory limit, so far."""
        found = [d / "memory.events" for d in self._directories("")]
        found += [d / "memory.oom_control" for d in self._directories("memory")]
        # The innermost group that keeps count: those around it count others as well.
        text = next((text for path in found if "oom_kill " in (text := _read(path))), "")
        counts = dict(line.rsplit(" ", 1) for line in text.splitlines())
        return int(counts.get("oom_kill", 0))

    def _directories(self, controller: str) -> Iterator[Path]:
        """This process's group and those around it, any of which may set a limit; "": version 2."""
        for line in _read(self.membership).splitlines():
            _, controllers, path = line.split(":", 2)
            if controller not in controllers.split(","):
                continue
            # A container may be told the host's path, which is not mounted there: the mount's root,
            # the last of the parents, is then its own group.
            inside = PurePosixPath(path.lstrip("/"))
            if ".." in inside.parts:
                inside = PurePosixPath()
            bases = (controllers, controller) if controller else ("", "unified")
            for base in bases:
                for part in (inside, *inside.parents):
                    yield self.mount / base / part


def cores_available(environ: Mapping[str, str] | None = None, cgroup: Cgroup | None = None) -> int:
    """Cores this process may really use; at least 1.

    That is the smaller of its CPU affinity and its cgroup's quota, rounded up; in a job of SLURM
    the cores that SLURM gave it, which not every cluster enforces. The environment variable
    FLOWDIST_CORES, where set, is the answer instead. ``environ`` and ``cgroup`` stand in for the
    process's own in tests. Raises ResourceError where FLOWDIST_CORES is no count.

    >>> cores_available(environ={"FLOWDIST_CORES": "6"})
    6
    >>> cores_available(environ={"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "4"})
    4
    """
    known = os.environ if environ is None else environ
    if said := known.get("FLOWDIST_CORES"):
        if not said.isdecimal() or not int(said):
            raise ResourceError(f"FLOWDIST_CORES: {said!r} is not a count; give 1 or more")
        return int(said)
    if "SLURM_JOB_ID" in known:
        given = known.get("SLURM_CPUS_PER_TASK") or known.get("SLURM_CPUS_ON_NODE", "")
        if given.isdecimal() and int(given):
            return int(given)
    # macOS and Windows have no affinity to ask for.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, math.ceil(min(allowed or 1, (cgroup or Cgroup()).cpu_limit())))


def memory_available(cgroup: Cgroup | None = None) -> int:
    """Bytes of memory this process can hope for: what the machine has free, at most its cgroup's
    limit.

    >>> memory_available() > 0
    True
    """
    return int(min(psutil.virtual_memory().available, (cgroup or Cgroup()).memory_limit()))


def _quota(text: str) -> float:
    """Cores from "<microseconds> <of how many>"; inf for "max 100000", "-1 100000" and nothing."""
    words = text.split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0].isdecimal() else math.inf


def _number(text: str) -> float:
    """A number from a cgroup file; inf for its ways of saying that there is no limit."""
    return float(text) if text.isdecimal() else math.inf


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
