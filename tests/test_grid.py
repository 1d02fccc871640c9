"""What a grid promises: the rows asked for, in plain Arrow, and errors that name the column."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import pickle
import random
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowdist.errors import GridError
from flowdist.grid import Grid, combine_grids, lhs_grid, param_grid, read_grid

NAN = float("nan")


def rows(grid: Grid) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in grid.table.columns), strict=True))


def refusal(make: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(GridError) as caught:
        make(*args, **kwargs)
    return str(caught.value)


# One type per column; any mixture of them over the columns.
columns_of_values = st.dictionaries(
    st.sampled_from("abcde"),
    st.one_of(
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4),
        st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4),
        st.lists(st.none() | st.booleans(), min_size=1, max_size=4),
        st.lists(st.floats(allow_nan=False), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=4,
)


class TestParamGrid:
    @given(columns_of_values)
    def test_is_the_product_in_the_order_of_itertools(self, columns: dict[str, list[Any]]) -> None:
        assert rows(param_grid(**columns)) == list(itertools.product(*columns.values()))

    @given(columns_of_values, st.data())
    def test_where_keeps_what_a_filter_of_the_product_keeps(
        self, columns: dict[str, list[Any]], data: st.DataObject
    ) -> None:
        names = list(columns)
        asked = data.draw(st.sets(st.sampled_from(names), min_size=1).map(sorted))
        salt = data.draw(st.integers(0, 9))

        def keep(values: dict[str, Any]) -> bool:
            return random.Random(repr((salt, [values[name] for name in asked]))).random() < 0.5

        where = eval(f"lambda {', '.join(asked)}: keep(locals())", {"keep": keep})
        product = itertools.product(*columns.values())
        expected = [row for row in product if keep(dict(zip(names, row, strict=True)))]
        assert rows(param_grid(where, **columns)) == expected

    @pytest.mark.parametrize(
        "values",
        [
            range(3),
            [0, 1, 2],
            (n for n in range(3)),
            np.arange(3),
            pd.Series([0, 1, 2], index=[7, 7, 7]),
            pd.Index([0, 1, 2]),
            pl.Series([0, 1, 2]),
            pa.array([0, 1, 2]),
            pa.chunked_array([[0], [1, 2]]),
            {0: "a", 1: "b", 2: "c"}.keys(),
        ],
        ids=lambda values: type(values).__name__,
    )
    def test_takes_every_usual_kind_of_column(self, values: Any) -> None:
        assert param_grid(a=values) == Grid(pa.table({"a": [0, 1, 2]}))

    @pytest.mark.parametrize(
        "value",
        ["text", b"bytes", 1, 0.5, None, True, {"k": 1}, np.float64(2), np.array(3)],
        ids=repr,
    )
    def test_a_scalar_is_a_column_of_one(self, value: Any) -> None:
        assert rows(param_grid(a=value, b=[1, 2])) == [(value, 1), (value, 2)]

    @pytest.mark.parametrize(
        "values",
        [
            pl.Series(["x", "y"]),
            pl.Series(["x", "y"], dtype=pl.Categorical),
            pd.Series(["x", "y"]),
            pd.Categorical(["x", "y"]),
            np.array(["x", "y"]),
            pa.array(["x", "y"], pa.large_string()),
        ],
        ids=lambda values: str(getattr(values, "dtype", type(values))),
    )
    def test_texts_are_plain_strings_however_they_were_held(self, values: Any) -> None:
        assert param_grid(a=values) == param_grid(a=["x", "y"])

    def test_values_may_be_lists(self) -> None:
        assert rows(param_grid(a=[[1, 2], [3]])) == [([1, 2],), ([3],)]

    def test_where_is_called_once_per_combination_of_the_columns_it_names(self) -> None:
        calls = []
        param_grid(lambda b: calls.append(b) or True, a=range(1000), b=[1, 2, 3], c=range(10))
        assert calls == [1, 2, 3]

    def test_where_may_have_defaults_and_may_take_whole_rows(self) -> None:
        assert len(param_grid(lambda a, limit=2: a < limit, a=range(9))) == 2
        assert rows(param_grid(lambda **row: row["a"] == row["b"], a=[1, 2], b=[2, 3])) == [(2, 2)]

    def test_where_may_be_an_arrow_expression(self) -> None:
        assert rows(param_grid(pc.field("a") < pc.field("b"), a=[1, 2], b=[1, 2])) == [(1, 2)]

    def test_where_may_leave_nothing(self) -> None:
        assert len(param_grid(lambda a: False, a=[1, 2])) == 0

    @pytest.mark.parametrize(
        ("where", "message"),
        [
            (lambda sesion: True, "where: 'sesion' is no column; did you mean 'session'?"),
            (lambda session: 1 / session, "where(session=0) raised ZeroDivisionError"),
            (pc.field("sesion") > 1, "does not fit the columns session"),
            ([1, 2], "where=[1, 2] (list): give a function"),
            (max, "where=<built-in function max>"),
        ],
    )
    def test_a_where_that_cannot_be_says_why(self, where: Any, message: str) -> None:
        assert message in refusal(param_grid, where, session=[0, 1])

    def test_a_million_rows_are_no_python_objects(self) -> None:
        columns = {"a": range(1000), "b": [f"s{n}" for n in range(100)], "c": np.linspace(0, 1, 10)}
        param_grid(**columns)
        before = sys.getallocatedblocks()
        grid = param_grid(**columns)
        assert len(grid) == 1_000_000
        assert sys.getallocatedblocks() - before < 1000
        assert all(column.num_chunks == 1 for column in grid.table.columns)

    def test_more_rows_than_can_be_meant(self) -> None:
        message = refusal(param_grid, a=range(10**6), b=range(10**6))
        assert "a 1,000,000 x b 1,000,000 makes 1,000,000,000,000 combinations" in message

    @pytest.mark.parametrize("values", [[], range(0), np.array([]), pd.Series([], dtype=float)])
    def test_an_empty_column_is_named(self, values: Any) -> None:
        assert "column 'b' is empty" in refusal(param_grid, a=[1], b=values)

    def test_no_column_at_all(self) -> None:
        assert "needs a column" in refusal(param_grid)


class Name(NamedTuple):
    a: int
    b: str


@dataclasses.dataclass
class Point:
    a: int
    b: str


TWO_ROWS = Grid(pa.table({"a": [1, 2], "b": ["x", "y"]}))


class TestGridOf:
    @pytest.mark.parametrize(
        "obj",
        [
            TWO_ROWS,
            TWO_ROWS.table,
            TWO_ROWS.table.to_batches()[0],
            pa.concat_tables([TWO_ROWS.table.slice(0, 1), TWO_ROWS.table.slice(1)]),
            pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}, index=["p", "q"]),
            pd.DataFrame({"a": [1, 2], "b": pd.Categorical(["x", "y"])}),
            pl.DataFrame({"a": [1, 2], "b": ["x", "y"]}),
            pl.DataFrame(
                {"a": [1, 2], "b": ["x", "y"]}, schema={"a": pl.Int64, "b": pl.Categorical}
            ),
            {"a": [1, 2], "b": np.array(["x", "y"])},
            {"a": range(1, 3), "b": pd.Series(["x", "y"])},
            [{"a": 1, "b": "x"}, {"b": "y", "a": 2}],
            [Point(1, "x"), Point(2, "y")],
            (Name(1, "x"), Name(2, "y")),
        ],
        ids=lambda obj: type(obj).__name__,
    )
    def test_equal_rows_make_equal_grids_wherever_they_come_from(self, obj: Any) -> None:
        assert Grid.of(obj) == TWO_ROWS

    def test_nested_columns_are_plain_too(self) -> None:
        nested = {"a": [["x"], []], "b": [{"k": "x"}, {"k": None}]}
        assert Grid.of(pl.DataFrame(nested)) == Grid.of(nested)

    def test_an_absent_key_is_a_null(self) -> None:
        assert rows(Grid.of([{"a": 1}, {"b": 2}])) == [(1, None), (None, 2)]

    @pytest.mark.parametrize("obj", [[], {}, {"a": []}, pd.DataFrame({"a": []})])
    def test_no_rows_are_allowed(self, obj: Any) -> None:
        assert len(Grid.of(obj)) == 0

    @pytest.mark.parametrize("make", [np.array, pd.Series], ids=["numpy", "pandas"])
    def test_a_later_change_of_the_source_does_not_reach_the_grid(self, make: Any) -> None:
        source = make([1.0, 2.0])
        grid, product = Grid.of({"a": source}), param_grid(a=source)
        source[0] = 9.0
        assert rows(grid) == rows(product) == [(1.0,), (2.0,)]

    def test_unequal_lengths_are_named(self) -> None:
        message = refusal(Grid.of, {"a": [1, 2, 3], "b": [1, 2]})
        assert message.startswith("column 'b' has 2 values, column 'a' has 3;")

    @pytest.mark.parametrize(
        "obj",
        [
            pa.table([[1], [2]], names=["a", "a"]),
            pd.DataFrame([[1, 2]], columns=["a", "a"]),
        ],
        ids=["arrow", "pandas"],
    )
    def test_a_name_that_is_there_twice(self, obj: Any) -> None:
        assert "column 'a' is there twice" in refusal(Grid.of, obj)

    @pytest.mark.parametrize(
        ("name", "way_out"),
        [("my col", "my_col"), ("2nd", "x2nd"), ("class", "class_"), ("_row", "row"), (" b", "b")],
    )
    def test_a_name_that_cannot_be_a_parameter(self, name: str, way_out: str) -> None:
        for make in (Grid.of, lambda table: Grid(pa.table(table))):
            message = refusal(make, {name: [1]})
            assert message.startswith(f"column '{name}'")
            assert f"'{way_out}'" in message

    def test_a_name_that_is_no_text(self) -> None:
        assert refusal(Grid.of, pd.DataFrame([[1, 2]])).startswith("column 0: a name is a str")

    @pytest.mark.parametrize(
        ("obj", "message"),
        [
            (7, "cannot make a grid of 7 (int)"),
            ("grid.csv", "read_grid(path) reads a file"),
            (Path("grid.csv"), "read_grid(path) reads a file"),
            ([1, 2], "row 0 is 1 (int)"),
            ([{"a": 1}, Point], "row 1 is <class"),
        ],
    )
    def test_what_is_no_table(self, obj: Any, message: str) -> None:
        assert message in refusal(Grid.of, obj)


class TestValues:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ([1, object()], "column 'a', value 1: Arrow cannot hold <object object"),
            ([1, 2**70], "column 'a', value 1: Arrow cannot hold 1180591620717411303424 (int)"),
            ([1j], "column 'a', value 0: Arrow cannot hold 1j (complex)"),
            (["\ud800"], "column 'a', value 0: Arrow cannot hold"),
            (np.array([1j]), "column 'a', value 0: Arrow cannot hold"),
            ([0.5, 2**60 + 1], "column 'a': no Arrow type holds its values together"),
            ({1, 2}, "column 'a' is a set"),
            (np.ones((2, 3)), "column 'a' has the shape (2, 3)"),
            (pd.DataFrame({"x": [1]}), "column 'a' has the shape (1, 1)"),
        ],
    )
    def test_what_arrow_cannot_hold_is_named(self, values: Any, message: str) -> None:
        assert message in refusal(param_grid, a=values)

    @pytest.mark.parametrize(
        ("values", "kinds"),
        [
            ([1, "x"], "number and str"),
            ([1.5, True], "bool and number"),
            (["x", b"x"], "bytes and str"),
            ([datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1, 12)], "date and datetime"),
            ([datetime.date(2020, 1, 1), 3], "date and number"),
            (np.array(["x", b"x"], dtype=object), "bytes and str"),
            (pd.Series([1.5, True, None], dtype=object), "bool and number"),
        ],
    )
    def test_mixtures_are_refused_even_where_arrow_would_convert(
        self, values: Any, kinds: str
    ) -> None:
        assert f"column 'a' mixes {kinds}" in refusal(param_grid, a=values)

    @pytest.mark.parametrize(
        "values",
        [
            [1, None, 2.5],
            [np.int8(1), 2],
            [None, None],
            [datetime.date(2020, 1, 1), None],
            [datetime.timedelta(seconds=1)],
            [uuid.UUID(int=1)],
            [[1], (2, 3)],
            [{"k": 1}, {"l": "x"}],
        ],
    )
    def test_what_belongs_together_goes_together(self, values: list[Any]) -> None:
        assert len(param_grid(a=values)) == len(values)

    def test_encodings_that_arrow_cannot_undo_are_named(self) -> None:
        encoded = pa.RunEndEncodedArray.from_arrays([2, 3], ["x", "y"])
        assert "column 'a': cast it to string yourself" in refusal(Grid.of, {"a": encoded})

    def test_periods_of_pandas_would_become_bare_numbers(self) -> None:
        frame = pd.DataFrame({"a": pd.period_range("2020", periods=2, freq="M")})
        assert "column 'a' is of the type extension<pandas.period" in refusal(Grid.of, frame)

    def test_nan_stays_nan_and_is_no_null(self) -> None:
        column = param_grid(a=[NAN, None])["a"]
        assert column.null_count == 1
        assert np.isnan(column[0].as_py())


class TestGrid:
    def test_a_column_by_name(self) -> None:
        assert TWO_ROWS["b"].to_pylist() == ["x", "y"]
        assert TWO_ROWS.names == ("a", "b")

    def test_an_unknown_column_is_answered_with_the_nearest(self) -> None:
        message = refusal(lambda: param_grid(subject="s01")["subjekt"])
        assert (
            message
            == "the grid has no column 'subjekt'; did you mean 'subject'? (columns: subject)"
        )

    def test_is_immutable_and_neither_iterable_nor_hashable(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            TWO_ROWS.table = pa.table({})  # type: ignore[misc]
        with pytest.raises(TypeError):
            iter(TWO_ROWS)
        with pytest.raises(TypeError):
            hash(TWO_ROWS)

    def test_equality_is_of_names_types_rows_and_order(self) -> None:
        assert param_grid(a=[1, 2]) == param_grid(a=[1, 2])
        assert param_grid(a=[1, 2]) != param_grid(a=[2, 1])
        assert param_grid(a=[1, 2]) != param_grid(a=[1.0, 2.0])
        assert param_grid(a=[1, 2]) != param_grid(b=[1, 2])
        assert param_grid(a=[1, 2]) != param_grid(a=[1, 2], b=1)
        assert param_grid(a=[1, 2]) != "a grid"

    def test_nan_equals_nan_and_nothing_else(self) -> None:
        assert param_grid(a=[NAN, 1.0]) == param_grid(a=[NAN, 1.0])
        assert param_grid(a=[NAN, 1.0]) != param_grid(a=[NAN, 2.0])
        assert param_grid(a=[NAN, 1.0]) != param_grid(a=[0.0, 1.0])
        assert param_grid(a=[NAN, 1.0]) != param_grid(a=[None, 1.0])
        assert param_grid(a=[NAN, 1.0]) != param_grid(a=[NAN, 1.0, 1.0])

    def test_head(self) -> None:
        grid = param_grid(a=range(10))
        assert rows(grid.head(2)) == [(0,), (1,)]
        assert len(grid.head()) == 5
        assert len(grid.head(99)) == 10
        assert len(grid.head(-1)) == 9

    def test_a_pickled_head_leaves_the_other_rows_behind(self) -> None:
        assert len(pickle.dumps(param_grid(a=range(100_000)).head())) < 5000

    @pytest.mark.parametrize("make", [pickle.loads, lambda data: pickle.loads(data).table])
    def test_survives_pickling(self, make: Any) -> None:
        assert Grid.of(make(pickle.dumps(TWO_ROWS))) == TWO_ROWS

    def test_goes_to_pandas_and_polars(self) -> None:
        pd.testing.assert_frame_equal(
            TWO_ROWS.to_pandas(), pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
        )
        assert pl.DataFrame(TWO_ROWS).rows() == [(1, "x"), (2, "y")]

    def test_metadata_of_the_source_is_left_behind(self) -> None:
        field = pa.field("a", pa.int64(), nullable=False, metadata={"unit": "s"})
        table = pa.table({"a": [1]}, schema=pa.schema([field], metadata={"by": "me"}))
        schema = Grid(table).table.schema
        assert schema.equals(pa.schema([("a", pa.int64())]), check_metadata=True)

    def test_repr_shows_size_types_and_first_rows(self) -> None:
        grid = param_grid(n=range(1000), text="a text that is too long for a cell of the table")
        assert repr(grid).splitlines() == [
            "Grid: 1,000 rows x 2 columns",
            "  n      text",
            "  int64  string",
            *(f"  {n}      a text that is too lo..." for n in range(5)),
            "  ... 995 more rows",
        ]

    def test_repr_names_the_columns_that_do_not_fit(self) -> None:
        wide = Grid.of({f"c{n}": [n] for n in range(10)})
        assert repr(wide).endswith("\n  ... and columns c8, c9")
        assert repr(Grid.of([])) == "Grid: 0 rows x 0 columns"


class TestLhsGrid:
    @given(st.integers(1, 200), st.integers(0, 2**32))
    def test_every_slice_of_every_range_has_one_point(self, n: int, seed: int) -> None:
        grid = lhs_grid(n, seed, a=(-1.0, 1.0), b=(0, n - 1))
        slices = np.floor((grid["a"].to_numpy() + 1) / 2 * n).astype(int)
        assert sorted(slices) == pytest.approx(range(n), abs=1)  # a point may round over an edge
        assert sorted(grid["b"].to_pylist()) == list(range(n))

    @given(
        st.integers(1, 50),
        st.tuples(st.integers(-(2**52), 2**52), st.integers(-(2**52), 2**52)).map(sorted),
    )
    def test_whole_numbers_stay_whole_and_inside(self, n: int, bounds: list[int]) -> None:
        column = lhs_grid(n, a=tuple(bounds))["a"]
        assert column.type == pa.int64()
        assert all(bounds[0] <= value <= bounds[1] for value in column.to_pylist())

    def test_the_seed_decides(self) -> None:
        assert lhs_grid(10, seed=1, a=(0, 1.0)) == lhs_grid(10, seed=1, a=(0, 1.0))
        assert lhs_grid(10, seed=1, a=(0, 1.0)) != lhs_grid(10, seed=2, a=(0, 1.0))

    @pytest.mark.parametrize(
        "bounds",
        [(1, 0), (0.0, NAN), (0.0, float("inf")), (0, 2**60), (True, 2), ("a", "b"), 5, (1, 2, 3)],
        ids=repr,
    )
    def test_what_is_no_range_is_named(self, bounds: Any) -> None:
        assert "column 'rate': a range is two finite numbers" in refusal(lhs_grid, 3, rate=bounds)

    def test_needs_points_and_ranges(self) -> None:
        assert "lhs_grid(n=0) with 1 range" in refusal(lhs_grid, 0, a=(0, 1))
        assert "with 0 ranges" in refusal(lhs_grid, 3)


class TestCombineGrids:
    def test_stacks_rows_and_fills_with_nulls(self) -> None:
        combined = combine_grids([{"a": 1, "b": "x"}], pd.DataFrame({"c": [0.5], "a": [2]}))
        assert combined.names == ("a", "b", "c")
        assert rows(combined) == [(1, "x", None), (2, None, 0.5)]

    def test_id_numbers_the_source(self) -> None:
        combined = combine_grids(param_grid(a=[1, 2]), param_grid(a=[3]), id="source")
        assert rows(combined) == [(0, 1), (0, 2), (1, 3)]

    def test_int_widens_to_float_and_null_to_anything(self) -> None:
        combined = combine_grids(param_grid(a=[1]), param_grid(a=[0.5]), param_grid(a=[None]))
        assert rows(combined) == [(1.0,), (0.5,), (None,)]

    @pytest.mark.parametrize(
        ("first", "second", "message"),
        [
            (1, "x", "column 'a' is int64 in grid 0, string in grid 1"),
            ("x", b"x", "column 'a' is string in grid 0, binary in grid 1"),
            (True, 1, "column 'a' is bool in grid 0, int64 in grid 1"),
            (2**60 + 1, 0.5, "column 'a' is int64 in grid 0, double in grid 1"),
        ],
    )
    def test_types_that_would_change_values_are_named(
        self, first: Any, second: Any, message: str
    ) -> None:
        assert message in refusal(combine_grids, param_grid(a=first), param_grid(a=second))

    @pytest.mark.parametrize(
        ("id", "message"), [("a", "id='a': a grid has"), ("my id", "column 'my id'")]
    )
    def test_the_id_must_be_a_new_good_name(self, id: str, message: str) -> None:
        assert message in refusal(combine_grids, param_grid(a=1), id=id)

    def test_needs_a_grid(self) -> None:
        assert "at least one grid" in refusal(combine_grids)


class TestReadGrid:
    @pytest.mark.parametrize("ending", [".csv", ".CSV", ".parquet", ".arrow", ".feather"])
    def test_reads_what_pandas_and_arrow_write(self, tmp_path: Path, ending: str) -> None:
        path = tmp_path / f"grid{ending}"
        match ending.lower():
            case ".csv":
                TWO_ROWS.to_pandas().to_csv(path, index=False)
            case ".parquet":
                TWO_ROWS.to_pandas().to_parquet(path)
            case ".arrow":
                with pa.ipc.new_file(str(path), TWO_ROWS.table.schema) as file:
                    file.write(TWO_ROWS.table)
            case ".feather":
                TWO_ROWS.to_pandas().to_feather(path)
        assert read_grid(path) == read_grid(str(path)) == TWO_ROWS

    def test_a_folder_named_like_a_partition_adds_no_column(self, tmp_path: Path) -> None:
        folder = tmp_path / "year=2020"
        folder.mkdir()
        pa.parquet.write_table(TWO_ROWS.table, folder / "grid.parquet")
        assert read_grid(folder / "grid.parquet") == TWO_ROWS

    def test_a_missing_file_is_answered_with_the_nearest(self, tmp_path: Path) -> None:
        (tmp_path / "subjects.csv").write_text("a\n1\n")
        assert "did you mean 'subjects.csv'?" in refusal(read_grid, tmp_path / "subject.csv")

    def test_an_ending_it_does_not_know(self, tmp_path: Path) -> None:
        message = refusal(read_grid, tmp_path / "grid.xlsx")
        assert "a grid is read from .csv, .parquet, .arrow, .feather, not '.xlsx'" in message

    @pytest.mark.parametrize("ending", [".csv", ".parquet", ".arrow"])
    def test_an_unreadable_file_is_named(self, tmp_path: Path, ending: str) -> None:
        path = tmp_path / f"grid{ending}"
        path.write_bytes(b"")
        assert refusal(read_grid, path).startswith(f"{path}: ")

    def test_a_bad_column_is_named_with_its_file(self, tmp_path: Path) -> None:
        path = tmp_path / "grid.csv"
        path.write_text("subject,my dose\ns01,1\n")
        message = refusal(read_grid, path)
        assert message.startswith(f"{path}: column 'my dose'")
        assert "'my_dose'" in message


def test_importing_the_module_imports_no_frame_library() -> None:
    heavy = "{'pandas', 'polars', 'pydantic', 'rich'}"
    code = f"import sys, flowdist.grid; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_an_index_with_a_name_is_not_lost_in_silence() -> None:
    means = pd.DataFrame({"site": ["a", "a"], "x": [1, 2]}).groupby("site").mean()

    assert "index 'site'" in refusal(Grid.of, means)
    assert "df.reset_index()" in refusal(Grid.of, means)
    assert Grid.of(means.reset_index()).names == ("site", "x")


def test_grids_in_a_list_are_to_be_unpacked() -> None:
    said = refusal(combine_grids, [param_grid(a=1), param_grid(a=2)])

    assert said == (
        "combine_grids takes the grids one by one, not as a list; write combine_grids(*grids)"
    )


def test_a_where_that_forgets_its_return_is_told_so() -> None:
    said = refusal(param_grid, lambda a: None, a=[1, 2])

    assert said == "where(a=1) returned None; return True or False"


def test_a_number_of_points_is_whole() -> None:
    assert "lhs_grid(n=2.5)" in refusal(lhs_grid, 2.5, a=(0, 1))
