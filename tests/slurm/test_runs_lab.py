"""Runs on a real cluster as they should go: every plan gives the tables of a run here."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lab_support import (
    PATIENCE,
    SMALL,
    _no_job_is_left,  # noqa: F401
    call,
    launch_of,
    no_row_was_kept_twice,
    queued,
    release,
    same_tables,
    small_flow,
    submit,
    until,
    until_rows,
)

from flowdist import Flow, Plan, attach, flow, param_grid, slurm, slurm_allocation, slurm_queue
from flowdist.plan import plan_of
from flowdist.run import Run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("lab")]


# Plans --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plan",
    [
        slurm(target_jobs=4, workers=2, **SMALL),
        slurm(by="group", within="subprocess", **SMALL),
        slurm_queue(nodes=3, cores_per_node=2, **SMALL),
        slurm_allocation(nodes=2, cores_per_node=4, oversubscribe=2, memory="800MB", time="5min"),
        slurm_allocation(nodes=2, cores_per_node=2, dispatch="queue", within="threads", **SMALL),
    ],
    ids=["static", "subprocesses", "queue", "allocation", "allocation-queue"],
)
def test_every_plan_gives_the_tables_of_a_run_here(plan: Plan, tmp_path: Path) -> None:
    it = small_flow()

    run = submit(it, plan_of(plan, root=tmp_path)).wait(PATIENCE)

    same_tables(run, it, tmp_path)
    no_row_was_kept_twice(run)


def test_an_allocation_fills_its_nodes_with_as_many_jobs_as_fit(tmp_path: Path) -> None:
    plan = slurm_allocation(nodes=2, cores_per_node=4, oversubscribe=2, memory="800MB", time="5min",
                            root=tmp_path)  # fmt: skip

    run = submit(small_flow(48), plan).wait(PATIENCE)

    assert launch_of(run)["arrays"][0]["tasks"] == "0-3"
    assert launch_of(run)["arrays"][0]["limit"] == 2
    # Accounting hears of things a little later.
    asked = ("sacct", "-X", "-n", "-P", f"--name={run.id}", "--format=ReqCPUS,NNodes")
    until(lambda: call(*asked).split().count("4|1") == 4, "four jobs of four cores on a node")
    assert most_at_once(run, "rows") <= 2


def test_a_job_of_a_whole_node_has_a_worker_for_each_core_that_slurm_gave(tmp_path: Path) -> None:
    def where(x: int) -> dict[str, int]:
        time.sleep(0.3)
        return {"worker": os.getpid(), "cores": int(os.environ["SLURM_CPUS_ON_NODE"])}

    it = flow(param_grid(x=range(16))).stage("where", where)
    plan = slurm(target_jobs=1, exclusive=True, memory="1GB", time="5min", root=tmp_path)

    table = submit(it, plan).wait(PATIENCE).collect()

    assert set(table["where.cores"]) == {4}
    assert table["where.worker"].nunique() == 4


# Phases -------------------------------------------------------------------------------------------


@dataclass
class Model:
    slope: int
    knots: tuple[int, ...]


def model(x: int) -> Model:
    if x == 3:
        raise ValueError("no 3")
    return Model(x * x, tuple(range(x)))


def signal(x: int) -> np.ndarray[Any, Any]:
    return np.arange(x + 1)


def score(model: Model, signal: np.ndarray[Any, Any], x: int) -> dict[str, Any]:
    if x == 5:
        raise KeyError("five")
    return {"type": type(model).__name__, "sum": model.slope + len(model.knots) + int(signal.sum())}


def best(score: pd.DataFrame, k: str) -> dict[str, Any]:
    return {"rows": len(score), "best": int(score["sum"].max())}


def spread(best: pd.DataFrame) -> int:
    return int(best["best"].max() - best["best"].min())


def phased_flow() -> Flow:
    return (
        flow(param_grid(k=["a", "b"], x=range(8)))
        .stage("model", model, resources={"cpus": 1})
        .stage("signal", signal, skip_when=lambda x: x == 6, resources={"cpus": 1})
        .stage("score", score, resources={"cpus": 2, "memory": "200MB"})
        .reduce("best", best, by="k")
        .reduce("spread", spread)
    )


@pytest.mark.parametrize("dispatch", ["static", "queue"])
def test_what_stages_return_travels_to_stages_with_other_needs(
    dispatch: str, tmp_path: Path
) -> None:
    it = phased_flow()

    run = submit(it, slurm(target_jobs=3, workers=2, dispatch=dispatch, root=tmp_path, **SMALL))

    tables = [phase["table"] for phase in run.manifest["phases"]]
    assert tables == ["rows.1", "rows.2", "best", "spread"]
    same_tables(run.wait(PATIENCE), it, tmp_path)


def test_a_stage_runs_where_the_plan_says(tmp_path: Path) -> None:
    def node(x: int) -> str:
        return os.environ["SLURMD_NODENAME"]

    def gpu(x: int) -> str:
        return os.environ["SLURMD_NODENAME"] + os.environ["CUDA_VISIBLE_DEVICES"]

    it = flow(param_grid(x=range(4))).stage("node", node).stage("gpu", gpu)
    stages = {"gpu": {"partition": "gpu", "gpus": 1}, "node": {"constraint": "old"}}

    run = submit(it, slurm(target_jobs=2, workers=2, stages=stages, root=tmp_path, **SMALL))

    table = run.wait(PATIENCE).collect()
    assert set(table["node.value"]) <= {"n1", "n2"}
    assert set(table["gpu.value"]) == {"n40"}


# Many jobs ----------------------------------------------------------------------------------------


def test_more_jobs_than_an_array_may_have_become_several_arrays(tmp_path: Path) -> None:
    it = small_flow(30)

    run = submit(it, slurm(target_jobs=30, workers=1, cpus=1, memory="200MB", time="5min",
                           root=tmp_path)).wait(PATIENCE)  # fmt: skip

    arrays = launch_of(run)["arrays"]
    assert [(a["base"], a["tasks"]) for a in arrays] == [
        (0, "0-10"), (11, "0-10"), (22, "0-7"), (30, "0")
    ]  # fmt: skip
    same_tables(run, it, tmp_path)
    no_row_was_kept_twice(run)


def test_no_more_jobs_run_at_once_than_the_plan_allows(tmp_path: Path) -> None:
    it = small_flow(42, seconds=0.1)
    plan = slurm(target_jobs=14, workers=1, jobs_at_once=3, root=tmp_path, **SMALL)

    run = submit(it, plan).wait(PATIENCE)

    assert len(launch_of(run)["arrays"]) == 3
    assert 1 < most_at_once(run, "rows") <= 3
    same_tables(run, small_flow(42), tmp_path)


def most_at_once(run: Run, table: str) -> int:
    """How many jobs were at work at the same time, from their heartbeats."""
    beats = [beat for _, beat in run.files.beats() if beat["table"] == table]
    edges = sorted(
        itertools.chain.from_iterable([(b["started"], 1), (b["time"], -1)] for b in beats)
    )
    return max(itertools.accumulate(step for _, step in edges))


@pytest.mark.parametrize("limit", [{"account": "limited"}, {"qos": "short"}], ids=str)
def test_jobs_go_in_waves_where_slurm_takes_only_some_at_a_time(
    limit: dict[str, str], tmp_path: Path
) -> None:
    it = small_flow(30)
    plan = slurm(target_jobs=10, workers=1, memory="300MB", time="2min", root=tmp_path, **limit)

    run = submit(it, plan)
    first = run.status().attempt
    run.wait(PATIENCE)

    # At most eight at a time, one of which is the keeper.
    assert first == 1
    assert len(run.files.attempts()) > 1
    for attempt in run.files.attempts():
        assert sum(array["count"] for array in launch_of(run, attempt)["arrays"]) <= 8
    same_tables(run, it, tmp_path)
    no_row_was_kept_twice(run)


# From outside -------------------------------------------------------------------------------------


def test_a_cancelled_run_keeps_what_is_done_and_resume_finishes_it(tmp_path: Path) -> None:
    it = small_flow(48, seconds=0.4)
    run = submit(it, slurm(target_jobs=2, workers=2, root=tmp_path, **SMALL))
    done = until_rows(run, 6).done

    status = run.cancel().status()

    assert status.state == "stopped"
    assert status.reason.startswith("cancelled; ")
    assert done <= status.done < 48
    assert until(lambda: not queued(run, "pending,running,completing"), "its jobs have ended")
    kept = set(run.files.parts())
    same_tables(run.resume().wait(PATIENCE), small_flow(48), tmp_path)
    assert kept < set(run.files.parts())
    no_row_was_kept_twice(run)


def test_a_run_that_is_cancelled_before_it_starts_can_be_resumed(tmp_path: Path) -> None:
    it = small_flow(6)
    run = submit(it, slurm(target_jobs=1, workers=1, extra={"hold": True}, root=tmp_path, **SMALL))

    status = run.cancel().status()

    assert (status.state, status.done) == ("stopped", 0)
    run.resume()
    until(lambda: queued(run, "pending"), "it waits")
    release(run)
    same_tables(run.wait(PATIENCE), it, tmp_path)


ELSEWHERE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from lab_support import SMALL, small_flow, submit
from flowdist import attach, slurm
root = Path(sys.argv[2])
if len(sys.argv) == 3:
    print(submit(small_flow(), slurm(target_jobs=2, workers=1, root=root, **SMALL)).id)
else:
    run = attach(sys.argv[3], root=root)
    print(len(run.wait(100).collect(errors="keep")), run.status().state)
"""


