"""Which rows a launch that has ended leaves for jobs with more, and how much more: pure but for
reading the run's parts.

The policies decide (`retry_oom`, `retry_timeout`); here they are asked, once for each way in which
jobs of a phase have ended. Starting the next launch is left to whoever asks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow.compute as pc

from flowdist.backends.base import Handle, JobState
from flowdist.flow import Program
from flowdist.parts import FAILED
from flowdist.phases import ROWS, Phase, row_phases
from flowdist.retry import Failure
from flowdist.states import load_parts, row_states
from flowdist.store import RunFiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

# How often and how much each phase's jobs have been given more: table -> resource -> factor.
Scale = Mapping[str, Mapping[str, float]]
Limit = Literal["memory", "time"]

_ENDS: Mapping[Limit, JobState] = {
    "memory": JobState.OUT_OF_MEMORY,
    "time": JobState.TIMEOUT,
}
_SAID: Mapping[Limit, tuple[str, str]] = {
    "memory": ("OutOfMemory", "its job ran out of memory"),
    "time": ("TimeLimit", "its job came to the time limit"),
}


@dataclass
class Escalation:
    """What the next launch is given.

    Attributes:
        scale: how many times as much as the plan asks for, by table and resource.
        times: how often each of them has grown.
        redo: rows that have failed and are to be tried again, shape (n,).
        asked: whether a policy has asked for another launch.
    """

    scale: dict[str, dict[str, float]] = field(default_factory=dict)
    times: dict[str, dict[str, int]] = field(default_factory=dict)
    redo: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    asked: bool = False

    def grow(self, table: str, scale: Mapping[str, float], limit: Limit) -> None:
        own = self.scale.setdefault(table, {})
        for resource, factor in scale.items():
            own[resource] = own.get(resource, 1.0) * factor
        counts = self.times.setdefault(table, {})
        counts[limit] = counts.get(limit, 0) + 1
        self.asked = True


def escalate(handle: Handle, program: Program, states: Mapping[int, JobState]) -> Escalation:
    """What to start after a launch whose jobs have ended in `states`, as the policies have it."""
    files, manifest = handle.files, handle.files.manifest()
    intent = files.read_json(files.intent(handle.attempt)) or {}
    found = Escalation(
        {table: dict(factors) for table, factors in (intent.get("scale") or {}).items()},
        {table: dict(counts) for table, counts in (intent.get("grown") or {}).items()},
    )
    wanting = _rows_that_want_more(files, int(manifest["layout"]["rows"]), handle.attempt)
    for phase in row_phases(manifest):
        rows = [row for row, stage in wanting.items() if stage in phase["stages"]]
        for limit, state in _ENDS.items():
            ended = [job for job in _jobs_of(phase) if states.get(job) is state]
            short = rows if limit == "memory" else []
            if not ended and not short:
                continue
            stages = {wanting[row] for row in short} | _at_work(handle, ended)
            more = _decide(handle, program, phase, limit, stages, found)
            if more:
                found.grow(phase["table"], more, limit)
                found.redo = np.append(found.redo, np.array(short, np.int64))
    return found


def _jobs_of(phase: Phase) -> range:
    return range(int(phase["first_job"]), int(phase["first_job"]) + int(phase["jobs"]))


def _at_work(handle: Handle, jobs: Iterable[int]) -> set[str]:
    """The stages that jobs were running when they were last heard of."""
    beats = (handle.beats.get(job, {}) for job in jobs)
    return {work["stage"] for beat in beats for work in beat.get("running", ())}


def _decide(
    handle: Handle,
    program: Program,
    phase: Phase,
    limit: Limit,
    names: set[str],
    found: Escalation,
) -> dict[str, float]:
    """How much more the policies of the named stages ask for; where none is known to have been at
    work, those of all stages of the phase.
    """
    before = found.scale.get(phase["table"], {})
    asked = {k: v * before.get(k, 1.0) for k, v in phase["plan"]["resources"].items()}
    stages = [stage for stage in program.row_stages if stage.name in phase["stages"]]
    type_, message = _SAID[limit]
    largest: dict[str, float] = {}
    for stage in [s for s in stages if s.name in names] or stages:
        failure = Failure(
            kind=limit,
            type=type_,
            message=message,
            exception=None,
            stage=stage.name,
            row=-1,
            attempt=found.times.get(phase["table"], {}).get(limit, 0) + 1,
            elapsed=0.0,
            asked=asked,
        )
        decision = None if stage.retry is None else stage.retry(failure)
        for resource, factor in decision.scale.items() if decision is not None else ():
            if resource not in asked:
                continue  # of what the plan does not ask for there is no more
            largest[resource] = max(factor, largest.get(resource, 1.0))
    return largest


def _rows_that_want_more(files: RunFiles, rows: int, attempt: int) -> dict[int, str]:
    """Failed rows of a launch that need a job with more memory, with the stage that failed."""
    states = row_states(files, rows)
    found: dict[int, str] = {}
    for of_attempt, part in load_parts(files, ROWS, ("_row", "_error")):
        part = part.filter(pc.is_valid(part.column("_error")))
        if of_attempt != attempt or not part.num_rows:
            continue
        numbers, errors = part.column("_row").to_pylist(), part.column("_error").to_pylist()
        for row, text in zip(numbers, errors, strict=True):
            error: dict[str, Any] = json.loads(text) if text else {}
            if "scale" in error and states[row] == FAILED:
                found[row] = error["stage"]
    return found
