"""What a stage returned stays what it was, whatever happens to the objects afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from flowdist import artifact, flow, param_grid
from flowdist.artifacts import Artifact, artifact_struct, dumps
from flowdist.flow import Flow
from flowdist.schema import SaveFn
from flowdist.workers.evaluate import Evaluator
from flowdist.workers.snapshot import Payload


class Model:
    """An estimator that is fitted again for every row."""

    def __init__(self) -> None:
        self.coefficient = 0

    def fit(self, x: int) -> Model:
        self.coefficient = x
        return self


def save_inline(row: int) -> SaveFn:
    def save(stage: str, field: str, index: int, obj: Any, codec: str | None) -> dict[str, Any]:
        payload = obj if isinstance(obj, Payload) else Payload(*dumps(obj, codec))
        return artifact_struct(payload.codec, payload.data)

    return save


def evaluated(f: Flow) -> pa.Table:
    columns = f.grid.table.column_names
    evaluator = Evaluator(f.program, f.program.row_stages, columns, save_inline)
    rows = f.grid.table.to_pylist()
    values = [tuple(row[name] for name in columns) for row in rows]
    batches = [b for flushed in evaluator.run(range(len(rows)), values) for b in flushed.batches]
    return pa.Table.from_batches(batches)


def returns_the_same(value: Any, change: Callable[[Any, int], Any]) -> Callable[[int], Any]:
    """A stage that changes one object in place for every row and returns it."""

    def stage(x: int) -> Any:
        change(value, x)
        return value

    return stage


@pytest.mark.parametrize(
    ("value", "change"),
    [
        ({"n": 0}, lambda d, x: d.update(n=x)),
        ({"n": [0]}, lambda d, x: d["n"].__setitem__(0, x)),
        ({"n": {"deep": [0]}}, lambda d, x: d["n"]["deep"].__setitem__(0, x)),
        ([0], lambda v, x: v.__setitem__(0, x)),
        (np.zeros(1), lambda v, x: v.__setitem__(0, x)),
        ({"n": np.zeros(1)}, lambda d, x: d["n"].__setitem__(0, x)),
        (pd.DataFrame({"n": [0]}), lambda frame, x: frame.__setitem__("n", [x])),
    ],
    ids=["dict", "list", "nested", "value", "array", "array field", "frame"],
)
def test_an_object_that_every_row_fills_anew_is_recorded_as_each_row_left_it(
    value: Any, change: Callable[[Any, int], Any]
) -> None:
    f = flow(param_grid(x=[1, 2, 3])).stage("f", returns_the_same(value, change))

    column = evaluated(f).column(-1).to_pylist()

    assert [
        str(v).replace(".0", "").count(str(x)) for x, v in zip([1, 2, 3], column, strict=True)
    ] == [1, 1, 1]


@pytest.mark.parametrize("returns", [None, {"model": artifact}])
def test_a_model_that_is_fitted_again_is_stored_as_it_was(returns: Any) -> None:
    model = Model()
    f = flow(param_grid(x=[1, 2])).stage("f", lambda x: {"model": model.fit(x)}, returns=returns)

    stored = evaluated(f).column("f.model").to_pylist()

    loaded = [Artifact.from_struct(s, root="").load() for s in stored]
    assert [m.coefficient for m in loaded] == [1, 2]


def test_a_later_stage_does_not_change_what_an_earlier_one_returned() -> None:
    def reverse(values: list[int]) -> int:
        values.reverse()
        return values[0]

    f = flow(param_grid(x=[1])).stage("a", lambda x: {"values": [x, 2]}).stage("b", reverse)

    table = evaluated(f)

    assert table.column("a.values").to_pylist() == [[1, 2]]
    assert table.column("b.value").to_pylist() == [2]
