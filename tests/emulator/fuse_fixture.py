"""FUSE for tests of mounted stages: what is missing is installed where that is possible."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import sys

import pytest
from debian import IN_CI, install


@pytest.fixture(scope="session")
def fuse() -> None:
    """Tests with this fixture run where FUSE is. They are never skipped in CI."""
    if sys.platform == "linux" and not installed():
        install("fuse3")
    if not (installed() and os.access("/dev/fuse", os.R_OK | os.W_OK)):
        if IN_CI:
            pytest.fail("mounts of stages cannot be tested: no FUSE", pytrace=False)
        pytest.skip("no FUSE here: needs /dev/fuse and libfuse3 (Debian: apt-get install fuse3)")


def installed() -> bool:
    return ctypes.util.find_library("fuse3") is not None and shutil.which("fusermount3") is not None
