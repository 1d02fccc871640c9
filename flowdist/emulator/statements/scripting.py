"""Scripting blocks that begin with DECLARE, and EXECUTE IMMEDIATE."""

from __future__ import annotations

from typing import Any

from flowdist.emulator.errors import SqlError
from flowdist.emulator.result import Result
from flowdist.emulator.sql.lexer import Lexeme
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.statements import Context, statement
from flowdist.emulator.tasks.scripting import execute_immediate, run_block


@statement("DECLARE")
def declare(context: Context, parse: Parser) -> Result:
    """DECLARE ... BEGIN ... END."""
    return run_block(context, parse.sql)


@statement("EXECUTE", "IMMEDIATE")
def immediate(context: Context, parse: Parser) -> Result:
    """EXECUTE IMMEDIATE of a text or of a session variable, with or without USING."""
    if parse.word() == "FROM":
        raise parse.unsupported()
    text = _value(context, parse)
    values: list[Any] = []
    if parse.accept("USING"):
        values = parse.parenthesised(lambda p: _value(context, p))
    parse.end()
    return execute_immediate(context, str(text), values)


def _value(context: Context, parse: Parser) -> Any:
    token = parse.peek()
    if token is not None and token.kind is Lexeme.WORD and token.text.startswith("$"):
        parse.next()
        name = token.text[1:].upper()
        if name not in context.session.variables:
            raise SqlError(
                2211,
                "02000",
                f"SQL compilation error: error line 1 at position {token.start}\n"
                f"Session variable '${name}' does not exist",
            )
        return context.session.variables[name]
    return parse.literal()
