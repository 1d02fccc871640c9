"""Queries: FROM, joins, projections and all that is around expressions.

A tree of Snowflake's SQL is turned, in place, into one of DuckDB's: names are resolved, types are
noted where they are known, functions are replaced by what they mean. What has no meaning here is
refused with its text; nothing is dropped.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from sqlglot import exp

from flowdist.emulator.errors import (
    SqlError,
    compilation_error,
    does_not_exist,
    no_current_database,
    no_current_schema,
    unsupported,
)
from flowdist.emulator.names import shown
from flowdist.emulator.result import Result
from flowdist.emulator.sql.clauses import check, in_identifier
from flowdist.emulator.sql.conversions import OUTPUT_FORMATS
from flowdist.emulator.sql.dialect import Template, template, type_of
from flowdist.emulator.sql.functions_unsupported import is_documented
from flowdist.emulator.sql.parameters import Parameter
from flowdist.emulator.sql.scopes import Output, Scope, Source, name_of
from flowdist.emulator.sql.tables import TableInfo, missing
from flowdist.emulator.types import FIXED, TEXT, DataType

__all__ = ["Binder", "Environment", "table_of"]

_numbers = itertools.count()
"""Of the results that stand in queries: a statement may run again inside another."""


@dataclass(frozen=True)
class Environment:
    """What a translation depends on, and asks for."""

    database: str | None
    schema: str | None
    mapping: str
    """TIMESTAMP_TYPE_MAPPING."""
    formats: tuple[tuple[str, str], ...]
    """The types whose DATE_OUTPUT_FORMAT and the like the session has set, with that."""
    bind_types: tuple[DataType | None, ...]
    find: Callable[..., TableInfo | None]
    """The table of a name in parts, with a database, a schema and kinds of objects."""
    view: Callable[[TableInfo], exp.Expr]
    """The tree of a view's query."""
    call_table: Callable[[str, list[Any], dict[str, Any]], Result | None]
    """Call a registered table function or view; None where there is none of that name."""
    scalar: Callable[[str], bool]
    """Whether a function is registered under a name."""
    constant: Callable[[exp.Expr], Any]
    """The value of a constant expression."""
    variable: Callable[[str], Any]
    """The value of a session variable."""
    name_in: Callable[[str], tuple[str, ...]]
    """The parts of a name in a string."""
    piped: Callable[[int], Result]
    """The result that ``$1`` stands for after FROM."""


