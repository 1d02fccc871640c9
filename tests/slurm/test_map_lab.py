"""Maps and pools on a real cluster: the same results as here, and no call that waits for ever."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from flowdist.backends.slurm.plans import slurm
from flowdist.errors import RunIncomplete
from flowdist.executor import Executor
from flowdist.mapping import MapRun, flow_map, slurm_map

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("lab")]

PATIENCE = 90.0
SMALL: dict[str, Any] = {"time": "5min", "memory": "300MB"}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOWDIST_ROOT", str(tmp_path / "runs"))
    return tmp_path / "runs"


def described(item: Any) -> tuple[Any, str]:
    return item, type(item).__name__


def test_a_map_over_an_allocation_gives_what_it_gives_here() -> None:
    items = [1, "a", (2, 3), {"b": 4}, None, 2.5] * 4

    jobs = slurm_map(described, items, nodes=2, cores_per_node=2, oversubscribe=2, **SMALL)

    assert jobs.progress(PATIENCE).collect() == flow_map(described, items, workers=1).collect()
    assert jobs.run.manifest["plan"]["kind"] == "slurm-allocation"
    assert jobs.run.manifest["layout"]["jobs"] == 4


def test_a_map_is_found_again_by_its_id() -> None:
    jobs = slurm_map(described, range(6), target_jobs=2, workers=1, **SMALL)

    again = MapRun.attach(jobs.id)

    assert again.progress(PATIENCE).collect() == [(i, "int") for i in range(6)]


def test_calls_of_a_pool_run_on_the_nodes() -> None:
    def where() -> tuple[str, int]:
        return os.environ["SLURM_JOB_ID"], os.getpid()

    with Executor(slurm(target_jobs=2, workers=1, **SMALL)) as pool:
        calls = [pool.submit(where) for _ in range(8)]
        found = [call.result(PATIENCE) for call in calls]
        error = pool.submit(divmod, 1, 0).exception(PATIENCE)

    assert len(found) == 8
    assert len({job for job, _ in found}) >= 2
    assert isinstance(error, ZeroDivisionError)


def test_a_call_whose_job_is_cancelled_raises(tmp_path: Path) -> None:
    def forever(mark: Path) -> None:
        mark.touch()
        time.sleep(600)

    mark = tmp_path / "mark"
    with Executor(slurm(target_jobs=1, workers=1, **SMALL)) as pool:
        call = pool.submit(forever, mark)
        deadline = time.monotonic() + PATIENCE
        while not mark.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        subprocess.run(["scancel", "--name", pool.runs[0].id], check=True)

        with pytest.raises(RunIncomplete, match=f"run {pool.runs[0].id} is "):
            call.result(PATIENCE)
