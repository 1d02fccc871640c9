"""Statements asked of an account in this process, and their rows as dictionaries."""

from __future__ import annotations

from typing import Any

import pytest

from flowdist.emulator.account import Account
from flowdist.emulator.errors import SqlError


class As:
    """A session with a role: called with a statement, it gives the rows of the answer."""

    def __init__(self, account: Account, role: str = "FLOWDIST_ROLE", **rest: Any) -> None:
        place = {"database": "FLOWDIST", "schema": "PUBLIC", "warehouse": "FLOWDIST_WH", **rest}
        self.account = account
        self.session = account.open_session(place.pop("user", "FLOWDIST"), role, **place)

    def __call__(self, sql: str, *binds: Any) -> list[dict[str, Any]]:
        answer = self.account.execute(self.session, sql, binds)
        names = [column.name for column in answer.columns]
        return [dict(zip(names, row, strict=True)) for row in answer.rows()]

    def status(self, sql: str) -> str:
        """The one value of the one row that DDL answers."""
        ((_, value),) = self(sql)[0].items()
        return str(value)

    def columns(self, sql: str) -> list[str]:
        """The names of the columns of the answer."""
        return [column.name for column in self.account.execute(self.session, sql).columns]

    def error(self, sql: str) -> SqlError:
        """How a statement fails."""
        with pytest.raises(SqlError) as failed:
            self(sql)
        return failed.value
