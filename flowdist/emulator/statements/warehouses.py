"""Warehouses: their names, sizes and states. They compute nothing here; statements need one."""

from __future__ import annotations

from typing import Any

from flowdist.emulator.catalog import Object
from flowdist.emulator.errors import SqlError, compilation_error, invalid_value
from flowdist.emulator.names import shown
from flowdist.emulator.parameters import OBJECT, SESSION
from flowdist.emulator.result import Result, message, rows
from flowdist.emulator.sql.parser import Parser, Reader
from flowdist.emulator.statements import Context, statement
from flowdist.emulator.statements.creating import (
    DONE,
    changes,
    created,
    drop,
    free_name,
    owner_role_type,
    read_unset,
    replacing,
    visible,
    with_privileges,
)
from flowdist.emulator.statements.showing import moment, read_name_filter
from flowdist.emulator.types import FIXED, LTZ

__all__ = ["new_warehouse"]

SIZES = {
    "XSMALL": "X-Small",
    "SMALL": "Small",
    "MEDIUM": "Medium",
    "LARGE": "Large",
    "XLARGE": "X-Large",
    "XXLARGE": "2X-Large",
    "XXXLARGE": "3X-Large",
    "X4LARGE": "4X-Large",
    "X5LARGE": "5X-Large",
    "X6LARGE": "6X-Large",
}
SAME_SIZE = {
    "X-SMALL": "XSMALL",
    "X-LARGE": "XLARGE",
    "X2LARGE": "XXLARGE",
    "2X-LARGE": "XXLARGE",
    "X3LARGE": "XXXLARGE",
    "3X-LARGE": "XXXLARGE",
    "4X-LARGE": "X4LARGE",
    "5X-LARGE": "X5LARGE",
    "6X-LARGE": "X6LARGE",
}
TYPES = ("STANDARD", "SNOWPARK-OPTIMIZED")
PARAMETERS = {
    "MAX_CONCURRENCY_LEVEL": OBJECT["MAX_CONCURRENCY_LEVEL"],
    "STATEMENT_QUEUED_TIMEOUT_IN_SECONDS": SESSION["STATEMENT_QUEUED_TIMEOUT_IN_SECONDS"],
    "STATEMENT_TIMEOUT_IN_SECONDS": SESSION["STATEMENT_TIMEOUT_IN_SECONDS"],
}
"""What SHOW PARAMETERS IN WAREHOUSE lists."""


def new_warehouse(now: float) -> dict[str, Any]:
    """The data of a warehouse for which nothing was said, running since `now`."""
    return {
        "state": "STARTED",
        "type": "STANDARD",
        "size": "XSMALL",
        "min_cluster_count": 1,
        "max_cluster_count": 1,
        "scaling_policy": "STANDARD",
        "auto_suspend": 600,
        "auto_resume": True,
        "enable_query_acceleration": False,
        "query_acceleration_max_scale_factor": 8,
        "generation": "2",
        "resumed_on": now,
        "updated_on": now,
        "parameters": {},
    }


def _size(parse: Parser) -> str:
    written = parse.text_or_word().upper()
    size = SAME_SIZE.get(written, written)
    if size not in SIZES:
        raise invalid_value(written, "WAREHOUSE_SIZE")
    return size


def _one_of(name: str, choices: tuple[str, ...]) -> Reader:
    def read(parse: Parser) -> str:
        written = parse.text_or_word().upper()
        if written not in choices:
            raise invalid_value(written, name)
        return written

    return read


def _seconds(parse: Parser) -> int | None:
    return None if parse.accept("NULL") else parse.integer()


def _parameter(name: str) -> Reader:
    return lambda parse: PARAMETERS[name].read(parse.literal())


def _refused(parse: Parser) -> Any:
    raise parse.unsupported()


PROPERTIES: dict[str, Reader] = {
    "WAREHOUSE_TYPE": _one_of("WAREHOUSE_TYPE", TYPES),
    "WAREHOUSE_SIZE": _size,
    "GENERATION": _one_of("GENERATION", ("1", "2")),
    "MAX_CLUSTER_COUNT": Parser.integer,
    "MIN_CLUSTER_COUNT": Parser.integer,
    "SCALING_POLICY": _one_of("SCALING_POLICY", ("STANDARD", "ECONOMY")),
    "AUTO_SUSPEND": _seconds,
    "AUTO_RESUME": Parser.boolean,
    "ENABLE_QUERY_ACCELERATION": Parser.boolean,
    "QUERY_ACCELERATION_MAX_SCALE_FACTOR": Parser.integer,
    "COMMENT": Parser.text,
    "RESOURCE_MONITOR": _refused,
    "RESOURCE_CONSTRAINT": _refused,
    "TAG": _refused,
    **{name: _parameter(name) for name in PARAMETERS},
}
VERBS = ("SET", "UNSET", "SUSPEND", "RESUME", "RENAME", "ABORT")
KEYS = {"WAREHOUSE_TYPE": "type", "WAREHOUSE_SIZE": "size"}


