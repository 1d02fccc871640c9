"""The session, object and account parameters that the emulator knows, with Snowflake's defaults.

A parameter is *live* where the emulator acts by it, *idle* where nothing that it does in Snowflake
can be seen here (caches, prefetching, telemetry), and *fixed* where another value than the default
would change answers and the emulator has the default only: then other values are refused.
"""

from __future__ import annotations

import zoneinfo
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

from flowdist.emulator.errors import SqlError, invalid_value, unsupported

__all__ = ["ACCOUNT", "DEFAULTS", "OBJECT", "SESSION", "Effect", "Parameter", "invalid_property"]

LONGEST_TAG = 2000
LONGEST_TIMEOUT = 604_800


class Effect(StrEnum):
    """What a value other than the default does here."""

    LIVE = "live"
    IDLE = "idle"
    FIXED = "fixed"


@dataclass(frozen=True)
class Parameter:
    """A parameter; ``choices`` are its values where they can be listed, ``most`` the largest."""

    name: str
    default: Any
    description: str
    effect: Effect = Effect.LIVE
    choices: tuple[str, ...] = ()
    most: int | None = None

    @property
    def type(self) -> str:
        """As SHOW PARAMETERS names it."""
        if isinstance(self.default, bool):
            return "BOOLEAN"
        return "NUMBER" if isinstance(self.default, int) else "STRING"

    def read(self, value: Any) -> Any:
        """A value that somebody wants to set, in the parameter's type; SqlError 1008 where it is
        none, and the emulator's refusal where it would have no effect.
        """
        made = self._converted(value)
        if self.effect is Effect.FIXED and made != self.default:
            raise unsupported(f"{self.name} = {self.shown(made)}")
        return made

    def shown(self, value: Any) -> str:
        """A value as SHOW PARAMETERS writes it."""
        return str(value).lower() if isinstance(value, bool) else str(value)

    def _converted(self, value: Any) -> Any:
        text = str(value)
        if isinstance(self.default, bool):
            if text.upper() not in ("TRUE", "FALSE"):
                raise invalid_value(value, self.name)
            return text.upper() == "TRUE"
        if isinstance(self.default, int):
            if isinstance(value, bool) or not _whole(text):
                raise invalid_value(value, self.name)
            if not 0 <= int(Decimal(text)) <= (self.most if self.most is not None else 2**62):
                raise invalid_value(value, self.name)
            return int(Decimal(text))
        if isinstance(value, bool) or value is None:
            raise invalid_value(value, self.name)
        if self.choices:
            if text.upper() not in self.choices:
                raise invalid_value(value, self.name)
            return text.upper()
        if self.name == "TIMEZONE":
            return _zone(text)
        if self.most is not None and len(text) > self.most:
            raise invalid_value(value, self.name)
        return text


def invalid_property(name: str, kind: str) -> SqlError:
    """What ALTER ... SET says of a property or parameter that it does not know."""
    return SqlError(
        1420, "22023", f"SQL compilation error:\ninvalid property '{name}' for '{kind.upper()}'"
    )


def _whole(text: str) -> bool:
    digits = text.removeprefix("-").removesuffix(".0")
    return digits.isdigit()


def _zone(name: str) -> str:
    try:
        zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as unknown:
        raise invalid_value(name, "TIMEZONE") from unknown
    return name


def _table(*parameters: Parameter) -> dict[str, Parameter]:
    return {p.name: p for p in sorted(parameters, key=lambda p: p.name)}


_IDLE, _FIXED = Effect.IDLE, Effect.FIXED

