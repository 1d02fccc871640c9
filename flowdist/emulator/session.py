"""A session: who is connected, with which role, database, schema, warehouse and parameters."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from flowdist.emulator.errors import no_current_database, no_current_schema
from flowdist.emulator.names import FullName
from flowdist.emulator.parameters import DEFAULTS

__all__ = ["DEFAULTS", "Session"]


@dataclass
class Session:
    """What statements of one connection share; ``lock`` is held while one of them runs.

    ``service`` is the full name of the service whose container has signed in with its token.
    """

    id: int
    user: str
    role: str
    database: str | None = None
    schema: str | None = None
    warehouse: str | None = None
    service: str | None = None
    application: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Those that differ from their defaults."""
    variables: dict[str, Any] = field(default_factory=dict)
    """What SET has set."""
    variable_times: dict[str, tuple[float, float]] = field(default_factory=dict)
    """When each of them was first set and last set, in Unix time."""
    query_ids: list[str] = field(default_factory=list)
    """The last queries, oldest first, for LAST_QUERY_ID."""
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    task: dict[str, Any] | None = None
    """In a session that runs the body of a task: the run it belongs to."""
    secondary_roles: str = "NONE"
    """ALL or NONE: whether the user's other roles count too, except for creating objects."""

    def parameter(self, name: str) -> Any:
        """The value of a session parameter, as ALTER SESSION has set it or the default."""
        return self.parameters.get(name, DEFAULTS[name])

    def resolve(self, parts: tuple[str, ...], verb: str = "CREATE") -> FullName:
        """The full name of an object in a schema, by what the session has where parts are missing;
        SqlError 90105 or 90106 where it has nothing.
        """
        *above, name = parts
        database = above[-2] if len(above) == 2 else self.database
        schema = above[-1] if above else self.schema
        if database is None:
            raise no_current_database(verb)
        if schema is None:
            raise no_current_schema(verb)
        return FullName(database, schema, name)

    def resolve_schema(self, parts: tuple[str, ...], verb: str = "CREATE") -> tuple[str, str]:
        """Database and name of a schema given by one part or two."""
        *above, name = parts
        database = above[-1] if above else self.database
        if database is None:
            raise no_current_database(verb)
        return database, name
