"""Runs the body of a task, in a session of its own with the role that owns the task."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from flowdist.emulator.compute.records import Service
from flowdist.emulator.errors import SqlError, cancelled
from flowdist.emulator.names import FullName
from flowdist.emulator.queries import Query, new_query_id
from flowdist.emulator.session import Session
from flowdist.emulator.statements import Context
from flowdist.emulator.tasks.progress import LONGEST, failure
from flowdist.emulator.tasks.runs import GraphRun, Member, Run, State

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["adopt", "check_owner", "is_job", "job_of", "jobs", "run"]

USER = "SYSTEM"
"""Who runs tasks."""

_JOB = re.compile(r"\s*EXECUTE\s+JOB\s+SERVICE\b", re.IGNORECASE)
_MAY_START_JOBS = re.compile(r"\bJOB\b", re.IGNORECASE)


def run(account: Account, graph: GraphRun, one: Run) -> None:
    """Run a task to its end and hand on how it went."""
    version = graph.version
    member = version.members[one.task]
    try:
        session = account.open_session(
            USER,
            version.owner,
            database=version.database,
            schema=version.schema,
            warehouse=member.warehouse,
            parameters=dict(member.parameters),
            task={
                "run": one.id,
                "group": graph.run_group,
                "attempt": graph.attempt,
                "task": str(FullName(version.database, version.schema, one.task)),
            },
        )
        try:
            _attempt(account, session, graph, one, member)
        finally:
            account.close_session(session)
    except SqlError as error:
        failure(error, one)
    except Exception as error:  # a defect must not leave a run that never ends
        failure(_defect(error), one)
    _settle(account, graph, one)


def adopt(account: Account, graph: GraphRun, one: Run, job: Service) -> None:
    """Wait for a job that a task of a former server has started, and end the run with it."""
    version = graph.version
    session = Session(0, USER, version.owner, version.database, version.schema)
    query = _silent(account, session, version.members[one.task].definition)
    with account.tasks.lock:
        one.query = query
        if one.cancelled:  # before there was a query to abort
            account.queries.abort(query)
    try:
        account.compute.finish(job, query, LONGEST)
        one.state = State.SUCCEEDED
    except SqlError as error:
        failure(error, one)
    except Exception as error:
        failure(_defect(error), one)
    _settle(account, graph, one)


def check_owner(account: Account, owner: str, warehouse: str | None) -> None:
    """Refuse to run a task whose owner may not run it."""
    session = Session(0, USER, owner)
    try:
        missing = "EXECUTE TASK privilege"
        account.access.require_account(session, "EXECUTE TASK")
        if warehouse is None:
            missing = "EXECUTE MANAGED TASK privilege"
            account.access.require_account(session, "EXECUTE MANAGED TASK")
        else:
            missing = "USAGE privilege on the task's warehouse"
            found = account.catalog.require("warehouse", (warehouse,))
            account.access.require(session, "USAGE", found)
    except SqlError:
        raise SqlError(
            91089, "23001", f"Cannot execute task , {missing} must be granted to owner role"
        ) from None


def is_job(definition: str) -> bool:
    """Whether a body is one job and nothing else."""
    return _JOB.match(definition) is not None


def job_of(account: Account, run_id: int) -> Service | None:
    """The last job that a run has started, whether or not it was dropped since."""
    with account.compute.store.lock:
        services = list(account.compute.store.services.values())
    found = [one for one in services if one.job and one.task and one.task["run"] == run_id]
    return max(found, key=lambda one: one.id, default=None)


def jobs(account: Account) -> dict[int, Service]:
    """The last job of each run that has started one."""
    with account.compute.store.lock:
        services = sorted(account.compute.store.services.values(), key=lambda one: one.id)
    return {one.task["run"]: one for one in services if one.job and one.task}


def _attempt(account: Account, session: Session, graph: GraphRun, one: Run, member: Member) -> None:
    tasks = account.tasks
    now = account.clock.time()
    check_owner(account, graph.version.owner, member.warehouse)
    if member.condition is not None and not _holds(account, session, member.condition):
        one.state = State.SKIPPED
        return
    query, _ = account.query(session, member.definition)
    with tasks.lock:
        if tasks.closed:
            return
        if graph.started is None:
            graph.started = now
            tasks.store.note(graph)
        one.query, one.query_id, one.started = query, query.id, now
        one.deadline = tasks.progress.deadline(graph, member, now)
        late = one.deadline <= now
        if late:
            one.timed_out = max(0.0, now - graph.started)
        tasks.store.update(one)
    if late or one.cancelled:
        account.queries.abort(query)
        account.queries.finish(query, None, cancelled())
    else:
        account.run(session, query, (), count=1)
    if _MAY_START_JOBS.search(member.definition):
        job = job_of(account, one.id)
        one.job = None if job is None else job.id
    if query.error is None:
        one.state = State.SUCCEEDED
    else:
        failure(query.error, one)
        if query.stop.is_set() and one.timed_out is None:
            one.state = State.CANCELLED


def _settle(account: Account, graph: GraphRun, one: Run) -> None:
    tasks = account.tasks
    with tasks.lock:
        if tasks.closed:
            return  # the next server decides from what is written
        one.completed = account.clock.time()
        tasks.progress.settle(graph, one)


def _holds(account: Account, session: Session, condition: str) -> bool:
    """Whether the WHEN of a task is true; it is no query that a history shows."""
    text = f"SELECT ({condition})::BOOLEAN"
    query = _silent(account, session, text)
    result = account.engine.run(Context(account, session, query), text)
    return bool(result.rows()[0][0])


def _defect(error: Exception) -> SqlError:
    return SqlError(603, "XX000", f"SQL execution internal error:\n{error!r}")


def _silent(account: Account, session: Session, text: str) -> Query:
    """A query that no history shows."""
    return Query(
        id=new_query_id(),
        text=text,
        session_id=session.id,
        user=session.user,
        role=session.role,
        database=session.database,
        schema=session.schema,
        warehouse=session.warehouse,
        tag="",
        request_id="",
        started=account.clock.time(),
    )
