"""The server process: started, found again, stopped, killed."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flowdist.emulator import Emulator, client
from flowdist.emulator.place import Place
from flowdist.errors import BackendError, UsageError

HEAVY = {"pandas", "rich", "pydantic", "pydantic_settings", "matplotlib", "snowflake"}


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """One that runs, for tests that leave it as it is."""
    with Emulator(tmp_path_factory.mktemp("shared") / "emulator") as emulator:
        yield emulator


# -- what it is reached by


def test_server_json_says_how_it_is_reached_and_is_private(shared: Emulator) -> None:
    path = shared.directory / "server.json"
    found = json.loads(path.read_text())

    assert found["url"] == shared.url == f"http://127.0.0.1:{found['port']}"
    assert alive(found["pid"])
    assert {"host", "version", "user", "password", "token"} <= set(found)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(shared.directory.stat().st_mode) == 0o700


def test_the_connector_signs_in_by_the_connection_parameters(shared: Emulator) -> None:
    with shared.connect() as connection:
        assert (connection.database, connection.schema) == ("FLOWDIST", "PUBLIC")
        assert (connection.warehouse, connection.role) == ("FLOWDIST_WH", "FLOWDIST_ROLE")


def test_connection_parameters_are_for_other_processes(shared: Emulator) -> None:
    text = json.dumps(shared.connection_parameters(role="ACCOUNTADMIN"))
    code = f"import json, snowflake.connector as s\nprint(s.connect(**json.loads({text!r})).role)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.stdout.strip() == "ACCOUNTADMIN", done.stderr


def test_only_this_machine_reaches_it(shared: Emulator) -> None:
    port = shared.server.port
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table.read().splitlines()[1:]]
    listening = [row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")]

    assert listening == [f"0100007F:{port:04X}"]


def test_it_is_found_by_its_directory(shared: Emulator) -> None:
    found = Emulator.attach(shared.directory)

    with found as attached:
        assert attached.url == shared.url
        assert attached.faults.active() == []
    assert shared.running


def test_its_log_has_no_secrets(shared: Emulator) -> None:
    server = shared.server
    shared.connect(session_parameters={"QUERY_TAG": "a tag"}).close()
    connection = http.client.HTTPConnection(server.host, server.port)
    connection.request("GET", f"/?token={server.page_token}")
    connection.getresponse().read()

    text = Place(shared.directory).log.read_text()

    assert shared.url in text
    for secret in (server.password, server.token, server.page_token):
        assert secret not in text
    assert stat.S_IMODE(Place(shared.directory).log.stat().st_mode) == 0o600


def test_who_lists_processes_sees_no_secrets(shared: Emulator) -> None:
    server = shared.server
    command = Path(f"/proc/{server.pid}/cmdline").read_text()

    assert "flowdist.emulator" in command
    for secret in (server.password, server.token, server.page_token):
        assert secret not in command


def test_the_server_imports_nothing_that_it_does_not_need(shared: Emulator) -> None:
    code = (
        "import sys\n"
        "import flowdist.emulator.__main__, flowdist.emulator.account\n"
        "import flowdist.emulator.server.app, flowdist.emulator.server.running\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "duckdb" in loaded, done.stderr
    assert loaded.isdisjoint(HEAVY), loaded & HEAVY


def test_the_server_never_loads_pandas(shared: Emulator) -> None:
    # DuckDB would import it with the first value that is bound, pyarrow with the first table.
    with shared.connect() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT %s + column1 FROM VALUES (1), (2)", (1,))
        cursor.execute("ALTER SESSION SET QUERY_TAG = 'x'")
        connection.cursor().execute("SHOW STAGES ->> SELECT COUNT(*) FROM $1")

    maps = Path(f"/proc/{shared.server.pid}/maps").read_text()
    assert "duckdb" in maps
    assert "/pandas/" not in maps


def test_whoever_only_asks_imports_nothing_of_the_server() -> None:
    code = "import flowdist.emulator; flowdist.emulator.Emulator\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint({"duckdb", "pyarrow", "sqlglot", "starlette", "uvicorn", *HEAVY})


# -- its life


def test_a_temporary_one_leaves_nothing_behind() -> None:
    with Emulator() as emulator:
        directory, pid = emulator.directory, emulator.server.pid
        assert pid is not None
        assert alive(pid)

    assert not alive(pid)
    assert not directory.exists()
    with pytest.raises(UsageError, match="has not been started"):
        _ = emulator.url


def test_it_ends_in_order_and_goes_on_as_it_was(tmp_path: Path) -> None:
    with Emulator(tmp_path / "state") as emulator:
        first = emulator.server
        assert first.pid is not None
        emulator.connect(role="ACCOUNTADMIN").cursor().execute("CREATE DATABASE kept")

        os.kill(first.pid, signal.SIGTERM)
        wait_until(lambda: not emulator.running)
        assert emulator.server.pid is None
        assert Place(emulator.directory).log.read_text().rstrip().endswith("ended")

        # Clients and containers know the port: it is not given up silently.
        taken = rf"port {first.port}, where this emulator listened before,"
        with (
            socket.create_server(("127.0.0.1", first.port)),
            pytest.raises(UsageError, match=taken),
        ):
            emulator.start()

        emulator.start()
        assert emulator.connection_parameters() == first.connection_parameters()
        assert emulator.connect(database="KEPT").database == "KEPT"


@pytest.mark.fault
def test_it_goes_on_after_it_was_killed(tmp_path: Path) -> None:
    with Emulator(tmp_path / "state") as emulator:
        first = emulator.server
        connection = emulator.connect(role="ACCOUNTADMIN")
        connection.cursor().execute("CREATE DATABASE kept")

        emulator.kill()
        assert not emulator.running
        with pytest.raises(BackendError, match="does not answer"):
            emulator.faults.clear()

        emulator.start()
        assert emulator.server.pid != first.pid
        assert emulator.connection_parameters() == first.connection_parameters()
        connection.cursor().execute("USE DATABASE kept")  # by the session from before
        connection.close()


@pytest.mark.fault
def test_it_ends_with_the_process_that_wanted_it(tmp_path: Path) -> None:
    code = (
        "import os, signal\n"
        "from flowdist.emulator import Emulator\n"
        "e = Emulator().start()\n"
        "print(e.server.pid, e.directory, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    pid, directory = done.stdout.split()

    wait_until(lambda: not alive(int(pid)))
    wait_until(lambda: not Path(directory).exists())


# -- what is refused


def test_two_do_not_share_a_directory(shared: Emulator) -> None:
    with pytest.raises(UsageError, match=rf"process {shared.server.pid} serves .* already"):
        Emulator(shared.directory).start()

    assert shared.running


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} cannot be had: Address already in use"):
            Emulator(tmp_path / "state", port=port).start()


def test_somebody_elses_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("...")
    tmp_path.chmod(0o755)

    with pytest.raises(UsageError, match="files in it that are not an emulator's"):
        Emulator(tmp_path).start()

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_place_that_cannot_be_a_directory_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    for place, why in ((tmp_path / "file", "File exists"), (tmp_path / "file/x", "Not a dir")):
        with pytest.raises(UsageError, match=f"cannot be the directory of an emulator: {why}"):
            Emulator(place).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system of its own")
def test_a_disk_without_room_is_said(tmp_path: Path) -> None:
    words = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(tmp_path)]
    if subprocess.run(words, capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        with pytest.raises(UsageError, match="has no space left"):
            Emulator(tmp_path / "state").start()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_what_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "NEEDED", ("sys", "no_such_library"))

    with pytest.raises(UsageError, match=r"needs no_such_library: pip install 'flowdist\[emulator"):
        Emulator(tmp_path / "state").start()


def test_one_that_does_not_run_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no emulator runs in .*; flowdist emulator start"):
        Emulator.attach(tmp_path)
