"""Which packages an image gets, each in exactly one version.

They come from a lock file, from names that are typed, or from what is installed here. What is only
on this machine (paths, editable installs) is told apart: the user's own code travels in the run,
wheels are taken along, and everything else is refused by its name.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import Distribution, PackageNotFoundError, distributions
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from flowdist.errors import UsageError
from flowdist.workers.image.wheels import Wheel, from_where, repack

__all__ = ["LOCKS", "Packages", "canonical", "constraints", "find_lock", "from_environment",
           "from_lock", "from_names"]  # fmt: skip

PLACE = "/opt/flowdist"
"""Where an image has the files that it was made from."""
LOCKS = ("pylock.toml", "uv.lock", "poetry.lock", "requirements.txt")
"""The lock files that are looked for, in this order."""
EXPORTS: Mapping[str, Sequence[str]] = {
    "uv.lock": ("uv", "export", "--frozen", "--no-dev", "--no-emit-project", "--no-header",
                "--format", "requirements-txt"),
    "poetry.lock": ("poetry", "export", "--format", "requirements.txt"),
}  # fmt: skip
EXPORT_SECONDS = 120.0
# Comes with the image, or is what builds it; flowdist is added in a way of its own.
_NEVER = frozenset({"flowdist", "pip", "setuptools", "wheel", "distribute"})
_PINNED = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?\s*===?\s*(?P<version>[^\s;,*]+)"
    r"\s*(?:;\s*(?P<marker>[^#]*?))?(?:\s+--hash=\S+)*"
)
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_KEPT_OPTIONS = ("--no-binary", "--only-binary", "--pre", "--prefer-binary", "--require-hashes")
_VERSION_CONTROL = ("git", "hg", "svn", "bzr")
_INDEX_OPTIONS = ("-i", "--index-url", "--extra-index-url", "--no-index", "-f", "--find-links",
                  "--trusted-host")  # fmt: skip


class Pin(NamedTuple):
    """One package in one version; `marker` says where, and is empty for everywhere."""

    name: str
    version: str
    marker: str = ""

    def __str__(self) -> str:
        return f"{self.name}=={self.version}{f' ; {self.marker}' if self.marker else ''}"


@dataclass(frozen=True)
class Packages:
    """What pip is told to install.

    Attributes:
        source: where they come from, in words.
        requirements: lines of a requirements file, each with exactly one version.
        wheels: files that the lines name.
        remarks: what was left out, and why.
        needs_git: whether pip needs git for them.
    """

    source: str
    requirements: tuple[str, ...] = ()
    wheels: tuple[Wheel, ...] = ()
    remarks: tuple[str, ...] = ()
    needs_git: bool = False

    @property
    def pins(self) -> tuple[Pin, ...]:
        """What has a version, package by package."""
        found = map(_PINNED.fullmatch, self.requirements)
        return tuple(
            Pin(canonical(one["name"]), one["version"], one["marker"] or "") for one in found if one
        )

    def __add__(self, other: Packages) -> Packages:
        """These and others; of two versions of a package the others' counts."""
        given = {pin.name for pin in other.pins}
        kept = [line for line in self.requirements if _name_of(line) not in given]
        return Packages(
            source=" and ".join(filter(None, (self.source, other.source))),
            requirements=(*kept, *other.requirements),
            wheels=self.wheels + other.wheels,
            remarks=self.remarks + other.remarks,
            needs_git=self.needs_git or other.needs_git,
        )


NOTHING = Packages("")


