"""Sub-commands that begin: demo, init, preflight, plan, submit, run."""

from __future__ import annotations

import contextlib
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowdist.cli import DONE, INTERRUPTED, WRONG_USAGE, Command
from flowdist.cli.find import distributed, load_flow
from flowdist.cli.options import flow_argument, json_option, plan_options
from flowdist.cli.outcome import finish
from flowdist.cli.output import Output
from flowdist.errors import UsageError

if TYPE_CHECKING:
    from flowdist.flow import Flow


@click.command(cls=Command)
@click.option("--on", metavar="PROFILE", default="laptop", show_default=True,
              help="Where it runs; on emulator: on Snowflake's, here.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="How many processes.")
@click.option("--rows", type=click.IntRange(min=1), metavar="N", help="Only so many aircraft.")
@click.option("--keep", is_flag=True,
              help="With --on emulator: leave it running, and its runs in it.")  # fmt: skip
@click.pass_context
def demo(ctx: click.Context, on: str, workers: int | None, rows: int | None, keep: bool) -> None:
    """Run a real many-model flow on real data, on this machine.

    336,776 flights from New York City in 2013, one model for each aircraft: the plan, a progress
    bar, the results, and the commands to look at the run. It takes a minute or two.

    With --on emulator it also runs on Snowflake's container services, without an account: the
    emulator of Snowflake is started if it does not run, and workers in containers take chunks from
    a hybrid table, and then run as a task graph. All that it made is removed at the end.

    \b
      flowdist demo
      flowdist demo --on emulator
    """
    from rich.console import Console

    from flowdist.demo import main

    if on == "emulator" and workers is not None:
        raise UsageError("--workers is for the demo on this machine; leave it out")
    try:
        code = main(Console(highlight=False), on=on, workers=workers, rows=rows, keep=keep)
    except ImportError as missing:
        raise UsageError(
            f"the demo needs the package '{missing.name}': pip install 'flowdist[demo]'"
        ) from missing
    ctx.exit(code)


@click.command(cls=Command)
@click.argument("path", metavar="[FILE]", default="flow.py", type=click.Path(path_type=Path))
def init(path: Path) -> None:
    """Write a commented example of a flow, to try and to change.

    FILE is flow.py unless you name another. A file that is there is never overwritten.

    \b
      flowdist init
      flowdist run flow.py
    """
    text = resources.files("flowdist.cli").joinpath("starter.py").read_text(encoding="utf-8")
    if path.suffix != ".py":
        raise UsageError(f"{path}: the file of a flow ends in .py, as in {path.with_suffix('.py')}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text.replace("flow.py", str(path)))
    except FileExistsError:
        raise UsageError(f"{path} is there already; name another file") from None
    out = Output()
    out.message(f"Wrote {path}. Now try:")
    for verb, what in (
        ("plan", "how its rows become jobs"),
        ("run", "run it, with a progress bar"),
    ):
        out.message(f"  flowdist {verb} {path}".ljust(40) + what)
    out.message("  flowdist collect last".ljust(40) + "the table")


@click.command(cls=Command)
@flow_argument
@plan_options
@click.option("--try-row", type=int, metavar="N", help="Also run row N, here and now.")
@click.option("--probe", is_flag=True,
              help="Also start a tiny job that looks from where the jobs would run.")  # fmt: skip
@json_option
@click.pass_context
def preflight(
    ctx: click.Context,
    target: str,
    on: str | None,
    overrides: dict[str, Any],
    try_row: int | None,
    probe: bool,
    as_json: bool,
) -> None:
    """Check a flow: what is wrong, and what to do about it.

    Nothing is started, unless --probe asks for a job that looks from a node whether it sees what a
    run needs. submit and run make the same checks and refuse where one is an error; the exit code
    is 2 then.

    \b
      flowdist preflight flow.py
      flowdist preflight flow.py --on laptop --try-row 0
      flowdist preflight flow.py --on cluster --probe
    """
    from flowdist.show import checks_table

    out = Output(json=as_json)
    flow = _flow(target, on, overrides)
    with contextlib.redirect_stdout(sys.stderr):
        checks = flow.preflight(try_row=try_row, probe=probe)
    out.table(checks_table(checks), [check.to_dict() for check in checks])
    ctx.exit(WRONG_USAGE if any(check.severity == "error" for check in checks) else DONE)


@click.command(cls=Command)
@flow_argument
@plan_options
@json_option
def plan(target: str, on: str | None, overrides: dict[str, Any], as_json: bool) -> None:
    """Show how rows become chunks and jobs; run nothing.

    \b
      flowdist plan flow.py
      flowdist plan flow.py:work --on laptop --by subject --set target_jobs=10
    """
    summary = _flow(target, on, overrides).plan()
    Output(json=as_json).table(summary, summary.to_dict())


@click.command(cls=Command)
@flow_argument
@plan_options
@click.option("--name", help="What to call the run; by default the flow's name, or the file's.")
@json_option
def submit(
    target: str, on: str | None, overrides: dict[str, Any], name: str | None, as_json: bool
) -> None:
    """Start a flow and return at once; the run goes on by itself.

    \b
      flowdist submit flow.py --name night
      flowdist watch last
    """
    from flowdist.explain import command

    out = Output(json=as_json)
    flow = _flow(target, on, overrides)
    run = flow.submit(name or _name(flow, target))
    out.message(f"Started {run.id}: {run.rows:,} rows. It goes on by itself; look at it with")
    for verb in ("watch", "explain", "collect"):
        out.message(f"  {command(run, verb)}")
    out.data({"id": run.id, "name": run.name, "rows": run.rows, "directory": run.directory})


@click.command(cls=Command)
@flow_argument
@plan_options
@click.option("--name", help="What to call the run; by default the flow's name, or the file's.")
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    target: str,
    on: str | None,
    overrides: dict[str, Any],
    name: str | None,
    as_json: bool,
) -> None:
    """Run a flow and wait for it, with a progress bar.

    Ctrl-C ends the run; finished rows are kept and flowdist resume goes on. To leave it running
    instead, use flowdist submit. The exit code is 1 where rows failed.

    \b
      flowdist run flow.py
      flowdist run flow.py --on laptop --workers 4
    """
    from flowdist.explain import command

    out = Output(json=as_json)
    flow = _flow(target, on, overrides)
    started = flow.submit(name or _name(flow, target))
    try:
        started.watch(cancel_on_interrupt=True)
    except KeyboardInterrupt:
        status = started.status()
        click.echo(
            f"\nStopped: {status.done:,} of {status.rows:,} rows are finished and kept. "
            f"Go on with\n  {command(started, 'resume', '--watch')}",
            err=True,
        )
        ctx.exit(INTERRUPTED)
    ctx.exit(finish(out, started))


def _flow(target: str, on: str | None, overrides: dict[str, Any]) -> Flow:
    return distributed(load_flow(target), on, overrides)


def _name(flow: Flow, target: str) -> str:
    """A flow that was given no name of its own is called like its file."""
    return flow.name if flow.name != "flow" else Path(target.partition(":")[0]).stem
