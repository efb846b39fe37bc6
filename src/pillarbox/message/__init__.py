"""Messages: what travels, how a class becomes one, and which names, keys and headers are let through.

Guarantee: everything here is a pure value or a pure decision; nothing is registered outside a ``Registry`` you hold.
Not promised: that a foreign producer keeps to the limits; they are checked when a message is made here.
Source: EIP, *Message* and *Command/Event Message*; reading order: message, headers, names, declare, registry, limits.
"""

from pillarbox.message.causes import Cause
from pillarbox.message.declare import MessageType, command, event, is_message, key_of, message_type_of
from pillarbox.message.ids import derived_message_id, new_message_id
from pillarbox.message.limits import Limits
from pillarbox.message.message import Message
from pillarbox.message.names import check_name, parse_destination, queue_destination, topic_destination, topic_of
from pillarbox.message.number import Number, number_of
from pillarbox.message.registry import Registry, Upcaster

__all__ = [
    "Cause",
    "Limits",
    "Message",
    "MessageType",
    "Number",
    "Registry",
    "Upcaster",
    "check_name",
    "command",
    "derived_message_id",
    "event",
    "is_message",
    "key_of",
    "message_type_of",
    "new_message_id",
    "number_of",
    "parse_destination",
    "queue_destination",
    "topic_destination",
    "topic_of",
]
