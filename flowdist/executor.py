"""A front in the manner of `concurrent.futures`: single calls, on any plan.

Calls are gathered for a moment and start together as a run; their results are taken from its parts
as these are committed. One thread does both, and lives only while a call waits for its result.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from flowdist.artifacts import artifact
from flowdist.errors import BackendError, FlowdistError, RunIncomplete, UsageError
from flowdist.flow import flow
from flowdist.mapping import failure
from flowdist.objects import FIELD, Answer, Arrivals, Packed, Packer, RemoteTraceback
from flowdist.parts import OK
from flowdist.payload import project_modules_by_value
from flowdist.plan import local, plan_of
from flowdist.workers.calls import CALLS, NUMBER, make_call

if TYPE_CHECKING:
    from flowdist.plan import Plan
    from flowdist.retry import Policy
    from flowdist.run import Run
    from flowdist.status import Status

__all__ = ["Executor"]

STAGE = "call"
# Calls start together that come within this many seconds of each other. With each run that is under
# way the time doubles: who asks for one call after another gets few runs, not one for each.
GATHER_SECONDS, LONGEST_GATHER = 0.1, 5.0
# One run has at most about so many calls, and bytes of them: every worker loads them all.
MOST_CALLS, MOST_BYTES = 100_000, 64 << 20
# Parts are looked for often at first and after news, then less.
FIRST_POLL, LONGEST_POLL, POLL_GROWTH = 0.05, 2.0, 1.15
# How a run is matters only where it ends without results: a scheduler is asked seldom.
FIRST_QUESTION, LONGEST_QUESTION = 1.0, 30.0
# A run whose state cannot be read for so many seconds is given up.
PATIENCE = 900.0


@dataclass(eq=False)
class _Pending:
    """A call that no run has yet."""

    future: futures.Future[Any]
    call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class _Batch:
    """The calls of one run, by row, as far as they wait for a result; and when to look at it."""

    def __init__(self, run: Run, waiting: Sequence[futures.Future[Any]]) -> None:
        self.run = run
        self.waiting = dict(enumerate(waiting))
        self.arrivals = Arrivals(run.files, STAGE)
        self.due = self._started = time.monotonic()
        self.ask_at = self.due + FIRST_QUESTION
        self._pause = FIRST_POLL
        self._readable = self.due

    def look_again(self, *, soon: bool) -> None:
        """After a while, or `soon` where there was news."""
        self._pause = FIRST_POLL if soon else min(self._pause * POLL_GROWTH, LONGEST_POLL)
        self.due = time.monotonic() + self._pause

    def asked(self) -> None:
        """How the run is, is known now, and asked again only after a share of its age."""
        now = time.monotonic()
        pause = min(max(FIRST_QUESTION, (now - self._started) / 20), LONGEST_QUESTION)
        self.ask_at = now + pause

    def readable(self) -> None:
        self._readable = time.monotonic()

    def unreadable(self) -> float:
        """For how many seconds it could not be looked at."""
        return time.monotonic() - self._readable


class Executor(futures.Executor):
    """Runs calls on a plan, as a pool of `concurrent.futures` does: `submit`, `map`, `shutdown`.

    A call that raises is not tried again: the exception comes back as it was, with the traceback of
    the other process as its cause.

    Args:
        plan: a plan or the name of a profile; by default `local()`. `plan_options` are fields of
            it that are to differ.
        name: of the runs, shown in listings.
        retry: a policy, or how often a call is tried again whose process died or that ran out of
            time.
        timeout: seconds for one call, or a text such as "90s" or "2h"; its process is ended after
            it, and the call raises `StageTimeout`.
        gather: calls that come within this many seconds of each other start together. It doubles
            with every run that is under way, up to `LONGEST_GATHER`.

    Raises:
        PlanError, ProfileError: the plan or profile is not usable.

    What calls may raise beside their own exceptions: `WorkerDied`, `RunIncomplete` where the run
    ended without a result (its message has the run's reason), `PreflightError` and `BackendError`
    where it could not be started.

    >>> from flowdist import local
    >>> from flowdist.executor import Executor
    >>> with Executor(local(workers=2)) as pool:
    ...     future = pool.submit(pow, 2, 10)
    ...     print(future.result(), list(pool.map(divmod, [7, 9], [2, 4])))
    1024 [(3, 1), (2, 1)]
    """

    def __init__(
        self,
        plan: Plan | str | None = None,
        *,
        name: str = "calls",
        retry: Policy | int | None = None,
        timeout: float | str | timedelta | None = None,
        gather: float = GATHER_SECONDS,
        **plan_options: Any,
    ) -> None:
        if isinstance(gather, bool) or not isinstance(gather, (int, float)) or gather < 0:
            raise UsageError(f"gather={gather!r}; expected seconds, 0 or more")
        self.plan = plan_of(local() if plan is None else plan, **plan_options)
        self._name, self._retry, self._timeout, self._gather = name, retry, timeout, gather
        self._runs: list[Run] = []
        self._flow(Packer().packed())  # what is wrong with the arguments is said now
        # Guards what follows; is told of every change that the thread may wait for.
        self._changed = threading.Condition()
        self._pending: list[_Pending] = []
        self._first = self._last = 0.0
        self._closed = False
        self._thread: threading.Thread | None = None
        # Of the thread alone.
        self._batches: list[_Batch] = []

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs that were started so far, for their status and logs."""
        return tuple(self._runs)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        """Have ``fn(*args, **kwargs)`` called; the future has what comes of it.

        The arguments are pickled a moment later: do not change them meanwhile. Where that fails,
        the future raises it.

        Raises:
            RuntimeError: after `shutdown`.
        """
        future: futures.Future[Any] = futures.Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._last = time.monotonic()
            if not self._pending:
                self._first = self._last
            self._pending.append(_Pending(future, (fn, args, kwargs)))
            if self._thread is None:
                # Not a daemon: a program that ends waits for its calls, as with any pool.
                self._thread = threading.Thread(target=self._work, name="flowdist-executor")
                self._thread.start()
            elif len(self._pending) in (1, MOST_CALLS):
                self._changed.notify_all()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; with `wait` return when all have ended.

        `cancel_futures` cancels the calls that are in no run yet.
        """
        with self._changed:
            self._closed = True
            if cancel_futures:
                for pending in self._pending:
                    pending.future.cancel()
            thread = self._thread
            self._changed.notify_all()
        if wait and thread is not None and thread is not threading.current_thread():
            thread.join()

    # -- the thread ----------------------------------------------------------------------------

    def _work(self) -> None:
        """Start what is due and hand out what has come, until nothing is left to do."""
        calls: list[_Pending] = []
        try:
            while True:
                with self._changed:
                    pause = self._pause(time.monotonic())
                    if pause is None:
                        self._thread = None
                        return
                    if pause > 0:
                        self._changed.wait(pause)
                    calls = self._take(time.monotonic())
                if calls:
                    self._start(calls)
                for batch in list(self._batches):
                    if time.monotonic() >= batch.due:
                        self._look_after(batch)
        except BaseException as error:
            # Whatever it is, nobody is left waiting.
            with self._changed:
                left, self._pending, self._thread = [*calls, *self._pending], [], None
                batches, self._batches = self._batches, []
            waiting = [p.future for p in left]
            waiting += [f for batch in batches for f in batch.waiting.values()]
            for future in waiting:
                _fail(future, error)
            raise

    def _pause(self, now: float) -> float | None:
        """Seconds until something is due; None where there is nothing to wait for."""
        dues = [batch.due for batch in self._batches]
        if self._pending:
            dues.append(self._starts_at())
        return max(0.0, min(dues) - now) if dues else None

    def _starts_at(self) -> float:
        """When the calls that wait are started."""
        if self._closed or len(self._pending) >= MOST_CALLS:
            return 0.0
        under_way = min(len(self._batches), 10)
        quiet = min(self._gather * (1 << under_way), max(LONGEST_GATHER, self._gather))
        return min(self._last + quiet, self._first + max(LONGEST_GATHER, self._gather))

    def _take(self, now: float) -> list[_Pending]:
        """The calls that are to start now."""
        if not self._pending or now < self._starts_at():
            return []
        taken, self._pending = self._pending[:MOST_CALLS], self._pending[MOST_CALLS:]
        return taken

    def _start(self, calls: list[_Pending]) -> None:
        """Start calls as a run, or several where they are large; those that cannot be pickled fail
        by themselves.
        """
        packer, waiting = Packer(), list[futures.Future[Any]]()
        with project_modules_by_value():
            for pending in calls:
                if not pending.future.set_running_or_notify_cancel():
                    continue
                if packer.size > MOST_BYTES:
                    self._launch(packer, waiting)
                    packer, waiting = Packer(), []
                try:
                    packer.add(pending.call)
                except Exception as error:
                    _fail(pending.future, error)
                else:
                    waiting.append(pending.future)
            if waiting:
                self._launch(packer, waiting)

    def _launch(self, packer: Packer, waiting: list[futures.Future[Any]]) -> None:
        try:
            run = self._flow(packer.packed()).distribute(self.plan).submit()
        except Exception as error:
            for future in waiting:
                _fail(future, error)
            return
        self._runs.append(run)
        self._batches.append(_Batch(run, waiting))

    def _flow(self, calls: Packed) -> Any:
        rows = flow(
            {NUMBER: pa.array(range(len(calls)), pa.int64())},
            const={CALLS: calls},
            name=self._name,
        )
        returns = {FIELD: artifact}
        return rows.stage(
            STAGE, make_call, returns=returns, retry=self._retry, timeout=self._timeout
        )

    def _look_after(self, batch: _Batch) -> None:
        """Hand out what has come of a run, and forget it where nothing more can."""
        before = len(batch.waiting)
        try:
            _deliver(batch)
            if batch.waiting and time.monotonic() >= batch.ask_at:
                status = batch.run.status()
                batch.asked()
                if status.ended:
                    _deliver(batch)  # what has been committed before the end, after our last look
                    _give_up(batch, _reason(batch.run, status))
            batch.readable()
        except (BackendError, OSError) as error:
            if batch.unreadable() > PATIENCE:
                _give_up(batch, error)
        except FlowdistError as error:
            _give_up(batch, error)  # it was deleted, say
        if batch.waiting:
            batch.look_again(soon=len(batch.waiting) < before)
        else:
            self._batches.remove(batch)


# What comes back --------------------------------------------------------------------------------


def _deliver(batch: _Batch) -> None:
    """Complete the futures of rows that have been committed."""
    for answer in batch.arrivals.new():
        future = batch.waiting.pop(answer.row, None)
        if future is not None:
            _complete(future, answer, str(batch.run.directory))


def _complete(future: futures.Future[Any], answer: Answer, root: str) -> None:
    if answer.status != OK:
        _fail(future, failure(answer, f"call {answer.row}"))
        return
    try:
        returned, value, text = answer.load(root)
    except Exception as error:
        _fail(future, error)
        return
    if returned:
        future.set_result(value)
        return
    value.__cause__ = RemoteTraceback(text)
    _fail(future, value)


def _give_up(batch: _Batch, error: BaseException) -> None:
    for future in batch.waiting.values():
        _fail(future, error)
    batch.waiting = {}


def _reason(run: Run, status: Status) -> RunIncomplete:
    reason = f": {status.reason}" if status.reason else ""
    return RunIncomplete(
        f"the call has no result: run {run.id} is {status.state}{reason}; see "
        f"flowdist explain {run.id}"
    )


def _fail(future: futures.Future[Any], error: BaseException) -> None:
    # One that was cancelled needs no answer.
    with contextlib.suppress(futures.InvalidStateError):
        future.set_exception(error)
