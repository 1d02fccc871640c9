"""What stages returned, on its way to Arrow: collected row by row, checked and encoded a batch at a
time.

A row whose output does not fit its declaration fails here, after the stage has run; what it gave is
not kept.
"""

from __future__ import annotations

import contextlib
import json
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from operator import itemgetter
from types import TracebackType
from typing import Any, Literal

import pyarrow as pa

from flowdist.errors import FlowdistError, OutputMismatch, StageTimeout, nearest
from flowdist.flow import Stage
from flowdist.parts import CARRY, FAILED, OK, SKIPPED
from flowdist.schema import MISSING, Field, SaveFn, encode_declared, infer_column, split_output

__all__ = ["NOT_RUN", "SKIPPED", "Buffer", "Cause", "cause_of", "check_output", "to_batches"]

# Stands for the output of a stage that was skipped, failed, or came after one that failed.
NOT_RUN: Any = object()
# Enough to see what was wrong, whatever a library puts into its messages.
TRACEBACK_CHARACTERS = 20_000
MESSAGE_CHARACTERS = 4_000
_SCALARS = frozenset({int, float, str, bool, type(None), bytes})

# One or more arrays, each with the indices (in the batch) of the rows that it is about.
Column = list[tuple[pa.Array, Sequence[int]]]


@dataclass(frozen=True)
class Cause:
    """One failed attempt of one stage, as it is recorded."""

    kind: Literal["error", "timeout", "crash", "memory"]
    type: str
    message: str
    stage: str
    attempt: int
    elapsed: float = 0.0


def cause_of(error: BaseException, stage: str, attempt: int, elapsed: float = 0.0) -> Cause:
    """The record of an attempt that ended with an exception."""
    kind: Literal["error", "timeout"] = "timeout" if isinstance(error, StageTimeout) else "error"
    message = str(error)[:MESSAGE_CHARACTERS]
    return Cause(kind, type(error).__name__, message, stage, attempt, elapsed)


@dataclass
class Buffer:
    """Results of consecutive rows: a list per stage, and what is special about some rows, by
    index.
    """

    stages: int
    rows: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    outputs: list[list[Any]] = field(init=False)
    status: dict[int, int] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    # JSON of failed rows, and of rows that went well at a later attempt.
    errors: dict[int, str] = field(default_factory=dict)
    # What a later phase needs of the rows, packed.
    carry: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.outputs = [[] for _ in range(self.stages)]

    @property
    def failed(self) -> int:
        return sum(1 for status in self.status.values() if status == FAILED)

    def retried(self, index: int, causes: Sequence[Cause]) -> None:
        """Record why a row that went well was tried more than once."""
        self.errors[index] = json.dumps({"causes": self._with_earlier(index, causes)})

    def _with_earlier(self, index: int, causes: Sequence[Cause]) -> list[dict[str, Any]]:
        """The causes after those that earlier stages of the row have recorded."""
        before = json.loads(self.errors[index])["causes"] if index in self.errors else []
        return [*before, *(asdict(cause) for cause in causes)]

    def fail(
        self,
        index: int,
        stage: str,
        error: BaseException | None,
        causes: Sequence[Cause] = (),
        scale: Mapping[str, float] | None = None,
    ) -> None:
        """Record that a row has failed for good; `error` is None where its process died. `scale`
        says how much more of what its job would need for another try.
        """
        if not causes:
            assert error is not None
            causes = [cause_of(error, stage, 1)]
        last = causes[-1]
        self.status[index] = FAILED
        self.attempts[index] = max(len(causes), self.attempts.get(index, 1))
        wanted = {"scale": dict(scale)} if scale else {}
        self.errors[index] = json.dumps(
            {
                **wanted,
                "stage": stage,
                "kind": last.kind,
                "type": last.type,
                "message": last.message,
                "traceback": _traceback(error),
                "causes": self._with_earlier(index, causes),
            }
        )


def to_batches(
    stages: Sequence[Stage], buffer: Buffer, save: Callable[[int], SaveFn]
) -> list[pa.RecordBatch]:
    """The buffered rows as record batches: one, unless undeclared types clash.

    `save` gives for a row's number what writes its artifacts.
    """
    columns: dict[str, Column] = {}
    types: dict[str, pa.Field] = {}
    for number, stage in enumerate(stages):
        columns |= _encoded(stage, buffer, number, _once(save))
        if stage.returns is not None:
            types |= {f.name: f for f in stage.returns.arrow(f"{stage.name}.")}
    n = len(buffer.rows)
    record = {
        "_row": pa.array(buffer.rows, pa.int64()),
        "_status": _sparse(buffer.status, n, pa.int8(), OK),
        "_attempts": _sparse(buffer.attempts, n, pa.int16(), 1),
        "_seconds": pa.array(buffer.seconds, pa.float64()),
        "_error": pa.array([buffer.errors.get(i) for i in range(n)], pa.string())
        if buffer.errors
        else pa.nulls(n),
    }
    if buffer.carry:
        record[CARRY] = pa.array([buffer.carry.get(i) for i in range(n)], pa.large_binary())
    return [
        _batch(record, columns, types, rows, n) for rows in _consistent_rows(columns.values(), n)
    ]


