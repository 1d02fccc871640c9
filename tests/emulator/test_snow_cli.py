"""The `snow` command line, unmodified: SQL, stages, pools, and jobs from start to logs."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowdist.emulator import Emulator

PYTHON = Path(__file__).parents[2] / ".venv-snow" / "bin" / "python"
SERVER = Path(__file__).with_name("snow_server.py")
Snow = Callable[..., Any]

SPECIFICATION = """
spec:
  containers:
  - name: main
    image: /flowdist/public/images/shell:1
    args: ["-c", "echo out of the job; ls /files"]
    volumeMounts: [{name: files, mountPath: /files}]
  volumes:
  - {name: files, source: stage, stageConfig: {name: "@flowdist.public.box"}}
"""


@pytest.fixture(scope="module")
def snow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Snow]:
    """Calls `snow ...` on an emulator of its own; gives what it prints, read as JSON."""
    if not PYTHON.exists():
        if os.environ.get("CI", "") not in ("", "0", "false"):
            pytest.fail(f"{PYTHON} is missing: make test installs it", pytrace=False)
        pytest.skip("no snow command: make test installs one into .venv-snow")
    home = tmp_path_factory.mktemp("snow")
    with Emulator() as emulator:
        parameters = emulator.connection_parameters()
        lines = [f"{name} = {json.dumps(value)}" for name, value in parameters.items()]
        config = home / "config.toml"
        config.write_text("\n".join(["[connections.here]", *lines]))
        config.chmod(0o600)
        (home / "data.txt").write_text("x")
        with emulator.connect() as connection:  # by snow each would take seconds
            for sql in (
                "CREATE IMAGE REPOSITORY IF NOT EXISTS images",
                "CREATE COMPUTE POOL cells MIN_NODES = 1 MAX_NODES = 2 INSTANCE_FAMILY=CPU_X64_XS",
                "CREATE STAGE box",
                f"PUT file://{home}/data.txt @box AUTO_COMPRESS = FALSE",
            ):
                connection.cursor().execute(sql)
        emulator.push_image("/flowdist/public/images/shell:1", entrypoint=["sh"])

        with subprocess.Popen(
            [PYTHON, SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "HOME": str(home), "SNOWFLAKE_HOME": str(home)},
            cwd=home,
        ) as server:

            def run(*words: str, as_json: bool = True) -> Any:
                given = ["--config-file", str(config), *words, "--connection", "here"]
                given += ["--format", "JSON"] if as_json else []
                assert server.stdin is not None
                assert server.stdout is not None
                server.stdin.write(json.dumps(given) + "\n")
                server.stdin.flush()
                done = json.loads(server.stdout.readline())
                assert done["code"] == 0, f"{done['stdout']}\n{done['stderr']}"
                return json.loads(done["stdout"]) if as_json else done["stdout"]

            yield run


def test_statements_of_sql(snow: Snow) -> None:
    first, second = snow("sql", "-q", "select 1 as one, null as none, 'ä' as text; select 2 as b")

    assert first == [{"ONE": 1, "NONE": None, "TEXT": "ä"}]
    assert second == [{"B": 2}]


def test_a_stage_takes_a_directory_and_gives_it_back(snow: Snow, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "a.txt").write_text("hello")

    snow("stage", "copy", str(tmp_path / "in"), "@box/sub/", "--no-auto-compress")
    listed = snow("stage", "list-files", "@box")
    snow("stage", "copy", "@box/sub/", str(tmp_path / "out"))

    assert [(file["name"], file["size"]) for file in listed] == [
        ("box/data.txt", 1),
        ("box/sub/a.txt", 5),
    ]
    assert (tmp_path / "out" / "a.txt").read_text() == "hello"


def test_compute_pools_are_listed(snow: Snow) -> None:
    (pool,) = snow("spcs", "compute-pool", "list")

    assert (pool["name"], pool["instance_family"]) == ("CELLS", "CPU_X64_XS")


def test_a_job_from_its_start_to_its_logs(snow: Snow, tmp_path: Path) -> None:
    (tmp_path / "spec.yml").write_text(SPECIFICATION)

    done = snow(
        "spcs", "service", "execute-job", "errand", "--compute-pool", "cells",
        "--spec-path", str(tmp_path / "spec.yml"),
    )  # fmt: skip
    services = snow("spcs", "service", "list")
    (container,) = snow("spcs", "service", "status", "errand")
    log = snow(
        "spcs", "service", "logs", "errand", "--container-name", "main", "--instance-id", "0",
        as_json=False,
    )  # fmt: skip

    assert done == {"status": "Job ERRAND completed successfully with status: DONE."}
    assert [(s["name"], s["status"]) for s in services] == [("ERRAND", "DONE")]
    assert container["status"] == "DONE"
    assert "out of the job" in log
    assert "data.txt" in log
