"""SLURM's words: its states as ours, its reasons in plain English, its lists of jobs as records.

Pure: who calls `sacct` and `squeue` is `flowdist.backends.slurm.client`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from math import inf

from flowdist.backends.base import JobState
from flowdist.backends.slurm.cluster import Limits

# What `sacct` and `squeue` are asked for, in the order in which the lines are read.
ACCOUNTING_FIELDS = (
    "JobID", "State", "ExitCode", "NodeList", "Reason", "Start", "End", "ReqMem", "MaxRSS",
)  # fmt: skip
QUEUE_FORMAT = "%i|%T|%N|%S|%e|%r"


@dataclass(frozen=True, slots=True)
class Record:
    """What SLURM says of one task, or of the tasks of an array that are still together.

    Attributes:
        array: the id of the array, or of a job that is none.
        task: the index; None for all tasks of the array that have no record of their own, and for
            jobs that are no arrays.
        state: SLURM's word, as "PENDING" or "OUT_OF_MEMORY".
        reason: why it waits or ended, SLURM's code; "" where there is none.
        nodes: where it runs or ran, as "n[1-2]"; "" where nowhere yet.
        exit_code, signal: what it ended with, 0 unless it did.
        started, ended: seconds since the epoch; None where SLURM knows of no such time. Of a task
            that waits or runs they are, if anything, what SLURM expects.
    """

    array: int
    task: int | None
    state: str
    reason: str = ""
    nodes: str = ""
    exit_code: int = 0
    signal: int = 0
    started: float | None = None
    ended: float | None = None

    @property
    def name(self) -> str:
        """As SLURM's commands take it: "123_4", or "123"."""
        return f"{self.array}" if self.task is None else f"{self.array}_{self.task}"

    @property
    def refused(self) -> bool:
        """Whether it is what remains of a job that SLURM did not take.

        Its id went to nobody: sbatch reported an error.
        """
        return self.state == "FAILED" and not self.nodes


_STATES = {
    JobState.PENDING: "PENDING CONFIGURING REQUEUED REQUEUE_FED REQUEUE_HOLD RESV_DEL_HOLD "
    "SPECIAL_EXIT POWER_UP_NODE EXPEDITING",
    JobState.RUNNING: "RUNNING COMPLETING SUSPENDED STOPPED SIGNALING RESIZING STAGE_OUT UPDATE_DB",
    JobState.DONE: "COMPLETED",
    JobState.FAILED: "FAILED RECONFIG_FAIL",
    JobState.TIMEOUT: "TIMEOUT DEADLINE",
    JobState.OUT_OF_MEMORY: "OUT_OF_MEMORY",
    JobState.PREEMPTED: "PREEMPTED",
    JobState.NODE_FAIL: "NODE_FAIL BOOT_FAIL LAUNCH_FAILED",
    JobState.CANCELLED: "CANCELLED REVOKED",
}
_OURS = {word: state for state, words in _STATES.items() for word in words.split()}
_ENDED = {word for word, state in _OURS.items() if state.ended}


def job_state(record: Record) -> JobState:
    """SLURM's state as ours; `UNKNOWN` for a word that is not known.

    A task that is being ended runs until it has ended; one that SLURM put back into the queue is
    pending again.

    >>> job_state(Record(7, 0, "COMPLETING")), job_state(Record(7, 0, "DEADLINE"))
    (<JobState.RUNNING: 'running'>, <JobState.TIMEOUT: 'timeout'>)
    """
    return _OURS.get(record.state, JobState.UNKNOWN)


# Lists of jobs ------------------------------------------------------------------------------------

_ID = re.compile(r"(\d+)(?:_(?:(\d+)|\[([^\]]*)\]?))?(?:\+\d+)?(?:\.(.+))?")


