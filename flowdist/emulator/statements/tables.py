"""CREATE, ALTER, DROP and TRUNCATE of tables, standard and hybrid, and their indexes."""

from __future__ import annotations

from dataclasses import replace

from flowdist.emulator.errors import SqlError, compilation_error, does_not_exist, unsupported
from flowdist.emulator.grants import Table
from flowdist.emulator.names import FullName, quoted, shown
from flowdist.emulator.result import Result, message
from flowdist.emulator.sql import ddl, definitions
from flowdist.emulator.sql.datatypes import read_type
from flowdist.emulator.sql.parser import Parser, Reader
from flowdist.emulator.sql.tables import ColumnInfo, TableInfo
from flowdist.emulator.statements import Context, statement
from flowdist.emulator.statements.creating import already_there, replacing

__all__ = ["drop", "free", "require", "require_if", "require_owner", "resolve"]


def resolve(context: Context, parts: tuple[str, ...], verb: str = "CREATE") -> FullName:
    """The full name of a table, view or sequence."""
    return context.session.resolve(parts, verb)


def require(context: Context, name: FullName, kind: str) -> TableInfo:
    """The table, view or sequence of that name that the session may see; SqlError 2003."""
    engine = context.account.engine
    info = engine.find(context.session, name, kind)
    if info is None:
        other = engine.find(context.session, name)
        if other is not None and kind in ("TABLE", "VIEW"):
            raise compilation_error(
                f"Object found is of type '{other.kind}', not specified type '{kind}'.", 1506
            )
        raise does_not_exist(kind, name)
    if not info.temporary:
        context.account.access.require_visible(context.session, Table.of(info))
    return info


def require_if(context: Context, name: FullName, kind: str, if_exists: bool) -> TableInfo | None:
    """The same; None where it is not there and IF EXISTS was said."""
    try:
        return require(context, name, kind)
    except SqlError as missing:
        if not if_exists or missing.errno != 2003:
            raise
        return None


def require_owner(context: Context, info: TableInfo) -> None:
    """SqlError 3001 where the session does not own a table, view or sequence."""
    if not info.temporary:
        context.account.access.require_owner(context.session, Table.of(info))


def free(
    context: Context, info: TableInfo, replace_: bool, if_not_exists: bool
) -> tuple[TableInfo | None, Result | None]:
    """What a new object replaces; and the answer to give at once where it is there and IF NOT
    EXISTS was said. SqlError 2002 where the name is taken.
    """
    if replace_ and if_not_exists:
        raise compilation_error("options IF NOT EXISTS and OR REPLACE are incompatible.", 1003)
    engine = context.account.engine
    kinds = ("SEQUENCE",) if info.kind == "SEQUENCE" else ("TABLE", "VIEW")
    if info.temporary:
        old = engine.connection(context.session).temporary.get(info.name)
    else:
        old = engine.index.find(info.name, *kinds)
    if old is None:
        if not info.temporary:
            engine.index.check_free(info)
        return None, None
    if if_not_exists:
        return None, already_there(info.name.name)
    if not replace_ or old.kind != info.kind:
        engine.index.check_free(replace(info, temporary=False))
        raise SqlError(
            2002, "42710", f"SQL compilation error:\nObject '{info.name}' already exists."
        )
    require_owner(context, old)
    return old, None


# -- CREATE TABLE


def _only(name: str, default: int | bool) -> Reader:
    """A reader of a property that has no effect here, so that only its default is taken."""

    def read(parse: Parser) -> int | bool:
        value = parse.boolean() if isinstance(default, bool) else parse.integer()
        if value != default:
            raise unsupported(f"{name} = {str(value).upper()}")
        return value

    return read


_DEFAULTS: dict[str, int | bool] = {
    "DATA_RETENTION_TIME_IN_DAYS": 1,
    "MAX_DATA_EXTENSION_TIME_IN_DAYS": 14,
    "CHANGE_TRACKING": False,
    "ENABLE_SCHEMA_EVOLUTION": False,
}
_OPTIONS: dict[str, Reader] = {
    "COMMENT": Parser.text,
    **{name: _only(name, default) for name, default in _DEFAULTS.items()},
}


@statement("CREATE", "TABLE")
def create_table(context: Context, parse: Parser) -> Result:
    """CREATE [OR REPLACE] [TEMPORARY | TRANSIENT] TABLE [IF NOT EXISTS] name (...) | AS | LIKE."""
    return _create(context, parse, hybrid=False)


