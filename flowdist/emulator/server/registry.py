"""The image registry: as much of the OCI distribution API as ``podman push`` and ``pull`` need.

A client signs in with the name and the password of a user; or, as `TOKEN_USER`, with a token of a
session, as ``snow spcs image-registry token`` gives it. Pushing needs WRITE on the repository for
the user's default role, or for that of the session; pulling READ. Layers and manifests are files by
their digests under ``registry/`` of the account's directory; a manifest that arrives with a tag
registers the image, with what its configuration says (`compute/images.py`). Of an index, as docker
pushes it for several platforms or with attestations, the image for linux counts.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import re
import secrets
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from flowdist.emulator.catalog import Object
from flowdist.emulator.compute.images import NODE, Reference
from flowdist.emulator.errors import SqlError
from flowdist.emulator.session import Session

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["routes"]

TOKEN_USER = "0sessiontoken"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LARGEST_MANIFEST = 4_000_000
"""Bytes, as other registries have it."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_UPLOAD = re.compile(r"[0-9a-f]{32}")


class Refused(Exception):
    """The answer to a request that fails: an HTTP status, the API's code, and why."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def routes(account: Account) -> list[Route]:
    """The routes of the registry, which the API has at this place of a server."""
    made = Registry(account)
    named = [
        ("blobs/uploads/", made.begin, ["POST"]),
        ("blobs/uploads/{upload}", made.upload, ["PATCH", "PUT", "GET"]),
        ("blobs/{digest}", made.blob, ["GET", "HEAD"]),
        ("manifests/{reference}", made.manifest, ["GET", "HEAD", "PUT"]),
        ("tags/list", made.tags, ["GET"]),
    ]
    return [
        Route("/v2/", made.guarded(made.hello)),
        *(Route(f"/v2/{{name:path}}/{p}", made.guarded(f), methods=m) for p, f, m in named),
    ]


class Registry:
    """Answers the requests of docker and podman."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._blobs = account.directory / "registry" / "blobs"
        self._uploads = account.directory / "registry" / "uploads"

    def guarded(self, handler: Callable[[Request], Awaitable[Response]]) -> Any:
        """The handler, for who has signed in; what goes wrong is answered as the API has it."""

        async def guarded(request: Request) -> Response:
            try:
                return await handler(request)
            except SqlError as failed:
                code = {2003: "NAME_UNKNOWN", 3001: "DENIED"}.get(failed.errno, "UNSUPPORTED")
                return _error(404 if failed.errno == 2003 else 403, code, failed.message)
            except Refused as refused:
                return _error(refused.status, refused.code, str(refused))

        return guarded

    async def hello(self, request: Request) -> Response:
        """Whether this is a registry, and the client is known to it."""
        self._session(request)
        return JSONResponse({})

    async def begin(self, request: Request) -> Response:
        """Begin to receive a layer."""
        self._repository(request, write=True)
        self._uploads.mkdir(parents=True, exist_ok=True)
        upload = uuid.uuid4().hex
        (self._uploads / upload).touch()
        return self._accepted(request, upload)

    async def upload(self, request: Request) -> Response:
        """Receive a part of a layer, or its end."""
        self._repository(request, write=True)
        upload = request.path_params["upload"]
        path = self._uploads / upload
        if not _UPLOAD.fullmatch(upload) or not path.exists():
            raise Refused(404, "BLOB_UPLOAD_UNKNOWN", "no such upload")
        with path.open("ab") as file:
            async for chunk in request.stream():
                await asyncio.to_thread(file.write, chunk)
        if request.method != "PUT":
            return self._accepted(request, upload)
        digest = request.query_params.get("digest", "")
        if await asyncio.to_thread(_digest_of, path) != digest:
            path.unlink()
            raise Refused(400, "DIGEST_INVALID", "the digest is not that of what was sent")
        self._blobs.mkdir(parents=True, exist_ok=True)
        path.replace(self._blob(digest))
        place = f"/v2/{request.path_params['name']}/blobs/{digest}"
        return Response(
            status_code=201, headers={"Location": place, "Docker-Content-Digest": digest}
        )

    async def blob(self, request: Request) -> Response:
        """A layer, or a configuration."""
        self._repository(request, write=False)
        path = self._blob(request.path_params["digest"])
        if not path.exists():
            raise Refused(404, "BLOB_UNKNOWN", "no such layer")
        headers = {"Docker-Content-Digest": request.path_params["digest"]}
        return FileResponse(path, media_type="application/octet-stream", headers=headers)

    async def manifest(self, request: Request) -> Response:
        """Give or take the manifest of an image, by its tag or digest."""
        repository = self._repository(request, write=request.method == "PUT")
        name, wanted = request.path_params["name"], request.path_params["reference"]
        if request.method == "PUT":
            data = await request.body()
            return await asyncio.to_thread(self._register, name, wanted, data)
        digest = wanted
        if not _DIGEST.fullmatch(wanted):
            path = self._reference(name, wanted).path
            images = [o.data["image"] for o in self._account.images.objects(repository)]
            digest = next((i["digest"] for i in images if i["path"] == path), "")
        if not _DIGEST.fullmatch(digest) or not self._blob(digest).exists():
            raise Refused(404, "MANIFEST_UNKNOWN", "no such image")
        data = self._blob(digest).read_bytes()
        kind = json.loads(data).get("mediaType", MANIFEST)
        return Response(data, media_type=kind, headers={"Docker-Content-Digest": digest})

    async def tags(self, request: Request) -> Response:
        """The tags of an image."""
        repository = self._repository(request, write=False)
        name = request.path_params["name"]
        image = self._reference(name, "latest").name
        found = self._account.images.objects(repository)
        tags = [o.data["tag"] for o in found if o.data["image_name"] == image]
        return JSONResponse({"name": name, "tags": tags})

    def _register(self, name: str, wanted: str, data: bytes) -> Response:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        if len(data) > LARGEST_MANIFEST:
            raise Refused(413, "MANIFEST_INVALID", "the manifest is too large")
        try:
            manifest = self._of_linux(json.loads(data))
            config = json.loads(self._blob(manifest["config"]["digest"]).read_bytes())
        except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError):
            raise Refused(
                400, "MANIFEST_INVALID", "not the manifest of an image whose configuration is here"
            ) from None
        if _DIGEST.fullmatch(wanted) and wanted != digest:
            raise Refused(400, "DIGEST_INVALID", "the digest is not that of the manifest")
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._blob(digest).write_bytes(data)
        if not _DIGEST.fullmatch(wanted):
            reference = self._reference(name, wanted)
            run = config.get("config") or {}
            self._account.images.push(
                reference.path,
                entrypoint=run.get("Entrypoint") or [],
                cmd=run.get("Cmd") or [],
                env=dict(variable.split("=", 1) for variable in run.get("Env") or []),
                working_directory=run.get("WorkingDir") or None,
                user=run.get("User") or None,
                architecture=config.get("architecture", "amd64"),
                source=f"{reference.path.rpartition(':')[0]}@{digest}",
                inspect=False,
                digest=digest,
            )
        return Response(
            status_code=201,
            headers={"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest},
        )

    def _of_linux(self, manifest: Any) -> Any:
        """A manifest; of an index, that of the first image for linux."""
        for one in manifest.get("manifests", ()):
            if one.get("platform", {}).get("os") == "linux":
                return json.loads(self._blob(one["digest"]).read_bytes())
        return manifest

    # -- who asks, and for what

    def _session(self, request: Request) -> Session:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        try:
            user, _, password = base64.b64decode(given, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            user = password = ""
        found = None
        if user == NODE and secrets.compare_digest(
            password.encode(), self._account.images.key.encode()
        ):
            return Session(0, NODE, "ACCOUNTADMIN")
        if kind.lower() == "basic" and user == TOKEN_USER:
            return self._session_of(password)
        if kind.lower() == "basic" and user:
            found = self._account.access.check_password(user.upper(), password)
        if found is None:
            raise Refused(401, "UNAUTHORIZED", "the name of a user and the password are wanted")
        return Session(0, found.name, found.data.get("default_role") or "PUBLIC")

    def _session_of(self, password: str) -> Session:
        """The session whose token a client has, in JSON."""
        try:
            return self._account.tokens.session_of(str(json.loads(password)["token"]))
        except (ValueError, KeyError, TypeError, SqlError):
            raise Refused(401, "UNAUTHORIZED", "not the token of a session") from None

    def _repository(self, request: Request, *, write: bool) -> Object:
        session = self._session(request)
        reference = self._reference(request.path_params["name"], "latest")
        found = self._account.access.find(session, "image repository", reference.repository)
        wanted = ("WRITE", "OWNERSHIP") if write else ("READ", "WRITE", "OWNERSHIP")
        self._account.access.require_any(session, wanted, found)
        return found

    def _reference(self, name: str, tag: str) -> Reference:
        return Reference.parse(f"/{name}:{tag}", None, None, self._account.images.host)

    def _blob(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise Refused(400, "DIGEST_INVALID", "sha256 digests only")
        return self._blobs / digest.removeprefix("sha256:")

    def _accepted(self, request: Request, upload: str) -> Response:
        size = (self._uploads / upload).stat().st_size
        headers = {
            "Location": f"/v2/{request.path_params['name']}/blobs/uploads/{upload}",
            "Docker-Upload-UUID": upload,
            "Range": f"0-{max(0, size - 1)}",
        }
        return Response(status_code=204 if request.method == "GET" else 202, headers=headers)


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _error(status: int, code: str, message: str) -> Response:
    headers = {"WWW-Authenticate": 'Basic realm="flowdist"'} if status == 401 else {}
    return JSONResponse({"errors": [{"code": code, "message": message}]}, status, headers)
