"""Runs on this machine, through the API that people use: submit, watch, resume, collect, delete."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import flowdist
from flowdist import Flow, Plan, Run, artifact, attach, flow, local, param_grid, retry
from flowdist.errors import (
    PreflightError,
    RowsFailed,
    RunError,
    RunIncomplete,
    RunNotFound,
    TypeClash,
    WaitTimeout,
)

PATIENCE = 60.0


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOWDIST_ROOT", str(tmp_path / "runs"))
    return tmp_path / "runs"


def over(n: int, fn: Callable[..., Any], **options: Any) -> Flow:
    return flow(param_grid(x=range(n))).stage("f", fn, **options).distribute(local(workers=2))


def finished(f: Flow) -> Run:
    return f.submit().wait(PATIENCE)


def sleepy(x: int) -> int:
    time.sleep(0.2)
    return x


# -- submitting and finding ----------------------------------------------------


def test_a_run_is_found_by_its_id_from_another_process() -> None:
    run = finished(over(3, lambda x: x + 1))
    code = (
        "import sys, flowdist;"
        "print(flowdist.attach(sys.argv[1]).wait(60).collect()['f.value'].tolist())"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, run.id], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[1, 2, 3]"


def test_runs_lists_the_latest_first() -> None:
    first, second = finished(over(1, lambda x: x)), finished(over(1, lambda x: x))

    assert [run.id for run in flowdist.runs()] == [second.id, first.id]


def test_runs_of_others_in_the_same_place_are_passed_over(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(over(1, lambda x: x))
    (root / "theirs").mkdir()
    stat = os.stat

    def theirs_is_private(path: Any, **how: Any) -> os.stat_result:
        if str(path).startswith(str(root / "theirs/")):
            raise PermissionError(path)
        return stat(path, **how)

    monkeypatch.setattr(os, "stat", theirs_is_private)

    assert [found.id for found in flowdist.runs()] == [run.id]


def test_an_unknown_id_names_the_nearest(root: Path) -> None:
    run = finished(over(1, lambda x: x))

    with pytest.raises(RunNotFound, match=f"did you mean '{run.id}'"):
        flowdist.attach(run.id[:-1] + "z")


@pytest.mark.parametrize("name", ["../x", "a/b", "", "x" * 200])
def test_an_id_is_no_path(name: str) -> None:
    with pytest.raises(RunNotFound):
        flowdist.attach(name)


def test_a_run_is_private_to_its_user(root: Path) -> None:
    run = finished(over(2, lambda x: x))

    assert root.stat().st_mode & 0o777 == 0o700
    assert run.directory.stat().st_mode & 0o777 == 0o700
    assert all(p.stat().st_mode & 0o077 == 0 for p in run.directory.glob("parts/*"))


def test_a_run_leaves_few_files_whatever_its_rows() -> None:
    run = finished(over(20_000, lambda x: x))

    assert len([p for p in run.directory.rglob("*") if p.is_file()]) <= 10 + 2 * 1


def test_a_flow_that_preflight_refuses_starts_nothing(root: Path) -> None:
    with pytest.raises(PreflightError, match="no rows"):
        flow(pa.table({"x": pa.array([], pa.int64())})).stage("f", lambda x: x).submit()

    assert flowdist.runs() == []


def test_editing_a_module_does_not_change_a_run_that_is_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "ours.py"
    module.write_text(
        "FACTOR = 2\ndef helper(x): return x * FACTOR\ndef work(x): return helper(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import ours  # type: ignore[import-not-found]

    f = over(2, ours.work)
    module.write_text("raise RuntimeError('edited')\n")

    assert f.collect()["f.value"].tolist() == [0, 2]


# -- watching ------------------------------------------------------------------


def test_status_counts_every_row_while_it_runs() -> None:
    run = over(20, sleepy).submit()

    status = run.status()

    assert not status.ended
    assert status.done + status.running + status.waiting == 20
    run.cancel()


def test_wait_ends_with_its_timeout_and_the_run_goes_on() -> None:
    run = over(20, sleepy).submit()

    with pytest.raises(WaitTimeout, match="it goes on"):
        run.wait(0.1)

    assert not run.status().ended
    run.cancel()


def test_logs_hold_what_rows_print() -> None:
    run = finished(over(3, lambda x: os.write(1, f"row says {x}\n".encode())))

    assert {"row says 0", "row says 1", "row says 2"} <= set(run.logs())


def test_logs_of_an_unknown_job_say_which_there_are() -> None:
    run = finished(over(1, lambda x: x))

    with pytest.raises(RunError, match="jobs 0 to 0, not 7"):
        run.logs(7)


# -- ending early and going on -------------------------------------------------


def test_cancel_keeps_what_is_done_and_resume_runs_the_rest(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    ran.mkdir()

    def work(x: int, ran: str) -> int:
        time.sleep(0.05)
        (Path(ran) / f"{x}-{time.monotonic_ns()}").touch()
        return x

    f = flow(param_grid(x=range(60)), const={"ran": str(ran)}).stage("work", work)
    run = f.distribute(local(workers=2)).submit()
    while run.status().done < 10:
        time.sleep(0.02)

    stopped = run.cancel().status()

    assert stopped.state == "stopped"
    assert 10 <= stopped.done < 60
    assert run.resume().wait(PATIENCE).collect()["work.value"].tolist() == list(range(60))
    twice = len(list(ran.iterdir())) - 60
    assert twice <= 2  # only what was running when the run was cancelled


def test_resuming_a_finished_run_starts_nothing() -> None:
    run = finished(over(2, lambda x: x))

    run.resume()

    assert run.files.attempts() == [1]


def test_resuming_a_running_run_is_refused() -> None:
    run = over(20, sleepy).submit()

    with pytest.raises(RunError, match="cancel it before resuming"):
        run.resume()
    run.cancel()


def test_resume_failed_runs_only_the_failed_rows_again(tmp_path: Path) -> None:
    flag = tmp_path / "fixed"

    def work(x: int, flag: str) -> int:
        if x % 2 and not Path(flag).exists():
            raise ValueError("not yet")
        return time.monotonic_ns()

    f = flow(param_grid(x=range(6)), const={"flag": str(flag)}).stage("work", work)
    run = f.distribute(local(workers=2)).submit().wait(PATIENCE)
    before = run.collect(errors="keep")
    flag.touch()

    after = run.resume(failed=True).wait(PATIENCE).collect()

    assert before["_status"].tolist() == ["ok", "failed"] * 3
    assert after["work.value"][::2].tolist() == before["work.value"][::2].tolist()
    assert run.status().ok == 6


def test_of_two_that_resume_at_once_one_starts_the_launch() -> None:
    run = over(4, sleepy).submit()
    run.cancel()
    from flowdist.submission import launch

    attempt = run.files.attempts()[-1] + 1
    run.files.put_json(run.files.intent(attempt), {"time": time.time(), "jobs": [0]})
    run.files.attempts = lambda: [attempt - 1]  # type: ignore[method-assign]

    with pytest.raises(RunError, match="started by somebody else"):
        launch(run.files, run.manifest, after=attempt - 1)


def test_who_resumes_on_what_is_no_longer_so_starts_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = over(50, sleepy).submit().cancel()
    theirs = attach(ours.id)
    seen = ours.status()
    theirs.resume()
    monkeypatch.setattr(ours, "status", lambda: seen)

    with pytest.raises(RunError, match="started by somebody else"):
        ours.resume()

    assert theirs.cancel().files.attempts() == [1, 2]


def test_a_launch_that_never_started_is_lost_and_can_be_resumed() -> None:
    from flowdist.submission import write_run

    run = Run(write_run(over(3, lambda x: x), "never"))

    assert run.status().state == "lost"
    assert run.resume().wait(PATIENCE).collect()["f.value"].tolist() == [0, 1, 2]


def test_fail_fast_stops_the_run() -> None:
    def work(x: int) -> int:
        time.sleep(0.02)
        if x == 3:
            raise ValueError("no")
        return x

    run = finished(over(500, work).distribute(local(workers=2, fail_fast=True)))

    status = run.status()
    assert status.state == "stopped"
    assert "stops a run at 1 failed" in status.reason
    assert status.waiting > 0


def test_max_failures_counts_over_all_jobs() -> None:
    def work(x: int) -> int:
        time.sleep(0.01)
        raise ValueError("no")

    plan = local(workers=1, target_jobs=4, jobs_at_once=2, max_failures=20)
    run = finished(over(2000, work).distribute(plan))

    status = run.status()
    assert status.state == "stopped"
    assert 20 <= status.failed < 500


def test_a_stopped_run_starts_no_more_jobs() -> None:
    plan = local(workers=1, chunks_per_job=1, jobs_at_once=2, fail_fast=True)
    run = finished(over(12, lambda x: 1 // x).distribute(plan))

    assert run.status().state == "stopped"
    assert len(dict(run.files.beats())) < 12


@pytest.mark.parametrize(
    "plan",
    [
        local(workers=1, time_budget="3s"),
        local(workers=1, jobs_at_once=2, dispatch="queue", time_budget="3s"),
    ],
    ids=["static", "queue"],
)
def test_no_row_is_begun_once_the_time_budget_is_spent(plan: Plan) -> None:
    def work(x: int) -> int:
        time.sleep(0.2)
        return x

    run = finished(over(60, work).distribute(plan))

    status = run.status()
    assert status.state == "stopped"
    assert status.reason.startswith("the time budget of 3 s is spent")
    assert (status.ok < 60, status.failed) == (True, 0)
    assert run.throughput().rows_left == 60 - status.ok
    assert run.resume().wait(30).status().ok >= status.ok


def test_every_job_and_reduce_has_the_time_that_the_plan_gives_a_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flowdist.workers import supervise

    run = finished(over(1, lambda x: x).distribute(local(time="1h")))
    launch = supervise.Launch(run.files, 1, supervise.StopFlag())
    deadlines = []
    for now in (1000.0, 9000.0):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        launch.pool(run.manifest["phases"][0]).close()
        deadlines.append(launch.limits.deadline)

    assert deadlines == [4600.0, 12600.0]


def test_delete_removes_everything_but_not_while_it_runs(root: Path) -> None:
    run = over(20, sleepy).submit()
    with pytest.raises(RunError, match="cancel it before deleting"):
        run.delete()

    run.cancel().delete()

    assert list(root.iterdir()) == []


# -- collecting ----------------------------------------------------------------


def test_failed_rows_raise_with_the_first_error_and_the_ways_out() -> None:
    run = finished(over(4, lambda x: 1 / (x - 2)))

    with pytest.raises(RowsFailed, match=r"(?s)1 of 4 rows failed.*row 2.*ZeroDivisionError.*keep"):
        run.collect()


def test_errors_keep_type_message_traceback_stage_and_parameters() -> None:
    run = finished(over(3, lambda x: {}["missing"] if x == 1 else x))

    (error,) = run.errors().to_dict("records")
    assert (error["row"], error["x"], error["stage"], error["type"]) == (1, 1, "f", "KeyError")
    assert error["message"] == "'missing'"
    assert "test_run.py" in error["traceback"]
    assert "flowdist/workers" not in error["traceback"]


def test_dropped_errors_leave_the_other_rows() -> None:
    run = finished(over(4, lambda x: 1 / (x - 2)))

    assert run.collect(errors="drop")["x"].tolist() == [0, 1, 3]


def test_partial_takes_what_is_there_and_marks_the_rest_missing() -> None:
    run = over(40, sleepy).submit()
    run.cancel()

    table = run.collect(errors="keep", partial=True)

    assert len(table) == 40
    assert "missing" in set(table["_status"])
    with pytest.raises(RunIncomplete, match=r"run.resume\(\)"):
        run.collect()


def test_collect_gives_the_kind_of_table_that_is_asked_for() -> None:
    run = finished(over(2, lambda x: x))

    assert isinstance(run.collect(), pd.DataFrame)
    assert isinstance(run.collect("polars"), pl.DataFrame)
    assert isinstance(run.collect("arrow"), pa.Table)
    with pytest.raises(RunError, match="expected 'pandas'"):
        run.collect("spark")  # type: ignore[arg-type]


def test_integers_stay_integers_beside_failed_rows() -> None:
    run = finished(over(3, lambda x: {"n": 10**17 + x // (x - 1)}, returns={"n": int}))

    assert run.collect(errors="keep")["f.n"].dtype == "Int64"
    assert run.collect(errors="keep")["f.n"][2] == 10**17 + 2


def test_undeclared_int_and_float_widen() -> None:
    run = finished(over(200, lambda x: x if x < 100 else x + 0.5))

    assert run.collect()["f.value"].tolist()[99:101] == [99.0, 100.5]


def test_a_type_clash_names_two_rows_and_loses_nothing() -> None:
    run = finished(over(4, lambda x: "three" if x == 3 else x))

    with pytest.raises(TypeClash, match=r"field 'value': row 0 gave int64 and row 3 gave string"):
        run.collect()
    assert run.collect(clashes="text")["f.value"].tolist() == ["0", "1", "2", "three"]


def test_objects_that_arrow_cannot_hold_become_artifacts() -> None:
    run = finished(over(2, lambda x: {"z": complex(x, 1)}))

    assert [a.load() for a in run.collect()["f.z"]] == [0 + 1j, 1 + 1j]


def test_large_artifacts_are_files_and_small_ones_are_not() -> None:
    def work(x: int) -> dict[str, object]:
        return {"a": np.zeros(10 if x == 0 else 100_000)}

    run = finished(over(2, work, returns={"a": artifact}))

    small, large = run.collect()["f.a"]
    assert (small.path, large.load().shape) == (None, (100_000,))
    assert [p.suffix for p in run.directory.glob("artifacts/f/*")] == [".npy"]


def test_a_table_output_is_read_as_one_long_table() -> None:
    run = finished(over(3, lambda x: pd.DataFrame({"k": range(x), "v": [x * 1.5] * x})))

    table = run.table("f")
    assert table["x"].tolist() == [1, 2, 2]
    assert table["k"].tolist() == [0, 0, 1]
    assert table["v"].tolist() == [1.5, 3.0, 3.0]


def test_a_reduce_sees_the_groups_table_when_all_rows_have_ended() -> None:
    f = (
        flow(param_grid(g=["a", "b"], x=range(5)))
        .stage("sq", lambda x: x * x)
        .reduce("total", lambda g, sq: {"text": f"{g}{sq['value'].sum()}"}, by="g")
        .reduce("all", lambda total, table: {"joined": "".join(total["text"]), "n": len(table)})
        .distribute(local(workers=2))
    )

    run = finished(f)

    assert run.table("total").to_dict("list") == {"g": ["a", "b"], "text": ["a30", "b30"]}
    assert run.table("all").to_dict("list") == {"joined": ["a30b30"], "n": [10]}


def test_a_reduce_drops_keeps_or_refuses_failed_rows() -> None:
    def fails(x: int) -> int:
        if x == 1:
            raise ValueError("no")
        return x

    f = flow(param_grid(x=range(3))).stage("f", fails)
    for errors in ("drop", "keep", "raise"):
        f = f.reduce(errors, lambda table: {"n": len(table)}, errors=errors)
    run = finished(f.distribute(local(workers=1)))

    assert run.table("drop")["n"].tolist() == [2]
    assert run.table("keep")["n"].tolist() == [3]
    assert run.table("raise", errors="keep")["_status"].tolist() == ["failed"]
    with pytest.raises(RowsFailed, match=r"1 of 1 groups of reduce 'raise' failed.*1 of the group"):
        run.table("raise")


def test_a_reduce_is_run_again_when_rows_were_though_that_launch_died_before_it(
    tmp_path: Path,
) -> None:
    flag = tmp_path / "good"
    f = flow(param_grid(x=[1, 2, 3]), const={"flag": str(flag)})
    f = f.stage("f", lambda x, flag: x if x != 2 or Path(flag).exists() else 1 / 0)
    run = finished(f.reduce("total", lambda f: int(f["value"].sum()), errors="drop"))
    flag.touch()
    run.resume(failed=True).wait(PATIENCE)
    run.files.path("parts/00001-2-0000.arrow").unlink()

    died = run.status()

    assert (died.state, "reduce total has not run" in died.reason) == ("lost", True)
    assert run.resume().wait(PATIENCE).table("total")["value"].tolist() == [6]


def test_a_failed_reduce_is_no_clean_end() -> None:
    f = flow(param_grid(g=["a", "b"])).stage("f", lambda g: g)
    run = finished(f.reduce("r", lambda g, f: 1 / (g == "a"), by="g").distribute(local()))

    assert (run.status().state, run.status().groups_failed, run.status().clean) == (
        "done",
        1,
        False,
    )
    (error,) = run.errors().to_dict("records")
    assert (error["row"], error["g"], error["stage"], error["type"]) == (
        1,
        "b",
        "r",
        "ZeroDivisionError",
    )
    assert run.table("r", errors="drop")["g"].tolist() == ["a"]


def test_retries_are_recorded_with_their_causes(tmp_path: Path) -> None:
    def flaky(x: int, count: str) -> int:
        path = Path(count) / str(x)
        tries = int(path.read_text()) if path.exists() else 0
        path.write_text(str(tries + 1))
        if tries < x:
            raise ConnectionError(f"try {tries}")
        return tries

    f = flow(param_grid(x=range(4)), const={"count": str(tmp_path)}, retry=retry(2))
    run = finished(f.stage("flaky", flaky).distribute(local(workers=2)))

    table = run.collect(errors="keep")
    assert table["_attempts"].tolist() == [1, 2, 3, 3]
    assert table["_status"].tolist() == ["ok", "ok", "ok", "failed"]
    (error,) = run.errors().to_dict("records")
    assert [cause["message"] for cause in error["causes"]] == ["try 0", "try 1", "try 2"]


def test_threads_of_numerical_libraries_are_shared_out() -> None:
    plan = local(workers=2, threads_per_worker=3)
    run = finished(over(1, lambda x: os.environ["OMP_NUM_THREADS"]).distribute(plan))

    assert run.collect()["f.value"].tolist() == [os.environ.get("OMP_NUM_THREADS", "3")]


def test_the_manifest_says_what_was_submitted(root: Path) -> None:
    run = finished(over(2, lambda x: x, timeout=5))

    manifest = json.loads((run.directory / "run.json").read_text())
    assert manifest["layout"] == {"rows": 2, "groups": 1, "chunks": 2, "jobs": 1}
    assert manifest["payload"]["versions"]["flowdist"] == flowdist.__version__
    assert manifest["plan"]["kind"] == "local"


def test_a_payload_that_was_changed_is_not_loaded() -> None:
    run = finished(over(2, lambda x: x))
    path = run.directory / "flow.pkl"
    path.write_bytes(path.read_bytes() + b" ")
    for part in run.directory.glob("parts/*"):
        part.unlink()

    status = run.resume().wait(PATIENCE).status()

    assert status.state == "failed"
    assert "not the flow that was submitted" in status.reason


def test_codecs_of_ones_own_travel_with_the_flow() -> None:
    from flowdist import register_codec

    register_codec(
        "backwards",
        lambda text, file: file.write(text[::-1].encode()),
        lambda file: file.read().decode()[::-1],
        handles=None,
        suffix=".txt",
    )
    run = finished(over(1, lambda x: {"t": "abc"}, returns={"t": artifact(codec="backwards")}))

    (stored,) = run.collect()["f.t"]
    assert (stored.codec, stored.data, stored.load()) == ("backwards", b"cba", "abc")


def test_a_job_process_runs_rows_or_a_reduce() -> None:
    from flowdist.submission import write_run

    f = flow(param_grid(x=range(4))).stage("sq", lambda x: x * x)
    f = f.reduce("total", lambda sq: int(sq["value"].sum()))
    files = write_run(f.distribute(local(workers=1, target_jobs=2)), "by hand")
    files.put_json(files.intent(1), {"time": time.time(), "jobs": [0, 1]})
    for job in ("0", "1", "2"):
        words = [sys.executable, "-m", "flowdist.workers", "job", str(files.directory), "1", job]
        subprocess.run(words, check=True)

    assert Run(files).table("total")["value"].tolist() == [14]


# What people are told ----------------------------------------------------------


def test_a_reduce_may_give_a_table_for_each_group() -> None:
    f = flow(param_grid(g=["a", "b"], x=[1, 2, 3])).stage("sq", lambda x: x * x)
    f = f.reduce("top", lambda sq: sq[["x", "value"]].tail(2), by="g")
    f = f.reduce("both", lambda rows: {"n": 1, "most": rows.tail(1)})
    run = finished(f.distribute(local(workers=1)))

    assert run.table("top").to_dict("list") == {
        "g": ["a", "a", "b", "b"],
        "x": [2, 3, 2, 3],
        "value": [4, 9, 4, 9],
    }
    assert run.table("both.most")["sq.value"].tolist() == [9]
    assert run.table("both")["n"].tolist() == [1]
    with pytest.raises(RunError, match="no nested table 'mots'; did you mean 'most'"):
        run.table("both.mots")
    with pytest.raises(RunError, match=r"'sq'.*no nested table 'value' \(there are: none\)"):
        run.table("sq.value")


def test_a_failed_group_is_named_by_its_columns() -> None:
    f = flow(param_grid(g=["a", "b"], x=[1, 2])).stage("sq", lambda x: x * x)
    f = f.reduce("bad", lambda sq, g: 1 / (g == "a"), by="g")
    run = finished(f.distribute(local(workers=1)))

    with pytest.raises(RowsFailed, match="the first, group g='b': stage 'bad': ZeroDivisionError"):
        run.table("bad")


def test_the_parameters_of_failed_rows_keep_their_type_beside_those_of_groups() -> None:
    f = over(3, lambda x: 1 // x).reduce("bad", lambda f: 1 // 0)

    (row, group) = finished(f).errors().to_dict("records")

    assert repr(row["x"]) == "0"
    assert group["x"] is None


def test_a_failure_says_its_stage_once() -> None:
    f = over(1, lambda x: "text", returns=float).distribute(local(workers=1))

    with pytest.raises(RowsFailed, match="row 0: OutputMismatch: stage 'f', field 'value'"):
        finished(f).collect()


def test_a_run_that_stopped_at_a_failure_says_which() -> None:
    run = over(2_000, sleepy_failure).distribute(local(workers=1, fail_fast=True)).submit()

    with pytest.raises(RunIncomplete, match="the first, row 0: stage 'f': ValueError: diverged"):
        run.wait(PATIENCE).collect()


def sleepy_failure(x: int) -> int:
    time.sleep(0.01)
    if x == 0:
        raise ValueError("diverged")
    return x


def test_a_run_that_was_deleted_is_not_called_lost() -> None:
    run = finished(over(2, lambda x: x))
    run.delete()

    for asked in (run.status, run.collect, run.errors, run.delete, run.resume):
        with pytest.raises(RunNotFound, match="it was deleted"):
            asked()


def test_rows_that_never_ran_are_not_dropped_with_those_that_failed() -> None:
    run = finished(over(4, lambda x: 1 / (x - 2)))
    for part in run.directory.glob("parts/*"):
        part.unlink()

    with pytest.raises(RunIncomplete, match="have no result"):
        run.collect(errors="drop")
    assert len(run.collect(errors="drop", partial=True)) == 0


def test_stages_that_do_not_use_pandas_run_without_it(tmp_path: Path) -> None:
    def plain(x: int) -> dict[str, object]:
        return {"there": "pandas" in sys.modules, "x": [x], "at": datetime.date(2013, 1, x + 1)}

    run = flow(param_grid(x=[0, 1])).stage("f", plain)
    run = run.distribute(local(root=tmp_path, workers=1)).submit().wait(60)

    assert run.collect()["f.there"].tolist() == [False, False]


def test_a_stage_that_imports_pandas_late_can_return_what_it_makes(tmp_path: Path) -> None:
    def series(x: int) -> dict[str, object]:
        import pandas as pd

        frame = pd.DataFrame({"n": [x], "kind": pd.Categorical(["a"])})
        return {"table": frame, "sum": frame["n"].sum(), "when": pd.Timestamp("2013-01-01")}

    run = flow(param_grid(x=[0, 1, 2])).stage("f", series)
    run = run.distribute(local(root=tmp_path, workers=1)).submit().wait(60)

    assert run.table("f")["n"].tolist() == [0, 1, 2]
    assert run.collect()["f.when"].iloc[0] == pd.Timestamp("2013-01-01")
