"""Setting an account of Snowflake up for flows, and undoing it.

What is needed is said in `flowdist.backends.snowflake.setup_plan`. Here it is looked for, made
where it is missing, and granted; nothing that is there is made anew or changed. What cannot be made
is reported with the statement that an administrator would run, and the rest goes on.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from flowdist.backends.snowflake.setup_plan import MARK, WITHOUT_SERVICES, Grant, Setup, Thing
from flowdist.errors import UsageError
from flowdist.snowflake.connection import Client, SnowflakeError
from flowdist.snowflake.images import stored_images
from flowdist.snowflake.names import Name, Place, quote
from flowdist.snowflake.stage import StageFolder

__all__ = ["Setup", "Step", "newest_image", "set_up", "tear_down"]

State = Literal["created", "there", "granted", "missing", "unsuitable", "dropped", "kept", "absent"]

# Where set-up keeps on the stage which privileges it has granted on what it found.
RECORDS = "setup"
# How columns do not begin in the definition of a table.
_CLAUSES = ("INDEX", "PRIMARY", "UNIQUE", "CONSTRAINT", "FOREIGN")
# What the comments of our tables begin with.
OURS = (MARK, "flowdist:")


@dataclass(frozen=True)
class Step:
    """One object, or the privileges on it.

    ``state``: created, there (already), granted; missing or unsuitable, where somebody has to do
    something; after :func:`tear_down` dropped, kept or absent. ``sql``: what was run, or what would
    mend it.
    """

    kind: str
    name: str
    state: State
    note: str = ""
    sql: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is left to do."""
        return self.state not in ("missing", "unsuitable")

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def set_up(client: Client, setup: Setup) -> list[Step]:
    """Make what is missing of a set-up; what was found and made, in order.

    Raises:
        UsageError: flows cannot run with the role of the connection.
        SnowflakeError: Snowflake does not answer.
    """
    me = str(client.session()["role"] or "")
    work = _Work(client, setup, me, hybrid=setup.hybrid is not False)
    if setup.role is None and work.me in WITHOUT_SERVICES:
        raise UsageError(
            f"the connection's role is {work.me}, and Snowflake runs no containers for it; name "
            "the role that flows are to run with (--role NAME, made where it is not there)"
        )
    steps = [work.thing(thing) for thing in setup.things]
    return steps + work.privileges()


def tear_down(client: Client, setup: Setup) -> list[Step]:
    """Drop what set-up has made, with all runs on its stage, and take back what it has granted.

    What was there before stays, and so does what others have put something into.
    """
    role = setup.role_name or Name((str(client.session()["role"] or ""),))
    steps = list(_take_back(client, setup, role))
    steps += [_drop(client, thing) for thing in reversed(setup.things)]
    gone = {step.name for step in steps if (step.kind, step.state) == ("database", "dropped")}
    return [
        replace(step, state="dropped", note="with its database")
        if step.kind == "schema" and step.state == "kept" and step.name.partition(".")[0] in gone
        else step
        for step in steps
    ]


def newest_image(client: Client, setup: Setup) -> str | None:
    """The path of the newest image in the repository that this Python and this flowdist can use;
    None where there is none, or it cannot be seen.
    """
    try:
        found = stored_images(client, setup.repository_name)
    except SnowflakeError as error:
        if error.passing:
            raise
        return None
    usable = (i.path for i in found if i.worker is not None and not i.worker.differences())
    return next(usable, None)


