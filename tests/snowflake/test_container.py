"""What a container sees of a run on a mounted stage, and who starts the reduces."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from flowdist import Run, flow, local, param_grid
from flowdist.clock import ManualClock
from flowdist.errors import RunError
from flowdist.snowflake.connection import SnowflakeError
from flowdist.store import LATE_SECONDS, JobAttempt, RunFiles
from flowdist.submission import write_run
from flowdist.workers import container
from flowdist.workers.container import (
    LINGER_SECONDS,
    _appeared,
    follow,
    job_of_replica,
    local_view,
    seconds_left,
)


@pytest.fixture
def run(tmp_path: Path) -> RunFiles:
    """A run that nobody has started, as it lies on a mounted stage: two jobs."""
    plan = local(root=tmp_path / "runs", target_jobs=2)
    files = write_run(
        flow(param_grid(x=[1, 2])).stage("sq", lambda x: x * x).distribute(plan), "flow"
    )
    files.put_json("launches/.keep", {})  # so that the folder is there
    files.put_json(files.intent(1), {"jobs": [0, 1]})
    return files


# What a job sees ---------------------------------------------------------------------------------


def test_a_job_reads_copies_and_writes_to_the_stage(run: RunFiles) -> None:
    with local_view(run.directory, 1) as directory:
        view = RunFiles.at(directory)
        for name in RunFiles.WRITTEN:
            assert not view.path(name).is_symlink()
            assert view.path(name).read_bytes() == run.path(name).read_bytes()
        view.store.put("parts/00000-1-0000.arrow", b"part")
        view.put_beat(JobAttempt(0, 1), {"state": "done"})
        assert view.attempts() == [1]

    assert run.store.get("parts/00000-1-0000.arrow") == b"part"
    assert run.read_json("beats/00000-1.json") == {"state": "done"}
    assert not directory.exists()


def test_nothing_is_made_where_a_run_was_deleted(
    run: RunFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "SystemClock", ManualClock)
    shutil.rmtree(run.directory)

    with pytest.raises(RunError, match="has not appeared in 90 s"), local_view(run.directory, 1):
        pass

    assert not run.directory.exists()


def test_a_file_that_is_seen_late_is_waited_for_so_long(tmp_path: Path) -> None:
    class Late(ManualClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if self.monotonic() - start > LATE_SECONDS - 10:
                (tmp_path / "late").touch()

    clock = Late()
    start = clock.monotonic()

    assert _appeared(tmp_path / "late", clock) == tmp_path / "late"
    assert clock.monotonic() - start < LATE_SECONDS


def test_a_replica_runs_the_job_at_its_place_in_the_launch(run: RunFiles) -> None:
    run.put_json(run.intent(2), {"jobs": [4, 7, 9]})

    assert job_of_replica(run.directory, 2, {"SNOWFLAKE_JOB_INDEX": "1"}) == 7
    assert job_of_replica(run.directory, 2, {}) == 4


# Who starts the reduces --------------------------------------------------------------------------


def said(run: RunFiles, job: int, state: str, *, done: int = 0, rows: int = 10) -> None:
    """A heartbeat of a job that has been running for ten seconds."""
    counts = {"rows": rows, "ok": done, "failed": 0, "skipped": 0}
    run.put_beat(JobAttempt(job, 1), {"state": state, "started": 100.0, "time": 110.0, **counts})


def test_how_long_others_run_on_is_told_by_their_pace(run: RunFiles) -> None:
    assert seconds_left(run, 1, [0, 1]) == math.inf
    said(run, 0, "done", done=10)
    said(run, 1, "running")
    assert seconds_left(run, 1, [0, 1]) == math.inf
    said(run, 1, "running", done=8)
    assert seconds_left(run, 1, [0, 1]) == pytest.approx(2.5)
    said(run, 1, "running", done=10)
    assert 0 < seconds_left(run, 1, [0, 1]) < 1
    said(run, 1, "stopped", done=8)
    assert seconds_left(run, 1, [0, 1]) == math.inf
    said(run, 1, "done", done=10)
    assert seconds_left(run, 1, [0, 1]) == 0


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that were run."""
    found: list[str] = []

    class Client:
        def run(self, statement: str) -> None:
            found.append(statement)
            if found.count(statement) > 1:
                raise SnowflakeError("the name is taken", 2002)

        def close(self) -> None:
            """Nothing is open."""

    monkeypatch.setattr("flowdist.workers.container.session", Client)
    return found


def test_the_job_that_ends_last_starts_the_reduces(run: RunFiles, started: list[str]) -> None:
    run.put_json(run.follow(1), {"statement": "EXECUTE"})
    clock = ManualClock()
    said(run, 0, "done", done=10)
    said(run, 1, "running", done=2)

    follow(run, 1, clock)
    assert (started, clock.monotonic()) == ([], ManualClock().monotonic())  # it is far from last
    said(run, 1, "done", done=10)
    follow(run, 1, clock)
    follow(run, 1, clock)  # who ends at the same moment finds the name taken

    assert started == ["EXECUTE", "EXECUTE"]


def test_a_job_waits_a_little_for_others_that_are_about_to_end(
    run: RunFiles, started: list[str]
) -> None:
    run.put_json(run.follow(1), {"statement": "EXECUTE"})
    said(run, 0, "done", done=10)
    said(run, 1, "running", done=9)
    clock = ManualClock()
    start = clock.monotonic()

    follow(run, 1, clock)

    assert started == []
    assert clock.monotonic() - start == pytest.approx(LINGER_SECONDS, abs=2.0)


def test_without_reduces_nobody_starts_anything(run: RunFiles, started: list[str]) -> None:
    for job in (0, 1):
        said(run, job, "done", done=10)

    follow(run, 1, ManualClock())

    assert started == []


def test_a_run_in_a_mounted_folder_is_run_job_by_job(run: RunFiles) -> None:
    for index in ("0", "1"):
        code = container.main(
            ["job", str(run.directory.parent), run.directory.name, "1"],
            {"SNOWFLAKE_JOB_INDEX": index},
        )
        assert code == 0

    assert [who.job for who, b in run.beats(1) if b["state"] == "done"] == [0, 1]
    assert len(run.parts()) == 2
    assert Run(run).manifest["layout"]["jobs"] == 2
