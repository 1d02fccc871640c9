"""Running the stages of a flow on rows: filling parameters, trying again, recording what came of
it.

An `Evaluator` runs rows one after another and hands back record batches. It knows nothing of
processes, files or schedulers: where a row is running is told to a `Lane`, artifacts go to a `save`
function.

What is fast here is the common row: no retry, no skip, no failure. Everything else may be slow.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Protocol

import pyarrow as pa

from flowdist.binding import Binding
from flowdist.errors import OutputMismatch, RowError, nearest
from flowdist.flow import Program, Stage
from flowdist.retry import OUT_OF_MEMORY, Again, Failure
from flowdist.schema import SaveFn, split_output
from flowdist.seeds import row_seed, stage_key
from flowdist.workers.carry import pack
from flowdist.workers.context import Context
from flowdist.workers.outputs import (
    NOT_RUN,
    SKIPPED,
    Buffer,
    Cause,
    cause_of,
    check_output,
    to_batches,
)
from flowdist.workers.snapshot import IMMUTABLE, snapshot

# Results leave the process after this many seconds or rows: what a killed process loses at most.
FLUSH_SECONDS = 0.1
FLUSH_ROWS = 1 << 14

_ABSENT = object()


class Lane(Protocol):
    """Where a row is running now, for whoever watches from outside the process."""

    def enter(self, position: int, stage: int, started: float) -> bool:
        """Say what runs from now on; False where the row is no longer wanted here."""

    def pause(self) -> None:
        """Until the next `enter` no time runs against the stage."""


class NoLane:
    """A lane that nobody watches."""

    def enter(self, position: int, stage: int, started: float) -> bool:
        return True

    def pause(self) -> None:
        """Nobody looks."""


@dataclass
class Flushed:
    """Results of consecutive rows: `done` of them, with what came of them and what they
    returned.
    """

    done: int
    failed: int
    skipped: int
    seconds: float
    batches: list[pa.RecordBatch]


class GroupTables(Protocol):
    """The tables that a reduce is given."""

    def table(self, unit: int, parameter: Binding) -> Any: ...


class Environment:
    """What the parameters of one row are filled from."""

    __slots__ = (
        "context", "first_row", "make_context", "outputs", "row", "unit", "values", "wholes",
    )  # fmt: skip

    def __init__(self, make_context: Callable[[int], Context]) -> None:
        self.row = self.first_row = 0
        self.unit = 0
        self.values: tuple[Any, ...] = ()
        self.outputs: dict[str, dict[str, Any]] = {}
        self.wholes: dict[str, Any] = {}
        self.context: Context | None = None
        self.make_context = make_context

    def ctx(self, stage: str, attempt: int) -> Context:
        if self.context is None:
            self.context = self.make_context(self.row)
        self.context.stage, self.context.attempt = stage, attempt
        return self.context


class BoundStage:
    """A stage whose bindings are compiled to getters over an `Environment`."""

    def __init__(
        self,
        stage: Stage,
        columns: Sequence[str],
        const: Mapping[str, Any],
        seed: int | None,
        groups: GroupTables | None,
    ) -> None:
        self.stage = stage
        self.name = stage.name
        self.retry = stage.retry
        self.attempt = 1
        declared = stage.returns.fields if stage.returns is not None else ()
        self._artifacts = {f.name: f.codec for f in declared if f.kind == "artifact"}
        self._columns = tuple(columns)
        self._const = const
        self._key = stage_key(seed, stage.name) if seed is not None else (0, 0)
        self._groups = groups
        filled = () if stage.is_reduce else (*stage.bindings, *stage.skip_bindings)
        self.reads = frozenset(s for b in filled for s in b.stages)
        # What an optional parameter is taken from may be absent, so it may be skipped as well.
        needed = (s for b in filled if not b.optional for s in b.stages)
        self.uses = frozenset((*stage.needs, *needed))
        # Calls the function on a row's values; None where it needs more than columns.
        self.direct: Callable[..., Any] | None = None
        self.call = self._caller(stage.fn, stage.bindings)
        self.skip = self._caller(stage.skip_when, stage.skip_bindings) if stage.skip_when else None

    def kept(self, out: Any) -> dict[str, Any]:
        """The output as it is now, whatever becomes of the objects in it."""
        return snapshot(self.name, out, self._artifacts)

    def _caller(
        self, fn: Callable[..., Any], bindings: tuple[Binding, ...]
    ) -> Callable[[Environment], Any]:
        positional = [b for b in bindings if b.how == "positional"]
        if len(positional) == len(bindings) and all(b.kind == "column" for b in bindings):
            direct = self._on_columns(fn, [self._columns.index(b.key) for b in bindings])
            if fn is self.stage.fn:
                self.direct = direct
            return lambda env: direct(*env.values)
        first = [self._getter(b) for b in positional]
        named = [(b.parameter, self._getter(b)) for b in bindings if b.how == "keyword"]
        spread = next((b for b in bindings if b.how == "spread"), None)
        taken = {b.key for b in bindings if b.kind == "column"}
        rest = [(c, i) for i, c in enumerate(self._columns) if c not in taken] if spread else []

        def call(env: Environment) -> Any:
            arguments = [get(env) for get in first]
            if not named and not rest:
                return fn(*arguments)
            keywords = {name: get(env) for name, get in named}
            keywords = {name: v for name, v in keywords.items() if v is not _ABSENT}
            keywords |= {name: env.values[i] for name, i in rest}
            return fn(*arguments, **keywords)

        return call

    def _on_columns(self, fn: Callable[..., Any], indices: list[int]) -> Callable[..., Any]:
        if indices == list(range(len(self._columns))):
            return fn
        if len(indices) == 1:
            only = indices[0]
            return lambda *values: fn(values[only])
        if not indices:
            return lambda *values: fn()
        pick = itemgetter(*indices)
        return lambda *values: fn(*pick(values))

    def _getter(self, binding: Binding) -> Callable[[Environment], Any]:
        key, name = binding.key, self.name
        if binding.kind == "column":
            return _value_at(self._columns.index(key))
        if binding.kind == "const":
            return lambda env, value=self._const[key]: value  # type: ignore[misc]
        if binding.kind == "field":
            return lambda env: _field(env, binding)
        if binding.kind == "seed":
            return lambda env: row_seed(self._key, env.first_row + env.row)
        if binding.kind == "ctx":
            return lambda env: env.ctx(name, self.attempt)
        if binding.kind == "late":
            return lambda env: _late(env, binding, name)
        if self._groups is not None:
            return lambda env, groups=self._groups: groups.table(env.unit, binding)  # type: ignore[misc]
        # Only what an optional parameter is taken from can be absent here.
        return lambda env, stage=binding.stages[0]: env.wholes.get(stage, _ABSENT)  # type: ignore[misc]


def _value_at(index: int) -> Callable[[Environment], Any]:
    return lambda env: env.values[index]


def _field(env: Environment, binding: Binding) -> Any:
    """A declared field of an earlier stage."""
    stage = binding.stages[0]
    outputs = env.outputs.get(stage)
    if outputs is None and binding.optional:
        return _ABSENT
    assert outputs is not None
    if binding.key not in outputs:
        got = f"an output without it: {', '.join(outputs)}"
        raise OutputMismatch(stage, binding.key, "a value", got)
    return outputs[binding.key]


def _late(env: Environment, binding: Binding, name: str) -> Any:
    """A field of a stage whose outputs are not declared, looked up now."""
    for stage in binding.stages:
        found = env.outputs.get(stage, {})
        if binding.key in found:
            return found[binding.key]
    if binding.optional:
        return _ABSENT
    offered = [f for s in binding.stages for f in env.outputs.get(s, {})]
    raise RowError(
        f"stage '{name}': nothing fills parameter '{binding.parameter}'"
        f"{nearest(binding.key, offered)} (stage '{', '.join(binding.stages)}' returned: "
        f"{', '.join(offered) or 'nothing'})"
    )


class Evaluator:
    """Runs the given stages on rows, one after another, in one thread.

    Args:
        stages: in the order they run.
        columns: names of the values that `run` is given for each row.
        save: writes an artifact of a row and returns its reference.
        sleep: waits between attempts.
        scratch: the directory for rows' scratch directories (default: that of the system).
        groups: the tables of a reduce.
        carried: for a row, what stages of earlier phases returned and which of them were skipped.
        carry: the stages whose outputs a later phase wants.
    """

    def __init__(
        self,
        program: Program,
        stages: Sequence[Stage],
        columns: Sequence[str],
        save: Callable[[int], SaveFn],
        *,
        sleep: Callable[[float], None] = time.sleep,
        deadline: float | None = None,
        scratch: str | None = None,
        groups: GroupTables | None = None,
        carried: Callable[[int], tuple[dict[str, Any], set[str]]] | None = None,
        carry: Sequence[str] = (),
        first_row: int = 0,
    ) -> None:
        self._carried = carried
        self._carry = frozenset(carry)
        self._stages = [BoundStage(s, columns, program.const, program.seed, groups) for s in stages]
        self._read_later = {name for s in self._stages for name in s.reads} | self._carry
        self._save = save
        self._sleep = sleep
        self._env = Environment(
            lambda row: Context(first_row + row, deadline=deadline, folder=scratch)
        )
        # Rows that were fed to a run count on from those that it had.
        self._env.first_row = first_row
        self._timed = len(stages) > 1 or any(s.timeout is not None for s in stages)
        # Of the row that is running.
        self._buffer = Buffer(len(self._stages))
        self._lane: Lane = NoLane()
        self._prior: Sequence[Cause] = ()
        self._skipped: set[str] = set()
        self._number = 0
        self._started = 0.0
        # The function of a single stage that is filled from columns and is neither timed nor
        # skipped: most flows are that, and their rows may take less than a microsecond.
        alone = len(stages) == 1 and carried is None and not carry
        only = self._stages[0] if alone and not self._timed else None
        self._direct = only.direct if only is not None and only.skip is None else None

    def run(
        self,
        rows: Iterable[int],
        values: Iterable[tuple[Any, ...]],
        *,
        first: int = 0,
        lane: Lane | None = None,
        prior: Sequence[Cause] = (),
    ) -> Iterator[Flushed]:
        """Run rows in order, until `lane` wants no more, yielding results every `FLUSH_SECONDS` or
        `FLUSH_ROWS`.

        Args:
            rows: numbers of the rows; `values` their values, in the order of `columns`.
            first: the position of the first row, told to `lane`.
            prior: what happened to the first row in a process that did not live to record it.
        """
        self._lane = lane or NoLane()
        buffer = self._buffer = Buffer(len(self._stages))
        env, enter, now, direct = self._env, self._lane.enter, time.monotonic, self._direct
        add_row, add_seconds, add_output = _adders(buffer)
        self._started = last_flush = now()
        self._prior = prior
        for position, (row, env.values) in enumerate(zip(rows, values, strict=True), first):
            env.row, env.unit = row, position
            started = self._started
            if not enter(position, 0, started):
                break
            if direct is None or self._prior:
                self._row()
                self._prior = ()
            else:
                out, error = NOT_RUN, None
                try:
                    out = direct(*env.values)
                except BaseException as caught:
                    error = caught
                if type(out) is dict and IMMUTABLE.issuperset(map(type, out.values())):
                    add_output(out.copy())
                elif type(out) in IMMUTABLE:
                    add_output(out)
                else:
                    self._row((out, error))
            self._started = ended = now()
            add_row(row)
            add_seconds(ended - started)
            if ended - last_flush > FLUSH_SECONDS or len(buffer.rows) >= FLUSH_ROWS:
                yield self._flush(buffer)
                buffer = self._buffer = Buffer(len(self._stages))
                add_row, add_seconds, add_output = _adders(buffer)
                self._started = last_flush = now()
        if buffer.rows:
            yield self._flush(buffer)

    def _row(self, called: tuple[Any, BaseException | None] | None = None) -> None:
        """Run the row through all stages; its outputs, or why there are none, go to the buffer.

        `called` is what came of the only stage where it was called already: its output or its
        exception.
        """
        env, buffer = self._env, self._buffer
        index, failed = len(buffer.rows), False
        number, name = 0, ""
        try:
            if self._carried is not None:
                self._take_over(*self._carried(env.row))
            for number, stage in enumerate(self._stages):
                name = stage.name
                outputs = buffer.outputs[number]
                if failed:
                    outputs.append(NOT_RUN)
                    continue
                if self._timed:
                    self._enter(number)
                out, error = called or (None, None)
                if called is None:
                    out = self._run_stage(stage)
                elif error is not None:
                    out = self._again(stage, error)
                if out is NOT_RUN:
                    outputs.append(out)
                    failed = stage.name not in self._skipped
                    continue
                # What the buffer holds must not change when a later stage or row changes it.
                outputs.append(out if type(out) in IMMUTABLE else stage.kept(out))
                if stage.name in self._read_later:
                    env.wholes[stage.name] = out
                    env.outputs[stage.name] = split_output(out, stage.name)
            if self._skipped and not failed:
                buffer.status[index] = SKIPPED
            if self._carry and not failed:
                wanted = {name: env.wholes[name] for name in self._carry if name in env.wholes}
                buffer.carry[index] = pack(wanted, self._carry & self._skipped)
        except BaseException as error:
            # An output that cannot be split or kept: the row fails, the columns stay aligned.
            buffer.fail(index, name, error)
            for outputs in buffer.outputs[number:]:
                del outputs[index:]
                outputs.append(NOT_RUN)
        finally:
            self._clear()

    def _take_over(self, wholes: dict[str, Any], skipped: set[str]) -> None:
        """Go on where an earlier phase has left the row."""
        self._env.wholes |= wholes
        self._env.outputs |= {name: split_output(out, name) for name, out in wholes.items()}
        self._skipped = skipped

    def _enter(self, number: int) -> None:
        self._number = number
        self._started = time.monotonic()
        self._lane.enter(self._env.unit, number, self._started)

    def _clear(self) -> None:
        """Forget what belongs to the row that has ended."""
        env = self._env
        if env.context is not None:
            env.context.close()
            env.context = None
        if env.outputs:
            env.outputs, env.wholes = {}, {}
        if self._skipped:
            self._skipped = set()

    def _run_stage(self, stage: BoundStage) -> Any:
        """What the stage returns; `NOT_RUN` where it was skipped or has failed for good."""
        try:
            if not self._prior and stage.skip is None and not self._skipped:
                return stage.call(self._env)
            if stage.uses & self._skipped:
                self._skipped.add(stage.name)
                return NOT_RUN
            if not any(cause.stage == stage.name for cause in self._prior):
                return self._attempt(stage)
            error = None
        except BaseException as caught:
            error = caught
        # Outside of the handler, or exceptions of further attempts would have this one as context.
        return self._again(stage, error)

    def _attempt(self, stage: BoundStage) -> Any:
        if stage.skip is not None and stage.skip(self._env):
            self._skipped.add(stage.name)
            return NOT_RUN
        return stage.call(self._env)

    def _again(self, stage: BoundStage, error: BaseException | None) -> Any:
        """After a failure: ask the policy, wait, try again.

        `error` is None where it was the process that failed, and the causes handed over say how.
        """
        env, buffer = self._env, self._buffer
        index, started = len(buffer.rows), self._started
        causes = [c for c in self._prior if c.stage == stage.name]
        while True:
            if error is not None:
                took = time.monotonic() - started
                causes.append(cause_of(error, stage.name, len(causes) + 1, took))
            decision = None
            if stage.retry is not None:
                decision = stage.retry(_failure(causes[-1], error, env.row))
            if decision is None or _needs_more(decision, causes[-1]):
                scale = decision.scale if decision is not None else {}
                buffer.fail(index, stage.name, error, causes, scale)
                return NOT_RUN
            _log_retry(env.row, causes, decision.delay)
            if decision.delay > 0:
                self._lane.pause()
                self._sleep(decision.delay)
            buffer.attempts[index] = buffer.attempts.get(index, 1) + (
                len(causes) if error is None else 1
            )
            stage.attempt = len(causes) + 1
            started = time.monotonic()
            self._lane.enter(env.unit, self._number, started)
            try:
                out = self._attempt(stage)
            except BaseException as again:
                error = again
            else:
                buffer.retried(index, causes)
                return out
            finally:
                stage.attempt = 1

    def _flush(self, buffer: Buffer) -> Flushed:
        # The last row has ended: neither encoding nor sending runs against its timeout.
        self._lane.pause()
        batches = to_batches([bound.stage for bound in self._stages], buffer, self._save)
        return Flushed(
            done=len(buffer.rows),
            failed=buffer.failed,
            skipped=len(buffer.status) - buffer.failed,
            seconds=sum(buffer.seconds),
            batches=batches,
        )


def _adders(buffer: Buffer) -> tuple[Callable[[Any], None], ...]:
    """What adds a row's number, its seconds, and the output of the first stage if there is one."""
    outputs = buffer.outputs[0] if buffer.outputs else []
    return buffer.rows.append, buffer.seconds.append, outputs.append


