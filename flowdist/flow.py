"""Flows: a grid, the stages that run on each of its rows, and how they hang together.

A `Flow` is immutable: every method returns a new one. What is decided here is decided when a stage
is added, from names alone (`flowdist.binding`). Running is left to `flowdist.run` and
`flowdist.workers`.
"""

from __future__ import annotations

import contextlib
import inspect
import operator
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from flowdist.artifacts import Codec, own_codecs
from flowdist.binding import Binding, Scope, bind, bind_names
from flowdist.errors import FlowError, nearest
from flowdist.retry import Policy, retry
from flowdist.schema import Schema
from flowdist.schema.fields import describe
from flowdist.script import Script

if TYPE_CHECKING:
    import pandas as pd

    from flowdist.grid import Grid
    from flowdist.plan import Plan, PlanSummary
    from flowdist.preflight import Check
    from flowdist.resources import Resources
    from flowdist.run import Run

RowErrors = Literal["drop", "keep", "raise"]


@dataclass(frozen=True)
class Stage:
    """A named function, script or reduce of a flow, with everything about it decided.

    `by` is None for a stage of rows; for a reduce it is the (possibly empty) tuple of columns that
    name a group. `on_failed` says what a reduce does with failed rows of its group.
    """

    name: str
    fn: Callable[..., Any]
    bindings: tuple[Binding, ...]
    returns: Schema | None = None
    retry: Policy | None = None
    timeout: float | None = None
    skip_when: Callable[..., bool] | None = None
    skip_bindings: tuple[Binding, ...] = ()
    needs: tuple[str, ...] = ()
    by: tuple[str, ...] | None = None
    on_failed: RowErrors = "drop"

    @property
    def is_reduce(self) -> bool:
        return self.by is not None

    @property
    def uses(self) -> tuple[str, ...]:
        """Earlier stages that this one depends on: those it names, and those it reads from."""
        filled = (*self.bindings, *self.skip_bindings)
        return tuple(dict.fromkeys((*self.needs, *(s for b in filled for s in b.stages))))


@dataclass(frozen=True)
class Program:
    """What workers need of a flow: its stages, constants and codecs. This is what is pickled."""

    stages: tuple[Stage, ...]
    const: Mapping[str, Any]
    seed: int | None
    codecs: tuple[Codec, ...] = ()

    @property
    def row_stages(self) -> tuple[Stage, ...]:
        return tuple(s for s in self.stages if not s.is_reduce)

    @property
    def reduces(self) -> tuple[Stage, ...]:
        return tuple(s for s in self.stages if s.is_reduce)


def flow(
    grid: Any,
    *,
    seed: int | None = None,
    const: Mapping[str, Any] | None = None,
    retry: Policy | int | None = None,
    resources: Resources | Mapping[str, Any] | None = None,
    name: str | None = None,
) -> Flow:
    """A flow over the rows of `grid`.

    Args:
        grid: a `Grid`, DataFrame, Arrow table or list of dicts; a row is one unit of work.
        seed: makes the parameter ``seed`` available to stages: an int per stage and row, the same
            on every plan and backend.
        const: values that every row sees, by name.
        retry: the retry policy of stages that have none of their own; an int is ``retry(int)``.
        resources: what one row needs, unless its stage or the plan says otherwise.
        name: shown in listings; by default "flow".

    Raises:
        GridError: the grid is not usable.
        FlowError: a constant has the name of a column, or of ``ctx``.

    >>> from flowdist import flow, param_grid
    >>> f = flow(param_grid(x=[1, 2, 3])).stage("square", lambda x: x * x)
    >>> f
    Flow(3 rows: x | square(x))
    """
    from flowdist.grid import Grid

    table = Grid.of(grid)
    if const is not None and not isinstance(const, Mapping):
        raise FlowError(
            f"const is {describe(const)}; give a dict of names and values, as in "
            "const={'cutoff': 0.5}"
        )
    constants = dict(const or {})
    for key in constants:
        if not isinstance(key, str) or not key.isidentifier():
            raise FlowError(f"const '{key}': a name must be a Python identifier")
        if key in table.names:
            raise FlowError(f"const '{key}': the grid has a column of that name; rename one")
        if key == "ctx":
            raise FlowError("const 'ctx': this name is the row's context; choose another")
    if name is not None and not isinstance(name, str):
        raise FlowError(f"name={name!r}; expected a text")
    return Flow(
        grid=table,
        seed=_checked_seed(seed),
        const=constants,
        default_retry=_policy(retry, "flow"),
        resources=_resources(resources),
        name=name or "flow",
    )


