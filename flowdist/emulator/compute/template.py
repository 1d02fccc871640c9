"""Specification templates: ``{{ name }}`` and ``{{ name | default('x'[, true]) }}``.

A value is alphanumeric, or JSON as text; so that a string with a slash in it is written
``USING (image => '"/db/schema/repo/image:tag"')``.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from flowdist.emulator.compute.amounts import invalid_spec

__all__ = ["expand"]

_PLACE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_VARIABLE = re.compile(
    r"""\s*(?P<name>[A-Za-z_][A-Za-z0-9_$]*)\s*
        (?:\|\s*default\(\s*(?P<value>'[^']*'|"[^"]*"|[^,'")]+?)\s*
                        (?:,\s*(?P<blank>true|false)\s*)?\)\s*)?""",
    re.VERBOSE | re.IGNORECASE,
)
_PLAIN = re.compile(r"[A-Za-z0-9_.-]*")
_QUOTED_BEFORE = re.compile(r"[:\-\[,]\s*\Z")


def expand(template: str, values: Mapping[str, Any]) -> str:
    """The specification that a template and values make; names are compared with their case.

    SqlError where a variable without a default has no value, or a value is neither alphanumeric nor
    JSON.

    >>> expand("image: {{ image }} # {{n | default('1')}}", {"image": '"/a/b:c"'})
    'image: "/a/b:c" # 1'
    """

    def replaced(match: re.Match[str]) -> str:
        variable = _VARIABLE.fullmatch(match[1])
        if variable is None:
            raise invalid_spec(f"'{match[0]}' is not a variable of a template")
        name = variable["name"]
        value = _text(name, values[name]) if name in values else None
        if variable["value"] is not None and (
            value is None or (value == "" and (variable["blank"] or "").lower() == "true")
        ):
            return _placed(_default(variable["value"]), template, match)
        if value is None:
            raise invalid_spec(f"no value is given for the variable '{name}' of the template")
        return _placed(value, template, match)

    return _PLACE.sub(replaced, template)


def _default(text: str) -> str:
    if text[0] not in "'\"":
        return text
    value = str(ast.literal_eval(text))
    return value if _PLAIN.fullmatch(value) else json.dumps(value)


def _text(name: str, value: Any) -> str:
    """A value as it stands in YAML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        return str(value)
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    try:
        return json.dumps(json.loads(text))
    except ValueError:
        raise invalid_spec(
            f"the value of the variable '{name}' is neither alphanumeric nor valid JSON: {text}"
        ) from None


def _placed(value: str, template: str, match: re.Match[str]) -> str:
    """A string of JSON keeps its quotes only where it is a whole value, not a part of one."""
    if not value.startswith('"'):
        return value
    after = template[match.end() : match.end() + 1]
    whole = _QUOTED_BEFORE.search(template[: match.start()]) and after in ("", "\n", " ", ",", "]")
    return value if whole else str(json.loads(value))
