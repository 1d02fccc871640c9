"""The functions that rows run, and the grid they run over: the same for every contender.

A module of its own, so that processes started by whichever library can import it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa


def noop(x: int, y: float) -> dict[str, float]:
    """A row that does nothing: what is left of its time is what running it costs."""
    return {"value": y}


def one_ms(x: int, y: float) -> dict[str, float]:
    """A row that takes a millisecond and no processor."""
    time.sleep(0.001)
    return {"value": y}


TASKS: dict[str, Callable[[int, float], dict[str, float]]] = {"noop": noop, "one_ms": one_ms}


def grid_table(rows: int) -> pa.Table:
    """A grid of two columns: x, the row's number, and y, a float."""
    return pa.table({"x": np.arange(rows), "y": np.arange(rows) / 2})


def as_lists(table: pa.Table | pa.RecordBatch) -> list[list[object]]:
    """The columns as Python values, the fast way."""
    return [column.to_numpy().tolist() for column in table.columns]
