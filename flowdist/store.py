"""Where a run lives, and the one owner of every path in it.

A store keeps named blobs: each is written once, front to back, under a name that nobody else
writes; no append, no rename, no lock. Heartbeats alone are replaced, and nothing depends on them.
So the same code is right on a local disk, Lustre, NFS and a mounted stage.

Layout of a run::

    run.json                        the manifest, written last: versions, plan, layout, phases
    grid.arrow                      the rows in layout order (column _row where that is another)
    chunks.arrow                    chunk -> job, first and stop position, group
    flow.pkl                        the pickled program
    launches/<attempt>.intent.json  what is about to be started; creating it locks the attempt
    launches/<attempt>.done.arrow   the rows that a resumed run leaves out
    launches/<attempt>.json         what was started: process or scheduler ids
    launches/<attempt>.follow.json, <attempt>.ended.json   see `RunFiles`
    remote.json                     where a run on a stage is, and by which connection
    parts/<job>-<attempt>-<seq>.arrow
    beats/<job>-<attempt>.json
    events/<writer>-<seq>.jsonl     queue/...    artifacts/<stage>/...    logs/<job>-<attempt>.log
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from flowdist.clock import Clock, SystemClock
from flowdist.errors import RunError
from flowdist.settings import host

# Directory attributes are cached for up to a minute (acdirmax of NFS).
LATE_SECONDS = 90.0

VISITORS = 10**12
"""Jobs of a run have small numbers. Workers that come to it from a pool and leave have larger ones
than this, each time another that nobody has had.
"""

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class Store(Protocol):
    """Named blobs under one root. Names are relative, with ``/``."""

    def put(self, name: str, data: bytes) -> None:
        """Write a new blob; FileExistsError where the name is taken."""

    def replace(self, name: str, data: bytes) -> None:
        """Write a blob whatever was there: for heartbeats only."""

    def get(self, name: str) -> bytes:
        """The content; FileNotFoundError where there is none."""

    def list(self, folder: str) -> list[str]:
        """The names directly in `folder`, sorted; empty where there is no such folder."""

    def delete(self) -> None:
        """Remove everything under the root."""

    def path(self, name: str) -> Path:
        """Where the blob is as a file of this machine."""


class DirectoryStore:
    """A store in a directory: a local disk, a shared filesystem, or a mounted stage."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def put(self, name: str, data: bytes) -> None:
        path = self.path(name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            descriptor = os.open(path, flags, 0o600)
        except FileNotFoundError:
            descriptor = os.open(self._made(name), flags, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
        except OSError as error:
            path.unlink(missing_ok=True)
            error.filename = str(path)
            raise

    def replace(self, name: str, data: bytes) -> None:
        with self._made(name).open("wb") as file:
            file.write(data)

    def get(self, name: str) -> bytes:
        self._check(name)
        # Plain text: the heartbeats of ten thousand jobs are read for one status.
        with open(f"{self.root}/{name}", "rb") as file:
            return file.read()

    def list(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(self.path(folder)))
        except FileNotFoundError:
            return []

    def delete(self) -> None:
        shutil.rmtree(self.root)

    def path(self, name: str) -> Path:
        self._check(name)
        return self.root / name

    def _check(self, name: str) -> None:
        if name.startswith("/") or ".." in name.split("/"):
            raise RunError(f"'{name}' is not a name inside the run {self.root}")

    def _made(self, name: str) -> Path:
        path = self.path(name)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path


@dataclass(frozen=True, order=True)
class JobAttempt:
    """One start of one job; what parts, beats and logs are named after."""

    job: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.job:05d}-{self.attempt}"

    @property
    def visitor(self) -> bool:
        """Whether it is a worker that came from a pool."""
        return self.job >= VISITORS

    @classmethod
    def of(cls, name: str) -> JobAttempt:
        """From the name of a file that begins with one, whatever folder it is in."""
        job, attempt = re.split(r"[-.]", name.rpartition("/")[2])[:2]
        return cls(int(job), int(attempt))


class RunFiles:
    """The paths of one run, and the JSON in them."""

    RUN = "run.json"
    GRID = "grid.arrow"
    CHUNKS = "chunks.arrow"
    FLOW = "flow.pkl"
    # What a submission writes; the manifest makes it a run.
    WRITTEN = (GRID, CHUNKS, FLOW, RUN)
    # Of a run that is elsewhere: where, and how it is reached from here.
    REMOTE = "remote.json"

    def __init__(self, store: Store) -> None:
        self.store = store

    @classmethod
    def at(cls, directory: str | Path) -> RunFiles:
        """The run in a directory."""
        return cls(DirectoryStore(directory))

    @property
    def directory(self) -> Path:
        return self.store.path("")

    def path(self, name: str) -> Path:
        return self.store.path(name)

    # -- names ---------------------------------------------------------------------------------

    def part(self, who: JobAttempt, seq: int) -> str:
        return f"parts/{who}-{seq:04d}.arrow"

    def beat(self, who: JobAttempt) -> str:
        return f"beats/{who}.json"

    def log(self, who: JobAttempt) -> str:
        return f"logs/{who}.log"

    def launch_log(self, attempt: int) -> str:
        return f"logs/launch-{attempt}.log"

    def intent(self, attempt: int) -> str:
        return f"launches/{attempt:04d}.intent.json"

    def launch(self, attempt: int) -> str:
        return f"launches/{attempt:04d}.json"

    def array(self, attempt: int, number: int) -> str:
        """Which of the scheduler's arrays runs jobs of a launch: its first task writes it down."""
        return f"launches/{attempt:04d}.array-{number}"

    def done(self, attempt: int) -> str:
        """Which rows a launch leaves out: a column of booleans for each table of rows."""
        return f"launches/{attempt:04d}.done.arrow"

    def ended(self, attempt: int) -> str:
        """That a launch is over and all of it is here: the last states of its jobs."""
        return f"launches/{attempt:04d}.ended.json"

    def given_up(self, attempt: int) -> str:
        """Which chunks of a queue were begun too often in a launch, and why nobody tries again."""
        return f"launches/{attempt:04d}.given-up.json"

    def follow(self, attempt: int) -> str:
        """What starts the reduces of a launch, for the job of the rows that ends last."""
        return f"launches/{attempt:04d}.follow.json"

    def stop(self, attempt: int) -> str:
        return f"events/stop-{attempt:04d}.jsonl"

    def artifact(self, stage: str, key: str) -> str:
        return f"artifacts/{stage}/{key}"

    # -- reading -------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any]:
        """run.json; RunError where it is not there or not complete."""
        try:
            return self._json(self.RUN)
        except FileNotFoundError:
            raise RunError(f"{self.directory} holds no run: there is no {self.RUN}") from None
        except ValueError:
            raise RunError(f"{self.directory / self.RUN} is damaged: it is not JSON") from None

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON file, or None where it is absent or not (yet) complete."""
        try:
            return self._json(name)
        except (FileNotFoundError, ValueError):
            return None

    def _json(self, name: str) -> dict[str, Any]:
        value = json.loads(self.store.get(name))
        if not isinstance(value, dict):
            raise ValueError(name)
        return value

    def parts(self) -> list[str]:
        return [f"parts/{name}" for name in self.store.list("parts") if name.endswith(".arrow")]

    def attempts(self) -> list[int]:
        """Numbers of all launches, in order."""
        names = (name.partition(".")[0] for name in self.store.list("launches"))
        return sorted({int(name) for name in names if name.isdecimal()})

    def parts_of(self, job: int, attempts: int) -> list[str]:
        """The parts of one job over its first `attempts` launches, by name, without a listing."""
        found = []
        for attempt in range(1, attempts + 1):
            for seq in itertools.count():
                name = self.part(JobAttempt(job, attempt), seq)
                if not self.path(name).exists():
                    break
                found.append(name)
        return found

    def unseen_parts(
        self, attempt: int, now: float, jobs: Container[int] | None = None
    ) -> list[str]:
        """Parts that jobs on other machines say they wrote lately, and that are not seen here."""
        since = now - LATE_SECONDS
        said = [
            (who, int(beat.get("parts", 0)))
            for who, beat in self.beats(attempt, jobs)
            if beat["host"] != host() and float(beat["time"]) > since
        ]
        if not any(count for _, count in said):
            return []
        seen = set(self.parts())
        named = (self.part(who, seq) for who, count in said for seq in range(count))
        return [name for name in named if name not in seen]

    def beats(
        self, attempt: int | None = None, jobs: Container[int] | None = None
    ) -> Iterator[tuple[JobAttempt, dict[str, Any]]]:
        """Heartbeats, those that are being replaced this instant left out."""
        # A network filesystem may leave files of its own in a directory.
        for name in (n for n in self.store.list("beats") if not n.startswith(".")):
            who = JobAttempt.of(name)
            if attempt is not None and who.attempt != attempt:
                continue
            if jobs is not None and who.job not in jobs:
                continue
            beat = self.read_json(f"beats/{name}")
            if beat is not None:
                yield who, beat

    def superseded(self, attempt: int) -> bool:
        """Whether a later launch has been intended."""
        return self.read_json(self.intent(attempt + 1)) is not None

    def rows_since(self) -> int:
        """The number of the last launch that ran rows; 0 where none did."""
        for attempt in reversed(self.attempts()):
            if (self.read_json(self.intent(attempt)) or {}).get("jobs"):
                return attempt
        return 0

    def events(self) -> list[dict[str, Any]]:
        """All events of the run, oldest first."""
        found: list[dict[str, Any]] = []
        for name in self.store.list("events"):
            for line in self.store.get(f"events/{name}").decode(errors="replace").splitlines():
                try:
                    found.append(json.loads(line))
                except ValueError:
                    continue  # the last line of a writer that was killed
        return sorted(found, key=lambda e: e.get("time", 0.0))

    # -- writing -------------------------------------------------------------------------------

    def put_json(self, name: str, value: Any) -> None:
        self.store.put(name, json.dumps(value, indent=1, default=str).encode())

    def put_beat(self, who: JobAttempt, value: dict[str, Any]) -> None:
        self.store.replace(self.beat(who), json.dumps(value).encode())

    def request_stop(self, attempt: int, reason: str, time: float) -> bool:
        """Ask every job of a launch to end; False where that was asked before."""
        event = {"time": time, "event": "stop", "attempt": attempt, "reason": reason}
        try:
            self.store.put(self.stop(attempt), json.dumps(event).encode())
        except FileExistsError:
            return False
        return True


def await_parts(
    files: RunFiles,
    attempt: int,
    clock: Clock | None = None,
    jobs: Container[int] | None = None,
) -> list[str]:
    """Wait, at most `LATE_SECONDS`, until everything that `jobs` (default: all of a launch) have
    written can be seen here; returns what cannot.

    Network filesystems keep what a directory looked like for up to a minute.
    """
    clock = clock or SystemClock()
    now, deadline, pause = clock.time(), clock.monotonic() + LATE_SECONDS, 0.1
    while (unseen := files.unseen_parts(attempt, now, jobs)) and clock.monotonic() < deadline:
        # Changing a directory's mode to what it is makes NFS forget what it remembers of it.
        folder = files.path("parts")
        with contextlib.suppress(OSError):
            folder.chmod(folder.stat().st_mode & 0o7777)
        clock.sleep(pause)
        pause = min(2 * pause, 5.0)
    return unseen
