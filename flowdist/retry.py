"""Retry policies: what to do after an attempt at a stage failed.

A policy is a small callable over one :class:`Failure`: it answers :class:`Again` (after which
delay, with how much more of which resource) or None (the failure stands). Policies compose:
``a | b`` asks ``b`` where ``a`` declines, ``a & b`` tries again only where both do. Policies decide
and nothing else: sleeping, counting attempts and recording causes are the executor's, and asking
for larger jobs is the backend's.

>>> policy = retry(3, on=ConnectionError, backoff=exponential()) | retry(1, on="crash")
>>> policy
retry(3, on=ConnectionError, backoff=exponential()) | retry(1, on='crash')
"""

from __future__ import annotations

import builtins
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from flowdist import errors
from flowdist.errors import UsageError, nearest

__all__ = [
    "Again",
    "Backoff",
    "Failure",
    "Policy",
    "exponential",
    "fixed",
    "grows",
    "linear",
    "never",
    "retry",
    "retry_oom",
    "retry_timeout",
]

Kind: TypeAlias = Literal["error", "timeout", "crash", "memory", "time"]
KINDS: tuple[Kind, ...] = ("error", "timeout", "crash", "memory", "time")
# The resources that a next attempt may have more of.
SCALED = ("cpus", "memory", "time", "gpus")


@dataclass(frozen=True)
class Failure:
    """One attempt that failed, as policies see it."""

    kind: Kind
    """``error``: the stage raised; ``timeout``: it ran longer than its own timeout; ``crash``: its
    process died; ``memory``: it was ended as its job was out of memory (``crash`` matches this,
    too); ``time``: its job's time was over."""
    type: str
    """The exception's class name: ``ValueError``, ``StageTimeout``, ``WorkerDied``."""
    message: str
    exception: BaseException | None
    """None where there is none to give: the process is gone, or it could not be pickled."""
    stage: str
    row: int
    attempt: int
    """1 where the first try failed."""
    elapsed: float
    """Seconds the attempt took."""
    asked: Mapping[str, float] = field(default_factory=dict, hash=False)
    """What its job had asked for (``memory`` in bytes, ``time`` in seconds), where known."""


@dataclass(frozen=True)
class Again:
    """The decision to try again.

    Wait ``delay`` seconds first, and give each resource in ``scale`` its factor times more. A
    factor applies to what the failed attempt had, so ``{"memory": 2}`` on two failures in a row
    asks for four times the first request.
    """

    delay: float = 0.0
    scale: Mapping[str, float] = field(default_factory=dict, hash=False)


Backoff: TypeAlias = Callable[[Failure], float]
"""Seconds to wait before the next attempt: a ``fixed``, ``linear``, ``exponential``, or your
own."""

Match: TypeAlias = "type[BaseException] | str | Callable[[Failure], bool]"


class Policy(ABC):
    """What to do after a failure. Subclass it, or make one with :func:`retry`.

    Subclasses must pickle, as they travel with the flow, and should be pure: the same failure, the
    same answer.
    """

    @abstractmethod
    def __call__(self, failure: Failure) -> Again | None:
        """Decide: :class:`Again`, or None where the failure stands."""

    def __or__(self, other: Policy) -> Policy:
        return _Either(self, other) if isinstance(other, Policy) else NotImplemented

    def __and__(self, other: Policy) -> Policy:
        return _Both(self, other) if isinstance(other, Policy) else NotImplemented


@dataclass(frozen=True)
class _Either(Policy):
    first: Policy
    second: Policy

    def __call__(self, failure: Failure) -> Again | None:
        return self.first(failure) or self.second(failure)

    def __repr__(self) -> str:
        return f"{self.first!r} | {self.second!r}"


@dataclass(frozen=True)
class _Both(Policy):
    first: Policy
    second: Policy

    def __call__(self, failure: Failure) -> Again | None:
        a, b = self.first(failure), self.second(failure)
        if a is None or b is None:
            return None
        scale = {
            name: max(s[name] for s in (a.scale, b.scale) if name in s)
            for name in {**a.scale, **b.scale}
        }
        return Again(max(a.delay, b.delay), scale)

    def __repr__(self) -> str:
        # & binds tighter than |, so only an either needs its brackets.
        sides = (
            f"({p!r})" if isinstance(p, _Either) else repr(p) for p in (self.first, self.second)
        )
        return " & ".join(sides)


