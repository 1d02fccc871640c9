"""Scripting blocks: what the bodies of tasks and set-up scripts are made of."""

from __future__ import annotations

import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flowdist.emulator.account import Account
from flowdist.emulator.errors import SqlError
from flowdist.emulator.statements import SCALARS, Context
from flowdist.emulator.tasks.values import Row, Variable, bind
from tests.emulator.task_lab import Lab


@pytest.fixture
def lab(account: Account) -> Lab:
    made = Lab(account)
    made.sql("CREATE TABLE t (a NUMBER, b VARCHAR)")
    made.sql("INSERT INTO t VALUES (1, 'one'), (2, 'two')")
    return made


def returned(lab: Lab, block: str) -> Any:
    ((value,),) = lab.sql(block)
    return int(value) if isinstance(value, Decimal) else value


def test_variables_are_bound_and_never_spliced() -> None:
    scope = {"X": Variable("it's"), "R": Row({"A": Variable(1)})}
    assert bind("SELECT :x, v:x, x, ':x' FROM t", scope, False) == (
        "SELECT ?, v:x, x, ':x' FROM t",
        ["it's"],
    )
    assert bind("x || f(x) || t.x || r.a", scope, True) == (
        "? || f(?) || t.x || ?",
        ["it's", "it's", 1],
    )
    assert bind("x::x > (SELECT max(x) FROM x)", scope, True)[0] == (
        "?::x > (SELECT max(x) FROM x)"
    )
    with pytest.raises(SqlError, match="Bind variable :y not set"):
        bind("SELECT :y", scope, False)


def test_a_block_returns_a_value(lab: Lab) -> None:
    result = lab.account.execute(lab.session, "BEGIN LET x := 3; RETURN x * 2; END;")
    assert [column.name for column in result.columns] == ["anonymous block"]
    assert result.rows() == [(6,)]
    assert returned(lab, "BEGIN SELECT 1; END") is None


def test_declared_variables_have_their_type(lab: Lab) -> None:
    block = """DECLARE
      r FLOAT; n NUMBER(10, 0) DEFAULT 2; since TIMESTAMP_LTZ; s STRING := 'a';
    BEGIN
      r := 3;
      since := (SELECT '2026-11-25 10:00:00.000 -0800');
      RETURN s || n || ' ' || (r / 2) || ' ' || DATEDIFF('hour', since, since + INTERVAL '2 hours');
    END"""
    assert returned(lab, block) == "a2 1.5 2"


def test_sql_sees_variables_with_a_colon_and_counts_its_rows(lab: Lab) -> None:
    block = """BEGIN
      LET name := 'it''s';
      INSERT INTO t SELECT a + 10, :name FROM t;
      LET changed := SQLROWCOUNT;
      LET found := (SELECT COUNT(*) FROM t WHERE b = :name);
      RETURN changed || '/' || found;
    END"""
    assert returned(lab, block) == "2/2"


def test_a_query_may_select_into_variables(lab: Lab) -> None:
    block = """DECLARE n NUMBER; last STRING;
    BEGIN SELECT COUNT(*), MAX(b) INTO :n, :last FROM t; RETURN n || last; END"""
    assert returned(lab, block) == "2two"


def test_control_flow(lab: Lab) -> None:
    block = """DECLARE total NUMBER DEFAULT 0; word STRING DEFAULT '';
    BEGIN
      FOR i IN REVERSE 1 TO 3 DO word := word || i; END FOR;
      WHILE (total < 100) DO
        total := total + 40;
        IF (total > 60) THEN BREAK; ELSEIF (total = 0) THEN CONTINUE; ELSE NULL; END IF;
      END WHILE;
      RETURN word || ' ' || total;
    END"""
    assert returned(lab, block) == "321 80"


def test_rows_of_cursors_and_result_sets(lab: Lab) -> None:
    block = """DECLARE
      c CURSOR FOR SELECT a, b FROM t ORDER BY a;
      rs RESULTSET DEFAULT (SELECT b FROM t ORDER BY b DESC);
      s STRING DEFAULT '';
    BEGIN
      FOR row_of IN c DO s := s || row_of.a || row_of.b || ','; END FOR;
      FOR row_of IN rs DO
        LET b := row_of.b;
        INSERT INTO t SELECT 9, :b WHERE :b = 'two';
        s := s || b || ';';
      END FOR;
      RETURN s;
    END"""
    assert returned(lab, block) == "1one,2two,two;one;"
    assert lab.sql(
        "BEGIN LET rs RESULTSET := (SELECT b FROM t WHERE a = 9); RETURN TABLE(rs); END"
    ) == [("two",)]


