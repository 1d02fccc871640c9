"""Compute pools: CREATE, ALTER, DROP, SHOW, DESCRIBE, and what SHOW says of nodes and families."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from flowdist.emulator.catalog import Object
from flowdist.emulator.compute.families import FAMILIES, find_family
from flowdist.emulator.errors import SqlError, already_exists, compilation_error, invalid_value
from flowdist.emulator.names import shown
from flowdist.emulator.result import Result, message, rows
from flowdist.emulator.sql.parser import Parser, Reader
from flowdist.emulator.statements import Context, scalar, statement
from flowdist.emulator.statements.creating import DONE, already_there, changes, dropped, read_unset
from flowdist.emulator.statements.showing import Filter, moment, read_name_filter
from flowdist.emulator.types import FIXED, LTZ, REAL, DataType

KIND = "compute pool"
AUTO_SUSPEND_SECONDS = 3600
DEFAULTS: dict[str, Any] = {
    "auto_suspend_secs": AUTO_SUSPEND_SECONDS,
    "auto_resume": True,
    "placement_group": None,
    "backup_instance_families": None,
}

_SETTABLE: dict[str, Reader] = {
    "MIN_NODES": Parser.integer,
    "MAX_NODES": Parser.integer,
    "INSTANCE_FAMILY": Parser.text_or_word,
    "AUTO_RESUME": Parser.boolean,
    "AUTO_SUSPEND_SECS": Parser.integer,
    "COMMENT": Parser.text,
    "PLACEMENT_GROUP": Parser.text,
    "BACKUP_INSTANCE_FAMILIES": lambda parse: parse.parenthesised(Parser.text),
}


@statement("CREATE", "COMPUTE", "POOL")
def create_pool(context: Context, parse: Parser) -> Result:
    """CREATE COMPUTE POOL [IF NOT EXISTS] name MIN_NODES = ... MAX_NODES = ... ..."""
    if parse.modifiers:
        raise compilation_error(
            f"Unsupported feature '{', '.join(sorted(parse.modifiers))}'.", 2, "0A000"
        )
    if_not_exists = parse.if_not_exists()
    name = parse.identifier()
    if parse.word() == "FOR":
        raise parse.unsupported()
    given = parse.properties({**_SETTABLE, "INITIALLY_SUSPENDED": Parser.boolean})
    if parse.word() in ("WITH", "TAG"):
        raise parse.unsupported()
    parse.end()
    for needed in ("MIN_NODES", "MAX_NODES", "INSTANCE_FAMILY"):
        if needed not in given:
            raise compilation_error(f"Missing option(s): [{needed}]", 2029)
    suspended = given.pop("INITIALLY_SUSPENDED", False)
    comment = given.pop("COMMENT", "")
    data = {**DEFAULTS, **{key.lower(): value for key, value in given.items()}}
    _check(data)
    account = context.account
    account.access.require_account(context.session, "CREATE COMPUTE POOL")
    now = account.clock.time()
    with account.catalog.lock:
        if account.catalog.find(KIND, (name,)) is not None:
            if if_not_exists:
                return already_there(name)
            raise already_exists(shown(name))
        made = account.catalog.create(
            KIND,
            (name,),
            owner=account.access.owner_role(context.session),
            comment=comment,
            **data,
            suspended=True,
            paused=False,
            nodes_made=0,
            resumed_on=None,
            updated_on=now,
        )
    if not suspended:
        account.compute.resume_pool(made)
    return message(f"Compute pool {shown(name)} successfully created.")


def _check(data: dict[str, Any]) -> None:
    """The properties of a pool as a whole; the names of families are brought into their case."""
    family = find_family(data["instance_family"])
    data["instance_family"] = family.name
    if data["min_nodes"] < 1:
        raise invalid_value(data["min_nodes"], "MIN_NODES")
    if data["max_nodes"] < data["min_nodes"]:
        raise invalid_value(data["max_nodes"], "MAX_NODES")
    if family.node_limit is not None and data["max_nodes"] > family.node_limit:
        raise invalid_value(data["max_nodes"], "MAX_NODES")
    if data["auto_suspend_secs"] < 0:
        raise invalid_value(data["auto_suspend_secs"], "AUTO_SUSPEND_SECS")
    backup = data["backup_instance_families"]
    if backup is not None:
        names = [find_family(one).name for one in backup]
        if not names or family.name in names or len(set(names)) < len(names):
            raise invalid_value(", ".join(backup), "BACKUP_INSTANCE_FAMILIES")
        data["backup_instance_families"] = names


@statement("ALTER", "COMPUTE", "POOL")
def alter_pool(context: Context, parse: Parser) -> Result:
    """ALTER COMPUTE POOL [IF EXISTS] name SUSPEND | RESUME | STOP ALL | SET ... | UNSET ..."""
    if_exists = parse.if_exists()
    name = parse.identifier()
    account = context.account
    if if_exists and account.catalog.find(KIND, (name,)) is None:
        parse.rest()
        return message(DONE)
    pool = account.access.find(context.session, KIND, (name,))
    compute = account.compute
    action = {
        "SUSPEND": compute.suspend_pool,
        "RESUME": compute.resume_pool,
        "STOP": compute.stop_all,
    }.get(parse.word())
    if action is None:
        return _set_or_unset(context, parse, pool)
    if parse.next().text.upper() == "STOP":
        parse.expect("ALL")
        if parse.word() == "OF":
            raise parse.unsupported()
    parse.end()
    account.access.require_any(context.session, ("OPERATE", "OWNERSHIP"), pool)
    action(pool)
    return message(DONE)


def _set_or_unset(context: Context, parse: Parser, pool: Object) -> Result:
    account = context.account
    comment: str | None = None
    if parse.accept("UNSET"):
        known = {key.upper() for key in DEFAULTS} | {"COMMENT"}
        names = read_unset(parse, dict.fromkeys(known), "COMPUTE POOL")
        data = {n.lower(): DEFAULTS[n.lower()] for n in names if n != "COMMENT"}
        comment = "" if "COMMENT" in names else None
    elif parse.accept("SET"):
        given = changes(parse, _SETTABLE, "COMPUTE POOL")
        parse.end()
        comment = given.pop("COMMENT", None)
        data = {key.lower(): value for key, value in given.items()}
    else:
        raise parse.error()
    account.access.require_any(context.session, ("MODIFY", "OWNERSHIP"), pool)
    whole = {**pool.data, **data}
    _check(whole)
    with account.compute.store.lock:
        state = account.compute.pools.figures(pool).state
    for key in ("instance_family", "placement_group"):
        if whole[key] != pool.data[key] and state != "SUSPENDED":
            raise compilation_error(
                f"{key.upper()} of compute pool '{pool.name}' can be changed only while it is "
                "suspended.",
                2,
                "55000",
            )
    changed = {key: whole[key] for key in data}
    account.catalog.update(pool, comment=comment, **changed, updated_on=account.clock.time())
    account.compute.wake()
    return message(DONE)


@statement("DROP", "COMPUTE", "POOL")
def drop_pool(context: Context, parse: Parser) -> Result:
    """DROP COMPUTE POOL [IF EXISTS] name; jobs on it are aborted, services have to be gone."""
    if_exists = parse.if_exists()
    name = parse.identifier()
    parse.end()
    access = context.account.access
    try:
        pool = access.find(context.session, KIND, (name,))
    except SqlError as missing:
        if not if_exists or missing.errno != 2003:
            raise
        return message(f"Drop statement executed successfully ({shown(name)} already dropped).")
    access.require_owner(context.session, pool)
    context.account.compute.drop_pool(pool)
    return dropped(name)


# -- showing

COLUMNS: tuple[str | tuple[str, DataType], ...] = (
    "name",
    "state",
    ("min_nodes", FIXED),
    ("max_nodes", FIXED),
    "instance_family",
    ("num_services", FIXED),
    ("num_jobs", FIXED),
    ("auto_suspend_secs", FIXED),
    "auto_resume",
    ("active_nodes", FIXED),
    ("idle_nodes", FIXED),
    ("target_nodes", FIXED),
    ("created_on", LTZ),
    ("resumed_on", LTZ),
    ("updated_on", LTZ),
    "owner",
    "comment",
    "is_exclusive",
    "application",
)


def _row(context: Context, pool: Object, *, described: bool) -> list[Any]:
    data = pool.data
    with context.account.compute.store.lock:
        figures = context.account.compute.pools.figures(pool)
    row = [
        pool.name,
        figures.state,
        data["min_nodes"],
        data["max_nodes"],
        data["instance_family"],
        # DESCRIBE counts "services and jobs", SHOW counts services: so the documentation has it.
        figures.services + figures.jobs if described else figures.services,
        figures.jobs,
        data["auto_suspend_secs"],
        _word(data["auto_resume"]),
        figures.active,
        figures.idle,
        figures.target,
        moment(pool.created_on),
        moment(data["resumed_on"]),
        moment(data["updated_on"]),
        pool.owner,
        pool.comment or None,
        "false",
        None,
    ]
    if described:
        row += [None, figures.error_code, figures.message, data["placement_group"]]
    else:
        backup = data["backup_instance_families"]
        row += [data["placement_group"], None if backup is None else ", ".join(backup)]
    return row


def _word(value: bool) -> str:
    return "true" if value else "false"


@statement("SHOW", "COMPUTE", "POOLS")
def show_pools(context: Context, parse: Parser) -> Result:
    """SHOW COMPUTE POOLS [LIKE ...] [STARTS WITH ...] [LIMIT ... [FROM ...]]"""
    wanted = read_name_filter(parse)
    parse.end()
    access, session = context.account.access, context.session
    pools = [p for p in context.account.catalog.all(KIND) if access.visible(session, p)]
    found = [_row(context, pool, described=False) for pool in wanted.apply(pools)]
    return rows([*COLUMNS, "placement_group", "backup_instance_families"], found)


@statement("DESCRIBE", "COMPUTE", "POOL")
def describe_pool(context: Context, parse: Parser) -> Result:
    """DESCRIBE COMPUTE POOL name"""
    pool = context.account.access.find(context.session, KIND, (parse.identifier(),))
    parse.end()
    context.account.access.require_any(context.session, ("MONITOR", "OWNERSHIP"), pool)
    return rows(
        [*COLUMNS, "budget", "error_code", "status_message", "placement_group"],
        [_row(context, pool, described=True)],
    )


@scalar("SYSTEM$GET_COMPUTE_POOL_STATUS")
def pool_status(context: Context, name: str) -> str:
    """JSON with `status` and `message` of a pool. Snowflake has deprecated it in favour of DESCRIBE
    COMPUTE POOL; its own command line still calls it.
    """
    parse = Parser(name)
    pool = context.account.access.find(context.session, KIND, (parse.identifier(),))
    parse.end()
    context.account.access.require_any(context.session, ("MONITOR", "OWNERSHIP"), pool)
    with context.account.compute.store.lock:
        figures = context.account.compute.pools.figures(pool)
    return json.dumps({"status": figures.state, "message": figures.message}, separators=(",", ":"))


@statement("SHOW", "COMPUTE", "POOL", "INSTANCE", "FAMILIES")
def show_families(context: Context, parse: Parser) -> Result:
    """SHOW COMPUTE POOL INSTANCE FAMILIES"""
    parse.end()
    store = context.account.compute.store
    with store.lock:
        nodes = [node.family for node in store.nodes.values()]
    return rows(
        [
            "name",
            "description",
            ("vcpu", FIXED),
            ("memory_gib", FIXED),
            ("storage_gib", REAL),
            "gpu",
            ("gpu_count", FIXED),
            ("gpu_memory_gib", FIXED),
            ("current_node_usage", FIXED),
            "message",
        ],
        [
            (
                family.name,
                family.description,
                family.vcpu,
                family.memory_gib,
                family.storage_gib,
                family.gpu,
                family.gpu_count,
                family.gpu_memory_gb,
                nodes.count(family.name),
                "" if family.node_limit is not None else "Available on request",
            )
            for family in FAMILIES.values()
        ],
    )


@statement("SHOW", "NODES", "IN", "COMPUTE", "POOL")
def show_nodes(context: Context, parse: Parser) -> Result:
    """SHOW NODES IN COMPUTE POOL name [LIKE ...] [LIMIT ...]"""
    pool = context.account.access.find(context.session, KIND, (parse.identifier(),))
    wanted: Filter = read_name_filter(parse)
    parse.end()
    context.account.access.require_any(context.session, ("USAGE", "OWNERSHIP"), pool)
    compute = context.account.compute
    with compute.store.lock:
        nodes = [replace(n) for n in compute.pools.nodes(pool) if n.ready is not None]
    found = []
    for node in nodes:
        family = find_family(node.family)
        if wanted.takes_name(node.id):
            found.append(
                (
                    node.id,
                    node.family,
                    moment(node.created),
                    pool.data["placement_group"],
                    family.vcpu,
                    family.memory_gib,
                    family.storage_gib,
                    family.gpu,
                    family.gpu_count,
                    family.gpu_count * family.gpu_memory_gb,
                )
            )
    return rows(
        [
            "node_id",
            "instance_family",
            ("created_on", LTZ),
            "placement_group",
            ("vcpu", FIXED),
            ("memory_gib", FIXED),
            ("storage_gib", REAL),
            "gpu",
            ("gpu_count", FIXED),
            ("gpu_memory_gib", FIXED),
        ],
        found[: wanted.limit],
    )


@scalar("SYSTEM$GET_COMPUTE_POOL_PENDING_MAINTENANCE")
def pending_maintenance(context: Context) -> str:
    """Nothing is ever maintained here."""
    pools = context.account.catalog.all(KIND)
    if all(pool.data["suspended"] for pool in pools):
        return "No running Snowpark Container Services found."
    return "No pending maintenance actions."
