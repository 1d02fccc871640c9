"""What the fake SLURM knows, in one JSON file that its commands and its controller share.

Only the standard library, and little of it: each command is a process that has to start quickly.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Data = dict[str, Any]


class Refused(Exception):
    """What a command says on stderr before it ends with 1."""


# States of a task that has not ended.
OPEN = ("PENDING", "RUNNING", "COMPLETING")

DEFAULTS: Data = {
    "next_id": 100,
    "arrays": {},
    "slots": 4,
    "cores": 4,
    "nodes": ["n1", "n2", "n3", "n4"],
    "partitions": {"debug": 86400, "small": 300, "gpu": None},
    "gpu_nodes": ["n4"],
    "accounts": ["lab", "limited"],
    "qos": ["normal", "short"],
    "limits": {},  # reason code -> number, of all jobs of the user
    "max_array_size": 1001,
    "accounting": "on",  # or "off", or "down"
    "accounting_lag": 0.0,  # seconds after which a change reaches sacct
    "min_job_age": 300.0,  # seconds for which squeue still has what has ended
    "kill_wait": 0.5,  # seconds between SIGTERM and SIGKILL
    "minute": 60.0,  # seconds of a minute of --time
    "requeue_delay": 0.0,
    "held": "",  # a reason for which nothing starts
    "faults": {},  # command -> list of what its next calls do
}


@contextmanager
def shared(directory: str, *, write: bool = True) -> Iterator[Data]:
    """The state, which nobody else has until the block ends; what the block changed is kept."""
    with open(f"{directory}/lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        data = read(directory)
        before = json.dumps(data) if write else ""
        yield data
        if write:
            after = json.dumps(data)
            if after != before:
                with open(f"{directory}/state.new", "w") as file:
                    file.write(after)
                os.replace(f"{directory}/state.new", f"{directory}/state.json")


def read(directory: str) -> Data:
    """The state as it was a moment ago."""
    with open(f"{directory}/state.json", "rb") as file:
        found: Data = json.loads(file.read())
    return found


def create(directory: str, settings: Mapping[str, Any]) -> None:
    """The state of a cluster without jobs."""
    unknown = set(settings) - set(DEFAULTS)
    if unknown:
        raise ValueError(f"the fake has no setting {sorted(unknown)}")
    os.makedirs(f"{directory}/scripts", exist_ok=True)
    with open(f"{directory}/state.json", "w") as file:
        json.dump({**DEFAULTS, **settings}, file)


def new_task(state: str = "PENDING", **known: Any) -> Data:
    """A task; times are Unix times, `changed` is when its state last changed."""
    return {
        "state": state,
        "reason": "",
        "node": "",
        "start": 0.0,
        "end": 0.0,
        "begin": 0.0,
        "changed": time.time(),
        "before": None,  # what accounting said before the last change
        "exit": 0,
        "signal": 0,
        "restarts": 0,
        "pid": 0,
        "step": "",
        "memory": "10240K",
        "kill": None,  # what the controller shall do with it
        **known,
    }


def change(task: Data, state: str, reason: str = "", **known: Any) -> None:
    """Give a task another state."""
    task.update(before=task["state"], state=state, reason=reason, changed=time.time(), **known)


def seconds_of(text: str, minute: float = 60.0) -> float | None:
    """A --time in seconds."""
    if not text or text.upper() in ("UNLIMITED", "INFINITE", "0"):
        return None
    days, dash, rest = text.rpartition("-")
    numbers = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours, minutes, seconds = 0, numbers[0], (*numbers, 0)[1]
    total = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    return total / 60 * minute


def indices(text: str) -> list[int]:
    """The tasks of `"0-9:2,12%3"`."""
    found: list[int] = []
    for part in text.partition("%")[0].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        found += range(int(first), int(last or first) + 1, int(step or 1))
    return found


def ranges(tasks: list[int]) -> str:
    """Sorted indices as SLURM prints them."""
    parts: list[list[int]] = []
    for task in tasks:
        if parts and parts[-1][1] == task - 1:
            parts[-1][1] = task
        else:
            parts.append([task, task])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def option(arguments: list[str], short: str, long: str) -> str:
    for position, word in enumerate(arguments):
        if word in (short, long):
            return arguments[position + 1]
        if word.startswith(f"{long}="):
            return word.partition("=")[2]
    return ""


def require_database(data: Data, command: str) -> None:
    if data["accounting"] == "down":
        raise Refused(
            f"{command}: error: slurm_persist_conn_open_without_init: failed to open persistent "
            f"connection to host:localhost:6819: Connection refused\n{command}: error: Sending "
            f"PersistInit msg: Connection refused\n{command}: error: Problem talking to the "
            "database: Connection refused"
        )
