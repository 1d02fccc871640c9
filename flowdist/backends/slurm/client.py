"""The one place that calls SLURM's commands.

Each call has a time limit, and what a command says when it fails is in the error. What the answers
mean is in `states.py` and `cluster.py`; what to do about them is the backend's.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property, partial
from typing import TypeVar

from flowdist.backends.slurm import cluster, states
from flowdist.backends.slurm.cluster import Limits, Partition
from flowdist.backends.slurm.states import Record
from flowdist.clock import Clock, SystemClock
from flowdist.errors import BackendError
from flowdist.settings import host, user

T = TypeVar("T")

# For so long a command that fails for a passing reason is tried again: a controller that restarts
# is back within a minute, and whoever submits should hear in the end.
PATIENCE_SECONDS = 120.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
# The clocks of the submitting machine and of SLURM may differ by so much.
SKEW_SECONDS = 600.0

# What SLURM says when the same command may work a little later. All else is taken as final.
_PASSING = re.compile(
    r"timed out|unable to contact slurm|connection (?:refused|reset|timed out)|broken pipe"
    r"|temporarily un|try again|zero bytes were transmitted|transport endpoint|standby mode"
    r"|unexpected message received|rate limit|not responding|munge (?:en|de)code failed"
    r"|protocol authentication error|connect failure|receive failure|send failure"
    r"|problem talking to the database|failed to open persistent connection|no route to host"
    r"|error writing script|incomplete header|header lengths",
    re.IGNORECASE,
)
_GONE = re.compile(r"invalid job id|already completing or completed", re.IGNORECASE)
_WAITING = re.compile(r"job is pending execution", re.IGNORECASE)
_OFF = re.compile(r"accounting storage is disabled|accounting_storage/none", re.IGNORECASE)


class SlurmError(BackendError):
    """A command of SLURM failed or did not answer.

    Attributes:
        command: which.
        words: what SLURM said; "" where it said nothing in time.
        passing: whether the same command may work a little later.
    """

    def __init__(self, command: str, words: str, message: str, *, passing: bool) -> None:
        super().__init__(message)
        self.command, self.words, self.passing = command, words, passing


class SlurmClient:
    """Calls SLURM's commands, and reads what they answer.

    Every method raises `BackendError` where a command fails, with SLURM's own words, or where it
    does not answer in time: no answer is never taken for "no jobs".

    Args:
        clock: time and sleep between tries.
        timeout: seconds that one command may take.
        seed: of the jitter between tries.
    """

    def __init__(
        self, clock: Clock | None = None, timeout: float = 30.0, seed: int | None = None
    ) -> None:
        self._clock = clock or SystemClock()
        self._timeout = timeout
        self._random = random.Random(seed)

    # Jobs

    def submit(self, script: str, *, name: str, known: Collection[int] = ()) -> int:
        """The id of the job or array that `script` became.

        Refused for a passing reason, `sbatch` is called again, for `PATIENCE_SECONDS` in all. It
        may have worked all the same, so before every further try SLURM is asked for jobs called
        `name` beside those of the ids in `known`: if there is one, it is the answer.
        """
        began = self._clock.time()
        pauses = self._pauses()
        tries = 0
        while True:
            tries += 1
            try:
                job = self._sbatch(script)
            except SlurmError as error:
                if not error.passing:
                    raise
                taken = self._taken(name, known, began, pauses, error, tries)
                if taken is not None:
                    return taken
            else:
                return job if tries == 1 else self._only(job, name, known)

    def _sbatch(self, script: str) -> int:
        answer = self._run("sbatch", "--parsable", script=script)
        # After warnings, on a line of its own: the id, and the cluster where there are several.
        match = re.search(r"^(\d+)(?:;\S+)?\s*$", answer, re.MULTILINE)
        if match is None:
            raise SlurmError(
                "sbatch", answer, f"sbatch answered without a job id: '{answer}'", passing=True
            )
        return int(match[1])

    def _taken(
        self,
        name: str,
        known: Collection[int],
        since: float,
        pauses: _Pauses,
        error: SlurmError,
        tries: int,
    ) -> int | None:
        """The job that a call of `sbatch` has made although it failed, None where it made none.

        SLURM must have answered before anything is submitted again.
        """
        while pauses.take():
            with suppress(SlurmError):
                jobs = self._queued(name) - set(known)
                if not jobs:  # it may have ended already, and left the queue
                    with suppress(SlurmError):
                        jobs = self._accounted(name, since) - set(known)
                return self._keep_first(jobs) if jobs else None
        raise SlurmError(
            "sbatch",
            error.words,
            f"{error} (tried {tries} time{'s' * (tries > 1)} in {PATIENCE_SECONDS:.0f} s). Should "
            f"SLURM have taken it all the same, it is called '{name}': `squeue --name={name}`",
            passing=True,
        ) from error

    def _only(self, job: int, name: str, known: Collection[int]) -> int:
        """Of `job` and what earlier tries may have made, the first; the others are cancelled."""
        jobs: set[int] = set()
        with suppress(SlurmError):
            jobs = self._queued(name) - set(known)
        return self._keep_first(jobs | {job})

    def _keep_first(self, jobs: set[int]) -> int:
        first, *others = sorted(jobs)
        if others:
            self.cancel(others)
        return first

    def test_only(self, script: str) -> str:
        """What SLURM says to `script` without taking it: when and where it would start."""
        return self._run("sbatch", "--test-only", script=script)

    def accounting(self, name: str, since: float) -> list[Record]:
        """The jobs called `name` that were submitted after `since` (Unix time), from accounting.

        One command, whatever the number of tasks.
        """
        return states.parse_accounting(self._sacct(name, since, states.ACCOUNTING_FIELDS))

    def usage(self, name: str, since: float, fields: Sequence[str]) -> list[dict[str, str]]:
        """Any fields that `sacct` knows: a dictionary for each start of a job and each step of it.

        A job that was started again has several, in order.
        """
        text = self._sacct(name, since, fields, "--duplicates")
        lines = (line.split("|") for line in text.splitlines())
        return [dict(zip(fields, line, strict=True)) for line in lines if len(line) == len(fields)]

    def _sacct(self, name: str, since: float, fields: Sequence[str], *options: str) -> str:
        start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since - SKEW_SECONDS))
        return self._run(
            "sacct",
            "-P",
            "-n",
            "--noconvert",
            *options,
            f"--name={name}",
            f"--starttime={start}",
            f"--format={','.join(fields)}",
            *options,
        )

    def queue(self, name: str) -> list[Record]:
        """The jobs called `name` that the controller knows: also those that ended just now."""
        text = self._run(
            "squeue", "-h", "-a", "-t", "all", f"--name={name}", "-o", states.QUEUE_FORMAT
        )
        return states.parse_queue(text)

    def find(self, name: str, since: float) -> list[int]:
        """The ids of the jobs and arrays called `name`, in the order of their submission.

        From the queue and from accounting; an error only where neither answers.
        """
        found: set[int] = set()
        errors: list[SlurmError] = []
        for ask in (self.queue, partial(self.accounting, since=since)):
            try:
                found |= _arrays(ask(name))
            except SlurmError as error:
                errors.append(error)
        if len(errors) == 2:
            raise BackendError(f"{errors[0]}; {errors[1]}") from errors[0]
        return sorted(found)

    def _queued(self, name: str) -> set[int]:
        return _arrays(self.queue(name))

    def _accounted(self, name: str, since: float) -> set[int]:
        return _arrays(self.accounting(name, since))

    def cancel(self, ids: Sequence[int]) -> None:
        """End jobs, or whole arrays; those that have ended are no error."""
        if ids:
            self._insist(lambda: self._run("scancel", *map(str, ids), allowed=_GONE))

    def requeue(self, task: str) -> None:
        """Put a task, as "123_4", back into the queue; it is started again under the same id.

        The task itself may ask for it; where it runs, SLURM ends it first. It has to be named as a
        task of its array: the id that its last task has for itself is the whole array's.
        """
        self._insist(lambda: self._run("scontrol", "requeue", task, allowed=_WAITING))

    # The cluster

    def config(self) -> dict[str, str]:
        """`scontrol show config`, asked for once."""
        return self._config

    @cached_property
    def _config(self) -> dict[str, str]:
        return cluster.parse_config(self._run("scontrol", "show", "config"))

    def partitions(self) -> list[Partition]:
        """The partitions and their nodes."""
        return cluster.parse_partitions(
            self._run("scontrol", "show", "partition", "-a", "-o"),
            self._run("sinfo", "-h", "-a", "-e", "-o", cluster.NODES_FORMAT),
        )

    def limits(self, account: str | None, qos: str | None, *, accounting: bool = True) -> Limits:
        """How many jobs SLURM takes from this user; what accounting does not tell, or is not asked
        for, is left out.
        """
        if not accounting:
            return cluster.parse_limits(self.config(), "", "", account=account, qos=qos)
        # Each takes accounting some tenths of a second, so they are asked side by side.
        with ThreadPoolExecutor(2) as pool:
            asked = [
                pool.submit(self._told, "user", user(), "withassoc", _form(cluster.ASSOCIATIONS)),
                pool.submit(self._told, "qos", _form(cluster.QUALITIES)),
            ]
            associations, qualities = (one.result() for one in asked)
        return cluster.parse_limits(
            self.config(), associations, qualities, account=account, qos=qos
        )

    def _told(self, *what: str) -> str:
        """What accounting has on record; nothing where it does not answer."""
        with suppress(SlurmError):
            return self._run("sacctmgr", "-n", "-P", "show", *what)
        return ""

    def choices(self) -> tuple[list[str], list[str]]:
        """The accounts and the QOS that this user may name, sorted."""
        text = self._run(
            "sacctmgr", "-n", "-P", "show", "assoc", f"user={user()}", "format=Account,QOS"
        )
        cells = [line.split("|") for line in text.splitlines() if "|" in line]
        accounts = {account for account, _ in cells}
        return sorted(accounts), sorted({q for _, all_ in cells for q in all_.split(",")} - {""})

    def hosts(self) -> set[str]:
        """The machines that the nodes are, by their host names."""
        return set(self._run("sinfo", "-h", "-a", "-N", "-o", "%n").split())

    # Commands

    def _pauses(self) -> _Pauses:
        return _Pauses(self._clock, self._random)

    def _insist(self, call: Callable[[], T]) -> T:
        """The answer of a command that may safely be given twice."""
        pauses = self._pauses()
        while True:
            try:
                return call()
            except SlurmError as error:
                if not error.passing or not pauses.take():
                    raise

    def _run(
        self,
        command: str,
        *arguments: str,
        script: str | None = None,
        allowed: re.Pattern[str] | None = None,
    ) -> str:
        """What a command writes; lines of its errors that `allowed` matches are none."""
        environment = _job_environment(script) if script is not None else _own_environment()
        try:
            code, output, complaint = _call(
                [command, *arguments], script, environment, self._timeout
            )
        except subprocess.TimeoutExpired as error:
            raise SlurmError(
                command, "", f"{command} did not answer within {self._timeout:g} s", passing=True
            ) from error
        except OSError as error:
            raise SlurmError(
                command,
                "",
                f"{command} cannot be called on {host()}: {error.strerror}; is SLURM's bin "
                "directory on PATH, and is this a machine that jobs are submitted from?",
                passing=False,
            ) from error
        said = [_plain(command, line) for line in complaint.splitlines() if line.strip()]
        wrong = [line for line in said if allowed is None or not allowed.search(line)]
        # Some releases end with 0 although the database did not answer.
        silent = code == 0 and not output and any(_PASSING.search(line) for line in wrong)
        if (code != 0 and (wrong or not said)) or silent:
            raise _failure(command, wrong or [output.strip()], code)
        return output if output.strip() else "\n".join(said)


def _arrays(records: Iterable[Record]) -> set[int]:
    return {record.array for record in records if not record.refused}


def _form(columns: Iterable[str]) -> str:
    return f"format={','.join(columns)}"


class _Pauses:
    """Longer and longer waits, until patience is at its end."""

    def __init__(self, clock: Clock, chance: random.Random) -> None:
        self._clock = clock
        self._chance = chance
        self._pause = _FIRST_PAUSE
        self._deadline = clock.monotonic() + PATIENCE_SECONDS

    def take(self) -> bool:
        """Wait, and say True; False, at once, where that would be too long."""
        # Spread, so that many submitters do not all come back in the same moment.
        pause = self._pause * self._chance.uniform(0.5, 1.5)
        if self._clock.monotonic() + pause > self._deadline:
            return False
        self._clock.sleep(pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return True


def _call(
    command: Sequence[str], script: str | None, environment: dict[str, str], timeout: float
) -> tuple[int, str, str]:
    # In a session of its own: a Ctrl-C meant for the caller does not end sbatch half-way, and
    # after the time limit whatever a wrapper script started is ended with it.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL if script is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    with process:
        try:
            output, complaint = process.communicate(script, timeout=timeout)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, output, complaint


def _plain(command: str, line: str) -> str:
    return re.sub(rf"^{command}: (?:error|fatal|debug|info)?:? ?", "", line.strip())


def _failure(command: str, said: Sequence[str], code: int) -> SlurmError:
    words = "; ".join(dict.fromkeys(line for line in said if line))
    message = f"{command} failed: {words or f'exit code {code}, and not a word'}"
    if _OFF.search(words):
        message += "; this cluster keeps no accounts of jobs"
    return SlurmError(command, words, message, passing=_PASSING.search(words) is not None)


# Variables of these beginnings tell the commands what to print, or are of the job that this
# process may itself be running in.
_FOREIGN = re.compile(r"(SLURM|SQUEUE|SACCT|SINFO|SCANCEL|SRUN|PMI|PMIX)_")
_KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_SACK_SOCKET")
# Those of sbatch's variables that are not called as their option.
_VARIABLES = {"array": "ARRAY_INX", "time": "TIMELIMIT", "mem": "MEM_PER_NODE"}


def _clean_environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or not _FOREIGN.match(name)
    }


def _own_environment() -> dict[str, str]:
    """For commands that only ask: nothing cut short, times as numbers, errors in English."""
    settings = {"LC_ALL": "C", "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}
    return _clean_environment() | settings


def _job_environment(script: str) -> dict[str, str]:
    """For sbatch, which hands its environment on to the job.

    The user's own `SBATCH_PARTITION` and the like would override what the script says; those that
    the script says nothing about stay.
    """
    environment = _clean_environment()
    for option in re.findall(r"^#SBATCH\s+--([a-z-]+)", script, re.MULTILINE):
        name = _VARIABLES.get(option, option.replace("-", "_").upper())
        environment.pop(f"SBATCH_{name}", None)
    return environment
