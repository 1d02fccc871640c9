"""How jobs are and what became of them, from their heartbeats and from what SLURM says: pure."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from flowdist.backends.base import JobState, Remark
from flowdist.backends.slurm.cluster import Limits
from flowdist.backends.slurm.states import Record, explain_reason, job_state, never_starts
from flowdist.explain import roughly

Beat = Mapping[str, Any]
Ending = Literal["stopped", "failed", "lost"]

# What a job that has stopped by itself says of the reason, as a state.
_ENDINGS = {"time": JobState.TIMEOUT}

_GRAVE: Mapping[JobState, Ending] = {
    JobState.FAILED: "failed",
    JobState.OUT_OF_MEMORY: "failed",
    JobState.NODE_FAIL: "lost",
    JobState.LOST: "lost",
}


def from_beat(beat: Beat | None) -> JobState | None:
    """The state of a job whose heartbeat is the last word on it; None where SLURM has to be asked.

    >>> from_beat({"state": "done"}), from_beat({"state": "running"}), from_beat(None)
    (<JobState.DONE: 'done'>, None, None)
    """
    ends = {"done": JobState.DONE, "failed": JobState.FAILED}
    return None if beat is None else ends.get(beat["state"])


def state_of(
    said: JobState | None,
    beat: Beat | None,
    record: Record | None,
    *,
    submitted: bool,
    answered: bool,
    known: bool,
) -> JobState:
    """The state of one job.

    Args:
        said: what its heartbeat settles.
        record: what SLURM says of it.
        submitted: whether it was handed to SLURM at all.
        answered: whether SLURM has answered.
        known: whether SLURM must know it by now.
    """
    if said is not None:
        return said
    if not submitted:
        return JobState.LOST
    running = beat is not None and beat["state"] == "running"
    ours = None if record is None else job_state(record)
    if ours is JobState.PENDING and running:
        return JobState.RUNNING  # it has begun since SLURM was asked, or is being started again
    if ours is not None and not ours.ended:
        return ours
    if ours is None and not answered:
        return JobState.RUNNING if running else JobState.UNKNOWN
    if ours is None and not known:
        return JobState.RUNNING if running else JobState.PENDING
    stopped = None
    if beat is not None and beat["state"] == "stopped":
        stopped = _ENDINGS.get(beat["ending"], JobState.CANCELLED)
    if ours in (None, JobState.FAILED, JobState.CANCELLED) and stopped is not None:
        return stopped
    return ours or JobState.LOST


# What became of a launch --------------------------------------------------------------------------


def ending(
    states: Mapping[int, JobState], beats: Mapping[int, Beat], records: Mapping[int, Record]
) -> tuple[Ending, str]:
    """What became of a launch that has ended with work left: the gravest thing, and a sentence.

    >>> states = {0: JobState.DONE, 1: JobState.OUT_OF_MEMORY, 2: JobState.OUT_OF_MEMORY}
    >>> ending(states, {}, {1: Record(7, 1, "OUT_OF_MEMORY", nodes="n2")})
    ('failed', '2 jobs ran out of memory (job 1 on n2, job 2)')
    """
    by_state: dict[JobState, list[int]] = defaultdict(list)
    bad = [job for job, state in sorted(states.items()) if state is not JobState.DONE]
    # A reduce that found rows missing says nothing of why they are.
    causes = [job for job in bad if beats.get(job, {}).get("ending") != "rows"]
    for job in causes or bad:
        by_state[states[job]].append(job)
    order = [*_GRAVE, JobState.TIMEOUT, JobState.PREEMPTED, JobState.CANCELLED]
    found = [state for state in order if state in by_state]
    grave: Ending = next((_GRAVE[state] for state in found if state in _GRAVE), "stopped")
    said = [_sentence(state, by_state[state], beats, records) for state in found]
    return grave, "; ".join(said)


def _sentence(
    state: JobState,
    jobs: Sequence[int],
    beats: Mapping[int, Beat],
    records: Mapping[int, Record],
) -> str:
    one = len(jobs) == 1
    text = _SAID.get(state, "failed")
    if state is JobState.CANCELLED:
        # The reason of a job that has run is that for which it waited last.
        never = (r for job in jobs if (r := records.get(job)) is not None and not r.nodes)
        dropped = sum("Dependency" in record.reason for record in never) == len(jobs)
        text = "was cancelled" if one else "were cancelled"
        if dropped and one:
            text = "was dropped, as a job that it follows had not succeeded"
        elif dropped:
            text = "were dropped, as jobs that they follow had not succeeded"
    shown = ", ".join(_place(job, records.get(job), beats.get(job), state) for job in jobs[:3])
    more = f" and {len(jobs) - 3:,} more" if len(jobs) > 3 else ""
    return f"{len(jobs):,} job{'' if one else 's'} {text} ({shown}{more})"


_SAID = {
    JobState.OUT_OF_MEMORY: "ran out of memory",
    JobState.TIMEOUT: "came to the time limit",
    JobState.PREEMPTED: "had to make room for others",
    JobState.NODE_FAIL: "lost the node",
    JobState.LOST: "ended, and SLURM does not know how",
}


def _place(job: int, record: Record | None, beat: Beat | None, state: JobState) -> str:
    said = f"job {job}"
    if record is not None and record.nodes:
        said += f" on {record.nodes}"
    if record is not None and state is JobState.FAILED:
        how = f"signal {record.signal}" if record.signal else f"exit code {record.exit_code}"
        return f"{said} with {how}"
    if beat is not None and beat["state"] == "stopped" and beat["reason"]:
        said += f": {beat['reason']}"
    return said


def advice(states: Mapping[int, JobState]) -> Iterator[Remark]:
    """What to do about jobs that have ended badly, one remark for each way."""
    counts = Counter(states.values())
    for state, text in _ADVICE.items():
        if counts[state]:
            data = {"state": state.value, "jobs": counts[state]}
            yield Remark("job ends", f"{counts[state]:,} of {len(states):,} jobs: {state.value}",
                         data, text)  # fmt: skip


_ADVICE = {
    JobState.OUT_OF_MEMORY: "give jobs more memory= (or fewer workers=), or let "
    "retry=retry_oom(memory=2, max=...) start them again with more; flowdist report shows what was "
    "used",
    JobState.TIMEOUT: "give jobs more time=, or let resubmit=True start them again while work is "
    "left",
    JobState.PREEMPTED: "requeue=True lets SLURM start such jobs again by itself",
    JobState.NODE_FAIL: "requeue=True lets SLURM start such jobs again by itself",
}


# What a launch waits for --------------------------------------------------------------------------


def remarks(
    queued: Sequence[Record], arrays: Iterable[Mapping[str, Any]], limits: Limits, waited: float
) -> list[Remark]:
    """Why jobs that have not started have not, one remark for each of SLURM's reasons.

    `waited` are the seconds since the launch was submitted.
    """
    sizes = {int(a["id"]): a for a in arrays}
    running = sum(1 for r in queued if job_state(r) is JobState.RUNNING)
    named = Counter(r.array for r in queued if r.task is not None)
    pending: dict[str, int] = defaultdict(int)
    waiting: dict[str, set[int]] = defaultdict(set)
    at_once: dict[str, int | None] = {}
    for record in queued:
        if record.array not in sizes or job_state(record) is not JobState.PENDING:
            continue
        array = sizes[record.array]
        # A record without a task stands for those of its array that have none of their own.
        alone = record.task is not None
        pending[record.reason] += 1 if alone else array["count"] - named[record.array]
        waiting[record.reason].add(record.array)
        at_once[record.reason] = array.get("limit")
    found = []
    for reason, jobs in sorted(pending.items(), key=lambda pair: -pair[1]):
        why = explain_reason(reason, limits=limits, at_once=at_once[reason], running=running)
        many = f"{jobs:,} job{'s' if jobs > 1 else ''}"
        text = f"{many} pending for {roughly(waited)}: {why or 'SLURM has not looked at them yet'}"
        stuck = never_starts(reason)
        found.append(
            Remark(
                "never starts" if stuck else "pending",
                text,
                {"jobs": jobs, "reason": reason, "seconds": round(waited, 1)},
                _way_out(reason, waiting[reason]) if stuck else "",
            )
        )
    return found


def _way_out(reason: str, arrays: Iterable[int]) -> str:
    """What lets jobs go on that would never start by themselves."""
    if re.search("held|hold", reason, re.IGNORECASE):
        return f"let them go on: scontrol release {','.join(map(str, sorted(arrays)))}"
    return "cancel the run and submit it with what the cluster allows"
