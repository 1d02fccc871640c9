"""New attempts of runs that have failed, asked for by the root's settings or by a statement."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from flowdist.emulator.catalog import Object
from flowdist.emulator.tasks.graph import task_error
from flowdist.emulator.tasks.runs import GraphRun, State
from flowdist.emulator.tasks.store import carried_states

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["automatic", "by_hand"]

LATEST = 14 * 86_400
"""Seconds after its first attempt in which a run may be retried."""


def automatic(account: Account, failed: GraphRun) -> GraphRun:
    """The attempt after one that has failed."""
    return _next(account, failed, "AUTOMATIC RETRY")


def by_hand(account: Account, root: Object, run_group: str | None) -> GraphRun:
    """The attempt that EXECUTE TASK ... RETRY asks for; SqlError where it may not be."""
    tasks = account.tasks
    root_id = root.data["id"]
    if run_group is not None and not tasks.store.attempts(root_id, run_group):
        raise task_error(f"Cannot perform retry: Graph run group with ID {run_group} not found.")
    attempts = tasks.store.attempts(root_id, run_group)
    busy = root_id in tasks.active
    recent = attempts and attempts[-1]["original"] >= account.clock.time() - LATEST
    if busy or not recent:
        raise task_error(
            f"Cannot perform retry: no suitable run of graph with root task {root.name} to retry.",
            91457,
        )
    last = attempts[-1]
    if last["state"] not in ("FAILED", "CANCELLED"):
        raise task_error(
            f"Cannot perform retry: run ({last['run_group']}) of graph with root task {root.name} "
            "had no failures.",
            91456,
        )
    if root.data["modified"] or root.data["version"] != last["version"]:
        raise task_error(
            f"Cannot perform retry: the graph with root task {root.name} was modified since run "
            f"({last['run_group']})."
        )
    return _next(account, restored(account, last), "MANUAL RETRY")


def restored(account: Account, row: sqlite3.Row) -> GraphRun:
    """An attempt as it is written down, without its runs."""
    version = account.tasks.store.version(row["root_id"], row["version"])
    if version is None:
        raise task_error(f"The version {row['version']} of graph {row['root']} is lost.")
    return GraphRun(
        id=row["id"],
        run_group=row["run_group"],
        attempt=row["attempt"],
        version=version,
        config=row["config"],
        scheduled_from=row["scheduled_from"],
        scheduled=row["scheduled"],
        original=row["original"],
        last_group=row["last_group"],
        last_scheduled=row["last_scheduled"],
        started=row["started"],
        state=State(row["state"]),
        completed=row["completed"],
    )


def _next(account: Account, before: GraphRun, scheduled_from: str) -> GraphRun:
    rows = account.tasks.store.runs_of(before.version.root_id, before.run_group)
    carried = carried_states(rows)
    if before.version.finalizer is not None:
        carried.pop(before.version.finalizer, None)
    return GraphRun(
        id=0,
        run_group=before.run_group,
        attempt=before.attempt + 1,
        version=before.version,
        config=before.config,
        scheduled_from=scheduled_from,
        scheduled=account.clock.time(),
        original=before.original,
        last_group=before.last_group,
        last_scheduled=before.last_scheduled,
        carried=carried,
        returned={row["task"]: row["returned"] for row in rows if row["returned"] is not None},
    )
