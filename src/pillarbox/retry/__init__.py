"""Retry: what is tried again, how often and when. Pure decisions.

Guarantee: the handler is invoked at most ``Retry.attempts`` times per message before it is dead.
Not promised: an exact delay; waits are drawn at random so that retries do not march in step.
Source: Brooker, *Exponential Backoff and Jitter*; the reading order is policy, classification.
"""

from pillarbox.retry.classification import DEFAULT_RULES, Classification, Failure, Kind
from pillarbox.retry.policy import GiveUp, Retry, RetryLater, RetryNow, Verdict, backoff, decide

__all__ = [
    "DEFAULT_RULES",
    "Classification",
    "Failure",
    "GiveUp",
    "Kind",
    "Retry",
    "RetryLater",
    "RetryNow",
    "Verdict",
    "backoff",
    "decide",
]
