"""What tests on a real cluster share: small flows, waits that end, ways to look and meddle."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pyarrow as pa
import pytest

from flowdist import Flow, Plan, Run, flow, local, param_grid, retry, runs
from flowdist.backends.slurm.arrays import places
from flowdist.parts import part_table, read_part
from flowdist.status import Status

if TYPE_CHECKING:
    import pandas as pd

# Every wait in these tests ends, whatever is broken.
PATIENCE = 100.0

# What a job asks for: little, so that many run side by side.
SMALL: dict[str, Any] = {"memory": "300MB", "time": "5min"}

TASK = "flowdist.backends.slurm.task"


@pytest.fixture(autouse=True)
def _no_job_is_left(tmp_path: Path) -> Iterator[None]:
    """What a test has submitted is gone when it ends, also where it fails. (For modules that import
    it.)
    """
    yield
    for run in runs(root=tmp_path):
        subprocess.run(["scancel", f"--name={run.id}"], timeout=60, check=False)


# Flows --------------------------------------------------------------------------------------------


def work(group: str, x: int, seconds: float, seed: int) -> dict[str, Any]:
    """A row of some duration that may fail, with results of several types."""
    time.sleep(seconds)
    if x == 5:
        raise ValueError("unlucky")
    return {"square": x * x, "draw": seed % 1000, "label": None if x % 3 else group * 2}


def total(work: pa.Table, group: str) -> dict[str, Any]:
    """Of an Arrow table: pandas would be most of what a job of so few rows takes."""
    return {"rows": len(work), "squares": sum(filter(None, work["square"].to_pylist()))}


def small_flow(rows: int = 24, seconds: float = 0.01) -> Flow:
    """About `rows` rows in three groups; some of them fail, some are skipped."""
    grid = param_grid(group=["a", "b", "c"], x=range(rows // 3))
    return (
        flow(grid, seed=7, const={"seconds": seconds}, retry=retry(20, on="crash"))
        .stage("work", work, skip_when=lambda x: x == 3)
        .reduce("total", total, by="group")
    )


def submit(it: Flow, plan: Plan) -> Run:
    return it.distribute(plan).submit()


def same_tables(run: Run, it: Flow, root: Path) -> None:
    """Assert that the run has ended with the tables that `it` gives on this machine; there its rows
    need not take as long.
    """
    if repr(it) not in _expected:
        here = submit(it, local(root=root / "local", workers=1)).wait(PATIENCE)
        _expected[repr(it)] = _tables(here)
    expected = _expected[repr(it)]
    assert run.status().state == "done", run.explain()
    from pandas.testing import assert_frame_equal  # here: submitters import this module too

    found = _tables(run)
    assert found.keys() == expected.keys()
    for name, table in found.items():
        assert_frame_equal(table, expected[name])


# By flow, which gives the same tables each time.
_expected: dict[str, dict[str, pd.DataFrame]] = {}


def _tables(run: Run) -> dict[str, pd.DataFrame]:
    """The table of the rows and those of the reduces, by name."""
    reduces = [stage["name"] for stage in run.manifest["stages"] if stage["reduce"]]
    rows = {"rows": _without_seconds(run.collect(errors="keep"))}
    return rows | {name: run.table(name) for name in reduces}


def _without_seconds(table: pd.DataFrame) -> pd.DataFrame:
    # Starts that were cut off count as attempts, here and there.
    return table.drop(columns=["_seconds", "_attempts"])


def no_row_was_kept_twice(run: Run) -> None:
    """Assert that the parts hold one result of each row, whatever was started how often."""
    for phase in run.manifest["phases"]:
        rows: list[int] = []
        for name in run.files.parts():
            part = read_part(run.files.path(name))
            if part is not None and part_table(part) == phase["table"]:
                rows += part.column("_row").to_pylist()
        assert len(rows) == len(set(rows)), phase["table"]


# Waits --------------------------------------------------------------------------------------------


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """The first true answer of `condition`; a test fails where there is none in time."""
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {patience:g} s: {what}"
        time.sleep(0.1)
    return found


def until_rows(run: Run, count: int) -> Status:
    """Wait until at least `count` rows have ended, and some have not."""
    status: Status = until(
        lambda: (s := run.status()).done >= count and s, f"{count} rows of {run.id} have ended"
    )
    assert not status.ended, f"too late to disturb it: {status}"
    return status


def finish(run: Run, patience: float = PATIENCE) -> Run:
    """Resume until every row has ended."""
    deadline = time.monotonic() + patience
    while run.wait(patience).status().state != "done":
        assert time.monotonic() < deadline, run.explain()
        run.resume()
    return run


# Looking ------------------------------------------------------------------------------------------


def launch_of(run: Run, attempt: int = 0) -> dict[str, Any]:
    """What was submitted, of the latest launch unless another is named."""
    number = attempt or run.files.attempts()[-1]
    found = run.files.read_json(run.files.launch(number))
    assert found is not None, f"launch {number} of {run.id} has not been written down"
    return found


def queued(run: Run, states: str = "all") -> dict[str, str]:
    """SLURM's state of every task of a run that it has in its queue, as {"12_3": "RUNNING"}."""
    command = ["squeue", "-h", "-a", "-r", "-t", states, f"--name={run.id}", "-o", "%i|%T"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    return dict(line.split("|") for line in text.split())


def submissions(run: Run) -> int:
    """How many arrays and jobs SLURM has been given of a run, ended ones included."""
    return len({task.partition("_")[0] for task in queued(run)})


def task_of(run: Run, job: int) -> str:
    """What SLURM calls a job of the latest launch."""
    array, task = places(run._handle())[job]
    return f"{array}_{task}"


def job_processes(run: Run) -> list[psutil.Process]:
    """The processes that run the jobs of a run now, on whichever node of this machine."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if TASK in words and str(run.directory) in words:
            found.append(process)
    return found


def worker_processes(run: Run) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for job in job_processes(run):
        try:
            found += [p for p in job.children() if p.status() != psutil.STATUS_ZOMBIE]
        except psutil.NoSuchProcess:
            continue
    return found


def node_of(process: psutil.Process) -> str:
    """The node that a process of a job runs on."""
    return str(process.environ()["SLURMD_NODENAME"])


# Meddling -----------------------------------------------------------------------------------------


def call(*words: str) -> str:
    """The output of one of SLURM's commands; a test fails where it fails."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert not done.returncode, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def release(run: Run) -> None:
    """Let what was submitted on hold go on."""
    call("scontrol", "release", ",".join(str(a["id"]) for a in launch_of(run)["arrays"]))


def wrap(monkeypatch: pytest.MonkeyPatch, folder: Path, command: str, body: Iterable[str]) -> None:
    """Put a program before `command` on PATH: lines of bash that call the real one as $REAL."""
    real = shutil.which(command)
    assert real is not None
    folder.mkdir(exist_ok=True)
    program = folder / command
    program.write_text("\n".join(["#!/bin/bash", f"REAL={real}", *body]) + "\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
