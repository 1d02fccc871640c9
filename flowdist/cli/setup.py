"""Sub-commands that set up: profiles, completion, worker."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import get_completion_class

from flowdist.cli import Command, cli
from flowdist.cli.find import parse_settings
from flowdist.cli.options import json_option, profile_argument
from flowdist.cli.output import Output


class _Profiles(click.Group):
    command_class = Command


@click.group(cls=_Profiles, no_args_is_help=True)
def profiles() -> None:
    """List, show, add or discover profiles: named plans, for --on.

    They are looked up in ./flowdist.toml, then in the user's own file, then among the built-in
    ones.

    \b
      flowdist profiles list
      flowdist profiles show laptop
      flowdist profiles add night extends=laptop workers=8 memory=32GB
      flowdist profiles discover --write
    """


@profiles.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the profiles that there are, and where each is from."""
    from dataclasses import asdict

    from flowdist.profiles import list_profiles
    from flowdist.show import profiles_table

    found = list_profiles()
    Output(json=as_json).table(profiles_table(found), [asdict(profile) for profile in found])


@profiles.command()
@profile_argument
@json_option
def show(name: str, as_json: bool) -> None:
    """Show the values of a profile, and where each comes from.

    \b
      flowdist profiles show laptop
    """
    from flowdist.profiles import resolve
    from flowdist.show import profile_table

    found = resolve(name)
    data = {"name": found.name, "fields": found.fields, "sources": found.sources}
    Output(json=as_json).table(profile_table(found), data)


@profiles.command()
@click.argument("name")
@click.argument("settings", metavar="FIELD=VALUE...", nargs=-1, required=True)
@click.option("--user", is_flag=True, help="Into your own file, for all projects.")
def add(name: str, settings: tuple[str, ...], user: bool) -> None:
    """Add a profile to ./flowdist.toml, or with --user to your own file.

    Nothing else in the file changes; a profile that is there is not replaced.

    \b
      flowdist profiles add night extends=laptop workers=8
      flowdist profiles add small-memory kind=local workers=2 memory=4GB --user
    """
    from flowdist.profiles import add_profile, user_file

    path = user_file() if user else Path("flowdist.toml")
    add_profile(path, name, parse_settings(settings))
    Output().message(f"Added profile '{name}' to {path}; flowdist profiles show {name} shows it")


@profiles.command()
@click.option(
    "--write", "path", is_flag=False, flag_value="flowdist.toml", metavar="[FILE]",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Append them to FILE, by default ./flowdist.toml.",
)  # fmt: skip
def discover(path: Path | None) -> None:
    """Print a profile for each partition of the SLURM cluster here.

    A job of such a profile takes a whole node; what else the partition allows is in comments.
    With --write they are appended to a file; profiles that it has already stay as they are.

    \b
      flowdist profiles discover
      flowdist profiles discover --write
    """
    from flowdist.backends.slurm.client import SlurmClient
    from flowdist.backends.slurm.discover import discover as profiles_of
    from flowdist.profiles import add_profile, list_profiles
    from flowdist.profiles.files import read

    taken = [profile.name for profile in list_profiles() if profile.place == "built-in"]
    found = profiles_of(SlurmClient().partitions(), taken)
    if path is None:
        click.echo("\n".join(one.toml() for one in found), nl=False)
        return
    there = read(path)
    for one in found:
        if one.name in there:
            Output().message(f"Left profile '{one.name}' as it is in {path}")
        else:
            add_profile(path, one.name, one.fields, one.comment)
            Output().message(f"Added profile '{one.name}' to {path}")


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that makes a shell complete commands.

    Commands, options, runs and profiles are completed.

    \b
      flowdist completion bash >> ~/.bashrc
      flowdist completion zsh  >> ~/.zshrc
      flowdist completion fish > ~/.config/fish/completions/flowdist.fish
    """
    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(cli, {}, "flowdist", "_FLOWDIST_COMPLETE").source())


@click.command(
    cls=Command, context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]}
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def worker(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Run the jobs of a run, as backends do; not for typing.

    ARGUMENTS are those of python -m flowdist.workers.

    \b
      flowdist worker launch DIRECTORY ATTEMPT
      flowdist worker job DIRECTORY ATTEMPT JOB
    """
    from flowdist.workers.__main__ import main

    ctx.exit(main(list(arguments)))
