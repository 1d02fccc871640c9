"""The worker process: loads the program, runs the positions it is given, sends batches back.

It leads a process group of its own, so that whatever its rows start is ended with it, and it ends
when the process that started it does.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import itertools
import logging
import os
import queue
import shutil
import signal
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa

from flowdist.artifacts import INLINE_BYTES, Payload, artifact_struct, codec_named, dumps
from flowdist.errors import FlowdistError
from flowdist.flow import Stage
from flowdist.lean import defer_pandas
from flowdist.payload import load_program
from flowdist.phases import earlier, reduce_phases, row_phases
from flowdist.schema import SaveFn
from flowdist.script import FileOutput
from flowdist.store import RunFiles
from flowdist.tables import map_table
from flowdist.workers.carry import Carried, carried_stages
from flowdist.workers.evaluate import Evaluator, Flushed
from flowdist.workers.outputs import Cause

# Memory that parent and workers share, four numbers a lane: position, stage, start, and the
# position before which the worker is to stop.
Lanes = ctypes.Array[ctypes.c_double]
LANE_CELLS = 4
_IDLE: list[ctypes.c_double | float] = [-1.0, 0.0, 0.0, float("inf")]


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to know.

    Attributes:
        directory: of the run.
        table: of the phase: one of rows, or the name of the reduce whose groups are run.
        attempt: of the launch, for the names of artifacts.
        deadline: when the job's time ends (unix seconds); None where it has no limit.
        scratch: a directory of this machine that goes with the pool: for what rows want there, and
            for a reduce with the prepared tables of its groups.
    """

    directory: str
    table: str
    attempt: int
    deadline: float | None = None
    scratch: str | None = None


def read_lane(lanes: Lanes, index: int, *, reset: bool = False) -> tuple[int, int, float]:
    """Position (-1 where idle), stage and start of what a lane is running."""
    first = index * LANE_CELLS
    if reset:
        lanes[first : first + LANE_CELLS] = _IDLE
    position, stage, started = lanes[first : first + 3]
    return int(position), int(stage), started


def limit_lane(lanes: Lanes, index: int, stop: float) -> None:
    """Tell a lane to start no row at or after position `stop`."""
    lanes[index * LANE_CELLS + 3] = stop


class SharedLane:
    """A lane in memory that the parent sees."""

    def __init__(self, lanes: Lanes, index: int) -> None:
        first = index * LANE_CELLS
        self._cells = memoryview(lanes).cast("B").cast("d")[first : first + LANE_CELLS]

    def enter(self, position: int, stage: int, started: float) -> bool:
        """Say what runs from now on; False where the row is no longer wanted here."""
        cells = self._cells
        cells[2] = started
        cells[1] = stage
        cells[0] = position
        wanted: bool = position < cells[3]
        return wanted

    def pause(self) -> None:
        """Until the next `enter` no time runs against the stage."""
        self._cells[2] = float("inf")

    def leave(self) -> None:
        self._cells[0] = -1.0


def worker_main(
    setup: WorkerSetup,
    pipe: Connection,
    lifeline: Connection,
    shared: Lanes,
    lanes: Sequence[int],
    inherited: Sequence[Connection],
) -> None:
    """The body of a worker process, until it is told to end or its parent is gone."""
    for other in inherited:
        other.close()
    defer_pandas()  # where this process was not forked off
    # What rows fork must not hold the pipe open: the parent would wait for the rest of a message
    # whose sender was killed.
    os.register_at_fork(after_in_child=pipe.close)
    _lead_group(lifeline, setup.scratch)
    lock = threading.Lock()

    def send(message: tuple[Any, ...]) -> None:
        try:
            with lock:
                pipe.send(message)
        except ConnectionError:
            os._exit(1)  # nobody is there to take results

    try:
        make = loader(setup)
        evaluators = [make() for _ in lanes]
    except BaseException as error:
        text = str(error) if isinstance(error, FlowdistError) else traceback.format_exc()
        send(("unloadable", f"the flow cannot be loaded by the worker: {text}"))
        return
    send(("loaded",))
    inboxes: dict[int, queue.SimpleQueue[tuple[Any, ...] | None]] = {}
    threads: list[threading.Thread] = []
    runners = {
        lane: Runner(evaluators[i], SharedLane(shared, lane), lane, send)
        for i, lane in enumerate(lanes)
    }
    if len(lanes) > 1:
        for lane, runner in runners.items():
            inboxes[lane] = queue.SimpleQueue()
            threads.append(
                threading.Thread(target=runner.serve, args=(inboxes[lane],), daemon=True)
            )
            threads[-1].start()
    for kind, *task in _messages(pipe):
        if kind == "end":
            break
        if inboxes:
            inboxes[task[0]].put(tuple(task[1:]))
        else:
            runners[task[0]].run(*task[1:])
    for inbox in inboxes.values():
        inbox.put(None)
    for thread in threads:
        thread.join()


def _messages(pipe: Connection) -> Iterator[tuple[Any, ...]]:
    """What the parent says, until it is gone."""
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            yield pipe.recv()


