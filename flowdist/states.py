"""How the rows of a run have ended, by the parts that its jobs have committed.

What jobs and those who watch them want of results; they start without what it takes to join them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from flowdist.parts import CARRY, FAILED, MISSING, OK, SKIPPED, STATUS, part_table, read_part
from flowdist.phases import ROWS, reduce_phases, tables_of
from flowdist.store import JobAttempt, RunFiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Counts", "combined", "count_states", "load_parts", "row_states"]


@dataclass(frozen=True)
class Counts:
    """Rows by how they ended."""

    ok: int
    failed: int
    skipped: int
    missing: int


def load_parts(
    files: RunFiles,
    table: str,
    columns: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> list[tuple[int, pa.Table]]:
    """Committed parts of one table of the run, as (attempt, rows), ordered by their first row.

    Those of a reduce that were made before what it reads was run anew are left out. The table
    "rows" is made of those of all phases of rows. `names` are the parts to look at (default: all).
    """
    found = []
    since, wanted = _valid_since(files, table), tables_of(files.manifest(), table)
    for name in files.parts() if names is None else names:
        attempt = JobAttempt.of(name).attempt
        if attempt < since:
            continue
        part = read_part(files.path(name))
        if part is None or not part.num_rows:
            continue
        if part_table(part) not in wanted:
            continue
        part = part.replace_schema_metadata(None)
        if CARRY in part.column_names:
            part = part.drop_columns([CARRY])
        # A part may hold batches from several workers: each is in order, so they are put in order
        # apart.
        for batch in part.to_batches():
            piece = pa.Table.from_batches([batch])
            found.append((attempt, piece if columns is None else piece.select(columns)))
    return sorted(found, key=lambda pair: pair[1].column("_row")[0].as_py())


def _valid_since(files: RunFiles, table: str) -> int:
    """The launch from which on results of the table are about what it reads as that is now."""
    if table not in (phase["table"] for phase in reduce_phases(files.manifest())):
        return 0
    phases = {phase["table"]: phase for phase in files.manifest()["phases"]}
    read = {phases[name]["first_job"] for name in phases[table]["reads"]}
    ran = (JobAttempt.of(name) for name in files.parts()) if read else ()
    return max((files.rows_since(), *(who.attempt for who in ran if who.job in read)))


def row_states(
    files: RunFiles, rows: int, table: str = ROWS, names: Sequence[str] | None = None
) -> NDArray[np.int8]:
    """The status of every row (codes of `flowdist.parts`), shape (rows,); MISSING where there is no
    result.

    A row has ended when it has in all phases, or has failed in one. `names` are the parts to look
    at (default: all).
    """
    tables = tables_of(files.manifest(), table)
    if len(tables) > 1:
        return combined([row_states(files, rows, one, names) for one in tables])
    states = np.full(rows, MISSING, np.int8)
    reduces = [phase["table"] for phase in reduce_phases(files.manifest())]
    parts = load_parts(files, table, ("_row", "_status"), names)
    for _, part in sorted(parts, key=lambda pair: pair[0]):
        numbers, status = part.column("_row").to_numpy(), part.column("_status").to_numpy()
        if table not in reduces:
            # A row that has ended well stays so, whatever a later attempt says of it. (A reduce is
            # computed anew after rows were: see `_choose`.)
            ended = (states[numbers] != MISSING) & (states[numbers] != FAILED)
            fresh = ~(ended & (status == FAILED))
            numbers, status = numbers[fresh], status[fresh]
        states[numbers] = status
    return states


def combined(states: Sequence[NDArray[np.int8]]) -> NDArray[np.int8]:
    """How rows ended over all phases, from how they ended in each, in order."""
    whole = states[0].copy()
    for later in states[1:]:
        going_on = (whole == OK) | (whole == SKIPPED)
        # Skipped in one phase is skipped, unless a later one has failed or is yet to come.
        kept = (whole == SKIPPED) & (later == OK)
        whole = np.where(going_on & ~kept, later, whole)
    return whole


def count_states(states: NDArray[np.int8]) -> Counts:
    """How many rows ended in which way."""
    n = np.bincount(states, minlength=len(STATUS))
    return Counts(int(n[0]), int(n[1]), int(n[2]), int(n[3]))
