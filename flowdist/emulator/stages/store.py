"""One stage on disk: files that appear whole or not at all, and files that are not visible yet.

Both the server and the process that serves mounts work on these directories, so nothing here is
kept in memory, and nothing is imported that would make that process slow to start::

    <stage>/files/      what is on the stage, under its own name
    <stage>/uploads/    what is being written; a file moves from here to `files` in one step
    <stage>/pending/    what a mount has written and others are not to see before its time
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from stat import S_ISREG

__all__ = ["Pending", "StageStore", "UnsafePath", "safe_path"]

STALE = 24 * 3600
"""After how many seconds an upload that nobody finished is given up."""

_numbers = itertools.count(1)


class UnsafePath(ValueError):
    """A path that no file of a stage may have here."""


def safe_path(path: str) -> str:
    """A path in a stage as it is kept: no empty parts, and none that would lead elsewhere.

    A slash at the end stays, since prefixes have one. UnsafePath for ``.`` and ``..``, for NUL, and
    for parts of more than 255 bytes, which file systems do not take.

    >>> safe_path("/a//b/"), safe_path("")
    ('a/b/', '')
    """
    parts = [part for part in path.split("/") if part]
    for part in parts:
        if part in (".", "..") or "\0" in part:
            raise UnsafePath(f"a path in a stage may not have the part {part!r}: {path!r}")
        if len(part.encode("utf-8", "surrogateescape")) > 255:
            raise UnsafePath(f"a part of a path in a stage is longer than 255 bytes: {path!r}")
    return "/".join(parts) + ("/" if parts and path.endswith("/") else "")


@dataclass(frozen=True)
class Pending:
    """A file that only its writer sees until ``at``, a Unix time in seconds."""

    at: float
    path: str
    viewer: str
    data: Path
    note: Path


class StageStore:
    """The directories of one stage, below ``root``.

    Where this is the only process that holds files back (`holds`), it need not look for them.
    """

    def __init__(self, root: Path, holds: bool = False) -> None:
        self.root = root
        self._none_held = False
        self._holds = holds
        self.files = root / "files"
        self.uploads = root / "uploads"
        self.pending = root / "pending"
        self._files = f"{self.files}/"

    def make(self) -> None:
        """Create what is not there yet."""
        for directory in (self.files, self.uploads, self.pending):
            directory.mkdir(parents=True, exist_ok=True)

    def new_upload(self) -> Path:
        """Where to write a file that is to be placed later; nobody else has this path."""
        return self.uploads / f"{os.getpid()}-{time.time_ns():x}-{next(_numbers)}"

    @contextlib.contextmanager
    def upload(self) -> Iterator[Path]:
        """Such a path, at which nothing is left at the end, whether or not it was placed."""
        made = self.new_upload()
        try:
            yield made
        finally:
            made.unlink(missing_ok=True)

    def clean(self, now: float) -> None:
        """Remove what uploads have left that will never be finished: their process is gone, or they
        are a day old.
        """
        for entry in os.scandir(self.uploads):
            with contextlib.suppress(OSError):
                writer = entry.name.partition("-")[0]
                gone = writer.isdigit() and not os.path.exists(f"/proc/{writer}")
                old = entry.stat().st_mtime < now - STALE
                if entry.is_dir():
                    if old:
                        for part in os.scandir(entry):
                            os.unlink(part)
                        os.rmdir(entry)
                elif old or (gone and os.path.exists("/proc/self")):
                    os.unlink(entry)

    # -- files

    def local(self, path: str) -> Path:
        """Where the file of a safe path is."""
        return self.files / path

    def name(self, path: str) -> str:
        """The same as text, which is faster."""
        return self._files + path

    def stat(self, path: str) -> os.stat_result | None:
        """Of the file at a path; None where there is none."""
        try:
            found = os.stat(self._files + path)
        except OSError:
            return None
        return found if S_ISREG(found.st_mode) and not path.endswith("/") else None

    def walk(self, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
        """All files whose path begins with a prefix, which need not end at a slash, in order."""
        above, _, begin = prefix.rpartition("/")
        above = f"{above}/" if above else ""
        yield from self._walk(above, begin)

    def _walk(self, above: str, begin: str) -> Iterator[tuple[str, os.stat_result]]:
        try:
            with os.scandir(self._files + above) as found:
                # A directory sorts as if its name ended with a slash, as the paths below it do.
                entries = [
                    (f"{e.name}/" if e.is_dir(follow_symlinks=False) else e.name, e)
                    for e in found
                    if e.name.startswith(begin)
                ]
        except (FileNotFoundError, NotADirectoryError):
            return
        entries.sort(key=itemgetter(0))
        for name, entry in entries:
            if name[-1] == "/":
                yield from self._walk(above + name, "")
                continue
            try:
                stat = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if S_ISREG(stat.st_mode):
                yield above + name, stat

    def place(self, upload: Path, path: str) -> None:
        """Let an upload appear at its path, in place of what was there.

        FileExistsError where a directory with files has that path, NotADirectoryError where a file
        has the path of a directory above it: stores of objects allow both, directories neither.
        """
        self._forget_pending(path)
        target = self.files / path
        for _ in range(10):
            try:
                os.replace(upload, target)
                return
            except FileNotFoundError:
                # The directory is missing, or somebody has pruned it between these two steps.
                try:
                    target.parent.mkdir(parents=True, exist_ok=True)
                except FileExistsError:
                    raise NotADirectoryError(
                        errno.ENOTDIR, "a file has the path of a directory", path
                    ) from None
            except IsADirectoryError:
                try:
                    os.rmdir(target)
                except OSError:
                    raise FileExistsError(
                        errno.EEXIST, "a directory with files has that path", path
                    ) from None
        raise FileNotFoundError(errno.ENOENT, "it was removed again and again", path)

    def remove(self, path: str) -> bool:
        """Remove a file, and the directories that are empty without it; whether it was there."""
        try:
            os.unlink(self._files + path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
            return False
        above = os.path.dirname(path)
        while above:
            try:
                os.rmdir(self._files + above)
            except OSError:
                break
            above = os.path.dirname(above)
        return True

    # -- files that are not visible yet

    def hold(self, upload: Path, path: str, viewer: str, at: float) -> None:
        """Let an upload appear at its path at a time, and to its writer at once."""
        self._none_held = False
        name = f"{int(at * 1e9):020d}-{os.getpid()}-{next(_numbers)}"
        os.replace(upload, self.pending / f"{name}.data")
        note = self.uploads / name
        note.write_text(json.dumps({"at": at, "path": path, "viewer": viewer}))
        os.replace(note, self.pending / f"{name}.json")

    def waiting(self) -> list[Pending]:
        """The files that are not visible to all, in the order in which they become so."""
        found: list[Pending] = []
        if self._none_held:
            return found
        for name in sorted(os.listdir(self.pending)):
            if name.endswith(".json"):
                note = self.pending / name
                with contextlib.suppress(FileNotFoundError):
                    said = json.loads(note.read_text())
                    data = note.with_suffix(".data")
                    found.append(Pending(said["at"], said["path"], said["viewer"], data, note))
        return found

    def settle(self, now: float) -> None:
        """Let those appear whose time has come."""
        if not self._any_pending():
            return
        with self._alone():
            for one in self.waiting():
                if one.at <= now:
                    # Without its note it is not forgotten again by `place`.
                    one.note.unlink(missing_ok=True)
                    with contextlib.suppress(FileNotFoundError, FileExistsError):
                        self.place(one.data, one.path)

    def discard(self, path: str, viewer: str) -> bool:
        """Forget what a writer has put at a path and others do not see yet; whether it had."""
        if not self._any_pending():
            return False
        with self._alone():
            mine = [one for one in self.waiting() if (one.path, one.viewer) == (path, viewer)]
            self._drop(mine)
        return bool(mine)

    def _forget_pending(self, path: str) -> None:
        """A file that comes now is newer than what waits for its path."""
        if self._any_pending():
            self._drop([one for one in self.waiting() if one.path == path])

    def _drop(self, these: list[Pending]) -> None:
        for one in these:
            one.note.unlink(missing_ok=True)
            one.data.unlink(missing_ok=True)

    def _any_pending(self) -> bool:
        if self._none_held:
            return False
        with os.scandir(self.pending) as found:
            there = any(entry.name.endswith(".json") for entry in found)
        self._none_held = self._holds and not there
        return there

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other thread or process settles: the order of two files at one path counts."""
        descriptor = os.open(self.pending / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
