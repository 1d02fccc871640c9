"""The files in which Snowflake's clients keep their connections: where they are, what is in them.

The connector reads them itself when it connects by name. They are read here to say which names
there are, and which one is the default.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowdist.errors import UsageError

__all__ = ["Known", "home", "known_connections"]

DEFAULT = "default"


def home() -> Path:
    """Where Snowflake's clients look for their files."""
    own = Path(os.environ.get("SNOWFLAKE_HOME") or "~/.snowflake").expanduser()
    if own.exists():
        return own
    if sys.platform == "darwin":
        return Path("~/Library/Application Support/snowflake").expanduser()
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "snowflake"


@dataclass(frozen=True)
class Known:
    """The connections of a user: by name what each says, the file, and the default one's name."""

    connections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    path: Path = Path()
    default: str = DEFAULT

    def __repr__(self) -> str:
        # What they say includes passwords.
        return f"<Known: {', '.join(self.connections) or 'no connections'} in {self.path}>"


def known_connections() -> Known:
    """The connections of ``connections.toml``, or where there is none of ``config.toml``.

    Raises:
        UsageError: a file is there, and cannot be read or is no TOML.
    """
    folder = home()
    path, config = folder / "connections.toml", _read(folder / "config.toml")
    named = os.environ.get("SNOWFLAKE_DEFAULT_CONNECTION_NAME")
    default = str(named or config.get("default_connection_name") or DEFAULT)
    found = _read(path)
    if not found and not path.exists():
        path, found = folder / "config.toml", config.get("connections", {})
    tables = {str(name): table for name, table in found.items() if isinstance(table, Mapping)}
    return Known(tables, path, default)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is no TOML: {error}") from None
