"""`spcs_tasks`: Task graphs with a task for each job.

The tasks and their statements are those of `flowdist.backends.snowflake.graph`, what their history
means says `flowdist.backends.snowflake.history`. A flow with a schedule is a graph that goes on
without a driver: the run that was submitted is the template of its firings, which are runs of
their own.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from flowdist.backends.base import JobState, Remark
from flowdist.backends.snowflake.graph import (
    Graph,
    Recipe,
    blocks,
    creations,
    graphs,
    make_folder,
    removals,
    write_statistics,
)
from flowdist.backends.snowflake.history import LIVE, NOT_RUN, GraphHistory, history_statement
from flowdist.backends.snowflake.plans import SpcsTasks
from flowdist.backends.snowflake.remote import Remote, Seen
from flowdist.backends.snowflake.services import ask_reduces, cancel_job, waiting_remarks
from flowdist.backends.snowflake.spec import RUNS, execute_job, object_name
from flowdist.clock import Clock, SystemClock
from flowdist.phases import is_template
from flowdist.snowflake.connection import Client, SnowflakeError
from flowdist.snowflake.firing import firing_group, firing_time
from flowdist.snowflake.names import Name, literal
from flowdist.snowflake.tables import TASK_STATS, task_stats_table

__all__ = ["TaskGraphs", "firings"]

LONGEST = 604_800
"""Seconds that a task may run at the most: seven days."""

# A container may have to wait for a node so long.
START_ROOM = 900
# A graph of which no run is to be seen for so long was never run. Nobody waits so long where it
# was cancelled: what runs after all sees the request to stop, and ends.
SILENT_SECONDS, CANCELLED_SECONDS = 300.0, 15.0
# A finalizer writes what there is to say of a graph within this time.
FINAL_SECONDS, FINAL_PAUSE = 15.0, 0.5
# What SHOW gives at the most.
MOST_SHOWN = 10_000


class TaskGraphs:
    """A graph of a root, a task for each job, one for the reduces, and a finalizer; several where
    there are too many jobs for one.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    def starts_reduces(self, remote: Remote) -> bool:
        return len(_graphs(remote)) > 1

    # -- starting ------------------------------------------------------------------------------

    def start(self, remote: Remote) -> dict[str, Any]:
        client, made = remote.client, _graphs(remote)
        schedule = _schedule(remote)
        stats = remote.runs.stage.beside(TASK_STATS)
        with contextlib.suppress(SnowflakeError):  # set-up may have made it, for who must not
            client.run(task_stats_table(stats))
        recipe = _recipe(remote, stats, schedule)
        _run(client, (text for graph in made for text in creations(graph, recipe)))
        roots = _roots(remote, made)
        if not any(state == "started" for _, state in roots.values()):
            enable = "SELECT SYSTEM$TASK_DEPENDENTS_ENABLE({})"
            names = [recipe.schema.beside(name).sql for name in roots]
            _run(client, (enable.format(literal(name)) for name in names))
            for name in names if schedule is None else ():
                _execute(client, name)
        return _started(remote, roots)

    def find(self, remote: Remote) -> dict[str, Any] | None:
        """Graphs that are there and were never begun are no use, and are removed."""
        made = _graphs(remote)
        roots = _roots(remote, made)
        if len(roots) == len(made) and any(state == "started" for _, state in roots.values()):
            return _started(remote, roots)
        _drop_tasks(remote)
        template = remote.manifest.get("template")
        if template is None:
            return None
        # A firing: its graph is that of the run whose schedule it is.
        prefix = object_name(template, remote.attempt, "tasks")
        roots = _roots(remote, graphs(prefix, remote.row_jobs, reduces=bool(remote.reduce_jobs)))
        return _started(remote, roots, run=template) if roots else None

    # -- asking --------------------------------------------------------------------------------

    def ask(self, remote: Remote, known: Mapping[int, JobState]) -> dict[int, Seen]:
        if is_template(remote.manifest):
            return dict.fromkeys(remote.handle.jobs, self._schedule_seen(remote))
        several = len(_ids(remote)) > 1
        if several and all(known.get(job, JobState.UNKNOWN).ended for job in remote.row_jobs):
            return _ask_reduces(remote, known)
        found = self._histories(remote)
        retries, cancelled = _plan(remote).retries, _cancelled(remote)
        reduces = () if several else remote.reduce_jobs
        seen: dict[int, Seen] = {}
        for root, jobs in _jobs_by_root(remote).items():
            if found[root].rows:
                seen |= found[root].jobs(jobs, reduces, retries, cancelled=cancelled)
            else:
                seen |= dict.fromkeys([*jobs, *reduces], self._unseen(remote))
        return seen

    def _histories(self, remote: Remote) -> dict[str, GraphHistory]:
        """The histories of the graphs of a launch, by the ids of their roots."""
        since = float(remote.started["time"])
        group = None
        if _fired(remote):
            since, group = firing_time(remote.run_id), firing_group(remote.run_id)
        database = remote.runs.stage.parts[0]
        rows = remote.client.rows(
            # Clocks differ.
            history_statement(_ids(remote), database, since=since - 3600, group=group)
        )
        return {
            root: GraphHistory.of(row for row in rows if row["root_task_id"] == root)
            for root in _ids(remote)
        }

    def _unseen(self, remote: Remote) -> Seen:
        """What a job of a graph is of whose run there is nothing to be seen."""
        began = firing_time(remote.run_id) if _fired(remote) else float(remote.started["time"])
        silent = self._clock.time() - began
        if _cancelled(remote) and silent > CANCELLED_SECONDS:
            return Seen(JobState.CANCELLED)
        if silent < SILENT_SECONDS:
            return Seen(JobState.PENDING, "its task graph is about to run")
        return Seen(JobState.LOST, "its task graph was never run, or so long ago that Snowflake "
                    "does not know of it any more")  # fmt: skip

    def _schedule_seen(self, remote: Remote) -> Seen:
        if _cancelled(remote):
            return Seen(JobState.CANCELLED)
        root = str(remote.started["roots"][0]["name"])
        shown = _show_tasks(remote, root, "ROOT ONLY")
        row = next((row for row in shown if row["name"] == root), None)
        if row is None:
            return Seen(JobState.LOST, "its task graph is not there any more")
        if row["last_suspended_reason"] == "SUSPENDED_DUE_TO_ERRORS" and row["state"] != "started":
            return Seen(JobState.FAILED, "its schedule was suspended, as too many firings in a row "
                        "have failed")  # fmt: skip
        return Seen(JobState.PENDING, f"runs at {row['schedule']}")

    def late(self, remote: Remote) -> Sequence[str]:
        return ()

    # -- ending --------------------------------------------------------------------------------

    def cancel(self, remote: Remote) -> None:
        schema, client = remote.runs.stage, remote.client
        names = [root["name"] for root in remote.started["roots"]]
        if not _fired(remote):
            suspend = "ALTER TASK IF EXISTS {} SUSPEND"
            _run(client, (suspend.format(schema.beside(name).sql) for name in names))
            cancel_job(client, remote.name("reduces"))
        running = [
            row["name"]
            for graph in self._histories(remote).values()
            for row in graph.rows.values()
            if row["state"] in LIVE
        ]
        # Whatever has not begun by now sees the request to stop, and ends.
        end = "SELECT SYSTEM$USER_TASK_CANCEL_ONGOING_EXECUTIONS({})"
        for block in blocks(
            (end.format(literal(schema.beside(name).sql)) for name in running), quiet=True
        ):
            client.run(block)

    def ended(self, remote: Remote) -> None:
        """Remove all tasks, once the finalizer has written down what there is to say of them."""
        if _fired(remote):
            return
        deadline = self._clock.monotonic() + FINAL_SECONDS
        while not is_template(remote.manifest) and self._clock.monotonic() < deadline:
            found = self._histories(remote).values()
            if all(graph.finalized or not graph.rows for graph in found):
                break
            self._clock.sleep(FINAL_PAUSE)
        _drop_tasks(remote)

    def remove(self, remote: Remote) -> None:
        client = remote.client
        if _fired(remote):
            rows = [row for g in self._histories(remote).values() for row in g.rows.values()]
            services = [
                Name((row["job_database"], row["job_schema"], row["job_name"]))
                for row in rows
                if row["job_name"] is not None
            ]
        else:
            _drop_tasks(remote)
            services = _services(remote)
        _run(client, (f"DROP SERVICE IF EXISTS {service.sql}" for service in services))
        if is_template(remote.manifest):
            client.run(f"REMOVE {remote.runs.file(f'{remote.run_id}.')}")
            for directory in remote.files.directory.parent.glob(f"{remote.run_id}.*"):
                shutil.rmtree(directory, ignore_errors=True)

    def remarks(self, remote: Remote, states: Mapping[int, JobState]) -> Sequence[Remark]:
        if is_template(remote.manifest):
            return ()
        return waiting_remarks(remote, states, self.ask(remote, states))


