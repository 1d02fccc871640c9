"""The client against a real cluster."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from typing import TypeVar
from uuid import uuid4

import pytest
from fake_fixture import script

from flowdist.backends.base import JobState
from flowdist.backends.slurm.client import SlurmClient
from flowdist.backends.slurm.states import job_state
from flowdist.errors import BackendError

T = TypeVar("T")


@pytest.fixture
def name(lab: object) -> Iterator[str]:
    """A job name of this test's own; whatever has it is cancelled at the end."""
    own = f"client-{uuid4().hex[:8]}"
    yield own
    subprocess.run(["scancel", f"--name={own}"], check=False, timeout=30)


@pytest.mark.slow
def test_a_real_cluster_takes_runs_and_accounts_for_an_array(name: str) -> None:
    slurm, began = SlurmClient(), time.time()
    number = slurm.submit(
        script('exit "$SLURM_ARRAY_TASK_ID"', array="0-1", name=name, time="0:05:00"), name=name
    )

    records = until(
        lambda: {r.task: r for r in slurm.accounting(name, began) if job_state(r).ended},
        lambda found: len(found) == 2,
    )

    assert {task: job_state(r) for task, r in records.items()} == {
        0: JobState.DONE,
        1: JobState.FAILED,
    }
    assert records[1].exit_code == 1
    assert {job_state(r) for r in slurm.queue(name)} == {JobState.DONE, JobState.FAILED}
    assert slurm.find(name, began) == [number]


@pytest.mark.slow
def test_a_real_cluster_keeps_and_cancels_what_waits(name: str) -> None:
    slurm = SlurmClient()
    held = script("true", array="0-3", name=name, time="0:05:00").replace(
        "#!/bin/sh", "#!/bin/sh\n#SBATCH --hold"
    )
    number = slurm.submit(held, name=name)

    waiting = slurm.queue(name)
    slurm.cancel([number])
    gone = until(lambda: slurm.queue(name), lambda rs: all(job_state(r).ended for r in rs))

    assert [(r.array, r.task, r.reason) for r in waiting] == [
        (number, task, "JobHeldUser") for task in range(4)
    ]
    assert {job_state(r) for r in gone} <= {JobState.CANCELLED}
    slurm.cancel([number])


@pytest.mark.slow
def test_a_real_cluster_describes_itself(lab: object) -> None:
    slurm = SlurmClient()

    partitions = slurm.partitions()
    limits = slurm.limits(None, None)

    assert sum(partition.default for partition in partitions) == 1
    assert all(partition.cores and partition.memory for partition in partitions)
    assert limits.array_size == int(slurm.config()["MaxArraySize"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"partition": "no-such"}, "Invalid partition name specified"),
        ({"qos": "no-such"}, "Invalid qos specification"),
        ({"array": "0-999999999"}, "nvalid job array|Invalid --array|array"),
    ],
)
def test_a_real_cluster_refuses_in_its_own_words(
    name: str, option: dict[str, str], words: str
) -> None:
    slurm = SlurmClient()
    text = script(name=name, **option)

    with pytest.raises(BackendError, match=words):
        slurm.test_only(text)
    with pytest.raises(BackendError, match=words):
        slurm.submit(text, name=name)


@pytest.mark.slow
def test_a_real_cluster_tells_when_a_script_would_start(name: str) -> None:
    slurm = SlurmClient()

    said = slurm.test_only(script(name=name, array="0-1", time="0:05:00"))

    assert "to start at" in said
    assert slurm.queue(name) == []


def until(ask: Callable[[], T], enough: Callable[[T], bool], timeout: float = 60.0) -> T:
    """The first answer that is enough; the last one where none is in time."""
    deadline = time.monotonic() + timeout
    while not enough(found := ask()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found
