"""Passwords of users as the catalog keeps them: salted and hashed, never the words themselves."""

from __future__ import annotations

import hashlib
import hmac
import secrets

__all__ = ["hashed", "matches"]

COST = 2**10
"""Of scrypt: a few milliseconds and 1 MB for each look at a password."""


def hashed(password: str) -> str:
    """What is kept of a password.

    >>> kept = hashed("a word")
    >>> matches("a word", kept), matches("another", kept)
    (True, False)
    """
    salt = secrets.token_bytes(16)
    return f"{salt.hex()}:{_scrypt(password, salt).hex()}"


def matches(password: str, kept: str) -> bool:
    """Whether that was the password."""
    salt, _, digest = kept.partition(":")
    return hmac.compare_digest(_scrypt(password, bytes.fromhex(salt)).hex(), digest)


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=COST, r=8, p=1)
