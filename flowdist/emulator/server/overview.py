"""What is going on in the account, as plain data: for the page and for `flowdist emulator status`.

Nothing here takes long, however much there is: lists are cut, and files are counted up to a limit.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from flowdist import __version__
from flowdist.emulator.catalog import Object
from flowdist.emulator.compute import logs
from flowdist.emulator.compute.families import find_family
from flowdist.emulator.compute.placement import Room
from flowdist.emulator.compute.records import Service
from flowdist.emulator.faults import Rule
from flowdist.emulator.names import shown

if TYPE_CHECKING:
    from pathlib import Path

    from flowdist.emulator.account import Account

__all__ = ["Overview", "containers"]

FRESH = 0.5
"""For so many seconds what was gathered serves all who ask."""
MOST_QUERIES, MOST_SERVICES, MOST_TASKS, MOST_GRAPHS, MOST_INJECTED = 100, 100, 200, 10, 20
MOST_STAGES, MOST_FILES = 100, 1_000
"""How many stages are looked at, and how many files of each are counted."""
MOST_CONTAINERS, MOST_LINES, MOST_SHOWN = 40, 25, 4_000
"""How many containers of a service are told, and how many lines and characters of their logs."""
DAY = 86_400


class Overview:
    """Gathers everything at once, as what JSON can hold; seldom, however many ask."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._lock = threading.Lock()
        self._at = 0.0
        self._found: dict[str, Any] = {}

    def __call__(self) -> dict[str, Any]:
        """What was so at most half a second ago."""
        with self._lock:
            now = self._account.clock.monotonic()
            if not self._found or now - self._at >= FRESH:
                self._found, self._at = _gathered(self._account), now
            return self._found


def _gathered(account: Account) -> dict[str, Any]:
    queries = account.queries.all()
    tasks = account.catalog.all("task")
    services = _services(account)
    stages = account.catalog.all("stage")
    for own in account.catalog.all("user stage"):
        stages += [own] if next(account.files.store(own).walk(""), None) else []
    return {
        "version": __version__,
        "pid": os.getpid(),
        "url": account.url,
        "uptime": account.clock.time() - account.started,
        "settings": {**vars(account.settings), "directory": str(account.directory)},
        "sessions": len(account.sessions),
        "pools": _pools(account),
        "services": services[:MOST_SERVICES],
        "services_total": len(services),
        "tasks": [_task(task) for task in tasks[:MOST_TASKS]],
        "tasks_total": len(tasks),
        "graphs": _graphs(account),
        "stages": [_stage(account, stage) for stage in stages[:MOST_STAGES]],
        "stages_total": len(stages),
        "queries": [_query(account, q) for q in reversed(queries[-MOST_QUERIES:])],
        "queries_total": len(queries),
        "faults": [_fault(rule) for rule in account.faults.rules()],
        "fault_log": account.faults.log()[: -MOST_INJECTED - 1 : -1],
    }


# -- compute


def _pools(account: Account) -> list[dict[str, Any]]:
    compute = account.compute
    with compute.store.lock:
        return [_pool(account, pool) for pool in compute.pools.all()]


def _pool(account: Account, pool: Object) -> dict[str, Any]:
    pools = account.compute.pools
    figures = pools.figures(pool)
    holders = pools.holders(pool)
    rooms = {r.node: r for ready in (True, False) for r in pools.rooms(pool, ready=ready)}
    instances = [i for service in pools.services(pool) for i in service.instances.values()]
    return {
        "name": shown(pool.name),
        "state": figures.state,
        "family": pool.data["instance_family"],
        "min_nodes": pool.data["min_nodes"],
        "max_nodes": pool.data["max_nodes"],
        "running": sum(i.holds for i in instances),
        "pending": sum(i.node is None and i.ended is None for i in instances),
        "paused": bool(pool.data["paused"]),
        "nodes": [
            {
                "id": node.id,
                "state": "STARTING" if node.ready is None else "READY",
                "used": _used(rooms[node.id], node.family),
                "instances": [
                    f"{shown(account.compute.store.services[i.service].name)} {i.number}"
                    for i in holders.get(node.id, ())
                ],
            }
            for node in pools.nodes(pool)
        ],
    }


def _used(room: Room, family: str) -> str:
    """What instances have asked for of a node."""
    full = find_family(family)
    cpu, memory = full.vcpu - room.cpu, (full.memory - room.memory) / 1024**3
    parts = [f"{cpu:.3g} of {full.vcpu} vCPU", f"{memory:.3g} of {full.memory_gib} GiB"]
    if full.gpu_count:
        parts.append(f"{full.gpu_count - room.gpu} of {full.gpu_count} GPU")
    return ", ".join(parts)


def _services(account: Account) -> list[dict[str, Any]]:
    """Those that are there, last first."""
    with account.compute.store.lock:
        found = [s for s in account.compute.store.services.values() if s.dropped is None]
        return [_service(account, s) for s in sorted(found, key=lambda s: -s.created)]


