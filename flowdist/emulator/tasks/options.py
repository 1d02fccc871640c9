"""The properties of CREATE TASK and ALTER TASK: how each is read, and what it may be."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from flowdist.emulator.errors import SqlError, invalid_value, unsupported
from flowdist.emulator.names import FullName
from flowdist.emulator.parameters import SESSION, invalid_property
from flowdist.emulator.sql.lexer import Lexeme, tokens
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.tasks.graph import task_error
from flowdist.emulator.tasks.schedule import interval, read_schedule

__all__ = [
    "UNSET",
    "changed_data",
    "check_condition",
    "config_object",
    "read_condition",
    "read_properties",
]

SIZES = ("XSMALL", "SMALL", "MEDIUM", "LARGE", "XLARGE", "XXLARGE")
OVERLAPS = ("NO_OVERLAP", "ALLOW_CHILD_OVERLAP", "ALLOW_ALL_OVERLAP")

REFUSED = (
    "TAG",
    "WITH",
    "CONTACT",
    "ERROR_INTEGRATION",
    "SUCCESS_INTEGRATION",
    "LOG_LEVEL",
    "TRACE_LEVEL",
    "USER_TASK_MINIMUM_TRIGGER_INTERVAL_IN_SECONDS",
    "EXECUTE",
)
"""Snowflake has them; the emulator has neither notifications nor streams nor events of tasks."""


def _text(parse: Parser) -> str:
    token = parse.peek()
    if token is not None and token.kind is Lexeme.NUMBER:
        raise _bad_value(parse)
    return parse.text()


def _bad_value(parse: Parser) -> SqlError:
    token = parse.peek(-1)
    name = parse.peek(-2) if token is not None and token.text == "=" else token
    value = parse.peek()
    return invalid_value(value.text if value else "", name.word if name else "")


def _number(parse: Parser) -> int:
    token = parse.peek()
    if token is not None and token.kind is Lexeme.STRING:
        raise _bad_value(parse)
    return parse.integer()


def _name(parse: Parser) -> tuple[str, ...]:
    token = parse.peek()
    if token is not None and token.kind is Lexeme.NUMBER:
        raise _bad_value(parse)
    return parse.name()


def _parameter(name: str) -> Callable[[Parser], Any]:
    def read(parse: Parser) -> Any:
        token = parse.peek()
        bare = token is not None and token.kind is Lexeme.WORD
        plain = bare and parse.word() not in ("TRUE", "FALSE", "NULL")
        value = parse.text_or_word().upper() if plain else parse.literal()
        return SESSION[name].read(value)

    return read


KNOWN: dict[str, Callable[[Parser], Any]] = {
    "WAREHOUSE": Parser.identifier,
    "USER_TASK_MANAGED_INITIAL_WAREHOUSE_SIZE": Parser.text_or_word,
    "SCHEDULE": Parser.text_or_word,
    "CONFIG": Parser.text_or_word,
    "OVERLAP_POLICY": Parser.text_or_word,
    "ALLOW_OVERLAPPING_EXECUTION": Parser.boolean,
    "USER_TASK_TIMEOUT_MS": _number,
    "SUSPEND_TASK_AFTER_NUM_FAILURES": _number,
    "COMMENT": _text,
    "FINALIZE": _name,
    "TASK_AUTO_RETRY_ATTEMPTS": _number,
    "TARGET_COMPLETION_INTERVAL": _text,
    "SERVERLESS_TASK_MIN_STATEMENT_SIZE": Parser.text_or_word,
    "SERVERLESS_TASK_MAX_STATEMENT_SIZE": Parser.text_or_word,
    **{name: _parameter(name) for name in SESSION if name not in REFUSED},
}

UNSET = {
    "WAREHOUSE": "warehouse",
    "SCHEDULE": "schedule",
    "CONFIG": "config",
    "OVERLAP_POLICY": "overlap",
    "ALLOW_OVERLAPPING_EXECUTION": "overlap",
    "USER_TASK_TIMEOUT_MS": "timeout_ms",
    "SUSPEND_TASK_AFTER_NUM_FAILURES": "suspend_after",
    "TASK_AUTO_RETRY_ATTEMPTS": "retries",
    "COMMENT": "comment",
}
"""Which entry of a task's data a property sets, for those that have one to themselves."""

