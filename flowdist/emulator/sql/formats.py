"""Snowflake's format models for dates and times as those of strftime."""

from __future__ import annotations

import re

from flowdist.emulator.errors import unsupported

__all__ = ["is_moment", "printed", "strptime"]

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
    r'|(?P<zone>TZH:?TZM|TZH|TZM|TZD|TZISO)|"(?P<quoted>[^"]*)"|(?P<other>.)',
    re.IGNORECASE | re.DOTALL,
)
_ZONES = {
    "TZHTZM": "sf_offset_text({o})",
    "TZH:TZM": "sf_colon(sf_offset_text({o}))",
    "TZH": "left(sf_offset_text({o}), 3)",
    "TZM": "right(sf_offset_text({o}), 2)",
}
"""The parts of an offset ``{o}`` in minutes, in DuckDB's SQL."""


def is_moment(model: str) -> bool:
    """Whether a format is one of dates and times, rather than of numbers."""
    return any(m.group("element") or m.group("zone") for m in _PATTERN.finditer(model))


def strptime(model: str) -> str:
    """The same for strptime.

    >>> strptime('YYYY-MM-DD"T"HH24:MI:SS.FF3 TZH:TZM')
    '%Y-%m-%dT%H:%M:%S.%g %z'
    """
    made = []
    for is_zone, text in _parts(model):
        if is_zone and text == "TZM":
            raise unsupported(f"TZM in the format '{model}'")
        made.append("%z" if is_zone else text)
    return "".join(made)


def printed(model: str) -> str:
    """A template of DuckDB SQL: ``{0}`` is the local time, ``{o}`` its offset in minutes.

    >>> printed('HH24:MI TZH')
    "(strftime({0}, '%H:%M ') || left(sf_offset_text({o}), 3))"
    """
    pieces: list[str] = []
    for is_zone, text in _parts(model):
        if is_zone:
            pieces.append(_ZONES[text])
        elif text:
            quoted = text.replace("'", "''").replace("{", "{{").replace("}", "}}")
            pieces.append(f"strftime({{0}}, '{quoted}')")
    return f"({' || '.join(pieces)})" if pieces else "''"


def _parts(model: str) -> list[tuple[bool, str]]:
    """Formats of strftime and, between them, the elements of a zone (True)."""
    made = [(False, "")]
    for match in _PATTERN.finditer(model):
        element, zone = match.group("element"), match.group("zone")
        if element:
            text = _ELEMENTS.get(element.upper())
            if text is None:
                raise unsupported(f"{element} in the format '{model}'")
        elif zone:
            if zone.upper() not in _ZONES:
                raise unsupported(f"{zone} in the format '{model}'")
            made += [(True, zone.upper()), (False, "")]
            continue
        else:
            text = match.group("quoted") if match.group("quoted") is not None else match.group()
            text = text.replace("%", "%%")
        made[-1] = False, made[-1][1] + text
    return made
