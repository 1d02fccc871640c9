"""Installs packages that tests need, where that is possible."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess

IN_CI = os.environ.get("CI", "") not in ("", "0", "false")
LOCK = "/tmp/flowdist-apt.lock"


def install(*packages: str) -> None:
    """Packages of Debian, as root or with a sudo that asks for nothing; nothing where neither is.

    Of several that run tests at a time, one after the other does it.
    """
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if shutil.which("apt-get") is None or (prefix and not (IN_CI and shutil.which("sudo"))):
        return
    apt = [*prefix, "apt-get", "--yes", "-o", "DPkg::Lock::Timeout=300"]
    with open(LOCK, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for words in (["update"], ["install", *packages]):
            subprocess.run([*apt, *words], check=False, capture_output=True)
