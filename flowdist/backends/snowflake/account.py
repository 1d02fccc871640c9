"""What a session may know of an account: who it is, pools, grants.

Each question is one statement that starts nothing and needs no warehouse. What follows from the
answers is said in `flowdist.backends.snowflake.checks`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flowdist.preflight.check import Check
from flowdist.snowflake.connection import Client, SnowflakeError
from flowdist.snowflake.families import Family, family_named
from flowdist.snowflake.names import Name, literal, quote
from flowdist.summary import counted

__all__ = ["Account", "Need", "Pool", "Session", "error", "pool_of"]

ADMIN = "ACCOUNTADMIN"
OWNER = "OWNERSHIP"
# A grantee that is no role of the account, such as a database role: whether it counts for this
# session nobody can say at once, and it is taken for one that does.
ANYBODY = ""


def error(name: str, what: str, remedy: str) -> Check:
    """A finding that keeps jobs from running."""
    return Check(name, "error", what, remedy)


@dataclass(frozen=True)
class Session:
    """Who a session is; None is what it has not."""

    role: str | None
    secondary: str
    """ALL, or the names of roles that count besides, with commas; empty where none do."""
    database: str | None
    schema: str | None
    warehouse: str | None
    region: str


@dataclass(frozen=True)
class Pool:
    """A compute pool, as SHOW COMPUTE POOLS and DESCRIBE COMPUTE POOL have it."""

    name: str
    state: str
    family: Family | None
    family_name: str
    min_nodes: int
    max_nodes: int
    active: int
    """Nodes on which something runs."""
    idle: int
    target: int
    jobs: int
    services: int
    auto_resume: bool
    application: str = ""
    message: str = ""

    @property
    def held(self) -> str:
        """What is on it, in words; an empty pool has nothing."""
        both = ((self.jobs, "job service"), (self.services, "service"))
        return " and ".join(counted(n, what) for n, what in both if n) or "nothing"

    @property
    def suspended(self) -> bool:
        """Whether it has no nodes, or is about to have none."""
        return self.state in ("SUSPENDED", "STOPPING")


def pool_of(row: Mapping[str, Any], *, described: bool = False) -> Pool:
    """One row of SHOW COMPUTE POOLS, or of DESCRIBE COMPUTE POOL, which counts job services among
    the services.
    """

    def number(key: str) -> int:
        return int(row.get(key) or 0)

    named = str(row.get("instance_family") or "")
    return Pool(
        name=str(row["name"]),
        state=str(row.get("state") or "").upper(),
        family=family_named(named),
        family_name=named.upper(),
        min_nodes=number("min_nodes"),
        max_nodes=number("max_nodes"),
        active=number("active_nodes"),
        idle=number("idle_nodes"),
        target=number("target_nodes"),
        jobs=number("num_jobs"),
        services=max(0, number("num_services") - (number("num_jobs") if described else 0)),
        auto_resume=str(row.get("auto_resume")).lower() == "true",
        application=str(row.get("application") or ""),
        message=str(row.get("status_message") or ""),
    )


@dataclass(frozen=True)
class Need:
    """A privilege that a role has to have, and what for."""

    privilege: str
    kind: str
    """As GRANT has it: SCHEMA, COMPUTE POOL, INTEGRATION ...; ACCOUNT has no name."""
    name: Name | None
    why: str
    check: str
    """The name of the finding where it is missing."""

    @property
    def target(self) -> str:
        """What it is granted on, in SQL."""
        return f"{self.kind} {self.name.sql}" if self.name is not None else self.kind

    def grant(self, role: str) -> str:
        """The statement that gives it.

        >>> Need("USAGE", "COMPUTE POOL", Name(("FITS",)), "", "pool").grant("SCIENCE")
        'GRANT USAGE ON COMPUTE POOL FITS TO ROLE SCIENCE'
        """
        return f"GRANT {self.privilege} ON {self.target} TO ROLE {quote(role)}"


class Account:
    """An account as one session sees it."""

    def __init__(self, client: Client) -> None:
        self.client = client

    @cached_property
    def session(self) -> Session:
        """Who this is."""
        row = self.client.rows(
            "SELECT CURRENT_ROLE() AS role, CURRENT_SECONDARY_ROLES() AS secondary, "
            "CURRENT_DATABASE() AS database, CURRENT_SCHEMA() AS schema, "
            "CURRENT_WAREHOUSE() AS warehouse, CURRENT_REGION() AS region"
        )[0]
        return Session(
            role=row["role"],
            secondary=_secondary(row["secondary"]),
            database=row["database"],
            schema=row["schema"],
            warehouse=row["warehouse"],
            region=str(row["region"] or ""),
        )

    @property
    def role(self) -> str:
        """The role as whom jobs run."""
        return self.session.role or "PUBLIC"

    @contextmanager
    def as_jobs(self) -> Iterator[None]:
        """Look with the primary role alone, as containers do; afterwards all is as it was."""
        before = self.session.secondary
        if not before:
            yield
            return
        self.client.run("USE SECONDARY ROLES NONE")
        try:
            yield
        finally:
            names = [quote(name) for name in before.split(",")]
            again = "ALL" if before == "ALL" else ", ".join(names)
            self.client.run(f"USE SECONDARY ROLES {again}")

    def pools(self) -> dict[str, Pool]:
        """The pools that the role has any privilege on, by name."""
        found = map(pool_of, self.client.rows("SHOW COMPUTE POOLS"))
        return {pool.name: pool for pool in found}

    def named(self, what: str, name: Name) -> dict[str, Any] | None:
        """The row that SHOW has for one object, ``what`` being as in SHOW STAGES; None where the
        role sees none.
        """
        scope = Name(name.parts[:-1])
        inside = f" IN SCHEMA {scope.sql}" if scope.parts else ""
        rows = self.client.rows(f"SHOW {what} LIKE {literal(name.last)}{inside}")
        return next((row for row in rows if row["name"] == name.last), None)

    def lacking(self, needs: Sequence[Need]) -> tuple[list[Need], list[Need]]:
        """Which of the privileges the role has not, and those on objects that it does not even see:
        by one statement for each object, and one for all roles that have something on them.
        """
        holders: dict[str, dict[str, set[str]]] = {}
        for target in dict.fromkeys(need.target for need in needs):
            try:
                holders[target] = self._holders(target)
            except SnowflakeError as failed:
                if failed.passing:
                    raise
        known = [need for need in needs if need.target in holders]
        who = {need: _who(holders[need.target], need.privilege) for need in known}
        ours = self._ours({ADMIN}.union(*who.values())) if known else set()
        missing = [need for need in known if not ours & {ADMIN, *who[need]}]
        return missing, [need for need in needs if need.target not in holders]

    def _holders(self, target: str) -> dict[str, set[str]]:
        """By privilege, the roles that have it on an object."""
        found: dict[str, set[str]] = defaultdict(set)
        for row in self.client.rows(f"SHOW GRANTS ON {target}"):
            plain = str(row["granted_to"]).upper() == "ROLE"
            found[str(row["privilege"])].add(str(row["grantee_name"]) if plain else ANYBODY)
        return found

    def _ours(self, roles: Iterable[str]) -> set[str]:
        """Those of the roles whose privileges the session has."""
        names = sorted(set(roles) - {ANYBODY})
        asked = ", ".join(
            f"IS_ROLE_IN_SESSION({literal(name)}) AS r{number}" for number, name in enumerate(names)
        )
        row = self.client.rows(f"SELECT {asked}")[0]
        return {name for number, name in enumerate(names) if row[f"r{number}"]} | {ANYBODY}


def _who(holders: Mapping[str, set[str]], privilege: str) -> set[str]:
    return holders.get(privilege, set()) | holders.get(OWNER, set())


def _secondary(said: str | None) -> str:
    """The secondary roles that were asked for, of what CURRENT_SECONDARY_ROLES says."""
    with suppress(ValueError, TypeError):
        value = str(json.loads(said or "{}").get("value") or "").replace(" ", "")
        return "" if value.upper() == "NONE" else value
    return ""