def firings(remote: Remote) -> list[str]:
    """The ids of the runs that the schedule of a run has started, the first one first."""
    # The dot is what follows the id of a run in those of its firings, and in no other.
    rows = remote.client.rows(
        f"LIST {remote.runs.file(f'{remote.run_id}.')} PATTERN = '.*/run[.]json'"
    )
    return sorted(str(row["name"]).split("/")[-2] for row in rows)


# Private -----------------------------------------------------------------------------------------


def _plan(remote: Remote) -> SpcsTasks:
    return cast(SpcsTasks, remote.plan)


def _schedule(remote: Remote) -> str | None:
    """When the graph of this launch runs; a firing that is resumed has no schedule of its own."""
    return _plan(remote).schedule if is_template(remote.manifest) else None


def _fired(remote: Remote) -> bool:
    """Whether this launch was started by a schedule: its graph is then another run's."""
    return str(remote.started.get("run", remote.run_id)) != remote.run_id


def _cancelled(remote: Remote) -> bool:
    return remote.files.read_json(remote.files.stop(remote.attempt)) is not None


def _graphs(remote: Remote) -> list[Graph]:
    prefix = remote.name("tasks").last
    return graphs(prefix, remote.row_jobs, reduces=bool(remote.reduce_jobs))


def _recipe(remote: Remote, stats: Name, schedule: str | None) -> Recipe:
    plan, run = _plan(remote), remote.run_id
    # A container of a firing asks which it is.
    named = run if schedule is None else f"{run}.*"

    def body(job: int | None) -> str:
        what = ("reduces",) if job is None else ("job",)
        which = () if job is None else (str(job),)
        spec = remote.spec(*what, RUNS, named, str(remote.attempt), *which)
        # Without a name, so that it can run again; the task takes as long as the job.
        return execute_job(plan, spec, comment=remote.comment, asynchronous=False)

    return Recipe(
        schema=remote.runs.stage,
        warehouse=Name.parse(plan.warehouse) if plan.warehouse else None,
        seconds=_seconds(remote),
        retries=plan.retries,
        schedule=schedule,
        config={"flowdist": {"run": run, "launch": remote.attempt}},
        comment=remote.comment,
        root="SELECT 1" if schedule is None else make_folder(remote.runs, run),
        run=body,
        finish=write_statistics(stats, run, scheduled=schedule is not None),
    )


