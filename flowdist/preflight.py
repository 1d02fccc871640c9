"""Preflight: what would keep a flow from running, said before anything is written or started.

It looks at the flow, its plan and layout, the pickled stages and this machine, asks the backend,
and answers with `Check`s. Showing them is left to the command line, refusing to start to
`flowdist.submission`, which goes on with what `prepare` had to compute anyway.
"""

from __future__ import annotations

import ast
import contextlib
import dis
import io
import linecache
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Literal

import cloudpickle

from flowdist.artifacts import INLINE_BYTES, dumps
from flowdist.errors import FlowdistError, FlowError, PlanError, nearest
from flowdist.payload import _CACHED, _reduce_cached, dump_program, project_modules_by_value
from flowdist.resources import Resources, format_memory, format_time, memory_available
from flowdist.script import FileOutput
from flowdist.settings import default_root

if TYPE_CHECKING:
    from flowdist.flow import Flow, Stage
    from flowdist.plan import Plan, PlanSummary

Severity = Literal["error", "warning", "info"]

# Every worker loads the stages before its first row.
HUGE_CAPTURE = 10 * 1024**2
# A constant is meant to be larger than a capture, but it is held once per worker all the same.
HUGE_CONST = 100 * 1024**2
# Less than this is gone before the first results are written; more fills up while a run goes on.
LEAST_DISK, LOW_DISK = 10 * 1024**2, 1024**3
# Shared filesystems limit the number of files, and listing this many takes minutes.
MANY_FILES, SOME_FILES = 100_000, 1_000
# How far into captured things the culprit is looked for: all that is useful to a reader.
DEEPEST_PATH, DEEPEST_ATTRIBUTE, MOST_ELEMENTS = 6, 2, 1_000

_DATA_REMEDY = "read it from a file inside the stage"


@dataclass(frozen=True)
class Check:
    """One finding. An error means that the flow would not run; the others are worth knowing.

    >>> Check("grid", "error", "the grid has no rows", "give at least one row").to_dict()
    {'name': 'grid', 'severity': 'error', 'what': 'the grid has no rows',
     'remedy': 'give at least one row'}
    """

    name: str
    """What was looked at: grid, stages, plan, root, pickle, outputs, memory, files, try ..."""
    severity: Severity
    what: str
    """What is wrong, naming the thing and the value."""
    remedy: str = ""
    """What to do about it; empty where there is nothing to do or `what` says it."""

    def to_dict(self) -> dict[str, Any]:
        """The finding as a dict that JSON holds."""
        return asdict(self)


@dataclass(frozen=True)
class Machine:
    """What preflight asks the machine it runs on; a test gives answers of its own."""

    free_disk: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
    """Bytes free where an existing path lies."""
    memory: Callable[[], int] = memory_available
    """Bytes of memory that are available."""


@dataclass(frozen=True)
class Prepared:
    """The findings, and what was computed to find them; None where an error stood in the way."""

    checks: list[Check]
    """Every finding, errors first."""
    summary: PlanSummary | None = None
    """The layout, and what the plan amounts to over it; `summary.plan` is the effective plan."""
    payload: bytes | None = None
    """The pickled program."""

    @property
    def errors(self) -> list[Check]:
        """The findings that keep the flow from running."""
        return [c for c in self.checks if c.severity == "error"]


def preflight(flow: Flow, *, try_row: int | None = None) -> list[Check]:
    """Everything that would keep `flow` from running or surprise its user, errors first.

    Nothing is raised, written or started; with `try_row` that row runs in this process.

    >>> from flowdist import flow, local, param_grid
    >>> from flowdist.preflight import preflight
    >>> f = flow(param_grid(x=[1, 2])).distribute(local(by="y"))
    >>> for check in preflight(f):
    ...     print(f"{check.severity}: {check.what} -> {check.remedy}")
    error: the flow has no stage -> add one: flow.stage('fit', fit)
    error: by='y': the grid has no such column -> group by one of: x
    """
    return prepare(flow, try_row=try_row).checks


