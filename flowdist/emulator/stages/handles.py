"""What a mount knows: its volumes, and the files that are open in them (see `fuse`)."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowdist.emulator.stages.store import StageStore

__all__ = ["FILE_MODE", "Reading", "Table", "Volume", "Writing", "refused"]

FILE_MODE = 0o644


def refused(number: int) -> OSError:
    """The error of an operation, to be raised."""
    return OSError(number, os.strerror(number))


@dataclass(frozen=True)
class Volume:
    """A directory of a stage as one viewer has it; ``prefix`` is empty or ends with a slash."""

    viewer: str
    stage: int
    prefix: str
    writable: bool
    uid: int
    gid: int
    store: StageStore


@dataclass
class Reading:
    """An open file; ``inode`` tells versions apart."""

    descriptor: int
    key: tuple[str, int, str]
    inode: int
    volume: Volume


@dataclass
class Writing:
    """A file that is being written, from its begin; ``source`` is open where it was not truncated.

    ``published`` says that the bytes so far are on the stage and are not to be touched again.
    """

    volume: Volume
    path: str
    owner: int
    """The process that opened it: that others close it, who have inherited it, means nothing."""
    upload: Path | None = None
    descriptor: int = -1
    source: int = -1
    position: int = 0
    dirty: bool = False
    published: bool = False
    unlinked: bool = False
    closed_once: bool = False
    failure: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def key(self) -> tuple[str, int, str]:
        return self.volume.viewer, self.volume.stage, self.path

    @property
    def unpublished(self) -> bool:
        """Whether the stage lacks something of what was written, and is to get it."""
        return self.dirty and not self.unlinked

    def begin(self) -> None:
        """Start from nothing."""
        self._close()
        self.upload = self.volume.store.new_upload()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        self.descriptor = os.open(self.upload, flags, FILE_MODE)
        self.position, self.dirty, self.published = 0, True, False

    def write(self, data: Any, offset: int) -> int:
        """Write at the end; a failure is for good."""
        if self.failure:
            raise refused(self.failure)
        if self.descriptor < 0:
            raise refused(errno.EOPNOTSUPP)
        if offset != self.position:
            self.fail(errno.EOPNOTSUPP)
        if self.published:
            self._continue()
        view = memoryview(data).cast("B")
        try:
            while view:
                done = os.pwrite(self.descriptor, view, self.position)
                self.position += done
                view = view[done:]
        except OSError as error:
            self.fail(error.errno or errno.EIO)
        self.dirty = True
        return self.position - offset

    def fail(self, number: int) -> None:
        """Give the file up: what was written gets nowhere."""
        self.failure = number
        raise refused(number)

    def publish(self, delay: float) -> None:
        """Let what was written appear on the stage."""
        assert self.upload is not None
        store = self.volume.store
        if delay > 0:
            now = time.time()
            os.utime(self.descriptor)
            store.hold(self.upload, self.path, self.volume.viewer, now + delay)
        else:
            store.place(self.upload, self.path)
        self.upload, self.dirty, self.published = None, False, True

    def end(self) -> None:
        """Let go of everything; what was not published is gone."""
        self._close()

    def _continue(self) -> None:
        """Copy what is published, to write on: it must not change where others see it."""
        before, size = self.descriptor, self.position
        self.descriptor = -1
        try:
            self.begin()
            while self.position < size:
                n = os.copy_file_range(
                    before, self.descriptor, size - self.position, self.position, self.position
                )
                if n == 0:
                    break
                self.position += n
        finally:
            os.close(before)

    def _close(self) -> None:
        for descriptor in (self.descriptor, self.source):
            if descriptor >= 0:
                os.close(descriptor)
        self.descriptor = self.source = -1
        if self.upload is not None:
            self.upload.unlink(missing_ok=True)
            self.upload = None


class Table:
    """What is mounted, from ``mounts.json``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = str(directory / "mounts.json")
        self._seen: tuple[int, int] | None = None
        self._volumes: dict[str, dict[str, Volume]] = {}
        self._stores: dict[int, StageStore] = {}
        self.delay = 0.0

    def volumes(self) -> dict[str, dict[str, Volume]]:
        """The volumes by viewer and name."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return {}
        if (found.st_ino, found.st_mtime_ns) != self._seen:
            said = json.loads(Path(self._path).read_text())
            self.delay = float(said["delay"])
            self._volumes = {
                viewer: {name: self._volume(viewer, one) for name, one in volumes.items()}
                for viewer, volumes in said["viewers"].items()
            }
            self._seen = found.st_ino, found.st_mtime_ns
        return self._volumes

    def _volume(self, viewer: str, said: dict[str, Any]) -> Volume:
        stage = said["stage"]
        if stage not in self._stores:
            root = self._directory / "stages" / str(stage)
            self._stores[stage] = StageStore(root, holds=True)
        return Volume(viewer=viewer, store=self._stores[stage], **said)
