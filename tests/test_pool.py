"""The pool of worker processes: real ones, that are killed, fork, and leave things behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from flowdist import flow, local, param_grid
from flowdist.machine import Cgroup
from flowdist.submission import write_run
from flowdist.workers.pool import Event, Interrupted, Lost, Pool, Results, Task
from flowdist.workers.process import WorkerSetup

PATIENCE = 60.0


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pools put what is temporary."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@contextmanager
def pool_of(root: Path, fn: Callable[..., Any], rows: int = 1, **how: Any) -> Iterator[Pool]:
    files = write_run(
        flow(param_grid(x=range(rows))).stage("f", fn).distribute(local(root=root)), "r"
    )
    pool = Pool(WorkerSetup(str(files.directory), "rows", 1), processes=1, stages=["f"], **how)
    try:
        yield pool
    finally:
        pool.close()


def next_events(pool: Pool) -> list[Event]:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if events := pool.poll(0.1):
            return events
    raise AssertionError("nothing happens")


@pytest.mark.fault
def test_a_process_that_a_row_left_behind_does_not_hold_the_pool_up(tmp_path: Path) -> None:
    pids = tmp_path / "pid"

    def leave_one_behind(x: int) -> bytes:
        if os.fork() == 0:
            os.setsid()  # out of the worker's group, and below, of its children
            if os.fork() == 0:
                pids.write_text(str(os.getpid()))
                time.sleep(PATIENCE / 4)
                pids.unlink()
            os._exit(0)
        os.wait()
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return b"more than a pipe holds" * 100_000

    with pool_of(tmp_path, leave_one_behind) as pool:
        pool.give(Task(0, 1))
        worker = pool._slots[0].process
        assert worker is not None
        while worker.is_alive():  # it dies in the middle of its message, which nobody reads
            time.sleep(0.02)

        (event,) = next_events(pool)

        assert isinstance(event, Interrupted | Lost)
        os.kill(int(pids.read_text()), signal.SIGKILL)  # its end was not waited for


@pytest.mark.fault
def test_the_scratch_directory_of_a_killed_row_is_removed(tmp_path: Path, temporary: Path) -> None:
    def fill(x: int, ctx: Any) -> int:
        (ctx.scratch / "large").write_text("...")
        if x == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    with pool_of(tmp_path, fill, rows=2) as pool:
        pool.give(Task(0, 1))
        (lost,) = next_events(pool)
        left = list(pool.scratch.iterdir())
        pool.give(Task(1, 2))
        (done,) = next_events(pool)

    assert isinstance(lost, Lost)
    assert left == []
    assert isinstance(done, Results)
    assert list(temporary.iterdir()) == []


HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_pool import pool_of, Task
def fill(x, ctx):
    (ctx.scratch / "large").write_text("...")
    time.sleep(60)
with pool_of(Path(sys.argv[2]), fill) as pool:
    pool.give(Task(0, 1))
    while True:
        pool.poll(1.0)
"""


@pytest.mark.fault
def test_nothing_temporary_is_left_when_the_job_process_is_killed(
    tmp_path: Path, temporary: Path
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(Path(__file__).parent), str(tmp_path)],
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    deadline = time.monotonic() + PATIENCE
    while not list(temporary.glob("*/*/large")) and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = psutil.Process(holder.pid).children()

    holder.kill()
    holder.wait()

    assert len(workers) == 1
    assert psutil.wait_procs(workers, timeout=PATIENCE)[1] == []
    assert list(temporary.iterdir()) == []


@pytest.mark.fault
@pytest.mark.parametrize(("counted", "kind"), [("oom_kill 1", "memory"), ("oom_kill 0", "crash")])
def test_a_worker_that_was_killed_for_its_memory_is_told_from_one_that_crashed(
    tmp_path: Path, counted: str, kind: str
) -> None:
    (tmp_path / "mount").mkdir()
    (tmp_path / "self").write_text("0::/\n")
    events = tmp_path / "mount" / "memory.events"
    events.write_text("oom_kill 0\n")
    cgroup = Cgroup(mount=tmp_path / "mount", membership=tmp_path / "self")

    def killed(x: int) -> None:
        events.write_text(f"{counted}\n")  # as the kernel does
        os.kill(os.getpid(), signal.SIGKILL)

    with pool_of(tmp_path, killed, cgroup=cgroup) as pool:
        pool.give(Task(0, 1))
        (lost,) = next_events(pool)

    assert isinstance(lost, Lost)
    assert lost.causes[-1].kind == kind
