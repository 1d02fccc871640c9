"""GRANT and REVOKE: roles to roles and users, privileges on objects to roles, ownership."""

from __future__ import annotations

from dataclasses import dataclass

from flowdist.emulator.catalog import Object
from flowdist.emulator.errors import SqlError, compilation_error, insufficient_privileges
from flowdist.emulator.grants import ACCOUNT_KEY, Grant, Securable, key_of
from flowdist.emulator.names import FullName, shown
from flowdist.emulator.privileges import (
    ACCOUNT_PRIVILEGES,
    PLURALS,
    PRIVILEGES,
    TRANSFERABLE,
    WORDS,
    granted_on,
)
from flowdist.emulator.result import Result, message
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.statements import Context, statement
from flowdist.emulator.statements.creating import DONE, privilege

__all__ = ["On", "read_kind", "read_object"]

SCHEMA_KINDS = frozenset(PLURALS.values()) - {"schema"}
ALL = ("ALL", "ALL PRIVILEGES")


@dataclass(frozen=True)
class On:
    """What follows ON: the account, objects, or what will be in a database or schema."""

    kind: str
    targets: tuple[Securable, ...] = ()
    future_in: Object | None = None


# -- roles


@statement("GRANT", "ROLE")
def grant_role(context: Context, parse: Parser) -> Result:
    """GRANT ROLE r TO ROLE x, or TO USER u."""
    return _role(context, parse, "TO")


@statement("REVOKE", "ROLE")
def revoke_role(context: Context, parse: Parser) -> Result:
    """REVOKE ROLE r FROM ROLE x, or FROM USER u."""
    return _role(context, parse, "FROM")


def _role(context: Context, parse: Parser, preposition: str) -> Result:
    catalog, access, session = context.account.catalog, context.account.access, context.session
    role = catalog.require("role", (parse.identifier(),))
    parse.expect(preposition)
    kind = parse.accept_any("ROLE", "USER")
    if kind is None:
        raise parse.error()
    grantee = catalog.require(kind.lower(), (parse.identifier(),)).name
    parse.end()
    if not (access.can(session, "OWNERSHIP", role) or access.manages_grants(session)):
        raise insufficient_privileges("role", shown(role.name))
    found = [
        g
        for g in access.grants.on(key_of(role))
        if (g.grantee_kind, g.grantee, g.privilege) == (kind, grantee, "USAGE")
    ]
    if preposition == "FROM":
        access.grants.remove(found)
        return message(DONE)
    if kind == "ROLE" and grantee in access.inherited({role.name}):
        raise compilation_error(
            f"Cyclic role grant: role '{shown(role.name)}' inherits role '{shown(grantee)}'.", 3005
        )
    access.grants.add(
        "USAGE",
        "role",
        key_of(role),
        grantee,
        grantee_kind=kind,
        granted_by=_grantor(context, role, "USAGE"),
    )
    return message(DONE)


# -- privileges


@statement("GRANT")
def grant(context: Context, parse: Parser) -> Result:
    """GRANT privileges ON what TO [ROLE] r [WITH GRANT OPTION]."""
    names = _privileges(parse)
    on = _on(context, parse)
    parse.expect("TO")
    role = _grantee(context, parse)
    option = parse.accept("WITH", "GRANT", "OPTION")
    parse.end()
    wanted = _known(names, on.kind)
    if on.future_in is not None:
        _grant_future(context, wanted, on, role, option)
    elif on.kind == "account":
        _grant_on_account(context, wanted, role, option, everything=names[0] in ALL)
    else:
        for target in on.targets:
            _grant_on(context, wanted, target, role, option, everything=names[0] in ALL)
    return message(DONE)


def _grant_on_account(
    context: Context, wanted: list[str], role: str, option: bool, everything: bool
) -> None:
    access = context.account.access
    for name in wanted:
        may = access.manages_grants(context.session) or any(
            g.option and g.privilege == name and g.grantee in access.active(context.session)
            for g in access.grants.on(ACCOUNT_KEY)
        )
        if may:
            by = "ACCOUNTADMIN" if access.manages_grants(context.session) else context.session.role
            access.grants.add(name, "account", ACCOUNT_KEY, role, option=option, granted_by=by)
        elif not everything:
            raise insufficient_privileges("account", context.account.settings.account)


def _grant_on(
    context: Context,
    wanted: list[str],
    target: Securable,
    role: str,
    option: bool,
    everything: bool,
) -> None:
    access = context.account.access
    access.require_visible(context.session, target)
    for name in wanted:
        grantor = _grantor(context, target, name)
        if not grantor:
            if everything:
                continue
            raise insufficient_privileges(target.kind, shown(target.name))
        held = access.grants.holders(key_of(target), "READ")
        if (target.kind, name) == ("stage", "WRITE") and role not in held and "READ" not in wanted:
            raise compilation_error(
                "Cannot grant WRITE on a stage without READ. Grant READ first.", 3111, "42501"
            )
        access.grants.add(
            name, target.kind, key_of(target), role, option=option, granted_by=grantor
        )


