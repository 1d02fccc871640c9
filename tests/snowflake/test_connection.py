"""Connections: which one a name stands for, what is tried again, what is said and what is not."""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from flowdist import register_connection, spcs_jobs
from flowdist.backends.snowflake.backend import SnowflakeBackend
from flowdist.clock import ManualClock
from flowdist.emulator import Emulator
from flowdist.emulator.connections import entry
from flowdist.errors import UsageError
from flowdist.plan import Plan
from flowdist.snowflake import connection as connections
from flowdist.snowflake.client import TRIES, Client, SnowflakeError, shape
from flowdist.snowflake.connection import client_for, connection_name
from flowdist.snowflake.names import literal, quote

ROOT = Path(__file__).parents[2]
CONNECTOR_4 = ROOT / ".venv-connector4" / "bin" / "python"
VARIABLES = ("SNOWFLAKE_ACCOUNT", "SNOWFLAKE_HOST", "SNOWFLAKE_DEFAULT_CONNECTION_NAME")


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(grace=1.0) as emulator:
        yield emulator


@pytest.fixture
def client(emulator: Emulator) -> Iterator[Client]:
    made = client_for(connection_name(emulator.connection_parameters()), clock=ManualClock())
    yield made
    made.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without any connection."""
    monkeypatch.setenv("SNOWFLAKE_HOME", str(tmp_path))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def role_by(name: str | None) -> Any:
    made = client_for(name)
    try:
        return made.value("SELECT CURRENT_ROLE()")
    finally:
        made.close()


# -- which connection ------------------------------------------------------------------------------


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


@pytest.mark.parametrize(
    ("file", "prefix"), [("connections.toml", ""), ("config.toml", "connections.")]
)
def test_a_connection_of_the_users_files_by_name(
    emulator: Emulator, home: Path, file: str, prefix: str
) -> None:
    given = emulator.connection_parameters(role="ACCOUNTADMIN")
    write(home / file, entry(f"{prefix}work", given))

    assert role_by("work") == "ACCOUNTADMIN"


def test_without_a_name_the_default_connection(
    emulator: Emulator, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = entry("default", emulator.connection_parameters()) + entry(
        "other", emulator.connection_parameters(role="ACCOUNTADMIN")
    )
    write(home / "connections.toml", both)

    assert role_by(None) == "FLOWDIST_ROLE"
    monkeypatch.setenv("SNOWFLAKE_DEFAULT_CONNECTION_NAME", "other")
    assert role_by(None) == "ACCOUNTADMIN"


def test_without_files_what_the_environment_says(
    emulator: Emulator, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in emulator.connection_parameters().items():
        monkeypatch.setenv(f"SNOWFLAKE_{name.upper()}", str(value))

    assert role_by(None) == "FLOWDIST_ROLE"


def test_a_name_that_is_not_there_is_said_with_those_that_are(home: Path) -> None:
    write(home / "connections.toml", '[production]\naccount = "a"\npassword = "hush"\n')

    with pytest.raises(UsageError, match="did you mean 'production'") as error:
        client_for("prodution")
    assert str(home / "connections.toml") in str(error.value)
    assert "hush" not in str(error.value)


def test_no_connection_at_all_says_how_to_give_one(home: Path) -> None:
    with pytest.raises(UsageError, match="SNOWFLAKE_ACCOUNT is not set; connection=NAME"):
        client_for(None)


def test_a_file_that_is_no_toml_is_named(home: Path) -> None:
    write(home / "connections.toml", "[work\n")

    with pytest.raises(UsageError, match=r"connections\.toml is no TOML"):
        client_for("work")


def test_a_file_that_others_may_write_to_is_refused_with_what_to_do(
    emulator: Emulator, home: Path
) -> None:
    write(home / "connections.toml", entry("work", emulator.connection_parameters()))
    (home / "connections.toml").chmod(0o666)

    with pytest.raises(SnowflakeError, match="chmod 0600"):
        role_by("work")


def test_what_was_given_as_an_object_is_asked_for_in_another_process() -> None:
    with pytest.raises(UsageError, match=r"register_connection\('given-12ab'"):
        client_for("given-12ab")


def test_an_open_connection_is_used_and_left_as_it_is(emulator: Emulator) -> None:
    with emulator.connect() as opened:
        opened.cursor().execute("ALTER SESSION SET QUERY_TAG = 'mine'")
        client = client_for(connection_name(opened), tag={"run": "r"})

        assert client.value("SELECT 1") == 1
        client.close()

        tag = "SHOW PARAMETERS LIKE 'QUERY_TAG' IN SESSION"
        assert opened.cursor().execute(tag).fetchone()[1] == "mine"


def test_what_is_written_is_there_for_others_at_once(emulator: Emulator, tmp_path: Path) -> None:
    given = emulator.connection_parameters(session_parameters={"AUTOCOMMIT": False})
    client = client_for(connection_name({**given, "autocommit": False}))
    try:
        assert (
            str(client.rows("SHOW PARAMETERS LIKE 'AUTOCOMMIT' IN SESSION")[0]["value"]) == "true"
        )
    finally:
        client.close()

    with emulator.connect(autocommit=False) as opened:
        client = client_for(connection_name(opened))
        with pytest.raises(UsageError, match=r"connection\.autocommit\(True\) turns it on"):
            client.value("SELECT 1")
        opened.autocommit(True)
        assert client.value("SELECT 1") == 1


def test_connections_to_different_places_have_different_names() -> None:
    one = {"account": "a", "user": "u", "password": "hush"}
    others = [{"port": 2}, {"protocol": "http"}, {"database": "d"}, {"warehouse": "w"}]

    names = {connection_name({**one, **more}) for more in [{}, *others]}

    assert len(names) == 5
    assert connection_name({**one, "password": "other"}) in names


def test_what_connects_nothing_is_refused_without_showing_it() -> None:
    for given in (["password", "hush"], 5):
        with pytest.raises(UsageError, match="neither the name") as error:
            connection_name(given)
        assert "hush" not in str(error.value)
    with pytest.raises(UsageError, match="takes keywords"):
        register_connection("x", "hush")


def test_without_the_connector_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(UsageError, match=r"pip install 'flowdist\[snowflake\]'"):
        client_for("any")


def test_in_a_container_the_token_is_read_before_each_connect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import snowflake.connector

    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(snowflake.connector, "connect", lambda **given: seen.append(given))
    monkeypatch.setattr(connections, "TOKEN", tmp_path / "token")
    for name, value in {"HOST": "h", "ACCOUNT": "acc", "DATABASE": "db", "PORT": "8080"}.items():
        monkeypatch.setenv(f"SNOWFLAKE_{name}", value)
    (tmp_path / "token").write_text("first\n")
    connect = connections._connect_to("whatever the driver calls it")

    connect()
    (tmp_path / "token").write_text("second\n")
    connect()

    assert [given["token"] for given in seen] == ["first", "second"]
    assert {"authenticator": "oauth", "host": "h", "account": "acc", "port": 8080}.items() <= seen[
        0
    ].items()


# -- secrets ---------------------------------------------------------------------------------------


def test_a_plan_keeps_no_secret_of_its_connection(emulator: Emulator) -> None:
    given = emulator.connection_parameters()
    plan = spcs_jobs(compute_pool="p", image="/d/s/r/i:1", stage="d.s.runs", connection=given)

    kept = json.dumps(plan.to_json()) + repr(plan) + str(plan)

    assert given["password"] not in kept
    same = Plan.from_json(plan.to_json())
    assert role_by(same.to_json()["connection"]) == "FLOWDIST_ROLE"


def test_a_wrong_password_is_said_without_it_and_is_not_tried_again(emulator: Emulator) -> None:
    clock = ManualClock()
    register_connection("wrong", emulator.connection_parameters(password="hush-hush"))

    with pytest.raises(SnowflakeError, match="user or password are not right") as error:
        client_for("wrong", clock=clock).rows("SELECT 1")

    assert error.value.errno == 390100
    assert "connection 'wrong'" in str(error.value)
    assert "hush" not in str(error.value)
    assert clock.slept == []  # five wrong ones would lock the user out


def test_values_are_in_no_log_and_no_error(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="flowdist"):
        client.rows("SELECT ?, 'hush', 4711", ("whisper",))
        with pytest.raises(SnowflakeError) as error:
            client.rows("SELECT a FROM nowhere WHERE b = 'hush' AND c = ?", ("whisper",))

    assert "SELECT ?, ?, ?" in caplog.text
    for text in (caplog.text, str(error.value)):
        assert "hush" not in text
        assert "whisper" not in text
        assert "4711" not in text


def test_a_long_statement_is_shortened_and_its_specification_left_out() -> None:
    assert shape("EXECUTE JOB SERVICE FROM SPECIFICATION $$ {'a': 1} $$") == (
        "EXECUTE JOB SERVICE FROM SPECIFICATION ?"
    )
    assert len(shape("SELECT " + "a, " * 500)) < 310


# -- statements ------------------------------------------------------------------------------------


def test_what_is_missing_is_said_with_the_statement_and_the_role(client: Client) -> None:
    with pytest.raises(SnowflakeError) as error:
        client.run("DELETE FROM nowhere WHERE n = 5")

    assert error.value.missing
    assert "either it is not there, or role FLOWDIST_ROLE has no privilege on it" in str(
        error.value
    )
    assert "in: DELETE FROM nowhere WHERE n = ?" in str(error.value)


def test_a_missing_privilege_is_said_with_the_role(client: Client) -> None:
    with pytest.raises(SnowflakeError, match="role FLOWDIST_ROLE lacks a privilege") as error:
        client.run("CREATE ROLE x")
    assert error.value.denied


def test_every_statement_is_tagged_with_its_run(client: Client) -> None:
    client.tagged(run="r-1").rows("SELECT 'tagged'")
    client.rows("SELECT 'not tagged'")

    tags = {
        row["query_text"]: row["query_tag"]
        for row in client.rows(
            "SELECT query_text, query_tag FROM TABLE(INFORMATION_SCHEMA.QUERY_HISTORY())"
        )
    }
    assert json.loads(tags["SELECT 'tagged'"]) == {"app": "flowdist", "run": "r-1"}
    assert json.loads(tags["SELECT 'not tagged'"]) == {"app": "flowdist"}


def test_each_thread_has_a_connection_and_the_next_takes_that_of_one_that_has_ended(
    client: Client,
) -> None:
    together = threading.Barrier(3)

    def session(_: int) -> Any:
        together.wait(30)
        return client.value("SELECT CURRENT_SESSION()")

    for _ in range(2):
        with ThreadPoolExecutor(3) as threads:
            sessions = set(threads.map(session, range(3)))
        assert len(sessions) == 3
    before = sessions

    assert client.value("SELECT CURRENT_SESSION()") in before


def wait_for_sessions(emulator: Emulator, number: int) -> None:
    """What the emulator says of itself is a moment old, and a logout is not waited for."""
    give_up = time.monotonic() + 10
    while (found := emulator.overview()["sessions"]) != number:
        assert time.monotonic() < give_up, found
        time.sleep(0.1)


def test_closing_ends_all_sessions(emulator: Emulator) -> None:
    made = client_for(connection_name(emulator.connection_parameters()))
    wait_for_sessions(emulator, 0)
    together = threading.Barrier(2)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: (together.wait(30), made.value("SELECT 1")), range(2)))
    wait_for_sessions(emulator, 2)

    made.close()

    wait_for_sessions(emulator, 0)
    assert made.value("SELECT 1") == 1  # and a later statement connects again
    made.close()


def test_names_and_texts_are_read_as_they_are_meant(client: Client) -> None:
    texts = ["it's", "a\\b", "\\'", "line\nbreak", "?", "%s", "$$", "naïve", '"', "--", ""]
    columns = ", ".join(f"{literal(text)} AS {quote(f'{text}.')}" for text in texts)

    (row,) = client.rows(f"SELECT {columns}")

    assert list(row.values()) == texts
    assert list(row) == [f"{text}.".lower() for text in texts]


# -- trying again ----------------------------------------------------------------------------------


def test_what_the_connector_gives_up_is_tried_again(emulator: Emulator, client: Client) -> None:
    client.value("SELECT 1")

    with emulator.faults.drop_connections(statement="SELECT 'dropped'", times=7) as fault:
        assert client.value("SELECT 'dropped'") == "dropped"

    assert fault.hits == 7
    assert client.statements == 3


def test_what_must_not_be_repeated_is_not(emulator: Emulator, client: Client) -> None:
    client.run("CREATE TABLE once (n INT)")

    with (
        emulator.faults.lose_replies(statement="INSERT INTO once"),
        pytest.raises(SnowflakeError) as error,
    ):
        client.run("INSERT INTO once VALUES (1)", again=False)

    assert error.value.passing
    assert client.value("SELECT COUNT(*) FROM once") == 1


def test_expired_tokens_are_no_reason_to_end(emulator: Emulator, client: Client) -> None:
    client.run("CREATE TABLE expiring (n INT)")

    for _ in range(2):
        emulator.faults.expire_tokens("master")
        emulator.faults.expire_tokens("session")
        client.run("INSERT INTO expiring VALUES (1)", again=False)

    assert client.value("SELECT COUNT(*) FROM expiring") == 2


class Refusing:
    """A connection whose statements fail with these errors, one after another."""

    role = '"R"'

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.closed = 0
        self.made = 0

    def connect(self) -> Refusing:
        self.made += 1
        return self

    def cursor(self) -> Refusing:
        return self

    def execute(self, *_: Any, **__: Any) -> None:
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error

    rowcount = 1

    def close(self, retry: bool | None = None) -> None:
        self.closed += retry is not None


def refusal(errno: int, kind: str = "ProgrammingError") -> Exception:
    import snowflake.connector.errors

    made: Exception = getattr(snowflake.connector.errors, kind)(msg="no", errno=errno)
    return made


def attempt(*errors: Exception, again: bool = True) -> tuple[Refusing, ManualClock, bool]:
    fake, clock = Refusing(*errors), ManualClock()
    try:
        Client(fake.connect, clock=clock).run("INSERT INTO t VALUES (1)", again=again)
    except SnowflakeError:
        return fake, clock, False
    return fake, clock, True


def test_a_garbage_collector_makes_no_call_of_the_connector() -> None:
    # Within one that is under way such a call can end the process: CPython's ContextVar.set().
    fake, other = Refusing(), Refusing()
    backend = SnowflakeBackend()
    backend._clients[None, ""] = Client(fake.connect)
    backend._clients[None, ""].run("SELECT 1")
    backend.myself = backend  # type: ignore[attr-defined]
    del backend

    gc.collect()
    assert fake.closed == 0
    Client(other.connect).run("SELECT 1")
    assert (fake.closed, other.closed) == (1, 0)


@pytest.mark.parametrize("errno", [2003, 3001, 1003, 2002, 100072, 904])
def test_what_snowflake_says_no_to_is_not_tried_again(errno: int) -> None:
    fake, clock, done = attempt(refusal(errno))

    assert (done, clock.slept, fake.made) == (False, [], 1)


@pytest.mark.parametrize(
    "error",
    [refusal(250003, "OperationalError"), refusal(4, "OperationalError"), refusal(390114),
     refusal(290503, "OperationalError")],
)  # fmt: skip
def test_after_a_lost_connection_another_one_is_made(error: Exception) -> None:
    fake, clock, done = attempt(error)

    assert (done, len(clock.slept), fake.made, fake.closed) == (True, 1, 2, 1)


@pytest.mark.parametrize("errno", [625, 626, 627])
def test_a_lock_is_waited_for_on_the_same_connection(errno: int) -> None:
    fake, clock, done = attempt(refusal(errno), refusal(errno))

    assert (done, len(clock.slept), fake.made, fake.closed) == (True, 2, 1, 0)


def test_it_ends_with_the_last_error_and_pauses_grow() -> None:
    _, clock, done = attempt(*[refusal(250003, "OperationalError")] * 9)

    assert not done
    assert len(clock.slept) == TRIES - 1
    for i, slept in enumerate(clock.slept):
        assert 2**i <= slept <= 2 * 2**i


def test_a_session_that_had_ended_before_the_statement_began_is_no_repetition() -> None:
    fake, _, done = attempt(refusal(390114), again=False)
    assert (done, fake.made) == (True, 2)

    fake, clock, done = attempt(refusal(250003, "OperationalError"), again=False)
    assert (done, clock.slept) == (False, [])


# -- warnings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "python",
    [Path(sys.executable),
     pytest.param(CONNECTOR_4, marks=pytest.mark.skipif(
         not CONNECTOR_4.exists(), reason="no environment with connector 4.x"))],
    ids=["connector-5", "connector-4"],
)  # fmt: skip
def test_the_connector_warns_of_nothing_even_where_nobody_closes(
    emulator: Emulator, python: Path, tmp_path: Path
) -> None:
    write(tmp_path / "connections.toml", entry("work", emulator.connection_parameters()))
    program = """
        from flowdist.snowflake.connection import client_for
        client, other = client_for("work"), client_for("work")
        print(client.value("SELECT ?", ("well",)), other.value("SELECT 1"))
        del other
    """

    done = subprocess.run(
        [str(python), "-W", "always", "-c", textwrap.dedent(program)],
        env={**os.environ, "SNOWFLAKE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert done.stdout == "well 1\n", done.stderr
    assert "connection" not in done.stderr.lower()