def check_output(stage: Stage, out: Any) -> None:
    """Raise `OutputMismatch` where one output does not fit its stage's declaration; artifacts are
    not written.
    """
    if stage.returns is None:
        return
    values = split_output(out, stage.name)
    for declared in stage.returns.fields:
        _check_value(stage.name, declared, values.get(declared.name, MISSING))


def _check_value(stage: str, declared: Field, value: Any) -> None:
    if declared.kind != "artifact":
        encode_declared(declared, stage, [value], _no_save)
    elif value is MISSING or (value is None and not declared.nullable):
        got = "no such field" if value is MISSING else "None"
        raise OutputMismatch(stage, declared.name, "an artifact", got)


def _no_save(*_: Any) -> Any:
    raise AssertionError("only artifacts are saved")


def _encoded(
    stage: Stage, buffer: Buffer, number: int, save: Callable[[int], SaveFn]
) -> dict[str, Column]:
    """The columns of a stage; rows whose output does not fit, or cannot be written, fail."""
    encode = _infer if stage.returns is None else _declared
    outputs = buffer.outputs[number]
    try:
        return encode(stage, buffer, number, _present(outputs), save)
    except Exception:
        for i in _present(outputs):
            try:
                encode(stage, buffer, number, [i], save)
            except Exception as error:
                buffer.fail(i, stage.name, _said_fully(error, stage, outputs[i]))
                for later in buffer.outputs[number:]:
                    later[i] = NOT_RUN
        return encode(stage, buffer, number, _present(outputs), save)


def _said_fully(error: Exception, stage: Stage, out: Any) -> Exception:
    """The error; where a declared field is absent, one that says what the output has instead."""
    declared = stage.returns.names if stage.returns is not None else ()
    if not isinstance(error, OutputMismatch) or error.field not in declared:
        return error
    fields = split_output(out, stage.name)
    if error.field in fields:
        return error
    has = ", ".join(fields) or "nothing"
    got = f"an output without it (it has: {has}{nearest(error.field, fields)})"
    return OutputMismatch(stage.name, error.field, error.expected, got, error.index)


def _once(save: Callable[[int], SaveFn]) -> Callable[[int], SaveFn]:
    """`save`, but what was written for a batch is not written again when it is encoded again."""
    written: dict[tuple[int, str, str], dict[str, Any]] = {}

    def of_row(row: int) -> SaveFn:
        def saved(stage: str, name: str, index: int, obj: Any, codec: str | None) -> dict[str, Any]:
            key = row, stage, name
            if key not in written:
                written[key] = save(row)(stage, name, index, obj, codec)
            return written[key]

        return saved

    return of_row


def _declared(
    stage: Stage,
    buffer: Buffer,
    number: int,
    present: Sequence[int],
    save: Callable[[int], SaveFn],
) -> dict[str, Column]:
    """The columns of a stage with declared outputs."""
    assert stage.returns is not None
    values = _split(stage, buffer.outputs[number], present, stage.returns.names)
    # Artifacts come last: nothing is written for rows that are refused.
    ordered = sorted(stage.returns.fields, key=lambda f: f.kind == "artifact")
    rows = _rows_of(buffer, present, save)
    arrays = {f.name: encode_declared(f, stage.name, values[f.name], rows) for f in ordered}
    return {f"{stage.name}.{name}": [(arrays[name], present)] for name in stage.returns.names}


def _infer(
    stage: Stage,
    buffer: Buffer,
    number: int,
    present: Sequence[int],
    save: Callable[[int], SaveFn],
) -> dict[str, Column]:
    """The columns of a stage without declared outputs: the union of the fields that its rows
    gave.
    """
    found: dict[str, Column] = {}
    for name, values in _split(stage, buffer.outputs[number], present, None).items():
        where: Sequence[int] = present
        if any(v is MISSING for v in values):
            where = [i for i, v in zip(present, values, strict=True) if v is not MISSING]
            values = [v for v in values if v is not MISSING]
        classes = infer_column(stage.name, name, values, _rows_of(buffer, where, save))
        found[f"{stage.name}.{name}"] = [
            (array, where if len(classes) == 1 else [where[i] for i in indices])
            for array, indices in classes
        ]
    return found


