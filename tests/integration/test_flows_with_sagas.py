"""A flow in which a saga takes part: it hears what starts it, and nothing is taken to be missing of it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Saga
from pillarbox.observe import FlowStuck
from tests.integration.choreography import (
    OrderPlaced,
    PaymentCharged,
    declare,
    has_seen,
    let_time_pass,
    make_service,
    place,
)


@dataclass
class Payment:
    """What the saga knows."""

    order_id: str


async def test_a_saga_that_starts_with_an_event_of_a_flow_is_a_participant_that_does_not_say_what_it_publishes() -> (
    None
):
    box, happenings = make_service("shop", "memory://")
    declare(box)
    paying = Saga("paying", state=Payment, version=1)

    @paying.step
    async def charge(state: Payment, tx: AsyncConnection) -> None:
        await box.publish(PaymentCharged(state.order_id), tx=tx)

    box.include(paying, started_by=OrderPlaced, state_from=lambda order: Payment(order.order_id))

    async with box.running():
        (process,) = await place(box, "o-1")
        await has_seen(box, OrderPlaced)
        await let_time_pass(box)
        (stuck,) = await happenings.until(FlowStuck)

    (starter,) = (one for one in box.flows.graph().participants if one.consumer.startswith("shop/start-"))
    assert starter.is_open
    assert ("open-consumer", starter.consumer) in {(one.code, one.subject) for one in box.flows.check()}
    assert (stuck.correlation_id, stuck.missing) == (process, ("order.shipped or order.cancelled has not come",))
