"""Task graphs as data: within Snowflake's limits, whole, and in the right order."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from flowdist.backends.base import JobState
from flowdist.backends.snowflake.graph import (
    MOST_JOBS,
    Graph,
    Recipe,
    blocks,
    creations,
    graphs,
    job_of,
    removals,
)
from flowdist.backends.snowflake.history import (
    CANCELLED_SECONDS,
    COMMIT_SECONDS,
    QUIET_SECONDS,
    RETRY_SECONDS,
    GraphHistory,
    history_statement,
)
from flowdist.snowflake.names import Name

MOST_TASKS, MOST_RELATIVES = 1000, 100
SCHEMA = Name.parse("d.s.runs")


def recipe(**changes: Any) -> Recipe:
    """One that makes small bodies."""
    usual = {
        "schema": SCHEMA,
        "warehouse": None,
        "seconds": 7200,
        "retries": 2,
        "schedule": None,
        "config": {"flowdist": {"run": "it's"}},
        "comment": "flowdist r",
        "root": "SELECT 1",
        "run": lambda job: f"SELECT 'job {job}'",
        "finish": "SELECT 2",
    }
    return Recipe(**{**usual, **changes})


def ancestors(graph: Graph, name: str) -> set[str]:
    after = {task.name: task.after for task in graph.tasks}
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for before in after.get(waiting.pop(), ()):
            if before not in found:
                found.add(before)
                waiting.append(before)
    return found


@pytest.mark.parametrize("reduces", [False, True])
@pytest.mark.parametrize("jobs", [0, 1, 99, 100, 101, 900, 901, 1000, 2500])
def test_graphs_keep_within_the_limits_and_run_each_job_once(jobs: int, reduces: bool) -> None:
    made = graphs("FD_R_1_TASKS", range(jobs), reduces=reduces)

    run = [task.job for graph in made for task in graph.tasks if task.job is not None]
    assert run == list(range(jobs))
    assert len(made) == max(1, -(-jobs // MOST_JOBS))
    names = [name for graph in made for name in graph.names]
    assert len(set(names)) == len(names)
    for graph in made:
        assert len(graph.names) <= MOST_TASKS
        children = Counter(before for task in graph.tasks for before in task.after)
        assert max(children.values(), default=0) <= MOST_RELATIVES
        assert max((len(task.after) for task in graph.tasks), default=0) <= MOST_RELATIVES
        known = {graph.root}
        for task in graph.tasks:
            assert set(task.after) <= known, "made after what it comes after"
            assert graph.root in ancestors(graph, task.name), "run with the graph"
            known.add(task.name)


@pytest.mark.parametrize("jobs", [0, 1, 100, 101, 900])
def test_the_reduces_wait_for_every_job_of_the_rows(jobs: int) -> None:
    [graph] = graphs("FD_R_1_TASKS", range(jobs), reduces=True)

    [last] = [task for task in graph.tasks if task.reduces]
    waits_for = {job_of(name) for name in ancestors(graph, last.name)} - {None}
    assert waits_for == set(range(jobs))
    assert graph.tasks[-1] is last


def test_with_several_graphs_no_graph_runs_the_reduces() -> None:
    made = graphs("FD_R_1_TASKS", range(MOST_JOBS + 1), reduces=True)

    assert len(made) == 2
    assert not any(task.reduces for graph in made for task in graph.tasks)


def test_statements_have_every_task_and_what_the_defaults_would_do_wrong() -> None:
    [graph] = graphs("FD_R_1_TASKS", range(101), reduces=True)

    made = list(creations(graph, recipe()))

    assert len(made) == len(graph.names) + 1
    assert made[0] == (
        "CREATE TASK IF NOT EXISTS D.S.FD_R_1_TASKS_0 "
        "USER_TASK_MANAGED_INITIAL_WAREHOUSE_SIZE = 'XSMALL' "
        """CONFIG = '{"flowdist": {"run": "it''s"}}' OVERLAP_POLICY = NO_OVERLAP """
        "USER_TASK_TIMEOUT_MS = 7200000 SUSPEND_TASK_AFTER_NUM_FAILURES = 0 "
        "COMMENT = 'flowdist r' TASK_AUTO_RETRY_ATTEMPTS = 2 AS SELECT 1"
    )
    [first] = [text for text in made if "_JOB_00000 USER" in text]
    assert first.endswith("AFTER D.S.FD_R_1_TASKS_0_OUT_00 AS SELECT 'job 0'")
    assert "STATEMENT_TIMEOUT_IN_SECONDS = 7200" in first
    assert made[-2].endswith("FINALIZE = D.S.FD_R_1_TASKS_0 AS SELECT 2")
    scheduled = next(creations(graph, recipe(schedule="5 MINUTES", warehouse=Name(("W",)))))
    assert "WAREHOUSE = W SCHEDULE = '5 MINUTES'" in scheduled
    assert "SUSPEND_TASK_AFTER_NUM_FAILURES = 10" in scheduled


def test_every_task_is_dropped_and_the_root_last() -> None:
    [graph] = graphs("FD_R_1_TASKS", range(150), reduces=True)

    texts = list(removals(SCHEMA, "FD_R_1_TASKS_", graph.names))

    assert texts[0] == "ALTER TASK IF EXISTS D.S.FD_R_1_TASKS_0 SUSPEND"
    assert texts[-1] == "DROP TASK IF EXISTS D.S.FD_R_1_TASKS_0"
    dropped = {text.rpartition(".")[2] for text in texts[1:]}
    assert dropped == set(graph.names)


def test_few_statements_are_sent_however_many_there_are() -> None:
    statements = [f"DROP TASK T{i}" for i in range(250)]
    long = ["SELECT '" + "x" * 300_000 + "'"] * 3

    assert len(list(blocks(statements))) == 3
    assert [len(block) < 1_000_000 for block in blocks(long)] == [True] * 3
    assert list(blocks([])) == []


def test_the_history_is_asked_for_by_the_id_of_the_root_and_without_its_small_default() -> None:
    sql = history_statement(["id-1", "id-2"], "D", since=1000.0)

    assert sql.count("D.INFORMATION_SCHEMA.TASK_HISTORY(ROOT_TASK_ID => 'id-") == 2
    assert sql.count("RESULT_LIMIT => 10000") == 3
    assert "ROOT_TASK_NAME" not in sql
    assert "WHERE" not in sql
    assert "'9f3c01ab'" in history_statement(["i"], "D", since=0, group="9f3c01ab")


# -- what histories mean ---------------------------------------------------------------------------

ROOT, JOB, REDUCES, END = (f"FD_R_1_TASKS_0{s}" for s in ("", "_JOB_00000", "_REDUCES", "_END"))


def row(name: str, state: str, attempt: int = 1, ago: float = 1, **more: Any) -> dict[str, Any]:
    ended = state not in ("EXECUTING", "SCHEDULED")
    known = {
        "name": name,
        "state": state,
        "attempt_number": attempt,
        "error_code": None,
        "error_message": "it broke" if state == "FAILED" else None,
        "spcs_job_id": None,
        "begun_ago": ago,
        "ended_ago": ago if ended else None,
        "job_name": None,
    }
    return known | more


def states(
    *rows: dict[str, Any], retries: int = 0, cancelled: bool = False
) -> tuple[JobState, JobState]:
    """Of the job of the rows and of the reduce."""
    seen = GraphHistory.of(rows).jobs([0], [1], retries, cancelled=cancelled)
    return seen[0].state, seen[1].state


def test_what_has_no_row_waits_until_the_finalizer_has_ended() -> None:
    done = row(ROOT, "SUCCEEDED"), row(JOB, "SUCCEEDED")

    assert states(row(ROOT, "EXECUTING")) == (JobState.PENDING, JobState.PENDING)
    assert states(*done) == (JobState.DONE, JobState.PENDING)
    failed = row(ROOT, "SUCCEEDED"), row(JOB, "FAILED")
    assert states(*failed) == (JobState.FAILED, JobState.PENDING)
    assert states(*failed, row(END, "EXECUTING")) == (JobState.FAILED, JobState.PENDING)
    assert states(*failed, row(END, "SUCCEEDED")) == (JobState.FAILED, JobState.CANCELLED)
    # A graph whose finalizer does not run is not waited for for ever.
    late = [dict(one, ended_ago=QUIET_SECONDS) for one in failed]
    assert states(*late) == (JobState.FAILED, JobState.CANCELLED)
    soon = [dict(one, ended_ago=CANCELLED_SECONDS) for one in failed]
    assert states(*soon)[1] is JobState.PENDING
    assert states(*soon, cancelled=True)[1] is JobState.CANCELLED


def test_a_failed_task_has_not_ended_while_it_will_be_tried_again() -> None:
    first = row(ROOT, "SUCCEEDED"), row(JOB, "FAILED"), row(END, "SUCCEEDED")

    assert states(*first, retries=1)[0] is JobState.PENDING
    assert states(*first, row(JOB, "EXECUTING", 2), retries=1)[0] is JobState.PENDING
    assert states(*first, row(JOB, "SUCCEEDED", 2), retries=1)[0] is JobState.DONE
    assert states(*first, row(JOB, "FAILED", 2), retries=1)[0] is JobState.FAILED
    # It was cancelled, or the next attempt does not come.
    assert states(*first, retries=1, cancelled=True) == (JobState.FAILED, JobState.CANCELLED)
    late = [dict(one, ended_ago=RETRY_SECONDS) for one in first]
    assert states(*late, retries=1) == (JobState.FAILED, JobState.CANCELLED)


def test_of_two_runs_of_a_task_in_one_attempt_the_one_that_went_well_counts() -> None:
    both = row(JOB, "FAILED"), row(JOB, "SUCCEEDED"), row(END, "SUCCEEDED")

    assert states(*both)[0] is JobState.DONE
    assert states(*reversed(both))[0] is JobState.DONE


def test_a_task_that_runs_is_as_far_as_its_container() -> None:
    waiting = '{"instances": [{"instanceId": "0", "containers": [{"status": "PENDING"}]}]}'
    service = {
        "spcs_job_id": 7,
        "job_database": "D",
        "job_schema": "S",
        "job_name": "JOB_A",
        "job_status": "PENDING",
        "job_message": "",
        "instance_statuses": waiting,
    }

    assert states(row(JOB, "EXECUTING", **service))[0] is JobState.PENDING
    service["instance_statuses"] = waiting.replace("PENDING", "READY")
    assert states(row(JOB, "EXECUTING", **service))[0] is JobState.RUNNING
    # Its task was cancelled, and it writes down what it has.
    assert states(row(JOB, "CANCELLED", **service), cancelled=True)[0] is JobState.RUNNING
    late = row(JOB, "CANCELLED", ago=COMMIT_SECONDS, **service)
    assert states(late, cancelled=True)[0] is JobState.CANCELLED
    # Where the history of jobs does not know of it, or that of tasks not which it is.
    assert states(row(JOB, "EXECUTING", spcs_job_id=7))[0] is JobState.RUNNING
    assert states(row(JOB, "EXECUTING", ago=1))[0] is JobState.PENDING
    assert states(row(JOB, "EXECUTING", ago=500))[0] is JobState.RUNNING


def test_a_failed_container_says_why() -> None:
    killed = {"status": "FAILED", "message": "Failed", "lastExitCode": 137}
    service = {
        "spcs_job_id": 7,
        "job_database": "D",
        "job_schema": "S",
        "job_name": "JOB_A",
        "job_status": "FAILED",
        "job_message": "",
        "instance_statuses": f'{{"instances": [{{"instanceId": "0", "containers": '
        f"[{str(killed).replace(chr(39), chr(34))}]}}]}}",
    }

    seen = GraphHistory.of([row(JOB, "FAILED", **service)]).jobs([0], [], 0, cancelled=False)[0]
    assert (seen.state, seen.exit_code, seen.service) == (JobState.FAILED, 137, "D.S.JOB_A")
    late = row(JOB, "FAILED", **service) | {"error_code": 630, "error_message": "timeout"}
    assert states(late)[0] is JobState.TIMEOUT