def elsewhere(*arguments: object) -> str:
    """What a process of its own says."""
    here = Path(__file__).parent
    command = [sys.executable, "-c", ELSEWHERE, str(here), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, check=True
    ).stdout.strip()


def test_a_run_is_found_and_finished_by_other_processes_than_its_submitter(tmp_path: Path) -> None:
    run_id = elsewhere(tmp_path)

    assert elsewhere(tmp_path, run_id) == "24 done"
    same_tables(attach(run_id, root=tmp_path), small_flow(), tmp_path)


# What it says -------------------------------------------------------------------------------------


def test_the_output_of_each_job_is_kept(tmp_path: Path) -> None:
    def speak(x: int) -> int:
        sys.stdout.write(f"row {x} says hello\n")
        return x

    it = flow(param_grid(x=range(4))).stage("speak", speak)
    run = submit(it, slurm(target_jobs=2, workers=1, root=tmp_path, **SMALL)).wait(PATIENCE)

    said = ["\n".join(run.logs(job)) for job in (0, 1)]

    assert [re.findall(r"row \d", text) for text in said] == [
        ["row 0", "row 1"],
        ["row 2", "row 3"],
    ]
    assert "row 0" in "\n".join(run.logs())


def test_explain_says_why_jobs_wait_and_what_would_let_them_go_on(tmp_path: Path) -> None:
    it = small_flow(6)
    run = submit(it, slurm(target_jobs=2, workers=1, extra={"hold": True}, root=tmp_path, **SMALL))

    said = str(until(lambda: "JobHeldUser" in str(e := run.explain()) and e, "SLURM says why"))

    assert "It has not begun: 3 jobs pending for " in said
    assert "it is held by its owner: `scontrol release` lets it go on" in said
    assert "-> let them go on: scontrol release " in said
    release(run)
    same_tables(run.wait(PATIENCE), it, tmp_path)
    assert run.explain().summary == "It is done: every row has a result."


def test_explain_names_the_limit_that_jobs_wait_for(tmp_path: Path) -> None:
    it = small_flow(9, seconds=1)
    plan = slurm(target_jobs=3, workers=1, jobs_at_once=1, root=tmp_path, **SMALL)
    run = submit(it, plan)
    until_rows(run, 1)

    said = str(until(lambda: "JobArrayTaskLimit" in str(e := run.explain()) and e, "SLURM says so"))

    assert "1 task of the array may run at once (JobArrayTaskLimit: jobs_at_once); 1 is " in said
    same_tables(run.wait(PATIENCE), small_flow(9), tmp_path)


def test_explain_names_what_can_never_start(tmp_path: Path) -> None:
    # A limit of the QOS that preflight warns of, and that SLURM only says while the jobs wait.
    plan = slurm(target_jobs=1, workers=1, memory="300MB", time="20min", qos="short", root=tmp_path)
    run = submit(small_flow(6), plan)

    said = str(until(lambda: "WallDuration" in str(e := run.explain()) and e, "SLURM says so"))

    assert re.search(r"It has not begun: \d jobs? pending for ", said)
    assert "-> cancel the run and submit it with what the cluster allows" in said
    assert run.cancel().status().state == "stopped"
