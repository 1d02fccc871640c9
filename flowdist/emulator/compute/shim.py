"""The process that keeps one container: it starts it, writes down what it says and how it ends.

One shim per container, started by `processes.py` and detached from the server, so that containers
outlive a server that is killed. What it leaves in the container's directory is described in
`containers.py`. There are three processes: the shim, which writes log and state and sleeps
otherwise; the keeper, its child and the first process of the container's PID namespace, which reaps
orphans and passes signals on, as the small init of a container does; and the command.

- SIGTERM to the shim: the file `stop` says how long the container has after SIGTERM, then SIGKILL.
- When the command has ended, everything else of the container is killed; during a stop, what is
  still at work has the rest of its time.
- When the shim is killed, the kernel kills the keeper, and with it the namespace.
- Without namespaces ("isolated" is false) the keeper and the shim adopt and kill descendants.

Standard library only, and nothing of flowdist is imported. Starting a hundred containers is mostly
importing modules a hundred times: json, and enum, which signal needs, take as long as all the rest.
So what is to run comes marshalled, and the signals from the module that signal wraps.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]
import fcntl
import marshal
import math
import os
import select
import sys
import time

TYPE_CHECKING = False  # typing takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["main"]

LOG_BYTES = 10_000_000
"""A log that has grown beyond is put aside as log.old; so twice that is kept."""
LONGEST_LINE = 65_536
"""Bytes; a longer line is written in pieces marked ``P``, the last one ``F``."""
NO_STATUS = 125
"""The exit code where the container could not be set up."""


def main(directory: str, system: Any, group_of: Callable[..., Any]) -> None:
    """Keep the container of a directory to its end; standard input has what launch.json has, as
    marshal writes it. `system` is the module `rootfs`, `group_of` the class `cgroups.Group`.
    """
    os.chdir(directory)
    lock = os.open("lock", os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.lockf(lock, fcntl.LOCK_EX)
    if os.path.exists("exit.json"):
        return
    with open(0, "rb") as file:
        launch = marshal.load(file)
    Shim(launch, system, group_of).run()
    os._exit(0)  # taking the interpreter down takes longer than the system does


class Shim:
    """The shim of one container; the working directory is that of the container."""

    def __init__(self, launch: dict[str, Any], system: Any, group_of: Callable[..., Any]) -> None:
        self._launch = launch
        self._engine: dict[str, list[str]] | None = launch["engine"]
        self._system = system
        self._group_of = group_of
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
        self._system.guard(subreaper=self._engine is None)
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
        group = self._group_of(
            f"flowdist-{os.getpid()}-{int(time.time())}",
            self._launch["memory_bytes"],
            self._launch["cpus"],
        )
        blocked = {signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1}
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        try:
            if self._launch["isolated"]:
                self._system.separate()
            self._keeper = os.fork()
            if self._keeper == 0:
                signal.set_wakeup_fd(-1)
                Keeper(self._launch, self._system, group, pipes, blocked).run()
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
            data = os.read(fd, LONGEST_LINE)
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
                pids = _children(self._keeper)
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
                    data = os.read(fd, LONGEST_LINE)
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
            _signal(self._keeper, signal.SIGTERM)

    # -- limits

    def _look_at_memory(self, limit: int) -> float:
        """Kill what uses too much; the seconds until the next look, fewer as it gets close."""
        pids = _descendants(self._keeper)
        used = sum(_private_memory(pid) for pid in pids)
        if used > limit:
            # Forks share pages, which were counted several times: now by their shares, which is
            # exact and slow.
            used = sum(_share_of_memory(pid) for pid in pids)
        if used > limit:
            self._out_of_memory = True
            self._kill_all()
        return 0.05 if used > limit / 2 else 0.25 if used > limit / 10 else 0.5

    def _kill_all(self) -> None:
        """SIGKILL to all that is left of the container."""
        if self._engine:
            if self._keeper:
                _run(self._engine["kill"])
            return
        if self._launch["isolated"]:
            if self._keeper:
                _signal(self._keeper, signal.SIGKILL)
            return
        for _ in range(100):  # what forks while it is being killed is found in the next round
            pids = _descendants(os.getpid())[1:]
            if not pids:
                return
            for pid in pids:
                _signal(pid, signal.SIGKILL)
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


class Keeper:
    """The first process of the container: starts the command, reaps, passes signals on."""

    def __init__(
        self,
        launch: dict[str, Any],
        system: Any,
        group: Any,
        pipes: dict[str, tuple[int, int]],
        blocked: set[int],
    ) -> None:
        self._launch = launch
        self._system = system
        self._group = group
        self._pipes = pipes
        self._blocked = blocked
        self._isolated: bool = launch["isolated"]

    def run(self) -> None:
        """Never returns. Signals stay blocked here and are waited for."""
        try:
            self._system.guard(
                signal.SIGKILL if self._isolated else signal.SIGUSR1,
                subreaper=not self._isolated and self._launch["engine"] is None,
            )
            os.setsid()
            self._group.join()
            if self._isolated:
                self._system.enter(self._launch, os.path.join(self._launch["directory"], "root"))
            self._keep(self._start())
        except BaseException as error:
            self._tell("fail", NO_STATUS, str(error))
        finally:
            os._exit(0)

    def _start(self) -> int:
        ready, running = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ready)
            code, text = self._become_command()
            os.write(running, f"{code} {text}".encode())
            os._exit(code)
        os.close(running)
        for name in ("stdout", "stderr"):
            os.close(self._pipes[name][1])
        with os.fdopen(ready, "rb") as file:  # closed by exec, or filled with what went wrong
            failure = file.read().decode()
        if failure:
            self._tell("fail", failure)
        else:
            self._tell("run", pid)
        return pid

    def _become_command(self) -> tuple[int, str]:
        """Returns only where that fails: the exit code a shell would give, and why."""
        command = self._launch["command"]
        try:
            if not self._isolated:
                self._system.guard(signal.SIGKILL)
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(self._pipes["stdout"][1], 1)
            os.dup2(self._pipes["stderr"][1], 2)
            if self._launch["cpus"] and not self._group.cpu:
                _stay_on_cores(self._launch["cpus"])
            os.umask(0o022)
            os.chdir(self._launch["working_directory"] or "/")
            _become_user(self._launch["user"])
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._blocked)
        except OSError as error:
            return NO_STATUS, str(error)
        return _execute(command, self._launch["env"])

    def _keep(self, command: int) -> None:
        """Until the command has ended; during a stop, until all has."""
        stopping = ended = False
        while True:
            while True:
                try:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    return
                if pid == 0:
                    break
                if pid == command:
                    code = os.waitstatus_to_exitcode(status)
                    self._tell("exit", code if code >= 0 else 128 - code)
                    ended = True
            if ended and not stopping:
                return
            number = signal.sigwait(self._blocked)
            if number == signal.SIGTERM:
                # To the command alone, as to the first process of a real container: what it has
                # started is for it to end, or to finish.
                stopping = True
                _signal(command, signal.SIGTERM)
            elif number == signal.SIGUSR1:  # the shim was killed
                for pid in _descendants(os.getpid())[1:]:
                    _signal(pid, signal.SIGKILL)

    def _tell(self, *words: object) -> None:
        line = " ".join(str(word).replace("\n", " ") for word in words) + "\n"
        os.write(self._pipes["status"][1], line.encode())


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


def _execute(command: list[str], env: dict[str, str]) -> tuple[int, str]:
    """Become a program, looked for as a shell does; the exit code and the reason where it cannot.

    Not by os.execvpe, which imports: the user may be one who cannot read the library of Python.
    """
    name = command[0]
    places = [""] if "/" in name else [p + "/" for p in env.get("PATH", "").split(":") if p]
    code, text = 127, f"{name}: command not found"
    for place in places:
        try:
            os.execve(place + name, command, env)
        except (FileNotFoundError, NotADirectoryError):
            if os.path.exists(place + name):
                text = f"{name}: the interpreter in its first line was not found"
        except OSError as error:
            code, text = 126, f"{name}: {os.strerror(error.errno or 0)}"
    return code, text


def _become_user(user: str | None) -> None:
    """Take the user and group of "uid" or "uid:gid"; without root one stays who one is."""
    if not user or os.geteuid() != 0:
        return
    uid, _, gid = user.partition(":")
    os.setgroups([])
    os.setgid(int(gid or uid))
    os.setuid(int(uid))


def _stay_on_cores(cpus: float) -> None:
    """As many cores as the limit needs, rounded up; others than the next container, likely."""
    cores = sorted(os.sched_getaffinity(0))
    count = math.ceil(cpus)
    if count < len(cores):
        first = os.getppid() * count
        os.sched_setaffinity(0, {cores[(first + i) % len(cores)] for i in range(count)})


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found.extend(int(word) for word in file.read().split())
    except OSError:
        pass  # it has just ended, or this is no Linux
    return found


def _descendants(pid: int) -> list[int]:
    """A process and what comes from it, children after parents."""
    found = [pid]
    for parent in found:
        found.extend(_children(parent))
    return found


def _private_memory(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            _, resident, shared, *_ = file.read().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def _share_of_memory(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("Pss:")) * 1024
    except OSError:
        return 0


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


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
