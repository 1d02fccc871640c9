"""Statements over the wire: submitted, waited for, fetched, aborted."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flowdist.emulator import statements
from flowdist.emulator.errors import SqlError, unsupported
from flowdist.emulator.parameters import SESSION, Effect
from flowdist.emulator.queries import Query
from flowdist.emulator.server.binds import read_binds
from flowdist.emulator.server.describe import describe
from flowdist.emulator.server.protocol import (
    answered,
    defect,
    envelope,
    failure,
    json_body,
    json_reply,
    session_of,
)
from flowdist.emulator.server.replies import Replies, gone, is_small, status_of

if TYPE_CHECKING:
    from flowdist.emulator.account import Account
    from flowdist.emulator.session import Session

__all__ = ["PATIENCE", "Runner", "routes"]

T = TypeVar("T")
_log = logging.getLogger(__name__)

THREADS = 2000
"""Each statement that waits (a job, a lock) holds a thread; there must be some for the others."""
PATIENCE = 45.0
"""After so many seconds a request is answered, whether its statement has ended or not: before
clients take the server for dead."""


class Job:
    """A statement that a thread runs; ``reply`` is settled with the text to send, or with None
    where it has ended after the request was answered.
    """

    def __init__(self, session: Session, query: Query, base: str, *, wanted: bool) -> None:
        self.session, self.query, self.base = session, query, base
        self.loop = asyncio.get_running_loop()
        self.reply: asyncio.Future[str | None] = self.loop.create_future()
        self.wanted = wanted
        """Whether a request waits for the reply."""


class Runner:
    """Runs statements in threads of its own, and tells the event loop when they have ended.

    A thread wakes the loop once, when all is done and the reply is made: each change between the
    two costs more than many a statement.
    """

    def __init__(self, account: Account, replies: Replies, patience: float) -> None:
        self._account = account
        self._replies = replies
        self.patience = patience
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="statement")
        self._running: dict[int, int] = {}
        """How many statements of a session run, by its id. Only the event loop's thread counts."""
        self._closing: dict[int, Session] = {}

    def start(
        self,
        job: Job,
        binds: Sequence[Any],
        count: int | None,
        timeout: float,
    ) -> None:
        """Run a query that was entered; it is aborted after `timeout` seconds."""
        session = job.session
        self._running[session.id] = self._running.get(session.id, 0) + 1
        timer = job.loop.call_later(timeout, self._too_long, job.query, timeout)
        self.pool.submit(self._run, job, binds, count, timer)

    async def reply(self, job: Job) -> str | None:
        """The reply to a job, as soon as it has ended; None where the patience is over before."""
        return await self._patiently(job.reply)

    async def ended(self, query: Query) -> bool:
        """Wait for a query that another request has brought; whether it has ended."""
        if query.done.is_set():
            return True
        loop = asyncio.get_running_loop()
        done: asyncio.Future[bool | None] = loop.create_future()
        wake = functools.partial(_settle, done, True)
        self._account.queries.when_done(query, lambda: _call(loop, wake))
        ended = await self._patiently(done)
        return bool(ended)

    async def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """What a function returns that may take its time."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, function, *args)

    async def abort(self, query: Query) -> None:
        """Ask a query to end."""
        await self.in_thread(self._account.queries.abort, query)

    async def close_session(self, session: Session) -> None:
        """End a session, once its last statement has ended."""
        if self._running.get(session.id):
            self._closing[session.id] = session
        else:
            await self.in_thread(self._account.close_session, session)

    async def _patiently(self, future: asyncio.Future[T | None]) -> T | None:
        timer = asyncio.get_running_loop().call_later(self.patience, _settle, future, None)
        try:
            return await future
        finally:
            timer.cancel()

    def _run(
        self, job: Job, binds: Sequence[Any], count: int | None, timer: asyncio.TimerHandle
    ) -> None:
        text = None
        try:
            self._to_its_end(job.session, job.query, binds, count)
            if job.wanted:
                text = self._replies.ended(job.query, job.session, job.base)
        except Exception as error:  # a full disk, a defect: else the client would wait for ever
            _log.error("query %s: %s after it had run", job.query.id, type(error).__name__)
            if not job.query.done.is_set():
                self._account.queries.finish(job.query, None, defect(error))
            text = json.dumps(failure(defect(error), job.query.id))
        _call(job.loop, self._done, job, timer, text)

    def _to_its_end(
        self, session: Session, query: Query, binds: Sequence[Any], count: int | None
    ) -> None:
        lost = self._account.tokens.lost_transaction(session)
        if lost and not (_rolls_back(query) or self._account.engine.did(query.request_id)):
            self._account.queries.finish(query, None, _LOST)
        else:
            self._account.run(session, query, binds, count)
        if session.id in self._account.sessions:
            self._account.tokens.save(session)

    def _done(self, job: Job, timer: asyncio.TimerHandle, text: str | None) -> None:
        timer.cancel()
        _settle(job.reply, text)
        identity = job.session.id
        self._running[identity] -= 1
        if not self._running[identity]:
            del self._running[identity]
            if identity in self._closing:
                self.pool.submit(self._account.close_session, self._closing.pop(identity))

    def _too_long(self, query: Query, seconds: float) -> None:
        query.why_stopped = SqlError(
            630,
            "57014",
            f"Statement reached its statement or warehouse timeout of {seconds:g} second(s) and "
            "was canceled.",
        )
        self.pool.submit(self._account.queries.abort, query)


_LOST = SqlError(
    636,
    "40000",
    "The transaction of this session was rolled back: the emulator was ended while it was open.",
)
"""Snowflake has no such error: there, no server ends under a session."""


def _rolls_back(query: Query) -> bool:
    return query.text.lstrip()[:8].upper() == "ROLLBACK"


def _settle(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any) -> None:
    with contextlib.suppress(RuntimeError):  # the server has ended before the statement
        loop.call_soon_threadsafe(function, *args)


def routes(account: Account, runner: Runner, replies: Replies) -> list[Route]:
    """Everything about queries."""
    queries = _Queries(account, runner, replies)

    def route(path: str, handle: Callable[[Request], Any], method: str) -> Route:
        return Route(path, answered(handle), methods=[method])

    return [
        route("/queries/v1/query-request", queries.submit, "POST"),
        route("/queries/v1/abort-request", queries.abort_request, "POST"),
        route("/queries/{id}/result", queries.result, "GET"),
        route("/queries/{id}/abort-request", queries.abort, "POST"),
        route("/monitoring/queries/{id}", queries.status, "GET"),
        route("/monitoring/queries//{id}", queries.status, "GET"),  # as connector 5.2 writes it
        Route("/results/{path:path}", queries.chunk, methods=["GET"]),
    ]


class _Queries:
    """One method for each route."""

    def __init__(self, account: Account, runner: Runner, replies: Replies) -> None:
        self._account = account
        self._runner = runner
        self._replies = replies

    async def submit(self, request: Request) -> Response:
        """A statement comes; or comes again, because its client did not get the answer."""
        session = session_of(self._account, request)
        body = await json_body(request)
        text = self._account.files.resent.meant(session.id, str(body.get("sqlText") or ""))
        parameters = _statement_parameters(session, body.get("parameters"))
        binds = self._binds(body)
        if body.get("describeOnly"):
            return await self._describe(session, text, binds)
        detached = bool(body.get("asyncExec"))
        query, new = self._account.query(session, text, request.query_params.get("requestId", ""))
        if not new and not detached:
            return await self._answer(query, session, _base(request))
        if new:
            self._prepare(query, parameters)
            if detached:
                self._account.detached.note(query)
            job = Job(session, query, _base(request), wanted=not detached)
            timeout = _timeout(self._account, session, parameters)
            self._runner.start(job, binds, _count(parameters), timeout)
            if not detached:
                reply = await self._runner.reply(job)
                job.wanted = False
                return json_reply(reply or self._replies.running(query, detached=False))
        return json_reply(self._replies.running(query, detached=True))

    async def result(self, request: Request) -> Response:
        """The result of a query, once there is one."""
        session = session_of(self._account, request)
        return await self._answer(self._query(request, session), session, _base(request))

    async def status(self, request: Request) -> Response:
        """How a query does; an empty list where it is not remembered."""
        session = session_of(self._account, request)
        query = self._account.queries.find(request.path_params["id"])
        now = self._account.clock.time()
        known = [status_of(query, now)] if query and query.user == session.user else []
        return json_reply(envelope({"queries": known}))

    async def abort(self, request: Request) -> Response:
        """Abort a query by its id."""
        session = session_of(self._account, request)
        return await self._abort(self._query(request, session))

    async def abort_request(self, request: Request) -> Response:
        """Abort the query that another request has brought."""
        session = session_of(self._account, request)
        asked = str((await json_body(request)).get("requestId") or "")
        return await self._abort(self._account.queries.of_request(session.id, asked))

    async def chunk(self, request: Request) -> Response:
        """A chunk of a large result; its address is its own key."""
        path, signature = request.path_params["path"], request.query_params.get("signature", "")
        try:
            content, media_type = await self._runner.in_thread(self._replies.chunk, path, signature)
        except (KeyError, ValueError):
            return Response("there is no such chunk", 404)
        return Response(content, media_type=media_type)

    # -- inside

    def _prepare(self, query: Query, parameters: dict[str, Any]) -> None:
        if "QUERY_TAG" in parameters:
            query.tag = str(parameters["QUERY_TAG"])
        query.result_format = str(
            parameters.get("PYTHON_CONNECTOR_QUERY_RESULT_FORMAT", "")
        ).upper()

    async def _answer(self, query: Query, session: Session, base: str) -> Response:
        if not await self._runner.ended(query):
            return json_reply(self._replies.running(query, detached=False))
        if is_small(query):  # made sooner than a thread is woken up
            return json_reply(self._replies.ended(query, session, base))
        return json_reply(await self._runner.in_thread(self._replies.ended, query, session, base))

    async def _describe(self, session: Session, text: str, binds: Sequence[Any]) -> Response:
        query, _ = self._account.query(session, text)
        context = statements.Context(self._account, session, query, describing=True)
        try:
            found = await self._runner.in_thread(describe, context, binds)
        except SqlError as error:
            self._account.queries.finish(query, None, error)
            raise
        self._account.queries.finish(query, None, None)
        return json_reply(self._replies.described(found, session, query))

    async def _abort(self, query: Query | None) -> Response:
        if query is None or query.state.ended:
            raise SqlError(605, "01000", "Identified SQL statement is not currently executing.")
        await self._runner.abort(query)
        return json_reply(envelope(None))

    def _query(self, request: Request, session: Session) -> Query:
        """The query that a request names; SqlError 612 where it is unknown, or another user's."""
        name = request.path_params["id"]
        found = self._account.queries.find(name)
        if found is None or found.user != session.user:
            raise gone(name)
        return found

    def _binds(self, body: dict[str, Any]) -> Sequence[Any]:
        if body.get("bindStage"):
            raise SqlError(2, "0A000", "not supported by the emulator: binds in a stage")
        return read_binds(body.get("bindings"))


