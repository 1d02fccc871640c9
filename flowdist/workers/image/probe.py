"""What `flowdist image validate` runs inside a container, by the image's Python: a program of its
own, which is sent as text. It imports nothing but what it looks at, and says what it finds in one
line of JSON.
"""

import base64
import importlib
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

MARK = "flowdist-probe: "


def main(asked: Mapping[str, Any]) -> None:
    """Look at everything; a thing that fails is told, and the others are looked at all the same."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "uid": os.getuid(),
        "versions": {name: version_of(name) for name in asked["distributions"]},
        "mount": attempt(write_to, asked["mount"]),
        "temporary": attempt(write_to, tempfile.gettempdir()),
        "connector": attempt(importlib.import_module, "snowflake.connector"),
        "workers": attempt(importlib.import_module, "flowdist.workers.supervise"),
        "time_zones": attempt(time_zones),
        "certificates": attempt(certificates),
        "modules": {name: attempt(importlib.import_module, name) for name in asked["modules"]},
    }
    if asked["program"]:
        found["program"] = attempt(load, base64.b64decode(asked["program"]))
    sys.stdout.write(f"{MARK}{json.dumps(found)}\n")


def attempt(look: Callable[..., object], *args: Any) -> str | None:
    """None where it works; else why it does not."""
    try:
        look(*args)
    except BaseException as error:  # whatever happens is what is asked for
        return f"{type(error).__name__}: {error}"
    return None


def version_of(name: str) -> str | None:
    """The version of a distribution; None where it is not there."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_to(directory: str) -> None:
    """Write a file front to back, read it, remove it: what workers do with a mounted stage."""
    path = os.path.join(directory, f"probe-{os.getpid()}")
    with open(path, "xb") as file:
        file.write(b"x")
    with open(path, "rb") as file:
        assert file.read() == b"x"
    os.unlink(path)


def time_zones() -> None:
    """Whether times of other places can be told."""
    import zoneinfo

    zoneinfo.ZoneInfo("Europe/Berlin")


def certificates() -> None:
    """Whether there are certificates by which a server is known."""
    import ssl

    found = ssl.create_default_context().cert_store_stats()["x509_ca"]
    places = ssl.get_default_verify_paths()
    if not found and not any(map(os.path.exists, filter(None, (places.cafile, places.capath)))):
        importlib.import_module("certifi")


def load(data: bytes) -> None:
    """Load the stages as a worker does."""
    import pickle

    pickle.loads(data)
