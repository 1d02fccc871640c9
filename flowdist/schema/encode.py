"""Values to columns: the outputs of a batch of rows as Arrow arrays of a given type, or a refusal.

A column is encoded from the top down: lists are flattened, structs taken apart by field, until what
is left are scalars, which go into Arrow in C where their Python types allow it (see `scalars`).
Nothing is rounded, truncated, parsed or dropped to make a value fit. What is refused is named by
its row and its path inside of the row's value. Where several are refused it is the first row's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate, chain, takewhile
from types import NoneType
from typing import Any

import numpy as np
import pyarrow as pa

from flowdist.artifacts import ARTIFACT_TYPE, Artifact, SaveFn
from flowdist.errors import ArtifactError, OutputMismatch
from flowdist.frames import frame_kind
from flowdist.schema.fields import MISSING, Field, Missing, choices_of, describe, spell
from flowdist.schema.scalars import (
    BAD_VALUE,
    SCALARS,
    Refused,
    build,
    encode_scalars,
    is_null,
    may_be_null,
)
from flowdist.schema.values import frame_columns, items_of, record_of
from flowdist.schema.widen import is_list

_NONE = frozenset({NoneType})
_SEQUENCES = frozenset({list, tuple})
_DICT = frozenset({dict})


def encode_declared(field: Field, stage: str, values: list[Any], save: SaveFn) -> pa.Array:
    """One column of a batch: the values of a declared field, in the order of the rows.

    `save` stores the objects of an artifact field. Raises `OutputMismatch` for the first value that
    does not fit: absent (`MISSING`), None where the field is not nullable, or of another kind. An
    int fits a float if it is exact; a float never fits an int, a bool no number, bytes no text.

    >>> encode_declared(Field("x", pa.float64()), "fit", [1.5, 2], save=None).to_pylist()
    [1.5, 2.0]
    >>> encode_declared(Field("n", pa.int64()), "fit", [1, 2.0], save=None)
    Traceback (most recent call last):
    flowdist.errors.OutputMismatch: stage 'fit', field 'n': expected int, got float 2.0
    """
    try:
        array = _at_once(values, field.type, field.nullable, field.choices)
        if array is not None:
            return array
        if Missing in map(type, values):
            absent = next(i for i, value in enumerate(values) if value is MISSING)
            # An earlier value may be the first bad one.
            _encode(field, stage, values[:absent], save)
            raise Refused(absent, field.spelt, describe(MISSING))
        return _encode(field, stage, values, save)
    except Refused as refused:
        raise OutputMismatch(
            stage, field.name + refused.path, refused.expected, refused.got, refused.index
        ) from None


def _encode(field: Field, stage: str, values: list[Any], save: SaveFn) -> pa.Array:
    if field.kind == "artifact":
        return artifacts(field, stage, values, save)
    return column(values, field.type, field.nullable, field.choices)


def artifacts(field: Field, stage: str, values: Sequence[Any], save: SaveFn) -> pa.Array:
    """A column of artifacts, each stored by `save`. Raises `Refused`.

    An `Artifact` that came from an earlier stage is loaded and stored anew: what it points to may
    belong to another run, or go with another stage's files.
    """
    structs: list[dict[str, Any] | None] = []
    for index, value in enumerate(values):
        if value is None:
            if not field.nullable:
                raise Refused(index, field.spelt, "None")
            structs.append(None)
            continue
        try:
            obj, codec = value, field.codec
            if isinstance(value, Artifact):
                obj, codec = value.load(), codec or value.codec
            structs.append(save(stage, field.name, index, obj, codec))
        except ArtifactError as error:
            raise Refused(index, field.spelt, f"{describe(value)} ({error})") from error
    return pa.array(structs, ARTIFACT_TYPE)


def column(
    values: list[Any], arrow: pa.DataType, nullable: bool = True, choices: tuple[str, ...] = ()
) -> pa.Array:
    """Values as an array of type `arrow`, those absent as null. Raises `Refused` for the first that
    does not fit.

    >>> column([{"x": 1}, None], pa.struct({"x": pa.float64()})).to_pylist()
    [{'x': 1.0}, None]
    """
    array = _at_once(values, arrow, nullable, choices)
    if array is not None:
        return array
    if any(map(may_be_null, set(map(type, values)))):
        present = [i for i, value in enumerate(values) if not is_null(value)]
        if len(present) < len(values):
            return _with_nulls(values, present, arrow, nullable, choices)
    if arrow.id in SCALARS:
        return encode_scalars(values, arrow, choices, nullable)
    return _NESTED[arrow.id](values, arrow)


def _at_once(
    values: list[Any], arrow: pa.DataType, nullable: bool, choices: tuple[str, ...]
) -> pa.Array | None:
    """The column as pyarrow makes it, where the Python types say that it will be faithful; None
    where each value has to be looked at.
    """
    scalar = SCALARS.get(arrow.id)
    if scalar is None or choices:
        return None
    kinds = set(map(type, values))
    if kinds <= scalar.plain or (nullable and kinds - _NONE <= scalar.plain):
        try:
            return build(values, arrow)
        except BAD_VALUE:
            return None  # one is of the right type and yet does not fit
    return None


def _with_nulls(
    values: list[Any],
    present: list[int],
    arrow: pa.DataType,
    nullable: bool,
    choices: tuple[str, ...],
) -> pa.Array:
    if not nullable:
        first = next(i for i, value in enumerate(values) if is_null(value))
        # An earlier value may be the first bad one.
        column(values[:first], arrow, nullable, choices)
        raise Refused(first, spell(arrow, nullable, choices), describe(values[first]))
    try:
        dense = column([values[i] for i in present], arrow, nullable, choices)
    except Refused as refused:
        raise refused.at(present[refused.index]) from None
    return _spread(dense, np.array(present, np.int64), len(values))


def _spread(dense: pa.Array, places: Any, length: int) -> pa.Array:
    """An array of `length` with the elements of `dense` at `places` and null elsewhere."""
    absent = np.ones(length, bool)
    absent[places] = False
    index = np.zeros(length, np.int64)
    index[places] = np.arange(len(dense))
    return dense.take(pa.array(index, mask=absent))


def _lists(values: list[Any], arrow: pa.DataType) -> pa.Array:
    if set(map(type, values)) <= _SEQUENCES:
        offsets = _offsets(map(len, values))
        try:
            child = _child(list(chain.from_iterable(values)), arrow.value_field)
        except Refused as refused:
            raise _in_list(refused, offsets) from None
    else:
        children = []
        for index, value in enumerate(values):
            try:
                children.append(_items(value, arrow))
            except Refused as refused:
                _lists(values[:index], arrow)  # raises if they are of unequal length to a fixed one
                step = "" if refused.index == _WHOLE else f"[{refused.index}]"
                raise refused.within(index, step) from None
        offsets = _offsets(map(len, children))
        child = pa.concat_arrays(children)
    return _list_array(arrow, offsets, child)


def _child(values: list[Any], field: pa.Field) -> pa.Array:
    return column(values, field.type, field.nullable, choices_of(field))


def _offsets(lengths: Iterable[int]) -> list[int]:
    return list(accumulate(lengths, initial=0))


def _in_list(refused: Refused, offsets: list[int]) -> Refused:
    """A refusal of an item of flattened lists, as that of the list that holds it."""
    row = bisect_right(offsets, refused.index) - 1
    return refused.within(row, f"[{refused.index - offsets[row]}]")


def _list_array(arrow: pa.DataType, offsets: list[int], child: pa.Array) -> pa.Array:
    if pa.types.is_fixed_size_list(arrow):
        wrong = np.flatnonzero(np.diff(offsets) != arrow.list_size)
        if len(wrong):
            row = int(wrong[0])
            raise Refused(row, spell(arrow), f"{offsets[row + 1] - offsets[row]} items")
        return pa.FixedSizeListArray.from_arrays(child, type=arrow)
    if pa.types.is_large_list(arrow):
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), child, type=arrow)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), child, type=arrow)


_WHOLE = -1  # the index of a refusal that is about a list-like value, not one of its items


def _items(value: Any, arrow: pa.DataType) -> pa.Array:
    """The items of one list-like value."""
    item = arrow.value_field
    if pa.types.is_struct(item.type) and frame_kind(value) is not None:
        return _rows(value, arrow)
    items = items_of(value)
    if items is None:
        raise Refused(_WHOLE, spell(arrow), describe(value))
    return _child(items, item) if isinstance(items, list) else cast(items, item)


def _rows(frame: Any, arrow: pa.DataType) -> pa.Array:
    """The rows of a frame as structs, whatever the order of its columns."""
    columns = frame_columns(frame)
    fields = list(arrow.value_type)
    names = {f.name for f in fields}
    if columns is None or not {f.name for f in fields if not f.nullable} <= set(columns) <= names:
        found = ", ".join(columns) if columns is not None else "of ambiguous names"
        got = f"a {type(frame).__name__} with columns {found}"
        raise Refused(_WHOLE, spell(arrow), got)
    children, refusals = [], []
    for field in fields:
        items = columns.get(field.name, [None] * len(frame))
        try:
            children.append(_child(items, field) if isinstance(items, list) else cast(items, field))
        except Refused as refused:
            refusals.append(refused.within(refused.index, f".{field.name}"))
    if refusals:
        raise _first(refusals)
    return pa.StructArray.from_arrays(children, fields=fields)


def _first(refusals: list[Refused]) -> Refused:
    return min(refusals, key=lambda refused: refused.index)


def _structs(values: list[Any], arrow: pa.DataType) -> pa.Array:
    records: list[Any] = values
    refusals = []
    if not set(map(type, values)) <= _DICT:
        records = list(takewhile(lambda r: r is not None, map(record_of, values)))
        if len(records) < len(values):
            culprit = values[len(records)]
            refusals.append(Refused(len(records), spell(arrow), describe(culprit)))
    children, fields = [], list(arrow)
    for field in fields:
        try:
            children.append(_child([r.get(field.name, MISSING) for r in records], field))
        except Refused as refused:
            refusals.append(refused.within(refused.index, f".{field.name}"))
    names = frozenset(f.name for f in fields)
    for index, record in enumerate(records):
        if not names.issuperset(record):
            further = next(key for key in record if key not in names)
            refusals.append(Refused(index, spell(arrow), f"the further key {further!r}"))
            break
    if refusals:
        raise _first(refusals)
    if not fields:
        return pa.array([{}] * len(values), arrow)
    return pa.StructArray.from_arrays(children, fields=fields)


def _maps(values: list[Any], arrow: pa.DataType) -> pa.Array:
    wrong = next((i for i, v in enumerate(values) if not isinstance(v, Mapping)), None)
    if wrong is not None:
        _maps(values[:wrong], arrow)
        raise Refused(wrong, spell(arrow), describe(values[wrong]))
    offsets = _offsets(map(len, values))
    keys = list(chain.from_iterable(values))
    parts, refusals = [], []
    for part, field in (
        (keys, arrow.key_field),
        (list(chain.from_iterable(v.values() for v in values)), arrow.item_field),
    ):
        try:
            parts.append(_child(part, field))
        except Refused as refused:
            row = bisect_right(offsets, refused.index) - 1
            refusals.append(refused.within(row, f"[{keys[refused.index]!r}]"))
    if refusals:
        raise _first(refusals)
    return pa.MapArray.from_arrays(pa.array(offsets, pa.int32()), *parts, type=arrow)


def _dictionaries(values: list[Any], arrow: pa.DataType) -> pa.Array:
    dense = column(values, arrow.value_type, nullable=False)
    try:
        return dense.dictionary_encode().cast(arrow)
    except pa.ArrowInvalid:
        more = f"{len(dense.unique())} distinct values in one batch"
        raise Refused(len(values) - 1, spell(arrow), more) from None


def cast(array: pa.Array, field: pa.Field) -> pa.Array:
    """An array as the type of `field`, under the rules for Python values. Raises `Refused` for the
    first value that does not fit.

    >>> cast(pa.array([1, 2], pa.int8()), pa.field("x", pa.float64())).type
    DataType(double)
    """
    arrow = field.type
    if len(array) == 0:
        return column([], arrow)
    if array.null_count:
        return _cast_with_nulls(array, field)
    if pa.types.is_dictionary(array.type):
        return cast(array.dictionary_decode(), field)
    if is_list(arrow) and is_list(array.type):
        offsets = _offsets(array.value_lengths().to_pylist())
        try:
            return _list_array(arrow, offsets, cast(array.flatten(), arrow.value_field))
        except Refused as refused:
            raise _in_list(refused, offsets) from None
    if arrow.id in SCALARS and not choices_of(field) and _same_family(array.type, arrow):
        try:
            return array.cast(arrow)
        except BAD_VALUE:
            pass  # some value does not fit: found one by one below
    return _child(array.to_pylist(), field)


def _cast_with_nulls(array: pa.Array, field: pa.Field) -> pa.Array:
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    if not field.nullable:
        first = int(np.argmin(valid))
        cast(array.slice(0, first), field)  # an earlier value may be the first bad one
        raise Refused(first, spell(field.type, False, choices_of(field)), "None")
    places = np.flatnonzero(valid)
    try:
        return _spread(cast(array.drop_null(), field), places, len(array))
    except Refused as refused:
        raise refused.at(int(places[refused.index])) from None


def _same_family(have: pa.DataType, want: pa.DataType) -> bool:
    """Whether Arrow's own safe cast is as strict as the rules here. It lets a float32 overflow,
    reads numbers out of text, and moves between local times and instants.
    """
    if have == want:
        return True
    if pa.types.is_timestamp(have) and pa.types.is_timestamp(want):
        return bool((have.tz is None) == (want.tz is None))
    if pa.types.is_integer(have) and pa.types.is_float64(want):
        return True
    narrows = pa.types.is_float32(want) or pa.types.is_float16(want)
    return SCALARS.get(have.id) is SCALARS[want.id] and not narrows


_NESTED: dict[int, Callable[[list[Any], pa.DataType], pa.Array]] = {
    pa.list_(pa.null()).id: _lists,
    pa.large_list(pa.null()).id: _lists,
    pa.list_(pa.null(), 1).id: _lists,
    pa.struct([]).id: _structs,
    pa.map_(pa.int8(), pa.int8()).id: _maps,
    pa.dictionary(pa.int8(), pa.int8()).id: _dictionaries,
}


def unsupported(arrow: pa.DataType) -> pa.DataType | None:
    """The part of a type that no column can be encoded as; None where all of it can.

    >>> unsupported(pa.list_(pa.run_end_encoded(pa.int32(), pa.int8())))
    RunEndEncodedType(run_end_encoded<run_ends: int32, values: int8>)
    """
    if arrow.id in SCALARS:
        return None
    if arrow.id not in _NESTED:
        return arrow
    if pa.types.is_dictionary(arrow):
        return unsupported(arrow.value_type)
    children = (arrow.field(i).type for i in range(arrow.num_fields))
    return next((t for t in map(unsupported, children) if t is not None), None)
