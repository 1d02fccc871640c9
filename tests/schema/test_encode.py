"""Declared columns: every value fits or is refused, and pyarrow's leniency is none of ours."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outputs_support import (
    DECLARATIONS,
    RICH,
    UTC_US,
    VALUES,
    Color,
    Level,
    Line,
    Model,
    Mood,
    Pair,
    field,
    is_faithful,
    save,
)

from flowdist.artifacts import Artifact, artifact_struct, dumps
from flowdist.errors import OutputMismatch
from flowdist.schema import ARTIFACT_TYPE, MISSING, artifact, encode_declared, optional, table


def encode(declared: Any, *values: Any) -> list[Any]:
    array = encode_declared(field(declared), "fit", list(values), save)
    array.validate(full=True)
    assert array.type == field(declared).type
    return array.to_pylist()


def refusal(declared: Any, *values: Any) -> OutputMismatch:
    with pytest.raises(OutputMismatch) as caught:
        encode(declared, *values)
    return caught.value


@pytest.mark.parametrize(
    ("declared", "values", "expected"),
    [
        (float, (1, 2.5, np.float32(1.5), np.int8(3), 2**60), [1.0, 2.5, 1.5, 3.0, 2.0**60]),
        (float, (np.array(1.5), Level.LOW), [1.5, 1.0]),
        (float | None, (None, pd.NA, pd.NaT, 1.0), [None, None, None, 1.0]),
        (int, (1, np.uint8(2), Level.LOW, 2**63 - 1), [1, 2, 1, 2**63 - 1]),
        ("uint64", (2**64 - 1, np.uint64(5)), [2**64 - 1, 5]),
        (bool, (True, np.False_), [True, False]),
        (str, ("a", np.str_("b"), Color.RED, Mood.GLAD), ["a", "b", "RED", "glad!"]),
        (Color, (Color.RED, "BLUE"), ["RED", "BLUE"]),
        (Mood, (Mood.GLAD,), ["GLAD"]),
        (Literal["glad!"], (Mood.GLAD, "glad!"), ["glad!", "glad!"]),
        (bytes, (b"a", bytearray(b"b"), memoryview(b"c")), [b"a", b"b", b"c"]),
        ("float32", (math.inf, 0.5), [math.inf, 0.5]),
        (Decimal, (Decimal("1.5"), 2, np.int8(3)), [Decimal("1.5"), Decimal(2), Decimal(3)]),
        (dt.date, (dt.date(2020, 1, 2), np.datetime64("2020-01-03")),
         [dt.date(2020, 1, 2), dt.date(2020, 1, 3)]),
        (dt.time, (dt.time(1, 2, 3, 4),), [dt.time(1, 2, 3, 4)]),
        (dt.timedelta, (dt.timedelta(1), np.timedelta64(2, "D"), pd.Timedelta(3, "D")),
         [dt.timedelta(1), dt.timedelta(2), dt.timedelta(3)]),
        (dt.datetime,
         (dt.datetime(2020, 1, 1), pd.Timestamp("2020-01-02"), np.datetime64("2020-01-03T00", "h")),
         [dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 2), dt.datetime(2020, 1, 3)]),
        (dt.datetime | None, (np.datetime64("NaT"), dt.datetime(1, 1, 1)),
         [None, dt.datetime(1, 1, 1)]),
        (pa.dictionary(pa.int8(), pa.string()), ("a", "b", "a"), ["a", "b", "a"]),
        (pa.map_(pa.string(), pa.int64()), ({"a": 1}, {}), [[("a", 1)], []]),
        (pa.list_(pa.float64(), 2), ([1, 2], np.ones(2)), [[1.0, 2.0], [1.0, 1.0]]),
        (pa.null(), (None,), [None]),
    ],
)  # fmt: skip
def test_values_that_fit(declared: Any, values: tuple[Any, ...], expected: list[Any]) -> None:
    assert encode(declared, *values) == expected


# What pyarrow by itself would truncate, reinterpret or drop comes first.
@pytest.mark.parametrize(
    ("declared", "value", "expected", "got"),
    [
        (int, 1.5, "int", "float 1.5"),
        (int, 1.0, "int", "float 1.0"),
        (int, np.float64(1), "int", "np.float64(1.0)"),
        (int, True, "int", "bool True"),
        (int, np.True_, "int", "bool np.True_"),
        (float, True, "float", "bool True"),
        (str, b"x", "str", "bytes b'x'"),
        (bytes, "x", "bytes", "str 'x'"),
        ("float32", 1e300, "float32", "float 1e+300 (out of range)"),
        ("float16", 2049, "float16", "int 2049 (not exact"),
        (dt.date, dt.datetime(2020, 1, 1, 5), "date", "datetime.datetime("),
        (dt.datetime, dt.date(2020, 1, 1), "datetime", "datetime.date("),
        (dt.datetime, 5, "datetime", "int 5"),
        (dt.datetime, dt.datetime(2020, 1, 1, tzinfo=dt.UTC), "datetime", "has a time zone"),
        (UTC_US, dt.datetime(2020, 1, 1), "timestamp[us, tz=UTC]", "has no time zone"),
        (pa.timestamp("s"), dt.datetime(2020, 1, 1, 0, 0, 0, 5), "timestamp[s]", "not exact"),
        (dt.datetime, pd.Timestamp(1), "datetime", "not exact as timestamp[us]"),
        (pa.timestamp("ns"), dt.datetime(1, 1, 1), "timestamp[ns]", "datetime.datetime(1, 1, 1"),
        (dt.timedelta, pd.Timedelta(1), "timedelta", "not exact"),
        (dt.time, dt.time(1, tzinfo=dt.UTC), "time", "time zone"),
        (pa.time32("s"), dt.time(1, 2, 3, 4), "time32[s]", "not exact"),
        (list[int], [1.5], "int", "float 1.5"),
        (list[float], [None], "float", "None"),
        ({"a": int}, {"a": 1, "b": 2}, "{a: int}", "the further key 'b'"),
        # And what it would refuse as well:
        (int, 2**63, "int", "int 9223372036854775808 (out of range)"),
        ("uint8", -1, "uint8", "int -1 (out of range)"),
        (float, 2**53 + 1, "float", "int 9007199254740993 (not exact"),
        (float, 10**400, "float", "out of range"),
        (float, "1.5", "float", "str '1.5'"),
        (float, Decimal(1), "float", "Decimal('1')"),
        (float, 1 + 2j, "float", "complex (1+2j)"),
        (float, None, "float", "None"),
        (float, MISSING, "float", "nothing (the output has no such field)"),
        (float | None, MISSING, "float or None", "nothing"),
        (bool, 1, "bool", "int 1"),
        (str, "\udc80", "str", "not valid Unicode"),
        (Literal["a", "b"], "c", "one of 'a', 'b'", "str 'c'"),
        (Color, Mood.GLAD, "one of 'RED', 'BLUE'", "Mood"),
        (list[Literal["a"]], ["b"], "one of 'a'", "str 'b'"),
        (Decimal, Decimal("1e-30"), "decimal128(38, 18)", "without rounding"),
        (Decimal, 1.5, "decimal128(38, 18)", "float 1.5"),
        (list[float], "ab", "list[float]", "str 'ab'"),
        (list[float], {1.0}, "list[float]", "set {1.0}"),
        (list[int], np.array([1.5]), "int", "float 1.5"),
        (list[bool], np.array([1]), "bool", "int 1"),
        (pa.list_(pa.float64(), 2), [1.0], "fixed_size_list", "1 items"),
        ({"a": int}, 5, "{a: int}", "int 5"),
        ({"a": int}, {}, "int", "nothing"),
        (table(x=int), pd.DataFrame({"x": [0.5]}), "int", "float 0.5"),
        (table(x=int), pd.DataFrame({"y": [1]}), "list[{x: int}]", "a DataFrame with columns y"),
        (artifact, None, "artifact", "None"),
        (artifact("npy"), {1}, "artifact", "codec 'npy' cannot write a set"),
    ],
)  # fmt: skip
def test_values_that_do_not_fit(declared: Any, value: Any, expected: str, got: str) -> None:
    error = refusal(declared, value)

    assert error.stage == "fit"
    assert expected in error.expected
    assert got in error.got


@pytest.mark.parametrize(
    ("declared", "good", "bad", "path"),
    [
        (list[list[float]], [[1.0], []], [[1.0], [2.0, "c"]], "x[1][1]"),
        ({"a": {"b": list[int]}}, {"a": {"b": [1]}}, {"a": {"b": [1, None]}}, "x.a.b[1]"),
        (list[Line], [Line(1.0, 1)], [Line(1.0, 1), Line(1.0, "n")], "x[1].n"),  # type: ignore[arg-type]
        (table(x=float), pa.table({"x": [1]}), pl.DataFrame({"x": [1.0, None]}), "x[1].x"),
        (list[float], np.ones(2), pa.array([1.0, None]), "x[1]"),
        (pa.map_(pa.string(), pa.int64()), {"a": 1}, {"a": 1, "b": 1.5}, "x['b']"),
    ],
)
def test_the_culprit_is_named_by_its_path(declared: Any, good: Any, bad: Any, path: str) -> None:
    error = refusal(declared, good, bad, good)

    assert (error.index, error.field) == (1, path)


@pytest.mark.parametrize(
    ("declared", "values", "index"),
    [
        (float, (1.0, "b", None, MISSING), 1),
        (float, (1.0, None, "b", MISSING), 1),
        (float, (1.0, MISSING, "b", None), 1),
        (int, (1, 2**63, "b"), 1),
        (int, (1, "b", 2**63), 1),
        ({"a": int, "b": int}, ({"a": 1, "b": "x"}, {"a": "x", "b": 1}), 0),
        ({"a": int, "b": int}, ({"a": "x", "b": 1}, {"a": 1, "b": "x"}), 0),
        ({"a": int}, ({"a": 1}, {"a": 1, "z": 1}, 5, {"a": "x"}), 1),
        ({"a": int}, ({"a": 1}, 5, {"a": "x"}, {"a": 1, "z": 1}), 1),
        (list[int], ([1], np.array([0.5]), 5), 1),
        (list[int], ([1], 5, np.array([0.5])), 1),
        (pa.list_(pa.int64(), 1), ([1], [1, 2], "b"), 1),
    ],
)
def test_the_first_bad_value_is_named_whatever_is_wrong_later(
    declared: Any, values: tuple[Any, ...], index: int
) -> None:
    assert refusal(declared, *values).index == index


def fits(declared: Any, value: Any) -> bool:
    try:
        encode(declared, value)
    except OutputMismatch:
        return False
    return True


@given(DECLARATIONS, st.lists(VALUES, max_size=6))
def test_a_batch_is_judged_as_its_values_are_one_by_one(declared: Any, values: list[Any]) -> None:
    bad = [i for i, value in enumerate(values) if not fits(declared, value)]
    if bad:
        assert refusal(declared, *values).index == bad[0]
    else:
        assert len(encode(declared, *values)) == len(values)


@given(DECLARATIONS, VALUES)
def test_what_is_taken_is_kept(declared: Any, value: Any) -> None:
    if fits(declared, value):
        (back,) = encode(declared, value)
        assert is_faithful(value, back)


def test_optional_fields_of_a_struct_may_be_left_out() -> None:
    assert encode({"a": int | None}, {}, {"a": 1}) == [{"a": None}, {"a": 1}]


def test_a_missing_struct_does_not_need_its_fields() -> None:
    assert encode(optional({"a": int}), None, {"a": 1}, None) == [None, {"a": 1}, None]


@pytest.mark.parametrize(
    "rows", [Line(1.5, 2), Pair(1.5, 2), Model(slope=1.5, n=2), {"n": 2, "slope": 1.5}]
)
def test_any_record_fits_a_struct(rows: Any) -> None:
    assert encode(Line, rows) == [{"slope": 1.5, "n": 2}]


@pytest.mark.parametrize(
    "items",
    [
        (1.0, 2.0), range(1, 3), np.array([1, 2], np.int8), np.array([1.0, 2.0], object),
        pd.Series([1.0, 2.0]), pl.Series([1, 2]), pa.array([1, 2]), pa.chunked_array([[1], [2]]),
    ],
)  # fmt: skip
def test_many_things_are_lists(items: Any) -> None:
    assert encode(list[float], items, [1, 2]) == [[1.0, 2.0], [1.0, 2.0]]


def test_nan_is_a_number_wherever_it_comes_from() -> None:
    nan = float("nan")
    lists = encode(list[float], [nan], np.array([nan]), pd.Series([nan]), pl.Series([nan]))
    (rows,) = encode(table(x=float), pd.DataFrame({"x": [nan]}))

    assert all(math.isnan(item) for (item,) in lists)
    assert math.isnan(rows[0]["x"])


def test_a_matrix_is_a_list_of_lists() -> None:
    assert encode(list[list[int]], np.arange(4).reshape(2, 2)) == [[[0, 1], [2, 3]]]


@pytest.mark.parametrize(
    "rows",
    [
        pd.DataFrame({"y": ["a"], "x": [1]}),  # the order of columns does not matter
        pd.DataFrame({"y": ["a"]}, index=pd.Index([1.0], name="x")),  # named levels are columns
        pd.DataFrame({"x": [1.0], "y": pd.Categorical(["a"])}),
        pl.DataFrame({"x": [1.0], "y": ["a"]}),
        pa.table({"x": [1.0], "y": ["a"]}),
        pa.record_batch({"x": [1.0], "y": ["a"]}),
        [{"x": 1.0, "y": "a"}],
    ],
)
def test_any_frame_fits_a_nested_table(rows: Any) -> None:
    assert encode(table(x=float, y=str), rows) == [[{"x": 1.0, "y": "a"}]]


def test_nested_tables_may_be_empty_and_absent() -> None:
    empty = pd.DataFrame({"x": []})

    assert encode(table(x=float) | None, empty, None, [{"x": 1}]) == [[], None, [{"x": 1.0}]]


def test_an_instant_is_the_same_in_any_zone() -> None:
    noon = dt.datetime(2020, 6, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=2)))

    assert encode(UTC_US, noon, pd.Timestamp(noon)) == [noon, noon]


def test_artifacts_are_stored_with_their_place_and_codec() -> None:
    calls = []

    def noting(*call: Any) -> dict[str, Any]:
        calls.append(call)
        return save(*call)

    column = encode_declared(field(artifact("json") | None), "fit", [{"a": 1}, None, [2]], noting)

    assert calls == [("fit", "x", 0, {"a": 1}, "json"), ("fit", "x", 2, [2], "json")]
    assert column.type == ARTIFACT_TYPE
    assert [None if s is None else s["data"] for s in column.to_pylist()] == [
        b'{"a": 1}', None, b"[2]",
    ]  # fmt: skip


def test_an_artifact_that_is_handed_on_is_stored_anew() -> None:
    earlier = Artifact.from_struct(artifact_struct(*dumps([1], "json")), root="/runs/another")

    (struct,) = encode(artifact, earlier)

    assert (struct["codec"], struct["data"]) == ("json", b"[1]")


def test_a_full_disk_is_not_taken_for_a_bad_value() -> None:
    def full(*call: Any) -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        encode_declared(field(artifact), "fit", [1], full)


def test_an_empty_batch_has_the_type_all_the_same() -> None:
    for declared in RICH.values():
        assert encode(declared) == []
