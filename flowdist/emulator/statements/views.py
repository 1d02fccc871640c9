"""Views and sequences."""

from __future__ import annotations

from dataclasses import replace

from flowdist.emulator.errors import SqlError
from flowdist.emulator.grants import Table
from flowdist.emulator.names import FullName, shown
from flowdist.emulator.result import Result, message
from flowdist.emulator.sql import ddl
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.sql.tables import TableInfo
from flowdist.emulator.statements import Context, statement
from flowdist.emulator.statements.creating import replacing
from flowdist.emulator.statements.tables import drop, free, require_if, require_owner, resolve

__all__ = ["create_sequence", "create_view"]


def _new(context: Context, kind: str, name: FullName) -> TableInfo:
    account = context.account
    account.access.require_create(context.session, kind, name)
    return TableInfo(
        id=account.engine.index.new_id(),
        name=name,
        kind=kind,
        owner=account.access.owner_role(context.session),
        created_on=account.clock.time(),
    )


@statement("CREATE", "VIEW")
def create_view(context: Context, parse: Parser) -> Result:
    """CREATE [OR REPLACE] VIEW [IF NOT EXISTS] name [(columns)] [COMMENT = '...'] AS query."""
    text = parse.sql.strip()
    replace_ = replacing(parse)
    if_not_exists = parse.if_not_exists()
    info = _new(context, "VIEW", resolve(context, parse.name()))
    names = parse.parenthesised(_view_column) if parse.word() == "(" else []
    comment = ""
    if parse.accept("COMMENT"):
        parse.expect("=")
        comment = parse.text()
    if parse.word() in ("COPY", "WITH", "CHANGE_TRACKING"):
        raise parse.unsupported()
    parse.expect("AS")
    info = replace(info, comment=comment, text=text, query=parse.rest())
    old, answer = free(context, info, replace_, if_not_exists)
    if answer is not None:
        return answer
    ddl.create_view(context, info, names, old)
    if old is not None:
        context.account.access.dropped(Table.of(old))
    return message(f"View {shown(info.name.name)} successfully created.")


def _view_column(parse: Parser) -> tuple[str, str]:
    name = parse.identifier()
    comment = ""
    if parse.accept("COMMENT"):
        parse.accept("=")
        comment = parse.text()
    return name, comment


@statement("DROP", "VIEW")
def drop_view(context: Context, parse: Parser) -> Result:
    """DROP VIEW [IF EXISTS] name."""
    return drop(context, parse, "VIEW")


@statement("ALTER", "VIEW")
def alter_view(context: Context, parse: Parser) -> Result:
    """ALTER VIEW [IF EXISTS] name { RENAME TO name | SET COMMENT = '...' | UNSET COMMENT }."""
    return _alter(context, parse, "VIEW")


def _alter(context: Context, parse: Parser, kind: str) -> Result:
    if_exists = parse.if_exists()
    info = require_if(context, resolve(context, parse.name(), "ALTER"), kind, if_exists)
    if info is None:
        return message("Statement executed successfully.")
    require_owner(context, info)
    if parse.accept("RENAME", "TO") and kind == "VIEW":
        target = resolve(context, parse.name(), "ALTER")
        parse.end()
        context.account.access.require_create(context.session, kind, target)
        ddl.rename_table(context, info, target)
    elif parse.accept("SET", "COMMENT"):
        parse.expect("=")
        changed = replace(info, comment=parse.text())
        parse.end()
        ddl.alter_table(context, info, changed, [])
    elif parse.accept("UNSET", "COMMENT"):
        parse.end()
        ddl.alter_table(context, info, replace(info, comment=""), [])
    else:
        raise parse.unsupported()
    return message("Statement executed successfully.")


# -- sequences


@statement("CREATE", "SEQUENCE")
def create_sequence(context: Context, parse: Parser) -> Result:
    """CREATE [OR REPLACE] SEQUENCE [IF NOT EXISTS] name [START n] [INCREMENT n] [ORDER | NOORDER]
    [COMMENT = '...'].
    """
    replace_ = replacing(parse)
    if_not_exists = parse.if_not_exists()
    info = _new(context, "SEQUENCE", resolve(context, parse.name()))
    parse.accept("WITH")
    while not parse.ended and parse.word() != ";":
        if parse.accept("START"):
            parse.accept("WITH")
            parse.accept("=")
            info = replace(info, start=parse.integer())
        elif parse.accept("INCREMENT"):
            parse.accept("BY")
            parse.accept("=")
            info = replace(info, increment=parse.integer())
        elif parse.word() in ("ORDER", "NOORDER"):
            info = replace(info, ordered=parse.next().word == "ORDER")
        elif parse.accept("COMMENT"):
            parse.expect("=")
            info = replace(info, comment=parse.text())
        else:
            raise parse.error()
    parse.end()
    if info.increment == 0:
        raise SqlError(1008, "22023", "SQL compilation error:\ninvalid value [0] for INCREMENT")
    old, answer = free(context, info, replace_, if_not_exists)
    if answer is not None:
        return answer
    ddl.create_sequence(context, info, old)
    if old is not None:
        context.account.access.dropped(Table.of(old))
    return message(f"Sequence {shown(info.name.name)} successfully created.")


@statement("DROP", "SEQUENCE")
def drop_sequence(context: Context, parse: Parser) -> Result:
    """DROP SEQUENCE [IF EXISTS] name."""
    return drop(context, parse, "SEQUENCE")


@statement("ALTER", "SEQUENCE")
def alter_sequence(context: Context, parse: Parser) -> Result:
    """ALTER SEQUENCE [IF EXISTS] name { SET COMMENT = '...' | UNSET COMMENT }."""
    return _alter(context, parse, "SEQUENCE")