def canonical(name: str) -> str:
    """A package's name as indexes compare them.

    >>> canonical("Scikit_Learn")
    'scikit-learn'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def find_lock(directory: Path) -> Path | None:
    """The lock file of a project, or None."""
    return next((directory / name for name in LOCKS if (directory / name).is_file()), None)


# -- names that are typed -------------------------------------------------------------------------


def from_names(names: Iterable[str]) -> Packages:
    """From words as ``scipy==1.17.0``.

    Raises:
        UsageError: one has no exact version.
    """
    given = tuple(names)
    for text in given:
        if not _PINNED.fullmatch(text) or "\n" in text:
            raise UsageError(f"--package {text}: an exact version is wanted{_suggested(text)}")
    return Packages("--package", given) if given else NOTHING


def _suggested(text: str) -> str:
    name = _NAME.match(text)
    if name is None:
        return ", as in scipy==1.17.0"
    try:
        return f", as in {name[0]}=={installed_version(name[0])}, which is installed here"
    except PackageNotFoundError:
        return f", as in {name[0]}==1.0"


# -- lock files -----------------------------------------------------------------------------------


def from_lock(path: Path) -> Packages:
    """From a lock file: requirements.txt, pylock.toml, uv.lock or poetry.lock.

    Raises:
        UsageError: there is none, it cannot be read, or a line has no exact version.
    """
    if not path.is_file():
        raise UsageError(
            f"there is no lock file {path}; one is made by uv lock, pip lock or pip freeze"
        )
    if path.name in EXPORTS:
        return _of_lines(_exported(path), path, path.name)
    if path.suffix == ".toml":
        return _of_pylock(path)
    return _of_lines(path.read_text(encoding="utf-8"), path, path.name)


def _exported(path: Path) -> str:
    """What the tool that wrote a lock file makes of it: lines of requirements."""
    command = EXPORTS[path.name]
    if shutil.which(command[0]) is None:
        raise UsageError(
            f"{path} is read by {command[0]}, which is not here; where it is, "
            f"'{' '.join(command)} > requirements.txt' writes what --lock requirements.txt takes"
        )
    try:
        done = subprocess.run(
            command, cwd=path.parent, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False, timeout=EXPORT_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UsageError(f"'{' '.join(command)}' has not ended in {EXPORT_SECONDS:.0f} s") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise UsageError(f"'{' '.join(command)}' failed: {said[-1] if said else 'it said nothing'}")
    return done.stdout


@dataclass
class _Reading:
    """What has been found so far in a file of requirements."""

    lines: list[str] = field(default_factory=list)
    wheels: list[Wheel] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    needs_git: bool = False

    def packages(self, source: str) -> Packages:
        if self.loose:
            raise UsageError(
                f"{source}: without an exact version: {', '.join(self.loose)}; a lock file (pip "
                "freeze, uv export, pip-compile) or --package NAME==VERSION gives one to each"
            )
        return Packages(
            source, tuple(sorted(self.lines, key=_order)), tuple(self.wheels), tuple(self.remarks),
            self.needs_git,
        )  # fmt: skip


def _of_lines(text: str, path: Path, source: str) -> Packages:
    reading = _Reading()
    _read_lines(text, path, reading, frozenset({path.resolve()}))
    return reading.packages(source)


def _read_lines(text: str, path: Path, reading: _Reading, seen: frozenset[Path]) -> None:
    """Read lines of requirements as pip would, and those of the files that they name."""
    joined = re.sub(r"\\\r?\n", " ", text)
    for number, raw in enumerate(joined.splitlines(), 1):
        line = " ".join(re.sub(r"(^|\s)#.*$", "", raw).split())
        word, _, rest = (
            line.replace("=", " ", 1).partition(" ") if line[:1] == "-" else ("", "", "")
        )
        if not line:
            continue
        if word in ("-r", "--requirement"):
            other = path.parent / rest.strip()
            if not other.is_file():
                raise UsageError(f"{path}: it names {rest.strip()}, and there is no such file")
            if other.resolve() not in seen:
                more = other.read_text(encoding="utf-8")
                _read_lines(more, other, reading, seen | {other.resolve()})
        elif word in ("-e", "--editable"):
            reading.remarks.append(
                f"{path.name}: '{line}' is left out: your own code travels in the run"
            )
        elif word in _INDEX_OPTIONS:
            # Its address may hold a password, and an image keeps what it is built from.
            reading.remarks.append(
                f"{path.name}, line {number}: {word} is left out; --pip-config FILE says where "
                "packages are fetched from, and is not kept in the image"
            )
        elif word in _KEPT_OPTIONS:
            reading.lines.append(line)
        elif word:
            reading.remarks.append(f"{path.name}, line {number}: {word} is left out")
        else:
            _read_requirement(line, path, reading)


def _read_requirement(line: str, path: Path, reading: _Reading) -> None:
    name = _name_of(line)
    if name in _NEVER:
        return
    if _PINNED.fullmatch(line):
        reading.lines.append(line)
        return
    target = line.partition("@")[2].strip() if re.match(r"[\w.-]+(\[.*\])?\s*@", line) else line
    target = target.partition(" ")[0]
    system, plus, url = target.partition("+")
    if plus and system in _VERSION_CONTROL and re.search(r"@[0-9a-f]{7,40}(#|$)", url):
        _without_password(url, f"{path}: {name or 'a package'}")
        reading.needs_git |= system == "git"
        reading.lines.append(line)
    elif target.startswith(("https://", "http://")):
        _without_password(target, f"{path}: {name or 'a package'}")
        reading.lines.append(line)
    elif target.startswith(("file:", ".", "/")) or target.endswith(".whl"):
        reading.wheels.append(_local_wheel(target, name, path))
        reading.lines.append(_line_of(reading.wheels[-1]))
    else:
        reading.loose.append(line)


def _without_password(url: str, what: str) -> None:
    """UsageError where an address has something secret in it: an image keeps what it is made of."""
    known = urlsplit(url)
    if known.password is not None or (known.username and known.scheme.startswith("http")):
        raise UsageError(
            f"{what} has a password in its address, which the image would keep; give a wheel of it "
            "on this machine, or an index by --pip-config FILE"
        )


def _local_wheel(target: str, name: str, path: Path) -> Wheel:
    place = unquote(urlsplit(target).path) if target.startswith("file:") else target
    file = (path.parent / place.partition("#")[0]).resolve()
    if file.suffix != ".whl" or not file.is_file():
        raise UsageError(
            f"{path}: {name or target} is a directory or a file of this machine ({target}), and no "
            "wheel; pip wheel --no-deps makes one of it. Your own code need not be in the image: "
            "it travels in the run"
        )
    return Wheel(file.name, file.read_bytes())


def _of_pylock(path: Path) -> Packages:
    """From a pylock.toml (PEP 751): the packages of the default groups."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8")).get("packages")
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    if not isinstance(found, list):
        raise UsageError(f"{path} is no lock file of pip: it has no [[packages]]")
    reading = _Reading()
    for package in found:
        name = str(package.get("name", ""))
        if canonical(name) in _NEVER:
            continue
        if "directory" in package:
            reading.remarks.append(
                f"{path.name}: {name} is left out: your own code travels in the run"
            )
            continue
        _read_requirement(_pylock_line(package, path), path, reading)
    return reading.packages(path.name)


