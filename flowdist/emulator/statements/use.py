"""USE: the role, warehouse, database and schema of the session."""

from __future__ import annotations

from flowdist.emulator.access import SYSTEM_SCHEMA
from flowdist.emulator.errors import SqlError
from flowdist.emulator.names import shown
from flowdist.emulator.result import Kind, Result, message
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.statements import Context, statement
from flowdist.emulator.statements.creating import DONE

__all__: list[str] = []


def _cannot() -> SqlError:
    """What USE says of everything that is not there or may not be seen."""
    return SqlError(
        2043,
        "02000",
        "SQL compilation error:\nObject does not exist, or operation cannot be performed.",
    )


def _done() -> Result:
    return message(DONE, Kind.SCL)


@statement("USE")
def use(context: Context, parse: Parser) -> Result:
    """USE name: a database, or a schema with its database."""
    parts = parse.name()
    parse.end()
    if len(parts) == 1:
        return _database(context, parts[0])
    if len(parts) == 2:
        return _schema(context, *parts)
    raise _cannot()


@statement("USE", "DATABASE")
def use_database(context: Context, parse: Parser) -> Result:
    """USE DATABASE: its schema PUBLIC comes with it where the role may see that."""
    name = parse.identifier()
    parse.end()
    return _database(context, name)


def _database(context: Context, name: str) -> Result:
    catalog, access, session = context.account.catalog, context.account.access, context.session
    found = catalog.find("database", (name,))
    if found is None or not access.visible(session, found):
        raise _cannot()
    public = catalog.find("schema", (name, "PUBLIC"))
    session.database = name
    session.schema = "PUBLIC" if public and access.visible(session, public) else None
    return _done()


@statement("USE", "SCHEMA")
def use_schema(context: Context, parse: Parser) -> Result:
    """USE SCHEMA [database.]name."""
    parts = parse.name()
    parse.end()
    return _schema(context, *context.session.resolve_schema(parts, "USE SCHEMA"))


def _schema(context: Context, database: str, name: str) -> Result:
    catalog, access, session = context.account.catalog, context.account.access, context.session
    above = catalog.find("database", (database,))
    if above is None or not access.visible(session, above):
        raise _cannot()
    found = catalog.find("schema", (database, name))
    if name != SYSTEM_SCHEMA and (found is None or not access.visible(session, found)):
        raise _cannot()
    session.database, session.schema = database, name
    return _done()


@statement("USE", "WAREHOUSE")
def use_warehouse(context: Context, parse: Parser) -> Result:
    """USE WAREHOUSE: any privilege on it will do; statements that need it ask for USAGE."""
    name = parse.identifier()
    parse.end()
    found = context.account.catalog.find("warehouse", (name,))
    if found is None or not context.account.access.visible(context.session, found):
        raise _cannot()
    context.session.warehouse = name
    return _done()


@statement("USE", "ROLE")
def use_role(context: Context, parse: Parser) -> Result:
    """USE ROLE: one that is granted to the user, or that such a role inherits."""
    name = parse.identifier()
    parse.end()
    if context.account.catalog.find("role", (name,)) is None:
        raise _cannot()
    if not context.account.access.may_use_role(context.session, name):
        raise SqlError(
            3013,
            "42501",
            f"SQL access control error:\nRequested role '{shown(name)}' is not assigned to the "
            "executing user. Specify another role to activate.",
        )
    context.session.role = name
    return _done()


@statement("USE", "SECONDARY", "ROLES")
def use_secondary_roles(context: Context, parse: Parser) -> Result:
    """USE SECONDARY ROLES ALL or NONE."""
    chosen = parse.accept_any("ALL", "NONE")
    if chosen is None:
        raise parse.unsupported()
    parse.end()
    context.session.secondary_roles = chosen
    return _done()
