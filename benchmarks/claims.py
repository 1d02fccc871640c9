"""What claiming a chunk costs: the directory queue beside a file per chunk, made by hand.

Processes drain one directory of 100,000 chunks, each in an interpreter of its own, all let go at
the same moment; what they claimed is checked to be every chunk once. The contenders take turns.
Medians of several rounds; ends with code 1 where a budget is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from _measure import Verdict, count_files, open_console, start_together, verdict_table
from rich.table import Table

from flowdist.store import DirectoryStore
from flowdist.workers.queue import TICKETS, DirectoryQueue

CHUNKS, PROCESSES = 100_000, 8
LEAST_PER_SECOND = 1_000
# Chunks that a claim asks for at most: what a pool does in a few seconds.
BATCH = 100

Ranges = Iterator[tuple[int, int]]


def by_hand(folder: Path, chunks: int, place: int) -> Ranges:
    """Everybody tries every chunk in order: what one would write first."""
    return _files(folder, range(chunks))


def by_hand_apart(folder: Path, chunks: int, place: int) -> Ranges:
    """Everybody makes the files of a range of its own: as fast as files can be made, with nothing
    shared out.
    """
    return _files(folder, range(place * chunks // PROCESSES, (place + 1) * chunks // PROCESSES))


def _files(folder: Path, chunks: range) -> Ranges:
    for chunk in chunks:
        try:
            os.close(os.open(f"{folder}/{chunk:06d}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            continue
        yield chunk, chunk + 1


def one_by_one(folder: Path, chunks: int, place: int) -> Ranges:
    """The queue, asked for a chunk at a time."""
    return _queue(folder, place, most=1)


def in_batches(folder: Path, chunks: int, place: int) -> Ranges:
    """The queue, asked for as many chunks as are sensible at a time."""
    return _queue(folder, place, most=BATCH)


def _queue(folder: Path, place: int, most: int) -> Ranges:
    queue = DirectoryQueue(DirectoryStore(folder), place=place)
    while claims := queue.claim(f"worker-{place}", 1, most):
        for claim in claims:
            yield claim.first, claim.stop


@dataclass(frozen=True)
class Contender:
    """A way to claim; `claimers` says how many jobs the queue is made for, None where there is no
    queue.
    """

    title: str
    drain: Callable[[Path, int, int], Ranges]
    claimers: int | None = None


# So many jobs that every chunk is a ticket of its own.
MANY = CHUNKS // TICKETS + 1
CONTENDERS = {
    "hand": Contender("a file per chunk, by hand", by_hand),
    "apart": Contender("the same, each its own range", by_hand_apart),
    "tickets": Contender("flowdist, a ticket per chunk", one_by_one, MANY),
    "batches": Contender("flowdist, a ticket per chunk, in batches", in_batches, MANY),
    "usual": Contender(f"flowdist, tickets for {PROCESSES} jobs", in_batches, PROCESSES),
}


@dataclass
class Found:
    """What was measured of one contender."""

    contender: str
    seconds: list[float] = field(default_factory=list)
    files: int = 0

    @property
    def per_second(self) -> float:
        """Chunks claimed, by all processes together."""
        return CHUNKS / statistics.median(self.seconds)


def drain(contender: str, folder: Path, place: int) -> None:
    """What one process does: wait for the word, claim until nothing is left, tell what it got."""
    print("ready", flush=True)
    sys.stdin.readline()
    begun = time.monotonic()
    ranges = list(CONTENDERS[contender].drain(folder, CHUNKS, place))
    print(json.dumps({"begun": begun, "ended": time.monotonic(), "ranges": ranges}))


def measure(found: Found) -> None:
    """One round of one contender, added to what was found before.

    Raises:
        SystemExit: chunks were claimed twice, or not at all.
    """
    with tempfile.TemporaryDirectory(prefix="flowdist-bench-") as scratch:
        claimers = CONTENDERS[found.contender].claimers
        if claimers is not None:
            DirectoryQueue(DirectoryStore(scratch)).put(0, CHUNKS, claimers=claimers)
        command = [sys.executable, __file__, "--drain", found.contender, scratch]
        processes = [
            subprocess.Popen(
                [*command, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for place in range(PROCESSES)
        ]
        told = start_together(processes)
        claimed = sorted(
            chunk for one in told for first, stop in one["ranges"] for chunk in range(first, stop)
        )
        if claimed != list(range(CHUNKS)):
            raise SystemExit(f"{found.contender}: not every chunk was claimed once")
        found.seconds.append(max(t["ended"] for t in told) - min(t["begun"] for t in told))
        found.files = count_files(Path(scratch))


def table_of(results: list[Found]) -> Table:
    """The figures side by side; ratios to the loop by hand."""
    yardstick = next((f.per_second for f in results if f.contender == "hand"), None)
    title = f"{CHUNKS:,} chunks, {PROCESSES} processes, {os.cpu_count()} cores"
    table = Table(title=title, title_justify="left")
    table.add_column("contender")
    for name in ("seconds", "chunks/s", "ratio", "files"):
        table.add_column(name, justify="right")
    for f in results:
        table.add_row(
            CONTENDERS[f.contender].title,
            f"{statistics.median(f.seconds):.2f}",
            f"{f.per_second:,.0f}",
            "" if yardstick is None else f"{f.per_second / yardstick:.2f}",
            f"{f.files:,}",
        )
    return table


def verdicts(results: list[Found]) -> list[Verdict]:
    """The budget, for every way to use the queue."""
    return [
        Verdict(
            CONTENDERS[f.contender].title,
            f"at least {LEAST_PER_SECOND:,} chunks/s",
            f"{f.per_second:,.0f}",
            f.per_second >= LEAST_PER_SECOND,
        )
        for f in results
        if CONTENDERS[f.contender].claimers is not None
    ]


def as_json(results: list[Found], judged: list[Verdict]) -> dict[str, Any]:
    """Everything that was measured, for a program."""
    return {
        "cores": os.cpu_count(),
        "chunks": CHUNKS,
        "processes": PROCESSES,
        "found": [{**asdict(f), "chunks_per_second": f.per_second} for f in results],
        "budgets": [asdict(v) for v in judged],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="What claiming a chunk costs.")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (3)")
    parser.add_argument("--contender", choices=list(CONTENDERS), action="append")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument("--drain", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drain:
        contender, folder, place = options.drain
        drain(contender, Path(folder), int(place))
        return 0
    results = [Found(name) for name in options.contender or CONTENDERS]
    for _ in range(options.rounds):
        for found in results:
            measure(found)
    judged = verdicts(results)
    if options.json:
        print(json.dumps(as_json(results, judged)))
    else:
        console = open_console()
        console.print(table_of(results))
        console.print(
            "Ratio: chunks a second over those of the loop by hand. By hand everybody tries every "
            "chunk; 'its own range' shares nothing out, so it shows what files cost. A claim "
            f"in batches asks for up to {BATCH} chunks."
        )
        console.print(verdict_table(judged, "Budgets"))
    return 0 if all(v.kept for v in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
