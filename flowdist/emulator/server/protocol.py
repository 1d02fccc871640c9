"""What all requests of the connector have in common: bodies, tokens, and the envelope of replies.

A request that fails is answered with HTTP 200 and ``success: false``; the connector takes any other
status for trouble on the way and tries again for minutes.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from flowdist.emulator.errors import SqlError

if TYPE_CHECKING:
    from flowdist.emulator.account import Account
    from flowdist.emulator.session import Session

__all__ = [
    "Endpoint",
    "answered",
    "bearer",
    "defect",
    "envelope",
    "failure",
    "json_body",
    "json_reply",
    "session_of",
]

OF_SESSIONS = range(390_100, 390_400)
"""The numbers of errors that are about who asks, not about a statement."""

Endpoint = Callable[[Request], Awaitable[Response]]


def envelope(data: Any, *, code: str | None = None, message: str | None = None) -> dict[str, Any]:
    """A reply that says that all went well."""
    return {"data": data, "code": code, "message": message, "success": True}


def failure(error: SqlError, query_id: str | None = None) -> dict[str, Any]:
    """A reply that says what went wrong; nothing but that where it is with the session."""
    data = (
        None
        if error.errno in OF_SESSIONS
        else {
            "internalError": False,
            "errorCode": error.code,
            "age": 0,
            "sqlState": error.sqlstate,
            "queryId": query_id,
            "line": -1,
            "pos": -1,
            "type": "COMPILATION" if "compilation" in error.message[:20] else "EXECUTION",
        }
    )
    return {
        "data": data,
        "code": error.code,
        "message": error.message,
        "success": False,
        "headers": None,
    }


def json_reply(content: dict[str, Any] | str) -> Response:
    """A reply from what :func:`envelope` or :func:`failure` made, or from its text."""
    text = content if isinstance(content, str) else json.dumps(content)
    return Response(text, media_type="application/json")


def defect(error: Exception) -> SqlError:
    """A bug of the emulator, as Snowflake answers its own."""
    return SqlError(603, "XX000", f"SQL execution internal error:\n{error!r}")


def answered(handle: Endpoint) -> Endpoint:
    """An endpoint whose errors are answers; a defect of the emulator is Snowflake's error 603."""

    async def endpoint(request: Request) -> Response:
        try:
            return await handle(request)
        except SqlError as error:
            return json_reply(failure(error))
        except ClientDisconnect:
            return Response(status_code=204)  # nobody reads it
        except Exception as error:
            return json_reply(failure(defect(error)))

    return endpoint


async def json_body(request: Request) -> dict[str, Any]:
    """The object that a request brings, possibly compressed; SqlError 390400 where it is none."""
    content = await request.body()
    try:
        if content[:2] == b"\x1f\x8b":  # whatever the headers say
            content = gzip.decompress(content)
        found = json.loads(content) if content else {}
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise SqlError(390400, "08001", f"The request's body is not JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def bearer(request: Request) -> str:
    """The token that a request shows; SqlError 390101 where it shows none."""
    kind, _, rest = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "snowflake" or not rest.startswith('Token="'):
        raise SqlError(390101, "08001", "Authorization header not found in the request data.")
    return rest[len('Token="') :].rstrip('"')


def session_of(account: Account, request: Request) -> Session:
    """The session that a request belongs to, by its token; SqlError as in `Tokens.session_of`."""
    return account.tokens.session_of(bearer(request))
