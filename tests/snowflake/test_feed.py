"""Rows that are added to a run while its workers are at it."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pytest
from cloud import Cloud
from test_workers import QUEUE, service, slow, wait_until_at_work

from flowdist import attach, flow, local, param_grid, runs
from flowdist.errors import GridError, RunError
from flowdist.snowflake.connection import register_connection


def test_fed_rows_are_run_by_the_same_workers_and_collected_behind_the_others(
    cloud: Cloud, tmp_path: Path
) -> None:
    def work(x: int, name: str, seed: int) -> dict[str, object]:
        time.sleep(0.3)
        if name == "bad":
            raise ValueError(name)
        return {"y": x if x < 100 else x + 0.5, "seed": seed, "text": name * 3}

    grid = param_grid(x=range(24), name=["a"])
    build = flow(grid, seed=7).stage("sq", work)
    run = build.distribute(cloud.plan("spcs-queue", tmp_path)).submit()
    wait_until_at_work(cloud, run)

    fed = run.feed([{"x": 100, "name": "b"}, {"name": "bad", "x": 101}])
    status = run.wait(90).status()

    assert (status.state, status.rows, status.ok, status.failed) == ("done", 26, 25, 1)
    table = run.collect(errors="keep")
    assert table["x"].tolist() == [*range(24), 100, 101]
    assert table["sq.y"].tolist()[:25] == [*map(float, range(24)), 100.5]
    assert table["_status"].tolist() == ["ok"] * 25 + ["failed"]
    assert run.errors()["row"].tolist() == [25]
    # Seeds are those of one run of all rows.
    rows = [*({"x": x, "name": "a"} for x in range(24)), {"x": 100, "name": "b"}]
    whole = flow(rows, seed=7).stage("sq", work).distribute(local(workers=4, root=tmp_path / "l"))
    assert table["sq.seed"].tolist()[:25] == whole.collect()["sq.seed"].tolist()
    # Nobody else was started for them.
    client = cloud.client()
    assert len(client.rows("SHOW SERVICES IN ACCOUNT")) == 1
    assert [one.id for one in run.feeds()] == [fed.id]

    run.delete()
    assert client.rows("LIST @flowdist.public.runs") == []
    assert client.rows("SHOW SERVICES IN ACCOUNT") == []
    assert client.value(f"SELECT COUNT(*) FROM {QUEUE}") == 0
    assert not fed.directory.exists()


def test_rows_that_another_machine_feeds_are_of_the_same_run(cloud: Cloud, tmp_path: Path) -> None:
    run = (
        flow(param_grid(x=range(24)), seed=1)
        .stage("sq", lambda x, seed: (time.sleep(0.3), {"y": x * x, "seed": seed})[1])
        .distribute(cloud.plan("spcs-queue", tmp_path / "here", replicas=1))
        .submit()
    )
    wait_until_at_work(cloud, run)
    elsewhere = register_connection("elsewhere", cloud.connection)
    address = f"@flowdist.public.runs/runs/{run.id}"
    there = attach(address, tmp_path / "there", connection=elsewhere)

    run.feed({"x": [100]})
    there.feed({"x": [200, 201]})  # it has not seen yet what was fed here

    assert (run.wait(90).status().state, run.status().rows) == ("done", 27)
    tables = [one.wait(90).collect(errors="keep") for one in (run, there)]
    assert tables[0]["x"].tolist() == [*range(24), 100, 200, 201]
    assert tables[0]["sq.seed"].nunique() == 27
    pd.testing.assert_frame_equal(*tables)
    run.delete()
    assert cloud.client().rows("LIST @flowdist.public.runs") == []
    assert cloud.client().value(f"SELECT COUNT(*) FROM {QUEUE}") == 0


def test_urgent_rows_are_run_first(cloud: Cloud, tmp_path: Path) -> None:
    run = (
        flow(param_grid(x=range(40)), const={"seconds": 0.3})
        .stage("sq", slow)
        .distribute(cloud.plan("spcs-queue", tmp_path, replicas=1))
        .submit()
    )
    wait_until_at_work(cloud, run)

    urgent = run.feed({"x": [1000, 1001]}, priority=5)
    urgent.wait(60)

    assert run._own_status().done < 40
    assert run.wait(90).collect()["sq.y"].tolist()[-2:] == [1_000_000, 1_002_001]
    assert run.throughput().rows_per_minute is not None
    run.delete()


def test_what_was_fed_is_cancelled_and_resumed_with_the_run(cloud: Cloud, tmp_path: Path) -> None:
    run = (
        flow(param_grid(x=range(24)), const={"seconds": 0.3})
        .stage("sq", slow)
        .distribute(cloud.plan("spcs-queue", tmp_path, replicas=1))
        .submit()
    )
    wait_until_at_work(cloud, run)
    fed = run.feed({"x": range(100, 108)}, priority=-1)

    status = run.cancel().status()

    assert (status.state, status.rows) == ("stopped", 32)
    assert fed.status().state == "stopped"
    assert status.ok < 32
    again = attach(run.id, tmp_path)
    assert again.resume().wait(90).collect()["sq.y"].tolist() == [
        x * x for x in [*range(24), *range(100, 108)]
    ]
    assert [found.id for found in runs(tmp_path)] == [run.id]
    again.delete()
    assert list(tmp_path.iterdir()) == []


def test_rows_that_come_too_late_for_the_workers_get_others_or_are_refused(
    cloud: Cloud, tmp_path: Path
) -> None:
    run = (
        flow(param_grid(x=range(16)), const={"seconds": 0.4})
        .stage("sq", slow)
        .distribute(cloud.plan("spcs-queue", tmp_path, replicas=1, lease=4))
        .submit()
    )
    wait_until_at_work(cloud, run)
    with pytest.raises(GridError, match="z unknown"):
        run.feed({"x": [1], "z": [2]})
    with pytest.raises(GridError, match=r"column 'x' .* has the type int64"):
        run.feed({"x": [1.5]})

    # Seen at work a moment ago, the worker is gone when the rows come.
    cloud.emulator.faults.kill_container(service(run))
    fed = run.feed({"x": [50, 51]})

    assert fed.wait(90).status().state == "done"
    # Those that came for the fed rows may have found the others first.
    assert run.wait(90).status().state in ("failed", "done")
    with pytest.raises(RunError, match="its workers have ended; submit the rows as a flow of"):
        run.feed({"x": [1]})
    expected = [*(x * x for x in range(16)), 2500, 2601]
    assert run.resume().wait(90).collect()["sq.y"].tolist() == expected
    run.delete()


def test_only_a_queue_takes_rows(cloud: Cloud, tmp_path: Path) -> None:
    run = flow([{"x": 1}]).stage("sq", lambda x: x).distribute(local(root=tmp_path)).submit()

    with pytest.raises(RunError, match=r"feed\(\) puts them into the queue of spcs_queue"):
        run.feed([{"x": 2}])
    assert run.wait(30).feeds() == []
