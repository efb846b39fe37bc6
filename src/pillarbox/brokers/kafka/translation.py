"""Kafka's errors as the library's, and what became of a message that was not confirmed."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from confluent_kafka import KafkaError, KafkaException

from pillarbox.channel import NotReady, Refused, SendResult, Unavailable, Unknown
from pillarbox.errors import BrokerUnavailableError

NAME: Final = "kafka"
logger: Final = logging.getLogger("pillarbox.brokers.kafka")


class ClientLog:
    """Takes what librdkafka says, for who looks for it: what matters comes as errors, too."""

    def log(self, level: int, text: str, *arguments: object) -> None:
        """Note it."""
        logger.debug("librdkafka, level %s: " + text, level, *arguments)  # noqa: G003  # the client brings the text


CLIENT_LOG: Final = ClientLog()

TOO_LARGE: Final = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
ABSENT: Final = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}  # pyright: ignore[reportPrivateUsage]  # Kafka's names of errors of the client
)
FORBIDDEN: Final = frozenset(
    {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError.POLICY_VIOLATION}
)
_REFUSED: Final = TOO_LARGE | {
    KafkaError.INVALID_MSG,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.POLICY_VIOLATION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_EXCEPTION,
}
_NOT_STORED: Final = frozenset(
    {KafkaError._PURGE_QUEUE, KafkaError._QUEUE_FULL, KafkaError.CLUSTER_AUTHORIZATION_FAILED}  # pyright: ignore[reportPrivateUsage]
)


def error_of(exception: KafkaException) -> KafkaError:
    """Return what an exception of the client is about."""
    error = exception.args[0]
    assert isinstance(error, KafkaError), exception
    return error


def result_of(error: KafkaError) -> SendResult:
    """Say what became of a message for which the client reports ``error``; where that is not certain, ``Unknown``."""
    code, reason = error.code(), f"{error.name()}: {error.str()}"
    if code in _REFUSED:
        return Refused(reason)
    if code in ABSENT:
        return NotReady(reason)
    if code in _NOT_STORED:
        return Unavailable(reason)
    return Unknown(reason)


def is_forbidden(error: BrokerUnavailableError) -> bool:
    """Tell whether a server is there and does not let us."""
    cause = error.__cause__
    return isinstance(cause, KafkaException) and error_of(cause).code() in FORBIDDEN


@contextmanager
def translated() -> Generator[None]:
    """Raise what the client raises as the broker's absence."""
    try:
        yield
    except KafkaException as exception:
        error = error_of(exception)
        raise BrokerUnavailableError(broker=NAME, reason=f"{error.name()}: {error.str()}") from exception
