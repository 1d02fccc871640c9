"""Job services: running them, what their containers are doing, their logs, their end."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flowdist.backends.base import JobState, Remark
from flowdist.backends.snowflake.spec import CONTAINER
from flowdist.snowflake.connection import Client, SnowflakeError
from flowdist.snowflake.names import Name, literal

if TYPE_CHECKING:
    from flowdist.backends.snowflake.remote import Remote, Seen

__all__ = [
    "ask_reduces",
    "cancel_job",
    "container_rows",
    "container_seen",
    "containers",
    "drop_service",
    "ending_words",
    "is_ours",
    "replicas",
    "run_job",
    "service_exists",
    "service_log",
    "waiting_remarks",
]

LOG_LINES = 2000
_STATES = {
    "PENDING": JobState.PENDING,
    "READY": JobState.RUNNING,
    "RUNNING": JobState.RUNNING,
    "TERMINATING": JobState.RUNNING,
    "DONE": JobState.DONE,
    "SUCCEEDED": JobState.DONE,
    "FAILED": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
    "DELETED": JobState.CANCELLED,
    "INTERNAL_ERROR": JobState.NODE_FAIL,
}
# What a job service as a whole says of a replica that it shows no container of.
_OF_WHOLE = {
    "DONE": JobState.DONE,
    "FAILED": JobState.LOST,
    "CANCELLED": JobState.CANCELLED,
    "DELETING": JobState.CANCELLED,
    "DELETED": JobState.CANCELLED,
    "INTERNAL_ERROR": JobState.NODE_FAIL,
}
_MEMORY = re.compile(r"memory|oom", re.IGNORECASE)
# What a container ends with when it is told to, and when it is killed.
TERMINATED, KILLED = 143, 137


def run_job(client: Client, statement: str) -> bool:
    """Run a job service; False where one of its name has been started before, which is then the one
    that counts.
    """
    try:
        client.run(statement)
    except SnowflakeError as error:
        if not error.exists:
            raise
        return False
    return True


def containers(client: Client, service: Name) -> dict[int, Seen]:
    """What the containers of a job service are doing, by instance; nothing where there is no such
    service.
    """
    return _by_instance(container_rows(client, service) or (), service)


def replicas(client: Client, service: Name, count: int) -> dict[int, Seen]:
    """How each replica of a job service is; all are lost where there is no such service."""
    from flowdist.backends.snowflake.remote import Seen

    rows = container_rows(client, service)
    if rows is None:
        gone = f"its job service {service.sql} is gone: dropped, or too long ago to be known of"
        return dict.fromkeys(range(count), Seen(JobState.LOST, gone))
    whole = str(rows[0].get("service_status") or "").upper() if rows else ""
    other = Seen(_OF_WHOLE.get(whole, JobState.PENDING), service=service.sql)
    return dict.fromkeys(range(count), other) | _by_instance(rows, service)


def container_rows(client: Client, service: Name) -> list[dict[str, Any]] | None:
    """The containers of a service as SHOW has them; None where there is no such service."""
    try:
        rows = client.rows(f"SHOW SERVICE CONTAINERS IN SERVICE {service.sql}")
    except SnowflakeError as error:
        if error.missing:
            return None
        raise
    return [row for row in rows if is_ours(row.get("container_name"))]


def is_ours(container: object) -> bool:
    """Whether a container is the one that is asked for in each instance. Snowflake adds others,
    such as those that mount stages; it names none while an instance waits for its node.
    """
    return not container or str(container).lower() == CONTAINER


def _by_instance(rows: Sequence[Mapping[str, object]], service: Name) -> dict[int, Seen]:
    return {
        int(str(row["instance_id"])): container_seen(row, service.sql)
        for row in rows
        if str(row.get("instance_id") or "").isdigit()
    }


def container_seen(row: Mapping[str, object], service: str) -> Seen:
    """One row of SHOW SERVICE CONTAINERS."""
    from flowdist.backends.snowflake.remote import Seen

    whole = str(row.get("service_status") or "").upper()
    state = _STATES.get(str(row.get("status") or "").upper(), JobState.UNKNOWN)
    if whole in ("CANCELLED", "DELETED", "INTERNAL_ERROR") and not state.ended:
        state = _STATES[whole]
    message = str(row.get("message") or "")
    code = row.get("last_exit_code")
    exit_code = int(str(code)) if str(code).lstrip("-").isdigit() else None
    if state is JobState.FAILED and _MEMORY.search(message):
        state = JobState.OUT_OF_MEMORY
    return Seen(state, message, exit_code, service, int(str(row.get("instance_id") or 0)))


def service_exists(client: Client, service: Name) -> bool:
    """Whether there is a job or a service of that name."""
    try:
        return bool(client.rows(f"DESCRIBE SERVICE {service.sql}"))
    except SnowflakeError as error:
        if error.missing:
            return False
        raise


def ask_reduces(remote: Remote) -> dict[int, Seen]:
    """How the reduces of a launch are whose rows are all there, as the job service that follows
    them. It is started here where whoever ended last could not, or has not yet.
    """
    from flowdist.backends.snowflake.remote import NOT_STARTED, Seen

    if not remote.reduce_jobs:
        return {}
    seen = containers(remote.client, remote.name("reduces"))
    if seen:
        return dict.fromkeys(remote.reduce_jobs, seen.get(0, Seen(JobState.PENDING)))
    if remote.stopped:
        return dict.fromkeys(remote.reduce_jobs, NOT_STARTED)
    run_job(remote.client, remote.reduces_statement())
    return {}


def cancel_job(client: Client, service: Name) -> None:
    """End a job service; what it was is kept. Nothing happens where it is gone or has ended."""
    try:
        client.run(f"CALL {service.sql}!SPCS_CANCEL_JOB()")
    except SnowflakeError as error:
        if error.passing:
            raise


def drop_service(client: Client, service: Name) -> None:
    """Remove a job or a service, whatever state it is in."""
    client.run(f"DROP SERVICE IF EXISTS {service.sql}")


def service_log(client: Client, service: str, instance: int) -> str:
    """The last lines of a container's output: from the container while there is one, then from the
    event table; empty where neither has any (any more).
    """
    with contextlib.suppress(SnowflakeError):
        found = client.value(
            f"SELECT SYSTEM$GET_SERVICE_LOGS({literal(service)}, {instance}, "
            f"{literal(CONTAINER)}, {LOG_LINES})"
        )
        if found:
            return str(found)
    with contextlib.suppress(SnowflakeError):
        rows = client.rows(
            f"SELECT log FROM TABLE({service}!SPCS_GET_LOGS()) WHERE instance_id = ? "
            f"AND container_name = ? ORDER BY timestamp DESC LIMIT {LOG_LINES}",
            (instance, CONTAINER),
        )
        return "\n".join(str(row["log"]) for row in reversed(rows))
    return ""


def ending_words(seen: Seen) -> str:
    """How a container ended badly, in a few words.

    >>> from flowdist.backends.snowflake.remote import Seen
    >>> ending_words(Seen(JobState.FAILED, "", 137))
    'killed (exit code 137), as what needs more memory than it has is'
    """
    if seen.state is JobState.OUT_OF_MEMORY:
        return f"out of memory ({seen.message})"
    if seen.exit_code == KILLED:
        return "killed (exit code 137), as what needs more memory than it has is"
    if seen.exit_code == TERMINATED:
        return "told to end (exit code 143), as for maintenance of its node"
    said = [seen.message] if seen.message else []
    if seen.exit_code is not None:
        said.append(f"exit code {seen.exit_code}")
    return ", ".join(said) or seen.state.value


def waiting_remarks(
    remote: Remote, states: Mapping[int, JobState], seen: Mapping[int, Seen] | None = None
) -> Sequence[Remark]:
    """Why jobs wait that have not started: the pool, the image, maintenance. `seen` is what
    Snowflake has just said of them, where it was asked.
    """
    from flowdist.backends.snowflake.waiting import wait_remarks

    jobs = [job for job in remote.row_jobs if not states.get(job, JobState.UNKNOWN).ended]
    waiting = [j for j in jobs or remote.reduce_jobs if states.get(j) is JobState.PENDING]
    messages = [one for job, one in (seen or {}).items() if job in waiting]
    return wait_remarks(remote.client, remote.plan, len(waiting), messages)
