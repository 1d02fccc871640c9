"""The directory of an emulator: its files by name, who serves it now, and how to reach that.

Both sides use it, the server and whoever looks for one; so it imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from flowdist.errors import UsageError

__all__ = ["Place", "Server"]

_MARKS = {"catalog.sqlite", "server.json", "server.err", "lock"}
"""One of these makes a directory that of an emulator."""


@dataclass(frozen=True)
class Server:
    """What ``server.json`` says of a server. ``pid`` is None where it has ended in order.

    ``token`` opens everything under ``/control``, ``page_token`` the page alone. ``settings`` are
    those that it was started with.
    """

    host: str
    port: int
    pid: int | None
    version: str
    user: str
    password: str = field(repr=False)
    token: str = field(repr=False)
    page_token: str = field(repr=False)
    started: float = 0.0
    """Unix time in seconds."""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.host}:{self.port}"

    @property
    def page(self) -> str:
        """The address of its page, with what opens it."""
        return f"{self.url}/?token={self.page_token}"

    def connection_parameters(self) -> dict[str, Any]:
        """Keywords for ``snowflake.connector.connect``."""
        return {
            "user": self.user,
            "password": self.password,
            "account": self.settings.get("account", "EMULATOR"),
            "host": self.host,
            "port": self.port,
            "protocol": "http",
            "database": "FLOWDIST",
            "schema": "PUBLIC",
            "warehouse": "FLOWDIST_WH",
            "role": "FLOWDIST_ROLE",
        }


@contextlib.contextmanager
def _sayable(directory: Path) -> Iterator[None]:
    """Turn what a directory refuses into a UsageError that names it."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{directory} cannot be the directory of an emulator: "
            f"{error.strerror or error}; name another one"
        ) from error


class Place:
    """One such directory; it need not exist.

    >>> Place(Path("/nowhere")).running
    False
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "server.log"
        self.errors = directory / "server.err"
        """What a server that did not start has said."""
        self._json = directory / "server.json"
        self._lock = directory / "lock"

    @property
    def exists(self) -> bool:
        """Whether an emulator has lived there."""
        return any((self.directory / name).exists() for name in _MARKS)

    def make(self) -> None:
        """Make the directory, for its owner only; UsageError where something else is there, or
        where it cannot be made or written.
        """
        with _sayable(self.directory):
            if self.directory.is_dir() and not self.exists and any(self.directory.iterdir()):
                raise UsageError(
                    f"{self.directory} has files in it that are not an emulator's; "
                    "name a directory that is empty or not there yet"
                )
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.directory.chmod(0o700)
            self.errors.touch(0o600)  # the first that is written there

    @contextlib.contextmanager
    def hold(self) -> Iterator[IO[str]]:
        """Hold the directory, as its only server; BlockingIOError where another one does."""
        with open(self._lock, "a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield file

    def holder(self) -> int | None:
        """The process id of the server that holds the directory; None where none does."""
        if not self._lock.exists():
            return None
        with open(self._lock, encoding="utf-8") as file:
            try:
                # Shared, so that two who look do not take each other for a server.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read()
                return int(text) if text.isdigit() else 0
        return None

    def read(self) -> Server | None:
        """What the last server wrote down; None where there was none."""
        try:
            known = json.loads(self._json.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return Server(**{k: v for k, v in known.items() if k in Server.__dataclass_fields__})

    def write(self, server: Server) -> None:
        """Write down how a server is reached, for the owner of the directory only."""
        made = self._json.with_suffix(".new")
        with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump({"url": server.url, "page": server.page, **asdict(server)}, file, indent=2)
        made.replace(self._json)

    def ready(self) -> Server | None:
        """The server that answers now; None where there is none, or none yet."""
        holder = self.holder()
        server = self.read() if holder else None
        return server if server is not None and server.pid == holder else None

    @property
    def running(self) -> bool:
        """Whether a server holds the directory."""
        return self.holder() is not None
