"""The application: every route of the server, and the few things that all of them share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware

from flowdist.emulator.server import control, execute, login, objects, page, registry
from flowdist.emulator.server.execute import PATIENCE, Runner
from flowdist.emulator.server.hosts import KnownHosts
from flowdist.emulator.server.replies import Replies

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["create_app"]


def create_app(account: Account, patience: float = PATIENCE) -> Starlette:
    """What serves an account. A request whose statement has not ended after `patience` seconds is
    answered with where to look for the result.
    """
    replies = Replies(account)
    runner = Runner(account, replies, patience)
    return Starlette(
        routes=[
            *execute.routes(account, runner, replies),  # first: they are asked for most
            *login.routes(account, runner),
            *control.routes(account),
            *page.routes(account),
            *objects.routes(account),
            *registry.routes(account),
        ],
        middleware=[Middleware(KnownHosts), control.middleware(account)],
    )
