"""The Kafka that a relay's benchmark publishes to: started by each competitor's process, before its time begins.

Runs in the environments of peers too, which have confluent-kafka beside their own client.
"""

from __future__ import annotations

from typing import Any

from confluent_kafka import Consumer, TopicPartition, admin

from tests.servers.kafka import KafkaServer

TOPIC = "order"
PARTITIONS = 16


def private_kafka() -> KafkaServer:
    """Return a server that runs for as long as a ``with`` block."""
    return KafkaServer()


def make_topic(server: KafkaServer) -> None:
    """Make the topic."""
    client: Any = admin
    asking = client.AdminClient({"bootstrap.servers": server.address})
    asking.create_topics([client.NewTopic(TOPIC, PARTITIONS, 1)])[TOPIC].result()


def count_records(server: KafkaServer) -> int:
    """Count what lies in the topic."""
    asking: Any = Consumer({"bootstrap.servers": server.address, "group.id": "count"})
    marks = [asking.get_watermark_offsets(TopicPartition(TOPIC, number), timeout=10) for number in range(PARTITIONS)]
    asking.close()
    return sum(high - low for low, high in marks)
