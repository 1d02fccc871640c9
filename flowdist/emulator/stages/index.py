"""What is known of the files of stages besides their bytes: digests, and what clients have said.

A line holds for the file that had this size and time of change when it was written; of a file that
has changed since, nothing is known.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowdist.emulator.sqlite import open_file

__all__ = ["Index", "Known"]

LAST = "\U0010ffff"
"""The last of all characters: paths under a prefix sort before the prefix with it."""


@dataclass(frozen=True)
class Known:
    """``md5`` is what object stores call the ETag: of a file uploaded in parts it is the digest of
    the parts' digests, with their number. ``meta`` are the ``x-amz-meta-*`` headers of its upload,
    by their names without that prefix.
    """

    md5: str
    meta: dict[str, str]


class Index:
    """An SQLite file; it may be lost, since digests can be computed again."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._file = open_file(path, "OFF")
        self._file.execute(
            "CREATE TABLE IF NOT EXISTS files (stage INTEGER, path TEXT, size INTEGER,"
            " changed INTEGER, md5 TEXT, meta TEXT, PRIMARY KEY (stage, path)) WITHOUT ROWID"
        )

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._file.close()

    def find(self, stage: int, path: str, stat: os.stat_result) -> Known | None:
        """What is known of a file as it is now."""
        with self._lock:
            row = self._file.execute(
                "SELECT md5, meta FROM files"
                " WHERE stage = ? AND path = ? AND size = ? AND changed = ?",
                (stage, path, stat.st_size, stat.st_mtime_ns),
            ).fetchone()
        return None if row is None else Known(row[0], json.loads(row[1]))

    def digests(self, stage: int, prefix: str = "") -> dict[str, tuple[str, int, int, str]]:
        """Path, size, time of change in ns and digest of all files under a prefix, by path."""
        with self._lock:
            rows = self._file.execute(
                "SELECT path, size, changed, md5 FROM files"
                " WHERE stage = ? AND path >= ? AND path < ?",
                (stage, prefix, prefix + LAST),
            ).fetchall()
        return {row[0]: row for row in rows}

    def note(self, stage: int, path: str, stat: os.stat_result, known: Known) -> None:
        """Write down what is known of a file."""
        self.note_all(stage, [(path, stat, known)])

    def note_all(self, stage: int, files: Iterable[tuple[str, os.stat_result, Known]]) -> None:
        """Write down what is known of files, in one go."""
        lines = [
            (stage, path, stat.st_size, stat.st_mtime_ns, known.md5, json.dumps(known.meta))
            for path, stat, known in files
        ]
        if lines:
            self._together("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", lines)

    def forget(self, stage: int) -> None:
        """Forget all files of a stage."""
        with self._lock:
            self._file.execute("DELETE FROM files WHERE stage = ?", (stage,))

    def forget_all(self, stage: int, files: Iterable[tuple[str, int, int]]) -> None:
        """Forget files of a stage that are gone, in one go: path, size and time of change in ns.
        What has come in their place since stays known.
        """
        self._together(
            "DELETE FROM files WHERE stage = ? AND path = ? AND size = ? AND changed = ?",
            [(stage, *file) for file in files],
        )

    def _together(self, sql: str, lines: list[tuple[Any, ...]]) -> None:
        with self._lock, self._file:
            self._file.execute("BEGIN")
            self._file.executemany(sql, lines)
