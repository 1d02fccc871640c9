"""Builders shared by the tests: run directories by hand, batches of results, a pool without
processes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from flowdist.clock import ManualClock
from flowdist.parts import FAILED, OK, PartWriter
from flowdist.settings import host
from flowdist.store import JobAttempt, RunFiles
from flowdist.workers.outputs import Cause
from flowdist.workers.pool import Event, Interrupted, Lost, Results, Task
from flowdist.workers.source import Chunks

# Results ---------------------------------------------------------------------------------------


def error_json(message: str = "no", *, stage: str = "sq", kind: str = "ValueError") -> str:
    """What a part records of a failed row."""
    cause = {"kind": "error", "type": kind, "message": message, "stage": stage, "attempt": 1}
    return json.dumps(
        {
            "stage": stage,
            "kind": "error",
            "type": kind,
            "message": message,
            "traceback": "",
            "causes": [{**cause, "elapsed": 0.0}],
        }
    )


def results(
    rows: Iterable[int], *, status: int | Sequence[int] = OK, attempts: int = 1, **fields: Any
) -> pa.RecordBatch:
    """Results of `rows`, of one status or one each; `sq__value=[...]` is the column "sq.value".

    A field's values may be an Arrow array, where the type matters.
    """
    numbers = list(rows)
    n = len(numbers)
    states = [status] * n if isinstance(status, int) else list(status)
    errors = [error_json() if s == FAILED else None for s in states]
    columns: dict[str, Any] = {
        "_row": pa.array(numbers, pa.int64()),
        "_status": pa.array(states, pa.int8()),
        "_attempts": pa.array([attempts] * n, pa.int16()),
        "_seconds": pa.array([0.5] * n, pa.float64()),
        "_error": pa.array(errors, pa.string()),
    }
    for name, values in fields.items():
        columns[name.replace("__", ".")] = pa.array(values)
    return pa.RecordBatch.from_pydict(columns)


def write_part(
    files: RunFiles,
    *batches: pa.RecordBatch,
    job: int = 0,
    attempt: int = 1,
    seq: int = 0,
    table: str = "rows",
) -> Path:
    """Commit batches as one part, in the order given and under the name given."""
    writer = PartWriter(files, JobAttempt(job, attempt), table, started=0.0)
    writer._seq = seq
    position = 0
    for batch in batches:
        writer.add(position, [batch])
        position += batch.num_rows + 1  # apart, so that no two batches are joined
    writer.commit(0.0)
    return files.path(files.part(JobAttempt(job, attempt), seq))


def read_names(files: RunFiles) -> list[str]:
    """The parts of a run without their folder."""
    return [name.removeprefix("parts/") for name in files.parts()]


# Runs ------------------------------------------------------------------------------------------


def write_run(
    directory: Path,
    rows: int = 10,
    *,
    jobs: int = 1,
    reduces: Mapping[str, int] | None = None,
    reads: Mapping[str, list[str]] | None = None,
) -> RunFiles:
    """A run of `rows` rows (column x = row number), never launched.

    `reduces` name -> groups, `reads` which others a reduce reads.
    """
    files = RunFiles.at(directory)
    phases: list[dict[str, Any]] = [
        {"table": "rows", "stages": ["sq"], "timeouts": [None], "first_job": 0, "jobs": jobs}
    ]
    for number, (name, groups) in enumerate((reduces or {}).items()):
        phase = {"table": name, "stages": [name], "timeouts": [None], "first_job": jobs + number}
        phases.append({**phase, "jobs": 1, "by": [], "groups": groups})
        phases[-1]["reads"] = (reads or {}).get(name, [])
    manifest = {
        "id": "demo-1",
        "name": "demo",
        "created": 1000.0,
        "host": host(),
        "plan": {"kind": "local"},
        "layout": {"rows": rows, "groups": rows, "chunks": rows, "jobs": jobs},
        "columns": ["x"],
        "phases": phases,
    }
    grid = pa.table({"x": pa.array(range(rows), pa.int64())})
    directory.mkdir(parents=True, exist_ok=True)
    with (
        pa.OSFile(str(files.path(files.GRID)), "wb") as file,
        pa.ipc.new_file(file, grid.schema) as writer,
    ):
        writer.write_table(grid)
    files.put_json(files.RUN, manifest)
    return files


def beat(state: str = "running", **known: Any) -> dict[str, Any]:
    """A heartbeat; whatever is not given is that of a job that has just started."""
    return {
        "time": 1010.0,
        "started": 1000.0,
        "state": state,
        "reason": "",
        "table": "rows",
        "host": host(),
        "pid": 1,
        "rows": 10,
        "ok": 0,
        "failed": 0,
        "skipped": 0,
        "memory": 0,
        "running": [],
        **known,
    }


def chunks_of(rows: int, size: int = 1, done: Sequence[int] | None = None) -> Chunks:
    """`rows` positions in chunks of `size`, of which the positions `done` have a result."""
    first = np.arange(0, rows, size, dtype=np.int64)
    stop = np.minimum(first + size, rows)
    mask = None if done is None else np.isin(np.arange(rows), list(done))
    return Chunks(first, stop, mask)


# A store without files ---------------------------------------------------------------------------


class MemoryStore:
    """Blobs in a dict, where the files of a directory would only take time."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self._folders: dict[str, list[str]] = {}

    def put(self, name: str, data: bytes) -> None:
        if name in self.blobs:
            raise FileExistsError(name)
        self.replace(name, data)

    def replace(self, name: str, data: bytes) -> None:
        if name not in self.blobs:
            folder, _, own = name.rpartition("/")
            self._folders.setdefault(folder, []).append(own)
        self.blobs[name] = data

    def get(self, name: str) -> bytes:
        try:
            return self.blobs[name]
        except KeyError:
            raise FileNotFoundError(name) from None

    def list(self, folder: str) -> list[str]:
        return sorted(self._folders.get(folder, []))

    def delete(self) -> None:
        self.blobs.clear()
        self._folders.clear()

    def path(self, name: str) -> Path:
        raise NotImplementedError("there are no files")


