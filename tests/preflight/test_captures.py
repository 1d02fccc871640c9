"""What cannot be pickled, or is too large, is found in what a function takes along."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from preflight_support import make, only

from flowdist import flow, param_grid, retry
from flowdist.preflight import preflight

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


def test_what_a_retry_policy_uses_is_named() -> None:
    f = make(lambda x: x, retry=retry(2, on=lambda failure: bool(module_lock)))

    assert "'module_lock' (a _thread.lock that on[0]() uses)" in only(preflight(f), "pickle").what
