"""SHOW OBJECTS: the tables and views of a scope."""

from __future__ import annotations

from typing import Any

from flowdist.emulator.grants import Table
from flowdist.emulator.result import Result, rows
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.sql.tables import TableInfo
from flowdist.emulator.statements import Context, statement
from flowdist.emulator.statements.showing import moment, read_filter
from flowdist.emulator.types import FIXED, LTZ

__all__: list[str] = []

COLUMNS = (
    ("created_on", LTZ),
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
    "owner_role_type",
    "budget",
    "is_hybrid",
    "is_dynamic",
    "is_iceberg",
)
TERSE = (("created_on", LTZ), "name", "kind", "database_name", "schema_name")


@statement("SHOW", "OBJECTS")
def show(context: Context, parse: Parser) -> Result:
    """SHOW [TERSE] OBJECTS [LIKE] [IN] [STARTS WITH] [LIMIT]."""
    wanted = read_filter(parse, context.session)
    parse.end()
    access, engine = context.account.access, context.account.engine
    found = [
        info
        for info in engine.tables(wanted.database, wanted.schema)
        if info.kind != "SEQUENCE"
        and wanted.takes_name(info.name.name)
        and access.visible(context.session, Table.of(info))
    ][: wanted.limit]
    if "TERSE" in parse.modifiers:
        return rows(
            TERSE,
            [
                (
                    moment(info.created_on),
                    info.name.name,
                    info.shown_kind,
                    info.name.database,
                    info.name.schema,
                )
                for info in found
            ],
        )
    return rows(COLUMNS, [_row(context, info) for info in found])


def _row(context: Context, info: TableInfo) -> tuple[Any, ...]:
    view = info.kind == "VIEW"
    return (
        moment(info.created_on),
        info.name.name,
        info.name.database,
        info.name.schema,
        info.shown_kind,
        info.comment,
        "",
        None if view else context.account.engine.count(info),
        None if view else 0,
        info.owner,
        None if view else "1",
        "ROLE",
        None,
        "Y" if info.hybrid else "N",
        "N",
        "N",
    )
