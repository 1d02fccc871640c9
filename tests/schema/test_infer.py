"""Undeclared columns: a type is found that loses nothing."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outputs_support import VALUES, Color, Level, Line, Pair, Regressor, is_faithful, save

from flowdist.artifacts import Artifact
from flowdist.errors import OutputMismatch
from flowdist.schema import ARTIFACT_TYPE, MISSING, infer_column


def infer(*values: Any) -> list[tuple[str, list[int], list[Any]]]:
    """For each class of values: its Arrow type, its positions, its column."""
    found = infer_column("fit", "x", list(values), save)
    for column in found:
        column.array.validate(full=True)
    return [
        ("artifact" if array.type == ARTIFACT_TYPE else str(array.type), where, array.to_pylist())
        for array, where in found
    ]


@pytest.mark.parametrize(
    ("values", "arrow"),
    [
        ((1, 2), "int64"),
        ((1, 2.5, None), "double"),
        ((None, None), "null"),
        ((), "null"),
        ((MISSING, "a"), "string"),
        ((True, np.False_), "bool"),
        ((2**63, 2**64 - 1), "uint64"),
        ((np.int8(1), np.uint8(2)), "int16"),
        ((np.float32(1), 1.5), "double"),
        ((np.array(1.5), 1), "double"),
        ((Color.RED, "BLUE"), "string"),
        ((Level.LOW, 2), "int64"),
        ((dt.date(2020, 1, 1), np.datetime64("2020-01-02")), "date32[day]"),
        ((dt.datetime(2020, 1, 1), pd.Timestamp("2020-01-02"), pd.NaT), "timestamp[us]"),
        ((pd.Timestamp(1), dt.datetime(2020, 1, 1)), "timestamp[ns]"),
        ((dt.datetime(2020, 1, 1, tzinfo=dt.UTC),), "timestamp[us, tz=UTC]"),
        ((Decimal("1.5"), Decimal(100)), "decimal128(4, 1)"),
        (([1], [], [2.5], None), "list<item: double>"),
        ((np.arange(2), [1.5], range(3)), "list<item: double>"),
        ((pd.Series(["a"]), pl.Series(["b"]), np.array(["c"])), "list<item: string>"),
        (({"a": 1}, {"b": "x"}), "struct<a: int64, b: string>"),
        ((Line(1.5, 2), Pair(1, 2), None), "struct<slope: double, n: int64>"),
        (({"a": None}, {"a": [1]}), "struct<a: list<item: int64>>"),
        ((pd.DataFrame({"x": [1]}), pl.DataFrame({"x": [1.5]}), pa.table({"y": ["a"]})),
         "list<item: struct<x: double, y: string>>"),
        ((pd.DataFrame({"v": [1], "k": ["a"]}).groupby("k").sum(),),
         "list<item: struct<k: string, v: int64>>"),
    ],
)  # fmt: skip
def test_one_type_for_all_values(values: tuple[Any, ...], arrow: str) -> None:
    ((found, where, _),) = infer(*values)

    assert (found, where) == (arrow, list(range(len(values))))


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ((1, "a", 2, None, "b"), [("int64", [0, 2, 3]), ("string", [1, 4])]),
        ((None, "a", 1), [("string", [0, 1]), ("int64", [2])]),
        ((True, 1), [("bool", [0]), ("int64", [1])]),
        (("a", b"a"), [("string", [0]), ("binary", [1])]),
        ((2**60 + 1, 1.5, 3), [("int64", [0, 2]), ("double", [1])]),  # no float holds the first
        ((2**63, -1), [("uint64", [0]), ("int64", [1])]),
        (([1], ["a"]), [("list<item: int64>", [0]), ("list<item: string>", [1])]),
        (({"a": 1}, {"a": "x"}), [("struct<a: int64>", [0]), ("struct<a: string>", [1])]),
        ((1, {1}, 2), [("int64", [0, 2]), ("artifact", [1])]),
        (
            (dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 1, tzinfo=dt.UTC)),
            [("timestamp[us]", [0]), ("timestamp[us, tz=UTC]", [1])],
        ),
    ],
)
def test_values_that_clash_are_kept_apart(values: Any, classes: list[tuple[str, Any]]) -> None:
    assert [(arrow, where) for arrow, where, _ in infer(*values)] == classes


@pytest.mark.parametrize(
    "value",
    [
        {1, 2}, 1j, Regressor(), np.eye(2), np.ones(2, complex), {1: 2}, [1, "a"], {"m": {1}},
        2**70, Decimal("NaN"), "\udc80", pd.DataFrame({"mixed": [1, "a"]}), lambda: 1,
    ],
)  # fmt: skip
def test_what_arrow_cannot_hold_becomes_an_artifact(value: Any) -> None:
    ((arrow, where, structs),) = infer(value, None)

    assert (arrow, where) == ("artifact", [0, 1])
    assert Artifact.from_struct(structs[0], "").load() is not None
    assert structs[1] is None


def test_artifacts_are_saved_under_their_position_in_the_batch() -> None:
    calls = []

    def noting(*call: Any) -> dict[str, Any]:
        calls.append(call[:3])
        return save(*call)

    infer_column("fit", "x", [1, {2}, 3, {4}], noting)

    assert calls == [("fit", "x", 1), ("fit", "x", 3)]


def test_what_cannot_even_be_pickled_is_refused() -> None:
    with pytest.raises(OutputMismatch, match="cannot write a generator") as caught:
        infer(1, (x for x in ()))

    assert caught.value.index == 1


@given(st.lists(VALUES, max_size=6))
def test_inference_loses_no_value(values: list[Any]) -> None:
    found = infer(*values)

    assert sorted(i for _, where, _ in found for i in where) == list(range(len(values)))
    for arrow, where, column in found:
        for i, back in zip(where, column, strict=True):
            if arrow != "artifact":
                assert is_faithful(values[i], back)
