"""The probe job: what it finds on a node, and what is said where it finds nothing in time.

The stand-in for SLURM runs the real script with the real shell, at once, in this machine.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from flowdist.backends.slurm import probe as probes
from flowdist.backends.slurm.plans import Slurm, slurm
from flowdist.backends.slurm.probe import probe
from flowdist.backends.slurm.states import Record
from flowdist.clock import ManualClock
from flowdist.errors import BackendError
from flowdist.preflight import Check


@dataclass
class Node:
    """Runs what is submitted, unless the node is busy or does not see the root."""

    state: str = "COMPLETED"
    reason: str = ""
    busy: bool = False
    blind: bool = False
    refuses: str = ""
    cancelled: list[int] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)

    def submit(self, script: str, *, name: str, known: Collection[int] = ()) -> int:
        if self.refuses:
            raise BackendError(self.refuses)
        self.scripts.append(script)
        if not self.busy:
            self._run(script)
        return 17

    def _run(self, script: str) -> None:
        output = next(line for line in script.splitlines() if "--output=" in line)
        log = Path(output.split('"')[1])
        if self.blind:
            return
        with log.open("w") as file:
            subprocess.run(["bash"], input=script, text=True, stdout=file, stderr=file, check=False)

    def queue(self, name: str) -> list[Record]:
        return [Record(17, None, self.state, self.reason, "n1")]

    def cancel(self, ids: Sequence[int]) -> None:
        self.cancelled += ids


def probed(root: Path, node: Node, *plans: Slurm, clock: ManualClock | None = None) -> list[Check]:
    made = plans or (slurm(root=root),)
    return probe(made, node, clock=clock or ManualClock(1e9), patience=120.0)


def only(checks: list[Check], severity: str) -> Check:
    (found,) = [c for c in checks if c.severity == severity]
    return found


def test_a_node_that_has_all_it_needs_says_so(tmp_path: Path) -> None:
    info = only(probed(tmp_path, Node()), "info")

    assert f"it sees root {tmp_path}, and has flowdist" in info.what


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    probed(tmp_path, Node())

    assert list(tmp_path.iterdir()) == []


def test_a_root_that_is_not_there_yet_is_made(tmp_path: Path) -> None:
    assert only(probed(tmp_path / "new" / "runs", Node(), slurm(root=tmp_path / "new")), "info")


def test_a_python_that_is_not_on_the_node_is_an_error_in_its_words(tmp_path: Path) -> None:
    error = only(probed(tmp_path, Node(), slurm(root=tmp_path, python="/no/python")), "error")

    assert "Python does not start on n" in error.what
    assert "/no/python" in error.what
    assert "python=" in error.remedy


def test_a_python_without_flowdist_is_an_error(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o700)

    error = only(probed(tmp_path, Node(), slurm(root=tmp_path / "r", python=str(bare))), "error")

    assert "flowdist cannot be imported on" in error.what
    assert "No module named 'flowdist'" in error.what


def test_another_version_of_flowdist_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "__version__", "9.9")

    assert only(probed(tmp_path, Node()), "error").what.endswith("this is 9.9")


def test_another_python_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes.platform, "python_version", lambda: "3.99.1")

    assert "this is 3.99.1" in only(probed(tmp_path, Node()), "error").what


def test_a_setup_that_fails_is_an_error_in_its_words(tmp_path: Path) -> None:
    plan = slurm(root=tmp_path, setup=["echo there is no licence; exit 3"])

    error = only(probed(tmp_path, Node(state="FAILED"), plan), "error")

    assert "before it could look: there is no licence" in error.what
    assert "setup=" in error.remedy


def test_a_node_that_does_not_see_the_root_is_an_error_after_a_while(tmp_path: Path) -> None:
    clock = ManualClock(1e9)

    error = only(probed(tmp_path, Node(state="FAILED", blind=True), clock=clock), "error")

    assert "node n1 does not see it or cannot write there" in error.what
    assert probes.LATE_SECONDS <= sum(clock.slept) < probes.PATIENCE_SECONDS


def test_a_job_that_stays_pending_is_given_up_with_the_reason(tmp_path: Path) -> None:
    node, clock = Node(state="PENDING", reason="Priority", busy=True), ManualClock(1e9)

    warning = only(probed(tmp_path, node, clock=clock), "warning")

    assert warning.what.startswith("the probe job 17 was still pending, ")
    assert warning.what.endswith("after 120 s, and was cancelled")
    assert node.cancelled == [17]
    assert sum(clock.slept) < probes.PATIENCE_SECONDS + probes.LONGEST_PAUSE


def test_a_job_that_has_ended_is_not_cancelled(tmp_path: Path) -> None:
    node = Node()

    probed(tmp_path, node)

    assert node.cancelled == []


def test_a_job_that_is_refused_is_an_error_in_slurms_words(tmp_path: Path) -> None:
    error = only(probed(tmp_path, Node(refuses="sbatch failed: Invalid qos")), "error")

    assert error.what == "the probe job was refused: sbatch failed: Invalid qos"


def test_files_that_are_seen_late_are_a_warning(tmp_path: Path) -> None:
    class Slow(ManualClock):
        """On which what the node wrote appears after ten seconds."""

        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if self.time() > 1e9 + 10:
                for hidden in tmp_path.glob(".flowdist-probe-*"):
                    shutil.copytree(tmp_path / "kept", hidden, dirs_exist_ok=True)

    class Elsewhere(Node):
        def _run(self, script: str) -> None:
            super()._run(script)
            (directory,) = tmp_path.glob(".flowdist-probe-*")
            shutil.copytree(directory, tmp_path / "kept")
            for file in directory.iterdir():
                file.unlink()

    warning = probed(tmp_path, Elsewhere(), clock=Slow(1e9))[0]

    assert warning.severity == "warning"
    assert "was seen here" in warning.what


def test_a_clock_that_is_off_is_a_warning(tmp_path: Path) -> None:
    # The node's clock is the machine's, long after the one that is given.
    warning = only(probed(tmp_path, Node(), clock=ManualClock(1e9)), "warning")

    assert warning.what.startswith("the clock of node")


def test_plans_for_the_same_nodes_are_probed_once(tmp_path: Path) -> None:
    node = Node()
    base = slurm(root=tmp_path, partition="batch")

    probed(tmp_path, node, base, slurm(root=tmp_path, partition="batch", memory="8GB"))
    probed(tmp_path, node, base, slurm(root=tmp_path, partition="gpu"))

    assert len(node.scripts) == 3


def test_the_probe_asks_for_little(tmp_path: Path) -> None:
    node = Node()

    probed(tmp_path, node, slurm(root=tmp_path, workers=64, memory="500GB", time="4d", gpus=8))

    (script,) = node.scripts
    for line in ('--cpus-per-task="1"', '--time="0:01:00"', '--gres="gpu:1"'):
        assert line in script
    assert "--mem" not in script
