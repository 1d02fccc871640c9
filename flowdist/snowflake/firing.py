"""How a firing of a scheduled flow is called: ``<run>.<moment>-<group>``, the moment for which the
schedule had it, in UTC, and the end of the id of its graph run.

The name is the same wherever it is made: by the task that makes the firing's folder, by its
containers, by the finalizer; and it is the same when the graph is tried again.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

__all__ = ["GROUP_LETTERS", "THIS_FIRING", "firing_group", "firing_time"]

GROUP_LETTERS = 8
THIS_FIRING = (
    "TO_CHAR(CONVERT_TIMEZONE('UTC', SYSTEM$TASK_RUNTIME_INFO("
    "'CURRENT_TASK_GRAPH_ORIGINAL_SCHEDULED_TIMESTAMP')::TIMESTAMP_LTZ), 'YYYYMMDD-HH24MISS') "
    "|| '-' || RIGHT(SYSTEM$TASK_RUNTIME_INFO('CURRENT_TASK_GRAPH_RUN_GROUP_ID'), "
    f"{GROUP_LETTERS})"
)
"""SQL, within a task or a container that a task has started: what follows ``<run>.``."""

_FIRING = re.compile(r".+\.(\d{8}-\d{6})-([A-Za-z0-9]+)")


def firing_time(run_id: str) -> float:
    """The moment for which a firing was scheduled, in seconds since 1970.

    >>> firing_time("nightly-1125-101500-ab12.20261126-030000-9f3c01ab")
    1795662000.0
    """
    return datetime.strptime(f"{_parts(run_id)[0]}+0000", "%Y%m%d-%H%M%S%z").astimezone(
        UTC
    ).timestamp()  # fmt: skip


def firing_group(run_id: str) -> str:
    """The end of the id of its graph run.

    >>> firing_group("nightly-1125-101500-ab12.20261126-030000-9f3c01ab")
    '9f3c01ab'
    """
    return _parts(run_id)[1]


def _parts(run_id: str) -> tuple[str, str]:
    found = _FIRING.fullmatch(run_id)
    if found is None:
        raise ValueError(f"'{run_id}' is not the id of a firing")
    return found[1], found[2]