@dataclass
class _Work:
    """A set-up while it is made."""

    client: Client
    setup: Setup
    me: str
    hybrid: bool
    made: set[tuple[str, str]] = field(default_factory=set)

    @property
    def role(self) -> Name:
        return self.setup.role_name or Name((self.me,))

    # -- objects

    def thing(self, thing: Thing) -> Step:
        """One object: found, made, or what keeps it from being there."""
        found = _found(self.client, thing)
        if found is not None:
            return self._judged(thing, found)
        if not thing.create:
            why = "it is not there (--instance-family has it made), or this role may not see it"
            return Step(thing.kind.lower(), thing.name.sql, "missing", why)
        try:
            return self._made(thing, thing.create)
        except SnowflakeError as error:
            if not thing.instead or error.passing or error.missing or error.denied:
                return self._missing(thing, _reason(error))
            refused = _reason(error)
        try:
            step = self._made(thing, thing.instead)
        except SnowflakeError as error:
            return self._missing(thing, _reason(error))
        self.hybrid = False
        note = f"a standard table, as Snowflake refuses a hybrid one: {refused}"
        return Step(step.kind, step.name, step.state, note, step.sql)

    def _made(self, thing: Thing, create: str) -> Step:
        said = str(self.client.value(create) or "")
        if "already exists" in said:
            # Not listed, and the name is taken.
            note = f"it is there, and role {quote(self.me)} may not use it"
            grant = next((g for g in self.setup.grants(self.hybrid) if g.name == thing.name), None)
            sql = grant.sql(Name((self.me,))) if grant is not None else ""
            return Step(thing.kind.lower(), thing.name.sql, "missing", note, sql)
        self.made.add((thing.kind, thing.name.sql))
        return Step(thing.kind.lower(), thing.name.sql, "created", sql=create)

    def _judged(self, thing: Thing, row: Mapping[str, Any]) -> Step:
        """What is there already: whether it will do."""
        bad, note, sql = "", "", ""
        if thing.kind == "STAGE":
            bad, note, sql = _stage_words(thing.name, row)
        elif thing.kind == "TABLE":
            hybrid = str(row.get("is_hybrid") or "") == "Y"
            if thing.name == self.setup.queue_name:
                self.hybrid = hybrid
                note = "" if hybrid or self.setup.hybrid is False else "a standard table"
            bad = _lacking(self.client, thing, hybrid)
        elif thing.kind == "COMPUTE POOL":
            note, sql = _pool_words(thing.name, self.setup, row)
        state: State = "unsuitable" if bad else "there"
        return Step(thing.kind.lower(), thing.name.sql, state, bad or note, sql)

    def _missing(self, thing: Thing, why: str) -> Step:
        grant = f"GRANT {thing.privilege} TO ROLE {quote(self.me)}"
        return Step(thing.kind.lower(), thing.name.sql, "missing", why, grant)

    # -- privileges

    def privileges(self) -> list[Step]:
        """What the role has, gets, or lacks. What was granted on what is not ours is written down
        on the stage: only so can it be taken back.
        """
        held = _held(self.client, self.role)
        grants = self.setup.grants(self.hybrid)
        steps = [self._grant(grant, held) for grant in grants]
        granted = {
            _key(grant.kind, grant.name): step.note.split(", ")
            for grant, step in zip(grants, steps, strict=True)
            if step.state == "granted" and not self._ours(grant)
        }
        members = {(row["granted_to"], row["grantee_name"]) for row in _members(self)}
        new = ("ROLE", self.role.sql) in self.made
        for kind, who in self.setup.members:
            there = (kind, who.last) in members
            if kind == "ROLE" and not there and not new:
                continue  # who looks after a role that was there is not for us to say
            step = self._member(kind, who, there)
            steps.append(step)
            if step.state == "granted" and not new:
                granted[_key(kind, who)] = ["ROLE"]
        if granted:
            _remember(self.client, self.setup, self.role, granted)
        return steps

    def _grant(self, grant: Grant, held: Mapping[tuple[str, str], set[str]]) -> Step:
        kind, name = grant.kind.lower(), "" if grant.name is None else grant.name.sql
        label = f"privileges on {kind}"
        mine = self.role.last == self.me and (grant.kind, name) in self.made
        has = held.get((grant.kind, name), set())
        lacking = [p for p in grant.privileges if not (mine or "OWNERSHIP" in has or p in has)]
        if not lacking:
            return Step(label, name, "there", ", ".join(grant.privileges))
        sql = grant.sql(self.role, lacking)
        try:
            self.client.run(sql)
        except SnowflakeError as error:
            if error.passing:
                raise
            return Step(label, name, "missing", ", ".join(lacking), sql)
        return Step(label, name, "granted", ", ".join(lacking), sql)

    def _ours(self, grant: Grant) -> bool:
        """Whether what was granted ends with an object that is dropped with this set-up."""
        on = (grant.kind, "" if grant.name is None else grant.name.sql)
        return on in self.made or ("ROLE", self.role.sql) in self.made

    def _member(self, kind: str, who: Name, there: bool) -> Step:
        whom = f"for {kind.lower()} {who.sql}"
        if there:
            return Step("role", self.role.sql, "there", whom)
        sql = f"GRANT ROLE {self.role.sql} TO {kind} {who.sql}"
        try:
            self.client.run(sql)
        except SnowflakeError as error:
            if error.passing:
                raise
            return Step("role", self.role.sql, "missing", whom, sql)
        return Step("role", self.role.sql, "granted", whom, sql)


