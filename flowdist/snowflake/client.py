"""Statements on Snowflake: one connection for each thread, what is tried again, errors in words.

Everything that is bound is bound on the server. Statements are logged without values. What a lost
connection or a busy service makes fail is tried again; what Snowflake says no to is not. Where
connections come from is `flowdist.snowflake.connection`.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import json
import logging
import random
import re
import threading
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from flowdist.clock import Clock, SystemClock
from flowdist.errors import BackendError
from flowdist.snowflake.names import Name, Place

__all__ = ["Client", "SnowflakeError", "shape"]

logger = logging.getLogger("flowdist.snowflake")

# How often a statement is tried, and the pauses between: 1, 2, 4, 8 s, and up to twice as long.
TRIES, FIRST_PAUSE = 5, 1.0
# An answer that comes sooner is the first to a request: Snowflake holds it back for up to 45 s
# while a statement runs.
FIRST_ANSWER = 30.0
# Of a statement in messages: more would hide what they say.
SHOWN = 300

NOT_FOUND, EXISTS, DENIED, NO_WAREHOUSE = 2003, 2002, 3001, 606
# The session or its token has ended before the statement began: a new connection is needed.
_SESSION_OVER = frozenset({390111, 390112, 390114, 390115, 390195, 390318})
# The connection is of use still.
_SQL_ONLY = frozenset({
    604, 605,       # cancelled by a shutdown; the session was moved
    625, 626, 627,  # lock waits: too many waiters, deadlock, time-out
})  # fmt: skip
NOT_REACHED = 250003
_NO_ANSWER = frozenset({
    250001, 250002, NOT_REACHED, 251011, 251012,             # not reached, closed, in time
    290000, 290403, 290429, 290500, 290502, 290503, 290504,  # HTTP errors
})  # fmt: skip
# Connectors from 5.0 on have no numbers of their own for these, and give their kind instead: I/O,
# no answer in time, no place for values that are bound.
_KINDS = (4, 14, 15)
_PASSING = _SESSION_OVER | _SQL_ONLY | _NO_ANSWER


class SnowflakeError(BackendError):
    """Snowflake said no, or nothing.

    ``errno`` is its number, ``said`` its words, ``statement`` what was asked, without values.
    """

    def __init__(
        self,
        message: str,
        errno: int = 0,
        statement: str = "",
        said: str = "",
        *,
        passing: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.errno = errno
        self.statement = statement
        self.said = said or message
        self.passing = errno in _PASSING if passing is None else passing
        """Whether the same may work later."""

    @property
    def missing(self) -> bool:
        """Whether the object does not exist, or this role must not know of it."""
        return self.errno == NOT_FOUND

    @property
    def exists(self) -> bool:
        """Whether the name is taken."""
        return self.errno == EXISTS

    @property
    def denied(self) -> bool:
        """Whether the role has not the privilege."""
        return self.errno == DENIED


class _Connections:
    """The open connections of a client, by the thread that has each."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._held: dict[threading.Thread, Any] = {}
        self._lock = threading.Lock()
        self.sent = 0

    def mine(self) -> Any:
        """This thread's connection; the one of a thread that has ended before a new one."""
        _close_retired()
        me = threading.current_thread()
        with self._lock:
            if me in self._held:
                return self._held[me]
            ended = next((thread for thread in self._held if not thread.is_alive()), None)
            if ended is not None:
                self._held[me] = self._held.pop(ended)
                return self._held[me]
        made = self._connect()
        with self._lock:
            self._held[me] = made
            _open.add(self)
        # Before the connector's own handler, which warns of connections that are open at the end.
        atexit.unregister(_close_all)
        atexit.register(_close_all)
        return made

    def count(self) -> None:
        with self._lock:
            self.sent += 1

    def drop(self) -> None:
        """Close this thread's connection; its next statement makes another."""
        with self._lock:
            found = self._held.pop(threading.current_thread(), None)
        _close(found)

    def close(self) -> None:
        with self._lock:
            connections, self._held = list(self._held.values()), {}
            _open.discard(self)
        for connection in connections:
            _close(connection)


