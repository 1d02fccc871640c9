"""The durable side of task runs: one SQLite file, written before anything goes on.

A run that is EXECUTING in the file when the server starts was cut off when it ended.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flowdist.emulator.sqlite import open_file
from flowdist.emulator.tasks.runs import GraphRun, Member, Run, State, Version

__all__ = ["Store", "carried_states"]

KEPT = 14 * 86_400
"""Seconds that a run is remembered: as long as it may be retried."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS versions (
    root_id TEXT, number INTEGER, json TEXT, PRIMARY KEY (root_id, number));
CREATE TABLE IF NOT EXISTS graphs (
    id INTEGER PRIMARY KEY, run_group TEXT, attempt INTEGER, root_id TEXT, root TEXT,
    database TEXT, schema TEXT, owner TEXT, version INTEGER, config TEXT, scheduled_from TEXT,
    scheduled REAL, original REAL, last_group TEXT, last_scheduled REAL, next REAL, state TEXT,
    started REAL, completed REAL);
CREATE INDEX IF NOT EXISTS graphs_by_root ON graphs (root_id, run_group);
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY, graph INTEGER, task TEXT, definition TEXT, condition TEXT,
    scheduled REAL, state TEXT, query_id TEXT, started REAL, completed REAL, error_code INTEGER,
    error TEXT, returned TEXT, job INTEGER, lost INTEGER);
CREATE INDEX IF NOT EXISTS runs_by_graph ON runs (graph);
CREATE INDEX IF NOT EXISTS runs_by_time ON runs (scheduled);
CREATE TABLE IF NOT EXISTS queued (
    root_id TEXT PRIMARY KEY, version INTEGER, config TEXT, requested REAL);
"""

_HISTORY = """
SELECT r.*, g.run_group, g.attempt, g.root_id, g.root, g.database, g.schema, g.owner, g.version,
       g.config, g.scheduled_from, g.original, g.next
