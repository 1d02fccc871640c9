"""Reading the definition of a table: columns, constraints, indexes, options."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace

from flowdist.emulator.errors import SqlError, compilation_error, unsupported
from flowdist.emulator.names import fold, quoted, shown
from flowdist.emulator.sql.datatypes import read_type, storage
from flowdist.emulator.sql.lexer import Lexeme
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.sql.tables import ColumnInfo, Constraint, IndexInfo, TableInfo
from flowdist.emulator.types import FIXED

__all__ = ["Definition", "duck_column", "duck_table", "read_column", "read_definition"]

_AFTER_EXPRESSION = (
    "NOT",
    "NULL",
    "PRIMARY",
    "UNIQUE",
    "COMMENT",
    "REFERENCES",
    "CONSTRAINT",
    "COLLATE",
    "FOREIGN",
    "WITH",
    "MASKING",
    "AUTOINCREMENT",
    "IDENTITY",
)


@dataclass
class Definition:
    """What stands between the parentheses of CREATE TABLE."""

    columns: list[ColumnInfo] = field(default_factory=list)
    constraints: list[Constraint] = field(default_factory=list)
    indexes: list[IndexInfo] = field(default_factory=list)


def read_definition(parse: Parser, mapping: str, table: str, now: float) -> Definition:
    """Columns, constraints and indexes, in their parentheses.

    `mapping` is TIMESTAMP_TYPE_MAPPING, `table` the name of the table, `now` Unix time.
    """
    made = Definition()
    parse.expect("(")
    while True:
        if not _constraint(parse, made, table) and not _index(parse, made, now):
            read_column(parse, mapping, made)
        if not parse.accept(","):
            break
    parse.expect(")")
    _complete(made)
    return made


def _complete(made: Definition) -> None:
    names = [column.name for column in made.columns]
    for name in names:
        if names.count(name) > 1:
            raise SqlError(
                2025, "42S21", f"SQL compilation error:\nduplicate column name '{shown(name)}'"
            )
    if sum(constraint.kind == "PRIMARY KEY" for constraint in made.constraints) > 1:
        raise compilation_error("multiple primary keys are not allowed")
    used = [c for one in made.constraints for c in one.columns]
    used += [c for index in made.indexes for c in (*index.columns, *index.include)]
    for name in used:
        if name not in names:
            raise SqlError(
                904, "42000", f"SQL compilation error:\ninvalid identifier '{shown(name)}'"
            )
    keys = {c for one in made.constraints if one.kind == "PRIMARY KEY" for c in one.columns}
    made.columns = [replace(c, nullable=False) if c.name in keys else c for c in made.columns]


def _columns(parse: Parser) -> tuple[str, ...]:
    return tuple(parse.parenthesised(Parser.identifier))


def _constraint(parse: Parser, made: Definition, table: str) -> bool:
    """An out-of-line constraint, if one comes."""
    named = parse.word() == "CONSTRAINT"
    start = 2 if named else 0
    word = parse.word(start)
    opens = parse.word(start + (1 if word == "UNIQUE" else 2))
    if word not in ("PRIMARY", "UNIQUE", "FOREIGN") or opens != "(":
        return False
    name = ""
    if named:
        parse.expect("CONSTRAINT")
        name = parse.identifier()
    kind = parse.next().word
    if kind != "UNIQUE":
        parse.expect("KEY")
        kind += " KEY"
    columns = _columns(parse)
    references = None
    if kind == "FOREIGN KEY":
        parse.expect("REFERENCES")
        references = (".".join(quoted(p) for p in parse.name()), _referenced(parse))
    _constraint_properties(parse)
    made.constraints.append(Constraint(kind, columns, name or _own_name(), references))
    return True


def _referenced(parse: Parser) -> tuple[str, ...]:
    return _columns(parse) if parse.word() == "(" else ()


def _own_name() -> str:
    return f"SYS_CONSTRAINT_{uuid.uuid4()}"


def _constraint_properties(parse: Parser) -> None:
    """Those that say what is not so for standard tables anyway."""
    while True:
        if parse.accept("NOT", "ENFORCED") or parse.accept("ENFORCED"):
            continue
        if parse.accept_any("RELY", "NORELY", "VALIDATE", "NOVALIDATE", "ENABLE", "DISABLE"):
            continue
        if parse.word() in ("MATCH", "DEFERRABLE", "INITIALLY") or (
            parse.word() == "ON" and parse.word(1) in ("UPDATE", "DELETE")
        ):
            raise parse.unsupported()
        return


def _index(parse: Parser, made: Definition, now: float) -> bool:
    unique = parse.word() == "UNIQUE" and parse.word(1) == "INDEX"
    at = 1 if unique else 0
    if parse.word(at) != "INDEX" or parse.word(at + 2) != "(":
        return False
    if unique:
        raise parse.unsupported()
    parse.expect("INDEX")
    made.indexes.append(read_index(parse, parse.identifier(), now))
    return True


def read_index(parse: Parser, name: str, now: float) -> IndexInfo:
    """The columns of an index, in parentheses, and those that it includes."""
    columns = _columns(parse)
    include = _columns(parse) if parse.accept("INCLUDE") else ()
    return IndexInfo(name, columns, include, now)


def read_column(parse: Parser, mapping: str, made: Definition) -> ColumnInfo:
    """A column with its inline constraints, which are added to `made` with it."""
    column = ColumnInfo(parse.identifier(), read_type(parse, mapping))
    while True:
        changed = _option(parse, column, made)
        if changed is None:
            break
        column = changed
    made.columns.append(column)
    return column


def _option(parse: Parser, column: ColumnInfo, made: Definition) -> ColumnInfo | None:
    """The column with what comes next; None where nothing comes that belongs to it."""
    if parse.accept("NOT", "NULL"):
        return replace(column, nullable=False)
    if parse.accept("NULL"):
        return column
    if parse.accept("COMMENT"):
        parse.accept("=")
        return replace(column, comment=parse.text())
    if parse.accept("DEFAULT"):
        return replace(column, default=read_expression(parse))
    if parse.accept_any("AUTOINCREMENT", "IDENTITY"):
        if column.type.name != "FIXED":
            raise compilation_error(
                f"Column '{column.name}' of type {column.type} cannot be AUTOINCREMENT"
            )
        return _increment(parse, column)
    name = ""
    if parse.word() == "CONSTRAINT" and parse.word(2) in (
        "PRIMARY",
        "UNIQUE",
        "FOREIGN",
        "REFERENCES",
        "NOT",
    ):
        parse.expect("CONSTRAINT")
        name = parse.identifier()
    if parse.accept("PRIMARY", "KEY"):
        return _inline(parse, column, made, "PRIMARY KEY", name)
    if parse.accept("UNIQUE"):
        return _inline(parse, column, made, "UNIQUE", name)
    if parse.accept("FOREIGN", "KEY") or parse.word() == "REFERENCES":
        parse.expect("REFERENCES")
        references = (".".join(quoted(p) for p in parse.name()), _referenced(parse))
        return _inline(parse, column, made, "FOREIGN KEY", name, references)
    if name:
        return column
    if parse.ended or parse.word() in (",", ")"):
        return None
    if parse.word() in ("COLLATE", "WITH", "MASKING", "TAG", "PROJECTION", "AS"):
        raise parse.unsupported()
    return None


def _inline(
    parse: Parser,
    column: ColumnInfo,
    made: Definition,
    kind: str,
    name: str,
    references: tuple[str, tuple[str, ...]] | None = None,
) -> ColumnInfo:
    _constraint_properties(parse)
    made.constraints.append(Constraint(kind, (column.name,), name or _own_name(), references))
    return replace(column, nullable=False) if kind == "PRIMARY KEY" else column


def _increment(parse: Parser, column: ColumnInfo) -> ColumnInfo:
    start = increment = 1
    if parse.word() == "(":
        sizes = parse.parenthesised(Parser.integer)
        if len(sizes) != 2:
            raise parse.error()
        start, increment = sizes
    else:
        if parse.accept("START"):
            parse.accept_any("WITH", "=")
            start = parse.integer()
        if parse.accept("INCREMENT"):
            parse.accept_any("BY", "=")
            increment = parse.integer()
    order = parse.accept_any("ORDER", "NOORDER")
    if increment == 0:
        raise compilation_error("the increment of a sequence cannot be 0")
    return replace(
        column,
        sequence=sequence_name(),
        start=start,
        increment=increment,
        ordered=order == "ORDER",
    )


def read_expression(parse: Parser) -> str:
    """An expression as written, up to what cannot belong to it."""
    start, depth = parse.position(), 0
    end = start
    while not parse.ended:
        token = parse.peek()
        assert token is not None
        if depth == 0 and (
            token.text in (",", ")") or (end > start and token.word in _AFTER_EXPRESSION)
        ):
            break
        depth += (token.text == "(") - (token.text == ")")
        end = token.end
        parse.next()
    if end == start:
        raise parse.error()
    return parse.sql[start:end]


def shown_default(text: str) -> str:
    """A default as DESCRIBE shows it: words that are no strings are upper-cased.

    >>> shown_default("uuid_string()"), shown_default("'a'"), shown_default("5")
    ('UUID_STRING()', "'a'", '5')
    """
    parse = Parser(text)
    pieces, at = [], 0
    while not parse.ended:
        token = parse.next()
        pieces.append(text[at : token.start])
        plain = token.kind is Lexeme.WORD
        pieces.append(fold(token.text) if plain else token.text)
        at = token.end
    return "".join([*pieces, text[at:]])


# -- DuckDB's side


def sequence_name() -> str:
    """A name for the sequence behind a column."""
    return f"auto{uuid.uuid4().hex}"


def duck_column(column: ColumnInfo) -> str:
    """A column in DuckDB's CREATE TABLE."""
    null = "" if column.nullable else " NOT NULL"
    return f"{quoted(column.name)} {storage(column.type)}{null}"


