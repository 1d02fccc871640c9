"""Sub-commands of `flowdist image`: the image that containers of Snowflake run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowdist.cli import WRONG_USAGE, Command
from flowdist.cli.options import json_option
from flowdist.cli.output import Output

if TYPE_CHECKING:
    from flowdist.snowflake.images import StoredImage
    from flowdist.workers.image.packages import Packages
    from flowdist.workers.image.validate import Finding


class _Image(click.Group):
    command_class = Command


_file = click.Path(path_type=Path, dir_okay=False, exists=True)
package_option = click.option(
    "--package", "names", metavar="NAME==VERSION", multiple=True,
    help="A further package; as often as needed.",
)  # fmt: skip
engine_option = click.option(
    "--builder", type=click.Choice(["docker", "podman", "buildah"]),
    help="The program that does it; by default the first of these that is there.",
)  # fmt: skip
connection_option = click.option(
    "-c", "--connection", metavar="NAME",
    help="A connection of connections.toml; by default the default one.",
)  # fmt: skip
lock_option = click.option(
    "--lock", type=_file, metavar="FILE",
    help="A lock file: requirements.txt, pylock.toml, uv.lock, poetry.lock.",
)  # fmt: skip


def _options(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    if value and not value[0].startswith("-"):
        raise click.UsageError(
            f"'{value[0]}' is not expected here; options of the builder follow --"
        )
    return value


more_argument = click.argument(
    "more", nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTIONS]", callback=_options
)


@click.group(cls=_Image, no_args_is_help=True)
def image() -> None:
    """Build, check and push the image of workers on Snowflake.

    It has Python as here, packages, and flowdist. Your own code is not in it: it travels with each
    run.

    \b
      flowdist image build
      flowdist image validate flowdist-worker:TAG --flow flow.py
      flowdist image push flowdist-worker:TAG db.schema.images
      flowdist image list
    """


@image.command()
@lock_option
@click.option("--no-lock", is_flag=True, help="Without the lock file that is here.")
@package_option
@click.option("--environment", is_flag=True,
              help="All that is installed here, in the same versions.")  # fmt: skip
@click.option("--exclude", metavar="NAME", multiple=True,
              help="But not this one; as often as needed.")  # fmt: skip
@click.option("--apt", metavar="NAME", multiple=True,
              help="A package of Debian, as libgomp1; as often as needed.")  # fmt: skip
@click.option("--base", default="", metavar="IMAGE",
              help="What to begin with, instead of python:3.X-slim.")  # fmt: skip
@click.option("-t", "--tag", metavar="NAME[:TAG]",
              help="What it is called; by default its tag says what is in it.")  # fmt: skip
@engine_option
@click.option("--pip-config", type=_file, metavar="FILE",
              help="A pip.conf that pip is shown, and that is not kept.")  # fmt: skip
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Keep the Containerfile and its files there.")  # fmt: skip
@click.option("--print", "print_only", is_flag=True, help="Print the Containerfile, build nothing.")
@json_option
@more_argument
def build(
    lock: Path | None,
    no_lock: bool,
    base: str,
    apt: tuple[str, ...],
    tag: str | None,
    builder: str | None,
    pip_config: Path | None,
    keep: Path | None,
    print_only: bool,
    as_json: bool,
    more: tuple[str, ...],
    **chosen: Any,
) -> None:
    """Build a worker image for linux/amd64.

    Packages come from --lock, else from a lock file in this directory; --environment takes what is
    installed here instead. Each has one exact version. What follows -- goes to the builder.

    \b
      flowdist image build
      flowdist image build --package scipy==1.17.0 --apt libgomp1
      flowdist image build --environment --exclude ipython --print
    """
    from flowdist.workers.image import build as making
    from flowdist.workers.image.engines import find_engine
    from flowdist.workers.image.recipe import default_base, listing

    out = Output(json=as_json)
    packages = making.choose_packages(
        lock=lock, directory=None if no_lock else Path.cwd(), **chosen
    )
    recipe = making.make_recipe(packages, base=base, apt=apt, pip_config=pip_config is not None)
    _say(packages)
    name = making.image_name(recipe, tag)
    data = {"image": name, "labels": recipe.labels, "packages": packages.requirements}
    if print_only:
        files = recipe.files()
        if keep is not None:
            making.write(recipe, keep)
        if as_json:
            out.data({**data, "containerfile": recipe.containerfile()})
        else:
            click.echo(listing(files), nl=False)
        return
    engine = find_engine(builder, more=more)
    making.build(recipe, engine, tag=tag, pip_config=pip_config, keep=keep, out=_to_standard_error)
    pinned = engine.pinned(recipe.base or default_base())
    if pinned is not None:
        out.message(f"Its base is {pinned}; given to --base, that name stays the same image")
    out.message(f"Built {name} with {engine.name}; next:")
    out.message(f"  flowdist image validate {name}")
    out.message(f"  flowdist image push {name} DATABASE.SCHEMA.REPOSITORY")
    out.data({**data, "builder": engine.name, "base": pinned})


@image.command()
@click.argument("name", metavar="IMAGE")
@click.option("--flow", "target", metavar="FLOW",
              help="A flow, as file.py[:name]: whether all that it imports is there.")  # fmt: skip
@lock_option
@package_option
@engine_option
@json_option
@more_argument
@click.pass_context
def validate(
    ctx: click.Context,
    name: str,
    target: str | None,
    lock: Path | None,
    names: tuple[str, ...],
    builder: str | None,
    as_json: bool,
    more: tuple[str, ...],
) -> None:
    """Check that an image works as a worker, by running it here.

    What would fail in the cloud with an empty log is found out before: another architecture,
    another Python, a package that is missing. With --lock and --package, as they were given to
    build, also whether these have changed. The exit code is 2 where something is wrong.

    \b
      flowdist image validate flowdist-worker:TAG
      flowdist image validate flowdist-worker:TAG --flow flow.py
    """
    from flowdist.cli.find import load_flow
    from flowdist.workers.image.build import choose_packages
    from flowdist.workers.image.engines import find_engine
    from flowdist.workers.image.validate import validate as look

    flow = load_flow(target) if target is not None else None
    packages = choose_packages(lock=lock, names=names) if lock or names else None
    engine = find_engine(builder, runs=True, more=more)
    found = look(name, engine, flow=flow, packages=packages)
    data = {"image": name, "findings": [finding.to_dict() for finding in found]}
    Output(json=as_json).table(_findings_table(found), data)
    if any(finding.state == "error" for finding in found):
        ctx.exit(WRONG_USAGE)


@image.command()
@click.argument("name", metavar="IMAGE")
@click.argument("repository", required=False)
@click.option("--as", "there", metavar="NAME:TAG", help="What it is called there.")
@connection_option
@engine_option
@click.option("--no-login", is_flag=True,
              help="Do not sign in: docker login, or podman login, was run before.")  # fmt: skip
@json_option
def push(
    name: str,
    repository: str | None,
    there: str | None,
    connection: str | None,
    builder: str | None,
    no_login: bool,
    as_json: bool,
) -> None:
    """Push an image to an image repository of the account.

    REPOSITORY is database.schema.repository; it may be left out where there is only one. A token of
    the connection signs in. Printed is the path that a plan takes.

    \b
      flowdist image push flowdist-worker:TAG db.schema.images
      flowdist image push flowdist-worker:TAG --connection lab
    """
    from flowdist.workers.image.engines import find_engine
    from flowdist.workers.image.push import push as take

    out = Output(json=as_json)
    stored = take(
        name,
        find_engine(builder),
        connection=connection,
        repository=repository,
        name=there,
        sign_in=not no_login,
        out=_to_standard_error,
    )
    out.message(f"Pushed {name}: {stored.digest}")
    out.message(f'  image="{stored.path}"')
    out.data(_stored_data(stored))


@image.command("list")
@click.argument("repository", required=False)
@connection_option
@json_option
def list_(repository: str | None, connection: str | None, as_json: bool) -> None:
    """List the images of an image repository.

    REPOSITORY is database.schema.repository; it may be left out where there is only one.

    \b
      flowdist image list db.schema.images
      flowdist image list --connection lab --json
    """
    from flowdist.snowflake.connection import client_for
    from flowdist.snowflake.images import find_repository, stored_images

    with closing(client_for(connection)) as client:
        found = stored_images(client, find_repository(client, repository).name)
    Output(json=as_json).table(_images_table(found), [_stored_data(one) for one in found])


# -- inside


def _to_standard_error(line: str) -> None:
    click.echo(line, err=True)


def _say(packages: Packages) -> None:
    """What goes into the image, and what does not."""
    from flowdist.summary import counted

    if packages.requirements:
        said = f"{counted(len(packages.requirements), 'package')} from {packages.source}"
    else:
        said = "no packages but flowdist's own; --lock, --package and --environment add some"
    click.echo(f"The image gets {said}", err=True)
    for remark in packages.remarks:
        click.echo(f"  {remark}", err=True)


def _findings_table(found: Sequence[Finding]) -> Any:
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "warning": "yellow", "error": "red"}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("check", "", "found", "what to do"):
        table.add_column(heading)
    for one in found:
        table.add_row(
            one.name, Text(one.state, colours[one.state]), Text(one.what), Text(one.remedy)
        )
    return table


def _images_table(found: Sequence[StoredImage]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("path", "flowdist", "python", "created", "digest"):
        table.add_column(heading)
    for one in found:
        table.add_row(
            Text(one.path),
            one.worker.flowdist if one.worker else "",
            one.worker.python if one.worker else "",
            f"{one.created.astimezone():%Y-%m-%d %H:%M}" if one.created else "",
            one.digest[:19],
        )
    return table


def _stored_data(stored: StoredImage) -> dict[str, Any]:
    return {
        "path": stored.path,
        "name": stored.name,
        "tag": stored.tag,
        "digest": stored.digest,
        "created": stored.created,
        "flowdist": stored.worker.flowdist if stored.worker else None,
        "python": stored.worker.python if stored.worker else None,
    }
