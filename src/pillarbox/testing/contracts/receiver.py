"""The rules of the receiving end of a broker."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import timedelta

import pytest

from pillarbox.channel import OUT_OF_A_PLACE, Confirmed, Delivery, MessageReceiver, Outcome
from pillarbox.errors import LeaseLostError
from pillarbox.message import Message
from pillarbox.testing.contracts.broker_harness import (
    A_WHILE,
    BrokerHarness,
    accept,
    accept_within,
    assert_silent,
    letter,
    listening,
    needs,
    new_queue,
    new_subscription,
    new_topic,
    receive,
)
from pillarbox.testing.waiting import PATIENCE
from pillarbox.transaction import Program, TransactionSource

AT_ONCE = timedelta(0)
ROUNDS_LONGER_THAN_A_LEASE = 10


class ReceiverContract:
    """What every ``MessageReceiver`` keeps; subclass it and supply the fixture ``broker_harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_a_topic_reaches_every_consumer(self, broker_harness: BrokerHarness) -> None:
        """Publish-subscribe; accepting for one accepts for nobody else."""
        topic = new_topic()
        async with (
            listening(broker_harness, new_subscription(topic)) as one,
            listening(broker_harness, new_subscription(topic)) as other,
        ):
            sent = await _send(broker_harness, letter("m1", topic))

            await accept(broker_harness, one, await receive(one, 1))

            assert _messages(await receive(other, 1)) == sent

    async def test_a_consumer_receives_from_all_its_channels(self, broker_harness: BrokerHarness) -> None:
        """And from no other."""
        topic, queue, other = new_topic(), new_queue(), new_queue()
        async with listening(broker_harness, new_subscription(topic, queue)) as receiver:
            sent = await _send(broker_harness, letter("m1", topic), letter("m2", queue), letter("m3", other))

            came = _messages(await receive(receiver, 2))

            assert sorted(one.id for one in came) == sorted(one.id for one in sent[:2])
            await assert_silent(receiver)

    async def test_what_is_accepted_does_not_come_again(self, broker_harness: BrokerHarness) -> None:
        """Not to this instance and not to the next."""
        topic = new_topic()
        subscription = new_subscription(topic)
        async with listening(broker_harness, subscription) as receiver:
            await _send(broker_harness, letter("m1", topic), letter("m2", topic))
            await accept(broker_harness, receiver, await receive(receiver, 2))
            await assert_silent(receiver)

        async with listening(broker_harness, subscription) as successor:
            await assert_silent(successor)

    async def test_what_is_handed_out_is_not_handed_out_again_before_it_is_settled(
        self, broker_harness: BrokerHarness
    ) -> None:
        """What comes meanwhile is."""
        topic = new_topic()
        async with listening(broker_harness, new_subscription(topic)) as receiver:
            await _send(broker_harness, letter("m1", topic))
            await receive(receiver, 1)
            await assert_silent(receiver)
            sent = await _send(broker_harness, letter("m2", topic))

            assert _messages(await receive(receiver, 1)) == sent

    async def test_not_more_are_handed_out_than_asked_for(self, broker_harness: BrokerHarness) -> None:
        """Back-pressure."""
        topic = new_topic()
        async with listening(broker_harness, new_subscription(topic)) as receiver:
            sent = await _send(broker_harness, *(letter(f"m{number}", topic) for number in range(5)))

            first = await receive(receiver, 1)
            few = await receiver.receive(3, within=A_WHILE)

            assert len(few) <= 3
            rest = await receive(receiver, 4 - len(few))
            assert _messages([*first, *few, *rest]) == sent

    async def test_of_one_key_only_so_many_are_out_and_the_rest_follows_in_order(
        self, broker_harness: BrokerHarness
    ) -> None:
        """A key that is handled slowly leaves room for others, and nothing is handed out again and again meanwhile."""
        topic = new_topic()
        async with listening(broker_harness, new_subscription(topic)) as receiver:
            sent = await _send(
                broker_harness, *(letter(f"m{number:03}", topic, key="hot") for number in range(OUT_OF_A_PLACE + 50))
            )

            first = await _as_many_as_come(receiver)
            came = list(first)
            await accept(broker_harness, receiver, first)
            while len(came) < len(sent):
                more = await _as_many_as_come(receiver)
                await accept(broker_harness, receiver, more)
                came += more

            assert len(first) <= OUT_OF_A_PLACE
            assert _messages(came) == sent

    async def test_receiving_waits_for_a_message(self, broker_harness: BrokerHarness) -> None:
        """It returns soon after one came, not only when the time is over."""
        topic = new_topic()
        async with listening(broker_harness, new_subscription(topic)) as receiver:
            await assert_silent(receiver)
            async with asyncio.TaskGroup() as group:
                receiving = group.create_task(receive(receiver, 1))
                sent = await _send(broker_harness, letter("m1", topic))

            assert _messages(receiving.result()) == sent

    async def test_whoever_is_told_to_stop_waits_no_longer_and_still_settles_what_is_out(
        self, broker_harness: BrokerHarness
    ) -> None:
        """A consumer that ends is not kept by a quiet channel."""
        topic = new_topic()
        subscription = new_subscription(topic)
        async with listening(broker_harness, subscription) as receiver:
            await _send(broker_harness, letter("m1", topic))
            came = await receive(receiver, 1)
            await assert_silent(receiver)
            async with asyncio.timeout(PATIENCE.total_seconds()), asyncio.TaskGroup() as group:
                waiting = group.create_task(receiver.receive(1, within=PATIENCE * 3))
                await asyncio.wait((waiting,), timeout=A_WHILE.total_seconds())
                receiver.stop()
            assert list(waiting.result()) == []
            await accept(broker_harness, receiver, came)
        async with listening(broker_harness, subscription) as successor:
            await assert_silent(successor)

    async def test_returned_messages_come_again_in_order(self, broker_harness: BrokerHarness) -> None:
        """Before what is behind them in their key."""
        topic = new_topic()
        async with listening(broker_harness, new_subscription(topic)) as receiver:
            sent = await _send(broker_harness, *(letter(f"m{number}", topic) for number in range(6)))
            handed_out = await receive(receiver, 4)

            await accept(broker_harness, receiver, handed_out[:1])
            await receiver.settle(handed_out[1:], Outcome.RETURNED)

            assert _messages(await receive(receiver, 5)) == sent[1:]

    async def test_a_redelivery_is_the_same_message(self, broker_harness: BrokerHarness) -> None:
        """Its id above all: the inbox knows it by that."""
        queue = new_queue()
        async with listening(broker_harness, new_subscription(queue)) as receiver:
            sent = await _send(broker_harness, letter("m1", queue, body=bytes(range(256))))
            for _ in range(3):
                again = await receive(receiver, 1)

                assert _messages(again) == sent
                await receiver.settle(again, Outcome.RETURNED)

    async def test_closing_hands_over_at_once(self, broker_harness: BrokerHarness) -> None:
        """Nobody waits for a lease to expire after an orderly stop."""
        topic = new_topic()
        subscription = new_subscription(topic)
        async with listening(broker_harness, subscription) as leaving:
            sent = await _send(broker_harness, *(letter(f"m{number}", topic) for number in range(3)))
            await receive(leaving, 2)
            await leaving.close()

            async with listening(broker_harness, subscription) as successor:
                assert _messages(await receive(successor, 3)) == sent

    async def test_stale_receipts_are_ignored(self, broker_harness: BrokerHarness) -> None:
        """Whoever was too slow changes nothing for the one who has the messages now."""
        topic = new_topic()
        subscription = new_subscription(topic)
        async with listening(broker_harness, subscription) as late:
            await _send(broker_harness, letter("m1", topic), letter("m2", topic))
            stale = await receive(late, 2)
            await late.close()
            async with listening(broker_harness, subscription) as owner:
                fresh = await receive(owner, 2)

                await late.settle(stale[:1], Outcome.RETURNED)
                await late.settle(stale[1:], Outcome.ACCEPTED)

                await assert_silent(owner)
                await owner.settle(fresh, Outcome.RETURNED)
                assert _messages(await receive(owner, 2)) == _messages(fresh)

    async def test_settling_twice_is_settling_once(self, broker_harness: BrokerHarness) -> None:
        """An answer may have been lost."""
        topic = new_topic()
        async with listening(broker_harness, new_subscription(topic)) as receiver:
            await _send(broker_harness, letter("m1", topic))
            delivery = await receive(receiver, 1)

            await accept(broker_harness, receiver, delivery)
            await receiver.settle(delivery, Outcome.ACCEPTED)
            await receiver.settle(delivery, Outcome.RETURNED)

            await assert_silent(receiver)

    async def test_closing_twice_is_closing_once(self, broker_harness: BrokerHarness) -> None:
        """Whoever cleans up need not know who did before."""
        async with listening(broker_harness, new_subscription(new_topic())) as receiver:
            await receiver.close()

    async def test_competing_instances_share_the_messages_and_each_goes_to_one(
        self, broker_harness: BrokerHarness
    ) -> None:
        """Competing consumers: sooner or later each has some; with affinity no key is with two of them."""
        topic = new_topic()
        subscription = new_subscription(topic)
        async with (
            listening(broker_harness, subscription) as one,
            listening(broker_harness, subscription) as other,
        ):
            competition = _Competition(broker_harness, (one, other))
            async with asyncio.timeout(PATIENCE.total_seconds()):
                while not competition.shared:
                    await competition.round(topic)
                await competition.drain()

            competition.check()

    async def test_receiving_nothing_keeps_what_was_handed_out(self, broker_harness: BrokerHarness) -> None:
        """A consumer that is busy calls with a limit of 0; nobody else gets its messages, however long it takes."""
        topic = new_topic()
        subscription = new_subscription(topic)
        async with (
            listening(broker_harness, subscription) as busy,
            listening(broker_harness, subscription) as idle,
        ):
            await _send(broker_harness, *(letter(f"m{number}", topic) for number in range(2)))
            handed_out = await receive(busy, 2)
            for _ in range(ROUNDS_LONGER_THAN_A_LEASE):
                broker_harness.let_time_pass()
                assert list(await busy.receive(0, within=AT_ONCE)) == []
                assert list(await idle.receive(10, within=A_WHILE)) == []

            await accept(broker_harness, busy, handed_out)
            await assert_silent(busy, idle)

    async def test_what_is_accepted_in_a_transaction_that_rolls_back_comes_again(
        self, broker_harness: BrokerHarness
    ) -> None:
        """``transactional``: effects and acceptance are one."""
        source = _source(broker_harness)
        topic = new_topic()
        async with listening(broker_harness, new_subscription(topic)) as receiver:
            await _send(broker_harness, letter("m1", topic))
            delivery = await receive(receiver, 1)
            with pytest.raises(_RollBackError):
                await source.run(_then_fail(accept_within(receiver, delivery)))
            await receiver.settle(delivery, Outcome.RETURNED)

            assert _messages(await receive(receiver, 1)) == _messages(delivery)

    async def test_what_another_instance_owns_by_now_cannot_be_accepted(self, broker_harness: BrokerHarness) -> None:
        """``transactional``: the transaction of the slow one is rolled back as a whole."""
        source = _source(broker_harness)
        topic = new_topic()
        subscription = new_subscription(topic)
        async with listening(broker_harness, subscription) as late:
            await _send(broker_harness, letter("m1", topic), letter("m2", topic))
            stale = await receive(late, 2)
            await late.close()
            async with listening(broker_harness, subscription) as owner:
                fresh = await receive(owner, 2)

                with pytest.raises(LeaseLostError):
                    await source.run(accept_within(late, stale))

                await accept(broker_harness, owner, fresh)
                await assert_silent(owner)


