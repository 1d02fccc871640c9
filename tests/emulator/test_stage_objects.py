"""The endpoint that moves the bytes of stages: who may use it, and what it answers."""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette

from flowdist.clock import ManualClock
from flowdist.emulator.account import Account
from flowdist.emulator.catalog import Object
from flowdist.emulator.names import FullName
from flowdist.emulator.server import objects

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Answer:
    status_code: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()


@dataclass
class Endpoint:
    """The endpoint of an account, with a stage and passes to it."""

    account: Account
    clock: ManualClock
    port: int
    stage: Object

    def leave(self, prefix: str = "", *, write: bool = True, **options: Any) -> str:
        return self.account.files.passes.issue(self.stage.id, prefix, write=write, **options)

    def __call__(
        self,
        method: str,
        path: str,
        leave: str | None = None,
        content: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        stage: int | None = None,
    ) -> Answer:
        link = http.client.HTTPConnection("127.0.0.1", self.port)
        url = f"/{objects.BUCKET}/{stage or self.stage.id}/{path}"
        pass_ = self.leave() if leave is None else leave
        link.request(method, url, content, {"x-amz-security-token": pass_, **(headers or {})})
        got = link.getresponse()
        answer = Answer(got.status, got.headers, got.read())
        link.close()
        return answer


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    clock = ManualClock(1_700_000_000)
    account = Account(tmp_path / "account", clock=clock)
    session = account.open_session("FLOWDIST", "ACCOUNTADMIN", database="FLOWDIST", schema="PUBLIC")
    account.execute(session, "CREATE STAGE s")
    listener = socket.create_server(("127.0.0.1", 0))
    app = Starlette(routes=objects.routes(account))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    stage, _ = account.files.locate("@s", session)
    yield Endpoint(account, clock, listener.getsockname()[1], stage)
    server.should_exit = True
    thread.join()
    listener.close()
    account.close()


def test_a_file_is_sent_and_fetched(endpoint: Endpoint) -> None:
    digest = hashlib.md5(b"hello").hexdigest()
    sent = endpoint("PUT", "a/b%20c", content=b"hello", headers={"x-amz-meta-sfc-digest": "d"})
    assert (sent.status_code, sent.headers["ETag"]) == (200, f'"{digest}"')

    head = endpoint("HEAD", "a/b%20c")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == "5"
    assert head.headers["ETag"] == f'"{digest}"'
    assert head.headers["x-amz-meta-sfc-digest"] == "d"
    assert endpoint("GET", "a/b%20c").content == b"hello"
    assert [f.path for f in endpoint.account.files.listing(endpoint.stage)] == ["a/b c"]


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        ("bytes=2-4", 206, b"234"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-2", 206, b"89"),
        ("bytes=8-100", 206, b"89"),
        ("lines=1", 200, b"0123456789"),
    ],
)
def test_parts_of_a_file_are_fetched(
    endpoint: Endpoint, asked: str, status: int, body: bytes
) -> None:
    endpoint("PUT", "a", content=b"0123456789")

    got = endpoint("GET", "a", headers={"Range": asked})
    assert (got.status_code, got.content) == (status, body)
    assert endpoint("GET", "a", headers={"Range": "bytes=10-"}).status_code == 416


def test_what_is_not_there_is_said_as_s3_says_it(endpoint: Endpoint) -> None:
    missing = endpoint("GET", "nothing")
    assert missing.status_code == 404
    assert "<Code>NoSuchKey</Code>" in missing.text
    assert endpoint("HEAD", "nothing").status_code == 404


def test_nobody_comes_in_without_a_pass(endpoint: Endpoint) -> None:
    endpoint("PUT", "in/a", content=b"a")
    good = endpoint.leave("in/", write=False)

    assert endpoint("GET", "in/a", good).status_code == 200
    for leave, method, path in (
        ("nonsense", "GET", "in/a"),
        (good[:-1] + "x", "GET", "in/a"),
        (good, "GET", "out/a"),
        (good, "PUT", "in/a"),
        (endpoint.leave("in/a", exact=True), "PUT", "in/ab"),
    ):
        refused = endpoint(method, path, leave)
        assert (refused.status_code, "AccessDenied" in refused.text) == (403, True)
    other = endpoint.stage.id + 1
    assert endpoint("GET", "in/a", good, stage=other).status_code == 403


def test_a_pass_expires(endpoint: Endpoint) -> None:
    leave = endpoint.leave()
    endpoint.clock.advance(3601)

    late = endpoint("GET", "a", leave)
    assert (late.status_code, "<Code>ExpiredToken</Code>" in late.text) == (400, True)


@pytest.mark.parametrize("path", ["..%2F..%2Fcatalog.sqlite", "a/..%2F..%2Fx", "a%00b", "b" * 300])
def test_no_path_leads_out_of_the_stage(endpoint: Endpoint, path: str) -> None:
    for method in ("GET", "PUT"):
        refused = endpoint(method, path, content=b"x")
        assert (refused.status_code, "<Code>InvalidURI" in refused.text) == (400, True)


def test_a_file_and_a_directory_cannot_have_one_path(endpoint: Endpoint) -> None:
    endpoint("PUT", "a/b", content=b"1")

    assert endpoint("PUT", "a", content=b"2").status_code == 409
    assert endpoint("PUT", "a/b/c", content=b"2").status_code == 409
    assert endpoint("GET", "a/b").content == b"1"


def test_a_pass_may_not_replace_what_is_there(endpoint: Endpoint) -> None:
    leave = endpoint.leave("a", exact=True, overwrite=False)

    assert endpoint("PUT", "a", leave, content=b"first").status_code == 200
    assert endpoint("PUT", "a", leave, content=b"second").status_code == 200
    assert endpoint("GET", "a").content == b"first"


