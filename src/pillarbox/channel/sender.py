"""The port through which messages leave for a broker, with one confirm for each.

EIP: *Message Endpoint*, *Guaranteed Delivery*.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from pillarbox.channel.capabilities import BrokerCapabilities
from pillarbox.message import Message


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The broker stored the message as durably as it ever will."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The broker will not take this message however often it is sent; it is parked with the reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotReady:
    """The destination has nobody who would keep the message; not the message's fault, send it later."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The broker could not be reached and did not store the message; not the message's fault."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The confirm was lost: the message may be stored. Send the same message again before any later one."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotSent:
    """The message was not tried, since an earlier one of the batch failed."""


SendResult: TypeAlias = Confirmed | Refused | NotReady | Unavailable | Unknown | NotSent


class MessageSender(Protocol):
    """The sending end of a broker.

    Every implementation must pass ``pillarbox.testing.contracts.SenderContract``.
    """

    @property
    @abstractmethod
    def capabilities(self) -> BrokerCapabilities:
        """What the broker is good for."""

    @abstractmethod
    async def send(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        """Send ``messages`` in order and wait for their confirms; return one result for each, in the same order.

        Does not raise for what a broker or a message does; a client's own retries are off, the caller decides.
        """
