"""What a task of an array does before and after the job that it runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from fake_fixture import FakeSlurm

from flowdist import Run, flow, param_grid, slurm
from flowdist.backends.slurm.task import FENCE_SECONDS, claim_array
from flowdist.clock import ManualClock
from flowdist.store import RunFiles

PATIENCE = 60.0


# Which array counts ------------------------------------------------------------------------------


def test_the_first_array_to_claim_its_jobs_keeps_them(tmp_path: Path) -> None:
    files = RunFiles.at(tmp_path)

    assert claim_array(files, 1, 0, "100") == "100"
    assert claim_array(files, 1, 0, "200") == "100"
    assert claim_array(files, 1, 0, "100") == "100"


def test_each_array_of_each_launch_is_claimed_by_itself(tmp_path: Path) -> None:
    files = RunFiles.at(tmp_path)
    claim_array(files, 1, 0, "100")

    assert claim_array(files, 1, 1, "101") == "101"
    assert claim_array(files, 2, 0, "102") == "102"


def test_a_claim_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    class Slow(ManualClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            files.path(files.array(1, 0)).write_text("100")

    files = RunFiles.at(tmp_path)
    files.store.put(files.array(1, 0), b"")

    assert claim_array(files, 1, 0, "200", Slow()) == "100"


def test_a_claim_whose_writer_died_holds_nobody_up_for_ever(tmp_path: Path) -> None:
    files, clock = RunFiles.at(tmp_path), ManualClock()
    files.store.put(files.array(1, 0), b"")

    assert claim_array(files, 1, 0, "200", clock) == "200"
    assert FENCE_SECONDS <= clock.monotonic() < 2 * FENCE_SECONDS


# The end of its time -----------------------------------------------------------------------------


def pause(x: int, seconds: float) -> int:
    time.sleep(seconds)
    return x


def timed(rows: int, seconds: float, root: Path, **plan: Any) -> Run:
    """A run in one job of a few seconds, which SLURM would end after a minute."""
    stages = flow(param_grid(x=range(rows)), const={"seconds": seconds}).stage("pause", pause)
    described = slurm(target_jobs=1, memory="300MB", root=root, **{"time": 4, **plan})
    return stages.distribute(described).submit().wait(PATIENCE)


def test_a_job_ends_before_its_time_limit_with_what_is_done(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    run = timed(200, 0.1, tmp_path)

    status = run.status()
    assert status.state == "stopped"
    assert status.reason.startswith("1 job came to the time limit (job 0")
    assert 0 < status.done < 200
    assert status.failed == 0


def test_a_job_that_resubmits_itself_goes_on_until_everything_is_done(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    # Long enough for a busy machine, which may need seconds before the first row of a start.
    run = timed(60, 0.2, tmp_path, resubmit=True, time=10)

    assert run.collect()["pause.value"].tolist() == list(range(60))
    assert run.status().attempt == 1
    assert fake.calls("scontrol") >= 1


def test_a_job_that_gets_nothing_done_in_its_time_is_not_started_for_ever(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    run = timed(2, 60.0, tmp_path, resubmit=True)

    assert run.status().state == "stopped"
    assert "not one row was finished within the time limit" in "\n".join(run.logs(0))
