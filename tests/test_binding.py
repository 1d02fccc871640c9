"""How the parameters of a stage are filled: by name, decided from signatures alone."""

from __future__ import annotations

import functools
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowdist.binding import Binding, Scope, bind, bind_names
from flowdist.errors import FlowError
from flowdist.schema import Field, Schema


def fields(*names: str) -> Schema:
    """The declared outputs of a stage: a float for every name."""
    return Schema(tuple(Field(name, pa.float64()) for name in names))


def scope(**offered: Any) -> Scope:
    """What a flow with the columns x and y offers, or what is said instead."""
    known: dict[str, Any] = {"columns": ("x", "y"), "const": frozenset(), "stages": {}}
    return Scope(**{**known, "where": "stage 'fit'", **offered})


def filled(fn: Any, **offered: Any) -> dict[str, tuple[str, str]]:
    """By parameter: the kind of what fills it, and its key."""
    return {b.parameter: (b.kind, b.key) for b in bind(fn, scope(**offered))}


# What fills a parameter -------------------------------------------------------------------------


def test_a_parameter_is_filled_by_the_column_of_its_name() -> None:
    assert filled(lambda y, x: 0) == {"y": ("column", "y"), "x": ("column", "x")}


def test_a_parameter_is_filled_by_the_constant_of_its_name() -> None:
    assert filled(lambda x, k: 0, const=frozenset({"k"}))["k"] == ("const", "k")


def test_a_parameter_is_filled_by_a_field_of_any_earlier_stage() -> None:
    stages = {"clean": fields("signal"), "other": fields("n")}

    bindings = bind(lambda signal, n: 0, scope(stages=stages))

    assert [(b.kind, b.stages, b.key) for b in bindings] == [
        ("field", ("clean",), "signal"),
        ("field", ("other",), "n"),
    ]


def test_the_name_of_a_stage_is_its_whole_output() -> None:
    (bound,) = bind(lambda clean: 0, scope(stages={"clean": fields("signal")}))

    assert (bound.kind, bound.stages) == ("whole", ("clean",))


def test_stage__field_names_one_of_two_fields_of_a_name() -> None:
    stages = {"a": fields("n"), "b": fields("n")}

    (bound,) = bind(lambda b__n: 0, scope(stages=stages))

    assert (bound.kind, bound.stages, bound.key) == ("field", ("b",), "n")


def test_stage__field_of_an_undeclared_stage_is_looked_up_per_row() -> None:
    (bound,) = bind(lambda a__n: 0, scope(stages={"a": None, "b": None}))

    assert (bound.kind, bound.stages, bound.key) == ("late", ("a",), "n")


def test_seed_is_filled_in_a_seeded_flow() -> None:
    assert filled(lambda seed: 0, seeded=True) == {"seed": ("seed", "")}


def test_ctx_is_always_there() -> None:
    assert filled(lambda ctx: 0) == {"ctx": ("ctx", "")}


def test_a_default_is_used_where_nothing_fills_the_parameter() -> None:
    assert filled(lambda x, tol=1e-3: 0) == {"x": ("column", "x")}


def test_a_column_goes_before_a_default() -> None:
    assert filled(lambda x=5: 0) == {"x": ("column", "x")}


def test_seed_with_a_default_is_left_alone_in_a_flow_without_one() -> None:
    assert filled(lambda x, seed=0: 0) == {"x": ("column", "x")}


# Undeclared outputs -------------------------------------------------------------------------------


def test_what_nothing_fills_is_taken_from_the_stage_before_if_it_declares_nothing() -> None:
    (bound,) = bind(lambda signal: 0, scope(stages={"a": None, "b": None}))

    assert (bound.kind, bound.stages) == ("late", ("b",))


def test_with_needs_it_is_taken_from_all_of_them() -> None:
    stages = {"a": None, "b": fields("n"), "c": None}

    (bound,) = bind(lambda signal: 0, scope(stages=stages, needs=("a", "b", "c")))

    assert bound.stages == ("a", "c")


def test_a_default_makes_a_late_parameter_optional_and_passed_by_name() -> None:
    (bound,) = bind(lambda signal=0: 0, scope(stages={"a": None}))

    assert (bound.kind, bound.optional, bound.how) == ("late", True, "keyword")


