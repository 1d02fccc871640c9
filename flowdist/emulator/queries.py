"""The queries of the account: what runs, what has run, and what it answered."""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from flowdist.clock import Clock
from flowdist.emulator.errors import SqlError, cancelled
from flowdist.emulator.result import Result, Transfer

__all__ = ["Queries", "Query", "State"]

KEPT = 20_000
"""How many finished queries are remembered."""


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

    Long-running handlers call :meth:`check` now and then, or wait on ``stop``.
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
    state: State = State.RUNNING
    ended: float | None = None
    outcome: Result | Transfer | None = None
    error: SqlError | None = None
    done: threading.Event = field(default_factory=threading.Event, repr=False)
    stop: threading.Event = field(default_factory=threading.Event, repr=False)
    on_stop: list[Callable[[], None]] = field(default_factory=list, repr=False)
    """Called when the query is aborted, to interrupt what waits elsewhere (the SQL engine)."""

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
        self._by_request: dict[str, Query] = {}

    def begin(self, query: Query) -> Query:
        """Enter a query; the one that the same request has brought before, if it has."""
        with self._lock:
            if query.request_id in self._by_request:
                return self._by_request[query.request_id]
            self._by_id[query.id] = query
            if query.request_id:
                self._by_request[query.request_id] = query
            while len(self._by_id) > KEPT and next(iter(self._by_id.values())).state.ended:
                _, old = self._by_id.popitem(last=False)
                self._by_request.pop(old.request_id, None)
            return query

    def finish(
        self, query: Query, outcome: Result | Transfer | None, error: SqlError | None
    ) -> None:
        """Note how a query has ended, and wake who waits for it."""
        query.outcome, query.error = outcome, error
        query.ended = self._clock.time()
        if error is None:
            query.state = State.SUCCESS
        else:
            query.state = State.ABORTED if query.stop.is_set() else State.FAILED
        query.done.set()

    def find(self, query_id: str) -> Query | None:
        """The query of that id, if it is remembered."""
        with self._lock:
            return self._by_id.get(query_id)

    def of_request(self, request_id: str) -> Query | None:
        """The query that a request has brought, if it is remembered."""
        with self._lock:
            return self._by_request.get(request_id)

    def abort(self, query: Query) -> None:
        """Ask a query to end; it ends as soon as it notices."""
        query.stop.set()
        for interrupt in query.on_stop:
            interrupt()

    def all(self) -> list[Query]:
        """Oldest first."""
        with self._lock:
            return list(self._by_id.values())


def new_query_id() -> str:
    """An id as Snowflake makes them: a UUID."""
    return str(uuid.uuid4())
