"""A function over a list: what goes out, what comes back, and what is said when it fails."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from flowdist import flow, local, param_grid, retry
from flowdist.errors import (
    FlowError,
    GridError,
    PlanError,
    PreflightError,
    RowError,
    RowsFailed,
    RunError,
    RunIncomplete,
    StageTimeout,
    WorkerDied,
)
from flowdist.mapping import MapRun, flow_map, slurm_map
from flowdist.store import RunFiles

TWO = local(workers=2)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOWDIST_ROOT", str(tmp_path / "runs"))
    return tmp_path / "runs"


@dataclass
class Point:
    x: int
    y: int = 0


class Pair(NamedTuple):
    first: int
    second: str


def same(value: Any) -> Any:
    return value


# -- what goes out and comes back --------------------------------------------------------------


def test_results_come_in_the_order_of_the_items() -> None:
    def backwards(x: int) -> int:
        time.sleep((9 - x) / 50)
        return x * x

    assert flow_map(backwards, range(10), TWO).collect() == [x * x for x in range(10)]


OBJECTS = [
    (1, "a"),
    [1, (2, 3)],
    {"a b": 1, 3: None},
    {1, 2},
    None,
    True,
    1,
    1.5,
    2**70,
    "text",
    "half \ud800",
    b"bytes",
    np.float32(1.5),
    np.int64(3),
    Point(1, 2),
    Pair(1, "b"),
    OrderedDict(b=1, a=2),
    complex(1, 2),
]


def test_what_fn_returns_comes_back_as_the_object_it_was() -> None:
    back = flow_map(same, OBJECTS, TWO).collect()

    assert back == OBJECTS
    assert list(map(type, back)) == list(map(type, OBJECTS))


@pytest.mark.parametrize(
    "items",
    [[1, 2, -3], [0.5, math.inf], ["a", "", "ä"], [True, False], [2**63, 1], ["\udc80", "a"]],
    ids=["ints", "floats", "texts", "bools", "large ints", "broken texts"],
)
def test_plain_items_arrive_as_they_were(items: list[Any]) -> None:
    back = flow_map(lambda item: (item, type(item)), items, TWO).collect()

    assert back == [(item, type(item)) for item in items]


def test_arrays_and_frames_come_back_whole() -> None:
    items = [np.arange(6).reshape(2, 3), pd.DataFrame({"a": [1, 2]}, index=["x", "y"])]
    items[1].attrs["unit"] = "m"

    array, frame = flow_map(same, items, TWO).collect()

    np.testing.assert_array_equal(array, items[0])
    pd.testing.assert_frame_equal(frame, items[1])
    assert frame.attrs == {"unit": "m"}


def test_large_results_are_files_and_come_back_too() -> None:
    jobs = flow_map(lambda n: np.full(n, n), [10, 100_000], TWO)

    assert [array.sum() for array in jobs.collect()] == [100, 100_000**2]
    assert len(list(jobs.run.directory.glob("artifacts/**/*.pkl"))) == 1


def test_rows_of_a_frame_are_items() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})

    by_name = flow_map(lambda row: row["b"] * row["a"], frame.to_dict("records"), TWO)
    by_attribute = flow_map(lambda row: row.b * row.a, frame.itertuples(), TWO)

    assert by_name.collect() == by_attribute.collect() == ["x", "yy"]


def test_generators_and_arrays_are_gone_through() -> None:
    assert flow_map(same, (x for x in "ab"), TWO).collect() == ["a", "b"]
    assert flow_map(same, np.arange(3), TWO).collect() == [0, 1, 2]


def test_the_parameter_may_be_called_anything() -> None:
    def one(ctx: int, /, scale: int = 2) -> int:
        return ctx * scale

    assert flow_map(one, [1, 2], TWO).collect() == [2, 4]
    assert flow_map(math.sqrt, [4.0, 9.0], TWO).collect() == [2.0, 3.0]


def test_const_is_given_by_name() -> None:
    def shifted(x: int, *, by: int, table: dict[int, int]) -> int:
        return table[x] + by

    assert flow_map(shifted, [1, 2], TWO, const={"by": 1, "table": {1: 5, 2: 6}}).collect() == [
        6,
        7,
    ]


def test_each_call_has_an_object_of_its_own(tmp_path: Path) -> None:
    shared = [0]

    def grow(item: tuple[list[int], int]) -> int:
        item[0].append(item[1])
        mark = tmp_path / f"{item[1]}"
        if not mark.exists():
            mark.touch()
            raise ConnectionError
        return len(item[0])

    jobs = flow_map(grow, [(shared, i) for i in range(4)], workers=1, retry=1)

    assert jobs.collect() == [2, 2, 2, 2]


def test_the_number_of_files_does_not_grow_with_items() -> None:
    few, many = (flow_map(same, [(i,) for i in range(n)], TWO) for n in (2, 3000))
    assert many.collect() == [(i,) for i in range(3000)]
    few.collect()

    assert count_files(few) == count_files(many)


def test_the_class_of_the_items_travels_once() -> None:
    one, many = (flow_map(same, [Point(i) for i in range(n)], TWO).run.wait() for n in (1, 1001))
    sizes = [run.manifest["payload"]["bytes"] for run in (one, many)]

    assert (sizes[1] - sizes[0]) / 1000 < 100  # bytes for each: its attributes, and little more


def count_files(jobs: MapRun) -> int:
    return sum(1 for path in jobs.run.directory.rglob("*") if path.is_file())


# -- the run -----------------------------------------------------------------------------------


def test_progress_gives_back_the_map(capsys: pytest.CaptureFixture[str]) -> None:
    assert flow_map(abs, [-1, 2], TWO).progress().collect() == [1, 2]
    assert "2 of 2 rows" in capsys.readouterr().err


def test_a_map_says_how_it_is() -> None:
    jobs = flow_map(abs, [-1, 2], TWO, name="distances")

    assert len(jobs) == 2
    assert jobs.run.wait().id == jobs.id
    assert jobs.id.startswith("distances-")
    assert jobs.status().state == "done"
    assert list(jobs) == [1, 2]


def test_a_cancelled_map_says_what_is_missing_and_can_go_on() -> None:
    def slow(x: int) -> int:
        time.sleep(0.2)
        return x

    jobs = flow_map(slow, range(30), TWO).cancel()

    with pytest.raises(RunIncomplete, match=r"is stopped \(cancelled.* of 30 items have no result"):
        jobs.collect()
    jobs.run.resume()
    assert jobs.collect() == list(range(30))


def test_a_map_is_attached_by_its_id_from_another_process() -> None:
    jobs = flow_map(lambda x: (x, str(x)), [1, 2], TWO)
    code = f"from flowdist.mapping import MapRun; print(MapRun.attach({jobs.id!r}).collect())"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[(1, '1'), (2, '2')]\n"


def test_a_run_that_is_no_map_is_not_attached_as_one() -> None:
    run = flow(param_grid(item=[1])).stage("f", lambda item: item).distribute(TWO).submit().wait()

    with pytest.raises(RunError, match="is no map of a function over items"):
        MapRun.attach(run.id)


def test_workers_need_not_import_what_maps_are_made_with() -> None:
    code = "import sys, flowdist.workers.calls; print('pydantic' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


# -- failures ----------------------------------------------------------------------------------


def inverse(x: dict[str, float]) -> float:
    return 1 / x["of"]


def test_the_error_names_the_item_and_the_cause() -> None:
    jobs = flow_map(inverse, [{"of": 2.0}, {"of": 0.0}, {"of": 0.0}], TWO)

    with pytest.raises(RowsFailed) as caught:
        jobs.collect()

    said = str(caught.value)
    assert said.startswith(
        "2 of 3 items failed; the first, item 1 ({'of': 0.0}): ZeroDivisionError"
    )
    assert "in inverse" in str(caught.value.__cause__)


def test_errors_can_be_kept_in_place() -> None:
    first, second = flow_map(inverse, [{"of": 2.0}, {"of": 0.0}], TWO).collect(errors="keep")

    assert first == 0.5
    assert type(second) is RowError
    assert str(second) == "item 1 ({'of': 0.0}): ZeroDivisionError: float division by zero"


def test_a_call_that_dies_or_takes_too_long_is_told_apart() -> None:
    def risky(x: int) -> int:
        if x == 1:
            os._exit(3)
        if x == 2:
            time.sleep(60)
        return x

    fine, died, slow = flow_map(risky, range(3), TWO, timeout=1).collect("keep")

    assert fine == 0
    assert isinstance(died, WorkerDied)
    assert isinstance(slow, StageTimeout)
    assert str(slow) == "item 2 (2): ran longer than its timeout of 1 s"


def test_a_failure_is_tried_again_where_the_policy_says_so(tmp_path: Path) -> None:
    def at_second(x: str) -> str:
        if not os.path.exists(x):
            open(x, "w").close()
            raise ConnectionError
        return "there"

    policy = retry(1, on=ConnectionError)

    assert flow_map(at_second, [str(tmp_path / "x")], TWO, retry=policy).collect() == ["there"]


def test_a_result_that_cannot_be_pickled_fails_its_item() -> None:
    (kept,) = flow_map(lambda x: threading.Lock(), [1], TWO).collect("keep")

    assert str(kept) == "item 0 (1): TypeError: cannot pickle '_thread.lock' object"


# -- refused before anything starts ------------------------------------------------------------


def two(x: int, y: int) -> int:
    return x + y


@pytest.mark.parametrize(
    ("start", "error", "said"),
    [
        (lambda: flow_map(same, []), GridError, "items is empty"),
        (lambda: flow_map(same, 3), GridError, "give a list or another iterable"),
        (lambda: flow_map(same, pd.DataFrame({"a": [1]})), GridError, r"df.to_dict\('records'\)"),
        (lambda: flow_map([1], same), FlowError, "the function comes first"),
        (lambda: flow_map(two, [1]), FlowError, "missing a required argument: 'y'"),
        (lambda: flow_map(same, [1], const={"z": 1}), FlowError, r"fn\(item, z=...\)"),
        (lambda: flow_map(same, [1], const={"items": 1}), FlowError, "const 'items'"),
        (
            lambda: flow_map(same, [1, threading.Lock()]),
            GridError,
            "item 1, .*lock.* cannot be sent",
        ),
        (lambda: flow_map(same, [1], worker=2), PlanError, "did you mean 'workers'"),
    ],
)
def test_what_cannot_run_is_refused_at_once(
    start: Callable[[], Any], error: type[Exception], said: str, root: Path
) -> None:
    with pytest.raises(error, match=said):
        start()

    assert not root.exists()


def test_a_function_that_cannot_be_pickled_is_named() -> None:
    lock = threading.Lock()

    def locked(x: int) -> int:
        with lock:
            return x

    with pytest.raises(PreflightError, match="stage 'locked': cannot pickle 'lock'"):
        flow_map(locked, [1], TWO)


def test_slurm_map_takes_any_plan_and_what_is_to_differ() -> None:
    jobs = slurm_map(abs, [-1], plan=local(workers=1), memory="1GB")

    assert jobs.collect() == [1]
    assert RunFiles.at(jobs.run.directory).manifest()["plan"]["resources"] == {"memory": 1 << 30}
