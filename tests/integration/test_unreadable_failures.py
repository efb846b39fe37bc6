"""An exception that cannot be read is a failure like every other, of its own type."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pytest
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Retry, Saga
from pillarbox.errors.reading import UNREADABLE
from pillarbox.testing import Harness
from tests.integration.boxes import OrderPlaced
from tests.waiting import wait_until

TWICE = Retry(attempts=2)
PATIENCE = timedelta(seconds=10)


class WithoutTextError(Exception):
    """Its text cannot be read."""

    def __str__(self) -> str:
        raise KeyError("text")


class WithoutAttributesError(Exception):
    """What may be asked of it raises."""

    @property
    def retry_after(self) -> timedelta:
        raise KeyError("retry_after")

    @property
    def response(self) -> object:
        raise KeyError("response")

    @property
    def __notes__(self) -> list[str]:
        raise KeyError("notes")


class WithHeadersError(Exception):
    """Its headers cannot be gone through."""

    status = 429

    @property
    def headers(self) -> object:
        class Headers:
            def items(self) -> object:
                raise KeyError("items")

        return Headers()


@dataclass
class Order:
    order_id: str


@pytest.mark.parametrize("kind", [WithoutTextError, WithoutAttributesError, WithHeadersError])
@pytest.mark.parametrize("shape", ["outside", "plain", "transaction", "plain transaction"])
async def test_it_counts_as_an_attempt_of_its_own_type(shape: str, kind: type[Exception]) -> None:
    box = Pillarbox("shop", store="memory://")
    done: list[str] = []

    def work(order: OrderPlaced) -> None:
        if order.order_id == "bad":
            raise kind("said")
        done.append(order.order_id)

    if shape == "outside":

        @box.on(OrderPlaced, name="handle", retry=TWICE)
        async def outside(order: OrderPlaced) -> None:
            work(order)
    elif shape == "plain":

        @box.on(OrderPlaced, name="handle", retry=TWICE)
        def plain(order: OrderPlaced) -> None:
            work(order)
    elif shape == "transaction":

        @box.on(OrderPlaced, name="handle", retry=TWICE)
        async def in_transaction(order: OrderPlaced, tx: AsyncConnection) -> None:
            work(order)
    else:

        @box.on(OrderPlaced, name="handle", retry=TWICE)
        def in_thread(order: OrderPlaced, tx: Connection) -> None:
            work(order)

    async with Harness(box) as harness:
        for name in ("bad", "good"):
            await harness.publish(OrderPlaced(name))
        await harness.until_quiet(patience=PATIENCE)

        assert done == ["good"]
        (letter,) = harness.dead_letters
        assert (letter.attempts, letter.reason) == (2, "exhausted")
        assert [(one.attempt, one.error_type) for one in letter.history] == [(1, kind.__name__), (2, kind.__name__)]
        assert {one.error for one in letter.history} == {UNREADABLE if kind is WithoutTextError else "said"}
        assert kind.__name__ in letter.stack


@pytest.mark.parametrize("kind", [WithoutTextError, WithoutAttributesError])
async def test_a_step_that_raises_it_has_failed(kind: type[Exception]) -> None:
    box, fulfil = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order)

    @fulfil.step(retry=TWICE)
    async def pay(state: Order) -> None:
        raise kind("said")

    box.include(fulfil)
    async with box, box.running():
        async with box.transaction() as tx:
            await box.sagas.start(fulfil, Order("o-1"), saga_id="o-1", tx=tx)

        async def has_ended() -> bool:
            return (await box.sagas.get("o-1")).summary.status.value == "compensated"

        await wait_until(has_ended, PATIENCE)
        journal = (await box.sagas.get("o-1")).journal

    assert kind.__name__ in journal
