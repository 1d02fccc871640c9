"""``python -m flowdist.emulator serve``: the server process; people use ``flowdist emulator``."""

from __future__ import annotations

import argparse
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

from flowdist.emulator.lifecycle import Options, serve
from flowdist.errors import FlowdistError

__all__ = ["main"]

SETTINGS = (
    "account",
    "node_start",
    "visibility_delay",
    "strict_mounts",
    "runtime",
    "grace",
    "seed",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve as the arguments say; the exit code where that cannot be."""
    given = _parser().parse_args(arguments)
    chosen = {name: getattr(given, name) for name in SETTINGS}
    options = Options(
        directory=given.directory,
        port=given.port,
        stop_with_parent=given.stop_with_parent,
        temporary=given.temporary,
        settings=chosen,
    )
    try:
        serve(options)
    except FlowdistError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except (OSError, sqlite3.Error) as error:  # a full disk, or one that is not to be written
        sys.stderr.write(f"{given.directory} cannot be served: {error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flowdist.emulator", description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("serve", help="Serve a directory until SIGTERM.")
    one.add_argument("--directory", type=Path, required=True, help="Where its state is.")
    one.add_argument("--port", type=int, help="By default the one before, or any that is free.")
    one.add_argument("--account", default="EMULATOR", help="What it calls itself.")
    one.add_argument(
        "--node-start", type=float, default=0.0, metavar="S", help="Seconds until a node is there."
    )
    one.add_argument(
        "--visibility-delay", type=float, default=0.0, metavar="S",
        help="Seconds until others see a file that a container has written.",
    )  # fmt: skip
    one.add_argument(
        "--no-strict-mounts", dest="strict_mounts", action="store_false",
        help="Let containers append to files of stages, rename them, write at random.",
    )  # fmt: skip
    one.add_argument("--runtime", choices=("process", "podman", "docker"), default="process")
    one.add_argument(
        "--grace", type=float, default=30.0, metavar="S",
        help="Seconds between SIGTERM and SIGKILL for a container.",
    )  # fmt: skip
    one.add_argument("--seed", type=int, default=0, help="Of the faults left to chance.")
    one.add_argument("--stop-with-parent", type=int, metavar="PID", help="End when it ends.")
    one.add_argument("--temporary", action="store_true", help="Remove the directory at the end.")
    return parser


if __name__ == "__main__":
    sys.exit(main())
