"""The values that a statement gets: binds, constants, what registered functions answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlglot import exp

from flowdist.emulator.errors import SqlError, compilation_error, unsupported
from flowdist.emulator.names import FullName
from flowdist.emulator.result import Result
from flowdist.emulator.session import Session
from flowdist.emulator.sql import datatypes
from flowdist.emulator.sql.binder import Binder, Environment
from flowdist.emulator.sql.connection import Connection
from flowdist.emulator.sql.dialect import duck
from flowdist.emulator.sql.expressions import Expressions
from flowdist.emulator.sql.parameters import Bind, Call, Constant, Now, Parameter
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.sql.scopes import Scope
from flowdist.emulator.sql.tables import TableInfo

if TYPE_CHECKING:
    from flowdist.emulator.sql.engine import Engine
    from flowdist.emulator.statements import Context

__all__ = ["Evaluation"]


class Evaluation:
    """What one run of a statement asks for. ``piped`` are the results before it in ``->>``."""

    def __init__(
        self,
        engine: Engine,
        context: Context,
        connection: Connection,
        binds: Sequence[Any],
        piped: list[Result] | None = None,
    ) -> None:
        self.engine = engine
        self.context = context
        self.connection = connection
        self.binds = binds
        self.piped = piped
        self.now = datetime.fromtimestamp(engine.clock.time(), UTC)

    def environment(self) -> Environment:
        """What the translation of a statement depends on."""
        session = self.context.session
        return Environment(
            database=session.database,
            schema=session.schema,
            mapping=str(session.parameter("TIMESTAMP_TYPE_MAPPING")),
            formats=_output_formats(session),
            bind_types=tuple(datatypes.from_value(value) for value in self.binds),
            find=self.find,
            view=self.engine.view_query,
            call_table=self.call_table,
            scalar=_is_scalar,
            constant=self.constant,
            variable=self.variable,
            name_in=lambda text: Parser("").name_in(text),
            piped=self.piped_result,
        )

    # -- names

    def find(
        self, parts: tuple[str, ...], database: str | None, schema: str | None, *kinds: str
    ) -> TableInfo | None:
        """The table of a name, as a session with that database and schema sees it."""
        *above, name = parts
        database = above[-2] if len(above) == 2 else database
        schema = above[-1] if above else schema
        if database is None or schema is None:
            return None
        full = FullName(database, schema, name)
        return self.engine.find(self.context.session, full, *kinds)

    def variable(self, name: str) -> Any:
        """The value of a session variable."""
        found = self.context.session.variables
        if name not in found:
            raise SqlError(
                2211,
                "02000",
                "SQL compilation error: error line 1 at position 0\n"
                f"Session variable '${name}' does not exist",
            )
        return found[name]

    def piped_result(self, number: int) -> Result:
        """What ``$1`` stands for after FROM: the statement before this one."""
        if self.piped is None or not 1 <= number <= len(self.piped):
            raise unsupported(f"FROM ${number}")
        return self.piped[number - 1]

    # -- calls

    def call_table(self, name: str, arguments: list[Any], named: dict[str, Any]) -> Result | None:
        """Call a registered table function, or RESULT_SCAN."""
        from flowdist.emulator.statements import TABLES

        if name == "RESULT_SCAN":
            return self.result_scan(*arguments)
        found = TABLES.get(name)
        if found is None:
            return None
        _check_arguments(name, found, arguments, named)
        return found(self.context, *arguments, **named)

    def result_scan(self, query_id: Any = None, *rest: Any) -> Result:
        """The rows of a query that has run."""
        if not isinstance(query_id, str) or rest:
            raise unsupported("RESULT_SCAN of something other than the id of a query")
        query = self.context.account.queries.find(query_id)
        if query is None or query.user != self.context.session.user:
            raise SqlError(709, "02000", f"Statement {query_id} not found")
        if query.error is not None:
            raise query.error
        if not isinstance(query.outcome, Result):
            raise unsupported(f"RESULT_SCAN of the query {query_id}, which has no rows")
        return query.outcome

    # -- values

    def values(self, parameters: Sequence[Parameter]) -> list[Any]:
        """What parameters are, in their order."""
        return [self.value(parameter) for parameter in parameters]

    def value(self, parameter: Parameter) -> Any:
        """What a parameter is."""
        if isinstance(parameter, Bind):
            return _plain(self.binds[parameter.position])
        if isinstance(parameter, Now):
            return self.now
        if isinstance(parameter, Constant):
            values = self.values(parameter.parameters)
            return self.connection.value(parameter.sql, values)
        assert isinstance(parameter, Call)
        return self.call(parameter)

    def call(self, what: Call) -> Any:
        """Call a registered function."""
        from flowdist.emulator.statements import SCALARS

        arguments = [
            self.value(argument) if isinstance(argument, Parameter) else argument
            for argument in what.arguments
        ]
        function = SCALARS[what.name]
        _check_arguments(what.name, function, arguments, {})
        return function(self.context, *arguments)

    def constant(self, node: exp.Expr) -> Any:
        """The value of a constant expression, as a Python value."""
        if node.find(exp.Column) is not None:
            raise unsupported(f"{node.sql('snowflake')} as an argument: it is not a constant")
        binder = Binder(self.environment())
        made = Expressions(binder)(node.copy(), Scope(), raw=False)
        if "literal" in made.meta:
            return made.meta["literal"]
        return self.connection.value(f"SELECT {duck(made)}", self.values(binder.parameters))


_OUTPUT = {
    "DATE": ("DATE_OUTPUT_FORMAT",),
    "TIME": ("TIME_OUTPUT_FORMAT",),
    "TIMESTAMP_NTZ": ("TIMESTAMP_NTZ_OUTPUT_FORMAT", "TIMESTAMP_OUTPUT_FORMAT"),
    "TIMESTAMP_LTZ": ("TIMESTAMP_LTZ_OUTPUT_FORMAT", "TIMESTAMP_OUTPUT_FORMAT"),
    "TIMESTAMP_TZ": ("TIMESTAMP_TZ_OUTPUT_FORMAT", "TIMESTAMP_OUTPUT_FORMAT"),
}
"""The parameters by which values of a type become text: the first one that is not empty."""


def _output_formats(session: Session) -> tuple[tuple[str, str], ...]:
    if not any(name in session.parameters for names in _OUTPUT.values() for name in names):
        return ()
    found = [
        (kind, next((m for m in map(session.parameter, names) if m), "AUTO"))
        for kind, names in _OUTPUT.items()
    ]
    return tuple((kind, str(model)) for kind, model in found if str(model).upper() != "AUTO")


_signature = lru_cache(maxsize=None)(inspect.signature)


def _check_arguments(
    name: str, function: Callable[..., Any], given: list[Any], named: dict[str, Any]
) -> None:
    """SqlError where a registered function does not have these arguments."""
    signature = _signature(function)
    try:
        signature.bind(None, *given, **named)
    except TypeError:
        known = list(signature.parameters.values())[1:]
        count = len(given) + len(named)
        least = sum(p.default is p.empty and p.kind in _REQUIRED for p in known)
        where = f"for function [{name.rpartition('!')[2]}({', '.join(map(repr, given))})]"
        odd = next((n for n in named if n not in signature.parameters), None)
        if odd is not None:
            raise compilation_error(
                f"invalid argument for function {name.rpartition('.')[2]}: {odd.upper()}"
            ) from None
        if count < least:
            errno, what = 938, f"not enough arguments {where}, expected {least}, got {count}"
        else:
            errno, what = 939, f"too many arguments {where}, expected {len(known)}, got {count}"
        raise SqlError(
            errno, "22023", f"SQL compilation error: error line 1 at position 0\n{what}"
        ) from None


_REQUIRED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _is_scalar(name: str) -> bool:
    from flowdist.emulator.statements import SCALARS

    return name in SCALARS


def _plain(value: Any) -> Any:
    """A bound value as DuckDB takes it: a TIMESTAMP_TZ is an instant with its offset."""
    if not isinstance(value, datetime) or value.tzinfo in (None, UTC):
        return value
    offset = value.utcoffset() or timedelta()
    return {"t": value.astimezone(UTC), "o": int(offset.total_seconds()) // 60}
