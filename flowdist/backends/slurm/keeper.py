"""A small job that runs when the jobs of a launch have ended, and starts the next launch where one
is due: ``python -m flowdist.backends.slurm.keeper DIRECTORY ATTEMPT``.

One is due where a policy asks for jobs with more memory or time, and where SLURM took only some of
the jobs at a time. So a run goes on while nobody is there. Reduces follow the keeper that has found
nothing more to start.
"""

from __future__ import annotations

import sys
from pathlib import Path

from flowdist.backends.base import Handle, JobState
from flowdist.backends.slurm.arrays import places
from flowdist.backends.slurm.backend import SlurmBackend
from flowdist.clock import Clock, SystemClock
from flowdist.errors import FlowdistError
from flowdist.escalation import Escalation, escalate
from flowdist.parts import MISSING
from flowdist.payload import load_program
from flowdist.phases import job_count, jobs_of
from flowdist.results import row_states
from flowdist.store import RunFiles, await_parts
from flowdist.submission import relaunch

# SLURM lets a job that follows others start before accounting has heard how those ended.
SETTLE_SECONDS = 120.0


def main(arguments: list[str]) -> int:
    """Returns 0 where every row has ended and nothing was started, 1 otherwise."""
    files, attempt = RunFiles.at(Path(arguments[0])), int(arguments[1])
    try:
        return keep(files, attempt, SystemClock())
    except FlowdistError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def keep(files: RunFiles, attempt: int, clock: Clock) -> int:
    """Start what is due after a launch; returns what `main` does."""
    manifest = files.manifest()
    started = files.read_json(files.launch(attempt))
    intent = files.read_json(files.intent(attempt)) or {}
    handle = Handle(files, attempt, jobs_of(manifest, intent.get("jobs", [])), started)
    if files.read_json(files.stop(attempt)) is not None or started is None:
        return 1
    await_parts(files, attempt, clock)
    deferred = any(job not in places(handle) for job in handle.jobs)
    escalation = Escalation()
    if manifest["escalates"]:
        states = _settled(handle, job_count(manifest), clock)
        escalation = escalate(handle, load_program(files), states)
    if not escalation.asked and not deferred:
        return int((row_states(files, manifest["layout"]["rows"]) == MISSING).any())
    next_ = relaunch(files, manifest, after=attempt, escalation=escalation)
    sys.stderr.write(f"launch {next_.attempt} was started with {len(next_.jobs)} jobs\n")
    return 1


def _settled(handle: Handle, own: int, clock: Clock) -> dict[int, JobState]:
    """How the jobs before this one have ended, once that is known."""
    backend = SlurmBackend(clock)
    deadline = clock.monotonic() + SETTLE_SECONDS
    waiting = {job for job in places(handle) if job != own}
    while True:
        states = backend.poll(handle)
        late = [job for job in waiting if not states[job].ended and not _follows(handle, job)]
        if not late or clock.monotonic() > deadline:
            return states
        clock.sleep(1.0)


def _follows(handle: Handle, job: int) -> bool:
    """Whether the job is a reduce, which waits for this one."""
    arrays = (handle.started or {}).get("arrays", ())
    phases = handle.files.manifest()["phases"]
    return any(
        array["base"] == job and array["phase"] is not None and "by" in phases[array["phase"]]
        for array in arrays
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
