"""A pool of worker processes that loses nothing but the rows that were running when one is killed.

The parent never runs user code: it forks workers from a clean interpreter, hands them ranges of
positions, and takes back batches. Each worker tells through shared memory which row and stage it is
in and since when, so that the parent can end a row that is over its time, and knows what was
running in a process that died.

A pool has `processes` slots of `lanes` threads each: "sequential" is 1 x 1, "threads" 1 x n,
"processes" n x 1, and "subprocess" n x 1 with a fresh interpreter for every task.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from flowdist.errors import PayloadError
from flowdist.machine import Cgroup
from flowdist.workers.outputs import Cause
from flowdist.workers.process import (
    LANE_CELLS,
    WorkerSetup,
    limit_lane,
    read_lane,
    worker_main,
)

# A worker that ends this many times in a row before it took a task cannot be started here.
START_ATTEMPTS = 3
# Rows waiting behind one that has run this long are given to idle workers.
STUCK_SECONDS = 0.5
# How long a worker that was asked to end may take before it is killed.
END_SECONDS = 5.0
_SIGNAL_HINTS = {
    signal.SIGKILL: "often the out-of-memory killer",
    signal.SIGSEGV: "a crash in compiled code",
    signal.SIGABRT: "an abort in compiled code",
    signal.SIGBUS: "a crash in compiled code, or a mapped file on a full disk",
}


@dataclass(frozen=True)
class Task:
    """Positions `first` to `stop` (exclusive) to run in order; `prior` is about the first of
    them.
    """

    first: int
    stop: int
    prior: tuple[Cause, ...] = ()


@dataclass(frozen=True)
class Results:
    """Rows that were run: `count` positions from `first` on, and what came of them."""

    first: int
    count: int
    failed: int
    skipped: int
    seconds: float
    batches: list[pa.RecordBatch]


@dataclass(frozen=True)
class Interrupted:
    """Positions handed back: not run, and not to blame."""

    first: int
    stop: int
    prior: tuple[Cause, ...] = ()


@dataclass(frozen=True)
class Lost:
    """A position that was running when its process was ended, with the reason."""

    position: int
    causes: tuple[Cause, ...]


Event = Results | Interrupted | Lost


@dataclass
class _LaneState:
    """A thread of a worker as the parent sees it."""

    slot: _Slot
    index: int
    task: Task | None = None
    done: int = 0
    # The position from which rows are being taken from this lane, while that is being agreed.
    limit: int | None = None


@dataclass
class _Slot:
    """A place for one worker process."""

    number: int
    process: BaseProcess | None = None
    pipe: Connection | None = None
    lanes: list[_LaneState] = field(default_factory=list)
    failed_starts: int = 0
    loaded: bool = False

    @property
    def busy(self) -> bool:
        return any(lane.task is not None for lane in self.lanes)


class Pool:
    """Worker processes for one table of a run.

    Args:
        setup: what workers need to load the program.
        processes: how many run at once.
        lanes: threads in each.
        fresh: start a new interpreter for every task.
        stages: the names of the stages that run, in order; `timeouts` their seconds or None.
        cgroup: what tells whether workers were killed for their memory.
    """

    def __init__(
        self,
        setup: WorkerSetup,
        *,
        processes: int,
        lanes: int = 1,
        fresh: bool = False,
        stages: Sequence[str] = (),
        timeouts: Sequence[float | None] = (),
        cgroup: Cgroup | None = None,
    ) -> None:
        # A fork of this clean, single-threaded process is safe and starts in milliseconds.
        clean_fork = sys.platform == "linux" and not fresh
        self._context = multiprocessing.get_context("fork" if clean_fork else "spawn")
        self.scratch = Path(tempfile.mkdtemp(prefix="flowdist-"))
        self._setup = replace(setup, scratch=str(self.scratch))
        self._fresh = fresh
        self._stages = list(stages)
        self._timeouts = list(timeouts)
        self._timed = any(t is not None for t in timeouts)
        self._cgroup = cgroup or Cgroup()
        self._memory_kills = self._cgroup.out_of_memory_kills()
        # Workers that died one after another without having entered a row.
        self._blind_deaths = 0
        self._lifeline, self._lifeline_end = self._context.Pipe(duplex=False)
        self._lanes = self._context.RawArray("d", processes * lanes * LANE_CELLS)
        self._slots = [_Slot(number) for number in range(processes)]
        for slot in self._slots:
            slot.lanes = [_LaneState(slot, slot.number * lanes + i) for i in range(lanes)]

    # -- giving and taking ---------------------------------------------------------------------

    @property
    def width(self) -> int:
        """How many tasks can run at once."""
        return sum(len(slot.lanes) for slot in self._slots)

    @property
    def idle(self) -> int:
        """How many more tasks can be given now."""
        return sum(1 for slot in self._slots for lane in slot.lanes if lane.task is None)

    def give(self, task: Task) -> None:
        """Start a task on an idle lane; started workers before new ones."""
        lane = min(
            (lane for slot in self._slots for lane in slot.lanes if lane.task is None),
            key=lambda lane: (lane.slot.process is None, lane.slot.busy),
        )
        lane.task, lane.done, lane.limit = task, 0, None
        if lane.slot.process is None:
            self._start(lane.slot)
        limit_lane(self._lanes, lane.index, math.inf)
        assert lane.slot.pipe is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # A worker that died just now is noticed, and the task handed back, by the next poll.
            lane.slot.pipe.send(("run", lane.index, task.first, task.stop, task.prior))

    def poll(self, timeout: float) -> list[Event]:
        """What happened within `timeout` seconds; returns as soon as anything did.

        Raises:
            PayloadError: workers cannot load the program, or cannot be started at all.
        """
        events: list[Event] = []
        alive = [s for s in self._slots if s.pipe is not None]
        ready = connection.wait([s.pipe for s in alive if s.pipe is not None], timeout)
        for slot in alive:
            if slot.pipe in ready:
                events += self._receive(slot)
            elif slot.process is not None and not slot.process.is_alive():
                # A grandchild may hold the pipe open after its parent's death.
                events += self._bury(slot)
        if self._timed:
            events += self._end_overdue()
        return events

    def rebalance(self) -> list[Event]:
        """Take the rows behind a long-running row from its lane, for idle lanes to run.

        Takes two calls: one lowers the lane's limit, a later one finds the same row still running,
        which proves that the worker will see the limit before it starts another. (A worker writes
        its position before it reads the limit, and calls are far further apart than a store takes
        to become visible.)
        """
        events: list[Event] = []
        now = time.monotonic()
        for lane in (lane for slot in self._slots for lane in slot.lanes):
            if lane.task is None:
                continue
            position, _, started = read_lane(self._lanes, lane.index)
            behind = lane.task.stop - (position + 1)
            if position < lane.task.first or behind < 1 or now - started < STUCK_SECONDS:
                continue
            if lane.limit is None:
                lane.limit = position + 1
                limit_lane(self._lanes, lane.index, lane.limit)
            elif lane.limit == position + 1:
                events.append(Interrupted(lane.limit, lane.task.stop))
                lane.task = Task(lane.task.first, lane.limit, lane.task.prior)
        return events

    def running(self) -> Iterator[tuple[int, str, float]]:
        """Position, stage and start (monotonic seconds) of every row that is running now."""
        for slot in self._slots:
            for lane in slot.lanes:
                if lane.task is not None:
                    position, stage, started = read_lane(self._lanes, lane.index)
                    if position >= 0:
                        yield position, self._stages[stage] if self._stages else "", started

    def memory(self) -> int:
        """Resident bytes of all workers."""
        total = 0
        for slot in self._slots:
            if slot.process is not None and slot.process.pid is not None:
                with contextlib.suppress(psutil.Error):
                    total += psutil.Process(slot.process.pid).memory_info().rss
        return total

    # -- ending --------------------------------------------------------------------------------

    def close(self) -> None:
        """Ask idle workers to end, kill those that do not, and free everything."""
        for slot in self._slots:
            if slot.pipe is not None and not slot.busy:
                with contextlib.suppress(OSError):
                    slot.pipe.send(("end",))
        deadline = time.monotonic() + END_SECONDS
        for slot in self._slots:
            if slot.process is not None:
                if not slot.busy:
                    _await_end(slot.process, deadline - time.monotonic())
                self._kill(slot)
        self._lifeline_end.close()
        self._lifeline.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def interrupt(self) -> list[Event]:
        """Kill every worker; returns the results that were on their way. Nothing is blamed."""
        events: list[Event] = []
        for slot in self._slots:
            if slot.process is not None:
                self._kill(slot)
                events += [e for e in self._bury(slot, blame=False) if isinstance(e, Results)]
        return events

    # -- private -------------------------------------------------------------------------------

    def _start(self, slot: _Slot) -> None:
        ours, theirs = self._context.Pipe()
        others = [s.pipe for s in self._slots if s.pipe is not None]
        inherited = (
            [ours, self._lifeline_end, *others]
            if self._context.get_start_method() == "fork"
            else []
        )
        indices = [lane.index for lane in slot.lanes]
        for index in indices:
            read_lane(self._lanes, index, reset=True)
        slot.process = self._context.Process(  # type: ignore[attr-defined]
            target=worker_main,
            args=(self._setup, theirs, self._lifeline, self._lanes, indices, inherited),
            daemon=False,
        )
        slot.process.start()
        theirs.close()
        slot.pipe, slot.loaded = ours, False

    def _receive(self, slot: _Slot) -> list[Event]:
        assert slot.pipe is not None
        try:
            message = slot.pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            return self._bury(slot)
        return self._handle(slot, message)

    def _handle(self, slot: _Slot, message: tuple[Any, ...]) -> list[Event]:
        kind, *rest = message
        if kind == "unloadable":
            raise PayloadError(rest[0])
        if kind == "loaded":
            slot.loaded, slot.failed_starts = True, 0
            return []
        index, finished, count, failed, skipped, seconds, payloads = rest
        lane = next(lane for lane in slot.lanes if lane.index == index)
        events: list[Event] = []
        if lane.task is not None and count:
            first = lane.task.first + lane.done
            lane.done += count
            self._blind_deaths = 0
            batches = [_decode(payload) for payload in payloads]
            events.append(Results(first, count, failed, skipped, seconds, batches))
        if finished and lane.task is not None:
            left = lane.task.first + lane.done
            if left < lane.task.stop:
                events.append(Interrupted(left, lane.task.stop))
            lane.task = None
            if self._fresh and slot.pipe is not None:
                self._retire(slot)
        return events

    def _retire(self, slot: _Slot) -> None:
        """End a worker that has done its one task."""
        assert slot.pipe is not None
        assert slot.process is not None
        with contextlib.suppress(OSError):
            slot.pipe.send(("end",))
        _await_end(slot.process, END_SECONDS)
        self._kill(slot)
        slot.pipe.close()
        slot.pipe = slot.process = None

    def _bury(
        self, slot: _Slot, *, blame: bool = True, cause: tuple[int, Cause] | None = None
    ) -> list[Event]:
        """Take what a dead worker still had to say, then hand back what it had not done."""
        assert slot.pipe is not None
        assert slot.process is not None
        events: list[Event] = []
        with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
            while slot.pipe.poll(0):
                events += self._handle_last(slot, slot.pipe.recv())
        _await_end(slot.process, END_SECONDS)
        reason = _reason(slot.process.exitcode)
        started = slot.loaded
        self._kill(slot)
        for left in self.scratch.glob(f"flowdist-{slot.process.pid}-*"):
            shutil.rmtree(left, ignore_errors=True)
        slot.pipe.close()
        slot.pipe = slot.process = None
        if not started and blame:
            slot.failed_starts += 1
            if slot.failed_starts >= START_ATTEMPTS:
                raise PayloadError(
                    f"a worker process ended {START_ATTEMPTS} times before it could start: "
                    f"{reason}; "
                    "see the job's log"
                )
        for lane in slot.lanes:
            if lane.task is not None:
                events += self._hand_back(lane, reason if blame and started else None, cause)
        return events

    def _handle_last(self, slot: _Slot, message: tuple[Any, ...]) -> list[Event]:
        fresh, self._fresh = self._fresh, False
        try:
            return self._handle(slot, message)
        finally:
            self._fresh = fresh

    def _hand_back(
        self, lane: _LaneState, reason: str | None, cause: tuple[int, Cause] | None
    ) -> list[Event]:
        """Split what is left of a lane's task into the row that was running and the rows that were
        not.
        """
        assert lane.task is not None
        task, lane.task = lane.task, None
        first = task.first + lane.done
        if first >= task.stop:
            return []
        prior = task.prior if lane.done == 0 else ()
        running, stage, started = read_lane(self._lanes, lane.index)
        guilty = cause[0] if cause is not None else running
        if reason is not None and not first <= guilty < task.stop:
            self._blind_deaths += 1
            guilty = first if self._blind_deaths >= START_ATTEMPTS else guilty
        if reason is None or not first <= guilty < task.stop or (cause and running != guilty):
            return [Interrupted(first, task.stop, prior)]
        at = prior if guilty == first else ()
        if cause is not None:
            blamed = cause[1]
        else:
            name = self._stages[stage] if stage < len(self._stages) else ""
            elapsed = max(0.0, time.monotonic() - started)
            blamed = Cause("crash", "WorkerDied", reason, name, 0, elapsed)
            kills = self._cgroup.out_of_memory_kills()
            if kills > self._memory_kills:
                self._memory_kills += 1  # one for each worker that died of it
                message = "its process was killed, as the job was out of memory"
                blamed = Cause("memory", "OutOfMemory", message, name, 0, elapsed)
        blamed = Cause(
            blamed.kind,
            blamed.type,
            blamed.message,
            blamed.stage,
            1 + sum(1 for c in at if c.stage == blamed.stage),
            blamed.elapsed,
        )
        events: list[Event] = [Lost(guilty, (*at, blamed))]
        if first < guilty:
            events.append(Interrupted(first, guilty, prior))
        if guilty + 1 < task.stop:
            events.append(Interrupted(guilty + 1, task.stop))
        return events

    def _end_overdue(self) -> list[Event]:
        """Kill the workers whose row is over its stage's timeout."""
        events: list[Event] = []
        now = time.monotonic()
        for slot in self._slots:
            if slot.process is None or not slot.loaded:
                continue
            for lane in slot.lanes:
                if lane.task is None:
                    continue
                position, stage, started = read_lane(self._lanes, lane.index)
                limit = self._timeouts[stage] if stage < len(self._timeouts) else None
                if position < 0 or limit is None or now - started <= limit:
                    continue
                if read_lane(self._lanes, lane.index) != (position, stage, started):
                    continue  # it went on while we looked
                message = f"ran longer than its timeout of {limit:g} s"
                over = Cause(
                    "timeout", "StageTimeout", message, self._stages[stage], 0, now - started
                )
                self._kill(slot)
                events += self._bury(slot, cause=(position, over))
                break
        return events

    def _kill(self, slot: _Slot) -> None:
        """End a worker and everything it started: its process group, and children that left the
        group.
        """
        process = slot.process
        if process is None or process.pid is None:
            return
        children: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(process.pid).children(recursive=True)
        # A worker leads a group of its own; before it got that far there is no such group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.is_alive():
            process.kill()
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.kill()
        _await_end(process, END_SECONDS)


def _await_end(process: BaseProcess, seconds: float) -> None:
    """Wait for a process to end, but for no longer than `seconds`.

    Not by `join`: it waits for everybody who has inherited a certain pipe, and that may be what a
    row forked and left behind.
    """
    deadline = time.monotonic() + seconds
    while process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)


def _decode(payload: bytes) -> pa.RecordBatch:
    with pa.ipc.open_stream(pa.py_buffer(payload)) as stream:
        return stream.read_next_batch()


def _reason(code: int | None) -> str:
    """Why a process ended, for people."""
    if code is None:
        return "its process did not end"
    if code < 0:
        try:
            number = signal.Signals(-code)
        except ValueError:
            return f"its process was ended by signal {-code}"
        hint = _SIGNAL_HINTS.get(number)
        return f"its process was ended by {number.name}" + (f" ({hint})" if hint else "")
    return f"its process exited with code {code} in the middle of the row"
