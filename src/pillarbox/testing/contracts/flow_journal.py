"""The rules of a journal of flows: what was seen, once each, and what consumers made of it; and of who takes part."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import pytest

from pillarbox.channel import Subscription
from pillarbox.flow import Participant, Passage, SeenMessage
from pillarbox.flow.record import TRACKER, HandlingState
from pillarbox.holding import HeldMessage, HeldState, Hold
from pillarbox.message import Message
from pillarbox.message import headers as names
from pillarbox.testing.contracts.dead_letters import burial, bury
from pillarbox.testing.contracts.harness import ANY_AGE, LONG, StoreHarness, make_message, rolled_back

PLACED, CHARGED = Passage("order.placed", "topic:order"), Passage("payment.charged", "topic:payment")
FIRST = SeenMessage(
    correlation_id="p-1",
    message_id="m-1",
    passage=PLACED,
    service="shop",
    published_at=datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC),
)
SECOND = SeenMessage(
    correlation_id="p-1",
    message_id="m-2",
    passage=CHARGED,
    service="payment",
    causation_id="c-1",
    cause=Passage("payment.charge", "queue:payments"),
    hop=2,
)
RESERVE, OTHER = "stock/reserve", "stock/audit"


class FlowJournalContract:
    """What every ``FlowJournal`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_what_was_seen_is_read_again(self, harness: StoreHarness) -> None:
        """Every fact, and when it was seen by the database's clock; those of other processes are left out."""
        await note(harness, FIRST, SECOND, replace(FIRST, correlation_id="p-2", message_id="m-3"))

        found = await messages(harness, "p-1")

        assert [replace(one, seen_at=None) for one in found] == [FIRST, SECOND]
        assert all(one.seen_at is not None for one in found)
        assert len(await messages(harness, "p-1", "p-2")) == 3

    async def test_what_is_seen_again_stays_as_it_was(self, harness: StoreHarness) -> None:
        """It is recorded once, with the time when it was seen first."""
        await note(harness, FIRST)
        before = await messages(harness, "p-1")

        await note(harness, FIRST, FIRST, SECOND)

        after = await messages(harness, "p-1")
        assert after[:1] == before
        assert len(after) == 2

    async def test_what_is_rolled_back_was_not_seen(self, harness: StoreHarness) -> None:
        """It is seen again."""
        async with rolled_back(harness) as tx:
            await tx.run(harness.flows.journal.note([FIRST]))

        assert await messages(harness, "p-1") == []

    async def test_ids_are_compared_byte_by_byte(self, harness: StoreHarness) -> None:
        """Neither case nor spaces nor accents are folded."""
        ids = ["p-é", "P-É", "p-e", "p-e "]
        for number, process in enumerate(ids):
            await note(harness, replace(FIRST, correlation_id=process, message_id=f"m-{number}"))

        assert [len(await messages(harness, process)) for process in ids] == [1, 1, 1, 1]

    async def test_what_consumers_made_of_messages_is_told(self, harness: StoreHarness) -> None:
        """Of all consumers that are known but those that watch; the last step counts."""
        await enlist(harness, RESERVE, OTHER, f"shop/{TRACKER}")
        inbox, run = harness.inbox, harness.source.run
        await run(inbox.record(RESERVE, ["m-1"]))
        await run(inbox.record(f"shop/{TRACKER}", ["m-1"]))
        await put_aside(harness, RESERVE, make_message("m-2"))
        await bury(harness, burial(make_message("m-3")), consumer=RESERVE)
        await run(inbox.record(OTHER, ["m-3"]))

        found = await run(harness.flows.journal.handlings(["m-1", "m-2", "m-3", "m-4"]))

        assert [(one.consumer, one.message_id, one.state, one.attempts) for one in found] == [
            (OTHER, "m-3", HandlingState.HANDLED, 0),
            (RESERVE, "m-1", HandlingState.HANDLED, 0),
            (RESERVE, "m-2", HandlingState.WAITING, 3),
            (RESERVE, "m-3", HandlingState.DEAD, 2),
        ]

    async def test_what_waits_and_is_dead_of_a_process_is_found(self, harness: StoreHarness) -> None:
        """By what stands in its headers, in the consumers that are named; signs of a pattern mean themselves."""
        process = 'p%_/"1'
        await put_aside(harness, RESERVE, of_process("m-1", process))
        await bury(harness, burial(of_process("m-2", process)), consumer=RESERVE)
        await bury(harness, burial(of_process("m-3", 'pxx/"1')), consumer=RESERVE)
        await bury(harness, burial(of_process("m-4", process)), consumer=OTHER)

        found = await harness.source.run(harness.flows.journal.put_aside(process, [RESERVE], limit=9))

        assert [(message.message_id, handling.state) for message, handling in found] == [
            ("m-1", HandlingState.WAITING),
            ("m-2", HandlingState.DEAD),
        ]
        assert all(message.causation_id == "cause" for message, _ in found)

    async def test_what_was_seen_long_ago_is_removed_in_batches(self, harness: StoreHarness) -> None:
        """The rest stays."""
        await note(harness, *(replace(FIRST, message_id=f"m-{number}") for number in range(5)))
        purge, run = harness.flows.journal.purge, harness.source.run

        assert await run(purge(LONG, limit=9)) == 0
        assert [await run(purge(ANY_AGE, limit=2)) for _ in range(4)] == [2, 2, 1, 0]
        assert await messages(harness, "p-1") == []


class FlowParticipantsContract:
    """What every ``FlowParticipants`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_participants_are_told_by_name(self, harness: StoreHarness) -> None:
        """Of every service, with all that is known of them."""
        charge = Participant(consumer="payment/charge", hears=(PLACED,), publishes=(CHARGED,))
        route = Participant(
            consumer="shop/route",
            hears=(PLACED,),
            publishes=(Passage("order.placed", "queue:express"),),
            forwards=True,
            may_be_silent=True,
            is_open=True,
        )
        participants, run = harness.flows.participants, harness.source.run
        await run(participants.enlist("shop", [route]))
        await run(participants.enlist("payment", [charge]))

        assert list(await run(participants.known())) == [charge, route]

    async def test_those_that_a_service_has_no_longer_are_forgotten(self, harness: StoreHarness) -> None:
        """Those of others are not; those that hear something else now are told so."""
        one, other = (Participant(consumer=f"shop/{name}", hears=(PLACED,)) for name in ("one", "other"))
        stays = Participant(consumer="payment/charge", hears=(PLACED,))
        participants, run = harness.flows.participants, harness.source.run
        await run(participants.enlist("shop", [one, other]))
        await run(participants.enlist("payment", [stays]))

        await run(participants.enlist("shop", [changed := replace(one, hears=(CHARGED,))]))

        assert list(await run(participants.known())) == [stays, changed]
        await run(participants.enlist("shop", []))
        assert list(await run(participants.known())) == [stays]


