"""A broker that gives every receiver its own copy of the same messages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from pillarbox.channel import Delivery, MessageReceiver, Outcome, Subscription
from pillarbox.message import Message
from tests.brokers import StandInBroker
from tests.fault.story import stay_open


class CopyingBroker(StandInBroker):
    """Gives every receiver its own copy of ``messages``, once, when the gate opens."""

    def __init__(self, messages: Sequence[Message], gate: asyncio.Event) -> None:
        super().__init__(durable=False)
        self.messages = messages
        self.gate = gate
        self.accepted: list[str] = []

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
