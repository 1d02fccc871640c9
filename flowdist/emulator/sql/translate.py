"""From the text of a statement of Snowflake's SQL to what DuckDB has to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sqlglot import exp

from flowdist.emulator.errors import SqlError, compilation_error, unsupported
from flowdist.emulator.result import Kind, Result
from flowdist.emulator.sql import conversions as to
from flowdist.emulator.sql import (
    functions_aggregate,
    functions_json,
    functions_moments,
)
from flowdist.emulator.sql.binder import Binder, Environment
from flowdist.emulator.sql.clauses import check
from flowdist.emulator.sql.dialect import duck, parse, template, typed
from flowdist.emulator.sql.expressions import Expressions
from flowdist.emulator.sql.parameters import Parameter
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.sql.rewrite import rewrite
from flowdist.emulator.sql.scopes import Output, Scope, Source, invalid_identifier, name_of
from flowdist.emulator.sql.tables import ColumnInfo, TableInfo, missing
from flowdist.emulator.types import FIXED, DataType

__all__ = ["Plan", "insert_query", "query_outputs", "translate", "translate_expression"]

REGISTERED = (functions_aggregate, functions_json, functions_moments)
"""The modules whose functions are known once they are imported."""


@dataclass(frozen=True)
class Plan:
    """What DuckDB has to run, and what the engine has to know about it.

    ``target`` is the table that DML changes, by ``kind``; ``outputs`` are the columns of a query.
    ``affected`` is a query of the rows that an UPDATE, DELETE or MERGE would change or remove, with
    the same parameters, each with its rowid as ``$id``; of a hybrid table it gives their keys, and
    there is none for a MERGE.
    """

    sql: str
    kind: Kind
    parameters: tuple[Parameter, ...]
    outputs: tuple[Output, ...] = ()
    target: TableInfo | None = None
    affected: str = ""
    affected_parameters: int = 0
    """How many of the parameters ``affected`` has: the first ones."""
    changes_key: bool = False
    """Whether an UPDATE sets columns of a key."""
    alias: str = ""
    """The name of the target inside the statement, as an identifier."""
    actions: tuple[str, ...] = ()
    """What a MERGE may do, in the order of its answer."""
    joined: str = ""
    """A query of how many target rows an UPDATE with sources changes and how many of them several
    source rows match; of a MERGE, how many it would update that another source row matches too.
    """
    joined_parameters: int = 0
    """How many of the parameters ``joined`` has: the first ones."""
    overwrite: bool = False
    reads: tuple[TableInfo, ...] = ()
    """The tables and views that are read, besides the target."""
    registered: tuple[tuple[str, Result], ...] = ()
    cacheable: bool = True


def translate(sql: str, env: Environment) -> Plan:
    """The plan of a query or of DML; SqlError where it makes no sense, or is not supported."""
    rewritten = rewrite(sql)
    tree = parse(rewritten.sql)
    query = tree.this if isinstance(tree, exp.Subquery) else tree
    first = query
    while isinstance(first, exp.SetOperation):
        first = first.this
    if isinstance(first, exp.Select) and len(first.expressions) == len(rewritten.items):
        for node, text in zip(first.expressions, rewritten.items, strict=True):
            node.meta["text"] = text.upper()
    binder = Binder(env)
    if isinstance(tree, exp.Query):
        outputs = tuple(binder.query(tree))
        return _plan(binder, duck(tree), Kind.SELECT, outputs=outputs)
    translator = _STATEMENTS.get(type(tree))
    if translator is None:
        raise _refused(sql)
    return translator(Statement(binder, env), tree)


_WORDS = """
    ACCOUNT AGENT AGGREGATION ALERT API APPLICATION AUTHENTICATION BACKUP CATALOG CLASS CONNECTION
    CORTEX DATA DATABASE DYNAMIC EVENT EXTERNAL FAILOVER FILE FUNCTION FUNCTIONS GIT ICEBERG JOIN
    LISTING MANAGED MASKING MATERIALIZED MODEL NOTEBOOK NOTIFICATION OBJECT ORGANIZATION PACKAGES
    PASSWORD PIPE PRIVACY PROCEDURE PROCEDURES PROJECTION RECURSIVE REGIONS REPLICATION RESOURCE
    ROLE ROW SCHEMA SECURE SECURITY SEMANTIC SEQUENCE SESSION SHARE SHARES SNAPSHOT STAGE STORAGE
    STREAM STREAMLIT STREAMS TABLE TAG TAGS TASK TYPE USER VIEW WAREHOUSE
