"""Preflight, the probe and the accounts of jobs before a real SLURM."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

import pytest

from flowdist.backends.slurm.checks import check
from flowdist.backends.slurm.client import SlurmClient
from flowdist.backends.slurm.plans import Slurm, slurm
from flowdist.backends.slurm.probe import probe
from flowdist.backends.slurm.script import sbatch_script
from flowdist.backends.slurm.usage import FIELDS, parse_usage
from flowdist.flow import flow
from flowdist.grid import param_grid
from flowdist.preflight import Check
from flowdist.run import plan_flow

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("lab")]

MB = 1024**2


def checked(plan: Slurm, rows: int = 2) -> list[Check]:
    f = flow(param_grid(x=range(rows))).stage("fit", lambda x: x).distribute(plan)
    return check(plan, plan_flow(f), SlurmClient())


def errors(plan: Slurm) -> list[str]:
    return [c.what for c in checked(plan) if c.severity == "error"]


def test_what_fits_the_cluster_has_a_start() -> None:
    (info,) = [c for c in checked(slurm(workers=2, time="2min")) if c.name == "sbatch"]

    assert info.severity == "info"
    assert "and would start at " in info.what


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (slurm(partition="debgu"), "did you mean 'debug'?"),
        (slurm(partition="small", time="1h"), "more than partition 'small' allows: 5 min"),
        (slurm(workers=500), "no node of partition 'debug' has more than"),
        (slurm(memory="100TB"), "no node of partition 'debug' has more than"),
        (slurm(partition="gpu", gpus=100), "no node of partition 'gpu' has more than"),
        (slurm(qos="shrot"), "Invalid qos specification; did you mean 'short'?"),
        (slurm(account="nobody"), "Invalid account"),
        (slurm(nodes=500), "nodes=500 for one job"),
    ],
    ids=repr,
)
def test_what_does_not_fit_is_an_error_that_says_why(plan: Slurm, said: str) -> None:
    (error,) = errors(plan)

    assert said in error


def test_a_probe_job_finds_flowdist_on_a_node(tmp_path: Path) -> None:
    (info,) = probe([slurm(root=tmp_path, partition="debug")], SlurmClient())

    assert info.severity == "info"
    assert f"it sees root {tmp_path}, and has flowdist" in info.what
    assert list(tmp_path.iterdir()) == []


class Noting(SlurmClient):
    """Remembers what the jobs that it submitted are called."""

    name = ""

    def submit(self, script: str, *, name: str, known: Collection[int] = ()) -> int:
        self.name = name
        return super().submit(script, name=name, known=known)


def test_a_probe_that_stays_pending_is_cancelled(tmp_path: Path) -> None:
    client = Noting()
    plan = slurm(root=tmp_path, partition="debug", extra={"begin": "now+1hour"})

    (warning,) = probe([plan], client, patience=2.0)

    assert "was still pending" in warning.what
    assert [record.state for record in client.queue(client.name)] == ["CANCELLED"]


def test_slurm_accounts_for_what_jobs_asked_and_used(tmp_path: Path) -> None:
    client, name, began = SlurmClient(), f"usage-{time.time_ns()}", time.time()
    busy = (
        "x = bytearray(60 * 2**20); [None for _ in range(30_000_000)]; import time; time.sleep(2)"
    )
    plan = slurm(workers=2, memory="500MB", time="2min", partition="debug")
    script = sbatch_script(
        plan, name=name, command=["python3", "-c", busy], output="/dev/null", array="0-1"
    )

    array = client.submit(script, name=name)

    found = []
    for _ in range(100):  # accounting hears of ends a little late
        found = parse_usage(client.usage(name, began, FIELDS), {array: (1, 10)})
        if [one.state for one in found] == ["done", "done"]:
            break
        time.sleep(0.5)
    assert [one.job for one in found] == [10, 11]
    for one in found:
        assert (one.cpus_asked, one.memory_asked, one.time_asked) == (2, 500 * MB, 120)
        assert one.memory_used is not None
        assert 60 * MB < one.memory_used < 500 * MB
        assert one.cores_share is not None
        assert 0 < one.cores_share < 1
