"""What can be seen of services besides their state: event table, logs, history of jobs.

The event table has a row for every change of a status and for every line that a container has
printed. The lines are read from the containers' logs when the table is queried, as far back as they
are asked for, and of very many only the newest; logs are kept until 30 days after a service is
dropped. Snowflake records changes of statuses only where LOG_EVENT_LEVEL says so; the emulator
always does, and without a delay.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowdist.emulator.compute import logs
from flowdist.emulator.compute.records import Event, Instance, Service

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = [
    "Entry",
    "dns_domain",
    "events",
    "instance_statuses",
    "local_logs",
    "logged",
    "naive",
    "naive_iso",
    "seconds_of",
]

SEVERITIES = {"TRACE": 1, "DEBUG": 5, "INFO": 9, "WARN": 13, "ERROR": 17, "FATAL": 21}
"""OpenTelemetry's numbers."""
LONGEST_LINE = 16_384
"""Bytes of a line of a log that the event table takes."""
MOST_BYTES = 200_000_000
"""How much of the logs a query of the event table has in memory: the newest lines of all."""
ENTRY_BYTES = 1000
"""About what a line takes there besides its text."""
LOCAL_LOG_BYTES = 100_000
"""What SYSTEM$GET_SERVICE_LOGS gives at the most: 100 KB."""


@dataclass(frozen=True)
class Entry:
    """A row of the event table; ``time`` is Unix time in seconds."""

    time: float
    kind: str
    """LOG or EVENT."""
    resource: dict[str, Any]
    """The same object for all lines of a container."""
    scope: dict[str, Any] | None
    record: dict[str, Any]
    attributes: dict[str, Any] | None
    value: Any


def events(
    account: Account, services: Iterable[Service], since: float = 0.0, until: float = math.inf
) -> list[Entry]:
    """The changes of statuses of some services within a time, newest first."""
    known = {service.id: service for service in services}
    found = [
        _of_event(account, known[event.service], event)
        for event in account.compute.store.events(known)
        if since <= event.time / 1e6 <= until
    ]
    return found[::-1]


def logged(
    account: Account, services: Iterable[Service], since: float = 0.0, until: float = math.inf
) -> list[Entry]:
    """The lines of some services' containers within a time, newest first; of many the newest, as
    many as `MOST_BYTES` hold.
    """
    newest = _Newest(MOST_BYTES)
    # The latest first: of what is older than the newest lines nothing has to be read then.
    for service in sorted(services, key=lambda service: service.created, reverse=True):
        for path, streams, resource in _exported(account, service):
            for line in logs.newest_first(path):
                if line.time < max(since, newest.since):
                    break
                if line.stream in streams:
                    entry = _of_line(line, resource)
                    if since <= entry.time <= until:
                        newest.add(entry, ENTRY_BYTES + len(line.text))
    return newest.entries()


class _Newest:
    """The newest entries, as many as have room: those from the time ``since`` on."""

    def __init__(self, room: int) -> None:
        self.since = 0.0
        self._room = room
        self._heap: list[tuple[float, int, int, Entry]] = []
        self._count = itertools.count()

    def add(self, entry: Entry, size: int) -> None:
        """Take an entry of that many bytes; what is oldest goes where there is no room."""
        if entry.time < self.since:
            return
        # Of entries of one moment those that came first are the newer lines.
        heapq.heappush(self._heap, (entry.time, -next(self._count), size, entry))
        self._room -= size
        while self._room < 0:
            self.since, _, freed, _ = heapq.heappop(self._heap)
            self._room += freed

    def entries(self) -> list[Entry]:
        """What there is, newest first."""
        return [entry for *_, entry in sorted(self._heap, reverse=True)]


def _of_event(account: Account, service: Service, event: Event) -> Entry:
    value = {"message": event.message}
    if event.status:
        value["status"] = event.status
    return Entry(
        event.time / 1e6,
        "EVENT",
        _resource(account, service, event.instance, event.container, event.node),
        {"name": "snow.spcs.platform"},
        {"name": event.name, "severity_text": event.severity},
        None,
        value,
    )


def _exported(
    account: Account, service: Service
) -> Iterator[tuple[Path, tuple[str, ...], dict[str, Any]]]:
    """The log of every run of every container of a service, which of its streams go to the event
    table, and what their lines are of.
    """
    exporters = service.revision.model.spec.log_exporters
    level = "INFO" if exporters is None else exporters.event_table_config.log_level
    if level == "NONE" or (service.log_level or "").upper() == "OFF":
        return
    streams = ("stdout", "stderr") if level == "INFO" else ("stderr",)
    for number, name, run, path in _runs(account, service):
        instance = service.instances.get(number)
        node = None if instance is None else instance.node
        resource = _resource(account, service, number, name, node)
        mark = hashlib.sha256(f"{service.id}/{number}/{name}/{run}".encode()).hexdigest()[:6]
        resource["snow.service.container.run.id"] = mark
        yield path, streams, resource


def _runs(account: Account, service: Service) -> Iterator[tuple[int, str, int, Path]]:
    """Instance, container, run and directory of every log that there is."""
    home = account.directory / "services" / str(service.id)
    for instance in sorted(home.glob("[0-9]*")):
        for path in sorted(instance.iterdir()):
            if not path.name.startswith("_"):
                name, _, run = path.name.partition(".")
                yield int(instance.name), name, int(run or 0), path


