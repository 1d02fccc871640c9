"""What jobs asked for and what they used.

`JobUsage` is one start of one job. `run_usage` asks the run's backend, and where that keeps no
accounts takes what jobs said of themselves in their heartbeats; `measures` sums up many jobs. What
to ask for next time is `flowdist.advice`'s, printing `flowdist.show`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from flowdist.backends.base import Handle, JobState
from flowdist.errors import BackendError
from flowdist.phases import job_count, phase_of, row_phases

if TYPE_CHECKING:
    from flowdist.cost import Cost
    from flowdist.run import Run
    from flowdist.store import RunFiles

__all__ = ["Accounts", "JobUsage", "Measure", "from_beats", "measures", "run_cost", "run_usage"]

Source = Literal["scheduler", "heartbeats"]


@dataclass(frozen=True)
class JobUsage:
    """What one start of one job asked for and used; None is what nobody knows.

    >>> one = JobUsage(0, 1, "done", "n1", cpus_asked=4, cpu_seconds=300.0, seconds=100.0)
    >>> one.cores_used, one.cores_share
    (3.0, 0.75)
    """

    job: int
    attempt: int
    """The number of the launch."""
    state: str
    """How it ended, in the words of `JobState`."""
    node: str
    """Where it ran; empty where it has not begun."""
    cpus_asked: int | None = None
    cpu_seconds: float | None = None
    """Seconds that its cores were busy, added up; from heartbeats the seconds spent in rows."""
    memory_asked: int | None = None
    """Bytes."""
    memory_used: int | None = None
    """Bytes at the fullest moment that was seen."""
    time_asked: int | None = None
    """Seconds."""
    seconds: float = 0.0
    """How long it ran."""
    start: int = 0
    """0 for its first start in a launch, more where the scheduler has started it again."""
    source: Source = "scheduler"

    @property
    def cores_used(self) -> float | None:
        """Cores that were busy on average."""
        return None if self.cpu_seconds is None or not self.seconds else (
            self.cpu_seconds / self.seconds
        )  # fmt: skip

    @property
    def cores_share(self) -> float | None:
        """Busy cores as a share of those asked for."""
        return _share(self.cores_used, self.cpus_asked)

    @property
    def memory_share(self) -> float | None:
        """Memory used as a share of what was asked for."""
        return _share(self.memory_used, self.memory_asked)

    @property
    def time_share(self) -> float | None:
        """Time used as a share of what was asked for."""
        return _share(self.seconds, self.time_asked)

    def to_dict(self) -> dict[str, Any]:
        """Everything, and the shares, as a dict that JSON holds."""
        shares = ("cores_used", "cores_share", "memory_share", "time_share")
        return {**asdict(self), **{name: getattr(self, name) for name in shares}}


@runtime_checkable
class Accounts(Protocol):
    """A backend that keeps accounts of what jobs used; the others have heartbeats only."""

    def usage(self, handle: Handle) -> list[JobUsage]:
        """Every start of every job in all launches of the handle's run, with one question to the
        scheduler.

        Raises:
            BackendError: it keeps none, or does not answer.
        """


def run_usage(run: Run) -> list[JobUsage]:
    """What every job of `run` asked for and used, in the order of jobs.

    >>> from flowdist import flow, param_grid
    >>> run = flow(param_grid(x=[1, 2])).stage("sq", lambda x: x * x).submit().wait()
    >>> [(one.job, one.state, one.source) for one in run_usage(run)]
    [(0, 'done', 'heartbeats')]
    """
    attempts = run.files.attempts()
    said = from_beats(run.files, run.manifest)
    backend = run.backend
    if not attempts or not isinstance(backend, Accounts):
        return said
    started = run.files.read_json(run.files.launch(attempts[-1]))
    jobs = range(job_count(run.manifest))
    try:
        known = backend.usage(Handle(run.files, attempts[-1], jobs, started))
    except BackendError:
        return said
    return merge(known, said)


def run_cost(run: Run) -> Cost | None:
    """What the jobs of all launches have taken, by their heartbeats, where compute is paid for."""
    from flowdist.plan import Plan

    lives = [
        (float(beat.get("started", beat["time"])), float(beat["time"]))
        for _, beat in run.files.beats()
    ]
    return Plan.from_json(run.manifest["plan"]).cost(lives)


def from_beats(files: RunFiles, manifest: Mapping[str, Any]) -> list[JobUsage]:
    """What jobs said of themselves: only the last start of each in each launch."""
    from flowdist.plan import Plan

    plans = {p["table"]: Plan.from_json(p["plan"]) for p in manifest["phases"]}
    scales = {
        n: (files.read_json(files.intent(n)) or {}).get("scale", {}) for n in files.attempts()
    }
    found = []
    for who, beat in files.beats():
        if who.job >= job_count(manifest) and not who.visitor:
            continue  # of a launch that could not run its jobs
        phase = row_phases(manifest)[0] if who.visitor else phase_of(manifest, who.job)
        plan, workers = plans[phase["table"]], phase["workers"]
        began = float(beat.get("started", beat["time"]))
        asked = plan.resources.scale(**scales.get(who.attempt, {}).get(phase["table"], {}))
        found.append(
            JobUsage(
                job=who.job,
                attempt=who.attempt,
                state=_beat_state(beat),
                node=str(beat.get("host", "")),
                cpus_asked=None if workers is None else plan.cores_held(int(workers)),
                cpu_seconds=float(beat.get("seconds", 0.0)) * plan.cpus_per_worker,
                memory_asked=asked.memory or None,
                memory_used=int(beat.get("memory", 0)) or None,
                time_asked=asked.time,
                seconds=max(0.0, float(beat["time"]) - began),
                source="heartbeats",
            )
        )
    return sorted(found, key=_order)


def merge(known: Iterable[JobUsage], said: Iterable[JobUsage]) -> list[JobUsage]:
    """What the scheduler knows, with what jobs said where it knows less.

    A scheduler looks at memory every half minute or so and misses what short jobs use; a job that
    stops itself before its time limit ends well in the scheduler's eyes.

    >>> known = JobUsage(0, 1, "done", "n1", memory_used=10, seconds=60.0)
    >>> merge([known], [JobUsage(0, 1, "timeout", "n1", memory_used=30)])[0].memory_used
    30
    """
    by_start = {(one.job, one.attempt): one for one in said}
    found = sorted(known, key=_order)
    last = {(one.job, one.attempt): one.start for one in found}
    for number, one in enumerate(found):
        beat = by_start.pop((one.job, one.attempt), None) if _is_last(one, last) else None
        if beat is not None:
            timeout = beat.state == "timeout" and one.state == "done"
            found[number] = replace(
                one,
                state=beat.state if timeout else one.state,
                memory_used=max(one.memory_used or 0, beat.memory_used or 0) or None,
            )
    # Beats of jobs that the scheduler has forgotten.
    return sorted([*found, *by_start.values()], key=_order)


def _is_last(one: JobUsage, last: Mapping[tuple[int, int], int]) -> bool:
    return one.start == last[one.job, one.attempt]


def _beat_state(beat: Mapping[str, Any]) -> str:
    """A beat's state in the words of `JobState`."""
    if beat.get("ending") == "time":
        return JobState.TIMEOUT.value
    said = str(beat["state"])
    return JobState.CANCELLED.value if said == "stopped" else said


