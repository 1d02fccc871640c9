"""The phases of a run as its manifest has them: which table, stages and jobs belong together.

Row stages that need the same run together in one phase; others follow in phases of their own, and
every reduce is one. Phases of rows have as many jobs as the layout, in the same order: job i of one
is about the rows of job i of the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Phase = Mapping[str, Any]

ROWS = "rows"
"""The table of all stages of rows; where they are several phases, `ROWS.1`, `ROWS.2` hold them."""


def is_reduce(phase: Phase) -> bool:
    """Whether a phase is a reduce: one job over the groups of all rows."""
    return "by" in phase


def row_phases(manifest: Mapping[str, Any]) -> list[Phase]:
    """The phases of rows, in order; at least one."""
    return [phase for phase in manifest["phases"] if not is_reduce(phase)]


def reduce_phases(manifest: Mapping[str, Any]) -> list[Phase]:
    """The phases of reduces, in order."""
    return [phase for phase in manifest["phases"] if is_reduce(phase)]


def tables_of(manifest: Mapping[str, Any], table: str) -> list[str]:
    """The tables that parts of `table` are written under: one, unless it is that of all rows.

    >>> manifest = {"phases": [{"table": "rows.1"}, {"table": "rows.2"}]}
    >>> tables_of(manifest, "rows"), tables_of(manifest, "rows.2")
    (['rows.1', 'rows.2'], ['rows.2'])
    """
    if table != ROWS:
        return [table]
    return [str(phase["table"]) for phase in row_phases(manifest)]


def phase_of(manifest: Mapping[str, Any], job: int) -> Phase:
    """The phase that a job belongs to."""
    later = (p for p in reversed(manifest["phases"]) if p["first_job"] <= job)
    return next(later)


def earlier(manifest: Mapping[str, Any], phase: Phase) -> list[Phase]:
    """The phases of rows before one of rows."""
    return [p for p in row_phases(manifest) if p["first_job"] < phase["first_job"]]


def job_in(other: Phase, phase: Phase, job: int) -> int:
    """The job of another phase of rows that is about the same rows as `job` of this one.

    >>> job_in({"first_job": 0}, {"first_job": 10}, 13)
    3
    """
    return job - int(phase["first_job"]) + int(other["first_job"])


def jobs_of(manifest: Mapping[str, Any], wanted: Iterable[int]) -> list[int]:
    """All jobs of a launch that runs the `wanted` jobs of the layout: these in every phase of
    rows, and every reduce.
    """
    chosen = list(wanted)
    found = [int(phase["first_job"]) + job for phase in row_phases(manifest) for job in chosen]
    return found + [int(phase["first_job"]) for phase in reduce_phases(manifest)]


def is_template(manifest: Mapping[str, Any]) -> bool:
    """Whether a run has a schedule, so that it is its firings that run.

    >>> is_template({"plan": {"schedule": "60 MINUTES"}}), is_template({"plan": {}})
    (True, False)
    """
    return bool(manifest["plan"].get("schedule")) and "template" not in manifest


def job_count(manifest: Mapping[str, Any]) -> int:
    """How many jobs all phases have together."""
    return sum(int(phase["jobs"]) for phase in manifest["phases"])