def _close(connection: Any) -> None:
    if connection is not None:
        with contextlib.suppress(Exception):
            # Not tried again: a session that is not ended here ends by itself.
            connection.close(retry=False)


# Those that somebody has not closed, so that it is done at the end of the process.
_open: set[_Connections] = set()
# Those of clients that nobody can use any more: closed before the next statement of any client.
_retired: deque[_Connections] = deque()


def _close_retired() -> None:
    with contextlib.suppress(IndexError):
        while True:
            _retired.popleft().close()


def _close_all() -> None:
    for connections in list(_open):
        connections.close()


class Client:
    """Statements on one account; any thread may use it, each has a connection of its own.

    Args:
        connect: makes a connection of snowflake-connector-python.
        tag: the QUERY_TAG of its statements: which run, and who.
        clock: for pauses.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        tag: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._connections = _Connections(connect)
        self._tag = dict(tag or {})
        self._clock = clock or SystemClock()

    def retire(self) -> None:
        """Have the connections closed before long. A garbage collector calls this, perhaps in the
        midst of the connector's own work, where a call of the connector may end the process.
        """
        _retired.append(self._connections)

    def tagged(self, **tag: str) -> Self:
        """The same client, with more in the QUERY_TAG of what is sent through it."""
        found = copy.copy(self)
        found._tag = {**self._tag, **tag}
        return found

    @property
    def statements(self) -> int:
        """How many statements were sent, those that were tried again counted each time."""
        return self._connections.sent

    # -- statements

    def rows(
        self, sql: str, binds: Sequence[Any] = (), *, again: bool = True
    ) -> list[dict[str, Any]]:
        """What a statement returns: rows by column, names in lower case. `again`: whether it may be
        sent a second time where no answer came to the first.

        Raises:
            SnowflakeError: it was refused, or not answered however often it was tried.
        """
        found: list[dict[str, Any]] = self._execute(sql, binds, rows_of, again=again)
        return found

    def run(self, sql: str, binds: Sequence[Any] = (), *, again: bool = True) -> int:
        """Run a statement whose rows are of no interest; how many rows it has changed."""
        return int(self._execute(sql, binds, lambda cursor: cursor.rowcount or 0, again=again))

    def value(self, sql: str, binds: Sequence[Any] = ()) -> Any:
        """The one value that a statement returns; None where it returns no row."""
        found = self.rows(sql, binds)
        return next(iter(found[0].values())) if found else None

    def session(self) -> dict[str, str | None]:
        """The database, schema, warehouse and role of the session."""
        return self.rows(
            "SELECT CURRENT_DATABASE() AS database, CURRENT_SCHEMA() AS schema, "
            "CURRENT_WAREHOUSE() AS warehouse, CURRENT_ROLE() AS role"
        )[0]

    def full_name(self, name: Name) -> Name:
        """The full name of an object, where the session finds it; as it is where the session has no
        database or schema.
        """
        if len(name.parts) == 3:
            return name
        session = self.session()
        return name.within(session["database"], session["schema"])

    def full_place(self, place: Place) -> Place:
        """A folder of a stage with the stage's full name, as `full_name` gives it."""
        return Place(self.full_name(place.stage), place.folder)

    def issue_token(self) -> tuple[str, int]:
        """A token of this thread's session, and for how many seconds it is good: what a registry of
        images takes as a password. The session is of use for nothing else afterwards.

        Raises:
            SnowflakeError: it was refused, or this connector has no way to ask for one.
        """
        from snowflake.connector.errors import Error

        try:
            with warnings.catch_warnings():
                # The way of Snowflake's own command line; there is no other one yet.
                warnings.simplefilter("ignore", DeprecationWarning)
                issued = self._connections.mine().rest._token_request("ISSUE")["data"]
        except Error as error:
            raise _explained(error, "a token for the registry of images", "") from error
        except AttributeError as error:
            raise SnowflakeError(
                "this version of snowflake-connector-python gives out no token of a session"
            ) from error
        return str(issued["sessionToken"]), int(issued.get("validityInSecondsST") or 3600)

    def close(self) -> None:
        """Close all connections; a later statement makes another."""
        self._connections.close()

    def __repr__(self) -> str:
        return f"<Client: {self.statements} statements>"

    # -- inside

    def _execute(
        self, sql: str, binds: Sequence[Any], read: Callable[[Any], Any], *, again: bool
    ) -> Any:
        pause = FIRST_PAUSE
        for attempt in range(1, TRIES + 1):
            begun = self._clock.monotonic()
            sent = False
            try:
                connection = self._connections.mine()
                sent = True
                return self._once(connection, sql, binds, read)
            except SnowflakeError as error:
                soon = self._clock.monotonic() - begun < FIRST_ANSWER
                unsent = not sent or (soon and error.errno in _SESSION_OVER)
                if not error.passing or attempt == TRIES or not (again or unsent):
                    raise
                logger.warning("%s; trying again in %.0f s", error, pause)
                if error.errno not in _SQL_ONLY:
                    self._connections.drop()
            self._clock.sleep(pause * random.uniform(1.0, 2.0))
            pause *= 2
        raise AssertionError("unreachable")

    def _once(
        self, connection: Any, sql: str, binds: Sequence[Any], read: Callable[[Any], Any]
    ) -> Any:
        from snowflake.connector.errors import Error

        self._connections.count()
        shown = shape(sql)
        logger.debug("%s", shown)
        tag = json.dumps({"app": "flowdist", **self._tag})
        try:
            cursor = connection.cursor()
            try:
                # Keywords of both lines of the connector. Values are bound on the server, whatever
                # the style of a connection is that somebody else has opened; the tag is that of the
                # statement, so that such a session stays as it is.
                cursor.execute(
                    sql,
                    tuple(binds) or None,
                    _force_qmark_paramstyle=True,
                    _statement_params={"QUERY_TAG": tag},
                )
                return read(cursor)
            finally:
                cursor.close()
        except Error as error:
            role = str(getattr(connection, "role", "") or "")
            raise _explained(error, shown, role.strip('"')) from error


