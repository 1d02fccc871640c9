"""Columns of two parts are united in a type that loses nothing, or are said to clash."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outputs_support import UTC_US, VALUES, save

from flowdist.schema import ARTIFACT_TYPE, infer_column, kind_of, unify_fields


def unified(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    found = unify_fields(pa.field("x", a), pa.field("x", b))
    return None if found is None else found.type


@pytest.mark.parametrize(
    ("a", "b", "both"),
    [
        (pa.null(), pa.string(), pa.string()),
        (pa.int64(), pa.float64(), pa.float64()),
        (pa.int8(), pa.int32(), pa.int32()),
        (pa.uint8(), pa.int8(), pa.int16()),
        (pa.uint32(), pa.int64(), pa.int64()),
        (pa.uint64(), pa.int64(), None),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.string(), pa.binary(), None),
        (pa.bool_(), pa.int64(), None),
        (pa.bool_(), pa.float64(), None),
        (pa.string(), pa.int64(), None),
        (pa.date32(), pa.timestamp("us"), None),
        (pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("ns")),
        (pa.timestamp("us"), UTC_US, None),
        (pa.timestamp("us", "Europe/Berlin"), UTC_US, UTC_US),
        (pa.decimal128(4, 1), pa.decimal128(5, 3), pa.decimal128(6, 3)),
        (pa.dictionary(pa.int8(), pa.string()), pa.string(), pa.string()),
        (pa.list_(pa.int64()), pa.list_(pa.float64()), pa.list_(pa.float64())),
        (pa.list_(pa.int64()), pa.list_(pa.string()), None),
        (pa.list_(pa.int64()), pa.int64(), None),
        (pa.struct({"a": pa.int64()}), pa.struct({"b": pa.string()}),
         pa.struct({"a": pa.int64(), "b": pa.string()})),
        (pa.struct({"a": pa.int64()}), pa.struct({"a": pa.string()}), None),
        (ARTIFACT_TYPE, pa.null(), ARTIFACT_TYPE),
        (ARTIFACT_TYPE, pa.struct({"codec": pa.string()}), None),
    ],
)  # fmt: skip
def test_what_holds_the_columns_of_two_parts(a: Any, b: Any, both: Any) -> None:
    assert unified(a, b) == both
    assert unified(b, a) == both or pa.types.is_struct(both)  # whose fields keep their order


def test_a_field_that_one_side_lacks_is_nullable() -> None:
    a = pa.field("x", pa.struct([pa.field("a", pa.int64(), nullable=False)]), nullable=False)
    b = pa.field("x", pa.struct([pa.field("b", pa.int64(), nullable=False)]), nullable=False)

    both = unify_fields(a, b)

    assert both is not None
    assert not both.nullable
    assert [f.nullable for f in both.type] == [True, True]


def test_kinds_do_not_mix() -> None:
    rows = pa.list_(pa.struct({"a": pa.int64()}))
    declared_table = pa.field("x", rows, metadata={b"flowdist.kind": b"table"})
    declared_value = pa.field("x", rows, metadata={b"flowdist.kind": b"value"})

    assert unify_fields(declared_table, declared_value) is None
    assert unify_fields(declared_table, pa.field("x", rows)) is not None
    assert kind_of(rows) == "table"


@given(st.lists(VALUES, max_size=4), st.lists(VALUES, max_size=4))
def test_columns_that_unite_can_be_cast_together(a: list[Any], b: list[Any]) -> None:
    ours, theirs = infer_column("fit", "x", a, save)[0], infer_column("fit", "x", b, save)[0]
    both = unified(ours.array.type, theirs.array.type)

    assert (both is None) == (unified(theirs.array.type, ours.array.type) is None)
    if both is not None:
        assert [can_be_cast(array, both) for array in (ours.array, theirs.array)] == [True, True]


def can_be_cast(array: pa.Array, arrow: pa.DataType) -> bool:
    try:
        return len(array.cast(arrow)) == len(array)
    except pa.ArrowInvalid as error:
        return "not in range" in str(error)  # an int that no float holds: only values can tell
