"""`spcs_jobs`: one job service, a replica for each job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flowdist.backends.base import JobState, Remark
from flowdist.backends.snowflake.remote import NOT_STARTED, Remote, Seen
from flowdist.backends.snowflake.services import (
    ask_reduces,
    cancel_job,
    drop_service,
    replicas,
    run_job,
    service_exists,
    waiting_remarks,
)
from flowdist.backends.snowflake.spec import RUNS, execute_job
from flowdist.snowflake.names import Name

__all__ = ["FOLLOWS", "JobServices"]

FOLLOWS = Seen(JobState.PENDING, "follows the rows")
"""A reduce while rows run."""


class JobServices:
    """A job service for the rows, and one for the reduces, which the replica starts that ends
    last.
    """

    def starts_reduces(self, remote: Remote) -> bool:
        return True

    def start(self, remote: Remote) -> dict[str, Any]:
        jobs = remote.row_jobs
        if jobs:
            spec = remote.spec("job", RUNS, remote.run_id, str(remote.attempt))
            run_job(remote.client, execute_job(
                remote.plan,
                spec,
                name=remote.name("rows"),
                comment=remote.comment,
                replicas=len(jobs),
            ))  # fmt: skip
        else:
            run_job(remote.client, remote.reduces_statement())
        return self._started(remote)

    def find(self, remote: Remote) -> dict[str, Any] | None:
        suffix = "rows" if remote.row_jobs else "reduces"
        if not service_exists(remote.client, remote.name(suffix)):
            return None
        return self._started(remote)

    def _started(self, remote: Remote) -> dict[str, Any]:
        return {"service": remote.name("rows").sql, "reduces": remote.name("reduces").sql}

    def ask(self, remote: Remote, known: Mapping[int, JobState]) -> dict[int, Seen]:
        rows = [known.get(job, JobState.UNKNOWN) for job in remote.row_jobs]
        if not all(state.ended for state in rows):
            name = Name.parse(str(remote.started["service"]))
            seen = replicas(remote.client, name, len(rows))
            found = {job: seen[i] for i, job in enumerate(remote.row_jobs)}
            return found | dict.fromkeys(remote.reduce_jobs, FOLLOWS)
        if any(state is not JobState.DONE for state in rows):
            return dict.fromkeys(remote.reduce_jobs, NOT_STARTED)
        return ask_reduces(remote)

    def late(self, remote: Remote) -> Sequence[str]:
        return ()

    def cancel(self, remote: Remote) -> None:
        for key in ("service", "reduces"):
            cancel_job(remote.client, Name.parse(str(remote.started[key])))

    def ended(self, remote: Remote) -> None:
        """Job services that have ended cost nothing, and their logs are of use."""

    def remove(self, remote: Remote) -> None:
        for suffix in ("rows", "reduces"):
            drop_service(remote.client, remote.name(suffix))

    def remarks(self, remote: Remote, states: Mapping[int, JobState]) -> Sequence[Remark]:
        return waiting_remarks(remote, states, self.ask(remote, states))
