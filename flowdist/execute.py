"""A Python script as a run: `flowdist exec`, and `exec_flow` in Python.

The script has a function ``main(config)``, which runs in one or several replicas. Its source, and
that of the modules beside it that it imports, travels in the run as a flow does; the rest is a flow
of one row for each replica, so that status, logs, collect, cancel and resume are those of any run.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import importlib.util
import json
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from flowdist.errors import ScriptFailed, UsageError, nearest
from flowdist.plan import Plan, plan_of

if TYPE_CHECKING:
    from flowdist.flow import Flow
    from flowdist.workers.context import Context

__all__ = ["INDEX", "STAGE", "exec_flow", "exec_plan", "parse_config"]

STAGE = "main"
"""The stage that runs the script, whatever its function is called."""
INDEX, COUNT = "worker_index", "worker_count"
"""What a script finds in its config besides what its user has put there."""


@dataclass(frozen=True)
class Source:
    """A script as it travels: `files` are relative paths and contents, `name` the script's."""

    name: str
    entry: str
    files: Mapping[str, bytes]


def exec_flow(
    script: str | Path,
    config: Mapping[str, Any] | None = None,
    *,
    replicas: int = 1,
    entry: str = "main",
    on: Plan | str = "laptop",
) -> Flow:
    """A flow that runs a script's ``main(config)`` in `replicas` workers, each a job of its own.

    A worker's config is `config`, ``worker_index`` (0, 1, ...) and ``worker_count``. What ``main``
    returns is collected: None, a dict, a DataFrame or whatever else a stage may return. A raised
    exception and ``sys.exit`` with a code other than 0 are a failed row.

    Args:
        script: the path of a Python file. Modules beside it that it imports travel with it; data
            files do not.
        config: what the script's user has to say, by name.
        entry: the function, where it is not called ``main``.
        on: the plan, or the name of a profile. A worker gets the cores of a job, or as many as
            ``cpus`` says.

    Raises:
        UsageError: there is no such script or function, or `config` has a name that is taken.

    >>> import tempfile
    >>> script = Path(tempfile.mkdtemp(), "share.py")
    >>> _ = script.write_text("def main(config): return config['n'] + config['worker_index']")
    >>> exec_flow(script, {"n": 10}, replicas=2).collect()["main.value"].tolist()
    [10, 11]
    """
    from flowdist.flow import flow

    if isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 1:
        raise UsageError(f"replicas={replicas!r}; expected 1 or more")
    path = Path(script).expanduser()
    grid = {INDEX: list(range(replicas))}
    const = {
        "source": read_source(path, entry),
        "config": _checked_config(config or {}),
        COUNT: replicas,
    }
    made = flow(grid, const=const, name=path.stem).stage(STAGE, run_entry)
    return made.distribute(exec_plan(plan_of(on), replicas))


def exec_plan(plan: Plan, replicas: int) -> Plan:
    """The plan with a job for each replica and one worker in each.

    >>> from flowdist import local
    >>> exec_plan(local(workers=8, by="subject"), 2)
    local(rows_per_chunk=1, target_jobs=2, workers=1, jobs_at_once=2)
    """
    changes: dict[str, Any] = {
        "by": None,
        "rows_per_chunk": 1,
        "chunks_per_job": None,
        "target_jobs": replicas,
        "workers": 1,
    }
    fields = type(plan).model_fields
    if "replicas" in fields:
        changes["replicas"] = replicas
    if plan.here and getattr(plan, "jobs_at_once", None) is None:
        changes["jobs_at_once"] = replicas  # they may want to work together
    if plan.resources.cpus is None and getattr(plan, "family", None) is not None:
        changes["cpus"] = plan.job_cores()  # else one worker would be given one core of its node
    return plan_of(plan, **changes)


# -- config ----------------------------------------------------------------------------------------


def parse_config(words: Sequence[str] = (), file: Path | None = None) -> dict[str, Any]:
    """A config from a file (.json or .toml), and from ``name=value`` words, which win over it.

    A value is JSON where it can be read so, else the text itself.

    Raises:
        UsageError: a word without ``=``, a file that is not there or holds no table.

    >>> parse_config(["n=3", "name=a b", 'cuts=[0.1, 0.5]', "on=true", "id=007", "empty="])
    {'n': 3, 'name': 'a b', 'cuts': [0.1, 0.5], 'on': True, 'id': '007', 'empty': ''}
    """
    config = {} if file is None else _read_config(file)
    for word in words:
        name, sign, text = word.partition("=")
        if not sign or not name.strip():
            raise UsageError(f"--config {word!r} sets nothing; write name=value, as in n=3")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        config[name.strip()] = value
    return config


