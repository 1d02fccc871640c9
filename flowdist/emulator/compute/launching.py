"""What a container is started with: its environment, mounts, secrets and session token.

An instance has a directory for each of its containers, and three of its own, whose names no
container can have::

    services/<service id>/<instance>/<container>[.<run>]/   what `containers.py` says
    services/<service id>/<instance>/_volumes/<volume>/     local, memory and block volumes
    services/<service id>/<instance>/_session/<container>/  token, connections.toml
    services/<service id>/<instance>/_secrets/<container>/  secrets that are files

A memory volume is memory of its size where a single container of a job mounts it. Where several
share it, or a container may be started again and is to find what was in it, it is a directory like
a local one, and its size is not enforced. So is a block volume, which is kept when its instance is
replaced.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flowdist.emulator.catalog import Object
from flowdist.emulator.compute.amounts import memory_bytes
from flowdist.emulator.compute.containers import Bind, Launch
from flowdist.emulator.compute.families import find_family
from flowdist.emulator.compute.records import Box, Instance, Service
from flowdist.emulator.compute.request import secret_name
from flowdist.emulator.compute.resolved import limits
from flowdist.emulator.session import Session
from flowdist.emulator.statements.secrets import secret_values

if TYPE_CHECKING:
    from flowdist.emulator.account import Account
    from flowdist.emulator.compute.spec import Container, Spec, Volume

__all__ = ["Launcher"]

SESSION = "/snowflake/session"
"""Where a container finds its token, and the file by which drivers know where they run."""
CONNECTION = "/snowflake/connection"
"""The directory of connections.toml, where it is wanted: what SNOWFLAKE_HOME points to."""
REFRESH_SECONDS = 300.0
"""How old a token gets before the file is written anew; Snowflake: every few minutes."""
_log = logging.getLogger(__name__)

SECRET_FILES = ("username", "password", "secret_string", "access_token")


class Launcher:
    """Prepares what containers are started with, and clears it away."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._lock = threading.Lock()
        self._tokens: dict[int, tuple[str, float]] = {}
        self._mounted: set[str] = set()
        self._written: dict[str, float] = {}
        """When the token of an instance was written."""

    # -- places

    def place(self, service: Service, instance: Instance, box: Box | None = None) -> Path:
        """The directory of an instance, or of the current run of a container."""
        path = self._account.directory / "services" / str(service.id) / str(instance.number)
        return path if box is None else path / box.directory

    # -- starting

    def launch(self, service: Service, instance: Instance, box: Box) -> Launch:
        """All that a container is started with; what it needs is made and mounted. SqlError where
        a stage or secret is not there any more.
        """
        revision = service.revisions[instance.digest]
        model = revision.model.spec
        container = next(c for c in model.containers if c.name == box.name)
        session = self.session(service)
        image = revision.images[container.name]
        most = limits(container.resources, find_family(self._pool(service).data["instance_family"]))
        env, own = {**image["env"], **container.env}, self._environment(service, instance)
        binds = self._session_files(service, instance, container, own)
        binds += self._volumes(service, instance, container, model, session)
        binds += self._secrets(service, instance, container, env, session)
        for name in own.keys() & container.env.keys():
            _log.warning(
                "%s: container %s has its own value for %s instead of that of its specification",
                service.full_name,
                container.name,
                name,
            )
        env |= own
        entry = container.command if container.command is not None else tuple(image["entrypoint"])
        default = () if container.command is not None else tuple(image["cmd"])
        source, authfile = self._account.images.source(image["source"])
        return Launch(
            directory=self.place(service, instance, box),
            name=f"{service.name}-{instance.number}-{container.name}",
            command=(*entry, *(container.args if container.args is not None else default)),
            image=source,
            env=env,
            binds=tuple(binds),
            working_directory=image["working_directory"],
            user=image["user"],
            memory_bytes=most.memory,
            cpus=most.cpu,
            visible=tuple(image["visible"]),
            authfile=authfile,
        )

    def session(self, service: Service) -> Session:
        """What a service's containers are in the account: its owner's role, its place."""
        return Session(
            0,
            service.name,
            service.owner,
            service.database,
            service.schema,
            service.warehouse,
            str(service.full_name),
        )

    def _pool(self, service: Service) -> Object:
        return self._account.catalog.require("compute pool", (service.pool_name,))

    def _environment(self, service: Service, instance: Instance) -> dict[str, str]:
        url = urlsplit(self._account.url)
        found = {
            "SNOWFLAKE_ACCOUNT": self._account.settings.account,
            "SNOWFLAKE_HOST": url.hostname or "",
            "SNOWFLAKE_PORT": str(url.port or ""),
            "SNOWFLAKE_PROTOCOL": url.scheme,
            "SNOWFLAKE_DATABASE": service.database,
            "SNOWFLAKE_SCHEMA": service.schema,
            "SNOWFLAKE_SERVICE_NAME": service.name,
            "SNOWFLAKE_RUNNING_INSIDE_SPCS": "true",
        }
        if service.counted:
            found["SNOWFLAKE_JOBS_COUNT"] = str(service.replicas)
            found["SNOWFLAKE_JOB_INDEX"] = str(instance.number)
        return found

    # -- the token

    def token(self, service: Service) -> str:
        """The token of a service, new where the last one is a few minutes old."""
        now = self._account.clock.time()
        with self._lock:
            token, issued = self._tokens.get(service.id, ("", 0.0))
            if not token or now - issued >= REFRESH_SECONDS:
                token = self._account.tokens.issue_service(
                    str(service.full_name),
                    service.owner,
                    service.database,
                    service.schema,
                    service.warehouse,
                    service.id,
                )
                self._tokens[service.id] = token, now
            return token

    def revoke(self, service: Service) -> None:
        """Make the tokens of a service worthless."""
        with self._lock:
            self._tokens.pop(service.id, None)
        self._account.tokens.revoke_service(str(service.full_name), service.id)

    def refresh(self, service: Service, instance: Instance) -> None:
        """Write the token of an instance anew where it is a few minutes old."""
        now = self._account.clock.time()
        if now - self._written.get(instance.key, 0.0) < REFRESH_SECONDS:
            return
        self._written[instance.key] = now
        for container in service.revisions[instance.digest].model.spec.containers:
            home = self.place(service, instance) / "_session" / container.name / "token"
            if container.mount_session_token and home.is_dir():
                _replace(home / "token", self.token(service), _mode(container))

    def _session_files(
        self, service: Service, instance: Instance, container: Container, env: dict[str, str]
    ) -> list[Bind]:
        """Token, mark and connections.toml; directories, since the token is replaced later."""
        home = self.place(service, instance) / "_session" / container.name
        mark, inside = home / "mark", home / "token"
        config = container.session_token_config
        path = config.path if config is not None and config.path is not None else SESSION
        if path == SESSION:
            mark = inside
        mark.mkdir(parents=True, exist_ok=True)
        _replace(mark / "spcs_token", f"{service.id}-{instance.number}\n", 0o644)
        binds = [Bind(mark, SESSION, writable=False)]
        if not container.mount_session_token:
            return binds
        inside.mkdir(parents=True, exist_ok=True)
        mode = _mode(container)
        _replace(inside / "token", self.token(service), mode)
        self._written.setdefault(instance.key, self._account.clock.time())
        if path != SESSION:
            binds.append(Bind(inside, path, writable=False))
        if config is not None and config.mount_connection_config:
            connection = home / "connection"
            connection.mkdir(exist_ok=True)
            text = _connections(env, f"{path}/token")
            _replace(connection / "connections.toml", text, mode)
            binds.append(Bind(connection, CONNECTION, writable=False))
            env["SNOWFLAKE_HOME"] = CONNECTION
        return binds

    # -- volumes

    def _volumes(
        self,
        service: Service,
        instance: Instance,
        container: Container,
        model: Spec,
        session: Session,
    ) -> list[Bind]:
        named = {volume.name: volume for volume in model.volumes}
        users = [mount.name for one in model.containers for mount in one.volume_mounts]
        binds = []
        for mount in container.volume_mounts:
            volume = named[mount.name]
            if volume.stage is not None:
                binds.append(self._stage(instance, volume, mount.mount_path, session))
                continue
            path = self.place(service, instance) / "_volumes" / volume.name
            if not path.is_dir():
                path.mkdir(parents=True)
                path.chmod(0o777)
                if (volume.uid, volume.gid) != (None, None) and os.geteuid() == 0:
                    os.chown(path, _or(volume.uid, -1), _or(volume.gid, -1))
            memory = None
            if volume.source == "memory" and service.job and users.count(volume.name) == 1:
                memory = memory_bytes(volume.size or "")
            binds.append(Bind(path, mount.mount_path, memory=memory))
        return binds

    def _stage(self, instance: Instance, volume: Volume, target: str, session: Session) -> Bind:
        location = volume.stage or ""
        stage, _ = self._account.files.locate(location, session)
        writable = self._account.access.can(session, "WRITE", stage)
        path = self._account.mounts.mount(
            instance.key,
            location,
            session=session,
            writable=writable,
            uid=_or(volume.uid, 0),
            gid=_or(volume.gid, 0),
        )
        self._mounted.add(instance.key)
        return Bind(path, target, writable)

    # -- secrets

    def _secrets(
        self,
        service: Service,
        instance: Instance,
        container: Container,
        env: dict[str, str],
        session: Session,
    ) -> list[Bind]:
        binds = []
        for i, secret in enumerate(container.secrets):
            values = secret_values(self._account, secret_name(secret.snowflake_secret), session)
            if secret.env_var_name is not None and secret.secret_key_ref is not None:
                env[secret.env_var_name] = values[secret.secret_key_ref]
                continue
            path = self.place(service, instance) / "_secrets" / container.name / str(i)
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            for key in SECRET_FILES:
                if key in values:
                    _replace(path / key, values[key], 0o644)
            binds.append(Bind(path, secret.directory_path or "", writable=False))
        return binds

    # -- ending

    def unmount(self, instance: Instance) -> None:
        """Take the stages of an instance away."""
        self._written.pop(instance.key, None)
        if instance.key in self._mounted:
            self._mounted.discard(instance.key)
            self._account.mounts.unmount(instance.key)

    def clear(self, service: Service, instance: Instance, *, blocks: bool) -> None:
        """Remove what an instance had besides the logs; block volumes only where told to."""
        home = self.place(service, instance)
        for name in ("_session", "_secrets"):
            shutil.rmtree(home / name, ignore_errors=True)
        kept = set()
        if not blocks and instance.digest in service.revisions:
            volumes = service.revisions[instance.digest].model.spec.volumes
            kept = {volume.name for volume in volumes if volume.source == "block"}
        if (home / "_volumes").is_dir():
            for path in (home / "_volumes").iterdir():
                if path.name not in kept:
                    shutil.rmtree(path, ignore_errors=True)

    def adopt(self, instance: Instance) -> None:
        """Know again, after a restart of the server, that an instance may have mounts."""
        self._mounted.add(instance.key)

    def erase(self, service: Service) -> None:
        """Remove all that is left of a service, logs included."""
        path = self._account.directory / "services" / str(service.id)
        shutil.rmtree(path, ignore_errors=True)


def _mode(container: Container) -> int:
    config = container.session_token_config
    return int((config.permission if config is not None else None) or "0644", 8)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _replace(path: Path, text: str, mode: int) -> None:
    """Write a file so that whoever reads it sees the old text or the new one."""
    made = path.with_name(f".{path.name}")
    made.unlink(missing_ok=True)
    with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    made.chmod(mode)
    made.replace(path)


def _connections(env: dict[str, Any], token_path: str) -> str:
    """The text of connections.toml, with the one connection `default`."""
    return "\n".join(
        [
            "[default]",
            f'host = "{env["SNOWFLAKE_HOST"]}"',
            f"port = {env['SNOWFLAKE_PORT'] or 443}",
            f'protocol = "{env["SNOWFLAKE_PROTOCOL"]}"',
            f'account = "{env["SNOWFLAKE_ACCOUNT"]}"',
            f'database = "{env["SNOWFLAKE_DATABASE"]}"',
            f'schema = "{env["SNOWFLAKE_SCHEMA"]}"',
            'authenticator = "oauth"',
            f'token_file_path = "{token_path}"',
            "",
        ]
    )
