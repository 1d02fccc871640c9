"""Runs blocks of Snowflake Scripting: variables here, all SQL by the account.

Statements of a block are queries of their own, in the session of the block, as in Snowflake. An
expression of scripting (``x + 1``, a condition) is evaluated by the engine and is no query.

The client of a block whose server has ended sends it again, and it runs again from its beginning.
So each statement has a request of its own, named by its text, its values and how often it has run:
what it has changed before it does not change once more.
"""

from __future__ import annotations

import hashlib
from collections import ChainMap, Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any, NoReturn

from flowdist.emulator import statements
from flowdist.emulator.errors import SqlError, compilation_error
from flowdist.emulator.queries import Query
from flowdist.emulator.result import Column, Kind, Result, rows
from flowdist.emulator.sql.lexer import tokens
from flowdist.emulator.tasks import blocks
from flowdist.emulator.tasks.blocks import Block, Statement
from flowdist.emulator.tasks.values import Row, Variable, bind, literal
from flowdist.emulator.types import TEXT

__all__ = ["execute_immediate", "is_block", "run_block"]

RESULT = "anonymous block"
"""The name of the column in which a block returns its value."""

_DML = (Kind.DML, Kind.INSERT, Kind.UPDATE, Kind.DELETE, Kind.MERGE)


def is_block(text: str) -> bool:
    """Whether a text is a block rather than a statement; BEGIN may begin a transaction."""
    found = tokens(text)
    words = [token.word for token in found[:2]]
    if not words:
        return False
    return words[0] == "DECLARE" or (
        words[0] == "BEGIN" and len(words) > 1 and words[1] not in blocks.TRANSACTION
    )


def run_block(context: statements.Context, text: str) -> Result:
    """Run a block to its end; the value it returns, or the rows. SqlError where nothing in it
    handles an error.
    """
    return _Runner(context).run(blocks.read_block(text))


def execute_immediate(context: statements.Context, text: str, binds: Sequence[Any] = ()) -> Result:
    """Run a statement or a block that is given as text."""
    if is_block(text):
        return run_block(context, text)
    return _Runner(context).statement(text, binds)


class _Returned(Exception):
    def __init__(self, result: Result) -> None:
        self.result = result


class _Left(Exception):
    def __init__(self, again: bool) -> None:
        self.again = again


class _Raised(Exception):
    """An error on its way to a handler; ``name`` is what WHEN may call it."""

    def __init__(self, name: str, at: Statement, error: SqlError) -> None:
        self.name, self.at, self.error = name, at, error

    def uncaught(self) -> SqlError:
        """As a client sees it."""
        where = f"on line {self.at.line} at position {self.at.position}"
        return SqlError(
            self.error.errno,
            self.error.sqlstate,
            f"Uncaught exception of type '{self.name}' {where} : {self.error.message}",
        )


