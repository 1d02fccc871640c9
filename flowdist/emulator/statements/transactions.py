"""BEGIN, COMMIT, ROLLBACK, and what is open and locked."""

from __future__ import annotations

from collections.abc import Sequence

from flowdist.emulator.result import Kind, Result, message, rows
from flowdist.emulator.sql.lexer import Lexeme
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.statements import Context, statement
from flowdist.emulator.statements.showing import moment
from flowdist.emulator.types import LTZ, DataType

__all__ = ["DONE"]

Columns = Sequence[str | tuple[str, DataType]]
DONE = "Statement executed successfully."


@statement("BEGIN")
def begin(context: Context, parse: Parser) -> Result:
    """BEGIN [WORK | TRANSACTION] [NAME name]; anything else after BEGIN is a scripting block."""
    if parse.word() not in ("", ";", "WORK", "TRANSACTION", "NAME"):
        from flowdist.emulator.tasks.scripting import run_block

        return run_block(context, parse.sql)
    parse.accept_any("WORK", "TRANSACTION")
    return _begin(context, parse)


@statement("START", "TRANSACTION")
def start(context: Context, parse: Parser) -> Result:
    """START TRANSACTION [NAME name]."""
    return _begin(context, parse)


def _begin(context: Context, parse: Parser) -> Result:
    name = ""
    if parse.accept("NAME"):
        token = parse.peek()
        quoted = token is not None and token.kind is Lexeme.STRING
        name = parse.text() if quoted else parse.identifier()
    parse.end()
    context.account.engine.begin(context.session, name)
    return message(DONE, Kind.TCL)


@statement("COMMIT")
def commit(context: Context, parse: Parser) -> Result:
    """COMMIT [WORK]."""
    parse.accept("WORK")
    parse.end()
    engine, request_id = context.account.engine, context.query.request_id
    if engine.did(request_id):
        engine.rollback(context.session)  # what a script that came again has done once more
    else:
        engine.commit(context.session, request_id)
    return message(DONE, Kind.TCL)


@statement("ROLLBACK")
def rollback(context: Context, parse: Parser) -> Result:
    """ROLLBACK [WORK]."""
    parse.accept("WORK")
    parse.end()
    context.account.engine.rollback(context.session)
    return message(DONE, Kind.TCL)


@statement("SHOW", "TRANSACTIONS")
def show_transactions(context: Context, parse: Parser) -> Result:
    """SHOW TRANSACTIONS [IN ACCOUNT]: those of the session's user, or all."""
    everybody = parse.accept("IN", "ACCOUNT")
    parse.end()
    account = context.account
    found = []
    for session_id, transaction in account.engine.open_transactions():
        session = account.sessions.get(session_id)
        if session is None or (not everybody and session.user != context.session.user):
            continue
        found.append(
            (
                str(transaction.id),
                session.user,
                str(session.id),
                transaction.name or str(transaction.id),
                moment(transaction.started),
                "running",
                None,
            )
        )
    columns: Columns = ["id", "user", "session", "name", ("started_on", LTZ), "state", "scope"]
    return rows(columns, found)


@statement("SHOW", "LOCKS")
def show_locks(context: Context, parse: Parser) -> Result:
    """SHOW LOCKS [IN ACCOUNT]: what is locked by the session's user, or by anyone."""
    everybody = parse.accept("IN", "ACCOUNT")
    parse.end()
    account = context.account
    sessions = dict(account.engine.open_transactions())
    owners = {id(t): session_id for session_id, t in sessions.items()}
    found = []
    for table, owner, whole in account.engine.locks.held():
        session = account.sessions.get(owners.get(id(owner), -1))
        if session is None or (not everybody and session.user != context.session.user):
            continue
        transaction = sessions[session.id]
        started = moment(transaction.started)
        kind = "PARTITIONS" if whole else "ROW"
        found.append(
            (str(table), kind, str(transaction.id), started, "HOLDING", started, None, session.id)
        )
    columns: Columns = [
        "resource",
        "type",
        "transaction",
        ("transaction_started_on", LTZ),
        "status",
        ("acquired_on", LTZ),
        "query_id",
        "session",
    ]
    return rows(columns, [(*row[:-1], str(row[-1])) for row in found])