def begin(endpoint: Endpoint, path: str) -> str:
    begun = endpoint("POST", f"{path}?uploads", headers={"x-amz-meta-sfc-digest": "d"})
    match = re.search("<UploadId>(.*)</UploadId>", begun.text)
    assert match is not None
    return match.group(1)


def complete(endpoint: Endpoint, path: str, upload: str, etags: list[str]) -> Any:
    parts = "".join(
        f"<Part><ETag>{etag}</ETag><PartNumber>{i}</PartNumber></Part>"
        for i, etag in enumerate(etags, 1)
    )
    body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>"
    return endpoint("POST", f"{path}?uploadId={upload}", content=body.encode())


def test_a_file_is_sent_in_parts(endpoint: Endpoint) -> None:
    upload = begin(endpoint, "big")
    etags = {}
    for number, data in ((2, b"world"), (1, b"hello "), (2, b"World")):
        sent = endpoint("PUT", f"big?partNumber={number}&uploadId={upload}", content=data)
        etags[number] = sent.headers["ETag"]
    assert endpoint("GET", "big").status_code == 404

    done = complete(endpoint, "big", upload, [etags[1], etags[2]])
    assert done.status_code == 200
    assert endpoint("GET", "big").content == b"hello World"
    head = endpoint("HEAD", "big")
    assert head.headers["ETag"].endswith('-2"')
    assert head.headers["x-amz-meta-sfc-digest"] == "d"


def test_an_upload_that_is_completed_again_is_answered_as_before(endpoint: Endpoint) -> None:
    upload = begin(endpoint, "big")
    etag = endpoint("PUT", f"big?partNumber=1&uploadId={upload}", content=b"x").headers["ETag"]
    first = complete(endpoint, "big", upload, [etag])
    endpoint("PUT", "big", content=b"newer")

    again = complete(endpoint, "big", upload, [etag])

    assert (again.status_code, again.content) == (200, first.content)
    assert endpoint("GET", "big").content == b"newer"


def test_a_temporary_stage_has_an_address_too(endpoint: Endpoint) -> None:
    files = endpoint.account.files
    session = endpoint.account.open_session("FLOWDIST", "FLOWDIST_ROLE")
    stage = files.create_temporary(session, FullName("FLOWDIST", "PUBLIC", "HERE"))
    leave = files.passes.issue(stage.id, "", write=True)

    assert endpoint("PUT", "a", leave, b"", stage=stage.id).status_code == 200
    assert endpoint("GET", "a", leave, stage=stage.id).content == b""


def test_an_upload_in_parts_is_given_up(endpoint: Endpoint) -> None:
    upload = begin(endpoint, "big")
    part = endpoint("PUT", f"big?partNumber=1&uploadId={upload}", content=b"x").headers["ETag"]

    assert complete(endpoint, "big", upload, ['"' + "0" * 32 + '"']).status_code == 400
    assert endpoint("DELETE", f"big?uploadId={upload}").status_code == 204
    assert complete(endpoint, "big", upload, [part]).status_code == 404
    assert list(endpoint.account.files.store(endpoint.stage).uploads.iterdir()) == []


def test_chunks_as_aws_clients_send_them_are_put_together(endpoint: Endpoint) -> None:
    body = b"5;chunk-signature=x\r\nhello\r\n6\r\n world\r\n0\r\nx-amz-checksum-crc32:abc=\r\n\r\n"

    for size in (1, 7, len(body)):
        pieces = (body[i : i + size] for i in range(0, len(body), size))
        endpoint("PUT", "a", content=pieces, headers={"content-encoding": "aws-chunked"})
        assert endpoint("GET", "a").content == b"hello world"


SERVER = """
import pathlib, socket, sys, uvicorn
from starlette.applications import Starlette
from flowdist.emulator.account import Account
from flowdist.emulator.server import objects
account = Account(pathlib.Path(sys.argv[1]))
session = account.open_session("FLOWDIST", "ACCOUNTADMIN", database="FLOWDIST", schema="PUBLIC")
account.execute(session, "CREATE STAGE s")
stage, _ = account.files.locate("@s", session)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], stage.id, account.files.passes.issue(stage.id, "", write=True))
sys.stdout.flush()
app = Starlette(routes=objects.routes(account))
uvicorn.Server(uvicorn.Config(app, log_config=None)).run(sockets=[listener])
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[tuple[int, Callable[..., http.client.HTTPResponse]]]:
    """The endpoint in a process of its own: its id, and what sends it a request."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path / "account")], stdout=subprocess.PIPE, text=True
    ) as serving:
        assert serving.stdout is not None
        port, stage, leave = serving.stdout.readline().split()

        def send(method: str, path: str, body: Any = None) -> http.client.HTTPResponse:
            link = http.client.HTTPConnection("127.0.0.1", int(port), blocksize=MEGABYTE)
            link.request(
                method,
                f"/{objects.BUCKET}/{stage}/{path}",
                body=body,
                headers={"x-amz-security-token": leave},
            )
            return link.getresponse()

        yield serving.pid, send
        serving.terminate()


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_large_files_do_not_pass_through_memory(
    process: tuple[int, Callable[..., http.client.HTTPResponse]], tmp_path: Path
) -> None:
    pid, send = process
    size = 120 * MEGABYTE
    send("PUT", "small", b"x").read()
    before = peak(pid)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(size)

    with (tmp_path / "sparse").open("rb") as file:
        assert send("PUT", "large", file).status == 200
    got = send("GET", "large")
    received = 0
    while piece := got.read(MEGABYTE):
        received += len(piece)
    assert received == size
    assert peak(pid) - before < 30 * MEGABYTE


def peak(pid: int) -> int:
    """The most memory that a process has had, in bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", text)
    assert match is not None
    return int(match.group(1)) * 1024