@dataclass
class Binder:
    """One translation; ``parameters`` are what DuckDB's ``$1``, ``$2`` ... get when it runs."""

    env: Environment
    parameters: list[Parameter] = field(default_factory=list)
    registered: dict[str, Result] = field(default_factory=dict)
    """Results to be put in place of table functions, by the name they have in the text."""
    cacheable: bool = True
    read: dict[int, TableInfo] = field(default_factory=dict)
    """The tables and views that the statement reads, by id."""
    ctes: dict[str, list[Output]] = field(default_factory=dict)
    binds: int = 0

    def __post_init__(self) -> None:
        OUTPUT_FORMATS.set(self.env.formats)

    def parameter(self, what: Parameter, data_type: DataType | None) -> Template:
        """A place for a value that is known when the statement runs."""
        if what not in self.parameters:
            self.parameters.append(what)
        return template(f"${self.parameters.index(what) + 1}", type=data_type)

    # -- queries

    def query(self, node: exp.Expr, outer: Scope | None = None) -> list[Output]:
        """Translate a query in place; what it gives."""
        saved = dict(self.ctes)
        try:
            if isinstance(node, exp.Subquery):
                return self._parenthesised(node, outer)
            if isinstance(node, exp.Values):
                return self.values(node, outer or Scope())
            check(node)
            self._with(node, outer)
            if isinstance(node, exp.Select):
                return self._select(node, outer)
            return self._set_operation(node, outer)
        finally:
            self.ctes = saved

    def _parenthesised(self, node: exp.Subquery, outer: Scope | None) -> list[Output]:
        check(node)
        self._with(node, outer)
        outputs = self.query(node.this, outer)
        self._tail(node, Scope(outer, [Source("", outputs)]))
        return outputs

    def _with(self, node: exp.Expr, outer: Scope | None) -> None:
        with_ = node.args.get("with_")
        if with_ is None:
            return
        check(with_)
        for cte in with_.expressions:
            check(cte)
            name, columns = self.alias(cte)
            inner = cte.this
            if with_.args.get("recursive") and isinstance(inner, exp.Union):
                anchor = inner.left.copy()
                probe = Binder(self.env, ctes=dict(self.ctes))
                self.ctes[name] = _renamed(probe.query(anchor, outer), columns)
            self.ctes[name] = _renamed(self.query(inner, outer), columns)

    def _set_operation(self, node: exp.Expr, outer: Scope | None) -> list[Output]:
        left = self.query(node.args["this"], outer)
        right = self.query(node.args["expression"], outer)
        if len(left) != len(right):
            raise SqlError(
                1789,
                "42601",
                "SQL compilation error:\ninvalid number of result columns for set operator "
                f"input branches, expected {len(left)}, got {len(right)} in branch {{2}}",
            )
        outputs = [
            Output(a.name, a.type if a.type == b.type else None, a.nullable or b.nullable)
            for a, b in zip(left, right, strict=True)
        ]
        self._tail(node, Scope(outer, [Source("", outputs)]))
        return outputs

    def _select(self, node: exp.Select, outer: Scope | None) -> list[Output]:
        from flowdist.emulator.sql.expressions import expressions_of
        from flowdist.emulator.sql.projections import projection

        visit = expressions_of(self)
        if node.args.get("kind"):
            raise unsupported(node.sql("snowflake"))
        scope = Scope(outer)
        if node.args.get("from_"):
            self._from(node.args["from_"], scope)
        for join in [*node.args.get("joins", []), *node.args.get("laterals", [])]:
            self._join(join, scope)
        for item in node.expressions:
            if isinstance(item, exp.Alias):
                scope.aliases[name_of(item.args["alias"])] = None
        outputs: list[Output] = []
        made: list[exp.Expr] = []
        for item in node.expressions:
            expression, found = projection(visit, item, scope)
            made.append(expression)
            outputs += found
        node.set("expressions", made)
        distinct = node.args.get("distinct")
        if distinct is not None and distinct.args.get("on"):
            raise unsupported(node.sql("snowflake"))
        for key in ("where", "having", "qualify"):
            clause = node.args.get(key)
            if clause is not None:
                clause.set("this", visit(clause.this, scope))
        if node.args.get("group"):
            self._group(node.args["group"], scope, visit)
        self._tail(node, scope)
        return outputs

    def _group(self, group: exp.Group, scope: Scope, visit: Any) -> None:
        check(group)
        group.set("expressions", [visit(e, scope, raw=True) for e in group.expressions])
        for key in ("rollup", "cube", "grouping_sets"):
            for part in group.args.get(key) or []:
                part.set("expressions", [visit(e, scope, raw=True) for e in part.expressions])

    def _tail(self, node: exp.Expr, scope: Scope) -> None:
        """ORDER BY, LIMIT and OFFSET."""
        from flowdist.emulator.sql.expressions import expressions_of

        visit = expressions_of(self)
        order = node.args.get("order")
        if order is not None:
            visit.order(order, scope)
        for key in ("limit", "offset"):
            clause = node.args.get(key)
            if clause is None:
                continue
            if isinstance(clause, exp.Fetch):
                clause = exp.Limit(expression=clause.args.get("count") or exp.Literal.number(1))
                node.set("limit", clause)
            check(clause)
            clause.set("expression", visit(clause.expression, Scope()))

    # -- sources

    def alias(self, node: exp.Expr) -> tuple[str, list[str]]:
        """The alias of an item of FROM and those of its columns, taken off the tree's own words."""
        alias = node.args.get("alias")
        if alias is None:
            return "", []
        if isinstance(alias, exp.TableAlias):
            check(alias)
            columns = [name_of(column) for column in alias.args.get("columns") or []]
            name = name_of(alias.this) if alias.this else ""
        else:
            columns, name = [], name_of(alias)
        self._put_alias(node, name, columns)
        return name, columns

    def _put_alias(self, node: exp.Expr, name: str, columns: Iterable[str] = ()) -> None:
        if name or columns:
            made = exp.TableAlias(
                this=exp.to_identifier(name, quoted=True) if name else None,
                columns=[exp.to_identifier(column, quoted=True) for column in columns],
            )
            node.set("alias", made)

    def _from(self, node: exp.From, scope: Scope) -> None:
        item, source = self.source(node.this, scope)
        node.set("this", item)
        scope.sources.append(source)
        for join in item.args.get("joins") or []:
            self._join(join, scope)

    def _join(self, join: exp.Expr, scope: Scope) -> None:
        from flowdist.emulator.sql.expressions import expressions_of

        if isinstance(join, exp.Lateral):
            raise unsupported(join.sql("snowflake"))
        check(join)
        if join.args.get("method") not in (None, "", "NATURAL") or join.args.get("kind") not in (
            None,
            "",
            "INNER",
            "OUTER",
            "CROSS",
        ):
            raise unsupported(join.sql("snowflake"))
        item, source = self.source(join.this, scope)
        join.set("this", item)
        using = [name_of(column) for column in join.args.get("using") or []]
        if join.args.get("method"):
            using = [o.name for o in source.outputs if scope.find(o.name, None)]
        source.merged = set(using)
        join.set("using", [exp.to_identifier(name, quoted=True) for name in using] or None)
        if join.args.get("method"):
            join.set("method", None)
        scope.sources.append(source)
        if join.args.get("on") is not None:
            join.set("on", expressions_of(self)(join.args["on"], scope))

    def source(self, node: exp.Expr, scope: Scope) -> tuple[exp.Expr, Source]:
        """Translate an item of FROM: what stands in its place, and what it gives."""
        if isinstance(node, exp.Subquery):
            name, columns = self.alias(node)
            if isinstance(node.this, exp.Table):
                raise unsupported(node.sql("snowflake"))
            outputs = _renamed(self._parenthesised(node, scope.parent), columns)
            return node, Source(name, outputs)
        if isinstance(node, exp.Values):
            name, columns = self.alias(node)
            outputs = _renamed(self.values(node, scope), columns)
            self._put_alias(node, name or "VALUES", [o.name for o in outputs])
            return node, Source(name, outputs)
        if isinstance(node, exp.Lateral):
            check(node)
            return self._lateral(node, scope)
        if not isinstance(node, exp.Table):
            raise unsupported(node.sql("snowflake"))
        check(node)
        if isinstance(node.this, exp.Anonymous | exp.Dot) and in_identifier(node.this) is None:
            return self._function(node, node.this, scope)
        if isinstance(node.this, exp.Parameter):
            return self._piped(node)
        return self._table(node, scope)

    def _lateral(self, node: exp.Lateral, scope: Scope) -> tuple[exp.Expr, Source]:
        inner = node.this
        if isinstance(inner, exp.Subquery):
            name, columns = self.alias(node)
            outputs = _renamed(self.query(inner.this, scope), columns)
            return node, Source(name, outputs)
        if isinstance(inner, exp.Anonymous):
            return self._function(node, inner, scope)
        raise unsupported(node.sql("snowflake"))

    def values(self, node: exp.Values, scope: Scope) -> list[Output]:
        """VALUES: its columns are COLUMN1, COLUMN2 ..."""
        from flowdist.emulator.sql.expressions import expressions_of

        check(node)
        visit = expressions_of(self)
        types: list[DataType | None] = []
        for number, row in enumerate(node.expressions):
            row.set("expressions", [visit(e, scope, raw=True) for e in row.expressions])
            found = [type_of(e) for e in row.expressions]
            if number and len(found) != len(types):
                raise compilation_error("Values in rows of VALUES differ in number")
            same = zip(types, found, strict=True) if number else zip(found, found, strict=True)
            types = [a if a == b else _wider(a, b) for a, b in same]
        return [Output(f"COLUMN{i + 1}", t) for i, t in enumerate(types)]

    def _table(self, node: exp.Table, scope: Scope) -> tuple[exp.Expr, Source]:
        alias, columns = self.alias(node)
        parts = self.table_parts(node)
        if len(parts) == 1 and parts[0] in self.ctes:
            outputs = _renamed(self.ctes[parts[0]], columns)
            node.set("this", exp.to_identifier(parts[0], quoted=True))
            return node, Source(alias or parts[0], outputs)
        info = self.env.find(parts, self.env.database, self.env.schema)
        if info is None:
            return self._named_function(node, parts, alias, columns, scope)
        if info.kind == "VIEW":
            return self._view(info, alias, columns)
        self.read[info.id] = info
        outputs = [Output(c.name, c.type, c.nullable) for c in info.columns]
        name = alias or info.name.name
        made = table_of(info)
        self._put_alias(made, name, columns)
        made.set("joins", node.args.get("joins"))
        return made, Source(name, _renamed(outputs, columns))

    def _view(self, info: TableInfo, alias: str, columns: list[str]) -> tuple[exp.Expr, Source]:
        """A view stands for its query, which is resolved where the view is."""
        env = replace(self.env, database=info.name.database, schema=info.name.schema)
        inner = Binder(env, self.parameters, self.registered)
        self.read[info.id] = info
        tree = self.env.view(info)
        inner.query(tree)
        self.cacheable = self.cacheable and inner.cacheable
        own = [c.name for c in info.columns]
        node = exp.Subquery(this=tree)
        name = alias or info.name.name
        self._put_alias(node, name, columns or own)
        outputs = [Output(c.name, c.type, c.nullable) for c in info.columns]
        return node, Source(name, _renamed(outputs, columns))

    def sequence(self, parts: tuple[str, ...]) -> exp.Expr:
        """``seq.NEXTVAL``."""
        info = self.env.find(parts, self.env.database, self.env.schema, "SEQUENCE")
        if info is None:
            raise does_not_exist("sequence", ".".join(parts))
        text = info.physical.replace("'", "''").replace("{", "{{").replace("}", "}}")
        return template(f"nextval('{text}')", type=FIXED)

    def _piped(self, node: exp.Table) -> tuple[exp.Expr, Source]:
        if not isinstance(node.this.this, exp.Literal):
            raise unsupported(node.sql("snowflake"))
        alias, columns = self.alias(node)
        made, outputs = self.register(self.env.piped(int(node.this.this.name)))
        name = alias or "$1"
        self._put_alias(made, name, columns or [o.name for o in outputs])
        return made, Source(name, _renamed(outputs, columns))

    def table_parts(self, node: exp.Table) -> tuple[str, ...]:
        """The parts of the name of a table, folded; also those in IDENTIFIER('...')."""
        inner = node.this
        given = in_identifier(inner)
        if given is not None:
            self.cacheable = self.cacheable and isinstance(given, exp.Literal)
            return self.env.name_in(str(self.env.constant(given)))
        parts = [node.args.get("catalog"), node.args.get("db"), inner]
        if not isinstance(inner, exp.Identifier):
            raise unsupported(node.sql("snowflake"))
        found = [name_of(part) for part in parts if isinstance(part, exp.Identifier)]
        if len(found) > 1 and not found[-2]:
            found[-2] = "PUBLIC"  # db..table
        return tuple(found)

    # -- table functions

    def _function(
        self, node: exp.Expr, call: exp.Anonymous | exp.Dot, scope: Scope
    ) -> tuple[exp.Expr, Source]:
        from flowdist.emulator.sql.tablefunctions import built_in

        name, columns = self.alias(node)
        inner: exp.Expr = call
        if isinstance(call, exp.Anonymous) and call.name.upper() == "TABLE":
            (inner,) = call.expressions
        made = built_in(self, inner, scope)
        if made is None:
            prefix, inner = _dotted(inner)
            if not isinstance(inner, exp.Anonymous):
                raise unsupported(node.sql("snowflake"))
            arguments, named = self.arguments(inner)
            made = self._called((*prefix, inner.name.upper()), arguments, named, node)
        tree, outputs = made
        name = name or "$f"
        self._put_alias(tree, name, columns or [o.name for o in outputs])
        return tree, Source(name, _renamed(outputs, columns))

    def arguments(self, call: exp.Anonymous) -> tuple[list[Any], dict[str, Any]]:
        """The values of the arguments of a table function: by position, and by name."""
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for argument in call.expressions:
            if isinstance(argument, exp.Kwarg):
                named[argument.name.lower()] = self.env.constant(argument.expression)
            else:
                positional.append(self.env.constant(argument))
        return positional, named

    def _called(
        self,
        parts: tuple[str, ...],
        arguments: list[Any],
        named: dict[str, Any],
        node: exp.Expr,
    ) -> tuple[exp.Expr, list[Output]]:
        """Call a registered function, now: what it gives becomes a table of its own."""
        self.cacheable = False
        name = ".".join(parts)
        # A method, as in my_job!SPCS_GET_LOGS(), is called by its name alone (see rewrite.py).
        candidates = [name, ".".join(parts[-2:]), parts[-1].replace("METHOD$", "!")]
        for candidate in candidates:
            result = self.env.call_table(candidate, arguments, named)
            if result is not None:
                return self.register(result)
        if is_documented(name):
            raise unsupported(f"TABLE({name}(...))")
        raise SqlError(
            2141, "42601", f"SQL compilation error:\nUnknown user-defined table function {name}"
        )

    def register(self, result: Result) -> tuple[exp.Expr, list[Output]]:
        """A source that gives a result."""
        self.cacheable = False
        name = f"$result{next(_numbers)}"
        self.registered[name] = result
        outputs = [Output(c.name, c.type, c.nullable) for c in result.columns]
        table = exp.Table(this=exp.to_identifier(name, quoted=True))
        return table, outputs

    def _named_function(
        self,
        node: exp.Table,
        parts: tuple[str, ...],
        alias: str,
        columns: list[str],
        scope: Scope,
    ) -> tuple[exp.Expr, Source]:
        """A view of the emulator's own, as INFORMATION_SCHEMA.TABLES."""
        candidates = [".".join(parts), ".".join(parts[-2:])] if len(parts) > 1 else []
        for candidate in candidates:
            database = parts[0] if len(parts) == 3 else None
            named = {"database": database} if database else {}
            result = self.env.call_table(candidate, [], named)
            if result is not None:
                self.cacheable = False
                made, outputs = self.register(result)
                name = alias or parts[-1]
                self._put_alias(made, name, columns or [o.name for o in outputs])
                return made, Source(name, _renamed(outputs, columns))
        if len(parts) < 3 and self.env.database is None:
            raise no_current_database("SELECT")
        if len(parts) < 2 and self.env.schema is None:
            raise no_current_schema("SELECT")
        raise missing(".".join(shown(part) for part in parts))


