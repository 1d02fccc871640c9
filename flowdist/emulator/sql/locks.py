"""Who may write what: row locks of hybrid tables, table locks of the others, and who waits.

DuckDB refuses a write that meets another's, and notices that only where both change the same
column; Snowflake lets the second wait. So locks are kept here. Rows are named by the values of
their primary key (and of their unique constraints), and are locked by the transactions that have
changed them until these end. An UPDATE, DELETE or MERGE of a standard table locks the table.

Who waits is noted with whom for, so that a circle is found when it closes: the statement that
closes it fails, and its transaction stays open, as in Snowflake.

The numbers of the errors of a lock timeout (627) and of a deadlock (626) are not documented; that
of too many waiters (625) is known.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

from flowdist.clock import Clock
from flowdist.emulator.errors import SqlError
from flowdist.emulator.names import FullName

__all__ = ["MOST_WAITERS", "Key", "Locked", "Locks", "Owner", "inserting"]

MOST_WAITERS = 20
"""How many statements may wait for a standard table."""
LOOK = 0.25
"""How often a waiting statement looks whether it is cancelled, in seconds."""


@dataclass(frozen=True)
class Locked:
    """A table that is locked, or rows of it: not another one that gets its name later."""

    id: int
    name: FullName

    def __str__(self) -> str:
        return str(self.name)


class Owner:
    """Who holds locks: a transaction, or a statement that is one of its own."""


Key = tuple[str, tuple[Hashable, ...]]
"""The name of a unique constraint, empty for the primary key, and the values."""


_INSERTS = "an insert"


def inserting(owner: Owner) -> Key:
    """What a transaction holds that has inserted into a standard table: in nobody's way but that
    of who wants the whole table (TRUNCATE, ALTER, DROP).
    """
    return _INSERTS, (id(owner),)


@dataclass
class Locks:
    """All locks; every method may be called from any thread.

    ``writing`` is held while a statement writes hybrid tables, and while a transaction that has
    done so commits: with it in hand, no other can get in between a look at the locks and the write.
    """

    clock: Clock
    writing: threading.RLock = field(default_factory=threading.RLock)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _rows: dict[Locked, dict[Key, Owner]] = field(default_factory=dict)
    _held: dict[Owner, dict[Locked, set[Key]]] = field(default_factory=dict)
    """The same by owner, so that a look at the others and a release do not go through all rows."""
    _tables: dict[Locked, Owner] = field(default_factory=dict)
    _waiting: dict[Owner, frozenset[Owner]] = field(default_factory=dict)
    _queue: dict[Locked, int] = field(default_factory=dict)

    # -- rows

    def contended(self, table: Locked, owner: Owner) -> bool:
        """Whether any other transaction holds rows of a table."""
        with self._changed:
            return any(table in held for o, held in self._held.items() if o is not owner)

    def holders(self, table: Locked, keys: Iterable[Key] | None, owner: Owner) -> set[Owner]:
        """The others that hold any of these rows; any rows at all where `keys` is None."""
        with self._changed:
            if keys is None:
                return {o for o, held in self._held.items() if table in held and o is not owner}
            rows = self._rows.get(table, {})
            return {rows[k] for k in keys if k in rows} - {owner}

    def holders_of(self, table: Locked, wanted: Callable[[Key], bool], owner: Owner) -> set[Owner]:
        """The others that hold a row whose key is `wanted`."""
        with self._changed:
            held = self._rows.get(table, {})
            return {o for key, o in held.items() if o is not owner and wanted(key)}

    def hold(self, table: Locked, keys: Iterable[Key], owner: Owner) -> None:
        """Lock rows, which no other holds."""
        with self._changed:
            new = set(keys)
            if new:
                self._held.setdefault(owner, {}).setdefault(table, set()).update(new)
                self._rows.setdefault(table, {}).update(dict.fromkeys(new, owner))

    def release(self, owner: Owner) -> None:
        """Let go of all that a transaction holds, and wake those that wait."""
        with self._changed:
            for table, keys in self._held.pop(owner, {}).items():
                rows = self._rows[table]
                for key in keys:
                    del rows[key]
                if not rows:
                    del self._rows[table]
            for table in [t for t, o in self._tables.items() if o is owner]:
                del self._tables[table]
            self._changed.notify_all()

    def held(self) -> list[tuple[Locked, Owner, bool]]:
        """Each table of which something is locked, by whom, and whether that is all of it."""
        with self._changed:
            rows = [
                (table, owner, inserting(owner) in keys)
                for owner, held in self._held.items()
                for table, keys in held.items()
            ]
            return [*rows, *((t, o, True) for t, o in self._tables.items())]

    @property
    def waiting(self) -> int:
        """How many statements wait for a lock at this moment."""
        return len(self._waiting)

    # -- tables

    def lock_table(
        self,
        table: Locked,
        owner: Owner,
        seconds: float,
        check: Callable[[], None],
        abort_idle: Callable[[set[Owner]], None],
    ) -> None:
        """Lock a standard table; SqlError 625 where too many wait, or when the time is over. Who
        holds it is handed to `abort_idle`, now and then.
        """
        deadline = self.clock.monotonic() + seconds
        with self._changed:
            if self._tables.setdefault(table, owner) is owner:
                return
            if self._queue.get(table, 0) >= MOST_WAITERS:
                raise SqlError(
                    625,
                    "57014",
                    f"Statement aborted because the number of waiters for this lock exceeds the "
                    f"{MOST_WAITERS} statements limit.",
                )
            self._queue[table] = self._queue.get(table, 0) + 1
        try:
            while (holder := self._take(table, owner)) is not owner:
                abort_idle({holder})
                with self._changed:
                    if self._tables.get(table) is holder:
                        self._wait({holder}, owner, deadline, seconds, table, check)
        finally:
            with self._changed:
                self._queue[table] -= 1

    def _take(self, table: Locked, owner: Owner) -> Owner:
        """Lock a table if that is free; who holds it then."""
        with self._changed:
            return self._tables.setdefault(table, owner)

    # -- waiting

    def wait_for(
        self,
        owners: set[Owner],
        owner: Owner,
        deadline: float,
        seconds: float,
        table: Locked,
        check: Callable[[], None],
    ) -> None:
        """Wait until any lock is released; SqlError when the time is over or in a deadlock."""
        with self._changed:
            if any(o in self._held for o in owners) or owners & set(self._tables.values()):
                self._wait(owners, owner, deadline, seconds, table, check)

    def _wait(
        self,
        owners: set[Owner],
        owner: Owner,
        deadline: float,
        seconds: float,
        table: Locked,
        check: Callable[[], None],
    ) -> None:
        left = deadline - self.clock.monotonic()
        if left <= 0:
            raise SqlError(
                627,
                "57014",
                f"Statement aborted: it has waited for a lock on {table} for {seconds:g} "
                f"second{'' if seconds == 1 else 's'}, which is all that its lock timeout allows.",
            )
        self._waiting[owner] = frozenset(owners)
        try:
            if self._circle(owner):
                raise SqlError(
                    626,
                    "57014",
                    f"Statement aborted: a deadlock was detected while it waited for a lock on "
                    f"{table}.",
                )
            self._changed.wait(min(left, LOOK))
        finally:
            del self._waiting[owner]
        check()

    def _circle(self, owner: Owner) -> bool:
        """Whether those that `owner` waits for wait for it."""
        seen: set[Owner] = set()
        todo = list(self._waiting[owner])
        while todo:
            one = todo.pop()
            if one is owner:
                return True
            if one not in seen:
                seen.add(one)
                todo += self._waiting.get(one, ())
        return False
