"""The backend for Snowflake's container services: `spcs_tasks`, `spcs_jobs`, `spcs_queue`.

How jobs are dispatched is each plan's own (`tasks`, `jobs`, `workers`); what they share is here:
the run's directory is mirrored on a stage, a job is known by its heartbeat first and by Snowflake
where that says nothing, and a launch has ended when everything its jobs have written is here.
"""

from __future__ import annotations

import contextlib
import logging
import random
import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from flowdist.backends.base import Handle, JobState, Remark
from flowdist.backends.snowflake.endings import last_line, sentence
from flowdist.backends.snowflake.logs import keep_log
from flowdist.backends.snowflake.plans import Spcs
from flowdist.backends.snowflake.remote import Dispatch, Remote, Seen
from flowdist.backends.snowflake.waiting import ended_remarks
from flowdist.backends.snowflake.watch import (
    FIRST_PAUSE,
    Watch,
    late,
    note_states,
    told,
    words_of,
)
from flowdist.clock import Clock, SystemClock
from flowdist.errors import BackendError, FlowdistError, RunError, UsageError
from flowdist.plan import Plan
from flowdist.settings import host
from flowdist.snowflake.connection import Client, SnowflakeError, client_for
from flowdist.store import LATE_SECONDS, JobAttempt, RunFiles

if TYPE_CHECKING:
    from flowdist.plan import PlanSummary
    from flowdist.preflight import Check

__all__ = ["SnowflakeBackend"]

logger = logging.getLogger("flowdist.snowflake")

# How often Snowflake is asked: fast at first, for runs that are over at once, and never so often
# that asking takes more than half of the time.
LONGEST_PAUSE, PAUSE_GROWTH = 15.0, 1.3
ASKING_SHARE = 1 / 2
# Starting the jobs of a launch takes at most about so long.
START_SECONDS = 900.0
# Of jobs that ended badly so many are told apart: their logs are kept, and how they ended.
MOST_KEPT = 20
# Names of connections that were given as objects (see `connection_name`).
_GIVEN = re.compile(r"(given|open)-[0-9a-f]+")
# Launches that this process has tried to start and has given up: it is not at it any more.
_given_up: set[tuple[Path, int]] = set()