@dataclass(frozen=True, repr=False)
class Flow:
    """An immutable flow: made by `flow()`, extended by its methods, run by `submit` or
    `collect`.
    """

    grid: Grid
    stages: tuple[Stage, ...] = ()
    seed: int | None = None
    const: Mapping[str, Any] = field(default_factory=dict)
    default_retry: Policy | None = None
    resources: Resources | None = None
    stage_resources: Mapping[str, Resources] = field(default_factory=dict)
    name: str = "flow"
    distribution: Plan | None = None

    # -- building ------------------------------------------------------------------------------

    def stage(
        self,
        name: str,
        fn: Callable[..., Any],
        *,
        needs: str | Sequence[str] | None = None,
        returns: Any = None,
        resources: Resources | Mapping[str, Any] | None = None,
        retry: Policy | int | None = None,
        timeout: float | str | timedelta | None = None,
        skip_when: Callable[..., bool] | None = None,
    ) -> Flow:
        """Add a function that runs on every row; its parameters are filled by name.

        Args:
            name: the stage's name; its outputs become the columns ``name.field``.
            fn: the function. What it returns: a dict, dataclass, NamedTuple or pydantic model gives
                fields, a DataFrame or Arrow table a nested table, anything else the field
                ``value``.
            needs: the earlier stages that this one depends on, and the only ones that may fill its
                parameters (default: any may, and those that do are depended on).
            returns: the declared outputs: a dict of names to Python or Arrow types, a dataclass, a
                pydantic model; by default the function's return annotation. Without one they are
                inferred.
            resources: what one row of this stage needs.
            retry: a policy for this stage; an int is ``retry(int)``.
            timeout: seconds, or a text such as "90s" or "2h"; the row's process is ended after it.
            skip_when: a function, filled by name as `fn` is; where it returns true the stage is
                skipped, its outputs are null and stages that need them are skipped too.

        Raises:
            FlowError: a name that is taken or no identifier, unknown `needs`, a parameter that
                nothing fills or that two things could fill.
            SchemaError: `returns` makes no sense.

        >>> from flowdist import flow, param_grid
        >>> flow(param_grid(x=[1, 2])).stage("half", lambda x: x / 2, returns={"value": float})
        Flow(2 rows: x | half(x))
        """
        where = f"stage '{name}'"
        self._check_name(name, where)
        self._check_rows_open(name)
        _check_returns_values(fn, where)
        scope = self._scope(where, needs)
        schema = (
            Schema.of_annotation(fn) if returns is None else Schema.of(returns, f"{where}: returns")
        )
        added = Stage(
            name=name,
            fn=fn,
            bindings=bind(fn, scope),
            returns=schema,
            needs=scope.needs or (),
            retry=_policy(retry, where),
            timeout=_seconds(timeout, where),
            skip_when=skip_when,
            skip_bindings=_skip_bindings(skip_when, scope),
        )
        return self._with(added, resources)

    def script(
        self,
        name: str,
        command: str | Sequence[str],
        *,
        args: Sequence[str] | None = None,
        files: Mapping[str, str] | None = None,
        returns: Any = None,
        env: Mapping[str, str] | None = None,
        inherit_env: bool = True,
        cwd: str | None = None,
        snapshot: bool = True,
        needs: str | Sequence[str] | None = None,
        resources: Resources | Mapping[str, Any] | None = None,
        retry: Policy | int | None = None,
        timeout: float | str | timedelta | None = None,
        skip_when: Callable[..., bool] | None = None,
    ) -> Flow:
        """Add an external program that runs on every row.

        Args:
            command: the path of a script (run by the interpreter that its suffix names, or by
                itself when executable), or the words of a command. Words may hold ``{parameter}``
                placeholders, filled by name as a function's parameters are.
            args: more words, with placeholders. By default a script gets ``--column=value`` for
                every grid column.
            files: output fields that the program writes as files: field -> path (placeholders
                allowed), relative to its working directory. They become artifacts.
            returns: the declared outputs. Fields that are not in `files` are read from one JSON
                object on the last line of standard output.
            env: additional environment variables (placeholders allowed). ``FLOWDIST_ROW``,
                ``FLOWDIST_STAGE``, ``FLOWDIST_ATTEMPT`` and, in a seeded flow, ``FLOWDIST_SEED``
                are always set.
            inherit_env: False starts from PATH, HOME, LANG and TMPDIR only.
            cwd: the working directory; by default a scratch directory of the row's own, removed
                afterwards.
            snapshot: True carries a script's text with the run, so that editing the file does not
                change what is queued; False runs the file in place.

        The row fails with the exit code and the end of standard error when the program fails.

        Raises:
            FlowError: as for `stage`; also a script that does not exist or whose interpreter is
                unknown.

        >>> from flowdist import flow, param_grid
        >>> f = flow(param_grid(x=[1, 2]))
        >>> f.script("echo", ["echo", '{{"y": {x}}}'], returns={"y": int})
        Flow(2 rows: x | echo(x))
        """
        where = f"stage '{name}'"
        self._check_name(name, where)
        self._check_rows_open(name)
        scope = self._scope(where, needs)
        schema = None if returns is None else Schema.of(returns, f"{where}: returns")
        program = Script.of(
            where,
            command,
            args=args,
            files=files,
            returns=schema,
            env=env,
            inherit_env=inherit_env,
            cwd=cwd,
            snapshot=snapshot,
            columns=self.grid.names,
        )
        wanted = program.parameters + (("seed",) if self.seed is not None else ())
        added = Stage(
            name=name,
            fn=program,
            bindings=bind_names(tuple(dict.fromkeys((*wanted, "ctx"))), scope),
            returns=program.schema,
            needs=scope.needs or (),
            retry=_policy(retry, where),
            timeout=_seconds(timeout, where),
            skip_when=skip_when,
            skip_bindings=_skip_bindings(skip_when, scope),
        )
        return self._with(added, resources)

    def reduce(
        self,
        name: str,
        fn: Callable[..., Any],
        by: str | Sequence[str] | None = None,
        *,
        needs: str | Sequence[str] | None = None,
        returns: Any = None,
        errors: RowErrors = "drop",
        resources: Resources | Mapping[str, Any] | None = None,
        retry: Policy | int | None = None,
        timeout: float | str | timedelta | None = None,
    ) -> Flow:
        """Add a function that gets the table of a whole group, once all rows of the grid have
        ended.

        Its result is one row per group: ``run.table(name)``. Parameters are filled by name: a `by`
        column is the group's value; the name of an earlier stage is that stage's table (the grid's
        columns and the stage's fields); a constant, ``seed`` and ``ctx`` as in a stage; the first
        parameter that nothing else fills is the group's table as `collect` returns it. Tables are
        pandas DataFrames unless the parameter is annotated as `pyarrow.Table` or
        `polars.DataFrame`.

        Args:
            by: the columns that name a group; None is one group of all rows.
            errors: what to do with failed rows of a group: "drop" leaves them out, "keep" leaves
                them in (see the column ``_status``), "raise" fails the group.

        Raises:
            FlowError: as for `stage`; also a `by` column that the grid does not have.

        >>> from flowdist import flow, param_grid
        >>> f = flow(param_grid(g=["a", "b"], x=[1, 2])).stage("sq", lambda x: x * x)
        >>> f.reduce("total", lambda sq: {"sum": int(sq["value"].sum())}, by="g")
        Flow(4 rows: g, x | sq(x) | total(sq) by g)
        """
        where = f"reduce '{name}'"
        self._check_name(name, where)
        columns = _names(by, f"{where}: by")
        for column in columns:
            if column not in self.grid.names:
                raise FlowError(
                    f"{where}: by column '{column}' is not in the grid"
                    f"{nearest(column, self.grid.names)} (there are: {', '.join(self.grid.names)})"
                )
        if errors not in ("drop", "keep", "raise"):
            raise FlowError(f"{where}: errors={errors!r}; expected 'drop', 'keep' or 'raise'")
        _check_returns_values(fn, where)
        scope = replace(self._scope(where, needs), by=columns, is_reduce=True)
        schema = (
            Schema.of_annotation(fn) if returns is None else Schema.of(returns, f"{where}: returns")
        )
        for declared in schema.names if schema is not None else ():
            if declared in columns:
                raise FlowError(
                    f"{where}: field '{declared}' has the name of a by column; rename the field"
                )
        added = Stage(
            name=name,
            fn=fn,
            bindings=bind(fn, scope),
            returns=schema,
            needs=scope.needs or (),
            retry=_policy(retry, where),
            timeout=_seconds(timeout, where),
            by=columns,
            on_failed=errors,
        )
        return self._with(added, resources)

    def distribute(self, plan: Plan | str, **overrides: Any) -> Flow:
        """Say where and how the flow runs: a plan, or the name of a profile.

        Raises:
            PlanError, ProfileError: the plan or profile is not usable.

        >>> from flowdist import flow, param_grid
        >>> flow(param_grid(x=[1, 2])).distribute("laptop", workers=2).distribution.workers
        2
        """
        from flowdist.plan import plan_of

        return replace(self, distribution=plan_of(plan, **overrides))

    # -- looking -------------------------------------------------------------------------------

    @property
    def program(self) -> Program:
        """The part of the flow that workers need, with the flow's own defaults filled in."""
        stages = tuple(
            s if s.retry is not None else replace(s, retry=self.default_retry) for s in self.stages
        )
        return Program(stages, dict(self.const), self.seed, own_codecs())

    def plan(self) -> PlanSummary:
        """The layout without running anything: rows, groups, chunks, jobs, workers, warnings."""
        from flowdist.run import plan_flow

        return plan_flow(self)

    def preflight(self, *, try_row: int | None = None, probe: bool = False) -> list[Check]:
        """Check everything that can be known before a run.

        `try_row` also runs that row here; `probe` also starts a tiny job that looks from where the
        flow's jobs would run. Returns every finding; nothing is raised, nothing else is started.
        """
        from flowdist.preflight import preflight

        return preflight(self, try_row=try_row, probe=probe)

    def try_row(self, row: int = 0) -> dict[str, Any]:
        """Run one row in this process and return its outputs by stage: for trying and debugging.

        Exceptions of a stage pass through with their traceback.

        >>> from flowdist import flow, param_grid
        >>> flow(param_grid(x=[1, 2])).stage("sq", lambda x: x * x).try_row(1)
        {'sq': {'value': 4}}
        """
        from flowdist.workers.evaluate import try_row

        if not isinstance(row, int) or not 0 <= row < len(self.grid):
            raise FlowError(f"try_row({row!r}): the grid has {_rows(len(self.grid))}")
        return try_row(self.program, self.grid.table, row)

    # -- running -------------------------------------------------------------------------------

    def submit(self, name: str | None = None) -> Run:
        """Start the flow and return at once; the run goes on when this process ends.

        Raises:
            PreflightError: a check found an error; nothing was started.
            BackendError: the backend refused.
        """
        from flowdist.run import submit

        return submit(self, name=name)

    def collect(
        self,
        as_: Literal["pandas", "polars", "arrow"] = "pandas",
        errors: Literal["raise", "keep", "drop"] = "raise",
    ) -> pd.DataFrame | Any:
        """Submit, wait with a progress bar, and return the table: one row per grid row.

        Ctrl-C ends the run, keeps what is finished, and says how to resume it.

        Raises:
            RowsFailed: rows failed and ``errors="raise"``.

        >>> from flowdist import flow, local, param_grid
        >>> f = flow(param_grid(x=[1, 2, 3])).stage("sq", lambda x: x * x)
        >>> f.distribute(local(workers=1)).collect()["sq.value"].tolist()
        [1, 4, 9]
        """
        from flowdist.run import submit

        run = submit(self)
        try:
            run.watch(cancel_on_interrupt=True)
        except KeyboardInterrupt:
            sys.stderr.write(f"flowdist.attach('{run.id}').resume() goes on where it was\n")
            raise
        return run.collect(as_=as_, errors=errors)

    # -- private -------------------------------------------------------------------------------

    def __repr__(self) -> str:
        parts = [
            f"{len(self.grid):,} row{'s' * (len(self.grid) != 1)}: {', '.join(self.grid.names)}"
        ]
        for s in self.stages:
            shown = ", ".join(b.parameter for b in s.bindings if b.kind not in ("ctx",))
            group = f" by {', '.join(s.by)}" if s.by else ""
            parts.append(f"{s.name}({shown}){group}")
        where = f" on {self.distribution.describe()}" if self.distribution is not None else ""
        return f"Flow({' | '.join(parts)}{where})"

    def _with(self, stage: Stage, resources: Resources | Mapping[str, Any] | None) -> Flow:
        asked = dict(self.stage_resources)
        parsed = _resources(resources)
        if parsed is not None:
            asked[stage.name] = parsed
        return replace(self, stages=(*self.stages, stage), stage_resources=asked)

    def _check_name(self, name: str, where: str) -> None:
        if not isinstance(name, str):
            raise FlowError(
                f"a stage's name comes first, as in .stage('fit', fit); {describe(name)} is no name"
            )
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise FlowError(f"{where}: a stage's name is letters, digits and _, as in 'fit_model'")
        if "__" in name:
            raise FlowError(f"{where}: '__' is what joins stage and field; use a single '_'")
        if any(s.name == name for s in self.stages):
            raise FlowError(f"{where}: there is a stage of that name already; choose another name")
        if name in self.grid.names or name in self.const:
            raise FlowError(f"{where}: the grid or const has that name; choose another name")

    def _check_rows_open(self, name: str) -> None:
        last = next((s for s in self.stages if s.is_reduce), None)
        if last is not None:
            raise FlowError(
                f"stage '{name}' comes after reduce '{last.name}', which ends the rows: add it "
                "before, "
                f"or make a new flow over run.table('{last.name}')"
            )

    def _scope(self, where: str, needs: str | Sequence[str] | None) -> Scope:
        known = {s.name: s.returns for s in self.stages}
        asked = None if needs is None else _names(needs, f"{where}: needs")
        own = where.split("'")[1]
        for need in asked or ():
            if need == own:
                raise FlowError(f"{where}: needs itself, which is a cycle; leave '{need}' out")
            if need not in known:
                raise FlowError(
                    f"{where}: needs unknown stage '{need}'{nearest(need, known)} "
                    f"(there are: {', '.join(known) or 'none yet'}; stages are added in the "
                    "order they run)"
                )
        return Scope(
            columns=self.grid.names,
            const=frozenset(self.const),
            stages=known,
            needs=asked,
            seeded=self.seed is not None,
            where=where,
        )


