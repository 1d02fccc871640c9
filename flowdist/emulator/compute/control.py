"""Compute pools, and the services and jobs placed on their nodes: what statements ask for.

One thread drives everything from what is stored (`lifecycle.py`); the methods here change what is
stored and wake it. Where nothing runs in the background, as in tests before ``account.start()``,
whoever waits drives it, in the account's own time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from flowdist.emulator.background import Rounds
from flowdist.emulator.catalog import Object
from flowdist.emulator.compute import answers, words
from flowdist.emulator.compute.containers import Runtime, runtime_of
from flowdist.emulator.compute.launching import Launcher
from flowdist.emulator.compute.lifecycle import Lifecycle
from flowdist.emulator.compute.placement import fits_at_all
from flowdist.emulator.compute.pools import Pools
from flowdist.emulator.compute.records import Revision, Service, Store
from flowdist.emulator.compute.request import Request, new_service
from flowdist.emulator.compute.resolved import demand, digest
from flowdist.emulator.compute.statuses import Statuses
from flowdist.emulator.errors import SqlError, already_exists
from flowdist.emulator.names import FullName
from flowdist.emulator.queries import Query

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["Compute"]

TICK_SECONDS, IDLE_TICK_SECONDS = 0.05, 0.25
"""How long the thread rests while something runs, and while nothing does."""
PER_CONTAINER = 0.0005
"""So much longer for every container, so that looking at many does not take all the time."""
RETENTION_SECONDS = 30 * 86400.0
"""How long a finished job, and what was logged of a dropped service, can be seen."""
SWEEP_SECONDS = 60.0
"""How often what is over is looked for."""
LONGEST_REST = 5.0
"""Seconds after which who waits looks for itself, though nobody has woken it."""
JOB_FAILED = 395092
"""The number of the error of a synchronous job that fails; its text is the emulator's own."""


