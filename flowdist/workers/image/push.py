"""Taking an image to a repository of the account."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

from flowdist.errors import BackendError, UsageError
from flowdist.snowflake.client import Client, SnowflakeError
from flowdist.snowflake.connection import client_for
from flowdist.snowflake.images import (
    TOKEN_USER,
    ImagePath,
    Repository,
    StoredImage,
    find_image,
    find_repository,
    registry_password,
)
from flowdist.workers.image.engines import Engine, signed_in
from flowdist.workers.image.recipe import PLATFORM

__all__ = ["push"]


def push(
    image: str,
    engine: Engine,
    *,
    connection: str | None = None,
    repository: str | None = None,
    name: str | None = None,
    sign_in: bool = True,
    out: Callable[[str], None],
) -> StoredImage:
    """Push an image, and see that it has come; what the account then knows of it.

    Args:
        image: what the engine calls it.
        engine: docker, podman or buildah.
        connection: the name of the connection; see `flowdist.snowflake.connection.client_for`.
        repository: ``db.schema.repository``; None: the only one that there is.
        name: what it is called there, as ``name:tag``; None: as here.
        sign_in: whether to sign in with a token of the connection; else the engine has to be
            signed in, as by ``docker login``.
        out: gets the lines that the engine prints.

    Raises:
        UsageError: there is no such image or repository, or it is for other machines.
        BackendError: it was not pushed, or has not come.
    """
    facts = engine.inspect(image)
    if facts is None:
        raise UsageError(f"{engine.name} has no image {image}; flowdist image build makes one")
    if f"{facts.os}/{facts.architecture}" != PLATFORM:
        raise UsageError(
            f"{image} is built for {facts.os}/{facts.architecture}, and nodes of compute pools run "
            f"{PLATFORM}; it is not pushed. flowdist image build builds for them"
        )
    with closing(client_for(connection)) as client:
        found = find_repository(client, repository)
        there = name or image.rpartition("/")[2].partition("@")[0]
        if ":" not in there:
            there += ":latest"
        path = ImagePath.parse(found.path(there)).path
        before = find_image(client, path)
        with _signed_in(found, connection) if sign_in else nullcontext() as signed:
            digest = engine.push(image, found.reference(there), signed, out)
        return _arrived(client, path, before, digest)


@contextmanager
def _signed_in(repository: Repository, connection: str | None) -> Iterator[Path]:
    # A session of its own: its token is what the registry knows, and has to last until the end.
    with closing(client_for(connection)) as client:
        try:
            password = registry_password(client)
        except SnowflakeError as error:
            raise BackendError(
                f"{error}; docker login {repository.host} (or podman login) with your user and a "
                "programmatic access token signs in too, then push with --no-login"
            ) from error
        with signed_in(repository.host, TOKEN_USER, password) as place:
            yield place


def _arrived(
    client: Client, path: str, before: StoredImage | None, digest: str | None
) -> StoredImage:
    """What the account has now under that path; BackendError where it is not what was pushed."""
    found = find_image(client, path)
    if found is None:
        raise BackendError(
            f"the registry has taken {path}, and SHOW IMAGES does not have it; flowdist image "
            "list shows what is there"
        )
    if digest is not None and before is not None and before.digest == found.digest != digest:
        raise BackendError(
            f"the registry has taken {path} as {digest}, and SHOW IMAGES still has the one from "
            f"before, {found.digest}; another tag is sure to be a new image"
        )
    return found
