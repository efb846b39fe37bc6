"""The broker that a benchmark publishes to or consumes from: started by each competitor, before its time begins.

Runs in the environments of peers too, so it needs nothing but the standard library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.servers.kafka import KafkaServer
from tests.servers.nats import NatsServer
from tests.servers.rabbitmq import RabbitMqServer
from tests.servers.redis import RedisServer
from tests.servers.server import Server

SETTINGS = {"appendonly": "no"}
"""Redis in memory alone, for everybody: what is compared is what it costs to get there. The others are as they are."""
STREAM = "orders"
GROUP = "bench"
KINDS: Mapping[str, Callable[[], Server]] = {
    "redis": lambda: RedisServer(settings=SETTINGS),
    "nats": NatsServer,
    "kafka": KafkaServer,
    "rabbitmq": RabbitMqServer,
}


def private(broker: str) -> Server:
    """Return a server of the kind that runs for as long as a ``with`` block."""
    return KINDS[broker]()
