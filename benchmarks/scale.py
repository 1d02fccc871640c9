"""What large runs cost the process that submits, watches and collects, against the budgets.

Everything here is about the driver, so no row is run: parts and heartbeats are made by hand, as
jobs would have left them. Medians of several rounds; ends with code 1 where a budget is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from _measure import MIB, Verdict, count_files, open_console, verdict_table
from _tasks import noop

import flowdist
from flowdist import Flow, Run
from flowdist.layout import make_layout
from flowdist.parts import OK, PartWriter
from flowdist.preflight import prepare
from flowdist.results import collect_rows
from flowdist.settings import host
from flowdist.store import JobAttempt, RunFiles
from flowdist.submission import plan_flow, write_run

# To try the benchmark itself: runs so many times smaller.
SMALLER = int(os.environ.get("FLOWDIST_SCALE_SMALLER", "1"))
ROWS, JOBS, MANY_JOBS, FEW_JOBS = (n // SMALLER for n in (1_000_000, 1_000, 10_000, 40))
PLAN_SECONDS, COLLECT_SECONDS, STATUS_SECONDS = 1.0, 1.0, 0.5
MOST_TIMES_BARE, MOST_TIMES_RESULT = 2.0, 2.0
FIELDS = {"value": float, "error": float, "steps": int, "ok": bool}


def most_files(jobs: int) -> int:
    """The budget on the files of a run."""
    return 10 + 2 * jobs


def median_seconds(*runs: Callable[[], Any], rounds: int) -> list[float]:
    """The median of each over `rounds` turns; one turn before them warms the caches."""
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds + 1):
        for run, seconds in zip(runs, taken, strict=True):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds[1:]) for seconds in taken]


# Runs by hand -----------------------------------------------------------------------------------


def million(root: Path, *, by: bool) -> Flow:
    """A million rows in a thousand jobs: as they come, or a job for each value of a column whose
    values lie mixed.
    """
    rows = np.arange(ROWS)
    grid = pa.table({"x": rows, "y": rows / 2, "site": rows % JOBS})
    plan = flowdist.local(root=str(root), **({"by": "site"} if by else {"target_jobs": JOBS}))
    return flowdist.flow(grid).stage("f", noop, returns=FIELDS).distribute(plan)


def results_of(rows: np.ndarray[Any, Any]) -> pa.RecordBatch:
    """What a worker sends back for rows that went well."""
    n = len(rows)
    return pa.RecordBatch.from_pydict(
        {
            "_row": rows,
            "_status": np.full(n, OK, np.int8),
            "_attempts": np.ones(n, np.int16),
            "_seconds": np.full(n, 1e-6),
            "_error": pa.nulls(n),
            "f.value": rows / 2,
            "f.error": rows / 3,
            "f.steps": rows,
            "f.ok": pa.array(rows % 2 == 0),
        }
    )


def beat(state: str, rows: int, ok: int) -> dict[str, Any]:
    """A heartbeat as a job writes it."""
    now = time.time()
    running = [{"position": 0, "stage": "f", "seconds": 1.0}] if state == "running" else []
    return {
        "time": now,
        "started": now - 60,
        "state": state,
        "reason": "",
        "table": "rows",
        "host": host(),
        "pid": os.getpid(),
        "rows": rows,
        "ok": ok,
        "failed": 0,
        "skipped": 0,
        "seconds": 60.0,
        "lost_workers": 0,
        "memory": MIB,
        "time_left": None,
        "running": running,
    }


def launched(files: RunFiles, jobs: int) -> None:
    """Let the run look as if this very process had launched it."""
    me = psutil.Process()
    said = {"time": time.time(), "host": host()}
    intent = {**said, "jobs": list(range(jobs)), "before": {}, "failed": False}
    files.put_json(files.intent(1), intent)
    files.put_json(files.launch(1), {**said, "pid": me.pid, "command": me.cmdline()})


def finished_run(root: Path, *, by: bool) -> RunFiles:
    """A run of `JOBS` jobs that have all ended, with a part and a heartbeat each."""
    flow = million(root, by=by)
    files = write_run(flow, "ended")
    launched(files, JOBS)
    layout = make_layout(flow.distribution, flow.grid.table, 2)
    order = np.arange(ROWS) if layout.order is None else layout.order
    for job in range(JOBS):
        first = int(layout.chunk_first[layout.job_first[job]])
        stop = int(layout.chunk_stop[layout.job_stop[job] - 1])
        parts = PartWriter(files, JobAttempt(job, 1), "rows", started=0.0)
        parts.add(first, [results_of(order[first:stop])])
        parts.commit(0.0)
        files.put_beat(JobAttempt(job, 1), beat("done", stop - first, stop - first))
    return files


def running_run(root: Path) -> RunFiles:
    """A run of `MANY_JOBS` jobs at work."""
    grid = pa.table({"x": np.arange(10 * MANY_JOBS), "y": np.zeros(10 * MANY_JOBS)})
    plan = flowdist.local(root=str(root), target_jobs=MANY_JOBS)
    flow = flowdist.flow(grid).stage("f", noop, returns={"value": float}).distribute(plan)
    files = write_run(flow, "running")
    launched(files, MANY_JOBS)
    for job in range(MANY_JOBS):
        files.put_beat(JobAttempt(job, 1), beat("running", 10, 5))
    return files


# What is measured -------------------------------------------------------------------------------


@dataclass
class Figures:
    """The verdicts so far, and the numbers behind them by name."""

    verdicts: list[Verdict]
    numbers: dict[str, float]

    def judge(self, what: str, budget: str, measured: str, kept: bool, **numbers: float) -> None:
        self.verdicts.append(Verdict(what, budget, measured, kept))
        self.numbers |= numbers


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="flowdist-bench-") as directory:
        yield Path(directory)


def submitting(figures: Figures, rounds: int) -> None:
    """Planning, the checks before a submission, and writing the run; nothing is started."""
    for name, by in (("in order", False), ("by a column", True)):
        with scratch() as root:
            flow = million(root, by=by)
            plan, submit = median_seconds(
                lambda flow=flow: plan_flow(flow),
                lambda flow=flow: write_run(flow, "x", prepare(flow)),
                rounds=rounds,
            )
            run = next(root.iterdir())
            files = count_files(run)
        figures.judge(
            f"plan + submit {ROWS:,} rows in {JOBS:,} jobs, {name}",
            f"{PLAN_SECONDS:g} s",
            f"{plan + submit:.3f} s ({plan:.3f} + {submit:.3f})",
            plan + submit <= PLAN_SECONDS,
            **{f"plan {name}": plan, f"submit {name}": submit},
        )
    figures.judge(
        "files of that run before it is launched",
        f"{most_files(JOBS):,}",
        f"{files}",
        files <= most_files(JOBS),
        submitted_files=files,
    )


def finishing(figures: Figures) -> None:
    """The files of a run that has really been run, by jobs one after another."""
    with scratch() as root:
        plan = flowdist.local(root=str(root), workers=2, target_jobs=FEW_JOBS)
        grid = flowdist.param_grid(x=range(100), y=[float(y) for y in range(100)])
        run = flowdist.flow(grid).stage("f", noop).distribute(plan).submit().wait()
        files = count_files(run.directory)
    figures.judge(
        f"files of a finished run of {FEW_JOBS} jobs",
        f"{most_files(FEW_JOBS)}",
        f"{files}",
        files <= most_files(FEW_JOBS),
        finished_files=files,
    )


def read_bare(files: RunFiles, *, sort: bool) -> pa.Table:
    """The parts of a run as pyarrow alone reads them, put in grid order where they are not."""
    tables = []
    for path in sorted((files.directory / "parts").iterdir()):
        with pa.memory_map(str(path)) as file:
            tables.append(pa.ipc.open_file(file).read_all())
    table = pa.concat_tables(tables)
    return table.sort_by("_row") if sort else table


def collecting(figures: Figures, rounds: int) -> None:
    """From the parts of jobs that have ended to one table in grid order."""
    for name, by in (("in order", False), ("by a column", True)):
        with scratch() as root:
            files = finished_run(root, by=by)
            run = Run(files)
            whole, read, bare = median_seconds(
                lambda run=run: run.collect(as_="arrow"),
                lambda files=files: collect_rows(files, ROWS),
                lambda files=files, by=by: read_bare(files, sort=by),
                rounds=rounds,
            )
            check_collected(run)
            memory = {as_: driver_memory(files, as_) for as_ in ("arrow", "pandas")}
        figures.judge(
            f"collect {ROWS:,} rows from {JOBS:,} parts, {name}",
            f"{COLLECT_SECONDS:g} s",
            f"{whole:.3f} s",
            whole <= COLLECT_SECONDS,
            **{f"collect {name}": whole, f"read {name}": read, f"bare {name}": bare},
        )
        figures.judge(
            "  against pyarrow alone" + (", which sorts too" if by else ""),
            f"{MOST_TIMES_BARE:g} x",
            f"{whole / bare:.2f} x of {bare:.3f} s (without asking how the run is: "
            f"{read / bare:.2f} x)",
            whole / bare <= MOST_TIMES_BARE,
        )
        for as_, found in memory.items():
            result = found["result"]
            figures.judge(
                f"  driver memory, as {as_}",
                f"< {MOST_TIMES_RESULT:g} x the result",
                f"{found['private'] / result:.2f} x of {result / MIB:.0f} MiB "
                f"(and {found['mapped'] / result:.2f} x mapped files)",
                found["private"] < MOST_TIMES_RESULT * result,
                **{f"{kind} bytes, {as_}, {name}": size for kind, size in found.items()},
            )


def check_collected(run: Run) -> None:
    """Every row is there and in its place."""
    table = run.collect(as_="arrow")
    right = np.arange(ROWS) / 2
    for column in ("y", "f.value"):
        if not np.array_equal(table[column].to_numpy(), right):
            raise SystemExit(f"collect: column {column} is wrong")


def driver_memory(files: RunFiles, as_: str) -> dict[str, int]:
    """Bytes of the collected table, and by how many a fresh process grew at most to have it.

    "private" is memory that only the process has; "mapped" are pages of files that it has looked
    at, which the system can take back at any time.
    """
    command = [sys.executable, __file__, "--collect", str(files.directory), as_]
    process = subprocess.Popen(command, text=True, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    before = peak = memory_now(process.pid)
    process.stdin.write("go\n")
    process.stdin.flush()
    while not select.select([process.stdout], [], [], 0.001)[0]:
        peak = tuple(map(max, peak, memory_now(process.pid)))
    size = int(process.stdout.readline())
    process.communicate()
    private, mapped = (most - least for most, least in zip(peak, before, strict=True))
    return {"result": size, "private": private, "mapped": mapped}


def memory_now(pid: int) -> tuple[int, ...]:
    """Private and mapped bytes of a process; all of it is private where /proc does not tell."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return int(psutil.Process(pid).memory_info().rss), 0
    kinds = dict(re.findall(r"^Rss(\w+):\s+(\d+) kB", text, re.MULTILINE))
    return tuple(int(kinds[kind]) * 1024 for kind in ("Anon", "File"))


