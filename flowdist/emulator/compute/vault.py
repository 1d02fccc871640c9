"""The values of secrets: in a file of their own, which only its owner may read.

The catalog says that a secret exists and of which type it is; what it holds is here, by the id of
its object, so that nothing that shows or logs the catalog can show it.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

__all__ = ["forget", "read", "write"]

NAME = "secrets.json"
_lock = threading.Lock()


def read(directory: Path, identity: int) -> dict[str, str]:
    """The values of a secret by key; empty where it has none."""
    return _all(directory).get(str(identity), {})


def write(directory: Path, identity: int, values: dict[str, str]) -> None:
    """Replace the values of a secret; they are on disk when this returns."""
    with _lock:
        _replace(directory, _all(directory) | {str(identity): values})


def forget(directory: Path, identity: int) -> None:
    """Remove the values of a secret."""
    with _lock:
        known = _all(directory)
        if known.pop(str(identity), None) is not None:
            _replace(directory, known)


def _all(directory: Path) -> dict[str, dict[str, str]]:
    try:
        found: dict[str, dict[str, str]] = json.loads((directory / NAME).read_text())
    except FileNotFoundError:
        return {}
    return found


def _replace(directory: Path, values: dict[str, dict[str, str]]) -> None:
    made = directory / f"{NAME}.new"
    with open(os.open(made, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        json.dump(values, file)
    made.replace(directory / NAME)
