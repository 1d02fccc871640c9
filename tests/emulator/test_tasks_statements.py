"""CREATE, ALTER, DROP, SHOW and DESCRIBE TASK."""

from __future__ import annotations

import json

import pytest

from flowdist.emulator.account import Account
from tests.emulator.task_lab import Lab

PLACE = "FLOWDIST.PUBLIC."


@pytest.fixture
def lab(account: Account) -> Lab:
    return Lab(account)


@pytest.fixture
def graph(lab: Lab) -> Lab:
    """R with the children A and B, C after both, and the finalizer F."""
    return with_graph(lab)


@pytest.fixture(scope="module")
def unchanged(one_account: Account) -> Lab:
    """The same graph, for statements that are refused."""
    return with_graph(Lab(one_account))


def with_graph(lab: Lab) -> Lab:
    lab.sql("CREATE TASK r SCHEDULE = '60 MINUTE' AS SELECT 1")
    lab.sql("CREATE TASK a AFTER r AS SELECT 1")
    lab.sql("CREATE TASK b AFTER r AS SELECT 1")
    lab.sql("CREATE TASK c AFTER a, b AS SELECT 1")
    lab.sql("CREATE TASK f FINALIZE = r AS SELECT 1")
    return lab


def test_a_task_is_shown_as_it_was_made(lab: Lab) -> None:
    made = lab.sql(
        """CREATE TASK t1 WAREHOUSE = 'flowdist_wh' SCHEDULE = '5 minutes'
        CONFIG = $${"a": 1}$$ OVERLAP_POLICY = ALLOW_CHILD_OVERLAP
        USER_TASK_TIMEOUT_MS = 5000, COMMENT = 'mine' QUERY_TAG = 'x', TIMEZONE = 'UTC'
        WHEN SYSTEM$GET_PREDECESSOR_RETURN_VALUE('x')::FLOAT < 0.2
        AS
          BEGIN
            SELECT  1; -- as written
          END;"""
    )
    assert made == [("Task T1 successfully created.",)]
    shown = lab.shown("t1")
    assert shown["definition"].startswith("BEGIN\n            SELECT  1; -- as written")
    assert shown["condition"] == "SYSTEM$GET_PREDECESSOR_RETURN_VALUE('x')::FLOAT < 0.2"
    expected = {
        "warehouse": "FLOWDIST_WH",
        "schedule": "5 minutes",
        "state": "suspended",
        "config": '{"a": 1}',
        "allow_overlapping_execution": "true",
        "overlap_policy": "ALLOW_CHILD_OVERLAP",
        "comment": "mine",
        "owner": "FLOWDIST_ROLE",
        "predecessors": "[]",
        "task_relations": '{"Predecessors":[]}',
        "last_suspended_reason": None,
        "last_committed_on": None,
    }
    assert {name: shown[name] for name in expected} == expected
    described = lab.account.execute(lab.session, "DESC TASK flowdist.public.t1")
    assert described.rows() == lab.account.execute(lab.session, "SHOW TASKS").rows()


def test_show_has_the_documented_columns_in_order(graph: Lab) -> None:
    result = graph.account.execute(graph.session, "SHOW TASKS")
    names = [column.name for column in result.columns]
    assert names[:8] == [
        "created_on",
        "name",
        "id",
        "database_name",
        "schema_name",
        "owner",
        "comment",
        "warehouse",
    ]
    assert names[-2:] == ["execute_as_user", "overlap_policy"]
    terse = graph.account.execute(graph.session, "SHOW TERSE TASKS LIKE 'r'")
    assert [column.name for column in terse.columns] == [
        "created_on",
        "name",
        "kind",
        "database_name",
        "schema_name",
        "schedule",
    ]
    roots = graph.sql("SHOW TASKS IN ACCOUNT STARTS WITH 'R' ROOT ONLY LIMIT 5")
    assert [row[1] for row in roots] == ["R"]
    assert [row[1] for row in graph.sql("SHOW TASKS IN DATABASE LIMIT 2 FROM 'A'")] == ["B", "C"]


