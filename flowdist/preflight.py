"""Preflight: what would keep a flow from running, said before anything is written or started.

It looks at the flow, its plan, the layout and this machine, and answers with `Check`s. Showing them is left to
the command line, refusing to submit to `flowdist.submission`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from flowdist.flow import Flow

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Check:
    """One finding: what is wrong, and what to do about it."""

    name: str
    severity: Severity
    what: str
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def preflight(flow: Flow, *, try_row: int | None = None) -> list[Check]:
    """What would keep `flow` from running, errors first."""
    found: list[Check] = []
    if len(flow.grid) == 0:
        found.append(Check("grid", "error", "the grid has no rows", "make a grid with rows"))
    if not flow.stages:
        found.append(Check("stages", "error", "the flow has no stage", "add one with .stage(...)"))
    return found
