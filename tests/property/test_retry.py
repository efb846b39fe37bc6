"""Properties of retries."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from pillarbox.retry import Failure, GiveUp, Retry, RetryLater, backoff, decide

durations = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=400))
policies = st.builds(
    Retry,
    attempts=st.integers(1, 30),
    immediate=st.integers(0, 40),
    first=durations,
    factor=st.floats(1, 1e6),
    longest=durations,
)
dice = st.floats(0, 1, exclude_max=True)


@given(policies, st.integers(1, 10_000), dice)
def test_a_wait_lies_between_nothing_and_the_longest(policy: Retry, delayed: int, thrown: float) -> None:
    assert timedelta(0) <= backoff(policy, delayed, dice=thrown) <= policy.longest


@given(policies, st.integers(1, 100), dice, dice)
def test_a_higher_throw_never_waits_less(policy: Retry, delayed: int, low: float, high: float) -> None:
    low, high = sorted((low, high))

    assert backoff(policy, delayed, dice=low) <= backoff(policy, delayed, dice=high)


@given(policies, st.integers(1, 100), dice)
def test_a_later_attempt_never_waits_less_for_the_same_throw(policy: Retry, delayed: int, thrown: float) -> None:
    assert backoff(policy, delayed, dice=thrown) <= backoff(policy, delayed + 1, dice=thrown)


@given(
    policies, st.lists(st.tuples(st.sampled_from(["transient", "unknown"]), st.none() | durations), max_size=40), dice
)
def test_it_ends_after_exactly_the_attempts(
    policy: Retry, failures: list[tuple[str, timedelta | None]], thrown: float
) -> None:
    """Whatever mixture of failures comes."""
    failures += [("transient", None)] * policy.attempts
    attempt = 0
    for kind, retry_after in failures:
        attempt += 1
        failure = Failure(kind=kind if retry_after is None else "throttled", retry_after=retry_after)  # type: ignore[arg-type]
        verdict = decide(policy, failure, attempt=attempt, dice=thrown)
        if isinstance(verdict, RetryLater) and retry_after is not None:
            assert verdict.after == retry_after
        if isinstance(verdict, GiveUp):
            break

    assert attempt == policy.attempts
