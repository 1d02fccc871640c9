"""The keeper of a container: its first process, which starts the command and reaps the rest."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]
import math
import os

from . import rootfs  # noqa: TID252 - see the package
from .cgroups import Group  # noqa: TID252
from .proc import descendants, send  # noqa: TID252

TYPE_CHECKING = False  # typing takes longer to import than all the rest
if TYPE_CHECKING:
    from typing import Any

__all__ = ["NO_STATUS", "Keeper"]

NO_STATUS = 125
"""The exit code where the container could not be set up."""


class Keeper:
    """The first process of the container: starts the command, reaps, passes signals on."""

    def __init__(
        self,
        launch: dict[str, Any],
        group: Group,
        pipes: dict[str, tuple[int, int]],
        blocked: set[int],
    ) -> None:
        self._launch = launch
        self._group = group
        self._pipes = pipes
        self._blocked = blocked
        self._isolated: bool = launch["isolated"]

    def run(self) -> None:
        """Never returns. Signals stay blocked here and are waited for."""
        try:
            rootfs.guard(
                signal.SIGKILL if self._isolated else signal.SIGUSR1,
                subreaper=not self._isolated and self._launch["engine"] is None,
            )
            os.setsid()
            self._group.join()
            if self._isolated:
                rootfs.enter(self._launch, os.path.join(self._launch["directory"], "root"))
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
                rootfs.guard(signal.SIGKILL)
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
                send(command, signal.SIGTERM)
            elif number == signal.SIGUSR1:  # the shim was killed
                for pid in descendants(os.getpid())[1:]:
                    send(pid, signal.SIGKILL)

    def _tell(self, *words: object) -> None:
        line = " ".join(str(word).replace("\n", " ") for word in words) + "\n"
        os.write(self._pipes["status"][1], line.encode())


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
    if not (uid.isdigit() and (gid or uid).isdigit()):
        raise OSError(
            f"user {user} of the image: its name is not known here; give the number of the user"
        )
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
