"""The fixtures of the SLURM tests: `lab` and `lab_alone` run on a real cluster, `fake` on programs
that play one.

The real cluster is the one that `labs/slurm` starts on this machine; several pytest processes share
it. Who disturbs a cluster does so to another lab beside it, one test at a time, so that the others
need not wait. With FLOWDIST_SLURM_CLUSTER=1 the shared one is whatever cluster `sbatch` reaches.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

import pytest

SCRIPT = Path(__file__).parents[2] / "labs" / "slurm"
PATIENCE = 900.0  # seconds: for other tests to end, and for packages to be installed
LIMIT = 300.0  # seconds for one test, without what it waits for the cluster


class Lab:
    """A cluster that tests may use; `place` is where its lab is, None where it is not a lab."""

    def __init__(self, place: Place | None) -> None:
        self.place = place
        self.nodes = sorted(set(command("sinfo", "-h", "-N", "-o", "%N").split()))

    def down(self, node: str, *, noticed: bool = False) -> None:
        """Everything on a node dies at once. SLURM sees it within 40 s, or knows it at once."""
        self.run("down", node, *["noticed"] * noticed)

    def up(self, node: str) -> None:
        """A node that was down boots: what ran on it before is lost."""
        self.run("up", node)

    def stop_controller(self) -> None:
        """From now on no command but sacct gets an answer; jobs go on."""
        self.run("stop-controller")

    def start_controller(self) -> None:
        self.run("start-controller")

    def restart_controller(self) -> None:
        self.run("restart-controller")

    def stop_accounting(self) -> None:
        """From now on sacct fails; all else works."""
        self.run("stop-accounting")

    def start_accounting(self) -> None:
        self.run("start-accounting")

    def heal(self) -> None:
        """All daemons run, all nodes serve, no job is left."""
        self.run("start", "temporary")
        self.run("clear")

    def run(self, *arguments: str) -> str:
        """What `labs/slurm` prints; an error where it fails."""
        assert self.place is not None
        return self.place.run(*arguments)

    def wait(self, condition: Callable[[], object], what: str, timeout: float = 90.0) -> None:
        """Return when `condition()` is true; a test fails where that takes too long."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                queue = command("squeue", "-o", "%i %j %T %r %N")
                raise AssertionError(f"not within {timeout:g} s: {what}\n{queue}")
            time.sleep(0.1)


def command(
    *words: str, stdin: str | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """What a program prints; where it fails, an error with what it said."""
    done = subprocess.run(
        words,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode:
        raise AssertionError(
            f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done.stdout


# Where labs are ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A lab that tests start: its environment, and the locks of those that use it."""

    environment: Mapping[str, str]

    @classmethod
    def beside(cls) -> Place:
        """Next to the one that is shared."""
        directory = os.environ.get("FLOWDIST_LAB", "/var/lib/flowdist-lab") + "-alone"
        port = int(os.environ.get("FLOWDIST_LAB_PORT", "17000")) + 100
        return cls({"FLOWDIST_LAB": directory, "FLOWDIST_LAB_PORT": str(port)})

    def run(self, *arguments: str) -> str:
        """What `labs/slurm` prints; an error where it fails."""
        return command(str(SCRIPT), *arguments, environment=self.environment)

    @contextmanager
    def held(self, name: str, how: int) -> Iterator[IO[bytes]]:
        """A lock among all processes on this machine that test; `how` is LOCK_SH or LOCK_EX."""
        own = Path(self.environment.get("FLOWDIST_LAB") or os.environ.get("FLOWDIST_LAB", ""))
        locks = Path(tempfile.gettempdir()) / "-".join(
            ["flowdist-lab", str(os.getuid()), *own.parts[1:]]
        )
        locks.mkdir(mode=0o700, exist_ok=True)
        with (locks / name).open("wb") as file:
            deadline = time.monotonic() + PATIENCE
            while not taken(file, how):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{locks / name} was held for {PATIENCE:g} s by other tests")
                time.sleep(0.02)
            yield file

    @contextmanager
    def started(self) -> Iterator[Lab]:
        """The lab, started if need be. The last session that uses a lab that tests started ends it;
        one that was there before stays.
        """
        with self.held("users", fcntl.LOCK_SH) as users:
            try:
                self.run("start", "temporary")
            except AssertionError as error:
                give_up(str(error))
            with pytest.MonkeyPatch.context() as patch:
                self.enter(patch)
                lab = Lab(self)
            yield lab
            if taken(users, fcntl.LOCK_EX):
                self.run("stop", "temporary")

    def enter(self, patch: pytest.MonkeyPatch) -> None:
        """The variables of the lab, and none of a job that the tests may be running in."""
        for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]:
            patch.delenv(name)
        assignment = self.run("env").strip().removeprefix("export SLURM_CONF=")
        patch.setenv("SLURM_CONF", assignment.strip("'"))


def taken(file: IO[bytes], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def give_up(why: str) -> NoReturn:
    """A skip, which in CI would go unnoticed."""
    if os.environ.get("CI", "") not in ("", "0", "false"):
        pytest.fail(f"the SLURM lab does not start:\n{why}", pytrace=False)
    pytest.skip(f"no SLURM lab: {why.strip().splitlines()[-1]}")


# Fixtures ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cluster() -> Iterator[Lab]:
    """The cluster that all tests share."""
    if os.environ.get("FLOWDIST_SLURM_CLUSTER", "") not in ("", "0"):
        yield Lab(None)
        return
    with Place({}).started() as lab:
        yield lab


@pytest.fixture(scope="session")
def cluster_alone() -> Iterator[Lab]:
    """The cluster that one test at a time may disturb."""
    with Place.beside().started() as lab:
        yield lab


@pytest.fixture
def lab(cluster: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A running cluster, shared with other tests."""
    if cluster.place is not None:
        cluster.place.enter(monkeypatch)
    return cluster


@pytest.fixture
def lab_alone(cluster_alone: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A running cluster for one test alone, which may disturb it; it is healed and idle after."""
    place = cluster_alone.place
    assert place is not None
    with place.held("alone", fcntl.LOCK_EX):
        place.enter(monkeypatch)
        cluster_alone.heal()
        try:
            yield cluster_alone
        finally:
            cluster_alone.heal()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on the cluster are marked, and have time enough, not counting the wait for it."""
    for item in items:
        if {"lab", "lab_alone"}.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slurm)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(LIMIT, func_only=True))
