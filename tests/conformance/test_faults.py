"""Real processes killed with real signals mid-run: nothing is lost, nothing is double."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil
import pyarrow as pa
import pytest
from kinds import KINDS, Kind
from submitter import ROWS, make_flow

import flowdist
from flowdist import flow, param_grid, retry
from flowdist.run import Run

# Every wait in this file ends, whatever is broken.
PATIENCE = 60.0
SUBMITTER = Path(__file__).parent / "submitter.py"

T = TypeVar("T")

pytestmark = pytest.mark.fault


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    run = make_flow(KINDS[0], tmp_path_factory.mktemp("undisturbed")).submit().wait(PATIENCE)
    return run.collect("arrow")


def submit_elsewhere(kind: Kind, root: Path, **plan: object) -> tuple[subprocess.Popen[str], Run]:
    """A process that submits and waits, and the run as seen from this one."""
    process = subprocess.Popen(
        [sys.executable, SUBMITTER, kind.name, str(root), repr(plan)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, flowdist.attach(process.stdout.readline().strip(), root=root)


def kill(
    victim: str, kind: Kind, run: Run, submitter: subprocess.Popen[str], choose: random.Random
) -> None:
    """SIGKILL one process of the sort `victim`, if there is one."""
    if victim == "submitter":
        submitter.kill()
        return
    processes = kind.job_processes(run) if victim == "job" else kind.workers(run)
    if processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            choose.choice(processes).kill()


def finish(run: Run) -> Run:
    """Resume until every row has ended."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        status = run.wait(PATIENCE).status()
        if status.state == "done":
            return run
        run.resume()
    raise AssertionError(f"not done after {PATIENCE} s: {run.status()}")


@pytest.mark.parametrize(
    ("kind", "seed"),
    [(kind, seed) for kind in KINDS for seed in range(kind.rounds)],
    indirect=["kind"],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_after_kills_and_resume_the_table_is_that_of_an_undisturbed_run(
    kind: Kind, seed: int, tmp_path: Path, undisturbed: pa.Table
) -> None:
    choose = random.Random(seed)
    dispatch = choose.choice(kind.dispatches)
    submitter, run = submit_elsewhere(
        kind, tmp_path, dispatch=dispatch, rows_per_chunk=choose.choice([1, 50])
    )
    try:
        for _ in range(choose.randint(1, 3)):
            time.sleep(kind.delay * choose.uniform(0.05, 0.6))
            kill(
                choose.choice(["worker", "worker", "job", "submitter"]),
                kind,
                run,
                submitter,
                choose,
            )
            status = run.status()
            if status.ended and status.state != "done":
                run.resume()
        table = finish(run).collect("arrow")
    finally:
        submitter.kill()
        submitter.wait()
    assert table.equals(undisturbed)


def test_a_run_goes_on_when_its_submitter_is_killed(
    kind: Kind, tmp_path: Path, undisturbed: pa.Table
) -> None:
    submitter, run = submit_elsewhere(kind, tmp_path)
    submitter.kill()
    submitter.wait()

    table = flowdist.attach(run.id, root=tmp_path).wait(PATIENCE).collect("arrow")

    assert run.files.attempts() == [1]
    assert table.equals(undisturbed)


def test_workers_end_with_the_job_process(kind: Kind, tmp_path: Path) -> None:
    run = make_flow(kind, tmp_path).submit()
    workers = _workers(kind, run)

    for job in kind.job_processes(run):
        job.kill()

    _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
    assert workers
    assert alive == []
    # A scheduler knows that it was killed; without one it is gone without a word.
    assert run.wait(PATIENCE).status().state in ("lost", "failed")


def test_sigterm_commits_what_is_done_and_leaves_the_run_to_be_resumed(
    kind: Kind, tmp_path: Path, undisturbed: pa.Table
) -> None:
    run = make_flow(kind, tmp_path).submit()
    jobs = run.manifest["layout"]["jobs"]
    # Who is told to end before it has begun ends as any program does.
    while run.status().done < 100 or len(list(run.files.beats(1))) < jobs:
        time.sleep(0.05)

    for job in kind.job_processes(run):
        job.send_signal(signal.SIGTERM)
    status = run.wait(PATIENCE).status()

    assert status.state == "stopped"
    assert "SIGTERM" in status.reason
    assert 100 <= status.done < ROWS
    assert run.resume().wait(PATIENCE).collect("arrow").equals(undisturbed)


def test_a_killed_worker_costs_only_the_rows_it_was_running(kind: Kind, tmp_path: Path) -> None:
    def die_at(x: int) -> int:
        if x in (17, 1500):
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    run = flow(param_grid(x=range(ROWS))).stage("f", die_at)
    run = run.distribute(kind.plan(root=tmp_path)).submit().wait(PATIENCE)

    errors = run.errors()
    assert errors["row"].tolist() == [17, 1500]
    assert errors["type"].tolist() == ["WorkerDied", "WorkerDied"]
    assert "SIGKILL" in errors["message"][0]
    assert len(run.collect(errors="drop")) == ROWS - 2


@pytest.mark.parametrize(
    ("kind", "within"),
    [(kind, within) for kind in KINDS for within in kind.within],
    indirect=["kind"],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_row_over_its_timeout_is_ended_with_its_process_tree(
    kind: Kind, tmp_path: Path, within: str
) -> None:
    def sleep_in_a_child(x: int, nap: str) -> int:
        if x == 2:
            subprocess.run(["sleep", nap])
        return x

    # What nobody else sleeps for: containers share no files with this process, but the machine.
    nap = f"600.{uuid.uuid4().int % 10**12}"
    run = flow(param_grid(x=range(6)), const={"nap": nap})
    run = run.stage("f", sleep_in_a_child, timeout=1.0)
    run = run.distribute(kind.plan(within=within, root=tmp_path)).submit()
    assert _soon(lambda: _sleepers(nap))
    run.wait(PATIENCE)

    table = run.collect(errors="keep")
    assert table["_status"].tolist() == ["ok", "ok", "failed", "ok", "ok", "ok"]
    assert "StageTimeout" in table["_error"][2]
    assert _soon(lambda: not _sleepers(nap))


def test_a_worker_that_keeps_dying_is_retried_as_often_as_the_policy_says(
    kind: Kind, tmp_path: Path
) -> None:
    run = flow(param_grid(x=range(4)), retry=retry(2, on="crash"))
    run = run.stage("f", lambda x: os._exit(3) if x == 1 else x)
    run = run.distribute(kind.plan(root=tmp_path)).submit().wait(PATIENCE)

    (error,) = run.errors().to_dict("records")
    assert error["row"] == 1
    assert error["attempts"] == 3
    assert [cause["kind"] for cause in error["causes"]] == ["crash"] * 3
    assert "exited with code 3" in error["message"]


def _workers(kind: Kind, run: Run) -> list[psutil.Process]:
    return _soon(lambda: kind.workers(run)) or []


def _sleepers(nap: str) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["cmdline"] == ["sleep", nap]
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def _soon(find: Callable[[], T]) -> T | None:
    """What is found, once that is something; None where nothing is for long."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := find():
            return found
        time.sleep(0.05)
    return None