SESSION: dict[str, Parameter] = _table(
    Parameter("ABORT_DETACHED_QUERY", False, "Abort queries whose client has disappeared.", _FIXED),
    Parameter("AUTOCOMMIT", True, "Whether a statement commits by itself."),
    Parameter("AUTOCOMMIT_API_SUPPORTED", True, "Whether clients may set AUTOCOMMIT.", _FIXED),
    Parameter("BINARY_INPUT_FORMAT", "HEX", "Input format for binary.", _FIXED),
    Parameter("BINARY_OUTPUT_FORMAT", "HEX", "Display format for binary.", _FIXED),
    Parameter(
        "CLIENT_ENABLE_LOG_INFO_STATEMENT_PARAMETERS", False, "Log binds in the client.", _IDLE
    ),
    Parameter("CLIENT_MEMORY_LIMIT", 1536, "Memory in MB for results in the client.", _IDLE),
    Parameter(
        "CLIENT_METADATA_REQUEST_USE_CONNECTION_CTX",
        False,
        "Whether metadata requests of clients are about the session's schema.",
        _IDLE,
    ),
    Parameter("CLIENT_PREFETCH_THREADS", 4, "Threads that prefetch results.", _IDLE, most=10),
    Parameter("CLIENT_RESULT_CHUNK_SIZE", 160, "Size of result chunks in MB.", _IDLE, most=160),
    Parameter("CLIENT_SESSION_KEEP_ALIVE", False, "Whether the client sends heartbeats."),
    Parameter(
        "CLIENT_SESSION_KEEP_ALIVE_HEARTBEAT_FREQUENCY",
        3600,
        "Seconds between heartbeats.",
        most=3600,
    ),
    Parameter(
        "CLIENT_STAGE_ARRAY_BINDING_THRESHOLD",
        65_280,
        "Binds from which on clients send them through a stage.",
        _IDLE,
    ),
    Parameter("CLIENT_TELEMETRY_ENABLED", False, "Whether the client sends telemetry.", _IDLE),
    Parameter(
        "CLIENT_TIMESTAMP_TYPE_MAPPING",
        "TIMESTAMP_LTZ",
        "The type of timestamps that clients bind.",
        _FIXED,
    ),
    Parameter("DATE_INPUT_FORMAT", "AUTO", "Input format for date.", _FIXED),
    Parameter("DATE_OUTPUT_FORMAT", "YYYY-MM-DD", "Display format for date."),
    Parameter("DEFAULT_NULL_ORDERING", "LAST", "Where NULLs are sorted.", _FIXED),
    Parameter(
        "ERROR_ON_NONDETERMINISTIC_MERGE",
        True,
        "Raise an error when a merge updates a row that joins many rows.",
        _FIXED,
    ),
    Parameter(
        "ERROR_ON_NONDETERMINISTIC_UPDATE",
        False,
        "Raise an error when an update changes a row that joins many rows.",
        _FIXED,
    ),
    Parameter(
        "HYBRID_TABLE_LOCK_TIMEOUT",
        3600,
        "Seconds to wait for a row of a hybrid table; 0 turns waiting off.",
    ),
    Parameter("GEOGRAPHY_OUTPUT_FORMAT", "GeoJSON", "Display format for geography.", _FIXED),
    Parameter("GEOMETRY_OUTPUT_FORMAT", "GeoJSON", "Display format for geometry.", _FIXED),
    Parameter("JDBC_QUERY_RESULT_FORMAT", "ARROW", "Format of results for JDBC.", _IDLE),
    Parameter("JSON_INDENT", 2, "Spaces by which JSON is indented.", _FIXED),
    Parameter("LOCK_TIMEOUT", 43200, "Seconds to wait for a lock; 0 turns waiting off."),
    Parameter("LOG_LEVEL", "OFF", "Severity from which on messages are kept.", _IDLE),
    Parameter("METRIC_LEVEL", "NONE", "Whether metrics are kept.", _IDLE),
    Parameter("MULTI_STATEMENT_COUNT", 1, "How many statements a request has; 0 for any number."),
    Parameter("NOORDER_SEQUENCE_AS_DEFAULT", True, "Sequences are without order.", _FIXED),
    Parameter("ODBC_QUERY_RESULT_FORMAT", "ARROW", "Format of results for ODBC.", _IDLE),
    Parameter(
        "PYTHON_CONNECTOR_QUERY_RESULT_FORMAT",
        "ARROW",
        "Format of results for the Python connector.",
        choices=("ARROW", "ARROW_FORCE", "JSON"),
    ),
    Parameter("QUERY_TAG", "", "String that tags the session's statements.", most=LONGEST_TAG),
    Parameter("QUOTED_IDENTIFIERS_IGNORE_CASE", False, "Ignore the case of quotes.", _FIXED),
    Parameter("READ_LATEST_WRITES", False, "Whether reads of hybrid tables see all writes.", _IDLE),
    Parameter("ROWS_PER_RESULTSET", 0, "Maximum number of rows of a result.", _FIXED),
    Parameter("SEARCH_PATH", "$current, $public", "Where names are looked for.", _FIXED),
    Parameter("STATEMENT_QUEUED_TIMEOUT_IN_SECONDS", 0, "Timeout for queued statements.", _IDLE),
    Parameter(
        "STATEMENT_TIMEOUT_IN_SECONDS",
        172_800,
        "Timeout for statements; 0 stands for the maximum, 604800.",
        most=LONGEST_TIMEOUT,
    ),
    Parameter("STRICT_JSON_OUTPUT", False, "Whether JSON output is strict.", _FIXED),
    Parameter("TIMESTAMP_DAY_IS_ALWAYS_24H", False, "Days always have 24 hours.", _FIXED),
    Parameter("TIMESTAMP_INPUT_FORMAT", "AUTO", "Input format for timestamp.", _FIXED),
    Parameter("TIMESTAMP_LTZ_OUTPUT_FORMAT", "", "Display format for TIMESTAMP_LTZ values."),
    Parameter(
        "TIMESTAMP_NTZ_OUTPUT_FORMAT",
        "YYYY-MM-DD HH24:MI:SS.FF3",
        "Display format for TIMESTAMP_NTZ values.",
    ),
    Parameter(
        "TIMESTAMP_OUTPUT_FORMAT",
        "YYYY-MM-DD HH24:MI:SS.FF3 TZHTZM",
        "Default display format for all timestamp types.",
    ),
    Parameter(
        "TIMESTAMP_TYPE_MAPPING",
        "TIMESTAMP_NTZ",
        "The type that TIMESTAMP stands for.",
        choices=("TIMESTAMP_NTZ", "TIMESTAMP_LTZ", "TIMESTAMP_TZ"),
    ),
    Parameter("TIMESTAMP_TZ_OUTPUT_FORMAT", "", "Display format for TIMESTAMP_TZ values."),
    Parameter("TIMEZONE", "America/Los_Angeles", "Time zone of the session."),
    Parameter("TIME_INPUT_FORMAT", "AUTO", "Input format for time.", _FIXED),
    Parameter("TIME_OUTPUT_FORMAT", "HH24:MI:SS", "Display format for time."),
    Parameter(
        "TRANSACTION_ABORT_ON_ERROR", False, "Whether an error rolls back a transaction.", _FIXED
    ),
    Parameter("TRACE_LEVEL", "OFF", "Which trace events are kept.", _IDLE),
    Parameter(
        "TRANSACTION_DEFAULT_ISOLATION_LEVEL",
        "READ COMMITTED",
        "Isolation level of transactions.",
        choices=("READ COMMITTED",),
    ),
    Parameter("TWO_DIGIT_CENTURY_START", 1970, "Century of two-digit years.", _FIXED),
    Parameter("UNSUPPORTED_DDL_ACTION", "IGNORE", "What DDL without effect does.", _FIXED),
    Parameter("USE_CACHED_RESULT", True, "Whether results may be reused.", _IDLE),
    Parameter("WEEK_OF_YEAR_POLICY", 0, "How weeks of the year are counted.", _FIXED),
    Parameter("WEEK_START", 0, "The first day of the week.", _FIXED),
)
"""What ALTER SESSION may set."""

