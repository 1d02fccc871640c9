"""CREATE, ALTER, DROP and EXECUTE TASK."""

from __future__ import annotations

import json
from typing import Any

from flowdist.emulator.catalog import Object
from flowdist.emulator.errors import compilation_error
from flowdist.emulator.names import FullName, shown
from flowdist.emulator.parameters import SESSION, invalid_property
from flowdist.emulator.result import Result, message
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.statements import Context, statement
from flowdist.emulator.statements.creating import created, drop, free_name, replacing
from flowdist.emulator.tasks import graph
from flowdist.emulator.tasks.bodies import check_owner
from flowdist.emulator.tasks.definitions import DEFAULTS, is_root, new_data
from flowdist.emulator.tasks.graph import Node, Nodes, task_error
from flowdist.emulator.tasks.options import (
    UNSET,
    changed_data,
    config_object,
    read_condition,
    read_properties,
)

DONE = "Statement executed successfully."


@statement("CREATE", "TASK")
def create(context: Context, parse: Parser) -> Result:
    """CREATE [OR REPLACE | OR ALTER] TASK [IF NOT EXISTS], and CREATE TASK ... CLONE."""
    account, session = context.account, context.session
    replace = replacing(parse, "OR ALTER")
    alter_it = "OR ALTER" in parse.modifiers
    if_not_exists = parse.if_not_exists()
    place = session.resolve(parse.name(), "CREATE TASK")
    if parse.accept("CLONE"):
        return _clone(context, parse, place, replace, if_not_exists)
    given, after, condition, body = _definition(parse)
    with account.catalog.lock:
        account.access.require_create(session, "TASK", place)
        old = account.catalog.find("task", place)
        if old is not None and if_not_exists and not replace:
            return message(f"{shown(old.name)} already exists, statement succeeded.")
        _check_warehouse(context, given.get("WAREHOUSE"))
        if replace and old is not None:
            _check_replaced(context, old, bool(after) or "FINALIZE" in given)
        data = _data(context, place, given, after, condition, body)
        if alter_it and old is not None:
            return _transform(context, old, given, data)
        _check_graph(context, place, data, account.access.owner_role(session))
        there = free_name(context, "task", place, replace, if_not_exists, account.catalog.drop)
        if there is not None:
            return there
        made = account.catalog.create(
            "task",
            place,
            owner=account.access.owner_role(session),
            comment=given.get("COMMENT", ""),
            **data,
            **new_data(),
        )
        account.tasks.definitions.mark(made)
    account.tasks.changed.set()
    return created("Task", made.name)


@statement("ALTER", "TASK")
def alter(context: Context, parse: Parser) -> Result:
    """ALTER TASK in all its forms."""
    account, session = context.account, context.session
    if_exists = parse.if_exists()
    place = session.resolve(parse.name(), "ALTER TASK")
    if if_exists and account.catalog.find("task", place) is None:
        parse.rest()
        return message(DONE)
    with account.catalog.lock:
        task = account.access.find(session, "task", place)
        action = next((a for a in _ACTIONS if parse.accept(*a.split())), None)
        if action is None:
            raise parse.error()
        privileges = ("OPERATE", "OWNERSHIP") if action in _OPERATIONS else ("OWNERSHIP",)
        account.access.require_any(session, privileges, task)
        _ACTIONS[action](context, parse, task)
    account.tasks.changed.set()
    return message(DONE)


@statement("DROP", "TASK")
def drop_task(context: Context, parse: Parser) -> Result:
    """DROP TASK: what came after it stands alone, suspended."""
    account = context.account

    def remove(task: Object) -> None:
        definitions = account.tasks.definitions
        if len(definitions.members(task)) > 1 or not is_root(task):
            definitions.require_suspended(task)
        if not is_root(task):
            definitions.mark(task)
        definitions.sever(task)
        account.catalog.drop(task)

    with account.catalog.lock:
        result = drop(
            context, parse, "task", lambda n: context.session.resolve(n, "DROP TASK"), remove
        )
    account.tasks.changed.set()
    return result


