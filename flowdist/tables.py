"""The Arrow files of a run that are not parts: its grid, its chunks, the groups of a reduce.

They are mapped, not read: whoever opens a table pays for what it looks at.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowdist.store import RunFiles


def write_table(path: str | PathLike[str], table: pa.Table) -> None:
    """Write a table as an Arrow file of as few batches as its columns allow."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def map_table(path: str | PathLike[str]) -> pa.Table:
    """The table in an Arrow file, mapped.

    Raises:
        FileNotFoundError: there is no such file.
    """
    try:
        with pa.memory_map(str(path)) as file:
            return pa.ipc.open_file(file).read_all()
    except FileNotFoundError:
        raise
    except OSError:
        # Not every mounted stage maps.
        with open(path, "rb") as plain:
            return pa.ipc.open_file(pa.py_buffer(plain.read())).read_all()


def in_layout_order(files: RunFiles, of_rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask of rows, shape (rows,) in grid order, in the order in which the run lays them out."""
    grid = map_table(files.path(files.GRID))
    return of_rows[grid.column("_row").to_numpy()] if "_row" in grid.column_names else of_rows
