"""A small job that runs when the jobs of a launch have ended, and starts the next launch where one
is due: ``python -m flowdist.backends.slurm.keeper DIRECTORY ATTEMPT``.

One is due where a policy asks for jobs with more memory or time, and where SLURM took only some of
the jobs at a time. So a run goes on while nobody is there. Reduces follow the keeper that has found
nothing more to start.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flowdist.backends.base import Handle, JobState
from flowdist.backends.slurm.arrays import places
from flowdist.backends.slurm.backend import SlurmBackend
from flowdist.clock import Clock, SystemClock
from flowdist.errors import FlowdistError
from flowdist.escalation import Escalation, escalate
from flowdist.lean import defer_pandas
from flowdist.parts import MISSING
from flowdist.payload import load_program
from flowdist.phases import jobs_of, row_phases
from flowdist.states import row_states
from flowdist.store import JobAttempt, RunFiles, await_parts
from flowdist.submission import relaunch

# SLURM lets a job that follows others start before accounting has heard how those ended.
SETTLE_SECONDS = 120.0


def main(arguments: list[str]) -> int:
    """Returns 0 where every row has ended and nothing was started, 1 otherwise."""
    files, attempt = RunFiles.at(Path(arguments[0])), int(arguments[1])
    defer_pandas()
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
    if started is None:
        return 1
    await_parts(files, attempt, clock)

    def handle() -> Handle:
        return Handle(files, attempt, jobs_of(manifest, intent.get("jobs", [])), started)

    escalation = Escalation()
    if manifest["escalates"]:
        states = _settled(handle, manifest, clock)
        escalation = escalate(handle(), load_program(files), states)
    if not escalation.asked and not _more_to_come(handle()):
        return int((row_states(files, manifest["layout"]["rows"]) == MISSING).any())
    if files.read_json(files.stop(attempt)) is not None:
        return 1
    next_ = relaunch(files, manifest, after=attempt, escalation=escalation)
    sys.stderr.write(f"launch {next_.attempt} was started with {len(next_.jobs)} jobs\n")
    return 1


def _more_to_come(handle: Handle) -> bool:
    """Whether SLURM did not take all jobs of the launch, and those that it took brought the run
    forward: what has not come one row further would not the next time either.
    """
    taken = places(handle)
    if all(job in taken for job in handle.jobs):
        return False
    parts = (JobAttempt.of(name) for name in handle.files.parts())
    return any(who.attempt == handle.attempt for who in parts)


def _settled(
    handle: Callable[[], Handle], manifest: Mapping[str, Any], clock: Clock
) -> dict[int, JobState]:
    """How the jobs of rows have ended, once that is known."""
    backend = SlurmBackend(clock)
    rows = sum(int(phase["jobs"]) for phase in row_phases(manifest))
    deadline = clock.monotonic() + SETTLE_SECONDS
    while True:
        # Made anew each time, as heartbeats may arrive late too.
        now = handle()
        states = backend.poll(now)
        late = [job for job in places(now) if job < rows and not states[job].ended]
        if not late or clock.monotonic() > deadline:
            return states
        clock.sleep(1.0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
