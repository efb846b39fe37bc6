"""A saga of one step that tells of itself."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Saga, SagaContext
from tests.integration.cli_programs.orders import OrderNoted


@dataclass
class Fulfilment:
    order_id: str


fulfil = Saga("fulfil", state=Fulfilment)


@fulfil.step
async def note(state: Fulfilment, tx: AsyncConnection, ctx: SagaContext) -> None:
    ctx.publish(OrderNoted(state.order_id))
