"""ALTER SESSION and ALTER ACCOUNT, session variables, SHOW PARAMETERS, COMMENT ON."""

from __future__ import annotations

import decimal
from datetime import date, datetime, time
from typing import Any

from flowdist.emulator.catalog import Object
from flowdist.emulator.errors import SqlError, compilation_error, does_not_exist
from flowdist.emulator.names import FullName
from flowdist.emulator.parameters import ACCOUNT, OBJECT, SESSION, Parameter, invalid_property
from flowdist.emulator.result import Kind, Result, message, rows
from flowdist.emulator.sql.expressions import as_text
from flowdist.emulator.sql.lexer import Lexeme
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.statements import Context, statement
from flowdist.emulator.statements.creating import DONE
from flowdist.emulator.statements.grants import read_kind, read_object
from flowdist.emulator.statements.showing import like, moment
from flowdist.emulator.statements.warehouses import PARAMETERS as OF_WAREHOUSES
from flowdist.emulator.types import FIXED, LTZ

__all__: list[str] = []

LONGEST_VALUE = 16 * 1024
"""Bytes that the value of a variable may have."""
OF_CONTAINERS = {"DATA_RETENTION_TIME_IN_DAYS": OBJECT["DATA_RETENTION_TIME_IN_DAYS"]}


# -- parameters


@statement("ALTER", "SESSION")
def alter_session(context: Context, parse: Parser) -> Result:
    """ALTER SESSION SET p = v [p = v ...], and UNSET p [, p ...]."""
    session = context.session
    if parse.accept("SET"):
        session.parameters.update(_settings(parse, SESSION, "SESSION"))
    elif parse.accept("UNSET"):
        inherited = _inherited(context)
        for name in _names(parse, SESSION, "SESSION"):
            session.parameters.pop(name, None)
            if name in inherited:
                session.parameters[name] = inherited[name][0]
    else:
        raise parse.error()
    return message(DONE, Kind.SCL)


@statement("ALTER", "ACCOUNT")
def alter_account(context: Context, parse: Parser) -> Result:
    """ALTER ACCOUNT SET and UNSET of parameters: the defaults of sessions that begin later."""
    catalog = context.account.catalog
    known = {**SESSION, **OBJECT, **ACCOUNT}
    kept = dict(catalog.setting("parameters", {}))
    if parse.accept("SET"):
        given = _settings(parse, known, "ACCOUNT")
        _require_admin(context)
        kept.update(given)
    elif parse.accept("UNSET"):
        names = _names(parse, known, "ACCOUNT")
        _require_admin(context)
        for name in names:
            kept.pop(name, None)
    else:
        raise parse.unsupported()
    catalog.keep("parameters", kept)
    return message(DONE)


def _require_admin(context: Context) -> None:
    if "ACCOUNTADMIN" not in context.account.access.active(context.session):
        raise SqlError(
            3001,
            "42501",
            "SQL access control error:\nInsufficient privileges to operate on account "
            f"'{context.account.settings.account}'.",
        )


def _settings(parse: Parser, known: dict[str, Parameter], kind: str) -> dict[str, Any]:
    """``p = v`` once or more, with commas or without."""
    found: dict[str, Any] = {}
    while not parse.ended and parse.word() != ";":
        token = parse.next()
        if token.kind is not Lexeme.WORD:
            raise SqlError(1003, "42000", f"SQL compilation error:\nunexpected '{token.text}'.")
        name = token.word
        if parse.word() != "=":
            raise parse.error()
        parse.expect("=")
        if name not in known:
            raise invalid_property(name, kind)
        found[name] = known[name].read(_value(parse))
        parse.accept(",")
    parse.end()
    if not found:
        raise parse.error()
    return found


def _value(parse: Parser) -> Any:
    token = parse.peek()
    if token and token.kind is Lexeme.WORD and token.word not in ("TRUE", "FALSE", "NULL"):
        return parse.next().text
    return parse.literal()


def _names(parse: Parser, known: dict[str, Parameter], kind: str) -> list[str]:
    found = []
    while True:
        name = parse.next().word
        if name not in known:
            raise invalid_property(name, kind)
        found.append(name)
        if not parse.accept(","):
            parse.end()
            return found


