"""docker, podman and buildah: which one is there, and what it is told.

Output of builds and pushes goes to where it is told to; secrets are in no argument.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import resource
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from flowdist.errors import BackendError, UsageError

__all__ = ["ENGINES", "Engine", "ImageFacts", "container_options", "find_engine", "signed_in"]

ENGINES = ("docker", "podman", "buildah")
"""In the order in which they are looked for."""
LOW_LIMIT = 4096
"""Of processes and open files, where podman may not set the limits that it wants."""
TRIED = 60.0
"""Seconds that an attempt to run something, or a question, may take."""
LAST_LINES = 12


@dataclass(frozen=True)
class ImageFacts:
    """What an engine knows of an image in its storage."""

    architecture: str
    os: str
    user: str = ""
    entry_point: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    size: int | None = None
    """Bytes, unpacked; None where the engine does not say."""


@dataclass(frozen=True)
class Engine:
    """One of the programs that build images and run containers.

    `more` are options that its user adds to builds and runs.
    """

    name: str
    more: tuple[str, ...] = ()

    def build(
        self,
        context: Path,
        file: Path,
        tag: str,
        platform: str,
        *,
        pip_config: Path | None = None,
        out: Callable[[str], None],
    ) -> None:
        """Build an image; `out` gets the lines that the engine prints.

        Raises:
            BackendError: it failed; the last lines say why.
        """
        secret = [] if pip_config is None else ["--secret", f"id=pip,src={pip_config}"]
        command = [self.name, "build", "--platform", platform, "--tag", tag, "--file", str(file)]
        # A list of images with a record of their making is not what nodes of pools pull.
        environment = {"DOCKER_BUILDKIT": "1", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
        _shown([*command, *secret, *self.more, str(context)], out, environment)

    def inspect(self, image: str) -> ImageFacts | None:
        """What it knows of an image; None where it has none of that name."""
        if self.name == "buildah":
            done = _run([self.name, "inspect", "--type", "image", image])
        else:
            done = _run([self.name, "image", "inspect", image])
        if done.returncode != 0:
            return None
        found = json.loads(done.stdout)
        return _facts(found if self.name == "buildah" else found[0])

    def pinned(self, image: str) -> str | None:
        """The name by which exactly this image of a registry is found again: ``name@digest``. None
        where it is named so already, or the engine does not keep it.
        """
        if "@" in image or self.name == "buildah":
            return None
        done = _run([self.name, "image", "inspect", "--format", "{{json .RepoDigests}}", image])
        found = json.loads(done.stdout or "null") if done.returncode == 0 else None
        return str(found[0]) if found else None

    def run(
        self,
        image: str,
        args: Sequence[str] = (),
        *,
        entry_point: str | None = None,
        memory: Sequence[str] = (),
        text: str = "",
        seconds: float,
    ) -> subprocess.CompletedProcess[str]:
        """Run a container that ends by itself, without network; what it printed, and its code.

        Args:
            image, args: what is run.
            entry_point: in place of the image's own.
            memory: places where file systems in memory are mounted, as ``path:options``.
            text: what it reads from standard input.
            seconds: how long it may take.

        Raises:
            BackendError: it takes longer.
        """
        before, more = container_options(self.name)
        command = [self.name, *before, "run", "--rm", "--interactive", "--network", "none"]
        command += ["--pull", "never", *more, *self.more]
        for place in memory:
            command += ["--tmpfs", place]
        command += [] if entry_point is None else ["--entrypoint", entry_point]
        try:
            return subprocess.run(
                [*command, image, *args],
                input=text,
                capture_output=True,
                text=True,
                check=False,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            raise BackendError(
                f"{self.name}: a container of {image} has not ended in {seconds:.0f} s"
            ) from None

    def push(
        self, image: str, target: str, signed: Path | None, out: Callable[[str], None]
    ) -> str | None:
        """Push an image to a registry under its full name there; the digest that it has there,
        where the engine says it.

        Args:
            image, target: what it is called here, and there.
            signed: the directory of `signed_in`; None where its user has signed in before.
            out: gets the lines that the engine prints.

        Raises:
            BackendError: it failed; the last lines say why.
        """
        if self.name == "docker":
            configuration = [] if signed is None else ["--config", str(signed)]
            _shown([self.name, "tag", image, target], out)
            try:
                lines = _shown([self.name, *configuration, "push", target], out)
            finally:
                _run([self.name, "rmi", target])  # the name alone: the image has another
            found = re.search(r"digest: (sha256:[0-9a-f]{64})", "\n".join(lines))
            return found[1] if found else None
        command = [self.name, "push"]
        command += [] if signed is None else ["--authfile", str(signed / "config.json")]
        # As docker has it: a registry of this very machine may do without TLS.
        command += ["--tls-verify=false"] if _is_here(target) else []
        with tempfile.TemporaryDirectory(prefix="flowdist-digest-") as directory:
            noted = Path(directory, "digest")
            _shown([*command, "--digestfile", str(noted), image, f"docker://{target}"], out)
            return noted.read_text().strip() if noted.exists() else None


def find_engine(
    named: str | None = None, *, runs: bool = False, more: Sequence[str] = ()
) -> Engine:
    """The engine of that name, else the first that is there and answers.

    Args:
        named: docker, podman or buildah.
        runs: whether it has to run containers of an image, as buildah does not.
        more: see `Engine`.

    Raises:
        UsageError: there is none.
    """
    able = [name for name in ENGINES if not (runs and name == "buildah")]
    if named is not None:
        if named not in able:
            raise UsageError(f"{named} does not run containers of an image; podman and docker do")
        if why := _absent(named):
            raise UsageError(why)
        return Engine(named, tuple(more))
    reasons = []
    for name in able:
        why = _absent(name)
        if why is None:
            return Engine(name, tuple(more))
        reasons.append(why)
    raise UsageError(
        f"{', '.join(able[:-1])} or {able[-1]} is needed: {'; '.join(reasons)}. On Debian: apt "
        "install podman. flowdist image build --print shows the Containerfile for another machine"
    )


@contextlib.contextmanager
def signed_in(host: str, user: str, password: str) -> Iterator[Path]:
    """A directory that only this user may read, with what signs in to a registry, for docker and
    the others; it is removed at the end.
    """
    with tempfile.TemporaryDirectory(prefix="flowdist-registry-") as directory:
        place = Path(directory)
        key = base64.b64encode(f"{user}:{password}".encode()).decode()
        known: dict[str, Any] = {"auths": {host: {"auth": key}}}
        own = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
        with contextlib.suppress(OSError, ValueError):
            # Which docker is spoken to is said there as well.
            used = json.loads((own / "config.json").read_text(encoding="utf-8"))
            known |= {k: used[k] for k in ("currentContext", "proxies") if k in used}
        if (own / "contexts").is_dir():
            (place / "contexts").symlink_to(own / "contexts")
        file = os.open(place / "config.json", os.O_WRONLY | os.O_CREAT, 0o600)
        with open(file, "w", encoding="utf-8") as opened:
            json.dump(known, opened)
        yield place


# -- what a container needs on this machine -------------------------------------------------------


@cache
def container_options(engine: str) -> tuple[list[str], list[str]]:
    """What a container needs of options on this machine, before and after ``run``; the plain ones
    where nothing works, so that the container itself says why.

    Where a container cannot be set up as usual (a container inside of one, no control groups, no
    crun) the options that work are found by trying once.
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
        container = made.stdout.split()[-1]
        begun = _run([*client, "start", "--attach", container])
        _run([*client, "rm", "--force", container])
    return begun.returncode == 127 or "executable file" in begun.stderr


