"""Expressions: names, operators, casts and calls, from Snowflake's meaning to DuckDB's."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, cast

from sqlglot import exp

from flowdist.emulator.errors import SqlError, compilation_error, unsupported
from flowdist.emulator.sql import conversions as to
from flowdist.emulator.sql import datatypes
from flowdist.emulator.sql.clauses import in_identifier
from flowdist.emulator.sql.dialect import template, type_of, typed
from flowdist.emulator.sql.parameters import Bind, Now
from flowdist.emulator.sql.scopes import Scope, invalid_identifier, name_of
from flowdist.emulator.types import BOOLEAN, FIXED, LTZ, REAL, TEXT, VARIANT, DataType

if TYPE_CHECKING:
    from flowdist.emulator.sql.binder import Binder

__all__ = ["Expressions", "as_text", "column", "escaped", "expressions_of", "literal"]

_COMPARISONS = (
    exp.EQ,
    exp.NEQ,
    exp.GT,
    exp.GTE,
    exp.LT,
    exp.LTE,
    exp.NullSafeEQ,
    exp.NullSafeNEQ,
)
_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod)
_PLAIN: dict[type[exp.Expr], DataType] = {
    exp.And: BOOLEAN,
    exp.Or: BOOLEAN,
    exp.Not: BOOLEAN,
    exp.Is: BOOLEAN,
}
"""Nodes that mean the same in both, with the type they have."""
_UNITS = ("YEAR", "QUARTER", "MONTH", "WEEK", "DAY", "HOUR", "MINUTE", "SECOND", "MILLISECOND")


class Expressions:
    """Translates expressions for a binder; call it with an expression and the scope it is in."""

    def __init__(self, binder: Binder) -> None:
        self.binder = binder

    def __call__(self, node: exp.Expr, scope: Scope, raw: bool = False) -> exp.Expr:
        """The expression in DuckDB's terms.

        A TIMESTAMP_TZ gives its instant, unless it is wanted `raw`.
        """
        made = self._visit(node, scope)
        found = type_of(made)
        if not raw and found is not None and found.name == "TIMESTAMP_TZ":
            return template("{0}.t", made, type=LTZ)
        return made

    # -- all nodes

    def _visit(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        method = self._METHODS.get(type(node))
        if method is not None:
            return cast("exp.Expr", method(self, node, scope))
        if isinstance(node, _COMPARISONS):
            return self._comparison(node, scope)
        if isinstance(node, _ARITHMETIC):
            return self._arithmetic(node, scope)
        if isinstance(node, exp.Query):
            return self._subquery(node, scope)
        if type(node) in _PLAIN:
            return typed(self._children(node, scope), _PLAIN[type(node)])
        raise unsupported(node.sql("snowflake"))

    def _children(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        for key, value in list(node.args.items()):
            if isinstance(value, exp.Expr):
                node.set(key, self(value, scope))
            elif isinstance(value, list):
                made = [self(v, scope) if isinstance(v, exp.Expr) else v for v in value]
                node.set(key, made)
        return node

    def order(self, order: exp.Expr, scope: Scope) -> exp.Expr:
        """ORDER BY; positions and aliases stay what they are."""
        for ordered in order.expressions:
            if not isinstance(ordered, exp.Ordered) or ordered.args.get("with_fill"):
                raise unsupported(ordered.sql("snowflake"))
            ordered.set("this", self(ordered.this, scope, raw=True))
        return order

    # -- names and values

    def _column(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        if isinstance(node.this, exp.Star):
            raise unsupported(node.sql("snowflake"))
        table = name_of(node.args["table"]) if node.args.get("table") else None
        if isinstance(node.this, exp.Parameter):
            return self._numbered(int(node.this.name), table, scope, node)
        name = name_of(node.this)
        if table is not None and name == "NEXTVAL":
            return self._nextval(node, scope)
        found = scope.find(name, table)
        if found is None:
            known, alias_type = scope.alias(name) if table is None else (False, None)
            if not known:
                raise invalid_identifier(node)
            return typed(column(name, None), alias_type)
        source, output = found
        merged = any(name in s.merged for s in scope.sources)
        qualifier = source.name if source.name and not (table is None and merged) else None
        made = typed(column(name, qualifier), output.type)
        made.meta["nullable"] = output.nullable
        return made

    def _nextval(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        parts = tuple(
            name_of(node.args[key]) for key in ("catalog", "db", "table") if node.args.get(key)
        )
        return self.binder.sequence(parts)

    def _numbered(self, number: int, table: str | None, scope: Scope, node: exp.Expr) -> exp.Expr:
        """``$1``: a column by its position."""
        visible = list(scope.visible(table))
        if not 1 <= number <= len(visible):
            raise invalid_identifier(node)
        source, output = visible[number - 1]
        return typed(column(output.name, source.name or None), output.type)

    def _parameter(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        if isinstance(node.this, exp.Literal):
            return self._numbered(int(node.this.name), None, scope, node)
        self.binder.cacheable = False
        return literal(self.binder.env.variable(node.name.upper()))

    def _placeholder(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        if node.this is None or node.this == "?":
            position = int(node.meta.get("position", self.binder.binds))
            self.binder.binds += 1
        elif str(node.name).isdigit():
            position = int(node.name) - 1
        else:
            raise unsupported(f":{node.name}")
        types = self.binder.env.bind_types
        if position >= len(types):
            raise SqlError(
                2049, "42601", f"SQL compilation error:\nBind variable {node.sql()} not set."
            )
        found = types[position]
        made = self.binder.parameter(Bind(position), found)
        if found is not None and found.name in ("TIMESTAMP_LTZ", "TIMESTAMP_TZ"):
            return template(f"CAST({{0}} AS {datatypes.storage(found)})", made, type=found)
        return made

    def _literal(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        if node.args.get("is_string"):
            text = template(escaped(_quoted(node.name)), type=replace(TEXT, length=len(node.name)))
            text.meta["literal"] = node.name
            return text
        name = node.name
        if "e" in name.lower():
            return typed(node, REAL)
        digits, _, fraction = name.partition(".")
        precision = max(1, len(digits.lstrip("0")) + len(fraction))
        made = typed(node, replace(FIXED, precision=min(38, precision), scale=len(fraction)))
        made.meta["literal"] = Decimal(name) if fraction else int(digits or 0)
        return made

    def _raw_string(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        return self._literal(exp.Literal.string(node.name), scope)

    def _binary(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        """``X'0a'``."""
        digits = str(node.this)
        if len(digits) % 2 or not set(digits) <= set("0123456789abcdefABCDEF"):
            raise compilation_error(f"invalid binary literal [{node.sql('snowflake')}]")
        found = replace(datatypes.BINARY, length=max(1, len(digits) // 2))
        return template(f"unhex('{digits}')", type=found)

    def _null(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        return typed(node, None)

    def _boolean(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        return typed(node, BOOLEAN)

    def _paren(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        node.set("this", self(node.this, scope, raw=True))
        return typed(node, type_of(node.this))

    def _now(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        return self.now()

    def now(self) -> exp.Expr:
        """The time of the statement, as a TIMESTAMP_LTZ."""
        return template("CAST({0} AS TIMESTAMPTZ)", self.binder.parameter(Now(), LTZ), type=LTZ)

    def _today(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        return template("CAST({0} AS DATE)", self.now(), type=datatypes.DATE)

    def _time_of_day(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        return template("CAST(CAST({0} AS TIMESTAMP) AS TIME)", self.now(), type=datatypes.TIME)

    def row(self, scope: Scope) -> list[exp.Expr]:
        """The names and values of a row, as OBJECT_CONSTRUCT(*) takes them."""
        return [
            made
            for source, output in scope.visible()
            for made in (
                literal(output.name),
                typed(column(output.name, source.name or None), output.type),
            )
        ]

    # -- operators

    def _comparison(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        given = node.args["expression"]
        if isinstance(node, exp.NEQ) and isinstance(given, exp.All):
            # What the parser makes of NOT IN (SELECT ...).
            inside = exp.In(this=node.this, query=given.this)
            return typed(exp.Not(this=self._in(inside, scope)), BOOLEAN)
        left, right = self(node.args["this"], scope), self(node.args["expression"], scope)
        left, right = to.comparable(left, right)
        node.set("this", left)
        node.set("expression", right)
        return typed(node, BOOLEAN)

    def _arithmetic(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        left = self(node.args["this"], scope, raw=True)
        right = self(node.args["expression"], scope, raw=True)
        return to.arithmetic(node, left, right)

    def _negated(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        node.set("this", to.number(self(node.this, scope)))
        made = typed(node, type_of(node.this))
        value = node.this.meta.get("literal")
        if isinstance(value, int | Decimal):
            made.meta["literal"] = -value
        return made

    def _concatenated(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        parts = [
            to.text(self(part, scope, raw=True))
            for part in (node.args["this"], node.args["expression"])
        ]
        return template("({0} || {1})", *parts, type=TEXT)

    def _adjacent(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        return self._literal(exp.Literal.string("".join(e.name for e in node.expressions)), scope)

    def _like(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        return self._liked(node, [], scope)

    def _escaped_like(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        if not isinstance(node.this, exp.Like | exp.ILike):
            raise unsupported(node.sql("snowflake"))
        return self._liked(node.this, [node.args["expression"]], scope)

    def _liked(self, like: exp.Expr, escape: list[exp.Expr], scope: Scope) -> exp.Expr:
        """LIKE and ILIKE, with one pattern or ANY or ALL of several."""
        given = like.args["expression"]
        patterns = [given]
        if isinstance(given, exp.Any | exp.All):
            many = given.this
            if not isinstance(many, exp.Tuple | exp.Paren):
                raise unsupported(like.sql("snowflake"))
            patterns = many.expressions if isinstance(many, exp.Tuple) else [many.this]
        parts = [to.text(self(e, scope)) for e in (like.this, *escape, *patterns)]
        word = "ILIKE" if isinstance(like, exp.ILike) else "LIKE"
        first, end = (2, " ESCAPE {1}") if escape else (1, "")
        made = [f"{{0}} {word} {{{first + i}}}{end}" for i in range(len(patterns))]
        return template(
            f"({(' AND ' if isinstance(given, exp.All) else ' OR ').join(made)})",
            *parts,
            type=BOOLEAN,
        )

    def _matches(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        parts = [to.text(self(e, scope)) for e in (node.this, node.args["expression"])]
        return template("regexp_full_match({0}, {1}, 's')", *parts, type=BOOLEAN)

    def _between(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        subject = self(node.this, scope)
        low = self(node.args["low"], scope)
        high = self(node.args["high"], scope)
        subject, low = to.comparable(subject, low)
        subject, high = to.comparable(subject, high)
        return template("({0} BETWEEN {1} AND {2})", subject, low, high, type=BOOLEAN)

    def _in(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        subject = self(node.this, scope)
        query = node.args.get("query")
        if query is not None:
            inner = query.this if isinstance(query, exp.Subquery) else query
            self.binder.query(inner, scope)
            node.set("this", subject)
            node.set("query", inner.subquery(copy=False))
            return typed(node, BOOLEAN)
        if node.args.get("unnest") or node.args.get("field"):
            raise unsupported(node.sql("snowflake"))
        members = [self(e, scope) for e in node.expressions]
        if not isinstance(node.this, exp.Tuple):
            pairs = [to.comparable(subject, member) for member in members]
            subject = pairs[0][0] if pairs else subject
            members = [member for _, member in pairs]
        node.set("this", subject)
        node.set("expressions", members)
        return typed(node, BOOLEAN)

    def _tuple(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        node.set("expressions", [self(e, scope) for e in node.expressions])
        return node

    def _subquery(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        outputs = self.binder.query(node, scope)
        made = node if isinstance(node, exp.Subquery) else exp.Subquery(this=node)
        return typed(made, outputs[0].type if len(outputs) == 1 else None)

    def _exists(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        inner = node.this.this if isinstance(node.this, exp.Subquery) else node.this
        self.binder.query(inner, scope)
        node.set("this", inner)
        return typed(node, BOOLEAN)

    def _case(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        subject = node.args.get("this")
        made_subject = self(subject, scope) if subject is not None else None
        values = []
        for branch in node.args["ifs"]:
            condition = self(branch.this, scope)
            if made_subject is not None:
                _, condition = to.comparable(made_subject, condition)
            branch.set("this", condition)
            values.append(self(branch.args["true"], scope, raw=True))
        default = node.args.get("default")
        if default is not None:
            values.append(self(default, scope, raw=True))
        values, found = to.unified(values)
        for branch, value in zip(node.args["ifs"], values, strict=False):
            branch.set("true", value)
        if default is not None:
            node.set("default", values[-1])
        if made_subject is not None:
            node.set("this", made_subject)
        return typed(node, found)

    def _if(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        raise unsupported(node.sql("snowflake"))

    # -- casts, paths, intervals

    def _cast(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        target = datatypes.from_ast(node.args["to"], self.binder.env.mapping)
        if node.args.get("format"):
            raise unsupported(node.sql("snowflake"))
        made = self(node.this, scope, raw=True)
        return to.cast(made, target, safe=isinstance(node, exp.TryCast))

    def _path(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        """``v:a.b[0]``."""
        made = to.variant(self(node.this, scope))
        path = "$"
        for part in node.args["expression"].expressions[1:]:
            if isinstance(part, exp.JSONPathKey) and isinstance(part.this, str):
                path += '."' + part.this.replace('"', '\\"') + '"'
            elif isinstance(part, exp.JSONPathSubscript) and isinstance(part.this, int):
                path += f"[{part.this}]"
            elif isinstance(part, exp.JSONPathSubscript) and isinstance(part.this, str):
                path += f'."{part.this}"'
            else:
                raise unsupported(node.sql("snowflake"))
        return template(f"json_extract({{0}}, {escaped(_quoted(path))})", made, type=VARIANT)

    def _bracket(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        """``v['a']`` and ``v[0]``."""
        made = to.variant(self(node.this, scope))
        if len(node.expressions) != 1:
            raise unsupported(node.sql("snowflake"))
        return to.element(made, self(node.expressions[0], scope))

    def _array(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        from flowdist.emulator.sql.functions import call

        return call(self, "ARRAY_CONSTRUCT", [self(e, scope) for e in node.expressions], node)

    def _object(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        from flowdist.emulator.sql.functions import call

        parts: list[exp.Expr] = []
        for pair in node.expressions:
            parts.append(self._literal(exp.Literal.string(pair.this.name), scope))
            parts.append(self(pair.expression, scope))
        return call(self, "OBJECT_CONSTRUCT_KEEP_NULL", parts, node)

    def _interval(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        unit = node.args.get("unit")
        word = unit.name.upper().removesuffix("S") if unit is not None else ""
        if word not in _UNITS or not isinstance(node.this, exp.Literal):
            raise unsupported(node.sql("snowflake"))
        return template(f"INTERVAL {_quoted(node.this.name)} {word}")

    def _extract(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        from flowdist.emulator.sql.functions import call

        unit = self._literal(exp.Literal.string(node.this.name), scope)
        return call(self, "DATE_PART", [unit, self(node.args["expression"], scope, raw=True)], node)

    def _position(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        parts = [to.text(self(e, scope)) for e in (node.this, node.args["substr"])]
        return template("strpos({0}, {1})", *parts, type=FIXED)

    def _substring(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        from flowdist.emulator.sql.functions import call

        parts = [node.this, node.args.get("start"), node.args.get("length")]
        return call(self, "SUBSTR", [self(p, scope) for p in parts if p is not None], node)

    def _trim(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        from flowdist.emulator.sql.functions import call

        name = {"LEADING": "LTRIM", "TRAILING": "RTRIM"}.get(
            node.args.get("position") or "", "TRIM"
        )
        parts = [node.this, node.args.get("expression")]
        return call(self, name, [self(p, scope) for p in parts if p is not None], node)

    # -- calls

    def _called(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        if in_identifier(node) is not None:
            return self._identified(node, scope)
        from flowdist.emulator.sql.functions import visit_call

        return visit_call(self, node, scope)

    def _identified(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        """IDENTIFIER('name') as a column."""
        env, given = self.binder.env, in_identifier(node)
        assert given is not None
        self.binder.cacheable = False
        *above, name = env.name_in(str(env.constant(given)))
        column = exp.Column(this=exp.to_identifier(name, quoted=True))
        if above:
            column.set("table", exp.to_identifier(above[-1], quoted=True))
        return self._column(column, scope)

    def _nulls(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        """IGNORE NULLS, which the call that it belongs to has looked for."""
        return self._visit(node.this, scope)

    def _window(self, node: exp.Expr, scope: Scope) -> exp.Expr:
        if node.args.get("first") or node.args.get("alias"):
            raise unsupported(node.sql("snowflake"))
        if isinstance(node.this, exp.Anonymous) and node.this.name.upper() == "RATIO_TO_REPORT":
            from flowdist.emulator.sql.functions_aggregate import ratio_to_report

            return ratio_to_report(self, node, scope)
        made = self._visit(node.this, scope)
        node.set("this", made)
        node.set("partition_by", [self(e, scope) for e in node.args.get("partition_by") or []])
        if node.args.get("order"):
            self.order(node.args["order"], scope)
        return to.windowed(node, made)

    _METHODS: ClassVar[dict[type, Any]] = {
        exp.Column: _column,
        exp.Parameter: _parameter,
        exp.Placeholder: _placeholder,
        exp.Literal: _literal,
        exp.RawString: _raw_string,
        exp.HexString: _binary,
        exp.Null: _null,
        exp.Boolean: _boolean,
        exp.Paren: _paren,
        exp.CurrentTimestamp: _now,
        exp.CurrentDate: _today,
        exp.CurrentTime: _time_of_day,
        exp.Neg: _negated,
        exp.DPipe: _concatenated,
        exp.Concat: _adjacent,
        exp.Like: _like,
        exp.ILike: _like,
        exp.Escape: _escaped_like,
        exp.RegexpLike: _matches,
        exp.Between: _between,
        exp.In: _in,
        exp.Tuple: _tuple,
        exp.Exists: _exists,
        exp.Case: _case,
        exp.If: _if,
        exp.Cast: _cast,
        exp.TryCast: _cast,
        exp.JSONExtract: _path,
        exp.Bracket: _bracket,
        exp.Array: _array,
        exp.Struct: _object,
        exp.Interval: _interval,
        exp.Extract: _extract,
        exp.StrPosition: _position,
        exp.Substring: _substring,
        exp.Trim: _trim,
        exp.Anonymous: _called,
        exp.DynamicIdentifier: _called,
        exp.CurrentUser: _called,
        exp.CurrentRole: _called,
        exp.Dot: _called,
        exp.WithinGroup: _called,
        exp.IgnoreNulls: _nulls,
        exp.RespectNulls: _nulls,
        exp.Window: _window,
    }


def expressions_of(binder: Binder) -> Expressions:
    """The translator of a binder's expressions."""
    return Expressions(binder)


