"""The directory queue: every chunk has one holder, whatever claims, dies or comes back."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import MemoryStore

from flowdist.clock import ManualClock
from flowdist.store import DirectoryStore
from flowdist.workers.queue import TICKETS, Claim, Counts, DirectoryQueue, Tickets

LEASE = 30.0


def queue_at(folder: Path, clock: ManualClock | None = None, place: int = 0) -> DirectoryQueue:
    """The queue in `folder` as one process sees it, with that process's own clock."""
    store = DirectoryStore(folder)
    return DirectoryQueue(store, lease=LEASE, clock=clock or ManualClock(), place=place)


def claim_all(queue: DirectoryQueue, worker: str) -> list[Claim]:
    found: list[Claim] = []
    while claims := queue.claim(worker):
        found += claims
    return found


def chunks_in(claims: list[Claim]) -> list[int]:
    return [chunk for claim in claims for chunk in range(claim.first, claim.stop)]


# How chunks are cut into tickets -----------------------------------------------------------------


cuts = st.builds(
    lambda first, chunks, claimers: Tickets(first, first + chunks, claimers),
    st.integers(0, 1000),
    st.integers(0, 5000),
    st.integers(1, 200),
)


@given(cuts)
def test_tickets_cover_every_chunk_exactly_once_and_in_order(cut: Tickets) -> None:
    chunks = [chunk for ticket in range(len(cut)) for chunk in range(*cut.chunks(ticket))]

    assert chunks == list(range(cut.first, cut.stop))


@given(cuts)
def test_tickets_are_as_even_as_can_be_and_never_empty(cut: Tickets) -> None:
    sizes = {stop - first for first, stop in map(cut.chunks, range(len(cut)))}

    assert 0 not in sizes
    assert not sizes or max(sizes) - min(sizes) <= 1


@given(st.integers(0, 10**12), st.integers(1, 500))
def test_the_number_of_tickets_follows_the_claimers_not_the_chunks(
    chunks: int, claimers: int
) -> None:
    assert len(Tickets(0, chunks, claimers)) == min(chunks, TICKETS * claimers)


@given(cuts)
def test_regions_share_the_tickets_out(cut: Tickets) -> None:
    shared = [ticket for place in range(cut.claimers) for ticket in cut.region(place)]

    assert shared == list(range(len(cut)))


@given(cuts, st.sets(st.integers(0, 2000)))
def test_pieces_are_what_is_not_claimed(cut: Tickets, claimed: set[int]) -> None:
    left = [ticket for piece in cut.pieces(claimed) for ticket in piece]

    assert left == [ticket for ticket in range(len(cut)) if ticket not in claimed]


# Claiming ----------------------------------------------------------------------------------------


def test_a_claim_names_its_chunks_its_holder_and_the_first_token(tmp_path: Path) -> None:
    queue = queue_at(tmp_path)
    queue.put(0, 2 * TICKETS)

    assert queue.claim("ann") == [Claim(0, 0, token=1, first=0, stop=2, worker="ann")]


def test_an_empty_queue_gives_nothing(tmp_path: Path) -> None:
    assert queue_at(tmp_path).claim("ann") == []


def test_a_claim_brings_at_least_as_many_chunks_as_are_needed(tmp_path: Path) -> None:
    queue = queue_at(tmp_path)
    queue.put(0, 3 * TICKETS)  # three chunks in a ticket

    assert chunks_in(queue.claim("ann", least=4)) == [0, 1, 2, 3, 4, 5]


def test_a_claim_of_more_chunks_than_there_are_brings_all(tmp_path: Path) -> None:
    queue = queue_at(tmp_path)
    queue.put(0, 5)

    assert chunks_in(queue.claim("ann", least=9)) == [0, 1, 2, 3, 4]


def test_claims_shrink_with_what_is_left_however_much_is_asked_for(tmp_path: Path) -> None:
    queue = queue_at(tmp_path)
    queue.put(0, 64)

    sizes = [len(queue.claim("ann", 1, 1000)) for _ in range(7)]

    assert sizes == [32, 16, 8, 4, 2, 1, 1]


def test_a_claim_brings_no_more_than_asked_for(tmp_path: Path) -> None:
    queue = queue_at(tmp_path)
    queue.put(0, 64)

    assert [len(queue.claim("ann", 1, 5)) for _ in range(3)] == [5, 5, 5]


def test_claimers_begin_in_regions_of_their_own(tmp_path: Path) -> None:
    queue_at(tmp_path).put(0, 400, claimers=4)

    firsts = [queue_at(tmp_path, place=place).claim(f"w{place}")[0].first for place in range(4)]

    assert firsts == [0, 100, 200, 300]


def test_who_is_through_with_its_region_goes_on_where_others_have_not_come_to(
    tmp_path: Path,
) -> None:
    ann, bob = queue_at(tmp_path), queue_at(tmp_path, place=1)
    ann.put(0, 20, claimers=2)
    bob.claim("bob")

    ann.claim("ann", 10)
    stolen = chunks_in(ann.claim("ann", 1, 100))

    assert stolen == [15, 16, 17]  # half of what lies far ahead of bob


