"""Containers as processes: what they see, how they end, and what survives whom."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flowdist.emulator.compute import logs
from flowdist.emulator.compute.containers import Bind, ContainerState, Launch, Status
from flowdist.emulator.compute.processes import ProcessRuntime, isolation

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="containers need Linux")
WAIT = 60.0
UNTIL_GO = "until test -e ${TMPDIR:-/tmp}/go; do sleep 0.01; done"


class Box:
    """One container at a time in a directory, and what it said."""

    def __init__(self, runtime: ProcessRuntime, directory: Path) -> None:
        self.runtime = runtime
        self.directory = directory

    def start(self, *command: str, **rest: object) -> None:
        self.runtime.start(Launch(self.directory, "box", command, **rest))  # type: ignore[arg-type]

    def run(self, *command: str, **rest: object) -> ContainerState:
        self.start(*command, **rest)
        return self.end()

    def state(self) -> ContainerState:
        found = self.runtime.state(self.directory)
        assert found is not None
        return found

    def end(self) -> ContainerState:
        self.wait(lambda: self.state().status.ended)
        return self.state()

    def says(self, text: str) -> None:
        """Wait until the container runs and has printed a line."""
        self.wait(lambda: text in self.lines())
        self.wait(lambda: self.state().status is not Status.STARTING)

    def go(self) -> None:
        """What a command waits for by UNTIL_GO."""
        (self.directory / "tmp" / "go").touch()

    def lines(self) -> list[str]:
        return [line.text for line in logs.read(self.directory)]

    def wait(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + WAIT
        while not condition():
            assert time.monotonic() < until, (self.state(), self.lines())
            time.sleep(0.005)


WHY_PLAIN = isolation() if sys.platform == "linux" else "no Linux"
NAMESPACES = pytest.mark.skipif(bool(WHY_PLAIN), reason=f"no namespaces here: {WHY_PLAIN}")


@pytest.fixture(
    params=[pytest.param(True, marks=NAMESPACES, id="namespaces"), pytest.param(False, id="plain")]
)
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Box]:
    """A container, with namespaces and without."""
    made = Box(ProcessRuntime(isolated=request.param), tmp_path / "box")
    yield made
    made.runtime.forget(made.directory)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Box]:
    """A container with namespaces; the tests that have it are skipped where there are none."""
    if WHY_PLAIN:
        pytest.skip(f"no namespaces here: {WHY_PLAIN}")
    made = Box(ProcessRuntime(isolated=True), tmp_path / "box")
    yield made
    made.runtime.forget(made.directory)


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


# -- running


def test_the_command_runs_with_its_environment_and_its_exit_code_is_kept(box: Box) -> None:
    state = box.run("sh", "-c", "echo $GREETING; echo no >&2; exit 3", env={"GREETING": "hello"})
    assert (state.status, state.exit_code, state.reason) == (Status.EXITED, 3, "")
    assert state.started is not None
    assert state.ended is not None
    assert state.started <= state.ended
    assert [(line.stream, line.text) for line in logs.read(box.directory)] == [
        ("stdout", "hello"),
        ("stderr", "no"),
    ]


def test_the_environment_of_the_server_stays_outside(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNOWFLAKE_PASSWORD", "of the server")
    box.run("env")
    assert not any("SNOWFLAKE_PASSWORD" in line for line in box.lines())
    assert any(line.startswith("PATH=") for line in box.lines())


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("no-such-command", 127, "no-such-command: command not found"),
        ("/etc", 126, "/etc: Permission denied"),
    ],
)
def test_a_command_that_cannot_run_gives_a_shells_exit_code(
    box: Box, command: str, code: int, message: str
) -> None:
    state = box.run(command)
    assert (state.exit_code, state.reason, state.message) == (code, "StartError", message)


def test_a_user_by_name_is_refused_with_a_reason(own: Box) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    state = own.run("true", user="app")
    assert (state.exit_code, state.reason) == (125, "StartError")
    assert "user app of the image" in state.message


def test_a_signal_is_an_exit_code_above_128(box: Box) -> None:
    assert box.run("sh", "-c", "kill -ABRT $$").exit_code == 128 + signal.SIGABRT


def test_the_python_of_the_machine_works_inside(box: Box) -> None:
    state = box.run(sys.executable, "-c", "import psutil, os; print(psutil.Process().pid)")
    assert state.exit_code == 0, box.lines()


def test_what_is_left_running_ends_with_the_command(box: Box) -> None:
    box.start("sh", "-c", f"setsid sleep 1000 & echo left; {UNTIL_GO}")
    box.says("left")
    command = box.state().pid or 0
    box.wait(lambda: any(b"sleep\x001000" in _command_line(p) for p in _below(command)))
    left = [p for p in _below(command) if b"sleep\x001000" in _command_line(p)]
    box.go()
    assert box.end().exit_code == 0
    assert all(_gone(pid) for pid in left)


def _below(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        children = Path(f"/proc/{parent}/task/{parent}/children")
        found += [int(p) for p in children.read_text().split()] if children.exists() else []
    return found


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_container_starts_again_where_it_has_ended_and_the_earlier_log_is_kept(box: Box) -> None:
    box.run("echo", "first")
    box.run("echo", "second")
    assert box.lines() == ["second"]
    assert [line.text for line in logs.read(box.directory, previous=True)] == ["first"]


def test_two_containers_do_not_run_in_one_directory(box: Box) -> None:
    box.start("sleep", "1000")
    with pytest.raises(ValueError, match="has not ended"):
        box.start("true")


def test_only_the_owner_reads_what_a_container_is_started_with(box: Box) -> None:
    box.run("true", env={"PASSWORD": "x"})
    assert stat.S_IMODE((box.directory / "launch.json").stat().st_mode) == 0o600


def test_a_launch_is_the_same_after_json(tmp_path: Path) -> None:
    launch = Launch(
        tmp_path, "n", ("a", "b"), env={"A": "1"}, binds=(Bind(tmp_path, "/x", False),), cpus=0.5
    )
    assert Launch.from_json(json.loads(json.dumps(launch.to_json()))) == launch


# -- what it sees


def test_binds_are_at_the_paths_of_the_specification(box: Box, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "x").write_text("data")
    state = box.run(
        "sh",
        "-c",
        "cp /stage/in/x /usr/share/made-up/deep/out/y; cp $FROM/x /usr/share/made-up/deep/out/z",
        env={"FROM": "/stage/in"},
        binds=(
            Bind(tmp_path / "in", "/stage/in", writable=False),
            Bind(tmp_path / "out", "/usr/share/made-up/deep/out"),
        ),
    )
    assert state.exit_code == 0, box.lines()
    assert (tmp_path / "out" / "y").read_text() == (tmp_path / "out" / "z").read_text() == "data"
    assert not Path("/stage").exists()
    assert not Path("/usr/share/made-up").exists()


def test_a_read_only_bind_refuses_writes(own: Box, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    own.run("sh", "-c", "echo x > /data/f", binds=(Bind(tmp_path / "in", "/data", False),))
    assert "Read-only file system" in own.lines()[0]
    assert not (tmp_path / "in" / "f").exists()


def test_a_bound_directory_shows_files_that_come_and_are_replaced_later(
    own: Box, tmp_path: Path
) -> None:
    session = tmp_path / "session"
    session.mkdir()
    (session / "token").write_text("one\n")
    own.start(
        "sh",
        "-c",
        "until grep two /snowflake/session/token; do sleep 0.01; done",
        binds=(Bind(session, "/snowflake/session", False),),
    )
    (session / "new").write_text("two\n")
    (session / "new").replace(session / "token")
    assert own.end().exit_code == 0


def test_a_container_has_its_own_tmp_processes_and_root(own: Box, tmp_path: Path) -> None:
    mark = Path("/tmp") / f"flowdist-test-{os.getpid()}"
    own.run("sh", "-c", f"echo $$; echo x > {mark}; ls /tmp; mkdir /at-the-root; pwd")
    assert own.lines() == ["2", mark.name, "/"]
    assert not mark.exists()
    assert not Path("/at-the-root").exists()


def test_a_program_below_tmp_is_still_found(own: Box) -> None:
    place = Path("/tmp") / f"flowdist-test-{os.getpid()}"
    place.mkdir()
    try:
        (place / "tool").write_text("#!/bin/sh\necho ran\n")
        (place / "tool").chmod(0o755)
        own.run("tool", env={"PATH": f"{place}:{os.environ['PATH']}"})
        assert own.lines() == ["ran"]
    finally:
        (place / "tool").unlink()
        place.rmdir()


def test_the_working_directory_is_made(own: Box) -> None:
    own.run("pwd", working_directory="/app/made-up")
    assert own.lines() == ["/app/made-up"]


def test_another_user_is_taken(own: Box) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    script = "id -u; id -g; touch /tmp/mine && echo written"
    state = own.run("sh", "-c", script, user="65532:65533")
    assert state.exit_code == 0, state
    assert own.lines() == ["65532", "65533", "written"]


# -- limits


def test_a_volume_of_memory_has_its_size(own: Box, tmp_path: Path) -> None:
    script = "head -c 500000 /dev/zero > /cache/a && echo fits; head -c 900000 /dev/zero > /cache/b"
    own.run("sh", "-c", script, binds=(Bind(tmp_path, "/cache", memory=1_000_000),))
    assert own.lines()[0] == "fits"
    assert "No space left" in own.lines()[1]
    assert not (tmp_path / "a").exists()


def test_what_is_in_a_volume_of_memory_counts_as_the_containers_memory(
    own: Box, tmp_path: Path
) -> None:
    script = "head -c 80000000 /dev/zero > /cache/a; sleep 60"
    bind = Bind(tmp_path, "/cache", memory=100_000_000)
    state = own.run("sh", "-c", script, binds=(bind,), memory_bytes=60_000_000)
    assert state.reason == "OOMKilled"


def test_more_memory_than_allowed_ends_the_container(box: Box) -> None:
    script = "import time; x = b'x' * 300_000_000; time.sleep(60)"
    state = box.run(sys.executable, "-c", script, memory_bytes=100_000_000)
    assert (state.exit_code, state.reason) == (137, "OOMKilled")
    assert "100000000 bytes" in state.message


def test_pages_that_forks_share_count_once(box: Box) -> None:
    script = (
        "import os, time\nx = bytearray(b'x') * 60_000_000\n"
        "for _ in range(4):\n  if os.fork() == 0: time.sleep(1); os._exit(0)\n"
        "for _ in range(4): os.wait()\n"
    )
    state = box.run(sys.executable, "-c", script, memory_bytes=150_000_000)
    assert (state.exit_code, state.reason) == (0, "")


# -- stopping


TRAP = "trap 'echo stopping; sleep 0.2; exit 7' TERM; echo up; while :; do sleep 0.05; done"
DEAF = "trap '' TERM; echo up; while :; do sleep 0.05; done"


def test_stop_asks_with_sigterm_and_takes_the_exit_code(box: Box) -> None:
    box.start("sh", "-c", TRAP)
    box.says("up")
    box.runtime.stop(box.directory, grace=WAIT)
    state = box.end()
    assert (state.exit_code, state.reason) == (7, "Stopped")
    assert box.lines() == ["up", "stopping"]


def test_stop_leaves_time_to_what_the_command_has_started(box: Box) -> None:
    box.start("sh", "-c", "(sleep 0.3; echo finished) & echo up; wait")
    box.says("up")
    box.runtime.stop(box.directory, grace=WAIT)
    state = box.end()
    assert (state.exit_code, state.reason) == (143, "Stopped")
    assert box.lines() == ["up", "finished"]


def test_after_the_grace_comes_sigkill(box: Box) -> None:
    box.start("sh", "-c", DEAF)
    box.says("up")
    box.runtime.stop(box.directory, grace=0.2)
    state = box.end()
    assert (state.exit_code, state.reason) == (137, "Stopped")


def test_kill_cuts_the_grace_of_a_stop_short(box: Box) -> None:
    box.start("sh", "-c", DEAF)
    box.says("up")
    box.runtime.stop(box.directory, grace=1000)
    box.runtime.kill(box.directory)
    assert box.end().exit_code == 137


def test_a_container_that_is_stopped_at_once_ends(box: Box) -> None:
    box.start("sleep", "1000")
    box.runtime.stop(box.directory, grace=0.5)
    assert box.end().reason == "Stopped"


def test_stopping_what_has_ended_changes_nothing(box: Box) -> None:
    before = box.run("true")
    box.runtime.stop(box.directory)
    assert box.state() == before


def test_a_container_that_was_forgotten_is_gone(box: Box) -> None:
    box.start("sh", "-c", DEAF)
    box.says("up")
    pid = box.state().pid or 0
    box.runtime.forget(box.directory)
    assert not box.directory.exists()
    assert box.runtime.state(box.directory) is None
    box_gone = time.monotonic() + WAIT
    while not _gone(pid):
        assert time.monotonic() < box_gone


# -- deaths


STARTER = """
import sys, time
from pathlib import Path
from flowdist.emulator.compute.containers import Launch
from flowdist.emulator.compute.processes import ProcessRuntime
runtime = ProcessRuntime(isolated=sys.argv[2] == "True")
runtime.start(Launch(Path(sys.argv[1]), "box", ("sh", "-c", sys.argv[3])))
print("started", flush=True)
time.sleep(1000)
"""


def test_a_container_and_its_exit_code_survive_the_server(box: Box) -> None:
    server = subprocess.Popen(
        [
            sys.executable,
            "-c",
            STARTER,
            box.directory,
            str(box.runtime.isolated),
            f"echo up; {UNTIL_GO}; exit 9",
        ],
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"started\n"
    box.says("up")
    server.kill()
    server.wait()
    server.stdout.close()
    assert box.state().status is Status.RUNNING
    box.go()
    assert box.end().exit_code == 9


def test_when_the_shim_is_killed_nothing_of_the_container_lives_on(box: Box) -> None:
    box.start("sh", "-c", "setsid sleep 1000 & setsid sh -c 'sleep 1001 & wait' & echo up; wait")
    box.says("up")
    command = box.state().pid or 0
    box.wait(lambda: len(_below(command)) >= 4)
    processes = _below(command)
    shim = json.loads((box.directory / "state.json").read_text())["shim"]
    os.kill(shim, signal.SIGKILL)
    state = box.end()
    assert (state.status, state.exit_code, state.reason) == (Status.LOST, 137, "Lost")
    box.wait(lambda: all(_gone(pid) for pid in processes))
    assert box.state() == state


def test_what_a_killed_server_has_only_announced_is_lost(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.directory.mkdir()
    (box.directory / "launch.json").write_text("{}")
    assert box.state().status is Status.STARTING
    os.utime(box.directory / "launch.json", (0, 0))
    assert box.state().status is Status.LOST


def test_nothing_is_known_of_what_was_never_started(box: Box) -> None:
    assert box.runtime.state(box.directory) is None
