"""Reading what a run has produced: one row per grid row, whatever died on the way.

Parts are mapped, put in order without copying where they allow it, and joined with the grid. Rows
that appear more than once (after a resume, or from a worker that was thought dead) are taken once:
an ok result before a failed one, then the latest attempt.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowdist.artifacts import ARTIFACT_TYPE, Artifact
from flowdist.errors import TypeClash
from flowdist.parts import FAILED, MISSING, RECORD, STATUS, Clash, conform, unify
from flowdist.phases import reduce_phases, tables_of
from flowdist.states import combined, load_parts
from flowdist.store import RunFiles
from flowdist.tables import map_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

As = Literal["pandas", "polars", "arrow"]
Clashes = Literal["raise", "text"]
ERROR_COLUMNS = ("row", "stage", "type", "message", "kind", "attempts", "causes", "traceback")
# The columns of a row's record that `errors="keep"` shows.
KEPT = ("_status", "_error", "_attempts", "_seconds")


def read_results(
    files: RunFiles, rows: int, table: str = "rows", *, clashes: Clashes = "raise"
) -> pa.Table:
    """The record and outputs of every row, in grid order, shape (rows, ...); missing rows are null.

    Raises:
        TypeClash: an undeclared output has types in two rows that no column can hold together.
    """
    tables = tables_of(files.manifest(), table)
    found = [_read_table(files, rows, one, clashes) for one in tables]
    return found[0] if len(found) == 1 else _joined(found)


def _joined(phases: Sequence[pa.Table]) -> pa.Table:
    """The results of all phases, whose rows are the same: one record, the outputs of all."""
    states = [phase.column("_status").to_numpy() for phase in phases]
    records = [phase.select(["_attempts", "_seconds", "_error"]) for phase in phases]
    seconds = [pc.fill_null(r.column("_seconds"), 0.0) for r in records]
    joined = pa.table(
        {
            "_row": phases[0].column("_row"),
            "_status": pa.array(combined(states)),
            "_attempts": pc.max_element_wise(*(r.column("_attempts") for r in records)),
            "_seconds": functools.reduce(pc.add, seconds),
            "_error": functools.reduce(_both_errors, (r.column("_error") for r in records)),
        }
    )
    for phase in phases:
        for name in phase.column_names:
            if name not in RECORD:
                joined = joined.append_column(phase.schema.field(name), phase.column(name))
    return joined


def _both_errors(first: pa.ChunkedArray, second: pa.ChunkedArray) -> pa.ChunkedArray:
    """What is recorded of a row in two phases; where both say something, the second after the
    causes of the first.
    """
    first, second = first.cast(pa.string()), second.cast(pa.string())
    united = pc.coalesce(second, first)
    both = pc.and_(pc.is_valid(first), pc.is_valid(second))
    if not pc.any(both).as_py():
        return united
    said = united.to_pylist()
    for row in np.flatnonzero(both.to_numpy()):
        one, other = json.loads(first[row].as_py()), json.loads(second[row].as_py())
        said[row] = json.dumps({**other, "causes": [*one["causes"], *other["causes"]]})
    return pa.chunked_array([said], pa.string())


def _read_table(files: RunFiles, rows: int, table: str, clashes: Clashes) -> pa.Table:
    """The results of one phase; see `read_results`."""
    parts = load_parts(files, table)
    if not parts:
        record = pa.schema(
            [
                ("_row", pa.int64()),
                ("_status", pa.int8()),
                ("_attempts", pa.int16()),
                ("_seconds", pa.float64()),
                ("_error", pa.string()),
            ]
        )
        tables = [record.empty_table()]
    else:
        tables = united([part for _, part in parts], clashes)
    joined = pa.concat_tables(tables)
    numbers = joined.column("_row").to_numpy()
    if len(numbers) == rows and bool((numbers[1:] > numbers[:-1]).all()):
        return joined
    places = places_of(numbers, rows)
    if places is not None:
        del numbers
        return take_rows(joined, places)
    attempts = np.repeat([a for a, _ in parts], [part.num_rows for _, part in parts])
    reduces = [phase["table"] for phase in reduce_phases(files.manifest())]
    chosen = _choose(numbers, joined, attempts, rows, latest=table in reduces)
    taken = take_rows(joined, chosen)
    status = pc.fill_null(taken.column("_status"), pa.scalar(MISSING, pa.int8()))
    taken = taken.set_column(taken.schema.get_field_index("_status"), "_status", status)
    return taken.set_column(taken.schema.get_field_index("_row"), "_row", pa.array(np.arange(rows)))


def places_of(numbers: NDArray[np.int64], rows: int) -> NDArray[Any] | None:
    """For every row where it is in `numbers`; None unless each is there exactly once.

    >>> places_of(np.array([2, 0, 1]), 3).tolist()
    [1, 2, 0]
    """
    if len(numbers) != rows:
        return None
    # Half the memory, while the table is there twice.
    small = np.int32 if rows < 1 << 31 else np.int64
    places: NDArray[Any] = np.full(rows, -1, small)
    places[numbers] = np.arange(rows, dtype=small)
    return places if bool((places >= 0).all()) else None


def take_rows(table: pa.Table, places: NDArray[np.int64]) -> pa.Table:
    """The rows of a table at `places`, shape (rows,); null where that is negative.

    >>> take_rows(pa.table({"x": [5, 6, 7]}), np.array([2, -1, 0])).to_pydict()
    {'x': [7, None, 5]}
    """
    null = places < 0
    indices = pa.array(places, mask=null if null.any() else None)
    try:
        return table.take(indices)
    except pa.ArrowInvalid:
        # Arrow makes one array of a column first, and one array holds 2 GiB of text or bytes.
        arrays = [pa.chunked_array(_gathered(c, places), c.type) for c in table.columns]
        return pa.table(arrays, schema=table.schema)


def _gathered(column: pa.ChunkedArray, places: NDArray[np.int64]) -> list[pa.Array]:
    """The values at `places` (null where negative) in as many arrays as they need."""
    if not len(places):
        return []
    starts = np.cumsum([0, *(len(chunk) for chunk in column.chunks)])
    # Of -1 the chunk is -1 as well.
    chunk_of = np.searchsorted(starts, places, side="right") - 1
    order = np.argsort(chunk_of, kind="stable")
    chunks, first = np.unique(chunk_of[order], return_index=True)
    try:
        pieces = [
            pa.nulls(len(at), column.type)
            if chunk < 0
            else column.chunk(int(chunk)).take(pa.array(places[at] - starts[chunk]))
            for chunk, at in zip(chunks, np.split(order, first[1:]), strict=True)
        ]
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return [pa.concat_arrays(pieces).take(pa.array(back))]
    except pa.ArrowInvalid:
        if len(places) < 2:
            raise
        half = len(places) // 2
        return _gathered(column, places[:half]) + _gathered(column, places[half:])


def _choose(
    numbers: NDArray[np.int64],
    joined: pa.Table,
    attempts: NDArray[np.int64],
    rows: int,
    *,
    latest: bool,
) -> NDArray[np.int64]:
    """For every row the position of its result, -1 where it has none."""
    good = joined.column("_status").to_numpy() != FAILED
    if latest:
        # A reduce is computed anew after rows were: only its latest result is about all of them.
        good = np.zeros(len(numbers), bool)
    order = np.lexsort((np.arange(len(numbers)), attempts, good, numbers))
    chosen = np.full(rows, -1, np.int64)
    chosen[numbers[order]] = order  # of equal rows the last assignment, the best, stays
    return chosen


def united(tables: list[pa.Table], clashes: Clashes) -> list[pa.Table]:
    """The tables with one schema for all."""
    while True:
        schema = unify([t.schema for t in tables])
        if isinstance(schema, Clash):
            name = schema.field
            witnesses = [
                _first_of_type(tables, name, type_)
                for type_ in (schema.first_type, schema.second_type)
            ]
        else:
            try:
                return [conform(t, schema) for t in tables]
            except pa.ArrowInvalid:
                name, witnesses = _inexact(tables, schema)
        if clashes == "raise":
            raise _type_clash(name, *witnesses)
        tables = [_as_text(t, name) for t in tables]


# A row and the type of what it gave.
Witness = tuple[int, pa.DataType]


def _first_of_type(tables: Sequence[pa.Table], name: str, type_: pa.DataType) -> Witness:
    """The first row with a value among the tables whose column is of the type."""
    having = [
        t for t in tables if name in t.column_names and t.schema.field(name).type.equals(type_)
    ]
    # Nulls take the type of the rows beside them, and those may have been in a part that is gone.
    table = next((t for t in having if t.column(name).null_count < t.num_rows), having[0])
    index = pc.index(pc.is_valid(table.column(name)), True).as_py()
    return table.column("_row")[max(index, 0)].as_py(), type_


def _inexact(tables: Sequence[pa.Table], schema: pa.Schema) -> tuple[str, list[Witness]]:
    """The column, and a row of it with an int that the others' floats do not hold exactly."""
    for table in tables:
        for field in table.schema:
            column, wide = table.column(field.name), schema.field(field.name).type
            if _casts(column, wide):
                continue
            first, stop = 0, len(column)
            while stop - first > 1:
                middle = (first + stop) // 2
                if _casts(column.slice(first, middle - first), wide):
                    first = middle
                else:
                    stop = middle
            other = next(
                found
                for t in tables
                if field.name in t.column_names
                and (found := t.schema.field(field.name).type) not in (field.type, pa.null())
            )
            row = table.column("_row")[first].as_py()
            return field.name, [(row, field.type), _first_of_type(tables, field.name, other)]
    raise AssertionError("every column can be cast")


