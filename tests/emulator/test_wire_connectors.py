"""What the unmodified connectors make of the server's replies: the newest of 5.x and of 4.x."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from emulator_server import run_script, served
from wire_canned import TYPES, canned

from flowdist.emulator.account import Account

SCRIPT = Path(__file__).with_name("wire_scenarios.py")

VALUES = {
    "NUMBER": "7",
    "MONEY": "Decimal('-1.25')",
    "WIDE": "1000000000000000000000000000000",
    "WIDE_MONEY": "Decimal('10000000000000000000000000.12000')",
    "FLOAT": "0.1",
    "TEXT": "'häl\"lo\\n'",
    "BOOLEAN": "False",
    "DATE": "datetime.date(1969, 12, 31)",
    "TIME_9": "datetime.time(1, 2, 3, 456789)",
    "TIME_0": "datetime.time(23, 59, 59)",
    "NTZ_9": "'2024-02-29T12:34:56.789012'",
    "NTZ_3": "'2024-02-29T12:34:56.789000'",
    "NTZ_OLD": "'1969-12-31T23:59:59.500000'",
    "LTZ_9": "'2024-02-29T04:34:56.789012-08:00'",
    "LTZ_6": "'2024-02-29T04:34:56.789012-08:00'",
    "TZ_9": "'2024-02-29T14:04:56.789012+01:30'",
    "TZ_0": "'2024-02-29T07:34:56-05:00'",
    "BINARY": r"b'\x00\xff'",
    "VARIANT": r"""'{\n  "a": 1\n}'""",
    "OBJECT": "'{}'",
    "ARRAY": "'[]'",
}
"""The values of `wire_canned.TYPES` as a client in Los Angeles has to see them."""

IN_FRAMES = {
    # A column of numbers with a NULL is one of floats in pandas; what is wider, of objects.
    "NUMBER": "7.0",
    "MONEY": "-1.25",
    "WIDE": "Decimal('1000000000000000000000000000000')",
    # Connectors put all zones of a column into that of the session.
    "TZ_9": "'2024-02-29T04:34:56.789012-08:00'",
    "TZ_0": "'2024-02-29T04:34:56-08:00'",
}


@pytest.fixture(scope="module", params=[5, 4])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What every scenario has seen, under a connector."""
    line: int = request.param
    python = sys.executable if line == 5 else request.getfixturevalue("connector4")
    account = Account(tmp_path_factory.mktemp("account") / "state")
    canned(account)
    server, end = served(account, patience=0.2)
    try:
        found = run_script(python, SCRIPT, server.parameters())
    finally:
        end()
        account.close()
    assert found["version"].startswith(f"{line}.")
    return found


@pytest.mark.parametrize("way", ["fetched_all", "fetched_as_json"])
def test_values_of_every_type_and_their_nulls(seen: Any, way: str) -> None:
    values, nulls = seen[way]

    assert dict(zip(TYPES, values, strict=True)) == VALUES
    assert set(nulls) == {"None"}


def test_frames_have_values_and_nulls_where_they_belong(seen: Any) -> None:
    frames = seen["frames"]

    for name, value in {**VALUES, **IN_FRAMES}.items():
        assert frames["first"][name] == value, name
    assert all(nulls == [False, True] for nulls in frames["nulls"].values())
    assert frames["only_nulls"]
    assert frames["empty"] == [0, list(TYPES)]


def test_arrow_tables_have_a_null_in_every_column(seen: Any) -> None:
    assert seen["arrow"] == {"null_counts": [1] * len(TYPES), "rows": [2, 2]}


def test_large_results_come_in_chunks_of_one_type(seen: Any) -> None:
    assert seen["large"] == {
        "numbers": True,
        "frame": [70_000, 70_000 * 69_999 // 2, "int32"],
        "json": True,
    }


def test_descriptions_have_types_precision_and_scale(seen: Any) -> None:
    described = {name: rest for name, *rest in seen["described"]}

    assert described["MONEY"] == [0, 10, 2, True]
    assert described["TEXT"] == [2, None, None, True]
    assert described["LTZ_6"] == [6, 0, 6, True]


def test_row_counts(seen: Any) -> None:
    assert seen["counts"] == {"inserted": 3, "done": 1, "selected": 2}


def test_failures_are_errors_of_sql_with_number_state_and_query(seen: Any) -> None:
    assert seen["errors"] == {
        "missing nothing": [2003, "02000", True],
        "defect": [603, "XX000", True],
        "this is 'not closed": [1003, "42000", True],
        "": [900, "42601", True],
    }


def test_several_statements_in_one_request_only_where_asked_for(seen: Any) -> None:
    found = seen["several_statements"]

    assert found["rows"][0] == []
    assert found["rows"][2] == [["Statement executed successfully."]]
    assert found["unasked"] == [8, "0A000"]


def test_queries_in_the_background_have_a_status(seen: Any) -> None:
    assert seen["in_background"] == {"status": "SUCCESS", "error": 2003}


def test_a_statement_may_take_longer_than_a_request(seen: Any) -> None:
    assert seen["longer_than_a_request"] == [["waited"]]


def test_bound_values_arrive_with_their_types(seen: Any) -> None:
    assert seen["bound"] == [
        "1",
        "-100000000000000000000",
        "Decimal('1.25')",
        "0.1",
        '"it\'s"',
        "''",
        "True",
        "None",
        r"b'\x00\xff'",
        "datetime.date(1969, 12, 31)",
        "datetime.time(1, 2, 3, 4)",
        "datetime.datetime(2024, 2, 29, 1, 2, 3, 456789)",
        "datetime.datetime(2024, 2, 29, 0, 0, tzinfo=datetime.timezone.utc)",
    ]
