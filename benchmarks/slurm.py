"""What SLURM costs: flowdist beside its peers, on four jobs of four cores of a real cluster.

Every measurement is a fresh process tree in an empty directory, which has to lie where the nodes
see it; the contenders take turns, so that all see the same cluster. Medians of the rounds are
shown. Ends with code 1 where a budget is missed. Without a cluster there is only what needs none:
the status of a large run, with SLURM's commands played by others.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from _measure import Verdict, open_console, verdict_table
from _slurm_contenders import CORES, NODES, WORKERS, array_size
from _slurm_many import STATUS_COMMANDS, STATUS_SECONDS, many_jobs
from rich.progress import Progress
from rich.table import Table

HERE = Path(__file__).parent
# At least so many times as fast as submitit; at most so far from the shortest makespan there is.
LEAST_TIMES_SUBMITIT, MOST_OVER_IDEAL = 6.0, 0.15
# So long, at most, a measurement waits until SLURM has put away the jobs of the one before it.
SETTLE_SECONDS = 20.0

SHOWN = {
    "hand": "by hand: sbatch, 4 jobs with a pool",
    "static": "flowdist slurm_allocation",
    "queue": "flowdist slurm_queue",
    "map": "flowdist slurm_map",
    "dask": "dask-jobqueue, 4 jobs of 4 processes",
    "submitit": "submitit map_array",
    "submitit-direct": "submitit map_array, no srun",
    "executorlib": "executorlib SlurmClusterExecutor",
}
# They start a process for each task, which takes minutes for a thousand.
ONE_BY_ONE = "submitit", "submitit-direct", "executorlib"
FEW = 64
# Of the order of the skewed tasks.
SEED = 14


def skewed(tasks: int = 400, least: float = 0.055, most: float = 5.5) -> list[float]:
    """How long each task takes, seconds: the logarithms are spread evenly, the order is random but
    always the same.

    Of random orders it is an ordinary one: started in it, tasks end in the median of what they do.
    """
    numbers = [least * (most / least) ** (i / (tasks - 1)) for i in range(tasks)]
    random.Random(SEED).shuffle(numbers)
    return numbers


def makespan(seconds: Iterable[float]) -> float:
    """When tasks end that are started in this order, each as soon as a core is free, seconds."""
    ends = [0.0] * WORKERS
    for one in seconds:
        heapq.heapreplace(ends, ends[0] + one)
    return max(ends)


@dataclass(frozen=True)
class Case:
    """Tasks, by how long each takes; `contenders` by name. `fewer` is how many tasks are given to
    those that go one by one; 0 where they are left out.
    """

    name: str
    title: str
    seconds: list[float]
    contenders: tuple[str, ...]
    fewer: int | None = None

    def given(self, contender: str, *, full: bool) -> list[float]:
        """The tasks that a contender gets."""
        few = contender in ONE_BY_ONE and self.fewer is not None and not full
        return self.seconds[: self.fewer] if few else self.seconds

    @property
    def ideal(self) -> float:
        """No schedule ends before this, seconds."""
        return max(sum(self.seconds) / WORKERS, max(self.seconds))


EVERYBODY = tuple(SHOWN)
CASES = (
    Case("few", "64 tasks that do nothing", [0.0] * FEW, EVERYBODY),
    Case("many", "1,000 tasks that do nothing", [0.0] * 1000, EVERYBODY, fewer=FEW),
    Case(
        "even",
        "160 tasks of 0.5 s",
        [0.5] * 160,
        ("hand", "static", "queue", "dask", "submitit"),
    ),
    Case("skewed", "400 tasks of 0.055 to 5.5 s", skewed(), ("hand", "static", "queue", "dask")),
)


@dataclass
class Found:
    """What was measured of one contender in one case."""

    contender: str
    tasks: int
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def per_task(self) -> float:
        """Milliseconds."""
        return self.median / self.tasks * 1e3


def measure(found: Found, given: Sequence[float], root: Path | None) -> None:
    """One run of one contender, added to what was found before."""
    settle()
    with tempfile.TemporaryDirectory(
        prefix="flowdist-bench-", dir=root, ignore_cleanup_errors=True
    ) as scratch:
        done = subprocess.run(
            [sys.executable, str(HERE / "_slurm_contenders.py"), found.contender, scratch],
            cwd=scratch,
            env={**os.environ, "PYTHONPATH": str(HERE)},
            input=json.dumps(list(given)),
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise SystemExit(f"{found.contender} failed:\n{done.stderr}")
    found.seconds.append(json.loads(done.stdout.splitlines()[-1])["seconds"])


def settle() -> None:
    """Wait until SLURM knows of no job of this user, for a while."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        if not subprocess.run(["squeue", "-h", "--me"], capture_output=True).stdout.strip():
            return
        time.sleep(0.2)


