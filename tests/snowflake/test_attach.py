"""Runs on a stage, taken up by a machine that has not submitted them: another root, and another
name for the connection.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cloud import Cloud

import flowdist
from flowdist import Run, flow, param_grid
from flowdist.cli import cli
from flowdist.errors import RunError, RunNotFound, UsageError
from flowdist.snowflake.connection import register_connection

PATIENCE = 60.0


def slow(x: int, pause: float) -> dict[str, int]:
    time.sleep(pause)
    return {"y": x * x}


def submit(cloud: Cloud, root: Path, pause: float = 0.0, rows: int = 12) -> Run:
    return (
        flow(param_grid(x=range(rows)), const={"pause": pause})
        .stage("sq", slow)
        .distribute(cloud.plan("spcs-jobs", root, rows_per_chunk=1))
        .submit()
    )


@pytest.fixture(scope="module")
def finished(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that its driver has seen the end of."""
    return submit(cloud, tmp_path_factory.mktemp("driver")).wait(PATIENCE)


@pytest.fixture
def elsewhere(cloud: Cloud) -> str:
    """The connection as another machine calls it."""
    return register_connection("elsewhere", cloud.connection)


def address(run: Run) -> str:
    return f"@flowdist.public.runs/runs/{run.id}"


def test_a_run_that_has_ended_is_collected_elsewhere(
    finished: Run, elsewhere: str, tmp_path: Path
) -> None:
    run = flowdist.attach(address(finished), tmp_path, connection=elsewhere)

    assert run.directory == tmp_path / finished.id
    assert run.status().state == "done"
    assert run.collect().equals(finished.collect())


def test_a_mirror_of_a_run_that_has_ended_asks_nothing(
    finished: Run, elsewhere: str, tmp_path: Path
) -> None:
    flowdist.attach(address(finished), tmp_path, connection=elsewhere)
    register_connection("elsewhere", host="127.0.0.1", port=1, account="gone", user="nobody")

    run = flowdist.attach(finished.id, tmp_path)

    assert run.status().state == "done"
    assert len(run.collect()) == 12


def test_a_run_is_followed_cancelled_and_resumed_elsewhere_and_its_driver_learns_of_it(
    cloud: Cloud, elsewhere: str, tmp_path: Path
) -> None:
    driver = submit(cloud, tmp_path / "driver", pause=0.5, rows=24)
    while not 0 < driver.status().done < 24:
        time.sleep(0.1)
    other = flowdist.attach(address(driver), tmp_path / "other", connection=elsewhere)
    assert 0 < other.status().done < 24

    assert other.cancel().status().state == "stopped"
    assert driver.wait(PATIENCE).status().state == "stopped"
    other.resume()
    with pytest.raises(RunError, match=r"launch 2 was started from .*; look at its status"):
        driver.resume()

    assert driver.wait(PATIENCE).collect()["sq.y"].tolist() == [x * x for x in range(24)]
    assert other.wait(PATIENCE).collect().equals(driver.collect())
    assert driver.files.attempts() == other.files.attempts() == [1, 2]


def test_deleting_elsewhere_leaves_nothing_on_snowflake(
    cloud: Cloud, elsewhere: str, tmp_path: Path
) -> None:
    driver = submit(cloud, tmp_path / "driver").wait(PATIENCE)

    flowdist.attach(address(driver), tmp_path / "other", connection=elsewhere).delete()

    client = cloud.client()
    assert client.rows(f"LIST {address(driver)}/") == []
    services = client.rows("SHOW SERVICES IN ACCOUNT")
    assert [service for service in services if driver.id in service["comment"]] == []
    assert len(driver.collect()) == 12  # of what is here nothing is lost


def test_a_run_that_its_driver_deletes_is_lost_elsewhere_and_stays_deleted(
    cloud: Cloud, elsewhere: str, tmp_path: Path
) -> None:
    driver = submit(cloud, tmp_path / "driver", pause=5.0)
    other = flowdist.attach(address(driver), tmp_path / "other", connection=elsewhere)
    driver.cancel().delete()

    assert other.wait(PATIENCE).status().state == "lost"

    assert cloud.client().rows(f"LIST {address(driver)}/") == []


def test_all_runs_of_a_stage_are_listed_the_latest_first(
    cloud: Cloud, finished: Run, elsewhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWDIST_ROOT", str(tmp_path / "mirrors"))
    later = submit(cloud, tmp_path / "driver").wait(PATIENCE)

    found = flowdist.runs("@flowdist.public.runs", connection=elsewhere)

    ids = [run.id for run in found]
    assert ids.index(later.id) < ids.index(finished.id)
    assert {run.directory.parent for run in found} == {tmp_path / "mirrors"}
    assert {run.status().state for run in found if run.id in (later.id, finished.id)} == {"done"}


def test_a_run_that_is_not_there_is_missed_with_the_nearest(
    finished: Run, elsewhere: str, tmp_path: Path
) -> None:
    with pytest.raises(RunNotFound, match=rf"no run '{finished.id}x' .* mean '?{finished.id}"):
        flowdist.attach(f"{address(finished)}x", tmp_path, connection=elsewhere)
    assert list(tmp_path.iterdir()) == []


def test_an_address_without_a_run_is_refused(elsewhere: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"names no run; write @database.schema.stage/runs/ID"):
        flowdist.attach("@flowdist.public.runs", tmp_path, connection=elsewhere)


def test_a_copy_of_a_run_under_another_name_is_a_run_of_that_name(
    cloud: Cloud, finished: Run, elsewhere: str, tmp_path: Path
) -> None:
    copy = f"{finished.id}.20261125T030000Z"
    stage = "@flowdist.public.runs/runs"
    cloud.client().run(f"COPY FILES INTO {stage}/{copy}/ FROM {stage}/{finished.id}/")

    run = flowdist.attach(f"{stage}/{copy}", tmp_path, connection=elsewhere)

    assert run.id == copy
    assert run.manifest["template"] == finished.id
    assert run.collect().equals(finished.collect())


def test_a_connection_that_was_given_as_an_object_is_asked_for_by_its_name(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = submit(cloud, tmp_path)
    name = run.manifest["plan"]["connection"]
    monkeypatch.setattr("flowdist.snowflake.connection._registered", {})
    monkeypatch.setenv("SNOWFLAKE_HOME", str(tmp_path))

    with pytest.raises(UsageError, match=rf"flowdist.register_connection\('{name}', ...\)"):
        flowdist.attach(run.id, tmp_path).status()

    register_connection(name, cloud.connection)
    assert flowdist.attach(run.id, tmp_path).wait(PATIENCE).status().state == "done"


def test_the_command_line_takes_addresses(
    cloud: Cloud, finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(*words: str) -> Any:
        result = CliRunner().invoke(cli, [*words, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    monkeypatch.setenv("FLOWDIST_ROOT", str(tmp_path))
    monkeypatch.setenv("SNOWFLAKE_HOME", str(tmp_path))
    toml = "".join(f"{key} = {json.dumps(value)}\n" for key, value in cloud.connection.items())
    (tmp_path / "connections.toml").write_text(f"[lab]\n{toml}")
    (tmp_path / "connections.toml").chmod(0o600)

    said = shown("status", address(finished), "--connection", "lab")
    assert (said["id"], said["state"]) == (finished.id, "done")
    # From here on the id will do.
    assert shown("status", finished.id)["state"] == "done"
    stage = ("--root", "@flowdist.public.runs", "--connection", "lab")
    assert shown("status", finished.id, *stage)["id"] == finished.id
    assert finished.id in [line["id"] for line in shown("runs", *stage)]
