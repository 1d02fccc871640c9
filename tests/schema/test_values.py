"""What a stage returned is split into fields."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from outputs_support import Line, Model, Pair, Regressor

from flowdist.errors import OutputMismatch
from flowdist.schema import split_output


@pytest.mark.parametrize(
    "out", [{"slope": 1.5, "n": 2}, Line(1.5, 2), Pair(1.5, 2), Model(slope=1.5, n=2)]
)
def test_a_record_gives_its_fields(out: Any) -> None:
    assert split_output(out) == {"slope": 1.5, "n": 2}


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table])
def test_a_frame_is_the_field_table(make: Any) -> None:
    frame = make({"x": [1]})

    assert split_output(frame) == {"table": frame} or split_output(frame)["table"] is frame


@pytest.mark.parametrize("out", [None, 3, "a", [1], (1, 2), np.float64(1), Regressor(), Line])
def test_anything_else_is_the_field_value(out: Any) -> None:
    assert split_output(out) == {"value": out}


@pytest.mark.parametrize("key", [1, "a b", "", ("a",)])
def test_a_key_that_is_no_name_is_refused(key: Any) -> None:
    with pytest.raises(OutputMismatch, match=r"stage 'fit'.*expected names of fields"):
        split_output({key: 1}, "fit")
