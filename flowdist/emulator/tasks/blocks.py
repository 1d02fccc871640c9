"""Snowflake Scripting as a tree: the part of it that finalizers and set-up scripts use.

DECLARE with variables, cursors, result sets and exceptions; LET and ``:=``; IF, FOR, WHILE, RETURN,
RAISE, BREAK and CONTINUE, nested blocks, EXCEPTION; anything else between semicolons is SQL. What
Snowflake has besides (LOOP, REPEAT, CASE, OPEN, FETCH, ASYNC ...) is refused by quoting it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from flowdist.emulator.sql.lexer import Lexeme, line_and_position
from flowdist.emulator.sql.parser import Parser

__all__ = [
    "TRANSACTION",
    "Assign",
    "Block",
    "Cursor",
    "Declared",
    "Execute",
    "ForQuery",
    "ForRange",
    "If",
    "Leave",
    "Raise",
    "ResultSet",
    "Return",
    "Sql",
    "Statement",
    "While",
    "read_block",
]


@dataclass(frozen=True)
class Statement:
    """What every statement has: where it stands, lines from 1 and positions from 0."""

    line: int
    position: int


@dataclass(frozen=True)
class Assign(Statement):
    """``name := value``, also as LET or DECLARE with a type."""

    name: str
    type: str | None
    value: str | None
    declares: bool


@dataclass(frozen=True)
class Cursor(Statement):
    """``name CURSOR FOR query``; the query runs when the cursor is used."""

    name: str
    query: str


@dataclass(frozen=True)
class ResultSet(Statement):
    """``name RESULTSET := (query)``; the query runs at once, if there is one."""

    name: str
    query: str | None


@dataclass(frozen=True)
class Declared(Statement):
    """``name EXCEPTION (number, 'message')``."""

    name: str
    number: int
    message: str


@dataclass(frozen=True)
class Sql(Statement):
    """A statement of SQL; ``into`` are the variables of SELECT ... INTO."""

    text: str
    into: tuple[str, ...] = ()


@dataclass(frozen=True)
class Execute(Statement):
    """EXECUTE IMMEDIATE of what an expression gives, with the values of ``using`` for its ``?``."""

    text: str
    using: tuple[str, ...]


@dataclass(frozen=True)
class Return(Statement):
    """RETURN of an expression, or of the rows of a query or result set."""

    value: str | None
    table: bool


@dataclass(frozen=True)
class If(Statement):
    """Conditions with what to do; the last condition is None for ELSE."""

    branches: tuple[tuple[str | None, tuple[Statement, ...]], ...]


@dataclass(frozen=True)
class ForQuery(Statement):
    """FOR row IN cursor or result set."""

    name: str
    source: str
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class ForRange(Statement):
    """FOR number IN [REVERSE] first TO last, both included."""

    name: str
    first: str
    last: str
    reverse: bool
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class While(Statement):
    """WHILE (condition)."""

    condition: str
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Raise(Statement):
    """RAISE of a declared exception, or of the one that is being handled."""

    name: str | None


@dataclass(frozen=True)
class Leave(Statement):
    """BREAK, or CONTINUE where ``again``."""

    again: bool


@dataclass(frozen=True)
class Block(Statement):
    """``handlers`` have the names after WHEN, upper-cased, and what to do."""

    declarations: tuple[Statement, ...]
    body: tuple[Statement, ...]
    handlers: tuple[tuple[tuple[str, ...], tuple[Statement, ...]], ...] = field(default=())


_REFUSED = ("LOOP", "REPEAT", "CASE", "OPEN", "FETCH", "CLOSE", "AWAIT", "ASYNC", "CANCEL")
TRANSACTION = ("TRANSACTION", "WORK", "NAME", ";", "")
"""What follows a BEGIN that begins a transaction."""


def read_block(text: str) -> Block:
    """The block that is the whole of a text; SqlError where it is none."""
    parse = Parser(text)
    block = _block(parse)
    parse.accept(";")
    parse.end()
    return block


def _here(parse: Parser) -> tuple[int, int]:
    return line_and_position(parse.sql, parse.position())


def _block(parse: Parser) -> Block:
    here = _here(parse)
    declarations = []
    if parse.accept("DECLARE"):
        while parse.word() != "BEGIN":
            declarations.append(_declaration(parse))
    parse.expect("BEGIN")
    body = _body(parse, "EXCEPTION", "END")
    handlers = []
    if parse.accept("EXCEPTION"):
        while parse.word() == "WHEN":
            handlers.append(_handler(parse))
    parse.expect("END")
    return Block(*here, tuple(declarations), body, tuple(handlers))


def _handler(parse: Parser) -> tuple[tuple[str, ...], tuple[Statement, ...]]:
    parse.expect("WHEN")
    names = [parse.identifier()]
    while parse.accept("OR"):
        names.append(parse.identifier())
    if parse.word() in ("EXIT", "CONTINUE"):
        raise parse.unsupported()
    parse.expect("THEN")
    return tuple(names), _body(parse, "WHEN", "END")


def _body(parse: Parser, *ends: str) -> tuple[Statement, ...]:
    found = []
    while parse.word() not in ends:
        if parse.ended:
            raise parse.error()
        found.append(_statement(parse))
    return tuple(found)


def _declaration(parse: Parser) -> Statement:
    here = _here(parse)
    name = parse.identifier()
    if parse.accept("EXCEPTION"):
        number, message = -20000, ""
        if parse.accept("("):
            number = parse.integer()
            parse.expect(",")
            message = parse.text()
            parse.expect(")")
        parse.expect(";")
        return Declared(*here, name, number, message)
    return _variable(parse, here, name)


def _variable(parse: Parser, here: tuple[int, int], name: str) -> Statement:
    """What follows the name in DECLARE and LET."""
    if parse.accept("CURSOR"):
        parse.expect("FOR")
        query = _until(parse, ";")
        parse.expect(";")
        return Cursor(*here, name, query)
    if parse.accept("RESULTSET"):
        given = parse.accept_any(":=", "DEFAULT")
        if parse.word() == "ASYNC":
            raise parse.unsupported()
        rows = _until(parse, ";") if given else None
        parse.expect(";")
        return ResultSet(*here, name, rows)
    kind = _until(parse, ";", ":=", "DEFAULT") or None
    value = _until(parse, ";") if parse.accept_any(":=", "DEFAULT") else None
    parse.expect(";")
    return Assign(*here, name, kind, value, True)


def _statement(parse: Parser) -> Statement:
    here = _here(parse)
    word = parse.word()
    if word == "DECLARE" or (word == "BEGIN" and parse.word(1) not in TRANSACTION):
        block = _block(parse)
        parse.expect(";")
        return block
    if word in _REFUSED:
        raise parse.unsupported()
    reader = _READERS.get(word)
    if reader is not None:
        parse.next()
        return reader(parse, here)
    token = parse.peek()
    named = token is not None and token.kind in (Lexeme.WORD, Lexeme.QUOTED)
    if named and parse.word(1) == ":=":
        name = parse.identifier()
        parse.expect(":=")
        value = _until(parse, ";")
        parse.expect(";")
        return Assign(*here, name, None, value, False)
    if word == "EXECUTE" and parse.word(1) == "IMMEDIATE":
        return _execute(parse, here)
    return _sql(parse, here)


def _let(parse: Parser, here: tuple[int, int]) -> Statement:
    return _variable(parse, here, parse.identifier())


def _null(parse: Parser, here: tuple[int, int]) -> Statement:
    parse.expect(";")
    return If(*here, ())


def _return(parse: Parser, here: tuple[int, int]) -> Statement:
    table = parse.word() == "TABLE" and parse.word(1) == "("
    if table:
        parse.expect("TABLE")
    value = _until(parse, ";") or None
    parse.expect(";")
    return Return(*here, value, table)


def _if(parse: Parser, here: tuple[int, int]) -> Statement:
    branches: list[tuple[str | None, tuple[Statement, ...]]] = []
    condition: str | None = _parenthesis(parse)
    parse.expect("THEN")
    while True:
        branches.append((condition, _body(parse, "ELSEIF", "ELSE", "END")))
        if parse.accept("ELSEIF"):
            condition = _parenthesis(parse)
            parse.expect("THEN")
        elif parse.accept("ELSE"):
            condition = None
        else:
            break
    parse.expect("END", "IF", ";")
    return If(*here, tuple(branches))


def _for(parse: Parser, here: tuple[int, int]) -> Statement:
    name = parse.identifier()
    parse.expect("IN")
    reverse = parse.accept("REVERSE")
    first = _until(parse, "TO", "DO", "LOOP")
    last = _until(parse, "DO", "LOOP") if parse.accept("TO") else None
    body = _loop(parse, "FOR")
    if last is None:
        return ForQuery(*here, name, first, body)
    return ForRange(*here, name, first, last, reverse, body)


def _while(parse: Parser, here: tuple[int, int]) -> Statement:
    condition = _parenthesis(parse)
    return While(*here, condition, _loop(parse, "WHILE"))


def _loop(parse: Parser, word: str) -> tuple[Statement, ...]:
    by = parse.accept_any("DO", "LOOP")
    if by is None:
        raise parse.error()
    body = _body(parse, "END")
    parse.expect("END", word if by == "DO" else "LOOP")
    if parse.word() != ";":
        raise parse.unsupported()  # a label
    parse.expect(";")
    return body


def _raise(parse: Parser, here: tuple[int, int]) -> Statement:
    name = None if parse.word() == ";" else parse.identifier()
    parse.expect(";")
    return Raise(*here, name)


def _leave(parse: Parser, here: tuple[int, int]) -> Statement:
    parse.expect(";")
    return Leave(*here, False)


def _again(parse: Parser, here: tuple[int, int]) -> Statement:
    parse.expect(";")
    return Leave(*here, True)


_READERS: dict[str, Callable[[Parser, tuple[int, int]], Statement]] = {
    "LET": _let,
    "NULL": _null,
    "RETURN": _return,
    "IF": _if,
    "FOR": _for,
    "WHILE": _while,
    "RAISE": _raise,
    "BREAK": _leave,
    "EXIT": _leave,
    "CONTINUE": _again,
    "ITERATE": _again,
}


def _execute(parse: Parser, here: tuple[int, int]) -> Statement:
    parse.expect("EXECUTE", "IMMEDIATE")
    if parse.word() == "FROM":
        raise parse.unsupported()
    text = _until(parse, ";", "USING")
    using = []
    if parse.accept("USING"):
        using = [str(name) for name in parse.parenthesised(_using)]
    parse.expect(";")
    return Execute(*here, text, tuple(using))


def _using(parse: Parser) -> str:
    parse.accept(":")
    return parse.identifier()


def _sql(parse: Parser, here: tuple[int, int]) -> Statement:
    start = end = parse.position()
    gap: tuple[int, int] | None = None
    into: list[str] = []
    depth = 0
    selects = parse.word() in ("SELECT", "WITH")
    calls = parse.word() == "CALL"
    while not (parse.word() == ";" and depth == 0):
        here_word = parse.word()
        if (selects or calls) and depth == 0 and here_word == "INTO" and parse.word(1) == ":":
            begin = parse.position()
            into, end_of_gap = _into(parse)
            gap = (begin, end_of_gap)
            continue
        token = parse.next()
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        end = token.end
    parse.expect(";")
    sql = parse.sql
    if gap is None:
        return Sql(*here, sql[start:end])
    return Sql(*here, sql[start : gap[0]] + sql[gap[1] : max(end, gap[1])], tuple(into))


def _into(parse: Parser) -> tuple[list[str], int]:
    parse.expect("INTO")
    names, end = [], 0
    while True:
        parse.expect(":")
        token = parse.peek()
        names.append(parse.identifier())
        end = token.end if token else end
        if not parse.accept(","):
            return names, end


def _parenthesis(parse: Parser) -> str:
    if parse.word() != "(":
        raise parse.error()
    start = parse.position()
    depth = 0
    while True:
        token = parse.next()
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if depth == 0:
            return parse.sql[start : token.end]


def _until(parse: Parser, *ends: str) -> str:
    """The text up to one of these words outside of parentheses; the word is left."""
    start = end = parse.position()
    depth = 0
    while not (depth == 0 and parse.word() in ends):
        token = parse.next()
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        end = token.end
    return parse.sql[start:end]
