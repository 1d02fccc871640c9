"""What to ask for next time, from what jobs asked for and used: pure.

Each sentence has the figures that it rests on and the margin that is in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowdist.backends.base import JobState
from flowdist.phases import reduce_phases, row_phases
from flowdist.resources import format_memory, format_time
from flowdist.usage import JobUsage, Measure, measures

if TYPE_CHECKING:
    from flowdist.plan import Plan

__all__ = ["PhaseUsage", "phase_usages", "suggest"]

# Memory and time vary from run to run; what jobs used is taken times this for the next request.
MARGIN = 1.5
# A request is worth changing where less than this share of it would do: smaller changes would not
# let a job start sooner.
WORTH = 0.75
# Cores are seldom busy all the time: rows read files, workers start.
IDLE_CORES = 0.6
# Less than this is not asked for: it is a Python process with pandas.
LEAST_MEMORY = 256 * 1024**2
# Requests as small as these keep no job waiting.
SMALL_MEMORY, SMALL_TIME = 1024**3, 900
# A job that lives shorter than this is mostly start; this much of work makes up for one.
SHORT_JOB, WORTH_A_START = 20.0, 60.0


@dataclass(frozen=True)
class PhaseUsage:
    """What the jobs of one phase asked for and used, which all made the same request.

    Attributes:
        name: its stages, or the reduce; empty where the run has one phase.
        jobs: every start of every job, in order.
        measures: cores, memory and time over all of them.
        advice: what to ask for next time.
    """

    name: str
    jobs: Sequence[JobUsage]
    measures: Sequence[Measure]
    advice: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "name": self.name,
            "jobs": [job.to_dict() for job in self.jobs],
            "measures": [one.to_dict() for one in self.measures],
            "advice": list(self.advice),
        }


def phase_usages(manifest: Mapping[str, Any], usages: Sequence[JobUsage]) -> list[PhaseUsage]:
    """What each phase of a run asked for and used; phases of which nothing is known are left
    out.
    """
    from flowdist.plan import Plan

    rows, found = row_phases(manifest), []
    names = {p["table"]: ", ".join(p["stages"]) if len(rows) > 1 else "rows" for p in rows}
    names |= {p["table"]: f"reduce {p['table']}" for p in reduce_phases(manifest)}
    alone = len(manifest["phases"]) == 1
    for phase in manifest["phases"]:
        jobs = range(phase["first_job"], phase["first_job"] + phase["jobs"])
        own = [one for one in usages if one.job in jobs]
        if own:
            advice = suggest(own, Plan.from_json(phase["plan"]))
            name = "" if alone else names[phase["table"]]
            found.append(PhaseUsage(name, own, measures(own), advice))
    return found


def suggest(usages: Sequence[JobUsage], plan: Plan) -> list[str]:
    """What to ask for next time, each with the figures it rests on and the margin in it.

    Nothing is said of what was asked for sensibly. `usages` are of jobs that made the same request.

    >>> from flowdist.plan import local
    >>> gb = 1024**3
    >>> used = [JobUsage(0, 1, "done", "n1", memory_asked=8 * gb, memory_used=1_200_000_000)]
    >>> suggest(used, local(memory="8GB", workers=1))
    ["memory='1.75GB' would do: the fullest job used 1.1 GiB of 8 GiB (half of it is added)"]
    """
    begun = [one for one in usages if one.seconds or one.memory_used]
    return [*_memory(begun, plan), *_time(begun, plan), *_cores(begun, plan), *_short(begun, plan)]


def _memory(usages: Sequence[JobUsage], plan: Plan) -> Iterable[str]:
    full = [one for one in usages if one.state == JobState.OUT_OF_MEMORY.value]
    peaks = [one for one in usages if one.memory_used]
    if full:
        most = max((one.memory_asked or 0 for one in full), default=0)
        if not most:
            return
        # Where SLURM looks only now and then, a job may have come far beyond what it asked for.
        most = max([most, *(one.memory_used or 0 for one in full)])
        enough = [one.memory_asked or 0 for one in usages if one.state == JobState.DONE.value]
        wanted = min((size for size in enough if size > most), default=2 * most)
        workers = " or fewer workers" if plan.worker_count() > 1 else ""
        yield (
            f"memory={memory_text(wanted)!r}{workers}: {_jobs(len(full))} ran out of "
            f"{format_memory(most)}"
        )
        return
    if not peaks or not any(one.memory_asked for one in peaks):
        return
    fullest = max(peaks, key=lambda one: one.memory_used or 0)
    used, asked = fullest.memory_used or 0, max(one.memory_asked or 0 for one in peaks)
    wanted = round_memory(int(used * MARGIN))
    said = f"the fullest job used {format_memory(used)} of {format_memory(asked)}"
    if wanted <= WORTH * asked and asked > SMALL_MEMORY:
        yield f"memory={memory_text(wanted)!r} would do: {said} (half of it is added)"
    elif used > 0.9 * asked:
        safer = round_memory(int(1.25 * max(asked, used)))
        yield f"memory={memory_text(safer)!r} is safer: {said}"


def _time(usages: Sequence[JobUsage], plan: Plan) -> Iterable[str]:
    ended = (JobState.DONE.value, JobState.FAILED.value)
    cut = [one for one in usages if one.state == JobState.TIMEOUT.value and one.time_asked]
    whole = [one for one in usages if one.state in ended and one.time_asked]
    again = bool(getattr(plan, "resubmit", False))
    if cut:
        if again:
            return  # meant to go on in another start
        limit = max(one.time_asked or 0 for one in cut)
        instead = ", or resubmit=True" if hasattr(plan, "resubmit") else ""
        yield (
            f"time={time_text(round_time(2 * limit))!r}{instead}: {_jobs(len(cut))} came to "
            f"the end of {format_time(limit)}"
        )
        return
    if not whole or again:
        return
    longest = max(whole, key=lambda one: one.seconds)
    asked = max(one.time_asked or 0 for one in whole)
    wanted = round_time(longest.seconds * MARGIN)
    if wanted <= WORTH * asked and asked > SMALL_TIME:
        took = format_time(max(1, round(longest.seconds)))
        yield (
            f"time={time_text(wanted)!r} would do, and shorter jobs start sooner: the longest took "
            f"{took} of {format_time(asked)} (half of it is added)"
        )


def _cores(usages: Sequence[JobUsage], plan: Plan) -> Iterable[str]:
    known = [one for one in usages if one.cores_used is not None and one.cpus_asked]
    seconds = sum(one.seconds for one in known)
    # In short jobs, workers that start are most of what there is to see.
    if not known or seconds / len(known) < SHORT_JOB or plan.sized_at_start:
        return
    used = sum(one.cpu_seconds or 0.0 for one in known) / seconds
    asked = sum((one.cpus_asked or 0) * one.seconds for one in known) / seconds
    if asked <= 1 or used > IDLE_CORES * asked:
        return
    wanted = max(1, math.ceil(used * 1.25))
    if wanted > WORTH * asked:
        return
    said = f"jobs kept {used:.1f} of {asked:.3g} cores busy"
    if getattr(plan, "cores_per_node", None):
        change = f"cores_per_node={wanted}"
    elif plan.cpus_per_worker > 1:
        change = f"cpus={max(1, math.ceil(wanted / plan.worker_count()))}"
    else:
        change = f"workers={wanted}"
    yield f"{change} would do: {said} (a quarter is added); or give a job more rows"


def _short(usages: Sequence[JobUsage], plan: Plan) -> Iterable[str]:
    done = [one for one in usages if one.state == JobState.DONE.value]
    total = sum(one.seconds for one in done)
    if plan.here or len(done) < 2 or total / len(done) >= SHORT_JOB:
        return
    wanted = max(1, math.ceil(total / WORTH_A_START))
    yield (
        f"target_jobs={wanted} packs the same rows into fewer jobs: {_jobs(len(done))} took "
        f"{total / len(done):.1f} s each, and starting one takes about as long"
    )


def round_memory(size: int) -> int:
    """The next size that people write: quarters of a power of two, from 256 MiB.

    >>> [format_memory(round_memory(n * 1024**2)) for n in (3, 700, 1100, 9000)]
    ['256 MiB', '768 MiB', '1.2 GiB', '10 GiB']
    """
    if size <= LEAST_MEMORY:
        return LEAST_MEMORY
    step = 2 ** (math.floor(math.log2(size)) - 2)
    return int(math.ceil(size / step) * step)


def memory_text(size: int) -> str:
    """Bytes as `memory=` takes them.

    >>> memory_text(round_memory(1_200_000_000)), memory_text(768 * 1024**2)
    ('1.25GB', '768MB')
    """
    if size >= 1024**3:
        return f"{math.ceil(size * 4 / 1024**3) / 4:g}GB"
    return f"{math.ceil(size / 1024**2)}MB"


_TIMES = [60 * n for n in (5, 10, 15, 20, 30, 45)]
_TIMES += [3600 * n for n in (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 36)]


def round_time(seconds: float) -> int:
    """The next time that people write, in seconds; from 5 minutes, from two days whole days.

    >>> [format_time(round_time(n)) for n in (7, 1000, 4000, 200_000)]
    ['5 min', '20 min', '2 h', '3 d']
    """
    days = math.ceil(seconds / 86_400) * 86_400
    return next((time for time in _TIMES if time >= seconds), days)


def time_text(seconds: int) -> str:
    """Seconds as `time=` takes them.

    >>> time_text(1200), time_text(7200), time_text(172_800)
    ('20min', '2h', '2d')
    """
    return format_time(seconds).replace(" ", "")


def _jobs(count: int) -> str:
    return f"{count:,} job" if count == 1 else f"{count:,} jobs"
