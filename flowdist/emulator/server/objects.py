"""Where clients send and fetch the files of stages: enough of S3's interface.

The reply to PUT or GET (`statements.transfers`) gives a client this address, ``/flowdist-stages``,
with a pass. Clients of connector 5.x take it for S3 and send the pass as their session token; those
of 4.x, which would talk to S3 by TLS only, get addresses with the pass in them, as from Google's
store, each for one file. Bytes go from the socket to the disk and back a piece at a time.

    HEAD, GET    a file; GET also parts of it (Range)
    PUT          a file, or a part of one (?partNumber=&uploadId=)
    POST         begins (?uploads) or completes (?uploadId=) an upload in parts
    DELETE       gives such an upload up
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from flowdist.emulator.catalog import Object
from flowdist.emulator.stages.index import Known
from flowdist.emulator.stages.passes import Expired, Invalid, Pass
from flowdist.emulator.stages.store import UnsafePath, safe_path

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["BUCKET", "address", "routes"]

BUCKET = "flowdist-stages"
PASS_PARAMETER = "pass"
"""The parameter of an address that has the pass in itself."""

PIECE = 1 << 20
"""How many bytes are in memory at a time, for each transfer."""

_META = ("x-amz-meta-", "x-goog-meta-")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)\Z")
_UPLOAD_ID = re.compile(r"[0-9a-f]{32}\Z")


class ObjectError(Exception):
    """An answer that is an error, as S3 words it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def routes(account: Account) -> list[Route]:
    """The routes of this endpoint."""
    objects = Objects(account)
    methods = ["HEAD", "GET", "PUT", "POST", "DELETE"]
    return [Route(f"/{BUCKET}/{{stage}}/{{path:path}}", objects.answer, methods=methods)]


