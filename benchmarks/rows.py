"""What a row costs: flowdist beside a hand-written loop and beside its peers.

Every measurement is a fresh process tree in an empty directory. The contenders take turns, so that
all see the same machine; a first round, not timed, warms the file cache and measures the memory,
because looking at memory slows what is looked at. Medians of the rounds are shown. Ends with code 1
where a budget is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from _measure import MIB, PeakMemory, Verdict, count_files, open_console, verdict_table
from rich.progress import Progress
from rich.table import Table

HERE = Path(__file__).parent
# At most this many times the hand-written loop, at least this many times faster than joblib.
MOST_TIMES_HAND, LEAST_TIMES_JOBLIB = 3.0, 2.0

SHOWN = {
    "hand": "a loop by hand, 1 process",
    "hand-2": "a loop by hand, 2 processes",
    "tuned": "1 process, tuned to columns",
    "flowdist": "flowdist local(workers=2)",
    "process-pool": "ProcessPoolExecutor(2).map",
    "joblib": "joblib Parallel(n_jobs=2)",
    "executorlib": "executorlib, 2 workers",
    "submitit": "submitit LocalExecutor",
}
ONE_BY_ONE = "executorlib", "submitit"


@dataclass(frozen=True)
class Case:
    """Rows of one kind; `fewer` for contenders that cannot do so many in sensible time."""

    name: str
    title: str
    task: str
    rows: int
    fewer: dict[str, int]

    @property
    def contenders(self) -> list[str]:
        return [name for name in SHOWN if self.fewer or name not in ONE_BY_ONE]

    def rows_of(self, contender: str) -> int:
        return self.fewer.get(contender, self.rows)


FEWER = {"executorlib": 2_000, "submitit": 20}
CASES = (
    Case("noop", "100,000 rows that do nothing", "noop", 100_000, FEWER),
    Case("one_ms", "2,000 rows of 1 ms (sleep)", "one_ms", 2_000, FEWER),
    Case("million", "1,000,000 rows that do nothing, submit to collected", "noop", 1_000_000, {}),
)


@dataclass
class Found:
    """What was measured of one contender in one case."""

    contender: str
    rows: int
    seconds: list[float] = field(default_factory=list)
    peak_memory: int = 0
    files: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def per_row(self) -> float:
        """Microseconds."""
        return self.median / self.rows * 1e6


def measure(case: Case, found: Found, *, memory: bool) -> None:
    """One run of one contender, added to what was found before."""
    with tempfile.TemporaryDirectory(prefix="flowdist-bench-") as scratch:
        arguments = [found.contender, case.task, str(found.rows), scratch]
        process = subprocess.Popen(
            [sys.executable, str(HERE / "_contenders.py"), *arguments],
            cwd=scratch,
            env={**os.environ, "PYTHONPATH": str(HERE)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if memory:
            with PeakMemory(process.pid) as peak:
                out, errors = process.communicate()
            found.peak_memory = peak.bytes
            found.files = count_files(Path(scratch))
        else:
            out, errors = process.communicate()
        if process.returncode:
            raise SystemExit(f"{found.contender} failed:\n{errors}")
        if not memory:
            found.seconds.append(json.loads(out.splitlines()[-1])["seconds"])


def run_case(case: Case, contenders: Sequence[str], rounds: int, progress: Progress) -> list[Found]:
    """Every contender once for memory and files, then `rounds` times for the time, in turns."""
    found = [Found(c, case.rows_of(c)) for c in case.contenders if c in contenders]
    bar = progress.add_task(case.name, total=len(found) * (rounds + 1))
    for number in range(rounds + 1):
        for one in found:
            progress.update(bar, description=f"{case.name}: {SHOWN[one.contender]}")
            measure(case, one, memory=number == 0)
            progress.advance(bar)
    progress.remove_task(bar)
    return found


def short(number: float) -> str:
    """Two decimals, where they matter."""
    return f"{number:,.2f}" if number < 100 else f"{number:,.0f}"


def table_of(case: Case, found: Sequence[Found]) -> Table:
    """The figures of one case, the hand-written loop first."""
    yardstick = next((f.per_row for f in found if f.contender == "hand"), None)
    table = Table(title=case.title, title_justify="left")
    table.add_column("contender")
    for name in ("rows", "seconds", "us a row", "ratio", "peak MiB", "files"):
        table.add_column(name, justify="right")
    for f in found:
        table.add_row(
            SHOWN[f.contender],
            f"{f.rows:,}",
            f"{f.median:.2f}",
            short(f.per_row),
            "" if yardstick is None else short(f.per_row / yardstick),
            f"{f.peak_memory / MIB:,.0f}",
            str(f.files),
        )
    return table


def verdicts(found: Sequence[Found]) -> list[Verdict]:
    """The budgets on a million rows, where all they compare was measured."""
    seconds = {f.contender: f.median for f in found}
    results = []
    if {"flowdist", "hand"} <= seconds.keys():
        ratio = seconds["flowdist"] / seconds["hand"]
        what = "1,000,000 rows against the loop by hand (1 process)"
        budget = f"at most {MOST_TIMES_HAND:g} x its time"
        results.append(Verdict(what, budget, f"{ratio:.2f} x", ratio <= MOST_TIMES_HAND))
    if {"flowdist", "joblib"} <= seconds.keys():
        ratio = seconds["joblib"] / seconds["flowdist"]
        what = "1,000,000 rows against joblib"
        budget = f"at least {LEAST_TIMES_JOBLIB:g} x as fast"
        results.append(Verdict(what, budget, f"{ratio:.2f} x", ratio >= LEAST_TIMES_JOBLIB))
    return results


def as_json(results: dict[str, list[Found]], judged: Sequence[Verdict]) -> dict[str, Any]:
    """Everything that was measured, for a program."""
    cases = {
        name: [{**asdict(f), "median": f.median, "us_per_row": f.per_row} for f in found]
        for name, found in results.items()
    }
    return {
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "pyarrow": pa.__version__,
        "cases": cases,
        "budgets": [asdict(v) for v in judged],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="What a row costs, beside peers.")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (3)")
    parser.add_argument("--case", choices=[c.name for c in CASES], action="append")
    parser.add_argument("--contender", choices=list(SHOWN), action="append")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    options = parser.parse_args()
    console = open_console()
    results: dict[str, list[Found]] = {}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for case in CASES:
            if case.name in (options.case or [case.name]):
                contenders = options.contender or list(SHOWN)
                results[case.name] = run_case(case, contenders, options.rounds, progress)
                if not options.json:
                    console.print(table_of(case, results[case.name]))
    judged = verdicts(results.get("million", []))
    if options.json:
        print(json.dumps(as_json(results, judged)))
    else:
        print(
            "Ratio: time per row over that of the loop by hand in one process, the yardstick of "
            "the budget.\nPeak memory: of the process tree, a page that n processes share counted "
            "1/n for each.\nFiles: what is left at the end. executorlib and submitit hand out each "
            "row by itself and are\ngiven fewer; submitit starts a process for each, all at once."
        )
        if judged:
            console.print(verdict_table(judged, "Budgets"))
    return 0 if all(v.kept for v in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
