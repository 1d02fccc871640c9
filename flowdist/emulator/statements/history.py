"""QUERY_HISTORY: the table functions of INFORMATION_SCHEMA and the view of ACCOUNT_USAGE."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

from flowdist.emulator.errors import SqlError, does_not_exist
from flowdist.emulator.history import Entry, entry
from flowdist.emulator.result import Result, rows
from flowdist.emulator.statements import Context, table
from flowdist.emulator.statements.context_functions import CONTEXT_VERSION
from flowdist.emulator.statements.showing import moment
from flowdist.emulator.statements.warehouses import SIZES
from flowdist.emulator.types import BOOLEAN, FIXED, LTZ, DataType

__all__: list[str] = []

DAYS = 7
DEFAULT_LIMIT, LARGEST_LIMIT = 100, 10_000
ARRAY = DataType("ARRAY")

Value = Callable[[Entry, "Named"], Any]


class Named:
    """What entries are shown with: the sizes of warehouses."""

    def __init__(self, context: Context) -> None:
        self._catalog = context.account.catalog
        self._sizes: dict[str, tuple[str | None, str | None]] = {}

    def warehouse(self, name: str | None) -> tuple[str | None, str | None]:
        """Size and type, as far as the warehouse still exists."""
        if not name:
            return None, None
        if name not in self._sizes:
            found = self._catalog.find("warehouse", (name,))
            self._sizes[name] = (
                (SIZES[found.data["size"]], found.data["type"]) if found else (None, None)
            )
        return self._sizes[name]


def _elapsed(e: Entry) -> int:
    return max(0, round((e.ended - e.started) * 1000)) if e.ended else 0


def _zero(e: Entry, named: Named) -> int:
    return 0


def _null(e: Entry, named: Named) -> None:
    return None


def _numbers(*names: str) -> list[tuple[str, DataType, Value]]:
    return [(name, FIXED, _zero) for name in names]


def _texts(*names: str) -> list[tuple[str, DataType | None, Value]]:
    return [(name, None, _null) for name in names]


COLUMNS: list[tuple[str, DataType | None, Value]] = [
    ("QUERY_ID", None, lambda e, n: e.id),
    ("QUERY_TEXT", None, lambda e, n: e.text),
    ("DATABASE_NAME", None, lambda e, n: e.database),
    ("SCHEMA_NAME", None, lambda e, n: e.schema),
    ("QUERY_TYPE", None, lambda e, n: e.type),
    ("SESSION_ID", FIXED, lambda e, n: e.session_id),
    *_numbers("AUTHN_EVENT_ID"),
    ("USER_NAME", None, lambda e, n: e.user),
    ("USER_TYPE", None, lambda e, n: e.user_type),
    ("USER_DATABASE_NAME", None, lambda e, n: e.user_database),
    ("USER_SCHEMA_NAME", None, lambda e, n: e.user_schema),
    ("ROLE_NAME", None, lambda e, n: e.role),
    ("WAREHOUSE_NAME", None, lambda e, n: e.warehouse),
    ("WAREHOUSE_SIZE", None, lambda e, n: n.warehouse(e.warehouse)[0]),
    ("WAREHOUSE_TYPE", None, lambda e, n: n.warehouse(e.warehouse)[1]),
    ("CLUSTER_NUMBER", FIXED, lambda e, n: 1 if e.warehouse else None),
    ("QUERY_TAG", None, lambda e, n: e.tag),
    ("EXECUTION_STATUS", None, lambda e, n: e.status),
    ("ERROR_CODE", FIXED, lambda e, n: e.error_code),
    ("ERROR_MESSAGE", None, lambda e, n: e.error_message),
    ("START_TIME", LTZ, lambda e, n: moment(e.started)),
    ("END_TIME", LTZ, lambda e, n: moment(e.ended)),
    ("TOTAL_ELAPSED_TIME", FIXED, lambda e, n: _elapsed(e)),
    *_numbers("BYTES_SCANNED"),
    ("ROWS_PRODUCED", FIXED, lambda e, n: e.rows),
    *_numbers("COMPILATION_TIME"),
    ("EXECUTION_TIME", FIXED, lambda e, n: _elapsed(e)),
    *_numbers(
        "QUEUED_PROVISIONING_TIME",
        "QUEUED_REPAIR_TIME",
        "QUEUED_OVERLOAD_TIME",
        "TRANSACTION_BLOCKED_TIME",
    ),
    *_texts("OUTBOUND_DATA_TRANSFER_CLOUD", "OUTBOUND_DATA_TRANSFER_REGION"),
    *_numbers("OUTBOUND_DATA_TRANSFER_BYTES"),
    *_texts("INBOUND_DATA_TRANSFER_CLOUD", "INBOUND_DATA_TRANSFER_REGION"),
    *_numbers(
        "INBOUND_DATA_TRANSFER_BYTES", "LIST_EXTERNAL_FILE_TIME", "CREDITS_USED_CLOUD_SERVICES"
    ),
    ("RELEASE_VERSION", None, lambda e, n: CONTEXT_VERSION),
    *_numbers(
        "EXTERNAL_FUNCTION_TOTAL_INVOCATIONS",
        "EXTERNAL_FUNCTION_TOTAL_SENT_ROWS",
        "EXTERNAL_FUNCTION_TOTAL_RECEIVED_ROWS",
        "EXTERNAL_FUNCTION_TOTAL_SENT_BYTES",
        "EXTERNAL_FUNCTION_TOTAL_RECEIVED_BYTES",
    ),
    ("IS_CLIENT_GENERATED_STATEMENT", BOOLEAN, lambda e, n: False),
    *_texts("QUERY_HASH"),
    ("QUERY_HASH_VERSION", FIXED, _null),
    *_texts("QUERY_PARAMETERIZED_HASH"),
    ("QUERY_PARAMETERIZED_HASH_VERSION", FIXED, _null),
    *_numbers(
        "TRANSACTION_ID",
        "QUERY_ACCELERATION_BYTES_SCANNED",
        "QUERY_ACCELERATION_PARTITIONS_SCANNED",
        "QUERY_ACCELERATION_UPPER_LIMIT_SCALE_FACTOR",
        "BYTES_WRITTEN_TO_RESULT",
    ),
    ("ROWS_WRITTEN_TO_RESULT", FIXED, lambda e, n: e.rows),
    *_numbers("ROWS_INSERTED", "QUERY_RETRY_TIME"),
    *_texts("QUERY_RETRY_CAUSE"),
    *_numbers("FAULT_HANDLING_TIME"),
    ("BIND_VALUES", ARRAY, _null),
    *_texts("AGENT_TYPE"),
]


def _result(
    context: Context, found: list[Entry], columns: list[tuple[str, DataType | None, Value]]
) -> Result:
    named = Named(context)
    return rows(
        [name if kind is None else (name, kind) for name, kind, _ in columns],
        [[value(e, named) for _, _, value in columns] for e in found],
    )


@table("INFORMATION_SCHEMA.QUERY_HISTORY")
def query_history(context: Context, *arguments: Any, **named: Any) -> Result:
    """QUERY_HISTORY([END_TIME_RANGE_START, END_TIME_RANGE_END, RESULT_LIMIT, ...])."""
    given = _given(arguments, named, ())
    return _history(context, given, lambda e: True)


@table("INFORMATION_SCHEMA.QUERY_HISTORY_BY_SESSION")
def query_history_by_session(context: Context, *arguments: Any, **named: Any) -> Result:
    """The queries of a session; this one where none is named."""
    given = _given(arguments, named, ("session_id",))
    session = int(given.get("session_id") or context.session.id)
    return _history(context, given, lambda e: e.session_id == session)


@table("INFORMATION_SCHEMA.QUERY_HISTORY_BY_USER")
def query_history_by_user(context: Context, *arguments: Any, **named: Any) -> Result:
    """The queries of a user; this one where none is named."""
    given = _given(arguments, named, ("user_name",))
    user = _name(given.get("user_name")) or context.session.user
    return _history(context, given, lambda e: e.user == user)


@table("INFORMATION_SCHEMA.QUERY_HISTORY_BY_WAREHOUSE")
def query_history_by_warehouse(context: Context, *arguments: Any, **named: Any) -> Result:
    """The queries of a warehouse; the session's where none is named."""
    given = _given(arguments, named, ("warehouse_name",))
    warehouse = _name(given.get("warehouse_name")) or context.session.warehouse
    return _history(context, given, lambda e: e.warehouse == warehouse)


