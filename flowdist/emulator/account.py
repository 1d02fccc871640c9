"""The account: all state of the emulator, and the one way in which statements run on it.

A statement comes as a request to `server.execute`, which finds its session (`server.tokens`), reads
its binds and enters it as a query (:meth:`Account.query`); the same request once more finds the
same query. A thread runs it (:meth:`Account.run`): the text is split into statements, faults have
their say, and each goes to the handler in `statements` that its first words find, or else to
`sql.engine`. What that answers, a `Result` or a `Transfer`, or the SqlError that it raises, is
noted in the query, wakes who waits for it, and becomes the reply in `server.replies`. Tasks come in
by :meth:`Account.execute`.
"""

from __future__ import annotations

import itertools
import logging
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flowdist.clock import Clock, SystemClock
from flowdist.emulator import statements
from flowdist.emulator.access import Access
from flowdist.emulator.bootstrap import bootstrap
from flowdist.emulator.bulk import Rows, divided, run_rows
from flowdist.emulator.catalog import Catalog
from flowdist.emulator.compute.control import Compute
from flowdist.emulator.compute.images import Images
from flowdist.emulator.errors import Overtaken, SqlError
from flowdist.emulator.faults import Faults
from flowdist.emulator.history import History
from flowdist.emulator.queries import Queries, Query, new_query_id
from flowdist.emulator.result import Kind, Result, Transfer, message
from flowdist.emulator.server.detached import Detached
from flowdist.emulator.server.tokens import Tokens
from flowdist.emulator.session import Session
from flowdist.emulator.sql.engine import Engine
from flowdist.emulator.sql.lexer import split
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.sql.rewrite import pipeline
from flowdist.emulator.stages.files import StageFiles
from flowdist.emulator.stages.mounts import Mounts
from flowdist.emulator.statements.secrets import masked
from flowdist.emulator.tasks.scheduler import TaskScheduler

__all__ = ["Account", "Settings"]

KEPT_QUERY_IDS = 1000
TRIES = 10
"""How often a statement begins that others overtake."""
DDL = frozenset(["CREATE", "ALTER", "DROP", "UNDROP", "TRUNCATE", "GRANT", "REVOKE", "COMMENT"])
"""Statements that begin with these commit the open transaction first, and are none themselves."""

_log = logging.getLogger(__name__)


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
    grace: float = 30.0
    """How long a container has between SIGTERM and SIGKILL when its service is stopped."""
    seed: int = 0
    """Of the faults that are left to chance."""


