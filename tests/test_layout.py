"""rows -> groups -> chunks -> jobs: nothing is lost, nothing is twice, order is kept."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowdist.errors import PlanError
from flowdist.layout import Layout, group_rows, make_layout
from flowdist.plan import Plan, local


def layout_of(grid: pa.Table, **options: Any) -> Layout:
    return make_layout(local(**options), grid, workers=2)


def subjects(groups: int, rows_each: int) -> pa.Table:
    """A grid in which the rows of a group are not next to each other."""
    return pa.table({"subject": [f"s{i:02}" for i in range(groups)] * rows_each})


# The examples of the design ----------------------------------------------------------------------


def test_one_chunk_a_job_makes_a_job_of_each_group() -> None:
    layout = layout_of(subjects(3, 8), by="subject", chunks_per_job=1)
    assert (layout.rows, layout.groups, layout.chunks, layout.jobs) == (24, 3, 3, 3)


def test_rows_per_chunk_splits_groups() -> None:
    layout = layout_of(subjects(3, 8), by="subject", rows_per_chunk=4)
    assert (layout.groups, layout.chunks, layout.jobs) == (3, 6, 6)
    assert layout.chunk_group.tolist() == [0, 0, 1, 1, 2, 2]


def test_target_jobs_is_the_number_of_jobs() -> None:
    layout = layout_of(subjects(81, 2), by="subject", target_jobs=10)
    assert layout.jobs == 10
    assert sorted(layout.job_chunks.tolist()) == [8] * 9 + [9]


# The rules, one by one ---------------------------------------------------------------------------


def test_without_by_a_chunk_is_one_row_and_the_plan_picks_the_jobs() -> None:
    layout = layout_of(subjects(3, 8))
    assert (layout.groups, layout.chunks, layout.jobs) == (1, 24, 1)
    assert layout.note == "one job: this machine runs all rows in one pool"


def test_without_by_rows_are_packed_into_chunks() -> None:
    assert layout_of(subjects(3, 8), rows_per_chunk=10).chunk_rows.tolist() == [10, 10, 4]


def test_chunks_per_job_leaves_the_rest_to_the_last_job() -> None:
    assert layout_of(subjects(1, 10), chunks_per_job=4).job_chunks.tolist() == [4, 4, 2]


def test_by_alone_is_one_chunk_a_job_without_a_note() -> None:
    layout = layout_of(subjects(3, 8), by="subject")
    assert (layout.jobs, layout.note) == (3, "")


def test_a_queue_does_not_start_a_job_for_every_group() -> None:
    layout = layout_of(subjects(3, 8), by="subject", dispatch="queue")
    assert (layout.chunks, layout.jobs) == (3, 1)


def test_no_more_jobs_than_chunks() -> None:
    assert layout_of(subjects(3, 8), by="subject", target_jobs=100).jobs == 3


def test_numbers_beyond_int64_are_only_large() -> None:
    layout = layout_of(subjects(3, 8), by="subject", rows_per_chunk=10**30, chunks_per_job=10**30)
    assert (layout.chunks, layout.jobs) == (3, 1)


def test_groups_keep_the_order_of_first_appearance_and_rows_theirs() -> None:
    layout = layout_of(pa.table({"site": ["b", "a", "b", "c", "a"]}), by="site")
    assert [layout.row_numbers(chunk).tolist() for chunk in range(3)] == [[0, 2], [1, 4], [3]]
    assert layout.group_sizes.tolist() == [2, 2, 1]


def test_contiguous_groups_need_no_order() -> None:
    layout = layout_of(pa.table({"site": ["b", "b", "a"]}), by="site")
    assert layout.order is None
    assert layout.row_numbers(0).tolist() == [0, 1]


@pytest.mark.parametrize("by", [None, "x"])
def test_an_empty_grid_has_no_chunks_and_no_jobs(by: str | None) -> None:
    layout = layout_of(pa.table({"x": pa.array([], pa.int64())}), by=by, target_jobs=4)
    assert (layout.rows, layout.groups, layout.chunks, layout.jobs) == (0, 0, 0, 0)
    assert layout.job_rows.tolist() == []


def test_a_plan_may_know_a_better_number_of_jobs() -> None:
    class Cluster(Plan):
        kind: str = "cluster"

        def default_jobs(self, rows: int, workers: int) -> tuple[int, str]:
            return rows // workers, f"{workers} rows a job"

    layout = make_layout(Cluster(), subjects(3, 8), workers=4)
    assert (layout.jobs, layout.note) == (6, "4 rows a job")


# Groups ------------------------------------------------------------------------------------------


def test_null_and_nan_are_two_values_and_zero_has_no_sign() -> None:
    other_nan = np.array([0x7FF8000000000001], dtype=np.uint64).view(np.float64)[0]
    values = pa.chunked_array(
        [pa.array([math.nan, None, 0.0]), pa.array([-0.0, other_nan, -math.nan, None])]
    )
    ids, groups = group_rows(pa.table({"x": values}), ["x"])
    assert (ids.tolist(), groups) == ([0, 1, 2, 2, 0, 0, 1], 3)


def test_a_dictionary_groups_by_its_values_not_its_codes() -> None:
    twice = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, 2, None], pa.int8()), pa.array(["a", "a", None])
    )
    assert group_rows(pa.table({"x": twice}), ["x"])[0].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "type_",
    [
        pa.null(),
        pa.bool_(),
        pa.float16(),
        pa.float32(),
        pa.decimal128(10, 2),
        pa.large_string(),
        pa.binary(),
        pa.date32(),
        pa.timestamp("us", "UTC"),
        pa.duration("ms"),
    ],
    ids=str,
)
def test_columns_of_plain_types_can_be_grouped(type_: pa.DataType) -> None:
    assert group_rows(pa.table({"x": pa.nulls(3, type_)}), ["x"])[1] == 1


def test_a_column_of_lists_cannot_be_grouped() -> None:
    with pytest.raises(PlanError, match=r"by='x': .* of type list<.*>; group by numbers, strings"):
        group_rows(pa.table({"x": [[1], [2]]}), ["x"])


def test_a_missing_column_is_named_with_the_nearest() -> None:
    with pytest.raises(PlanError, match=r"by='subjct': .*; did you mean 'subject'\?"):
        layout_of(subjects(3, 8), by="subjct")


def test_a_missing_column_that_is_like_no_other_lists_them() -> None:
    with pytest.raises(PlanError, match=r"by='zzz': .*; its columns are \['subject'\]"):
        layout_of(subjects(3, 8), by="zzz")


# Properties, over any grid and any numbers -------------------------------------------------------

counts = st.none() | st.integers(1, 30)
cells = {
    pa.int64(): st.none() | st.integers(0, 3),
    pa.float64(): st.none() | st.sampled_from([math.nan, 0.0, -0.0, 1.5]),
    pa.string(): st.none() | st.sampled_from(["", "a", "b"]),
}


@st.composite
def grids(draw: st.DrawFn) -> pa.Table:
    """Up to three columns with nulls and NaN, in as many pieces as it happens to be."""
    rows = draw(st.integers(0, 40))
    cut = draw(st.integers(0, rows))
    columns = {}
    for name in "abc"[: draw(st.integers(1, 3))]:
        type_ = draw(st.sampled_from(list(cells)))
        values = pa.array(draw(st.lists(cells[type_], min_size=rows, max_size=rows)), type_)
        columns[name] = pa.chunked_array([values[:cut], values[cut:]])
    return pa.table(columns)


@st.composite
def plans(draw: st.DrawFn, names: list[str]) -> Plan:
    by = draw(st.lists(st.sampled_from(names), unique=True))
    job_count = draw(st.sampled_from(["chunks_per_job", "target_jobs"]))
    fields: dict[str, Any] = {job_count: draw(counts), "rows_per_chunk": draw(counts)}
    return local(by=by, dispatch=draw(st.sampled_from(["static", "queue"])), **fields)


def keys(grid: pa.Table, by: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """What makes two rows one group, in plain Python."""

    def key(value: Any) -> Any:
        return "NaN" if isinstance(value, float) and math.isnan(value) else (value,)

    return [tuple(key(row[name]) for name in by) for row in grid.to_pylist()]


@given(st.data())
def test_every_row_is_in_one_chunk_and_every_chunk_in_one_job(data: st.DataObject) -> None:
    grid = data.draw(grids())
    layout = make_layout(data.draw(plans(grid.column_names)), grid, workers=2)

    rows = [row for chunk in range(layout.chunks) for row in layout.row_numbers(chunk).tolist()]
    assert sorted(rows) == list(range(grid.num_rows))
    assert sum(layout.chunk_rows.tolist()) == grid.num_rows

    spans = zip(layout.job_first.tolist(), layout.job_stop.tolist(), strict=True)
    chunks = [chunk for first, stop in spans for chunk in range(first, stop)]
    assert chunks == list(range(layout.chunks))
    assert np.bincount(layout.chunk_job, minlength=layout.jobs).tolist() == (
        layout.job_chunks.tolist()
    )
    assert layout.job_rows.tolist() == [
        layout.chunk_rows[first:stop].sum()
        for first, stop in zip(layout.job_first, layout.job_stop, strict=True)
    ]
    assert all(layout.chunk_rows > 0)
    assert all(layout.job_chunks > 0)


@given(st.data())
def test_a_chunk_holds_rows_of_one_group_in_their_order(data: st.DataObject) -> None:
    grid = data.draw(grids())
    plan = data.draw(plans(grid.column_names))
    layout = make_layout(plan, grid, workers=2)
    key_of_row = keys(grid, plan.by)
    appearance = list(dict.fromkeys(key_of_row))

    assert layout.groups == len(appearance)
    assert layout.chunk_group.tolist() == sorted(layout.chunk_group.tolist())
    assert layout.group_sizes.tolist() == [key_of_row.count(key) for key in appearance]
    for chunk in range(layout.chunks):
        rows = layout.row_numbers(chunk).tolist()
        assert {key_of_row[row] for row in rows} == {appearance[layout.chunk_group[chunk]]}
        assert rows == sorted(rows)


@given(st.data())
def test_sizes_are_what_the_plan_says(data: st.DataObject) -> None:
    grid = data.draw(grids())
    plan = data.draw(plans(grid.column_names))
    layout = make_layout(plan, grid, workers=2)

    whole = max(grid.num_rows, 1) if plan.by else 1
    assert all(layout.chunk_rows <= (plan.rows_per_chunk or whole))
    if plan.rows_per_chunk:
        cuts = -(-layout.group_sizes // plan.rows_per_chunk)
        assert layout.chunks == cuts.sum()
    if plan.chunks_per_job:
        assert layout.jobs == -(-layout.chunks // plan.chunks_per_job)
        assert all(layout.job_chunks[:-1] == plan.chunks_per_job)
    elif plan.target_jobs:
        assert layout.jobs == min(plan.target_jobs, layout.chunks)
        sizes = layout.job_chunks.tolist()
        assert max(sizes, default=0) - min(sizes, default=0) <= 1
    elif plan.by and plan.dispatch == "static":
        assert layout.jobs == layout.chunks
    else:
        assert layout.note


# What a job process pays -------------------------------------------------------------------------


def test_the_arithmetic_imports_no_pydantic() -> None:
    code = "import flowdist.layout, sys; print({'pydantic', 'pandas', 'rich'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
