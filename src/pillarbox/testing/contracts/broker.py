"""The rules of a broker as a whole: what holds over channels, consumers and time, whatever its two ends are."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta

import pytest

from pillarbox.channel import Broker, Confirmed, Delivery, MessageReceiver, NotReady, Outcome
from pillarbox.errors import ConfigurationError
from pillarbox.message import Message
from pillarbox.testing.contracts.broker_harness import (
    A_WHILE,
    BrokerHarness,
    accept,
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

MANY = 600
KEYS = 23


class BrokerContract:
    """What every ``Broker`` keeps; subclass it and supply the fixture ``broker_harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_many_messages_of_many_keys_come_in_the_order_of_each_key(
        self, broker_harness: BrokerHarness
    ) -> None:
        """However they are spread and fetched, and none is missing or comes twice."""
        needs(broker_harness.broker.capabilities.key_affinity, "key_affinity")
        topic = new_topic()
        async with listening(broker_harness, new_subscription(topic)) as receiver:
            sent = [letter(f"m{number}", topic, key=f"k{number % KEYS}") for number in range(MANY)]
            await _send_in_waves(broker_harness.broker, sent)

            came = [delivery.message for delivery in await _receive_and_accept(broker_harness, receiver, MANY)]

            assert _by_key(came) == _by_key(sent)

    async def test_messages_without_a_key_all_come_once(self, broker_harness: BrokerHarness) -> None:
        """They have no order, and are not worth less."""
        topic = new_topic()
        async with listening(broker_harness, new_subscription(topic)) as receiver:
            sent = [letter(f"m{number}", topic, key=None) for number in range(50)]
            assert list(await broker_harness.broker.sender().send(sent)) == [Confirmed()] * len(sent)

            came = await _receive_and_accept(broker_harness, receiver, len(sent))

            assert sorted(one.message.id for one in came) == sorted(one.id for one in sent)

    async def test_what_is_returned_comes_before_what_follows_it(self, broker_harness: BrokerHarness) -> None:
        """A consumer that gave up for the moment begins again where it was."""
        needs(broker_harness.broker.capabilities.key_affinity, "key_affinity")
        topic = new_topic()
        async with listening(broker_harness, new_subscription(topic)) as receiver:
            sent = [letter(f"m{number}", topic) for number in range(6)]
            await _send_in_waves(broker_harness.broker, sent[:3])
            returned = await receive(receiver, 3)
            await _send_in_waves(broker_harness.broker, sent[3:])
            await receiver.settle(returned, Outcome.RETURNED)

            assert [one.message for one in await receive(receiver, 6)] == sent

    async def test_whoever_takes_over_begins_with_what_was_not_settled(self, broker_harness: BrokerHarness) -> None:
        """In order, and without what was accepted from the beginning on."""
        needs(broker_harness.broker.capabilities.key_affinity, "key_affinity")
        topic = new_topic()
        subscription = new_subscription(topic)
        sent = [letter(f"m{number}", topic) for number in range(6)]
        async with listening(broker_harness, subscription) as first:
            await _send_in_waves(broker_harness.broker, sent[:4])
            await accept(broker_harness, first, (await receive(first, 4))[:2])
        await _send_in_waves(broker_harness.broker, sent[4:])

        async with listening(broker_harness, subscription) as second:
            assert [one.message for one in await receive(second, 4)] == sent[2:]

    async def test_what_was_read_ahead_and_accepted_by_another_comes_no_more(
        self, broker_harness: BrokerHarness
    ) -> None:
        """An instance that stops leaves to the next one what it had read, and the next one settles it for good."""
        topic = new_topic()
        subscription = new_subscription(topic)
        async with listening(broker_harness, subscription) as first:
            await _send_in_waves(broker_harness.broker, [letter(f"m{number}", topic) for number in range(20)])
            await accept(broker_harness, first, await receive(first, 5))
        async with listening(broker_harness, subscription) as second:
            await accept(broker_harness, second, await receive(second, 15))
            for _ in range(3):  # what the broker returns to it meanwhile it has settled already
                await assert_silent(second)

        async with listening(broker_harness, subscription) as third:
            await assert_silent(third)

    async def test_declaring_again_changes_nothing(self, broker_harness: BrokerHarness) -> None:
        """Every start of a process declares what is declared already."""
        topic = new_topic()
        subscription = new_subscription(topic)
        async with listening(broker_harness, subscription) as receiver:
            sent = letter("m1", topic)
            await _send_in_waves(broker_harness.broker, [sent])
            await broker_harness.broker.declare([subscription])
            await broker_harness.broker.declare([subscription, subscription])

            assert [one.message for one in await receive(receiver, 1)] == [sent]
            await assert_silent(receiver)

    async def test_a_consumer_that_comes_later_takes_nothing_from_the_others(
        self, broker_harness: BrokerHarness
    ) -> None:
        """And gets what is sent from then on."""
        topic = new_topic()
        async with listening(broker_harness, new_subscription(topic)) as early:
            first, second = letter("m1", topic), letter("m2", topic)
            await _send_in_waves(broker_harness.broker, [first])
            async with listening(broker_harness, new_subscription(topic)) as late:
                await _send_in_waves(broker_harness.broker, [second])

                assert second in [one.message for one in await _receive_until(late, second)]
                assert [one.message for one in await receive(early, 2)] == [first, second]

    async def test_channels_do_not_mix(self, broker_harness: BrokerHarness) -> None:
        """Also where one's name is the beginning of another's, or a topic and a queue have the same."""
        name = new_topic().removeprefix("topic:")
        channels = [f"topic:{name}", f"topic:{name}.more", f"queue:{name}", f"topic:{name}-0"]
        receivers: list[MessageReceiver] = []
        try:
            for channel in channels:
                subscription = new_subscription(channel)
                await broker_harness.broker.declare([subscription])
                receivers.append(broker_harness.broker.receiver(subscription, owner=channel))
            sent = [letter(f"m{number}", channel) for number, channel in enumerate(channels)]
            assert list(await broker_harness.broker.sender().send(sent)) == [Confirmed()] * len(sent)

            for receiver, message in zip(receivers, sent, strict=True):
                assert [one.message for one in await receive(receiver, 1)] == [message]
            await assert_silent(*receivers)
        finally:
            for receiver in receivers:
                await receiver.close()

    async def test_a_message_of_a_queue_goes_to_one_consumer(self, broker_harness: BrokerHarness) -> None:
        """A second one is refused, or shares with the first."""
        queue = new_queue()
        first, second = new_subscription(queue), new_subscription(queue)
        async with listening(broker_harness, first) as one:
            try:
                await broker_harness.broker.declare([second])
            except ConfigurationError:
                receivers = [one]
            else:
                receivers = [one, broker_harness.broker.receiver(second, owner="second")]
            sent = [letter(f"m{number}", queue, key=f"k{number}") for number in range(20)]
            await _send_in_waves(broker_harness.broker, sent)

            came: list[Delivery] = []
            async with asyncio.timeout(PATIENCE.total_seconds()):
                while len(came) < len(sent):
                    for receiver in receivers:
                        found = await receiver.receive(5, within=A_WHILE)
                        await accept(broker_harness, receiver, found)
                        came += found
            await assert_silent(*receivers)
            for receiver in receivers:
                await receiver.close()

            assert sorted(one.message.id for one in came) == sorted(one.id for one in sent)

    async def test_a_large_batch_is_confirmed_whole(self, broker_harness: BrokerHarness) -> None:
        """A result for each, in the same order."""
        queue = new_queue()
        sent = [letter(f"m{number}", queue, key=f"k{number}", body=b"x" * 2_000) for number in range(MANY)]

        assert list(await broker_harness.broker.sender().send(sent)) == [Confirmed()] * MANY

    async def test_senders_side_by_side_lose_nothing(self, broker_harness: BrokerHarness) -> None:
        """Each gets its own confirms."""
        queue = new_queue()
        async with listening(broker_harness, new_subscription(queue)) as receiver:
            sent = [[letter(f"m{sender}-{number}", queue, key=f"k{number}") for number in range(40)] for sender in "ab"]
            async with asyncio.TaskGroup() as group:
                sending = [group.create_task(broker_harness.broker.sender().send(part)) for part in sent]

            assert [list(one.result()) for one in sending] == [[Confirmed()] * 40] * 2
            came = await _receive_and_accept(broker_harness, receiver, 80)
            assert {one.message.id for one in came} == {one.id for part in sent for one in part}

    async def test_receiving_ends_when_its_time_is_over(self, broker_harness: BrokerHarness) -> None:
        """A consumer that wants to stop need not wait for a message."""
        async with listening(broker_harness, new_subscription(new_topic())) as receiver:
            async with asyncio.timeout(PATIENCE.total_seconds()):
                for within in (timedelta(0), A_WHILE):
                    assert list(await receiver.receive(10, within=within)) == []

    async def test_settling_nothing_is_no_error(self, broker_harness: BrokerHarness) -> None:
        """A lane that gave everything back has nothing left to give."""
        async with listening(broker_harness, new_subscription(new_topic())) as receiver:
            for outcome in Outcome:
                await receiver.settle([], outcome)

    async def test_opening_and_closing_twice_is_harmless(self, broker_harness: BrokerHarness) -> None:
        """And one that was closed can be opened again."""
        broker = broker_harness.again()
        for _ in range(2):
            await broker.open()
            await broker.open()
            await broker.close()
            await broker.close()
        await broker.open()
        (result,) = await broker.sender().send([letter("m1", new_topic())])
        await broker.close()

        assert isinstance(result, NotReady), result

    async def test_a_message_sent_again_is_the_same_message(self, broker_harness: BrokerHarness) -> None:
        """A relay that lost a confirm sends again; the broker may store it once or twice, but not another one."""
        topic = new_topic()
        async with listening(broker_harness, new_subscription(topic)) as receiver:
            sent, last = letter("m1", topic), letter("m2", topic)
            for message in (sent, sent, last):
                assert list(await broker_harness.broker.sender().send([message])) == [Confirmed()]

            came = [one.message for one in await _receive_until(receiver, last)]

            assert came in ([sent, last], [sent, sent, last])


