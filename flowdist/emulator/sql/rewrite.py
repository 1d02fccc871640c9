"""What is changed in the text of a statement before sqlglot reads it.

``name!METHOD(a)`` becomes a call with the name for its first argument, ``CALL f(a)`` a SELECT, a
stage that is an argument (``DIRECTORY(@files)``) a string, and each ``?`` gets the number of its
bind. What begins with ``->>`` is a statement of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from flowdist.emulator.errors import unsupported
from flowdist.emulator.sql.lexer import Lexeme, Token, tokens

__all__ = ["METHOD", "Rewritten", "pipeline", "rewrite"]

METHOD = "METHOD$"
"""Begins the name of a function that stands for a method."""


@dataclass(frozen=True)
class Rewritten:
    """The text for sqlglot, and the items of the outermost SELECT as they were written."""

    sql: str
    items: tuple[str, ...]


def rewrite(sql: str) -> Rewritten:
    """Change a statement so that sqlglot can read it."""
    found = tokens(sql)
    while found and found[-1].text == ";":
        found.pop()
    if not found:
        return Rewritten(sql, ())
    sql = sql[: found[-1].end]
    pieces: list[str] = []
    at = binds = 0

    def put(upto: int, text: str, then: int) -> None:
        nonlocal at
        pieces.append(sql[at:upto])
        pieces.append(text)
        at = then

    if found[0].word == "CALL":
        put(found[0].start, "SELECT", found[0].end)
    i = 0
    while i < len(found):
        token = found[i]
        if token.text == "?":
            binds += 1
            put(token.start, f":{binds}", token.end)
        elif token.kind is Lexeme.LOCATION and token.text.startswith("@"):
            if i == 0 or found[i - 1].text not in ("(", ","):
                raise unsupported(f"{found[i - 1].text} {token.text}")
            put(token.start, "'" + token.text.replace("'", "''") + "'", token.end)
        elif token.text == "!" and _is_method(found, i):
            first = _name_before(found, i)
            name = sql[found[first].start : found[i - 1].end].replace("'", "''")
            comma = "" if found[i + 3].text == ")" else ", "
            text = f"{METHOD}{found[i + 1].text.upper()}('{name}'{comma}"
            put(found[first].start, text, found[i + 2].end)
            i += 2
        i += 1
    pieces.append(sql[at:])
    return Rewritten("".join(pieces), tuple(_items(sql, found)))


def _is_method(found: list[Token], i: int) -> bool:
    return (
        0 < i < len(found) - 3
        and found[i + 1].kind is Lexeme.WORD
        and found[i + 2].text == "("
        and found[i - 1].kind in (Lexeme.WORD, Lexeme.QUOTED)
        and found[i - 1].end == found[i].start
    )


def _name_before(found: list[Token], i: int) -> int:
    """The first token of the name that ends before `i`."""
    first = i - 1
    while first >= 2 and found[first - 1].text == ".":
        first -= 2
    return first


def _items(sql: str, found: list[Token]) -> list[str]:
    """The items of the outermost SELECT: from it to FROM, parted by commas outside of brackets."""
    start = next(
        (i for i, depth in _depths(found) if depth == 0 and found[i].word == "SELECT"), None
    )
    if found[0].word == "CALL":
        start = 0
    if start is None:
        return []
    start += 1
    while start < len(found) and found[start].word in ("DISTINCT", "ALL"):
        start += 1
    if start < len(found) and found[start].word == "TOP":
        start += 2
    items, first = [], start
    end = len(found)
    for i, depth in _depths(found[start:]):
        i += start
        if depth == 0 and found[i].word in _ENDS:
            end = i
            break
        if depth == 0 and found[i].text == ",":
            items.append((first, i))
            first = i + 1
    items.append((first, end))
    return [sql[found[a].start : found[b - 1].end] if b > a else "" for a, b in items]


_ENDS = frozenset(
    [
        "FROM",
        "WHERE",
        "GROUP",
        "HAVING",
        "QUALIFY",
        "ORDER",
        "LIMIT",
        "UNION",
        "EXCEPT",
        "MINUS",
        "INTERSECT",
        "OFFSET",
        "FETCH",
    ]
)


def _depths(found: list[Token]) -> list[tuple[int, int]]:
    depth, made = 0, []
    for i, token in enumerate(found):
        if token.text in (")", "]", "}"):
            depth -= 1
        made.append((i, depth))
        if token.text in ("(", "[", "{"):
            depth += 1
    return made


def pipeline(sql: str) -> list[str]:
    """The statements of ``a ->> b ->> c``."""
    parts, start = [], 0
    for token in tokens(sql):
        if token.text == "->>":
            parts.append(sql[start : token.start].strip())
            start = token.end
    return [*parts, sql[start:].strip()]
