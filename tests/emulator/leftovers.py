"""After all tests nothing of an emulator is left: no process, no mount."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

OURS = (b"flowdist.emulator", b"shim.main", b"FLOWDIST_EMULATOR_CONTAINER=")
"""In the command or the environment of servers, of what serves mounts, of shims and containers."""
ENDS_WITHIN = 20.0


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fails at the end of the session where something has been left by the tests before."""
    yield
    place = str(tmp_path_factory.getbasetemp())
    until = time.monotonic() + ENDS_WITHIN
    while (left := [*_processes(place), *_mounts(place)]) and time.monotonic() < until:
        time.sleep(0.1)  # what was told to end may take a moment
    assert not left, "tests have left:\n" + "\n".join(left)


def _processes(place: str) -> list[str]:
    """Servers that were to end with this process, and what runs in directories of its tests."""
    marks = (place.encode(), b"--stop-with-parent\0%d\0" % os.getpid())
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            text = command + (entry / "environ").read_bytes()
        except OSError:
            continue  # gone, or of another user
        ours = any(word in text for word in OURS) and any(mark in text for mark in marks)
        if ours and int(entry.name) != os.getpid():
            found.append(f"{entry.name} {command.replace(bytes(1), b' ').decode(errors='replace')}")
    return found


def _mounts(place: str) -> list[str]:
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return []
    return [line for line in lines if f" {place}/" in line]