def test_relations_are_shown_from_both_ends(graph: Lab) -> None:
    assert json.loads(graph.shown("c")["predecessors"]) == [f"{PLACE}A", f"{PLACE}B"]
    assert graph.shown("r")["task_relations"] == (
        f'{{"Predecessors":[],"FinalizerTask":"{PLACE}F"}}'
    )
    assert graph.shown("f")["task_relations"] == (
        f'{{"FinalizedRootTask":"{PLACE}R","Predecessors":[]}}'
    )
    dependents = graph.table("TASK_DEPENDENTS", task_name="flowdist.public.r")
    assert [row["NAME"] for row in dependents] == ["R", "A", "B", "C", "F"]
    direct = graph.table("TASK_DEPENDENTS", task_name="r", recursive=False)
    assert [row["NAME"] for row in direct] == ["R", "A", "B", "F"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("AFTER nope", "Invalid predecessor NOPE was specified."),
        ("SCHEDULE = '5 M' AFTER r", "Task X cannot have both a schedule and a predecessor."),
        ("FINALIZE = r", "Finalize target R already have finalizer."),
        ("FINALIZE = nope", "Invalid finalized root task NOPE was specified."),
        ("FINALIZE = a", f"Task {PLACE}X cannot finalize a non-root task {PLACE}A."),
        ("AFTER f", f"Task {PLACE}F cannot have children as a finalizer task."),
        (
            "CONFIG = '[1]'",
            "Invalid config. Must be a string representation of a valid JSON Object.",
        ),
        (
            "CONFIG = '{}' AFTER r",
            f"Task {PLACE}X cannot both be a non-root task and have a config.",
        ),
        (
            "ALLOW_OVERLAPPING_EXECUTION = TRUE AFTER r",
            f"Cannot set allow_overlapping_execution on non-root task {PLACE}X.",
        ),
        (
            "TASK_AUTO_RETRY_ATTEMPTS = 2 AFTER r",
            (
                "Cannot set parameter TASK_AUTO_RETRY_ATTEMPTS on non-root task X. Non-root tasks "
                "use the parameter setting from their root task. Please set this on the root task "
                "for this task instead."
            ),
        ),
        ("WAREHOUSE = nope", "Nonexistent warehouse NOPE was specified."),
        (
            "SCHEDULE = 'soon'",
            (
                "Invalid schedule was specified. Please refer to the docs on what "
                "constitutes a valid schedule."
            ),
        ),
        (
            "AUTOCOMMIT = FALSE",
            (
                "The parameter AUTOCOMMIT = false is not supported with Tasks. "
                "Remove the parameter and try again."
            ),
        ),
        ("NOT_A_PARAM = 1", "SQL compilation error:\ninvalid property 'NOT_A_PARAM' for 'TASK'"),
        (
            "USER_TASK_TIMEOUT_MS = -5",
            "SQL compilation error:\ninvalid value [-5] for parameter 'USER_TASK_TIMEOUT_MS'",
        ),
        (
            "TASK_AUTO_RETRY_ATTEMPTS = 31",
            "SQL compilation error:\ninvalid value [31] for parameter 'TASK_AUTO_RETRY_ATTEMPTS'",
        ),
        (
            "OVERLAP_POLICY = BOGUS",
            "SQL compilation error:\ninvalid value 'BOGUS' for property 'OVERLAP_POLICY'",
        ),
        (
            "WAREHOUSE = flowdist_wh USER_TASK_MANAGED_INITIAL_WAREHOUSE_SIZE = 'SMALL'",
            "Cannot set USER_TASK_MANAGED_INITIAL_WAREHOUSE_SIZE on a non-serverless task.",
        ),
    ],
)
def test_what_snowflake_refuses_is_refused_in_its_words(
    unchanged: Lab, options: str, message: str
) -> None:
    assert unchanged.refusal(f"CREATE TASK x {options} AS SELECT 1").message == message


@pytest.mark.parametrize(
    "clause",
    [
        "WITH TAG (cost = 'low')",
        "ERROR_INTEGRATION = 'topic'",
        "LOG_LEVEL = 'INFO'",
        "USER_TASK_MINIMUM_TRIGGER_INTERVAL_IN_SECONDS = 10",
        "EXECUTE AS USER somebody",
        "WHEN SYSTEM$STREAM_HAS_DATA('s')",
    ],
)
def test_what_the_emulator_has_not_is_refused_by_quoting_it(unchanged: Lab, clause: str) -> None:
    error = unchanged.refusal(f"CREATE TASK x {clause} AS SELECT 1")
    assert error.message.startswith(f"not supported by the emulator: {clause}")