def _grantor(context: Context, target: Securable, name: str) -> str:
    """The role that grants: the owner, one with the grant option, or the owner through MANAGE
    GRANTS. Empty: none of the session's may.
    """
    access = context.account.access
    roles = access.active(context.session)
    if target.owner in roles:
        return target.owner
    for held in access.grants.on(key_of(target)):
        if held.option and held.privilege == name and held.grantee in roles:
            return held.grantee
    if access.manages_grants(context.session):
        return target.owner or context.session.role
    return ""


def _grant_future(context: Context, wanted: list[str], on: On, role: str, option: bool) -> None:
    access = context.account.access
    scope = on.future_in
    if scope is None or not access.manages_grants(context.session):
        raise insufficient_privileges(scope.kind if scope else "schema", shown(str(scope)))
    for name in wanted:
        access.grants.add_future(
            name,
            on.kind,
            key_of(scope),
            role,
            applied=access.last_number(on.kind),
            option=option,
            granted_by=scope.owner,
        )


@statement("REVOKE")
def revoke(context: Context, parse: Parser) -> Result:
    """REVOKE [GRANT OPTION FOR] privileges ON what FROM [ROLE] r [RESTRICT | CASCADE]."""
    access = context.account.access
    option_only = parse.accept("GRANT", "OPTION", "FOR")
    names = _privileges(parse)
    on = _on(context, parse)
    parse.expect("FROM")
    role = _grantee(context, parse)
    cascade = parse.accept_any("RESTRICT", "CASCADE") == "CASCADE"
    parse.end()
    wanted = set(_known(names, on.kind))
    if on.future_in is not None:
        if not access.manages_grants(context.session):
            raise insufficient_privileges(on.future_in.kind, shown(on.future_in.name))
        access.apply_future()
        for future in access.grants.future():
            described = future.scope, future.kind, future.grantee
            if described == (key_of(on.future_in), on.kind, role) and future.privilege in wanted:
                access.grants.remove_future(future)
        return message(DONE)
    keys = [ACCOUNT_KEY] if on.kind == "account" else [key_of(t) for t in on.targets]
    access.apply_future()
    for target in on.targets:
        access.require_visible(context.session, target)
    for key in keys:
        for held in access.grants.on(key):
            if (held.grantee_kind, held.grantee) == ("ROLE", role) and held.privilege in wanted:
                _revoke(context, held, option_only, cascade)
    return message(DONE)


def _revoke(context: Context, held: Grant, option_only: bool, cascade: bool) -> None:
    """Revoke one grant that this session's roles have made, or any with MANAGE GRANTS."""
    access = context.account.access
    mine = held.granted_by in access.active(context.session)
    if not mine and not access.manages_grants(context.session):
        return
    dependent = [
        g
        for g in access.grants.on(held.target)
        if g.privilege == held.privilege and g.granted_by == held.grantee
    ]
    if dependent and not cascade:
        raise SqlError(
            3016,
            "42501",
            f"SQL access control error:\nPrivilege '{held.privilege}' has dependent grants. "
            "Use CASCADE to revoke them too.",
        )
    access.grants.remove(dependent)
    if option_only:
        access.grants.drop_option(held)
    else:
        access.grants.remove([held])


# -- ownership


@statement("GRANT", "OWNERSHIP")
def grant_ownership(context: Context, parse: Parser) -> Result:
    """GRANT OWNERSHIP ON what TO ROLE r [{REVOKE | COPY} CURRENT GRANTS]."""
    access = context.account.access
    parse.expect("ON")
    on = _on(context, parse)
    parse.expect("TO")
    role = _grantee(context, parse)
    current = parse.accept_any("REVOKE", "COPY")
    if current:
        parse.expect("CURRENT", "GRANTS")
    parse.end()
    if on.kind not in TRANSFERABLE:
        raise compilation_error(
            f"Ownership of object type '{granted_on(on.kind)}' cannot be transferred.",
            3009,
            "42501",
        )
    if on.future_in is not None:
        _grant_future(context, ["OWNERSHIP"], on, role, option=False)
        return message(DONE)
    for target in on.targets:
        access.require_visible(context.session, target)
        may = access.can(context.session, "OWNERSHIP", target)
        if not may and not access.manages_grants(context.session):
            raise insufficient_privileges(target.kind, shown(target.name))
        _transfer(context, target, role, current)
    moved = [t for t in on.targets if isinstance(t, Object) and t.kind == "task"]
    context.account.tasks.definitions.part(moved)
    return message(DONE)