def test_a_claimer_that_starts_anew_goes_on_behind_what_it_had(tmp_path: Path) -> None:
    queue_at(tmp_path).put(0, 10)
    queue_at(tmp_path).claim("ann-1", 4)

    again = claim_all(queue_at(tmp_path), "ann-2")

    assert sorted(chunks_in(again)) == [4, 5, 6, 7, 8, 9]


class Listed(MemoryStore):
    """A store that notes which folders were listed."""

    def __init__(self) -> None:
        super().__init__()
        self.listed: list[str] = []

    def list(self, folder: str) -> list[str]:
        self.listed.append(folder)
        return super().list(folder)


def test_a_claim_lists_no_folder_while_there_is_something_in_its_region() -> None:
    store = Listed()
    queue = DirectoryQueue(store, clock=ManualClock())
    queue.put(0, 1000)
    store.listed.clear()

    for _ in range(TICKETS):
        assert queue.claim("ann")

    assert store.listed == []


def test_a_claim_does_not_look_for_ever_where_a_folder_is_shown_as_it_was() -> None:
    class Late(MemoryStore):
        def list(self, folder: str) -> list[str]:
            return [] if folder.endswith("claims") else super().list(folder)

    store = Late()
    DirectoryQueue(store, clock=ManualClock()).put(0, 10)
    claim_all(DirectoryQueue(store, clock=ManualClock()), "ann")

    assert DirectoryQueue(store, clock=ManualClock()).claim("bob") == []


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
    assert sorted(chunks_in(claim_all(queue, "ann"))) == [0, 1, 2, 3]


