"""Consumers that are made by two at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from pillarbox.brokers.nats.api import JetStream, Refusal
from pillarbox.brokers.nats.consumers import CONSUMER, declare
from pillarbox.brokers.nats.layout import subject_of
from pillarbox.channel import Subscription
from pillarbox.errors import BrokerUnavailableError

if TYPE_CHECKING:
    from pillarbox.brokers.nats.connection import NatsConnection

TOPIC = "topic:order"


class Refusing(JetStream):
    """Has a stream, and refuses to make a consumer; it may be that somebody else has made it a moment before."""

    def __init__(self, *, made_by_others: bool) -> None:
        super().__init__(cast("NatsConnection", None))
        self._made_by_others = made_by_others
        self._there = set[str]()

    async def ask(self, question: str, **what: Any) -> dict[str, Any]:
        kind, _, name = question.partition(f".{TOPIC}")
        match kind:
            case "STREAM.INFO":
                return {"config": {"subjects": [subject_of(TOPIC, "*")]}}
            case "CONSUMER.LIST":
                return {"consumers": [], "total": 0}
            case "CONSUMER.INFO" if name in self._there:
                info = {"consumer_seq": 0, "stream_seq": 0}
                return {
                    "name": name[1:],
                    "config": CONSUMER,
                    "created": "",
                    "delivered": info,
                    "ack_floor": info,
                    "num_ack_pending": 0,
                }
            case "CONSUMER.INFO":
                raise Refusal(404, "consumer not found")
            case _:
                if self._made_by_others:
                    self._there.add(name)
                raise Refusal(400, "deliver policy can not be updated")


SUBSCRIPTION = Subscription(consumer="shop/stock", channels=(TOPIC,))


async def test_a_consumer_that_another_instance_made_to_begin_elsewhere_is_there() -> None:
    await declare(Refusing(made_by_others=True), SUBSCRIPTION, replicas=1)


async def test_a_consumer_that_cannot_be_made_is_told_of() -> None:
    with pytest.raises(BrokerUnavailableError, match="deliver policy"):
        await declare(Refusing(made_by_others=False), SUBSCRIPTION, replicas=1)
