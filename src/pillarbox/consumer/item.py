"""A message in a consumer's hands, and what has become of it so far."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec

from pillarbox.channel import Delivery
from pillarbox.consumer.dependency import Probe
from pillarbox.deadletter.groups import Arrival
from pillarbox.errors.reading import text_of
from pillarbox.holding import FailedAttempt, HeldState, storable
from pillarbox.message import Message
from pillarbox.observe import Event
from pillarbox.ordering import Position
from pillarbox.retry import GiveUp, RetryLater

MAX_ERROR_CHARS = 2_000
FIRST_FAILURES, LAST_FAILURES = 10, 90
"""So many failures are kept of a message that fails more often: it is written anew after each of them."""
CONFLICTS_IN_A_ROW = 50
"""So often a database may ask for a message's transaction again; the next time is a failed attempt."""


class Item(msgspec.Struct, kw_only=True, eq=False):
    """One message under way.

    Attributes:
        hold_key: what it is held under if it must wait.
        delivery: where it came from; ``None`` when it comes out of holding.
        state: why it was held; ``None`` when it comes from a channel.
        attempts: how often its handler has failed or crashed.
        conflicts: how often in a row a database has asked its handler for another try.
        marks: the inbox rows that stand for it, once they are known; see ``Run.marks_of``.
        verdict: what was decided after the last failure, to be written by the next run.
        error: the last failure.
        probe: it is the one message that may find out whether what its consumer needs is back.
        is_left: its handler was not called, since what it needs is down; it goes back to where it came from.
        blocks: whether it holds its key when it is dead, where dead messages do.
        returned: there is no room for it: its channel is to deliver it again.
        awaits: the messages that must be handled before it and were not, when its gate looked.
        relies_on: messages before it in the same run that must be handled, or it is not.
        notice: what its intake or its gate wants told of once the run is durable.
        is_through: its handler is not called, and it counts as handled: what it asks for was done or must not be.
        arrival: what the group of its cause was before, once it is buried.
        line: where the line of its number stands, as the transaction knows that has locked it.
    """

    message: Message
    hold_key: str
    delivery: Delivery | None = None
    state: HeldState | None = None
    attempts: int = 0
    conflicts: int = 0
    history: tuple[FailedAttempt, ...] = ()
    marks: tuple[str, ...] = ()
    verdict: RetryLater | GiveUp | None = None
    error: BaseException | None = None
    probe: Probe | None = None
    is_left: bool = False
    blocks: bool = True
    returned: bool = False
    awaits: tuple[str, ...] = ()
    relies_on: frozenset[str] = frozenset()
    notice: Event | None = None
    is_through: bool = False
    arrival: Arrival | None = None
    line: Position | None = None

    @property
    def is_put_off(self) -> bool:
        """Whether it is to be looked at again later."""
        return isinstance(self.verdict, RetryLater)

    def is_repeated(self, *, is_conflict: bool) -> bool:
        """Count a conflict, anew after another failure; tell whether it is tried again as if it had not been."""
        self.conflicts = (self.conflicts + 1) % (CONFLICTS_IN_A_ROW + 1) if is_conflict else 0
        return self.conflicts > 0

    def failed(self, error: Exception, *, at: datetime, redact: Callable[[str], str]) -> None:
        """Add a failure to the history, as of the attempt counted last; ``redact`` goes over text that others wrote."""
        text = storable(redact(text_of(error)))[:MAX_ERROR_CHARS]
        failed = FailedAttempt(attempt=self.attempts, at=at, error_type=type(error).__qualname__, error=text)
        first, later = self.history[:FIRST_FAILURES], self.history[FIRST_FAILURES:]
        self.error, self.history = error, (*first, *later[-LAST_FAILURES + 1 :], failed)

    def give_up(self, reason: str, error: Exception, *, at: datetime, redact: Callable[[str], str]) -> None:
        """Decide that it is dead without an attempt of its handler."""
        self.failed(error, at=at, redact=redact)
        self.verdict = GiveUp(reason)
