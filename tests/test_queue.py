"""The directory queue: every chunk has one holder, whatever claims, dies or comes back."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowdist.clock import ManualClock
from flowdist.store import DirectoryStore
from flowdist.workers.queue import Claim, Counts, DirectoryQueue, tickets

LEASE = 30.0


def queue_at(folder: Path, clock: ManualClock | None = None) -> DirectoryQueue:
    """The queue in `folder` as one process sees it, with that process's own clock."""
    return DirectoryQueue(DirectoryStore(folder), lease=LEASE, clock=clock or ManualClock())


def claim_all(queue: DirectoryQueue, worker: str) -> list[Claim]:
    found: list[Claim] = []
    while claims := queue.claim(worker):
        found += claims
    return found


def chunks_in(claims: list[Claim]) -> list[int]:
    return [chunk for claim in claims for chunk in range(claim.first, claim.stop)]


# How chunks are cut into tickets -----------------------------------------------------------------


ranges = st.tuples(st.integers(0, 1000), st.integers(0, 5000)).map(lambda t: (t[0], t[0] + t[1]))


@given(ranges, st.integers(1, 200))
def test_tickets_cover_every_chunk_exactly_once_and_in_order(
    span: tuple[int, int], claimers: int
) -> None:
    cut = tickets(*span, claimers)

    assert [chunk for a, b in cut for chunk in range(a, b)] == list(range(*span))
    assert all(a < b for a, b in cut)


@given(st.integers(1, 10**12), st.integers(1, 500))
def test_the_number_of_tickets_grows_with_the_logarithm_of_the_chunks(
    chunks: int, claimers: int
) -> None:
    rounds = max(0, math.ceil(math.log2(chunks / (2 * claimers)))) + 2

    assert len(tickets(0, chunks, claimers)) <= claimers * rounds


@given(ranges, st.integers(1, 200))
def test_tickets_never_grow_so_that_the_last_ones_are_small(
    span: tuple[int, int], claimers: int
) -> None:
    sizes = [b - a for a, b in tickets(*span, claimers)]

    assert sizes == sorted(sizes, reverse=True)
    assert not sizes or sizes[-1] == 1


# Claiming ----------------------------------------------------------------------------------------


def test_a_claim_names_its_chunks_its_holder_and_the_first_token(tmp_path: Path) -> None:
    queue = queue_at(tmp_path)
    queue.put(0, 8, claimers=2)

    assert queue.claim("ann") == [Claim(0, 0, token=1, first=0, stop=2, worker="ann")]


def test_an_empty_queue_gives_nothing(tmp_path: Path) -> None:
    assert queue_at(tmp_path).claim("ann") == []


def test_a_claim_of_several_tickets_takes_at_most_that_many(tmp_path: Path) -> None:
    queue = queue_at(tmp_path)
    queue.put(0, 4)  # tickets of 2, 1, 1

    assert len(queue.claim("ann", 2)) == 2
    assert len(queue.claim("ann", 2)) == 1


def test_the_higher_priority_is_claimed_first_and_equal_ones_in_the_order_put(
    tmp_path: Path,
) -> None:
    queue = queue_at(tmp_path)
    queue.put(0, 1)
    queue.put(1, 2, priority=5)
    queue.put(2, 3)

    assert chunks_in(claim_all(queue, "ann")) == [1, 0, 2]


def test_chunks_put_while_others_are_claimed_are_found(tmp_path: Path) -> None:
    queue, other = queue_at(tmp_path), queue_at(tmp_path)
    queue.put(0, 2)
    claim_all(queue, "ann")

    other.put(2, 4)

    assert chunks_in(claim_all(queue, "ann")) == [2, 3]


def test_two_puts_at_once_are_both_kept(tmp_path: Path) -> None:
    first, second = queue_at(tmp_path), queue_at(tmp_path)
    second._list = lambda folder: []  # type: ignore[method-assign]  # as if it looked too early
    first.put(0, 1)
    second.put(1, 2)

    assert chunks_in(claim_all(first, "ann")) == [0, 1]


def test_a_put_that_is_still_being_written_is_ignored_until_it_is_whole(tmp_path: Path) -> None:
    queue = queue_at(tmp_path)
    queue.put(0, 4)
    file = tmp_path / "queue" / "puts" / "000000.json"
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2])

    before = queue.claim("ann")
    file.write_text(whole)

    assert before == []
    assert chunks_in(claim_all(queue, "ann")) == [0, 1, 2, 3]