def duck_table(info: TableInfo) -> list[str]:
    """The statements that make a table in DuckDB; only hybrid tables have keys there."""
    parts = [duck_column(column) for column in info.columns]
    if info.hybrid:
        for constraint in info.constraints:
            if constraint.kind in ("PRIMARY KEY", "UNIQUE"):
                columns = ", ".join(quoted(c) for c in constraint.columns)
                parts.append(f"{constraint.kind} ({columns})")
    return [
        *(duck_sequence(column) for column in info.columns if column.sequence),
        f"CREATE {'TEMPORARY ' * info.temporary}TABLE {info.physical} ({', '.join(parts)})",
    ]


def duck_sequence(column: ColumnInfo) -> str:
    """The sequence behind an AUTOINCREMENT column."""
    return (
        f'CREATE SEQUENCE "$emulator".{column.sequence} START {column.start} '
        f"INCREMENT {column.increment} {bounds(column.start, column.increment)}"
    )


def bounds(start: int, increment: int) -> str:
    """The limits that DuckDB needs for a sequence that begins below 1, or falls."""
    if increment < 0:
        return f"MINVALUE -9223372036854775807 MAXVALUE {max(start, -1)}"
    return f"MINVALUE {min(start, 1)}"


def check_hybrid(info: TableInfo) -> None:
    """What a hybrid table has to have, and may not have."""
    if not info.primary_key:
        raise SqlError(
            391403,
            "42601",
            "SQL compilation error:\nA hybrid table must have a primary key: "
            f"'{info.name.name}' has none.",
        )
    if info.temporary or info.transient:
        raise compilation_error("Unsupported feature 'TEMPORARY or TRANSIENT hybrid table'.", 2)
    keys = {c for constraint in info.constraints for c in constraint.columns}
    indexed = keys | {c for index in info.indexes for c in index.columns}
    for column in info.columns:
        if column.name in indexed and column.type.name in ("VARIANT", "OBJECT", "ARRAY"):
            raise compilation_error(
                f"Column '{column.name}' of type {column.type} cannot be part of an index."
            )
        if column.name in keys and column.type.name == "TIMESTAMP_TZ":
            raise compilation_error(
                f"Column '{column.name}' of type {column.type} cannot be part of a constraint."
            )
    if any(constraint.kind == "FOREIGN KEY" for constraint in info.constraints):
        raise unsupported("FOREIGN KEY of a hybrid table, which would have to be enforced")


__all__ += [
    "FIXED",
    "check_hybrid",
    "read_expression",
    "read_index",
    "sequence_name",
    "shown_default",
]