def _low_limits() -> list[str]:
    """Limits as options that can be set without CAP_SYS_RESOURCE, as podman's own cannot."""
    found = []
    for name, number in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
        most = min(resource.getrlimit(number)[1] % (1 << 62), LOW_LIMIT)
        found += ["--ulimit", f"{name}={most}:{most}"]
    return found


# -- inside ---------------------------------------------------------------------------------------


def _absent(name: str) -> str | None:
    """Why an engine is of no use here; None where it answers."""
    if shutil.which(name) is None:
        return f"there is no {name} here"
    if name != "docker":
        return None
    try:
        done = _run([name, "version", "--format", "{{.Server.Version}}"])
    except subprocess.TimeoutExpired:
        return f"docker does not answer in {TRIED:.0f} s"
    return None if done.returncode == 0 else "docker is installed, and its server does not answer"


def _facts(found: Mapping[str, Any]) -> ImageFacts:
    """From what `inspect` says; buildah has the image inside, its names in lower case, no size."""
    image = {name.lower(): value for name, value in found.get("OCIv1", found).items()}
    config = image.get("config") or {}
    return ImageFacts(
        architecture=image.get("architecture", ""),
        os=image.get("os", ""),
        user=config.get("User") or "",
        entry_point=tuple(config.get("Entrypoint") or ()),
        labels=config.get("Labels") or {},
        size=image.get("size"),
    )


def _is_here(target: str) -> bool:
    """Whether a registry is one of this machine."""
    host = target.partition("/")[0].partition(":")[0]
    return host == "localhost" or host.startswith("127.")


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=TRIED,
    )


def _shown(
    command: Sequence[str], out: Callable[[str], None], more: Mapping[str, str] | None = None
) -> list[str]:
    """Run a command and hand on what it prints; the last lines. BackendError with these where it
    fails.
    """
    last: deque[str] = deque(maxlen=LAST_LINES)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **(more or {})},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line.rstrip())
            out(line.rstrip())
    if process.returncode != 0:
        what = " ".join(command[:2])
        said = "\n".join(f"  {line}" for line in last if line) or "  it said nothing"
        raise BackendError(f"{what} failed with code {process.returncode}:\n{said}")
    return list(last)
