"""Snowflake's data types as SQL writes them, and what DuckDB stores them as."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
from sqlglot import exp

from flowdist.emulator.errors import SqlError, unsupported
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.types import BOOLEAN, FIXED, LTZ, REAL, TEXT, VARIANT, DataType

__all__ = [
    "ARRAY",
    "BINARY",
    "DATE",
    "JSON_TYPES",
    "NTZ",
    "OBJECT",
    "TIME",
    "TZ",
    "from_arrow",
    "from_ast",
    "from_json",
    "from_value",
    "read_type",
    "storage",
    "to_json",
]

MAX_BYTES = 8_388_608
DATE = DataType("DATE")
TIME = DataType("TIME", precision=0, scale=9)
NTZ = DataType("TIMESTAMP_NTZ", precision=0, scale=9)
TZ = DataType("TIMESTAMP_TZ", precision=0, scale=9)
BINARY = DataType("BINARY", length=MAX_BYTES)
OBJECT = DataType("OBJECT")
ARRAY = DataType("ARRAY")
JSON_TYPES = ("VARIANT", "OBJECT", "ARRAY")

_STORAGE = {
    "REAL": "DOUBLE",
    "TEXT": "VARCHAR",
    "BOOLEAN": "BOOLEAN",
    "DATE": "DATE",
    "TIME": "TIME",
    "TIMESTAMP_NTZ": "TIMESTAMP",
    "TIMESTAMP_LTZ": "TIMESTAMPTZ",
    "TIMESTAMP_TZ": "STRUCT(t TIMESTAMPTZ, o INTEGER)",
    "BINARY": "BLOB",
    "VARIANT": "JSON",
    "OBJECT": "JSON",
    "ARRAY": "JSON",
}
_WORDS: dict[str, DataType] = {
    **dict.fromkeys(("NUMBER", "DECIMAL", "NUMERIC", "DEC"), FIXED),
    **dict.fromkeys(("INT", "INTEGER", "BIGINT", "SMALLINT", "TINYINT", "BYTEINT"), FIXED),
    **dict.fromkeys(("FLOAT", "FLOAT4", "FLOAT8", "DOUBLE", "REAL"), REAL),
    **dict.fromkeys(("VARCHAR", "STRING", "TEXT", "NVARCHAR", "NVARCHAR2"), TEXT),
    **dict.fromkeys(("CHAR", "CHARACTER", "NCHAR"), replace(TEXT, length=1)),
    **dict.fromkeys(("BINARY", "VARBINARY"), BINARY),
    "BOOLEAN": BOOLEAN,
    "DATE": DATE,
    "TIME": TIME,
    **dict.fromkeys(("DATETIME", "TIMESTAMP_NTZ", "TIMESTAMPNTZ"), NTZ),
    **dict.fromkeys(("TIMESTAMP_LTZ", "TIMESTAMPLTZ"), LTZ),
    **dict.fromkeys(("TIMESTAMP_TZ", "TIMESTAMPTZ"), TZ),
    "VARIANT": VARIANT,
    "OBJECT": OBJECT,
    "ARRAY": ARRAY,
}
_TIMES = ("TIME", "TIMESTAMP_NTZ", "TIMESTAMP_LTZ", "TIMESTAMP_TZ")
_AST = {
    **dict.fromkeys(("TINYINT", "SMALLINT", "INT", "BIGINT", "INT128"), FIXED),
    **dict.fromkeys(("DOUBLE", "FLOAT"), REAL),
    **dict.fromkeys(("TEXT", "VARCHAR", "NVARCHAR"), TEXT),
    **dict.fromkeys(("CHAR", "NCHAR"), replace(TEXT, length=1)),
    **dict.fromkeys(("BINARY", "VARBINARY"), BINARY),
    "DECIMAL": FIXED,
    "BOOLEAN": BOOLEAN,
    "DATE": DATE,
    "TIME": TIME,
    "DATETIME": NTZ,
    "TIMESTAMPNTZ": NTZ,
    "TIMESTAMPLTZ": LTZ,
    "TIMESTAMPTZ": TZ,
    "VARIANT": VARIANT,
    "OBJECT": OBJECT,
    "ARRAY": ARRAY,
}
_MAPPED = {"TIMESTAMP_NTZ": NTZ, "TIMESTAMP_LTZ": LTZ, "TIMESTAMP_TZ": TZ}


def storage(data_type: DataType) -> str:
    """The DuckDB type of a column."""
    if data_type.name == "FIXED":
        return f"DECIMAL({data_type.precision}, {data_type.scale})"
    return _STORAGE[data_type.name]


def read_type(parse: Parser, mapping: str) -> DataType:
    """A type as the definition of a column has it; `mapping` is TIMESTAMP_TYPE_MAPPING."""
    start = parse.position()
    word = parse.next().word
    if word == "TIMESTAMP":
        base = _MAPPED[_zone(parse) or mapping]
    elif word in _WORDS:
        base = _WORDS[word]
    else:
        raise _unknown(parse, start)
    if word == "DOUBLE":
        parse.accept("PRECISION")
    if word in ("CHAR", "CHARACTER", "NCHAR") and parse.accept("VARYING"):
        base = TEXT
    if parse.word() == "(":
        if base.name in JSON_TYPES:
            raise _unknown(parse, start)
        base = _sized(base, parse.parenthesised(Parser.integer))
    return base


def _zone(parse: Parser) -> str | None:
    if parse.accept("WITH", "LOCAL", "TIME", "ZONE"):
        return "TIMESTAMP_LTZ"
    if parse.accept("WITH", "TIME", "ZONE"):
        return "TIMESTAMP_TZ"
    if parse.accept("WITHOUT", "TIME", "ZONE"):
        return "TIMESTAMP_NTZ"
    return None


def _unknown(parse: Parser, start: int) -> SqlError:
    parse.rest()
    return unsupported("data type " + parse.sql[start : start + 40].split(",")[0])


def _sized(base: DataType, sizes: Sequence[int]) -> DataType:
    if base.name == "FIXED" and 1 <= len(sizes) <= 2:
        precision, scale = sizes[0], sizes[1] if len(sizes) == 2 else 0
        if not (1 <= precision <= 38 and 0 <= scale <= precision):
            raise SqlError(
                1005,
                "42601",
                "SQL compilation error:\ninvalid type parameters "
                f"({', '.join(str(size) for size in sizes)}) for NUMBER.",
            )
        return replace(base, precision=precision, scale=scale)
    if base.name in ("TEXT", "BINARY") and len(sizes) == 1:
        return replace(base, length=sizes[0])
    if base.name in _TIMES and len(sizes) == 1 and 0 <= sizes[0] <= 9:
        return replace(base, scale=sizes[0])
    if base.name == "REAL" and len(sizes) == 1:
        return base
    raise unsupported(f"data type {base.name}({', '.join(str(size) for size in sizes)})")


def from_ast(node: exp.DataType, mapping: str) -> DataType:
    """The type that a cast names."""
    name = node.this.name if isinstance(node.this, exp.DType) else str(node.this)
    if name == "TIMESTAMP":
        base = _MAPPED[mapping]
    elif name in _AST:
        base = _AST[name]
    else:
        raise unsupported(f"data type {node.sql('snowflake')}")
    sizes = [int(param.name) for param in node.expressions if param.name.isdigit()]
    if len(sizes) != len(node.expressions):
        raise unsupported(f"data type {node.sql('snowflake')}")
    return _sized(base, sizes) if sizes else base


def from_value(value: Any) -> DataType | None:
    """The type of a bound value or of one of a result; None where it is NULL."""
    if isinstance(value, bool):
        return BOOLEAN
    if isinstance(value, int):
        return FIXED
    if isinstance(value, Decimal):
        exponent = value.as_tuple().exponent
        return replace(FIXED, scale=max(0, -exponent if isinstance(exponent, int) else 0))
    if isinstance(value, float):
        return REAL
    if isinstance(value, dt.datetime):
        if value.tzinfo is None:
            return NTZ
        return LTZ if value.tzinfo is dt.UTC else TZ
    if isinstance(value, dt.date):
        return DATE
    if isinstance(value, dt.time):
        return TIME
    if isinstance(value, bytes | bytearray):
        return BINARY
    if isinstance(value, dict):
        return TZ
    return None if value is None else TEXT


def from_arrow(field: pa.DataType, duck: str, known: DataType | None) -> DataType:
    """The type of a column of a result: by what DuckDB gives, refined by what the translation knows
    (lengths, and which kind of JSON).
    """
    if pa.types.is_decimal(field):
        return replace(FIXED, precision=field.precision, scale=field.scale)
    if pa.types.is_integer(field):
        same = known is not None and known.name == "FIXED" and known.scale == 0
        return known if known is not None and same else FIXED
    if pa.types.is_timestamp(field):
        found = NTZ if field.tz is None else LTZ
    elif pa.types.is_string(field) or pa.types.is_large_string(field):
        text = known if known is not None and known.name == "TEXT" else TEXT
        json = known if known is not None and known.name in JSON_TYPES else VARIANT
        return json if duck == "JSON" else text
    else:
        found = _of_arrow(field)
    return known if known is not None and known.name == found.name else found


def _of_arrow(field: pa.DataType) -> DataType:
    tests: tuple[tuple[Any, DataType], ...] = (
        (pa.types.is_floating, REAL),
        (pa.types.is_boolean, BOOLEAN),
        (pa.types.is_date, DATE),
        (pa.types.is_time, TIME),
        (pa.types.is_binary, BINARY),
        (pa.types.is_large_binary, BINARY),
        (pa.types.is_null, TEXT),
    )
    for test, found in tests:
        if test(field):
            return found
    if pa.types.is_struct(field) and [f.name for f in field] == ["t", "o"]:
        return TZ
    raise unsupported(f"a result of DuckDB's type {field}")


def to_json(data_type: DataType) -> dict[str, Any]:
    """As the table index keeps it."""
    return {k: v for k, v in vars(data_type).items() if v is not None}


def from_json(values: dict[str, Any]) -> DataType:
    """The other way."""
    return DataType(**values)