def table_of(info: TableInfo) -> exp.Table:
    """The DuckDB table of a table."""
    made = exp.to_table(info.physical, dialect="duckdb")
    assert isinstance(made, exp.Table)
    return made


def _dotted(node: exp.Expr) -> tuple[tuple[str, ...], exp.Expr]:
    """What is before the last dot, and what is after it."""
    prefix: list[str] = []
    while isinstance(node, exp.Dot):
        left = node.this
        prefix += (
            [name_of(part) for part in left.flatten()]
            if isinstance(left, exp.Dot)
            else [name_of(left)]
        )
        node = node.expression
    return tuple(prefix), node


def _renamed(outputs: list[Output], columns: list[str]) -> list[Output]:
    if not columns:
        return outputs
    if len(columns) > len(outputs):
        raise compilation_error("Column aliases are more than there are columns")
    return [
        replace(output, name=columns[i]) if i < len(columns) else output
        for i, output in enumerate(outputs)
    ]


def _wider(a: DataType | None, b: DataType | None) -> DataType | None:
    if a is None or b is None:
        return a or b
    if a.name == b.name == "FIXED":
        scale = max(a.scale or 0, b.scale or 0)
        return replace(FIXED, scale=scale)
    if a.name == b.name == "TEXT":
        return replace(TEXT, length=max(a.length or 0, b.length or 0))
    return a if a.name == b.name else None
