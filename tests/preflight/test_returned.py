"""Declared fields that no return statement makes are found in the source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from preflight_support import make, only

from flowdist import flow, local, param_grid
from flowdist.preflight import preflight


def returns_slop(x: int) -> Any:
    if x > 1:
        return dict(slope=1.0, n=x)  # noqa: C408
    return {"slop": 1.0, "n": x}


def elsewhere(x: int) -> Any:
    return {"slope": float(x)}


def returns_something(x: int) -> Any:
    if x > 1:
        return {"n": x}
    return elsewhere(x)


def returns_more(x: int) -> Any:
    found = {"slope": 1.0}
    return {"n": x, **found}


def returns_in_a_helper(x: int) -> Any:
    def helper() -> dict[str, int]:
        return {"other": 1}

    return {"slope": float(x), "n": len(helper())}


def test_a_declared_field_that_is_not_returned_is_a_warning_with_its_line() -> None:
    check = only(preflight(make(returns_slop, returns={"slope": float, "n": int})), "outputs")

    line = returns_slop.__code__.co_firstlineno + 3
    assert check.severity == "warning"
    assert check.what == (
        f"stage 'fit': declares the field 'slope', but line {line} of test_returned.py "
        "returns 'slop', 'n'"
    )


def test_a_lambda_in_a_chain_is_read_too() -> None:
    f = (
        flow(param_grid(x=[1]))
        .stage("one", lambda x: {"a": x}, returns={"a": int})
        .stage("two", lambda a: {"b": a}, returns={"c": int})
    )

    assert only(preflight(f), "outputs").what.startswith("stage 'two': declares the field 'c'")


@pytest.mark.parametrize("fn", [returns_more, returns_in_a_helper])
def test_a_function_that_may_return_the_field_is_left_alone(fn: Callable[..., Any]) -> None:
    assert not [c for c in preflight(make(fn, returns={"slope": float})) if c.name == "outputs"]


def test_a_return_that_cannot_be_read_withholds_judgement() -> None:
    f = make(returns_something, returns={"slope": float})

    assert not [c for c in preflight(f) if c.name == "outputs"]


def test_a_function_without_source_is_left_alone() -> None:
    scope: dict[str, Any] = {}
    exec("def fit(x): return {'a': x}", scope)

    assert preflight(make(scope["fit"], returns={"b": int}).distribute(local(workers=1))) == []
