"""SHOW COLUMNS and KEYS, and DESCRIBE of tables, views and sequences."""

from __future__ import annotations

import json
from typing import Any

from flowdist.emulator.result import Result, rows
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.sql.tables import ColumnInfo
from flowdist.emulator.statements import Context, statement
from flowdist.emulator.statements.show_tables import CREATED, Columns, one_or_more, table_or_view
from flowdist.emulator.statements.showing import Filter, moment
from flowdist.emulator.statements.tables import require, resolve
from flowdist.emulator.types import FIXED

__all__: list[str] = []


# -- columns


def _type_json(column: ColumnInfo) -> str:
    kind = column.type
    described: dict[str, Any] = {"type": kind.name}
    if kind.name == "FIXED" or kind.name == "TIME" or kind.name.startswith("TIMESTAMP"):
        described |= {"precision": kind.precision or 0, "scale": kind.scale}
    if kind.name == "TEXT":
        length = kind.length or 0
        described |= {"length": length, "byteLength": min(length * 4, 16_777_216)}
    if kind.name == "BINARY":
        described |= {"length": kind.length, "byteLength": kind.length}
    described["nullable"] = column.nullable
    if kind.name in ("TEXT", "BINARY"):
        described["fixed"] = False
    return json.dumps(described, separators=(",", ":"))


@statement("SHOW", "COLUMNS")
def show_columns(context: Context, parse: Parser) -> Result:
    """SHOW COLUMNS [LIKE ...] [IN { TABLE t | VIEW v | SCHEMA s | DATABASE d | ACCOUNT }]."""
    pattern = parse.text() if parse.accept("LIKE") else None
    asked = one_or_more(context, parse)
    names = Filter(pattern)
    columns: Columns = [
        "table_name",
        "schema_name",
        "column_name",
        "data_type",
        "null?",
        "default",
        "kind",
        "expression",
        "comment",
        "database_name",
        "autoincrement",
        "schema_evolution_record",
    ]
    values = [
        (
            info.name.name,
            info.name.schema,
            column.name,
            _type_json(column),
            "true" if column.nullable else "NOT_NULL",
            column.default or "",
            "COLUMN",
            "",
            column.comment,
            info.name.database,
            column.autoincrement or "",
            None,
        )
        for info in asked.infos(context, "TABLE", "VIEW")
        for column in info.columns
        if names.takes_name(column.name)
    ]
    return rows(columns, values[: names.limit])


@statement("DESCRIBE", "TABLE")
def describe_table(context: Context, parse: Parser) -> Result:
    """DESCRIBE TABLE name [TYPE = COLUMNS]; views are described too."""
    return _describe(context, parse)


def _describe(context: Context, parse: Parser) -> Result:
    info = table_or_view(context, parse)
    if parse.accept("TYPE"):
        parse.accept("=")
        if not parse.accept("COLUMNS"):
            raise parse.unsupported()
    parse.end()
    columns: Columns = [
        "name",
        "type",
        "kind",
        "null?",
        "default",
        "primary key",
        "unique key",
        "check",
        "expression",
        "comment",
        "policy name",
        "privacy domain",
        "schema_evolution_record",
    ]
    unique = {c for one in info.constraints if one.kind == "UNIQUE" for c in one.columns}
    values = [
        (
            column.name,
            str(column.type),
            "COLUMN",
            "Y" if column.nullable else "N",
            column.default or column.autoincrement,
            "Y" if column.name in info.primary_key else "N",
            "Y" if column.name in unique else "N",
            None,
            None,
            column.comment or None,
            None,
            None,
            None,
        )
        for column in info.columns
    ]
    return rows(columns, values)


@statement("DESCRIBE", "VIEW")
def describe_view(context: Context, parse: Parser) -> Result:
    """DESCRIBE VIEW name."""
    return _describe(context, parse)


@statement("DESCRIBE", "SEQUENCE")
def describe_sequence(context: Context, parse: Parser) -> Result:
    """DESCRIBE SEQUENCE name."""
    info = require(context, resolve(context, parse.name(), "DESCRIBE"), "SEQUENCE")
    parse.end()
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
    value = (
        info.name.name,
        info.name.database,
        info.name.schema,
        context.account.engine.next_value(info),
        info.increment,
        moment(info.created_on),
        info.owner,
        info.comment,
        "ROLE",
        "Y" if info.ordered else "N",
    )
    return rows(columns, [value])


# -- keys and indexes

_KEYS: Columns = [
    CREATED,
    "database_name",
    "schema_name",
    "table_name",
    "column_name",
    ("key_sequence", FIXED),
    "comment",
    "constraint_name",
]


@statement("SHOW", "PRIMARY", "KEYS")
def show_primary_keys(context: Context, parse: Parser) -> Result:
    """SHOW PRIMARY KEYS [IN ...]."""
    return _keys(context, parse, "PRIMARY KEY")


@statement("SHOW", "UNIQUE", "KEYS")
def show_unique_keys(context: Context, parse: Parser) -> Result:
    """SHOW UNIQUE KEYS [IN ...]."""
    return _keys(context, parse, "UNIQUE")


def _keys(context: Context, parse: Parser, kind: str) -> Result:
    asked = one_or_more(context, parse)
    values = [
        (
            moment(info.created_on),
            info.name.database,
            info.name.schema,
            info.name.name,
            column,
            number,
            None,
            constraint.name,
        )
        for info in asked.infos(context, "TABLE")
        for constraint in info.constraints
        if constraint.kind == kind
        for number, column in enumerate(constraint.columns, 1)
    ]
    return rows(_KEYS, values)
