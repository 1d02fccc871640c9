"""Transactions: READ COMMITTED, row locks of hybrid tables, table locks of the others."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import pytest
from sql_sessions import Background, Run, emptied, session

from flowdist.emulator.account import Account
from flowdist.emulator.errors import SqlError


@pytest.fixture
def account(one_account: Account) -> Account:
    """The account of all tests here, with nothing in it."""
    return emptied(one_account)


@pytest.fixture
def pair(account: Account) -> tuple[Run, Run]:
    """Two sessions and a hybrid table T with the rows 1 to 3."""
    a, b = session(account), session(account)
    a("CREATE HYBRID TABLE t (id INT PRIMARY KEY, v INT, w INT)")
    a("INSERT INTO t VALUES (1, 10, 0), (2, 20, 0), (3, 30, 0)")
    return a, b


def test_others_see_what_is_committed_and_nothing_else(pair: tuple[Run, Run]) -> None:
    a, b = pair
    a("BEGIN")
    a("UPDATE t SET v = 11 WHERE id = 1")
    assert b("SELECT v FROM t WHERE id = 1") == [(10,)]
    assert a("SELECT v FROM t WHERE id = 1") == [(11,)]
    a("COMMIT")
    assert b("SELECT v FROM t WHERE id = 1") == [(11,)]


def test_rollback_undoes_all(pair: tuple[Run, Run]) -> None:
    a, _ = pair
    a("BEGIN")
    a("INSERT INTO t VALUES (4, 40, 0)")
    a("DELETE FROM t WHERE id = 1")
    a("ROLLBACK")
    assert a("SELECT id FROM t ORDER BY id") == [(1,), (2,), (3,)]


def test_a_statement_sees_what_others_have_committed_since_the_one_before(
    pair: tuple[Run, Run],
) -> None:
    a, b = pair
    a("BEGIN")
    a("UPDATE t SET v = 11 WHERE id = 1")
    b("UPDATE t SET v = 21 WHERE id = 2")
    b("INSERT INTO t VALUES (4, 40, 0)")
    b("DELETE FROM t WHERE id = 3")
    assert a("SELECT id, v FROM t ORDER BY id") == [(1, 11), (2, 21), (4, 40)]
    a("UPDATE t SET v = v + 1 WHERE id IN (1, 2)")
    a("COMMIT")
    assert b("SELECT id, v FROM t ORDER BY id") == [(1, 12), (2, 22), (4, 40)]


def test_a_second_writer_of_a_row_waits_and_looks_again(pair: tuple[Run, Run]) -> None:
    a, b = pair
    a("BEGIN")
    a("UPDATE t SET v = 11 WHERE id = 1")
    second = Background(b, "UPDATE t SET v = v + 100 WHERE id = 1 AND v = 10")
    assert second.waits
    a("COMMIT")
    assert second.result() == [(0, 0)]
    assert a("SELECT v FROM t WHERE id = 1") == [(11,)]


def test_a_second_writer_waits_although_it_sets_another_column(pair: tuple[Run, Run]) -> None:
    a, b = pair
    a("BEGIN")
    a("UPDATE t SET v = 11 WHERE id = 1")
    second = Background(b, "UPDATE t SET w = 5 WHERE id = 1")
    assert second.waits
    a("COMMIT")
    assert second.result() == [(1, 0)]
    assert a("SELECT v, w FROM t WHERE id = 1") == [(11, 5)]


def test_a_delete_of_a_changed_row_waits(pair: tuple[Run, Run]) -> None:
    a, b = pair
    a("BEGIN")
    a("UPDATE t SET v = 11 WHERE id = 1")
    second = Background(b, "DELETE FROM t WHERE v = 10")
    assert second.waits
    a("ROLLBACK")
    assert second.result() == [(1,)]


def test_writers_of_different_rows_do_not_wait(pair: tuple[Run, Run]) -> None:
    a, b = pair
    a("BEGIN")
    a("UPDATE t SET v = 11 WHERE id = 1")
    assert b("UPDATE t SET v = 21 WHERE id = 2") == [(1, 0)]
    assert b("INSERT INTO t VALUES (4, 40, 0)") == [(1,)]
    a("COMMIT")
    assert a("SELECT v FROM t ORDER BY id") == [(11,), (21,), (30,), (40,)]


def test_an_insert_of_a_key_that_another_has_inserted_waits(pair: tuple[Run, Run]) -> None:
    a, b = pair
    a("BEGIN")
    a("INSERT INTO t VALUES (4, 40, 0)")
    second = Background(b, "INSERT INTO t VALUES (4, 41, 0)")
    assert second.waits
    a("COMMIT")
    with pytest.raises(SqlError) as error:
        second.result()
    assert (error.value.errno, error.value.sqlstate) == (200001, "22000")


def test_an_insert_of_a_key_that_another_is_about_to_delete_waits(pair: tuple[Run, Run]) -> None:
    a, b = pair
    a("BEGIN")
    a("DELETE FROM t WHERE id = 1")
    second = Background(b, "INSERT INTO t VALUES (1, 41, 0)")
    assert second.waits
    a("COMMIT")
    assert second.result() == [(1,)]


def test_the_lock_timeout_ends_a_wait(account: Account, pair: tuple[Run, Run]) -> None:
    a, _ = pair
    impatient = session(account, HYBRID_TABLE_LOCK_TIMEOUT=0)
    a("BEGIN")
    a("UPDATE t SET v = 11 WHERE id = 1")
    with pytest.raises(SqlError, match="for 0 seconds, which") as error:
        impatient("UPDATE t SET v = 12 WHERE id = 1")
    assert error.value.errno == 627


def test_the_last_statement_of_a_deadlock_fails_and_its_transaction_stays_open(
    pair: tuple[Run, Run],
) -> None:
    a, b = pair
    for run, own in ((a, 1), (b, 2)):
        run("BEGIN")
        run(f"UPDATE t SET v = 0 WHERE id = {own}")
    first = Background(a, "UPDATE t SET v = 0 WHERE id = 2")
    assert first.waits
    with pytest.raises(SqlError) as error:
        b("UPDATE t SET v = 0 WHERE id = 1")
    assert "deadlock" in error.value.message
    assert first.waits
    assert b("SELECT v FROM t WHERE id = 2") == [(0,)]
    b("COMMIT")
    assert first.result() == [(1, 0)]
    a("COMMIT")


def test_a_failed_statement_leaves_its_transaction_as_it_was(pair: tuple[Run, Run]) -> None:
    a, b = pair
    a("BEGIN")
    a("UPDATE t SET v = 11 WHERE id = 1")
    with pytest.raises(SqlError):
        a("INSERT INTO t VALUES (5, 50, 0), (1, 1, 1)")
    with pytest.raises(SqlError):
        a("SELECT 1 / (v - 11) FROM t WHERE id = 1")
    assert a("SELECT id, v FROM t ORDER BY id") == [(1, 11), (2, 20), (3, 30)]
    a("COMMIT")
    assert b("SELECT v FROM t WHERE id = 1") == [(11,)]


def test_an_update_of_a_standard_table_locks_it(account: Account) -> None:
    a, b = session(account), session(account)
    a("CREATE TABLE s (id INT, v INT)")
    a("INSERT INTO s VALUES (1, 10), (2, 20)")
    a("BEGIN")
    a("UPDATE s SET v = 11 WHERE id = 1")
    assert b("INSERT INTO s VALUES (3, 30)") == [(1,)]
    second = Background(b, "UPDATE s SET v = v + 1")
    assert second.waits
    a("COMMIT")
    assert second.result() == [(3, 0)]
    assert a("SELECT v FROM s ORDER BY id") == [(12,), (21,), (31,)]


def test_a_failed_statement_in_a_transaction_on_standard_tables(account: Account) -> None:
    a = session(account)
    a("CREATE TABLE s (id INT, v INT NOT NULL)")
    a("INSERT INTO s VALUES (1, 10), (2, 20)")
    a("BEGIN")
    a("UPDATE s SET v = v + 1")
    with pytest.raises(SqlError):
        a("INSERT INTO s VALUES (3, NULL)")
    a("COMMIT")
    assert a("SELECT v FROM s ORDER BY id") == [(11,), (21,)]


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ("DELETE FROM s WHERE id = 1", []),
        ("UPDATE s SET v = 'changed' WHERE id = 1", ["changed", "changed"]),
        (
            "UPDATE s SET v = 'changed' FROM (SELECT 1 AS k UNION ALL SELECT 1) q WHERE id = k",
            ["changed", "changed"],
        ),
        (
            "MERGE INTO s USING (SELECT 1 k) ON id = k WHEN MATCHED THEN UPDATE SET v = 'changed'",
            ["changed", "changed"],
        ),
        ("INSERT OVERWRITE INTO s SELECT 1, 'changed'", ["changed"]),
    ],
)
@pytest.mark.parametrize(
    "then",
    [
        "INSERT INTO s VALUES (1, 'of A')",
        "DELETE FROM s WHERE v = 'of A'",
        "INSERT INTO s VALUES (1 / 0, '')",
        "INSERT INTO h SELECT 1",
        "SELECT * FROM s",
    ],
)
def test_what_others_add_after_a_statement_is_not_changed_by_it(
    account: Account, change: str, left: list[str], then: str
) -> None:
    a, b = session(account), session(account)
    a("CREATE TABLE s (id INT, v VARCHAR)")
    a("CREATE HYBRID TABLE h (id INT PRIMARY KEY)")
    a("INSERT INTO s VALUES (1, 'twice'), (1, 'twice')")
    a("BEGIN")
    a(change)
    b("INSERT INTO s VALUES (1, 'of B'), (1, 'twice')")
    with contextlib.suppress(SqlError):
        a(then)
    own = ["of A"] if then.startswith("INSERT INTO s VALUES (1, ") else []
    assert a("SELECT v FROM s ORDER BY v") == [(v,) for v in sorted([*left, *own, "of B", "twice"])]
    a("COMMIT")
    assert b("SELECT v FROM s ORDER BY v") == [(v,) for v in sorted([*left, *own, "of B", "twice"])]


def test_a_transaction_keeps_the_values_it_has_made(account: Account) -> None:
    a, b = session(account), session(account)
    a("CREATE TABLE s (v VARCHAR)")
    a("INSERT INTO s VALUES ('a')")
    a("BEGIN")
    a("UPDATE s SET v = UUID_STRING()")
    made = a("SELECT v FROM s")
    b("INSERT INTO s VALUES ('b')")
    a("INSERT INTO s VALUES ('c')")
    assert sorted(a("SELECT v FROM s")) == sorted([*made, ("b",), ("c",)])
    a("ROLLBACK")


def test_more_than_twenty_waiters_for_a_standard_table_are_refused(account: Account) -> None:
    a = session(account)
    a("CREATE TABLE s (id INT)")
    a("INSERT INTO s VALUES (1)")
    a("BEGIN")
    a("UPDATE s SET id = id + 1")
    waiting = [Background(session(account), "UPDATE s SET id = id + 1") for _ in range(21)]
    while all(one.thread.is_alive() for one in waiting):
        waiting[-1].thread.join(0.01)
    refused = [one for one in waiting if not one.thread.is_alive()]
    assert [one.error.errno for one in refused if one.error] == [625]
    a("COMMIT")
    for one in waiting:
        one.thread.join(30)
    assert a("SELECT id FROM s") == [(22,)]


def test_ddl_commits_an_open_transaction(pair: tuple[Run, Run]) -> None:
    a, b = pair
    a("BEGIN")
    a("UPDATE t SET v = 11 WHERE id = 1")
    a("CREATE TABLE other (x INT)")
    a("ROLLBACK")
    assert b("SELECT v FROM t WHERE id = 1") == [(11,)]


def test_without_autocommit_the_first_dml_begins_a_transaction(
    account: Account, pair: tuple[Run, Run]
) -> None:
    a, _ = pair
    c = session(account, AUTOCOMMIT=False)
    c("UPDATE t SET v = 11 WHERE id = 1")
    assert a("SELECT v FROM t WHERE id = 1") == [(10,)]
    c("COMMIT")
    assert a("SELECT v FROM t WHERE id = 1") == [(11,)]


def test_a_session_that_ends_rolls_back_and_wakes_who_waits(account: Account) -> None:
    a = session(account)
    a("CREATE HYBRID TABLE t (id INT PRIMARY KEY, v INT)")
    a("INSERT INTO t VALUES (1, 10)")
    gone = account.open_session(
        "FLOWDIST", "ACCOUNTADMIN", database="FLOWDIST", schema="PUBLIC", warehouse="FLOWDIST_WH"
    )
    account.execute(gone, "BEGIN")
    account.execute(gone, "UPDATE t SET v = 11")
    second = Background(a, "UPDATE t SET v = v + 1")
    assert second.waits
    account.close_session(gone)
    assert second.result() == [(1, 0)]
    assert a("SELECT v FROM t") == [(11,)]


def test_a_waiting_statement_can_be_cancelled(account: Account, pair: tuple[Run, Run]) -> None:
    a, _ = pair
    a("BEGIN")
    a("UPDATE t SET v = 11 WHERE id = 1")
    other = account.open_session(
        "FLOWDIST", "ACCOUNTADMIN", database="FLOWDIST", schema="PUBLIC", warehouse="FLOWDIST_WH"
    )
    query, _ = account.query(other, "UPDATE t SET v = 12 WHERE id = 1")
    thread = threading.Thread(target=account.run, args=(other, query))
    thread.start()
    thread.join(0.2)
    account.queries.abort(query)
    thread.join(10)
    assert query.error is not None
    assert query.error.errno == 604


def _claim_by_candidate(run: Run, worker: str) -> list[int]:
    mine: list[int] = []
    while True:
        found = run(
            "SELECT queue_id FROM q WHERE (status = 'PENDING' OR (status = 'RUNNING' AND "
            "lease_until IS NOT NULL AND lease_until < CURRENT_TIMESTAMP())) "
            "ORDER BY created_at LIMIT 1"
        )
        if not found:
            return mine
        changed = run(
            "UPDATE q SET status = 'RUNNING', worker_id = ?, claimed_at = CURRENT_TIMESTAMP(), "
            "lease_until = DATEADD('minute', 5, CURRENT_TIMESTAMP()), "
            "attempts = NVL(attempts, 0) + 1 WHERE queue_id = ? AND (status = 'PENDING' OR "
            "(status = 'RUNNING' AND lease_until IS NOT NULL AND "
            "lease_until < CURRENT_TIMESTAMP()))",
            worker,
            int(found[0][0]),
        )
        if changed[0][0]:
            mine.append(int(found[0][0]))


def _claim_in_batches(run: Run, worker: str) -> list[int]:
    """In explicit transactions, several rows at once."""
    count = 0
    while True:
        run("BEGIN")
        changed = run(
            "UPDATE q SET status = 'RUNNING', worker_id = ? WHERE queue_id IN "
            "(SELECT queue_id FROM q WHERE status = 'PENDING' "
            "ORDER BY created_at, queue_id LIMIT 3)",
            worker,
        )
        run("COMMIT")
        if not changed[0][0]:
            break
        count += changed[0][0]
    rows = run("SELECT queue_id FROM q WHERE worker_id = ?", worker)
    assert len(rows) == count
    return [int(row[0]) for row in rows]


@pytest.mark.parametrize("claim", [_claim_by_candidate, _claim_in_batches])
def test_workers_claim_every_row_once(
    account: Account, claim: Callable[[Run, str], list[int]]
) -> None:
    rows = 24
    run = session(account)
    run(
        "CREATE HYBRID TABLE q (queue_id INT PRIMARY KEY, status VARCHAR DEFAULT 'PENDING', "
        "worker_id VARCHAR, claimed_at TIMESTAMP_NTZ, lease_until TIMESTAMP_NTZ, attempts INT, "
        "created_at TIMESTAMP_NTZ DEFAULT CURRENT_TIMESTAMP())"
    )
    run(f"INSERT INTO q (queue_id) SELECT SEQ4() FROM TABLE(GENERATOR(ROWCOUNT => {rows}))")
    claimed: list[list[int]] = [[] for _ in range(8)]

    def work(i: int) -> None:
        claimed[i] = claim(session(account), f"w{i}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(q for mine in claimed for q in mine) == list(range(rows))
    assert run("SELECT DISTINCT status FROM q") == [("RUNNING",)]