class _Competition:
    """Two instances of a consumer that compete, and what they were handed."""

    def __init__(self, harness: BrokerHarness, receivers: tuple[MessageReceiver, MessageReceiver]) -> None:
        self._harness = harness
        self._receivers = receivers
        self._in_hand: dict[MessageReceiver, list[Delivery]] = {receiver: [] for receiver in receivers}
        self._came: dict[str | None, list[str]] = defaultdict(list)
        self._sent: dict[str | None, list[str]] = defaultdict(list)
        self._with: dict[MessageReceiver, int] = dict.fromkeys(receivers, 0)

    @property
    def shared(self) -> bool:
        """Whether each has been handed something."""
        return all(self._with.values())

    async def round(self, topic: str) -> None:
        """Send a message of each of many keys, then let everybody receive and accept what was received before."""
        self._harness.let_time_pass()
        messages = [letter("m", topic, key=f"k{number}") for number in range(24)]
        for message in await _send(self._harness, *messages):
            self._sent[message.key].append(message.id)
        await self._receive(10)

    async def drain(self) -> None:
        """Receive and accept until nothing is left."""
        while sum(map(len, self._came.values())) < sum(map(len, self._sent.values())):
            await self._receive(50)
        await self._receive(0)
        await assert_silent(*self._receivers)

    def check(self) -> None:
        """Compare what came with what was sent."""
        if self._harness.broker.capabilities.key_affinity:
            assert self._came == self._sent
        else:
            assert {key: sorted(ids) for key, ids in self._came.items()} == {
                key: sorted(ids) for key, ids in self._sent.items()
            }

    async def _receive(self, limit: int) -> None:
        for receiver in self._receivers:
            before, self._in_hand[receiver] = self._in_hand[receiver], []
            self._note(receiver, list(await receiver.receive(limit, within=A_WHILE)), before)
            await accept(self._harness, receiver, before)

    def _note(self, receiver: MessageReceiver, deliveries: list[Delivery], before: list[Delivery]) -> None:
        self._in_hand[receiver] = deliveries
        self._with[receiver] += len(deliveries)
        for delivery in deliveries:
            self._came[delivery.message.key].append(delivery.message.id)
        if self._harness.broker.capabilities.key_affinity:
            mine = {one.message.key for one in (*deliveries, *before)}
            others = {
                one.message.key for other in self._receivers if other is not receiver for one in self._in_hand[other]
            }
            assert not mine & others, f"two instances have messages of {mine & others}"


class _RollBackError(Exception):
    """Ends a transaction without its commit."""


def _then_fail(program: Program[None]) -> Program[None]:
    yield from program
    raise _RollBackError


def _source(harness: BrokerHarness) -> TransactionSource:
    needs(harness.broker.capabilities.transactional, "transactional")
    assert harness.source is not None, "a transactional broker needs the harness to say where transactions begin"
    return harness.source


async def _send(harness: BrokerHarness, *messages: Message) -> list[Message]:
    results = await harness.broker.sender().send(messages)
    assert list(results) == [Confirmed()] * len(messages), results
    return list(messages)


def _messages(deliveries: list[Delivery]) -> list[Message]:
    return [delivery.message for delivery in deliveries]


async def _as_many_as_come(receiver: MessageReceiver) -> list[Delivery]:
    came: list[Delivery] = []
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while (more := list(await receiver.receive(1_000, within=A_WHILE))) or not came:
            came += more
    return came
