"""Compute pools and the services and jobs placed on their nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["Compute"]


class Compute:
    """Compute pools and the services and jobs placed on their nodes."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def start(self) -> None:
        """Begin what runs in the background."""

    def close(self) -> None:
        """End it."""
