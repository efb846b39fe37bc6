"""A dependency as the consumers of one process see it: who may call it now, and what calls tell of it.

Failures are counted in the process and cost nothing while calls succeed; only that the breaker opened, is probed and
closed again is shared, through the store. Where a process has opened it, its own consumers pause at once, the others as
soon as they look, or have seen the same failures.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from pillarbox.consumer.circuits import CircuitStore
from pillarbox.errors import BrokerUnavailableError, DependencyDownError, StoreUnavailableError
from pillarbox.observe import BreakerClosed, BreakerOpened, Observer
from pillarbox.retry import Circuit, CircuitBreaker, Failure, Streak, counts
from pillarbox.retry.budget import RetryBudget
from pillarbox.transaction import Program, TransactionSource

if TYPE_CHECKING:
    from pillarbox.clock import Clock

LOOK_EVERY_S, LOOK_AGAIN_S = 1.0, 0.25
"""How long what was read is good for: while it is closed, and while it is not."""
OURS = (StoreUnavailableError, BrokerUnavailableError)
"""Failures of what carries the messages; they say nothing of what handlers call."""


@dataclass(slots=True)
class Probe:
    """The one call that may be made to a dependency that was down, and what came of it.

    Attributes:
        circuit: the half-open circuit under which it is made.
        answer: whether the dependency answered; ``None`` while no call was made, or none that tells.
        pause: how long it stays open after a failure, for the reason that ``error_type`` names.
    """

    circuit: Circuit
    answer: bool | None = None
    pause: timedelta = timedelta(0)
    error_type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """This process has opened the breaker and not yet told the others."""

    at: float
    pause: timedelta
    error_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """How the dependencies of a process share what they find out.

    Attributes:
        new_token: makes a token that no other process makes.
        lease: how long a probe may take to answer.
    """

    circuits: CircuitStore
    source: TransactionSource
    clock: Clock
    observer: Observer
    new_token: Callable[[], str]
    dice: Callable[[], float]
    lease: timedelta


class Needs:
    """What a consumer needs besides its database: nothing."""

    @property
    def is_shut(self) -> bool:
        """Whether handlers may not be called, except for a probe."""
        return False

    @property
    def may_be_probed(self) -> bool:
        """Whether it is worth asking for the probe."""
        return False

    def succeeded(self, probe: Probe | None) -> None:
        """Note that a handler returned; may be called in a thread."""

    def may_retry(self) -> bool:
        """Take one attempt in place; return whether there is one left. May be called in a thread."""
        return True

    def failed(self, failure: Failure, error: Exception, *, is_last: bool, probe: Probe | None) -> timedelta | None:
        """Note a failure; return how long its message waits without an attempt counted, or ``None`` if it counts.

        May be called in a thread.

        Args:
            failure: of what kind it is.
            error: the exception itself.
            is_last: its message would be dead now.
            probe: what its message carries.
        """
        return None

    async def look(self) -> None:
        """Tell the other processes what is to be told, and see what they have found out, now and then."""

    async def probe(self) -> Probe | None:
        """Take the probe, if it is there to be taken; whoever takes it settles it."""
        return None

    async def settle(self, probe: Probe | None) -> None:
        """Tell everybody what came of the probe."""


NOTHING = Needs()


class Dependency(Needs):
    """One dependency, shared by all consumers of the process that need it."""

    def __init__(self, identity: str, breaker: CircuitBreaker, sharing: Sharing) -> None:
        """Share what is known of ``identity``."""
        self.identity = identity
        self._breaker = breaker
        self._circuits = sharing.circuits
        self._source = sharing.source
        self._clock = sharing.clock
        self._observer = sharing.observer
        self._new_token = sharing.new_token
        self._dice = sharing.dice
        self._lease = sharing.lease
        self._lock = threading.Lock()
        self._streak = Streak()
        self._budget = RetryBudget(breaker.retries)
        self._trip: Trip | None = None
        self._read = Circuit()
        self._read_at = self._look_at = self._succeeded_at = float("-inf")

    @property
    def is_shut(self) -> bool:
        """Whether it is open or half-open, as far as this process knows."""
        return self._trip is not None or not self._read.is_closed

    @property
    def may_be_probed(self) -> bool:
        """Whether its pause is over."""
        return self._trip is None and self._circuit().may_be_probed

    def succeeded(self, probe: Probe | None) -> None:
        """End the streak, or answer the probe."""
        self._succeeded_at = self._clock.monotonic()
        with self._lock:
            self._budget.succeeded()
        if probe is not None:
            probe.answer = True
        elif self._streak.times:
            self._streak = Streak()

    def may_retry(self) -> bool:
        """Spend one attempt of the budget."""
        with self._lock:
            return self._budget.spend()

    def failed(self, failure: Failure, error: Exception, *, is_last: bool, probe: Probe | None) -> timedelta | None:
        """Count the failure, if it speaks against the dependency; while that is down, no attempt is.

        Nor is a message given up unless a call has succeeded between its failures: else these are enough of them.
        """
        if not counts(failure) or isinstance(error, OURS):
            return None
        error_type = type(error).__qualname__
        if probe is not None:
            openings = probe.circuit.openings + 1
            probe.answer, probe.error_type = False, error_type
            probe.pause = self._breaker.pause(openings, dice=self._dice(), asked=failure.retry_after)
            return probe.pause
        with self._lock:
            if self.is_shut:
                return self._left()
            now = self._clock.monotonic()
            self._streak = self._streak.failed(now, failures=max(self._breaker.failures, 2))
            if not (isinstance(error, DependencyDownError) or self._is_enough(now, is_last=is_last)):
                return None
            pause = self._breaker.pause(1, dice=self._dice(), asked=failure.retry_after)
            self._trip, self._streak = Trip(at=now, pause=pause, error_type=error_type), Streak()
            return pause

    def _is_enough(self, now: float, *, is_last: bool) -> bool:
        """Tell whether the streak opens the breaker."""
        within = self._breaker.within
        if self._streak.opens(failures=self._breaker.failures, within=within):
            return True
        works = now - self._succeeded_at <= within.total_seconds()
        return is_last and (not works or self._streak.opens(failures=2, within=within))

    async def look(self) -> None:
        """Tell of a breaker that opened here; read what others have written when the last look was long ago."""
        if (trip := self._trip) is not None:
            asked_at = self._clock.monotonic()
            left = max(trip.pause - timedelta(seconds=asked_at - trip.at), timedelta(0))
            opened = await self._source.run(self._open(left, trip.error_type))
            await self._refresh()
            if self._trip is trip:
                self._trip = None
            if opened is not None:
                self._tell_opened(opened)
        elif self._clock.monotonic() >= self._look_at:
            self._look_at = self._clock.monotonic() + (LOOK_EVERY_S if self._read.is_closed else LOOK_AGAIN_S)
            await self._refresh()

    async def probe(self) -> Probe | None:
        """Change the circuit to half-open, if nobody else has."""
        if not self.may_be_probed:
            return None
        before = self._circuit()
        circuit = before.probed(self._new_token(), lease=self._lease)
        taken = await self._source.run(self._circuits.change(self.identity, circuit, expected=before.version))
        await self._refresh()
        return Probe(circuit) if taken else None

    async def settle(self, probe: Probe | None) -> None:
        """Close the circuit, or open it again; nothing where the probe was taken over meanwhile."""
        if probe is None:
            return
        circuit = probe.circuit
        if probe.answer is None:
            after = circuit.unanswered()
        else:
            after = circuit.closed() if probe.answer else circuit.opened(probe.pause, reason=probe.error_type)
        changed = await self._source.run(self._circuits.change(self.identity, after, expected=circuit.version))
        away_for = self._circuit().away_for
        await self._refresh()
        if changed and probe.answer:
            self._observer.notice(BreakerClosed(dependency=self.identity, away_for=away_for))
        elif changed and probe.answer is False:
            self._tell_opened(after)

    def _open(self, pause: timedelta, error_type: str) -> Program[Circuit | None]:
        """Open the circuit; ``None`` if somebody else has."""
        before = yield from self._circuits.read(self.identity)
        after = before.opened(pause, reason=error_type)
        is_mine = before.is_closed and (yield from self._circuits.change(self.identity, after, expected=before.version))
        return after if is_mine else None

    def _tell_opened(self, circuit: Circuit) -> None:
        self._observer.notice(
            BreakerOpened(
                dependency=self.identity,
                error_type=circuit.reason,
                openings=circuit.openings,
                retry_after=circuit.wait,
            )
        )

    async def _refresh(self) -> None:
        asked_at = self._clock.monotonic()
        read = await self._source.run_single(self._circuits.read(self.identity))
        if asked_at >= self._read_at:  # two looks may overtake each other
            self._read, self._read_at = read, asked_at

    def _circuit(self) -> Circuit:
        """Return what was read, as it must be by now."""
        return self._read.later(timedelta(seconds=max(self._clock.monotonic() - self._read_at, 0)))

    def _left(self) -> timedelta:
        """Return how long a message waits whose call failed while the breaker is open already."""
        if (trip := self._trip) is not None:
            return max(trip.pause - timedelta(seconds=self._clock.monotonic() - trip.at), timedelta(0))
        return min(self._circuit().wait, self._breaker.longest)