@dataclass(eq=False)
class _Waiter:
    """Somebody who waits: for what, and how to wake them."""

    done: Callable[[], bool]
    woken: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Wake them where it is done, or where they are to see the error themselves."""
        try:
            done = self.done()
        except Exception:
            done = True
        if done:
            self.woken.set()


class Compute:
    """All pools and services of an account; every method may be called from any thread."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self.store = Store(account.directory / "compute.sqlite")
        self.pools = Pools(account, self.store)
        self.launcher = Launcher(account)
        self._statuses = Statuses(account, self.store, self.launcher)
        self._lifecycle = Lifecycle(
            account, self.store, self.pools, self.launcher, self._statuses, lambda: self.runtime
        )
        self._waiters: set[_Waiter] = set()
        self._waiters_lock = threading.Lock()
        self._awake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._swept = 0.0

    @cached_property
    def runtime(self) -> Runtime:
        """What runs containers."""
        return runtime_of(self._account.settings)

    # -- in the background

    def start(self) -> None:
        """Take up what a former server has left, and go on with it in the background."""
        with self.store.lock:
            named = set()
            for kept in self._account.catalog.all("service"):
                if kept.id in self.store.services:
                    named.add(kept.id)
                else:
                    self._account.catalog.drop(kept)  # made by a server that was killed in between
            for service in self.store.live():
                if service.dropped is None and service.id not in named:
                    self._let_go(service)
                for instance in service.instances.values():
                    if instance.holds:
                        self.launcher.adopt(instance)
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()
        answers.take_up(self._account)

    def close(self) -> None:
        """Stop driving; containers run on, and are found again by the next server."""
        self._closing = True
        self._awake.set()
        if self._thread is not None:
            self._thread.join()
        self._lifecycle.close()
        self.store.close()

    def tick(self) -> None:
        """One round of what goes on by itself, and of what is over since long."""
        try:
            self._lifecycle.turn()
            now = self._account.clock.time()
            if now - self._swept >= SWEEP_SECONDS:
                self._swept = now
                self._sweep(now)
                self._statuses.tidy()
        finally:
            with self._waiters_lock:
                waiters = list(self._waiters)
            for waiter in waiters:
                waiter.look()

    def wake(self) -> None:
        """Have the thread look at once."""
        self._awake.set()

    def _run(self) -> None:
        rounds = Rounds("a round of the compute pools")
        while not self._closing:
            self._awake.clear()
            rounds.run(self.tick)
            count = sum(len(service.instances) for service in self.store.live())
            self._awake.wait(TICK_SECONDS + PER_CONTAINER * count if count else IDLE_TICK_SECONDS)

    def _sweep(self, now: float) -> None:
        """Forget jobs that ended long ago, and what was logged of services dropped long ago."""
        with self.store.lock:
            for service in list(self.store.services.values()):
                over = service.dropped if service.dropped is not None else service.completed
                if not service.settled or over is None or now - over < RETENTION_SECONDS:
                    continue
                kept = self._account.catalog.find("service", service.full_name)
                if kept is not None and kept.id == service.id:
                    self._account.catalog.drop(kept)
                for instance in list(service.instances.values()):
                    self.store.remove(instance)
                self.store.remove(service)
                self.store.forget_events(service.id)
                self._statuses.later(partial(self.launcher.erase, service))
            self.store.flush()

    # -- waiting

    def wait(self, done: Callable[[], bool], query: Query, seconds: float | None = None) -> bool:
        """Wait until something is done, `seconds` at the most; whether it is. SqlError 604 where
        the query is aborted meanwhile.
        """
        clock = self._account.clock
        end = None if seconds is None else clock.monotonic() + seconds
        # Woken one by one, each when it is done: jobs of a large graph wait by the thousand.
        waiter = _Waiter(done)
        query.on_stop.append(waiter.woken.set)
        with self._waiters_lock:
            self._waiters.add(waiter)
        try:
            while not done():
                query.check()
                left = LONGEST_REST if end is None else end - clock.monotonic()
                if left <= 0:
                    return False
                if self._thread is not None:
                    waiter.woken.wait(min(left, LONGEST_REST))
                    waiter.woken.clear()
                    continue
                self.tick()
                if not done():
                    clock.sleep(TICK_SECONDS)
            return True
        finally:
            with self._waiters_lock:
                self._waiters.discard(waiter)
            query.on_stop.remove(waiter.woken.set)

    # -- services

    def service(self, kept: Object) -> Service:
        """What is known of a service beyond its object in the catalog."""
        return self.store.services[kept.id]

    def create(self, request: Request) -> Service:
        """Make a service or job. SqlError where the name is taken, the pool is suspended and does
        not resume by itself, or an instance would never fit on a node.
        """
        pool, family = request.pool, self.pools.family(request.pool)
        asked = demand(request.revision.model, family)
        if not fits_at_all(asked, family):
            raise SqlError(
                395019,
                "22023",
                f"Unable to schedule service '{request.name.name}': an instance requests "
                f"{asked.cpu:g} vCPU, {asked.memory / 1024**3:.4g} GiB of memory, {asked.gpu} GPU, "
                f"more than a node of compute pool '{pool.name}' ({family.name}) has: "
                f"{family.vcpu} vCPU, {family.memory_gib} GiB of memory, {family.gpu_count} GPU.",
            )
        with self.store.lock:
            if self._account.catalog.find("service", request.name) is not None:
                raise already_exists(request.name)
            self._wake_pool(pool)
            kept = self._account.catalog.create(
                "service",
                request.name,
                owner=request.owner,
                comment=request.comment,
                is_job=request.job,
                compute_pool=pool.name,
                query_id=request.query_id,
                query_warehouse=request.warehouse,
                task=request.task,
            )
            service = new_service(request, kept)
            self.store.services[service.id] = service
            self._statuses.begin(service)
            self.store.save(service)
            try:
                self.store.flush()
            except Exception:  # what the client is told has failed must not run
                for instance in list(service.instances.values()):
                    self.store.remove(instance)
                self.store.remove(service)
                self._account.catalog.drop(kept)
                raise
        self.wake()
        return service

    def _wake_pool(self, pool: Object) -> None:
        if pool.data["suspended"] and not pool.data["auto_resume"]:
            raise SqlError(
                395011,
                "22023",
                f"Compute pool '{pool.name}' is suspended and its AUTO_RESUME is FALSE. Resume it "
                f"with ALTER COMPUTE POOL {pool.name} RESUME.",
            )
        self.pools.resume(pool)

    def finish(self, service: Service, query: Query, timeout: float) -> Service:
        """Wait for the end of a job; it is cancelled where the statement is aborted or it takes
        longer than `timeout` seconds. SqlError where it does not end well.
        """
        name = service.name
        try:
            ended = self.wait(lambda: service.over or service.dropped is not None, query, timeout)
        except SqlError:
            self.cancel(service)
            raise
        if not ended:
            self.cancel(service)
            raise SqlError(
                630,
                "57014",
                "Statement reached its statement or warehouse timeout of "
                f"{timeout:g} second(s) and was canceled.",
            )
        if service.status == "DONE":
            return service
        if service.status in ("CANCELLED", "CANCELLING"):
            raise SqlError(604, "57014", f"Job {name} has been canceled.")
        raise SqlError(
            JOB_FAILED, "22023", f"Job {name} failed with status: {service.status}.{_why(service)}"
        )

    def cancel(self, service: Service) -> bool:
        """Cancel a job that has not ended, once; whether it has not."""
        with self.store.lock:
            if service.over or service.dropped is not None:
                return False
            if service.cancelling:
                return True
            service.cancelling = True
            self.store.save(service)
            self._end_all(service)
        self.wake()
        return True

    def _end_all(self, service: Service) -> None:
        for instance in list(service.instances.values()):
            self._statuses.end_instance(service, instance)
        self._statuses.aggregate(service)
        self.store.flush()

    def drop(self, kept: Object, *, force: bool = False) -> None:
        """Drop a service or job: its name is free at once, its containers end in good order. With
        block volumes it has to be forced. SqlError where it has and is not.
        """
        service = self.service(kept)
        volumes = service.revision.model.spec.volumes
        if not force and any(volume.source == "block" for volume in volumes):
            raise SqlError(
                395030,
                "22023",
                f"Service '{service.name}' has block storage volumes. Use DROP SERVICE "
                f"{service.name} FORCE to drop it and them.",
            )
        with self.store.lock:
            self._account.catalog.drop(kept)
            self._let_go(service)
        self._account.access.dropped(kept)
        self.wake()

    def _let_go(self, service: Service) -> None:
        service.dropped = now = self._account.clock.time()
        self.store.save(service)
        if not service.settled:
            self._end_all(service)
            return
        for status in ("DELETING", "DELETED"):
            self.store.event(now, **words.remark(service, status))
        for instance in service.instances.values():
            self._statuses.later(partial(self.launcher.clear, service, instance, blocks=True))
        self.store.flush()

    def drop_schema(self, database: str, schema: str | None = None) -> None:
        """Drop all services of a schema or database that is dropped."""
        for kept in self._account.catalog.all("service", database, schema):
            self.drop(kept, force=True)

    def suspend(self, service: Service) -> None:
        """Suspend a long-running service; nothing where it is suspended."""
        with self.store.lock:
            if not service.suspending:
                service.suspending = True
                self._end_all(service)
                self.store.save(service)
                self.store.flush()
        self.wake()

    def resume(self, service: Service) -> None:
        """Resume a suspended service, and its pool if that does so by itself; SqlError else."""
        with self.store.lock:
            if service.suspending:
                self._wake_pool(self._account.catalog.require("compute pool", (service.pool_name,)))
                now = self._account.clock.time()
                service.suspending, service.resumed = False, now
                service.status = "PENDING"
                self.store.event(now, **words.remark(service, "RESUMING"))
                self.store.save(service)
                self.store.flush()
        self.wake()

    def alter(self, service: Service, message: str, **values: Any) -> None:
        """Change properties of a service, by the names they have in `records.Service`."""
        with self.store.lock:
            for key, value in values.items():
                setattr(service, key, value)
            service.updated = now = self._account.clock.time()
            self.store.event(now, **words.property_event(service, message))
            self.store.save(service)
            self.store.flush()
        self.wake()

    def upgrade(self, service: Service, revision: Revision) -> None:
        """Give a service another specification; its instances are replaced one after another."""
        with self.store.lock:
            made = digest(revision.shown)
            service.updated = now = self._account.clock.time()
            if made != service.digest:
                service.revisions[made] = revision
                service.digest = made
                self.store.event(now, **words.remark(service, "UPGRADING"))
            self.store.save(service)
            self.store.flush()
        self.wake()

    # -- pools

    def suspend_pool(self, pool: Object) -> None:
        """Suspend a pool with its services; jobs run to their ends."""
        with self.store.lock:
            for service in self.pools.services(pool):
                if not service.job:
                    self.suspend(service)
            self.pools.suspend(pool)
        self.wake()

    def resume_pool(self, pool: Object) -> None:
        """Resume a pool; its services stay suspended."""
        with self.store.lock:
            self.pools.resume(pool)
            self.store.flush()
        self.wake()

    def stop_all(self, pool: Object) -> None:
        """Drop all services of a pool and cancel its jobs."""
        with self.store.lock:
            for service in self.pools.services(pool):
                kept = self._account.catalog.find("service", service.full_name)
                if service.job:
                    self.cancel(service)
                elif kept is not None:
                    self.drop(kept, force=True)
        self.wake()

    def drop_pool(self, pool: Object) -> None:
        """Drop a pool; its jobs are aborted. SqlError where services are on it."""
        with self.store.lock:
            present = self.pools.services(pool)
            if any(not service.job for service in present):
                raise SqlError(
                    395002,
                    "55000",
                    f"Cannot drop compute pool '{pool.name}': services are running on it. Drop "
                    f"them, or run ALTER COMPUTE POOL {pool.name} STOP ALL.",
                )
            for service in present:
                self.cancel(service)
            for node in self.pools.nodes(pool):
                self.pools.remove_node(node)
            self._account.catalog.drop(pool)
            self.store.flush()
        self._account.access.dropped(pool)
        self.wake()

    # -- faults

    def kill_container(
        self, name: FullName, instance: int = 0, container: str | None = None
    ) -> None:
        """SIGKILL to a container, the first of its instance where none is named; SqlError where it
        does not run.
        """
        service = self.service(self._account.catalog.require("service", name))
        with self.store.lock:
            found = service.instances.get(instance)
            boxes = [] if found is None else found.boxes
            box = next((b for b in boxes if container in (None, b.name)), None)
            if found is None or box is None or not box.alive:
                raise SqlError(
                    2003, "02000", f"no container {container or ''} of {name} {instance} runs"
                )
            path = self.launcher.place(service, found, box)
        self.runtime.kill(path)
        self.wake()

    def kill_node(self, pool: str, node: int | str = 0) -> None:
        """A node of a pool, by its place among them or its id, breaks down with all that is on it:
        jobs fail, instances of services are replaced. SqlError where there is no such node.
        """
        kept = self._account.catalog.require("compute pool", (pool,))
        with self.store.lock:
            ids = [found.id for found in self.pools.nodes(kept)]
            if isinstance(node, int) and node < len(ids):
                node = ids[node]
            if node not in ids:
                raise SqlError(2003, "02000", f"compute pool {pool} has no node {node}")
            self._lifecycle.lose(str(node))
        self.wake()

    def pause(self, pool: str) -> None:
        """Let nothing new start on a pool: neither nodes nor containers."""
        kept = self._account.catalog.require("compute pool", (pool,))
        self._account.catalog.update(kept, paused=True)

    def unpause(self, pool: str) -> None:
        """Let things start again; nothing where the pool is gone."""
        kept = self._account.catalog.find("compute pool", (pool,))
        if kept is not None:
            self._account.catalog.update(kept, paused=False)
        self.wake()


def _why(service: Service) -> str:
    """The first container that has failed, in words."""
    for instance in service.instances.values():
        for box in instance.boxes:
            if box.status == "FAILED":
                return (
                    f" Container '{box.name}' of instance {instance.number} exited with code "
                    f"{box.exit_code}: {box.message}."
                )
    return ""
