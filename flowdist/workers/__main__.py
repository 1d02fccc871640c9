"""The one entry of every backend: ``python -m flowdist.workers launch|job DIRECTORY ...``.

``launch DIRECTORY ATTEMPT`` runs all jobs of a launch on this machine, one after another or several
at a time; ``job DIRECTORY ATTEMPT JOB`` runs one, of the rows or a reduce. ``container ...`` is for
containers of Snowflake (see `flowdist.workers.container`).
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# What limits the threads of BLAS, OpenMP and numexpr; it must be set before numpy is imported.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def limit_threads(threads: int) -> None:
    """Let numerical libraries use `threads` threads, unless the user has said otherwise."""
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, str(threads))


def limit_threads_of(directory: Path, job: int = 0) -> None:
    """Let numerical libraries use as many threads as a worker of the job is meant to."""
    phases = json.loads((directory / "run.json").read_text())["phases"]
    phase = next(p for p in reversed(phases) if p["first_job"] <= job)
    limit_threads(threads_of(phase))


def threads_of(phase: Mapping[str, Any]) -> int:
    """How many threads numerical libraries may use in a worker of a phase."""
    # None: the job finds out what it has when it starts, and leaves one core to each worker.
    return int(phase["threads"] or phase["plan"]["resources"].get("cpus", 1))


@contextmanager
def importing() -> Iterator[None]:
    """Import what is there until the process ends: nobody looks for garbage in it, neither now nor
    when that comes, which is a seventh of what a job takes to start and to end.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def main(arguments: list[str]) -> int:
    """Run a launch or a job; returns the exit code, 0 where it ended as it should."""
    if len(arguments) < 3 or arguments[0] not in ("launch", "job", "container"):
        sys.stderr.write(f"{__doc__}\n")
        return 2
    if arguments[0] == "container":
        from flowdist.workers.container import main as container_main

        return container_main(arguments[1:])
    directory = Path(arguments[1])
    limit_threads_of(directory, *map(int, arguments[3:]))
    with importing():
        from flowdist.workers.supervise import job_main, launch_main
    if arguments[0] == "launch":
        return launch_main(directory, int(arguments[2]))
    return job_main(directory, int(arguments[2]), int(arguments[3]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
