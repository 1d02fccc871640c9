"""Retry policies: which failures they answer, how they compose, how they read."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowdist.errors import UsageError, WorkerDied
from flowdist.retry import Again, Failure, Policy, exponential, fixed, linear, never, retry


def failure(exception: BaseException | None = None, **known: Any) -> Failure:
    """The failure of a row by ``exception``, or by a crash where there is none."""
    fields: dict[str, Any] = {
        "kind": "error" if exception else "crash",
        "type": type(exception).__name__ if exception else "WorkerDied",
        "message": str(exception or "killed by SIGKILL"),
        "exception": exception,
        "stage": "fit",
        "row": 7,
        "attempt": 1,
        "elapsed": 0.5,
    }
    return Failure(**{**fields, **known})


# Which failures ------------------------------------------------------------------------------


def test_times_counts_the_attempts_after_the_first() -> None:
    policy = retry(2)

    answers = [policy(failure(ValueError(), attempt=attempt)) for attempt in (1, 2, 3)]

    assert answers == [Again(), Again(), None]


class Odd(ConnectionError):
    pass


@pytest.mark.parametrize(
    "on",
    [
        OSError,
        (KeyError, ConnectionError),
        [Odd],
        "Odd",
        "OSError",
        "builtins.ConnectionError",
        "error",
        ("timeout", "error"),
        lambda failed: failed.row == 7,
    ],
)
def test_on_matches_classes_their_bases_names_kinds_and_callables(on: Any) -> None:
    assert retry(on=on)(failure(Odd("reset"))) == Again()


@pytest.mark.parametrize("on", [KeyError, "KeyError", "timeout", "crash", lambda failed: False])
def test_on_lets_everything_else_stand(on: Any) -> None:
    assert retry(on=on)(failure(Odd("reset"))) is None


@pytest.mark.parametrize("on", ["crash", "WorkerDied", WorkerDied, "RowError"])
def test_a_crash_has_no_exception_and_is_matched_by_what_it_is_called(on: Any) -> None:
    assert retry(on=on)(failure()) == Again()


def test_a_stages_time_limit_is_a_timeout_error() -> None:
    late = failure(kind="timeout", type="StageTimeout")

    assert retry(on=TimeoutError)(late) == Again()
    assert retry(on=ValueError)(late) is None


def test_an_exception_that_could_not_travel_is_matched_by_its_name() -> None:
    lost = failure(kind="error", type="Odd")

    assert retry(on=Odd)(lost) == Again()
    assert retry(on=KeyError)(lost) is None


def test_never_lets_every_failure_stand() -> None:
    assert never(failure()) is None


# Delays --------------------------------------------------------------------------------------


def delays(policy: Policy, attempts: int) -> list[float]:
    answers = [policy(failure(attempt=n)) for n in range(1, attempts + 1)]
    return [again.delay for again in answers if again]


@pytest.mark.parametrize(
    ("backoff", "expected"),
    [
        (5, [5, 5, 5, 5]),
        (fixed(5), [5, 5, 5, 5]),
        (linear(10, max=35), [10, 20, 30, 35]),
        (exponential(base=1, factor=3, max=20, jitter=0), [1, 3, 9, 20]),
        (lambda failed: failed.elapsed * 2, [1, 1, 1, 1]),
    ],
)
def test_backoff_sets_the_delay(backoff: Any, expected: list[float]) -> None:
    assert delays(retry(9, backoff=backoff), 4) == expected


@given(row=st.integers(0, 10**6), attempt=st.integers(1, 10**6), jitter=st.floats(0, 1))
def test_jitter_only_shortens_and_is_the_same_each_time(
    row: int, attempt: int, jitter: float
) -> None:
    failed = failure(row=row, attempt=attempt)
    plain, jittered = exponential(jitter=0)(failed), exponential(jitter=jitter)(failed)

    assert plain * (1 - jitter) <= jittered <= plain <= 60
    assert jittered == exponential(jitter=jitter)(failed)


def test_jitter_spreads_rows_that_failed_together() -> None:
    policy = retry(backoff=exponential(jitter=0.5))

    answers = [policy(failure(row=row)) for row in range(20)]

    assert len({again.delay for again in answers if again}) == 20


# Composition ---------------------------------------------------------------------------------


def test_or_asks_the_second_where_the_first_declines() -> None:
    policy = retry(3, on=OSError, backoff=1) | retry(1, on="crash", backoff=9)

    assert policy(failure(OSError())) == Again(1)
    assert policy(failure()) == Again(9)
    assert policy(failure(ValueError())) is None


def test_and_needs_both_and_takes_the_longer_delay_and_the_larger_scales() -> None:
    policy = retry(1, backoff=2, scale={"memory": 2, "time": 1.5}) & retry(
        5, on="crash", backoff=1, scale={"memory": 4, "cpus": 2}
    )

    assert policy(failure()) == Again(2, {"memory": 4, "time": 1.5, "cpus": 2})
    assert policy(failure(ValueError())) is None
    assert policy(failure(attempt=2)) is None


def test_a_policy_of_ones_own_composes_like_the_others() -> None:
    class OnEvenRows(Policy):
        def __call__(self, failed: Failure) -> Again | None:
            return Again() if failed.row % 2 == 0 else None

    policy = OnEvenRows() | retry(on="crash")

    assert policy(failure(ValueError(), row=2)) == Again()
    assert policy(failure(ValueError(), row=3)) is None
    assert policy(failure(row=3)) == Again()


def test_only_policies_compose() -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        retry() | 3  # type: ignore[operator]


# Reading and carrying ------------------------------------------------------------------------

backoffs = st.one_of(
    st.just(0.0),
    st.builds(fixed, st.integers(1, 9)),
    st.builds(linear, st.integers(1, 9), max=st.integers(9, 99)),
    st.builds(exponential, base=st.integers(1, 9), jitter=st.sampled_from([0, 0.1, 0.5])),
)
matches = st.sampled_from([None, OSError, ("timeout", KeyError), "crash"])
scales = st.sampled_from([None, {"memory": 2.0}, {"time": 1.5, "memory": 2.0}])
simple = st.builds(retry, st.integers(0, 5), on=matches, backoff=backoffs, scale=scales)
policies = st.recursive(
    simple | st.just(never),
    lambda inner: (
        st.builds(lambda a, b: a | b, inner, inner) | st.builds(lambda a, b: a & b, inner, inner)
    ),
    max_leaves=4,
)
failures = st.builds(
    failure, st.sampled_from([None, KeyError(), OSError()]), attempt=st.integers(1, 6)
)


@given(policies, failures)
def test_a_repr_is_the_code_that_makes_the_policy(policy: Policy, failed: Failure) -> None:
    rebuilt = eval(repr(policy))

    assert rebuilt(failed) == policy(failed)


@given(policies)
def test_policies_travel(policy: Policy) -> None:
    assert pickle.loads(pickle.dumps(policy)) == policy


def test_callables_read_by_their_name() -> None:
    def is_flaky(failed: Failure) -> bool:
        return "flaky" in failed.message

    assert repr(retry(on=is_flaky)).endswith("is_flaky)")


# Mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: retry(-1), "times=-1"),
        (lambda: retry(True), "times=True"),
        (lambda: retry(1.5), "times=1.5"),  # type: ignore[arg-type]
        (lambda: retry(on="timeouts"), "'timeouts' is neither.*did you mean 'timeout'"),
        (lambda: retry(on=int), "int is a class, but not of exceptions"),  # type: ignore[arg-type]
        (lambda: retry(on=3), "on=3 is not an exception class"),  # type: ignore[arg-type]
        (lambda: retry(on=()), "matches nothing"),
        (lambda: retry(backoff=-1), "seconds=-1"),
        (lambda: retry(backoff="5"), "seconds='5'"),  # type: ignore[arg-type]
        (lambda: retry(backoff=float("nan")), "seconds=nan"),
        (lambda: retry(scale={"memory": 0}), "memory.*not a factor above 0"),
        (lambda: linear(base=120), "base=120 is above max=60"),
        (lambda: exponential(jitter=2), "jitter=2"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(make: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make()


def test_a_resource_that_there_is_not_cannot_be_scaled() -> None:
    with pytest.raises(UsageError, match=r"scale\['memry'\].*did you mean 'memory'"):
        retry(2, scale={"memry": 2})
    with pytest.raises(UsageError, match="is not a factor above 0"):
        retry(2, scale={"memory": "2"})  # type: ignore[dict-item]
