"""`spcs_queue`: workers that claim chunks, and what becomes of a run when they die."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from cloud import Cloud

from flowdist import Run, flow, param_grid
from flowdist.backends.snowflake import workers
from flowdist.backends.snowflake.workers import QueueWorkers, _ranges
from flowdist.errors import BackendError
from flowdist.parts import read_part
from flowdist.workers.__main__ import THREAD_VARIABLES
from flowdist.workers.serve import fit_threads

QUEUE = "flowdist.public.flowdist_queue"


def slow(x: int, seconds: float) -> dict[str, int]:
    time.sleep(seconds)
    return {"y": x * x}


def wait_for(condition: Callable[[], bool], seconds: float = 110.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.2)


def wait_until_at_work(cloud: Cloud, run: Run, workers: int = 1) -> None:
    """Wait until so many hold chunks of a run."""
    holding = f"SELECT COUNT(DISTINCT WORKER_ID) FROM {QUEUE} WHERE JOB_ID = ? AND STATUS = ?"
    with closing(cloud.client()) as client:
        wait_for(lambda: client.value(holding, (f"{run.id}/1", "RUNNING")) >= workers)


def service(run: Run) -> str:
    return str((run._handle().started or {})["service"])


def processes(run: Run) -> list[list[psutil.Process]]:
    """The processes of each container of a run, its workers first."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "queue" in command and any(word.startswith(run.id) for word in command):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append([*process.children(recursive=True), process])
    # A container is what none of the others has started.
    return [one for one in found if not any(one[-1] in other[:-1] for other in found)]


