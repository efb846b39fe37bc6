"""The rules of the sending end of a broker."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from pillarbox.channel import Confirmed, NotReady, NotSent, Refused
from pillarbox.message import Message
from pillarbox.testing.contracts.broker_harness import (
    BrokerHarness,
    assert_silent,
    letter,
    listening,
    needs,
    new_queue,
    new_subscription,
    new_topic,
    receive,
)

ENOUGH_BYTES = 1_000_000
"""What a broker that declares no limit must take: the largest body that a box publishes unless told otherwise."""


class SenderContract:
    """What every ``MessageSender`` keeps; subclass it and supply the fixture ``broker_harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_each_message_is_confirmed_by_itself_and_in_order(self, broker_harness: BrokerHarness) -> None:
        """One result for each message."""
        topic = new_topic()
        async with listening(broker_harness, new_subscription(topic)) as receiver:
            sent = [letter(f"m{number}", topic, key=f"k{number % 3}") for number in range(7)]

            results = await broker_harness.broker.sender().send(sent)

            assert list(results) == [Confirmed()] * 7
            assert {one.message.id for one in await receive(receiver, 7)} == {one.id for one in sent}

    async def test_sending_nothing_is_no_error(self, broker_harness: BrokerHarness) -> None:
        """A pass that found nothing may say so."""
        assert list(await broker_harness.broker.sender().send([])) == []

    async def test_a_topic_nobody_listens_to_is_not_ready_and_stores_nothing(
        self, broker_harness: BrokerHarness
    ) -> None:
        """It can be sent again once there is somebody."""
        topic, message = new_topic(), letter("m1", new_topic())
        message = replace(message, destination=topic)
        sender = broker_harness.broker.sender()

        early = (await sender.send([message]))[0]
        async with listening(broker_harness, new_subscription(topic)) as receiver:
            await assert_silent(receiver)
            late = (await sender.send([message]))[0]

            assert isinstance(early, NotReady), early
            assert late == Confirmed()
            assert [one.message for one in await receive(receiver, 1)] == [message]

    async def test_a_destination_that_is_not_ready_does_not_disturb_the_others(
        self, broker_harness: BrokerHarness
    ) -> None:
        """What is confirmed arrives, and what is not confirmed does not."""
        heard, deaf = new_topic(), new_topic()
        async with listening(broker_harness, new_subscription(heard)) as receiver:
            sent = [letter("m1", heard), letter("m2", deaf), letter("m3", heard)]

            results = await broker_harness.broker.sender().send(sent)

            assert isinstance(results[1], (NotReady, NotSent)), results
            confirmed = [one for one, result in zip(sent, results, strict=True) if result == Confirmed()]
            assert [one.message for one in await receive(receiver, len(confirmed))] == confirmed
            await assert_silent(receiver)

    async def test_a_queue_keeps_its_messages_while_there_is_no_consumer(self, broker_harness: BrokerHarness) -> None:
        """Point-to-point: the consumer may come later."""
        queue = new_queue()
        sent = [letter(f"m{number}", queue) for number in range(3)]

        results = await broker_harness.broker.sender().send(sent)

        assert list(results) == [Confirmed()] * 3
        async with listening(broker_harness, new_subscription(queue)) as receiver:
            assert [one.message for one in await receive(receiver, 3)] == sent

    async def test_a_declared_consumer_that_does_not_run_misses_nothing(self, broker_harness: BrokerHarness) -> None:
        """Durable subscriber."""
        topic = new_topic()
        absent = new_subscription(topic)
        await broker_harness.broker.declare([absent])
        sent = [letter(f"m{number}", topic) for number in range(3)]

        await broker_harness.broker.sender().send(sent)

        async with listening(broker_harness, absent) as receiver:
            assert [one.message for one in await receive(receiver, 3)] == sent

    @pytest.mark.parametrize(
        "body",
        [b"", bytes(range(256)), b"\x00", "naïve ☃".encode(), b"\xff\xfe not utf-8"],
        ids=["empty", "every byte", "nul", "utf-8", "no utf-8"],
    )
    async def test_the_body_is_opaque(self, broker_harness: BrokerHarness, body: bytes) -> None:
        """Not one byte is changed."""
        await _arrives(broker_harness, letter("m1", new_topic(), body=body))

    @pytest.mark.parametrize(
        ("key", "headers"),
        [
            (None, {"source": "shop"}),
            ("k", {"source": "shop", "correlationid": "c-1", "tenant": "t"}),
            ("ключ 🔑 \u00e9 e\u0301", {"source": "shop", "note": "naïve ☃ 漢字"}),
            ("k" * 500, {"source": "shop", "long": "v" * 4_000}),
            ('it\'s "quoted" \\ % ; --', {"source": "shop", "note": 'a "b" \\ {c} : %s'}),
        ],
        ids=["none", "plain", "unicode", "long", "quotes"],
    )
    async def test_the_envelope_arrives_as_it_was_sent(
        self, broker_harness: BrokerHarness, key: str | None, headers: dict[str, str]
    ) -> None:
        """Id, type, key, content type and headers."""
        message = letter("m1", new_topic(), key=key)

        await _arrives(broker_harness, replace(message, headers=headers, content_type="application/cbor; v=2"))

    async def test_a_body_at_the_limit_is_taken(self, broker_harness: BrokerHarness) -> None:
        """The declared limit is the real one."""
        limit = broker_harness.broker.capabilities.max_body_bytes or ENOUGH_BYTES

        await _arrives(broker_harness, letter("m1", new_topic(), body=b"x" * limit))

    async def test_a_body_above_the_limit_is_refused(self, broker_harness: BrokerHarness) -> None:
        """Refused and not unknown: sending it again would not help."""
        limit = broker_harness.broker.capabilities.max_body_bytes
        needs(limit is not None, "a limit")
        topic = new_topic()
        async with listening(broker_harness, new_subscription(topic)) as receiver:
            too_big = letter("m1", topic, body=b"x" * ((limit or 0) + 1))

            result = (await broker_harness.broker.sender().send([too_big]))[0]

            assert isinstance(result, Refused), result
            await assert_silent(receiver)

    async def test_what_is_stored_of_a_failing_batch_is_a_prefix(self, broker_harness: BrokerHarness) -> None:
        """``ordered_prefix``: what follows a failure to the same destination was not stored."""
        capabilities = broker_harness.broker.capabilities
        needs(capabilities.ordered_prefix, "ordered_prefix")
        limit = capabilities.max_body_bytes
        needs(limit is not None, "a limit that would make a message fail")
        topic = new_topic()
        async with listening(broker_harness, new_subscription(topic)) as receiver:
            bodies = [b"1", b"x" * ((limit or 0) + 1), b"3"]
            sent = [letter(f"m{number}", topic, body=body) for number, body in enumerate(bodies)]

            results = await broker_harness.broker.sender().send(sent)

            assert results[0] == Confirmed()
            assert isinstance(results[1], Refused), results
            assert results[2] == NotSent()
            assert [one.message for one in await receive(receiver, 1)] == sent[:1]
            await assert_silent(receiver)

    async def test_a_batch_is_stored_in_its_order(self, broker_harness: BrokerHarness) -> None:
        """Of each key; over several batches too."""
        topic = new_topic()
        async with listening(broker_harness, new_subscription(topic)) as receiver:
            sent = [letter(f"m{number}", topic, key=f"k{number % 4}") for number in range(40)]
            sender = broker_harness.broker.sender()
            for start in range(0, 40, 13):
                await sender.send(sent[start : start + 13])

            came = [one.message for one in await receive(receiver, 40)]

            for key in ("k0", "k1", "k2", "k3"):
                assert [one.id for one in came if one.key == key] == [one.id for one in sent if one.key == key]

    async def test_what_is_confirmed_survives_the_broker_object(self, broker_harness: BrokerHarness) -> None:
        """``durable``: another process finds it."""
        needs(broker_harness.broker.capabilities.durable, "durable")
        topic = new_topic()
        subscription = new_subscription(topic)
        sent = [letter(f"m{number}", topic) for number in range(3)]
        first = broker_harness.again()
        await first.open()
        await first.declare([subscription])
        assert list(await first.sender().send(sent)) == [Confirmed()] * 3
        await first.close()

        second = broker_harness.again()
        await second.open()
        async with listening(broker_harness, subscription, broker=second) as receiver:
            assert [one.message for one in await receive(receiver, 3)] == sent
        await second.close()

    async def test_sender_and_broker_declare_the_same(self, broker_harness: BrokerHarness) -> None:
        """The relay asks the one, start-up the other."""
        assert broker_harness.broker.sender().capabilities == broker_harness.broker.capabilities


async def _arrives(harness: BrokerHarness, message: Message) -> None:
    """Make sure that ``message`` arrives as it was sent."""
    async with listening(harness, new_subscription(message.destination)) as receiver:
        assert list(await harness.broker.sender().send([message])) == [Confirmed()]

        assert [one.message for one in await receive(receiver, 1)] == [message]
