"""Control groups of containers, on a tree of files that stands for the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowdist.emulator.compute.shim import cgroups


@pytest.fixture
def version2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A version 2 tree in which the group of this process is the only one."""
    monkeypatch.setattr(
        cgroups, "_candidates", lambda mounted: [(str(mounted), ("cpu", "memory", "pids"))]
    )
    return tmp_path


def test_limits_are_written_before_the_container_joins(version2: Path) -> None:
    group = cgroups.Group("box", 1_000_000, 0.5, str(version2))
    group.join()
    written = {path.name: path.read_text() for path in (version2 / "box").iterdir()}
    assert written == {
        "memory.max": "1000000",
        "memory.oom.group": "1",
        "cpu.max": "50000 100000",
        "cgroup.procs": "0",
    }
    assert (group.memory, group.cpu) == (True, True)


def test_without_limits_there_is_no_group(version2: Path) -> None:
    group = cgroups.Group("box", None, None, str(version2))
    assert (group.memory, group.cpu) == (False, False)
    assert list(version2.iterdir()) == []


def test_the_kernel_says_whether_memory_ran_out(version2: Path) -> None:
    group = cgroups.Group("box", 1_000_000, None, str(version2))
    assert not group.out_of_memory()
    (version2 / "box" / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    assert group.out_of_memory()


def test_where_no_group_may_be_made_the_shim_keeps_the_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = str(tmp_path / "missing")
    monkeypatch.setattr(cgroups, "_candidates", lambda mounted: [(missing, ("cpu", "memory"))])
    group = cgroups.Group("box", 1_000_000, 1.0, missing)
    assert (group.memory, group.cpu) == (False, False)
    group.join()
    group.remove()
