"""What names mean inside a query, and what a query gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from sqlglot import exp

from flowdist.emulator.errors import SqlError
from flowdist.emulator.names import shown
from flowdist.emulator.types import DataType

__all__ = ["GENERATED", "Output", "Scope", "Source", "invalid_identifier", "name_of"]


GENERATED = "$generated"
"""The column that GENERATOR gives, which only SEQ4() and the like can see."""


@dataclass(frozen=True)
class Output:
    """A column that a query or a table gives; the type is None where it is not known."""

    name: str
    type: DataType | None = None
    nullable: bool = True


@dataclass
class Source:
    """An item of FROM; ``merged`` are the columns that a USING has made one with an earlier one."""

    name: str
    outputs: list[Output]
    merged: set[str] = field(default_factory=set)

    def output(self, name: str) -> Output | None:
        """Its column of that name."""
        return next((o for o in self.outputs if o.name == name), None)


@dataclass
class Scope:
    """The sources and aliases that an expression may use; ``parent`` is the query around it.

    ``numbered`` is set where rows are generated, so that SEQ4() counts them.
    """

    parent: Scope | None = None
    sources: list[Source] = field(default_factory=list)
    aliases: dict[str, DataType | None] = field(default_factory=dict)

    def find(self, name: str, table: str | None) -> tuple[Source, Output] | None:
        """The column that a reference means; SqlError 2028 where it may mean two."""
        found = [
            (source, output)
            for source in self.sources
            if table is None or source.name == table
            if (output := source.output(name)) is not None
            if table is not None or name not in source.merged
        ]
        if len(found) > 1:
            raise SqlError(
                2028, "42601", f"SQL compilation error:\nambiguous column name '{shown(name)}'"
            )
        if found:
            return found[0]
        return self.parent.find(name, table) if self.parent else None

    def alias(self, name: str) -> tuple[bool, DataType | None]:
        """Whether an alias has that name here or around, and its type."""
        if name in self.aliases:
            return True, self.aliases[name]
        return self.parent.alias(name) if self.parent else (False, None)

    def visible(self, table: str | None = None) -> Iterator[tuple[Source, Output]]:
        """What a star stands for."""
        for source in self.sources:
            if table is None or source.name == table:
                for output in source.outputs:
                    if output.name == GENERATED:
                        continue
                    if table is not None or output.name not in source.merged:
                        yield source, output


def name_of(node: exp.Expr | str | None) -> str:
    """The name that an identifier stands for; unquoted ones are upper-cased."""
    if isinstance(node, exp.Identifier):
        return node.name if node.args.get("quoted") else node.name.upper()
    if isinstance(node, exp.Expr):
        return node.name.upper()
    return node or ""


def invalid_identifier(node: exp.Expr) -> SqlError:
    """A column that is not there, with its place in the text."""
    parts = [part for part in getattr(node, "parts", [node]) if isinstance(part, exp.Identifier)]
    first = parts[0].meta if parts else {}
    name = ".".join(shown(name_of(part)) for part in parts) or node.name.upper()
    start = int(first.get("col", 1)) - len(parts[0].name if parts else "")
    return SqlError(
        904,
        "42000",
        f"SQL compilation error: error line {first.get('line', 1)} at position {max(start, 0)}\n"
        f"invalid identifier '{name}'",
    )
