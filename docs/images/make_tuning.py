"""Measure and draw the plots of docs/tuning.md. Run it from the repository's root:

    python docs/images/make_tuning.py measure    on four nodes of four cores; writes tuning.json
    python docs/images/make_tuning.py draw       from tuning.json to tuning-*.svg

A cluster is needed for the first only; `labs/slurm start` makes one.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FIGURES = HERE / "tuning.json"
NODES, CORES = 4, 4
WORKERS = NODES * CORES
ROUNDS = 3

# What is measured ---------------------------------------------------------------------------------

# Durations from 1 to 100; the ideal makespan is that of these rows on all cores.
SKEWED = [0.03 * 100 ** (i / 199) for i in range(200)]
OVERSUBSCRIBE = [1, 2, 4, 8]
ROWS_PER_JOB = [1, 10, 100, 1_000, 10_000, 100_000]
# Rows of 10 ms, in all `EVEN_SECONDS` on all cores, in chunks of so many.
SHORT, EVEN_SECONDS = 0.01, 8.0
ROWS_PER_CHUNK = [1, 3, 10, 30, 100, 400]


def nap(seconds: float) -> float:
    """A row: so long, and no processor."""
    if seconds:
        time.sleep(seconds)
    return seconds


def seconds_of(durations: list[float], **plan: Any) -> float:
    """Submit to collected, seconds: the median of some rounds."""
    import flowdist

    kind = flowdist.slurm_queue if plan.pop("queue", False) else flowdist.slurm_allocation
    taken = []
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="tuning-") as root:
        shape = {"nodes": NODES, "cores_per_node": CORES, "memory": "2000M", "time": "30min"}
        work = flowdist.flow({"seconds": durations}).stage("nap", nap, returns=float)
        work = work.distribute(kind(**shape, **plan, root=root))
        for _ in range(ROUNDS):
            start = time.perf_counter()
            assert len(work.submit().wait().collect()) == len(durations)
            taken.append(time.perf_counter() - start)
    print(f"{len(durations):>7,} rows, {plan}, {kind.__name__}: {taken}", flush=True)
    return statistics.median(taken)


def measure() -> dict[str, Any]:
    """Everything that is drawn."""
    mixed = random.Random(1).sample(SKEWED, len(SKEWED))
    found: dict[str, Any] = {"load before": os.getloadavg()[0], "ideal": sum(SKEWED) / WORKERS}
    found["skewed"] = {
        name: {
            "static": [seconds_of(rows, oversubscribe=n) for n in OVERSUBSCRIBE],
            "queue": seconds_of(rows, queue=True),
        }
        for name, rows in {"sorted": SKEWED, "mixed": mixed}.items()
    }
    found["noop"] = [seconds_of([0.0] * NODES * n) for n in ROWS_PER_JOB]
    rows = [SHORT] * round(EVEN_SECONDS * WORKERS / SHORT)
    found["chunks"] = {
        "queue": [seconds_of(rows, queue=True, rows_per_chunk=n) for n in ROWS_PER_CHUNK],
        "static": seconds_of(rows),
    }
    found["load after"] = os.getloadavg()[0]
    return found


# What is drawn ------------------------------------------------------------------------------------

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#777777"


def draw(found: dict[str, Any]) -> None:
    """The plots, as SVG with text that is text."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "flowdist",
            "font.family": "sans-serif",
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#dddddd",
            "axes.axisbelow": True,
            "savefig.facecolor": "white",
        }
    )
    draw_skewed(found)
    draw_noop(found)
    draw_chunks(found)


def draw_skewed(found: dict[str, Any]) -> None:
    """Makespan against oversubscribe, for rows in both orders, with the queue and the ideal."""
    figure, axes = new_figure()
    places = range(len(OVERSUBSCRIBE))
    for name, colour, mark in (("sorted", ORANGE, "o"), ("mixed", BLUE, "s")):
        one = found["skewed"][name]
        axes.plot(places, one["static"], color=colour, marker=mark, label=f"static, rows {name}")
        axes.axhline(one["queue"], color=colour, linestyle="--", label=f"queue, rows {name}")
    axes.axhline(found["ideal"], color=GREY, linestyle=":", label="ideal")
    axes.set_xticks(places, [str(n) for n in OVERSUBSCRIBE])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("oversubscribe (jobs for each node)")
    axes.set_ylabel("seconds, submit to collected")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    save(figure, "skewed")


def draw_noop(found: dict[str, Any]) -> None:
    """Time per row against rows per job."""
    figure, axes = new_figure()
    each = [1e3 * s / (NODES * n) for n, s in zip(ROWS_PER_JOB, found["noop"], strict=True)]
    axes.loglog(ROWS_PER_JOB, each, color=BLUE, marker="o")
    for n, ms in zip(ROWS_PER_JOB, each, strict=True):
        axes.annotate(
            f"{ms:,.0f}" if ms >= 10 else f"{ms:.2g}",
            (n, ms),
            textcoords="offset points",
            xytext=(7, 5),
        )
    axes.margins(x=0.12, y=0.12)
    axes.set_xticks(ROWS_PER_JOB, [f"{n:,}" for n in ROWS_PER_JOB])
    ticks = [1000.0, 100.0, 10.0, 1.0, 0.1, 0.01]
    axes.set_yticks(ticks, [f"{ms:,g}" for ms in ticks])
    axes.minorticks_off()
    axes.set_xlabel("rows in each of 4 jobs")
    axes.set_ylabel("milliseconds a row")
    save(figure, "rows")


def draw_chunks(found: dict[str, Any]) -> None:
    """Efficiency against the length of a chunk."""
    figure, axes = new_figure()
    lengths = [n * SHORT for n in ROWS_PER_CHUNK]
    queue = [100 * EVEN_SECONDS / s for s in found["chunks"]["queue"]]
    axes.semilogx(lengths, queue, color=BLUE, marker="o", label="queue")
    static = 100 * EVEN_SECONDS / found["chunks"]["static"]
    axes.axhline(static, color=ORANGE, linestyle="--", label="static")
    axes.set_xticks(lengths, [f"{s:g} s" for s in lengths])
    axes.minorticks_off()
    axes.set_ylim(0, 100)
    axes.set_xlabel("length of a chunk (rows of 10 ms)")
    axes.set_ylabel("efficiency, % of 16 cores")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    save(figure, "chunks")


def new_figure() -> tuple[Any, Any]:
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(7.2, 3.4), layout="constrained")


def save(figure: Any, name: str) -> None:
    figure.savefig(HERE / f"tuning-{name}.svg", metadata={"Date": None})


def main(words: list[str]) -> None:
    if words not in (["measure"], ["draw"]):
        raise SystemExit(__doc__)
    if words == ["measure"]:
        FIGURES.write_text(json.dumps(measure(), indent=1) + "\n")
    draw(json.loads(FIGURES.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:])
