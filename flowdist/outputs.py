"""What stages return, looked into without importing the libraries it may come from.

Records (dict, dataclass, NamedTuple, pydantic model), frames (pandas, polars, Arrow) and sequences
are recognised by what they are and taken apart; what column they make is for others to say.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa

FrameKind: TypeAlias = Literal["pandas", "arrow", "polars"]


def record_of(obj: object) -> Mapping[Any, Any] | None:
    """The fields of a dict, dataclass, NamedTuple or pydantic model; None for anything else.

    >>> record_of({"a": 1}), record_of([1])
    ({'a': 1}, None)
    """
    if isinstance(obj, Mapping):
        return obj
    if isinstance(obj, type):
        return None
    if dataclasses.is_dataclass(obj):
        return {f.name: getattr(obj, f.name) for f in dataclasses.fields(obj)}
    if isinstance(obj, tuple) and hasattr(obj, "_fields"):
        return dict(zip(obj._fields, obj, strict=True))
    names = getattr(type(obj), "model_fields", None)
    if isinstance(names, Mapping):
        extra = getattr(obj, "model_extra", None) or {}
        return {name: getattr(obj, name) for name in names} | extra
    return None


def frame_kind(obj: object) -> FrameKind | None:
    """Which library's table an object is, without importing any: an instance proves it is imported.

    >>> frame_kind(pa.table({"x": [1]})), frame_kind([1])
    ('arrow', None)
    """
    if isinstance(obj, (pa.Table, pa.RecordBatch)):
        return "arrow"
    for kind in ("pandas", "polars"):
        library = sys.modules.get(kind)
        # A library that is still being imported has no DataFrame yet.
        frame = getattr(library, "DataFrame", None)
        if frame is not None and isinstance(obj, frame):
            return "pandas" if kind == "pandas" else "polars"
    return None


def items_of(value: Any) -> pa.Array | list[Any] | None:
    """The items of a list, tuple, range, array or series, as an Arrow array where that is exact and
    needs no look at each item; None for what is no sequence of values (text, sets, generators).

    NaN stays NaN: the habit of taking it for null in pandas' columns of numbers is not followed.

    >>> items_of((1, "a")), items_of(np.array([1.0, float("nan")])).null_count, items_of("ab")
    ([1, 'a'], 0, None)
    """
    if isinstance(value, (list, tuple, range)):
        return list(value)
    if isinstance(value, np.ndarray):
        if value.ndim == 0:
            return None
        return _of_flat(value) if value.ndim == 1 else list(value)
    if isinstance(value, pa.Array):
        return value
    if isinstance(value, pa.ChunkedArray):
        return _combined(value)
    if isinstance(getattr(value, "dtype", None), np.dtype) and hasattr(value, "to_numpy"):
        return _of_flat(value.to_numpy(), nan_is_null=True)
    if hasattr(value, "__arrow_c_stream__") and frame_kind(value) is None:
        return _combined(pa.chunked_array(value))
    return None


def _of_flat(array: Any, nan_is_null: bool = False) -> pa.Array | list[Any]:
    if not array.dtype.hasobject:
        try:
            return pa.array(array)
        except (ValueError, NotImplementedError):
            return list(array)
    items: list[Any] = array.tolist()
    if not nan_is_null:
        return items
    # Among objects, pandas says NaN where a text or a date is absent.
    return [None if isinstance(item, float) and item != item else item for item in items]


def _combined(chunked: pa.ChunkedArray) -> pa.Array:
    combined = chunked.combine_chunks()
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined


def frame_columns(frame: Any) -> dict[str, pa.Array | list[Any]] | None:
    """The columns of a frame; None where two have one name or one is no flat column.

    Of a pandas index the named levels are columns too; an index without a name is dropped.

    >>> list(frame_columns(pa.table({"x": [1], "y": ["a"]})))
    ['x', 'y']
    """
    if frame_kind(frame) == "pandas":
        levels = [name for name in frame.index.names if name is not None]
        if any(level in frame.columns for level in levels):
            return None
        if levels:
            frame = frame.reset_index(levels)
        columns = [(str(name), frame.iloc[:, j]) for j, name in enumerate(frame.columns)]
    else:
        table = pa.table(frame) if frame_kind(frame) == "polars" else frame
        columns = list(zip(table.schema.names, table.columns, strict=True))
    found = {name: items_of(column) for name, column in columns}
    if len(found) < len(columns):
        return None
    known = {name: items for name, items in found.items() if items is not None}
    return known if len(known) == len(found) else None
