"""The task graphs of Snowflake's documentation, as far as the emulator has what they use."""

from __future__ import annotations

import pytest

from flowdist.emulator.account import Account
from tests.emulator.task_lab import Lab


@pytest.fixture
def lab(account: Account) -> Lab:
    account.start()
    return Lab(account)


def test_a_finalizer_that_corrects_errors_lets_the_retry_succeed(lab: Lab) -> None:
    lab.sql(
        """CREATE OR REPLACE TASK task_a
          SCHEDULE = '1 MINUTE'
          USER_TASK_TIMEOUT_MS = 60000
          TASK_AUTO_RETRY_ATTEMPTS = 2
          SUSPEND_TASK_AFTER_NUM_FAILURES = 3
          CONFIG = '{"environment": "production", "path": "/prod_directory/"}'
          AS
            BEGIN
              CALL SYSTEM$SET_RETURN_VALUE('task a successful');
            END;"""
    )
    lab.sql(
        """CREATE OR REPLACE TASK task_b
          USER_TASK_TIMEOUT_MS = 60000
          AFTER task_a
          AS
            BEGIN
              LET VALUE := (SELECT SYSTEM$TASK_RUNTIME_INFO('current_task_name'));
              INSERT INTO demo_table VALUES('task b name',:VALUE);
            END;"""
    )
    lab.sql(
        """CREATE OR REPLACE TASK task_c
          USER_TASK_TIMEOUT_MS = 60000
          AFTER task_b
          AS
            BEGIN
              CALL SYSTEM$GET_TASK_GRAPH_CONFIG('path');
              LET VALUE := (SELECT SYSTEM$GET_TASK_GRAPH_CONFIG('path'));
              INSERT INTO demo_table VALUES('task c path',:value);
            END;"""
    )
    lab.sql(
        """CREATE OR REPLACE TASK task_d
          USER_TASK_TIMEOUT_MS = 60000
          AFTER task_c
          AS
            BEGIN
              LET VALUE := (SELECT SYSTEM$GET_PREDECESSOR_RETURN_VALUE('TASK_A'));
              INSERT INTO demo_table VALUES('task d: predecessor return value', :value);
            END;"""
    )
    lab.sql(
        """CREATE OR REPLACE TASK task_f
          USER_TASK_TIMEOUT_MS = 60000
          FINALIZE = task_a
          AS
            BEGIN
              CREATE TABLE IF NOT EXISTS demo_table(NAME VARCHAR, VALUE VARCHAR);
            END;"""
    )
    lab.sql("ALTER TASK task_f RESUME")
    lab.sql("SELECT SYSTEM$TASK_DEPENDENTS_ENABLE('task_a')")
    lab.execute("task_a")
    assert lab.sql("SELECT name, value FROM demo_table ORDER BY name") == [
        ("task b name", "TASK_B"),
        ("task c path", "/prod_directory/"),
        ("task d: predecessor return value", "task a successful"),
    ]
    found = lab.sql(
        """SELECT name, state, attempt_number, scheduled_from
          FROM TABLE(INFORMATION_SCHEMA.TASK_HISTORY(task_name => 'task_b'))
          WHERE query_id IS NOT NULL ORDER BY attempt_number"""
    )
    assert found == [
        ("TASK_B", "FAILED", 1, "EXECUTE_TASK"),
        ("TASK_B", "SUCCEEDED", 2, "AUTOMATIC RETRY"),
    ]


