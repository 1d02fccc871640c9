"""Snowflake's data types, and what holds their values inside the emulator.

Between the engine and the wire every value is in an Arrow table, in the representation below:

========================  ==========================================================
type                      Arrow
========================  ==========================================================
FIXED (NUMBER)            decimal128(precision, scale), or int64 where scale is 0
REAL                      float64
TEXT                      string
BOOLEAN                   bool
DATE                      date32
TIME                      time64[us]
TIMESTAMP_NTZ             timestamp[us]
TIMESTAMP_LTZ             timestamp[us, UTC]
TIMESTAMP_TZ              struct<t: timestamp[us, UTC], o: int32>, o in minutes east of UTC
BINARY                    binary
VARIANT, OBJECT, ARRAY    string: JSON
========================  ==========================================================

Timestamps have microseconds here and nanoseconds in Snowflake.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

__all__ = ["BOOLEAN", "FIXED", "LTZ", "REAL", "TEXT", "VARIANT", "DataType", "arrow_type"]

MAX_LENGTH = 16_777_216


@dataclass(frozen=True)
class DataType:
    """One of the names above with what belongs to it.

    ``precision`` and ``scale`` are those of FIXED; ``scale`` of a time or timestamp is its number
    of fractional digits; ``length`` is in characters (TEXT) or bytes (BINARY).
    """

    name: str
    precision: int | None = None
    scale: int | None = None
    length: int | None = None

    def __str__(self) -> str:
        """As DESCRIBE TABLE writes it."""
        if self.name == "FIXED":
            return f"NUMBER({self.precision},{self.scale})"
        if self.name == "REAL":
            return "FLOAT"
        if self.name == "TEXT":
            return f"VARCHAR({self.length})"
        if self.name == "BINARY":
            return f"BINARY({self.length})"
        if self.name == "TIME" or self.name.startswith("TIMESTAMP"):
            return f"{self.name}({self.scale})"
        return self.name


TEXT = DataType("TEXT", length=MAX_LENGTH)
FIXED = DataType("FIXED", precision=38, scale=0)
REAL = DataType("REAL")
BOOLEAN = DataType("BOOLEAN")
VARIANT = DataType("VARIANT")
LTZ = DataType("TIMESTAMP_LTZ", precision=0, scale=9)

_ZONED = pa.struct([("t", pa.timestamp("us", "UTC")), ("o", pa.int32())])
_ARROW = {
    "REAL": pa.float64(),
    "TEXT": pa.string(),
    "BOOLEAN": pa.bool_(),
    "DATE": pa.date32(),
    "TIME": pa.time64("us"),
    "TIMESTAMP_NTZ": pa.timestamp("us"),
    "TIMESTAMP_LTZ": pa.timestamp("us", "UTC"),
    "TIMESTAMP_TZ": _ZONED,
    "BINARY": pa.binary(),
    "VARIANT": pa.string(),
    "OBJECT": pa.string(),
    "ARRAY": pa.string(),
}


def arrow_type(data_type: DataType) -> pa.DataType:
    """The Arrow type that holds values of a Snowflake type, as in the table above."""
    if data_type.name == "FIXED":
        return pa.decimal128(data_type.precision or 38, data_type.scale or 0)
    return _ARROW[data_type.name]
