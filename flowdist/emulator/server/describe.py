"""What a statement would answer: the columns, without running it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flowdist.emulator.bulk import over_rows
from flowdist.emulator.errors import SqlError
from flowdist.emulator.result import Column, Kind, Result
from flowdist.emulator.sql.lexer import Lexeme, split, tokens
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.statements import Context, find_statement
from flowdist.emulator.types import FIXED

__all__ = ["Description", "describe"]

_CHANGES = {
    "INSERT": (Kind.INSERT, ("number of rows inserted",)),
    "UPDATE": (Kind.UPDATE, ("number of rows updated", "number of multi-joined rows updated")),
    "DELETE": (Kind.DELETE, ("number of rows deleted",)),
    "MERGE": (Kind.MERGE, ("number of rows inserted", "number of rows updated")),
}
_READS = ("SELECT", "WITH", "VALUES", "(", "SHOW", "DESCRIBE", "DESC", "LIST", "LS")


@dataclass(frozen=True)
class Description:
    """What is known of a statement that was not run.

    ``binds`` is how many values have to be bound; ``arrays`` whether those may be of many rows.
    """

    columns: tuple[Column, ...]
    kind: Kind
    binds: int
    arrays: bool = False


def describe(context: Context, binds: Sequence[Any] = ()) -> Description:
    """Describe the statement of a context; SqlError where it makes no sense, as far as that is
    looked at: what changes something is not translated.
    """
    parts = split(context.query.sql or context.query.text)
    if len(parts) != 1:
        raise SqlError(8, "0A000", "Only one statement can be described at a time.")
    found = tokens(parts[0])
    wanted = sum(token.kind is Lexeme.BIND for token in found)
    first = found[0].word
    if first in _CHANGES:
        kind, names = _CHANGES[first]
        columns = tuple(Column(name, FIXED, nullable=False) for name in names)
        return Description(columns, kind, wanted, wanted > 0 and over_rows(parts[0]) is not None)
    if first not in _READS:
        return Description((Column("status"),), Kind.DDL, wanted)
    result = _read(context, parts[0], binds or [None] * wanted)
    return Description(result.columns, result.kind, wanted)


def _read(context: Context, text: str, binds: Sequence[Any]) -> Result:
    parse = Parser(text, binds)
    handler = find_statement(parse)
    if handler is None:
        return context.account.engine.run(context, f"SELECT * FROM ({text}\n) LIMIT 0", binds)
    found = handler(context, parse)
    if not isinstance(found, Result):
        raise SqlError(2, "0A000", "not supported by the emulator: describing PUT and GET")
    return found