@statement("EXECUTE", "TASK")
def execute(context: Context, parse: Parser) -> Result:
    """EXECUTE TASK: now, with another configuration, or what has failed again."""
    account, session = context.account, context.session
    root = account.access.find(session, "task", session.resolve(parse.name(), "EXECUTE TASK"))
    config = group = None
    retry = parse.accept("RETRY")
    if retry and not parse.accept("LAST"):
        parse.expect("GRAPH", "RUN", "GROUP")
        group = parse.text()
    elif parse.accept("USING", "CONFIG"):
        parse.accept("=")
        config = parse.text()
    parse.end()
    account.access.require_any(session, ("OPERATE", "OWNERSHIP"), root)
    if not is_root(root):
        raise task_error(
            f"Execute task cannot be called on non-root task {root}. Call EXECUTE TASK on the "
            "root task of its graph instead.",
            91435,
        )
    if config is not None:
        known = config_object(root.data["config"] or "{}")
        config = json.dumps(_merged(known, config_object(config)), separators=(",", ":"))
    check_owner(account, root.owner, root.data["warehouse"])
    if retry:
        account.tasks.retry(root, group)
    else:
        account.tasks.execute(root, config)
    return message(f"Task {shown(root.name)} is scheduled to run immediately.")


# -- what CREATE is made of


def _definition(parse: Parser) -> tuple[dict[str, Any], list[tuple[str, ...]], str | None, str]:
    given = read_properties(parse)
    after = parse.names() if parse.accept("AFTER") else []
    if parse.word() == "EXECUTE":
        raise parse.unsupported()
    condition = read_condition(parse) if parse.accept("WHEN") else None
    parse.expect("AS")
    return given, after, condition, _body(parse)


def _body(parse: Parser) -> str:
    body = parse.rest()
    if not body:
        raise parse.error()
    return body


def _data(
    context: Context,
    place: FullName,
    given: dict[str, Any],
    after: list[tuple[str, ...]],
    condition: str | None,
    body: str,
) -> dict[str, Any]:
    predecessors = _predecessors(context, place, after)
    data = {
        **DEFAULTS,
        "predecessors": predecessors,
        "finalizes": _finalized(context, place, given.get("FINALIZE")),
        "condition": condition,
        "definition": body,
    }
    root = not predecessors and data["finalizes"] is None
    return {**data, **changed_data(given, place, root, DEFAULTS)}


def _predecessors(
    context: Context, place: FullName, after: list[tuple[str, ...]], create: bool = True
) -> list[str]:
    """The names of tasks after which one is to come, each once."""
    found = []
    for parts in after:
        full = _resolved(context, place, parts)
        other = context.account.catalog.find("task", full)
        if other is None and full != place:
            named = ".".join(shown(part) for part in parts)
            raise task_error(f"Invalid predecessor {named} was specified.")
        if create and (full.database, full.schema) != (place.database, place.schema):
            raise task_error(f"Cannot have predecessor {full.name} from a different schema.")
        if full.name not in found:
            found.append(full.name)
    return found


def _finalized(context: Context, place: FullName, parts: tuple[str, ...] | None) -> str | None:
    if parts is None:
        return None
    full = _resolved(context, place, parts)
    named = ".".join(shown(part) for part in parts)
    if context.account.catalog.find("task", full) is None and full != place:
        raise task_error(f"Invalid finalized root task {named} was specified.")
    if (full.database, full.schema) != (place.database, place.schema):
        raise task_error(f"Cannot finalize graph {named} in a different schema.")
    return full.name


def _resolved(context: Context, place: FullName, parts: tuple[str, ...]) -> FullName:
    session = context.session
    if len(parts) == 1 and session.schema is None:
        return FullName(place.database, place.schema, parts[0])
    return session.resolve(parts, "CREATE TASK")


def _check_warehouse(context: Context, name: str | None) -> None:
    if name is None:
        return
    account = context.account
    found = account.catalog.find("warehouse", (name,))
    if found is None or not account.access.visible(context.session, found):
        raise task_error(f"Nonexistent warehouse {shown(name)} was specified.", 91083)


def _check_replaced(context: Context, old: Object, dependent: bool) -> None:
    definitions = context.account.tasks.definitions
    nodes = definitions.nodes(old.database, old.schema)
    if len(nodes.members(old.name)) > 1 or not is_root(old):
        definitions.require_suspended(old)
    if dependent and old.name in nodes.finalizers:
        raise task_error(
            f"Cannot replace task {old} with a non-root task because it has a finalizer task. "
            "Please remove the finalizer task first."
        )


