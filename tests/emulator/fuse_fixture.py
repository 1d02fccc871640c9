"""FUSE for tests of mounted stages: what is missing is installed where that is possible."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def fuse() -> None:
    """Tests with this fixture run where FUSE is. They are never skipped in CI."""
    if sys.platform == "linux" and not installed():
        install()
    if not (installed() and os.access("/dev/fuse", os.R_OK | os.W_OK)):
        if os.environ.get("CI", "") not in ("", "0", "false"):
            pytest.fail("mounts of stages cannot be tested: no FUSE", pytrace=False)
        pytest.skip("no FUSE here: needs /dev/fuse and libfuse3 (Debian: apt-get install fuse3)")


def installed() -> bool:
    return ctypes.util.find_library("fuse3") is not None and shutil.which("fusermount3") is not None


def install() -> None:
    """Debian's package, as root or with a sudo that asks for nothing."""
    words = ["apt-get", "install", "--yes", "--no-install-recommends", "fuse3"]
    if os.geteuid() != 0:
        if shutil.which("sudo") is None or not os.environ.get("CI"):
            return
        words = ["sudo", "-n", *words]
    if shutil.which("apt-get") is not None:
        for command in ([*words[: words.index("install")], "update"], words):
            subprocess.run(command, check=False, capture_output=True)
