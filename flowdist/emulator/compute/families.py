"""Instance families as an account on AWS has them.

Names are compared without regard to case; one that only other clouds have is refused with a word on
where it exists.
"""

from __future__ import annotations

import difflib

from flowdist.emulator.errors import SqlError
from flowdist.snowflake.families import ELSEWHERE, FAMILIES, GIB, Family

__all__ = ["FAMILIES", "GIB", "Family", "find_family"]


def find_family(name: str) -> Family:
    """The family of that name; SqlError 1008 where there is none.

    >>> find_family("cpu_x64_s").memory_gib
    13
    """
    found = FAMILIES.get(name.upper())
    if found is not None:
        return found
    message = f"SQL compilation error:\ninvalid value [{name}] for parameter 'INSTANCE_FAMILY'"
    place = ELSEWHERE.get(name.upper())
    near = difflib.get_close_matches(name.upper(), FAMILIES, 1)
    if place is not None:
        message += f"; it exists on {place[0]} only"
    elif near:
        message += f"; did you mean {near[0]}?"
    raise SqlError(1008, "22023", message)
