"""The job arrays of a launch: which tasks run which jobs, and what waits for what. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from flowdist.backends.base import Handle
from flowdist.backends.slurm.plans import Slurm
from flowdist.backends.slurm.script import array_texts, parse_ranges
from flowdist.phases import Phase, is_reduce, job_count
from flowdist.plan import Plan


@dataclass(frozen=True)
class Array:
    """One array of a launch: its tasks run the jobs `base` + task.

    Attributes:
        number: names it within its launch.
        phase: the place of its phase in the manifest; None for the keeper, which is no array.
        after: what it waits for, as pairs of sbatch's word and the numbers of other arrays.
        limit: how many of its tasks run at the same time.
        id: what SLURM calls it; None before it was submitted.
    """

    number: int
    phase: int | None
    base: int
    tasks: tuple[int, ...]
    after: tuple[tuple[str, tuple[int, ...]], ...] = ()
    limit: int | None = None
    id: int | None = None


def plan_arrays(manifest: Mapping[str, Any], jobs: Sequence[int], size: int) -> list[Array]:
    """The arrays that a launch of `jobs` consists of, in the order in which they are submitted.

    Args:
        size: how many tasks an array may have; indices are below it.
    """
    arrays: list[Array] = []
    of_reduce: dict[str, int] = {}
    before: list[Array] = []
    for number, phase in enumerate(manifest["phases"]):
        own = _arrays_of(phase, number, jobs, size, len(arrays))
        if is_reduce(phase):
            waits = [a.number for a in before]
            waits += [of_reduce[name] for name in phase["reads"] if name in of_reduce]
            own = [replace(a, after=waiting("afterany", waits)) for a in own]
            of_reduce.update((phase["table"], a.number) for a in own)
        elif before and manifest["plan"]["dispatch"] == "static":
            # Array by array, each with the same jobs of the layout.
            pairs = zip(own, before, strict=True)
            own = [
                replace(a, after=(*a.after, *waiting("aftercorr", [b.number]))) for a, b in pairs
            ]
        elif before:
            waits = [a.number for a in before]
            own = [replace(a, after=(*a.after, *waiting("afterany", waits))) for a in own]
        arrays += own
        before = before if is_reduce(phase) else own
    return arrays


def keeper_job(manifest: Mapping[str, Any]) -> int:
    """The number by which the keeper goes among the jobs; no job of the run has it."""
    return job_count(manifest)


def is_reduce_array(manifest: Mapping[str, Any], array: Array) -> bool:
    """Whether an array is the job of a reduce."""
    return array.phase is not None and is_reduce(manifest["phases"][array.phase])


def with_keeper(manifest: Mapping[str, Any], arrays: Sequence[Array]) -> list[Array]:
    """The arrays with a keeper after those of rows; reduces follow one that starts nothing."""
    rows = [array for array in arrays if not is_reduce_array(manifest, array)]
    number = max((array.number for array in arrays), default=-1) + 1
    waits = waiting("afterany", [array.number for array in rows])
    keeper = Array(number, None, keeper_job(manifest), (0,), after=waits)
    reduces = [
        replace(array, after=(*array.after, ("afterok", (number,))))
        for array in arrays[len(rows) :]
    ]
    return [*rows, keeper, *reduces]


def first_jobs(arrays: Sequence[Array], jobs: int, number: int) -> list[Array]:
    """The arrays of rows with the first `jobs` jobs of every phase, numbered from `number` on."""
    left: dict[int | None, int] = {}
    kept = []
    for array in arrays:
        tasks = array.tasks[: left.setdefault(array.phase, jobs)]
        left[array.phase] -= len(tasks)
        if tasks:
            kept.append(replace(array, tasks=tasks))
    new = {array.number: number + place for place, array in enumerate(kept)}
    return [
        replace(
            array,
            number=new[array.number],
            after=tuple((how, tuple(new[n] for n in numbers)) for how, numbers in array.after),
        )
        for array in kept
    ]


def waiting(how: str, numbers: Sequence[int]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """A dependency on arrays, by their numbers, in sbatch's word; none where there are none.

    >>> waiting("afterany", [0, 1])
    (('afterany', (0, 1)),)
    """
    return ((how, tuple(numbers)),) if numbers else ()


def _arrays_of(
    phase: Phase, number: int, jobs: Sequence[int], size: int, first_number: int
) -> list[Array]:
    """The arrays of one phase. Where there are more than the plan lets run at once, each waits for
    the one that many before it.
    """
    first = int(phase["first_job"])
    blocks: dict[int, list[int]] = defaultdict(list)
    for job in jobs:
        if first <= job < first + int(phase["jobs"]):
            blocks[(job - first) // size].append(job)
    wanted = [
        (first + block * size, tuple(parse_ranges(text)))
        for block, members in sorted(blocks.items())
        for text in array_texts(job - first - block * size for job in members)
    ]
    lanes = _lanes(phase, len(wanted), sum(len(tasks) for _, tasks in wanted))
    own: list[Array] = []
    for place, (base, tasks) in enumerate(wanted):
        waits = [own[place - len(lanes)].number] if lanes and place >= len(lanes) else []
        own.append(
            Array(
                number=first_number + place,
                phase=number,
                base=base,
                tasks=tasks,
                after=waiting("afterany", waits),
                limit=lanes[place % len(lanes)] if lanes else None,
            )
        )
    return own


def _lanes(phase: Phase, arrays: int, tasks: int) -> list[int]:
    """How many tasks may run at the same time in each of the arrays that run side by side, such
    that they keep to what the plan allows together; empty where it allows all.
    """
    plan = cast(Slurm, Plan.from_json(phase["plan"]))
    at_once = plan.throttle(tasks)
    if at_once is None:
        return []
    lanes = min(at_once, arrays)
    return [at_once // lanes + (lane < at_once % lanes) for lane in range(lanes)]


def places(handle: Handle) -> dict[int, tuple[int, int]]:
    """Array id and task of every job that was submitted."""
    return {
        int(array["base"]) + task: (int(array["id"]), task)
        for array in (handle.started or {}).get("arrays", ())
        for task in parse_ranges(array["tasks"])
    }


def log_of(attempt: int, array: int) -> str:
    """The log of a task, up to its index."""
    return f"logs/slurm-{attempt}-{array}"
