"""The sub-command that keeps workers on Snowflake: persistent pools for `spcs_queue`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flowdist.cli import Command
from flowdist.cli.find import parse_settings
from flowdist.cli.options import json_option, on_option
from flowdist.cli.output import Output
from flowdist.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from flowdist.backends.snowflake.plans import SpcsQueue
    from flowdist.backends.snowflake.pools import PoolStatus
    from flowdist.snowflake.connection import Client
    from flowdist.snowflake.names import Name

__all__ = ["pool"]

F = TypeVar("F", bound=Callable[..., Any])


class _Pool(click.Group):
    command_class = Command


@click.group(cls=_Pool, no_args_is_help=True)
def pool() -> None:
    """Start, look at, scale and stop pools of workers on Snowflake.

    A pool stays when a run has ended, and runs whatever several people put into its queue, in fair
    shares. A plan uses it with spcs_queue(pool="NAME", ...). Where and how it works is said by a
    profile (--on) or by options.

    \b
      flowdist pool start fits --on snowflake --replicas 8
      flowdist pool status fits --on snowflake
      flowdist pool scale fits 2 --on snowflake
      flowdist pool stop fits --on snowflake
    """


def _place(command: F) -> F:
    """The options that say where a pool is; the command gets them as ``fields``."""

    @wraps(command)
    def gathered(*args: Any, connection: str | None, stage: str | None, **kwargs: Any) -> Any:
        fields = {"connection": connection, "stage": stage}
        return command(*args, fields={k: v for k, v in fields.items() if v is not None}, **kwargs)

    made: Any = gathered
    for option in (
        click.option("--connection", metavar="NAME", help="A connection of connections.toml."),
        click.option("--stage", metavar="STAGE", help="Where runs are, as in db.schema.stage."),
        on_option,
    ):
        made = option(made)
    return made  # type: ignore[no-any-return]


@pool.command()
@click.argument("name", metavar="NAME")
@click.option("--compute-pool", metavar="POOL", help="Whose nodes run the workers.")
@click.option("--image", metavar="PATH", help="As in /db/schema/repository/image:tag.")
@click.option("--replicas", type=click.IntRange(min=1), metavar="N", help="How many workers.")
@click.option("--warehouse", metavar="NAME", help="For the queue.")
@click.option("--instance-family", metavar="FAMILY", help="What the nodes are, as in CPU_X64_M.")
@click.option(
    "--idle", default="10min", show_default=True, metavar="TIME",
    help="After so long without work the pool is suspended; the next run resumes it. 0: never.",
)  # fmt: skip
@click.option(
    "--set", "settings", metavar="FIELD=VALUE", multiple=True,
    help="Any other field of the plan, as in --set memory=8GB.",
)  # fmt: skip
@_place
@json_option
def start(
    name: str,
    on: str | None,
    fields: dict[str, Any],
    settings: tuple[str, ...],
    idle: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Start a pool.

    \b
      flowdist pool start fits --compute-pool cells --image /db/s/repo/flowdist:1 \\
          --stage db.s.runs --replicas 4
    """
    from flowdist.backends.snowflake.pools import start_pool
    from flowdist.resources import parse_time
    from flowdist.summary import counted

    given = {key: value for key, value in options.items() if value is not None}
    plan = _plan(on, {**fields, **given, **parse_settings(settings), "pool": name})
    seconds = 0 if idle.strip() == "0" else parse_time(idle)
    with _client(plan) as client:
        made = start_pool(client, plan, idle=seconds)
    out = Output(json=as_json)
    out.message(f"Pool {made} starts with {counted(plan.replicas, 'worker')}.")
    out.message(f"Plans use it with spcs_queue(pool={made.sql!r}, ...).")
    out.data({"name": made.sql, "replicas": plan.replicas, "idle": seconds})


