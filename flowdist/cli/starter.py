"""How close do random darts come to pi? An example of a flow, to try and to change.

flowdist plan flow.py              how its rows become jobs
flowdist run flow.py               run it, with a progress bar
flowdist collect last              the table
"""

from __future__ import annotations

import math
import random

import pandas as pd

from flowdist import flow, local, param_grid

# The grid: every combination of these values is one row, here 4 x 25 = 100 rows. A DataFrame, or
# read_grid("rows.csv"), would do as well.
grid = param_grid(darts=[100, 1_000, 10_000, 100_000], trial=range(25))


def throw(darts: int, seed: int) -> dict[str, float]:
    """A stage is a function that is called for every row. Its parameters are filled by name.

    `darts` is a column of the grid; `seed` is a number of the row's own, the same wherever it runs.
    """
    dice = random.Random(seed)
    hits = sum(dice.random() ** 2 + dice.random() ** 2 < 1 for _ in range(darts))
    return {"hits": hits, "pi": 4 * hits / darts}


def compare(pi: float) -> dict[str, float]:
    """A later stage takes what an earlier one returned: `pi` is a field of `throw`."""
    return {"error": abs(pi - math.pi)}


def summarize(compare: pd.DataFrame) -> dict[str, float]:
    """A reduce is called for each group when all rows have ended: `compare` is that stage's
    table."""
    return {"mean": compare["error"].mean(), "worst": compare["error"].max()}


estimate = (
    flow(grid, seed=1, name="pi")
    # `returns` declares the outputs: each row is checked, and the table has these types.
    .stage("throw", throw, returns={"hits": int, "pi": float})
    .stage("compare", compare, returns={"error": float})
    # flowdist collect last --table accuracy
    .reduce("accuracy", summarize, by="darts", returns={"mean": float, "worst": float})
    # Where it runs, unless --on says otherwise: this machine, two processes.
    .distribute(local(workers=2))
)
