"""An account that is served from a thread of the test, and scripts under other interpreters."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from flowdist.emulator.account import Account
from flowdist.emulator.server.app import create_app


@dataclass
class Server:
    """An account that is served on a port of this machine."""

    account: Account
    url: str
    port: int
    connections: list[Any] = field(default_factory=list)

    def parameters(self, **overrides: Any) -> dict[str, Any]:
        """Keywords for ``snowflake.connector.connect``; None leaves one out."""
        made = {
            "user": "FLOWDIST",
            "password": self.account.password,
            "account": "EMULATOR",
            "host": "127.0.0.1",
            "port": self.port,
            "protocol": "http",
            "database": "FLOWDIST",
            "schema": "PUBLIC",
            "warehouse": "FLOWDIST_WH",
            "role": "FLOWDIST_ROLE",
            **overrides,
        }
        return {name: value for name, value in made.items() if value is not None}

    def connect(self, **overrides: Any) -> Any:
        """A connection by the connector that is installed here; closed at the end of the test."""
        import snowflake.connector

        made = snowflake.connector.connect(**self.parameters(**overrides))
        self.connections.append(made)
        return made


def served(account: Account, *, port: int = 0, **options: Any) -> tuple[Server, Callable[[], None]]:
    """Start to serve an account from a thread, with the options of `create_app`; what ends it."""
    # Only of sockets that say so asyncio knows that they are TCP's, and sends without a delay.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(100)  # whoever connects before the server runs is answered when it does
    port = listener.getsockname()[1]
    account.url = f"http://127.0.0.1:{port}"
    account.start()
    config = uvicorn.Config(
        create_app(account, **options),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    made = Server(account, account.url, port)

    def end() -> None:
        for connection in made.connections:
            connection.close()
        running.should_exit = True
        thread.join(10)
        listener.close()

    return made, end


def run_script(python: str, script: Path, *arguments: Any) -> Any:
    """Run a script under an interpreter: it gets its arguments as JSON in ``sys.argv[1]``, and what
    it prints last, as JSON, is returned.
    """
    done = subprocess.run(
        [python, str(script), json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])
