"""Runs of task graphs: order, failures, retries, timeouts, overlap, schedules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowdist.clock import ManualClock
from flowdist.emulator.account import Account
from tests.emulator.task_lab import Lab

START = 1_764_000_000.0

PASS_ON = """BEGIN
    LET value := (SELECT SYSTEM$GET_PREDECESSOR_RETURN_VALUE('R'));
    CALL SYSTEM$SET_RETURN_VALUE(:value);
END"""
"""A body that returns what the root has returned."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def lab(tmp_path: Path, clock: ManualClock) -> Iterator[Lab]:
    account = Account(tmp_path / "account", clock=clock)
    account.start()
    yield Lab(account)
    account.close()


def diamond(lab: Lab, **bodies: str) -> None:
    """R, A and B after it, C after both, F at the end; all but R resumed."""
    for name, link in (("r", ""), ("a", "AFTER r"), ("b", "AFTER r"), ("c", "AFTER a, b")):
        lab.sql(f"CREATE TASK {name} {link} AS {bodies.get(name, 'SELECT 1')}")
    lab.sql(f"CREATE TASK f FINALIZE = r AS {bodies.get('f', 'SELECT 1')}")
    lab.resume("a", "b", "c", "f")


def test_a_task_runs_after_all_of_its_predecessors_and_the_finalizer_last(lab: Lab) -> None:
    gate = lab.gate("b")
    diamond(lab, b="SELECT SYSTEM$LAB_HOLD('b')")
    assert lab.sql("EXECUTE TASK r") == [("Task R is scheduled to run immediately.",)]
    lab.wait(lambda: lab.states().get("A") == "SUCCEEDED")
    assert lab.states() == {"R": "SUCCEEDED", "A": "SUCCEEDED", "B": "EXECUTING"}
    (current,) = lab.table("CURRENT_TASK_GRAPHS")
    assert (current["ROOT_TASK_NAME"], current["STATE"]) == ("R", "EXECUTING")
    gate.set()
    lab.idle()
    history = lab.history()
    assert [row["NAME"] for row in history][-2:] == ["C", "F"]
    assert set(lab.states().values()) == {"SUCCEEDED"}
    assert len({(row["GRAPH_RUN_GROUP_ID"], row["RUN_ID"]) for row in history}) == 1
    assert all(row["SCHEDULED_FROM"] == "EXECUTE_TASK" for row in history)
    assert {row["ROOT_TASK_ID"] for row in history} == {lab.shown("r")["id"]}
    query = lab.account.queries.find(history[0]["QUERY_ID"])
    assert query is not None
    assert (query.text, query.user) == ("SELECT 1", "SYSTEM")
    (complete,) = lab.table("COMPLETE_TASK_GRAPHS", root_task_name="r")
    assert (complete["STATE"], complete["ATTEMPT_NUMBER"]) == ("SUCCEEDED", 1)


def test_after_a_failure_nothing_follows_but_the_finalizer(lab: Lab) -> None:
    diamond(lab, b="SELECT SYSTEM$LAB_FAIL()")
    lab.execute("r")
    assert lab.states() == {"R": "SUCCEEDED", "A": "SUCCEEDED", "B": "FAILED", "F": "SUCCEEDED"}
    (failed,) = lab.table("TASK_HISTORY", error_only=True)
    assert (failed["ERROR_CODE"], failed["ERROR_MESSAGE"]) == (100183, "the body has failed")
    (complete,) = lab.table("COMPLETE_TASK_GRAPHS", error_only=True)
    assert (complete["STATE"], complete["FIRST_ERROR_TASK_NAME"]) == ("FAILED", "B")


def test_a_suspended_child_counts_as_if_it_had_succeeded(lab: Lab) -> None:
    diamond(lab)
    lab.sql("ALTER TASK b SUSPEND")
    lab.sql("ALTER TASK a SUSPEND")
    lab.execute("r")
    assert lab.states() == {"R": "SUCCEEDED", "C": "SUCCEEDED", "F": "SUCCEEDED"}
    assert lab.shown("r")["state"] == "suspended"