def _check_graph(context: Context, place: FullName, data: dict[str, Any], owner: str) -> None:
    """Refuse data that a task of that name cannot have beside the others of its schema."""
    account = context.account
    nodes = Nodes(account.tasks.definitions.nodes(place.database, place.schema))
    nodes[place.name] = Node(tuple(data["predecessors"]), data["finalizes"])
    if data["schedule"] is not None and data["predecessors"]:
        raise task_error(f"Task {place.name} cannot have both a schedule and a predecessor.")
    if data["schedule"] is not None and data["finalizes"] is not None:
        raise task_error(f"Task {place.name} cannot have a schedule and be a finalizer task.")
    graph.check(nodes, place.name, place)
    root = nodes[place.name].root
    if not root and data["config"] is not None:
        raise task_error(f"Task {place} cannot both be a non-root task and have a config.")
    for name in (*data["predecessors"], *([data["finalizes"]] if data["finalizes"] else [])):
        other = account.catalog.require("task", FullName(place.database, place.schema, name))
        if other.owner != owner:
            raise task_error(f"Task {place} and task {other} must have the same owner role.")
        account.tasks.definitions.require_suspended(other)


def _transform(
    context: Context, old: Object, given: dict[str, Any], data: dict[str, Any]
) -> Result:
    """CREATE OR ALTER of a task that is there: it becomes as the statement says."""
    account = context.account
    account.access.require_owner(context.session, old)
    account.tasks.definitions.require_suspended(old)
    _check_graph(context, old.full_name, data, old.owner)
    account.tasks.definitions.mark(old)
    account.tasks.definitions.update(old, comment=given.get("COMMENT", ""), modified=True, **data)
    account.tasks.definitions.mark(old)
    account.tasks.changed.set()
    return message(DONE)


def _clone(
    context: Context, parse: Parser, place: FullName, replace: bool, if_not_exists: bool
) -> Result:
    account, session = context.account, context.session
    source_name = session.resolve(parse.name(), "CREATE TASK")
    if not parse.ended and parse.word() != ";":
        raise parse.unsupported()
    with account.catalog.lock:
        account.access.require_create(session, "TASK", place)
        source = account.access.find(session, "task", source_name)
        account.access.require_owner(session, source)
        owner = account.access.owner_role(session)
        data = {name: source.data[name] for name in (*DEFAULTS, "definition")}
        near = (source.database, source.schema) == (place.database, place.schema)
        if owner != source.owner or not near:
            data["predecessors"] = []
        data["finalizes"] = None  # a root has one finalizer, and has it already
        if replace and (old := account.catalog.find("task", place)) is not None:
            _check_replaced(context, old, bool(data["predecessors"]))
        _check_graph(context, place, data, owner)
        there = free_name(context, "task", place, replace, if_not_exists, account.catalog.drop)
        if there is not None:
            return there
        made = account.catalog.create(
            "task", place, owner=owner, comment=source.comment, **data, **new_data()
        )
        account.tasks.definitions.mark(made)
    return created("Task", made.name)


# -- what ALTER is made of


def _resume(context: Context, parse: Parser, task: Object) -> None:
    parse.end()
    resume(context, task)


def resume(context: Context, task: Object) -> None:
    """Start a task; a root gets its version, and its interval counts from now."""
    account = context.account
    definitions = account.tasks.definitions
    if task.data["state"] == "started":
        return
    check_owner(account, task.owner, task.data["warehouse"])
    if not is_root(task):
        definitions.require_suspended(task)
        account.catalog.update(task, state="started")
        definitions.mark(task)
        return
    definitions.commit(task)
    account.catalog.update(task, state="started", base=account.clock.time(), failures=0)


def _suspend(context: Context, parse: Parser, task: Object) -> None:
    parse.end()
    definitions = context.account.tasks.definitions
    if task.data["state"] == "suspended":
        return
    if not is_root(task):
        definitions.require_suspended(task)
        definitions.mark(task)
    definitions.suspend(task, "USER_SUSPENDED")


def _add_after(context: Context, parse: Parser, task: Object) -> None:
    added = parse.names()
    parse.end()
    definitions = context.account.tasks.definitions
    nodes = definitions.nodes(task.database, task.schema)
    if task.name in nodes.finalizers:
        raise task_error(
            "This task has a finalizer and cannot be made a child task. Please remove the "
            "finalizer before adding a predecessor."
        )
    names = _predecessors(context, task.full_name, added)
    predecessors = [*task.data["predecessors"], *names]
    _change(context, task, {"predecessors": list(dict.fromkeys(predecessors))})


def _remove_after(context: Context, parse: Parser, task: Object) -> None:
    parts = parse.names()
    parse.end()
    known = task.data["predecessors"]
    for one in parts:
        full = _resolved(context, task.full_name, one)
        here = (full.database, full.schema) == (task.database, task.schema)
        if here and full.name in known:
            continue
        _predecessors(context, task.full_name, parts, create=False)
        raise task_error(f"Task {shown(task.name)} does not have predecessor {shown(full.name)}.")
    removed = {part[-1] for part in parts}
    left = [name for name in known if name not in removed]
    _change(context, task, {"predecessors": left})
    if not left:
        context.account.tasks.definitions.suspend(task, "CHILD_BECAME_ROOT")


