"""The views of INFORMATION_SCHEMA, made anew whenever they are read.

A view shows the objects of its database; the engine gives the name of that database as `database`
where a statement names it, as in ``db.INFORMATION_SCHEMA.TABLES``.
"""

from __future__ import annotations

from typing import Any

from flowdist.emulator.access import SYSTEM_SCHEMA
from flowdist.emulator.catalog import Object
from flowdist.emulator.errors import no_current_database
from flowdist.emulator.grants import Table as Target
from flowdist.emulator.result import Result, rows
from flowdist.emulator.sql.tables import TableInfo
from flowdist.emulator.statements import Context, table
from flowdist.emulator.statements.creating import owner_role_type, visible
from flowdist.emulator.statements.schemas import ABOUT_SYSTEM_SCHEMA
from flowdist.emulator.statements.showing import moment
from flowdist.emulator.types import FIXED, LTZ, DataType

__all__ = ["VIEWS", "Columns", "base", "infos", "yes"]

Columns = tuple[str | tuple[str, DataType], ...]
VIEWS = (
    "APPLICABLE_ROLES",
    "COLUMNS",
    "DATABASES",
    "ENABLED_ROLES",
    "SCHEMATA",
    "SEQUENCES",
    "STAGES",
    "TABLES",
    "TABLE_CONSTRAINTS",
    "VIEWS",
)


def base(context: Context, database: str | None) -> Object:
    """The database that a view is read for; SqlError 2003 where the role may not see it."""
    name = database or context.session.database
    if name is None:
        raise no_current_database("SELECT")
    return context.account.access.database(context.session, name)


def infos(context: Context, database: str, *kinds: str) -> list[TableInfo]:
    """The tables, views or sequences of a database that the role may see."""
    access = context.account.access
    return [
        info
        for info in context.account.engine.tables(database)
        if info.kind in kinds and access.visible(context.session, Target.of(info))
    ]


def yes(value: object) -> str:
    """As the information schema writes what is so."""
    return "YES" if value else "NO"


@table("INFORMATION_SCHEMA.DATABASES")
def databases(context: Context, database: str | None = None) -> Result:
    """All databases that the role may see, whichever database the view is in."""
    base(context, database)
    columns: Columns = (
        "DATABASE_NAME",
        "DATABASE_OWNER",
        "IS_TRANSIENT",
        "COMMENT",
        ("CREATED", LTZ),
        ("LAST_ALTERED", LTZ),
        ("RETENTION_TIME", FIXED),
        "TYPE",
        "OWNER_ROLE_TYPE",
    )
    return rows(
        columns,
        [
            (
                o.name,
                o.owner or None,
                yes(o.data.get("transient")),
                o.comment or None,
                moment(o.created_on),
                moment(o.created_on),
                o.data.get("retention_time", 1),
                o.data.get("type", "STANDARD"),
                owner_role_type(o),
            )
            for o in visible(context, context.account.catalog.all("database"))
        ],
    )


@table("INFORMATION_SCHEMA.SCHEMATA")
def schemata(context: Context, database: str | None = None) -> Result:
    """The schemas of the database, with INFORMATION_SCHEMA itself."""
    where = base(context, database)
    columns: Columns = (
        "CATALOG_NAME",
        "SCHEMA_NAME",
        "SCHEMA_OWNER",
        "IS_TRANSIENT",
        "IS_MANAGED_ACCESS",
        ("RETENTION_TIME", FIXED),
        "DEFAULT_CHARACTER_SET_CATALOG",
        "DEFAULT_CHARACTER_SET_SCHEMA",
        "DEFAULT_CHARACTER_SET_NAME",
        "SQL_PATH",
        ("CREATED", LTZ),
        ("LAST_ALTERED", LTZ),
        "COMMENT",
    )
    system = Object(
        0, "schema", where.name, "", SYSTEM_SCHEMA, "", where.created_on, ABOUT_SYSTEM_SCHEMA
    )
    found = [system, *visible(context, context.account.catalog.all("schema", where.name))]
    return rows(
        columns,
        [
            (
                o.database,
                o.name,
                o.owner or None,
                yes(o.data.get("transient")),
                "NO",
                o.data.get("retention_time", 1),
                None,
                None,
                None,
                None,
                moment(o.created_on),
                moment(o.created_on),
                o.comment or None,
            )
            for o in sorted(found, key=lambda o: o.name)
        ],
    )


@table("INFORMATION_SCHEMA.VIEWS")
def views(context: Context, database: str | None = None) -> Result:
    """The views of the database, those of INFORMATION_SCHEMA among them."""
    where = base(context, database)
    names: Columns = (
        "TABLE_CATALOG",
        "TABLE_SCHEMA",
        "TABLE_NAME",
        "TABLE_OWNER",
        "VIEW_DEFINITION",
        "CHECK_OPTION",
        "IS_UPDATABLE",
        "INSERTABLE_INTO",
        "IS_SECURE",
        ("CREATED", LTZ),
        ("LAST_ALTERED", LTZ),
        ("LAST_DDL", LTZ),
        "LAST_DDL_BY",
        "COMMENT",
    )
    made: list[tuple[Any, ...]] = [
        (
            info.name.database,
            info.name.schema,
            info.name.name,
            info.owner,
            info.text,
            "NONE",
            "NO",
            "NO",
            "NO",
            *[moment(info.created_on)] * 3,
            None,
            info.comment or None,
        )
        for info in infos(context, where.name, "VIEW")
    ]
    made += [
        (where.name, SYSTEM_SCHEMA, name, None, None, "NONE", "NO", "NO", "NO", *[None] * 5)
        for name in VIEWS
    ]
    return rows(names, made)


