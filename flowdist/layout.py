"""The arithmetic of a plan: rows -> groups -> chunks -> jobs.

Pure functions over arrays; nothing here knows of stores, schedulers or pydantic, so a job process
may import it for the price of numpy and pyarrow. What a plan is, and whether its numbers make sense
together, is the business of :mod:`flowdist.plan`.

Rows are laid out so that every group is contiguous. A chunk is then a half-open range of positions
in that order, and a job a half-open range of chunks: however many rows there are, the layout is a
handful of integer arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowdist.errors import PlanError, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints: TypeAlias = NDArray[np.int64]


class LayoutRules(Protocol):
    """What the arithmetic reads of a plan.

    The counts are 1 or more, and ``chunks_per_job`` and ``target_jobs`` are not both given: a plan
    that says otherwise cannot be made.
    """

    @property
    def by(self) -> tuple[str, ...]: ...
    @property
    def rows_per_chunk(self) -> int | None: ...
    @property
    def chunks_per_job(self) -> int | None: ...
    @property
    def target_jobs(self) -> int | None: ...
    @property
    def dispatch(self) -> str: ...
    @property
    def knows_jobs(self) -> bool: ...

    def default_jobs(self, rows: int, workers: int) -> tuple[int, str]:
        """How many jobs where nothing says so, and the sentence that explains it."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Which rows form a chunk and which chunks form a job.

    Positions count rows in layout order, in which every group is contiguous and groups keep the
    order of first appearance. ``order[position]`` is the row number in the grid; ``order`` is None
    where the two are the same.

    Without ``by`` all rows are one group: no column tells them apart.

    >>> import pyarrow as pa
    >>> from flowdist.plan import local
    >>> grid = pa.table({"subject": ["s01", "s02", "s03"] * 8})
    >>> plan = local(by="subject", rows_per_chunk=4, target_jobs=2)
    >>> layout = make_layout(plan, grid, workers=2)
    >>> layout.rows, layout.groups, layout.chunks, layout.jobs
    (24, 3, 6, 2)
    >>> layout.row_numbers(0).tolist()
    [0, 3, 6, 9]
    """

    rows: int
    groups: int
    order: Ints | None
    """Shape (rows,): row number of each position; None = identity."""
    chunk_first: Ints
    chunk_stop: Ints
    """Shape (chunks,): positions, half open."""
    chunk_group: Ints
    """Shape (chunks,): the group a chunk belongs to; a chunk never spans two."""
    job_first: Ints
    job_stop: Ints
    """Shape (jobs,): chunk numbers, half open. No job is empty."""
    note: str = ""
    """Which number was picked and why; empty where the plan said it all."""

    @property
    def chunks(self) -> int:
        """How many chunks."""
        return len(self.chunk_first)

    @property
    def jobs(self) -> int:
        """How many jobs."""
        return len(self.job_first)

    @property
    def chunk_rows(self) -> Ints:
        """Rows in each chunk, shape (chunks,)."""
        return self.chunk_stop - self.chunk_first

    @property
    def group_sizes(self) -> Ints:
        """Rows in each group, shape (groups,)."""
        first_chunk = np.flatnonzero(np.diff(self.chunk_group, prepend=-1))
        return np.diff(self.chunk_first[first_chunk], append=self.rows)

    @property
    def chunk_job(self) -> Ints:
        """The job each chunk is assigned to, shape (chunks,)."""
        return np.repeat(np.arange(self.jobs), self.job_chunks)

    @property
    def job_chunks(self) -> Ints:
        """Chunks in each job, shape (jobs,)."""
        return self.job_stop - self.job_first

    @property
    def job_rows(self) -> Ints:
        """Rows in each job, shape (jobs,)."""
        return self.chunk_stop[self.job_stop - 1] - self.chunk_first[self.job_first]

    def row_numbers(self, chunk: int) -> Ints:
        """The grid's row numbers in one chunk, in the order they run."""
        first, stop = int(self.chunk_first[chunk]), int(self.chunk_stop[chunk])
        return np.arange(first, stop) if self.order is None else self.order[first:stop]


def make_layout(plan: LayoutRules, grid: pa.Table, workers: int) -> Layout:
    """Lay the rows of ``grid`` out over chunks and jobs, as ``plan`` says.

    ``workers`` (of one job) only matters where the plan leaves the number of jobs open.

    Raises:
        PlanError: a ``by`` column is missing, or holds what cannot be grouped.

    >>> import pyarrow as pa
    >>> from flowdist.plan import local
    >>> layout = make_layout(local(), pa.table({"x": range(24)}), workers=2)
    >>> layout.chunks, layout.jobs, layout.note
    (24, 1, 'one job: this machine runs all rows in one pool')
    """
    rows = grid.num_rows
    if plan.by:
        group_of_row, groups = group_rows(grid, plan.by)
        order = _contiguous_order(group_of_row)
        group_sizes = np.bincount(group_of_row, minlength=groups)
        most_rows = plan.rows_per_chunk or max(rows, 1)
    else:
        order, groups = None, min(rows, 1)
        group_sizes = np.full(groups, rows, dtype=np.int64)
        most_rows = plan.rows_per_chunk or 1
    chunk_first, chunk_stop, chunk_group = _cut_groups(group_sizes, most_rows)
    job_bounds, note = _pack_chunks(plan, len(chunk_first), rows, workers)
    return Layout(
        rows=rows,
        groups=groups,
        order=order,
        chunk_first=chunk_first,
        chunk_stop=chunk_stop,
        chunk_group=chunk_group,
        job_first=job_bounds[:-1],
        job_stop=job_bounds[1:],
        note=note,
    )