# -- looking ---------------------------------------------------------------------------------------


def _found(client: Client, thing: Thing) -> dict[str, Any] | None:
    """The row of SHOW for an object; None where it is not there, or not to be seen."""
    try:
        rows = client.rows(thing.show)
    except SnowflakeError as error:
        if error.missing:
            return None
        raise
    # LIKE knows no case, and takes _ for any letter.
    return next((row for row in rows if row["name"] == thing.name.last), None)


def _stage_words(name: Name, row: Mapping[str, Any]) -> tuple[str, str, str]:
    kind = str(row.get("type") or "")
    if not kind.startswith("INTERNAL"):
        return f"it is a stage of type {kind}, and runs need an internal one", "", ""
    if "TEMPORARY" in kind:
        return "it is a temporary stage", "", ""
    if str(row.get("directory_enabled", "Y")) != "Y":
        sql = f"ALTER STAGE {name.sql} SET DIRECTORY = (ENABLE = TRUE)"
        return "", "without a directory table, which flows do not need", sql
    return "", "", ""


def _pool_words(name: Name, setup: Setup, row: Mapping[str, Any]) -> tuple[str, str]:
    said, sql = [], ""
    family = str(row.get("instance_family") or "")
    if setup.instance_family and family.upper() != setup.instance_family.upper():
        said.append(f"its nodes are {family}, not {setup.instance_family.upper()}")
    if int(row.get("max_nodes") or 0) < setup.nodes:
        said.append(f"it has at most {row['max_nodes']} nodes, not {setup.nodes}")
        sql = f"ALTER COMPUTE POOL {name.sql} SET MAX_NODES = {setup.nodes}"
    if row.get("state") == "SUSPENDED" and str(row.get("auto_resume")).lower() != "true":
        said.append("it is suspended, and nothing resumes it")
        sql = f"ALTER COMPUTE POOL {name.sql} RESUME"
    return "; ".join(said), sql


def _lacking(client: Client, thing: Thing, hybrid: bool) -> str:
    """What keeps a table that is there from being ours: columns that it has not."""
    text = thing.create if hybrid or not thing.instead else thing.instead
    wanted = [line.split()[0] for line in text.splitlines()[1:] if line.startswith("  ")]
    try:
        there = {row["name"] for row in client.rows(f"DESCRIBE TABLE {thing.name.sql}")}
    except SnowflakeError as error:
        if error.passing:
            raise
        return ""  # what is not granted is said below
    lacking = [name for name in wanted if name not in _CLAUSES and name not in there]
    if not lacking:
        return ""
    return (
        f"it is another table: it has no column {', '.join(lacking[:4])}"
        f"{' ...' if len(lacking) > 4 else ''}; name another one"
    )


def _held(client: Client, role: Name) -> dict[tuple[str, str], set[str]]:
    """The privileges of a role, with those of the roles that are granted to it, and of PUBLIC; by
    kind and name of the object, the account's under an empty name.
    """
    found: dict[tuple[str, str], set[str]] = {}
    waiting, seen = [role.last, "PUBLIC"], set()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        try:
            rows = client.rows(f"SHOW GRANTS TO ROLE {quote(one)}")
        except SnowflakeError as error:
            if error.passing:
                raise
            continue  # it may not be looked at: then it is granted, perhaps again
        for row in rows:
            kind = str(row["granted_on"]).replace("_", " ")
            if kind == "ROLE" and row["privilege"] == "USAGE":
                waiting.append(str(row["name"]).strip('"').replace('""', '"'))
            key = ("TABLE" if kind.endswith("TABLE") else kind, _sql_name(kind, str(row["name"])))
            found.setdefault(key, set()).add(str(row["privilege"]))
    return found


def _sql_name(kind: str, shown: str) -> str:
    if kind == "ACCOUNT":
        return ""
    try:
        return Name.parse(shown).sql
    except UsageError:  # of a function, or another object that has more than a name
        return shown


