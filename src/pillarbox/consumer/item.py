"""A message in a consumer's hands, and what has become of it so far."""

from __future__ import annotations

import msgspec

from pillarbox.channel import Delivery
from pillarbox.consumer.dependency import Probe
from pillarbox.holding import FailedAttempt, HeldState
from pillarbox.message import Message
from pillarbox.observe import Event
from pillarbox.ordering import Position
from pillarbox.retry import GiveUp, RetryLater


class Item(msgspec.Struct, kw_only=True, eq=False):
    """One message under way.

    Attributes:
        hold_key: what it is held under if it must wait.
        delivery: where it came from; ``None`` when it comes out of holding.
        state: why it was held; ``None`` when it comes from a channel.
        attempts: how often its handler has failed or crashed.
        marks: the inbox rows that stand for it, once they are known; see ``Run.marks_of``.
        verdict: what was decided after the last failure, to be written by the next run.
        error: the last failure.
        probe: it is the one message that may find out whether what its consumer needs is back.
        is_left: its handler was not called, since what it needs is down; it goes back to where it came from.
        blocks: whether it holds its key when it is dead, where dead messages do.
        returned: there is no room for it: its channel is to deliver it again.
        awaits: the messages that must be handled before it and were not, when its gate looked.
        relies_on: messages before it in the same run that must be handled, or it is not.
        notice: what its gate wants told of once the run is durable.
        line: where the line of its number stands, as the transaction knows that has locked it.
    """

    message: Message
    hold_key: str
    delivery: Delivery | None = None
    state: HeldState | None = None
    attempts: int = 0
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
    line: Position | None = None
