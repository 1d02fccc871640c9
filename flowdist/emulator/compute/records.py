"""What the compute side remembers: nodes, services, their instances and containers, and events.

All of it is in memory and in an SQLite file. A change is announced by :meth:`Store.save` and
written by :meth:`Store.flush`, many in one transaction; what must be durable before something
happens outside (a container starts) is flushed before. Services stay here after they were dropped,
for the history of jobs, until their time is over.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowdist.emulator.names import FullName
from flowdist.emulator.sqlite import open_file

if TYPE_CHECKING:
    from flowdist.emulator.compute.spec import Specification

__all__ = ["Box", "Event", "Instance", "Node", "Revision", "Service", "Store"]


@dataclass
class Node:
    """A machine of a pool; times are Unix time in seconds, `ready` None while it starts."""

    id: str
    pool: int
    family: str
    created: float
    ready: float | None = None
    idle: float | None = None
    """Since when nothing has been on it."""

    @property
    def key(self) -> str:
        """Under which it is stored."""
        return self.id


@dataclass
class Box:
    """A container of an instance. ``run`` counts its starts and names its directory, so that a
    container that is started again does not write where the one before it did.
    """

    name: str
    run: int = 0
    status: str = "PENDING"
    message: str = "Waiting to start"
    launched: bool = False
    restarts: int = 0
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    restarted: float | None = None
    retry: float | None = None
    """When it is to be started again."""
    failures: int = 0
    """How often in a row it has failed soon after its start."""

    @property
    def directory(self) -> str:
        """The name of its directory; names of containers have no dots."""
        return f"{self.name}.{self.run}" if self.run else self.name

    @property
    def alive(self) -> bool:
        """Whether something of it may run."""
        return self.launched and self.ended is None


@dataclass
class Instance:
    """One instance of a service. ``node`` is where it was placed, ``ending`` when it was asked to
    end, ``ended`` when nothing of it ran any more.
    """

    service: int
    number: int
    digest: str
    created: float
    status: str = "PENDING"
    node: str | None = None
    started: float | None = None
    ending: float | None = None
    ended: float | None = None
    address: str | None = None
    boxes: list[Box] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Under which it is stored."""
        return f"{self.service}/{self.number}"

    @property
    def holds(self) -> bool:
        """Whether it takes something of its node."""
        return self.node is not None and self.ended is None


@dataclass
class Revision:
    """A specification of a service; ``images`` has, by container, what its image was when the
    specification was given: the fields of `images.Image` and its full name, ``url``. A service
    keeps these images, whatever is pushed later.
    """

    spec: dict[str, Any]
    shown: str
    images: dict[str, dict[str, Any]]

    @property
    def model(self) -> Specification:
        """The specification; parsed once."""
        if not hasattr(self, "_model"):
            from flowdist.emulator.compute.spec import Specification

            self._model = Specification.model_validate(self.spec)
        return self._model


