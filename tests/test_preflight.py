"""Preflight: each thing that would keep a flow from running is named, with the way out."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flowdist import Flow, artifact, flow, local, param_grid
from flowdist.preflight import Check, Machine, Prepared, preflight, prepare

GB = 1024**3
module_lock = threading.Lock()


class Model:
    """What people capture: an object that holds something of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.weights = [1.0, 2.0]

    def score(self, x: int) -> float:
        return self.weights[0] * x


def locked(x: int) -> int:
    with module_lock:
        return x


def make(fn: Callable[..., Any], rows: int = 2, **options: Any) -> Flow:
    """A flow of one stage, 'fit'."""
    return flow(param_grid(x=range(rows))).stage("fit", fn, **options)


def only(checks: list[Check], name: str) -> Check:
    """The one finding of that name."""
    (found,) = [c for c in checks if c.name == name]
    return found


def with_machine(f: Flow, free: int = 500 * GB, memory: int = 64 * GB) -> Prepared:
    return prepare(f, machine=Machine(free_disk=lambda path: free, memory=lambda: memory))


# The flow ----------------------------------------------------------------------------------------


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


# What is pickled ---------------------------------------------------------------------------------


def capturing(value: object) -> Callable[[int], object]:
    def fit(x: int) -> object:
        return value

    return fit


def with_default(x: int, lock: Any = threading.Lock()) -> int:  # noqa: B008
    return x


@functools.cache
def remembered(x: int) -> int:
    return locked(x)


def by_a_helper(x: int) -> int:
    return locked(x)


@pytest.mark.parametrize(
    ("fn", "culprit"),
    [
        (capturing(threading.Lock()), "'value' (a _thread.lock that the function captures)"),
        (locked, "'module_lock' (a _thread.lock that the function uses)"),
        (with_default, "'lock' (a _thread.lock that the function has as a default)"),
        (by_a_helper, "'module_lock' (a _thread.lock that locked() uses)"),
        (remembered, "'module_lock' (a _thread.lock that locked() uses)"),
        (Model().score, "'self.lock' (a _thread.lock that the function carries)"),
        (capturing(Model()), "'value.lock' (a _thread.lock that the function captures)"),
        (
            capturing({"a": [threading.Lock()]}),
            "'value['a'][0]' (a _thread.lock that the function captures)",
        ),
        (
            functools.partial(lambda x, lock: x, lock=threading.Lock()),
            "'lock' (a _thread.lock that the function is given)",
        ),
        (
            capturing(capturing(threading.Lock())),
            "'value' (a _thread.lock that value() captures)",
        ),
    ],
)
def test_what_cannot_be_pickled_is_named(fn: Callable[..., Any], culprit: str) -> None:
    check = only(preflight(make(fn)), "pickle")

    assert check.severity == "error"
    assert check.what == f"stage 'fit': cannot pickle {culprit}"
    assert check.remedy == "make it inside the function, or pass what makes it as const"


def test_every_culprit_of_a_stage_is_named() -> None:
    first, second, fine = threading.Lock(), threading.Lock(), 1

    checks = preflight(make(lambda x: (first, second, fine)))

    assert [c.what.split("'")[3] for c in checks] == ["first", "second"]


