"""A message in a consumer's hands, and what has become of it so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from pillarbox.channel import Delivery
from pillarbox.holding import FailedAttempt, HeldState
from pillarbox.message import Message
from pillarbox.ordering import Position
from pillarbox.retry import GiveUp, RetryLater


@dataclass(slots=True, kw_only=True, eq=False)
class Item:
    """One message under way.

    Attributes:
        hold_key: what it is held under if it must wait.
        delivery: where it came from; ``None`` when it comes out of holding.
        state: why it was held; ``None`` when it comes from a channel.
        attempts: how often its handler has failed or crashed.
        verdict: what was decided after the last failure, to be written by the next run.
        error: the last failure.
        blocks: whether it holds its key when it is dead, where dead messages do.
        returned: there is no room for it: its channel is to deliver it again.
        line: where the line of its number stands, as the transaction knows that has locked it.
    """

    message: Message
    hold_key: str
    delivery: Delivery | None = None
    state: HeldState | None = None
    attempts: int = 0
    history: tuple[FailedAttempt, ...] = ()
    verdict: RetryLater | GiveUp | None = None
    error: BaseException | None = field(default=None, repr=False)
    blocks: bool = True
    returned: bool = False
    line: Position | None = None
