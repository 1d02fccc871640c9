"""Which Python values fit a scalar Arrow type, and how they are put into it without loss.

pyarrow alone is not strict enough: it cuts 1.5 to 1 for int64, takes True for a float and bytes
for a string, drops time zones and fractions of seconds, and makes 1e300 an infinity in float32. A
`Scalar` therefore lists the Python types that pyarrow converts faithfully (`plain`; a column of
nothing else is converted in C at once) and has a function `prepare` for a value of any other type.

Nested types are left to `encode`.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from types import NoneType
from typing import Any

import numpy as np
import pyarrow as pa

from flowdist.schema.fields import MISSING, Missing, describe, spell

BAD_VALUE = (ValueError, TypeError, OverflowError, NotImplementedError)
"""What pyarrow, numpy and Python raise for a value that does not fit."""


class Unfit(Exception):
    """A value that does not fit; the text says why, empty where its type says enough."""


@dataclass(frozen=True)
class Scalar:
    """How values get into one family of Arrow types."""

    plain: frozenset[type]
    prepare: Callable[[Any, pa.DataType], Any]
    trouble: str  # why a value of the right Python type may be refused all the same


class Refused(Exception):
    """The first value of a column that does not fit.

    `index` is its position in the column, `path` leads to the culprit inside of it ("[2].x").
    """

    def __init__(self, index: int, expected: str, got: str, path: str = "") -> None:
        super().__init__(index, expected, got, path)
        self.index, self.expected, self.got, self.path = index, expected, got, path

    def at(self, index: int) -> Refused:
        """The same, where the column was part of another one."""
        return Refused(index, self.expected, self.got, self.path)

    def within(self, index: int, step: str) -> Refused:
        """The same culprit, seen from the column of lists or structs that holds it."""
        return Refused(index, self.expected, self.got, step + self.path)


def encode_scalars(
    values: list[Any], arrow: pa.DataType, choices: tuple[str, ...], nullable: bool
) -> pa.Array:
    """Values other than null as a column, one by one. Raises `Refused` for the first unfit one."""
    scalar, expected = SCALARS[arrow.id], spell(arrow, nullable, choices)
    prepared: list[Any] = []
    refused = None
    for index, value in enumerate(values):
        try:
            fit = scalar.prepare(_unwrapped(value), arrow)
            if choices:
                fit = _chosen(value, choices)
        except Unfit as why:
            refused = _refused(index, expected, value, str(why))
            break
        except BAD_VALUE:
            refused = _refused(index, expected, value, scalar.trouble)
            break
        prepared.append(fit)
    try:
        array = build(prepared, arrow)
    except BAD_VALUE:
        index = first_bad(lambda part: build(part, arrow), prepared)
        raise _refused(index, expected, values[index], scalar.trouble) from None
    if refused is not None:
        raise refused
    return array


def _refused(index: int, expected: str, value: object, why: str) -> Refused:
    return Refused(index, expected, describe(value) + (f" ({why})" if why else ""))


def _unwrapped(value: Any) -> Any:
    """The scalar in an array without dimensions, which NumPy's reductions sometimes give."""
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _chosen(value: Any, choices: tuple[str, ...]) -> str:
    # A member of a StrEnum is its name where the enum was declared, its text where a Literal was.
    candidates = (value.name, value.value) if isinstance(value, Enum) else (value,)
    for candidate in candidates:
        if candidate in choices:
            return str(candidate)
    raise Unfit


def build(values: list[Any], arrow: pa.DataType) -> pa.Array:
    """Prepared or plain values as an array. Raises one of `BAD_VALUE` where one does not fit."""
    array = pa.array(values, arrow)
    if arrow.id in _NARROW_FLOATS and not _finite_as(values, array):
        raise OverflowError(f"too large for {arrow}")
    return array


def _finite_as(values: list[Any], array: pa.Array) -> bool:
    infinite = np.isinf(array.to_numpy(zero_copy_only=False))
    return all(values[i] in (math.inf, -math.inf) for i in np.flatnonzero(infinite))


def first_bad(convert: Callable[[list[Any]], object], values: list[Any]) -> int:
    """The index of the first value that makes `convert` raise, which it does on `values`.

    Bisection: `convert` sees each value about twice, not once for each of them.
    """
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            convert(values[low:middle])
        except BAD_VALUE:
            high = middle
        else:
            low = middle
    return low


@lru_cache(maxsize=1024)
def may_be_null(cls: type) -> bool:
    """Whether values of this Python type can stand for null, so that a column must look at each."""
    return (
        cls in (NoneType, Missing, np.datetime64, np.timedelta64)
        # By name, because pandas need not be imported.
        or (cls.__name__ in ("NAType", "NaTType") and cls.__module__.startswith("pandas."))
    )


def is_null(value: Any) -> bool:
    """Whether a value is None, absent, pandas' NA or NaT, or NumPy's NaT. NaN is a number.

    >>> is_null(None), is_null(np.datetime64("NaT")), is_null(float("nan"))
    (True, True, False)
    """
    if value is None or value is MISSING:
        return True
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return bool(np.isnat(value))
    cls: type = type(value)
    return may_be_null(cls)


def _bool(value: Any, arrow: pa.DataType) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise Unfit


def _int(value: Any, arrow: pa.DataType) -> int:
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return int(value)
    raise Unfit


def _float(value: Any, arrow: pa.DataType) -> float:
    if isinstance(value, (float, np.floating)):
        return float(value)
    # Arrow takes whole numbers up to 2**53; beyond it those that a double holds exactly are fine.
    whole = _int(value, arrow)
    number = float(whole)
    with np.errstate(over="ignore"):
        kept = _NARROW_FLOATS.get(arrow.id, np.float64)(number)
    if int(kept) != whole:
        raise Unfit("not exact as a float; declare int, or return a float")
    return number


