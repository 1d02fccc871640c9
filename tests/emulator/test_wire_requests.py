"""The protocol itself, by plain requests: what connectors do only when something goes wrong."""

from __future__ import annotations

import gzip
import http.client
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from emulator_server import Server, served
from wire_canned import Canned, canned

from flowdist.emulator import queries
from flowdist.emulator.account import Account
from flowdist.emulator.server.detached import Detached
from flowdist.emulator.session import Session
from flowdist.emulator.statements import SCALARS

SUBMIT = "/queries/v1/query-request?requestId="
JSON = {"parameters": {"PYTHON_CONNECTOR_QUERY_RESULT_FORMAT": "JSON"}}


class Client:
    """A session of its own; each request by a connection of its own."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.token = ""
        body = {"LOGIN_NAME": "FLOWDIST", "PASSWORD": server.account.password}
        self.token = self.post("/session/v1/login-request", {"data": body})["data"]["token"]

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        return self._ask("POST", path, content, headers)

    def get(self, path: str) -> Any:
        return self._ask("GET", path, None, {})

    def submit(self, sql: str, request: str, **rest: Any) -> Any:
        return self.post(SUBMIT + request, {"sqlText": sql, **rest})

    def _ask(self, method: str, path: str, content: bytes | None, headers: dict[str, str]) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        shown = {"Authorization": f'Snowflake Token="{self.token}"'}
        connection.request(method, path, content, {**shown, **headers})
        reply = connection.getresponse()
        found = reply.read()
        connection.close()
        assert reply.status == 200
        return json.loads(found)


@pytest.fixture
def engine(account: Account) -> Iterator[Canned]:
    made = canned(account)
    yield made
    made.release.set()


@pytest.fixture
def client(engine: Canned, server: Server) -> Client:
    return Client(server)


@pytest.fixture
def hasty(engine: Canned, serve: Callable[..., Server]) -> Client:
    """A client of a server that lets no request wait for long."""
    return Client(serve(patience=0.05))


# -- tokens


@pytest.mark.parametrize(
    "path",
    [
        "/session/heartbeat",
        "/session?delete=true",
        "/queries/v1/query-request?requestId=1",
        "/queries/v1/abort-request",
        "/queries/b3a1e0a4-0000-4000-8000-000000000000/abort-request",
    ],
)
def test_every_request_needs_a_token(client: Client, path: str) -> None:
    client.token = "invented"
    assert client.post(path)["code"] == "390104"

    client.token = ""
    assert client.post(path, Authorization="nothing")["code"] == "390101"


def test_an_expired_token_is_told_from_a_wrong_one(client: Client) -> None:
    client.server.account.tokens.expire("session")

    assert client.post("/session/heartbeat")["code"] == "390112"


def test_telemetry_is_taken_and_dropped(client: Client) -> None:
    assert client.post("/telemetry/send", {"logs": []})["success"]


def test_a_session_ends_when_its_last_statement_has(client: Client, engine: Canned) -> None:
    reply = client.submit("select wait 30", "1", asyncExec=True)
    engine.running.acquire(timeout=10)

    assert client.post("/session?delete=true")["success"]
    (session,) = client.server.account.sessions.values()
    engine.release.set()

    query = client.server.account.queries.find(reply["data"]["queryId"])
    assert query is not None
    assert query.done.wait(10)
    for _ in range(1000):
        if session.id not in client.server.account.sessions:
            break
        threading.Event().wait(0.01)
    assert client.server.account.sessions == {}


# -- the same request again


def test_a_request_that_comes_again_gets_the_same_answer(client: Client, engine: Canned) -> None:
    first = client.submit("insert into t values (1)", "1")
    again = client.post(
        SUBMIT + "1&clientStartTime=1&retryCount=1", {"sqlText": "insert into t values (1)"}
    )

    assert again == first
    assert engine.inserts == 1


def test_a_request_that_comes_again_waits_for_the_first(client: Client, engine: Canned) -> None:
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.submit, "select wait 30", "1")
        assert engine.running.acquire(timeout=10)
        again = pool.submit(client.submit, "select wait 30", "1")
        engine.release.set()

        assert first.result()["data"]["queryId"] == again.result()["data"]["queryId"]
    assert not engine.running.acquire(blocking=False)


def test_the_same_request_of_another_session_is_another_one(client: Client, engine: Canned) -> None:
    other = Client(client.server)

    client.submit("insert into t values (1)", "1")
    other.submit("insert into t values (1)", "1")

    assert engine.inserts == 2


def test_nobody_aborts_the_request_of_another_session(client: Client, engine: Canned) -> None:
    query = client.submit("select wait 30", "1", asyncExec=True)["data"]["queryId"]
    assert engine.running.acquire(timeout=10)

    refused = Client(client.server).post("/queries/v1/abort-request", {"requestId": "1"})

    assert refused["code"] == "000605"
    engine.release.set()
    assert client.get(f"/queries/{query}/result")["success"]


# -- results that take long


def test_a_request_is_answered_before_its_statement_has_ended(
    hasty: Client, engine: Canned
) -> None:
    reply = hasty.submit("select wait 30", "1")
    assert reply["success"]
    assert reply["code"] == "333333"
    assert hasty.get(reply["data"]["getResultUrl"])["code"] == "333333"

    engine.release.set()

    while (found := hasty.get(reply["data"]["getResultUrl"]))["code"] == "333333":
        pass
    assert found["data"]["total"] == 1


def test_a_detached_request_is_answered_at_once(client: Client, engine: Canned) -> None:
    reply = client.submit("select wait 30", "1", asyncExec=True)
    assert reply["code"] == "333334"

    assert engine.running.acquire(timeout=10)
    for path in ("/monitoring/queries/", "/monitoring/queries//"):  # the second as 5.2 writes it
        (status,) = client.get(f"{path}{reply['data']['queryId']}")["data"]["queries"]
        assert status["status"] == "RUNNING"
    engine.release.set()

    assert client.get(reply["data"]["getResultUrl"])["data"]["returned"] == 1


def test_an_unknown_query_has_no_result_and_no_status(client: Client) -> None:
    unknown = "b3a1e0a4-0000-4000-8000-000000000000"

    assert client.get(f"/queries/{unknown}/result")["code"] == "000612"
    assert client.get(f"/monitoring/queries/{unknown}")["data"] == {"queries": []}


def test_statements_that_wait_do_not_hold_up_others(client: Client, engine: Canned) -> None:
    for i in range(100):
        client.submit("select wait 30", f"waiting {i}".replace(" ", "-"), asyncExec=True)

    assert client.submit("select count", "1")["data"]["returned"] == 1


def test_a_session_that_cannot_be_written_is_an_error_and_no_silence(
    client: Client, engine: Canned, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(session: Session) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(client.server.account.tokens, "save", full)

    reply = client.submit("select count", "1")

    assert (reply["success"], reply["code"]) == (False, "000603")
    assert "disk is full" in reply["message"]


def test_results_are_forgotten_when_all_of_them_take_too_much(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "RESULT_BYTES", 5_000_000)
    large = [client.submit("select many 10000", f"{i}")["data"]["queryId"] for i in range(4)]

    replies = [client.get(f"/queries/{query}/result") for query in large]

    assert [reply["code"] for reply in replies[:-1]].count("000612") in (2, 3)
    assert replies[-1]["success"], "the newest is always there"


def test_a_long_text_is_not_remembered_as_a_whole(client: Client) -> None:
    query = client.submit(f"select count {' ' * 200_000}", "1")["data"]["queryId"]

    found = client.server.account.queries.find(query)

    assert found is not None
    assert (len(found.text), found.sql) == (100_000, "")


# -- aborting


def test_a_statement_is_aborted_by_its_request(client: Client, engine: Canned) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.submit, "select wait 30", "1")
        assert engine.running.acquire(timeout=10)

        assert client.post("/queries/v1/abort-request", {"requestId": "1"})["success"]

        failed = running.result()
    assert (failed["success"], failed["code"]) == (False, "000604")
    assert failed["data"]["sqlState"] == "57014"


def test_a_statement_is_aborted_by_its_id(client: Client, engine: Canned) -> None:
    query = client.submit("select wait 30", "1", asyncExec=True)["data"]["queryId"]
    assert engine.running.acquire(timeout=10)

    assert client.post(f"/queries/{query}/abort-request")["success"]

    assert client.get(f"/queries/{query}/result")["code"] == "000604"
    (status,) = client.get(f"/monitoring/queries/{query}")["data"]["queries"]
    assert status["status"] == "ABORTED"
    assert client.post(f"/queries/{query}/abort-request")["code"] == "000605"


def test_a_statement_is_stopped_when_its_time_is_over(client: Client) -> None:
    reply = client.submit("select wait 30", "1", parameters={"STATEMENT_TIMEOUT_IN_SECONDS": 1})

    assert reply["code"] == "000630"
    assert reply["data"]["sqlState"] == "57014"


# -- bodies and replies


def test_bodies_may_be_compressed(client: Client) -> None:
    body = gzip.compress(json.dumps({"sqlText": "select count"}).encode())

    reply = client.post(SUBMIT + "1", body, **{"Content-Encoding": "gzip"})

    assert reply["data"]["returned"] == 1


def test_a_body_that_is_no_json_is_an_error_of_the_protocol(client: Client) -> None:
    assert client.post(SUBMIT + "1", b"{nothing")["code"] == "390400"


def test_parameters_of_a_statement_hold_for_it_alone(client: Client) -> None:
    parameters = {"QUERY_TAG": "once", "PYTHON_CONNECTOR_QUERY_RESULT_FORMAT": "JSON"}

    first = client.submit("select count", "1", parameters=parameters)["data"]
    second = client.submit("select count", "2")["data"]

    assert (first["queryResultFormat"], second["queryResultFormat"]) == ("json", "arrow")
    tags = [q.tag for q in client.server.account.queries.all()]
    assert tags == ["once", ""]


def test_replies_say_what_the_session_has_become(client: Client) -> None:
    (session,) = client.server.account.sessions.values()
    session.schema, session.parameters["TIMEZONE"] = "OTHER", "Asia/Tokyo"

    data = client.submit("done", "1")["data"]

    assert data["finalSchemaName"] == "OTHER"
    assert {"name": "TIMEZONE", "value": "Asia/Tokyo"} in data["parameters"]


def test_a_description_runs_nothing(client: Client, engine: Canned) -> None:
    insert = client.submit("insert into t values (?)", "1", describeOnly=True)["data"]
    update = client.submit("update t set n = ?", "2", describeOnly=True)["data"]

    assert engine.inserts == 0
    assert (insert["numberOfBinds"], insert["arrayBindSupported"]) == (1, True)
    assert (update["numberOfBinds"], update["arrayBindSupported"]) == (1, False)
    assert [c["name"] for c in update["rowtype"]] == [
        "number of rows updated",
        "number of multi-joined rows updated",
    ]


def test_chunks_are_for_those_who_were_told_where_they_are(client: Client) -> None:
    data = client.submit("select many 70000", "1")["data"]
    url = data["chunks"][0]["url"].removeprefix(client.server.url)

    found = []
    for address in (url, url.replace("signature=", "signature=0")):
        connection = http.client.HTTPConnection("127.0.0.1", client.server.port)
        connection.request("GET", address)
        found.append(connection.getresponse().status)
        connection.close()
    assert found == [200, 404]


def test_a_commit_that_was_done_is_answered_again_after_a_crash(tmp_path: Path) -> None:
    account = Account(tmp_path / "account")
    server, end = served(account)
    clients = {request: Client(server) for request in ("done", "lost")}
    clients["done"].submit("CREATE TABLE flowdist.public.crashed (id INT)", "c0")
    for request, client in clients.items():
        client.submit("BEGIN", f"{request}1")
        client.submit("INSERT INTO flowdist.public.crashed VALUES (1)", f"{request}2")
    # It is ended after the commit, before the session is written down without a transaction.
    account.tokens.save = lambda session: None  # type: ignore[method-assign]
    assert clients["done"].submit("COMMIT", "done")["success"]
    end()
    account.close()

    account = Account(tmp_path / "account")
    server, end = served(account)
    for client in clients.values():
        client.server = server
    answers = {request: client.submit("COMMIT", request) for request, client in clients.items()}
    assert answers["done"]["success"]
    assert answers["lost"]["code"] == "000636"
    count = clients["done"].submit("SELECT COUNT(*) FROM flowdist.public.crashed", "c1", **JSON)
    assert count["data"]["rowset"] == [["1"]]
    end()
    account.close()


def test_who_did_not_wait_for_a_statement_is_told_after_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setitem(SCALARS, "TEST$HANG", lambda context: release.wait(30))
    statements = {
        "interrupted": "INSERT INTO flowdist.public.t SELECT 1 WHERE TEST$HANG()",
        "done": "INSERT INTO flowdist.public.t VALUES (2), (3)",
        "ended": "SELECT 1",
        "failed": "SELECT * FROM nothing",
    }
    account = Account(tmp_path / "account")
    server, end = served(account)
    client = Client(server)
    client.submit("CREATE TABLE flowdist.public.t (id INT)", "0")
    # DML is known to be done although its end was not written down any more.
    write = Detached._ended
    monkeypatch.setattr(
        Detached, "_ended", lambda self, query: "VALUES" in query.text or write(self, query)
    )
    ids = {}
    for name, sql in statements.items():
        ids[name] = client.submit(sql, name, asyncExec=True)["data"]["queryId"]
        if name != "interrupted":
            client.get(f"/queries/{ids[name]}/result")
    end()
    account.close()

    account = Account(tmp_path / "account")
    client.server, end = served(account)
    found = {name: client.get(f"/monitoring/queries/{ids[name]}") for name in ids}
    replies = {name: client.get(f"/queries/{ids[name]}/result") for name in ids}
    again = client.submit("INSERT INTO flowdist.public.t VALUES (4)", "interrupted")
    end()
    account.close()
    release.set()

    assert {name: answer["data"]["queries"][0]["status"] for name, answer in found.items()} == {
        "interrupted": "FAILED_WITH_ERROR",
        "done": "SUCCESS",
        "ended": "SUCCESS",
        "failed": "FAILED_WITH_ERROR",
    }
    assert "the emulator was ended while this statement ran" in replies["interrupted"]["message"]
    assert replies["done"]["data"]["rowset"] == [["2"]]
    assert "NOTHING" in replies["failed"]["message"]
    assert replies["ended"]["code"] == "000612"
    assert again["success"]


def test_a_statement_that_cannot_be_noted_fails(client: Client) -> None:
    client.server.account.detached.close()

    replies = [client.submit("select count", "1", asyncExec=True) for _ in range(2)]
    query = replies[1]["data"]["queryId"]

    assert replies[0]["code"] == "000603"
    assert client.get(f"/queries/{query}/result")["code"] == "000603"
