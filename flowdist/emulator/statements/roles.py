"""Roles and users: made, changed, listed and dropped."""

from __future__ import annotations

from typing import Any

from flowdist.emulator import passwords
from flowdist.emulator.bootstrap import USER
from flowdist.emulator.catalog import Object
from flowdist.emulator.errors import SqlError, insufficient_privileges, unsupported
from flowdist.emulator.grants import key_of
from flowdist.emulator.names import shown
from flowdist.emulator.parameters import SESSION
from flowdist.emulator.result import Result, message, rows
from flowdist.emulator.sql.parser import Parser, Reader
from flowdist.emulator.statements import Context, statement
from flowdist.emulator.statements.access_tokens import alter_access_tokens
from flowdist.emulator.statements.creating import (
    DONE,
    changes,
    created,
    drop,
    free_name,
    read_unset,
    replacing,
)
from flowdist.emulator.statements.showing import moment, read_name_filter
from flowdist.emulator.types import FIXED, LTZ

__all__: list[str] = []

SYSTEM_ROLES = ("ACCOUNTADMIN", "SECURITYADMIN", "SYSADMIN", "USERADMIN", "PUBLIC")
USER_TYPES = ("PERSON", "SERVICE", "LEGACY_SERVICE", "NULL")


# -- roles


def _remove_role(context: Context, role: Object) -> None:
    account = context.account
    if role.name in SYSTEM_ROLES:
        raise insufficient_privileges("role", role.name)
    account.access.role_dropped(role.name, context.session.role)
    account.access.dropped(role)
    account.catalog.drop(role)


@statement("CREATE", "ROLE")
def create_role(context: Context, parse: Parser) -> Result:
    """CREATE [OR REPLACE] ROLE [IF NOT EXISTS]."""
    account = context.account
    replace = replacing(parse)
    if_not_exists = parse.if_not_exists()
    name = parse.identifier()
    given = parse.properties({"COMMENT": Parser.text})
    if parse.word() in ("WITH", "TAG"):
        raise parse.unsupported()
    parse.end()
    account.access.require_account(context.session, "CREATE ROLE")
    there = free_name(
        context, "role", (name,), replace, if_not_exists, lambda old: _remove_role(context, old)
    )
    if there is not None:
        return there
    owner = account.access.owner_role(context.session)
    account.catalog.create("role", (name,), owner=owner, comment=given.get("COMMENT", ""))
    return created("Role", name)


@statement("ALTER", "ROLE")
def alter_role(context: Context, parse: Parser) -> Result:
    """ALTER ROLE [IF EXISTS]: SET COMMENT, UNSET COMMENT."""
    catalog = context.account.catalog
    if_exists = parse.if_exists()
    name = parse.identifier()
    target = catalog.find("role", (name,))
    if target is None and if_exists:
        return message(DONE)
    target = catalog.require("role", (name,))
    _require_owner(context, target)
    if parse.accept("SET"):
        given = changes(parse, {"COMMENT": Parser.text}, "ROLE")
        parse.end()
        catalog.update(target, comment=given["COMMENT"])
    elif parse.accept("UNSET"):
        read_unset(parse, {"COMMENT": None}, "ROLE")
        catalog.update(target, comment="")
    else:
        raise parse.unsupported()
    return message(DONE)


def _require_owner(context: Context, target: Object) -> None:
    """Roles and users are seen by everybody: without OWNERSHIP the answer is 3001."""
    if not context.account.access.can(context.session, "OWNERSHIP", target):
        raise insufficient_privileges(target.kind, shown(target.name))


@statement("DROP", "ROLE")
def drop_role(context: Context, parse: Parser) -> Result:
    """DROP ROLE [IF EXISTS]: what it owned is owned by the role that drops it."""
    if_exists = parse.if_exists()
    name = parse.identifier()
    parse.end()
    target = context.account.catalog.find("role", (name,))
    if target is None and if_exists:
        return message(f"Drop statement executed successfully ({shown(name)} already dropped).")
    target = context.account.catalog.require("role", (name,))
    _require_owner(context, target)
    _remove_role(context, target)
    return message(f"{shown(name)} successfully dropped.")


ROLE_COLUMNS = (
    ("created_on", LTZ),
    "name",
    "is_default",
    "is_current",
    "is_inherited",
    ("assigned_to_users", FIXED),
    ("granted_to_roles", FIXED),
    ("granted_roles", FIXED),
    "owner",
    "comment",
)


