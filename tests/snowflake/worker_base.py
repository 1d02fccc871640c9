"""An image to begin with that is made of this machine: its Python, with what flowdist needs
installed, busybox, and the libraries that they load. For machines that pull from no registry.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import ssl
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from flowdist.workers.image.packages import NOTHING, constraints

TOOLS = ("cat", "chown", "echo", "env", "mkdir", "sh", "sleep")
ELSEWHERE = re.compile(r"(^|/)(test|tests|include|idlelib|ensurepip|__pycache__|config-[^/]*)/")
LIBRARY = re.compile(r"(/\S+) \(0x")
PREFIX = "usr/local"


def make(image: str) -> None:
    """Import the image into podman's storage; nothing is fetched."""
    command = ["podman", "import", "--change=ENV PATH=/usr/local/bin:/bin", "-", image]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        with tarfile.open(fileobj=process.stdin, mode="w|") as tar:
            _fill(tar)
        process.stdin.close()
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 0, said


def _fill(tar: tarfile.TarFile) -> None:
    for folder, mode in (("tmp", 0o1777), ("etc", 0o755), ("opt", 0o755)):
        entry = tarfile.TarInfo(folder)
        entry.type, entry.mode = tarfile.DIRTYPE, mode
        tar.addfile(entry)
    _write(tar, "etc/passwd", b"root:x:0:0::/:/bin/sh\n")
    _write(tar, "etc/group", b"root:x:0:\n")
    known = ssl.get_default_verify_paths()
    tar.add(Path(known.cafile or "").resolve(), known.openssl_cafile.lstrip("/"))
    tar.add(shutil.which("busybox") or "", "bin/busybox")
    for tool in TOOLS:
        _link(tar, f"bin/{tool}", "busybox")
    python = Path(sys.executable).resolve()
    tar.add(python, f"{PREFIX}/bin/python3")
    _link(tar, f"{PREFIX}/bin/python", "python3")
    compiled = [python]
    for path, place in _modules():
        tar.add(path, f"{PREFIX}/{place}", recursive=False)
        compiled += [path] if ".so" in path.name else []
    for library in sorted(_libraries(compiled)):
        tar.add(library.resolve(), str(library).lstrip("/"))


def _modules() -> Iterator[tuple[Path, str]]:
    """The files of Python's own library and of the packages, and where they go."""
    library = Path(sysconfig.get_paths()["stdlib"])
    under = f"lib/python{sys.version_info.major}.{sys.version_info.minor}"
    for folder, folders, names in os.walk(library):
        # What else may be installed for this Python is not walked through.
        folders[:] = [f for f in folders if f != "site-packages" and not ELSEWHERE.search(f"/{f}/")]
        for name in names:
            path = Path(folder, name)
            yield path, f"{under}/{path.relative_to(library).as_posix()}"
    needed = [line.partition("==")[0] for line in constraints("snowflake", NOTHING)]
    for name in ("pip", *needed):
        for file in distribution(name).files or ():
            path, place = Path(str(file.locate())), file.as_posix()
            if path.is_file() and not place.startswith("../") and not ELSEWHERE.search(place):
                yield path, f"{under}/site-packages/{place}"


def _libraries(compiled: list[Path]) -> set[Path]:
    """What programs and modules load that is part of none of them."""
    done = subprocess.run(["ldd", *compiled], capture_output=True, text=True, check=False)
    packages = sysconfig.get_paths()["platlib"]
    found = {Path(place) for place in LIBRARY.findall(done.stdout)}
    return {path for path in found if packages not in os.path.realpath(path)}


def _write(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o644
    tar.addfile(entry, io.BytesIO(data))


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    tar.addfile(entry)
