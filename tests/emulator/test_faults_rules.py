"""Rules of faults: what they are about, when they hit, and that a seed decides it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flowdist.clock import ManualClock
from flowdist.emulator.account import Account, Settings
from flowdist.emulator.errors import SqlError
from flowdist.emulator.hidden import Hidden
from flowdist.emulator.queries import Query
from flowdist.emulator.session import Session
from flowdist.errors import UsageError


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(start=1000.0)


@pytest.fixture
def account(tmp_path: Path, clock: ManualClock) -> Iterator[Account]:
    made = Account(tmp_path / "account", Settings(seed=7), clock)
    yield made
    made.close()


@pytest.fixture
def session(account: Account) -> Session:
    return account.open_session("FLOWDIST", "ACCOUNTADMIN", database="FLOWDIST", schema="PUBLIC")


def query(account: Account, session: Session, sql: str) -> Query:
    """A statement that has arrived."""
    return account.query(session, sql)[0]


def hits(account: Account, requests: int, path: str = "/queries/v1/query-request") -> list[bool]:
    """Which of so many requests are hit by a rule."""
    return [bool(account.faults.on_request("POST", path)) for _ in range(requests)]


# -- when a rule hits


def test_a_rule_hits_every_request_that_matches_its_path(account: Account) -> None:
    rule = account.faults.add("drop", path="^/queries/")

    assert hits(account, 2) == [True, True]
    assert hits(account, 2, path="/session") == [False, False]
    assert (rule.seen, rule.hits) == (2, 2)


def test_times_after_and_every_limit_it(account: Account) -> None:
    account.faults.add("unavailable", after=1, every=2, times=2)

    assert hits(account, 8) == [False, False, True, False, True, False, False, False]


def test_the_same_seed_gives_the_same_faults(account: Account) -> None:
    account.faults.add("drop", probability=0.5)
    first = hits(account, 40)

    account.faults.clear()
    account.faults.add("drop", probability=0.5)

    assert hits(account, 40) == first
    assert 0 < sum(first) < 40


def test_each_rule_has_chance_of_its_own(account: Account) -> None:
    one = account.faults.add("drop", probability=0.5)
    two = account.faults.add("lose", probability=0.5)
    found = [account.faults.on_request("GET", "/x") for _ in range(40)]

    assert [one in rules for rules in found] != [two in rules for rules in found]


def test_a_rule_of_its_own_seed_differs(account: Account) -> None:
    account.faults.add("drop", probability=0.5)
    by_account = hits(account, 40)
    account.faults.clear()
    account.faults.add("drop", probability=0.5, seed=8)

    assert hits(account, 40) != by_account


def test_a_poll_is_known_by_the_statement_it_asks_about(account: Account, session: Session) -> None:
    asked = query(account, session, "SELECT * FROM TABLE(INFORMATION_SCHEMA.TASK_HISTORY())")
    other = query(account, session, "SELECT 1")
    account.faults.add("delay", seconds=1, statement="task_history")

    assert hits(account, 1, path=f"/queries/{asked.id}/result") == [True]
    assert hits(account, 1, path=f"/monitoring/queries/{asked.id}") == [True]
    assert hits(account, 1, path=f"/queries/{other.id}/result") == [False]


def test_a_delay_comes_before_what_ends_the_request(account: Account) -> None:
    account.faults.add("lose")
    account.faults.add("drop")
    account.faults.add("delay", seconds=1)

    found = account.faults.on_request("GET", "/x")

    assert [str(rule.kind) for rule in found] == ["delay", "drop", "lose"]


def test_a_removed_rule_hits_nothing_more(account: Account) -> None:
    rule = account.faults.add("drop")
    assert hits(account, 1) == [True]

    account.faults.remove(rule.id)

    assert hits(account, 1) == [False]
    assert not account.faults.of_requests
    assert account.faults.remove(rule.id) is None


def test_the_log_says_what_was_injected(account: Account, clock: ManualClock) -> None:
    rule = account.faults.add("drop", every=2)
    clock.advance(5)
    hits(account, 2, path="/session")

    assert account.faults.log() == [
        {"time": 1005.0, "kind": "drop", "rule": rule.id, "what": "POST /session"}
    ]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("dorp", {}, "there is no fault 'dorp'; did you mean 'drop'?"),
        ("drop", {"tmies": 1}, "fault 'drop' has no option 'tmies'; did you mean 'times'?"),
        ("drop", {"seconds": 1}, "has no option 'seconds'"),
        ("drop", {"path": "("}, r"path='\(' is no regular expression"),
        ("drop", {"probability": 2}, "probability=2 makes no sense"),
        ("drop", {"every": 0}, "every=0 makes no sense"),
        ("delay", {}, "fault 'delay' needs 'seconds'"),
        ("delay", {"seconds": "1"}, "seconds='1' makes no sense"),
        ("hide", {"location": "stage/x"}, "'stage/x' is no place in a stage"),
        ("hide", {"location": "@nowhere/x"}, "there is no stage nowhere"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(
    account: Account, kind: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        account.faults.add(kind, **options)

    assert account.faults.rules() == []


# -- statements


def test_the_nth_statement_fails_as_it_is_told(account: Account, session: Session) -> None:
    account.faults.add(
        "fail", statement=r"^use\s+schema", after=1, times=1, errno=604, message="on demand"
    )
    change = "USE SCHEMA PUBLIC"
    account.execute(session, change)

    with pytest.raises(SqlError, match="on demand") as caught:
        account.execute(session, change)

    assert caught.value.errno == 604
    account.execute(session, change)


def test_a_slow_statement_takes_the_time_it_is_told(
    account: Account, session: Session, clock: ManualClock
) -> None:
    account.faults.add("slow", seconds=30, statement="^SELECT")

    account.faults.before_statement(query(account, session, "SELECT 1"))
    account.faults.before_statement(query(account, session, "INSERT INTO t VALUES (1)"))

    assert clock.time() == pytest.approx(1030.0)


def test_a_slow_statement_can_be_aborted(account: Account, session: Session) -> None:
    account.faults.add("slow", seconds=30)
    slow = query(account, session, "SELECT 1")
    account.queries.abort(slow)

    with pytest.raises(SqlError, match="canceled"):
        account.faults.before_statement(slow)


def test_of_several_statements_in_a_request_each_is_an_occasion(
    account: Account, session: Session
) -> None:
    rule = account.faults.add("slow", seconds=0.1, statement="^USE")
    both = query(account, session, "USE DATABASE FLOWDIST; USE SCHEMA PUBLIC")

    account.run(session, both, count=0)

    assert both.error is None
    assert rule.hits == 2


# -- hidden files


def test_a_file_is_hidden_for_a_while(account: Account, clock: ManualClock) -> None:
    stage = account.catalog.create("stage", ("FLOWDIST", "PUBLIC", "S"), owner="X")
    other = account.catalog.create("stage", ("FLOWDIST", "PUBLIC", "OTHER"), owner="X")
    account.faults.add("hide", location="@flowdist.public.s/out/*.csv", seconds=10)

    assert account.faults.hidden(stage, "out/a.csv")
    assert not account.faults.hidden(stage, "out/a.txt")
    assert not account.faults.hidden(other, "out/a.csv")
    clock.advance(10)
    assert not account.faults.hidden(stage, "out/a.csv")


def test_processes_of_mounts_learn_what_is_hidden(account: Account, clock: ManualClock) -> None:
    stage = account.catalog.create("stage", ("FLOWDIST", "PUBLIC", "S"), owner="X")
    elsewhere = Hidden(account.directory, clock.time)
    assert not elsewhere(stage.id, "out/a.csv")

    rule = account.faults.add("hide", location='@"S"/out')
    assert elsewhere(stage.id, "out/a.csv")

    account.faults.remove(rule.id)
    assert not elsewhere(stage.id, "out/a.csv")


def test_what_was_hidden_is_seen_after_a_restart(account: Account) -> None:
    stage = account.catalog.create("stage", ("FLOWDIST", "PUBLIC", "S"), owner="X")
    account.faults.add("hide", location="@s/out")

    Account(account.directory.parent / "other").close()
    account.faults.start()

    assert not Hidden(account.directory)(stage.id, "out/a.csv")


# -- tokens, pools


def test_tokens_expire_on_demand(account: Account, session: Session) -> None:
    token = account.tokens.issue(session).session_token
    assert account.tokens.session_of(token) is session

    account.faults.expire_tokens("session")

    with pytest.raises(SqlError, match="expired") as caught:
        account.tokens.session_of(token)
    assert caught.value.errno == 390112
    assert account.faults.log()[-1]["kind"] == "expire_tokens"


def test_only_tokens_that_there_are_expire(account: Account) -> None:
    with pytest.raises(UsageError, match="tokens are session, master, service or user"):
        account.faults.expire_tokens("everything")
