"""`spcs_tasks`: graphs that run, fail, are tried again, cancelled, left behind, and scheduled."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cloud import Cloud
from test_graph import recipe

from flowdist import Run, attach, flow, param_grid
from flowdist.backends.base import JobState
from flowdist.backends.snowflake.graph import creations, graphs, removals
from flowdist.backends.snowflake.history import GraphHistory, history_statement
from flowdist.backends.snowflake.remote import Remote
from flowdist.backends.snowflake.tasks import SILENT_SECONDS, TaskGraphs, _run
from flowdist.cli import cli
from flowdist.clock import ManualClock
from flowdist.errors import BackendError, PlanError, RunError
from flowdist.flow import Flow
from flowdist.snowflake.names import Name

SCHEMA = Name.parse("flowdist.public.runs")
# Runs a flow and dies at a given point of its submission.
DYING_DRIVER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from cloud import CONSTRUCTORS, IMAGE
from flowdist import flow, param_grid
from flowdist.backends.snowflake import tasks

setattr(tasks, sys.argv[3], lambda *_: os._exit(9))
plan = CONSTRUCTORS["spcs-tasks"](
    compute_pool="cells", image=IMAGE, stage="flowdist.public.runs", workers=1, target_jobs=1,
    root=sys.argv[2], connection="ours",
)
flow(param_grid(x=range(2))).stage("sq", lambda x: x * x).distribute(plan).submit()
"""


def squares(
    cloud: Cloud, root: Path, *, rows: int = 4, reduce: bool = True, **options: Any
) -> Flow:
    made = flow(param_grid(x=range(rows))).stage("sq", lambda x: {"y": x * x})
    if reduce:
        made = made.reduce("total", lambda sq: int(sq["y"].sum()))
    return made.distribute(cloud.plan("spcs-tasks", root, **options))


def left_of(run: Run, cloud: Cloud) -> list[str]:
    """What is on Snowflake of a run, statistics aside."""
    client = cloud.client()
    tasks = client.rows("SHOW TASKS IN ACCOUNT")
    services = client.rows("SHOW SERVICES IN ACCOUNT")
    files = client.rows(f"LIST @flowdist.public.runs/runs/{run.id}")
    ours = [one["name"] for one in (*tasks, *services) if run.id in str(one["comment"])]
    return [*ours, *(one["name"] for one in files)]


def services_of(run: Run, cloud: Cloud) -> list[str]:
    rows = cloud.client().rows("SHOW JOB SERVICES IN ACCOUNT")
    return [row["name"] for row in rows if row["comment"] == f"flowdist {run.id}"]


def tasks_of(run_id: str, cloud: Cloud) -> list[str]:
    rows = cloud.client().rows("SHOW TASKS IN ACCOUNT")
    return [row["name"] for row in rows if row["comment"] == f"flowdist {run_id}"]


def until(condition: Callable[[], Any], seconds: float = 40.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.2)
    return found


def test_a_flow_runs_as_a_graph_and_leaves_only_its_statistics(
    cloud: Cloud, tmp_path: Path
) -> None:
    run, client = squares(cloud, tmp_path, rows=12).submit(), cloud.client()
    ours = run.backend._remote(run._handle()).client

    def statements() -> int:
        before = ours.statements
        return 0 if run.status().ended else ours.statements - before

    until(lambda: run.status().state == "running")
    assert max(statements() for _ in range(10)) <= 1
    run.wait(60)

    assert run.status().state == "done"
    assert run.collect()["sq.y"].tolist() == [x * x for x in range(12)]
    assert run.table("total")["value"].tolist() == [506]
    assert tasks_of(run.id, cloud) == []
    rows = client.rows(
        "SELECT name, state, attempt_number, seconds FROM flowdist.public.flowdist_task_stats "
        "WHERE run_id = ? ORDER BY name", (run.id,),
    )  # fmt: skip
    ends = [row["name"].rpartition("_TASKS_")[2] for row in rows]
    assert ends == ["0", "0_JOB_00000", "0_JOB_00001", "0_REDUCES"]
    assert {row["state"] for row in rows} == {"SUCCEEDED"}
    assert all(row["seconds"] > 0 for row in rows)
    run.delete()
    assert left_of(run, cloud) == []