"""
_OBJECTS = frozenset(_WORDS.split())
"""Words that may follow CREATE, ALTER, DROP, SHOW and DESCRIBE in Snowflake, and have no meaning
here: the rest is not Snowflake's either.
"""


def _refused(sql: str) -> SqlError:
    """The error for a statement that no one serves: Snowflake's own, or that it is unsupported."""
    parse_ = Parser(sql)
    if parse_.accept_any("CREATE", "ALTER", "DROP", "SHOW", "DESCRIBE", "DESC", "UNDROP"):
        if parse_.accept("OR"):
            parse_.accept_any("REPLACE", "ALTER")
        if parse_.word() not in _OBJECTS:
            return parse_.error()
    return unsupported(sql)


def translate_expression(
    text: str, env: Environment, target: DataType | None = None
) -> tuple[str, tuple[Parameter, ...]]:
    """A constant expression, as DEFAULT has it, in DuckDB's SQL; as a value of the type `target`
    where that is given.
    """
    tree = parse(f"SELECT {rewrite(text).sql}")
    if not isinstance(tree, exp.Select) or len(tree.expressions) != 1:
        raise compilation_error(f"invalid expression [{text}]")
    binder = Binder(env)
    made = Expressions(binder)(tree.expressions[0], Scope(), raw=True)
    if target is not None:
        made = to.store(made, target)
    return duck(made), tuple(binder.parameters)


def query_outputs(sql: str, env: Environment) -> list[Output]:
    """What a query gives."""
    tree = parse(rewrite(sql).sql)
    if not isinstance(tree, exp.Query):
        raise unsupported(sql)
    return Binder(env).query(tree)


def insert_query(sql: str, info: TableInfo, env: Environment) -> Plan:
    """The INSERT of a query into a table that is about to be made."""
    tree = parse(rewrite(sql).sql)
    if not isinstance(tree, exp.Query):
        raise unsupported(sql)
    statement = Statement(Binder(env), env)
    text = statement.selected(tree, list(info.columns), [])
    names = ", ".join(_identifier(c.name) for c in info.columns)
    return _plan(
        statement.binder, f"INSERT INTO {info.physical} ({names}) {text}", Kind.INSERT, target=info
    )


def _plan(binder: Binder, sql: str, kind: Kind, **rest: object) -> Plan:
    plan = Plan(
        sql,
        kind,
        tuple(binder.parameters),
        reads=tuple(binder.read.values()),
        registered=tuple(binder.registered.items()),
        cacheable=binder.cacheable,
    )
    return replace(plan, **rest)  # type: ignore[arg-type]


_CLAUSES: dict[type[exp.Expr], set[str]] = {
    exp.Insert: {"this", "expression", "overwrite", "with_"},
    exp.Update: {"this", "expressions", "from_", "where"},
    exp.Delete: {"this", "using", "where"},
    exp.Merge: {"this", "using", "on", "whens"},
    exp.TruncateTable: {"expressions"},
}


def _check_clauses(node: exp.Expr) -> None:
    for key, value in node.args.items():
        if value and key not in _CLAUSES[type(node)]:
            raise unsupported(node.sql("snowflake"))


_ACTIONS = ("INSERT", "UPDATE", "DELETE")


