"""The SQLite files in which an account keeps what is not a table of its user's."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Literal

__all__ = ["open_file"]


def open_file(path: Path, synchronous: Literal["NORMAL", "OFF"] = "NORMAL") -> sqlite3.Connection:
    """Open a file for all threads, which have to take turns; what is executed is written at once.

    NORMAL is enough for a process that is killed. OFF is so, too, but the system may lose it.
    """
    file = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    file.execute("PRAGMA journal_mode = WAL")
    file.execute(f"PRAGMA synchronous = {synchronous}")
    return file