def test_an_open_file_is_to_be_opened_inside(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        check = only(preflight(make(lambda x: file.write(x))), "pickle")

    assert "'file' (an _io.BufferedWriter that the function captures)" in check.what
    assert check.remedy.startswith("open it inside the function")


def test_the_stage_that_cannot_be_pickled_is_named() -> None:
    f = flow(param_grid(x=[1])).stage("clean", lambda x: x).stage("fit", locked)

    assert "stage 'fit'" in only(preflight(f), "pickle").what


def test_skip_when_is_pickled_too() -> None:
    f = make(lambda x: x, skip_when=locked)

    assert only(preflight(f), "pickle").what.startswith("stage 'fit': skip_when: cannot pickle")


def test_a_reduce_is_pickled_too() -> None:
    f = make(lambda x: x).reduce("total", lambda fit: {"n": (len(fit), module_lock)})

    assert only(preflight(f), "pickle").what.startswith("reduce 'total': cannot pickle")


def test_a_const_that_cannot_be_pickled_is_named() -> None:
    f = flow(param_grid(x=[1]), const={"settings": {"lock": threading.Lock()}})

    check = only(preflight(f.stage("fit", lambda x, settings: x)), "pickle")

    assert check.what == "const 'settings': cannot pickle '['lock']' (a _thread.lock in a dict)"


def test_a_function_that_calls_itself_does_not_go_round_for_ever() -> None:
    def fit(x: int) -> object:
        return fit(x - 1) if x else module_lock

    assert "'module_lock'" in only(preflight(make(fit)), "pickle").what


def test_a_huge_capture_is_named_with_its_size() -> None:
    table = np.random.default_rng(0).random(2_000_000)

    check = only(preflight(make(lambda x: table[x])), "size")

    assert check.severity == "warning"
    assert check.what.startswith(
        "stage 'fit': 'table' (a numpy.ndarray that the function captures) is 15.3 MiB pickled"
    )
    assert "const" in check.remedy


def test_a_huge_capture_of_a_method_is_found_in_its_object() -> None:
    model = Model()
    del model.lock
    model.weights = np.zeros(2_000_000)  # type: ignore[assignment]

    assert "'self.weights'" in only(preflight(make(model.score)), "size").what


def test_a_capture_of_a_megabyte_is_fine() -> None:
    table = np.zeros(100_000)

    assert not [c for c in preflight(make(lambda x: table[x])) if c.name == "size"]


def test_a_const_may_be_larger_than_a_capture_but_not_huge() -> None:
    const = {"small": np.zeros(2_000_000), "large": np.zeros(14_000_000)}
    f = flow(param_grid(x=[1]), const=const).stage("fit", lambda x, small, large: x)

    check = only(preflight(f), "size")

    assert check.severity == "warning"
    assert check.what.startswith("const 'large' (a numpy.ndarray) is 106.8 MiB pickled")


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


@pytest.mark.skipif("os.geteuid() == 0", reason="everything is writable to root")
def test_a_root_that_is_not_writable_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    check = only(preflight(make(lambda x: x).distribute(local(root=tmp_path / "runs"))), "root")

    assert check.severity == "error"
    assert check.what.endswith(f"{tmp_path} is not writable")


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


# Declared outputs --------------------------------------------------------------------------------


def returns_slop(x: int) -> Any:
    if x > 1:
        return dict(slope=1.0, n=x)  # noqa: C408
    return {"slop": 1.0, "n": x}


def returns_something(x: int) -> Any:
    if x > 1:
        return {"n": x}
    return locked(x)


def returns_more(x: int) -> Any:
    found = {"slope": 1.0}
    return {"n": x, **found}


def returns_in_a_helper(x: int) -> Any:
    def helper() -> dict[str, int]:
        return {"other": 1}

    return {"slope": float(x), "n": len(helper())}


def test_a_declared_field_that_is_not_returned_is_a_warning_with_its_line() -> None:
    check = only(preflight(make(returns_slop, returns={"slope": float, "n": int})), "outputs")

    line = returns_slop.__code__.co_firstlineno + 3
    assert check.severity == "warning"
    assert check.what == (
        f"stage 'fit': declares the field 'slope', but line {line} of test_preflight.py "
        "returns 'slop', 'n'"
    )


def test_a_lambda_in_a_chain_is_read_too() -> None:
    f = (
        flow(param_grid(x=[1]))
        .stage("one", lambda x: {"a": x}, returns={"a": int})
        .stage("two", lambda a: {"b": a}, returns={"c": int})
    )

    assert only(preflight(f), "outputs").what.startswith("stage 'two': declares the field 'c'")


@pytest.mark.parametrize("fn", [returns_more, returns_in_a_helper])
def test_a_function_that_may_return_the_field_is_left_alone(fn: Callable[..., Any]) -> None:
    assert not [c for c in preflight(make(fn, returns={"slope": float})) if c.name == "outputs"]


def test_a_return_that_cannot_be_read_withholds_judgement() -> None:
    f = make(returns_something, returns={"slope": float})

    assert not [c for c in preflight(f) if c.name == "outputs"]


def test_a_function_without_source_is_left_alone() -> None:
    scope: dict[str, Any] = {}
    exec("def fit(x): return {'a': x}", scope)

    assert preflight(make(scope["fit"], returns={"b": int}).distribute(local(workers=1))) == []


# Files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "severity"), [(10_000, "info"), (100_001, "warning")])
def test_many_artifacts_are_a_finding(rows: int, severity: str) -> None:
    f = make(lambda x: {"model": x}, rows=rows, returns={"model": artifact})

    check = only(preflight(f), "files")

    assert check.severity == severity
    assert check.what.startswith(f"up to {rows:,} files: 'fit.model' of each of {rows:,} rows")


def test_a_few_artifacts_are_none() -> None:
    f = make(lambda x: {"model": x}, rows=100, returns={"model": artifact})

    assert not [c for c in preflight(f) if c.name == "files"]


def test_a_tried_row_tells_which_artifacts_become_files() -> None:
    def fit(x: int) -> Any:
        return {"small": x, "large": np.zeros(100_000)}

    f = make(fit, rows=200_000, returns={"small": artifact, "large": artifact})

    check = only(preflight(f, try_row=0), "files")

    assert check.what == "about 200,000 files: 'fit.large' of each of 200,000 rows"


# Trying a row ------------------------------------------------------------------------------------


def test_a_tried_row_tells_its_outputs_and_their_types() -> None:
    f = make(lambda x: {"n": x, "m": np.zeros((3, 4)), "w": [1, 2]}).stage("half", lambda n: n / 2)

    told = [c for c in preflight(f, try_row=1) if c.name == "try"]

    assert [c.severity for c in told] == ["info", "info"]
    assert "row 1 took" in told[0].what
    assert told[0].what.endswith(
        "it gave fit.n: int, fit.m: ndarray 3 x 4, fit.w: list of 2, half.value: float"
    )


def test_a_tried_row_gives_an_estimate_for_the_run() -> None:
    f = make(lambda x: time.sleep(0.01), rows=1_000_000).distribute(local(workers=1))

    estimate = [c.what for c in preflight(f, try_row=0)][-1]

    assert estimate.startswith("1,000,000 such rows on 1 worker take about")
    assert " h" in estimate


def test_a_tried_row_is_run_once() -> None:
    calls: list[int] = []

    preflight(make(lambda x: calls.append(x)), try_row=1)

    assert calls == [1]


def test_an_exception_names_its_stage() -> None:
    f = make(lambda x: x).stage("boom", lambda value: 1 / (value - 1)).stage("end", lambda x: x)

    check = only(preflight(f, try_row=1), "try")

    assert check.severity == "error"
    assert check.what == "row 1: stage 'boom' raised ZeroDivisionError: division by zero"


def test_a_stage_that_exits_does_not_end_the_caller() -> None:
    check = only(preflight(make(lambda x: sys.exit(3)), try_row=0), "try")

    assert check.what == "row 0: stage 'fit' raised SystemExit: 3"


def test_an_output_that_does_not_fit_its_declaration_is_an_error() -> None:
    check = only(preflight(make(lambda x: "text", returns={"value": int}), try_row=0), "try")

    assert check.severity == "error"
    assert "stage 'fit', field 'value': expected" in check.what


def test_an_artifact_that_cannot_be_stored_is_an_error() -> None:
    f = make(lambda x: {"model": threading.Lock()}, returns={"model": artifact})

    errors = [c for c in preflight(f, try_row=0) if c.severity == "error"]

    assert "'fit.model' of row 0 cannot be stored" in errors[0].what


def test_a_row_that_is_not_there_is_an_error() -> None:
    check = only(preflight(make(lambda x: x), try_row=9), "try")

    assert check.what == "try_row(9): the grid has rows 0 to 1"


def test_the_memory_that_a_tried_row_took_counts_for_all_workers() -> None:
    def fit(x: int) -> float:
        return float(np.ones(40_000_000).sum())

    f = make(fit, rows=8).distribute(local(workers=8, threads_per_worker=1))
    machine = Machine(free_disk=lambda path: 500 * GB, memory=lambda: GB)

    warnings = [c.what for c in prepare(f, try_row=0, machine=machine).checks if c.name == "plan"]

    assert any("8 workers at" in what and "a row need" in what for what in warnings)


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
