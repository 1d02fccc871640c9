"""SHOW TABLES, VIEWS, SEQUENCES and INDEXES."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flowdist.emulator.grants import Table
from flowdist.emulator.result import Result, rows
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.sql.tables import TableInfo
from flowdist.emulator.statements import Context, statement
from flowdist.emulator.statements.showing import Filter, moment, read_filter
from flowdist.emulator.statements.tables import require, resolve
from flowdist.emulator.types import FIXED, LTZ, DataType

__all__ = ["CREATED", "Columns", "TableFilter", "one_or_more", "table_or_view"]

Columns = Sequence[str | tuple[str, DataType]]
CREATED = ("created_on", LTZ)
TERSE: Columns = [CREATED, "name", "kind", "database_name", "schema_name"]


@dataclass(frozen=True)
class TableFilter:
    """Which tables a SHOW lists: by schema and name, or one table that was named."""

    names: Filter
    table: TableInfo | None = None

    def infos(self, context: Context, *kinds: str) -> list[TableInfo]:
        """The objects of these kinds that the session may see, its temporary tables too."""
        if self.table is not None:
            return [self.table]
        engine, access = context.account.engine, context.account.access
        own = engine.connection(context.session).temporary.values()
        found = [
            info
            for info in [*engine.tables(self.names.database, self.names.schema), *own]
            if info.kind in kinds
            and self.names.database in (None, info.name.database)
            and self.names.schema in (None, info.name.schema)
            and (info.temporary or access.visible(context.session, Table.of(info)))
        ]
        return sorted(found, key=lambda info: info.name)

    def named(self, found: Iterable[TableInfo]) -> list[TableInfo]:
        """Those whose names are asked for, up to the limit."""
        taken = [info for info in found if self.names.takes_name(info.name.name)]
        return taken[: self.names.limit]


def _database_wide(context: Context, parse: Parser, kinds: Sequence[str] = ()) -> TableFilter:
    """The clauses of a SHOW; without IN it lists what is in the current database."""
    scoped = any(parse.word(i) == "IN" for i in (0, 2))
    found = read_filter(parse, context.session, kinds)
    parse.end()
    if found.within is not None:
        kind = "VIEW" if found.within[0] == "VIEW" else "TABLE"
        name = resolve(context, found.within[1], "SHOW")
        return TableFilter(found, require(context, name, kind))
    if not scoped:
        found = Filter(
            found.pattern,
            context.session.database,
            None,
            None,
            found.prefix,
            found.limit,
            found.after,
        )
    return TableFilter(found)


def _terse(found: Iterable[TableInfo], kind: str | None = None) -> Result:
    return rows(
        TERSE,
        [
            (
                moment(i.created_on),
                i.name.name,
                kind or i.shown_kind,
                i.name.database,
                i.name.schema,
            )
            for i in found
        ],
    )


# -- tables

_TABLES: Columns = [
    CREATED,
    "name",
    "database_name",
    "schema_name",
    "kind",
    "comment",
    "cluster_by",
    ("rows", FIXED),
    ("bytes", FIXED),
    "owner",
    "retention_time",
    "automatic_clustering",
    "change_tracking",
    "search_optimization",
    ("search_optimization_progress", FIXED),
    ("search_optimization_bytes", FIXED),
    "is_external",
    "enable_schema_evolution",
    "owner_role_type",
    "is_event",
    "is_hybrid",
    "is_iceberg",
    "is_immutable",
]


@statement("SHOW", "TABLES")
def show_tables(context: Context, parse: Parser) -> Result:
    """SHOW [TERSE] TABLES."""
    if parse.word() == "HISTORY":
        raise parse.unsupported()
    asked = _database_wide(context, parse)
    found = asked.named(asked.infos(context, "TABLE"))
    if "TERSE" in parse.modifiers:
        return _terse(found, "TABLE")
    return rows(_TABLES, [_table(context, info) for info in found])


def _table(context: Context, info: TableInfo) -> tuple[Any, ...]:
    return (
        moment(info.created_on),
        info.name.name,
        info.name.database,
        info.name.schema,
        info.shown_kind,
        info.comment,
        "",
        None if info.temporary else context.account.engine.count(info),
        None,
        info.owner,
        "1",
        "OFF",
        "OFF",
        "OFF",
        None,
        None,
        "N",
        "N",
        "ROLE",
        "N",
        "Y" if info.hybrid else "N",
        "N",
        "N",
    )


@statement("SHOW", "HYBRID", "TABLES")
def show_hybrid_tables(context: Context, parse: Parser) -> Result:
    """SHOW [TERSE] HYBRID TABLES."""
    asked = _database_wide(context, parse)
    found = asked.named(i for i in asked.infos(context, "TABLE") if i.hybrid)
    if "TERSE" in parse.modifiers:
        return _terse(found, "HYBRID TABLE")
    columns: Columns = [
        CREATED,
        "name",
        "database_name",
        "schema_name",
        "owner",
        ("rows", FIXED),
        ("bytes", FIXED),
        "comment",
        "owner_role_type",
    ]
    values = [
        (
            moment(i.created_on),
            i.name.name,
            i.name.database,
            i.name.schema,
            i.owner,
            context.account.engine.count(i),
            None,
            i.comment,
            "ROLE",
        )
        for i in found
    ]
    return rows(columns, values)


# -- views and sequences


@statement("SHOW", "VIEWS")
def show_views(context: Context, parse: Parser) -> Result:
    """SHOW [TERSE] VIEWS."""
    asked = _database_wide(context, parse)
    found = asked.named(asked.infos(context, "VIEW"))
    if "TERSE" in parse.modifiers:
        return _terse(found)
    columns: Columns = [
        CREATED,
        "name",
        "reserved",
        "kind",
        "database_name",
        "schema_name",
        "owner",
        "comment",
        "text",
        "is_secure",
        "is_materialized",
        "owner_role_type",
        "change_tracking",
    ]
    values = [
        (
            moment(i.created_on),
            i.name.name,
            "",
            "VIEW",
            i.name.database,
            i.name.schema,
            i.owner,
            i.comment,
            i.text,
            "false",
            "false",
            "ROLE",
            "OFF",
        )
        for i in found
    ]
    return rows(columns, values)


@statement("SHOW", "SEQUENCES")
def show_sequences(context: Context, parse: Parser) -> Result:
    """SHOW SEQUENCES."""
    asked = _database_wide(context, parse)
    columns: Columns = [
        "name",
        "database_name",
        "schema_name",
        ("next_value", FIXED),
        ("interval", FIXED),
        CREATED,
        "owner",
        "comment",
        "owner_role_type",
        "ordered",
    ]
    values = [
        (
            i.name.name,
            i.name.database,
            i.name.schema,
            context.account.engine.next_value(i),
            i.increment,
            moment(i.created_on),
            i.owner,
            i.comment,
            "ROLE",
            "Y" if i.ordered else "N",
        )
        for i in asked.named(asked.infos(context, "SEQUENCE"))
    ]
    return rows(columns, values)


def table_or_view(context: Context, parse: Parser) -> TableInfo:
    """The table or view that is named."""
    name = resolve(context, parse.name(), "DESCRIBE")
    found = context.account.engine.find(context.session, name, "VIEW")
    return require(context, name, "VIEW" if found is not None else "TABLE")


def one_or_more(context: Context, parse: Parser) -> TableFilter:
    """What stands after IN, which may be the name of a table alone."""
    following = parse.word(1)
    if parse.word() == "IN" and following not in (
        "ACCOUNT",
        "DATABASE",
        "SCHEMA",
        "TABLE",
        "VIEW",
    ):
        parse.expect("IN")
        info = table_or_view(context, parse)
        parse.end()
        return TableFilter(Filter(), info)
    if parse.word() == "IN" and following in ("TABLE", "VIEW") and parse.peek(2) is not None:
        parse.expect("IN")
        parse.next()
        info = table_or_view(context, parse)
        parse.end()
        return TableFilter(Filter(), info)
    if parse.word() == "IN" and following in ("TABLE", "VIEW"):
        parse.expect("IN", following)
        parse.end()
        return TableFilter(Filter(None, context.session.database, context.session.schema))
    return _database_wide(context, parse)


@statement("SHOW", "INDEXES")
def show_indexes(context: Context, parse: Parser) -> Result:
    """SHOW [TERSE] INDEXES [LIKE ...] [IN { TABLE t | SCHEMA s | ... }]."""
    pattern = parse.text() if parse.accept("LIKE") else None
    asked = one_or_more(context, parse)
    names = Filter(pattern, prefix=asked.names.prefix, limit=asked.names.limit)
    found = [
        row
        for info in asked.infos(context, "TABLE")
        if info.hybrid
        for row in _indexes(info)
        if names.takes_name(row[1])
    ]
    columns: Columns = [
        CREATED,
        "name",
        "kind",
        "is_unique",
        "columns",
        "included_columns",
        "table",
        "database_name",
        "schema_name",
        "owner",
        "owner_role_type",
        "status",
        "status_info",
    ]
    if "TERSE" in parse.modifiers:
        return rows(TERSE, [(*row[:3], *row[7:9]) for row in found])
    return rows(columns, found)


def _indexes(info: TableInfo) -> list[tuple[Any, ...]]:
    where = (info.name.name, info.name.database, info.name.schema, info.owner, "ROLE")
    made: list[tuple[Any, ...]] = []
    for constraint in info.constraints:
        primary = constraint.kind == "PRIMARY KEY"
        if not primary and constraint.kind != "UNIQUE":
            continue
        last = "PRIMARY" if primary else f"UNIQUE_{'_'.join(constraint.columns)}"
        made.append(
            (
                moment(info.created_on),
                f"SYS_INDEX_{info.name.name}_{last}",
                "KEY_VALUE_INDEX",
                "Y",
                _bracketed(constraint.columns),
                "[]",
                *where,
                "ACTIVE",
                "",
            )
        )
    made += [
        (
            moment(index.created_on),
            index.name,
            "KEY_VALUE_INDEX",
            "N",
            _bracketed(index.columns),
            _bracketed(index.include),
            *where,
            "ACTIVE",
            "",
        )
        for index in info.indexes
    ]
    return made


def _bracketed(columns: Sequence[str]) -> str:
    return f"[{', '.join(columns)}]"
