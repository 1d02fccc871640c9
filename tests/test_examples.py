"""The demo and the examples, run as a newcomer runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import flowdist

REPOSITORY = Path(__file__).parents[1]


def flowdist_command(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "FLOWDIST_ROOT"}
    done = subprocess.run(
        [sys.executable, "-m", "flowdist.cli", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**environment, "COLUMNS": "100"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def run_example(name: str, *words: str, cwd: Path) -> flowdist.Run:
    """`flowdist run` with an example; the run that it made."""
    path = str(REPOSITORY / "examples" / f"{name}.py")
    flowdist_command("run", path, *(words or ("--on", "laptop")), cwd=cwd)
    return flowdist.runs(cwd / ".flowdist" / "runs")[0]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, flowdist.Run]:
    """What the demo prints, and its run."""
    here = tmp_path_factory.mktemp("demo")
    done = flowdist_command("demo", cwd=here)
    (run,) = flowdist.runs(here / ".flowdist" / "runs")
    return done.stdout, run


def test_the_demo_goes_from_plan_to_table(demo: tuple[str, flowdist.Run]) -> None:
    printed, run = demo

    for shown in ("The plan", "4,037", "done", "ExpressJet Airlines Inc.", "best", "worst"):
        assert shown in printed
    assert str(run.directory.relative_to(run.directory.parents[2])) in printed
    assert "flowdist collect last -o flights.parquet" in printed


def test_the_demos_figures_are_those_of_the_flights(demo: tuple[str, flowdist.Run]) -> None:
    run = demo[1]

    table, carriers = run.collect(), run.table("carriers")
    assert len(table) == 4037
    assert (table["train"] + table["test"]).sum() == 327_346  # the flights that arrived
    scored = table.dropna(subset=["score.value"])
    assert carriers["flights"].sum() == scored["test"].sum()
    assert (table["fit.model"].isna() == (table["train"] < 20)).all()
    model = scored["fit.model"].iloc[0].load()
    assert model.per_minute_late == scored["fit.per_minute_late"].iloc[0]


# The flights are run from the command line in tests/slurm/test_examples_lab.py.
@pytest.mark.parametrize(("example", "rows"), [("script_stage", 6), ("sweep", 300)])
def test_every_example_runs_from_the_command_line(tmp_path: Path, example: str, rows: int) -> None:
    assert len(run_example(example, cwd=tmp_path).collect()) == rows


def test_the_simulation_is_the_same_on_another_plan(tmp_path: Path) -> None:
    first = run_example("coverage_simulation", cwd=tmp_path).collect()
    again = ("--on", "small", "--set", "rows_per_chunk=7")
    second = run_example("coverage_simulation", *again, cwd=tmp_path).collect()

    assert len(first) == 60
    assert first.equals(second)


def test_the_script_knows_its_kepler(tmp_path: Path) -> None:
    table = run_example("script_stage", cwd=tmp_path).collect().set_index("planet")

    assert table.loc["Earth", "orbit.years"] == 1.0
    assert table.loc["Jupiter", "days.value"] == pytest.approx(4333, rel=0.01)


def test_the_worst_aircraft_get_a_second_model(tmp_path: Path) -> None:
    script = str(REPOSITORY / "examples" / "refine_flights.py")
    few = ["--aircraft", "150", "--worst", "3", "--screen-on", "small"]

    done = subprocess.run(
        [sys.executable, script, *few], capture_output=True, text=True, cwd=tmp_path, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "Refined(147 screen, 3 refined)" in done.stdout
    assert "before" in done.stdout
