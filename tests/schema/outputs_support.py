"""Outputs of every kind, and declarations to hold them to: what the tests of outputs share."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import math
from decimal import Decimal
from typing import Any, Literal, NamedTuple, NewType, NotRequired, Required, TypedDict

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pydantic
from hypothesis import strategies as st

from flowdist.artifacts import artifact_struct, dumps
from flowdist.schema import MISSING, Field, Schema, artifact, optional, table

UTC_US = pa.timestamp("us", "UTC")


@dataclasses.dataclass
class Line:
    slope: float
    n: int


class Pair(NamedTuple):
    slope: float
    n: int


class Model(pydantic.BaseModel):
    slope: float
    n: int


class Entry(TypedDict):
    slope: float
    n: Required[int]


class Partial(TypedDict):
    slope: NotRequired[float]


@dataclasses.dataclass
class Fit:
    line: Line
    weights: npt.NDArray[np.float64]
    frame: pd.DataFrame
    note: str | None = None


@dataclasses.dataclass
class Tree:
    children: list[Tree]


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Mood(enum.StrEnum):
    GLAD = "glad!"


class Level(enum.IntEnum):
    LOW = 1


class Regressor:
    """An object that no column can hold."""


UserId = NewType("UserId", int)


def field(declared: Any) -> Field:
    return Schema.of({"x": declared}, "stage 'fit'").fields[0]


def save(stage: str, name: str, index: int, obj: Any, codec: str | None) -> dict[str, Any]:
    """Keeps every artifact inline."""
    return artifact_struct(*dumps(obj, codec))


RICH = {
    "a": float,
    "b": optional(list[Literal["u", "v"]]),
    "c": artifact("npy") | None,
    "d": table(x=Color, y=dt.datetime | None),
    "e": Mood,
    "f": UTC_US,
}


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-3, 3),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.just(MISSING),
    st.builds(np.float32, st.floats(width=32)),
    st.builds(np.int16, st.integers(-5, 5)),
    st.datetimes(),
    st.dates(),
    st.decimals(allow_nan=False, places=2, min_value=-99, max_value=99),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        st.lists(st.floats(), max_size=3).map(np.array),
    ),
    max_leaves=6,
)
DECLARATIONS = st.recursive(
    st.sampled_from(
        [float, int, bool, str, bytes, "float32", "int8", "uint64", dt.datetime, dt.date, Decimal]
    ),
    lambda inner: st.one_of(
        inner.map(optional),
        inner.map(lambda d: pa.list_(field(d).nested().with_name("item"))),
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=2),
    ),
    max_leaves=3,
)


def is_faithful(value: Any, back: Any) -> bool:
    """Whether the column holds the value itself, and no other of another kind that is like it."""
    if isinstance(value, (list, np.ndarray)):
        return len(value) == len(back) and all(map(is_faithful, value, back))
    if isinstance(value, dict):
        return all(is_faithful(value.get(name), item) for name, item in back.items())
    if value is None or value is MISSING or isinstance(value, (bool, str, bytes)):
        return back == (None if value is MISSING else value) and type(back) is not int
    if isinstance(value, (int, np.integer)) and isinstance(back, (float, Decimal)):
        return int(back) == value
    if isinstance(value, (float, np.floating)):
        with np.errstate(over="ignore"):
            return isinstance(back, float) and (back == np.float32(value) or is_same(value, back))
    return bool(type(back) is type(value) or isinstance(value, np.generic)) and back == value


def is_same(a: Any, b: Any) -> bool:
    return bool(a == b) or (math.isnan(a) and math.isnan(b))
