"""The server process: from a directory to an account that listens, and to an orderly end.

``python -m flowdist.emulator serve`` runs :func:`serve`. It imports what it needs when it is sure
that it will serve; of what is imported pandas must not be a part, for a start is to take little.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.abc
import logging
import logging.handlers
import os
import select
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowdist import __version__
from flowdist.emulator.place import Place, Server
from flowdist.errors import UsageError

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["Options", "serve"]

HOST = "127.0.0.1"
GRACE = 2
"""How long statements in flight may take when the server ends, in seconds."""
LONGEST_END = 20
"""After so many seconds a server that is to end ends, whatever hangs."""
LOG_BYTES = 2_000_000
LONGEST_KILL = 10.0
"""How long containers may take to be gone after SIGKILL, in seconds."""
TRIES = 20
"""How often the lock is tried: one who merely looks holds it for a moment too."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What a server is started with; ``settings`` are those of `account.Settings`.

    ``stop_with_parent`` is the process without which the server ends too. ``temporary``: the
    directory, and all that runs in it, goes with that process; else whoever stops the server does
    what is to be done with it.
    """

    directory: Path
    port: int | None = None
    stop_with_parent: int | None = None
    temporary: bool = False
    settings: dict[str, Any] | None = None


def serve(options: Options) -> None:
    """Serve a directory until a signal comes; UsageError where that cannot be.

    It ends the process itself: threads that still wait for something must not keep it.
    """
    place = Place(options.directory.absolute())
    place.make()
    with _held(place):
        _log_to(place.log)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end_before_start)
        gone = threading.Event()
        if options.stop_with_parent is not None:
            _watch(options.stop_with_parent, gone)
        before = place.read()
        with _listening(_port(options, before), before) as listener:
            _serve(place, options, listener, gone)


class _WithoutPandas(importlib.abc.MetaPathFinder):
    """Lets pandas appear as not installed.

    DuckDB and pyarrow import it where they can, only to ask whether a value is one of its own. Here
    none is, and the import takes longer than all the rest of a start.
    """

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        """Nothing, for other modules; ModuleNotFoundError for pandas."""
        if fullname == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name="pandas")


def _serve(place: Place, options: Options, listener: socket.socket, gone: threading.Event) -> None:
    sys.meta_path.insert(0, _WithoutPandas())
    from flowdist.emulator.account import Account, Settings
    from flowdist.emulator.bootstrap import USER
    from flowdist.emulator.server import control, running
    from flowdist.emulator.server.app import create_app

    settings = Settings(**(options.settings or {}))
    account = Account(place.directory, settings)
    known = Server(
        host=HOST,
        port=listener.getsockname()[1],
        pid=os.getpid(),
        version=__version__,
        user=USER,
        password=account.password,
        token=control.token(account),
        page_token=control.page_token(account),
        started=time.time(),
        settings=asdict(settings),
    )
    account.url = known.url
    app = create_app(account)
    account.start()

    def ready() -> None:
        gc.freeze()  # what was imported stays: it need not be looked through for what does not
        place.write(known)
        _log.info("flowdist %s serves %s at %s", __version__, place.directory, known.url)

    def ended() -> None:
        _end(account, place, known, remove=options.temporary and gone.is_set())

    running.run(app, account, listener, grace=GRACE, ready=ready, ended=ended)


def _end(account: Account, place: Place, known: Server, *, remove: bool) -> None:
    """Close the account and end the process."""
    last = threading.Timer(LONGEST_END, os._exit, [1])
    last.daemon = True
    last.start()
    try:
        account.mounts.kept = True  # as containers are, until somebody ends them too
        account.close()
        if remove:
            end_containers(place.directory, account.settings.runtime)
        _log.info("ended")
    except Exception:
        _log.exception("could not end in order")
    place.write(replace(known, pid=None))
    if remove:
        shutil.rmtree(place.directory, ignore_errors=True)
    logging.shutdown()
    os._exit(0)


def end_containers(directory: Path, runtime: str) -> int:
    """Kill the containers that run in the directory of an account and take their mounts away, once
    no server runs there; how many there were.
    """
    from flowdist.emulator.compute.podman import PodmanRuntime
    from flowdist.emulator.compute.processes import ProcessRuntime
    from flowdist.emulator.stages.mounts import unmount

    # Not by `runtime_of`: whoever stops an emulator need not import what makes settings.
    kept = ProcessRuntime() if runtime == "process" else PodmanRuntime(runtime)

    def lives(at: Path) -> bool:
        state = kept.state(at)
        return state is not None and not state.status.ended

    found = [launch.parent for launch in directory.glob("services/*/*/*/launch.json")]
    living = [at for at in found if lives(at)]
    for at in living:
        kept.kill(at)
    end = time.monotonic() + LONGEST_KILL
    while any(map(lives, living)) and time.monotonic() < end:
        time.sleep(0.01)
    unmount(directory)
    return len(living)


@contextlib.contextmanager
def _held(place: Place) -> Iterator[None]:
    for left in reversed(range(TRIES)):
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(place.hold())
            except BlockingIOError:
                if left == 0:
                    raise UsageError(
                        f"process {place.holder()} serves {place.directory} already; "
                        "stop it first, or name another directory"
                    ) from None
            else:
                yield
                return
        time.sleep(0.02)


def _port(options: Options, before: Server | None) -> int:
    if options.port is not None:
        return options.port
    return before.port if before is not None else 0


@contextlib.contextmanager
def _listening(port: int, before: Server | None) -> Iterator[socket.socket]:
    """A socket that listens: whoever connects from now on is answered once all is ready."""
    # By its protocol, asyncio sees that its connections are TCP's, and does without Nagle's delay.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        # Connections of the server before that linger do not keep the port from its successor.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen(2048)
        except OSError as error:
            was = ", where this emulator listened before," if before and before.port == port else ""
            raise UsageError(
                f"port {port}{was} cannot be had: {error.strerror}; "
                "end what listens there, or name another one with --port"
            ) from error
        yield listener


def _log_to(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=3)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("flowdist").setLevel(logging.INFO)


def _end_before_start(number: int, frame: object) -> None:
    raise SystemExit(0)


def _watch(pid: int, gone: threading.Event) -> None:
    """Send SIGTERM to this process once another one is gone."""

    def wait() -> None:
        _until_gone(pid)
        gone.set()
        _log.info("process %d, which wanted the emulator, is gone", pid)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _until_gone(pid: int) -> None:
    opened: Callable[[int], int] | None = getattr(os, "pidfd_open", None)
    if opened is not None:
        try:
            handle = opened(pid)
        except ProcessLookupError:
            return
        except OSError:  # a kernel without it
            pass
        else:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            poll.poll()
            os.close(handle)
            return
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.5)
