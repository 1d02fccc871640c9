"""Passes: what lets a client read or write files of a stage for a while, without a session.

PUT and GET hand one out with their reply; the endpoint that moves the bytes (`server.objects`)
checks it. A pass says by itself what it is for, signed with a key of the account, so it outlives a
server that is killed in the middle of a transfer.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass

__all__ = ["Expired", "Invalid", "Pass", "Passes", "new_key"]

LIFETIME = 3600.0
"""How long a pass is good, in seconds; clients ask for another one when it has expired."""


class Invalid(Exception):
    """Nobody has issued such a pass."""


class Expired(Exception):
    """Its time is over."""


@dataclass(frozen=True)
class Pass:
    """Leave to read, or to write, what lies under a prefix of a stage (its id in the catalog).

    ``exact`` passes are for the one file whose path the prefix is. Without ``overwrite`` a file
    that is there stays as it is.
    """

    stage: int
    prefix: str
    write: bool
    until: float
    exact: bool = False
    overwrite: bool = True

    def covers(self, stage: int, path: str, write: bool) -> bool:
        """Whether it is good for an access; leave to write is leave to read."""
        matches = path == self.prefix if self.exact else path.startswith(self.prefix)
        return stage == self.stage and matches and (self.write or not write)


class Passes:
    """Issues and checks passes with the account's key; `now` gives Unix time in seconds."""

    def __init__(self, key: str, now: Callable[[], float]) -> None:
        self._key = key.encode()
        self._now = now

    def issue(
        self,
        stage: int,
        prefix: str,
        *,
        write: bool,
        seconds: float = LIFETIME,
        exact: bool = False,
        overwrite: bool = True,
    ) -> str:
        """A pass as text."""
        made = Pass(stage, prefix, write, self._now() + seconds, exact, overwrite)
        body = base64.urlsafe_b64encode(json.dumps(asdict(made)).encode()).decode().rstrip("=")
        return f"{body}.{self._sign(body)}"

    def check(self, text: str) -> Pass:
        """What a pass is for; Invalid or Expired where it is good for nothing."""
        body, _, signature = text.partition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(body).encode()):
            raise Invalid
        try:
            found = Pass(**json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))))
        except (binascii.Error, ValueError, TypeError):
            raise Invalid from None
        if found.until <= self._now():
            raise Expired
        return found

    def _sign(self, body: str) -> str:
        return hmac.new(self._key, body.encode(), hashlib.sha256).hexdigest()


def new_key() -> str:
    """A key for an account that has none."""
    return secrets.token_hex(32)
