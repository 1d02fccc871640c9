"""Seeds that depend on the flow's seed, the stage and the row, and on nothing else.

A seed is an int in [0, 2**32), which numpy's old and new generators, scikit-learn and R all take.
Within a stage the map from row to seed is a bijection of 32-bit numbers (murmur3's finalizer,
keyed), so no two rows of a stage share a seed.
"""

from __future__ import annotations

from hashlib import blake2b

_MASK = 0xFFFFFFFF


def stage_key(seed: int, stage: str) -> tuple[int, int]:
    """Two 32-bit keys for a stage of a flow."""
    digest = blake2b(f"{seed}/{stage}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def row_seed(key: tuple[int, int], row: int) -> int:
    """The seed of one row.

    >>> row_seed(stage_key(42, "fit"), 0) == row_seed(stage_key(42, "fit"), 0)
    True
    >>> key = stage_key(42, "fit")
    >>> len({row_seed(key, row) for row in range(10_000)})
    10000
    """
    h = (row + key[0]) & _MASK
    h ^= h >> 16
    h = (h * 0x85EBCA6B) & _MASK
    h ^= h >> 13
    h = (h * 0xC2B2AE35) & _MASK
    h ^= h >> 16
    return h ^ key[1]
