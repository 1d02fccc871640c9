"""Takes up the runs that went on when the server ended.

The body of such a run ended with the server, with one exception: a job goes on without it. So a
task whose body is a job waits for it again if it still exists. A body that had not begun begins
now. Any other run is marked as failed, and the graph goes on by its rules, retries included; the
job for which the script of such a run has waited is cancelled, since nobody waits for it any more
and the next attempt starts another one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING

from flowdist.emulator.compute.records import Service
from flowdist.emulator.tasks import bodies
from flowdist.emulator.tasks.retries import restored
from flowdist.emulator.tasks.runs import GraphRun, Run, State
from flowdist.emulator.tasks.store import carried_states

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["resume"]

LOST = "The server was restarted while the task was running."


def resume(account: Account) -> None:
    """Take up all graphs that have not ended, then what has waited for them."""
    tasks = account.tasks
    with tasks.lock:
        for row in tasks.store.executing():
            _resume(account, restored(account, row))
        for row in tasks.store.queued():
            tasks.start_queued(row["root_id"])


def _resume(account: Account, graph: GraphRun) -> None:
    tasks = account.tasks
    version = graph.version
    rows = tasks.store.runs_of(version.root_id, graph.run_group)
    graph.carried = carried_states([row for row in rows if row["attempt"] < graph.attempt])
    graph.returned = {r["task"]: r["returned"] for r in rows if r["returned"] is not None}
    waits: list[tuple[Run, Service]] = []
    fresh: list[Run] = []
    for row in rows:
        if row["attempt"] < graph.attempt:
            continue
        run = _restored(row)
        graph.runs[run.task] = run
        if run.started is not None and (graph.started is None or run.started < graph.started):
            graph.started = run.started
        if run.state is State.EXECUTING:
            job = bodies.job_of(account, run.id)
            member = version.members[run.task]
            if run.query_id is None:
                fresh.append(run)
            elif job is not None and bodies.is_job(member.definition):
                run.job = job.id
                run.deadline = tasks.progress.deadline(graph, member, run.started or run.scheduled)
                waits.append((run, job))
            else:
                _lose(account, run, job)
        graph.carried[run.task] = run.state
    graph.executing = len(waits) + len(fresh)
    graph.finalizing = version.finalizer in graph.runs
    tasks.active.setdefault(version.root_id, []).append(graph)
    tasks.progress.begin(graph)
    for run, job in waits:
        tasks.workers.submit(_adoption(account, graph, run, job))
    for run in fresh:
        tasks.submit(graph, run)


def _adoption(account: Account, graph: GraphRun, run: Run, job: Service) -> Callable[[], None]:
    return lambda: bodies.adopt(account, graph, run, job)


def _lose(account: Account, run: Run, job: Service | None) -> None:
    if job is not None and not job.asynchronous:
        account.compute.cancel(job)
    run.state, run.lost = State.FAILED, True
    run.error_code, run.error = 604, LOST
    run.completed = account.clock.time()
    account.tasks.store.update(run)


def _restored(row: sqlite3.Row) -> Run:
    return Run(
        id=row["id"],
        task=row["task"],
        scheduled=row["scheduled"],
        state=State(row["state"]),
        query_id=row["query_id"],
        started=row["started"],
        completed=row["completed"],
        error_code=row["error_code"],
        error=row["error"],
        returned=row["returned"],
        job=row["job"],
        lost=bool(row["lost"]),
    )