def literal(value: Any) -> exp.Expr:
    """A Python value as an expression."""
    found = datatypes.from_value(value)
    if value is None:
        return typed(exp.Null(), None)
    if isinstance(value, bool):
        return typed(exp.Boolean(this=value), BOOLEAN)
    if isinstance(value, int | Decimal | float):
        made = template(str(value) if not isinstance(value, float) else repr(value), type=found)
        made.meta["literal"] = value
        return template("({0})", made, type=found) if value < 0 else made
    text = as_text(value)
    made = template(escaped(_quoted(text)), type=found if isinstance(value, str) else TEXT)
    made.meta["literal"] = text
    return made if isinstance(value, str) or found is None else to.cast(made, found)


def as_text(value: Any) -> str:
    """A value as a cast of text reads it; a TIMESTAMP_TZ is a dict, as in results."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return str(value["t"].astimezone(timezone(timedelta(minutes=value["o"]))))
    return str(value)


def column(name: str, table: str | None) -> exp.Column:
    """A column by its name and, where it is given, that of its source."""
    made = exp.Column(this=exp.to_identifier(name, quoted=True))
    if table is not None:
        made.set("table", exp.to_identifier(table, quoted=True))
    return made


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def escaped(text: str) -> str:
    """Text that is to stand in a template as it is."""
    return text.replace("{", "{{").replace("}", "}}")
