"""`flowdist emulator`, with real servers."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from flowdist.cli import cli
from flowdist.emulator import Emulator, client, connections
from flowdist.emulator.place import Place
from flowdist.errors import UsageError

PARAMETERS = {"account": "EMULATOR", "user": "FLOWDIST", "password": 'a"b', "port": 4000}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to work in, and a home without Snowflake's files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("SNOWFLAKE_HOME", "XDG_CONFIG_HOME", "FLOWDIST_EMULATOR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home" / ".snowflake").mkdir(parents=True)
    return tmp_path / "home"


def emulator(*arguments: str, code: int = 0, **options: Any) -> Result:
    """Run the command in this process; it has to end with the exit code."""
    result = CliRunner().invoke(cli, ["emulator", *arguments], catch_exceptions=False, **options)
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """One that was started by the command, and what that printed; it is left as it is."""
    directory = tmp_path_factory.mktemp("shared") / "emulator"
    yield json.loads(emulator("start", "--json", "--directory", str(directory)).stdout)
    Emulator.attach(directory).stop()


@pytest.fixture
def started(shared: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The same, as the one that commands find."""
    monkeypatch.setenv("FLOWDIST_EMULATOR", shared["directory"])
    return shared


# -- one that runs


def test_start_prints_what_connects(started: dict[str, Any]) -> None:
    import snowflake.connector

    with snowflake.connector.connect(**started["connection"]) as connection:
        assert connection.role == "FLOWDIST_ROLE"


def test_starting_twice_is_friendly(started: dict[str, Any]) -> None:
    shown = emulator("start").stdout

    assert f"The emulator runs already, at {started['url']} (process {started['pid']})." in shown
    assert f'Emulator.attach("{started["directory"]}").connect()' in shown
    assert f"export SNOWFLAKE_PORT={started['connection']['port']}" in shown
    assert started["page"] in shown
    assert "It keeps its settings" not in shown


def test_what_start_prints_is_ready_to_paste(started: dict[str, Any]) -> None:
    shown = emulator("start").stdout
    block = shown.partition("Python, without flowdist:\n")[2].partition("\n\n")[0]
    code = "\n".join(line.removeprefix("  ") for line in block.splitlines())
    toml = shown.partition("connections.toml, as for snow -c emulator:\n")[2]

    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nprint(connection.role)"], capture_output=True, text=True
    )

    assert done.stdout == "FLOWDIST_ROLE\n", done.stderr
    assert tomllib.loads(toml) == {"emulator": started["connection"]}


def test_status_says_what_is_in_it(started: dict[str, Any]) -> None:
    shown = emulator("status").stdout
    found = json.loads(emulator("status", "--json").stdout)

    assert started["url"] in shown
    assert started["directory"] in shown
    assert found["running"] is True
    assert found["pid"] == started["pid"]
    assert {"pools", "services", "tasks", "stages", "sessions", "uptime", "port"} <= set(found)


def test_logs_are_those_of_the_server(started: dict[str, Any]) -> None:
    assert started["url"] in emulator("logs").stdout
    assert emulator("logs", "-n", "0").stdout == ""


def test_push_registers_an_image(started: dict[str, Any]) -> None:
    with Emulator.attach(started["directory"]).connect() as connection:
        connection.cursor().execute("CREATE IMAGE REPOSITORY IF NOT EXISTS images")
        pushed = emulator(
            "push", "/flowdist/public/images/sh:1", "--entrypoint", "sh -e", "--env", "A=b"
        )
        shown = connection.cursor().execute("SHOW IMAGES IN IMAGE REPOSITORY images").fetchall()

    assert "Pushed /flowdist/public/images/sh:1" in pushed.stdout
    assert "sh" in str(shown)
    assert "NAME=VALUE is wanted" in emulator("push", "/x/y/z/w:1", "--env", "A", code=2).stderr


def test_push_takes_what_podman_calls_the_image(started: dict[str, Any]) -> None:
    with Emulator.attach(started["directory"]).connect() as connection:
        connection.cursor().execute("CREATE IMAGE REPOSITORY IF NOT EXISTS images")
    real = ("push", "/flowdist/public/images/real:1", "--json", "--source")
    first, same, other = (emulator(*real, name).stdout for name in ("sh:1", "sh:1", "sh:2"))

    assert first == same
    assert first != other


def test_reset_refuses_what_runs(started: dict[str, Any]) -> None:
    assert "--force" in emulator("reset", "--yes", code=2).stderr
    emulator("reset", "--force", input="n\n", code=1)

    assert Place(Path(started["directory"])).running


# -- one that does not