def test_a_false_condition_skips_a_task_and_what_follows_it(lab: Lab) -> None:
    diamond(lab)
    lab.sql("ALTER TASK a MODIFY WHEN 1 > 2")
    lab.execute("r")
    assert lab.states() == {"R": "SUCCEEDED", "A": "SKIPPED", "B": "SUCCEEDED", "F": "SUCCEEDED"}
    lab.sql("ALTER TASK r MODIFY WHEN FALSE")
    lab.execute("r")
    assert lab.states()["R"] == "SKIPPED"
    assert len(lab.history("f")) == 1  # not run when the root is skipped
    assert len(lab.table("COMPLETE_TASK_GRAPHS")) == 1


def test_return_values_and_the_configuration_reach_later_tasks(lab: Lab) -> None:
    root = "SELECT SYSTEM$SET_RETURN_VALUE('0.1')"
    diamond(lab, r=root, c=PASS_ON)
    lab.sql(
        """ALTER TASK r SET CONFIG = $${"env": "prod", "paths": {"logs": "/l", "out": "/o"}}$$"""
    )
    lab.sql("ALTER TASK b MODIFY WHEN SYSTEM$GET_PREDECESSOR_RETURN_VALUE('R')::FLOAT > 0.2")
    lab.sql(
        "ALTER TASK a MODIFY AS BEGIN LET path := (SELECT "
        "SYSTEM$GET_TASK_GRAPH_CONFIG('paths.out')); CALL SYSTEM$SET_RETURN_VALUE(:path); END"
    )
    lab.sql("""EXECUTE TASK r USING CONFIG = $${"paths": {"out": "/t"}}$$""")
    lab.idle()
    rows = {row["NAME"]: row for row in lab.history()}
    assert rows["R"]["RETURN_VALUE"] == "0.1"
    assert rows["A"]["RETURN_VALUE"] == "/t"
    assert rows["B"]["STATE"] == "SKIPPED"
    assert "C" not in rows
    assert rows["A"]["CONFIG"] == '{"env":"prod","paths":{"logs":"/l","out":"/t"}}'
    lab.sql("ALTER TASK b SUSPEND")
    lab.execute("r")
    assert {row["NAME"]: row for row in lab.history()}["C"]["RETURN_VALUE"] == "0.1"


def test_functions_of_a_run_fail_outside_of_one(lab: Lab) -> None:
    for function in ("TASK_RUNTIME_INFO", "GET_TASK_GRAPH_CONFIG", "SET_RETURN_VALUE"):
        with pytest.raises(Exception, match="must be called from within a task"):
            lab.call(f"SYSTEM${function}", "CURRENT_TASK_NAME")


def test_a_failed_graph_is_retried_from_the_failed_task(lab: Lab) -> None:
    lab.fails("b", 2)
    diamond(
        lab,
        b="SELECT SYSTEM$LAB_FAIL('b')",
        r="SELECT SYSTEM$SET_RETURN_VALUE('v')",
        c=PASS_ON,
    )
    lab.sql("ALTER TASK r SET TASK_AUTO_RETRY_ATTEMPTS = 2")
    lab.execute("r")
    runs = [(row["ATTEMPT_NUMBER"], row["NAME"], row["STATE"]) for row in lab.history()]
    assert sorted(runs) == [
        (1, "A", "SUCCEEDED"),
        (1, "B", "FAILED"),
        (1, "F", "SUCCEEDED"),
        (1, "R", "SUCCEEDED"),
        (2, "B", "FAILED"),
        (2, "F", "SUCCEEDED"),
        (3, "B", "SUCCEEDED"),
        (3, "C", "SUCCEEDED"),
        (3, "F", "SUCCEEDED"),
    ]
    assert {row["SCHEDULED_FROM"] for row in lab.history() if row["ATTEMPT_NUMBER"] > 1} == {
        "AUTOMATIC RETRY"
    }
    assert len({row["GRAPH_RUN_GROUP_ID"] for row in lab.history()}) == 1
    assert lab.history("c")[0]["RETURN_VALUE"] == "v"  # set in the first attempt
    assert [g["STATE"] for g in lab.table("COMPLETE_TASK_GRAPHS")] == [
        "SUCCEEDED",
        "FAILED",
        "FAILED",
    ]


