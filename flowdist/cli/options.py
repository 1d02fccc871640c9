"""Arguments and options that several sub-commands share, with what the shell completes them to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from flowdist.cli.find import CONNECTION, parse_settings, run_ids
from flowdist.errors import FlowdistError
from flowdist.settings import default_root

F = TypeVar("F", bound=Callable[..., Any])


def _complete_run(ctx: click.Context, param: click.Parameter, text: str) -> list[CompletionItem]:
    given = ctx.params.get("root")
    ids = run_ids(Path(given).expanduser() if given else default_root())
    return [CompletionItem(name) for name in ["last", *ids] if name.startswith(text)]


def _complete_profile(
    ctx: click.Context, param: click.Parameter, text: str
) -> list[CompletionItem]:
    from flowdist.profiles import list_profiles

    with contextlib.suppress(FlowdistError):
        return [
            CompletionItem(p.name, help=p.description)
            for p in list_profiles()
            if p.name.startswith(text)
        ]
    return []


class _FlowName(click.ParamType[str]):
    """``path/to/file.py[:name]``; shells complete it as they complete files."""

    name = "flow"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


def _keep_connection(ctx: click.Context, param: click.Parameter, name: str | None) -> None:
    ctx.meta[CONNECTION] = name


connection_option = click.option(
    "--connection", metavar="NAME", expose_value=False, callback=_keep_connection,
    help="The connection to Snowflake, where RUN or DIR is a place on a stage: "
    "@db.schema.stage/runs/ID, @db.schema.stage.",
)  # fmt: skip


def run_argument(command: F) -> F:
    """The run that a command is about: an id, or its place on a stage."""
    argument = click.argument("run_id", metavar="RUN", shell_complete=_complete_run)
    return argument(connection_option(command))


flow_argument = click.argument("target", metavar="FLOW", type=_FlowName())
profile_argument = click.argument("name", metavar="NAME", shell_complete=_complete_profile)
root_option = click.option(
    "--root", metavar="DIR", help="Where runs are, instead of FLOWDIST_ROOT or ./.flowdist/runs."
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, and only that, to standard output."
)


def most_option(help_: str) -> Callable[[F], F]:
    """How many lines of a list are printed."""
    return click.option(
        "-n", "--most", type=click.IntRange(min=1), default=20, metavar="N", show_default=True,
        help=help_,
    )  # fmt: skip


on_option = click.option(
    "--on", metavar="PROFILE", shell_complete=_complete_profile,
    help="The profile that says where and how; flowdist profiles list shows them.",
)  # fmt: skip


def plan_options(command: F) -> F:
    """The options that say where and how; the command gets ``on`` and the fields as
    ``overrides``."""

    @wraps(command)
    def gathered(
        *args: Any,
        workers: int | None,
        by: tuple[str, ...],
        settings: tuple[str, ...],
        root: str | None,
        **kwargs: Any,
    ) -> Any:
        overrides = parse_settings(settings)
        if workers is not None:
            overrides["workers"] = workers
        if by:
            overrides["by"] = [name for text in by for name in text.split(",")]
        if root is not None:
            overrides["root"] = root
        return command(*args, overrides=overrides, **kwargs)

    options = [
        on_option,
        click.option(
            "--workers", type=click.IntRange(min=1), metavar="N",
            help="How many rows or chunks run at once in a job.",
        ),
        click.option(
            "--by", metavar="COLUMN", multiple=True,
            help="Columns whose values make a group; again, or with commas, for several.",
        ),
        click.option(
            "--set", "settings", metavar="FIELD=VALUE", multiple=True,
            help="Any other field of the plan, as in --set memory=8GB --set dispatch=queue.",
        ),
        root_option,
    ]  # fmt: skip
    made: Any = gathered
    for option in reversed(options):
        made = option(made)
    return made  # type: ignore[no-any-return]
