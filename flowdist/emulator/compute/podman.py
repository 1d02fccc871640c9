"""Containers that podman or docker runs, of real images in its storage.

A shim runs ``podman run`` in the foreground and copies what it prints, so that logs, states and
adoption after a restart are those of processes. An image that was pushed to the account's registry
and is not in the storage is pulled from there, by podman. On machines where a container cannot be
set up as usual (a container inside of one, no control groups, no crun) the options that work are
found by trying once.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import tempfile
import threading
from dataclasses import replace
from functools import cache
from typing import Any

from flowdist.emulator.compute.containers import Launch
from flowdist.emulator.compute.processes import ShimRuntime
from flowdist.emulator.errors import SqlError

__all__ = ["PodmanRuntime", "inspect_image"]

CLIENT = (
    "CONTAINERS_CONF",
    "CONTAINERS_STORAGE_CONF",
    "CONTAINER_HOST",
    "DBUS_SESSION_BUS_ADDRESS",
    "DOCKER_CONFIG",
    "DOCKER_HOST",
    "HOME",
    "PATH",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
)
"""What podman and docker themselves need of the environment."""
LOW_LIMIT = 4096
"""Of processes and open files, where podman may not set the limits that it wants."""
TRIED = 60.0
"""Seconds that an attempt to run something may take."""


class PodmanRuntime(ShimRuntime):
    """Containers by the command `engine`, "podman" or "docker"; ValueError where it is missing."""

    def __init__(self, engine: str) -> None:
        super().__init__()
        if shutil.which(engine) is None:
            raise ValueError(f"runtime {engine!r}: there is no command {engine} on this machine")
        self._engine = engine
        self._trying = threading.Lock()

    def prepare(self, launch: Launch) -> dict[str, Any]:
        """See :class:`ShimRuntime`."""
        name = _name(launch)
        with self._trying:
            base = options(self._engine)
        command = [self._engine, *base[0], "run", "--name", name, *base[1]]
        command += ["--network", launch.network]
        if launch.authfile and self._engine == "podman":
            command += ["--authfile", launch.authfile, "--tls-verify=false", "--quiet"]
        for bind in launch.binds:
            if bind.memory is not None:
                command += ["--tmpfs", f"{bind.target}:rw,size={bind.memory},mode=1777"]
                continue
            command += ["-v", f"{bind.source}:{bind.target}:{'rw' if bind.writable else 'ro'}"]
        own = {name: os.environ[name] for name in CLIENT if name in os.environ}
        # Values come by the environment of the client: an argument is seen by everybody.
        for variable, value in launch.env.items():
            command += ["-e", f"{variable}={value}" if variable in own else variable]
        if "--cgroups=disabled" not in base[1]:
            command += ["--memory", f"{launch.memory_bytes}b"] if launch.memory_bytes else []
            command += ["--cpus", f"{launch.cpus:g}"] if launch.cpus else []
        command += ["-u", launch.user] if launch.user else []
        command += ["-w", launch.working_directory] if launch.working_directory else []
        command += ["--entrypoint", launch.command[0]] if launch.command else []
        command += [launch.image, *launch.command[1:]]
        client = [self._engine, *base[0]]
        # Podman would give it 10 seconds even so; docker gives it none.
        at_once = ["--time", "0"] if self._engine == "podman" else []
        remove = [*client, "rm", "--force", *at_once, name]
        shim = replace(
            launch,
            command=tuple(command),
            env=launch.env | own,
            binds=(),
            user=None,
            memory_bytes=None,
            cpus=None,
            working_directory=None,
        )
        return shim.to_json() | {
            "isolated": False,
            "engine": {
                "terminate": [*client, "kill", "--signal", "TERM", name],
                "kill": remove,
                "inspect": [*client, "inspect", "--format", "{{.State.OOMKilled}}", name],
                "remove": remove,
            },
        }

    def clean(self, directory: Any) -> None:
        """See :class:`ShimRuntime`: the container outlives a shim that was killed."""
        try:
            with open(directory / "launch.json") as file:
                remove = json.load(file)["engine"]["remove"]
        except (OSError, KeyError, ValueError):
            return
        _run(remove)


@cache
def options(engine: str) -> tuple[list[str], list[str]]:
    """What a container needs of options on this machine, before and after ``run``; the plain ones
    where nothing works, so that the container itself says why.
    """
    if engine != "podman":
        return [], []
    runtimes: list[list[str]] = [[]]
    if shutil.which("runc"):
        runtimes.append(["--runtime", "runc"])
    limits = _low_limits()
    for runtime in runtimes:
        for more in ([], limits, ["--cgroups=disabled"], ["--cgroups=disabled", *limits]):
            if _can_set_up([engine, *runtime], more):
                return runtime, more
    return [], []


def _can_set_up(client: list[str], options: list[str]) -> bool:
    """Whether a container with these options comes as far as to look for its program."""
    with tempfile.TemporaryDirectory(prefix="flowdist-") as empty:
        made = _run([*client, "create", *options, "--network", "host", "--rootfs", empty, "none"])
        if made.returncode != 0:
            return False
        container = made.stdout.decode().split()[-1]
        begun = _run([*client, "start", "--attach", container])
        _run([*client, "rm", "--force", container])
    return begun.returncode == 127 or b"executable file" in begun.stderr


def _low_limits() -> list[str]:
    """Limits as options that can be set without CAP_SYS_RESOURCE, as podman's own cannot."""
    found = []
    for name, number in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
        most = min(resource.getrlimit(number)[1] % (1 << 62), LOW_LIMIT)
        found += ["--ulimit", f"{name}={most}:{most}"]
    return found


def inspect_image(engine: str, source: str) -> dict[str, Any]:
    """What podman or docker knows of an image in its storage, as arguments of `Images.push`;
    SqlError where it has no such image.
    """
    found = _run([engine, "image", "inspect", source])
    if found.returncode != 0:
        raise SqlError(
            2003, "02000", f"{engine} has no image {source!r}: {found.stderr.decode().strip()}"
        )
    image = json.loads(found.stdout)[0]
    config = image.get("Config") or {}
    return {
        "entrypoint": config.get("Entrypoint") or [],
        "cmd": config.get("Cmd") or [],
        "env": dict(variable.split("=", 1) for variable in config.get("Env") or []),
        "working_directory": config.get("WorkingDir") or None,
        "user": config.get("User") or None,
        "architecture": image["Architecture"],
        "digest": "sha256:" + image["Id"].removeprefix("sha256:"),
    }


def _name(launch: Launch) -> str:
    """A name for the engine: unique by the directory, readable by what it is called."""
    unique = hashlib.sha256(str(launch.directory).encode()).hexdigest()[:12]
    return f"flowdist-{launch.name.lower()}-{unique}"


def _run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=TRIED
    )
