"""What statements and transactions do to each other that run at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sql_sessions import Background, Run, emptied, session

from flowdist.clock import ManualClock
from flowdist.emulator.account import Account
from flowdist.emulator.bulk import Rows
from flowdist.emulator.errors import SqlError
from flowdist.emulator.statements import SCALARS, Context


@pytest.fixture
def account(one_account: Account) -> Account:
    """The account of all tests here, with nothing in it."""
    return emptied(one_account)


@pytest.fixture
def pair(account: Account) -> tuple[Run, Run]:
    """Two sessions and a hybrid table T with the rows 1 to 3."""
    a, b = session(account), session(account)
    a("CREATE HYBRID TABLE t (id INT PRIMARY KEY, v INT, u VARCHAR UNIQUE)")
    a("INSERT INTO t VALUES (1, 10, 'one'), (2, 20, 'two'), (3, 30, 'three')")
    return a, b


def at_once(*work: Callable[[], Any]) -> list[SqlError]:
    """Do all of it at the same time; how those failed that did."""
    start, errors = threading.Barrier(len(work)), []

    def run(one: Callable[[], Any]) -> None:
        start.wait(20)
        try:
            one()
        except SqlError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return errors


# -- hybrid tables


@pytest.mark.parametrize(("end", "errno"), [("COMMIT", 200001), ("ROLLBACK", None)])
def test_of_two_transactions_that_insert_a_key_the_second_waits(
    pair: tuple[Run, Run], end: str, errno: int | None
) -> None:
    a, b = pair
    a("BEGIN")
    b("BEGIN")
    a("INSERT INTO t VALUES (4, 40, 'a')")
    second = Background(b, "INSERT INTO t VALUES (4, 41, 'b')")
    assert second.waits
    a(end)
    if errno is None:
        assert second.result() == [(1,)]
        b("COMMIT")
        assert a("SELECT v FROM t WHERE id = 4") == [(41,)]
    else:
        with pytest.raises(SqlError) as error:
            second.result()
        assert error.value.errno == errno
        assert b("SELECT v FROM t WHERE id = 4") == [(40,)]


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("VARCHAR", "'job: \"5\", part: 6'"),
        ("DATE", "'2024-02-03'"),
        ("TIMESTAMP_NTZ", "'2024-02-03 04:05:06.5'"),
        ("TIMESTAMP_LTZ", "'2024-02-03 04:05:06'"),
        ("NUMBER(10, 2)", "1.50"),
        ("BOOLEAN", "TRUE"),
    ],
)
def test_a_key_that_is_about_to_be_deleted_is_waited_for(
    account: Account, kind: str, key: str
) -> None:
    a, b = session(account), session(account)
    a(f'CREATE HYBRID TABLE k (id {kind}, "a b" INT, PRIMARY KEY (id, "a b"))')
    a(f"INSERT INTO k VALUES ({key}, 1)")
    a("BEGIN")
    a("DELETE FROM k")
    second = Background(b, f"INSERT INTO k VALUES ({key}, 1)")
    assert second.waits
    a("COMMIT")
    assert second.result() == [(1,)]


def test_both_the_old_and_the_new_key_of_a_changed_row_are_locked(pair: tuple[Run, Run]) -> None:
    a, b = pair
    a("BEGIN")
    a("UPDATE t SET id = 9, u = 'nine' WHERE id = 1")
    second = Background(b, "INSERT INTO t VALUES (1, 0, 'x')")
    assert second.waits
    a("ROLLBACK")
    with pytest.raises(SqlError) as error:
        second.result()
    assert error.value.errno == 200001
    a("BEGIN")
    a("UPDATE t SET id = 9, u = 'nine' WHERE id = 1")
    second = Background(b, "INSERT INTO t VALUES (10, 0, 'one')")
    assert second.waits
    a("COMMIT")
    assert second.result() == [(1,)]
    assert b("SELECT id, u FROM t WHERE id > 3 ORDER BY id") == [(9, "nine"), (10, "one")]


def test_a_merge_waits_and_looks_again(pair: tuple[Run, Run]) -> None:
    a, b = pair
    a("BEGIN")
    a("UPDATE t SET v = 0 WHERE id = 1")
    second = Background(
        b,
        "MERGE INTO t USING (SELECT 1 AS id UNION ALL SELECT 7) s ON t.id = s.id "
        "WHEN MATCHED AND t.v = 10 THEN UPDATE SET v = 99 "
        "WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, 70)",
    )
    assert second.waits
    a("COMMIT")
    assert second.result() == [(1, 0)]
    assert a("SELECT id, v FROM t WHERE id IN (1, 7) ORDER BY id") == [(1, 0), (7, 70)]


def test_a_merge_inside_a_transaction_locks_what_it_changes(pair: tuple[Run, Run]) -> None:
    a, b = pair
    a("BEGIN")
    a(
        "MERGE INTO t USING (SELECT 1 AS id UNION ALL SELECT 2) s ON t.id = s.id "
        "WHEN MATCHED AND t.id = 1 THEN DELETE WHEN MATCHED THEN UPDATE SET v = v + 1"
    )
    b("UPDATE t SET v = 31 WHERE id = 3")
    waiting = Background(b, "UPDATE t SET v = v + 100")
    assert waiting.waits
    assert a("SELECT id, v FROM t ORDER BY id") == [(2, 21), (3, 31)]
    a("COMMIT")
    assert waiting.result() == [(2, 0)]
    assert a("SELECT id, v FROM t ORDER BY id") == [(2, 121), (3, 131)]


def test_a_delete_looks_again_at_a_row_that_was_changed(pair: tuple[Run, Run]) -> None:
    a, b = pair
    a("BEGIN")
    a("UPDATE t SET v = 11 WHERE id = 1")
    second = Background(b, "DELETE FROM t WHERE v = 10")
    assert second.waits
    a("COMMIT")
    assert second.result() == [(0,)]


def test_no_increment_is_lost_or_done_twice(account: Account) -> None:
    sessions = [session(account) for _ in range(4)]
    run = sessions[0]
    run("CREATE HYBRID TABLE c (id INT PRIMARY KEY, n INT, last INT)")
    run("CREATE TABLE log (worker INT)")
    run("INSERT INTO c VALUES (1, 0, 0), (2, 0, 0), (3, 0, 0)")
    rounds = 8

    def alone(worker: int) -> None:
        for i in range(rounds):
            sessions[worker]("UPDATE c SET n = n + 1 WHERE id = ?", i % 3 + 1)

    def together(worker: int) -> None:
        run = sessions[worker]
        for i in range(rounds):
            run("BEGIN")
            run("INSERT INTO log VALUES (?)", worker)
            run("UPDATE c SET n = n + 1, last = ? WHERE id = ?", worker, i % 3 + 1)
            ((n, last),) = run("SELECT n, last FROM c WHERE id = ?", i % 3 + 1)
            run("UPDATE c SET n = ? WHERE id = ?", int(n) + 1, i % 3 + 1)
            assert last == worker
            run("ROLLBACK" if i % 4 == 3 else "COMMIT")

    errors = at_once(lambda: alone(0), lambda: alone(1), lambda: together(2), lambda: together(3))
    assert not errors
    committed = rounds - rounds // 4
    assert run("SELECT SUM(n) FROM c") == [(2 * rounds + 2 * 2 * committed,)]
    assert run("SELECT COUNT(*) FROM log") == [(2 * committed,)]


@pytest.fixture
def timed(tmp_path: Path) -> Iterator[tuple[Account, ManualClock]]:
    """An account whose time stands still."""
    clock = ManualClock(1_700_000_000.0)
    account = Account(tmp_path / "timed", clock=clock)
    yield account, clock
    account.close()


@pytest.mark.parametrize("statement", ["COMMIT", "SELECT 1", "CREATE TABLE x (a INT)"])
def test_a_transaction_that_is_idle_for_five_minutes_is_aborted(
    timed: tuple[Account, ManualClock], statement: str
) -> None:
    account, clock = timed
    a, b = session(account), session(account)
    a("CREATE HYBRID TABLE t (id INT PRIMARY KEY, v INT)")
    a("INSERT INTO t VALUES (1, 10)")
    a("BEGIN")
    a("UPDATE t SET v = 11")
    clock.advance(299)
    assert a("SELECT v FROM t") == [(11,)]
    clock.advance(300)
    assert b("UPDATE t SET v = v + 2") == [(1, 0)]
    with pytest.raises(SqlError, match="aborted and rolled back"):
        a(statement)
    assert a("SELECT v FROM t") == [(12,)]


def test_a_transaction_on_standard_tables_may_be_idle(timed: tuple[Account, ManualClock]) -> None:
    account, clock = timed
    a = session(account)
    a("CREATE TABLE s (id INT)")
    a("BEGIN")
    a("INSERT INTO s VALUES (1)")
    clock.advance(3600)
    a("COMMIT")
    assert a("SELECT id FROM s") == [(1,)]


@pytest.mark.parametrize(
    "blocked",
    ["DELETE FROM s", "UPDATE s SET id = 2", "TRUNCATE TABLE s", "ALTER TABLE s ADD COLUMN v INT"],
)
@pytest.mark.parametrize("written", ["DELETE FROM s WHERE id = 1", "INSERT INTO s VALUES (2)"])
def test_a_transaction_on_standard_tables_may_be_idle_until_others_wait_for_it(
    timed: tuple[Account, ManualClock], written: str, blocked: str
) -> None:
    account, clock = timed
    a, b = session(account), session(account, LOCK_TIMEOUT=0)
    a("CREATE TABLE s (id INT)")
    a("INSERT INTO s VALUES (1)")
    a("BEGIN")
    a(written)
    waits = written.startswith("DELETE") or not blocked.startswith(("DELETE", "UPDATE"))
    clock.advance(299)
    if waits:
        with pytest.raises(SqlError, match="waited for a lock"):
            b(blocked)
    clock.advance(1)
    b(blocked)
    if waits:
        with pytest.raises(SqlError, match="aborted and rolled back"):
            a("COMMIT")
    else:
        a("COMMIT")


# -- definitions


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("DROP TABLE t", "HYBRID TABLE"),
        ("ALTER TABLE t ADD COLUMN x INT", "HYBRID TABLE"),
        ("DROP TABLE t", "TABLE"),
        ("ALTER TABLE t DROP COLUMN v", "TABLE"),
        ("ALTER TABLE t RENAME TO renamed", "TABLE"),
        ("CREATE OR REPLACE TABLE t (id INT)", "TABLE"),
        ("TRUNCATE TABLE t", "TABLE"),
    ],
)
def test_a_table_that_a_transaction_has_written_changes_once_that_has_ended(
    account: Account, statement: str, kind: str
) -> None:
    a, b = session(account), session(account)
    a(f"CREATE {kind} t (id INT PRIMARY KEY, v INT)")
    a("BEGIN")
    a("INSERT INTO t VALUES (1, 10)")
    change = Background(b, statement)
    assert change.waits
    assert a("SELECT id, v FROM t") == [(1, 10)]
    a("COMMIT")
    assert len(change.result()) == 1


def test_all_that_make_a_table_if_there_is_none_succeed(account: Account) -> None:
    workers = [session(account) for _ in range(4)]
    for statement in (
        "CREATE SCHEMA IF NOT EXISTS work",
        "CREATE HYBRID TABLE IF NOT EXISTS work.q (id INT PRIMARY KEY)",
        "CREATE STAGE IF NOT EXISTS work.s",
        "CREATE OR REPLACE TABLE work.r (id INT)",
    ):
        assert not at_once(*[lambda run=run: run(statement) for run in workers])  # noqa: B023
    assert workers[0]("SELECT * FROM work.q, work.r") == []


def test_one_of_two_that_make_a_table_is_told_that_it_is_there(account: Account) -> None:
    workers = [session(account) for _ in range(4)]
    errors = at_once(*[lambda run=run: run("CREATE TABLE n (id INT)") for run in workers])
    assert [error.errno for error in errors] == [2002] * 3


def test_columns_that_are_added_at_once_are_all_there(account: Account) -> None:
    workers = [session(account) for _ in range(4)]
    workers[0]("CREATE TABLE wide (id INT)")
    errors = at_once(
        *[
            lambda run=run, i=i: run(f"ALTER TABLE wide ADD COLUMN c{i} INT DEFAULT {i}")
            for i, run in enumerate(workers)
        ]
    )
    assert not errors
    workers[0]("INSERT INTO wide (id) VALUES (1)")
    assert workers[1]("SELECT c0, c1, c2, c3 FROM wide") == [(0, 1, 2, 3)]


def test_writers_and_changes_of_a_standard_table_do_not_fail(account: Account) -> None:
    a, b = session(account), session(account)
    a("CREATE TABLE s (id INT)")

    def write() -> None:
        for i in range(20):
            a("INSERT INTO s (id) VALUES (?)", i)

    def change() -> None:
        for i in range(5):
            b(f"ALTER TABLE s ADD COLUMN c{i} INT")

    assert not at_once(write, change)
    assert a("SELECT COUNT(*) FROM s") == [(20,)]


# -- statements of one session


@pytest.fixture
def meeting() -> Iterator[threading.Barrier]:
    """A function that returns once two statements are in it."""
    barrier = threading.Barrier(2)

    def meet(context: Context) -> int:
        barrier.wait(20)
        return 1

    SCALARS["TEST$MEET"] = meet
    yield barrier
    del SCALARS["TEST$MEET"]


def test_statements_of_a_session_that_were_not_waited_for_run_side_by_side(
    account: Account, meeting: threading.Barrier
) -> None:
    run = session(account)
    run("CREATE TABLE s (id INT)")
    errors = at_once(
        lambda: run("INSERT INTO s SELECT TEST$MEET()"),
        lambda: run("INSERT INTO s SELECT TEST$MEET() + 1"),
    )
    assert not errors
    assert run("SELECT id FROM s ORDER BY id") == [(1,), (2,)]


def test_statements_of_a_transaction_run_one_after_another(account: Account) -> None:
    run = session(account)
    run("CREATE HYBRID TABLE t (id INT PRIMARY KEY)")
    run("BEGIN")
    errors = at_once(*[lambda i=i: run("INSERT INTO t VALUES (?)", i) for i in range(4)])
    assert not errors
    run("ROLLBACK")
    assert run("SELECT COUNT(*) FROM t") == [(0,)]


def test_what_a_statement_with_a_function_did_is_there_on_a_new_snapshot(
    account: Account,
) -> None:
    a, b = session(account), session(account)
    a("CREATE TABLE s (id INT)")
    a("INSERT INTO s VALUES (1), (2), (3)")
    a("CREATE HYBRID TABLE t (id INT PRIMARY KEY)")
    a("SELECT 2 AS id")
    a("BEGIN")
    a("DELETE FROM s WHERE id IN (SELECT id FROM TABLE(RESULT_SCAN(LAST_QUERY_ID(-2))))")
    b("INSERT INTO t VALUES (1)")
    a("INSERT INTO t SELECT id + 10 FROM TABLE(GENERATOR(ROWCOUNT => 1)), t")
    a("COMMIT")
    assert b("SELECT id FROM s ORDER BY id") == [(1,), (3,)]
    assert b("SELECT id FROM t ORDER BY id") == [(1,), (11,)]


# -- requests that are repeated


def test_what_rows_and_several_statements_did_is_known_after_a_restart(tmp_path: Path) -> None:
    script = "UPDATE t SET v = v + 1 WHERE id = 1; INSERT INTO t VALUES (3, 0)"
    rows = Rows([(1,), (2,)])

    def repeat(account: Account) -> list[Any]:
        made = account.open_session(
            "FLOWDIST",
            "ACCOUNTADMIN",
            database="FLOWDIST",
            schema="PUBLIC",
            warehouse="FLOWDIST_WH",
        )
        answers = []
        for sql, binds, name in (
            ("UPDATE t SET v = v + 10 WHERE id = ?", rows, "rows"),
            (script, (), "several"),
        ):
            query, _ = account.query(made, sql, name)
            account.run(made, query, binds, count=0)
            assert query.error is None
            assert query.outcome is not None
            answers.append(query.outcome.rows() if name == "rows" else None)
        return [*answers, session(account)("SELECT id, v FROM t ORDER BY id")]

    account = Account(tmp_path)
    run = session(account)
    run("CREATE HYBRID TABLE t (id INT PRIMARY KEY, v INT)")
    run("INSERT INTO t VALUES (1, 0), (2, 0)")
    first = repeat(account)
    account.close()
    account = Account(tmp_path)
    assert repeat(account) == first
    account.close()


def test_a_schema_may_go_while_a_transaction_has_written_in_it(account: Account) -> None:
    a, b = session(account), session(account)
    a("CREATE SCHEMA work")
    a("CREATE TABLE work.s (id INT)")
    a("CREATE HYBRID TABLE public.t (id INT PRIMARY KEY)")
    a("BEGIN")
    a("INSERT INTO work.s VALUES (1)")
    a("INSERT INTO public.t VALUES (1)")
    b("DROP SCHEMA work")
    assert a("SELECT id FROM public.t") == [(1,)]
    a("COMMIT")
    assert b("SELECT id FROM t") == [(1,)]


@pytest.mark.parametrize("ended", ["COMMIT", "SELECT 1 FROM work.t WHERE id = 9", "close"])
def test_the_locks_of_a_table_that_is_gone_are_not_those_of_its_successor(
    account: Account, ended: str
) -> None:
    a, b = session(account), session(account, HYBRID_TABLE_LOCK_TIMEOUT=0)
    a("CREATE SCHEMA work")
    a("CREATE HYBRID TABLE work.t (id INT PRIMARY KEY)")
    a("BEGIN")
    a("INSERT INTO work.t VALUES (1)")
    b("DROP SCHEMA work")
    b("CREATE SCHEMA work")
    b("CREATE HYBRID TABLE work.t (id INT PRIMARY KEY)")
    b("INSERT INTO work.t VALUES (1), (2)")
    b("DELETE FROM work.t WHERE id = 1")
    if ended == "close":
        account.close_session(a.session)
    else:
        a(ended)
        a("ROLLBACK")
    assert b("SELECT id FROM work.t") == [(2,)]
    b("DROP TABLE work.t")
    assert b("SHOW LOCKS IN ACCOUNT") == []


def test_a_table_is_dropped_once_the_client_that_wrote_it_has_vanished(
    timed: tuple[Account, ManualClock],
) -> None:
    account, clock = timed
    for end in ("closed", "idle"):
        a, b = session(account), session(account)
        a("CREATE HYBRID TABLE t (id INT PRIMARY KEY)")
        a("BEGIN")
        a("INSERT INTO t VALUES (1)")
        if end == "closed":
            account.close_session(a.session)
        else:
            clock.advance(300)
        b("DROP TABLE t")
        b("CREATE HYBRID TABLE t (id INT PRIMARY KEY)")
        b("INSERT INTO t VALUES (1)")
        b("DROP TABLE t")


def test_a_commit_that_was_done_is_known_after_a_restart(tmp_path: Path) -> None:
    account = Account(tmp_path)
    run = session(account)
    run("CREATE HYBRID TABLE t (id INT PRIMARY KEY)")
    made = account.open_session(
        "FLOWDIST", "ACCOUNTADMIN", database="FLOWDIST", schema="PUBLIC", warehouse="FLOWDIST_WH"
    )
    account.execute(made, "BEGIN")
    account.execute(made, "INSERT INTO t VALUES (1)")
    query, _ = account.query(made, "COMMIT", "request of the commit")
    account.run(made, query)
    assert query.error is None
    account.close()

    account = Account(tmp_path)
    assert account.engine.did("request of the commit")
    assert not account.engine.did("")
    assert session(account)("SELECT id FROM t") == [(1,)]
    account.close()


def test_locks_are_shown_with_what_they_lock(account: Account) -> None:
    a = session(account)
    a("CREATE TABLE s (id INT)")
    a("CREATE HYBRID TABLE t (id INT PRIMARY KEY)")
    a("BEGIN")
    a("INSERT INTO s VALUES (1)")
    a("INSERT INTO t VALUES (1), (2)")
    shown = {(row[0], row[1], row[4]) for row in a("SHOW LOCKS")}
    assert shown == {
        ("FLOWDIST.PUBLIC.S", "PARTITIONS", "HOLDING"),
        ("FLOWDIST.PUBLIC.T", "ROW", "HOLDING"),
    }
    a("COMMIT")
    assert a("SHOW LOCKS") == []