def _seconds(remote: Remote) -> int:
    """How long a graph may take: as if its jobs ran one after another, for the pool may have one
    node. Jobs see to their own time; this ends what they cannot.
    """
    asked = remote.plan.resources.time
    if not asked:
        return LONGEST
    scale = (remote.intent.get("scale") or {}).get(remote.manifest["phases"][0]["table"]) or {}
    each = asked * float(scale.get("time", 1)) + START_ROOM
    return int(min(LONGEST, each * len(remote.handle.jobs)))


def _started(
    remote: Remote, roots: Mapping[str, tuple[str, str]], run: str | None = None
) -> dict[str, Any]:
    """What is written down of a launch: the roots of its graphs, in order, with their ids."""
    known = [{"name": name, "id": id_} for name, (id_, _) in roots.items()]
    return {"run": run or remote.run_id, "roots": known}


def _ids(remote: Remote) -> list[str]:
    return [str(root["id"]) for root in remote.started["roots"]]


def _jobs_by_root(remote: Remote) -> dict[str, list[int]]:
    """The jobs of the rows that each graph runs, by the id of its root."""
    made = _graphs(remote)
    return {
        id_: [task.job for task in graph.tasks if task.job is not None]
        for id_, graph in zip(_ids(remote), made, strict=True)
    }


def _ask_reduces(remote: Remote, known: Mapping[int, JobState]) -> dict[int, Seen]:
    """The reduces of several graphs, a job service of their own, once all rows have ended."""
    if any(known.get(job) is not JobState.DONE for job in remote.row_jobs):
        return dict.fromkeys(remote.reduce_jobs, NOT_RUN)
    return ask_reduces(remote)


def _run(client: Client, statements: Iterable[str]) -> None:
    for block in blocks(statements):
        client.run(block)


def _execute(client: Client, name: str) -> None:
    """Begin the run of a graph, once: a second one would wait for the first, and then run."""
    try:
        client.run(f"EXECUTE TASK {name}", again=False)
    except SnowflakeError as error:
        if not error.passing:
            raise
        # No answer: whether it has begun is seen from its history.


def _schema(remote: Remote) -> str:
    return Name(remote.runs.stage.parts[:-1]).sql


def _show_tasks(remote: Remote, prefix: str, which: str = "") -> list[dict[str, Any]]:
    return remote.client.rows(
        f"SHOW TASKS IN SCHEMA {_schema(remote)} STARTS WITH {literal(prefix)} {which} "
        f"LIMIT {MOST_SHOWN}"
    )


def _roots(remote: Remote, made: Sequence[Graph]) -> dict[str, tuple[str, str]]:
    """The roots that are there of these graphs: their ids and states, by name."""
    prefix = made[0].root.rpartition("_")[0]
    rows = _show_tasks(remote, f"{prefix}_", "ROOT ONLY")
    there = {row["name"]: (str(row["id"]), str(row["state"])) for row in rows}
    return {graph.root: there[graph.root] for graph in made if graph.root in there}


def _drop_tasks(remote: Remote) -> None:
    """Remove all tasks of this launch, whatever is left of its graphs."""
    schema = remote.runs.stage
    prefix = f"{remote.name('tasks').last}_"
    while rows := _show_tasks(remote, prefix):
        _run(remote.client, removals(schema, prefix, [str(row["name"]) for row in rows]))
        if len(rows) < MOST_SHOWN:
            return


def _services(remote: Remote) -> list[Name]:
    """The job services that the tasks of a run have started."""
    rows = remote.client.rows(
        f"SHOW JOB SERVICES IN SCHEMA {_schema(remote)} LIMIT {MOST_SHOWN}"
    )  # fmt: skip
    return [
        remote.runs.stage.beside(str(row["name"]))
        for row in rows
        if row["comment"] == remote.comment
    ]
