"""Functions that say who and where the session is, and those that end statements and sessions."""

from __future__ import annotations

import json
from decimal import Decimal

from flowdist.emulator.errors import SqlError, compilation_error, insufficient_privileges
from flowdist.emulator.queries import Query
from flowdist.emulator.sql.expressions import as_text
from flowdist.emulator.statements import Context, scalar

__all__ = ["CONTEXT_VERSION"]

CONTEXT_VERSION = "10.0.0"
"""What CURRENT_VERSION says: Snowflake's releases of the documentation followed here."""
REGION = "AWS_US_WEST_2"
ORGANIZATION = "FLOWDIST"


@scalar("CURRENT_ACCOUNT")
def current_account(context: Context) -> str:
    """The account's locator."""
    return context.account.settings.account


@scalar("CURRENT_ACCOUNT_NAME")
def current_account_name(context: Context) -> str:
    """The account's name in its organization."""
    return context.account.settings.account


@scalar("CURRENT_ORGANIZATION_NAME")
def current_organization_name(context: Context) -> str:
    """The organization that the account is in."""
    return ORGANIZATION


@scalar("CURRENT_REGION")
def current_region(context: Context) -> str:
    """A region that has everything that the emulator has."""
    return REGION


@scalar("CURRENT_VERSION")
def current_version(context: Context) -> str:
    """Snowflake's version."""
    return CONTEXT_VERSION


@scalar("CURRENT_CLIENT")
def current_client(context: Context) -> str | None:
    """Name and version of the client."""
    return context.session.application or None


@scalar("CURRENT_SESSION")
def current_session(context: Context) -> str:
    """The id of the session, as text."""
    return str(context.session.id)


@scalar("CURRENT_STATEMENT")
def current_statement(context: Context) -> str:
    """The text of this statement."""
    return context.query.text


@scalar("CURRENT_TRANSACTION")
def current_transaction(context: Context) -> str | None:
    """The id of the open transaction, if one is open."""
    transaction = context.account.engine.connection(context.session).transaction
    return None if transaction is None else str(transaction.id)


@scalar("CURRENT_USER")
def current_user(context: Context) -> str:
    """The user, or the service that has signed in."""
    return context.session.user


@scalar("CURRENT_ROLE")
def current_role(context: Context) -> str:
    """The primary role."""
    return context.session.role


@scalar("CURRENT_ROLE_TYPE")
def current_role_type(context: Context) -> str:
    """Always an account's role here."""
    return "ROLE"


@scalar("CURRENT_SECONDARY_ROLES")
def current_secondary_roles(context: Context) -> str:
    """JSON: which roles count besides the primary one, and how that was asked for."""
    session = context.session
    if session.secondary_roles != "ALL":
        return json.dumps({"roles": "", "value": ""}, separators=(",", ":"))
    roles = sorted(context.account.access.roles_of_user(session.user) - {session.role})
    return json.dumps({"roles": ",".join(roles), "value": "ALL"}, separators=(",", ":"))


@scalar("CURRENT_AVAILABLE_ROLES")
def current_available_roles(context: Context) -> str:
    """JSON: the roles of the user and all below them; none where no user acts, as in a task."""
    if context.session.task is not None and context.session.service is None:
        return "[]"
    roles = sorted(context.account.access.available_roles(context.session))
    return "[ " + ", ".join(f'"{role}"' for role in roles) + " ]"


@scalar("IS_ROLE_IN_SESSION")
def is_role_in_session(context: Context, role: str | None) -> bool | None:
    """Whether a role counts in this session; the name is compared as it is written."""
    return None if role is None else role in context.account.access.active(context.session)


@scalar("CURRENT_DATABASE")
def current_database(context: Context) -> str | None:
    """The session's database, unless it is gone."""
    name = context.session.database
    return name if name and context.account.catalog.find("database", (name,)) else None


@scalar("CURRENT_SCHEMA")
def current_schema(context: Context) -> str | None:
    """The session's schema, unless it is gone."""
    database, name = current_database(context), context.session.schema
    if not database or not name:
        return None
    there = context.account.catalog.find("schema", (database, name))
    return name if there or name == "INFORMATION_SCHEMA" else None


@scalar("CURRENT_SCHEMAS")
def current_schemas(context: Context) -> str:
    """JSON: where names without a schema are looked for."""
    database, schema = current_database(context), current_schema(context)
    path = [f"{database}.{schema}"] if schema else []
    return json.dumps(path)


