"""The fixtures of the SLURM tests: `lab` and `lab_alone` run on a real cluster, `fake` on programs
that play one.

The real cluster is the one that `labs/slurm` starts on this machine; several pytest processes share
it. With FLOWDIST_SLURM_CLUSTER=1 it is whatever cluster `sbatch` reaches, which nothing disturbs.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

SCRIPT = Path(__file__).parents[2] / "labs" / "slurm"
PATIENCE = 900.0  # seconds: for other tests to end, and for packages to be installed
LIMIT = 300.0  # seconds for one test, without what it waits for the cluster


class Lab:
    """A cluster that tests may use; `script` is what disturbs it, None where nothing may."""

    def __init__(self, script: Path | None) -> None:
        self.script = script
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
        if self.script is None:
            pytest.skip("would disturb the cluster of FLOWDIST_SLURM_CLUSTER")
        return command(str(self.script), *arguments)

    def wait(self, condition: Callable[[], object], what: str, timeout: float = 90.0) -> None:
        """Return when `condition()` is true; a test fails where that takes too long."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                queue = command("squeue", "-o", "%i %j %T %r %N")
                raise AssertionError(f"not within {timeout:g} s: {what}\n{queue}")
            time.sleep(0.1)


def command(*words: str, stdin: str | None = None) -> str:
    """What a program prints; where it fails, an error with what it said."""
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode:
        raise AssertionError(
            f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done.stdout


# Who may use it, and when -----------------------------------------------------------------------

LOCKS = Path(tempfile.gettempdir()) / "-".join(
    ["flowdist-lab", str(os.getuid()), *Path(os.environ.get("FLOWDIST_LAB", "")).parts[1:]]
)  # of each lab its own


@contextmanager
def held(name: str, how: int) -> Iterator[IO[bytes]]:
    """A lock among all processes on this machine that test; `how` is LOCK_SH or LOCK_EX."""
    LOCKS.mkdir(mode=0o700, exist_ok=True)
    with (LOCKS / name).open("wb") as file:
        deadline = time.monotonic() + PATIENCE
        while not taken(file, how):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{LOCKS / name} was held for {PATIENCE:g} s by other tests")
            time.sleep(0.02)
        yield file


def taken(file: IO[bytes], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def turn(how: int) -> Iterator[None]:
    """The cluster, shared or alone. Through the gate one at a time: who waits to be alone holds it,
    so that those who share cannot keep the cluster for ever.
    """
    with held("gate", fcntl.LOCK_EX) as gate, held("cluster", how):
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield


# Fixtures ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cluster() -> Iterator[Lab]:
    """The cluster, started if need be. The last session that uses a lab that tests started ends
    it; one that was there before stays.
    """
    if os.environ.get("FLOWDIST_SLURM_CLUSTER", "") not in ("", "0"):
        yield Lab(None)
        return
    with held("users", fcntl.LOCK_SH) as users:
        done = subprocess.run([SCRIPT, "start", "temporary"], capture_output=True, text=True)
        if done.returncode:
            give_up(done.stderr)
        with pytest.MonkeyPatch.context() as patch:
            clean_environment(patch)
            yield Lab(SCRIPT)
        if taken(users, fcntl.LOCK_EX):
            command(str(SCRIPT), "stop", "temporary")


def give_up(why: str) -> None:
    """A skip, which in CI would go unnoticed."""
    if os.environ.get("CI", "") not in ("", "0", "false"):
        pytest.fail(f"the SLURM lab does not start:\n{why}", pytrace=False)
    pytest.skip(f"no SLURM lab: {why.strip().splitlines()[-1]}")


def clean_environment(patch: pytest.MonkeyPatch) -> None:
    """The variables of the lab, and none of a job that the tests may be running in."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]:
        patch.delenv(name)
    assignment = command(str(SCRIPT), "env").strip().removeprefix("export SLURM_CONF=")
    patch.setenv("SLURM_CONF", assignment.strip("'"))


@pytest.fixture
def lab(cluster: Lab) -> Iterator[Lab]:
    """A running cluster, shared with other tests."""
    with turn(fcntl.LOCK_SH):
        yield cluster


@pytest.fixture
def lab_alone(cluster: Lab) -> Iterator[Lab]:
    """A running cluster for one test alone, which may disturb it; it is healed and idle after."""
    if cluster.script is None:
        pytest.skip("would disturb the cluster of FLOWDIST_SLURM_CLUSTER")
    with turn(fcntl.LOCK_EX):
        cluster.heal()
        try:
            yield cluster
        finally:
            cluster.heal()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on the cluster are marked, and have time enough, not counting the wait for it."""
    for item in items:
        if {"lab", "lab_alone"}.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slurm)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(LIMIT, func_only=True))
