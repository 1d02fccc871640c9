"""Every test that asks for `kind` runs once on each kind of plan."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "slurm"))  # lab_fixture.py

from kinds import KINDS, Kind
from lab_fixture import cluster as cluster
from lab_fixture import lab as lab


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    if found.cluster:
        request.getfixturevalue("lab")
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a kind that needs the cluster are marked as those that ask for it."""
    for item in items:
        call = getattr(item, "callspec", None)
        if call is not None and getattr(call.params.get("kind"), "cluster", False):
            item.add_marker(pytest.mark.slurm)
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