@table("INFORMATION_SCHEMA.STAGES")
def stages(context: Context, database: str | None = None) -> Result:
    """The stages of the database."""
    where = base(context, database)
    names: Columns = (
        "STAGE_CATALOG",
        "STAGE_SCHEMA",
        "STAGE_NAME",
        "STAGE_URL",
        "STAGE_REGION",
        "STAGE_TYPE",
        "STAGE_OWNER",
        "COMMENT",
        ("CREATED", LTZ),
        ("LAST_ALTERED", LTZ),
    )
    return rows(
        names,
        [
            (
                o.database,
                o.schema,
                o.name,
                None,
                None,
                "Internal Named",
                o.owner,
                o.comment or None,
                moment(o.created_on),
                moment(o.created_on),
            )
            for o in visible(context, context.account.catalog.all("stage", where.name))
        ],
    )


@table("INFORMATION_SCHEMA.SEQUENCES")
def sequences(context: Context, database: str | None = None) -> Result:
    """The sequences of the database; their next value is not known without taking it."""
    where = base(context, database)
    names: Columns = (
        "SEQUENCE_CATALOG",
        "SEQUENCE_SCHEMA",
        "SEQUENCE_NAME",
        "SEQUENCE_OWNER",
        "DATA_TYPE",
        ("NUMERIC_PRECISION", FIXED),
        ("NUMERIC_PRECISION_RADIX", FIXED),
        ("NUMERIC_SCALE", FIXED),
        "START_VALUE",
        "MINIMUM_VALUE",
        "MAXIMUM_VALUE",
        "NEXT_VALUE",
        "INCREMENT",
        "CYCLE_OPTION",
        ("CREATED", LTZ),
        ("LAST_ALTERED", LTZ),
        "ORDERED",
        "COMMENT",
    )
    return rows(
        names,
        [
            (
                info.name.database,
                info.name.schema,
                info.name.name,
                info.owner,
                "NUMBER",
                38,
                10,
                0,
                str(info.start),
                None,
                None,
                None,
                str(info.increment),
                "NO",
                moment(info.created_on),
                moment(info.created_on),
                yes(info.ordered),
                info.comment or None,
            )
            for info in infos(context, where.name, "SEQUENCE")
        ],
    )


@table("INFORMATION_SCHEMA.TABLE_CONSTRAINTS")
def table_constraints(context: Context, database: str | None = None) -> Result:
    """Keys of tables; those of hybrid tables are enforced."""
    where = base(context, database)
    names: Columns = (
        "CONSTRAINT_CATALOG",
        "CONSTRAINT_SCHEMA",
        "CONSTRAINT_NAME",
        "TABLE_CATALOG",
        "TABLE_SCHEMA",
        "TABLE_NAME",
        "CONSTRAINT_TYPE",
        "IS_DEFERRABLE",
        "INITIALLY_DEFERRED",
        "ENFORCED",
        "COMMENT",
        ("CREATED", LTZ),
        ("LAST_ALTERED", LTZ),
        "RELY",
    )
    return rows(
        names,
        [
            (
                info.name.database,
                info.name.schema,
                key.name,
                info.name.database,
                info.name.schema,
                info.name.name,
                key.kind,
                "NO",
                "YES",
                yes(info.hybrid),
                None,
                moment(info.created_on),
                moment(info.created_on),
                "NO",
            )
            for info in infos(context, where.name, "TABLE")
            for key in info.constraints
        ],
    )


@table("INFORMATION_SCHEMA.ENABLED_ROLES")
def enabled_roles(context: Context, database: str | None = None) -> Result:
    """The roles that count in the session."""
    base(context, database)
    active = context.account.access.active(context.session)
    roles = [o for o in context.account.catalog.all("role") if o.name in active]
    return rows(("ROLE_NAME", "ROLE_OWNER"), [(o.name, o.owner or None) for o in roles])


@table("INFORMATION_SCHEMA.APPLICABLE_ROLES")
def applicable_roles(context: Context, database: str | None = None) -> Result:
    """The grants of roles that apply to the user, directly or through other roles."""
    base(context, database)
    access, session = context.account.access, context.session
    owners = {o.name: o.owner or None for o in context.account.catalog.all("role")}
    grants = [*access.grants.to("USER", session.user)]
    for role in sorted(access.available_roles(session)):
        grants += access.grants.to("ROLE", role)
    return rows(
        ("GRANTEE", "ROLE_NAME", "ROLE_OWNER", "IS_GRANTABLE"),
        [
            (g.grantee, g.role, owners.get(g.role), yes(g.option))
            for g in grants
            if g.kind == "role"
        ],
    )