_OPTIONS = (
    "USER_TASK_MANAGED_INITIAL_WAREHOUSE_SIZE",
    "TARGET_COMPLETION_INTERVAL",
    "SERVERLESS_TASK_MIN_STATEMENT_SIZE",
    "SERVERLESS_TASK_MAX_STATEMENT_SIZE",
)
"""Sizes of compute that is not there: checked, kept and shown."""


def read_properties(parse: Parser) -> dict[str, Any]:
    """All ``NAME = value`` that follow; SqlError for one that the emulator refuses or that no task
    has.
    """
    found = parse.properties(KNOWN)
    if parse.word() in REFUSED or (parse.word() == "WITH" and parse.word(1) != "="):
        raise parse.unsupported()
    token = parse.peek()
    if token is not None and token.kind is Lexeme.WORD and parse.word(1) == "=":
        raise invalid_property(token.text.upper(), "task")
    return found


def changed_data(
    given: dict[str, Any], place: FullName, root: bool, old: dict[str, Any]
) -> dict[str, Any]:
    """What properties change in a task's data, checked one by one; FINALIZE and COMMENT are left to
    the caller. `old` is the data before; `root` whether the task will be a root.
    """
    found: dict[str, Any] = {}
    warehouse = given.get("WAREHOUSE", old["warehouse"])
    options = dict(old["options"])
    for name, value in given.items():
        if name in SESSION:
            _check_parameter(name, value)
            found.setdefault("parameters", dict(old["parameters"]))[name] = value
        elif name in _OPTIONS:
            _check_option(name, value, warehouse)
            options[name] = value if name == "TARGET_COMPLETION_INTERVAL" else value.upper()
            found["options"] = options
        elif name in ("OVERLAP_POLICY", "ALLOW_OVERLAPPING_EXECUTION"):
            found["overlap"] = _overlap(given, place, root)
        elif name in UNSET and name != "COMMENT":
            found[UNSET[name]] = value
    _check_sizes(options)
    if "schedule" in found:
        read_schedule(found["schedule"])
    _check_numbers(found)
    _check_place(found, place, root)
    return found


