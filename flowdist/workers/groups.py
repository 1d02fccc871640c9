"""Groups of a reduce: prepared once by the job, sliced by its workers.

The job writes the collected rows, ordered by group, to a scratch directory that its workers map; a
group is then a slice of it, and no worker holds more than the group it works on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowdist.binding import Binding
from flowdist.errors import RowError
from flowdist.flow import Program, Stage
from flowdist.layout import group_rows
from flowdist.parts import FAILED
from flowdist.phases import Phase, reduce_phases
from flowdist.results import (
    collect_rows,
    read_grid_table,
    read_results,
    shown_record,
    take_rows,
    to_frame,
)
from flowdist.store import RunFiles
from flowdist.tables import map_table, write_table
from flowdist.workers.evaluate import Evaluator
from flowdist.workers.process import Saver, TableEvaluator, WorkerSetup


def group_keys(grid: pa.Table, by: tuple[str, ...]) -> pa.Table:
    """One row per group, in order of first appearance: the values of the `by` columns.

    >>> group_keys(pa.table({"g": ["b", "a", "b"]}), ("g",)).to_pydict()
    {'g': ['b', 'a']}
    """
    if not by:
        # A table of one row and no column cannot be made; one column that nobody reads stands in
        # for it.
        return (
            pa.table({"_all": [0]})
            if grid.num_rows
            else pa.table({"_all": pa.array([], pa.int64())})
        )
    ids, n = group_rows(grid, by)
    first = np.full(n, -1, np.int64)
    first[ids[::-1]] = np.arange(len(ids))[::-1]
    return grid.select(list(by)).take(pa.array(first))


def prepare(files: RunFiles, rows: int, by: tuple[str, ...], directory: Path) -> int:
    """Write the rows ordered by group, and where each group begins; returns the number of
    groups.
    """
    table = collect_rows(files, rows)
    keys = group_keys(table, by)
    ids = group_rows(table, by)[0] if by else np.zeros(rows, np.int64)
    if by:
        table = take_rows(table, np.argsort(ids, kind="stable"))
    bounds = np.concatenate(([0], np.cumsum(np.bincount(ids, minlength=keys.num_rows))))
    keys = keys.append_column("_first", pa.array(bounds[:-1])).append_column(
        "_stop", pa.array(bounds[1:])
    )
    write_table(directory / "rows.arrow", table)
    write_table(directory / "groups.arrow", keys)
    return int(keys.num_rows)


def load_groups(
    setup: WorkerSetup, files: RunFiles, program: Program, saver: Saver
) -> Callable[[], TableEvaluator]:
    """What makes evaluators for a reduce."""
    assert setup.scratch is not None
    stage = next(s for s in program.reduces if s.name == setup.table)
    directory = Path(setup.scratch)
    keys = map_table(directory / "groups.arrow")
    tables = GroupSlices(files, stage, map_table(directory / "rows.arrow"), keys)
    columns = list(stage.by or ())

    def make() -> TableEvaluator:
        evaluator = Evaluator(
            program,
            [stage],
            columns,
            saver.of_row,
            deadline=setup.deadline,
            scratch=setup.scratch,
            groups=tables,
        )
        return TableEvaluator(evaluator, keys, columns, None)

    return make


class GroupSlices:
    """The tables that the parameters of one reduce are filled with."""

    def __init__(self, files: RunFiles, stage: Stage, rows: pa.Table, keys: pa.Table) -> None:
        self._files = files
        self._stage = stage
        self._rows = rows
        self._first = keys.column("_first").to_numpy()
        self._stop = keys.column("_stop").to_numpy()
        self._reduces = {p["table"]: p for p in reduce_phases(files.manifest())}

    def table(self, unit: int, parameter: Binding) -> Any:
        """The group's rows as parameter `parameter` wants them."""
        first, stop = int(self._first[unit]), int(self._stop[unit])
        group = self._checked(self._rows.slice(first, stop - first))
        if parameter.kind == "whole" and parameter.key in self._reduces:
            wanted = reduce_table(self._files, self._reduces[parameter.key])
        elif parameter.kind == "whole":
            wanted = stage_columns(group, parameter.key)
        else:
            wanted = shown_record(group, keep=self._stage.on_failed == "keep")
        return to_frame(wanted, _library(parameter.annotation), str(self._files.directory))

    def _checked(self, group: pa.Table) -> pa.Table:
        failed = pc.equal(group.column("_status"), FAILED)
        n = pc.sum(failed).as_py() or 0
        if n and self._stage.on_failed == "raise":
            raise RowError(
                f"{n} of the group's {group.num_rows} rows failed, and reduce "
                f"'{self._stage.name}' has "
                "errors='raise'"
            )
        return group.filter(pc.invert(failed)) if n and self._stage.on_failed == "drop" else group


def stage_columns(table: pa.Table, stage: str) -> pa.Table:
    """The grid's columns and those of one stage, named by field where the grid leaves the name
    free.
    """
    grid = [n for n in table.column_names if not n.startswith("_") and "." not in n]
    own = [n for n in table.column_names if n.startswith(f"{stage}.")]
    short = [n.removeprefix(f"{stage}.") for n in own]
    names = [s if s not in grid else n for n, s in zip(own, short, strict=True)]
    return table.select([*grid, *own]).rename_columns([*grid, *names])


def reduce_table(files: RunFiles, phase: Phase, *, record: bool = False) -> pa.Table:
    """The result of a reduce: by columns, then its fields, one row per group; with `record` also
    how each group ended.
    """
    keys = group_keys(read_grid_table(files), tuple(phase["by"]))
    results = read_results(files, keys.num_rows, phase["table"])
    columns = {name: keys.column(name) for name in phase["by"]}
    for name in results.column_names:
        if not name.startswith("_"):
            columns[name.removeprefix(f"{phase['table']}.")] = results.column(name)
        elif record:
            columns[name] = results.column(name)
    return pa.table(columns)


def _library(annotation: str) -> Any:
    if "polars" in annotation or annotation.startswith("pl."):
        return "polars"
    if "pyarrow" in annotation or annotation.startswith("pa."):
        return "arrow"
    return "pandas"
