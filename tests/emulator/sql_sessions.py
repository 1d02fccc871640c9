"""Sessions side by side, for tests of what they do to each other."""

from __future__ import annotations

import threading
from typing import Any

from flowdist.emulator.account import Account
from flowdist.emulator.errors import SqlError


class Run:
    """A session: called with a statement, it gives the rows."""

    def __init__(self, account: Account, parameters: dict[str, Any]) -> None:
        self.account = account
        self.session = account.open_session(
            "FLOWDIST",
            "ACCOUNTADMIN",
            database="FLOWDIST",
            schema="PUBLIC",
            warehouse="FLOWDIST_WH",
        )
        self.session.parameters.update(parameters)

    def __call__(self, sql: str, *binds: Any) -> list[tuple[Any, ...]]:
        return self.account.execute(self.session, sql, binds).rows()


def session(account: Account, **parameters: Any) -> Run:
    """A new session with these parameters."""
    return Run(account, parameters)


def emptied(account: Account) -> Account:
    """The account without sessions and without what is in its ready-made schema."""
    for one in list(account.sessions.values()):
        account.close_session(one)
    owner = account.open_session("FLOWDIST", "ACCOUNTADMIN", database="FLOWDIST")
    account.execute(owner, "DROP SCHEMA IF EXISTS flowdist.work")
    account.execute(owner, "USE ROLE flowdist_role")
    account.execute(owner, "CREATE OR REPLACE SCHEMA flowdist.public")
    return account


class Background:
    """A statement that another thread runs."""

    def __init__(self, run: Run, sql: str) -> None:
        self.rows: list[tuple[Any, ...]] | None = None
        self.error: SqlError | None = None
        self.locks = run.account.engine.locks
        self.thread = threading.Thread(target=self._run, args=(run, sql))
        self.thread.start()

    def _run(self, run: Run, sql: str) -> None:
        try:
            self.rows = run(sql)
        except SqlError as error:
            self.error = error

    @property
    def waits(self) -> bool:
        """Whether it comes to wait for a lock; it is the only one that might, or the last."""
        while self.thread.is_alive() and not self.locks.waiting:
            self.thread.join(0.005)
        return self.thread.is_alive()

    def result(self) -> list[tuple[Any, ...]]:
        self.thread.join(20)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error
        assert self.rows is not None
        return self.rows