def prepare(flow: Flow, *, try_row: int | None = None, machine: Machine | None = None) -> Prepared:
    """`preflight`, with what a submission can go on with instead of computing it again."""
    machine = machine or Machine()
    checks = [*_grid(flow), *_stages(flow)]
    tried = _try(flow, try_row) if try_row is not None and len(flow.grid) else None
    row_memory = _row_memory(flow)
    if row_memory is None and tried is not None and tried.error is None:
        row_memory = tried.memory
    summary, found = _plan(flow, row_memory, machine)
    checks += found
    payload, found = _payload(flow)
    checks += found
    if summary is not None:
        written = len(payload or b"") + int(flow.grid.table.nbytes)
        checks += _root(summary.plan, written, machine)
    checks += _declared(flow.stages)
    if tried is not None:
        checks += _said(tried, summary)
    checks += _files(flow, tried)
    order: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2}
    return Prepared(sorted(checks, key=lambda c: order[c.severity]), summary, payload)


# The flow and its plan ----------------------------------------------------------------------------


def _grid(flow: Flow) -> Iterator[Check]:
    if not len(flow.grid):
        columns = ", ".join(flow.grid.names) or "none"
        yield Check(
            "grid",
            "error",
            f"the grid has no rows (columns: {columns})",
            "give every column at least one value; see whether where= or a filter drops all rows",
        )


def _stages(flow: Flow) -> Iterator[Check]:
    if not flow.stages:
        yield Check("stages", "error", "the flow has no stage", "add one: flow.stage('fit', fit)")


def _plan(
    flow: Flow, row_memory: int | None, machine: Machine
) -> tuple[PlanSummary | None, list[Check]]:
    """The plan over the grid, and what it and its backend have to say about that."""
    from flowdist.backends.base import backend_named
    from flowdist.layout import make_layout
    from flowdist.plan import summarize
    from flowdist.submission import effective_plan

    plan = effective_plan(flow)
    missing = [c for c in plan.by if c not in flow.grid.names]
    if missing:
        return None, [_no_such_column(column, flow.grid.names) for column in missing]
    try:
        layout = make_layout(plan, flow.grid.table, plan.worker_count())
    except PlanError as error:
        return None, [Check("plan", "error", str(error))]
    # What rows need is not what the user lets a job have: each is held against the machine.
    asked = flow.distribution.resources.memory if flow.distribution is not None else None
    known = {**plan.resources.asked, "memory": asked}
    summary = summarize(
        plan.model_copy(update={"resources": Resources(**known)}),
        layout,
        stages=[s.name for s in flow.stages],
        grid=flow.grid.table,
        memory_per_row=row_memory,
        memory=machine.memory() if plan.here else None,
    )
    checks = [Check("plan", "warning", sentence) for sentence in summary.warnings]
    summary = replace(summary, plan=plan)
    if layout.rows:
        try:
            backend = backend_named(plan.kind)
            try:
                checks += backend.check(plan, summary)
            finally:
                backend.close()
        except FlowdistError as error:
            checks.append(Check("backend", "error", str(error)))
    return summary, checks


def _no_such_column(column: str, names: Sequence[str]) -> Check:
    return Check(
        "plan",
        "error",
        f"by={column!r}: the grid has no such column{nearest(column, names)}",
        f"group by one of: {', '.join(names)}",
    )


def _row_memory(flow: Flow) -> int | None:
    """Bytes that a row is said to need; 0 is all of a node's, which cannot be multiplied."""
    said = [r.memory for r in (flow.resources, *flow.stage_resources.values()) if r is not None]
    return max((m for m in said if m), default=None)


def _root(plan: Plan, written: int, machine: Machine) -> Iterator[Check]:
    """Whether runs can be kept where the plan wants them; `written` bytes are needed at once."""
    root = Path(plan.root).expanduser().absolute() if plan.root else default_root()
    other = "make it writable, or choose another with root= or $FLOWDIST_ROOT"
    there = next(p for p in (root, *root.parents) if os.path.exists(p))
    if not there.is_dir():
        yield Check("root", "error", f"root {root}: {there} is not a directory", other)
        return
    if not os.access(there, os.W_OK | os.X_OK):
        yield Check("root", "error", f"root {root}: {there} is not writable", other)
        return
    free = machine.free_disk(there)
    if free >= LOW_DISK + written:
        return
    severity: Severity = "error" if free < max(LEAST_DISK, written) else "warning"
    left = format_memory(free) if free else "nothing"
    yield Check(
        "root",
        severity,
        f"root {root}: {left} is free there, and the run begins with {format_memory(written or 1)}",
        "free some (flowdist runs; flowdist.attach(id).delete()), or choose another with root=",
    )


