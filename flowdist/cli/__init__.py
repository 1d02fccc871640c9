"""The `flowdist` command.

Here is only how sub-commands are found and how failures end: one sentence on standard error and an
exit code. The sub-commands are in the modules named below, each loaded when it is used; what they
print goes through `flowdist.cli.output`.

Exit codes: 0 done, 1 rows failed or are missing, 2 wrong usage, 3 the backend failed, 130
interrupted.
"""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Mapping
from typing import Any, NoReturn

import click

from flowdist import __version__
from flowdist.errors import (
    BackendError,
    FlowdistError,
    PayloadError,
    RowsFailed,
    RunIncomplete,
    TypeClash,
    nearest,
)

__all__ = ["cli", "main"]

DONE, ROWS_FAILED, WRONG_USAGE, BACKEND_FAILED, INTERRUPTED = 0, 1, 2, 3, 130

# Heading -> sub-command -> the module it lives in, in the order of the help page.
_SECTIONS: Mapping[str, Mapping[str, str]] = {
    "Begin": {"demo": "start", "init": "start"},
    "Run a flow": {
        "preflight": "start",
        "plan": "start",
        "run": "start",
        "submit": "start",
        "exec": "execute",
    },
    "Look at runs": {
        "runs": "look",
        "status": "look",
        "watch": "look",
        "logs": "look",
        "errors": "look",
        "explain": "look",
        "report": "look",
    },
    "Take results": {"collect": "results"},
    "Change runs": {"cancel": "change", "resume": "change", "delete": "change"},
    "Set up": {
        "profiles": "setup",
        "setup": "setup_snowflake",
        "pool": "pool",
        "image": "image",
        "completion": "setup",
        "worker": "setup",
    },
    "Snowflake on this machine": {"emulator": "emulator"},
}
_MODULES = {name: module for section in _SECTIONS.values() for name, module in section.items()}
_DEBUG = "flowdist.debug"


class Failure(click.ClickException):
    """A failure as the shell sees it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]

    def show(self, file: Any = None) -> None:
        if self.message:
            click.echo(f"{click.style('Error:', fg='red')} {self.message}", file=file, err=True)


class Command(click.Command):
    """A sub-command; all of them have ``--debug``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(debug_option())


class Root(click.Group):
    """The command itself: finds sub-commands by name and turns exceptions into exit codes."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        module = importlib.import_module(f"flowdist.cli.{_MODULES[cmd_name]}")
        found: click.Command = getattr(module, cmd_name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in _MODULES:
            raise click.UsageError(
                f"there is no command '{args[0]}'{nearest(args[0], _MODULES)}", ctx
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, _MODULES))
        for heading, names in _SECTIONS.items():
            found = [(name, self.get_command(ctx, name)) for name in names]
            lines = [
                (name.ljust(width), command.get_short_help_str(limit=90))
                for name, command in found
                if command is not None
            ]
            with formatter.section(heading):
                formatter.write_dl(lines)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            click.echo(err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None
        except Exception as error:
            _fail(error, debug=bool(ctx.meta.get(_DEBUG)))


def debug_option() -> click.Option:
    """The option that shows tracebacks."""

    def note(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value:
            ctx.meta[_DEBUG] = True

    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, callback=note,
        help="Show the traceback of an error.",
    )  # fmt: skip


def exit_code(error: Exception) -> int:
    """The exit code that says what kind of error it was.

    >>> exit_code(BackendError("no answer")), exit_code(RowsFailed("3 of 9"))
    (3, 1)
    """
    if isinstance(error, (RowsFailed, RunIncomplete, TypeClash)):
        return ROWS_FAILED
    if isinstance(error, (BackendError, PayloadError)):
        return BACKEND_FAILED
    return WRONG_USAGE if isinstance(error, FlowdistError) else BACKEND_FAILED


def _fail(error: Exception, *, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exception(error)
    if isinstance(error, FlowdistError):
        message = str(error)
    elif isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename is not None else ""
        message = f"{place}{error.strerror}"
    else:
        message = f"{type(error).__name__}: {error}"
        if not debug:
            message += "\nThis was not expected; --debug shows where it comes from."
    raise Failure(message, exit_code(error)) from error


@click.group(
    cls=Root,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 rows failed or are missing, 2 wrong usage, 3 the backend failed.",
)
@click.version_option(__version__, "--version", prog_name="flowdist")
def cli() -> None:
    """Run Python functions over every row of a parameter grid.

    A flow is named by its file: path/to/file.py, or path/to/file.py:name where the file has
    several. A run is named by its id, the beginning of its id, its directory, or "last".

    \b
      flowdist demo                    a real run on real data, in a minute
      flowdist init flow.py            a commented example to start from
      flowdist run flow.py             run it, with a progress bar
      flowdist collect last -o t.csv   take the table
    """


cli.params.append(debug_option())


def main() -> None:
    """The entry point of the console script."""
    # A command computes little: OpenBLAS starts no thread for each core of a login node. What jobs
    # or users ask for goes before this.
    os.environ.setdefault("OPENBLAS_DEFAULT_NUM_THREADS", "1")
    cli(prog_name="flowdist")