def test_three_tasks_fan_out_and_one_fans_in(lab: Lab) -> None:
    lab.sql("CREATE TABLE updates (what VARCHAR, value VARCHAR)")
    lab.sql(
        """CREATE OR REPLACE TASK task_a
          SCHEDULE = '1 MINUTE'
          USER_TASK_TIMEOUT_MS = 60000
          AS
            BEGIN
              CALL SYSTEM$SET_RETURN_VALUE('task_a successful');
            END;"""
    )
    for table in ("customer", "product", "date_time"):
        lab.sql(
            f"""CREATE OR REPLACE TASK task_{table}_table
              USER_TASK_TIMEOUT_MS = 60000
              AFTER task_a
              AS
                BEGIN
                  LET VALUE := (SELECT SYSTEM$TASK_RUNTIME_INFO(
                    'CURRENT_TASK_GRAPH_ORIGINAL_SCHEDULED_TIMESTAMP')::timestamp_ltz);
                  INSERT INTO updates SELECT '{table}', :value::VARCHAR;
                END;"""
        )
    lab.sql(
        """CREATE OR REPLACE TASK task_sales_table
          AFTER task_customer_table, task_product_table, task_date_time_table
          AS INSERT INTO updates SELECT 'sales', COUNT(*)::VARCHAR FROM updates"""
    )
    lab.sql("SELECT SYSTEM$TASK_DEPENDENTS_ENABLE('flowdist.public.task_a')")
    lab.execute("task_a")
    assert {row["ERROR_MESSAGE"] for row in lab.history()} == {None}
    assert lab.sql("SELECT value FROM updates WHERE what = 'sales'") == [("3",)]
    assert lab.sql("SELECT COUNT(DISTINCT value) FROM updates WHERE what != 'sales'") == [(1,)]


def test_a_return_value_is_inserted_by_the_child(lab: Lab) -> None:
    text = "The quick brown fox jumps over the lazy dog"
    lab.sql("CREATE OR REPLACE TABLE return_values_table (str VARCHAR, task VARCHAR)")
    lab.sql(
        f"""CREATE TASK set_return_value_task
          WAREHOUSE = flowdist_wh
          SCHEDULE = '1 MINUTE'
          AS CALL SYSTEM$SET_RETURN_VALUE('{text}')"""
    )
    lab.sql(
        """CREATE TASK get_return_value_task
          WAREHOUSE = flowdist_wh
          AFTER set_return_value_task
          AS INSERT INTO return_values_table VALUES(
            SYSTEM$GET_PREDECESSOR_RETURN_VALUE(), SYSTEM$CURRENT_USER_TASK_NAME())"""
    )
    lab.resume("get_return_value_task")
    lab.execute("set_return_value_task")
    assert lab.sql("SELECT * FROM return_values_table") == [
        (text, "FLOWDIST.PUBLIC.GET_RETURN_VALUE_TASK")
    ]
    assert lab.sql(
        "SELECT DISTINCT(RETURN_VALUE) FROM TABLE(information_schema.task_history()) "
        "WHERE RETURN_VALUE IS NOT NULL"
    ) == [(text,)]


def test_histories_are_tables_of_sql(lab: Lab) -> None:
    lab.sql("CREATE TASK mytask SCHEDULE = 'USING CRON 7 3 * * SUN UTC' AS SELECT 1")
    lab.execute("mytask")
    lab.sql("DESC TASK mytask")
    lab.sql("""SET task_id = (SELECT "id" FROM TABLE(RESULT_SCAN(LAST_QUERY_ID())))""")
    assert lab.sql(
        "SELECT name, state FROM "
        "TABLE(FLOWDIST.INFORMATION_SCHEMA.TASK_HISTORY(ROOT_TASK_ID => $task_id))"
    ) == [("MYTASK", "SUCCEEDED")]
    assert lab.sql(
        """SELECT name FROM TABLE(INFORMATION_SCHEMA.TASK_HISTORY(
          SCHEDULED_TIME_RANGE_START => DATEADD('hour', -1, current_timestamp()),
          SCHEDULED_TIME_RANGE_END => current_timestamp(),
          RESULT_LIMIT => 10, TASK_NAME => 'mytask'))"""
    ) == [("MYTASK",)]
    assert lab.sql(
        "select state from table(information_schema.complete_task_graphs("
        "result_limit => 10, root_task_name => 'MYTASK'))"
    ) == [("SUCCEEDED",)]
    lab.resume("mytask")
    assert lab.sql(
        "select root_task_name, state from table(information_schema.current_task_graphs())"
    ) == [("MYTASK", "SCHEDULED")]
    assert lab.sql(
        "select name from table(information_schema.task_dependents('mytask', recursive => true))"
    ) == [("MYTASK",)]
    admin = Lab(lab.account, "ACCOUNTADMIN")
    assert admin.sql(
        "SELECT name, state, completed_time IS NOT NULL FROM snowflake.account_usage.task_history"
    ) == [("MYTASK", "SUCCEEDED", True)]