def _data(given: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """What the properties of a statement make of a warehouse's data."""
    parameters = {**old["parameters"], **{k: v for k, v in given.items() if k in PARAMETERS}}
    data = {
        KEYS.get(k, k.lower()): v
        for k, v in given.items()
        if k not in (*PARAMETERS, "COMMENT", "INITIALLY_SUSPENDED")
    }
    made = {**old, **data, "parameters": parameters}
    if not 1 <= made["min_cluster_count"] <= made["max_cluster_count"]:
        raise compilation_error("Min cluster count cannot be greater than max cluster count.", 2001)
    if made["auto_suspend"] is not None and made["auto_suspend"] < 0:
        raise invalid_value(made["auto_suspend"], "AUTO_SUSPEND")
    return made


@statement("CREATE", "WAREHOUSE")
def create(context: Context, parse: Parser) -> Result:
    """CREATE [OR REPLACE] WAREHOUSE [IF NOT EXISTS]."""
    account, session = context.account, context.session
    replace = replacing(parse)
    if_not_exists = parse.if_not_exists()
    name = parse.identifier()
    parse.accept("WITH")
    given = parse.properties({**PROPERTIES, "INITIALLY_SUSPENDED": Parser.boolean})
    parse.end()
    now = account.clock.time()
    data = _data(given, new_warehouse(now))
    if given.get("INITIALLY_SUSPENDED"):
        data |= {"state": "SUSPENDED", "resumed_on": 0.0}
    account.access.require_account(session, "CREATE WAREHOUSE")
    there = free_name(context, "warehouse", (name,), replace, if_not_exists, account.catalog.drop)
    if there is not None:
        return there
    account.catalog.create(
        "warehouse",
        (name,),
        owner=account.access.owner_role(session),
        comment=given.get("COMMENT", ""),
        **data,
    )
    session.warehouse = name
    return created("Warehouse", name)


@statement("ALTER", "WAREHOUSE")
def alter(context: Context, parse: Parser) -> Result:
    """ALTER WAREHOUSE: SET, UNSET, SUSPEND, RESUME, RENAME TO, ABORT ALL QUERIES."""
    access, catalog = context.account.access, context.account.catalog
    if_exists = parse.if_exists()
    unnamed = parse.word() in VERBS and parse.word(1) not in VERBS
    name = str(context.session.warehouse) if unnamed else parse.identifier()
    try:
        target = access.find(context.session, "warehouse", (name,))
    except SqlError:
        if not if_exists:
            raise
        return message(DONE)
    if parse.accept("SET"):
        access.require_any(context.session, ("MODIFY", "OWNERSHIP"), target)
        given = changes(parse, PROPERTIES, "WAREHOUSE")
        parse.end()
        data = _data(given, target.data)
        data["updated_on"] = context.account.clock.time()
        catalog.update(target, comment=given.get("COMMENT"), **data)
    elif parse.accept("UNSET"):
        access.require_any(context.session, ("MODIFY", "OWNERSHIP"), target)
        _unset(context, target, read_unset(parse, PROPERTIES, "WAREHOUSE"))
    elif parse.accept("RENAME", "TO"):
        access.require_owner(context.session, target)
        new = parse.identifier()
        parse.end()
        catalog.rename(target, (new,))
        if context.session.warehouse == name:
            context.session.warehouse = new
    else:
        access.require_any(context.session, ("OPERATE", "OWNERSHIP"), target)
        _operate(context, parse, target)
    return message(DONE)


def _unset(context: Context, target: Object, names: list[str]) -> None:
    fresh = new_warehouse(0.0)
    parameters = {k: v for k, v in target.data["parameters"].items() if k not in names}
    keys = [KEYS.get(n, n.lower()) for n in names]
    context.account.catalog.update(
        target,
        comment="" if "COMMENT" in names else None,
        parameters=parameters,
        updated_on=context.account.clock.time(),
        **{key: fresh[key] for key in keys if key in fresh},
    )


def _operate(context: Context, parse: Parser, target: Object) -> None:
    """SUSPEND, RESUME [IF SUSPENDED], ABORT ALL QUERIES."""
    account, now = context.account, context.account.clock.time()
    state = target.data["state"]
    if parse.accept("SUSPEND"):
        parse.end()
        if state == "SUSPENDED":
            raise _in_state(90064, target, "suspended")
        account.catalog.update(target, state="SUSPENDED", updated_on=now)
    elif parse.accept("RESUME"):
        gently = parse.accept("IF", "SUSPENDED")
        parse.end()
        if state == "STARTED":
            if not gently:
                raise _in_state(90063, target, "resumed")
            return
        account.catalog.update(target, state="STARTED", resumed_on=now, updated_on=now)
    elif parse.accept("ABORT", "ALL", "QUERIES"):
        parse.end()
        for query in account.queries.all():
            if query.warehouse == target.name and not query.state.ended and query != context.query:
                account.queries.abort(query)
    else:
        raise parse.unsupported()


def _in_state(errno: int, target: Object, done: str) -> SqlError:
    return SqlError(
        errno, "22000", f"Invalid state. Warehouse '{shown(target.name)}' cannot be {done}."
    )


@statement("DROP", "WAREHOUSE")
def drop_warehouse(context: Context, parse: Parser) -> Result:
    """DROP WAREHOUSE [IF EXISTS]."""

    def remove(target: Object) -> None:
        context.account.catalog.drop(target)
        if context.session.warehouse == target.name:
            context.session.warehouse = None

    return drop(context, parse, "warehouse", lambda parts: parts, remove)


COLUMNS = (
    "name",
    "state",
    "type",
    "size",
    ("min_cluster_count", FIXED),
    ("max_cluster_count", FIXED),
    ("started_clusters", FIXED),
    ("running", FIXED),
    ("queued", FIXED),
    "is_default",
    "is_current",
    "is_interactive",
    ("auto_suspend", FIXED),
    "auto_resume",
    "available",
    "provisioning",
    "quiescing",
    "other",
    ("created_on", LTZ),
    ("resumed_on", LTZ),
    ("updated_on", LTZ),
    "owner",
    "comment",
    "enable_query_acceleration",
    ("query_acceleration_max_scale_factor", FIXED),
    "resource_monitor",
    ("actives", FIXED),
    ("pendings", FIXED),
    ("failed", FIXED),
    ("suspended", FIXED),
    "uuid",
    "scaling_policy",
    "owner_role_type",
    "resource_constraint",
    "generation",
)


@statement("SHOW", "WAREHOUSES")
def show(context: Context, parse: Parser) -> Result:
    """SHOW WAREHOUSES [LIKE] [WITH PRIVILEGES]."""
    wanted = read_name_filter(parse)
    found = visible(context, wanted.apply(context.account.catalog.all("warehouse")))
    found = with_privileges(context, parse, found)
    parse.end()
    running: dict[str | None, int] = {}
    for query in context.account.queries.all():
        if not query.state.ended:
            running[query.warehouse] = running.get(query.warehouse, 0) + 1
    user = context.account.catalog.find("user", (context.session.user,))
    default = user.data.get("default_warehouse") if user else None
    return rows(COLUMNS, [_row(o, context, running.get(o.name, 0), default) for o in found])


def _row(o: Object, context: Context, running: int, default: str | None) -> tuple[Any, ...]:
    data = o.data
    started = data["state"] == "STARTED"
    clusters = data["min_cluster_count"] if started else 0
    return (
        o.name,
        data["state"],
        data["type"],
        SIZES[data["size"]],
        data["min_cluster_count"],
        data["max_cluster_count"],
        clusters,
        running,
        0,
        "Y" if o.name == default else "N",
        "Y" if o.name == context.session.warehouse else "N",
        "N",
        data["auto_suspend"],
        str(data["auto_resume"]).lower(),
        "100" if started else "",
        "0" if started else "",
        "0" if started else "",
        "0" if started else "",
        moment(o.created_on),
        moment(data["resumed_on"]),
        moment(data["updated_on"]),
        o.owner,
        o.comment,
        str(data["enable_query_acceleration"]).lower(),
        data["query_acceleration_max_scale_factor"],
        "null",
        clusters,
        0,
        0,
        0 if started else 1,
        str(o.id),
        data["scaling_policy"],
        owner_role_type(o),
        None,
        data["generation"] if data["type"] == "STANDARD" else None,
    )


@statement("DESCRIBE", "WAREHOUSE")
def describe(context: Context, parse: Parser) -> Result:
    """DESCRIBE WAREHOUSE."""
    name = parse.identifier()
    parse.end()
    target = context.account.access.find(context.session, "warehouse", (name,))
    context.account.access.require_any(context.session, ("MONITOR", "OWNERSHIP"), target)
    return rows(
        (("created_on", LTZ), "name", "kind"),
        [(moment(target.created_on), target.name, "WAREHOUSE")],
    )
