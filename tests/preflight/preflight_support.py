"""Flows to look at before they run, and machines to look at: what the tests of preflight share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowdist import Flow, flow, param_grid
from flowdist.preflight import Check, Machine, Prepared, prepare

GB = 1024**3


def make(fn: Callable[..., Any], rows: int = 2, **options: Any) -> Flow:
    """A flow of one stage, 'fit'."""
    return flow(param_grid(x=range(rows))).stage("fit", fn, **options)


def only(checks: list[Check], name: str) -> Check:
    """The one finding of that name."""
    (found,) = [c for c in checks if c.name == name]
    return found


def with_machine(f: Flow, free: int = 500 * GB, memory: int = 64 * GB) -> Prepared:
    return prepare(f, machine=Machine(free_disk=lambda path: free, memory=lambda: memory))
