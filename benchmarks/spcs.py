"""What the plans for Snowflake cost on the emulator: seconds and statements for each chunk, and how
uneven rows even out; beside a claim loop of the kind that one writes by hand.

Four containers of one worker. Statements are counted by the emulator's own QUERY_HISTORY, those of
the driver apart from those of containers. Medians of the rounds; ends with code 1 where a budget is
missed. Seconds are those of this machine: the emulator has no latency, and starts nodes at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from _measure import Verdict, start_together, tell
from rich.table import Table

from flowdist import Plan, flow, profile, spcs_jobs, spcs_queue, spcs_tasks
from flowdist.backends.snowflake.on_emulator import prepare
from flowdist.emulator import Emulator

# The connector would ask for credentials of a cloud, and wait for an answer.
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"

CONTAINERS, FEWEST, CHUNKS = 4, 4, (200, 2_000)
MOST_STATEMENTS = 2.0
# Of 48 rows the longest takes a hundred times as long as the shortest; the order is random, and
# always the same.
SKEWED = [0.04 * 100 ** (i / 47) for i in random.Random(14).sample(range(48), 48)]
PATIENCE = 300.0

# A worker as people write it first: look for the oldest row, claim it, read it again, mark it done.
LOOP = """
import json, sys, time, snowflake.connector
me, parameters = sys.argv[1], json.loads(sys.argv[2])
cursor = snowflake.connector.connect(**parameters).cursor()
free = "(status = 'PENDING' OR status = 'RUNNING' AND lease_until < SYSDATE())"
print("ready", flush=True)
sys.stdin.readline()
begun, done, sent = time.monotonic(), 0, 0
def run(sql):
    global sent
    sent += 1
    return cursor.execute(sql)
while True:
    row = run(f"SELECT id FROM by_hand WHERE {free} ORDER BY id LIMIT 1").fetchone()
    if row is None:
        break
    run(f"UPDATE by_hand SET status = 'RUNNING', worker = '{me}', attempts = attempts + 1, "
        f"lease_until = DATEADD('minute', 10, SYSDATE()) WHERE id = {row[0]} AND {free}")
    if not cursor.rowcount:
        continue
    run(f"SELECT id, path FROM by_hand WHERE id = {row[0]}").fetchone()
    run(f"UPDATE by_hand SET status = 'DONE', completed_at = SYSDATE() WHERE id = {row[0]}")
    done += 1
print(json.dumps({"begun": begun, "ended": time.monotonic(), "done": done, "sent": sent}))
"""


@dataclass
class Found:
    """One plan with so many chunks: seconds to the results, and statements by who sent them."""

    what: str
    chunks: int
    seconds: list[float] = field(default_factory=list)
    driver: list[int] = field(default_factory=list)
    containers: list[int] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def statements(self) -> float:
        """All statements for each chunk."""
        sent = [a + b for a, b in zip(self.driver, self.containers, strict=True)]
        return statistics.median(sent) / self.chunks


class Lab:
    """An emulator that is set up, and what was sent to it."""

    def __init__(self, emulator: Emulator) -> None:
        self.queue: Any = profile("emulator", replicas=CONTAINERS, workers=1)
        self.emulator = emulator
        self.client = prepare(emulator, self.queue).client

    def plan(self, kind: str, root: str, **options: Any) -> Plan:
        common: dict[str, Any] = {
            "compute_pool": self.queue.compute_pool,
            "image": self.queue.image,
            "stage": self.queue.stage,
            "connection": self.queue.connection,
            "workers": 1,
            "root": root,
            **options,
        }
        if kind == "spcs_queue":
            return spcs_queue(warehouse=self.queue.warehouse, replicas=CONTAINERS, **common)
        make = {"spcs_tasks": spcs_tasks, "spcs_jobs": spcs_jobs}[kind]
        return make(target_jobs=CONTAINERS, **common)

    def sent(self) -> tuple[int, int]:
        """Statements so far: of the driver's user, and of the users that containers are."""
        rows = self.client.rows(
            "SELECT IFF(user_name = CURRENT_USER(), 'driver', 'containers') AS who, COUNT(*) AS n "
            "FROM TABLE(INFORMATION_SCHEMA.QUERY_HISTORY(RESULT_LIMIT => 10000)) GROUP BY who"
        )
        by_who = {row["who"]: int(row["n"]) for row in rows}
        return by_who.get("driver", 0), by_who.get("containers", 0)


@contextlib.contextmanager
def lab() -> Iterator[Lab]:
    # A new one for each measurement: its history of queries begins empty.
    with Emulator() as emulator:
        yield Lab(emulator)


def measure_plan(kind: str, chunks: int, sink: dict[str, Found]) -> None:
    """A run of rows that do nothing, a chunk each, from submit to the table."""
    found = sink.setdefault(f"{kind}/{chunks}", Found(kind, chunks))
    with lab() as here, tempfile.TemporaryDirectory(prefix="flowdist-bench-") as root:
        stages = flow([{"x": x} for x in range(chunks)]).stage("noop", lambda x: x)
        before, begun = here.sent(), time.monotonic()
        run = stages.distribute(here.plan(kind, root)).submit().wait(PATIENCE)
        table = run.collect("arrow")
        found.seconds.append(time.monotonic() - begun)
        after = here.sent()
        if table.num_rows != chunks or run.status().state != "done":
            raise SystemExit(f"{kind}: {run.status()}")
        found.driver.append(after[0] - before[0])
        found.containers.append(after[1] - before[1])


