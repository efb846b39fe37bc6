"""The receiving end: leased partitions, each read by a channel of its own.

The lease decides who reads a queue. The server hands a queue's messages to one channel at a time, so whoever takes over
from an owner that was paused or cut off waits until the server has given that one up, and then gets what it had not
acknowledged, in order, before anything that follows.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from pamqp import commands

from pillarbox.brokers.partitions import Shares, by_place, hand_out
from pillarbox.brokers.rabbitmq.channel import NOT_FOUND, Channel
from pillarbox.brokers.rabbitmq.declaring import declare
from pillarbox.brokers.rabbitmq.envelope import read_death, unpack
from pillarbox.brokers.rabbitmq.layout import dead_of, place_of, queue_of
from pillarbox.brokers.rabbitmq.line import Line
from pillarbox.brokers.rabbitmq.share import QueueShare
from pillarbox.brokers.rabbitmq.wire import NAME, Wire
from pillarbox.channel import Delivery, MessageReceiver, Outcome, Subscription
from pillarbox.channel.wakeup import Wakeup
from pillarbox.errors import BrokerUnavailableError, ConfigurationError
from pillarbox.serialization import NO_FOREIGN, ForeignMessages

if TYPE_CHECKING:
    from pillarbox.lease import LeaseKeeper

logger = logging.getLogger("pillarbox.brokers.rabbitmq")

PREFETCH: Final = 100
"""Messages of a partition that are here and not acknowledged.

The same for all instances: whoever takes over gets at once all that its predecessor had. One that took fewer, and left
early, would give these back behind the rest.
"""
WITHOUT_WORK: Final = timedelta(milliseconds=100)
AFTER_A_REFUSAL_S: Final = 1.0
CANCELLED: Final = (
    "the server ended the reading of %s: the queue was deleted or moved, or a handler took longer than consumer_timeout"
)
READS_THE_DEAD: Final = 0
"""Whoever leases this partition reads what the server would not deliver from any of them."""


class RabbitMqReceiver(MessageReceiver):
    """One instance's share of a consumer's messages."""

    def __init__(
        self,
        subscription: Subscription,
        *,
        line: Line,
        keeper: LeaseKeeper,
        foreign: Mapping[str, ForeignMessages] = NO_FOREIGN,
    ) -> None:
        """Receive for ``subscription`` what lies in the partitions that ``keeper`` leases."""
        self._subscription = subscription
        self._line = line
        self._keeper = keeper
        self._clock = keeper.clock
        self._foreign = foreign
        self._came = Wakeup()
        self._arrivals = 0
        self._stopping = False
        consumer = subscription.consumer
        self._shares = Shares(
            subscription,
            keeper,
            make=lambda channel, partition: QueueShare(queue_of(channel, consumer, partition), channel, partition),
            beside=[
                QueueShare(dead_of(place_of(channel, consumer)), channel, READS_THE_DEAD, is_dead=True)
                for channel in subscription.channels
            ],
        )

    async def receive(self, limit: int, *, within: timedelta) -> Sequence[Delivery]:
        """Renew the leases, then hand out what came or wait for it."""
        deadline = self._clock.monotonic() + within.total_seconds()
        while True:
            mine = await self._keep()
            if limit and mine:
                refusal = await self._read(mine)
                if deliveries := hand_out(mine, limit):
                    return deliveries
                if refusal is not None:
                    raise refusal
            left = timedelta(seconds=deadline - self._clock.monotonic())
            if left <= timedelta(0) or self._stopping:
                return ()
            if limit and mine:
                await self._came.wait(self._clock, min(left, self._keeper.due_in))
            else:
                await self._clock.sleep(min(left, WITHOUT_WORK))

    def stop(self) -> None:
        """Leave the wait."""
        self._stopping = True
        self._came.ring()

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        """Acknowledge, or hand out again in order; the server hears of what was accepted only.

        An acknowledgement has no answer. One that is lost with its connection means that the message comes again.
        """
        for name, receipts in by_place(deliveries).items():
            share = self._shares[name]
            if outcome is Outcome.RETURNED:
                share.give_back(receipts)
            elif (tags := share.accept(receipts)) and share.reader is not None:
                share.reader.acknowledge(tags)

    def still_ours(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return those whose partition was not lost since."""
        return self._shares.still_ours(deliveries)

    async def close(self) -> None:
        """Give the partitions back, and with them what is not settled."""
        await self._shares.leave()

    async def _keep(self) -> list[QueueShare]:
        """Renew the leases; whoever cannot, lets go of what it may have lost: another waits for it."""
        try:
            return await self._shares.keep()
        except BaseException:
            for share in self._shares:
                if share.partition not in self._keeper.tokens:
                    share.forget()
            raise

    async def _read(self, mine: Sequence[QueueShare]) -> BrokerUnavailableError | None:
        """See to it that each of ``mine`` is read; return what the server had against one since the last time.

        Nothing waits for the server's consent, so a queue that is sick does not keep the others waiting.

        Raises:
            BrokerUnavailableError: the server cannot be reached.
        """
        now = self._clock.monotonic()
        told: BrokerUnavailableError | None = None
        for share in mine:
            if share.is_cancelled:
                logger.warning(CANCELLED, share.name)
            refusal = share.notice_loss()
            share.restore()
            if refusal is not None:
                share.opens_from = now + AFTER_A_REFUSAL_S
                told = BrokerUnavailableError(broker=NAME, reason=f"{share.name} is not read: {refusal}")
                logger.warning("%s", told.reason)
                if refusal.code == NOT_FOUND:
                    await self._mend()
        for share in mine:
            if share.is_to_be_opened(now):
                self._open(await self._line.wire(), share)
        return told

    def _open(self, wire: Wire, share: QueueShare) -> None:
        foreign = self._foreign.get(share.channel)

        def deliver(tag: int, packed: bytes, body: bytes) -> None:
            if share.reader is reader:
                self._arrivals += 1
                death = read_death(packed, queue=share.name) if share.is_dead else None
                queue = share.name if death is None else death.place
                message = unpack(
                    packed, body, channel=share.channel, queue=queue, foreign=foreign, was_put_aside=share.is_dead
                )
                share.arrived(self._arrivals, tag, message, death)
                self._came.ring()

        token = self._keeper.tokens.get(share.partition)
        if token is None:
            return  # it ended while a connection was made
        reader = Channel(wire, deliver=deliver, wake=self._came.ring)
        share.read_by(reader, token)
        reader.put(commands.Basic.Qos(prefetch_count=PREFETCH))
        reader.put(commands.Basic.Consume(queue=share.name))

    async def _mend(self) -> None:
        """Make again what somebody deleted.

        Raises:
            BrokerUnavailableError: it cannot be made now, or not while something else has its name.
        """
        try:
            await declare(self._line, self._subscription)
        except ConfigurationError as error:
            raise BrokerUnavailableError(broker=NAME, reason=str(error)) from error