def _of_line(line: logs.Line, resource: dict[str, Any]) -> Entry:
    """A line as text, or as a structured record where it is JSON with a key `body`."""
    text = line.text
    if len(text) > LONGEST_LINE // 4:  # a character has four bytes at the most
        text = text.encode()[:LONGEST_LINE].decode(errors="ignore")
    attributes: dict[str, Any] = {"log.iostream": line.stream}
    if text.startswith("{"):
        try:
            data = json.loads(line.text)
        except ValueError:
            data = None
        if isinstance(data, dict) and "body" in data:
            return _structured(line, data, attributes, resource)
    return Entry(line.time, "LOG", resource, None, {"severity_text": "INFO"}, attributes, text)


def _structured(
    line: logs.Line, data: dict[str, Any], attributes: dict[str, Any], resource: dict[str, Any]
) -> Entry:
    level = str(data.get("severity_text", "INFO")).upper()
    record = {"severity_number": SEVERITIES.get(level, 9), "severity_text": level}
    more, scope = data.get("attributes"), data.get("scope")
    if isinstance(more, dict):
        attributes = {**attributes, **more}
    return Entry(
        seconds_of(data.get("timestamp"), line.time),
        "LOG",
        resource,
        scope if isinstance(scope, dict) else None,
        record,
        attributes,
        data["body"],
    )


def _resource(
    account: Account,
    service: Service,
    instance: int | None,
    container: str | None,
    node: str | None,
) -> dict[str, Any]:
    database = account.catalog.find("database", (service.database,))
    schema = account.catalog.find("schema", (service.database, service.schema))
    pool = account.catalog.find("compute pool", (service.pool_name,))
    found: dict[str, Any] = {
        "snow.account.name": account.settings.account,
        "snow.compute_pool.id": service.pool,
        "snow.compute_pool.name": service.pool_name,
        "snow.compute_pool.node.id": node,
        "snow.compute_pool.node.instance_family": (
            pool.data["instance_family"] if pool is not None and node is not None else None
        ),
        "snow.database.id": None if database is None else database.id,
        "snow.database.name": service.database,
        "snow.query.id": service.query_id,
        "snow.schema.id": None if schema is None else schema.id,
        "snow.schema.name": service.schema,
        "snow.service.container.name": container,
        "snow.service.id": service.id,
        "snow.service.instance": None if instance is None else str(instance),
        "snow.service.name": service.name,
        "snow.service.type": service.word,
    }
    return {key: value for key, value in found.items() if value is not None}


def local_logs(
    account: Account,
    service: Service,
    instance: Instance,
    container: str,
    lines: int | None,
    *,
    previous: bool = False,
    since: float | None = None,
) -> list[logs.Line]:
    """The last lines of a container, 100 KB at the most; none where it has printed nothing."""
    box = next(box for box in instance.boxes if box.name == container)
    path = account.compute.launcher.place(service, instance, box)
    if previous:
        run = box.run - 1
        path = path.with_name(f"{box.name}.{run}" if run else box.name)
    found = logs.read(path, lines, LOCAL_LOG_BYTES)
    return [line for line in found if since is None or line.time >= since]


def instance_statuses(service: Service) -> dict[str, Any]:
    """What GET_JOB_HISTORY has in INSTANCE_STATUSES."""
    instances = [instance for _, instance in sorted(service.instances.items())]
    statuses = [instance.status for instance in instances]
    return {
        "failedInstances": statuses.count("FAILED"),
        "instances": [
            {
                "containers": [
                    {
                        "containerName": box.name,
                        "image": service.revisions[instance.digest].images[box.name]["url"],
                        "imageSha256": service.revisions[instance.digest].images[box.name][
                            "digest"
                        ],
                        "lastExitCode": box.exit_code,
                        "message": box.message,
                        "restartCount": box.restarts,
                        "startTime": "" if box.started is None else naive_iso(box.started),
                        "status": box.status,
                    }
                    for box in instance.boxes
                ],
                "instanceId": str(instance.number),
            }
            for instance in instances
        ],
        "pendingInstances": statuses.count("PENDING"),
        "runningInstances": statuses.count("READY") + statuses.count("TERMINATING"),
        "succeededInstances": statuses.count("SUCCEEDED"),
        "totalInstances": len(instances),
    }


def dns_domain(account: Account, database: str, schema: str) -> str:
    """The domain of the services of a schema: a hash that a new schema of the same name has not."""
    found = account.catalog.find("schema", (database, schema))
    number = int(hashlib.sha256(f"schema {found.id if found else 0}".encode()).hexdigest(), 16)
    letters = "".join("abcdefghijklmnopqrstuvwxyz234567"[number >> 5 * i & 31] for i in range(6))
    return f"{letters}.svc.spcs.internal"


def naive(seconds: float) -> datetime:
    """Unix time as the value of a TIMESTAMP_NTZ in UTC."""
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


def naive_iso(seconds: float) -> str:
    """Unix time to the second, as ``2026-01-01T00:00:00Z``."""
    return naive(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_of(value: Any, default: float) -> float:
    """Unix time of an argument that is a time: a datetime, or its text; naive ones are UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return default
    if not isinstance(value, datetime):
        return default
    return (value if value.tzinfo is not None else value.replace(tzinfo=UTC)).timestamp()
