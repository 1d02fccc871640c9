"""Images in the account: repositories, what is in them, and what the tag of a worker image says.

Labels of an image are not seen in SQL. So that preflight knows what is in a worker image without
starting it, its tag says which flowdist and which Python that is. How images are made and pushed is
left to `flowdist.workers.image`.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from flowdist.errors import UsageError, nearest
from flowdist.snowflake.names import Name, literal

if TYPE_CHECKING:
    from flowdist.snowflake.connection import Client

__all__ = [
    "TOKEN_USER",
    "WORKER_UID",
    "ImagePath",
    "Repository",
    "StoredImage",
    "WorkerTag",
    "find_image",
    "find_repository",
    "registry_password",
    "repositories",
    "stored_images",
]

WORKER_UID = 10001
"""The user, and the group, that worker images run as. A mounted stage has to belong to it."""

TOKEN_USER = "0sessiontoken"
"""Who signs in to a registry with the token of a session: Snowflake's own name for it."""

_PART = re.compile(r"[a-z_][a-z0-9_$]*")
_IMAGE_NAME = re.compile(
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_WORKER_TAG = re.compile(r"(?P<flowdist>[\w.]+)-py(?P<python>\d+\.\d+)-(?P<digest>[0-9a-f]{8})")


@dataclass(frozen=True)
class WorkerTag:
    """What the tag of a worker image says.

    >>> WorkerTag.parse("0.1.0-py3.11-ab12cd34")
    WorkerTag(flowdist='0.1.0', python='3.11', digest='ab12cd34')
    >>> WorkerTag.parse("latest") is None
    True
    """

    flowdist: str
    python: str
    digest: str
    """The first digits of the digest of all that the image was made from."""

    @classmethod
    def parse(cls, tag: str) -> Self | None:
        """None where the tag is one of somebody's own, and says nothing."""
        found = _WORKER_TAG.fullmatch(tag)
        return cls(**found.groupdict()) if found else None

    def differences(self) -> list[str]:
        """What is not as it is here; runs that are submitted from here need both to be the same."""
        from flowdist import __version__

        here = (
            ("Python", self.python, python_minor()),
            ("flowdist", self.flowdist, as_tag(__version__)),
        )
        return [
            f"{name} {there} in the image, {own} here" for name, there, own in here if there != own
        ]

    def __str__(self) -> str:
        return f"{as_tag(self.flowdist)}-py{self.python}-{self.digest}"


def python_minor() -> str:
    """The Python that runs here, as in "3.11": code does not travel between minor versions."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def as_tag(version: str) -> str:
    """A version with what a tag may hold: no ``+``, and no ``-``, which parts a worker's tag."""
    return re.sub(r"[^\w.]", "_", version)


@dataclass(frozen=True)
class ImagePath:
    """The path of an image, as a plan and a specification name it.

    >>> found = ImagePath.parse("/models/public/images/flowdist-worker:1")
    >>> found.repository.sql, found.name, found.tag
    ('MODELS.PUBLIC.IMAGES', 'flowdist-worker', '1')
    >>> found.path
    '/models/public/images/flowdist-worker:1'
    """

    repository: Name
    name: str
    tag: str = "latest"
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``[HOST]/database/schema/repository/name[:tag|@digest]``.

        Raises:
            UsageError: it is no such path.
        """
        place, _, digest = text.partition("@")
        before, colon, tag = place.rpartition(":")
        if not colon or "/" in tag:
            before, tag = place, "latest"
        first, slash, rest = before.partition("/")
        named_host = slash and (first == "" or "." in first or ":" in first)
        parts = (rest if named_host else before).split("/")
        name = "/".join(parts[3:])
        if (
            not all(_PART.fullmatch(part.lower()) for part in parts[:3])
            or not _IMAGE_NAME.fullmatch(name)
            or not _TAG.fullmatch(tag)
            or not (digest == "" or _DIGEST.fullmatch(digest))
        ):
            raise UsageError(
                f"image={text!r} is not the path of an image in a repository of Snowflake; write "
                "/database/schema/repository/name:tag, as flowdist image list shows it"
            )
        return cls(Name(tuple(part.upper() for part in parts[:3])), name, tag, digest)

    @property
    def path(self) -> str:
        """``/database/schema/repository/name:tag``, in lower case, without the host."""
        end = f"@{self.digest}" if self.digest else f":{self.tag}"
        return f"{path_of(self.repository)}/{self.name}{end}"


@dataclass(frozen=True)
class Repository:
    """An image repository, and where clients of registries find it."""

    name: Name
    url: str

    @property
    def host(self) -> str:
        """The host of the registry, with its port where that is not the usual one."""
        return self.url.partition("/")[0]

    def reference(self, image: str) -> str:
        """The full name by which an image ``name:tag`` is pushed to it."""
        return f"{self.url}/{image}"

    def path(self, image: str) -> str:
        """The path of an image ``name:tag``, for a plan."""
        return f"{path_of(self.name)}/{image}"


@dataclass(frozen=True)
class StoredImage:
    """An image in a repository, under one of its tags."""

    name: str
    tag: str
    digest: str
    path: str
    created: datetime | None = None
    worker: WorkerTag | None = field(default=None)
    """What the tag says, where `flowdist image build` has chosen it."""


def path_of(repository: Name) -> str:
    """A repository as the beginning of a path."""
    return "/" + "/".join(part.lower() for part in repository.parts)


def repositories(client: Client, within: Name | None = None) -> list[Repository]:
    """The image repositories that the role sees, in a schema or in the whole account."""
    place = f"SCHEMA {within.sql}" if within is not None else "ACCOUNT"
    return [_repository(row) for row in client.rows(f"SHOW IMAGE REPOSITORIES IN {place}")]


def find_repository(client: Client, text: str | None = None) -> Repository:
    """The image repository of that name (``db.schema.repository`` or ``/db/schema/repository``);
    without one, the only one there is.

    Raises:
        UsageError: there is none, or it is not clear which.
    """
    if text is None:
        return _only(repositories(client))
    written = text.strip("/").replace("/", ".") if "/" in text else text
    name = client.full_name(Name.parse(written, "repository"))
    if not all(_PART.fullmatch(part.lower()) and part == part.upper() for part in name.parts):
        raise UsageError(
            f"repository {name.sql}: paths of images are in lower case, so that a repository whose "
            "name has to be quoted cannot be named in one; make one with a plain name"
        )
    schema = Name(name.parts[:-1])
    found = client.rows(f"SHOW IMAGE REPOSITORIES LIKE {literal(name.last)} IN SCHEMA {schema.sql}")
    for row in found:
        if row["name"] == name.last:
            return _repository(row)
    known = [r.name.sql for r in repositories(client)]
    raise UsageError(
        f"there is no image repository {name.sql}, or this role may not read it"
        f"{nearest(name.sql, known)}; CREATE IMAGE REPOSITORY {name.sql} makes it, "
        f"GRANT READ, WRITE ON IMAGE REPOSITORY {name.sql} TO ROLE ... opens it"
    )


def _only(found: list[Repository]) -> Repository:
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            "this role sees no image repository; CREATE IMAGE REPOSITORY name makes one"
        )
    named = ", ".join(repository.name.sql for repository in found)
    raise UsageError(f"there are {len(found)} image repositories: {named}; say which")


def stored_images(client: Client, repository: Name) -> list[StoredImage]:
    """The images of a repository, one for each tag, the newest first. One statement.

    Raises:
        SnowflakeError: `missing` where there is no such repository, or this role may not read it.
    """
    found = []
    for row in client.rows(f"SHOW IMAGES IN IMAGE REPOSITORY {repository.sql}"):
        for tag in _tags(row["tags"]):
            image = f"{row['image_name']}:{tag}"
            found.append(
                StoredImage(
                    name=row["image_name"],
                    tag=tag,
                    digest=row["digest"],
                    path=f"{path_of(repository)}/{image}",
                    created=_moment(row.get("created_on")),
                    worker=WorkerTag.parse(tag),
                )
            )
    return sorted(found, key=lambda i: (-i.created.timestamp() if i.created else 0.0, i.path))


def find_image(client: Client, path: str) -> StoredImage | None:
    """The image that a plan names, or None where nobody has pushed it. One statement.

    Raises:
        UsageError: that is not the path of an image.
        SnowflakeError: see `stored_images`.
    """
    wanted = ImagePath.parse(path)
    for image in stored_images(client, wanted.repository):
        same = image.digest == wanted.digest if wanted.digest else image.tag == wanted.tag
        if image.name == wanted.name and same:
            return image
    return None


def registry_password(client: Client) -> str:
    """What a registry takes as the password of `TOKEN_USER`: a token of the client's session, as
    ``snow spcs image-registry token`` gives it. It is good for as long as the client is open, and
    for an hour at the most.
    """
    token, seconds = client.issue_token()
    return json.dumps({"token": token, "expires_in": seconds})


def _repository(row: dict[str, Any]) -> Repository:
    name = Name((row["database_name"], row["schema_name"], row["name"]))
    return Repository(name, row["repository_url"])


def _tags(value: Any) -> list[str]:
    """The tags of a row: one, or several with commas or as a JSON list."""
    return [tag for tag in re.split(r'[\[\]",\s]+', str(value or "")) if tag]


def _moment(value: Any) -> datetime | None:
    return value if isinstance(value, datetime) else None
