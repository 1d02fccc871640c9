"""A user's whole session, with the newest connector of each line, from outside the process; and
what a server that is killed owes to those it has answered.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import snowflake.connector

from flowdist.emulator import Emulator

SCRIPT = Path(__file__).with_name("acceptance_script.py")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("line", [5, 4])
def test_a_session_from_signing_in_to_the_results(
    line: int, connector4: str, tmp_path: Path
) -> None:
    python = sys.executable if line == 5 else connector4
    with Emulator() as emulator:
        with emulator.connect(role="ACCOUNTADMIN") as connection:
            connection.execute_string(
                "CREATE DATABASE acceptance; CREATE SCHEMA lab; CREATE IMAGE REPOSITORY images"
            )
        emulator.push_image("/acceptance/lab/images/python:latest", entrypoint=[python])
        path = tmp_path / "connection.json"
        path.write_text(json.dumps(emulator.connection_parameters()))
        path.chmod(0o600)

        done = subprocess.run(
            [python, str(SCRIPT), str(path), str(tmp_path)], capture_output=True, text=True
        )

        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["connector"].startswith(f"{line}.")
    assert answer["job"] == {"replicas": 20}
    assert answer["graph"] == {"tasks": 250}
    assert answer["claims"] == {"rows": 5000}


@pytest.mark.fault
@pytest.mark.timeout(120)
def test_what_was_acknowledged_survives_a_killed_server(tmp_path: Path) -> None:
    emulator = Emulator(tmp_path / "state")
    emulator.start()
    try:
        with emulator.connect() as connection:
            connection.cursor().execute("CREATE HYBRID TABLE kept (id INT PRIMARY KEY, n INT)")
        parameters = emulator.connection_parameters()
        stop = threading.Event()
        writers = [Writer(parameters, number, stop) for number in range(3)]
        for writer in writers:
            writer.start()
        for _ in range(3):
            seen = sum(len(writer.acknowledged) for writer in writers)
            until(lambda seen=seen: sum(len(w.acknowledged) for w in writers) >= seen + 20)
            emulator.kill()
            emulator.start()
        stop.set()
        for writer in writers:
            writer.join(60)

        with emulator.connect() as connection:
            rows = connection.cursor().execute("SELECT id, n FROM kept").fetchall()
        acknowledged = {number for writer in writers for number in writer.acknowledged}
        attempted = {number for writer in writers for number in writer.attempted}
        assert acknowledged <= {row[0] for row in rows} <= attempted
        assert {row[1] for row in rows} == {1}
        assert emulator.connection_parameters() == parameters
    finally:
        emulator.stop()


class Writer(threading.Thread):
    """Inserts rows one by one, and notes those that the server has acknowledged."""

    def __init__(self, parameters: dict[str, Any], number: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.acknowledged: list[int] = []
        self.attempted: list[int] = []
        self._parameters = parameters
        self._next = number * 1_000_000
        self._stop_asked = stop

    def run(self) -> None:
        while not self._stop_asked.is_set():
            try:
                with snowflake.connector.connect(**self._parameters, login_timeout=20) as connected:
                    self._insert(connected.cursor())
            except (snowflake.connector.errors.Error, OSError):
                time.sleep(0.05)  # the server is down; a row that was not acknowledged is left

    def _insert(self, cursor: Any) -> None:
        while not self._stop_asked.is_set():
            self._next += 1
            self.attempted.append(self._next)
            cursor.execute("INSERT INTO kept VALUES (%s, 1)", (self._next,))
            self.acknowledged.append(self._next)


def until(condition: Any, timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.02)
