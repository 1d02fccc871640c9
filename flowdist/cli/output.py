"""The one place where sub-commands print: tables for people, or one JSON document for programs.

With ``--json`` standard output holds that document and nothing else; what else is said goes to
standard error.
"""

from __future__ import annotations

import base64
import io
import json
import math
import sys
from collections.abc import Mapping
from datetime import date, datetime, time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

# For files and pipes: wide enough that a line of a table stays one.
WIDTH_WITHOUT_TERMINAL = 160


class Output:
    """Where a sub-command's answer goes.

    Args:
        json: for programs.
    """

    def __init__(self, *, json: bool = False) -> None:
        self.json = json
        self._answered = False

    def table(self, shown: RenderableType, data: Any) -> None:
        """Something that rich prints for people, and the same as data for programs."""
        if self.json:
            self.data(data)
            return
        self.show(shown)

    def show(self, shown: RenderableType) -> None:
        """Something that only people see."""
        if self.json:
            return
        from rich.console import Console

        if sys.stdout.isatty():
            Console(file=sys.stdout, highlight=False).print(shown)
            return
        page = io.StringIO()
        # Not a notebook's either, where the command may run with a "!" before it.
        Console(
            file=page, highlight=False, width=WIDTH_WITHOUT_TERMINAL, force_jupyter=False
        ).print(shown)
        for line in page.getvalue().splitlines():
            click.echo(line.rstrip())

    def message(self, text: str = "") -> None:
        """A remark for people; with ``--json`` it goes to standard error."""
        click.echo(text, err=self.json)

    def data(self, value: Any) -> None:
        """The answer for programs, once; people do not see it."""
        if not self.json:
            return
        assert not self._answered, "standard output holds one JSON document"
        self._answered = True
        click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def plain(value: Any) -> Any:
    """`value` as what JSON holds: NaN and infinities as null, times as ISO 8601, bytes as base64.

    >>> plain({"x": float("nan"), "when": date(2024, 2, 29), 3: (1, b"ab")})
    {'x': None, 'when': '2024-02-29', '3': [1, 'YWI=']}
    """
    if value is None or (isinstance(value, (bool, int, str)) and not isinstance(value, Enum)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        return plain(value.tolist())
    return str(value)
