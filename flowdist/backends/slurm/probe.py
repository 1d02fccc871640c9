"""A probe job: a look from a node at what a run will need there.

One tiny job looks whether the root is visible and writable, whether the Python starts and has the
same flowdist; here it is watched whether what it writes appears, and how late. It tells by files in
a directory of its own in the root, which is removed in the end.
"""

from __future__ import annotations

import json
import platform
import secrets
import shlex
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from flowdist import __version__
from flowdist.backends.base import JobState
from flowdist.backends.slurm.plans import Slurm
from flowdist.backends.slurm.script import literal, sbatch_script
from flowdist.backends.slurm.states import Record, job_state, plain_reason
from flowdist.clock import Clock, SystemClock
from flowdist.errors import BackendError
from flowdist.preflight.check import Check
from flowdist.resources import Resources
from flowdist.settings import default_root

__all__ = ["PATIENCE_SECONDS", "Prober", "probe"]

PATIENCE_SECONDS = 120.0
# What a node wrote is seen here within this time, or the filesystem is not one to rely on; where
# the output of the job is seen, the rest is not far behind.
LATE_SECONDS, LATE_AFTER_LOG = 30.0, 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
# Leases and time limits compare clocks of several machines.
CLOCK_SECONDS = 10.0

# What a job needs to be let in like those of the run; the rest would only keep it waiting.
_SAME = (
    "partition", "account", "qos", "constraint", "reservation", "gres", "setup", "modules",
    "environment", "python", "extra",
)  # fmt: skip

_LOOK = """
import json, platform, sys, time
try:
    import flowdist
    found = {"flowdist": flowdist.__version__}
except BaseException as error:
    found = {"error": f"{type(error).__name__}: {error}"}
print(json.dumps({**found, "python": platform.python_version(), "time": time.time()}))
"""


class Prober(Protocol):
    """What is asked of SLURM; `SlurmClient` answers."""

    def submit(self, script: str, *, name: str, known: Collection[int] = ()) -> int: ...
    def queue(self, name: str) -> list[Record]: ...
    def cancel(self, ids: Sequence[int]) -> None: ...


def probe(
    plans: Sequence[Slurm],
    client: Prober,
    *,
    clock: Clock | None = None,
    patience: float = PATIENCE_SECONDS,
) -> list[Check]:
    """What jobs of the plans find on a node: one job, of `patience` seconds, for all plans that
    would run on the same nodes in the same way.

    A job that does not start or end in that time is cancelled. Nothing is raised that SLURM says.
    """
    different = {tuple(repr(getattr(plan, key)) for key in _SAME): plan for plan in plans}
    return [
        check
        for plan in different.values()
        for check in _probe_one(plan, client, clock or SystemClock(), patience)
    ]


def _probe_one(plan: Slurm, client: Prober, clock: Clock, patience: float) -> list[Check]:
    root = Path(plan.root).expanduser().absolute() if plan.root else default_root()
    name = f"flowdist-probe-{secrets.token_hex(4)}"
    directory = root / f".{name}"
    try:
        directory.mkdir(mode=0o700, parents=True)
        (directory / "here").write_text(name)
    except OSError as error:
        return [Check("probe", "error", f"root {root}: {error.strerror}", "choose another root=")]
    try:
        return _Probe(directory, name, client, clock, patience).run(plan)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def probe_script(plan: Slurm, name: str, directory: Path) -> str:
    """The script of the probe job: in the partition and with the setup of the run's jobs."""
    fields = {key: getattr(plan, key) for key in _SAME}
    gpus = None if plan.gres else min(plan.resources.gpus or 0, 1) or None
    asked = Resources(time=60, gpus=gpus)
    small = Slurm(**fields, workers=1, resources=asked, requeue=False)
    where, python = shlex.quote(str(directory)), shlex.quote(plan.python or sys.executable)
    look = f"""
cd {where} || exit 41
test -r here || exit 42
echo "${{SLURMD_NODENAME:-$(hostname)}}" > node || exit 43
{python} -c {shlex.quote(_LOOK)} > python 2> error
echo $? > done
"""
    output = literal(str(directory / "log"))
    return sbatch_script(small, name=name, command=["/bin/sh", "-c", look], output=output)


