"""Containers that are processes of this machine, and all that such a runtime shares with podman's.

Where Linux allows it (root, or user namespaces) a container has a file system and process ids of
its own: see `shim/rootfs.py`. Elsewhere its processes see the machine as it is, and the paths of
its binds are replaced by the real ones wherever they stand in the command and the environment, so
that simple jobs work anywhere; what has such a path in its code does not find it.

Environment: that of the image and the specification, and PATH, HOME and LANG where they lack them;
nothing else of the server's.
"""

from __future__ import annotations

import fcntl
import json
import marshal
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from flowdist.emulator.compute.containers import LOST, ContainerState, Launch, Status

__all__ = ["ProcessRuntime", "ShimRuntime", "isolation"]

_BEGIN = "import sys; sys.path.append(sys.argv[1]); from shim.main import main; main(sys.argv[2])"
"""What a shim begins with; its arguments are the directory that has the package `shim`, which is
this one, and that of the container.
"""
_MARK = "FLOWDIST_EMULATOR_CONTAINER"
"""Names the directory of a container to its processes, where no namespace holds them together."""
BEGUN_AFTER = 10.0
"""Seconds within which a shim that was started has surely taken its lock."""


class ShimRuntime(ABC):
    """A runtime by shims; what a shim is to run is :meth:`prepare`'s to say."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shims: dict[Path, subprocess.Popen[bytes]] = {}
        """Of this server, to be reaped."""

    @abstractmethod
    def prepare(self, launch: Launch) -> dict[str, Any]:
        """The contents of launch.json, as the shim reads it."""

    @abstractmethod
    def clean(self, directory: Path) -> None:
        """End what a shim that was killed has left behind."""

    def start(self, launch: Launch) -> None:
        """See :class:`~flowdist.emulator.compute.containers.Runtime`."""
        directory = launch.directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        state = self.state(directory)
        if state is not None and not state.status.ended:
            raise ValueError(f"{directory}: the container there has not ended")
        if (directory / "log").exists():
            os.replace(directory / "log", directory / "previous.log")
        for name in ("state.json", "stop", "exit.json", "lost.json", "log.old"):
            (directory / name).unlink(missing_ok=True)
        for name, mode in (("tmp", 0o1777), ("root", 0o755)):
            (directory / name).mkdir(exist_ok=True)
            (directory / name).chmod(mode)
        prepared = self.prepare(launch)
        _write_private(directory / "launch.json", json.dumps(prepared))
        with (
            open(directory / "shim.err", "ab") as errors,
            tempfile.TemporaryFile() as given,
            self._lock,
        ):
            given.write(marshal.dumps(prepared))
            given.seek(0)
            self._shims[directory] = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _BEGIN, str(Path(__file__).parent), directory],
                stdin=given,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )

    def state(self, directory: Path) -> ContainerState | None:
        """See :class:`~flowdist.emulator.compute.containers.Runtime`."""
        try:
            begun = os.stat(directory / "launch.json").st_mtime
        except FileNotFoundError:
            return None
        # The order matters: what is not yet written when it is looked for may be a moment later. A
        # shim takes its lock before it writes its state, and lets go after it has written the end.
        state = _read(directory / "state.json")
        alive = self._alive(directory)
        ended = _read(directory / "exit.json")
        if ended is not None:
            self._reap(directory)
            return ContainerState(Status.EXITED, **ended)
        lost = _read(directory / "lost.json")
        if lost is not None:
            return ContainerState(Status.LOST, **lost)
        if alive or (state is None and self._may_begin(directory, begun)):
            known = state or {}
            status = Status.RUNNING if "pid" in known else Status.STARTING
            return ContainerState(status, known.get("pid"), started=known.get("started"))
        self._reap(directory)
        return self._lost(directory, state)

    def stop(self, directory: Path, grace: float = 30.0) -> None:
        """See :class:`~flowdist.emulator.compute.containers.Runtime`."""
        if not directory.exists() or any(
            (directory / name).exists() for name in ("exit.json", "lost.json")
        ):
            return
        try:
            earlier = float((directory / "stop").read_text())
        except FileNotFoundError:
            earlier = math.inf
        if grace < earlier:
            _write_private(directory / "stop", str(grace))
        state = _read(directory / "state.json")
        if state is not None and self._alive(directory):
            try:
                os.kill(state["shim"], signal.SIGTERM)
            except ProcessLookupError:
                return

    def kill(self, directory: Path) -> None:
        """See :class:`~flowdist.emulator.compute.containers.Runtime`."""
        self.stop(directory, 0.0)

    def forget(self, directory: Path) -> None:
        """See :class:`~flowdist.emulator.compute.containers.Runtime`."""
        until = time.monotonic() + BEGUN_AFTER
        while (state := self.state(directory)) and not state.status.ended:
            self.kill(directory)
            if time.monotonic() > until:
                break
            time.sleep(0.01)
        shutil.rmtree(directory, ignore_errors=True)

    def _alive(self, directory: Path) -> bool:
        """Whether a shim holds the lock, which no process can keep beyond its death."""
        try:
            file = os.open(directory / "lock", os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(file)
        return False

    def _may_begin(self, directory: Path, begun: float) -> bool:
        """Whether a shim of which there is no trace yet may still come."""
        with self._lock:
            shim = self._shims.get(directory)
        if shim is not None:
            return shim.poll() is None
        return time.time() < begun + BEGUN_AFTER

    def _reap(self, directory: Path) -> None:
        with self._lock:
            shim = self._shims.get(directory)
            if shim is not None and shim.poll() is not None:
                del self._shims[directory]

    def _lost(self, directory: Path, state: dict[str, Any] | None) -> ContainerState:
        """Write down that a container has ended without anybody to see how."""
        self.clean(directory)
        ended = _read(directory / "exit.json")
        if ended is not None:
            return ContainerState(Status.EXITED, **ended)
        errors = directory / "shim.err"
        said = errors.read_text(errors="replace").strip()[-1000:] if errors.exists() else ""
        message = said or "the process that kept the container was killed"
        made = ContainerState(
            Status.LOST,
            exit_code=137,
            started=(state or {}).get("started"),
            ended=time.time(),
            reason=LOST,
            message=message,
        )
        kept = {k: v for k, v in vars(made).items() if k not in ("status", "pid")}
        _write_private(directory / "lost.json", json.dumps(kept))
        return made


class ProcessRuntime(ShimRuntime):
    """Containers as processes; ``isolated`` forces namespaces or their absence, for tests."""

    def __init__(self, isolated: bool | None = None) -> None:
        super().__init__()
        self._isolated = isolated

    @property
    def isolated(self) -> bool:
        """Whether containers have a file system and process ids of their own."""
        return isolation() == "" if self._isolated is None else self._isolated

    def prepare(self, launch: Launch) -> dict[str, Any]:
        """See :class:`ShimRuntime`."""
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": os.path.expanduser("~"),
            "LANG": "C.UTF-8",
        } | launch.env
        launch = replace(launch, env=env)
        if self.isolated:
            launch = replace(launch, visible=_visible(launch))
        else:
            launch = _on_machine(launch)
        return launch.to_json() | {"isolated": self.isolated, "engine": None}

    def clean(self, directory: Path) -> None:
        """See :class:`ShimRuntime`. With namespaces the kernel has done it already."""
        mark = os.fsencode(f"{_MARK}={directory}")
        for entry in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in entry.read_bytes().split(b"\0"):
                    os.kill(int(entry.parent.name), signal.SIGKILL)
            except (OSError, ValueError):
                continue  # of another user, or gone


@cache
def isolation() -> str:
    """Why containers cannot have namespaces on this machine; empty where they can."""
    runtime = ProcessRuntime(isolated=True)
    with tempfile.TemporaryDirectory(prefix="flowdist-") as made:
        directory = Path(made) / "probe"
        runtime.start(Launch(directory, "probe", (sys.executable, "-I", "-S", "-c", "")))
        until = time.monotonic() + BEGUN_AFTER
        while (state := runtime.state(directory)) and not state.status.ended:
            if time.monotonic() > until:
                runtime.forget(directory)
                return "a container did not end"
            time.sleep(0.002)
        if state is None or state.exit_code != 0:
            return state.message if state and state.message else "a container could not be started"
    return ""


def _visible(launch: Launch) -> tuple[str, ...]:
    """What of the machine's /tmp the container needs: where its program and libraries are."""
    wanted = [*launch.visible, launch.command[0] if launch.command else ""]
    wanted.append(launch.working_directory or "")
    for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV"):
        wanted.extend(launch.env.get(name, "").split(":"))
    tops = {"/".join(path.split("/")[:3]) for path in wanted if path.startswith("/tmp/")}
    bound = {bind.target for bind in launch.binds}
    return tuple(sorted(top for top in tops - bound if os.path.lexists(top)))


