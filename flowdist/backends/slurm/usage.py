"""What seff tells, for a whole run: from one answer of ``sacct``, requested against used.

Pure but for the one question, which the client asks. The figures and sentences that come of it are
`flowdist.usage`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from flowdist.backends.base import Handle, JobState
from flowdist.backends.slurm.states import Record, job_state
from flowdist.store import RunFiles
from flowdist.usage import JobUsage

__all__ = ["FIELDS", "Accountant", "array_jobs", "parse_usage", "usage"]

FIELDS = (
    "JobID", "State", "ElapsedRaw", "TotalCPU", "AllocCPUS", "ReqMem", "AllocTRES", "AllocNodes",
    "MaxRSS", "TimelimitRaw", "NodeList",
)  # fmt: skip
"""What ``sacct`` is asked for."""

Line = Mapping[str, str]

_JOB = re.compile(r"(\d+)(?:_(\d+))?")
_SIZE = re.compile(r"([0-9.]+)([KMGTP]?)([nc]?)")
_CPU_TIME = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")


class Accountant(Protocol):
    """What is asked of SLURM; `SlurmClient` answers."""

    def usage(self, name: str, since: float, fields: Sequence[str]) -> list[dict[str, str]]: ...


@dataclass
class _Start:
    """The lines of one start of one task: its own, then those of its steps."""

    job: tuple[int, int]
    own: Line
    steps: list[Line] = field(default_factory=list)


def usage(handle: Handle, client: Accountant) -> list[JobUsage]:
    """Every start of every job in all launches of a run, with one call of ``sacct``.

    Raises:
        BackendError: accounting is off, or does not answer.
    """
    arrays = array_jobs(handle.files)
    if not arrays:
        return []
    manifest = handle.files.manifest()
    lines = client.usage(manifest["id"], float(manifest["created"]), FIELDS)
    return parse_usage(lines, arrays)


def array_jobs(files: RunFiles) -> dict[int, tuple[int, int]]:
    """Which launch the arrays of a run belong to, and the number of the job of their index 0."""
    found = {}
    for attempt in files.attempts():
        launch = files.read_json(files.launch(attempt)) or {}
        for array in launch.get("arrays", ()):
            found[int(array["id"])] = attempt, int(array["base"])
    return found


def parse_usage(lines: Iterable[Line], arrays: Mapping[int, tuple[int, int]]) -> list[JobUsage]:
    """What each start asked for and used, from what ``sacct`` says of `FIELDS`.

    A start's own line has what it was given; memory is on the lines of its steps, which come
    after it. Lines of other arrays than `arrays` and of starts that never ran are passed over.

    >>> text = '''7_0|TIMEOUT|60|00:30.500|2|4G|cpu=2,mem=4G,node=1|1||1|n1
    ... 7_0.batch|CANCELLED|60|00:30.500|2||cpu=2,mem=4G,node=1|1|1048576K||n1'''
    >>> lines = [dict(zip(FIELDS, line.split("|"))) for line in text.splitlines()]
    >>> (one,) = parse_usage(lines, {7: (1, 100)})
    >>> one.job, one.state, one.cpu_seconds, one.memory_share, one.time_share
    (100, 'timeout', 30.5, 0.25, 1.0)
    """
    counts: dict[tuple[int, int], int] = {}
    found = []
    for start in _starts(lines, arrays):
        number = counts.get(start.job, 0)
        one = _usage(start, number)
        if one.seconds or one.node:
            counts[start.job] = number + 1
            found.append(one)
    return found


def _starts(lines: Iterable[Line], arrays: Mapping[int, tuple[int, int]]) -> Iterator[_Start]:
    current: _Start | None = None
    for line in lines:
        name, dot, _ = line["JobID"].partition(".")
        if dot:
            if current is not None and current.own["JobID"] == name:
                current.steps.append(line)
            continue
        if current is not None:
            yield current
        current = None
        known = _JOB.fullmatch(name)
        if known is not None and int(known[1]) in arrays:
            attempt, base = arrays[int(known[1])]
            current = _Start((base + int(known[2] or 0), attempt), line)
    if current is not None:
        yield current


def _usage(start: _Start, number: int) -> JobUsage:
    own = start.own
    nodes = max(1, int(own["AllocNodes"])) if own["AllocNodes"].isdecimal() else 1
    used = [_bytes(step["MaxRSS"]) for step in start.steps]
    job, attempt = start.job
    return JobUsage(
        job=job,
        attempt=attempt,
        state=_state(start, max((size for size in used if size is not None), default=0)),
        node=own["NodeList"] if own["NodeList"] not in ("None assigned", "") else "",
        cpus_asked=_count(own["AllocCPUS"]),
        cpu_seconds=cpu_seconds(own["TotalCPU"]),
        memory_asked=_memory_asked(own, nodes),
        memory_used=max((size for size in used if size is not None), default=0) or None,
        time_asked=(_count(own["TimelimitRaw"]) or 0) * 60 or None,
        seconds=float(_count(own["ElapsedRaw"]) or 0),
        start=number,
    )


def _state(start: _Start, used: int) -> str:
    """In our words, and SLURM's own where a start ended to be followed by another."""
    word = start.own["State"].split(" ")[0].rstrip("+")
    steps = [step["State"] for step in start.steps]
    asked = _memory_asked(start.own, 1)
    # Without control groups SLURM kills what it finds above its request, and calls it failed.
    over = word == "FAILED" and asked is not None and used > asked
    if over or (
        word not in ("TIMEOUT", "COMPLETED") and any(s.startswith("OUT_OF_ME") for s in steps)
    ):
        return JobState.OUT_OF_MEMORY.value
    if word == "REQUEUED":
        return "requeued"
    return job_state(Record(0, None, word)).value


def _memory_asked(own: Line, nodes: int) -> int | None:
    """Bytes on one node: what was given, or asked for where SLURM does not give memory out."""
    given = next(
        (text[4:] for text in own["AllocTRES"].split(",") if text.startswith("mem=")), None
    )
    if given is not None:
        size = _bytes(given)
        return None if size is None else size // nodes or None
    # Old versions say per node (n) or per core (c) behind the unit.
    size = _bytes(own["ReqMem"])
    per_core = own["ReqMem"].endswith("c")
    return size * (_count(own["AllocCPUS"]) or 1) // nodes if size and per_core else size or None


def _bytes(text: str) -> int | None:
    """SLURM's sizes; None where there is none.

    >>> _bytes("75084K"), _bytes("300M"), _bytes("1.50G"), _bytes("2Gc"), _bytes("76886016")
    (76886016, 314572800, 1610612736, 2147483648, 76886016)
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        return None
    return int(float(found[1]) * 1024 ** (" KMGTP".index(found[2]) if found[2] else 0))


def cpu_seconds(text: str) -> float | None:
    """SLURM's CPU times.

    >>> cpu_seconds("00:01.962"), cpu_seconds("1-02:00:00"), cpu_seconds("INVALID")
    (1.962, 93600.0, None)
    """
    found = _CPU_TIME.fullmatch(text)
    if found is None:
        return None
    days, hours, minutes = (int(part or 0) for part in found.groups()[:3])
    return ((days * 24 + hours) * 60 + minutes) * 60 + float(found[4])


def _count(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
