"""RabbitMQ as a broker: a channel is an exchange, and a consumer's place on it a fixed number of quorum queues.

Guarantee: a confirmed message is on the disks of most of its queue's nodes, and stays until it is acknowledged.
Not promised: that it is there once only, or that policies of the server (a time to live, a length) leave it there.
Source: AMQP 0-9-1; RabbitMQ, *Quorum Queues*, *Publisher Confirms*; the reading order is layout, envelope, frames,
confirms, address, wire, channel, line, declaring, sender, share, receiver, broker; diagnosis.
"""

from pillarbox.brokers.rabbitmq.broker import RabbitMqBroker, rabbitmq_broker

__all__ = ["RabbitMqBroker", "rabbitmq_broker"]