def _needs_more(decision: Again, cause: Cause) -> bool:
    """Whether another attempt makes sense only where there is more than this job has."""
    short = cause.kind == "memory" or cause.type in OUT_OF_MEMORY
    return bool(decision.scale) and short


def _log_retry(row: int, causes: Sequence[Cause], delay: float) -> None:
    last = causes[-1]
    logging.getLogger("flowdist").info(
        "row %d, stage '%s': attempt %d failed (%s: %s); again in %.1f s",
        row,
        last.stage,
        len(causes),
        last.type,
        last.message,
        delay,
    )


def _failure(cause: Cause, error: BaseException | None, row: int) -> Failure:
    return Failure(
        kind=cause.kind,
        type=cause.type,
        message=cause.message,
        exception=error,
        stage=cause.stage,
        row=row,
        attempt=cause.attempt,
        elapsed=cause.elapsed,
    )


def try_row(program: Program, grid: pa.Table, row: int) -> dict[str, Any]:
    """Run the stages of one row in this process; exceptions pass through."""
    env = Environment(Context)
    env.row = env.unit = row
    env.values = tuple(column[row].as_py() for column in grid.columns)
    results: dict[str, Any] = {}
    skipped: set[str] = set()
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: env.context.close() if env.context else None)
        for stage in program.row_stages:
            bound = BoundStage(stage, grid.column_names, program.const, program.seed, None)
            if bound.uses & skipped or (bound.skip is not None and bound.skip(env)):
                skipped.add(stage.name)
                results[stage.name] = None
                continue
            out = bound.call(env)
            env.wholes[stage.name] = out
            env.outputs[stage.name] = split_output(out, stage.name)
            check_output(stage, out)
            results[stage.name] = env.outputs[stage.name]
    return results
