"""The fields that a stage declares, by `returns=` or by its annotation, and how they travel."""

from __future__ import annotations

import dataclasses
import functools
import json
import pickle
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from outputs_support import RICH, Entry, Fit, Line, Model, Pair, Partial, Regressor, Tree

from flowdist.schema import MISSING, Schema, artifact, optional, table


def test_the_columns_say_what_they_are() -> None:
    schema = Schema.of({"n": int, "m": artifact, "t": optional(table(x=float))}, "stage 'fit'")

    n, m, t = schema.arrow("fit.")

    assert [n.name, m.name, t.name] == ["fit.n", "fit.m", "fit.t"]
    assert [n.nullable, m.nullable, t.nullable] == [False, False, True]
    assert [f.metadata for f in (n, m, t)] == [
        None,
        {b"flowdist.kind": b"artifact"},
        {b"flowdist.kind": b"table"},
    ]


def test_a_schema_travels_as_json() -> None:
    schema = Schema.of(RICH, "stage 'fit'")

    back = Schema.from_json(json.loads(json.dumps(schema.to_json())))

    assert back == schema
    assert str(back) == str(schema)  # the choices of nested fields too, which types do not compare


def test_a_schema_travels_in_a_pickle() -> None:
    schema = Schema.of(RICH, "stage 'fit'")

    assert str(pickle.loads(pickle.dumps(schema))) == str(schema)
    assert pickle.loads(pickle.dumps(MISSING)) is MISSING


def test_a_class_that_was_pickled_by_value_declares_as_before() -> None:
    @dataclasses.dataclass
    class Local:
        slope: "float"  # noqa: UP037
        model: Any = dataclasses.field(default=None)

    Local.__annotations__["model"] = np.ndarray
    back = cloudpickle.loads(cloudpickle.dumps(Local))

    assert str(Schema.of(back, "stage 'fit'")) == "slope: float, model: artifact"


# -- annotations ---


def annotated(returns: Any) -> Any:
    def fit(signal: NowhereToBeFound): ...  # type: ignore[name-defined, no-untyped-def] # noqa: F821

    fit.__annotations__["return"] = returns
    return fit


@pytest.mark.parametrize(
    ("returns", "declares"),
    [
        (float, "value: float"),
        ("float | None", "value: float or None"),
        (list[int], "value: list[int]"),
        (np.ndarray, "value: artifact"),
        ("np.ndarray | None", "value: artifact or None"),
        ("Line", "slope: float, n: int"),
        (Pair, "slope: float, n: int"),
        (Model, "slope: float, n: int"),
        (Entry, "slope: float, n: int"),
        (
            Fit,
            "line: {slope: float, n: int}, weights: artifact, frame: artifact, note: str or None",
        ),
    ],
)
def test_an_annotation_declares(returns: Any, declares: str) -> None:
    assert str(Schema.of_annotation(annotated(returns))) == declares


@pytest.mark.parametrize(
    "returns",
    [
        None, Any, object, dict, dict[str, float], list, tuple[int, str], pd.DataFrame, pa.Table,
        pl.DataFrame, "pd.DataFrame | None", "Line | None", Regressor, "NowhereToBeFound", Tree,
        Partial,
    ],
)  # fmt: skip
def test_an_annotation_that_says_too_little_counts_for_nothing(returns: Any) -> None:
    assert Schema.of_annotation(annotated(returns)) is None


class Stage:
    def __call__(self, x: int) -> float:
        return float(x)

    def method(self, x: int) -> int:
        return x


@pytest.mark.parametrize(
    ("fn", "declares"),
    [
        (functools.partial(annotated(float), 1), "value: float"),
        (Stage(), "value: float"),
        (Stage().method, "value: int"),
        (Line, "slope: float, n: int"),
        (len, "None"),
        (np.sin, "None"),
        (lambda x: x, "None"),
    ],
)
def test_any_callable_may_be_annotated(fn: Any, declares: str) -> None:
    assert str(Schema.of_annotation(fn)) == declares
