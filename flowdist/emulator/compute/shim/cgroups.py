"""Limits that the kernel keeps: a control group for a container, where one may be made.

Version 2 gives memory and processor time, version 1 processor time only: memory of version 1 is
left to the shim's own watch (`main.py`). The group is made below or beside the one of the shim.
"""

from __future__ import annotations

import os

__all__ = ["Group"]

PERIOD = 100_000
"""Microseconds over which processor time is given out, as container runtimes have it."""


class Group:
    """The groups of one container; ``memory`` and ``cpu`` tell which limits they keep."""

    def __init__(
        self,
        name: str,
        memory_bytes: int | None,
        cpus: float | None,
        mounted: str = "/sys/fs/cgroup",
    ) -> None:
        self.memory = self.cpu = False
        self._paths: list[str] = []
        for path, controllers in _candidates(mounted):
            memory = "memory" in controllers and bool(memory_bytes) and not self.memory
            cpu = "cpu" in controllers and bool(cpus) and not self.cpu
            limits = {}
            if memory:
                limits = {"memory.max": str(memory_bytes), "memory.oom.group": "1"}
            if cpu and cpus:
                limits |= _cpu_limits(path, cpus)
            if limits and self._make(os.path.join(path, name), limits):
                self.memory |= memory
                self.cpu |= cpu

    def join(self) -> None:
        """Take the calling process in, and what it starts."""
        for path in self._paths:
            _write(os.path.join(path, "cgroup.procs"), "0")

    def out_of_memory(self) -> bool:
        """Whether the kernel has killed something here for lack of memory."""
        for path in self._paths:
            try:
                with open(os.path.join(path, "memory.events")) as file:
                    counts = dict(line.split() for line in file)
            except OSError:
                continue
            if counts.get("oom_kill", "0") != "0":
                return True
        return False

    def remove(self) -> None:
        """Remove the groups, whose processes have ended."""
        for path in self._paths:
            try:
                os.rmdir(path)
            except OSError:
                continue  # a process of it is not quite gone; an empty group costs nothing

    def _make(self, path: str, limits: dict[str, str]) -> bool:
        try:
            os.mkdir(path)
        except OSError:
            return False
        try:
            for name, value in limits.items():
                _write(os.path.join(path, name), value)
        except OSError:
            os.rmdir(path)
            return False
        self._paths.append(path)
        return True


def _cpu_limits(path: str, cpus: float) -> dict[str, str]:
    quota = max(1000, int(cpus * PERIOD))
    if os.path.exists(os.path.join(path, "cpu.cfs_quota_us")):
        return {"cpu.cfs_period_us": str(PERIOD), "cpu.cfs_quota_us": str(quota)}
    return {"cpu.max": f"{quota} {PERIOD}"}


def _candidates(mounted: str) -> list[tuple[str, tuple[str, ...]]]:
    """Where a group may be made, and the controllers that it would have there."""
    found: list[tuple[str, tuple[str, ...]]] = []
    try:
        with open("/proc/self/cgroup") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return found
    for _, controllers, path in lines:
        if controllers == "":
            here = os.path.normpath(mounted + path)
            # A group with processes in it may have none with controllers below it: then beside it.
            for at in (here, os.path.dirname(here)):
                enabled = _read(os.path.join(at, "cgroup.subtree_control")).split()
                if at.startswith(mounted) and enabled:
                    found.append((at, tuple(enabled)))
        elif "cpu" in controllers.split(","):
            at = os.path.normpath(os.path.join(mounted, controllers) + path)
            if os.access(at, os.W_OK):
                found.append((at, ("cpu",)))
    return found


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
