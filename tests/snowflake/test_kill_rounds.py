"""Twenty rounds in which containers, nodes, drivers and Snowflake itself die at random, tokens
expire, replies are lost and files are seen late: after resume the table is that of an undisturbed
run, and after delete nothing is left.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from cloud import CONSTRUCTORS, Cloud, containers_of

import flowdist
from flowdist import Flow, Plan, Run, flow, local, param_grid
from flowdist.snowflake.connection import connection_name

ROUNDS = 20
ROWS = 60
PATIENCE = 150.0

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]


def work(x: int, seed: int) -> dict[str, int]:
    time.sleep(0.06)
    return {"square": x * x, "seed": seed}


def total(work: pa.Table) -> int:
    return sum(work["square"].to_pylist())


def make_flow(plan: Plan) -> Flow:
    return (
        flow(param_grid(x=range(ROWS)), seed=5)
        .stage("work", work)
        .reduce("total", total)
        .distribute(plan)
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    run = make_flow(local(root=tmp_path_factory.mktemp("undisturbed"), workers=2)).submit()
    return run.wait(PATIENCE).collect("arrow")


SUBMITTER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from cloud import Cloud
from flowdist.emulator import Emulator
from test_kill_rounds import make_flow, plan_for
cloud = Cloud(Emulator.attach(sys.argv[2]))
run = make_flow(plan_for(cloud, sys.argv[3], Path(sys.argv[4]))).submit()
print(run.id, flush=True)
run.wait()
"""


def plan_for(cloud: Cloud, kind: str, root: Path) -> Plan:
    options = {"lease": "10s"} if kind == "spcs-queue" else {}
    return cloud.plan(kind, root, rows_per_chunk=5, **options)


@dataclass
class Round:
    """A run, who has submitted it, and what may happen to them."""

    cloud: Cloud
    run: Run
    driver: subprocess.Popen[str] | None
    choose: random.Random

    def kill_container(self) -> None:
        if processes := containers_of(self.run.id):
            with contextlib.suppress(psutil.NoSuchProcess):
                self.choose.choice(processes).kill()

    def kill_node(self) -> None:
        self.cloud.emulator.faults.kill_node("cells", node=self.choose.choice([0, 1]))

    def kill_driver(self) -> None:
        if self.driver is not None:
            self.driver.kill()

    def kill_snowflake(self) -> None:
        self.cloud.emulator.kill()
        time.sleep(self.choose.uniform(0, 0.5))
        self.cloud.emulator.start()

    def expire_tokens(self) -> None:
        self.cloud.emulator.faults.expire_tokens(self.choose.choice(["session", "service"]))

    def lose_replies(self) -> None:
        self.cloud.emulator.faults.lose_replies(path="query-request", times=2)

    def drop_connections(self) -> None:
        self.cloud.emulator.faults.drop_connections(probability=0.3, times=4)

    def be_unavailable(self) -> None:
        self.cloud.emulator.faults.unavailable(path="query-request", times=3)

    def hide_files(self) -> None:
        folder = self.choose.choice(["parts", "beats"])
        place = f"@flowdist.public.runs/runs/{self.run.id}/{folder}/*"
        self.cloud.emulator.faults.hide(place, seconds=3.0)

    @property
    def disturbances(self) -> list[Callable[[], None]]:
        return [
            self.kill_container, self.kill_container, self.kill_node, self.kill_driver,
            self.kill_snowflake, self.expire_tokens, self.lose_replies, self.drop_connections,
            self.be_unavailable, self.hide_files,
        ]  # fmt: skip

    def disturb(self) -> None:
        for _ in range(self.choose.randint(2, 3)):
            time.sleep(self.choose.uniform(0.2, 2.0))
            self.choose.choice(self.disturbances)()
            status = self.run.status()
            if status.ended and status.state != "done":
                self.run.resume()

    def finish(self) -> None:
        """Resume until every row has ended."""
        deadline = time.monotonic() + PATIENCE
        while self.run.wait(PATIENCE).status().state != "done":
            assert time.monotonic() < deadline, self.run.status()
            self.run.resume()


def started(cloud: Cloud, kind: str, root: Path, choose: random.Random) -> Round:
    """A run that this process has submitted, or another one that can be killed."""
    if choose.random() < 0.6:
        run = make_flow(plan_for(cloud, kind, root)).submit()
        return Round(cloud, run, None, choose)
    connection_name(cloud.connection)  # so that it is known here too
    place = str(cloud.emulator.directory)
    driver = subprocess.Popen(
        [sys.executable, "-c", SUBMITTER, str(Path(__file__).parent), place, kind, str(root)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    return Round(cloud, flowdist.attach(driver.stdout.readline().strip(), root), driver, choose)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_nothing_is_lost_doubled_or_left(
    cloud: Cloud, seed: int, tmp_path: Path, undisturbed: pa.Table
) -> None:
    choose = random.Random(seed)
    round_ = started(cloud, list(CONSTRUCTORS)[seed % 3], tmp_path, choose)
    run = round_.run
    try:
        round_.disturb()
        round_.finish()
    finally:
        cloud.emulator.faults.clear()
        if round_.driver is not None:
            round_.driver.kill()
            round_.driver.wait()

    assert run.collect("arrow").equals(undisturbed)
    assert run.table("total")["value"].tolist() == [sum(x * x for x in range(ROWS))]
    run.delete()
    assert left(cloud) == []


def left(cloud: Cloud) -> list[str]:
    """What is on Snowflake: services, tasks, files."""
    with contextlib.closing(cloud.client()) as client:
        return [
            str(row["name"])
            for sql in (
                "SHOW SERVICES IN ACCOUNT",
                "SHOW TASKS IN ACCOUNT",
                "LIST @flowdist.public.runs",
            )
            for row in client.rows(sql)
        ]
