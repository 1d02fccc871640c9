"""The images that were pushed, by their paths in image repositories."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["Images"]


class Images:
    """The images that were pushed, by their paths in image repositories."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def start(self) -> None:
        """Begin what runs in the background."""

    def close(self) -> None:
        """End it."""
