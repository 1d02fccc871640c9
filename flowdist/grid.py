"""The parameter table: making it and reading it.

A grid is an Arrow table whose column names can be parameters of a Python function. Wherever the
rows come from, they end up in the same plain types (no dictionaries, no large or view strings):
equal rows make equal grids, and nothing downstream meets an encoding. There is never a Python
object per row.

How one column gets into Arrow is left to ``columns``. What a flow needs of a grid (rows to run,
columns its stages take) is the business of ``flow`` and ``preflight``; a grid without rows is fine.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowdist.columns import (
    ARROW_REFUSALS,
    as_values,
    check_names,
    clip,
    column_of,
    count,
    describe,
    is_pandas,
    plain_column,
    table_of_columns,
    table_of_rows,
)
from flowdist.errors import GridError, nearest

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["Grid", "combine_grids", "lhs_grid", "param_grid", "read_grid"]

# A product beyond this is a slip (two long ranges where one was meant): its indices alone take
# 17 GB a column. Saying so beats an out-of-memory kill.
MAX_ROWS = 2**31 - 1

# A range of whole numbers lies within +-2**52, so that its width is exact in float64.
MAX_WHOLE = 2**52


@dataclasses.dataclass(frozen=True, slots=True, eq=False, repr=False)
class Grid:
    """An immutable table of parameters, one row per run of the flow.

    ``table`` is the Arrow table; it is normalised on the way in. Most grids come from `param_grid`,
    `read_grid` or `Grid.of`.

    Raises `GridError` for a column name that is there twice or cannot be a parameter.

    >>> Grid.of([{"subject": "s01", "dose": 0.5}, {"subject": "s02", "dose": 1.0}])
    Grid: 2 rows x 2 columns
      subject  dose
      string   double
      s01      0.5
      s02      1.0
    """

    table: pa.Table

    def __post_init__(self) -> None:
        check_names(self.table.column_names)
        columns = list(map(plain_column, self.table.column_names, self.table.columns))
        # Names and arrays only: metadata and not-null flags belong to where they come from.
        table = pa.Table.from_arrays(columns, names=self.table.column_names)
        object.__setattr__(self, "table", table.combine_chunks())

    @classmethod
    def of(cls, obj: Any) -> Grid:
        """Make a grid of a table in any of its usual shapes.

        ``obj``: a Grid; an Arrow table or record batch; a pandas DataFrame (an index without a name
        is dropped), a polars one, or whatever else speaks the Arrow PyCapsule protocol; a dict of
        equally long columns; a list of dicts, NamedTuples or dataclass instances, where an absent
        key is a null.

        Raises `GridError`, which names the column, for unequal lengths, names that are no
        identifiers, and values Arrow cannot hold.

        >>> by_column = Grid.of({"a": [1, 2], "b": ["x", "y"]})
        >>> by_column == Grid.of([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}])
        True
        """
        if isinstance(obj, Grid):
            return obj
        if is_pandas(obj, "DataFrame"):  # not through Arrow's protocol: that keeps the index
            named = [name for name in obj.index.names if name is not None]
            if named:
                raise GridError(
                    f"the frame has the index {named[0]!r}, and a grid has columns only; "
                    "df.reset_index() makes a column of it, df.reset_index(drop=True) drops it"
                )
            return cls(table_of_columns(obj.items()))
        if hasattr(obj, "__arrow_c_stream__") or hasattr(obj, "__arrow_c_array__"):
            return cls(pa.table(obj))
        if isinstance(obj, Mapping):
            columns = ((name, as_values(column)) for name, column in obj.items())
            return cls(table_of_columns(columns))
        if isinstance(obj, Sequence) and not isinstance(obj, str | bytes):
            return cls(table_of_rows(obj))
        way_out = "give a table, a DataFrame, a list of dicts or a dict of columns"
        if isinstance(obj, str | os.PathLike):
            way_out = "read_grid(path) reads a file"
        raise GridError(f"cannot make a grid of {describe(obj)}; {way_out}")

    @property
    def names(self) -> tuple[str, ...]:
        """The column names, in order."""
        return tuple(self.table.column_names)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        if name not in self.names:
            raise GridError(f"the grid has no column {name!r}{_instead(name, self.names)}")
        return self.table[name]

    # Rows or columns? Python's fallback through __getitem__ would guess; refusing is clearer.
    __iter__ = None

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)

    def head(self, n: int = 5) -> Grid:
        """The first ``n`` rows; a negative ``n`` leaves out that many at the end.

        >>> len(param_grid(a=range(10)).head(3))
        3
        """
        # A copy, not a slice: pickling an Arrow slice carries all the rows it was cut from.
        return Grid(self.table.take(np.arange(len(self))[:n]))

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame.

        >>> param_grid(a=[1, 2]).to_pandas()["a"].tolist()
        [1, 2]
        """
        frame: pd.DataFrame = self.table.to_pandas()
        return frame

    def __eq__(self, other: object) -> bool:
        """Same columns, types and rows in the same order; NaN equals NaN."""
        if not isinstance(other, Grid):
            return NotImplemented
        return bool(self.table.schema.equals(other.table.schema)) and all(
            map(_same, self.table.columns, other.table.columns)
        )

    def __repr__(self) -> str:
        rows, columns, widest = 5, 8, 24
        shown = self.table.select(self.names[:columns]).slice(0, rows)
        padded = []
        for name, column in zip(shown.column_names, shown.columns, strict=True):
            cells = [clip(str(cell), widest) for cell in (name, column.type, *column.to_pylist())]
            padded.append([cell.ljust(max(map(len, cells))) for cell in cells])
        lines = [f"Grid: {count(len(self), 'row')} x {count(len(self.names), 'column')}"]
        lines += ["  " + "  ".join(line).rstrip() for line in zip(*padded, strict=True)]
        if len(self) > rows:
            lines.append(f"  ... {count(len(self) - rows, 'more row')}")
        if len(self.names) > columns:
            lines.append(f"  ... and columns {', '.join(self.names[columns:])}")
        return "\n".join(lines)


