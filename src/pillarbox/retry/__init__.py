"""Retry: what is tried again, how often and when. Pure decisions.

Guarantee: a message is dead when its handler has failed ``Retry.attempts`` times; calls to a dependency that is known
to be down are not counted.
Not promised: that the handler is invoked no more often: a call that the end of its process, a neighbour's failure or a
conflict in the database took back is not counted as an attempt (of conflicts in a row, one in 51 is); crashes of a
message alone are counted by themselves.
Nor an exact delay; waits are drawn at random so that retries do not march in step.
Source: Brooker, *Exponential Backoff and Jitter*; Nygard, *Release It!*; the reading order is policy, classification,
evidence, breaker, budget.
"""

from pillarbox.retry.breaker import Circuit, CircuitBreaker, CircuitState, Streak, counts
from pillarbox.retry.classification import (
    DEFAULT_RULES,
    Classification,
    FailureRule,
    permanent,
    transient,
)
from pillarbox.retry.evidence import Failure, Kind
from pillarbox.retry.policy import GiveUp, Retry, RetryLater, RetryNow, Verdict, backoff, decide

__all__ = [
    "DEFAULT_RULES",
    "Circuit",
    "CircuitBreaker",
    "CircuitState",
    "Classification",
    "Failure",
    "FailureRule",
    "GiveUp",
    "Kind",
    "Retry",
    "RetryLater",
    "RetryNow",
    "Streak",
    "Verdict",
    "backoff",
    "counts",
    "decide",
    "permanent",
    "transient",
]
