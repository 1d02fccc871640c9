"""What statements have run: written behind into an SQLite file of its own, and bounded.

Finished statements wait in memory for a moment and are written many at a time, so that history
costs a statement almost nothing; a process that is killed loses the last second of it, and of
nothing else.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

from flowdist.emulator.names import FullName
from flowdist.emulator.queries import Query, State
from flowdist.emulator.result import Result
from flowdist.emulator.session import Session
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.sqlite import open_file

__all__ = ["Entry", "History", "query_type"]

KEPT = 100_000
"""How many statements are remembered on disk."""
LONGEST = 100_000
"""Characters of a statement's text that are kept, as in Snowflake."""
PERIOD = 1.0
"""Seconds between two writings."""
BATCH = 2_000
"""How many statements wait in memory at the most."""

_STATUS = {State.RUNNING: "RUNNING", State.QUEUED: "QUEUED", State.SUCCESS: "SUCCESS"}
_KINDS = (
    "COMPUTE POOL",
    "EXTERNAL ACCESS INTEGRATION",
    "IMAGE REPOSITORY",
    "NETWORK RULE",
    "DATABASE",
    "FUNCTION",
    "INTEGRATION",
    "PROCEDURE",
    "ROLE",
    "SCHEMA",
    "SECRET",
    "SEQUENCE",
    "SERVICE",
    "SESSION",
    "STAGE",
    "TABLE",
    "TASK",
    "USER",
    "VIEW",
    "WAREHOUSE",
)


@dataclass(frozen=True)
class Entry:
    """A statement that has run or runs; times are Unix time in seconds, ``ended`` 0 while it runs.

    The columns of the file have the same names, in the same order.
    """

    id: str
    text: str
    type: str
    session_id: int
    user: str
    user_type: str
    user_database: str | None
    user_schema: str | None
    role: str
    database: str | None
    schema: str | None
    warehouse: str | None
    tag: str
    status: str
    error_code: int | None
    error_message: str | None
    started: float
    ended: float
    rows: int


class History:
    """The statements of an account, those of earlier processes included."""

    def __init__(self, path: Path) -> None:
        self._file = open_file(path, "OFF")
        names = [f.name for f in fields(Entry)]
        self._file.execute(
            "CREATE TABLE IF NOT EXISTS queries (number INTEGER PRIMARY KEY, "
            + ", ".join(f'"{name}"' for name in names)
            + ")"
        )
        self._columns = ", ".join(f'"{name}"' for name in names)
        self._places = ", ".join("?" * len(names))
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._waiting: list[tuple[Query, Session]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to write in the background."""
        self._thread = threading.Thread(target=self._write_on, name="history", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what waits, and let go of the file."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()
        self._file.close()

    def note(self, query: Query, session: Session) -> None:
        """A statement has ended."""
        with self._lock:
            self._waiting.append((query, session))
            full = len(self._waiting) >= BATCH
        if full:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        with self._writing:
            with self._lock:
                waiting, self._waiting = self._waiting, []
            if not waiting:
                return
            rows = [tuple(vars(entry(query, session)).values()) for query, session in waiting]
            self._file.execute("BEGIN")
            try:
                self._file.executemany(
                    f"INSERT INTO queries ({self._columns}) VALUES ({self._places})", rows
                )
                (last,) = self._file.execute("SELECT max(number) FROM queries").fetchone()
                self._file.execute("DELETE FROM queries WHERE number <= ?", (last - KEPT,))
                self._file.execute("COMMIT")
            except sqlite3.Error:
                self._file.execute("ROLLBACK")  # else nothing could be written any more
                raise

    def ended(
        self, *, since: float = 0.0, until: float | None = None, newest: int = KEPT
    ) -> list[Entry]:
        """The statements that have ended in a time, newest first, at most `newest`."""
        self.flush()
        with self._writing:
            found = self._file.execute(
                f"SELECT {self._columns} FROM queries WHERE ended >= ? AND ended <= ? "
                "ORDER BY number DESC LIMIT ?",
                (since, float("inf") if until is None else until, newest),
            ).fetchall()
        return [Entry(*row) for row in found]

    def _write_on(self) -> None:
        while not self._stop.wait(PERIOD):
            self.flush()


def entry(query: Query, session: Session | None) -> Entry:
    """What is remembered of a statement."""
    service = _service(session.service) if session and session.service else None
    result = query.outcome
    return Entry(
        id=query.id,
        text=query.text[:LONGEST],
        type=query_type(query.text),
        session_id=query.session_id,
        user=query.user,
        user_type="SNOWFLAKE_SERVICE" if service else "PERSON",
        user_database=service.database if service else None,
        user_schema=service.schema if service else None,
        role=query.role,
        database=query.database,
        schema=query.schema,
        warehouse=query.warehouse,
        tag=query.tag,
        status=_STATUS.get(query.state, "FAILED_WITH_ERROR"),
        error_code=query.error.errno if query.error else None,
        error_message=query.error.message if query.error else None,
        started=query.started,
        ended=query.ended or 0.0,
        rows=result.table.num_rows if isinstance(result, Result) else 0,
    )


@lru_cache(1000)
def _service(name: str) -> FullName:
    return FullName(*Parser(name).name())


@lru_cache(1000)
def query_type(text: str) -> str:
    """What kind of statement a text is, as QUERY_TYPE has it.

    >>> query_type("insert into t select 1"), query_type("create or replace table t (i int)")
    ('INSERT', 'CREATE_TABLE')
    >>> query_type("execute job service in compute pool p"), query_type("with a as (...) select")
    ('EXECUTE_JOB_SERVICE', 'SELECT')
    """
    start = re.sub(r"\A(?:\s+|--[^\n]*(?:\n|\Z)|/\*.*?\*/)+", "", text[:2000], flags=re.DOTALL)
    words = re.findall(r"[A-Za-z_]+", start[:200])
    verb = words[0].upper() if words else ""
    following = " ".join(words[1:12]).upper()
    if verb in ("SELECT", "WITH", ""):
        return "SELECT" if verb or start.startswith("(") else "UNKNOWN"
    if verb in ("CREATE", "ALTER", "DROP"):
        found = re.match(rf"(?:[A-Z]+ ){{0,4}}?({'|'.join(_KINDS)})\b", following)
        return f"{verb}_{found.group(1).replace(' ', '_')}" if found else verb
    if verb == "EXECUTE":
        found = re.match("JOB SERVICE|TASK|IMMEDIATE", following)
        return f"EXECUTE_{found.group().replace(' ', '_')}" if found else verb
    aliases = {
        "DESC": "DESCRIBE",
        "LIST": "LIST_FILES",
        "LS": "LIST_FILES",
        "PUT": "PUT_FILES",
        "GET": "GET_FILES",
        "REMOVE": "REMOVE_FILES",
        "RM": "REMOVE_FILES",
        "BEGIN": "BEGIN_TRANSACTION",
        "TRUNCATE": "TRUNCATE_TABLE",
    }
    return aliases.get(verb, verb)
