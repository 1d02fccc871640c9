"""A row that is tried tells what the run will give and take."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
from preflight_support import GB, make, only

from flowdist import artifact, local
from flowdist.preflight import Machine, preflight, prepare


def test_a_tried_row_tells_its_outputs_and_their_types() -> None:
    f = make(lambda x: {"n": x, "m": np.zeros((3, 4)), "w": [1, 2]}).stage("half", lambda n: n / 2)

    told = [c for c in preflight(f, try_row=1) if c.name == "try"]

    assert [c.severity for c in told] == ["info", "info"]
    assert "row 1 took" in told[0].what
    assert told[0].what.endswith(
        "it gave fit.n: int, fit.m: ndarray 3 x 4, fit.w: list of 2, half.value: float"
    )


def test_a_tried_row_gives_an_estimate_for_the_run() -> None:
    f = make(lambda x: time.sleep(0.01), rows=1_000_000).distribute(local(workers=1))

    estimate = [c.what for c in preflight(f, try_row=0)][-1]

    assert estimate.startswith("1,000,000 such rows on 1 worker take about")
    assert " h" in estimate


def test_a_tried_row_is_run_once() -> None:
    calls: list[int] = []

    preflight(make(lambda x: calls.append(x)), try_row=1)

    assert calls == [1]


def test_an_exception_names_its_stage() -> None:
    f = make(lambda x: x).stage("boom", lambda value: 1 / (value - 1)).stage("end", lambda x: x)

    check = only(preflight(f, try_row=1), "try")

    assert check.severity == "error"
    assert check.what == "row 1: stage 'boom' raised ZeroDivisionError: division by zero"


def test_a_stage_that_exits_does_not_end_the_caller() -> None:
    check = only(preflight(make(lambda x: sys.exit(3)), try_row=0), "try")

    assert check.what == "row 0: stage 'fit' raised SystemExit: 3"


def test_an_output_that_does_not_fit_its_declaration_is_an_error() -> None:
    check = only(preflight(make(lambda x: "text", returns={"value": int}), try_row=0), "try")

    assert check.severity == "error"
    assert "stage 'fit', field 'value': expected" in check.what


def test_an_artifact_that_cannot_be_stored_is_an_error() -> None:
    f = make(lambda x: {"model": threading.Lock()}, returns={"model": artifact})

    errors = [c for c in preflight(f, try_row=0) if c.severity == "error"]

    assert "'fit.model' of row 0 cannot be stored" in errors[0].what


def test_a_row_that_is_not_there_is_an_error() -> None:
    check = only(preflight(make(lambda x: x), try_row=9), "try")

    assert check.what == "try_row(9): the grid has rows 0 to 1"


def test_the_memory_that_a_tried_row_took_counts_for_all_workers() -> None:
    def fit(x: int) -> float:
        return float(np.ones(40_000_000).sum())

    f = make(fit, rows=8).distribute(local(workers=8, threads_per_worker=1))
    machine = Machine(free_disk=lambda path: 500 * GB, memory=lambda: GB)

    warnings = [c.what for c in prepare(f, try_row=0, machine=machine).checks if c.name == "plan"]

    assert any("8 workers at" in what and "a row need" in what for what in warnings)


# Files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "severity"), [(10_000, "info"), (100_001, "warning")])
def test_many_artifacts_are_a_finding(rows: int, severity: str) -> None:
    f = make(lambda x: {"model": x}, rows=rows, returns={"model": artifact})

    check = only(preflight(f), "files")

    assert check.severity == severity
    assert check.what.startswith(f"up to {rows:,} files: 'fit.model' of each of {rows:,} rows")


def test_a_few_artifacts_are_none() -> None:
    f = make(lambda x: {"model": x}, rows=100, returns={"model": artifact})

    assert not [c for c in preflight(f) if c.name == "files"]


def test_a_tried_row_tells_which_artifacts_become_files() -> None:
    def fit(x: int) -> Any:
        return {"small": x, "large": np.zeros(100_000)}

    f = make(fit, rows=200_000, returns={"small": artifact, "large": artifact})

    check = only(preflight(f, try_row=0), "files")

    assert check.what == "about 200,000 files: 'fit.large' of each of 200,000 rows"
