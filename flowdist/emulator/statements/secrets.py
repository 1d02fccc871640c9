"""Secrets: CREATE, ALTER, DROP, SHOW, DESCRIBE, and their values for those who may read them.

No statement shows a value; where they are kept is in `compute/vault.py`. The text of a statement
that has one in it is masked before anything remembers it: :func:`masked`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flowdist.emulator.catalog import Object
from flowdist.emulator.compute import vault
from flowdist.emulator.errors import compilation_error, does_not_exist
from flowdist.emulator.parameters import invalid_property
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
    replacing,
    visible,
)
from flowdist.emulator.statements.showing import moment, read_filter
from flowdist.emulator.types import FIXED, LTZ, DataType

if TYPE_CHECKING:
    from flowdist.emulator.account import Account
    from flowdist.emulator.session import Session

__all__ = ["masked", "secret_values"]

KIND = "secret"
VALUES: dict[str, tuple[str, ...]] = {
    "GENERIC_STRING": ("SECRET_STRING",),
    "PASSWORD": ("USERNAME", "PASSWORD"),
}
"""The types that the emulator has, and the properties that are their values."""
MASK = "'***'"

_SENSITIVE = re.compile(
    r"\b(SECRET_STRING|PASSWORD|OAUTH_REFRESH_TOKEN)(\s*=\s*)"
    # The first two are strings within a string: in EXECUTE IMMEDIATE, or in the body of a task.
    r"(''(?:[^']|'''')+''|\\'[^']*'|'(?:[^'\\]|\\.|'')*'?|\$\$.*?(?:\$\$|\Z))",
    re.IGNORECASE | re.DOTALL,
)
_MENTIONS = re.compile(r"\b(?:SECRET|USER)\b", re.IGNORECASE)


def masked(sql: str) -> str:
    """The text of a statement as it may be remembered and shown: values of secrets are ``'***'``.

    >>> masked("CREATE SECRET s TYPE = GENERIC_STRING SECRET_STRING = 'it''s'")
    "CREATE SECRET s TYPE = GENERIC_STRING SECRET_STRING = '***'"
    """
    if not _MENTIONS.search(sql):
        return sql
    return _SENSITIVE.sub(lambda match: match.group(1) + match.group(2) + MASK, sql)


def secret_values(account: Account, name: tuple[str, ...], session: Session) -> dict[str, str]:
    """What a secret holds, by ``secret_string``, or ``username`` and ``password``; SqlError where
    there is no such secret, or the session's role may not read it.
    """
    found = account.access.find(session, KIND, session.resolve(name, "SELECT"))
    account.access.require(session, "READ", found)
    values = vault.read(account.directory, found.id)
    if not values:
        raise does_not_exist(KIND, found)
    return values


_TEXTS: dict[str, Reader] = {
    "SECRET_STRING": Parser.text,
    "USERNAME": Parser.text,
    "PASSWORD": Parser.text,
    "COMMENT": Parser.text,
}


@statement("CREATE", "SECRET")
def create(context: Context, parse: Parser) -> Result:
    """CREATE [OR REPLACE] SECRET [IF NOT EXISTS] name TYPE = ... ..."""
    replace = replacing(parse)
    if_not_exists = parse.if_not_exists()
    name = context.session.resolve(parse.name())
    given = parse.properties({"TYPE": Parser.text_or_word, **_TEXTS})
    kind = str(given.get("TYPE", "")).upper()
    if kind and kind not in VALUES:
        raise compilation_error(f"not supported by the emulator: TYPE = {kind}", 2, "0A000")
    parse.end()
    wanted = VALUES.get(kind, ("TYPE",))
    for missing in [n for n in ("TYPE", *wanted) if n not in given]:
        raise compilation_error(f"Missing option(s): [{missing}]", 2029, "42601")
    _only(given, ("TYPE", "COMMENT", *wanted), kind)
    account = context.account
    account.access.require_create(context.session, KIND, name)
    with account.catalog.lock:
        there = free_name(context, KIND, name, replace, if_not_exists, _remover(account))
        if there is not None:
            return there
        made = account.catalog.create(
            KIND,
            name,
            owner=account.access.owner_role(context.session),
            comment=given.get("COMMENT", ""),
            type=kind,
            username=given.get("USERNAME"),
        )
        vault.write(account.directory, made.id, {n.lower(): given[n] for n in wanted})
    return created("Secret", name.name)


@statement("ALTER", "SECRET")
def alter(context: Context, parse: Parser) -> Result:
    """ALTER SECRET [IF EXISTS] name SET ..."""
    if_exists = parse.if_exists()
    name = context.session.resolve(parse.name(), "ALTER")
    if not parse.accept("SET"):
        raise parse.unsupported()
    given = changes(parse, _TEXTS, KIND)
    parse.end()
    account = context.account
    if if_exists and account.catalog.find(KIND, name) is None:
        return message(DONE)
    target = account.access.find(context.session, KIND, name)
    account.access.require_any(context.session, ("MODIFY", "OWNERSHIP"), target)
    wanted = VALUES[target.data["type"]]
    _only(given, ("COMMENT", *wanted), target.data["type"])
    with account.catalog.lock:
        values = {n.lower(): given[n] for n in wanted if n in given}
        if values:
            old = vault.read(account.directory, target.id)
            vault.write(account.directory, target.id, old | values)
        username = given.get("USERNAME", target.data["username"])
        account.catalog.update(target, comment=given.get("COMMENT"), username=username)
    return message(DONE)


@statement("DROP", "SECRET")
def drop_secret(context: Context, parse: Parser) -> Result:
    """DROP SECRET [IF EXISTS] name."""
    return drop(
        context,
        parse,
        KIND,
        lambda parts: context.session.resolve(parts, "DROP"),
        _remover(context.account),
    )


@statement("SHOW", "SECRETS")
def show(context: Context, parse: Parser) -> Result:
    """SHOW SECRETS [LIKE ...] [IN ...]."""
    wanted = read_filter(parse, context.session)
    parse.end()
    found = visible(context, context.account.catalog.all(KIND))
    return rows(
        [
            ("created_on", LTZ),
            "name",
            "schema_name",
            "database_name",
            "owner",
            "comment",
            "secret_type",
            "oauth_scopes",
            "owner_role_type",
        ],
        [
            (
                moment(o.created_on),
                o.name,
                o.schema,
                o.database,
                o.owner,
                o.comment or None,
                o.data["type"],
                None,
                owner_role_type(o),
            )
            for o in wanted.apply(found)
        ],
    )


@statement("DESCRIBE", "SECRET")
def describe(context: Context, parse: Parser) -> Result:
    """DESCRIBE SECRET name: never a value but the user name."""
    name = context.session.resolve(parse.name(), "DESCRIBE")
    parse.end()
    o = context.account.access.find(context.session, KIND, name)
    context.account.access.require_any(context.session, ("USAGE", "READ", "OWNERSHIP"), o)
    columns: list[tuple[str, DataType] | str] = [
        ("created_on", LTZ),
        "name",
        "schema_name",
        "database_name",
        "owner",
        "comment",
        "secret_type",
        "username",
        "oauth_access_token_expiry_time",
        "oauth_refresh_token_expiry_time",
        "oauth_scopes",
        "integration_name",
        "algorithm",
        ("key_length", FIXED),
        "workload_identity_federation_issuer",
        "workload_identity_federation_subject",
    ]
    known = (
        moment(o.created_on),
        o.name,
        o.schema,
        o.database,
        o.owner,
        o.comment or None,
        o.data["type"],
        o.data["username"],
    )
    return rows(columns, [known + (None,) * (len(columns) - len(known))])


def _only(given: dict[str, Any], known: tuple[str, ...], kind: str) -> None:
    for name in given:
        if name not in known:
            raise invalid_property(name, f"secret of type {kind}")


def _remover(account: Account) -> Callable[[Object], None]:
    def remove(secret: Object) -> None:
        account.catalog.drop(secret)
        vault.forget(account.directory, secret.id)

    return remove
