"""Every table that flowdist prints about runs, in one place and in one style.

Each function takes data and returns something that rich prints; none reads a run or writes to a
terminal. How a plan prints is at home with the plan (`flowdist.summary`).
"""
# ruff: noqa: TID253  (imported only where something is printed)

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flowdist.explain import ErrorGroup, Explanation, left, roughly
from flowdist.resources import format_memory

if TYPE_CHECKING:
    import pandas as pd

    from flowdist.preflight import Check
    from flowdist.profiles import Listed, Resolved
    from flowdist.report import JobLine
    from flowdist.run import Run
    from flowdist.status import Status

STATE_STYLE: Mapping[str, str] = {
    "done": "green",
    "running": "cyan",
    "pending": "yellow",
    "scheduled": "cyan",
    "stopped": "yellow",
    "failed": "red",
    "lost": "red",
    "ok": "green",
    "skipped": "yellow",
    "missing": "red",
    "timeout": "yellow",
    "out of memory": "red",
    "node failed": "red",
    "preempted": "yellow",
    "cancelled": "yellow",
    "requeued": "yellow",
}
SEVERITY_STYLE: Mapping[str, str] = {"error": "red", "warning": "yellow", "info": "dim"}
BAR_WIDTH = 32
# What one cell shows of a long text.
CELL = 200


def table(*headings: str | tuple[str, str]) -> Table:
    """A table in the one style that all have; a heading given with "right" is of numbers."""
    made = Table(box=None, header_style="dim", padding=(0, 3, 0, 0), pad_edge=False)
    for heading in headings:
        name, justify = heading if isinstance(heading, tuple) else (heading, "left")
        right = justify == "right"
        made.add_column(name, justify="right" if right else "left", no_wrap=right, overflow="fold")
    return made


def facts_grid() -> Table:
    """A grid of names and what is known of them; grids one after another line up."""
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(style="dim", min_width=10)
    grid.add_column(overflow="fold")
    return grid


def status_table(status: Status, now: float | None = None) -> Table:
    """A run at one moment: where it is, in rows and jobs, and how long it will take."""
    grid = facts_grid()
    style = STATE_STYLE[status.state]
    said = Text.assemble((status.state, f"bold {style}"))
    if status.reason:
        said.append(f": {status.reason}")
    grid.add_row("run", Text(status.id, style="bold"))
    grid.add_row("state", said)
    grid.add_row("rows", _rows(status))
    grid.add_row("", _counts(status))
    grid.add_row("jobs", _jobs(status.jobs))
    if status.rate and not status.ended:
        rest = f", {left(status.seconds_left)} left" if status.seconds_left else ""
        grid.add_row("pace", f"{pace(status.rate)}{rest}")
    if status.memory:
        grid.add_row("memory", f"{format_memory(status.memory)} at most, all workers together")
    if status.attempt > 1:
        grid.add_row("launches", f"{status.attempt}, the last one counts on from the others")
    grid.add_row("submitted", age(status.created, now))
    return grid


def runs_table(found: Sequence[tuple[Run, Status | str]], now: float | None = None) -> Table:
    """Runs, one a line; of a run that cannot be asked, the reason."""
    made = table(
        "run",
        "state",
        ("rows", "right"),
        ("ended", "right"),
        ("failed", "right"),
        "submitted",
        "on",
    )
    for run, status in found:
        submitted, on = age(run.manifest["created"], now), run.manifest["plan"]["kind"]
        if isinstance(status, str):
            made.add_row(
                Text(run.id),
                Text(f"unknown: {status}", style="red"),
                f"{run.rows:,}",
                "",
                "",
                submitted,
                on,
            )
            continue
        share = f"{status.done:,}" if status.done < status.rows else "all"
        failed = Text(f"{status.failed:,}", style="red" if status.failed else "dim")
        made.add_row(
            Text(run.id), _state(status.state), f"{status.rows:,}", share, failed, submitted, on
        )
    return made


def error_groups_table(groups: Sequence[ErrorGroup]) -> Table:
    """Failed rows by stage and type of error, with one message each."""
    made = table(("rows", "right"), "error", "stage", ("e.g. row", "right"), "message")
    for g in groups:
        made.add_row(
            f"{g.count:,}",
            Text(g.type, style="red"),
            Text(g.stage),
            str(g.row),
            Text(_cell(g.message)),
        )
    return made


