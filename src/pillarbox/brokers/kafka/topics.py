"""Topics: whether they are there, and making those that are not. Blocks; called in threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NoAnswer
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
    admin,
)

from pillarbox.brokers.kafka.translation import ABSENT, FORBIDDEN, NAME, error_of, logger, translated
from pillarbox.errors import BrokerUnavailableError

if TYPE_CHECKING:
    from pillarbox.brokers.kafka.settings import KafkaSettings
    from pillarbox.clock import Clock

ANSWER_WITHIN_S: Final = 2.0
MAKE_WITHIN_S: Final = 10.0
GROUPS_AT_ONCE: Final = 8
"""So many groups are asked side by side for their places: each by a client of its own."""
UNTOLD: Final = 0

admin_of_client: Any = admin  # its types export less than it has
T = TypeVar("T")


class Topics:
    """The topics of one Kafka."""

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        """Ask the servers of ``settings``; connects to nothing."""
        self._settings = settings
        self._clock = clock

    def client(self) -> Any:
        """Return a new client that asks and makes; its types are not complete."""
        return admin_of_client.AdminClient(self._settings.admin())

    def reach(self) -> None:
        """Make sure that the servers are there.

        Raises:
            BrokerUnavailableError: none answers.
        """
        with translated():
            self.client().list_topics(timeout=2 * ANSWER_WITHIN_S)

    def find(self, names: Sequence[str]) -> Mapping[str, int]:
        """Return how many partitions each of ``names`` has; those that are not there are left out.

        Of a topic that we may not see the number is ``UNTOLD``.

        Raises:
            BrokerUnavailableError: no server answers.
        """
        if not names:
            return {}
        asking = self.client()  # kept until it has answered
        answers = self.describe(asking, names)
        found: dict[str, int] = {}
        for name, answer in answers.items():
            try:
                found[name] = len(wait_for(answer).partitions)
            except KafkaException as exception:
                code = error_of(exception).code()
                if code in FORBIDDEN:
                    found[name] = UNTOLD
                elif code not in ABSENT:
                    with translated():
                        raise
        return found

    def describe(self, client: Any, names: Sequence[str]) -> Mapping[str, Future[Any]]:
        """Ask by ``client`` for what the topics called ``names`` are; waits for nothing."""
        answers: Mapping[str, Future[Any]] = client.describe_topics(
            TopicCollection(list(names)), request_timeout=ANSWER_WITHIN_S
        )
        return answers

    def make(self, names: Sequence[str]) -> Mapping[str, int]:
        """Make sure that all of ``names`` are there, and return their numbers of partitions.

        Raises:
            BrokerUnavailableError: no server answers, or none lets us.
        """
        found = self.find(names)
        missing = [name for name in names if name not in found]
        if not missing:
            return found
        asking = self.client()
        partitions, replication = self._settings.partitions, self._settings.replication
        wanted = [
            admin_of_client.NewTopic(name, num_partitions=partitions, replication_factor=replication)
            for name in missing
        ]
        for name, answer in asking.create_topics(wanted, operation_timeout=ANSWER_WITHIN_S).items():
            try:
                wait_for(answer)
                logger.info("made the topic %s with %s partitions", name, partitions)
            except KafkaException as exception:
                if error_of(exception).code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    with translated():
                        raise
        return self._await(names)

    def consumers_of(self, name: str, partitions: int) -> list[str]:
        """Return the groups that have a place on a topic.

        Raises:
            BrokerUnavailableError: no server answers.
        """
        asking = self.client()
        with translated(), ThreadPoolExecutor(GROUPS_AT_ONCE) as pool:
            found = wait_for(asking.list_consumer_groups(request_timeout=ANSWER_WITHIN_S)).valid
            # a group may have no name, and librdkafka ends the process that asks as it: none of ours is called so
            groups: list[str] = [one.group_id for one in found if one.group_id]
            have_place = pool.map(partial(self._has_place, name=name, partitions=partitions), groups)
            return [group for group, has_place in zip(groups, have_place, strict=True) if has_place]

    def _has_place(self, group: str, *, name: str, partitions: int) -> bool:
        """Ask as the group, joining nothing.

        librdkafka 2.16 ends the process when its admin client, which would ask in a tenth of the time, loses the
        group's coordinator meanwhile.
        """
        asking: Any = Consumer(self._settings.consumer(group))
        try:
            places = [TopicPartition(name, number) for number in range(partitions)]
            return any(one.offset >= 0 for one in asking.committed(places, timeout=ANSWER_WITHIN_S))
        finally:
            asking.close()

    def _await(self, names: Sequence[str]) -> Mapping[str, int]:
        """Ask until every server that we happen to ask knows of new topics."""
        deadline = self._clock.monotonic() + MAKE_WITHIN_S
        while True:
            found = self.find(names)
            if len(found) == len(set(names)):
                return found
            if self._clock.monotonic() > deadline:
                missing = ", ".join(sorted(set(names) - found.keys()))
                raise BrokerUnavailableError(broker=NAME, reason=f"new topics do not appear: {missing}")


def wait_for(answer: Future[T]) -> T:
    """Return the answer to a question, or raise what the client raises.

    Raises:
        BrokerUnavailableError: there is none in time.
    """
    try:
        return answer.result(MAKE_WITHIN_S)
    except NoAnswer:
        raise BrokerUnavailableError(broker=NAME, reason="it gave no answer in time") from None
