"""INFORMATION_SCHEMA.TABLES and COLUMNS."""

from __future__ import annotations

from typing import Any

from flowdist.emulator.access import SYSTEM_SCHEMA
from flowdist.emulator.result import Result, rows
from flowdist.emulator.sql.tables import ColumnInfo, TableInfo
from flowdist.emulator.statements import Context, table
from flowdist.emulator.statements.information_schema import VIEWS, Columns, base, infos, yes
from flowdist.emulator.statements.showing import moment
from flowdist.emulator.types import BOOLEAN, FIXED, LTZ

__all__: list[str] = []

TABLE_COLUMNS: Columns = (
    "TABLE_CATALOG",
    "TABLE_SCHEMA",
    "TABLE_NAME",
    "TABLE_OWNER",
    "TABLE_TYPE",
    "IS_TRANSIENT",
    "CLUSTERING_KEY",
    ("ROW_COUNT", FIXED),
    ("BYTES", FIXED),
    ("RETENTION_TIME", FIXED),
    "SELF_REFERENCING_COLUMN_NAME",
    "REFERENCE_GENERATION",
    "USER_DEFINED_TYPE_CATALOG",
    "USER_DEFINED_TYPE_SCHEMA",
    "USER_DEFINED_TYPE_NAME",
    "IS_INSERTABLE_INTO",
    "IS_TYPED",
    "COMMIT_ACTION",
    ("CREATED", LTZ),
    ("LAST_ALTERED", LTZ),
    ("LAST_DDL", LTZ),
    "LAST_DDL_BY",
    ("AUTO_CLUSTERING_ON", BOOLEAN),
    "COMMENT",
    "IS_TEMPORARY",
    "IS_ICEBERG",
    "IS_DYNAMIC",
    "IS_IMMUTABLE",
    "IS_HYBRID",
)


@table("INFORMATION_SCHEMA.TABLES")
def tables(context: Context, database: str | None = None) -> Result:
    """Tables and views of the database, those of INFORMATION_SCHEMA among them."""
    where = base(context, database)
    made = [
        _table_row(
            (info.name.database, info.name.schema, info.name.name),
            info.owner,
            _table_type(info),
            moment(info.created_on),
            count=_count(context, info),
            transient=info.transient,
            temporary=info.temporary,
            hybrid=info.hybrid,
            comment=info.comment,
        )
        for info in infos(context, where.name, "TABLE", "VIEW")
    ]
    made += [_table_row((where.name, SYSTEM_SCHEMA, name), None, "VIEW", None) for name in VIEWS]
    return rows(TABLE_COLUMNS, made)


def _table_type(info: TableInfo) -> str:
    if info.kind == "VIEW":
        return "VIEW"
    return "TEMPORARY TABLE" if info.temporary else "BASE TABLE"


def _count(context: Context, info: TableInfo) -> int | None:
    return None if info.kind == "VIEW" else context.account.engine.count(info)


def _table_row(
    name: tuple[str, str, str],
    owner: str | None,
    kind: str,
    created: Any,
    *,
    count: int | None = None,
    transient: bool = False,
    temporary: bool = False,
    hybrid: bool = False,
    comment: str = "",
) -> tuple[Any, ...]:
    is_table = kind != "VIEW"
    return (
        *name,
        owner,
        kind,
        yes(transient) if is_table else None,
        None,
        count,
        0 if is_table else None,
        1 if is_table else None,
        *[None] * 5,
        "YES" if is_table else "NO",
        "YES",
        None,
        created,
        created,
        created,
        None,
        False if is_table else None,
        comment or None,
        yes(temporary),
        "NO",
        "NO",
        "NO",
        yes(hybrid),
    )


COLUMN_COLUMNS: Columns = (
    "TABLE_CATALOG",
    "TABLE_SCHEMA",
    "TABLE_NAME",
    "COLUMN_NAME",
    ("ORDINAL_POSITION", FIXED),
    "COLUMN_DEFAULT",
    "IS_NULLABLE",
    "DATA_TYPE",
    ("CHARACTER_MAXIMUM_LENGTH", FIXED),
    ("CHARACTER_OCTET_LENGTH", FIXED),
    ("NUMERIC_PRECISION", FIXED),
    ("NUMERIC_PRECISION_RADIX", FIXED),
    ("NUMERIC_SCALE", FIXED),
    ("DATETIME_PRECISION", FIXED),
    "INTERVAL_TYPE",
    ("INTERVAL_PRECISION", FIXED),
    "CHARACTER_SET_CATALOG",
    "CHARACTER_SET_SCHEMA",
    "CHARACTER_SET_NAME",
    "COLLATION_CATALOG",
    "COLLATION_SCHEMA",
    "COLLATION_NAME",
    "DOMAIN_CATALOG",
    "DOMAIN_SCHEMA",
    "DOMAIN_NAME",
    "UDT_CATALOG",
    "UDT_SCHEMA",
    "UDT_NAME",
    "SCOPE_CATALOG",
    "SCOPE_SCHEMA",
    "SCOPE_NAME",
    ("MAXIMUM_CARDINALITY", FIXED),
    "DTD_IDENTIFIER",
    "IS_SELF_REFERENCING",
    "IS_IDENTITY",
    "IDENTITY_GENERATION",
    "IDENTITY_START",
    "IDENTITY_INCREMENT",
    "IDENTITY_MAXIMUM",
    "IDENTITY_MINIMUM",
    "IDENTITY_CYCLE",
    "IDENTITY_ORDERED",
    "SCHEMA_EVOLUTION_RECORD",
    "COMMENT",
    "DATA_TYPE_ALIAS",
    "EXPRESSION",
    "KIND",
)
TYPE_NAMES = {"FIXED": "NUMBER", "REAL": "FLOAT"}


@table("INFORMATION_SCHEMA.COLUMNS")
def columns(context: Context, database: str | None = None) -> Result:
    """The columns of tables and views."""
    where = base(context, database)
    return rows(
        COLUMN_COLUMNS,
        [
            _column_row(info, number, column)
            for info in infos(context, where.name, "TABLE", "VIEW")
            for number, column in enumerate(info.columns, start=1)
        ],
    )


def _column_row(info: TableInfo, number: int, column: ColumnInfo) -> tuple[Any, ...]:
    kind = column.type
    text, fixed = kind.name == "TEXT", kind.name == "FIXED"
    timed = kind.name == "TIME" or kind.name.startswith("TIMESTAMP")
    length = kind.length if text or kind.name == "BINARY" else None
    identity = column.sequence is not None
    octets = min((length or 0) * 4, 134_217_728) if text else length
    return (
        info.name.database,
        info.name.schema,
        info.name.name,
        column.name,
        number,
        None if identity else column.default,
        yes(column.nullable),
        TYPE_NAMES.get(kind.name, kind.name),
        length if text else None,
        octets,
        kind.precision if fixed else None,
        10 if fixed else None,
        kind.scale if fixed else None,
        (9 if kind.scale is None else kind.scale)
        if timed
        else (0 if kind.name == "DATE" else None),
        *[None] * 18,
        None,
        "NO",
        yes(identity),
        "BY DEFAULT" if identity else None,
        str(column.start) if identity else None,
        str(column.increment) if identity else None,
        None,
        None,
        "NO" if identity else None,
        yes(column.ordered) if identity else None,
        None,
        column.comment or None,
        None,
        None,
        "COLUMN",
    )
