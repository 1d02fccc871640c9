"""Screen, then refine: which rows go through the second flow, in which order, what is merged."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from flowdist import Flow, Plan, artifact, flow, local, param_grid, refine
from flowdist.errors import PlanError, UsageError
from flowdist.refine import worst_rows

LOSSES = [3.0, 9.0, None, 5.0, 9.0, 1.0]


def queue(root: Path, **options: Any) -> Plan:
    return local(dispatch="queue", root=root, **{"workers": 1, "target_jobs": 1, **options})


def screening() -> pd.DataFrame:
    return pd.DataFrame({"unit": list("abcdef"), "screen.loss": LOSSES})


def second(fn: Any, **options: Any) -> Flow:
    return flow(param_grid(unit=["any"])).stage("fine", fn, **options)


# -- ranking ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "chosen"),
    [
        ({"worst": 3}, [1, 4, 3]),
        ({"worst": 0}, []),
        ({"worst": 99}, [1, 4, 3, 0, 5]),
        ({"above": 3.0}, [1, 4, 3]),
        ({"above": 3.0, "worst": 1}, [1]),
        ({"below": 5.0}, [5, 0]),
        ({"worst": 2, "ascending": True}, [5, 0]),
    ],
)
def test_the_worst_come_first_and_equals_in_their_order(
    how: dict[str, Any], chosen: list[int]
) -> None:
    assert worst_rows(screening(), "screen.loss", **how).tolist() == chosen


@pytest.mark.parametrize(
    ("by", "how", "said"),
    [
        ("screen.los", {"worst": 1}, "did you mean 'screen.loss'"),
        ("unit", {"worst": 1}, "ranked by a number"),
        ("screen.loss", {}, "say which rows are the worst"),
        ("screen.loss", {"worst": -1}, "0 or more"),
        ("screen.loss", {"worst": 1.5}, "how many rows"),
        ("screen.loss", {"above": 1.0, "below": 2.0}, "say one of the two"),
        ("screen.loss", {"above": 1.0, "ascending": True}, "say one of the two"),
    ],
)
def test_a_ranking_that_makes_no_sense_is_refused(by: str, how: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        worst_rows(screening(), by, **how)


# -- merging ---------------------------------------------------------------------------------------


def test_every_row_is_there_once_with_what_the_second_pass_found(tmp_path: Path) -> None:
    order = tmp_path / "order"

    def fine(unit: str) -> dict[str, Any]:
        with order.open("a") as file:
            file.write(unit)
        if unit == "e":
            raise ValueError("hopeless")
        return {"loss": 0.5, "good": True}

    refined = refine(
        screening(), second(fine), by="screen.loss", above=2.0, plan=queue(tmp_path / "runs")
    )

    assert order.read_text() == "beda"
    table = refined.table
    assert table["unit"].tolist() == list("abcdef")
    assert table["screen.loss"].equals(screening()["screen.loss"])
    assert table["_source"].tolist() == [
        "refined", "refined", "screen", "refined", "failed", "screen",
    ]  # fmt: skip
    assert table["fine.loss"].isna().tolist() == [False, False, True, False, True, True]
    assert table["fine.good"].dropna().tolist() == [True] * 3
    assert refined.counts == {"refined": 3, "screen": 2, "failed": 1}
    assert refined.run is not None
    assert refined.run.errors()["unit"].tolist() == ["e"]


def test_a_column_of_both_is_the_seconds_where_there_is_one(tmp_path: Path) -> None:
    grid = param_grid(x=range(6))
    large = 2**60 + 1  # no float is this number
    first = flow(grid).stage("fit", lambda x: {"off": x, "by": "plain"})
    run = first.distribute(local(workers=1, root=tmp_path)).submit()
    better = flow(grid).stage("fit", lambda x: {"off": -1, "by": "contest", "n": large})

    refined = refine(run, better, by="fit.off", worst=2, plan=queue(tmp_path))

    assert refined.table["fit.off"].tolist() == [0, 1, 2, 3, -1, -1]
    assert refined.table["fit.off"].dtype.kind == "i"
    assert refined.table["fit.n"].dropna().tolist() == [large] * 2
    assert refined.table["fit.by"].tolist() == ["plain"] * 4 + ["contest"] * 2


def test_models_of_both_passes_load(tmp_path: Path) -> None:
    size = 100_000  # too large for a part: a file of its run
    grid = param_grid(x=[1, 2])
    plan = local(workers=1, root=tmp_path)
    returns = {"model": artifact, "loss": int}
    first = flow(grid).stage(
        "fit", lambda x: {"model": np.full(size, x), "loss": x}, returns=returns
    )
    better = flow(grid).stage(
        "fit", lambda x: {"model": np.full(size, -x), "loss": 0}, returns=returns
    )

    run = first.distribute(plan).submit()
    refined = refine(run, better, by="fit.loss", worst=1, plan=queue(tmp_path))

    assert [model.load()[0] for model in refined.table["fit.model"]] == [1, -2]


def test_a_function_makes_the_second_flow_of_what_the_first_found(tmp_path: Path) -> None:
    def make(rows: pd.DataFrame) -> Flow:
        grid = rows.rename(columns={"screen.loss": "loss"})
        return flow(grid).stage("fine", lambda unit, loss: f"{unit}{loss:.0f}")

    refined = refine(
        pa.Table.from_pandas(screening()),
        make,
        by="screen.loss",
        worst=2,
        plan=queue(tmp_path),
    )

    found = refined.table["fine.value"]
    assert found.dropna().to_dict() == {1: "b9", 4: "e9"}


def test_rows_that_the_second_flow_skips_say_so(tmp_path: Path) -> None:
    work = second(lambda unit: 1, skip_when=lambda unit: unit == "b")

    refined = refine(screening(), work, by="screen.loss", worst=2, plan=queue(tmp_path))

    assert refined.counts == {"screen": 4, "refined": 1, "skipped": 1}


def test_nothing_is_started_where_no_row_is_bad_enough(tmp_path: Path) -> None:
    refined = refine(
        screening(), second(lambda unit: 1), by="screen.loss", above=100.0, plan=queue(tmp_path)
    )

    assert refined.run is None
    assert refined.counts == {"screen": 6}
    assert not list(tmp_path.iterdir())


# -- time ------------------------------------------------------------------------------------------


def test_what_the_time_does_not_reach_is_the_least_bad(tmp_path: Path) -> None:
    screen = pd.DataFrame({"unit": range(60), "loss": range(60)})

    def fine(unit: int) -> int:
        time.sleep(0.4)
        return unit

    refined = refine(screen, second(fine), by="loss", worst=60, plan=queue(tmp_path), time_budget=8)

    sources = refined.table["_source"].tolist()
    reached = sources.count("refined")
    assert 0 < reached < 60
    assert sources == ["not reached"] * (60 - reached) + ["refined"] * reached
    assert refined.run is not None
    # What is left can still be had.
    assert refined.run.status().state == "stopped"


def test_a_plan_that_assigns_rows_beforehand_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="from a queue"):
        refine(screening(), second(lambda unit: 1), by="screen.loss", worst=1, plan="small")


def test_a_second_flow_over_other_columns_is_refused() -> None:
    work = flow(param_grid(units=[1])).stage("fine", lambda units: 1)

    with pytest.raises(UsageError, match=r"column 'units'.*did you mean 'unit'"):
        refine(screening(), work, by="screen.loss", worst=1)