def _casts(column: pa.ChunkedArray, type_: pa.DataType) -> bool:
    try:
        column.cast(type_)
    except pa.ArrowInvalid:
        return False
    return True


def _type_clash(column: str, one: Witness, other: Witness) -> TypeClash:
    stage, _, name = column.partition(".")
    return TypeClash(
        f"stage '{stage}', field '{name}': row {one[0]} gave {one[1]} and row {other[0]} gave "
        f"{other[1]}, which no column holds together; declare the field "
        f"(returns={{'{name}': ...}}) and submit again, or collect(clashes='text') to see both as "
        "text"
    )


def _as_text(table: pa.Table, name: str) -> pa.Table:
    index = table.schema.get_field_index(name)
    if index < 0:
        return table
    values = [None if v is None else str(v) for v in table.column(index).to_pylist()]
    return table.set_column(index, name, pa.array(values, pa.string()))


def read_grid_table(files: RunFiles) -> pa.Table:
    """The grid in grid order, without the columns that are flowdist's own."""
    grid = map_table(files.path(files.GRID))
    if "_row" not in grid.column_names:
        return grid
    places = places_of(grid.column("_row").to_numpy(), grid.num_rows)
    assert places is not None
    return take_rows(grid.drop_columns(["_row"]), places)


def collect_rows(files: RunFiles, rows: int, *, clashes: Clashes = "raise") -> pa.Table:
    """Grid columns, then "stage.field" columns in the order of the stages, then the record, one row
    per grid row.
    """
    results = read_results(files, rows, clashes=clashes)
    # Of parts that had to be put in order: memory that pyarrow would keep for later.
    pa.default_memory_pool().release_unused()
    table = read_grid_table(files)
    # A stage that is skipped in the first rows is met after those behind it.
    known = [stage["name"] for stage in files.manifest().get("stages", [])]
    order = {name: number for number, name in enumerate(known)}
    outputs = [name for name in results.column_names if name not in RECORD]
    outputs.sort(key=lambda name: order.get(name.partition(".")[0], len(order)))
    for name in (*outputs, "_row", *KEPT):
        field = results.schema.field(name)
        table = table.append_column(field, results.column(name))
    return table


