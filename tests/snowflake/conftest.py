"""An emulator that is set up for flows, shared by the tests of a module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from cloud import CONSTRUCTORS, IMAGE, Cloud, set_up
from grammar import sent, undocumented

from flowdist.emulator import Emulator

__all__ = ["CONSTRUCTORS", "IMAGE", "Cloud", "cloud", "set_up"]


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    """One emulator for the tests of a module. What they have had flowdist send has the form that
    the documentation gives it.
    """
    with Emulator(grace=3.0) as emulator:
        made = set_up(emulator)
        yield made
        if emulator.running:
            with contextlib.closing(made.client()) as client:
                assert undocumented(sent(client)) == {}