async def _send_in_waves(broker: Broker, messages: Sequence[Message]) -> None:
    """Send as a relay does: all at once where the broker keeps a prefix, else of each key one at a time."""
    sender = broker.sender()
    waves: list[list[Message]] = [list(messages)]
    if not broker.capabilities.ordered_prefix:
        waves = []
        seen: dict[str | None, int] = defaultdict(int)
        for message in messages:
            number = seen[message.key]
            seen[message.key] += 1
            if number == len(waves):
                waves.append([])
            waves[number].append(message)
    for wave in waves:
        assert list(await sender.send(wave)) == [Confirmed()] * len(wave)


async def _receive_and_accept(harness: BrokerHarness, receiver: MessageReceiver, count: int) -> list[Delivery]:
    """Receive and accept as it comes, until there are ``count``; more must not come."""
    found: list[Delivery] = []
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while len(found) < count:
            came = await receiver.receive(100, within=A_WHILE)
            await accept(harness, receiver, came)
            found += came
    assert len(found) == count
    return found


async def _receive_until(receiver: MessageReceiver, last: Message) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while not any(one.message == last for one in found):
            found += await receiver.receive(10, within=A_WHILE)
    return found


def _by_key(messages: Sequence[Message]) -> dict[str | None, list[str]]:
    found: dict[str | None, list[str]] = defaultdict(list)
    for message in messages:
        found[message.key].append(message.id)
    return dict(found)