@dataclass(frozen=True)
class _Never(Policy):
    def __call__(self, failure: Failure) -> Again | None:
        return None

    def __repr__(self) -> str:
        return "never"


never: Policy = _Never()
"""The policy that lets every failure stand."""


@dataclass(frozen=True)
class _Retry(Policy):
    times: int
    on: tuple[Match, ...] | None
    backoff: Backoff
    scale: Mapping[str, float] = field(hash=False)

    def __call__(self, failure: Failure) -> Again | None:
        if failure.attempt > self.times:
            return None
        if self.on is not None and not any(_matches(match, failure) for match in self.on):
            return None
        return Again(self.backoff(failure), self.scale)

    def __repr__(self) -> str:
        said = [str(self.times)]
        if self.on is not None:
            names = [_name(match) for match in self.on]
            said.append(f"on={names[0] if len(names) == 1 else '(' + ', '.join(names) + ')'}")
        if self.backoff != fixed(0.0):
            said.append(f"backoff={_name(self.backoff)}")
        if self.scale:
            said.append(f"scale={dict(self.scale)!r}")
        return f"retry({', '.join(said)})"


def retry(
    times: int = 1,
    *,
    on: Match | tuple[Match, ...] | list[Match] | None = None,
    backoff: float | Backoff = 0.0,
    scale: Mapping[str, float] | None = None,
) -> Policy:
    """Try up to ``times`` further attempts after the first.

    Attempts are counted per row and stage over all causes: in ``retry(3, on=A) | retry(1, on=B)`` a
    B that follows an A is the second failure, and stands.

    ``on`` names what is worth another try: an exception class (its subclasses too), a class name,
    which saves importing it (``"ConnectionError"``, ``"requests.exceptions.Timeout"``; base classes
    match too), a kind of failure (``"error"``, ``"timeout"``, ``"crash"``), a callable from Failure
    to bool, or several of these; None is everything. ``backoff`` is the delay in seconds, or a
    callable from Failure to seconds (:class:`fixed`, :class:`linear`, :class:`exponential`).
    ``scale`` multiplies resources for the next attempt, where the backend can start a larger one:
    ``{"memory": 2}``.

    Raises UsageError for a negative count, delay or factor, and for an ``on`` that could never
    match.

    >>> policy = retry(2, on=("timeout", OSError), backoff=5)
    >>> absent = FileNotFoundError("x.csv")
    >>> policy(Failure("error", "FileNotFoundError", "x.csv", absent, "fit", 0, 1, 0.1))
    Again(delay=5, scale={})
    >>> policy(Failure("error", "ValueError", "bad", ValueError("bad"), "fit", 0, 1, 0.1)) is None
    True
    """
    if isinstance(times, bool) or not isinstance(times, int) or times < 0:
        raise UsageError(
            f"retry: times={times!r} is not a count of further attempts (0, 1, 2, ...)"
        )
    if on is not None:
        on = tuple(on) if isinstance(on, (tuple, list)) else (on,)
        if not on:
            raise UsageError("retry: on=() matches nothing; leave it out to retry on everything")
        for match in on:
            _check_match(match)
    for name, factor in (scale or {}).items():
        if name not in SCALED:
            raise UsageError(
                f"retry: scale[{name!r}]: there is no such resource{nearest(name, SCALED)} "
                f"(there are: {', '.join(SCALED)})"
            )
        if not isinstance(factor, (int, float)) or not 0 < factor < math.inf:
            raise UsageError(f"retry: scale[{name!r}]={factor!r} is not a factor above 0")
    return _Retry(times, on, backoff if callable(backoff) else fixed(backoff), dict(scale or {}))


