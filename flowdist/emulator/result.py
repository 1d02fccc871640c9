"""What a statement answers: columns with Snowflake's types over an Arrow table, or a transfer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import pyarrow as pa

from flowdist.emulator.types import TEXT, DataType, arrow_type

__all__ = ["Column", "Kind", "Result", "Transfer", "message", "rows"]


class Kind(IntEnum):
    """The ``statementTypeId`` of a reply: from it the connector knows what ``rowcount`` means."""

    SELECT = 0x1000
    DML = 0x3000
    INSERT = 0x3100
    UPDATE = 0x3200
    DELETE = 0x3300
    MERGE = 0x3400
    SCL = 0x4000
    """Session control: ALTER SESSION, USE, SET."""
    TCL = 0x5000
    """Transaction control."""
    DDL = 0x6000
    MULTI = 0xA000
    """A request of several statements."""


@dataclass(frozen=True)
class Column:
    """A column of a result."""

    name: str
    type: DataType = TEXT
    nullable: bool = True


@dataclass(frozen=True)
class Result:
    """Rows: ``table`` has a column for each of ``columns``, in the types of `emulator.types`."""

    columns: tuple[Column, ...]
    table: pa.Table
    kind: Kind = Kind.SELECT
    children: tuple[str, ...] = ()
    """The ids of the queries of a request of several statements."""

    def rows(self) -> list[tuple[Any, ...]]:
        """The rows as Python values; a TIMESTAMP_TZ is a dict of `t` and `o`."""
        lists = [column.to_pylist() for column in self.table.columns]
        return list(zip(*lists, strict=True)) if lists else []


@dataclass(frozen=True)
class Transfer:
    """The reply to PUT or GET: the client moves the files, by what ``data`` says."""

    data: dict[str, Any] = field(default_factory=dict)


def rows(
    columns: Sequence[str | tuple[str, DataType]],
    values: Iterable[Sequence[Any]],
    kind: Kind = Kind.SELECT,
) -> Result:
    """A result from Python values; a column given by its name alone is text.

    >>> from flowdist.emulator.types import FIXED
    >>> rows(["name", ("count", FIXED)], [("a", 1)]).rows()
    [('a', Decimal('1'))]
    """
    made = tuple(Column(c) if isinstance(c, str) else Column(*c) for c in columns)
    lists = list(zip(*values, strict=True)) or [()] * len(made)
    arrays = [
        pa.array(list(data), arrow_type(column.type))
        for column, data in zip(made, lists, strict=True)
    ]
    names = [str(i) for i in range(len(made))]
    return Result(made, pa.table(arrays, names=names), kind)


def message(text: str, kind: Kind = Kind.DDL) -> Result:
    """The one row `status` that most DDL answers."""
    return rows(["status"], [(text,)], kind)
