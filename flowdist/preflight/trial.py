"""One row run in this process: what it gave and took, and what the whole run comes to by that.

The estimates are of time and of files; what the memory of a row means for the plan is said with the
plan. Running rows in earnest is left to `flowdist.workers`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowdist.artifacts import INLINE_BYTES, dumps
from flowdist.errors import FlowdistError, FlowError
from flowdist.preflight.check import Check, quoted
from flowdist.resources import format_memory, format_time
from flowdist.script import FileOutput

if TYPE_CHECKING:
    from flowdist.flow import Flow, Stage
    from flowdist.plan import PlanSummary

# Shared filesystems limit the number of files, and listing this many takes minutes.
MANY_FILES, SOME_FILES = 100_000, 1_000


@dataclass(frozen=True)
class Tried:
    """What came of running one row here."""

    row: int
    outputs: Mapping[str, Mapping[str, Any] | None]
    seconds: Mapping[str, float]
    """By stage; the last one is that which failed."""
    memory: int
    """Bytes taken at the peak, beyond what this process had."""
    error: BaseException | None = None
    inside: str = ""
    """The stage that raised `error`; empty where flowdist did, whose message names it."""


def run_row(flow: Flow, row: int) -> Tried:
    """Run one row here, whatever it raises, and measure it."""
    seconds: dict[str, float] = {}
    inside = ""

    def watched(stage: Stage) -> Stage:
        def call(*args: Any, **keywords: Any) -> Any:
            nonlocal inside
            inside, started = stage.name, time.perf_counter()
            try:
                out = stage.fn(*args, **keywords)
            finally:
                seconds[stage.name] = time.perf_counter() - started
            inside = ""
            return out

        return replace(stage, fn=call)

    outputs: Mapping[str, Mapping[str, Any] | None] = {}
    error: BaseException | None = None
    before = _restart_peak()
    try:
        outputs = replace(flow, stages=tuple(map(watched, flow.stages))).try_row(row)
    except (Exception, SystemExit) as caught:
        error = caught
    return Tried(row, outputs, seconds, max(0, _peak() - before), error, inside)


def _restart_peak() -> int:
    """Have the kernel forget the largest memory this process had, where it lets us."""
    with contextlib.suppress(OSError):  # then only what goes beyond the former peak is seen
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """Bytes of memory that this process had at most."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def outcome(tried: Tried, summary: PlanSummary | None) -> Iterator[Check]:
    """What the row gave, took or raised, and how long the run takes at that rate."""
    error, row = tried.error, tried.row
    if error is not None:
        kind = f"{type(error).__name__}: {error}"
        if tried.inside:
            what = f"row {row}: stage '{tried.inside}' raised {kind}"
        else:
            what = str(error) if isinstance(error, FlowdistError) else f"row {row}: {kind}"
        remedy = f"flow.try_row({row}) gives the traceback"
        yield Check("try", "error", what, "" if isinstance(error, FlowError) else remedy)
        return
    total = sum(tried.seconds.values())
    parts = [f"{name} {_short(s)}" for name, s in tried.seconds.items()]
    split = f" ({', '.join(parts)})" if len(parts) > 1 else ""
    took = f"row {row} took {_short(total)}{split} and {format_memory(tried.memory or 1)}"
    yield Check("try", "info", f"{took}; it gave {_outputs(tried.outputs)}")
    if summary is None:
        return
    busy = max(1, summary.cores_used // summary.plan.cpus_per_worker)
    estimate = _about(summary.rows * total / busy)
    workers = f"{busy:,} worker{'s' * (busy != 1)}"
    yield Check("try", "info", f"{summary.rows:,} such rows on {workers} take {estimate}")


def _outputs(outputs: Mapping[str, Mapping[str, Any] | None]) -> str:
    said = []
    for stage, fields in outputs.items():
        if fields is None:
            said.append(f"{stage} (skipped)")
        else:
            said += [f"{stage}.{name}: {_kind(value)}" for name, value in fields.items()]
    return ", ".join(said) or "nothing"


def _kind(value: Any) -> str:
    name = type(value).__name__
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"{name} {' x '.join(f'{n:,}' for n in shape)}"
    return f"{name} of {len(value):,}" if isinstance(value, (list, tuple)) else name


def _short(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 0.001 else f"{seconds * 1e6:.3g} µs"


def _about(seconds: float) -> str:
    """A time for people, to two digits or so."""
    unit = next(
        u
        for u, below in ((1, 120), (60, 7200), (3600, 360_000), (86_400, 1e300))
        if seconds < below
    )
    rounded = round(seconds / unit) * unit
    return f"about {format_time(rounded)}" if rounded else "less than a second"


def file_count(flow: Flow, tried: Tried | None) -> Iterator[Check]:
    """How many files the run will have for its artifacts; the other files grow with jobs only."""
    declared = [
        (stage.name, field)
        for stage in flow.stages
        if not stage.is_reduce and stage.returns is not None
        for field in stage.returns.fields
        if field.kind == "artifact"
    ]
    known = tried is not None and tried.error is None
    large = []
    for stage, field in declared:
        name = f"{stage}.{field.name}"
        try:
            if not known or _stored(tried, stage, field.name, field.codec) > INLINE_BYTES:
                large.append(name)
        except Exception as error:
            what = f"'{name}' of row {tried.row if tried else 0} cannot be stored as an artifact"
            reason = f"{type(error).__name__}: {error}"
            yield Check("try", "error", f"{what}: {reason}", "return what can be pickled")
    count = len(flow.grid) * len(large)
    if count <= SOME_FILES:
        return
    limit = format_memory(INLINE_BYTES)
    yield Check(
        "files",
        "warning" if count > MANY_FILES else "info",
        f"{'about' if known else 'up to'} {count:,} files: {quoted(large)} of each of "
        f"{len(flow.grid):,} rows{'' if known else f', where larger than {limit}'}",
        f"return plain values, or artifacts of at most {limit}: they travel inside the results",
    )


def _stored(tried: Tried | None, stage: str, field: str, codec: str | None) -> int:
    """Bytes of an artifact that the tried row returned; 0 where it returned none."""
    value = ((tried.outputs.get(stage) if tried is not None else None) or {}).get(field)
    if value is None or isinstance(value, FileOutput):
        return 0 if value is None else len(value.data)
    return len(dumps(value, codec)[1])