@dataclass
class Service:
    """A service or job, by the id of its object in the catalog, which it outlives.

    ``wanted`` is how many instances there should be; ``counted`` whether REPLICAS was given.
    """

    id: int
    database: str
    schema: str
    name: str
    owner: str
    pool: int
    pool_name: str
    job: bool
    created: float
    query_id: str
    digest: str
    revisions: dict[str, Revision]
    asynchronous: bool = False
    replicas: int = 1
    counted: bool = False
    minimum: int = 1
    maximum: int = 1
    minimum_ready: int = 1
    auto_resume: bool = True
    auto_suspend: int = 0
    warehouse: str | None = None
    integrations: list[str] = field(default_factory=list)
    log_level: str | None = None
    task: dict[str, Any] | None = None
    asked: dict[str, Any] | None = None
    """Of a job, the statement of a client that has started it: see `answers.py`."""
    status: str = "PENDING"
    message: str = "Job is pending."
    updated: float | None = None
    resumed: float | None = None
    suspended: float | None = None
    completed: float | None = None
    cancelling: bool = False
    suspending: bool = False
    dropped: float | None = None
    settled: bool = False
    """Whether nothing happens to it by itself any more."""
    domain: str = ""
    runs: dict[str, int] = field(default_factory=dict)
    """How often each container of each instance was started: the next run's number."""
    instances: dict[int, Instance] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Under which it is stored."""
        return str(self.id)

    @property
    def full_name(self) -> FullName:
        """Its name in the catalog."""
        return FullName(self.database, self.schema, self.name)

    @property
    def revision(self) -> Revision:
        """Its current specification."""
        return self.revisions[self.digest]

    @property
    def wanted(self) -> int:
        """How many instances there should be."""
        if self.dropped is not None or self.suspending or self.cancelling:
            return 0
        return self.replicas if self.job else self.minimum

    @property
    def word(self) -> str:
        """What events call it."""
        return "Job" if self.job else "Service"

    @property
    def over(self) -> bool:
        """Whether it is a job that has ended."""
        return self.job and self.completed is not None

    @property
    def present(self) -> bool:
        """Whether it counts as running or scheduled on its pool."""
        return not self.over and self.dropped is None and self.status != "SUSPENDED"


@dataclass(frozen=True)
class Event:
    """A change of a status, for the event table; ``time`` in microseconds of Unix time."""

    time: int
    service: int
    name: str
    severity: str
    message: str
    status: str
    instance: int | None = None
    container: str | None = None
    node: str | None = None


Record = Node | Instance | Service
_TABLES = {Node: "nodes", Instance: "instances", Service: "services"}


class Store:
    """The records by their keys; whoever reads or changes them holds ``lock``."""

    def __init__(self, path: Path) -> None:
        self.lock = threading.RLock()
        self._file = open_file(path)
        for table in _TABLES.values():
            self._file.execute(
                f"CREATE TABLE IF NOT EXISTS {table} (key TEXT PRIMARY KEY, json TEXT)"
            )
        self._file.execute(
            "CREATE TABLE IF NOT EXISTS events (time INTEGER PRIMARY KEY, service INTEGER, "
            "json TEXT)"
        )
        self._file.execute("CREATE INDEX IF NOT EXISTS of_service ON events (service)")
        self._changed: dict[tuple[str, str], Record | None] = {}
        self._events: list[Event] = []
        self.nodes: dict[str, Node] = {n.id: n for n in self._read(Node)}
        self.services: dict[int, Service] = {s.id: s for s in self._read(Service)}
        for service in self.services.values():
            service.revisions = {
                k: v if isinstance(v, Revision) else Revision(**v)
                for k, v in service.revisions.items()
            }
        for instance in sorted(self._read(Instance), key=lambda i: (i.service, i.number)):
            instance.boxes = [Box(**box) for box in instance.boxes]
            self.services[instance.service].instances[instance.number] = instance
        (self._last_event,) = self._file.execute("SELECT max(time) FROM events").fetchone()

    def close(self) -> None:
        """Write what is left and let go of the file."""
        with self.lock:
            self.flush()
            self._file.close()

    def live(self) -> list[Service]:
        """The services of which something may still happen by itself."""
        with self.lock:
            return [service for service in self.services.values() if not service.settled]

    def save(self, *records: Record) -> None:
        """Have these written with the next flush."""
        for record in records:
            self._changed[_TABLES[type(record)], record.key] = record

    def remove(self, record: Record) -> None:
        """Have it forgotten; an instance also leaves its service."""
        self._changed[_TABLES[type(record)], record.key] = None
        if isinstance(record, Node):
            self.nodes.pop(record.id, None)
        elif isinstance(record, Service):
            self.services.pop(record.id, None)
        else:
            instances = self.services[record.service].instances
            if instances.get(record.number) is record:
                del instances[record.number]

    def event(self, moment: float, **what: Any) -> None:
        """Note an event; no two have the same time, so that their order is never in doubt."""
        time = max(int(moment * 1e6), (self._last_event or 0) + 1)
        self._last_event = time
        self._events.append(Event(time=time, **what))

    def flush(self) -> None:
        """Write what has changed, in one transaction; where that fails, it is left to the next."""
        with self.lock:
            if not self._changed and not self._events:
                return
            self._file.execute("BEGIN")
            try:
                for (table, key), record in self._changed.items():
                    if record is None:
                        self._file.execute(f"DELETE FROM {table} WHERE key = ?", (key,))
                    else:
                        self._file.execute(
                            f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (key, _json(record))
                        )
                self._file.executemany(
                    "INSERT INTO events VALUES (?, ?, ?)",
                    [(e.time, e.service, json.dumps(asdict(e))) for e in self._events],
                )
                self._file.execute("COMMIT")
            except BaseException:
                if self._file.in_transaction:
                    self._file.execute("ROLLBACK")
                raise
            self._changed, self._events = {}, []

    def events(self, services: Iterable[int] | None = None) -> list[Event]:
        """All events, or those of some services, oldest first."""
        with self.lock:
            self.flush()
            if services is None:
                rows = self._file.execute("SELECT json FROM events ORDER BY time").fetchall()
            else:
                ids = ", ".join(str(int(service)) for service in services)
                rows = self._file.execute(
                    f"SELECT json FROM events WHERE service IN ({ids}) ORDER BY time"
                ).fetchall()
        return [Event(**json.loads(text)) for (text,) in rows]

    def forget_events(self, service: int) -> None:
        """Forget the events of a service whose time is over."""
        with self.lock:
            self.flush()
            self._file.execute("DELETE FROM events WHERE service = ?", (service,))

    def _read(self, kind: type[Any]) -> Iterator[Any]:
        for (text,) in self._file.execute(f"SELECT json FROM {_TABLES[kind]} ORDER BY rowid"):
            yield kind(**json.loads(text))


def _json(record: Record) -> str:
    data = dict(vars(record))
    data.pop("instances", None)
    return json.dumps(data, default=_plain)


def _plain(value: Any) -> Any:
    return {k: v for k, v in vars(value).items() if not k.startswith("_")}