def _inherited(context: Context) -> dict[str, tuple[Any, str]]:
    """What account and user have set for sessions: value and level."""
    catalog = context.account.catalog
    found = {k: (v, "ACCOUNT") for k, v in catalog.setting("parameters", {}).items()}
    user = catalog.find("user", (context.session.user,))
    if user is not None:
        found |= {k: (v, "USER") for k, v in user.data.get("parameters", {}).items()}
    return found


@statement("SHOW", "PARAMETERS")
def show_parameters(context: Context, parse: Parser) -> Result:
    """SHOW PARAMETERS [LIKE] [{IN | FOR} ...]."""
    pattern = parse.text() if parse.accept("LIKE") else None
    known, held = SESSION, _of_session(context)
    if parse.accept_any("IN", "FOR"):
        known, held = _scope(context, parse)
    if pattern is None and parse.accept("LIKE"):
        pattern = parse.text()
    parse.end()
    made = []
    for name in sorted(known):
        if pattern is None or like(name, pattern):
            p = known[name]
            value, level = held.get(name, (p.default, ""))
            shown = p.shown(value), p.shown(p.default)
            made.append((name, *shown, level, p.description, p.type))
    return rows(("key", "value", "default", "level", "description", "type"), made)


Held = dict[str, tuple[Any, str]]


def _of_session(context: Context) -> Held:
    inherited = _inherited(context)
    held: Held = dict(inherited)
    for name, value in context.session.parameters.items():
        if inherited.get(name, (None, ""))[0] != value:
            held[name] = value, "SESSION"
    return {k: v for k, v in held.items() if k in SESSION}


def _scope(context: Context, parse: Parser) -> tuple[dict[str, Parameter], Held]:
    session, access = context.session, context.account.access
    if parse.accept("SESSION"):
        return SESSION, _of_session(context)
    if parse.accept("ACCOUNT"):
        kept = context.account.catalog.setting("parameters", {})
        return {**SESSION, **OBJECT, **ACCOUNT}, {k: (v, "ACCOUNT") for k, v in kept.items()}
    if parse.accept("USER"):
        name = session.user if _unnamed(parse) else parse.identifier()
        user = context.account.catalog.require("user", (name,))
        kept = user.data.get("parameters", {})
        return SESSION, {k: (v, "USER") for k, v in kept.items()}
    if parse.accept("WAREHOUSE"):
        name = str(session.warehouse) if _unnamed(parse) else parse.identifier()
        found = access.find(session, "warehouse", (name,))
        return OF_WAREHOUSES, {k: (v, "WAREHOUSE") for k, v in found.data["parameters"].items()}
    if parse.accept("DATABASE"):
        name = str(session.database) if _unnamed(parse) else parse.identifier()
        return OF_CONTAINERS, _retention(access.database(session, name))
    if parse.accept("SCHEMA"):
        parts = (str(session.schema),) if _unnamed(parse) else parse.name()
        found = access.schema(session, *session.resolve_schema(parts, "SHOW"))
        return OF_CONTAINERS, _retention(found)
    raise parse.unsupported()


def _unnamed(parse: Parser) -> bool:
    return parse.ended or parse.word() in (";", "LIKE")


def _retention(target: Object) -> Held:
    days = target.data.get("retention_time", 1)
    return {} if days == 1 else {"DATA_RETENTION_TIME_IN_DAYS": (days, target.kind.upper())}


# -- variables


@statement("SET")
def set_variables(context: Context, parse: Parser) -> Result:
    """SET x = expression, SET (x, y) = (expression, expression)."""
    several = parse.accept("(")
    names = [_variable(parse)]
    while several and parse.accept(","):
        names.append(_variable(parse))
    if several:
        parse.expect(")")
    parse.expect("=")
    values = _values(context, parse, parse.rest(), several)
    if len(values) != len(names):
        raise compilation_error(
            f"Number of values ({len(values)}) does not match number of variables ({len(names)}).",
            1003,
            "42000",
        )
    for value in values:
        if isinstance(value, str) and len(value.encode()) > LONGEST_VALUE:
            raise compilation_error(
                "Assignment to a session variable not allowed because the value is too long: "
                f"the limit is {LONGEST_VALUE} bytes.",
                1118,
                "22000",
            )
    now = context.account.clock.time()
    for name, value in zip(names, values, strict=True):
        context.session.variables[name] = value
        first, _ = context.session.variable_times.get(name, (now, now))
        context.session.variable_times[name] = first, now
    return message(DONE, Kind.SCL)


