"""Our polling relay, to a broker that confirms everything and counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from benchmarks.competitors.backlog import fill
from benchmarks.measure import Stopwatch, task
from pillarbox import Pillarbox
from pillarbox.channel import (
    Broker,
    BrokerCapabilities,
    Confirmed,
    MessageReceiver,
    MessageSender,
    SendResult,
    Subscription,
)
from pillarbox.message import Message

CAPABILITIES = BrokerCapabilities(ordered_prefix=True, key_affinity=True, durable=True, transactional=False)
_CONFIRMED = Confirmed()


class CountingBroker(Broker):
    """Counts, and rings when all have come."""

    def __init__(self, expected: int) -> None:
        self.count = 0
        self._expected = expected
        self.when_all_came: Callable[[], None] = lambda: None

    @property
    def capabilities(self) -> BrokerCapabilities:
        return CAPABILITIES

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def declare(self, subscriptions: Sequence[Subscription]) -> None:
        pass

    def sender(self) -> MessageSender:
        return _CountingSender(self)

    def receiver(self, subscription: Subscription, *, owner: str) -> MessageReceiver:
        raise NotImplementedError

    def take(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        """Count ``messages`` and confirm them."""
        self.count += len(messages)
        if self.count >= self._expected:
            self.when_all_came()
        return [_CONFIRMED] * len(messages)


class _CountingSender(MessageSender):
    def __init__(self, broker: CountingBroker) -> None:
        self._broker = broker

    @property
    def capabilities(self) -> BrokerCapabilities:
        return CAPABILITIES

    async def send(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        return self._broker.take(messages)


async def main() -> None:
    """Fill the outbox, drain it, and see that nothing is left."""
    todo = task()
    broker = CountingBroker(todo.count)
    box = Pillarbox("bench", store=todo.url, broker=broker)
    await fill(box, todo.count)
    broker.when_all_came = box.stop
    async with box:
        stopwatch = Stopwatch(todo)
        stopwatch.start()
        await box.run(consumers=False)
        stopwatch.report(broker.count)
        assert (await box.store.run(box.store.outbox.state())).pending == 0


asyncio.run(main())
