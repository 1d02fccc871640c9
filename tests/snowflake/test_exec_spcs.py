"""`flowdist exec` in containers, and what it writes into a table of Snowflake."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from cloud import IMAGE, Cloud
from grammar import check

from flowdist import runs
from flowdist.cli import cli
from flowdist.errors import UsageError
from flowdist.snowflake.connection import connection_name
from flowdist.snowflake.names import Name
from flowdist.snowflake.save import _inserts, create_table, save_table

SCRIPT = """\
import os
from halves import half

def main(config):
    print("working on", config["n"])
    if config["n"] == 13:
        raise ValueError("unlucky")
    return {"half": half(config["n"]), "me": config["worker_index"], "at": os.environ["PLACE"]}
"""


def test_a_script_runs_in_containers_and_its_rows_are_in_a_table(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLOWDIST_ROOT", raising=False)
    (tmp_path / "job.py").write_text(SCRIPT)
    (tmp_path / "halves.py").write_text("def half(n): return n / 2\n")
    profile = {
        "kind": "spcs-jobs",
        "compute_pool": "cells",
        "image": IMAGE,
        "stage": "flowdist.public.runs",
        "connection": connection_name(cloud.connection),
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in profile.items()]
    text = "\n".join(["[profiles.spcs]", *lines, 'environment = {PLACE = "a container"}'])
    (tmp_path / "flowdist.toml").write_text(text)
    words = ["exec", "job.py", "--on", "spcs", "--replicas", "2"]

    done = CliRunner().invoke(cli, [*words, "--config", "n=7", "--table", "results", "--json"])
    failed = CliRunner().invoke(cli, [*words[:4], "--config", "n=13", "--table", "results"])

    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["table"] == "FLOWDIST.PUBLIC.RESULTS"
    assert failed.exit_code == 1
    assert "ValueError: unlucky" in failed.stderr
    bad, good = runs()
    found = cloud.client().rows("SELECT * FROM results ORDER BY worker_index")
    wanted = {"run_id": good.id, "half": 3.5, "at": "a container"}
    assert found == [{**wanted, "worker_index": me, "me": me} for me in (0, 1)]
    assert "working on 13" in list(bad.logs())
    for run in (good, bad):
        run.delete()


def test_all_kinds_of_values_arrive_once_however_often_they_are_written(cloud: Cloud) -> None:
    table = pa.table(
        {
            "n": [1, None],
            "x": [0.5, math.nan],
            "flag": [True, None],
            "said": ["it's", None],
            "day": [dt.date(2026, 2, 28), None],
            "at": pa.array([dt.datetime(2026, 2, 28, 1, 2, 3, 4000), None], pa.timestamp("ns")),
            "zoned": [dt.datetime(2026, 2, 28, 1, tzinfo=dt.timezone(dt.timedelta(hours=2))), None],
            "clock": [dt.time(1, 2, 3), None],
            "took": [dt.timedelta(hours=1), None],
            "price": [decimal.Decimal("12.50"), None],
            "raw": [b"\x00\xff", None],
            "tags": [["a", "b"], None],
            "order": [{"deep": [1.0, math.nan], "b": b"ab"}, None],
            "My Column": ["quoted", None],
        }
    )
    client, name = cloud.client(), Name.parse("flowdist.public.kinds")
    save_table(client, name, table, "run-1")
    before = client.statements
    with cloud.emulator.faults.lose_replies(statement="COMMIT", times=1) as lost:
        save_table(client, name, table, "run-1")
    save_table(client, name, table.slice(1), "run-2")

    rows = client.rows(f"SELECT * FROM {name.sql} ORDER BY run_id, n NULLS LAST")

    assert lost.hits == 1
    assert client.statements - before < 20
    assert [row["run_id"] for row in rows] == ["run-1", "run-1", "run-2"]
    first, second = rows[0], rows[1]
    tags, order = json.loads(first.pop("tags")), json.loads(first.pop("order"))
    assert (tags, order) == (["a", "b"], {"deep": [1.0, None], "b": "YWI="})
    wanted = {name.lower(): values[0] for name, values in table.to_pydict().items()}
    wanted |= {"run_id": "run-1", "at": dt.datetime(2026, 2, 28, 1, 2, 3, 4000), "took": "1:00:00"}
    assert first == {name: value for name, value in wanted.items() if name not in ("tags", "order")}
    assert math.isnan(second.pop("x"))
    assert set(second.values()) == {"run-1", None}


def test_what_is_sent_is_what_the_documentation_has() -> None:
    table = pa.table({"n": [1, 2], "tags": [["a"], None], "My Column": ["x", "y"]})
    name = Name.parse('flowdist.public."My Table"')

    statements = [sql for sql, _ in _inserts(name, table, "run")]

    for sql in (create_table(name, table.schema), *statements, "BEGIN", "COMMIT", "ROLLBACK"):
        assert check(sql) == ""


def test_columns_that_differ_in_case_only_are_refused(cloud: Cloud) -> None:
    table = pa.table({"n": [1], "N": [2]})

    with pytest.raises(UsageError, match="'N' and 'n' would be the same column"):
        save_table(cloud.client(), Name.parse("flowdist.public.kinds"), table, "run")
