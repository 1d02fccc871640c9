"""What faults do to connections, seen by a client at the other end of a real socket."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from flowdist.emulator.account import Account
from flowdist.emulator.server import control, running

WORK = "/queries/v1/query-request"


class Served:
    """An account behind a small application that counts how often it has worked."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.worked = 0
        self.app = Starlette(
            routes=[Route(WORK, self.work, methods=["POST"]), *control.routes(account)],
            middleware=[control.middleware(account)],
        )
        config = uvicorn.Config(
            self.app, port=0, http=running.protocol(account), log_config=None, proxy_headers=False
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        (listening,) = self._server.servers[0].sockets
        self.port: int = listening.getsockname()[1]

    async def work(self, request: Request) -> Response:
        text = (await request.body()).decode()
        await asyncio.sleep(0)
        self.worked += 1
        return PlainTextResponse(f"worked on {text}")

    def ask(
        self, method: str, path: str, body: Any = None, token: str | None = None
    ) -> tuple[int, Any]:
        """One request on a connection of its own: status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            reply = connection.getresponse()
            text = reply.read().decode()
        finally:
            connection.close()
        is_json = reply.headers.get_content_type() == "application/json"
        return reply.status, json.loads(text) if is_json else text

    def control(self, method: str, path: str, body: Any = None) -> Any:
        """A request to the control endpoint, which has to succeed."""
        status, found = self.ask(method, f"/control/{path}", body, control.token(self.account))
        assert status == 200, found
        return found

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    account = Account(tmp_path / "account")
    made = Served(account)
    yield made
    made.close()
    account.close()


def test_without_faults_requests_pass(served: Served) -> None:
    assert served.ask("POST", WORK, {"sqlText": "x"}) == (200, 'worked on {"sqlText": "x"}')


def test_a_dropped_connection_gives_no_reply_and_does_no_work(served: Served) -> None:
    rule = served.control("POST", "faults", {"kind": "drop", "times": 1})

    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        served.ask("POST", WORK, {"sqlText": "x"})

    assert served.worked == 0
    assert served.ask("POST", WORK, {})[0] == 200
    assert served.control("GET", f"faults/{rule['id']}")["hits"] == 1


def test_a_lost_reply_leaves_the_work_done(served: Served) -> None:
    served.control("POST", "faults", {"kind": "lose", "times": 1})

    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        served.ask("POST", WORK, {"sqlText": "x"})

    assert served.worked == 1


def test_unavailable_answers_503(served: Served) -> None:
    served.control("POST", "faults", {"kind": "unavailable", "times": 2})

    found = [served.ask("POST", WORK, {})[0] for _ in range(3)]

    assert found == [503, 503, 200]
    assert served.worked == 1


def test_a_delay_holds_the_request_up(served: Served) -> None:
    served.control("POST", "faults", {"kind": "delay", "seconds": 0.3})

    begun = time.monotonic()
    status, _ = served.ask("POST", WORK, {})

    assert status == 200
    assert time.monotonic() - begun >= 0.3


def test_a_rule_about_a_statement_leaves_the_body_whole(served: Served) -> None:
    served.control("POST", "faults", {"kind": "unavailable", "statement": "insert into t"})

    assert served.ask("POST", WORK, {"sqlText": "INSERT  INTO T"})[0] == 200
    assert served.ask("POST", WORK, {"sqlText": "INSERT INTO T"})[0] == 503
    assert served.ask("POST", WORK, {"sqlText": "SELECT"}) == (
        200,
        'worked on {"sqlText": "SELECT"}',
    )


def test_the_control_endpoint_is_never_disturbed(served: Served) -> None:
    served.control("POST", "faults", {"kind": "drop"})

    assert len(served.control("GET", "faults")) == 1
    assert served.control("DELETE", "faults") == []
    assert served.ask("POST", WORK, {})[0] == 200


@pytest.mark.parametrize("token", [None, "wrong", ""])
def test_the_control_endpoint_wants_its_token(served: Served, token: str | None) -> None:
    for method, path in (("GET", "faults"), ("POST", "faults"), ("GET", "overview")):
        assert served.ask(method, f"/control/{path}", {}, token)[0] == 401
    assert served.account.faults.rules() == []


def test_the_token_of_the_page_does_not_open_the_control_endpoint(served: Served) -> None:
    token = control.page_token(served.account)

    assert served.ask("GET", "/control/faults", None, token)[0] == 401


def test_a_mistake_is_said(served: Served) -> None:
    token = control.token(served.account)

    status, found = served.ask("POST", "/control/faults", {"kind": "dorp"}, token)

    assert status == 400
    assert found == {"error": "there is no fault 'dorp'; did you mean 'drop'?"}


def test_connections_are_forgotten_when_they_end(served: Served) -> None:
    for _ in range(3):
        served.ask("POST", WORK, {})
    served.control("POST", "faults", {"kind": "drop", "times": 1})
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        served.ask("POST", WORK, {})

    end = time.monotonic() + 10
    while served.account.faults.connections and time.monotonic() < end:
        time.sleep(0.01)
    assert served.account.faults.connections == {}
