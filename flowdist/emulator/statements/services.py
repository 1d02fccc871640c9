"""Services and jobs: EXECUTE JOB SERVICE, and CREATE, ALTER and DROP SERVICE.

What SHOW, DESCRIBE and functions say of them is in `service_views.py` and `service_functions.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flowdist.emulator.catalog import Object
from flowdist.emulator.compute import answers
from flowdist.emulator.compute.amounts import invalid_spec
from flowdist.emulator.compute.records import Revision
from flowdist.emulator.compute.request import Request, check_name, new_revision
from flowdist.emulator.compute.template import expand
from flowdist.emulator.errors import SqlError, already_exists, compilation_error, invalid_value
from flowdist.emulator.names import FullName, shown
from flowdist.emulator.result import Result, message
from flowdist.emulator.session import Session
from flowdist.emulator.sql.lexer import Lexeme
from flowdist.emulator.sql.parser import Parser, Reader
from flowdist.emulator.statements import Context, statement
from flowdist.emulator.statements.creating import DONE, already_there, changes, dropped, read_unset

MOST_INTEGRATIONS = 10
LEAST_AUTO_SUSPEND = 300
MOST_SPEC_BYTES = 1_000_000
"""A file that is larger is no specification."""

_COMMON: dict[str, Reader] = {
    "QUERY_WAREHOUSE": Parser.identifier,
    "COMMENT": Parser.text,
    "EXTERNAL_ACCESS_INTEGRATIONS": lambda parse: parse.parenthesised(Parser.identifier),
}
_JOB: dict[str, Reader] = {
    **_COMMON,
    "NAME": Parser.name,
    "ASYNC": Parser.boolean,
    "REPLICAS": Parser.integer,
}
_SERVICE: dict[str, Reader] = {
    **_COMMON,
    "AUTO_SUSPEND_SECS": Parser.integer,
    "AUTO_RESUME": Parser.boolean,
    "MIN_INSTANCES": Parser.integer,
    "MIN_READY_INSTANCES": Parser.integer,
    "MAX_INSTANCES": Parser.integer,
    "LOG_LEVEL": Parser.text_or_word,
}
_FIELDS: dict[str, tuple[str, Any]] = {
    "AUTO_SUSPEND_SECS": ("auto_suspend", 0),
    "AUTO_RESUME": ("auto_resume", True),
    "MIN_INSTANCES": ("minimum", 1),
    "MIN_READY_INSTANCES": ("minimum_ready", None),
    "MAX_INSTANCES": ("maximum", 1),
    "LOG_LEVEL": ("log_level", None),
    "QUERY_WAREHOUSE": ("warehouse", None),
    "EXTERNAL_ACCESS_INTEGRATIONS": ("integrations", []),
}
"""The properties of services as `records.Service` has them, with their defaults."""


@statement("EXECUTE", "JOB", "SERVICE")
def execute_job(context: Context, parse: Parser) -> Result:
    """EXECUTE JOB SERVICE IN COMPUTE POOL ... FROM ..., in any order that the documentation shows.

    Where a job runs synchronously its end is waited for; the statement fails where the job does.
    """
    given = _clauses(context, parse, _JOB, "EXECUTE JOB SERVICE")
    session, compute = context.session, context.account.compute
    default = ("JOB_" + context.query.id.replace("-", "_").upper(),)
    name = session.resolve(given.get("NAME", default), "EXECUTE JOB SERVICE")
    replicas = given.get("REPLICAS")
    if replicas is not None and replicas < 1:
        raise invalid_value(replicas, "REPLICAS")
    request = _request(context, name, given, job=True)
    request.asynchronous = given.get("ASYNC", False)
    request.replicas = replicas
    request.task = session.task
    timeout = float(session.parameter("STATEMENT_TIMEOUT_IN_SECONDS") or 604_800)
    request.asked = answers.asked(context.query, timeout)
    return answers.answer(context.account, compute.create(request), context.query, timeout)


@statement("CREATE", "SERVICE")
def create_service(context: Context, parse: Parser) -> Result:
    """CREATE SERVICE [IF NOT EXISTS] name IN COMPUTE POOL ... FROM ... ..."""
    if parse.modifiers:
        raise compilation_error(
            f"Unsupported feature '{', '.join(sorted(parse.modifiers))}'.", 2, "0A000"
        )
    if_not_exists = parse.if_not_exists()
    name = context.session.resolve(parse.name())
    given = _clauses(context, parse, _SERVICE, "CREATE")
    old = context.account.catalog.find("service", name)
    if old is not None:
        if if_not_exists:
            return already_there(name.name)
        raise already_exists(name)
    request = _request(context, name, given, job=False)
    values = _values(given)
    request.minimum = values.get("minimum", 1)
    request.maximum = values.get("maximum", request.minimum)
    request.minimum_ready = values.get("minimum_ready")
    request.auto_resume = values.get("auto_resume", True)
    request.auto_suspend = values.get("auto_suspend", 0)
    request.log_level = values.get("log_level")
    _check_instances(request.minimum, request.maximum, request.minimum_ready)
    context.account.compute.create(request)
    return message(f"Service {shown(name.name)} successfully created.")


@statement("ALTER", "SERVICE")
def alter_service(context: Context, parse: Parser) -> Result:
    """ALTER SERVICE [IF EXISTS] name SUSPEND | RESUME | FROM ... | SET ... | UNSET ..."""
    if_exists = parse.if_exists()
    name = context.session.resolve(parse.name(), "ALTER")
    if if_exists and context.account.catalog.find("service", name) is None:
        parse.rest()
        return message(DONE)
    kept = context.account.access.find(context.session, "service", name)
    compute = context.account.compute
    service = compute.service(kept)
    if service.job:
        raise compilation_error(f"Job service '{name.name}' cannot be altered.", 2, "0A000")
    access = context.account.access
    verb = parse.accept_any("SUSPEND", "RESUME")
    if verb:
        parse.end()
        access.require_any(context.session, ("OPERATE", "OWNERSHIP"), kept)
        (compute.suspend if verb == "SUSPEND" else compute.resume)(service)
        return message(DONE)
    access.require_owner(context.session, kept)
    if parse.word() == "FROM":
        text = _read(context, _source(parse), "ALTER")
        parse.end()
        pool = context.account.catalog.require("compute pool", (service.pool_name,))
        compute.upgrade(service, _revision(context, name, text, pool, job=False))
        return message(DONE)
    return _set_or_unset(context, parse, kept)


def _set_or_unset(context: Context, parse: Parser, kept: Object) -> Result:
    compute = context.account.compute
    service = compute.service(kept)
    if parse.accept("UNSET"):
        names = read_unset(parse, {**_FIELDS, "COMMENT": None}, "SERVICE")
        values = {_FIELDS[n][0]: _FIELDS[n][1] for n in names if n in _FIELDS}
        comment = "" if "COMMENT" in names else None
        what = f"Unset Service Properties [{', '.join(names)}]"
    elif parse.accept("SET"):
        given = changes(parse, _SERVICE, "SERVICE")
        parse.end()
        values, comment = _values(given), given.get("COMMENT")
        what = f"Set Service Properties [{', '.join(given)}]"
    else:
        raise parse.unsupported()
    least = values.get("minimum", service.minimum)
    most = values.get("maximum", service.maximum)
    if "maximum" not in values and "minimum" in values:
        most = max(most, least)
        values["maximum"] = most
    if values.get("minimum_ready", 0) is None or (
        "minimum" in values and service.minimum_ready == service.minimum
    ):
        values.setdefault("minimum_ready", least)
        values["minimum_ready"] = values["minimum_ready"] or least
    _check_instances(least, most, values.get("minimum_ready", service.minimum_ready))
    _check_used(context, values.get("warehouse"), values.get("integrations", []))
    context.account.catalog.update(
        kept, comment=comment, query_warehouse=values.get("warehouse", service.warehouse)
    )
    compute.alter(service, what, **values)
    return message(DONE)


@statement("DROP", "SERVICE")
def drop_service(context: Context, parse: Parser) -> Result:
    """DROP SERVICE [IF EXISTS] name [FORCE], of a job too."""
    if_exists = parse.if_exists()
    name = context.session.resolve(parse.name(), "DROP")
    force = parse.accept("FORCE")
    parse.end()
    access = context.account.access
    try:
        kept = access.find(context.session, "service", name)
    except SqlError as missing:
        if not if_exists or missing.errno != 2003:
            raise
        return message(
            f"Drop statement executed successfully ({shown(name.name)} already dropped)."
        )
    access.require_owner(context.session, kept)
    context.account.compute.drop(kept, force=force)
    return dropped(name.name)


# -- reading the clauses


def _clauses(
    context: Context, parse: Parser, known: Mapping[str, Reader], verb: str
) -> dict[str, Any]:
    """Pool, specification and properties, in any order, each at most once: POOL and TEXT are the
    first two in what is returned.
    """
    found: dict[str, Any] = {}
    while not parse.ended and parse.word() != ";":
        if parse.accept("IN", "COMPUTE", "POOL"):
            made: dict[str, Any] = {"POOL": parse.name()}
        elif parse.word() == "FROM":
            made = {"TEXT": _source(parse)}
        elif parse.word() == "TAG" or (parse.word() == "WITH" and parse.word(1) == "TAG"):
            raise parse.unsupported()
        else:
            made = parse.properties(known)
        twice = next((key for key in made if key in found), None)
        if twice is not None or not made:
            raise parse.error()
        found |= made
    parse.end()
    if "POOL" not in found or "TEXT" not in found:
        raise parse.error()
    found["TEXT"] = _read(context, found["TEXT"], verb)
    return found


def _source(parse: Parser) -> dict[str, Any]:
    """FROM [@stage] SPECIFICATION[_TEMPLATE][_FILE] ... [USING (...)]."""
    parse.expect("FROM")
    found: dict[str, Any] = {}
    token = parse.peek()
    if token is not None and token.kind in (Lexeme.LOCATION, Lexeme.STRING):
        found["stage"] = parse.location()
        word = parse.accept_any("SPECIFICATION_FILE", "SPECIFICATION_TEMPLATE_FILE", "SPEC")
        if word is None:
            raise parse.error()
        parse.accept("=")
        found["file"] = parse.text()
    else:
        word = parse.accept_any("SPECIFICATION", "SPECIFICATION_TEMPLATE")
        if word is None:
            raise parse.error()
        found["text"] = parse.text()
    if "TEMPLATE" in word and parse.word() != "USING":
        raise parse.error()
    if parse.accept("USING"):
        found["values"] = _using(parse)
    return found


def _using(parse: Parser) -> dict[str, Any]:
    """``(key => value, ...)``; keys keep their case."""
    found: dict[str, Any] = {}
    parse.expect("(")
    while True:
        token = parse.peek()
        if token is None or token.kind not in (Lexeme.WORD, Lexeme.QUOTED):
            raise parse.error()
        key = parse.next().value
        parse.expect("=>")
        found[key] = parse.literal()
        if not parse.accept(","):
            parse.expect(")")
            return found


def _read(context: Context, source: dict[str, Any], verb: str) -> str:
    """The text of a specification, from a stage where it is a file, with its variables filled."""
    text = source.get("text")
    if text is None:
        text = _file(context, source["stage"], source["file"], verb)
    return expand(text, source["values"]) if "values" in source else str(text)


def _file(context: Context, location: str, name: str, verb: str) -> str:
    account = context.account
    stage, path = account.files.locate(location, context.session, verb)
    account.access.require(context.session, "READ", stage)
    whole = "/".join(part for part in (path.strip("/"), name.lstrip("/")) if part)
    found = account.files.directory(stage) / whole
    if ".." in whole.split("/") or not found.is_file():
        raise SqlError(
            395001, "02000", f"Specification file '{whole}' was not found in stage {stage}."
        )
    if found.stat().st_size > MOST_SPEC_BYTES:
        raise invalid_spec(f"file '{whole}' is larger than {MOST_SPEC_BYTES} bytes")
    try:
        return found.read_text("utf-8")
    except UnicodeDecodeError:
        raise invalid_spec(f"file '{whole}' is not text in UTF-8") from None


# -- checking


def _request(context: Context, name: FullName, given: dict[str, Any], *, job: bool) -> Request:
    """A service as the clauses describe it; SqlError where it may not or cannot be made."""
    check_name(name)
    account, session = context.account, context.session
    account.access.require_create(session, "service", name)
    (pool_name,) = given["POOL"] if len(given["POOL"]) == 1 else (".".join(given["POOL"]),)
    pool = account.access.find(session, "compute pool", (pool_name,))
    account.access.require(session, "USAGE", pool)
    if account.catalog.find("service", name) is not None:
        raise already_exists(name)
    warehouse = given.get("QUERY_WAREHOUSE")
    integrations = given.get("EXTERNAL_ACCESS_INTEGRATIONS", [])
    _check_used(context, warehouse, integrations)
    return Request(
        name,
        pool,
        _revision(context, name, given["TEXT"], pool, job=job),
        account.access.owner_role(session),
        context.query.id,
        job,
        comment=given.get("COMMENT", ""),
        warehouse=warehouse,
        integrations=integrations,
    )


def _revision(context: Context, name: FullName, text: str, pool: Object, *, job: bool) -> Revision:
    """Names in a specification are read from the place of the service."""
    within: Session = replace(context.session, database=name.database, schema=name.schema)
    return new_revision(context.account, within, text, pool, job=job)


def _values(given: dict[str, Any]) -> dict[str, Any]:
    """Properties by the names of `records.Service`; SqlError 1008 where one is out of range."""
    suspend = given.get("AUTO_SUSPEND_SECS", 0)
    if suspend != 0 and suspend < LEAST_AUTO_SUSPEND:
        raise invalid_value(suspend, "AUTO_SUSPEND_SECS")
    level = given.get("LOG_LEVEL")
    if level is not None and not re.fullmatch(r"(?i)TRACE|DEBUG|INFO|WARN|ERROR|FATAL|OFF", level):
        raise invalid_value(level, "LOG_LEVEL")
    return {_FIELDS[name][0]: value for name, value in given.items() if name in _FIELDS}


def _check_instances(least: int, most: int, ready: int | None) -> None:
    if least < 0:
        raise invalid_value(least, "MIN_INSTANCES")
    if most < max(least, 1):
        raise invalid_value(most, "MAX_INSTANCES")
    if ready is not None and not 0 <= ready <= most:
        raise invalid_value(ready, "MIN_READY_INSTANCES")


def _check_used(context: Context, warehouse: str | None, integrations: list[str]) -> None:
    """The warehouse and the integrations have to be there, and the role has to have USAGE."""
    access, session = context.account.access, context.session
    if warehouse is not None:
        access.require(session, "USAGE", access.find(session, "warehouse", (warehouse,)))
    if len(integrations) > MOST_INTEGRATIONS:
        raise invalid_value(len(integrations), "EXTERNAL_ACCESS_INTEGRATIONS")
    for name in integrations:
        found = access.find(session, "external access integration", (name,))
        access.require(session, "USAGE", found)
