"""Runs task graphs: what is due, what waits for predecessors, what has ended.

One thread looks at the clock: for roots that are due and for bodies that run for too long. All else
follows from an event at once, in the thread that brings it: a statement starts a graph, the end of
a body starts what comes after it. Bodies run in threads of their own (`workers.py`).
"""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flowdist.emulator.background import Rounds
from flowdist.emulator.catalog import Object
from flowdist.emulator.names import FullName
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.tasks import bodies, recovery, retries
from flowdist.emulator.tasks.definitions import Definitions, is_root
from flowdist.emulator.tasks.progress import Progress
from flowdist.emulator.tasks.runs import GraphRun, Run, State, Version
from flowdist.emulator.tasks.schedule import Schedule, read_schedule
from flowdist.emulator.tasks.store import Store
from flowdist.emulator.tasks.workers import Workers

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["TaskScheduler"]

TICK = 0.05
"""Seconds between two looks at the clock."""

MOST_BODIES = 2000
"""Bodies at once: a job in the body of a task holds a thread for as long as it runs."""


@dataclass(frozen=True)
class Due:
    """When a root is due; ``base`` is from when its interval counts."""

    root: FullName
    schedule: Schedule
    base: float
    moment: float


class TaskScheduler:
    """All runs of all tasks of an account."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self.lock = threading.RLock()
        """Held while runs change; the catalog's lock is taken inside of it, not around it."""
        self.store = Store(account.directory / "tasks.sqlite")
        self.definitions = Definitions(account)
        self.workers = Workers(MOST_BODIES)
        self.progress = Progress(account, self)
        self.active: dict[str, list[GraphRun]] = {}
        """Runs of graphs that go on, by the id of the root."""
        self._due: dict[str, Due] = {}
        self._seen = -1
        self._begun = account.clock.time()
        self.changed = threading.Event()
        """Set by statements that start, stop or change a task with a schedule."""
        self.closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Take up what a former server has left, and begin to look at the clock."""
        self.store.forget(self._account.clock.time())
        recovery.resume(self._account)
        self._thread = threading.Thread(target=self._watch, name="task scheduler", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Begin nothing more. What still runs is taken up or given up by the next server."""
        with self.lock:
            self.closed = True
        self.workers.close()
        self.changed.set()
        if self._thread is not None:
            self._thread.join()
        self.store.close()

    # -- beginning

    def execute(self, root: Object, config: str | None) -> None:
        """Run a graph now, or after the run that goes on where its overlap policy says so."""
        with self.lock:
            with self._account.catalog.lock:
                version = self.definitions.commit(root)
            now = _milliseconds(self._account.clock.time())
            if self._waits(root.data["id"], root.name, root.data["overlap"]):
                self.store.queue(version.root_id, version.number, config, now)
            else:
                self.begin(version, "EXECUTE_TASK", now, config or version.config)

    def retry(self, root: Object, run_group: str | None) -> None:
        """Run the failed tasks of the last run, or of a group, again; SqlError where that may
        not be.
        """
        with self.lock:
            graph = retries.by_hand(self._account, root, run_group)
            self.launch(graph)

    def begin(
        self, version: Version, scheduled_from: str, scheduled: float, config: str | None
    ) -> None:
        """Begin the first attempt of a run of a graph; the caller holds the lock."""
        last_group, last_scheduled = self.store.last_success(version.root_id)
        self.launch(
            GraphRun(
                id=0,
                run_group=str(uuid.uuid4()),
                attempt=1,
                version=version,
                config=config,
                scheduled_from=scheduled_from,
                scheduled=scheduled,
                original=scheduled,
                last_group=last_group,
                last_scheduled=last_scheduled,
            )
        )

    def launch(self, graph: GraphRun) -> None:
        """Enter an attempt and start what can start; the caller holds the lock."""
        self.store.begin(graph, self.next_due(graph.version.root_id, graph.scheduled))
        self._go(graph)

    def _go(self, graph: GraphRun) -> None:
        self.active.setdefault(graph.version.root_id, []).append(graph)
        self.progress.begin(graph)

    def ended(self, graph: GraphRun) -> None:
        """An attempt has ended: write it down, try again, start what has waited."""
        root_id = graph.version.root_id
        self.active[root_id].remove(graph)
        if not self.active[root_id]:
            del self.active[root_id]
        if graph.state is State.FAILED and graph.attempt <= graph.version.retries:
            following = retries.automatic(self._account, graph)
            due = self.next_due(root_id, following.scheduled)
            with self.store.together():  # or a killed server would retry never, or twice
                self.store.note(graph)
                self.store.begin(following, due)
            self._go(following)
        else:
            self.store.note(graph)
        self.start_queued(root_id)

    def start_queued(self, root_id: str) -> None:
        """Start the run that waits, if there is one and nothing that it waits for."""
        for row in self.store.queued():
            if row["root_id"] != root_id:
                continue
            version = self.store.version(root_id, row["version"])
            root = self.definitions.find_by_id(root_id)
            if version is None or root is None:
                self.store.dequeue(root_id)
            elif not self._waits(root_id, version.root, root.data["overlap"]):
                self.store.dequeue(root_id)
                config = row["config"] or version.config
                now = _milliseconds(self._account.clock.time())
                self.begin(version, "EXECUTE_TASK", now, config)

    def submit(self, graph: GraphRun, run: Run) -> None:
        """Run the body of a task in a thread."""
        self.workers.submit(lambda: bodies.run(self._account, graph, run))

    # -- looking

    def next_due(self, root_id: str, after: float) -> float | None:
        """When a root is due next, later than a moment; None without a schedule."""
        with self.lock:
            self._refresh()
            due = self._due.get(root_id)
        if due is None:
            return None
        return due.schedule.following(due.base, after)

    def scheduled(self) -> list[tuple[FullName, str, float]]:
        """The roots that are due some time, with their ids; those that a run holds up left out."""
        with self.lock:
            self._refresh()
            return [
                (due.root, root_id, due.moment)
                for root_id, due in self._due.items()
                if root_id not in self.active
            ]

    def find(self, run_group: str, attempt: int) -> GraphRun | None:
        """An attempt that goes on."""
        with self.lock:
            for graphs in self.active.values():
                for graph in graphs:
                    if graph.run_group == run_group and graph.attempt == attempt:
                        return graph
        return None

    def of_service(self, service: str) -> dict[str, Any] | None:
        """The run that has started a job, as the session that started it had it; by full name."""
        parts = Parser(service).name()
        found = self._account.catalog.find("service", FullName(*parts))
        return None if found is None else found.data.get("task")

    def abort(self, run: Run) -> None:
        """Ask the body of a run to end."""
        if run.query is not None:
            self._account.queries.abort(run.query)

    # -- the clock

    def _watch(self) -> None:
        # Each by itself: a schedule that cannot be read must not keep late bodies from ending.
        looks = [
            (Rounds(f"the look at {what}"), look)
            for what, look in (
                ("the schedules of tasks", self._refresh),
                ("tasks that are due", self._start_due),
                ("tasks that run for too long", self._end_late),
            )
        ]
        while not self.closed:
            self.changed.wait(TICK)
            with self.lock:
                if self.closed:
                    return
                well = [rounds.run(look) for rounds, look in looks]
            if not all(well):
                time.sleep(TICK)  # `changed` may stay set meanwhile

    def _refresh(self) -> None:
        catalog = self._account.catalog
        if not self.changed.is_set() and self._seen == catalog.version:
            return
        self.changed.clear()
        seen, self._seen = catalog.version, -1
        found = {}
        for task in catalog.all("task"):
            data = task.data
            if data["state"] == "started" and data["schedule"] and is_root(task):
                schedule, base = read_schedule(data["schedule"]), data["base"]
                known = self._due.get(data["id"])
                if known is None or (known.schedule, known.base) != (schedule, base):
                    # What was due before this server began is left out.
                    moment = schedule.following(base, max(base, self._begun))
                    known = Due(task.full_name, schedule, base, moment)
                found[data["id"]] = known
        self._due, self._seen = found, seen

    def _start_due(self) -> None:
        now = self._account.clock.time()
        for root_id, due in list(self._due.items()):
            if due.moment > now:
                continue
            root = self._account.catalog.find("task", due.root)
            if root is None or root.data["id"] != root_id:
                continue
            self._due[root_id] = replace(due, moment=due.schedule.following(due.base, now))
            if self._waits(root_id, root.name, root.data["overlap"]):
                continue  # this time is left out
            with self._account.catalog.lock:
                version = self.definitions.commit(root)
            self.begin(version, "SCHEDULE", due.moment, version.config)

    def _end_late(self) -> None:
        now = self._account.clock.time()
        for graphs in list(self.active.values()):
            for graph in graphs:
                for run in list(graph.runs.values()):
                    if run.deadline is None or run.deadline > now or run.timed_out is not None:
                        continue
                    if run.state is State.EXECUTING and run.query is not None:
                        run.timed_out = run.deadline - (run.started or run.deadline)
                        self.abort(run)

    def _waits(self, root_id: str, root: str, overlap: str) -> bool:
        graphs = self.active.get(root_id, [])
        if overlap == "ALLOW_ALL_OVERLAP":
            return False
        if overlap == "NO_OVERLAP":
            return bool(graphs)
        return any(
            root in graph.runs and graph.runs[root].state is State.EXECUTING for graph in graphs
        )


def _milliseconds(moment: float) -> float:
    # RUN_ID and the texts that functions give have milliseconds: times that are compared with
    # them must not be later.
    return int(moment * 1000) / 1000
