"""Snowflake's format models for dates and times as those of strftime."""

from __future__ import annotations

import re

from flowdist.emulator.errors import unsupported

__all__ = ["is_moment", "strftime"]

_ELEMENTS = {
    "YYYY": "%Y",
    "YY": "%y",
    "MMMM": "%B",
    "MON": "%b",
    "MM": "%m",
    "DD": "%d",
    "DY": "%a",
    "HH24": "%H",
    "HH12": "%I",
    "HH": "%H",
    "MI": "%M",
    "SS": "%S",
    "FF0": "",
    "FF3": "%g",
    "FF6": "%f",
    "FF9": "%n",
    "FF": "%n",
    "AM": "%p",
    "PM": "%p",
    "UUUU": "%Y",
}
_PATTERN = re.compile(
    r"(?P<element>YYYY|UUUU|YY|MMMM|MON|MM|DD|DY|HH24|HH12|HH|MI|SS|FF[0-9]?|AM|PM)"
    r'|(?P<zone>TZH:?TZM|TZH|TZD|TZISO)|"(?P<quoted>[^"]*)"|(?P<other>.)',
    re.IGNORECASE | re.DOTALL,
)
ZONE = "\0"
"""Stands for the offset in what :func:`strftime` gives; the translation puts it in."""


def is_moment(model: str) -> bool:
    """Whether a format is one of dates and times, rather than of numbers."""
    return any(m.group("element") for m in _PATTERN.finditer(model))


def strftime(model: str) -> str:
    """The same for strftime.

    >>> strftime('YYYY-MM-DD"T"HH24:MI:SS.FF3')
    '%Y-%m-%dT%H:%M:%S.%g'
    """
    made = []
    for match in _PATTERN.finditer(model):
        element = match.group("element")
        if element:
            found = _ELEMENTS.get(element.upper())
            if found is None:
                raise unsupported(f"{element} in the format '{model}'")
            made.append(found)
        elif match.group("zone"):
            if match.group("zone").upper() not in ("TZHTZM", "TZH:TZM"):
                raise unsupported(f"{match.group('zone')} in the format '{model}'")
            made.append(ZONE)
        else:
            text = match.group("quoted") if match.group("quoted") is not None else match.group()
            made.append(text.replace("%", "%%"))
    return "".join(made)