class Statement:
    """DML: what it changes, and how values become those of columns."""

    def __init__(self, binder: Binder, env: Environment) -> None:
        self.binder = binder
        self.env = env
        self.visit = Expressions(binder)

    def target(self, node: exp.Expr) -> tuple[TableInfo, str]:
        """The table that a statement changes, and the name it has there."""
        if not isinstance(node, exp.Table):
            raise unsupported(node.sql("snowflake"))
        check(node)
        if node.args.get("joins"):
            raise unsupported(node.sql("snowflake"))
        alias, columns = self.binder.alias(node)
        if columns:
            raise unsupported(node.sql("snowflake"))
        parts = self.binder.table_parts(node)
        info = self.env.find(parts, self.env.database, self.env.schema)
        if info is None:
            raise missing(".".join(parts))
        if info.kind != "TABLE":
            raise compilation_error(f"Object '{info.name}' is not a table", errno=1501)
        return info, alias or info.name.name

    def default(self, column: ColumnInfo) -> exp.Expr:
        """What a column gets that is not given."""
        if column.sequence is not None:
            return template(f"nextval('\"$emulator\".{column.sequence}')", type=FIXED)
        if column.default is None:
            return exp.Null()
        tree = parse(f"SELECT {rewrite(column.default).sql}")
        assert isinstance(tree, exp.Select)
        return self.visit(tree.expressions[0], Scope(), raw=True)

    def stored(self, node: exp.Expr, column: ColumnInfo) -> exp.Expr:
        """An expression as the value of a column; DEFAULT stands for the default."""
        if _is_default(node):
            return to.store(self.default(column), column.type)
        return to.store(node, column.type)

    # -- INSERT

    def insert(self, node: exp.Insert) -> Plan:
        """INSERT INTO ... VALUES, or of a query."""
        _check_clauses(node)
        schema = node.this if isinstance(node.this, exp.Schema) else None
        info, _ = self.target(schema.this if schema is not None else node.this)
        columns = self.columns(info, schema.expressions if schema is not None else None)
        missing_ones = [c for c in info.columns if c not in columns]
        source = node.expression
        if node.args.get("with_") is not None and isinstance(source, exp.Query):
            source.set("with_", node.args["with_"])
        if isinstance(source, exp.Values) and not source.args.get("alias"):
            rows = self.rows(source, columns, missing_ones)
            text = f"VALUES {rows}"
        else:
            text = self.selected(source, columns, missing_ones)
        names = ", ".join(_identifier(c.name) for c in [*columns, *missing_ones])
        return _plan(
            self.binder,
            f"INSERT INTO {info.physical} ({names}) {text}",
            Kind.INSERT,
            target=info,
            overwrite=bool(node.args.get("overwrite")),
        )

    def columns(self, info: TableInfo, given: list[exp.Expr] | None) -> list[ColumnInfo]:
        """The columns that an INSERT names; all of them where it names none."""
        if given is None:
            return list(info.columns)
        found = []
        for node in given:
            column = info.column(name_of(node))
            if column is None:
                raise invalid_identifier(node)
            found.append(column)
        return found

    def rows(self, source: exp.Values, columns: list[ColumnInfo], rest: list[ColumnInfo]) -> str:
        """The rows of VALUES with their conversions and the defaults of what they lack."""
        made = []
        for row in source.expressions:
            values = row.expressions if isinstance(row, exp.Tuple) else [row]
            if len(values) != len(columns):
                raise SqlError(
                    2020,
                    "21S01",
                    "SQL compilation error:\nInsert value list does not match column list "
                    f"expecting {len(columns)} but got {len(values)}",
                )
            cells = [
                self.stored(
                    value if _is_default(value) else self.visit(value, Scope(), raw=True), column
                )
                for value, column in zip(values, columns, strict=True)
            ]
            cells += [to.store(self.default(column), column.type) for column in rest]
            made.append(f"({', '.join(duck(cell) for cell in cells)})")
        return ", ".join(made)

    def selected(self, source: exp.Expr, columns: list[ColumnInfo], rest: list[ColumnInfo]) -> str:
        """A query as the source of an INSERT."""
        outputs = self.binder.query(source)
        if len(outputs) != len(columns):
            raise SqlError(
                2020,
                "21S01",
                "SQL compilation error:\nInsert value list does not match column list "
                f"expecting {len(columns)} but got {len(outputs)}",
            )
        cells = [
            to.store(typed(exp.column(f"c{i}", "s", quoted=True), output.type), column.type)
            for i, (output, column) in enumerate(zip(outputs, columns, strict=True))
        ]
        cells += [to.store(self.default(column), column.type) for column in rest]
        aliases = ", ".join(f'"c{i}"' for i in range(len(outputs)))
        text = ", ".join(duck(cell) for cell in cells)
        return f'SELECT {text} FROM ({duck(source)}) AS "s"({aliases})'

    # -- UPDATE, DELETE

    def update(self, node: exp.Update) -> Plan:
        """UPDATE ... SET ... FROM ... WHERE."""
        _check_clauses(node)
        info, name = self.target(node.this)
        scope = Scope(None, [_source(info, name)])
        sources = self.sources(node.args.get("from_"), scope)
        where = self.where(node, scope)
        count = len(self.binder.parameters)
        assignments, assigned = [], set()
        for assignment in node.expressions:
            if not isinstance(assignment, exp.EQ) or not isinstance(assignment.this, exp.Column):
                raise unsupported(assignment.sql("snowflake"))
            column = info.column(name_of(assignment.this.this))
            table = assignment.this.args.get("table")
            if column is None or (table is not None and name_of(table) != name):
                raise invalid_identifier(assignment.this)
            value = assignment.expression
            if not _is_default(value):
                value = self.visit(value, scope, raw=True)
            stored = self.stored(value, column)
            assigned.add(column.name)
            assignments.append(f"{_identifier(column.name)} = {duck(stored)}")
        table_ = f"{info.physical} AS {_identifier(name)}"
        origin = f" FROM {sources}" if sources else ""
        text = f"UPDATE {table_} SET {', '.join(assignments)}{origin}{where}"
        affected = self.affected(info, name, sources, where)
        keys = {c for constraint in info.constraints for c in constraint.columns}
        return _plan(
            self.binder,
            text,
            Kind.UPDATE,
            target=info,
            affected=affected,
            affected_parameters=count,
            joined=_joined(info, name, sources, where) if sources else "",
            joined_parameters=count,
            changes_key=info.hybrid and bool(keys & assigned),
            alias=_identifier(name),
        )

    def delete(self, node: exp.Delete) -> Plan:
        """DELETE FROM ... USING ... WHERE."""
        _check_clauses(node)
        info, name = self.target(node.this)
        scope = Scope(None, [_source(info, name)])
        parts = []
        for item in node.args.get("using") or []:
            made, source = self.binder.source(item, scope)
            scope.sources.append(source)
            parts.append(duck(made))
        sources = ", ".join(parts)
        where = self.where(node, scope)
        origin = f" USING {sources}" if sources else ""
        text = f"DELETE FROM {info.physical} AS {_identifier(name)}{origin}{where}"
        affected = self.affected(info, name, sources, where)
        return _plan(
            self.binder,
            text,
            Kind.DELETE,
            target=info,
            affected=affected,
            affected_parameters=len(self.binder.parameters),
            alias=_identifier(name),
        )

    def sources(self, node: exp.From | None, scope: Scope) -> str:
        """What stands after FROM in an UPDATE."""
        if node is None:
            return ""
        item, source = self.binder.source(node.this, scope)
        scope.sources.append(source)
        text = duck(item)
        for join in item.args.get("joins") or []:
            raise unsupported(join.sql("snowflake"))
        return text

    def where(self, node: exp.Expr, scope: Scope) -> str:
        """The WHERE of DML, with its keyword."""
        clause = node.args.get("where")
        if clause is None:
            return ""
        return f" WHERE {duck(self.visit(clause.this, scope))}"

    def affected(self, info: TableInfo, name: str, sources: str, where: str) -> str:
        """A query of the rows that a statement would change: of a hybrid table the primary and the
        unique keys.
        """
        alias = _identifier(name)
        more = f", {sources}" if sources else ""
        if not info.hybrid:
            return _rows_of(info, name, f"{info.physical} AS {alias}{more}{where}")
        unique = [c for one in info.constraints if one.kind == "UNIQUE" for c in one.columns]
        columns = dict.fromkeys([*info.primary_key, *unique])
        keys = ", ".join(f"{alias}.{_identifier(c)}" for c in columns)
        return f"SELECT {keys} FROM {info.physical} AS {alias}{more}{where}"

    # -- MERGE, TRUNCATE

    def merge(self, node: exp.Merge) -> Plan:
        """MERGE INTO ... USING ... ON ... WHEN ..."""
        _check_clauses(node)
        info, name = self.target(node.this)
        scope = Scope(None, [_source(info, name)])
        item, source = self.binder.source(node.args["using"], scope)
        outer = Scope(None, [source])
        scope.sources.append(source)
        on = duck(self.visit(node.args["on"], scope))
        given = node.args["whens"].expressions
        heads = [self.head(when, scope) for when in given if when.args.get("matched")]
        count = len(self.binder.parameters)
        heads += [self.head(when, outer) for when in given if not when.args.get("matched")]
        given = sorted(given, key=lambda when: not when.args.get("matched"))
        whens = [
            f"{head} {self.then(when, info, name, scope, outer)}"
            for when, head in zip(given, heads, strict=True)
        ]
        text = (
            f"MERGE INTO {info.physical} AS {_identifier(name)} USING {duck(item)} ON {on} "
            + " ".join(whens)
        )
        done = {word for when in whens for word in _ACTIONS if f"THEN {word}" in when}
        actions = tuple(word for word in _ACTIONS if word in done)
        branches = [
            f"WHEN TRUE{head.removeprefix('WHEN MATCHED')} '{when.args['then'].key}'"
            for when, head in zip(given, heads, strict=True)
            if when.args.get("matched")
        ]
        source_text = f"{duck(item)} ON {on}"
        joined = _twice(info, name, source_text, branches) if branches else ""
        affected = _merged_into(info, name, source_text, branches) if branches else ""
        return _plan(
            self.binder,
            text,
            Kind.MERGE,
            target=info,
            affected="" if info.hybrid else affected,
            affected_parameters=count,
            actions=actions,
            joined=joined,
            joined_parameters=count,
        )

    def head(self, node: exp.Expr, scope: Scope) -> str:
        """When a WHEN of a MERGE applies."""
        if node.args.get("source"):
            raise unsupported(node.sql("snowflake"))
        condition = node.args.get("condition")
        extra = f" AND {duck(self.visit(condition, scope))}" if condition is not None else ""
        return f"WHEN {'' if node.args.get('matched') else 'NOT '}MATCHED{extra} THEN"

    def then(self, node: exp.Expr, info: TableInfo, name: str, scope: Scope, outer: Scope) -> str:
        """What a WHEN of a MERGE does."""
        matched = bool(node.args.get("matched"))
        then = node.args["then"]
        if isinstance(then, exp.Var) and then.name.upper() == "DELETE" and matched:
            return "DELETE"
        if isinstance(then, exp.Update) and matched:
            return f"UPDATE SET {self.assigned(then, info, name, scope)}"
        if isinstance(then, exp.Insert) and not matched:
            return self.merged(then, info, outer)
        raise unsupported(node.sql("snowflake"))

    def assigned(self, node: exp.Update, info: TableInfo, name: str, scope: Scope) -> str:
        """The assignments of WHEN MATCHED THEN UPDATE."""
        made = []
        for assignment in node.expressions:
            column = info.column(name_of(assignment.this.this))
            if column is None:
                raise invalid_identifier(assignment.this)
            value = assignment.expression
            if not _is_default(value):
                value = self.visit(value, scope, raw=True)
            made.append(f"{_identifier(column.name)} = {duck(self.stored(value, column))}")
        return ", ".join(made)

    def merged(self, node: exp.Insert, info: TableInfo, outer: Scope) -> str:
        """WHEN NOT MATCHED THEN INSERT."""
        given = node.this
        names = given.expressions if given is not None else None
        columns = self.columns(
            info, [n.this if isinstance(n, exp.Column) else n for n in names] if names else None
        )
        values = node.expression.expressions
        if len(values) != len(columns):
            raise SqlError(
                2020,
                "21S01",
                "SQL compilation error:\nInsert value list does not match column list "
                f"expecting {len(columns)} but got {len(values)}",
            )
        rest = [c for c in info.columns if c not in columns]
        cells = [
            self.stored(value if _is_default(value) else self.visit(value, outer, raw=True), column)
            for value, column in zip(values, columns, strict=True)
        ]
        cells += [to.store(self.default(column), column.type) for column in rest]
        all_names = ", ".join(_identifier(c.name) for c in [*columns, *rest])
        return f"INSERT ({all_names}) VALUES ({', '.join(duck(cell) for cell in cells)})"


