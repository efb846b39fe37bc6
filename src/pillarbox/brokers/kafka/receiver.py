"""The receiving end: what the thread of this instance has read, handed out and settled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from pillarbox.brokers.kafka.layout import topic_of
from pillarbox.brokers.kafka.pump import Pump
from pillarbox.brokers.kafka.recreation import RecreationWatch
from pillarbox.brokers.kafka.topics import Topics
from pillarbox.brokers.kafka.translation import NAME, logger
from pillarbox.channel import Delivery, MessageReceiver, Outcome, Subscription
from pillarbox.channel.wakeup import Wakeup
from pillarbox.errors import BrokerUnavailableError
from pillarbox.serialization import NO_FOREIGN, ForeignMessages

if TYPE_CHECKING:
    from pillarbox.brokers.kafka.settings import KafkaSettings
    from pillarbox.clock import Clock

LEAVE_WITHIN_S: Final = 5.0


class KafkaReceiver(MessageReceiver):
    """One instance's share of a consumer's messages; the group says which partitions."""

    def __init__(
        self,
        subscription: Subscription,
        *,
        settings: KafkaSettings,
        clock: Clock,
        foreign: Mapping[str, ForeignMessages] = NO_FOREIGN,
    ) -> None:
        """Receive for ``subscription``; connects to nothing."""
        self._subscription = subscription
        self._settings = settings
        self._clock = clock
        self._foreign = foreign
        self._news = Wakeup()
        self._pump: Pump | None = None
        self._stopping = False

    async def receive(self, limit: int, *, within: timedelta) -> Sequence[Delivery]:
        """Hand out what was read, or wait for it."""
        pump = self._pump or self._join()
        deadline = self._clock.monotonic() + within.total_seconds()
        while True:
            if deliveries := pump.hand_out(limit):
                return deliveries
            if pump.has_ended:
                self._pump = None
            if trouble := pump.take_trouble():
                raise BrokerUnavailableError(broker=NAME, reason=trouble)
            left = timedelta(seconds=deadline - self._clock.monotonic())
            if left <= timedelta(0) or self._stopping or self._pump is None:
                return ()
            await self._news.wait(self._clock, left)

    def stop(self) -> None:
        """Leave the wait."""
        self._stopping = True
        self._news.ring()

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        """Note it; the group is told by the thread, and a place that never reached it is found again."""
        if self._pump is None:
            return
        if outcome is Outcome.ACCEPTED:
            self._pump.accept(deliveries)
        else:
            self._pump.give_back(deliveries)
        self._news.ring()  # of a partition of which enough was out there may be more

    async def close(self) -> None:
        """Leave the group; what is not settled goes to whoever gets its partition."""
        pump, self._pump = self._pump, None
        if pump is None:
            return
        pump.stop()
        if not await asyncio.to_thread(pump.join, LEAVE_WITHIN_S):
            logger.warning("%s could not leave its group in time", self._subscription.consumer)

    def _join(self) -> Pump:
        loop = asyncio.get_running_loop()

        def news() -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be gone by now
                loop.call_soon_threadsafe(self._news.ring)

        channels = {topic_of(channel): channel for channel in self._subscription.channels}
        topics = Topics(self._settings, self._clock)
        self._pump = Pump(
            self._subscription.consumer,
            channels,
            settings=self._settings,
            clock=self._clock,
            news=news,
            foreign=self._foreign,
            recreated=RecreationWatch(list(channels), topics=topics, clock=self._clock).recreated,
        )
        self._pump.start()
        return self._pump