class Runner:
    """Runs tasks on one lane and sends what comes of them."""

    def __init__(
        self,
        evaluator: TableEvaluator,
        lane: SharedLane,
        index: int,
        send: Callable[[tuple[Any, ...]], None],
    ) -> None:
        self._evaluator = evaluator
        self._lane = lane
        self._index = index
        self._send = send

    def serve(self, inbox: queue.SimpleQueue[tuple[Any, ...] | None]) -> None:
        while (task := inbox.get()) is not None:
            self.run(*task)

    def run(self, first: int, stop: int, prior: tuple[Cause, ...]) -> None:
        left = stop - first
        for flushed in self._evaluator.run(first, stop, self._lane, prior):
            left -= flushed.done
            self._report(flushed, finished=left == 0)
        if left:  # the rest was given to another worker
            self._report(Flushed(0, 0, 0, 0.0, []), finished=True)

    def _report(self, flushed: Flushed, *, finished: bool) -> None:
        if finished:
            self._lane.leave()
        payloads = [_encode(batch) for batch in flushed.batches]
        self._send(
            (
                "results",
                self._index,
                finished,
                flushed.done,
                flushed.failed,
                flushed.skipped,
                flushed.seconds,
                payloads,
            )
        )


class TableEvaluator:
    """An evaluator over the rows of a mapped table.

    The table is mapped, never sent: a pickled slice of an Arrow table carries the whole buffer.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        table: pa.Table,
        columns: Sequence[str],
        numbers: pa.Array | None,
    ) -> None:
        self._evaluator = evaluator
        self._columns = [table.column(name) for name in columns]
        self._numbers = numbers

    def run(
        self, first: int, stop: int, lane: SharedLane, prior: Sequence[Cause]
    ) -> Iterator[Flushed]:
        """Run positions [first, stop), or fewer where the lane says so."""
        # Values become Python objects a block at a time, so a long task of small rows stays small.
        for start in range(first, stop, 1 << 16):
            length = min(1 << 16, stop - start)
            lists = [to_python(column.slice(start, length)) for column in self._columns]
            values = zip(*lists, strict=True) if lists else itertools.repeat((), length)
            if self._numbers is None:
                rows: Sequence[int] = range(start, start + length)
            else:
                rows = to_python(self._numbers.slice(start, length))
            done = 0
            for flushed in self._evaluator.run(rows, values, first=start, lane=lane, prior=prior):
                done += flushed.done
                yield flushed
            if done < length:
                return
            prior = ()


def to_python(column: pa.ChunkedArray | pa.Array) -> list[Any]:
    """A column as Python values; numbers without nulls take the fast way through numpy."""
    if column.null_count == 0 and (
        pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    ):
        found: list[Any] = column.to_numpy().tolist()
        return found
    found = column.to_pylist()
    return found


def loader(setup: WorkerSetup) -> Callable[[], TableEvaluator]:
    """Load the program once; the result makes an evaluator for each lane."""
    files = RunFiles.at(setup.directory)
    program, manifest = load_program(files), files.manifest()
    if setup.table in (phase["table"] for phase in reduce_phases(manifest)):
        from flowdist.workers.groups import load_groups

        return load_groups(setup, files, program, Saver(files, setup.attempt))
    phase = next(p for p in row_phases(manifest) if p["table"] == setup.table)
    stages = [stage for stage in program.row_stages if stage.name in phase["stages"]]
    grid = map_table(files.path(files.GRID))
    numbers = grid.column("_row") if "_row" in grid.column_names else None
    columns = used_columns(stages, grid.column_names)
    saver = Saver(files, setup.attempt)
    before = len(earlier(manifest, phase))

    def make() -> TableEvaluator:
        carried = Carried(files, before, Path(setup.scratch or "")).of if before else None
        evaluator = Evaluator(
            program,
            stages,
            columns,
            saver.of_row,
            deadline=setup.deadline,
            scratch=setup.scratch,
            carried=carried,
            carry=carried_stages(program, phase),
            first_row=int(manifest.get("first_row", 0)),
        )
        return TableEvaluator(evaluator, grid, columns, numbers)

    return make


def used_columns(stages: Sequence[Stage], names: Sequence[str]) -> list[str]:
    """The grid columns that some of the stages read, in grid order."""
    bindings = [b for s in stages for b in (*s.bindings, *s.skip_bindings)]
    offered = [n for n in names if not n.startswith("_")]
    if any(b.kind == "columns" for b in bindings):
        return offered
    used = {b.key for b in bindings if b.kind == "column"}
    return [n for n in offered if n in used]


class Saver:
    """Writes artifacts: small ones into the part, others to a file of their own."""

    def __init__(self, files: RunFiles, attempt: int) -> None:
        self._files = files
        self._attempt = attempt

    def of_row(self, row: int) -> SaveFn:
        def save(stage: str, field: str, index: int, obj: Any, codec: str | None) -> dict[str, Any]:
            if isinstance(obj, (FileOutput, Payload)):
                used, data = codec or obj.codec, obj.data
            else:
                used, data = dumps(obj, codec)
            if len(data) <= INLINE_BYTES:
                return artifact_struct(used, data)
            unique = f"{self._attempt}-{uuid.uuid4().hex[:8]}"
            key = f"{row:07d}-{field}-{unique}{codec_named(used).suffix}"
            path = self._files.artifact(stage, key)
            self._files.store.put(path, data)
            return artifact_struct(used, data, path)

        return save


def _encode(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _lead_group(lifeline: Connection, scratch: str | None) -> None:
    """Make this process the leader of its own group, deaf to the terminal, and mortal with its
    parent.
    """
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A scheduler that ends a job sends it to all of its processes; this one is ended by its parent.
    # (A handler, not SIG_IGN, which what rows start would inherit.)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")

    def die_with_parent() -> None:
        with contextlib.suppress(EOFError, OSError):
            lifeline.recv_bytes()
        # Only the end of the parent ends this read: nobody else is left to tidy up.
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
        # End everything that was started here.
        os.killpg(os.getpid(), signal.SIGKILL)
        time.sleep(1)
        os._exit(1)

    threading.Thread(target=die_with_parent, daemon=True, name="flowdist-lifeline").start()
