"""The same flow and seed give the same table, whatever the plan."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from kinds import KINDS, Kind

from flowdist import Flow, artifact, flow, optional

PATIENCE = 120.0
GROUPS = ["a", None, "b", "a", None, "c", "b", "a"] * 8


def sample(group: str | None, x: float, seed: int) -> dict[str, object]:
    if x == 13:
        raise ValueError("unlucky")
    return {"draw": seed % 1000, "pair": [x, x + 1], "label": None if group is None else group * 2}


def model(draw: int, x: float) -> dict[str, object]:
    return {"score": draw / (1 + x), "parameters": {"draw": draw}}


def total(sample: pa.Table, n: int) -> dict[str, object]:
    return {"rows": len(sample), "draws": sum(filter(None, sample["draw"].to_pylist())), "n": n}


def make_flow() -> Flow:
    grid = pa.table({"group": GROUPS, "x": [float(i) for i in range(len(GROUPS))]})
    return (
        flow(grid, seed=11, const={"n": 3})
        .stage("sample", sample, skip_when=lambda x: x % 10 == 9)
        .stage("model", model, returns={"score": optional(float), "parameters": artifact})
        .reduce("total", total, by="group")
    )


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame]:
    return results(KINDS[0], tmp_path_factory.mktemp("expected"), within="sequential")


def results(kind: Kind, root: Path, **plan: object) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The collected table, artifacts loaded and durations left out, and the reduce's table."""
    run = make_flow().distribute(kind.plan(root=root, **plan)).submit().wait(PATIENCE)
    table = run.collect(errors="keep").drop(columns="_seconds")
    table["model.parameters"] = [a and a.load() for a in table["model.parameters"]]
    return table, run.table("total")


@pytest.mark.parametrize(
    ("kind", "plan"),
    [(kind, plan) for kind in KINDS for plan in kind.plans],
    indirect=["kind"],
    ids=lambda value: getattr(value, "name", None) or "-".join(str(v) for v in value.values()),
)
def test_every_plan_gives_the_same_tables(
    kind: Kind,
    plan: dict[str, object],
    tmp_path: Path,
    expected: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    rows, groups = results(kind, tmp_path, **plan)

    pd.testing.assert_frame_equal(rows, expected[0])
    pd.testing.assert_frame_equal(groups, expected[1])


def test_the_table_has_every_row_and_says_how_it_ended(
    expected: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    rows, groups = expected

    assert rows["x"].tolist() == [float(i) for i in range(len(GROUPS))]
    assert rows["_status"].value_counts().to_dict() == {"ok": 57, "skipped": 6, "failed": 1}
    assert rows["_error"][13] == "stage 'sample': ValueError: unlucky"
    assert groups["rows"].sum() == len(GROUPS) - 1
    assert groups["group"].isna().sum() == 1