def rows_of(cursor: Any) -> list[dict[str, Any]]:
    """What a cursor has: rows by column, names in lower case."""
    names = [column[0].lower() for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def words(error: Any) -> tuple[int, str]:
    """The number of an error of the connector, and its words in one line."""
    from snowflake.connector.errors import OperationalError

    errno = int(getattr(error, "errno", 0) or 0)
    if errno in _KINDS and isinstance(error, OperationalError):
        errno = NOT_REACHED
    said = getattr(error, "raw_msg", None) or getattr(error, "msg", None) or error
    return errno, " ".join(str(said).split())


def _explained(error: Any, statement: str, role: str) -> SnowflakeError:
    errno, said = words(error)
    who = f"role {role}" if role else "this role"
    advice = {
        NOT_FOUND: f"; either it is not there, or {who} has no privilege on it",
        DENIED: f"; {who} lacks a privilege that this needs",
        NO_WAREHOUSE: "; give the plan a warehouse, or the connection one",
    }.get(errno, "")
    message = f"Snowflake: {said.rstrip('.')}{advice} (error {errno}, in: {statement})"
    return SnowflakeError(message, errno, statement, said)


_VALUES = re.compile(r"\$\$.*?\$\$|'(?:[^'\\]|''|\\.)*'|(?<![\w.$])\d+(?:\.\d+)?", re.DOTALL)


def shape(sql: str) -> str:
    """A statement as it is logged: one line, without values.

    >>> shape("SELECT a FROM t\\n WHERE b = 'secret' LIMIT 10")
    'SELECT a FROM t WHERE b = ? LIMIT ?'
    """
    line = " ".join(_VALUES.sub("?", sql).split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]} ..."
