"""What is asked of JetStream: streams, their consumers and single messages.

Source: NATS, *JetStream wire API*.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

import msgspec

from pillarbox.brokers.nats.connection import NAME, NatsConnection
from pillarbox.errors import BrokerUnavailableError

NOT_FOUND: Final = 404
PURGES_RIGHTLY: Final = (2, 10)
"""The first NATS whose consumers, when one subject is purged, keep what they have pending."""
DELETED_AT_ONCE: Final = 100
FOUND_AT_ONCE: Final = 1_000
"""So many are searched for and removed that instances before have left: for longer a lease would not last."""
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


class Refusal(Exception):  # noqa: N818  # an answer, not a fault of ours
    """JetStream answered that it will not.

    Attributes:
        code: as in HTTP.
        reason: JetStream's words.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Consumer(msgspec.Struct, frozen=True, kw_only=True):
    """What JetStream knows of a consumer.

    Attributes:
        created: when it was made, as JetStream writes it: one that is made again under its name is another one.
        delivered: the sequence, among its deliveries, of the last one; each delivery has the next.
        delivered_up_to: the sequence in the stream of the last message that it delivered.
        floor: all messages up to this sequence of the stream are acknowledged.
        pending: how many are delivered and not acknowledged.
        is_paused: somebody has it give nothing for a time; NATS 2.11 and newer.
    """

    name: str
    config: Mapping[str, Any]
    created: str
    delivered: int
    delivered_up_to: int
    floor: int
    pending: int
    is_paused: bool = False


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it lies in a stream; ``headers`` is the block as it was sent, ``time_ns`` when it was stored."""

    sequence: int
    time_ns: int
    headers: bytes
    body: bytes


class JetStream:
    """Questions to JetStream, each one round trip.

    Every method raises ``Refusal`` for what JetStream will not do, and ``BrokerUnavailableError`` when it is away.
    """

    def __init__(self, connection: NatsConnection) -> None:
        """Ask over ``connection``."""
        self._connection = connection

    async def ask(self, question: str, **what: Any) -> dict[str, Any]:
        """Ask anything: ``STREAM.INFO.x``."""
        answer = _decode(await self._connection.request(f"$JS.API.{question}", _encode(what) if what else b""))
        if refusal := answer.get("error"):
            raise Refusal(int(refusal.get("code", 0)), str(refusal.get("description", refusal)))
        return answer

    async def stream(self, name: str) -> dict[str, Any] | None:
        """Return what JetStream tells of a stream; ``None`` when it has none of that name."""
        try:
            return await self.ask(f"STREAM.INFO.{name}")
        except Refusal as refusal:
            if refusal.code == NOT_FOUND:
                return None
            raise

    async def consumer(self, stream: str, name: str) -> Consumer | None:
        """Return what JetStream knows of a consumer; ``None`` when it, or its stream, is not there."""
        try:
            return _consumer(await self.ask(f"CONSUMER.INFO.{stream}.{name}"))
        except Refusal as refusal:
            if refusal.code == NOT_FOUND:
                return None
            raise

    async def consumers(self, stream: str) -> Sequence[Consumer]:
        """Return all consumers of a stream."""
        found: list[Consumer] = []
        while True:
            page = await self.ask(f"CONSUMER.LIST.{stream}", offset=len(found))
            found += [_consumer(one) for one in page.get("consumers") or ()]
            if not page.get("consumers") or len(found) >= page["total"]:
                return found

    async def message(self, stream: str, subject: str, *, at_least: int) -> Stored | None:
        """Return the first message of ``subject`` from the sequence ``at_least`` on; ``None`` when there is none."""
        try:
            answer = await self.ask(f"STREAM.MSG.GET.{stream}", seq=at_least, next_by_subj=subject)
        except Refusal as refusal:
            if refusal.code == NOT_FOUND:
                return None
            raise
        found = answer["message"]
        return Stored(
            sequence=found["seq"],
            time_ns=_nanoseconds(found["time"]),
            headers=base64.b64decode(found.get("hdrs", "")),
            body=base64.b64decode(found.get("data", "")),
        )

    async def remove(self, stream: str, subject: str, *, up_to: int, known: Iterable[int]) -> None:
        """Remove the messages of ``subject`` up to a sequence, which all its consumers have acknowledged.

        At a purge of one subject NATS 2.9 forgets all that its consumers have pending; what their instances had in hand
        would be lost with them. There each message is deleted by itself.

        Args:
            stream: where they lie.
            subject: theirs.
            up_to: their last sequence.
            known: sequences of theirs; others that are left behind them need not be removed now.
        """
        version = (await self._connection.link()).client.connected_server_version
        if (version.major, version.minor) >= PURGES_RIGHTLY:
            await self.ask(f"STREAM.PURGE.{stream}", filter=subject, seq=up_to + 1)
            return
        there = sorted(sequence for sequence in known if sequence <= up_to)
        until = there[0] if there else up_to + 1
        first = await self.message(stream, subject, at_least=1)
        for _ in range(FOUND_AT_ONCE):
            if first is None or first.sequence >= until:
                break
            await self._delete(stream, first.sequence)
            first = await self.message(stream, subject, at_least=first.sequence + 1)
        for start in range(0, len(there), DELETED_AT_ONCE):
            *others, last = there[start : start + DELETED_AT_ONCE]
            for sequence in others:  # NATS answers nobody; what is left is found as the first of its subject next time
                await self._connection.tell(f"$JS.API.STREAM.MSG.DELETE.{stream}", _encode(_deletion(sequence)))
            await self._delete(stream, last)

    async def _delete(self, stream: str, sequence: int) -> None:
        with suppress(Refusal):  # somebody else was quicker
            await self.ask(f"STREAM.MSG.DELETE.{stream}", **_deletion(sequence))


def refused(refusal: Refusal, *, what: str) -> BrokerUnavailableError:
    """Return the library's error for a refusal that is nobody's message's fault."""
    return BrokerUnavailableError(broker=NAME, reason=f"{what}: {refusal.reason}")


def _deletion(sequence: int) -> Mapping[str, Any]:
    return {"seq": sequence, "no_erase": True}


def _consumer(info: Mapping[str, Any]) -> Consumer:
    return Consumer(
        name=info["name"],
        config=info["config"],
        created=info["created"],
        delivered=info["delivered"]["consumer_seq"],
        delivered_up_to=info["delivered"]["stream_seq"],
        floor=info["ack_floor"]["stream_seq"],
        pending=info["num_ack_pending"],
        is_paused=info.get("paused", False),
    )


def _nanoseconds(instant: str) -> int:
    """Return an instant, ``2031-05-17T08:00:00.123456789Z``, in nanoseconds since 1970; datetime knows microseconds."""
    seconds, _, fraction = instant.removesuffix("Z").partition(".")
    return int(datetime.fromisoformat(f"{seconds}+00:00").timestamp()) * 1_000_000_000 + int(f"{fraction:0<9}")
