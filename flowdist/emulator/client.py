"""An emulator as its user has it: started, asked, disturbed and stopped from another process.

:class:`Emulator` starts the server process and speaks with its control endpoint; its faults are
:class:`flowdist.emulator.injection.Faults`. Nothing here imports what the server needs.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowdist.emulator.injection import Faults
from flowdist.emulator.place import Place, Server
from flowdist.errors import BackendError, UsageError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["Emulator"]

LONGEST_START = 60.0
LONGEST_END = 25.0
"""Longer than a server takes that ends itself; in seconds."""
POLL = 0.01
LEAST_ROOM = 1 << 20
"""Bytes without which nothing starts."""
ANSWER = 60.0
"""How long the control endpoint may take to answer, in seconds."""
NEEDED = ("cronsim", "duckdb", "sqlglot", "starlette", "uvicorn", "yaml")


class Emulator:
    """Snowflake on localhost, in a process of its own.

    Without `directory` it is temporary: it ends with this process, and nothing is left of it. With
    one, its state stays there, and its port, user and password stay the same from start to start.

    Args:
        directory: where its state is; made where it is not there.
        port: where it listens on 127.0.0.1; by default the port it had before, or any.
        node_start: how long a node of a compute pool takes to start, in seconds.
        visibility_delay: how long a file that a container has written to a stage stays unseen by
            others, in seconds.
        strict_mounts: whether mounted stages refuse what Snowflake's do: append, random write,
            rename.
        runtime: what containers are: "process", "podman" or "docker".
        grace: how long a container has between SIGTERM and SIGKILL, in seconds.
        seed: of the faults that are left to chance.

    Raises:
        UsageError: it cannot be started so: the directory or the port is taken, a part of the
            extra ``emulator`` is missing.
        BackendError: it does not start, or does not answer.

    >>> with Emulator() as emulator:
    ...     with emulator.connect() as connection:
    ...         connection.cursor().execute("SELECT CURRENT_ROLE()").fetchone()
    ('FLOWDIST_ROLE',)
    """

    def __init__(
        self,
        directory: str | Path | None = None,
        *,
        port: int | None = None,
        node_start: float = 0.0,
        visibility_delay: float = 0.0,
        strict_mounts: bool = True,
        runtime: str = "process",
        grace: float = 30.0,
        seed: int = 0,
    ) -> None:
        self._temporary = directory is None
        self._place = None if directory is None else Place(Path(directory).expanduser().absolute())
        self._port = port
        self._settings = {
            "node_start": node_start,
            "visibility_delay": visibility_delay,
            "strict_mounts": strict_mounts,
            "runtime": runtime,
            "grace": grace,
            "seed": seed,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._started = False
        self.faults = Faults(self._ask)

    @classmethod
    def attach(cls, directory: str | Path) -> Emulator:
        """The emulator that runs in a directory; UsageError where none does.

        >>> Emulator.attach("/nowhere")
        Traceback (most recent call last):
        flowdist.errors.UsageError: no emulator runs in /nowhere; flowdist emulator start ...
        """
        place = Place(Path(directory).expanduser().absolute())
        server = place.ready()
        if server is None:
            raise UsageError(
                f"no emulator runs in {directory}; "
                f"flowdist emulator start --directory {directory} starts one"
            )
        made = cls(place.directory)
        made._settings = {k: v for k, v in server.settings.items() if k in made._settings}
        return made

    # -- its life

    def start(self, *, detached: bool = False) -> Emulator:
        """Start it and wait until it answers. It ends with this process unless it is `detached`."""
        _check_installed()
        self._started = True
        if self._place is None:
            self._place = Place(Path(tempfile.mkdtemp(prefix="flowdist-emulator-")))
        place = self._place
        place.make()
        with open(place.errors, "wb") as said:
            self._process = subprocess.Popen(
                self._command(place, detached=detached),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for this process, which then stops the server
            )
        try:
            self._wait_until_ready(place, self._process)
        except (UsageError, BackendError):
            self._process = None
            if self._temporary:
                shutil.rmtree(place.directory, ignore_errors=True)
                self._place = None
            raise
        return self

    def stop(self, *, containers: bool = True) -> None:
        """End it, and the containers that run in it unless these are to go on without it.

        A temporary one is removed. Nothing happens where it does not run.
        """
        place = self._place
        if place is None:
            return
        self._signal(signal.SIGTERM)
        if not self._wait_until_gone(LONGEST_END):
            self.kill()
        if (containers or self._temporary) and place.directory.is_dir():
            from flowdist.emulator.lifecycle import end_containers

            end_containers(place.directory, str(self._settings["runtime"]))
        if self._temporary:
            shutil.rmtree(place.directory, ignore_errors=True)
            self._place = None

    def kill(self) -> None:
        """End it with SIGKILL, in the middle of what it does; its state stays."""
        self._signal(signal.SIGKILL)
        self._wait_until_gone(LONGEST_END)

    def restart(self) -> None:
        """End it in order and start it again, its state kept; containers go on meanwhile."""
        detached = self._process is None
        self._signal(signal.SIGTERM)
        if not self._wait_until_gone(LONGEST_END):
            self.kill()
        self.start(detached=detached)

    @property
    def running(self) -> bool:
        """Whether it answers, or is about to."""
        return self._place is not None and self._place.running

    def __enter__(self) -> Self:
        if not self.running:
            self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._started:  # else it is somebody else's
            self.stop()

    def __repr__(self) -> str:
        where = self._place.directory if self._place is not None else "nowhere"
        return f"<Emulator in {where}{'' if self.running else ', not running'}>"

    # -- how it is reached

    @property
    def directory(self) -> Path:
        """Where its state is."""
        if self._place is None:
            raise UsageError("the emulator has not been started; start() does that")
        return self._place.directory

    @property
    def server(self) -> Server:
        """How it is reached; UsageError where it was never started."""
        found = self._place.read() if self._place is not None else None
        if found is None:
            raise UsageError("the emulator has not been started; start() does that")
        return found

    @property
    def url(self) -> str:
        """Where it listens: ``http://127.0.0.1:PORT``."""
        return self.server.url

    @property
    def page(self) -> str:
        """The address of the page that shows what is going on in it; for a browser."""
        return self.server.page

    def connection_parameters(self, **overrides: Any) -> dict[str, Any]:
        """Keywords for ``snowflake.connector.connect``, which other processes can use as well:
        user, password, account, host, port, protocol, database, schema, warehouse, role.
        """
        return self.server.connection_parameters() | overrides

    def connect(self, **overrides: Any) -> Any:
        """A connection of snowflake-connector-python; keywords are those of its ``connect``."""
        try:
            import snowflake.connector
        except ImportError as error:
            raise UsageError(
                "connecting needs snowflake-connector-python: pip install 'flowdist[snowflake]'"
            ) from error
        from flowdist.snowflake.connection import connect_keywords

        return snowflake.connector.connect(
            **connect_keywords(self.connection_parameters(**overrides))
        )

    # -- what it is told

    def push_image(
        self,
        path: str,
        *,
        entrypoint: Sequence[str] | None = None,
        cmd: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        working_directory: str | None = None,
        user: str | None = None,
        architecture: str | None = None,
        source: str | None = None,
    ) -> str:
        """Register an image by its path in a repository, as ``docker push`` would; its digest.

        A container of it runs `entrypoint` with `cmd`, here on this machine, unless its
        specification says otherwise.

        Args:
            path: ``/db/schema/repository/image:tag``.
            entrypoint, cmd, env, working_directory, user, architecture: as an image has them.
            source: what podman or docker, where one of them runs the containers, calls the image
                in its storage; what is not given is taken from it.
        """
        given = {
            "entrypoint": None if entrypoint is None else list(entrypoint),
            "cmd": None if cmd is None else list(cmd),
            "env": None if env is None else dict(env),
            "working_directory": working_directory,
            "user": user,
            "architecture": architecture,
            "source": source,
        }
        known = {name: value for name, value in given.items() if value is not None}
        return str(self._ask("POST", "images", {"path": path, **known})["digest"])

    def overview(self) -> dict[str, Any]:
        """What the page shows: pools, services, tasks, stages, queries, sessions, faults."""
        found: dict[str, Any] = self._ask("GET", "overview")
        return found

    # -- inside

    def _command(self, place: Place, *, detached: bool) -> list[str]:
        # -P: no module beside the caller's program is to be taken for one of Python's.
        made = [sys.executable, "-P", "-m", "flowdist.emulator", "serve"]
        made += ["--directory", str(place.directory)]
        for name, value in self._settings.items():
            if name == "strict_mounts":
                made += [] if value else ["--no-strict-mounts"]
            else:
                made += [f"--{name.replace('_', '-')}", str(value)]
        if self._port is not None:
            made += ["--port", str(self._port)]
        if self._temporary:
            made.append("--temporary")
        if not detached:
            made += ["--stop-with-parent", str(os.getpid())]
        return made

    def _wait_until_ready(self, place: Place, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + LONGEST_START
        while process.poll() is None:
            server = place.ready()
            if server is not None and server.pid == process.pid:
                return
            if time.monotonic() > end:
                process.kill()
                process.wait()
                raise BackendError(
                    f"the emulator in {place.directory} does not answer after "
                    f"{LONGEST_START:.0f} s; {place.log} may say why"
                )
            time.sleep(POLL)
        said = place.errors.read_text(errors="replace").strip()
        room = os.statvfs(place.directory)
        if room.f_bavail * room.f_frsize < LEAST_ROOM:  # what it said may have found no room either
            raise UsageError(f"{place.directory} has no space left; name another directory")
        if process.returncode == 2 and said:
            raise UsageError(said)
        raise BackendError(
            f"the emulator in {place.directory} ended with code {process.returncode} "
            f"before it answered:\n{said[-2000:] or 'it said nothing'}"
        )

    def _signal(self, number: signal.Signals) -> None:
        holder = self._place.holder() if self._place is not None else None
        if holder:
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder, number)

    def _wait_until_gone(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self.running or (self._process is not None and self._process.poll() is None):
            if time.monotonic() > end:
                return False
            time.sleep(POLL)
        self._process = None
        return True

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """A request to the control endpoint; UsageError where it makes no sense there."""
        server = self.server
        connection = http.client.HTTPConnection(server.host, server.port, timeout=ANSWER)
        headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"}
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, f"/control/{path}", text, headers)
            reply = connection.getresponse()
            found = json.loads(reply.read() or b"null")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise BackendError(
                f"the emulator in {self.directory} does not answer at {server.url}: {error}; "
                f"{Place(self.directory).log} may say why"
            ) from error
        finally:
            connection.close()
        if reply.status == 400:
            raise UsageError(found["error"])
        if reply.status != 200:
            raise BackendError(f"the emulator answered {method} /control/{path}: {reply.status}")
        return found


def _check_installed() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"the emulator needs {', '.join(missing)}: pip install 'flowdist[emulator]'"
        )
