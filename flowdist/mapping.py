"""A function over a list, in one line: a thin layer over flows.

Each item is a row. Plain numbers and texts are a column of the grid, anything else travels pickled
with the flow; what the function returns comes back as the object it was. Everything that a run can
do, the run below can do: see `MapRun.run`.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from reprlib import Repr
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pyarrow as pa

from flowdist.artifacts import artifact
from flowdist.errors import (
    FlowError,
    GridError,
    RowError,
    RowsFailed,
    RunError,
    RunIncomplete,
    StageTimeout,
    WorkerDied,
)
from flowdist.flow import flow
from flowdist.frames import frame_kind
from flowdist.objects import FIELD, Answer, Packed, Packer, RemoteTraceback, answers
from flowdist.parts import FAILED, MISSING
from flowdist.payload import load_program, project_modules_by_value
from flowdist.plan import local, plan_of
from flowdist.results import read_grid_table, read_results
from flowdist.schema import Schema
from flowdist.schema.fields import describe
from flowdist.workers.calls import ITEM, ITEMS, ItemCall

if TYPE_CHECKING:
    from flowdist.flow import Flow
    from flowdist.plan import Plan
    from flowdist.retry import Policy
    from flowdist.run import Run
    from flowdist.status import Status

__all__ = ["MapRun", "flow_map", "slurm_map"]

# What comes back from an Arrow column as it was.
_ARROW = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}
_RETURNS = {FIELD: artifact}
_short = Repr()
_short.maxstring = _short.maxother = 60


def slurm_map(
    fn: Callable[..., Any],
    items: Iterable[Any],
    *,
    const: Mapping[str, Any] | None = None,
    name: str | None = None,
    nodes: int | None = None,
    cores_per_node: int | None = None,
    oversubscribe: int = 1,
    retry: Policy | int | None = None,
    timeout: float | str | timedelta | None = None,
    plan: Plan | str | None = None,
    **plan_options: Any,
) -> MapRun:
    """Start `fn` on every item as a run on SLURM; it goes on when this process ends.

    With `nodes` or `cores_per_node` the run fills an allocation of that shape
    (`slurm_allocation`), with `oversubscribe` jobs for each node; otherwise the plan is
    `slurm(**plan_options)`. `plan` gives another one, or the name of a profile, and
    `plan_options` are what is to differ from it.

    Args:
        fn, items, const, name, retry, timeout: as for `flow_map`.
        plan_options: fields of the plan, such as ``time="2h"``, ``memory="64GB"``,
            ``partition="short"``.

    Raises:
        GridError, FlowError, PlanError, PreflightError: nothing was started.
        BackendError: SLURM refused.

    ``slurm_map(fn, range(10_000), nodes=10, cores_per_node=196).progress().collect()``
    """
    shape = {"nodes": nodes, "cores_per_node": cores_per_node}
    options = {k: v for k, v in shape.items() if v is not None} | plan_options
    if oversubscribe != 1:
        options["oversubscribe"] = oversubscribe
    if plan is None:
        plan, options = _slurm_plan(options), {}
    return flow_map(
        fn, items, plan, const=const, name=name, retry=retry, timeout=timeout, **options
    )


def _slurm_plan(options: Mapping[str, Any]) -> Plan:
    from flowdist.backends.slurm.plans import slurm, slurm_allocation

    shaped = {"nodes", "cores_per_node", "oversubscribe"} & options.keys()
    plan: Plan = slurm_allocation(**options) if shaped else slurm(**options)
    return plan


def flow_map(
    fn: Callable[..., Any],
    items: Iterable[Any],
    plan: Plan | str | None = None,
    *,
    const: Mapping[str, Any] | None = None,
    name: str | None = None,
    retry: Policy | int | None = None,
    timeout: float | str | timedelta | None = None,
    **plan_options: Any,
) -> MapRun:
    """Start `fn` on every item as a run, on any plan; it goes on when this process ends.

    Args:
        fn: is called as ``fn(item, **const)``. It may return any object that can be pickled.
        items: any objects that can be pickled. Each call gets an object of its own.
        plan: a plan or the name of a profile; by default `local()`. `plan_options` are fields of
            it that are to differ.
        const: what all calls have in common, by name. It travels once.
        name: shown in listings; by default that of the function.
        retry: a policy, or how often a call that failed is tried again.
        timeout: seconds for one call, or a text such as "90s" or "2h"; its process is ended after
            it.

    Raises:
        GridError: there are no items, or one cannot be pickled.
        FlowError: `fn` does not take what it would be given.
        PlanError, PreflightError: nothing was started.
        BackendError: the backend refused.

    >>> from flowdist.mapping import flow_map
    >>> flow_map(lambda x: (x, str(x)), range(3), workers=1).collect()
    [(0, '0'), (1, '1'), (2, '2')]
    """
    where = plan_of(local() if plan is None else plan, **plan_options)
    mapped = _flow(fn, items, const, name, retry, timeout)
    return MapRun(mapped.distribute(where).submit())


class MapRun:
    """A function that runs, or has run, on every item of a list; made by `flow_map` and
    `slurm_map`.

    To go through it is to go through its results, in the order of the items.

    Attributes:
        run: the run that it is; a row of it is an item.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        stages, columns = run.manifest["stages"], run.manifest["columns"]
        returns = Schema.of(_RETURNS, "map").to_json()
        if columns != [ITEM] or [s["returns"] for s in stages] != [returns]:
            raise RunError(
                f"run {run.id} is no map of a function over items; "
                f"flowdist.attach('{run.id}').collect() has its table"
            )
        self._stage: str = stages[0]["name"]

    @classmethod
    def attach(cls, run_id: str | Path, root: str | Path | None = None) -> MapRun:
        """The map of that id, started by whatever process; see `flowdist.attach`.

        Raises:
            RunNotFound: there is no such run.
            RunError: the run is no map.
        """
        from flowdist.run import attach

        return cls(attach(run_id, root))

    @property
    def id(self) -> str:
        """Names the run everywhere."""
        return self.run.id

    def __len__(self) -> int:
        return self.run.rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self.collect())

    def __repr__(self) -> str:
        return f"MapRun({self.id!r}, {len(self):,} items, {self.run.directory})"

    def status(self) -> Status:
        """How it is now."""
        return self.run.status()

    def progress(self, timeout: float | None = None) -> Self:
        """Wait for the end with a progress bar, and return this.

        Raises:
            WaitTimeout: `timeout` seconds have passed; the run goes on.
        """
        self.run.watch(timeout)
        return self

    def cancel(self) -> Self:
        """End it; what has finished is kept. Returns when its processes have ended."""
        self.run.cancel()
        return self

    def collect(self, errors: Literal["raise", "keep"] = "raise") -> list[Any]:
        """What `fn` returned for each item, in the order of the items; waits for the end.

        Args:
            errors: "raise" where items failed, or "keep": then the result of an item that failed is
                a `RowError` that says why.

        Raises:
            RowsFailed: items failed and ``errors="raise"``.
            RunIncomplete: the run has ended without a result for some items.
            ArtifactError: a result cannot be loaded here.
        """
        if errors not in ("raise", "keep"):
            raise RunError(f"errors={errors!r}; expected 'raise' or 'keep'")
        self.run.wait()
        rows = read_results(self.run.files, len(self))
        status = rows.column("_status").to_numpy()
        self._check_complete(int((status == MISSING).sum()))
        column, root = f"{self._stage}.{FIELD}", str(self.run.directory)
        failed = np.flatnonzero(status == FAILED)
        if len(failed) and errors == "raise":
            first = next(answers(rows.slice(int(failed[0]), 1), column))
            error = failure(first, self._item(first.row))
            raise RowsFailed(
                f"{len(failed):,} of {len(self):,} items failed; the first, {error}\n"
                ".run.errors() lists them all; .collect(errors='keep') takes the others; "
                ".run.resume(failed=True) tries them again"
            ) from error.__cause__
        return [
            failure(answer, self._item(answer.row))
            if answer.status == FAILED
            else answer.load(root)
            for answer in answers(rows, column)
        ]

    def _check_complete(self, missing: int) -> None:
        if missing:
            status = self.run.status()
            reason = f" ({status.reason})" if status.reason else ""
            raise RunIncomplete(
                f"run {self.id} is {status.state}{reason} and {missing:,} of {len(self):,} items "
                "have no result; .run.resume() starts them"
            )

    def _item(self, number: int) -> str:
        """The item, for people."""
        if self._items is None:
            return f"item {number}"
        try:
            return f"item {number} ({_short.repr(self._items[number])})"
        except Exception:
            return f"item {number}"

    @property
    def _items(self) -> Sequence[Any] | None:
        """The items; None where they cannot be loaded here."""
        if not hasattr(self, "_loaded"):
            self._loaded = _load_items(self.run)
        return self._loaded


