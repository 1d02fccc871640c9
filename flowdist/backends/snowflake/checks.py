"""Preflight on Snowflake: whether the account admits what a plan asks for, and what is in its way.

Every question is a cheap statement that starts nothing and leaves nothing behind. What does not
exist and what a role may not see are the same to Snowflake, so that a finding says both, with the
statement that mends it. What is asked, and how, is in `flowdist.backends.snowflake.account`; what a
plan says by itself, in `flowdist.backends.snowflake.estimates`.
"""

from __future__ import annotations

import re
import secrets as random_names
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flowdist.backends.snowflake.account import Account, Need, error
from flowdist.backends.snowflake.plans import Spcs, SpcsJobs, SpcsQueue, SpcsTasks
from flowdist.backends.snowflake.pool_checks import pool_findings
from flowdist.backends.snowflake.pools import check_pool, pool_name
from flowdist.backends.snowflake.queues import queue_table
from flowdist.backends.snowflake.setup_plan import WITHOUT_SERVICES
from flowdist.errors import BackendError, FlowdistError, UsageError, nearest
from flowdist.preflight.check import Check, Severity
from flowdist.snowflake.connection import Client, SnowflakeError
from flowdist.snowflake.images import ImagePath, StoredImage, stored_images
from flowdist.snowflake.names import Name, Place, quote
from flowdist.snowflake.stage import StageFolder
from flowdist.snowflake.tables import TASK_STATS

if TYPE_CHECKING:
    from flowdist.plan import PlanSummary

__all__ = ["check"]

_PLAIN = re.compile(r"[A-Z_][A-Z0-9_$]*")
# Without these runs go on: with no statistics of their tasks; as long as a pool is not suspended.
_WITHOUT: Mapping[str, Severity] = {"CREATE TABLE": "info", "OPERATE": "warning"}
# Where there are no hybrid tables.
_NO_HYBRID = re.compile(r"\bGCP_|GOV")


def check(
    plan: Spcs, summary: PlanSummary, connect: Callable[[], Client], *, brief: bool = False
) -> list[Check]:
    """What would keep the jobs of `plan` from running on this account, or surprise its user.

    Raises nothing that Snowflake says. Where that is `brief`, three statements ask for what would
    keep jobs from starting and is most often wrong: pool and image; the rest Snowflake itself says
    when they are started.
    """
    try:
        account = Account(connect())
        place = _place(plan, account)
    except UsageError as failed:
        return [error("connection", str(failed), "")]
    except FlowdistError as failed:
        return [error("connection", str(failed), _way_in(plan))]
    if isinstance(place, Check):
        return [place]
    found = [*_owner(account), *_unquoted(place), *_no_warehouse(plan, account)]
    if isinstance(plan, SpcsQueue) and plan.pool is not None:
        asked = [_workers(plan, place, account)]
    else:
        asked = [pool_findings(plan, summary, account), _image(plan, account)]
    if not brief:
        asked += [
            _role(account),
            _privileges(plan, place, account),
            _stage(place, account),
            _warehouse(plan, account),
            _secrets(plan, place, account),
            _queue(plan, place, account),
        ]
    try:
        with nullcontext() if brief else account.as_jobs():
            found.extend(_said(asked))  # what was found before an answer fails to come is kept
    except SnowflakeError as failed:
        found.append(error("connection", str(failed), _way_in(plan)))
    return [one for one in found if not (brief and one.severity == "info")]


def _said(asked: Iterable[Iterator[Check]]) -> Iterator[Check]:
    """All findings; a question that Snowflake does not answer is one."""
    for findings in asked:
        try:
            yield from findings
        except SnowflakeError as failed:
            if failed.passing:
                raise
            yield Check("snowflake", "warning", f"one thing could not be looked at: {failed}")


def _place(plan: Spcs, account: Account) -> Place | Check:
    """The stage with its full name, for which Snowflake is asked who we are."""
    session = account.session
    place = Place.parse(plan.stage).within(session.database, session.schema)
    if len(place.stage.parts) == 3:
        return place
    return error(
        "stage",
        f"stage={plan.stage!r} has no database or schema, and neither has the session",
        "write database.schema.stage, or give the connection a database and a schema",
    )


def _way_in(plan: Spcs) -> str:
    if plan.connection is None:
        return (
            "name one of connections.toml with connection=, or set SNOWFLAKE_ACCOUNT, "
            "SNOWFLAKE_USER and what signs in"
        )
    return f"see whether 'snow connection test -c {plan.connection}' gets in, and as whom"


