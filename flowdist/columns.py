"""Columns in, Arrow out: what users give as the values of a column, as Arrow arrays of plain types.

Dictionaries, views and large strings become what they encode, so that equal values have equal types
wherever they come from. Names that cannot be parameters and values that Arrow cannot hold are
refused with the column, the value and the way out. Making grids of columns is left to `grid`.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import itertools
import keyword
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from flowdist.errors import GridError

# Arrow's plain string and list types have 32-bit offsets; a larger column stays as it came.
OFFSET_LIMIT = 2**31 - 1

# What pyarrow raises for values it cannot hold: some of its errors are not ArrowExceptions.
ARROW_REFUSALS = (pa.ArrowException, TypeError, ValueError, OverflowError)


def table_of_columns(columns: Iterable[tuple[Any, Any]]) -> pa.Table:
    """A table of names and values; the columns are to be equally long."""
    pairs = list(columns)
    check_names(name for name, _ in pairs)
    arrays = {name: column_of(name, values) for name, values in pairs}
    first = next(iter(arrays), "")
    for name, array in arrays.items():
        if len(array) != len(arrays[first]):
            raise GridError(
                f"column '{name}' has {count(len(array), 'value')}, column '{first}' has "
                f"{len(arrays[first]):,}; make them equally long (param_grid makes their product)"
            )
    return pa.table(arrays)


def table_of_rows(rows: Sequence[Any]) -> pa.Table:
    """A table of dicts, NamedTuples or dataclass instances; what one of them lacks is null."""
    dicts = [_row_dict(row, index) for index, row in enumerate(rows)]
    names = dict.fromkeys(itertools.chain.from_iterable(dicts))
    return table_of_columns((name, [row.get(name) for row in dicts]) for name in names)


def _row_dict(row: Any, index: int) -> Mapping[Any, Any]:
    if isinstance(row, Mapping):
        return row
    if dataclasses.is_dataclass(row) and not isinstance(row, type):
        return dataclasses.asdict(row)
    if isinstance(row, tuple) and hasattr(row, "_fields"):
        return dict(zip(row._fields, row, strict=True))
    way_out = "rows are dicts, NamedTuples or dataclass instances"
    raise GridError(f"row {index} is {describe(row)}; {way_out}")


def as_values(value: Any) -> Any:
    """The values of a column as the user wrote it: a scalar is a column of one."""
    scalar = isinstance(value, str | bytes | bytearray | Mapping | pa.Scalar)
    if scalar or not isinstance(value, Iterable):
        return [value]
    return value.reshape(1) if isinstance(value, np.ndarray) and value.ndim == 0 else value


def column_of(name: str, values: Any) -> pa.ChunkedArray:
    """One column as Arrow, never in memory that its owner may still write to."""
    if isinstance(values, set | frozenset):
        raise GridError(f"column '{name}' is a set, which has no fixed order; use sorted(...)")
    if len(getattr(values, "shape", (0,))) != 1:
        shape = tuple(values.shape)
        raise GridError(f"column '{name}' has the shape {shape}; a column has one dimension")
    if isinstance(values, range):
        values = np.arange(values.start, values.stop, values.step)
    elif isinstance(values, np.ndarray) or is_pandas(values, "Series", "Index"):
        values = values.copy()
    elif not (hasattr(values, "__arrow_c_stream__") or hasattr(values, "__arrow_c_array__")):
        values = list(values)
    try:
        if hasattr(values, "__arrow_c_stream__"):
            column = pa.chunked_array(values)
        else:
            array = pa.array(values)  # or a chunked one, where an extension of pandas says so
            column = array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])
    except ARROW_REFUSALS as error:
        raise GridError(f"column '{name}'{_refusal(values, error)}") from error
    if mixture := _mixture(values):
        raise GridError(f"column '{name}'{mixture}")
    return plain_column(name, column)


def _refusal(values: Any, error: Exception) -> str:
    """Say which value of a column it is that Arrow cannot hold, or which do not go together."""
    for index, value in enumerate(values):
        try:
            pa.array([value])
        except ARROW_REFUSALS:
            way_out = "give a number, a text or a key, and make the object from it in a stage"
            return f", value {index}: Arrow cannot hold {describe(value)}; {way_out}"
    return _mixture(values) or f": no Arrow type holds its values together: {error}"


def _mixture(values: Any) -> str:
    """Name kinds that do not go together, also where Arrow would convert: True among floats ..."""
    if is_pandas(values, "Series", "Index"):
        present = values.dropna() if values.dtype.kind == "O" else ()
    elif isinstance(values, list) or (isinstance(values, np.ndarray) and values.dtype.kind == "O"):
        present = values
    else:
        return ""
    kinds = sorted({_kind(t) for t in set(map(type, present)) - {type(None)}})
    return f" mixes {' and '.join(kinds)}; convert them to one type" if len(kinds) > 1 else ""


def _kind(t: type) -> str:
    return next((kind for kind, members in KINDS.items() if issubclass(t, members)), t.__name__)


# The first match counts: a bool is an int, and a datetime a date.
KINDS: dict[str, tuple[type, ...]] = {
    "bool": (bool, np.bool_),
    "number": (int, float, decimal.Decimal, np.number),
    "str": (str,),
    "bytes": (bytes, bytearray),
    "datetime": (datetime.datetime, np.datetime64),
    "date": (datetime.date,),
    "list": (list, tuple, np.ndarray),
    "dict": (Mapping,),
}


def plain_column(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column without its encoding; as it is where no plain type has room for it."""
    plain = _plain_type(column.type)
    if isinstance(plain, pa.ExtensionType):
        # Defined in Python, as pandas' periods are: who lacks the definition sees bare numbers.
        raise GridError(f"column '{name}' is of the type {plain}; convert it, e.g. to text")
    if plain == column.type or _bytes(column) > OFFSET_LIMIT:
        return column
    try:
        if pa.types.is_dictionary(column.type):  # values first: Arrow cannot decode string views
            column = column.cast(pa.dictionary(column.type.index_type, plain))
        return column.cast(plain)
    except ARROW_REFUSALS as error:
        raise GridError(f"column '{name}': cast it to {plain} yourself: {error}") from error