def group_rows(table: pa.Table, by: Sequence[str]) -> tuple[Ints, int]:
    """The group number of each row, shape (rows,), and how many groups there are.

    Groups are numbered in order of first appearance. Null and NaN are two values like any other,
    0.0 and -0.0 are the same one. No columns at all: one group.

    Raises:
        PlanError: a column is missing, or its type (list, struct, ...) cannot be grouped.

    >>> import pyarrow as pa
    >>> table = pa.table({"site": ["b", None, "b", "a"], "year": [1, 1, 2, 1]})
    >>> group_rows(table, ["site"])[0].tolist()
    [0, 1, 0, 2]
    >>> group_rows(table, ["site", "year"])[0].tolist()
    [0, 1, 2, 3]
    """
    group_of_row = np.zeros(table.num_rows, dtype=np.int64)
    groups = min(table.num_rows, 1)
    for name in by:
        codes, distinct = _column_codes(table, name)
        # Both factors are at most the number of rows, so the product fits an int64; renumbering
        # the pairs keeps it so for any number of columns.
        pairs = pa.chunked_array([pa.array(group_of_row * distinct + codes)])
        group_of_row, groups = _number_by_appearance(pairs)
    return group_of_row, groups


def _column_codes(table: pa.Table, name: str) -> tuple[Ints, int]:
    if name not in table.column_names:
        help_ = nearest(name, table.column_names) or f"; its columns are {table.column_names}"
        raise PlanError(f"by={name!r}: the grid has no such column{help_}")
    try:
        return _number_by_appearance(_canonical(table[name]))
    except pa.ArrowNotImplementedError:
        raise PlanError(
            f"by={name!r}: rows cannot be grouped by a column of type {table[name].type}; "
            "group by numbers, strings, booleans, dates or times"
        ) from None


def _canonical(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Give equal values equal bits, which is what Arrow's hashing goes by."""
    if pa.types.is_dictionary(column.type):
        # Two entries may hold the same value, and null may be an entry or a missing index.
        column = column.cast(column.type.value_type)
    if pa.types.is_float16(column.type):
        column = column.cast(pa.float32())  # Arrow has no arithmetic for half floats
    if pa.types.is_floating(column.type):
        one_nan = pc.if_else(pc.is_nan(column), pa.scalar(float("nan"), column.type), column)
        column = pc.add(one_nan, pa.scalar(0.0, column.type))  # -0.0 + 0.0 is 0.0
    return column


def _number_by_appearance(values: pa.ChunkedArray) -> tuple[Ints, int]:
    """Number the distinct values of a column in order of first appearance, null included."""
    # One hash table serves all chunks, so their codes mean the same values.
    encoded = pc.dictionary_encode(values, null_encoding="encode")
    if encoded.num_chunks == 0:
        return np.empty(0, dtype=np.int64), 0
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])
    return codes.astype(np.int64), len(encoded.chunk(0).dictionary)


def _contiguous_order(group_of_row: Ints) -> Ints | None:
    """Row numbers with groups made contiguous; None where they already are."""
    # Groups are numbered by appearance: they are contiguous exactly where numbers never fall.
    if bool(np.all(group_of_row[1:] >= group_of_row[:-1])):
        return None
    return np.argsort(group_of_row, kind="stable")


def _cut_groups(group_sizes: Ints, most_rows: int) -> tuple[Ints, Ints, Ints]:
    """Cut contiguous groups into chunks of at most ``most_rows``: their first, stop and group."""
    most_rows = min(most_rows, max(1, int(group_sizes.sum())))  # so that no number overflows below
    group_stop = np.cumsum(group_sizes)
    group_first = group_stop - group_sizes
    slices = -(-group_sizes // most_rows)
    chunk_group = np.repeat(np.arange(len(group_sizes)), slices)
    first_chunk_of_group = np.cumsum(slices) - slices
    slice_in_group = np.arange(len(chunk_group)) - first_chunk_of_group[chunk_group]
    chunk_first = group_first[chunk_group] + slice_in_group * most_rows
    chunk_stop = np.minimum(chunk_first + most_rows, group_stop[chunk_group])
    return chunk_first, chunk_stop, chunk_group


def _pack_chunks(plan: LayoutRules, chunks: int, rows: int, workers: int) -> tuple[Ints, str]:
    """The chunk at which each job begins, shape (jobs + 1,), and the note on what was picked."""
    target, note = plan.target_jobs, ""
    per_job = plan.chunks_per_job
    if per_job is None and target is None:
        # In a queue no chunk belongs to a job: one job a chunk would only start jobs for nothing.
        if plan.by and plan.dispatch == "static" and not plan.knows_jobs:
            per_job = 1
        else:
            target, note = plan.default_jobs(rows, workers)
    if per_job is not None:
        per_job = min(per_job, max(chunks, 1))
        jobs = -(-chunks // per_job)
        return np.minimum(np.arange(jobs + 1) * per_job, chunks), note
    jobs = min(target or 1, chunks)
    # Rounding i * chunks / jobs down spreads the remainder: sizes differ by at most one.
    return np.arange(jobs + 1) * chunks // max(jobs, 1), note
