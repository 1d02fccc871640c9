"""Results as they go over the wire: Snowflake's text encodings in JSON, and its own use of Arrow.

In Arrow, whole numbers are as narrow as the values of the whole result allow, numbers with a scale
are integers times a power of ten, times are integers, and timestamps are integers or structs of
``epoch`` (seconds), ``fraction`` (nanoseconds) and ``timezone`` (minutes, 1440 being UTC). The
metadata of each field say what it stands for.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time
from decimal import Context, Decimal
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from flowdist.emulator.result import Column
from flowdist.emulator.types import DataType

__all__ = ["arrow_stream", "arrow_text", "json_rows", "row_types", "to_wire", "wire_schema"]

FEW = 16
"""Rows that are encoded one by one."""
_EXACT = Context(prec=38)
_OPTIONS = pa.ipc.IpcWriteOptions()

LARGEST_CHARACTER = 4
"""Bytes that a character may take: Snowflake says the length of a text in both."""


# -- what the columns are


@lru_cache(maxsize=1024)
def row_types(columns: tuple[Column, ...]) -> str:
    """The ``rowtype`` of a reply, as JSON."""
    return json.dumps([_row_type(column) for column in columns])


def _row_type(column: Column) -> dict[str, Any]:
    kind = column.type
    length = kind.length
    return {
        "name": column.name,
        "database": "",
        "schema": "",
        "table": "",
        "nullable": column.nullable,
        "type": kind.name.lower(),
        "precision": _precision(kind),
        "scale": kind.scale,
        "length": length,
        "byteLength": _byte_length(kind),
        "collation": None,
    }


def _precision(kind: DataType) -> int | None:
    # Of times, Snowflake says 0 digits before the point.
    return 0 if _is_time(kind) else kind.precision


def _byte_length(kind: DataType) -> int | None:
    if kind.name == "TEXT" and kind.length is not None:
        return min(kind.length * LARGEST_CHARACTER, 16_777_216)
    return kind.length


def _is_time(kind: DataType) -> bool:
    return kind.name == "TIME" or kind.name.startswith("TIMESTAMP")


# -- JSON


def json_rows(columns: Sequence[Column], table: pa.Table) -> list[list[str | None]]:
    """All rows as lists of Snowflake's texts; None for NULL."""
    if not table.num_rows:
        return []
    lists = [
        _texts(column.type, data.to_pylist())
        for column, data in zip(columns, table.columns, strict=True)
    ]
    return [list(row) for row in zip(*lists, strict=True)]


def _texts(kind: DataType, values: list[Any]) -> list[str | None]:
    write = _WRITERS.get(kind.name, str)
    if kind.name == "FIXED" and kind.scale:
        write = _decimal_writer(kind.scale)
    elif _is_time(kind):
        write = _time_writer(kind.name, 9 if kind.scale is None else kind.scale)
    return [None if value is None else write(value) for value in values]


def _decimal_writer(scale: int) -> Callable[[Any], str]:
    return lambda value: f"{value:.{scale}f}"


def _time_writer(name: str, scale: int) -> Callable[[Any], str]:
    def write(value: Any) -> str:
        if name == "TIMESTAMP_TZ":
            return f"{_seconds(_microseconds(value['t']), scale)} {value['o'] + 1440}"
        return _seconds(_microseconds(value), scale)

    return write


_EPOCH = datetime(1970, 1, 1)
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)