def test_many_threads_claim_every_ticket_once(tmp_path: Path) -> None:
    queue_at(tmp_path).put(0, 200, claimers=8)
    found: list[list[Claim]] = [[] for _ in range(8)]
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        mine = queue_at(tmp_path)
        barrier.wait()
        found[number] = claim_all(mine, f"worker-{number}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(chunk for claims in found for chunk in chunks_in(claims)) == list(range(200))


CLAIMER = """
import json, sys
from flowdist.store import DirectoryStore
from flowdist.workers.queue import DirectoryQueue
queue = DirectoryQueue(DirectoryStore(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
found = []
while claims := queue.claim(sys.argv[2]):
    found += [[c.first, c.stop] for c in claims]
print(json.dumps(found))
"""


def test_eight_processes_claim_every_ticket_once(tmp_path: Path) -> None:
    queue_at(tmp_path).put(0, 400, claimers=8)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, str(tmp_path), f"worker-{n}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(8)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()

    found = [json.loads(process.communicate()[0]) for process in processes]

    claimed = Counter(chunk for ranges in found for a, b in ranges for chunk in range(a, b))
    assert claimed == Counter(range(400))


# Leases ------------------------------------------------------------------------------------------


def test_what_a_silent_worker_holds_is_taken_over_after_a_lease_with_a_higher_token(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    ann, bob = queue_at(tmp_path), queue_at(tmp_path, clock)
    ann.put(0, 1)
    (dead,) = ann.claim("ann")
    bob.claim("bob")  # sees how ann is for the first time

    clock.advance(LEASE)

    assert bob.claim("bob") == [Claim(0, 0, dead.token + 1, 0, 1, "bob")]


def test_a_lease_that_is_renewed_is_never_taken_over(tmp_path: Path) -> None:
    clock = ManualClock()
    ann, bob = queue_at(tmp_path), queue_at(tmp_path, clock)
    ann.put(0, 1)
    ann.claim("ann")

    for _ in range(20):
        ann.renew("ann")
        assert bob.claim("bob") == []
        clock.advance(0.9 * LEASE)


def test_a_lease_starts_again_with_each_renewal(tmp_path: Path) -> None:
    clock = ManualClock()
    ann, bob = queue_at(tmp_path), queue_at(tmp_path, clock)
    ann.put(0, 1)
    ann.claim("ann")
    bob.claim("bob")
    clock.advance(0.9 * LEASE)
    ann.renew("ann")
    bob.claim("bob")

    clock.advance(0.9 * LEASE)
    early = bob.claim("bob")
    clock.advance(0.1 * LEASE)

    assert early == []
    assert len(bob.claim("bob")) == 1


def test_clocks_of_different_machines_are_never_compared(tmp_path: Path) -> None:
    ahead = ManualClock(start=1e9)
    ann, bob = queue_at(tmp_path), queue_at(tmp_path, ahead)
    ann.put(0, 1)
    ann.claim("ann")
    ann.renew("ann")

    assert bob.claim("bob") == []  # however late bob's clock says it is
    ahead.advance(0.5 * LEASE)
    assert bob.claim("bob") == []


def test_time_passes_only_for_who_looks(tmp_path: Path) -> None:
    holder_clock = ManualClock()
    ann, bob = queue_at(tmp_path, holder_clock), queue_at(tmp_path)
    ann.put(0, 1)
    ann.claim("ann")
    bob.claim("bob")

    holder_clock.advance(100 * LEASE)

    assert bob.claim("bob") == []


def test_a_worker_that_died_while_it_claimed_is_taken_over_too(tmp_path: Path) -> None:
    clock = ManualClock()
    ann, bob = queue_at(tmp_path), queue_at(tmp_path, clock)
    ann.put(0, 1)
    ann.claim("ann")
    (claim_file,) = (tmp_path / "queue" / "claims").iterdir()
    claim_file.write_text("")  # created, and then no name was written
    bob.claim("bob")

    clock.advance(LEASE)

    assert chunks_in(bob.claim("bob")) == [0]


def test_fresh_tickets_are_claimed_before_others_are_taken_over(tmp_path: Path) -> None:
    clock = ManualClock()
    ann, bob = queue_at(tmp_path), queue_at(tmp_path, clock)
    ann.put(0, 2)
    ann.claim("ann")
    ann.fail(Claim(0, 0, 1, 0, 1, "ann"))

    assert [chunks_in(bob.claim("bob")) for _ in range(2)] == [[1], [0]]


def test_a_worker_does_not_take_over_its_own_claims(tmp_path: Path) -> None:
    clock = ManualClock()
    queue = queue_at(tmp_path, clock)
    queue.put(0, 1)
    queue.renew("ann")
    claim_all(queue, "ann")

    clock.advance(2 * LEASE)  # a disk that did not answer, say

    assert claim_all(queue, "ann") == []


def test_one_expired_claim_is_taken_over_by_one(tmp_path: Path) -> None:
    clock = ManualClock()
    ann = queue_at(tmp_path)
    others = [queue_at(tmp_path, clock) for _ in range(5)]
    ann.put(0, 1)
    ann.claim("ann")
    for number, other in enumerate(others):
        other.claim(f"worker-{number}")
    clock.advance(LEASE)

    found = [other.claim(f"worker-{number}") for number, other in enumerate(others)]

    assert sorted(map(len, found)) == [0, 0, 0, 0, 1]


# Fencing -----------------------------------------------------------------------------------------


@pytest.fixture
def zombie(tmp_path: Path) -> tuple[DirectoryQueue, Claim, DirectoryQueue, Claim]:
    """Ann's queue and claim, and bob's, who took ann's claim over."""
    clock = ManualClock()
    ann, bob = queue_at(tmp_path), queue_at(tmp_path, clock)
    ann.put(0, 1)
    (old,) = ann.claim("ann")
    bob.claim("bob")
    clock.advance(LEASE)
    (new,) = bob.claim("bob")
    return ann, old, bob, new


def test_a_worker_is_told_that_its_claim_was_taken_over(
    zombie: tuple[DirectoryQueue, Claim, DirectoryQueue, Claim],
) -> None:
    ann, old, bob, new = zombie

    assert not ann.holds(old)
    assert bob.holds(new)


def test_a_zombie_that_completes_changes_nothing(
    zombie: tuple[DirectoryQueue, Claim, DirectoryQueue, Claim],
) -> None:
    ann, old, bob, _ = zombie

    assert ann.complete(old) is False
    assert bob.counts() == Counts(waiting=0, claimed=1, done=0)


def test_a_zombie_that_gives_back_changes_nothing(
    zombie: tuple[DirectoryQueue, Claim, DirectoryQueue, Claim], tmp_path: Path
) -> None:
    ann, old, bob, new = zombie

    ann.fail(old)

    assert queue_at(tmp_path).claim("cat") == []
    assert bob.complete(new) is True


def test_a_zombie_that_comes_back_to_life_does_not_get_its_claim_back(
    zombie: tuple[DirectoryQueue, Claim, DirectoryQueue, Claim],
) -> None:
    ann, old, bob, new = zombie
    ann.renew("ann")

    assert ann.claim("ann") == []
    assert bob.complete(new) is True
    assert ann.complete(old) is False


# Ends --------------------------------------------------------------------------------------------


def test_what_is_done_is_never_claimed_again(tmp_path: Path) -> None:
    clock = ManualClock()
    ann, bob = queue_at(tmp_path), queue_at(tmp_path, clock)
    ann.put(0, 1)
    (claim,) = ann.claim("ann")
    assert ann.complete(claim) is True
    bob.claim("bob")

    clock.advance(10 * LEASE)

    assert bob.claim("bob") == []


def test_what_is_given_back_can_be_claimed_at_once_with_a_higher_token(tmp_path: Path) -> None:
    ann, bob = queue_at(tmp_path), queue_at(tmp_path)
    ann.put(0, 1)
    (claim,) = ann.claim("ann")

    ann.fail(claim)

    assert bob.claim("bob") == [Claim(0, 0, 2, 0, 1, "bob")]


def test_counts_are_of_chunks_by_state(tmp_path: Path) -> None:
    queue = queue_at(tmp_path)
    queue.put(0, 20, claimers=2)  # tickets of 5, 5, 3, 3, 1, 1, 1, 1
    first, _, _ = queue.claim("ann", 3)
    queue.complete(first)

    assert queue.counts() == Counts(waiting=7, claimed=8, done=5)


def test_counts_agree_between_processes(tmp_path: Path) -> None:
    ann = queue_at(tmp_path)
    ann.put(0, 20, claimers=2)
    ann.put(20, 30)
    ann.complete(ann.claim("ann", 2)[0])

    assert queue_at(tmp_path).counts() == ann.counts() == Counts(20, 5, 5)


def test_what_is_given_back_counts_as_waiting(tmp_path: Path) -> None:
    queue = queue_at(tmp_path)
    queue.put(0, 1)
    (claim,) = queue.claim("ann")
    queue.fail(claim)

    assert queue.counts() == Counts(waiting=1, claimed=0, done=0)
    queue.claim("bob")
    assert queue.counts() == Counts(waiting=0, claimed=1, done=0)


def test_queues_of_two_launches_do_not_meet(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    first, second = DirectoryQueue(store, "queue/0001"), DirectoryQueue(store, "queue/0002")
    first.put(0, 1)
    claim_all(first, "ann")

    second.put(0, 1)

    assert chunks_in(claim_all(second, "ann")) == [0]
