"""Programmatic access tokens of users: ALTER USER ... ADD and REMOVE."""

from __future__ import annotations

from flowdist.emulator.catalog import Object
from flowdist.emulator.errors import SqlError, already_exists, does_not_exist, invalid_value
from flowdist.emulator.names import fold
from flowdist.emulator.result import Kind, Result, message, rows
from flowdist.emulator.server.tokens import Login
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.statements import Context

__all__ = ["alter_access_tokens"]

LONGEST_DAYS = 365
MOST = 15
"""How many tokens a user may have."""


def alter_access_tokens(context: Context, parse: Parser, user: Object) -> Result:
    """What follows ALTER USER name: ADD or REMOVE of a token; other words are refused."""
    word = parse.word()
    long = [parse.word(1 + i) for i in range(3)] == ["PROGRAMMATIC", "ACCESS", "TOKEN"]
    if word not in ("ADD", "REMOVE") or not (long or parse.word(1) == "PAT"):
        raise parse.unsupported()
    for _ in range(4 if long else 2):
        parse.next()
    return (_add if word == "ADD" else _remove)(context, parse, user)


def _add(context: Context, parse: Parser, user: Object) -> Result:
    if_not_exists = parse.if_not_exists()
    name = parse.identifier()
    given = parse.properties(
        {
            "ROLE_RESTRICTION": Parser.text,
            "DAYS_TO_EXPIRY": Parser.integer,
            "COMMENT": Parser.text,
        }
    )
    if not parse.ended and parse.word() != ";":
        raise parse.unsupported()
    tokens = context.account.tokens
    there = tokens.names_of(user.name)
    if name in there:
        if if_not_exists:
            return message(f"{name} already exists, statement succeeded.")
        raise already_exists(name)
    if len(there) >= MOST:
        raise SqlError(3999, "0A000", f"A user may have no more than {MOST} access tokens.")
    days = given.get("DAYS_TO_EXPIRY", 15)
    if not 1 <= days <= LONGEST_DAYS:
        raise invalid_value(days, "DAYS_TO_EXPIRY")
    role = fold(given["ROLE_RESTRICTION"]) if "ROLE_RESTRICTION" in given else None
    if role is not None and role not in context.account.access.roles_of_user(user.name):
        raise does_not_exist("role", role)
    secret = tokens.issue_user(Login(user.name, role=role, name=name), days * 86400)
    return rows(["token_name", "token_secret"], [(name, secret)], Kind.DDL)


def _remove(context: Context, parse: Parser, user: Object) -> Result:
    name = parse.identifier()
    parse.end()
    if not context.account.tokens.revoke_user(user.name, name):
        raise does_not_exist("programmatic access token", name)
    return message(f"Programmatic access token {name} successfully removed.")