def _owner(account: Account) -> Iterator[Check]:
    """Services are their maker's, and not everybody may have any."""
    if account.role in (*WITHOUT_SERVICES, "ORGADMIN"):
        yield error(
            "role",
            f"Snowflake runs no containers for role {account.role}",
            "connect with another role (role = ... in connections.toml); flowdist setup snowflake "
            "--role NAME makes one that has what flows need",
        )


def _unquoted(place: Place) -> Iterator[Check]:
    """Services have names in DNS, and so have what they lie in."""
    for what, part in zip(("database", "schema"), place.stage.parts, strict=False):
        if not _PLAIN.fullmatch(part):
            yield error(
                "stage",
                f"{what} {quote(part)}: services can be made only where the names of database and "
                "schema need no quotes",
                f"use a stage in another {what}",
            )


# -- workers that run anyway ---------------------------------------------------------------------


def _workers(plan: SpcsQueue, place: Place, account: Account) -> Iterator[Check]:
    """Whether the persistent pool that is to do the work is there, and takes this queue's."""
    name, runs = pool_name(plan.pool or "", place.stage), place / "runs"
    try:
        check_pool(account.client, name, runs, queue_table(plan.queue, runs))
    except BackendError as failed:
        if isinstance(failed, SnowflakeError) and failed.passing:
            raise
        yield error(
            "workers",
            f"pool={plan.pool!r}: {failed}",
            f"flowdist pool status {name.last} shows what it works for",
        )


# -- image ---------------------------------------------------------------------------------------


def _image(plan: Spcs, account: Account) -> Iterator[Check]:
    try:
        path = ImagePath.parse(plan.image)
    except UsageError as failed:
        yield Check("image", "warning", str(failed))
        return
    repository = path.repository.sql
    try:
        known = stored_images(account.client, path.repository)
    except SnowflakeError as failed:
        if failed.passing:
            raise
        need = Need("READ", "IMAGE REPOSITORY", path.repository, "", "image")
        yield error(
            "image",
            f"image repository {repository} does not exist, or role {account.role} may not read it",
            f"{_usage(path.repository, account.role)}{need.grant(account.role)}; or CREATE IMAGE "
            f"REPOSITORY {repository}, and flowdist image push",
        )
        return
    named = [image for image in known if image.name == path.name]
    found = [i for i in named if (i.digest == path.digest if path.digest else i.tag == path.tag)]
    if found:
        yield from _versions(plan, found)
        return
    have = [image.tag for image in named] or sorted({image.name for image in known})
    near = nearest(path.tag if named else path.name, have)
    said = f"{'tags' if named else 'images'}: {', '.join(have) or 'none'}"
    yield error(
        "image",
        f"image={plan.image!r} is not in its repository{near} (it has {said})",
        "flowdist image push puts it there; flowdist image list shows what there is",
    )


def _versions(plan: Spcs, found: Sequence[StoredImage]) -> Iterator[Check]:
    """Whether the image has the Python and the flowdist that submit, as far as its tags say."""
    tags = [image.worker for image in found if image.worker is not None]
    if not tags:
        yield Check(
            "python", "info",
            f"which Python and flowdist image={plan.image!r} has is not known before it runs",
            "flowdist image validate looks; the tags of flowdist image build say it",
        )  # fmt: skip
    elif differing := tags[0].differences():
        yield error(
            "python",
            f"image={plan.image!r}: {' and '.join(differing)}, and code that is sent needs the "
            "same on both sides",
            "flowdist image build makes one that fits, or submit with the Python of the image",
        )


def _usage(name: Name, role: str) -> str:
    """What lets a role see into the schema of something."""
    database, schema = Name(name.parts[:1]), Name(name.parts[:2])
    return (
        f"GRANT USAGE ON DATABASE {database.sql} TO ROLE {quote(role)}; "
        f"GRANT USAGE ON SCHEMA {schema.sql} TO ROLE {quote(role)}; "
    )


# -- privileges ----------------------------------------------------------------------------------


def _role(account: Account) -> Iterator[Check]:
    session = account.session
    if session.secondary:
        yield Check(
            "role", "info",
            f"jobs run as role {account.role} alone, and so was all of this looked at; the "
            f"session has secondary roles besides ({session.secondary})",
        )  # fmt: skip


