"""The SLURM backend: a launch is a few job arrays, chained phase after phase.

What SLURM's commands say is `client`'s and `states`', the text of scripts `script`'s. How a job is
doing is known from its heartbeat first, and from SLURM where that says nothing: every 2 to 60
seconds `squeue` is asked for all jobs of a run at once, and `sacct` about those that have left the
queue without a word of their own. (`sacct` alone would not do: it has no line for tasks that wait.)
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import psutil

from flowdist.backends.base import Handle, JobState, Remark
from flowdist.backends.slurm import outcomes
from flowdist.backends.slurm.arrays import (
    Array,
    keeper_job,
    log_of,
    places,
    plan_arrays,
    with_keeper,
)
from flowdist.backends.slurm.client import SlurmClient, SlurmError
from flowdist.backends.slurm.plans import Slurm
from flowdist.backends.slurm.script import index_ranges, parse_ranges
from flowdist.backends.slurm.states import Record, job_state
from flowdist.backends.slurm.submit import Submission
from flowdist.clock import Clock, SystemClock
from flowdist.errors import BackendError, FlowdistError
from flowdist.plan import Plan
from flowdist.settings import host

if TYPE_CHECKING:
    from flowdist.plan import PlanSummary
    from flowdist.preflight import Check
    from flowdist.usage import JobUsage

# SLURM's own default.
ARRAY_SIZE = 1001
# How often SLURM is asked while nothing changes.
FIRST_PAUSE, LONGEST_PAUSE, PAUSE_GROWTH = 2.0, 60.0, 1.5
# A job that was submitted so long ago is known to SLURM, if it ever was.
KNOWN_SECONDS = 60.0
# Submitting takes at most about so long, retries included.
SUBMIT_SECONDS = 600.0


@dataclass
class _Watch:
    """What SLURM has said of a launch, and when to ask again."""

    attempt: int = 0
    records: dict[tuple[int, int | None], Record] = field(default_factory=dict)
    answered: bool = False
    seen: dict[int, JobState] = field(default_factory=dict)
    next: float = 0.0
    pause: float = FIRST_PAUSE


class SlurmBackend:
    """Starts jobs as arrays of SLURM, and asks SLURM about them.

    Args:
        clock: time and sleep.
        client: what calls SLURM's commands.
        chance: spreads the questions of many waiting processes.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        client: SlurmClient | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._client = client or SlurmClient(self._clock)
        self._chance = chance or random.Random()
        self._watch = _Watch()

    # -- starting ------------------------------------------------------------------------------

    def check(self, plan: Plan, summary: PlanSummary, *, brief: bool = False) -> list[Check]:
        from flowdist.backends.slurm.checks import check

        return check(cast(Slurm, plan), summary, self._client, brief=brief)

    def launch(self, handle: Handle) -> Handle:
        files = handle.files
        files.path("logs").mkdir(mode=0o700, parents=True, exist_ok=True)
        submission = Submission(self._client, handle, _earlier(handle), self._clock)
        try:
            submission.submit_all(plan_arrays(files.manifest(), handle.jobs, self._array_size()))
        except BaseException as error:
            # Half a launch is none: what has been submitted would wait for the rest.
            self._record(handle, submission, error=str(error) or type(error).__name__)
            self._client.cancel(submission.ids)
            if not isinstance(error, FlowdistError):
                raise
            raise BackendError(
                f"run {submission.name} was not started: {error}\n(once that is mended, "
                f"flowdist resume {submission.name} starts it)"
            ) from None
        started = self._record(handle, submission)
        if files.read_json(files.stop(handle.attempt)) is not None:
            # Cancelled meanwhile, by somebody who could not know the ids yet.
            self._client.cancel(submission.ids)
        return replace(handle, started=started)

    def _array_size(self) -> int:
        said = self._client.config().get("MaxArraySize", "")
        return max(1, int(said)) if said.isdigit() else ARRAY_SIZE

    def _record(self, handle: Handle, submission: Submission, error: str = "") -> Mapping[str, Any]:
        """Write down what was submitted, and why that is not all."""
        return self._write(handle, submission.arrays, submission.dropped, error)

    def _write(
        self, handle: Handle, arrays: Sequence[Array], dropped: Sequence[int], error: str
    ) -> Mapping[str, Any]:
        files = handle.files
        started = {
            "time": self._clock.time(),
            "host": host(),
            "error": error,
            "dropped": list(dropped),
            "arrays": [
                {
                    "id": a.id,
                    "number": a.number,
                    "phase": a.phase,
                    "base": a.base,
                    "tasks": index_ranges(a.tasks),
                    "count": len(a.tasks),
                    "limit": a.limit,
                }
                for a in arrays
            ],
        }
        try:
            files.put_json(files.launch(handle.attempt), started)
        except FileExistsError:
            # Somebody took this submission for dead, and found its arrays by their name.
            return files.read_json(files.launch(handle.attempt)) or started
        return started

    # -- asking --------------------------------------------------------------------------------

    def poll(self, handle: Handle) -> dict[int, JobState]:
        handle, unknown = self._found(handle)
        if unknown is not None:
            return dict.fromkeys(handle.jobs, unknown)
        where = places(handle)
        # The keeper is none of the run's jobs, and a launch has not ended before it has.
        keeper = keeper_job(handle.files.manifest())
        jobs = [*handle.jobs, *(job for job in where if job == keeper)]
        said = {job: outcomes.from_beat(handle.beats.get(job)) for job in jobs}
        if not all(state is not None and state.ended for state in said.values()):
            self._ask(handle)
        watch, age = self._watch, self._age(handle)
        states: dict[int, JobState] = {}
        for job in jobs:
            record = None
            if job in where:
                array, task = where[job]
                record = watch.records.get((array, task)) or watch.records.get((array, None))
            states[job] = outcomes.state_of(
                said[job],
                handle.beats.get(job),
                record,
                submitted=job in where,
                answered=watch.answered,
                known=age > KNOWN_SECONDS,
            )
        deferred = [job for job in jobs if job not in where]
        if deferred and not all(states[job].ended for job in jobs if job in where):
            states |= dict.fromkeys(deferred, JobState.PENDING)
        if states != watch.seen:
            watch.seen, watch.pause = states, FIRST_PAUSE
        return states

    def _age(self, handle: Handle) -> float:
        return self._clock.time() - float((handle.started or {}).get("time", 0.0))

    def _ask(self, handle: Handle) -> None:
        """Ask SLURM, unless that was done a moment ago."""
        watch, now = self._watch, self._clock.monotonic()
        if watch.attempt != handle.attempt:
            watch = self._watch = _Watch(handle.attempt)
        if now < watch.next:
            return
        # Only the queue knows all that waits: what accounting has no line for may be among it.
        watch.answered = heard = False
        name, found = handle.files.directory.name, dict[tuple[int, int | None], Record]()
        try:
            found = {(r.array, r.task): r for r in self._client.queue(name)}
            watch.answered = heard = True
        except BackendError:
            pass
        if not watch.answered or self._gone(handle, found):
            # The controller forgets jobs a few minutes after their end; how they ended, and for
            # want of what, accounting knows best.
            try:
                told = self._client.accounting(name, self._since(handle))
            except BackendError as error:
                if isinstance(error, SlurmError) and error.passing:
                    found = {place: self._awaited(r) for place, r in found.items()}
            else:
                heard = True
                live = {place for place, r in found.items() if not job_state(r).ended}
                known = {(r.array, r.task): r for r in told}
                found = {p: r if p in known else self._awaited(r) for p, r in found.items()}
                found |= {place: r for place, r in known.items() if place not in live}
        if heard:
            watch.records = found
        # From now on: a controller that is away takes many seconds to not answer.
        watch.next = self._clock.monotonic() + watch.pause * self._chance.uniform(0.8, 1.2)
        watch.pause = min(watch.pause * PAUSE_GROWTH, LONGEST_PAUSE)

    def _awaited(self, record: Record) -> Record:
        """A record of the queue that accounting does not have yet. What failed may have run out of
        memory: only accounting can tell.
        """
        age = self._clock.time() - (record.ended or 0.0)
        behind = job_state(record) is JobState.FAILED and age < KNOWN_SECONDS
        return replace(record, state="COMPLETING") if behind else record

    def _gone(self, handle: Handle, found: Mapping[tuple[int, int | None], Record]) -> bool:
        """Whether a job has ended badly, or is none of those in the queue, and has not said so
        itself.
        """
        for job, (array, task) in places(handle).items():
            record = found.get((array, task)) or found.get((array, None))
            state = JobState.LOST if record is None else job_state(record)
            well = state is JobState.DONE or not state.ended
            if not well and outcomes.from_beat(handle.beats.get(job)) is None:
                return True
        return False

    def _since(self, handle: Handle) -> float:
        intent = handle.files.read_json(handle.files.intent(handle.attempt)) or {}
        # Clocks of two machines differ.
        return float(intent.get("time", 0.0)) - 60.0

    def _found(self, handle: Handle) -> tuple[Handle, JobState | None]:
        """The launch with what was submitted of it; and the state of all jobs where that is not
        known: the process that submits them is at it, or died before it could say.
        """
        if handle.started is not None:
            return handle, None
        intent = handle.files.read_json(handle.files.intent(handle.attempt))
        if intent is None:
            return handle, JobState.LOST
        if _submitting(intent, self._clock.time()):
            return handle, JobState.UNKNOWN
        try:
            ids = self._client.find(handle.files.directory.name, self._since(handle))
        except BackendError:
            return handle, JobState.UNKNOWN
        ids = sorted(set(ids) - set(_earlier(handle)))
        if not ids:
            return handle, JobState.LOST
        # One process submits one array after the other, so their ids are in the same order.
        manifest = handle.files.manifest()
        planned = plan_arrays(manifest, handle.jobs, self._array_size())
        planned = with_keeper(manifest, planned) if manifest["escalates"] else planned
        arrays = [replace(a, id=found) for a, found in zip(planned, ids, strict=False)]
        return replace(handle, started=self._write(handle, arrays, [], "")), None

    def ending(
        self, handle: Handle, states: Mapping[int, JobState]
    ) -> tuple[Literal["stopped", "failed", "lost"], str]:
        handle, _ = self._found(handle)
        if handle.started is None:
            return "lost", "its jobs were never submitted"
        if handle.started["error"]:
            return "failed", f"its jobs were not submitted: {handle.started['error']}"
        records = {
            job: self._watch.records[place]
            for job, place in places(handle).items()
            if place in self._watch.records
        }
        # The keeper ends badly because jobs have: it is the reason only where they have not.
        keeper = keeper_job(handle.files.manifest())
        own = {job: state for job, state in states.items() if job != keeper}
        bad = any(state is not JobState.DONE for state in own.values())
        return outcomes.ending(own if bad else states, handle.beats, records)

    def remarks(self, handle: Handle, states: Mapping[int, JobState]) -> list[Remark]:
        handle, _ = self._found(handle)
        if handle.started is None:
            return []
        if all(state.ended for state in states.values()):
            return list(outcomes.advice(states))
        name = handle.files.directory.name
        try:
            queued = self._client.queue(name)
        except BackendError as error:
            return [Remark("scheduler", f"SLURM does not answer: {error}")]
        plan = cast(Slurm, Plan.from_json(handle.files.manifest()["plan"]))
        limits = self._client.limits(plan.account, plan.qos)
        return outcomes.remarks(queued, handle.started["arrays"], limits, self._age(handle))

    # -- looking closer ------------------------------------------------------------------------

    def usage(self, handle: Handle) -> list[JobUsage]:
        """What jobs asked for and used, from accounting."""
        from flowdist.backends.slurm.usage import usage

        return usage(handle, self._client)

    def probe(self, plans: Sequence[Plan]) -> list[Check]:
        """What a small job finds on the nodes that jobs of these plans may get."""
        from flowdist.backends.slurm.probe import probe

        return probe([cast(Slurm, plan) for plan in plans], self._client, clock=self._clock)

    def fetch(self, handle: Handle, artifact: str | None = None) -> None:
        """Nothing: jobs write into the run's directory."""

    # -- ending --------------------------------------------------------------------------------

    def firings(self, handle: Handle) -> list[Path]:
        """None: its plans have no schedule."""
        return []

    def cancel(self, handle: Handle) -> None:
        handle.files.request_stop(handle.attempt, "cancelled", self._clock.time())
        handle, _ = self._found(handle)
        ids = [int(a["id"]) for a in (handle.started or {}).get("arrays", ())]
        if ids:
            self._client.cancel(ids)
            self._watch.next = 0.0

    def logs(self, handle: Handle, job: int | None) -> list[Path]:
        handle, _ = self._found(handle)
        paths = []
        for array in (handle.started or {}).get("arrays", ()):
            for task in parse_ranges(array["tasks"]):
                if job is None or array["base"] + task == job:
                    name = f"{log_of(handle.attempt, array['number'])}-{task}.log"
                    paths.append(handle.files.path(name))
        return paths if job is not None else [path for path in paths if path.exists()]

    def delete(self, handle: Handle) -> None:
        """Nothing: all of a run is in its directory."""

    def close(self) -> None:
        """Nothing is held."""


def _earlier(handle: Handle) -> list[int]:
    """The ids of the arrays of earlier launches."""
    files = handle.files
    launches = (files.read_json(files.launch(n)) or {} for n in range(1, handle.attempt))
    return [
        int(number)
        for launch in launches
        for number in (*(a["id"] for a in launch.get("arrays", ())), *launch.get("dropped", ()))
    ]


def _submitting(intent: Mapping[str, Any], now: float) -> bool:
    """Whether the process that wrote the intent may still be submitting."""
    if abs(now - float(intent["time"])) > SUBMIT_SECONDS:
        return False
    if intent.get("host") != host():
        return True
    try:
        process = psutil.Process(int(intent["pid"]))
        # A process that began later has only got the same number.
        return process.is_running() and process.create_time() <= float(intent["time"]) + 1.0
    except psutil.Error:
        return False
