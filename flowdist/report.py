"""A report of a run: what was planned, what each job did, what failed, which rows were slow.

Data first: `build_report` reads the run, `sections` are the tables that a terminal prints, and
`write_report` puts the same tables on one HTML page that needs nothing else.
"""
# ruff: noqa: TID253  (imported only where something is printed)

from __future__ import annotations

import html
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from flowdist import show
from flowdist.advice import PhaseUsage, phase_usages
from flowdist.explain import ErrorGroup, error_groups, roughly, seconds_at_work
from flowdist.parts import STATUS
from flowdist.phases import reduce_phases
from flowdist.results import collect_rows
from flowdist.show_usage import usage_tables
from flowdist.states import load_parts, row_states
from flowdist.usage import run_cost, run_usage

if TYPE_CHECKING:
    from flowdist.cost import Cost
    from flowdist.run import Run
    from flowdist.status import Status
    from flowdist.store import JobAttempt

__all__ = ["JobLine", "Report", "build_report", "sections", "write_report"]

SLOWEST = 10
# A page with ten thousand lines is read by nobody; the first jobs to look at are those that failed
# or took long.
MOST_JOBS = 200
# Columns of text on the page.
WIDTH = 118


@dataclass(frozen=True)
class JobLine:
    """One start of one job: rows it ended, seconds spent in them, seconds it lived, bytes it
    held."""

    name: str
    state: str
    host: str
    rows: int
    failed: int
    seconds: float
    took: float
    memory: int


@dataclass(frozen=True)
class Report:
    """What a report shows.

    Attributes:
        manifest: what was submitted.
        took: seconds for which the run has been at work.
        jobs: what each job did, in each launch; of very many those that took longest.
        usage: what the jobs of each phase asked for and used, and what to ask for next time.
        errors: failed rows by stage and type; `example` is one of them with its traceback.
        slowest: number, parameters, seconds and status of the rows that took longest.
        row_seconds: smallest, middle and largest time of a row; None where no row has ended.
        cost: what the jobs have taken; None where compute is not paid for.
        traces: where the run is to be seen in the world of its backend, by what it is.
    """

    status: Status
    manifest: Mapping[str, Any]
    directory: str
    took: float
    jobs: Sequence[JobLine]
    jobs_left_out: int
    usage: Sequence[PhaseUsage]
    errors: Sequence[ErrorGroup]
    example: Mapping[str, Any] | None
    slowest: Sequence[Mapping[str, Any]]
    row_seconds: tuple[float, float, float] | None
    cost: Cost | None = None
    traces: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "status": self.status.to_dict(),
            "manifest": dict(self.manifest),
            "directory": self.directory,
            "took": self.took,
            "jobs": [asdict(job) for job in self.jobs],
            "jobs_left_out": self.jobs_left_out,
            "usage": [phase.to_dict() for phase in self.usage],
            "errors": [asdict(group) for group in self.errors],
            "example": self.example,
            "slowest": list(self.slowest),
            "row_seconds": self.row_seconds,
            "cost": None if self.cost is None else self.cost.to_dict(),
            "traces": dict(self.traces),
        }


def write_report(run: Run, path: Path) -> Path:
    """Write the report of `run` as one HTML page that needs nothing else, and return `path`.

    >>> import tempfile
    >>> from flowdist import flow, param_grid
    >>> run = flow(param_grid(x=[1, 2])).stage("sq", lambda x: x * x).submit().wait()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_report(run, Path(folder, "run.html")).read_text().startswith("<!doctype html>")
    True
    """
    report = build_report(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_page(report), encoding="utf-8")
    return path


def build_report(run: Run) -> Report:
    """Everything that a report of `run` shows, as it is now."""
    status = run.status()
    groups = [] if status.clean else error_groups(run)
    jobs = _jobs(run) if status.attempt else []
    shown = jobs
    if len(jobs) > MOST_JOBS:
        shown = sorted(jobs, key=lambda job: (-job.failed, -job.took))[:MOST_JOBS]
    slowest, row_seconds = _times(run)
    return Report(
        status=status,
        manifest=run.manifest,
        directory=str(run.directory),
        took=seconds_at_work(run.files, None if status.ended else time.time()),
        jobs=shown,
        jobs_left_out=len(jobs) - len(shown),
        usage=phase_usages(run.manifest, run_usage(run)) if status.attempt else [],
        errors=groups,
        example=_example(run, groups[0].row) if groups else None,
        slowest=slowest,
        row_seconds=row_seconds,
        cost=run_cost(run),
        traces=_traces(run),
    )


