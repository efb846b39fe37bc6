"""The ways in which orders are fulfilled: who takes part, how an order begins, and where mischief may strike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Handlers, Pillarbox, Saga
from pillarbox.demo.messages import OrderPlaced
from pillarbox.demo.mischief import PLACES, SAGA_PLACES, Fault
from pillarbox.demo.services import fulfilment, inventory, notification, orders, payment, shipping

SagaKind: TypeAlias = Literal["choreographed", "orchestrated"]


class Begin(Protocol):
    """What begins the fulfilment of an order."""

    async def __call__(self, box: Pillarbox, order: OrderPlaced, *, tx: AsyncConnection) -> None:
        """Begin when ``tx`` commits."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Production:
    """One way of fulfilling orders.

    Attributes:
        services: the handlers of the services that take part.
        saga: what drives them; ``None`` where each reacts to the others.
        begin: begins an order.
        publishes_placed: whether an ``OrderPlaced`` is published then.
        places: where mischief may strike.
        all_end: whether every order is to end as a saga does: fulfilled, or undone to the last cent.
    """

    services: Sequence[Handlers]
    saga: Saga[fulfilment.Fulfilment] | None = None
    begin: Begin
    publishes_placed: bool = True
    places: Mapping[Fault, Sequence[str]]
    all_end: bool = False


REACTING = (
    orders.handlers,
    payment.handlers,
    inventory.handlers,
    shipping.handlers,
    notification.handlers,
)
FULFILMENT = Production(services=REACTING, begin=orders.place, places=PLACES)
PRODUCTIONS: Mapping[str, Production] = {
    "choreographed": Production(
        services=REACTING,
        begin=orders.place,
        places={fault: struck for fault, struck in PLACES.items() if fault is not Fault.POISON},
        all_end=True,
    ),
    "orchestrated": Production(
        services=(payment.asked, inventory.asked, shipping.asked, notification.handlers),
        saga=fulfilment.fulfilment,
        begin=fulfilment.begin,
        publishes_placed=False,
        places=SAGA_PLACES,
        all_end=True,
    ),
}


def production_of(saga: str | None) -> Production:
    """Return how the demo goes with ``--saga``, or without it."""
    return FULFILMENT if saga is None else PRODUCTIONS[saga]