def param_grid(where: Callable[..., object] | pc.Expression | None = None, **columns: Any) -> Grid:
    """Every combination of the columns' values; the last column varies fastest.

    ``columns``: lists, ranges, numpy arrays, pandas, polars or Arrow columns; a single value (a
    text too) counts as a column of one. ``where`` keeps some of the rows: a function whose
    parameters are names of columns, called once per combination of those columns, so its answer
    must depend on nothing else; or a ``pyarrow.compute`` expression.

    Raises `GridError`, which names the column, for an empty column, values Arrow cannot hold, names
    that are no identifiers, over 2**31 - 1 combinations, and a ``where`` that fails.

    >>> param_grid(subject=["s01", "s02"], session=range(1, 3), condition="A")
    Grid: 4 rows x 3 columns
      subject  session  condition
      string   int64    string
      s01      1        A
      s01      2        A
      s02      1        A
      s02      2        A
    >>> len(param_grid(lambda low, high: low < high, low=range(10), high=range(10)))
    45
    """
    if not columns:
        raise GridError("param_grid needs a column, e.g. param_grid(subject=['s01', 's02'])")
    check_names(columns)
    values = {name: column_of(name, as_values(column)) for name, column in columns.items()}
    for name, column in values.items():
        if not len(column):
            raise GridError(f"column '{name}' is empty, so nothing combines; give it a value")
    shape = tuple(map(len, values.values()))
    size = math.prod(shape)
    if size > MAX_ROWS:
        factors = " x ".join(f"{name} {n:,}" for name, n in zip(values, shape, strict=True))
        raise GridError(
            f"{factors} makes {size:,} combinations, more than {MAX_ROWS:,}; "
            "Grid.of puts columns side by side, lhs_grid samples ranges"
        )
    if where is None or isinstance(where, pc.Expression):
        rows = np.arange(size)
    else:
        rows = np.flatnonzero(np.broadcast_to(_where_mask(where, values), shape))
    picks = zip(values.items(), np.unravel_index(rows, shape), strict=True)
    table = pa.table({name: column.take(pick) for (name, column), pick in picks})
    if isinstance(where, pc.Expression):
        try:
            table = table.filter(where)
        except ARROW_REFUSALS as error:
            names = ", ".join(values)
            raise GridError(f"where={where} does not fit the columns {names}: {error}") from error
    return Grid(table)


