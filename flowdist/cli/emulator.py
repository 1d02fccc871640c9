"""Sub-commands of `flowdist emulator`: Snowflake on this machine, started and looked at."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowdist.cli import BACKEND_FAILED, Command
from flowdist.cli.options import json_option
from flowdist.cli.output import Output
from flowdist.errors import UsageError

if TYPE_CHECKING:
    from flowdist.emulator.client import Emulator
    from flowdist.emulator.place import Server

LINES = 50


class _Emulator(click.Group):
    command_class = Command


directory_option = click.option(
    "--directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False),
    help="Where its state is, instead of FLOWDIST_EMULATOR or ./.flowdist/emulator.",
)  # fmt: skip
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group(cls=_Emulator, no_args_is_help=True)
def emulator() -> None:
    """Run Snowflake on this machine, without an account.

    A server on localhost that the unmodified connector and `snow` talk to.

    \b
      flowdist emulator start
      flowdist emulator prepare
      flowdist emulator status
      flowdist emulator logs -f
      flowdist emulator stop
    """


@emulator.command()
@directory_option
@click.option("--port", type=click.IntRange(1, 65535), metavar="N",
              help="Where it listens; by default where it did before, or any.")  # fmt: skip
@click.option("--node-start", type=click.FloatRange(min=0), default=0.0, metavar="S",
              help="Seconds until a node of a compute pool is there.")  # fmt: skip
@click.option("--visibility-delay", type=click.FloatRange(min=0), default=0.0, metavar="S",
              help="Seconds until others see what a container has written.")  # fmt: skip
@click.option("--no-strict-mounts", is_flag=True,
              help="Let containers append to files of stages, and rename them.")  # fmt: skip
@click.option("--runtime", type=click.Choice(["process", "podman", "docker"]), default="process",
              show_default=True, help="What containers are.")  # fmt: skip
@click.option("--seed", type=int, default=0, metavar="N", help="Of faults that are left to chance.")
@click.option("--write-connection", metavar="NAME",
              help="Add it to your connections.toml, for snow and the connector.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace the connection of that name.")
@json_option
@click.pass_context
def start(
    ctx: click.Context,
    /,
    directory: Path | None,
    write_connection: str | None,
    force: bool,
    as_json: bool,
    port: int | None,
    no_strict_mounts: bool,
    **settings: Any,
) -> None:
    """Start it, and print how to connect.

    It goes on by itself until it is stopped; its state stays in its directory.

    \b
      flowdist emulator start
      flowdist emulator start --write-connection local && snow sql -q "SELECT 1" -c local
    """
    from flowdist.emulator.client import Emulator
    from flowdist.emulator.place import Place

    out = Output(json=as_json)
    where = _directory(directory)
    server = Place(where).ready()
    if server is None:
        made = Emulator(where, port=port, strict_mounts=not no_strict_mounts, **settings)
        server = made.start(detached=True).server
        out.message(f"The emulator listens at {server.url}; its state is in {_short(where)}")
    else:
        out.message(f"The emulator runs already, at {server.url} (process {server.pid}).")
        if _typed(ctx) - {"directory", "write_connection", "force", "as_json"}:
            out.message("It keeps its settings; flowdist emulator stop lets it start with others.")
    out.message(f"Its page: {server.page}")
    out.message("For flows, flowdist run ... --on emulator: flowdist emulator prepare")
    out.message(_how_to_connect(server, where))
    written = None
    if write_connection is not None:
        from flowdist.emulator.connections import write

        written = write(write_connection, server.connection_parameters(), force=force)
        out.message(f"\nThe connection '{write_connection}' is in {written}; try")
        out.message(f'  snow sql -q "SELECT 1" -c {write_connection}')
    data = {"url": server.url, "page": server.page, "pid": server.pid, "directory": where}
    connection = server.connection_parameters()
    out.data({**data, "connection": connection, "connection_file": written})


@emulator.command()
@directory_option
@click.option("--keep-jobs", is_flag=True,
              help="Let containers run on; the next start takes them over.")  # fmt: skip
@json_option
def stop(directory: Path | None, keep_jobs: bool, as_json: bool) -> None:
    """Stop it, and what runs in it; its state stays.

    Statements in flight get a few seconds. If it does not end it is killed.

    \b
      flowdist emulator stop
    """
    out = Output(json=as_json)
    where = _directory(directory)
    found = _found(where)
    ran = found.running
    found.stop(containers=not keep_jobs)
    out.message(f"Stopped; its state is in {_short(where)}" if ran else "It was not running.")
    out.data({"directory": where, "was_running": ran})


@emulator.command()
@directory_option
@json_option
@click.pass_context
def status(ctx: click.Context, directory: Path | None, as_json: bool) -> None:
    """Show whether it runs, where, and what is in it.

    The exit code is 3 where it does not run.

    \b
      flowdist emulator status
      flowdist emulator status --json | jq -r .page
    """
    from flowdist.emulator.client import Emulator
    from flowdist.emulator.place import Place

    out = Output(json=as_json)
    where = _directory(directory)
    server = Place(where).ready()
    if server is None:
        out.message(f"No emulator runs in {_short(where)}; flowdist emulator start starts one.")
        out.data({"running": False, "directory": where})
        ctx.exit(BACKEND_FAILED)
    now = Emulator.attach(where).overview()
    lines = _status_lines(server, now)
    out.table(_two_columns([*lines, ("state", _short(where))]), _status_data(server, now, where))


@emulator.command()
@directory_option
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until it ends.")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=LINES, show_default=True,
              metavar="N", help="How many of the last lines.")  # fmt: skip
def logs(directory: Path | None, follow: bool, lines: int) -> None:
    """Print the log of the server.

    What containers print is asked for in SQL, or by snow spcs service logs.

    \b
      flowdist emulator logs -n 20
      flowdist emulator logs -f
    """
    from flowdist.emulator.place import Place

    place = Place(_directory(directory))
    if not place.log.exists():
        raise UsageError(f"there is no log in {place.directory}; no emulator was started there")
    text = place.log.read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines()[-lines:] if lines else []:
        click.echo(line)
    if follow:
        _follow(place.log, len(text.encode()), lambda: not place.running)


@emulator.command()
@directory_option
@yes_option
@click.option("--force", is_flag=True, help="Stop it first if it runs.")
@json_option
def reset(directory: Path | None, yes: bool, force: bool, as_json: bool) -> None:
    """Remove all state: databases, stages with their files, tasks, logs.

    The next start begins with an empty account, another password and another port.

    \b
      flowdist emulator reset --yes
    """
    import shutil

    out = Output(json=as_json)
    where = _directory(directory)
    found = _found(where)
    if found.running and not force:
        raise UsageError(
            f"the emulator in {_short(where)} runs; flowdist emulator stop stops it, --force too"
        )
    if not yes:
        click.confirm(f"Remove {where} and all that is in it?", abort=True, err=True)
    found.stop()
    shutil.rmtree(where)
    out.message(f"Removed {_short(where)}")
    out.data({"directory": where, "removed": True})


@emulator.command()
@click.argument("path")
@directory_option
@click.option("--entrypoint", metavar="COMMAND", help="What its containers run, as in a shell.")
@click.option("--cmd", metavar="ARGUMENTS", help="The arguments, unless a specification has some.")
@click.option("--env", metavar="NAME=VALUE", multiple=True, help="As often as needed.")
@click.option("--working-directory", metavar="DIR", help="Where its containers begin.")
@click.option("--user", metavar="USER", help="As which user they run.")
@click.option("--architecture", type=click.Choice(["amd64", "arm64"]), help="What it is built for.")
@click.option("--source", metavar="IMAGE", help="What podman or docker calls it, where one runs.")
@json_option
def push(
    path: str,
    directory: Path | None,
    entrypoint: str | None,
    cmd: str | None,
    env: tuple[str, ...],
    as_json: bool,
    **rest: str | None,
) -> None:
    """Register an image, as docker push would.

    PATH is where a specification finds it. Its containers run on this machine what --entrypoint
    says. Where podman or docker runs them, --source names an image of theirs, and what is not
    given is taken from that.

    \b
      flowdist emulator push /flowdist/public/images/python:3 --entrypoint python3
      flowdist emulator push /flowdist/public/images/python:3 --source localhost/python:3
    """
    from flowdist.emulator.client import Emulator

    out = Output(json=as_json)
    digest = Emulator.attach(_directory(directory)).push_image(
        path,
        entrypoint=None if entrypoint is None else shlex.split(entrypoint),
        cmd=None if cmd is None else shlex.split(cmd),
        env=dict(_pair(text) for text in env) or None,
        **rest,
    )
    out.message(f"Pushed {path}")
    out.data({"path": path, "digest": digest})


@emulator.command()
@directory_option
@json_option
def prepare(directory: Path | None, as_json: bool) -> None:
    """Make what --on emulator needs: a pool, a stage, a queue, an image of what runs here.

    What is there stays as it is; so it may be done again.

    \b
      flowdist emulator start
      flowdist emulator prepare
      flowdist run flow.py --on emulator
    """
    from flowdist.backends.snowflake import on_emulator
    from flowdist.emulator.client import Emulator
    from flowdist.show import table

    out = Output(json=as_json)
    found = Emulator.attach(_directory(directory))
    made = on_emulator.prepare(found, on_emulator.emulator_plan())
    made.client.close()
    steps = [step for step in made.steps if not step.kind.startswith("privileges")]
    shown = table("object", "name", "state")
    for step in steps:
        shown.add_row(step.kind, step.name, step.state)
    out.table(shown, [step.to_dict() for step in made.steps])
    out.message("\nNow try\n  flowdist run flow.py --on emulator")


# -- inside


def _typed(ctx: click.Context) -> set[str]:
    """The options that were given, by name."""
    source = click.core.ParameterSource.COMMANDLINE
    return {name for name in ctx.params if ctx.get_parameter_source(name) is source}


def _directory(given: Path | None) -> Path:
    from flowdist.settings import default_emulator

    return given.expanduser().absolute() if given is not None else default_emulator()


def _short(path: Path) -> str:
    """A path as one would type it here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _found(where: Path) -> Emulator:
    """The emulator of a directory, whether it runs or not."""
    from flowdist.emulator.client import Emulator
    from flowdist.emulator.place import Place

    place = Place(where)
    if not place.exists:
        raise UsageError(f"there is no emulator in {where}; flowdist emulator start makes one")
    known = place.read()
    runtime = known.settings.get("runtime", "process") if known is not None else "process"
    return Emulator(where, runtime=runtime)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--env {text}: NAME=VALUE is wanted")
    return name, value


