"""Task graphs that run when the server ends, and go on with the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowdist.clock import SystemClock
from flowdist.emulator.account import Account
from tests.emulator.fake_runtime import FakeRuntime
from tests.emulator.task_lab import Lab

JOB = """EXECUTE JOB SERVICE IN COMPUTE POOL p FROM SPECIFICATION $$
spec:
  containers:
  - name: main
    image: /flowdist/public/images/i:1
$$"""

KILLED = """
import sys, time
from pathlib import Path
from flowdist.emulator.account import Account
from tests.emulator.task_lab import Lab

account = Account(Path(sys.argv[1]))
account.start()
lab = Lab(account)
lab.gate("b")
lab.sql("CREATE TASK r TASK_AUTO_RETRY_ATTEMPTS = 1 AS SELECT 1")
lab.sql("CREATE TASK a AFTER r AS SELECT SYSTEM$SET_RETURN_VALUE('kept')")
lab.sql("CREATE TASK b AFTER r AS SELECT SYSTEM$LAB_HOLD('b')")
lab.sql("CREATE TASK c AFTER a, b AS SELECT SYSTEM$GET_PREDECESSOR_RETURN_VALUE('A')")
lab.sql("CREATE TASK f FINALIZE = r AS SELECT 1")
lab.resume("a", "b", "c", "f")
lab.sql("EXECUTE TASK r")
lab.sql("EXECUTE TASK r")
lab.wait(lambda: lab.states() == {"R": "SUCCEEDED", "A": "SUCCEEDED", "B": "EXECUTING"})
lab.wait(lambda: lab.history("b")[0]["QUERY_ID"])
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime(SystemClock())


class Servers:
    """One server after the other on a directory."""

    def __init__(self, directory: Path, runtime: FakeRuntime) -> None:
        self.directory, self.runtime = directory, runtime
        self.account: Account | None = None

    def next(self) -> Lab:
        """End the server that there is, and start another."""
        self.end()
        self.account = Account(self.directory)
        self.account.compute.runtime = self.runtime
        self.account.url = "http://127.0.0.1:1"
        self.account.start()
        return Lab(self.account)

    def end(self) -> None:
        if self.account is not None:
            self.account.close()


@pytest.fixture
def servers(tmp_path: Path, runtime: FakeRuntime) -> Iterator[Servers]:
    made = Servers(tmp_path / "account", runtime)
    yield made
    made.end()


def started(servers: Servers) -> Lab:
    """The job J and K after it, with the job running."""
    lab = servers.next()
    lab.sql("CREATE COMPUTE POOL p MIN_NODES = 1 MAX_NODES = 1 INSTANCE_FAMILY = CPU_X64_XS")
    lab.sql("CREATE IMAGE REPOSITORY images")
    lab.account.images.push(
        "/flowdist/public/images/i:1",
        entrypoint=["true"],
        cmd=[],
        env={},
        working_directory="/",
        user="",
        architecture="amd64",
    )
    lab.sql(f"CREATE TASK j AS {JOB}")
    lab.sql("CREATE TASK k AFTER j AS SELECT SYSTEM$GET_PREDECESSOR_RETURN_VALUE()")
    lab.resume("k")
    lab.sql("EXECUTE TASK j")
    lab.wait(servers.runtime.running)
    return lab


def test_a_job_is_waited_for_by_the_next_server(servers: Servers, runtime: FakeRuntime) -> None:
    first = started(servers)
    job = first.history()[0]["SPCS_JOB_ID"]
    lab = servers.next()
    assert lab.states() == {"J": "EXECUTING"}
    runtime.exit(runtime.running()[0].directory, 0)
    lab.idle()
    assert lab.states() == {"J": "SUCCEEDED", "K": "SUCCEEDED"}
    assert [row["SPCS_JOB_ID"] for row in lab.history()] == [job, None]
    assert len(runtime.launches) == 1


def test_a_job_that_ended_meanwhile_ends_its_task(servers: Servers, runtime: FakeRuntime) -> None:
    started(servers)
    servers.account.close()  # type: ignore[union-attr]
    runtime.exit(runtime.running()[0].directory, 3)
    lab = servers.next()
    lab.idle()
    (row,) = lab.history()
    assert row["STATE"] == "FAILED"
    assert "exited with code 3" in row["ERROR_MESSAGE"]


def test_a_job_that_was_taken_over_can_be_cancelled(servers: Servers, runtime: FakeRuntime) -> None:
    started(servers)
    lab = servers.next()
    lab.wait(lambda: lab.account.tasks.active)
    assert "Marked 1 task runs" in lab.call("SYSTEM$USER_TASK_CANCEL_ONGOING_EXECUTIONS", "j")
    lab.idle()
    assert lab.states() == {"J": "CANCELLED"}
    lab.wait(lambda: not runtime.running())