def errors_table(
    errors: pd.DataFrame,
    columns: Sequence[str],
    most: int,
    reduces: Mapping[str, Sequence[str]] | None = None,
) -> Table:
    """Failed rows, one a line; `columns` are those of the grid, `reduces` the columns that name the
    groups of each reduce.
    """
    made = table(("row", "right"), "parameters", "stage", "error", ("attempts", "right"))
    for record in errors.head(most).to_dict("records"):
        row = {str(key): value for key, value in record.items()}
        said = Text.assemble((row["type"], "red"), f": {_cell(row['message'])}")
        by = (reduces or {}).get(row["stage"])
        made.add_row(
            str(row["row"]) if by is None else f"group {row['row']}",
            Text(parameters(row, columns if by is None else by)),
            Text(row["stage"]),
            said,
            str(row["attempts"]),
        )
    return made


def error_page(
    row: Mapping[str, Any],
    columns: Sequence[str],
    reduces: Mapping[str, Sequence[str]] | None = None,
) -> RenderableType:
    """All that is known of one failed row: parameters, what was tried, the traceback."""
    by = (reduces or {}).get(row["stage"])
    unit, what = ("row", "stage") if by is None else ("group", "reduce")
    who = parameters(row, columns if by is None else by)
    title = Text.assemble(
        (f"{unit} {row['row']}", "bold"), f" ({who})" if who else "",
        f": {what} '{row['stage']}' failed after ",
        f"{row['attempts']} attempt{'s' if row['attempts'] != 1 else ''}",
    )  # fmt: skip
    parts: list[RenderableType] = [title]
    causes = [c for c in row["causes"] if isinstance(c, Mapping)]
    if len(causes) > 1:
        tried = table(("attempt", "right"), "error", ("after", "right"))
        for cause in causes:
            said = Text.assemble((str(cause["type"]), "red"), f": {_cell(str(cause['message']))}")
            tried.add_row(str(cause["attempt"]), said, roughly(float(cause.get("elapsed", 0.0))))
        parts += ["", Padding(tried, (0, 0, 0, 2))]
    text = str(row["traceback"] or "").rstrip() or f"{row['type']}: {row['message']}"
    parts += ["", Padding(Text(text), (0, 0, 0, 2))]
    return Group(*parts)


def checks_table(checks: Sequence[Check]) -> RenderableType:
    """What preflight found, each with what to do about it."""
    if not checks:
        return Text("Nothing stands in the way.", style="green")
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for check in checks:
        style = SEVERITY_STYLE[check.severity]
        said = Text(check.what)
        if check.remedy:
            said.append(f"\n→ {check.remedy}", style="dim")
        grid.add_row(Text(check.severity, style=style), said)
    return grid


def explanation(found: Explanation) -> RenderableType:
    """Why a run is not done: the answer, what it rests on, what to do."""
    style = STATE_STYLE[found.state]
    parts: list[RenderableType] = [
        Text.assemble((found.id, "bold"), "  ", (found.state, style)),
        Text(found.summary),
        "",
    ]
    facts = Table.grid(padding=(0, 1, 0, 0))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    grave = {"errors", "silent job", "lost workers", "unknown jobs", "slow row"}
    for fact in found.facts:
        mark = Text("!", style="yellow") if fact.kind in grave else Text("·", style="dim")
        facts.add_row(mark, Text(fact.text))
    parts.append(Padding(facts, (0, 0, 0, 2)))
    if found.advice:
        todo = Table.grid(padding=(0, 1, 0, 0))
        todo.add_column(no_wrap=True)
        todo.add_column(overflow="fold")
        for advice in found.advice:
            said = Text(advice.text)
            if advice.command:
                said.append(": ").append(advice.command, style="bold")
            todo.add_row("→", said)
        parts += ["", Padding(todo, (0, 0, 0, 2))]
    return Group(*parts)


def profiles_table(profiles: Iterable[Listed]) -> Table:
    """The profiles that there are, and where each is from."""
    made = table("profile", "kind", "from", "what it is")
    for p in profiles:
        what = Text(p.problem, style="red") if p.problem else Text(p.description)
        made.add_row(Text(p.name, style="bold"), p.kind, Text(p.place), what)
    return made


def profile_table(found: Resolved) -> Table:
    """The values of one profile, and where each was said."""
    made = table("field", "value", "from")
    for field, source in found.sources.items():
        value: Any = found.fields
        for part in field.split("."):
            value = value[part]
        shown = value if isinstance(value, str) else repr(value)
        made.add_row(Text(field), Text(shown, style="bold"), Text(source))
    return made


