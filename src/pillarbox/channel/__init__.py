"""Message channels: queues for one consumer, topics for every consumer, and the two ends of each.

Guarantee: a confirmed message stays until each of its consumers accepted it.
Not promised: that it is delivered only once; pair it with the inbox.
Source: EIP, *Message Channel*; the reading order is address, sender, delivery, receiver, broker, queue_store.
"""

from pillarbox.channel.address import Subscription, address_of, is_queue
from pillarbox.channel.broker import Broker
from pillarbox.channel.capabilities import BrokerCapabilities
from pillarbox.channel.delivery import Delivery, Outcome
from pillarbox.channel.queue_store import QueuedMessage, QueueStore
from pillarbox.channel.receiver import OUT_OF_A_PLACE, MessageReceiver, TransactionalReceiver
from pillarbox.channel.sender import (
    Confirmed,
    MessageSender,
    NotReady,
    NotSent,
    Refused,
    SendResult,
    Unavailable,
    Unknown,
)

__all__ = [
    "OUT_OF_A_PLACE",
    "Broker",
    "BrokerCapabilities",
    "Confirmed",
    "Delivery",
    "MessageReceiver",
    "MessageSender",
    "NotReady",
    "NotSent",
    "Outcome",
    "QueueStore",
    "QueuedMessage",
    "Refused",
    "SendResult",
    "Subscription",
    "TransactionalReceiver",
    "Unavailable",
    "Unknown",
    "address_of",
    "is_queue",
]
