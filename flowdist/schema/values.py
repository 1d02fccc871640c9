"""What stages return, looked into without importing the libraries it may come from.

One output is split into fields. Records (dict, dataclass, NamedTuple, pydantic model), frames
(pandas, polars, Arrow) and sequences are recognised by what they are and taken apart; what column
they make is for others to say.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from flowdist.errors import OutputMismatch
from flowdist.frames import frame_kind
from flowdist.schema.fields import describe

_NOT_SPLIT = frozenset({float, int, str, bool, types.NoneType, bytes, list, np.ndarray, np.float64})


def split_output(out: Any, stage: str = "") -> dict[str, Any]:
    """What a stage returned, by field: the entries of a dict, dataclass, NamedTuple or pydantic
    model, "table" for a frame, "value" for anything else.

    Raises `OutputMismatch` for a dict with a key that is no name.

    >>> split_output({"n": 3}), split_output(3)
    ({'n': 3}, {'value': 3})
    """
    if type(out) in _NOT_SPLIT:
        return {"value": out}
    record = out if type(out) is dict else record_of(out)
    if record is None:
        return {"table" if frame_kind(out) is not None else "value": out}
    for name in record:
        if not (isinstance(name, str) and name.isidentifier()):
            expected = "names of fields (letters, digits, underscores) as the keys"
            raise OutputMismatch(stage, str(name), expected, describe(name))
    return record if type(record) is dict else dict(record)


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
