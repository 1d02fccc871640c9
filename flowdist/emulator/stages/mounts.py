"""Stages mounted in containers, with the rules of Snowflake's stage volumes.

One process for the whole account serves all mounts (`fuse`). It is started with the first of them,
apart from the server: when the server is killed, containers keep their files, and the next server
finds the process and goes on with it. Where it was killed itself, the next mount starts another
one; containers that were using the old one get errors (ENOTCONN) until they are started anew.

Without FUSE (no Linux, no ``/dev/fuse``, no libfuse3, no mfusepy), or without strict mode, a mount
is the stage's own directory, which allows what any directory does.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowdist.emulator.errors import compilation_error
from flowdist.emulator.stages.files import Within

if TYPE_CHECKING:
    from flowdist.emulator.account import Account
    from flowdist.emulator.catalog import Object

__all__ = ["Mounts", "unmount"]

STARTS_WITHIN = 10.0
ENDS_WITHIN = 5.0
"""How long the process may take, in seconds."""
POLL = 0.005

_log = logging.getLogger(__name__)


class Mounts:
    """What is mounted; every method may be called from any thread."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._root = account.directory / "mounts"
        self._table = account.directory / "mounts.json"
        self._lock = threading.RLock()
        self._why_plain: str | None = None
        self.kept = False
        """Whether mounts stay when the server ends, since containers run on."""

    def start(self) -> None:
        """Nothing runs before something is mounted; what an earlier server has mounted stays."""

    def close(self) -> None:
        """Unmount everything and end the process that serves it, unless it is ``kept`` for the
        next server and has viewers.
        """
        with self._lock:
            if not (self.kept and self._viewers()):
                unmount(self._account.directory)

    @property
    def kind(self) -> str:
        """ "fuse", or "plain" where mounts are plain directories."""
        return "fuse" if self._fuse() else "plain"

    def mount(
        self,
        viewer: str,
        location: str,
        *,
        session: Within,
        writable: bool = True,
        uid: int = 0,
        gid: int = 0,
    ) -> Path:
        """A directory that is a stage, or a directory of it, as a viewer has it.

        `session` may be a database and a schema instead: where a location without them is.
        A viewer is an instance of a service, by any name that no other one has. Files are shown as
        owned by `uid` and `gid`; by the user of this process where that is not root, which could
        not act for others.

        SqlError 2003 where there is no such stage; SqlError 2140 where the location is a file.
        """
        stage, path = self._account.files.locate(location, session)
        prefix = f"{path}/" if path and not path.endswith("/") else path
        store = self._account.files.store(stage)
        if path and store.stat(path.rstrip("/")) is not None:
            raise compilation_error(f"a stage volume is a directory, not a file: '{location}'")
        if not self._fuse() or not self._serve():
            directory = store.files / prefix
            directory.mkdir(parents=True, exist_ok=True)
            return directory
        if os.geteuid() != 0:
            uid, gid = os.geteuid(), os.getegid()
        return self._add(viewer, stage, prefix, writable, uid, gid)

    def unmount(self, viewer: str) -> None:
        """Forget the mounts of a viewer; files that it has open stay usable until closed."""
        with self._lock:
            viewers = self._viewers()
            if viewers.pop(_name(viewer), None) is not None:
                self._write(viewers)

    # -- what is mounted

    def _add(
        self, viewer: str, stage: Object, prefix: str, writable: bool, uid: int, gid: int
    ) -> Path:
        volume = {
            "stage": stage.id,
            "prefix": prefix,
            "writable": writable,
            "uid": uid,
            "gid": gid,
        }
        digest = hashlib.sha256(json.dumps(volume).encode()).hexdigest()
        name = f"{stage.id}-{digest[:12]}"
        with self._lock:
            viewers = self._viewers()
            viewers.setdefault(_name(viewer), {})[name] = volume
            self._write(viewers)
        return self._root / _name(viewer) / name

    def _viewers(self) -> dict[str, dict[str, Any]]:
        try:
            found: dict[str, dict[str, Any]] = json.loads(self._table.read_text())["viewers"]
        except FileNotFoundError:
            return {}
        return found

    def _write(self, viewers: dict[str, dict[str, Any]]) -> None:
        made = self._table.with_suffix(".new")
        delay = self._account.settings.visibility_delay
        made.write_text(json.dumps({"delay": delay, "viewers": viewers}))
        made.replace(self._table)

    # -- the process

    def _fuse(self) -> bool:
        """Whether mounts are to be served by the process; says once why not."""
        if not self._account.settings.strict_mounts:
            return False
        if self._why_plain is None:
            self._why_plain = _missing()
            if self._why_plain:
                self._warn(self._why_plain)
        return not self._why_plain

    def _warn(self, why: str) -> None:
        _log.warning("stages are mounted as plain directories, without their rules: %s", why)

    def _serve(self) -> bool:
        """Whether the process serves, which is started where it does not."""
        with self._lock:
            if self._mounted():
                return True
            if self._mounted() is not None:
                _take_away(self._root)  # its process was killed
            self._root.mkdir(exist_ok=True)
            why = self._start_process()
            if why is not None:
                self._why_plain = why
                self._warn(why)
            return why is None

    def _start_process(self) -> str | None:
        """Start it; why it does not serve, where it does not."""
        if not self._table.exists():
            self._write({})
        words = [
            sys.executable,
            "-m",
            "flowdist.emulator.stages.fuse",
            str(self._account.directory),
        ]
        if os.geteuid() == 0 or _others_are_allowed():
            words.append("--allow-other")
        path = os.pathsep.join(part for part in sys.path if part)
        with (self._account.directory / "mounts.log").open("ab") as log:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env={**os.environ, "FUSE_LIBRARY_NAME": "fuse3", "PYTHONPATH": path},
            )
        # Somebody has to take its exit code, as long as this process lives.
        threading.Thread(target=process.wait, daemon=True).start()
        until = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < until:
            if self._mounted():
                return None
            if process.poll() is not None and self.process is None:
                break
            time.sleep(POLL)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        lines = (self._account.directory / "mounts.log").read_text().strip().splitlines()
        return lines[-1] if lines else "the process that serves mounts does not start"

    def _mounted(self) -> bool | None:
        return _mounted(self._root)

    @property
    def process(self) -> int | None:
        """The process that serves, by its id."""
        return _serving(self._account.directory)


