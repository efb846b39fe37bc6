"""The participant guard: what is answered again, what is done anew in a later round, and what is done no more."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from itertools import count

import pytest
from msgspec.structs import replace
from sqlalchemy import make_url, select

from pillarbox.app.system_clock import SystemClock
from pillarbox.consumer.item import Item
from pillarbox.message import Limits, Message
from pillarbox.message.headers import REPLY_TOKEN
from pillarbox.message.return_address import ReturnAddress, answering
from pillarbox.outbox import Outbox, record_of
from pillarbox.relational import RelationalStore
from pillarbox.relational.tables import outbox as outbox_table
from pillarbox.retry import RetryLater
from pillarbox.saga.journal import Direction
from pillarbox.saga.participant import ParticipantGuard
from pillarbox.saga.token import Awaited, read_token, signed
from pillarbox.serialization import JsonCodec
from pillarbox.stores.sqlite import sqlite_store
from tests.unit.saga.stage import DO, UNDO


class Participant:
    """A service that is asked for one step of one saga."""

    def __init__(self, store: RelationalStore) -> None:
        self.store = store
        self._ids = count(1)
        self._outbox = Outbox(
            service="stock",
            store=store.outbox,
            codec=JsonCodec(),
            limits=Limits(),
            new_id=self._new_id,
            now=SystemClock().now,
        )
        self.guard = self.guard_of()

    def guard_of(self, *, passes_on: bool = False) -> ParticipantGuard:
        """The guard of one consumer of the service."""
        kept = self.store.participations
        return ParticipantGuard("stock", store=kept, outbox=self._outbox, new_id=self._new_id, passes_on=passes_on)

    def _new_id(self) -> str:
        return f"m-{next(self._ids)}"

    def command(self, direction: Direction = DO, *, round_: int = 0) -> Item:
        """A command that comes under an id of its own."""
        token = signed(Awaited("shop/fulfil", "o-1", "reserve", direction, 1, round_), "secret")
        there = ReturnAddress(to="queue:shop.replies", key="o-1", types=("stock.reserved",), token=token)
        return Item(message=message(self._new_id(), "stock.reserve", headers=there.headers()), hold_key="k")

    async def look(self, *items: Item) -> None:
        await self.store.run(self.guard.look(items))

    async def answer(self, item: Item, text: str) -> None:
        """Keep what the handler answers to ``item``."""
        headers = item.message.headers
        there = ReturnAddress(to="queue:shop.replies", key="o-1", types=(), token=headers[REPLY_TOKEN])
        given = answering(message(self._new_id(), text, headers={}), there)
        await self.store.run(self.guard.done([item], [record_of(given)]))

    async def say_nothing(self, item: Item) -> None:
        """Keep that the handler of ``item`` has returned no answer."""
        await self.store.run(self.guard.done([item], []))

    async def refuse_and_reserve(self) -> None:
        """Refuse the first round, and do the second."""
        for round_, text in enumerate(("no", "yes")):
            asked = self.command(round_=round_)
            await self.look(asked)
            assert not asked.is_through
            await self.answer(asked, text)

    async def told(self) -> list[tuple[str, int]]:
        """What was answered again, and to which rounds."""
        columns = outbox_table.c
        async with self.store.begin() as tx:
            rows = await tx.connection.execute(select(columns.event_type, columns.headers).order_by(columns.position))
        return [(kind, read_token(json.loads(headers)[REPLY_TOKEN])[0].round) for kind, headers in rows]


def message(message_id: str, kind: str, headers: Mapping[str, str]) -> Message:
    return Message(
        id=message_id,
        type=kind,
        destination="queue:stock",
        key="o-1",
        content_type="application/json",
        headers=headers,
        body=b"{}",
    )


@pytest.fixture
async def participant() -> AsyncIterator[Participant]:
    store = sqlite_store(make_url("sqlite://"))
    await store.migrate()
    yield Participant(store)
    await store.close()


async def test_what_was_answered_is_answered_again_in_its_round(participant: Participant) -> None:
    first, again = participant.command(), participant.command()
    await participant.look(first)
    await participant.answer(first, "no")

    await participant.look(again)

    assert again.is_through
    assert await participant.told() == [("no", 0)]


@pytest.mark.parametrize("direction", [DO, UNDO])
async def test_what_was_done_without_an_answer_is_not_done_again(
    participant: Participant, direction: Direction
) -> None:
    first, again = participant.command(direction), participant.command(direction)
    await participant.look(first)
    await participant.say_nothing(first)

    await participant.look(again)

    assert (first.is_through, again.is_through) == (False, True)
    assert await participant.told() == []


async def test_what_a_route_has_passed_on_is_done_where_it_comes_to(participant: Participant) -> None:
    passed_on, there = participant.command(), participant.command()
    route = participant.guard_of(passes_on=True)
    await participant.store.run(route.look([passed_on]))
    await participant.store.run(route.done([passed_on], [record_of(passed_on.message)]))

    await participant.look(there)

    assert not there.is_through


async def test_what_one_of_several_consumers_has_not_answered_another_one_may(participant: Participant) -> None:
    """A saga may ask by an event, or a route pass its command on to a topic."""
    heard, by_another = participant.command(), participant.command()
    for item in (heard, by_another):
        item.message = replace(item.message, destination="topic:stock")
    await participant.look(heard)
    await participant.say_nothing(heard)

    await participant.look(by_another)

    assert not by_another.is_through


async def test_what_was_refused_is_done_in_a_later_round_once(participant: Participant) -> None:
    await participant.refuse_and_reserve()
    again = participant.command(round_=1)

    await participant.look(again)

    assert again.is_through
    assert await participant.told() == [("yes", 1)]


async def test_what_comes_late_from_an_earlier_round_is_not_done(participant: Participant) -> None:
    """It is given the newest answer, under its own token: the saga has not waited for it any more."""
    await participant.refuse_and_reserve()
    late = participant.command(round_=0)

    await participant.look(late)

    assert late.is_through
    assert await participant.told() == [("yes", 0)]


async def test_two_rounds_that_come_at_once_are_not_done_side_by_side(participant: Participant) -> None:
    later, earlier = participant.command(round_=2), participant.command(round_=1)

    await participant.look(later, earlier)

    assert (later.is_through, later.verdict, earlier.is_through) == (False, None, False)
    assert isinstance(earlier.verdict, RetryLater)
    assert earlier.awaits == (later.message.id,)


@pytest.mark.parametrize("round_", [0, 1, 2])
async def test_after_its_undo_nothing_is_done_in_any_round(participant: Participant, round_: int) -> None:
    refused, undo, late = participant.command(), participant.command(UNDO), participant.command(round_=round_)
    await participant.look(refused)
    await participant.answer(refused, "no")
    await participant.look(undo)
    await participant.answer(undo, "undone")

    await participant.look(late)

    assert late.is_through
    assert await participant.told() == []


async def test_the_undo_of_what_was_done_in_a_later_round_is_done_once(participant: Participant) -> None:
    await participant.refuse_and_reserve()
    undo, again = participant.command(UNDO), participant.command(UNDO)

    await participant.look(undo)
    await participant.answer(undo, "undone")
    await participant.look(again)

    assert (undo.is_through, again.is_through) == (False, True)
    assert await participant.told() == [("undone", 0)]
