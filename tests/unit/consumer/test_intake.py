"""What a channel's messages are put behind, on a store in memory."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from pillarbox.consumer.intake import Burials, ChannelIntake
from pillarbox.deadletter.redaction import nothing_redacted
from pillarbox.holding import Hold, HoldState
from pillarbox.retry import RetryLater
from pillarbox.stores.sqlite import sqlite_store
from tests.unit.consumer.scripted import CONSUMER, item

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pillarbox.relational import RelationalStore

LONG = timedelta(minutes=1)


@pytest.fixture
async def store() -> AsyncIterator[RelationalStore]:
    """A store in memory."""
    store = sqlite_store(make_url("sqlite://"))
    await store.migrate()
    yield store
    await store.close()


def intake_of(store: RelationalStore) -> ChannelIntake:
    """What a channel's messages go through."""
    burials = Burials(
        CONSUMER, dead_letters=store.dead_letters, holding=store.holding, blocks="key", redact=nothing_redacted
    )
    return ChannelIntake(CONSUMER, holding=store.holding, burials=burials, accepts=None)


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
