"""Functions and methods of services: status, logs, events, waiting, cancelling, history of jobs."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any

from flowdist.emulator.catalog import Object
from flowdist.emulator.compute.observed import (
    dns_domain,
    events,
    instance_statuses,
    local_logs,
    logged,
    naive,
    naive_iso,
    seconds_of,
)
from flowdist.emulator.compute.records import Instance, Service
from flowdist.emulator.errors import SqlError, invalid_value
from flowdist.emulator.result import Result, rows
from flowdist.emulator.sql.parser import Parser
from flowdist.emulator.statements import Context, scalar, table
from flowdist.emulator.statements.service_views import ANY, find_service
from flowdist.emulator.statements.showing import moment
from flowdist.emulator.types import FIXED, LTZ, VARIANT, DataType

NTZ = DataType("TIMESTAMP_NTZ", precision=0, scale=9)
OBJECT = DataType("OBJECT")
DAY = 86_400.0
STATUSES = (
    "PENDING",
    "RUNNING",
    "FAILED",
    "DONE",
    "CANCELLING",
    "CANCELLED",
    "SUSPENDING",
    "SUSPENDED",
    "DELETING",
    "DELETED",
    "INTERNAL_ERROR",
)
FINAL = ("FAILED", "DONE", "CANCELLED", "INTERNAL_ERROR", "DELETED")


def _find(context: Context, name: str, *privileges: str) -> tuple[Object, Service]:
    parse = Parser(name)
    parts = parse.name()
    parse.end()
    kept = find_service(context, parts, _verb(context), *privileges)
    return kept, context.account.compute.service(kept)


def _verb(context: Context) -> str:
    """By what the functions here are called."""
    word = context.query.text.split(None, 1)[0].upper() if context.query.text.strip() else ""
    return "CALL" if word == "CALL" else "SELECT"


# -- waiting and cancelling


@scalar("!SPCS_WAIT_FOR", acts=True)
def wait_for(context: Context, name: str, status: str, seconds: Any) -> str:
    """Wait for a status; an error with the current one where it is not reached in time, or can
    never be reached.
    """
    _, service = _find(context, name, *ANY)
    wanted = str(status).upper()
    if wanted not in STATUSES:
        raise invalid_value(status, "STATUS")

    def over() -> bool:
        ended = service.dropped is not None or (service.job and service.over)
        return service.status == wanted or ended

    context.account.compute.wait(over, context.query, float(seconds))
    if service.status == wanted:
        return f"{service.word} {service.name} has reached status {wanted}."
    what = (
        f"can not reach status {wanted}"
        if over()
        else f"did not reach status {wanted} within {seconds} seconds"
    )
    raise SqlError(
        395093, "22023", f"{service.word} {service.name} {what}. Current status: {service.status}."
    )


@scalar("SYSTEM$WAIT_FOR_SERVICES", acts=True)
def wait_for_services(context: Context, seconds: Any, *names: str) -> str:
    """'OK' once all services run, or one has failed; an error where the time is over."""
    services = [_find(context, name, "OWNERSHIP", "MONITOR")[1] for name in names]

    def done() -> bool:
        failed = any(service.status == "FAILED" for service in services)
        return failed or all(_steady(service) for service in services)

    if context.account.compute.wait(done, context.query, float(seconds)):
        return "OK"
    late = next(service for service in services if not _steady(service))
    raise SqlError(
        395094,
        "57014",
        f"Timed out after {seconds} seconds waiting for service {late.name}. "
        f"Current status: {late.status}.",
    )


def _steady(service: Service) -> bool:
    upgrading = any(i.digest != service.digest for i in service.instances.values())
    return service.status in ("RUNNING", "DONE") and not upgrading


@scalar("!SPCS_CANCEL_JOB", acts=True)
def cancel_job(context: Context, name: str) -> str:
    """Cancel a job; the text says whether there was something to cancel."""
    _, service = _find(context, name, "OPERATE", "OWNERSHIP")
    if not service.job:
        raise SqlError(395095, "22023", f"Service '{service.name}' is not a job service.")
    if context.account.compute.cancel(service):
        return f"Job {service.name} has been requested to be cancelled."
    return f"Job {service.name} is already in a terminal state: {service.status}."


@scalar("SYSTEM$CANCEL_JOB", acts=True)
def system_cancel_job(context: Context, name: str) -> str:
    """The same as a system function."""
    return str(cancel_job(context, name))


# -- state and logs


@scalar("SYSTEM$GET_SERVICE_STATUS", acts=True)
def service_status(context: Context, name: str, seconds: Any = 0) -> str:
    """JSON with an object for each container; `seconds` to wait until none is pending."""
    _, service = _find(context, name, "OWNERSHIP", "MONITOR")

    def settled() -> bool:
        boxes = [box for instance in service.instances.values() for box in instance.boxes]
        return bool(boxes) and all(box.status != "PENDING" for box in boxes)

    if float(seconds) > 0:
        context.account.compute.wait(settled, context.query, float(seconds))
    with context.account.compute.store.lock:
        found = [
            {
                "status": box.status,
                "message": box.message,
                "containerName": box.name,
                "instanceId": str(instance.number),
                "serviceName": service.name,
                "image": service.revisions[instance.digest].images[box.name]["url"],
                "restartCount": box.restarts,
                "startTime": "" if box.started is None else naive_iso(box.started),
            }
            for _, instance in sorted(service.instances.items())
            for box in instance.boxes
        ]
    return json.dumps(found, separators=(",", ":"))


@scalar("SYSTEM$GET_SERVICE_LOGS")
def service_logs(
    context: Context,
    name: str,
    instance_id: Any,
    container: str,
    lines: Any = None,
    previous: Any = False,
    since: Any = None,
    timestamps: Any = False,
) -> str:
    """The last lines that a container has printed, both streams together, 100 KB at the most.

    `since` and `timestamps` are what the Snowflake command line passes. An error where the
    container has not begun, or its node is not there any more.
    """
    _, service = _find(context, name, "OWNERSHIP", "MONITOR")
    with context.account.compute.store.lock:
        instance = _instance(context, service, instance_id, container, bool(previous))
    found = local_logs(
        context.account,
        service,
        instance,
        container,
        None if lines is None else int(lines),
        previous=bool(previous),
        since=seconds_of(since, 0.0) if since else None,
    )
    if not timestamps:
        return "\n".join(line.text for line in found)
    return "\n".join(f"{naive(line.time).isoformat()}Z {line.text}" for line in found)


def _instance(
    context: Context, service: Service, number: Any, container: str, previous: bool
) -> Instance:
    """The instance whose log is wanted; SqlError where there is none to be read."""
    text = str(number)
    instance = service.instances.get(int(text)) if text.isdigit() else None
    boxes = [] if instance is None else instance.boxes
    box = next((box for box in boxes if box.name == container), None)
    if instance is None or box is None:
        raise SqlError(
            395016,
            "02000",
            f"Container '{container}' of instance {text} was not found in service "
            f"{service.name}. Service Status: {service.status}.",
        )
    if previous and not box.restarts:
        raise SqlError(395016, "02000", f"Container '{container}' was not restarted yet.")
    if not previous and box.started is None and box.ended is None:
        raise SqlError(
            395016,
            "02000",
            f"No logs are available for container '{container}'. Container Status: {box.status}, "
            f"message: {box.message}.",
        )
    gone = instance.node is None or instance.node not in context.account.compute.store.nodes
    if gone:
        raise SqlError(
            395016,
            "02000",
            f"Logs of container '{container}' are not available any more: its node was removed. "
            f"Container Status: {box.status}.",
        )
    return instance


@scalar("SYSTEM$GET_SERVICE_DNS_DOMAIN")
def service_dns_domain(context: Context, name: str) -> str:
    """The domain in which the services of a schema are."""
    parse = Parser(name)
    database, schema = context.session.resolve_schema(parse.name(), _verb(context))
    parse.end()
    found = context.account.access.schema(context.session, database, schema)
    return dns_domain(context.account, found.database, found.name)


# -- event table


def _time_range(context: Context, start: Any, end: Any) -> tuple[float, float]:
    # No end by default, not now: of events of one moment some are noted a little later than it.
    return seconds_of(start, context.account.clock.time() - DAY), seconds_of(end, math.inf)


@table("!SPCS_GET_LOGS")
def get_logs(
    context: Context, name: str, *, start_time: Any = None, end_time: Any = None
) -> Result:
    """The lines of a service's containers, of the last day where no time is given; newest
    first.
    """
    _, service = _find(context, name, "OWNERSHIP", "MONITOR")
    found = logged(context.account, [service], *_time_range(context, start_time, end_time))
    return rows(
        [
            ("TIMESTAMP", NTZ),
            ("INSTANCE_ID", FIXED),
            "CONTAINER_NAME",
            "LOG",
            ("RECORD_ATTRIBUTES", OBJECT),
        ],
        [
            (
                naive(entry.time),
                int(entry.resource["snow.service.instance"]),
                entry.resource["snow.service.container.name"],
                entry.value if isinstance(entry.value, str) else json.dumps(entry.value),
                json.dumps(entry.attributes),
            )
            for entry in found
        ],
    )


@table("!SPCS_GET_EVENTS")
def get_events(
    context: Context, name: str, *, start_time: Any = None, end_time: Any = None
) -> Result:
    """The changes of a service's statuses, of the last day where no time is given; newest
    first.
    """
    _, service = _find(context, name, "OWNERSHIP", "MONITOR")
    found = events(context.account, [service], *_time_range(context, start_time, end_time))
    return rows(
        [
            ("TIMESTAMP", NTZ),
            "SEVERITY",
            "EVENT_NAME",
            ("EVENT_DETAILS", OBJECT),
            ("INSTANCE_ID", FIXED),
            "CONTAINER_NAME",
            ("RECORD", OBJECT),
            ("RECORD_ATTRIBUTES", OBJECT),
        ],
        [
            (
                naive(entry.time),
                entry.record["severity_text"],
                entry.record["name"],
                json.dumps(entry.value),
                _number(entry.resource.get("snow.service.instance")),
                entry.resource.get("snow.service.container.name"),
                json.dumps(entry.record),
                None,
            )
            for entry in found
        ],
    )


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


@table("SNOWFLAKE.TELEMETRY.EVENTS")
def event_table(context: Context, database: str | None = None) -> Result:
    """The event table of the account, oldest first. Of services, those that the role may monitor;
    what is left of dropped ones, for their owners.
    """
    account = context.account
    with account.compute.store.lock:
        services = [s for s in account.compute.store.services.values() if _monitors(context, s)]
    found = [*events(account, services), *logged(account, services)][::-1]
    found.sort(key=lambda entry: entry.time)  # lines of one moment stay in their order
    kept = {id(entry.resource): entry.resource for entry in found}
    resources = {key: json.dumps(resource) for key, resource in kept.items()}
    return rows(
        [
            ("TIMESTAMP", NTZ),
            ("START_TIMESTAMP", NTZ),
            ("OBSERVED_TIMESTAMP", NTZ),
            ("TRACE", OBJECT),
            ("RESOURCE", OBJECT),
            ("RESOURCE_ATTRIBUTES", OBJECT),
            ("SCOPE", OBJECT),
            ("SCOPE_ATTRIBUTES", OBJECT),
            "RECORD_TYPE",
            ("RECORD", OBJECT),
            ("RECORD_ATTRIBUTES", OBJECT),
            ("VALUE", VARIANT),
            ("EXEMPLARS", DataType("ARRAY")),
        ],
        [
            (
                naive(entry.time),
                None,
                naive(entry.time),
                None,
                None,
                resources[id(entry.resource)],
                None if entry.scope is None else json.dumps(entry.scope),
                None,
                entry.kind,
                json.dumps(entry.record),
                None if entry.attributes is None else json.dumps(entry.attributes),
                json.dumps(entry.value),
                None,
            )
            for entry in found
        ],
    )


def _monitors(context: Context, service: Service) -> bool:
    access = context.account.access
    kept = context.account.catalog.find("service", service.full_name)
    if kept is not None and kept.id == service.id:
        return access.can(context.session, "MONITOR", kept)
    roles = access.active(context.session)
    return service.owner in roles or "ACCOUNTADMIN" in roles


# -- history of jobs


@table("SNOWFLAKE.SPCS.GET_JOB_HISTORY")
def job_history(
    context: Context,
    *,
    created_time_start: Any = None,
    created_time_end: Any = None,
    result_limit: Any = 100,
) -> Result:
    """The jobs of the current role, dropped ones too, of the last 30 days; newest first."""
    limit = int(result_limit)
    if not 1 <= limit <= 10_000:
        raise invalid_value(limit, "RESULT_LIMIT")
    now = context.account.clock.time()
    least = seconds_of(created_time_start, now - 30 * DAY)
    most = seconds_of(created_time_end, math.inf)
    store = context.account.compute.store
    with store.lock:
        jobs = [
            s
            for s in store.services.values()
            if s.job and s.owner == context.session.role and least <= s.created <= most
        ]
        jobs.sort(key=lambda s: (s.created, s.id), reverse=True)
        found = [_job(service) for service in jobs[:limit]]
    return rows(
        [
            "QUERY_ID",
            ("ID", FIXED),
            "NAME",
            "DATABASE_NAME",
            "SCHEMA_NAME",
            ("CREATED_TIME", LTZ),
            ("COMPLETED_TIME", LTZ),
            ("DELETED_TIME", LTZ),
            "STATUS",
            "MESSAGE",
            ("INSTANCE_STATUSES", OBJECT),
            "COMPUTE_POOL_NAME",
            "OWNER",
            "OWNER_ROLE_TYPE",
            ("PARAMETERS", OBJECT),
            ("MANAGING_OBJECT", OBJECT),
        ],
        found,
    )


def _job(service: Service) -> tuple[Any, ...]:
    parameters: dict[str, Any] = {"ASYNC": service.asynchronous}
    if service.counted:
        parameters["REPLICAS"] = service.replicas
    moments: list[datetime | None] = [
        moment(service.created),
        moment(service.completed),
        moment(service.dropped),
    ]
    return (
        service.query_id,
        service.id,
        service.name,
        service.database,
        service.schema,
        *moments,
        service.status,
        service.message,
        json.dumps(instance_statuses(service)),
        service.pool_name,
        service.owner,
        "ROLE",
        json.dumps(parameters),
        None,
    )
