"""Variables of a scripting block in SQL: they go into the engine as bound values, never as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from flowdist.emulator.errors import SqlError
from flowdist.emulator.names import fold
from flowdist.emulator.sql.lexer import Lexeme, Token, tokens

__all__ = ["Row", "Variable", "bind", "literal"]

_SEMI_STRUCTURED = ("VARIANT", "OBJECT", "ARRAY")


@dataclass
class Variable:
    """A value; ``declared`` is the type that DECLARE or LET gives, ``type`` the name of the type
    that the value has.
    """

    value: Any
    declared: str | None = None
    type: str = "TEXT"


@dataclass(frozen=True)
class Row:
    """The row that FOR is at; its columns by name."""

    columns: Mapping[str, Variable]


Scope = Mapping[str, Any]


def bind(text: str, scope: Scope, bare: bool) -> tuple[str, list[Any]]:
    """SQL with ``?`` for each variable in it, and their values in order.

    ``:name`` is a variable anywhere; a bare name is one where `bare`, which is in expressions of
    scripting, outside of the queries in them. SqlError 2049 for a ``:name`` that there is not.

    >>> bind("x + :y > (select max(x) from t)", {"X": Variable(1), "Y": Variable(2)}, True)
    ('? + ? > (select max(x) from t)', [1, 2])
    """
    found = tokens(text)
    parts: list[str] = []
    values: list[Any] = []
    at = i = 0
    queries: list[bool] = []
    while i < len(found):
        token = found[i]
        following = found[i + 1] if i + 1 < len(found) else None
        before = found[i - 1] if i else None
        if token.text == "(":
            inside = following is not None and following.word in ("SELECT", "WITH", "CALL")
            queries.append(inside or bool(queries and queries[-1]))
        elif token.text == ")" and queries:
            queries.pop()
        used, name = _used(token, before, following)
        free = bare and not (queries and queries[-1])
        if used == 2 or (free and used == 1 and name in scope):
            variable, count = _looked_up(found, i, used, name, scope)
            last = found[i + count - 1]
            semi = variable.type in _SEMI_STRUCTURED and variable.value is not None
            parts += [text[at : token.start], "PARSE_JSON(?)" if semi else "?"]
            values.append(_plain(variable.value))
            at = last.end
            i += count
            continue
        i += 1
    return "".join([*parts, text[at:]]), values


def literal(text: str) -> tuple[bool, Any]:
    """Whether a text is one string, number, boolean or NULL, and which."""
    found = tokens(text)
    if len(found) != 1:
        return False, None
    token = found[0]
    if token.kind is Lexeme.STRING:
        return True, token.value
    if token.kind is Lexeme.NUMBER and token.text.isdigit():
        return True, int(token.text)
    if token.word in ("TRUE", "FALSE", "NULL"):
        return True, {"TRUE": True, "FALSE": False, "NULL": None}[token.word]
    return False, None


def _used(token: Token, before: Token | None, following: Token | None) -> tuple[int, str]:
    """How many tokens name a variable here, 0 if none do, and the name."""
    if token.text == ":" and following is not None and following.start == token.end:
        path = before is not None and before.end == token.start and _ends_a_value(before)
        named = following.kind in (Lexeme.WORD, Lexeme.QUOTED)
        return (2, fold(following.text)) if named and not path else (0, "")
    if token.kind not in (Lexeme.WORD, Lexeme.QUOTED):
        return 0, ""
    called = following is not None and following.text in ("(", "=>")
    part = before is not None and before.text in (".", "::", ":")
    return (0, "") if called or part else (1, fold(token.text))


def _ends_a_value(token: Token) -> bool:
    # The colon after it leads into a VARIANT: column:key.
    return token.kind in (Lexeme.WORD, Lexeme.QUOTED) or token.text in (")", "]")


def _looked_up(
    found: list[Token], at: int, used: int, name: str, scope: Scope
) -> tuple[Variable, int]:
    known = scope.get(name)
    if isinstance(known, Row):
        dotted = at + used + 1 < len(found) and found[at + used].text == "."
        column = known.columns.get(fold(found[at + used + 1].text)) if dotted else None
        if column is not None:
            return column, used + 2
    if isinstance(known, Variable):
        return known, used
    raise SqlError(2049, "42601", f"SQL compilation error:\nBind variable :{name.lower()} not set.")


def _plain(value: Any) -> Any:
    """A value of a result as one that can be bound: TIMESTAMP_TZ comes as a dict."""
    if isinstance(value, dict) and set(value) == {"t", "o"}:
        moment: datetime = value["t"]
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return aware.astimezone(timezone(timedelta(minutes=value["o"])))
    return value
