"""Databases: made, changed, listed and dropped."""

from __future__ import annotations

from typing import Any

from flowdist.emulator.catalog import Object
from flowdist.emulator.errors import SqlError, insufficient_privileges, unsupported
from flowdist.emulator.result import Result, message, rows
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.statements import Context, statement
from flowdist.emulator.statements.creating import (
    DONE,
    created,
    drop,
    free_name,
    owner_role_type,
    replacing,
    visible,
    with_privileges,
)
from flowdist.emulator.statements.schemas import (
    CONTAINER_PROPERTIES,
    TERSE,
    cascade_or_restrict,
    empty,
    remove_schema,
    set_properties,
    system_schema,
)
from flowdist.emulator.statements.showing import moment, read_name_filter
from flowdist.emulator.types import LTZ

__all__: list[str] = []


def _remove(context: Context, database: Object) -> None:
    account, session = context.account, context.session
    for schema in account.catalog.all("schema", database.name):
        remove_schema(account, schema)
    account.access.dropped(database)
    account.catalog.drop(database)
    if session.database == database.name:
        session.database = session.schema = None


@statement("CREATE", "DATABASE")
def create(context: Context, parse: Parser) -> Result:
    """CREATE [OR REPLACE] [TRANSIENT] DATABASE [IF NOT EXISTS]; it becomes the session's, with the
    schema PUBLIC that it brings.
    """
    account, session = context.account, context.session
    replace = replacing(parse, "TRANSIENT")
    if_not_exists = parse.if_not_exists()
    name = parse.identifier()
    given = parse.properties(CONTAINER_PROPERTIES)
    if not parse.ended and parse.word() != ";":
        raise parse.unsupported()
    account.access.require_account(session, "CREATE DATABASE")
    there = free_name(
        context, "database", (name,), replace, if_not_exists, lambda old: _remove(context, old)
    )
    if there is not None:
        return there
    owner = account.access.owner_role(session)
    data = {
        "transient": "TRANSIENT" in parse.modifiers,
        "retention_time": given.get("DATA_RETENTION_TIME_IN_DAYS", 1),
    }
    account.catalog.create(
        "database", (name,), owner=owner, comment=given.get("COMMENT", ""), **data
    )
    account.catalog.create("schema", (name, "PUBLIC"), owner=owner, **data)
    session.database, session.schema = name, "PUBLIC"
    return created("Database", name)


@statement("ALTER", "DATABASE")
def alter(context: Context, parse: Parser) -> Result:
    """ALTER DATABASE [IF EXISTS]: SET, UNSET, RENAME TO."""
    account, session = context.account, context.session
    if_exists = parse.if_exists()
    name = parse.identifier()
    try:
        target = account.access.database(session, name)
    except SqlError:
        if not if_exists:
            raise
        return message(DONE)
    if not parse.accept("RENAME", "TO"):
        set_properties(context, parse, target)
        return message(DONE)
    account.access.require_owner(session, target)
    new = parse.identifier()
    parse.end()
    if not empty(account, name):
        raise unsupported(f"{parse.sql.strip()} (a database that is not empty)")
    account.catalog.rename(target, (new,))
    for schema in account.catalog.all("schema", name):
        account.catalog.rename(schema, (new, schema.name))
    if session.database == name:
        session.database = new
    return message(DONE)


@statement("DROP", "DATABASE")
def drop_database(context: Context, parse: Parser) -> Result:
    """DROP DATABASE [IF EXISTS] name [CASCADE | RESTRICT]."""

    def resolve(parts: tuple[str, ...]) -> tuple[str, ...]:
        cascade_or_restrict(parse)
        if parts == ("SNOWFLAKE",):
            raise insufficient_privileges("database", "SNOWFLAKE")
        return parts

    return drop(context, parse, "database", resolve, lambda target: _remove(context, target))


COLUMNS = (
    ("created_on", LTZ),
    "name",
    "is_default",
    "is_current",
    "origin",
    "owner",
    "comment",
    "options",
    "retention_time",
    ("dropped_on", LTZ),
    "kind",
    "owner_role_type",
    "object_visibility",
    "data_quality_monitoring_settings",
)


@statement("SHOW", "DATABASES")
def show(context: Context, parse: Parser) -> Result:
    """SHOW [TERSE] DATABASES [HISTORY] [LIKE] [STARTS WITH] [LIMIT] [WITH PRIVILEGES]."""
    history = parse.accept("HISTORY")
    wanted = read_name_filter(parse)
    found = wanted.apply(visible(context, context.account.catalog.all("database")))
    found = with_privileges(context, parse, found)
    parse.end()
    if "TERSE" in parse.modifiers:
        return rows(TERSE, [(moment(o.created_on), o.name, None, None, None) for o in found])
    made = [_row(context, o) for o in found]
    at = [i for i, c in enumerate(COLUMNS) if history or c != ("dropped_on", LTZ)]
    return rows([COLUMNS[i] for i in at], [[row[i] for i in at] for row in made])


def _row(context: Context, o: Object) -> tuple[Any, ...]:
    user = context.account.catalog.find("user", (context.session.user,))
    default = str(user.data.get("default_namespace", "")) if user else ""
    return (
        moment(o.created_on),
        o.name,
        "Y" if default.split(".")[0] == str(o) else "N",
        "Y" if o.name == context.session.database else "N",
        o.data.get("origin", ""),
        o.owner,
        o.comment,
        "TRANSIENT" if o.data.get("transient") else "",
        str(o.data.get("retention_time", 1)),
        None,
        o.data.get("type", "STANDARD"),
        owner_role_type(o),
        None,
        None,
    )


@statement("DESCRIBE", "DATABASE")
def describe(context: Context, parse: Parser) -> Result:
    """DESCRIBE DATABASE: the schemas in it."""
    name = parse.identifier()
    parse.end()
    database = context.account.access.database(context.session, name)
    found = [system_schema(database)]
    found += visible(context, context.account.catalog.all("schema", name))
    found.sort(key=lambda o: o.name)
    return rows(
        (("created_on", LTZ), "name", "kind"),
        [(moment(o.created_on), o.name, "SCHEMA") for o in found],
    )