OBJECT: dict[str, Parameter] = _table(
    Parameter("DATA_RETENTION_TIME_IN_DAYS", 1, "Days that old data are kept.", _FIXED),
    Parameter("MAX_CONCURRENCY_LEVEL", 8, "Statements that a warehouse runs at once.", _IDLE),
    Parameter("SUSPEND_TASK_AFTER_NUM_FAILURES", 10, "Failures that suspend a task.", _FIXED),
    Parameter("TASK_AUTO_RETRY_ATTEMPTS", 0, "Automatic retries of a task graph.", _FIXED),
    Parameter("USER_TASK_TIMEOUT_MS", 3_600_000, "Timeout of a task in milliseconds.", _FIXED),
)
"""What objects have; tasks have theirs by CREATE and ALTER TASK, not by the account's."""

ACCOUNT: dict[str, Parameter] = _table(
    Parameter(
        "EVENT_TABLE",
        "SNOWFLAKE.TELEMETRY.EVENTS",
        "The event table that logs and events of the account go to.",
        _FIXED,
    ),
    Parameter(
        "READ_CONSISTENCY_MODE",
        "SESSION",
        "How reads see what other sessions have just written.",
        _IDLE,
        choices=("SESSION", "GLOBAL"),
    ),
)
"""What only the account has."""

DEFAULTS: dict[str, Any] = {p.name: p.default for p in SESSION.values()}
"""Session parameters with Snowflake's defaults; one that is not here is unknown to the emulator."""