@statement("CREATE", "HYBRID", "TABLE")
def create_hybrid_table(context: Context, parse: Parser) -> Result:
    """CREATE [OR REPLACE] HYBRID TABLE [IF NOT EXISTS] name (...) [AS SELECT ...]."""
    return _create(context, parse, hybrid=True)


def _create(context: Context, parse: Parser, hybrid: bool) -> Result:
    replace_ = replacing(parse, "TEMPORARY", "TRANSIENT", "LOCAL", "GLOBAL")
    temporary = bool(parse.modifiers & {"TEMPORARY", "LOCAL", "GLOBAL"})
    if_not_exists = parse.if_not_exists()
    name = resolve(context, parse.name())
    account, session = context.account, context.session
    if temporary:
        account.access.schema(session, name.database, name.schema)
    else:
        account.access.require_create(session, "HYBRID TABLE" if hybrid else "TABLE", name)
    now = account.clock.time()
    info = TableInfo(
        id=account.engine.index.new_id(),
        name=name,
        kind="TABLE",
        owner=account.access.owner_role(session),
        created_on=now,
        hybrid=hybrid,
        temporary=temporary,
        transient="TRANSIENT" in parse.modifiers,
    )
    mapping = str(session.parameter("TIMESTAMP_TYPE_MAPPING"))
    if parse.word() == "(":
        made = definitions.read_definition(parse, mapping, name.name, now)
        info = replace(
            info,
            columns=tuple(_checked(context, column) for column in made.columns),
            constraints=tuple(made.constraints),
            indexes=tuple(made.indexes),
        )
    elif parse.accept("LIKE"):
        info = _like(context, parse, info)
    elif parse.word() in ("CLONE", "USING", "BACKUP", "FROM"):
        raise parse.unsupported()
    options = parse.properties(_OPTIONS)
    info = replace(info, comment=options.get("COMMENT", ""))
    query = parse.rest() if parse.accept("AS") else ""
    if not query:
        if not parse.ended and parse.word() != ";":
            raise parse.unsupported()
        parse.end()
    if query and not info.columns and hybrid:
        raise compilation_error("CREATE HYBRID TABLE ... AS SELECT has to list the columns.")
    old, answer = free(context, info, replace_, if_not_exists)
    if answer is not None:
        return answer
    ddl.create_table(context, info, old, query, parse.binds)
    if old is not None and not old.temporary:
        account.access.dropped(Table.of(old))
    return message(f"Table {shown(name.name)} successfully created.")


def _checked(context: Context, column: ColumnInfo) -> ColumnInfo:
    """A column whose default makes sense."""
    if column.default is None:
        return column
    ddl.check_default(context, column.default)
    return replace(column, default=definitions.shown_default(column.default))


def _like(context: Context, parse: Parser, info: TableInfo) -> TableInfo:
    """The definition of another table, without its rows."""
    source = require(context, resolve(context, parse.name()), "TABLE")
    if source.hybrid != info.hybrid:
        raise compilation_error("LIKE needs a table of the same kind.")
    columns = tuple(
        replace(column, sequence=definitions.sequence_name()) if column.sequence else column
        for column in source.columns
    )
    return replace(info, columns=columns, constraints=source.constraints, indexes=source.indexes)


# -- DROP, TRUNCATE


@statement("DROP", "TABLE")
def drop_table(context: Context, parse: Parser) -> Result:
    """DROP TABLE [IF EXISTS] name [CASCADE | RESTRICT]."""
    return drop(context, parse, "TABLE")


def drop(context: Context, parse: Parser, kind: str) -> Result:
    """DROP of a table, view or sequence."""
    if_exists = parse.if_exists()
    name = resolve(context, parse.name(), "DROP")
    parse.accept_any("CASCADE", "RESTRICT")
    parse.end()
    info = require_if(context, name, kind, if_exists)
    if info is None:
        return message(
            f"Drop statement executed successfully ({shown(name.name)} already dropped)."
        )
    require_owner(context, info)
    ddl.drop_table(context, info)
    if not info.temporary:
        context.account.access.dropped(Table.of(info))
    return message(f"{shown(name.name)} successfully dropped.")


@statement("TRUNCATE")
def truncate(context: Context, parse: Parser) -> Result:
    """TRUNCATE [TABLE] [IF EXISTS] name."""
    parse.accept("TABLE")
    if_exists = parse.if_exists()
    name = resolve(context, parse.name(), "TRUNCATE")
    parse.end()
    info = require_if(context, name, "TABLE", if_exists)
    if info is None:
        return message("Statement executed successfully.")
    if not info.temporary:
        context.account.access.require_any(
            context.session, ("TRUNCATE", "DELETE", "OWNERSHIP"), Table.of(info)
        )
    ddl.truncate(context, info)
    return message("Statement executed successfully.")


