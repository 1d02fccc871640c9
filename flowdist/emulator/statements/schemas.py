"""Schemas: made, changed, listed, and dropped with all that is in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowdist.emulator.access import SYSTEM_SCHEMA
from flowdist.emulator.catalog import Object
from flowdist.emulator.errors import SqlError, insufficient_privileges, invalid_value, unsupported
from flowdist.emulator.grants import Table
from flowdist.emulator.result import Result, message, rows
from flowdist.emulator.sql.parser import Parser, Reader
from flowdist.emulator.statements import Context, statement
from flowdist.emulator.statements.creating import (
    DONE,
    changes,
    created,
    drop,
    free_name,
    owner_role_type,
    read_unset,
    replacing,
    visible,
    with_privileges,
)
from flowdist.emulator.statements.showing import Filter, moment, read_name_filter
from flowdist.emulator.types import LTZ

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["CONTAINER_PROPERTIES", "empty", "remove_schema"]

MOST_DAYS = 90
ABOUT_SYSTEM_SCHEMA = "Views describing the contents of schemas in this database"


def _days(parse: Parser) -> int:
    days = parse.integer()
    if not 0 <= days <= MOST_DAYS:
        raise invalid_value(days, "DATA_RETENTION_TIME_IN_DAYS")
    return days


CONTAINER_PROPERTIES: dict[str, Reader] = {
    "DATA_RETENTION_TIME_IN_DAYS": _days,
    "COMMENT": Parser.text,
}
"""What databases and schemas have; the days are kept and shown, old data are not."""


def remove_schema(account: Account, schema: Object) -> None:
    """Drop a schema with all that is in it: services stop, tasks and files go, tables go."""
    account.drop_schema(schema.database, schema.name)
    account.access.dropped(schema)
    account.catalog.drop(schema)


def empty(account: Account, database: str, schema: str | None = None) -> bool:
    """Whether nothing but schemas is in a database, or nothing at all in a schema."""
    objects = [o for o in account.catalog.inside(database, schema) if o.kind != "schema"]
    return not objects and not account.engine.tables(database, schema)


@statement("CREATE", "SCHEMA")
def create(context: Context, parse: Parser) -> Result:
    """CREATE [OR REPLACE] [TRANSIENT] SCHEMA [IF NOT EXISTS]; it becomes the session's."""
    account, session = context.account, context.session
    replace = replacing(parse, "TRANSIENT")
    if_not_exists = parse.if_not_exists()
    database, name = session.resolve_schema(parse.name(), "CREATE SCHEMA")
    given = parse.properties(CONTAINER_PROPERTIES)
    if parse.word() in ("CLONE", "WITH", "TAG"):
        raise parse.unsupported()
    parse.end()
    where = account.access.database(session, database)
    account.access.require(session, "CREATE SCHEMA", where)
    there = free_name(
        context,
        "schema",
        (database, name),
        replace,
        if_not_exists,
        lambda old: remove_schema(account, old),
    )
    if there is not None:
        return there
    if name == SYSTEM_SCHEMA:
        raise insufficient_privileges("schema", SYSTEM_SCHEMA)
    account.catalog.create(
        "schema",
        (database, name),
        owner=account.access.owner_role(session),
        comment=given.get("COMMENT", ""),
        transient="TRANSIENT" in parse.modifiers or bool(where.data.get("transient")),
        retention_time=given.get("DATA_RETENTION_TIME_IN_DAYS", 1),
    )
    session.database, session.schema = database, name
    return created("Schema", name)


@statement("ALTER", "SCHEMA")
def alter(context: Context, parse: Parser) -> Result:
    """ALTER SCHEMA [IF EXISTS]: SET, UNSET, RENAME TO."""
    account, session = context.account, context.session
    if_exists = parse.if_exists()
    database, name = session.resolve_schema(parse.name(), "ALTER SCHEMA")
    try:
        target = account.access.schema(session, database, name)
    except SqlError:
        if not if_exists:
            raise
        return message(DONE)
    if parse.accept("RENAME", "TO"):
        account.access.require_owner(session, target)
        new = session.resolve_schema(parse.name(), "ALTER SCHEMA")
        parse.end()
        if not empty(account, database, name):
            raise unsupported(f"{parse.sql.strip()} (a schema that is not empty)")
        account.access.database(session, new[0])
        account.catalog.rename(target, new)
        if (session.database, session.schema) == (database, name):
            session.database, session.schema = new
        return message(DONE)
    set_properties(context, parse, target)
    return message(DONE)


def set_properties(context: Context, parse: Parser, target: Object) -> None:
    """SET and UNSET of a database or schema."""
    access, catalog = context.account.access, context.account.catalog
    access.require_any(context.session, ("MODIFY", "OWNERSHIP"), target)
    if parse.accept("SET"):
        given = changes(parse, CONTAINER_PROPERTIES, target.kind)
        parse.end()
        days = given.get("DATA_RETENTION_TIME_IN_DAYS", target.data.get("retention_time", 1))
        catalog.update(target, comment=given.get("COMMENT"), retention_time=days)
    elif parse.accept("UNSET"):
        names = read_unset(parse, CONTAINER_PROPERTIES, target.kind)
        days = 1 if "DATA_RETENTION_TIME_IN_DAYS" in names else target.data.get("retention_time", 1)
        catalog.update(target, comment="" if "COMMENT" in names else None, retention_time=days)
    else:
        raise parse.unsupported()