class Objects:
    """Answers requests for the files of an account's stages."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._files = account.files

    async def answer(self, request: Request) -> Response:
        """One request, whatever it asks for."""
        try:
            stage, path, leave = await run_in_threadpool(self._allowed, request)
            return await self._handler(request)(request, stage, path, leave)
        except ObjectError as error:
            return _failure(request, error)
        except ClientDisconnect:
            return Response(status_code=400)
        except OSError as error:
            # A name that is too long, a full disk, a file where a directory should be.
            return _failure(request, ObjectError(409, "OperationAborted", str(error)))

    def _handler(
        self, request: Request
    ) -> Callable[[Request, Object, str, Pass], Awaitable[Response]]:
        given = request.query_params
        if request.method in ("GET", "HEAD"):
            return self._get
        if request.method == "PUT":
            return self._put_part if "uploadId" in given else self._put
        if request.method == "POST" and "uploads" in given:
            return self._begin
        if request.method == "POST" and "uploadId" in given:
            return self._complete
        if request.method == "DELETE" and "uploadId" in given:
            return self._abort
        raise ObjectError(501, "NotImplemented", "not supported by the emulator")

    def _allowed(self, request: Request) -> tuple[Object, str, Pass]:
        try:
            identity = int(request.path_params["stage"])  # temporary stages have negative ones
        except ValueError:
            raise ObjectError(404, "NoSuchBucket", "The specified bucket does not exist") from None
        try:
            path = safe_path(request.path_params["path"])
        except UnsafePath as unsafe:
            raise ObjectError(400, "InvalidURI", str(unsafe)) from None
        text = request.query_params.get(PASS_PARAMETER) or request.headers.get(
            "x-amz-security-token", ""
        )
        try:
            found = self._files.passes.check(text)
        except Expired:
            raise ObjectError(400, "ExpiredToken", "The provided token has expired.") from None
        except Invalid:
            raise ObjectError(403, "AccessDenied", "Access Denied") from None
        if not found.covers(identity, path, request.method not in ("GET", "HEAD")):
            raise ObjectError(403, "AccessDenied", "Access Denied")
        stage = self._files.by_id(identity)
        if stage is None:
            raise ObjectError(404, "NoSuchBucket", "The specified bucket does not exist")
        return stage, path, found

    # -- reading

    async def _get(self, request: Request, stage: Object, path: str, leave: Pass) -> Response:
        stat = await run_in_threadpool(self._files.find, stage, path)
        if stat is None:
            raise ObjectError(404, "NoSuchKey", "The specified key does not exist.")
        with contextlib.ExitStack() as closing:
            try:
                # Opened before it is described: what replaces it meanwhile is another file.
                file = closing.enter_context(self._files.store(stage).local(path).open("rb"))
                stat = os.fstat(file.fileno())
                known = await run_in_threadpool(self._files.known, stage, path, stat)
            except FileNotFoundError:
                raise ObjectError(404, "NoSuchKey", "The specified key does not exist.") from None
            status, first, count = _range(request.headers.get("range"), stat.st_size)
            headers = _headers(stat, known, status, first, count)
            if request.method == "HEAD":
                return Response(status_code=status, headers=headers)
            file.seek(first)
            closing.pop_all()  # the reply closes it
            return StreamingResponse(_pieces(file, count), status_code=status, headers=headers)

    # -- writing

    async def _put(self, request: Request, stage: Object, path: str, leave: Pass) -> Response:
        if not path or path.endswith("/"):
            raise ObjectError(400, "InvalidURI", "a file needs a name")
        with self._files.store(stage).upload() as upload:
            md5 = await _receive(request, upload)
            known = Known(md5, _meta(request.headers))
            await run_in_threadpool(self._place, stage, path, upload, known, leave)
        return Response(headers={"ETag": f'"{md5}"'})

    def _place(self, stage: Object, path: str, upload: Path, known: Known, leave: Pass) -> None:
        # Clients of S3 have looked first, and do not send what is there; the others cannot.
        if leave.overwrite or not leave.exact or self._files.find(stage, path) is None:
            self._files.place(stage, upload, path, known)

    async def _begin(self, request: Request, stage: Object, path: str, leave: Pass) -> Response:
        identity = secrets.token_hex(16)
        directory = self._files.store(stage).uploads / identity
        directory.mkdir()
        said = {"path": path, "meta": _meta(request.headers)}
        (directory / "upload.json").write_text(json.dumps(said))
        return _xml(
            f"<InitiateMultipartUploadResult><Bucket>{BUCKET}</Bucket>"
            f"<Key>{stage.id}/{escape(path)}</Key><UploadId>{identity}</UploadId>"
            "</InitiateMultipartUploadResult>"
        )

    async def _put_part(self, request: Request, stage: Object, path: str, leave: Pass) -> Response:
        directory = self._upload(request, stage, path)
        number = request.query_params.get("partNumber", "")
        if not number.isdigit() or not 1 <= int(number) <= 10_000:
            raise ObjectError(400, "InvalidArgument", "partNumber is from 1 to 10000")
        part = directory / f"{secrets.token_hex(8)}.new"
        try:
            md5 = await _receive(request, part)
            # The digest is in the name: a part that is sent twice is there once, and complete.
            part.replace(directory / f"{int(number):05d}-{md5}")
        finally:
            with contextlib.suppress(FileNotFoundError):
                part.unlink()
        return Response(headers={"ETag": f'"{md5}"'})

    async def _complete(self, request: Request, stage: Object, path: str, leave: Pass) -> Response:
        directory = self._upload(request, stage, path)
        body = await request.body()
        md5 = await run_in_threadpool(self._join, stage, path, directory, body)
        return _xml(
            f"<CompleteMultipartUploadResult><Bucket>{BUCKET}</Bucket>"
            f"<Key>{stage.id}/{escape(path)}</Key><ETag>&quot;{md5}&quot;</ETag>"
            "</CompleteMultipartUploadResult>"
        )

    def _join(self, stage: Object, path: str, directory: Path, body: bytes) -> str:
        """The digest of the file; of one that was complete before, when the answer was lost."""
        done = directory / "digest"
        with contextlib.suppress(FileNotFoundError):
            return done.read_text()
        parts = _named_parts(body, directory)
        digests = b"".join(bytes.fromhex(part.name.partition("-")[2]) for part in parts)
        md5 = f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"
        meta = json.loads((directory / "upload.json").read_text())["meta"]
        with self._files.store(stage).upload() as upload:
            with upload.open("wb") as whole:
                for part in parts:
                    with part.open("rb") as file:
                        shutil.copyfileobj(file, whole, PIECE)
            self._files.place(stage, upload, path, Known(md5, meta))
        done.with_suffix(".new").write_text(md5)
        done.with_suffix(".new").replace(done)
        for part in directory.glob("?????-*"):
            part.unlink(missing_ok=True)
        return md5

    async def _abort(self, request: Request, stage: Object, path: str, leave: Pass) -> Response:
        directory = self._upload(request, stage, path)
        await run_in_threadpool(shutil.rmtree, directory, True)
        return Response(status_code=204)

    def _upload(self, request: Request, stage: Object, path: str) -> Path:
        identity = request.query_params["uploadId"]
        directory = self._files.store(stage).uploads / identity
        missing = ObjectError(404, "NoSuchUpload", "The specified upload does not exist.")
        if not _UPLOAD_ID.match(identity):
            raise missing
        try:
            said = json.loads((directory / "upload.json").read_text())
        except FileNotFoundError:
            raise missing from None
        if said["path"] != path:
            raise missing
        return directory


def _named_parts(body: bytes, directory: Path) -> list[Path]:
    """The parts that a client wants joined, in their order."""
    wrong = ObjectError(
        400, "InvalidPart", "One or more of the specified parts could not be found."
    )
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise ObjectError(400, "MalformedXML", str(error)) from None
    found: list[Path] = []
    for part in root:
        said = {entry.tag.rpartition("}")[2]: (entry.text or "") for entry in part}
        number = said.get("PartNumber", "").strip()
        digest = said.get("ETag", "").strip().strip('"')
        if not number.isdigit() or not re.fullmatch(r"[0-9a-f]{32}", digest):
            raise wrong
        path = directory / f"{int(number):05d}-{digest}"
        if not path.is_file() or (found and found[-1].name[:5] >= path.name[:5]):
            raise wrong
        found.append(path)
    if not found:
        raise wrong
    return found


async def _receive(request: Request, target: Path) -> str:
    """Write the body of a request to a file; its MD5."""
    md5 = hashlib.md5(usedforsecurity=False)
    waiting = bytearray()

    def write() -> None:
        md5.update(waiting)
        file.write(waiting)
        waiting.clear()

    with target.open("wb") as file:  # buffered: a raw file may write less than it is given
        async for piece in _body(request):
            waiting += piece
            if len(waiting) >= PIECE:
                await run_in_threadpool(write)
        await run_in_threadpool(write)
    return md5.hexdigest()


async def _body(request: Request) -> AsyncIterator[bytes]:
    """The bytes of the file in a request; AWS's clients may send them in chunks of their own."""
    chunked = "aws-chunked" in request.headers.get("content-encoding", "") or request.headers.get(
        "x-amz-content-sha256", ""
    ).startswith("STREAMING-")
    stream = request.stream()
    if not chunked:
        async for piece in stream:
            yield piece
        return
    waiting = b""
    left = -1  # bytes of the chunk that are still to come; -1: its head is
    async for piece in stream:
        waiting += piece
        while True:
            if left < 0:
                head, end, rest = waiting.partition(b"\r\n")
                if not end:
                    break
                left = int(head.partition(b";")[0], 16)
                if left == 0:  # what follows are trailers: checksums
                    async for _ in stream:
                        pass
                    return
                waiting = rest
            if left > 0:
                if not waiting:
                    break
                yield waiting[:left]
                taken = min(left, len(waiting))
                waiting, left = waiting[taken:], left - taken
            if left == 0:
                if len(waiting) < 2:
                    break
                waiting, left = waiting[2:], -1


