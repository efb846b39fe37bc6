"""The receiving end: leased partitions, each pulled from its durable consumer, in the order of its stream.

What a consumer delivered to somebody and nobody acknowledged, it would deliver again only when its time is over, and
behind what follows. So whoever takes a partition over reads it from the stream, before anything that follows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
from nats.errors import Error as NatsError

from pillarbox.brokers.nats.api import Consumer, JetStream, Refusal, Stored, refused
from pillarbox.brokers.nats.connection import NAME, Link, NatsConnection, unavailable
from pillarbox.brokers.nats.consumers import ACK_WAIT_S, NANOSECONDS, declare, trim
from pillarbox.brokers.nats.headers import reason_of, status_of
from pillarbox.brokers.nats.layout import durable_of, stream_of, subject_of
from pillarbox.brokers.nats.pull import Arrival, Pull
from pillarbox.brokers.partitions import Shares, by_place, hand_out
from pillarbox.channel import Delivery, MessageReceiver, Outcome, Subscription
from pillarbox.errors import BrokerUnavailableError
from pillarbox.lease import first_of
from pillarbox.serialization import ForeignMessages

if TYPE_CHECKING:
    from pillarbox.lease import LeaseKeeper

logger = logging.getLogger("pillarbox.brokers.nats")

ASKED_FOR_S: Final = 30
"""For so long a question for messages stands at the server."""
GRACE_S: Final = 5
"""After so much more it is taken for lost."""
ASK_AGAIN_S: Final = 0.1
"""After so long a question is asked again that the server would not take."""
TOUCH_EVERY_S: Final = ACK_WAIT_S / 3
COUNT_EVERY_S: Final = 5
"""So often the numbers of deliveries are compared, in case nothing follows what somebody else was given."""
LOOK_AT_LEASES_S: Final = 0.5
RETURNED_WITHIN_S: Final = 1.0
"""So long whoever takes a partition over waits for each message that is pending; it is given at once, or not."""
DRAIN_WITHIN_S: Final = 1.0
"""So long an instance that stops waits for what the server has under way to it."""
SIDE_BY_SIDE: Final = 8
WORTH_A_STRETCH: Final = 10
"""So many stretches of a stream are read at the same time, each of about so many messages that are pending, or more."""
TRIM_AFTER: Final = 500
"""Acknowledged messages of a partition, after which what nobody needs any more is removed from it."""
PAUSED: Final = "it is paused"
ENDED: Final = frozenset({"404", "408"})
"""No messages, or the question stood for as long as it was to: ask again."""
_encode = msgspec.json.Encoder().encode


class NatsReceiver(MessageReceiver):
    """One instance's share of a consumer's messages."""

    def __init__(
        self,
        subscription: Subscription,
        *,
        connection: NatsConnection,
        jetstream: JetStream,
        keeper: LeaseKeeper,
        replicas: int,
        foreign: Mapping[str, ForeignMessages],
    ) -> None:
        """Receive for ``subscription`` what lies in the partitions that ``keeper`` leases."""
        self._subscription = subscription
        self._connection = connection
        self._jetstream = jetstream
        self._keeper = keeper
        self._clock = keeper.clock
        self._renew_after_s = keeper.terms.ttl.total_seconds() / 3
        self._replicas = replicas
        self._foreign = foreign
        self._shares = Shares(subscription, keeper, make=self._pull)
        self._link: Link | None = None
        self._something_came = asyncio.Event()
        self._touch_at = float("-inf")
        self._count_from = float("-inf")
        self._stopping = False

    async def receive(self, limit: int, *, within: timedelta) -> Sequence[Delivery]:
        """Renew the leases, then look what came, or wait for it."""
        deadline = self._clock.monotonic() + within.total_seconds()
        while True:
            self._something_came.clear()
            mine = await self._shares.keep(give_up=self._give_up)
            await self._connected(mine)
            if limit and mine:
                await self._look(mine)
                if deliveries := hand_out(mine, limit):
                    with suppress(BrokerUnavailableError):  # the next call meets it; what is handed out must arrive
                        await self._ask(mine)
                    return deliveries
                await self._ask(mine)
            left = deadline - self._clock.monotonic()
            if left <= 0 or self._stopping:
                return ()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, LOOK_AT_LEASES_S, self._keeper.due_in.total_seconds())):
                    await self._something_came.wait()

    def stop(self) -> None:
        """Leave the wait."""
        self._stopping = True
        self._something_came.set()

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        """Acknowledge, or hand out again in order; what the server does not hear of it delivers again in its time."""
        full: list[Pull] = []
        replies: list[str] = []
        for name, receipts in by_place(deliveries).items():
            share = self._shares[name]
            if outcome is Outcome.RETURNED:
                share.give_back(receipts)
                self._something_came.set()
                continue
            replies += share.accept(receipts)
            if share.ready:
                self._something_came.set()
            share.accepted += len(receipts)
            if share.accepted >= TRIM_AFTER:
                share.accepted = 0
                full.append(share)
        await self._answer(replies, b"+ACK")
        for share in full:
            known = {(share.durable, share.created): tuple(share.acknowledged)}
            share.trimmed(await trim(self._jetstream, share.channel, share.partition, known=known))

    def still_ours(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return those whose partition was not lost since."""
        return self._shares.still_ours(deliveries)

    async def close(self) -> None:
        """Give the partitions back, and to the server what is not settled, so that whoever takes them can settle it."""
        await self._give_up([*self._shares], is_end=True)
        await self._shares.leave()

    async def _give_up(self, shares: Sequence[Pull], *, is_end: bool = False) -> None:
        """Return to the server what of ``shares`` is not out; at the end that, too."""
        try:
            if await _drained([share.inbox for share in shares if share.inbox is not None]):
                with suppress(
                    BrokerUnavailableError, Refusal, NatsError, OSError, TimeoutError
                ):  # it comes in its time
                    await self._return(shares, is_end=is_end)
        finally:
            for share in shares:
                share.inbox = None
                share.lay_aside()
                share.came.clear()

    async def _return(self, shares: Sequence[Pull], *, is_end: bool) -> None:
        returned = {share.name: share.unsettled(with_out=is_end) for share in shares}
        if not any(returned.values()):
            return
        for share in shares:
            if unsettled := returned[share.name]:
                # looking at a consumer has the server forget who asked and is gone: NATS 2.9 would lose one to it
                await self._jetstream.consumer(share.stream, share.durable)
                await self._answer(unsettled, b"-NAK")
        link = await self._connection.link()
        await link.client.flush(DRAIN_WITHIN_S)  # before anybody else may have the partitions

    def _pull(self, channel: str, partition: int) -> Pull:
        durable = durable_of(self._subscription.consumer, partition)
        name, stream, foreign = subject_of(channel, partition), stream_of(channel), self._foreign.get(channel)
        return Pull(name, channel, partition, stream=stream, durable=durable, foreign=foreign)

    async def _connected(self, mine: Sequence[Pull]) -> None:
        """Have a connection, on it the inboxes of what is read, and no others; begin with what was gained."""
        link = await self._connection.link()
        if link is not self._link:
            self._link = link
            link.watchers.add(self._something_came)
            for share in self._shares:
                share.inbox, share.token = None, None
        lost = [share for share in self._shares if share.token is None and share.inbox is not None]
        await _unsubscribe([share.inbox for share in lost])
        for share in lost:
            share.inbox = None
        await self._count(mine)
        if gained := self._shares.gained(mine):
            async with self._shares.renewed():
                await self._attach_some(link, gained)
        await self._touch()

    async def _count(self, mine: Sequence[Pull]) -> None:
        """Have a partition read again where nothing shows that it must be.

        Somebody else was given its last message, or its consumer was removed and is another one by now.
        """
        now = self._clock.monotonic()
        if now < self._count_from:
            return
        self._count_from = now + COUNT_EVERY_S
        for share in mine:
            if share.token is None:
                continue
            try:
                consumer = await self._jetstream.consumer(share.stream, share.durable)
            except Refusal as refusal:
                raise refused(refusal, what=f"consumer {share.durable} of {share.stream}") from refusal
            if not share.follows(consumer):
                share.token = None
            elif consumer is not None and consumer.is_paused and share.is_news(PAUSED):
                logger.warning("the consumer %s gives nothing: %s", share.durable, PAUSED)

    async def _attach_some(self, link: Link, gained: Mapping[str, int]) -> None:
        """Begin with what was ``gained``; after a while with the rest the next time: others are read, too."""
        attach_until = self._clock.monotonic() + self._renew_after_s
        for share in sorted((self._shares[name] for name in gained), key=lambda one: one.attached_at):
            share.attached_at = self._clock.monotonic()  # first: each has its turn, however often leases are lost
            await self._attach(link, share)
            share.token = gained[share.name]
            if self._clock.monotonic() >= attach_until:
                self._something_came.set()
                break

    async def _attach(self, link: Link, share: Pull) -> None:
        """Read what is pending from the stream, then go on with what follows."""
        try:
            consumer = await self._jetstream.consumer(share.stream, share.durable)
            if consumer is None:
                logger.warning("the consumer %s was gone; it begins again with all that is there", share.durable)
                self._count_from = float("-inf")  # others may be gone, and are made again with it
                await declare(self._jetstream, self._subscription, replicas=self._replicas, anew=True)
                consumer = await self._jetstream.consumer(share.stream, share.durable)
            if consumer is None:
                raise BrokerUnavailableError(broker=NAME, reason=f"consumer {share.durable} was removed once more")
            is_followed = share.created in ("", consumer.created)
            after = share.attach(consumer)
            returned = await self._returned(link, share, consumer.pending) if is_followed and consumer.pending else []
            if not (is_followed and share.is_whole(returned, consumer)):
                await self._find(share, consumer, after=after)
            share.begin(returned)
            share.inbox = await link.client.subscribe(link.client.new_inbox(), cb=partial(self._came, share))
        except Refusal as refusal:
            raise refused(refusal, what=f"consumer {share.durable} of {share.stream}") from refusal
        except (NatsError, OSError) as error:
            raise unavailable(error) from error

    async def _returned(self, link: Link, share: Pull, pending: int) -> list[Any]:
        """Ask for what is pending; what an instance that stopped has returned comes at once, before what follows."""
        inbox = await link.client.subscribe(link.client.new_inbox())
        came: list[Any] = []
        try:
            await self._pull_next(link, share, inbox, batch=pending, no_wait=True)
            while len(came) < pending and (one := await inbox.next_msg(timeout=RETURNED_WITHIN_S)).reply:
                came.append(one)
        except TimeoutError:
            pass
        finally:
            await _unsubscribe([inbox])
        return came

    async def _find(self, share: Pull, consumer: Consumer, *, after: int) -> None:
        """Read from the stream what was delivered to somebody who died with it, its stretches side by side."""
        last = consumer.delivered_up_to
        stretches = max(1, min(SIDE_BY_SIDE, consumer.pending // WORTH_A_STRETCH))
        length = max(1, -(-(last - after) // stretches))
        try:
            async with asyncio.TaskGroup() as group:
                reading = [
                    group.create_task(self._read(share, after=start, up_to=min(start + length, last)))
                    for start in range(after, last, length)
                ]
        except BaseExceptionGroup as errors:
            raise first_of(errors) from None
        for task in reading:
            for found in task.result():
                share.find(found)

    async def _read(self, share: Pull, *, after: int, up_to: int) -> list[Stored]:
        """Read one message after the other: each tells where the next may be."""
        read: list[Stored] = []
        while after < up_to:
            found = await self._jetstream.message(share.stream, share.name, at_least=after + 1)
            if found is None or found.sequence > up_to:
                break
            after = found.sequence
            read.append(found)
        return read

    async def _came(self, share: Pull, came: Any) -> None:
        if share.token is not None:
            share.came.append(came)
            self._something_came.set()

    async def _look(self, mine: Sequence[Pull]) -> None:
        again: list[str] = []
        for share in mine:
            while share.came and share.token is not None:
                came = share.came.popleft()
                if not came.reply:
                    status = status_of(came.headers)
                    if status not in ENDED and share.is_news(reason_of(came.headers)):
                        logger.warning(
                            "the consumer %s gives nothing: %s %s", share.durable, status, reason_of(came.headers)
                        )
                    self._hear(share, status)
                    continue
                share.asked -= 1
                arrival = share.take(came)
                if arrival is Arrival.ACKNOWLEDGED_BEFORE:
                    again.append(came.reply)
                elif arrival is Arrival.GAP:
                    share.token = None
        await self._answer(again, b"+ACK")

    def _hear(self, share: Pull, status: str) -> None:
        """Heed what the server says of a question for messages."""
        share.ask_again(from_=0.0 if status in ENDED else self._clock.monotonic() + ASK_AGAIN_S)
        if status not in ENDED:  # the consumer may be gone
            share.token = None

    async def _ask(self, mine: Sequence[Pull]) -> None:
        """Ask for more of each share that runs low."""
        link = self._link
        if link is None:
            return
        now = self._clock.monotonic()
        try:
            for share in mine:
                if wanted := share.ask(now, within=ASKED_FOR_S + GRACE_S):
                    await self._pull_next(link, share, share.inbox, batch=wanted, expires=ASKED_FOR_S * NANOSECONDS)
        except (NatsError, OSError) as error:
            raise unavailable(error) from error

    async def _pull_next(self, link: Link, share: Pull, inbox: Any, **question: Any) -> None:
        publish: Callable[..., Awaitable[None]] = link.client.publish
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{share.stream}.{share.durable}"
        await publish(subject, _encode(question), reply=inbox.subject)

    async def _touch(self) -> None:
        """Tell the server that what is here is still worked on."""
        now = self._clock.monotonic()
        if now < self._touch_at:
            return
        self._touch_at = now + TOUCH_EVERY_S
        await self._answer([reply for share in self._shares for reply in share.replies.values() if reply], b"+WPI")

    async def _answer(self, replies: Sequence[str], word: bytes) -> None:
        if not replies:
            return
        link = await self._connection.link()
        publish: Callable[..., Awaitable[None]] = link.client.publish
        try:
            for reply in replies:
                await publish(reply, word)
        except (NatsError, OSError) as error:
            raise unavailable(error) from error


async def _unsubscribe(inboxes: Sequence[Any]) -> None:
    for inbox in inboxes:
        with suppress(NatsError, OSError):  # a lost connection has no subscriptions either
            await inbox.unsubscribe()


async def _drained(inboxes: Sequence[Any]) -> bool:
    """Unsubscribe when what is on its way has come; tell whether all of it has."""
    try:
        async with asyncio.timeout(DRAIN_WITHIN_S), asyncio.TaskGroup() as group:
            draining = [group.create_task(_drain(inbox)) for inbox in inboxes]
    except TimeoutError:
        return False
    return all(task.result() for task in draining)


async def _drain(inbox: Any) -> bool:
    try:
        await inbox.drain()
    except (NatsError, OSError):
        return False
    return True