def _order(one: JobUsage) -> tuple[int, int, int]:
    return one.job, one.attempt, one.start


def _share(used: float | None, asked: float | None) -> float | None:
    return used / asked if used is not None and asked else None


# -- many jobs in a few numbers ------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """One thing that jobs asked for, over many jobs: what was asked, and how much was used.

    `asked` has the smallest and the largest request, `used` the smallest, middle and largest use;
    `share` is the part of all that was asked that was used, None where nothing was asked.
    """

    name: Literal["cores", "memory", "time"]
    jobs: int
    asked: tuple[float, float] | None
    used: tuple[float, float, float]
    share: float | None

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self)


_MEASURES: Mapping[
    Literal["cores", "memory", "time"],
    tuple[Callable[[JobUsage], float | None], Callable[[JobUsage], float | None]],
] = {
    "cores": (lambda one: one.cpus_asked, lambda one: one.cores_used),
    "memory": (lambda one: one.memory_asked, lambda one: one.memory_used),
    "time": (lambda one: one.time_asked, lambda one: one.seconds or None),
}


def measures(usages: Sequence[JobUsage]) -> list[Measure]:
    """Cores, memory and time over many jobs; what no job knows is left out.

    Cores weigh as long as their jobs ran.

    >>> jobs = [JobUsage(n, 1, "done", "n1", 4, 40.0 * n, seconds=40.0) for n in (1, 2, 3)]
    >>> for one in measures(jobs):
    ...     print(one.name, one.asked, one.used, one.share)
    cores (4, 4) (1.0, 2.0, 3.0) 0.5
    time None (40.0, 40.0, 40.0) None
    """
    from statistics import median

    found = []
    for name, (asked_of, used_of) in _MEASURES.items():
        pairs = [
            (asked_of(one), used, one.seconds if name == "cores" else 1.0)
            for one in usages
            if (used := used_of(one)) is not None
        ]
        if not pairs:
            continue
        requests = [a for a, _, _ in pairs if a]
        uses = [u for _, u, _ in pairs]
        total = sum(a * weight for a, _, weight in pairs if a)
        busy = sum(u * weight for a, u, weight in pairs if a)
        found.append(
            Measure(
                name=name,
                jobs=len(pairs),
                asked=(min(requests), max(requests)) if requests else None,
                used=(min(uses), median(uses), max(uses)),
                share=busy / total if total else None,
            )
        )
    return found
