"""A retry budget: attempts in place are a small share of the calls, however many of these fail.

A dependency that fails now and then is slowed down by being called once more for each failure. Beyond the budget a
message waits as for a delayed attempt, so that nothing is given up for want of one.

Source: Google, *Site Reliability Engineering*, *Handling Overload*; Finagle, *RetryBudget*.
"""

from __future__ import annotations

from dataclasses import dataclass

AT_MOST = 10.0
"""Retries that are saved up, and those that there are at the beginning: where few calls are made, these do."""


@dataclass(slots=True)
class RetryBudget:
    """What one process may still spend on one dependency; whoever shares it among threads locks it.

    Attributes:
        share: of each call that succeeds, so much of a retry is saved.
        saved: so many retries may be made now.
    """

    share: float
    saved: float = AT_MOST

    def succeeded(self) -> None:
        """Save something."""
        self.saved = min(self.saved + self.share, AT_MOST)

    def spend(self) -> bool:
        """Take one retry; return whether there was one."""
        if self.saved < 1:
            return False
        self.saved -= 1
        return True
