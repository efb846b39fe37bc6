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
