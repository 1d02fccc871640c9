"""Faults on demand, deterministic from a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["Faults"]


class Faults:
    """Faults on demand, deterministic from a seed."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def start(self) -> None:
        """Begin what runs in the background."""

    def close(self) -> None:
        """End it."""
