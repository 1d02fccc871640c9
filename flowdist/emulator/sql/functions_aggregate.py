"""Aggregates and window functions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlglot import exp

from flowdist.emulator.errors import unsupported
from flowdist.emulator.sql import conversions as to
from flowdist.emulator.sql import datatypes
from flowdist.emulator.sql.dialect import Template, template, type_of
from flowdist.emulator.sql.functions import FIRST, wrong_arguments
from flowdist.emulator.sql.scopes import Scope
from flowdist.emulator.types import BOOLEAN, FIXED, REAL, TEXT, DataType

if TYPE_CHECKING:
    from flowdist.emulator.sql.expressions import Expressions

__all__ = ["AGGREGATES", "aggregate", "ratio_to_report", "within_group"]

COUNT = replace(FIXED, precision=18)


@dataclass(frozen=True)
class _Aggregate:
    """``text`` has ``{d}`` for DISTINCT, ``{0}`` ... for arguments, ``{o}`` for an order inside and
    ``{n}`` for IGNORE NULLS; ``around`` is put around the whole, outside of a window;
    ``convert`` has a letter for each argument, as a `Function`'s has.
    """

    text: str
    type: DataType | str | None
    convert: str = "r"
    around: str | None = None
    arguments: tuple[int, int] = (1, 1)


_SIMPLE: dict[str, _Aggregate] = {
    "COUNT": _Aggregate("count({d}{0})", COUNT),
    "SUM": _Aggregate("sum({d}{0})", None, "n"),
    "AVG": _Aggregate("avg({d}{0})", None, "n"),
    "MIN": _Aggregate("min({0})", FIRST),
    "MAX": _Aggregate("max({0})", FIRST),
    "ANY_VALUE": _Aggregate("any_value({0})", FIRST),
    "MODE": _Aggregate("mode({0})", FIRST),
    "COUNT_IF": _Aggregate("count_if({0})", COUNT),
    "MEDIAN": _Aggregate("median({0})", None, "n"),
    "STDDEV": _Aggregate("stddev_samp({d}{0})", REAL, "n"),
    "STDDEV_SAMP": _Aggregate("stddev_samp({d}{0})", REAL, "n"),
    "STDDEV_POP": _Aggregate("stddev_pop({d}{0})", REAL, "n"),
    "VARIANCE": _Aggregate("var_samp({d}{0})", REAL, "n"),
    "VAR_SAMP": _Aggregate("var_samp({d}{0})", REAL, "n"),
    "VAR_POP": _Aggregate("var_pop({d}{0})", REAL, "n"),
    "CORR": _Aggregate("corr({0}, {1})", REAL, "n", None, (2, 2)),
    "MAX_BY": _Aggregate("max_by({0}, {1})", FIRST, "r", None, (2, 2)),
    "MIN_BY": _Aggregate("min_by({0}, {1})", FIRST, "r", None, (2, 2)),
    "BOOLOR_AGG": _Aggregate("bool_or({0})", BOOLEAN),
    "BOOLAND_AGG": _Aggregate("bool_and({0})", BOOLEAN),
    "APPROX_COUNT_DISTINCT": _Aggregate("count(DISTINCT {0})", COUNT),
    "LISTAGG": _Aggregate("string_agg({d}{0}, {1}{o})", TEXT, "t", "coalesce({0}, '')", (1, 2)),
    "ARRAY_AGG": _Aggregate(
        "list({d}{0}{o}) FILTER ({0} IS NOT NULL)",
        datatypes.ARRAY,
        "v",
        "coalesce(to_json({0}), '[]')",
    ),
    "OBJECT_AGG": _Aggregate(
        "string_agg(to_json({0}) || ':' || CAST({1} AS VARCHAR), ',' ORDER BY to_json({0}))",
        datatypes.OBJECT,
        "tv",
        "CAST('{{' || coalesce({0}, '') || '}}' AS JSON)",
        (2, 2),
    ),
    "PERCENTILE_CONT": _Aggregate("quantile_cont({o1}, {0})", None, "n"),
    "PERCENTILE_DISC": _Aggregate("quantile_disc({o1}, {0})", None, "n"),
    "ROW_NUMBER": _Aggregate("row_number()", FIXED, "r", None, (0, 0)),
    "RANK": _Aggregate("rank()", FIXED, "r", None, (0, 0)),
    "DENSE_RANK": _Aggregate("dense_rank()", FIXED, "r", None, (0, 0)),
    "PERCENT_RANK": _Aggregate("percent_rank()", REAL, "r", None, (0, 0)),
    "CUME_DIST": _Aggregate("cume_dist()", REAL, "r", None, (0, 0)),
    "NTILE": _Aggregate("ntile(CAST({0} AS BIGINT))", FIXED),
    "LAG": _Aggregate("lag({a}{n})", FIRST, "r", None, (1, 3)),
    "LEAD": _Aggregate("lead({a}{n})", FIRST, "r", None, (1, 3)),
    "FIRST_VALUE": _Aggregate("first_value({0}{n})", FIRST),
    "LAST_VALUE": _Aggregate("last_value({0}{n})", FIRST),
    "NTH_VALUE": _Aggregate("nth_value({0}, CAST({1} AS BIGINT){n})", FIRST, "r", None, (2, 2)),
}
AGGREGATES = frozenset(_SIMPLE)
_CONVERT = {"r": lambda e: e, "n": to.number, "t": to.text, "v": to.variant}


def aggregate(visit: Expressions, name: str, node: exp.Expr, scope: Scope) -> exp.Expr:
    """Translate a call of an aggregate or window function."""
    return _aggregate(visit, name, node, scope, None)


def ratio_to_report(visit: Expressions, window: exp.Expr, scope: Scope) -> exp.Expr:
    """``RATIO_TO_REPORT(a) OVER (...)``: a by the sum of all a."""
    given = window.this.expressions
    if len(given) != 1 or window.args.get("order"):
        raise unsupported(window.sql("snowflake"))
    value = visit(given[0].copy(), scope)
    window.set("this", exp.Anonymous(this="SUM", expressions=given))
    total = visit(window, scope)
    nonzero = template("nullif({0}, 0)", total, type=type_of(total))
    return to.arithmetic(exp.Div(), value, nonzero)


def within_group(visit: Expressions, node: exp.Expr, scope: Scope) -> exp.Expr:
    """``LISTAGG(...) WITHIN GROUP (ORDER BY ...)``."""
    inner, order = node.this, node.expression
    if not isinstance(inner, exp.Anonymous) or inner.name.upper() not in AGGREGATES:
        raise unsupported(node.sql("snowflake"))
    visit.order(order, scope)
    return _aggregate(visit, inner.name.upper(), inner, scope, order)


def _aggregate(
    visit: Expressions,
    name: str,
    node: exp.Expr,
    scope: Scope,
    order: exp.Expr | None,
) -> exp.Expr:
    spec = _SIMPLE[name]
    given = list(node.args.get("expressions") or [])
    if name == "COUNT" and (not given or isinstance(given[0], exp.Star)):
        made = template("count(*)", type=COUNT)
        made.meta["nullable"] = False
        return made
    distinct = ""
    if given and isinstance(given[0], exp.Distinct):
        distinct = "DISTINCT "
        given = [*given[0].expressions, *given[1:]]
        if "{d}" not in spec.text:
            raise unsupported(node.sql("snowflake"))
    letters = spec.convert.ljust(len(given), spec.convert[-1])
    converted = [
        _CONVERT[c](visit(e, scope, raw=True)) for c, e in zip(letters, given, strict=False)
    ]
    if name == "COUNT" and len(converted) > 1:
        converted = [_together(converted, bool(distinct))]
    low, high = spec.arguments
    if not low <= len(converted) <= high:
        raise wrong_arguments(node, len(converted))
    if name == "LISTAGG" and len(converted) == 1:
        converted.append(template("''", type=TEXT))
    made = _filled(spec, distinct, converted, order, node)
    found = _type(name, spec, converted)
    around = _average(type_of(converted[0])) if name == "AVG" else spec.around
    if around is not None and not _in_window(node):
        return template(around, made, type=found)
    made.meta["type"] = found
    made.meta["around"] = around
    if name.startswith("COUNT"):
        made.meta["nullable"] = False
    return made


def _filled(
    spec: _Aggregate,
    distinct: str,
    arguments: list[exp.Expr],
    order: exp.Expr | None,
    node: exp.Expr,
) -> Template:
    text = spec.text.replace("{d}", distinct)
    text = text.replace("{a}", ", ".join(f"{{{i}}}" for i in range(len(arguments))))
    text = text.replace("{n}", " IGNORE NULLS" if isinstance(node.parent, exp.IgnoreNulls) else "")
    extra: list[exp.Expr] = []
    if "{o1}" in text:
        if order is None or len(order.expressions) != 1:
            raise unsupported(node.sql("snowflake"))
        text = text.replace("{o1}", f"{{{len(arguments)}}}")
        extra = [order.expressions[0].this]
    elif "{o}" in text:
        text = text.replace("{o}", f" {{{len(arguments)}}}" if order is not None else "")
        extra = [order] if order is not None else []
    elif order is not None:
        raise unsupported(node.sql("snowflake"))
    return template(text, *arguments, *extra)


def _together(arguments: list[exp.Expr], distinct: bool) -> exp.Expr:
    """Several arguments of COUNT: a row counts where none is NULL."""
    holes = [f"{{{i}}}" for i in range(len(arguments))]
    nulls = " OR ".join(f"{hole} IS NULL" for hole in holes)
    value = f"({', '.join(holes)})" if distinct else "1"
    return template(f"CASE WHEN {nulls} THEN NULL ELSE {value} END", *arguments)


def _in_window(node: exp.Expr) -> bool:
    parent = node.parent
    while isinstance(parent, exp.IgnoreNulls | exp.RespectNulls | exp.WithinGroup):
        parent = parent.parent
    return isinstance(parent, exp.Window) and parent.this is not None


def _type(name: str, spec: _Aggregate, arguments: list[exp.Expr]) -> DataType | None:
    first = type_of(arguments[0]) if arguments else None
    if spec.type == FIRST:
        return first
    if name in ("SUM", "AVG", "MEDIAN", "PERCENTILE_CONT"):
        if first is None or first.name != "FIXED":
            return REAL if first is not None else None
        if name == "SUM":
            return replace(first, precision=38)
        return replace(FIXED, scale=_scale(first)) if name == "AVG" else None
    return spec.type if isinstance(spec.type, DataType) else None


def _scale(of: DataType) -> int:
    own = of.scale or 0
    return max(own, min(own + 6, 12))


def _average(of: DataType | None) -> str | None:
    if of is None or of.name != "FIXED":
        return None
    return f"CAST({{0}} AS DECIMAL(38, {_scale(of)}))"