# What is pickled ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """A thing that is pickled along with another: a captured variable, an attribute, an element."""

    name: str
    value: Any
    verb: str = ""
    """How a function comes by it; empty where it is part of a value."""


def _payload(flow: Flow) -> tuple[bytes | None, list[Check]]:
    """The pickled program, or who is to blame that there is none; and what makes it large."""
    try:
        payload = dump_program(flow.program)
    except Exception as error:
        with project_modules_by_value():
            return None, list(_unpicklable(flow, error))
    if len(payload) <= HUGE_CAPTURE:
        return payload, []
    with project_modules_by_value():
        found = [c for stage in flow.stages for c in _huge_captures(stage)]
        found += _huge_constants(flow.const)
    return payload, found


def _unpicklable(flow: Flow, error: Exception) -> Iterator[Check]:
    found = False
    pieces = [(f"const '{name}'", value) for name, value in flow.const.items()]
    pieces += [piece for stage in flow.stages for piece in _pieces(stage)]
    pieces.append(("the flow's retry", flow.default_retry))
    for where, value in pieces:
        if _pickles(value):
            continue
        found = True
        for path in list(_worst(value, lambda v: not _pickles(v), lambda p: True)) or [()]:
            yield _blame(where, value, path, error)
    if not found:
        what = f"the flow cannot be pickled: {type(error).__name__}: {error}"
        yield Check("pickle", "error", what, "see what its stages and const refer to")


def _blame(where: str, value: Any, path: tuple[_Part, ...], error: Exception) -> Check:
    culprit = path[-1].value if path else value
    if path:
        told = _told(value, path)
    else:
        reason = _pickling_error(value) or error
        told = f"{_a(value)} ({type(reason).__name__}: {reason})"
    if isinstance(culprit, io.IOBase):
        remedy = "open it inside the function; its path can be a grid column or a const"
    elif where.startswith("const"):
        remedy = "give what it is made from, and make it inside the stage"
    else:
        remedy = "make it inside the function, or pass what makes it as const"
    return Check("pickle", "error", f"{where}: cannot pickle {told}", remedy)


def _huge_captures(stage: Stage) -> Iterator[Check]:
    for where, value in _pieces(stage):
        size = _size(value)
        if size <= HUGE_CAPTURE:
            continue
        found = list(_worst(value, lambda v: _size(v) > HUGE_CAPTURE, _is_carrier)) or [()]
        for path in found:
            told, size = (_told(value, path), _size(path[-1].value)) if path else ("", size)
            yield Check(
                "size",
                "warning",
                f"{where}: {told or 'what it captures'} is {format_memory(size)} pickled, and "
                "every worker loads it before its first row",
                f"pass it as const, or {_DATA_REMEDY}",
            )


def _huge_constants(const: Mapping[str, Any]) -> Iterator[Check]:
    for name, value in const.items():
        size = _size(value)
        if size > HUGE_CONST:
            yield Check(
                "size",
                "warning",
                f"const '{name}' ({_a(value)}) is {format_memory(size)} pickled, and every worker "
                "holds a copy of it",
                _DATA_REMEDY,
            )


def _pieces(stage: Stage) -> Iterator[tuple[str, Any]]:
    where = f"{'reduce' if stage.is_reduce else 'stage'} '{stage.name}'"
    yield where, stage.fn
    if stage.skip_when is not None:
        yield f"{where}: skip_when", stage.skip_when
    if stage.retry is not None:
        yield f"{where}: retry", stage.retry


def _worst(
    value: Any,
    is_bad: Callable[[Any], bool],
    opens: Callable[[_Part], bool],
    path: tuple[_Part, ...] = (),
    seen: frozenset[int] = frozenset(),
) -> Iterator[tuple[_Part, ...]]:
    """Paths from `value` to the innermost parts that are bad; `opens` says which to look into."""
    inside = sum(1 for part in path if not part.verb)
    if len(path) >= DEEPEST_PATH or inside >= DEEPEST_ATTRIBUTE:
        return
    seen |= {id(value)}
    for part in _parts(value):
        if id(part.value) in seen or not is_bad(part.value):
            continue
        here = (*path, part)
        deeper = list(_worst(part.value, is_bad, opens, here, seen)) if opens(part) else []
        yield from deeper or [here]


