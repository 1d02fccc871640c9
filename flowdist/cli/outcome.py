"""How the commands that wait for a run end: what they print of it, and their exit code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flowdist.cli import BACKEND_FAILED, DONE, ROWS_FAILED
from flowdist.cli.output import Output
from flowdist.explain import command, error_groups

if TYPE_CHECKING:
    from flowdist.run import Run
    from flowdist.status import Status

MOST_ERRORS = 5


def finish(out: Output, run: Run, more: Mapping[str, Any] | None = None) -> int:
    """Print what became of a run that has ended, and what to do next; return the exit code.

    `more` is what programs get besides.
    """
    from rich.text import Text

    from flowdist.show import error_groups_table, status_table

    status = run.status()
    out.message()
    data = {**status.to_dict(), "directory": str(run.directory), **(more or {})}
    out.table(status_table(status), data)
    if status.failed or status.groups_failed:
        out.show(Text())
        out.show(error_groups_table(error_groups(run)[:MOST_ERRORS]))
    out.message(f"\nThe run is in {run.directory}")
    commands = _next(run, status)
    width = max(len(line) for line, _ in commands)
    for line, what in commands:
        out.message(f"  {line.ljust(width)}   {what}")
    return code(status)


def code(status: Status) -> int:
    """The exit code that says how a run ended."""
    if status.state in ("failed", "lost"):
        return BACKEND_FAILED
    return DONE if status.clean else ROWS_FAILED


def _next(run: Run, status: Status) -> list[tuple[str, str]]:
    """Commands that make sense now."""
    found = []
    failed = status.failed or status.groups_failed
    if failed:
        found.append((command(run, "errors"), "every failed row, and why"))
    if status.state == "done":
        keep = ["--errors"] if status.failed else []
        found.append((command(run, "collect", "-o", "table.parquet", *keep), "the table"))
        if failed:
            again = command(run, "resume", "--failed", "--watch")
            found.append((again, "run the failed rows again"))
    else:
        found.append((command(run, "explain"), "why it is not done"))
        found.append((command(run, "resume", "--watch"), "start what is missing"))
    found.append((command(run, "report", "--html", "report.html"), "a page about it"))
    return found
