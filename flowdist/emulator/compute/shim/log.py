"""The log of a container, as the shim writes it; `logs.py` reads it."""

from __future__ import annotations

import os
import time

__all__ = ["Log"]

LOG_BYTES = 10_000_000
"""A log that has grown beyond is put aside as log.old; so twice that is kept."""
LONGEST_LINE = 65_536
"""Bytes; a longer line is written in pieces marked ``P``, the last one ``F``."""


class Log:
    """The log of a container: lines ``<Unix time> <stream> F <text>``, as `logs.py` reads them."""

    def __init__(self) -> None:
        self._file = self._open()
        self._size = 0
        self._rest = {"stdout": b"", "stderr": b""}

    def take(self, stream: str, data: bytes) -> None:
        """What was read from a stream; none at its end, which also ends its last line."""
        head = f"{time.time():.6f} {stream} ".encode()
        *lines, rest = (self._rest[stream] + data).split(b"\n")
        made: list[bytes] = []
        for line in lines:
            self._add(made, head, line, b"F ")
        if rest and not data:
            self._add(made, head, rest, b"F ")
            rest = b""
        while len(rest) >= LONGEST_LINE:
            made.append(head + b"P " + rest[:LONGEST_LINE] + b"\n")
            rest = rest[LONGEST_LINE:]
        self._rest[stream] = rest
        if made:
            self._write(b"".join(made))

    def close(self) -> None:
        """Write what has no line end yet."""
        for stream in self._rest:
            self.take(stream, b"")
        os.close(self._file)

    def _open(self) -> int:
        return os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)

    def _add(self, made: list[bytes], head: bytes, line: bytes, mark: bytes) -> None:
        while len(line) > LONGEST_LINE:
            made.append(head + b"P " + line[:LONGEST_LINE] + b"\n")
            line = line[LONGEST_LINE:]
        made.append(head + mark + line + b"\n")

    def _write(self, data: bytes) -> None:
        if self._size + len(data) > LOG_BYTES and self._size:
            os.close(self._file)
            os.replace("log", "log.old")
            self._file, self._size = self._open(), 0
        try:
            os.write(self._file, data)
        except OSError:
            return  # a full disk is no reason to end the container
        self._size += len(data)
