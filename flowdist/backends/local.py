"""Jobs on this machine: a detached process that goes on when the one that submitted ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil

from flowdist.backends.base import Handle, JobState, Remark
from flowdist.clock import Clock, SystemClock
from flowdist.errors import BackendError
from flowdist.settings import host
from flowdist.store import JobAttempt

if TYPE_CHECKING:
    from flowdist.plan import Plan, PlanSummary
    from flowdist.preflight import Check

# The launched process writes down who it is as the first thing it does.
START_SECONDS = 60.0
# A process that has nothing left to do ends within this time.
END_SECONDS = 10.0
# Heartbeats of another machine that are older than this are of a process that is gone.
SILENCE_SECONDS = 120.0


class LocalBackend:
    """Starts one process per launch, which runs all jobs.

    Args:
        clock: time and sleep.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    def check(self, plan: Plan, summary: PlanSummary, *, brief: bool = False) -> list[Check]:
        """Nothing beyond the common checks: the machine is this one."""
        return []

    def launch(self, handle: Handle) -> Handle:
        files = handle.files
        log = files.path(files.launch_log(handle.attempt))
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = str(files.directory.absolute())
        with log.open("ab") as output:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "flowdist.workers",
                    "launch",
                    directory,
                    str(handle.attempt),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        _launched.append(process)
        return replace(handle, started=self._wait_for_sign(handle, process))

    def _wait_for_sign(self, handle: Handle, process: subprocess.Popen[bytes]) -> Mapping[str, Any]:
        files = handle.files
        deadline = self._clock.monotonic() + START_SECONDS
        while self._clock.monotonic() < deadline:
            started = files.read_json(files.launch(handle.attempt))
            if started is not None:
                return started
            if process.poll() is not None:
                break
            self._clock.sleep(0.01)
        # One that is only slow would start behind the back of whoever resumes.
        process.kill()
        process.wait()
        text = files.path(files.launch_log(handle.attempt)).read_text(errors="replace")
        raise BackendError(
            f"the process that runs the jobs did not start ({_ending(process)}):\n"
            f"{text[-2000:].strip()}"
        )

    def poll(self, handle: Handle) -> dict[int, JobState]:
        _reap()
        # Looked for before the beats are read, so that theirs is the last word of a process that
        # ends just now.
        alive = _launcher_lives(handle) or self._alive(handle, handle.beats)
        return {job: _state(handle.beats.get(job), alive) for job in handle.jobs}

    def _alive(self, handle: Handle, beats: Mapping[int, Mapping[str, Any]]) -> bool | None:
        """Whether a job process lives although the launched one does not (or is not of this
        machine); None where that cannot be known.
        """
        started = handle.started
        if started is None:
            intent = handle.files.read_json(handle.files.intent(handle.attempt)) or {}
            # Also in the future, but only so far: clocks are set back.
            recent = abs(self._clock.time() - float(intent.get("time", 0.0))) < START_SECONDS
            return None if recent else False
        if started["host"] != host():
            newest = max((float(b["time"]) for b in beats.values()), default=float(started["time"]))
            return None if abs(self._clock.time() - newest) < SILENCE_SECONDS else False
        return any(_lives(b["pid"], None) for b in beats.values() if b["state"] == "running")

    def ending(
        self, handle: Handle, states: Mapping[int, JobState]
    ) -> tuple[Literal["stopped", "failed", "lost"], str]:
        if any(beat["state"] == "stopped" for beat in handle.beats.values()):
            return "stopped", ""
        if handle.started is None:
            return "lost", "its process never started"
        return "lost", f"its process on {handle.started['host']} is gone without a word"

    def remarks(self, handle: Handle, states: Mapping[int, JobState]) -> list[Remark]:
        """Nothing: there is no scheduler between a run and its processes."""
        return []

    def fetch(self, handle: Handle, artifact: str | None = None) -> None:
        """Nothing: jobs write into the run's directory."""

    def firings(self, handle: Handle) -> list[Path]:
        """None: its plans have no schedule."""
        return []

    def cancel(self, handle: Handle) -> None:
        handle.files.request_stop(handle.attempt, "cancelled", self._clock.time())
        started = handle.started
        if started is not None and started["host"] == host():
            process = _process(started["pid"], started.get("command"))
            if process is not None:
                process.terminate()

    def logs(self, handle: Handle, job: int | None) -> list[Path]:
        files = handle.files
        if job is not None:
            own = files.path(files.log(JobAttempt(job, handle.attempt)))
            return [own] if own.exists() else [files.path(files.launch_log(handle.attempt))]
        names = [n for n in files.store.list("logs") if n.endswith(f"-{handle.attempt}.log")]
        return [files.path(f"logs/{name}") for name in sorted(names, reverse=True)]

    def delete(self, handle: Handle) -> None:
        """All of a run is in its directory: who has said the last word is waited for, who would
        write there again.
        """
        deadline = self._clock.monotonic() + END_SECONDS
        while _launcher_lives(handle) and self._clock.monotonic() < deadline:
            self._clock.sleep(0.05)

    def close(self) -> None:
        """Nothing is held: the process was detached at its start."""


# Launched processes that are children of this one, until they have ended and been waited for.
_launched: list[subprocess.Popen[bytes]] = []


def _reap() -> None:
    """Wait for launched processes that have ended, so that they do not stay as zombies."""
    _launched[:] = [process for process in _launched if process.poll() is None]


def _ending(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    if code == -signal.SIGKILL:
        return f"it said nothing for {START_SECONDS:.0f} s, or was killed"
    return f"exit code {code}"


def _state(beat: Mapping[str, Any] | None, alive: bool | None) -> JobState:
    said = None if beat is None else beat["state"]
    if said == "done":
        return JobState.DONE
    if said == "failed":
        return JobState.FAILED
    if said == "stopped":
        return JobState.CANCELLED
    if alive is None:
        return JobState.UNKNOWN if beat is None else JobState.RUNNING
    if not alive:
        return JobState.LOST
    return JobState.PENDING if beat is None else JobState.RUNNING


def _process(pid: int, command: Sequence[str] | None) -> psutil.Process | None:
    """The process of that id, if it is the one that was started then (ids are used again).

    It is known by its command, which names the run and the launch; the time at which a process was
    created is another when somebody sets the clock. Without a command any of ours is taken for it.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        found = process.cmdline()
        if found != list(command) if command is not None else "flowdist.workers" not in found:
            return None
    except psutil.Error:
        return None
    return process


def _launcher_lives(handle: Handle) -> bool:
    started = handle.started
    if started is None or started["host"] != host():
        return False
    return _lives(started["pid"], started.get("command"))


def _lives(pid: int, command: Sequence[str] | None) -> bool:
    return _process(pid, command) is not None
