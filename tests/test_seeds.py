"""Seeds: what they depend on, and that no two rows of a stage share one."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flowdist.seeds import row_seed, stage_key

anything = st.integers(-(2**70), 2**70)


def test_seeds_are_the_same_in_every_release() -> None:
    key = stage_key(42, "fit")

    assert [row_seed(key, row) for row in (0, 1, 2, 999_999)] == [
        3939706910,
        742532369,
        1891941453,
        2404854158,
    ]


@given(anything, st.integers(0, 2**40))
def test_a_seed_is_an_unsigned_32_bit_number(seed: int, row: int) -> None:
    assert 0 <= row_seed(stage_key(seed, "fit"), row) < 2**32


@given(anything, st.integers(0, 2**32 - 100_000))
def test_no_two_rows_of_a_stage_share_a_seed(seed: int, first: int) -> None:
    key = stage_key(seed, "fit")

    assert len({row_seed(key, row) for row in range(first, first + 1000)}) == 1000


def test_stages_and_flows_have_streams_of_their_own() -> None:
    keys = [stage_key(seed, stage) for seed in (-1, 0, 1, 11) for stage in ("a", "b", "a1")]
    streams = {tuple(row_seed(key, row) for row in range(10)) for key in keys}

    assert len(streams) == len(keys)


def test_generators_of_neighbouring_rows_are_not_alike() -> None:
    key = stage_key(0, "fit")

    draws = np.array([np.random.default_rng(row_seed(key, row)).random(2) for row in range(2000)])

    # Uniform and uncorrelated: five standard errors of each.
    assert abs(draws.mean() - 0.5) < 5 * np.sqrt(1 / 12 / draws.size)
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 5 / np.sqrt(2000)


def test_each_bit_of_a_seed_is_set_in_half_of_the_rows() -> None:
    key = stage_key(7, "fit")
    seeds = np.array([row_seed(key, row) for row in range(4096)], np.uint32)

    shares = [(seeds >> bit & 1).mean() for bit in range(32)]

    assert all(0.45 < share < 0.55 for share in shares)


def test_common_generators_take_a_seed() -> None:
    seed = row_seed(stage_key(1, "fit"), 5)

    random.Random(seed)
    np.random.RandomState(seed)
    np.random.default_rng(seed)