FROM runs r JOIN graphs g ON g.id = r.graph
"""


class Store:
    """Versions of graphs, their runs, and what waits to run; may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._file = open_file(path)
        self._file.row_factory = sqlite3.Row
        self._file.executescript(_SCHEMA)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._file.close()

    def forget(self, now: float) -> None:
        """Drop what is older than it may be asked for."""
        with self._lock:
            old = now - KEPT
            self._file.execute(
                "DELETE FROM runs WHERE graph IN (SELECT id FROM graphs WHERE completed < ?)",
                (old,),
            )
            self._file.execute("DELETE FROM graphs WHERE completed < ?", (old,))
            self._file.execute(
                "DELETE FROM versions WHERE NOT EXISTS (SELECT 1 FROM graphs g WHERE "
                "g.root_id = versions.root_id AND g.version = versions.number) AND number < "
                "(SELECT max(number) FROM versions v WHERE v.root_id = versions.root_id)"
            )

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that is written inside is written, or nothing. Whoever is inside must not wait for
        another lock: the statements on tasks write while they hold the catalog's.
        """
        with self._lock:
            if self._file.in_transaction:
                yield
                return
            self._file.execute("BEGIN")
            try:
                yield
            except BaseException:
                self._file.execute("ROLLBACK")
                raise
            self._file.execute("COMMIT")

    # -- versions

    def keep_version(self, version: Version) -> None:
        """Write down a graph as it is."""
        self._write(
            "INSERT OR REPLACE INTO versions VALUES (?, ?, ?)",
            (version.root_id, version.number, json.dumps(asdict(version))),
        )

    def version(self, root_id: str, number: int) -> Version | None:
        """A graph as it was."""
        rows = self._read(
            "SELECT json FROM versions WHERE root_id = ? AND number = ?", (root_id, number)
        )
        if not rows:
            return None
        data = json.loads(rows[0]["json"])
        data["members"] = {
            name: Member(**{**member, "predecessors": tuple(member["predecessors"])})
            for name, member in data["members"].items()
        }
        return Version(**data)

    # -- runs

    def begin(self, graph: GraphRun, following: float | None) -> None:
        """Enter a run of a graph, which gets its id; `following` is when the next one is due."""
        version = graph.version
        graph.id = self._write(
            "INSERT INTO graphs (run_group, attempt, root_id, root, database, schema, owner, "
            "version, config, scheduled_from, scheduled, original, last_group, last_scheduled, "
            "next, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                graph.run_group,
                graph.attempt,
                version.root_id,
                version.root,
                version.database,
                version.schema,
                version.owner,
                version.number,
                graph.config,
                graph.scheduled_from,
                graph.scheduled,
                graph.original,
                graph.last_group,
                graph.last_scheduled,
                following,
                graph.state,
            ),
        )

    def note(self, graph: GraphRun) -> None:
        """Write down how a run of a graph stands."""
        self._write(
            "UPDATE graphs SET state = ?, started = ?, completed = ? WHERE id = ?",
            (graph.state, graph.started, graph.completed, graph.id),
        )

    def enter(self, graph: GraphRun, run: Run) -> None:
        """Enter a run of a task, which gets its id."""
        member = graph.version.members[run.task]
        run.id = self._write(
            "INSERT INTO runs (graph, task, definition, condition, scheduled, state) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (graph.id, run.task, member.definition, member.condition, run.scheduled, run.state),
        )

    def update(self, run: Run) -> None:
        """Write down how a run of a task stands."""
        self._write(
            "UPDATE runs SET state = ?, query_id = ?, started = ?, completed = ?, error_code = ?, "
            "error = ?, returned = ?, job = ?, lost = ? WHERE id = ?",
            (
                run.state,
                run.query_id,
                run.started,
                run.completed,
                run.error_code,
                run.error,
                run.returned,
                run.job,
                run.lost,
                run.id,
            ),
        )

    def executing(self) -> list[sqlite3.Row]:
        """The runs of graphs that have not ended."""
        return self._read("SELECT * FROM graphs WHERE completed IS NULL ORDER BY id", ())

    def attempts(self, root_id: str, run_group: str | None = None) -> list[sqlite3.Row]:
        """The runs of a graph, or those of one group, oldest first."""
        return self._read(
            "SELECT * FROM graphs WHERE root_id = ? AND (? IS NULL OR run_group = ?) ORDER BY id",
            (root_id, run_group, run_group),
        )

    def last_success(self, root_id: str) -> tuple[str | None, float | None]:
        """Group and original time of the last run of a graph that succeeded."""
        rows = self._read(
            "SELECT run_group, original FROM graphs WHERE root_id = ? AND state = 'SUCCEEDED' "
            "ORDER BY id DESC LIMIT 1",
            (root_id,),
        )
        return (rows[0]["run_group"], rows[0]["original"]) if rows else (None, None)

    def runs_of(self, root_id: str, run_group: str) -> list[sqlite3.Row]:
        """The runs of all tasks in all attempts of a group, oldest first."""
        return self._read(
            f"{_HISTORY} WHERE g.root_id = ? AND g.run_group = ? ORDER BY r.id",
            (root_id, run_group),
        )

    def history(self, since: float, until: float) -> Iterator[sqlite3.Row]:
        """Runs of tasks scheduled within a time, latest first."""
        yield from self._read(
            f"{_HISTORY} WHERE r.scheduled BETWEEN ? AND ? ORDER BY r.scheduled DESC, r.id DESC",
            (since, until),
        )

    def graphs(self, completed_since: float | None) -> list[sqlite3.Row]:
        """Runs of graphs that have ended since then, last first; those that go on, if None.

        With the first task that failed in each, as `error_task`, `error_code`, `error`.
        """
        chosen = "g.completed IS NULL" if completed_since is None else "g.completed >= ?"
        return self._read(
            "SELECT g.*, e.task AS error_task, e.error_code, e.error FROM graphs g "
            "LEFT JOIN runs e ON e.id = (SELECT id FROM runs WHERE graph = g.id AND "
            "state IN ('FAILED', 'FAILED_AND_AUTO_SUSPENDED') ORDER BY completed, id LIMIT 1) "
            f"WHERE {chosen} ORDER BY g.completed DESC, g.scheduled DESC, g.id DESC",
            () if completed_since is None else (completed_since,),
        )

    # -- what waits

    def queue(self, root_id: str, version: int, config: str | None, requested: float) -> None:
        """Let a run wait for the one that goes on; it replaces what has waited before."""
        self._write(
            "INSERT OR REPLACE INTO queued VALUES (?, ?, ?, ?)",
            (root_id, version, config, requested),
        )

    def queued(self) -> list[sqlite3.Row]:
        """What waits."""
        return self._read("SELECT * FROM queued", ())

    def dequeue(self, root_id: str) -> None:
        """It waits no more."""
        self._write("DELETE FROM queued WHERE root_id = ?", (root_id,))

    def _read(self, sql: str, values: Sequence[Any]) -> list[sqlite3.Row]:
        with self._lock:
            return self._file.execute(sql, values).fetchall()

    def _write(self, sql: str, values: Sequence[Any]) -> int:
        with self._lock:
            return int(self._file.execute(sql, values).lastrowid or 0)


def carried_states(rows: Sequence[sqlite3.Row]) -> dict[str, State]:
    """What runs of a group, in order, have settled: the tasks that need not run again."""
    found: dict[str, State] = {}
    for row in rows:
        state = State(row["state"])
        if state in (State.SUCCEEDED, State.SKIPPED):
            found[row["task"]] = state
        else:
            found.pop(row["task"], None)
    return found