def _bytes(column: pa.ChunkedArray) -> int:
    """The size of a column's values; of those cut from larger buffers only their own."""
    # First what older pyarrow can tell of views too. It counts all that a slice was cut from.
    held = int(column.get_total_buffer_size())
    return held if held <= OFFSET_LIMIT else int(column.nbytes)


def _plain_type(t: pa.DataType) -> pa.DataType:
    """The type without its encoding: what the same values have wherever they come from."""
    types = pa.types
    if types.is_dictionary(t) or types.is_run_end_encoded(t):
        return _plain_type(t.value_type)
    if types.is_large_string(t) or types.is_string_view(t):
        return pa.string()
    if types.is_large_binary(t) or types.is_binary_view(t):
        return pa.binary()
    if types.is_list(t) or types.is_large_list(t):
        return pa.list_(_plain_type(t.value_type))
    if types.is_struct(t):
        return pa.struct([(field.name, _plain_type(field.type)) for field in t])
    return t


def check_names(names: Iterable[Any]) -> None:
    """Raise `GridError` for a name that is there twice or cannot be a parameter."""
    seen = set()
    for name in names:
        if not isinstance(name, str):
            raise GridError(
                f"column {name!r}: a name is a str, not {type(name).__name__}; rename it"
            )
        if name in seen:
            raise GridError(f"column '{name}' is there twice; rename or drop one of the two")
        if not name.isidentifier() or keyword.iskeyword(name):
            rule = "a name is a Python identifier, for it is the name of a parameter"
        elif name.startswith("_"):
            rule = "names that begin with '_' are those that flowdist adds (_row, _status)"
        else:
            seen.add(name)
            continue
        raise GridError(f"column '{name}': {rule}; rename it, e.g. to '{_identifier(name)}'")


def _identifier(name: str) -> str:
    cleaned = re.sub(r"\W+", "_", name).strip("_")
    if keyword.iskeyword(cleaned):
        return f"{cleaned}_"
    return cleaned if cleaned.isidentifier() else f"x{cleaned}"


def is_pandas(obj: object, *kinds: str) -> bool:
    """Whether this is pandas' DataFrame, Series ..., without importing pandas to find out."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(obj, tuple(getattr(pandas, kind) for kind in kinds))


def describe(value: object) -> str:
    """A value and its type, for messages."""
    return f"{clip(repr(value), 60)} ({type(value).__name__})"


def clip(text: str, width: int) -> str:
    """A text on one line of at most `width` characters."""
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 3]}..."


def count(n: int, noun: str) -> str:
    """A number and its noun: "1 row", "2,000 rows"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
