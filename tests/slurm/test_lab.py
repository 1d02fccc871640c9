"""The lab itself: a real SLURM with four nodes, which tests may break."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from lab_fixture import SCRIPT, Lab, command

pytestmark = pytest.mark.slow


@pytest.fixture
def name() -> Iterator[str]:
    """A name for the jobs of a test, which are cancelled in the end."""
    name = f"test-lab-{uuid.uuid4().hex[:8]}"
    yield name
    command("scancel", "--name", name)


def submit(name: str, script: str, *options: str) -> str:
    """The id of a job that runs `script`."""
    words = ["sbatch", "--parsable", "--job-name", name, "--output", "/dev/null", *options]
    return command(*words, stdin=f"#!/bin/sh\n{script}\n").strip()


def queue(name: str) -> list[str]:
    """Task and state of what squeue knows under a name."""
    return sorted(
        command("squeue", "-h", "-r", "-t", "all", "-n", name, "-o", "%K %T").splitlines()
    )


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def accounting(job: str) -> list[list[str]]:
    """State and node of each task of `job` that sacct knows."""
    lines = command("sacct", "-X", "-n", "-P", "-j", job, "-o", "State,NodeList").splitlines()
    return [line.split("|") for line in lines]


def test_an_array_runs_on_all_nodes_and_accounting_sees_it(lab: Lab, name: str) -> None:
    job = submit(name, "sleep 3", "--array=0-3", "--cpus-per-task=3")

    lab.wait(
        lambda: [state for state, _ in accounting(job)] == ["COMPLETED"] * 4,
        "four completed tasks in sacct",
    )

    assert len({node for _, node in accounting(job)}) > 1


def test_an_array_that_is_too_large_is_refused(lab: Lab, name: str) -> None:
    with pytest.raises(AssertionError, match="Invalid job array specification"):
        submit(name, "true", "--array=0-11")


def test_a_task_over_its_memory_is_killed(lab: Lab, name: str) -> None:
    hungry = "exec python3 -c 'import time; x = bytearray(b\"1\") * 500_000_000; time.sleep(60)'"

    job = submit(name, hungry, "--mem=100M")

    lab.wait(lambda: [s for s, _ in accounting(job)] == ["FAILED"], "the task is killed")


def test_starting_a_lab_that_runs_changes_nothing(lab_alone: Lab, name: str) -> None:
    submit(name, "sleep 60", "--array=0-1")
    lab_alone.wait(lambda: queue(name) == ["0 RUNNING", "1 RUNNING"], "both run")
    before = lab_alone.run("status").split("PARTITION")[0]

    lab_alone.run("start", "temporary")

    assert lab_alone.run("status").split("PARTITION")[0] == before
    assert queue(name) == ["0 RUNNING", "1 RUNNING"]


def test_starting_mends_a_lab_that_lost_half_of_its_daemons(lab_alone: Lab) -> None:
    for broken in (["stop-accounting"], ["stop-controller"], ["down", "n2"], ["down", "n4"]):
        lab_alone.run(*broken)
    with pytest.raises(AssertionError, match="does not run"):
        lab_alone.run("status")

    lab_alone.run("start", "temporary")

    assert "does not run" not in lab_alone.run("status")
    assert command("sinfo", "-h", "-N", "-p", "debug", "-o", "%N %T").split() == [
        *("n1", "idle", "n2", "idle", "n3", "idle", "n4", "idle")
    ]


@pytest.mark.fault
def test_a_node_that_lost_its_power_takes_its_jobs_along(
    lab_alone: Lab, name: str, tmp_path: Path
) -> None:
    script = f"echo $$ >> {tmp_path}/$SLURM_ARRAY_TASK_ID; exec sleep 300"
    again = submit(name, script, "--array=0", "--nodelist=n3", "--requeue")
    lost = submit(name, script, "--array=1", "--nodelist=n3", "--no-requeue")
    lab_alone.wait(lambda: len(list(tmp_path.iterdir())) == 2, "both run")

    lab_alone.down("n3")

    assert not any(alive(int(file.read_text())) for file in tmp_path.iterdir())

    lab_alone.up("n3")

    lab_alone.wait(lambda: queue(name) == ["0 RUNNING", "1 NODE_FAIL"], "one starts again")
    assert accounting(lost) == [["NODE_FAIL", "n3"]]
    assert len((tmp_path / "0").read_text().splitlines()) == 2
    assert accounting(again) == [["RUNNING", "n3"]]


@pytest.mark.fault
def test_slurm_may_be_told_of_a_dead_node_at_once(lab_alone: Lab, name: str) -> None:
    submit(name, "sleep 300", "--array=0", "--nodelist=n2", "--no-requeue")
    lab_alone.wait(lambda: queue(name) == ["0 RUNNING"], "it runs")

    lab_alone.down("n2", noticed=True)

    assert queue(name) == ["0 NODE_FAIL"]


@pytest.mark.fault
def test_jobs_outlive_the_controller(lab_alone: Lab, name: str, tmp_path: Path) -> None:
    job = submit(name, f"until [ -e {tmp_path}/go ]; do sleep 0.1; done", "--array=0-1")
    lab_alone.wait(lambda: queue(name) == ["0 RUNNING", "1 RUNNING"], "both run")

    lab_alone.restart_controller()

    assert queue(name) == ["0 RUNNING", "1 RUNNING"]
    (tmp_path / "go").touch()
    lab_alone.wait(lambda: [s for s, _ in accounting(job)] == ["COMPLETED"] * 2, "both end well")


@pytest.mark.fault
def test_accounting_catches_up_after_it_was_down(lab_alone: Lab, name: str) -> None:
    lab_alone.stop_accounting()
    job = submit(name, "true", "--array=0")
    lab_alone.wait(lambda: queue(name) == ["0 COMPLETED"], "it ends")
    with pytest.raises(AssertionError, match="Connection refused"):
        accounting(job)

    lab_alone.start_accounting()

    lab_alone.wait(lambda: [s for s, _ in accounting(job)] == ["COMPLETED"], "sacct knows of it")


@pytest.mark.parametrize("words", [["what"], [], ["down"], ["down", "n9"]])
def test_wrong_usage_is_told_apart(words: list[str]) -> None:
    done = subprocess.run([SCRIPT, *words], capture_output=True, text=True)

    assert done.returncode == 2
    assert done.stderr.startswith("usage:")


def test_a_directory_with_other_things_is_left_alone(tmp_path: Path) -> None:
    directory = tmp_path / "mine"
    directory.mkdir()
    (directory / "thesis.tex").write_text("mine")
    environment = {**os.environ, "FLOWDIST_LAB": str(directory)}

    for word in ("start", "stop"):
        subprocess.run([SCRIPT, word], env=environment, capture_output=True)

    assert [file.name for file in directory.iterdir()] == ["thesis.tex"]