def _base(request: Request) -> str:
    """Where a client sees the server: in a container that may be another address than here."""
    return f"http://{request.headers.get('host', '')}"


_OF_STATEMENTS = (
    "MULTI_STATEMENT_COUNT",
    "PYTHON_CONNECTOR_QUERY_RESULT_FORMAT",
    "QUERY_TAG",
    "STATEMENT_TIMEOUT_IN_SECONDS",
)
"""The parameters that a request may set for its statement alone."""


def _statement_parameters(session: Session, given: Any) -> dict[str, Any]:
    """What a request sets for its statement; SqlError for what is not as in the session and would
    have no effect.
    """
    found = {str(k).upper(): v for k, v in (given or {}).items() if v is not None}
    for name, value in found.items():
        known = SESSION.get(name)
        if known is None:
            raise unsupported(f"{name} = {value} for one statement")
        if name in _OF_STATEMENTS or known.effect is Effect.IDLE:
            continue
        if known.read(value) != session.parameter(name):
            raise unsupported(f"{name} = {value} for one statement; ALTER SESSION sets it")
    return found


def _count(parameters: dict[str, Any]) -> int | None:
    """How many statements a request says it has; None leaves it to the session."""
    given = parameters.get("MULTI_STATEMENT_COUNT")
    return None if given is None else int(given)


def _timeout(account: Account, session: Session, parameters: dict[str, Any]) -> float:
    """How many seconds a statement may take: what it says itself, or its session, and no more than
    its warehouse allows.
    """
    known = SESSION["STATEMENT_TIMEOUT_IN_SECONDS"]
    given = parameters.get(known.name)
    seconds = [known.read(given) if given is not None else session.parameter(known.name)]
    warehouse = account.catalog.find("warehouse", (str(session.warehouse),))
    if warehouse is not None:
        seconds.append(warehouse.data["parameters"].get(known.name, 0))
    return float(min((s for s in seconds if s), default=known.most or 0))