def run_case(
    case: Case, known: Sequence[Found], options: argparse.Namespace, progress: Progress
) -> list[Found]:
    """Every contender `rounds` times, in turns; but for those that were given the very same before,
    whose figures are in `known`.
    """
    chosen = [name for name in case.contenders if name in (options.contender or SHOWN)]
    found = [Found(name, len(case.given(name, full=options.full))) for name in chosen]
    same = {(f.contender, f.tasks): f for f in known if not any(case.seconds)}
    found = [same.get((f.contender, f.tasks), f) for f in found]
    missing = [f for f in found if not f.seconds]
    bar = progress.add_task(case.name, total=len(missing) * options.rounds)
    for _ in range(options.rounds):
        for one in missing:
            progress.update(bar, description=f"{case.name}: {SHOWN[one.contender]}")
            measure(one, case.given(one.contender, full=options.full), options.root)
            progress.advance(bar)
    progress.remove_task(bar)
    return found


# What is shown ------------------------------------------------------------------------------------


def table_of(case: Case, found: Sequence[Found]) -> Table:
    """The figures of one case: for tasks that do nothing what each costs, for others how far the
    end is from the earliest there can be.
    """
    working = any(case.seconds)
    yardstick = next((f.per_task for f in found if f.contender == "submitit"), None)
    table = Table(title=case.title, title_justify="left")
    table.add_column("contender")
    for name in ("tasks", "seconds", "ms a task"):
        table.add_column(name, justify="right")
    table.add_column("over ideal" if working else "x submitit", justify="right")
    table.add_column("efficiency" if working else "of 1,000", justify="right")
    for f in found:
        cells = ["", ""]
        if working:
            cells = [f"{f.median / case.ideal - 1:+.0%}", f"{case.ideal / f.median:.0%}"]
        elif yardstick is not None:
            cells[0] = f"{yardstick / f.per_task:,.1f}"
        if not working and case.name == "many":
            about = "" if f.tasks == len(case.seconds) else "~"
            cells[1] = f"{about}{f.per_task * len(case.seconds) / 1e3:,.1f} s"
        table.add_row(
            SHOWN[f.contender], f"{f.tasks:,}", f"{f.median:.2f}", f"{f.per_task:,.1f}", *cells
        )
    if working:
        table.caption = (
            f"{WORKERS} cores: ideal {case.ideal:.2f} s; longest first "
            f"{makespan(sorted(case.seconds, reverse=True)):.2f} s; in this order, each as soon "
            f"as a core is free, {makespan(case.seconds):.2f} s"
        )
        table.caption_justify = "left"
    return table


def verdicts(results: dict[str, list[Found]]) -> list[Verdict]:
    """The budgets, where all they compare was measured."""
    judged = []
    few = {f.contender: f.median for f in results.get("few", [])}
    if "submitit" in few:
        for name in ("static", "queue"):
            if name in few:
                ratio = few["submitit"] / few[name]
                what = f"64 tasks that do nothing, {SHOWN[name]}"
                budget = f"at least {LEAST_TIMES_SUBMITIT:g} x submitit"
                judged.append(
                    Verdict(what, budget, f"{ratio:.1f} x", ratio >= LEAST_TIMES_SUBMITIT)
                )
    ideal = next(case.ideal for case in CASES if case.name == "skewed")
    for f in results.get("skewed", []):
        if f.contender == "queue":
            over = f.median / ideal - 1
            what = f"400 tasks of 0.055 to 5.5 s, {SHOWN['queue']}"
            budget = f"at most {MOST_OVER_IDEAL:.0%} over ideal"
            judged.append(Verdict(what, budget, f"{over:.1%} over", over <= MOST_OVER_IDEAL))
    return judged


