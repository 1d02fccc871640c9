"""Stages mounted in containers: real mounts, written to by real processes."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fuse_fixture import fuse as fuse

from flowdist.emulator.account import Account, Settings
from flowdist.emulator.errors import SqlError
from flowdist.emulator.session import Session

PLACE = ("FLOWDIST", "PUBLIC")
pytestmark = pytest.mark.usefixtures("fuse")


class Stage:
    """A stage of an account, and its mounts."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.session: Session = account.open_session(
            "FLOWDIST", "ACCOUNTADMIN", database="FLOWDIST", schema="PUBLIC"
        )
        account.execute(self.session, "CREATE STAGE IF NOT EXISTS s")

    def mount(self, viewer: str = "one", location: str = "@s", **options: Any) -> Path:
        return self.account.mounts.mount(viewer, location, session=PLACE, **options)

    def paths(self) -> list[str]:
        """What LIST shows."""
        return [row[0] for row in self.account.execute(self.session, "LIST @s").rows()]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    """Opens the account of a test, with settings."""
    accounts = []

    def make(**settings: Any) -> Stage:
        accounts.append(Account(tmp_path / "account", Settings(**settings)))
        return Stage(accounts[-1])

    yield make
    for account in accounts:
        account.close()


@pytest.fixture
def stage(make: Callable[..., Stage]) -> Stage:
    return make()