def test_a_failed_run_is_retried_by_hand_unless_the_graph_was_modified(lab: Lab) -> None:
    diamond(lab, b="SELECT SYSTEM$LAB_FAIL('b')")
    error = lab.refusal("EXECUTE TASK r RETRY LAST")
    assert (error.errno, error.message) == (
        91457,
        "Cannot perform retry: no suitable run of graph with root task R to retry.",
    )
    lab.fails("b", 1)
    lab.execute("r")
    group = lab.history()[0]["GRAPH_RUN_GROUP_ID"]
    lab.sql("EXECUTE TASK r RETRY LAST")
    lab.idle()
    last = lab.history("c")[0]
    assert (last["ATTEMPT_NUMBER"], last["GRAPH_RUN_GROUP_ID"]) == (2, group)
    assert last["SCHEDULED_FROM"] == "MANUAL RETRY"
    error = lab.refusal("EXECUTE TASK r RETRY LAST")
    assert error.errno == 91456
    assert error.message.endswith("of graph with root task R had no failures.")
    lab.fails("b", 1)
    lab.execute("r")
    lab.sql("ALTER TASK a SET COMMENT = 'changed'")
    assert "was modified" in lab.refusal("EXECUTE TASK r RETRY LAST").message
    assert lab.refusal("EXECUTE TASK r RETRY GRAPH RUN GROUP 'nope'").message == (
        "Cannot perform retry: Graph run group with ID nope not found."
    )


def test_only_a_root_is_executed(lab: Lab) -> None:
    diamond(lab)
    error = lab.refusal("EXECUTE TASK a")
    assert (error.errno, error.message) == (
        91435,
        (
            "Execute task cannot be called on non-root task FLOWDIST.PUBLIC.A. Call EXECUTE TASK "
            "on the root task of its graph instead."
        ),
    )


def test_the_limit_of_the_root_is_that_of_the_graph_and_a_child_may_have_its_own(
    lab: Lab, clock: ManualClock
) -> None:
    lab.gate("a"), lab.gate("b")
    diamond(lab, a="SELECT SYSTEM$LAB_HOLD('a')", b="SELECT SYSTEM$LAB_HOLD('b')")
    lab.sql("ALTER TASK r SET USER_TASK_TIMEOUT_MS = 60000")
    lab.sql("ALTER TASK b SET USER_TASK_TIMEOUT_MS = 1800000")
    lab.sql("EXECUTE TASK r")
    lab.wait(lambda: len([r for r in lab.history() if r["QUERY_ID"]]) == 3)
    clock.advance(59)
    assert lab.states()["A"] == "EXECUTING"
    clock.advance(2)
    lab.wait(lambda: lab.states()["A"] == "FAILED")
    assert lab.states()["B"] == "EXECUTING"
    clock.advance(1800)
    lab.idle()
    rows = {row["NAME"]: row for row in lab.history()}
    assert rows["A"]["ERROR_CODE"] == rows["B"]["ERROR_CODE"] == 630
    assert rows["A"]["ERROR_MESSAGE"] == (
        "Statement reached its statement or warehouse timeout of 60 second(s) and was canceled."
    )
    assert "timeout of 1,800 second(s)" in rows["B"]["ERROR_MESSAGE"]
    assert rows["F"]["STATE"] == "SUCCEEDED"


def test_without_a_limit_a_task_may_run_for_an_hour(lab: Lab, clock: ManualClock) -> None:
    lab.gate("t")
    lab.sql("CREATE TASK t AS SELECT SYSTEM$LAB_HOLD('t')")
    lab.sql("EXECUTE TASK t")
    lab.wait(lambda: lab.history()[0]["QUERY_ID"])
    clock.advance(3601)
    lab.idle()
    assert "timeout of 3,600 second(s)" in lab.history()[0]["ERROR_MESSAGE"]


def test_the_runs_of_one_task_are_cancelled(lab: Lab) -> None:
    lab.gate("a")
    diamond(lab, a="SELECT SYSTEM$LAB_HOLD('a')")
    function = "SYSTEM$USER_TASK_CANCEL_ONGOING_EXECUTIONS"
    assert lab.call(function, "a").startswith("Task A has no currently running executions.")
    lab.sql("EXECUTE TASK r")
    query = lab.wait(lambda: [r["QUERY_ID"] for r in lab.history("a") if r["QUERY_ID"]])
    assert lab.call(function, "flowdist.public.a") == (
        "Marked 1 task runs for cancellation. It may take a few seconds for cancellation to "
        f"complete. Query ids canceled: [{query[0]}]"
    )
    lab.idle()
    assert lab.states()["A"] == "CANCELLED"
    assert "C" not in lab.states()
    assert lab.table("COMPLETE_TASK_GRAPHS")[0]["STATE"] == "CANCELLED"


