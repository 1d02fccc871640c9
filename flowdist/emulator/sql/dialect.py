"""sqlglot, set up for the emulator: Snowflake in, DuckDB out.

All functions are read as plain calls, so that `functions.py` alone says what each of them means and
what it does not know is refused. What sqlglot has no node for is a :class:`Template` of DuckDB SQL.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import sqlglot
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.dialects.snowflake import Snowflake
from sqlglot.errors import ParseError, TokenError

from flowdist.emulator.errors import SqlError, syntax_error, unsupported
from flowdist.emulator.types import DataType

__all__ = ["Template", "duck", "parse", "template", "type_of", "typed"]

Node = TypeVar("Node", bound=exp.Expr)

_KEPT_PARSERS = ("CAST", "TRY_CAST", "EXTRACT", "POSITION", "SUBSTRING", "TRIM")


class Template(exp.Expression):
    """DuckDB SQL with ``{0}``, ``{1}`` ... for the arguments in ``expressions``."""

    arg_types: ClassVar[dict[str, bool]] = {"text": True, "expressions": False}


class Reader(Snowflake):
    """Snowflake's dialect without sqlglot's own ideas of what functions mean."""

    class Parser(Snowflake.Parser):  # type: ignore[valid-type,misc]
        FUNCTIONS: ClassVar[dict[str, Any]] = {}
        FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
            name: parser
            for name, parser in Snowflake.Parser.FUNCTION_PARSERS.items()
            if name in _KEPT_PARSERS
        }


_SIMPLE = (
    exp.Anonymous,
    exp.Boolean,
    exp.Cast,
    exp.Column,
    exp.Literal,
    exp.Null,
    exp.Order,
    exp.Paren,
    exp.Parameter,
    exp.Placeholder,
    exp.Star,
    exp.Subquery,
    Template,
)


class Writer(DuckDB):
    """DuckDB's dialect with templates."""

    class Generator(DuckDB.Generator):  # type: ignore[valid-type,misc]
        TRANSFORMS: ClassVar[dict[Any, Any]] = {
            **DuckDB.Generator.TRANSFORMS,
            Template: lambda self, e: self.template_sql(e),
            exp.Anonymous: lambda self, e: self.func(e.name, *e.expressions, normalize=False),
            exp.Cast: lambda self, e: f"CAST({self.sql(e, 'this')} AS {self.sql(e, 'to')})",
            exp.TryCast: lambda self, e: f"TRY_CAST({self.sql(e, 'this')} AS {self.sql(e, 'to')})",
            exp.Mod: lambda self, e: self.binary(e, "%"),
            exp.Div: lambda self, e: self.binary(e, "/"),
        }

        def template_sql(self, node: Template) -> str:
            """The text with its arguments put in, in parentheses where they may need them."""
            parts = []
            for argument in node.expressions:
                text = self.sql(argument)
                parts.append(text if isinstance(argument, _SIMPLE) else f"({text})")
            return str(node.args["text"]).format(*parts)


def parse(sql: str) -> exp.Expr:
    """The tree of one statement; SqlError 1003 where it is not one."""
    try:
        found = sqlglot.parse(sql, read=Reader)
    except ParseError as error:
        raise _syntax(sql, error) from None
    except TokenError:
        raise unsupported(sql) from None
    statements = [one for one in found if one is not None]
    if len(statements) != 1:
        raise unsupported(sql)
    return statements[0]


def _syntax(sql: str, error: ParseError) -> SqlError:
    first = error.errors[0] if error.errors else {}
    line, column = first.get("line"), first.get("col")
    token = str(first.get("highlight") or "")
    if not isinstance(line, int) or not isinstance(column, int):
        return syntax_error(1, 0, token)
    return syntax_error(line, max(0, column - len(token)), token)


def duck(node: exp.Expr) -> str:
    """DuckDB SQL of a tree."""
    return str(Writer().generate(node, copy=False))


def template(text: str, *arguments: exp.Expr, type: DataType | None = None) -> Template:
    """DuckDB SQL around arguments; `type` is what it gives, where that is known."""
    made = Template(text=text, expressions=list(arguments))
    return typed(made, type)


def typed(node: Node, data_type: DataType | None) -> Node:
    """Note the Snowflake type of an expression on its node."""
    node.meta["type"] = data_type
    return node


def type_of(node: exp.Expr) -> DataType | None:
    """The Snowflake type of an expression; None where it is not known."""
    found = node.meta.get("type")
    return found if isinstance(found, DataType) else None
