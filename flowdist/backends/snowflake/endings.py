"""How the jobs of a launch have ended badly, in one sentence: pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from flowdist.backends.base import JobState

__all__ = ["last_line", "sentence"]

# Ways of ending, and jobs of each, that one sentence names.
MOST_WAYS, MOST_JOBS = 3, 3
LONGEST_LINE = 160
# Ends that say everything themselves.
_ASKED_FOR = (JobState.CANCELLED, JobState.TIMEOUT, JobState.PREEMPTED)


def sentence(
    bad: Mapping[int, JobState], words: Mapping[int, str], lines: Mapping[int, str]
) -> str:
    """Jobs that have ended badly, those that have done so alike together, and the last line of what
    the first of them has printed.

    Args:
        bad: their states.
        words: how they ended, where Snowflake says it.
        lines: the last lines of their logs, where there are any.

    >>> bad = dict.fromkeys((0, 1, 4), JobState.FAILED) | {2: JobState.LOST}
    >>> sentence(bad, {0: "exit code 1", 1: "exit code 1"}, {0: "ImportError: no fits"})
    'jobs 0 and 1: exit code 1; job 2: lost; job 4: failed; the log of job 0 ends with: ImportError:
    no fits'
    """
    alike: dict[str, list[int]] = defaultdict(list)
    for job, state in sorted(bad.items()):
        alike[words.get(job) or state.value].append(job)
    said = [f"{_jobs(jobs)}: {how}" for how, jobs in list(alike.items())[:MOST_WAYS]]
    if len(alike) > MOST_WAYS:
        said.append(f"and {sum(map(len, list(alike.values())[MOST_WAYS:])):,} more")
    grave = (job for job, state in sorted(bad.items()) if state not in _ASKED_FOR)
    first = next((job for job in grave if lines.get(job)), None)
    if first is not None:
        said.append(f"the log of job {first} ends with: {lines[first]}")
    return "; ".join(said)


def last_line(text: str) -> str:
    """The last line of a log that says anything, cut where it is long.

    >>> last_line("Traceback ...\\nValueError: no\\n\\n")
    'ValueError: no'
    """
    line = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 1]}…"


def _jobs(jobs: list[int]) -> str:
    shown = [str(job) for job in jobs[:MOST_JOBS]]
    if len(jobs) > MOST_JOBS:
        shown.append(f"{len(jobs) - MOST_JOBS:,} more")
    head, last = shown[:-1], shown[-1]
    return f"job {last}" if not head else f"jobs {', '.join(head)} and {last}"