def _service(account: Account, service: Service) -> dict[str, Any]:
    states = Counter(instance.status for instance in service.instances.values())
    end = service.completed if service.completed is not None else account.clock.time()
    restarts = sum(box.restarts for i in service.instances.values() for box in i.boxes)
    codes = Counter(
        box.exit_code
        for i in service.instances.values()
        for box in i.boxes
        if box.exit_code not in (None, 0)
    )
    remarks = [service.message.rstrip(".")]
    remarks += [f"{n} ended with code {code}" for code, n in codes.most_common(3)]
    remarks += [f"{restarts} restarts"] if restarts else []
    return {
        "id": service.id,
        "name": str(service.full_name),
        "job": service.job,
        "status": service.status,
        "pool": shown(service.pool_name),
        "instances": ", ".join(f"{n} {state}" for state, n in sorted(states.items())),
        "created": service.created,
        "seconds": end - service.created,
        "message": "; ".join(part for part in remarks if part),
    }


def containers(account: Account, identity: int) -> list[dict[str, Any]] | None:
    """The containers of a service by its id, those that failed first, with the last lines of their
    logs; None where there is no such service.
    """
    with account.compute.store.lock:
        service = account.compute.store.services.get(identity)
        if service is None or service.dropped is not None:
            return None
        every = [(i, box) for _, i in sorted(service.instances.items()) for box in i.boxes]
        every.sort(key=lambda pair: pair[1].exit_code in (None, 0))
        found = [
            (
                {
                    "instance": instance.number,
                    "name": box.name,
                    "status": box.status,
                    "exit_code": box.exit_code,
                    "message": box.message,
                    "restarts": box.restarts,
                    "node": instance.node or "",
                },
                account.compute.launcher.place(service, instance, box),
            )
            for instance, box in every[:MOST_CONTAINERS]
        ]
    return [{**said, "log": [_line(line) for line in _last(at)]} for said, at in found]


def _last(directory: Path) -> list[logs.Line]:
    return logs.read(directory, MOST_LINES, MOST_SHOWN)


def _line(line: logs.Line) -> dict[str, Any]:
    return {"time": line.time, "stream": line.stream, "text": line.text}


# -- tasks


def _task(task: Object) -> dict[str, Any]:
    data = task.data
    if data["finalizes"] is not None:
        when = f"finalizes {shown(data['finalizes'])}"
    elif data["predecessors"]:
        names = [shown(name) for name in data["predecessors"]]
        when = "after " + ", ".join(names[:5])
        when += f" and {len(names) - 5} more" if len(names) > 5 else ""
    else:
        when = data["schedule"] or ""
    return {"name": str(task.full_name), "state": data["state"], "when": when}


def _graphs(account: Account) -> list[dict[str, Any]]:
    store = account.tasks.store
    now = account.clock.time()
    recent = itertools.chain(store.graphs(None), store.graphs(now - DAY))
    found = []
    for graph in itertools.islice(recent, MOST_GRAPHS):
        runs = store.runs_of(graph["root_id"], graph["run_group"])
        states = Counter(run["state"] for run in runs if run["graph"] == graph["id"])
        end = graph["completed"] if graph["completed"] is not None else now
        started = graph["started"] or graph["scheduled"]
        found.append(
            {
                "root": f"{shown(graph['database'])}.{shown(graph['schema'])}."
                f"{shown(graph['root'])}",
                "state": graph["state"],
                "tasks": ", ".join(f"{n} {state}" for state, n in sorted(states.items())),
                "started": started,
                "seconds": max(end - started, 0.0),
            }
        )
    return found


# -- the rest


def _stage(account: Account, stage: Object) -> dict[str, Any]:
    files = size = 0
    # Straight from the disk: hidden files count, and this look at them is no occasion of a fault.
    for _, stat in itertools.islice(account.files.store(stage).walk(""), MOST_FILES):
        files, size = files + 1, size + stat.st_size
    name = str(stage) if stage.kind == "stage" else f"@~ of {stage.name}"
    return {"name": name, "files": files, "bytes": size, "more": files == MOST_FILES}


def _query(account: Account, query: Any) -> dict[str, Any]:
    end = query.ended if query.ended is not None else account.clock.time()
    text, error = query.text, query.error
    return {
        "id": query.id,
        "text": text if len(text) <= 2_000 else text[:2_000] + " ...",
        "state": str(query.state),
        "started": query.started,
        "seconds": end - query.started,
        "user": query.user,
        "role": query.role,
        "tag": query.tag,
        "error": "" if error is None else f"{error.code}: {error.message.splitlines()[-1]}",
    }


def _fault(rule: Rule) -> dict[str, Any]:
    """A rule in words."""
    about = [rule.location or rule.pool]
    about += [f"path {rule.path}"] if rule.path else []
    about += [f"statement {rule.statement}"] if rule.statement else []
    often = [f"after {rule.after}"] if rule.after else []
    often += [f"each {rule.every}th"] if rule.every > 1 else []
    often += [f"with probability {rule.probability:g}"] if rule.probability < 1 else []
    often += [f"at most {rule.times} times"] if rule.times is not None else []
    often += [f"{rule.seconds:g} s"] if rule.seconds is not None else []
    words = [word for word in about + often if word]
    return {
        "id": rule.id,
        "kind": str(rule.kind),
        "on": ", ".join(words) or "every request",
        "seen": rule.seen,
        "hits": rule.hits,
    }
