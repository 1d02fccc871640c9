"""Who may do what: roles, grants, and the check before a statement acts.

A statement that names an object asks :meth:`Access.require`; where the role has no privilege on the
object at all the answer is the same as for an object that does not exist. Roles inherit what the
roles have that are granted to them; everybody has PUBLIC; ACCOUNTADMIN may do everything, which is
more than in Snowflake, where it depends on the objects' owners being below SYSADMIN.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flowdist.emulator import passwords
from flowdist.emulator.catalog import Object
from flowdist.emulator.errors import SqlError, does_not_exist, insufficient_privileges
from flowdist.emulator.grants import (
    ACCOUNT_KEY,
    FutureGrant,
    Grant,
    Grants,
    Securable,
    Table,
    full_text,
    key_of,
)
from flowdist.emulator.names import FullName, shown
from flowdist.emulator.parameters import DEFAULTS
from flowdist.emulator.session import Session
from flowdist.emulator.sql.tables import TableInfo, missing

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["Access"]

ADMIN = "ACCOUNTADMIN"
PUBLIC = "PUBLIC"
SYSTEM_SCHEMA = "INFORMATION_SCHEMA"
TABLES = ("table", "view", "sequence")


class Access:
    """Who may do what: roles, grants, and the check before a statement acts."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._catalog = account.catalog
        self.grants = Grants(account.catalog)
        self._active: dict[tuple[str, str], tuple[int, frozenset[str]]] = {}

    def start(self) -> None:
        """Forget what was granted on objects that are gone."""
        self.prune()

    def close(self) -> None:
        """Nothing is held."""

    # -- roles and users

    def roles_of_user(self, user: str) -> set[str]:
        """The roles granted to a user, PUBLIC aside."""
        return self._names(self.grants.to("USER", user))

    def inherited(self, roles: Iterable[str]) -> frozenset[str]:
        """These roles with all that are granted to them, however far down; without PUBLIC unless it
        is among them.
        """
        found: set[str] = set()
        waiting = list(roles)
        while waiting:
            role = waiting.pop()
            if role not in found:
                found.add(role)
                waiting.extend(self._names(self.grants.to("ROLE", role)))
        return frozenset(found)

    def available_roles(self, session: Session) -> frozenset[str]:
        """The roles that a session may use: all below those of its user, or its service's own."""
        if self._catalog.find("user", (session.user,)) is None:
            return frozenset({session.role, PUBLIC})
        return self.inherited(self.roles_of_user(session.user)) | {PUBLIC}

    def active(self, session: Session) -> frozenset[str]:
        """The roles that count in a session: the primary one, secondary ones, all below them."""
        extra = session.user if session.secondary_roles == "ALL" else ""
        version, roles = self._active.get((session.role, extra), (-1, frozenset[str]()))
        if version != self.grants.version:
            version = self.grants.version
            seeds = {session.role, PUBLIC} | (self.roles_of_user(extra) if extra else set())
            roles = self.inherited(seeds)
            self._active[session.role, extra] = version, roles
        return roles

    def primary(self, session: Session) -> frozenset[str]:
        """The primary role and all below it: only these count for creating objects."""
        if session.secondary_roles != "ALL":
            return self.active(session)
        return self.inherited({session.role, PUBLIC})

    def prepare(self, session: Session) -> None:
        """Give a new session what its account and its user have as defaults."""
        user = self._catalog.find("user", (session.user,))
        inherited = dict(self._catalog.setting("parameters", {}))
        if user is not None:
            inherited |= user.data.get("parameters", {})
            if user.data.get("default_secondary_roles") == ["ALL"] and session.service is None:
                session.secondary_roles = "ALL"
        given = {k: v for k, v in inherited.items() if k in DEFAULTS}
        session.parameters = {**given, **session.parameters}

    def owner_role(self, session: Session) -> str:
        """The role that owns what the session creates."""
        return session.role

    def may_use_role(self, session: Session, role: str) -> bool:
        """Whether USE ROLE is allowed."""
        return role in self.available_roles(session)

    def check_password(self, user: str, password: str) -> Object | None:
        """The user, if that is the password and the user may sign in; None otherwise."""
        found = self._catalog.find("user", (user,))
        if found is None:
            found = next(
                (u for u in self._catalog.all("user") if u.data.get("login_name") == user), None
            )
        if found is None or found.data.get("disabled") or not found.data.get("password"):
            return None
        return found if passwords.matches(password, found.data["password"]) else None

    # -- privileges

    def can(self, session: Session, privilege: str, target: Securable) -> bool:
        """Whether a session's roles have a privilege on an object, by grant or as its owner."""
        roles = self.primary(session) if privilege.startswith("CREATE ") else self.active(session)
        if ADMIN in roles or target.owner in roles:
            return True
        key = key_of(target)
        if roles & self.grants.holders(key, privilege):
            return True
        return self.apply_future() and not roles.isdisjoint(self.grants.holders(key, privilege))

    def visible(self, session: Session, target: Securable) -> bool:
        """Whether a session's roles have any privilege on an object, and on what it lives in."""
        roles = self.active(session)
        if ADMIN in roles:
            return True
        if self._touches(roles, target) and all(
            self._touches(roles, parent) for parent in self._parents(target)
        ):
            return True
        return self.manages_grants(session)

    def require(self, session: Session, privilege: str, target: Securable) -> None:
        """SqlError 2003 where the session's roles have no privilege on it, 3001 where they have
        others only.
        """
        self.require_any(session, (privilege,), target)

    def require_any(self, session: Session, privileges: Iterable[str], target: Securable) -> None:
        """The same for one of several privileges; OWNERSHIP may be among them."""
        if not self.visible(session, target):
            raise does_not_exist(_word(target.kind), full_text(target))
        if not any(self.can(session, privilege, target) for privilege in privileges):
            raise insufficient_privileges(_word(target.kind), shown(target.name))

    def require_visible(self, session: Session, target: Securable) -> None:
        """SqlError 2003 where the session's roles have no privilege on it."""
        if not self.visible(session, target):
            raise does_not_exist(_word(target.kind), full_text(target))

    def require_owner(self, session: Session, target: Securable) -> None:
        """SqlError 2003 or 3001 where no role of the session owns it."""
        self.require_any(session, ("OWNERSHIP",), target)

    def require_table(self, session: Session, privilege: str, info: TableInfo) -> None:
        """The same for a table, view or sequence of the engine; temporary ones are the session's
        own. SELECT and DML say "Object", and have another SQLSTATE, where it is not there.
        """
        target = Table.of(info)
        if info.temporary:
            return
        if not self.visible(session, target):
            raise missing(info.name)
        if not self.can(session, privilege, target):
            raise insufficient_privileges(target.kind, shown(target.name))

    def can_account(self, session: Session, privilege: str) -> bool:
        """Whether a session's roles have a privilege on the account."""
        roles = self.primary(session) if privilege.startswith("CREATE ") else self.active(session)
        return ADMIN in roles or bool(roles & self.grants.holders(ACCOUNT_KEY, privilege))

    def require_account(self, session: Session, privilege: str) -> None:
        """SqlError 3001 where the session's roles have not this privilege on the account."""
        if not self.can_account(session, privilege):
            raise insufficient_privileges("account", self._account.settings.account)

    def manages_grants(self, session: Session) -> bool:
        """Whether a session sees every object and may grant what it does not own."""
        return self.can_account(session, "MANAGE GRANTS")

    # -- finding what a statement names

    def find(self, session: Session, kind: str, name: FullName | tuple[str, ...]) -> Object:
        """The object of that name that the session may see; SqlError 2003 otherwise."""
        found = self._catalog.find(kind, name)
        if found is None:
            parts = str(name) if isinstance(name, FullName) else ".".join(map(shown, name))
            raise does_not_exist(_word(kind), parts)
        self.require_visible(session, found)
        return found

    def database(self, session: Session, name: str) -> Object:
        """A database that the session may see."""
        return self.find(session, "database", (name,))

    def schema(self, session: Session, database: str, name: str) -> Object:
        """A schema that the session may see; SqlError 2003 for it or for its database."""
        self.database(session, database)
        return self.find(session, "schema", (database, name))

    def require_create(self, session: Session, kind: str, name: FullName) -> Object:
        """The schema in which a name is, where the session may create an object of a kind:
        ``require_create(session, "STAGE", full_name)``.
        """
        if name.schema == SYSTEM_SCHEMA:
            raise insufficient_privileges("schema", SYSTEM_SCHEMA)
        schema = self.schema(session, name.database, name.schema)
        self.require(session, f"CREATE {kind.upper()}", schema)
        return schema

    def require_warehouse(self, session: Session) -> Object:
        """The session's warehouse, running; SqlError 606 where it has none that it may use."""
        name = session.warehouse
        found = self._catalog.find("warehouse", (name,)) if name else None
        if found is None or not self.can(session, "USAGE", found):
            raise SqlError(
                606,
                "57P03",
                "No active warehouse selected in the current session.  "
                "Select an active warehouse with the 'use warehouse' command.",
            )
        if found.data["state"] != "STARTED":
            if not found.data["auto_resume"] and not self.can(session, "OPERATE", found):
                raise insufficient_privileges("warehouse", shown(found.name))
            if not found.data["auto_resume"]:
                raise SqlError(
                    608,
                    "57P03",
                    f"Warehouse '{shown(found.name)}' cannot be resumed automatically: "
                    "AUTO_RESUME is off. Resume it with ALTER WAREHOUSE.",
                )
            self._catalog.update(found, state="STARTED", resumed_on=self._account.clock.time())
        return found

    def require_compute(self, session: Session) -> None:
        """What a statement that reads or writes tables needs: a warehouse, unless it runs in a
        serverless task, which has its own. SqlError 606.
        """
        if session.task is not None and session.service is None and session.warehouse is None:
            return
        self.require_warehouse(session)

    # -- keeping grants true

    def dropped(self, target: Securable) -> None:
        """Forget what was granted on an object that is gone; else it is forgotten at a start."""
        self.grants.remove(self.grants.on(key_of(target)))

    def role_dropped(self, role: str, heir: str) -> None:
        """Forget a role: what it was granted goes, what it owned is its heir's."""
        self.grants.remove(self.grants.to("ROLE", role))
        for owned in self._catalog.everything():
            if owned.owner == role:
                self._catalog.give(owned, heir)
        for table in self.tables():
            if table.owner == role:
                self.give(table, heir)

    def give(self, target: Securable, owner: str) -> None:
        """Make another role the owner."""
        if isinstance(target, Table):
            name = FullName(target.database, target.schema, target.name)
            self._account.engine.give(name, target.kind.upper(), owner)
        else:
            found = self._catalog.by_id(target.id)
            if found is not None:
                self._catalog.give(found, owner)

    def tables(self, database: str | None = None, schema: str | None = None) -> list[Table]:
        """The tables, views and sequences of the account, of a database or of a schema."""
        return [Table.of(info) for info in self._account.engine.tables(database, schema)]

    def objects(
        self, kind: str, database: str | None = None, schema: str | None = None
    ) -> list[Securable]:
        """All of a kind that privileges may be granted on, tables too."""
        if kind in TABLES:
            return [t for t in self.tables(database, schema) if t.kind == kind]
        return list(self._catalog.all(kind, database, schema))

    def prune(self) -> None:
        """Forget the grants on objects that exist no more."""
        living = {key_of(o) for o in self._catalog.everything()}
        self.grants.prune(living | {key_of(t) for t in self.tables()})
        for future in self.grants.future():
            if future.scope not in living:
                self.grants.remove_future(future)

    def apply_future(self) -> bool:
        """Turn the grants on future objects into grants on those that exist by now; whether any
        was.
        """
        if not self.grants.future():
            return False
        before = self.grants.version
        for future in self.grants.future():
            self._apply(future)
        return self.grants.version != before

    def last_number(self, kind: str) -> int:
        """The number of the last object of a kind."""
        return max((o.id for o in self.objects(kind)), default=0)

    def _apply(self, future: FutureGrant) -> None:
        scope = self._by_key(future.scope)
        if scope is None:
            return
        database = scope.name if scope.kind == "database" else scope.database
        schema = scope.name if scope.kind == "schema" else None
        last = future.applied
        for o in self.objects(future.kind, database, schema):
            if o.id <= future.applied:
                continue
            last = max(last, o.id)
            if future.privilege == "OWNERSHIP":
                self.give(o, future.grantee)
            else:
                self.grants.add(
                    future.privilege,
                    o.kind,
                    key_of(o),
                    future.grantee,
                    option=future.option,
                    granted_by=future.entry.owner,
                )
        if last > future.applied:
            self._catalog.update(future.entry, applied=last)

    # -- inside

    def _touches(self, roles: frozenset[str], target: Securable) -> bool:
        if target.owner in roles:
            return True
        key = key_of(target)
        if not roles.isdisjoint(self.grants.grantees(key)):
            return True
        return self.apply_future() and not roles.isdisjoint(self.grants.grantees(key))

    def _parents(self, target: Securable) -> Iterable[Object]:
        if not target.database:
            return
        database = self._catalog.find("database", (target.database,))
        if database is not None:
            yield database
        schema = self._catalog.find("schema", (target.database, target.schema))
        if target.schema and schema is not None:
            yield schema

    def _names(self, grants: Iterable[Grant]) -> set[str]:
        return {g.role for g in grants if g.kind == "role"}

    def _by_key(self, key: str) -> Object | None:
        scopes = [*self._catalog.all("database"), *self._catalog.all("schema")]
        return next((o for o in scopes if key_of(o) == key), None)


def _word(kind: str) -> str:
    """The kind as errors have it."""
    return "integration" if kind == "external access integration" else kind