def parse_accounting(text: str) -> list[Record]:
    """Records from `sacct -P -n` with the fields `ACCOUNTING_FIELDS`.

    Where a task failed and one of its steps ran out of memory, that is the task's state: SLURM may
    say so for the step alone, or only by what the step used when it was killed. A task that has a
    state of the end but no time of it is still completing: the rest is not written down yet. The
    later lines of a job (its other components, or an earlier start) are not looked at.

    >>> lines = "7_0|FAILED|0:125|n1|None|5|9|1G|\\n7_0.batch|OUT_OF_MEMORY|0:125|n1||5|9||"
    >>> [(record.name, record.state) for record in parse_accounting(lines)]
    [('7_0', 'OUT_OF_MEMORY')]
    """
    found = _Found()
    asked: dict[str, str] = {}
    for line in text.split("\n"):
        cells = line.split("|")
        if len(cells) != len(ACCOUNTING_FIELDS):
            continue
        name, state, code, nodes, reason, start, end, memory, used = cells
        state = state.partition(" ")[0].rstrip("+")
        exit_code, _, signal = code.partition(":")
        place, dot, step = name.partition(".")
        if "[" in name:  # no step: SLURM cut the list of tasks short
            place = name
        elif dot:
            over = signal == "9" and size(used) > (size(asked.get(place, "")) or inf)
            if step != "extern" and (state == "OUT_OF_MEMORY" or over):
                found.out_of_memory(place)
            continue
        asked[place] = memory
        began, ended = _time(start), _time(end)
        if began is not None and ended is None and state in _ENDED:
            state = "COMPLETING"
        found.add(
            place,
            state,
            _reason(reason),
            _nodes(nodes),
            int(exit_code) if exit_code.isdigit() else 0,
            int(signal) if signal.isdigit() else 0,
            began,
            ended,
        )
    return found.records()


def size(text: str) -> float:
    """Memory as SLURM writes it, in bytes; 0 where it says none, or so much for each CPU.

    >>> size("300M"), size("422996K"), size("4Gn"), size("2Gc"), size("")
    (314572800.0, 433147904.0, 4294967296.0, 0, 0)
    """
    match = re.fullmatch(r"([0-9.]+)([KMGTP]?)n?", text)
    return float(match[1]) * 1024 ** " KMGTP".index(match[2] or " ") if match else 0


def parse_queue(text: str) -> list[Record]:
    """Records from `squeue -h` with the format `QUEUE_FORMAT`.

    >>> parse_queue("7_[3-9%2]|PENDING||N/A|N/A|JobArrayTaskLimit")[0].reason
    'JobArrayTaskLimit'
    """
    found = _Found()
    for line in text.split("\n"):
        cells = line.split("|", 5)
        if len(cells) == 6:
            place, state, nodes, start, end, reason = cells
            word = state.partition(" ")[0]
            found.add(place, word, _reason(reason), _nodes(nodes), 0, 0, _time(start), _time(end))
    return found.records()


class _Found:
    """The records of a list of jobs, one for each task."""

    def __init__(self) -> None:
        self._tasks: dict[str, Record] = {}
        self._together: dict[int, list[tuple[str, Record]]] = {}
        self._no_memory: list[str] = []

    def out_of_memory(self, place: str) -> None:
        self._no_memory.append(place)

    def add(
        self,
        place: str,
        state: str,
        reason: str,
        nodes: str,
        code: int,
        signal: int,
        start: float | None,
        end: float | None,
    ) -> None:
        match = _ID.fullmatch(place)
        if match is None:
            return
        array, task, ranges, _ = match.groups()
        index = None if task is None else int(task)
        record = Record(int(array), index, state, reason, nodes, code, signal, start, end)
        if ranges is not None:
            self._together.setdefault(record.array, []).append((ranges, record))
        else:
            self._tasks.setdefault(place.partition("+")[0], record)

    def records(self) -> list[Record]:
        for place in self._no_memory:
            record = self._tasks.get(place)
            if record is not None and record.state == "FAILED":
                self._tasks[place] = replace(record, state="OUT_OF_MEMORY")
        for array, lines in self._together.items():
            self._stand_in(array, lines)
        return list(self._tasks.values())

    def _stand_in(self, array: int, lines: list[tuple[str, Record]]) -> None:
        # A list that SLURM has cut short stands for whatever has no line of its own.
        if len(lines) == 1 and "..." in lines[0][0]:
            self._tasks.setdefault(str(array), lines[0][1])
            return
        for ranges, record in lines:
            for task in _indices(ranges):
                self._tasks.setdefault(f"{array}_{task}", replace(record, task=task))


