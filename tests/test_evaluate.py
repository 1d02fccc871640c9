"""Running the stages of a row: what is recorded of outputs, failures, retries and skips.

No processes here: an `Evaluator` is driven by hand, and its record batches are looked at.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from flowdist import flow, param_grid
from flowdist.artifacts import Artifact, Payload, artifact, artifact_struct, dumps, loads
from flowdist.clock import ManualClock
from flowdist.errors import StageTimeout
from flowdist.flow import Flow
from flowdist.parts import RECORD, STATUS
from flowdist.retry import Again, Failure, Policy, exponential, never, retry
from flowdist.schema import SaveFn, optional
from flowdist.workers import evaluate
from flowdist.workers.context import Context
from flowdist.workers.evaluate import Evaluator, Flushed
from flowdist.workers.outputs import Cause


class Store:
    """Saves artifacts by keeping them, inline, and remembers for whom."""

    def __init__(self) -> None:
        self.saved: list[tuple[int, str, str, Any]] = []

    def of_row(self, row: int) -> SaveFn:
        def save(stage: str, field: str, index: int, obj: Any, codec: str | None) -> dict[str, Any]:
            known = isinstance(obj, Payload)
            payload = obj if known else Payload(*dumps(obj, codec))
            self.saved.append((row, stage, field, loads(payload.codec, payload.data)))
            return artifact_struct(payload.codec, payload.data)

        return save


class Lane:
    """Remembers what it is told, and wants rows up to a position."""

    def __init__(self, stop: int = 1 << 30) -> None:
        self.stop = stop
        self.seen: list[Any] = []

    def enter(self, position: int, stage: int, started: float) -> bool:
        self.seen.append((position, stage))
        return position < self.stop

    def pause(self) -> None:
        self.seen.append("pause")


@dataclass
class Outcome:
    """What an evaluator handed back, and how to look at it."""

    flushed: list[Flushed]
    store: Store
    slept: list[float]

    @property
    def batches(self) -> list[pa.RecordBatch]:
        return [batch for flushed in self.flushed for batch in flushed.batches]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A dict per row, by row number: status in words, the error read from its JSON."""
        found = [row for batch in self.batches for row in batch.to_pylist()]
        for row in found:
            row["_status"] = STATUS[row["_status"]]
            row["_error"] = json.loads(row["_error"]) if row["_error"] else None
        return sorted(found, key=lambda row: row["_row"])

    def column(self, name: str) -> list[Any]:
        return [row.get(name) for row in self.rows]

    @property
    def errors(self) -> list[str | None]:
        """By row: type and message of the failure."""
        return [
            f"{e['type']}: {e['message']}" if e and "type" in e else None
            for e in self.column("_error")
        ]

    @property
    def causes(self) -> list[list[tuple[str, str, str, int]]]:
        """By row: stage, kind, message and number of each attempt that failed."""
        return [
            [(c["stage"], c["kind"], c["message"], c["attempt"]) for c in e["causes"]] if e else []
            for e in self.column("_error")
        ]


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are handed over at the end, however long a busy machine takes."""
    monkeypatch.setattr(evaluate, "FLUSH_SECONDS", 3600.0)


def run(
    f: Flow,
    *,
    lane: Lane | None = None,
    prior: Sequence[Cause] = (),
    first: int = 0,
    deadline: float | None = None,
    store: Store | None = None,
) -> Outcome:
    """Evaluate the stages of all rows of a flow."""
    store, slept = store or Store(), []
    table = f.grid.table
    evaluator = Evaluator(
        f.program,
        f.program.row_stages,
        table.column_names,
        store.of_row,
        sleep=slept.append,
        deadline=deadline,
    )
    values = zip(*(column.to_pylist() for column in table.columns), strict=True)
    rows = range(first, first + len(f.grid))
    flushed = list(evaluator.run(rows, values, first=first, lane=lane, prior=prior))
    return Outcome(flushed, store, slept)


def xs(n: int = 3, **given: Any) -> Flow:
    """A flow over rows with x = 0, 1, ... n-1."""
    return flow(param_grid(x=range(n)), **given)


def fails_on(*bad: int) -> Callable[[int], int]:
    """A stage that raises for some x and returns x for the others."""

    def fragile(x: int) -> int:
        if x in bad:
            raise ValueError(f"x is {x}")
        return x

    return fragile


def crash(stage: str, attempt: int = 1) -> Cause:
    """The cause that the pool records for a process that was killed."""
    return Cause("crash", "WorkerDied", "killed by SIGKILL", stage, attempt, 1.5)


class Flaky:
    """A stage that fails its first `times` calls."""

    def __init__(self, times: int, error: BaseException | None = None) -> None:
        self.left, self.error = times, error or ValueError("not yet")

    def __call__(self, x: int) -> int:
        if self.left:
            self.left -= 1
            raise self.error
        return x


# Outputs ------------------------------------------------------------------------------------------


@dataclass
class FitData:
    slope: float
    n: int


class FitTuple(NamedTuple):
    slope: float
    n: int


class FitModel(BaseModel):
    slope: float
    n: int


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("make", [FitData, FitTuple, FitModel, dict])
def test_records_of_any_kind_give_a_column_per_field(make: Any, declared: bool) -> None:
    returns = {"slope": float, "n": int} if declared else None

    out = run(xs(2).stage("fit", lambda x: make(slope=x / 2, n=x), returns=returns))

    (batch,) = out.batches
    assert batch.column("fit.slope").to_pylist() == [0.0, 0.5]
    assert batch.column("fit.n").to_pylist() == [0, 1]


@pytest.mark.parametrize(
    ("value", "arrow"),
    [
        (3, pa.int64()),
        (0.5, pa.float64()),
        ("a", pa.string()),
        (True, pa.bool_()),
        (None, pa.null()),
        (np.float32(1), pa.float32()),
        ([1, 2], pa.list_(pa.int64())),
    ],
)
def test_anything_else_is_the_field_value(value: Any, arrow: pa.DataType) -> None:
    (batch,) = run(xs(2).stage("fit", lambda x: value)).batches

    assert batch.schema.names == [*RECORD, "fit.value"]
    assert batch.schema.field("fit.value").type == arrow
    assert batch.column("fit.value").to_pylist() == [value, value]


@pytest.mark.parametrize("make", [pd.DataFrame, pa.table])
def test_a_frame_is_a_nested_table(make: Any) -> None:
    out = run(xs(2).stage("fit", lambda x: make({"t": [0, x]})))

    assert out.column("fit.table") == [[{"t": 0}, {"t": 0}], [{"t": 0}, {"t": 1}]]


def test_outputs_with_unlike_fields_are_united() -> None:
    out = run(xs(2).stage("fit", lambda x: {"a": x} if x else {"b": "no"}))

    assert out.column("fit.a") == [None, 1]
    assert out.column("fit.b") == ["no", None]


def test_an_empty_dict_is_an_output_without_fields() -> None:
    (batch,) = run(xs(2).stage("fit", lambda x: {})).batches

    assert (batch.schema.names, batch.num_rows) == (list(RECORD), 2)


def test_a_flow_without_columns_to_show_still_records_every_row() -> None:
    (batch,) = run(xs(2)).batches

    assert batch.column("_row").to_pylist() == [0, 1]


def test_what_arrow_cannot_hold_is_saved_for_its_row() -> None:
    out = run(xs(3).stage("fit", lambda x: {"model": {x, 10}, "x": x}))

    assert [saved[:3] for saved in out.store.saved] == [(i, "fit", "model") for i in range(3)]
    assert Artifact.from_struct(out.column("fit.model")[2], root="").load() == {2, 10}


def test_a_declared_artifact_is_saved_for_its_row_past_failed_rows() -> None:
    f = xs(3).stage("fit", fails_on(0)).stage("model", lambda x: [x], returns={"value": artifact})

    out = run(f)

    assert out.store.saved == [(1, "model", "value", [1]), (2, "model", "value", [2])]
    assert [a and a["codec"] for a in out.column("model.value")] == [
        None,
        "cloudpickle",
        "cloudpickle",
    ]


# Parameters ---------------------------------------------------------------------------------------


def test_parameters_come_from_columns_constants_fields_and_whole_outputs() -> None:
    f = (
        xs(2, const={"k": 10})
        .stage("a", lambda x: {"n": x + 1}, returns={"n": int})
        .stage("b", lambda n, k, a, *, x: f"{n} {k} {a} {x}")
    )

    assert run(f).column("b.value") == ["1 10 {'n': 1} 0", "2 10 {'n': 2} 1"]


def test_columns_are_given_by_name_whatever_their_order() -> None:
    f = flow([{"a": 1, "b": 2, "c": 3}]).stage("s", lambda c, a: (c, a))

    assert run(f).column("s.value") == [[3, 1]]


def test_late_parameters_are_fields_of_undeclared_outputs() -> None:
    f = xs(2).stage("a", lambda x: {"n": x + 1}).stage("b", lambda n: -n)

    assert run(f).column("b.value") == [-1, -2]


def test_a_late_parameter_is_taken_from_whichever_need_has_it() -> None:
    f = (
        xs(1)
        .stage("a", lambda: {"n": 1})
        .stage("b", lambda: {"m": 2})
        .stage("c", lambda m, n: [m, n], needs=["a", "b"])
    )

    assert run(f).column("c.value") == [[2, 1]]


def test_an_optional_late_parameter_keeps_its_default_in_rows_without_it() -> None:
    f = xs(2).stage("a", lambda x: {"n": x} if x else {}).stage("b", lambda n=-1: n)

    assert run(f).column("b.value") == [-1, 1]


def test_a_late_parameter_that_a_row_does_not_have_fails_that_row() -> None:
    f = (
        xs(2)
        .stage("a", lambda x: {"signal" if x else "signale": x})
        .stage("b", lambda signal: signal)
    )

    out = run(f)

    assert out.column("b.value") == [None, 1]
    assert out.errors[0] == (
        "RowError: stage 'b': nothing fills parameter 'signal'; did you mean 'signale'? "
        "(stage 'a' returned: signale)"
    )


def test_stage__field_chooses_between_fields() -> None:
    f = (
        xs(2)
        .stage("a", lambda x: {"n": x}, returns={"n": int})
        .stage("b", lambda x: {"n": -x})
        .stage("c", lambda a__n, b__n: [a__n, b__n])
    )

    assert run(f).column("c.value") == [[0, 0], [1, -1]]


def test_other_columns_go_to_double_star() -> None:
    f = flow([{"a": 1, "b": 2, "c": 3}]).stage("s", lambda b, **rest: {"b": b, "rest": str(rest)})

    assert run(f).column("s.rest") == ["{'a': 1, 'c': 3}"]


def test_a_seed_depends_on_flow_stage_and_row_only() -> None:
    def draw(seed: int) -> int:
        return seed

    alone = run(xs(3, seed=1).stage("a", draw)).column("a.value")
    others = run(xs(5, seed=1).stage("first", lambda: 0).stage("a", draw).stage("b", draw))

    assert others.column("a.value")[:3] == alone
    assert len({*others.column("a.value"), *others.column("b.value")}) == 10


def test_a_retry_has_the_seed_of_the_first_attempt() -> None:
    seen: list[int] = []

    def draw(seed: int) -> None:
        seen.append(seed)
        raise ValueError

    run(xs(1, seed=1).stage("a", draw, retry=1))

    assert seen[0] == seen[1]


def test_the_context_knows_row_stage_and_attempt() -> None:
    def show(ctx: Context) -> str:
        if ctx.attempt == 1:
            raise ValueError
        return repr(ctx)

    assert run(xs(1).stage("a", show, retry=1), first=7).column("a.value") == [
        "Context(row=7, stage='a', attempt=2)"
    ]


def test_the_context_counts_attempts_per_stage() -> None:
    f = xs(1).stage("a", Flaky(1), retry=1).stage("b", lambda ctx: ctx.attempt)

    assert run(f).column("b.value") == [1]


def test_the_context_tells_the_time_left() -> None:
    assert run(xs(1).stage("a", lambda ctx: ctx.time_left())).column("a.value") == [None]
    assert run(xs(1).stage("a", lambda ctx: ctx.time_left() > 0), deadline=1e12).column(
        "a.value"
    ) == [True]


def test_the_scratch_directory_is_the_rows_own_empty_and_removed_after_it() -> None:
    def touch(ctx: Context) -> Any:
        (ctx.scratch / "file").touch()
        return ctx.scratch

    def look(a: Any) -> dict[str, Any]:
        return {"seen": [f.name for f in a.iterdir()], "path": str(a)}

    out = run(xs(2).stage("a", touch).stage("b", look))

    assert out.column("b.seen") == [["file"], ["file"]]
    assert len(set(out.column("b.path"))) == 2
    assert not any(saved[3].exists() for saved in out.store.saved)


def test_the_scratch_directory_of_a_failed_row_is_removed_too() -> None:
    made = []

    def touch(ctx: Context) -> None:
        made.append(ctx.scratch)
        raise ValueError

    run(xs(1).stage("a", touch))

    assert not made[0].exists()


# Outputs that do not fit --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"slope": "steep", "n": 1}, "stage 'fit', field 'slope': expected float, got str 'steep'"),
        ({"slope": None, "n": 1}, "stage 'fit', field 'slope': expected float, got None"),
        ({"slope": 0.5, "n": 1.0}, "stage 'fit', field 'n': expected int, got float 1.0"),
        ({"slope": 0.5, "n": 2**70}, "stage 'fit', field 'n': expected int, got int 1180"),
        ({"slope": 0.5}, "stage 'fit', field 'n': expected int, got an output without it"),
        (3, "stage 'fit', field 'slope': expected float, got an output without it"),
        (None, "stage 'fit', field 'slope': expected float, got an output without it"),
        ({1: 2}, "stage 'fit', field '1': expected names"),
    ],
)
def test_an_output_that_does_not_fit_fails_just_its_row(bad: Any, message: str) -> None:
    good = {"slope": 0.5, "n": 1}
    f = xs(3).stage("fit", lambda x: bad if x == 1 else good, returns={"slope": float, "n": int})

    out = run(f)

    assert out.column("_status") == ["ok", "failed", "ok"]
    assert out.column("fit.slope") == [0.5, None, 0.5]
    assert out.column("_error")[1]["message"].startswith(message)
    assert out.column("_error")[1]["type"] == "OutputMismatch"


def test_a_null_is_fine_where_it_is_declared() -> None:
    f = xs(2).stage(
        "fit",
        lambda x: {"slope": None, "n": None},
        returns={"slope": optional(float), "n": int | None},
    )

    assert run(f).column("_status") == ["ok", "ok"]


def test_columns_of_declared_outputs_are_as_declared_when_every_row_fails() -> None:
    (batch,) = run(xs(2).stage("fit", fails_on(0, 1), returns={"value": float})).batches

    assert batch.schema.field("fit.value").type == pa.float64()
    assert batch.column("fit.value").null_count == 2


def test_what_came_after_an_output_that_does_not_fit_is_dropped() -> None:
    f = (
        xs(2)
        .stage("before", lambda x: x)
        .stage("fit", lambda x: "no" if x else 1.0, returns={"value": float})
        .stage("after", lambda fit: str(fit))
    )

    out = run(f)

    assert out.column("before.value") == [0, 1]
    assert out.column("after.value") == ["1.0", None]


def test_the_first_stage_that_failed_is_the_one_that_is_named() -> None:
    f = (
        xs(1)
        .stage("fit", lambda x: "no", returns={"value": float})
        .stage("after", lambda fit: fit + 1)
    )

    assert run(f).column("_error")[0]["stage"] == "fit"


def test_a_missing_field_is_the_fault_of_the_stage_that_declared_it() -> None:
    f = (
        xs(1)
        .stage("fit", lambda x: {"other": 1}, returns={"slope": float})
        .stage("after", lambda slope: slope)
    )

    assert "stage 'fit', field 'slope'" in run(f).column("_error")[0]["message"]


@pytest.mark.parametrize("read_later", [False, True])
def test_keys_that_are_no_names_fail_just_their_row(read_later: bool) -> None:
    f = xs(3).stage("before", lambda x: x).stage("fit", lambda x: {"2 words" if x == 1 else "n": x})
    if read_later:
        f = f.stage("after", lambda n: n)

    out = run(f)

    assert out.column("_status") == ["ok", "failed", "ok"]
    assert out.column("_error")[1]["message"].startswith("stage 'fit', field '2 words'")
    assert out.column("before.value") == [0, 1, 2]
    assert out.column("fit.n") == [0, None, 2]


class Model:
    def __init__(self, x: int) -> None:
        self.x = x


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("no pickling")

    def __repr__(self) -> str:
        return "Unpicklable()"


@pytest.mark.parametrize("returns", [None, {"value": artifact}])
def test_an_object_that_cannot_be_saved_fails_just_its_row(returns: Any) -> None:
    f = xs(3).stage("fit", lambda x: Unpicklable() if x == 1 else Model(x), returns=returns)

    out = run(f)

    assert out.column("_status") == ["ok", "failed", "ok"]
    assert "no pickling" in out.column("_error")[1]["message"]
    assert [Artifact.from_struct(out.column("fit.value")[i], root="").load().x for i in (0, 2)] == [
        0,
        2,
    ]


def test_an_artifact_is_written_once_though_another_row_of_its_batch_fails() -> None:
    f = xs(4).stage(
        "fit",
        lambda x: {"model": Unpicklable() if x == 2 else Model(x), "n": x},
        returns={"model": artifact, "n": int},
    )

    out = run(f)

    assert [row for row, *_ in out.store.saved] == [0, 1, 3]


def test_a_full_disk_fails_the_rows_that_cannot_be_written(monkeypatch: Any) -> None:
    def full(self: Store, row: int) -> SaveFn:
        def save(*args: Any) -> dict[str, Any]:
            raise OSError(28, "No space left on device")

        return save

    monkeypatch.setattr(Store, "of_row", full)

    out = run(
        xs(2).stage("n", lambda x: x).stage("fit", lambda x: {x}, returns={"value": artifact})
    )

    assert out.errors == ["OSError: [Errno 28] No space left on device"] * 2
    assert out.column("n.value") == [0, 1]


# Types that clash ---------------------------------------------------------------------------------


def test_undeclared_types_that_clash_give_a_batch_each() -> None:
    out = run(xs(4).stage("a", lambda x: {"v": x if x % 2 else str(x), "n": x}))

    assert [
        (
            batch.column("_row").to_pylist(),
            batch.column("a.v").to_pylist(),
            batch.column("a.n").to_pylist(),
        )
        for batch in out.batches
    ] == [([0, 2], ["0", "2"], [0, 2]), ([1, 3], [1, 3], [1, 3])]


def test_two_columns_that_clash_give_a_batch_for_each_combination() -> None:
    f = (
        xs(8)
        .stage("a", lambda x: x if x & 1 else str(x))
        .stage("b", lambda x: b"%d" % x if x & 2 else x)
        .stage("c", lambda x: x / 2)
    )

    out = run(f)

    assert sorted(batch.column("_row").to_pylist() for batch in out.batches) == [
        [0, 4],
        [1, 5],
        [2, 6],
        [3, 7],
    ]
    assert out.column("a.value") == ["0", 1, "2", 3, "4", 5, "6", 7]
    assert out.column("b.value") == [0, 1, b"2", b"3", 4, 5, b"6", b"7"]
    assert out.column("c.value") == [x / 2 for x in range(8)]


def test_failed_rows_are_kept_where_types_clash() -> None:
    out = run(xs(4).stage("ok", fails_on(2)).stage("a", lambda x: x if x % 2 else str(x)))

    assert out.column("_row") == [0, 1, 2, 3]
    assert out.column("a.value") == ["0", 1, None, 3]
    assert out.column("_status") == ["ok", "ok", "failed", "ok"]


def test_ints_and_floats_do_not_clash() -> None:
    (batch,) = run(xs(2).stage("a", lambda x: x if x else 0.5)).batches

    assert batch.column("a.value").to_pylist() == [0.5, 1.0]


# Failures -----------------------------------------------------------------------------------------


def test_a_failed_row_is_recorded_and_the_others_go_on() -> None:
    out = run(xs(3).stage("a", fails_on(1)))

    assert out.column("_status") == ["ok", "failed", "ok"]
    assert out.column("a.value") == [0, None, 2]
    assert out.errors == [None, "ValueError: x is 1", None]


def test_an_error_says_stage_kind_attempts_and_where_it_was_raised() -> None:
    out = run(xs(3).stage("a", fails_on(1)))

    error = out.column("_error")[1]
    assert (error["stage"], error["kind"]) == ("a", "error")
    assert [(c["type"], c["attempt"]) for c in error["causes"]] == [("ValueError", 1)]
    assert "in fragile" in error["traceback"]
    assert "flowdist/workers" not in error["traceback"]


def test_stages_after_a_failed_one_do_not_run() -> None:
    ran: list[int] = []
    f = (
        xs(2)
        .stage("before", lambda x: x)
        .stage("a", fails_on(0))
        .stage("b", lambda x: ran.append(x))
    )

    out = run(f)

    assert ran == [1]
    assert out.column("before.value") == [0, 1]
    assert out.column("_error")[0]["stage"] == "a"


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        MemoryError(),
        RecursionError("deep"),
        GeneratorExit(),
        StopIteration(1),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_exception_of_a_stage_ends_more_than_its_row(error: BaseException) -> None:
    def fatal(x: int) -> int:
        if x == 1:
            raise error
        return x

    out = run(xs(3).stage("a", fatal))

    assert out.column("_status") == ["ok", "failed", "ok"]
    assert out.column("_error")[1]["type"] == type(error).__name__


def test_sys_exit_in_a_stage_fails_its_row() -> None:
    assert run(xs(1).stage("a", lambda x: sys.exit("gone"))).errors == ["SystemExit: gone"]


def test_an_exception_that_cannot_even_be_printed_fails_its_row() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    out = run(xs(2).stage("a", Flaky(1, Mute())))

    assert out.column("_status") == ["failed", "ok"]


def test_a_long_traceback_is_cut_to_its_end() -> None:
    def deep(x: int, n: int = 500) -> None:
        if n == 0:
            raise ValueError("bottom" + "!" * 30_000)
        deep(x, n - 1)

    error = run(xs(1).stage("a", deep)).column("_error")[0]

    assert len(error["traceback"]) == 20_000
    assert error["traceback"].endswith("!\n")


def test_failed_and_skipped_rows_are_counted() -> None:
    f = xs(5).stage("a", fails_on(0, 1)).stage("b", lambda a: a, skip_when=lambda x: x == 2)

    (flushed,) = run(f).flushed

    assert (flushed.done, flushed.failed, flushed.skipped) == (5, 2, 1)


# Retries ------------------------------------------------------------------------------------------


def test_a_row_that_succeeds_after_retries_is_ok_and_counts_its_attempts() -> None:
    out = run(xs(2).stage("a", Flaky(2), retry=2))

    assert out.column("_status") == ["ok", "ok"]
    assert out.column("_attempts") == [3, 1]


def test_a_row_that_succeeds_after_retries_keeps_the_causes_of_every_stage() -> None:
    f = xs(2).stage("a", Flaky(2), retry=2).stage("b", Flaky(1, KeyError("k")), retry=1)

    out = run(f)

    assert out.causes[0] == [
        ("a", "error", "not yet", 1),
        ("a", "error", "not yet", 2),
        ("b", "error", "'k'", 1),
    ]
    assert out.column("_error")[1] is None
    assert out.flushed[0].failed == 0


def test_a_row_that_fails_keeps_the_causes_of_the_stages_before() -> None:
    f = xs(1).stage("a", Flaky(1), retry=1).stage("b", fails_on(0))

    out = run(f)

    assert out.causes[0] == [("a", "error", "not yet", 1), ("b", "error", "x is 0", 1)]
    assert out.errors == ["ValueError: x is 0"]


def test_a_row_that_fails_every_attempt_names_all_causes() -> None:
    errors = iter([ValueError("first"), KeyError("second")])

    def fragile(x: int) -> None:
        raise next(errors)

    out = run(xs(1).stage("a", fragile, retry=1))

    assert out.column("_attempts") == [2]
    assert [(c["type"], c["message"], c["attempt"]) for c in out.column("_error")[0]["causes"]] == [
        ("ValueError", "first", 1),
        ("KeyError", "'second'", 2),
    ]


def test_a_policy_decides_by_the_failure() -> None:
    f = xs(1).stage("a", Flaky(1, KeyError("k")), retry=retry(5, on=ValueError))

    assert run(f).errors == ["KeyError: 'k'"]


def test_retries_are_counted_over_the_stages_of_a_row() -> None:
    f = xs(1).stage("a", Flaky(1), retry=1).stage("b", Flaky(2), retry=2)

    assert run(f).column("_attempts") == [4]


def test_only_the_failed_stage_runs_again() -> None:
    ran: list[int] = []
    f = xs(1).stage("a", lambda x: ran.append(x)).stage("b", Flaky(2), retry=2)

    run(f)

    assert ran == [0]


def test_the_wait_before_each_attempt_is_the_policys_and_no_time_runs_during_it() -> None:
    lane = Lane()
    f = xs(1).stage("a", Flaky(3), retry=retry(3, backoff=exponential(jitter=0)))

    out = run(f, lane=lane)

    assert out.slept == [1, 2, 4]
    assert lane.seen == [(0, 0), "pause", (0, 0), "pause", (0, 0), "pause", (0, 0), "pause"]


def test_without_a_delay_there_is_no_wait() -> None:
    assert run(xs(1).stage("a", Flaky(3), retry=3)).slept == []


def test_a_policy_is_told_everything_about_the_failure(monkeypatch: Any) -> None:
    seen: list[Failure] = []
    clock = ManualClock()
    monkeypatch.setattr(evaluate, "time", SimpleNamespace(monotonic=clock.monotonic))

    class Watch(Policy):
        def __call__(self, failure: Failure) -> Again | None:
            seen.append(failure)
            return Again() if failure.attempt == 1 else None

    error = ValueError("no")

    def slow(x: int) -> None:
        clock.advance(2)
        raise error

    run(xs(1).stage("a", slow, retry=Watch()), first=4)

    assert seen == [Failure("error", "ValueError", "no", error, "a", 4, n, 2.0) for n in (1, 2)]


def test_the_time_of_an_attempt_is_that_of_its_stage(monkeypatch: Any) -> None:
    clock = ManualClock()
    monkeypatch.setattr(evaluate, "time", SimpleNamespace(monotonic=clock.monotonic))

    def slow(x: int) -> None:
        clock.advance(2)
        raise ValueError

    out = run(xs(1).stage("before", lambda x: clock.advance(5)).stage("a", slow))

    assert out.column("_error")[0]["causes"][0]["elapsed"] == 2
    assert out.column("_seconds") == [7]


def test_a_policy_that_raises_fails_the_row_only() -> None:
    def broken(failure: Failure) -> bool:
        raise RuntimeError("policy is broken")

    out = run(xs(2).stage("a", fails_on(0), retry=retry(1, on=broken)))

    assert out.errors == ["RuntimeError: policy is broken", None]


def test_a_timeout_that_a_stage_raises_is_a_timeout_to_the_policy() -> None:
    f = xs(1).stage("a", Flaky(1, StageTimeout("too long")), retry=retry(1, on="timeout"))

    assert run(f).column("_status") == ["ok"]


# Processes that died ------------------------------------------------------------------------------


def test_a_crashed_row_that_may_not_be_retried_fails_with_the_causes_of_its_process() -> None:
    ran: list[int] = []

    out = run(xs(2).stage("a", lambda x: ran.append(x)), prior=[crash("a")])

    assert ran == [1]
    assert out.column("_status") == ["failed", "ok"]
    assert out.errors[0] == "WorkerDied: killed by SIGKILL"
    error = out.column("_error")[0]
    assert (error["kind"], error["stage"], error["traceback"]) == ("crash", "a", "")
    assert error["causes"][0]["elapsed"] == 1.5


def test_a_crashed_row_is_tried_again_if_the_policy_says_so() -> None:
    out = run(xs(2).stage("a", lambda x: x, retry=retry(1, on="crash")), prior=[crash("a")])

    assert out.column("a.value") == [0, 1]
    assert out.column("_attempts") == [2, 1]


def test_every_crash_of_a_row_counts_as_an_attempt() -> None:
    prior = [crash("a", 1), crash("a", 2)]

    out = run(xs(1).stage("a", lambda ctx: ctx.attempt, retry=2), prior=prior)

    assert out.column("a.value") == [3]
    assert out.column("_attempts") == [3]


def test_a_policy_is_not_asked_twice_for_the_crashes_it_allowed() -> None:
    out = run(xs(1).stage("a", lambda x: x, retry=1), prior=[crash("a", 1), crash("a", 2)])

    assert out.column("_status") == ["failed"]
    assert out.column("_attempts") == [2]


def test_stages_before_the_one_that_crashed_run_again() -> None:
    f = xs(1).stage("a", lambda x: x + 1).stage("b", lambda a: -a, retry=1)

    out = run(f, prior=[crash("b")])

    assert (out.column("a.value"), out.column("b.value")) == ([1], [-1])
    assert out.column("_attempts") == [2]


def test_errors_and_crashes_are_causes_alike() -> None:
    f = xs(1).stage("a", fails_on(0), retry=retry(2))

    out = run(f, prior=[crash("a")])

    assert [(c["kind"], c["attempt"]) for c in out.column("_error")[0]["causes"]] == [
        ("crash", 1),
        ("error", 2),
        ("error", 3),
    ]


def test_a_timeout_is_for_the_pool_to_end_and_for_the_policy_to_judge() -> None:
    overdue = Cause("timeout", "StageTimeout", "over 1 s", "a", 1, 1.0)

    again = run(
        xs(1).stage("a", lambda x: x, timeout=1, retry=retry(1, on="timeout")), prior=[overdue]
    )
    failed = run(xs(1).stage("a", lambda x: x, timeout=1), prior=[overdue])

    assert again.column("_status") == ["ok"]
    assert failed.errors == ["StageTimeout: over 1 s"]


def test_a_stage_over_its_timeout_is_not_ended_here() -> None:
    assert run(xs(1).stage("a", lambda x: x, timeout=1e-9)).column("_status") == ["ok"]


# Skips --------------------------------------------------------------------------------------------


def test_a_skipped_stage_has_nulls_and_its_row_is_skipped() -> None:
    out = run(xs(2).stage("a", lambda x: x, skip_when=lambda x: x == 0))

    assert out.column("_status") == ["skipped", "ok"]
    assert out.column("a.value") == [None, 1]
    assert out.errors == [None, None]


def test_what_needs_a_skipped_stage_is_skipped_and_the_rest_runs() -> None:
    f = (
        xs(2)
        .stage("a", lambda x: {"n": x}, skip_when=lambda x: x == 0, returns={"n": int})
        .stage("reads_it", lambda n: n)
        .stage("reads_that", lambda reads_it: 0)
        .stage("apart", lambda x: -x)
    )

    out = run(f)

    assert out.column("reads_it.value") == [None, 1]
    assert out.column("reads_that.value") == [None, 0]
    assert out.column("apart.value") == [0, -1]


def test_skip_when_may_read_what_only_it_needs() -> None:
    f = (
        xs(2)
        .stage("a", lambda x: {"good": x > 0})
        .stage("b", lambda x: x, skip_when=lambda a__good: not a__good)
    )

    out = run(f)

    assert out.column("_status") == ["skipped", "ok"]
    assert out.column("b.value") == [None, 1]


def test_a_stage_whose_skip_when_reads_a_skipped_stage_is_skipped() -> None:
    f = (
        xs(2)
        .stage("a", lambda x: x, skip_when=lambda x: x == 0)
        .stage("b", lambda x: x, skip_when=lambda a: False)
    )

    assert run(f).column("b.value") == [None, 1]


def test_an_optional_parameter_does_not_make_a_stage_need_a_skipped_one() -> None:
    f = (
        xs(2)
        .stage("a", lambda x: {"n": x}, skip_when=lambda x: x == 0)
        .stage("b", lambda x, n=-1: n)
    )

    assert run(f).column("b.value") == [-1, 1]


def test_an_exception_in_skip_when_fails_the_row() -> None:
    f = xs(2).stage("a", lambda x: x, skip_when=lambda x: 1 / x < 0)

    out = run(f)

    assert out.errors == ["ZeroDivisionError: division by zero", None]
    assert out.column("_error")[0]["stage"] == "a"


@pytest.mark.parametrize(("x", "status"), [(0, "ok"), (1, "skipped")])
def test_a_retry_after_an_exception_in_skip_when_asks_it_again(x: int, status: str) -> None:
    f = flow(param_grid(x=[x])).stage("a", lambda x: x, skip_when=Flaky(1), retry=1)

    assert run(f).column("_status") == [status]


def test_a_failure_in_a_row_with_a_skipped_stage_is_a_failure() -> None:
    f = xs(1).stage("a", lambda x: x, skip_when=lambda x: True).stage("b", fails_on(0))

    assert run(f).column("_status") == ["failed"]


def test_an_output_that_does_not_fit_in_a_row_with_a_skipped_stage_is_a_failure() -> None:
    f = (
        xs(1)
        .stage("a", lambda x: x, skip_when=lambda x: True)
        .stage("b", lambda x: "no", returns={"value": int})
    )

    (flushed,) = run(f).flushed

    assert (flushed.failed, flushed.skipped) == (1, 0)


# Lanes, flushes, order ----------------------------------------------------------------------------


def test_a_lane_is_told_positions_and_stages() -> None:
    lane = Lane()

    run(xs(2).stage("a", lambda x: x).stage("b", lambda x: x), lane=lane, first=5)

    assert lane.seen == [(5, 0), (5, 0), (5, 1), (6, 0), (6, 0), (6, 1), "pause"]


def test_writing_what_rows_returned_does_not_run_against_their_timeout() -> None:
    lane, seen = Lane(), []

    class Watching(Store):
        def of_row(self, row: int) -> SaveFn:
            seen.append(lane.seen[-1])
            return super().of_row(row)

    f = xs(1).stage("a", lambda x: {"m": [x]}, returns={"m": artifact}, timeout=60)
    run(f, lane=lane, store=Watching())

    assert seen == ["pause"]


def test_rows_that_the_lane_does_not_want_are_not_run() -> None:
    ran: list[int] = []

    out = run(xs(5).stage("a", lambda x: ran.append(x)), lane=Lane(stop=2))

    assert ran == [0, 1]
    assert out.column("_row") == [0, 1]


def test_results_come_in_pieces_that_a_killed_process_can_lose_at_most(monkeypatch: Any) -> None:
    monkeypatch.setattr(evaluate, "FLUSH_ROWS", 2)

    out = run(xs(5).stage("a", lambda x: x))

    assert [flushed.done for flushed in out.flushed] == [2, 2, 1]
    assert out.column("a.value") == [0, 1, 2, 3, 4]


def test_slow_rows_are_handed_back_one_by_one(monkeypatch: Any) -> None:
    monkeypatch.setattr(evaluate, "FLUSH_SECONDS", 0.1)
    clock = ManualClock()
    monkeypatch.setattr(evaluate, "time", SimpleNamespace(monotonic=clock.monotonic))

    out = run(xs(3).stage("a", lambda x: clock.advance(1)))

    assert [flushed.done for flushed in out.flushed] == [1, 1, 1]
    assert out.column("_seconds") == [1, 1, 1]


def test_the_default_policy_lets_failures_stand() -> None:
    assert run(xs(1, retry=2).stage("a", Flaky(1), retry=never)).column("_attempts") == [1]


# Whatever happens ---------------------------------------------------------------------------------

OUTCOMES = {
    "int": lambda: 1,
    "float": lambda: 0.5,
    "text": lambda: "t",
    "record": lambda: {"v": 1, "w": [1]},
    "none": lambda: None,
    "object": lambda: {1, 2},
    "bad keys": lambda: {"not a name": 1},
    "unpicklable": Unpicklable,
}
events = st.sampled_from([*OUTCOMES, "raise", "exit", "skip", "skip raises", "flaky"])


@st.composite
def programs(draw: Any) -> tuple[list[list[str]], list[dict[str, Any]]]:
    """What each stage does in each row, and how each stage is declared."""
    n_rows, n_stages = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    does = [[draw(events) for _ in range(n_rows)] for _ in range(n_stages)]
    how = [
        {
            "reads": draw(st.booleans()),
            "returns": draw(st.sampled_from([None, {"value": int}, {"value": artifact}])),
            "retry": draw(st.sampled_from([None, 1])),
        }
        for _ in range(n_stages)
    ]
    return does, how


def program_of(does: list[list[str]], how: list[dict[str, Any]]) -> Flow:
    f = xs(len(does[0]))
    for number, (acts, given_) in enumerate(zip(does, how, strict=True)):
        tried: set[int] = set()

        def act(x: int, acts: Any = acts, tried: set[int] = tried) -> Any:
            if acts[x] == "raise" or (acts[x] == "flaky" and x not in tried):
                tried.add(x)
                raise ValueError(x)
            if acts[x] == "exit":
                raise SystemExit
            return OUTCOMES.get(acts[x], lambda: 1)()

        def skip(x: int, acts: Any = acts) -> bool:
            if acts[x] == "skip raises":
                raise ValueError(x)
            return bool(acts[x] == "skip")

        before = f"s{number - 1}" if given_["reads"] and number else None
        parameters = f"x, {before}" if before else "x"
        f = f.stage(
            f"s{number}",
            eval(f"lambda {parameters}: act(x)", {"act": act}),
            needs=before or (),
            returns=given_["returns"],
            retry=given_["retry"],
            skip_when=eval("lambda x: skip(x)", {"skip": skip}),
        )
    return f


def expected_status(does: list[list[str]], how: list[dict[str, Any]], x: int) -> str:
    """What becomes of row x, said in another way than the code does."""
    skipped: set[int] = set()
    for number, (acts, given_) in enumerate(zip(does, how, strict=True)):
        what = acts[x]
        if (given_["reads"] and number - 1 in skipped) or what == "skip":
            skipped.add(number)
            continue
        lasting = what in ("raise", "exit", "skip raises", "bad keys", "unpicklable")
        if lasting or (what == "flaky" and not given_["retry"]):
            return "failed"
        if given_["returns"] == {"value": int} and what not in ("int", "flaky"):
            return "failed"
        if given_["returns"] == {"value": artifact} and what in ("record", "none"):
            return "failed"
    return "skipped" if skipped else "ok"


@given(programs())
def test_every_row_ends_once_in_order_as_it_must(
    program: tuple[list[list[str]], list[dict[str, Any]]],
) -> None:
    does, how = program
    n = len(does[0])

    out = run(program_of(does, how))

    assert sorted(r for b in out.batches for r in b.column("_row").to_pylist()) == list(range(n))
    for batch in out.batches:
        assert batch.column("_row").to_pylist() == sorted(batch.column("_row").to_pylist())
    assert out.column("_status") == [expected_status(does, how, x) for x in range(n)]
    assert [e is not None for e in out.errors] == [s == "failed" for s in out.column("_status")]
    assert sum(f.done for f in out.flushed) == n
    assert sum(f.failed for f in out.flushed) == out.column("_status").count("failed")
    assert sum(f.skipped for f in out.flushed) == out.column("_status").count("skipped")


@given(programs(), st.integers(1, 5))
def test_the_same_rows_give_the_same_results_however_they_are_flushed(
    program: tuple[list[list[str]], list[dict[str, Any]]], flush: int
) -> None:
    def results() -> list[dict[str, Any]]:
        rows = run(program_of(*program)).rows
        for row in rows:
            del row["_seconds"]
            for cause in row["_error"]["causes"] if row["_error"] else ():
                del cause["elapsed"]
        return [{k: v for k, v in row.items() if v is not None} for row in rows]

    whole = results()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "FLUSH_ROWS", flush)
        pieces = results()

    assert pieces == whole


def test_a_stage_that_needs_a_skipped_one_is_skipped_though_it_reads_nothing_from_it() -> None:
    f = (
        xs(2)
        .stage("check", lambda x: x, skip_when=lambda x: x == 1)
        .stage("act", lambda x: -x, needs="check")
    )

    assert run(f).column("act.value") == [0, None]


@pytest.mark.parametrize("returns", [None, {"value": int}])
def test_a_default_stands_in_for_the_output_of_a_skipped_stage(returns: Any) -> None:
    def after(x: int, value: int = -1) -> int:
        return value

    f = xs(2).stage("check", lambda x: x, returns=returns, skip_when=lambda x: x == 1)

    assert run(f.stage("after", after)).column("after.value") == [0, -1]


def test_a_declared_field_that_is_absent_is_told_from_what_the_output_has() -> None:
    f = xs(1).stage("fit", lambda x: {"slop": 1.0, "n": x}, returns={"slope": float, "n": int})

    (error,) = run(f).errors

    assert error == (
        "OutputMismatch: stage 'fit', field 'slope': expected float, got an output without it "
        "(it has: slop, n; did you mean 'slop'?)"
    )
