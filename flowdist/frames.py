"""Which library's table an object is, found out without importing any of those libraries."""

from __future__ import annotations

import sys
from typing import Literal, TypeAlias

import pyarrow as pa

FrameKind: TypeAlias = Literal["pandas", "arrow", "polars"]


def frame_kind(obj: object) -> FrameKind | None:
    """Which library's table an object is; None for no table. An instance proves it is imported.

    >>> frame_kind(pa.table({"x": [1]})), frame_kind([1])
    ('arrow', None)
    """
    if isinstance(obj, (pa.Table, pa.RecordBatch)):
        return "arrow"
    for kind in ("pandas", "polars"):
        library = sys.modules.get(kind)
        # A library that is still being imported has no DataFrame yet.
        frame = getattr(library, "DataFrame", None)
        if frame is not None and isinstance(obj, frame):
            return "pandas" if kind == "pandas" else "polars"
    return None