def failure(answer: Answer, what: str) -> RowError:
    """The error of a row that failed, as an exception; `what` names the row."""
    assert answer.error is not None
    error = json.loads(answer.error)
    kinds = {"crash": WorkerDied, "timeout": StageTimeout}
    kind: type[RowError] = kinds.get(error["kind"], RowError)
    # What the exception is called need not be said again.
    told = [what, *([error["type"]] if error["type"] != kind.__name__ else []), error["message"]]
    made = kind(": ".join(filter(None, told)))
    if error["traceback"]:
        made.__cause__ = RemoteTraceback(error["traceback"])
    return made


# Making the flow ------------------------------------------------------------------------------


def _flow(
    fn: Callable[..., Any],
    items: Iterable[Any],
    const: Mapping[str, Any] | None,
    name: str | None,
    retry: Policy | int | None,
    timeout: float | str | timedelta | None,
) -> Flow:
    constants = dict(const or {})
    _check_call(fn, constants)
    listed = _listed(items)
    column: Any = _column(listed)
    packed = column is None
    if packed:
        constants[ITEMS] = _pack(listed)
        column = pa.array(range(len(listed)))
    own = getattr(fn, "__name__", "")
    taken = {ITEM, *constants}
    stage = own if re.fullmatch(r"[A-Za-z]\w*", own, re.ASCII) else "call"
    if "__" in stage or stage in taken:
        stage = "call"
    made = flow({ITEM: column}, const=constants, name=name or stage)
    call = ItemCall(fn, const or (), packed)
    return made.stage(stage, call, returns=_RETURNS, retry=retry, timeout=timeout)