# -- ALTER TABLE


@statement("ALTER", "TABLE")
def alter_table(context: Context, parse: Parser) -> Result:
    """ALTER TABLE [IF EXISTS] name: columns are added, dropped, renamed; RENAME TO; SET COMMENT."""
    if_exists = parse.if_exists()
    info = require_if(context, resolve(context, parse.name(), "ALTER"), "TABLE", if_exists)
    if info is None:
        return message("Statement executed successfully.")
    require_owner(context, info)
    _alter(context, parse, info)
    return message("Statement executed successfully.")


def _alter(context: Context, parse: Parser, info: TableInfo) -> None:
    if parse.word() == "ADD" and parse.word(1) not in ("CONSTRAINT", "PRIMARY", "UNIQUE"):
        return _add_columns(context, parse, info)
    if parse.word() == "DROP" and parse.word(1) not in ("CONSTRAINT", "PRIMARY", "UNIQUE"):
        return _drop_columns(context, parse, info)
    if parse.accept("RENAME", "COLUMN"):
        return _rename_column(context, parse, info)
    if parse.accept("RENAME", "TO"):
        target = resolve(context, parse.name(), "ALTER")
        parse.end()
        context.account.access.require_create(context.session, "TABLE", target)
        return ddl.rename_table(context, info, target)
    if parse.accept("SET"):
        options = parse.properties(_OPTIONS)
        if not options or not parse.ended:
            raise parse.unsupported()
        return ddl.alter_table(
            context, info, replace(info, comment=options.get("COMMENT", info.comment)), []
        )
    if parse.accept("UNSET", "COMMENT"):
        parse.end()
        return ddl.alter_table(context, info, replace(info, comment=""), [])
    if parse.word() in ("ALTER", "MODIFY"):
        return _alter_column(context, parse, info)
    raise parse.unsupported()


def _add_columns(context: Context, parse: Parser, info: TableInfo) -> None:
    parse.expect("ADD")
    parse.accept("COLUMN")
    made = definitions.Definition(list(info.columns))
    mapping = str(context.session.parameter("TIMESTAMP_TYPE_MAPPING"))
    changes, added = [], []
    while True:
        if_not_exists = parse.if_not_exists()
        column = _checked(context, definitions.read_column(parse, mapping, made))
        if info.column(column.name) is not None:
            if not if_not_exists:
                raise SqlError(
                    1430, "42601", f"SQL compilation error:\ncolumn '{column.name}' already exists"
                )
        else:
            if column.sequence or made.constraints:
                raise parse.unsupported()
            added.append(column)
        if not parse.accept(","):
            break
        parse.accept("COLUMN")
    parse.end()
    for column in added:
        changes += ddl.adding(context, info, column)
    columns = (*info.columns, *added)
    ddl.alter_table(context, info, replace(info, columns=columns), changes)


def _column(info: TableInfo, name: str) -> ColumnInfo:
    found = info.column(name)
    if found is None:
        raise SqlError(904, "42000", f"SQL compilation error:\ninvalid identifier '{shown(name)}'")
    return found


def _drop_columns(context: Context, parse: Parser, info: TableInfo) -> None:
    parse.expect("DROP")
    parse.accept("COLUMN")
    if_exists = parse.if_exists()
    names = [parse.identifier()]
    while parse.accept(","):
        parse.accept("COLUMN")
        names.append(parse.identifier())
    parse.end()
    if if_exists:
        names = [name for name in names if info.column(name)]
    gone = {_column(info, name).name for name in names}
    kept = tuple(column for column in info.columns if column.name not in gone)
    keys = {c for constraint in info.constraints for c in constraint.columns}
    if not kept or (info.hybrid and keys & gone):
        raise compilation_error(f"cannot drop column '{', '.join(names)}'")
    constraints = tuple(c for c in info.constraints if not gone & set(c.columns))
    changes = [f"ALTER TABLE {info.physical} DROP COLUMN {quoted(name)}" for name in gone]
    ddl.alter_table(context, info, replace(info, columns=kept, constraints=constraints), changes)


