"""Rows: Snowflake's SQL on DuckDB."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowdist.clock import Clock
from flowdist.emulator.catalog import Catalog
from flowdist.emulator.result import Result
from flowdist.emulator.session import Session

if TYPE_CHECKING:
    from flowdist.emulator.statements import Context

__all__ = ["Engine"]


class Engine:
    """One DuckDB file with the tables of all databases."""

    def __init__(self, path: Path, catalog: Catalog, clock: Clock) -> None:
        self.catalog = catalog

    def close(self) -> None:
        """Roll back what is open and close the file."""

    def forget(self, session: Session) -> None:
        """Roll back a session's transaction and drop its temporary tables."""

    def run(self, context: Context, sql: str, binds: Sequence[Any] = ()) -> Result:
        """Run one statement of SQL in the session of a context."""
        raise NotImplementedError
