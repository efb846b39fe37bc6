"""The receiving end: leased partitions, read in the order of their entries.

The instances of a consumer share one name in its group; the leases see to it that one of them at a time reads a
partition. So whoever takes a partition over finds what its predecessor had not acknowledged, in order, before anything
that follows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pillarbox.brokers.partitions import Receipt, Share, Shares, by_place, hand_out
from pillarbox.brokers.redis.connection import BLOCK_AT_MOST_MS, RedisConnection, is_refusal, refused
from pillarbox.brokers.redis.entries import message_from
from pillarbox.brokers.redis.groups import declare, trim
from pillarbox.brokers.redis.layout import stream_of
from pillarbox.channel import Delivery, MessageReceiver, Outcome, Subscription
from pillarbox.errors import BrokerUnavailableError

if TYPE_CHECKING:
    from pillarbox.lease import LeaseKeeper

logger = logging.getLogger("pillarbox.brokers.redis")

Entry: TypeAlias = tuple[bytes, Sequence[bytes] | None]
"""An entry's id, and its fields; none where somebody removed it while it was pending."""
MEMBER: Final = "pillarbox"
"""The one name that all instances have in a group."""
WITHOUT_WORK: Final = timedelta(milliseconds=100)
WHILE_ENOUGH_IS_OUT: Final = timedelta(milliseconds=10)
PAGE: Final = 500
TRIM_AFTER: Final = 500
"""Acknowledged entries of a stream, after which what no group needs any more is removed from it."""


