"""Why containers wait, and what became of them, in words, for explain.

What is asked is little: the pool, the containers of one service, maintenance. What follows is pure.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from flowdist.backends.base import JobState, Remark
from flowdist.backends.snowflake.account import Pool, pool_of
from flowdist.backends.snowflake.capacity import lacking
from flowdist.snowflake.connection import Client, SnowflakeError
from flowdist.snowflake.names import Name, literal, quote
from flowdist.summary import counted

if TYPE_CHECKING:
    from flowdist.backends.snowflake.plans import Spcs
    from flowdist.backends.snowflake.remote import Seen

__all__ = ["ended_remarks", "maintenance_remark", "pool_remark", "wait_remarks"]

# What Snowflake says of a container whose image is at fault.
_IMAGE = re.compile(r"pull image|image name", re.IGNORECASE)
_NO_ROOM = re.compile(r"unschedulable", re.IGNORECASE)


def wait_remarks(
    client: Client, plan: Spcs, waiting: int, seen: Iterable[Seen] = ()
) -> list[Remark]:
    """Why `waiting` containers have not started, the most telling first; `seen` is what Snowflake
    says of those that wait. Two statements.
    """
    if not waiting:
        return []
    jobs, messages = counted(waiting, "job"), Counter(one.message for one in seen)
    verb = "waits" if waiting == 1 else "wait"
    found = [*_image_remarks(plan, jobs, verb, messages)]
    pool = find_pool(client, Name.parse(plan.compute_pool, most=1))
    if pool is None:
        text = f"{jobs} {verb} for compute pool {plan.compute_pool}, and this role sees none of "
        found.append(Remark("pool", f"{text}that name", {"pool": plan.compute_pool}))
    elif not found:
        found.append(pool_remark(plan, pool, waiting, messages))
    with suppress(SnowflakeError):
        said = client.value("SELECT SYSTEM$GET_COMPUTE_POOL_PENDING_MAINTENANCE()")
        found += [one for one in [maintenance_remark(str(said or ""))] if one is not None]
    return found


def find_pool(client: Client, name: Name) -> Pool | None:
    """The pool, with the remark that Snowflake has on it where the role may see that."""
    described = True
    try:
        rows = client.rows(f"DESCRIBE COMPUTE POOL {name.sql}")
    except SnowflakeError as error:
        if error.passing:
            raise
        described = False
        rows = client.rows(f"SHOW COMPUTE POOLS LIKE {literal(name.last)}")
    return next((pool_of(row, described=described) for row in rows if row["name"] == name.last),
                None)  # fmt: skip


def _image_remarks(
    plan: Spcs, jobs: str, verb: str, messages: Mapping[str, int]
) -> Iterator[Remark]:
    for message in messages:
        if _IMAGE.search(message):
            yield Remark(
                "image",
                f"{jobs} {verb} for image {plan.image}: {message}",
                {"image": plan.image, "message": message},
                "see whether it is there, and built for the nodes: flowdist image list, flowdist "
                "image validate",
            )
            return


def pool_remark(
    plan: Spcs, pool: Pool, waiting: int, messages: Mapping[str, int] | None = None
) -> Remark:
    """What `waiting` containers wait for at a pool.

    >>> from flowdist.backends.snowflake.plans import spcs_jobs
    >>> plan = spcs_jobs(compute_pool="fits", image="/d/s/r/i:1", stage="d.s.runs")
    >>> pool = pool_of({"name": "FITS", "state": "ACTIVE", "max_nodes": 2, "active_nodes": 2,
    ...                 "num_jobs": 3})
    >>> pool_remark(plan, pool, 2).text
    '2 jobs wait: compute pool FITS is full, with 3 job services on 2 nodes'
    """
    shown, nodes = quote(pool.name), pool.active + pool.idle
    who = f"{counted(waiting, 'job')} {'waits' if waiting == 1 else 'wait'}"
    data = {
        "pool": pool.name, "state": pool.state, "nodes": nodes, "max_nodes": pool.max_nodes,
        "jobs": pool.jobs, "services": pool.services, "waiting": waiting,
        "message": pool.message,
    }  # fmt: skip
    never = lacking(plan, pool.family) if pool.family is not None else ""
    grow = f"give the pool more nodes: ALTER COMPUTE POOL {shown} SET MAX_NODES = ..."
    if never:
        text = f"{who}, and can never start on compute pool {shown}: {never}"
        return Remark("never starts", text, data, "cancel the run, and ask for less or for "
                      "larger nodes")  # fmt: skip
    if pool.suspended and not pool.auto_resume:
        text = f"{who}: compute pool {shown} is {pool.state.lower()} and does not resume by itself"
        return Remark("pool suspended", text, data, f"ALTER COMPUTE POOL {shown} RESUME")
    if pool.suspended or pool.state == "STARTING" or not nodes:
        text = f"{who}: nodes of compute pool {shown} are starting, which takes some minutes"
        return Remark("pool starting", text, data)
    full = nodes >= pool.max_nodes and (not pool.idle or _no_room(messages))
    if full:
        text = f"{who}: compute pool {shown} is full, with {pool.held} on {counted(nodes, 'node')}"
        return Remark("pool full", text, data, grow)
    if pool.state == "RESIZING" or pool.target > nodes:
        coming = max(pool.target - nodes, 1)
        text = f"{who}: {counted(coming, 'more node')} of compute pool {shown} "
        text += f"{'is' if coming == 1 else 'are'} starting"
        return Remark("pool growing", text, data)
    text = f"{who}: compute pool {shown} is {pool.state.lower()} and about to start"
    return Remark("pool", f"{text} {'it' if waiting == 1 else 'them'}", data)


def _no_room(messages: Mapping[str, int] | None) -> bool:
    return any(_NO_ROOM.search(message) for message in messages or ())


def maintenance_remark(said: str) -> Remark | None:
    """What Snowflake says of maintenance of nodes that is due, where any is; the text is what
    SYSTEM$GET_COMPUTE_POOL_PENDING_MAINTENANCE returns.

    >>> said = '{"maintenanceRequired":true,"maintenanceWindow":{"start":"2026-11-28T20:00",'
    >>> said += '"end":"2026-11-29T08:00"}}'
    >>> maintenance_remark(said).text
    'nodes are due for maintenance from 2026-11-28 20:00 to 2026-11-29 08:00: jobs then end'
    >>> maintenance_remark("No pending maintenance actions.") is None
    True
    """
    try:
        found = json.loads(said)
    except ValueError:
        return None
    if not isinstance(found, dict) or not found.get("maintenanceRequired"):
        return None
    window = found.get("maintenanceWindow") or found
    start, end = (str(window.get(key) or "?").replace("T", " ") for key in ("start", "end"))
    return Remark(
        "maintenance",
        f"nodes are due for maintenance from {start} to {end}: jobs then end",
        {"start": start, "end": end},
        "what is not done by then is started again by flowdist resume",
    )


def ended_remarks(states: Mapping[int, JobState]) -> Iterator[Remark]:
    """What to do about jobs that have ended badly, one remark for each way."""
    counts = Counter(states.values())
    for state, text in _ADVICE.items():
        if counts[state]:
            yield Remark(
                "job ends",
                f"{counts[state]:,} of {counted(len(states), 'job')}: {state.value}",
                {"state": state.value, "jobs": counts[state]},
                text,
            )


_ADVICE = {
    JobState.OUT_OF_MEMORY: "give containers more memory= (or fewer workers=), or let "
    "retry=retry_oom(memory=2, max=...) start them again with more; flowdist report shows what was "
    "used",
    JobState.TIMEOUT: "give jobs more time=, or cut smaller ones",
    JobState.NODE_FAIL: "nodes are replaced for maintenance, and jobs on them end: resume starts "
    "what is missing",
}
