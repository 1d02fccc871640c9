"""Amounts of cores and memory as a service specification writes them, and how it is refused.

Apart from `fields`, so that who only reckons with amounts does not wait for pydantic: the server
imports that, with `spec`, when the first specification comes.
"""

from __future__ import annotations

import re

from flowdist.emulator.errors import SqlError

__all__ = ["MEMORY", "cores", "invalid_spec", "memory_bytes"]

INVALID_SPEC = 395018
"""The number of the error for a specification that does not make sense."""
_UNITS = {"M": 1000**2, "Mi": 1024**2, "G": 1000**3, "Gi": 1024**3}
MEMORY = re.compile(r"(\d+(?:\.\d+)?)(Mi|M|Gi|G)\Z")


def invalid_spec(what: str) -> SqlError:
    """The error for a specification, to be raised."""
    return SqlError(INVALID_SPEC, "22023", f"Invalid spec: {what.rstrip('.')}")


def memory_bytes(text: str) -> int:
    """Bytes of an amount of memory; ValueError where it is none.

    >>> memory_bytes("2G"), memory_bytes("0.5Gi")
    (2000000000, 536870912)
    """
    match = MEMORY.match(text)
    if match is None:
        raise ValueError(text)
    return int(float(match[1]) * _UNITS[match[2]])


def cores(text: str) -> float:
    """vCPUs of an amount of them.

    >>> cores("500m"), cores("1.5")
    (0.5, 1.5)
    """
    return int(text[:-1]) / 1000 if text.endswith("m") else float(text)
