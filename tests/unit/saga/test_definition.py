"""Definitions of sagas: what is refused, and that all of it is reported."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pytest

from pillarbox import Pillarbox, Saga
from pillarbox.errors import ConfigurationError, InvalidSetupError


@dataclass
class Order:
    """A state."""

    order_id: str


def test_what_is_wrong_with_a_definition_is_all_reported() -> None:
    box = Pillarbox("shop", store="memory://")
    saga: Saga[Order] = Saga("fulfilment", state=Order)

    @saga.step(pivot=True)
    async def one(state: Order) -> None: ...

    @saga.step(pivot=True, parallel="x")
    async def two(state: Order, missing: timedelta) -> None: ...

    @saga.step
    async def three(state: Order) -> None: ...

    @saga.step(parallel="x")
    async def four(state: Order) -> None: ...

    async def again(state: Order) -> None: ...

    with pytest.raises(ConfigurationError, match="two steps named 'one'"):
        saga.step(name="one")(again)
    with pytest.raises(ConfigurationError, match="replies="):
        saga.request(replies=())
    with pytest.raises(ConfigurationError, match="dataclass"):
        Saga("x", state=int)
    box.include(saga)
    with pytest.raises(InvalidSetupError) as caught:
        box.consumers()
    text = str(caught.value)
    for part in ("two pivots", "runs beside others", "no neighbours", "nothing provides missing"):
        assert part in text


def test_a_step_is_no_function_of_another_step() -> None:
    first, second = Saga("first", state=Order), Saga("second", state=Order)

    @first.step
    async def one(state: Order) -> None: ...

    with pytest.raises(ConfigurationError, match="'one' is declared as a step already"):
        second.step(one)