class SnowflakeBackend:
    """Starts jobs in containers, and follows them.

    Args:
        clock: time and sleep.
        connect: makes the client for the name of a connection.
        chance: pauses between questions vary by it.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        connect: Any = client_for,
        chance: random.Random | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._connect = connect
        self._chance = chance or random.Random()
        self._clients: dict[tuple[str | None, str], Client] = {}
        # A run is not closed by anybody: its connections are once it is forgotten.
        weakref.finalize(self, _retire, self._clients)
        self._watch = Watch()
        # Logs of launches that are over were looked for once; those that were fetched while the job
        # ran may lack its last lines.
        self._looked_for: set[tuple[int, int]] = set()
        self._followed: set[tuple[int, int]] = set()

    # -- starting ------------------------------------------------------------------------------

    def check(self, plan: Plan, summary: PlanSummary, *, brief: bool = False) -> list[Check]:
        from flowdist.backends.snowflake.checks import check

        spcs = cast(Spcs, plan)
        return check(spcs, summary, lambda: self._client(spcs.connection), brief=brief)

    def launch(self, handle: Handle) -> Handle:
        remote, files = self._remote(handle), handle.files
        try:
            self._push(remote)
            started = _dispatch(remote.plan).start(remote)
        except RunError:
            raise  # somebody else starts it
        except BaseException as error:
            self._undo(remote, error)
            if not isinstance(error, BackendError):
                raise
            raise BackendError(
                f"run {remote.run_id} was not started: {error}\n(once that is mended, flowdist "
                f"resume {remote.run_id} starts it)"
            ) from None
        handle = replace(handle, started=self._record(handle, started))
        if files.read_json(files.stop(handle.attempt)) is not None:
            self.cancel(handle)  # cancelled meanwhile, by somebody who could not know of them yet
        return handle

    def _push(self, remote: Remote) -> None:
        """Put what jobs read on the stage, and what an earlier launch may not have got there.

        Raises:
            RunError: another machine has begun to start the same launch.
        """
        files = remote.files
        if not files.path(files.REMOTE).is_file():
            where = {"runs": remote.runs.path, "connection": remote.plan.connection}
            files.put_json(files.REMOTE, where)
        there = {} if remote.attempt == 1 else remote.mirror.stage.sizes(
            pattern="|".join(("launches/[^/]+", *map(re.escape, files.WRITTEN)))
        )  # fmt: skip
        if files.intent(remote.attempt) in there:
            self._give_way(remote)
        if remote.reduce_jobs and _dispatch(remote.plan).starts_reduces(remote):
            with contextlib.suppress(FileExistsError):
                statement = {"statement": remote.reduces_statement()}
                files.put_json(files.follow(remote.attempt), statement)
        launches = [f"launches/{name}" for name in files.store.list("launches")]
        # The manifest goes last: whoever sees a run finds all of it.
        remote.mirror.push(name for name in launches if name not in there)
        remote.mirror.push(name for name in files.WRITTEN if name not in there)

    def _give_way(self, remote: Remote) -> None:
        files = remote.files
        for name in files.store.list("launches"):
            if name.startswith(f"{remote.attempt:04d}."):
                files.path(f"launches/{name}").unlink()
        remote.mirror.pull("launches")
        theirs = files.read_json(files.intent(remote.attempt)) or {}
        raise RunError(
            f"run {remote.run_id}: launch {remote.attempt} was started from {theirs.get('host')}; "
            "look at its status before resuming again"
        )

    def _undo(self, remote: Remote, error: BaseException) -> None:
        """End what has been started of a launch, and write down that it has failed. Where that is
        not possible either, whoever looks at the run finds out what there is.
        """
        try:
            _dispatch(remote.plan).remove(remote)
        except Exception as more:
            logger.warning("what was started of run %s may go on: %s", remote.run_id, more)
            _given_up.add((remote.files.directory, remote.attempt))
        else:
            self._record(remote.handle, {"error": str(error) or type(error).__name__})

    def _record(self, handle: Handle, started: Mapping[str, Any]) -> Mapping[str, Any]:
        files, name = handle.files, handle.files.launch(handle.attempt)
        made = {"time": self._clock.time(), "host": host(), "error": "", **started}
        with contextlib.suppress(FileExistsError):
            files.put_json(name, made)
            with contextlib.suppress(BackendError):
                self._remote(handle).mirror.push([name])
        return files.read_json(name) or made

    # -- asking --------------------------------------------------------------------------------

    def poll(self, handle: Handle) -> dict[int, JobState]:
        watch = self._watched(handle)
        if not watch.settled and self._clock.monotonic() >= watch.next:
            self._look(handle, watch)
        return told(handle, watch)

    def _watched(self, handle: Handle) -> Watch:
        """What is known of a launch; all of it where somebody has seen its end."""
        if self._watch.attempt != handle.attempt:
            self._watch = Watch(handle.attempt)
        watch = self._watch
        said = None if watch.settled else handle.files.read_json(handle.files.ended(handle.attempt))
        if said is not None:
            watch.states = {int(job): JobState(state) for job, state in said["jobs"].items()}
            watch.words = {int(job): str(text) for job, text in said.get("words", {}).items()}
            watch.settled = True
        return watch

    def _look(self, handle: Handle, watch: Watch) -> None:
        """Ask one question, and know when to ask the next."""
        before, began = dict(watch.states), self._clock.monotonic()
        try:
            handle, fixed = self._found(handle)
            if fixed is None:
                self._ask(handle, watch)
            else:
                watch.states = dict.fromkeys(handle.jobs, fixed)
                watch.settled = fixed.ended
        except SnowflakeError as error:
            if not error.passing:
                raise
            # No answer says nothing of the jobs.
            logger.warning("%s", error)
        if watch.states != before:
            watch.pause = FIRST_PAUSE
        now = self._clock.monotonic()
        pause = max(watch.pause * self._chance.uniform(0.8, 1.2), (now - began) / ASKING_SHARE)
        watch.next, watch.pause = now + pause, min(watch.pause * PAUSE_GROWTH, LONGEST_PAUSE)

    def _found(self, handle: Handle) -> tuple[Handle, JobState | None]:
        """The launch with what was started of it; and the state of all jobs where that is not
        known: the process that starts them is at it, or died before it could say.
        """
        files = handle.files
        if handle.started is None and files.path(files.REMOTE).is_file():
            # Another machine may have started it since this one has looked.
            self._remote(handle).mirror.pull("launches")
            handle = replace(handle, started=files.read_json(files.launch(handle.attempt)))
        if handle.started is not None:
            return handle, JobState.FAILED if handle.started["error"] else None
        intent = files.read_json(files.intent(handle.attempt))
        if intent is not None and self._starting(handle, intent):
            return handle, JobState.UNKNOWN
        if intent is None or not files.path(files.REMOTE).is_file():
            return handle, JobState.LOST
        remote = self._remote(handle)
        found = _dispatch(remote.plan).find(remote)
        if found is None:
            return handle, JobState.LOST
        return replace(handle, started=self._record(handle, found)), None

    def _starting(self, handle: Handle, intent: Mapping[str, Any]) -> bool:
        """Whether the process that starts the jobs may still be at it."""
        import psutil

        if (handle.files.directory, handle.attempt) in _given_up:
            return False
        if abs(self._clock.time() - float(intent["time"])) > START_SECONDS:
            return False
        return intent["host"] != host() or psutil.pid_exists(int(intent["pid"]))

    def _ask(self, handle: Handle, watch: Watch) -> None:
        """Ask how the jobs are, or every other time how far; at first both."""
        handle = replace(handle)  # so that its owner reads beats that have come meanwhile
        remote = self._remote(handle)
        watch.questions += 1
        if watch.questions % 2 or not _running(handle, watch):
            watch.seen |= _dispatch(remote.plan).ask(remote, watch.states)
            note_states(handle, watch)
        running = _running(handle, watch)
        if running and (watch.questions == 1 or watch.questions % 2 == 0):
            names = [f"{JobAttempt(job, handle.attempt)}.json" for job in running]
            # Who claims from a queue may have come from a pool, under a number of its own.
            every = len(running) == len(handle.jobs) or remote.plan.dispatch == "queue"
            remote.mirror.refresh_beats(None if every else names)
            handle = replace(handle)  # with the beats that have come
            note_states(handle, watch)
        if all(watch.states[job].ended for job in handle.jobs):
            self._finish(remote, watch)

    def _finish(self, remote: Remote, watch: Watch) -> None:
        """All jobs have ended: fetch what they have written, and wait for what is late."""
        remote.mirror.pull_results()
        handle = replace(remote.handle)
        note_states(handle, watch)
        now = self._clock.monotonic()
        watch.ended_since = now if watch.ended_since is None else watch.ended_since
        unseen = late(handle, watch) or _dispatch(remote.plan).late(remote)
        if unseen and now - watch.ended_since < LATE_SECONDS:
            return
        if unseen:
            logger.warning("not seen, and not waited for any longer: %s", ", ".join(unseen[:5]))
        self._settle(remote, watch)

    def _settle(self, remote: Remote, watch: Watch) -> None:
        """The launch is over: tidy up, and write down that nothing more is to come."""
        files, attempt = remote.files, remote.attempt
        _dispatch(remote.plan).ended(remote)
        bad = [job for job, state in watch.states.items() if state is not JobState.DONE]
        watch.words = {
            job: text for job in bad[:MOST_KEPT] if (text := words_of(watch.seen.get(job)))
        }
        said = {
            "jobs": {str(job): state.value for job, state in watch.states.items()},
            "words": {str(job): text for job, text in watch.words.items()},
        }
        # Soon they are nowhere else.
        kept = self._keep_logs(remote, bad, watch.seen)
        with contextlib.suppress(FileExistsError):
            files.put_json(files.ended(attempt), said)
        watch.settled = True
        if set(watch.states.values()) != {JobState.LOST}:  # where the run may have been deleted
            with contextlib.suppress(BackendError):
                # For others that look at it; they would find out by themselves.
                remote.mirror.push([*kept, files.ended(attempt)])

    def fetch(self, handle: Handle, artifact: str | None = None) -> None:
        """Bring what jobs have written so far, or one artifact."""
        if artifact is not None:
            self._remote(handle).mirror.pull_artifact(artifact)
        elif handle.started is None:
            return
        elif not self._watched(handle).settled:
            self._remote(handle).mirror.pull_results()
        elif handle.files.manifest()["plan"].get("pool"):
            # Workers that stay take more rows of it, perhaps from another machine.
            with contextlib.suppress(FlowdistError):
                self._remote(handle).mirror.pull("feeds")

    def share(self, handle: Handle, name: str) -> bool:
        """Put a file of the run where other machines see it. False where one of them has put
        another by that name, which is then here.
        """
        mirror, ours = self._remote(handle).mirror, handle.files.store.get(name)
        mirror.push([name])
        folder, _, file = name.rpartition("/")
        mirror.stage.get(handle.files.directory, folder, [file])
        return handle.files.store.get(name) == ours

    # -- looking closer ------------------------------------------------------------------------

    def ending(
        self, handle: Handle, states: Mapping[int, JobState]
    ) -> tuple[Literal["stopped", "failed", "lost"], str]:
        if handle.started is None:
            return "lost", "its jobs were never started"
        if handle.started["error"]:
            return "failed", f"its jobs were not started: {handle.started['error']}"
        bad = _unexplained(handle, states)
        files = handle.files
        paths = {job: files.path(files.log(JobAttempt(job, handle.attempt))) for job in bad}
        lines = {
            job: last_line(path.read_text(encoding="utf-8", errors="replace"))
            for job, path in list(paths.items())[:MOST_KEPT]
            if path.is_file()
        }
        said = sentence(bad, self._watch.words, lines)
        given_up = files.read_json(files.given_up(handle.attempt))
        if given_up is not None:
            return "failed", "; ".join(filter(None, (str(given_up["reason"]), said)))
        kinds = set(bad.values())
        if kinds & {JobState.FAILED, JobState.OUT_OF_MEMORY}:
            return "failed", said
        if kinds & {JobState.LOST, JobState.NODE_FAIL}:
            return "lost", said
        return "stopped", said

    def remarks(self, handle: Handle, states: Mapping[int, JobState]) -> list[Remark]:
        if self._watched(handle).settled:
            return list(ended_remarks(states))
        try:
            handle, fixed = self._found(handle)
            if fixed is not None:
                return []
            remote = self._remote(handle)
            return list(_dispatch(remote.plan).remarks(remote, states))
        except SnowflakeError as error:
            return [Remark("scheduler", f"Snowflake does not say: {error}")]

    def logs(self, handle: Handle, job: int | None) -> list[Path]:
        """The output of containers, fetched to the run's directory."""
        files = handle.files
        wanted = handle.jobs if job is None else [job]
        if handle.started is not None and not handle.started["error"]:
            self._fetch_logs(handle, wanted)
        paths = [files.path(files.log(JobAttempt(one, handle.attempt))) for one in wanted]
        return [path for path in paths if path.is_file()]

    def _fetch_logs(self, handle: Handle, wanted: Sequence[int]) -> None:
        """Fetch what is new of the output of jobs."""
        files, watch, now = handle.files, self._watch, self._clock.monotonic()
        over = files.read_json(files.ended(handle.attempt)) is not None
        over = over or handle.attempt < max(files.attempts())
        if over:
            # Of jobs that have ended well none was kept; Snowflake has it for a while.
            wanted = [
                job
                for job in wanted
                if (handle.attempt, job) not in self._looked_for
                and (
                    (handle.attempt, job) in self._followed
                    or not files.path(files.log(JobAttempt(job, handle.attempt))).is_file()
                )
            ]
            self._looked_for |= {(handle.attempt, job) for job in wanted}
        elif now < watch.next_logs:
            return
        else:
            self._followed |= {(handle.attempt, job) for job in wanted}
        if not wanted:
            return
        try:
            remote = self._remote(handle)
            seen = watch.seen if watch.attempt == handle.attempt else {}
            self._keep_logs(remote, wanted, seen or _dispatch(remote.plan).ask(remote, {}))
        except FlowdistError as error:
            logger.warning("logs were not fetched: %s", error)
        then = self._clock.monotonic()
        watch.next_logs = then + max(1.0, (then - now) / ASKING_SHARE)

    def _keep_logs(
        self, remote: Remote, jobs: Sequence[int], seen: Mapping[int, Seen]
    ) -> list[str]:
        """Fetch the output of some jobs; names of the files."""
        known = [(job, seen[job]) for job in jobs if job in seen and seen[job].service]
        names = [keep_log(remote, job, of_job) for job, of_job in known[:MOST_KEPT]]
        return [name for name in names if name is not None]

    def firings(self, handle: Handle) -> list[Path]:
        from flowdist.backends.snowflake.attach import mirror_run
        from flowdist.backends.snowflake.tasks import firings

        remote, root = self._remote(handle), handle.files.directory.parent
        directories = [root / id_ for id_ in firings(remote)]
        for new in (one for one in directories if not (one / RunFiles.RUN).is_file()):
            mirror_run(remote.client, remote.plan.connection, remote.runs, new)
        return directories

    # -- ending --------------------------------------------------------------------------------

    def cancel(self, handle: Handle) -> None:
        files = handle.files
        files.request_stop(handle.attempt, "cancelled", self._clock.time())
        handle, fixed = self._found(handle)
        if files.path(files.REMOTE).is_file() and fixed is not JobState.LOST:
            # Workers see it and commit what they have, also those that somebody starts just now.
            self._remote(handle).mirror.push([files.stop(handle.attempt)])
        if fixed is None:
            remote = self._remote(handle)
            _dispatch(remote.plan).cancel(remote)
        watch = self._watched(handle)
        watch.next, watch.pause = 0.0, FIRST_PAUSE

    def delete(self, handle: Handle) -> None:
        """Remove what the launch has left on Snowflake; with the last one, the folder on the
        stage.
        """
        files = handle.files
        if not files.path(files.REMOTE).is_file():
            return  # nothing of it has ever been there
        remote = self._remote(handle)
        _dispatch(remote.plan).remove(remote)
        if handle.attempt == max(files.attempts()):
            try:
                remote.mirror.stage.remove()
            except SnowflakeError as error:
                if not error.missing:
                    raise

    def close(self) -> None:
        while self._clients:
            self._clients.popitem()[1].close()

    # -- private -------------------------------------------------------------------------------

    def _remote(self, handle: Handle) -> Remote:
        manifest = handle.files.manifest()
        known = handle.files.read_json(handle.files.REMOTE) or manifest["plan"]
        return Remote(handle, self._client(known.get("connection"), str(manifest["id"])))

    def _client(self, connection: str | None, run_id: str = "") -> Client:
        key = (connection, run_id)
        if key not in self._clients:
            tag = {"run": run_id} if run_id else {}
            try:
                self._clients[key] = self._connect(connection, tag=tag, clock=self._clock)
            except UsageError:
                if connection is None or not _GIVEN.fullmatch(connection):
                    raise
                raise UsageError(
                    f"run {run_id} was submitted over a connection that another process was given "
                    f"as an object; flowdist.register_connection({connection!r}, ...) gives it to "
                    "this one, and connection=NAME in the plan would name one for all"
                ) from None
        return self._clients[key]


