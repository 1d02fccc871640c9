"""Flows: what a stage may be, what is refused when it is added, and what a flow says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pydantic import BaseModel

from flowdist import flow, param_grid
from flowdist.errors import FlowError, GridError, OutputMismatch, SchemaError, UsageError
from flowdist.flow import Flow
from flowdist.retry import never, retry


def square(x: int) -> int:
    return x * x


@pytest.fixture
def xy() -> Flow:
    """A flow over six rows with the columns x and y."""
    return flow(param_grid(x=[1, 2, 3], y=[10, 20]))


# The grid and constants ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "grid",
    [
        [{"x": 1}, {"x": 2}],
        {"x": [1, 2]},
        pd.DataFrame({"x": [1, 2]}),
        pl.DataFrame({"x": [1, 2]}),
        pa.table({"x": [1, 2]}),
        param_grid(x=[1, 2]),
    ],
    ids=lambda grid: type(grid).__module__.partition(".")[0],
)
def test_any_table_is_a_grid(grid: Any) -> None:
    assert flow(grid).stage("sq", square).try_row(1) == {"sq": {"value": 4}}


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(GridError):
        flow(3)


@pytest.mark.parametrize(
    ("const", "reason"),
    [
        ({"x": 1}, "const 'x': the grid has a column of that name"),
        ({"ctx": 1}, "const 'ctx': this name is the row's context"),
        ({"not a name": 1}, "const 'not a name': a name must be a Python identifier"),
    ],
)
def test_a_constant_that_could_not_be_told_apart_is_refused(
    const: dict[str, Any], reason: str
) -> None:
    with pytest.raises(FlowError, match=reason):
        flow(param_grid(x=[1]), const=const)


def test_a_constant_fills_a_parameter() -> None:
    f = flow(param_grid(x=[1, 2]), const={"k": 10}).stage("scaled", lambda x, k: k * x)

    assert f.try_row(1) == {"scaled": {"value": 20}}


@pytest.mark.parametrize("seed", ["42", 1.0, True])
def test_a_seed_is_an_int(seed: Any) -> None:
    with pytest.raises(FlowError, match=r"seed=.*; expected an int"):
        flow(param_grid(x=[1]), seed=seed)


# Immutability -------------------------------------------------------------------------------------


def test_every_method_returns_a_new_flow(xy: Flow) -> None:
    longer = xy.stage("sq", square)

    assert xy.stages == ()
    assert [s.name for s in longer.stages] == ["sq"]


def test_two_flows_can_grow_from_one(xy: Flow) -> None:
    base = xy.stage("sq", square)

    left, right = base.stage("a", lambda sq: sq), base.stage("a", lambda sq: -sq)

    assert (left.try_row(5)["a"], right.try_row(5)["a"]) == ({"value": 9}, {"value": -9})


def test_a_flow_cannot_be_changed(xy: Flow) -> None:
    with pytest.raises(AttributeError):
        xy.seed = 1  # type: ignore[misc]


# Names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "2nd", "_hidden", "two words", "a-b", "é", "a.b", "../x"])
def test_a_stages_name_is_letters_digits_and_underscores(xy: Flow, name: str) -> None:
    with pytest.raises(FlowError, match="letters, digits and _"):
        xy.stage(name, square)


def test_a_double_underscore_is_kept_for_stage__field(xy: Flow) -> None:
    with pytest.raises(FlowError, match="use a single '_'"):
        xy.stage("a__b", square)


def test_a_stage_named_twice_is_refused(xy: Flow) -> None:
    with pytest.raises(FlowError, match="stage 'sq': there is a stage of that name already"):
        xy.stage("sq", square).stage("sq", square)


def test_a_stage_cannot_have_the_name_of_a_column_or_constant() -> None:
    f = flow(param_grid(x=[1]), const={"k": 1})

    for name in ("x", "k"):
        with pytest.raises(FlowError, match="the grid or const has that name"):
            f.stage(name, square)


@pytest.mark.parametrize("add", ["stage", "script", "reduce"])
def test_the_rules_for_names_hold_for_every_kind_of_stage(xy: Flow, add: str) -> None:
    given = ["true"] if add == "script" else len

    with pytest.raises(FlowError, match="the grid or const has that name"):
        getattr(xy, add)("x", given)


# Needs --------------------------------------------------------------------------------------------


def test_an_unknown_need_is_an_error_with_the_nearest_name(xy: Flow) -> None:
    with pytest.raises(FlowError, match="unknown stage 'claen'; did you mean 'clean'"):
        xy.stage("clean", square).stage("fit", square, needs="claen")


def test_a_stage_that_needs_itself_is_a_cycle(xy: Flow) -> None:
    with pytest.raises(FlowError, match="stage 'fit': needs itself, which is a cycle"):
        xy.stage("fit", square, needs=["fit"])


def test_a_later_stage_cannot_be_needed_so_there_are_no_cycles(xy: Flow) -> None:
    with pytest.raises(FlowError, match="stages are added in the order they run"):
        xy.stage("a", square, needs="b")


def test_needs_chooses_between_stages_with_the_same_field(xy: Flow) -> None:
    f = (
        xy.stage("a", lambda: {"n": 1}, returns={"n": int})
        .stage("b", lambda: {"n": 2}, returns={"n": int})
        .stage("c", lambda n: n, needs="a")
    )

    assert f.try_row()["c"] == {"value": 1}


# Parameters ---------------------------------------------------------------------------------------


def test_a_parameter_that_nothing_fills_is_an_error_when_the_stage_is_added(xy: Flow) -> None:
    with pytest.raises(FlowError, match="stage 'fit': nothing fills parameter 'z'"):
        xy.stage("fit", lambda z: z)


def test_the_parameters_of_skip_when_are_checked_too(xy: Flow) -> None:
    with pytest.raises(FlowError, match="stage 'fit': skip_when: nothing fills parameter 'z'"):
        xy.stage("fit", square, skip_when=lambda z: z)


def test_a_misspelt_field_of_an_undeclared_stage_is_found_on_the_first_row(xy: Flow) -> None:
    f = xy.stage("clean", lambda: {"signal": 1}).stage("fit", lambda signl: signl)

    with pytest.raises(Exception, match=r"parameter 'signl'; did you mean 'signal'.*returned"):
        f.try_row()


# Declared outputs ---------------------------------------------------------------------------------


@dataclass
class Fit:
    slope: float
    n: int


class Point(NamedTuple):
    slope: float
    n: int


class Model(BaseModel):
    slope: float
    n: int


@pytest.mark.parametrize("returns", [Fit, Point, Model, {"slope": float, "n": int}])
def test_outputs_are_declared_by_a_class_or_a_dict(xy: Flow, returns: Any) -> None:
    f = xy.stage("fit", lambda: {"slope": 0.5, "n": 3}, returns=returns)

    assert f.stages[0].returns is not None
    assert f.stages[0].returns.names == ("slope", "n")


def test_the_annotation_declares_outputs_where_returns_is_not_given(xy: Flow) -> None:
    def fit(x: int) -> Fit:
        return Fit(x / 2, x)

    f = xy.stage("fit", fit).stage("twice", lambda slope: 2 * slope)

    assert f.try_row() == {"fit": {"slope": 0.5, "n": 1}, "twice": {"value": 1.0}}


def test_returns_goes_before_the_annotation(xy: Flow) -> None:
    f = xy.stage("sq", square, returns={"value": float})

    assert f.stages[0].returns is not None
    assert f.stages[0].returns.fields[0].type == pa.float64()


def test_nonsense_in_returns_is_an_error_naming_stage_and_field(xy: Flow) -> None:
    with pytest.raises(SchemaError, match=r"stage 'fit': returns.*slope"):
        xy.stage("fit", square, returns={"slope": "no such type"})


# Retry, timeout, resources ------------------------------------------------------------------------


def test_an_int_is_that_many_retries(xy: Flow) -> None:
    assert xy.stage("sq", square, retry=2).stages[0].retry == retry(2)


def test_the_flows_policy_is_for_stages_without_their_own() -> None:
    f = flow(param_grid(x=[1]), retry=3).stage("a", square).stage("b", square, retry=never)

    assert [s.retry for s in f.program.stages] == [retry(3), never]


@pytest.mark.parametrize("value", [-1, True, "often", 1.5])
def test_what_is_no_policy_is_refused(xy: Flow, value: Any) -> None:
    with pytest.raises(FlowError, match="stage 'sq': retry="):
        xy.stage("sq", square, retry=value)


@pytest.mark.parametrize(
    ("given", "seconds"), [(0.5, 0.5), (3, 3.0), ("90s", 90.0), ("2h", 7200.0)]
)
def test_a_timeout_is_seconds_or_a_text(xy: Flow, given: Any, seconds: float) -> None:
    assert xy.stage("sq", square, timeout=given).stages[0].timeout == seconds


@pytest.mark.parametrize("value", [0, -1, True, float("nan"), [], "soon"])
def test_a_timeout_that_makes_no_sense_is_refused_naming_the_stage(xy: Flow, value: Any) -> None:
    with pytest.raises(UsageError, match="stage 'sq': timeout"):
        xy.stage("sq", square, timeout=value)


def test_resources_are_kept_by_stage(xy: Flow) -> None:
    f = xy.stage("sq", square, resources={"cpus": 2}).stage("next", square)

    assert {name: r.cpus for name, r in f.stage_resources.items()} == {"sq": 2}


# Reduces ------------------------------------------------------------------------------------------


def test_a_by_column_that_is_not_in_the_grid_is_an_error(xy: Flow) -> None:
    with pytest.raises(FlowError, match=r"reduce 'total': by column 'z' is not in the grid"):
        xy.reduce("total", len, by="z")


def test_a_field_cannot_have_the_name_of_a_by_column(xy: Flow) -> None:
    with pytest.raises(FlowError, match="field 'x' has the name of a by column"):
        xy.reduce("total", lambda rows: {}, by="x", returns={"x": int})


def test_errors_of_a_reduce_is_one_of_three_words(xy: Flow) -> None:
    with pytest.raises(FlowError, match="expected 'drop', 'keep' or 'raise'"):
        xy.reduce("total", len, errors="ignore")  # type: ignore[arg-type]


def test_a_stage_after_a_reduce_is_refused(xy: Flow) -> None:
    total = xy.reduce("total", lambda rows: len(rows))

    for add in (lambda: total.stage("late", square), lambda: total.script("late", ["true"])):
        with pytest.raises(FlowError, match="comes after reduce 'total', which ends the rows"):
            add()


def test_a_reduce_may_follow_a_reduce_and_read_its_table(xy: Flow) -> None:
    f = xy.reduce("total", lambda rows: len(rows), by="x").reduce("all", lambda total: len(total))

    assert f.stages[1].uses == ("total",)
    assert [s.name for s in f.program.reduces] == ["total", "all"]


def test_a_program_tells_stages_of_rows_from_reduces(xy: Flow) -> None:
    program = xy.stage("sq", square).reduce("total", lambda sq: len(sq)).program

    assert [s.name for s in program.row_stages] == ["sq"]
    assert [s.name for s in program.reduces] == ["total"]


# try_row ------------------------------------------------------------------------------------------


def test_try_row_gives_the_outputs_of_every_stage(xy: Flow) -> None:
    f = xy.stage("sum", lambda x, y: {"s": x + y}).stage("neg", lambda s: -s)

    assert f.try_row(3) == {"sum": {"s": 22}, "neg": {"value": -22}}


def test_try_row_lets_exceptions_pass(xy: Flow) -> None:
    f = xy.stage("inverse", lambda x: 1 / (x - 1))

    with pytest.raises(ZeroDivisionError):
        f.try_row(0)


def test_try_row_checks_declared_outputs(xy: Flow) -> None:
    f = xy.stage("sq", lambda x: str(x), returns={"value": int})

    with pytest.raises(OutputMismatch, match="stage 'sq', field 'value': expected int, got str"):
        f.try_row()


def test_try_row_shows_a_skipped_stage_and_those_that_need_it_as_none(xy: Flow) -> None:
    f = xy.stage("a", square, skip_when=lambda x: x == 1).stage("b", lambda a: a)

    assert f.try_row(0) == {"a": None, "b": None}
    assert f.try_row(2) == {"a": {"value": 4}, "b": {"value": 4}}


@pytest.mark.parametrize("row", [-1, 6])
def test_try_row_of_a_row_that_is_not_there(xy: Flow, row: int) -> None:
    with pytest.raises(FlowError, match="the grid has rows 0 to 5"):
        xy.try_row(row)


def test_try_row_removes_the_scratch_directory(xy: Flow) -> None:
    f = xy.stage("where", lambda ctx: {"path": str(ctx.scratch), "there": ctx.scratch.is_dir()})

    out = f.try_row()["where"]

    assert out["there"]
    assert not Path(out["path"]).exists()


# What it says of itself ---------------------------------------------------------------------------


def test_a_flow_prints_its_rows_stages_and_parameters(xy: Flow) -> None:
    f = xy.stage("sum", lambda x, y, ctx: x + y).reduce("total", lambda sum: len(sum), by="x")

    assert repr(f) == "Flow(6 rows: x, y | sum(x, y) | total(sum) by x)"


def test_uses_names_the_stages_that_one_reads(xy: Flow) -> None:
    f = (
        xy.stage("a", square)
        .stage("b", square)
        .stage("c", lambda a__value, b: 0, skip_when=lambda a: False)
    )

    assert f.stages[2].uses == ("a", "b")


def test_uses_names_what_only_skip_when_reads(xy: Flow) -> None:
    f = xy.stage("a", square).stage("b", square, skip_when=lambda a: a > 1)

    assert f.stages[1].uses == ("a",)


# Slips -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"const": [1]}, "const is list [1]; give a dict"),
        ({"const": {1: "a"}}, "const '1': a name must be a Python identifier"),
        ({"resources": 4}, "resources=4; expected Resources"),
        ({"seed": 1.0}, "seed=1.0; expected an int"),
        ({"name": 3}, "name=3; expected a text"),
    ],
)
def test_what_a_flow_cannot_be_made_with_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FlowError) as caught:
        flow({"x": [1]}, **options)

    assert message in str(caught.value)


def test_a_seed_may_come_from_numpy() -> None:
    f = flow({"x": [1]}, seed=cast(int, np.int64(4)))

    assert f.seed == 4
    assert type(f.seed) is int


def test_one_row_is_no_rows() -> None:
    assert repr(flow({"x": [1]})) == "Flow(1 row: x)"


async def later(x: int) -> int:
    return x


def many(x: int) -> Iterator[int]:
    yield x


@pytest.mark.parametrize(("fn", "way_out"), [(later, "asyncio.run"), (many, "return a list")])
def test_a_function_that_returns_before_it_has_run_is_refused(fn: Any, way_out: str) -> None:
    f = flow({"x": [1]})

    with pytest.raises(FlowError, match=way_out):
        f.stage("s", fn)
    with pytest.raises(FlowError, match=way_out):
        f.reduce("s", fn)


def test_a_stage_without_a_name_is_told_where_it_goes(xy: Flow) -> None:
    with pytest.raises(FlowError, match=r"a stage's name comes first, as in .stage"):
        xy.stage(cast(str, square), cast(Any, "square"))


def test_needs_and_by_are_names(xy: Flow) -> None:
    with pytest.raises(FlowError, match="stage 's': needs=3; expected a name or a list"):
        xy.stage("s", square, needs=cast(Any, 3))
    with pytest.raises(FlowError, match="reduce 's': by=3; expected a name or a list"):
        xy.reduce("s", lambda rows: 1, by=cast(Any, 3))


def test_a_timeout_may_be_a_timedelta(xy: Flow) -> None:
    assert xy.stage("s", square, timeout=timedelta(minutes=2)).stages[0].timeout == 120


@pytest.mark.parametrize("row", [6, -1, "a", None])
def test_a_row_that_is_not_there_cannot_be_tried(xy: Flow, row: Any) -> None:
    with pytest.raises(FlowError, match="the grid has rows 0 to 5"):
        xy.stage("s", square).try_row(row)
