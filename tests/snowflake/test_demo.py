"""`flowdist demo --on emulator`, and what makes an emulator ready for `--on emulator`."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from flowdist import runs
from flowdist.backends.snowflake.on_emulator import emulator_plan, prepare
from flowdist.cli import cli
from flowdist.demo_emulator import _emulator
from flowdist.emulator import Emulator

FLOW = """\
from flowdist import flow, param_grid

work = flow(param_grid(x=[1, 2, 3])).stage("sq", lambda x: x * x)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to work in, with no emulator."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("FLOWDIST_")]:
        monkeypatch.delenv(name)
    return tmp_path


def test_the_demo_gives_the_same_tables_on_snowflake_and_leaves_nothing(here: Path) -> None:
    # Not all 4,037 aircraft: three runs of these take a minute.
    words = ["demo", "--on", "emulator", "--rows", "60"]

    done = subprocess.run(
        [sys.executable, "-m", "flowdist.cli", *words], capture_output=True, text=True, timeout=240
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "All three gave the same tables: 60 aircraft" in done.stdout
    for shown in ("from a queue", "task graph", "DONE", "_JOB_00003", "by carrier"):
        assert shown in done.stdout
    assert "Warning" not in done.stderr
    (run,) = runs()  # the one on this machine
    assert run.manifest["plan"]["kind"] == "local"
    assert not (here / ".flowdist" / "emulator").exists()


def test_a_prepared_emulator_runs_what_is_on_emulator(here: Path) -> None:
    (here / "work.py").write_text(FLOW)
    plan = emulator_plan()
    with Emulator(".flowdist/emulator", grace=3.0) as emulator:
        ready = CliRunner().invoke(cli, ["emulator", "prepare", "--json"])
        again = prepare(emulator, plan)
        again.undo()  # it has made nothing
        small = ["--set", "replicas=1", "--json"]
        done = CliRunner().invoke(cli, ["run", "work.py", "--on", "emulator", *small])
        left = _services(emulator)

    states = {step["kind"]: step["state"] for step in json.loads(ready.stdout)}
    assert states["compute pool"] == states["stage"] == states["table"] == "created"
    assert {step.state for step in again.steps} == {"there"}
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["ok"] == 3
    assert len(left) == 1  # the job of the workers, until the run is deleted


def test_what_was_made_is_dropped_and_what_was_there_stays(here: Path) -> None:
    plan = emulator_plan()
    with Emulator(".flowdist/emulator") as emulator:
        with emulator.connect() as connection:
            connection.cursor().execute("CREATE STAGE runs ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')")
        prepared = prepare(emulator, plan)
        prepared.undo()
        shown = {
            what: [row["name"] for row in prepared.client.rows(f"SHOW {what}")]
            for what in ("STAGES", "TABLES", "COMPUTE POOLS", "IMAGE REPOSITORIES")
        }
        prepared.client.close()

    assert shown == {
        "STAGES": ["RUNS"],
        "TABLES": [],
        "COMPUTE POOLS": [],
        "IMAGE REPOSITORIES": [],
    }


def test_an_emulator_that_ran_before_goes_on(here: Path) -> None:
    said = Console(file=io.StringIO())
    with Emulator(".flowdist/emulator") as emulator:
        with _emulator(said, keep=False) as found:
            assert found.url == emulator.url
        assert emulator.running
    with _emulator(said, keep=True) as started:
        pass
    assert started.running
    started.stop()


def _services(emulator: Emulator) -> list[object]:
    with emulator.connect() as connection:
        return list(connection.cursor().execute("SHOW SERVICES IN ACCOUNT").fetchall())