def _needs(plan: Spcs, place: Place) -> Iterator[Need]:
    """What the role has to be granted, apart from what is tried out: stage and images."""
    schema = Name(place.stage.parts[:2])
    pool = Name.parse(plan.compute_pool, most=1)
    if isinstance(plan, SpcsQueue) and plan.pool is not None:
        why = "whoever submits starts it where it is suspended"
        yield Need("OPERATE", "SERVICE", pool_name(plan.pool, place.stage), why, "workers")
    else:
        yield Need("USAGE", "COMPUTE POOL", pool, "jobs run on it", "pool")
        yield Need("CREATE SERVICE", "SCHEMA", schema, "jobs are services", "schema")
    if isinstance(plan, SpcsTasks):
        yield Need("CREATE TASK", "SCHEMA", schema, "a job is a task", "schema")
        why = f"statistics of runs are kept in {TASK_STATS}, unless that is there already"
        yield Need("CREATE TABLE", "SCHEMA", schema, why, "tasks")
        yield Need("EXECUTE TASK", "ACCOUNT", None, "tasks are run", "tasks")
        if plan.warehouse is None:
            why = "without warehouse= tasks are serverless"
            yield Need("EXECUTE MANAGED TASK", "ACCOUNT", None, why, "tasks")
    if plan.warehouse is not None:
        warehouse = Name.parse(plan.warehouse, most=1)
        yield Need("USAGE", "WAREHOUSE", warehouse, "containers query with it", "warehouse")
    for name in plan.external_access:
        why = "containers reach outside with it"
        yield Need("USAGE", "INTEGRATION", Name.parse(name), why, "external access")
    for given in plan.secrets.values():
        secret = _secret_name(given, place)
        yield Need("READ", "SECRET", secret, "containers are given it", "secrets")


def _secret_name(given: str, place: Place) -> Name:
    return Name.parse(given.partition(":")[0]).within(*place.stage.parts[:2])


def _privileges(plan: Spcs, place: Place, account: Account) -> Iterator[Check]:
    role = account.role
    missing, unseen = account.lacking(list(_needs(plan, place)))
    for need in missing:
        on = f" on {need.target}" if need.name is not None else ""
        what = f"role {role} lacks {need.privilege}{on}: {need.why}"
        severity = _WITHOUT.get(need.privilege, "error")
        yield Check(need.check, severity, what, need.grant(role))
    for target in dict.fromkeys(need.target for need in unseen):
        own = [need for need in unseen if need.target == target]
        first = own[0]
        if first.check in ("pool", "workers") or first.name is None:
            continue  # said already; everybody sees the account
        inside = _usage(first.name, role) if first.kind in ("SECRET", "SCHEMA") else ""
        together = replace(first, privilege=", ".join(need.privilege for need in own))
        yield error(
            first.check,
            f"{target} does not exist, or role {role} has no privilege on it: {first.why}",
            f"{inside}{together.grant(role)}",
        )


# -- stage ---------------------------------------------------------------------------------------


def _stage(place: Place, account: Account) -> Iterator[Check]:
    """What kind of stage it is, and whether a file can be put there, seen, and removed."""
    stage, role = place.stage, account.role
    grants = f"{_usage(stage, role)}GRANT READ, WRITE ON STAGE {stage.sql} TO ROLE {quote(role)}"
    try:
        row = account.named("STAGES", stage)
    except SnowflakeError as failed:
        if failed.passing:
            raise
        row = None
    if row is None:
        yield error(
            "stage",
            f"stage {stage.sql} does not exist, or role {role} has no privilege on it",
            f"{grants}; or CREATE STAGE {stage.sql} ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')",
        )
        return
    kind = str(row.get("type") or "").upper()
    if "EXTERNAL" in kind or "TEMPORARY" in kind:
        yield error(
            "stage",
            f"stage {stage.sql} is {kind.lower()}, and containers mount permanent internal ones",
            "CREATE STAGE ... ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE'), and name it with stage=",
        )
        return
    if kind == "INTERNAL":
        yield Check(
            "stage", "info",
            f"stage {stage.sql} has SNOWFLAKE_FULL encryption; stages that are mounted are best "
            "made with ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')",
        )  # fmt: skip
    try:
        _probe(place, account.client)
    except BackendError as failed:
        if isinstance(failed, SnowflakeError) and failed.passing:
            raise
        yield error(
            "stage", f"stage {stage.sql}: role {role} cannot write and read there: {failed}", grants
        )


def _probe(place: Place, client: Client) -> None:
    """Put a file on the stage, look for it, remove it."""
    folder = StageFolder(client, place / f"preflight-{random_names.token_hex(4)}")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "probe").write_text("flowdist preflight\n", encoding="utf-8")
        folder.put(Path(directory), ["probe"])
    try:
        if "probe" not in folder.sizes():
            raise BackendError(f"a file that was put in {folder.place} is not seen there")
    finally:
        folder.remove()


# -- warehouse, secrets, queue -------------------------------------------------------------------