def sections(report: Report) -> list[tuple[str, RenderableType]]:
    """The report as headings and tables."""
    found: list[tuple[str, RenderableType]] = [
        ("Summary", Group(show.status_table(report.status), *_took(report))),
        ("Plan", _plan_table(report.manifest)),
    ]
    if report.traces:
        found.append(("Where it ran", _traces_table(report.traces)))
    if report.jobs:
        left = f"{report.jobs_left_out:,} more jobs are not shown" if report.jobs_left_out else ""
        found.append(
            (
                "Jobs",
                Group(show.jobs_table(report.jobs), *([Text(left, style="dim")] if left else [])),
            )
        )
    if report.usage:
        found.append(("Asked for and used", usage_tables(report.usage)))
    if report.errors:
        parts: list[RenderableType] = [show.error_groups_table(report.errors)]
        if report.example is not None:
            columns = list(report.manifest["columns"])
            parts += ["", Text("An example", style="dim"), show.error_page(report.example, columns)]
        found.append(("Failed rows", Group(*parts)))
    if report.slowest:
        found.append(("Slowest rows", show.slowest_table(report.slowest)))
    return found


# -- data --------------------------------------------------------------------------------------


def _jobs(run: Run) -> list[JobLine]:
    names = {int(p["first_job"]): f"reduce {p['table']}" for p in reduce_phases(run.manifest)}
    beats = list(run.files.beats())
    several = len({who.attempt for who, _ in beats}) > 1
    live = not run.status().ended
    last = max(run.files.attempts(), default=0)
    return [
        _job(who, beat, names.get(who.job), several, live=live and who.attempt == last)
        for who, beat in beats
    ]


def _job(
    who: JobAttempt, beat: Mapping[str, Any], name: str | None, several: bool, *, live: bool
) -> JobLine:
    said = name or ("a worker of the pool" if who.visitor else str(who.job))
    # Who was killed had no chance to say so.
    killed = beat["state"] == "running" and not live
    return JobLine(
        name=f"{said}, launch {who.attempt}" if several else said,
        state="killed" if killed else str(beat["state"]),
        host=str(beat["host"]),
        rows=int(beat["ok"]) + int(beat["failed"]) + int(beat["skipped"]),
        failed=int(beat["failed"]),
        seconds=float(beat.get("seconds", 0.0)),
        took=max(0.0, float(beat["time"]) - float(beat.get("started", beat["time"]))),
        memory=int(beat.get("memory", 0)),
    )


def _times(run: Run) -> tuple[list[dict[str, Any]], tuple[float, float, float] | None]:
    """The slowest rows, and smallest, middle and largest time of a row."""
    import numpy as np
    import pyarrow as pa

    parts = [part for _, part in load_parts(run.files, "rows", ("_row", "_seconds", "_status"))]
    if not parts:
        return [], None
    table = pa.concat_tables(parts)
    # A row has a time in every phase, and in every launch that ran it.
    ended, place = np.unique(table.column("_row").to_numpy(), return_inverse=True)
    seconds = np.bincount(place, weights=table.column("_seconds").to_numpy())
    status = row_states(run.files, run.rows)
    order = np.argsort(-seconds, kind="stable")[:SLOWEST]
    grid = _grid_rows(run, ended[order].tolist())
    slowest = [
        {
            "row": int(ended[place]),
            "parameters": params,
            "seconds": float(seconds[place]),
            "status": STATUS[status[ended[place]]],
        }
        for place, params in zip(order, grid, strict=True)
    ]
    low, middle, high = (float(x) for x in np.quantile(seconds, [0.0, 0.5, 1.0]))
    return slowest, (low, middle, high)


def _grid_rows(run: Run, rows: Sequence[int]) -> list[dict[str, Any]]:
    import pyarrow as pa

    from flowdist.results import read_grid_table

    found: list[dict[str, Any]] = (
        read_grid_table(run.files).take(pa.array(rows, pa.int64())).to_pylist()
    )
    return found


