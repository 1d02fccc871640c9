"""Cpus, memory, time and gpus: what people write, and what a machine has."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowdist.errors import ResourceError
from flowdist.resources import (
    Cgroup,
    Resources,
    cores_available,
    format_memory,
    format_time,
    memory_available,
    parse_memory,
    parse_time,
)

KIB, MIB, GIB, TIB = (1024**n for n in (1, 2, 3, 4))


# Memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("8G", 8 * GIB),
        ("8GB", 8 * GIB),
        ("8GiB", 8 * GIB),
        ("8Gi", 8 * GIB),
        ("8 gb", 8 * GIB),
        (" 512MiB ", 512 * MIB),
        ("1.5T", int(1.5 * TIB)),
        ("64K", 64 * KIB),
        ("100B", 100),
        ("0", 0),
        (0, 0),
        (4096, 4096),
        (np.int64(4096), 4096),
    ],
)
def test_memory_is_read_as_slurm_reads_it(written: Any, size: int) -> None:
    assert parse_memory(written) == size


@pytest.mark.parametrize(
    "written", ["", "lots", "8 gallons", "-1G", "1.G", "8G 2M", -1, 1.5, True, None, "1e9"]
)
def test_other_amounts_are_refused_with_the_forms_that_are_not(written: Any) -> None:
    with pytest.raises(ResourceError, match=r"memory: .*allowed: '8GB'"):
        parse_memory(written)


def test_a_number_in_a_string_has_no_unit_to_go_by() -> None:
    with pytest.raises(ResourceError, match="'4096' has no unit; write '4096M', or '4096B'"):
        parse_memory("4096")


@given(st.integers(1, 2**60))
def test_formatted_memory_reads_back_to_within_its_one_decimal(size: int) -> None:
    assert parse_memory(format_memory(size)) == pytest.approx(size, rel=0.051)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0, "all memory"),
        (1023, "1023 B"),
        (KIB, "1 KiB"),
        (MIB - 1, "1 MiB"),
        (int(1.5 * GIB), "1.5 GiB"),
        (2048 * 1024 * TIB, "2048 PiB"),
    ],
)
def test_memory_is_formatted_for_people(size: int, said: str) -> None:
    assert format_memory(size) == said


# Time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("2h", 7200),
        ("90min", 5400),
        ("1h30m", 5400),
        ("1 h 30 min", 5400),
        ("1.5 hours", 5400),
        ("2 Days", 172_800),
        ("45s", 45),
        (45, 45),
        (np.int32(45), 45),
        (timedelta(minutes=2, milliseconds=1), 121),
        # the forms of sbatch --time, in the order of its manual
        ("30", 1800),
        ("30:15", 1815),
        ("1:30:00", 5400),
        ("2-6", 194_400),
        ("2-6:30", 196_200),
        ("1-12:00:00", 129_600),
    ],
)
def test_time_is_read_as_people_and_slurm_write_it(written: Any, seconds: int) -> None:
    assert parse_time(written) == seconds


@pytest.mark.parametrize(
    "written",
    ["", "soon", "2h30", "3 months", "1:75:00", "-1h", "0", 0, -5, True, 1.5, None, timedelta()],
)
def test_other_durations_are_refused_with_the_forms_that_are_not(written: Any) -> None:
    with pytest.raises(ResourceError, match=r"time: .*allowed: '2h'"):
        parse_time(written)


@given(st.integers(1, 10**9))
def test_a_formatted_time_reads_back_exactly(seconds: int) -> None:
    assert parse_time(format_time(seconds)) == seconds


def test_errors_name_the_field_they_were_asked_for() -> None:
    with pytest.raises(ResourceError, match=r"^timeout: 'soon'"):
        parse_time("soon", field="timeout")


# Resources -----------------------------------------------------------------------------------

asked = st.builds(
    Resources,
    cpus=st.none() | st.integers(1, 64),
    memory=st.none() | st.integers(0, 2**40),
    time=st.none() | st.integers(1, 10**6),
    gpus=st.none() | st.integers(0, 8),
)


def test_resources_hold_integers_and_print_words() -> None:
    resources = Resources(cpus="4", memory="8GB", time=timedelta(hours=2), gpus=1)

    assert resources.asked == {"cpus": 4, "memory": 8 * GIB, "time": 7200, "gpus": 1}
    assert str(resources) == "4 cpus, 8 GiB, 2 h, 1 gpu"
    assert str(Resources()) == "nothing asked"


@given(asked)
def test_resources_survive_json(resources: Resources) -> None:
    assert Resources.model_validate_json(resources.model_dump_json()) == resources


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cpus": 0}, "cpus: 0 is not a count; allowed: integers from 1"),
        ({"cpus": True}, "cpus: True"),
        ({"cpus": 1.5}, "cpus: 1.5"),
        ({"gpus": -1}, "gpus: -1 is not a count; allowed: integers from 0"),
        ({"memory": "much"}, "memory: 'much'"),
        ({"time": "0"}, "time: '0'"),
        ({"memroy": "8GB"}, "'memroy'; allowed: cpus, memory, time, gpus; did you mean 'memory'"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ResourceError, match=said):
        Resources(**fields)


@given(asked, asked)
def test_merge_keeps_what_the_other_leaves_open(first: Resources, other: Resources) -> None:
    merged = first.merge(other)

    for name in Resources.model_fields:
        mine, theirs = getattr(first, name), getattr(other, name)
        assert getattr(merged, name) == (mine if theirs is None else theirs)


def test_scale_rounds_up_and_leaves_open_what_is_open() -> None:
    scaled = Resources(cpus=1, memory=1001).scale(memory=1.5, time=2)

    assert scaled == Resources(cpus=1, memory=1502)


def test_all_of_the_memory_cannot_be_more() -> None:
    assert Resources(memory="0").scale(memory=2).memory == 0


@pytest.mark.parametrize("factors", [{"memory": 0}, {"time": -1}, {"cpus": float("nan")}])
def test_a_factor_is_above_zero(factors: dict[str, float]) -> None:
    with pytest.raises(ResourceError, match="cannot scale by"):
        Resources(memory=1).scale(**factors)


def test_an_unknown_resource_cannot_be_scaled() -> None:
    with pytest.raises(ResourceError, match="'ram'; allowed"):
        Resources().scale(ram=2)


@given(st.lists(asked, max_size=5))
def test_the_envelope_is_enough_for_each_and_no_more(many: list[Resources]) -> None:
    envelope = Resources.envelope(many)

    for name in Resources.model_fields:
        values = [v for one in many if (v := getattr(one, name)) is not None]
        if not values:
            assert getattr(envelope, name) is None
        elif name == "memory" and 0 in values:
            assert envelope.memory == 0  # all of a node's is more than any number
        else:
            assert getattr(envelope, name) == max(values)


# This machine --------------------------------------------------------------------------------

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