@dataclass(frozen=True)
class _Escalate(Policy):
    kind: Kind
    resource: Literal["memory", "time"]
    factor: float
    max: int | None
    times: int

    def __call__(self, failure: Failure) -> Again | None:
        # In a worker, which does not know what its job had, attempts are those of the row.
        grown = failure.attempt - 1 if failure.asked else 0
        if grown >= self.times or not self._meant(failure):
            return None
        had = failure.asked.get(self.resource)
        factor = self.factor
        if self.max is not None and had:
            factor = min(factor, self.max / had)
        # More than it had, or it would fail in the same way.
        return Again(scale={self.resource: factor}) if factor > 1 else None

    def _meant(self, failure: Failure) -> bool:
        return failure.kind == self.kind or (
            self.kind == "memory" and failure.type in OUT_OF_MEMORY
        )

    def __repr__(self) -> str:
        from flowdist.resources import format_memory, format_time

        name = "retry_oom" if self.kind == "memory" else "retry_timeout"
        said = [f"{self.resource}={self.factor:g}"]
        if self.max is not None:
            told = format_memory(self.max) if self.kind == "memory" else format_time(self.max)
            said.append(f"max={told!r}")
        if self.times != ESCALATIONS:
            said.append(f"times={self.times}")
        return f"{name}({', '.join(said)})"


# Exceptions for want of memory: Python's own, and NumPy's kind of it.
OUT_OF_MEMORY = ("MemoryError", "_ArrayMemoryError")

# Eight times what was asked for first, where each try doubles it.
ESCALATIONS = 3


def retry_oom(
    memory: float = 2.0, *, max: str | int | None = None, times: int = ESCALATIONS
) -> Policy:
    """Start what ran out of memory again, in jobs with ``memory`` times as much.

    It is asked for a job that its scheduler ended for its memory, and for rows that raised
    MemoryError. ``max`` is the most that a job is given ("256G", or bytes); ``times`` how often a
    request grows. Where jobs cannot be started anew (a plan on this machine) the failure stands.

    Raises UsageError for a factor that is not above 1 or a negative count, ResourceError for a
    ``max`` that is no amount of memory.

    >>> retry_oom(memory=2, max="256G") | retry_timeout(time=2)
    retry_oom(memory=2, max='256 GiB') | retry_timeout(time=2)
    """
    from flowdist.resources import parse_memory

    most = None if max is None else parse_memory(max, "retry_oom: max")
    return _Escalate("memory", "memory", _factor(memory, "retry_oom: memory"), most, _times(times))


def retry_timeout(
    time: float = 2.0, *, max: str | int | timedelta | None = None, times: int = ESCALATIONS
) -> Policy:
    """Start what its job's time limit cut off again, in jobs with ``time`` times as much.

    ``max`` is the longest that a job is given ("2 d", or seconds); ``times`` how often a request
    grows. It is about the time limit of jobs; a stage's own timeout is ``retry(on="timeout")``.

    Raises UsageError for a factor that is not above 1 or a negative count, ResourceError for a
    ``max`` that is no duration.

    >>> retry_timeout(time=1.5, max="24h")
    retry_timeout(time=1.5, max='1 d')
    """
    from flowdist.resources import parse_time

    most = None if max is None else parse_time(max, "retry_timeout: max")
    return _Escalate("time", "time", _factor(time, "retry_timeout: time"), most, _times(times))


def grows(policy: Policy | None) -> frozenset[str]:
    """The resources of which a policy may ask for more, whatever it is composed of.

    >>> sorted(grows(retry(2) | retry_oom() | retry_timeout())), sorted(grows(retry(2)))
    (['memory', 'time'], [])
    """
    if isinstance(policy, (_Either, _Both)):
        return grows(policy.first) | grows(policy.second)
    if isinstance(policy, _Escalate):
        return frozenset({policy.resource})
    return frozenset(policy.scale) if isinstance(policy, _Retry) else frozenset()


