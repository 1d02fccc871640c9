"""What EXECUTE JOB SERVICE answers, also to a client whose server has ended meanwhile.

A job goes on without the server. Its client, left without an answer, asks the next server: it sends
the same request again, or asks for the result by the id of the query. So a job remembers the
statement that has started it, and the next server takes the statement up as if it ran there.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from flowdist.emulator.compute.records import Service
from flowdist.emulator.errors import SqlError
from flowdist.emulator.queries import Query
from flowdist.emulator.result import Result, message

if TYPE_CHECKING:
    from flowdist.emulator.account import Account

__all__ = ["answer", "asked", "take_up"]

ASKED_AGAIN = 600.0
"""How long after the answer, in seconds, a client that did not get it may ask again."""


def answer(account: Account, service: Service, query: Query, timeout: float) -> Result:
    """The answer to the statement that has started a job; of a synchronous one, when it has ended.
    SqlError where it does not end well, or not within `timeout` seconds.
    """
    if service.asynchronous:
        return message(f"Started Snowpark Container Services Job '{service.name}'.")
    account.compute.finish(service, query, timeout)
    return message(f"Job {service.name} completed successfully with status: DONE.")


def asked(query: Query, timeout: float) -> dict[str, Any] | None:
    """What a job remembers of a statement; None where no client can ask for it again, as for one
    in the body of a task.
    """
    if not query.request_id:
        return None
    return {"query": query.described(), "timeout": timeout}


def take_up(account: Account) -> None:
    """Go on with the statements of a former server that clients may still ask for."""
    now = account.clock.time()
    with account.compute.store.lock:
        services = list(account.compute.store.services.values())
    for service in services:
        since = service.created if service.asynchronous else service.completed
        late = since is not None and now - since > ASKED_AGAIN
        if service.asked is None or service.dropped is not None or late:
            continue
        query = Query(**service.asked["query"])
        account.queries.begin(query)
        left = service.asked["timeout"] - (now - query.started)
        if service.asynchronous or service.over:
            _end(account, service, query, left)
        else:
            args = (account, service, query, left)
            threading.Thread(target=_end, args=args, name="answer", daemon=True).start()


def _end(account: Account, service: Service, query: Query, timeout: float) -> None:
    ran = not service.over
    try:
        account.queries.finish(query, answer(account, service, query, timeout), None)
    except SqlError as error:
        account.queries.finish(query, None, error)
    session = account.sessions.get(query.session_id)
    if session is not None and ran:  # else the former server has noted it
        session.query_ids.append(query.id)
        account.history.note(query, session)
