"""Finding a profile by name, following ``extends``, and saying where each value came from.

The only place that reads the environment variables of profiles: FLOWDIST_CONFIG, FLOWDIST_PLAN_*
and FLOWDIST_PROFILE_*.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from importlib import resources
from pathlib import Path
from typing import Any

from flowdist.errors import ProfileError, ResourceError, nearest
from flowdist.profiles import files
from flowdist.profiles.files import Profile, flatten, nest
from flowdist.resources import Resources

__all__ = [
    "Listed",
    "Resolved",
    "add_profile",
    "list_profiles",
    "register_profile",
    "resolve",
    "user_file",
]

Layer = Mapping[str, Profile]

_registered: dict[str, Profile] = {}


@dataclass(frozen=True)
class Resolved:
    """A profile with everything that applies to it put together.

    ``fields`` is what the plan's constructor takes, ``kind`` among them. ``sources`` says in words
    where each value came from; a resource has its dotted name there.
    """

    name: str
    fields: Mapping[str, Any]
    sources: Mapping[str, str]


@dataclass(frozen=True)
class Listed:
    """A profile that can be named, for a list."""

    name: str
    kind: str
    """Empty where ``problem`` is not."""
    place: str
    description: str
    problem: str
    """What :func:`resolve` would refuse it for; empty where it is fine."""


@dataclass(frozen=True)
class _Given:
    """One value for one field, and the words for where it was said."""

    field: str
    value: Any
    source: str
    for_any_plan: bool = False
    """From FLOWDIST_PLAN_*, which all kinds of plan see, each taking what it has a field for."""
    from_call: bool = False
    """The plan checks it, and names the argument; the rest is checked here, to name its source."""


def resolve(name: str, overrides: Mapping[str, Any] | None = None) -> Resolved:
    """The fields of profile ``name``, with ``overrides`` in their place.

    Raises ProfileError: no such profile (with the nearest name), ``extends`` in a circle or of
    nothing, a file that is not TOML, a field that its kind of plan does not have, a resource that
    is none. Values other than resources are checked by the plan.

    >>> found = resolve("small", {"by": "subject"})
    >>> found.fields
    {'kind': 'local', 'within': 'sequential', 'workers': 1, 'by': 'subject'}
    >>> found.sources["workers"], found.sources["by"]
    ("profile 'small' (built-in)", 'the call')
    """
    return _resolve(name, _layers(), os.environ, overrides or {})


def list_profiles() -> list[Listed]:
    """The profiles that :func:`resolve` knows, those looked at first, first.

    >>> [p.name for p in list_profiles() if p.place == "built-in"]
    ['laptop', 'small', 'slurm-lab', 'emulator']
    """
    layers = _layers()
    first = {name: layer[name] for layer in reversed(layers) for name in layer}
    ordered = dict.fromkeys(name for layer in layers for name in layer)
    return [_listed(first[name], layers) for name in ordered]


def register_profile(name: str, /, **fields: Any) -> None:
    """Make a profile known to this process, before those of all files.

    A registered one of that name is replaced. ``fields`` are those of the plan, and ``extends`` and
    ``description``. They are checked when the profile is used; ProfileError here only for a name or
    form that no profile can have.

    >>> register_profile("evening", extends="laptop", workers=1)
    >>> resolve("evening").fields["workers"]
    1
    """
    _registered[name] = Profile.of(name, "register_profile()", fields)


def add_profile(
    path: str | os.PathLike[str],
    name: str,
    fields: Mapping[str, Any],
    comment: Sequence[str] = (),
) -> None:
    """Append a profile to a TOML file, below ``comment``'s lines; nothing else in it changes.

    The file and its directory are made where they are not there. Raises ProfileError: the file has
    a profile of that name, or :func:`resolve` would refuse this one; the file is then as it was.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "flowdist.toml")
    ...     add_profile(file, "mine", {"extends": "laptop", "memory": "8GB"})
    ...     print(file.read_text())
    [profiles.mine]
    extends = "laptop"
    resources.memory = "8GB"
    """
    path = Path(path)
    there = files.read(path)
    if name in there:
        raise ProfileError(f"{path}: has a profile '{name}' already; edit it, or take another name")
    profile = Profile.of(name, str(path), fields)
    _resolve(name, [{name: profile}, *_layers()], {}, {})
    addition = "".join(f"# {line}\n" for line in comment) + files.table(profile) + "\n"
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        if before:
            addition = ("\n" if before.endswith("\n") else "\n\n") + addition
        # A file may be valid and yet take no table at its end: profiles = {...} on one line.
        files.parse(before + addition, str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(addition)
    except OSError as error:
        raise ProfileError(f"{path}: cannot be written: {error}") from error


def user_file() -> Path:
    """The user's own file of profiles, which may be absent.

    It is $FLOWDIST_CONFIG, else flowdist.toml in the user's config directory.

    >>> user_file().suffix
    '.toml'
    """
    if said := os.environ.get("FLOWDIST_CONFIG"):
        return Path(said).expanduser()
    import click  # only to know each system's directory for configuration

    return Path(click.get_app_dir("flowdist")) / "flowdist.toml"


def _layers() -> list[Layer]:
    """Every place that may have a profile, in the order in which they are asked."""
    builtin = resources.files("flowdist.profiles").joinpath("builtin.toml")
    # Once, where the user's file is the one in this directory: a profile that extends its own name
    # would find itself.
    places = dict.fromkeys(path.resolve() for path in (Path("flowdist.toml"), user_file()))
    return [
        _registered,
        *(files.read(path) for path in places),
        files.parse(builtin.read_text(encoding="utf-8"), "built-in"),
    ]


def _listed(profile: Profile, layers: Sequence[Layer]) -> Listed:
    try:
        kind, problem = str(_resolve(profile.name, layers, os.environ, {}).fields["kind"]), ""
    except ProfileError as error:
        kind, problem = "", str(error)
    return Listed(profile.name, kind, profile.place, profile.description, problem)


def _resolve(
    name: str, layers: Sequence[Layer], environ: Mapping[str, str], overrides: Mapping[str, Any]
) -> Resolved:
    chain = _chain(name, layers)
    given = [
        *(_Given(k, v, str(p)) for p in reversed(chain) for k, v in p.fields.items()),
        *_from_environment(name, {n for layer in layers for n in layer}, environ),
        *(_Given(k, v, "the call", from_call=True) for k, v in flatten(overrides, name).items()),
    ]
    kind = _kind(chain[0], given)
    used = [one for one in given if _check(one, kind)]
    return Resolved(
        name=name,
        fields=nest({one.field: one.value for one in used}),
        sources={one.field: one.source for one in used},
    )


def _chain(name: str, layers: Sequence[Layer]) -> list[Profile]:
    """The profile, the one that it extends, and so on."""
    chain: list[Profile] = []
    start = 0
    while True:
        level = next((i for i in range(start, len(layers)) if name in layers[i]), None)
        if level is None:
            raise ProfileError(_absent(name, chain, layers))
        profile = layers[level][name]
        if profile in chain:
            circle = " -> ".join(p.name for p in [*chain[chain.index(profile) :], profile])
            raise ProfileError(f"{chain[-1]}: extends in a circle: {circle}")
        chain.append(profile)
        if profile.extends is None:
            return chain
        # A profile that extends its own name means the one that it hides.
        start = level + 1 if profile.extends == name else 0
        name = profile.extends


def _absent(name: str, chain: Sequence[Profile], layers: Sequence[Layer]) -> str:
    names = sorted({n for layer in layers for n in layer})
    if not chain:
        return (
            f"there is no profile '{name}' (there are: {', '.join(names)}; looked in "
            f"./flowdist.toml, {user_file()} and the built-in ones){nearest(name, names)}"
        )
    if chain[-1].name == name:
        return f"{chain[-1]}: extends itself, and hides no other profile of that name"
    return f"{chain[-1]}: extends '{name}', which does not exist{nearest(name, names)}"


def _from_environment(name: str, names: set[str], environ: Mapping[str, str]) -> Iterator[_Given]:
    """What the environment says for profile ``name``: for any plan first, then for this profile."""
    said = {variable: text for variable, text in sorted(environ.items()) if text}
    for variable, text in said.items():
        if variable.startswith("FLOWDIST_PLAN_"):
            yield from _variable(variable, "FLOWDIST_PLAN_", text, for_any_plan=True)
    for variable, text in said.items():
        if (prefix := _owner(variable, names)) and prefix == _prefix(name):
            yield from _variable(variable, prefix, text)


def _variable(
    variable: str, prefix: str, text: str, for_any_plan: bool = False
) -> Iterator[_Given]:
    source = f"environment variable {variable}"
    field = variable.removeprefix(prefix).lower()
    for key, value in flatten({field: field_value(field, text)}, source).items():
        yield _Given(key, value, source, for_any_plan)


def _prefix(name: str) -> str:
    return f"FLOWDIST_PROFILE_{name.upper().replace('-', '_')}_"


def _owner(variable: str, names: set[str]) -> str:
    """The prefix of the profile that a variable is for; of "a" and "a_b", the longer that fits."""
    fitting = [p for p in map(_prefix, names) if variable.startswith(p)]
    return max(fitting, key=len, default="")


def field_value(field: str, text: str) -> Any:
    """What a variable or the command line says of a plan's field, read as a file's text would be;
    what is not TOML is the text itself, and ``by`` may be columns with commas between.

    >>> field_value("workers", "2"), field_value("fail_fast", "true"), field_value("by", "a, b")
    (2, True, ['a', 'b'])
    """
    text = text.strip()
    if field == "memory":
        return text  # a memory without a unit is refused as text, and would pass as bytes
    try:
        content = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        content = {"value": text}
    value = content["value"]
    # No field is a date; 01:30:00 is meant as a duration.
    if len(content) > 1 or isinstance(value, (date, time)):
        value = text
    if field == "by" and isinstance(value, str) and "," in value:
        return [name.strip() for name in value.split(",")]
    return value


def _kind(profile: Profile, given: Sequence[_Given]) -> str:
    said = [one for one in given if one.field == "kind"]
    kinds = _kinds()
    if not said:
        others = "" if len(kinds) == 1 else f" (one of {', '.join(kinds)})"
        raise ProfileError(
            f'{profile}: says no kind of plan; add kind = "local"{others}, or extend a profile '
            'that has one, as in extends = "laptop"'
        )
    kind, source = said[-1].value, said[-1].source
    if str(kind) not in kinds:
        help_ = nearest(str(kind), kinds) or f"; the kinds are {', '.join(kinds)}"
        raise ProfileError(f"{source}: there is no plan of kind {kind!r}{help_}")
    return str(kind)


def _check(one: _Given, kind: str) -> bool:
    """Whether the plan has the field; ProfileError where it should have, or the value is wrong."""
    if one.from_call:
        return True
    group, dot, name = one.field.partition(".")
    if not _has(kind, one.field):
        if one.for_any_plan and any(_has(other, one.field) for other in _kinds()):
            return False
        known = _fields_of(kind)
        if dot and group in known:
            raise ProfileError(
                f"{one.source}: {group} is not a table, and '{group}.{name}' no field"
            )
        field = name if group == "resources" else group
        raise ProfileError(
            f"{one.source}: there is no field '{field}'; allowed: "
            f"{', '.join(known.values())}{nearest(field, known.values())}"
        )
    if group == "resources":
        try:
            Resources(**{name: one.value})
        except ResourceError as error:
            raise ProfileError(f"{one.source}: {error}") from error
    return True


def _has(kind: str, field: str) -> bool:
    """Whether a kind of plan has a field, or a table that takes a value of any name."""
    group, dot, _ = field.partition(".")
    of_plan = _kinds()[kind].model_fields.get(group)
    any_name = dot and of_plan is not None and isinstance(of_plan.default, dict)
    return bool(any_name) or field in _fields_of(kind)


def _kinds() -> Mapping[str, Any]:
    from flowdist.plan import PLANS  # plan looks profiles up, so not at the top

    return PLANS


def _fields_of(kind: str) -> dict[str, str]:
    """The fields of a kind of plan, flat, each with the word that people use for it."""
    own = [name for name in _kinds()[kind].model_fields if name != "resources"]
    return {**{n: n for n in own}, **{f"resources.{n}": n for n in Resources.model_fields}}
