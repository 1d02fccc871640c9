"""Calls as those of a pool of `concurrent.futures`: results, exceptions, order, and the end."""

from __future__ import annotations

import asyncio
import operator
import os
import threading
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest

from flowdist import Run, local, retry
from flowdist.errors import (
    BackendError,
    PlanError,
    PreflightError,
    RowError,
    RunError,
    RunIncomplete,
    StageTimeout,
    UsageError,
    WorkerDied,
)
from flowdist.executor import Executor
from flowdist.payload import project_modules_by_value

TWO = local(workers=2)
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOWDIST_ROOT", str(tmp_path / "runs"))
    return tmp_path / "runs"


def wait_for(path: str) -> str:
    while not os.path.exists(path):
        time.sleep(0.02)
    return path


class Precise(Exception):
    """An exception of the project's own, with attributes."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, code)
        self.code = code


class Fragile(Exception):
    """Pickles, and cannot be made again: as many libraries' exceptions."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


def fail(make: Callable[[], BaseException]) -> None:
    raise make()


# -- results -----------------------------------------------------------------------------------


def test_calls_are_made_with_their_arguments() -> None:
    with Executor(TWO) as pool:
        positional = pool.submit(divmod, 7, 2)
        named = pool.submit(int, "ff", base=16)

        assert positional.result(PATIENCE) == (3, 1)
        assert named.result(PATIENCE) == 255


def test_a_thousand_calls_are_few_runs() -> None:
    with Executor(TWO) as pool:
        calls = [pool.submit(operator.mul, x, x) for x in range(1000)]

        assert [f.result(PATIENCE) for f in calls] == [x * x for x in range(1000)]
    assert len(pool.runs) <= 3


def test_map_keeps_the_order() -> None:
    def slow_first(x: int, y: int) -> int:
        time.sleep(0.3 if x == 0 else 0)
        return x * y

    with Executor(TWO) as pool:
        assert list(pool.map(slow_first, range(5), range(5))) == [0, 1, 4, 9, 16]


def test_map_honours_its_timeout(tmp_path: Path) -> None:
    with Executor(TWO) as pool:
        results = pool.map(wait_for, [str(tmp_path / "go")], timeout=0.2)
        with pytest.raises(TimeoutError):
            next(results)
        (tmp_path / "go").touch()


def test_a_short_call_need_not_wait_for_a_long_one_of_another_run(tmp_path: Path) -> None:
    go = str(tmp_path / "go")
    with Executor(TWO) as pool:
        long = pool.submit(wait_for, go)
        wait_until_running(long)
        short = pool.submit(abs, -1)

        assert short.result(PATIENCE) == 1
        assert not long.done()
        Path(go).touch()
        assert long.result(PATIENCE) == go


def test_a_short_call_need_not_wait_for_a_long_one_of_its_run(tmp_path: Path) -> None:
    go = str(tmp_path / "go")
    with Executor(TWO) as pool:
        long, short = pool.submit(wait_for, go), pool.submit(abs, -1)

        assert short.result(PATIENCE) == 1
        assert not long.done()
        Path(go).touch()
    assert len(pool.runs) == 1