@statement("SHOW", "ROLES")
def show_roles(context: Context, parse: Parser) -> Result:
    """SHOW ROLES [LIKE] [STARTS WITH] [LIMIT]: everybody sees all of them."""
    if "TERSE" in parse.modifiers or parse.word() == "IN":
        raise parse.unsupported()
    wanted = read_name_filter(parse)
    parse.end()
    access, session = context.account.access, context.session
    user = context.account.catalog.find("user", (session.user,))
    default = user.data.get("default_role") if user else None
    inherited = access.inherited({session.role, "PUBLIC"}) - {session.role}
    made = []
    for o in wanted.apply(context.account.catalog.all("role")):
        grants = [g for g in access.grants.on(key_of(o)) if g.privilege == "USAGE"]
        made.append(
            (
                moment(o.created_on),
                o.name,
                "Y" if o.name == default else "N",
                "Y" if o.name == session.role else "N",
                "Y" if o.name in inherited else "N",
                sum(g.grantee_kind == "USER" for g in grants),
                sum(g.grantee_kind == "ROLE" for g in grants),
                sum(g.kind == "role" for g in access.grants.to("ROLE", o.name)),
                o.owner,
                o.comment,
            )
        )
    return rows(ROLE_COLUMNS, made)


@statement("CREATE", "DATABASE", "ROLE")
@statement("ALTER", "DATABASE", "ROLE")
@statement("DROP", "DATABASE", "ROLE")
@statement("GRANT", "DATABASE", "ROLE")
@statement("REVOKE", "DATABASE", "ROLE")
@statement("SHOW", "DATABASE", "ROLES")
def database_roles(context: Context, parse: Parser) -> Result:
    """Roles of databases are not there."""
    raise unsupported(parse.sql)


# -- users


def _names_or_none(parse: Parser) -> list[str]:
    return [value.upper() for value in parse.parenthesised(Parser.text)]


def _name_text(parse: Parser) -> str:
    return ".".join(shown(part) for part in parse.name())


def _plain_name(parse: Parser) -> str:
    return parse.identifier()


def _user_type(parse: Parser) -> str:
    return parse.text_or_word().upper()


def _parameter(name: str) -> Reader:
    return lambda parse: SESSION[name].read(parse.literal())


USER_PROPERTIES: dict[str, Reader] = {
    "PASSWORD": Parser.text,
    "LOGIN_NAME": Parser.text_or_word,
    "DISPLAY_NAME": Parser.text_or_word,
    "FIRST_NAME": Parser.text_or_word,
    "LAST_NAME": Parser.text_or_word,
    "EMAIL": Parser.text_or_word,
    "DISABLED": Parser.boolean,
    "MUST_CHANGE_PASSWORD": Parser.boolean,
    "DEFAULT_WAREHOUSE": _plain_name,
    "DEFAULT_NAMESPACE": _name_text,
    "DEFAULT_ROLE": _plain_name,
    "DEFAULT_SECONDARY_ROLES": _names_or_none,
    "TYPE": _user_type,
    "COMMENT": Parser.text,
    **{name: _parameter(name) for name in SESSION},
}