def _how_to_connect(server: Server, where: Path) -> str:
    from flowdist.emulator.connections import entry, exports

    parameters = server.connection_parameters()
    keywords = "".join(f"    {name}={value!r},\n" for name, value in parameters.items())
    attached = f'connection = Emulator.attach("{where}").connect()'
    connected = f"connection = snowflake.connector.connect(\n{keywords})"
    blocks = [
        (
            "Python",
            f"from flowdist.emulator import Emulator\n{attached}",
        ),
        (
            "Python, without flowdist",
            f"import snowflake.connector\n{connected}",
        ),
        ("The environment, as for snow sql -x", exports(parameters)),
        ("connections.toml, as for snow -c emulator", entry("emulator", parameters).rstrip()),
    ]
    return "".join(
        f"\n{title}:\n" + "".join(f"  {line}\n" for line in text.splitlines())
        for title, text in blocks
    ).rstrip()


def _status_data(server: Server, now: dict[str, Any], where: Path) -> dict[str, Any]:
    return {
        "running": True,
        "url": server.url,
        "page": server.page,
        "port": server.port,
        "pid": server.pid,
        "version": server.version,
        "uptime": now["uptime"],
        "directory": where,
        "sessions": now["sessions"],
        "queries": now["queries_total"],
        "pools": now["pools"],
        "services": now["services"],
        "tasks": now["tasks"],
        "stages": now["stages"],
        "faults": now["faults"],
    }


