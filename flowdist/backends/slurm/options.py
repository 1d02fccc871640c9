"""What the fields of a SLURM plan may hold: words, lines, tables, and sbatch's own options.

The keywords of the constructors, and pure checks: each takes what a user wrote and returns what the
plan holds, or raises a ValueError that says what to give instead. Quoting is the business of
`flowdist.backends.slurm.script`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator

from flowdist.plan import PlanOptions

__all__ = [
    "OWN",
    "Environment",
    "Extra",
    "Lines",
    "Mail",
    "Option",
    "Program",
    "SlurmJobOptions",
    "SlurmOptions",
    "Word",
    "Words",
]

Option: TypeAlias = str | int | float | bool
"""A value of one sbatch option; True: the option stands alone."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONG_OPTION = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

_MAIL = (
    "NONE", "BEGIN", "END", "FAIL", "REQUEUE", "ALL", "INVALID_DEPEND", "STAGE_OUT",
    "TIME_LIMIT", "TIME_LIMIT_90", "TIME_LIMIT_80", "TIME_LIMIT_50", "ARRAY_TASKS",
)  # fmt: skip

_FLOWDIST = "flowdist sets it itself"
_SUBMITS = "flowdist needs sbatch to submit and to answer at once"

OWN: Mapping[str, str] = {
    **dict.fromkeys(
        ("array", "job-name", "output", "error", "open-mode", "dependency", "kill-on-invalid-dep"),
        _FLOWDIST,
    ),
    **dict.fromkeys(
        ("parsable", "wrap", "wait", "test-only", "help", "usage", "version"),
        _SUBMITS,
    ),
    **dict.fromkeys(("cluster", "clusters"), "submit on a login node of that cluster"),
    "cpus-per-task": "use cpus (of one worker), workers or cores_per_node",
    "mem": "use memory (of one job)",
    "mem-per-cpu": "use memory (of one job)",
    "mem-per-gpu": "use memory (of one job)",
    "gpus": "use gpus (of one job) or gres",
    "gpus-per-node": "use gpus (of one job) or gres",
    "no-requeue": "use requeue=False",
    "chdir": "jobs start in the directory of the submission; use setup=['cd ...']",
    **{
        name.replace("_", "-"): f"use {name}"
        for name in (
            "time", "partition", "account", "qos", "constraint", "reservation", "gres", "nodes",
            "ntasks", "exclusive", "mail_type", "mail_user", "requeue",
        )
    },
}  # fmt: skip
"""Options that `extra` does not take, and what to do instead."""


class SlurmOptions(PlanOptions, total=False):
    """The keywords that all constructors for SLURM take.

    :class:`flowdist.backends.slurm.plans.Slurm` says what they mean.
    """

    jobs_at_once: int | None
    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    reservation: str | None
    gres: str | None
    ntasks: int | None
    exclusive: bool
    mail_type: str | None
    mail_user: str | None
    setup: str | Sequence[str]
    modules: str | Sequence[str]
    environment: Mapping[str, str | int | float | None]
    python: str | os.PathLike[str] | None
    extra: Mapping[str, str | int | float | bool | None]
    requeue: bool
    resubmit: bool
    stages: Mapping[str, Mapping[str, Any]]


class SlurmJobOptions(SlurmOptions, total=False):
    """The keywords of :func:`flowdist.backends.slurm.plans.slurm`."""

    cores_per_node: int | None
    nodes: int | None


def _word(value: object) -> str:
    if isinstance(value, str) and (text := value.strip()) and _plain(text) and " " not in text:
        return text
    raise ValueError("a word without blanks, or None")


def _words(value: object) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else _listed(value)
    try:
        return tuple(_word(name) for name in names)
    except ValueError:
        raise ValueError("a name without blanks, or a list of them") from None


def _program(value: object) -> str:
    text = value if isinstance(value, str) else getattr(value, "__fspath__", lambda: "")()
    if isinstance(text, str) and text and _plain(text):
        return text
    raise ValueError("the path of a Python interpreter on the nodes, or None")


def _lines(value: object) -> tuple[str, ...]:
    lines = _listed(value)
    if not all(isinstance(line, str) and "\0" not in line for line in lines):
        raise ValueError("a line of shell, or a list of them")
    if any(str(line).lstrip().startswith("#SBATCH") for line in lines):
        raise ValueError(
            "lines of shell; an #SBATCH option has a field of its own, or goes to extra"
        )
    return tuple(str(line).replace("\r\n", "\n") for line in lines)


def _mail(value: object) -> str:
    words = [word.strip().upper() for word in value.split(",")] if isinstance(value, str) else []
    if words and all(word in _MAIL for word in words):
        return ",".join(words)
    raise ValueError(f"one or more of {', '.join(_MAIL)}, with commas between, or None")


def _environment(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError("a dict of names and values")
    return {
        name: _variable(name, text) for name, text in _named(value, _VARIABLE) if text is not None
    }


def _variable(name: str, value: object) -> str:
    if name.startswith(("SLURM_JOB", "SLURM_ARRAY", "SLURM_TASK", "SLURM_RESTART")):
        raise ValueError(f"names other than {name!r}, which SLURM sets for each job")
    given = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    if given and "\0" not in (text := str(value)):
        return text
    raise ValueError(f"{name!r} a string or a number, not {value!r}")


def _extra(value: object) -> dict[str, Option]:
    if not isinstance(value, Mapping):
        raise ValueError("a dict of sbatch's long options and their values")
    spelt = {str(name).replace("_", "-"): option for name, option in value.items()}
    return {
        name: _option(name, option)
        for name, option in _named(spelt, _LONG_OPTION)
        if option is not None and option is not False
    }


def _option(name: str, value: object) -> Option:
    shared = name == "exclusive" and value in ("user", "mcs", "topo")  # these take no whole nodes
    # sbatch takes any beginning of an option that is clear, so "arr" would be --array.
    owner = name if name in OWN else next((own for own in OWN if own.startswith(name)), None)
    if owner is not None and not shared:
        raise ValueError(f"options other than {name!r}: {OWN[owner]}")
    if isinstance(value, str) and not _plain(value):
        raise ValueError(f"{name!r} a value on one line, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name!r} a finite number, not {value!r}")
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"{name!r} a string, a number, or True for an option that stands alone")
    return value


def _named(table: Mapping[Any, Any], form: re.Pattern[str]) -> Iterable[tuple[str, Any]]:
    for name, value in table.items():
        if not (isinstance(name, str) and form.fullmatch(name)):
            given = (
                "a long option of sbatch without its dashes, as in 'nice'"
                if form is _LONG_OPTION
                else "the name of a variable: letters, digits and '_'"
            )
            raise ValueError(f"in place of {name!r} {given}")
        yield name, value


def _listed(value: object) -> tuple[Any, ...]:
    if value is None:
        return ()
    many = isinstance(value, Iterable) and not isinstance(value, (str, Mapping))
    return tuple(value) if many else (value,)  # type: ignore[arg-type]


def _plain(text: str) -> bool:
    """Whether a text is one line that a terminal shows as it is: nothing that ends a directive."""
    return text.isprintable()


Word = Annotated[str, BeforeValidator(_word)]
Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
Lines = Annotated[tuple[str, ...], BeforeValidator(_lines)]
Mail = Annotated[str, BeforeValidator(_mail)]
Program = Annotated[str, BeforeValidator(_program)]
Environment = Annotated[dict[str, str], BeforeValidator(_environment)]
Extra = Annotated[dict[str, Option], BeforeValidator(_extra)]
