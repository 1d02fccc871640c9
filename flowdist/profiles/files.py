"""Profiles as TOML text: reading and checking a file's form, writing one more table.

Whether the fields suit a kind of plan is not known here; :mod:`flowdist.profiles.lookup` asks.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowdist.errors import ProfileError, nearest
from flowdist.resources import Resources

__all__ = ["Profile", "flatten", "nest", "parse", "read", "table"]

# What a bare TOML key may be, beginning with a letter; so that it can be typed, and written as
# [profiles.NAME] and as part of an environment variable, without quotes.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")

# What a table says about the profile itself; the rest are fields of the plan.
_ABOUT = ("extends", "description")


@dataclass(frozen=True)
class Profile:
    """A profile as one place states it, before ``extends`` is followed.

    ``fields`` is flat: a resource is the field "resources.memory", however the place wrote it, and
    a value of a table the field "environment.NAME".
    """

    name: str
    place: str
    """For people: the path of a file, "built-in", or "register_profile()"."""
    fields: Mapping[str, Any]
    extends: str | None = None
    description: str = ""

    def __str__(self) -> str:
        return f"profile '{self.name}' ({self.place})"

    @classmethod
    def of(cls, name: str, place: str, content: object) -> Profile:
        """A profile from a table's content, checked for its form; ProfileError says what is wrong.

        >>> Profile.of("mine", "./flowdist.toml", {"extends": "laptop", "memory": "8GB"}).fields
        {'resources.memory': '8GB'}
        """
        where = f"profile '{name}' ({place})"
        if not _NAME.fullmatch(name):
            raise ProfileError(
                f"{where}: a name is letters, digits, '_' and '-', beginning with a letter"
            )
        if not isinstance(content, Mapping):
            raise ProfileError(f"{where}: {content!r} is not a table; write [profiles.{name}]")
        about = {key: content[key] for key in _ABOUT if content.get(key) is not None}
        for key, value in about.items():
            if not isinstance(value, str):
                raise ProfileError(f"{where}: {key} = {value!r} is not a string")
        fields = {key: value for key, value in content.items() if key not in _ABOUT}
        return cls(name, place, flatten(fields, where), **about)


def flatten(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields with each value of a table under its dotted name; resources may also stand alone.

    >>> flatten({"workers": 2, "time": "1h", "resources": {"memory": "8GB"}}, "here")
    {'workers': 2, 'resources.memory': '8GB', 'resources.time': '1h'}
    >>> flatten({"environment": {"LANG": "C"}, "stages": {"fit": {"workers": 1}}}, "here")
    {'environment.LANG': 'C', 'stages.fit': {'workers': 1}}
    """
    flat: dict[str, Any] = {}
    for field, value in fields.items():
        if isinstance(value, Mapping) and value and field != "resources":
            flat |= {f"{field}.{key}": item for key, item in value.items()}
        elif field not in Resources.model_fields and field != "resources":
            flat[field] = value
    given = fields.get("resources")
    asked = given.asked if isinstance(given, Resources) else given or {}
    if not isinstance(asked, Mapping):
        raise ProfileError(
            f"{where}: resources = {given!r} is not a table; "
            'write for instance resources = {cpus = 4, memory = "8GB"}'
        )
    alone = {k: v for k, v in fields.items() if k in Resources.model_fields}
    return flat | {f"resources.{k}": v for k, v in {**asked, **alone}.items()}


def nest(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The opposite of :func:`flatten`: what a plan's constructor takes.

    >>> nest({"workers": 2, "resources.memory": "8GB"})
    {'workers': 2, 'resources': {'memory': '8GB'}}
    """
    nested: dict[str, Any] = {}
    for key, value in fields.items():
        group, dot, name = key.partition(".")
        if dot:
            nested.setdefault(group, {})[name] = value
        elif value != {}:
            nested[key] = value
        else:
            nested.setdefault(key, {})  # an empty table takes nothing away
    return nested


def read(path: Path) -> dict[str, Profile]:
    """The profiles of a file by name; none where there is no such file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeError) as error:
        raise ProfileError(f"{path}: cannot be read: {error}") from error
    return parse(text, str(path))


def parse(text: str, place: str) -> dict[str, Profile]:
    """The profiles of a TOML text by name.

    Raises ProfileError with ``place`` and, where it is not TOML, the line.

    >>> parse('[profiles.two]\\nkind = "local"\\nworkers = 2', "a.toml")["two"].fields
    {'kind': 'local', 'workers': 2}
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{place}: not valid TOML: {error}") from error
    for key in content:
        if key != "profiles":
            raise ProfileError(
                f"{place}: '{key}' means nothing here; a profile is a table [profiles.NAME]"
                f"{nearest(key, ['profiles'])}"
            )
    tables = content.get("profiles", {})
    if not isinstance(tables, dict):
        raise ProfileError(f"{place}: profiles = {tables!r} is not a table; write [profiles.NAME]")
    return {name: Profile.of(name, place, table) for name, table in tables.items()}


def table(profile: Profile) -> str:
    """The TOML table that :func:`parse` reads as ``profile``.

    Raises ProfileError for a value that TOML cannot hold, naming the field.

    >>> fields = {"kind": "local", "by": ("subject",), "resources.time": "2h"}
    >>> print(table(Profile("mine", "", fields, description="a \\"quoted\\" word")))
    [profiles.mine]
    description = "a \\"quoted\\" word"
    kind = "local"
    by = ["subject"]
    resources.time = "2h"
    """
    about = {"extends": profile.extends, "description": profile.description or None}
    lines = [f"[profiles.{profile.name}]"]
    lines += [f"{key} = {_toml(value, key)}" for key, value in about.items() if value is not None]
    lines += [f"{_key(key)} = {_toml(value, key)}" for key, value in profile.fields.items()]
    return "\n".join(lines)


def _key(field: str) -> str:
    group, dot, name = field.partition(".")
    bare = re.fullmatch(r"[A-Za-z0-9_-]+", name)
    return f"{group}.{name if bare else _toml(name, field)}" if dot else field


def _toml(value: object, field: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's too; but TOML wants one for DEL, which JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(item, field) for item in value)}]"
    if isinstance(value, Mapping):
        items = (f"{_toml(str(k), field)} = {_toml(v, field)}" for k, v in value.items())
        return f"{{{', '.join(items)}}}"
    raise ProfileError(
        f"{field}={value!r} cannot be written to a profile; "
        "give a string, a number, true or false, a list or a table of these, or leave it out"
    )
