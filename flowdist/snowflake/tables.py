"""The tables that runs on Snowflake share, and how they are made.

They lie in the schema of the stage. Times are UTC without a zone (``SYSDATE()``), so that no
session's time zone matters.
"""

from __future__ import annotations

from flowdist.snowflake.names import Name

__all__ = ["TASK_STATS", "hybrid_queue_table", "log_queue_table", "task_stats_table"]

TASK_STATS = "FLOWDIST_TASK_STATS"
"""What finalizers of task graphs write: a row for each task of each run of a graph."""


def hybrid_queue_table(table: Name) -> str:
    """A queue as a hybrid table: a row for each ticket, which is a few consecutive chunks."""
    return f"""CREATE HYBRID TABLE IF NOT EXISTS {table.sql} (
  QUEUE_ID VARCHAR NOT NULL PRIMARY KEY,
  JOB_ID VARCHAR NOT NULL,
  POOL VARCHAR NOT NULL,
  CHUNK_ID INTEGER NOT NULL,
  CHUNKS INTEGER NOT NULL,
  STAGE_PATH VARCHAR NOT NULL,
  STATUS VARCHAR NOT NULL DEFAULT 'PENDING',
  PRIORITY INTEGER NOT NULL DEFAULT 0,
  NOT_BEFORE TIMESTAMP_NTZ,
  WORKER_ID VARCHAR,
  TOKEN INTEGER NOT NULL DEFAULT 0,
  LEASE_UNTIL TIMESTAMP_NTZ,
  ATTEMPTS INTEGER NOT NULL DEFAULT 0,
  ERROR_MSG VARCHAR,
  CREATED_AT TIMESTAMP_NTZ NOT NULL,
  CLAIMED_AT TIMESTAMP_NTZ,
  COMPLETED_AT TIMESTAMP_NTZ,
  INDEX BY_JOB (JOB_ID, STATUS, PRIORITY),
  INDEX BY_POOL (POOL, STATUS)
) COMMENT = 'flowdist: chunks that wait, are claimed, are done'"""


def log_queue_table(table: Name) -> str:
    """A queue where there are no hybrid tables: a log of events to which rows are only added."""
    return f"""CREATE TABLE IF NOT EXISTS {table.sql} (
  JOB_ID VARCHAR NOT NULL,
  POOL VARCHAR NOT NULL,
  EVENT VARCHAR NOT NULL,
  TOKEN INTEGER,
  CHUNK_ID INTEGER,
  CHUNKS INTEGER,
  STAGE_PATH VARCHAR,
  PRIORITY INTEGER,
  NOT_BEFORE TIMESTAMP_NTZ,
  WORKER_ID VARCHAR,
  LEASE_UNTIL TIMESTAMP_NTZ,
  ERROR_MSG VARCHAR,
  CREATED_AT TIMESTAMP_NTZ NOT NULL
) COMMENT = 'flowdist: what became of chunks, an event a row'"""


def task_stats_table(table: Name) -> str:
    """Run statistics of tasks."""
    return f"""CREATE TABLE IF NOT EXISTS {table.sql} (
  RUN_ID VARCHAR NOT NULL,
  GRAPH_RUN_GROUP_ID VARCHAR,
  ATTEMPT_NUMBER INTEGER,
  NAME VARCHAR NOT NULL,
  STATE VARCHAR,
  RETURN_VALUE VARCHAR,
  QUERY_START_TIME TIMESTAMP_LTZ,
  COMPLETED_TIME TIMESTAMP_LTZ,
  SECONDS NUMBER(38, 3),
  SPCS_JOB_ID VARCHAR,
  ERROR_MESSAGE VARCHAR
) COMMENT = 'flowdist: a row for each task of each run of a task graph'"""
