"""What the history of tasks says of the jobs of a launch: one statement for all graphs, and what
its rows mean. Pure: nothing here talks to Snowflake.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowdist.backends.base import JobState
from flowdist.backends.snowflake.graph import job_of
from flowdist.backends.snowflake.remote import Seen
from flowdist.backends.snowflake.services import container_seen, is_ours
from flowdist.snowflake.firing import GROUP_LETTERS
from flowdist.snowflake.names import Name, literal

__all__ = ["NOT_RUN", "GraphHistory", "history_statement"]

MOST_ROWS = 10_000
# An attempt has ended with its finalizer; where none is seen, so long after its last task, and
# earlier where it was cancelled.
QUIET_SECONDS, CANCELLED_SECONDS = 300, 15
# A failed graph is tried again at once; it is not any more after so long.
RETRY_SECONDS = 120
# So long a task may take to say which job service it has started.
NAMELESS_SECONDS = 60
LIVE = ("SCHEDULED", "EXECUTING")
FAILED = ("FAILED", "FAILED_AND_AUTO_SUSPENDED")
# Of a task that was ended, the container may go on for 30 seconds, and be seen to have ended later.
COMMIT_SECONDS = 90
# ERROR_CODE of a statement that took longer than it may.
TIMED_OUT = 630

NOT_RUN = Seen(JobState.CANCELLED, "was not run, as a task before it has not succeeded")
"""A task whose predecessors have not all succeeded."""

Row = Mapping[str, Any]


def history_statement(
    roots: Sequence[str], database: str, *, since: float, group: str | None = None
) -> str:
    """What has become of the tasks of graphs, by the ids of their roots, with the job services that
    they have started.

    Args:
        database: any that the role may use.
        since: a moment before the first job (unix seconds).
        group: the end of the id of the graph run that is meant, where a graph has several.
    """
    function = Name((database, "INFORMATION_SCHEMA", "TASK_HISTORY")).sql
    tables = "\n    UNION ALL ".join(
        f"SELECT * FROM TABLE({function}(ROOT_TASK_ID => {literal(root)}, "
        f"RESULT_LIMIT => {MOST_ROWS}))"
        for root in roots
    )
    only = ""
    if group is not None:
        only = f"\nWHERE RIGHT(h.graph_run_group_id, {GROUP_LETTERS}) = {literal(group)}"
    return f"""SELECT h.root_task_id, h.name, h.state, h.attempt_number, h.error_code,
  h.error_message, h.spcs_job_id,
  DATEDIFF('second', h.query_start_time, CURRENT_TIMESTAMP()) AS begun_ago,
  DATEDIFF('second', h.completed_time, CURRENT_TIMESTAMP()) AS ended_ago,
  j.database_name AS job_database, j.schema_name AS job_schema, j.name AS job_name,
  j.status AS job_status, j.message AS job_message, j.instance_statuses
