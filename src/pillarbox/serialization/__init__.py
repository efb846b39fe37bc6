"""Serialization: objects to bytes and back, checked at publish so that no consumer meets what it cannot read.

Guarantee: what ``encode_message`` accepts can be decoded as the class it was published with; the rest is refused.
Not promised: that another service's class of the same name fits; upcasters are yours to write.
Source: EIP, *Message Translator*; reading order: codec, json_, faults, shape, upcasting, envelope, cloudevents,
foreign, arrival.
"""

from pillarbox.serialization.arrival import UNREADABLE, arrived, fitting, unreadable
from pillarbox.serialization.cloudevents import to_binary
from pillarbox.serialization.codec import Codec
from pillarbox.serialization.envelope import EnvelopeFields, decode_message, encode_message
from pillarbox.serialization.foreign import NO_FOREIGN, ForeignMessages
from pillarbox.serialization.json_ import JsonCodec
from pillarbox.serialization.upcasting import upcast

__all__ = [
    "NO_FOREIGN",
    "UNREADABLE",
    "Codec",
    "EnvelopeFields",
    "ForeignMessages",
    "JsonCodec",
    "arrived",
    "decode_message",
    "encode_message",
    "fitting",
    "to_binary",
    "unreadable",
    "upcast",
]
