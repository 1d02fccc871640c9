"""SCHEDULE of a task: when it is due next.

Two forms, as CREATE TASK has them: ``'<n> HOURS | MINUTES | SECONDS'`` counts from the moment the
task was resumed, ``'USING CRON <expression> <time zone>'`` from the calendar.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from flowdist.emulator.errors import SqlError
from flowdist.emulator.tasks.graph import task_error

__all__ = ["Cron", "Every", "Schedule", "interval", "read_schedule"]

SHORTEST = 10
LONGEST = 11_520 * 60
"""Seconds: ten of them at the least, eight days at the most."""

_UNITS = {"H": 3600, "HOUR": 3600, "HOURS": 3600, "M": 60, "MINUTE": 60, "MINUTES": 60}
_UNITS |= {"S": 1, "SECOND": 1, "SECONDS": 1}
_INTERVAL = re.compile(r"(\+?\d+)\s+([A-Za-z]+)\s*")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_LAST_DAY = re.compile(rf"\b({'|'.join(_DAYS)})L\b")
_FIELD = re.compile(r"[0-9A-Z*,/\-]+")


@dataclass(frozen=True)
class Every:
    """Once in so many seconds, counted from a base."""

    seconds: int

    def following(self, base: float, after: float) -> float:
        """The first moment later than `after`; Unix time."""
        passed = max(0, int((after - base) // self.seconds))
        found = base + (passed + 1) * self.seconds
        return found if found > after else found + self.seconds


@dataclass(frozen=True)
class Cron:
    """By a cron expression of five fields, in a time zone."""

    expression: str
    zone: str

    def following(self, base: float, after: float) -> float:
        """The first moment later than `after`; Unix time. SqlError where there is none."""
        start = datetime.fromtimestamp(after, UTC).astimezone(ZoneInfo(self.zone))
        try:
            found: datetime = next(CronSim(self.expression, start))
        except StopIteration:
            raise _never() from None
        return found.timestamp()


Schedule = Every | Cron


def read_schedule(text: str) -> Schedule:
    """The schedule that a text stands for; SqlError where it stands for none.

    >>> read_schedule("10 minutes")
    Every(seconds=600)
    >>> read_schedule("USING CRON 7 3 * * SUN America/Los_Angeles")
    Cron(expression='7 3 * * SUN', zone='America/Los_Angeles')
    """
    words = text.split()
    if [word.upper() for word in words[:2]] == ["USING", "CRON"]:
        return _read_cron(words[2:])
    seconds = interval(text)
    if seconds is None or not SHORTEST <= seconds <= LONGEST:
        raise _invalid()
    return Every(seconds)


def interval(text: str) -> int | None:
    """``<n> <unit>`` in seconds; None where a text is not of that form."""
    match = _INTERVAL.fullmatch(text)
    unit = _UNITS.get(match.group(2).upper()) if match else None
    return int(match.group(1)) * unit if match and unit else None


def _read_cron(words: list[str]) -> Cron:
    if not words:
        raise _invalid()
    *fields, zone = words
    known = _zone(zone)
    if known is None:
        raise task_error(
            f'Invalid schedule was specified. "{zone}" is not a recognized time zone. Please '
            "specify time zones accepted by the TIMEZONE parameter."
        )
    if len(fields) != 5 or not all(_FIELD.fullmatch(field.upper()) for field in fields):
        raise _invalid()
    day = _LAST_DAY.sub(lambda match: f"{_DAYS.index(match.group(1))}L", fields[4].upper())
    day = "6" if day == "L" else day
    if re.search(r"(?<!/)7", day) or "W" in fields[2].upper():
        raise _invalid()
    expression = " ".join([*fields[:4], day])
    if not _readable(expression):
        any_month = " ".join([*fields[:3], "*", day])
        raise _never() if _readable(any_month) else _invalid()
    return Cron(expression, known)


def _readable(expression: str) -> bool:
    try:
        return next(CronSim(expression, datetime.now(UTC)), None) is not None
    except CronSimError:
        return False


def _zone(name: str) -> str | None:
    try:
        return ZoneInfo(name).key
    except (OSError, ValueError, LookupError):
        lower = name.lower()
        return next((zone for zone in available_timezones() if zone.lower() == lower), None)


def _invalid() -> SqlError:
    return task_error(
        "Invalid schedule was specified. Please refer to the docs on what constitutes a valid "
        "schedule."
    )


def _never() -> SqlError:
    return task_error("No valid time could be found under the schedule and/or interval specified")