def test_a_container_of_a_task_knows_its_run(servers: Servers, runtime: FakeRuntime) -> None:
    lab = started(servers)
    (service,) = lab.account.catalog.all("service")
    inside = Lab(lab.account)
    inside.session.service = str(service.full_name)
    assert inside.call("SYSTEM$TASK_RUNTIME_INFO", "CURRENT_ROOT_TASK_NAME") == "J"
    assert inside.call("SYSTEM$CURRENT_USER_TASK_NAME") == "FLOWDIST.PUBLIC.J"
    inside.call("SYSTEM$SET_RETURN_VALUE", "from the container")
    runtime.exit(runtime.running()[0].directory, 0)
    lab.idle()
    assert lab.history("j")[0]["RETURN_VALUE"] == "from the container"
    assert lab.states()["K"] == "SUCCEEDED"


def test_a_body_that_had_not_begun_begins_with_the_next_server(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = servers.next()
    first.sql("CREATE TASK t AS SELECT 1")
    monkeypatch.setattr(first.account.tasks.workers, "submit", lambda work: None)
    first.sql("EXECUTE TASK t")
    lab = servers.next()
    lab.idle()
    assert [(row["STATE"], row["ATTEMPT_NUMBER"]) for row in lab.history()] == [("SUCCEEDED", 1)]


def test_the_job_of_a_script_that_was_cut_off_is_cancelled(
    servers: Servers, runtime: FakeRuntime
) -> None:
    lab = started(servers)
    runtime.exit(runtime.running()[0].directory, 0)
    lab.idle()
    lab.sql(f"CREATE TASK s AS BEGIN {JOB}; SELECT 1; END")
    lab.sql("EXECUTE TASK s")
    lab.wait(runtime.running)
    lab = servers.next()
    lab.idle()
    assert lab.states()["S"] == "FAILED"
    lab.wait(lambda: not runtime.running())
    last = max(lab.account.compute.store.services.values(), key=lambda one: one.id)
    lab.wait(lambda: last.status == "CANCELLED")


def test_a_job_with_a_name_is_waited_for_and_keeps_its_name(
    servers: Servers, runtime: FakeRuntime
) -> None:
    lab = started(servers)
    runtime.exit(runtime.running()[0].directory, 0)
    lab.idle()
    lab.sql(f"CREATE TASK n AS {JOB.replace('POOL p', 'POOL p NAME = named')}")
    lab.sql("EXECUTE TASK n")
    lab.wait(runtime.running)
    lab = servers.next()
    runtime.exit(runtime.running()[0].directory, 0)
    lab.idle()
    assert lab.states()["N"] == "SUCCEEDED"
    lab.execute("n")
    assert lab.history("n")[-1]["ERROR_CODE"] == 2002
    lab.sql("DROP SERVICE named")
    lab.sql("EXECUTE TASK n")
    lab.wait(runtime.running)
    runtime.exit(runtime.running()[0].directory, 0)
    lab.idle()
    assert lab.states()["N"] == "SUCCEEDED"


@pytest.mark.fault
def test_a_killed_server_leaves_a_graph_that_the_next_one_retries(tmp_path: Path) -> None:
    directory = tmp_path / "account"
    server = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    os.kill(server.pid, signal.SIGKILL)
    server.wait()

    account = Account(directory)
    lab = Lab(account)
    lab.gate("b").set()
    account.start()
    try:
        lab.wait(lambda: len(lab.history("f")) == 3 and not account.tasks.active)
        runs = [(r["ATTEMPT_NUMBER"], r["NAME"], r["STATE"]) for r in lab.history()]
        assert runs[:3][0] == (1, "R", "SUCCEEDED")
        assert sorted(runs[1:3]) == [(1, "A", "SUCCEEDED"), (1, "B", "FAILED")]
        lost = next(row for row in lab.history("b") if row["STATE"] == "FAILED")
        assert lost["ERROR_MESSAGE"] == "The server was restarted while the task was running."
        assert runs[3:6] == [
            (1, "F", "SUCCEEDED"),
            (2, "B", "SUCCEEDED"),
            (2, "C", "SUCCEEDED"),
        ]
        # The run that waited came after all attempts of the first.
        assert [run[1] for run in runs[6:8]] == ["F", "R"]
        assert len({row["GRAPH_RUN_GROUP_ID"] for row in lab.history()}) == 2
        assert lab.shown("r")["state"] == "suspended"
    finally:
        account.close()
