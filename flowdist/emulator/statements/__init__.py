"""The statements that the emulator answers itself, a module for each kind of object.

A module registers what it serves by the words a statement begins with; modifiers between CREATE and
the kind of object are taken out before and are found in ``parse.modifiers``::

    @statement("CREATE", "COMPUTE", "POOL")
    def create_pool(context: Context, parse: Parser) -> Result: ...

SHOW and DESCRIBE work the same. `LIST` and `LS`, `REMOVE` and `RM`, `DESC` and `DESCRIBE` are one.
What no module serves goes to the SQL engine. Functions that SQL may call are registered likewise,
by :func:`scalar` (``SYSTEM$...``, evaluated once per statement, before it runs) and :func:`table`
(``TABLE(INFORMATION_SCHEMA.TASK_HISTORY(...))``, or a view such as ``INFORMATION_SCHEMA.TABLES``).
A method, as in ``my_job!SPCS_CANCEL_JOB()``, is registered as "!SPCS_CANCEL_JOB" and gets the name
before the ``!``, as it was written, for its first argument.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowdist.emulator.result import Result, Transfer
from flowdist.emulator.sql.parser import Parser

if TYPE_CHECKING:
    from flowdist.emulator.account import Account
    from flowdist.emulator.queries import Query
    from flowdist.emulator.session import Session

__all__ = [
    "SCALARS",
    "STATEMENTS",
    "TABLES",
    "Context",
    "find_statement",
    "load",
    "scalar",
    "statement",
    "table",
]


@dataclass(frozen=True)
class Context:
    """What a statement runs in, or is described in: then nothing may change, or be waited for."""

    account: Account
    session: Session
    query: Query
    describing: bool = False


Handler = Callable[[Context, Parser], Result | Transfer]
Scalar = Callable[..., Any]
"""Called with the context and the arguments as Python values; a str, number, bool or None. What is
JSON in Snowflake is returned as its text.
"""
Table = Callable[..., Result]
"""Called with the context and the arguments, those given by ``name => value`` in lower case."""

STATEMENTS: dict[tuple[str, ...], Handler] = {}
SCALARS: dict[str, Scalar] = {}
TABLES: dict[str, Table] = {}

_MODIFIERS = (
    "OR REPLACE",
    "OR ALTER",
    "TEMP",
    "TEMPORARY",
    "TRANSIENT",
    "LOCAL",
    "GLOBAL",
    "TERSE",
)
_SAME = {"DESC": "DESCRIBE", "LS": "LIST", "RM": "REMOVE"}


def statement(*words: str) -> Callable[[Handler], Handler]:
    """Register what serves the statements that begin with these words."""

    def register(handler: Handler) -> Handler:
        if words in STATEMENTS:
            raise ValueError(f"two handlers for {' '.join(words)}")
        STATEMENTS[words] = handler
        return handler

    return register


def scalar(name: str, *, acts: bool = False) -> Callable[[Scalar], Scalar]:
    """Register a function that SQL may call by this upper-case name.

    One that `acts`, that is changes something or waits, has to return text: where its statement is
    only described it is not called, and the text is empty.
    """

    def register(function: Scalar) -> Scalar:
        SCALARS[name] = _unless_described(function) if acts else function
        return function

    return register


def _unless_described(function: Scalar) -> Scalar:
    @functools.wraps(function)
    def call(context: Context, *arguments: Any) -> Any:
        return "" if context.describing else function(context, *arguments)

    return call


def table(name: str) -> Callable[[Table], Table]:
    """Register a table function or view, by its upper-case name with its schema
    (``INFORMATION_SCHEMA.TASK_HISTORY``, ``SNOWFLAKE.SPCS.GET_JOB_HISTORY``).
    """

    def register(function: Table) -> Table:
        TABLES[name] = function
        return function

    return register


def load() -> None:
    """Import every module here, so that all are registered."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


def find_statement(parse: Parser) -> Handler | None:
    """What serves a statement, its words taken from the parser; None: it is for the SQL engine."""
    first = _SAME.get(parse.word(), parse.word())
    words, skipped = [first], 1
    modifiers = set()
    if first in ("CREATE", "SHOW"):
        while True:
            found = next((m for m in _MODIFIERS if _comes(parse, skipped, m)), None)
            if found is None:
                break
            modifiers.add("TEMPORARY" if found == "TEMP" else found)
            skipped += len(found.split())
    following = [parse.word(skipped + i) for i in range(4)]
    for length in range(len(following), -1, -1):
        handler = STATEMENTS.get((*words, *following[:length]))
        if handler is not None:
            for _ in range(skipped + length):
                parse.next()
            parse.modifiers = frozenset(modifiers)
            return handler
    return None


def _comes(parse: Parser, ahead: int, modifier: str) -> bool:
    return all(parse.word(ahead + i) == word for i, word in enumerate(modifier.split()))
