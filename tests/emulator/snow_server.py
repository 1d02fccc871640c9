"""Runs `snow` once for each line of arguments (JSON) that it reads: forked off from a process that
has imported it already, which takes most of the time of a call.

    .venv-snow/bin/python snow_server.py
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable


def run(main: Callable[[], int | None], arguments: list[str], output: int, errors: int) -> None:
    os.dup2(output, 1)
    os.dup2(errors, 2)
    sys.argv = ["snow", *arguments]
    code = 1
    try:
        code = main() or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    # What the console script `snow` calls.
    from snowflake.cli._app.__main__ import main  # type: ignore[import-not-found]

    for line in sys.stdin:
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
            child = os.fork()
            if child == 0:
                run(main, json.loads(line), output.fileno(), errors.fileno())
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            output.seek(0)
            errors.seek(0)
            said = {"code": code, "stdout": output.read(), "stderr": errors.read()}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