class _Runner:
    """One block that runs, with those nested in it."""

    def __init__(self, context: statements.Context, runs: Counter[str] | None = None) -> None:
        self._context = context
        self._runs: Counter[str] = Counter() if runs is None else runs
        """How often each statement has run, those of blocks inside this one included."""
        self._scope: ChainMap[str, Any] = ChainMap()
        self._inner: Query | None = None
        self._handling: list[_Raised] = []

    def run(self, block: Block) -> Result:
        """The outermost block."""
        query = self._context.query
        query.on_stop.append(self._stop)
        self._set("SQLROWCOUNT", None)
        try:
            self._block(block)
        except _Returned as returned:
            return returned.result
        except _Raised as raised:
            query.check()
            raise raised.uncaught() from None
        except _Left:
            raise compilation_error("BREAK or CONTINUE outside of a loop.") from None
        finally:
            query.on_stop.remove(self._stop)
        return _named(rows([RESULT], [(None,)]))

    def statement(self, sql: str, binds: Sequence[Any]) -> Result:
        """Run one statement as a query of the same session; the abort of the block aborts it."""
        account, session, outer = self._context.account, self._context.session, self._context.query
        outer.check()
        query, new = account.query(session, sql, self._request(sql, binds))
        hook = self._stop not in outer.on_stop
        self._inner = query
        if hook:
            outer.on_stop.append(self._stop)
        try:
            if outer.stop.is_set():
                account.queries.abort(query)
            if new:
                account.run(session, query, binds, count=1)
            else:  # a job, for which a former server has waited: see compute/answers.py
                query.done.wait()
        finally:
            self._inner = None
            if hook:
                outer.on_stop.remove(self._stop)
        if query.error is not None:
            raise query.error
        if not isinstance(query.outcome, Result):
            raise SqlError(2, "0A000", "PUT and GET are for clients only")
        return query.outcome

    def _request(self, sql: str, binds: Sequence[Any]) -> str:
        """The request of a statement; empty where that of the block is."""
        outer = self._context.query.request_id
        if not outer:
            return ""
        name = hashlib.sha256(repr((sql, *binds)).encode()).hexdigest()[:16]
        self._runs[name] += 1
        return f"{outer}#{name}.{self._runs[name]}"

    def _stop(self) -> None:
        if self._inner is not None:
            self._context.account.queries.abort(self._inner)

    # -- blocks

    def _block(self, block: Block) -> None:
        with self._nested():
            try:
                self._all(block.declarations)
                self._all(block.body)
            except _Raised as raised:
                self._handle(block, raised)

    def _handle(self, block: Block, raised: _Raised) -> None:
        self._context.query.check()
        for names, body in block.handlers:
            if "OTHER" not in names and raised.name not in names:
                continue
            self._set("SQLCODE", raised.error.errno)
            self._set("SQLERRM", raised.error.message)
            self._set("SQLSTATE", raised.error.sqlstate)
            self._handling.append(raised)
            try:
                self._all(body)
            finally:
                self._handling.pop()
            return
        raise raised

    def _all(self, found: Sequence[Statement]) -> None:
        for one in found:
            self._context.query.check()
            try:
                self._one(one)
            except SqlError as error:
                kind = "EXPRESSION_ERROR" if isinstance(one, _EXPRESSIONS) else "STATEMENT_ERROR"
                raise _Raised(kind, one, error) from None

    @contextmanager
    def _nested(self) -> Iterator[None]:
        self._scope = self._scope.new_child()
        try:
            yield
        finally:
            self._scope = self._scope.parents

    # -- statements

    def _one(self, one: Statement) -> None:
        match one:
            case blocks.Assign():
                self._assign(one)
            case blocks.Sql():
                self._sql(one)
            case blocks.Execute():
                text = str(self._value(one.text).value)
                values = [bind(f":{name}", self._scope, False)[1][0] for name in one.using]
                self._counted(self._immediate(text, values))
            case blocks.Return():
                raise _Returned(self._returned(one))
            case blocks.If():
                self._if(one)
            case blocks.ForQuery() | blocks.ForRange():
                self._for(one)
            case blocks.While():
                while self._true(one.condition) and self._turn(one.body):
                    pass
            case blocks.Raise():
                self._raise(one)
            case blocks.Leave():
                raise _Left(one.again)
            case Block():
                self._block(one)
            case blocks.Cursor() | blocks.Declared():
                self._scope[one.name] = one
            case blocks.ResultSet():
                self._scope[one.name] = None if one.query is None else self._query(one.query)
            case _:
                raise compilation_error(f"unknown statement {one}")

    def _assign(self, one: blocks.Assign) -> None:
        known = self._scope.get(one.name)
        if not one.declares and one.name not in self._scope:
            raise compilation_error(
                f"error line {one.line} at position {one.position}\n"
                f"invalid identifier '{one.name}'",
                904,
                "42000",
            )
        if not one.declares and (known is None or isinstance(known, Result)):
            self._put(one.name, self._query(one.value or ""))
            return
        kind = one.type
        if not one.declares and isinstance(known, Variable):
            kind = known.declared
        made = Variable(None) if one.value is None else self._value(one.value)
        if kind is not None:
            made = self._cast(made, kind)
        if one.declares:
            self._scope[one.name] = made
        else:
            self._put(one.name, made)

    def _sql(self, one: blocks.Sql) -> None:
        text, values = bind(one.text, self._scope, False)
        result = self._counted(self.statement(text, values))
        if not one.into:
            return
        found = result.rows()
        if len(found) != 1 or len(found[0]) != len(one.into):
            raise SqlError(
                90150, "22000", "A SELECT INTO statement expects exactly 1 returned row."
            )
        for name, value, column in zip(one.into, found[0], result.columns, strict=True):
            known = self._scope.get(name)
            made = Variable(value, None, column.type.name)
            if isinstance(known, Variable) and known.declared is not None:
                made = self._cast(made, known.declared)
            self._put(name, made)

    def _returned(self, one: blocks.Return) -> Result:
        if one.table:
            return self._query(one.value or "")
        if one.value is None:
            return _named(rows([RESULT], [(None,)]))
        text, values = bind(one.value, self._scope, True)
        whole = _inside(one.value)
        if whole is not None:
            return _named(self._query(one.value))
        return _named(self._evaluate(f"SELECT {text}", values))

    def _if(self, one: blocks.If) -> None:
        for condition, body in one.branches:
            if condition is None or self._true(condition):
                self._all(body)
                return

    def _for(self, one: blocks.ForQuery | blocks.ForRange) -> None:
        for value in self._turns(one):
            with self._nested():
                self._scope[one.name] = value
                if not self._turn(one.body):
                    return

    def _turns(self, one: blocks.ForQuery | blocks.ForRange) -> Iterator[Any]:
        if isinstance(one, blocks.ForRange):
            first, last = (int(self._value(text).value) for text in (one.first, one.last))
            numbers = range(first, last + 1)
            for number in reversed(numbers) if one.reverse else numbers:
                yield Variable(number, None, "FIXED")
            return
        result = self._query(one.source)
        for values in result.rows():
            yield Row(
                {
                    column.name.upper() if column.name.islower() else column.name: Variable(
                        value, None, column.type.name
                    )
                    for column, value in zip(result.columns, values, strict=True)
                }
            )

    def _turn(self, body: Sequence[Statement]) -> bool:
        """Run the body of a loop once; whether the loop goes on."""
        self._context.query.check()  # the body may be empty
        try:
            self._all(body)
        except _Left as left:
            return left.again
        return True

    def _raise(self, one: blocks.Raise) -> NoReturn:
        if one.name is None:
            if not self._handling:
                raise compilation_error("RAISE without a name outside of an exception handler.")
            raise self._handling[-1]
        declared = self._scope.get(one.name)
        if not isinstance(declared, blocks.Declared):
            raise compilation_error(f"Exception '{one.name}' is not declared.")
        error = SqlError(declared.number, "P0001", declared.message)
        raise _Raised(one.name, one, error)

    # -- values

    def _value(self, text: str) -> Variable:
        """What an expression gives."""
        simple, value = literal(text)
        if simple:
            kind = "TEXT" if isinstance(value, str) else "FIXED"
            return Variable(value, None, "BOOLEAN" if isinstance(value, bool) else kind)
        if _inside(text) is not None:
            result = self._query(text)
        else:
            bound, values = bind(text, self._scope, True)
            result = self._evaluate(f"SELECT {bound}", values)
        found = result.rows()
        if len(found) > 1:
            raise SqlError(90150, "22000", "Single-row subquery returns more than one row.")
        return Variable(found[0][0] if found else None, None, result.columns[0].type.name)

    def _true(self, condition: str) -> bool:
        return bool(self._value(condition).value)

    def _cast(self, made: Variable, kind: str) -> Variable:
        text, values = bind(":x", {"X": made}, False)
        result = self._evaluate(f"SELECT CAST({text} AS {kind})", values)
        return Variable(result.rows()[0][0], kind, result.columns[0].type.name)

    def _query(self, text: str) -> Result:
        """The rows of a query in parentheses or not, of a cursor, or of a result set."""
        inside = _inside(text) or text
        found = tokens(inside)
        named = [t.text.upper() for t in found if t.text not in ("(", ")", ":")]
        known = self._scope.get(named[0]) if len(named) == 1 else None
        if isinstance(known, Result):
            return known
        if isinstance(known, blocks.Cursor):
            return self._query(known.query)
        words = [token.word for token in found[:2]]
        if words == ["EXECUTE", "IMMEDIATE"]:
            statement = blocks.read_block(f"BEGIN {inside}; END").body[0]
            if isinstance(statement, blocks.Execute):
                values = [bind(f":{n}", self._scope, False)[1][0] for n in statement.using]
                return self._immediate(str(self._value(statement.text).value), values)
        if words[:1] not in (["SELECT"], ["WITH"], ["CALL"], ["SHOW"], ["DESCRIBE"], ["DESC"]):
            raise compilation_error(f"'{inside}' is neither a query nor a RESULTSET or CURSOR.")
        bound, values = bind(inside, self._scope, False)
        return self.statement(bound, values)

    def _immediate(self, text: str, values: Sequence[Any]) -> Result:
        if is_block(text):
            return _Runner(self._context, self._runs).run(blocks.read_block(text))
        return self.statement(text, values)

    def _evaluate(self, sql: str, values: Sequence[Any]) -> Result:
        account, session = self._context.account, self._context.session
        silent = replace(self._context.query, text=sql)
        return account.engine.run(statements.Context(account, session, silent), sql, values)

    def _counted(self, result: Result) -> Result:
        count = None
        if result.kind in _DML:
            numbers = [v for v in result.rows()[0] if isinstance(v, (int, Decimal))]
            count = int(sum(numbers))
        self._set("SQLROWCOUNT", count)
        return result

    def _set(self, name: str, value: Any) -> None:
        kind = "TEXT" if isinstance(value, str) else "FIXED"
        self._scope.maps[-1][name] = Variable(value, None, kind)

    def _put(self, name: str, value: Any) -> None:
        """Assign to a variable where it was declared."""
        for scope in self._scope.maps:
            if name in scope:
                scope[name] = value
                return
        raise compilation_error(f"invalid identifier '{name}'", 904, "42000")


_EXPRESSIONS = (blocks.Assign, blocks.Return, blocks.If, blocks.While)


def _inside(text: str) -> str | None:
    """The query in parentheses that is the whole of a text, if it is one."""
    found = tokens(text)
    if len(found) < 3 or found[0].text != "(" or found[-1].text != ")":
        return None
    if found[1].word not in ("SELECT", "WITH", "CALL", "EXECUTE", "SHOW"):
        return None
    depth = 0
    for token in found[:-1]:
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if depth == 0:
            return None
    return text[found[1].start : found[-1].start].rstrip().rstrip(";").rstrip()


def _named(result: Result) -> Result:
    column = result.columns[0] if result.columns else Column(RESULT, TEXT)
    table = result.table.select([0]).slice(0, 1)
    return Result((replace(column, name=RESULT),), table)
