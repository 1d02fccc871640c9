"""The sub-command that runs a script: exec."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowdist.cli import INTERRUPTED, Command
from flowdist.cli.find import parse_settings
from flowdist.cli.options import json_option, on_option, root_option
from flowdist.cli.outcome import finish
from flowdist.cli.output import Output
from flowdist.cli.results import check_format, print_table, records, write_table
from flowdist.errors import UsageError
from flowdist.explain import command

if TYPE_CHECKING:
    import pyarrow as pa

    from flowdist.plan import Plan
    from flowdist.run import Run
    from flowdist.snowflake.connection import Client
    from flowdist.snowflake.names import Name

MOST_TRACEBACKS = 3
# What follows from --replicas.
DECIDED = ("by", "rows_per_chunk", "chunks_per_job", "target_jobs", "workers", "replicas")


@click.command("exec", cls=Command)
@click.argument("script", type=click.Path(path_type=Path, dir_okay=False))
@on_option
@click.option("--config", "words", metavar="NAME=VALUE", multiple=True,
              help="What the script finds in its config; a value is JSON, or text.")  # fmt: skip
@click.option("--config-file", metavar="FILE", type=click.Path(path_type=Path),
              help="The same from a .json or .toml file; --config wins.")  # fmt: skip
@click.option("--replicas", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help="How many run at once, each with its own worker_index.")  # fmt: skip
@click.option("--entry", default="main", show_default=True, metavar="NAME", help="The function.")
@click.option("-o", "--output", "path", metavar="FILE", type=click.Path(path_type=Path),
              help="Write what it returned: .parquet, .csv, .json or .arrow.")  # fmt: skip
@click.option("--table", metavar="DB.SCHEMA.TABLE",
              help="Write it into a table of Snowflake, made where it is not there.")  # fmt: skip
@click.option("--connection", metavar="NAME",
              help="With --table: the connection, where the profile has none.")  # fmt: skip
@click.option("--watch/--submit-only", default=True,
              help="Wait for it with a progress bar, or return at once.")  # fmt: skip
@click.option("--set", "settings", metavar="FIELD=VALUE", multiple=True,
              help="Any field of the plan, as in --set memory=8GB --set cpus=4.")  # fmt: skip
@click.option("--name", help="What to call the run; by default like the script.")
@root_option
@json_option
@click.pass_context
def exec(  # noqa: A001  (commands are found by their names)
    ctx: click.Context,
    /,
    script: Path,
    on: str | None,
    words: tuple[str, ...],
    config_file: Path | None,
    path: Path | None,
    table: str | None,
    connection: str | None,
    watch: bool,
    settings: tuple[str, ...],
    root: str | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Run main(config) of a Python script, in one worker or several.

    The script, and the modules beside it that it imports, travel with the run. main gets a dict:
    what --config and --config-file say, worker_index and worker_count. What it returns (a dict, a
    table, nothing) is collected, a row for each worker. A raised exception, or sys.exit with
    another code than 0, is a failed row, and the exit code is 1.

    It is an ordinary run: flowdist status, logs, collect, cancel and resume know it.

    \b
      flowdist exec train.py --config rate=0.1 --config 'layers=[64, 64]'
      flowdist exec train.py --on cluster --replicas 4 --output scores.parquet
    """
    from flowdist.execute import exec_flow, parse_config
    from flowdist.plan import plan_of

    check_format(path)
    if not watch and (path or table):
        raise UsageError(
            "--submit-only returns before there is something to write; leave --output and --table "
            "out, and take it later with flowdist collect"
        )
    out, name = Output(json=as_json), how.pop("name")
    overrides = {**parse_settings(settings), **({"root": root} if root else {})}
    if taken := [field for field in DECIDED if field in overrides]:
        raise UsageError(
            f"--set {taken[0]}: each of --replicas N workers is a job of its own; --set cpus=4 "
            "says how many cores it has"
        )
    plan = plan_of(on or "laptop", **overrides)
    flow = exec_flow(script, parse_config(words, config_file), on=plan, **how)
    target = _target(plan, table, connection) if table is not None else None
    run = flow.submit(name)
    if not watch:
        out.message(f"Started {run.id}. It goes on by itself; look at it with")
        for words_ in (["watch"], ["logs"], ["collect", "--table", "main"]):
            out.message(f"  {command(run, *words_)}")
        out.data({"id": run.id, "name": run.name, "rows": run.rows, "directory": run.directory})
        return
    try:
        run.watch(cancel_on_interrupt=True)
    except KeyboardInterrupt:
        click.echo(
            f"\nStopped; start it again with\n  {command(run, 'resume', '--watch')}", err=True
        )
        ctx.exit(INTERRUPTED)
    if not run.status().clean:
        ctx.exit(_failed(out, run))
    result = run.table("main", as_="arrow")
    written = _write(result, run, path, target)
    for what, where in written.items():
        out.message(f"Wrote {what} {where}: {result.num_rows:,} rows")
    if not written and not out.json:
        print_table(out, result)
    ctx.exit(finish(out, run, written or {"result": records(result)}))


def _target(plan: Plan, table: str, connection: str | None) -> tuple[Client, Name]:
    """Where a table is, tried before anything is started."""
    from flowdist.snowflake.connection import client_for
    from flowdist.snowflake.names import Name

    client = client_for(connection or getattr(plan, "connection", None))
    session = client.session()
    name = Name.parse(table, "--table").within(session["database"], session["schema"])
    if len(name.parts) < 3:
        raise UsageError(f"--table {table}: the session has no schema; write db.schema.{table}")
    return client, name


def _write(
    result: pa.Table, run: Run, path: Path | None, target: tuple[Client, Name] | None
) -> Mapping[str, str]:
    """Write the result where it was wanted; what was written, in words, and where."""
    written = {}
    if path is not None:
        write_table(result, path)
        written["file"] = str(path)
    if target is not None:
        from flowdist.snowflake.save import save_table

        client, name = target
        save_table(client, name, result, run.id)
        client.close()
        written["table"] = name.sql
    return written


def _failed(out: Output, run: Run) -> int:
    """Say what became of a run that has not gone well, with the tracebacks."""
    found = run.errors().to_dict("records")
    code = finish(out, run, {"errors": found})
    for row in found[:MOST_TRACEBACKS]:
        text = str(row["traceback"] or f"{row['type']}: {row['message']}").rstrip()
        click.echo(f"\nworker {row['worker_index']}:\n{text}", err=True)
    return code