def test_many_threads_claim_every_ticket_once(tmp_path: Path) -> None:
    queue_at(tmp_path).put(0, 1000, claimers=8)
    found: list[list[Claim]] = [[] for _ in range(8)]
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        mine = queue_at(tmp_path, place=number // 2)  # two in each of four regions
        barrier.wait()
        found[number] = claim_all(mine, f"worker-{number}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(chunk for claims in found for chunk in chunks_in(claims)) == list(range(1000))


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

    clock.advance(LEASE)  # ann is silent, and so one looks at what she may have held
    bob.claim("bob")
    clock.advance(LEASE)

    assert chunks_in(bob.claim("bob")) == [0]


def test_fresh_tickets_are_claimed_before_others_are_taken_over(tmp_path: Path) -> None:
    clock = ManualClock()
    ann, bob = queue_at(tmp_path), queue_at(tmp_path, clock)
    ann.put(0, 2)
    ann.claim("ann")
    ann.fail([Claim(0, 0, 1, 0, 1, "ann")])

    assert [chunks_in(bob.claim("bob")) for _ in range(2)] == [[1], [0]]


def test_what_the_dead_held_is_shared_out_among_those_who_look(tmp_path: Path) -> None:
    clock = ManualClock()
    ann, bob = queue_at(tmp_path), queue_at(tmp_path, clock)
    ann.put(0, 16)
    ann.claim("ann", 16)
    bob.claim("bob")
    clock.advance(LEASE)

    taken = [len(bob.claim("bob", 1, 100)) for _ in range(5)]

    assert taken == [8, 4, 2, 1, 1]


def test_who_has_left_is_not_taken_for_dead(tmp_path: Path) -> None:
    clock = ManualClock()
    ann, bob = queue_at(tmp_path), queue_at(tmp_path, clock)
    ann.put(0, 2)
    ann.claim("ann")
    ann.leave("ann")
    bob.claim("bob")
    bob.claim("bob")

    clock.advance(LEASE)

    assert bob._silent_workers() == {"bob"}


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
    for number, other in enumerate(others):
        other.renew(f"worker-{number}")

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

    assert ann.lost([old]) == [old]
    assert bob.lost([new]) == []


def test_a_zombie_that_completes_changes_nothing(
    zombie: tuple[DirectoryQueue, Claim, DirectoryQueue, Claim],
) -> None:
    ann, old, bob, _ = zombie

    assert ann.complete([old]) == []
    assert bob.counts() == Counts(waiting=0, claimed=1, done=0)


def test_a_zombie_that_gives_back_changes_nothing(
    zombie: tuple[DirectoryQueue, Claim, DirectoryQueue, Claim], tmp_path: Path
) -> None:
    ann, old, bob, new = zombie

    ann.fail([old])

    assert queue_at(tmp_path).claim("cat") == []
    assert bob.complete([new]) == [new]


def test_a_zombie_that_comes_back_to_life_does_not_get_its_claim_back(
    zombie: tuple[DirectoryQueue, Claim, DirectoryQueue, Claim],
) -> None:
    ann, old, bob, new = zombie
    ann.renew("ann")

    assert ann.claim("ann") == []
    assert bob.complete([new]) == [new]
    assert ann.complete([old]) == []


# Ends --------------------------------------------------------------------------------------------


def test_what_is_done_is_never_claimed_again(tmp_path: Path) -> None:
    clock = ManualClock()
    ann, bob = queue_at(tmp_path), queue_at(tmp_path, clock)
    ann.put(0, 1)
    (claim,) = ann.claim("ann")
    assert ann.complete([claim]) == [claim]
    bob.claim("bob")

    clock.advance(10 * LEASE)

    assert bob.claim("bob") == []


def test_what_is_given_back_can_be_claimed_at_once_with_a_higher_token(tmp_path: Path) -> None:
    ann, bob = queue_at(tmp_path), queue_at(tmp_path)
    ann.put(0, 1)
    (claim,) = ann.claim("ann")

    ann.fail([claim])

    assert bob.claim("bob") == [Claim(0, 0, 2, 0, 1, "bob")]


def test_counts_are_of_chunks_by_state(tmp_path: Path) -> None:
    queue = queue_at(tmp_path)
    queue.put(0, 5 * TICKETS)
    first, _, _ = queue.claim("ann", 15)
    queue.complete([first])

    assert queue.counts() == Counts(waiting=5 * TICKETS - 15, claimed=10, done=5)


def test_counts_agree_between_processes(tmp_path: Path) -> None:
    ann = queue_at(tmp_path)
    ann.put(0, 20, claimers=2)
    ann.put(20, 30)
    ann.complete(ann.claim("ann", 2)[:1])

    assert queue_at(tmp_path).counts() == ann.counts() == Counts(28, 1, 1)


def test_a_queue_is_finished_when_everything_put_is_done(tmp_path: Path) -> None:
    queue = queue_at(tmp_path)
    queue.put(0, 2)
    one, two = queue.claim("ann", 2)

    queue.complete([one])
    before = queue.finished()
    queue.complete([two])

    assert before is False
    assert queue.finished() is True


def test_others_learn_without_a_listing_that_everything_is_done() -> None:
    store = Listed()
    ann, bob = (DirectoryQueue(store, clock=ManualClock()) for _ in range(2))
    ann.put(0, 1)
    ann.complete(ann.claim("ann"))

    before = bob.finished(look=False)
    ann.finished()
    store.listed.clear()

    assert before is False
    assert bob.finished(look=False) is True
    assert store.listed == []


def test_others_learn_that_everything_is_done_where_the_last_died_before_it_said_so(
    tmp_path: Path,
) -> None:
    ann, bob = queue_at(tmp_path), queue_at(tmp_path)
    ann.put(0, 1)
    ann.complete(ann.claim("ann"))

    assert bob.claim("bob") == []
    assert bob.finished(look=False)


def test_a_queue_is_not_finished_any_more_when_something_is_put(tmp_path: Path) -> None:
    queue = queue_at(tmp_path)
    queue.put(0, 1)
    queue.complete(queue.claim("ann"))
    assert queue.finished()

    queue.put(1, 2)

    assert not queue.finished()


def test_what_is_given_back_counts_as_waiting(tmp_path: Path) -> None:
    queue = queue_at(tmp_path)
    queue.put(0, 1)
    (claim,) = queue.claim("ann")
    queue.fail([claim])

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


# Whatever dies ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(
    chunks=st.integers(0, 300),
    claimers=st.integers(1, 6),
    processes=st.integers(1, 6),
    seed=st.integers(0, 2**32),
)
def test_every_chunk_is_done_once_whoever_dies_and_files_are_bounded(
    chunks: int, claimers: int, processes: int, seed: int
) -> None:
    choose, clock, store = random.Random(seed), ManualClock(), MemoryStore()
    DirectoryQueue(store, clock=clock).put(0, chunks, claimers=claimers)
    done: Counter[int] = Counter()
    held: dict[str, list[Claim]] = {}
    queues: dict[str, DirectoryQueue] = {}
    born = turns = taken_over = 0
    while not DirectoryQueue(store, clock=clock).finished():
        turns += 1
        assert turns < 5000, "the claimers do not come to an end"
        while len(queues) < processes:
            name = f"w{born}"
            queues[name] = DirectoryQueue(store, clock=clock, place=born)
            held[name] = []
            born += 1
        name = choose.choice(list(queues))
        queue = queues[name]
        what = choose.choice(["claim", "claim", "complete", "complete", "die", "leave", "wait"])
        if what == "claim":
            claims = queue.claim(name, choose.randint(1, 9), choose.randint(1, 90))
            taken_over += sum(claim.token > 1 for claim in claims)
            held[name] += claims
        elif what == "complete" and held[name]:
            claim = held[name].pop(choose.randrange(len(held[name])))
            if queue.complete([claim]):
                done.update(range(claim.first, claim.stop))
        elif what == "die" and born < 20:
            del queues[name]  # what it held is still in `held`, and in its claims
        elif what == "leave" and born < 20:
            queue.fail(held[name])
            queue.leave(name)
            del queues[name]
        elif what == "wait":
            clock.advance(LEASE / 3)
            for alive, its in queues.items():
                its.renew(alive)

    assert done == Counter(range(chunks))
    tickets = min(chunks, TICKETS * claimers)
    # Claims, done, released; a lease each; the put and the mark.
    assert len(store.blobs) <= 2 * tickets + 2 * taken_over + tickets + born + 3
