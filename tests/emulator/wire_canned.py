"""An engine with answers that are known beforehand, for tests of what goes over the wire."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa

from flowdist.emulator.account import Account
from flowdist.emulator.errors import does_not_exist
from flowdist.emulator.result import Column, Kind, Result, message, rows
from flowdist.emulator.statements import Context
from flowdist.emulator.types import BOOLEAN, FIXED, LTZ, REAL, TEXT, VARIANT, DataType

MOMENT = datetime(2024, 2, 29, 12, 34, 56, 789012)
TYPES: dict[str, tuple[DataType, Any]] = {
    "NUMBER": (FIXED, 7),
    "MONEY": (DataType("FIXED", 10, 2), Decimal("-1.25")),
    "WIDE": (FIXED, 10**30),
    "WIDE_MONEY": (DataType("FIXED", 38, 5), Decimal(10**25) + Decimal("0.12345")),
    "FLOAT": (REAL, 0.1),
    "TEXT": (TEXT, 'häl"lo\n'),
    "BOOLEAN": (BOOLEAN, False),
    "DATE": (DataType("DATE"), date(1969, 12, 31)),
    "TIME_9": (DataType("TIME", 0, 9), time(1, 2, 3, 456789)),
    "TIME_0": (DataType("TIME", 0, 0), time(23, 59, 59)),
    "NTZ_9": (DataType("TIMESTAMP_NTZ", 0, 9), MOMENT),
    "NTZ_3": (DataType("TIMESTAMP_NTZ", 0, 3), MOMENT.replace(microsecond=789000)),
    "NTZ_OLD": (DataType("TIMESTAMP_NTZ", 0, 9), datetime(1969, 12, 31, 23, 59, 59, 500000)),
    "LTZ_9": (LTZ, MOMENT.replace(tzinfo=UTC)),
    "LTZ_6": (DataType("TIMESTAMP_LTZ", 0, 6), MOMENT.replace(tzinfo=UTC)),
    "TZ_9": (DataType("TIMESTAMP_TZ", 0, 9), {"t": MOMENT.replace(tzinfo=UTC), "o": 90}),
    "TZ_0": (
        DataType("TIMESTAMP_TZ", 0, 0),
        {"t": MOMENT.replace(tzinfo=UTC, microsecond=0), "o": -300},
    ),
    "BINARY": (DataType("BINARY", length=8_388_608), b"\x00\xff"),
    "VARIANT": (VARIANT, '{\n  "a": 1\n}'),
    "OBJECT": (DataType("OBJECT"), "{}"),
    "ARRAY": (DataType("ARRAY"), "[]"),
}
"""A column of each type, by name, and a value in it."""


def canned(account: Account) -> Canned:
    """Put such an engine in place of the account's own."""
    made = Canned()
    account.engine.run = made.run  # type: ignore[method-assign]
    return made


class Canned:
    """Answers statements by their first word:

    VALUES_AND_NULLS, NO_VALUES, ONLY_NULLS: of all types. COUNT: how many INSERTs have run. WAIT:
    ends when ``release`` is set. MANY n: n rows. BOUND: the values that were bound, as text.
    """

    def __init__(self) -> None:
        self.inserts = 0
        self.running = threading.Semaphore(0)
        """Released by each WAIT that has begun."""
        self.release = threading.Event()

    def run(self, context: Context, sql: str, binds: Sequence[Any] = ()) -> Result:
        word, _, rest = sql.strip().partition(" ")
        answer: Callable[..., Result] = getattr(self, f"_{word.lower()}")
        return answer(context, rest, binds)

    def _select(self, context: Context, rest: str, binds: Sequence[Any]) -> Result:
        if rest.endswith("LIMIT 0"):  # a description
            return _all([])
        heights = {"values_and_nulls": "vn", "no_values": "", "only_nulls": "nn"}
        if rest in heights:
            return _all(
                [{n: v if k == "v" else None for n, (_, v) in TYPES.items()} for k in heights[rest]]
            )
        if rest == "count":
            return rows([("COUNT", FIXED)], [(self.inserts,)])
        if rest == "bound":
            return rows(["VALUE"], [(repr(value),) for value in binds])
        name, number = rest.split()
        if name == "wait":
            return self._wait(context, float(number))
        table = {
            "i": pa.array(range(int(number))),
            "s": [f"row {i}" * 40 for i in range(int(number))],
        }
        return Result((Column("I", FIXED), Column("S")), pa.table(table))

    def _wait(self, context: Context, seconds: float) -> Result:
        context.query.on_stop.append(self.release.set)
        self.running.release()
        self.release.wait(seconds)
        context.query.check()
        return rows(["STATUS"], [("waited",)])

    def _insert(self, context: Context, rest: str, binds: Sequence[Any]) -> Result:
        self.inserts += 1
        return rows([("number of rows inserted", FIXED)], [(3,)], Kind.INSERT)

    def _missing(self, context: Context, rest: str, binds: Sequence[Any]) -> Result:
        raise does_not_exist("table", rest)

    def _defect(self, context: Context, rest: str, binds: Sequence[Any]) -> Result:
        raise ZeroDivisionError("a bug")

    def _done(self, context: Context, rest: str, binds: Sequence[Any]) -> Result:
        return message("Statement executed successfully.")


def _all(values: list[dict[str, Any]]) -> Result:
    columns = [(name, data_type) for name, (data_type, _) in TYPES.items()]
    return rows(columns, [tuple(row.values()) for row in values])
