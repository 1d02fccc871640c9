"""Processes that do without pandas until somebody wants it."""

from __future__ import annotations

import subprocess
import sys

import pytest

DEFERRED = """
import sys
import pyarrow as pa
from flowdist.lean import defer_pandas, import_without_pandas
defer_pandas()
"""
WANTED = """
assert pa.array([1, None]).null_count == 1
assert "pandas" not in sys.modules
import pandas as pd
assert pa.table({"x": [1]}).to_pandas().equals(pd.DataFrame({"x": [1]}))
assert pa.Table.from_pandas(pd.DataFrame({"x": [1]}))["x"].to_pylist() == [1]
"""


def in_a_new_process(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_pandas_is_there_once_it_is_wanted() -> None:
    in_a_new_process(DEFERRED + WANTED)


def test_pandas_that_is_there_already_stays() -> None:
    in_a_new_process(
        f"import pandas\n{DEFERRED}assert pa.table({{'x': [1]}}).to_pandas().size == 1"
    )


def test_the_connector_is_imported_without_pandas_and_pandas_can_still_be_used() -> None:
    connector = "import_without_pandas('snowflake.connector')\nassert 'snowflake' in sys.modules"
    in_a_new_process(f"{DEFERRED}{connector}{WANTED}")


def test_a_module_that_needs_pandas_cannot_be_imported_without() -> None:
    in_a_new_process(f"""{DEFERRED}
try:
    import_without_pandas("pandas")
except ImportError as error:
    assert "when a stage wants it" in str(error)
{WANTED}""")


@pytest.mark.parametrize(
    "module", ["flowdist.workers.supervise", "flowdist.workers.serve", "flowdist.workers.container"]
)
def test_jobs_start_without_what_few_of_them_need(module: str) -> None:
    late = {"pandas", "pydantic", "rich", "pyarrow.compute", "snowflake.connector"}
    in_a_new_process(f"import sys, {module}\nassert not {late!r} & set(sys.modules)")