def frame_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    """The rows of a table as they are; numbers to the right."""
    numbers = {
        name for name in columns
        if all(isinstance(r[name], (int, float, type(None))) for r in rows) and rows
    }  # fmt: skip
    made = table(*((name, "right" if name in numbers else "left") for name in columns))
    for row in rows:
        made.add_row(*(_value(row[name]) for name in columns))
    return made


def jobs_table(jobs: Sequence[JobLine]) -> Table:
    """What each job did."""
    numbers = ((name, "right") for name in ("rows", "failed", "took", "a row"))
    made = table("job", "state", "on", *numbers)
    for job in jobs:
        made.add_row(
            job.name,
            _state(job.state),
            Text(job.host),
            f"{job.rows:,}",
            Text(f"{job.failed:,}", style="red" if job.failed else "dim"),
            roughly_small(job.took),
            roughly_small(job.seconds / job.rows) if job.rows else "",
        )
    return made


def slowest_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows that took longest."""
    made = table(("row", "right"), "parameters", ("took", "right"), "status")
    for row in rows:
        shown = ", ".join(f"{k}={v}" for k, v in row["parameters"].items())
        made.add_row(
            str(row["row"]),
            Text(_cell(shown)),
            roughly_small(row["seconds"]),
            _state(row["status"]),
        )
    return made


# -- words -------------------------------------------------------------------------------------


def age(then: float, now: float | None = None) -> str:
    """How long ago something was.

    >>> age(0.0, now=130.0)
    '2 min 10 s ago'
    """
    seconds = (time.time() if now is None else now) - then
    if seconds < 9.5:
        return "just now" if seconds < 1.5 else f"{seconds:.0f} s ago"
    return f"{roughly(seconds)} ago"


def pace(rate: float) -> str:
    """Rows per second for people, the other way round where it is slow.

    >>> pace(1234.5), pace(2.34), pace(0.05)
    ('1,234 rows/s', '2.3 rows/s', '20 s a row')
    """
    if rate < 0.95:
        return f"{roughly(1 / rate)} a row" if rate > 0 else ""
    return f"{rate:,.0f} rows/s" if rate >= 99.5 else f"{rate:.1f} rows/s"


def roughly_small(seconds: float) -> str:
    """A duration that may be a fraction of a millisecond.

    >>> roughly_small(0.00002), roughly_small(0.0123), roughly_small(75)
    ('0.02 ms', '12 ms', '1 min 15 s')
    """
    if seconds >= 0.995:
        return roughly(seconds)
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.0095 else f"{seconds * 1000:.2g} ms"


def parameters(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """The parameters of a row in a few words."""
    return _cell(", ".join(f"{name}={row[name]}" for name in columns if name in row))


def _state(state: str) -> Text:
    return Text(state, style=STATE_STYLE.get(state, ""))


def _rows(status: Status) -> RenderableType:
    share = status.done / status.rows if status.rows else 1.0
    bar = ProgressBar(
        total=max(status.rows, 1), completed=status.done if status.rows else 1, width=BAR_WIDTH,
        complete_style=STATE_STYLE[status.state], finished_style=STATE_STYLE[status.state],
    )  # fmt: skip
    # 99.97 % is not 100 % to somebody who waits for the last row.
    percent = 100 if share == 1 else min(99, int(share * 100))
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_row(bar, f"{status.done:,} of {status.rows:,}", f"{percent} %")
    return line


def _counts(status: Status) -> Text:
    parts: list[tuple[str, str]] = [(f"{status.ok:,} ok", "green" if status.ok else "dim")]
    parts.append((f"{status.failed:,} failed", "red" if status.failed else "dim"))
    if status.groups_failed:
        groups = "group" if status.groups_failed == 1 else "groups"
        parts.append((f"{status.groups_failed:,} {groups} of a reduce failed", "red"))
    if status.skipped:
        parts.append((f"{status.skipped:,} skipped", "yellow"))
    if status.running:
        parts.append((f"{status.running:,} running", "cyan"))
    if status.waiting:
        word = "without a result" if status.ended else "waiting"
        parts.append((f"{status.waiting:,} {word}", "red" if status.ended else ""))
    return Text(", ").join(Text(text, style=style) for text, style in parts)


def _jobs(jobs: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in jobs.items()) or "none"


def _cell(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= CELL else f"{line[: CELL - 1]}…"


def _value(value: Any) -> Text:
    if value is None:
        return Text("null", style="dim")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return Text(_cell(str(value)))
    return Text(f"{value:.6g}" if isinstance(value, float) else str(value))