@statement("DROP", "SCHEMA")
def drop_schema(context: Context, parse: Parser) -> Result:
    """DROP SCHEMA [IF EXISTS] name [CASCADE | RESTRICT]."""
    session = context.session

    def remove(target: Object) -> None:
        remove_schema(context.account, target)
        if (session.database, session.schema) == (target.database, target.name):
            session.schema = None

    def resolve(parts: tuple[str, ...]) -> tuple[str, ...]:
        cascade_or_restrict(parse)
        return session.resolve_schema(parts, "DROP SCHEMA")

    return drop(context, parse, "schema", resolve, remove)


def cascade_or_restrict(parse: Parser) -> None:
    """CASCADE is the default and RESTRICT is not there: it asks for foreign keys from elsewhere."""
    if not parse.accept("CASCADE") and parse.word() == "RESTRICT":
        raise parse.unsupported()


@statement("UNDROP", "SCHEMA")
@statement("UNDROP", "DATABASE")
def undrop(context: Context, parse: Parser) -> Result:
    """Nothing is kept of what was dropped."""
    raise unsupported(parse.sql)


COLUMNS = (
    ("created_on", LTZ),
    "name",
    "is_default",
    "is_current",
    "database_name",
    "owner",
    "comment",
    "options",
    "retention_time",
    ("dropped_on", LTZ),
    "owner_role_type",
    "object_visibility",
    "is_nested",
)
TERSE = (("created_on", LTZ), "name", "kind", "database_name", "schema_name")


@statement("SHOW", "SCHEMAS")
def show(context: Context, parse: Parser) -> Result:
    """SHOW [TERSE] SCHEMAS [HISTORY] [LIKE] [IN] [STARTS WITH] [LIMIT] [WITH PRIVILEGES]."""
    history = parse.accept("HISTORY")
    wanted = _schemas_wanted(context, parse)
    catalog = context.account.catalog
    databases = [
        d for d in visible(context, catalog.all("database")) if wanted.database in (None, d.name)
    ]
    found = []
    for database in databases:
        found.append(system_schema(database))
        found += visible(context, catalog.all("schema", database.name))
    found.sort(key=lambda o: (o.database, o.name))
    found = with_privileges(context, parse, wanted.apply(found))
    parse.end()
    if "TERSE" in parse.modifiers:
        return rows(TERSE, [(moment(o.created_on), o.name, None, o.database, None) for o in found])
    made = [_row(context, o) for o in found]
    at = [i for i, c in enumerate(COLUMNS) if history or c != ("dropped_on", LTZ)]
    return rows([COLUMNS[i] for i in at], [[row[i] for i in at] for row in made])


def _schemas_wanted(context: Context, parse: Parser) -> Filter:
    pattern = parse.text() if parse.accept("LIKE") else None
    database = context.session.database
    if parse.accept("IN"):
        if parse.accept("ACCOUNT"):
            database = None
        else:
            parse.accept("DATABASE")
            if not parse.ended and parse.word() not in ("STARTS", "LIMIT", "WITH", ";"):
                database = parse.identifier()
            if database is not None:
                context.account.access.database(context.session, database)
    rest = read_name_filter(parse)
    return Filter(pattern, database, None, None, rest.prefix, rest.limit, rest.after)


def system_schema(database: Object) -> Object:
    """INFORMATION_SCHEMA of a database, which is not in the catalog: nobody makes or drops it."""
    return Object(
        0, "schema", database.name, "", SYSTEM_SCHEMA, "", database.created_on, ABOUT_SYSTEM_SCHEMA
    )


def _row(context: Context, o: Object) -> tuple[Any, ...]:
    session = context.session
    user = context.account.catalog.find("user", (session.user,))
    default = user.data.get("default_namespace") if user else None
    return (
        moment(o.created_on),
        o.name,
        "Y" if str(o) == default else "N",
        "Y" if (o.database, o.name) == (session.database, session.schema) else "N",
        o.database,
        o.owner,
        o.comment,
        "TRANSIENT" if o.data.get("transient") else "",
        str(o.data.get("retention_time", 1)),
        None,
        owner_role_type(o),
        None,
        "N",
    )


@statement("DESCRIBE", "SCHEMA")
def describe(context: Context, parse: Parser) -> Result:
    """DESCRIBE SCHEMA: the tables and views in it."""
    database, name = context.session.resolve_schema(parse.name(), "DESCRIBE SCHEMA")
    parse.end()
    context.account.access.schema(context.session, database, name)
    found = [
        info
        for info in context.account.engine.tables(database, name)
        if info.kind != "SEQUENCE"
        and context.account.access.visible(context.session, Table.of(info))
    ]
    return rows(
        (("created_on", LTZ), "name", "kind"),
        [(moment(info.created_on), info.name.name, info.kind) for info in found],
    )
