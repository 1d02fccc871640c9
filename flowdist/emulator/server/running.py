"""uvicorn as the emulator wants it: on a socket that listens already, with connections that can be
cut, and with an end that does not wait for ever.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["protocol", "run"]

IDLE = 75
"""A connection without requests is closed after so many seconds: later than clients give it up."""


def run(
    app: Any,
    account: Account,
    listener: socket.socket,
    *,
    grace: int,
    ready: Callable[[], None],
    ended: Callable[[], None],
) -> None:
    """Serve until SIGTERM or SIGINT, requests in flight then having `grace` seconds to end.

    `ready` is called when the server answers; `ended` when it has ended, before it is waited for
    threads that still run a statement.
    """
    config = uvicorn.Config(
        app,
        http=protocol(account),
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # scope["client"] is to be the connection
        server_header=False,
        timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=grace + 1,
    )
    logging.getLogger("uvicorn.error").addFilter(_not_cancelled)
    # uvicorn raises the signals that it got once more when it is done.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    _Server(config, account.faults.connections, grace, ready, ended).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Says when it is ready and when it has ended."""

    def __init__(
        self,
        config: uvicorn.Config,
        connections: Mapping[tuple[str, int], asyncio.Transport],
        grace: int,
        ready: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._connections, self._grace = connections, grace
        self._ready, self._ended = ready, ended

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # A client whose connection is cut asks the next server; one that is told of an internal
        # error, as uvicorn would tell it, gives up.
        asyncio.get_running_loop().call_later(self._grace, self._cut)
        await super().shutdown(sockets)
        self._ended()

    def _cut(self) -> None:
        for transport in list(self._connections.values()):
            transport.abort()


def _not_cancelled(record: logging.LogRecord) -> bool:
    """Requests that are cut off at the end are no errors of the application."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def protocol(account: Account) -> type[asyncio.Protocol]:
    """uvicorn's protocol, each connection of which is known to the faults by its client's address
    as long as it lasts.
    """
    connections = account.faults.connections

    class Protocol(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            connections[transport.get_extra_info("peername")] = transport

        def connection_lost(self, exc: Exception | None) -> None:
            connections.pop(self.transport.get_extra_info("peername"), None)
            super().connection_lost(exc)

    return Protocol
