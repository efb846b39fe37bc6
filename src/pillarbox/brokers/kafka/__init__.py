"""Apache Kafka as a broker: a channel is a topic, a consumer is a group, a key is always of one partition.

Guarantee: a confirmed message is on every replica in sync; a consumer's place never passes what is unfinished.
Not promised: that a consumer which stands still for longer than a topic's retention finds all of it.
Source: Apache Kafka, *Design*; the reading order is layout, records, settings, translation, topics, producer, sender,
share, pump, receiver, founding, broker; diagnosis.
"""

from pillarbox.brokers.kafka.broker import KafkaBroker, kafka_broker

__all__ = ["KafkaBroker", "kafka_broker"]
