"""Every test that asks for `kind` runs once on each kind of plan."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "slurm"))  # lab_fixture.py
sys.path.insert(0, str(Path(__file__).parents[1] / "snowflake"))  # cloud.py

from cloud import set_up
from kinds import EMULATOR, KINDS, Kind
from lab_fixture import cluster as cluster
from lab_fixture import lab as lab

from flowdist.emulator import Emulator
from flowdist.snowflake.connection import connection_name


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    if found.needs:
        request.getfixturevalue(found.needs)
    return found


@pytest.fixture(scope="module")
def emulator() -> Iterator[None]:
    """An emulator of Snowflake for the tests of a module, and for submitters of theirs."""
    with Emulator(grace=3.0) as made:
        set_up(made)
        os.environ[EMULATOR] = str(made.directory)
        # So that runs of submitters are found here by the name of their connection.
        connection_name(made.connection_parameters())
        yield
        del os.environ[EMULATOR]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a kind that needs the cluster are marked as those that ask for it."""
    for item in items:
        call = getattr(item, "callspec", None)
        needs = "" if call is None else getattr(call.params.get("kind"), "needs", "")
        if needs == "lab":
            item.add_marker(pytest.mark.slurm)
        if needs:
            item.add_marker(pytest.mark.timeout(300, func_only=True))


@pytest.fixture(autouse=True)
def _no_process_is_left(tmp_path: Path) -> Iterator[None]:
    """What a test has started is gone when it ends."""
    yield
    ours = [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(tmp_path) in " ".join(process.info["cmdline"] or [])
    ]
    _, alive = psutil.wait_procs(ours, timeout=60)
    assert alive == []
