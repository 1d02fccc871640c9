"""Whether an image would work as a worker: looked at here, before it is found out in the cloud.

Its description is read first; then a container of it runs `flowdist.workers.image.probe`, and one
runs what the image runs by itself. Each thing that was looked at is a `Finding`: that it is right,
or what is wrong and what to do.
"""

from __future__ import annotations

import base64
import importlib.metadata
import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flowdist import __version__
from flowdist.errors import BackendError, UsageError
from flowdist.resources import format_memory
from flowdist.snowflake.images import WORKER_UID, python_minor
from flowdist.workers.image import probe
from flowdist.workers.image.engines import Engine, ImageFacts
from flowdist.workers.image.packages import Packages
from flowdist.workers.image.recipe import LABELS, PLATFORM, Recipe

if TYPE_CHECKING:
    from flowdist.flow import Flow

__all__ = ["Finding", "of_facts", "of_flow", "of_probe", "validate"]

MOUNT = "/flowdist/runs"
"""Where workers find the folder of runs: see `flowdist.backends.snowflake.spec`."""
SECONDS = 180.0
"""How long a container may take; one for another machine's processor is slow."""
LARGE = 4 * 10**9
"""Bytes from which an image takes minutes to get to a node."""
_SPOKEN = ("flowdist", "cloudpickle", "snowflake-connector-python")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    >>> Finding("python", "ok", "3.11.7").to_dict()
    {'name': 'python', 'state': 'ok', 'what': '3.11.7', 'remedy': ''}
    """

    name: str
    state: Literal["ok", "warning", "error"]
    what: str
    """What was found, or what is wrong."""
    remedy: str = ""
    """What to do about it."""

    def to_dict(self) -> dict[str, str]:
        """The finding as a dict that JSON holds."""
        return asdict(self)


@dataclass(frozen=True)
class _Asked:
    """What the stages of a flow need: the program, its modules, where these come from here."""

    payload: bytes = b""
    modules: tuple[str, ...] = ()
    distributions: Mapping[str, str] | None = None


def validate(
    image: str, engine: Engine, *, flow: Flow | None = None, packages: Packages | None = None
) -> list[Finding]:
    """Look at an image and at containers of it.

    Args:
        image: what the engine calls it.
        engine: docker or podman.
        flow: one whose stages are to run in it.
        packages: those of the lock file that it is to be made from.

    Raises:
        UsageError: there is no such image, or the flow cannot be pickled.
        BackendError: a container of it does not end.
    """
    facts = engine.inspect(image)
    if facts is None:
        raise UsageError(
            f"{engine.name} has no image {image}; flowdist image build makes one, "
            f"{engine.name} images lists those that are there"
        )
    found = list(of_facts(facts))
    if packages is not None:
        found.append(_of_lock(facts.labels, packages))
    if any(f.name == "architecture" and f.state == "error" for f in found):
        return found  # nothing of it runs where it would have to
    asked = _asked(flow)
    said, why = _probed(image, engine, asked)
    if said is None:
        return [*found, Finding("start", "error", f"its Python does not run: {why}", _REBUILD)]
    found += of_probe(said)
    found.append(_entry_point(image, engine))
    return [*found, *of_flow(said, asked.modules, asked.distributions or {})]


_REBUILD = "build it with flowdist image build"


# -- what its description says --------------------------------------------------------------------


def of_facts(facts: ImageFacts) -> Iterator[Finding]:
    """What the description of an image tells without running it."""
    there = f"{facts.os}/{facts.architecture}"
    if there == PLATFORM:
        yield Finding("architecture", "ok", there)
    else:
        yield Finding(
            "architecture", "error",
            f"it is built for {there}; nodes of compute pools run {PLATFORM}, and containers of it "
            "would end at once, with an empty log",
            "build it with flowdist image build, or with --platform linux/amd64",
        )  # fmt: skip
    yield _user(facts.user)
    size = facts.size
    if size is not None:
        large = "; each node pulls it before its first container" if size > LARGE else ""
        yield Finding(
            "size", "warning" if large else "ok", f"{format_memory(size)}{large}",
            "leave out what the stages do not need" if large else "",
        )  # fmt: skip
    yield from _labels(facts.labels)


def _user(user: str) -> Finding:
    name = user.partition(":")[0]
    if name in ("", "0", "root"):
        return Finding(
            "user", "warning", "its containers run as root", f"{_REBUILD}, or add USER {WORKER_UID}"
        )
    if name != str(WORKER_UID):
        return Finding(
            "user", "error",
            f"its containers run as user {name}, and the mounted stage belongs to {WORKER_UID}: "
            "nothing could be written",
            f"{_REBUILD}, or set USER {WORKER_UID}:{WORKER_UID}",
        )  # fmt: skip
    return Finding("user", "ok", user)


def _labels(labels: Mapping[str, str]) -> Iterator[Finding]:
    """Whether it was made of the flowdist that is here, where its version alone does not tell."""
    from flowdist.workers.image.wheels import flowdist_wheel

    if LABELS["recipe"] not in labels:
        yield Finding(
            "labels", "warning", "it was not made by flowdist image build, so that preflight "
            "cannot tell from its tag what is in it", _REBUILD,
        )  # fmt: skip
        return
    own = flowdist_wheel()
    made_of = labels.get(LABELS["wheel"], "")
    if labels.get(LABELS["flowdist"]) == __version__ and own and made_of not in ("", own.sha256):
        yield Finding(
            "labels", "warning",
            f"it has flowdist {__version__} from other sources than those here", "build it again",
        )  # fmt: skip
    else:
        yield Finding("labels", "ok", f"made by flowdist {labels.get(LABELS['flowdist'])}")


def _of_lock(labels: Mapping[str, str], packages: Packages) -> Finding:
    if labels.get(LABELS["packages"]) == f"sha256:{Recipe(packages).packages_digest}":
        return Finding("packages", "ok", f"those of {packages.source}")
    return Finding(
        "packages", "warning",
        f"it was made from other packages than {packages.source} has now", "build it again",
    )  # fmt: skip


# -- what a container of it says ------------------------------------------------------------------


def _probed(image: str, engine: Engine, asked: _Asked) -> tuple[dict[str, Any] | None, str]:
    """What the probe says; or None, and why it says nothing."""
    distributions = sorted({*_SPOKEN, *(asked.distributions or {}).values()})
    request = {
        "mount": MOUNT,
        "distributions": distributions,
        "modules": asked.modules,
        "program": base64.b64encode(asked.payload).decode(),
    }
    source = Path(probe.__file__).read_text(encoding="utf-8")
    done = engine.run(
        image,
        ["-"],
        entry_point="python",
        # A stage that is mounted belongs to the worker's user, and nobody else may write to it.
        memory=[f"{MOUNT}:rw,mode=1777"],
        text=f"{source}\n\nmain(json.loads({json.dumps(request)!r}))\n",
        seconds=SECONDS,
    )
    for line in done.stdout.splitlines():
        if line.startswith(probe.MARK):
            found: dict[str, Any] = json.loads(line.removeprefix(probe.MARK))
            return found, ""
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return None, said[-1] if said else f"it ended with code {done.returncode} and said nothing"


def of_probe(said: Mapping[str, Any]) -> Iterator[Finding]:
    """What the probe has found of the image itself."""
    yield _python(said["python"])
    yield from _versions(said["versions"])
    for name, key, good, remedy in _LOOKED_AT:
        why = said[key]
        yield Finding(name, "error", why, remedy) if why else Finding(name, "ok", good)


_LOOKED_AT = (
    ("workers", "workers", "flowdist.workers can be imported", "add flowdist[snowflake] to it"),
    ("connector", "connector", "snowflake.connector can be imported",
     "add flowdist[snowflake] to it"),
    ("mount", "mount", f"it can write to {MOUNT}", f"leave {MOUNT} to what is mounted there"),
    ("temporary files", "temporary", "it can write them", "let its user write to /tmp"),
    ("time zones", "time_zones", "they are known", "--apt tzdata, or --package tzdata==V"),
    ("certificates", "certificates", "they are there", "--apt ca-certificates"),
)  # fmt: skip


def _python(there: str) -> Finding:
    if there.rpartition(".")[0] != python_minor():
        return Finding(
            "python", "error",
            f"it has Python {there}, and here is {platform.python_version()}: functions do not "
            "travel between minor versions",
            f"--base python:{python_minor()}-slim, or submit from its Python",
        )  # fmt: skip
    return Finding("python", "ok", there)


def _versions(there: Mapping[str, str | None]) -> Iterator[Finding]:
    for name in ("flowdist", "cloudpickle"):
        own, other = importlib.metadata.version(name), there.get(name)
        if other == own:
            yield Finding(name, "ok", own)
        elif other is None:
            yield Finding(name, "error", f"it has no {name}", _REBUILD)
        else:
            state: Literal["warning", "error"] = "error" if name == "flowdist" else "warning"
            yield Finding(name, state, f"it has {name} {other}, and here is {own}", _REBUILD)


def _entry_point(image: str, engine: Engine) -> Finding:
    """Run what the image runs by itself: without arguments a worker says how it is used."""
    try:
        done = engine.run(image, seconds=SECONDS)
    except BackendError as error:
        return Finding("entry point", "error", str(error), _ENTRY)
    if done.returncode == 2 and "flowdist.workers" in done.stderr:
        return Finding("entry point", "ok", "python -m flowdist.workers")
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    what = f"it is not python -m flowdist.workers: it ended with code {done.returncode}"
    return Finding("entry point", "error", f"{what}{f' ({said[-1]})' if said else ''}", _ENTRY)


_ENTRY = 'ENTRYPOINT ["python", "-m", "flowdist.workers"]'


# -- the stages of a flow -------------------------------------------------------------------------


def _asked(flow: Flow | None) -> _Asked:
    if flow is None:
        return _Asked()
    from flowdist.payload import dump_program
    from flowdist.workers.image.imports import distributions_of, modules_of

    try:
        payload = dump_program(flow.program)
    except Exception as error:
        raise UsageError(
            f"the flow cannot be pickled ({type(error).__name__}: {error}); flowdist preflight "
            "says which part of it"
        ) from error
    modules = modules_of(payload)
    return _Asked(payload, modules, distributions_of(modules))


def of_flow(
    said: Mapping[str, Any], modules: tuple[str, ...], distributions: Mapping[str, str]
) -> Iterator[Finding]:
    """What the probe has found of the modules and the program of a flow."""
    if "program" not in said:
        return
    missing = {name: why for name, why in said["modules"].items() if why}
    for name, why in missing.items():
        yield Finding("imports", "error", f"{name}: {why}", _how_to_add(name, why, distributions))
    for package in sorted(set(distributions.values())):
        there, own = said["versions"].get(package), importlib.metadata.version(package)
        if there not in (None, own) and package not in _SPOKEN:
            yield Finding(
                "imports", "warning", f"it has {package} {there}, and here is {own}",
                f"--package {package}=={own}",
            )  # fmt: skip
    if modules and not missing:
        yield Finding("imports", "ok", ", ".join(modules))
    if said["program"] is None:
        yield Finding("flow", "ok", "its stages can be loaded")
    elif not missing:
        yield Finding("flow", "error", f"its stages cannot be loaded: {said['program']}", _REBUILD)


def _how_to_add(module: str, why: str, distributions: Mapping[str, str]) -> str:
    if module not in distributions:
        return (
            f"{module} is code of your own that is imported when a function is called; import it "
            "at the top of the file, and it travels in the run"
        )
    if "ModuleNotFoundError" not in why:
        return "a library of the system may be missing: --apt adds it"
    package = distributions[module]
    return f"--package {package}=={importlib.metadata.version(package)}"
