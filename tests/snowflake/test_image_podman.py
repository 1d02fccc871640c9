"""A worker image for real: built, checked and run by podman, and pushed to a registry.

Needs root, podman and a static busybox, which are installed where that is possible; what the image
begins with is made of this machine's Python, so that nothing is pulled.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import worker_base
from click.testing import CliRunner, Result
from cloud import Cloud, set_up

from flowdist import flow, param_grid
from flowdist.cli import cli
from flowdist.emulator import Emulator
from flowdist.snowflake.connection import register_connection
from flowdist.snowflake.images import WORKER_UID

sys.path.insert(0, str(Path(__file__).parents[1] / "emulator"))  # debian.py, fuse_fixture.py
from debian import IN_CI, install
from fuse_fixture import fuse as fuse

NUMBER = os.getpid()
"""Of this process alone: several run tests at a time."""
BASE = f"localhost/flowdist-base:{NUMBER}"

FLOW = """
from flowdist import flow, param_grid

def half(x):
    import joblib
    return joblib.hash(x)

work = flow(param_grid(x=[1, 2])).stage("half", half)
"""


def flowdist(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["image", *arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def missing() -> list[str]:
    return [program for program in ("podman", "busybox") if shutil.which(program) is None]


@pytest.fixture(scope="module", autouse=True)
def podman() -> None:
    """Tests here run where podman does, as root. They are never skipped in CI."""
    if os.geteuid() == 0 and missing():
        install("podman", "runc", "busybox-static")
    if os.geteuid() != 0 or missing():
        why = "podman is tested as root, with podman and busybox-static installed"
        (pytest.fail if IN_CI else pytest.skip)(why)


@pytest.fixture(scope="module")
def real() -> Iterator[Cloud]:
    """An emulator whose containers podman runs."""
    with Emulator(runtime="podman", grace=3.0) as emulator:
        yield set_up(emulator)


def remove(image: str) -> None:
    subprocess.run(["podman", "rmi", "--force", image], capture_output=True, check=False)


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    """What worker images begin with here."""
    worker_base.make(BASE)
    yield BASE
    remove(BASE)


@pytest.fixture
def tiny(request: pytest.FixtureRequest) -> Iterator[str]:
    """An image with nothing but a file, for the architecture that the test says."""
    name = f"localhost/flowdist-tiny-{request.param}:{NUMBER}"
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("nothing"))
    command = ["podman", "import", f"--arch={request.param}", "-", name]
    subprocess.run(command, input=content.getvalue(), capture_output=True, check=True)
    yield name
    remove(name)


def package(directory: Path) -> Path:
    """The wheel of a package that is nowhere else."""
    path = directory / "tiny_package-1.0-py3-none-any.whl"
    info = "tiny_package-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny_package.py", "TIMES = 7\n")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.0\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.mark.timeout(400)
def test_an_image_is_built_and_checked_and_runs_a_flow(
    real: Cloud, base: str, fuse: None, tmp_path: Path
) -> None:
    (tmp_path / "requirements.txt").write_text(f"./{package(tmp_path).name}\n")
    (tmp_path / "models.py").write_text(FLOW)
    locked = ("--lock", str(tmp_path / "requirements.txt"))
    named = ("--tag", f"flowdist-test:{NUMBER}", "--base", base, "--builder", "podman")
    image = json.loads(flowdist("build", *locked, *named, "--json").stdout)["image"]
    try:
        checks = ("validate", image, *locked, "--flow", str(tmp_path / "models.py"))
        said = json.loads(flowdist(*checks, "--builder", "podman", "--json", code=2).stdout)
        wrong = [one for one in said["findings"] if one["state"] != "ok"]
        assert [(one["name"], one["state"]) for one in wrong] == [("imports", "error")], wrong
        assert wrong[0]["what"] == "joblib: ModuleNotFoundError: No module named 'joblib'"
        assert wrong[0]["remedy"].startswith("--package joblib==")

        assert ran_as(real, image, tmp_path) == [(7, WORKER_UID), (14, WORKER_UID)]
    finally:
        remove(image)


def ran_as(real: Cloud, image: str, root: Path) -> list[tuple[int, int]]:
    """What a flow gives that uses the image's package, and who ran it."""

    def fit(x: int) -> dict[str, int]:
        import os

        import tiny_package  # type: ignore[import-not-found]

        return {"y": x * tiny_package.TIMES, "user": os.getuid()}

    path = f"/flowdist/public/images/{image}"
    real.emulator.push_image(path, source=f"localhost/{image}")
    plan = real.plan("spcs-jobs", root, image=path, target_jobs=1)
    run = flow(param_grid(x=[1, 2])).stage("fit", fit).distribute(plan).submit()
    try:
        table = run.wait(120).collect()
        return list(zip(table["fit.y"].tolist(), table["fit.user"].tolist(), strict=True))
    finally:
        run.delete()


@pytest.mark.parametrize("tiny", ["arm64"], indirect=True)
def test_an_image_for_other_machines_is_found_out_here(real: Cloud, tiny: str) -> None:
    register_connection("real", real.connection)

    said = json.loads(flowdist("validate", tiny, "--json", code=2).stdout)

    assert said["findings"][0]["state"] == "error"
    assert "built for linux/arm64" in said["findings"][0]["what"]
    refused = flowdist("push", tiny, "images", "-c", "real", "--builder", "podman", code=2)
    assert "it is not pushed" in refused.output


@pytest.mark.parametrize("tiny", ["amd64"], indirect=True)
def test_an_image_is_pushed_with_a_token_of_the_connection(real: Cloud, tiny: str) -> None:
    register_connection("real", real.connection)
    where = ("images", "--as", "tiny:1", "-c", "real", "--builder", "podman")

    pushed = json.loads(flowdist("push", tiny, *where, "--json").stdout)

    assert pushed["path"] == "/flowdist/public/images/tiny:1"
    listed = json.loads(flowdist("list", "-c", "real", "--json").stdout)
    assert pushed in listed
    refused = flowdist("push", tiny, *where, "--no-login", code=3)
    assert "podman push failed" in refused.output
