"""An array is submitted once, whatever happens between `sbatch` and its answer."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from fake_fixture import NAME, FakeSlurm, client, replace, script

from flowdist.backends.slurm.client import PATIENCE_SECONDS, SlurmClient
from flowdist.clock import ManualClock
from flowdist.errors import BackendError

TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
NO_CONTACT = "Unable to contact slurm controller (connect failure)"


def test_an_array_that_was_taken_has_its_id(fake: FakeSlurm) -> None:
    number = client().submit(script(), name=NAME)

    assert fake.arrays() == [number]
    assert fake.arguments() == [["--parsable"]]


def test_the_id_is_read_where_there_are_several_clusters(fake: FakeSlurm) -> None:
    replace(fake, "sbatch", "echo 'sbatch: warning: be nice' >&2; echo '123;north'")

    assert client().submit(script(), name=NAME) == 123


def test_a_refusal_that_is_final_is_told_at_once_in_slurms_words(fake: FakeSlurm) -> None:
    with pytest.raises(BackendError, match="Invalid partition name specified"):
        client().submit(script(partition="nope"), name=NAME)

    assert fake.calls() == 1


@pytest.mark.parametrize(
    "words",
    [
        "Batch job submission failed: Invalid account or account/partition combination specified",
        "Batch job submission failed: Invalid qos specification",
        "Batch job submission failed: Requested node configuration is not available",
        (
            "QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates "
            "accounting/QOS policy (job submit limit, user's size and/or time limits)"
        ),
        "Batch job submission failed: Invalid job array specification",
        "Batch job submission failed: Requested time limit is invalid",
        "unrecognized option '--bogus'",
    ],
)
def test_what_will_not_pass_is_not_tried_again(fake: FakeSlurm, words: str) -> None:
    fake.fail("sbatch", f"sbatch: error: {words}")

    with pytest.raises(BackendError, match="sbatch failed"):
        client().submit(script(), name=NAME)

    assert fake.calls("sbatch") == 1


@pytest.mark.parametrize(
    "words",
    [
        NO_CONTACT,
        "Socket timed out on send/recv operation",
        "Slurm temporarily unable to accept job, sleeping and retrying",
        "Resource temporarily unavailable",
        "Zero Bytes were transmitted or received",
        "Connection refused",
        "Slurm backup controller in standby mode",
    ],
)
def test_what_may_pass_is_tried_again(fake: FakeSlurm, words: str) -> None:
    fake.fail("sbatch", f"sbatch: error: Batch job submission failed: {words}", times=2)

    number = client().submit(script(), name=NAME)

    assert fake.arrays() == [number]
    assert fake.calls("sbatch") == 3


def test_tries_end_when_patience_does(fake: FakeSlurm) -> None:
    clock = ManualClock(time.time())
    fake.fail("sbatch", TIMED_OUT, times=100)

    with pytest.raises(BackendError, match="Socket timed out on send/recv operation") as caught:
        SlurmClient(clock, seed=1).submit(script(), name=NAME)

    assert sum(clock.slept) <= PATIENCE_SECONDS
    assert f"squeue --name={NAME}" in str(caught.value)
    assert fake.arrays() == []


def test_pauses_grow_and_differ_between_submitters(fake: FakeSlurm) -> None:
    slept = []
    for seed in (1, 2, 1):
        clock = ManualClock(time.time())
        fake.fail("sbatch", TIMED_OUT, times=3)
        SlurmClient(clock, seed=seed).submit(script(), name=f"run-{len(slept)}")
        slept.append(clock.slept)

    first, second, again = slept
    assert first == again != second
    assert 3 * first[0] < first[0] + first[1] + first[2]


# Nothing twice ---------------------------------------------------------------------------------


def test_an_array_that_was_taken_though_sbatch_failed_is_not_submitted_again(
    fake: FakeSlurm,
) -> None:
    fake.fail_after("sbatch", TIMED_OUT)

    number = client().submit(script(), name=NAME)

    assert fake.arrays() == [number]
    assert fake.calls("sbatch") == 1


def test_an_array_that_was_taken_though_sbatch_hung_is_not_submitted_again(
    fake: FakeSlurm,
) -> None:
    fake.hang_after("sbatch")

    number = client(timeout=1.0).submit(script(), name=NAME)

    assert fake.arrays() == [number]
    assert fake.calls("sbatch") == 1


def test_an_sbatch_that_hung_without_working_is_called_again(fake: FakeSlurm) -> None:
    fake.hang("sbatch")

    number = client(timeout=1.0).submit(script(), name=NAME)

    assert fake.arrays() == [number]


def test_earlier_arrays_of_the_run_are_not_taken_for_the_answer(fake: FakeSlurm) -> None:
    slurm = client()
    first = slurm.submit(script(), name=NAME)
    fake.fail("sbatch", TIMED_OUT)

    second = slurm.submit(script(), name=NAME, known=[first])

    assert fake.arrays() == [first, second]


def test_nothing_is_submitted_again_while_the_queue_cannot_be_asked(fake: FakeSlurm) -> None:
    fake.fail_after("sbatch", TIMED_OUT)
    fake.fail("squeue", f"slurm_load_jobs error: {NO_CONTACT}", times=3)

    number = client().submit(script(), name=NAME)

    assert fake.arrays() == [number]
    assert fake.calls("squeue") == 4


def test_whoever_cannot_learn_whether_it_was_taken_says_so(fake: FakeSlurm) -> None:
    fake.fail_after("sbatch", TIMED_OUT)
    fake.fail("squeue", f"slurm_load_jobs error: {NO_CONTACT}", times=100)

    with pytest.raises(BackendError, match="Should SLURM have taken it all the same"):
        client().submit(script(), name=NAME)

    assert len(fake.arrays()) == 1


def test_an_array_that_ended_before_the_queue_was_asked_is_found_in_accounting(
    fake: FakeSlurm,
) -> None:
    fake.set(min_job_age=-1.0)  # what has ended is gone from the queue
    fake.fail_after("sbatch", TIMED_OUT)
    slow = PatientClock(lambda: fake.wait_for(fake.arrays()[0], "COMPLETED"))

    number = SlurmClient(slow, seed=1).submit(script(), name=NAME)

    assert fake.arrays() == [number]


class PatientClock(ManualClock):
    """A clock whose sleep takes until something is so."""

    def __init__(self, until: Callable[[], None]) -> None:
        super().__init__(time.time())
        self._until = until

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self._until()


def test_of_two_arrays_that_came_of_one_script_the_first_stays(fake: FakeSlurm) -> None:
    fake.hold("Priority")
    fake.fail_after("sbatch", TIMED_OUT)
    late(fake, "squeue")
    fake.set(accounting_lag=60.0)

    number = client().submit(script(), name=NAME)

    first, second = fake.arrays()
    assert number == first
    assert set(fake.states(first).values()) == {"PENDING"}
    assert set(fake.states(second).values()) == {"CANCELLED"}


def late(fake: FakeSlurm, command: str) -> None:
    """The next call of a command answers as if nothing had been submitted yet."""
    shim, seen = fake.bin / command, fake.directory / "seen"
    first, rest = shim.read_text().split("\n", 1)
    shim.write_text(f"{first}\n[ -e {seen} ] || {{ touch {seen}; exit 0; }}\n{rest}")


@pytest.mark.fault
def test_an_array_whose_submitter_was_killed_is_found_by_its_name(fake: FakeSlurm) -> None:
    fake.hang_after("sbatch")
    began = time.time()
    code = (
        "import sys; from flowdist.backends.slurm.client import SlurmClient; "
        "SlurmClient().submit(sys.argv[1], name=sys.argv[2])"
    )
    submitter = subprocess.Popen([sys.executable, "-c", code, script(), NAME])
    fake.wait(fake.arrays)
    submitter.kill()
    submitter.wait()

    assert client().find(NAME, began) == fake.arrays()
    assert len(fake.arrays()) == 1
