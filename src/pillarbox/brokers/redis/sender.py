"""The sending end: a batch is one round trip, and one script for each of its channels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pillarbox.brokers.partitions import partition_of
from pillarbox.brokers.redis.connection import Argument, RedisConnection, is_refusal
from pillarbox.brokers.redis.entries import fields_of
from pillarbox.brokers.redis.layout import groups_of, streams_of
from pillarbox.brokers.redis.scripts import APPEND
from pillarbox.channel import (
    BrokerCapabilities,
    Confirmed,
    MessageSender,
    NotReady,
    NotSent,
    Refused,
    SendResult,
    Unavailable,
    Unknown,
    is_queue,
)
from pillarbox.errors import BrokerUnavailableError
from pillarbox.message import Message

CAPABILITIES: Final = BrokerCapabilities(ordered_prefix=True, key_affinity=True, durable=True, transactional=False)
AT_ONCE_BYTES: Final = 8 << 20
"""More than this goes in several round trips, so that no single script keeps the server from others for long."""

_FORBIDDEN: Final = re.compile(r"(?:permissions to|can't) access (?:a|one of the|at least one of the) keys?")
_CONFIRMED: Final = Confirmed()
_NOT_SENT: Final = NotSent()


@dataclass(slots=True)
class _Part:
    """What one script appends: messages of one channel, by their places in the batch."""

    destination: str
    places: list[int] = field(default_factory=list[int])
    arguments: list[Argument] = field(default_factory=list[Argument])


class RedisSender(MessageSender):
    """Appends to streams; of each channel a failure stops what is behind it."""

    def __init__(self, connection: RedisConnection) -> None:
        """Send through ``connection``."""
        self._connection = connection

    @property
    def capabilities(self) -> BrokerCapabilities:
        return CAPABILITIES

    async def send(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        results: list[SendResult] = [_NOT_SENT] * len(messages)
        stopped = set[str]()
        for parts in _in_round_trips(messages):
            wanted = [part for part in parts if part.destination not in stopped]
            try:
                answers = await self._connection.call(APPEND, [_call(part) for part in wanted])
            except BrokerUnavailableError as error:
                for part in wanted:
                    for place in part.places:
                        results[place] = Unknown(error.reason)
                return results
            for part, answer in zip(wanted, answers, strict=True):
                if not _sort(part, answer, messages, results):
                    stopped.add(part.destination)
        return results


def _in_round_trips(messages: Sequence[Message]) -> Iterator[list[_Part]]:
    parts: dict[str, _Part] = {}
    size = 0
    for place, message in enumerate(messages):
        if size > AT_ONCE_BYTES:
            yield list(parts.values())
            parts, size = {}, 0
        part = parts.get(message.destination)
        if part is None:
            part = parts[message.destination] = _Part(message.destination)
        fields = fields_of(message)
        part.places.append(place)
        part.arguments += (partition_of(message), len(fields), *fields)
        size += len(message.body)
    if parts:
        yield list(parts.values())


def _call(part: _Part) -> list[Argument]:
    keys = [groups_of(part.destination), *streams_of(part.destination)]
    must_be_heard = "0" if is_queue(part.destination) else "1"
    return [len(keys), *keys, must_be_heard, *part.arguments]


def _sort(part: _Part, answer: Any, messages: Sequence[Message], results: list[SendResult]) -> bool:
    """Note what became of the messages of ``part``; return whether all were stored."""
    stored, reason = (0, str(answer)) if is_refusal(answer) else (int(answer[0]), answer[1].decode(errors="replace"))
    if stored < 0:
        for place in part.places:
            results[place] = NotReady(f"nobody subscribes to {part.destination}")
        return False
    for place in part.places[:stored]:
        results[place] = _CONFIRMED
    if stored == len(part.places):
        return True
    if _FORBIDDEN.search(reason):
        _refuse(part.places[stored:], reason, messages, results)
    else:
        results[part.places[stored]] = Unavailable(reason)  # out of memory, read-only: not the message's fault
    return False


def _refuse(places: Sequence[int], reason: str, messages: Sequence[Message], results: list[SendResult]) -> None:
    """Refuse what a channel that is forbidden to us was to get; what is behind it in its key waits."""
    keys = set[str | None]()
    for place in places:
        key = messages[place].key
        if key is None or key not in keys:
            results[place] = Refused(reason)
        keys.add(key)
