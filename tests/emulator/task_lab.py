"""What tests of tasks share: statements in a session, waiting, and bodies that wait or fail.

The functions below are known to SQL while this module is imported: ``SYSTEM$LAB_HOLD('name')`` does
not return before the test opens that gate or the query is aborted, ``SYSTEM$LAB_FAIL()`` fails.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flowdist.emulator.account import Account
from flowdist.emulator.errors import SqlError
from flowdist.emulator.queries import Query
from flowdist.emulator.result import Result
from flowdist.emulator.statements import SCALARS, TABLES, Context

__all__ = ["Lab"]


@dataclass
class Script:
    """What the bodies of one account are to do; a body may run in a thread of any import of this
    module, so it is kept with the account.
    """

    gates: dict[str, threading.Event] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    """How often a body is still to fail, by name."""


def script(account: Account) -> Script:
    found: Script = vars(account).setdefault("lab_script", Script())
    return found


def _hold(context: Context, name: str) -> str:
    gate = script(context.account).gates[name]
    while not gate.wait(0.01):
        context.query.check()
    context.query.check()
    return name


def _fail(context: Context, name: str = "") -> str:
    failures = script(context.account).failures
    if name and not failures.get(name):
        return "well"
    if name:
        failures[name] -= 1
    raise SqlError(100183, "P0000", "the body has failed")


SCALARS.setdefault("SYSTEM$LAB_HOLD", _hold)
SCALARS.setdefault("SYSTEM$LAB_FAIL", _fail)


class Lab:
    """An account with a session that owns tasks."""

    def __init__(self, account: Account, role: str = "FLOWDIST_ROLE") -> None:
        self.account = account
        self.session = account.open_session(
            "FLOWDIST", role, database="FLOWDIST", schema="PUBLIC", warehouse="FLOWDIST_WH"
        )

    def sql(self, text: str) -> list[tuple[Any, ...]]:
        """The rows that a statement answers."""
        return self.account.execute(self.session, text).rows()

    def refusal(self, text: str) -> SqlError:
        """The error of a statement that has to fail."""
        try:
            self.sql(text)
        except SqlError as error:
            return error
        raise AssertionError(f"not refused: {text}")

    def shown(self, name: str) -> dict[str, Any]:
        """What SHOW TASKS has of a task."""
        result = self.account.execute(self.session, f"SHOW TASKS LIKE '{name}'")
        return _records(result)[0]

    def table(self, function: str, **arguments: Any) -> list[dict[str, Any]]:
        """The rows of a table function, by column."""
        query, _ = self.account.query(self.session, function)
        context = Context(self.account, self.session, query)
        return _records(TABLES[f"INFORMATION_SCHEMA.{function}"](context, **arguments))

    def call(self, function: str, *arguments: Any) -> Any:
        """What a scalar function answers."""
        query, _ = self.account.query(self.session, function)
        return SCALARS[function](Context(self.account, self.session, query), *arguments)

    def history(self, name: str | None = None) -> list[dict[str, Any]]:
        """The runs of tasks that have begun, oldest first."""
        rows = self.table("TASK_HISTORY", result_limit=10_000, task_name=name)
        return [row for row in reversed(rows) if row["STATE"] != "SCHEDULED"]

    def states(self) -> dict[str, str]:
        """The state of the last run of each task."""
        return {row["NAME"]: row["STATE"] for row in self.history()}

    def resume(self, *names: str) -> None:
        """Resume tasks in this order."""
        for name in names:
            self.sql(f"ALTER TASK {name} RESUME")

    def wait(self, done: Callable[[], Any], seconds: float = 20.0) -> Any:
        """What `done` gives once it is true; AssertionError where it takes too long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = done()
            if found:
                return found
            time.sleep(0.005)
        raise AssertionError("waited in vain")

    def idle(self) -> None:
        """Wait until no graph runs."""

        def none() -> bool:
            with self.account.tasks.lock:
                return not self.account.tasks.active

        self.wait(none)

    def execute(self, root: str) -> None:
        """Run a graph to its end."""
        self.sql(f"EXECUTE TASK {root}")
        self.idle()

    def gate(self, name: str) -> threading.Event:
        """A gate that bodies may wait at; closed."""
        gates = script(self.account).gates
        gates[name] = threading.Event()
        return gates[name]

    def fails(self, name: str, times: int) -> None:
        """Let ``SYSTEM$LAB_FAIL('name')`` fail so often, and then no more."""
        script(self.account).failures[name] = times

    def query(self, text: str) -> Query:
        """A query that has been entered and not run."""
        return self.account.query(self.session, text)[0]


def _records(result: Result) -> list[dict[str, Any]]:
    names = [column.name for column in result.columns]
    return [dict(zip(names, row, strict=True)) for row in result.rows()]
