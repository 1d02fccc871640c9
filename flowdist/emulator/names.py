"""Identifiers: how they are folded, quoted and qualified."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["FullName", "fold", "quoted", "shown"]

_PLAIN = re.compile(r"[A-Z_][A-Z0-9_$]*\Z")


def fold(text: str) -> str:
    """An identifier as written to the name it stands for: unquoted ones are upper-cased.

    >>> fold("my_table"), fold('"my table"')
    ('MY_TABLE', 'my table')
    """
    if text.startswith('"'):
        return text[1:-1].replace('""', '"')
    return text.upper()


def quoted(name: str) -> str:
    """A name as a quoted identifier, for Snowflake and DuckDB alike."""
    return '"' + name.replace('"', '""') + '"'


def shown(name: str) -> str:
    """A name as Snowflake shows it: quoted only where it has to be."""
    return name if _PLAIN.match(name) else quoted(name)


@dataclass(frozen=True, order=True)
class FullName:
    """The full name of an object in a schema; the parts are names, not identifiers."""

    database: str
    schema: str
    name: str

    def __str__(self) -> str:
        return ".".join(shown(part) for part in (self.database, self.schema, self.name))
