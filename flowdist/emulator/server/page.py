"""The page at ``/``: what is going on in the account, for people.

It shows and changes nothing. What opens it is a token of its own, given once in the address and
then kept as a cookie; the page asks for `overview` again every two seconds, and puts what it
gets on the screen as text, never as markup.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from flowdist.emulator.server import control
from flowdist.emulator.server.overview import Overview, containers

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["routes"]

CLOSED = """<!doctype html>
<meta charset="utf-8"><meta name="color-scheme" content="light dark">
<title>flowdist emulator</title>
<p>This is an emulator of Snowflake. Its page is opened by the address that
<code>flowdist emulator status</code> prints, or <code>Emulator.page</code> in Python.</p>
"""


def routes(account: Account) -> list[Route]:
    """The page and what it asks for."""
    template = files("flowdist.emulator.server").joinpath("page.html").read_text(encoding="utf-8")
    overview = Overview(account)

    async def page(request: Request) -> Response:
        given = request.query_params.get("token")
        if given is not None and _opens(account, given):
            # Out of the address, so that it is in no history and no bookmark.
            reply: Response = RedirectResponse("/", 303)
            reply.set_cookie(_cookie(account), given, httponly=True, samesite="lax")
            return reply
        if not _may_see(account, request):
            return HTMLResponse(CLOSED, 401)
        nonce = secrets.token_urlsafe(12)
        state = await asyncio.to_thread(overview)
        text = template.replace("{{nonce}}", nonce)
        # In the JSON of a script element only "<" could end it.
        text = text.replace("{{state}}", json.dumps(state).replace("<", "\\u003c"))
        return HTMLResponse(text, headers=_headers(nonce))

    async def state(request: Request) -> Response:
        if not (_may_see(account, request) or control.allowed(account, request)):
            return JSONResponse({"error": "the token is missing or wrong"}, 401)
        found = await asyncio.to_thread(overview)
        return JSONResponse(found, headers={"Cache-Control": "no-store"})

    async def service(request: Request) -> Response:
        if not (_may_see(account, request) or control.allowed(account, request)):
            return JSONResponse({"error": "the token is missing or wrong"}, 401)
        found = await asyncio.to_thread(containers, account, request.path_params["id"])
        return JSONResponse(found, headers={"Cache-Control": "no-store"})

    return [
        Route("/", page, methods=["GET"]),
        Route("/control/state.json", state, methods=["GET"]),
        Route("/control/services/{id:int}.json", service, methods=["GET"]),
    ]


def _headers(nonce: str) -> dict[str, str]:
    return {
        "Cache-Control": "no-store",
        "Content-Security-Policy": (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        ),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


def _cookie(account: Account) -> str:
    """Cookies are shared by all ports of a host; two emulators must not take each other's."""
    return f"flowdist_emulator_{account.url.rpartition(':')[2]}"


def _may_see(account: Account, request: Request) -> bool:
    return _opens(account, request.cookies.get(_cookie(account), ""))


def _opens(account: Account, given: str) -> bool:
    return hmac.compare_digest(given.encode(), control.page_token(account).encode())