def test_one_run_waits_for_the_one_that_goes_on_and_the_last_request_counts(lab: Lab) -> None:
    gate = lab.gate("a")
    diamond(lab, a="SELECT SYSTEM$LAB_HOLD('a')")
    lab.sql("EXECUTE TASK r")
    lab.sql("""EXECUTE TASK r USING CONFIG = '{"n": 1}'""")
    lab.sql("""EXECUTE TASK r USING CONFIG = '{"n": 2}'""")
    waiting = [row for row in lab.table("TASK_HISTORY") if row["STATE"] == "SCHEDULED"]
    assert [row["CONFIG"] for row in waiting] == ['{"n":2}']
    gate.set()
    lab.wait(lambda: len(lab.history("f")) == 2)
    assert [row["CONFIG"] for row in lab.history("r")] == [None, '{"n":2}']


@pytest.mark.parametrize(
    ("policy", "held", "runs"),
    [
        ("ALLOW_CHILD_OVERLAP", "a", 2),
        ("ALLOW_CHILD_OVERLAP", "r", 1),
        ("ALLOW_ALL_OVERLAP", "r", 2),
    ],
)
def test_runs_overlap_as_the_policy_says(lab: Lab, policy: str, held: str, runs: int) -> None:
    gate = lab.gate(held)
    diamond(lab, **{held: f"SELECT SYSTEM$LAB_HOLD('{held}')"})
    lab.sql(f"ALTER TASK r SET OVERLAP_POLICY = {policy}")
    lab.sql("EXECUTE TASK r")
    lab.wait(lambda: lab.states().get(held.upper()) == "EXECUTING")
    lab.sql("EXECUTE TASK r")
    assert len(lab.history("r")) == runs
    gate.set()
    lab.wait(lambda: len(lab.history("f")) == 2)
    lab.idle()


def test_a_started_root_runs_by_its_schedule(lab: Lab, clock: ManualClock) -> None:
    lab.sql("CREATE TASK t SCHEDULE = '10 MINUTES' AS SELECT 1")
    lab.resume("t")
    (due,) = lab.table("TASK_HISTORY")
    assert (due["STATE"], due["QUERY_ID"]) == ("SCHEDULED", None)
    assert due["SCHEDULED_TIME"].timestamp() == START + 600
    clock.advance(599)
    clock.advance(2)
    lab.wait(lambda: len(lab.history()) == 1)
    lab.idle()
    (run,) = lab.history()
    assert run["SCHEDULED_TIME"].timestamp() == START + 600
    assert run["NEXT_SCHEDULED_TIME"].timestamp() == START + 1200
    assert run["SCHEDULED_FROM"] == "SCHEDULE"
    clock.advance(3000)
    lab.wait(lambda: len(lab.history()) == 2)  # times that nobody was there for are left out
    lab.idle()
    lab.sql("ALTER TASK t SUSPEND")
    assert len(lab.table("TASK_HISTORY")) == 2


def test_a_time_at_which_the_last_run_goes_on_is_left_out(lab: Lab, clock: ManualClock) -> None:
    gate = lab.gate("t")
    lab.sql("CREATE TASK t SCHEDULE = '10 MINUTES' AS SELECT SYSTEM$LAB_HOLD('t')")
    lab.resume("t")
    clock.advance(601)
    lab.wait(lambda: lab.history())
    clock.advance(600)
    tasks, root = lab.account.tasks, lab.shown("t")["id"]
    lab.wait(lambda: tasks._due[root].moment > clock.time())  # it has come and gone
    gate.set()
    lab.idle()
    assert len(lab.history()) == 1


def test_a_root_is_suspended_after_too_many_failed_runs_in_a_row(lab: Lab) -> None:
    lab.sql(
        "CREATE TASK t SCHEDULE = '60 MINUTES' SUSPEND_TASK_AFTER_NUM_FAILURES = 2 "
        "AS SELECT SYSTEM$LAB_FAIL('t')"
    )
    lab.resume("t")
    for failures in (1, 0, 2):
        lab.fails("t", 1 if failures else 0)
        lab.execute("t")
    assert lab.shown("t")["state"] == "started"
    lab.fails("t", 1)
    lab.execute("t")
    shown = lab.shown("t")
    assert (shown["state"], shown["last_suspended_reason"]) == (
        "suspended",
        "SUSPENDED_DUE_TO_ERRORS",
    )
    assert lab.history()[-1]["STATE"] == "FAILED_AND_AUTO_SUSPENDED"


