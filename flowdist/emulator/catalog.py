"""What exists in the account besides rows: databases, stages, pools, services, tasks, grants ...

Objects are kept in memory and in an SQLite file, which is written before anything is acknowledged;
so they survive the process; where that fails (a full disk), nothing has changed. Tables, their
columns and their rows are the engine's business.

What belongs to one kind of object only is in its ``data``, which holds what JSON can hold; the
module that serves the kind knows what is in there.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flowdist.clock import Clock
from flowdist.emulator.errors import already_exists, does_not_exist
from flowdist.emulator.names import FullName, shown
from flowdist.emulator.sqlite import open_file

__all__ = ["Catalog", "Object"]


@dataclass
class Object:
    """An object of the account; ``database`` and ``schema`` are empty above that level.

    ``created_on`` is Unix time in seconds. Change ``data`` only through :meth:`Catalog.update`.
    """

    id: int
    kind: str
    database: str
    schema: str
    name: str
    owner: str
    created_on: float
    comment: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def full_name(self) -> FullName:
        """Of an object in a schema."""
        return FullName(self.database, self.schema, self.name)

    def __str__(self) -> str:
        parts = [part for part in (self.database, self.schema, self.name) if part]
        return ".".join(shown(part) for part in parts)


Key = tuple[str, str, str, str]


class Catalog:
    """All objects; every method may be called from any thread.

    A `name` is a :class:`FullName` for what lives in a schema, and the parts that there are for the
    rest: ``("DB",)`` for a database, ``("DB", "SCHEMA")`` for a schema, ``("POOL",)`` for a pool.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.lock = threading.RLock()
        self._clock = clock
        self._file = open_file(path)
        self._file.execute("CREATE TABLE IF NOT EXISTS objects (id INTEGER PRIMARY KEY, json TEXT)")
        self._file.execute("CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, json TEXT)")
        self._objects: dict[Key, Object] = {}
        self._by_id: dict[int, Object] = {}
        for identity, text in self._file.execute("SELECT id, json FROM objects ORDER BY id"):
            found = Object(id=identity, **json.loads(text))
            self._objects[_key_of(found)] = self._by_id[identity] = found
        (last,) = self._file.execute("SELECT max(id) FROM objects").fetchone()
        self._last_id = max(last or 0, self.setting("last_id", 0))
        self.version = 0
        """Changes with every object that comes or goes, so that others can cache what they read."""

    def close(self) -> None:
        """Let go of the file."""
        with self.lock:
            self._file.close()

    def create(
        self,
        kind: str,
        name: FullName | tuple[str, ...],
        *,
        owner: str,
        comment: str = "",
        **data: Any,
    ) -> Object:
        """A new object; SqlError 2002 where the name is taken."""
        database, schema, last = _parts(name)
        with self.lock:
            key = (kind, database, schema, last)
            if key in self._objects:
                raise already_exists(_shown(name))
            self._last_id += 1
            made = Object(
                self._last_id,
                kind,
                database,
                schema,
                last,
                owner,
                self._clock.time(),
                comment,
                data,
            )
            self._write(made)
            self._objects[key] = self._by_id[made.id] = made
            self.version += 1
            return made

    def find(self, kind: str, name: FullName | tuple[str, ...]) -> Object | None:
        """The object of that name, if there is one."""
        with self.lock:
            return self._objects.get((kind, *_parts(name)))

    def require(self, kind: str, name: FullName | tuple[str, ...]) -> Object:
        """The object of that name; SqlError 2003 where there is none."""
        found = self.find(kind, name)
        if found is None:
            raise does_not_exist(kind, _shown(name))
        return found

    def all(
        self, kind: str, database: str | None = None, schema: str | None = None
    ) -> list[Object]:
        """The objects of a kind, of one database or schema where given, ordered by name."""
        with self.lock:
            found = [
                o
                for o in self._objects.values()
                if o.kind == kind
                and (database is None or o.database == database)
                and (schema is None or o.schema == schema)
            ]
        return sorted(found, key=lambda o: (o.database, o.schema, o.name))

    def update(self, target: Object, *, comment: str | None = None, **data: Any) -> None:
        """Change an object and write it down; entries of `data` replace those of the same name."""
        with self.lock:
            said = target.comment if comment is None else comment
            changed = replace(target, comment=said, data={**target.data, **data})
            if self._objects.get(_key_of(target)) is target:
                self._write(changed)
            target.data.update(data)
            target.comment = said

    def rename(self, target: Object, name: FullName | tuple[str, ...]) -> None:
        """Give an object another name, or another place; SqlError 2002 where the name is taken."""
        database, schema, last = _parts(name)
        with self.lock:
            key = (target.kind, database, schema, last)
            if key in self._objects:
                raise already_exists(_shown(name))
            moved = replace(target, database=database, schema=schema, name=last)
            self._write(moved)
            del self._objects[_key_of(target)]
            target.database, target.schema, target.name = database, schema, last
            self._objects[key] = target
            self.version += 1

    def give(self, target: Object, owner: str) -> None:
        """Make another role the owner of an object."""
        with self.lock:
            self._write(replace(target, owner=owner))
            target.owner = owner

    def drop(self, target: Object) -> None:
        """Forget an object; what lives inside it is the caller's business."""
        with self.lock:
            if self._objects.get(_key_of(target)) is target:
                # First that its id is taken for good, then that it is gone: a full disk stops both.
                self._keep("last_id", self._last_id)
                self._file.execute("DELETE FROM objects WHERE id = ?", (target.id,))
                del self._objects[_key_of(target)], self._by_id[target.id]
                self.version += 1

    def by_id(self, identity: int) -> Object | None:
        """The object of that number, if there is one."""
        with self.lock:
            return self._by_id.get(identity)

    def everything(self) -> list[Object]:
        """All objects, oldest first."""
        with self.lock:
            return sorted(self._objects.values(), key=lambda o: o.id)

    def inside(self, database: str, schema: str | None = None) -> Iterator[Object]:
        """Everything that lives in a database or schema, for those that drop one."""
        with self.lock:
            found = list(self._objects.values())
        for o in found:
            if o.database == database and (schema is None or o.schema == schema):
                yield o

    def setting(self, name: str, default: Any = None) -> Any:
        """A value that the account keeps outside of objects."""
        with self.lock:
            row = self._file.execute("SELECT json FROM settings WHERE name = ?", (name,)).fetchone()
        return default if row is None else json.loads(row[0])

    def keep(self, name: str, value: Any) -> None:
        """Write such a value down."""
        with self.lock:
            self._keep(name, value)

    def _keep(self, name: str, value: Any) -> None:
        self._file.execute(
            "INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, json.dumps(value))
        )

    def _write(self, target: Object) -> None:
        values = {k: v for k, v in vars(target).items() if k != "id"}
        self._file.execute(
            "INSERT OR REPLACE INTO objects VALUES (?, ?)", (target.id, json.dumps(values))
        )


def _parts(name: FullName | tuple[str, ...]) -> tuple[str, str, str]:
    if isinstance(name, FullName):
        return name.database, name.schema, name.name
    *above, last = name
    database, schema = [*above, "", ""][:2]
    return database, schema, last


def _key_of(target: Object) -> Key:
    return target.kind, target.database, target.schema, target.name


def _shown(name: FullName | tuple[str, ...]) -> str:
    return str(name) if isinstance(name, FullName) else ".".join(shown(part) for part in name)
