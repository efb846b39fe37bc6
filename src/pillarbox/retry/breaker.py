"""A circuit breaker: stops the calls to what is down, and finds out by one call at a time when it is back.

Pure: what is shared by processes is a value, ``Circuit``, that is replaced by compare-and-set; ``Streak`` is what one
process has seen of a dependency that works.

Source: Nygard, *Release It!*, *Circuit Breaker*; microservices.io, *Circuit Breaker*.

::

    closed ──(failures in a row)──▶ open ──(its time is over, one takes the probe)──▶ half-open
       ▲                             ▲                                                    │
       │                             └────(the probe failed: for longer; no answer: at once)
       └──────────────────────────────────────────────────────────────(the probe succeeded)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

from pillarbox.errors import ConfigurationError
from pillarbox.errors.values import FROM_ONE, SOME_TIME, Bounds, check_values
from pillarbox.retry.evidence import Failure

NO_TIME = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitBreaker:
    """When a dependency is taken to be down, and when it is tried again.

    Attributes:
        failures: how many calls in a row must fail; a call that succeeds starts the count anew.
        within: and within how long.
        open_for: how long nobody calls it then, up to a fifth longer by dice; what the other side asks for instead, if
            that is longer.
        factor: what the pause is multiplied by each time that the probe fails.
        longest: the cap of these pauses.
        retries: while it works, attempts in place for each call that succeeds, at most; ten are free. Where they are
            used up, an attempt that would follow at once waits as the first delayed one does.
    """

    failures: int = 5
    within: timedelta = timedelta(seconds=30)
    open_for: timedelta = timedelta(seconds=10)
    factor: float = 2.0
    longest: timedelta = timedelta(minutes=2)
    retries: float = 0.1

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        check_values(
            self,
            failures=FROM_ONE,
            within=SOME_TIME,
            open_for=SOME_TIME,
            factor=FROM_ONE,
            retries=Bounds(least=0),
        )
        if self.longest < self.open_for:
            raise ConfigurationError(
                f"CircuitBreaker.longest must not be below open_for={self.open_for}, got {self.longest}"
            )

    def pause(self, openings: int, *, dice: float, asked: timedelta | None = None) -> timedelta:
        """Return how long it stays open the ``openings``-th time in a row, counted from 1.

        Args:
            openings: how often it has opened since it was last closed, this time included.
            dice: a number drawn evenly from [0, 1), so that processes and services do not come back in step.
            asked: how long the other side asked to be left alone.
        """
        try:
            pause = min(self.open_for * self.factor ** (openings - 1), self.longest)
        except OverflowError:
            pause = self.longest
        return max(pause * (1 + dice / 5), asked or NO_TIME)


class CircuitState(StrEnum):
    """``closed``: calls are made; ``open``: none is; ``half_open``: one is, to find out."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuit:
    """What all processes know of one dependency.

    Attributes:
        version: grows with every change; 0 before the first.
        openings: how often it has opened since it was last closed.
        wait: how long until it may be probed, or until a probe that says nothing is given up; zero when that is over.
        probe: the token of whoever probes.
        reason: the failure that opened it.
        away_for: how long it has not been closed.
    """

    version: int = 0
    state: CircuitState = CircuitState.CLOSED
    openings: int = 0
    wait: timedelta = NO_TIME
    probe: str | None = None
    reason: str = ""
    away_for: timedelta = NO_TIME

    @property
    def is_closed(self) -> bool:
        """Whether calls are made."""
        return self.state is CircuitState.CLOSED

    @property
    def may_be_probed(self) -> bool:
        """Whether somebody may take the probe: nobody has it, or whoever had it said nothing in time."""
        return not self.is_closed and self.wait <= NO_TIME

    def later(self, passed: timedelta) -> Circuit:
        """Return it as it is ``passed`` after it was read."""
        if self.is_closed:
            return self
        return replace(self, wait=max(self.wait - passed, NO_TIME), away_for=self.away_for + passed)

    def opened(self, pause: timedelta, *, reason: str) -> Circuit:
        """Open it for ``pause``."""
        return replace(
            self,
            version=self.version + 1,
            state=CircuitState.OPEN,
            openings=self.openings + 1,
            wait=pause,
            probe=None,
            reason=reason,
        )

    def probed(self, token: str, *, lease: timedelta) -> Circuit:
        """Let the holder of ``token`` make one call, and say within ``lease`` what came of it."""
        return replace(self, version=self.version + 1, state=CircuitState.HALF_OPEN, wait=lease, probe=token)

    def closed(self) -> Circuit:
        """Close it."""
        return Circuit(version=self.version + 1)

    def unanswered(self) -> Circuit:
        """Take the probe back: no call was made, so that the next one may be made at once."""
        return replace(self, version=self.version + 1, state=CircuitState.OPEN, wait=NO_TIME, probe=None)


@dataclass(frozen=True, slots=True)
class Streak:
    """Failures in a row, as one process has seen them.

    Attributes:
        times: when the last of them were, in seconds of the process's monotonic clock, oldest first.
    """

    times: tuple[float, ...] = ()

    def failed(self, at: float, *, failures: int) -> Streak:
        """Count one more; the last ``failures`` of them matter."""
        return Streak((*self.times, at)[-failures:])

    def opens(self, *, failures: int, within: timedelta) -> bool:
        """Tell whether the last ``failures`` were ``within`` that time."""
        return len(self.times) >= failures and self.times[-1] - self.times[-failures] <= within.total_seconds()


def counts(failure: Failure) -> bool:
    """Tell whether ``failure`` speaks against the dependency: waiting may help, or it asked for time."""
    return failure.kind in ("transient", "throttled")