def shown_record(table: pa.Table, *, keep: bool) -> pa.Table:
    """The table without the record, or (`keep`) with status and error as text."""
    if not keep:
        return table.drop_columns(["_row", *KEPT])
    names = pa.array(STATUS).take(table.column("_status").combine_chunks().cast(pa.int64()))
    errors = [_one_line(text) for text in table.column("_error").to_pylist()]
    table = table.set_column(table.schema.get_field_index("_status"), "_status", names)
    table = table.set_column(
        table.schema.get_field_index("_error"), "_error", pa.array(errors, pa.string())
    )
    return table.drop_columns(["_row"])


def _one_line(text: str | None) -> str | None:
    if text is None:
        return None
    error = json.loads(text)
    if "stage" not in error:
        return None  # the row was retried, and went well
    return failure_line(error["stage"], error["type"], error["message"])


def failure_line(stage: str, type_: str, message: str) -> str:
    """A recorded error in one line; what its message says itself is not said again.

    >>> failure_line("fit", "ValueError", "diverged"), failure_line("fit", "KeyError", "")
    ("stage 'fit': ValueError: diverged", "stage 'fit': KeyError")
    >>> failure_line("fit", "OutputMismatch", "stage 'fit', field 'n': expected int, got None")
    "OutputMismatch: stage 'fit', field 'n': expected int, got None"
    """
    place = "" if message.startswith(f"stage '{stage}'") else f"stage '{stage}': "
    return f"{place}{type_}: {message}" if message else f"{place}{type_}"


