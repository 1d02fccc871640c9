"""What the Snowflake emulator costs: statements, claims, containers; beside fakesnow's server.

Everything goes over HTTP by the unmodified connector, each client a process of its own. The peer
runs in an environment of its own, since it needs connector 4.x; there, both are measured with it.
Medians of several rounds, contenders taking turns; ends with code 1 where a budget is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from _measure import Verdict, start_together, tell
from rich.table import Table

# The connector would ask for credentials of a cloud, and wait for an answer.
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"

PEER = Path(__file__).parents[1] / ".venv-fakesnow" / "bin" / "python"
STATEMENTS, ROWS, CONTAINERS, CLAIMANTS = 300, 5_000, 100, 8
LEAST_CLAIMS, LONGEST_START = 300, 2.0

CLIENT = """
import json, sys, time
import snowflake.connector
snowflake.connector.paramstyle = "qmark"
connection = snowflake.connector.connect(**json.load(open(sys.argv[1])))
kind, count, batch, name = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
cursor = connection.cursor()
claim = (
    "UPDATE queue SET state = 'RUNNING', owner = ? WHERE state = 'PENDING' AND id IN "
    f"(SELECT id FROM queue WHERE state = 'PENDING' ORDER BY id LIMIT {batch})"
)
print("ready", flush=True)
sys.stdin.readline()
begun, claimed, sent = time.monotonic(), [], 0
if kind == "select":
    for i in range(count):
        cursor.execute("SELECT ?", (i,)).fetchall()
elif kind == "insert":
    for i in range(count):
        cursor.execute("INSERT INTO numbers VALUES (?, ?)", (i, name))
else:
    while True:
        token = f"{name}-{sent}"
        sent += 1
        cursor.execute(claim, (token,))
        if not cursor.rowcount:
            cursor.execute("SELECT COUNT(*) FROM queue WHERE state = 'PENDING'")
            if cursor.fetchone()[0] == 0:
                break
            continue
        claimed += [r[0] for r in cursor.execute("SELECT id FROM queue WHERE owner = ?", (token,))]
