"""When a failed handling is tried again, and how often."""

from datetime import timedelta

import pytest

from pillarbox.errors import ConfigurationError
from pillarbox.retry import Failure, GiveUp, Retry, RetryLater, RetryNow, backoff, decide

SECOND = timedelta(seconds=1)
TRANSIENT = Failure(kind="transient")


def _follow(policy: Retry, failure: Failure, *, dice: float = 0.5) -> list[str]:
    """Fail at every attempt; return what followed each."""
    verdicts: list[str] = []
    for attempt in range(1, 100):
        verdict = decide(policy, failure, attempt=attempt, dice=dice)
        verdicts.append(type(verdict).__name__)
        if isinstance(verdict, GiveUp):
            break
    return verdicts


@pytest.mark.parametrize("attempts", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("immediate", [0, 1, 3])
@pytest.mark.parametrize("kind", ["transient", "unknown"])
def test_the_handler_is_invoked_exactly_as_often_as_attempts_says(attempts: int, immediate: int, kind: str) -> None:
    followed = _follow(Retry(attempts=attempts, immediate=immediate), Failure(kind=kind))  # type: ignore[arg-type]

    assert len(followed) == attempts
    assert followed.count("RetryNow") == min(immediate, attempts - 1)
    assert followed == sorted(followed, key=["RetryNow", "RetryLater", "GiveUp"].index)


def test_a_permanent_failure_is_not_tried_again() -> None:
    assert decide(Retry(attempts=5), Failure(kind="permanent"), attempt=1, dice=0.5) == GiveUp("permanent")


def test_the_reason_of_the_last_attempt_is_that_they_are_used_up() -> None:
    assert decide(Retry(attempts=3), TRANSIENT, attempt=3, dice=0.5) == GiveUp("exhausted")


def test_one_who_asked_to_be_left_alone_is_left_alone_for_so_long() -> None:
    throttled = Failure(kind="throttled", retry_after=timedelta(minutes=3))

    assert decide(Retry(attempts=5, immediate=3), throttled, attempt=1, dice=0.0) == RetryLater(timedelta(minutes=3))


def test_a_throttled_attempt_counts_too() -> None:
    throttled = Failure(kind="throttled", retry_after=SECOND)

    assert _follow(Retry(attempts=3), throttled) == ["RetryLater", "RetryLater", "GiveUp"]


def test_the_longest_wait_grows_by_the_factor_up_to_the_cap() -> None:
    policy = Retry(first=SECOND, factor=4, longest=timedelta(seconds=40))

    assert [backoff(policy, number, dice=1.0) / SECOND for number in (1, 2, 3, 4, 5)] == [1, 4, 16, 40, 40]


def test_jitter_is_full_so_a_wait_may_be_nothing() -> None:
    assert backoff(Retry(), 3, dice=0.0) == timedelta(0)


def test_the_first_delayed_attempt_waits_for_first() -> None:
    policy = Retry(attempts=5, immediate=2, first=SECOND)

    assert decide(policy, TRANSIENT, attempt=2, dice=0.5) == RetryNow()
    assert decide(policy, TRANSIENT, attempt=3, dice=0.5) == RetryLater(SECOND / 2)


@pytest.mark.parametrize("delayed", [10, 1_000, 100_000])
def test_an_absurd_number_of_attempts_does_not_overflow(delayed: int) -> None:
    policy = Retry(attempts=10**6, factor=10.0)

    assert backoff(policy, delayed, dice=1.0) == policy.longest


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"immediate": -1},
        {"first": timedelta(seconds=-1)},
        {"longest": timedelta(seconds=-1)},
        {"factor": 0.5},
        {"factor": float("nan")},
    ],
)
def test_values_that_mean_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Retry(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policy", "seconds"),
    [
        (Retry(attempts=1), 0),
        (Retry(attempts=3, immediate=5), 0),
        (Retry(attempts=5, immediate=1, first=SECOND, factor=4), 1 + 4 + 16),
        (Retry(attempts=6, immediate=0, first=SECOND, factor=4, longest=timedelta(seconds=10)), 1 + 4 + 10 * 3),
        (Retry(attempts=10**9, immediate=0, first=SECOND, factor=1), 10**9 - 1),
        (Retry(attempts=10**9, immediate=0, first=timedelta(0)), 0),
    ],
)
def test_the_longest_span_is_the_sum_of_the_longest_waits(policy: Retry, seconds: int) -> None:
    assert policy.longest_span == SECOND * seconds


def test_a_span_that_no_number_holds_is_the_longest_there_is() -> None:
    assert Retry(attempts=10**12, first=timedelta(days=10**6), longest=timedelta.max).longest_span == timedelta.max
