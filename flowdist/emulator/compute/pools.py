"""Compute pools: their nodes, which come and go, and the state that follows from them.

A pool is an object of the catalog; its ``data`` has the properties of CREATE COMPUTE POOL in lower
case, and ``suspended``, ``paused`` (a fault: nothing new starts), ``resumed_on``, ``updated_on``
and ``nodes_made``, by which nodes are numbered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowdist.emulator.catalog import Object
from flowdist.emulator.compute.families import Family, find_family
from flowdist.emulator.compute.placement import Room, nodes_needed
from flowdist.emulator.compute.records import Instance, Node, Service, Store
from flowdist.emulator.compute.resolved import Demand, demand

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["Figures", "Pools"]

IDLE_NODE_SECONDS = 60.0
"""How long a node above MIN_NODES stays without work; Snowflake does not say how long."""
MAX_NODES_REACHED = 392508
"""The error code of DESCRIBE COMPUTE POOL where instances wait and no node may be added."""
_FULL = (
    "Compute pool has reached the maximum node limit. Consider increasing max_nodes using the "
    "ALTER COMPUTE POOL command."
)


@dataclass(frozen=True)
class Figures:
    """What SHOW COMPUTE POOLS and DESCRIBE COMPUTE POOL count."""

    state: str
    services: int
    jobs: int
    active: int
    idle: int
    target: int
    error_code: str
    message: str


class Pools:
    """All pools; the caller holds the store's lock."""

    def __init__(self, account: Account, store: Store) -> None:
        self._account = account
        self._store = store
        self._idle: dict[int, float] = {}
        """Since when a pool has had nothing to do."""

    def all(self) -> list[Object]:
        """The pools, by name."""
        return self._account.catalog.all("compute pool")

    def family(self, pool: Object) -> Family:
        """What its nodes are."""
        return find_family(pool.data["instance_family"])

    def nodes(self, pool: Object) -> list[Node]:
        """Its nodes, those that start included, oldest first."""
        return [node for node in self._store.nodes.values() if node.pool == pool.id]

    def services(self, pool: Object) -> list[Service]:
        """What runs or is scheduled on it."""
        return [s for s in self._store.live() if s.pool == pool.id and s.present]

    def holders(self, pool: Object | None = None) -> dict[str, list[Instance]]:
        """By node, the instances that take something of it."""
        found: dict[str, list[Instance]] = {}
        for service in self._store.live():
            if pool is None or service.pool == pool.id:
                for instance in service.instances.values():
                    if instance.holds:
                        found.setdefault(str(instance.node), []).append(instance)
        return found

    def demand(self, instance: Instance, family: Family) -> Demand:
        """What an instance takes of a node."""
        service = self._store.services[instance.service]
        return demand(service.revisions[instance.digest].model, family)

    def rooms(self, pool: Object, *, ready: bool) -> list[Room]:
        """What is left of the nodes that are ready, or of those that start."""
        holders = self.holders(pool)
        found = []
        for node in self.nodes(pool):
            if (node.ready is not None) == ready:
                family = find_family(node.family)
                room = Room.of(node.id, family)
                for instance in holders.get(node.id, ()):
                    room.take(self.demand(instance, family))
                found.append(room)
        return found

    # -- what is asked of a pool

    def resume(self, pool: Object) -> None:
        """Have a suspended pool begin again; nothing where it is not suspended."""
        if pool.data["suspended"]:
            now = self._account.clock.time()
            self._account.catalog.update(pool, suspended=False, resumed_on=now)
            self._idle.pop(pool.id, None)
            self._fill(pool)

    def suspend(self, pool: Object) -> None:
        """Have a pool let its nodes go as soon as nothing is on them."""
        self._account.catalog.update(pool, suspended=True)

    def remove_node(self, node: Node) -> None:
        """Forget a node; what was on it is the caller's business."""
        self._store.remove(node)

    # -- time goes by

    def advance(self) -> list[Node]:
        """Let nodes get ready, come up to MIN_NODES and go; suspend pools that have been idle. The
        nodes that have to go although something is on them are returned.
        """
        excess = []
        holders = self.holders()
        for pool in self.all():
            if pool.data["suspended"]:
                for node in self.nodes(pool):
                    if node.id not in holders:
                        self._store.remove(node)
                continue
            if not pool.data["paused"]:
                self._fill(pool)
            excess += self._shrink(pool, holders)
            self._look_idle(pool)
        return excess

    def grow(self, pool: Object, waiting: Iterable[Demand]) -> bool:
        """Add nodes for instances that wait, as far as MAX_NODES allows; whether any was added."""
        if pool.data["suspended"] or pool.data["paused"]:
            return False
        nodes = self.nodes(pool)
        most = pool.data["max_nodes"] - len(nodes)
        count = nodes_needed(waiting, self.rooms(pool, ready=False), self.family(pool), most)
        for _ in range(count):
            self._add(pool)
        self._get_ready(pool)
        return count > 0

    def _fill(self, pool: Object) -> None:
        for _ in range(pool.data["min_nodes"] - len(self.nodes(pool))):
            self._add(pool)
        self._get_ready(pool)

    def _add(self, pool: Object) -> None:
        number = pool.data["nodes_made"] + 1
        self._account.catalog.update(pool, nodes_made=number)
        node = Node(
            f"node-{pool.id}-{number:02d}",
            pool.id,
            pool.data["instance_family"],
            self._account.clock.time(),
        )
        self._store.nodes[node.id] = node
        self._store.save(node)

    def _get_ready(self, pool: Object) -> None:
        now = self._account.clock.time()
        for node in self.nodes(pool):
            if node.ready is None and now - node.created >= self._account.settings.node_start:
                node.ready = node.idle = now
                self._store.save(node)

    def _shrink(self, pool: Object, holders: Mapping[str, list[Instance]]) -> list[Node]:
        """Let idle nodes go after a while; those that have to go and are not idle are returned."""
        now = self._account.clock.time()
        nodes = self.nodes(pool)
        for node in nodes:
            if node.id in holders:
                node.idle = None
            elif node.idle is None and node.ready is not None:
                node.idle = now
        free = sorted((n for n in nodes if n.id not in holders), key=lambda n: n.ready or now)
        count = len(nodes)
        while free and count > pool.data["max_nodes"]:
            self._store.remove(free.pop())
            count -= 1
        for node in list(free):
            resting = node.idle is not None and now - node.idle >= IDLE_NODE_SECONDS
            if count > pool.data["min_nodes"] and resting:
                self._store.remove(node)
                count -= 1
        over = max(0, count - pool.data["max_nodes"])
        return [n for n in nodes if n.id in holders][-over:] if over else []

    def _look_idle(self, pool: Object) -> None:
        now, most = self._account.clock.time(), pool.data["auto_suspend_secs"]
        if self.services(pool) or pool.data["paused"]:
            self._idle.pop(pool.id, None)
        elif now - self._idle.setdefault(pool.id, now) >= most > 0:
            self.suspend(pool)
            for node in self.nodes(pool):
                self._store.remove(node)

    # -- figures

    def figures(self, pool: Object) -> Figures:
        """Its state and what is counted of it."""
        nodes, holders = self.nodes(pool), self.holders(pool)
        ready = [node for node in nodes if node.ready is not None]
        active = sum(node.id in holders for node in ready)
        present = self.services(pool)
        suspended = pool.data["suspended"]
        if suspended:
            state = "STOPPING" if nodes else "SUSPENDED"
        elif not ready:
            state = "STARTING"
        elif len(ready) < len(nodes):
            state = "RESIZING"
        else:
            state = "ACTIVE" if present else "IDLE"
        code, words = self._remark(pool, nodes, state)
        return Figures(
            state,
            sum(not s.job for s in present),
            sum(s.job for s in present),
            active,
            len(ready) - active,
            0 if suspended else len(nodes),
            code,
            words,
        )

    def _remark(self, pool: Object, nodes: list[Node], state: str) -> tuple[str, str]:
        if state == "STARTING" and nodes:
            waited = self._account.clock.time() - min(node.created for node in nodes)
            minutes = int(waited // 60) + 1
            return "", f"Compute pool is starting for last {minutes} minute" + "s" * (minutes > 1)
        waits = any(
            instance.node is None and instance.ending is None
            for service in self.services(pool)
            for instance in service.instances.values()
        )
        if waits and len(nodes) >= pool.data["max_nodes"] and state == "ACTIVE":
            return str(MAX_NODES_REACHED), _FULL
        return "", ""