def _factor(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 < value < math.inf:
        raise UsageError(f"{what}={value!r} is not a factor above 1")
    return float(value)


def _times(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UsageError(f"times={value!r} is not a count (0, 1, 2, ...)")
    return value


@dataclass(frozen=True, repr=False)
class _Steps:
    """What the back-offs share: checked numbers, and a repr that leaves defaults out."""

    def __post_init__(self) -> None:
        name, given = type(self).__name__, {f.name: getattr(self, f.name) for f in fields(self)}
        for key, value in given.items():
            if not (isinstance(value, (int, float)) and 0 <= value < math.inf):
                raise UsageError(f"{name}: {key}={value!r} is not a number of 0 or more")
        if given.get("base", 0) > given.get("max", math.inf):
            raise UsageError(
                f"{name}: base={given['base']!r} is above max={given['max']!r}; give a larger max"
            )

    def __repr__(self) -> str:
        said = (
            f"{item.name}={getattr(self, item.name)!r}"
            for item in fields(self)
            if getattr(self, item.name) != item.default
        )
        return f"{type(self).__name__}({', '.join(said)})"


@dataclass(frozen=True, repr=False)
class fixed(_Steps):
    """The same delay, in seconds, before every attempt.

    >>> retry(2, backoff=fixed(10))
    retry(2, backoff=fixed(seconds=10))
    """

    seconds: float

    def __call__(self, failure: Failure) -> float:
        return self.seconds


@dataclass(frozen=True, repr=False)
class linear(_Steps):
    """``base`` seconds, then twice, three times ... that; at most ``max``.

    >>> retry(5, backoff=linear(10, max=30))
    retry(5, backoff=linear(base=10, max=30))
    """

    base: float
    max: float = 60.0

    def __call__(self, failure: Failure) -> float:
        return min(self.base * failure.attempt, self.max)


@dataclass(frozen=True, repr=False)
class exponential(_Steps):
    """``base`` seconds, then ``factor`` times as long with each attempt; at most ``max``.

    Each delay is shortened by a part of itself between 0 and ``jitter``, so that rows that failed
    together do not come back together. The part is drawn from row and attempt: the same failure
    always waits as long.

    >>> retry(5, backoff=exponential(base=2, jitter=0))
    retry(5, backoff=exponential(base=2, jitter=0))
    """

    base: float = 1.0
    factor: float = 2.0
    max: float = 60.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.jitter > 1:
            raise UsageError(f"exponential: jitter={self.jitter!r} is not a fraction from 0 to 1")

    def __call__(self, failure: Failure) -> float:
        try:
            delay = min(self.base * float(self.factor) ** (failure.attempt - 1), self.max)
        except OverflowError:
            delay = self.max
        drawn = random.Random(f"{failure.row}:{failure.attempt}").random()
        return delay * (1 - self.jitter * drawn)


def _check_match(match: object) -> None:
    if isinstance(match, str):
        # Class names begin with a capital; a lower-case word is a kind, or a slip for one.
        if match in KINDS or "." in match or match[:1].isupper():
            return
        raise UsageError(
            f"retry: on={match!r} is neither a kind of failure ({', '.join(KINDS)}) "
            f"nor a class name{nearest(match, KINDS)}"
        )
    if isinstance(match, type):
        if issubclass(match, BaseException):
            return
        raise UsageError(f"retry: on={match.__qualname__} is a class, but not of exceptions")
    if not callable(match):
        raise UsageError(
            f"retry: on={match!r} is not an exception class, a name, "
            "or a callable from Failure to bool"
        )


def _matches(match: Match, failure: Failure) -> bool:
    if isinstance(match, str):
        # A process that is killed for its memory has crashed, too.
        kinds = (failure.kind, "crash") if failure.kind == "memory" else (failure.kind,)
        return match in kinds or match == failure.type or match in _names(failure)
    if isinstance(match, type):
        known = _class(failure)
        return issubclass(known, match) if known else match.__name__ == failure.type
    return bool(match(failure))


def _class(failure: Failure) -> type[BaseException] | None:
    """The exception's class; where there is no exception, the class that its name stands for."""
    if failure.exception is not None:
        return type(failure.exception)
    found = getattr(errors, failure.type, None) or getattr(builtins, failure.type, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def _names(failure: Failure) -> set[str]:
    ancestry = (_class(failure) or object).__mro__[:-1]
    return {n for c in ancestry for n in (c.__name__, f"{c.__module__}.{c.__qualname__}")}


def _name(value: Any) -> str:
    """Code for ``value`` as a reader would write it: classes and functions by their name."""
    if isinstance(value, str) or not hasattr(value, "__qualname__"):
        return repr(value)
    return str(value.__qualname__)
