"""The process that serves mounted stages, one for an account.

It is started by `mounts` and outlives the server, so that containers keep their files when the
server is killed. What is mounted stands in ``mounts.json`` in the account's directory, which it
reads again when it has changed; the rules are in `filesystem`. It imports little, to start fast.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import fcntl
import os
import sys
from pathlib import Path
from typing import Any

import mfusepy

from flowdist.emulator.stages.filesystem import LARGEST, StageFilesystem
from flowdist.emulator.stages.handles import refused

__all__ = ["Fuse", "main"]


class Fuse(mfusepy.FUSE):  # type: ignore[misc]
    """mfusepy's layer, with bytes moved without copies, and open files named by their handles."""

    def read(self, path: Any, buf: Any, size: int, offset: int, fip: Any) -> int:
        address = ctypes.cast(buf, ctypes.c_void_p).value
        return self.operations.read_into(address, size, offset, fip.contents.fh)  # type: ignore[no-any-return]

    def write(self, path: Any, buf: Any, size: int, offset: int, fip: Any) -> int:
        address = ctypes.cast(buf, ctypes.c_void_p).value
        return self.operations.write_from(address, size, offset, fip.contents.fh)  # type: ignore[no-any-return]

    def truncate_fuse_3(self, path: Any, length: int, fip: Any) -> int:
        if fip:
            return self.operations.truncate(None, length, fip.contents)  # type: ignore[no-any-return]
        return self.operations.truncate(path.decode("utf-8", "surrogateescape"), length)  # type: ignore[no-any-return]

    def chmod_fuse_3(self, path: Any, mode: int, fip: Any) -> int:
        if path is None:
            raise refused(errno.EOPNOTSUPP)
        return self.operations.chmod(path.decode("utf-8", "surrogateescape"), mode)  # type: ignore[no-any-return]

    def chown_fuse_3(self, path: Any, uid: int, gid: int, fip: Any) -> int:
        if path is None:
            raise refused(errno.EOPNOTSUPP)
        return self._chown(path, uid, gid)  # type: ignore[no-any-return]

    def utimens_fuse_3(self, path: Any, buf: Any, fip: Any) -> int:
        return 0


def main(arguments: list[str]) -> None:
    """Serve until unmounted or told to end; leaves at once where another one serves already."""
    parse = argparse.ArgumentParser()
    parse.add_argument("directory", type=Path)
    parse.add_argument("--allow-other", action="store_true")
    given = parse.parse_args(arguments)
    directory: Path = given.directory
    lock = os.open(directory / "mounts.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    options: dict[str, Any] = {"allow_other": True} if given.allow_other else {}
    # One thread: more of them only wait for each other in Python.
    Fuse(
        StageFilesystem(directory),
        str(directory / "mounts"),
        raw_fi=True,
        foreground=True,
        nothreads=True,
        fsname="flowdist-stages",
        default_permissions=True,
        max_read=LARGEST,
        **options,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