@pool.command()
@click.argument("name", metavar="NAME")
@_place
@json_option
def status(name: str, on: str | None, fields: dict[str, Any], as_json: bool) -> None:
    """Show a pool: its workers, and what waits in its queue.

    \b
      flowdist pool status fits --stage db.s.runs
    """
    from flowdist.backends.snowflake.pools import pool_status

    with _where(name, on, fields) as (client, full):
        found = pool_status(client, full)
    Output(json=as_json).table(_status_table(found), found.to_dict())


@pool.command()
@click.argument("name", metavar="NAME")
@click.argument("workers", metavar="N", type=click.IntRange(min=1))
@_place
@json_option
def scale(name: str, workers: int, on: str | None, fields: dict[str, Any], as_json: bool) -> None:
    """Let a pool have N workers.

    \b
      flowdist pool scale fits 8 --stage db.s.runs
    """
    from flowdist.backends.snowflake.pools import scale_pool
    from flowdist.summary import counted

    with _where(name, on, fields) as (client, full):
        scale_pool(client, full, workers)
    out = Output(json=as_json)
    out.message(f"Pool {full} is to have {counted(workers, 'worker')}.")
    out.data({"name": full.sql, "replicas": workers})


@pool.command()
@click.argument("name", metavar="NAME")
@_place
@json_option
def stop(name: str, on: str | None, fields: dict[str, Any], as_json: bool) -> None:
    """End a pool; runs that still have rows in it can be resumed.

    \b
      flowdist pool stop fits --stage db.s.runs
    """
    from flowdist.backends.snowflake.pools import stop_pool

    with _where(name, on, fields) as (client, full):
        stop_pool(client, full)
    out = Output(json=as_json)
    out.message(f"Pool {full} has ended.")
    out.data({"name": full.sql, "stopped": True})


# -- what a pool is on


def _plan(on: str | None, fields: dict[str, Any], *, only_where: bool = False) -> SpcsQueue:
    """The plan that says what the workers are, or where (`only_where`) they are."""
    from flowdist.backends.snowflake.plans import SpcsQueue
    from flowdist.plan import profile

    if on is not None:
        found = profile(on, **fields)
        if not isinstance(found, SpcsQueue):
            raise UsageError(f"profile '{on}' is of kind {found.kind}; a pool is for spcs-queue")
        return found
    if only_where:
        # What only matters to who starts one.
        fields = {"compute_pool": "ANY", "image": "/a/b/c/d", **fields}
    missing = [name for name in ("compute_pool", "image", "stage") if name not in fields]
    if missing:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise UsageError(f"give {options}, or a profile that says it: --on PROFILE")
    return SpcsQueue(**fields)


def _client(plan: SpcsQueue) -> closing[Client]:
    """A connection for as long as it is needed."""
    from flowdist.snowflake.connection import client_for

    return closing(client_for(plan.connection))


@contextmanager
def _where(name: str, on: str | None, fields: dict[str, Any]) -> Iterator[tuple[Client, Name]]:
    """A connection to where a pool is, and its full name."""
    from flowdist.backends.snowflake.pools import pool_name
    from flowdist.backends.snowflake.remote import runs_place

    plan = _plan(on, {**fields, "pool": name}, only_where=True)
    assert plan.pool is not None
    with _client(plan) as client:
        yield client, pool_name(plan.pool, runs_place(plan, client).stage)


def _status_table(found: PoolStatus) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from flowdist.show import facts_grid, table

    grid = facts_grid()
    grid.add_row("pool", Text(found.name, style="bold"))
    grid.add_row("state", found.state.lower())
    there = ", ".join(f"{count} {state}" for state, count in sorted(found.instances.items()))
    grid.add_row("workers", f"{found.wanted} wanted; {there or 'none there'}")
    grid.add_row("runs", found.stage)
    grid.add_row("queue", found.queue)
    if not found.work:
        grid.add_row("work", "none")
        return grid
    made = table(
        "run", ("waiting", "right"), ("claimed", "right"), ("workers", "right"),
        ("priority", "right"),
    )  # fmt: skip
    for work in found.work:
        counts = (work.waiting, work.claimed, work.workers, work.priority)
        made.add_row(Text(work.job_id), *(f"{count:,}" for count in counts))
    return Group(grid, Text(), made)
