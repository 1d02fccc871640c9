"""Which run a worker of a pool works for: pure arithmetic over what waits.

Users share a pool evenly, whatever they have in it; of one user, rows of higher priority go first,
and runs of the same priority share evenly. To go from one run to another costs a start, so a
worker stays long enough for that to be little.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Offer", "Stay", "leave_for", "pick"]

# Who works asks after so long, and then so often, whether another launch needs it more; each worker
# of a larger pool less often, so that all together do not ask more often than a pool of `FEW` does.
FIRST_LOOK, LOOK_SECONDS, FEW = 2.0, 5.0, 4
# It stays for so many times what it took to begin there, but not longer than this for that reason.
STAY, LONGEST_STAY = 4.0, 60.0


@dataclass(frozen=True)
class Offer:
    """A launch with chunks in a pool.

    Attributes:
        job_id: ``<run id>/<launch>``.
        user: whose run it is.
        priority: the highest of what waits.
        waiting: chunks that can be claimed now.
        workers: how many hold chunks of it.
    """

    job_id: str
    user: str
    priority: int
    waiting: int
    workers: int


def pick(offers: Sequence[Offer], chance: random.Random, but: str = "") -> Offer | None:
    """The launch that a free worker goes to; None where nothing waits. `but` is the one that it
    comes from, to which it goes back only where there is no other.

    >>> some = [Offer("a/1", "ann", 0, 9, 3), Offer("b/1", "bob", 0, 9, 1),
    ...         Offer("c/1", "bob", 0, 9, 0)]
    >>> pick(some, random.Random(0)).job_id
    'c/1'
    """
    of_user = _by_user(offers)
    return min(
        (offer for offer in offers if offer.waiting > 0),
        key=lambda o: (
            o.job_id == but, of_user[o.user], -o.priority, o.workers, chance.random(),
        ),
        default=None,
    )  # fmt: skip


def leave_for(offers: Sequence[Offer], mine: str, chance: random.Random) -> str:
    """The launch for which a worker of launch `mine` had better leave it; "" where it stays.

    Each worker decides for itself, by chance, so that about as many go as should.

    >>> some = [Offer("a/1", "ann", 0, 9, 1), Offer("b/1", "bob", 0, 9, 0)]
    >>> leave_for(some, "a/1", random.Random(0))
    'b/1'
    >>> leave_for([Offer("a/1", "ann", 0, 9, 2), Offer("b/1", "bob", 0, 9, 1)], "a/1",
    ...           random.Random(0))
    ''
    """
    here = next((offer for offer in offers if offer.job_id == mine), None)
    if here is None:
        return ""

    def allowed(other: Offer) -> bool:
        # Of one user, nobody leaves what is more urgent.
        return other.user != here.user or other.priority >= here.priority or not here.waiting

    there = pick([o for o in offers if o is here or allowed(o)], chance, but=mine)
    if there is None or there is here:
        return ""
    workers = max(1, here.workers)
    if there.user == here.user and there.priority > here.priority:
        wanted = there.waiting
    else:
        of_user = _by_user(offers)
        same = there.user == here.user
        ours = workers if same else max(1, of_user[here.user])
        theirs = there.workers if same else of_user[there.user]
        # Where nobody works for the other, the only worker takes turns.
        wanted = max(int(theirs == 0), (ours - theirs) // 2)
    return there.job_id if chance.random() < wanted / workers else ""


class Stay:
    """When a worker at a launch asks whether another one needs it more; times are seconds of one
    monotonic clock.

    >>> stay = Stay(came=100.0)
    >>> stay.due(150.0, begun=None), stay.due(150.0, begun=110.0), stay.due(151.0, begun=110.0)
    (False, True, True)
    >>> stay.asked(151.0, workers=8)
    >>> stay.due(160.9, begun=110.0), stay.due(161.0, begun=110.0)
    (False, True)
    """

    def __init__(self, came: float) -> None:
        self._came = came
        self._next: float | None = None

    def due(self, now: float, begun: float | None) -> bool:
        """Whether to ask now. `begun` is when it began to work there, having loaded what that
        takes; None where it has not.
        """
        if begun is None:
            return False
        if self._next is None:
            cost = begun - self._came
            self._next = begun + max(FIRST_LOOK, min(STAY * cost, LONGEST_STAY))
        return now >= self._next

    def asked(self, now: float, workers: int) -> None:
        """It has asked, and found so many workers."""
        self._next = now + LOOK_SECONDS * max(1.0, workers / FEW)


def _by_user(offers: Sequence[Offer]) -> Counter[str]:
    found: Counter[str] = Counter()
    for offer in offers:
        found[offer.user] += offer.workers
    return found
