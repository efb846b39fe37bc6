"""A shop that drives sagas, and has a consumer of what they tell."""

from pillarbox import Pillarbox
from tests.integration.cli_programs.orders import OrderNoted
from tests.integration.cli_programs.sagas import fulfil

box = Pillarbox("shop")
box.include(fulfil)


@box.on(OrderNoted, name="hear")
async def hear(noted: OrderNoted) -> None:
    """Hear of it."""
