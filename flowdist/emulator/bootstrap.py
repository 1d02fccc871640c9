"""What a new account holds: Snowflake's own roles, and a user with all that a flow needs."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from flowdist.emulator import passwords
from flowdist.emulator.catalog import Object
from flowdist.emulator.grants import ACCOUNT_KEY, key_of
from flowdist.emulator.statements.warehouses import new_warehouse

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["bootstrap"]

USER, ROLE, WAREHOUSE, DATABASE = "FLOWDIST", "FLOWDIST_ROLE", "FLOWDIST_WH", "FLOWDIST"
ADMIN, SECURITY, SYSTEM, USERS, PUBLIC = (
    "ACCOUNTADMIN",
    "SECURITYADMIN",
    "SYSADMIN",
    "USERADMIN",
    "PUBLIC",
)
BELOW = {ADMIN: (SECURITY, SYSTEM), SECURITY: (USERS,), SYSTEM: (ROLE,)}
"""The hierarchy of roles: what is granted to each."""

ON_ACCOUNT = {
    SECURITY: ("MANAGE GRANTS",),
    SYSTEM: ("CREATE DATABASE", "CREATE WAREHOUSE"),
    USERS: ("CREATE ROLE", "CREATE USER"),
    ROLE: (
        "BIND SERVICE ENDPOINT",
        "CREATE COMPUTE POOL",
        "CREATE DATABASE",
        "CREATE INTEGRATION",
        "CREATE WAREHOUSE",
        "EXECUTE MANAGED TASK",
        "EXECUTE TASK",
        "MONITOR EXECUTION",
    ),
}
SHARED_SCHEMAS = ("ACCOUNT_USAGE", "LOCAL", "SPCS", "TELEMETRY")
"""The schemas of the database SNOWFLAKE that something is in."""


def bootstrap(account: Account) -> None:
    """Fill an empty catalog; one that has been filled is left as it is."""
    if account.catalog.setting("password") is not None:
        return
    _roles(account)
    _shared(account)
    _ready_made(account)
    password = secrets.token_urlsafe(24)
    account.catalog.update(_user(account), password=passwords.hashed(password))
    # Last: a process that is killed before this begins anew, over what is there.
    account.catalog.keep("password", password)


def _make(account: Account, kind: str, name: tuple[str, ...], owner: str, **data: Any) -> Object:
    found = account.catalog.find(kind, name)
    return found or account.catalog.create(kind, name, owner=owner, **data)


def _roles(account: Account) -> None:
    grants = account.access.grants
    for role in (ADMIN, SECURITY, SYSTEM, USERS, PUBLIC):
        _make(account, "role", (role,), "")
    _make(account, "role", (ROLE,), USERS)
    for above, roles in BELOW.items():
        for role in roles:
            grants.add("USAGE", "role", f"role {role}", above, granted_by=ADMIN)
    for role, privileges in ON_ACCOUNT.items():
        for privilege in privileges:
            grants.add(privilege, "account", ACCOUNT_KEY, role, granted_by=ADMIN)


def _shared(account: Account) -> None:
    database = _make(
        account,
        "database",
        ("SNOWFLAKE",),
        "",
        type="APPLICATION",
        origin="SNOWFLAKE.ACCOUNT_USAGE",
    )
    account.access.grants.add("USAGE", "database", key_of(database), PUBLIC)
    for name in SHARED_SCHEMAS:
        schema = _make(account, "schema", ("SNOWFLAKE", name), "")
        if name != "ACCOUNT_USAGE":
            account.access.grants.add("USAGE", "schema", key_of(schema), PUBLIC)


def _ready_made(account: Account) -> None:
    _make(account, "database", (DATABASE,), ROLE)
    _make(account, "schema", (DATABASE, "PUBLIC"), ROLE)
    if account.catalog.find("warehouse", (WAREHOUSE,)) is None:
        now = account.clock.time()
        account.catalog.create("warehouse", (WAREHOUSE,), owner=ROLE, **new_warehouse(now))


def _user(account: Account) -> Object:
    user = _make(
        account,
        "user",
        (USER,),
        USERS,
        login_name=USER,
        display_name=USER,
        default_role=ROLE,
        default_warehouse=WAREHOUSE,
        default_namespace=f"{DATABASE}.PUBLIC",
        # Not ALL, as new users have it: then every check would pass by way of ACCOUNTADMIN.
        default_secondary_roles=[],
    )
    for role in (ADMIN, ROLE):
        account.access.grants.add(
            "USAGE", "role", f"role {role}", USER, grantee_kind="USER", granted_by=ADMIN
        )
    return user
