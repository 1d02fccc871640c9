"""The demo and the examples, run as a newcomer runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import flowdist

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLOWDIST_ROOT", raising=False)
    return tmp_path


def flowdist_command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flowdist.cli", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
        check=False,
    )


def test_the_demo_goes_from_plan_to_table(here: Path) -> None:
    done = flowdist_command("demo")

    assert done.returncode == 0, done.stderr
    for shown in ("The plan", "4,037", "done", "ExpressJet Airlines Inc.", "best", "worst"):
        assert shown in done.stdout
    (run,) = flowdist.runs()
    assert str(run.directory.relative_to(here)) in done.stdout
    assert "flowdist collect last -o flights.parquet" in done.stdout


def test_the_demos_figures_are_those_of_the_flights(here: Path) -> None:
    flowdist_command("demo")

    (run,) = flowdist.runs()
    table, carriers = run.collect(), run.table("carriers")
    assert (table["train"] + table["test"]).sum() == 327_346  # the flights that arrived
    scored = table.dropna(subset=["score.value"])
    assert carriers["flights"].sum() == scored["test"].sum()
    assert (table["fit.model"].isna() == (table["train"] < 20)).all()
    model = scored["fit.model"].iloc[0].load()
    assert model.per_minute_late == scored["fit.per_minute_late"].iloc[0]


@pytest.mark.parametrize(
    ("example", "rows"),
    [("flights", 4037), ("coverage_simulation", 60), ("script_stage", 6), ("sweep", 300)],
)
def test_every_example_runs_from_the_command_line(here: Path, example: str, rows: int) -> None:
    done = flowdist_command("run", str(REPOSITORY / "examples" / f"{example}.py"), "--on", "laptop")

    assert done.returncode == 0, done.stderr
    (run,) = flowdist.runs()
    assert len(run.collect()) == rows


def test_the_simulation_is_the_same_on_another_plan(here: Path) -> None:
    path = str(REPOSITORY / "examples" / "coverage_simulation.py")
    flowdist_command("run", path, "--on", "laptop")
    flowdist_command("run", path, "--on", "small", "--set", "rows_per_chunk=7")

    second, first = flowdist.runs()
    assert first.collect().equals(second.collect())


def test_the_script_knows_its_kepler(here: Path) -> None:
    flowdist_command("run", str(REPOSITORY / "examples" / "script_stage.py"))

    table = flowdist.runs()[0].collect().set_index("planet")
    assert table.loc["Earth", "orbit.years"] == 1.0
    assert table.loc["Jupiter", "days.value"] == pytest.approx(4333, rel=0.01)