async def note(harness: StoreHarness, *messages: SeenMessage) -> None:
    """Record what was seen, one after the other."""
    for one in messages:
        await harness.source.run(harness.flows.journal.note([one]))


async def messages(harness: StoreHarness, *processes: str) -> list[SeenMessage]:
    """Read what was seen."""
    return list(await harness.source.run(harness.flows.journal.messages(processes)))


def of_process(identity: str, process: str) -> Message:
    """Make a message of a process."""
    message = make_message(identity, identity)
    headers = {**message.headers, names.CORRELATION_ID: process, names.CAUSATION_ID: "cause"}
    return msgspec.structs.replace(message, headers=headers)


async def enlist(harness: StoreHarness, *consumers: str) -> None:
    """Make consumers known, of a service each."""
    for consumer in consumers:
        subscription = Subscription(consumer=consumer, channels=("topic:order",))
        await harness.source.run(harness.consumers.enlist(consumer, [subscription]))


async def put_aside(harness: StoreHarness, consumer: str, message: Message) -> None:
    """Have a message wait in a consumer's holding."""
    key = f"m:{message.id}"
    waiting = HeldMessage(hold_key=key, message=message, state=HeldState.RETRYING, attempts=3)
    await harness.source.run(harness.holding.hold(consumer, [Hold(hold_key=key)]))
    await harness.source.run(harness.holding.append(consumer, [waiting]))