def test_a_failed_row_is_a_result_and_a_failed_container_says_how_it_ended(
    cloud: Cloud, tmp_path: Path
) -> None:
    def picky(x: int) -> int:
        import os
        import signal

        print("working on", x, flush=True)  # noqa: T201
        if x == 0:
            raise ValueError("no zero")
        if x == 3:
            os.kill(os.getppid(), signal.SIGKILL)
        return x

    run = (
        flow(param_grid(x=range(4)))
        .stage("pick", picky)
        .reduce("count", len)
        .distribute(cloud.plan("spcs-tasks", tmp_path))
        .submit()
        .wait(60)
    )

    status = run.status()
    assert (status.state, status.ok, status.failed) == ("failed", 1, 1)
    assert status.jobs == {"done": 1, "failed": 1, "cancelled": 1}
    assert "exit code 137" in status.reason
    assert "working on 3" in status.reason or "working on 3" in str(run.explain())
    assert "working on 3" in list(run.logs(job=1))
    # What is there is not lost.
    kept = run.collect(errors="keep", partial=True)
    assert kept["_status"].tolist()[:2] == ["failed", "ok"]
    assert tasks_of(run.id, cloud) == []
    run.delete()


def test_snowflake_tries_a_failed_job_again(cloud: Cloud, tmp_path: Path) -> None:
    def slow(x: int) -> int:
        import time

        time.sleep(5.0 * x)  # long enough to be seen and killed on a busy machine
        return x

    plan = cloud.plan("spcs-tasks", tmp_path, target_jobs=1, retries=1)
    run = flow(param_grid(x=range(2))).stage("slow", slow).distribute(plan).submit()
    client = cloud.client()
    until(lambda: run.status().working_on)
    [service] = services_of(run, cloud)
    cloud.emulator.faults.kill_container(f"flowdist.public.{service}")

    run.wait(60)

    assert run.status().state == "done"
    assert run.collect()["slow.value"].tolist() == [0, 1]
    assert len(services_of(run, cloud)) == 2
    attempts = client.rows(
        "SELECT attempt_number, state FROM flowdist.public.flowdist_task_stats "
        "WHERE run_id = ? AND name LIKE '%JOB%' ORDER BY 1", (run.id,),
    )  # fmt: skip
    assert [tuple(row.values()) for row in attempts] == [(1, "FAILED"), (2, "SUCCEEDED")]
    run.delete()


def test_cancel_ends_the_jobs_and_removes_the_graph(cloud: Cloud, tmp_path: Path) -> None:
    def endless(x: int) -> int:
        import time

        time.sleep(x * 100)
        return x

    plan = cloud.plan("spcs-tasks", tmp_path, target_jobs=1, retries=2)
    run = flow(param_grid(x=range(2))).stage("end", endless).distribute(plan).submit()
    until(lambda: run.status().ok == 1)

    run.cancel()

    assert run.status().state == "stopped"
    assert run.collect(errors="keep", partial=True)["_status"].tolist() == ["ok", "missing"]
    assert tasks_of(run.id, cloud) == []
    assert len(services_of(run, cloud)) == 1, "it was not tried again"
    run.delete()
    assert left_of(run, cloud) == []


