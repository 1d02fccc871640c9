"""What containers print, kept in the run's directory.

Snowflake gives the last lines of a container, and those only for a while: what is new is added to
what is here.
"""

from __future__ import annotations

from flowdist.backends.snowflake.remote import Remote, Seen
from flowdist.backends.snowflake.services import service_log
from flowdist.store import JobAttempt

__all__ = ["joined", "keep_log"]

GAP = "[lines are missing here: they went by faster than they were fetched]"


def keep_log(remote: Remote, job: int, seen: Seen) -> str | None:
    """Fetch what a job's container has printed; the name of the file that has it, None where there
    is nothing.
    """
    text = service_log(remote.client, seen.service, seen.instance)
    if not text:
        return None
    name = remote.files.log(JobAttempt(job, remote.attempt))
    path = remote.files.path(name)
    before = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    lines = joined(before, text.splitlines())
    # The last line may not be whole yet, so that it gets its end when the job has.
    end = "\n" if seen.state.ended else ""
    remote.files.store.replace(name, ("\n".join(lines) + end).encode())
    return name


def joined(before: list[str], now: list[str]) -> list[str]:
    """Lines that were there before, and those that are now, which begin somewhere among them.

    >>> joined(["a", "b", "c"], ["b", "c", "d"])
    ['a', 'b', 'c', 'd']
    >>> joined(["a", "b", "hal"], ["b", "half a line"])
    ['a', 'b', 'half a line']
    """
    if not before or not now:
        return before or now
    for stop in range(len(now), 0, -1):
        size = min(stop, len(before))
        same = before[len(before) - size : -1] == now[stop - size : stop - 1]
        if same and now[stop - 1].startswith(before[-1]) and size in (stop, len(before)):
            # Of the last line only the beginning may have been there.
            return [*before[:-1], *now[stop - 1 :]]
    return [*before, GAP, *now]
