"""What another release of a consumer handles, and this one does not: it waits for a process of that release."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from pillarbox.consumer.guard import Guard
from pillarbox.consumer.item import Item
from pillarbox.consumer.registry import ConsumerRegistry
from pillarbox.consumer.report import without
from pillarbox.consumer.spec import Consumer
from pillarbox.observe import MessageHeld
from pillarbox.outbox import OutboxRecord
from pillarbox.retry import RetryLater
from pillarbox.transaction import Program

LOOK_AGAIN = timedelta(seconds=1)
"""When a message is looked at again that only another release handles; whoever does so may be of that one."""


class OtherReleases(Guard):
    """Puts messages aside that this process would discard or bury, while another one of the consumer handles them."""

    def __init__(self, inner: Guard, consumer: Consumer, *, registry: ConsumerRegistry) -> None:
        """Let ``inner`` look at the messages of ``consumer`` that are known here, or that nobody knows."""
        self._inner = inner
        self._consumer = consumer
        self._registry = registry

    def look(self, items: Sequence[Item]) -> Program[None]:
        """Ask for the types of all releases, if there is one that is not known here."""
        unknown = [item for item in items if item.verdict is None and not self._consumer.knows(item.message)]
        types = (yield from self._registry.types_of(self._consumer.identity)) if unknown else ()
        aside = [item for item in unknown if item.message.type in types]
        for item in aside:
            item.verdict = RetryLater(LOOK_AGAIN)
            if item.state is None:  # else it was told when it came
                item.notice = MessageHeld(consumer=self._consumer.identity, message_id=item.message.id)
        yield from self._inner.look(without(items, aside))

    def done(self, items: Sequence[Item], records: Sequence[OutboxRecord]) -> Program[None]:
        """Leave it to the inner one."""
        return self._inner.done(items, records)