def collect_here(directory: str, as_: str) -> None:
    """The body of that process: it loads what it needs, waits to be told, collects."""
    import pandas as pd

    import flowdist.backends.local

    pa.table({"a": [1.0], "b": [True]}).to_pandas().memory_usage()
    run = flowdist.attach(directory)
    print("ready", flush=True)
    sys.stdin.readline()
    table = run.collect(as_=as_)
    frame = isinstance(table, pd.DataFrame)
    print(table.memory_usage(index=False).sum() if frame else table.nbytes, flush=True)


def watching(figures: Figures, rounds: int) -> None:
    """One look at a run of many jobs, from its heartbeats."""
    with scratch() as root:
        files = running_run(root)
        status = Run(files).status()
        if status.ok != 5 * MANY_JOBS or status.state != "running":
            raise SystemExit(f"status: {status}")
        (seconds,) = median_seconds(lambda: Run(files).status(), rounds=rounds)
    figures.judge(
        f"status of a run of {MANY_JOBS:,} jobs",
        f"{STATUS_SECONDS:g} s",
        f"{seconds:.3f} s",
        seconds <= STATUS_SECONDS,
        status=seconds,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="What large runs cost the driver.")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (5)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument("--collect", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.collect:
        collect_here(*options.collect)
        return 0
    figures = Figures([], {})
    submitting(figures, options.rounds)
    finishing(figures)
    collecting(figures, options.rounds)
    watching(figures, options.rounds)
    if options.json:
        budgets = [asdict(v) for v in figures.verdicts]
        print(json.dumps({"numbers": figures.numbers, "budgets": budgets}))
    else:
        open_console().print(verdict_table(figures.verdicts, "Large runs, as the driver sees them"))
    return 0 if all(v.kept for v in figures.verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
