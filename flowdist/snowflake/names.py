"""Names and texts in SQL: the one place that quotes.

What can be bound is bound; names, paths of stages and specifications cannot, and go through here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from flowdist.errors import UsageError

__all__ = ["Name", "Place", "json_block", "literal", "quote"]

_PLAIN = re.compile(r"[A-Z_][A-Z0-9_$]*")
_PART = re.compile(r'"((?:[^"]|"")+)"|([A-Za-z_][A-Za-z0-9_$]*)')
# Words that stand for something else where a name is expected (Snowflake's reserved keywords).
_RESERVED = frozenset({
    "ACCOUNT", "ALL", "ALTER", "AND", "ANY", "AS", "BETWEEN", "BY", "CASE", "CAST", "CHECK",
    "COLUMN", "CONNECT", "CONNECTION", "CONSTRAINT", "CREATE", "CROSS", "CURRENT", "CURRENT_DATE",
    "CURRENT_TIME", "CURRENT_TIMESTAMP", "CURRENT_USER", "DATABASE", "DELETE", "DISTINCT", "DROP",
    "ELSE", "EXISTS", "FALSE", "FOLLOWING", "FOR", "FROM", "FULL", "GRANT", "GROUP", "GSCLUSTER",
    "HAVING", "ILIKE", "IN", "INCREMENT", "INNER", "INSERT", "INTERSECT", "INTO", "IS", "ISSUE",
    "JOIN", "LATERAL", "LEFT", "LIKE", "LOCALTIME", "LOCALTIMESTAMP", "MINUS", "NATURAL", "NOT",
    "NULL", "OF", "ON", "OR", "ORDER", "ORGANIZATION", "QUALIFY", "REGEXP", "REVOKE", "RIGHT",
    "RLIKE", "ROW", "ROWS", "SAMPLE", "SCHEMA", "SELECT", "SET", "SOME", "START", "TABLE",
    "TABLESAMPLE", "THEN", "TO", "TRIGGER", "TRUE", "TRY_CAST", "UNION", "UNIQUE", "UPDATE",
    "USING", "VALUES", "VIEW", "WHEN", "WHENEVER", "WHERE", "WITH",
})  # fmt: skip


@dataclass(frozen=True)
class Name:
    """The name of an object, its parts as Snowflake keeps them: upper case unless quoted.

    >>> Name.parse("models.public.my_stage").sql
    'MODELS.PUBLIC.MY_STAGE'
    >>> Name.parse('models."My Schema".s').sql
    'MODELS."My Schema".S'
    """

    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, what: str = "name", most: int = 3) -> Self:
        """The name that people write, of up to `most` parts.

        Raises:
            UsageError: it is no name, saying of what.
        """
        parts, position = [], 0
        while found := _PART.match(text, position):
            quoted, plain = found.groups()
            parts.append(quoted.replace('""', '"') if quoted is not None else plain.upper())
            position = found.end()
            if text[position : position + 1] != ".":
                break
            position += 1
        if not parts or position != len(text) or text.endswith(".") or len(parts) > most:
            form = ".".join(("database", "schema", "name")[3 - most :])
            raise UsageError(
                f"{what}={text!r} is not a name of Snowflake; write {form}, a part with other "
                "characters than letters, digits and _ in double quotes"
            )
        return cls(tuple(parts))

    @property
    def sql(self) -> str:
        """The name in SQL."""
        return ".".join(map(quote, self.parts))

    @property
    def last(self) -> str:
        """The object's own name."""
        return self.parts[-1]

    def within(self, database: str | None, schema: str | None) -> Name:
        """The full name, where a session with this database and schema finds it."""
        missing = 3 - len(self.parts)
        before = [part for part in (database, schema)[:missing] if part is not None]
        return Name((*before, *self.parts))

    def beside(self, name: str) -> Name:
        """Another object in the same schema."""
        return Name((*self.parts[:-1], name))

    def __str__(self) -> str:
        return self.sql


@dataclass(frozen=True)
class Place:
    """A folder of a stage: ``@database.schema.stage/folder``.

    >>> Place.parse("@models.public.runs/night").file("a b/x.json")
    "'@MODELS.PUBLIC.RUNS/night/a b/x.json'"
    """

    stage: Name
    folder: str = ""

    @classmethod
    def parse(cls, text: str, what: str = "stage") -> Self:
        """From ``[@][database.][schema.]stage[/folder]``; UsageError where it is none."""
        name, _, folder = text.removeprefix("@").partition("/")
        if ".." in folder.split("/") or "\\" in folder:
            raise UsageError(f"{what}={text!r}: a folder of a stage has no '..' and no backslash")
        return cls(Name.parse(name, what), folder.strip("/"))

    def within(self, database: str | None, schema: str | None) -> Place:
        """With the full name of the stage."""
        return Place(self.stage.within(database, schema), self.folder)

    def __truediv__(self, folder: str) -> Place:
        return Place(self.stage, f"{self.folder}/{folder}".strip("/"))

    @property
    def path(self) -> str:
        """As a specification names it: ``@DATABASE.SCHEMA.STAGE/folder``."""
        return f"@{self.stage.sql}/{self.folder}".rstrip("/")

    def file(self, name: str) -> str:
        """One file, or a prefix of names, as PUT, GET, LIST and REMOVE take it."""
        return literal(f"{self.path}/{name}")

    def __str__(self) -> str:
        return self.path


def quote(part: str) -> str:
    """One part of a name, quoted where it has to be.

    >>> quote("RUNS"), quote("my runs"), quote("TABLE")
    ('RUNS', '"my runs"', '"TABLE"')
    """
    if _PLAIN.fullmatch(part) and part not in _RESERVED:
        return part
    doubled = part.replace('"', '""')
    return f'"{doubled}"'


def literal(text: str) -> str:
    r"""A text in SQL, where it cannot be bound.

    >>> literal("it's"), literal("a\\b")
    ("'it''s'", "'a\\\\b'")
    """
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def json_block(value: Mapping[str, Any]) -> str:
    """A specification between ``$$``: JSON, in which no ``$$`` is left.

    >>> json_block({"a": "x$$y"})
    '$${"a": "x$\\\\u0024y"}$$'
    """
    text = json.dumps(value)
    while "$$" in text:
        text = text.replace("$$", "$\\u0024")
    # One at the end would join the quote.
    return f"$${text}$$"