def _user_data(given: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    parameters = {**old.get("parameters", {}), **{k: v for k, v in given.items() if k in SESSION}}
    data = {k.lower(): v for k, v in given.items() if k not in SESSION and k != "COMMENT"}
    if "password" in data:
        data["password"] = passwords.hashed(data["password"])
    if "login_name" in data:
        data["login_name"] = data["login_name"].upper()
    if data.get("type", "PERSON") not in USER_TYPES:
        raise SqlError(
            1008,
            "22023",
            f"SQL compilation error:\ninvalid value [{data['type']}] for parameter 'TYPE'",
        )
    return {**old, **data, "parameters": parameters}


@statement("CREATE", "USER")
def create_user(context: Context, parse: Parser) -> Result:
    """CREATE [OR REPLACE] USER [IF NOT EXISTS]."""
    account = context.account
    replace = replacing(parse)
    if_not_exists = parse.if_not_exists()
    name = parse.identifier()
    given = parse.properties(USER_PROPERTIES)
    if not parse.ended and parse.word() != ";":
        raise parse.unsupported()
    account.access.require_account(context.session, "CREATE USER")
    there = free_name(
        context, "user", (name,), replace, if_not_exists, lambda old: _remove_user(context, old)
    )
    if there is not None:
        return there
    fresh = {"login_name": name, "display_name": name, "default_secondary_roles": ["ALL"]}
    account.catalog.create(
        "user",
        (name,),
        owner=account.access.owner_role(context.session),
        comment=given.get("COMMENT", ""),
        **_user_data(given, fresh),
    )
    return created("User", name)


@statement("ALTER", "USER")
def alter_user(context: Context, parse: Parser) -> Result:
    """ALTER USER [IF EXISTS]: SET, UNSET, ADD, REMOVE; users may change what is their own."""
    catalog = context.account.catalog
    if_exists = parse.if_exists()
    own = parse.word() in ("SET", "UNSET", "ADD", "REMOVE")
    name = context.session.user if own else parse.identifier()
    if if_exists and catalog.find("user", (name,)) is None:
        return message(DONE)
    target = catalog.require("user", (name,))
    if name != context.session.user:
        _require_owner(context, target)
    if parse.accept("SET"):
        given = changes(parse, USER_PROPERTIES, "USER")
        parse.end()
        data = _user_data(given, target.data)
        catalog.update(target, comment=given.get("COMMENT"), **data)
        if name == USER and "PASSWORD" in given:
            catalog.keep("password", given["PASSWORD"])
    elif parse.accept("UNSET"):
        names = read_unset(parse, USER_PROPERTIES, "USER")
        parameters = {k: v for k, v in target.data.get("parameters", {}).items() if k not in names}
        gone = {n.lower(): None for n in names if n not in SESSION and n != "COMMENT"}
        comment = "" if "COMMENT" in names else None
        catalog.update(target, comment=comment, parameters=parameters, **gone)
    else:
        return alter_access_tokens(context, parse, target)
    return message(DONE)


def _remove_user(context: Context, user: Object) -> None:
    access = context.account.access
    context.account.tokens.revoke_user(user.name)
    access.grants.remove(access.grants.to("USER", user.name))
    access.dropped(user)
    context.account.catalog.drop(user)


@statement("DROP", "USER")
def drop_user(context: Context, parse: Parser) -> Result:
    """DROP USER [IF EXISTS]."""
    return drop(
        context, parse, "user", lambda parts: parts, lambda user: _remove_user(context, user)
    )


USER_COLUMNS = (
    "name",
    ("created_on", LTZ),
    "login_name",
    "display_name",
    "first_name",
    "last_name",
    "email",
    "mins_to_unlock",
    "days_to_expiry",
    "comment",
    "disabled",
    "must_change_password",
    "snowflake_lock",
    "default_warehouse",
    "default_namespace",
    "default_role",
    "default_secondary_roles",
    "ext_authn_duo",
    "ext_authn_uid",
    "mins_to_bypass_mfa",
    "owner",
    ("last_success_login", LTZ),
    ("expires_at_time", LTZ),
    ("locked_until_time", LTZ),
    "has_password",
    "has_rsa_public_key",
    "type",
    "has_mfa",
    "has_pat",
    "has_workload_identity",
    "is_from_organization_user",
)


@statement("SHOW", "USERS")
def show_users(context: Context, parse: Parser) -> Result:
    """SHOW USERS [LIKE] [STARTS WITH] [LIMIT]: names for all, the rest for who may know it."""
    if "TERSE" in parse.modifiers:
        raise parse.unsupported()
    wanted = read_name_filter(parse)
    parse.end()
    found = wanted.apply(context.account.catalog.all("user"))
    return rows(USER_COLUMNS, [_user_row(context, o) for o in found])


def _user_row(context: Context, o: Object) -> tuple[Any, ...]:
    access, data = context.account.access, o.data
    may = access.can(context.session, "OWNERSHIP", o) or access.manages_grants(context.session)
    if not may:
        return (o.name, *[None] * (len(USER_COLUMNS) - 1))
    secondary = data.get("default_secondary_roles") or []
    return (
        o.name,
        moment(o.created_on),
        data.get("login_name"),
        data.get("display_name"),
        data.get("first_name"),
        data.get("last_name"),
        data.get("email"),
        None,
        None,
        o.comment,
        str(bool(data.get("disabled"))).lower(),
        str(bool(data.get("must_change_password"))).lower(),
        "false",
        data.get("default_warehouse"),
        data.get("default_namespace"),
        data.get("default_role"),
        "[" + ",".join(f'"{role}"' for role in secondary) + "]",
        "false",
        None,
        None,
        o.owner,
        moment(data.get("last_success_login")),
        None,
        None,
        str(bool(data.get("password"))).lower(),
        "false",
        data.get("type"),
        "false",
        "false",
        "false",
        "false",
    )


@statement("DESCRIBE", "USER")
def describe_user(context: Context, parse: Parser) -> Result:
    """DESCRIBE USER: its properties, one to a row."""
    name = parse.identifier()
    parse.end()
    target = context.account.catalog.require("user", (name,))
    if name != context.session.user and not context.account.access.manages_grants(context.session):
        _require_owner(context, target)
    kept = ("PASSWORD", "COMMENT")
    properties = [("NAME", target.name), ("COMMENT", target.comment or None)]
    for key in USER_PROPERTIES:
        if key not in kept and key not in SESSION:
            value = target.data.get(key.lower())
            if isinstance(value, list):
                value = "[" + ",".join(f'"{role}"' for role in value) + "]"
            properties.append((key, None if value is None else str(value)))
    properties.append(("PASSWORD", "********" if target.data.get("password") else None))
    return rows(
        ("property", "value", "default", "description"),
        [(key, "null" if value is None else value, "null", "") for key, value in properties],
    )
