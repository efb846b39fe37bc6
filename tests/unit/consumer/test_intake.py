"""What a channel's messages are put behind, on a store in memory."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from pillarbox.app.controlling import ports_of
from pillarbox.consumer.intake import Burials, ChannelIntake, HeldIntake
from pillarbox.deadletter.redaction import nothing_redacted
from pillarbox.errors import LeaseLostError
from pillarbox.holding import Hold, HoldState, own_hold_key
from pillarbox.retry import RetryLater
from pillarbox.stores.sqlite import sqlite_store
from tests.unit.consumer.scripted import CONSUMER, ids, item

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pillarbox.consumer.item import Item
    from pillarbox.relational import RelationalStore

LONG = timedelta(minutes=1)


@pytest.fixture
async def store() -> AsyncIterator[RelationalStore]:
    """A store in memory."""
    store = sqlite_store(make_url("sqlite://"))
    await store.migrate()
    yield store
    await store.close()


def intake_of(store: RelationalStore, *, max_held: int | None = None) -> ChannelIntake:
    """What a channel's messages go through."""
    burials = Burials(
        CONSUMER, dead_letters=store.dead_letters, holding=store.holding, blocks="key", redact=nothing_redacted
    )
    return ChannelIntake(CONSUMER, holding=store.holding, burials=burials, accepts=None, max_held=max_held)


async def leased(store: RelationalStore, *items: Item) -> HeldIntake:
    """What held messages go through that are leased."""
    channel = intake_of(store)
    await store.run(channel.put_behind(items))
    await store.run(store.holding.lease_due(CONSUMER, token="t", limit=100, ttl=LONG))
    burials = Burials(
        CONSUMER, dead_letters=store.dead_letters, holding=store.holding, blocks="key", redact=nothing_redacted
    )
    return HeldIntake(CONSUMER, held=store.holding, dead_letters=store.dead_letters, burials=burials, token="t")


async def drained(store: RelationalStore) -> list[str]:
    """The ids of all that can be drained now."""
    await store.run(store.holding.lease_due(CONSUMER, token="t", limit=100, ttl=LONG))
    heads = await store.run(store.holding.heads(CONSUMER, token="t", per_key=100))
    return [one.message.id for one in heads]


async def test_what_is_put_behind_a_hold_that_has_ended_is_drained(store: RelationalStore) -> None:
    """Its head may be handled by now, in another transaction than the one that put it aside."""
    await store.run(intake_of(store).put_behind([item("m2")]))

    assert await drained(store) == ["m2"]


async def test_what_is_put_behind_a_message_that_waits_does_not_make_it_due(store: RelationalStore) -> None:
    head = item("m1")
    head.verdict = RetryLater(LONG)
    await store.run(intake_of(store).retry_later([head]))
    await store.run(intake_of(store).put_behind([item("m2")]))

    assert await store.run(store.holding.lease_due(CONSUMER, token="t", limit=100, ttl=LONG)) == 0


async def test_a_retry_does_not_end_the_hold_of_a_dead_letter(store: RelationalStore) -> None:
    """Somebody may have blocked the key since the run looked at its holds."""
    again = item("m1")
    again.verdict = RetryLater(timedelta(0))
    await store.run(store.holding.hold(CONSUMER, [Hold(hold_key=again.hold_key, state=HoldState.BLOCKED)]))
    await store.run(intake_of(store).retry_later([again]))

    state = await store.run(store.holding.state(CONSUMER))

    assert (state.keys, state.blocked, state.messages) == (1, 1, 1)
    assert await drained(store) == []


async def held_by(store: RelationalStore, key: str = "k") -> None:
    """Hold a key without a message behind it, as a dead letter does."""
    await store.run(store.holding.hold(CONSUMER, [Hold(hold_key=f"k:{key}", state=HoldState.BLOCKED)]))


async def held_messages(store: RelationalStore) -> int:
    """How many messages are held."""
    return (await store.run(store.holding.state(CONSUMER))).messages