def test_a_declared_stage_before_takes_no_guesses() -> None:
    with pytest.raises(FlowError, match="nothing fills parameter 'signal'"):
        bind(lambda signal: 0, scope(stages={"a": None, "b": fields("n")}))


# Needs --------------------------------------------------------------------------------------------


def test_needs_hides_the_other_stages() -> None:
    stages = {"a": fields("n"), "b": fields("n")}

    (bound,) = bind(lambda n: 0, scope(stages=stages, needs=("a",)))

    assert bound.stages == ("a",)


def test_needs_of_nothing_leaves_only_the_grid() -> None:
    with pytest.raises(FlowError, match="nothing fills parameter 'n'"):
        bind(lambda n: 0, scope(stages={"a": fields("n"), "b": None}, needs=()))


# How a value is passed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "how"),
    [
        (lambda x, y: 0, ["positional", "positional"]),
        (lambda x, /, y: 0, ["positional", "positional"]),
        (lambda x, *, y: 0, ["positional", "keyword"]),
        (lambda x, *rest, y: 0, ["positional", "keyword"]),
        (lambda x, tol=0, y=1: 0, ["positional", "keyword"]),
    ],
)
def test_parameters_are_passed_by_position_until_that_is_impossible(
    fn: Any, how: list[str]
) -> None:
    assert [b.how for b in bind(fn, scope())] == how


def test_other_columns_go_to_keywords() -> None:
    bindings = bind(lambda x, **others: 0, scope())

    assert [(b.kind, b.how) for b in bindings] == [("column", "positional"), ("columns", "spread")]


def test_a_partial_keeps_what_it_was_given_unless_a_column_has_the_name() -> None:
    fn = functools.partial(lambda x, k, y: 0, k=3)

    assert [(b.parameter, b.how) for b in bind(fn, scope())] == [
        ("x", "positional"),
        ("y", "keyword"),
    ]


def test_a_class_and_an_instance_with_call_are_functions_too() -> None:
    class Model:
        def __init__(self, x: int) -> None:
            self.x = x

        def __call__(self, y: int) -> int:
            return self.x + y

    assert list(filled(Model)) == ["x"]
    assert list(filled(Model(1))) == ["y"]


def test_a_positional_only_parameter_behind_an_unfilled_one_is_refused() -> None:
    def fit(x: int, tol: float = 0.1, y: int = 0, /) -> None: ...

    with pytest.raises(FlowError, match="'y' is positional only"):
        bind(fit, scope())


# Reduces ------------------------------------------------------------------------------------------


def reduce_scope(**offered: Any) -> Scope:
    return scope(**{"is_reduce": True, "by": ("x",), "where": "reduce 'fit'", **offered})


def test_the_first_unfilled_parameter_of_a_reduce_is_the_group() -> None:
    bindings = bind(lambda x, rows: 0, reduce_scope(stages={"a": None}))

    assert [(b.parameter, b.kind) for b in bindings] == [("x", "column"), ("rows", "group")]


def test_a_reduce_has_one_group_table_only() -> None:
    with pytest.raises(FlowError, match="reduce 'fit': nothing fills parameter 'more'"):
        bind(lambda rows, more: 0, reduce_scope())


def test_a_column_that_is_not_in_by_is_not_the_name_of_a_reduces_rows() -> None:
    with pytest.raises(FlowError, match=r"'y' is a grid column that differs.*add it to by"):
        bind(lambda y: 0, reduce_scope())


def test_a_second_table_of_a_reduce_is_refused_with_the_reason() -> None:
    with pytest.raises(FlowError, match="the group's rows go to the first parameter"):
        bind(lambda rows, more: 0, reduce_scope())


def test_a_stage_of_a_reduce_is_its_table() -> None:
    (bound,) = bind(lambda a: 0, reduce_scope(stages={"a": None}))

    assert (bound.kind, bound.key) == ("whole", "a")


def test_the_fields_of_stages_fill_nothing_in_a_reduce() -> None:
    bindings = bind(lambda n: 0, reduce_scope(stages={"a": fields("n")}))

    assert [b.kind for b in bindings] == ["group"]


def test_a_default_keeps_a_reduces_parameter_from_being_the_group() -> None:
    assert bind(lambda rows=None: 0, reduce_scope()) == ()