def error_rows(table: pa.Table, *, retried: bool = False) -> list[dict[str, Any]]:
    """Every failed row of a collected table: its number, parameters, and the recorded error.

    With `retried` also the rows that went well at a later attempt, with the last thing that failed.
    """
    recorded = pc.equal(table.column("_status"), FAILED)
    if retried:
        recorded = pc.is_valid(table.column("_error"))
    failed = table.filter(recorded)
    params = [n for n in failed.column_names if not n.startswith("_") and "." not in n]
    shown = failed.select(["_row", "_error", "_attempts", *params])
    found = []
    for row in shown.rename_columns(
        ["_row", "_error", "_attempts", *error_names(params)]
    ).to_pylist():
        error = json.loads(row.pop("_error"))
        if "stage" not in error:
            error = {**error["causes"][-1], "traceback": "", **error}
        number, attempts = row.pop("_row"), row.pop("_attempts")
        found.append({"row": number, **row, **error, "attempts": attempts})
    return found


def error_names(params: Sequence[str]) -> list[str]:
    """The parameters' names beside those of an error's own columns: the grid's give way.

    >>> error_names(["x", "type"])
    ['x', 'grid.type']
    """
    return [f"grid.{name}" if name in ERROR_COLUMNS else name for name in params]


def is_nested(type_: pa.DataType) -> bool:
    """Whether a column of the type holds a small table in each row."""
    return bool(pa.types.is_list(type_) and pa.types.is_struct(type_.value_type))


def flatten_nested(table: pa.Table, column: str, keys: Sequence[str]) -> pa.Table:
    """A nested-table column as a long table: the `keys` of its row repeated, then its own
    columns.
    """
    nested = table.column(column).combine_chunks()
    parents = pc.list_parent_indices(nested)
    rows = pc.list_flatten(nested)
    columns = {name: table.column(name).take(parents) for name in keys}
    for i, field in enumerate(rows.type):
        name = field.name if field.name not in keys else f"{column.split('.')[0]}.{field.name}"
        columns[name] = pc.struct_field(rows, [i])
    return pa.table(columns)


def to_frame(table: pa.Table, as_: As, root: str) -> Any:
    """The table as the library that was asked for; artifacts of a pandas frame load on demand."""
    if as_ == "arrow":
        return table
    if as_ == "polars":
        import polars

        return polars.from_arrow(table)
    import pandas as pd

    # Integers and booleans with nulls keep their type instead of becoming floats and objects.
    nullable = {
        pa.int8(): pd.Int8Dtype(),
        pa.int16(): pd.Int16Dtype(),
        pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(),
        pa.uint8(): pd.UInt8Dtype(),
        pa.uint16(): pd.UInt16Dtype(),
        pa.uint32(): pd.UInt32Dtype(),
        pa.uint64(): pd.UInt64Dtype(),
        pa.bool_(): pd.BooleanDtype(),
    }
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.type.equals(ARTIFACT_TYPE):
            columns[name] = pd.Series(
                [None if v is None else Artifact.from_struct(v, root) for v in column.to_pylist()],
                dtype=object,
            )
        elif column.null_count and column.type in nullable:
            columns[name] = column.to_pandas(types_mapper=nullable.get)
        else:
            columns[name] = column.to_pandas()
    return pd.DataFrame(columns, copy=False)
