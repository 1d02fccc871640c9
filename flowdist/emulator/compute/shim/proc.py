"""Processes, as the kernel tells of them, and signals to them."""

from __future__ import annotations

import os

__all__ = ["children", "descendants", "private_memory", "send", "share_of_memory"]


def children(pid: int) -> list[int]:
    """The processes that a process has started, or adopted."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found.extend(int(word) for word in file.read().split())
    except OSError:
        pass  # it has just ended, or this is no Linux
    return found


def descendants(pid: int) -> list[int]:
    """A process and what comes from it, children after parents."""
    found = [pid]
    for parent in found:
        found.extend(children(parent))
    return found


def private_memory(pid: int) -> int:
    """Bytes of memory that a process has to itself; found out quickly."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            _, resident, shared, *_ = file.read().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def share_of_memory(pid: int) -> int:
    """Bytes, of shared pages its share; exact and slow."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("Pss:")) * 1024
    except OSError:
        return 0


def send(pid: int, number: int) -> None:
    """A signal to a process, if it is still there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
