"""Containers that podman runs: the same as processes do, with images of its own.

Needs root, podman and a static busybox, of which the image is made; what is missing is installed.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from debian import IN_CI, install
from emulator_server import served
from fuse_fixture import fuse as fuse

from flowdist.emulator.account import Account, Settings
from flowdist.emulator.compute import logs
from flowdist.emulator.compute.containers import (
    Bind,
    ContainerState,
    Launch,
    Status,
    runtime_of,
)
from flowdist.emulator.compute.podman import PodmanRuntime
from flowdist.emulator.errors import SqlError

IMAGE = f"localhost/flowdist-test:{os.getpid()}"
"""Of this process alone: several run tests at a time."""
WAIT = 120.0
TOOLS = ("sh", "cat", "echo", "env", "sleep", "true")


def _missing() -> list[str]:
    return [program for program in ("podman", "busybox") if shutil.which(program) is None]


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """An image with busybox only, whose entry point is a shell. Never skipped in CI."""
    if os.geteuid() == 0 and _missing():
        install("podman", "runc", "busybox-static")
    if os.geteuid() != 0 or _missing():
        why = "podman is tested as root, with podman and busybox-static installed"
        (pytest.fail if IN_CI else pytest.skip)(why)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.add(shutil.which("busybox") or "", "bin/busybox")
        for tool in TOOLS:
            link = tarfile.TarInfo(f"bin/{tool}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    changes = ('ENTRYPOINT ["/bin/sh","-c"]', 'CMD ["echo by default"]', "ENV WHERE=image")
    command = ["podman", "import", *[f"--change={change}" for change in changes], "-", IMAGE]
    subprocess.run(command, input=content.getvalue(), capture_output=True, check=True)
    yield IMAGE
    subprocess.run(["podman", "rmi", IMAGE], capture_output=True, check=False)


@pytest.fixture
def runtime(image: str, tmp_path: Path) -> Iterator[PodmanRuntime]:
    made = runtime_of(Settings(runtime="podman"))
    assert isinstance(made, PodmanRuntime)
    yield made
    made.forget(tmp_path / "box")


def _run(runtime: PodmanRuntime, launch: Launch) -> ContainerState:
    runtime.start(launch)
    return _end(runtime, launch.directory)


def _end(runtime: PodmanRuntime, directory: Path) -> ContainerState:
    until = time.monotonic() + WAIT
    while (state := runtime.state(directory)) is None or not state.status.ended:
        assert time.monotonic() < until, logs.read(directory)
        time.sleep(0.02)
    return state


def _says(directory: Path, text: str) -> None:
    until = time.monotonic() + WAIT
    while text not in _lines(directory):
        assert time.monotonic() < until
        time.sleep(0.02)


def _lines(directory: Path) -> list[str]:
    return [line.text for line in logs.read(directory)]


def _containers() -> str:
    done = subprocess.run(
        ["podman", "ps", "-a", "--format", "{{.Names}}"], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_a_container_of_an_image_runs(runtime: PodmanRuntime, image: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x").write_text("data\n")
    script = 'cat /stage/x; echo $WHERE; echo "$TEXT"; echo no > /stage/y || exit 3'
    launch = Launch(
        tmp_path / "box",
        "JOB-0-main",
        ("sh", "-c", script),
        image,
        env={"TEXT": "two\nlines"},
        binds=(Bind(tmp_path / "in", "/stage", writable=False),),
    )
    assert _run(runtime, launch).exit_code == 3
    assert _lines(tmp_path / "box")[:4] == ["data", "image", "two", "lines"]
    assert not (tmp_path / "in" / "y").exists()
    assert "job-0-main" not in _containers()


def test_what_the_image_runs_by_itself(runtime: PodmanRuntime, image: str, tmp_path: Path) -> None:
    assert _run(runtime, Launch(tmp_path / "box", "box", (), image)).exit_code == 0
    assert _lines(tmp_path / "box") == ["by default"]


def test_a_missing_command_is_127(runtime: PodmanRuntime, image: str, tmp_path: Path) -> None:
    state = _run(runtime, Launch(tmp_path / "box", "box", ("no-such",), image))
    assert (state.exit_code, state.reason) == (127, "StartError")


def test_stop_asks_first_and_kills_then(runtime: PodmanRuntime, image: str, tmp_path: Path) -> None:
    directory = tmp_path / "box"
    loop = "echo up; while true; do sleep 0.1; done"
    polite = ("sh", "-c", f"trap 'exit 7' TERM; {loop}")
    runtime.start(Launch(directory, "box", polite, image))
    _says(directory, "up")
    runtime.stop(directory, grace=WAIT)
    assert _end(runtime, directory).exit_code == 7
    deaf = ("sh", "-c", f"trap '' TERM; {loop}")
    runtime.start(Launch(directory, "box", deaf, image))
    _says(directory, "up")
    runtime.stop(directory, grace=0.2)
    state = _end(runtime, directory)
    assert (state.exit_code, state.reason) == (137, "Stopped")


def test_nothing_is_left_of_a_container_whose_shim_was_killed(
    runtime: PodmanRuntime, image: str, tmp_path: Path
) -> None:
    directory = tmp_path / "box"
    runtime.start(Launch(directory, "lost", ("sh", "-c", "echo up; sleep 1000"), image))
    _says(directory, "up")
    os.kill(json.loads((directory / "state.json").read_text())["shim"], signal.SIGKILL)
    assert _end(runtime, directory).status is Status.LOST
    assert "flowdist-lost" not in _containers()


def test_an_image_is_pushed_from_podmans_storage(
    runtime: PodmanRuntime, image: str, tmp_path: Path
) -> None:
    account = Account(tmp_path / "account", Settings(runtime="podman"))
    try:
        session = account.open_session("FLOWDIST", "FLOWDIST_ROLE")
        account.execute(session, "CREATE IMAGE REPOSITORY flowdist.public.images")
        path = "/flowdist/public/images/test:1"
        account.images.push(path, source=image)
        found = account.images.resolve(path, session)
        assert (found.source, found.architecture) == (image, "amd64")
        assert (found.entrypoint, found.cmd) == (("/bin/sh", "-c"), ("echo by default",))
        assert found.env["WHERE"] == "image"
        with pytest.raises(SqlError, match="podman has no image"):
            account.images.push(path, source="localhost/flowdist-test:none")
    finally:
        account.close()


def _podman(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["podman", *words], capture_output=True, check=False)


@pytest.fixture
def served_account(image: str, tmp_path: Path) -> Iterator[Account]:
    """A served account whose containers podman runs, with a repository."""
    account = Account(tmp_path / "account", Settings(runtime="podman"))
    _, end = served(account)
    session = account.open_session("FLOWDIST", "FLOWDIST_ROLE")
    account.execute(session, "CREATE IMAGE REPOSITORY flowdist.public.images")
    yield account
    end()
    account.close()


def test_a_job_runs_an_image_that_was_only_pushed_with_a_stage_mounted(
    served_account: Account, image: str, fuse: None, tmp_path: Path
) -> None:
    account = served_account
    session = account.open_session(
        "FLOWDIST", "FLOWDIST_ROLE", database="FLOWDIST", schema="PUBLIC"
    )
    path = "/flowdist/public/images/test:2"
    target = account.images.url(path)
    wrong = ("--tls-verify=false", "--creds", "flowdist:wrong")
    assert _podman("push", *wrong, image, target).returncode != 0
    right = ("--tls-verify=false", "--creds", f"flowdist:{account.password}")
    missing = account.images.url("/flowdist/public/none/test:2")
    assert b"does not exist" in _podman("push", *right, image, missing).stderr
    pushed = _podman("push", *right, image, target)
    assert pushed.returncode == 0, pushed.stderr
    found = account.images.resolve(path, session)
    assert (found.entrypoint, found.cmd) == (("/bin/sh", "-c"), ("echo by default",))
    assert (found.env["WHERE"], found.architecture) == ("image", "amd64")

    account.execute(session, "CREATE STAGE s")
    (tmp_path / "x").write_text("from the stage\n")
    stage, _ = account.files.locate("@s", session)
    account.files.place(stage, tmp_path / "x", "in/x")
    account.execute(
        session, "CREATE COMPUTE POOL p MIN_NODES=1 MAX_NODES=1 INSTANCE_FAMILY=CPU_X64_XS"
    )
    script = "cat /data/in/x > /data/out; echo $SNOWFLAKE_JOB_INDEX $WHERE; cat /memory/none"
    spec = {
        "containers": [
            {
                "name": "main",
                "image": path,
                "args": [script],
                "volumeMounts": [
                    {"name": "stage", "mountPath": "/data"},
                    {"name": "memory", "mountPath": "/memory"},
                ],
            }
        ],
        "volumes": [
            {"name": "stage", "source": "stage", "stageConfig": {"name": "@s"}},
            {"name": "memory", "source": "memory", "size": "1Mi"},
        ],
    }
    start = "EXECUTE JOB SERVICE IN COMPUTE POOL p NAME=j REPLICAS=1 FROM SPECIFICATION"
    with pytest.raises(SqlError, match="exited with code 1"):
        account.execute(session, f"{start} $${json.dumps({'spec': spec})}$$")
    (directory,) = account.directory.glob("services/*/0/main")
    assert _lines(directory) == [
        "0 image",
        "cat: can't open '/memory/none': No such file or directory",
    ]
    assert (account.files.directory(stage) / "out").read_text() == "from the stage\n"
    assert _podman("rmi", f"{target.rpartition(':')[0]}@{found.digest}").returncode == 0
