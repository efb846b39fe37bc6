"""What starts a saga: it is heard wherever it was said, and nothing that was said is passed over."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pillarbox import Pillarbox, Saga, event
from pillarbox.errors import ConfigurationError


@dataclass
class Order:
    order_id: str


@event("starters.placed", key="order_id")
@dataclass(frozen=True)
class Placed:
    order_id: str


@event("starters.renewed", key="order_id")
@dataclass(frozen=True)
class Renewed:
    order_id: str


def fulfilling() -> tuple[Pillarbox, Saga[Order]]:
    """A box, and a saga that it does not include yet."""
    box, fulfil = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order)

    @fulfil.step
    async def pay(state: Order) -> None: ...

    return box, fulfil


def test_what_starts_a_saga_may_be_said_when_it_is_included_already() -> None:
    box, fulfil = fulfilling()

    box.include(fulfil)
    for _ in range(2):
        box.include(fulfil, started_by=Placed, state_from=lambda placed: Order(placed.order_id))

    assert [one.identity for one in box.consumers()] == ["shop/start-fulfil"]


def test_a_second_message_that_is_to_start_a_saga_is_refused() -> None:
    box, fulfil = fulfilling()
    box.include(fulfil, started_by=Placed, state_from=lambda placed: Order(placed.order_id))

    with pytest.raises(ConfigurationError, match="started by Placed already"):
        box.include(fulfil, started_by=Renewed, state_from=lambda renewed: Order(renewed.order_id))


def test_an_id_from_no_message_is_refused() -> None:
    box, fulfil = fulfilling()

    with pytest.raises(ConfigurationError, match="both or none"):
        box.include(fulfil, id_from=lambda placed: "o-1")  # type: ignore[call-overload]


async def test_a_saga_that_its_box_does_not_include_is_not_started() -> None:
    """Nobody would drive it, and nobody would be told."""
    box, fulfil = fulfilling()
    next_one = Saga("fulfil", state=Order, version=2)

    async with box, box.transaction() as tx:
        with pytest.raises(ConfigurationError, match=r"'fulfil' version 1 would stand still, .* box\.include"):
            await box.sagas.start(fulfil, Order("o-1"), saga_id="o-1", tx=tx)
        box.include(fulfil)
        assert await box.sagas.start(fulfil, Order("o-1"), saga_id="o-1", tx=tx)
        with pytest.raises(ConfigurationError, match="version 2 would stand still"):
            await box.sagas.start(next_one, Order("o-2"), saga_id="o-2", tx=tx)


async def test_a_saga_that_a_newer_version_takes_over_is_started() -> None:
    box, fulfil = fulfilling()
    box.include(Saga("fulfil", state=Order, version=3, upcasters={1: dict, 2: dict}))

    async with box, box.transaction() as tx:
        assert await box.sagas.start(fulfil, Order("o-1"), saga_id="o-1", tx=tx)
