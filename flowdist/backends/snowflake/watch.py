"""What is known of a launch on Snowflake while it is watched. Pure: nothing here asks anybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flowdist.backends.base import Handle, JobState
from flowdist.backends.snowflake.remote import Seen
from flowdist.backends.snowflake.services import ending_words
from flowdist.store import JobAttempt

__all__ = ["FIRST_PAUSE", "Watch", "late", "note_states", "state_of", "told", "words_of"]

FIRST_PAUSE = 0.3
"""How soon Snowflake is asked again at first, in seconds, for runs that are over at once."""

FINAL = ("done", "failed", "stopped")
# What a job's last beat says of its end, where it was stopped.
_STOPPED = {"time": JobState.TIMEOUT, "budget": JobState.DONE}


@dataclass
class Watch:
    """What is known of a launch, and when to ask again."""

    attempt: int = 0
    states: dict[int, JobState] = field(default_factory=dict)
    # The states that others were told.
    told: dict[int, JobState] = field(default_factory=dict)
    seen: dict[int, Seen] = field(default_factory=dict)
    # How jobs have ended badly, in words.
    words: dict[int, str] = field(default_factory=dict)
    # How many workers have found that nothing is left.
    through: int = 0
    settled: bool = False
    # When all jobs were first seen to have ended.
    ended_since: float | None = None
    next: float = 0.0
    pause: float = FIRST_PAUSE
    questions: int = 0
    next_logs: float = 0.0


def note_states(handle: Handle, watch: Watch) -> None:
    """How the jobs are, from their beats and what Snowflake has said."""
    for job in handle.jobs:
        seen = watch.seen.get(job)
        watch.states[job] = state_of(handle.beats.get(job), None if seen is None else seen.state)
    through = sum(beat["state"] == "done" for beat in handle.beats.values())
    if through > watch.through:
        # Those of a pool live on, so that no state of a job tells that the end is near.
        watch.pause = FIRST_PAUSE
    watch.through = through


def told(handle: Handle, watch: Watch) -> dict[int, JobState]:
    """The states for others. A launch whose results are not all here has not ended: the jobs that
    were the last to end go on meanwhile, for a state that was told is not taken back.
    """
    states = {job: watch.states.get(job, JobState.UNKNOWN) for job in handle.jobs}
    if not watch.settled and states and all(state.ended for state in states.values()):
        last = [job for job in handle.jobs if not watch.told.get(job, JobState.UNKNOWN).ended]
        return states | dict.fromkeys(last, JobState.RUNNING)
    watch.told = states
    return states


def late(handle: Handle, watch: Watch) -> list[str]:
    """What jobs have written, by what is known of them, and cannot be seen yet."""
    files, found = handle.files, []
    for job in handle.jobs:
        seen, beat = watch.seen.get(job), handle.beats.get(job, {})
        done = seen is not None and seen.state is JobState.DONE and seen.beats
        if done and beat.get("state") not in FINAL:
            found.append(files.beat(JobAttempt(job, handle.attempt)))
    # Workers of a pool have numbers beyond those of the plan's jobs.
    for job, beat in handle.beats.items():
        who = JobAttempt(job, handle.attempt)
        names = (files.part(who, seq) for seq in range(int(beat.get("parts", 0))))
        found += [name for name in names if not files.path(name).exists()]
    return found


def words_of(seen: Seen | None) -> str:
    """How a job has ended badly; empty where nothing is known of it."""
    return ending_words(seen) if seen is not None and seen.state.ended else ""


def state_of(beat: Mapping[str, Any] | None, seen: JobState | None) -> JobState:
    """How a job is, by its own word and by Snowflake's.

    >>> state_of({"state": "done"}, JobState.RUNNING), state_of(None, JobState.PENDING)
    (<JobState.DONE: 'done'>, <JobState.PENDING: 'pending'>)
    """
    said = None if beat is None else str(beat["state"])
    if said == "done":
        return JobState.DONE
    if seen is None:
        return JobState.UNKNOWN if beat is None else JobState.RUNNING
    if not seen.ended:
        # A word of an earlier start of the same job does not count while it runs again.
        return JobState.RUNNING if beat is not None and seen is JobState.PENDING else seen
    if said == "stopped" and (beat or {}).get("ending") != "left":
        return _STOPPED.get(str(beat["ending"] if beat else ""), JobState.CANCELLED)
    if said == "failed":
        return JobState.FAILED
    return seen