TIMES = (
    "end_time_range_start",
    "end_time_range_end",
    "result_limit",
    "include_client_generated_statement",
)


def _given(
    arguments: tuple[Any, ...], named: dict[str, Any], first: tuple[str, ...]
) -> dict[str, Any]:
    known = (*first, *TIMES)
    wrong = next((n for n in named if n not in known and n != "database"), None)
    if len(arguments) > len(known) or wrong is not None:
        raise SqlError(
            2140,
            "42601",
            "SQL compilation error:\ninvalid argument for function QUERY_HISTORY: "
            f"{(wrong or 'too many arguments').upper()}",
        )
    return {**dict(zip(known, arguments, strict=False)), **named}


def _name(text: str | None) -> str | None:
    if text is None:
        return None
    return text[1:-1].replace('""', '"') if text.startswith('"') else text.upper()


def _history(context: Context, given: dict[str, Any], wanted: Callable[[Entry], bool]) -> Result:
    now = context.account.clock.time()
    earliest = now - DAYS * 86_400
    since = _seconds(given.get("end_time_range_start"))
    until = _seconds(given.get("end_time_range_end"))
    if (since is not None and since < earliest - 60) or (until is not None and until < earliest):
        raise SqlError(
            709,
            "22023",
            f"Cannot retrieve data from more than {DAYS} days ago.",
        )
    limit = given.get("result_limit")
    limit = DEFAULT_LIMIT if limit is None else int(limit)
    if not 1 <= limit <= LARGEST_LIMIT:
        raise SqlError(
            1008,
            "22023",
            f"SQL compilation error:\ninvalid value [{limit}] for parameter 'RESULT_LIMIT'",
        )
    may_see = _may_see(context)
    found = [] if until is not None else _running(context)
    found += context.account.history.ended(since=earliest if since is None else since, until=until)
    return _result(context, [e for e in found if wanted(e) and may_see(e)][:limit], COLUMNS)


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, dict):  # a TIMESTAMP_TZ
        value = value["t"]
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    moment_ = value if value.tzinfo else value.replace(tzinfo=UTC)
    return float(moment_.timestamp())


