"""The grants of the account: kept in the catalog, found by what they are on and by whom they serve.

A grant is on a *target*: the key of an object, which for most objects of the catalog is their
number, so that a grant dies with its object and is not there for the next one of that name. What a
grant means is `access.py`'s.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from flowdist.emulator.catalog import Catalog, Object
from flowdist.emulator.names import shown

if TYPE_CHECKING:
    from flowdist.emulator.sql.tables import TableInfo

__all__ = [
    "ACCOUNT_KEY",
    "FutureGrant",
    "Grant",
    "Grants",
    "Securable",
    "Table",
    "full_text",
    "key_of",
]

ACCOUNT_KEY = "account"
TABLE_KEY = "table "


class Securable(Protocol):
    """What privileges may be granted on: an object of the catalog, or a :class:`Table`."""

    @property
    def id(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def database(self) -> str: ...
    @property
    def schema(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def owner(self) -> str: ...


@dataclass(frozen=True)
class Table:
    """A table, view or sequence of the engine, as something to grant privileges on."""

    id: int
    kind: str
    database: str
    schema: str
    name: str
    owner: str

    @classmethod
    def of(cls, info: TableInfo) -> Table:
        """What the engine knows of it."""
        where = info.name
        return cls(info.id, info.kind.lower(), where.database, where.schema, where.name, info.owner)


def key_of(target: Securable) -> str:
    """What a grant remembers of its target: numbers of tables are numbers of their own."""
    if target.kind == "role":
        return f"role {target.name}"
    return f"{TABLE_KEY}{target.id}" if isinstance(target, Table) else str(target.id)


@dataclass(frozen=True)
class Grant:
    """A privilege that a role has, or a role that a user or role has (USAGE on kind "role")."""

    entry: Object
    privilege: str
    kind: str
    target: str
    grantee_kind: str
    grantee: str
    option: bool

    @property
    def granted_by(self) -> str:
        """The role that has granted it; empty for the system."""
        return self.entry.owner

    @property
    def role(self) -> str:
        """The role that was granted, where the grant is of a role."""
        return self.target.removeprefix("role ")


@dataclass(frozen=True)
class FutureGrant:
    """A privilege on what will be created in a database or schema, whose key is ``scope``.

    ``applied`` is the number of the last object that it has been applied to, or passed over;
    tables have numbers of their own.
    """

    entry: Object
    privilege: str
    kind: str
    scope: str
    grantee: str
    option: bool

    @property
    def applied(self) -> int:
        """See the class."""
        return int(self.entry.data["applied"])


class Grants:
    """All grants; every method may be called from any thread."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._on: dict[str, dict[str, Grant]] = defaultdict(dict)
        self._to: dict[tuple[str, str], dict[str, Grant]] = defaultdict(dict)
        self.version = 0
        """Changes with every grant that comes or goes."""
        for entry in catalog.all("grant"):
            self._enter(_grant(entry))
        self._future = {e.name: _future(e) for e in catalog.all("future grant")}

    def on(self, target: str) -> list[Grant]:
        """The grants on a target."""
        with self._catalog.lock:
            return list(self._on.get(target, {}).values())

    def to(self, grantee_kind: str, grantee: str) -> list[Grant]:
        """What a role or a user has been granted."""
        with self._catalog.lock:
            return list(self._to.get((grantee_kind, grantee), {}).values())

    def holders(self, target: str, privilege: str) -> set[str]:
        """The roles that have been granted a privilege on a target."""
        with self._catalog.lock:
            return {
                g.grantee
                for g in self._on.get(target, {}).values()
                if g.privilege == privilege and g.grantee_kind == "ROLE"
            }

    def grantees(self, target: str) -> set[str]:
        """The roles that have been granted anything on a target."""
        with self._catalog.lock:
            return {
                g.grantee for g in self._on.get(target, {}).values() if g.grantee_kind == "ROLE"
            }

    def add(
        self,
        privilege: str,
        kind: str,
        target: str,
        grantee: str,
        *,
        grantee_kind: str = "ROLE",
        option: bool = False,
        granted_by: str = "",
    ) -> None:
        """Grant; one that is there already is left as it is, but for the option."""
        with self._catalog.lock:
            name = (f"{privilege} ON {target} TO {grantee_kind} {grantee}",)
            entry = self._catalog.find("grant", name)
            if entry is None:
                entry = self._catalog.create(
                    "grant",
                    name,
                    owner=granted_by,
                    privilege=privilege,
                    on=kind,
                    target=target,
                    grantee_kind=grantee_kind,
                    grantee=grantee,
                    option=option,
                )
            elif option and not entry.data["option"]:
                self._catalog.update(entry, option=True)
            self._enter(_grant(entry))

    def remove(self, grants: Iterable[Grant]) -> None:
        """Revoke."""
        with self._catalog.lock:
            for grant in grants:
                name = grant.entry.name
                self._on.get(grant.target, {}).pop(name, None)
                self._to.get((grant.grantee_kind, grant.grantee), {}).pop(name, None)
                self._catalog.drop(grant.entry)
                self.version += 1

    def drop_option(self, grant: Grant) -> None:
        """Take back the right to grant it to others."""
        with self._catalog.lock:
            self._catalog.update(grant.entry, option=False)
            self._enter(_grant(grant.entry))

    def regrant(self, target: str, granted_by: str) -> None:
        """Make another role the one that has granted all that is granted on a target."""
        for grant in self.on(target):
            self._catalog.give(grant.entry, granted_by)

    def prune(self, living: set[str]) -> None:
        """Forget the grants on what exists no more: whose key is not among `living`."""
        with self._catalog.lock:
            dead = [
                key
                for key, grants in self._on.items()
                if grants and key != ACCOUNT_KEY and key not in living
            ]
        for key in dead:
            self.remove(self.on(key))

    def add_future(
        self,
        privilege: str,
        kind: str,
        scope: str,
        grantee: str,
        *,
        applied: int,
        option: bool = False,
        granted_by: str = "",
    ) -> None:
        """Grant on what will be created; `applied` is as in :class:`FutureGrant`."""
        name = (f"{privilege} ON FUTURE {kind} IN {scope} TO {grantee}",)
        with self._catalog.lock:
            if name[0] not in self._future:
                entry = self._catalog.create(
                    "future grant",
                    name,
                    owner=granted_by,
                    privilege=privilege,
                    on=kind,
                    scope=scope,
                    grantee=grantee,
                    option=option,
                    applied=applied,
                )
                self._future[entry.name] = _future(entry)

    def future(self) -> list[FutureGrant]:
        """All grants on what will be created, oldest first."""
        with self._catalog.lock:
            return sorted(self._future.values(), key=lambda g: g.entry.id)

    def remove_future(self, grant: FutureGrant) -> None:
        """Revoke it; what it has given to objects by now stays."""
        with self._catalog.lock:
            self._future.pop(grant.entry.name, None)
            self._catalog.drop(grant.entry)

    def _enter(self, grant: Grant) -> None:
        self._on[grant.target][grant.entry.name] = grant
        self._to[grant.grantee_kind, grant.grantee][grant.entry.name] = grant
        self.version += 1


def _grant(entry: Object) -> Grant:
    data = entry.data
    return Grant(
        entry,
        data["privilege"],
        data["on"],
        data["target"],
        data["grantee_kind"],
        data["grantee"],
        data["option"],
    )


def _future(entry: Object) -> FutureGrant:
    data = entry.data
    return FutureGrant(
        entry, data["privilege"], data["on"], data["scope"], data["grantee"], data["option"]
    )


def full_text(target: Securable) -> str:
    """The name of a target with what it is in, as SHOW GRANTS has it."""
    return ".".join(shown(p) for p in (target.database, target.schema, target.name) if p)