# A pool without processes ------------------------------------------------------------------------


@dataclass
class _Lane:
    task: Task
    began: float
    seconds: float

    @property
    def ends(self) -> float:
        return self.began + (self.task.stop - self.task.first) * self.seconds


@dataclass
class FakePool:
    """Workers that run on a `ManualClock`: time passes only in `poll`.

    A row takes `seconds`, those of a task that begins with row `p` take `slow[p]`. Row `p` fails
    where `p` is in `failing`; where `dying` maps it to a number, its worker dies that many times. A
    pool that `shares` gives back, when asked, the rows that wait behind a running one. `given`
    lists every task, `ran` every position that was run.
    """

    clock: ManualClock
    width: int = 2
    seconds: float = 1.0
    failing: Container[int] = ()
    dying: dict[int, int] = field(default_factory=dict)
    shares: bool = False
    slow: dict[int, float] = field(default_factory=dict)
    given: list[Task] = field(default_factory=list)
    ran: list[int] = field(default_factory=list)
    interrupted: bool = False
    _polls: int = 0
    _lanes: list[_Lane] = field(default_factory=list)
    _appointments: list[tuple[float, Callable[[], object]]] = field(default_factory=list)

    @property
    def idle(self) -> int:
        return self.width - len(self._lanes)

    @property
    def sizes(self) -> list[int]:
        """How many rows each task had."""
        return [task.stop - task.first for task in self.given]

    def at(self, time: float, do: Callable[[], object]) -> None:
        """Call `do` when the clock has come to `time`, in the middle of a poll."""
        self._appointments.append((time, do))
        self._appointments.sort(key=lambda pair: pair[0])

    def give(self, task: Task) -> None:
        assert self.idle, "a task was given to a pool that is busy"
        self.given.append(task)
        seconds = self.slow.get(task.first, self.seconds)
        self._lanes.append(_Lane(task, self.clock.monotonic(), seconds))

    def poll(self, timeout: float) -> list[Event]:
        self._polls += 1
        assert self._polls < 50_000, "the job does not end"
        until = min([self.clock.monotonic() + timeout, *(lane.ends for lane in self._lanes)])
        while self._appointments and self._appointments[0][0] <= until:
            time, do = self._appointments.pop(0)
            self._go_to(time)
            do()
        self._go_to(until)
        now = self.clock.monotonic()
        ended = [lane for lane in self._lanes if lane.ends <= now]
        self._lanes = [lane for lane in self._lanes if lane.ends > now]
        return [event for lane in ended for event in self._outcome(lane)]

    def rebalance(self) -> list[Event]:
        events: list[Event] = []
        for lane in self._lanes if self.shares else []:
            task, running = lane.task, int((self.clock.monotonic() - lane.began) / lane.seconds)
            behind = task.first + running + 1
            if behind < task.stop:
                events.append(Interrupted(behind, task.stop))
                lane.task = Task(task.first, behind, task.prior)
        return events

    def interrupt(self) -> list[Event]:
        self.interrupted = True
        self._lanes = []
        return []

    def running(self) -> Iterable[tuple[int, str, float]]:
        return [(lane.task.first, "sq", 0.0) for lane in self._lanes]

    def memory(self) -> int:
        return 4096

    def _go_to(self, time: float) -> None:
        self.clock.advance(max(0.0, time - self.clock.monotonic()))

    def _outcome(self, lane: _Lane) -> list[Event]:
        task = lane.task
        dies = next((p for p in self.dying if task.first <= p < task.stop), None)
        if dies is None:
            return [self._results(task.first, task.stop, lane.seconds)]
        self.dying[dies] -= 1
        if not self.dying[dies]:
            del self.dying[dies]
        prior = task.prior if dies == task.first else ()
        cause = Cause("crash", "WorkerDied", "ended by SIGKILL", "sq", len(prior) + 1)
        events: list[Event] = [Lost(dies, (*prior, cause))]
        if task.first < dies:
            events.insert(0, self._results(task.first, dies, lane.seconds))
        if dies + 1 < task.stop:
            events.append(Interrupted(dies + 1, task.stop))
        return events

    def _results(self, first: int, stop: int, seconds: float) -> Results:
        rows = range(first, stop)
        self.ran += rows
        bad = [p in self.failing for p in rows]
        batch = results(
            rows,
            status=[FAILED if b else OK for b in bad],
            sq__value=[None if b else p * p for p, b in zip(rows, bad, strict=True)],
        )
        return Results(first, len(rows), sum(bad), 0, seconds * len(rows), [batch])