def _indices(ranges: str) -> Iterable[int]:
    """The tasks of `"0-4:2,7%3"`; what SLURM cut short ("...") names no task."""
    for part in ranges.partition("%")[0].split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if match is not None:
            first, last, step = match.groups()
            yield from range(int(first), int(last or first) + 1, int(step or 1))


def _reason(text: str) -> str:
    return "" if text in ("None", "(null)", "N/A") else text


def _nodes(text: str) -> str:
    return "" if text in ("None assigned", "(null)", "n/a") else text


def _time(text: str) -> float | None:
    """A time as SLURM writes it, asked to write seconds since the epoch or not."""
    if text.isdigit():
        return float(text) or None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:  # N/A, Unknown, None
        return None


# Reasons ------------------------------------------------------------------------------------------

_REASONS = {
    "Priority": "jobs with a higher priority are ahead of it in the queue",
    "Resources": "it is next in the queue and waits for nodes to become free",
    "JobArrayTaskLimit": "as many tasks of the array run as its own limit (jobs_at_once) allows",
    "Dependency": "it waits for the jobs that it depends on",
    "DependencyNeverSatisfied": "a job that it depends on ended in a way that rules it out",
    "BeginTime": "its start time has not come (also for a while after it was requeued)",
    "JobHeldUser": "it is held by its owner: `scontrol release` lets it go on",
    "JobHeldAdmin": "it is held by an administrator, who alone can let it go on",
    "JobHoldMaxRequeue": "it was requeued too often and is held: `scontrol release` lets it go on",
    "JobRequeue": "it was put back into the queue",
    "launch_failed_requeued_held": "it could not be started on its node and is held: "
    "`scontrol release` lets it go on",
    "reservation_deleted": "the reservation it asked for was deleted",
    "ReservationDeleted": "the reservation it asked for was deleted",
    "Reservation": "its reservation has not begun",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved (often for maintenance: "
    "a shorter time limit may let it start before)",
    "NodeDown": "a node that it needs is down",
    "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions":
    "the nodes it could use are down, drained, or reserved for jobs of partitions with a higher "
    "priority",
    "BadConstraints": "no node has what it asks for: its constraints can never be met",
    "PartitionDown": "its partition is down: jobs wait until an administrator brings it up",
    "PartitionInactive": "its partition takes no jobs now",
    "PartitionNodeLimit": "it asks for more (or fewer) nodes than its partition allows, or "
    "than are up",
    "PartitionTimeLimit": "its time limit is longer than its partition allows",
    "PartitionConfig": "it asks for what its partition cannot give",
    "AccountNotAllowed": "its account may not use this partition",
    "AccountingPolicy": "a limit of accounting holds it back",
    "InvalidAccount": "its account does not exist or is not yours",
    "InvalidQOS": "its QOS does not exist or is not yours",
    "QOSNotAllowed": "its QOS may not be used in this partition or with this account",
    "QOSUsageThreshold": "the usage of your account is above the threshold of its QOS",
    "QOSJobLimit": "its QOS has reached its number of jobs",
    "QOSResourceLimit": "its QOS has reached one of its limits",
    "QOSTimeLimit": "its QOS has reached its limit of time",
    "AssociationJobLimit": "your account has reached its number of jobs",
    "AssociationResourceLimit": "your account has reached one of its limits",
    "AssociationTimeLimit": "your account has reached its limit of time",
    "QOSMaxWallDurationPerJobLimit": "its time limit is longer than its QOS allows one job",
    "AssocMaxWallDurationPerJobLimit": "its time limit is longer than your account allows one job",
    "QOSMaxJobsPerUserLimit": "you may run only so many jobs at once under this QOS",
    "QOSMaxSubmitJobPerUserLimit": "you may have only so many jobs queued or running under this "
    "QOS",
    "AssocMaxJobsLimit": "you may run only so many jobs at once with this account",
    "AssocMaxSubmitJobLimit": "you may have only so many jobs queued or running with this account",
    "QOSGrpJobsLimit": "all users of this QOS together run as many jobs as it allows",
    "QOSGrpSubmitJobsLimit": "all users of this QOS together have as many jobs queued or running "
    "as it allows",
    "AssocGrpJobsLimit": "the account runs as many jobs as all its users together may",
    "AssocGrpSubmitJobsLimit": "the account has as many jobs queued or running as all its users "
    "together may",
    "MaxJobsPerAccount": "the account runs as many jobs as this QOS allows one account",
    "MaxSubmitJobsPerAccount": "the account has as many jobs queued or running as this QOS allows "
    "one account",
    "MaxMemPerLimit": "it asks for more memory per node or CPU than the cluster allows",
    "Licenses": "it waits for a licence that others use",
    "BurstBufferResources": "it waits for room in the burst buffer",
    "BurstBufferStageIn": "its data is being copied to the burst buffer",
    "BurstBufferOperation": "the burst buffer could not do what the job asked for",
    "PowerNotAvail": "there is not enough power for it now",
    "PowerReserved": "the power it needs is reserved for other jobs",
    "FrontEndDown": "the machine that would start it is down",
    "Cleaning": "its earlier start is still being cleaned up",
    "Prolog": "its node is being prepared",
    "SchedDefer": "the cluster starts jobs a little later, many at a time",
    "FedJobLock": "another cluster of the federation is looking after it",
    "DeadLine": "it could not end before its deadline",
    "InactiveLimit": "it did nothing for longer than the cluster allows",
    "JobLaunchFailure": "it could not be started on its node (a prolog that failed, a missing "
    "directory, a full disk)",
    "NonZeroExitCode": "its script ended with an error",
    "NodeFailure": "its node failed",
    "OutOfMemory": "it used more memory than it asked for",
    "SystemFailure": "it was ended by a failure of SLURM, the file system or the network",
    "TimeLimit": "it ran to its time limit",
    "RaisedSignal": "it was ended by a signal",
    "MaxTasksPerNode": "it asks for more tasks on a node than the cluster allows",
}  # fmt: skip

# Most other codes are put together: who is bound, how, and in what.
_BOUND = re.compile(
    r"(QOS|Assoc)?(Grp|Max|Min)([A-Z][A-Za-z]*?)(Run)?(Minutes)?"
    r"(PerJob|PerNode|PerUser|PerAccount)?(NotSatisfied)?(?:Limit)?"
)
_WHO = {"QOS": "this QOS", "Assoc": "your account", None: "the cluster"}
_WHAT = {
    "CPU": "CPUs", "CPUs": "CPUs", "Cpu": "CPUs", "Mem": "memory", "Memory": "memory",
    "Node": "nodes", "GRES": "GPUs or other generic resources", "Wall": "time",
    "WallDuration": "time", "License": "licences", "Billing": "billing units", "Energy": "energy",
    "BB": "burst buffer", "Jobs": "jobs", "SubmitJobs": "queued jobs", "Unknown": "a resource",
}  # fmt: skip
_EACH = {"PerJob": "one job", "PerNode": "one node of a job", "PerUser": "one user",
         "PerAccount": "one account"}  # fmt: skip


def plain_reason(reason: str) -> str:
    """Why a job waits or ended, in words; the code itself where SLURM has a new one, "" for none.

    >>> plain_reason("QOSMaxJobsPerUserLimit")
    'you may run only so many jobs at once under this QOS'
    >>> plain_reason("QOSMaxGRESPerUser")
    'this QOS lets one user have only so much of GPUs or other generic resources'
    >>> plain_reason("ReqNodeNotAvail, UnavailableNodes:n[1-2]")
    'nodes that it needs are down, drained or reserved ...; not available: n[1-2]'
    """
    code, detail = _split(reason)
    if code in ("", "None"):
        return ""
    text = _REASONS.get(code) or _bound(code) or f"SLURM says '{code}'"
    return f"{text}; not available: {detail}" if detail else text


def _split(reason: str) -> tuple[str, str]:
    """The code, and the nodes that some reasons name after it."""
    code, comma, rest = reason.strip().strip("()").partition(",")
    _, colon, nodes = rest.partition("UnavailableNodes:")
    if comma and not colon:  # the one code that is a sentence has commas itself
        return reason.strip().strip("()").replace(" ", "_"), ""
    return code.replace(" ", "_"), nodes.strip()


def _bound(code: str) -> str:
    match = _BOUND.fullmatch(code)
    if match is None or match[3] not in _WHAT:
        return ""
    who, kind, what, running, minutes, each, _ = match.groups()
    thing = f"{_WHAT[what]} x minutes" if minutes else _WHAT[what]
    if kind == "Min":
        return f"{_WHO[who]} takes only jobs that ask for more of {thing}"
    if kind == "Grp":
        whole = "its running jobs" if running else "all its jobs together"
        return f"{_WHO[who]} lets {whole} have only so much of {thing}, and that is used up"
    return f"{_WHO[who]} lets {_EACH.get(each, 'one user')} have only so much of {thing}"


_COUNTED = {
    "QOSMaxJobsPerUserLimit": "you may run {limit} jobs at once under this QOS",
    "AssocMaxJobsLimit": "you may run {limit} jobs at once with this account",
    "QOSGrpJobsLimit": "all users of this QOS together may run {limit} jobs at once",
    "AssocGrpJobsLimit": "all users of the account together may run {limit} jobs at once",
    "MaxJobsPerAccount": "the account may run {limit} jobs at once under this QOS",
    "QOSMaxSubmitJobPerUserLimit": "you may have {limit} jobs queued or running under this QOS",
    "AssocMaxSubmitJobLimit": "you may have {limit} jobs queued or running with this account",
    "QOSGrpSubmitJobsLimit": "all users of this QOS together may have {limit} jobs queued or "
    "running",
    "AssocGrpSubmitJobsLimit": "all users of the account together may have {limit} jobs queued or "
    "running",
    "MaxSubmitJobsPerAccount": "the account may have {limit} jobs queued or running under this QOS",
}
_DESPAIR = {
    "AccountNotAllowed", "BadConstraints", "BurstBufferOperation", "DependencyNeverSatisfied",
    "InvalidAccount", "InvalidQOS", "JobHeldAdmin", "JobHeldUser", "JobHoldMaxRequeue",
    "MaxMemPerLimit", "MaxTasksPerNode", "PartitionConfig", "PartitionNodeLimit",
    "PartitionTimeLimit", "QOSNotAllowed", "ReservationDeleted", "launch_failed_requeued_held",
    "reservation_deleted",
}  # fmt: skip


def explain_reason(
    reason: str,
    *,
    limits: Limits | None = None,
    at_once: int | None = None,
    running: int | None = None,
) -> str:
    """`plain_reason` with SLURM's code, and with numbers where they are known.

    Args:
        reason: SLURM's code.
        limits: what the cluster allows.
        at_once: how many tasks of the array may run at once.
        running: how many of the jobs in question run.

    >>> limits = Limits(running={"QOSMaxJobsPerUserLimit": 50})
    >>> explain_reason("QOSMaxJobsPerUserLimit", limits=limits, running=50)
    'you may run 50 jobs at once under this QOS (QOSMaxJobsPerUserLimit); 50 are running'
    >>> explain_reason("JobArrayTaskLimit", at_once=4, running=4)
    '4 tasks of the array may run at once (JobArrayTaskLimit: jobs_at_once); 4 are running'
    """
    code, _ = _split(reason)
    count = "" if running is None else f"; {running} {'is' if running == 1 else 'are'} running"
    if code == "JobArrayTaskLimit" and at_once is not None:
        one = "task of the array may run" if at_once == 1 else "tasks of the array may run"
        return f"{at_once} {one} at once (JobArrayTaskLimit: jobs_at_once){count}"
    limit = limits.of(code) if limits is not None else None
    if code in _COUNTED and limit is not None:
        return f"{_COUNTED[code].format(limit=limit)} ({code}){count}"
    text = plain_reason(reason)
    if not text or code in text:
        return text
    return f"{text} ({code}){count if code in _COUNTED else ''}"


def never_starts(reason: str) -> bool:
    """Whether a job that waits for this reason waits for ever unless somebody does something.

    >>> never_starts("PartitionTimeLimit"), never_starts("Priority")
    (True, False)
    """
    code, _ = _split(reason)
    per_job = "PerJob" in code or "PerNode" in code or code.startswith("QOSMin")
    return code in _DESPAIR or per_job
