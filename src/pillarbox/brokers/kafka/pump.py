"""The thread that stands for one instance in its group: it polls, reads ahead a little, and commits.

librdkafka calls back from within a poll and wants its answer there: what is out of a partition that goes to another
instance is waited for in that place. So polling has a thread of its own, and the event loop never waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from pillarbox.brokers.kafka.fill import Act, Fill
from pillarbox.brokers.kafka.records import Place, message_from
from pillarbox.brokers.kafka.share import FIRST, Partition, Receipt, Share, Shares
from pillarbox.brokers.kafka.translation import error_of, logger
from pillarbox.channel import Delivery
from pillarbox.serialization import ForeignMessages

if TYPE_CHECKING:
    from pillarbox.brokers.kafka.settings import KafkaSettings
    from pillarbox.clock import Clock
    from pillarbox.message import Message

POLL_S: Final = 0.1
CHUNK: Final = 500
UNATTENDED_AFTER_S: Final = 60.0
"""After that long without a call of the consumer nothing is polled: the group then gives its partitions to others."""
AFTER_FAILURE_S: Final = 1.0
BEGINNING: Final = -2


class Pump:
    """One membership of a group, from its start to its end; whoever wants another makes another."""

    def __init__(
        self,
        group: str,
        channels: Mapping[str, str],
        *,
        settings: KafkaSettings,
        clock: Clock,
        news: Callable[[], None],
        foreign: Mapping[str, ForeignMessages],
        recreated: Callable[[], Collection[str]],
    ) -> None:
        """Read the topics that are the keys of ``channels``; ``news`` is called, in the thread, when some came.

        ``recreated``, called in the thread, too, tells which topics somebody has removed and made again.
        """
        self._group = group
        self._channels = channels
        self._settings = settings
        self._clock = clock
        self._news = news
        self._foreign = foreign
        self._recreated = recreated
        self._shares = Shares()
        self._changed = Condition()  # guards the shares
        self._stopping = False
        self._fill = Fill()
        self._committing = False
        self._commit_from = float("-inf")
        self._trouble: str | None = None
        self._fatal: KafkaError | None = None
        self._attended_at = clock.monotonic()
        self._thread = Thread(target=self._run, name=f"pillarbox kafka {group}", daemon=True)

    # What the event loop calls; nothing here waits for the network.

    def start(self) -> None:
        """Join the group, in the background."""
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        """Whether the membership is over."""
        return not self._thread.is_alive()

    def take_trouble(self) -> str | None:
        """Return what went wrong since the last call."""
        trouble, self._trouble = self._trouble, None
        return trouble

    def hand_out(self, limit: int) -> list[Delivery]:
        """Take up to ``limit`` of what was read."""
        self._attended_at = self._clock.monotonic()
        with self._changed:
            deliveries = [] if self._stopping else self._shares.hand_out(limit)
            self._changed.notify_all()
            return deliveries

    def accept(self, deliveries: Sequence[Delivery]) -> None:
        """Have done with ``deliveries``; the group is told soon."""
        with self._changed:
            self._shares.accept(deliveries)
            self._changed.notify_all()

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Hand ``deliveries`` out again."""
        with self._changed:
            self._shares.give_back(deliveries)
            self._changed.notify_all()

    def stop(self) -> None:
        """Hand out nothing more; leave the group, in the background."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def join(self, within_s: float) -> bool:
        """Wait until the group was left; return whether it was."""
        self._thread.join(within_s)
        return self.has_ended

    # What the thread does.

    def _run(self) -> None:
        consumer: Any = None
        try:
            options = {"on_commit": self._on_commit, "error_cb": self._on_error}
            consumer = Consumer({**self._settings.consumer(self._group), **options})
            consumer.subscribe(
                list(self._channels), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            while not self._stopping:
                self._turn(consumer)
        except Exception as error:
            logger.exception("the consumer %s of Kafka failed", self._group)
            self._trouble = str(error)
        finally:
            self._stopping = True
            self._leave(consumer)
            self._news()

    def _turn(self, consumer: Any) -> None:
        if self._clock.monotonic() - self._attended_at > UNATTENDED_AFTER_S:
            with self._changed:
                self._changed.wait(POLL_S)
            return
        if self._has_enough(consumer):
            return
        first = consumer.poll(POLL_S)
        if self._fatal is not None:
            raise KafkaException(self._fatal)
        if first is not None:
            self._take([first, *consumer.consume(CHUNK, 0)])
        self._look_for_others()
        self._begin_anew(consumer)
        self._commit(consumer)

    def _has_enough(self, consumer: Any) -> bool:
        """Hold or go on as much as there is asks for; return whether nothing is to be polled now.

        A partition that keeps all others waiting, since enough of it is out, stays paused alone.
        """
        with self._changed:
            act = self._fill.judge(self._shares.ready, self._shares.ready_bytes, self._clock.monotonic())
            if self._fill.is_paused:
                self._shares.set_aside()
            again = self._shares.take_up()
            aside = self._shares.aside
            if act is Act.WAIT:
                self._changed.wait(POLL_S)
        if act is Act.PAUSE:  # polling goes on, so that the membership lives
            consumer.pause(consumer.assignment())
        elif act is Act.RESUME:
            consumer.resume([one for one in consumer.assignment() if (one.topic, one.partition) not in aside])
        elif again and not self._fill.is_paused:
            consumer.resume([TopicPartition(topic, partition) for topic, partition in again])
        return act is Act.WAIT

    def _take(self, records: Iterable[Any]) -> None:
        found: dict[Partition, list[tuple[int, Message]]] = {}
        errors: list[tuple[KafkaError, Any]] = []
        for record in records:
            error = record.error()
            if error is not None:
                errors.append((error, record))  # heeded last: of a partition that is cut off nothing more is taken
                continue
            topic, partition, offset = record.topic(), record.partition(), record.offset()
            place = Place(topic=topic, partition=partition, offset=offset, since_ms=record.timestamp()[1])
            found.setdefault((topic, partition), []).append((offset, self._message(record, place)))
        with self._changed:
            for share in self._shares.of(found):
                for offset, message in found[share.topic, share.partition]:
                    receipt = Receipt(share.topic, share.partition, offset, share.assignment)
                    share.take(Delivery(message=message, receipt=receipt))
        if found:
            self._news()
        for error, record in errors:
            self._suffer(error, record)

    def _message(self, record: Any, place: Place) -> Message:
        channel = self._channels[place.topic]
        return message_from(
            record.headers() or (),
            key=record.key(),
            value=record.value(),
            channel=channel,
            place=place,
            foreign=self._foreign.get(channel),
        )

    def _suffer(self, error: KafkaError, record: Any) -> None:
        if error.code() == KafkaError._AUTO_OFFSET_RESET:  # pyright: ignore[reportPrivateUsage]
            topic, partition = _partition_of(record)
            logger.error(
                "%s begins anew with the oldest that %s [%s] has, since there is no message at its place: %s; "
                "what was removed unread is lost to it",
                *(self._group, topic, partition, error.str()),
            )
            with self._changed:
                for share in self._shares.of([(topic, partition)]):
                    share.is_cut_off = True
        elif error.fatal():
            raise KafkaException(error)
        else:
            logger.warning("the consumer %s of Kafka: %s", self._group, error.str())
            self._trouble = error.str()

    def _look_for_others(self) -> None:
        """Have topics read anew that are others by now: an offset of the former one means nothing there."""
        if recreated := self._recreated():
            logger.error(
                "%s begins anew with the oldest that %s has, since somebody removed the topic and made it again; "
                "what it had not read of the former one is lost to it",
                *(self._group, ", ".join(recreated)),
            )
            with self._changed:
                self._shares.cut_off(recreated)

    def _begin_anew(self, consumer: Any) -> None:
        """Read partitions that are cut off from their oldest message on.

        What was read of them before is finished first: the log may not have it any more, or may have gone back, and
        then its offsets would be mistaken for those that come.
        """
        with self._changed:
            partitions = self._shares.to_begin_anew()
            self._shares.gain(partitions, begin=FIRST)
        if partitions:
            places = [TopicPartition(topic, partition, BEGINNING) for topic, partition in partitions]
            consumer.incremental_unassign(places)
            self._assign(consumer, places)

    def _commit(self, consumer: Any) -> None:
        """Tell the group how far everything is finished, one request at a time."""
        if self._committing or self._clock.monotonic() < self._commit_from:
            return
        with self._changed:
            offsets = _due(self._shares.all())
        if not offsets:
            return
        try:
            self._committing = True
            consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as exception:
            self._on_commit(error_of(exception), offsets)

    def _leave(self, consumer: Any) -> None:
        self._recreated = _nothing  # the client of the former ends here, and not in the event loop
        if consumer is not None:
            try:
                consumer.close()
            except Exception:
                logger.exception("the consumer %s of Kafka did not close well", self._group)
        with self._changed:
            self._shares.clear()

    # What librdkafka calls, from within a poll.

    def _on_assign(self, consumer: Any, partitions: Sequence[TopicPartition]) -> None:
        with self._changed:
            self._shares.gain([(one.topic, one.partition) for one in partitions])
        self._assign(consumer, partitions)

    def _assign(self, consumer: Any, partitions: Sequence[TopicPartition]) -> None:
        """Begin to read ``partitions``; librdkafka keeps a pause from before they went to somebody else."""
        consumer.incremental_assign(partitions)
        if partitions:
            (consumer.pause if self._fill.is_paused else consumer.resume)(partitions)

    def _on_revoke(self, consumer: Any, partitions: Sequence[TopicPartition]) -> None:
        """Let what is out be settled, for a while; then tell the group how far we came, and let go."""
        names = [(one.topic, one.partition) for one in partitions]
        with self._changed:
            shares = self._shares.of(names)
            for share in shares:
                share.leave()
            within = self._settings.drain_within.total_seconds()
            self._changed.wait_for(lambda: self._stopping or not any(share.out for share in shares), within)
            offsets = _due(shares)
            self._shares.lose(names)
        if offsets:
            try:
                consumer.commit(offsets=offsets, asynchronous=False)
            except KafkaException as exception:
                logger.warning("%s lets go of partitions untold: %s", self._group, error_of(exception).str())
        consumer.incremental_unassign(partitions)

    def _on_lost(self, consumer: Any, partitions: Sequence[TopicPartition]) -> None:
        with self._changed:
            self._shares.lose([(one.topic, one.partition) for one in partitions])
        consumer.incremental_unassign(partitions)

    def _on_commit(self, error: KafkaError | None, partitions: Sequence[TopicPartition]) -> None:
        self._committing = False
        if error is not None:
            logger.warning("the place of %s was not kept: %s; it is told again", self._group, error.str())
            self._commit_from = self._clock.monotonic() + AFTER_FAILURE_S
            with self._changed:
                for share in self._shares.of([(one.topic, one.partition) for one in partitions]):
                    share.committed = None

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error
        self._trouble = error.str()


def _nothing() -> Collection[str]:
    return ()


def _partition_of(record: Any) -> Partition:
    return record.topic(), record.partition()


def _due(shares: Iterable[Share]) -> list[TopicPartition]:
    """Return what the group is to be told of ``shares``, and note that it is."""
    offsets: list[TopicPartition] = []
    for share in shares:
        due = share.due
        if due is not None:
            share.committed = due
            offsets.append(TopicPartition(share.topic, share.partition, due))
    return offsets
