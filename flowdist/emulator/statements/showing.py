"""What all SHOW statements have in common: LIKE, IN, STARTS WITH, LIMIT, and how times look."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from flowdist.emulator.catalog import Object
from flowdist.emulator.session import Session
from flowdist.emulator.sql.parser import Parser

__all__ = ["Filter", "like", "moment", "read_filter", "read_name_filter"]

LARGEST = 10_000
"""How many rows a SHOW gives at the most."""


@dataclass(frozen=True)
class Filter:
    """Which objects a SHOW lists; ``database`` and ``schema`` are None where any will do.

    ``within`` is the kind and the name that stood after IN where it was none of these.
    """

    pattern: str | None = None
    database: str | None = None
    schema: str | None = None
    within: tuple[str, tuple[str, ...]] | None = None
    prefix: str = ""
    limit: int = LARGEST
    after: str | None = None

    def apply(self, objects: Sequence[Object]) -> list[Object]:
        """Those of `objects` that are listed, in their order."""
        found = [o for o in objects if self.takes(o)]
        return found[: self.limit]

    def takes(self, o: Object) -> bool:
        """Whether an object is listed, its place in the limit aside."""
        return (
            self.takes_name(o.name)
            and (self.database is None or o.database == self.database)
            and (self.schema is None or o.schema == self.schema)
        )

    def takes_name(self, name: str) -> bool:
        """Whether an object of that name may be listed."""
        return (
            (self.pattern is None or like(name, self.pattern))
            and name.startswith(self.prefix)
            and (self.after is None or name > self.after)
        )


def read_filter(parse: Parser, session: Session, kinds: Collection[str] = ()) -> Filter:
    """The clauses of a SHOW, from LIKE to its end.

    Without IN, objects of the current schema are listed if there is one, else of the current
    database, else of the account. `kinds` are what else may stand after IN ("COMPUTE POOL").
    """
    pattern = parse.text() if parse.accept("LIKE") else None
    database, schema = session.database, session.schema
    within = None
    if parse.accept("IN"):
        database, schema, within = _scope(parse, session, kinds)
    return Filter(pattern, database, schema, within, *_names(parse))


def read_name_filter(parse: Parser) -> Filter:
    """The same for objects of the account, which are in no database: there is no IN."""
    pattern = parse.text() if parse.accept("LIKE") else None
    return Filter(pattern, None, None, None, *_names(parse))


def _names(parse: Parser) -> tuple[str, int, str | None]:
    prefix = parse.text() if parse.accept("STARTS", "WITH") else ""
    if not parse.accept("LIMIT"):
        return prefix, LARGEST, None
    limit = parse.integer()
    return prefix, limit, parse.text() if parse.accept("FROM") else None


def _scope(
    parse: Parser, session: Session, kinds: Collection[str]
) -> tuple[str | None, str | None, tuple[str, tuple[str, ...]] | None]:
    for kind in kinds:
        if parse.accept(*kind.split()):
            return None, None, (kind, parse.name())
    if parse.accept("ACCOUNT"):
        return None, None, None
    if parse.accept("DATABASE"):
        named = not parse.ended and parse.word() not in ("STARTS", "LIMIT", "LIKE", ";")
        return (parse.identifier() if named else session.database), None, None
    parse.accept("SCHEMA")
    if parse.ended or parse.word() in ("STARTS", "LIMIT", ";"):
        return session.database, session.schema, None
    return *session.resolve_schema(parse.name(), "SHOW"), None


def like(name: str, pattern: str) -> bool:
    """SQL's LIKE without regard to case, as SHOW has it.

    >>> like("MY_POOL", "my%"), like("MY_POOL", "pool"), like("AXB", "a_b"), like("AXB", r"a\\\\_b")
    (True, False, True, False)
    """
    parts = re.findall(r"\\.|%|_|[^\\%_]+|\\", pattern)
    regex = "".join({"%": ".*", "_": "."}.get(p) or re.escape(p.lstrip("\\") or p) for p in parts)
    return re.fullmatch(regex, name, re.IGNORECASE | re.DOTALL) is not None


def moment(seconds: float | None) -> datetime | None:
    """Unix time as the value of a TIMESTAMP_LTZ."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