@pytest.fixture(scope="module")
def shared(fuse: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One for many tests."""
    account = Account(tmp_path_factory.mktemp("shared"))
    yield Stage(account)
    account.close()


def run(code: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, as in a container."""
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(words, text=True, capture_output=True, check=False, **options)


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


# -- what a volume allows


def test_a_file_is_on_the_stage_when_it_is_closed(stage: Stage) -> None:
    mount = stage.mount()

    with (mount / "a.bin").open("wb") as file:
        file.write(b"x" * 3_000_000)
        file.flush()
        assert stage.paths() == []
    assert stage.paths() == ["s/a.bin"]
    assert (mount / "a.bin").read_bytes() == b"x" * 3_000_000


def test_a_file_is_replaced_when_its_successor_is_closed(stage: Stage) -> None:
    one, other = stage.mount("one"), stage.mount("other")
    (one / "a").write_text("before")

    with (one / "a").open("w") as file:
        file.write("after")
        file.flush()
        assert (other / "a").read_text() == "before"
    assert (other / "a").read_text() == "after"


def test_arrow_and_parquet_files_are_written_and_read(stage: Stage) -> None:
    code = """if True:
        import sys, pyarrow as pa, pyarrow.ipc, pyarrow.parquet
        table = pa.table({"n": range(100_000)})
        with pa.OSFile(sys.argv[1] + "/t.arrow", "wb") as sink:
            with pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table, 1000)
        pyarrow.parquet.write_table(table, sys.argv[1] + "/t.parquet")
        with pa.memory_map(sys.argv[1] + "/t.arrow") as source:
            assert pa.ipc.open_file(source).read_all().equals(table)
        assert pyarrow.parquet.read_table(sys.argv[1] + "/t.parquet").equals(table)
    """
    done = run(code, stage.mount())
    assert done.returncode == 0, done.stderr
    assert stage.paths() == ["s/t.arrow", "s/t.parquet"]


def append(mount: Path) -> None:
    (mount / "old").open("a")


def append_to_new(mount: Path) -> None:
    (mount / "new").open("a")


def write_in_the_middle(mount: Path) -> None:
    with (mount / "old").open("r+b") as file:
        assert file.read() == b"old"
        file.seek(1)
        file.write(b"X")


def write_twice(mount: Path) -> None:
    with (mount / "new").open("wb") as file:
        file.write(b"12345")
        file.seek(2)
        file.write(b"X")


def leave_a_hole(mount: Path) -> None:
    with (mount / "new").open("wb") as file:
        file.seek(1000)
        file.write(b"X")


def read_what_is_written(mount: Path) -> None:
    with (mount / "new").open("w+b", buffering=0) as file:
        file.write(b"12345")
        file.seek(0)
        file.read()


@pytest.mark.parametrize(
    "attempt",
    [
        append,
        append_to_new,
        write_in_the_middle,
        write_twice,
        leave_a_hole,
        lambda mount: os.truncate(mount / "old", 1),
        lambda mount: (mount / "old").rename(mount / "new"),
        lambda mount: (mount / "directory").rename(mount / "new"),
        lambda mount: os.link(mount / "old", mount / "new"),
        lambda mount: os.symlink("old", mount / "new"),
        lambda mount: (mount / "old").chmod(0o777),
        lambda mount: os.chown(mount / "old", 12345, 12345),
        lambda mount: os.mkfifo(mount / "new"),
    ],
)
def test_what_a_store_of_objects_cannot_do_fails(
    shared: Stage, attempt: Callable[[Path], None]
) -> None:
    mount = shared.mount()
    (mount / "old").write_text("old")
    (mount / "directory").mkdir(exist_ok=True)

    with pytest.raises(OSError, match="not supported") as failed:
        attempt(mount)
    assert failed.value.errno == errno.EOPNOTSUPP
    wait_until(lambda: sorted(os.listdir(mount)) == ["directory", "old"])
    assert shared.paths() == ["s/old"]
    assert (mount / "old").read_text() == "old"


def test_what_is_being_written_cannot_be_read(stage: Stage) -> None:
    mount = stage.mount()

    with pytest.raises(OSError, match="not supported"):
        read_what_is_written(mount)
    with (mount / "a").open("wb") as file:
        file.write(b"1")
        file.flush()
        assert os.listdir(mount) == ["a", "new"] or os.listdir(mount) == ["new", "a"]
        with pytest.raises(OSError, match="busy") as failed:
            (mount / "a").read_bytes()
        assert failed.value.errno == errno.EBUSY


def test_common_tools_work(stage: Stage) -> None:
    mount = stage.mount()
    script = """
        set -e
        cd "$1"
        mkdir -p deep/er
        echo hello > deep/er/hello
        test "$(cat deep/er/hello)" = hello
        (echo one; echo two) > lines
        test "$(wc -l < lines)" = 2
        cp /etc/passwd copy; cp -p copy copy2; cmp copy /etc/passwd
        touch empty; test -f empty; test "$(cat empty)" = ""
        echo again > empty; test "$(cat empty)" = again
        : > lines; test ! -s lines
        rm -r deep copy2
        rmdir deep 2>/dev/null && exit 1
        ls
    """
    done = subprocess.run(
        ["bash", "-c", script, "-", str(mount)], text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["copy", "empty", "lines"]
    wait_until(lambda: stage.paths() == ["s/copy", "s/empty", "s/lines"])


def test_a_file_that_is_removed_while_it_is_open_is_gone(stage: Stage) -> None:
    mount = stage.mount()
    (mount / "a").write_text("read me")

    with (mount / "a").open() as reader, (mount / "b").open("w") as writer:
        writer.write("lost")
        writer.flush()
        (mount / "a").unlink()
        (mount / "b").unlink()
        writer.write("lost too")
        assert reader.read() == "read me"
    assert os.listdir(mount) == []
    assert stage.paths() == []


def test_a_read_only_volume_refuses_to_write(stage: Stage) -> None:
    (stage.mount("writer") / "a").write_text("a")
    mount = stage.mount("reader", writable=False)

    for attempt in (
        lambda: (mount / "b").write_text("b"),
        lambda: (mount / "a").write_text("b"),
        lambda: (mount / "a").unlink(),
        lambda: (mount / "d").mkdir(),
        lambda: (mount / "a").rename(mount / "b"),
        lambda: os.truncate(mount / "a", 0),
    ):
        with pytest.raises(OSError, match="Read-only"):
            attempt()
    assert (mount / "a").read_text() == "a"


# -- who sees what


def test_reading_gives_the_latest_and_an_open_file_stays_what_it_was(stage: Stage) -> None:
    mount, other = stage.mount(), stage.mount("other")
    (other / "a").write_bytes(b"1" * 500_000)

    with (mount / "a").open("rb", buffering=0) as old:
        assert old.read(10) == b"1" * 10
        (other / "a").write_bytes(b"2" * 700_000)
        with (mount / "a").open("rb", buffering=0) as new:
            assert new.read() == b"2" * 700_000
        assert old.read() == b"1" * (500_000 - 10)
    assert (mount / "a").read_bytes() == b"2" * 700_000


def test_a_directory_of_a_stage_is_mounted_alone(stage: Stage) -> None:
    mount = stage.mount("one", "@s/in/side/")
    assert os.listdir(mount) == []

    (mount / "a").write_text("a")
    assert stage.paths() == ["s/in/side/a"]
    assert os.listdir(stage.mount("two", "@flowdist.public.s")) == ["in"]
    stage.account.execute(stage.session, "REMOVE @s/in/")
    (mount / "b").write_text("b")
    assert stage.paths() == ["s/in/side/b"]


def test_a_directory_that_was_made_stays_when_it_is_empty(stage: Stage) -> None:
    mount = stage.mount()
    (mount / "out").mkdir()
    (mount / "out" / "a").write_text("a")
    stage.account.execute(stage.session, "REMOVE @s/out/")

    (mount / "out" / "b").write_text("b")
    assert stage.paths() == ["s/out/b"]


def test_a_file_cannot_be_mounted(stage: Stage) -> None:
    (stage.mount() / "a").write_text("a")

    with pytest.raises(SqlError, match="a stage volume is a directory"):
        stage.mount("two", "@s/a")
    with pytest.raises(SqlError, match=r"Stage 'FLOWDIST\.PUBLIC\.NONE' does not exist"):
        stage.mount("two", "@none")


def test_others_see_a_file_late(make: Callable[..., Stage]) -> None:
    stage = make(visibility_delay=3600)
    one, other = stage.mount("one"), stage.mount("other")
    stage.account.files.place(*_upload(stage, "a", b"old"))
    (one / "a").write_text("new")
    (one / "b").write_text("b")

    assert ((one / "a").read_text(), sorted(os.listdir(one))) == ("new", ["a", "b"])
    assert ((other / "a").read_text(), os.listdir(other)) == ("old", ["a"])
    assert stage.paths() == ["s/a"]
    (one / "b").unlink()
    assert os.listdir(one) == ["a"]
    store = stage.account.files.store(_object(stage))
    store.settle(time.time() + 3601)
    assert (other / "a").read_text() == "new"
    assert stage.paths() == ["s/a"]


def test_a_delay_ends(make: Callable[..., Stage]) -> None:
    stage = make(visibility_delay=0.1)
    (stage.mount("one") / "a").write_text("new")

    wait_until(lambda: stage.paths() == ["s/a"])
    wait_until(lambda: os.listdir(stage.mount("other")) == ["a"])


def test_a_file_that_is_hidden_is_not_there(stage: Stage) -> None:
    mount = stage.mount()
    for name in ("a", "b"):
        (mount / name).write_text(name)

    rule = stage.account.faults.add("hide", location="@s/a")
    assert os.listdir(mount) == ["b"]
    assert not (mount / "a").exists()
    with pytest.raises(FileNotFoundError):
        (mount / "a").read_text()
    assert stage.paths() == ["s/b"]
    stage.account.faults.remove(rule.id)
    assert (mount / "a").read_text() == "a"
    assert stage.paths() == ["s/a", "s/b"]


def test_a_file_that_was_hidden_for_a_while_comes_back_by_itself(stage: Stage) -> None:
    mount = stage.mount()
    (mount / "a").write_text("a")
    stage.account.faults.add("hide", location="@s/*", seconds=1.0)

    assert os.listdir(mount) == []
    wait_until((mount / "a").exists)
    assert stage.paths() == ["s/a"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for other users")
@pytest.mark.parametrize(("owner", "works"), [(1234, True), (0, False)])
def test_the_volume_says_whose_files_are(stage: Stage, owner: int, works: bool) -> None:
    mount = stage.mount(uid=owner, gid=owner)
    (mount / "a").write_text("a")
    assert ((mount / "a").stat().st_uid, mount.stat().st_gid) == (owner, owner)

    code = """if True:
        import os, sys
        os.chdir(sys.argv[1])  # the directories above are root's
        os.setgid(1234)
        os.setuid(1234)
        assert open("a").read() == "a"
        open("b", "w").write("b")
    """
    done = run(code, mount)
    assert ("PermissionError" not in done.stderr, (mount / "b").exists()) == (works, works)


# -- processes that end before their time


def test_nothing_is_left_of_a_file_whose_writer_was_killed(stage: Stage) -> None:
    code = """if True:
        import os, signal, sys
        file = open(sys.argv[1] + "/a", "wb", buffering=0)
        file.write(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    mount = stage.mount()
    assert run(code, mount).returncode == -signal.SIGKILL
    wait_until(lambda: os.listdir(mount) == [])
    assert stage.paths() == []


def test_a_child_that_inherits_a_file_does_not_close_it(stage: Stage) -> None:
    code = """if True:
        import os, subprocess, sys
        with open(sys.argv[1] + "/a", "wb", buffering=0) as file:
            file.write(b"first")
            subprocess.run(["true"])
            print(os.path.exists(sys.argv[2]))
            file.write(b" second")
    """
    directory = stage.account.files.directory(_object(stage))
    done = run(code, stage.mount(), directory / "a")
    assert (done.stdout, done.stderr) == ("False\n", "")
    assert (directory / "a").read_text() == "first second"


def test_what_is_synced_is_on_the_stage_and_more_can_follow(stage: Stage) -> None:
    mount = stage.mount()
    directory = stage.account.files.directory(_object(stage))

    with (mount / "a").open("wb", buffering=0) as file:
        file.write(b"first")
        os.fsync(file.fileno())
        assert (directory / "a").read_text() == "first"
        file.write(b" second")
        assert (directory / "a").read_text() == "first"
    assert (directory / "a").read_text() == "first second"


def test_mounts_survive_a_server_that_is_killed(tmp_path: Path, make: Callable[..., Stage]) -> None:
    code = """if True:
        import os, signal, sys, pathlib
        from flowdist.emulator.account import Account
        account = Account(pathlib.Path(sys.argv[1]))
        session = account.open_session("FLOWDIST", "ACCOUNTADMIN")
        account.execute(session, "CREATE STAGE flowdist.public.s")
        print(account.mounts.mount("one", "@s", session=("FLOWDIST", "PUBLIC")), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run(code, tmp_path / "account")
    assert done.returncode == -signal.SIGKILL, done.stderr
    mount = Path(done.stdout.strip())

    (mount / "a").write_text("nobody serves SQL now")
    stage = make()
    assert stage.paths() == ["s/a"]
    assert stage.mount("one") == mount
    assert stage.mount("two").joinpath("a").exists()
    serving = stage.account.mounts.process
    stage.account.mounts.close()
    assert serving is not None
    assert not mount.exists()
    assert stage.account.mounts.process is None


def test_a_process_that_was_killed_is_started_again(stage: Stage) -> None:
    mount = stage.mount()
    (mount / "a").write_text("a")
    assert stage.account.mounts.process is not None
    os.kill(stage.account.mounts.process, signal.SIGKILL)
    wait_until(lambda: stage.account.mounts.process is None)
    with pytest.raises(OSError, match="not connected"):
        (mount / "a").read_text()

    assert stage.mount() == mount
    assert (mount / "a").read_text() == "a"


def test_close_ends_mounts_with_open_files(stage: Stage) -> None:
    mount = stage.mount()
    (mount / "a").write_text("a")

    files = [os.open(mount / "a", os.O_RDONLY), os.open(mount / "b", os.O_WRONLY | os.O_CREAT)]
    stage.account.mounts.close()
    assert stage.account.mounts.process is None
    assert not mount.exists()
    for file in files:
        with contextlib.suppress(OSError):
            os.close(file)


def test_a_viewer_that_is_unmounted_sees_nothing(stage: Stage) -> None:
    one, other = stage.mount("DB.S.JOB/0"), stage.mount("DB.S.JOB/1")
    stage.account.mounts.unmount("DB.S.JOB/0")

    assert (one.exists(), other.exists()) == (False, True)


# -- without strict mode


def test_without_strict_mode_a_mount_is_the_directory_itself(make: Callable[..., Stage]) -> None:
    stage = make(strict_mounts=False)
    mount = stage.mount()

    (mount / "a").write_text("a")
    (mount / "a").rename(mount / "b")
    assert stage.account.mounts.kind == "plain"
    assert stage.paths() == ["s/b"]


def _object(stage: Stage) -> Any:
    return stage.account.files.locate("@s", PLACE)[0]


def _upload(stage: Stage, path: str, data: bytes) -> tuple[Any, Path, str]:
    upload = stage.account.files.store(_object(stage)).new_upload()
    upload.write_bytes(data)
    return _object(stage), upload, path
