"""Queues in tables, hybrid and log: every chunk has one holder, whatever dies or comes back."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cloud import Cloud
from grammar import check

from flowdist.clock import ManualClock
from flowdist.snowflake.connection import Client, SnowflakeError
from flowdist.snowflake.names import Name
from flowdist.snowflake.tables import hybrid_queue_table, log_queue_table
from flowdist.workers.claiming import RENEW_AFTER, TableQueue, Waiting
from flowdist.workers.log_queue import LogQueue
from flowdist.workers.queue import Claim, Counts
from flowdist.workers.table_queue import HybridQueue, kind_of, open_queue

LEASE = 300.0
KINDS: dict[str, tuple[type[TableQueue], Name, Callable[[Name], str]]] = {
    "hybrid": (HybridQueue, Name.parse("flowdist.public.hybrid_queue"), hybrid_queue_table),
    "log": (LogQueue, Name.parse("flowdist.public.log_queue"), log_queue_table),
}
_numbers = itertools.count()


@pytest.fixture(scope="module")
def client(cloud: Cloud) -> Iterator[Client]:
    client = cloud.client()
    for _, table, statement in KINDS.values():
        client.run(statement(table))
    yield client
    client.close()


@dataclass
class Job:
    """The queue of a job of its own."""

    client: Client
    kind: str
    id: str

    @property
    def table(self) -> Name:
        return KINDS[self.kind][1]

    def queue(self, client: Client | None = None, **options: Any) -> TableQueue:
        """The queue as one worker sees it, from the beginning on."""
        options = {"pool": "p", "stage_path": "@s/runs", "lease": LEASE, "start": 0.0, **options}
        return KINDS[self.kind][0](client or self.client, self.table, self.id, **options)

    def expire(self, *workers: str) -> None:
        """Let time pass for the leases of workers."""
        for worker in workers:
            self.client.run(
                f"UPDATE {self.table.sql} SET LEASE_UNTIL = DATEADD('second', -1, SYSDATE()) "
                "WHERE JOB_ID = ? AND WORKER_ID = ? AND LEASE_UNTIL IS NOT NULL",
                (self.id, worker),
            )

    def statements(self, what: Callable[[], Any]) -> int:
        """How many statements something takes."""
        before = self.client.statements
        what()
        return self.client.statements - before


@pytest.fixture(params=list(KINDS))
def job(client: Client, request: pytest.FixtureRequest) -> Job:
    return Job(client, request.param, f"RUN/{next(_numbers)}")


def chunks_in(claims: list[Claim]) -> list[int]:
    return [chunk for claim in claims for chunk in range(claim.first, claim.stop)]


def drain(queue: TableQueue, worker: str, least: int = 1) -> list[int]:
    """Claim all there is, and complete it."""
    found: list[int] = []
    while claims := queue.claim(worker, least):
        found += chunks_in(queue.complete(claims))
    return found


# Putting -----------------------------------------------------------------------------------------


def test_chunks_are_put_claimed_and_done(job: Job) -> None:
    queue = job.queue()
    queue.put(0, 3)
    assert queue.counts() == Counts(waiting=3, claimed=0, done=0)

    (claim,) = queue.claim("ann")
    assert claim == Claim(0, 0, token=1, first=0, stop=1, worker="ann")
    assert claim.fresh
    assert queue.counts() == Counts(waiting=2, claimed=1, done=0)

    assert queue.complete([claim]) == [claim]
    assert queue.counts() == Counts(waiting=2, claimed=0, done=1)
    assert not queue.finished()
    assert drain(queue, "ann") == [1, 2]
    assert queue.finished()


@pytest.mark.parametrize("chunks", [1, 25_000])
def test_putting_takes_one_statement_and_adds_nothing_the_second_time(
    job: Job, chunks: int
) -> None:
    queue = job.queue()

    assert job.statements(lambda: queue.put(5, 5 + chunks)) == 1
    before = job.client.value(f"SELECT COUNT(*) FROM {job.table.sql} WHERE JOB_ID = ?", [job.id])
    queue.put(5, 5 + chunks)

    after = job.client.value(f"SELECT COUNT(*) FROM {job.table.sql} WHERE JOB_ID = ?", [job.id])
    assert before == after <= 10_000
    assert queue.counts() == Counts(waiting=chunks, claimed=0, done=0)
    assert queue.claim("ann")[0].first == 5
    queue.remove()
    assert queue.counts() == Counts(0, 0, 0)


def test_a_queue_into_which_nothing_was_put_is_not_finished(job: Job) -> None:
    queue = job.queue()

    assert queue.claim("ann") == []
    assert not queue.finished()
    assert not queue.finished(look=False)


def test_two_that_put_the_same_at_the_same_moment_put_it_once(job: Job, cloud: Cloud) -> None:
    def put() -> None:
        job.queue(cloud.client()).put(0, 50)

    together(put, put, put)

    assert job.queue().counts() == Counts(waiting=50, claimed=0, done=0)


# Which is claimed --------------------------------------------------------------------------------


def test_a_claim_brings_what_is_asked_for_and_half_of_a_fair_share_at_most(job: Job) -> None:
    queue = job.queue()
    queue.put(0, 64)

    assert len(queue.claim("ann", 3)) == 3
    assert len(queue.claim("ann", 1, 10)) == 10
    assert len(queue.claim("ann", 1, 1000)) == 26  # half of the 51 that are left


def test_the_highest_priority_is_claimed_first(job: Job) -> None:
    queue = job.queue()
    queue.put(0, 2)
    queue.put(2, 4, priority=5)
    queue.put(4, 5, priority=-1)

    assert drain(queue, "ann") == [2, 3, 0, 1, 4]


def test_what_is_put_with_a_higher_priority_goes_before_what_has_waited(job: Job) -> None:
    clock = ManualClock()
    queue = job.queue(clock=clock)
    queue.put(0, 10)
    queue.claim("ann")

    job.queue().put(10, 11, priority=1)
    clock.advance(min(queue.look_lasts, 0.0) if job.kind == "hybrid" else queue.look_lasts + 1)

    assert chunks_in(queue.claim("ann")) == [10]


def test_chunks_wait_until_their_time_has_come(job: Job) -> None:
    queue = job.queue()
    queue.put(0, 1, delay=3600)

    early = queue.claim("ann")
    job.client.run(f"UPDATE {job.table.sql} SET NOT_BEFORE = SYSDATE() WHERE JOB_ID = ?", [job.id])

    assert early == []
    assert not queue.finished()
    assert drain(queue, "ann") == [0]


def test_claimers_that_begin_in_places_of_their_own_seldom_meet(job: Job) -> None:
    queues = {f"w{i}": job.queue(start=i / 4, clock=ManualClock()) for i in range(4)}
    queues["w0"].put(0, 60)
    before = job.client.statements
    found: list[int] = []
    while claims := [claim for worker, queue in queues.items() for claim in queue.claim(worker)]:
        found += chunks_in(claims)

    assert sorted(found) == list(range(60))
    # For each claim one statement, or two of the log. Besides, each looks at first and at last, and
    # a few times where it comes to what another has.
    each = {"hybrid": 1, "log": 2}[job.kind]
    assert job.client.statements - before <= each * 60 + 4 * 8


# Leases ------------------------------------------------------------------------------------------


def test_what_a_silent_worker_holds_is_taken_over_with_a_higher_token(job: Job) -> None:
    ann, bob = job.queue(), job.queue()
    ann.put(0, 1)
    (dead,) = ann.claim("ann")
    early = bob.claim("bob")

    job.expire("ann")
    (taken,) = bob.claim("bob")

    assert early == []
    assert (taken.first, taken.token, taken.fresh) == (0, dead.token + 1, False)


def test_a_lease_that_is_renewed_is_not_taken_over(job: Job) -> None:
    clock = ManualClock()
    ann, bob = job.queue(clock=clock), job.queue()
    ann.put(0, 1)
    ann.claim("ann")
    job.expire("ann")

    clock.advance(RENEW_AFTER * LEASE)
    ann.renew("ann")

    assert bob.claim("bob") == []


def test_nothing_is_sent_while_it_is_sure_that_claims_are_held(job: Job) -> None:
    clock = ManualClock()
    queue = job.queue(clock=clock)
    queue.put(0, 2)
    claims = queue.claim("ann", 2)

    def second() -> None:
        clock.advance(1.0)
        queue.renew("ann")
        assert queue.lost(claims) == []

    sent = [job.statements(second) for _ in range(int(2 * LEASE))]

    assert sum(sent) == pytest.approx(2 / RENEW_AFTER, abs=1)  # each a renewal
    assert not any(sent[: int(RENEW_AFTER * LEASE) - 1])


def test_a_worker_that_was_silent_asks_what_it_still_holds(job: Job) -> None:
    clock = ManualClock()
    ann, bob = job.queue(clock=clock), job.queue()
    ann.put(0, 2)
    first, second = ann.claim("ann", 2)
    job.expire("ann")
    (taken,) = bob.claim("bob")
    clock.advance(LEASE)

    assert ann.lost([first, second]) == [first if taken.first == 0 else second]


def test_a_worker_neither_takes_over_its_own_claims_nor_gives_them_up(job: Job) -> None:
    queue = job.queue(max_attempts=1)
    queue.put(0, 1)
    claims = queue.claim("ann")

    job.expire("ann")  # a service that did not answer, say

    assert queue.claim("ann") == []
    assert queue.complete(claims) == claims


def test_the_time_zones_of_sessions_do_not_matter(job: Job, cloud: Cloud) -> None:
    east, west = cloud.client(), cloud.client()
    east.run("ALTER SESSION SET TIMEZONE = 'Pacific/Auckland'")
    west.run("ALTER SESSION SET TIMEZONE = 'America/Los_Angeles'")
    ann, bob = job.queue(east), job.queue(west)
    ann.put(0, 1)
    ann.put(1, 2, delay=60)
    ann.claim("ann")

    assert bob.claim("bob") == []
    job.expire("ann")
    (taken,) = bob.claim("bob")
    assert taken.first == 0
    assert ann.claim("cat") == []
    left = job.client.value(
        "SELECT DATEDIFF('second', SYSDATE(), MAX(LEASE_UNTIL)) "
        f"FROM {job.table.sql} WHERE JOB_ID = ?",
        [job.id],
    )
    assert 0 < left <= LEASE


# Fencing -----------------------------------------------------------------------------------------


@dataclass
class Zombie:
    """Ann's queue and claim, and bob's, who took it over while ann was silent."""

    ann: TableQueue
    old: Claim
    bob: TableQueue
    new: Claim


@pytest.fixture
def zombie(job: Job) -> Zombie:
    clock = ManualClock()
    ann, bob = job.queue(clock=clock), job.queue()
    ann.put(0, 1)
    (old,) = ann.claim("ann")
    job.expire("ann")
    (new,) = bob.claim("bob")
    clock.advance(LEASE)
    return Zombie(ann, old, bob, new)


def test_a_zombie_that_completes_changes_nothing(zombie: Zombie) -> None:
    assert zombie.ann.complete([zombie.old]) == []
    assert zombie.bob.counts() == Counts(waiting=0, claimed=1, done=0)
    assert zombie.bob.complete([zombie.new]) == [zombie.new]


def test_a_zombie_that_gives_back_changes_nothing(zombie: Zombie, job: Job) -> None:
    zombie.ann.fail([zombie.old])

    assert job.queue().claim("cat") == []
    assert zombie.bob.complete([zombie.new]) == [zombie.new]


def test_a_zombie_that_renews_is_told_and_gets_nothing_back(zombie: Zombie, job: Job) -> None:
    zombie.ann.renew("ann")

    assert zombie.ann.lost([zombie.old]) == [zombie.old]
    assert zombie.ann.claim("ann") == []
    assert zombie.bob.complete([zombie.new]) == [zombie.new]


def test_what_a_zombie_held_goes_on_where_its_heir_gives_it_back(zombie: Zombie, job: Job) -> None:
    zombie.ann.renew("ann")
    zombie.ann.lost([zombie.old])
    zombie.bob.fail([zombie.new])

    (claim,) = job.queue().claim("cat")

    assert claim.token == zombie.new.token + 1
    assert zombie.ann.complete([zombie.old]) == []


# Ends --------------------------------------------------------------------------------------------


def test_what_is_given_back_can_be_claimed_at_once(job: Job) -> None:
    ann, bob = job.queue(), job.queue()
    ann.put(0, 2)
    begun, fresh = ann.claim("ann", 2)

    ann.fail([begun])
    ann.fail([fresh], begun=False)

    assert ann.counts() == Counts(waiting=2, claimed=0, done=0)
    again = sorted([*bob.claim("bob", 2), *bob.claim("bob", 2)], key=lambda c: c.first)
    assert [(c.first, c.token, c.fresh) for c in again] == [(0, 2, False), (1, 2, True)]


def test_others_learn_that_everything_is_done_when_they_look_for_work(job: Job) -> None:
    ann, bob = job.queue(), job.queue()
    ann.put(0, 1)
    drain(ann, "ann")

    assert bob.claim("bob") == []
    assert job.statements(lambda: bob.finished(look=False)) == 0
    assert bob.finished(look=False)


def test_a_chunk_that_kills_whatever_runs_it_is_given_up_and_nothing_else(job: Job) -> None:
    job.queue().put(0, 8)
    poison, done, lives = 3, Counter[int](), 0

    for lives in range(1, 20):
        name = f"life-{lives}"
        queue = job.queue()
        while claims := queue.claim(name, 4):
            if poison in chunks_in(claims):
                job.expire(name)  # all that it holds is lost with it
                break
            done.update(chunks_in(queue.complete(claims)))
        else:
            break

    assert done == Counter(set(range(8)) - {poison})
    assert lives == 4  # three that died, and one that gave it up
    ((first, stop, why),) = job.queue().dead()
    assert (first, stop) == (poison, poison + 1)
    assert "begun 3 times and never ended" in why
    assert "life-3" in why
    assert job.queue().counts() == Counts(waiting=0, claimed=0, done=7, dead=1)
    assert job.queue().finished()


def test_who_has_a_last_chance_gets_nothing_beside_it(job: Job) -> None:
    ann = job.queue(max_attempts=2)
    ann.put(0, 2)
    ann.claim("ann", 2)
    job.expire("ann")
    bob, cat = job.queue(max_attempts=2), job.queue(max_attempts=2)

    alone = bob.claim("bob", 2)
    beside = bob.claim("bob", 2)
    other = cat.claim("cat", 2)
    bob.complete(alone)

    assert (len(alone), beside, len(other)) == (1, [], 1)
    assert alone != other


def test_chunks_that_were_not_begun_do_not_die_of_being_given_back(job: Job) -> None:
    job.queue().put(0, 1)
    for life in range(5):
        queue = job.queue()
        queue.fail(queue.claim(f"life-{life}"), begun=False)

    assert drain(job.queue(), "ann") == [0]


@pytest.mark.parametrize("most", [1, 3])
def test_chunks_that_are_done_bit_by_bit_do_not_die_of_being_given_back(
    job: Job, most: int
) -> None:
    job.queue().put(0, 1)
    for life in range(5):
        queue = job.queue(max_attempts=most)
        queue.fail(queue.claim(f"life-{life}"))

    (claim,) = job.queue(max_attempts=most).claim("ann")
    assert claim.fresh == (most == 1)


def test_what_is_withdrawn_is_claimed_by_nobody_and_what_is_done_stays(job: Job) -> None:
    queue = job.queue()
    queue.put(0, 4)
    done, running = queue.claim("ann", 2)
    queue.complete([done])

    queue.withdraw()

    assert job.queue().claim("bob") == []
    assert queue.counts().done == 1
    assert queue.counts().waiting == 0
    job.expire("ann")
    assert job.queue().claim("bob") == []
    queue.complete([running])  # too late, and no harm
    assert job.queue().claim("bob") == []


# What it costs, and what fails -------------------------------------------------------------------


def test_a_chunk_takes_two_statements_claimed_one_by_one_and_few_in_batches(job: Job) -> None:
    queue = job.queue(clock=ManualClock())
    queue.put(0, 40)
    one_by_one = job.statements(lambda: drain(queue, "ann"))
    queue.put(40, 240)

    def batches() -> None:
        while claims := queue.claim("ann", 8, 50):
            queue.complete(claims)
            queue.renew("ann")

    in_batches = job.statements(batches)

    # A claim and its end: an update each, or (the log) a row, a look at it and a row. Besides a
    # look at first, and at last one and whether all is done.
    assert one_by_one == {"hybrid": 2, "log": 3}[job.kind] * 40 + 3
    assert in_batches / 200 <= 0.2


def test_every_statement_conforms_to_the_documentation(job: Job) -> None:
    clock = ManualClock()
    queue = job.queue(clock=clock, max_attempts=1)
    queue.put(0, 6)
    claims = queue.claim("ann", 4)
    clock.advance(LEASE / 2)
    queue.renew("ann")
    clock.advance(LEASE)
    queue.lost(claims)
    queue.complete(claims[:1])
    queue.fail(claims[1:2], begun=False)
    job.expire("ann")
    job.queue(max_attempts=1).claim("bob")
    queue.dead()
    type(queue).waiting(job.client, job.table, "p")
    kind_of(job.client, job.table)

    rows = job.client.rows(
        "SELECT DISTINCT query_text FROM TABLE(INFORMATION_SCHEMA.QUERY_HISTORY("
        "RESULT_LIMIT => 10000)) WHERE CONTAINS(query_text, ?)",
        [job.table.last],
    )

    statements = [str(row["query_text"]) for row in rows]
    assert {sql: wrong for sql in statements if (wrong := check(sql))} == {}
    assert len(statements) >= 10


def test_a_claim_that_is_sent_twice_is_got_once(job: Job) -> None:
    queue = job.queue()
    queue.put(0, 3)
    free = queue._undone().free

    first, second = queue._take("ann", free), queue._take("ann", free)

    assert first == second == free
    assert job.queue().claim("bob") == []


def test_an_end_that_is_sent_twice_counts(job: Job) -> None:
    queue = job.queue()
    queue.put(0, 3)
    claims = queue.claim("ann", 3)

    assert queue.complete(claims) == queue.complete(claims) == claims
    assert queue.counts() == Counts(waiting=0, claimed=0, done=3)


def test_a_claim_whose_answer_never_came_is_held_by_nobody_for_longer_than_a_lease(
    job: Job, cloud: Cloud
) -> None:
    ann, bob = job.queue(), job.queue()
    ann.put(0, 2)
    ann.claim("ann")
    what = {"hybrid": "^UPDATE", "log": "^SELECT C"}[job.kind]
    with (
        cloud.emulator.faults.fail_statement(what, errno=100132, message="no"),
        pytest.raises(SnowflakeError),
    ):
        ann.claim("ann")

    ann.renew("ann")
    job.expire("ann")
    ann.renew("ann")

    assert len(bob.claim("bob", 2)) + len(bob.claim("bob", 2)) >= 1


def test_leases_that_cannot_be_renewed_end_no_job(job: Job, cloud: Cloud) -> None:
    clock = ManualClock()
    queue = job.queue(clock=clock)
    queue.put(0, 1)
    claims = queue.claim("ann")
    clock.advance(LEASE / 2)
    what = {"hybrid": "^UPDATE", "log": "^INSERT"}[job.kind]

    with cloud.emulator.faults.fail_statement(what, errno=100132, message="no") as fault:
        queue.renew("ann")

    assert fault.hits == 1
    assert queue.complete(claims) == claims


# Several at once ---------------------------------------------------------------------------------


def together(*work: Callable[[], None]) -> None:
    """Do it all at the same time, in threads; what fails there fails here."""
    barrier, errors = threading.Barrier(len(work)), []

    def run(one: Callable[[], None]) -> None:
        try:
            barrier.wait(30)
            one()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not errors, errors
    assert not any(thread.is_alive() for thread in threads)


def test_six_claimers_do_every_chunk_once_though_two_of_them_die(job: Job, cloud: Cloud) -> None:
    job.queue().put(0, 72)
    done: Counter[int] = Counter()
    held: Counter[tuple[int, int]] = Counter()
    lock = threading.Lock()

    def work(number: int) -> None:
        name = f"worker-{number}"
        # On a busy machine those who live may be silent for a lease, too.
        queue = job.queue(cloud.client(), lease=3.0, start=None, max_attempts=50)
        until = time.monotonic() + 90
        while not queue.finished(look=False) and time.monotonic() < until:
            claims = queue.claim(name, 1, 1 + number)
            with lock:
                held.update((claim.first, claim.token) for claim in claims)
            if number < 2 and len(held) > 24:
                return  # dies with what it holds
            if not claims:
                time.sleep(0.2)
            queue.renew(name)
            counted = queue.complete([c for c in claims if c not in queue.lost(claims)])
            with lock:
                done.update(chunks_in(counted))

    together(*(lambda n=n: work(n) for n in range(6)))

    assert done == Counter(range(72))
    assert max(held.values()) == 1  # each claim was one worker's
    assert job.queue().counts() == Counts(waiting=0, claimed=0, done=72)


# Which table, which jobs -------------------------------------------------------------------------


def test_the_kind_of_a_table_is_seen_by_one_statement(job: Job) -> None:
    before = job.client.statements
    queue = open_queue(job.client, job.table, job.id, pool="p", lease=5.0)

    assert type(queue) is KINDS[job.kind][0]
    assert queue.lease == 5.0
    assert job.client.statements - before == 1


def test_a_table_that_is_not_there_is_said_with_what_makes_it(client: Client) -> None:
    # Which LIKE would find, were its wildcards all.
    with pytest.raises(SnowflakeError, match=r"no queue table .*\.LOG_QUEU_.*flowdist setup"):
        kind_of(client, Name.parse("flowdist.public.log_queu_"))


def test_the_jobs_of_a_pool_that_have_not_ended_are_seen_by_one_statement(job: Job) -> None:
    ours = {"pool": f"pool of {job.id}"}
    first, second, over = (
        Job(job.client, job.kind, f"{job.id}-{n}").queue(**ours, stage_path=f"@s/{n}")
        for n in range(3)
    )
    for queue in (first, second, over):
        queue.put(0, 4, priority=3)
    first.claim("ann", 1)
    first.claim("bob", 2)
    drain(over, "ann")
    kind = KINDS[job.kind][0]

    before = job.client.statements
    found = kind.waiting(job.client, job.table, ours["pool"])

    assert job.client.statements - before == 1
    assert found == [
        Waiting(f"{job.id}-0", "@s/0", waiting=1, claimed=3, workers=2, priority=3),
        Waiting(f"{job.id}-1", "@s/1", waiting=4, claimed=0, workers=0, priority=3),
    ]