def test_a_run_goes_on_with_the_definitions_that_it_began_with(lab: Lab) -> None:
    gate = lab.gate("a")
    diamond(lab, a="SELECT SYSTEM$LAB_HOLD('a')")
    lab.sql("EXECUTE TASK r")
    lab.wait(lambda: lab.states().get("A") == "EXECUTING")
    lab.sql("CREATE OR REPLACE TASK c AFTER r AS SELECT 2")
    lab.sql("ALTER TASK f MODIFY AS SELECT 3")
    gate.set()
    lab.idle()
    rows = {row["NAME"]: row for row in lab.history()}
    assert (rows["C"]["QUERY_TEXT"], rows["F"]["QUERY_TEXT"]) == ("SELECT 1", "SELECT 1")
    lab.resume("c")
    lab.execute("r")
    rows = {row["NAME"]: row for row in lab.history()}
    assert (rows["C"]["QUERY_TEXT"], rows["F"]["QUERY_TEXT"]) == ("SELECT 2", "SELECT 3")
    assert [row["GRAPH_VERSION"] for row in lab.history("r")] == [1, 2]


def test_dependents_are_enabled_with_their_root(lab: Lab) -> None:
    diamond(lab)
    lab.sql("ALTER TASK c SUSPEND")
    lab.call("SYSTEM$TASK_DEPENDENTS_ENABLE", "flowdist.public.r")
    assert {lab.shown(name)["state"] for name in "rabcf"} == {"started"}


def test_a_graph_of_250_tasks_with_fan_in_and_a_finalizer(lab: Lab) -> None:
    lab.sql("CREATE TASK root AS SELECT 1")
    above = ["root"]
    for layer, width in enumerate((50, 98, 1, 99)):
        names = [f"t{layer}_{i}" for i in range(width)]
        for i, name in enumerate(names):
            after = above[i % len(above)] if width > 1 else ", ".join(above)
            lab.sql(f"CREATE TASK {name} AFTER {after} AS SELECT 1")
        above = names
    lab.sql("CREATE TASK last FINALIZE = root AS SELECT 1")
    lab.call("SYSTEM$TASK_DEPENDENTS_ENABLE", "root")
    lab.execute("root")
    history = lab.history()
    assert len(history) == 250
    assert {row["STATE"] for row in history} == {"SUCCEEDED"}
    ended = {row["NAME"]: row["COMPLETED_TIME"] for row in history}
    assert max(ended[f"T1_{i}"] for i in range(98)) <= ended["T2_0"] <= ended["LAST"]
    assert history[-1]["NAME"] == "LAST"


def test_the_history_is_limited_and_filtered(lab: Lab) -> None:
    diamond(lab)
    lab.execute("r")
    assert len(lab.table("TASK_HISTORY", result_limit=2)) == 2
    rows: list[dict[str, Any]] = lab.table("TASK_HISTORY", task_name="c", database_name="flowdist")
    assert [row["NAME"] for row in rows] == ["C"]
    root = lab.shown("r")["id"]
    assert len(lab.table("TASK_HISTORY", root_task_id=root)) == 5
    assert lab.table("TASK_HISTORY", root_task_id="nope") == []
    assert lab.table("TASK_HISTORY", schema_name="public", database_name="other") == []
    with pytest.raises(Exception, match="SCHEMA_NAME"):
        lab.table("TASK_HISTORY", schema_name="public")
    with pytest.raises(Exception, match="RESULT_LIMIT"):
        lab.table("TASK_HISTORY", result_limit=0)
    with pytest.raises(Exception, match="time range"):
        lab.table("TASK_HISTORY", scheduled_time_range_start="2020-01-01 00:00:00+00:00")


def test_the_history_shows_only_what_the_role_may_see(lab: Lab) -> None:
    diamond(lab)
    lab.execute("r")
    assert Lab(lab.account, "PUBLIC").history() == []
    assert Lab(lab.account, "PUBLIC").table("COMPLETE_TASK_GRAPHS") == []
    assert len(Lab(lab.account, "ACCOUNTADMIN").history()) == 5
