"""What containers have printed, read back from the logs that their shims write."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Line", "newest_first", "read"]

BLOCK = 65_536
"""Bytes that are read at a time."""


class Line(NamedTuple):
    """One line of a log: Unix time in seconds, "stdout" or "stderr", and the text."""

    time: float
    stream: str
    text: str


def read(
    directory: Path,
    lines: int | None = None,
    limit_bytes: int | None = 100_000,
    previous: bool = False,
) -> list[Line]:
    """The last lines of a container's log, oldest first; none where it has none.

    At the most `lines` of them, and as many whole ones as have `limit_bytes` of text together, line
    ends included; of a last line that is longer alone, its end. Only the end of the file is read.
    `previous` is the run before the one that is under way.
    """
    found: list[Line] = []
    room = limit_bytes
    for line in newest_first(directory, previous=previous):
        if lines is not None and len(found) >= lines:
            break
        if room is not None:
            encoded = line.text.encode()
            if len(encoded) >= room:
                if not found:
                    kept = encoded[len(encoded) - max(0, room - 1) :]
                    found.append(line._replace(text=kept.decode(errors="replace")))
                break
            room -= len(encoded) + 1
        found.append(line)
    return found[::-1]


def newest_first(directory: Path, *, previous: bool = False) -> Iterator[Line]:
    """The lines of a container's log, last first, of which no more is read than is asked for."""
    pieces: list[bytes] = []  # a long line is written in several
    time = stream = b""
    for name in ["previous.log"] if previous else ["log", "log.old"]:
        for raw in _backwards(directory / name):
            parts = raw.split(b" ", 3)
            if len(parts) != 4:
                continue  # of a shim that was killed while it wrote
            continues = parts[2] == b"P" and parts[1] == stream
            if pieces and not continues:
                yield _line(time, stream, pieces)
                pieces = []
            time, stream = parts[:2]
            pieces.append(parts[3])
    if pieces:
        yield _line(time, stream, pieces)


def _line(time: bytes, stream: bytes, pieces: list[bytes]) -> Line:
    text = b"".join(reversed(pieces)).decode(errors="replace")
    return Line(float(time), stream.decode(), text)


def _backwards(path: Path) -> Iterator[bytes]:
    """The complete lines of a file, last first, without reading more of it than is asked for."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        at = file.seek(0, os.SEEK_END)
        rest = b""
        while at > 0:
            size = min(BLOCK, at)
            at -= size
            file.seek(at)
            first, *whole = (file.read(size) + rest).split(b"\n")
            yield from (line for line in reversed(whole) if line)
            rest = first
        if rest:
            yield rest