def _rename_column(context: Context, parse: Parser, info: TableInfo) -> None:
    old = _column(info, parse.identifier())
    parse.expect("TO")
    new = parse.identifier()
    parse.end()
    if info.column(new) is not None:
        raise SqlError(1430, "42601", f"SQL compilation error:\ncolumn '{new}' already exists")
    used = {c for constraint in info.constraints for c in constraint.columns}
    used |= {c for index in info.indexes for c in (*index.columns, *index.include)}
    if info.hybrid and old.name in used:
        raise parse.unsupported()
    columns = tuple(replace(c, name=new) if c is old else c for c in info.columns)
    constraints = tuple(
        replace(one, columns=tuple(new if c == old.name else c for c in one.columns))
        for one in info.constraints
    )
    change = f"ALTER TABLE {info.physical} RENAME COLUMN {quoted(old.name)} TO {quoted(new)}"
    ddl.alter_table(
        context, info, replace(info, columns=columns, constraints=constraints), [change]
    )


def _alter_column(context: Context, parse: Parser, info: TableInfo) -> None:
    """ALTER [COLUMN] c: [SET] NOT NULL, DROP NOT NULL, DROP DEFAULT, COMMENT, SET DATA TYPE."""
    parse.next()
    parse.accept("COLUMN")
    column = _column(info, parse.identifier())
    head = f"ALTER TABLE {info.physical} ALTER COLUMN {quoted(column.name)}"
    changes: list[str] = []
    if parse.accept("SET", "NOT", "NULL") or parse.accept("NOT", "NULL"):
        changes, column_ = [f"{head} SET NOT NULL"], replace(column, nullable=False)
    elif parse.accept("DROP", "NOT", "NULL"):
        changes, column_ = [f"{head} DROP NOT NULL"], replace(column, nullable=True)
    elif parse.accept("DROP", "DEFAULT"):
        column_ = replace(column, default=None)
    elif parse.accept("COMMENT"):
        column_ = replace(column, comment=parse.text())
    elif parse.accept("SET", "DATA", "TYPE") or parse.accept("TYPE"):
        wanted = read_type(parse, str(context.session.parameter("TIMESTAMP_TYPE_MAPPING")))
        longer = wanted.name == "TEXT" and (wanted.length or 0) >= (column.type.length or 0)
        if column.type.name != "TEXT" or not longer:
            raise compilation_error(
                f"cannot change column {column.name} from type {column.type} to {wanted}", 40
            )
        column_ = replace(column, type=wanted)
    else:
        raise parse.unsupported()
    parse.end()
    columns = tuple(column_ if c is column else c for c in info.columns)
    ddl.alter_table(context, info, replace(info, columns=columns), changes)


# -- indexes


@statement("CREATE", "INDEX")
def create_index(context: Context, parse: Parser) -> Result:
    """CREATE [OR REPLACE] INDEX [IF NOT EXISTS] name ON table (columns) [INCLUDE (columns)]."""
    replace_ = replacing(parse)
    if_not_exists = parse.if_not_exists()
    name = parse.identifier()
    parse.expect("ON")
    info = require(context, resolve(context, parse.name()), "TABLE")
    index = definitions.read_index(parse, name, context.account.clock.time())
    parse.end()
    require_owner(context, info)
    if not info.hybrid:
        raise compilation_error(f"'{info.name.name}' is not a hybrid table.", 391411)
    for column in (*index.columns, *index.include):
        _column(info, column)
    rest = tuple(one for one in info.indexes if one.name != name)
    if len(rest) != len(info.indexes) and not replace_:
        if if_not_exists:
            return already_there(name)
        raise SqlError(2002, "42710", f"SQL compilation error:\nObject '{name}' already exists.")
    changed = replace(info, indexes=(*rest, index))
    definitions.check_hybrid(changed)
    ddl.alter_table(context, info, changed, [])
    return message("Statement executed successfully.")


@statement("DROP", "INDEX")
def drop_index(context: Context, parse: Parser) -> Result:
    """DROP INDEX [IF EXISTS] table.index."""
    if_exists = parse.if_exists()
    *above, table, name = _index_name(parse)
    parse.end()
    info = require(context, resolve(context, (*above, table), "DROP"), "TABLE")
    require_owner(context, info)
    rest = tuple(one for one in info.indexes if one.name != name)
    if len(rest) == len(info.indexes):
        if if_exists:
            return message(f"Drop statement executed successfully ({name} already dropped).")
        raise does_not_exist("index", name)
    ddl.alter_table(context, info, replace(info, indexes=rest), [])
    return message(f"{shown(name)} successfully dropped.")


def _index_name(parse: Parser) -> list[str]:
    parts = list(parse.name())
    if parse.accept("."):
        parts += parse.name()
    if not 2 <= len(parts) <= 4:
        raise parse.error()
    return parts