def _traces(run: Run) -> dict[str, str]:
    from flowdist.plan import Plan

    launches = (run.files.read_json(run.files.launch(n)) or {} for n in run.files.attempts())
    return Plan.from_json(run.manifest["plan"]).traces(run.id, launches)


def _example(run: Run, row: int) -> Mapping[str, Any] | None:
    from flowdist.results import error_rows

    table = collect_rows(run.files, run.rows, clashes="text").slice(row, 1)
    return next(iter(error_rows(table)), None)


# -- showing -----------------------------------------------------------------------------------


def _took(report: Report) -> list[RenderableType]:
    grid = show.facts_grid()
    grid.add_row("took", roughly(report.took))
    if report.row_seconds is not None:
        low, middle, high = (show.roughly_small(s) for s in report.row_seconds)
        grid.add_row("a row took", f"{low} to {high}, half of them at most {middle}")
    if report.cost is not None:
        grid.add_row("cost", report.cost.text)
    return [grid]


def _traces_table(traces: Mapping[str, str]) -> RenderableType:
    grid = show.facts_grid()
    for what, value in traces.items():
        grid.add_row(what, Text(value))
    return grid


def _plan_table(manifest: Mapping[str, Any]) -> RenderableType:
    from flowdist.plan import Plan

    grid = show.facts_grid()
    layout, plan = manifest["layout"], Plan.from_json(manifest["plan"])
    grid.add_row("plan", Text(repr(plan)))
    grid.add_row(
        "layout",
        ", ".join(
            f"{layout[name]:,} {name if layout[name] != 1 else name[:-1]}"
            for name in ("rows", "groups", "chunks", "jobs")
        ),
    )
    for number, phase in enumerate(manifest["phases"]):
        grid.add_row(
            "" if number else "workers", _workers(phase, alone=len(manifest["phases"]) == 1)
        )
    grid.add_row("columns", Text(", ".join(manifest["columns"])))
    for stage in manifest["stages"]:
        grid.add_row("reduce" if stage["reduce"] else "stage", Text(_stage(stage)))
    grid.add_row("submitted", Text(_submitted(manifest)))
    versions = manifest["payload"]["versions"]
    grid.add_row("versions", Text(", ".join(f"{name} {v}" for name, v in versions.items())))
    return grid


def _workers(phase: Mapping[str, Any], *, alone: bool) -> str:
    count = phase["workers"]
    said = "as many as the cores of its node allow" if count is None else f"{count:,} in each job"
    return said if alone else f"{said} of {', '.join(phase['stages'])}"


def _stage(stage: Mapping[str, Any]) -> str:
    said = [stage["name"]]
    if stage["needs"]:
        said.append(f"after {', '.join(stage['needs'])}")
    if stage["timeout"]:
        said.append(f"at most {roughly(stage['timeout'])}")
    if stage["retry"] not in (None, "never"):
        said.append(stage["retry"])
    return ", ".join(said)


def _submitted(manifest: Mapping[str, Any]) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(manifest["created"]))
    source = f", source revision {manifest['source'][:12]}" if manifest.get("source") else ""
    return f"{when} by {manifest['user']} on {manifest['host']}{source}"


# Colours that are told apart on white, in rich's order: black, red, green, yellow, blue, magenta,
# cyan; white comes last.
_DARK = [
    (36, 41, 47),
    (190, 30, 45),
    (22, 118, 60),
    (148, 95, 0),
    (9, 90, 190),
    (130, 80, 200),
    (0, 110, 125),
]
_THEME = TerminalTheme(
    (255, 255, 255), (36, 41, 47), [*_DARK, (110, 119, 129)], [*_DARK, (140, 149, 159)]
)