def _rows_of(info: TableInfo, name: str, matches: str) -> str:
    """The rows of a table that are among some matches of its rows."""
    alias = _identifier(name)
    return (
        f'SELECT {alias}.*, {alias}.rowid AS "$id" FROM {info.physical} AS {alias} '
        f"WHERE {alias}.rowid IN (SELECT {alias}.rowid FROM {matches})"
    )


def _merged_into(info: TableInfo, name: str, source: str, branches: list[str]) -> str:
    matches = (
        f"{info.physical} AS {_identifier(name)} JOIN {source} "
        f"WHERE CASE {' '.join(branches)} END IS NOT NULL"
    )
    return _rows_of(info, name, matches)


def _joined(info: TableInfo, name: str, sources: str, where: str) -> str:
    alias = _identifier(name)
    return (
        "SELECT count(*), count_if(n > 1) FROM (SELECT count(*) AS n "
        f"FROM {info.physical} AS {alias}, {sources}{where} GROUP BY {alias}.rowid)"
    )


def _twice(info: TableInfo, name: str, source: str, branches: list[str]) -> str:
    return (
        "SELECT count(*) FROM (SELECT count_if(a = 'update') AS updates, count(a) AS n FROM "
        f"(SELECT {_identifier(name)}.rowid AS r, CASE {' '.join(branches)} END AS a "
        f"FROM {info.physical} AS {_identifier(name)} JOIN {source}) GROUP BY r) "
        "WHERE updates > 0 AND n > 1"
    )


def _source(info: TableInfo, name: str) -> Source:
    return Source(name, [Output(c.name, c.type, c.nullable) for c in info.columns])


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _is_default(node: exp.Expr) -> bool:
    if isinstance(node, exp.Var):
        return node.name.upper() == "DEFAULT"
    return (
        isinstance(node, exp.Column)
        and not node.args.get("table")
        and isinstance(node.this, exp.Identifier)
        and not node.this.args.get("quoted")
        and node.name.upper() == "DEFAULT"
    )


_STATEMENTS: dict[type[exp.Expr], Callable[[Statement, Any], Plan]] = {
    exp.Insert: Statement.insert,
    exp.Update: Statement.update,
    exp.Delete: Statement.delete,
    exp.Merge: Statement.merge,
}
