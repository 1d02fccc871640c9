"""Snowflake SQL as tokens that remember where they stood.

Only the statements that sqlglot does not know are read from these tokens (see `parser.py`); for the
others they serve to find where a statement ends and with which words it begins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache

from flowdist.emulator.errors import SqlError, syntax_error

__all__ = ["Lexeme", "Token", "line_and_position", "split", "tokens"]

REMEMBERED = 4000
"""Texts up to so many characters are remembered: a statement is looked at more than once."""


class Lexeme(Enum):
    """What a token is."""

    WORD = auto()
    """An unquoted identifier or keyword."""
    QUOTED = auto()
    """An identifier in double quotes."""
    STRING = auto()
    """A literal in single quotes or between ``$$``; ``value`` is what it stands for."""
    NUMBER = auto()
    LOCATION = auto()
    """A stage with a path (``@db.schema.stage/a/b``) or a URL (``file:///tmp/x``), unquoted."""
    BIND = auto()
    """``?`` or ``:1``."""
    OPERATOR = auto()


@dataclass(frozen=True)
class Token:
    """A token; ``start`` and ``end`` count characters of the text."""

    kind: Lexeme
    text: str
    value: str
    start: int
    end: int

    @property
    def word(self) -> str:
        """The keyword it may be; empty for what cannot be one."""
        return self.text.upper() if self.kind in (Lexeme.WORD, Lexeme.OPERATOR) else ""


_PATTERN = re.compile(
    r"""
      (?P<space>\s+|--[^\n]*|//[^\n]*|/\*.*?\*/)
    | (?P<dollars>\$\$.*?\$\$)
    | (?P<string>'(?:[^'\\]|\\.|'')*')
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<location>@(?:"(?:[^"]|"")*"|[^\s;()',"])+|file://[^\s;]+)
    | (?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)
    | (?P<word>[A-Za-z_][A-Za-z0-9_$]*|\$[A-Za-z_][A-Za-z0-9_$]*|\$\d+)
    | (?P<bind>\?|:\d+)
    | (?P<operator>=>|::|:=|->>|->|\|\||<>|!=|<=|>=|[^\s\w])
    """,
    re.VERBOSE | re.DOTALL,
)
_KINDS = {
    "dollars": Lexeme.STRING,
    "string": Lexeme.STRING,
    "quoted": Lexeme.QUOTED,
    "location": Lexeme.LOCATION,
    "number": Lexeme.NUMBER,
    "word": Lexeme.WORD,
    "bind": Lexeme.BIND,
    "operator": Lexeme.OPERATOR,
}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "f": "\f"}
_ESCAPE = re.compile(r"''|\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)", re.DOTALL)


def tokens(sql: str) -> list[Token]:
    """All tokens of a text, comments left out; SqlError where a literal is not closed."""
    return list(_tokens(sql) if len(sql) <= REMEMBERED else _tokens.__wrapped__(sql))


@lru_cache(maxsize=2000)
def _tokens(sql: str) -> tuple[Token, ...]:
    found = []
    at = 0
    while at < len(sql):
        match = _PATTERN.match(sql, at)
        if match is None or match.group() in ("'", '"'):
            raise _unreadable(sql, at)
        kind = match.lastgroup or ""
        if kind != "space":
            text = match.group()
            found.append(Token(_KINDS[kind], text, _value(kind, text), at, match.end()))
        at = match.end()
    return tuple(found)


def split(sql: str) -> list[str]:
    """The statements of a text, without the semicolons between them and without empty ones.

    A scripting block, from its DECLARE or BEGIN to its last END, has semicolons of its own.

    >>> split("select 1; begin; begin let x := 1; return x; end; ")
    ['select 1', 'begin', 'begin let x := 1; return x; end']
    """
    statements = []
    found = tokens(sql)
    first: int | None = None
    block = waiting = False
    depth = 0
    for i, token in enumerate(found):
        if token.text == ";" and depth == 0 and not waiting:
            if first is not None:
                statements.append(sql[found[first].start : found[i - 1].end])
            first, block = None, False
            continue
        if first is None:
            first = i
        if not block and _opens_block(found, i, first):
            block, waiting = True, token.word == "DECLARE"
        if block:
            change = _nesting(found, i)
            depth += change
            waiting = waiting and change <= 0
    if first is not None:
        statements.append(sql[found[first].start : found[-1].end])
    return statements


def _opens_block(found: list[Token], i: int, first: int) -> bool:
    """Whether a scripting block begins with a token: a BEGIN alone begins a transaction."""
    if i != first and found[i - 1].word != "AS":
        return False
    following = found[i + 1].word if i + 1 < len(found) else ""
    word = found[i].word
    return word == "DECLARE" or (
        word == "BEGIN" and following not in ("", ";", "TRANSACTION", "WORK", "NAME")
    )


def _nesting(found: list[Token], i: int) -> int:
    """By how much a token inside a scripting block changes how deep it is nested."""
    word = found[i].word
    if word == "END":
        return -1
    if word not in ("BEGIN", "CASE", "IF", "FOR", "WHILE", "LOOP", "REPEAT"):
        return 0
    before = found[i - 1].word if i else ""
    following = found[i + 1].word if i + 1 < len(found) else ""
    ends = before == "END"  # END IF, END FOR ...
    exists = word == "IF" and following in ("EXISTS", "NOT")
    return 0 if ends or exists else 1


def line_and_position(sql: str, at: int) -> tuple[int, int]:
    """Where a character stands: lines count from 1, positions from 0."""
    return sql.count("\n", 0, at) + 1, at - (sql.rfind("\n", 0, at) + 1)


def _unreadable(sql: str, at: int) -> SqlError:
    return syntax_error(*line_and_position(sql, at), sql[at : at + 20])


def _value(kind: str, text: str) -> str:
    if kind == "dollars":
        return text[2:-2]
    if kind == "string":
        return _ESCAPE.sub(_unescaped, text[1:-1])
    if kind == "quoted":
        return text[1:-1].replace('""', '"')
    return text


def _unescaped(match: re.Match[str]) -> str:
    what = match.group(1)
    if what is None:
        return "'"
    if what[0] in "xu" and len(what) > 1:
        return chr(int(what[1:], 16))
    return _ESCAPES.get(what, what)