def _is_carrier(part: _Part) -> bool:
    """Whether a large part is better told by its own parts: a function is never large itself."""
    return (
        isinstance(part.value, (FunctionType, MethodType, partial, _CACHED)) or part.name == "self"
    )


def _parts(value: Any) -> Iterator[_Part]:
    if isinstance(value, FunctionType):
        yield from _captures(value)
    elif isinstance(value, MethodType):
        yield _Part("self", value.__self__, "carries")
        yield from _parts(value.__func__)
    elif isinstance(value, _CACHED):
        yield from _parts(value.__wrapped__)
    elif isinstance(value, partial):
        yield _Part(getattr(value.func, "__name__", "the function"), value.func, "calls")
        for number, argument in enumerate(value.args, 1):
            yield _Part(f"argument {number}", argument, "is given")
        for name, argument in value.keywords.items():
            yield _Part(name, argument, "is given")
    elif isinstance(value, dict):
        yield from (_Part(f"[{k!r}]", v) for k, v in islice(value.items(), MOST_ELEMENTS))
    elif isinstance(value, (list, tuple)):
        yield from (_Part(f"[{i}]", v) for i, v in enumerate(value[:MOST_ELEMENTS]))
    else:
        names = [n for c in type(value).__mro__ for n in c.__dict__.get("__slots__", ())]
        slots = {n: getattr(value, n) for n in names if n != "__dict__" and hasattr(value, n)}
        for name, attribute in {**slots, **getattr(value, "__dict__", {})}.items():
            yield _Part(f".{name}", attribute)


def _captures(fn: FunctionType) -> Iterator[_Part]:
    """What a function that is pickled by value takes along."""
    code = fn.__code__
    for name, cell in zip(code.co_freevars, fn.__closure__ or (), strict=True):
        try:
            yield _Part(name, cell.cell_contents, "captures")
        except ValueError:  # the variable is not bound yet
            continue
    for name in _global_names(code):
        if name in fn.__globals__:
            yield _Part(name, fn.__globals__[name], "uses")
    defaults = fn.__defaults__ or ()
    last = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
    for name, value in {
        **dict(zip(last, defaults, strict=True)),
        **(fn.__kwdefaults__ or {}),
    }.items():
        yield _Part(name, value, "has as a default")
    for name, value in vars(fn).items():
        yield _Part(name, value, "has as an attribute")