def _unexplained(handle: Handle, states: Mapping[int, JobState]) -> dict[int, JobState]:
    """The jobs that have ended badly and have not said why themselves: those of the rows, or else
    reduces, which are not begun where rows are missing.
    """
    said = {job for job, beat in handle.beats.items() if beat["state"] == "stopped"}
    bad: dict[int, JobState] = {
        job: state
        for job, state in states.items()
        if state is not JobState.DONE and job not in said
    }
    rows = (handle.files.read_json(handle.files.intent(handle.attempt)) or {}).get("jobs", ())
    if any(states.get(job) is not JobState.DONE for job in rows):
        return {job: state for job, state in bad.items() if job in rows}
    return bad


def _running(handle: Handle, watch: Watch) -> list[int]:
    return [job for job in handle.jobs if watch.states.get(job) is JobState.RUNNING]


def _retire(clients: Mapping[tuple[str | None, str], Client]) -> None:
    for client in clients.values():
        client.retire()


def _dispatch(plan: Spcs) -> Dispatch:
    """How the jobs of this kind of plan are started."""
    if plan.kind == "spcs-tasks":
        from flowdist.backends.snowflake.tasks import TaskGraphs

        return TaskGraphs()
    if plan.kind == "spcs-queue":
        from flowdist.backends.snowflake.workers import QueueWorkers

        return QueueWorkers()
    from flowdist.backends.snowflake.jobs import JobServices

    return JobServices()