def _microseconds(value: datetime | time) -> int:
    """Since the Unix epoch, or since midnight."""
    if isinstance(value, time):
        whole = (value.hour * 60 + value.minute) * 60 + value.second
        return whole * 1_000_000 + value.microsecond
    since = value - (_EPOCH if value.tzinfo is None else _EPOCH_UTC)
    return (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds


def _seconds(microseconds: int, scale: int) -> str:
    """Microseconds as seconds with `scale` digits after the point."""
    sign = "-" if microseconds < 0 else ""
    whole, part = divmod(abs(microseconds), 1_000_000)
    digits = f"{part:06d}000"[:scale]
    return f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"


def _real(value: float) -> str:
    # Python's own writing is the shortest that reads back as the same number.
    return repr(float(value))


_WRITERS: dict[str, Callable[[Any], str]] = {
    "FIXED": lambda value: str(int(value)),
    "REAL": _real,
    "BOOLEAN": lambda value: "1" if value else "0",
    "DATE": lambda value: str((value - date(1970, 1, 1)).days),
    "BINARY": lambda value: value.hex().upper(),
}


# -- Arrow


def to_wire(
    columns: Sequence[Column], table: pa.Table, schema: pa.Schema | None = None
) -> pa.Table:
    """A table of `emulator.types` as Snowflake sends it; a part of one in the `schema` of all."""
    fields, arrays = [], []
    for i, (column, data) in enumerate(zip(columns, table.columns, strict=True)):
        array = _encoded(column.type, _whole(data))
        if schema is not None and column.type.name == "FIXED":
            array = _widened(array, schema.field(i).type)
        fields.append(_field(column, array.type))
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def wire_schema(columns: Sequence[Column], table: pa.Table) -> pa.Schema:
    """The schema of what :func:`to_wire` makes of a table: all chunks of a result have the same."""
    fields = []
    for column, data in zip(columns, table.columns, strict=True):
        sample = data if column.type.name == "FIXED" else data.slice(0, 0)
        fields.append(_field(column, _encoded(column.type, _whole(sample)).type))
    return pa.schema(fields)


def arrow_stream(table: pa.Table) -> bytes:
    """What :func:`to_wire` made, or a slice of it, as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_OPTIONS) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def arrow_text(table: pa.Table) -> str:
    """The ``rowsetBase64`` of a reply; empty where there are no rows, as Snowflake has it."""
    return b64encode(arrow_stream(table)).decode("ascii") if table.num_rows else ""


@lru_cache(maxsize=4096)
def _field(column: Column, arrow: pa.DataType) -> pa.Field:
    kind = column.type
    length = _byte_length(kind)
    if kind.name == "TIMESTAMP_TZ":
        length = 16 if arrow.num_fields == 3 else 8
    metadata = {
        "logicalType": kind.name,
        "precision": str(_precision(kind) or 0),
        "scale": str(kind.scale or 0),
        "charLength": str(kind.length or 0),
        "byteLength": str(length or 0),
        "finalType": "T",
    }
    return pa.field(column.name, arrow, nullable=True, metadata=metadata)


def _whole(data: pa.ChunkedArray) -> pa.Array:
    if data.num_chunks == 1:
        return data.chunk(0)
    return pa.concat_arrays(data.chunks) if data.num_chunks else pa.array([], data.type)


def _encoded(kind: DataType, array: pa.Array) -> pa.Array:
    if kind.name == "FIXED":
        return _fixed(kind, array)
    if kind.name == "TIME":
        return _times(array, 9 if kind.scale is None else kind.scale)
    if kind.name.startswith("TIMESTAMP"):
        return _timestamps(kind, array)
    wanted = _PLAIN.get(kind.name, pa.string())
    return array if array.type == wanted else array.cast(wanted)


_PLAIN = {
    "REAL": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "DATE": pa.date32(),
    "BINARY": pa.binary(),
}


def _fixed(kind: DataType, array: pa.Array) -> pa.Array:
    scale = kind.scale or 0
    if len(array) <= FEW:
        return _few(array.to_pylist(), scale)
    if pa.types.is_integer(array.type) and scale == 0:
        return _narrowed(array.cast(pa.int64()))
    if not pa.types.is_decimal128(array.type) or array.type.scale != scale:
        array = array.cast(pa.decimal128(38, scale))
    whole = _unscaled(array)
    return array if whole is None else _narrowed(whole)


def _few(values: list[int | Decimal | None], scale: int) -> pa.Array:
    """What :func:`_fixed` gives, by way of Python: each of Arrow's functions takes longer."""
    whole = [
        None if v is None else int(Decimal(v).scaleb(scale, _EXACT) if scale else v) for v in values
    ]
    there = [v for v in whole if v is not None] or [0]
    least, most = min(there), max(there)
    for width in (pa.int8(), pa.int16(), pa.int32(), pa.int64()):
        half = 1 << (width.bit_width - 1)
        if -half <= least and most < half:
            return pa.array(whole, width)
    return pa.array(values, pa.decimal128(38, scale))


def _unscaled(array: pa.Array) -> pa.Array | None:
    """Decimals times ten to their scale, as 64-bit integers; None where one does not fit."""
    _, data = array.buffers()
    words = np.frombuffer(data, dtype="<i8", count=2 * (array.offset + len(array)))
    low, high = words[2 * array.offset :: 2], words[2 * array.offset + 1 :: 2]
    missing = np.asarray(array.is_null().to_numpy(zero_copy_only=False), dtype=bool)
    if not np.all((high == low >> 63) | missing):
        return None
    return pa.array(np.where(missing, 0, low), mask=missing if array.null_count else None)


def _narrowed(array: pa.Array) -> pa.Array:
    if len(array) == array.null_count:
        return array.cast(pa.int8())
    there = (array.drop_null() if array.null_count else array).to_numpy()
    least, most = int(there.min()), int(there.max())
    for width in (pa.int8(), pa.int16(), pa.int32()):
        half = 1 << (width.bit_width - 1)
        if -half <= least and most < half:
            return array.cast(width)
    return array


def _widened(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Integers as wider ones; or, times ten to their scale, as the decimals that they stand for."""
    if not pa.types.is_decimal128(wanted) or array.type == wanted:
        return array.cast(wanted)
    whole = array.cast(pa.int64()).fill_null(0).to_numpy()
    words = np.empty(2 * len(array), dtype="<i8")
    words[::2], words[1::2] = whole, whole >> 63
    validity = None
    if array.null_count:
        valid = array.is_valid()  # whose values are laid out as a validity map is
        validity = valid.buffers()[1]
    return pa.Array.from_buffers(wanted, len(array), [validity, pa.py_buffer(words)])


def _times(array: pa.Array, scale: int) -> pa.Array:
    return _scaled(array.cast(pa.time64("us")).cast(pa.int64()), scale)


def _scaled(microseconds: pa.Array, scale: int) -> pa.Array:
    """Microseconds in units of ten to the minus `scale` seconds, cut towards the past."""
    if scale == 6:
        return microseconds
    numbers = microseconds.fill_null(0).to_numpy()
    changed = numbers * 10 ** (scale - 6) if scale > 6 else numbers // 10 ** (6 - scale)
    return _masked(changed, microseconds)


def _masked(numbers: np.ndarray[Any, Any], like: pa.Array) -> pa.Array:
    """Numbers as an array that has NULL where another has."""
    if not like.null_count:
        return pa.array(numbers)
    return pa.array(numbers, mask=like.is_null().to_numpy(zero_copy_only=False))


def _timestamps(kind: DataType, array: pa.Array) -> pa.Array:
    scale = 9 if kind.scale is None else kind.scale
    if kind.name == "TIMESTAMP_TZ":
        return _zoned(array, scale)
    zone = "UTC" if kind.name == "TIMESTAMP_LTZ" else None
    whole = array.cast(pa.timestamp("us", zone)).cast(pa.int64())
    if scale <= 7:  # such a number reaches as far as dates do
        return _scaled(whole, scale)
    return _structured(_parts(whole), whole)


def _parts(microseconds: pa.Array) -> dict[str, pa.Array]:
    numbers = microseconds.fill_null(0).to_numpy()
    seconds, rest = np.divmod(numbers, 1_000_000)
    return {
        "epoch": _masked(seconds, microseconds),
        "fraction": _masked((rest * 1000).astype(np.int32), microseconds),
    }


def _zoned(array: pa.Array, scale: int) -> pa.Array:
    import pyarrow.compute as pc  # not at the start of a server, of which it takes a twentieth

    missing = array.is_null()
    whole = pc.struct_field(array, "t").cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    whole = pc.if_else(missing, pa.scalar(None, pa.int64()), whole)
    offsets = pc.struct_field(array, "o").cast(pa.int32()).fill_null(0).to_numpy()
    # Shorter ones have no fraction: the connector reads a fraction wrongly at these scales.
    parts = {"epoch": _scaled(whole, scale)} if scale <= 3 else _parts(whole)
    parts["timezone"] = _masked((offsets + 1440).astype(np.int32), whole)
    return _structured(parts, whole)


def _structured(parts: dict[str, pa.Array], like: pa.Array) -> pa.Array:
    fields = [pa.field(name, array.type, nullable=True) for name, array in parts.items()]
    mask = like.is_null() if like.null_count else None
    return pa.StructArray.from_arrays(list(parts.values()), fields=fields, mask=mask)
