"""What flows need on an account of Snowflake: which objects, which privileges, and the SQL that
makes them. Pure: `flowdist.backends.snowflake.setup` looks what is there and runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from flowdist.errors import UsageError
from flowdist.snowflake.images import path_of
from flowdist.snowflake.names import Name, literal, quote
from flowdist.snowflake.tables import (
    TASK_STATS,
    hybrid_queue_table,
    log_queue_table,
    task_stats_table,
)

__all__ = ["MARK", "Grant", "Setup", "Thing", "script"]

MARK = "made by flowdist setup"
"""The comment of what was made here: what has it may be dropped, and nothing else."""

# Snowflake runs no containers for these roles.
WITHOUT_SERVICES = ("ACCOUNTADMIN", "SECURITYADMIN")
# A pool without work is suspended after so long, in seconds; a warehouse sooner, as it starts in
# a second or two.
POOL_SUSPEND, WAREHOUSE_SUSPEND = 600, 60
# SYSTEM$BIND, a temporary stage, takes what the connector binds in bulk: hence CREATE STAGE.
_ON_SCHEMA = ("USAGE", "CREATE SERVICE", "CREATE TASK", "CREATE STAGE", "CREATE TABLE")
_ON_TABLE = ("SELECT", "INSERT", "UPDATE", "DELETE")

HEAD = """\
-- What flowdist needs on this account. It can be run again: what is there stays as it is.
-- Run it with a role that may make these objects and grant on them, as ACCOUNTADMIN."""

Kind = Literal[
    "ROLE", "DATABASE", "SCHEMA", "WAREHOUSE", "STAGE", "TABLE", "IMAGE REPOSITORY", "COMPUTE POOL"
]
_PLURAL = {kind: f"{kind}S" for kind in ("ROLE", "DATABASE", "SCHEMA", "WAREHOUSE", "STAGE",
           "TABLE", "COMPUTE POOL")} | {"IMAGE REPOSITORY": "IMAGE REPOSITORIES"}  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """An object that flows need. ``create`` is empty where it is not for us to make; ``instead``
    makes another kind of it where the account has not the first.
    """

    kind: Kind
    name: Name
    create: str = ""
    instead: str = ""

    @property
    def show(self) -> str:
        """The statement that lists it if it is there, among others with names like it."""
        said = f"SHOW {_PLURAL[self.kind]} LIKE {literal(self.name.last)}"
        if self.kind == "SCHEMA":
            return f"{said} IN DATABASE {quote(self.name.parts[0])}"
        if len(self.name.parts) == 3:
            return f"{said} IN SCHEMA {Name(self.name.parts[:2]).sql}"
        return said

    @property
    def drop(self) -> str:
        """The statement that removes it."""
        return f"DROP {self.kind} IF EXISTS {self.name.sql}"

    @property
    def privilege(self) -> str:
        """What somebody needs who is to make it, as GRANT has it up to TO."""
        kind = "HYBRID TABLE" if self.create.startswith("CREATE HYBRID") else self.kind
        if len(self.name.parts) == 3:
            return f"CREATE {kind} ON SCHEMA {Name(self.name.parts[:2]).sql}"
        if self.kind == "SCHEMA":
            return f"CREATE SCHEMA ON DATABASE {quote(self.name.parts[0])}"
        return f"CREATE {kind} ON ACCOUNT"


@dataclass(frozen=True)
class Grant:
    """Privileges on one object, or on the account, that the role of flows needs."""

    privileges: tuple[str, ...]
    kind: str
    name: Name | None = None

    def sql(self, role: Name, privileges: Sequence[str] = ()) -> str:
        """The statement that grants them, or only some of them.

        >>> Grant(("READ", "WRITE"), "STAGE", Name.parse("d.s.runs")).sql(Name.parse("analyst"))
        'GRANT READ, WRITE ON STAGE D.S.RUNS TO ROLE ANALYST'
        """
        on = self.kind if self.name is None else f"{self.kind} {self.name.sql}"
        return f"GRANT {', '.join(privileges or self.privileges)} ON {on} TO ROLE {role.sql}"

    def back(self, role: Name, privileges: Sequence[str]) -> str:
        """The statement that takes them back."""
        return self.sql(role, privileges).replace("GRANT ", "REVOKE ", 1).replace(
            f" TO ROLE {role.sql}", f" FROM ROLE {role.sql}"
        )  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """What is to be set up. Names without a database or schema are those of `database` and
    `schema`.

    Args:
        compute_pool: the pool that runs containers; made only where `instance_family` says of what.
        database, schema: where everything is.
        stage: where runs live.
        queue: the table of `spcs_queue`.
        hybrid: whether it is a hybrid table; None: where the account has them.
        repository: where images are pushed to.
        warehouse: for the SQL of containers and tasks; made where it is not there.
        role: the role that flows run with, made where it is not there; None: that of the
            connection.
        user: who is to have the role.
        schemas: more schemas, for the data of flows.
        instance_family, nodes: of a pool that is to be made: its machines, and the most of them.
        image: the path of the image, for the plan.
        replicas, containers_per_node, connection: for the plan, too.

    Raises:
        UsageError: a name is none, or one that container services do not take.
    """

    compute_pool: str
    database: str = "FLOWDIST"
    schema: str = "PUBLIC"
    stage: str = "RUNS"
    queue: str = "FLOWDIST_QUEUE"
    hybrid: bool | None = None
    repository: str = "IMAGES"
    warehouse: str | None = None
    role: str | None = None
    user: str | None = None
    schemas: tuple[str, ...] = ()
    instance_family: str | None = None
    nodes: int = 1
    image: str | None = None
    replicas: int | None = None
    containers_per_node: int | None = None
    connection: str | None = None

    def __post_init__(self) -> None:
        for what in ("database", "schema", "compute_pool", "warehouse", "role", "user"):
            if getattr(self, what) is not None:
                Name.parse(getattr(self, what), what, most=1)
        names = [
            ("stage", self.stage_name),
            ("repository", self.repository_name),
            ("queue", self.queue_name),
            *(("schemas", name) for name in self.schema_names),
        ]
        for what, name in names:
            # Paths of images and names of services have no place for quotes.
            plain = name.parts if what in ("repository", "schemas") else name.parts[:2]
            if any(quote(part) != part for part in plain):
                raise UsageError(
                    f"{what}: {name} needs quotes, and container services take only plain names "
                    "of databases, schemas and image repositories: letters, digits and _, and no "
                    "word of SQL"
                )
        family = (self.instance_family or "X").upper()
        if quote(family) != family:
            raise UsageError(
                f"instance_family={self.instance_family!r} is none, as CPU_X64_S is one; SHOW "
                "COMPUTE POOL INSTANCE FAMILIES lists those of the account"
            )
        if self.nodes < 1:
            raise UsageError(f"nodes={self.nodes}: a compute pool has at least one")
        if (self.role or "").upper() in WITHOUT_SERVICES:
            raise UsageError(
                f"role={self.role}: Snowflake runs no containers for it; name another role, which "
                "is made where it is not there"
            )

    def in_schema(self, text: str, what: str) -> Name:
        """The full name of an object."""
        return Name.parse(text, what).within(
            Name.parse(self.database).last, Name.parse(self.schema).last
        )

    @property
    def stage_name(self) -> Name:
        """The stage, in full."""
        return self.in_schema(self.stage, "stage")

    @property
    def role_name(self) -> Name | None:
        """The role, where one was named."""
        return None if self.role is None else Name.parse(self.role)

    @property
    def schema_names(self) -> list[Name]:
        """Every schema that something is in, the first one first."""
        here = self.in_schema("x", "schema")
        others = [self.stage_name, self.queue_name, self.repository_name]
        more = [Name.parse(name, "schemas", most=2) for name in self.schemas]
        found = [Name(name.parts[:2]) for name in (here, *others)]
        found += [Name((here.parts[0], *name.parts)[-2:]) for name in more]
        return list(dict.fromkeys(found))

    @cached_property
    def things(self) -> list[Thing]:
        """The objects, in the order in which they can be made."""
        said = f"COMMENT = {literal(MARK)}"
        found: list[Thing] = []
        if self.role_name is not None:
            create = f"CREATE ROLE IF NOT EXISTS {self.role_name.sql} {said}"
            found.append(Thing("ROLE", self.role_name, create))
        for database in dict.fromkeys(name.parts[0] for name in self.schema_names):
            name = Name((database,))
            found.append(
                Thing("DATABASE", name, f"CREATE DATABASE IF NOT EXISTS {name.sql} {said}")
            )
        found += [
            Thing("SCHEMA", name, f"CREATE SCHEMA IF NOT EXISTS {name.sql} {said}")
            for name in self.schema_names
        ]
        if self.warehouse is not None:
            found.append(self._warehouse(Name.parse(self.warehouse), said))
        stats = self.stage_name.beside(TASK_STATS)
        found += [self._stage(said), self._queue(), Thing("TABLE", stats, task_stats_table(stats))]
        images = self.repository_name
        create = f"CREATE IMAGE REPOSITORY IF NOT EXISTS {images.sql} {said}"
        found.append(Thing("IMAGE REPOSITORY", images, create))
        found.append(self._pool(said))
        return found

    def _warehouse(self, name: Name, said: str) -> Thing:
        create = (
            f"CREATE WAREHOUSE IF NOT EXISTS {name.sql} WAREHOUSE_SIZE = 'XSMALL' "
            f"AUTO_SUSPEND = {WAREHOUSE_SUSPEND} AUTO_RESUME = TRUE {said}"
        )
        return Thing("WAREHOUSE", name, create)

    def _stage(self, said: str) -> Thing:
        create = (
            f"CREATE STAGE IF NOT EXISTS {self.stage_name.sql} "
            f"ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE') DIRECTORY = (ENABLE = TRUE) {said}"
        )
        return Thing("STAGE", self.stage_name, create)

    def _queue(self) -> Thing:
        name = self.queue_name
        if self.hybrid is False:
            return Thing("TABLE", name, log_queue_table(name))
        instead = "" if self.hybrid else log_queue_table(name)
        return Thing("TABLE", name, hybrid_queue_table(name), instead)

    def _pool(self, said: str) -> Thing:
        name = Name.parse(self.compute_pool)
        if self.instance_family is None:
            return Thing("COMPUTE POOL", name)
        create = (
            f"CREATE COMPUTE POOL IF NOT EXISTS {name.sql} MIN_NODES = 1 MAX_NODES = {self.nodes} "
            f"INSTANCE_FAMILY = {self.instance_family.upper()} AUTO_RESUME = TRUE "
            f"AUTO_SUSPEND_SECS = {POOL_SUSPEND} {said}"
        )
        return Thing("COMPUTE POOL", name, create)

    def grants(self, hybrid: bool = True) -> list[Grant]:
        """What the role of flows needs; `hybrid`: whether the queue is a hybrid table."""
        found = [
            Grant(("USAGE",), thing.kind, thing.name)
            for thing in self.things
            if thing.kind in ("DATABASE", "WAREHOUSE")
        ]
        where = {Name(t.name.parts[:2]) for t in self.things if len(t.name.parts) == 3}
        for name in self.schema_names:
            tables = (*_ON_SCHEMA, *(["CREATE HYBRID TABLE"] if hybrid else []))
            found.append(Grant(tables if name in where else ("USAGE",), "SCHEMA", name))
        for thing in self.things:
            if thing.kind in ("STAGE", "IMAGE REPOSITORY"):
                found.append(Grant(("READ", "WRITE"), thing.kind, thing.name))
            elif thing.kind == "TABLE":
                found.append(Grant(_ON_TABLE, thing.kind, thing.name))
        found.append(Grant(("USAGE", "MONITOR"), "COMPUTE POOL", Name.parse(self.compute_pool)))
        found.append(Grant(("EXECUTE TASK", "EXECUTE MANAGED TASK"), "ACCOUNT"))
        return found

    @property
    def repository_name(self) -> Name:
        """The image repository, in full."""
        return self.in_schema(self.repository, "repository")

    @property
    def queue_name(self) -> Name:
        """The table of the queue, in full."""
        return self.in_schema(self.queue, "queue")

    @property
    def members(self) -> list[tuple[str, Name]]:
        """Who is to have the role, as GRANT has it: SYSADMIN, so that administrators see what a
        role owns, and a user.
        """
        found = [("ROLE", Name(("SYSADMIN",)))]
        if self.user is not None:
            found.append(("USER", Name.parse(self.user)))
        return found if self.role_name is not None else []

    def plan(self) -> dict[str, Any]:
        """The fields of a plan on what was set up, as a profile has them."""
        queue = self.queue_name
        beside = queue.parts[:2] == self.stage_name.parts[:2]
        given: dict[str, Any] = {
            "kind": "spcs-queue",
            "compute_pool": Name.parse(self.compute_pool).sql,
            "image": self.image or f"{path_of(self.repository_name)}/flowdist-worker:TAG",
            "stage": self.stage_name.sql,
            "warehouse": None if self.warehouse is None else Name.parse(self.warehouse).sql,
            "queue": quote(queue.last) if beside else queue.sql,
            "connection": self.connection,
            "instance_family": self.instance_family and self.instance_family.upper(),
            "containers_per_node": self.containers_per_node if self.instance_family else None,
            "replicas": self.replicas,
        }
        return {name: value for name, value in given.items() if value is not None}

    def plan_line(self) -> str:
        """The line of Python that makes that plan."""
        fields = self.plan()
        del fields["kind"]
        said = "".join(f"    {name}={value!r},\n" for name, value in fields.items())
        return f"spcs_queue(\n{said})"


def script(setup: Setup) -> str:
    """All of it as a script for a worksheet; it may be run again, and nothing is made anew.

    Raises:
        UsageError: the set-up names no role, and so not to whom to grant.
    """
    if setup.role_name is None:
        raise UsageError(
            "a script needs the role that flows run with, since whoever runs it has another: "
            "--role NAME (it is made where it is not there)"
        )
    said = [HEAD]
    for thing in setup.things:
        if not thing.create:
            said.append(
                f"-- {thing.kind} {thing.name} has to be there already (--instance-family has it "
                "made)"
            )
            continue
        said.append(f"{thing.create};")
        if thing.instead:
            other = "\n".join(f"-- {line}" for line in f"{thing.instead};".splitlines())
            said.append(
                "-- Where there are no hybrid tables (Google Cloud, trial accounts), this instead, "
                f"and without CREATE HYBRID TABLE below:\n{other}"
            )
    role = setup.role_name
    hybrid = setup.hybrid is not False
    said += [f"{grant.sql(role)};" for grant in setup.grants(hybrid)]
    said += [f"GRANT ROLE {role.sql} TO {kind} {who.sql};" for kind, who in setup.members]
    return "\n\n".join(said) + "\n"
