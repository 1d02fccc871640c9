"""The clauses of a query that are served; the rest is refused, with its text."""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from flowdist.emulator.errors import unsupported

__all__ = ["check", "in_identifier"]

_ALLOWED: dict[type[exp.Expr], set[str]] = {
    exp.Select: {
        "with_",
        "expressions",
        "distinct",
        "from_",
        "joins",
        "laterals",
        "where",
        "group",
        "having",
        "qualify",
        "order",
        "limit",
        "offset",
        "kind",
    },
    exp.Union: {
        "with_",
        "this",
        "expression",
        "distinct",
        "order",
        "limit",
        "offset",
        "by_name",
    },
    exp.Subquery: {"this", "alias", "with_", "order", "limit", "offset"},
    exp.Table: {"this", "alias", "db", "catalog", "joins"},
    exp.Join: {"this", "side", "kind", "on", "using", "method"},
    exp.Lateral: {"this", "alias", "outer", "view"},
    exp.Values: {"expressions", "alias"},
    exp.With: {"expressions", "recursive"},
    exp.CTE: {"this", "alias"},
    exp.Group: {"expressions", "all", "rollup", "cube", "grouping_sets"},
    exp.TableAlias: {"this", "columns"},
    exp.Star: {"except_", "rename", "replace"},
    exp.Distinct: {"expressions"},
    exp.Limit: {"expression"},
    exp.Offset: {"expression"},
}
_ALLOWED[exp.Except] = _ALLOWED[exp.Intersect] = _ALLOWED[exp.Union]


def check(node: exp.Expr) -> None:
    """SqlError where a node has a clause that is not served here."""
    allowed = _ALLOWED.get(type(node))
    if allowed is None:
        raise unsupported(node.sql("snowflake"))
    for key, value in node.args.items():
        if value and key not in allowed:
            shown = value if isinstance(value, exp.Expr) else node
            raise unsupported(shown.sql("snowflake"))


def in_identifier(node: Any) -> exp.Expr | None:
    """What names something in IDENTIFIER(...); None where a node is something else."""
    if isinstance(node, exp.DynamicIdentifier):
        given = [node.this]
    elif isinstance(node, exp.Anonymous) and node.name.upper() == "IDENTIFIER":
        given = node.expressions
    else:
        return None
    return given[0] if len(given) == 1 and isinstance(given[0], exp.Expr) else None
