"""Apache Kafka as the broker of a box."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from pillarbox.brokers.kafka.diagnosis import judge_kafka, look
from pillarbox.brokers.kafka.founding import Founder
from pillarbox.brokers.kafka.layout import topic_of
from pillarbox.brokers.kafka.producer import BatchProducer
from pillarbox.brokers.kafka.receiver import KafkaReceiver
from pillarbox.brokers.kafka.sender import KafkaSender, capabilities_of
from pillarbox.brokers.kafka.settings import KafkaSettings, settings_of
from pillarbox.brokers.kafka.topics import Topics
from pillarbox.brokers.kafka.translation import logger
from pillarbox.brokers.partitions import two_consumers
from pillarbox.channel import Broker, BrokerCapabilities, MessageReceiver, MessageSender, Subscription, is_queue
from pillarbox.control.diagnosis import Finding, SharedWithOthers
from pillarbox.errors import ConfigurationError
from pillarbox.serialization import NO_FOREIGN, ForeignMessages
from pillarbox.transaction.threads import in_thread

if TYPE_CHECKING:
    from pillarbox.clock import Clock

CONFIRM_AT_MOST: Final = timedelta(seconds=3.5)


class KafkaBroker(Broker, SharedWithOthers):
    """Queues and topics as topics of Kafka; a consumer is a group, and the group shares out the partitions."""

    def __init__(
        self, settings: KafkaSettings, *, clock: Clock, foreign: Mapping[str, ForeignMessages] = NO_FOREIGN
    ) -> None:
        """Reach the servers of ``settings``; connects to nothing."""
        self._settings = settings
        self._clock = clock
        self._foreign = foreign
        self._topics = Topics(settings, clock)
        self._producer = BatchProducer(settings, clock)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="pillarbox kafka send")
        self._ours = set[str]()

    @property
    def capabilities(self) -> BrokerCapabilities:
        return capabilities_of(self._settings)

    async def open(self) -> None:
        await in_thread(self._topics.reach)

    async def close(self) -> None:
        executor, self._executor = self._executor, ThreadPoolExecutor(1, thread_name_prefix="pillarbox kafka send")
        executor.submit(self._producer.close)
        await in_thread(executor.shutdown)

    async def declare(self, subscriptions: Sequence[Subscription]) -> None:
        for subscription in subscriptions:
            await in_thread(partial(self._declare, subscription))

    def look_at(self, channels: Iterable[str], /) -> None:
        self._ours.update(topic_of(channel) for channel in channels)

    async def diagnose(self, *, deep: bool) -> Sequence[Finding]:
        return judge_kafka(await in_thread(partial(look, self._topics, self._ours)), self._settings)

    def sender(self) -> MessageSender:
        return KafkaSender(self._settings, producer=self._producer, topics=self._topics, executor=self._executor)

    def receiver(self, subscription: Subscription, *, owner: str) -> MessageReceiver:
        return KafkaReceiver(subscription, settings=self._settings, clock=self._clock, foreign=self._foreign)

    def _declare(self, subscription: Subscription) -> None:
        names = [topic_of(channel) for channel in subscription.channels]
        found = self._topics.make(names)
        for name, partitions in found.items():
            if partitions != self._settings.partitions:
                drift = "the topic %s has %s partitions, declared are %s; it is left as it is"
                logger.warning(drift, name, partitions, self._settings.partitions)
        for channel in subscription.channels:
            if is_queue(channel):
                self._check_alone(channel, found[topic_of(channel)], subscription.consumer)
        self._ours.update(names)
        late = self._settings.begin == "latest"
        from_now_on = [topic_of(one) for one in subscription.channels if late and not is_queue(one)]
        founder = Founder(
            subscription.consumer,
            settings=self._settings,
            clock=self._clock,
            readers_of=lambda name: self._topics.consumers_of(name, found[name]),
        )
        founder.found(found, from_now_on=from_now_on)

    def _check_alone(self, queue: str, partitions: int, consumer: str) -> None:
        holders = self._topics.consumers_of(topic_of(queue), partitions)
        if holders and consumer not in holders:
            raise ConfigurationError(two_consumers(queue, consumer, *holders))


def kafka_broker(
    url: str,
    *,
    clock: Clock,
    lease: timedelta | None = None,
    foreign: Mapping[str, ForeignMessages] = NO_FOREIGN,
) -> KafkaBroker:
    """Return the broker at ``url``: ``kafka://host:port[,host:port]?option=…``.

    Args:
        lease: of the relay; a batch must be confirmed, or given up, well within it.

    Raises:
        ConfigurationError: it is no such URL.
    """
    settings = settings_of(url)
    if lease is not None:
        settings = replace(settings, confirm_within=min(CONFIRM_AT_MOST, lease / 5))
    return KafkaBroker(settings, clock=clock, foreign=foreign)
