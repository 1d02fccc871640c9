"""The fixture `fake`: a SLURM in small, first on PATH, whose tasks really run; and what tests do
to it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import fake_state  # noqa: E402

from flowdist.backends.slurm.client import SlurmClient  # noqa: E402
from flowdist.clock import ManualClock  # noqa: E402

COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo", "sacctmgr")


class FakeSlurm:
    """A cluster without jobs in `directory`; `settings` are those of `fake_state.DEFAULTS`."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.directory = directory
        self.bin = directory / "bin"
        self.bin.mkdir(parents=True)
        fake_state.create(str(directory), settings)
        for command in COMMANDS:
            shim = self.bin / command
            shim.write_text(
                f"#!/bin/sh\nexec '{sys.executable}' -S -E '{HERE}/fake_slurm.py' "
                f"'{directory}' {command} \"$@\"\n"
            )
            shim.chmod(0o755)
        self._controller: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the controller: from now on tasks run."""
        program = [sys.executable, "-S", "-E", str(HERE / "fake_controller.py")]
        with (self.directory / "controller.log").open("ab") as log:
            self._controller = subprocess.Popen(
                [*program, str(self.directory)], stdout=log, stderr=log, start_new_session=True
            )

    def stop(self) -> None:
        """End the controller and every task."""
        (self.directory / "stop").touch()
        if self._controller is not None:
            try:
                self._controller.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._controller.kill()
                self._controller.wait()
        for array in fake_state.read(str(self.directory))["arrays"].values():
            for task in array["tasks"].values():
                if task["pid"]:
                    with suppress(ProcessLookupError):
                        os.killpg(task["pid"], signal.SIGKILL)

    # What was called

    def calls(self, command: str | None = None) -> int:
        """How often a command was called, or all of them."""
        return len(self.arguments(command))

    def arguments(self, command: str | None = None) -> list[list[str]]:
        """The arguments of each call of a command so far."""
        log = self.directory / "calls.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [words[1:] for words in map(json.loads, lines) if command in (None, words[0])]

    # What goes wrong

    def fail(self, command: str, text: str, times: int = 1) -> None:
        """The next calls of `command` do nothing, and say `text`."""
        self._fault(command, times=times, text=text, works=False, hangs=False)

    def fail_after(self, command: str, text: str, times: int = 1) -> None:
        """The next calls of `command` work, but report a failure."""
        self._fault(command, times=times, text=text, works=True, hangs=False)

    def hang(self, command: str, times: int = 1) -> None:
        """The next calls of `command` do nothing, and never end."""
        self._fault(command, times=times, text="", works=False, hangs=True)

    def hang_after(self, command: str, times: int = 1) -> None:
        """The next calls of `command` work, and never end."""
        self._fault(command, times=times, text="", works=True, hangs=True)

    def _fault(self, command: str, **fault: Any) -> None:
        with fake_state.shared(str(self.directory)) as data:
            data["faults"].setdefault(command, []).append(fault)

    def set(self, **settings: Any) -> None:
        """Change settings: `accounting="off"`, `accounting_lag=5`, `slots=1`, ..."""
        unknown = set(settings) - set(fake_state.DEFAULTS)
        if unknown:
            raise ValueError(f"the fake has no setting {sorted(unknown)}")
        with fake_state.shared(str(self.directory)) as data:
            data.update(settings)

    def hold(self, reason: str) -> None:
        """Nothing starts from now on, for SLURM's `reason`; `release` lets things go on."""
        self.set(held=reason)

    def release(self) -> None:
        with fake_state.shared(str(self.directory)) as data:
            data["held"] = ""
            for array in data["arrays"].values():
                array["held"] = ""

    def kill(
        self, array: int, task: int, state: str, *, step: str = "", memory: str = "10240K"
    ) -> None:
        """Kill a running task, which then is in SLURM's state `state`, as "OUT_OF_MEMORY".

        After NODE_FAIL and PREEMPTED it is requeued, where its script allows that. `step` is the
        state of its step, where that differs; `memory` is what the step used.
        """
        requeue = state in ("NODE_FAIL", "PREEMPTED")
        kill = {"state": state, "signal": int(signal.SIGKILL), "requeue": requeue}
        kill |= {"step": step, "memory": memory}
        with fake_state.shared(str(self.directory)) as data:
            found = data["arrays"][str(array)]["tasks"][str(task)]
            if not found["pid"]:
                raise ValueError(f"{array}_{task} does not run: it is {found['state']}")
            found["kill"] = kill

    def forget(self, array: int) -> None:
        """Neither queue nor accounting knows this array any more."""
        with fake_state.shared(str(self.directory)) as data:
            del data["arrays"][str(array)]

    # What there is

    def arrays(self) -> list[int]:
        """The ids of all arrays that were ever taken, in order."""
        return sorted(map(int, fake_state.read(str(self.directory))["arrays"]))

    def array(self, number: int) -> dict[str, Any]:
        """Everything that is known of an array; `["asked"]` are its directives."""
        found: dict[str, Any] = fake_state.read(str(self.directory))["arrays"][str(number)]
        return found

    def states(self, number: int) -> dict[int, str]:
        """SLURM's states of the tasks of an array."""
        return {int(index): t["state"] for index, t in self.array(number)["tasks"].items()}

    def task(self, number: int, index: int) -> dict[str, Any]:
        """Everything that is known of a task."""
        found: dict[str, Any] = self.array(number)["tasks"][str(index)]
        return found

    def add(
        self,
        name: str,
        *,
        done: Iterable[int] = (),
        running: Iterable[int] = (),
        pending: Iterable[int] = (),
        failed: Iterable[int] = (),
        state: str = "FAILED",
    ) -> int:
        """An array that is there without having been submitted; nothing of it ever runs.

        `state` is that of the tasks in `failed`. Returns its id.
        """
        now = time.time()
        ended = {"start": now - 60, "end": now - 1, "node": "n1"}
        make = fake_state.new_task
        tasks = {str(i): make("COMPLETED", changed=now - 1, **ended) for i in done}
        tasks |= {str(i): make(state, changed=now - 1, exit=1, **ended) for i in failed}
        tasks |= {str(i): make("RUNNING", start=now - 60, node="n1", changed=0) for i in running}
        tasks |= {str(i): make(reason="Priority", changed=0) for i in pending}
        with fake_state.shared(str(self.directory)) as data:
            number: int = data["next_id"]
            data["next_id"] += len(tasks) + 1
            data["arrays"][str(number)] = {
                "id": number, "live": False, "name": name, "partition": "debug",
                "account": "lab", "qos": "normal", "submitted": now - 120, "is_array": True,
                "throttle": 0, "dependency": [], "kill_on_invalid_dep": False, "requeue": True,
                "held": "", "cpus": 1, "memory": "1G", "time": "60", "limit_seconds": None,
                "output": "/dev/null", "append": True, "directory": "/", "environment": {},
                "asked": {}, "tasks": tasks,
            }  # fmt: skip
        return number

    # Waiting

    def wait(self, condition: Callable[[], object], timeout: float = 30.0) -> None:
        """Return when `condition()` is true; a test fails where that takes too long."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                log = (self.directory / "controller.log").read_text()
                raise AssertionError(f"the fake cluster did not come so far: {self.told()}\n{log}")
            time.sleep(0.01)

    def wait_for(self, number: int, *states: str) -> None:
        """Return when every task of an array is in one of `states`."""
        self.wait(lambda: set(self.states(number).values()) <= set(states))

    def told(self) -> dict[int, dict[int, str]]:
        """The states of everything, for messages."""
        return {number: self.states(number) for number in self.arrays()}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    """A SLURM in small on PATH, gone with all its tasks when the test ends."""
    cluster = FakeSlurm(tmp_path / "fake-slurm")
    monkeypatch.setenv("PATH", f"{cluster.bin}{os.pathsep}{os.environ['PATH']}")
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]:
        monkeypatch.delenv(name)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()


# What tests of it share ----------------------------------------------------------------------

NAME = "demo-1"


def script(
    body: str = "true", *, array: str | None = "0-3", name: str = NAME, **options: str
) -> str:
    """A batch script; `options` are directives, with _ for -."""
    given = {"job-name": name, "output": "/dev/null", **options}
    if array is not None:
        given["array"] = array
    lines = [f'#SBATCH --{key.replace("_", "-")}="{value}"' for key, value in given.items()]
    return "\n".join(["#!/bin/sh", *lines, body, ""])


def client(timeout: float = 20.0, seed: int = 1) -> SlurmClient:
    """A client that waits between its tries without taking time."""
    return SlurmClient(ManualClock(time.time()), timeout=timeout, seed=seed)


def replace(fake: FakeSlurm, command: str, body: str) -> None:
    """Have a command do something of the test's own."""
    (fake.bin / command).write_text(f"#!/bin/sh\n{body}\n")