def test_a_condition_calls_nothing_but_the_return_value(lab: Lab) -> None:
    error = lab.refusal("CREATE TASK x WHEN PARSE_JSON('1') = 1 AS SELECT 1")
    assert "Invalid expression for task condition expression" in error.message


def test_nothing_in_a_graph_changes_while_its_root_is_started(graph: Lab) -> None:
    graph.resume("a", "b", "c", "f", "r")
    for change in (
        "ALTER TASK a SUSPEND",
        "ALTER TASK r SET COMMENT = 'x'",
        "ALTER TASK c MODIFY AS SELECT 2",
        "ALTER TASK f UNSET FINALIZE",
        "CREATE TASK x AFTER a AS SELECT 1",
        "CREATE OR REPLACE TASK a AFTER r AS SELECT 1",
        "CREATE OR ALTER TASK a AFTER r AS SELECT 1",
        "DROP TASK b",
    ):
        error = graph.refusal(change)
        assert error.errno == 91421
        assert error.message == (
            f"Unable to update graph with root task {PLACE}R since that root task is not suspended."
        )
    graph.sql("ALTER TASK r SUSPEND")
    graph.sql("ALTER TASK a SUSPEND")
    assert graph.shown("a")["state"] == "suspended"
    assert graph.shown("a")["last_suspended_reason"] == "USER_SUSPENDED"
    assert graph.shown("b")["state"] == "started"


def test_a_standalone_task_may_be_replaced_and_dropped_while_it_is_started(lab: Lab) -> None:
    lab.sql("CREATE TASK t SCHEDULE = '60 MINUTE' AS SELECT 1")
    lab.resume("t")
    first = lab.shown("t")["id"]
    lab.sql("CREATE OR REPLACE TASK t SCHEDULE = '60 MINUTE' AS SELECT 2")
    assert lab.shown("t")["id"] != first
    assert lab.shown("t")["state"] == "suspended"
    lab.resume("t")
    assert lab.sql("DROP TASK t") == [("T successfully dropped.",)]
    assert lab.sql("DROP TASK IF EXISTS t") == [
        ("Drop statement executed successfully (T already dropped).",)
    ]
    assert lab.refusal("DROP TASK t").errno == 2003


def test_what_came_after_a_dropped_task_stands_alone_suspended(graph: Lab) -> None:
    graph.resume("a", "b", "c", "f")
    graph.sql("DROP TASK r")
    for name, reason in (("a", "CHILD_BECAME_ROOT"), ("f", "FINALIZER_BECAME_ROOT")):
        shown = graph.shown(name)
        assert (shown["state"], shown["last_suspended_reason"]) == ("suspended", reason)
        assert shown["task_relations"] == '{"Predecessors":[]}'
    assert graph.shown("c")["state"] == "started"


def test_predecessors_are_added_and_removed(graph: Lab) -> None:
    graph.sql("ALTER TASK c REMOVE AFTER a")
    assert json.loads(graph.shown("c")["predecessors"]) == [f"{PLACE}B"]
    refused = graph.refusal("ALTER TASK c REMOVE AFTER a")
    assert refused.message == "Task C does not have predecessor A."
    graph.sql("ALTER TASK c ADD AFTER a, r, a")
    assert json.loads(graph.shown("c")["predecessors"]) == [f"{PLACE}{n}" for n in "BAR"]
    assert "cycle" in graph.refusal("ALTER TASK a ADD AFTER c").message
    assert "has a finalizer" in graph.refusal("ALTER TASK r ADD AFTER c").message
    graph.sql("ALTER TASK c REMOVE AFTER a, b, r")
    assert graph.shown("c")["last_suspended_reason"] == "CHILD_BECAME_ROOT"


def test_properties_are_set_and_unset(lab: Lab) -> None:
    lab.sql("CREATE TASK t SCHEDULE = '5 MINUTES' QUERY_TAG = 'a' AS SELECT 1")
    lab.sql("ALTER TASK t SET SCHEDULE = '6 MINUTES', CONFIG = '{\"k\": 1}' COMMENT = 'c'")
    lab.sql("ALTER TASK t SET TIMEZONE = 'UTC', QUERY_TAG = 'b'")
    lab.sql("ALTER TASK t MODIFY WHEN TRUE")
    shown = lab.shown("t")
    assert (shown["schedule"], shown["config"]) == ("6 MINUTES", '{"k": 1}')
    assert (shown["comment"], shown["condition"]) == ("c", "TRUE")
    lab.sql("ALTER TASK t UNSET SCHEDULE, CONFIG, COMMENT, TIMEZONE")
    lab.sql("ALTER TASK t REMOVE WHEN")
    shown = lab.shown("t")
    assert (shown["schedule"], shown["config"], shown["comment"]) == (None, None, "")
    assert shown["condition"] is None
    assert lab.refusal("ALTER TASK t UNSET NOTHING").message.endswith(
        "invalid property 'NOTHING' for 'TASK'"
    )
    assert lab.sql("ALTER TASK IF EXISTS nope RESUME") == [("Statement executed successfully.",)]