@scalar("CURRENT_WAREHOUSE")
def current_warehouse(context: Context) -> str | None:
    """The session's warehouse, unless it is gone."""
    name = context.session.warehouse
    return name if name and context.account.catalog.find("warehouse", (name,)) else None


@scalar("CURRENT_IP_ADDRESS")
def current_ip_address(context: Context) -> str:
    """Clients are on this machine."""
    return "127.0.0.1"


@scalar("LAST_QUERY_ID")
def last_query_id(context: Context, number: int = -1) -> str | None:
    """The id of an earlier query of the session: from the last for -1, -2 ..., from the first for
    1, 2 ...
    """
    ids = [i for i in context.session.query_ids if i != context.query.id]
    at = int(number)
    if at == 0 or abs(at) > len(ids):
        return None
    return ids[at] if at < 0 else ids[at - 1]


@scalar("GETVARIABLE")
def getvariable(context: Context, name: str) -> str | None:
    """A session variable as text; its name is compared as it is written."""
    value = context.session.variables.get(name)
    return None if value is None else as_text(value)


UNITS = {"DAYS": 86400, "HOURS": 3600, "MINUTES": 60, "SECONDS": 1, "MILLISECONDS": 0.001}
LOOK = 0.25
"""How often a statement that waits looks at the clock, in seconds."""


@scalar("SYSTEM$WAIT", acts=True)
def wait(context: Context, amount: float, unit: str = "SECONDS") -> str:
    """Wait for so many DAYS, HOURS, MINUTES, SECONDS or MILLISECONDS."""
    seconds = UNITS.get(str(unit).upper())
    if seconds is None or not isinstance(amount, int | float | Decimal) or amount < 0:
        raise compilation_error(
            f"Invalid argument for function SYSTEM$WAIT: ({amount!r}, {unit!r})", 1044, "42P13"
        )
    clock = context.account.clock
    end = clock.monotonic() + float(amount) * seconds
    while (left := end - clock.monotonic()) > 0:
        context.query.stop.wait(min(left, LOOK))
        context.query.check()
    return f"waited {amount} {str(unit).lower()}"


def _may_stop(context: Context, query: Query) -> bool:
    access, session = context.account.access, context.session
    if query.user == session.user or "ACCOUNTADMIN" in access.active(session):
        return True
    name = query.warehouse
    warehouse = context.account.catalog.find("warehouse", (name,)) if name else None
    return warehouse is not None and access.can(session, "OPERATE", warehouse)


@scalar("SYSTEM$CANCEL_QUERY", acts=True)
def cancel_query(context: Context, query_id: str) -> str:
    """Abort a query of this user, or of a warehouse that the role may operate."""
    query = context.account.queries.find(str(query_id))
    if query is None or not _may_stop(context, query):
        raise SqlError(709, "02000", f"Statement {query_id} not found")
    if query.state.ended:
        return "Identified SQL statement is not currently executing."
    context.account.queries.abort(query)
    return f"query [{query_id}] terminated."


@scalar("SYSTEM$CANCEL_ALL_QUERIES", acts=True)
def cancel_all_queries(context: Context, session_id: int) -> str:
    """Abort what runs in a session."""
    running = [
        q
        for q in context.account.queries.all()
        if q.session_id == int(session_id) and not q.state.ended and q is not context.query
    ]
    if not running:
        return "No active queries found."
    for query in running:
        if not _may_stop(context, query):
            raise insufficient_privileges("session", session_id)
        context.account.queries.abort(query)
    return f"{len(running)} queries cancelled."


@scalar("SYSTEM$ABORT_SESSION", acts=True)
def abort_session(context: Context, session_id: int) -> str:
    """End a session of this user, with what runs in it."""
    found = context.account.sessions.get(int(session_id))
    if found is None:
        raise SqlError(390111, "08001", f"Session {session_id} does not exist or has expired.")
    admin = "ACCOUNTADMIN" in context.account.access.active(context.session)
    if found.user != context.session.user and not admin:
        raise insufficient_privileges("session", session_id)
    for query in context.account.queries.all():
        if query.session_id == found.id and not query.state.ended and query is not context.query:
            context.account.queries.abort(query)
    context.account.close_session(found)
    return f"session [{session_id}] terminated."
