"""Reading the statements that sqlglot does not know: a cursor over tokens with Snowflake's habits.

A method that begins with `accept` takes what it is asked for if it is there; the others raise
Snowflake's syntax error where something else stands. A clause that Snowflake has and the emulator
does not is refused by :meth:`Parser.unsupported`, which quotes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from flowdist.emulator.errors import SqlError, syntax_error, unsupported
from flowdist.emulator.errors import invalid_value as invalid
from flowdist.emulator.names import fold
from flowdist.emulator.sql.lexer import Lexeme, Token, line_and_position, tokens

__all__ = ["Parser", "Reader"]

Reader = Callable[["Parser"], Any]
"""Reads the value of a property."""


class Parser:
    """A cursor over the tokens of one statement; ``binds`` are the values for ``?`` in order.

    ``modifiers`` are the words that stood between CREATE and the kind of object, as "OR REPLACE".
    """

    def __init__(self, sql: str, binds: Sequence[Any] = ()) -> None:
        self.sql = sql
        self.modifiers: frozenset[str] = frozenset()
        self.conditional = False
        """Whether IF NOT EXISTS was read."""
        self._tokens = tokens(sql)
        self._at = 0
        self._binds = list(binds)
        self._bound = 0

    # -- looking

    def peek(self, ahead: int = 0) -> Token | None:
        """The token that comes next, or after `ahead` others; None at the end."""
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else None

    def word(self, ahead: int = 0) -> str:
        """The keyword or operator that comes next, upper-cased; empty where none does."""
        token = self.peek(ahead)
        return token.word if token else ""

    @property
    def ended(self) -> bool:
        """Whether nothing is left."""
        return self._at >= len(self._tokens)

    def rest(self) -> str:
        """All that is left, as written; it counts as read."""
        token = self.peek()
        self._at = len(self._tokens)
        return self.sql[token.start :].rstrip().rstrip(";").rstrip() if token else ""

    @property
    def binds(self) -> list[Any]:
        """The bound values that no ``?`` has taken yet, for those that pass the rest on."""
        return self._binds[self._bound :]

    def position(self) -> int:
        """Where the next token begins in the text."""
        token = self.peek()
        return token.start if token else len(self.sql)

    def next(self) -> Token:
        """The next token, whatever it is."""
        token = self.peek()
        if token is None:
            raise self.error()
        self._at += 1
        return token

    # -- errors

    def error(self) -> SqlError:
        """Snowflake's syntax error at the next token, to be raised."""
        token = self.peek()
        if token is None:
            return syntax_error(*line_and_position(self.sql, len(self.sql)), "")
        return syntax_error(*line_and_position(self.sql, token.start), token.text)

    def unsupported(self) -> SqlError:
        """What begins at the next token is known to Snowflake, and not here; to be raised."""
        return unsupported(self.rest() or self.sql)

    def end(self) -> None:
        """Nothing may follow but a semicolon."""
        self.accept(";")
        if not self.ended:
            raise self.error()

    # -- words

    def accept(self, *words: str) -> bool:
        """Take these words if all of them come next."""
        if all(self.word(i) == word for i, word in enumerate(words)):
            self._at += len(words)
            return True
        return False

    def expect(self, *words: str) -> None:
        """These words have to come next."""
        for word in words:
            if not self.accept(word):
                raise self.error()

    def accept_any(self, *words: str) -> str | None:
        """Take one of these words if one comes next; which."""
        found = self.word()
        if found in words:
            self._at += 1
            return found
        return None

    def if_exists(self) -> bool:
        """Whether IF EXISTS comes next."""
        return self.accept("IF", "EXISTS")

    def if_not_exists(self) -> bool:
        """Whether IF NOT EXISTS comes next."""
        found = self.accept("IF", "NOT", "EXISTS")
        self.conditional = self.conditional or found
        return found

    # -- values

    def identifier(self) -> str:
        """One identifier, folded; also one in IDENTIFIER('...') that has no dots."""
        (part,) = self._exactly(self.name(), 1)
        return part

    def name(self) -> tuple[str, ...]:
        """A name of one to three parts, each folded: ``db.schema.name``, IDENTIFIER(?), or a string
        that has such a name in it where Snowflake allows one (``FINALIZE = 'root'``).
        """
        if self.word() == "IDENTIFIER" and self.word(1) == "(":
            self.expect("IDENTIFIER", "(")
            parts = self.name_in(self.text())
            self.expect(")")
            return parts
        token = self.peek()
        if token and token.kind is Lexeme.STRING:
            return self.name_in(self.text())
        found = [self._part()]
        while self.word() == "." and len(found) < 3:
            self.expect(".")
            # Two dots stand for the schema PUBLIC.
            found.append("PUBLIC" if self.word() == "." else self._part())
        return tuple(found)

    def name_in(self, text: str) -> tuple[str, ...]:
        """The name that is the whole of a string, as functions take it: ``'db.schema."t x"'``."""
        inner = Parser(text)
        parts = inner.name()
        if not inner.ended:
            raise inner.error()
        return parts

    def names(self) -> list[tuple[str, ...]]:
        """Names separated by commas."""
        found = [self.name()]
        while self.accept(","):
            found.append(self.name())
        return found

    def text(self) -> str:
        """A string literal, or a bound value that is one."""
        token = self.peek()
        if token and token.kind is Lexeme.BIND:
            return str(self.bound())
        if token is None or token.kind is not Lexeme.STRING:
            raise self.error()
        self._at += 1
        return token.value

    def text_or_word(self) -> str:
        """A string literal, or a bare word as it is written (``SERVER_TYPE = xsmall``)."""
        token = self.peek()
        if token and token.kind in (Lexeme.WORD, Lexeme.QUOTED):
            self._at += 1
            return token.value
        return self.text()

    def integer(self) -> int:
        """A whole number, with its sign; also one in quotes, as properties may have it."""
        sign = -1 if self.accept("-") else 1
        token = self.peek()
        if token and token.kind is Lexeme.BIND:
            return sign * int(self.bound())
        if token is None or token.kind not in (Lexeme.NUMBER, Lexeme.STRING):
            raise self.error()
        if not token.value.isdigit():
            raise invalid(token.value, "number")
        self._at += 1
        return sign * int(token.value)

    def boolean(self) -> bool:
        """TRUE or FALSE, bare or in quotes."""
        token = self.peek()
        value = self.text().upper() if token and token.kind is Lexeme.STRING else self.word()
        if value not in ("TRUE", "FALSE"):
            raise self.error()
        if token and token.kind is not Lexeme.STRING:
            self._at += 1
        return value == "TRUE"

    def literal(self) -> Any:
        """A string, number, boolean or NULL, or a bound value."""
        token = self.next()
        if token.kind is Lexeme.STRING:
            return token.value
        if token.kind is Lexeme.NUMBER:
            return int(token.text) if token.text.isdigit() else Decimal(token.text)
        if token.kind is Lexeme.BIND:
            self._at -= 1
            return self.bound()
        if token.word == "-":
            return -self.literal()
        if token.word in ("TRUE", "FALSE"):
            return token.word == "TRUE"
        if token.word == "NULL":
            return None
        self._at -= 1
        raise self.error()

    def bound(self) -> Any:
        """The value bound to the next ``?`` or ``:n``."""
        token = self.next()
        at = self._bound if token.text == "?" else int(token.text[1:]) - 1
        self._bound += token.text == "?"
        if at >= len(self._binds):
            raise SqlError(
                2049, "42601", f"SQL compilation error:\nBind variable {token.text} not set."
            )
        return self._binds[at]

    def parenthesised(self, read: Reader) -> list[Any]:
        """``( a, b, ... )``, possibly empty."""
        self.expect("(")
        found = []
        while not self.accept(")"):
            found.append(read(self))
            if not self.accept(","):
                self.expect(")")
                break
        return found

    def location(self) -> str:
        """A stage with its path, ``@db.schema.stage/path``, bare or in quotes; with the ``@``."""
        token = self.peek()
        if token and token.kind is Lexeme.LOCATION:
            self._at += 1
            return token.value
        found = self.text()
        if not found.startswith(("@", "file://")):
            self._at -= 1
            raise self.error()
        return found

    # -- properties

    def properties(self, known: Mapping[str, Reader]) -> dict[str, Any]:
        """``NAME = value`` in any order, each at most once, until a word that is not among `known`.

        The names of `known` may be several words ("WITH TAG"); the equals sign may be missing where
        the reader does not need it. Commas between properties are passed over.
        """
        found: dict[str, Any] = {}
        while True:
            self.accept(",")
            name = next((k for k in known if self._comes(k)), None)
            if name is None:
                return found
            if name in found:
                raise self.error()
            self.expect(*name.split())
            self.accept("=")
            found[name] = known[name](self)

    def _comes(self, name: str) -> bool:
        return all(self.word(i) == word for i, word in enumerate(name.split()))

    def _part(self) -> str:
        token = self.peek()
        if token is None or token.kind not in (Lexeme.WORD, Lexeme.QUOTED):
            raise self.error()
        self._at += 1
        return fold(token.text)

    def _exactly(self, parts: tuple[str, ...], count: int) -> tuple[str, ...]:
        if len(parts) != count:
            raise self.error()
        return parts
