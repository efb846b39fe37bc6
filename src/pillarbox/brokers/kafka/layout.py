"""Names in Kafka: of the topics that carry our channels.

A topic bears the name of its channel, so that others find it. A queue's has a beginning that no topic of ours can have.
"""

from __future__ import annotations

from typing import Final

from pillarbox.channel import is_queue
from pillarbox.channel.address import QUEUE, TOPIC
from pillarbox.errors import ConfigurationError

QUEUES: Final = "_queue."
MAX_LENGTH: Final = 249


def topic_of(address: str) -> str:
    """Return the Kafka topic of a channel.

    Raises:
        ConfigurationError: its name is longer than Kafka takes.
    """
    name = f"{QUEUES}{address.removeprefix(QUEUE)}" if is_queue(address) else address.removeprefix(TOPIC)
    if len(name) > MAX_LENGTH:
        raise ConfigurationError(
            f"{address!r} is too long for Kafka: a topic's name has at most {MAX_LENGTH} characters"
        )
    return name
