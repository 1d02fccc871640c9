"""One look at a SLURM run of ten thousand jobs. No cluster is needed: SLURM's commands are played
by scripts, so that what is measured is what flowdist does with their answers.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from _tasks import noop

import flowdist
from flowdist.backends.slurm.states import ACCOUNTING_FIELDS, QUEUE_FORMAT
from flowdist.run import Run
from flowdist.store import JobAttempt, RunFiles
from flowdist.submission import launch, write_run

JOBS, RUNNING, ARRAY_SIZE = 10_000, 4_000, 1_001
STATUS_SECONDS, STATUS_COMMANDS = 0.5, 1
FIRST_ID = 1_000


def many_jobs(rounds: int) -> tuple[float, int, int]:
    """Seconds of one look (the median of `rounds`), SLURM's commands that it took, jobs."""
    with tempfile.TemporaryDirectory(prefix="flowdist-bench-") as scratch:
        directory = Path(scratch)
        path = os.environ["PATH"]
        os.environ["PATH"] = f"{play_slurm(directory)}{os.pathsep}{path}"
        try:
            files = large_run(directory)
            calls = directory / "calls"
            taken = []
            for _ in range(rounds + 1):  # the first warms the file cache
                calls.write_text("")
                start = time.perf_counter()
                # A fresh one knows nothing yet: it reads every heartbeat and asks SLURM.
                status = Run(files).status()
                taken.append(time.perf_counter() - start)
            if status.state != "running" or status.ok != 5 * RUNNING:
                raise SystemExit(f"status: {status}")
            commands = len(calls.read_text().splitlines())
        finally:
            os.environ["PATH"] = path
    return statistics.median(taken[1:]), commands, JOBS


def play_slurm(directory: Path) -> Path:
    """Programs with the names of SLURM's commands, which write down that they were called."""
    programs = directory / "bin"
    programs.mkdir()
    here, count = f"'{directory}'", f"'{directory}/submitted'"
    for name, body in {
        "sbatch": f"cat > /dev/null\necho x >> {count}\necho $(({FIRST_ID} * $(wc -l < {count})))",
        "scontrol": f"echo 'MaxArraySize            = {ARRAY_SIZE}'",
        "sacct": f"cat {here}/accounting",
        "squeue": f"cat {here}/queue",
    }.items():
        program = programs / name
        program.write_text(f"#!/bin/sh\necho {name} >> {here}/calls\n{body}\n")
        program.chmod(0o755)
    return programs


def large_run(directory: Path) -> RunFiles:
    """A run of `JOBS` jobs in arrays, of which `RUNNING` run and have sent heartbeats."""
    grid = pa.table({"x": np.arange(10 * JOBS), "y": np.zeros(10 * JOBS)})
    plan = flowdist.slurm(target_jobs=JOBS, root=str(directory / "runs"), time="1h")
    flow = flowdist.flow(grid).stage("f", noop, returns={"value": float}).distribute(plan)
    files = write_run(flow, "many")
    started = launch(files, files.manifest()).started
    assert started is not None
    for job in range(RUNNING):
        files.put_beat(JobAttempt(job, 1), heartbeat())
    queue, accounting = [], []
    for array in started["arrays"]:
        running = range(min(array["count"], RUNNING - array["base"]))
        # Tasks that wait are one line; accounting has it while none of their array has started.
        waiting = f"[{len(running)}-{array['count'] - 1}]"
        queue += [queued(f"{array['id']}_{task}", "RUNNING") for task in running]
        if len(running) < array["count"]:
            queue.append(queued(f"{array['id']}_{waiting}", "PENDING"))
        for task in running or [waiting]:
            accounting += accounts(f"{array['id']}_{task}", running=bool(running))
    (directory / "queue").write_text("".join(queue))
    (directory / "accounting").write_text("".join(accounting))
    return files


def queued(place: str, state: str) -> str:
    """squeue's line for a task, or for tasks that wait."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S")
    known = {"%i": place, "%T": state, "%N": "n1", "%S": now, "%e": "N/A", "%r": "None"}
    if state == "PENDING":
        known |= {"%N": "", "%S": "N/A", "%r": "Priority"}
    return "|".join(known[column] for column in QUEUE_FORMAT.split("|")) + "\n"


def accounts(place: str, *, running: bool) -> list[str]:
    """sacct's lines for a task that runs, its own and its step's; or for tasks that wait."""
    known = {"State": "PENDING", "ExitCode": "0:0", "NodeList": "None assigned", "ReqMem": "1G"}
    known |= {"Start": "Unknown", "End": "Unknown"}
    if running:
        known |= {"State": "RUNNING", "NodeList": "n1", "Start": str(int(time.time()) - 60)}
    return [
        "|".join({**known, "JobID": name}.get(column, "") for column in ACCOUNTING_FIELDS) + "\n"
        for name in [place, f"{place}.batch"][: 1 + running]
    ]


def heartbeat() -> dict[str, object]:
    """What a job writes that is half through its ten rows."""
    now = time.time()
    return {
        "time": now,
        "started": now - 60,
        "state": "running",
        "reason": "",
        "table": "rows",
        "host": "n1",
        "pid": 1,
        "rows": 10,
        "ok": 5,
        "failed": 0,
        "skipped": 0,
        "seconds": 60.0,
        "lost_workers": 0,
        "memory": 1 << 20,
        "time_left": None,
        "parts": 0,
        "ending": "",
        "running": [{"position": 0, "stage": "f", "seconds": 1.0}],
    }