def wait_until_running(call: futures.Future[Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not call.running():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_as_completed_gives_all() -> None:
    with Executor(TWO) as pool:
        calls = [pool.submit(abs, -x) for x in range(5)]

        assert sorted(f.result() for f in futures.as_completed(calls, PATIENCE)) == [0, 1, 2, 3, 4]


def test_calls_can_be_made_where_results_arrive() -> None:
    second: list[futures.Future[int]] = []
    pool = Executor(TWO)
    first = pool.submit(abs, -1)
    first.add_done_callback(lambda f: second.append(pool.submit(abs, -f.result() - 1)))
    first.result(PATIENCE)
    while not second:
        time.sleep(0.01)

    assert second[0].result(PATIENCE) == 2
    pool.shutdown()


def test_it_serves_asyncio() -> None:
    async def main(pool: Executor) -> list[int]:
        loop = asyncio.get_running_loop()
        calls = (loop.run_in_executor(pool, abs, -x) for x in range(3))
        return [*await asyncio.gather(*calls), await asyncio.wrap_future(pool.submit(abs, -9))]

    with Executor(TWO) as pool:
        assert asyncio.run(main(pool)) == [0, 1, 2, 9]


# -- exceptions --------------------------------------------------------------------------------


def test_an_exception_comes_back_as_it_was_with_its_traceback() -> None:
    with Executor(TWO) as pool:
        error = pool.submit(fail, lambda: Precise("no", 3)).exception(PATIENCE)

    assert type(error) is Precise
    assert error.code == 3
    assert error.args == ("no", 3)
    assert "in fail" in str(error.__cause__)
    assert "make_call" not in str(error.__cause__)


def test_an_exception_that_cannot_be_made_again_is_described() -> None:
    with Executor(TWO) as pool:
        error = pool.submit(fail, lambda: Fragile("a", "b")).exception(PATIENCE)

    assert type(error) is RowError
    assert str(error) == "Fragile: a (the exception itself cannot be pickled)"
    assert "in fail" in str(error.__cause__)


def test_a_result_that_cannot_be_pickled_is_described() -> None:
    with Executor(TWO) as pool:
        error = pool.submit(threading.Lock).exception(PATIENCE)

    assert str(error).startswith("what the call returned, a lock, cannot be pickled")


def test_a_call_that_cannot_be_pickled_fails_alone() -> None:
    lock = threading.Lock()
    with Executor(TWO) as pool:
        argument, captured = pool.submit(abs, lock), pool.submit(lambda: lock)
        fine = pool.submit(abs, -1)

        assert "cannot pickle" in str(argument.exception(PATIENCE))
        assert "cannot pickle" in str(captured.exception(PATIENCE))
        assert fine.result(PATIENCE) == 1


def test_a_call_whose_process_dies_fails_alone() -> None:
    with Executor(TWO) as pool:
        dies, fine = pool.submit(os._exit, 3), pool.submit(abs, -1)

        assert isinstance(dies.exception(PATIENCE), WorkerDied)
        assert fine.result(PATIENCE) == 1


def test_a_call_is_ended_at_its_timeout() -> None:
    with Executor(TWO, timeout="1s") as pool:
        error = pool.submit(time.sleep, 60).exception(PATIENCE)

    assert isinstance(error, StageTimeout)
    assert "its timeout of 1 s" in str(error)


def test_a_call_whose_process_died_is_made_again_where_asked(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    def at_second() -> str:
        if not mark.exists():
            mark.touch()
            os._exit(3)
        return "there"

    with Executor(TWO, retry=retry(1, on="crash")) as pool:
        assert pool.submit(at_second).result(PATIENCE) == "there"


def test_a_run_that_ends_without_a_result_says_why(tmp_path: Path) -> None:
    with Executor(TWO) as pool:
        call = pool.submit(wait_for, str(tmp_path / "never"))
        wait_until_running(call)
        while not pool.runs:
            time.sleep(0.01)
        pool.runs[0].cancel()

        with pytest.raises(RunIncomplete, match=r"run calls-.* is stopped: cancelled"):
            call.result(PATIENCE)


def test_a_run_that_is_deleted_leaves_nobody_waiting(tmp_path: Path) -> None:
    with Executor(TWO) as pool:
        call = pool.submit(wait_for, str(tmp_path / "never"))
        while not pool.runs:
            time.sleep(0.01)
        pool.runs[0].cancel()
        pool.runs[0].delete()

        assert isinstance(call.exception(PATIENCE), RunError)


def test_a_scheduler_that_does_not_answer_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Run] = []

    def no_answer(run: Run) -> None:
        asked.append(run)
        raise BackendError("squeue did not answer")

    monkeypatch.setattr(Run, "status", no_answer)
    with Executor(TWO) as pool:
        call = pool.submit(wait_for, str(tmp_path / "go"))
        while not asked:
            time.sleep(0.01)
        (tmp_path / "go").touch()

        assert call.result(PATIENCE)


def test_a_fault_of_the_thread_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.excepthook", lambda args: None)
    with Executor(TWO) as pool:
        monkeypatch.setattr(pool, "_start", lambda calls: 1 / 0)

        assert isinstance(pool.submit(abs, -1).exception(PATIENCE), ZeroDivisionError)


def test_a_run_that_cannot_start_fails_its_calls() -> None:
    with Executor(TWO, by="subject") as pool:
        error = pool.submit(abs, -1).exception(PATIENCE)

    assert isinstance(error, PreflightError)


def test_two_threads_do_not_pickle_by_value_at_once() -> None:
    inside = threading.Event()

    def enter() -> None:
        with project_modules_by_value():
            inside.set()

    thread = threading.Thread(target=enter)
    with project_modules_by_value():
        thread.start()
        assert not inside.wait(0.1)
    thread.join(PATIENCE)
    assert inside.is_set()


# -- cancelling and the end --------------------------------------------------------------------


def test_a_call_is_cancelled_until_its_run_starts(root: Path) -> None:
    with Executor(TWO, gather=60) as pool:
        call = pool.submit(abs, -1)

        assert call.cancel()
    assert call.cancelled()
    assert not root.exists()


def test_shutdown_starts_what_waits_and_ends_with_it() -> None:
    pool = Executor(TWO, gather=60)
    call = pool.submit(abs, -1)

    pool.shutdown()

    assert call.done()
    assert call.result() == 1
    assert not [t for t in threading.enumerate() if t.name == "flowdist-executor"]


def test_shutdown_can_cancel_what_waits(tmp_path: Path) -> None:
    pool = Executor(TWO)
    started = pool.submit(wait_for, str(tmp_path / "go"))
    wait_until_running(started)
    waiting = pool.submit(abs, -1)

    pool.shutdown(wait=False, cancel_futures=True)

    assert waiting.cancelled()
    (tmp_path / "go").touch()
    assert started.result(PATIENCE)


def test_no_call_is_taken_after_shutdown() -> None:
    pool = Executor(TWO)
    pool.shutdown()

    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(abs, -1)


def test_no_thread_is_left_while_there_is_nothing_to_do() -> None:
    pool = Executor(TWO)
    pool.submit(abs, -1).result(PATIENCE)
    deadline = time.monotonic() + PATIENCE

    while [t for t in threading.enumerate() if t.name == "flowdist-executor"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Executor(TWO, worker=3), PlanError),
        (lambda: Executor(TWO, gather=-1), UsageError),
        (lambda: Executor(TWO, retry="often"), UsageError),
        (lambda: Executor(TWO, timeout=-1), UsageError),
    ],
)
def test_wrong_arguments_are_refused_at_once(
    make: Callable[[], Executor], error: type[Exception]
) -> None:
    with pytest.raises(error):
        make()