FROM (
    {tables}
) AS h
LEFT JOIN (
    SELECT * FROM TABLE(SNOWFLAKE.SPCS.GET_JOB_HISTORY(
      CREATED_TIME_START => TO_TIMESTAMP_LTZ({int(since)}), RESULT_LIMIT => {MOST_ROWS}))
) AS j ON j.id = h.spcs_job_id{only}"""


@dataclass(frozen=True)
class GraphHistory:
    """The rows of one run of one graph.

    Attributes:
        rows: the latest of each task, by the task's name.
        attempt: the number of the latest attempt.
    """

    rows: Mapping[str, Row]
    attempt: int

    @classmethod
    def of(cls, rows: Iterable[Row]) -> GraphHistory:
        """From rows in any order; of a task that ran more than once the latest attempt counts."""
        latest: dict[str, Row] = {}
        for row in rows:
            known = latest.get(row["name"])
            if known is None or _order(row) > _order(known):
                latest[row["name"]] = row
        return cls(latest, max((int(r["attempt_number"]) for r in latest.values()), default=0))

    @property
    def finalized(self) -> bool:
        """Whether the finalizer of the latest attempt has ended."""
        return any(
            name.endswith("_END")
            and int(row["attempt_number"]) == self.attempt
            and row["state"] not in LIVE
            for name, row in self.rows.items()
        )

    def over(self, retries: int, *, cancelled: bool) -> bool:
        """Whether nothing more will run."""
        rows = self.rows.values()
        if not rows or any(row["state"] in LIVE for row in rows):
            return False
        quiet = min(int(row["ended_ago"] or 0) for row in rows)
        if not self.finalized and quiet < (CANCELLED_SECONDS if cancelled else QUIET_SECONDS):
            return False
        again = self.attempt <= retries and any(row["state"] in FAILED for row in rows)
        return cancelled or not again or quiet >= RETRY_SECONDS

    def jobs(
        self, wanted: Sequence[int], reduces: Sequence[int], retries: int, *, cancelled: bool
    ) -> dict[int, Seen]:
        """How the jobs of the rows and the reduces, which one task runs, are."""
        over = self.over(retries, cancelled=cancelled)
        last = over or cancelled or self.attempt > retries
        by_job = {job_of(name): row for name, row in self.rows.items()}
        one = next((row for name, row in self.rows.items() if name.endswith("_REDUCES")), None)
        found = {job: _seen(by_job.get(job), over, last) for job in wanted}
        return found | {job: _seen(one, over, last) for job in reduces}


def _order(row: Row) -> tuple[int, int]:
    """Later attempts come after earlier ones; of two runs in one attempt, the one that went well
    (a task with predecessors may rarely be run twice).
    """
    return int(row["attempt_number"]), int(row["state"] == "SUCCEEDED")


def _seen(row: Row | None, over: bool, last: bool) -> Seen:
    """How the job of a task is; `last` where a failed task is not tried again."""
    if row is None:
        return NOT_RUN if over else Seen(JobState.PENDING, "its task waits for those before it")
    state, message = row["state"], str(row["error_message"] or "")
    container = _container(row)
    if state == "SUCCEEDED":
        return _with(container, JobState.DONE)
    if state == "SCHEDULED":
        return Seen(JobState.PENDING, "its task is about to run")
    if state == "EXECUTING":
        return _executing(row, container)
    commits = container is not None and not container.state.ended
    if commits and int(row["ended_ago"] or 0) < COMMIT_SECONDS:
        # A container that is told to end writes down what it has.
        return _with(container, JobState.RUNNING)
    if not last:
        said = f"has failed at attempt {row['attempt_number']} and is tried again: {message}"
        return _with(container, JobState.PENDING, said)
    if state not in FAILED:
        return _with(container, JobState.CANCELLED, message or f"its task was {state.lower()}")
    if str(row["error_code"] or "") == str(TIMED_OUT):
        return _with(container, JobState.TIMEOUT, message)
    grave = (JobState.FAILED, JobState.OUT_OF_MEMORY, JobState.NODE_FAIL)
    if container is not None and container.state in grave:
        return container
    return _with(container, JobState.FAILED, message)


def _executing(row: Row, container: Seen | None) -> Seen:
    if container is not None and not container.state.ended:
        return container
    if container is None and row["spcs_job_id"] is None:
        # Its job service is about to be made, unless histories do not say which it is.
        waits = int(row["begun_ago"] or 0) < NAMELESS_SECONDS
        return Seen(JobState.PENDING if waits else JobState.RUNNING)
    return _with(container, JobState.RUNNING)


def _with(container: Seen | None, state: JobState, message: str = "") -> Seen:
    """What is known of the container, with what its task says."""
    if container is None:
        return Seen(state, message)
    said = message or container.message
    return Seen(state, said, container.exit_code, container.service, container.instance)


def _container(row: Row) -> Seen | None:
    """What GET_JOB_HISTORY says of the container of a task's job service."""
    if row["job_name"] is None:
        return None
    service = Name((row["job_database"], row["job_schema"], row["job_name"])).sql
    statuses = json.loads(row["instance_statuses"] or "{}")
    instance: Row = next(iter(statuses.get("instances") or ()), {})
    containers: Sequence[Row] = instance.get("containers") or ()
    container: Row = next((c for c in containers if is_ours(c.get("containerName"))), {})
    return container_seen(
        {
            "service_status": row["job_status"],
            "status": container.get("status") or row["job_status"],
            "message": container.get("message") or row["job_message"],
            "last_exit_code": container.get("lastExitCode"),
            "instance_id": instance.get("instanceId", 0),
        },
        service,
    )
