"""How a run is: read from heartbeats while it runs, from its parts when it has ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from flowdist.backends.base import Backend, Handle, JobState
from flowdist.parts import MISSING
from flowdist.phases import ROWS, is_template, reduce_phases, row_phases
from flowdist.states import Counts, count_states, row_states
from flowdist.store import await_parts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

State = Literal["pending", "scheduled", "running", "done", "stopped", "failed", "lost"]


@dataclass(frozen=True, repr=False)
class Status:
    """A run at one moment.

    Attributes:
        state: ``pending`` (nothing has started), ``scheduled`` (its firings are runs of their own),
            ``running``, ``done`` (every row has ended), ``stopped`` (cancelled, or ended by its own
            limits), ``failed`` (its jobs could not run), ``lost`` (its processes are gone).
        reason: why it is stopped, failed or lost, when it is scheduled; empty otherwise.
        rows: of the grid. `ok`, `failed` and `skipped` have ended; `running` are in work; `waiting`
            are the rest.
        jobs: how many jobs are in which state.
        attempt: 1 for the first launch, more after `resume`.
        groups_failed: groups of reduces that failed.
        rate: rows per second lately, `seconds_left` what that makes of the rest; None where
            unknown.
    """

    id: str
    name: str
    state: State
    rows: int
    ok: int
    failed: int
    skipped: int
    running: int
    jobs: dict[str, int]
    attempt: int
    created: float
    reason: str = ""
    groups_failed: int = 0
    rate: float | None = None
    seconds_left: float | None = None
    memory: int = 0
    working_on: list[dict[str, Any]] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether everything has ended, and nothing has failed."""
        return self.state == "done" and not self.failed and not self.groups_failed

    @property
    def ended(self) -> bool:
        """Whether nothing is running and nothing will start by itself."""
        return self.state not in ("pending", "scheduled", "running")

    @property
    def done(self) -> int:
        """Rows that have ended."""
        return self.ok + self.failed + self.skipped

    @property
    def waiting(self) -> int:
        """Rows that have not ended and are not in work."""
        return max(0, self.rows - self.done - self.running)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {**asdict(self), "done": self.done, "waiting": self.waiting, "ended": self.ended}

    def __rich__(self) -> Table:
        from flowdist.show import status_table

        return status_table(self)

    def __repr__(self) -> str:
        reason = f": {self.reason}" if self.reason else ""
        return (
            f"{self.id}: {self.state}{reason}; {self.done:,} of {self.rows:,} rows "
            f"({self.ok:,} ok, {self.failed:,} failed, {self.skipped:,} skipped)"
        )


@dataclass(frozen=True)
class Throughput:
    """How fast a run is, lately where it goes on, over all where it has ended.

    Attributes:
        rows_per_minute: None where nothing is known yet.
        rows_left: rows that have not ended.
        seconds_left: what the rest takes at this pace; None where that is unknown.
    """

    rows_per_minute: float | None
    rows_left: int
    seconds_left: float | None

    @classmethod
    def of(cls, status: Status, beats: Iterable[Mapping[str, Any]]) -> Throughput:
        """From the status of a run and the heartbeats of its jobs."""
        rate, left = status.rate, status.rows - status.done
        if status.ended:
            of_rows = [b for b in beats if "started" in b and str(b["table"]).startswith(ROWS)]
            done = sum(int(b["ok"]) + int(b["failed"]) + int(b["skipped"]) for b in of_rows)
            begun = min((float(b["started"]) for b in of_rows), default=0.0)
            ended = max((float(b["time"]) for b in of_rows), default=0.0)
            rate = done / max(ended - begun, 1e-3) if done else None
        return cls(
            rows_per_minute=None if rate is None else 60 * rate,
            rows_left=left,
            seconds_left=left / rate if rate and not status.ended else None if left else 0.0,
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self)