def test_statements_made_of_text(lab: Lab) -> None:
    block = """BEGIN
      LET statement := 'INSERT INTO t VALUES (?, ?)'; LET n := 7; LET name := 'x';
      EXECUTE IMMEDIATE :statement USING (n, name);
      EXECUTE IMMEDIATE 'DELETE FROM t WHERE a = ' || n;
      RETURN SQLROWCOUNT;
    END"""
    assert returned(lab, block) == 1
    assert returned(lab, "EXECUTE IMMEDIATE $$BEGIN RETURN 5; END$$") == 5
    assert returned(lab, "EXECUTE IMMEDIATE 'SELECT ? + 1' USING (4)") == 5


@pytest.mark.parametrize(
    "block",
    [
        "BEGIN INSERT INTO n VALUES (1); SELECT TEST$END(); INSERT INTO n VALUES (2); END",
        "BEGIN FOR i IN 1 TO 2 DO INSERT INTO n VALUES (:i); SELECT TEST$END(); END FOR; END",
        """BEGIN
          FOR i IN 1 TO 2 DO INSERT INTO n SELECT COUNT(*) + 1 FROM n; SELECT TEST$END(); END FOR;
        END""",
        """BEGIN
          EXECUTE IMMEDIATE 'BEGIN INSERT INTO n SELECT COUNT(*) + 1 FROM n; END';
          EXECUTE IMMEDIATE 'BEGIN INSERT INTO n SELECT COUNT(*) + 1 FROM n; END';
          SELECT TEST$END();
        END""",
        """BEGIN
          IF ((SELECT COUNT(*) FROM n) = 0) THEN INSERT INTO n VALUES (1); END IF;
          SELECT TEST$END();
          INSERT INTO n VALUES (2);
        END""",
        """BEGIN
          BEGIN TRANSACTION; INSERT INTO n VALUES (1); COMMIT;
          SELECT TEST$END();
          INSERT INTO n VALUES (2);
        END""",
    ],
)
def test_a_block_that_comes_again_after_a_crash_does_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: str
) -> None:
    def end(context: Context) -> int:
        raise SqlError(1, "00000", "the server ends here")

    monkeypatch.setitem(SCALARS, "TEST$END", end)
    rows: list[Any] = []
    for _ in range(2):
        account = Account(tmp_path / "account")
        lab = Lab(account)
        lab.sql("CREATE TABLE IF NOT EXISTS n (a INT)")
        query, _ = account.query(lab.session, block, "the request")
        account.run(lab.session, query)
        rows = lab.sql("SELECT a FROM n ORDER BY a")
        assert not account.engine.in_transaction(lab.session)
        account.close()
        monkeypatch.setitem(SCALARS, "TEST$END", lambda context: 1)
    assert query.error is None
    assert rows == [(1,), (2,)]


def test_errors_are_handled_by_name(lab: Lab) -> None:
    block = """DECLARE mine EXCEPTION (-20002, 'my own');
    BEGIN
      BEGIN
        SELECT * FROM nope;
      EXCEPTION WHEN mine THEN RETURN 'wrong'; WHEN STATEMENT_ERROR THEN
        LET code := SQLCODE;
        IF (code = 2003) THEN RAISE mine; END IF;
      END;
    EXCEPTION WHEN OTHER THEN RETURN SQLCODE || ' ' || SQLERRM;
    END"""
    assert returned(lab, block) == "-20002 my own"


def test_an_error_that_nothing_handles_says_where_it_was(lab: Lab) -> None:
    error = lab.refusal("BEGIN\n  SELECT * FROM nope;\nEND")
    assert error.errno == 2003
    assert error.message.startswith(
        "Uncaught exception of type 'STATEMENT_ERROR' on line 2 at position 2 : "
    )
    error = lab.refusal("DECLARE e EXCEPTION (-20001, 'bad'); BEGIN RAISE e; END")
    assert (error.errno, error.sqlstate) == (-20001, "P0001")
    assert error.message == "Uncaught exception of type 'E' on line 1 at position 43 : bad"


