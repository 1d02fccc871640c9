"""What holds for tests wherever they are."""

from __future__ import annotations

import pytest

# Seconds for one test on the cluster, without what it waits for the cluster.
CLUSTER_LIMIT = 300.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on the cluster are marked, and have time enough, not counting the wait for it."""
    for item in items:
        if {"lab", "lab_alone"}.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slurm)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(CLUSTER_LIMIT, func_only=True))
