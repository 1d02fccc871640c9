"""Statements that were accepted and not waited for: after a crash, what their clients are told.

A client that has the id of such a statement does not send it again: it asks how it does. So it is
written down before the id is given out, and once more when it has ended. Results are not kept, but
what DML has done is known to the engine.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from flowdist.emulator.errors import SqlError
from flowdist.emulator.queries import Query
from flowdist.emulator.server.protocol import defect
from flowdist.emulator.sqlite import open_file

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["Detached"]

REMEMBERED = 86400.0
"""How long a client may ask after a restart, in seconds: as long as Snowflake keeps results."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS detached (id TEXT PRIMARY KEY, started REAL, json TEXT, ended TEXT);
CREATE INDEX IF NOT EXISTS by_time ON detached (started);
"""
_INTERRUPTED = SqlError(
    604,
    "57014",
    "SQL execution canceled: the emulator was ended while this statement ran. What it had changed "
    "until then may be there.",
)
"""Snowflake has no such error: there, no server ends under a statement."""


class Detached:
    """Those of an account; every method may be called from any thread."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._lock = threading.Lock()
        path = account.directory / "detached.sqlite"
        self._file = open_file(path)
        self._file.executescript(_SCHEMA)

    def start(self) -> None:
        """Take up what a former server has left; jobs have taken up theirs already."""
        self._forget_old()
        found = self._file.execute("SELECT json, ended FROM detached ORDER BY started").fetchall()
        for text, ended in found:
            query = Query(**json.loads(text))
            job = self._account.queries.find(query.id)
            if job is None:
                self._take_up(query, None if ended is None else json.loads(ended))
            elif ended is None:
                self._account.queries.when_done(job, partial(self._ended, job))

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._file.close()

    def note(self, query: Query) -> None:
        """A statement was accepted, and is about to run; sqlite3.Error where that cannot be
        written, and then it has failed.
        """
        text = json.dumps(query.described())
        try:
            with self._lock:
                self._forget_old()
                self._file.execute(
                    "INSERT INTO detached VALUES (?, ?, ?, NULL)", (query.id, query.started, text)
                )
        except sqlite3.Error as error:
            self._account.queries.finish(query, None, defect(error))
            raise
        self._account.queries.when_done(query, partial(self._ended, query))

    def _forget_old(self) -> None:
        old = self._account.clock.time() - REMEMBERED
        self._file.execute("DELETE FROM detached WHERE started < ?", (old,))

    def _ended(self, query: Query) -> None:
        # The arguments of its error; none where it had none.
        error = query.error
        text = json.dumps([] if error is None else [error.errno, error.sqlstate, error.message])
        # Where it cannot be written, it was interrupted as far as the next server knows.
        with suppress(sqlite3.Error), self._lock:
            self._file.execute("UPDATE detached SET ended = ? WHERE id = ?", (text, query.id))

    def _take_up(self, query: Query, ended: list[Any] | None) -> None:
        outcome = self._account.engine.outcome_of_request(query.request_id)
        error = None if outcome is not None or ended == [] else _INTERRUPTED
        if ended:
            error = SqlError(*ended)
        query.request_id = ""  # who sends it again did not get the id, and wants it to run
        self._account.queries.begin(query)
        self._account.queries.finish(query, outcome, error)
