"""A run whose disk is full."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from lab_fixture import command

from flowdist import flow, param_grid, slurm

if TYPE_CHECKING:
    from lab_fixture import Lab

PATIENCE = 100.0


@pytest.fixture
def small_disk(lab: Lab, tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MiB that the nodes see."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if lab.place is None:
        pytest.skip("a small disk can only be made for the nodes of the lab")
    command("mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk))
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=False)


def noise(seed: int) -> dict[str, bytes]:
    return {"bytes": np.random.default_rng(seed).bytes(1 << 20)}


@pytest.mark.usefixtures("lab")
def test_a_run_whose_disk_is_full_says_so_and_goes_on_once_there_is_room(
    small_disk: Path,
) -> None:
    plan = slurm(target_jobs=1, workers=2, memory="900MB", time="5min", root=small_disk)
    stages = flow(param_grid(x=range(24)), seed=1).stage("noise", noise, returns={"bytes": bytes})
    run = stages.distribute(plan).submit().wait(PATIENCE)

    status, told = run.status(), str(run.explain())
    command("mount", "-o", "remount,size=96m", str(small_disk))
    table = run.resume().wait(PATIENCE).collect()

    assert status.state == "failed"
    assert "No space left on device" in status.reason
    assert f"make room in {small_disk}" in told
    assert table["noise.bytes"].map(len).tolist() == [1 << 20] * 24