def _global_names(code: CodeType) -> Iterable[str]:
    names = dict.fromkeys(i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL")
    for const in code.co_consts:
        if isinstance(const, CodeType):
            names |= dict.fromkeys(_global_names(const))
    return names


def _told(root: Any, path: tuple[_Part, ...]) -> str:
    """The end of a path in words: 'model.lock' (a _thread.lock that the function captures)."""
    kind = _a(path[-1].value)
    start = max((i for i, part in enumerate(path) if part.verb), default=None)
    if start is None:
        name = "".join(part.name for part in path).lstrip(".")
        return f"'{name}' ({kind} in {_a(root)})"
    name = "".join(part.name for part in path[start:])
    owner = "the function" if start == 0 else f"{path[start - 1].name}()"
    return f"'{name}' ({kind} that {owner} {path[start].verb})"


def _a(value: Any) -> str:
    kind = type(value)
    place = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    name = f"{place}{kind.__qualname__}"
    return f"{'an' if name.lstrip('_')[0].lower() in 'aeiou' else 'a'} {name}"


class _Meter:
    """A file that keeps only the size of what is written to it."""

    size = 0

    def write(self, data: Any) -> None:
        self.size += memoryview(data).nbytes


def _size(value: Any) -> int:
    """Bytes of one thing, pickled as `dump_program` pickles the whole; raises what that raises."""
    meter = _Meter()
    pickler = cloudpickle.CloudPickler(meter)
    pickler.dispatch_table[_CACHED] = _reduce_cached
    pickler.dump(value)
    return meter.size


def _pickles(value: Any) -> bool:
    return _pickling_error(value) is None


def _pickling_error(value: Any) -> Exception | None:
    try:
        _size(value)
    except Exception as error:
        return error
    return None


# Declared outputs ---------------------------------------------------------------------------------


def _declared(stages: Iterable[Stage]) -> Iterator[Check]:
    """Fields that a function's source plainly does not return."""
    trees: dict[str, ast.Module | None] = {}
    for stage in stages:
        if stage.returns is None or not isinstance(stage.fn, (FunctionType, MethodType)):
            continue
        code = stage.fn.__code__
        node = _definition(code, trees)
        for line, made in (_returned(node) if node is not None else None) or ():
            missing = [name for name in stage.returns.names if name not in made]
            if not missing:
                continue
            kind = "reduce" if stage.is_reduce else "stage"
            plural = "s" if len(missing) > 1 else ""
            yield Check(
                "outputs",
                "warning",
                f"{kind} '{stage.name}': declares the field{plural} {_quoted(missing)}, but line "
                f"{line} of {Path(code.co_filename).name} returns {_quoted(made)}",
                "return every declared field, or take it out of returns=; these rows will fail",
            )


def _definition(code: CodeType, trees: dict[str, ast.Module | None]) -> ast.AST | None:
    """The one definition in the source that `code` was made from, where that can be told."""
    file = code.co_filename
    if file not in trees:
        try:
            trees[file] = ast.parse("".join(linecache.getlines(file)))
        except (
            SyntaxError,
            ValueError,
        ):  # not Python as it stands: a notebook's magics, a template
            trees[file] = None
    tree = trees[file]
    found = [n for n in ast.walk(tree) if _defines(n, code)] if tree is not None else []
    return found[0] if len(found) == 1 else None


def _defines(node: ast.AST, code: CodeType) -> bool:
    if isinstance(node, ast.FunctionDef):
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        return node.name == code.co_name and first == code.co_firstlineno
    if isinstance(node, ast.Lambda) and code.co_name == "<lambda>":
        names = tuple(a.arg for a in (*node.args.posonlyargs, *node.args.args))
        return node.lineno == code.co_firstlineno and names == code.co_varnames[: code.co_argcount]
    return False


def _returned(node: ast.AST) -> list[tuple[int, list[str]]] | None:
    """Line and keys of every return; None unless all of them plainly return a dict."""
    if isinstance(node, ast.Lambda):
        results: list[tuple[int, ast.expr | None]] = [(node.lineno, node.body)]
    else:
        inside = list(_own_nodes(node))
        if any(isinstance(n, (ast.Yield, ast.YieldFrom)) for n in inside):
            return None
        results = [(n.lineno, n.value) for n in inside if isinstance(n, ast.Return)]
    found = [(line, _keys(value)) for line, value in results]
    known = [(line, keys) for line, keys in found if keys is not None]
    return known if len(known) == len(found) else None


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a function's body but those of functions and classes defined in it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            yield child
            yield from _own_nodes(child)


def _keys(value: ast.expr | None) -> list[str] | None:
    """The keys of a dict literal or of dict(name=...); None where they are not all written out."""
    names: list[object] = [None]
    if isinstance(value, ast.Dict):
        names = [k.value if isinstance(k, ast.Constant) else None for k in value.keys]
    elif isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and not value.args:
        names = [k.arg for k in value.keywords] if value.func.id == "dict" else names
    keys = [name for name in names if isinstance(name, str)]
    return keys if len(keys) == len(names) else None


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


# Trying a row -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tried:
    """What came of running one row here."""

    row: int
    outputs: Mapping[str, Mapping[str, Any] | None]
    seconds: Mapping[str, float]
    """By stage; the last one is that which failed."""
    memory: int
    """Bytes taken at the peak, beyond what this process had."""
    error: BaseException | None = None
    inside: str = ""
    """The stage that raised `error`; empty where flowdist did, whose message names it."""


def _try(flow: Flow, row: int) -> _Tried:
    seconds: dict[str, float] = {}
    inside = ""

    def watched(stage: Stage) -> Stage:
        def call(*args: Any, **keywords: Any) -> Any:
            nonlocal inside
            inside, started = stage.name, time.perf_counter()
            try:
                out = stage.fn(*args, **keywords)
            finally:
                seconds[stage.name] = time.perf_counter() - started
            inside = ""
            return out

        return replace(stage, fn=call)

    outputs: Mapping[str, Mapping[str, Any] | None] = {}
    error: BaseException | None = None
    before = _restart_peak()
    try:
        outputs = replace(flow, stages=tuple(map(watched, flow.stages))).try_row(row)
    except (Exception, SystemExit) as caught:
        error = caught
    return _Tried(row, outputs, seconds, max(0, _peak() - before), error, inside)


def _restart_peak() -> int:
    """Have the kernel forget the largest memory this process had, where it lets us."""
    with contextlib.suppress(OSError):  # then only what goes beyond the former peak is seen
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """Bytes of memory that this process had at most."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _said(tried: _Tried, summary: PlanSummary | None) -> Iterator[Check]:
    error, row = tried.error, tried.row
    if error is not None:
        kind = f"{type(error).__name__}: {error}"
        if tried.inside:
            what = f"row {row}: stage '{tried.inside}' raised {kind}"
        else:
            what = str(error) if isinstance(error, FlowdistError) else f"row {row}: {kind}"
        remedy = f"flow.try_row({row}) gives the traceback"
        yield Check("try", "error", what, "" if isinstance(error, FlowError) else remedy)
        return
    total = sum(tried.seconds.values())
    parts = [f"{name} {_short(s)}" for name, s in tried.seconds.items()]
    split = f" ({', '.join(parts)})" if len(parts) > 1 else ""
    took = f"row {row} took {_short(total)}{split} and {format_memory(tried.memory or 1)}"
    yield Check("try", "info", f"{took}; it gave {_outputs(tried.outputs)}")
    if summary is None:
        return
    busy = max(1, summary.cores_used // summary.plan.cpus_per_worker)
    estimate = _about(summary.rows * total / busy)
    workers = f"{busy:,} worker{'s' * (busy != 1)}"
    yield Check("try", "info", f"{summary.rows:,} such rows on {workers} take {estimate}")


def _outputs(outputs: Mapping[str, Mapping[str, Any] | None]) -> str:
    said = []
    for stage, fields in outputs.items():
        if fields is None:
            said.append(f"{stage} (skipped)")
        else:
            said += [f"{stage}.{name}: {_kind(value)}" for name, value in fields.items()]
    return ", ".join(said) or "nothing"


def _kind(value: Any) -> str:
    name = type(value).__name__
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"{name} {' x '.join(f'{n:,}' for n in shape)}"
    return f"{name} of {len(value):,}" if isinstance(value, (list, tuple)) else name


def _short(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 0.001 else f"{seconds * 1e6:.3g} µs"


def _about(seconds: float) -> str:
    """A time for people, to two digits or so."""
    unit = next(
        u
        for u, below in ((1, 120), (60, 7200), (3600, 360_000), (86_400, 1e300))
        if seconds < below
    )
    rounded = round(seconds / unit) * unit
    return f"about {format_time(rounded)}" if rounded else "less than a second"


def _files(flow: Flow, tried: _Tried | None) -> Iterator[Check]:
    """How many files the run will have for its artifacts; the other files grow with jobs only."""
    declared = [
        (stage.name, field)
        for stage in flow.stages
        if not stage.is_reduce and stage.returns is not None
        for field in stage.returns.fields
        if field.kind == "artifact"
    ]
    known = tried is not None and tried.error is None
    large = []
    for stage, field in declared:
        name = f"{stage}.{field.name}"
        try:
            if not known or _stored(tried, stage, field.name, field.codec) > INLINE_BYTES:
                large.append(name)
        except Exception as error:
            what = f"'{name}' of row {tried.row if tried else 0} cannot be stored as an artifact"
            reason = f"{type(error).__name__}: {error}"
            yield Check("try", "error", f"{what}: {reason}", "return what can be pickled")
    count = len(flow.grid) * len(large)
    if count <= SOME_FILES:
        return
    limit = format_memory(INLINE_BYTES)
    yield Check(
        "files",
        "warning" if count > MANY_FILES else "info",
        f"{'about' if known else 'up to'} {count:,} files: {_quoted(large)} of each of "
        f"{len(flow.grid):,} rows{'' if known else f', where larger than {limit}'}",
        f"return plain values, or artifacts of at most {limit}: they travel inside the results",
    )


def _stored(tried: _Tried | None, stage: str, field: str, codec: str | None) -> int:
    """Bytes of an artifact that the tried row returned; 0 where it returned none."""
    value = ((tried.outputs.get(stage) if tried is not None else None) or {}).get(field)
    if value is None or isinstance(value, FileOutput):
        return 0 if value is None else len(value.data)
    return len(dumps(value, codec)[1])
