"""What happens to instances and containers as time goes by: placed, started, ended, started again.

:meth:`Lifecycle.turn` does one round of it; between rounds only records remain, so that a server
that was killed goes on where it was. Runtimes are asked without the lock held; where one fails with
a container, the others do not wait for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flowdist.emulator.catalog import Object
from flowdist.emulator.compute import words
from flowdist.emulator.compute.containers import NOT_STARTED, ContainerState, Runtime, Status
from flowdist.emulator.compute.launching import Launcher
from flowdist.emulator.compute.placement import choose, lacking
from flowdist.emulator.compute.pools import Pools
from flowdist.emulator.compute.probes import Prober
from flowdist.emulator.compute.records import Box, Instance, Service, Store
from flowdist.emulator.compute.resolved import Demand
from flowdist.emulator.compute.statuses import Statuses

if TYPE_CHECKING:
    from flowdist.emulator.account import Account
    from flowdist.emulator.compute.spec import Container

__all__ = ["Lifecycle"]

BACK_OFF = (0.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
"""Seconds before a container of a service is started again, by how often it has failed in a row;
as Kubernetes has it, on which Snowflake runs.
"""
STEADY_SECONDS = 600.0
"""After a run that long a container counts as not having failed before; as Kubernetes has it."""
READINESS_SECONDS, LIVENESS_SECONDS = 5.0, 10.0
"""The periods of probes that do not give theirs."""

_log = logging.getLogger(__name__)


class Lifecycle:
    """The course of all services; one thread at a time takes a turn."""

    def __init__(
        self,
        account: Account,
        store: Store,
        pools: Pools,
        launcher: Launcher,
        statuses: Statuses,
        runtime: Callable[[], Runtime],
    ) -> None:
        self._account = account
        self._store = store
        self._pools = pools
        self._launcher = launcher
        self._statuses = statuses
        self._runtime = runtime
        self._prober = Prober()
        self._turn = threading.Lock()
        self._told: set[str] = set()
        """The instances whose containers were told to end, by this process."""
        self._odd: set[Path] = set()
        """The containers with which the runtime has failed; it is said once of each."""

    def close(self) -> None:
        """Stop probing."""
        self._prober.close()

    def turn(self) -> None:
        """One round: nodes, placement, starts, ends, and the statuses that follow."""
        with self._turn:
            with self._store.lock:
                self._lose(node.id for node in self._pools.advance())
                for service in self._store.live():
                    self._scale(service)
                self._place()
                starting = self._to_start()
                self._store.flush()
            # What an instance leaves is cleared away before the one that takes its place begins.
            self._statuses.tidy()
            for service, instance, box in starting:
                self._start(service, instance, box)
            while self._look():
                pass
            self._end()
            self._refresh()
            self._statuses.tidy()
            self._store.flush()

    def _scale(self, service: Service) -> None:
        """Bring a long-running service to the instances it should have; a job has what it has."""
        if service.job or service.dropped is not None:
            return
        for instance in list(service.instances.values()):
            if instance.ended is not None:
                self._statuses.later(partial(self._launcher.clear, service, instance, blocks=False))
                self._store.remove(instance)
        for number in sorted(service.instances, reverse=True):
            if number >= service.wanted:
                self._statuses.end_instance(service, service.instances[number])
        for number in range(service.wanted):
            if number not in service.instances:
                made = self._statuses.create(service, number)
                self._store.event(made.created, **words.instance_event(service, made))
        self._upgrade(service)

    def _upgrade(self, service: Service) -> None:
        """Replace the next instance that has an older specification, once all others are ready."""
        old = [i for i in service.instances.values() if i.digest != service.digest]
        new = [i for i in service.instances.values() if i.digest == service.digest]
        if old and all(i.status == "READY" for i in new) and all(i.ending is None for i in old):
            self._statuses.end_instance(service, max(old, key=lambda i: i.number))
        if not old and len(service.revisions) > 1:
            service.revisions = {service.digest: service.revision}
            self._store.save(service)
            now = self._account.clock.time()
            self._store.event(now, **words.remark(service, "UPGRADED"))

    # -- where they are

    def _place(self) -> None:
        """Put instances on nodes, and add nodes for those that find no room."""
        for pool in self._pools.all():
            for _ in range(2):  # the second time where nodes were added that are ready at once
                waiting = self._waiting(pool.id)
                if not waiting or pool.data["paused"]:
                    break
                if not self._pools.grow(pool, self._place_on(pool, waiting)):
                    break

    def _waiting(self, pool: int) -> list[tuple[Service, Instance]]:
        return [
            (service, instance)
            for service in self._store.live()
            if service.pool == pool
            for instance in service.instances.values()
            if instance.node is None and instance.ending is None and instance.ended is None
        ]

    def _place_on(self, pool: Object, waiting: list[tuple[Service, Instance]]) -> list[Demand]:
        """Place what has room; what the rest asks for."""
        rooms, family = self._pools.rooms(pool, ready=True), self._pools.family(pool)
        coming = bool(self._pools.rooms(pool, ready=False))
        nodes = len(self._pools.nodes(pool))
        rest = []
        for service, instance in waiting:
            asked = self._pools.demand(instance, family)
            room = choose(rooms, asked)
            if room is not None:
                room.take(asked)
                instance.node, instance.address = room.node, _address(instance)
                self._store.save(instance)
                continue
            rest.append(asked)
            if coming or nodes < pool.data["max_nodes"]:
                message = words.PROVISIONING
            else:
                message = words.unschedulable(lacking(rooms, asked))
            for box in instance.boxes:
                self._statuses.change(service, instance, box, "PENDING", message)
        return rest

    def _lose(self, nodes: Iterable[str]) -> list[Callable[[], None]]:
        """Take nodes away with all that is on them; what is to be killed is returned. The caller
        holds the lock.
        """
        gone = set(nodes)
        kills: list[Callable[[], None]] = []
        for instances in [self._pools.holders().get(node, []) for node in gone]:
            for instance in instances:
                service = self._store.services[instance.service]
                kills += self._fail(service, instance)
        for node in gone:
            self._pools.remove_node(self._store.nodes[node])
        for kill in kills:
            kill()
        return kills

    def lose(self, node: str) -> None:
        """A node breaks down: its instances fail. Those of services are replaced."""
        with self._store.lock:
            self._lose([node])
            self._store.flush()

    def _fail(self, service: Service, instance: Instance) -> list[Callable[[], None]]:
        now = self._account.clock.time()
        kills: list[Callable[[], None]] = []
        for box in instance.boxes:
            if box.ended is None:
                if box.launched:
                    path = self._launcher.place(service, instance, box)
                    kills.append(partial(self._runtime().kill, path))
                box.ended, box.exit_code = now, 137
                self._statuses.change(service, instance, box, "FAILED", words.FATAL)
        self._statuses.close(instance, now)
        self._statuses.aggregate(service)
        return kills

    # -- starting

    def _to_start(self) -> list[tuple[Service, Instance, Box]]:
        now = self._account.clock.time()
        paused = {pool.id for pool in self._pools.all() if pool.data["paused"]}
        found = []
        for service in self._store.live():
            for instance in service.instances.values():
                if instance.node is None or instance.ended or instance.ending:
                    continue
                for box in instance.boxes:
                    if box.retry is not None and box.retry <= now and service.pool not in paused:
                        self._again(service, instance, box, now)
                    if not box.launched and box.ended is None and service.pool not in paused:
                        found.append((service, instance, box))
        return found

    def _again(self, service: Service, instance: Instance, box: Box, now: float) -> None:
        """Make a container that has ended one that is to be started."""
        box.run = self._statuses.next_run(service, instance.number, box.name)
        box.launched, box.ended, box.started, box.retry = False, None, None, None
        box.restarts += 1
        box.restarted = now
        self._statuses.change(service, instance, box, "PENDING", words.WAITING)
        self._store.save(instance, service)

    def _start(self, service: Service, instance: Instance, box: Box) -> None:
        path = self._launcher.place(service, instance, box)
        try:
            if self._runtime().state(path) is None:
                self._runtime().start(self._launcher.launch(service, instance, box))
            else:  # it was started before the server was killed
                self._launcher.adopt(instance)
        except Exception as failed:  # whatever is wrong with one must not end the others
            with self._store.lock:
                box.launched = True
                lost = ContainerState(
                    Status.EXITED, exit_code=125, reason=NOT_STARTED, message=str(failed)
                )
                self._exited(service, instance, box, lost)
                self._statuses.aggregate(service)
            return
        with self._store.lock:
            box.launched = True
            self._store.save(instance)

    # -- looking at what runs

    def _look(self) -> bool:
        """See what has become of the containers; whether some have to be looked at once more,
        since they have ended before they were seen running.
        """
        with self._store.lock:
            alive = [
                (service, instance, box)
                for service in self._store.live()
                for instance in service.instances.values()
                if instance.ended is None
                for box in instance.boxes
                if box.alive
            ]
        states = [self._state(self._launcher.place(*one)) for one in alive]
        again = False
        touched: dict[int, Service] = {}
        with self._store.lock:
            for (service, instance, box), state in zip(alive, states, strict=True):
                if instance.ended is not None or not box.alive:
                    continue  # its node was lost meanwhile
                before = box.status, box.ended
                again |= self._see(service, instance, box, state)
                if (box.status, box.ended) != before:
                    touched[service.id] = service
            for service in touched.values():
                self._statuses.aggregate(service)
        return again

    def _state(self, path: Path) -> ContainerState | None:
        try:
            return self._runtime().state(path)
        except Exception:
            self._complain(path)
            return None

    def _complain(self, path: Path) -> None:
        if path not in self._odd:
            self._odd.add(path)
            _log.exception("container %s cannot be looked at or ended; it is tried again", path)

    def _see(
        self, service: Service, instance: Instance, box: Box, state: ContainerState | None
    ) -> bool:
        """Take in the state of a container; whether to look once more."""
        if state is None or state.status == Status.STARTING:
            return False
        if box.started is None and state.started is not None:
            box.started = state.started
            self._store.save(instance)
            if box.status == "PENDING" and (
                self._ready(service, instance, box) or state.status.ended
            ):
                self._statuses.change(service, instance, box, "READY", words.RUNNING)
            if instance.started is None:
                instance.started = state.started
            if state.status.ended:
                return True
        if state.status.ended:
            self._exited(service, instance, box, state)
        elif box.status in ("PENDING", "READY"):
            self._probe(service, instance, box)
        return False

    def _ready(self, service: Service, instance: Instance, box: Box) -> bool:
        """Whether a container that runs is ready: at once without a probe, else by its answer."""
        return self._container(service, instance, box).readiness_probe is None

    @staticmethod
    def _container(service: Service, instance: Instance, box: Box) -> Container:
        containers = service.revisions[instance.digest].model.spec.containers
        return next(c for c in containers if c.name == box.name)

    def _probe(self, service: Service, instance: Instance, box: Box) -> None:
        model = self._container(service, instance, box)
        now, key = self._account.clock.time(), f"{instance.key}/{box.directory}"
        if model.readiness_probe is not None:
            probe = model.readiness_probe
            seen = self._prober.look(key, "readiness", probe, "127.0.0.1", now, READINESS_SECONDS)
            if seen.ready:
                self._statuses.change(service, instance, box, "READY", words.RUNNING)
            elif box.status == "PENDING" or seen.failures >= probe.failure_threshold:
                message = words.not_ready(probe.path, probe.port)
                self._statuses.change(service, instance, box, "PENDING", message)
        if model.liveness_probe is not None:
            probe = model.liveness_probe
            seen = self._prober.look(key, "liveness", probe, "127.0.0.1", now, LIVENESS_SECONDS)
            if seen.failures >= probe.failure_threshold:
                seen.failures = 0
                self._runtime().kill(self._launcher.place(service, instance, box))

    def _exited(
        self, service: Service, instance: Instance, box: Box, state: ContainerState
    ) -> None:
        """Take in how a container has ended, and when it is to be started again if it is."""
        now = self._account.clock.time()
        box.ended = state.ended or now
        box.exit_code = state.exit_code if state.exit_code is not None else 137
        self._prober.forget(f"{instance.key}/{box.directory}")
        stopped = instance.ending is not None
        if box.exit_code == 0:
            self._statuses.change(service, instance, box, "DONE", words.COMPLETED)
        elif stopped:
            box.status = "FAILED"  # as it was asked to: no event
            box.message = words.CANCELLED if service.cancelling else words.STOPPED
        else:
            message = words.failure(state, retrying=not service.job)
            self._statuses.change(service, instance, box, "FAILED", message)
        if not service.job and not stopped:
            long = box.started is not None and box.ended - box.started >= STEADY_SECONDS
            box.failures = 0 if long else box.failures
            box.retry = now + BACK_OFF[min(box.failures, len(BACK_OFF) - 1)]
            box.failures += 1
        self._store.save(instance)

    # -- ending

    def _end(self) -> None:
        """Stop what is to end, and finish what has."""
        stops: list[tuple[str, Path]] = []
        with self._store.lock:
            for service in self._store.live():
                for instance in list(service.instances.values()):
                    if instance.ending is None or instance.ended is not None:
                        continue
                    alive = [box for box in instance.boxes if box.alive]
                    if alive and instance.key not in self._told:
                        self._told.add(instance.key)
                        places = [self._launcher.place(service, instance, box) for box in alive]
                        stops += [(instance.key, place) for place in places]
                    if not alive:
                        self._told.discard(instance.key)
                        self._finish(service, instance)
                self._settle(service)
        for key, path in stops:
            try:
                self._runtime().stop(path, self._account.settings.grace)
            except Exception:
                self._told.discard(key)
                self._complain(path)

    def _finish(self, service: Service, instance: Instance) -> None:
        """An instance that was told to end has ended."""
        now = self._account.clock.time()
        self._statuses.close(instance, now)
        if service.job:
            for box in instance.boxes:
                if box.ended is None:
                    box.ended = now
                    self._statuses.change(service, instance, box, "FAILED", words.NOT_STARTED)
            self._store.save(instance)
        else:
            gone = service.dropped is not None
            self._statuses.later(partial(self._launcher.clear, service, instance, blocks=gone))
            self._store.remove(instance)
        self._statuses.aggregate(service)

    def _settle(self, service: Service) -> None:
        """Finish a service that was dropped, once nothing of it runs."""
        if any(instance.ended is None for instance in service.instances.values()):
            return
        if service.dropped is not None:
            service.settled = True
            self._statuses.later(partial(self._launcher.revoke, service))
            for instance in service.instances.values():
                self._statuses.later(partial(self._launcher.clear, service, instance, blocks=True))
            self._store.save(service)

    def _refresh(self) -> None:
        with self._store.lock:
            running = [
                (service, instance)
                for service in self._store.live()
                for instance in service.instances.values()
                if instance.holds and instance.ending is None
            ]
        for service, instance in running:
            try:
                self._launcher.refresh(service, instance)
            except Exception:  # the old token is good for a while, until it is tried again
                _log.exception("the token of %s cannot be written anew", service.full_name)


def _address(instance: Instance) -> str:
    """An address of the machine's own that no other instance has."""
    service, number = instance.service, instance.number + 1
    return f"127.{64 + service % 128}.{number // 250}.{number % 250 + 1}"