def lhs_grid(n: int, seed: int = 0, **ranges: tuple[float, float]) -> Grid:
    """A Latin hypercube: ``n`` points, one in each of the ``n`` equal slices of every range.

    ``ranges``: ``name=(low, high)``. Two ints give whole numbers from low to high, both included;
    otherwise floats. The same ``n``, ``seed`` and ranges give the same grid. Method: McKay, Beckman
    and Conover, Technometrics 21 (1979), 239-245.

    Raises `GridError`, which names the column, for a range that is no pair of numbers in order.

    >>> grid = lhs_grid(4, seed=1, rate=(0.0, 1.0), layers=(1, 4))
    >>> sorted(grid["layers"].to_pylist())
    [1, 2, 3, 4]
    """
    if not isinstance(n, int | np.integer) or n < 1 or not ranges:
        raise GridError(
            f"lhs_grid(n={n!r}) with {count(len(ranges), 'range')}: "
            "give at least one point (an int) and one range, e.g. lhs_grid(100, rate=(0.0, 1.0))"
        )
    rng = np.random.default_rng(seed)
    points = (
        (name, _spread(name, (rng.permutation(n) + rng.random(n)) / n, bounds))
        for name, bounds in ranges.items()
    )
    return Grid(table_of_columns(points))


def combine_grids(*grids: Any, id: str | None = None) -> Grid:
    """The rows of several grids (or whatever `Grid.of` accepts), one below the other.

    A column that a grid lacks is null in its rows. Types widen where no value changes (int to
    float, null to anything). ``id`` names a new first column: 0 in the rows of the first grid,
    1 in those of the second ...

    Raises `GridError`, which names the column, where no type holds both or ``id`` is taken.

    >>> combine_grids(param_grid(step=[1, 2]), param_grid(step=0.5, tol=1e-6), id="level")
    Grid: 3 rows x 3 columns
      level  step    tol
      int64  double  double
      0      1.0     None
      0      2.0     None
      1      0.5     1e-06
    """
    if not grids:
        raise GridError("combine_grids needs at least one grid")
    for grid in grids:
        if isinstance(grid, list | tuple) and any(isinstance(one, Grid) for one in grid):
            raise GridError(
                f"combine_grids takes the grids one by one, not as a {type(grid).__name__}; "
                "write combine_grids(*grids)"
            )
    parts = [Grid.of(grid) for grid in grids]
    names = dict.fromkeys(name for part in parts for name in part.names)
    columns = {name: _stack(name, parts) for name in names}
    if id is None:
        return Grid(pa.table(columns))
    if id in columns:
        raise GridError(f"id='{id}': a grid has a column of that name already; choose another")
    source = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return Grid(pa.table({id: source, **columns}))


