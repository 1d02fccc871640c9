"""Tables of what jobs asked for and used, in the style of `flowdist.show`."""
# ruff: noqa: TID253  (imported only where something is printed)

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flowdist.explain import roughly
from flowdist.resources import format_memory
from flowdist.show import STATE_STYLE, table

if TYPE_CHECKING:
    from flowdist.advice import PhaseUsage
    from flowdist.usage import JobUsage, Measure

# So many jobs are told one by one; of more, those that stand out.
FEW_JOBS = 12
STAND_OUT = "The jobs that were fullest, took longest, or left most cores idle"
# Shares of a request that are marked: a little more and jobs end for it; a waste.
NEARLY_ALL, HARDLY_ANY = 0.95, 0.25


def usage_tables(phases: Sequence[PhaseUsage]) -> RenderableType:
    """What jobs asked for and used: each of them where they are few, else in a few numbers with
    the jobs to look at; and what to ask for next time.
    """
    parts: list[RenderableType] = []
    advice = Table.grid(padding=(0, 1, 0, 0))
    advice.add_column(no_wrap=True)
    advice.add_column(overflow="fold")
    for phase in phases:
        if phase.name:
            parts += [*([""] if parts else []), Text(phase.name, style="bold")]
        few = len(phase.jobs) <= FEW_JOBS
        if not few:
            parts += [measures_table(phase.measures), "", Text(STAND_OUT, style="dim")]
        parts.append(usage_table(phase.jobs if few else standing_out(phase.jobs)))
        for sentence in phase.advice:
            advice.add_row("→", Text(f"{phase.name}: {sentence}" if phase.name else sentence))
    if any(one.source == "heartbeats" for phase in phases for one in phase.jobs):
        said = "From heartbeats: busy cores are workers with a row, memory is that of workers."
        parts += ["", Text(said, style="dim")]
    if advice.row_count:
        parts += ["", Text("Next time"), advice]
    return Group(*parts)


def measures_table(measures: Sequence[Measure]) -> Table:
    """Cores, memory and time over many jobs."""
    made = table("", *((name, "right") for name in ("asked", "least", "middle", "most", "share")))
    for one in measures:
        low, high = one.asked or (None, None)
        asked = "" if low is None or high is None else _amount(one.name, high)
        if low != high and low is not None:
            asked = f"{_amount(one.name, low)} to {asked}"
        made.add_row(
            one.name, asked, *(_amount(one.name, x) for x in one.used), _share(one.share, one.name)
        )
    return made


def usage_table(jobs: Sequence[JobUsage]) -> Table:
    """What each job asked for and used, with the share of it.

    Where jobs were started several times, start 2 is of launch 2; 2.3 is the third time that the
    scheduler started the job in that launch.
    """
    again = any(one.start for one in jobs)
    starts = again or len({one.attempt for one in jobs}) > 1
    made = table(
        ("job", "right"), *([("start", "right")] if starts else []), "state", "on",
        *((name, "right") for measure in ("cores", "memory", "time") for name in (measure, "")),
    )  # fmt: skip
    made.padding = (0, 2, 0, 0)
    for one in jobs:
        start = f"{one.attempt}.{one.start + 1}" if again else str(one.attempt)
        made.add_row(
            str(one.job),
            *([start] if starts else []),
            Text(one.state, style=STATE_STYLE.get(one.state, "")),
            Text(one.node),
            _of("cores", one.cores_used, one.cpus_asked),
            _share(one.cores_share, "cores"),
            _of("memory", one.memory_used, one.memory_asked),
            _share(one.memory_share, "memory"),
            _of("time", one.seconds or None, one.time_asked),
            _share(one.time_share, "time"),
        )
    return made


def standing_out(jobs: Sequence[JobUsage], each: int = 3) -> list[JobUsage]:
    """The fullest and the longest jobs, and those that kept fewest cores busy; in order."""
    picked: dict[int, JobUsage] = {}
    orders: tuple[Callable[[JobUsage], float | None], ...] = (
        lambda one: one.memory_share if one.memory_asked else one.memory_used,
        lambda one: one.seconds,
        lambda one: None if one.cores_share is None else -one.cores_share,
    )
    for order in orders:
        known = [(value, n) for n, one in enumerate(jobs) if (value := order(one)) is not None]
        for _, n in sorted(known, key=lambda pair: (-pair[0], pair[1]))[:each]:
            picked[n] = jobs[n]
    return [picked[n] for n in sorted(picked)]


def _of(name: str, used: float | None, asked: float | None) -> str:
    """What was used of what was asked for; of either what is known."""
    if used is None:
        return f"? of {_amount(name, asked)}" if asked else ""
    return f"{_amount(name, used)} of {_amount(name, asked)}" if asked else _amount(name, used)


def _amount(name: str, value: float) -> str:
    if name == "memory":
        return format_memory(int(value) or 1)
    if name == "time":
        # Of more than ten minutes, nobody needs the seconds.
        return roughly(value if value < 600 else 60 * round(value / 60))
    return f"{value:.1f}".removesuffix(".0")


def _share(share: float | None, of: str) -> Text:
    """A share in percent; what a job nearly ended for stands out, and what was hardly used."""
    if share is None:
        return Text()
    style = (
        "red" if share > NEARLY_ALL and of != "cores" else "yellow" if share < HARDLY_ANY else ""
    )
    percent = "< 1" if 0 < share < 0.01 else f"{100 * share:.0f}"
    return Text(f"{percent} %", style=style)
