"""Wheels of what is installed here and came from no index: flowdist's own source tree, and packages
that were installed from a directory or a file.

A wheel is made from the installed files. No build tool runs, nothing is fetched, and the same files
give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from flowdist.errors import UsageError

__all__ = ["Wheel", "flowdist_wheel", "from_where", "repack"]

# The date of all files in a wheel: the first that zip can hold.
_DATE = (1980, 1, 1, 0, 0, 0)
# Files of an installation that a wheel has anew, or that belong to the installation alone.
_OF_INSTALLATION = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "WHEEL"})
_PURE = "Wheel-Version: 1.0\nGenerator: flowdist\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@dataclass(frozen=True)
class Wheel:
    """A wheel: the name of its file, and what is in it."""

    name: str
    data: bytes

    @property
    def sha256(self) -> str:
        """The digest of its content."""
        return hashlib.sha256(self.data).hexdigest()


def from_where(found: Distribution) -> Mapping[str, object] | None:
    """What an installer noted of a package that came from no index (PEP 610); None for others."""
    noted = found.read_text("direct_url.json")
    if noted is None:
        return None
    value = json.loads(noted)
    return value if isinstance(value, dict) else None


@cache
def flowdist_wheel() -> Wheel | None:
    """flowdist as it is installed here; None where it is a release, which pip can fetch. Made once:
    an image and its labels are of the same files, also where these are being edited.

    Raises:
        UsageError: it is not installed, only on the path.
    """
    import flowdist

    try:
        found = distribution("flowdist")
    except PackageNotFoundError:
        raise UsageError(
            "flowdist is on the path here and not installed, so that its version is not known to "
            "pip; pip install it, then build the image"
        ) from None
    where = from_where(found)
    if where is None:
        return None
    if not _editable(where):
        return repack(found)
    package = Path(flowdist.__file__).parent
    files = {f"flowdist/{name}": path for name, path in _sources(package)}
    examples = package.parent / "examples"
    if examples.is_dir():
        files |= {f"flowdist/examples/{name}": path for name, path in _sources(examples)}
    return _packed(found, {name: path.read_bytes() for name, path in files.items()}, _PURE)


def repack(found: Distribution) -> Wheel:
    """The wheel of a package that is installed here.

    Raises:
        UsageError: it has files outside of its own place, or they are not noted.
    """
    name = found.metadata["Name"]
    if found.files is None:
        raise UsageError(f"{name} is installed without a list of its files; install it with pip")
    files = {}
    for path in found.files:
        place = path.as_posix()
        metadata, slash, part = place.partition(".dist-info/")
        if place.endswith(".pyc") or (slash and part in _OF_INSTALLATION):
            continue
        if place.startswith("../"):
            if "/bin/" in place or "/Scripts/" in place:
                continue  # commands are made anew where it is installed
            raise UsageError(
                f"{name} has put {place} outside of its own place, so that no wheel can be made of "
                f"its files; leave it out with --exclude {name}"
            )
        if slash and "/" not in metadata:
            place = f"{_stem(found)}.dist-info/{part}"
        files[place] = Path(str(found.locate_file(path))).read_bytes()
    return _packed(found, files, found.read_text("WHEEL") or _PURE)


def _editable(where: Mapping[str, object]) -> bool:
    directory = where.get("dir_info")
    return isinstance(directory, dict) and bool(directory.get("editable"))


def _sources(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(folder).as_posix(), path


def _stem(found: Distribution) -> str:
    """What the names of a wheel and of its metadata begin with."""
    name = re.sub(r"[-_.]+", "_", found.metadata["Name"]).lower()
    return f"{name}-{found.version}"


def _packed(found: Distribution, files: Mapping[str, bytes], wheel: str) -> Wheel:
    """The wheel of these files with the metadata of a package that is installed here."""
    stem = _stem(found)
    content = dict(files)
    for part in ("METADATA", "entry_points.txt"):
        if (text := found.read_text(part)) is not None:
            content[f"{stem}.dist-info/{part}"] = text.encode()
    content[f"{stem}.dist-info/WHEEL"] = wheel.encode()
    record = f"{stem}.dist-info/RECORD"
    lines = [f"{place},{_digest(data)},{len(data)}" for place, data in sorted(content.items())]
    content[record] = "".join(f"{line}\n" for line in [*lines, f"{record},,"]).encode()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for place, data in sorted(content.items(), key=lambda item: (item[0] == record, item[0])):
            entry = zipfile.ZipInfo(place, _DATE)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return Wheel(f"{stem}-{_tag(wheel)}.whl", made.getvalue())


def _digest(data: bytes) -> str:
    digest = hashlib.sha256(data).digest()
    return f"sha256={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def _tag(wheel: str) -> str:
    """The tag of the file's name, from the tags in its WHEEL: "py3-none-any"."""
    tags = [line.partition(":")[2].strip() for line in wheel.splitlines() if line[:4] == "Tag:"]
    parts = [dict.fromkeys(part) for part in zip(*(tag.split("-") for tag in tags), strict=True)]
    return "-".join(".".join(part) for part in parts) or "py3-none-any"
