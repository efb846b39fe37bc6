"""How often and when a failed handling is tried again: pure decisions.

Source: Brooker, *Exponential Backoff and Jitter* (AWS Architecture Blog): full jitter.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from pillarbox.errors.values import FROM_ONE, NO_NEGATIVE_TIME, Bounds, check_values
from pillarbox.retry.evidence import Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How a consumer retries.

    Attributes:
        attempts: how often the handler may fail for a message, the first time and the immediate ones included; calls
            that were taken back, as by the end of the process, are not counted.
        immediate: how many of the attempts after the first follow at once, in place.
        first: the longest wait before the first delayed attempt; each wait is drawn evenly from zero to its longest.
        factor: what the longest wait is multiplied by from one delayed attempt to the next.
        longest: the cap of the longest wait.
    """

    attempts: int = 5
    immediate: int = 1
    first: timedelta = timedelta(seconds=1)
    factor: float = 4.0
    longest: timedelta = timedelta(minutes=15)

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        check_values(
            self,
            attempts=FROM_ONE,
            immediate=Bounds(least=0),
            first=NO_NEGATIVE_TIME,
            factor=FROM_ONE,
            longest=NO_NEGATIVE_TIME,
        )

    @property
    def longest_span(self) -> timedelta:
        """The longest time from a message's first attempt to its last.

        The time that the handler and others take is left out, and for how long a dependency makes the message wait.
        """
        waits = max(self.attempts - 1 - self.immediate, 0)
        span = timedelta(0)
        try:
            for number in range(1, waits + 1):
                wait = backoff(self, number, dice=1.0)
                if wait == backoff(self, number + 1, dice=1.0):  # and so it stays
                    return span + wait * (waits - number + 1)
                span += wait
        except OverflowError:
            return timedelta.max
        return span


@dataclass(frozen=True, slots=True)
class RetryNow:
    """Invoke the handler again at once."""


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Put the message aside for ``after``, its key held meanwhile."""

    after: timedelta


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The message is dead."""

    reason: str


Verdict: TypeAlias = RetryNow | RetryLater | GiveUp


def decide(policy: Retry, failure: Failure, *, attempt: int, dice: float) -> Verdict:
    """Decide what follows the failure of attempt number ``attempt`` (counted from 1).

    Args:
        policy: the consumer's policy.
        failure: what kind of failure it was.
        attempt: how often the handler has been invoked for this message.
        dice: a number drawn evenly from [0, 1).
    """
    if failure.kind == "permanent":
        return GiveUp("permanent")
    if attempt >= policy.attempts:
        return GiveUp("exhausted")
    if failure.retry_after is not None:
        return RetryLater(failure.retry_after)
    if attempt <= policy.immediate:
        return RetryNow()
    return RetryLater(backoff(policy, attempt - policy.immediate, dice=dice))


def delayed(policy: Retry, *, dice: float) -> RetryLater:
    """Return what takes the place of ``RetryNow`` where there is no budget for it: the first delayed attempt's wait."""
    return RetryLater(backoff(policy, 1, dice=dice))


def backoff(policy: Retry, delayed: int, *, dice: float) -> timedelta:
    """Return the wait before delayed attempt number ``delayed`` (counted from 1), with full jitter."""
    try:
        longest = min(policy.first * policy.factor ** (delayed - 1), policy.longest)
    except OverflowError:  # beyond every number, and so beyond the cap
        longest = policy.longest if policy.first else policy.first
    return longest * dice
