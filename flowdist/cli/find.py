"""From what people type to what is meant: flows from files, runs from ids, plans from options."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import linecache
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from flowdist.errors import FlowdistError, RunNotFound, UsageError, nearest
from flowdist.settings import default_root
from flowdist.store import RunFiles

if TYPE_CHECKING:
    from flowdist.flow import Flow
    from flowdist.run import Run

CONNECTION = "flowdist.connection"
"""Where the context of a command keeps what --connection says."""

# Modules that were loaded here, by name: one of them may be loaded again, others are not touched.
_loaded: dict[str, ModuleType] = {}


# -- flows -----------------------------------------------------------------------------------------


def load_flow(target: str) -> Flow:
    """The flow that ``path/to/file.py[:name]`` means.

    The file becomes a module under its own name, with its folder on the path, as if its user had
    imported it. What it prints goes to standard error.

    Raises: UsageError: no such file, it cannot be loaded (saying where), or it is not clear which
    flow is meant (naming the candidates).
    """
    from flowdist.lean import defer_pandas

    defer_pandas()
    path, name = _split(target)
    module = _load(path)
    if name:
        return _named(module, name, path)
    flows = _flows(module)
    distinct = {id(value): key for key, value in reversed(flows.items())}
    if len(distinct) == 1:
        return flows[next(iter(distinct.values()))]
    if flows:
        raise UsageError(
            f"{path} has several flows: {', '.join(flows)}; say which, as in "
            f"{path}:{list(flows)[-1]}"
        )
    makers = _makers(module)
    if len(makers) == 1:
        return _named(module, makers[0], path)
    if makers:
        raise UsageError(
            f"{path} has several functions that make a flow: {', '.join(makers)}; say which, as in "
            f"{path}:{makers[0]}"
        )
    raise UsageError(
        f"{path} has no flow: assign one to a name, as in work = flow(grid).stage(...), or name "
        f"a function without parameters that returns one, as in {path}:make_flow"
    )


def _split(target: str) -> tuple[Path, str]:
    before, colon, after = target.rpartition(":")
    text, name = (before, after) if colon and not Path(target).exists() else (target, "")
    path = Path(text)
    if colon and not name.isidentifier() and name:
        raise UsageError(f"{target}: '{name}' is not a name; write path/to/file.py:name")
    if path.is_dir():
        raise UsageError(f"{path} is a directory; name a file, as in {path / 'flow.py'}")
    if not path.is_file():
        folder = path.parent
        there = [p.name for p in folder.glob("*.py")] if folder.is_dir() else []
        raise UsageError(f"there is no file {path}{nearest(path.name, there)}")
    if path.suffix != ".py":
        raise UsageError(f"{path} is not a Python file; a flow is named path/to/file.py[:name]")
    return path, name


def _load(path: Path) -> ModuleType:
    name, path = path.stem, path.resolve()
    known = sys.modules.get(name)
    if known is not None and known is not _loaded.get(name):
        raise UsageError(
            f"{path}: a module called '{name}' is in use already ({_place(known)}); rename the file"
        )
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = _loaded[name] = module
    try:
        with contextlib.redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name], _loaded[name]
        raise UsageError(_what_happened(path, error)) from error
    return module


def _place(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or "part of Python"


def _what_happened(path: Path, error: BaseException) -> str:
    """Where the user's file failed, and how: the last of its own lines that was running."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: SyntaxError: {error.msg}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    place = f"{path}, line {frames[-1].lineno}" if frames else str(path)
    if isinstance(error, FlowdistError):
        return f"{place}: {error}"
    if isinstance(error, SystemExit):
        return f"{place}: it ended Python ({error}) instead of defining a flow"
    said = f"{place}: {type(error).__name__}: {error}"
    line = linecache.getline(str(path), frames[-1].lineno or 0).strip() if frames else ""
    return f"{said} (in: {line})" if line else said


def _flows(module: ModuleType) -> dict[str, Flow]:
    from flowdist.flow import Flow

    return {key: value for key, value in vars(module).items() if isinstance(value, Flow)}


def _makers(module: ModuleType) -> list[str]:
    """Functions of the module itself that say that they return a flow and need nothing for it."""
    return [
        key
        for key, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and _returns_flow(value.__annotations__.get("return"))
        and _without_parameters(value)
    ]


def _returns_flow(annotation: Any) -> bool:
    said = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return said.rpartition(".")[2] == "Flow"


def _without_parameters(fn: Any) -> bool:
    return all(
        p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        for p in inspect.signature(fn).parameters.values()
    )


