"""Declared outputs that a stage's source plainly does not return.

Only what the source says without doubt counts: every return a dict whose keys are all written out.
Anything else withholds judgement, and the worker judges the outputs themselves.
"""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING

from flowdist.preflight.check import Check, quoted

if TYPE_CHECKING:
    from flowdist.flow import Stage


def not_returned(stages: Iterable[Stage]) -> Iterator[Check]:
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
                f"{kind} '{stage.name}': declares the field{plural} {quoted(missing)}, but line "
                f"{line} of {Path(code.co_filename).name} returns {quoted(made)}",
                "return every declared field, or take it out of returns=; these rows will fail",
            )


def _definition(code: CodeType, trees: dict[str, ast.Module | None]) -> ast.AST | None:
    """The one definition in the source that `code` was made from, where that can be told."""
    file = code.co_filename
    if file not in trees:
        try:
            trees[file] = ast.parse("".join(linecache.getlines(file)))
        except (SyntaxError, ValueError):  # no plain Python: a notebook's magics, a template
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
