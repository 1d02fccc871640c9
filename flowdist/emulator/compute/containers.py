"""Containers: what is to run, what became of it, and the seam between pools and what runs them.

A container is started by a shim (`shim/`), a process of its own that outlives the server. All
that is known of a container lies in its directory, so that a server that was killed finds its
containers and their exit codes again by the directory alone:

===============  =======================================================================
launch.json      what is to run; has secrets in it, so only its owner may read it
lock             held by the shim as long as it lives
state.json       since the shim has begun: its process id; since when the command runs
stop             the request to stop it: the grace in seconds
exit.json        how it has ended; written last
lost.json        written by the server where the shim was killed: when that was noticed
log, log.old     what it has printed (`logs.py`), the newer part and the older
previous.log     what the run before it has printed, where it was started again
tmp              its /tmp
===============  =======================================================================
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from flowdist.emulator.account import Settings

__all__ = ["Bind", "ContainerState", "Launch", "Runtime", "Status", "runtime_of"]

OUT_OF_MEMORY = "OOMKilled"
"""The reason where the container has used more memory than it may."""
STOPPED = "Stopped"
"""The reason where it was stopped or killed by request."""
NOT_STARTED = "StartError"
"""The reason where the command could not be run at all; exit code 126, 127 or 125."""
LOST = "Lost"
"""The reason where the shim was killed, so that nobody knows how the command ended."""


@dataclass(frozen=True)
class Bind:
    """A directory or file of the machine as the container sees it, at an absolute path.

    Bind directories where a file is to be replaced later: a bound file stays the one it was.
    """

    source: Path
    target: str
    writable: bool = True
    memory: int | None = None
    """Bytes. What is bound is not `source` but memory of that size, which counts as the container's
    own; `source` only where the container has no file system of its own.
    """


@dataclass(frozen=True)
class Launch:
    """All that is needed to start a container.

    ``command`` is the full argument list, the image's entry point included; ``image`` the name
    under which podman or docker finds the image (`Image.source`), unused by processes. ``env`` is
    complete but for PATH, HOME and LANG. ``user`` is "uid", "uid:gid" or None for that of the
    server or image. ``visible`` are directories under the machine's /tmp that a process must see;
    ``authfile`` the file by which podman signs in to pull an image that its storage lacks.
    """

    directory: Path
    name: str
    command: tuple[str, ...]
    image: str = ""
    env: dict[str, str] = field(default_factory=dict)
    binds: tuple[Bind, ...] = ()
    working_directory: str | None = None
    user: str | None = None
    memory_bytes: int | None = None
    cpus: float | None = None
    network: str = "host"
    visible: tuple[str, ...] = ()
    authfile: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a dict that JSON can hold."""
        return json.loads(json.dumps(asdict(self), default=str))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Launch:
        """What :meth:`to_json` gave; keys that are not its own are passed over."""
        known = {k: v for k, v in data.items() if k in cls.__dataclass_fields__}
        binds = tuple(Bind(**{**bind, "source": Path(bind["source"])}) for bind in data["binds"])
        return cls(
            **known
            | {
                "directory": Path(data["directory"]),
                "command": tuple(data["command"]),
                "binds": binds,
                "visible": tuple(data["visible"]),
            }
        )


class Status(StrEnum):
    """Where a container is in its life."""

    STARTING = "starting"
    """It was asked for; the command does not run yet."""
    RUNNING = "running"
    EXITED = "exited"
    """It has ended, and how is known."""
    LOST = "lost"
    """It has ended, since what kept it was killed: exit code 137, or it was never started."""

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self in (Status.EXITED, Status.LOST)


@dataclass(frozen=True)
class ContainerState:
    """What is known of a container; times are Unix time in seconds.

    ``exit_code`` is 128 + n where signal n has ended the command. ``reason`` is empty or one of
    "OOMKilled", "Stopped", "StartError", "Lost"; ``message`` says more where there is more to say.
    """

    status: Status
    pid: int | None = None
    """Of the command, as the machine counts; of the client of podman or docker."""
    exit_code: int | None = None
    started: float | None = None
    ended: float | None = None
    reason: str = ""
    message: str = ""


class Runtime(Protocol):
    """What runs containers. Every method may be called from any thread and by a new server."""

    def start(self, launch: Launch) -> None:
        """Begin to start a container; how that went is seen in its state. It may run where an
        earlier one has ended: then the log of that one is kept as the previous one.
        """
        ...

    def state(self, directory: Path) -> ContainerState | None:
        """What is known of the container there; None where none was ever started."""
        ...

    def stop(self, directory: Path, grace: float = 30.0) -> None:
        """SIGTERM to the command, and SIGKILL to all of the container after `grace` seconds.
        Returns at once; it happens even if the server is killed after that. Nothing happens where
        it has ended.
        """
        ...

    def kill(self, directory: Path) -> None:
        """SIGKILL to the whole container, now: exit code 137."""
        ...

    def forget(self, directory: Path) -> None:
        """Kill what runs there and remove the directory with all that is in it."""
        ...


def runtime_of(settings: Settings) -> Runtime:
    """The runtime that ``settings.runtime`` names: "process", "podman" or "docker"; ValueError
    where the machine does not have it.
    """
    from flowdist.emulator.compute.podman import PodmanRuntime
    from flowdist.emulator.compute.processes import ProcessRuntime

    name = settings.runtime
    if name == "process":
        return ProcessRuntime()
    if name in ("podman", "docker"):
        return PodmanRuntime(name)
    raise ValueError(f"runtime {name!r} is unknown; it is 'process', 'podman' or 'docker'")
