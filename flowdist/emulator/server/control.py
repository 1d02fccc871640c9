"""``/control/...``: the account from outside of Snowflake's protocol, for tests, the page, the CLI.

JSON in and out; every request has the control token in its Authorization header. A request that
makes no sense is answered with 400 and ``{"error": ...}``. Here too is what faults do to
connections (:class:`Interference`), which needs the server's own means.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flowdist import __version__
from flowdist.emulator.errors import SqlError
from flowdist.emulator.faults import Kind
from flowdist.emulator.server.overview import Overview
from flowdist.errors import FlowdistError

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["Interference", "allowed", "middleware", "page_token", "routes", "token"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Handler = Callable[[Request], Awaitable[Response]]

STATEMENTS_COME_TO = "/queries/v1/query-request"


def token(account: Account) -> str:
    """What opens ``/control``; made once for each account."""
    with account.catalog.lock:
        found = account.catalog.setting("control_token")
        if found is None:
            found = secrets.token_urlsafe(24)
            account.catalog.keep("control_token", found)
    return str(found)


def page_token(account: Account) -> str:
    """What opens the page, which only shows: browsers keep it, and may send it to other ports."""
    return hmac.new(token(account).encode(), b"page", hashlib.sha256).hexdigest()[:32]


def allowed(account: Account, request: Request) -> bool:
    """Whether a request has the control token."""
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    return kind.lower() == "bearer" and hmac.compare_digest(
        given.strip().encode(), token(account).encode()
    )


def routes(account: Account) -> list[Route]:
    """Everything under ``/control``."""
    handlers = _Handlers(account)

    def route(path: str, handler: Callable[[Request], Awaitable[Any]], method: str) -> Route:
        return Route(f"/control/{path}", _guarded(account, handler), methods=[method])

    return [
        route("health", handlers.health, "GET"),
        route("overview", handlers.overview, "GET"),
        route("faults", handlers.rules, "GET"),
        route("faults", handlers.add, "POST"),
        route("faults", handlers.clear, "DELETE"),
        route("faults/log", handlers.log, "GET"),
        route("faults/now", handlers.now, "POST"),
        route("faults/{id:int}", handlers.rule, "GET"),
        route("faults/{id:int}", handlers.remove, "DELETE"),
        route("images", handlers.push, "POST"),
    ]


def middleware(account: Account) -> Middleware:
    """What faults do to connections, for the list of middleware of a Starlette application."""
    return Middleware(Interference, account=account)


class _Handlers:
    """One method for each route; what may block runs in a thread of its own."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._faults = account.faults
        self._overview = Overview(account)

    async def health(self, request: Request) -> Any:
        return {"version": __version__, "pid": os.getpid()}

    async def overview(self, request: Request) -> Any:
        return await asyncio.to_thread(self._overview)

    async def rules(self, request: Request) -> Any:
        return [rule.to_dict() for rule in self._faults.rules()]

    async def add(self, request: Request) -> Any:
        options = await _body(request)
        kind = str(options.pop("kind", ""))
        made = await asyncio.to_thread(self._faults.add, kind, **options)
        return made.to_dict()

    async def clear(self, request: Request) -> Any:
        await asyncio.to_thread(self._faults.clear)
        return []

    async def log(self, request: Request) -> Any:
        return self._faults.log()

    async def rule(self, request: Request) -> Any:
        found = [r for r in self._faults.rules() if r.id == request.path_params["id"]]
        return found[0].to_dict() if found else None

    async def remove(self, request: Request) -> Any:
        """A rule that is gone already, with a server that was started again, is no mistake."""
        found = await asyncio.to_thread(self._faults.remove, request.path_params["id"])
        return found.to_dict() if found else None

    async def now(self, request: Request) -> Any:
        options = await _body(request)
        kind = str(options.pop("kind", ""))
        if kind not in ("kill_container", "kill_node", "expire_tokens"):
            raise ValueError(f"there is no fault {kind!r} that happens at once")
        await asyncio.to_thread(getattr(self._faults, kind), **options)
        return None

    async def push(self, request: Request) -> Any:
        options = await _body(request)
        image = await asyncio.to_thread(self._account.images.push, **options)
        return {"path": str(image.path), "digest": str(image.digest)}


async def _body(request: Request) -> dict[str, Any]:
    found = json.loads(await request.body() or b"{}")
    if not isinstance(found, dict):
        raise ValueError("a JSON object is wanted")
    return found


def _guarded(account: Account, handler: Callable[[Request], Awaitable[Any]]) -> Handler:
    async def guarded(request: Request) -> Response:
        if not allowed(account, request):
            return JSONResponse({"error": "the control token is missing or wrong"}, 401)
        try:
            return JSONResponse(await handler(request))
        except (FlowdistError, SqlError, ValueError, TypeError) as error:
            return JSONResponse({"error": str(error)}, 400)

    return guarded


class Interference:
    """Does to connections what the faults say, before the application sees the request or after."""

    def __init__(self, app: App, account: Account) -> None:
        self._app = app
        self._faults = account.faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or not."""
        path = scope.get("path", "")
        if scope["type"] != "http" or not self._faults.of_requests or _is_ours(path):
            await self._app(scope, receive, send)
            return
        statement = ""
        if path == STATEMENTS_COME_TO:
            body = await _all_of(receive)
            statement = _statement(scope, body)
            receive = _again(body, receive)
        lost = False
        for rule in self._faults.on_request(scope["method"], path, statement):
            if rule.kind is Kind.DELAY:
                await asyncio.sleep(rule.seconds or 0.0)
            elif rule.kind is Kind.UNAVAILABLE:
                await Response("Service Unavailable", 503)(scope, receive, send)
                return
            elif rule.kind is Kind.DROP:
                await self._cut(scope, receive, send)
                return
            else:
                lost = True
        if not lost:
            await self._app(scope, receive, send)
            return
        await self._app(scope, receive, _nowhere)
        await self._cut(scope, receive, send)

    async def _cut(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Close the connection without a word; 502 where it is not known (another server)."""
        transport = self._faults.connections.get(tuple(scope.get("client") or ()))
        if transport is None:
            await Response("Bad Gateway", 502)(scope, receive, send)
            return
        transport.abort()
        while (await receive())["type"] != "http.disconnect":
            pass  # else the server would take it for an application that forgot to answer


def _is_ours(path: str) -> bool:
    return path == "/" or path.startswith("/control")


async def _nowhere(message: Message) -> None:
    """Where a reply goes that is to be lost."""


async def _all_of(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """The same body once more, for the application."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _statement(scope: Scope, body: bytes) -> str:
    """The SQL in a request; empty where it cannot be read."""
    if (b"content-encoding", b"gzip") in scope["headers"]:
        try:
            body = gzip.decompress(body)
        except (OSError, EOFError):
            return ""
    try:
        return str(json.loads(body).get("sqlText", ""))
    except (ValueError, AttributeError):
        return ""
