"""The image registry, asked as docker and podman ask it."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from flowdist.emulator.account import Account
from flowdist.emulator.compute.images import NODE
from flowdist.emulator.server.registry import TOKEN_USER

NAME = "flowdist/public/images/model"


def _ask(
    account: Account, method: str, path: str, data: bytes = b"", password: str | None = None
) -> tuple[int, dict[str, str], bytes]:
    text = f"FLOWDIST:{account.password if password is None else password}"
    headers = {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}
    request = urllib.request.Request(account.url + path, data or None, headers, method=method)
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status, {k.lower(): v for k, v in reply.headers.items()}, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _upload(account: Account, data: bytes, digest: str) -> int:
    _, headers, _ = _ask(account, "POST", f"/v2/{NAME}/blobs/uploads/")
    status, headers, _ = _ask(account, "PATCH", headers["location"], data)
    assert (status, headers["range"]) == (202, f"0-{len(data) - 1}")
    return _ask(account, "PUT", f"{headers['location']}?digest={digest}")[0]


@pytest.fixture
def registry(server: Any, account: Account) -> Account:
    """A served account that has a repository; it is waited for until it listens."""
    until = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", server.port)).close()
            break
        except ConnectionRefusedError:
            assert time.monotonic() < until
            time.sleep(0.01)
    session = account.open_session("FLOWDIST", "FLOWDIST_ROLE")
    account.execute(session, "CREATE IMAGE REPOSITORY flowdist.public.images")
    return account


def test_who_has_not_signed_in_is_asked_to(registry: Account) -> None:
    status, headers, _ = _ask(registry, "GET", "/v2/", password="wrong")
    assert (status, headers["www-authenticate"]) == (401, 'Basic realm="flowdist"')
    assert _ask(registry, "GET", "/v2/")[0] == 200
    assert _ask(registry, "GET", f"/v2/{NAME}/tags/list", password="wrong")[0] == 401


def test_an_image_is_pushed_and_given_back(registry: Account) -> None:
    config = json.dumps(
        {"architecture": "arm64", "config": {"Entrypoint": ["run"], "Env": ["A=b=c"], "User": "7"}}
    ).encode()
    assert _upload(registry, config, _digest(config)) == 201
    manifest = json.dumps({"schemaVersion": 2, "config": {"digest": _digest(config)}}).encode()
    status, headers, _ = _ask(registry, "PUT", f"/v2/{NAME}/manifests/1.0", manifest)
    assert (status, headers["docker-content-digest"]) == (201, _digest(manifest))
    session = registry.open_session("FLOWDIST", "FLOWDIST_ROLE")
    found = registry.images.resolve(f"/{NAME}:1.0", session)
    assert (found.entrypoint, found.env, found.user) == (("run",), {"A": "b=c"}, "7")
    assert (found.architecture, found.digest) == ("arm64", _digest(manifest))
    for reference in ("1.0", _digest(manifest)):
        assert _ask(registry, "GET", f"/v2/{NAME}/manifests/{reference}")[2] == manifest
    assert _ask(registry, "GET", f"/v2/{NAME}/blobs/{_digest(config)}")[2] == config
    tags = json.loads(_ask(registry, "GET", f"/v2/{NAME}/tags/list")[2])
    assert tags == {"name": NAME, "tags": ["1.0"]}


def test_of_an_index_the_image_for_linux_is_registered(registry: Account) -> None:
    parts = []
    for system, entry in (("unknown", "attestation"), ("linux", "run")):
        config = json.dumps({"architecture": "amd64", "config": {"Entrypoint": [entry]}}).encode()
        assert _upload(registry, config, _digest(config)) == 201
        manifest = json.dumps({"config": {"digest": _digest(config)}}).encode()
        place = f"/v2/{NAME}/manifests/{_digest(manifest)}"
        assert _ask(registry, "PUT", place, manifest)[0] == 201
        parts.append({"digest": _digest(manifest), "platform": {"os": system}})
    index = json.dumps({"manifests": parts}).encode()
    assert _ask(registry, "PUT", f"/v2/{NAME}/manifests/2.0", index)[0] == 201
    session = registry.open_session("FLOWDIST", "FLOWDIST_ROLE")
    found = registry.images.resolve(f"/{NAME}:2.0", session)
    assert (found.entrypoint, found.digest) == (("run",), _digest(index))


def test_nodes_of_pools_pull_whatever_the_repository(registry: Account) -> None:
    text = f"{NODE}:{registry.images.key}"
    basic = "Basic " + base64.b64encode(text.encode()).decode()
    request = urllib.request.Request(
        f"{registry.url}/v2/{NAME}/tags/list", headers={"Authorization": basic}
    )
    with urllib.request.urlopen(request) as reply:
        assert reply.status == 200
    assert _ask(registry, "GET", "/v2/", password="\u00e9")[0] == 401


def test_the_token_of_a_session_signs_in_with_what_its_role_may(registry: Account) -> None:
    def status(role: str, token: str = "") -> int:
        issued = registry.tokens.issue(registry.open_session("FLOWDIST", role))
        known = json.dumps({"token": token or issued.session_token, "expires_in": issued.validity})
        basic = base64.b64encode(f"{TOKEN_USER}:{known}".encode()).decode()
        request = urllib.request.Request(
            f"{registry.url}/v2/{NAME}/tags/list", headers={"Authorization": f"Basic {basic}"}
        )
        try:
            with urllib.request.urlopen(request) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    assert status("FLOWDIST_ROLE") == 200
    assert status("PUBLIC") == 404
    assert status("FLOWDIST_ROLE", token="another") == 401


def test_what_does_not_have_its_digest_is_refused(registry: Account) -> None:
    assert _upload(registry, b"layer", _digest(b"other")) == 400
    assert _ask(registry, "HEAD", f"/v2/{NAME}/blobs/{_digest(b'other')}")[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/v2/flowdist/public/none/model/blobs/uploads/", 404, "NAME_UNKNOWN"),
        ("GET", f"/v2/{NAME}/manifests/none", 404, "MANIFEST_UNKNOWN"),
        ("PUT", f"/v2/{NAME}/manifests/none", 400, "MANIFEST_INVALID"),
        ("PATCH", f"/v2/{NAME}/blobs/uploads/{'0' * 32}", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("GET", f"/v2/{NAME}/blobs/sha256:1", 400, "DIGEST_INVALID"),
    ],
)
def test_what_is_not_there_is_refused_in_the_apis_words(
    registry: Account, method: str, path: str, status: int, code: str
) -> None:
    found, _, body = _ask(registry, method, path)
    assert (found, json.loads(body)["errors"][0]["code"]) == (status, code)