def _read_config(file: Path) -> dict[str, Any]:
    readers = {".json": json.loads, ".toml": tomllib.loads}
    if file.suffix not in readers:
        raise UsageError(f"{file}: a config is a {' or '.join(readers)} file, not '{file.suffix}'")
    try:
        found = readers[file.suffix](file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{file}: it is not {file.suffix.lstrip('.').upper()}: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{file}: a config is names and values, not {type(found).__name__}")
    return found


def _checked_config(config: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(config, Mapping):
        raise UsageError(f"config is {config!r}; give a dict of names and values")
    for name in config:
        if not isinstance(name, str):
            raise UsageError(f"config: {name!r} is no name; names are texts")
        if name in (INDEX, COUNT):
            raise UsageError(f"config: every worker is told its own '{name}'; choose another name")
    return dict(config)


# -- the script here -------------------------------------------------------------------------------


def read_source(path: Path, entry: str) -> Source:
    """The script and the modules beside it that it imports, checked but not run.

    Raises:
        UsageError: no such file, no Python, or no function that takes one config.
    """
    if path.suffix != ".py" or not path.is_file():
        folder = path.parent
        there = [p.name for p in folder.glob("*.py")] if folder.is_dir() else []
        known = "is not a Python file" if path.is_file() else "does not exist"
        raise UsageError(f"the script {path} {known}{nearest(path.name, there)}")
    tree = _parsed(path)
    _check_entry(path, tree, entry)
    files = {path.name: path.read_bytes()}
    waiting = [tree]
    while waiting:
        for name in _imported(waiting.pop()):
            for file in _module_files(path.parent, name):
                relative = file.relative_to(path.parent).as_posix()
                if relative not in files:
                    files[relative] = file.read_bytes()
                    waiting.append(_parsed(file))
    return Source(path.name, entry, files)


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), str(path))
    except SyntaxError as error:
        raise UsageError(f"{path}, line {error.lineno}: SyntaxError: {error.msg}") from error
    except ValueError as error:  # it holds a null byte
        raise UsageError(f"{path}: {error}") from error


def _imported(tree: ast.Module) -> Iterator[str]:
    """The top-level names of the modules that a file imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def _module_files(folder: Path, name: str) -> list[Path]:
    """The files of a module or package that lies in `folder`."""
    if (folder / name / "__init__.py").is_file():
        return sorted((folder / name).rglob("*.py"))
    module = folder / f"{name}.py"
    return [module] if module.is_file() else []


def _check_entry(path: Path, tree: ast.Module, entry: str) -> None:
    """Refuse a script that cannot have the function; what makes it in other ways is believed."""
    functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = {}
    others: set[str] = set()
    for node in _top_level(tree.body):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            functions[node.name] = node
        others |= set(_bound(node))
    if entry in functions:
        _check_signature(path, functions[entry])
    elif entry not in others and "*" not in others:
        there = f" (its functions: {', '.join(functions)})" if functions else ""
        raise UsageError(
            f"{path} has no function '{entry}'{nearest(entry, functions)}{there}; write "
            f"def {entry}(config), or name another with --entry"
        )


def _top_level(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, those in its ``if``, ``try`` and ``with`` too."""
    for node in body:
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        for inner in ("body", "orelse", "finalbody"):
            yield from _top_level(getattr(node, inner, []))
        for handler in getattr(node, "handlers", []):
            yield from _top_level(handler.body)


def _bound(node: ast.stmt) -> Iterator[str]:
    """The names that a statement other than a function's definition gives a value."""
    if isinstance(node, ast.ClassDef):
        yield node.name
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            yield from (part.id for part in ast.walk(target) if isinstance(part, ast.Name))


def _check_signature(path: Path, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    where = f"{path}, line {node.lineno}: {node.name}()"
    if isinstance(node, ast.AsyncFunctionDef):
        raise UsageError(f"{where} is async; call asyncio.run(...) in an ordinary function")
    if _yields(node):
        raise UsageError(f"{where} is a generator; return a list of what it yields")
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    required = len(positional) - len(given.defaults)
    named = sum(default is None for default in given.kw_defaults)
    if required > 1 or named or not (positional or given.vararg):
        raise UsageError(f"{where} has to take one argument, the config: def {node.name}(config)")


def _yields(node: ast.AST) -> bool:
    """Whether a function's own body yields, not that of one inside it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Yield, ast.YieldFrom)):
            return True
        inner = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef))
        if not inner and _yields(child):
            return True
    return False


# -- the script in a worker ------------------------------------------------------------------------


def run_entry(
    source: Source, config: dict[str, Any], worker_index: int, worker_count: int, ctx: Context
) -> Any:
    """Run the script for one replica, and return what its function does."""
    # A worker may run several replicas, and what one changes is none of the others' business.
    given = {**copy.deepcopy(config), INDEX: worker_index, COUNT: worker_count}
    with _imported_from(source, ctx.scratch / "script") as module:
        main = getattr(module, source.entry, None)
        if not callable(main):
            raise ScriptFailed(f"{source.name} has no function '{source.entry}'")
        try:
            return main(given)
        except SystemExit as left:
            if left.code in (None, 0):
                return None
            said = f"{source.name} ended with sys.exit({left.code!r})"
            raise ScriptFailed(said) from left


@contextlib.contextmanager
def _imported_from(source: Source, folder: Path) -> Iterator[ModuleType]:
    """The script as a module, written to `folder`, where processes that it starts find it too."""
    for relative, content in source.files.items():
        file = folder / relative
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    stem = Path(source.name).stem
    # Not under the name of a module that is in use: who imports that would get the script.
    name = stem if stem not in sys.modules else f"script_{stem}"
    spec = importlib.util.spec_from_file_location(name, folder / source.name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = set(sys.modules)
    sys.modules[name] = module
    sys.path.insert(0, str(folder))
    try:
        try:
            spec.loader.exec_module(module)
        except SystemExit as left:
            raise ScriptFailed(
                f"{source.name} ended with sys.exit({left.code!r}) before {source.entry}() was "
                'called; what is not for import belongs below if __name__ == "__main__"'
            ) from left
        yield module
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
        for added in set(sys.modules) - before:
            place = getattr(sys.modules[added], "__file__", None)
            if place is not None and Path(place).is_relative_to(folder):
                del sys.modules[added]
