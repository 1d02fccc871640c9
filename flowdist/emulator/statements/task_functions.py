"""Functions that tell a task about its run, and those that move tasks.

The first work in the session of a task's body, and in the session of a container of a job that a
task has started.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from flowdist.emulator.errors import SqlError, compilation_error
from flowdist.emulator.names import FullName, fold, shown
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.statements import Context, scalar
from flowdist.emulator.statements.tasks import resume
from flowdist.emulator.tasks import graph as rules
from flowdist.emulator.tasks.graph import task_error
from flowdist.emulator.tasks.runs import GraphRun, Run, State

LONGEST_VALUE = 10 * 1024
"""Bytes of a return value."""

_STEP = re.compile(r'"((?:[^"]|"")*)"|\[(\d+)\]|\[\'([^\']*)\'\]|([^.:\[\]"]+)|[.:]')


@scalar("SYSTEM$TASK_RUNTIME_INFO")
def runtime_info(context: Context, key: str) -> str | None:
    """What a run is part of."""
    graph, run = _current(context, "SYSTEM$TASK_RUNTIME_INFO")
    known = {
        "CURRENT_TASK_NAME": run.task,
        "CURRENT_ROOT_TASK_NAME": graph.version.root,
        "CURRENT_ROOT_TASK_UUID": graph.version.root_id,
        "CURRENT_TASK_GRAPH_RUN_GROUP_ID": graph.run_group,
        "CURRENT_TASK_GRAPH_ORIGINAL_SCHEDULED_TIMESTAMP": _timestamp(context, graph.original),
        "LAST_SUCCESSFUL_TASK_GRAPH_RUN_GROUP_ID": graph.last_group,
        "LAST_SUCCESSFUL_TASK_GRAPH_ORIGINAL_SCHEDULED_TIMESTAMP": _timestamp(
            context, graph.last_scheduled
        ),
    }
    if key.upper() not in known:
        raise compilation_error(
            f"Invalid argument [{key}] for function SYSTEM$TASK_RUNTIME_INFO. Expected one of: "
            f"{', '.join(known)}."
        )
    return known[key.upper()]


@scalar("SYSTEM$CURRENT_USER_TASK_NAME")
def task_name(context: Context) -> str:
    """The full name of the task that runs."""
    graph, run = _current(context, "SYSTEM$CURRENT_USER_TASK_NAME")
    return str(FullName(graph.version.database, graph.version.schema, run.task))


@scalar("SYSTEM$GET_TASK_GRAPH_CONFIG")
def config(context: Context, path: str | None = None) -> str | None:
    """The configuration of the run, or what a path leads to in it, as text."""
    graph, _ = _current(context, "SYSTEM$GET_TASK_GRAPH_CONFIG")
    if graph.config is None:
        return None
    found: Any = json.loads(graph.config)
    for step in _steps(path or ""):
        inside = isinstance(found, list) if isinstance(step, int) else isinstance(found, dict)
        if not inside:
            return None
        try:
            found = found[step]
        except (KeyError, IndexError):
            return None
    if found is None or isinstance(found, str):
        return found
    return json.dumps(found, separators=(",", ":"), ensure_ascii=False)


@scalar("SYSTEM$SET_RETURN_VALUE", acts=True)
def set_return_value(context: Context, value: Any) -> None:
    """Set what tasks that come after this one may ask for."""
    _, run = _current(context, "SYSTEM$SET_RETURN_VALUE")
    text = "" if value is None else str(value)
    if len(text.encode()) > LONGEST_VALUE:
        raise compilation_error(
            f"The return value of task {run.task} has more than {LONGEST_VALUE:,} bytes."
        )
    tasks = context.account.tasks
    with tasks.lock:
        run.returned = text
        tasks.store.update(run)


@scalar("SYSTEM$GET_PREDECESSOR_RETURN_VALUE")
def predecessor_value(context: Context, name: str | None = None) -> str | None:
    """The return value of a predecessor, or of an ancestor of that name."""
    graph, run = _current(context, "SYSTEM$GET_PREDECESSOR_RETURN_VALUE")
    members = graph.version.members
    nodes = rules.Nodes((m.name, rules.Node(m.predecessors)) for m in members.values())
    root = graph.version.root
    enabled = [one for one in members[run.task].predecessors if members[one].started or one == root]
    if name is None:
        if len(enabled) != 1:
            raise task_error(
                f"Task {run.task} has {len(enabled)} enabled predecessors. Pass the name of one to "
                "SYSTEM$GET_PREDECESSOR_RETURN_VALUE."
            )
        name = enabled[0]
    elif name not in enabled:
        above = nodes.ancestors(run.task)
        if name not in above or not (members[name].started or name == root):
            raise task_error(f"Task {run.task} has no enabled predecessor {name}.")
    return graph.returned.get(name)


@scalar("SYSTEM$TASK_DEPENDENTS_ENABLE", acts=True)
def enable(context: Context, name: str) -> str:
    """Resume a task and all that comes after it, what comes last first."""
    account = context.account
    with account.catalog.lock:
        place = context.session.resolve(Parser(name).name(), "SYSTEM$TASK_DEPENDENTS_ENABLE")
        task = account.access.find(context.session, "task", place)
        found = account.tasks.definitions.members(task)
        for one in found:
            account.access.require_any(context.session, ("OPERATE", "OWNERSHIP"), one)
        for one in reversed(found):
            resume(context, one)
    account.tasks.changed.set()
    return "true"


@scalar("SYSTEM$USER_TASK_CANCEL_ONGOING_EXECUTIONS", acts=True)
def cancel(context: Context, name: str) -> str:
    """Ask the runs of one task to end; its children are not asked."""
    account = context.account
    place = context.session.resolve(Parser(name).name(), "SYSTEM$USER_TASK_CANCEL")
    hint = (
        " If the task was dropped or replaced after a previous execution started, use "
        "SYSTEM$CANCEL_QUERY along with the query id to cancel the run."
    )
    task = account.catalog.find("task", place)
    if task is None or not account.access.visible(context.session, task):
        raise task_error(f"Task {shown(place.name)} not found or not authorized.{hint}")
    account.access.require_any(context.session, ("OPERATE", "OWNERSHIP"), task)
    ids = []
    with account.tasks.lock:
        roots = {root.data["id"] for root in account.tasks.definitions.roots(task)}
        for root in roots:
            for graph in account.tasks.active.get(root, []):
                run = graph.runs.get(task.name)
                if run is not None and run.state is State.EXECUTING:
                    run.cancelled = True
                    ids.append(run.query_id or "")
                    account.tasks.abort(run)
    if not ids:
        return f"Task {shown(task.name)} has no currently running executions.{hint}"
    return (
        f"Marked {len(ids)} task runs for cancellation. It may take a few seconds for cancellation "
        f"to complete. Query ids canceled: [{', '.join(ids)}]"
    )


def _current(context: Context, function: str) -> tuple[GraphRun, Run]:
    """The run in which a session is; SqlError where it is in none."""
    account, session = context.account, context.session
    reference = session.task
    if reference is None and session.service is not None:
        reference = account.tasks.of_service(session.service)
    graph = account.tasks.find(reference["group"], reference["attempt"]) if reference else None
    if reference is not None and graph is not None:
        for run in list(graph.runs.values()):
            if run.id == reference["run"]:
                return graph, run
    raise SqlError(91400, "22000", f"Function {function} must be called from within a task.")


def _timestamp(context: Context, moment: float | None) -> str | None:
    if moment is None:
        return None
    zone = ZoneInfo(str(context.session.parameter("TIMEZONE")))
    there = datetime.fromtimestamp(moment, zone)
    return f"{there:%Y-%m-%d %H:%M:%S}.{there.microsecond // 1000:03d} {there:%z}"


def _steps(path: str) -> list[str | int]:
    """The parts of a path as GET_PATH has it: ``a.b[0]['c'].\"d e\"``."""
    found: list[str | int] = []
    at = 0
    while at < len(path):
        match = _STEP.match(path, at)
        if match is None:
            raise compilation_error(f"Invalid extraction path '{path}': near '{path[at:]}'")
        quoted, index, key, word = match.groups()
        if index is not None:
            found.append(int(index))
        elif quoted is not None:
            found.append(fold(match.group()))
        elif key is not None or word is not None:
            found.append(key if key is not None else word)
        at = match.end()
    return found
