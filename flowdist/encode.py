"""Values to columns: the outputs of a batch of rows as Arrow arrays of a given type, or a refusal.

A column is encoded from the top down: lists are flattened, structs taken apart by field, until what is
left are scalars, which go into Arrow in C where their Python types allow it (see `scalars`). Nothing is
rounded, truncated, parsed or dropped to make a value fit. What is refused is named by its row and its
path inside of the row's value.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import chain
from types import NoneType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowdist.artifacts import ARTIFACT_TYPE, Artifact, SaveFn, frame_kind
from flowdist.errors import ArtifactError, OutputMismatch
from flowdist.fields import MISSING, Field, choices_of, describe, record_of, spell
from flowdist.scalars import (
    BAD_VALUE,
    SCALARS,
    Refused,
    build,
    encode_scalars,
    is_null,
    may_be_null,
)

_NONE = frozenset({NoneType})
_SEQUENCES = frozenset({list, tuple})
_DICT = frozenset({dict})


def encode_declared(field: Field, stage: str, values: list[Any], save: SaveFn) -> pa.Array:
    """One column of a batch: the values of a declared field, in the order of the rows.

    `save` stores the objects of an artifact field. Raises `OutputMismatch` for the first value that
    does not fit: absent (`MISSING`), None where the field is not nullable, or of another kind. An int
    fits a float if it is exact; a float never fits an int, nor a bool a number, nor bytes a text.

    >>> encode_declared(Field("x", pa.float64()), "fit", [1.5, 2], save=None).to_pylist()
    [1.5, 2.0]
    >>> encode_declared(Field("n", pa.int64()), "fit", [1, 2.0], save=None)
    Traceback (most recent call last):
    flowdist.errors.OutputMismatch: stage 'fit', field 'n': expected int, got float 2.0
    """
    try:
        scalar = SCALARS.get(field.type.id)
        if scalar is not None and not field.choices:
            # The same test as in `column`, here to spare small batches the way there.
            kinds = set(map(type, values))
            if kinds <= scalar.plain:
                try:
                    return build(values, field.type)
                except BAD_VALUE:
                    pass
        absent = next((i for i, v in enumerate(values) if v is MISSING), None)
        if absent is not None:
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
    """Values as an array of type `arrow`; absent ones are null. Raises `Refused` for the first that
    does not fit.

    >>> column([{"x": 1}, None], pa.struct({"x": pa.float64()})).to_pylist()
    [{'x': 1.0}, None]
    """
    kinds = set(map(type, values))
    scalar = SCALARS.get(arrow.id)
    if scalar is not None and not choices:
        if kinds <= scalar.plain or (nullable and kinds - _NONE <= scalar.plain):
            try:
                return build(values, arrow)
            except BAD_VALUE:
                pass  # some are of the right type and yet do not fit: looked at one by one below
    if any(map(may_be_null, kinds)):
        present = [i for i, value in enumerate(values) if not is_null(value)]
        if len(present) < len(values):
            return _with_nulls(values, present, arrow, nullable, choices)
    if scalar is not None:
        return encode_scalars(values, arrow, choices, nullable)
    return _NESTED[arrow.id](values, arrow)


def _with_nulls(
    values: list[Any],
    present: list[int],
    arrow: pa.DataType,
    nullable: bool,
    choices: tuple[str, ...],
) -> pa.Array:
    if not nullable:
        first = next(i for i, value in enumerate(values) if is_null(value))
        column(values[:first], arrow, nullable, choices)  # an earlier value may be the first bad one
        raise Refused(first, spell(arrow, nullable, choices), describe(values[first]))
    try:
        dense = column([values[i] for i in present], arrow, nullable, choices)
    except Refused as refused:
        raise Refused(
            present[refused.index], refused.expected, refused.got, refused.path
        ) from None
    return _spread(dense, np.array(present, np.int64), len(values))


def _spread(dense: pa.Array, places: Any, length: int) -> pa.Array:
    """An array of `length` with the elements of `dense` at `places` and null elsewhere."""
    absent = np.ones(length, bool)
    absent[places] = False
    index = np.zeros(length, np.int64)
    index[places] = np.arange(len(dense))
    return dense.take(pa.array(index, mask=absent))


def _lists(values: list[Any], arrow: pa.DataType) -> pa.Array:
    item = arrow.value_field
    if set(map(type, values)) <= _SEQUENCES:
        offsets = _offsets(list(map(len, values)))
        try:
            child = _child(list(chain.from_iterable(values)), item)
        except Refused as refused:
            raise _in_list(refused, offsets) from None
    else:
        children = []
        for index, value in enumerate(values):
            try:
                children.append(_items(value, arrow))
            except Refused as refused:
                raise refused.within(index, "" if refused.index < 0 else f"[{refused.index}]") from None
        offsets = _offsets(list(map(len, children)))
        child = pa.concat_arrays(children)
    return _list_array(arrow, offsets, child)


def _child(values: list[Any], field: pa.Field) -> pa.Array:
    return column(values, field.type, field.nullable, choices_of(field))


def _offsets(lengths: list[int]) -> Any:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _in_list(refused: Refused, offsets: Any) -> Refused:
    """A refusal of an item of flattened lists, as that of the list that holds it."""
    row = bisect_right(offsets, refused.index) - 1
    return refused.within(row, f"[{refused.index - int(offsets[row])}]")


def _list_array(arrow: pa.DataType, offsets: Any, child: pa.Array) -> pa.Array:
    if pa.types.is_fixed_size_list(arrow):
        wrong = np.flatnonzero(np.diff(offsets) != arrow.list_size)
        if len(wrong):
            row = int(wrong[0])
            length = int(offsets[row + 1] - offsets[row])
            raise Refused(row, spell(arrow), f"{length} items")
        return pa.FixedSizeListArray.from_arrays(child, type=arrow)
    if pa.types.is_large_list(arrow):
        return pa.LargeListArray.from_arrays(pa.array(offsets), child, type=arrow)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), child, type=arrow)


def _items(value: Any, arrow: pa.DataType) -> pa.Array:
    """The items of one list-like value. A refusal of the value as a whole has the index -1."""
    item = arrow.value_field
    if isinstance(value, (list, tuple, range)):
        return _child(list(value), item)
    found = array_of(value)
    if found is not None:
        return cast(found, item)
    if isinstance(value, np.ndarray) and value.ndim > 0:
        return _child(value.tolist() if value.ndim == 1 else list(value), item)
    raise Refused(-1, spell(arrow), describe(value))


def array_of(value: Any) -> pa.Array | None:
    """The items of a flat NumPy array, a series or the rows of a frame, as far as Arrow can hold them.

    NaN stays NaN: pandas' habit of taking it for null is not followed.

    >>> array_of(np.array([1.0, float("nan")])).null_count
    0
    """
    try:
        if isinstance(value, np.ndarray):
            flat = value.ndim == 1 and not value.dtype.hasobject
            return pa.array(value) if flat else None
        if frame_kind(value) is not None:
            return _rows(value)
        if isinstance(getattr(value, "dtype", None), np.dtype) and hasattr(value, "to_numpy"):
            numbers = value.to_numpy()
            return pa.array(numbers, from_pandas=numbers.dtype.hasobject)
        if hasattr(value, "__arrow_c_stream__"):
            return _combined(pa.chunked_array(value))
        if hasattr(value, "__arrow_c_array__"):
            return pa.array(value)
    except BAD_VALUE:
        pass
    return None


def _combined(chunked: pa.ChunkedArray) -> pa.Array:
    combined = chunked.combine_chunks()
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined


def _rows(frame: Any) -> pa.StructArray:
    """The rows of a frame as structs. Of a pandas index only the named levels count as columns."""
    if frame_kind(frame) == "pandas":
        if any(name is not None for name in frame.index.names):
            frame = frame.reset_index([n for n in frame.index.names if n is not None])
        names = [str(name) for name in frame.columns]
        found = [array_of(frame.iloc[:, j]) for j in range(len(names))]
        arrays = [a for a in found if a is not None]
    else:
        table = pa.table(frame) if not isinstance(frame, pa.RecordBatch) else frame
        names = table.schema.names
        columns = [table.column(j) for j in range(len(names))]
        arrays = [_combined(c) if isinstance(c, pa.ChunkedArray) else c for c in columns]
    if len(set(names)) < len(names) or len(arrays) < len(names):
        raise ValueError("a frame with a column that Arrow cannot hold, or two of one name")
    return pa.StructArray.from_arrays(arrays, names)


def cast(array: pa.Array, field: pa.Field) -> pa.Array:
    """An array as the type of `field`, if all of its values fit; raises `Refused` for the first that
    does not. Where `array` is of another kind altogether, its first value is the bad one.
    """
    arrow = field.type
    if array.null_count or pa.types.is_null(array.type):
        return _cast_with_nulls(array, field)
    if pa.types.is_dictionary(array.type):
        return cast(array.dictionary_decode(), field)
    if len(array) == 0:
        return column([], arrow)
    if arrow.id in SCALARS or pa.types.is_dictionary(arrow):
        return _cast_scalars(array, field)
    if pa.types.is_struct(arrow) and pa.types.is_struct(array.type):
        return _cast_structs(array, arrow)
    if _is_list(arrow) and _is_list(array.type):
        offsets = _offsets(pc.list_value_length(array).to_pylist())
        try:
            return _list_array(arrow, offsets, cast(array.flatten(), arrow.value_field))
        except Refused as refused:
            raise _in_list(refused, offsets) from None
    raise Refused(0, spell(arrow, field.nullable), describe(array[0].as_py()))


def _cast_with_nulls(array: pa.Array, field: pa.Field) -> pa.Array:
    places = np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False))
    if not field.nullable:
        first = int(np.flatnonzero(~array.is_valid().to_numpy(zero_copy_only=False))[0])
        cast(array.slice(0, first), field)
        raise Refused(first, spell(field.type, False, choices_of(field)), "None")
    try:
        dense = cast(array.drop_null(), field)
    except Refused as refused:
        raise Refused(
            int(places[refused.index]), refused.expected, refused.got, refused.path
        ) from None
    return _spread(dense, places, len(array))


def _cast_scalars(array: pa.Array, field: pa.Field) -> pa.Array:
    arrow, choices = field.type, choices_of(field)
    # These two need no look at the values; for all the rest what holds for Python values decides.
    if not choices and array.type == arrow:
        return array
    if not choices and pa.types.is_integer(array.type) and pa.types.is_integer(arrow):
        try:
            return array.cast(arrow)
        except pa.ArrowInvalid:
            pass
    return column(array.to_pylist(), arrow, field.nullable, choices)
