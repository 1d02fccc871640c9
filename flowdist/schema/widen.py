"""What two Arrow types have in common: the narrowest type that holds the values of both.

Used while a column is inferred and when the parts of a run are put together. Nothing is widened
into another kind: no number becomes text, no bool a number, no bytes text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from flowdist.artifacts import ARTIFACT_TYPE
from flowdist.schema.fields import CHOICES_KEY, KIND_KEY, kind_of

_UNITS = ("s", "ms", "us", "ns")


def unify_fields(a: pa.Field, b: pa.Field) -> pa.Field | None:
    """The field that holds the columns of both, named as `a`; None where they clash.

    Null joins anything, an int and a float make a float (whether each int is exact only the values
    can tell: cast safely), ints and floats widen, lists and structs unite recursively, a struct's
    field that one side lacks becomes nullable. Artifacts, nested tables and values do not mix.

    >>> unify_fields(pa.field("x", pa.int64()), pa.field("x", pa.float64())).type
    DataType(double)
    >>> unify_fields(pa.field("x", pa.string()), pa.field("x", pa.binary())) is None
    True
    """
    arrow = unify(a.type, b.type)
    null = pt.is_null(a.type) or pt.is_null(b.type)
    if arrow is None or not (null or _kind(a) == _kind(b)):
        return None
    metadata = a.metadata if pt.is_null(b.type) or a.metadata == b.metadata else b.metadata
    if not null and metadata and CHOICES_KEY in metadata and a.metadata != b.metadata:
        # Together they may be any text that either allows; what was not declared alike is not kept.
        metadata = {k: v for k, v in metadata.items() if k != CHOICES_KEY} or None
    return pa.field(a.name, arrow, a.nullable or b.nullable or null, metadata)


def _kind(field: pa.Field) -> str:
    marked = (field.metadata or {}).get(KIND_KEY)
    return marked.decode() if marked else kind_of(field.type)


def unify(a: pa.DataType, b: pa.DataType, exact: bool = False) -> pa.DataType | None:
    """The narrowest type for values of both; None where there is none.

    With `exact` ints and floats clash, because no float holds every int.

    >>> unify(pa.int8(), pa.uint8()), unify(pa.bool_(), pa.int8())
    (DataType(int16), None)
    """
    if a == b or pt.is_null(b):
        return a
    if pt.is_null(a):
        return b
    if ARTIFACT_TYPE in (a, b):
        return None
    if pt.is_dictionary(a) or pt.is_dictionary(b):
        return unify(_decoded(a), _decoded(b), exact)
    for holds, join in _JOINS:
        if holds(a) and holds(b):
            return join(a, b, exact)
    return None


def _decoded(arrow: pa.DataType) -> pa.DataType:
    return arrow.value_type if pt.is_dictionary(arrow) else arrow


def _ints(a: pa.DataType, b: pa.DataType, exact: bool) -> pa.DataType | None:
    if pt.is_signed_integer(a) == pt.is_signed_integer(b):
        return max(a, b, key=lambda t: t.bit_width)
    signed, unsigned = (a, b) if pt.is_signed_integer(a) else (b, a)
    # An unsigned int needs one bit more to be signed.
    wide = (t for t in (pa.int16(), pa.int32(), pa.int64()) if t.bit_width > unsigned.bit_width)
    smallest = next(wide, None)
    return None if smallest is None else max(signed, smallest, key=lambda t: t.bit_width)


def _numbers(a: pa.DataType, b: pa.DataType, exact: bool) -> pa.DataType | None:
    if pt.is_floating(a) and pt.is_floating(b):
        return max(a, b, key=lambda t: t.bit_width)
    if pt.is_integer(a) and pt.is_integer(b):
        return _ints(a, b, exact)
    return None if exact else pa.float64()


def _texts(a: pa.DataType, b: pa.DataType, exact: bool) -> pa.DataType:
    large = pt.is_large_string(a) or pt.is_large_string(b)
    return pa.large_string() if large else pa.string()


def _binaries(a: pa.DataType, b: pa.DataType, exact: bool) -> pa.DataType:
    large = pt.is_large_binary(a) or pt.is_large_binary(b)
    return pa.large_binary() if large else pa.binary()


def _finer(a: pa.DataType, b: pa.DataType) -> str:
    unit: str = max(a.unit, b.unit, key=_UNITS.index)
    return unit


def _timestamps(a: pa.DataType, b: pa.DataType, exact: bool) -> pa.DataType | None:
    if (a.tz is None) != (b.tz is None):
        return None
    return pa.timestamp(_finer(a, b), a.tz if a.tz == b.tz else "UTC")


def _times(a: pa.DataType, b: pa.DataType, exact: bool) -> pa.DataType:
    unit = _finer(a, b)
    return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)


def _durations(a: pa.DataType, b: pa.DataType, exact: bool) -> pa.DataType:
    return pa.duration(_finer(a, b))


def _dates(a: pa.DataType, b: pa.DataType, exact: bool) -> pa.DataType:
    return pa.date64()


def _decimals(a: pa.DataType, b: pa.DataType, exact: bool) -> pa.DataType | None:
    scale = max(a.scale, b.scale)
    digits = max(a.precision - a.scale, b.precision - b.scale) + scale
    if digits > 76:
        return None
    return pa.decimal128(digits, scale) if digits <= 38 else pa.decimal256(digits, scale)


def _lists(a: pa.DataType, b: pa.DataType, exact: bool) -> pa.DataType | None:
    item = _nested(a.value_field, b.value_field, exact)
    if item is None:
        return None
    if pt.is_fixed_size_list(a) and pt.is_fixed_size_list(b) and a.list_size == b.list_size:
        return pa.list_(item, a.list_size)
    large = pt.is_large_list(a) or pt.is_large_list(b)
    return pa.large_list(item) if large else pa.list_(item)


def _structs(a: pa.DataType, b: pa.DataType, exact: bool) -> pa.DataType | None:
    ours, theirs = {f.name: f for f in a}, {f.name: f for f in b}
    united = []
    for name in ours | theirs:
        if name in ours and name in theirs:
            field = _nested(ours[name], theirs[name], exact)
        else:
            field = (ours.get(name) or theirs[name]).with_nullable(True)
        if field is None:
            return None
        united.append(field)
    return pa.struct(united)


def _maps(a: pa.DataType, b: pa.DataType, exact: bool) -> pa.DataType | None:
    key, item = unify(a.key_type, b.key_type, exact), _nested(a.item_field, b.item_field, exact)
    return None if key is None or item is None else pa.map_(key, item)


def _nested(a: pa.Field, b: pa.Field, exact: bool) -> pa.Field | None:
    arrow = unify(a.type, b.type, exact)
    return None if arrow is None else pa.field(a.name, arrow, a.nullable or b.nullable)


def _is_number(arrow: pa.DataType) -> bool:
    return bool(pt.is_integer(arrow) or pt.is_floating(arrow))


def _is_text(arrow: pa.DataType) -> bool:
    return bool(pt.is_string(arrow) or pt.is_large_string(arrow) or pt.is_string_view(arrow))


def _is_binary(arrow: pa.DataType) -> bool:
    return bool(
        pt.is_binary(arrow)
        or pt.is_large_binary(arrow)
        or pt.is_binary_view(arrow)
        or pt.is_fixed_size_binary(arrow)
    )


def is_list(arrow: pa.DataType) -> bool:
    """Whether it is a list of any layout that columns are made of."""
    return bool(pt.is_list(arrow) or pt.is_large_list(arrow) or pt.is_fixed_size_list(arrow))


_Join = Callable[[pa.DataType, pa.DataType, bool], Any]

_JOINS: list[tuple[Callable[[pa.DataType], bool], _Join]] = [
    (_is_number, _numbers),
    (_is_text, _texts),
    (_is_binary, _binaries),
    (pt.is_timestamp, _timestamps),
    (pt.is_date, _dates),
    (pt.is_time, _times),
    (pt.is_duration, _durations),
    (pt.is_decimal, _decimals),
    (is_list, _lists),
    (pt.is_struct, _structs),
    (pt.is_map, _maps),
]


def plain(arrow: pa.DataType) -> pa.DataType:
    """The type as inferred from Python values: no dictionaries, no large or view layouts, every
    part nullable and free of metadata. Columns of frames differ in this from library to library.

    >>> plain(pa.large_list(pa.dictionary(pa.int8(), pa.large_string())))
    ListType(list<item: string>)
    """
    if pt.is_dictionary(arrow):
        return plain(arrow.value_type)
    if _is_text(arrow):
        return pa.string()
    if pt.is_large_binary(arrow) or pt.is_binary_view(arrow):
        return pa.binary()
    if pt.is_list(arrow) or pt.is_large_list(arrow):
        return pa.list_(plain(arrow.value_type))
    if pt.is_struct(arrow):
        return pa.struct([(f.name, plain(f.type)) for f in arrow])
    return arrow
