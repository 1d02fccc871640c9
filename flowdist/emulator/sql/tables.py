"""What tables, views and sequences there are, and how they are kept.

Each is a row of an internal table of the DuckDB file, written in the DuckDB transaction that makes
the table itself, so that no crash leaves the two apart. DuckDB's identifiers ignore case and
Snowflake's do not: names are looked up here, exactly, and two that differ in case only are refused.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import duckdb

from flowdist.emulator.errors import SqlError, already_exists, unsupported
from flowdist.emulator.names import FullName, quoted
from flowdist.emulator.sql import datatypes
from flowdist.emulator.sql.locks import Locked
from flowdist.emulator.types import DataType

__all__ = ["ColumnInfo", "Constraint", "IndexInfo", "TableIndex", "TableInfo", "physical"]

_OBJECTS = '"$emulator".objects'
REQUESTS = '"$emulator".requests'
SETUP = (
    'CREATE SCHEMA IF NOT EXISTS "$emulator"',
    f"CREATE TABLE IF NOT EXISTS {_OBJECTS} (id BIGINT, info VARCHAR)",
    f"CREATE TABLE IF NOT EXISTS {REQUESTS} (request VARCHAR, received DOUBLE, outcome VARCHAR)",
)


@dataclass(frozen=True)
class ColumnInfo:
    """A column of a table or view.

    ``default`` is the expression as Snowflake shows it; ``sequence`` the DuckDB sequence behind an
    AUTOINCREMENT column, with ``start`` and ``increment``.
    """

    name: str
    type: DataType
    nullable: bool = True
    default: str | None = None
    comment: str = ""
    sequence: str | None = None
    start: int = 1
    increment: int = 1
    ordered: bool = False

    @property
    def autoincrement(self) -> str | None:
        """As SHOW COLUMNS has it."""
        if self.sequence is None:
            return None
        order = "ORDER" if self.ordered else "NOORDER"
        return f"IDENTITY START {self.start} INCREMENT {self.increment} {order}"


@dataclass(frozen=True)
class Constraint:
    """PRIMARY KEY, UNIQUE or FOREIGN KEY; ``references`` are the table and its columns."""

    kind: str
    columns: tuple[str, ...]
    name: str
    references: tuple[str, tuple[str, ...]] | None = None


@dataclass(frozen=True)
class IndexInfo:
    """A secondary index of a hybrid table, which DuckDB does without."""

    name: str
    columns: tuple[str, ...]
    include: tuple[str, ...]
    created_on: float


@dataclass(frozen=True)
class TableInfo:
    """A table, view or sequence. ``created_on`` is Unix time in seconds.

    ``kind`` is "TABLE", "VIEW" or "SEQUENCE"; ``text`` the statement that has made a view. Of a
    sequence there are ``start`` and ``increment``.
    """

    id: int
    name: FullName
    kind: str
    owner: str
    created_on: float
    columns: tuple[ColumnInfo, ...] = ()
    hybrid: bool = False
    transient: bool = False
    temporary: bool = False
    constraints: tuple[Constraint, ...] = ()
    indexes: tuple[IndexInfo, ...] = ()
    comment: str = ""
    text: str = ""
    query: str = ""
    """The query of a view."""
    start: int = 1
    increment: int = 1
    ordered: bool = False

    @property
    def primary_key(self) -> tuple[str, ...]:
        """Its columns; empty where there is none."""
        return next((c.columns for c in self.constraints if c.kind == "PRIMARY KEY"), ())

    @property
    def locked(self) -> Locked:
        """As locks name it."""
        return Locked(self.id, self.name)

    def column(self, name: str) -> ColumnInfo | None:
        """The column of that exact name."""
        return next((c for c in self.columns if c.name == name), None)

    @property
    def physical(self) -> str:
        """Its name in DuckDB, as an identifier."""
        return physical(self.name, self.temporary)

    @property
    def shown_kind(self) -> str:
        """As SHOW TABLES and the information schema name it."""
        if self.temporary:
            return "TEMPORARY"
        return "TRANSIENT" if self.transient else self.kind


def physical(name: FullName, temporary: bool = False) -> str:
    """The DuckDB table that holds a table; a temporary one is in its session's own catalog."""
    if temporary:
        return f"temp.main.{quoted('.'.join(quoted(part) for part in _parts(name)))}"
    return f"{quoted(schema_of(name.database, name.schema))}.{quoted(name.name)}"


def schema_of(database: str, schema: str) -> str:
    """The DuckDB schema of a Snowflake schema: its two names with a dot, own dots doubled."""
    return f"{database.replace('.', '..')}.{schema.replace('.', '..')}"