print(json.dumps({"begun": begun, "ended": time.monotonic(), "claimed": claimed}))
"""


@dataclass
class Found:
    """One figure: what was done how often, by how many clients, in how many seconds."""

    what: str
    server: str
    connector: str
    clients: int
    count: int
    seconds: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return self.count / statistics.median(self.seconds)


def clients(
    python: str, parameters: dict[str, Any], kind: str, count: int, batch: int, number: int
) -> tuple[float, list[int]]:
    """Seconds from the first start to the last end of so many client processes, and their rows."""
    with tempfile.TemporaryDirectory(prefix="flowdist-bench-") as folder:
        path = Path(folder) / "connection.json"
        path.write_text(json.dumps(parameters))
        processes = [
            subprocess.Popen(
                [python, "-c", CLIENT, str(path), kind, str(count), str(batch), f"c{i}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for i in range(number)
        ]
        told = start_together(processes)
    claimed = [row for one in told for row in one["claimed"]]
    return max(t["ended"] for t in told) - min(t["begun"] for t in told), claimed


@contextlib.contextmanager
def flowdist_server() -> Iterator[dict[str, Any]]:
    from flowdist.emulator import Emulator

    with Emulator() as emulator:
        yield emulator.connection_parameters()


@contextlib.contextmanager
def fakesnow_server() -> Iterator[dict[str, Any]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = (
        f"import fakesnow.server as s, uvicorn; uvicorn.run(s.app, port={port}, log_level='error')"
    )
    # It reports each conflict of two writers, which its clients answer by trying again.
    server = subprocess.Popen([str(PEER), "-c", code], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield {
            "user": "u", "password": "p", "account": "a", "host": "127.0.0.1", "port": port,
            "protocol": "http", "database": "BENCH", "schema": "PUBLIC",
        }  # fmt: skip
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def on(python: str, parameters: dict[str, Any], *statements: str) -> None:
    """Run statements with the connector of an interpreter."""
    code = (
        "import json, sys, snowflake.connector as s\n"
        "c = s.connect(**json.loads(sys.argv[1])).cursor()\n"
        "for text in sys.argv[2:]: c.execute(text)"
    )
    subprocess.run([python, "-c", code, json.dumps(parameters), *statements], check=True)


def connector_of(python: str) -> str:
    code = "import snowflake.connector as s; print(s.__version__)"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


def queue_of(hybrid: str, rows: int) -> list[str]:
    return [
        "CREATE DATABASE IF NOT EXISTS BENCH",
        "CREATE SCHEMA IF NOT EXISTS BENCH.PUBLIC",
        "USE SCHEMA BENCH.PUBLIC",
        "CREATE OR REPLACE TABLE numbers (id INT, who VARCHAR)",
        f"CREATE OR REPLACE {hybrid} queue (id INT PRIMARY KEY, state VARCHAR, owner VARCHAR)",
        f"INSERT INTO queue SELECT SEQ4(), 'PENDING', NULL FROM TABLE(GENERATOR(ROWCOUNT=>{rows}))",
    ]


def measure_server(
    name: str, python: str, parameters: dict[str, Any], hybrid: str, sink: dict[str, Found]
) -> None:
    """One round of statements and claims on one server with one connector."""
    parameters = {**parameters, "database": "BENCH", "schema": "PUBLIC"}
    version = connector_of(python)

    def note(what: str, number: int, count: int, seconds: float) -> None:
        key = f"{what}/{name}/{version}/{number}"
        sink.setdefault(key, Found(what, name, version, number, count)).seconds.append(seconds)

    on(python, parameters, *queue_of(hybrid, ROWS))
    for kind in ("select", "insert"):
        for number in (1, CLAIMANTS):
            seconds, _ = clients(python, parameters, kind, STATEMENTS, 1, number)
            note(f"{kind}s", number, STATEMENTS * number, seconds)
    for batch, rows in ((1, 500), (10, ROWS)):
        on(python, parameters, *queue_of(hybrid, rows))
        seconds, claimed = clients(python, parameters, "claim", 0, batch, CLAIMANTS)
        if sorted(claimed) != list(range(rows)):
            raise SystemExit(f"{name}: not every row was claimed once")
        note(f"rows claimed, {batch} a claim", CLAIMANTS, rows, seconds)


def measure_start(sink: dict[str, Found]) -> None:
    """How long the server takes to start."""
    from flowdist.emulator import Emulator

    begun = time.monotonic()
    with Emulator():
        seconds = time.monotonic() - begun
    sink.setdefault("start", Found("start of the server", "flowdist", "", 1, 1)).seconds.append(
        seconds
    )


def measure_containers(sink: dict[str, Found]) -> None:
    """A job of 100 replicas that do nothing, from EXECUTE JOB SERVICE to DONE."""
    from flowdist.emulator import Emulator

    specification = (
        "spec:\n  containers:\n  - name: main\n    image: /flowdist/public/images/none:1\n"
        "    resources: {requests: {cpu: 0.1, memory: 100M}}\n"
    )
    with Emulator() as emulator, emulator.connect() as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE IMAGE REPOSITORY IF NOT EXISTS images")
        emulator.push_image("/flowdist/public/images/none:1", entrypoint=["true"])
        cursor.execute(
            "CREATE COMPUTE POOL bench MIN_NODES = 1 MAX_NODES = 1 INSTANCE_FAMILY = CPU_X64_L"
        )
        begun = time.monotonic()
        cursor.execute(
            f"EXECUTE JOB SERVICE IN COMPUTE POOL bench NAME = none REPLICAS = {CONTAINERS} "
            f"FROM SPECIFICATION $${specification}$$"
        )
        seconds = time.monotonic() - begun
    what = "containers started and ended"
    sink.setdefault("containers", Found(what, "flowdist", "", 1, CONTAINERS)).seconds.append(
        seconds
    )


def table_of(found: list[Found]) -> Table:
    """The figures, with the ratio to the peer where it was measured with the same connector."""
    table = Table(title=f"{os.cpu_count()} cores; medians", title_justify="left")
    for name in ("what", "server", "connector"):
        table.add_column(name)
    for name in ("clients", "seconds", "a second", "x fakesnow"):
        table.add_column(name, justify="right")
    for f in found:
        peer = next(
            (
                p
                for p in found
                if (p.what, p.connector, p.clients) == (f.what, f.connector, f.clients)
                and p.server == "fakesnow"
            ),
            None,
        )
        table.add_row(
            f.what, f.server, f.connector, str(f.clients),
            f"{statistics.median(f.seconds):.2f}", f"{f.per_second:,.0f}",
            f"{f.per_second / peer.per_second:.2f}" if peer else "",
        )  # fmt: skip
    return table


def verdicts(found: list[Found]) -> list[Verdict]:
    """The budgets: claims a second, and the start."""
    judged = []
    for f in found:
        if f.server == "flowdist" and f.what.startswith("rows claimed, 10"):
            judged.append(
                Verdict(
                    f"{f.what}, {f.clients} processes, connector {f.connector}",
                    f"at least {LEAST_CLAIMS} rows/s",
                    f"{f.per_second:,.0f}",
                    f.per_second >= LEAST_CLAIMS,
                )
            )
        if f.what.startswith("start of"):
            seconds = statistics.median(f.seconds)
            judged.append(
                Verdict(
                    f.what, f"{LONGEST_START:g} s", f"{seconds:.2f} s", seconds <= LONGEST_START
                )
            )
    return judged


def main() -> int:
    cases: dict[str, Callable[[dict[str, Found]], None]] = {
        "start": measure_start,
        "containers": measure_containers,
        "statements": measure_statements,
    }
    parser = argparse.ArgumentParser(description="What the Snowflake emulator costs.")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (3)")
    parser.add_argument("--case", choices=list(cases), action="append")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    options = parser.parse_args()
    sink: dict[str, Found] = {}
    for _ in range(options.rounds):
        for case in options.case or cases:
            cases[case](sink)
    found = list(sink.values())
    numbers = [{**asdict(f), "per_second": f.per_second} for f in found]
    no_peer = f"No peer: {PEER.parents[1].name} is missing; `make bench` makes it."
    shown = [table_of(found), *([] if PEER.exists() else [no_peer])]
    return tell(numbers, shown, verdicts(found), as_json=options.json)


def measure_statements(sink: dict[str, Found]) -> None:
    """Statements and claims, on both servers where the peer is installed."""
    with flowdist_server() as parameters:
        measure_server("flowdist", sys.executable, parameters, "HYBRID TABLE", sink)
    if not PEER.exists():
        return
    with flowdist_server() as parameters:
        measure_server("flowdist", str(PEER), parameters, "HYBRID TABLE", sink)
    with fakesnow_server() as parameters:
        measure_server("fakesnow", str(PEER), parameters, "TABLE", sink)


if __name__ == "__main__":
    sys.exit(main())