@pytest.mark.parametrize(
    ("annotation", "known"),
    [(pd.DataFrame, "pandas"), (pa.Table, "pyarrow"), ("pl.DataFrame", "pl.DataFrame")],
)
def test_the_annotation_says_which_library_the_table_is_of(annotation: Any, known: str) -> None:
    def fn(rows: Any) -> None: ...

    fn.__annotations__["rows"] = annotation

    (bound,) = bind(fn, reduce_scope())

    assert known in bound.annotation


# Errors -------------------------------------------------------------------------------------------


def test_an_unfilled_parameter_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(FlowError) as caught:
        bind(lambda signl: 0, scope(stages={"clean": fields("signal")}))

    assert str(caught.value) == (
        "stage 'fit': nothing fills parameter 'signl'; did you mean 'signal'? "
        "(there are: x, y, clean, signal, ctx)"
    )


def test_a_field_of_two_stages_is_ambiguous_and_the_error_says_how_to_choose() -> None:
    with pytest.raises(FlowError) as caught:
        bind(lambda n: 0, scope(stages={"a": fields("n"), "b": fields("n")}))

    assert "field 'n' of stage 'a' or field 'n' of stage 'b'" in str(caught.value)
    assert "ask for it as 'a__n' or 'b__n'" in str(caught.value)


def test_a_column_and_a_field_of_one_name_are_ambiguous() -> None:
    with pytest.raises(FlowError, match=r"grid column 'x' or field 'x' of stage 'a'.*'a__x'"):
        bind(lambda x: 0, scope(stages={"a": fields("x")}))


def test_a_default_does_not_settle_an_ambiguity() -> None:
    with pytest.raises(FlowError, match="could be filled by"):
        bind(lambda x=0: 0, scope(stages={"a": fields("x")}))


def test_a_column_named_seed_is_ambiguous_in_a_seeded_flow_only() -> None:
    assert filled(lambda seed: 0, columns=("seed",)) == {"seed": ("column", "seed")}
    with pytest.raises(FlowError, match=r"derived seed; rename one$"):
        bind(lambda seed: 0, scope(columns=("seed",), seeded=True))


def test_an_undeclared_field_does_not_hide_a_column() -> None:
    assert filled(lambda x: 0, stages={"a": None}) == {"x": ("column", "x")}


def test_seed_in_a_flow_without_one_says_how_to_get_it() -> None:
    with pytest.raises(FlowError, match=r"needs a seeded flow: write flow\(grid, seed=42\)"):
        bind(lambda seed: 0, scope())


def test_a_function_that_hides_its_signature_is_refused() -> None:
    with pytest.raises(FlowError, match="wrap it in a function"):
        bind(dict, scope())


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(FlowError, match="stage 'fit': expected a function, got int 3"):
        bind(3, scope())  # type: ignore[arg-type]


# Placeholders -------------------------------------------------------------------------------------


def test_names_are_bound_as_keywords() -> None:
    found = bind_names(("x", "ctx"), scope())

    assert found == (
        Binding("x", "column", "x", how="keyword"),
        Binding("ctx", "ctx", "", (), "keyword"),
    )


def test_a_name_that_nothing_fills_is_an_error() -> None:
    with pytest.raises(FlowError, match="nothing fills parameter 'z'"):
        bind_names(("z",), scope())


# For any signature --------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from(["x", "y", "k", "n", "seed", "ctx"]), unique=True),
    st.integers(0, 6),
    st.integers(0, 6),
)
def test_bindings_are_in_the_order_of_the_signature_and_callable(
    names: list[str], by_keyword: int, with_default: int
) -> None:
    cut = min(by_keyword, len(names))
    plain, keyword = names[:cut], names[cut:]
    optional = [f"d{i}=None" for i in range(with_default)]
    words = [*plain, *optional, *(["*", *keyword] if keyword else [])]
    fn = eval(f"lambda {', '.join(words)}: ({''.join(f'{n}, ' for n in names)})")

    found = bind(fn, scope(const=frozenset({"k"}), stages={"a": fields("n")}, seeded=True))
    positional = [b.parameter for b in found if b.how == "positional"]
    keywords = {b.parameter: b.parameter for b in found if b.how == "keyword"}

    assert fn(*positional, **keywords) == tuple(names)