def _parts(name: FullName) -> tuple[str, str, str]:
    return name.database, name.schema, name.name


def _encode(info: TableInfo) -> str:
    return json.dumps(asdict(info))


def _decode(text: str) -> TableInfo:
    values = json.loads(text)
    values["name"] = FullName(**values["name"])
    values["columns"] = tuple(
        ColumnInfo(**{**column, "type": datatypes.from_json(column["type"])})
        for column in values["columns"]
    )
    values["constraints"] = tuple(
        Constraint(
            one["kind"],
            tuple(one["columns"]),
            one["name"],
            one["references"] and (one["references"][0], tuple(one["references"][1])),
        )
        for one in values["constraints"]
    )
    values["indexes"] = tuple(
        IndexInfo(one["name"], tuple(one["columns"]), tuple(one["include"]), one["created_on"])
        for one in values["indexes"]
    )
    return TableInfo(**values)


@dataclass
class TableIndex:
    """All tables, views and sequences but the temporary ones; safe in any thread.

    What changes it is done in two steps: the row, inside a DuckDB transaction (:meth:`write`), and
    once that has committed, the memory (:meth:`put`, :meth:`remove`).
    """

    version: int = 0
    """Changes whenever anything else does, so that translations can be cached."""
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _found: dict[tuple[str, FullName], TableInfo] = field(default_factory=dict)
    _folded: dict[tuple[str, str], FullName] = field(default_factory=dict)
    _last_id: int = 0

    def load(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Read what a file has."""
        for statement in SETUP:
            cursor.execute(statement)
        for identity, text in cursor.execute(f"SELECT id, info FROM {_OBJECTS}").fetchall():
            self.put(_decode(text))
            self._last_id = max(self._last_id, identity)

    def new_id(self) -> int:
        """An id that no object has."""
        with self._lock:
            self._last_id += 1
            return self._last_id

    def find(self, name: FullName, *kinds: str) -> TableInfo | None:
        """The table or view of that name, or an object of other `kinds`."""
        for kind in kinds or ("TABLE", "VIEW"):
            found = self._found.get((_space(kind), name))
            if found is not None and (not kinds or found.kind in kinds):
                return found
        return None

    def all(self) -> list[TableInfo]:
        """Everything, ordered by name."""
        with self._lock:
            return sorted(self._found.values(), key=lambda info: info.name)

    def check_free(self, info: TableInfo) -> None:
        """SqlError where the name is taken, or one that differs from it in case only."""
        with self._lock:
            taken = self._folded.get(_key(info))
        if taken == info.name:
            raise already_exists(info.name)
        if taken is not None:
            raise unsupported(f"the name {info.name} besides {taken}")

    def write(self, cursor: duckdb.DuckDBPyConnection, info: TableInfo) -> None:
        """Write an object down, in the DuckDB transaction of `cursor`."""
        self.erase(cursor, info)
        cursor.execute(f"INSERT INTO {_OBJECTS} VALUES (?, ?)", [info.id, _encode(info)])

    def erase(self, cursor: duckdb.DuckDBPyConnection, info: TableInfo) -> None:
        """Forget an object, in the DuckDB transaction of `cursor`."""
        cursor.execute(f"DELETE FROM {_OBJECTS} WHERE id = ?", [info.id])

    def put(self, info: TableInfo) -> None:
        """Take over an object that is written."""
        with self._lock:
            self._found[_space(info.kind), info.name] = info
            self._folded[_key(info)] = info.name
            self.version += 1

    def remove(self, info: TableInfo) -> None:
        """Take over that an object is erased."""
        with self._lock:
            self._found.pop((_space(info.kind), info.name), None)
            self._folded.pop(_key(info), None)
            self.version += 1

    def inside(self, database: str, schema: str | None) -> Iterator[TableInfo]:
        """The objects of a database or schema."""
        for info in self.all():
            if info.name.database == database and schema in (None, info.name.schema):
                yield info


def _space(kind: str) -> str:
    return "SEQUENCE" if kind == "SEQUENCE" else "TABLE"


def _key(info: TableInfo) -> tuple[str, str]:
    return _space(info.kind), physical(info.name).lower()


def missing(name: Any) -> SqlError:
    """The error for a table or view that is not there."""
    return SqlError(
        2003,
        "42S02",
        f"SQL compilation error:\nObject '{name}' does not exist or not authorized.",
    )


def with_column(info: TableInfo, column: ColumnInfo) -> TableInfo:
    """The table with a column replaced by that of the same name."""
    columns = tuple(column if c.name == column.name else c for c in info.columns)
    return replace(info, columns=columns)
