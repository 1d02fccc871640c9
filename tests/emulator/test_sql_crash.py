"""What was acknowledged survives a process that is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from flowdist.emulator.account import Account
from flowdist.emulator.sql.engine import Engine
from flowdist.emulator.statements import Context

WRITER = """
import sys
from pathlib import Path
from flowdist.emulator.account import Account

account = Account(Path(sys.argv[1]))
session = account.open_session(
    "FLOWDIST", "ACCOUNTADMIN", database="FLOWDIST", schema="PUBLIC", warehouse="FLOWDIST_WH"
)

def run(sql, request=""):
    query, _ = account.query(session, sql, request)
    account.run(session, query)
    if query.error:
        raise query.error

run("CREATE HYBRID TABLE t (id INT PRIMARY KEY, v VARCHAR(10), z TIMESTAMP_TZ) COMMENT = 'kept'")
run("CREATE SEQUENCE seq")
run("CREATE VIEW w AS SELECT id FROM t")
run("INSERT INTO t (id, v) VALUES (0, 'first')", "request-0")
other = account.open_session(
    "FLOWDIST", "ACCOUNTADMIN", database="FLOWDIST", schema="PUBLIC", warehouse="FLOWDIST_WH"
)
account.execute(other, "BEGIN")
account.execute(other, "INSERT INTO t (id) VALUES (-1)")
number = 0
while True:
    number += 1
    run(f"INSERT INTO t (id, v) VALUES ({number}, 'x')", f"request-{number}")
    print(number, flush=True)
"""


def test_a_killed_process_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    acknowledged = 0
    for line in process.stdout:
        acknowledged = int(line)
        if acknowledged == 20:
            process.kill()
    process.wait()

    account = Account(tmp_path)
    session = account.open_session(
        "FLOWDIST", "ACCOUNTADMIN", database="FLOWDIST", schema="PUBLIC", warehouse="FLOWDIST_WH"
    )
    ids = [int(i) for (i,) in account.execute(session, "SELECT id FROM t ORDER BY id").rows()]
    assert ids == list(range(len(ids)))
    assert len(ids) > acknowledged
    (table,) = [info for info in account.engine.tables() if info.name.name == "T"]
    assert (table.hybrid, table.comment, str(table.columns[1].type)) == (
        True,
        "kept",
        "VARCHAR(10)",
    )
    assert account.execute(session, "SELECT COUNT(*) FROM w").rows() == [(len(ids),)]
    assert account.execute(session, "SELECT seq.NEXTVAL").rows() == [(1,)]
    _a_repeated_request_does_not_run_again(account)
    account.close()


def _a_repeated_request_does_not_run_again(account: Account) -> None:
    session = account.open_session(
        "FLOWDIST", "ACCOUNTADMIN", database="FLOWDIST", schema="PUBLIC", warehouse="FLOWDIST_WH"
    )
    query, _ = account.query(session, "INSERT INTO t (id, v) VALUES (0, 'first')", "request-0")
    result = account.engine.run(Context(account, session, query), query.text)
    assert result.rows() == [(1,)]
    assert account.engine.outcome_of_request("request-unknown") is None


def test_a_closed_file_is_opened_again_with_its_tables(tmp_path: Path) -> None:
    account = Account(tmp_path)
    session = account.open_session(
        "FLOWDIST", "ACCOUNTADMIN", database="FLOWDIST", schema="PUBLIC", warehouse="FLOWDIST_WH"
    )
    account.execute(session, 'CREATE TABLE "a.b" ("x y" INT AUTOINCREMENT, v VARIANT)')
    account.execute(session, "INSERT INTO \"a.b\" (v) SELECT PARSE_JSON('[1]')")
    account.close()
    account = Account(tmp_path)
    session = account.open_session(
        "FLOWDIST", "ACCOUNTADMIN", database="FLOWDIST", schema="PUBLIC", warehouse="FLOWDIST_WH"
    )
    account.execute(session, "INSERT INTO \"a.b\" (v) SELECT PARSE_JSON('[2]')")
    rows = account.execute(session, 'SELECT "x y", v[0] FROM "a.b" ORDER BY 1').rows()
    assert rows == [(1, "1"), (2, "2")]
    assert isinstance(account.engine, Engine)
    account.close()
