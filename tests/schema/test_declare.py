"""What users write as a type declares a field, or is refused with the way out."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional, Union

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pytest
from outputs_support import Color, Entry, Line, Model, Pair, Partial, Regressor, Tree, UserId, field

from flowdist.errors import SchemaError
from flowdist.schema import ARTIFACT_TYPE, Field, Schema, artifact, optional, split_output, table


@pytest.mark.parametrize(
    ("declared", "arrow"),
    [
        (float, pa.float64()),
        (int, pa.int64()),
        (bool, pa.bool_()),
        (str, pa.string()),
        (bytes, pa.binary()),
        (dt.datetime, pa.timestamp("us")),
        (dt.date, pa.date32()),
        (dt.time, pa.time64("us")),
        (dt.timedelta, pa.duration("us")),
        (Decimal, pa.decimal128(38, 18)),
        (pd.Timestamp, pa.timestamp("ns")),
        (np.float32, pa.float32()),
        (np.float64, pa.float64()),
        (np.dtype("int8"), pa.int8()),
        (np.bool_, pa.bool_()),
        ("float64", pa.float64()),
        ("float", pa.float64()),  # Python's, where Arrow's own alias has 32 bits
        ("int32", pa.int32()),
        (pa.large_string(), pa.large_string()),
        (UserId, pa.int64()),
        (Annotated[int, "rows"], pa.int64()),
        (int | float, pa.float64()),
        (Color, pa.string()),
        (Literal["a", "b"], pa.string()),
    ],
)
def test_a_scalar_type_declares_a_column_without_nulls(declared: Any, arrow: pa.DataType) -> None:
    assert field(declared).type == arrow
    assert not field(declared).nullable


@pytest.mark.parametrize(
    "declared",
    [float | None, Optional[float], Union[None, float], optional(float), optional("float64")],  # noqa: UP007, UP045
)
def test_optional_has_several_spellings(declared: Any) -> None:
    assert field(declared) == Field("x", pa.float64(), nullable=True)


@pytest.mark.parametrize("declared", [artifact | None, optional(artifact), Optional[artifact]])  # noqa: UP045
def test_an_artifact_may_be_optional(declared: Any) -> None:
    assert field(declared) == Field("x", ARTIFACT_TYPE, nullable=True, kind="artifact")


def test_inside_of_lists_none_must_be_declared_too() -> None:
    assert str(field(list[float]).type) == "list<item: double not null>"
    assert str(field(list[float | None]).type) == "list<item: double>"
    assert field(tuple[int, ...]).spelt == "list[int]"
    assert field(list[list[int]]).spelt == "list[list[int]]"


@pytest.mark.parametrize("declared", [Line, Pair, Model, Entry, {"slope": float, "n": int}])
def test_records_declare_a_struct_inside_and_fields_outside(declared: Any) -> None:
    assert str(field(declared).type) == "struct<slope: double not null, n: int64 not null>"
    assert str(Schema.of(declared, "stage 'fit'")) == "slope: float, n: int"


def test_a_nested_table() -> None:
    declared = field(table(day=int, sales=float | None))

    assert declared.kind == "table"
    assert declared.spelt == "list[{day: int, sales: float or None}]"


@pytest.mark.parametrize(
    "declared", [artifact, np.ndarray, npt.NDArray[np.int8], pd.DataFrame, Regressor, complex]
)
def test_what_no_column_holds_is_an_artifact(declared: Any) -> None:
    assert field(declared) == Field("x", ARTIFACT_TYPE, kind="artifact")


def test_an_artifact_may_name_its_codec() -> None:
    assert field(artifact(codec="npy")).codec == "npy"


def test_a_lone_type_is_the_field_that_its_outputs_will_have() -> None:
    assert Schema.of(float, "stage 'fit'").names == ("value",)
    assert Schema.of(table(x=float), "stage 'fit'").names == ("table",)
    assert split_output(1.5).keys() == {"value"}
    assert split_output(pd.DataFrame({"x": [1.5]})).keys() == {"table"}


def test_an_arrow_schema_declares_as_it_is() -> None:
    declared = pa.schema([pa.field("a", pa.int8(), nullable=False), pa.field("b", pa.string())])

    assert str(Schema.of(declared, "stage 'fit'")) == "a: int8, b: str or None"


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"x": "floot"}, "stage 'fit', field 'x': no type is named 'floot'; did you mean 'float'?"),
        ({"x": list}, "field 'x': 'list' says too little"),
        ({"x": Any}, "field 'x': 'Any' says too little"),
        ({"x": dict[str, float]}, "field 'x': name the keys of dict[str, float]"),
        ({"x": int | str}, "field 'x': no column holds int | str"),
        ({"x": tuple[int, str]}, "field 'x': a list column holds values of one type"),
        ({"x": list[Regressor]}, "or declare it as artifact"),
        ({"x": {"y": {"z": 5}}}, "field 'x.y.z': 5 is no type"),
        ({"x": {"model": artifact}}, "'model' is an artifact inside of another field"),
        ({"x": artifact("nypy")}, "field 'x': no artifact codec 'nypy'; did you mean 'npy'?"),
        ({"x": Literal[1, 2]}, "a Literal may list texts, not 1; declare int"),
        ({"x": pa.run_end_encoded(pa.int32(), pa.int8())}, "run_end_encoded<"),
        ({"x": np.longdouble}, "Arrow has no longdouble"),
        ({"x": None}, "field 'x': None is no type"),
        ({"x-y": int}, "'x-y' is no name for a field"),
        ({1: int}, "1 is no name for a field"),
        ({}, "no field is declared"),
        (["slope", "n"], "['slope', 'n'] is no type"),
        (table(), "table() names no column"),
        (Partial, "field 'slope': a column is in every row"),
        (Tree, "contains itself"),
        (pa.schema([("a", pa.int8()), ("a", pa.int8())]), "two fields of one name"),
    ],
)
def test_nonsense_is_refused_with_the_field_and_the_way_out(declared: Any, message: str) -> None:
    with pytest.raises(SchemaError) as caught:
        Schema.of(declared, "stage 'fit'")

    assert str(caught.value).startswith("stage 'fit'")
    assert message in str(caught.value)
