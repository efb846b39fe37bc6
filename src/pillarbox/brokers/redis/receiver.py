"""The receiving end: leased partitions, read in the order of their entries.

The instances of a consumer share one name in its group; the leases see to it that one of them at a time reads a
partition. So whoever takes a partition over finds what its predecessor had not acknowledged, in order, before anything
that follows.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from pillarbox.brokers.redis.connection import BLOCK_AT_MOST_MS, Command, RedisConnection
from pillarbox.brokers.redis.entries import message_from
from pillarbox.brokers.redis.layout import groups_of, streams_of
from pillarbox.brokers.redis.scripts import TRIM
from pillarbox.channel import Delivery, MessageReceiver, Outcome, Subscription
from pillarbox.errors import BrokerUnavailableError

if TYPE_CHECKING:
    from pillarbox.lease import LeaseKeeper

logger = logging.getLogger("pillarbox.brokers.redis")

MEMBER: Final = "pillarbox"
"""The one name that all instances have in a group."""
WITHOUT_WORK: Final = timedelta(milliseconds=100)
PAGE: Final = 500
TRIM_AFTER: Final = 500
"""Acknowledged entries of a stream, after which what no group needs any more is removed from it."""


@dataclass(frozen=True, slots=True, order=True)
class Receipt:
    """Where an entry lies; in the order of entries within a stream."""

    milliseconds: int
    number: int
    stream: str

    @property
    def entry(self) -> str:
        """The id of the entry."""
        return f"{self.milliseconds}-{self.number}"


@dataclass(slots=True)
class _Stream:
    """A stream of this subscription, and what this instance has of it.

    Attributes:
        ready: read and not handed out, in order.
        out: handed out and not settled.
        token: the lease under which what is pending was read; none while it has still to be.
        acknowledged: entries since the stream was last trimmed.
    """

    name: str
    channel: str
    partition: int
    ready: deque[Delivery]
    out: dict[Receipt, Delivery]
    token: int | None = None
    acknowledged: int = 0


class RedisReceiver(MessageReceiver):
    """One instance's share of a consumer's messages."""

    def __init__(self, subscription: Subscription, *, connection: RedisConnection, keeper: LeaseKeeper) -> None:
        """Receive for ``subscription`` what lies in the partitions that ``keeper`` leases."""
        self._subscription = subscription
        self._connection = connection
        self._keeper = keeper
        self._clock = keeper.clock
        self._streams = {
            name: _Stream(name, channel, partition, deque(), {})
            for channel in subscription.channels
            for partition, name in enumerate(streams_of(channel))
        }

    async def receive(self, limit: int, *, within: timedelta) -> Sequence[Delivery]:
        """Renew the leases, then read what is there or wait for it."""
        deadline = self._clock.monotonic() + within.total_seconds()
        while True:
            mine = await self._keep_leases()
            left = timedelta(seconds=deadline - self._clock.monotonic())
            if limit and mine:
                if not any(stream.ready for stream in mine):
                    await self._read(mine, limit, left)
                if deliveries := self._hand_out(mine, limit):
                    return deliveries
            elif left > timedelta(0):
                await self._clock.sleep(min(left, WITHOUT_WORK))
            if self._clock.monotonic() >= deadline:
                return ()

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        """Acknowledge, or hand out again in order; what was not acknowledged for want of a server is read again."""
        by_stream: dict[str, list[Receipt]] = {}
        for delivery in deliveries:
            receipt = _receipt(delivery)
            by_stream.setdefault(receipt.stream, []).append(receipt)
        if outcome is Outcome.RETURNED:
            for name, receipts in by_stream.items():
                stream = self._streams[name]
                returned = [stream.out.pop(receipt) for receipt in receipts if receipt in stream.out]
                stream.ready = deque(sorted([*returned, *stream.ready], key=_receipt))
            return
        await self._acknowledge(by_stream)

    async def close(self) -> None:
        """Give the partitions back; what is not settled is found by whoever takes them."""
        for stream in self._streams.values():
            _forget(stream)
        await self._keeper.leave()

    async def _keep_leases(self) -> list[_Stream]:
        """Return the streams that may be read now."""
        await self._keeper.keep()
        surplus, tokens = set(self._keeper.surplus), self._keeper.tokens
        busy: set[int] = set()
        mine: list[_Stream] = []
        for stream in self._streams.values():
            token = tokens.get(stream.partition)
            if stream.token is not None and stream.token != token:
                _forget(stream)
            if token is not None and stream.partition not in surplus:
                mine.append(stream)
            elif stream.out:
                stream.ready.clear()
                busy.add(stream.partition)
            else:
                _forget(stream)
        await self._keeper.give_back(surplus - busy)
        return mine

    async def _read(self, mine: Sequence[_Stream], limit: int, within: timedelta) -> None:
        tokens = self._keeper.tokens
        try:
            gained = [stream for stream in mine if stream.partition in tokens and stream.token is None]
            if gained:
                await self._read_pending(gained)
                for stream in gained:
                    stream.token = tokens[stream.partition]
            if not any(stream.ready for stream in mine):
                await self._read_new([stream for stream in mine if stream.token is not None], limit, within)
        except BrokerUnavailableError as error:
            self._read_all_again()
            if error.reason.startswith("NOGROUP"):
                logger.warning("the group %s was gone; it begins again with all that is there", self._group)
                await declare(self._connection, self._subscription, start="0")
            raise
        except BaseException:
            self._read_all_again()  # an answer may have been on its way
            raise

    async def _read_new(self, streams: Sequence[_Stream], limit: int, within: timedelta) -> None:
        names = [stream.name for stream in streams]
        if not names:
            return
        wait_ms = min(int(within.total_seconds() * 1000), BLOCK_AT_MOST_MS)
        block = ("BLOCK", wait_ms) if wait_ms > 0 else ()
        new = (">" for _ in names)
        answer = await self._connection.execute(
            "XREADGROUP", "GROUP", self._group, MEMBER, "COUNT", limit, *block, "STREAMS", *names, *new
        )
        self._keep(answer)

    async def _read_pending(self, gained: Sequence[_Stream]) -> None:
        """Read what was delivered to somebody and never acknowledged, but for what this instance has handed out."""
        after = {stream.name: "0" for stream in gained}
        for stream in gained:
            stream.ready.clear()
        while after:
            answer = await self._connection.execute(
                "XREADGROUP", "GROUP", self._group, MEMBER, "COUNT", PAGE, "STREAMS", *after, *after.values()
            )
            self._keep(answer)
            full = {name.decode(): entries for name, entries in answer or () if len(entries) == PAGE}
            after = {name: entries[-1][0].decode() for name, entries in full.items()}

    def _keep(self, answer: Any) -> None:
        for name, entries in answer or ():
            stream = self._streams[name.decode()]
            for entry, fields in entries:
                milliseconds, _, number = entry.decode().partition("-")
                receipt = Receipt(int(milliseconds), int(number), stream.name)
                if fields is None:
                    logger.error("entry %s of %s was removed before it was acknowledged", receipt.entry, stream.name)
                    stream.acknowledged += 1
                elif receipt not in stream.out:
                    place = f"{stream.name}/{receipt.entry}"
                    message = message_from(fields, channel=stream.channel, place=place)
                    stream.ready.append(Delivery(message=message, receipt=receipt))

    def _hand_out(self, mine: Sequence[_Stream], limit: int) -> list[Delivery]:
        in_order = merge(*(list(stream.ready) for stream in mine), key=_receipt)
        deliveries = list(islice(in_order, limit))
        for delivery in deliveries:
            receipt = _receipt(delivery)
            stream = self._streams[receipt.stream]
            stream.ready.popleft()
            stream.out[receipt] = delivery
        return deliveries

    async def _acknowledge(self, by_stream: dict[str, list[Receipt]]) -> None:
        commands: list[Command] = [
            ("XACK", name, self._group, *(receipt.entry for receipt in receipts))
            for name, receipts in by_stream.items()
        ]
        try:
            await self._connection.execute_all(commands)
        except BaseException:
            self._read_all_again()
            raise
        finally:
            for name, receipts in by_stream.items():
                for receipt in receipts:
                    self._streams[name].out.pop(receipt, None)
        full: list[_Stream] = []
        for name, receipts in by_stream.items():
            stream = self._streams[name]
            stream.acknowledged += len(receipts)
            if stream.acknowledged >= TRIM_AFTER:
                stream.acknowledged = 0
                full.append(stream)
        if full:
            await self._connection.call(TRIM, [(2, stream.name, groups_of(stream.channel)) for stream in full])

    def _read_all_again(self) -> None:
        """Have what is pending read once more, since some of it may never have reached us."""
        for stream in self._streams.values():
            stream.token = None

    @property
    def _group(self) -> str:
        return self._subscription.consumer


async def declare(connection: RedisConnection, subscription: Subscription, *, start: str | None = None) -> None:
    """Make the groups of ``subscription``, then tell senders of them; those that are there stay as they are.

    Args:
        connection: to the server.
        subscription: of one consumer.
        start: the entry behind which a new group begins; unless given, a queue's begins with all that waits there, and
            a topic's with what comes from now on.
    """
    for channel in subscription.channels:
        begin = start or ("0" if channel.startswith("queue:") else "$")
        answers = await connection.execute_all(
            [
                *(
                    ("XGROUP", "CREATE", stream, subscription.consumer, begin, "MKSTREAM")
                    for stream in streams_of(channel)
                ),
                ("SADD", groups_of(channel), subscription.consumer),
            ]
        )
        for answer in answers:
            if isinstance(answer, Exception) and not str(answer).startswith("BUSYGROUP"):
                raise BrokerUnavailableError(broker="redis", reason=str(answer)) from answer


def _forget(stream: _Stream) -> None:
    stream.ready.clear()
    stream.out.clear()
    stream.token = None


def _receipt(delivery: Delivery) -> Receipt:
    receipt = delivery.receipt
    assert isinstance(receipt, Receipt), receipt
    return receipt
