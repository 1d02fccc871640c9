"""Snowflake on localhost, for trying and testing without an account.

A server that the unmodified connector talks to: SQL on DuckDB, stages, hybrid tables, compute pools
with job services and services, tasks. docs/emulator.md says what is there and how it differs.

Who looks for something: `server/` is the protocol, `sql/` reads and runs SQL, `statements/` has a
module for each kind of object, `stages/`, `compute/` and `tasks/` are what these statements move.
"""
