"""SHOW TASKS, DESCRIBE TASK, and the table functions that show tasks and their runs."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from flowdist.emulator.catalog import Object
from flowdist.emulator.errors import compilation_error, does_not_exist, invalid_value
from flowdist.emulator.names import FullName, fold
from flowdist.emulator.result import Result, rows
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.statements import Context, statement, table
from flowdist.emulator.statements.showing import moment, read_filter
from flowdist.emulator.tasks import bodies
from flowdist.emulator.tasks.definitions import is_root
from flowdist.emulator.types import FIXED, LTZ, TEXT, VARIANT, DataType

WEEK = 7 * 86_400
AHEAD = 8 * 86_400
"""Seconds that histories reach back and forward."""

Columns = Sequence[tuple[str, DataType]]

_SHOWN: Columns = [
    ("created_on", LTZ),
    ("name", TEXT),
    ("id", TEXT),
    ("database_name", TEXT),
    ("schema_name", TEXT),
    ("owner", TEXT),
    ("comment", TEXT),
    ("warehouse", TEXT),
    ("schedule", TEXT),
    ("scheduling_mode", TEXT),
    ("target_completion_interval", TEXT),
    ("predecessors", TEXT),
    ("state", TEXT),
    ("definition", TEXT),
    ("condition", TEXT),
    ("allow_overlapping_execution", TEXT),
    ("error_integration", TEXT),
    ("success_integration", TEXT),
    ("last_committed_on", LTZ),
    ("last_suspended_on", LTZ),
    ("owner_role_type", TEXT),
    ("config", TEXT),
    ("last_suspended_reason", TEXT),
    ("task_relations", TEXT),
    ("execute_as_user", TEXT),
    ("overlap_policy", TEXT),
]
_TERSE = ("created_on", "name", "kind", "database_name", "schema_name", "schedule")
_DEPENDENTS = (
    *("created_on", "name", "database_name", "schema_name", "owner", "comment", "warehouse"),
    *("schedule", "predecessors", "state", "definition", "condition"),
)
_HISTORY: Columns = [
    ("QUERY_ID", TEXT),
    ("NAME", TEXT),
    ("DATABASE_NAME", TEXT),
    ("SCHEMA_NAME", TEXT),
    ("QUERY_TEXT", TEXT),
    ("CONDITION_TEXT", TEXT),
    ("STATE", TEXT),
    ("ERROR_CODE", FIXED),
    ("ERROR_MESSAGE", TEXT),
    ("SCHEDULED_TIME", LTZ),
    ("QUERY_START_TIME", LTZ),
    ("NEXT_SCHEDULED_TIME", LTZ),
    ("COMPLETED_TIME", LTZ),
    ("ROOT_TASK_ID", TEXT),
    ("GRAPH_VERSION", FIXED),
    ("RUN_ID", FIXED),
    ("RETURN_VALUE", TEXT),
    ("SCHEDULED_FROM", TEXT),
    ("ATTEMPT_NUMBER", FIXED),
    ("CONFIG", TEXT),
    ("QUERY_HASH", TEXT),
    ("QUERY_HASH_VERSION", FIXED),
    ("QUERY_PARAMETERIZED_HASH", TEXT),
    ("QUERY_PARAMETERIZED_HASH_VERSION", FIXED),
    ("GRAPH_RUN_GROUP_ID", TEXT),
    ("BACKFILL_INFO", VARIANT),
    ("SPCS_JOB_ID", FIXED),
]
_GRAPHS: Columns = [
    ("ROOT_TASK_NAME", TEXT),
    ("DATABASE_NAME", TEXT),
    ("SCHEMA_NAME", TEXT),
    ("STATE", TEXT),
    ("SCHEDULED_FROM", TEXT),
    ("FIRST_ERROR_TASK_NAME", TEXT),
    ("FIRST_ERROR_CODE", FIXED),
    ("FIRST_ERROR_MESSAGE", TEXT),
    ("SCHEDULED_TIME", LTZ),
    ("QUERY_START_TIME", LTZ),
    ("NEXT_SCHEDULED_TIME", LTZ),
    ("COMPLETED_TIME", LTZ),
    ("ROOT_TASK_ID", TEXT),
    ("GRAPH_VERSION", FIXED),
    ("RUN_ID", FIXED),
    ("ATTEMPT_NUMBER", FIXED),
    ("CONFIG", TEXT),
    ("GRAPH_RUN_GROUP_ID", TEXT),
    ("BACKFILL_INFO", VARIANT),
]


@statement("SHOW", "TASKS")
def show(context: Context, parse: Parser) -> Result:
    """SHOW [TERSE] TASKS [LIKE] [IN] [STARTS WITH] [ROOT ONLY] [LIMIT]."""
    chosen = read_filter(parse, context.session)
    roots = parse.accept("ROOT", "ONLY")
    if parse.accept("LIMIT"):
        limit = parse.integer()
        after = parse.text() if parse.accept("FROM") else None
        chosen = replace(chosen, limit=limit, after=after)
    parse.end()
    tasks = [task for task in context.account.catalog.all("task") if _may_see(context, task)]
    found = chosen.apply([task for task in tasks if is_root(task) or not roots])
    if "TERSE" in parse.modifiers:
        wanted = [("kind", TEXT) if name == "kind" else _column(name) for name in _TERSE]
        return _table(wanted, ({**_shown(context, task), "kind": None} for task in found))
    return _table(_SHOWN, (_shown(context, task) for task in found))


@statement("DESCRIBE", "TASK")
def describe(context: Context, parse: Parser) -> Result:
    """DESCRIBE TASK: what SHOW TASKS has of it."""
    task = context.account.access.find(
        context.session, "task", context.session.resolve(parse.name(), "DESCRIBE TASK")
    )
    parse.end()
    if not _may_see(context, task):
        raise does_not_exist("task", task)
    return _table(_SHOWN, [_shown(context, task)])


@table("INFORMATION_SCHEMA.TASK_DEPENDENTS")
def dependents(context: Context, task_name: str, recursive: bool = True) -> Result:
    """A task and what comes after it, nearer ones first."""
    name = context.session.resolve(Parser(task_name).name(), "TASK_DEPENDENTS")
    task = context.account.access.find(context.session, "task", name)
    definitions = context.account.tasks.definitions
    found = definitions.members(task)
    if not recursive:
        nodes = definitions.nodes(task.database, task.schema)
        direct = {*nodes.children.get(task.name, ()), nodes.finalizers.get(task.name)}
        found = [task, *(other for other in found[1:] if other.name in direct)]
    columns = [(name.upper(), _column(name)[1]) for name in _DEPENDENTS]
    values = ([_shown(context, other)[name] for name in _DEPENDENTS] for other in found)
    return rows(columns, list(values))


@table("INFORMATION_SCHEMA.TASK_HISTORY")
def history(
    context: Context,
    scheduled_time_range_start: Any = None,
    scheduled_time_range_end: Any = None,
    result_limit: int = 100,
    task_name: str | None = None,
    database_name: str | None = None,
    schema_name: str | None = None,
    error_only: bool = False,
    root_task_id: str | None = None,
) -> Result:
    """Runs of tasks of the last seven days, and those that are scheduled; latest first."""
    now = context.account.clock.time()
    since = _seconds(context, scheduled_time_range_start, now - WEEK)
    until = _seconds(context, scheduled_time_range_end, now + AHEAD)
    limit = _limit(result_limit)
    if schema_name is not None and database_name is None:
        raise compilation_error("SCHEMA_NAME cannot be specified without DATABASE_NAME.")
    # A client's clock may be behind by a moment; what is older than a week is gone.
    if since < now - WEEK - 60 or until < now - WEEK:
        raise invalid_value("time range", "SCHEDULED_TIME_RANGE_START")

    def wanted(row: dict[str, Any]) -> bool:
        return (
            (task_name is None or row["NAME"].upper() == task_name.upper())
            and (database_name is None or row["DATABASE_NAME"] == fold(database_name))
            and (schema_name is None or row["SCHEMA_NAME"] == fold(schema_name))
            and (root_task_id is None or row["ROOT_TASK_ID"] == root_task_id)
            and (not error_only or row["STATE"].startswith(("FAILED", "CANCELLED")))
        )

    found = [row for row in _scheduled(context, since, until) if wanted(row)]
    allowed = _Seen(context)
    for run in context.account.tasks.store.history(since, until):
        row = _run(run)
        if wanted(row) and allowed(FullName(run["database"], run["schema"], run["task"]), run):
            found.append(row)
            if len(found) >= limit:
                break
    if any(row["STATE"] == "EXECUTING" for row in found):
        _add_jobs(context, found)
    found.sort(key=lambda row: row["SCHEDULED_TIME"], reverse=True)
    return _table(_HISTORY, found[:limit])


@table("SNOWFLAKE.ACCOUNT_USAGE.TASK_HISTORY")
def account_history(context: Context, **named: Any) -> Result:
    """Runs of tasks that have ended; here without the delay that Snowflake has."""
    shared = context.account.catalog.require("database", ("SNOWFLAKE",))
    if not context.account.access.can(context.session, "IMPORTED PRIVILEGES", shared):
        raise does_not_exist("object", "SNOWFLAKE.ACCOUNT_USAGE.TASK_HISTORY")
    names = (
        *("NAME", "QUERY_TEXT", "CONDITION_TEXT", "SCHEMA_NAME", "TASK_SCHEMA_ID"),
        *("DATABASE_NAME", "TASK_DATABASE_ID", "SCHEDULED_TIME", "COMPLETED_TIME", "STATE"),
        *("RETURN_VALUE", "QUERY_ID", "QUERY_START_TIME", "ERROR_CODE", "ERROR_MESSAGE"),
        *("GRAPH_VERSION", "RUN_ID", "ROOT_TASK_ID", "SCHEDULED_FROM", "ATTEMPT_NUMBER"),
        *("INSTANCE_ID", "CONFIG", "QUERY_HASH", "QUERY_HASH_VERSION"),
        *("QUERY_PARAMETERIZED_HASH", "QUERY_PARAMETERIZED_HASH_VERSION"),
        *("GRAPH_RUN_GROUP_ID", "BACKFILL_INFO", "SPCS_JOB_ID"),
    )
    types = {**dict(_HISTORY), "ERROR_CODE": TEXT}
    allowed = _Seen(context)
    store = context.account.tasks.store
    found = []
    for run in store.history(0, context.account.clock.time()):
        place = FullName(run["database"], run["schema"], run["task"])
        if run["completed"] is None or not allowed(place, run):
            continue
        row = {**dict.fromkeys(names), **_run(run)}
        row["ERROR_CODE"] = None if run["error_code"] is None else str(run["error_code"])
        for kind, name in (
            ("database", (place.database,)),
            ("schema", (place.database, place.schema)),
        ):
            parent = context.account.catalog.find(kind, name)
            row[f"TASK_{kind.upper()}_ID"] = parent.id if parent else None
        found.append(row)
    return _table([(name, types.get(name, FIXED)) for name in names], found)


@table("INFORMATION_SCHEMA.CURRENT_TASK_GRAPHS")
def current(
    context: Context, result_limit: int = 1000, root_task_name: str | None = None
) -> Result:
    """Graphs that run, and those that are scheduled; the latest first."""
    columns = [column for column in _GRAPHS if column[0] != "COMPLETED_TIME"]
    now = context.account.clock.time()
    found = _graph_rows(context, context.account.tasks.store.graphs(None))
    for row in _scheduled(context, 0, now + AHEAD):
        found.append({**dict.fromkeys(name for name, _ in columns), **row})
        found[-1]["ROOT_TASK_NAME"] = row["NAME"]
    found.sort(key=lambda row: row["SCHEDULED_TIME"], reverse=True)
    return _table(columns, _of_root(found, root_task_name)[: _limit(result_limit)])


@table("INFORMATION_SCHEMA.COMPLETE_TASK_GRAPHS")
def complete(
    context: Context,
    result_limit: int = 1000,
    root_task_name: str | None = None,
    error_only: bool = False,
) -> Result:
    """Runs of graphs that have ended in the last hour, the last first."""
    since = context.account.clock.time() - 3600
    found = _graph_rows(context, context.account.tasks.store.graphs(since))
    chosen = [
        row
        for row in _of_root(found, root_task_name)
        if row["STATE"] != "SKIPPED" and (not error_only or row["STATE"] != "SUCCEEDED")
    ]
    return _table(_GRAPHS, chosen[: _limit(result_limit)])


# -- rows


def _shown(context: Context, task: Object) -> dict[str, Any]:
    data = task.data
    nodes = context.account.tasks.definitions.nodes(task.database, task.schema)
    above = [str(FullName(task.database, task.schema, name)) for name in data["predecessors"]]
    relations: dict[str, Any] = {"Predecessors": above}
    if data["finalizes"] is not None:
        place = FullName(task.database, task.schema, data["finalizes"])
        relations = {"FinalizedRootTask": str(place), **relations}
    elif (last := nodes.finalizers.get(task.name)) is not None:
        relations["FinalizerTask"] = str(FullName(task.database, task.schema, last))
    root = is_root(task)
    target = data["options"].get("TARGET_COMPLETION_INTERVAL")
    mode = "FLEXIBLE" if target else "FIXED"
    return {
        "created_on": moment(task.created_on),
        "name": task.name,
        "id": data["id"],
        "database_name": task.database,
        "schema_name": task.schema,
        "owner": task.owner,
        "comment": task.comment,
        "warehouse": data["warehouse"],
        "schedule": data["schedule"],
        "scheduling_mode": mode if data["warehouse"] is None else None,
        "target_completion_interval": target,
        "predecessors": json.dumps(above, indent=2),
        "state": data["state"],
        "definition": data["definition"],
        "condition": data["condition"],
        "allow_overlapping_execution": (
            str(data["overlap"] == "ALLOW_CHILD_OVERLAP").lower() if root else "null"
        ),
        "error_integration": "null",
        "success_integration": "null",
        "last_committed_on": moment(data["committed_on"]),
        "last_suspended_on": moment(data["suspended_on"]),
        "owner_role_type": "ROLE",
        "config": data["config"],
        "last_suspended_reason": data["suspended_reason"],
        "task_relations": json.dumps(relations, separators=(",", ":")),
        "execute_as_user": None,
        "overlap_policy": data["overlap"] if root else None,
    }


def _run(run: sqlite3.Row) -> dict[str, Any]:
    return {
        "id": run["id"],
        "QUERY_ID": run["query_id"],
        "NAME": run["task"],
        "DATABASE_NAME": run["database"],
        "SCHEMA_NAME": run["schema"],
        "QUERY_TEXT": run["definition"],
        "CONDITION_TEXT": run["condition"],
        "STATE": run["state"],
        "ERROR_CODE": run["error_code"],
        "ERROR_MESSAGE": run["error"],
        "SCHEDULED_TIME": moment(run["scheduled"]),
        "QUERY_START_TIME": moment(run["started"]),
        "NEXT_SCHEDULED_TIME": moment(run["next"]) if run["task"] == run["root"] else None,
        "COMPLETED_TIME": moment(run["completed"]),
        "ROOT_TASK_ID": run["root_id"],
        "GRAPH_VERSION": run["version"],
        "RUN_ID": round(run["original"] * 1000),
        "RETURN_VALUE": run["returned"],
        "SCHEDULED_FROM": run["scheduled_from"],
        "ATTEMPT_NUMBER": run["attempt"],
        "CONFIG": run["config"],
        "GRAPH_RUN_GROUP_ID": run["run_group"],
        "SPCS_JOB_ID": run["job"],
    }


def _add_jobs(context: Context, found: list[dict[str, Any]]) -> None:
    """The jobs of runs that go on: what has ended has its job written down."""
    jobs = bodies.jobs(context.account)
    for row in found:
        if row["STATE"] == "EXECUTING" and row["id"] in jobs:
            row["SPCS_JOB_ID"] = jobs[row["id"]].id


def _scheduled(context: Context, since: float, until: float) -> list[dict[str, Any]]:
    """The next run of each root that is started and has a schedule, and runs that wait."""
    account = context.account
    waiting = [(name, due, "SCHEDULE", None) for name, _, due in account.tasks.scheduled()]
    for queued in account.tasks.store.queued():
        root = account.tasks.definitions.find_by_id(queued["root_id"])
        if root is not None:
            config = queued["config"] or root.data["config"]
            waiting.append((root.full_name, queued["requested"], "EXECUTE_TASK", config))
    found = []
    for name, due, source, config in waiting:
        task = account.catalog.find("task", name)
        if task is None or not since <= due <= until or not _may_see(context, task):
            continue
        row: dict[str, Any] = {
            "NAME": task.name,
            "DATABASE_NAME": task.database,
            "SCHEMA_NAME": task.schema,
            "QUERY_TEXT": task.data["definition"],
            "CONDITION_TEXT": task.data["condition"],
            "STATE": "SCHEDULED",
            "SCHEDULED_TIME": moment(due),
            "ROOT_TASK_ID": task.data["id"],
            "GRAPH_VERSION": task.data["version"],
            "RUN_ID": round(due * 1000),
            "SCHEDULED_FROM": source,
            "ATTEMPT_NUMBER": 1,
            "CONFIG": config if source == "EXECUTE_TASK" else task.data["config"],
        }
        found.append(row)
    return found


def _graph_rows(context: Context, found: Iterable[sqlite3.Row]) -> list[dict[str, Any]]:
    allowed = _Seen(context)
    return [
        {
            "ROOT_TASK_NAME": row["root"],
            "DATABASE_NAME": row["database"],
            "SCHEMA_NAME": row["schema"],
            "STATE": row["state"],
            "SCHEDULED_FROM": row["scheduled_from"],
            "FIRST_ERROR_TASK_NAME": row["error_task"],
            "FIRST_ERROR_CODE": row["error_code"],
            "FIRST_ERROR_MESSAGE": row["error"],
            "SCHEDULED_TIME": moment(row["scheduled"]),
            "QUERY_START_TIME": moment(row["started"]),
            "NEXT_SCHEDULED_TIME": moment(row["next"]),
            "COMPLETED_TIME": moment(row["completed"]),
            "ROOT_TASK_ID": row["root_id"],
            "GRAPH_VERSION": row["version"],
            "RUN_ID": round(row["original"] * 1000),
            "ATTEMPT_NUMBER": row["attempt"],
            "CONFIG": row["config"],
            "GRAPH_RUN_GROUP_ID": row["run_group"],
        }
        for row in found
        if allowed(FullName(row["database"], row["schema"], row["root"]), row)
    ]


def _of_root(found: list[dict[str, Any]], name: str | None) -> list[dict[str, Any]]:
    if name is None:
        return found
    return [row for row in found if row["ROOT_TASK_NAME"].upper() == name.upper()]


def _column(name: str) -> tuple[str, DataType]:
    return next(column for column in _SHOWN if column[0] == name)


def _table(columns: Columns, found: Iterable[dict[str, Any]]) -> Result:
    return rows(columns, [[row.get(name) for name, _ in columns] for row in found])


# -- arguments and privileges


def _seconds(context: Context, value: Any, default: float) -> float:
    """A bound of a time range as Unix time: a timestamp, or a text that is one."""
    if value is None:
        return default
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise compilation_error(
                f"Timestamp '{value}' is not recognized", 100035, "22007"
            ) from None
    if not isinstance(value, datetime):
        raise invalid_value(value, "SCHEDULED_TIME_RANGE_START")
    if value.tzinfo is None:
        value = value.replace(tzinfo=ZoneInfo(str(context.session.parameter("TIMEZONE"))))
    return float(value.timestamp())


def _limit(value: Any) -> int:
    if not isinstance(value, (int, Decimal)) or not 1 <= value <= 10_000:
        raise invalid_value(value, "RESULT_LIMIT")
    return int(value)


_SEE = ("OWNERSHIP", "MONITOR", "OPERATE")


def _may_see(context: Context, task: Object) -> bool:
    access, session = context.account.access, context.session
    return any(access.can(session, privilege, task) for privilege in _SEE)


class _Seen:
    """Whose runs a session may see; asked once for each task."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._known: dict[tuple[FullName, str], bool] = {}
        self._all = context.account.access.can_account(context.session, "MONITOR EXECUTION")

    def __call__(self, name: FullName, row: sqlite3.Row) -> bool:
        """Whether a run of a task is shown; `row` says who owned it, in case it is gone."""
        if self._all:
            return True
        key = (name, str(row["owner"]))
        if key not in self._known:
            task = self._context.account.catalog.find("task", name)
            owned = row["owner"] in self._context.account.access.active(self._context.session)
            self._known[key] = owned or (task is not None and _may_see(self._context, task))
        return self._known[key]
