"""A script run by `flowdist exec` on a real cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import flowdist

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("lab")]

PATIENCE = 240.0
SCRIPT = """\
import os
from helper import double

def main(config):
    if config["worker_index"] == config.get("fails"):
        raise SystemExit("no luck")
    return {"n": double(config["n"]), "job": os.environ["SLURM_JOB_ID"]}
"""


def test_replicas_of_a_script_are_jobs_of_the_cluster(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(SCRIPT)
    (tmp_path / "helper.py").write_text("def double(n): return 2 * n\n")
    words = ["job.py", "--on", "slurm-lab", "--set", "memory=300MB", "--replicas", "2"]
    words += ["--root", str(tmp_path / "runs"), "--config", "n=21", "--config", "fails=1", "--json"]
    command = [sys.executable, "-m", "flowdist.cli", "exec", *words]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)

    (run,) = flowdist.runs(tmp_path / "runs")
    table = run.collect("arrow", errors="keep")
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["errors"][0]["message"].endswith("sys.exit('no luck')")
    assert table["main.n"].to_pylist() == [42, None]
    assert run.manifest["layout"]["jobs"] == 2
