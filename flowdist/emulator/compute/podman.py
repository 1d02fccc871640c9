"""Containers that podman or docker runs, of real images in its storage.

A shim runs ``podman run`` in the foreground and copies what it prints, so that logs, states and
adoption after a restart are those of processes. An image that was pushed to the account's registry
and is not in the storage is pulled from there, by podman.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import threading
from dataclasses import replace
from typing import Any

from flowdist.emulator.compute.containers import Launch
from flowdist.emulator.compute.processes import ShimRuntime
from flowdist.emulator.errors import SqlError
from flowdist.workers.image.engines import container_options

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
            base = container_options(self._engine)
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