class RedisReceiver(MessageReceiver):
    """One instance's share of a consumer's messages."""

    def __init__(self, subscription: Subscription, *, connection: RedisConnection, keeper: LeaseKeeper) -> None:
        """Receive for ``subscription`` what lies in the partitions that ``keeper`` leases."""
        self._subscription = subscription
        self._connection = connection
        self._keeper = keeper
        self._clock = keeper.clock
        self._shares = Shares(
            subscription,
            keeper,
            make=lambda channel, partition: Share(stream_of(channel, partition), channel, partition),
        )
        self._count_from = float("-inf")
        self._stopping = False
        self._removed: dict[str, list[Receipt]] = {}
        """What somebody removed while it was pending, to be acknowledged: it would be found again and again."""

    async def receive(self, limit: int, *, within: timedelta) -> Sequence[Delivery]:
        """Renew the leases, then read what is there or wait for it."""
        deadline = self._clock.monotonic() + within.total_seconds()
        while True:
            mine = await self._shares.keep()
            left = timedelta(seconds=deadline - self._clock.monotonic())
            if limit and mine:
                if not any(share.gives for share in mine):
                    await self._read(mine, limit, left)
                if deliveries := hand_out(mine, limit):
                    return deliveries
            elif left > timedelta(0):
                await self._clock.sleep(min(left, WITHOUT_WORK))
            if self._clock.monotonic() >= deadline or self._stopping:
                return ()

    def stop(self) -> None:
        """Have a wait of the server's, which nobody can leave, be the last one."""
        self._stopping = True

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        """Acknowledge, or hand out again in order; what was not acknowledged for want of a server is read again."""
        if outcome is Outcome.ACCEPTED:
            await self._acknowledge(by_place(deliveries))
            return
        for name, receipts in by_place(deliveries).items():
            self._shares[name].give_back(receipts)

    def still_ours(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return those whose partition was not lost since."""
        return self._shares.still_ours(deliveries)

    async def close(self) -> None:
        """Give the partitions back; what is not settled is found by whoever takes them."""
        await self._shares.leave()

    async def _read(self, mine: Sequence[Share], limit: int, within: timedelta) -> None:
        try:
            await self._count_now_and_then(mine)
            if gained := self._shares.gained(mine):
                await self._read_pending([self._shares[name] for name in gained])
                for name, token in gained.items():
                    self._shares[name].token = token
            if self._removed:
                removed, self._removed = self._removed, {}
                await self._acknowledge(removed)
            if not any(share.gives for share in mine):
                await self._read_new(mine, limit, within)
        except BrokerUnavailableError as error:
            self._read_all_again()
            if error.reason.startswith("NOGROUP"):
                logger.warning("the group %s was gone; it begins again with all that is there", self._group)
                await declare(self._connection, self._subscription, anew=True)
            raise
        except BaseException:
            self._read_all_again()  # an answer may have been on its way
            raise

    async def _count_now_and_then(self, mine: Sequence[Share]) -> None:
        now = self._clock.monotonic()
        if now >= self._count_from:
            self._count_from = now + self._keeper.terms.ttl.total_seconds()
            await self._count_pending(mine)

    async def _count_pending(self, shares: Sequence[Share]) -> None:
        """Have a stream's pending entries read again when there are more than are known here.

        A former owner that was paused between looking at its lease and reading may have taken some afterwards.
        """
        known = [share.known for share in shares]  # before the question: what is settled meanwhile is not missing
        answers = await self._connection.execute_all([("XPENDING", share.name, self._group) for share in shares])
        for share, before, answer in zip(shares, known, answers, strict=True):
            if is_refusal(answer):
                raise refused(answer) from answer
            if answer[0] > before:
                share.lay_aside()

    async def _read_new(self, mine: Sequence[Share], limit: int, within: timedelta) -> None:
        names = [share.name for share in mine if share.token is not None and not share.ready]
        if any(share.ready for share in mine):  # of a place of which enough is out: it may go on at any moment
            within = min(within, WHILE_ENOUGH_IS_OUT)
        within = min(within, self._keeper.due_in)
        if not names:
            await self._clock.sleep(min(within, WITHOUT_WORK))
            return
        wait_ms = min(int(within.total_seconds() * 1000), BLOCK_AT_MOST_MS)
        block = ("BLOCK", wait_ms) if wait_ms > 0 else ()
        found = await self._ask(dict.fromkeys(names, ">"), "COUNT", limit, *block)
        await self._count_pending([self._shares[name] for name in found])  # before what was read overtakes any

    async def _read_pending(self, gained: Sequence[Share]) -> None:
        """Read what was delivered to somebody and never acknowledged, but for what this instance has handed out."""
        after = {share.name: "0" for share in gained}
        for share in gained:
            share.ready.clear()
        while after:
            found = await self._ask(after, "COUNT", PAGE)
            after = {name: entries[-1][0].decode() for name, entries in found.items() if len(entries) == PAGE}

    async def _ask(self, after: Mapping[str, str], *how: str | int) -> dict[str, Any]:
        """Read behind an entry of each stream; keep what comes and return it."""
        member = ("GROUP", self._group, MEMBER)
        answer = await self._connection.execute("XREADGROUP", *member, *how, "STREAMS", *after, *after.values())
        found = {name.decode(): entries for name, entries in answer or ()}
        for name, entries in found.items():
            self._take(self._shares[name], entries)
        return found

    def _take(self, share: Share, entries: Iterable[Entry]) -> None:
        for entry, fields in entries:
            milliseconds, _, number = entry.decode().partition("-")
            order = int(milliseconds), int(number)
            if fields is None:
                logger.error("entry %s of %s was removed before it was acknowledged", entry.decode(), share.name)
                self._removed.setdefault(share.name, []).append(Receipt(order, share.name))
            else:
                share.add(order, message_from(fields, channel=share.channel, place=f"{share.name}/{entry.decode()}"))

    async def _acknowledge(self, receipts_of: Mapping[str, Sequence[Receipt]]) -> None:
        entries = {name: [_entry_of(receipt) for receipt in receipts] for name, receipts in receipts_of.items()}
        try:
            await self._connection.execute_all([("XACK", name, self._group, *ids) for name, ids in entries.items()])
        except BaseException:
            self._read_all_again()
            raise
        finally:
            for name, receipts in receipts_of.items():
                self._shares[name].settle(receipts)
        full: list[Share] = []
        for name, receipts in receipts_of.items():
            share = self._shares[name]
            share.accepted += len(receipts)
            if share.accepted >= TRIM_AFTER:
                share.accepted = 0
                full.append(share)
        await trim(self._connection, full)

    def _read_all_again(self) -> None:
        """Have what is pending read once more, since some of it may never have reached us."""
        for share in self._shares:
            share.token = None

    @property
    def _group(self) -> str:
        return self._subscription.consumer


def _entry_of(receipt: Receipt) -> str:
    milliseconds, number = receipt.order
    return f"{milliseconds}-{number}"
