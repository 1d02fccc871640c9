"""Rounds of random killing on a real cluster: whatever dies, nothing is lost and nothing doubled.

What a round does follows from its seed, which names it where it fails. Several rounds run at the
same time, since most of a round is waiting for SLURM.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pyarrow as pa
import pytest
from lab_support import (
    PATIENCE,
    SMALL,
    _no_job_is_left,  # noqa: F401
    finish,
    job_processes,
    no_row_was_kept_twice,
    queued,
    small_flow,
    submit,
    worker_processes,
)

from flowdist import Run, attach, local, slurm

if TYPE_CHECKING:
    from conftest import Lab

pytestmark = [pytest.mark.slow, pytest.mark.fault]

ROWS, SECONDS = 60, 0.15
TOGETHER = 6
# A claim of a job that was killed comes to others after so long.
LEASE = 5.0

SUBMITTER = """
import sys
sys.path.insert(0, sys.argv[1])
from test_kill_rounds_lab import Round, start
start(Round(int(sys.argv[2])), sys.argv[3])
"""


@dataclass(frozen=True)
class Round:
    """What follows from a seed: how the run is laid out, and who is killed when."""

    seed: int

    @property
    def plan(self) -> dict[str, Any]:
        choose = random.Random(self.seed)
        return {
            "dispatch": choose.choice(["static", "queue"]),
            "target_jobs": choose.choice([2, 3]),
            "workers": choose.choice([1, 2]),
            "rows_per_chunk": choose.choice([1, 4]),
        }

    @property
    def kills(self) -> list[tuple[str, float]]:
        """Who is killed, and after which share of the rows."""
        choose = random.Random(-1 - self.seed)
        victims = ["worker", "job", "requeue", "scancel", "submitter"]
        shares = sorted(choose.uniform(0, 0.7) for _ in range(choose.randint(1, 3)))
        return [(choose.choice(victims), share) for share in shares]


def start(of: Round, root: str) -> None:
    """Submit, say what the run is called, and stay."""
    import flowdist.submission

    flowdist.submission.LEASE_SECONDS = LEASE
    plan = slurm(**of.plan, **SMALL, root=root)
    run = submit(small_flow(ROWS, SECONDS), plan)
    print(run.id, flush=True)  # noqa: T201
    run.wait()


def play(of: Round, root: Path) -> Run:
    """One round, up to the end of the run."""
    command = [sys.executable, "-c", SUBMITTER, str(Path(__file__).parent), str(of.seed), str(root)]
    submitter = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert submitter.stdout is not None
        run = attach(submitter.stdout.readline().strip(), root=root)
        choose = random.Random(of.seed)
        for victim, share in of.kills:
            _until_rows(run, int(share * ROWS))
            if victim == "submitter":
                submitter.kill()
            else:
                VICTIMS[victim](run, choose)
        return finish(run)
    finally:
        submitter.kill()
        submitter.wait()


def _until_rows(run: Run, count: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        status = run.status()
        if status.ended and status.state != "done":
            run.resume()
        elif status.done >= count or status.ended:
            return
        time.sleep(0.1)
    raise AssertionError(f"not {count} rows within {PATIENCE:g} s: {run.explain()}")


def _kill(processes: list[psutil.Process], choose: random.Random) -> None:
    if processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            choose.choice(processes).kill()


def _tell(run: Run, choose: random.Random, *command: str) -> None:
    """Have SLURM do something to a task that runs; it may just have ended."""
    if tasks := sorted(queued(run, "running")):
        words = [*command, choose.choice(tasks)]
        subprocess.run(words, capture_output=True, timeout=60, check=False)


VICTIMS: dict[str, Callable[[Run, random.Random], None]] = {
    "worker": lambda run, choose: _kill(worker_processes(run), choose),
    "job": lambda run, choose: _kill(job_processes(run), choose),
    "requeue": lambda run, choose: _tell(run, choose, "scontrol", "requeue"),
    "scancel": lambda run, choose: _tell(run, choose, "scancel"),
}


def play_all(seeds: range, root: Path, expected: tuple[pa.Table, pa.Table]) -> None:
    """Rounds at the same time; fails with the seeds of those that went wrong."""
    wrong: list[str] = []

    def one(seed: int) -> None:
        of = Round(seed)
        try:
            run = play(of, root / str(seed))
            assert tables(run)[0].equals(expected[0]), "the rows differ"
            assert tables(run)[1].equals(expected[1]), "the groups differ"
            if of.plan["dispatch"] == "static":
                no_row_was_kept_twice(run)
        except Exception as error:
            wrong.append(f"seed {seed} ({of.plan}, {of.kills}): {error!r}")

    with ThreadPoolExecutor(len(seeds)) as pool:
        list(pool.map(one, seeds))
    assert not wrong, "\n".join(wrong)


def tables(run: Run) -> tuple[pa.Table, pa.Table]:
    """The rows and the groups; how often rows were tried, and how long they took, left out."""
    rows = run.collect("arrow", errors="keep").drop_columns(["_attempts", "_seconds"])
    return rows, run.table("total", "arrow")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, pa.Table]:
    root = tmp_path_factory.mktemp("undisturbed")
    run = submit(small_flow(ROWS, SECONDS), local(workers=4, root=root))
    return tables(run.wait(PATIENCE))


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize("first", range(0, 12, TOGETHER))
def test_whatever_is_killed_the_tables_are_those_of_an_undisturbed_run(
    first: int, tmp_path: Path, undisturbed: tuple[pa.Table, pa.Table]
) -> None:
    play_all(range(first, first + TOGETHER), tmp_path, undisturbed)


@pytest.mark.parametrize("first", [100])
def test_also_when_whole_nodes_die(
    first: int, lab_alone: Lab, tmp_path: Path, undisturbed: tuple[pa.Table, pa.Table]
) -> None:
    over = threading.Event()

    def weather() -> None:
        """A node after another loses its power for a while."""
        choose = random.Random(first)
        while not over.wait(choose.uniform(2, 4)):
            node = choose.choice(lab_alone.nodes)
            lab_alone.down(node, noticed=choose.random() < 0.5)
            over.wait(choose.uniform(0, 2))
            lab_alone.up(node)

    storm = threading.Thread(target=weather)
    storm.start()
    try:
        play_all(range(first, first + TOGETHER), tmp_path, undisturbed)
    finally:
        over.set()
        storm.join(PATIENCE)
