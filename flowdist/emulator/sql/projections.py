"""The items of SELECT: their expressions, the columns that they give, and the names of these."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlglot import exp

from flowdist.emulator.errors import compilation_error, unsupported
from flowdist.emulator.sql.clauses import check
from flowdist.emulator.sql.dialect import template, type_of
from flowdist.emulator.sql.expressions import Expressions, column, escaped
from flowdist.emulator.sql.scopes import Output, Scope, invalid_identifier, name_of

__all__ = ["projection"]


def projection(visit: Expressions, node: exp.Expr, scope: Scope) -> tuple[exp.Expr, list[Output]]:
    """An item of SELECT and the columns it gives; one without a name gets that of its text."""
    if isinstance(node, exp.Star) or (
        isinstance(node, exp.Column) and isinstance(node.this, exp.Star)
    ):
        return _star(node, scope)
    if isinstance(node, exp.Alias):
        name, inner = name_of(node.args["alias"]), node.this
    else:
        name, inner = _own_name(node), node
    made = visit(inner, scope, raw=True)
    if isinstance(made, exp.Interval):
        raise unsupported(node.sql("snowflake"))
    found = type_of(made)
    scope.aliases[name] = found
    alias = exp.alias_(made, exp.to_identifier(name, quoted=True), copy=False)
    return alias, [Output(name, found, nullable=not _never_null(made))]


def _own_name(node: exp.Expr) -> str:
    named = node.meta.get("text")
    if isinstance(node, exp.Column) and not isinstance(node.this, exp.Parameter):
        return name_of(node.this)
    if isinstance(node, exp.Parameter | exp.Column) and node.find(exp.Parameter):
        parameter = node if isinstance(node, exp.Parameter) else node.this
        if isinstance(parameter.this, exp.Literal):
            return f"${parameter.name}"
    return str(named) if named else node.sql("snowflake").upper()


def _star(node: exp.Expr, scope: Scope) -> tuple[exp.Expr, list[Output]]:
    star = node if isinstance(node, exp.Star) else node.this
    check(star)
    table = name_of(node.args["table"]) if isinstance(node, exp.Column) else None
    if table is not None and not any(source.name == table for source in scope.sources):
        raise invalid_identifier(node)
    if not scope.sources:
        raise compilation_error("SELECT with no columns")
    without = {name_of(c.this if isinstance(c, exp.Column) else c) for c in _list(star, "except_")}
    names = {name_of(a.this.this): name_of(a.args["alias"]) for a in _list(star, "rename")}
    if star.args.get("replace"):
        raise unsupported(node.sql("snowflake"))
    outputs, columns = [], []
    for source, output in scope.visible(table):
        if output.name in without:
            continue
        name = names.get(output.name, output.name)
        made = column(output.name, source.name or None)
        columns.append(exp.alias_(made, exp.to_identifier(name, quoted=True), copy=False))
        outputs.append(replace(output, name=name))
    if not columns:
        raise compilation_error("SELECT with no columns")
    many = template(", ".join(f"{{{i}}}" for i in range(len(columns))))
    many.set("expressions", [template(escaped(c.sql("duckdb"))) for c in columns])
    return many, outputs


def _list(node: exp.Expr, key: str) -> list[Any]:
    found = node.args.get(key)
    return found if isinstance(found, list) else [found] if found is not None else []


def _never_null(node: exp.Expr) -> bool:
    if "nullable" in node.meta:
        return not node.meta["nullable"]
    return isinstance(node, exp.Literal | exp.Boolean) or "literal" in node.meta
