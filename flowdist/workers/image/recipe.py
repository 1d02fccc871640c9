"""What an image is made from, and the Containerfile that makes it.

Pure: the same recipe gives the same bytes, and its digest names the image.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from flowdist import __version__
from flowdist.errors import UsageError
from flowdist.snowflake.images import WORKER_UID, WorkerTag, python_minor
from flowdist.workers.image.packages import NOTHING, PLACE, Packages
from flowdist.workers.image.wheels import Wheel

__all__ = ["CONTAINERFILE", "ENTRY_POINT", "LABELS", "PLATFORM", "Recipe", "default_base"]

CONTAINERFILE = "Containerfile"
HASHED, REQUIREMENTS, CONSTRAINTS = "hashed.txt", "requirements.txt", "constraints.txt"
PLATFORM = "linux/amd64"
"""What nodes of compute pools run, but for those of the families GEN_ARM."""
ENTRY_POINT = ("python", "-m", "flowdist.workers")
EXTRA = "snowflake"
HOME = "/home/flowdist"

LABELS = {
    "flowdist": "flowdist.version",
    "python": "flowdist.python",
    "packages": "flowdist.packages",
    "recipe": "flowdist.recipe",
    "wheel": "flowdist.wheel",
}
"""The labels of an image: versions, and digests of its requirements, of all of it, and of the wheel
of flowdist where it is no release."""

_PIP = "python -m pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore"
_BASE = re.compile(r"[\w.:/-]+(@sha256:[0-9a-f]{64})?")
_APT = re.compile(r"[a-z0-9][a-z0-9.+-]+(:[a-z0-9]+)?(=[\w.:+~-]+)?")


def default_base() -> str:
    """The image to begin with: the Python that runs here, on Debian, with little else."""
    return f"docker.io/library/python:{python_minor()}-slim"


@dataclass(frozen=True)
class Recipe:
    """What an image is made from.

    Attributes:
        packages: what pip installs before flowdist.
        constraints: the versions that flowdist's own dependencies are held to.
        wheel: flowdist itself; None where pip fetches the release.
        base: the image to begin with; a digest pins it.
        apt: packages of Debian, as ``name`` or ``name=version``.
        pip_config: whether pip is shown a configuration file while it runs, which is not kept.
    """

    packages: Packages = NOTHING
    constraints: tuple[str, ...] = ()
    wheel: Wheel | None = None
    base: str = ""
    apt: tuple[str, ...] = ()
    pip_config: bool = False

    def __post_init__(self) -> None:
        if self.base and not _BASE.fullmatch(self.base):
            raise UsageError(f"--base {self.base}: not the name of an image")
        for name in self.apt:
            if not _APT.fullmatch(name):
                raise UsageError(
                    f"--apt {name}: not a package of Debian; write name or name=version"
                )
        if self.packages.needs_git and not any(a.partition("=")[0] == "git" for a in self.apt):
            raise UsageError(
                f"{self.packages.source} has packages that pip fetches with git, which the image "
                "has not: --apt git adds it"
            )

    @property
    def texts(self) -> dict[str, str]:
        """The files that pip is given, by their names, in the order in which it installs them.

        Where some lines have digests and others have none these are apart: pip wants all or none.
        """
        lines = self.packages.requirements
        hashed = [line for line in lines if "--hash=" in line or line.startswith("-")]
        if not any("--hash=" in line for line in lines):
            hashed = []
        plain = [line for line in lines if line not in hashed]
        files = {HASHED: hashed, REQUIREMENTS: plain, CONSTRAINTS: self.constraints}
        return {
            name: "".join(f"{line}\n" for line in found)
            for name, found in files.items()
            if found or name == CONSTRAINTS
        }

    @property
    def wheels(self) -> tuple[Wheel, ...]:
        """All wheels that are copied into the image."""
        own = () if self.wheel is None else (self.wheel,)
        return (*self.packages.wheels, *own)

    @property
    def packages_digest(self) -> str:
        """What a lock file comes to: the digest of the lines that pip installs, and of wheels."""
        wheels = sorted(f"{wheel.name} {wheel.sha256}" for wheel in self.packages.wheels)
        return _digest([*self.packages.requirements, *wheels])

    @property
    def digest(self) -> str:
        """The digest of everything: two images of the same recipe have the same tag."""
        wheels = sorted(f"{wheel.name} {wheel.sha256}" for wheel in self.wheels)
        return _digest([*self._lines(), *self.texts.values(), *wheels])

    @property
    def tag(self) -> str:
        """The tag that says what is in the image; see `flowdist.snowflake.images.WorkerTag`."""
        return str(WorkerTag(__version__, python_minor(), self.digest[:8]))

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the image."""
        return {
            LABELS["flowdist"]: __version__,
            LABELS["python"]: python_minor(),
            LABELS["packages"]: f"sha256:{self.packages_digest}",
            LABELS["recipe"]: f"sha256:{self.digest}",
            **({} if self.wheel is None else {LABELS["wheel"]: self.wheel.sha256}),
        }

    def containerfile(self) -> str:
        """The Containerfile, in the words that docker, podman and buildah have in common."""
        labels = [f"{name}={json.dumps(value)}" for name, value in self.labels.items()]
        return "\n".join([*self._lines(), "LABEL " + " \\\n      ".join(labels), ""])

    def files(self) -> dict[str, bytes]:
        """The Containerfile and the files that it copies, by their names."""
        texts = {CONTAINERFILE: self.containerfile(), **self.texts}
        found = {name: text.encode() for name, text in texts.items()}
        return found | {wheel.name: wheel.data for wheel in self.wheels}

    def _lines(self) -> list[str]:
        return [
            "# A worker of flowdist. It was written by: flowdist image build",
            f"FROM --platform={PLATFORM} {self.base or default_base()}",
            "USER 0:0",
            f"RUN {_right_python()}",
            *self._system_packages(),
            *self._python_packages(),
            "",
            "# Nothing runs as root: a mounted stage belongs to this user.",
            f"RUN echo 'flowdist:x:{WORKER_UID}:{WORKER_UID}::{HOME}:/bin/sh' >> /etc/passwd \\",
            f" && echo 'flowdist:x:{WORKER_UID}:' >> /etc/group \\",
            f" && mkdir -p {HOME} && chown {WORKER_UID}:{WORKER_UID} {HOME}",
            f"ENV HOME={HOME} PYTHONUNBUFFERED=1",
            f"WORKDIR {HOME}",
            f"USER {WORKER_UID}:{WORKER_UID}",
            f"ENTRYPOINT {json.dumps(list(ENTRY_POINT))}",
            "CMD []",
        ]

    def _system_packages(self) -> list[str]:
        if not self.apt:
            return []
        names = " ".join(sorted(self.apt))
        return [
            "",
            "RUN apt-get update \\",
            " && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \\",
            f"    {names} \\",
            " && rm -rf /var/lib/apt/lists/*",
        ]

    def _python_packages(self) -> list[str]:
        run = "RUN "
        if self.pip_config:
            run += "--mount=type=secret,id=pip,target=/etc/pip.conf "
        run += _PIP
        constrained = f"--constraint {PLACE}/{CONSTRAINTS}"
        lines = []
        if HASHED in self.texts:
            lines += ["", f"COPY {HASHED} {PLACE}/", f"{run} --requirement {PLACE}/{HASHED}"]
        if REQUIREMENTS in self.texts:
            copied = [REQUIREMENTS, CONSTRAINTS, *(wheel.name for wheel in self.packages.wheels)]
            lines += [
                "",
                f"COPY {' '.join(copied)} {PLACE}/",
                f"{run} {constrained} --requirement {PLACE}/{REQUIREMENTS}",
            ]
        flowdist, copied = f"flowdist[{EXTRA}]=={__version__}", [CONSTRAINTS]
        if self.wheel is not None:
            copied.append(self.wheel.name)
            flowdist = f"flowdist[{EXTRA}] @ file://{PLACE}/{self.wheel.name}"
        return [
            *lines,
            "",
            "# flowdist itself, as it is where runs are submitted, with its dependencies as there.",
            f"COPY {' '.join(copied)} {PLACE}/",
            f"{run} {constrained} '{flowdist}'",
        ]


def _right_python() -> str:
    """A command that fails where the base image has another Python than the one here."""
    check = (
        "import sys; there = '%d.%d' % sys.version_info[:2]; "
        f"sys.exit(there != '{python_minor()}' and 'the base image has Python ' + there + "
        f"', and runs are submitted by Python {python_minor()}')"
    )
    return f'python -c "{check}"'


def _digest(parts: list[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def listing(files: Mapping[str, bytes]) -> str:
    """The Containerfile, and in comments after it the text files that it copies."""
    said = [files[CONTAINERFILE].decode()]
    for name in (HASHED, REQUIREMENTS, CONSTRAINTS):
        if files.get(name):
            lines = files[name].decode().splitlines()
            said.append("".join(f"# {line}".rstrip() + "\n" for line in [f"{name}:", *lines]))
    return "\n".join(said)