@dataclass
class _Probe:
    """The probe while it is watched."""

    directory: Path
    name: str
    client: Prober
    clock: Clock
    patience: float
    record: Record | None = None
    ended: bool = False
    """Whether SLURM says that the job has ended."""
    late: float = 0.0
    """Seconds from then until its files were seen."""
    question: str = ""
    """What SLURM said instead of an answer."""
    checks: list[Check] = field(default_factory=list)

    def run(self, plan: Slurm) -> list[Check]:
        began = self.clock.time()
        try:
            job = self.client.submit(probe_script(plan, self.name, self.directory), name=self.name)
        except BackendError as error:
            return [Check("probe", "error", f"the probe job was refused: {error}")]
        try:
            self._watch()
        finally:
            if not self.ended:
                with suppress(BackendError):
                    self.client.cancel([job])
        if not self.ended and not self._there("done"):
            return [self._unfinished(job)]
        return [*self._findings(began)]

    def _watch(self) -> None:
        """Until the last file is seen, the job has ended for a while, or patience is at its end."""
        deadline, pause = self.clock.monotonic() + self.patience, FIRST_PAUSE
        since: float | None = None
        while not self._there("done"):
            now = self.clock.monotonic()
            if since is None:
                self._ask()
                since = now if self.ended else None
            self.late = 0.0 if since is None else now - since
            most = LATE_AFTER_LOG if self._read("log") else LATE_SECONDS
            if now >= deadline or self.late >= most:
                return
            self.clock.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        if since is not None:
            self.late = self.clock.monotonic() - since
        # Its last file is there; that SLURM takes a moment to notice its end is no matter.
        self.ended = True

    def _ask(self) -> None:
        try:
            found = self.client.queue(self.name)
        except BackendError as error:
            self.question = str(error)
            return
        if found:
            self.record = found[0]
            self.ended = job_state(found[0]).ended
        elif self.record is not None:
            self.ended = True  # forgotten since

    def _there(self, name: str) -> bool:
        """Whether a file is seen here; listing the directory has a network filesystem look anew."""
        with suppress(OSError):
            return name in {path.name for path in self.directory.iterdir()}
        return False

    def _read(self, name: str) -> str:
        with suppress(OSError):
            return (self.directory / name).read_text(errors="replace").strip()
        return ""

    def _unfinished(self, job: int) -> Check:
        record, waited = self.record, f"{self.patience:.0f} s"
        if record is None:
            why = self.question or "SLURM did not tell what became of it"
        elif job_state(record) is JobState.PENDING:
            why = f"pending, {plain_reason(record.reason)}" if record.reason else "pending"
        else:
            why = f"running on {record.nodes}" if record.nodes else record.state.lower()
        return Check(
            "probe",
            "warning",
            f"the probe job {job} was still {why} after {waited}, and was cancelled"
            if record is not None
            else f"the probe job {job} was given up after {waited}: {why}",
            "try again when the cluster is less busy; the run's own jobs wait alike",
        )

    # -- what it found -----------------------------------------------------------------------------

    def _findings(self, began: float) -> Iterator[Check]:
        root, node = self.directory.parent, self._read("node")
        on = f"node {node}" if node else "the node"
        if not node and self.record is not None and self.record.nodes:
            on = f"node {self.record.nodes}"
        if not self._there("done"):
            yield self._silent(root, on)
            return
        if self.late > 1.0:
            what = f"root {root}: what {on} wrote was seen here {self.late:.0f} s after the job"
            yield Check("probe", "warning", what, "results are seen late; flowdist waits for them")
        yield from self._python(root, on, began)

    def _silent(self, root: Path, on: str) -> Check:
        """The job has ended, and its last file is not there."""
        log = self._read("log")
        if log:  # the script wrote it, so the root is there
            what = f"the probe job ended on {on} before it could look: {log.splitlines()[-1]}"
            return Check("probe", "error", what, "see setup= and modules= of the plan")
        state = f" (it ended as {self.record.state})" if self.record is not None else ""
        return Check(
            "probe",
            "error",
            f"root {root}: {on} does not see it or cannot write there{state}",
            "choose a directory on the shared filesystem with root= or $FLOWDIST_ROOT",
        )

    def _python(self, root: Path, on: str, began: float) -> Iterator[Check]:
        code = self._read("done")
        try:
            found = json.loads(self._read("python").splitlines()[-1])
        except (ValueError, IndexError):
            lines = self._read("error").splitlines() or self._read("log").splitlines()
            said = lines[-1] if lines else f"exit code {code}"
            yield Check(
                "probe",
                "error",
                f"Python does not start on {on}: {said}",
                "name the interpreter of the nodes with python=, or load it with modules=",
            )
            return
        yield from _versions(found, on)
        now = self.clock.time()
        off = max(began - float(found["time"]), float(found["time"]) - now, 0.0)
        if off > CLOCK_SECONDS:
            what = f"the clock of {on} is {off:.0f} s off this machine's"
            yield Check("probe", "warning", what, "ask its administrators to set the clocks")
        if "error" not in found:
            took = f"after {now - began:.0f} s"
            what = f"a job ran on {on} {took}: it sees root {root}, and has flowdist "
            yield Check("probe", "info", f"{what}{found['flowdist']} in Python {found['python']}")


def _versions(found: dict[str, str], on: str) -> Iterator[Check]:
    """Whether a node has what loads the flow that is pickled here."""
    same = "install the same there, or name another interpreter with python="
    here = platform.python_version()
    if "error" in found:
        what = f"flowdist cannot be imported on {on} (Python {found['python']}): {found['error']}"
        yield Check("probe", "error", what, same)
    elif found["flowdist"] != __version__:
        what = f"{on} has flowdist {found['flowdist']}, this is {__version__}"
        yield Check("probe", "error", what, same)
    if found["python"].split(".")[:2] != here.split(".")[:2]:
        what = f"{on} has Python {found['python']}, this is {here}: flows pickled here fail there"
        yield Check("probe", "error", what, same)
