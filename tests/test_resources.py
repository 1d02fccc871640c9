"""Cpus, memory, time and gpus, as people write them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowdist.errors import ResourceError
from flowdist.resources import (
    Resources,
    format_memory,
    format_time,
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