def _on_machine(launch: Launch) -> Launch:
    """A launch without namespaces: the paths of its binds replaced by those of the machine.

    >>> from flowdist.emulator.compute.containers import Bind
    >>> bound = (Bind(Path("/real"), "/stage"),)
    >>> launch = Launch(Path("/c"), "c", ("ls", "--in=/stage/x", "/stages"), binds=bound)
    >>> _on_machine(launch).command
    ('ls', '--in=/real/x', '/stages')
    """
    sources = {bind.target.rstrip("/"): str(bind.source) for bind in launch.binds}
    longest_first = sorted(sources, key=len, reverse=True)
    among = "|".join(re.escape(target) for target in longest_first)
    pattern = re.compile(rf"(?<![\w./-])(?:{among})(?![\w.-])")

    def real(text: str) -> str:
        return pattern.sub(lambda match: sources[match.group()], text) if sources else text

    private = {"TMPDIR": str(launch.directory / "tmp"), _MARK: str(launch.directory)}
    return replace(
        launch,
        command=tuple(real(word) for word in launch.command),
        env={k: real(v) for k, v in launch.env.items()} | private,
        working_directory=real(launch.working_directory or str(launch.directory / "tmp")),
    )


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())  # type: ignore[no-any-return]
    except FileNotFoundError:
        return None


def _write_private(path: Path, text: str) -> None:
    made = path.with_name(path.name + ".made")
    with open(os.open(made, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    os.replace(made, path)