def _pylock_line(package: Mapping[str, Any], path: Path) -> str:
    name, marker = str(package.get("name", "")), str(package.get("marker", ""))
    if re.search(r"\b(extras|dependency_groups)\b", marker):
        raise UsageError(
            f"{path}: whether {name} is installed depends on extras or groups ({marker}); "
            "lock or export those that the image is to have"
        )
    if "vcs" in package:
        vcs = package["vcs"]
        line = f"{name} @ {vcs.get('type', 'git')}+{vcs.get('url', '')}@{vcs.get('commit-id', '')}"
    elif "archive" in package:
        line = f"{name} @ {package['archive'].get('url', '')}"
    else:
        line = f"{name}=={package['version']}" if "version" in package else name
    files = [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else [])]
    hashes = sorted({f"--hash={k}:{v}" for f in files for k, v in f.get("hashes", {}).items()})
    return " ".join([line, *([f"; {marker}"] if marker else []), *hashes])


# -- what is installed here -----------------------------------------------------------------------


def from_environment(exclude: Iterable[str] = ()) -> Packages:
    """The exact versions of all that is installed for this Python.

    Raises:
        UsageError: a package came from a place of this machine and no wheel can be made of it.
    """
    left_out = {canonical(name) for name in exclude} | _NEVER
    reading = _Reading()
    for name, found in sorted(_installed().items()):
        if name in left_out:
            continue
        where = from_where(found)
        if where is None:
            reading.lines.append(f"{found.metadata['Name']}=={found.version}")
            continue
        line, wheel = _placed(found, where)
        if wheel is not None:
            reading.wheels.append(wheel)
        if line:
            reading.lines.append(line)
            reading.needs_git |= "@ git+" in line
        else:
            reading.remarks.append(f"{name} is left out: it is editable, and travels in the run")
    return reading.packages("this environment")


def _installed() -> dict[str, Distribution]:
    found: dict[str, Distribution] = {}
    for one in distributions():
        name = one.metadata["Name"]
        if name:
            found.setdefault(canonical(name), one)
    return found


def _placed(found: Distribution, where: Mapping[str, Any]) -> tuple[str, Wheel | None]:
    """The line for a package that came from no index, and its wheel where it is taken along."""
    url = str(where.get("url", ""))
    if "dir_info" in where and where["dir_info"].get("editable"):
        return "", None
    if "vcs_info" in where:
        vcs = where["vcs_info"]
        _without_password(url, str(found.metadata["Name"]))
        return f"{found.metadata['Name']} @ {vcs['vcs']}+{url}@{vcs['commit_id']}", None
    if url.startswith(("https://", "http://")):
        _without_password(url, str(found.metadata["Name"]))
        return f"{found.metadata['Name']} @ {url}", None
    wheel = repack(found)
    return _line_of(wheel), wheel


def _line_of(wheel: Wheel) -> str:
    name = canonical(wheel.name.partition("-")[0])
    return f"{name} @ file://{PLACE}/{wheel.name}"


# -- what flowdist itself needs -------------------------------------------------------------------


def constraints(extra: str, given: Packages) -> tuple[str, ...]:
    """The versions to which what flowdist and the packages `given` need is held: those that are
    given, else those that are here, so that what is pickled here is loaded by the same cloudpickle.
    """
    known, named = _installed(), {pin.name for pin in given.pins}
    wanted, seen = ["flowdist", *named], set[str]()
    while wanted:
        name = wanted.pop()
        if name in seen or name not in known:
            continue
        seen.add(name)
        for text in known[name].requires or ():
            # Markers are not evaluated: a constraint for what is not installed does no harm.
            asked = re.search(r"extra\s*==\s*['\"]([^'\"]+)", text)
            if asked is None or (name == "flowdist" and asked[1] == extra):
                wanted.append(_name_of(text))
    own = [
        Pin(name, known[name].version)
        for name in seen - _NEVER - named
        if from_where(known[name]) is None
    ]
    return tuple(sorted(str(pin) for pin in {*own, *given.pins}))


def _name_of(line: str) -> str:
    """The canonical name that a requirement begins with; empty for an option or a path."""
    found = _NAME.match(line)
    return canonical(found[0]) if found and "/" not in line.partition(" ")[0] else ""


def _order(line: str) -> tuple[bool, str]:
    """Options first, then packages by their names."""
    return not line.startswith("-"), line.lower()
