"""Snowflake on localhost, for trying and testing without an account.

A server that the unmodified connector talks to: SQL on DuckDB, stages, hybrid tables, compute pools
with job services and services, tasks. docs/emulator.md says what is there and how it differs.

Who looks for something: `server/` is the protocol, `sql/` reads and runs SQL, `statements/` has a
module for each kind of object, `stages/`, `compute/` and `tasks/` are what these statements move.
`client.py` and `injection.py` are the other side: they start a server, and tell it what is to go
wrong.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowdist.emulator.client import Emulator as Emulator
    from flowdist.emulator.injection import Fault as Fault
    from flowdist.emulator.injection import Faults as Faults

__all__ = ["Emulator", "Fault", "Faults"]

_HOMES = {"Emulator": "client", "Fault": "injection", "Faults": "injection"}


def __getattr__(name: str) -> Any:
    # Imported when asked for: the server, which imports this package too, has no use for it.
    if name in _HOMES:
        return getattr(importlib.import_module(f"flowdist.emulator.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
