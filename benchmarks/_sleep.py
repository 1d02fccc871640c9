"""The function that rows run on SLURM, the same for every contender.

A module of its own that imports nothing heavy: a job process of whichever library imports it.
"""

from __future__ import annotations

import time


def row(x: int, seconds: float) -> dict[str, float]:
    """A row that takes so long and no processor; with 0 seconds it does nothing at all."""
    if seconds:
        time.sleep(seconds)
    return {"value": x + seconds}
