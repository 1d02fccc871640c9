"""What the mounts of stages answer to the kernel: a file system with the rules of stage volumes.

Below the mount point the first name is a viewer (an instance of a service), the second a volume of
it: ``/<viewer>/<volume>/...``.

What a volume allows:

- a new file, or one opened with truncation, is written from its begin to its end; it is on the
  stage when it is closed or synced, as a whole. Another position, appending, and writing into what
  is there fail with EOPNOTSUPP; after such a failure nothing of the file gets to the stage, and
  closing it fails too. So it is with a process that is killed before it has closed its file.
- what is being written can be seen by its own viewer (name and size), not read: EBUSY
- reads give what the file was when it was opened; opening gives the latest. A file that its viewer
  has written twice cannot be mapped into memory as shared (ENODEV). The kernel has one size for
  each name: a read that overlaps the moment in which another process of the same viewer replaces
  the file for the first time may come back short. Read-only volumes do not have this.
- rename, links, other sizes by truncation, other owners and modes fail with EOPNOTSUPP; setting
  times does nothing
- a directory that is made can be seen at once; on the stage there are no directories
- on a read-only volume whatever would write fails with EROFS
- with a visibility delay, others see a file late; its own viewer sees it at once
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mfusepy

from flowdist.emulator.hidden import Hidden
from flowdist.emulator.stages.handles import FILE_MODE, Reading, Table, Volume, Writing, refused

__all__ = ["LARGEST", "PROBE", "StageFilesystem"]

PROBE = ".flowdist"
"""A name that is only there while the process serves."""

LARGEST = 1 << 20
"""Of a read or write that the kernel passes on, in bytes: its own limit."""

KILLED = 0x400
"""The flag of a task that dies by a signal (PF_SIGNALED)."""

DIRECTORY_MODE = 0o755


class StageFilesystem(mfusepy.Operations):  # type: ignore[misc]
    """The operations that the kernel asks for; paths begin at the mount point."""

    use_ns = True
    flag_nopath = 1
    flag_nullpath_ok = 1

    def __init__(self, directory: Path) -> None:
        self._table = Table(directory)
        self._hidden = Hidden(directory)
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._readings: dict[int, Reading] = {}
        self._writings: dict[int, Writing] = {}
        self._listings: dict[int, str] = {}
        self._cached: dict[tuple[str, int, str], tuple[int, int]] = {}
        """For each file that the kernel caches: its version, and how many have it open."""
        self._rewritten: set[tuple[str, int, str]] = set()
        """Files that a viewer has written again: the kernel is not to cache them any more."""
        self._made: set[tuple[str, int, str]] = set()
        """Directories that a viewer has made: they stay when the last file in them goes."""

    def init_with_config(self, conn: Any, config: Any) -> None:
        """What the kernel is told at the start."""
        conn.max_write = conn.max_read = LARGEST
        conn.max_readahead = LARGEST
        if config is not None:
            # Nothing is remembered: the server and other viewers change what is here.
            config.entry_timeout = config.attr_timeout = config.negative_timeout = 0.0
            config.hard_remove = 1

    # -- what is where

    def _place(self, path: str) -> tuple[Volume, str]:
        """The volume that a path is in, and the path on its stage; ENOENT where there is none."""
        _, viewer, *rest = path.split("/", 3)
        name = rest[0] if rest else ""
        found = self._table.volumes().get(viewer, {}).get(name)
        if found is None:
            raise refused(errno.ENOENT)
        try:
            path.encode()
        except UnicodeEncodeError:
            raise refused(errno.EILSEQ) from None
        found.store.settle(time.time())
        return found, (found.prefix + (rest[1] if len(rest) > 1 else "")).rstrip("/")

    def _writable(self, path: str) -> tuple[Volume, str]:
        try:
            volume, inside = self._place(path)
        except OSError:
            raise refused(errno.EROFS) from None
        if not volume.writable:
            raise refused(errno.EROFS)
        return volume, inside

    def _data(self, volume: Volume, path: str) -> tuple[str, os.stat_result] | None:
        """Where the bytes of a file are that a viewer sees; None where it sees none."""
        for one in reversed(volume.store.waiting()):
            if (one.path, one.viewer) == (path, volume.viewer):
                with contextlib.suppress(FileNotFoundError):
                    return str(one.data), os.stat(one.data)
        found = volume.store.stat(path)
        if found is None or self._hidden(volume.stage, path):
            return None
        return volume.store.name(path), found

    def _writers(self, volume: Volume, path: str) -> list[Writing]:
        key = volume.viewer, volume.stage, path
        with self._lock:
            return [one for one in self._writings.values() if one.key == key and one.unpublished]

    def _is_directory(self, volume: Volume, path: str) -> bool:
        """Whether a viewer sees a directory there; the volume itself is always there."""
        if f"{path}/" == volume.prefix or not path:
            return True
        if (volume.viewer, volume.stage, path) in self._made:
            return True
        return os.path.isdir(volume.store.name(path))

    # -- looking

    def getattr(self, path: str, fh: Any = None) -> dict[str, Any]:
        """What stat(2) shows."""
        if fh is not None:
            return self._of_open(fh.fh)
        depth = path.rstrip("/").count("/")
        if path == f"/{PROBE}":
            return self._attributes(stat.S_IFREG | 0o444, None, 0, time.time_ns())
        if depth < 2:
            if depth == 1 and path[1:] not in self._table.volumes():
                raise refused(errno.ENOENT)
            return self._attributes(stat.S_IFDIR | 0o755, None, 0, time.time_ns())
        volume, inside = self._place(path)
        data = self._data(volume, inside)
        if data is not None:
            mode = stat.S_IFREG | FILE_MODE
            return self._attributes(mode, volume, data[1].st_size, data[1].st_mtime_ns)
        writers = self._writers(volume, inside)
        if writers:
            size = writers[-1].position
            return self._attributes(stat.S_IFREG | FILE_MODE, volume, size, time.time_ns())
        if self._is_directory(volume, inside):
            return self._attributes(stat.S_IFDIR | DIRECTORY_MODE, volume, 0, time.time_ns())
        raise refused(errno.ENOENT)

    def _of_open(self, number: int) -> dict[str, Any]:
        mode = stat.S_IFREG | FILE_MODE
        reading = self._readings.get(number)
        if reading is not None:
            found = os.fstat(reading.descriptor)
            return self._attributes(mode, reading.volume, found.st_size, found.st_mtime_ns)
        writing = self._writings[number]
        size = writing.position if writing.source < 0 else os.fstat(writing.source).st_size
        return self._attributes(mode, writing.volume, size, time.time_ns())

    def _attributes(
        self, mode: int, volume: Volume | None, size: int, changed: int
    ) -> dict[str, Any]:
        return {
            "st_mode": mode,
            "st_nlink": 2 if stat.S_ISDIR(mode) else 1,
            "st_uid": os.getuid() if volume is None else volume.uid,
            "st_gid": os.getgid() if volume is None else volume.gid,
            "st_size": size,
            "st_blocks": (size + 511) // 512,
            "st_blksize": LARGEST,
            "st_mtime": changed,
            "st_ctime": changed,
            "st_atime": changed,
        }

    def opendir(self, path: str) -> int:
        """Open a directory: from here on only the handle is known, not the path."""
        with self._lock:
            number = next(self._numbers)
            self._listings[number] = path
        return number

    def releasedir(self, path: str, fh: int) -> int:
        """Close it."""
        with self._lock:
            del self._listings[fh]
        return 0

    def readdir(self, path: str, fh: int) -> Iterator[Any]:
        """The names in a directory."""
        path = self._listings[fh]
        names = {".": stat.S_IFDIR, "..": stat.S_IFDIR}
        parts = [part for part in path.split("/") if part]
        if len(parts) < 2:
            volumes: dict[str, Any] = self._table.volumes()
            names |= dict.fromkeys(volumes.get(parts[0], {}) if parts else volumes, stat.S_IFDIR)
        else:
            names |= self._names(*self._place(path))
        for name, mode in names.items():
            yield name, {"st_mode": mode}, 0

    def _names(self, volume: Volume, inside: str) -> dict[str, int]:
        above = f"{inside}/" if inside else ""
        check = self._hidden.any(volume.stage)
        names: dict[str, int] = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(volume.store.local(above)) as found:
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    names[entry.name] = stat.S_IFDIR
                elif not check or not self._hidden(volume.stage, above + entry.name):
                    names[entry.name] = stat.S_IFREG
        held = [one.path for one in volume.store.waiting() if one.viewer == volume.viewer]
        with self._lock:
            held += [
                one.path
                for one in self._writings.values()
                if one.unpublished and one.key[:2] == (volume.viewer, volume.stage)
            ]
            made = [path for v, s, path in self._made if (v, s) == (volume.viewer, volume.stage)]
        for paths, mode in ((held, stat.S_IFREG), (made, stat.S_IFDIR)):
            for one in paths:
                if one.startswith(above) and "/" not in one[len(above) :]:
                    names[one[len(above) :]] = mode
        return names

    def statfs(self, path: str) -> dict[str, int]:
        """Of the disk that the stages are on."""
        found = os.statvfs(self._table._directory)
        names = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree")
        return {name: getattr(found, name) for name in (*names, "f_favail", "f_namemax")}

    # -- opening

    def open(self, path: str, fi: Any) -> int:
        """Open a file that is there."""
        if fi.flags & os.O_ACCMODE == os.O_RDONLY and not fi.flags & os.O_TRUNC:
            return self._open_to_read(path, fi)
        volume, inside = self._writable(path)
        if fi.flags & os.O_APPEND:
            raise refused(errno.EOPNOTSUPP)
        data = self._data(volume, inside)
        writing = Writing(volume, inside, owner=_process(_caller()))
        if fi.flags & os.O_TRUNC:
            with self._lock:
                self._rewritten.add(writing.key)
            writing.begin()
        elif data is not None:
            writing.source = os.open(data[0], os.O_RDONLY)
        else:
            raise refused(errno.EBUSY if self._writers(volume, inside) else errno.ENOENT)
        self._keep(writing, fi)
        return 0

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        """Open a file that is new."""
        volume, inside = self._writable(path)
        if fi.flags & os.O_APPEND:
            raise refused(errno.EOPNOTSUPP)
        writing = Writing(volume, inside, owner=_process(_caller()))
        writing.begin()
        self._keep(writing, fi)
        return 0

    def _keep(self, writing: Writing, fi: Any) -> None:
        with self._lock:
            fi.fh = next(self._numbers)
            self._writings[fi.fh] = writing
        # Pages of a file that is being written must not get among those that readers have cached.
        fi.direct_io = 1

    def _open_to_read(self, path: str, fi: Any) -> int:
        if path == f"/{PROBE}":
            raise refused(errno.EACCES)
        volume, inside = self._place(path)
        data = self._data(volume, inside)
        if data is None:
            for writing in self._writers(volume, inside):
                with writing.lock:
                    # An empty file that was closed is published late: see `flush`.
                    if writing.unpublished and writing.closed_once and writing.position == 0:
                        writing.publish(self._table.delay)
            data = self._data(volume, inside)
        if data is None:
            raise refused(errno.EBUSY if self._writers(volume, inside) else errno.ENOENT)
        descriptor = os.open(data[0], os.O_RDONLY)
        reading = Reading(
            descriptor,
            (volume.viewer, volume.stage, inside),
            os.fstat(descriptor).st_ino,
            volume,
        )
        with self._lock:
            inode, count = self._cached.get(reading.key, (reading.inode, 0))
            if inode == reading.inode and reading.key not in self._rewritten:
                self._cached[reading.key] = inode, count + 1
            else:
                fi.direct_io = 1  # the kernel keeps pages and size of one version only
                reading.inode = -1
            fi.fh = next(self._numbers)
            self._readings[fi.fh] = reading
        return 0

    # -- moving bytes

    def read_into(self, buffer: int, size: int, offset: int, number: int) -> int:
        """Read to an address in memory; how many bytes."""
        reading = self._readings.get(number)
        descriptor = reading.descriptor if reading else self._writings[number].source
        if descriptor < 0:
            raise refused(errno.EOPNOTSUPP)  # what is being written cannot be read yet
        target = (ctypes.c_char * size).from_address(buffer)
        return os.preadv(descriptor, [target], offset)

    def write_from(self, buffer: int, size: int, offset: int, number: int) -> int:
        """Write from an address in memory; how many bytes."""
        writing = self._writings[number]
        with writing.lock:
            return writing.write((ctypes.c_char * size).from_address(buffer), offset)

    def read(self, path: str, size: int, offset: int, fh: Any) -> bytes:
        """Only so that libfuse knows of it: see :class:`Fuse`."""
        raise refused(errno.EIO)

    def write(self, path: str, data: bytes, offset: int, fh: Any) -> int:
        """The same."""
        raise refused(errno.EIO)

    # -- closing

    def flush(self, path: str, fh: Any) -> int:
        """Somebody closes the file, maybe not for the last time."""
        writing = self._writings.get(fh.fh)
        if writing is None:
            return 0
        with writing.lock:
            if writing.failure:
                raise refused(writing.failure)
            caller = _caller()
            if not writing.unpublished or _process(caller) != writing.owner:
                return 0
            if _was_killed(caller):
                writing.failure = errno.EIO
                return 0
            writing.closed_once = True
            # A shell closes the file it has opened for a command before the command writes: an
            # empty file waits until nobody has it open.
            if writing.position:
                writing.publish(self._table.delay)
        return 0

    def fsync(self, path: str, datasync: int, fh: Any) -> int:
        """The same on request."""
        writing = self._writings.get(fh.fh)
        if writing is not None:
            with writing.lock:
                if writing.failure:
                    raise refused(writing.failure)
                if writing.unpublished:
                    writing.publish(self._table.delay)
        return 0

    def release(self, path: str, fh: Any) -> int:
        """Nobody has the file open any more."""
        with self._lock:
            reading = self._readings.pop(fh.fh, None)
            if reading is not None and reading.inode >= 0:
                inode, count = self._cached[reading.key]
                if count == 1:
                    del self._cached[reading.key]
                else:
                    self._cached[reading.key] = inode, count - 1
        if reading is not None:
            os.close(reading.descriptor)
            return 0
        writing = self._writings[fh.fh]
        with writing.lock:
            try:
                if writing.unpublished and not writing.failure:
                    writing.publish(self._table.delay)
            finally:
                with self._lock:
                    del self._writings[fh.fh]
                writing.end()
        return 0

    # -- changing

    def truncate(self, path: str | None, length: int, fh: Any = None) -> int:
        """Only to nothing, or to the size that an open file has."""
        writing = self._writings.get(fh.fh) if fh is not None else None
        if writing is not None:
            with writing.lock:
                if length == 0:
                    writing.begin()
                elif writing.descriptor < 0 or length != writing.position:
                    raise refused(errno.EOPNOTSUPP)
            return 0
        assert path is not None
        volume, inside = self._writable(path)
        if length:
            raise refused(errno.EOPNOTSUPP)
        writing = Writing(volume, inside, owner=0)
        writing.begin()
        writing.publish(self._table.delay)
        writing.end()
        return 0

    def unlink(self, path: str) -> int:
        """Remove a file."""
        volume, inside = self._writable(path)
        for writing in self._writers(volume, inside):
            writing.unlinked = True  # who has it open may write on, to nowhere
        volume.store.discard(inside, volume.viewer)
        if not self._hidden(volume.stage, inside):
            # Not `remove`, which would take directories with it that somebody is about to use.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(volume.store.local(inside))
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        """Make a directory."""
        volume, inside = self._writable(path)
        with self._lock:
            self._made.add((volume.viewer, volume.stage, inside))
        os.makedirs(volume.store.local(inside), exist_ok=True)
        return 0

    def rmdir(self, path: str) -> int:
        """Remove a directory that is empty."""
        volume, inside = self._writable(path)
        if self._names(volume, inside):
            raise refused(errno.ENOTEMPTY)
        with self._lock:
            self._made.discard((volume.viewer, volume.stage, inside))
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(volume.store.local(inside))
        return 0

    def chmod(self, path: str, mode: int) -> int:
        """Fails, unless it changes nothing."""
        self._writable(path)
        if stat.S_IMODE(mode) != stat.S_IMODE(self.getattr(path)["st_mode"]):
            raise refused(errno.EOPNOTSUPP)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        """Fails, unless it changes nothing."""
        volume, _ = self._writable(path)
        if uid not in (-1, volume.uid) or gid not in (-1, volume.gid):
            raise refused(errno.EOPNOTSUPP)
        return 0

    def utimens(self, path: str, times: Any = None) -> int:
        """Does nothing."""
        self._writable(path)
        return 0

    def rename(self, old: str, new: str) -> int:
        """Fails."""
        self._writable(old)
        raise refused(errno.EOPNOTSUPP)

    def link(self, target: str, source: str) -> int:
        """Fails."""
        self._writable(target)
        raise refused(errno.EOPNOTSUPP)

    def symlink(self, target: str, source: str) -> int:
        """Fails."""
        self._writable(target)
        raise refused(errno.EOPNOTSUPP)

    def mknod(self, path: str, mode: int, dev: int) -> int:
        """Fails."""
        self._writable(path)
        raise refused(errno.EOPNOTSUPP)


def _caller() -> int:
    """The thread that has made the system call."""
    return int(mfusepy.fuse_get_context()[2])


def _process(thread: int) -> int:
    """The process that a thread belongs to; the thread itself where that cannot be told."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{thread}/status") as file:
        for line in file:
            if line.startswith("Tgid:"):
                return int(line.split()[1])
    return thread


def _was_killed(thread: int) -> bool:
    """Whether a thread is on its way out by a signal, so that the kernel closes its files."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open(f"/proc/{thread}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return bool(int(fields[6]) & KILLED)
    return False
