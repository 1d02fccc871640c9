"""What a job may use: cpus, memory, time, gpus; and how people write them.

A string means what SLURM means by it, with the spellings that people use besides; a bare number is
in the base unit: bytes, seconds. Turning a request into a scheduler's own flags is the backend's;
choosing how many workers share it is the plan's. What this machine has says `flowdist.machine`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from numbers import Integral
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from flowdist.errors import ResourceError, nearest

__all__ = [
    "Resources",
    "format_memory",
    "format_time",
    "parse_memory",
    "parse_time",
]

_MEMORY_UNITS = ("", "K", "M", "G", "T", "P")
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGTP])I?B?|(B))?", re.IGNORECASE)
_MEMORY_FORMS = "'8GB', '512MiB', '1.5T', an int of bytes, or '0' for all of a node's memory"

_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_TIME_PART = re.compile(
    r"(\d+(?:\.\d+)?)\s*"
    r"(d|days?|h|hrs?|hours?|m|mins?|minutes?|s|secs?|seconds?)(?![a-z])\s*",
    re.IGNORECASE,
)
# The forms of sbatch --time: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S.
_SLURM_TIME = (
    re.compile(r"(?P<m>\d+)(?::(?P<s>[0-5]?\d))?"),
    re.compile(r"(?P<h>\d+):(?P<m>[0-5]?\d):(?P<s>[0-5]?\d)"),
    re.compile(r"(?P<d>\d+)-(?P<h>\d+)(?::(?P<m>[0-5]?\d)(?::(?P<s>[0-5]?\d))?)?"),
)
_TIME_FORMS = (
    "'2h', '90min', '1h 30min', SLURM's '1:30:00', '1-12:00:00' or '30' (minutes), "
    "an int of seconds, or a timedelta"
)


def parse_memory(value: str | int, field: str = "memory") -> int:
    """Bytes from how people write memory.

    K, M, G, T and P are powers of 1024, alone or before B, i or iB, as for SLURM. 0 stands for all
    of a node's memory. A string without a unit is refused, as SLURM would read megabytes and
    Kubernetes bytes.

    Raises ResourceError naming ``field``, the value and the allowed forms.

    >>> parse_memory("8GB"), parse_memory("1.5 GiB"), parse_memory(4096), parse_memory("0")
    (8589934592, 1610612736, 4096, 0)
    """
    if isinstance(value, str):
        found = _MEMORY.fullmatch(value.strip())
        if found and (found[2] or found[3] or float(found[1]) == 0):
            power = _MEMORY_UNITS.index((found[2] or "").upper())
            return math.ceil(float(found[1]) * 1024.0**power)
        if found:
            number = value.strip()
            raise ResourceError(
                f"{field}: {value!r} has no unit; write '{number}M', or '{number}B' for bytes"
            )
    elif (size := _integer(value)) is not None and size >= 0:
        return size
    raise ResourceError(f"{field}: {value!r} is not an amount of memory; allowed: {_MEMORY_FORMS}")


def parse_time(value: str | int | timedelta, field: str = "time") -> int:
    """Whole seconds, rounded up, from how people write a duration.

    A string of digits and colons is read as sbatch reads ``--time``: "30" is 30 minutes, "1:30" a
    minute and a half, "1:30:00" an hour and a half, "1-12" a day and a half. An int is seconds.

    Raises ResourceError naming ``field``, the value and the allowed forms; also for durations that
    are not above 0.

    >>> parse_time("2h"), parse_time("1h 30min"), parse_time("1-12:00:00")
    (7200, 5400, 129600)
    >>> parse_time("30"), parse_time(30)
    (1800, 30)
    """
    seconds: float | None
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str):
        seconds = _seconds(value.strip())
    else:
        seconds = _integer(value)
    if seconds is None or seconds <= 0:
        raise ResourceError(f"{field}: {value!r} is not a duration above 0; allowed: {_TIME_FORMS}")
    return math.ceil(seconds)


def _seconds(text: str) -> float | None:
    for form in _SLURM_TIME:
        if found := form.fullmatch(text):
            return sum(_SECONDS[unit] * int(n) for unit, n in found.groupdict().items() if n)
    parts = list(_TIME_PART.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text:
        return None
    return sum(float(part[1]) * _SECONDS[part[2][0].lower()] for part in parts)


def format_memory(value: int) -> str:
    """Bytes for people, to one decimal; any amount it gives, :func:`parse_memory` reads.

    >>> format_memory(8 * 1024**3), format_memory(1_500_000), format_memory(0)
    ('8 GiB', '1.4 MiB', 'all memory')
    """
    if value == 0:
        return "all memory"
    amount, unit = float(value), 0
    # Rounded before compared: 1023.99 KiB is 1 MiB to a reader, not 1024 KiB.
    while round(amount, 1) >= 1024 and unit < len(_MEMORY_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    suffix = f"{_MEMORY_UNITS[unit]}iB" if unit else "B"
    return f"{amount:.1f}".removesuffix(".0") + f" {suffix}"


def format_time(seconds: int) -> str:
    """Seconds for people, exactly; what it gives, :func:`parse_time` reads.

    >>> format_time(7200), format_time(5400), format_time(129_601)
    ('2 h', '1 h 30 min', '1 d 12 h 1 s')
    """
    said, rest = [], seconds
    for name, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            said.append(f"{count} {name}")
    return " ".join(said) or "0 s"


class Resources(BaseModel):
    """What is asked for; None leaves the choice to the plan or the scheduler.

    ``cpus`` cores (1 or more), ``memory`` bytes (0 = all of a node's), ``time`` seconds, ``gpus``
    (0 or more). All are accepted as people write them and held as integers. Raises ResourceError
    naming field, value and allowed forms.

    >>> r = Resources(cpus=4, memory="8GB", time="2h")
    >>> print(r)
    4 cpus, 8 GiB, 2 h
    >>> r.memory
    8589934592
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpus: int | None = None
    memory: int | None = None
    time: int | None = None
    gpus: int | None = None

    if TYPE_CHECKING:
        # The fields hold integers; checkers are told here that the constructor reads more.
        def __init__(
            self,
            *,
            cpus: int | str | None = None,
            memory: int | str | None = None,
            time: int | str | timedelta | None = None,
            gpus: int | str | None = None,
        ) -> None: ...

    @model_validator(mode="before")
    @classmethod
    def _known(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for name in data:
                _check_name(name)
        return data

    @field_validator("cpus", "gpus", mode="before")
    @classmethod
    def _count(cls, value: Any, info: Any) -> int | None:
        return None if value is None else _count(value, info.field_name)

    @field_validator("memory", mode="before")
    @classmethod
    def _memory(cls, value: Any) -> int | None:
        return None if value is None else parse_memory(value)

    @field_validator("time", mode="before")
    @classmethod
    def _time(cls, value: Any) -> int | None:
        return None if value is None else parse_time(value)

    def merge(self, other: Resources) -> Resources:
        """These resources, with what ``other`` sets in their place.

        >>> print(Resources(cpus=4, time="1h").merge(Resources(time="2h")))
        4 cpus, 2 h
        """
        return Resources(**{**self.asked, **other.asked})

    def scale(self, **factors: float) -> Resources:
        """Each named resource times its factor, rounded up.

        What is not set stays so, and all memory stays all memory.

        Raises ResourceError for an unknown resource or a factor that is not above 0.

        >>> print(Resources(memory="8GB", time="2h").scale(memory=1.5, gpus=2))
        12 GiB, 2 h
        """
        scaled = self.asked
        for name, factor in factors.items():
            _check_name(name)
            if not (factor > 0 and math.isfinite(factor)):
                raise ResourceError(f"{name}: cannot scale by {factor!r}; give a factor above 0")
            if name in scaled:
                scaled[name] = math.ceil(scaled[name] * factor)
        return Resources(**scaled)

    @classmethod
    def envelope(cls, many: Iterable[Resources]) -> Resources:
        """The least that is enough for each of ``many``: the largest of each resource.

        >>> print(Resources.envelope([Resources(cpus=4), Resources(cpus=1, memory="2GB")]))
        4 cpus, 2 GiB
        """
        largest: dict[str, int] = {}
        for one in many:
            for name, value in one.asked.items():
                largest[name] = max(value, largest.get(name, value), key=_size(name))
        return cls(**largest)

    @property
    def asked(self) -> dict[str, int]:
        """The resources that are set, by name.

        >>> Resources(cpus=2, gpus=0).asked
        {'cpus': 2, 'gpus': 0}
        """
        return {name: value for name, value in self if value is not None}

    def __str__(self) -> str:
        said = []
        if self.cpus is not None:
            said.append(f"{self.cpus} cpu{'s' * (self.cpus != 1)}")
        if self.memory is not None:
            said.append(format_memory(self.memory))
        if self.time is not None:
            said.append(format_time(self.time))
        if self.gpus is not None:
            said.append(f"{self.gpus} gpu{'s' * (self.gpus != 1)}")
        return ", ".join(said) or "nothing asked"


def _check_name(name: str) -> None:
    known = Resources.model_fields
    if name not in known:
        raise ResourceError(
            f"no resource is called {name!r}; allowed: {', '.join(known)}{nearest(name, known)}"
        )


def _count(value: Any, field: str) -> int:
    least = 0 if field == "gpus" else 1
    text = isinstance(value, str) and value.strip().isdecimal()
    number = int(value) if text else _integer(value)
    if number is None or number < least:
        raise ResourceError(f"{field}: {value!r} is not a count; allowed: integers from {least}")
    return number


def _integer(value: object) -> int | None:
    """An int from any integer type, NumPy's too; None for what is none, among it True and False."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def _size(name: str) -> Any:
    """Order of requests: 0 memory is all of a node's, more than any number."""
    return (lambda value: value or math.inf) if name == "memory" else None
