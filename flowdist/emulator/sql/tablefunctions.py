"""Table functions of SQL itself: FLATTEN, GENERATOR, SPLIT_TO_TABLE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlglot import exp

from flowdist.emulator.errors import unsupported
from flowdist.emulator.sql import conversions as to
from flowdist.emulator.sql.dialect import duck, template
from flowdist.emulator.sql.scopes import GENERATED, Output, Scope
from flowdist.emulator.types import FIXED, TEXT, VARIANT

if TYPE_CHECKING:
    from flowdist.emulator.sql.binder import Binder

__all__ = ["built_in"]

Made = tuple[exp.Expr, list[Output]]

_FLATTENED = [
    Output("SEQ", FIXED),
    Output("KEY", TEXT),
    Output("PATH", TEXT),
    Output("INDEX", FIXED),
    Output("VALUE", VARIANT),
    Output("THIS", VARIANT),
]


def built_in(binder: Binder, call: exp.Expr, scope: Scope) -> Made | None:
    """The source that a table function of SQL is; None where it is none of these."""
    if not isinstance(call, exp.Anonymous):
        return None
    name = call.name.upper()
    if name == "FLATTEN":
        return _flatten(binder, call, scope)
    if name == "GENERATOR":
        return _generator(binder, call)
    if name == "SPLIT_TO_TABLE":
        return _split(binder, call, scope)
    return None


def _named(call: exp.Expr) -> dict[str, exp.Expr]:
    found = {}
    for i, argument in enumerate(call.expressions):
        if isinstance(argument, exp.Kwarg):
            found[argument.name.upper()] = argument.expression
        else:
            found[str(i)] = argument
    return found


def _flatten(binder: Binder, call: exp.Expr, scope: Scope) -> Made:
    from flowdist.emulator.sql.expressions import expressions_of

    named = _named(call)
    subject = named.pop("INPUT", None) or named.pop("0", None)
    outer = named.pop("OUTER", None)
    path = named.pop("PATH", None)
    if subject is None or named or (outer is not None and not isinstance(outer, exp.Boolean)):
        raise unsupported(call.sql("snowflake"))
    made = to.variant(expressions_of(binder)(subject, scope))
    if path is not None:
        if not isinstance(path, exp.Literal):
            raise unsupported(call.sql("snowflake"))
        made = template(
            "json_extract({0}, {1})", made, template("'$." + path.name.replace("'", "''") + "'")
        )
    text = duck(template("{0}", made))
    members = (
        f"SELECT CASE WHEN json_type({text}) = 'OBJECT' THEN e.key END AS key, "
        f"CASE WHEN json_type({text}) = 'OBJECT' THEN e.key ELSE '[' || e.key || ']' END AS path, "
        f"CASE WHEN json_type({text}) = 'ARRAY' THEN CAST(e.key AS DECIMAL(38, 0)) END AS i, "
        f"e.value AS value FROM json_each({text}) AS e "
        f"WHERE json_type({text}) IN ('ARRAY', 'OBJECT')"
    )
    if outer is not None and outer.this:
        members = (
            f"{members} UNION ALL SELECT NULL, NULL, NULL, NULL WHERE {text} IS NULL "
            f"OR json_type({text}) NOT IN ('ARRAY', 'OBJECT') OR {text} IN ('[]', '{{}}')"
        )
    query = (
        f"LATERAL (SELECT CAST(1 AS DECIMAL(38, 0)), m.key, m.path, m.i, m.value, {text} "
        f"FROM ({members}) AS m)"
    )
    return _source(query), list(_FLATTENED)


def _generator(binder: Binder, call: exp.Expr) -> Made:
    named = _named(call)
    count = named.pop("ROWCOUNT", None) or named.pop("0", None)
    if count is None or named:
        raise unsupported(call.sql("snowflake"))
    return _source(f"range({int(binder.env.constant(count))})"), [Output(GENERATED)]


def _split(binder: Binder, call: exp.Expr, scope: Scope) -> Made:
    from flowdist.emulator.sql.expressions import expressions_of

    if len(call.expressions) != 2:
        raise unsupported(call.sql("snowflake"))
    a, b = (
        duck(template("{0}", to.text(expressions_of(binder)(e, scope)))) for e in call.expressions
    )
    parts = f"string_split({a}, {b})"
    query = (
        f"LATERAL (SELECT CAST(1 AS DECIMAL(38, 0)), CAST(i AS DECIMAL(38, 0)), {parts}[i] "
        f"FROM range(1, len({parts}) + 1) AS r(i))"
    )
    return _source(query), [Output("SEQ", FIXED), Output("INDEX", FIXED), Output("VALUE", TEXT)]


def _source(text: str) -> exp.Expr:
    made = template(text.replace("{", "{{").replace("}", "}}"))
    return exp.Table(this=made)
