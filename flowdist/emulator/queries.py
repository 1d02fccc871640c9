"""The queries of the account: what runs, what has run, and what it answered."""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from flowdist.clock import Clock
from flowdist.emulator.errors import SqlError, cancelled
from flowdist.emulator.result import Result, Transfer

__all__ = ["Queries", "Query", "State"]

KEPT = 20_000
"""How many queries are remembered; those that ended first are forgotten first, and none that runs.
"""

RESULT_BYTES = 1_000_000_000
"""How much the results and texts of remembered queries may take in memory; those of the oldest are
forgotten first."""
LONGEST_TEXT, SHORTEST_TEXT = 100_000, 1000
"""How many characters of its text a query that has ended keeps, and one whose result is forgotten;
the first is what Snowflake's history has."""

_DESCRIBED = (
    "id",
    "text",
    "session_id",
    "user",
    "role",
    "database",
    "schema",
    "warehouse",
    "tag",
    "request_id",
    "started",
)


class State(StrEnum):
    """As GET /monitoring/queries names them."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED_WITH_ERROR"
    ABORTED = "ABORTED"

    @property
    def ended(self) -> bool:
        """Whether it changes no more."""
        return self not in (State.QUEUED, State.RUNNING)


@dataclass
class Query:
    """One statement, from its arrival on. Times are Unix time in seconds.

    Long-running handlers call :meth:`check` now and then, or wait on ``stop``. ``text`` is what may
    be shown; ``sql`` what runs, where that is not the same: it may have secrets in it.
    """

    id: str
    text: str
    session_id: int
    user: str
    role: str
    database: str | None
    schema: str | None
    warehouse: str | None
    tag: str
    request_id: str
    started: float
    sql: str = field(default="", repr=False)
    state: State = State.RUNNING
    ended: float | None = None
    outcome: Result | Transfer | None = None
    error: SqlError | None = None
    done: threading.Event = field(default_factory=threading.Event, repr=False)
    stop: threading.Event = field(default_factory=threading.Event, repr=False)
    on_stop: list[Callable[[], None]] = field(default_factory=list, repr=False)
    """Called when the query is aborted, to interrupt what waits elsewhere (the SQL engine)."""
    on_done: list[Callable[[], None]] = field(default_factory=list, repr=False)
    """Called once it has ended; to be added by :meth:`Queries.when_done`."""
    why_stopped: SqlError | None = None
    """The error of a query that was stopped for another reason than that somebody asked for it."""
    result_format: str = ""
    """JSON or ARROW where the request wants it so, rather than as the session has it."""
    bound: Result | None = None
    """The rows that are bound to it, while it runs, where there are many."""

    def described(self) -> dict[str, Any]:
        """What a later server needs to take it up: keywords of a `Query`, for JSON."""
        return {name: getattr(self, name) for name in _DESCRIBED}

    def check(self) -> None:
        """Raise SqlError 604 if somebody has aborted the query."""
        if self.stop.is_set():
            raise cancelled()


class Queries:
    """All queries by id and by the request that brought them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._by_id: OrderedDict[str, Query] = OrderedDict()
        self._by_request: dict[tuple[int, str], Query] = {}
        """By session, too: what one may ask again says nothing to another."""
        self._ended: deque[str] = deque()
        """Those that have ended, the first one first."""
        self._sizes: OrderedDict[str, int] = OrderedDict()
        """How many bytes those take that have ended and are not forgotten; oldest first."""
        self._bytes = 0

    def begin(self, query: Query) -> Query:
        """Enter a query; the one that the same request of the same session has brought before, if
        it has.
        """
        key = query.session_id, query.request_id
        with self._lock:
            if key in self._by_request:
                return self._by_request[key]
            self._by_id[query.id] = query
            if query.request_id:
                self._by_request[key] = query
            while len(self._by_id) > KEPT and self._ended:
                old = self._by_id.pop(self._ended.popleft())
                self._by_request.pop((old.session_id, old.request_id), None)
                self._bytes -= self._sizes.pop(old.id, 0)
            return query

    def finish(
        self, query: Query, outcome: Result | Transfer | None, error: SqlError | None
    ) -> None:
        """Note how a query has ended, and wake who waits for it."""
        if error is not None and query.stop.is_set() and query.why_stopped is not None:
            error = query.why_stopped
        with self._lock:
            query.outcome, query.error = outcome, error
            query.ended = self._clock.time()
            if error is None:
                query.state = State.SUCCESS
            else:
                query.state = State.ABORTED if query.stop.is_set() else State.FAILED
            query.sql, query.text = "", query.text[:LONGEST_TEXT]
            if not query.done.is_set():
                self._ended.append(query.id)
            self._account_for(query)
            query.done.set()
            waiting, query.on_done = query.on_done, []
        for wake in waiting:
            wake()

    def when_done(self, query: Query, wake: Callable[[], None]) -> None:
        """Call `wake` once a query has ended, from whatever thread that is; at once if it has."""
        with self._lock:
            if not query.done.is_set():
                query.on_done.append(wake)
                return
        wake()

    def _account_for(self, query: Query) -> None:
        """Forget the oldest results where all of them take too much."""
        size = len(query.text)
        if isinstance(query.outcome, Result):
            size += query.outcome.table.get_total_buffer_size()
        self._sizes[query.id] = size
        self._bytes += size
        while self._bytes > RESULT_BYTES and len(self._sizes) > 1:
            name, size = self._sizes.popitem(last=False)
            self._bytes -= size
            old = self._by_id[name]
            old.outcome, old.text = None, old.text[:SHORTEST_TEXT]

    def find(self, query_id: str) -> Query | None:
        """The query of that id, if it is remembered."""
        with self._lock:
            return self._by_id.get(query_id)

    def of_request(self, session_id: int, request_id: str) -> Query | None:
        """The query that a request of a session has brought, if it is remembered."""
        with self._lock:
            return self._by_request.get((session_id, request_id))

    def abort(self, query: Query) -> None:
        """Ask a query to end; it ends as soon as it notices."""
        query.stop.set()
        for interrupt in list(query.on_stop):
            interrupt()

    def all(self) -> list[Query]:
        """Oldest first."""
        with self._lock:
            return list(self._by_id.values())


def new_query_id() -> str:
    """An id as Snowflake makes them: a UUID."""
    return str(uuid.uuid4())