def _transfer(context: Context, target: Securable, role: str, current: str | None) -> None:
    access = context.account.access
    outbound = [g for g in access.grants.on(key_of(target)) if g.kind != "role"]
    if outbound and current is None and target.kind != "role":
        raise SqlError(
            3036,
            "42501",
            "SQL execution error: Dependent grant of privilege "
            f"'{outbound[0].privilege}' on securable '{shown(target.name)}' to role "
            f"'{shown(outbound[0].grantee)}' exists. It must be revoked first. More than one "
            "dependent grant may exist: use 'SHOW GRANTS' command to view them. To revoke all "
            "dependent grants while transferring object ownership, use convenience command "
            "'GRANT OWNERSHIP ON <target_objects> TO <target_role> REVOKE CURRENT GRANTS'.",
        )
    if target.kind == "task" and isinstance(target, Object) and target.owner != role:
        # Snowflake suspends tasks that change hands: the new owner may lack what they need.
        context.account.tasks.definitions.suspend(target, "GRANT_OWNERSHIP")
    if current == "REVOKE":
        access.grants.remove(outbound)
    access.give(target, role)
    if current == "COPY":
        access.grants.regrant(key_of(target), role)


# -- reading


def _privileges(parse: Parser) -> list[str]:
    found = [privilege(parse)]
    while parse.accept(","):
        found.append(privilege(parse))
    parse.expect("ON")
    return found


def _grantee(context: Context, parse: Parser) -> str:
    if parse.word() in ("SHARE", "APPLICATION", "DATABASE", "USER") and parse.word(1) not in (
        "",
        ";",
    ):
        raise parse.unsupported()
    parse.accept("ROLE")
    return context.account.catalog.require("role", (parse.identifier(),)).name


def _known(names: list[str], kind: str) -> list[str]:
    """The privileges that were named; SqlError where one does not go with the kind of object."""
    possible = PRIVILEGES[kind]
    if names[0] in ALL:
        if len(names) > 1:
            raise compilation_error("ALL stands for all privileges.", 1003)
        return [p for p in possible if p not in ("IMPORTED PRIVILEGES", "USE_ANY_ROLE")]
    for name in names:
        if name == "OWNERSHIP":
            raise compilation_error("Ownership is transferred by GRANT OWNERSHIP only.", 3004)
        if name not in possible:
            every = {p for group in PRIVILEGES.values() for p in group}
            if name not in every | set(ACCOUNT_PRIVILEGES):
                raise compilation_error(f"Unknown privilege '{name}'.", 3002, "42501")
            raise compilation_error(
                f"Invalid object type '{granted_on(kind)}' for privilege '{name}'.", 3003, "42501"
            )
    return names


def _on(context: Context, parse: Parser) -> On:
    if parse.accept("ACCOUNT"):
        return On("account")
    if parse.word() in ("ALL", "FUTURE"):
        future = parse.next().word == "FUTURE"
        kind = _words(parse, PLURALS)
        parse.expect("IN")
        scope = _scope(context, parse)
        if future:
            return On(kind, future_in=scope)
        database = scope.name if scope.kind == "database" else scope.database
        schema = scope.name if scope.kind == "schema" else None
        found = context.account.access.objects(kind, database, schema)
        return On(kind, tuple(found))
    kind = read_kind(parse)
    return On(kind, (read_object(context, parse, kind),))


def _scope(context: Context, parse: Parser) -> Object:
    if parse.accept("DATABASE"):
        return context.account.access.database(context.session, parse.identifier())
    parse.expect("SCHEMA")
    where = context.session.resolve_schema(parse.name(), "GRANT")
    return context.account.access.schema(context.session, *where)


def _words(parse: Parser, known: dict[str, str]) -> str:
    for words in sorted(known, key=len, reverse=True):
        if parse.accept(*words.split()):
            return known[words]
    raise parse.unsupported()


def read_kind(parse: Parser) -> str:
    """The kind of object that comes next, as the catalog names it. EXTERNAL ACCESS INTEGRATION is a
    syntax error here, in Snowflake too: grants say INTEGRATION.
    """
    if parse.word() == "EXTERNAL" and parse.word(1) == "ACCESS":
        parse.next()
        raise parse.error()
    return _words(parse, WORDS)


def read_object(context: Context, parse: Parser, kind: str) -> Securable:
    """The object of a kind whose name comes next; SqlError 2003 where it is not there."""
    parts = parse.name()
    account, session = context.account, context.session
    if kind == "schema":
        return account.catalog.require(kind, session.resolve_schema(parts, "GRANT"))
    if kind not in SCHEMA_KINDS:
        return account.catalog.require(kind, parts)
    name: FullName = session.resolve(parts, "GRANT")
    if kind in ("table", "view", "sequence"):
        found = next(
            (
                t
                for t in account.access.tables(name.database, name.schema)
                if t.name == name.name and t.kind == kind
            ),
            None,
        )
        if found is None:
            raise SqlError(
                2003,
                "02000",
                f"SQL compilation error:\n{kind.capitalize()} '{name}' does not exist or not "
                "authorized.",
            )
        return found
    return account.catalog.require(kind, name)