def _variable(parse: Parser) -> str:
    token = parse.next()
    if token.kind is not Lexeme.WORD or token.text.startswith("$"):
        raise SqlError(
            1003, "42000", f"SQL compilation error:\nsyntax error: unexpected '{token.text}'."
        )
    return token.word


def _values(context: Context, parse: Parser, text: str, several: bool) -> list[Any]:
    """The expressions after the equals sign, evaluated; one of a single literal is read at once."""
    if not text:
        raise parse.error()
    literal = None if several else _literal(text)
    if literal is not None:
        return [literal]
    inner = text[1:-1] if several and text.startswith("(") and text.endswith(")") else text
    if several and inner is text:
        raise parse.error()
    found = context.account.engine.run(context, f"SELECT {inner}", parse.binds).rows()
    if len(found) != 1:
        raise compilation_error("Expression of SET has to give exactly one row.", 1003, "42000")
    return [_kept(value) for value in found[0]]


def _literal(text: str) -> Any:
    read = Parser(text)
    token = read.peek()
    if token is None or token.kind not in (Lexeme.STRING, Lexeme.NUMBER, Lexeme.WORD):
        return None
    if token.kind is Lexeme.WORD and token.word not in ("TRUE", "FALSE"):
        return None
    value = read.literal()
    return value if read.ended else None


def _kept(value: Any) -> Any:
    if isinstance(value, decimal.Decimal) and value == value.to_integral_value():
        return int(value) if value.as_tuple().exponent == 0 else value
    return value


@statement("UNSET")
def unset_variables(context: Context, parse: Parser) -> Result:
    """UNSET x, UNSET (x, y)."""
    several = parse.accept("(")
    names = [_variable(parse)]
    while several and parse.accept(","):
        names.append(_variable(parse))
    if several:
        parse.expect(")")
    parse.end()
    for name in names:
        context.session.variables.pop(name, None)
        context.session.variable_times.pop(name, None)
    return message(DONE, Kind.SCL)


@statement("SHOW", "VARIABLES")
def show_variables(context: Context, parse: Parser) -> Result:
    """SHOW VARIABLES [LIKE]."""
    pattern = parse.text() if parse.accept("LIKE") else None
    parse.end()
    session = context.session
    made = []
    for name, value in sorted(session.variables.items()):
        if pattern is None or like(name, pattern):
            made_at, changed_at = session.variable_times.get(name, (None, None))
            times = moment(made_at), moment(changed_at)
            text = None if value is None else as_text(value)
            made.append((session.id, *times, name, text, _type(value), ""))
    return rows(
        (
            ("session_id", FIXED),
            ("created_on", LTZ),
            ("updated_on", LTZ),
            "name",
            "value",
            "type",
            "comment",
        ),
        made,
    )


def _type(value: Any) -> str:
    for kinds, name in (
        (bool, "boolean"),
        ((int, decimal.Decimal), "fixed"),
        (float, "real"),
        (datetime, "timestamp_ntz"),
        (date, "date"),
        (time, "time"),
        (bytes, "binary"),
        (dict, "timestamp_tz"),
    ):
        if isinstance(value, kinds):
            return name
    return "text"


# -- comments


@statement("COMMENT")
def comment(context: Context, parse: Parser) -> Result:
    """COMMENT [IF EXISTS] ON kind name IS 'text', for objects of the catalog."""
    if_exists = parse.if_exists()
    parse.expect("ON")
    if parse.word() in ("TABLE", "VIEW", "COLUMN", "SEQUENCE"):
        raise parse.unsupported()
    kind = read_kind(parse)
    try:
        target = read_object(context, parse, kind)
    except SqlError as missing:
        if not if_exists or missing.errno != 2003:
            raise
        return message(DONE)
    parse.expect("IS")
    text = parse.text()
    parse.end()
    if not isinstance(target, Object):
        raise does_not_exist(kind, FullName(target.database, target.schema, target.name))
    context.account.access.require_any(context.session, ("OWNERSHIP", "MODIFY"), target)
    context.account.catalog.update(target, comment=text)
    return message(DONE)
