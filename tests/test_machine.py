"""What a machine has, and what of it a process may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from flowdist.errors import ResourceError
from flowdist.machine import Cgroup, cores_available, memory_available

MIB = 1024**2

WriteFiles = Callable[[dict[str, str]], Cgroup]


@pytest.fixture
def cgroup(tmp_path: Path) -> WriteFiles:
    """Make a Cgroup of files; the file "self" is /proc/self/cgroup, the others are in the mount."""

    def write(contents: dict[str, str]) -> Cgroup:
        for name, text in contents.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")
        return Cgroup(mount=tmp_path / "mount", membership=tmp_path / "self")

    return write


V2 = {"self": "0::/slice/job"}
V1 = {"self": "3:cpu,cpuacct:/docker/a1\n2:memory:/docker/a1\n1:name=systemd:/"}


@pytest.mark.parametrize(
    ("contents", "cores"),
    [
        (V2 | {"mount/slice/job/cpu.max": "150000 100000"}, 1.5),
        (V2 | {"mount/slice/job/cpu.max": "max 100000"}, float("inf")),
        (
            V2 | {"mount/slice/cpu.max": "50000 100000", "mount/slice/job/cpu.max": "max 100000"},
            0.5,
        ),
        ({"self": "0::/../../elsewhere", "mount/cpu.max": "300000 100000"}, 3),
        ({"self": "0::/not/mounted/here", "mount/cpu.max": "300000 100000"}, 3),
        ({"self": "0::/", "mount/unified/cpu.max": "200000 100000"}, 2),
        (
            V1
            | {
                "mount/cpu,cpuacct/docker/a1/cpu.cfs_quota_us": "250000",
                "mount/cpu,cpuacct/docker/a1/cpu.cfs_period_us": "100000",
            },
            2.5,
        ),
        (
            V1
            | {
                "mount/cpu/cpu.cfs_quota_us": "-1",
                "mount/cpu/cpu.cfs_period_us": "100000",
            },
            float("inf"),
        ),
        ({}, float("inf")),
    ],
    ids=[
        "v2",
        "v2-none",
        "v2-parent",
        "v2-outside",
        "v2-container",
        "v2-hybrid",
        "v1",
        "v1-none",
        "no",
    ],
)
def test_the_cpu_quota_of_a_cgroup(
    cgroup: WriteFiles, contents: dict[str, str], cores: float
) -> None:
    assert cgroup(contents).cpu_limit() == cores


def test_cores_are_limited_by_the_quota_rounded_up(cgroup: WriteFiles) -> None:
    half = cgroup(V2 | {"mount/slice/job/cpu.max": "50000 100000"})

    assert cores_available(environ={}, cgroup=half) == 1


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no CPU affinity")
def test_cores_are_limited_by_the_affinity(
    cgroup: WriteFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 8})

    assert cores_available(environ={}, cgroup=cgroup({})) == 3
    quota = cgroup(V2 | {"mount/slice/job/cpu.max": "150000 100000"})
    assert cores_available(environ={}, cgroup=quota) == 2


def test_the_environment_says_how_many_cores_there_are() -> None:
    assert cores_available(environ={"FLOWDIST_CORES": "96"}) == 96


@pytest.mark.parametrize("said", ["0", "many", "-2"])
def test_a_wrong_number_of_cores_is_refused(said: str) -> None:
    with pytest.raises(ResourceError, match=f"FLOWDIST_CORES: '{said}' is not a count"):
        cores_available(environ={"FLOWDIST_CORES": said})


@pytest.mark.parametrize(
    "contents",
    [
        V2 | {"mount/slice/memory.max": "1048576", "mount/slice/job/memory.max": "max"},
        V1 | {"mount/memory/docker/a1/memory.limit_in_bytes": "1048576"},
    ],
    ids=["v2", "v1"],
)
def test_memory_is_limited_by_the_cgroup(cgroup: WriteFiles, contents: dict[str, str]) -> None:
    assert memory_available(cgroup(contents)) == MIB


def test_memory_is_what_the_machine_has_free_where_no_cgroup_limits_it(
    cgroup: WriteFiles,
) -> None:
    unlimited = cgroup(V1 | {"mount/memory/memory.limit_in_bytes": "9223372036854771712"})

    assert 0 < memory_available(unlimited) <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("environ", "cores"),
    [
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "48"}, 48),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "48", "SLURM_CPUS_PER_TASK": "12"}, 12),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "48", "FLOWDIST_CORES": "5"}, 5),
    ],
)
def test_in_a_job_of_slurm_the_cores_are_those_that_it_was_given(
    environ: dict[str, str], cores: int
) -> None:
    assert cores_available(environ=environ) == cores


@pytest.mark.parametrize(
    "files",
    [
        {
            "self": "0::/step_0/user",
            "mount/step_0/user/memory.events": "low 0\nmax 4\noom 3\noom_kill 2",
            "mount/memory.events": "oom_kill 99",  # of all that run here
        },
        {
            "self": "4:memory:/step_0",
            "mount/memory/step_0/memory.oom_control": "oom_kill_disable 0\noom_kill 2",
        },
    ],
)
def test_processes_that_were_killed_for_their_memory_are_counted(
    files: dict[str, str], cgroup: WriteFiles
) -> None:
    assert cgroup(files).out_of_memory_kills() == 2


def test_without_a_control_group_none_is_known_to_have_been_killed(cgroup: WriteFiles) -> None:
    assert cgroup({}).out_of_memory_kills() == 0
