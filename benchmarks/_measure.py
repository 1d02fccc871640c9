"""What the benchmarks share: memory of a process tree, files of a directory, verdicts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

MIB = 1 << 20


def open_console() -> Console:
    """A console that cuts no column off where the output is a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=110)


@dataclass(frozen=True)
class Verdict:
    """A budget and what was measured, both in words, and whether it is kept."""

    what: str
    budget: str
    measured: str
    kept: bool

    @property
    def word(self) -> str:
        return "kept" if self.kept else "MISSED"


def verdict_table(verdicts: Sequence[Verdict], title: str) -> Table:
    """Budgets side by side with what was measured."""
    table = Table("what", "budget", "measured", "", title=title, title_justify="left")
    for v in verdicts:
        table.add_row(v.what, v.budget, v.measured, f"[{'green' if v.kept else 'red'}]{v.word}[/]")
    return table


def tell(
    numbers: Sequence[dict[str, Any]],
    tables: Sequence[Table | str],
    verdicts: Sequence[Verdict],
    *,
    as_json: bool,
) -> int:
    """Print what was measured, as JSON or as tables; 1 where a budget is missed, else 0."""
    if as_json:
        print(json.dumps({"found": numbers, "budgets": [asdict(v) for v in verdicts]}))
    else:
        console = open_console()
        for table in (*tables, verdict_table(verdicts, "Budgets")):
            console.print(table)
    return 0 if all(v.kept for v in verdicts) else 1


def start_together(processes: Sequence[subprocess.Popen[str]]) -> list[Any]:
    """What each process prints last, read as JSON, once all were ready and were let go at the same
    moment: each prints a line when it is ready, waits for a line, and then works.
    """
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [json.loads(process.communicate()[0]) for process in processes]


def count_files(directory: Path) -> int:
    """How many files lie anywhere under a directory."""
    return sum(len(names) for _, _, names in os.walk(directory))


def proportional_memory(process: psutil.Process) -> int:
    """Bytes of memory that a process is charged for, 0 where it is gone.

    On Linux the proportional set size, in which a page that n processes share counts 1/n for each,
    so that a tree of forked processes is not counted twice. Elsewhere the resident set size.
    """
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:
        text = ""
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    if found:
        return int(found[1]) * 1024
    with contextlib.suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


class PeakMemory:
    """The highest memory of a process tree while the block runs, sampled from a thread."""

    SECONDS = 0.02

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.bytes = 0

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(self.SECONDS):
            total = sum(proportional_memory(process) for process in self._tree())
            self.bytes = max(self.bytes, total)

    def _tree(self) -> Iterator[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            yield self._root
            yield from self._root.children(recursive=True)
