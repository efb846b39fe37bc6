"""A handler that is cancelled by something it awaited has failed; the loop that called it goes on."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Retry
from pillarbox.testing import Harness
from tests.integration.boxes import OrderPlaced, create_tables, note, noted


@pytest.mark.parametrize("with_transaction", [False, True])
async def test_it_counts_as_an_attempt_and_the_messages_behind_it_are_handled(with_transaction: bool) -> None:
    box = Pillarbox("shop", store="memory://")
    done: list[str] = []

    async def work(order: OrderPlaced) -> None:
        if order.order_id == "bad":
            raise asyncio.CancelledError
        done.append(order.order_id)

    if with_transaction:

        @box.on(OrderPlaced, name="handle", retry=Retry(attempts=2))
        async def in_transaction(order: OrderPlaced, tx: AsyncConnection) -> None:
            await note(tx, order.order_id)
            await work(order)
    else:

        @box.on(OrderPlaced, name="handle", retry=Retry(attempts=2))
        async def outside(order: OrderPlaced) -> None:
            await work(order)

    async with Harness(box) as harness:
        await create_tables(harness.box)
        for name in ("bad", "good", "better"):
            await harness.publish(OrderPlaced(name))
        await harness.until_quiet()

        assert set(done) == {"good", "better"}
        (letter,) = harness.dead_letters
        assert (letter.message.key, letter.attempts, letter.reason) == ("bad", 2, "exhausted")
        if with_transaction:
            assert sorted(await noted(harness.box)) == ["better", "good"]