class Account:
    """Everything that a server serves; ``directory`` holds all that has to survive it."""

    def __init__(
        self, directory: Path, settings: Settings | None = None, clock: Clock | None = None
    ) -> None:
        statements.load()
        self.directory = directory
        self.settings = settings or Settings()
        self.clock = clock or SystemClock()
        self.started = self.clock.time()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.catalog = Catalog(directory / "catalog.sqlite", self.clock)
        self.engine = Engine(directory / "data.duckdb", self.catalog, self.clock)
        self.queries = Queries(self.clock)
        self.history = History(directory / "history.sqlite")
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
        self.detached = Detached(self)
        self._parts = (
            self.faults,
            self.access,
            self.tokens,
            self.files,
            self.mounts,
            self.images,
            self.compute,
            self.tasks,
            self.detached,
        )
        bootstrap(self)

    @property
    def password(self) -> str:
        """The password of the ready-made user, which clients of this machine are to find."""
        return str(self.catalog.setting("password"))

    def start(self) -> None:
        """Begin what runs in the background, once it is known where the server listens."""
        self.history.start()
        for part in self._parts:
            part.start()

    def close(self) -> None:
        """Stop what runs in the background and let go of the files."""
        for part in reversed(self._parts):
            part.close()
        self.engine.close()
        self.history.close()
        self.catalog.close()

    def open_session(self, user: str, role: str, **rest: Any) -> Session:
        """A new session."""
        with self._lock:
            made = Session(next(self._session_ids), user, role, **rest)
            self.access.prepare(made)
            self.catalog.keep("last_session", made.id)
            self.sessions[made.id] = made
        return made

    def close_session(self, session: Session) -> None:
        """End a session: its transaction is rolled back, its temporary objects go."""
        with self._lock:
            self.sessions.pop(session.id, None)
        self.engine.forget(session)
        self.files.forget(session)

    def drop_schema(self, database: str, schema: str) -> None:
        """Remove all that is in a schema: services end, files and tables go, then the rest."""
        self.compute.drop_schema(database, schema)
        for stage in self.catalog.all("stage", database, schema):
            self.files.drop(stage)
        self.engine.drop_schema(database, schema)
        for found in self.catalog.inside(database, schema):
            self.catalog.drop(found)
        self.tasks.changed.set()

    def query(self, session: Session, sql: str, request_id: str = "") -> tuple[Query, bool]:
        """Enter a statement; and whether it is new, rather than one that a request repeats."""
        made = Query(
            id=new_query_id(),
            text=masked(sql),
            sql=sql,
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
            # Not its words, which may have values in them that nobody is to find in a log.
            at = "".join(traceback.format_tb(failed.__traceback__))
            _log.error("query %s: %s at\n%s", query.id, type(failed).__name__, at)
        session.query_ids.append(query.id)
        del session.query_ids[:-KEPT_QUERY_IDS]
        if error is not None:
            _log.info("query %s of session %d: error %s", query.id, session.id, error.code)
        self.queries.finish(query, outcome, error)
        self.history.note(query, session)

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
        parts = split(query.sql or query.text)
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
        for number, text in enumerate(parts):
            # The request of a part: that what it has done is known when all are repeated.
            request_id = query.request_id and f"{query.request_id}#{number}"
            query.check()
            child, new = self.query(session, text, request_id)
            ids.append(child.id)
            own, binds = divided(text, binds)
            abort = partial(self.queries.abort, child)
            query.on_stop.append(abort)
            if query.stop.is_set():
                abort()
            if new:
                self.run(session, child, own, count=1)
            else:  # a job, for which a former server has waited: see compute/answers.py
                child.done.wait()
            query.on_stop.remove(abort)
            if child.error is not None:
                raise child.error
            if isinstance(child.outcome, Transfer):
                raise SqlError(2, "0A000", "PUT and GET cannot be one of several statements")
        done = message("Multiple statements executed successfully.")
        return Result(done.columns, done.table, Kind.MULTI, tuple(ids))

    def _one(
        self, context: statements.Context, sql: str, binds: Sequence[Any]
    ) -> Result | Transfer:
        self.faults.before_statement(context.query)
        if isinstance(binds, Rows):
            return run_rows(context, sql, binds, self._dispatch)
        return self._dispatch(context, sql, binds)

    def _dispatch(
        self, context: statements.Context, sql: str, binds: Sequence[Any]
    ) -> Result | Transfer:
        if "->>" in sql and len(pipeline(sql)) > 1:
            return self.engine.run(context, sql, binds)
        parse = Parser(sql, binds)
        changes = parse.word() in DDL and parse.word(1) != "SESSION"
        handler = statements.find_statement(parse)
        if handler is None:
            return self.engine.run(context, sql, binds)
        if changes:
            self.engine.commit(context.session)
        for _ in range(TRIES):
            try:
                return handler(context, parse)
            except SqlError as error:
                # That it exists is no error where IF NOT EXISTS or OR REPLACE was said: another
                # statement was faster.
                made = error.errno == 2002 and (
                    parse.conditional or "OR REPLACE" in parse.modifiers
                )
                if not made and not isinstance(error, Overtaken):
                    raise
            parse = Parser(sql, binds)
            statements.find_statement(parse)
        return handler(context, parse)
