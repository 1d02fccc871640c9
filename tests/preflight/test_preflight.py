"""Preflight: what would keep a flow from running is named, with the way out."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pandas as pd
import pytest
from preflight_support import GB, make, only, with_machine

from flowdist import flow, local, param_grid, retry_oom, retry_timeout, slurm
from flowdist.preflight import Check, Machine, preflight, prepare

# The flow and its plan ---------------------------------------------------------------------------


def test_a_sound_flow_has_no_findings() -> None:
    prepared = with_machine(make(lambda x: x).distribute(local(workers=1)))

    assert prepared.checks == []
    assert prepared.errors == []


def test_an_empty_grid_is_an_error() -> None:
    f = flow(pd.DataFrame({"x": [], "y": []})).stage("fit", lambda x: x)

    check = only(preflight(f), "grid")

    assert check.severity == "error"
    assert check.what == "the grid has no rows (columns: x, y)"


def test_an_empty_grid_is_not_tried() -> None:
    f = flow(pd.DataFrame({"x": []})).stage("fit", lambda x: x)

    assert [c.name for c in preflight(f, try_row=0)] == ["grid"]


def test_a_flow_without_stages_is_an_error() -> None:
    assert only(preflight(flow(param_grid(x=[1]))), "stages").severity == "error"


def test_a_missing_by_column_is_an_error_with_the_nearest_name() -> None:
    f = flow(param_grid(subject=[1, 2])).stage("fit", lambda subject: subject)

    prepared = prepare(f.distribute(local(by="subjekt")))

    assert prepared.errors == [
        Check(
            "plan",
            "error",
            "by='subjekt': the grid has no such column; did you mean 'subject'?",
            "group by one of: subject",
        )
    ]
    assert prepared.summary is None


def test_a_by_column_that_cannot_be_grouped_is_an_error() -> None:
    f = flow(param_grid(x=[[1], [2]])).stage("fit", lambda x: x).distribute(local(by="x"))

    assert "cannot be grouped" in only(preflight(f), "plan").what


def test_warnings_of_the_plan_are_findings() -> None:
    f = make(lambda x: x, rows=2).distribute(local(workers=1000))

    warnings = [c for c in with_machine(f).checks if c.name == "plan"]

    assert {c.severity for c in warnings} == {"warning"}
    assert any("1,000 workers" in c.what and "this machine has" in c.what for c in warnings)


def test_a_plan_without_backend_is_an_error() -> None:
    plan = local(workers=1).model_copy(update={"kind": "abacus"})

    check = only(preflight(make(lambda x: x).distribute(plan)), "backend")

    assert check.severity == "error"
    assert "abacus" in check.what


def test_errors_come_first() -> None:
    lock = threading.Lock()
    f = make(lambda x: (lock, x)).distribute(local(workers=1000))

    severities = [c.severity for c in preflight(f)]

    assert severities == ["error", *["warning"] * (len(severities) - 1)]
    assert len(severities) > 1


def test_what_was_computed_can_be_used_again() -> None:
    prepared = prepare(make(lambda x: x + 1, rows=10).distribute(local(rows_per_chunk=5)))

    assert prepared.payload is not None
    assert prepared.summary is not None
    assert pickle.loads(prepared.payload).stages[0].fn(1) == 2
    assert prepared.summary.layout.chunk_rows.tolist() == [5, 5]


# This machine ------------------------------------------------------------------------------------


def test_a_root_below_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    f = make(lambda x: x).distribute(local(root=tmp_path / "file" / "runs"))

    check = only(preflight(f), "root")

    assert check.severity == "error"
    assert check.what.endswith(f"{tmp_path / 'file'} is not a directory")


# Everything is writable to root, so root looks as nobody does, once all that it needs is imported.
LOOK_AS_ORDINARY_USER = """
import os, sys
from flowdist import flow, local, param_grid, retry_oom, retry_timeout, slurm
from flowdist.preflight import preflight

f = flow(param_grid(x=[1])).stage("fit", lambda x: x).distribute(local(root=sys.argv[1]))
preflight(f)
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
print(*[f"{c.severity}: {c.what}" for c in preflight(f) if c.name == "root"], sep="\\n")
"""


def test_a_root_that_is_not_writable_is_an_error() -> None:
    # Not tmp_path: nobody could not even see what is in it.
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o555)
        root = Path(place, "runs")

        done = subprocess.run(
            [sys.executable, "-c", LOOK_AS_ORDINARY_USER, root],
            capture_output=True,
            text=True,
            check=True,
        )

    assert done.stdout == f"error: root {root}: {place} is not writable\n"


@pytest.mark.parametrize(
    ("free", "severity"), [(0, "error"), (5 * 1024**2, "error"), (GB // 2, "warning")]
)
def test_little_disk_is_a_finding(free: int, severity: str) -> None:
    assert only(with_machine(make(lambda x: x), free=free).checks, "root").severity == severity


def test_a_root_that_does_not_exist_yet_is_asked_for_where_it_will_be(tmp_path: Path) -> None:
    asked: list[Path] = []

    def free(path: Path) -> int:
        asked.append(path)
        return 500 * GB

    f = make(lambda x: x).distribute(local(root=tmp_path / "a" / "b"))
    prepare(f, machine=Machine(free_disk=free))

    assert asked == [tmp_path]
    assert not (tmp_path / "a").exists()


def test_memory_of_all_workers_is_held_against_the_machine() -> None:
    f = make(lambda x: x, rows=8, resources={"memory": "8GB"}).distribute(local(workers=4))

    about_memory = [c.what for c in with_machine(f, memory=20 * GB).checks if "GiB" in c.what]

    assert len(about_memory) == 1
    assert "4 workers at 8 GiB a row need 32 GiB, more than the 20 GiB" in about_memory[0]
    assert "Set workers=2." in about_memory[0]


def test_memory_of_a_row_is_held_against_what_a_job_may_use() -> None:
    f = make(lambda x: x, rows=8, resources={"memory": "4GB"})

    checks = with_machine(f.distribute(local(workers=1, memory="2GB"))).checks

    assert "more than the 2 GiB that a job may use" in only(checks, "plan").what


# The module --------------------------------------------------------------------------------------


def test_a_check_is_a_dict_for_json() -> None:
    check = Check("grid", "error", "the grid has no rows")

    assert check.to_dict() == {
        "name": "grid",
        "severity": "error",
        "what": "the grid has no rows",
        "remedy": "",
    }


def test_importing_it_loads_neither_pandas_nor_rich() -> None:
    code = "import sys, flowdist.preflight; print({'pandas', 'rich'} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


# Policies that ask for more ----------------------------------------------------------------------


def test_a_policy_that_multiplies_what_jobs_do_not_ask_for_is_a_warning() -> None:
    f = flow(param_grid(x=[1])).stage("fit", lambda x: x, retry=retry_oom() | retry_timeout())

    (found,) = [c for c in preflight(f.distribute(slurm(time="1h"))) if c.name == "retry"]

    assert found.severity == "warning"
    assert "stage 'fit': its retry policy multiplies memory, " in found.what
    assert found.remedy == "give the plan memory="


def test_a_policy_that_asks_for_larger_jobs_where_there_are_none_is_a_warning() -> None:
    f = flow(param_grid(x=[1])).stage("fit", lambda x: x, retry=retry_oom())

    assert [c.name for c in preflight(f) if "larger jobs" in c.what] == ["retry"]