@pytest.mark.parametrize("begun", [False, True])
def test_a_driver_that_dies_while_it_starts_a_graph(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    home, root = tmp_path / "home", tmp_path / "runs"
    home.mkdir()
    lines = "\n".join(f"{k} = {v!r}" for k, v in cloud.connection.items())
    file = home / "connections.toml"
    file.write_text(f"[ours]\n{lines.replace('True', 'true').replace('False', 'false')}\n")
    file.chmod(0o600)
    monkeypatch.setenv("SNOWFLAKE_HOME", str(home))
    died = subprocess.run(
        [
            *(sys.executable, "-c", DYING_DRIVER, str(Path(__file__).parent), str(root)),
            # Before the graph is run; after that, and before it is written down.
            "_started" if begun else "_roots",
        ],
        timeout=60,
        capture_output=True,
    )
    assert died.returncode == 9, died.stderr.decode()
    [directory] = root.iterdir()
    assert len(tasks_of(directory.name, cloud)) == 3

    run = attach(directory.name, root)

    if not begun:
        assert run.status().state == "lost"
        assert tasks_of(run.id, cloud) == []
        run.resume()
    run.wait(60)
    assert run.collect()["sq.value"].tolist() == [0, 1]
    assert len(services_of(run, cloud)) == 1, "it ran once"
    assert tasks_of(run.id, cloud) == []
    run.delete()
    assert left_of(run, cloud) == []


def test_a_graph_of_which_nothing_is_heard_is_lost_in_the_end_and_can_be_cancelled(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowdist.backends.snowflake.tasks.CANCELLED_SECONDS", 2.0)
    with cloud.emulator.faults.fail_statement("^EXECUTE TASK", errno=290503):
        # Snowflake does not answer, and has not begun it either.
        run = squares(cloud, tmp_path).submit()
    remote: Remote = run.backend._remote(run._handle())
    began = float(remote.started["time"])

    soon, late = (
        TaskGraphs(ManualClock(began + after)).ask(remote, {})
        for after in (1.0, SILENT_SECONDS + 1)
    )

    assert {seen.state for seen in soon.values()} == {JobState.PENDING}
    assert {seen.state for seen in late.values()} == {JobState.LOST}
    run.cancel()
    run.delete()


def test_a_graph_that_is_refused_is_not_left_behind(cloud: Cloud, tmp_path: Path) -> None:
    words = "EXECUTE MANAGED TASK privilege must be granted to owner role"
    with (
        cloud.emulator.faults.fail_statement("^EXECUTE TASK", errno=91089, message=words),
        pytest.raises(BackendError, match=r"was not started: .*EXECUTE MANAGED TASK"),
    ):
        squares(cloud, tmp_path).submit()

    [directory] = tmp_path.iterdir()
    assert tasks_of(directory.name, cloud) == []


def test_jobs_of_several_graphs_and_then_the_reduces(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowdist.backends.snowflake.graph.MOST_JOBS", 1)
    run = squares(cloud, tmp_path).submit().wait(60)

    assert len(run._handle().started["roots"]) == 2
    assert run.status().state == "done"
    assert run.table("total")["value"].tolist() == [14]
    assert tasks_of(run.id, cloud) == []
    run.delete()
    assert left_of(run, cloud) == []


def test_a_large_graph_is_made_run_and_removed_in_few_statements(cloud: Cloud) -> None:
    client = cloud.client()
    [graph] = graphs("FD_LARGE_1_TASKS", range(150), reduces=True)
    root = SCHEMA.beside(graph.root).sql

    _run(client, creations(graph, recipe(schema=SCHEMA)))
    made = client.statements
    client.run(f"SELECT SYSTEM$TASK_DEPENDENTS_ENABLE('{root}')")
    client.run(f"EXECUTE TASK {root}")
    [shown] = client.rows("SHOW TASKS IN SCHEMA FLOWDIST.PUBLIC STARTS WITH 'FD_LARGE' ROOT ONLY")
    sql = history_statement([shown["id"]], "FLOWDIST", since=time.time() - 60)
    history = until(lambda: (h := GraphHistory.of(client.rows(sql))).finalized and h, 60)
    before = client.statements
    _run(client, removals(SCHEMA, "FD_LARGE_1_TASKS_", graph.names))

    assert made <= 3
    assert client.statements - before <= 2
    assert {row["state"] for row in history.rows.values()} == {"SUCCEEDED"}
    assert len(history.rows) == len(graph.names)
    assert client.rows("SHOW TASKS IN SCHEMA FLOWDIST.PUBLIC STARTS WITH 'FD_LARGE'") == []


def test_a_schedule_starts_runs_that_are_runs_of_their_own(cloud: Cloud, tmp_path: Path) -> None:
    root, client = tmp_path / "runs", cloud.client()
    run = squares(cloud, root, target_jobs=1, schedule="10 SECONDS").submit()
    graph = run._handle().started["roots"][0]["name"]
    assert run.firings() == []
    client.run(f"EXECUTE TASK flowdist.public.{graph}")  # at once, beside its schedule

    status = run.status()
    assert (status.state, status.reason, status.ended) == ("scheduled", "every 10 seconds", False)
    with pytest.raises(RunError, match=r"run\.firings\(\)"):
        run.collect()
    until(lambda: len(run.firings()) == 2)
    client.run(f"ALTER TASK flowdist.public.{graph} SUSPEND")  # two are enough
    for firing in run.firings():
        assert firing.id.startswith(f"{run.id}.")
        assert firing.manifest["created"] > run.manifest["created"] - 1
        firing.wait(60)
        assert firing.status().state == "done"
        assert firing.collect()["sq.y"].tolist() == [0, 1, 4, 9]
        assert firing.table("total")["value"].tolist() == [14]
    assert run.status().state == "scheduled", "firings that end do not end it"
    explained = run.explain()
    assert explained.facts[0].data["firings"] == [firing.id for firing in run.firings()]
    assert f"flowdist runs --of {run.id}" in str(explained)
    listed = CliRunner().invoke(cli, ["runs", "--of", run.id, "--root", str(root), "--json"])
    assert {line["state"] for line in json.loads(listed.stdout)} <= {"done", "running", "pending"}

    # From another machine.
    first, second = run.firings()[:2]
    address = f"@flowdist.public.runs/runs/{first.id}"
    there = attach(address, connection=cloud.connection, root=tmp_path / "elsewhere")
    assert there.status().state == "done"
    assert there.collect()["sq.y"].tolist() == [0, 1, 4, 9]

    first.delete()
    assert second.id in {firing.id for firing in run.firings()}
    assert first.id not in {firing.id for firing in run.firings()}
    run.cancel()
    assert run.status().state == "stopped"
    assert tasks_of(run.id, cloud) == []
    run.delete()
    assert left_of(run, cloud) == []
    assert list(root.iterdir()) == []


def test_a_schedule_that_snowflake_has_suspended_is_a_failed_run(
    cloud: Cloud, tmp_path: Path
) -> None:
    def broken(x: int) -> None:
        import os
        import signal

        os.kill(os.getppid(), signal.SIGKILL)

    plan = cloud.plan("spcs-tasks", tmp_path, schedule="60 MINUTES", target_jobs=1)
    run = flow(param_grid(x=[1])).stage("break", broken).distribute(plan).submit()
    root, client = run._handle().started["roots"][0]["name"], cloud.client()
    for what in ("SUSPEND", "SET SUSPEND_TASK_AFTER_NUM_FAILURES = 1", "RESUME"):
        client.run(f"ALTER TASK flowdist.public.{root} {what}")
    assert run.status().state == "scheduled"
    client.run(f"EXECUTE TASK flowdist.public.{root}")

    status = run.wait(60).status()

    assert status.state == "failed"
    assert "its schedule was suspended" in status.reason
    [firing] = run.firings()
    assert "exit code 137" in firing.status().reason
    assert tasks_of(run.id, cloud) == []
    run.delete()
    assert left_of(run, cloud) == []


def test_a_schedule_is_for_one_graph(cloud: Cloud, tmp_path: Path) -> None:
    plan = cloud.plan("spcs-tasks", tmp_path, schedule="60 MINUTES", target_jobs=901)
    many = flow(param_grid(x=range(901))).stage("sq", lambda x: x * x).distribute(plan)

    with pytest.raises(PlanError, match="at most 900 jobs, and there are 901"):
        many.plan()
    with pytest.raises(PlanError, match="at most 900 jobs"):
        many.submit()


def test_only_what_has_a_schedule_has_firings(tmp_path: Path) -> None:
    run: Run = flow(param_grid(x=[1])).stage("sq", lambda x: x).submit()
    try:
        with pytest.raises(RunError, match="has no schedule"):
            run.firings()
    finally:
        run.wait(30).delete()
