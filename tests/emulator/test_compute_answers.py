"""The answer of EXECUTE JOB SERVICE, asked for again after the server has ended in between."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_runtime import Lab, spec

from flowdist.emulator.compute.answers import ASKED_AGAIN
from flowdist.emulator.errors import SqlError
from flowdist.emulator.queries import Query

JOB = f"EXECUTE JOB SERVICE IN COMPUTE POOL p NAME=j {spec()}"
NAMELESS = f"EXECUTE JOB SERVICE IN COMPUTE POOL p {spec()}"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    yield made
    made.account.compute.close()


def killed(lab: Lab, text: str) -> Query:
    """The query of a statement whose server ends while its job runs; another server has begun."""
    query, _ = lab.account.query(lab.session, text, "request 1")
    lab.account.compute.start()
    threading.Thread(
        target=lab.account.run, args=(lab.session, query), name="of a killed server", daemon=True
    ).start()
    while not lab.runtime.running():
        lab.account.compute.wake()
    another_server(lab)
    return query


def another_server(lab: Lab) -> None:
    """The server ends; the session goes on with the next, which has not begun yet."""
    session = lab.session
    lab.account.compute.close()
    lab.restart()
    lab.session = session


def again(lab: Lab, text: str, before: Query) -> Query:
    """The query that the same request brings to another server."""
    query, new = lab.account.query(lab.session, text, "request 1")
    assert (query.id, new) == (before.id, False)
    return query


@pytest.mark.parametrize("text", [JOB, NAMELESS])
def test_a_repeated_request_gets_the_answer_of_the_job_that_it_has_started(
    lab: Lab, text: str
) -> None:
    before = killed(lab, text)
    lab.account.compute.start()
    query = again(lab, text, before)
    assert not query.done.is_set()
    lab.runtime.exit(lab.runtime.running()[0].directory, 0)
    assert query.done.wait(20)
    assert "completed successfully with status: DONE" in query.outcome.rows()[0][0]
    assert len(lab.runtime.launches) == 1


def test_a_job_that_is_one_of_several_statements_is_waited_for_too(lab: Lab) -> None:
    lab.session.parameters["MULTI_STATEMENT_COUNT"] = 0
    text = f"SELECT 1; {JOB}; SELECT 2"
    killed(lab, text)
    lab.account.compute.start()
    query, new = lab.account.query(lab.session, text, "request 1")
    assert new
    ends = threading.Thread(target=lab.account.run, args=(lab.session, query))
    ends.start()
    lab.runtime.exit(lab.runtime.running()[0].directory, 0)
    ends.join(20)
    assert (query.done.is_set(), query.error) == (True, None)
    assert len(lab.runtime.launches) == 1


def test_several_statements_are_aborted_with_the_one_that_runs(lab: Lab) -> None:
    lab.session.parameters["MULTI_STATEMENT_COUNT"] = 0
    lab.account.compute.start()
    query, _ = lab.account.query(lab.session, f"{JOB}; SELECT 2", "request 1")
    runs = threading.Thread(target=lab.account.run, args=(lab.session, query))
    runs.start()
    while not lab.runtime.running():
        lab.account.compute.wake()
    lab.account.queries.abort(query)
    runs.join(20)
    assert query.error is not None
    assert query.error.errno == 604
    assert "CANCELLED" in lab.call("!SPCS_WAIT_FOR", "j", "CANCELLED", 60)


def test_a_job_that_has_failed_meanwhile_fails_the_statement(lab: Lab) -> None:
    before = killed(lab, JOB)
    lab.runtime.exit(lab.runtime.running()[0].directory, 7)
    lab.account.compute.start()
    query = again(lab, JOB, before)
    assert query.done.wait(20)
    assert isinstance(query.error, SqlError)
    assert "exited with code 7" in query.error.message


def test_a_statement_that_was_taken_up_can_be_aborted(lab: Lab) -> None:
    before = killed(lab, JOB)
    lab.account.compute.start()
    lab.account.queries.abort(again(lab, JOB, before))
    assert "CANCELLED" in lab.call("!SPCS_WAIT_FOR", "j", "CANCELLED", 60)


def test_an_answer_may_have_been_lost_on_its_way(lab: Lab) -> None:
    for request, text in (("r1", f"{JOB} ASYNC=TRUE"), ("r2", NAMELESS.replace("wait", "ok"))):
        query, _ = lab.account.query(lab.session, text, request)
        lab.account.run(lab.session, query)
        another_server(lab)
        lab.account.compute.start()
        repeated, new = lab.account.query(lab.session, text, request)
        assert (new, repeated.done.is_set()) == (False, True)
        assert repeated.outcome.rows() == query.outcome.rows()
        another_server(lab)
    lab.clock.advance(ASKED_AGAIN + 1)
    lab.account.compute.start()
    assert lab.account.query(lab.session, NAMELESS, "r2")[1]
