"""Reading a run: one row per grid row, whatever died, ran twice, or gave odd types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import results, write_part, write_run

from flowdist.artifacts import ARTIFACT_TYPE, Artifact, artifact_struct, dumps
from flowdist.errors import TypeClash
from flowdist.parts import FAILED, MISSING, OK, SKIPPED, STATUS
from flowdist.results import (
    _gathered,
    collect_rows,
    error_rows,
    flatten_nested,
    read_results,
    shown_record,
    to_frame,
)
from flowdist.states import Counts, count_states, row_states
from flowdist.store import RunFiles


@pytest.fixture
def files(tmp_path: Path) -> RunFiles:
    """A run of six rows without results."""
    return write_run(tmp_path, rows=6, reduces={"total": 1})


def value(files: RunFiles, rows: int = 6, table: str = "rows", **how: Any) -> list[Any]:
    found: list[Any] = read_results(files, rows, table, **how).column("sq.value").to_pylist()
    return found


def status(files: RunFiles, rows: int = 6) -> list[str]:
    return [STATUS[code] for code in read_results(files, rows).column("_status").to_pylist()]


# One row per grid row ----------------------------------------------------------------------------


def test_parts_are_put_in_grid_order(files: RunFiles) -> None:
    write_part(files, results([4, 5], sq__value=[16, 25]), job=0)
    write_part(files, results([0, 1, 2, 3], sq__value=[0, 1, 4, 9]), job=1)

    assert value(files) == [0, 1, 4, 9, 16, 25]


def test_parts_that_follow_each_other_are_not_copied(files: RunFiles) -> None:
    for job in range(3):
        rows = [2 * job, 2 * job + 1]
        write_part(files, results(rows, sq__value=rows), job=job)

    assert read_results(files, 6).column("sq.value").num_chunks == 3


def test_rows_that_lie_mixed_within_a_part_are_put_in_order(files: RunFiles) -> None:
    write_part(files, results([3, 0, 5], sq__value=[9, 0, 25]))
    write_part(files, results([4, 2, 1], sq__value=[16, 4, 1]), seq=1)

    assert value(files) == [0, 1, 4, 9, 16, 25]


def test_rows_without_a_result_are_missing_and_null(files: RunFiles) -> None:
    write_part(files, results([1, 4], sq__value=[1, 16]))

    assert value(files) == [None, 1, None, None, 16, None]
    assert status(files) == ["missing", "ok", "missing", "missing", "ok", "missing"]
    assert read_results(files, 6).column("_row").to_pylist() == list(range(6))


def test_a_run_without_parts_has_every_row_missing(files: RunFiles) -> None:
    assert status(files) == ["missing"] * 6


def test_a_run_of_no_rows_is_an_empty_table(tmp_path: Path) -> None:
    assert read_results(write_run(tmp_path, rows=0), 0).num_rows == 0


def test_a_part_that_was_cut_off_counts_as_not_there(files: RunFiles) -> None:
    write_part(files, results([0, 1, 2], sq__value=[0, 1, 4]))
    path = write_part(files, results([3, 4, 5], sq__value=[9, 16, 25]), seq=1)
    path.write_bytes(path.read_bytes()[:-10])

    assert value(files) == [0, 1, 4, None, None, None]


def test_the_tables_of_a_run_do_not_mix(files: RunFiles) -> None:
    write_part(files, results([0], sq__value=[1]))
    write_part(files, results([0], sq__value=[100]), job=1, table="total")

    assert value(files, 1) == [1]
    assert value(files, 1, "total") == [100]


# Rows that ran twice -----------------------------------------------------------------------------


def test_an_ok_result_comes_before_a_failed_one_of_a_later_attempt(files: RunFiles) -> None:
    write_part(files, results([0], sq__value=[1]), attempt=1)
    write_part(files, results([0], status=FAILED, sq__value=pa.nulls(1)), attempt=2)

    assert value(files, 1) == [1]


def test_a_later_ok_result_replaces_a_failed_one(files: RunFiles) -> None:
    write_part(files, results([0], status=FAILED, sq__value=pa.nulls(1)), attempt=1)
    write_part(files, results([0], sq__value=[1]), attempt=2)

    assert (value(files, 1), status(files, 1)) == ([1], ["ok"])


@pytest.mark.parametrize("how", [OK, FAILED])
def test_of_two_results_that_are_alike_the_latest_attempt_counts(files: RunFiles, how: int) -> None:
    write_part(files, results([0], status=how, sq__value=[3]), attempt=3)
    write_part(files, results([0], status=how, sq__value=[10]), attempt=10)
    write_part(files, results([0], status=how, sq__value=[2]), attempt=2)

    assert value(files, 1) == [10]


def test_a_reduce_takes_its_latest_attempt_even_where_that_failed(files: RunFiles) -> None:
    write_part(files, results([0], sq__value=[1]), attempt=1, table="total")
    last = results([0], status=FAILED, sq__value=pa.nulls(1))
    write_part(files, last, attempt=2, table="total")

    assert value(files, 1, "total") == [None]
    assert row_states(files, 1, "total").tolist() == [FAILED]


def test_a_reduce_of_before_rows_were_run_anew_is_missing(files: RunFiles) -> None:
    files.put_json(files.intent(1), {"jobs": [0]})
    write_part(files, results([0], sq__value=[1]), job=1, attempt=1, table="total")
    files.put_json(files.intent(2), {"jobs": []})
    only_reduces = row_states(files, 1, "total").tolist()
    files.put_json(files.intent(3), {"jobs": [0]})

    assert only_reduces == [OK]
    assert row_states(files, 1, "total").tolist() == [MISSING]


def test_a_reduce_of_before_one_that_it_reads_was_run_anew_is_missing(tmp_path: Path) -> None:
    files = write_run(tmp_path, reduces={"mean": 1, "spread": 1}, reads={"spread": ["mean"]})
    for attempt, jobs in ((1, [0]), (2, [])):
        files.put_json(files.intent(attempt), {"jobs": jobs})
    write_part(files, results([0], status=FAILED), job=1, attempt=1, table="mean")
    write_part(files, results([0], sq__value=[1]), job=2, attempt=1, table="spread")
    before = row_states(files, 1, "spread").tolist()
    write_part(files, results([0], sq__value=[1]), job=1, attempt=2, table="mean")

    assert before == [OK]
    assert row_states(files, 1, "spread").tolist() == [MISSING]


history = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.lists(
            st.tuples(st.integers(0, 5), st.sampled_from([OK, FAILED, SKIPPED])),
            max_size=6,
            unique_by=lambda pair: pair[0],
        ),
    ),
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(history, st.sampled_from(["rows", "total"]))
def test_every_row_appears_once_and_its_state_is_told_alike_everywhere(
    tmp_path_factory: pytest.TempPathFactory,
    attempts: list[tuple[int, list[tuple[int, int]]]],
    table: str,
) -> None:
    files = write_run(tmp_path_factory.mktemp("run"), reduces={"total": 6})
    for seq, (attempt, rows) in enumerate(attempts):
        batches = [results([r], status=s, sq__value=[seq]) for r, s in rows]
        write_part(files, *batches, attempt=attempt, seq=seq, table=table)

    read = read_results(files, 6, table)

    assert read.column("_row").to_pylist() == list(range(6))
    assert read.column("_status").to_pylist() == row_states(files, 6, table).tolist()


@given(
    st.lists(st.lists(st.one_of(st.none(), st.text()), max_size=5), max_size=4),
    st.lists(st.integers(0, 99)),
    st.integers(1, 100),
)
def test_columns_too_large_for_one_array_are_put_in_order_in_several(
    chunks: list[list[str | None]], wanted: list[int], most: int
) -> None:
    column = pa.chunked_array(chunks, pa.string())
    places = np.array([number % (len(column) + 1) - 1 for number in wanted], np.int64)
    concat = pa.concat_arrays

    def overflowing(arrays: list[pa.Array]) -> pa.Array:
        if 1 < sum(map(len, arrays)) > most:
            raise pa.ArrowInvalid("offset overflow while concatenating arrays")
        return concat(arrays)

    with pytest.MonkeyPatch.context() as arrow:
        arrow.setattr(pa, "concat_arrays", overflowing)
        found = pa.chunked_array(_gathered(column, places), pa.string())

    values = column.to_pylist()
    assert found.to_pylist() == [None if place < 0 else values[place] for place in places]


def test_states_are_counted() -> None:
    states = np.array([OK, OK, FAILED, SKIPPED, MISSING, OK], np.int8)

    assert count_states(states) == Counts(ok=3, failed=1, skipped=1, missing=1)


# Undeclared types --------------------------------------------------------------------------------


def test_types_of_different_parts_widen(files: RunFiles) -> None:
    write_part(files, results([0, 1], sq__value=[0, 1]))
    write_part(files, results([2, 3], sq__value=[0.5, 0.25]), seq=1)
    write_part(files, results([4, 5], sq__value=pa.nulls(2)), seq=2)

    assert value(files) == [0.0, 1.0, 0.5, 0.25, None, None]


def test_a_clash_names_a_row_of_either_type_and_the_way_out(files: RunFiles) -> None:
    write_part(files, results([0, 1, 2], sq__value=[None, 1, 2]))
    write_part(files, results([3, 4, 5], sq__value=[None, None, "x"]), seq=1)

    with pytest.raises(
        TypeClash,
        match=r"stage 'sq', field 'value': row 1 gave int64 and row 5 gave string.*clashes='text'",
    ):
        read_results(files, 6)


def test_a_clash_names_a_row_with_a_value_where_the_first_rows_of_the_type_have_none(
    files: RunFiles,
) -> None:
    # The nulls take the type of the part they are in.
    write_part(files, results([0], sq__value=pa.nulls(1)), results([2], sq__value=[4]))
    write_part(files, results([4], sq__value=["x"]), seq=1)

    with pytest.raises(TypeClash, match="row 2 gave int64 and row 4 gave string"):
        read_results(files, 6)


def test_a_clash_is_told_even_where_only_nulls_are_left_of_a_type(files: RunFiles) -> None:
    write_part(files, results([0], sq__value=pa.nulls(1, pa.int64())))
    write_part(files, results([1], sq__value=["x"]), seq=1)

    with pytest.raises(TypeClash, match="row 0 gave int64 and row 1 gave string"):
        read_results(files, 6)


def test_a_clash_names_two_types_that_clash_by_themselves(files: RunFiles) -> None:
    write_part(files, results([0], sq__value=[{"a": 1}]))
    write_part(files, results([1], sq__value=[{"b": 1}]), seq=1)
    write_part(files, results([2], sq__value=[{"a": "x"}]), seq=2)

    with pytest.raises(TypeClash, match="row 0 gave struct<a: int64> and row 2 gave struct<a: str"):
        read_results(files, 6)


def test_an_int_that_no_float_holds_is_a_clash_with_floats(files: RunFiles) -> None:
    write_part(files, results([0, 1], sq__value=[1, 2**53 + 1]))
    write_part(files, results([2], sq__value=[0.5]), seq=1)

    with pytest.raises(TypeClash, match="row 1 gave int64 and row 2 gave double"):
        read_results(files, 6)


def test_an_inexact_int_within_structs_that_differ_is_a_clash_too(files: RunFiles) -> None:
    write_part(files, results([0], sq__value=[{"a": 2**53 + 1, "b": "x"}]))
    write_part(files, results([1], sq__value=[{"a": 0.5}]), seq=1)

    with pytest.raises(TypeClash, match=r"row 0 gave struct.*row 1 gave struct"):
        read_results(files, 6)


def test_clashes_can_be_read_as_text(files: RunFiles) -> None:
    write_part(files, results([0, 1], sq__value=[1, None]))
    write_part(files, results([2, 3], sq__value=["x", None]), seq=1)
    write_part(files, results([4], sq__value=[[0.5]]), seq=2)

    assert value(files, clashes="text") == ["1", None, "x", None, "[0.5]", None]


def test_an_inexact_int_can_be_read_as_text(files: RunFiles) -> None:
    write_part(files, results([0], sq__value=[2**53 + 1]))
    write_part(files, results([1], sq__value=[0.5]), seq=1)

    assert value(files, 2, clashes="text") == ["9007199254740993", "0.5"]


def test_only_the_field_that_clashes_becomes_text(files: RunFiles) -> None:
    write_part(files, results([0], sq__value=[1], sq__n=[1]))
    write_part(files, results([1], sq__value=["x"], sq__n=[2]), seq=1)

    read = read_results(files, 2, clashes="text")

    assert read.column("sq.value").to_pylist() == ["1", "x"]
    assert read.column("sq.n").to_pylist() == [1, 2]


# With the grid -----------------------------------------------------------------------------------


def test_the_grid_comes_first_then_the_outputs_then_the_record(files: RunFiles) -> None:
    write_part(files, results(range(6), sq__value=[0, 1, 4, 9, 16, 25]))

    table = collect_rows(files, 6)

    assert table.column_names == [
        *("x", "sq.value", "_row", "_status", "_error", "_attempts", "_seconds")
    ]
    assert table.column("x").to_pylist() == list(range(6))


def test_a_grid_in_layout_order_comes_back_in_grid_order(tmp_path: Path) -> None:
    files = write_run(tmp_path, rows=3)
    files.path(files.GRID).unlink()
    grid = pa.table({"x": ["c", "a", "b"], "_row": [2, 0, 1]})
    with (
        pa.OSFile(str(files.path(files.GRID)), "wb") as file,
        pa.ipc.new_file(file, grid.schema) as writer,
    ):
        writer.write_table(grid)
    write_part(files, results([2, 0, 1], sq__value=["C", "A", "B"]))

    table = collect_rows(files, 3)

    assert table.select(["x", "sq.value"]).to_pydict() == {
        "x": ["a", "b", "c"],
        "sq.value": ["A", "B", "C"],
    }


def test_the_record_is_dropped_or_shown_in_words(files: RunFiles) -> None:
    write_part(files, results([0], sq__value=[1]))
    write_part(files, results([1], status=FAILED, sq__value=pa.nulls(1)), seq=1)
    table = collect_rows(files, 6).slice(0, 3)

    assert shown_record(table, keep=False).column_names == ["x", "sq.value"]
    kept = shown_record(table, keep=True)
    assert "_row" not in kept.column_names
    assert kept.column("_status").to_pylist() == ["ok", "failed", "missing"]
    assert kept.column("_error").to_pylist() == [None, "stage 'sq': ValueError: no", None]


def test_failed_rows_are_told_with_their_parameters(files: RunFiles) -> None:
    write_part(files, results([0, 1], sq__value=[0, 1]))
    last = results([3], status=FAILED, attempts=2, sq__value=pa.nulls(1))
    write_part(files, last, seq=1)

    (error,) = error_rows(collect_rows(files, 6))

    shown = ("row", "x", "stage", "type", "message", "attempts")
    assert {key: error[key] for key in shown} == {
        "row": 3,
        "x": 3,
        "stage": "sq",
        "type": "ValueError",
        "message": "no",
        "attempts": 2,
    }


def test_nested_tables_become_long_with_the_keys_repeated() -> None:
    nested = pa.table({"x": [1, 2, 3], "s.table": [[{"t": 0, "x": 5}, {"t": 1, "x": 6}], None, []]})

    long = flatten_nested(nested, "s.table", ["x"])

    assert long.to_pydict() == {"x": [1, 1], "t": [0, 1], "s.x": [5, 6]}


# As a frame --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrow", "expected"),
    [
        (pa.int8(), "Int8"),
        (pa.int64(), "Int64"),
        (pa.uint32(), "UInt32"),
        (pa.bool_(), "boolean"),
    ],
)
def test_ints_and_bools_with_nulls_keep_their_type_in_pandas(
    arrow: pa.DataType, expected: str
) -> None:
    table = pa.table({"a": pa.array([1, None]).cast(arrow)})

    frame = to_frame(table, "pandas", "/run")

    assert str(frame["a"].dtype) == expected
    assert frame["a"].isna().tolist() == [False, True]


def test_ints_without_nulls_are_numpys() -> None:
    frame = to_frame(pa.table({"a": [1, 2]}), "pandas", "/run")

    assert frame["a"].dtype == np.int64


def test_big_ints_with_nulls_are_exact_in_pandas() -> None:
    frame = to_frame(pa.table({"a": [2**62 + 1, None]}), "pandas", "/run")

    assert frame["a"][0] == 2**62 + 1


def test_artifacts_in_a_frame_load_on_demand(tmp_path: Path) -> None:
    inline = artifact_struct(*dumps({"k": 1}))
    codec, data = dumps(np.arange(3))
    (tmp_path / "a.npy").write_bytes(data)
    filed = artifact_struct(codec, data, "a.npy")
    table = pa.table({"m": pa.array([inline, filed, None], ARTIFACT_TYPE)})

    frame = to_frame(table, "pandas", str(tmp_path))

    assert all(isinstance(found, Artifact) for found in frame["m"][:2])
    assert frame["m"][0].load() == {"k": 1}
    assert frame["m"][1].load().tolist() == [0, 1, 2]
    assert frame["m"][2] is None


def test_a_frame_can_be_pandas_polars_or_arrow() -> None:
    polars = pytest.importorskip("polars")
    table = pa.table({"a": [1, 2], "s.value": ["x", None]})

    assert to_frame(table, "arrow", "/run") is table
    assert isinstance(to_frame(table, "pandas", "/run"), pd.DataFrame)
    assert to_frame(table, "polars", "/run").equals(polars.from_arrow(table))


def test_columns_are_in_the_order_of_the_stages(tmp_path: Path) -> None:
    files = write_run(tmp_path, rows=2)
    manifest = {**files.manifest(), "stages": [{"name": "first"}, {"name": "second"}]}
    files.path(files.RUN).write_text(json.dumps(manifest))
    # As where the first stage is skipped in the first row.
    write_part(files, results([0], second__value=[1]))
    write_part(files, results([1], first__value=[1], second__value=[2]), seq=1)

    names = collect_rows(RunFiles.at(files.directory), 2).column_names

    assert [name for name in names if "." in name] == ["first.value", "second.value"]
