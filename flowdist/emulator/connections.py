"""An emulator as a named connection of the user's, for ``snow -c NAME`` and the connector.

Connections are in ``connections.toml`` or, where there is none and ``config.toml`` has some, there:
a ``connections.toml`` would make clients overlook those. What else is in the file stays as it is.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowdist.errors import UsageError
from flowdist.snowflake.files import home

__all__ = ["entry", "exports", "home", "write"]

_HEADER = re.compile(r"^\s*\[")
_NAME = re.compile(r"[A-Za-z0-9_-]+\Z")


def entry(name: str, parameters: Mapping[str, Any]) -> str:
    """A connection as a table of TOML.

    >>> print(entry("local", {"user": "FLOWDIST", "port": 4000}), end="")
    [local]
    user = "FLOWDIST"
    port = 4000
    """
    lines = [f"{key} = {json.dumps(value)}" for key, value in parameters.items()]
    return "\n".join([f"[{name}]", *lines, ""])


def exports(parameters: Mapping[str, Any]) -> str:
    """A connection as the environment variables of Snowflake's clients, for a shell.

    >>> exports({"user": "FLOWDIST", "port": 4000})
    'export SNOWFLAKE_USER=FLOWDIST\\nexport SNOWFLAKE_PORT=4000'
    """
    import shlex

    return "\n".join(
        f"export SNOWFLAKE_{key.upper()}={shlex.quote(str(value))}"
        for key, value in parameters.items()
    )


def write(name: str, parameters: Mapping[str, Any], *, force: bool = False) -> Path:
    """Add a connection to the user's own; the file it is in.

    UsageError where another connection has the name, unless it may be replaced by `force`.
    """
    if not _NAME.match(name):
        raise UsageError(f"a connection is named by letters, digits, _ and -, not {name!r}")
    path, prefix = _file()
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    known = _read(text, path)
    there = known.get("connections", {}) if prefix else known
    if there.get(name) == dict(parameters):
        return path
    header = f"{prefix}{name}"
    if name in there:
        if not force:
            raise UsageError(
                f"{path} has a connection {name!r} already; --force replaces it, "
                "or choose another name"
            )
        text = _without(text, header)
    gap = "" if not text or text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n"
    made = text + gap + entry(header, parameters)
    _check(made, path, known, there, name, parameters)
    _replace(path, made)
    return path


def _file() -> tuple[Path, str]:
    """The file for connections, and what their names in it begin with."""
    config = home() / "config.toml"
    connections = home() / "connections.toml"
    if not connections.exists() and config.exists():
        text = config.read_text(encoding="utf-8")
        if _read(text, config).get("connections"):
            return config, "connections."
    return connections, ""


def _read(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is no TOML: {error}") from None


def _without(text: str, header: str) -> str:
    """The text without the table of that header."""
    kept, inside = [], False
    for line in text.splitlines(keepends=True):
        if _HEADER.match(line):
            inside = re.sub(r"[\s\"']", "", line.split("#")[0]) == f"[{header}]"
        if not inside:
            kept.append(line)
    return "".join(kept)


def _check(
    made: str,
    path: Path,
    known: dict[str, Any],
    there: dict[str, Any],
    name: str,
    parameters: Mapping[str, Any],
) -> None:
    """The new text has to say what it should, and of everything else what the old one said."""
    wanted: dict[str, Any] = {**there, name: dict(parameters)}
    if there is not known:
        wanted = {**known, "connections": wanted}
    try:
        right = tomllib.loads(made) == wanted
    except tomllib.TOMLDecodeError:
        right = False
    if not right:
        raise UsageError(f"{path} cannot be changed here; add the connection {name!r} by hand")


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    made = path.with_name(f".{path.name}.new")
    with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    made.chmod(mode)
    made.replace(path)
