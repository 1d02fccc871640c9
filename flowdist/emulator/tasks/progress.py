"""How one attempt to run a graph goes on: what may start, what will not run, when it has ended."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from flowdist.emulator.errors import SqlError
from flowdist.emulator.tasks.runs import DEFAULT_TIMEOUT, GraphRun, Member, Run, State

if TYPE_CHECKING:
    from flowdist.emulator.account import Account
    from flowdist.emulator.tasks.scheduler import TaskScheduler

__all__ = ["LONGEST", "Progress", "failure"]

LONGEST = 604_800.0
"""Seconds that a task may run at the most."""


class Progress:
    """Moves attempts on; every method is called with the scheduler's lock held."""

    def __init__(self, account: Account, scheduler: TaskScheduler) -> None:
        self._account = account
        self._scheduler = scheduler

    def begin(self, graph: GraphRun) -> None:
        """Start the root, or what comes after the tasks that are settled already."""
        version = graph.version
        graph.children = version.children
        graph.missing = {m.name: len(m.predecessors) for m in version.members.values()}
        self._reach(graph, [version.root])

    def settle(self, graph: GraphRun, run: Run) -> None:
        """The body of a task has ended, as its run says."""
        self._scheduler.store.update(run)
        graph.executing -= 1
        if run.returned is not None:
            graph.returned[run.task] = run.returned
        if run.task == graph.version.finalizer:
            self._end(graph)
            return
        if run.task == graph.version.root:
            # Whoever waits for the root alone need not wait for its children.
            self._scheduler.start_queued(graph.version.root_id)
        self._pass_on(graph, run.task, run.state is State.SUCCEEDED)

    def deadline(self, graph: GraphRun, member: Member, started: float) -> float:
        """When a task has to end: by its own limit, or by the one of its graph."""
        version = graph.version
        root = version.members[version.root]
        own = member.timeout
        if member.name == version.finalizer and own is None:
            own = root.timeout or DEFAULT_TIMEOUT
        statement = float(member.parameters.get("STATEMENT_TIMEOUT_IN_SECONDS") or LONGEST)
        if own is None and root.timeout is not None:
            limit = (graph.started or started) + root.timeout
        else:
            limit = started + (own or DEFAULT_TIMEOUT)
        return min(limit, started + statement)

    def _pass_on(self, graph: GraphRun, name: str, succeeded: bool) -> None:
        ready = []
        for child in graph.children[name]:
            graph.missing[child] -= 1
            if not succeeded:
                graph.blocked.add(child)
            if not graph.missing[child]:
                ready.append(child)
        self._reach(graph, ready)

    def _reach(self, graph: GraphRun, names: list[str]) -> None:
        """All predecessors of these tasks are settled: start them, or pass on that they will not
        run, or that they are suspended and count as if they had succeeded.
        """
        waiting = deque(names)
        while waiting:
            name = waiting.popleft()
            member = graph.version.members[name]
            settled = graph.carried.get(name)
            if name in graph.blocked:
                succeeded = False
            elif settled is State.EXECUTING:
                continue  # taken over from a former server
            elif settled is not None:
                succeeded = settled is State.SUCCEEDED
            elif not member.started and name != graph.version.root:
                succeeded = True
            else:
                self._start(graph, name)
                continue
            for child in graph.children[name]:
                graph.missing[child] -= 1
                if not succeeded:
                    graph.blocked.add(child)
                if not graph.missing[child]:
                    waiting.append(child)
        if not graph.executing:
            self._finish(graph)

    def _start(self, graph: GraphRun, name: str) -> None:
        now = self._account.clock.time()
        scheduled = graph.scheduled if name == graph.version.root else now
        run = Run(0, name, scheduled)
        graph.runs[name] = run
        graph.executing += 1
        self._scheduler.store.enter(graph, run)
        self._scheduler.submit(graph, run)

    def _finish(self, graph: GraphRun) -> None:
        """Nothing runs and nothing is left: the finalizer, and then the end. It runs once in every
        attempt: a retry begins after it, since it may mend what the retry needs, as documented.
        """
        finalizer = graph.version.finalizer
        if (
            finalizer is None
            or graph.finalizing
            or finalizer in graph.carried
            or not graph.version.members[finalizer].started
            or graph.carried.get(graph.version.root) is State.SKIPPED
            or self._root_was_skipped(graph)
        ):
            self._end(graph)
            return
        graph.finalizing = True
        self._start(graph, finalizer)

    def _root_was_skipped(self, graph: GraphRun) -> bool:
        root = graph.runs.get(graph.version.root)
        return root is not None and root.state is State.SKIPPED

    def _end(self, graph: GraphRun) -> None:
        states = {run.state for run in graph.runs.values()}
        if State.FAILED in states:
            graph.state = State.FAILED
        elif State.CANCELLED in states:
            graph.state = State.CANCELLED
        elif self._root_was_skipped(graph):
            graph.state = State.SKIPPED
        else:
            graph.state = State.SUCCEEDED
        graph.completed = self._account.clock.time()
        self._count_failures(graph)
        self._scheduler.ended(graph)

    def _count_failures(self, graph: GraphRun) -> None:
        """Suspend the root after too many failed runs in a row; attempts of one run count once."""
        last_attempt = graph.attempt > graph.version.retries
        root = self._scheduler.definitions.find_by_id(graph.version.root_id)
        if root is None or graph.state in (State.SKIPPED, State.CANCELLED):
            return
        if graph.state is State.SUCCEEDED:
            if root.data["failures"]:
                self._account.catalog.update(root, failures=0)
            return
        failed = [run for run in graph.runs.values() if run.state is State.FAILED and not run.lost]
        if not failed or not last_attempt:
            return
        count = root.data["failures"] + 1
        self._account.catalog.update(root, failures=count)
        limit = graph.version.suspend_after
        if limit and count >= limit and root.data["state"] == "started":
            self._scheduler.definitions.suspend(root, "SUSPENDED_DUE_TO_ERRORS")
            self._account.catalog.update(root, failures=0)
            self._scheduler.changed.set()
            for run in failed:
                run.state = State.FAILED_AND_AUTO_SUSPENDED
                self._scheduler.store.update(run)


def failure(error: SqlError, run: Run) -> None:
    """Note in a run how its body has failed."""
    run.state = State.FAILED
    run.error_code, run.error = error.errno, error.message
    if run.timed_out is not None:
        run.error_code = 630
        run.error = (
            "Statement reached its statement or warehouse timeout of "
            f"{max(1, round(run.timed_out)):,} second(s) and was canceled."
        )
    elif run.cancelled or error.errno == 604:
        run.state = State.CANCELLED