async def test_what_comes_for_a_full_key_is_given_back_and_nothing_else_is(store: RelationalStore) -> None:
    intake = intake_of(store, max_held=3)
    await held_by(store)
    await held_by(store, "half")
    first = [*(item(f"m{number}") for number in range(1, 4)), item("h1", key="half")]
    await store.run(intake.admit(first))
    more = [item("m4"), item("n1", key="free"), item("m5"), item("h2", key="half"), item("u1", key=None)]

    admitted = await store.run(intake.admit(more))

    assert ids(admitted) == ["n1", "u1"]
    assert ids([one for one in more if one.returned]) == ["m4", "m5"]
    assert await held_messages(store) == 5
    assert [one for one in first if one.returned] == []


async def test_a_run_that_finds_room_is_held_as_a_whole(store: RelationalStore) -> None:
    """So a key holds its limit and less than one run more: the later ones of a run are not given back alone."""
    intake = intake_of(store, max_held=3)
    await held_by(store)
    await store.run(intake.admit([item("m1"), item("m2")]))
    run = [item(f"m{number}") for number in range(3, 8)]

    await store.run(intake.admit(run))

    assert [one for one in run if one.returned] == []
    assert await held_messages(store) == 7


async def test_nothing_is_given_back_where_there_is_no_limit(store: RelationalStore) -> None:
    await held_by(store)
    for number in range(5):
        await store.run(intake_of(store).admit([item(f"m{number}")]))

    assert await held_messages(store) == 5


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_late_duplicate_of_a_dead_message_is_put_behind_it_whatever_the_limit(
    store: RelationalStore, *, ordered: bool
) -> None:
    """There is one of it at most, whose hold holds nothing else."""
    intake = intake_of(store, max_held=1)
    duplicate = item("m1", ordered=ordered)
    await store.run(store.holding.hold(CONSUMER, [Hold(hold_key=own_hold_key("m1"), state=HoldState.BLOCKED)]))

    for _ in range(2):
        assert await store.run(intake.admit([duplicate])) == []

    assert (duplicate.returned, await held_messages(store)) == (False, 1)


async def test_a_message_that_was_given_back_is_held_when_there_is_room(store: RelationalStore) -> None:
    """Also within one batch, whose transaction may be run again."""
    intake = intake_of(store, max_held=1)
    await held_by(store)
    await store.run(intake.admit([item("m1")]))
    late = item("m2")
    await store.run(intake.admit([late]))
    was_returned, was_told = late.returned, late.notice is not None
    await store.run(store.holding.remove(CONSUMER, ["m1"]))

    await store.run(intake.admit([late]))

    assert (was_returned, was_told, late.returned, late.notice) == (True, True, False, None)
    assert await held_messages(store) == 1


async def test_retries_and_what_is_behind_them_are_held_though_the_key_is_full(store: RelationalStore) -> None:
    """They were admitted before it was held; they are no more than a run."""
    intake = intake_of(store, max_held=1)
    head = item("m1")
    head.verdict = RetryLater(LONG)
    await store.run(intake.retry_later([head]))

    await store.run(intake.put_behind([item("m2"), item("m3")]))

    assert await held_messages(store) == 3


async def test_a_hold_that_was_taken_away_costs_the_run_nothing_where_it_changed_nothing_behind_it(
    store: RelationalStore,
) -> None:
    """An operator has discarded the letter that the key waits for, while the handler of another key was at work."""
    behind, handled = item("a2", key="a"), item("b1", key="b")
    intake = await leased(store, behind, handled)
    await store.run(ports_of(store).holds.take_out(CONSUMER, behind.hold_key, []))

    await store.run(intake.accept([behind, handled], [handled]))

    assert await held_messages(store) == 1


@pytest.mark.parametrize("outcome", ["done", "retried"])
async def test_a_hold_that_was_taken_away_takes_what_the_run_did_under_it(store: RelationalStore, outcome: str) -> None:
    one = item("a1", key="a")
    intake = await leased(store, one)
    await store.run(ports_of(store).holds.take_out(CONSUMER, one.hold_key, []))
    if outcome == "retried":
        one.verdict = RetryLater(LONG)

    with pytest.raises(LeaseLostError):
        await store.run(intake.accept([one], [one] if outcome == "done" else []))
