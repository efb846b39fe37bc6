"""The sender that everybody of ours relays to: it confirms at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pillarbox import RelaySettings
from pillarbox.channel import Confirmed, MessageSender, SendResult
from pillarbox.message import Message
from tests.brokers import StandInBroker

_CONFIRMED = Confirmed()


class CountingBroker(StandInBroker, MessageSender):
    """Counts, and rings when as many as expected have come."""

    def __init__(self, expected: int, *, take: Callable[[Sequence[Message]], None] | None = None) -> None:
        """Give what comes to ``take`` too."""
        super().__init__()
        self.count = 0
        self.expected = expected
        self.when_all_came: Callable[[], None] = lambda: None
        self._take = take

    def sender(self) -> MessageSender:
        return self

    async def send(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        if self._take is not None:
            self._take(messages)
        self.count += len(messages)
        if self.count >= self.expected:
            self.when_all_came()
        return [_CONFIRMED] * len(messages)


def settings_of(kind: str) -> RelaySettings:
    """Return the default settings of a relay of this kind."""
    return RelaySettings(kind=kind)
