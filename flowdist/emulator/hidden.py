"""Which files of stages are hidden for a while: written by the server, read by whoever shows files.

A fault makes a file invisible in listings, downloads and mounts. Mounts are served by processes of
their own, so what is hidden stands in a small file in the account's directory; this module imports
nothing that would make such a process slow to start.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

__all__ = ["Entry", "Hidden", "covers", "write"]

NAME = "hidden.json"


@dataclass(frozen=True)
class Entry:
    """Files of a stage that are not to be seen until a Unix time, or for good where it is None."""

    stage: int
    """The id of the stage in the catalog."""
    pattern: str
    until: float | None = None


def covers(pattern: str, path: str) -> bool:
    """Whether a pattern means a path in its stage: a file, all below a directory, or a glob.

    >>> covers("in", "in/a.csv"), covers("in/*.csv", "in/a.csv"), covers("", "x"), covers("a", "ab")
    (True, True, True, False)
    """
    if any(c in pattern for c in "*?["):
        return fnmatchcase(path, pattern)
    return not pattern or path == pattern or path.startswith(pattern.rstrip("/") + "/")


def write(directory: Path, entries: Iterable[Entry]) -> None:
    """Replace what is hidden in the account that lives in a directory."""
    made = directory / f"{NAME}.new"
    made.write_text(json.dumps([asdict(entry) for entry in entries]))
    made.replace(directory / NAME)


class Hidden:
    """What is hidden now, for a process that only reads; the file is read when it has changed."""

    def __init__(self, directory: Path, now: Callable[[], float] = time.time) -> None:
        self._path = directory / NAME
        self._now = now
        self._seen: tuple[int, int] | None = None
        self._entries: list[Entry] = []

    def __call__(self, stage: int, path: str) -> bool:
        """Whether the file at a path of a stage, given by its id, is not to be seen."""
        self._refresh()
        return any(
            entry.stage == stage
            and (entry.until is None or self._now() < entry.until)
            and covers(entry.pattern, path)
            for entry in self._entries
        )

    def any(self, stage: int) -> bool:
        """Whether anything of a stage may be hidden."""
        self._refresh()
        return any(entry.stage == stage for entry in self._entries)

    def _refresh(self) -> None:
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            self._seen, self._entries = None, []
            return
        seen = (found.st_ino, found.st_mtime_ns)
        if seen != self._seen:
            with contextlib.suppress(FileNotFoundError):
                self._entries = [Entry(**one) for one in json.loads(self._path.read_text())]
                self._seen = seen
