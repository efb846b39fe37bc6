"""Channels as lists in memory."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING

from pillarbox.channel import (
    OUT_OF_A_PLACE,
    Broker,
    BrokerCapabilities,
    Confirmed,
    Delivery,
    MessageReceiver,
    MessageSender,
    NotReady,
    Outcome,
    SendResult,
    Subscription,
    is_queue,
)
from pillarbox.channel.wakeup import Wakeup
from pillarbox.message import Message

if TYPE_CHECKING:
    from pillarbox.clock import Clock

CAPABILITIES = BrokerCapabilities(ordered_prefix=True, key_affinity=True, durable=False, transactional=False)


@dataclass(slots=True)
class _Box:
    """The messages that wait for one consumer (or on one queue), and who has been handed which."""

    waiting: dict[int, Message] = field(default_factory=dict[int, Message])
    owners: dict[int, MemoryReceiver] = field(default_factory=dict[int, "MemoryReceiver"])


class MemoryBroker(Broker, MessageSender):
    """Queues and topics in this process; several boxes may share one broker object."""

    def __init__(self, *, clock: Clock) -> None:
        """Begin with no channels."""
        self._clock = clock
        self._numbers = count(1)
        self._subscribers: dict[str, list[str]] = {}
        self._boxes: dict[tuple[str, str], _Box] = {}
        self._receivers: list[MemoryReceiver] = []

    @property
    def capabilities(self) -> BrokerCapabilities:
        """What lists in memory can do."""
        return CAPABILITIES

    async def open(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing: the messages stay with the object."""

    async def declare(self, subscriptions: Sequence[Subscription]) -> None:
        """Remember the consumers of each topic."""
        for subscription in subscriptions:
            for channel in subscription.channels:
                if not is_queue(channel) and subscription.consumer not in self._subscribers.setdefault(channel, []):
                    self._subscribers[channel].append(subscription.consumer)

    def sender(self) -> MessageSender:
        """Return this object."""
        return self

    def receiver(self, subscription: Subscription, *, owner: str) -> MessageReceiver:
        """Return a receiving end."""
        receiver = MemoryReceiver(self, subscription, clock=self._clock)
        self._receivers.append(receiver)
        return receiver

    async def send(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        """Put each message into the boxes of its consumers."""
        results = [self._put(message) for message in messages]
        for receiver in self._receivers:
            receiver.wakeup.ring()
        await asyncio.sleep(0)  # gives other tasks the turn that a network would  # noqa: TID251
        return results

    def boxes_of(self, subscription: Subscription) -> list[_Box]:
        """Return the boxes that a subscription takes from."""
        return [
            self._boxes.setdefault((channel, "" if is_queue(channel) else subscription.consumer), _Box())
            for channel in subscription.channels
        ]

    def forget(self, receiver: MemoryReceiver) -> None:
        """Hand everything that ``receiver`` holds to the others."""
        if receiver in self._receivers:
            self._receivers.remove(receiver)
        for other in self._receivers:
            other.wakeup.ring()

    def _put(self, message: Message) -> SendResult:
        consumers = [""] if is_queue(message.destination) else self._subscribers.get(message.destination, [])
        if not consumers:
            return NotReady(f"nobody subscribes to {message.destination}")
        for consumer in consumers:
            box = self._boxes.setdefault((message.destination, consumer), _Box())
            box.waiting[next(self._numbers)] = message
        return Confirmed()


class MemoryReceiver(MessageReceiver):
    """One instance's end; a key whose message is out stays with the instance that has it."""

    def __init__(self, broker: MemoryBroker, subscription: Subscription, *, clock: Clock) -> None:
        """Receive for ``subscription``."""
        self._broker = broker
        self._subscription = subscription
        self._clock = clock
        self._stopping = False
        self.wakeup = Wakeup()

    async def receive(self, limit: int, *, within: timedelta) -> Sequence[Delivery]:
        """Take what is free; wait for a message if nothing is."""
        deliveries = self._take(limit)
        if not deliveries and within > timedelta(0) and not self._stopping:
            await self.wakeup.wait(self._clock, within)
            deliveries = self._take(limit)
        return deliveries

    def stop(self) -> None:
        """Leave the wait."""
        self._stopping = True
        self.wakeup.ring()

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        """Drop what was accepted; make the rest free again."""
        numbers = {delivery.receipt for delivery in deliveries}
        for box in self._broker.boxes_of(self._subscription):
            for number in [number for number in box.owners if number in numbers]:
                if box.owners[number] is self:
                    del box.owners[number]
                    if outcome is Outcome.ACCEPTED:
                        del box.waiting[number]
        self.wakeup.ring()

    async def close(self) -> None:
        """Make free what is not settled."""
        for box in self._broker.boxes_of(self._subscription):
            for number in [number for number, owner in box.owners.items() if owner is self]:
                del box.owners[number]
        self._broker.forget(self)

    def _take(self, limit: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        for box in self._broker.boxes_of(self._subscription):
            elsewhere = {box.waiting[number].key for number, owner in box.owners.items() if owner is not self} - {None}
            out = Counter(box.waiting[number].key for number, owner in box.owners.items() if owner is self)
            for number, message in box.waiting.items():
                if len(deliveries) >= limit:
                    break
                is_free = number not in box.owners and message.key not in elsewhere
                if is_free and (message.key is None or out[message.key] < OUT_OF_A_PLACE):
                    out[message.key] += 1
                    box.owners[number] = self
                    deliveries.append(Delivery(message=message, receipt=number))
        return deliveries
