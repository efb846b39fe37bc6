"""Listens to every topic and sends some messages to the broker a second time, as a broker or a relay in trouble would.

EIP: *Wire Tap*.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import uuid4

from pillarbox import Pillarbox
from pillarbox.brokers.database import DatabaseBroker
from pillarbox.channel import Confirmed, Delivery, Outcome, Subscription, is_queue
from pillarbox.demo.mischief import Mischief
from pillarbox.errors import ConflictError, TransientError
from pillarbox.message import message_type_of

NAME = "chaos/wire-tap"
BATCH = 100
WITHIN = timedelta(milliseconds=500)
PAUSE = timedelta(milliseconds=100)


class WireTap:
    """Duplicates the messages that the mischief has chosen, each once."""

    def __init__(
        self, box: Pillarbox, broker: DatabaseBroker, *, types: Sequence[type[object]], mischief: Mischief
    ) -> None:
        """Listen to the topics of ``types`` on ``broker``, which is the store of ``box``."""
        topics = {message_type_of(kind).destination for kind in types}
        self._subscription = Subscription(
            consumer=NAME, channels=tuple(sorted(topic for topic in topics if not is_queue(topic)))
        )
        self._box = box
        self._broker = broker
        self._mischief = mischief
        self._sent: set[str] = set()
        self._stopping = False

    @property
    def duplicated(self) -> int:
        """How many messages were sent a second time."""
        return len(self._sent)

    @asynccontextmanager
    async def tapping(self) -> AsyncGenerator[None]:
        """Listen for as long as the block lasts; everything published from its start on is heard."""
        await self._broker.declare([self._subscription])
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            try:
                yield
            finally:
                self._stopping = True

    async def _listen(self) -> None:
        receiver = self._broker.receiver(self._subscription, owner=f"{NAME}-{uuid4().hex}")
        while not self._stopping:
            deliveries: Sequence[Delivery] = ()
            try:
                deliveries = await receiver.receive(BATCH, within=WITHIN)
                if deliveries:
                    await self._duplicate(deliveries)
                    await self._box.store.run(receiver.accept_within(deliveries))
                    await receiver.settle(deliveries, Outcome.ACCEPTED)
            except (TransientError, ConflictError):
                await receiver.settle(deliveries, Outcome.RETURNED)
                await self._box.settings.clock.sleep(PAUSE)
        await receiver.close()

    async def _duplicate(self, deliveries: Sequence[Delivery]) -> None:
        chosen = [
            delivery.message
            for delivery in deliveries
            if delivery.message.id not in self._sent
            and self._mischief.is_duplicated(delivery.message.type, delivery.message.key or "")
        ]
        if chosen:
            results = await self._broker.sender().send(chosen)
            self._sent |= {one.id for one, result in zip(chosen, results, strict=True) if isinstance(result, Confirmed)}
