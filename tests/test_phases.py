"""Phases of rows: what a later one is given, and how the rows of several are one table."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from support import results, write_part, write_run

from flowdist import flow, local, param_grid
from flowdist.errors import PayloadError
from flowdist.flow import Flow
from flowdist.parts import CARRY, FAILED, MISSING, OK, SKIPPED, read_part
from flowdist.phases import earlier, job_count, jobs_of, phase_of, reduce_phases, row_phases
from flowdist.plan import PLANS, Local, Plan
from flowdist.resources import Resources
from flowdist.results import read_results
from flowdist.states import row_states
from flowdist.store import RunFiles
from flowdist.workers.carry import Carried, index_carried, pack
from flowdist.workers.supervise import job_main

TWO: dict[str, Any] = {
    "phases": [
        {"table": "rows.1", "first_job": 0, "jobs": 3},
        {"table": "rows.2", "first_job": 3, "jobs": 3},
        {"table": "total", "first_job": 6, "jobs": 1, "by": [], "reads": [], "groups": 1},
    ]
}


# Which phases there are --------------------------------------------------------------------------


def test_rows_and_reduces_are_told_apart() -> None:
    assert [p["table"] for p in row_phases(TWO)] == ["rows.1", "rows.2"]
    assert [p["table"] for p in reduce_phases(TWO)] == ["total"]


def test_a_launch_of_some_jobs_runs_them_in_every_phase_and_all_reduces() -> None:
    assert jobs_of(TWO, [0, 2]) == [0, 2, 3, 5, 6]
    assert job_count(TWO) == 7


@pytest.mark.parametrize(
    ("job", "table"), [(0, "rows.1"), (2, "rows.1"), (3, "rows.2"), (6, "total")]
)
def test_a_job_belongs_to_one_phase(job: int, table: str) -> None:
    assert phase_of(TWO, job)["table"] == table


# One table of several phases ---------------------------------------------------------------------


def two_phases(directory: Path, rows: int) -> RunFiles:
    """A run of two phases of rows, without results."""
    files = write_run(directory, rows=rows)
    manifest = {**files.manifest(), **TWO, "stages": [{"name": "a"}, {"name": "b"}]}
    files.path(files.RUN).unlink()
    files.put_json(files.RUN, manifest)
    return files


def test_a_row_has_ended_when_it_has_in_all_phases_or_has_failed_in_one(tmp_path: Path) -> None:
    files = two_phases(tmp_path / "run", rows=6)
    first = [OK, OK, FAILED, SKIPPED, SKIPPED]
    write_part(files, results(range(5), status=first, a__x=[1] * 5), table="rows.1")
    second = results([1, 3, 4], status=[FAILED, OK, FAILED], b__y=[2] * 3)
    write_part(files, second, job=3, table="rows.2")

    states = row_states(files, 6).tolist()

    assert states == [MISSING, FAILED, FAILED, SKIPPED, FAILED, MISSING]
    assert read_results(files, 6).column("_status").to_pylist() == states


def test_the_outputs_of_all_phases_stand_beside_each_other(tmp_path: Path) -> None:
    files = two_phases(tmp_path / "run", rows=2)
    write_part(files, results([0, 1], a__x=[1, 2], attempts=3), table="rows.1")
    write_part(files, results([1, 0], b__y=[20, 10]), job=3, table="rows.2")

    table = read_results(files, 2)

    assert table.select(["a.x", "b.y"]).to_pydict() == {"a.x": [1, 2], "b.y": [10, 20]}
    assert table.column("_attempts").to_pylist() == [3, 3]
    assert table.column("_seconds").to_pylist() == [1.0, 1.0]


def test_what_is_carried_to_another_phase_is_no_output(tmp_path: Path) -> None:
    files = two_phases(tmp_path / "run", rows=1)
    batch = results([0], a__x=[1]).append_column(CARRY, pa.array([b"z"], pa.large_binary()))
    write_part(files, batch, table="rows.1")

    assert CARRY not in read_results(files, 1, "rows.1").column_names


# What a later phase is given ---------------------------------------------------------------------


def carried(files: RunFiles, directory: Path) -> Carried:
    manifest = files.manifest()
    phase = row_phases(manifest)[1]
    index_carried(files, manifest, phase, files.parts(), directory)
    return Carried(files, len(earlier(manifest, phase)), directory)


def part_with(files: RunFiles, rows: list[int], values: list[bytes | None], **how: Any) -> None:
    batch = results(rows, a__x=rows, **{k: v for k, v in how.items() if k == "status"})
    batch = batch.append_column(CARRY, pa.array(values, pa.large_binary()))
    of = {k: v for k, v in how.items() if k != "status"}
    write_part(files, batch, table="rows.1", **of)


def test_outputs_are_found_by_row_as_the_objects_they_were(tmp_path: Path) -> None:
    files = two_phases(tmp_path / "run", rows=3)
    part_with(files, [2, 0], [pack({"a": (1, {2})}, ()), pack({"a": None}, ["a"])])

    found = carried(files, tmp_path)

    assert found.of(2) == ({"a": (1, {2})}, set())
    assert found.of(0) == ({"a": None}, {"a"})
    assert found.of(1) == ({}, set())


def test_outputs_of_the_latest_attempt_count_and_failed_ones_do_not(tmp_path: Path) -> None:
    files = two_phases(tmp_path / "run", rows=1)
    part_with(files, [0], [pack({"a": 1}, ())])
    part_with(files, [0], [pack({"a": 2}, ())], attempt=2)
    part_with(files, [0], [None], attempt=3, status=[FAILED])

    assert carried(files, tmp_path).of(0) == ({"a": 2}, set())


def test_what_another_user_has_written_is_not_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = two_phases(tmp_path / "run", rows=1)
    part_with(files, [0], [pack({"a": 1}, ())])
    found = carried(files, tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: 12345)

    with pytest.raises(PayloadError, match="another user"):
        found.of(0)


# Running in phases -------------------------------------------------------------------------------


class Phased(Local):
    """A plan on this machine whose stages run as phases where they need different things."""

    phased: ClassVar[bool] = True
    kind: Literal["phased-here"] = "phased-here"  # type: ignore[assignment]

    def for_stage(self, name: str, needs: Resources | None = None) -> Plan:
        asked = self.resources if needs is None else self.resources.merge(needs)
        return Phased(**{**dict(self), "resources": asked, "kind": "phased-here"})


@dataclass
class Fit:
    slope: float
    trace: tuple[int, ...]


def fit(x: int) -> Fit:
    if x == 2:
        raise ValueError("no 2")
    return Fit(x / 2, (x, x + 1))


def noise(x: int) -> Any:
    return np.arange(x)


def score(fit: Fit, noise: Any, x: int) -> dict[str, float]:
    assert isinstance(fit, Fit)
    if x == 3:
        raise KeyError("three")
    return {"score": fit.slope + sum(fit.trace) + float(noise.sum())}


def last(score: float, x: int) -> float:
    return score + x


def total(score: pd.DataFrame) -> dict[str, int]:
    return {"rows": len(score)}


def fitting(**needs: Any) -> Flow:
    """A flow whose second half needs something else where `needs` says so."""
    return (
        flow(param_grid(x=range(7)))
        .stage("fit", fit)
        .stage("noise", noise, skip_when=lambda x: x == 4)
        .stage("score", score, resources=needs or None)
        .stage("last", last, resources=needs or None)
        .reduce("total", total)
    )


@pytest.fixture
def _phased_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PLANS, "phased-here", Phased)


@pytest.mark.usefixtures("_phased_plans")
@pytest.mark.parametrize("dispatch", ["static", "queue"])
def test_rows_that_run_in_phases_give_the_same_table(tmp_path: Path, dispatch: str) -> None:
    from flowdist.submission import launch, write_run

    whole = fitting().distribute(local(workers=1, root=tmp_path)).submit().wait(60)
    plan = Phased(root=tmp_path, workers=2, target_jobs=2, dispatch=dispatch)
    files = write_run(fitting(cpus=2).distribute(plan), "phased")
    manifest = files.manifest()
    with pytest.raises(Exception, match="no backend"):
        launch(files, manifest)
    codes = [job_main(files.directory, 1, job) for job in jobs_of(manifest, [0, 1])]

    from flowdist import attach

    assert codes == [0] * 5
    assert [p["stages"] for p in row_phases(manifest)] == [["fit", "noise"], ["score", "last"]]
    phased = attach(files.directory)
    tables = [run_table(phased), run_table(whole)]
    pd.testing.assert_frame_equal(*tables)
    carried = read_part(files.path(files.parts()[0]), [CARRY])
    assert carried is not None
    assert carried.num_rows


def run_table(run: Any) -> pd.DataFrame:
    from flowdist.results import collect_rows, shown_record

    table = shown_record(collect_rows(run.files, run.rows), keep=True)
    frame: pd.DataFrame = table.to_pandas()
    return frame.drop(columns="_seconds")


@pytest.mark.usefixtures("_phased_plans")
def test_a_reduce_does_not_run_before_every_row_has_ended(tmp_path: Path) -> None:
    from flowdist.submission import launch, write_run

    plan = Phased(root=tmp_path, workers=1, target_jobs=1)
    files = write_run(fitting(cpus=2).distribute(plan), "phased")
    with pytest.raises(Exception, match="no backend"):
        launch(files, files.manifest())

    assert job_main(files.directory, 1, 0) == 0
    assert job_main(files.directory, 1, 2) == 1
    assert files.parts() == ["parts/00000-1-0000.arrow"]


@pytest.mark.usefixtures("_phased_plans")
def test_stages_that_need_the_same_run_together(tmp_path: Path) -> None:
    from flowdist.submission import stage_groups

    groups = stage_groups(fitting().distribute(Phased(root=tmp_path)))

    assert [[s.name for s in stages] for stages, _ in groups] == [["fit", "noise", "score", "last"]]
