"""Work that is cancelled at any of its awaits loses nothing, repeats nothing and leaves nothing open."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Connection, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox
from pillarbox.channel import Subscription
from pillarbox.deadletter import Burial, DeadLetterFilter, DeadLetterState
from pillarbox.relational.tables import outbox
from tests import effort
from tests.fault.story import SERVICE, TOPIC, Entered, effects, ledger
from tests.simulation.bank import (
    ACCOUNT,
    CONSUMER,
    Bank,
    Days,
    Posted,
    bury_the_living,
    empty,
    entry,
    judged,
    look,
)
from tests.simulation.cancelling import is_cancelled_at, nothing_is_left_open, pool_is_whole

if TYPE_CHECKING:
    from random import Random

    from pillarbox.relational import RelationalStore

ANY = DeadLetterFilter(state=None)
MESSAGES = [entry(1), entry(2), entry(1, "account-2"), entry(1), entry(3)]
"""One of them comes twice."""
DIFFERENT = [MESSAGES[0], MESSAGES[1], MESSAGES[2], MESSAGES[4]]
ENTERED = [Entered(ACCOUNT, number, f"token-{number}") for number in range(3)]

every_store = pytest.mark.parametrize("store", ["asyncpg", "psycopg", "mariadb", "sqlite"], indirect=True)

Work = Callable[[], Coroutine[Any, Any, object]]


async def cancel_everywhere(
    store: RelationalStore,
    rng: Random,
    *,
    begin: Callable[[], Awaitable[Work]],
    after: Callable[[], Awaitable[None]],
) -> int:
    """Cancel what ``begin`` returns at each await in turn, and look ``after`` each; return how many there were.

    By default at every fifth, from one that the dice choose.
    """
    stride = effort.of(1, 5)
    number = 1 + rng.randrange(stride)
    while True:
        work = await begin()
        is_cancelled = await is_cancelled_at(number, work())
        try:
            await nothing_is_left_open(store)
            await after()
        except AssertionError as error:
            raise AssertionError(f"cancelled at await {number}: {error}") from error
        if not is_cancelled:
            await pool_is_whole(store)
            return number
        number += stride


@every_store
async def test_a_publisher_cancelled_at_any_await_publishes_with_its_writes_or_not_at_all(
    store: RelationalStore, rng: Random
) -> None:
    box = Pillarbox(SERVICE, store=store)

    async def begin() -> Work:
        await empty(store)
        async with store.begin() as transaction:
            await transaction.connection.execute(ledger.delete())
        return work

    async def work() -> None:
        async with box.transaction() as tx:
            rows = [{"token": one.token, "account": one.account, "seq": one.seq} for one in ENTERED]
            await tx.execute(insert(ledger), rows)
            await box.publish_all(ENTERED, tx=tx)

    async def after() -> None:
        assert await count(store, ledger) == await count(store, outbox)

    awaits = await cancel_everywhere(store, rng, begin=begin, after=after)

    assert await count(store, outbox) == len(ENTERED)
    print(f"{awaits} awaits")


async def count(store: RelationalStore, table: Any) -> int:
    async with store.begin() as transaction:
        return int(await transaction.connection.scalar(select(func.count()).select_from(table)))


def in_a_thread(entered: Entered, tx: Connection) -> Posted:
    tx.execute(insert(effects), {"consumer": "post", "token": entered.token, "account": entered.account})
    return Posted(entered.account, entered.token)


async def in_the_loop(entered: Entered, tx: AsyncConnection) -> Posted:
    row = {"consumer": "post", "token": entered.token, "account": entered.account}
    await tx.execute(insert(effects), row)
    return Posted(entered.account, entered.token)


@pytest.mark.parametrize("handler", [in_the_loop, in_a_thread])
@every_store
async def test_a_consumer_cancelled_at_any_await_loses_and_repeats_nothing(
    store: RelationalStore, handler: Callable[..., Any], rng: Random
) -> None:
    await store.run(store.queue.subscribe(Subscription(consumer=CONSUMER, channels=(TOPIC,))))

    async def begin() -> Work:
        await empty(store)
        async with store.begin() as transaction:
            await transaction.run(store.queue.enqueue(MESSAGES))
        bank = Bank(store, days=Days(), handler=handler)
        await bank.membership.round()
        return bank.receive

    async def after() -> None:
        found = await look(store)
        assert {one.id: found.places_of(one) for one in DIFFERENT} == {one.id: 1 for one in DIFFERENT}
        assert sorted(found.with_effect) == sorted(found.processed)
        assert found.published == len(found.processed)
        await bury_the_living(store)
        bank = Bank(store, days=Days(), handler=handler)
        await bank.membership.round()
        while await bank.receive() or await bank.drain():
            pass
        found = await look(store)
        assert (found.queued, found.held, found.dead, found.open_holds) == (frozenset(), frozenset(), frozenset(), 0)
        assert found.published == len(DIFFERENT)
        (await judged(store, DIFFERENT)).assert_sound()

    awaits = await cancel_everywhere(store, rng, begin=begin, after=after)

    print(f"{awaits} awaits")


@every_store
async def test_a_replay_cancelled_at_any_await_leaves_the_letter_dead_or_has_it_replayed(
    store: RelationalStore, rng: Random
) -> None:
    box = Pillarbox(SERVICE, store=store)
    dead = Burial(
        hold_key=f"k:{ACCOUNT}",
        message=entry(1),
        reason="permanent",
        attempts=1,
        history=(),
        stack="",
        fingerprint="cause",
    )

    async def begin() -> Work:
        await empty(store)
        await store.run(store.dead_letters.bury(CONSUMER, [dead]))
        (letter,) = await box.dead_letters.list()
        return lambda: box.dead_letters.replay(letter.id, by="me")

    async def after() -> None:
        letters = await box.dead_letters.list(ANY)
        is_replaying = letters[0].state is DeadLetterState.REPLAYING
        assert bool((await look(store)).held) is is_replaying

    awaits = await cancel_everywhere(store, rng, begin=begin, after=after)

    print(f"{awaits} awaits")
