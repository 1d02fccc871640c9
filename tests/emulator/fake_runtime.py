"""A runtime whose containers do what a test says, in the time of a manual clock."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from flowdist.clock import Clock, ManualClock
from flowdist.emulator.account import Account, Settings
from flowdist.emulator.compute.containers import ContainerState, Launch, Status
from flowdist.emulator.names import FullName
from flowdist.emulator.statements import SCALARS, TABLES, Context


class FakeRuntime:
    """Containers run until :meth:`exit` or a stop, which they obey after ``obeys`` seconds.

    A command ``("exit", "3")`` ends at once with that code. It remembers by directory, as real
    runtimes do, so that another server may go on with it.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.launches: list[Launch] = []
        self.states: dict[Path, ContainerState] = {}
        self.stops: dict[Path, float] = {}
        self.obeys: float | None = 0.0

    def start(self, launch: Launch) -> None:
        self.launches.append(launch)
        now = self.clock.time()
        self.states[launch.directory] = ContainerState(Status.RUNNING, started=now)
        if launch.command[:1] == ("exit",):
            self.exit(launch.directory, int(launch.command[1]))

    def state(self, directory: Path) -> ContainerState | None:
        end = self.stops.get(directory)
        if directory in self.states and end is not None and self.clock.time() >= end:
            self.exit(directory, 143 if self.obeys is not None else 137, "Stopped")
        return self.states.get(directory)

    def stop(self, directory: Path, grace: float = 30.0) -> None:
        delay = grace if self.obeys is None else self.obeys
        self.stops[directory] = self.clock.time() + delay

    def kill(self, directory: Path) -> None:
        self.exit(directory, 137, "Stopped")

    def forget(self, directory: Path) -> None:
        self.states.pop(directory, None)

    def exit(self, directory: Path, code: int, reason: str = "") -> None:
        """A container ends, where it has not yet."""
        state = self.states[directory]
        if not state.status.ended:
            now = self.clock.time()
            self.states[directory] = replace(
                state, status=Status.EXITED, exit_code=code, ended=now, reason=reason
            )

    def running(self) -> list[Launch]:
        """What runs, in the order of its start."""
        return [one for one in self.launches if not self.states[one.directory].status.ended]


class Lab:
    """An account whose compute pools go by a manual clock and a runtime that does as it is told.

    Its pool P has nodes of CPU_X64_S: 3 vCPU and 13 GiB, at the most two. The image ``/flowdist/
    public/repo/wait:1`` runs until it is told to exit, ``ok:1`` and ``bad:1`` exit at once.
    """

    def __init__(self, directory: Path, settings: Settings | None = None) -> None:
        self.directory = directory
        self.settings = settings or Settings()
        self.clock = ManualClock(1_800_000_000.0)
        self.runtime = FakeRuntime(self.clock)
        self.account = self._open()
        self.account.catalog.create(
            "image repository", FullName("FLOWDIST", "PUBLIC", "REPO"), owner="FLOWDIST_ROLE"
        )
        for name, command in (("wait", ["wait"]), ("ok", ["exit", "0"]), ("bad", ["exit", "3"])):
            self.account.images.push(f"/flowdist/public/repo/{name}:1", entrypoint=command)
        self.sql("CREATE COMPUTE POOL p MIN_NODES=1 MAX_NODES=2 INSTANCE_FAMILY=CPU_X64_S")
        self.tick()

    def _open(self) -> Account:
        account = Account(self.directory, self.settings, self.clock)
        account.url = "http://127.0.0.1:1"
        account.compute.runtime = self.runtime
        self.session = account.open_session(
            "FLOWDIST",
            "FLOWDIST_ROLE",
            database="FLOWDIST",
            schema="PUBLIC",
            warehouse="FLOWDIST_WH",
        )
        return account

    def restart(self) -> None:
        """Another server takes over the directory of one that was killed."""
        self.account = self._open()

    def sql(self, text: str, *binds: object) -> list[dict[str, Any]]:
        """The rows of a statement by the names of their columns."""
        result = self.account.execute(self.session, text, binds)
        return [
            dict(zip([c.name for c in result.columns], row, strict=True)) for row in result.rows()
        ]

    def one(self, text: str, *binds: object) -> dict[str, Any]:
        """The only row of a statement."""
        (row,) = self.sql(text, *binds)
        return row

    def tick(self, seconds: float = 0.0) -> None:
        """Let time go by, and the pools take a turn."""
        self.clock.advance(seconds)
        self.account.compute.tick()

    def context(self) -> Context:
        """What functions are called with."""
        query, _ = self.account.query(self.session, "SELECT")
        return Context(self.account, self.session, query)

    def call(self, name: str, *args: Any) -> Any:
        """The value of a function or method, called without the SQL engine."""
        return SCALARS[name](self.context(), *args)

    def table(self, name: str, *args: Any, **named: Any) -> list[dict[str, Any]]:
        """The rows of a table function, the same way."""
        result = TABLES[name](self.context(), *args, **named)
        return [
            dict(zip([c.name for c in result.columns], row, strict=True)) for row in result.rows()
        ]

    def status(self, name: str = "j") -> str:
        """The status of a service."""
        return str(self.one(f"DESCRIBE SERVICE {name}")["status"])

    def containers(self, name: str = "j") -> list[dict[str, Any]]:
        """The containers of a service."""
        return self.sql(f"SHOW SERVICE CONTAINERS IN SERVICE {name}")

    def job(self, image: str = "wait", more: str = "ASYNC=TRUE", **request: object) -> str:
        """Start a job; what the statement answers. `request` is what its container requests."""
        text = f"EXECUTE JOB SERVICE IN COMPUTE POOL p NAME=j {more} {spec(image, **request)}"
        return str(self.one(text)["status"])


def spec(image: str = "wait", **request: object) -> str:
    """FROM SPECIFICATION with one container; `request` is what it requests."""
    made = {
        "name": "main",
        "image": f"/flowdist/public/repo/{image}:1",
        "resources": {"requests": request},
    }
    return f"FROM SPECIFICATION $${json.dumps({'spec': {'containers': [made]}})}$$"
