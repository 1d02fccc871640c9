"""The rules of task graphs on names alone, and SCHEDULE."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from flowdist.emulator.errors import SqlError
from flowdist.emulator.names import FullName
from flowdist.emulator.tasks import graph
from flowdist.emulator.tasks.graph import Node, Nodes
from flowdist.emulator.tasks.schedule import Every, read_schedule

DIAMOND = Nodes(
    {"A": Node(), "B": Node(("A",)), "C": Node(("A",)), "D": Node(("B", "C")), "F": Node((), "A")}
)


def check(nodes: dict[str, Node], name: str) -> None:
    graph.check(Nodes(nodes), name, FullName("DB", "S", name))


def refusal(nodes: dict[str, Node], name: str) -> str:
    with pytest.raises(SqlError) as caught:
        check(nodes, name)
    return caught.value.message


def test_a_graph_is_its_root_with_all_below_and_the_finalizer_last() -> None:
    assert DIAMOND.members("A") == ["A", "B", "C", "D", "F"]
    assert DIAMOND.roots("D") == ["A"]
    assert DIAMOND.ancestors("D") == {"A", "B", "C"}


def test_a_cycle_is_refused() -> None:
    nodes = {"A": Node(("C",)), "B": Node(("A",)), "C": Node(("B",))}
    assert "cycle" in refusal(nodes, "A")
    assert refusal({"A": Node(("A",))}, "A") == "Task A cannot use itself as its predecessor."


def test_a_task_has_at_most_100_predecessors_and_100_children() -> None:
    hundred = {f"P{i}": Node(("R",)) for i in range(100)}
    check({"R": Node(), **hundred, "X": Node(tuple(hundred))}, "X")
    check({"R": Node(), **hundred}, "P0")
    many = {f"Q{i}": Node() for i in range(101)}
    assert "more than 100 predecessors" in refusal({**many, "X": Node(tuple(many))}, "X")
    more = {"R": Node(), **hundred, "X": Node(("R",))}
    assert "DB.S.R cannot have more than 100 child tasks" in refusal(more, "X")


def test_a_graph_has_at_most_1000_tasks() -> None:
    nodes = {"T0": Node(), **{f"T{i}": Node((f"T{i - 1}",)) for i in range(1, 1000)}}
    check(nodes, "T999")
    nodes["X"] = Node(("T5",))
    assert "cannot have more than 1000 tasks" in refusal(nodes, "X")
    nodes["X"] = Node((), "T0")
    assert "cannot have more than 1000 tasks" in refusal(nodes, "X")


def test_a_finalizer_finalizes_one_root_and_has_neither_predecessors_nor_children() -> None:
    place = "DB.S.X"
    assert refusal({**DIAMOND, "X": Node((), "B")}, "X") == (
        f"Task {place} cannot finalize a non-root task DB.S.B."
    )
    assert refusal({**DIAMOND, "X": Node((), "A")}, "X") == (
        "Finalize target A already have finalizer."
    )
    assert refusal({"A": Node(), "R": Node(), "X": Node(("A",), "R")}, "X") == (
        f"Task {place} cannot have predecessors as a finalizer task."
    )
    assert refusal({**DIAMOND, "X": Node(("F",))}, "X") == (
        "Task DB.S.F cannot have children as a finalizer task."
    )


def test_a_task_that_hangs_from_two_roots_cannot_run() -> None:
    nodes = Nodes({"A": Node(), "B": Node(), "X": Node(("A", "B"))})
    graph.check(nodes, "X", FullName("DB", "S", "X"))  # Snowflake lets it be made
    with pytest.raises(SqlError, match="exactly one root"):
        graph.one_root(nodes, ["X"], FullName("DB", "S", "X"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("59 MINUTE", 3540), ("1 hours", 3600), ("10 m", 600), ("10 SECONDS", 10), ("1 H", 3600)],
)
def test_an_interval_counts_from_its_base(text: str, seconds: int) -> None:
    schedule = read_schedule(text)
    assert schedule == Every(seconds)
    assert schedule.following(1000.0, 1000.0) == 1000.0 + seconds
    assert schedule.following(1000.0, 1000.0 + 2.5 * seconds) == 1000.0 + 3 * seconds


@pytest.mark.parametrize(
    "text",
    ["9 SECONDS", "0 MINUTES", "11521 MINUTES", "5", "MINUTE", "5 DAYS", "USING CRON", "-5 M"]
    + [
        f"USING CRON {cron} UTC"
        for cron in ("61 * * * *", "0 0 * * 7", "0 0 * * 1#2", "*/0 * * * *")
    ],
)
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(SqlError, match="Invalid schedule was specified"):
        read_schedule(text)


def test_a_time_zone_and_a_day_that_never_comes_are_refused_by_name() -> None:
    with pytest.raises(SqlError, match='"PST" is not a recognized time zone'):
        read_schedule("USING CRON 0 0 * * * PST")
    with pytest.raises(SqlError, match='"\\*" is not a recognized time zone'):
        read_schedule("USING CRON * * * * *")
    with pytest.raises(SqlError, match="No valid time could be found"):
        read_schedule("USING CRON 0 0 31 2 * UTC")


@pytest.mark.parametrize(
    ("cron", "after", "due"),
    [
        ("7 3 * * SUN America/Los_Angeles", "2026-11-25T00:00:00Z", "2026-11-29T11:07:00Z"),
        ("0 0 L * * utc", "2026-02-10T00:00:00Z", "2026-02-28T00:00:00Z"),
        ("0 0 * * FRIL UTC", "2026-11-25T00:00:00Z", "2026-11-27T00:00:00Z"),
        ("5/15 * * * * UTC", "2026-11-25T10:21:00Z", "2026-11-25T10:35:00Z"),
        ("0 9-17 * * * UTC", "2026-11-25T17:30:00Z", "2026-11-26T09:00:00Z"),
    ],
)
def test_cron_expressions_are_read_in_their_time_zone(cron: str, after: str, due: str) -> None:
    schedule = read_schedule(f"USING CRON {cron}")
    found = schedule.following(0.0, datetime.fromisoformat(after).timestamp())
    assert datetime.fromtimestamp(found, UTC) == datetime.fromisoformat(due)
