"""Undeclared outputs: which Arrow type a column of values has, and what two parts agree on.

Types are inferred from the Python types of the values of one batch and widened just as far as all
of them need; `encode` then makes the column. What Arrow cannot hold becomes an artifact. Each part
of a run is inferred on its own; `unify_fields` says what holds the columns of two parts.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from decimal import Decimal
from enum import Enum
from itertools import chain
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from flowdist.artifacts import ARTIFACT_TYPE, SaveFn
from flowdist.errors import OutputMismatch
from flowdist.frames import frame_kind
from flowdist.schema.encode import artifacts, column, unsupported
from flowdist.schema.fields import MISSING, Field, Missing
from flowdist.schema.scalars import Refused, is_null, may_be_null
from flowdist.schema.values import frame_columns, items_of, record_of
from flowdist.schema.widen import plain, unify


class Inferred(NamedTuple):
    """Values of a column that one Arrow type holds, and their positions in the batch."""

    array: pa.Array
    indices: list[int]


class _Clash(Exception):
    """Arrow can hold each of the values, but no one type holds them all."""


class _Opaque(Exception):
    """Arrow cannot hold a value at all."""


def infer_column(stage: str, name: str, values: list[Any], save: SaveFn) -> list[Inferred]:
    """One column of a batch of outputs that were not declared.

    Normally there is one entry with all positions. Where values clash (an int and a text) there is
    one for each class of values that go together, in order of first appearance; None goes with the
    first. `save` stores the objects that Arrow cannot hold. Raises `OutputMismatch` for an object
    that cannot be stored either.

    >>> infer_column("fit", "x", [1, 2.5, None], save=None)[0].array.to_pylist()
    [1.0, 2.5, None]
    >>> [(str(c.array.type), c.indices) for c in infer_column("fit", "x", [1, "a", 2], save=None)]
    [('int64', [0, 2]), ('string', [1])]
    """
    kinds = set(map(type, values)) - {NoneType, Missing}
    try:
        arrow = _COMMON.get(kinds.pop()) if len(kinds) == 1 else None
        if arrow is None:
            arrow = _type_of(values)
        return [Inferred(column(values, arrow), list(range(len(values))))]
    except (_Clash, _Opaque, Refused):
        classes = _classes(values, exact=False)
    if any(array is None and arrow != ARTIFACT_TYPE for arrow, array, _ in classes):
        # Such as an int that no float holds beside a float: they are kept apart.
        classes = _classes(values, exact=True)
    return [
        Inferred(
            array if array is not None else _stored(stage, name, values, indices, save), indices
        )
        for _, array, indices in classes
    ]


def _classes(
    values: list[Any], exact: bool
) -> list[tuple[pa.DataType, pa.Array | None, list[int]]]:
    """The values by what they unify to, with their array; None where Arrow cannot hold them."""
    types: list[pa.DataType] = []
    members: list[list[int]] = []
    nulls = []
    for index, value in enumerate(values):
        if is_null(value):
            nulls.append(index)
            continue
        try:
            arrow = _type_of([value])
        except (_Clash, _Opaque):
            arrow = ARTIFACT_TYPE
        for place, known in enumerate(types):
            united = unify(known, arrow, exact)
            if united is not None:
                types[place] = united
                members[place].append(index)
                break
        else:
            types.append(arrow)
            members.append([index])
    members[0] = sorted(members[0] + nulls)
    return [
        (arrow, _held([values[i] for i in indices], arrow), indices)
        for arrow, indices in zip(types, members, strict=True)
    ]


def _held(values: list[Any], arrow: pa.DataType) -> pa.Array | None:
    try:
        return None if arrow == ARTIFACT_TYPE else column(values, arrow)
    except Refused:
        return None


def _stored(stage: str, name: str, values: list[Any], indices: list[int], save: SaveFn) -> pa.Array:
    field = Field(name, ARTIFACT_TYPE, nullable=True, kind="artifact")
    objects = [None if is_null(values[i]) else values[i] for i in indices]
    try:
        return artifacts(
            field, stage, objects, lambda s, f, i, obj, codec: save(s, f, indices[i], obj, codec)
        )
    except Refused as refused:
        expected = "a value that Arrow holds or an object that can be pickled"
        raise OutputMismatch(stage, name, expected, refused.got, indices[refused.index]) from None


_EXACT: dict[type, pa.DataType] = {
    NoneType: pa.null(),
    Missing: pa.null(),
    bool: pa.bool_(),
    np.bool_: pa.bool_(),
    float: pa.float64(),
    str: pa.string(),
    np.str_: pa.string(),
    bytes: pa.binary(),
    bytearray: pa.binary(),
    np.bytes_: pa.binary(),
    dt.date: pa.date32(),
    dt.time: pa.time64("us"),
    dt.timedelta: pa.duration("us"),
    **{
        np.dtype(code).type: pa.from_numpy_dtype(np.dtype(code))
        for code in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
    },
}


# Types that all values of one Python type have, but for ints beyond 64 bits.
_COMMON = {**_EXACT, int: pa.int64()}


def _type_of(values: Iterable[Any]) -> pa.DataType:
    """The narrowest type for all values. Raises `_Clash` or `_Opaque`."""
    values = values if isinstance(values, list) else list(values)
    found = pa.null()
    for kind in dict.fromkeys(map(type, values)):
        arrow = _EXACT.get(kind)
        if arrow is None:
            same = [v for v in values if type(v) is kind]
            if may_be_null(kind):
                same = [v for v in same if not is_null(v)]
            arrow = _type_of_kind(kind, same) if same else pa.null()
        found = unify(found, arrow)
        if found is None:
            raise _Clash
    return found


def _type_of_kind(kind: type, values: list[Any]) -> pa.DataType:
    """The type for values that are all instances of the Python type `kind` and not null."""
    for base, typed in _FAMILIES:
        if issubclass(kind, base):
            return typed(values)
    if frame_kind(values[0]) is not None:
        return _together(pa.list_(_type_of_frame(frame)) for frame in values)
    if issubclass(kind, np.ndarray):
        return _together(map(_type_of_array, values))
    records = [record_of(value) for value in values]
    if records[0] is not None:
        return _type_of_records([r for r in records if r is not None])
    if issubclass(kind, (list, tuple)):
        return pa.list_(_type_of(chain.from_iterable(values)))
    return _together(pa.list_(_type_of_items(items_of(value))) for value in values)


def _together(types: Iterable[pa.DataType]) -> pa.DataType:
    found = pa.null()
    for arrow in types:
        found = unify(found, arrow)
        if found is None:
            raise _Clash
    return found


def _type_of_items(items: pa.Array | list[Any] | None) -> pa.DataType:
    if items is None:
        raise _Opaque
    if isinstance(items, list):
        return _type_of(items)
    arrow = plain(items.type)
    if unsupported(arrow) is not None:
        raise _Opaque
    return arrow


def _type_of_array(array: Any) -> pa.DataType:
    if array.ndim == 0:
        return _type_of([array[()]])
    if array.ndim > 1:
        # As nested lists an image or a matrix would be several times its size.
        raise _Opaque
    return pa.list_(_type_of_items(items_of(array)))


def _type_of_frame(frame: Any) -> pa.DataType:
    columns = frame_columns(frame)
    if columns is None:
        raise _Opaque
    return pa.struct([(name, _type_of_items(items)) for name, items in columns.items()])


def _type_of_records(records: list[Any]) -> pa.DataType:
    names = dict.fromkeys(chain.from_iterable(records))
    if not all(isinstance(name, str) for name in names):
        raise _Opaque
    return pa.struct([(name, _type_of([r.get(name, MISSING) for r in records])) for name in names])


def _of_ints(values: list[Any]) -> pa.DataType:
    low, high = min(values), max(values)
    if low >= -(2**63) and high < 2**63:
        return pa.int64()
    if low >= 0 and high < 2**64:
        return pa.uint64()
    raise _Opaque if len(values) == 1 else _Clash


def _of_enums(values: list[Any]) -> pa.DataType:
    return pa.int64() if isinstance(values[0], int) else pa.string()


def _of_datetimes(values: list[Any]) -> pa.DataType:
    # Instants are kept in UTC: the zones of two rows may differ, if only by summer time.
    zones = {None if v.utcoffset() is None else "UTC" for v in values}
    if len(zones) > 1:
        raise _Clash
    # pandas' Timestamp is a datetime with nanoseconds.
    fine = any(getattr(v, "nanosecond", 0) for v in values)
    return pa.timestamp("ns" if fine else "us", zones.pop())


def _of_numpy_times(values: list[Any]) -> pa.DataType:
    units = {np.datetime_data(v.dtype)[0] for v in values}
    if units == {"D"} and isinstance(values[0], np.datetime64):
        return pa.date32()
    make = pa.timestamp if isinstance(values[0], np.datetime64) else pa.duration
    finer = [unit for unit in ("ns", "us", "ms") if unit in units]
    return make(finer[0] if finer else "s")


def _of_durations(values: list[Any]) -> pa.DataType:
    return pa.duration("ns" if any(getattr(v, "nanoseconds", 0) for v in values) else "us")


def _of_decimals(values: list[Any]) -> pa.DataType:
    if not all(v.is_finite() for v in values):
        raise _Opaque
    return pa.array(values).type


# In this order: an Enum may be an int or a str, a bool is an int, a datetime is a date.
_FAMILIES: list[tuple[type, Any]] = [
    (Enum, _of_enums),
    (int, _of_ints),
    (float, lambda values: pa.float64()),
    (np.floating, lambda values: pa.float64()),
    (str, lambda values: pa.string()),
    (bytes, lambda values: pa.binary()),
    (dt.datetime, _of_datetimes),
    (np.datetime64, _of_numpy_times),
    (np.timedelta64, _of_numpy_times),
    (dt.timedelta, _of_durations),
    (Decimal, _of_decimals),
]