_STYLE = """
:root {
  color-scheme: light; --line: #d8dee4; --soft: #f6f8fa; --ink: #24292f; --quiet: #656d76;
  --green: #1a7f4b; --red: #be1e2d; --yellow: #b87a00; --cyan: #00788a;
}
* { box-sizing: border-box }
body {
  margin: 0; background: var(--soft); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px }
h1 { font-size: 26px; margin: 0 12px 0 0; display: inline }
h2 { font-size: 16px; margin: 0 0 14px }
.id { color: var(--quiet); margin: 6px 0 22px; font-size: 14px }
.state {
  color: #fff; border-radius: 999px; padding: 3px 12px; font-size: 13px; font-weight: 600;
  vertical-align: 4px;
}
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 0 0 14px }
.tile, section { background: #fff; border: 1px solid var(--line); border-radius: 8px }
.tile { flex: 1 1 120px; padding: 12px 16px }
.tile b { display: block; font-size: 22px; font-weight: 600; line-height: 1.3 }
.tile span { color: var(--quiet); font-size: 13px }
.bar {
  display: flex; height: 10px; border-radius: 5px; overflow: hidden; background: var(--line);
  margin: 0 0 24px;
}
.bar i { display: block; min-width: 3px }
section { padding: 18px 22px 20px; margin: 0 0 16px }
pre {
  margin: 0; overflow-x: auto;
  font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
footer { color: var(--quiet); font-size: 13px; margin-top: 24px }
@media print { body { background: #fff } section, .tile { break-inside: avoid } }
"""

_COLOURS: Mapping[str, str] = {
    "green": "--green", "red": "--red", "yellow": "--yellow", "cyan": "--cyan",
}  # fmt: skip


def _page(report: Report) -> str:
    status, name = report.status, html.escape(report.status.name)
    colour = _COLOURS[show.STATE_STYLE[status.state]]
    body = "\n".join(
        f"<section><h2>{html.escape(title)}</h2>\n<pre>{_fragment(what)}</pre></section>"
        for title, what in sections(report)
        if title != "Summary"
    )
    reason = f"<br>{html.escape(status.reason)}" if status.reason else ""
    submitted = html.escape(_submitted(report.manifest))
    written = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: {status.state}</title>
<style>{_STYLE}</style>
</head>
<body><main>
<h1>{name}</h1><span class="state" style="background: var({colour})">{status.state}</span>
<p class="id">{html.escape(status.id)} &middot; {submitted}{reason}</p>
<div class="tiles">{"".join(_tile(*one) for one in _numbers(report))}</div>
<div class="bar">{"".join(_bar(status))}</div>
{body}
<footer>{html.escape(report.directory)} &middot; written by flowdist on {written}</footer>
</main></body>
</html>
"""


def _numbers(report: Report) -> list[tuple[str, str, str]]:
    status = report.status
    found = [
        (f"{status.rows:,}", "rows", ""),
        (f"{status.ok:,}", "ok", "--green"),
        (f"{status.failed:,}", "failed", "--red" if status.failed else ""),
    ]
    if status.skipped:
        found.append((f"{status.skipped:,}", "skipped", "--yellow"))
    if status.waiting or status.running:
        word = "without a result" if status.ended else "to do"
        found.append((f"{status.waiting + status.running:,}", word, ""))
    found.append((roughly(report.took), "at work", ""))
    if report.cost is not None and report.cost.node_seconds:
        found.append((*report.cost.figure, ""))
    if report.row_seconds is not None:
        found.append((show.roughly_small(report.row_seconds[1]), "median row", ""))
    return found


def _tile(number: str, word: str, colour: str) -> str:
    style = f' style="color: var({colour})"' if colour else ""
    number, word = html.escape(number), html.escape(word)
    return f'<div class="tile"><b{style}>{number}</b><span>{word}</span></div>'


def _bar(status: Status) -> list[str]:
    counts = ((status.ok, "--green"), (status.failed, "--red"), (status.skipped, "--yellow"))
    return [
        f'<i style="width: {100 * count / status.rows:.3f}%; background: var({colour})"></i>'
        for count, colour in counts
        if count
    ]


def _fragment(what: RenderableType) -> str:
    """Something printed, as HTML without a page around it."""
    console = Console(
        record=True,
        width=WIDTH,
        file=io.StringIO(),
        force_jupyter=False,
        highlight=False,
        color_system="truecolor",
    )
    console.print(Padding(what, 0, expand=False))
    code = console.export_html(theme=_THEME, code_format="{code}", inline_styles=True)
    return "\n".join(line.rstrip() for line in code.rstrip().splitlines())
