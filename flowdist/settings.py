"""The one place that reads flowdist's own environment variables for runs."""

from __future__ import annotations

import getpass
import os
import socket
from pathlib import Path


def default_root() -> Path:
    """Where runs live unless the plan says otherwise: $FLOWDIST_ROOT, else ./.flowdist/runs."""
    return (
        Path(os.environ.get("FLOWDIST_ROOT") or Path(".flowdist") / "runs").expanduser().absolute()
    )


def default_emulator() -> Path:
    """Where the emulator of Snowflake lives: $FLOWDIST_EMULATOR, else ./.flowdist/emulator."""
    return (
        Path(os.environ.get("FLOWDIST_EMULATOR") or Path(".flowdist") / "emulator")
        .expanduser()
        .absolute()
    )


def in_ci() -> bool:
    """Whether output goes to a log that nobody watches live."""
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def user() -> str:
    """Who submits; a number where the account has no name (as in some containers)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def host() -> str:
    """This machine's name."""
    return socket.gethostname()
