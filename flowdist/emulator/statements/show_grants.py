"""SHOW GRANTS: what is granted on an object, to a role or user, and of a role."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from flowdist.emulator.catalog import Object
from flowdist.emulator.errors import SqlError, insufficient_privileges
from flowdist.emulator.grants import ACCOUNT_KEY, Grant, Securable, full_text, key_of
from flowdist.emulator.names import shown
from flowdist.emulator.privileges import PRIVILEGES, granted_on
from flowdist.emulator.result import Result, rows
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.statements import Context, statement
from flowdist.emulator.statements.grants import read_kind, read_object
from flowdist.emulator.statements.showing import moment
from flowdist.emulator.types import LTZ

__all__: list[str] = []

CREATED = ("created_on", LTZ)
TO_ROLE = (
    CREATED,
    "privilege",
    "granted_on",
    "name",
    "granted_to",
    "grantee_name",
    "grant_option",
    "granted_by",
)
ON_OBJECT = (*TO_ROLE, "granted_by_role_type")
TO_USER = (CREATED, "role", "granted_to", "grantee_name", "granted_by")
FUTURE = (CREATED, "privilege", "grant_on", "name", "grant_to", "grantee_name", "grant_option")


@statement("SHOW", "GRANTS")
def show(context: Context, parse: Parser) -> Result:
    """SHOW GRANTS [ON ... | TO ... | OF ROLE ...] [LIMIT n]."""
    context.account.access.apply_future()
    if parse.accept("ON"):
        return _on(context, parse)
    if parse.accept("OF"):
        return _of(context, parse)
    if parse.accept("TO"):
        if parse.accept("ROLE"):
            return _to_role(context, parse)
        if parse.accept("USER"):
            return _to_user(context, parse, parse.identifier())
        raise parse.unsupported()
    return _to_user(context, parse, context.session.user)


def _limited(parse: Parser, made: Iterable[Sequence[Any]]) -> list[Sequence[Any]]:
    found = list(made)
    if parse.accept("LIMIT"):
        found = found[: parse.integer()]
    parse.end()
    return found


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _on(context: Context, parse: Parser) -> Result:
    access = context.account.access
    if parse.accept("ACCOUNT"):
        name = context.account.settings.account
        grants = access.grants.on(ACCOUNT_KEY)
        made = [_row(g, "ACCOUNT", name) for g in _ordered(grants)]
        return rows(ON_OBJECT, _limited(parse, ((*r, "ROLE") for r in made)))
    target = read_object(context, parse, read_kind(parse))
    access.require_visible(context.session, target)
    made = [_owner_row(target)] if target.owner else []
    grants = access.grants.on(key_of(target))
    made += [_row(g, granted_on(target.kind), full_text(target)) for g in _ordered(grants)]
    return rows(ON_OBJECT, _limited(parse, ((*r, "ROLE" if r[-1] else "") for r in made)))


def _owner_row(target: Securable) -> tuple[Any, ...]:
    when = target.created_on if isinstance(target, Object) else None
    return (
        moment(when),
        "OWNERSHIP",
        granted_on(target.kind),
        full_text(target),
        "ROLE",
        target.owner,
        "true",
        target.owner,
    )


def _row(grant: Grant, kind: str, name: str) -> tuple[Any, ...]:
    return (
        moment(grant.entry.created_on),
        grant.privilege,
        kind,
        name,
        grant.grantee_kind,
        grant.grantee,
        _flag(grant.option),
        grant.granted_by,
    )


def _ordered(grants: Iterable[Grant]) -> list[Grant]:
    return sorted(grants, key=lambda g: (g.privilege, g.grantee, g.entry.id))


def _to_role(context: Context, parse: Parser) -> Result:
    access, catalog = context.account.access, context.account.catalog
    role = catalog.require("role", (parse.identifier(),))
    _may_look(context, role)
    targets: dict[str, Securable] = {key_of(o): o for o in catalog.everything()}
    targets |= {key_of(t): t for t in access.tables()}
    made = [
        _owner_row(t) for t in targets.values() if t.owner == role.name and t.kind in PRIVILEGES
    ]
    for grant in access.grants.to("ROLE", role.name):
        if grant.target == ACCOUNT_KEY:
            made.append(_row(grant, "ACCOUNT", context.account.settings.account))
        elif grant.target in targets:
            target = targets[grant.target]
            made.append(_row(grant, granted_on(target.kind), full_text(target)))
    made.sort(key=lambda r: (r[1], r[2], r[3]))
    return rows(TO_ROLE, _limited(parse, made))


def _may_look(context: Context, role: Object) -> None:
    """Roles may be asked about by who has them, owns them, or manages grants."""
    access, session = context.account.access, context.session
    roles = access.active(session) | access.available_roles(session)
    if not (
        role.name in roles
        or access.can(session, "OWNERSHIP", role)
        or access.manages_grants(session)
    ):
        raise insufficient_privileges("role", shown(role.name))


def _to_user(context: Context, parse: Parser, name: str) -> Result:
    access = context.account.access
    user = context.account.catalog.find("user", (name,))
    if user is None and name != context.session.user:
        raise SqlError(
            2003,
            "02000",
            f"SQL compilation error:\nUser '{shown(name)}' does not exist or not authorized.",
        )
    if (
        user is not None
        and name != context.session.user
        and not access.can(context.session, "OWNERSHIP", user)
        and not access.manages_grants(context.session)
    ):
        raise insufficient_privileges("user", shown(name))
    made = [
        (moment(g.entry.created_on), g.role, "USER", name, g.granted_by)
        for g in sorted(access.grants.to("USER", name), key=lambda g: g.role)
        if g.kind == "role"
    ]
    return rows(TO_USER, _limited(parse, made))


def _of(context: Context, parse: Parser) -> Result:
    parse_kind = parse.accept_any("ROLE")
    if parse_kind is None:
        raise parse.unsupported()
    role = context.account.catalog.require("role", (parse.identifier(),))
    made = [
        (moment(g.entry.created_on), role.name, g.grantee_kind, g.grantee, g.granted_by)
        for g in _ordered(context.account.access.grants.on(key_of(role)))
        if g.privilege == "USAGE"
    ]
    return rows((CREATED, "role", *TO_USER[2:]), _limited(parse, made))


@statement("SHOW", "FUTURE", "GRANTS")
def show_future(context: Context, parse: Parser) -> Result:
    """SHOW FUTURE GRANTS IN {SCHEMA | DATABASE} name, or TO ROLE name."""
    access, session = context.account.access, context.session
    found = access.grants.future()
    scopes = {
        key_of(o): o for kind in ("database", "schema") for o in context.account.catalog.all(kind)
    }
    if parse.accept("TO", "ROLE"):
        role = context.account.catalog.require("role", (parse.identifier(),))
        _may_look(context, role)
        found = [g for g in found if g.grantee == role.name]
    else:
        parse.expect("IN")
        if parse.accept("DATABASE"):
            scope = access.database(session, parse.identifier())
        else:
            parse.expect("SCHEMA")
            scope = access.schema(session, *session.resolve_schema(parse.name(), "SHOW"))
        found = [g for g in found if g.scope == key_of(scope)]
    made = [
        (
            moment(g.entry.created_on),
            g.privilege,
            granted_on(g.kind),
            f"{full_text(scopes[g.scope])}.<{granted_on(g.kind)}>",
            "ROLE",
            g.grantee,
            _flag(g.option),
        )
        for g in found
        if g.scope in scopes
    ]
    return rows(FUTURE, _limited(parse, made))