def config_object(text: str) -> dict[str, Any]:
    """A configuration as the object that it stands for; SqlError where it is none."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise task_error("Invalid config. Must be a string representation of a valid JSON Object.")
    return found


def read_condition(parse: Parser) -> str:
    """What follows WHEN, up to AS or the end, as written; checked."""
    start = end = parse.position()
    depth = 0
    while not parse.ended and not (parse.word() == "AS" and depth == 0):
        token = parse.next()
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        end = token.end
    condition = parse.sql[start:end].strip().rstrip(";").rstrip()
    if not condition:
        raise parse.error()
    check_condition(condition)
    return condition


def check_condition(condition: str) -> None:
    """Refuse a WHEN that uses more than comparisons and the functions that it may use."""
    found = tokens(condition)
    for token, following in zip(found, [*found[1:], None], strict=True):
        if token.word == "SYSTEM$STREAM_HAS_DATA":
            raise unsupported(f"WHEN {condition}")
        called = following is not None and following.text == "("
        if token.kind is Lexeme.WORD and called and token.word not in _MAY_PRECEDE_PARENTHESIS:
            raise task_error(
                "Invalid expression for task condition expression. Expression must be one of the "
                "following types: [Casts, Boolean operators, Comparison operators, "
                "SYSTEM$STREAM_HAS_DATA, SYSTEM$GET_PREDECESSOR_RETURN_VALUE]"
            )


_MAY_PRECEDE_PARENTHESIS = {
    "SYSTEM$GET_PREDECESSOR_RETURN_VALUE",
    *("AND", "OR", "NOT", "IN", "LIKE", "ILIKE", "BETWEEN", "CAST", "TRY_CAST"),
    *("NUMBER", "DECIMAL", "NUMERIC", "VARCHAR", "CHAR", "STRING"),
}


def _overlap(given: dict[str, Any], place: FullName, root: bool) -> str:
    allowed = given.get("ALLOW_OVERLAPPING_EXECUTION")
    policy = given.get("OVERLAP_POLICY")
    if allowed and not root:
        raise task_error(f"Cannot set allow_overlapping_execution on non-root task {place}.")
    by_switch = "ALLOW_CHILD_OVERLAP" if allowed else "NO_OVERLAP"
    if policy is None:
        return by_switch
    if policy.upper() not in OVERLAPS:
        raise SqlError(
            1422,
            "22023",
            f"SQL compilation error:\ninvalid value '{policy}' for property 'OVERLAP_POLICY'",
        )
    if not root:
        raise task_error(f"Cannot set overlap policy on non-root task {place}.")
    if allowed is not None and policy.upper() != by_switch:
        raise task_error(
            "Cannot specify ALLOW_OVERLAPPING_EXECUTION and OVERLAP_POLICY to different values in "
            "the same command."
        )
    return str(policy.upper())


def _check_parameter(name: str, value: Any) -> None:
    if name == "AUTOCOMMIT" and value is False:
        raise task_error(
            "The parameter AUTOCOMMIT = false is not supported with Tasks. Remove the parameter "
            "and try again."
        )
    if name == "SEARCH_PATH":
        raise task_error(
            "The parameter SEARCH_PATH is not supported with Tasks. Remove the parameter and try "
            "again."
        )


def _check_option(name: str, value: str, warehouse: str | None) -> None:
    if name == "TARGET_COMPLETION_INTERVAL":
        seconds = interval(value)
        if seconds is None or not 10 <= seconds <= 86_400:
            raise invalid_value(value, name)
    elif _size(value) not in SIZES:
        raise invalid_value(value, name)
    if warehouse is not None:
        raise task_error(f"Cannot set {name} on a non-serverless task.")


def _check_sizes(options: dict[str, Any]) -> None:
    least = options.get("SERVERLESS_TASK_MIN_STATEMENT_SIZE")
    most = options.get("SERVERLESS_TASK_MAX_STATEMENT_SIZE")
    first = options.get("USER_TASK_MANAGED_INITIAL_WAREHOUSE_SIZE")
    for low, small, high, large in (
        ("SERVERLESS_TASK_MIN_STATEMENT_SIZE", least, "SERVERLESS_TASK_MAX_STATEMENT_SIZE", most),
        ("USER_TASK_MANAGED_INITIAL_WAREHOUSE_SIZE", first, *_limit(most)),
    ):
        if small and large and SIZES.index(_size(small)) > SIZES.index(_size(large)):
            raise task_error(f"{low} ({small}) cannot be greater than {high} ({large}).")
    if first and least and SIZES.index(_size(first)) < SIZES.index(_size(least)):
        raise task_error(
            f"USER_TASK_MANAGED_INITIAL_WAREHOUSE_SIZE ({first}) cannot be less than "
            f"SERVERLESS_TASK_MIN_STATEMENT_SIZE ({least})."
        )


def _limit(most: str | None) -> tuple[str, str | None]:
    return "SERVERLESS_TASK_MAX_STATEMENT_SIZE", most


def _size(value: str) -> str:
    spelled = value.upper().replace("-", "")
    return "XXLARGE" if spelled == "X2LARGE" else spelled


def _check_numbers(found: dict[str, Any]) -> None:
    for name, most in (
        ("USER_TASK_TIMEOUT_MS", 604_800_000),
        ("TASK_AUTO_RETRY_ATTEMPTS", 30),
        ("SUSPEND_TASK_AFTER_NUM_FAILURES", 2**31 - 1),
    ):
        value = found.get(UNSET[name])
        if value is not None and not 0 <= value <= most:
            raise invalid_value(value, name)


def _check_place(found: dict[str, Any], place: FullName, root: bool) -> None:
    if found.get("config") is not None:
        config_object(found["config"])
    if root:
        return
    for name in ("TASK_AUTO_RETRY_ATTEMPTS", "SUSPEND_TASK_AFTER_NUM_FAILURES"):
        if found.get(UNSET[name]) is not None:
            raise task_error(
                f"Cannot set parameter {name} on non-root task {place.name}. Non-root tasks use "
                "the parameter setting from their root task. Please set this on the root task for "
                "this task instead."
            )
