"""Why a run is not done.

Runs at work are made by hand: what jobs would have written, and a process that lives, this one.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from flowdist.clock import ManualClock
from flowdist.explain import Explanation, command, error_groups, explain
from flowdist.flow import Flow, flow
from flowdist.grid import param_grid
from flowdist.plan import local
from flowdist.run import Run
from flowdist.settings import host
from flowdist.store import JobAttempt
from flowdist.submission import write_run


def work(subject: str, trial: int) -> float:
    return 1.0


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Flow]:
    """A flow of 30 rows in 3 jobs."""

    def build(fn: Callable[..., Any] = work, **stage: Any) -> Flow:
        grid = param_grid(subject=["s01", "s02", "s03"], trial=range(10))
        plan = local(root=str(tmp_path), within="sequential", by="subject", chunks_per_job=1)
        return flow(grid, name="study").stage("fit", fn, **stage).distribute(plan)

    return build


class AtWork:
    """A run whose first job this process claims to be running."""

    def __init__(self, study: Flow, now: float) -> None:
        self.now = now
        self.run = Run(write_run(study, "study"))
        files, me = self.run.files, psutil.Process()
        files.put_json(files.intent(1), {"time": now - 60, "jobs": [0, 1, 2], "before": {}})
        files.put_json(
            files.launch(1),
            {"time": now - 60, "host": host(), "pid": me.pid, "command": me.cmdline()},
        )

    def beat(self, job: int = 0, *, heard: float = 1.0, **values: Any) -> None:
        """What the job says of itself; `heard` is how many seconds ago."""
        said = {
            "time": self.now - heard, "started": self.now - 60, "state": "running", "reason": "",
            "table": "rows", "host": host(), "pid": os.getpid(), "rows": 10, "ok": 0, "failed": 0,
            "skipped": 0, "seconds": 0.0, "lost_workers": 0, "memory": 0, "running": [],
        }  # fmt: skip
        self.run.files.put_beat(JobAttempt(job, 1), said | values)

    def explain(self) -> Explanation:
        return explain(self.run, ManualClock(self.now))


@pytest.fixture
def at_work(make: Callable[..., Flow]) -> AtWork:
    return AtWork(make(), time.time())


def texts(found: Explanation, kind: str) -> list[str]:
    return [fact.text for fact in found.facts if fact.kind == kind]


def commands(found: Explanation) -> list[str]:
    return [advice.command.split(" --root")[0] for advice in found.advice]


def test_a_run_that_is_done(make: Callable[..., Flow]) -> None:
    run = make().submit().wait()

    found = run.explain()

    assert found.summary == "It is done: every row has a result."
    assert texts(found, "rows") == ["30 of 30 rows have ended: 30 ok, 0 failed"]
    assert commands(found) == [f"flowdist collect {run.id}"]


def test_what_failed_most_comes_first(make: Callable[..., Flow]) -> None:
    def fail(subject: str, trial: int) -> float:
        if subject == "s02":
            raise ValueError(f"no signal in trial {trial}\nand more")
        if trial == 7:
            raise KeyError("slope")
        return 1.0

    run = make(fail).submit().wait()
    found = run.explain()

    assert found.summary == "It is done, and 12 rows failed."
    assert texts(found, "errors") == [
        "10 × ValueError in stage 'fit', as in row 10: no signal in trial 0",
        "2 × KeyError in stage 'fit', as in row 7: 'slope'",
    ]
    assert f"flowdist errors {run.id}" in commands(found)
    assert f"flowdist resume {run.id} --failed" in commands(found)


def test_an_error_that_a_resume_has_mended_is_history(
    make: Callable[..., Flow], tmp_path: Path
) -> None:
    mended = tmp_path / "mended"

    def fail(subject: str, trial: int) -> float:
        if trial == 3 and not (subject == "s01" and mended.exists()):
            raise ValueError("not yet")
        return 1.0

    run = make(fail).submit().wait()
    mended.touch()
    run.resume(failed=True).wait()

    (group,) = error_groups(run)
    assert (group.type, group.count, group.row) == ("ValueError", 2, 13)


def test_before_the_first_job_reports(at_work: AtWork) -> None:
    found = at_work.explain()

    assert found.state == "pending"
    assert texts(found, "jobs") == ["3 jobs pending, none running yet"]


def test_rows_in_work_are_called_by_number_and_parameters(at_work: AtWork) -> None:
    running = [{"position": 12, "stage": "fit", "seconds": 3.0}]
    at_work.beat(ok=4, seconds=12.0, running=running)

    found = at_work.explain()

    assert found.summary.startswith("It is running: 1 row in work, 25 rows waiting; about")
    (text,) = texts(found, "running row")
    assert text == "row 12 (subject='s02', trial=2) has been in stage 'fit' for 3.0 s"
    assert texts(found, "jobs") == ["2 jobs pending, 1 running; the plan runs 1 at a time"]


def test_a_row_that_takes_far_longer_than_others_is_pointed_out(at_work: AtWork) -> None:
    running = [{"position": 12, "stage": "fit", "seconds": 300.0}]
    at_work.beat(ok=4, seconds=2.0, running=running)

    found = at_work.explain()

    (text,) = texts(found, "slow row")
    assert text.endswith("for 5 min; rows took 0.5 s on average so far")
    assert "a timeout on stage 'fit' would end rows that hang" in found.advice[0].text


def test_a_slow_row_with_a_timeout_needs_no_advice(make: Callable[..., Flow]) -> None:
    at_work = AtWork(make(timeout="10min"), time.time())
    running = [{"position": 12, "stage": "fit", "seconds": 300.0}]
    at_work.beat(ok=4, seconds=2.0, running=running)

    found = at_work.explain()

    assert "for 5 min of at most 10 min" in texts(found, "slow row")[0]
    assert commands(found) == [f"flowdist watch {at_work.run.id}"]


def test_rows_are_called_by_their_number_in_the_grid(tmp_path: Path) -> None:
    # Grouping puts rows of one subject side by side; people know them by their place in the grid.
    grid = param_grid(trial=range(10), subject=["s01", "s02", "s03"])
    plan = local(root=str(tmp_path), by="subject", within="sequential")
    at_work = AtWork(flow(grid).stage("fit", work).distribute(plan), time.time())
    at_work.beat(ok=1, running=[{"position": 12, "stage": "fit", "seconds": 3.0}])

    (text,) = texts(at_work.explain(), "running row")
    assert text.startswith("row 7 (trial=2, subject='s02')")


def test_a_job_that_has_fallen_silent(at_work: AtWork) -> None:
    at_work.beat(heard=90.0, ok=4)

    found = at_work.explain()

    assert texts(found, "silent job") == [f"job 0 on {host()} was last heard of 1 min 30 s ago"]
    told = [advice.command for advice in found.advice]
    assert any("flowdist cancel" in c and "&& flowdist resume" in c for c in told)


def test_workers_that_died_are_told_with_the_likely_cause(at_work: AtWork) -> None:
    at_work.beat(ok=4, lost_workers=2)

    found = at_work.explain()

    assert texts(found, "lost workers") == ["2 worker processes died while running rows"]
    assert any("memory" in advice.text for advice in found.advice)


def test_a_run_that_was_stopped_says_how_to_go_on(at_work: AtWork) -> None:
    at_work.run.files.request_stop(1, "cancelled", at_work.now)
    for job in range(3):
        at_work.beat(job, state="stopped", reason="cancelled")

    found = at_work.explain()

    assert found.summary == "It was stopped: cancelled; 30 rows have no result."
    assert commands(found) == [f"flowdist resume {at_work.run.id}"]


def test_a_run_that_could_not_go_on_shows_the_end_of_its_log(at_work: AtWork) -> None:
    log = at_work.run.files.path(at_work.run.files.launch_log(1))
    log.parent.mkdir(exist_ok=True)
    log.write_text("".join(f"line {n}\n" for n in range(100)))
    for job in range(3):
        at_work.beat(job, state="failed", reason="OSError: the disk is full")

    found = at_work.explain()

    assert found.summary == "Its jobs could not run: OSError: the disk is full."
    (text,) = texts(found, "log")
    assert text.splitlines()[1:] == [f"line {n}" for n in range(95, 100)]
    assert f"flowdist logs {at_work.run.id}" in commands(found)


def test_a_run_that_was_never_launched_can_be_resumed(make: Callable[..., Flow]) -> None:
    run = Run(write_run(make(), "study"))

    found = run.explain()

    assert found.state == "lost"
    assert f"flowdist resume {run.id}" in commands(found)


def test_when_rows_have_ended_it_waits_for_the_reduce(make: Callable[..., Flow]) -> None:
    at_work = AtWork(make().reduce("total", lambda fit: 1), time.time())
    for job in range(3):
        at_work.beat(job, state="done", ok=10)
    at_work.beat(3, table="total", running=[{"position": 0, "stage": "total", "seconds": 5.0}])

    found = at_work.explain()

    assert found.summary == "All rows have ended; what is left is reduce 'total'."
    assert texts(found, "reduce") == ["reduce 'total' is running"]
    assert not texts(found, "running row")


def test_commands_name_the_root_where_it_is_not_the_default(
    make: Callable[..., Flow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(write_run(make(), "study"))
    assert command(run, "resume").endswith(f"resume {run.id} --root {tmp_path}")

    monkeypatch.setenv("FLOWDIST_ROOT", str(tmp_path))
    assert command(run, "resume") == f"flowdist resume {run.id}"


def test_an_explanation_is_data_and_text(at_work: AtWork) -> None:
    at_work.beat(ok=4, running=[{"position": 12, "stage": "fit", "seconds": 3.0}])
    found = at_work.explain()

    data = json.loads(json.dumps(found.to_dict()))
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(found)

    row = next(fact for fact in data["facts"] if fact["kind"] == "running row")
    assert row["data"]["parameters"] == {"subject": "s02", "trial": 2}
    for text in (str(found), console.export_text()):
        assert found.summary in text
        assert all(fact.text in text for fact in found.facts)
        assert all(advice.text in text for advice in found.advice)
