"""`Check`: one finding of preflight, whoever found it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Check:
    """One finding. An error means that the flow would not run; the others are worth knowing.

    >>> Check("grid", "error", "the grid has no rows", "give at least one row").to_dict()
    {'name': 'grid', 'severity': 'error', 'what': 'the grid has no rows',
     'remedy': 'give at least one row'}
    """

    name: str
    """What was looked at: grid, stages, plan, root, pickle, outputs, memory, files, try ..."""
    severity: Severity
    what: str
    """What is wrong, naming the thing and the value."""
    remedy: str = ""
    """What to do about it; empty where there is nothing to do or `what` says it."""

    def to_dict(self) -> dict[str, Any]:
        """The finding as a dict that JSON holds."""
        return asdict(self)


def quoted(names: Iterable[str]) -> str:
    """Names as a finding lists them."""
    return ", ".join(f"'{name}'" for name in names) or "none"
