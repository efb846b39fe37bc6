"""A message in a consumer's hands, and what has become of it so far."""

from __future__ import annotations

import msgspec

from pillarbox.channel import Delivery
from pillarbox.consumer.dependency import Probe
from pillarbox.holding import FailedAttempt, HeldState
from pillarbox.message import Message
from pillarbox.retry import GiveUp, RetryLater


class Item(msgspec.Struct, kw_only=True, eq=False):
    """One message under way.

    Attributes:
        hold_key: what it is held under if it must wait.
        delivery: where it came from; ``None`` when it comes out of holding.
        state: why it was held; ``None`` when it comes from a channel.
        attempts: how often its handler has failed or crashed.
        verdict: what was decided after the last failure, to be written by the next run.
        error: the last failure.
        probe: it is the one message that may find out whether what its consumer needs is back.
        is_left: its handler was not called, since what it needs is down; it goes back to where it came from.
    """

    message: Message
    hold_key: str
    delivery: Delivery | None = None
    state: HeldState | None = None
    attempts: int = 0
    history: tuple[FailedAttempt, ...] = ()
    verdict: RetryLater | GiveUp | None = None
    error: BaseException | None = None
    probe: Probe | None = None
    is_left: bool = False
