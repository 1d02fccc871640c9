"""A job in a container of Snowflake: ``python -m flowdist.workers container ...``

``job RUNS RUN ATTEMPT [JOB]`` runs one job of a run: JOB, or the one of this replica of a job
service; where RUN ends with ``.*``, of the firing of that run's schedule that this is part of.
``reduces RUNS RUN ATTEMPT`` runs the reduces of a launch, ``queue RUNS ...`` claims chunks from a
queue (see `flowdist.workers.serve`).

RUNS is the folder of runs, a mounted stage. What a job reads is copied from there once; what it
writes goes there, each file once and front to back, as mounted stages want it.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowdist.clock import Clock, SystemClock
from flowdist.errors import RunError
from flowdist.store import LATE_SECONDS, JobAttempt, RunFiles
from flowdist.workers.__main__ import importing, limit_threads_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from flowdist.snowflake.client import Client

logger = logging.getLogger("flowdist.container")

# What jobs write, and what they look at while they run: the folders that stay on the stage.
SHARED = ("parts", "beats", "events", "artifacts", "launches")
# Jobs that end at the same moment may not see each other's end at once: a job waits so long for
# others that cannot have more to do than that.
LINGER_SECONDS = 10.0


def main(arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> int:
    """Run what the arguments say; the exit code is 0 where that has done its part."""
    environ = os.environ if environ is None else environ
    what, runs = arguments[0], Path(arguments[1])
    if what == "queue":
        from flowdist.workers.serve import serve

        return serve(runs, *arguments[2:])
    run, attempt = this_run(arguments[2]), int(arguments[3])
    with local_view(runs / run, attempt) as directory:
        if what == "reduces":
            return run_reduces(directory, attempt)
        job = int(arguments[4]) if len(arguments) > 4 else job_of_replica(
            directory, attempt, environ
        )  # fmt: skip
        return run_rows(directory, attempt, job)


def this_run(named: str) -> str:
    """The run to work on: for ``<run>.*`` the firing of its schedule that has started this
    container.
    """
    if not named.endswith(".*"):
        return named
    from flowdist.snowflake.firing import THIS_FIRING

    client = session()
    try:
        return f"{named[:-1]}{client.value(f'SELECT {THIS_FIRING}')}"
    finally:
        client.close()


def session(tag: Mapping[str, str] | None = None) -> Client:
    """A client for this process alone, which runs no code of the user's."""
    with importing():
        from flowdist.lean import import_without_pandas
        from flowdist.snowflake.connection import client_for

        import_without_pandas("snowflake.connector")
    return client_for(tag=tag)


def job_of_replica(directory: Path, attempt: int, environ: Mapping[str, str]) -> int:
    """The job of a launch that a replica of its job service runs."""
    files = RunFiles.at(directory)
    intent = files.read_json(files.intent(attempt)) or {}
    return int(intent["jobs"][int(environ.get("SNOWFLAKE_JOB_INDEX", "0"))])


def run_rows(directory: Path, attempt: int, job: int) -> int:
    """Run one job of the rows; where it was the last one, start the reduces."""
    limit_threads_of(directory, job)
    with importing():
        from flowdist.workers.supervise import job_main
    files = RunFiles.at(directory)
    # The same job may have been started before in this launch: a task that is tried again.
    again = files.path(files.part(JobAttempt(job, attempt), 0)).exists()
    code = job_main(directory, attempt, job, again=again, began=time.time())
    if code == 0:
        follow(files, attempt)
    return code


def run_reduces(directory: Path, attempt: int) -> int:
    """Run the reduces of a launch, one after another."""
    from flowdist.phases import reduce_phases

    files = RunFiles.at(directory)
    jobs = [int(phase["first_job"]) for phase in reduce_phases(files.manifest())]
    # Libraries read that once: the others have what the first one is meant to.
    limit_threads_of(directory, jobs[0])
    with importing():
        from flowdist.workers.supervise import job_main
    for job in jobs:
        if code := job_main(directory, attempt, job, began=time.time()):
            return code
    return 0


# What a job sees -------------------------------------------------------------------------------


@contextmanager
def local_view(run: Path, attempt: int) -> Iterator[Path]:
    """The directory of a run on this machine: copies of what is only read, links to what is shared.

    Raises:
        RunError: a file of the run does not appear.
    """
    directory = Path(tempfile.mkdtemp(prefix="flowdist-"))
    try:
        files = RunFiles.at(directory)
        for name in files.WRITTEN:
            shutil.copyfile(_appeared(run / name), directory / name)
        # Only now, so that nothing is made in the place of a run that has been deleted.
        fed = files.manifest().get("fed")
        for folder in SHARED:
            # Artifacts of rows that were fed to a run are with those of the others.
            home = run.parent / fed["to"] if fed and folder == "artifacts" else run
            (home / folder).mkdir(parents=True, exist_ok=True)
            (directory / folder).symlink_to(home / folder)
        _appeared(run / files.intent(attempt))
        if attempt > 1:
            _appeared(run / files.done(attempt))
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _appeared(path: Path, clock: Clock | None = None) -> Path:
    """The path, once there is such a file: what was put on a stage may be seen a while later."""
    clock = clock or SystemClock()
    deadline = clock.monotonic() + LATE_SECONDS
    while not path.exists():
        if clock.monotonic() > deadline:
            raise RunError(f"{path} has not appeared in {LATE_SECONDS:.0f} s")
        clock.sleep(0.5)
    return path


# The last one starts the reduces ---------------------------------------------------------------


def follow(files: RunFiles, attempt: int, clock: Clock | None = None) -> None:
    """Start the reduces of a launch where all jobs of its rows are done.

    Several that end at the same moment may each think that they are the last: the name of the job
    service is taken by the first of them.
    """
    said = files.read_json(files.follow(attempt))
    if said is None:
        return
    clock = clock or SystemClock()
    deadline = clock.monotonic() + LINGER_SECONDS
    jobs = {int(job) for job in (files.read_json(files.intent(attempt)) or {})["jobs"]}
    while left := seconds_left(files, attempt, jobs):
        if left > LINGER_SECONDS or clock.monotonic() > deadline:
            return  # who ends later does it
        clock.sleep(1.0)
    from flowdist.snowflake.connection import SnowflakeError

    client = session()
    try:
        client.run(said["statement"])
        logger.info("all jobs of the rows are done: the reduces were started")
    except SnowflakeError as error:
        if not error.exists:
            # Whoever looks at the run starts them.
            logger.warning("the reduces were not started: %s", error)
    finally:
        client.close()


def seconds_left(files: RunFiles, attempt: int, jobs: Iterable[int]) -> float:
    """How long the slowest of some jobs is likely to run on, by what can be seen of them; 0 where
    all are done.
    """
    beats = {who.job: beat for who, beat in files.beats(attempt)}
    return max((_left(beats.get(job)) for job in jobs), default=0.0)


def _left(beat: Mapping[str, Any] | None) -> float:
    if beat is None or beat["state"] in ("failed", "stopped"):
        return math.inf  # not begun, or over without an end
    if beat["state"] == "done":
        return 0.0
    done = beat["ok"] + beat["failed"] + beat["skipped"]
    if not done:
        return math.inf
    pace = (beat["time"] - beat["started"]) / done
    return max(float(pace * (beat["rows"] - done)), 0.1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
