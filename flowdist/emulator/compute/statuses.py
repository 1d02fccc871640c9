"""The statuses of services, instances and containers, kept true and told to the event table.

Every change of a container's status goes through :meth:`Statuses.change`; after some,
:meth:`Statuses.aggregate` brings the instances and the service up to them. The caller holds the
store's lock. What takes time outside (unmounting, deleting) is put off to :meth:`Statuses.tidy`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from flowdist.emulator.compute import words
from flowdist.emulator.compute.launching import Launcher
from flowdist.emulator.compute.records import Box, Instance, Service, Store

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["Statuses"]

_log = logging.getLogger(__name__)


class Statuses:
    """What is noted when something changes."""

    def __init__(self, account: Account, store: Store, launcher: Launcher) -> None:
        self._account = account
        self._store = store
        self._launcher = launcher
        self._chores: list[Callable[[], None]] = []

    def later(self, chore: Callable[[], None]) -> None:
        """Put off what takes time until the lock is not held."""
        self._chores.append(chore)

    def tidy(self) -> None:
        """Do what was put off; the caller does not hold the lock."""
        with self._store.lock:
            chores, self._chores = self._chores, []
        for chore in chores:
            try:
                chore()
            except Exception:  # it is not tried again: what it leaves costs room and nothing else
                _log.exception("what a service has left could not be cleared away")

    def begin(self, service: Service) -> None:
        """Make the first instances of a service and note the events of its beginning."""
        now = self._account.clock.time()
        for number in range(service.wanted):
            self.create(service, number)
        self._store.event(now, **words.service_event(service))
        for instance in service.instances.values():
            self._store.event(now, **words.instance_event(service, instance))

    def create(self, service: Service, number: int) -> Instance:
        now = self._account.clock.time()
        instance = Instance(service.id, number, service.digest, now)
        service.instances[number] = instance
        for container in service.revision.model.spec.containers:
            box = Box(container.name, self.next_run(service, number, container.name))
            instance.boxes.append(box)
            self._store.event(now, **words.container_event(service, instance, box))
        self._store.save(instance, service)
        return instance

    @staticmethod
    def next_run(service: Service, number: int, name: str) -> int:
        key = f"{number}/{name}"
        run = service.runs.get(key, 0)
        service.runs[key] = run + 1
        return run

    def end_instance(self, service: Service, instance: Instance) -> None:
        """Have an instance end: SIGTERM, and SIGKILL after a while."""
        if instance.ending is not None or instance.ended is not None:
            return
        instance.ending = self._account.clock.time()
        for box in instance.boxes:
            if box.alive and box.status in ("PENDING", "READY"):
                self.change(service, instance, box, "TERMINATING", box.message)
        self._store.save(instance)
        self.aggregate(service)

    def change(
        self, service: Service, instance: Instance, box: Box, status: str, message: str
    ) -> None:
        if (box.status, box.message) == (status, message):
            return
        box.status, box.message = status, message
        self._store.save(instance)
        if not message.startswith(words.UNSCHEDULABLE) and status != "TERMINATING":
            now = self._account.clock.time()
            self._store.event(now, **words.container_event(service, instance, box))

    def aggregate(self, service: Service) -> None:
        """Bring the statuses of instances and service up to those of the containers. The service's
        event comes before those of its instances, as with Snowflake.
        """
        now = self._account.clock.time()
        changed = []
        for instance in service.instances.values():
            natural = service.job and instance.ended is None and instance.ending is None
            if natural and all(box.ended is not None for box in instance.boxes):
                self.close(instance, now)
            status = words.instance_status(service, instance)
            if status != instance.status:
                instance.status = status
                changed.append(instance)
                self._store.save(instance)
        status = words.service_status(service)
        if service.job and all(i.ended is not None for i in service.instances.values()):
            self._complete(service, status, now)
        if status != service.status:
            service.status = status
            if status == "SUSPENDED":
                service.suspended = now
            service.message = words.summary(service)
            self._store.save(service)
            self._store.event(now, **words.service_event(service))
        for instance in changed:
            self._store.event(now, **words.instance_event(service, instance))

    def _complete(self, service: Service, status: str, now: float) -> None:
        if service.completed is None:
            service.completed = now
            service.settled = True
            service.message = words.summary(service, status)
            self._store.save(service)
            for instance in service.instances.values():
                self.later(partial(self._launcher.clear, service, instance, blocks=False))
            self.later(partial(self._launcher.revoke, service))

    def close(self, instance: Instance, now: float) -> None:
        """Note that nothing of an instance runs any more."""
        instance.ended = now
        self._store.save(instance)
        self.later(partial(self._launcher.unmount, instance))