def unmount(directory: Path) -> None:
    """Unmount everything of the account in a directory and end the process that serves it; also
    where no server runs.
    """
    (directory / "mounts.json").unlink(missing_ok=True)
    if _mounted(directory / "mounts") is None:
        return
    process = _serving(directory)
    _take_away(directory / "mounts")
    if process is not None:
        _end(process)


def _mounted(root: Path) -> bool | None:
    """True: it is mounted, and served; False: mounted, and nobody serves; None: not mounted."""
    try:
        os.stat(root / ".flowdist")
    except FileNotFoundError:
        return None
    except OSError:
        return False
    return True


def _serving(directory: Path) -> int | None:
    """The process that serves: who holds the lock has written its id down."""
    try:
        descriptor = os.open(directory / "mounts.lock", os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(descriptor, 32)
        return int(text) if text else None
    finally:
        os.close(descriptor)
    return None


def _take_away(root: Path) -> None:
    """Unmount it, also where files of it are open."""
    for words in (["umount", "-l"], ["fusermount3", "-u", "-z"]):
        program = shutil.which(words[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if program is None or (words[0] == "umount" and os.geteuid() != 0):
            continue
        done = subprocess.run([program, *words[1:], str(root)], capture_output=True, check=False)
        if done.returncode == 0:
            return


def _missing() -> str:
    """What is missing for FUSE; empty where nothing is."""
    if sys.platform != "linux":
        return "FUSE needs Linux"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse is not there, or not to be opened"
    if importlib.util.find_spec("mfusepy") is None:
        return "mfusepy is not installed (it comes with the extra 'emulator')"
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        return "fusermount3 is not installed"
    return ""


def _others_are_allowed() -> bool:
    with contextlib.suppress(OSError):
        text = Path("/etc/fuse.conf").read_text()
        return re.search(r"^\s*user_allow_other\s*$", text, re.MULTILINE) is not None
    return False


def _end(process: int) -> None:
    """End a process that may be no child of this one."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(process, number)
        except ProcessLookupError:
            return
        until = time.monotonic() + ENDS_WITHIN
        while time.monotonic() < until:
            if not _runs(process):
                return
            time.sleep(POLL)


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _name(viewer: str) -> str:
    """A viewer as a name in a directory."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,100}", viewer):
        return viewer
    digest = hashlib.sha256(viewer.encode()).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', viewer)[:60]}-{digest[:12]}"
