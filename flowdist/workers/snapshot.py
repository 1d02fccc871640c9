"""Outputs as they were when the stage returned them.

Results wait in a buffer for a tenth of a second. What a stage returned may change meanwhile: a
later row that fills the same array again, a later stage that sorts a list in place. So what can
change is copied, and what becomes an artifact is pickled at once.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import decimal
import types
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from flowdist.artifacts import Payload, dumps
from flowdist.errors import ArtifactError, OutputMismatch
from flowdist.schema import split_output
from flowdist.script import FileOutput

# Types whose values never change.
IMMUTABLE = frozenset(
    {
        int, float, str, bool, bytes, complex, types.NoneType, range,
        datetime.date, datetime.datetime, datetime.time, datetime.timedelta,
        decimal.Decimal, uuid.UUID, np.float64, np.int64, np.bool_, pa.Table, pa.RecordBatch,
    }
)  # fmt: skip


def snapshot(stage: str, out: Any, artifacts: Mapping[str, str | None]) -> dict[str, Any]:
    """The fields of an output, such that nothing that happens later changes them.

    `artifacts` are the fields that are declared to be such, with their codecs.

    Raises:
        OutputMismatch: the output cannot be split into fields, or an artifact cannot be written.
    """
    return {
        name: value if type(value) in IMMUTABLE else _kept(stage, name, value, artifacts)
        for name, value in split_output(out, stage).items()
    }


def _kept(stage: str, name: str, value: Any, artifacts: Mapping[str, str | None]) -> Any:
    if isinstance(value, (FileOutput, Payload)):
        return value
    if name in artifacts:
        try:
            return Payload(*dumps(value, artifacts[name]))
        except ArtifactError as error:
            raise OutputMismatch(stage, name, "an object that can be stored", str(error)) from error
    return _copied(value)


def _copied(value: Any) -> Any:
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return value.copy()
    if type(value) is list and IMMUTABLE.issuperset(map(type, value)):
        return value.copy()
    # An object that refuses to be copied is encoded as it will be then.
    with contextlib.suppress(Exception):
        return copy.deepcopy(value)
    return value