def _present(outputs: Sequence[Any]) -> Sequence[int]:
    """Indices of the rows that the stage ran for."""
    if any(out is NOT_RUN for out in outputs):
        return [i for i, out in enumerate(outputs) if out is not NOT_RUN]
    return range(len(outputs))


def _rows_of(buffer: Buffer, where: Sequence[int], save: Callable[[int], SaveFn]) -> SaveFn:
    """A save function for values of which number i belongs to row `where[i]` of the buffer."""

    def shifted(stage: str, name: str, index: int, obj: Any, codec: str | None) -> dict[str, Any]:
        return save(buffer.rows[where[index]])(stage, name, index, obj, codec)

    return shifted


def _split(
    stage: Stage, outputs: Sequence[Any], present: Sequence[int], names: Sequence[str] | None
) -> dict[str, list[Any]]:
    """Outputs of the present rows as columns; the union of their fields where `names` is None."""
    outs = outputs if len(present) == len(outputs) else [outputs[i] for i in present]
    kinds = set(map(type, outs))
    if kinds <= _SCALARS:
        if names is None:
            return {"value": list(outs)} if outs else {}
        return {n: list(outs) if n == "value" else [MISSING] * len(outs) for n in names}
    if kinds == {dict}:
        first = names if names is not None else tuple(split_output(outs[0], stage.name))
        if set(map(len, outs)) == {len(first)}:
            # Dicts of the same fields, as nearly always: none is looked at by itself.
            with contextlib.suppress(KeyError):
                return {name: list(map(itemgetter(name), outs)) for name in first}
    dicts = [split_output(out, stage.name) for out in outs]
    wanted = names if names is not None else dict.fromkeys(k for d in dicts for k in d)
    return {name: [d.get(name, MISSING) for d in dicts] for name in wanted}


def _sparse(values: Mapping[int, int], n: int, type_: pa.DataType, default: int) -> pa.Array:
    if not values:
        return pa.repeat(pa.scalar(default, type_), n)
    return pa.array([values.get(i, default) for i in range(n)], type_)


def _consistent_rows(columns: Iterable[Column], n: int) -> list[Sequence[int]]:
    """Rows (indices) that can be in one batch: all of them, unless types clash within a column."""
    kinds: list[list[int]] = []
    for classes in columns:
        if len(classes) > 1:
            kinds.append([-1] * n)
            for kind, (_, indices) in enumerate(classes):
                for i in indices:
                    kinds[-1][i] = kind
    if not kinds:
        return [range(n)]
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, key in enumerate(zip(*kinds, strict=True)):
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def _batch(
    record: Mapping[str, pa.Array],
    columns: Mapping[str, Column],
    types: Mapping[str, pa.Field],
    rows: Sequence[int],
    n: int,
) -> pa.RecordBatch:
    whole = len(rows) == n
    arrays = [a if whole else a.take(pa.array(rows, pa.int64())) for a in record.values()]
    fields = [pa.field(name, a.type) for name, a in zip(record, arrays, strict=True)]
    for name, classes in columns.items():
        array = _spread(classes, rows, n)
        arrays.append(array)
        declared = types.get(name)
        # A failed or skipped row has a null where the declaration has none.
        fields.append(
            pa.field(name, array.type)
            if declared is None
            else declared.with_type(array.type).with_nullable(True)
        )
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def _spread(classes: Column, rows: Sequence[int], n: int) -> pa.Array:
    """The column's values for `rows`, null where the column is not about a row."""
    if len(classes) == 1 and len(classes[0][1]) == n == len(rows):
        return classes[0][0]
    for array, indices in classes:
        at = {i: k for k, i in enumerate(indices)}
        taken = [at.get(i) for i in rows]
        if any(k is not None for k in taken):
            return array.take(pa.array(taken, pa.int64()))
    return pa.nulls(len(rows), classes[0][0].type if len(classes) == 1 else pa.null())


def _traceback(error: BaseException | None) -> str:
    """The traceback below our own frames; empty where there was no exception to have one."""
    if error is None or isinstance(error, FlowdistError):
        return ""
    below: TracebackType | None = error.__traceback__
    while below is not None and below.tb_frame.f_globals.get("__name__", "").startswith(
        "flowdist."
    ):
        below = below.tb_next
    text = "".join(traceback.format_exception(type(error), error, below or error.__traceback__))
    return text[-TRACEBACK_CHARACTERS:]
