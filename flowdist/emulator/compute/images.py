"""The images that were pushed, by their paths in image repositories.

An image here is what a container of it runs, and where. For processes that is a command on this
machine (its entry point may be the Python that runs flowdist: :meth:`Images.push_here`); podman and
docker find the image itself in their storage, by `source`, or in the registry. In the catalog an
image is an object of the kind "image" in the schema of its repository, by the name
``REPOSITORY/name:tag``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flowdist.emulator.catalog import Object
from flowdist.emulator.errors import SqlError, compilation_error
from flowdist.emulator.names import FullName

if TYPE_CHECKING:
    from flowdist.emulator.account import Account
    from flowdist.emulator.session import Session

__all__ = ["NODE", "Image", "Images", "Reference"]

NODE = "flowdist-node"
"""Who pulls images for the nodes of compute pools; no user has such a name."""

_NAME = re.compile(
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Image:
    """An image: ``path`` is ``/db/schema/repository/name:tag`` in lower case.

    ``user`` is "uid", "uid:gid" or None; ``architecture`` as in ``linux/amd64``; ``source`` the
    name that podman or docker knows it by, without the host where that is the account's own
    registry: ``/db/schema/repository/name@digest``; ``visible`` what of the machine's /tmp it
    needs, where it is run as a process.
    """

    path: str
    digest: str
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    working_directory: str | None = None
    user: str | None = None
    architecture: str = "amd64"
    source: str = ""
    visible: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reference:
    """An image as a specification names it: what ``parse`` makes of the forms that it may have.

    ``tag`` is "latest" where none was given; ``digest`` is empty or what stood after ``@``.
    """

    repository: FullName
    name: str
    tag: str
    digest: str = ""

    @property
    def path(self) -> str:
        """``/db/schema/repository/name:tag``."""
        place = "/".join(
            part.lower()
            for part in (self.repository.database, self.repository.schema, self.repository.name)
        )
        return f"/{place}/{self.name}:{self.tag}"

    @classmethod
    def parse(cls, text: str, database: str | None, schema: str | None, host: str) -> Reference:
        """Read ``/db/schema/repo/image:tag``, the same after a registry's host name, or
        ``repo/image:tag`` in the given schema; SqlError for anything else.
        """
        rest, _, digest = text.partition("@")
        first, _, after = rest.partition("/")
        if first == host or first.endswith(".registry.snowflakecomputing.com"):
            rest = "/" + after
        elif after and ("." in first or ":" in first):
            raise _not_here(text, "only images of the account's own repositories can be run")
        head, _, last = rest.rpartition("/")
        name, _, tag = last.partition(":")
        parts = [part for part in head.split("/") if part]
        if not rest.startswith("/") and len(parts) < 3:
            parts = [database or "", schema or "", *parts]
        repository, image = parts[:3], "/".join([*parts[3:], name])
        wrong = (
            len(repository) < 3
            or not all(repository)
            or not _NAME.fullmatch(image)
            or not _TAG.fullmatch(tag or "latest")
            or not (digest == "" or _DIGEST.fullmatch(digest))
        )
        if wrong:
            raise _not_here(text, "an image is named /database/schema/repository/name:tag")
        return cls(FullName(*(p.upper() for p in repository)), image, tag or "latest", digest)


class Images:
    """The images of the account; methods may be called from any thread."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self.key = secrets.token_urlsafe(32)
        """The password of `NODE`, by which whoever runs containers pulls from the registry."""

    def start(self) -> None:
        """Forget what a client has only begun to push, and let podman pull what was pushed."""
        home = self._account.directory / "registry"
        shutil.rmtree(home / "uploads", ignore_errors=True)
        if self._account.settings.runtime == "podman":
            home.mkdir(exist_ok=True)
            known = base64.b64encode(f"{NODE}:{self.key}".encode()).decode()
            file = os.open(self._authfile, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(file, "w") as opened:
                json.dump({"auths": {self.host: {"auth": known}}}, opened)

    def close(self) -> None:
        """Nothing is held."""

    @property
    def host(self) -> str:
        """The host name of the registry: the server itself."""
        return urlsplit(self._account.url).netloc or "localhost"

    @property
    def _authfile(self) -> Path:
        return self._account.directory / "registry" / "auth.json"

    def source(self, source: str) -> tuple[str, str]:
        """The name by which podman or docker runs an image, from `Image.source`, and the file by
        which podman may pull it; the latter is empty where it is not in the registry.
        """
        if source.startswith("/"):
            return self.host + source, str(self._authfile)
        return source, ""

    def url(self, path: str) -> str:
        """The full name of an image, with the registry's host name."""
        return self.host + path

    def push(
        self,
        path: str,
        *,
        entrypoint: Sequence[str] = (),
        cmd: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        working_directory: str | None = None,
        user: str | None = None,
        architecture: str = "amd64",
        source: str = "",
        visible: Sequence[str] = (),
        digest: str = "",
        inspect: bool = True,
    ) -> Image:
        """Register an image, in place of one with the same tag; SqlError 2003 where there is no
        such repository. Where `source` is given and podman or docker runs the containers, what is
        not given is taken from the image in its storage, unless `inspect` is false.
        """
        reference = Reference.parse(path, None, None, self.host)
        repository = self._account.catalog.require("image repository", reference.repository)
        given: dict[str, Any] = {
            "entrypoint": list(entrypoint),
            "cmd": list(cmd),
            "env": dict(env or {}),
            "working_directory": working_directory,
            "user": user,
            "architecture": architecture,
            "source": source,
            "visible": list(visible),
        }
        if source and inspect and self._account.settings.runtime != "process":
            from flowdist.emulator.compute.podman import inspect_image

            known = inspect_image(self._account.settings.runtime, source)
            stored = known.pop("digest")
            digest = digest or stored
            given |= {k: v for k, v in known.items() if k == "architecture" or not given[k]}
        if not digest:
            text = json.dumps([reference.name, given], sort_keys=True)
            digest = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
        image = _image({**given, "path": reference.path, "digest": digest})
        self._keep(repository, reference, image)
        return image

    def push_here(self, path: str, *, env: Mapping[str, str] | None = None) -> Image:
        """Register this Python, with all that is installed for it, as an image: its entry point is
        the interpreter that runs the caller.
        """
        places = {p for p in (*sys.path, sys.prefix, sys.base_prefix) if p.startswith("/tmp/")}
        return self.push(path, entrypoint=[sys.executable], env=env, visible=sorted(places))

    def resolve(self, reference: str, session: Session) -> Image:
        """The image that a specification names, for a session that may read its repository;
        SqlError where there is no such repository, or nobody pushed such an image to it.
        """
        wanted = Reference.parse(reference, session.database, session.schema, self.host)
        access = self._account.access
        repository = access.find(session, "image repository", wanted.repository)
        access.require_any(session, ("READ", "WRITE", "OWNERSHIP"), repository)
        for found in self.objects(repository):
            same = found.data["image_name"] == wanted.name
            if wanted.digest and same and found.data["image"]["digest"] == wanted.digest:
                return _image(found.data["image"])
            if not wanted.digest and same and found.data["tag"] == wanted.tag:
                return _image(found.data["image"])
        raise _not_here(reference)

    def objects(self, repository: Object) -> list[Object]:
        """The images of a repository; ``data`` has `image_name`, `tag`, `image`."""
        found = self._account.catalog.all("image", repository.database, repository.schema)
        return [o for o in found if o.data["repository"] == repository.name]

    def drop_repository(self, repository: Object) -> None:
        """Remove a repository and all images in it."""
        for image in self.objects(repository):
            self._account.catalog.drop(image)
        self._account.catalog.drop(repository)

    def _keep(self, repository: Object, reference: Reference, image: Image) -> None:
        catalog = self._account.catalog
        name = FullName(
            repository.database,
            repository.schema,
            f"{repository.name}/{reference.name}:{reference.tag}",
        )
        with catalog.lock:
            old = catalog.find("image", name)
            if old is not None:
                catalog.drop(old)
            catalog.create(
                "image",
                name,
                owner=repository.owner,
                repository=repository.name,
                image_name=reference.name,
                tag=reference.tag,
                image=asdict(image),
            )


def _image(data: Mapping[str, Any]) -> Image:
    tuples = {key: tuple(data[key]) for key in ("entrypoint", "cmd", "visible")}
    return Image(**{**data, **tuples})


def _not_here(reference: str, why: str = "") -> SqlError:
    """What a service says whose image cannot be had."""
    ending = f": {why}" if why else ""
    return compilation_error(
        f"Failed to retrieve image {reference} from the image repository{ending}.", 2003, "02000"
    )
