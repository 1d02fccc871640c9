"""Sub-commands that look at runs: runs, status, watch, logs, errors, explain, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowdist.cli import INTERRUPTED, Command
from flowdist.cli.find import chosen_connection, find_run
from flowdist.cli.options import (
    connection_option,
    json_option,
    most_option,
    root_option,
    run_argument,
)
from flowdist.cli.outcome import finish
from flowdist.cli.output import Output
from flowdist.errors import FlowdistError, UsageError
from flowdist.explain import command
from flowdist.phases import reduce_phases

if TYPE_CHECKING:
    from flowdist.run import Run
    from flowdist.status import Status


@click.command(cls=Command)
@most_option("How many, the latest first.")
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--of", metavar="RUN", help="Those that the schedule of this run has started.")
@connection_option
@root_option
@json_option
def runs(most: int, everything: bool, of: str | None, root: str | None, as_json: bool) -> None:
    """List runs, the latest first.

    \b
      flowdist runs
      flowdist runs --all --json
    """
    from flowdist.lean import defer_pandas
    from flowdist.run import runs as all_runs
    from flowdist.settings import default_root
    from flowdist.show import runs_table

    defer_pandas()
    out = Output(json=as_json)
    if of is None:
        known = all_runs(root, connection=chosen_connection())
    else:
        known = find_run(of, root).firings()[::-1]
    shown = known if everything else known[:most]
    found = [(run, _status(run)) for run in shown]
    if not known:
        where = root if str(root).startswith("@") else Path(root or default_root()).expanduser()
        out.message(f"There are no runs in {where}; flowdist run FLOW starts one.")
        out.data([])
        return
    out.table(runs_table(found), [_line(run, status) for run, status in found])
    if len(shown) < len(known):
        out.message(f"\n{len(known) - len(shown):,} older ones are shown with --all")


def _status(run: Run) -> Status | str:
    """A run that cannot be asked must not keep the others from being listed."""
    try:
        return run.status()
    except FlowdistError as error:
        return str(error).splitlines()[0]


def _line(run: Run, status: Status | str) -> dict[str, object]:
    known = {"directory": str(run.directory), "kind": run.manifest["plan"]["kind"]}
    if isinstance(status, str):
        return {"id": run.id, "name": run.name, "state": None, "reason": status, **known}
    return {**status.to_dict(), **known}


@click.command(cls=Command)
@run_argument
@root_option
@json_option
def status(run_id: str, root: str | None, as_json: bool) -> None:
    """Show how a run is now: rows, jobs, pace, time left.

    \b
      flowdist status last
      flowdist status last --json | jq .failed
    """
    from flowdist.show import status_table

    run = find_run(run_id, root)
    now = run.status()
    Output(json=as_json).table(
        status_table(now), {**now.to_dict(), "directory": str(run.directory)}
    )


@click.command(cls=Command)
@run_argument
@root_option
@json_option
@click.pass_context
def watch(ctx: click.Context, run_id: str, root: str | None, as_json: bool) -> None:
    """Wait for a run, with a progress bar.

    Ctrl-C ends only the watching; the run goes on. The exit code is that of the run: 0 done, 1 rows
    failed, 3 the backend failed.

    \b
      flowdist watch last
    """
    run = find_run(run_id, root)
    try:
        run.watch()
    except KeyboardInterrupt:
        click.echo(f"\nThe run goes on; {command(run, 'cancel')} would end it.", err=True)
        ctx.exit(INTERRUPTED)
    ctx.exit(finish(Output(json=as_json), run))


@click.command(cls=Command)
@run_argument
@click.argument("job", required=False, type=int)
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until the run has ended.")
@root_option
def logs(run_id: str, job: int | None, follow: bool, root: str | None) -> None:
    """Print what the jobs of a run have printed.

    Of all jobs, or of job number JOB.

    \b
      flowdist logs last
      flowdist logs last 3 -f
    """
    run, silent = find_run(run_id, root), True
    for line in run.logs(job, follow=follow):
        click.echo(line)
        silent = False
    if silent:
        click.echo(f"Nothing has been printed in {run.id}.", err=True)


@click.command(cls=Command)
@run_argument
@most_option("How many rows.")
@click.option("--row", type=int, metavar="N", help="All about row N, with the traceback.")
@root_option
@json_option
def errors(run_id: str, most: int, row: int | None, root: str | None, as_json: bool) -> None:
    """List the failed rows of a run, and why they failed.

    By kind of error first, then one by one. JSON has all of them, with tracebacks and every
    attempt.

    \b
      flowdist errors last
      flowdist errors last --row 17
    """
    from rich.text import Text

    from flowdist import show
    from flowdist.explain import error_groups

    out = Output(json=as_json)
    run = find_run(run_id, root)
    found = run.errors()
    columns = list(run.manifest["columns"])
    reduces = {phase["table"]: phase["by"] for phase in reduce_phases(run.manifest)}
    if row is not None:
        records = found[found["row"] == row].to_dict("records")
        if not records:
            if not 0 <= row < run.rows:
                raise UsageError(f"run {run.id} has rows 0 to {run.rows - 1:,}, not {row}")
            others = f"; {command(run, 'errors')} lists those that have" if len(found) else ""
            raise UsageError(f"row {row} of run {run.id} has not failed{others}")
        pages = [{str(key): value for key, value in record.items()} for record in records]
        for number, page in enumerate(pages):  # a group of a reduce may have the number of a row
            out.show(Text("\n" if number else "", end=""))
            out.show(show.error_page(page, columns, reduces))
        out.data(pages[0])
        return
    if found.empty:
        out.message(f"No row of {run.id} has failed.")
        out.data([])
        return
    if out.json:
        out.data(found.to_dict("records"))
        return
    groups = error_groups(run)
    if len(groups) > 1 or len(found) > most:
        out.show(show.error_groups_table(groups))
        out.show(Text())
    out.show(show.errors_table(found, columns, most, reduces))
    if len(found) > most:
        out.message(f"\n{most:,} of {len(found):,} failed rows; -n shows more")
    example = command(run, "errors", "--row", str(found["row"].iloc[0]))
    out.message(f"\n{example} shows the traceback")


@click.command(cls=Command)
@run_argument
@root_option
@json_option
def explain(run_id: str, root: str | None, as_json: bool) -> None:
    """Say why a run is not done, and what to do about it.

    What it waits for, what failed most, what was lost or stopped.

    \b
      flowdist explain last
    """
    found = find_run(run_id, root).explain()
    Output(json=as_json).table(found, found.to_dict())


@click.command(cls=Command)
@run_argument
@click.option("--html", "path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
              help="Write one HTML page that needs nothing else.")  # fmt: skip
@root_option
@json_option
def report(run_id: str, path: Path | None, root: str | None, as_json: bool) -> None:
    """Report on a run, here or as a web page.

    Plan, jobs, failed rows with an example, slowest rows.

    \b
      flowdist report last
      flowdist report last --html report.html
    """
    from rich.padding import Padding
    from rich.text import Text

    from flowdist.report import build_report, sections

    out = Output(json=as_json)
    run = find_run(run_id, root)
    if path is not None:
        run.report(path)
        out.message(f"Wrote {path} ({path.stat().st_size / 1024:,.0f} KiB)")
        out.data({"path": str(path)})
        return
    found = build_report(run)
    out.data(found.to_dict())
    for number, (title, what) in enumerate(sections(found)):
        out.show(Text(f"{chr(10) if number else ''}{title}", style="bold"))
        out.show(Padding(what, (0, 0, 0, 2), expand=False))