def _no_warehouse(plan: Spcs, account: Account) -> Iterator[Check]:
    if plan.warehouse is None and isinstance(plan, SpcsQueue) and plan.pool is None:
        yield error(
            "warehouse",
            "containers claim chunks from a table, for which they need a warehouse, and the plan "
            "gives none",
            "give warehouse=",
        )
    if not isinstance(plan, SpcsJobs) and account.session.warehouse is None:
        yield error(
            "warehouse",
            f"the connection has no warehouse that role {account.role} may use, and how the run "
            "goes is asked with one",
            "name one (warehouse = ... in connections.toml), and GRANT USAGE ON WAREHOUSE ... TO "
            f"ROLE {quote(account.role)}",
        )


def _warehouse(plan: Spcs, account: Account) -> Iterator[Check]:
    if plan.warehouse is None:
        return
    name = Name.parse(plan.warehouse, most=1)
    row = account.named("WAREHOUSES", name)
    if row is None:
        return  # that the role may not use it, or it is not there, is said by its grants
    state, resumes = str(row["state"]).upper(), str(row["auto_resume"]).lower() == "true"
    if state in ("SUSPENDED", "SUSPENDING") and not resumes:
        yield error(
            "warehouse",
            f"warehouse {name.sql} is {state.lower()}, and AUTO_RESUME is off",
            f"ALTER WAREHOUSE {name.sql} RESUME; or SET AUTO_RESUME = TRUE",
        )


def _secrets(plan: Spcs, place: Place, account: Account) -> Iterator[Check]:
    """Whether secrets have the part that is asked of them."""
    for variable, given in plan.secrets.items():
        name, key = _secret_name(given, place), given.partition(":")[2] or "secret_string"
        try:
            row = account.client.rows(f"DESCRIBE SECRET {name.sql}")[0]
        except SnowflakeError as failed:
            if failed.passing:
                raise
            continue  # said by its grants
        kind = str(row.get("secret_type") or "").upper()
        has = {"PASSWORD": ("username", "password"), "GENERIC_STRING": ("secret_string",)}
        if kind in has and key not in has[kind]:
            yield error(
                "secrets",
                f"secrets[{variable!r}]: secret {name.sql} is of type {kind} and has no {key}",
                f"write {name.sql}:{' or :'.join(has[kind])}" if kind == "PASSWORD"
                else f"write {name.sql}",
            )  # fmt: skip


def _queue(plan: Spcs, place: Place, account: Account) -> Iterator[Check]:
    """What the queue is, or will be, a table of."""
    if not isinstance(plan, SpcsQueue):
        return
    table = Name.parse(plan.queue).within(*place.stage.parts[:2])
    try:
        row = account.named("TABLES", table)
    except SnowflakeError as failed:
        if failed.passing:
            raise
        return  # the schema is not there, which its grants say
    if row is None:
        yield from _queue_to_be_made(table, account)
        return
    needs = [
        Need(privilege, "TABLE", table, "chunks are claimed from it", "queue")
        for privilege in ("SELECT", "INSERT", "UPDATE", "DELETE")
    ]
    missing, _ = account.lacking(needs)
    if missing:
        together = replace(missing[0], privilege=", ".join(need.privilege for need in missing))
        what = f"role {account.role} lacks {together.privilege} on {together.target}"
        yield error("queue", what, together.grant(account.role))
    if str(row.get("is_hybrid")).upper() != "Y":
        yield _log_instead(f"{table.sql} is a standard table")


def _queue_to_be_made(table: Name, account: Account) -> Iterator[Check]:
    """A hybrid table where the account has them and the role may make one, else a standard one."""
    schema, region = Name(table.parts[:2]), account.session.region
    hybrid, standard = (
        Need(f"CREATE {kind}", "SCHEMA", schema, f"queue {table.sql} is made there", "queue")
        for kind in ("HYBRID TABLE", "TABLE")
    )
    missing, unseen = account.lacking([hybrid, standard])
    none = bool(_NO_HYBRID.search(region))
    if unseen:
        return  # said by its grants
    if standard in missing and (none or hybrid in missing):
        need = standard if none else hybrid
        yield error(
            "queue",
            f"the queue {table.sql} does not exist, or role {account.role} has no privilege on it "
            f"and lacks {need.privilege} on {need.target}, where it would be made",
            f"{need.grant(account.role)}; or let flowdist setup snowflake make it",
        )
    elif none:
        yield _log_instead(f"{table.sql} will be a standard table, as {region} has no hybrid ones")
    elif hybrid in missing:
        yield _log_instead(
            f"{table.sql} will be a standard table, as role {account.role} lacks "
            f"{hybrid.privilege}",
            hybrid.grant(account.role),
        )


def _log_instead(what: str, remedy: str = "") -> Check:
    said = f"the queue {what}: rows are only added to it, and claims take more statements"
    return Check("queue", "warning" if remedy else "info", said, remedy)
