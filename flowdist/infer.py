"""Being written."""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as pa

from flowdist.artifacts import SaveFn


def infer_column(
    stage: str, name: str, values: list[Any], save: SaveFn
) -> list[tuple[pa.Array, list[int]]]:
    raise NotImplementedError


def unify_fields(a: pa.Field, b: pa.Field) -> pa.Field | None:
    raise NotImplementedError


def kind_of(type: pa.DataType) -> Literal["value", "artifact", "table"]:
    raise NotImplementedError