def _check_call(fn: Callable[..., Any], const: Mapping[str, Any]) -> None:
    if not callable(fn):
        raise FlowError(f"{describe(fn)} cannot be called; the function comes first, then items")
    for reserved in {ITEM, ITEMS} & const.keys():
        raise FlowError(f"const '{reserved}': this name is the map's own; choose another")
    try:
        signature = inspect.signature(fn)
    except ValueError:
        return  # functions written in C need not have one
    try:
        signature.bind(None, **const)
    except TypeError as error:
        given = ", ".join([ITEM, *(f"{name}=..." for name in const)])
        raise FlowError(
            f"{getattr(fn, '__name__', 'the function')}{signature} cannot be called as "
            f"fn({given}): {error}; what all items have in common is given as "
            "const={'name': value}"
        ) from None


def _listed(items: Iterable[Any]) -> Sequence[Any]:
    if frame_kind(items) is not None:
        raise GridError(
            f"items is {describe(items)}, which has columns; give a list of its rows, as in "
            "df.to_dict('records'), or use flow(df), whose stages are given columns by name"
        )
    if not isinstance(items, Iterable):
        raise GridError(f"items is {describe(items)}; give a list or another iterable")
    listed = items if isinstance(items, (list, tuple, range)) else list(items)
    if not listed:
        raise GridError("items is empty, so there is nothing to run")
    return listed


def _column(items: Sequence[Any]) -> pa.Array | None:
    """The items as an Arrow column from which they come back as they were; None where none does
    that.
    """
    kinds = {int} if isinstance(items, range) else set(map(type, items))
    arrow = _ARROW.get(next(iter(kinds))) if len(kinds) == 1 else None
    if arrow is None:
        return None
    try:
        return pa.array(items, arrow)
    except (OverflowError, ValueError):
        return None  # ints beyond 64 bits, texts with half a surrogate


def _pack(items: Sequence[Any]) -> Packed:
    packer = Packer()
    with project_modules_by_value():
        for number, item in enumerate(items):
            try:
                packer.add(item)
            except Exception as error:
                raise GridError(
                    f"item {number}, {describe(item)}, cannot be sent: {error}"
                ) from error
    return packer.packed()


def _load_items(run: Run) -> Sequence[Any] | None:
    try:
        items = load_program(run.files).const.get(ITEMS)
    except RunError:
        return None
    if items is not None:
        packed: Packed = items
        return packed  # type: ignore[return-value]
    column: pa.ChunkedArray = read_grid_table(run.files).column(ITEM)
    listed: list[Any] = column.to_pylist()
    return listed