def read_grid(path: str | os.PathLike[str]) -> Grid:
    """Read a grid from a .csv, .parquet, .arrow or .feather file.

    The first line of a CSV has the names; Arrow infers the types, so "007" becomes the number 7.

    Raises `GridError`, which names the file, for one that is missing, unreadable or of another
    kind, and for column names that are no identifiers.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "grid.csv")
    >>> _ = path.write_text("subject,dose\\ns01,0.5\\n")
    >>> read_grid(path) == param_grid(subject="s01", dose=0.5)
    True
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise GridError(f"{path}: a grid is read from {', '.join(READERS)}, not '{path.suffix}'")
    if not path.is_file():
        folder = path.parent.absolute()
        there = [file.name for file in folder.glob("*")]
        raise GridError(f"{path}: no such file in {folder}{nearest(path.name, there)}")
    try:
        return Grid(reader(path))
    except (pa.ArrowException, OSError, GridError) as error:
        raise GridError(f"{path}: {error}") from error


def _read_csv(path: Path) -> pa.Table:
    from pyarrow import csv

    return csv.read_csv(path)


def _read_parquet(path: Path) -> pa.Table:
    from pyarrow import parquet

    # This one file: parquet.read_table would make a column of a folder named key=value.
    with parquet.ParquetFile(path) as file:
        return file.read()


def _read_arrow(path: Path) -> pa.Table:
    # Read, not mapped: a grid must not change, or crash, when the file does.
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".feather": _read_arrow,
}


def _stack(name: str, parts: list[Grid]) -> pa.ChunkedArray:
    pieces = [p[name] if name in p.names else pa.chunked_array([pa.nulls(len(p))]) for p in parts]
    types = [piece.type for piece in pieces]
    try:
        schemas = [pa.schema([(name, t)]) for t in types]
        common = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
        if pa.types.is_binary(common) and pa.string() in types:
            raise TypeError("Arrow would take text as bytes")
        chunks = [chunk for piece in pieces for chunk in piece.cast(common).chunks]
    except ARROW_REFUSALS as error:
        found = ", ".join(f"{t} in grid {k}" for k, t in enumerate(types) if t != pa.null())
        raise GridError(
            f"column '{name}' is {found}; no type holds all its values unchanged: "
            "convert it in one of the grids, or rename it"
        ) from error
    return pa.chunked_array(chunks, common)


# What the makers of grids compute.


def _where_mask(
    where: Callable[..., object], values: dict[str, pa.ChunkedArray]
) -> NDArray[np.bool_]:
    """Where the predicate holds, over the product of the columns it names; others are 1 long."""
    named = _where_names(where, values)
    lists = [values[name].to_pylist() for name in named]

    def holds(*combination: object) -> bool:
        row = dict(zip(named, combination, strict=True))
        call = ", ".join(f"{name}={value!r}" for name, value in row.items())
        try:
            answer = where(**row)
            if answer is not None:
                return bool(answer)
        except Exception as error:
            raise GridError(f"where({call}) raised {type(error).__name__}: {error}") from error
        raise GridError(f"where({call}) returned None; return True or False")

    mask = np.fromiter(itertools.starmap(holds, itertools.product(*lists)), dtype=np.bool_)
    return mask.reshape([len(column) if name in named else 1 for name, column in values.items()])


def _where_names(where: Callable[..., object], values: dict[str, pa.ChunkedArray]) -> list[str]:
    """The columns that the predicate's parameters name, in the grid's order."""
    try:
        parameters = inspect.signature(where).parameters
    except (TypeError, ValueError) as error:  # not callable; or a builtin that hides its parameters
        allowed = "a function whose parameters are columns, or a pyarrow.compute expression"
        raise GridError(f"where={describe(where)}: give {allowed}") from error
    takes_all = False
    for p in parameters.values():
        takes_all |= p.kind is p.VAR_KEYWORD
        optional = p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        if p.name not in values and not optional:
            raise GridError(f"where: '{p.name}' is no column{_instead(p.name, values)}")
    return [name for name in values if takes_all or name in parameters]


def _spread(name: str, unit: NDArray[np.float64], bounds: Any) -> NDArray[Any]:
    """Points of [0, 1) moved to a range, whole numbers to a range of whole numbers."""
    match bounds:
        case (bool(), _) | (_, bool()):
            pass
        case (int(low), int(high)):
            if -MAX_WHOLE <= low <= high <= MAX_WHOLE:
                # (n - 1 + 0.99...) / n may round to 1, which would be one past the end.
                steps = np.minimum(np.floor(unit * (high - low + 1)), high - low)
                return low + steps.astype(np.int64)
        case (int() | float() as low, int() | float() as high):
            if low <= high and math.isfinite(high - low):
                return low + unit * float(high - low)
    rule = "two finite numbers (low, high) with low <= high, ints within +-2**52"
    raise GridError(f"column '{name}': a range is {rule}, not {describe(bounds)}")


# Comparison and words.


def _same(a: pa.ChunkedArray, b: pa.ChunkedArray) -> bool:
    if a.equals(b):
        return True
    if not pa.types.is_floating(a.type):
        return False
    # To Arrow NaN differs from NaN: compare where they are, then the rest.
    nan_a, nan_b = pc.is_nan(a), pc.is_nan(b)
    return bool(nan_a.equals(nan_b) and pc.if_else(nan_a, 0, a).equals(pc.if_else(nan_b, 0, b)))


def _instead(name: object, columns: Iterable[str]) -> str:
    return f"{nearest(str(name), columns)} (columns: {', '.join(columns) or 'none'})"
