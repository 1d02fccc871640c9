"""Literals that differ from one statement to the next, taken out as binds.

Clients that put values into the text send a new text each time, and a translation is worth
remembering only for a text that comes again. What is taken out stands where a bind might: after a
comparison (or an assignment of UPDATE), or as a value of INSERT ... VALUES.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from flowdist.emulator.sql.lexer import Lexeme, Token, tokens

__all__ = ["taken_out"]

MOST = 60
"""A statement with more literals is not going to come again."""
_COMPARISONS = frozenset(("=", "<", ">", "<=", ">=", "<>", "!="))
_BEHIND = frozenset(("", ")", ",", ";", "AND", "OR", "WHERE", "ORDER", "LIMIT", "GROUP", "FROM"))


def taken_out(sql: str) -> tuple[str, list[Any]] | None:
    """The text with ``?`` in place of literals, and their values; None where there are none.

    >>> taken_out("UPDATE t SET a = 'x' WHERE id = 5 AND b > 1 + 1")
    ('UPDATE t SET a = ? WHERE id = ? AND b > 1 + 1', ['x', 5])
    >>> taken_out("SELECT a = 1 FROM t WHERE b = 'it''s'")
    ('SELECT a = 1 FROM t WHERE b = ?', ["it's"])
    >>> taken_out("INSERT INTO t VALUES (1, UPPER('x'))")
    ("INSERT INTO t VALUES (?, UPPER('x'))", [1])
    """
    found = tokens(sql)
    first = found[0].word if found else ""
    if first not in ("SELECT", "UPDATE", "DELETE", "INSERT"):
        return None
    if any(token.kind is Lexeme.BIND for token in found):
        return None
    places = _values(found) if first == "INSERT" else _compared(found, first == "SELECT")
    if not 0 < len(places) <= MOST:
        return None
    pieces, at, values = [], 0, []
    for i in places:
        token = found[i]
        pieces += [sql[at : token.start], "?"]
        values.append(_value(token))
        at = token.end
    return "".join([*pieces, sql[at:]]), values


def _is_literal(token: Token) -> bool:
    if token.kind is Lexeme.NUMBER:
        return "e" not in token.text.lower()
    return token.kind is Lexeme.STRING


def _value(token: Token) -> Any:
    if token.kind is Lexeme.STRING:
        return token.value
    return int(token.text) if token.text.isdigit() else Decimal(token.text)


def _compared(found: list[Token], query: bool) -> list[int]:
    """The literals after comparisons; of a query only those behind its first WHERE, since what is
    before it may give a column its name.
    """
    places, waiting = [], query
    for i, token in enumerate(found):
        waiting = waiting and token.word != "WHERE"
        if waiting or not i or not _is_literal(token) or found[i - 1].text not in _COMPARISONS:
            continue
        if i + 1 == len(found) or _ends(found[i + 1]):
            places.append(i)
    return places


def _ends(token: Token) -> bool:
    return token.kind in (Lexeme.WORD, Lexeme.OPERATOR) and token.word in _BEHIND


def _values(found: list[Token]) -> list[int]:
    """The literals that are the values of rows of an INSERT."""
    places: list[int] = []
    start = next((i for i, token in enumerate(found) if token.word == "VALUES"), None)
    if start is None or any(token.word == "SELECT" for token in found):
        return places
    depth = 0
    for i in range(start + 1, len(found)):
        token = found[i]
        depth += (token.text == "(") - (token.text == ")")
        around = found[i - 1].text in ("(", ",") and i + 1 < len(found)
        if depth == 1 and around and _is_literal(token) and found[i + 1].text in (")", ","):
            places.append(i)
    return places
