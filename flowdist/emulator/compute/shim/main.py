"""The shim: watches a container, its output, its limits and the requests to stop it."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]
import fcntl
import marshal
import os
import select
import sys
import time

from . import rootfs  # noqa: TID252 - see the package
from .cgroups import Group  # noqa: TID252
from .keeper import NO_STATUS, Keeper  # noqa: TID252
from .log import Log  # noqa: TID252
from .proc import children, descendants, private_memory, send, share_of_memory  # noqa: TID252

TYPE_CHECKING = False  # typing takes longer to import than all the rest
if TYPE_CHECKING:
    from typing import Any

__all__ = ["main"]

PART = 65_536
"""Bytes that are read from a pipe at a time."""


def main(directory: str) -> None:
    """Keep the container of a directory to its end; standard input has what launch.json has, as
    marshal writes it.
    """
    os.chdir(directory)
    lock = os.open("lock", os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.lockf(lock, fcntl.LOCK_EX)
    if os.path.exists("exit.json"):
        return
    with open(0, "rb") as file:
        launch = marshal.load(file)
    Shim(launch).run()
    os._exit(0)  # taking the interpreter down takes longer than the system does


class Shim:
    """The shim of one container; the working directory is that of the container."""

    def __init__(self, launch: dict[str, Any]) -> None:
        self._launch = launch
        self._engine: dict[str, list[str]] | None = launch["engine"]
        self._state: dict[str, Any] = {"shim": os.getpid()}
        self._keeper = 0
        self._status = b""
        self._deadline: float | None = None
        self._stopping = False
        self._out_of_memory = False
        self._failure: tuple[int, str] | None = None
        self._exit_code: int | None = None

    def run(self) -> None:
        """Start the container, watch it, and write down how it has ended."""
        wake, woken = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(woken, False)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        # An engine keeps its containers by processes of its own, which are not ours to adopt.
        rootfs.guard(subreaper=self._engine is None)
        _write("state.json", self._state)
        # Only now: who asks to stop writes `stop` first and looks for state.json then.
        if os.path.exists("stop"):
            self._stopping = True
            self._exit_code = 137
        else:
            self._start(wake)
        self._finish()

    def _start(self, wake: int) -> None:
        pipes = {name: os.pipe() for name in ("stdout", "stderr", "status")}
        group = Group(
            f"flowdist-{os.getpid()}-{int(time.time())}",
            self._launch["memory_bytes"],
            self._launch["cpus"],
        )
        blocked = {signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1}
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        try:
            if self._launch["isolated"]:
                rootfs.separate()
            self._keeper = os.fork()
            if self._keeper == 0:
                signal.set_wakeup_fd(-1)
                Keeper(self._launch, group, pipes, blocked).run()
        except OSError as error:
            self._failure = (NO_STATUS, str(error))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
        for _, write in pipes.values():
            os.close(write)
        if self._failure is None:
            self._watch(wake, {name: read for name, (read, _) in pipes.items()}, not group.memory)
        self._out_of_memory |= group.out_of_memory()
        group.remove()

    # -- watching

    def _watch(self, wake: int, readers: dict[str, int], watch_memory: bool) -> None:
        """Copy the output and mind requests and limits until nothing of the container is left."""
        log = Log()
        limit = self._launch["memory_bytes"] if watch_memory else None
        next_look = time.monotonic()
        poll = select.poll()
        names = {fd: name for name, fd in readers.items()}
        for fd in (wake, *names):
            os.set_blocking(fd, False)
            poll.register(fd, select.POLLIN)
        while True:
            now = time.monotonic()
            if limit and now >= next_look:
                next_look = now + self._look_at_memory(limit)
            if self._deadline is not None and now >= self._deadline:
                # An engine may not have begun with the container yet: then once more.
                self._deadline = now + 1 if self._engine else None
                self._kill_all()
            times = [t for t in (self._deadline, next_look if limit else None) if t is not None]
            wait = max(0.0, min(times) - now) * 1000 + 1 if times else None
            for fd, _ in poll.poll(wait):
                if fd == wake:
                    os.read(wake, 4096)
                    self._read_request()
                elif not self._read(log, names[fd], fd):
                    poll.unregister(fd)
            if self._reaped():
                break
        self._kill_all()
        self._drain(log, names)

    def _read(self, log: Log, name: str, fd: int) -> bool:
        """Take what a pipe has; whether there may be more."""
        try:
            data = os.read(fd, PART)
        except BlockingIOError:
            return True
        if name != "status":
            log.take(name, data)
        elif data:
            self._status += data
            self._note_status()
        return bool(data)

    def _note_status(self) -> None:
        *lines, self._status = self._status.split(b"\n")
        for line in lines:
            word, rest = line.decode(errors="replace").split(" ", 1)
            if word == "run":
                pids = children(self._keeper)
                self._state |= {"pid": pids[0] if pids else self._keeper, "started": time.time()}
                _write("state.json", self._state)
            elif word == "fail":
                code, text = rest.split(" ", 1)
                self._failure = (int(code), text)
            else:
                self._exit_code = int(rest)

    def _drain(self, log: Log, names: dict[int, str]) -> None:
        """What the pipes still hold; not for long, since a process may have got away with them."""
        until = time.monotonic() + 1
        for fd, name in names.items():
            while time.monotonic() < until:
                try:
                    data = os.read(fd, PART)
                except BlockingIOError:
                    break
                if not data:
                    break
                if name == "status":
                    self._status += data
                    self._note_status()
                else:
                    log.take(name, data)
        log.close()

    def _reaped(self) -> bool:
        """Take in what has ended; whether the keeper is among it."""
        ended = False
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return ended
            if pid == self._keeper:
                ended, self._keeper = True, 0

    def _read_request(self) -> None:
        """After a signal: whether it was a request to stop."""
        try:
            with open("stop") as file:
                grace = float(file.read())
        except OSError:
            return
        wanted = time.monotonic() + grace
        if grace > 0 and not self._stopping:
            self._terminate()
        if not self._stopping or (self._deadline is not None and wanted < self._deadline):
            self._deadline = wanted
        self._stopping = True

    def _terminate(self) -> None:
        """SIGTERM to the command."""
        if self._engine:
            _run(self._engine["terminate"])
        elif self._keeper:
            send(self._keeper, signal.SIGTERM)

    # -- limits

    def _look_at_memory(self, limit: int) -> float:
        """Kill what uses too much; the seconds until the next look, fewer as it gets close."""
        pids = descendants(self._keeper)
        volumes = self._memory_volumes()
        used = volumes + sum(private_memory(pid) for pid in pids)
        if used > limit:
            # Forks share pages, which were counted several times: now by their shares, which is
            # exact and slow.
            used = volumes + sum(share_of_memory(pid) for pid in pids)
        if used > limit:
            self._out_of_memory = True
            self._kill_all()
        return 0.05 if used > limit / 2 else 0.25 if used > limit / 10 else 0.5

    def _memory_volumes(self) -> int:
        """Bytes that are in use of the container's volumes of memory."""
        used = 0
        if self._launch["isolated"]:
            for bind in self._launch["binds"]:
                if bind["memory"] is not None:
                    try:
                        found = os.statvfs(f"/proc/{self._keeper}/root{bind['target']}")
                    except OSError:
                        continue  # it is not there yet, or not any more
                    used += (found.f_blocks - found.f_bfree) * found.f_frsize
        return used

    def _kill_all(self) -> None:
        """SIGKILL to all that is left of the container."""
        if self._engine:
            if self._keeper:
                _run(self._engine["kill"])
            return
        if self._launch["isolated"]:
            if self._keeper:
                send(self._keeper, signal.SIGKILL)
            return
        for _ in range(100):  # what forks while it is being killed is found in the next round
            pids = descendants(os.getpid())[1:]
            if not pids:
                return
            for pid in pids:
                send(pid, signal.SIGKILL)
            time.sleep(0.005)
            self._reaped()

    # -- the end

    def _finish(self) -> None:
        reason = message = ""
        if self._engine:
            self._out_of_memory = _run(self._engine["inspect"]).strip() == b"true"
            _run(self._engine["remove"])
        code = 137 if self._exit_code is None else self._exit_code
        if self._failure is not None:
            code, message = self._failure
            reason = "StartError"
        elif self._out_of_memory and code == 137:
            reason = "OOMKilled"
            message = f"the memory limit is {self._launch['memory_bytes']} bytes"
        elif self._stopping:
            reason = "Stopped"
        elif self._engine and code in (NO_STATUS, 126, 127):
            reason, message = "StartError", "the end of the log says why"
        ended = {
            "exit_code": code,
            "started": self._state.get("started"),
            "ended": time.time(),
            "reason": reason,
            "message": message,
        }
        _write("exit.json", ended)


def _run(command: list[str]) -> bytes:
    """Run a command of podman or docker and give what it says; how it ends does not matter."""
    import subprocess

    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=sys.stderr, check=False
    )
    return done.stdout


_ESCAPED = {code: f"\\u{code:04x}" for code in (*range(32), 34, 92)}


def _json(value: float | str | None) -> str:
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPED)}"'
    return "null" if value is None else str(value)


def _write(name: str, data: dict[str, Any]) -> None:
    with open(name + ".new", "w", encoding="utf-8", errors="replace") as file:
        file.write("{" + ", ".join(f'"{k}": {_json(v)}' for k, v in data.items()) + "}")
    os.replace(name + ".new", name)