def _members(work: _Work) -> list[dict[str, Any]]:
    """Who has the role; nobody where that is not to be known."""
    if not work.setup.members:
        return []
    try:
        return work.client.rows(f"SHOW GRANTS OF ROLE {work.role.sql}")
    except SnowflakeError as error:
        if error.passing:
            raise
        return []


# -- remembering what was granted ------------------------------------------------------------------


def _key(kind: str, name: Name | None) -> str:
    return kind if name is None else f"{kind} {name.sql}"


def _records(client: Client, setup: Setup) -> StageFolder:
    return StageFolder(client, Place(setup.stage_name) / RECORDS)


def _remember(client: Client, setup: Setup, role: Name, granted: Mapping[str, list[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        name = f"{secrets.token_hex(8)}.json"
        Path(folder, name).write_text(json.dumps({"role": role.sql, "granted": granted}))
        try:
            _records(client, setup).put(Path(folder), [name])
        except SnowflakeError as error:
            if error.passing:
                raise


def _remembered(client: Client, setup: Setup, role: Name) -> dict[str, set[str]]:
    """What this set-up has granted to the role on what it found."""
    found: dict[str, set[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            names = _records(client, setup).get(Path(folder), "")
        except SnowflakeError as error:
            if not error.missing:
                raise
            return found
        for name in names:
            said = json.loads(Path(folder, name).read_text())
            for key, privileges in said["granted"].items() if said["role"] == role.sql else ():
                found.setdefault(key, set()).update(privileges)
    return found


def _take_back(client: Client, setup: Setup, role: Name) -> Iterator[Step]:
    """Revoke what was granted. Others may write to the stage: only what a set-up would grant is
    taken back, whatever its records say.
    """
    found = _remembered(client, setup, role)
    statements = []
    for grant in setup.grants():
        key = _key(grant.kind, grant.name)
        some = [p for p in grant.privileges if p in found.get(key, ())]
        if some:
            statements.append((key, ", ".join(some), grant.back(role, some)))
    statements += [
        (_key(kind, who), "ROLE", f"REVOKE ROLE {role.sql} FROM {kind} {who.sql}")
        for kind, who in setup.members
        if _key(kind, who) in found
    ]
    kept = False
    for on, what, sql in statements:
        try:
            client.run(sql)
        except SnowflakeError as error:
            if not error.missing:
                kept = True
                yield Step("privileges", on.lower(), "kept", _reason(error), sql)
            continue
        yield Step("privileges", on.lower(), "dropped", f"{what} of {role}", sql)
    if found and not kept:
        _records(client, setup).remove()


# -- dropping --------------------------------------------------------------------------------------


def _drop(client: Client, thing: Thing) -> Step:
    kind, name = thing.kind.lower(), thing.name.sql
    found = _found(client, thing)
    if found is None:
        return Step(kind, name, "absent")
    if not str(found.get("comment") or "").startswith(OURS):
        return Step(kind, name, "kept", "set-up has not made it")
    if not thing.create:
        # A pool that this set-up was only told to use: that of another may have made it.
        return Step(kind, name, "kept", "with --instance-family it is dropped too", thing.drop)
    if thing.kind in ("DATABASE", "SCHEMA"):
        inside = _inside(client, thing)
        if inside:
            return Step(kind, name, "kept", f"there is something in it: {inside}", thing.drop)
    try:
        client.run(thing.drop)
    except SnowflakeError as error:
        if error.passing:
            raise
        return Step(kind, name, "kept", _reason(error), thing.drop)
    return Step(kind, name, "dropped", sql=thing.drop)


def _inside(client: Client, thing: Thing) -> str:
    """What a database or schema holds, the first few names; empty where it is empty."""
    names: list[str] = []
    for what in ("TERSE OBJECTS", "STAGES", "SERVICES", "TASKS", "IMAGE REPOSITORIES"):
        rows = client.rows(f"SHOW {what} IN {thing.kind} {thing.name.sql}")
        names += [
            f"{row['schema_name']}.{row['name']}"
            for row in rows
            if row["schema_name"] != "INFORMATION_SCHEMA"
        ]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _reason(error: SnowflakeError) -> str:
    """What Snowflake said; an error that may pass is no reason."""
    if error.passing:
        raise error
    return error.said
