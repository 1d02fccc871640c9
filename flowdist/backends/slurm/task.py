"""What a task of a job array runs: ``python -m flowdist.backends.slurm.task DIRECTORY ATTEMPT ARRAY
BASE``.

It finds out which job of the run it is, makes sure that its array is the one that counts, runs the
job, and where the job's time was up before its work was done asks SLURM to start it again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from flowdist.clock import Clock, SystemClock
from flowdist.errors import BackendError
from flowdist.phases import phase_of
from flowdist.store import JobAttempt, RunFiles
from flowdist.workers.__main__ import importing, limit_threads_of

FENCE_SECONDS = 30.0


def main(arguments: list[str], environ: Mapping[str, str] | None = None) -> int:
    """Run one task; its exit code is that of the job (see `flowdist.workers.supervise.job_main`),
    0 where its array does not count.
    """
    environ = os.environ if environ is None else environ
    directory, attempt, array = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    job = int(arguments[3]) + int(environ.get("SLURM_ARRAY_TASK_ID", "0"))
    own = environ.get("SLURM_ARRAY_JOB_ID") or environ["SLURM_JOB_ID"]
    files = RunFiles.at(directory)
    counts = claim_array(files, attempt, array, own)
    if counts != own:
        # sbatch was not heard to have worked, and was called again.
        sys.stderr.write(f"array {own} was submitted a second time; {counts} runs its jobs\n")
        return 0
    started_before = files.path(files.part(JobAttempt(job, attempt), 0)).exists()
    again = started_before or int(environ.get("SLURM_RESTART_COUNT", "0")) > 0
    limit_threads_of(directory, job)
    with importing():
        from flowdist.workers.supervise import TIME_IS_UP, job_main
    parts = files.parts_of(job, attempt)
    # The script has become this process, so that its age counts what was done to set it up.
    began = psutil.Process().create_time()
    code = job_main(directory, attempt, job, again=again, began=began)
    if code == TIME_IS_UP and phase_of(files.manifest(), job)["plan"].get("resubmit"):
        if files.parts_of(job, attempt) == parts:
            sys.stderr.write(
                "not started again: not one row was finished within the time limit; give jobs more "
                "time\n"
            )
        else:
            requeue(environ)
    return code


def claim_array(
    files: RunFiles, attempt: int, array: int, own: str, clock: Clock | None = None
) -> str:
    """The id of the array that runs these jobs: ours, unless another was first."""
    clock = clock or SystemClock()
    name = files.array(attempt, array)
    try:
        files.store.put(name, own.encode())
        return own
    except FileExistsError:
        deadline = clock.monotonic() + FENCE_SECONDS
        # It may be there and not be filled yet.
        while not (known := files.store.get(name).decode()) and clock.monotonic() < deadline:
            clock.sleep(0.1)
        return known or own


def requeue(environ: Mapping[str, str]) -> None:
    """Ask SLURM to start this task again; it is ended meanwhile."""
    from flowdist.backends.slurm.client import SlurmClient

    task = environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in environ:
        task = f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    try:
        SlurmClient().requeue(task)
    except BackendError as error:
        sys.stderr.write(f"not started again: {error}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