def _set(context: Context, parse: Parser, task: Object) -> None:
    given = read_properties(parse)
    if not given or not parse.ended:
        parse.end()
    if not given:
        raise parse.error()
    comment = given.pop("COMMENT", None)
    _check_warehouse(context, given.get("WAREHOUSE"))
    if "FINALIZE" in given:
        if task.data["finalizes"] is not None:
            raise task_error(
                f"Task {task} already is the finalizer of {task.data['finalizes']}. Use UNSET "
                "FINALIZE first."
            )
        finalized = _finalized(context, task.full_name, given.pop("FINALIZE"))
        if given:
            raise compilation_error("FINALIZE cannot be set together with other properties.")
        _change(context, task, {"finalizes": finalized})
        return
    changed = changed_data(given, task.full_name, is_root(task), task.data)
    _change(context, task, changed, comment)


def _unset(context: Context, parse: Parser, task: Object) -> None:
    definitions = context.account.tasks.definitions
    if parse.accept("FINALIZE"):
        parse.end()
        if task.data["finalizes"] is not None:
            _change(context, task, {"finalizes": None})
            definitions.suspend(task, "FINALIZER_BECAME_ROOT")
        return
    changed: dict[str, Any] = {}
    comment = None
    for name in _unset_names(parse):
        if name == "COMMENT":
            comment = ""
        elif name in SESSION:
            parameters = changed.get("parameters", task.data["parameters"])
            changed["parameters"] = {k: v for k, v in parameters.items() if k != name}
        elif name in UNSET:
            changed[UNSET[name]] = DEFAULTS[UNSET[name]]
        else:
            options = changed.get("options", task.data["options"])
            changed["options"] = {k: v for k, v in options.items() if k != name}
    _change(context, task, changed, comment)


def _unset_names(parse: Parser) -> list[str]:
    names = []
    while True:
        if parse.word() in ("TAG", "CONTACT", "EXECUTE", "DCM", "LOG_LEVEL"):
            raise parse.unsupported()
        name = parse.next().text.upper()
        if name not in UNSET and name not in SESSION and name not in _SIZES:
            raise invalid_property(name, "task")
        names.append(name)
        parse.accept(",")
        if parse.ended or parse.word() == ";":
            parse.end()
            return names


_SIZES = (
    "USER_TASK_MANAGED_INITIAL_WAREHOUSE_SIZE",
    "TARGET_COMPLETION_INTERVAL",
    "SERVERLESS_TASK_MIN_STATEMENT_SIZE",
    "SERVERLESS_TASK_MAX_STATEMENT_SIZE",
)


def _modify_as(context: Context, parse: Parser, task: Object) -> None:
    _change(context, task, {"definition": _body(parse)})


def _modify_when(context: Context, parse: Parser, task: Object) -> None:
    condition = read_condition(parse)
    parse.end()
    _change(context, task, {"condition": condition})


def _remove_when(context: Context, parse: Parser, task: Object) -> None:
    parse.end()
    _change(context, task, {"condition": None})


def _change(
    context: Context, task: Object, changed: dict[str, Any], comment: str | None = None
) -> None:
    """Change a task whose graph, before and after, is suspended."""
    account = context.account
    definitions = account.tasks.definitions
    definitions.require_suspended(task)
    _check_graph(context, task.full_name, {**task.data, **changed}, task.owner)
    definitions.mark(task)
    definitions.update(task, comment=comment, modified=True, **changed)
    definitions.mark(task)


def _merged(known: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """One object over another: objects in both are merged, all else is replaced."""
    found = dict(known)
    for name, value in given.items():
        old = found.get(name)
        both = isinstance(old, dict) and isinstance(value, dict)
        found[name] = _merged(old, value) if both and isinstance(old, dict) else value
    return found


_ACTIONS = {
    "RESUME": _resume,
    "SUSPEND": _suspend,
    "ADD AFTER": _add_after,
    "REMOVE AFTER": _remove_after,
    "REMOVE WHEN": _remove_when,
    "MODIFY AS": _modify_as,
    "MODIFY WHEN": _modify_when,
    "SET": _set,
    "UNSET": _unset,
}
_OPERATIONS = ("RESUME", "SUSPEND")