def measure_loop(chunks: int, sink: dict[str, Found]) -> None:
    """The loop by hand, in as many processes, which are there and connected already."""
    found = sink.setdefault(f"hand/{chunks}", Found("a claim loop by hand", chunks))
    with lab() as here:
        here.client.run(
            "CREATE HYBRID TABLE by_hand (id INT PRIMARY KEY, status VARCHAR, worker VARCHAR, "
            "attempts INT, lease_until TIMESTAMP_NTZ, completed_at TIMESTAMP_NTZ, path VARCHAR)"
        )
        here.client.run(
            "INSERT INTO by_hand (id, status, attempts, path) SELECT SEQ4(), 'PENDING', 0, 'x' "
            f"FROM TABLE(GENERATOR(ROWCOUNT => {chunks}))"
        )
        parameters = json.dumps(here.emulator.connection_parameters())
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", LOOP, f"w{i}", parameters],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for i in range(CONTAINERS)
        ]
        told = start_together(processes)
    if sum(t["done"] for t in told) != chunks:
        raise SystemExit("the loop by hand: not every chunk was done once")
    found.seconds.append(max(t["ended"] for t in told) - min(t["begun"] for t in told))
    found.driver.append(2)
    found.containers.append(sum(t["sent"] for t in told))


def measure_skew(kind: str, sink: dict[str, Found]) -> None:
    """Rows of very different length, from the first begin to the last end: without the starts."""
    found = sink.setdefault(f"skew/{kind}", Found(f"{kind}, 48 uneven rows", len(SKEWED)))

    def work(seconds: float) -> dict[str, float]:
        begun = time.time()
        time.sleep(seconds)
        return {"begun": begun, "ended": time.time()}

    with lab() as here, tempfile.TemporaryDirectory(prefix="flowdist-bench-") as root:
        plan = here.plan(kind, root, **({"pre_warm": True} if kind == "spcs_queue" else {}))
        stages = flow([{"seconds": s} for s in SKEWED]).stage("work", work).distribute(plan)
        table = stages.submit().wait(PATIENCE).collect()
    found.seconds.append(table["work.ended"].max() - table["work.begun"].min())
    found.driver.append(0)
    found.containers.append(0)


def ideal() -> float:
    """The least that four workers take for the uneven rows."""
    return max(max(SKEWED), sum(SKEWED) / CONTAINERS)


KINDS = ("spcs_jobs", "spcs_tasks", "spcs_queue")


def measure_chunks(sink: dict[str, Found]) -> None:
    for kind in KINDS:
        for chunks in (FEWEST, *CHUNKS):
            measure_plan(kind, chunks, sink)
    for chunks in CHUNKS:
        measure_loop(chunks, sink)


def measure_few(sink: dict[str, Found]) -> None:
    measure_plan("spcs_queue", FEWEST, sink)


def measure_uneven(sink: dict[str, Found]) -> None:
    for kind in ("spcs_jobs", "spcs_queue"):
        measure_skew(kind, sink)


def chunk_table(found: list[Found]) -> Table:
    """Seconds and statements; the cost of a chunk is that over a run of four."""
    table = Table(title=f"{os.cpu_count()} cores; medians", title_justify="left")
    table.add_column("plan")
    for name in ("chunks", "seconds", "ms a chunk", "driver", "containers", "a chunk"):
        table.add_column(name, justify="right")
    for f in found:
        base = next((b for b in found if b.what == f.what and b.chunks == FEWEST), None)
        over = f.median - base.median if base else f.median
        table.add_row(
            f.what,
            f"{f.chunks:,}",
            f"{f.median:.2f}",
            "" if f is base else f"{1000 * over / f.chunks:.2f}",
            f"{statistics.median(f.driver):.0f}",
            f"{statistics.median(f.containers):.0f}",
            f"{f.statements:.2f}",
        )
    return table


def skew_table(found: list[Found]) -> Table:
    table = Table("plan", title="Uneven rows, 1:100", title_justify="left")
    for name in ("seconds", "x ideal"):
        table.add_column(name, justify="right")
    for f in found:
        table.add_row(f.what, f"{f.median:.2f}", f"{f.median / ideal():.2f}")
    return table


def verdicts(found: list[Found]) -> list[Verdict]:
    return [
        Verdict(
            f"statements for each of {f.chunks:,} chunks, spcs_queue",
            f"at most {MOST_STATEMENTS:g}",
            f"{f.statements:.2f}",
            f.statements <= MOST_STATEMENTS,
        )
        for f in found
        if f.what == "spcs_queue" and f.chunks in CHUNKS
    ]


def main() -> int:
    cases: dict[str, Callable[[dict[str, Found]], None]] = {
        "chunks": measure_chunks,
        "uneven": measure_uneven,
        "few": measure_few,
    }
    parser = argparse.ArgumentParser(description="What the plans for Snowflake cost.")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (3)")
    parser.add_argument("--case", choices=list(cases), action="append")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    options = parser.parse_args()
    sink: dict[str, Found] = {}
    for _ in range(options.rounds):
        for case in options.case or ("chunks", "uneven"):
            cases[case](sink)
    found = list(sink.values())
    numbers = [{**asdict(f), "statements": f.statements} for f in found]
    uneven = [f for f in found if "uneven" in f.what]
    counted = [f for f in found if f not in uneven]
    shown = [chunk_table(counted)] if counted else []
    shown += [skew_table(uneven)] if uneven else []
    return tell(numbers, shown, verdicts(found), as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
