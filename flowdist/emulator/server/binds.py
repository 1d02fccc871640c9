"""Bound values as the connector sends them, as typed Python values.

=================  ==========================  ==================================
type               on the wire                 here
=================  ==========================  ==================================
FIXED              digits                      int, or Decimal with a fraction
REAL               digits                      float
TEXT               itself                      str
BOOLEAN            true, false, 1, 0           bool
BINARY             hexadecimal                 bytes
DATE               milliseconds since 1970     date
TIME               nanoseconds since midnight  time
TIMESTAMP_NTZ      nanoseconds since 1970      datetime without a zone
TIMESTAMP_LTZ      nanoseconds since 1970      datetime in UTC
TIMESTAMP_TZ       the same, space, minutes    datetime in a zone of fixed offset
any                null                        None
=================  ==========================  ==================================

Where the number does not parse, the text is taken as the literal that Snowflake would convert.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import Any

from flowdist.emulator.bulk import Rows
from flowdist.emulator.errors import SqlError

__all__ = ["read_binds"]


def read_binds(bindings: Mapping[str, Any] | None) -> list[Any] | Rows:
    """The values in their order; `Rows` where they are arrays. SqlError where one makes no sense.

    >>> read_binds({"1": {"type": "FIXED", "value": "7"}, "2": {"type": "ANY", "value": None}})
    [7, None]
    >>> read_binds({"1": {"type": "REAL", "value": ["1.5", None]}})
    [(1.5,), (None,)]
    """
    if not bindings:
        return []
    found = [bindings[str(i + 1)] for i in range(len(bindings)) if str(i + 1) in bindings]
    if len(found) != len(bindings):
        raise SqlError(2049, "42601", "SQL compilation error:\nBind variables are not numbered.")
    if not any(isinstance(bind["value"], list) for bind in found):
        return [_value(bind) for bind in found]
    height = max(len(bind["value"]) for bind in found if isinstance(bind["value"], list))
    return Rows(zip(*(_column(bind, height) for bind in found), strict=True))


def _value(bind: Mapping[str, Any]) -> Any:
    value = bind["value"]
    return None if value is None else _read(_reader(bind), value, bind["type"])


def _column(bind: Mapping[str, Any], height: int) -> list[Any]:
    value, read = bind["value"], _reader(bind)
    if not isinstance(value, list):
        return [_value(bind)] * height
    if len(value) != height:
        raise SqlError(
            2049, "42601", "SQL compilation error:\nBind variables have different numbers of rows."
        )
    return [None if v is None else _read(read, v, bind["type"]) for v in value]


def _reader(bind: Mapping[str, Any]) -> Callable[[str], Any]:
    return _READERS.get(str(bind["type"]).upper(), str)


def _read(read: Callable[[str], Any], value: Any, kind: str) -> Any:
    try:
        return read(value if isinstance(value, str) else str(value))
    except (ValueError, ArithmeticError) as error:
        raise SqlError(
            100038, "22018", f"Bound value '{value}' is not recognized as {kind}"
        ) from error


def _number(text: str) -> int | Decimal:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise ValueError(text) from error


def _boolean(text: str) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    try:
        return known[text.lower()]
    except KeyError:
        raise ValueError(text) from None


_FAR = 31_536_000_000_000
"""Milliseconds from which on the connector sends nanoseconds instead, in bulk."""


def _date(text: str) -> date | str:
    if not _is_whole(text):
        return date.fromisoformat(text)
    number = int(text)
    if abs(number) >= _FAR * 1000:
        number //= 1_000_000
    return date(1970, 1, 1) + timedelta(days=number // 86_400_000)


def _time(text: str) -> time:
    if not _is_whole(text):
        return time.fromisoformat(text)
    return (datetime(1970, 1, 1) + timedelta(microseconds=int(text) // 1000)).time()


def _timestamp(zone: timezone | None) -> Callable[[str], datetime]:
    start = datetime(1970, 1, 1, tzinfo=zone)

    def read(text: str) -> datetime:
        if not _is_whole(text):
            found = datetime.fromisoformat(text)
            return found.replace(tzinfo=found.tzinfo or zone) if zone else found
        return start + timedelta(microseconds=int(text) // 1000)

    return read


_utc = _timestamp(UTC)


def _zoned(text: str) -> datetime:
    number, _, minutes = text.partition(" ")
    if not _is_whole(number):
        return _utc(text)
    return _utc(number).astimezone(timezone(timedelta(minutes=int(minutes or 1440) - 1440)))


def _is_whole(text: str) -> bool:
    return text.lstrip("-").isdigit()


_READERS: dict[str, Callable[[str], Any]] = {
    "FIXED": _number,
    "REAL": float,
    "BOOLEAN": _boolean,
    "BINARY": bytes.fromhex,
    "DATE": _date,
    "TIME": _time,
    "TIMESTAMP_NTZ": _timestamp(None),
    "TIMESTAMP_LTZ": _utc,
    "TIMESTAMP_TZ": _zoned,
}
