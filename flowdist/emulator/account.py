"""The account: all state of the emulator, and the one way in which statements run on it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowdist.clock import Clock, SystemClock
from flowdist.emulator import statements
from flowdist.emulator.access import Access
from flowdist.emulator.catalog import Catalog
from flowdist.emulator.compute.control import Compute
from flowdist.emulator.compute.images import Images
from flowdist.emulator.errors import SqlError
from flowdist.emulator.faults import Faults
from flowdist.emulator.queries import Queries, Query, new_query_id
from flowdist.emulator.result import Kind, Result, Transfer, message
from flowdist.emulator.server.tokens import Tokens
from flowdist.emulator.session import Session
from flowdist.emulator.sql.engine import Engine
from flowdist.emulator.sql.lexer import split
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.stages.files import StageFiles
from flowdist.emulator.stages.mounts import Mounts
from flowdist.emulator.tasks.scheduler import TaskScheduler

__all__ = ["Account", "Settings"]

KEPT_QUERY_IDS = 1000


@dataclass(frozen=True)
class Settings:
    """How an emulator is to behave. Times are in seconds.

    ``node_start`` is how long a node of a compute pool takes to start; ``visibility_delay`` how
    long a file that a container has written stays unseen by others; ``strict_mounts`` whether
    mounted stages refuse what Snowflake's do not do; ``runtime`` what containers are: "process" or
    "podman".
    """

    account: str = "EMULATOR"
    node_start: float = 0.0
    visibility_delay: float = 0.0
    strict_mounts: bool = True
    runtime: str = "process"


class Account:
    """Everything that a server serves; ``directory`` holds all that has to survive it."""

    def __init__(
        self, directory: Path, settings: Settings | None = None, clock: Clock | None = None
    ) -> None:
        statements.load()
        self.directory = directory
        self.settings = settings or Settings()
        self.clock = clock or SystemClock()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.catalog = Catalog(directory / "catalog.sqlite", self.clock)
        self.engine = Engine(directory / "data.duckdb", self.catalog, self.clock)
        self.queries = Queries(self.clock)
        self.url = ""
        """Where the server listens, once it does: ``http://127.0.0.1:PORT``."""
        self._session_ids = itertools.count(self.catalog.setting("last_session", 0) + 1)
        self._lock = threading.Lock()
        self.sessions: dict[int, Session] = {}
        self.faults = Faults(self)
        self.access = Access(self)
        self.tokens = Tokens(self)
        self.files = StageFiles(self)
        self.mounts = Mounts(self)
        self.images = Images(self)
        self.compute = Compute(self)
        self.tasks = TaskScheduler(self)
        self._parts = (
            self.faults,
            self.access,
            self.tokens,
            self.files,
            self.mounts,
            self.images,
            self.compute,
            self.tasks,
        )

    def start(self) -> None:
        """Begin what runs in the background, once it is known where the server listens."""
        for part in self._parts:
            part.start()

    def close(self) -> None:
        """Stop what runs in the background and let go of the files."""
        for part in reversed(self._parts):
            part.close()
        self.engine.close()
        self.catalog.close()

    def open_session(self, user: str, role: str, **rest: Any) -> Session:
        """A new session."""
        with self._lock:
            made = Session(next(self._session_ids), user, role, **rest)
            self.catalog.keep("last_session", made.id)
            self.sessions[made.id] = made
        return made

    def close_session(self, session: Session) -> None:
        """End a session: its transaction is rolled back, its temporary objects go."""
        with self._lock:
            self.sessions.pop(session.id, None)
        self.engine.forget(session)

    def query(self, session: Session, sql: str, request_id: str = "") -> tuple[Query, bool]:
        """Enter a statement; and whether it is new, rather than one that a request repeats."""
        made = Query(
            id=new_query_id(),
            text=sql,
            session_id=session.id,
            user=session.user,
            role=session.role,
            database=session.database,
            schema=session.schema,
            warehouse=session.warehouse,
            tag=str(session.parameter("QUERY_TAG")),
            request_id=request_id,
            started=self.clock.time(),
        )
        found = self.queries.begin(made)
        return found, found is made

    def run(
        self, session: Session, query: Query, binds: Sequence[Any] = (), count: int | None = None
    ) -> None:
        """Run a query that was entered, to its end; how it ended is noted in it, never raised.

        `count` is how many statements the text may have, 0 for any number; the session's
        MULTI_STATEMENT_COUNT where it is None.
        """
        outcome: Result | Transfer | None = None
        error: SqlError | None = None
        try:
            outcome = self._answer(session, query, binds, count)
        except SqlError as failed:
            error = failed
        except Exception as failed:  # a defect of the emulator is an answer too, not a dead client
            error = SqlError(603, "XX000", f"SQL execution internal error:\n{failed!r}")
        session.query_ids.append(query.id)
        del session.query_ids[:-KEPT_QUERY_IDS]
        self.queries.finish(query, outcome, error)

    def execute(self, session: Session, sql: str, binds: Sequence[Any] = ()) -> Result:
        """Run one statement to its end, as tasks do; SqlError if it fails."""
        query, _ = self.query(session, sql)
        self.run(session, query, binds, count=1)
        if query.error is not None:
            raise query.error
        if not isinstance(query.outcome, Result):
            raise SqlError(2, "0A000", "PUT and GET are for clients only")
        return query.outcome

    def _answer(
        self, session: Session, query: Query, binds: Sequence[Any], count: int | None
    ) -> Result | Transfer:
        parts = split(query.text)
        wanted = int(session.parameter("MULTI_STATEMENT_COUNT")) if count is None else count
        if not parts:
            raise SqlError(900, "42601", "SQL compilation error:\nempty SQL statement.")
        if wanted not in (0, len(parts)):
            raise SqlError(
                8,
                "0A000",
                f"Actual statement count {len(parts)} did not match the desired statement count "
                f"{wanted}.",
            )
        if len(parts) == 1:
            return self._one(statements.Context(self, session, query), parts[0], binds)
        ids = []
        for text in parts:
            child, _ = self.query(session, text)
            ids.append(child.id)
            self.run(session, child, (), count=1)
            if child.error is not None:
                raise child.error
        done = message("Multiple statements executed successfully.")
        return Result(done.columns, done.table, Kind.MULTI, tuple(ids))

    def _one(
        self, context: statements.Context, sql: str, binds: Sequence[Any]
    ) -> Result | Transfer:
        parse = Parser(sql, binds)
        handler = statements.find_statement(parse)
        if handler is None:
            return self.engine.run(context, sql, binds)
        return handler(context, parse)
