"""Faults as a client of the connector meets them, in one emulator with real containers."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from snowflake.connector.errors import DatabaseError, ProgrammingError

from flowdist.emulator import Emulator
from flowdist.errors import UsageError

POOL = "CREATE COMPUTE POOL {} MIN_NODES=1 MAX_NODES=1 INSTANCE_FAMILY=CPU_X64_S"
JOB = """EXECUTE JOB SERVICE IN COMPUTE POOL {pool} NAME = {name} ASYNC = TRUE
FROM SPECIFICATION $$
spec:
  containers:
  - name: main
    image: /flowdist/public/images/python:1
    args: ["-c", "import time; {code}"]
    volumeMounts: [{{name: data, mountPath: /data}}]
  volumes:
  - name: data
    source: {source}
$$"""


def job(pool: str, name: str, code: str, stage: str = "") -> str:
    """The statement that runs Python code; with a stage at /data, or a directory of its own."""
    source = f"'{stage}'" if stage else "local"
    return JOB.format(pool=pool, name=name, code=code, source=source)


def prepare(emulator: Emulator, connection: Any) -> None:
    """An image, a stage and a table."""
    cursor = connection.cursor()
    cursor.execute("CREATE IMAGE REPOSITORY images")
    cursor.execute("CREATE STAGE files ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')")
    cursor.execute("CREATE TABLE numbers (n INT)")
    emulator.push_image("/flowdist/public/images/python:1", entrypoint=[sys.executable])


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(grace=1.0) as made:
        with made.connect() as connection:
            prepare(made, connection)
        yield made


@pytest.fixture
def cursor(emulator: Emulator) -> Iterator[Any]:
    with emulator.connect() as connection:
        cursor = connection.cursor()
        cursor.execute("DELETE FROM numbers")
        yield cursor
        emulator.faults.clear()


def value(cursor: Any, sql: str) -> Any:
    return cursor.execute(sql).fetchone()[0]


def status(cursor: Any, name: str) -> str:
    cursor.execute(f"DESCRIBE SERVICE {name}")
    return str(
        dict(zip([c[0] for c in cursor.description], cursor.fetchone(), strict=True))["status"]
    )


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


# -- connections


def test_an_insert_whose_reply_is_lost_runs_once(emulator: Emulator, cursor: Any) -> None:
    with emulator.faults.lose_replies(statement="^INSERT", times=1) as fault:
        cursor.execute("INSERT INTO numbers VALUES (1)")

    assert fault.hits == 1
    assert value(cursor, "SELECT COUNT(*) FROM numbers") == 1


def test_the_connector_asks_again_after_a_dropped_connection(
    emulator: Emulator, cursor: Any
) -> None:
    with emulator.faults.drop_connections(path="^/queries/", times=2) as fault:
        cursor.execute("INSERT INTO numbers VALUES (1)")

    assert fault.hits == 2
    assert value(cursor, "SELECT COUNT(*) FROM numbers") == 1


def test_the_connector_waits_out_503(emulator: Emulator, cursor: Any) -> None:
    with emulator.faults.unavailable(path="^/queries/", times=1) as fault:
        assert value(cursor, "SELECT 7") == 7

    assert fault.hits == 1


def test_a_lost_poll_is_made_again(emulator: Emulator, cursor: Any) -> None:
    with emulator.faults.lose_polls(times=1) as fault:
        cursor.execute_async("SELECT 7")
        cursor.get_results_from_sfqid(cursor.sfqid)
        assert cursor.fetchone() == (7,)

    assert fault.hits == 1


def test_expired_tokens_are_renewed(emulator: Emulator, cursor: Any) -> None:
    emulator.faults.expire_tokens("session")

    assert value(cursor, "SELECT 7") == 7
    assert emulator.faults.log()[-1]["kind"] == "expire_tokens"


# -- statements


def test_the_second_statement_fails_as_it_is_told(emulator: Emulator, cursor: Any) -> None:
    emulator.faults.fail_statement("INSERT", nth=2, errno=90073, message="on demand")
    cursor.execute("INSERT INTO numbers VALUES (1)")

    with pytest.raises((ProgrammingError, DatabaseError), match="on demand") as caught:
        cursor.execute("INSERT INTO numbers VALUES (2)")

    assert caught.value.errno == 90073
    cursor.execute("INSERT INTO numbers VALUES (3)")
    assert value(cursor, "SELECT SUM(n) FROM numbers") == 4


# -- stages


def test_a_hidden_file_is_back_when_the_fault_ends(
    emulator: Emulator, cursor: Any, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("1\n")
    cursor.execute(f"PUT file://{tmp_path}/a.csv @files/out AUTO_COMPRESS = FALSE")

    with emulator.faults.hide("@files/out"):
        assert cursor.execute("LIST @files/out").fetchall() == []

    assert len(cursor.execute("LIST @files/out").fetchall()) == 1


# -- compute


def test_a_killed_container_fails_its_job(emulator: Emulator, cursor: Any) -> None:
    cursor.execute(POOL.format("kills"))
    cursor.execute(job("kills", "killed", "time.sleep(60)"))
    wait_until(lambda: status(cursor, "killed") == "RUNNING")

    emulator.faults.kill_container("killed")

    wait_until(lambda: status(cursor, "killed") == "FAILED")
    cursor.execute("SHOW SERVICE CONTAINERS IN SERVICE killed")
    row = dict(zip([c[0] for c in cursor.description], cursor.fetchone(), strict=True))
    assert str(row["last_exit_code"]) == "137"


def test_a_lost_node_takes_its_jobs_along(emulator: Emulator, cursor: Any) -> None:
    cursor.execute(POOL.format("breaks"))
    cursor.execute(job("breaks", "lost", "time.sleep(60)"))
    wait_until(lambda: status(cursor, "lost") == "RUNNING")

    emulator.faults.kill_node("breaks")

    wait_until(lambda: status(cursor, "lost") == "FAILED")


def test_a_paused_pool_starts_nothing_until_it_goes_on(emulator: Emulator, cursor: Any) -> None:
    cursor.execute(POOL.format("pauses"))
    with emulator.faults.pause("pauses"):
        cursor.execute(job("pauses", "later", "time.sleep(0)"))
        time.sleep(0.5)
        assert status(cursor, "later") == "PENDING"

    wait_until(lambda: status(cursor, "later") == "DONE")


@pytest.mark.fault
def test_a_pool_is_not_paused_for_ever_by_a_server_that_was_killed(
    emulator: Emulator, cursor: Any
) -> None:
    cursor.execute(POOL.format("goes_on"))
    fault = emulator.faults.pause("goes_on")
    emulator.kill()
    emulator.start()

    cursor.execute(job("goes_on", "after", "time.sleep(0)"))

    wait_until(lambda: status(cursor, "after") == "DONE")
    fault.remove()


@pytest.mark.fault
def test_containers_and_their_mounts_go_on_over_a_restart(emulator: Emulator, cursor: Any) -> None:
    cursor.execute(POOL.format("stays"))
    code = "open('/data/a', 'w').close(); time.sleep(4); open('/data/b', 'w').close()"
    cursor.execute(job("stays", "long", code, "@files/over"))
    wait_until(lambda: len(cursor.execute("LIST @files/over").fetchall()) == 1)

    emulator.restart()

    wait_until(lambda: status(cursor, "long") == "DONE")
    assert len(cursor.execute("LIST @files/over").fetchall()) == 2


@pytest.mark.fault
def test_nothing_runs_on_when_it_has_been_stopped(tmp_path: Path) -> None:
    with Emulator(tmp_path / "state") as stopped, stopped.connect() as connection:
        prepare(stopped, connection)
        cursor = connection.cursor()
        cursor.execute(POOL.format("ends"))
        cursor.execute(job("ends", "endless", "time.sleep(600)", "@files/x"))
        wait_until(lambda: status(cursor, "endless") == "RUNNING")
        assert processes_of(stopped.directory)

    wait_until(lambda: not processes_of(tmp_path))
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def processes_of(directory: Path) -> list[str]:
    """The commands that run with a path below a directory in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_text(errors="replace"))
    return [text for text in found if str(directory) in text]


def test_what_is_not_there_cannot_be_killed(emulator: Emulator) -> None:
    with pytest.raises(UsageError, match="NOWHERE"):
        emulator.faults.kill_container("nowhere")
    with pytest.raises(UsageError, match="NOWHERE"):
        emulator.faults.kill_node("nowhere")
    with pytest.raises(UsageError, match="NOWHERE"):
        emulator.faults.pause("nowhere")
