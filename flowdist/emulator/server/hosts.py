"""Which names of this machine requests may be for: a foreign one is a web page's attempt.

A page that somebody looks at may let its own name resolve to this machine (DNS rebinding); what its
scripts then ask comes from a browser here, with that name as Host. Every route refuses it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse

__all__ = ["KnownHosts", "is_known"]

_LOCAL = (".localhost", ".internal")
"""Ends of names that nobody can own: ``host.containers.internal`` is this machine to containers."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class KnownHosts:
    """Answers requests for foreign names with 421, before anything looks at them."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http":
            host = next((value for name, value in scope["headers"] if name == b"host"), b"")
            if not is_known(host):
                refusal = PlainTextResponse("the emulator does not go by this name", 421)
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


@lru_cache(maxsize=256)
def is_known(host: bytes) -> bool:
    """Whether a Host may be this machine: an address, a name without dots, or a local one.

    >>> is_known(b"127.0.0.1:80"), is_known(b"localhost"), is_known(b"evil.example:80")
    (True, True, False)
    """
    try:
        name = urlsplit(f"//{host.decode('ascii')}").hostname or ""
    except ValueError:
        return False
    if not ({".", ":"} & set(name)) or name.endswith(_LOCAL):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