def _skip_bindings(skip_when: Callable[..., bool] | None, scope: Scope) -> tuple[Binding, ...]:
    if skip_when is None:
        return ()
    return bind(skip_when, replace(scope, where=f"{scope.where}: skip_when"))


def _names(value: str | Sequence[str] | None, what: str) -> tuple[str, ...]:
    if value is None:
        return ()
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise FlowError(f"{what}={value!r}; expected a name or a list of names")
    return tuple(dict.fromkeys(names))


def _rows(n: int) -> str:
    return f"rows 0 to {n - 1:,}" if n else "no rows"


def _check_returns_values(fn: Any, where: str) -> None:
    """Refuse what returns before it has done anything: there would be nothing to keep."""
    for refused, kind in (
        (inspect.iscoroutinefunction, "async"),
        (inspect.isgeneratorfunction, "a generator"),
        (inspect.isasyncgenfunction, "an async generator"),
    ):
        if refused(fn):
            way_out = (
                "return a list of what it yields"
                if kind == "a generator"
                else "call asyncio.run(...) in an ordinary function"
            )
            raise FlowError(f"{where}: the function is {kind}, which no stage can be; {way_out}")


def _policy(value: Policy | int | None, where: str) -> Policy | None:
    if value is None or isinstance(value, Policy):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return retry(value)
    raise FlowError(f"{where}: retry={value!r}; expected a policy such as retry(2), or a count")


def _seconds(value: float | str | timedelta | None, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, str):
        from flowdist.resources import parse_time

        value = parse_time(value, f"{where}: timeout")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise FlowError(
            f"{where}: timeout={value!r}; expected seconds above 0, a text like '2h', or a "
            "timedelta"
        )
    return float(value)


def _resources(value: Resources | Mapping[str, Any] | None) -> Resources | None:
    if value is None:
        return None
    from flowdist.resources import Resources

    if isinstance(value, Mapping):
        return Resources(**value)
    if isinstance(value, Resources):
        return value
    raise FlowError(
        f"resources={value!r}; expected Resources(...) or a dict, as in "
        "resources={'cpus': 2, 'memory': '4GB'}"
    )


def _checked_seed(seed: int | None) -> int | None:
    if seed is None:
        return None
    if not isinstance(seed, bool):
        with contextlib.suppress(TypeError):
            return operator.index(seed)  # NumPy's ints too
    raise FlowError(f"seed={seed!r}; expected an int")