@pytest.fixture
def seen_by_all() -> Iterator[Path]:
    """A directory that containers see; /tmp is their own."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        yield Path(directory)


def test_workers_claim_chunks_and_leave_nothing(cloud: Cloud, tmp_path: Path) -> None:
    run = (
        flow(param_grid(x=range(12)))
        .stage("sq", lambda x: {"y": x * x})
        .reduce("total", lambda sq: int(sq["y"].sum()))
        .distribute(cloud.plan("spcs-queue", tmp_path))
        .submit()
        .wait(90)
    )

    client = cloud.client()
    assert run.collect()["sq.y"].tolist() == [x * x for x in range(12)]
    assert run.table("total")["value"].tolist() == [506]
    states = client.rows(
        f"SELECT STATUS, COUNT(*) AS N, SUM(ATTEMPTS) AS A FROM {QUEUE} GROUP BY 1"
    )
    assert states == [{"status": "DONE", "n": 12, "a": 12}]
    run.delete()
    assert client.rows("LIST @flowdist.public.runs") == []
    assert client.rows("SHOW SERVICES IN ACCOUNT") == []
    assert client.value(f"SELECT COUNT(*) FROM {QUEUE}") == 0


def test_workers_for_which_there_was_no_room_do_not_start_when_all_is_done(
    cloud: Cloud, tmp_path: Path
) -> None:
    # A node has room for one.
    plan = cloud.plan("spcs-queue", tmp_path, replicas=4, cpus=4)
    build = flow(param_grid(x=range(40)), const={"seconds": 0.5}).stage("sq", slow)
    run = build.distribute(plan).submit()
    wait_until_at_work(cloud, run, workers=2)
    fed = run.feed({"x": range(10)})
    remote = run.backend._remote(run._handle())  # type: ignore[attr-defined]

    with closing(cloud.client()) as client:
        ask = f"DESCRIBE SERVICE {service(run)}"
        QueueWorkers().ended(remote)
        with_fed_rows = client.rows(ask)[0]["status"]
        client.run(f"DELETE FROM {QUEUE} WHERE JOB_ID = ?", (f"{fed.id}/1",))
        QueueWorkers().ended(remote)
        with_nothing_left = client.rows(ask)[0]["status"]

    assert with_fed_rows in ("PENDING", "RUNNING")
    assert with_nothing_left.startswith("CANCEL")
    run.cancel().delete()


def test_a_chunk_takes_less_than_two_statements(cloud: Cloud, tmp_path: Path) -> None:
    run = (
        flow(param_grid(x=range(200)))
        .stage("sq", lambda x: x * x)
        .distribute(cloud.plan("spcs-queue", tmp_path))
        .submit()
    )
    name = service(run).rpartition(".")[2]

    assert run.wait(90).collect()["sq.value"].tolist() == [x * x for x in range(200)]
    history = "TABLE(INFORMATION_SCHEMA.QUERY_HISTORY(RESULT_LIMIT => 10000))"
    with cloud.emulator.connect(role="ACCOUNTADMIN") as connection:
        cursor = connection.cursor()
        cursor.execute(f"SELECT COUNT(*) FROM {history} WHERE USER_NAME = '{name}'")
        ((by_workers,),) = cursor.fetchall()
    (driver,) = run.backend._clients.values()  # type: ignore[attr-defined]
    assert 10 < by_workers < 200
    assert driver.statements < 60
    run.delete()


def test_what_a_killed_worker_held_is_run_by_another(cloud: Cloud, tmp_path: Path) -> None:
    run = (
        flow(param_grid(x=range(24)), const={"seconds": 0.3})
        .stage("sq", slow)
        .distribute(cloud.plan("spcs-queue", tmp_path, lease=4))
        .submit()
    )
    wait_until_at_work(cloud, run, workers=2)

    cloud.emulator.faults.kill_container(service(run), instance=0)

    assert run.wait(90).status().state == "done"
    assert run.collect()["sq.y"].tolist() == [x * x for x in range(24)]
    run.delete()


def test_a_worker_that_comes_back_after_its_lease_changes_nothing(
    cloud: Cloud, tmp_path: Path
) -> None:
    run = (
        flow(param_grid(x=range(24)), const={"seconds": 0.3})
        .stage("sq", slow)
        .distribute(cloud.plan("spcs-queue", tmp_path, lease=3))
        .submit()
    )
    wait_until_at_work(cloud, run, workers=2)
    zombie = processes(run)[0]

    for process in zombie:
        process.suspend()
    assert run.wait(90).status().state == "done"
    for process in reversed(zombie):
        process.resume()
    wait_for(lambda: not processes(run))

    # All that either has written, also after the end was seen.
    run.files.path(run.files.ended(1)).unlink()
    late = Run(run.files)
    late.backend.fetch(late._handle())
    parts = [read_part(run.files.path(name)) for name in run.files.parts()]
    rows = sorted(row for part in parts if part is not None for row in part["_row"].to_pylist())
    assert rows == list(range(24))
    late.wait(60).delete()


def test_a_run_without_workers_ends_and_can_be_resumed(cloud: Cloud, tmp_path: Path) -> None:
    run = (
        flow(param_grid(x=range(24)), const={"seconds": 0.4})
        .stage("sq", slow)
        .distribute(cloud.plan("spcs-queue", tmp_path, replicas=1, lease=4))
        .submit()
    )
    wait_until_at_work(cloud, run)

    cloud.emulator.faults.kill_container(service(run), instance=0)
    status = run.wait(90).status()

    assert status.state == "failed"
    assert "killed (exit code 137)" in status.reason
    assert run.resume().wait(90).status().state == "done"
    assert run.collect()["sq.y"].tolist() == [x * x for x in range(24)]
    run.delete()


def test_a_chunk_that_kills_its_workers_is_given_up(
    cloud: Cloud, tmp_path: Path, seen_by_all: Path
) -> None:
    def poison(x: int, folder: str) -> dict[str, int]:
        if x == 3 and not os.path.exists(f"{folder}/mended"):
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(30)
        return {"y": x * x}

    run = (
        flow(param_grid(x=range(8)), const={"folder": str(seen_by_all)})
        .stage("sq", poison)
        .distribute(cloud.plan("spcs-queue", tmp_path, replicas=3, lease=3, max_attempts=2))
        .submit()
    )
    status = run.wait(120).status()

    assert (status.state, status.ok) == ("failed", 7)
    assert "1 chunk given up (chunk 3: given up: begun 2 times and never ended" in status.reason
    table = run.collect(errors="keep", partial=True)
    assert table["_status"].tolist() == ["missing" if x == 3 else "ok" for x in range(8)]

    (seen_by_all / "mended").touch()
    assert run.resume().wait(90).status().state == "done"
    assert run.collect()["sq.y"].tolist() == [x * x for x in range(8)]
    run.delete()


def test_nothing_is_begun_after_the_time_budget(cloud: Cloud, tmp_path: Path) -> None:
    plan = cloud.plan("spcs-queue", tmp_path, replicas=1, time_budget=6)
    run = flow(param_grid(x=range(60)), const={"seconds": 0.5}).stage("sq", slow).distribute(plan)
    status = (started := run.submit()).wait(90).status()

    assert (status.state, status.failed) == ("stopped", 0)
    assert status.reason == f"the time budget of 6 s is spent; {60 - status.ok} rows have no result"
    assert 0 < status.ok < 60
    assert cloud.client().value(f"SELECT COUNT(*) FROM {QUEUE} WHERE STATUS <> 'DONE'") == 0
    assert started.throughput().rows_left == 60 - status.ok
    started.delete()


def test_chunks_come_when_workers_are_warm(cloud: Cloud, tmp_path: Path) -> None:
    run = (
        flow(param_grid(x=range(6)))
        .stage("sq", lambda x: x * x)
        .distribute(cloud.plan("spcs-queue", tmp_path, pre_warm=True))
        .submit()
    )

    client = cloud.client()
    (put,) = client.rows(f"SELECT MIN(CREATED_AT) AS FIRST, COUNT(*) AS N FROM {QUEUE}")
    started = client.rows(f"SHOW SERVICE CONTAINERS IN SERVICE {service(run)}")
    assert len(started) == 2
    assert put["n"] == 6
    begun = max(datetime.fromisoformat(row["start_time"]) for row in started)
    # Snowflake says whole seconds.
    assert begun.replace(tzinfo=None) <= put["first"], started
    assert run.wait(90).collect()["sq.value"].tolist() == [x * x for x in range(6)]
    run.delete()


def test_warm_workers_that_do_not_come_are_not_waited_for_for_ever(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "WARM_SECONDS", 2.0)
    plan = cloud.plan("spcs-queue", tmp_path, pre_warm=True)

    said = r"pre_warm: 0 of 2 workers are ready after 2 s \(.+\); let compute pool cells have more"
    with cloud.emulator.faults.pause("cells"), pytest.raises(BackendError, match=said):
        flow(param_grid(x=range(6))).stage("sq", lambda x: x * x).distribute(plan).submit()

    assert cloud.client().rows("SHOW SERVICES IN ACCOUNT") == []


def test_the_queue_is_a_log_where_there_are_no_hybrid_tables(cloud: Cloud, tmp_path: Path) -> None:
    refused: dict[str, Any] = {"errno": 391411, "message": "Hybrid tables are not available."}
    with cloud.emulator.faults.fail_statement("CREATE HYBRID TABLE", **refused):
        run = (
            flow(param_grid(x=range(12)))
            .stage("sq", lambda x: x * x)
            .distribute(cloud.plan("spcs-queue", tmp_path, queue="A_LOG"))
            .submit()
        )

    assert run.wait(90).collect()["sq.value"].tolist() == [x * x for x in range(12)]
    client = cloud.client()
    events = client.rows("SELECT EVENT, COUNT(*) AS N FROM flowdist.public.a_log GROUP BY EVENT")
    assert events
    run.delete()
    assert client.value("SELECT COUNT(*) FROM flowdist.public.a_log") == 0


def test_a_process_that_has_numpy_begins_anew_for_another_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (*THREAD_VARIABLES, "FLOWDIST_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # the user's own

    assert np is not None
    assert not fit_threads(2)
    assert fit_threads(2)
    assert not fit_threads(3)
    assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == ("7", "3")


def test_ranges_of_chunks_are_few() -> None:
    every_other = np.arange(1000) % 2 == 0
    found = list(_ranges(every_other))

    assert len(found) == workers.MOST_PUTS
    assert found[0][0] == 0
    assert found[-1][1] == 999
    assert all(a[1] <= b[0] for a, b in pairwise(found))
    assert list(_ranges(np.zeros(5, bool))) == []
    assert list(_ranges(np.ones(5, bool))) == [(0, 5)]