def _status_lines(server: Server, now: dict[str, Any]) -> list[tuple[str, str]]:
    from flowdist.explain import roughly

    nodes = sum(len(pool["nodes"]) for pool in now["pools"])
    states: dict[str, int] = {}
    for one in now["services"]:
        states[one["status"]] = states.get(one["status"], 0) + 1
    of_states = ", ".join(f"{n:,} {state}" for state, n in sorted(states.items()))
    files = sum(stage["files"] for stage in now["stages"])
    size = sum(stage["bytes"] for stage in now["stages"])
    cut = len(now["stages"]) < now["stages_total"] or any(s["more"] for s in now["stages"])
    over = "over " if cut else ""
    return [
        ("url", server.url),
        ("page", server.page),
        ("process", f"{server.pid}, up {roughly(now['uptime'])}, version {server.version}"),
        ("sessions", f"{now['sessions']:,}"),
        ("queries", f"{now['queries_total']:,}"),
        ("pools", f"{len(now['pools']):,}, with {nodes:,} nodes"),
        ("services", f"{now['services_total']:,}" + (f": {of_states}" if of_states else "")),
        ("tasks", f"{now['tasks_total']:,}"),
        ("stages", f"{now['stages_total']:,}, with {over}{files:,} files, {size / 1e6:,.1f} MB"),
        ("faults", f"{len(now['faults']):,}"),
    ]


def _two_columns(lines: list[tuple[str, str]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    made = Table.grid(padding=(0, 3, 0, 0))
    for name, value in lines:
        made.add_row(name, Text(value, overflow="fold"))
    return made


def _follow(path: Path, offset: int, ended: Callable[[], bool]) -> None:
    """Print what is added to a file, also after it was renamed and begun anew."""
    file = path.open("rb")
    file.seek(offset)
    try:
        while True:
            last = ended()
            click.echo(file.read().decode(errors="replace"), nl=False)
            if last:
                return
            if path.exists() and path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                file.close()
                file = path.open("rb")
            time.sleep(0.2)
    finally:
        file.close()