def _text(value: Any, arrow: pa.DataType) -> str:
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Enum):
        return value.name
    raise Unfit


def _binary(value: Any, arrow: pa.DataType) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise Unfit


def _decimal(value: Any, arrow: pa.DataType) -> Decimal | int:
    if isinstance(value, Decimal):
        return value
    return _int(value, arrow)


def _date(value: Any, arrow: pa.DataType) -> dt.date:
    if isinstance(value, np.datetime64) and np.datetime_data(value)[0] == "D":
        value = value.item()
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return value
    raise Unfit


def _timestamp(value: Any, arrow: pa.DataType) -> int | dt.datetime:
    if not isinstance(value, (dt.datetime, np.datetime64)):
        raise Unfit
    aware = isinstance(value, dt.datetime) and value.utcoffset() is not None
    if aware and arrow.tz is None:
        raise Unfit("has a time zone; declare pa.timestamp('us', tz='UTC'), or drop the zone")
    if not aware and arrow.tz is not None:
        raise Unfit("has no time zone, so it is no definite instant")
    if type(value) is dt.datetime and arrow.unit == "us":
        return value
    return _ticks(value if isinstance(value, np.datetime64) else _instant(value), arrow)


def _instant(value: dt.datetime) -> np.datetime64:
    """The instant in UTC. pandas' Timestamp is a datetime that counts nanoseconds."""
    if hasattr(value, "to_datetime64"):
        exact: np.datetime64 = value.to_datetime64()
        return exact
    if value.tzinfo is not None:
        value = value.astimezone(dt.UTC).replace(tzinfo=None)
    return np.datetime64(value, "us")


def _duration(value: Any, arrow: pa.DataType) -> int:
    if hasattr(value, "to_timedelta64"):
        value = value.to_timedelta64()
    elif isinstance(value, dt.timedelta):
        value = np.timedelta64(value, "us")
    if not isinstance(value, np.timedelta64):
        raise Unfit
    return _ticks(value, arrow)


def _ticks(exact: np.datetime64 | np.timedelta64, arrow: pa.DataType) -> int:
    count = exact.astype(f"{type(exact).__name__}[{arrow.unit}]")
    # The way back shows both a lost fraction and an overflow, which NumPy lets wrap around.
    if count.astype(exact.dtype) != exact:
        raise Unfit(f"not exact as {arrow}")
    return int(count.astype(np.int64))


_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def _time(value: Any, arrow: pa.DataType) -> int:
    if not isinstance(value, dt.time):
        raise Unfit
    if value.tzinfo is not None:
        raise Unfit("has a time zone, which a time of day cannot keep")
    seconds = value.hour * 3600 + value.minute * 60 + value.second
    ticks, rest = divmod(
        (seconds * 10**6 + value.microsecond) * _PER_SECOND[arrow.unit], _PER_SECOND["us"]
    )
    if rest:
        raise Unfit(f"not exact as {arrow}")
    return ticks


def _null(value: Any, arrow: pa.DataType) -> None:
    raise Unfit


_INT_TYPES = [pa.int8(), pa.int16(), pa.int32(), pa.int64()]
_INT_TYPES += [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
_NARROW_FLOATS: dict[int, type[np.floating[Any]]] = {
    pa.float32().id: np.float32,
    pa.float16().id: np.float16,
}

_INTS: frozenset[type] = frozenset({int, *(t.to_pandas_dtype() for t in _INT_TYPES)})
_FLOATS: frozenset[type] = frozenset({float, np.float64, np.float32, np.float16})
_LOOKED_AT: frozenset[type] = frozenset()  # pyarrow drops zones and fractions: no value is plain

_TEXT = Scalar(frozenset({str, np.str_}), _text, "not valid Unicode")
_BINARY = Scalar(frozenset({bytes, np.bytes_, bytearray}), _binary, "wrong length")
_DECIMAL = Scalar(frozenset({Decimal, int}), _decimal, "does not fit without rounding")
_FAMILIES: list[tuple[list[pa.DataType], Scalar]] = [
    ([pa.null()], Scalar(frozenset(), _null, "")),
    ([pa.bool_()], Scalar(frozenset({bool, np.bool_}), _bool, "")),
    (_INT_TYPES, Scalar(_INTS, _int, "out of range")),
    ([pa.float64(), pa.float32()], Scalar(_FLOATS | _INTS, _float, "out of range")),
    # Here pyarrow rounds whole numbers.
    ([pa.float16()], Scalar(_FLOATS, _float, "out of range")),
    ([pa.string(), pa.large_string(), pa.string_view()], _TEXT),
    ([pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(1)], _BINARY),
    ([pa.decimal32(1), pa.decimal64(1), pa.decimal128(1), pa.decimal256(1)], _DECIMAL),
    ([pa.date32(), pa.date64()], Scalar(frozenset({dt.date}), _date, "out of range")),
    ([pa.time32("s"), pa.time64("us")], Scalar(_LOOKED_AT, _time, "out of range")),
    ([pa.timestamp("us")], Scalar(_LOOKED_AT, _timestamp, "out of range")),
    ([pa.duration("us")], Scalar(_LOOKED_AT, _duration, "out of range")),
]
SCALARS: dict[int, Scalar] = {t.id: scalar for types, scalar in _FAMILIES for t in types}
"""How values get into a scalar type, by the id of the Arrow type (whatever its unit or width)."""
