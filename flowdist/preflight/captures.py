"""What is pickled with a flow: who is to blame that it cannot be, and what makes it large.

A stage takes along what it captures: variables, globals, defaults, attributes, and what those are
made of. From the stage they are followed to the innermost culprit, which is told in the user's
words. How a flow is pickled is left to `flowdist.payload`.
"""

from __future__ import annotations

import dis
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from flowdist.payload import CachedFunction, dump, dump_program, project_modules_by_value
from flowdist.preflight.check import Check
from flowdist.resources import format_memory

if TYPE_CHECKING:
    from flowdist.flow import Flow, Stage

# Every worker loads the stages before its first row.
HUGE_CAPTURE = 10 * 1024**2
# A constant is meant to be larger than a capture, but it is held once per worker all the same.
HUGE_CONST = 100 * 1024**2
# How far into captured things the culprit is looked for: all that is useful to a reader.
DEEPEST_PATH, DEEPEST_ATTRIBUTE, MOST_ELEMENTS = 6, 2, 1_000

_DATA_REMEDY = "read it from a file inside the stage"


@dataclass(frozen=True)
class _Part:
    """A thing that is pickled along with another: a captured variable, an attribute, an element."""

    name: str
    value: Any
    verb: str = ""
    """How a function comes by it; empty where it is part of a value."""


def pickle_flow(flow: Flow) -> tuple[bytes | None, list[Check]]:
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
    deep = inside >= DEEPEST_ATTRIBUTE and not isinstance(value, FunctionType)
    if len(path) >= DEEPEST_PATH or deep:
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
        isinstance(part.value, (FunctionType, MethodType, partial, CachedFunction))
        or part.name == "self"
    )


def _parts(value: Any) -> Iterator[_Part]:
    if isinstance(value, FunctionType):
        yield from _captures(value)
    elif isinstance(value, MethodType):
        yield _Part("self", value.__self__, "carries")
        yield from _parts(value.__func__)
    elif isinstance(value, CachedFunction):
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
    owner = "the function"
    if start:
        since = max((i for i in range(start) if path[i].verb), default=0)
        owner = "".join(part.name for part in path[since:start]).lstrip(".") + "()"
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
    dump(value, meter)
    return meter.size


def _pickles(value: Any) -> bool:
    return _pickling_error(value) is None


def _pickling_error(value: Any) -> Exception | None:
    try:
        _size(value)
    except Exception as error:
        return error
    return None