def test_status_of_none_is_code_3() -> None:
    result = emulator("status", "--json", code=3)

    assert json.loads(result.stdout)["running"] is False
    assert "flowdist emulator start starts one" in result.stderr


def test_a_mistake_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    error = emulator("start", "--directory", str(tmp_path), code=2).stderr

    assert "files in it that are not an emulator's" in error
    assert "Traceback" not in error
    assert "there is no emulator in" in emulator("stop", code=2).stderr


def test_what_is_not_installed_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "NEEDED", ("no_such_library",))

    error = emulator("start", "--directory", str(tmp_path / "new"), code=2).stderr

    assert "needs no_such_library: pip install 'flowdist[emulator]'" in error
    assert not (tmp_path / "new").exists()


def test_a_port_that_is_taken_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        error = emulator("start", "--port", port, code=2).stderr

    assert f"port {port} cannot be had" in error
    assert "Traceback" not in error


def test_reset_does_not_touch_what_is_no_emulator(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("...")

    emulator("reset", "--yes", "--directory", str(tmp_path), code=2)

    assert (tmp_path / "thesis.tex").exists()


# -- from the start to the end


@pytest.mark.fault
def test_the_life_of_one(tmp_path: Path) -> None:
    directory = tmp_path / ".flowdist" / "emulator"
    assert "its state is in .flowdist/emulator" in emulator("start").stdout
    first = Emulator.attach(directory)
    try:
        parameters = first.connection_parameters()
        assert "It keeps its settings" in emulator("start", "--node-start", "5").stdout
        follow = subprocess.Popen(
            [sys.executable, "-m", "flowdist.cli", "emulator", "logs", "-f"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert follow.stdout is not None
        assert first.url in follow.stdout.readline()

        assert "Stopped; its state is in .flowdist/emulator" in emulator("stop").stdout
        rest, _ = follow.communicate(timeout=60)
        assert rest.rstrip().endswith("ended")
        assert "It was not running." in emulator("stop").stdout
        emulator("status", code=3)

        again = json.loads(emulator("start", "--json").stdout)
        assert again["connection"] == parameters
        emulator("reset", "--force", "--yes")
        assert not directory.exists()
    finally:
        first.stop()


# -- connections


def test_a_connection_is_written_only_when_asked_for(started: dict[str, Any], home: Path) -> None:
    path = home / ".snowflake" / "connections.toml"
    assert not path.exists()

    emulator("start", "--write-connection", "local")

    assert tomllib.loads(path.read_text()) == {"local": started["connection"]}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_connection_is_added_to_those_that_there_are(home: Path) -> None:
    path = home / ".snowflake" / "connections.toml"
    before = '# mine\n[work]\naccount = "a"   # here\n\n[work.session]\nx = 1\n'
    path.write_text(before)

    connections.write("local", PARAMETERS)

    assert path.read_text().startswith(before)
    assert tomllib.loads(path.read_text())["local"] == PARAMETERS


def test_a_connection_is_replaced_by_force_only(home: Path) -> None:
    path = home / ".snowflake" / "connections.toml"
    path.write_text('[local]\naccount = "real"\n\n[work]\naccount = "a"\n')

    with pytest.raises(UsageError, match="has a connection 'local' already; --force"):
        connections.write("local", PARAMETERS)
    connections.write("local", PARAMETERS, force=True)
    connections.write("local", PARAMETERS)

    assert tomllib.loads(path.read_text()) == {"work": {"account": "a"}, "local": PARAMETERS}


def test_a_file_that_cannot_be_changed_safely_is_left_alone(home: Path) -> None:
    path = home / ".snowflake" / "connections.toml"
    text = 'local = {account = "real"}\n'
    path.write_text(text)

    with pytest.raises(UsageError, match="by hand"):
        connections.write("local", PARAMETERS, force=True)

    assert path.read_text() == text


def test_connections_in_config_toml_stay_in_force(home: Path) -> None:
    # Where there is a connections.toml, clients overlook those.
    config = home / ".snowflake" / "config.toml"
    config.write_text('default_connection_name = "work"\n[connections.work]\naccount = "a"\n')

    assert connections.write("local", PARAMETERS) == config

    found = tomllib.loads(config.read_text())["connections"]
    assert found == {"work": {"account": "a"}, "local": PARAMETERS}
    assert not (home / ".snowflake" / "connections.toml").exists()


def test_without_a_directory_of_its_own_it_is_the_one_of_the_system(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ".snowflake").rmdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setattr(sys, "platform", "linux")

    assert connections.write("local", PARAMETERS) == home / "config/snowflake/connections.toml"
