"""The files of stages, as directories on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["StageFiles"]


class StageFiles:
    """The files of stages, as directories on disk."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def start(self) -> None:
        """Begin what runs in the background."""

    def close(self) -> None:
        """End it."""