def _running(context: Context) -> list[Entry]:
    """What runs now, newest first, this statement included."""
    sessions = context.account.sessions
    return [
        entry(q, sessions.get(q.session_id))
        for q in reversed(context.account.queries.all())
        if not q.state.ended
    ]


def _may_see(context: Context) -> Callable[[Entry], bool]:
    """Own queries, and those of warehouses that the role may monitor or operate."""
    access, session, catalog = context.account.access, context.session, context.account.catalog
    if "ACCOUNTADMIN" in access.active(session):
        return lambda e: True
    warehouses = {
        w.name
        for w in catalog.all("warehouse")
        if access.can(session, "MONITOR", w) or access.can(session, "OPERATE", w)
    }
    return lambda e: e.user == session.user or e.warehouse in warehouses


USAGE_STATUS = {"SUCCESS": "SUCCESS", "FAILED_WITH_ERROR": "FAIL"}


def _usage_columns() -> list[tuple[str, DataType | None, Value]]:
    known: dict[str, tuple[str, DataType | None, Value]] = {c[0]: c for c in COLUMNS}
    known["EXECUTION_STATUS"] = (
        "EXECUTION_STATUS",
        None,
        lambda e, n: USAGE_STATUS.get(e.status, e.status),
    )
    made = [known.get(name) or (name, FIXED, _null) for name in USAGE_NAMES]
    service = ("USER_TYPE", "USER_DATABASE_NAME", "USER_SCHEMA_NAME")
    return [*made, ("ROLE_TYPE", None, lambda e, n: "ROLE"), *(known[name] for name in service)]


USAGE_NAMES = (
    "QUERY_ID",
    "QUERY_TEXT",
    "DATABASE_ID",
    "DATABASE_NAME",
    "SCHEMA_ID",
    "SCHEMA_NAME",
    "QUERY_TYPE",
    "SESSION_ID",
    "AUTHN_EVENT_ID",
    "USER_NAME",
    "ROLE_NAME",
    "WAREHOUSE_ID",
    "WAREHOUSE_NAME",
    "WAREHOUSE_SIZE",
    "WAREHOUSE_TYPE",
    "CLUSTER_NUMBER",
    "QUERY_TAG",
    "EXECUTION_STATUS",
    "ERROR_CODE",
    "ERROR_MESSAGE",
    "START_TIME",
    "END_TIME",
    "TOTAL_ELAPSED_TIME",
    "BYTES_SCANNED",
    "ROWS_PRODUCED",
    "COMPILATION_TIME",
    "EXECUTION_TIME",
    "QUEUED_PROVISIONING_TIME",
    "QUEUED_REPAIR_TIME",
    "QUEUED_OVERLOAD_TIME",
    "TRANSACTION_BLOCKED_TIME",
    "CREDITS_USED_CLOUD_SERVICES",
    "RELEASE_VERSION",
    "IS_CLIENT_GENERATED_STATEMENT",
    "TRANSACTION_ID",
)
"""The columns of the view that mean something here, in the documented order."""


@table("SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY")
def account_usage(context: Context, **named: Any) -> Result:
    """Statements that have ended, without Snowflake's delay of up to 45 minutes."""
    access, catalog = context.account.access, context.account.catalog
    database = catalog.require("database", ("SNOWFLAKE",))
    if not access.can(context.session, "IMPORTED PRIVILEGES", database):
        raise does_not_exist("object", "SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY")
    return _result(context, context.account.history.ended(), _usage_columns())
