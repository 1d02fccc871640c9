"""The example of the demo, run from the command line on the cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

import flowdist
from flowdist import Artifact, Run

if TYPE_CHECKING:
    from lab_fixture import Lab

PATIENCE = 240.0
# A tenth of the aircraft: all of them are run by the demo.
FLIGHTS = """
from dataclasses import replace

from flowdist.demo import load_example

made = load_example("flights").make_flow()
some = replace(made, grid=made.grid.head(400))
"""


def run_on(profile: str, root: Path, cwd: Path) -> Run:
    """`flowdist run` with a profile; the run that it made."""
    (cwd / "some.py").write_text(FLIGHTS)
    command = [sys.executable, "-m", "flowdist.cli", "run", "some.py:some", "--on", profile]
    done = subprocess.run(
        [*command, "--root", str(root)], cwd=cwd, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = flowdist.runs(root)
    return run


@pytest.mark.slow
def test_the_flights_give_the_same_tables_on_the_cluster_as_here(lab: Lab, tmp_path: Path) -> None:
    there = run_on("slurm-lab", tmp_path / "there", tmp_path)
    here = run_on("laptop", tmp_path / "here", tmp_path)

    tables = [run.collect(errors="keep").drop(columns="_seconds") for run in (there, here)]
    models = [table.pop("fit.model") for table in tables]

    assert there.manifest["plan"]["kind"] == "slurm-allocation"
    assert len(tables[0]) == 400
    pd.testing.assert_frame_equal(*tables)
    pd.testing.assert_frame_equal(there.table("carriers"), here.table("carriers"))
    pairs = [(a, b) for a, b in zip(*models, strict=True) if isinstance(a, Artifact)]
    assert len(pairs) > 200
    assert all(str(a.load()) == str(b.load()) for a, b in pairs[::20])