def _headers(
    stat: os.stat_result, known: Known, status: int, first: int, count: int
) -> dict[str, str]:
    """What is said of a file, or of a part of it."""
    made = {
        "ETag": f'"{known.md5}"',
        "Last-Modified": formatdate(stat.st_mtime, usegmt=True),
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        "Content-Length": str(count),
        **{prefix + name: value for name, value in known.meta.items() for prefix in _META},
    }
    if status == 206:
        made["Content-Range"] = f"bytes {first}-{first + count - 1}/{stat.st_size}"
    return made


def _pieces(file: BinaryIO, count: int) -> Iterator[bytes]:
    with file:
        while count > 0:
            piece = file.read(min(PIECE, count))
            if not piece:
                return
            count -= len(piece)
            yield piece


def _range(header: str | None, size: int) -> tuple[int, int, int]:
    """Status, first byte and number of bytes of what a Range asks for."""
    match = _RANGE.match(header or "")
    if match is None or match.groups() == ("", ""):
        return 200, 0, size
    if match.group(1):
        first = int(match.group(1))
        last = min(int(match.group(2)), size - 1) if match.group(2) else size - 1
    else:
        first, last = max(0, size - int(match.group(2))), size - 1
    if first >= size or last < first:
        raise ObjectError(416, "InvalidRange", "The requested range is not satisfiable")
    return 206, first, last - first + 1


def _meta(headers: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name, value in headers.items():
        for prefix in _META:
            if name.startswith(prefix):
                found[name[len(prefix) :]] = value
    return found


def _xml(body: str, status: int = 200) -> Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'
    return Response(text, status_code=status, media_type="application/xml")


def _failure(request: Request, error: ObjectError) -> Response:
    if request.method == "HEAD":
        return Response(status_code=error.status)
    return _xml(
        f"<Error><Code>{error.code}</Code><Message>{escape(error.message)}</Message>"
        f"<Resource>{escape(request.url.path)}</Resource>"
        f"<RequestId>{secrets.token_hex(8)}</RequestId></Error>",
        error.status,
    )


def address(url: str, stage: int, path: str, leave: str) -> str:
    """Where a file is, for those who need no headers: the pass is in the address."""
    return f"{url}/{BUCKET}/{stage}/{quote(path)}?{PASS_PARAMETER}={leave}"
