"""A broker that gives every receiver its own copy of the same messages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from pillarbox.channel import (
    Broker,
    BrokerCapabilities,
    Delivery,
    MessageReceiver,
    MessageSender,
    Outcome,
    Subscription,
)
from pillarbox.message import Message
from tests.fault.story import stay_open


@dataclass(slots=True)
class CopyingBroker(Broker):
    """Gives every receiver its own copy of ``message``, once, when the gate opens."""

    messages: Sequence[Message]
    gate: asyncio.Event
    accepted: list[str] = field(default_factory=list)

    @property
    def capabilities(self) -> BrokerCapabilities:
        return BrokerCapabilities(ordered_prefix=True, key_affinity=True, durable=False, transactional=False)

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def declare(self, subscriptions: Sequence[Subscription]) -> None:
        pass

    def sender(self) -> MessageSender:
        raise NotImplementedError

    def receiver(self, subscription: Subscription, *, owner: str) -> MessageReceiver:
        return CopyingReceiver(self, [Delivery(message=one, receipt=one.id) for one in self.messages])


@dataclass(slots=True)
class CopyingReceiver(MessageReceiver):
    broker: CopyingBroker
    waiting: list[Delivery]

    async def receive(self, limit: int, *, within: timedelta) -> Sequence[Delivery]:
        await self.broker.gate.wait()
        if not self.waiting:
            await stay_open(5)
        given, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return given

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        if outcome is Outcome.RETURNED:
            self.waiting = [*deliveries, *self.waiting]
        else:
            self.broker.accepted += [delivery.message.id for delivery in deliveries]

    async def close(self) -> None:
        pass
