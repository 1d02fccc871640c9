"""`flowdist setup`: what an account needs before flows run there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flowdist.cli import BACKEND_FAILED, Command
from flowdist.cli.options import json_option
from flowdist.cli.output import Output

if TYPE_CHECKING:
    from flowdist.backends.snowflake.setup import Setup, Step

F = TypeVar("F", bound=Callable[..., Any])

_STYLES = {
    "created": "green",
    "granted": "green",
    "there": "dim",
    "missing": "red",
    "unsuitable": "red",
    "dropped": "yellow",
    "kept": "cyan",
    "absent": "dim",
}


class _Places(click.Group):
    command_class = Command


@click.group(cls=_Places, no_args_is_help=True)
def setup() -> None:
    """Make what flows need on an account of Snowflake.

    \b
      flowdist setup snowflake --connection work --compute-pool FITS --role FLOWS
    """


def _text(name: str, help_: str, metavar: str = "NAME") -> Callable[[F], F]:
    return click.option(name, metavar=metavar, help=help_)


@setup.command()
@_text("--connection", "The connection in connections.toml; by default the default one.")
@_text("--compute-pool", "The pool that runs containers.")
@_text("--database", "Where everything is.  [default: FLOWDIST]")
@_text("--schema", "Where in the database.  [default: PUBLIC]")
@_text("--stage", "Where runs live.  [default: RUNS]")
@_text("--queue", "The table of spcs_queue.  [default: FLOWDIST_QUEUE]")
@click.option(
    "--hybrid/--no-hybrid",
    default=None,
    help="Whether the queue is a hybrid table; by default where the account has them.",
)
@_text("--repository", "Where images are pushed to.  [default: IMAGES]")
@_text("--warehouse", "For SQL of containers and tasks; made where it is not there.")
@_text("--role", "Flows run with it; made where it is not there; default: the connection's own.")
@_text("--user", "Who is to have the role.")
@_text("--instance-family", "Make the pool, of these machines, as in CPU_X64_S.", "FAMILY")
@click.option("--nodes", type=click.IntRange(min=1), metavar="N", help="At most so many of them.")
@_text("--image", "The image, for the plan that is printed.", "PATH")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Take these from a TOML or YAML file; options given here win.",
)
@click.option("--print", "print_", is_flag=True, help="Only print the SQL, for an administrator.")
@click.option("--drop", is_flag=True, help="Undo it: drop what was made, and all runs with it.")
@click.option("--yes", is_flag=True, help="Do not ask before dropping.")
@click.option("--write-profile", metavar="NAME", help="Add a profile to ./flowdist.toml.")
@json_option
@click.pass_context
def snowflake(
    ctx: click.Context,
    /,
    config_path: Path | None,
    print_: bool,
    drop: bool,
    yes: bool,
    write_profile: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Make or check the database, schema, stage, tables, image repository and privileges.

    What is there stays as it is, so that this can be run again. What this role may not make is
    listed with the statement for somebody who may. At the end there is the plan to use.

    \b
      flowdist setup snowflake --compute-pool FITS --warehouse WH
      flowdist setup snowflake --compute-pool FITS --instance-family CPU_X64_S --role FLOWS
      flowdist setup snowflake --config lab.yaml --print > setup.sql
      flowdist setup snowflake --compute-pool FITS --drop
    """
    out = Output(json=as_json)
    made = _setup(out, config_path, given)
    if print_:
        from flowdist.backends.snowflake.setup_plan import script

        sql = script(made)
        if as_json:
            out.data({"sql": sql})
        else:
            click.echo(sql, nl=False)
        return
    if drop:
        steps = _drop(made, yes=yes)
    else:
        steps, made = _make(made)
    _show(out, steps)
    done = all(step.ok for step in steps)
    plan = None if drop else made.plan()
    if plan is not None and done:
        _next(out, made, write_profile)
    out.data({"steps": [step.to_dict() for step in steps], "ok": done, "plan": plan})
    if not done:
        out.message("What is missing needs an administrator: the statements above mend it.")
        ctx.exit(BACKEND_FAILED)


def _setup(out: Output, path: Path | None, given: dict[str, Any]) -> Setup:
    from flowdist.backends.snowflake.setup import Setup
    from flowdist.backends.snowflake.setup_config import read_config

    fields: dict[str, Any] = {}
    if path is not None:
        fields, remarks = read_config(path)
        for remark in remarks:
            click.echo(f"Warning: {remark}", err=True)
    fields |= {name: value for name, value in given.items() if value is not None}
    if "compute_pool" not in fields:
        raise click.UsageError(
            "which compute pool? --compute-pool NAME says so; with --instance-family it is made"
        )
    return Setup(**fields)


def _make(made: Setup) -> tuple[list[Step], Setup]:
    """What was found and made; and the set-up with the image to use, where one was pushed."""
    from flowdist.backends.snowflake.setup import newest_image, set_up
    from flowdist.snowflake.connection import client_for

    with closing(client_for(made.connection, tag={"command": "setup"})) as client:
        steps = set_up(client, made)
        image = made.image or newest_image(client, made)
    return steps, replace(made, image=image)


def _drop(made: Setup, *, yes: bool) -> list[Step]:
    from flowdist.backends.snowflake.setup import tear_down
    from flowdist.snowflake.connection import client_for

    with closing(client_for(made.connection, tag={"command": "setup"})) as client:
        if not yes:
            click.confirm(
                f"Drop what set-up has made, with stage {made.stage_name} and all runs on it?",
                abort=True, err=True,
            )  # fmt: skip
        return tear_down(client, made)


def _show(out: Output, steps: Sequence[Step]) -> None:
    from rich.text import Text

    from flowdist.show import table

    shown = table("what", "name", "", "")
    for step in steps:
        note = Text(step.note)
        if step.sql and (not step.ok or step.state in ("there", "kept")):
            note.append(f"{chr(10) if step.note else ''}{step.sql};", style="bold")
        shown.add_row(step.kind, step.name, Text(step.state, style=_STYLES[step.state]), note)
    out.show(shown)


def _next(out: Output, made: Setup, write_profile: str | None) -> None:
    out.message(f"\nThe plan for it:\n\n{made.plan_line()}")
    if made.image is None:
        out.message(
            "No worker image of this Python and flowdist is in the repository: flowdist image "
            f"build makes one, flowdist image push IMAGE {made.repository_name} puts it there."
        )
    if write_profile is None:
        out.message("--write-profile NAME adds it to ./flowdist.toml, for --on NAME.")
        return
    from flowdist.profiles import add_profile

    path = Path("flowdist.toml")
    add_profile(path, write_profile, made.plan())
    out.message(f"Added profile '{write_profile}' to {path}; --on {write_profile} uses it")