def _named(module: ModuleType, name: str, path: Path) -> Flow:
    from flowdist.flow import Flow

    candidates = [*_flows(module), *_makers(module)]
    if not hasattr(module, name):
        there = f" (there are: {', '.join(candidates)})" if candidates else ""
        raise UsageError(f"{path} has no '{name}'{nearest(name, candidates)}{there}")
    value = getattr(module, name)
    if inspect.isfunction(value):
        if not _without_parameters(value):
            raise UsageError(
                f"{path}: {name}() needs parameters; name a flow, or a function that needs none"
            )
        try:
            with contextlib.redirect_stdout(sys.stderr):
                value = value()
        except (Exception, SystemExit) as error:
            raise UsageError(_what_happened(path.resolve(), error)) from error
    if not isinstance(value, Flow):
        there = f" (flows there: {', '.join(candidates)})" if candidates else ""
        raise UsageError(f"{path}: '{name}' is {_article(type(value).__name__)}, not a flow{there}")
    return value


def _article(noun: str) -> str:
    return f"an {noun}" if noun[:1].lower() in "aeiou" else f"a {noun}"


# -- plans -----------------------------------------------------------------------------------------


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """``key=value`` words as fields of a plan; a value is TOML, as in a profile, or plain text.

    Raises:
        UsageError: a word without ``=``.

    >>> parse_settings(["workers=4", "memory=8GB", "by=subject,session", "fail_fast=true"])
    {'workers': 4, 'memory': '8GB', 'by': ['subject', 'session'], 'fail_fast': True}
    """
    from flowdist.profiles import field_value

    found: dict[str, Any] = {}
    for word in settings:
        key, sign, text = word.partition("=")
        key = key.strip().replace("-", "_")
        if not sign or not key:
            raise UsageError(f"'{word}' sets nothing; write field=value, as in workers=4")
        found[key] = field_value(key, text)
    return found


def distributed(flow: Flow, on: str | None, overrides: Mapping[str, Any]) -> Flow:
    """The flow on the plan asked for: the profile `on`, else its own plan, else this machine."""
    if on is None and not overrides:
        return flow
    from flowdist.plan import local

    plan = on if on is not None else flow.distribution if flow.distribution is not None else local()
    return flow.distribute(plan, **overrides)


# -- runs ------------------------------------------------------------------------------------------


def find_run(text: str, root: str | None) -> Run:
    """The run that an id, the beginning of one, a directory, a place on a stage or "last" means.

    Raises:
        RunNotFound: none does.
        UsageError: several do.
    """
    from flowdist.lean import defer_pandas
    from flowdist.run import Run, attach, runs

    defer_pandas()
    if text.startswith("@"):
        return attach(text, root, connection=chosen_connection())
    if str(root).startswith("@"):
        return _run_on_stage(text, str(root))
    directory = Path(text).expanduser()
    if (directory / RunFiles.RUN).is_file() and ("/" in text or root is None):
        return Run(RunFiles.at(directory.absolute()))
    base = Path(root).expanduser().absolute() if root is not None else default_root()
    if text == "last":
        found = runs(base)
        if not found:
            raise RunNotFound(
                f"there are no runs in {base} yet; flowdist run FLOW starts one, --root or "
                "FLOWDIST_ROOT say where else to look"
            )
        return found[0]
    return attach(_whole_id(text, run_ids(base)), base)


def _whole_id(text: str, ids: Sequence[str]) -> str:
    """The id that begins so, where it is the only one."""
    fitting = [name for name in ids if name.startswith(text)] if text not in ids else []
    if text and len(fitting) > 1:
        shown = ", ".join(fitting[:5]) + (", ..." if len(fitting) > 5 else "")
        raise UsageError(f"'{text}' could be {len(fitting)} runs: {shown}; type more of the id")
    return fitting[0] if text and fitting else text


def _run_on_stage(text: str, stage: str) -> Run:
    from flowdist.backends.snowflake.attach import addresses
    from flowdist.run import attach

    connection = chosen_connection()
    known = addresses(stage, connection=connection)
    chosen = next(iter(known), text) if text == "last" else _whole_id(text, list(known))
    if chosen not in known:
        raise RunNotFound(f"there is no run '{text}' in {stage}{nearest(text, known)}")
    return attach(known[chosen], connection=connection)


def chosen_connection() -> str | None:
    """What --connection says, of the command that runs now."""
    context = click.get_current_context(silent=True)
    return None if context is None else context.meta.get(CONNECTION)


def run_ids(root: Path) -> list[str]:
    """The ids of the runs in `root`, sorted."""
    if not root.is_dir():
        return []
    return sorted(d.name for d in root.iterdir() if (d / RunFiles.RUN).is_file())