def read_status(
    manifest: Mapping[str, Any],
    handle: Handle,
    backend: Backend,
    *,
    now: float,
    known: Mapping[int, JobState] | None = None,
) -> tuple[Status, dict[int, JobState]]:
    """The status of a run's latest launch, and the states of its jobs.

    `known` are the states seen before, which late polls do not take back.
    """
    polled = backend.poll(handle)
    states = {job: (known or {}).get(job, JobState.UNKNOWN).after(s) for job, s in polled.items()}
    beats = handle.beats
    intent = handle.files.read_json(handle.files.intent(handle.attempt)) or {}
    live = any(not s.ended for s in states.values())
    rows = int(manifest["layout"]["rows"])
    common: dict[str, Any] = {
        "id": manifest["id"],
        "name": manifest["name"],
        "rows": rows,
        "jobs": dict(Counter(states[job].value for job in handle.jobs if job in states)),
        "attempt": handle.attempt,
        "created": float(manifest["created"]),
    }
    if not live:
        counts = count_states(_settled_states(handle, rows, states))
        groups = {
            phase["table"]: count_states(row_states(handle.files, phase["groups"], phase["table"]))
            for phase in reduce_phases(manifest)
        }
        state, reason = _ended(handle, backend, states, counts, groups)
        return Status(
            state=state,
            reason=reason,
            ok=counts.ok,
            failed=counts.failed,
            skipped=counts.skipped,
            running=0,
            groups_failed=sum(of_reduce.failed for of_reduce in groups.values()),
            **common,
        ), states
    before = intent.get("before") or {}
    tables = [phase["table"] for phase in row_phases(manifest)]
    of_rows = [b for b in beats.values() if b.get("table", tables[0]) in tables]
    # A row is through when the last phase is; it has failed when any has.
    last = [b for b in of_rows if b.get("table", tables[0]) == tables[-1]]
    done = {
        k: int(before.get(k, 0)) + sum(int(b[k]) for b in (of_rows if k == "failed" else last))
        for k in ("ok", "failed", "skipped")
    }
    working = [w for b in beats.values() if b["state"] == "running" for w in b.get("running", [])]
    started = any(s is not JobState.PENDING and s is not JobState.UNKNOWN for s in states.values())
    rate, left = _pace(last, rows - sum(done.values()), now)
    scheduled = is_template(manifest)
    return Status(
        state="scheduled" if scheduled else "running" if started else "pending",
        reason=_when(manifest["plan"]["schedule"]) if scheduled else "",
        running=len(working),
        rate=rate,
        seconds_left=left,
        memory=sum(int(b.get("memory", 0)) for b in beats.values()),
        working_on=working,
        ok=done["ok"],
        failed=done["failed"],
        skipped=done["skipped"],
        groups_failed=sum(int(b["failed"]) for b in beats.values())
        - sum(int(b["failed"]) for b in of_rows),
        **common,
    ), states


def _when(schedule: str) -> str:
    """A schedule in words.

    >>> _when("60 MINUTES"), _when("USING CRON 0 3 * * * UTC")
    ('every 60 minutes', 'by cron 0 3 * * * UTC')
    """
    words = schedule.split()
    if [word.upper() for word in words[:2]] == ["USING", "CRON"]:
        return f"by cron {' '.join(words[2:])}"
    return f"every {schedule.lower()}"


def _settled_states(handle: Handle, rows: int, states: Mapping[int, JobState]) -> NDArray[np.int8]:
    """How the rows of a launch that has ended did, once all that its jobs have written is seen."""
    found = row_states(handle.files, rows)
    if (found == MISSING).any() and JobState.DONE in states.values():
        # They did all of their part, so what is missing may just not be visible here yet.
        before = len(handle.files.parts())
        await_parts(handle.files, handle.attempt)
        if len(handle.files.parts()) > before:
            found = row_states(handle.files, rows)
    return found


def _ended(
    handle: Handle,
    backend: Backend,
    states: Mapping[int, JobState],
    rows: Counts,
    groups: Mapping[str, Counts],
) -> tuple[State, str]:
    """What became of a launch whose jobs have all ended."""
    files, missing = handle.files, rows.missing
    unfinished = [name for name, of_reduce in groups.items() if of_reduce.missing]
    if not missing and not unfinished:
        return "done", ""
    left = (
        f"{missing:,} rows have no result"
        if missing
        else f"reduce {', '.join(unfinished)} has not run"
    )
    beats = handle.beats
    failed = next((b for b in beats.values() if b["state"] == "failed"), None)
    if failed is not None:
        return "failed", str(failed["reason"])
    stop = files.read_json(files.stop(handle.attempt))
    if stop is not None:
        return "stopped", f"{stop['reason']}; {left}"
    state, reason = backend.ending(handle, states)
    if not reason:
        stopped = next((b for b in beats.values() if b["state"] == "stopped"), None)
        state, reason = "stopped", stopped["reason"] if stopped else "its jobs have ended"
    return state, f"{reason}; {left}"


def _pace(beats: list[dict[str, Any]], left: int, now: float) -> tuple[float | None, float | None]:
    """Rows per second since the jobs at work began, and the seconds that the rest takes at that
    pace.
    """
    busy = [b for b in beats if b["state"] == "running"]
    done = sum(
        int(b["ok"]) + int(b["failed"]) + int(b["skipped"]) - int(b.get("before", 0)) for b in beats
    )
    if not busy or not done:
        return None, None
    # A job that failed before it began has no start.
    seconds = now - min(float(b["started"]) for b in beats if "started" in b)
    rate = done / max(seconds, 1e-3)
    return rate, left / rate