@pytest.mark.parametrize(
    "statement", ["LOOP SELECT 1; END LOOP", "OPEN c", "CASE WHEN TRUE THEN NULL; END CASE"]
)
def test_what_is_not_there_is_refused_by_quoting_it(lab: Lab, statement: str) -> None:
    error = lab.refusal(f"BEGIN {statement}; END")
    assert error.message.startswith(f"not supported by the emulator: {statement[:8]}")


def test_statements_of_a_block_are_queries_and_end_with_it(lab: Lab) -> None:
    lab.gate("hold")
    query = lab.query("BEGIN SELECT SYSTEM$LAB_HOLD('hold'); SELECT 1; END")
    runner = threading.Thread(target=lab.account.run, args=(lab.session, query))
    runner.start()
    lab.wait(lambda: [q for q in lab.account.queries.all() if q.text.startswith("SELECT SYSTEM")])
    lab.account.queries.abort(query)
    runner.join(10)
    assert query.error is not None
    assert query.error.errno == 604
    assert not [q for q in lab.account.queries.all() if q.text == "SELECT 1"]


def test_a_loop_without_a_body_can_be_aborted(lab: Lab) -> None:
    query = lab.query("BEGIN WHILE (1 = 1) DO END WHILE; END")
    runner = threading.Thread(target=lab.account.run, args=(lab.session, query), daemon=True)
    runner.start()
    lab.account.queries.abort(query)
    assert query.done.wait(20)
    assert query.error is not None
    assert query.error.errno == 604


def test_the_finalizer_of_an_orchestration_logs_the_run_of_its_graph(lab: Lab) -> None:
    lab.sql("CREATE TABLE log (run STRING, name STRING, state STRING, took NUMBER)")
    lab.sql("CREATE TASK root_task SCHEDULE = '59 MINUTE' AS SELECT CURRENT_TIMESTAMP()")
    for name, after in (("j1", "root_task"), ("j2", "root_task"), ("j3", "j1, j2")):
        lab.sql(f"CREATE TASK {name} WAREHOUSE = flowdist_wh AFTER {after} AS SELECT 1")
    lab.sql(
        """create or replace task GET_GRAPH_STATS
      warehouse = 'flowdist_wh'
      finalize = 'root_task'
      as
        declare
          ROOT_TASK_ID string;
          START_TIME timestamp_ltz;
        begin
          ROOT_TASK_ID := (call SYSTEM$TASK_RUNTIME_INFO('CURRENT_ROOT_TASK_UUID'));
          START_TIME := (call
            SYSTEM$TASK_RUNTIME_INFO('CURRENT_TASK_GRAPH_ORIGINAL_SCHEDULED_TIMESTAMP'));
          -- Insert into the logging table
          INSERT INTO log
          SELECT GRAPH_RUN_GROUP_ID, NAME, STATE,
                 timestampdiff('seconds', QUERY_START_TIME, COMPLETED_TIME)
          FROM TABLE(INFORMATION_SCHEMA.TASK_HISTORY(
              ROOT_TASK_ID => :ROOT_TASK_ID::string,
              SCHEDULED_TIME_RANGE_START => :START_TIME::timestamp_ltz,
              SCHEDULED_TIME_RANGE_END => current_timestamp()))
          where NAME != 'GET_GRAPH_STATS';
        end;"""
    )
    lab.account.start()
    lab.sql("alter task GET_GRAPH_STATS resume")
    lab.sql("SELECT SYSTEM$TASK_DEPENDENTS_ENABLE('root_task')")
    lab.execute("root_task")
    assert {row["ERROR_MESSAGE"] for row in lab.history()} == {None}
    names = [row[0] for row in lab.sql("SELECT name FROM log ORDER BY name")]
    assert names == ["J1", "J2", "J3", "ROOT_TASK"]
    assert lab.sql("SELECT DISTINCT state FROM log") == [("SUCCEEDED",)]
