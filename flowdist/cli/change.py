"""Sub-commands that change runs: cancel, resume, delete."""

from __future__ import annotations

import click

from flowdist.cli import INTERRUPTED, Command
from flowdist.cli.find import find_run
from flowdist.cli.options import json_option, root_option, run_argument
from flowdist.cli.outcome import finish
from flowdist.cli.output import Output
from flowdist.explain import command


@click.command(cls=Command)
@run_argument
@root_option
@json_option
def cancel(run_id: str, root: str | None, as_json: bool) -> None:
    """End a run; finished rows are kept, and it can be resumed.

    \b
      flowdist cancel last
    """
    out = Output(json=as_json)
    run = find_run(run_id, root)
    if run.status().ended:
        out.message(f"{run.id} had ended already.")
    status = run.cancel().status()
    done = f"{status.done:,} of {status.rows:,} rows are finished"
    out.message(f"{run.id} is {status.state}: {done}.")
    if status.state != "done":
        out.message(f"Go on with\n  {command(run, 'resume')}")
    out.data(status.to_dict())


@click.command(cls=Command)
@run_argument
@click.option("--failed", is_flag=True, help="Also run again the rows that failed.")
@click.option("--watch", is_flag=True, help="Wait for it, with a progress bar.")
@root_option
@json_option
@click.pass_context
def resume(
    ctx: click.Context, run_id: str, failed: bool, watch: bool, root: str | None, as_json: bool
) -> None:
    """Start what is missing of a run that was stopped or lost.

    Rows that have a result are not run again.

    \b
      flowdist resume last --watch
      flowdist resume last --failed
    """
    out = Output(json=as_json)
    run = find_run(run_id, root)
    before = run.status()
    run.resume(failed=failed)
    now = run.status()
    if now.attempt == before.attempt:
        also = "" if failed or not before.failed else " (--failed would run the failed rows again)"
        out.message(f"Nothing is missing in {run.id}{also}.")
    else:
        out.message(f"Resumed {run.id}: {now.rows - now.done:,} of {now.rows:,} rows to go.")
        if not watch:
            out.message(f"  {command(run, 'watch')}")
    if not watch:
        out.data(now.to_dict())
        return
    try:
        run.watch()
    except KeyboardInterrupt:
        click.echo(f"\nThe run goes on; {command(run, 'cancel')} would end it.", err=True)
        ctx.exit(INTERRUPTED)
    ctx.exit(finish(out, run))


@click.command(cls=Command)
@run_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@root_option
@json_option
def delete(run_id: str, yes: bool, root: str | None, as_json: bool) -> None:
    """Remove a run that has ended, with all its results.

    \b
      flowdist delete flow-1120-221530-a1b2 --yes
    """
    out = Output(json=as_json)
    run = find_run(run_id, root)
    if not yes:
        click.confirm(f"Remove {run.directory} and all that is in it?", abort=True, err=True)
    run.delete()
    out.message(f"Removed {run.directory}")
    out.data({"id": run.id, "directory": run.directory, "deleted": True})
