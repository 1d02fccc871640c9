"""What the CREATE and DROP statements of objects in the catalog have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flowdist.emulator.catalog import Object
from flowdist.emulator.errors import SqlError, compilation_error, unsupported
from flowdist.emulator.grants import Securable
from flowdist.emulator.names import FullName, shown
from flowdist.emulator.parameters import invalid_property
from flowdist.emulator.result import Result, message
from flowdist.emulator.sql.parser import Parser, Reader
from flowdist.emulator.statements import Context

__all__ = [
    "already_there",
    "changes",
    "created",
    "drop",
    "dropped",
    "free_name",
    "read_unset",
    "replacing",
]

Name = FullName | tuple[str, ...]
DONE = "Statement executed successfully."


def replacing(parse: Parser, *others: str) -> bool:
    """Whether OR REPLACE was among the modifiers of a CREATE; any that are not among `others` are
    refused.
    """
    for modifier in parse.modifiers - {"OR REPLACE", *others}:
        if modifier == "OR ALTER":
            raise unsupported(parse.sql)
        raise compilation_error(f"Unsupported feature '{modifier}'.", 2, "0A000")
    return "OR REPLACE" in parse.modifiers


def created(kind: str, name: str) -> Result:
    """The answer to CREATE."""
    return message(f"{kind} {shown(name)} successfully created.")


def already_there(name: str) -> Result:
    """The answer to CREATE ... IF NOT EXISTS where there is one."""
    return message(f"{shown(name)} already exists, statement succeeded.")


def dropped(name: str) -> Result:
    """The answer to DROP."""
    return message(f"{shown(name)} successfully dropped.")


def free_name(
    context: Context,
    kind: str,
    name: Name,
    replace: bool,
    if_not_exists: bool,
    remove: Callable[[Object], None],
) -> Result | None:
    """Make room for a new object: an old one is removed where the statement replaces it.

    The answer to give at once where the object is there and IF NOT EXISTS was said; SqlError 2002
    where it is there and nothing was said.
    """
    if replace and if_not_exists:
        raise compilation_error("options IF NOT EXISTS and OR REPLACE are incompatible.", 1003)
    old = context.account.catalog.find(kind, name)
    if old is None:
        return None
    if if_not_exists:
        return already_there(old.name)
    if replace:
        context.account.access.require_owner(context.session, old)
        remove(old)
    return None


def drop(
    context: Context,
    parse: Parser,
    kind: str,
    resolve: Callable[[tuple[str, ...]], Name],
    remove: Callable[[Object], None],
) -> Result:
    """DROP [IF EXISTS] name, for the owner of an object."""
    if_exists = parse.if_exists()
    name = resolve(parse.name())
    parse.end()
    try:
        target = context.account.access.find(context.session, kind, name)
    except SqlError as missing:
        if not if_exists or missing.errno != 2003:
            raise
        return message(
            f"Drop statement executed successfully ({shown(_last(name))} already dropped)."
        )
    context.account.access.require_owner(context.session, target)
    remove(target)
    context.account.access.dropped(target)
    return dropped(target.name)


def changes(parse: Parser, known: Mapping[str, Reader], kind: str) -> dict[str, Any]:
    """What follows ALTER ... SET; SqlError 1420 for a property that is not among `known`."""
    found = parse.properties(known)
    if not parse.ended and parse.word() not in ("", ";"):
        if parse.word(1) == "=" and parse.word() not in ("TAG", "WITH"):
            raise invalid_property(parse.word(), kind)
        raise parse.unsupported()
    if not found:
        raise parse.error()
    return found


def read_unset(parse: Parser, known: Mapping[str, Any], kind: str) -> list[str]:
    """The names that follow ALTER ... UNSET."""
    found = []
    while True:
        name = parse.next().text.upper()
        if name == "TAG":
            raise parse.unsupported()
        if name not in known:
            raise invalid_property(name, kind)
        found.append(name)
        if not parse.accept(","):
            parse.end()
            return found


def _last(name: Name) -> str:
    return name.name if isinstance(name, FullName) else name[-1]


def visible(context: Context, objects: list[Object]) -> list[Object]:
    """Those that the session's roles may see."""
    return [o for o in objects if context.account.access.visible(context.session, o)]


def with_privileges(context: Context, parse: Parser, objects: list[Object]) -> list[Object]:
    """The clause WITH PRIVILEGES of SHOW, applied."""
    if not parse.accept("WITH", "PRIVILEGES"):
        return objects
    wanted = [privilege(parse)]
    while parse.accept(","):
        wanted.append(privilege(parse))
    access = context.account.access
    return [o for o in objects if all(access.can(context.session, p, o) for p in wanted)]


def privilege(parse: Parser, *ends: str) -> str:
    """The words of one privilege, up to a comma, ON or one of `ends`."""
    words = []
    while parse.word() not in ("", ",", ";", "ON", *ends):
        words.append(parse.next().text.upper())
    if not words:
        raise parse.error()
    return " ".join(words)


def owner_role_type(target: Securable) -> str | None:
    """The column of that name."""
    return "ROLE" if target.owner else None