def test_create_if_not_exists_and_or_alter(lab: Lab) -> None:
    lab.sql("CREATE TASK t SCHEDULE = '5 MINUTES' COMMENT = 'c' AS SELECT 1")
    assert lab.refusal("CREATE TASK t AS SELECT 2").errno == 2002
    assert lab.sql("CREATE TASK IF NOT EXISTS t AS SELECT 2") == [
        ("T already exists, statement succeeded.",)
    ]
    identity = lab.shown("t")["id"]
    lab.sql("CREATE OR ALTER TASK t AS SELECT 3")
    shown = lab.shown("t")
    assert (shown["id"], shown["definition"]) == (identity, "SELECT 3")
    assert (shown["schedule"], shown["comment"]) == (None, "")


def test_a_clone_keeps_its_predecessors_and_begins_suspended(graph: Lab) -> None:
    graph.resume("c")
    graph.sql("CREATE TASK c2 CLONE c")
    clone, source = graph.shown("c2"), graph.shown("c")
    assert clone["predecessors"] == source["predecessors"]
    assert clone["state"] == "suspended"
    assert clone["id"] != source["id"]
    assert "COPY GRANTS" in graph.refusal("CREATE TASK c3 CLONE c COPY GRANTS").message


def test_to_run_needs_privileges_of_the_owner(account: Account) -> None:
    admin = Lab(account, "ACCOUNTADMIN")
    admin.sql("CREATE ROLE poor")
    admin.sql("GRANT USAGE ON DATABASE flowdist TO ROLE poor")
    admin.sql("GRANT USAGE, CREATE TASK ON SCHEMA flowdist.public TO ROLE poor")
    poor = Lab(account, "POOR")
    poor.sql("CREATE TASK t AS SELECT 1")
    error = poor.refusal("EXECUTE TASK t")
    assert (error.errno, error.sqlstate) == (91089, "23001")
    assert error.message == (
        "Cannot execute task , EXECUTE TASK privilege must be granted to owner role"
    )
    admin.sql("GRANT EXECUTE TASK ON ACCOUNT TO ROLE poor")
    assert "EXECUTE MANAGED TASK privilege" in poor.refusal("ALTER TASK t RESUME").message
    assert Lab(account).refusal("ALTER TASK t RESUME").errno == 2003
    admin.sql("GRANT EXECUTE MANAGED TASK ON ACCOUNT TO ROLE poor")
    poor.resume("t")
    assert poor.shown("t")["state"] == "started"


def test_a_task_that_changes_hands_alone_loses_its_links(graph: Lab) -> None:
    admin = Lab(graph.account, "ACCOUNTADMIN")
    admin.sql("CREATE ROLE heir")
    graph.resume("a", "b", "c", "f")
    admin.sql("GRANT OWNERSHIP ON TASK flowdist.public.a TO ROLE heir")
    assert json.loads(graph.shown("c")["predecessors"]) == [f"{PLACE}B"]
    assert admin.shown("a")["task_relations"] == '{"Predecessors":[]}'
    assert admin.shown("a")["state"] == "suspended"
    admin.sql("GRANT OWNERSHIP ON ALL TASKS IN SCHEMA flowdist.public TO ROLE heir")
    assert json.loads(admin.shown("c")["predecessors"]) == [f"{PLACE}B"]
    assert "FinalizerTask" in admin.shown("r")["task_relations"]
    assert admin.shown("b")["last_suspended_reason"] == "GRANT_OWNERSHIP"


def test_tasks_survive_a_restart(graph: Lab) -> None:
    graph.resume("a")
    before = graph.sql("SHOW TASKS")
    graph.account.close()
    again = Account(graph.account.directory)
    try:
        assert Lab(again).sql("SHOW TASKS") == before
    finally:
        again.close()
