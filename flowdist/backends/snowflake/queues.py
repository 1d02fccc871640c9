"""The queue of `spcs_queue` as the driver has it: where the table is, what kind it is, making it.

How chunks are claimed from it is in `flowdist.workers.claiming`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from flowdist.snowflake.connection import Client, SnowflakeError
from flowdist.snowflake.names import Name, Place
from flowdist.snowflake.tables import hybrid_queue_table, log_queue_table
from flowdist.workers.table_queue import kind_of

if TYPE_CHECKING:
    from flowdist.workers.claiming import TableQueue

__all__ = ["ensure_queue", "queue_kind", "queue_table"]

logger = logging.getLogger("flowdist.snowflake")

# What kind of queue a table is does not change: asked once for each connection and name.
_kinds: WeakKeyDictionary[Client, dict[str, type[TableQueue]]] = WeakKeyDictionary()


def queue_table(queue: str, runs: Place) -> Name:
    """The full name of a queue; it is in the schema of the stage where it does not say."""
    return Name.parse(queue, "queue").within(*runs.stage.parts[:2])


def queue_kind(client: Client, table: Name) -> type[TableQueue]:
    """What kind of queue a table is.

    Raises:
        SnowflakeError: there is none, or this role may not use it.
    """
    known = _kinds.setdefault(client, {})
    if table.sql not in known:
        known[table.sql] = kind_of(client, table)
    return known[table.sql]


def ensure_queue(client: Client, table: Name) -> type[TableQueue]:
    """Make the queue where there is none: as a hybrid table, or where those do not exist as a log
    of events; which of the two it is.
    """
    try:
        return queue_kind(client, table)
    except SnowflakeError as error:
        if not error.missing:
            raise
    try:
        client.run(hybrid_queue_table(table))
    except SnowflakeError as refused:
        if refused.passing:
            raise  # no answer is not a refusal: a log would cost more statements for good
        logger.info("no hybrid table can be made, so the queue is a log: %s", refused)
        try:
            client.run(log_queue_table(table))
        except SnowflakeError:
            raise refused from None
    return queue_kind(client, table)