def status_verdicts(seconds: float, commands: int, jobs: int) -> list[Verdict]:
    """The budgets on one look at a large run."""
    what = f"status of a run of {jobs:,} jobs, SLURM asked"
    return [
        Verdict(what, f"{STATUS_SECONDS:g} s", f"{seconds:.3f} s", seconds <= STATUS_SECONDS),
        Verdict(
            "  SLURM's commands for it",
            str(STATUS_COMMANDS),
            str(commands),
            commands <= STATUS_COMMANDS,
        ),
    ]


def no_cluster() -> str:
    """Why there is nothing to measure on; "" where there is a cluster."""
    missing = [name for name in ("sbatch", "squeue", "scontrol") if shutil.which(name) is None]
    if missing:
        return f"no SLURM cluster here: {', '.join(missing)} not on PATH"
    asked = subprocess.run(["sinfo", "-h", "-o", "%D"], capture_output=True, text=True)
    return f"no SLURM cluster here: {asked.stderr.strip()}" if asked.returncode else ""


NOTES = """\
Seconds are from the tasks in memory to the results in hand. "x submitit": its time per task over
the contender's. Everybody may use {workers} cores: {nodes} jobs of {cores}, or {workers} tasks of
one. submitit's map_array is called for {most} tasks at a time, as an array of this cluster takes no
more. submitit and executorlib start a process for each task; where they were given fewer, the time
of 1,000 is worked out from these (--full has them do all). Load of this machine now: {load}."""


def notes() -> str:
    load = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    return NOTES.format(workers=WORKERS, nodes=NODES, cores=CORES, most=array_size(), load=load)


def main() -> int:
    parser = argparse.ArgumentParser(description="What SLURM costs, beside peers.")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (3)")
    parser.add_argument("--case", choices=[*(c.name for c in CASES), "status"], action="append")
    parser.add_argument("--contender", choices=list(SHOWN), action="append")
    parser.add_argument("--full", action="store_true", help="all tasks for everybody")
    parser.add_argument("--root", type=Path, help="a directory that the nodes see (here)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    options = parser.parse_args()
    options.root = (options.root or Path.cwd()).absolute()
    console = open_console()
    cases = options.case or [*(c.name for c in CASES), "status"]
    judged: list[Verdict] = []
    numbers: dict[str, Any] = {"cores": os.cpu_count(), "load before": os.getloadavg()[0]}
    if "status" in cases:
        seconds, commands, jobs = many_jobs(options.rounds)
        judged += status_verdicts(seconds, commands, jobs)
        numbers["status"] = {"jobs": jobs, "seconds": seconds, "commands": commands}
    wanted = [case for case in CASES if case.name in cases]
    missing = no_cluster() if wanted else ""
    results: dict[str, list[Found]] = {}
    if not missing:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            for case in wanted:
                known = results.get("few", [])
                results[case.name] = run_case(case, known, options, progress)
                if not options.json:
                    console.print(table_of(case, results[case.name]))
        judged = verdicts(results) + judged
    numbers |= {"load after": os.getloadavg()[0], "no cluster": missing}
    numbers["cases"] = {
        name: [{**asdict(f), "median": f.median, "ms_per_task": f.per_task} for f in found]
        for name, found in results.items()
    }
    if options.json:
        print(json.dumps({**numbers, "budgets": [asdict(v) for v in judged]}))
    else:
        if wanted:
            print(missing or notes())
        if judged:
            console.print(verdict_table(judged, "Budgets"))
    return 0 if all(v.kept for v in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
